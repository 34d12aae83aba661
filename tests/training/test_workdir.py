"""The workdir: it goes on with the same configuration and data, and refuses others."""

import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax import checkpoints, presets
from raserec_jax.config_rules import AS_BEFORE
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.item_text import ItemText
from raserec_jax.errors import CheckpointError, ConfigError
from raserec_jax.training import workdir as wd


@pytest.fixture
def config():
    return presets.raserec()


def test_a_new_workdir_holds_the_configuration(tmp_path, config):
    folder = wd.open_workdir(tmp_path / "runs" / "a", config)
    assert folder == tmp_path / "runs" / "a"
    assert wd.read_json(folder / "config.json") == wd.plain(config)
    assert wd.open_workdir(str(folder), config) == folder  # and again


def test_tuples_are_no_difference(tmp_path, config):
    assert isinstance(config.mixing.weights, tuple)
    wd.open_workdir(tmp_path, config)
    wd.open_workdir(tmp_path, config.copy_and_resolve_references())


def test_another_configuration_is_refused_and_what_differs_is_named(tmp_path, config):
    wd.open_workdir(tmp_path, config)
    before = (tmp_path / "config.json").read_bytes()
    config.encoder.dim = 32
    config.mixing.weights = (0.5,)
    with pytest.raises(ConfigError, match="holds a run of another configuration") as caught:
        wd.open_workdir(tmp_path, config)
    assert "encoder.dim is 64 there and 32 here" in str(caught.value)
    assert "mixing.weights is " in str(caught.value)
    assert "seed" not in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_key_that_is_new_is_a_difference(tmp_path, config):
    wd.open_workdir(tmp_path, config)
    del config.reader.alpha
    with pytest.raises(ConfigError, match="reader.alpha is .* there and 'absent' here"):
        wd.open_workdir(tmp_path, config)


def without(tree, names, prefix=""):
    return {
        key: without(value, names, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in tree.items()
        if f"{prefix}{key}" not in names
    }


def test_a_run_of_an_earlier_release_goes_on_unless_a_new_value_asks_for_something_else(
    tmp_path, config
):
    earlier = without(wd.plain(config), AS_BEFORE)
    assert "min_rating" not in earlier["data"]
    wd.write_json_atomic(tmp_path / "config.json", earlier)
    config.data.min_rating = 4
    with pytest.raises(ConfigError, match="data.min_rating is 'absent' there and 4.0 here; give"):
        wd.open_workdir(tmp_path, config)
    assert wd.read_json(tmp_path / "config.json") == earlier
    config.data.min_rating = None
    identity = {"config": wd.plain(config), "data": "abc"}
    assert wd.differences({"config": earlier, "data": "abc"}, identity) == []  # of a checkpoint
    wd.open_workdir(tmp_path, config)
    assert wd.read_json(tmp_path / "config.json") == wd.plain(config)
    wd.write_json_atomic(tmp_path / "config.json", without(earlier, {"data.split"}))
    with pytest.raises(ConfigError, match="data.split is 'absent' there"):
        wd.open_workdir(tmp_path, config)


def test_what_does_not_change_the_result_may_change(tmp_path, config):
    wd.open_workdir(tmp_path, config)
    config.checkpoint.keep += 1
    config.checkpoint.steps_per_call += 1
    config.evaluation.samples += 1
    config.semantic.llm.update(base_url="http://localhost:1/v1", key_variable="KEY", concurrency=2)
    config.semantic.llm.update(calls_per_minute=9, timeout_s=5.0, retries=1, backoff_s=0.5)
    config.semantic.llm.update(max_calls=7, max_cost=2.0, price_in=0.1, price_out=0.2)
    wd.open_workdir(tmp_path, config)
    assert wd.read_json(tmp_path / "config.json") == wd.plain(config)
    config.evaluation.bootstrap_samples += 1
    with pytest.raises(ConfigError, match="evaluation.bootstrap_samples"):
        wd.open_workdir(tmp_path, config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "other"),
        ("prompts", "mine"),
        ("sequences", 3),
        ("max_answer_tokens", 7),
        ("max_answer_chars", 9),
    ],
)
def test_what_a_language_model_is_and_is_asked_may_not_change(tmp_path, config, name, value):
    wd.open_workdir(tmp_path, config)
    config.semantic.llm[name] = value
    with pytest.raises(ConfigError, match=rf"semantic\.llm\.{name} is "):
        wd.open_workdir(tmp_path, config)


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path, config):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="--workdir=.*file.*cannot be written"):
        wd.open_workdir(tmp_path / "file" / "run", config)


