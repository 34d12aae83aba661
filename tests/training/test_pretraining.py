"""What stage 1 builds from a configuration, and what it refuses."""

import numpy as np
import pytest

from raserec_jax import presets
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.training.pretraining import encoder_evaluator, make_encoder, make_feed
from tests.small_logs import random_split


@pytest.fixture
def config():
    config = presets.raserec()
    config.encoder.max_len = 6
    return config


def test_every_encoder_setting_is_the_encoders(config):
    encoder = make_encoder(config, 9)
    assert encoder.num_items == 9
    for name, value in config.encoder.items():
        assert name == "kind" or getattr(encoder, name) == value
    config.encoder.kind = "gru"
    assert make_encoder(config, 9).inner_dim == config.encoder.inner_dim


@pytest.mark.parametrize("mode", ["packed", "prefix"])
def test_the_feed_is_what_the_configuration_says(config, mode):
    config.pretrain.batching.update(mode=mode, targets_per_batch=20, row_len=12)
    feed = make_feed(config, random_split([12] * 10))
    assert (feed.arrays.rows is None) == (mode == "prefix")
    assert feed.row_len == 12
    assert feed.steps_per_epoch >= 3
    # Histories have up to nine items, windows max_len at most.
    assert int(np.asarray(feed.arrays.lengths).max()) == 6


def test_an_unknown_mode_is_refused(config):
    config.pretrain.batching.mode = "whole"
    with pytest.raises(
        ConfigError, match="batching.mode='whole' is unknown; use 'packed' or 'prefix'"
    ):
        make_feed(config, random_split([9]))


def test_a_log_without_training_pairs_is_refused(config):
    with pytest.raises(DataError, match="no user has two training interactions"):
        make_feed(config, random_split([3, 1]))


def test_a_log_without_targets_is_refused(config):
    with pytest.raises(DataError, match="no user has a valid target; users need at least 3"):
        encoder_evaluator(make_encoder(config, 5), random_split([2, 2]), "valid")
