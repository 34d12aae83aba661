"""The Optax chain: clipping, Adam, decoupled weight decay, schedule."""

import jax
import optax

from raserec_jax.errors import ConfigError

SCHEDULES = ("constant", "cosine", "linear")


def learning_rate_schedule(
    learning_rate: float, *, schedule: str, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """Linear warm-up to `learning_rate`, then constant, or down to 0 (cosine, linear) at `total_steps`.

    Raises:
      ConfigError: unknown schedule.
    """
    rest = max(total_steps - warmup_steps, 1)
    shapes = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, rest),
        "linear": lambda: optax.linear_schedule(learning_rate, 0.0, rest),
    }
    if schedule not in shapes:
        raise ConfigError(f"optimizer.schedule={schedule!r} is unknown; use one of {SCHEDULES}")
    if warmup_steps <= 0:
        return shapes[schedule]()
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, shapes[schedule]()], [warmup_steps])


def make_optimizer(
    *,
    learning_rate: float,
    schedule: str,
    warmup_steps: int,
    total_steps: int,
    weight_decay: float,
    clip_norm: float,
    b1: float,
    b2: float,
) -> optax.GradientTransformation:
    """Adam with what is switched on around it.

    Args:
      learning_rate: peak rate.
      schedule: "constant", "cosine" or "linear" after `warmup_steps`, over `total_steps`.
      weight_decay: decoupled; 0 = none. Applied to every parameter of rank >= 2.
      clip_norm: global gradient norm; 0 = no clipping.
      b1, b2: Adam's decay rates.
    """
    rate = learning_rate_schedule(
        learning_rate, schedule=schedule, warmup_steps=warmup_steps, total_steps=total_steps
    )
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm > 0 else []
    parts.append(optax.scale_by_adam(b1=b1, b2=b2))
    if weight_decay > 0:
        parts.append(optax.add_decayed_weights(weight_decay, mask=_matrices))
    return optax.chain(*parts, optax.scale_by_learning_rate(rate))


def _matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)
