"""Items that come back after training."""

import json

import numpy as np
import pytest

from raserec_jax import presets
from raserec_jax.errors import ConfigError
from raserec_jax.studies.new_items import extended_table, run_new_items
from tests.tiny_workdir import generated_log, quick_training, tiny_config, titles


def test_rows_of_new_items_are_means_of_their_nearest_known_ones():
    table = np.arange(12, dtype=np.float32).reshape(4, 3)  # items 1..3 are known
    vectors = np.array([[1, 0], [0, 1], [0.8, 0.6], [1, 0], [0, 0]], np.float16)
    row_of = np.array([3, 1, 2, 0, 0], np.int32)  # the last two are new
    extended = extended_table(table, row_of, vectors, k=2, scale=0.02, seed=0)
    np.testing.assert_array_equal(extended[:4], table[[0, 3, 1, 2]])
    np.testing.assert_allclose(extended[4], (table[3] + 0.8 * table[2]) / 1.8, rtol=1e-3)
    np.testing.assert_allclose(extended[5], table[1:].mean(axis=0), rtol=1e-6)  # without text
    bare = extended_table(table, row_of, None, k=2, scale=0.02, seed=0)
    np.testing.assert_array_equal(bare[:4], extended[:4])
    assert 0 < np.abs(bare[4:]).max() < 0.1


def test_the_whole_study(tmp_path):
    config, log = tiny_config(), generated_log()
    config.pretrain.stopping.epochs = 1
    config.semantic = presets.sra_cl().semantic
    config.semantic.update(encoder="hashing", width=16)
    with quick_training():
        summary = run_new_items(
            config, tmp_path, share=0.3, levels=(0.5, 1.0), log=log, item_text=titles(log)
        )
    assert summary["items"] == 9
    half, all_back = summary["levels"]
    assert (half["items"], all_back["items"]) == (4, 9)
    assert all_back["queries"]["known"] + all_back["queries"]["new"] == log.num_users
    assert summary["protocol"]["num_items"] == 21
    for method in ("bare", "semantic"):
        for kinds in all_back["metrics"][method].values():
            assert set(kinds) == {"known", "new"}
            assert all(0 <= value <= 1 for found in kinds.values() for value in found.values())
    assert json.loads((tmp_path / "new_items.json").read_text()) == json.loads(json.dumps(summary))
    lines = (tmp_path / "new_items.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 * 2 * 2
    assert (tmp_path / "plots" / "new_items.png").stat().st_size > 500
    with pytest.raises(ConfigError, match="share=1.0 must be in"):
        run_new_items(config, tmp_path, share=1.0, log=log)


def test_a_text_encoder_trained_on_new_items_is_refused(tmp_path):
    config = presets.sra_cl("movielens_100k")
    config.semantic.tune.steps = 5
    with pytest.raises(ConfigError, match="tune.steps=5 would train the text encoder on the items"):
        run_new_items(config, tmp_path)
    assert not list(tmp_path.iterdir())
