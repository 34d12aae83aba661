"""Search of a bank whose rows lie over all devices of a mesh.

Each device searches its own rows for all queries; then the lists are exchanged, so that each device merges those of
its share of the queries, [queries / devices, devices * k], and the merged ones are sent to all. Neither keys nor
scores ever leave their device: what travels is about 16 k bytes per query and device.

The devices hold the bank in its order and top-k prefers what stands first, so rows of equal score come in the order of
the bank, as on one device.
"""

import functools

import jax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from raserec_jax.mesh import DATA, MEMORY_ROWS, MODEL, REPLICATED
from raserec_jax.retrieval.chunked_search import search_chunks
from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.layout import Shelves
from raserec_jax.retrieval.top_lists import top_of

_ALL = (DATA, MODEL)


@functools.partial(jax.jit, static_argnames=("mesh", "chunk", "k", "rule", "recall"))
def search_parts(
    shelves: Shelves,
    queries: Queries,
    count: int | Array,
    *,
    mesh: Mesh,
    chunk: int,
    k: int,
    rule: str,
    recall: float = 0.0,
) -> tuple[Float[Array, "queries top_k"], Int[Array, "queries top_k"]]:
    """As `search_chunks`, of a bank laid out over `mesh`; the result is on every device.

    Args:
      queries: on every device; a multiple of `chunk` and of the number of devices.
    """

    def of_device(shelves, queries, count):
        found = search_chunks(shelves, queries, count, chunk=chunk, k=k, rule=rule, recall=recall)
        lists = (lax.all_to_all(one, _ALL, 0, 1, tiled=True) for one in found)
        return tuple(lax.all_gather(one, _ALL, tiled=True) for one in top_of(*lists, k))

    # check_vma off: the search's loops begin with lists that are alike everywhere and end with each device's own.
    return jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(MEMORY_ROWS, REPLICATED, REPLICATED),
        out_specs=REPLICATED,
        check_vma=False,
    )(shelves, queries, count)
