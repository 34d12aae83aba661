"""Nearest-neighbour mixing: a reader without training.

    p(item) = (1 - weight) * softmax(query . E)_item + weight * sum_k softmax(cosine_k / temperature) [item followed k]

over the retrieved memories; weight and temperature are chosen on validation. It says what the memory holds before any
parameter is trained, so the trained reader has something to beat; on top of the reader it combines both.
"""

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from raserec_jax.data.splits import Split
from raserec_jax.encoding import EvaluationSet
from raserec_jax.evaluation.evaluator import evaluate_ranks
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.recommend.loading import Mixture
from raserec_jax.recommend.scoring import mixture_mass
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved
from raserec_jax.training.pretraining import query_ranks


def mixed_scores(query, retrieved: Retrieved, bank: MemoryBank, mixture: Mixture) -> Scores:
    """Scores of the mixture; a query without memories keeps its own."""
    top_k = mixture.top_k
    mask = np.asarray(retrieved.mask[:, :top_k])
    mass = mixture_mass(retrieved.scores[:, :top_k], mask, mixture.temperature)
    rows = np.maximum(np.asarray(retrieved.ids[:, :top_k]), 0)
    ids = np.where(mask, bank.target_ids[rows], 0)
    return Scores(query, ids, mass, mixture.weight)


def choose_mixture(
    query,
    retrieved: Retrieved,
    bank: MemoryBank,
    encoder_params: dict,
    split: Split,
    evaluation: EvaluationSet,
    settings,
    *,
    sample: int = 4096,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> tuple[Mixture, dict]:
    """The best mixture of the grid on validation (on at most `sample` users), and its metrics on all of them.

    Args:
      settings: `config.mixing`: top_k, temperatures, weights, metric.
      mesh: as in `rank_targets`.
    """
    count = len(evaluation.user_ids)
    rows = np.sort(np.random.default_rng(seed).permutation(count)[:sample])
    some = EvaluationSet(
        *(None if field is None else field[rows] for field in evaluation[:4]), rows=None
    )
    protocol, metric = settings.metric.split("/")
    part = Retrieved(*(field[rows] for field in retrieved))
    top_k = min(settings.top_k, retrieved.ids.shape[1])
    best, best_value = Mixture(0.0, settings.temperatures[0], top_k), -1.0
    for temperature in settings.temperatures:
        for weight in (0.0, *settings.weights):
            mixture = Mixture(weight, temperature, top_k)
            scores = mixed_scores(query[rows], part, bank, mixture)
            scores = scores._replace(mix=jnp.float32(weight))
            value = evaluate_ranks(*query_ranks(scores, encoder_params, split, some, mesh))[
                protocol
            ][metric]
            if value > best_value:
                best, best_value = mixture, value
    scores = mixed_scores(query, retrieved, bank, best)
    return best, evaluate_ranks(*query_ranks(scores, encoder_params, split, evaluation, mesh))
