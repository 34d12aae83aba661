"""Every rule refuses what it is for, and every preset passes."""

import pytest

from raserec_jax import config_files, presets
from raserec_jax.config_rules import _CHOICES, _RANGES, FIELD_HELP, check_config
from raserec_jax.errors import ConfigError


@pytest.mark.parametrize("preset", [presets.raserec, presets.raserec_published])
@pytest.mark.parametrize("dataset", ["movielens_100k", "amazon_beauty", "mine"])
def test_presets_pass(preset, dataset):
    check_config(preset(dataset))


def _with(name, value):
    config = presets.raserec()
    *groups, leaf = name.split(".")
    group = config
    for part in groups:
        group = group[part]
    group[leaf] = value
    return config


@pytest.mark.parametrize("name", list(_CHOICES))
def test_unknown_choice(name):
    with pytest.raises(
        ConfigError, match=rf"--config.{name}='nonsense' is not usable; expected one of"
    ):
        check_config(_with(name, "nonsense"))


@pytest.mark.parametrize("name", list(_RANGES))
def test_out_of_range(name):
    low = _RANGES[name][0]
    value = low - 1 if isinstance(low, int) else float(low) - 1.0
    with pytest.raises(ConfigError, match=rf"--config.{name}=.* is not usable; expected"):
        check_config(_with(name, value))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("encoder.dim", 65, "encoder.dim=65 is not a multiple of --config.encoder.num_heads=2"),
        ("reader.num_heads", 5, "is not a multiple of --config.reader.num_heads=5"),
        ("pretrain.stopping.metric", "NDCG@10", "expected PROTOCOL/METRIC@K"),
        ("pretrain.batching.row_len", 10, "expected 0 or at least encoder.max_len"),
    ],
)
def test_rules_across_fields(name, value, message):
    with pytest.raises(ConfigError, match=message):
        check_config(_with(name, value))


def test_help_speaks_only_of_what_exists():
    names = {name for name, _ in config_files.leaves(presets.raserec())}
    assert set(FIELD_HELP) <= names
