"""Backbones by name: modules that turn histories into vectors and share one signature."""

import dataclasses
from typing import Any

import flax.linen as nn

from raserec_jax.constants import BACKBONES
from raserec_jax.errors import ConfigError
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.models.gru_encoder import GRUEncoder

Encoder = SequenceEncoder | GRUEncoder
"""What the rest of the library is handed."""

_MODULES: dict[str, type[nn.Module]] = dict(
    zip(BACKBONES, (SequenceEncoder, GRUEncoder), strict=True)
)


def make_backbone(num_items: int, *, kind: str = "transformer", **settings: Any) -> Encoder:
    """The encoder of that kind for a catalogue of num_items.

    Args:
      kind: "transformer" (`SequenceEncoder`) or "gru" (`GRUEncoder`).
      settings: fields of any of them; those that this kind does not have are left aside.

    Raises:
      ConfigError: unknown kind, or a setting that no kind has.
    """
    if kind not in _MODULES:
        raise ConfigError(f"encoder.kind={kind!r} is unknown; use one of {', '.join(BACKBONES)}")
    fields = {name: {one.name for one in dataclasses.fields(of)} for name, of in _MODULES.items()}
    unknown = sorted(set(settings) - set().union(*fields.values()))
    if unknown:
        raise ConfigError(f"encoder.{unknown[0]} is a setting of no encoder; leave it out")
    known = fields[kind]
    return _MODULES[kind](
        num_items=num_items, **{name: value for name, value in settings.items() if name in known}
    )
