"""The TFDS data set `raserec_log`: one example per user, in the order of the log; importing this file registers it.

    import tensorflow_datasets as tfds
    import raserec_jax.data.records.builder
    users = tfds.data_source("raserec_log", data_dir="prepared", split="train")
    users[0]  # {"user_id": b"u1", "item_ids": int32 [n], "timestamps": [n]}

Without the import TFDS finds it by its files. `user_id` is the original id as text, `item_ids` are 1..V.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from raserec_jax.data.records.content import Histories, History

SPLIT = "train"


class RaserecLog(tfds.core.GeneratorBasedBuilder):
    """Histories of users.

    Args:
      histories: what is to be written; None reads what is there.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, histories: Histories | None = None, **kwargs):
        self._histories = histories
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Interactions: the items of each user, oldest first.",
            features=self._features(),
            disable_shuffling=True,
        )

    def _features(self) -> tfds.features.FeaturesDict:
        if self._histories is None and tfds.core.Path(self._data_dir, "features.json").exists():
            return tfds.features.FeatureConnector.from_config(self._data_dir)
        kind = np.dtype(np.int64) if self._histories is None else self._histories.time_kind
        times = {} if kind is None else {"timestamps": _flat(kind)}
        features = {"user_id": tfds.features.Text(), "item_ids": _flat(np.dtype(np.int32))}
        return tfds.features.FeaturesDict(features | times)

    def _split_generators(self, dl_manager):
        del dl_manager
        assert self._histories is not None, "there is something to write"
        if self._histories.examples is not None:
            return {SPLIT: self._histories.examples}
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        assert self._histories is not None, "there is something to write"
        for row, history in enumerate(self._histories.each()):
            yield row, example_of(history)


def example_of(history: History) -> dict:
    """One user as the data set holds him."""
    example = {"user_id": str(history.label), "item_ids": history.item_ids}
    return example if history.timestamps is None else {**example, "timestamps": history.timestamps}


def _flat(kind: np.dtype) -> tfds.features.Tensor:
    # As a list of numbers TFDS would keep 32 bits of a fraction.
    encoding = "bytes" if kind.kind == "f" else "none"
    return tfds.features.Tensor(shape=(None,), dtype=kind.type, encoding=encoding)
