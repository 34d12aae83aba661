"""What each process of `test_feeds` does: trains from records and from the host, and says whose records it read.

python -m tests.parallel.feed_member --records=FOLDER --output=FOLDER --coordinator=...
"""

import json
import pathlib
import sys

import jax
import numpy as np
import optax
from absl import flags

from raserec_jax import cli

cli.process_flags()
_RECORDS = flags.DEFINE_string("records", None, "folder of the log as records")
_OUTPUT = flags.DEFINE_string("output", None, "folder for everything")


class Counting:
    """Users that keep who was read."""

    def __init__(self, users):
        self._users, self.read = users, []

    def items(self, users):
        self.read += users
        return self._users.items(users)


def main(argv: list[str]) -> None:
    """Two epochs of each feed, on a mesh of two devices of each process."""
    del argv
    from raserec_jax.batching.record_feed import record_feed
    from raserec_jax.data.records.folder import records_of
    from raserec_jax.distributed import process_id
    from raserec_jax.mesh import MeshShape, make_mesh
    from raserec_jax.training import loop
    from raserec_jax.training.objectives import pretrain_task
    from tests.training.test_host_feed import FULL, SPLIT, params_of, tiny_task
    from tests.training.toy_fit import quick_steps, run_fit

    users, output = Counting(records_of(_RECORDS.value)), pathlib.Path(_OUTPUT.value)
    sizes = {"max_len": 8, "targets_per_batch": 12, "row_len": 8, "seed": 0, "workers": 0}
    feed = record_feed(SPLIT, users, mode="packed", long_history="chunked", **sizes)
    host, encoder = tiny_task(True)
    records, optimizer = pretrain_task(encoder, feed, (), **FULL), optax.sgd(0.3)
    steps = quick_steps(records, optimizer)
    jax.config.update("jax_default_device", None)  # the tests' own
    each = len(jax.devices()) // 2
    mesh = make_mesh(MeshShape(2, 2), [jax.devices()[place] for place in (0, 1, each, each + 1)])
    loop.make_run_steps = lambda task, optimizer: steps  # one program for both
    for name, task in (("records", records), ("host", host)):
        found = run_fit(
            output / name,
            epochs=2,
            task=task,
            optimizer=optimizer,
            params=params_of(encoder),
            mesh=mesh,
            num_items=SPLIT.log.num_items,
        )
        leaves = map(np.asarray, jax.tree.leaves(found.params))
        np.savez(output / f"{name}-{process_id()}.npz", *leaves)
    print(json.dumps(users.read), file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
