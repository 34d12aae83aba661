"""The damage matrix: whatever is truncated, zeroed, deleted or altered by one bit is found, or changes nothing."""

import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from raserec_jax import checkpoint_manifest, checkpoints
from raserec_jax.errors import CheckpointError, ConfigError, DataError
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved, load_retrieved, save_retrieved
from raserec_jax.training import workdir as wd
from raserec_jax.training.memory_search import MemorySearch
from raserec_jax.training.pipeline import train
from raserec_jax.training.state import create_state
from tests.tiny_workdir import STAGES, generated_log, quick_training, tiny_config, trained


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def deleted(path):
    path.unlink()


def one_bit_flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = (truncated, zeroed, deleted, one_bit_flipped)


def make_state(seed: int):
    draw = np.random.default_rng(seed)
    params = {
        "kernel": draw.normal(size=(4, 3)).astype(np.float32),
        "bias": draw.normal(size=3).astype(np.float32),
    }
    return create_state(params, optax.adam(1e-3))._replace(step=jnp.int32(seed))


def assert_state(found, seed):
    expected = make_state(seed)
    np.testing.assert_array_equal(found.step, expected.step)
    for name, leaf in expected.params.items():
        np.testing.assert_array_equal(found.params[name], leaf)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved") / "steps"
    for step in (1, 2):
        checkpoints.save_step(root, step, make_state(step), {"epochs_done": step})
    return root


def files_of(folder):
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(found) > 5
    return found


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_the_newest_step_is_found_and_named(saved, tmp_path, caplog, damage):
    """Every file; then the step before is restored, and the line says which file and why."""
    for number, name in enumerate(files_of(saved / "000000002")):
        root = shutil.copytree(saved, tmp_path / str(number))
        damage(root / "000000002" / name)
        caplog.clear()
        state, meta = checkpoints.restore_newest(root, make_state(0))
        assert_state(state, 1)
        assert meta == {"epochs_done": 1}
        assert [record.getMessage().count(str(name)) for record in caplog.records] == [1]
        assert re.search("missing|does not match|not a checkpoint manifest", caplog.text)
        assert (root / "damaged-000000002").exists()
        damage(root / "000000001" / "manifest.json")
        for _ in range(2):
            with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
                checkpoints.restore_newest(root, make_state(0))


def test_no_bit_of_the_manifest_can_flip_unseen(saved):
    """Its meta, the early-stop state and the position, stands nowhere else."""
    path = saved / "000000002" / "manifest.json"
    content = path.read_bytes()
    assert checkpoint_manifest._parsed_manifest(path, content)["meta"] == {"epochs_done": 2}
    for place in range(len(content)):
        for bit in range(8):
            altered = bytearray(content)
            altered[place] ^= 1 << bit
            with pytest.raises(CheckpointError):
                checkpoint_manifest._parsed_manifest(path, bytes(altered))


def test_no_bit_of_the_arrays_can_flip_unseen(saved, tmp_path):
    root = shutil.copytree(saved, tmp_path / "steps")
    step, draw = root / "000000002", np.random.default_rng(0)
    names = files_of(step)
    for _ in range(100):
        path = step / names[draw.integers(len(names))]
        content = path.read_bytes()
        altered = bytearray(content)
        altered[draw.integers(len(content))] ^= 1 << int(draw.integers(8))
        path.write_bytes(altered)
        with pytest.raises(CheckpointError):
            checkpoints.read_meta(step)
        path.write_bytes(content)
    assert checkpoints.read_meta(step) == {"epochs_done": 2}


def test_manifests_of_earlier_releases_are_read(saved, tmp_path):
    root = shutil.copytree(saved, tmp_path / "steps")
    path = root / "000000002" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["manifest_sha256"]
    path.write_text(json.dumps(manifest))
    assert_state(checkpoints.restore_newest(root, make_state(0))[0], 2)


