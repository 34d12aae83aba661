"""SRA-CL's contrastive term of stage 1: positives from histories and items that mean about the same (eq. 4 to 12).

Two losses. Inter-user: a history against the mixture that the synthesizer makes of its semantic neighbours.
Intra-user: two views of a history in which some items are replaced by semantic neighbours. Neighbour tables and vectors
are constants on the device; views and positives are drawn inside the step. What the published step costs most for, the
encoding of k neighbours for each history, is either done once for each neighbour that the anchors share ("encode"), or
read from vectors of all training histories that are encoded anew before each epoch ("cache").
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from raserec_jax.batching.feeds import Batch, TrainingFeed, example_batch
from raserec_jax.batching.substitution import replaced_places, substitute_items
from raserec_jax.losses import info_nce
from raserec_jax.models.synthesizer import ItemMixer, PositiveSynthesizer
from raserec_jax.training.adapted_vectors import (
    ADAPTER,
    adapt,
    fresh_adapter,
    nearest_candidates,
)
from raserec_jax.training.contrast import Pass, Term, draw_anchors

SYNTHESIZER, MIXER = "synthesizer", "item_mixer"
"""Names of their parameters beside the encoder's during stage 1."""


class SemanticSettings(NamedTuple):
    """What is contrasted, and how; the subtree `sra_cl` of a configuration.

    inter_weight, intra_weight: of the two losses (alpha, beta in the paper); 0 = not computed.
    k: neighbours per history and per item, at most as many as the tables have.
    positive: "synthesized" (paper) or "random", one neighbour drawn uniformly ("without learning").
    neighbors: how neighbours' histories get their vectors: "encode" in the step, with gradient (published), or "cache",
      encoded without dropout before each epoch, no gradient.
    neighbors_per_step: of the k, so many are drawn for each step; 0 = all.
    anchor: "main" (the pass that predicts) or "second" (another dropout pass, published).
    views: 2 substituted views (published), or 1 against the main pass.
    substitution: "random", one neighbour drawn uniformly (paper), or "learned", a mixture of all k (its Table 4).
    substitution_rate: of the views, per place.
    temperature: > 0.  similarity: "dot" (published) or "cos".
    negatives: "both" (2N - 2, the code) or "positives" (N - 1, the paper) of the inter-user loss.
    anchors: histories per step that are contrasted, drawn uniformly; 0 = all of the batch.
    across_users: views of one user are no negatives of each other; False = published.
    attention_dropout, slope: of the synthesizer.
    vectors: "frozen" (paper), or "adapted" by a trained linear map (`adapted_vectors`).
    """

    inter_weight: float = 0.1
    intra_weight: float = 0.1
    k: int = 10
    positive: str = "synthesized"
    neighbors: str = "cache"
    neighbors_per_step: int = 0
    anchor: str = "main"
    views: int = 2
    substitution: str = "random"
    substitution_rate: float = 0.2
    temperature: float = 1.0
    similarity: str = "dot"
    negatives: str = "both"
    anchors: int = 0
    across_users: bool = False
    attention_dropout: float = 0.5
    slope: float = 0.2
    vectors: str = "frozen"


class SemanticConstants(NamedTuple):
    """Tables on the device.

    neighbor_item_ids: [V + 1, k] int32, -1 = none.
    neighbor_history_ids: [examples, k] int32 rows of the pool, the first of which are the training examples; -1 = none.
    history_vectors: [pool, width] float16 or float32, of the texts; one column of zeros if nothing reads them.
    example_users: [examples] int32.
    pool_windows: (starts, lengths), [pool] int32 each, of the pool's histories in the flat item array.
    hidden_cache: [pool, dim] float32 vectors of the pool by an earlier encoder ("cache"), else None.
    item_vectors: [V + 1, width] of the items' texts, for learned substitution; else None.
    candidate_ids: [examples, candidates] what adapted vectors choose `neighbor_history_ids` from; else None.
    """

    neighbor_item_ids: Array
    neighbor_history_ids: Array
    history_vectors: Array
    example_users: Array
    pool_windows: tuple[Array, Array]
    hidden_cache: Array | None = None
    item_vectors: Array | None = None
    candidate_ids: Array | None = None


class _Drawn(NamedTuple):
    """What a step drew: anchors (places in the batch), their examples and validity, their neighbours."""

    anchors: Array
    example_ids: Array
    valid: Array
    neighbor_ids: Array | None
    neighbor_reads: Array | None
    neighbors_valid: Array | None
    first_view: int


