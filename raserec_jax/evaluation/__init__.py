"""How good recommendations are: ranks counted on the device, metrics, intervals; the best items."""

from raserec_jax.evaluation.evaluator import evaluate_ranks, rank_histories
from raserec_jax.evaluation.histories import seen_items
from raserec_jax.evaluation.metrics import metric_values, metrics_from_ranks, paired_bootstrap
from raserec_jax.evaluation.ranking import Scores, rank_targets
from raserec_jax.evaluation.top_items import top_items

__all__ = [
    "Scores",
    "evaluate_ranks",
    "metric_values",
    "metrics_from_ranks",
    "paired_bootstrap",
    "rank_histories",
    "rank_targets",
    "seen_items",
    "top_items",
]
