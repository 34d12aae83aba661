"""HR, NDCG and MRR from ranks, and the paired bootstrap that compares two models.

Host code: a rank is one integer per user, so NumPy in float64 is exact enough and fast. Ranks are
0-based (0 = the target stands first); how they are counted is `ranking.py`. With one target per
user and a cutoff k:

    HR@k   = 1                  if rank < k else 0      (the papers' Recall@k)
    NDCG@k = 1 / log2(rank + 2) if rank < k else 0      (the ideal DCG is 1)
    MRR@k  = 1 / (rank + 1)     if rank < k else 0
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Int

from raserec_jax.constants import METRIC_CUTOFFS

_NAME = re.compile(r"(HR|NDCG|MRR)@([1-9][0-9]*)")
_BLOCK_CELLS = 2_000_000  # of one block of bootstrap draws: 16 MB of int64


def metric_values(
    ranks: Int[Array | np.ndarray, " users"], metric: str
) -> Float[np.ndarray, " users"]:
    """One metric per user.

    Args:
      ranks: 0-based rank of each user's target.
      metric: "HR@k", "NDCG@k" or "MRR@k" with k >= 1.

    Returns:
      The metric of each user in [0, 1]; float64.

    Raises:
      ValueError: unknown metric, no ranks, or a negative rank.
    """
    found = _NAME.fullmatch(metric)
    if not found:
        raise ValueError(f"metric={metric!r} is unknown; use HR@k, NDCG@k or MRR@k, as in NDCG@10")
    ranks = _checked(ranks)
    kind, cutoff = found.group(1), int(found.group(2))
    if kind == "HR":
        gain = np.ones(ranks.shape)
    elif kind == "NDCG":
        gain = 1.0 / np.log2(ranks + 2.0)
    else:
        gain = 1.0 / (ranks + 1.0)
    return np.where(ranks < cutoff, gain, 0.0)


def metrics_from_ranks(
    ranks: Int[Array | np.ndarray, " users"], cutoffs: Sequence[int] = METRIC_CUTOFFS
) -> dict[str, float]:
    """Mean HR, NDCG and MRR over users at each cutoff.

    Args:
      ranks: 0-based rank of each user's target.
      cutoffs: the k of each metric, >= 1.

    Returns:
      {"HR@1": ..., "HR@5": ..., "NDCG@1": ..., "MRR@50": ...}, plain floats in [0, 1].

    Raises:
      ValueError: no ranks, a negative rank, or a cutoff below 1.
    """
    ranks = _checked(ranks)
    names = [f"{kind}@{cutoff}" for kind in ("HR", "NDCG", "MRR") for cutoff in cutoffs]
    return {name: float(np.mean(metric_values(ranks, name))) for name in names}


def paired_bootstrap(
    ranks_a: Int[Array | np.ndarray, " users"],
    ranks_b: Int[Array | np.ndarray, " same_users"],
    metric: str = "NDCG@10",
    *,
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """What b adds over a: the mean difference over users and its percentile bootstrap interval.

    Both models are judged on the same resampled users (Efron and Tibshirani 1993, chapter 13,
    percentile interval). A metric takes few distinct values, so users are grouped by their
    difference and a resample of N users is one multinomial draw over the groups: the same
    distribution as drawing user by user, in a thousandth of the work.

    Args:
      ranks_a: 0-based ranks of the baseline, one per user.
      ranks_b: 0-based ranks of the other model, same users in the same order.
      metric: as in `metric_values`.
      samples: number of resamples, >= 1.
      seed: of the resampling; equal seeds give equal intervals.
      level: probability that the interval covers, in (0, 1).

    Returns:
      {"mean", "low", "high"}: mean(b) - mean(a) and the two ends of its interval.

    Raises:
      ValueError: the two differ in length, or a value is out of its range.
    """
    if np.shape(ranks_a) != np.shape(ranks_b):
        raise ValueError(
            f"ranks_a has {np.size(ranks_a)} users and ranks_b {np.size(ranks_b)}; a paired "
            "comparison needs the same users in the same order"
        )
    difference = metric_values(ranks_b, metric) - metric_values(ranks_a, metric)
    return bootstrap_mean(difference, samples=samples, seed=seed, level=level)


def bootstrap_mean(
    values: Float[np.ndarray, " queries"],
    *,
    users: Int[np.ndarray, " queries"] | None = None,
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """The mean and its percentile bootstrap interval over users; the rest as in `paired_bootstrap`.

    Args:
      values: one per query, such as the difference of a metric, or of its mean over seeds.
      users: whose query each is, where a user may have several: users are drawn then, each with all of theirs, as
        queries of one user are no independent ones. None: one query per user.

    Raises:
      ValueError: samples below 1, or a level outside (0, 1).
    """
    if samples < 1 or not 0.0 < level < 1.0:
        raise ValueError(f"samples={samples}, level={level}; expected samples >= 1, 0 < level < 1")
    if users is None:
        distinct, counts = np.unique(values, return_counts=True)
        distinct = np.column_stack([distinct, np.ones(len(distinct))])
    else:
        _, place = np.unique(users, return_inverse=True)
        totals = np.column_stack([np.bincount(place, values).round(12), np.bincount(place)])
        distinct, counts = np.unique(totals, axis=0, return_counts=True)
    draw = np.random.default_rng(seed)
    means = np.empty(samples)
    block = max(1, _BLOCK_CELLS // len(distinct))
    for start in range(0, samples, block):
        size = min(block, samples - start)
        drawn = draw.multinomial(counts.sum(), counts / counts.sum(), size=size) @ distinct
        means[start : start + size] = drawn[:, 0] / drawn[:, 1]
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}


def _checked(ranks: Int[Array | np.ndarray, " users"]) -> np.ndarray:
    ranks = np.asarray(ranks)
    if ranks.size == 0:
        raise ValueError("no ranks were given; a metric needs at least one user with a target")
    if ranks.min() < 0:
        row = int(np.argmin(ranks))
        raise ValueError(f"rank {int(ranks[row])} of user row {row} is negative; ranks start at 0")
    return ranks
