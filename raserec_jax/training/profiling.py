"""A trace of some training steps, for TensorBoard's profile page or ui.perfetto.dev."""

from pathlib import Path

import jax


class StepProfile:
    """Context in which the device calls that hold steps first..last - 1 of a stage are traced, once.

    A device call holds `checkpoint.steps_per_call` steps and is traced whole. Where the stage ends earlier, so does the
    trace.

    Args:
      folder: of the trace.
      steps: (first, last), counted over all epochs; None = nothing is traced.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None):
        self.folder, self.steps, self.running = folder, steps, False

    def __enter__(self) -> "StepProfile":
        return self

    def before_call(self, step: int, count: int) -> None:
        """Starts the trace if one of the next `count` steps, from `step` on, is wanted."""
        if self.steps is not None and step < self.steps[1] and step + count > self.steps[0]:
            if not self.running:
                jax.profiler.start_trace(self.folder)
            self.running = True

    def after_call(self, step: int) -> None:
        """Ends the trace if `step` steps, which must have been waited for, are all that is wanted."""
        if self.running and step >= self.steps[1]:
            self.__exit__()

    def __exit__(self, *exc_info) -> None:
        if self.running:
            self.running, self.steps = False, None
            jax.profiler.stop_trace()
