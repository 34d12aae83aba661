"""metrics.jsonl: what is written, what a kill leaves behind, and who writes."""

import json
import os
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raserec_jax.errors import CheckpointError
from raserec_jax.metric_writer import METRICS_FILE, MetricWriter, read_metrics


def write_lines(folder, *lines):
    (folder / METRICS_FILE).write_bytes(b"".join(lines))


def test_one_line_per_step(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write("pretrain", 3, {"loss": 1.5, "valid": {"filtered": {"HR@10": 0.1}}}, epoch=2)
        writer.write("memory", 0, {"entries": 7, "engine": "exact"})
    lines = (tmp_path / METRICS_FILE).read_text().splitlines()
    assert json.loads(lines[0]) == {
        "stage": "pretrain",
        "step": 3,
        "epoch": 2,
        "loss": 1.5,
        "valid/filtered/HR@10": 0.1,
    }
    assert lines[1] == (
        '{"stage": "memory", "step": 0, "epoch": null, "entries": 7, "engine": "exact"}'
    )


def test_array_scalars_and_what_is_not_finite(tmp_path):
    scalars = {
        "jax": jnp.float32(0.5),
        "half": jnp.bfloat16(0.25),
        "numpy": np.float64(2),
        "count": np.int32(3),
        "nan": np.nan,
        "inf": jnp.float32(np.inf),
        "none": None,
    }
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write("control", 1, scalars)
    (found,) = read_metrics(tmp_path)
    assert [found[name] for name in scalars] == [0.5, 0.25, 2.0, 3, None, None, None]


def test_lines_are_there_before_close(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write("pretrain", 1, {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 1
    writer.flush()
    writer.close()
    writer.close()
    writer.write("pretrain", 2, {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 1


def test_resume_appends(tmp_path):
    for step in (1, 2):
        with MetricWriter(tmp_path, tensorboard=False) as writer:
            writer.write("pretrain", step, {})
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("rest", "steps"),
    [
        (b"", [1]),
        (b'{"stage": "x", "st', [1]),  # cut off by a kill
        (b'{"step": 2}', [1, 2]),  # whole but for its newline
        (b"\x00" * 40, [1]),  # blocks that never reached the disk
        (b'{"text": "' + b"x" * 200_000, [1]),  # longer than what is read at once
        (b'{"text": "\xc3', [1]),  # within a character
    ],
)
def test_repairs_the_last_line(tmp_path, rest, steps):
    write_lines(tmp_path, b'{"step": 1}\n', rest)
    assert [record["step"] for record in read_metrics(tmp_path)] == steps
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write("x", 9, {})
    assert [record["step"] for record in read_metrics(tmp_path)] == [*steps, 9]
    assert (tmp_path / METRICS_FILE).read_bytes().startswith(b'{"step": 1}\n')


def test_repairs_a_file_that_is_one_broken_line(tmp_path):
    write_lines(tmp_path, b'{"ste')
    MetricWriter(tmp_path, tensorboard=False).close()
    assert (tmp_path / METRICS_FILE).read_bytes() == b""


def test_damage_before_the_last_line_is_told(tmp_path):
    write_lines(tmp_path, b'{"step": 1}\n', b"garbage\n", b'{"step": 2}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2: b'garbage' is no JSON obj"):
        read_metrics(tmp_path)


def test_no_file_no_metrics(tmp_path):
    assert read_metrics(tmp_path) == []


def test_tensorboard_events(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write("pretrain", 1, {"loss": 1.0, "engine": "exact", "nothing": None})
        writer.flush()
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"pretrain/loss" in content
    assert b"engine" not in content


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which is always full")
def test_a_full_disk_is_told_and_nothing_hangs(tmp_path):
    """By the line at once; at the end no second time, and not in place of the error under way."""
    words = "metrics cannot be written .No space left on device.; free space"
    (tmp_path / METRICS_FILE).symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=words), MetricWriter(tmp_path) as writer:
        for step in range(100):
            writer.write("pretrain", step, {"loss": 1.0})
    with pytest.raises(ZeroDivisionError), MetricWriter(tmp_path) as writer:
        with pytest.raises(CheckpointError, match=words):
            writer.write("pretrain", 1, {"loss": 1.0})
        raise ZeroDivisionError


def test_events_on_a_full_disk_are_told_and_nothing_hangs(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write("pretrain", 1, {"loss": 1.0})
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        (events,) = (tmp_path / "tensorboard").iterdir()
        most = max(events.stat().st_size, 2000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            with pytest.raises(CheckpointError, match="metrics cannot be written .File too large"):
                for step in range(200):
                    writer.write("pretrain", step, {str(place): 1.0 for place in range(9)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_in_the_way_is_told(tmp_path):
    (tmp_path / METRICS_FILE).mkdir()
    with pytest.raises(CheckpointError, match="metrics cannot be written .Is a directory"):
        MetricWriter(tmp_path)


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricWriter(tmp_path / "run") as writer:
        writer.write("pretrain", 1, {"loss": 1.0})
        writer.flush()
    assert not (tmp_path / "run").exists()


def test_refuses_what_it_cannot_write(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        with pytest.raises(TypeError, match=r"metric 'train/loss' is \[1\]; expected a number"):
            writer.write("pretrain", 1, {"train": {"loss": [1]}})
        with pytest.raises(TypeError, match=r"metric 'loss' is array\(\[1, 2\]\); expected a num"):
            writer.write("pretrain", 1, {"loss": np.array([1, 2])})
        with pytest.raises(ValueError, match="metric 'step' would hide the field of that name"):
            writer.write("pretrain", 1, {"step": 3})
    assert read_metrics(tmp_path) == []
