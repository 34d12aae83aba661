"""Checkpoints: whole or not at all, and never silently damaged."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from raserec_jax import checkpoint_manifest, checkpoints
from raserec_jax.errors import CheckpointError
from raserec_jax.training.state import TrainState, create_state


def make_state(seed=0, width=3):
    draw = np.random.default_rng(seed)
    params = {
        "dense": {"kernel": draw.normal(size=(4, width)).astype(np.float32)},
        "bias": draw.normal(size=width).astype(np.float32),
    }
    state = create_state(params, optax.adam(1e-3))
    return state._replace(step=jnp.int32(seed))


def assert_equal_trees(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Three saved steps of which two are kept; tests copy the folder before they harm it."""
    root = tmp_path_factory.mktemp("saved") / "steps"
    for step in (1, 2, 3):
        checkpoints.save_step(root, step, make_state(step), {"epochs_done": step}, keep=2)
    return root


@pytest.fixture
def root(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "steps")
    return tmp_path / "steps"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(root):
    state, meta = checkpoints.restore(root / "000000003", make_state())
    assert isinstance(state, TrainState)
    assert_equal_trees(state, make_state(3))
    assert meta == {"epochs_done": 3}
    assert checkpoints.read_meta(root / "000000002") == {"epochs_done": 2}


def test_shapes_are_enough_to_restore(root):
    shapes = jax.eval_shape(make_state)
    assert_equal_trees(checkpoints.restore(root / "000000003", shapes)[0], make_state(3))


def test_only_the_newest_are_kept(root):
    assert names_in(root) == ["000000002", "000000003"]
    assert [folder.name for folder in checkpoints.step_folders(root)] == names_in(root)


def test_saving_again_replaces(root):
    checkpoints.save_step(root, 3, make_state(7), {"epochs_done": 7}, keep=1)
    assert names_in(root) == ["000000003"]  # nothing half-built lies around
    assert_equal_trees(checkpoints.restore(root / "000000003", make_state())[0], make_state(7))


def test_the_newest_is_restored(root):
    state, meta = checkpoints.restore_newest(root, make_state())
    assert meta == {"epochs_done": 3}
    assert_equal_trees(state, make_state(3))


@pytest.mark.parametrize("made", [False, True])
def test_where_nothing_was_saved_there_is_nothing(tmp_path, made):
    if made:
        (tmp_path / "steps").mkdir()
    assert checkpoints.step_folders(tmp_path / "steps") == []
    assert checkpoints.restore_newest(tmp_path / "steps", make_state()) is None


def test_another_structure_is_refused(root):
    wider = make_state(width=5)
    with pytest.raises(CheckpointError, match=r"made by another configuration: .*bias.* \[\[3\]"):
        checkpoints.restore(root / "000000003", wider)
    # Not damaged, so it is not set aside.
    with pytest.raises(CheckpointError, match="made by another configuration"):
        checkpoints.restore_newest(root, wider)
    assert names_in(root) == ["000000002", "000000003"]
    with pytest.raises(CheckpointError, match=r"opt_state.* expected absent"):
        checkpoints.restore(root / "000000003", make_state()._replace(opt_state=None))


def array_file(folder):
    """The file that holds the arrays; the others describe them."""
    files = [path for path in (folder / "tree").rglob("*") if path.parent.name == "d"]
    return max(files, key=lambda path: path.stat().st_size)


def truncate(folder):
    path = array_file(folder)
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(folder):
    content = bytearray(array_file(folder).read_bytes())
    content[len(content) // 2] ^= 4
    array_file(folder).write_bytes(content)


def delete_a_file(folder):
    array_file(folder).unlink()


def add_a_file(folder):
    (folder / "tree" / "extra").write_bytes(b"?")


def delete_the_manifest(folder):
    (folder / "manifest.json").unlink()


def truncate_the_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-30])


def empty_the_manifest(folder):
    (folder / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncate, "does not match its recorded sha256"),
        (flip_a_bit, "does not match its recorded sha256"),
        (add_a_file, "does not match its recorded sha256"),
        (delete_a_file, "is missing; restore it from a copy or train anew"),
        (delete_the_manifest, "no checkpoint there"),
        (truncate_the_manifest, "not a checkpoint manifest"),
        (empty_the_manifest, "not a checkpoint manifest"),
    ],
)
def test_a_damaged_step_is_refused_and_the_one_before_it_restored(root, caplog, harm, message):
    harm(root / "000000003")
    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore(root / "000000003", make_state())
    with pytest.raises(CheckpointError, match=message):
        checkpoints.read_meta(root / "000000003")
    state, meta = checkpoints.restore_newest(root, make_state())
    assert meta == {"epochs_done": 2}
    assert_equal_trees(state, make_state(2))
    assert names_in(root) == ["000000002", "damaged-000000003"]
    assert message in caplog.text


def test_if_all_are_damaged_nothing_is_restored(root):
    for folder in checkpoints.step_folders(root):
        truncate(folder)
    for _ in range(2):  # nor at the next start
        with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
            checkpoints.restore_newest(root, make_state())
    assert names_in(root) == ["damaged-000000002", "damaged-000000003"]


def test_a_step_may_be_damaged_twice(root):
    for _ in range(2):
        truncate(root / "000000003")
        assert checkpoints.restore_newest(root, make_state())[1] == {"epochs_done": 2}
        checkpoints.save_step(root, 3, make_state(3), {"epochs_done": 3})
    assert len([name for name in names_in(root) if name.startswith("damaged-")]) == 2


def test_processes_digest_all_files_and_about_as_many_bytes_each():
    files = [(f"file{one}", one % 7) for one in range(50)]
    shares = checkpoint_manifest._shares(files, 3)
    assert sorted(file for share in shares for file in share) == sorted(files)
    sizes = [sum(size for _, size in share) for share in shares]
    assert max(sizes) - min(sizes) <= 6
    assert checkpoint_manifest._shares(files[:2], 3)[2] == []


def test_an_unfinished_save_is_no_checkpoint(root):
    (root / "000000003").rename(root / ".building-000000004")
    assert checkpoints.restore_newest(root, make_state())[1] == {"epochs_done": 2}