def semantic_term(
    settings: SemanticSettings,
    constants: SemanticConstants,
    *,
    dim: int,
    neighbor_rows: int = 0,
    encode_pool: Callable | None = None,
) -> Term:
    """Both losses of SRA-CL as a term of stage 1.

    Args:
      constants: tables; `hidden_cache` may be None, it is filled by `encode_pool`.
      dim: width of the encoder, for the cache and the synthesizer's projection.
      neighbor_rows: packed rows that hold a step's neighbours, for "encode".
      encode_pool: params -> [pool, dim], for "cache".

    Raises:
      ValueError: an unknown choice, "cache" without `encode_pool`, or learned substitution without vectors of items.
    """
    _check(settings, encode_pool, constants.item_vectors)
    cached = settings.neighbors == "cache" and settings.inter_weight > 0
    adapted = settings.vectors == "adapted" and settings.inter_weight > 0
    if adapted:
        found = constants.neighbor_history_ids
        constants = constants._replace(
            candidate_ids=found, neighbor_history_ids=found[:, : settings.k]
        )
    if cached:
        pool = constants.history_vectors.shape[0]
        constants = constants._replace(hidden_cache=jnp.zeros((pool, dim)))
    synthesizer = PositiveSynthesizer(dim, settings.slope, settings.attention_dropout)
    mixer = ItemMixer(dim, settings.slope)

    def view(params, constants: SemanticConstants, batch: Batch, own_places, key) -> Pass:
        """One view of the batch's histories, with some items replaced."""
        of_items, ids = constants.neighbor_item_ids[:, : settings.k], batch.item_ids
        if settings.substitution == "random":
            ids = substitute_items(ids, of_items, settings.substitution_rate, key)
            return Pass(batch._replace(item_ids=ids), *own_places)
        neighbors, table = of_items[ids], params["item_table"]
        known = jnp.sum(neighbors >= 0, axis=2)
        place_key, _ = jax.random.split(key)  # the places that "random" replaces
        replaced = replaced_places(ids, known, settings.substitution_rate, place_key)
        mixed = mixer.apply(
            {"params": params[MIXER]}, constants.item_vectors, ids, neighbors, table
        )
        return Pass(batch, *own_places, jnp.where(replaced[..., None], mixed, table[ids]))

    def views(params, constants: SemanticConstants, feed: TrainingFeed, batch: Batch, key):
        keys = jax.random.split(jax.random.fold_in(key, 101), 4)
        anchors = draw_anchors(batch.weights, settings.anchors, keys[0])
        example_ids, valid = batch.example_ids[anchors], batch.weights[anchors] > 0
        own_places = batch.read_rows[anchors], batch.read_columns[anchors]
        passes, neighbor_ids, neighbor_reads, neighbors_valid = [], None, None, None
        if settings.inter_weight > 0:
            if settings.anchor == "second":
                passes.append(Pass(batch, *own_places))
            neighbor_ids = _draw_neighbors(settings, constants, example_ids, keys[1])
            neighbors_valid = (neighbor_ids >= 0) & valid[:, None]
            if not cached:
                asked = jnp.where(neighbors_valid, neighbor_ids, -1)
                distinct, neighbor_reads = _distinct(asked)
                encoded = example_batch(_pool_feed(feed, constants), distinct, neighbor_rows)
                passes.append(Pass(encoded, encoded.read_rows, encoded.read_columns))
                fits = encoded.weights[neighbor_reads] > 0
                neighbors_valid = neighbors_valid & fits
        first_view = len(passes)
        if settings.intra_weight > 0:
            for view_key in keys[2 : 2 + settings.views]:
                passes.append(view(params, constants, batch, own_places, view_key))
        drawn = (anchors, example_ids, valid, neighbor_ids, neighbor_reads, neighbors_valid)
        return passes, _Drawn(*drawn, first_view)

    def losses(params, constants: SemanticConstants, drawn: _Drawn, main, hidden, key):
        metrics, total = {}, 0.0
        own = main[drawn.anchors]
        users = constants.example_users[drawn.example_ids] if settings.across_users else None
        common = {
            "temperature": settings.temperature,
            "similarity": settings.similarity,
            "owners": None if users is None else (users, users),
        }
        if settings.inter_weight > 0:
            anchor = hidden[0] if settings.anchor == "second" else own
            if cached:
                of_neighbors = constants.hidden_cache[jnp.maximum(drawn.neighbor_ids, 0)]
            else:
                of_neighbors = hidden[drawn.first_view - 1][drawn.neighbor_reads]
            positive, attention = _positives(
                settings, synthesizer, params, constants, drawn, of_neighbors, key
            )
            has_neighbors = jnp.any(drawn.neighbors_valid, axis=1)
            inter = info_nce(
                anchor,
                positive,
                valid=drawn.valid & has_neighbors,
                two_sided=settings.negatives == "both",
                **common,
            )
            total = total + settings.inter_weight * inter
            metrics["inter_user_loss"] = inter
            metrics["neighbor_share"] = _mean_where(jnp.mean(drawn.neighbors_valid, 1), drawn.valid)
            metrics["attention_entropy"] = _mean_where(_entropy(attention), has_neighbors)
        if settings.intra_weight > 0:
            seen = [*hidden[drawn.first_view :], own]
            intra = info_nce(seen[0], seen[1], valid=drawn.valid, **common)
            total = total + settings.intra_weight * intra
            metrics["intra_user_loss"] = intra
        return total, metrics

    def init(key) -> dict:
        found = {}
        if settings.inter_weight > 0 and settings.positive == "synthesized":
            width = constants.history_vectors.shape[1]
            variables = synthesizer.init(
                key, jnp.zeros((1, width)), jnp.zeros((1, 1, width)), jnp.zeros((1, 1, dim))
            )
            found[SYNTHESIZER] = variables["params"]
            if adapted:
                found[ADAPTER] = fresh_adapter(width)
        if settings.intra_weight > 0 and settings.substitution == "learned":
            place = jnp.zeros((1, 1), jnp.int32)
            variables = mixer.init(
                jax.random.fold_in(key, 1),
                jnp.zeros((1, constants.item_vectors.shape[1])),
                place,
                place[..., None],
                jnp.zeros((1, dim)),
            )
            found[MIXER] = variables["params"]
        return found

    def refresh(params, constants: SemanticConstants) -> SemanticConstants:
        if cached:
            constants = constants._replace(hidden_cache=encode_pool(params))
        if adapted:
            chosen = nearest_candidates(
                params[ADAPTER], constants.history_vectors, constants.candidate_ids, k=settings.k
            )
            constants = constants._replace(neighbor_history_ids=chosen)
        return constants

    return Term(constants, views, losses, init, refresh if cached or adapted else None)


