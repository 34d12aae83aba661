"""From semantic tables on disk to SRA-CL's term of stage 1."""

import jax
import jax.numpy as jnp

from raserec_jax.batching.feeds import TrainingFeed
from raserec_jax.batching.packing import default_row_len, rows_needed
from raserec_jax.batching.windows import Examples, prefix_windows, training_examples
from raserec_jax.data.splits import Split
from raserec_jax.encoding import encode_rows, example_encoder, history_rows
from raserec_jax.models.backbones import Encoder
from raserec_jax.semantic.tables import SemanticTables, pool_examples
from raserec_jax.training.contrast import Term
from raserec_jax.training.semantic_contrast import (
    SemanticConstants,
    SemanticSettings,
    semantic_term,
)


def uses_semantics(config) -> bool:
    """Whether stage 1 reads semantic tables: for SRA-CL's losses, or as the start of the item table."""
    return contrasts_semantics(config) or config.sra_cl.item_start == "texts"


def contrasts_semantics(config) -> bool:
    """Whether stage 1 has SRA-CL's losses."""
    return config.sra_cl.inter_weight > 0 or config.sra_cl.intra_weight > 0


def make_semantic_term(
    config, encoder: Encoder, feed: TrainingFeed, split: Split, tables: SemanticTables
) -> Term:
    """The term that `config.sra_cl` describes.

    Args:
      feed: of the batches; its row length is also that of the neighbours' rows.
      tables: of this split.
    """
    settings = SemanticSettings(**{name: config.sra_cl[name] for name in SemanticSettings._fields})
    pool = pool_examples(split, tables.pool)
    windows = prefix_windows(pool, encoder.max_len)
    constants = SemanticConstants(
        jnp.asarray(tables.neighbor_item_ids),
        jnp.asarray(tables.neighbor_history_ids),
        jnp.asarray(tables.history_vectors),
        jnp.asarray(training_examples(split).user_ids),
        (jnp.asarray(windows.starts), jnp.asarray(windows.lengths)),
    )
    if settings.substitution == "learned":
        constants = constants._replace(item_vectors=jnp.asarray(tables.item_vectors))
    neighbor_rows = 0
    if settings.neighbors == "encode" and settings.inter_weight > 0:
        per_anchor = 1 if settings.positive == "random" else settings.neighbors_per_step
        per_anchor = min(per_anchor or settings.k, settings.k, tables.neighbor_history_ids.shape[1])
        asked = min(settings.anchors or feed.reads, feed.reads) * per_anchor
        neighbor_rows = rows_needed(windows.lengths, asked, feed.row_len, config.seed)
    return semantic_term(
        settings,
        constants,
        dim=config.encoder.dim,
        neighbor_rows=neighbor_rows,
        encode_pool=pool_encoder(config, encoder, split, pool),
    )


def pool_encoder(config, encoder: Encoder, split: Split, pool: Examples):
    """params -> [pool, dim] float32 vectors of the pool's histories, without dropout: one pass over all users."""
    long_history = config.pretrain.batching.long_history
    of_training, examples = example_encoder(encoder, split, long_history=long_history)
    count = len(examples.lengths)
    if len(pool.lengths) == count:
        return of_training
    held_out = Examples(*(field[count:] for field in pool))
    windows = prefix_windows(held_out, encoder.max_len)
    rows = jax.tree.map(jnp.asarray, history_rows(windows, default_row_len(encoder.max_len)))
    item_ids = jnp.asarray(split.log.item_ids)

    def encode(params: dict) -> jax.Array:
        others = encode_rows(encoder, params, item_ids, rows)
        return jnp.concatenate([of_training(params), others])

    return encode
