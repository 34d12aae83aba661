"""Stage 2 with the encoder trained along: its objective, its refreshes and its validation, on a split."""

from collections.abc import Callable

from jax.sharding import Mesh

from raserec_jax import checkpoints
from raserec_jax.batching.feeds import prefix_feed
from raserec_jax.data.splits import Split
from raserec_jax.encoding import encode_rows, example_encoder, for_encoding
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved
from raserec_jax.training.memory_search import search_bank
from raserec_jax.training.objectives import Task
from raserec_jax.training.pretraining import make_encoder, query_ranks
from raserec_jax.training.reading import augmented_query
from raserec_jax.training.remembering import (
    Memory,
    Part,
    as_queries,
    build_bank,
    example_queries,
)
from raserec_jax.training.unfrozen_objective import Neighbours, unfrozen_task


def make_unfrozen_task(
    config,
    reader: MemoryReader,
    encoder_params: dict,
    memory: Memory,
    split: Split,
    mesh: Mesh | None = None,
) -> Task:
    """The objective over {"reader", "encoder"}; bank and neighbours follow as `config.finetune.refresh_epochs` says.

    Args:
      encoder_params: of stage 1, by which `memory` was encoded.
      mesh: over which a refresh encodes and searches.
    """
    encoder, settings = make_encoder(config, split.log.num_items), config.finetune
    batching = config.pretrain.batching
    feed = prefix_feed(
        split,
        max_len=encoder.max_len,
        targets_per_batch=settings.batch_size,
        row_len=batching.row_len,
        seed=config.seed,
    )
    own = neighbours(config, memory.train_bank, memory.example_retrieved)
    of_stage_1 = checkpoints.params_fingerprint(encoder_params)
    long_history = batching.long_history
    encode, examples = example_encoder(encoder, split, long_history=long_history, mesh=mesh)

    def refresh(params: dict) -> Neighbours:
        if checkpoints.params_fingerprint(params) == of_stage_1:
            return own
        query = encode(params)
        bank = build_bank(config, split, query, examples).with_keys_as(config.memory.key_dtype)
        asked = example_queries(query, examples, split)
        found = search_bank(config.memory, bank, asked, config.memory.top_k, mesh)
        return neighbours(config, bank, found)

    return unfrozen_task(
        encoder,
        reader,
        feed,
        own,
        include_padding_class=settings.include_padding_class,
        chunk_items=settings.chunk_items,
        refresh=refresh,
        refresh_epochs=settings.refresh_epochs,
    )


def unfrozen_evaluator(
    config, reader: MemoryReader, memory: Memory, split: Split, mesh: Mesh | None = None
) -> Callable[[dict], dict]:
    """{"reader", "encoder"} -> validation metrics, with a bank by this encoder: what later stages will do."""
    encoder, top_k = make_encoder(config, split.log.num_items), config.memory.top_k
    queries = memory.valid.evaluation
    rows, item_ids = for_encoding(mesh, (queries.rows, split.log.item_ids))
    long_history = config.pretrain.batching.long_history
    encode, examples = example_encoder(encoder, split, long_history=long_history, mesh=mesh)

    def evaluate(params: dict) -> dict:
        own = params["encoder"]
        bank = build_bank(config, split, encode(own), examples)
        bank = bank.with_keys_as(config.memory.key_dtype)
        query = encode_rows(encoder, own, item_ids, rows, mesh=mesh)
        found = search_bank(config.memory, bank, as_queries(query, queries), top_k, mesh)
        part = Part(queries, query, found)
        table = own["item_table"]
        augmented = augmented_query(reader, params["reader"], part, bank, table, top_k, mesh)
        return evaluate_ranks(*query_ranks(Scores(augmented), own, split, queries, mesh))

    return evaluate


def neighbours(config, bank: MemoryBank, retrieved: Retrieved) -> Neighbours:
    """What a step reads of a bank, on the host: the best `config.memory.top_k` retrieved for each example."""
    top_k = min(config.memory.top_k, retrieved.ids.shape[1])
    return Neighbours(bank.keys, bank.target_ids, retrieved.ids[:, :top_k])
