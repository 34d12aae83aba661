"""Trains a text encoder on pairs of texts by contrast within the batch; interrupted, it goes on to the same bits.

Plain torch: AdamW without weight decay, a rate that rises over the first tenth of the steps and falls to 0, gradients
clipped to norm 1 (the usual settings of sentence-transformers). The batch of a step and its dropout depend on the step
and the seed alone.
"""

import math
from collections.abc import Mapping

import numpy as np

from raserec_jax.errors import NonFiniteLossError
from raserec_jax.progress import Progress
from raserec_jax.semantic.sentence_encoder import SentenceEncoder
from raserec_jax.semantic.tuning_checkpoint import TuningCheckpoint

SAVE_EVERY = 50
"""Steps between two checkpoints: what a kill costs."""
_CLIP_NORM = 1.0
_WARM_UP = 0.1


def tune(
    encoder: SentenceEncoder,
    texts: Mapping[int, str],
    batches: np.ndarray,
    settings,
    checkpoint: TuningCheckpoint,
    *,
    progress=Progress,
) -> list[float]:
    """Trains the encoder in place.

    Args:
      encoder: whose model is trained; ready to encode when this returns.
      texts: number -> text.
      batches: [steps, batch, 2] int32 numbers of texts; in a batch none stands twice.
      settings: `semantic.tune`: learning_rate, max_tokens, dtype and seed.
      checkpoint: gone on from if it holds a state.
      progress: as `progress.Progress`.

    Returns:
      The loss of each step, in nats.

    Raises:
      NonFiniteLossError: a loss is not finite.
      DataError: the disk is full.
    """
    import torch

    model, steps = encoder.model, len(batches)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), weight_decay=0.0)
    losses = checkpoint.restore(parameters, optimizer)
    loss_of = encoder.ranking_loss()
    products = torch.autocast(
        model.device.type, torch.bfloat16, enabled=settings.dtype == "bfloat16"
    )
    window = model.max_seq_length
    devices = [model.device] if model.device.type == "cuda" else []
    bar = progress(
        steps, "text encoder", "step", initial=len(losses), line_every=max(1, steps // 20)
    )
    model.train()
    model.max_seq_length = min(settings.max_tokens, window or settings.max_tokens)
    try:
        with bar, torch.random.fork_rng(devices):
            for step in range(len(losses), steps):
                torch.manual_seed(_step_seed(settings.seed, step))
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * _schedule(step, steps)
                optimizer.zero_grad()
                with products:
                    loss = loss_of([(texts[a], texts[b]) for a, b in batches[step].tolist()])
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise NonFiniteLossError(
                        f"training the text encoder: the loss of step {step} is {losses[-1]}; lower "
                        f"--config.semantic.tune.learning_rate={settings.learning_rate:g}"
                    )
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters.values(), _CLIP_NORM)
                optimizer.step()
                bar.update(1, loss=losses[-1])
                if len(losses) % SAVE_EVERY == 0 and len(losses) < steps:
                    checkpoint.save(parameters, optimizer, losses)
    finally:
        model.max_seq_length = window
        model.eval()
    return losses


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: up in a straight line over a tenth of the steps, down to 0 over the rest."""
    rising = max(1, round(_WARM_UP * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising))


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