def _pool_feed(feed: TrainingFeed, constants: SemanticConstants) -> TrainingFeed:
    """The feed with the pool's windows in place of the training examples'; nobody reads targets of these."""
    starts, lengths = constants.pool_windows
    return feed._replace(
        arrays=feed.arrays._replace(
            starts=starts, lengths=lengths, target_ids=jnp.zeros_like(starts)
        )
    )


def _draw_neighbors(settings, constants: SemanticConstants, example_ids, key) -> Array:
    """[anchors, neighbours] rows of the pool, -1 = none: all k, or some of them drawn for this step."""
    found = constants.neighbor_history_ids[example_ids, : settings.k]
    count = 1 if settings.positive == "random" else settings.neighbors_per_step
    if count == 0 or count >= found.shape[1]:
        return found
    noise = jnp.where(found >= 0, jax.random.uniform(key, found.shape), -1.0)
    columns = jax.lax.top_k(noise, count)[1]
    return jnp.take_along_axis(found, columns, axis=1)


def _distinct(ids: Array) -> tuple[Array, Array]:
    """Each id once, as long an array as `ids` has entries (-1 after the end), and where each entry stands in it."""
    distinct, where = jnp.unique(ids.reshape(-1), size=ids.size, fill_value=-1, return_inverse=True)
    return distinct, where.reshape(ids.shape)


def _positives(settings, synthesizer, params, constants, drawn: _Drawn, of_neighbors, key):
    """h+ of each anchor, and the weights that made it."""
    mask = drawn.neighbors_valid
    if settings.positive == "random":
        return of_neighbors[:, 0], mask.astype(jnp.float32)
    vectors = constants.history_vectors
    own, of_texts = vectors[drawn.example_ids], vectors[jnp.maximum(drawn.neighbor_ids, 0)]
    if settings.vectors == "adapted":
        own, of_texts = (adapt(params[ADAPTER], some) for some in (own, of_texts))
    return synthesizer.apply(
        {"params": params[SYNTHESIZER]},
        own,
        of_texts,
        of_neighbors,
        mask,
        deterministic=False,
        rngs={"dropout": jax.random.fold_in(key, 102)},
    )


def _entropy(attention: Array) -> Array:
    """Of each row's weights, as a share of its greatest value, log(neighbours); 1 for a single neighbour."""
    count = jnp.sum(attention > 0, axis=1)
    logs = jnp.where(attention > 0, jnp.log(jnp.maximum(attention, 1e-30)), 0.0)
    return jnp.where(count > 1, -jnp.sum(attention * logs, 1) / jnp.log(jnp.maximum(count, 2)), 1.0)


def _mean_where(values: Array, chosen: Array) -> Array:
    return jnp.sum(jnp.where(chosen, values, 0.0)) / jnp.maximum(jnp.sum(chosen), 1)


def _check(settings: SemanticSettings, encode_pool, item_vectors) -> None:
    for name, allowed in (
        ("positive", ("synthesized", "random")),
        ("neighbors", ("encode", "cache")),
        ("anchor", ("main", "second")),
        ("views", (1, 2)),
        ("substitution", ("random", "learned")),
        ("similarity", ("dot", "cos")),
        ("negatives", ("both", "positives")),
        ("vectors", ("frozen", "adapted")),
    ):
        if getattr(settings, name) not in allowed:
            raise ValueError(f"sra_cl.{name}={getattr(settings, name)!r} is unknown; use {allowed}")
    if settings.substitution == "learned" and settings.intra_weight > 0 and item_vectors is None:
        raise ValueError("sra_cl.substitution='learned' needs vectors of items")
    if settings.vectors == "adapted" and settings.positive != "synthesized":
        raise ValueError(
            "sra_cl.vectors='adapted' trains through the synthesizer; use positive='synthesized'"
        )
    if settings.neighbors == "cache" and settings.inter_weight > 0 and encode_pool is None:
        raise ValueError("sra_cl.neighbors='cache' needs encode_pool, which makes the vectors")