def test_a_damaged_configuration_is_refused(tmp_path, config):
    wd.open_workdir(tmp_path, config)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json"):
        wd.open_workdir(tmp_path, config)


@pytest.mark.parametrize("made", ["stages", "checkpoints", "best"])
def test_a_run_whose_configuration_or_log_is_gone_is_refused(tmp_path, config, made):
    (tmp_path / made).mkdir()
    with pytest.raises(CheckpointError, match="config.json is missing from a workdir that holds"):
        wd.open_workdir(tmp_path, config)
    with pytest.raises(CheckpointError, match="log is missing from a workdir that holds a run"):
        wd.keep_log(tmp_path, log_with([5, 6]), None)
    assert not (tmp_path / "config.json").exists()
    assert not (tmp_path / "log").exists()


def test_what_a_killed_process_left_is_removed(tmp_path, config):
    wd.open_workdir(tmp_path, config)
    wd.finish_stage(tmp_path, "memory", {"entries": 3})
    for name in (".results.json.77.partial", "stages/.memory.json.partial"):
        (tmp_path / name).write_text("{")
    wd.open_workdir(tmp_path, config)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
        "config.json",
        "memory.json",
        "memory.sha256",
    ]
    assert wd.stage_record(tmp_path, "memory") == {"entries": 3}


def test_a_record_may_be_written_again_and_one_of_an_earlier_release_be_read(tmp_path):
    for entries in (3, 4):
        wd.finish_stage(tmp_path, "memory", {"entries": entries})
        assert wd.stage_record(tmp_path, "memory") == {"entries": entries}
    path = tmp_path / "stages" / "memory.json"
    assert wd.file_digest(path) in path.with_suffix(".sha256").read_text()
    path.with_suffix(".sha256").unlink()
    assert wd.stage_record(tmp_path, "memory") == {"entries": 4}


def log_with(items):
    return InteractionLog.from_columns([1] * len(items), items)


def test_the_log_is_kept_and_other_data_are_refused(tmp_path):
    text = ItemText(np.array([5, 6, 7]), {"title": ["five", "six", "seven"]})
    wd.keep_log(tmp_path, log_with([5, 6, 7]), text)
    assert InteractionLog.load(tmp_path / "log").item_labels.tolist() == [0, 5, 6, 7]
    assert ItemText.load(tmp_path / "log").title_of(6) == "six"
    wd.keep_log(tmp_path, log_with([5, 6, 7]), text)  # the same again
    with pytest.raises(
        ConfigError,
        match="other data: fingerprint.*interactions is 3 there and 4 here; give another",
    ):
        wd.keep_log(tmp_path, log_with([5, 7, 6, 5]), text)


def test_a_stage_is_done_once_it_has_a_record(tmp_path):
    assert wd.stage_record(tmp_path, "pretrain") is None
    record = {"best_epoch": 3, "valid": {"unfiltered": {"HR@1": 0.25}}}
    assert wd.finish_stage(tmp_path, "pretrain", record) == record
    assert wd.stage_record(tmp_path, "pretrain") == record
    assert wd.stage_record(tmp_path, "memory") is None
    (tmp_path / "stages" / "pretrain.json").write_text('{"best_')
    with pytest.raises(CheckpointError, match="pretrain.json"):
        wd.stage_record(tmp_path, "pretrain")


def test_the_fingerprint_of_parameters_is_of_names_shapes_and_values():
    params = {"a": jnp.arange(4.0), "b": {"c": jnp.ones((2, 2))}}
    same = {"b": {"c": np.ones((2, 2), np.float32)}, "a": np.arange(4, dtype=np.float32)}
    assert checkpoints.params_fingerprint(params) == checkpoints.params_fingerprint(same)
    others = [
        params | {"a": params["a"].at[3].set(3.0000002)},
        params | {"a": params["a"].reshape(2, 2)},
        params | {"a": params["a"].astype(jnp.int32)},
        {"x": params["a"], "b": params["b"]},
    ]
    found = {checkpoints.params_fingerprint(other) for other in [params, *others]}
    assert len(found) == 5