def test_neighbours_are_whole_or_refused(tmp_path):
    """One flipped bit anywhere: the same arrays (the bit meant nothing, as in a time of the archive) or an error."""
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 9, (6, 3)).astype(np.int32)
    given = Retrieved(ids, draw.random((6, 3)).astype(np.float32), np.ones((6, 3), bool))
    path = tmp_path / "neighbours.npz"
    save_retrieved(path, given, bank_fingerprint="b" * 64)
    content, same = path.read_bytes(), 0
    for place in draw.permutation(len(content))[:400]:
        altered = bytearray(content)
        altered[place] ^= 1 << int(draw.integers(8))
        path.write_bytes(altered)
        try:
            found = load_retrieved(path, bank_fingerprint="b" * 64)
        except CheckpointError:
            continue
        same += 1
        for one, other in zip(found, given, strict=True):
            np.testing.assert_array_equal(one, other)
    assert same < 200


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.getbasetemp())


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


@pytest.mark.parametrize("damage", [truncated, zeroed, one_bit_flipped])
@pytest.mark.parametrize("stage", STAGES)
def test_a_damaged_stage_record_is_refused(copy, stage, damage):
    damage(copy / "stages" / f"{stage}.json")
    with pytest.raises(CheckpointError, match=f"{stage}.json does not match the sha256"):
        wd.stage_record(copy, stage)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_with_damaged_data_or_configuration_is_refused(whole, tmp_path, damage):
    names = ["config.json", *sorted(f"log/{p.name}" for p in (whole / "log").glob("*.npy"))]
    for number, name in enumerate([*names, "log/manifest.json"]):
        copy = shutil.copytree(whole, tmp_path / str(number))
        damage(copy / name)
        with pytest.raises((CheckpointError, ConfigError, DataError)) as caught:
            train(tiny_config(), generated_log(), copy, stages=STAGES)
        assert str(copy) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "log"])
def test_a_run_without_its_configuration_or_data_is_refused(copy, name):
    (copy / name).rename(copy / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{name} is missing from a workdir that holds a run"):
        train(tiny_config(), generated_log(), copy, stages=STAGES)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_best_parameters_are_refused(whole, tmp_path, damage):
    """Also at the start of a stage that is resumed, not only at its end."""
    copy = shutil.copytree(whole, tmp_path / "run")
    damage(copy / "best" / "pretrain" / "manifest.json")
    (copy / "stages" / "pretrain.json").unlink()
    with pytest.raises(CheckpointError, match="best/pretrain"):
        train(tiny_config(), generated_log(), copy, stages=("pretrain",))


def test_damaged_neighbours_are_searched_again_and_results_computed_again(copy, caplog):
    """The evaluation is repeated, as its results are damaged; it needs the neighbours."""
    results = (copy / "results.json").read_bytes()
    one_bit_flipped(copy / "results.json")
    names = sorted(path.name for path in (copy / "memory").glob("neighbours_*.npz"))
    for name, damage in zip(names, DAMAGES, strict=True):
        damage(copy / "memory" / name)
    with quick_training():
        train(tiny_config(), generated_log(), copy, stages=("evaluate",))
    assert (copy / "results.json").read_bytes() == results
    said = [r.getMessage() for r in caplog.records if "searched again" in r.getMessage()]
    assert len(said) == 3  # a file that is not there needs no word
    one_bit_flipped(copy / "memory" / "search.json")
    with pytest.raises(CheckpointError, match=r"search.json does not match"):
        MemorySearch(None, copy / "memory", 5)


def test_damaged_memory_of_a_finished_run_is_written_again(copy, whole, caplog):
    """Each file with one line that names it; what comes back is what was there."""
    one_bit_flipped(copy / "memory" / "segments" / "000000" / "keys.npy")
    truncated(copy / "memory" / "neighbours_test.npz")
    assert "keys.npy: damaged" in wd.memory_damage(copy)
    with quick_training():
        train(tiny_config(), generated_log(), copy, stages=STAGES)
    said = [record.getMessage() for record in caplog.records]
    assert [sum(name in line for line in said) for name in ("keys.npy", "neighbours_test")] == [
        1,
        1,
    ]
    assert said[0].startswith("written again: ") and said[1].startswith("searched again: ")
    assert wd.memory_damage(copy) is None
    assert (
        MemoryBank.load(copy / "memory").fingerprint
        == MemoryBank.load(whole / "memory").fingerprint
    )
    names = ("memory", "neighbours_test.npz")
    for one, other in zip(
        *(load_retrieved(place.joinpath(*names)) for place in (copy, whole)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    caplog.clear()
    (copy / "memory" / "neighbours_valid.npz").unlink()
    assert "neighbours_valid.npz: cannot be read" in wd.memory_damage(copy)
