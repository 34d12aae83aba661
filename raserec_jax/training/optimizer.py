"""The Optax chain: clipping, Adam, decoupled weight decay, schedule."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from raserec_jax.errors import ConfigError
from raserec_jax.training.touched_rows import scale_by_lazy_adam

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
    skip_nonfinite: int = 0,
    lazy: bool = False,
) -> optax.GradientTransformation:
    """Adam with what is switched on around it.

    Args:
      learning_rate: peak rate.
      schedule: "constant", "cosine" or "linear" after `warmup_steps`, over `total_steps`.
      weight_decay: decoupled; 0 = none. Applied to every parameter of rank >= 2.
      clip_norm: global gradient norm; 0 = no clipping.
      b1, b2: Adam's decay rates.
      skip_nonfinite: most steps in a row that are skipped because they are not finite; 0 = none is skipped.
      lazy: updates take `rows=` and the item table's gradients for these rows only (`touched_rows`).

    Raises:
      ConfigError: unknown schedule, or `lazy` with `skip_nonfinite`.
    """
    if lazy and skip_nonfinite > 0:
        raise ConfigError(
            "optimizer.skip_nonfinite looks at the whole item table at every step; with "
            "pretrain.loss.item_updates=touched it must be 0"
        )
    rate = learning_rate_schedule(
        learning_rate, schedule=schedule, warmup_steps=warmup_steps, total_steps=total_steps
    )
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm > 0 else []
    parts.append((scale_by_lazy_adam if lazy else optax.scale_by_adam)(b1=b1, b2=b2))
    if weight_decay > 0:
        parts.append(optax.add_decayed_weights(weight_decay, mask=_matrices))
    chain = optax.chain(*parts, optax.scale_by_learning_rate(rate))
    return skip_steps(chain, skip_nonfinite) if skip_nonfinite > 0 else chain


class SkipState(NamedTuple):
    """skipped: [] int32, steps skipped so far.  in_a_row: [] int32.  gave_up: [] bool, more in a row than allowed.

    inner: state of the optimizer that is wrapped.
    """

    skipped: Int[Array, ""]
    in_a_row: Int[Array, ""]
    gave_up: Bool[Array, ""]
    inner: optax.OptState


def skip_steps(
    inner: optax.GradientTransformation, most_in_a_row: int
) -> optax.GradientTransformationExtraArgs:
    """`inner`, but a step whose loss (given as `value=`), update or new state is not finite changes nothing else than
    the count. Unlike `optax.apply_if_finite` it never takes such a step; whoever trains looks at `gave_up`.
    """

    def init(params):
        zero = jnp.zeros((), jnp.int32)
        return SkipState(zero, zero, jnp.zeros((), bool), inner.init(params))

    def update(grads, state, params=None, *, value, **_):
        updates, new = inner.update(grads, state.inner, params)
        leaves = jax.tree.leaves((value, updates, new))
        good = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]).all()
        updates = jax.tree.map(lambda leaf: jnp.where(good, leaf, 0), updates)
        kept = jax.tree.map(lambda old, new: jnp.where(good, new, old), state.inner, new)
        in_a_row = jnp.where(good, 0, state.in_a_row + 1)
        gave_up = state.gave_up | (in_a_row > most_in_a_row)
        return updates, SkipState(state.skipped + ~good, in_a_row, gave_up, kept)

    return optax.GradientTransformationExtraArgs(init, update)


def _matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)
