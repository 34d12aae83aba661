"""What every model must beat: recommendations counted from the training interactions, without training."""

from raserec_jax.baselines.evaluation import BASELINES, baseline_metrics, baseline_ranks

__all__ = ["BASELINES", "baseline_metrics", "baseline_ranks"]
