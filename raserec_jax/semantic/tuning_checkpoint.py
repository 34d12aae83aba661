"""TuningCheckpoint: a text encoder's training under way, as one safetensors file that a killed run goes on from.

A file is written whole or not at all, and its name holds the number of steps and the SHA-256 of its content; what does
not match is as good as absent.
"""

import hashlib
import os
import pathlib
import shutil
from typing import Any

from raserec_jax.errors import DataError

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class TuningCheckpoint:
    """Weights, moments of AdamW and losses so far.

    Args:
      root: folder of the checkpoint; what it holds of another key is removed when the first one is saved.
      key: digest of everything that the training depends on.
    """

    def __init__(self, root: pathlib.Path, key: str):
        self._root, self._folder = root, root / key[:32]

    def save(self, parameters: dict[str, Any], optimizer, losses: list[float]) -> None:
        """Keeps the state after `len(losses)` steps in place of the one before.

        Args:
          parameters: name -> torch parameter.
          optimizer: torch's AdamW over them.
          losses: of the steps so far.

        Raises:
          DataError: it cannot be written.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        state = {"losses": torch.tensor(losses)}
        for name, parameter in parameters.items():
            state[f"value.{name}"] = parameter.detach()
            for part, tensor in optimizer.state.get(parameter, {}).items():
                state[f"{part}.{name}"] = tensor
        state = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        if not self._folder.is_dir():
            self.clear()
        partial = self._folder / "partial"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file(state, partial)
            before = self._files()
            target = self._folder / f"{len(losses):09d}-{_digest(partial)}.safetensors"
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, target)
            for path in before:
                if path != target:
                    path.unlink()
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{self._folder}: cannot be written ({error}); free space or choose another output folder"
            ) from error

    def restore(self, parameters: dict[str, Any], optimizer) -> list[float]:
        """Puts the newest whole state in place; returns the losses of its steps, [] if there is none."""
        import torch
        from safetensors.torch import load_file

        for path in reversed(self._files()):
            if path.stem.partition("-")[2] != _digest(path):
                continue
            state = load_file(path)
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(state[f"value.{name}"])
                    moments = {part: state.get(f"{part}.{name}") for part in _MOMENTS}
                    if moments["step"] is not None:
                        optimizer.state[parameter] = {
                            part: tensor if part == "step" else tensor.to(parameter.device)
                            for part, tensor in moments.items()
                        }
            return state["losses"].tolist()
        return []

    def clear(self) -> None:
        """Removes the checkpoint, those of other keys too."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _files(self) -> list[pathlib.Path]:
        return sorted(self._folder.glob("*.safetensors"))


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
