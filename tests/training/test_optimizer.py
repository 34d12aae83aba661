"""The Optax chain against Adam written out in NumPy, and the schedules by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from raserec_jax import presets
from raserec_jax.errors import ConfigError
from raserec_jax.training.optimizer import learning_rate_schedule, make_optimizer
from tests.quick_jit import quick_jit


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "expected"),
    [
        ("constant", 0, [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("constant", 4, [0.0, 0.5, 1.0, 1.0, 1.0]),
        ("linear", 0, [1.0, 0.8, 0.6, 0.2, 0.0]),
        ("linear", 4, [0.0, 0.5, 1.0, 1 / 3, 0.0]),
        ("cosine", 0, [1.0, 0.9045085, 0.6545085, 0.0954915, 0.0]),
        ("cosine", 4, [0.0, 0.5, 1.0, 0.25, 0.0]),
    ],
)
def test_schedules_by_hand(schedule, warmup_steps, expected):
    rate = learning_rate_schedule(0.5, schedule=schedule, warmup_steps=warmup_steps, total_steps=10)
    found = [float(rate(jnp.int32(step))) for step in (0, 2, 4, 8, 10)]
    np.testing.assert_allclose(found, np.multiply(0.5, expected), rtol=1e-5, atol=1e-7)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ConfigError, match="optimizer.schedule='step' is unknown; use one of"):
        learning_rate_schedule(1.0, schedule="step", warmup_steps=0, total_steps=1)


def adam_in_numpy(params, grads, *, rate, weight_decay, clip_norm, b1, b2):
    """Parameters after each of the gradients; rate is a function of the step."""
    mean, square = (dict.fromkeys(params, 0.0) for _ in range(2))
    for step, grad in enumerate(grads):
        norm = np.sqrt(sum((g**2).sum() for g in grad.values()))
        scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
        for name in params:
            g = grad[name] * scale
            mean[name] = b1 * mean[name] + (1 - b1) * g
            square[name] = b2 * square[name] + (1 - b2) * g**2
            corrected = mean[name] / (1 - b1 ** (step + 1))
            change = corrected / (np.sqrt(square[name] / (1 - b2 ** (step + 1))) + 1e-8)
            if params[name].ndim >= 2:
                change = change + weight_decay * params[name]
            params = params | {name: params[name] - rate(step) * change}
    return params


@pytest.mark.parametrize("clip_norm", [0.0, 2.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_updates_are_adams(clip_norm, weight_decay):
    draw = np.random.default_rng(0)
    shapes = {"kernel": (3, 2), "bias": (2,)}
    params = {name: draw.normal(size=shape) for name, shape in shapes.items()}
    # Norms on both sides of the clip, or clipping would cancel out of Adam.
    grads = [
        {name: size * draw.normal(size=shape) for name, shape in shapes.items()}
        for size in (0.1, 3.0, 0.5, 10.0)
    ]
    settings = {"weight_decay": weight_decay, "clip_norm": clip_norm, "b1": 0.8, "b2": 0.95}
    optimizer = make_optimizer(
        learning_rate=0.01, schedule="linear", warmup_steps=0, total_steps=8, **settings
    )

    @quick_jit
    def step(params, state, grad):
        updates, state = optimizer.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    found = jax.tree.map(jnp.float32, params)
    state = optimizer.init(found)
    for grad in grads:
        found, state = step(found, state, jax.tree.map(jnp.float32, grad))
    expected = adam_in_numpy(params, grads, rate=lambda i: 0.01 * (1 - i / 8), **settings)
    for name in params:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def test_the_presets_name_every_setting():
    for preset in (presets.raserec, presets.raserec_published):
        for part in ("pretrain", "finetune"):
            make_optimizer(total_steps=10, **preset()[part].optimizer)
