"""Cosine neighbour tables for items and histories, by the project's own search; a row never retrieves itself.

A row sees only rows of other groups: with a group per row it is itself that is left out, with a group per user all
histories of that user. The rule is `own_earlier` of `retrieval.eligibility` over histories of equal length, which
leaves exactly "another user's"; so there is no second search, and no [rows, rows] anywhere.
"""

import numpy as np

from raserec_jax.constants import NO_ROW
from raserec_jax.errors import ConfigError
from raserec_jax.progress import Progress
from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.searcher import make_searcher
from raserec_jax.semantic.piece_cache import PieceCache

_QUERIES = 8192  # per piece of work: what a kill costs


def nearest_rows(
    vectors: np.ndarray,
    groups: np.ndarray,
    *,
    queries: int,
    top_k: int,
    engine: str = "exact",
    desc: str = "neighbours",
    pieces: PieceCache | None = None,
    progress=Progress,
) -> np.ndarray:
    """The top_k rows nearest by cosine to each of the first `queries` rows.

    Args:
      vectors: [rows, width] floats; rows of zeros have no neighbours and are nobody's.
      groups: [rows] int; rows of one group do not see each other; `np.arange(rows)` leaves out only a row itself.
      queries: the first so many rows are asked for; all are searched.
      top_k: 1 or more.
      engine: exact (right always), scann (quicker on a CPU beyond some 100,000 rows of the width of a language model,
        a few percent of the neighbours others), or auto.
      desc: what the progress bar says.
      pieces: keeps finished pieces of work, for a run that resumes this one.
      progress: as `progress.Progress`.

    Returns:
      [queries, top_k] int32 row ids, best first, the lower row first on equal cosines; -1 where there are fewer.

    Raises:
      ConfigError: top_k below 1, or an engine that is unknown or not installed.
    """
    if top_k < 1:
        raise ConfigError(f"semantic.top_k={top_k} is too small; ask for at least 1 neighbour")
    found = np.full((queries, top_k), NO_ROW, np.int32)
    real = np.flatnonzero(np.any(vectors != 0, axis=1))
    asked = real[real < queries]
    if not asked.size or len(real) < 2:
        return found
    bank = _bank(np.asarray(vectors[real], np.float32), np.asarray(groups)[real])
    k = min(top_k, bank.rows)
    searcher = None
    with progress(len(asked), desc, "row") as bar:
        for start in range(0, len(asked), _QUERIES):
            part = slice(start, min(start + _QUERIES, len(asked)))
            rows = pieces.read(start) if pieces else None
            if rows is None:
                searcher = searcher or make_searcher(
                    engine, bank, eligibility="own_earlier", top_k=top_k
                )
                result = searcher.search(
                    Queries(bank.keys[part], bank.user_ids[part], bank.lengths[part]), k
                )
                rows = np.asarray(result.ids)
                if pieces:
                    pieces.write(start, rows)
            found[asked[part], :k] = np.where(rows == NO_ROW, NO_ROW, real[rows])
            bar.update(part.stop - part.start)
    return found


def item_neighbors(item_vectors: np.ndarray, top_k: int, **search) -> np.ndarray:
    """[items + 1, top_k] int32, -1 = none: SRA-CL eq. (10); row 0 has none. `search` as `nearest_rows`."""
    rows = len(item_vectors)
    return nearest_rows(
        item_vectors,
        np.arange(rows),
        queries=rows,
        top_k=top_k,
        **{"desc": "item neighbours"} | search,
    )


def history_neighbors(
    history_vectors: np.ndarray,
    user_ids: np.ndarray,
    examples: int,
    top_k: int,
    *,
    own_histories: bool = False,
    **search,
) -> np.ndarray:
    """Neighbours of each training example in the pool: SRA-CL eq. (5).

    Args:
      history_vectors: [pool, width].
      user_ids: [pool] int32, whose history each row is.
      examples: training examples, the first rows of the pool.
      top_k: neighbours of each.
      own_histories: whether other histories of the same user may be neighbours, as in the paper's code. By default
        not: prefixes of one user share most of their text, so the nearest row of nearly every history would be the
        same history with one item more or less, which is no second opinion about it, and whose last item is the
        very next one to be predicted.
      search: as `nearest_rows`.

    Returns:
      [examples, top_k] int32, -1 = none.
    """
    groups = np.arange(len(user_ids)) if own_histories else user_ids
    return nearest_rows(
        history_vectors,
        groups,
        queries=examples,
        top_k=top_k,
        **{"desc": "history neighbours"} | search,
    )


def _bank(vectors: np.ndarray, groups: np.ndarray) -> MemoryBank:
    rows = len(vectors)
    none = np.zeros(rows, np.int32)
    return MemoryBank(vectors, none + 1, groups.astype(np.int32), none)
