"""Progress in a file and on a terminal."""

import io

import jax
import jax.numpy as jnp
import pytest

from raserec_jax.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines_of(stream):
    return stream.getvalue().splitlines()


def test_a_line_per_epoch_without_a_terminal():
    stream = io.StringIO()
    with Progress(3, "pretrain", "epoch", stream=stream) as progress:
        for epoch in range(3):
            progress.update(1, loss=jnp.float32(6 - epoch), **{"NDCG@10": 0.04151})
    lines = lines_of(stream)
    assert len(lines) == 3
    assert lines[0].startswith("pretrain: 1/3 epochs, loss 6.0000 NDCG@10 0.0415, ")
    assert lines[0].endswith(" left")
    assert "3/3 epochs" in lines[2]
    assert "took 00:00" in lines[2]


def test_steps_without_a_terminal():
    stream = io.StringIO()
    with Progress(10, "finetune", "step", stream=stream, line_every=4) as progress:
        for _ in range(5):
            progress.update(2)
        progress.line("epoch 1 done")
    lines = lines_of(stream)
    assert [line.split(",")[0] for line in lines] == [
        "finetune: 4/10 steps",
        "finetune: 8/10 steps",
        "epoch 1 done",
        "finetune: 10/10 steps",
    ]
    assert "steps/s" in lines[0]


def test_only_the_end_is_told_where_no_line_was_asked_for():
    stream = io.StringIO()
    with Progress(None, "encode", "user", stream=stream) as progress:
        progress.update(500)
        progress.update(500, state="done")
    (line,) = lines_of(stream)
    assert line.startswith("encode: 1000 users, state done, ")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_a_resumed_run_counts_on(stream):
    with Progress(10, "pretrain", "epoch", initial=8, stream=stream) as progress:
        progress.update(1)
    assert "9/10" in stream.getvalue()
    assert "8/10 epochs" not in stream.getvalue()


def test_nothing_done_nothing_told():
    stream = io.StringIO()
    with Progress(10, "pretrain", "step", initial=10, stream=stream):
        pass
    assert stream.getvalue() == ""


def test_a_bar_on_a_terminal():
    stream = Terminal()
    with Progress(4, "pretrain", "step", stream=stream) as progress:
        progress.update(2, loss=5.25)
        progress.line("a line of its own")
        progress.update(2)
    shown = stream.getvalue()
    assert "pretrain: 100%" in shown
    assert "loss 5.2500" in shown
    assert "a line of its own\n" in shown


def test_only_process_0_shows(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    for stream in (io.StringIO(), Terminal()):
        with Progress(1, "pretrain", "epoch", stream=stream) as progress:
            progress.update(1)
            progress.line("text")
        assert stream.getvalue() == ""


def test_slow_units_are_told_as_time_per_unit():
    progress = Progress(4, "pretrain", "epoch", stream=io.StringIO())
    progress.update(2)
    assert progress._state_text(50.0) == "pretrain: 2/4 epochs, 25.0 s/epoch, 00:50 left"
    progress.close()
