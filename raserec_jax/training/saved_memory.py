"""What a finished workdir's memory gives to the queries of its split, as the run had it: nothing is written."""

from collections.abc import Sequence

from jax.sharding import Mesh

from raserec_jax.data.splits import split_log
from raserec_jax.encoding import encode_rows, evaluation_set, for_encoding
from raserec_jax.errors import CheckpointError
from raserec_jax.recommend.loading import Workdir
from raserec_jax.retrieval.retrieved import load_retrieved
from raserec_jax.retrieval.searcher import make_searcher
from raserec_jax.training.remembering import Memory, Part, as_queries


def saved_memory(
    opened: Workdir, parts: Sequence[str], engine: str | None = None, mesh: Mesh | None = None
) -> Memory | None:
    """The banks, and some parts with the neighbours that the run saved; the other parts are None.

    Args:
      opened: the workdir.
      parts: some of "valid", "test_train_bank", "test".
      engine: search with it instead of using the saved neighbours.
      mesh: over which queries are encoded and an exact engine searches; None = one device.

    Returns:
      None if the memory stage is not finished.

    Raises:
      CheckpointError: the memory is damaged, or of other queries.
      ConfigError: an engine that is unknown or absent.
    """
    record = opened.record("memory")
    if record is None:
        return None
    bank = opened.bank()
    # Whatever was appended since is left out.
    train_bank, full_bank = (
        bank.select(slice(record.get(n))) for n in ("entries_train", "entries")
    )
    data = split_log(opened.log, opened.config.data)
    item_ids = for_encoding(mesh, data.log.item_ids)

    def part(name: str) -> Part | None:
        if name not in parts:
            return None
        own = full_bank if name == "test" else train_bank
        queries = evaluation_set(data, name.split("_")[0], max_len=opened.encoder.max_len)
        query = encode_rows(
            opened.encoder, opened.encoder_params, item_ids, queries.rows, mesh=mesh
        )
        path = opened.folder / opened.memory_folder / f"neighbours_{name}.npz"
        found = load_retrieved(path, bank_fingerprint=own.fingerprint)
        if engine is not None:
            top_k = found.ids.shape[1]
            rule = opened.config.memory.eligibility
            searcher = make_searcher(engine, own, eligibility=rule, top_k=top_k, mesh=mesh)
            found = searcher.search(as_queries(query, queries), top_k)
        if len(found.ids) != len(queries.user_ids):
            raise CheckpointError(
                f"{path}: neighbours of {len(found.ids)} queries, expected {len(queries.user_ids)}; "
                "remove it and run launch/train.py with this --workdir again"
            )
        return Part(queries, query, found)

    found = {name: part(name) for name in ("valid", "test_train_bank", "test")}
    return Memory(train_bank, full_bank, None, None, None, **found, report={})
