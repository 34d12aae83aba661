"""Every rule refuses what it is for, and every preset passes."""

import pytest

from raserec_jax import config_files, presets
from raserec_jax.config_rules import _CHOICES, _RANGES, AS_BEFORE, FIELD_HELP, check_config
from raserec_jax.data.known_sets import KNOWN_SETS
from raserec_jax.errors import ConfigError
from raserec_jax.training.workdir import plain


@pytest.mark.parametrize("preset", [presets.raserec, presets.raserec_published])
@pytest.mark.parametrize("dataset", [*KNOWN_SETS, "ml_1m", "mine", ""])
def test_presets_pass(preset, dataset):
    config = preset(dataset)
    check_config(config)
    assert config.data.dataset == dataset


def changed(dataset, preset=presets.raserec):
    """What a set changes of the generic settings."""
    generic = dict(config_files.leaves(preset("")))
    suited = dict(config_files.leaves(preset(dataset)))
    assert suited.keys() == generic.keys()
    return {
        name: value
        for name, value in suited.items()
        if value != generic[name] and name != "data.dataset"
    }


@pytest.mark.parametrize("preset", [presets.raserec, presets.raserec_published])
def test_what_sets_change(preset):
    for dataset in ("mine", "amazon_beauty", "amazon_sports", "amazon_clothing"):
        assert changed(dataset, preset) == {}
    assert changed("amazon_video_games", preset) == {"data.min_interactions": 1}
    dense = {"encoder.hidden_dropout": 0.25, "encoder.attention_dropout": 0.25}
    dense["memory.engine"] = "exact"
    edits = {"encoder.max_len": 100, "data.min_interactions": 2}
    assert changed("wikipedia_edits", preset) == dense | edits
    films = {"encoder.max_len": 200} | dense
    assert changed("ml_latest_small", preset).items() >= films.items()
    assert changed("movielens_100k", preset).items() >= films.items()


def test_only_the_quickstart_is_cut_short():
    assert presets.raserec("movielens_100k").pretrain.stopping.epochs == 20
    assert presets.raserec("movielens_100k").finetune.stopping.epochs == 2
    assert presets.sra_cl("movielens_100k").pretrain.stopping.epochs == 7
    assert presets.raserec("ml_latest_small").pretrain.stopping.epochs == 40
    assert presets.raserec_published("movielens_100k").pretrain.stopping.epochs == 50


def test_values_of_earlier_releases_are_those_of_the_published_preset():
    tree = plain(presets.raserec_published())
    for name, value in AS_BEFORE.items():
        found = tree
        for part in name.split("."):
            found = found[part]
        assert found == value, name


def _with(name, value):
    config = presets.raserec()
    config.data.min_history = 3
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
        ("data.max_history", 2, "expected 0 or at least 3, which is data.min_history"),
        ("evaluation.noise", (0.1, 1.5), r"evaluation.noise=\(0.1, 1.5\) .* shares in \(0, 1\]"),
    ],
)
def test_rules_across_fields(name, value, message):
    with pytest.raises(ConfigError, match=message):
        check_config(_with(name, value))


def test_help_speaks_only_of_what_exists():
    names = {name for name, _ in config_files.leaves(presets.raserec())}
    assert set(FIELD_HELP) <= names


def test_a_learned_weight_starts_inside():
    config = _with("reader.learn_beta", True)
    config.reader.beta = 1.0
    with pytest.raises(ConfigError, match=r"reader.beta=1.0 .* a start inside \(0, 1\)"):
        check_config(config)


def test_lengths_of_the_memory_agree():
    config = _with("memory.min_length", 9)
    config.memory.max_length = 5
    with pytest.raises(ConfigError, match="memory.max_length=5 .* at least memory.min_length"):
        check_config(config)


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        (presets.raserec, {"loss.item_updates": "touched"}, "item_updates='touched'.*expected all"),
        (presets.raserec, {"loss.next_item": "gbce"}, "next_item='gbce'.*repeat_bias=false"),
        (presets.sra_cl, {"batching.feed": "host"}, "feed='host'.*expected device"),
        (
            presets.sra_cl,
            {"loss.item_updates": "touched", "loss.next_item": "sampled"},
            "item_updates='touched'.*no weight in sra_cl",
        ),
        (
            presets.raserec,
            {
                "loss.item_updates": "touched",
                "loss.next_item": "sampled",
                "optimizer.skip_nonfinite": 2,
            },
            "skip_nonfinite=2.*expected 0",
        ),
    ],
)
def test_what_excludes_what_is_said_before_any_work(preset, changes, message):
    config = preset()
    config.update_from_flattened_dict({f"pretrain.{k}": v for k, v in changes.items()})
    with pytest.raises(ConfigError, match=message):
        check_config(config)


def test_sampled_losses_with_touched_rows_and_a_host_feed_pass():
    config = presets.raserec()
    config.pretrain.loss.update(next_item="sampled", item_updates="touched")
    config.pretrain.batching.feed = "host"
    check_config(config)
