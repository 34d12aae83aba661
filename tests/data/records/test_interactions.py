"""Any TFDS data set of interactions as a source; built here, in a temporary folder, with TFDS's own builder."""

import numpy as np
import pytest

from raserec_jax.data import read_interactions
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.errors import DataError

ROWS = [(str(n % 17), n * 7 % 41, n // 3, float(n % 5 + 1)) for n in range(500)]


@pytest.fixture(scope="module")
def tfds():
    return pytest.importorskip("tensorflow_datasets", reason="needs the extra tfds")


@pytest.fixture(scope="module")
def data_dir(tfds, tmp_path_factory):
    class ShopRatings(tfds.core.GeneratorBasedBuilder):
        """Ratings with names of MovieLens's, and one feature that is none of ours."""

        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = {
                "user_id": tfds.features.Text(),
                "movie_id": np.int64,
                "timestamp": np.int64,
                "user_rating": np.float32,
                "genres": tfds.features.Tensor(shape=(None,), dtype=np.int64),
                "when": np.float64,
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 300), "late": self._generate_examples(300)}

        def _generate_examples(self, first, end=None):
            for key, (user, movie, time, rating) in enumerate(ROWS[first:end]):
                yield (
                    key,
                    {
                        "user_id": user,
                        "movie_id": movie,
                        "timestamp": time,
                        "user_rating": rating,
                        "genres": np.zeros(2, np.int64),
                        "when": np.inf if movie == 7 else 1.0,
                    },
                )

    folder = tmp_path_factory.mktemp("data_dir")
    tfds.disable_progress_bar()
    ShopRatings(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def expected(rows, item=1):
    users, *_ = columns = list(zip(*rows, strict=True))
    return InteractionLog.from_columns(users, columns[item], timestamp=columns[2]).fingerprint()


def test_a_folder_and_a_name(data_dir, monkeypatch):
    folder = data_dir / "shop_ratings" / "1.2.0"
    log = read_interactions(folder)
    assert log.fingerprint() == expected(ROWS) and log.name == "shop_ratings"
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    by_name = read_interactions("tfds:shop_ratings:1.2.0")
    assert by_name.fingerprint() == expected(ROWS)
    late = read_interactions("tfds:shop_ratings:1.2.0#late")
    assert late.fingerprint() == expected(ROWS[300:])
    rated = [row for row in ROWS if row[3] >= 4]
    assert read_interactions(folder, min_rating=4).fingerprint() == expected(rated)
    swapped = read_interactions(folder, columns={"item_id": "user_id", "user_id": "user_id"})
    assert swapped.fingerprint() == expected(ROWS, item=0)


@pytest.mark.parametrize(
    ("path", "columns", "words"),
    [
        ("{}/shop_ratings/1.2.0", {"item_id": "nope"}, "features: no column 'nope' among '"),
        ("{}/shop_ratings/1.2.0", {"item_id": "genres"}, "example 1, feature 'genres'.*strings or"),
        ("{}/shop_ratings/1.2.0", {"item_id": "when"}, "feature 'when'.*strings or integers"),
        ("{}/shop_ratings/1.2.0", {"timestamp": "when"}, "example 2, .*finite number"),
        ("tfds:shop_ratings:1.2.0#test", {}, "no split 'test'; it has train, late"),
        ("tfds:no_such_shop", {}, "no TFDS data set that can be read .*set to where it was prep"),
    ],
)
def test_what_is_wrong_is_told(data_dir, monkeypatch, path, columns, words):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    with pytest.raises(DataError, match=words):
        read_interactions(path.format(data_dir), columns=columns)
