"""launch/recommend.py and launch/evaluate.py: files in, files out, and every mistake in one sentence."""

# ruff: noqa: F811 - fixtures are imported, and named by the tests

import gzip
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from raserec_jax.errors import CheckpointError, ConfigError, DataError
from raserec_jax.recommend import files
from raserec_jax.recommend.files import FileReport, check_paths, recommend_file, write_cards
from raserec_jax.training.reevaluate import reevaluate
from tests import tiny_workdir as tiny
from tests.tiny_workdir import copied, recommender, tiny_workdir  # noqa: F401

ROOT = pathlib.Path(__file__).resolve().parents[1]
HISTORIES = "user_id\thistory\nu03\ti003 i004\nnew\ti009 gone i010\nother\tgone\n"


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    with tiny.quick_compiles():
        yield


@pytest.fixture
def histories(tmp_path):
    path = tmp_path / "histories.tsv"
    path.write_text(HISTORIES, encoding="utf-8")
    return path


def launch(script, *arguments):
    """Runs a script; returns (exit code, stdout, stderr)."""
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, f"launch/{script}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **quick},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def table(path):
    """The rows of a TSV file as dictionaries."""
    names, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows]


# --- recommend --------------------------------------------------------------------------------


def test_tsv(recommender, histories, tmp_path):
    output = tmp_path / "out.tsv"
    report = recommend_file(recommender, histories, output, k=4)
    assert report == FileReport(3, 12, 2, 2, 1)
    assert report.in_words().splitlines() == [
        "12 recommendations for 3 histories",
        "2 items that the training data do not have were skipped, in 2 histories (--strict makes "
        "them an error)",
        "1 histories had no known item and got what is taken most of late",
    ]
    expected = recommender.recommend(
        [["i003", "i004"], ["i009", "i010"], []], 4, users=["u03", "new", None]
    )
    rows = table(output)
    assert list(rows[0]) == ["user_id", "rank", "item_id", "score", "title", "by_popularity"]
    for user, found, place in zip(("u03", "new", "other"), expected, range(3), strict=True):
        part = rows[4 * place : 4 * place + 4]
        assert [row["user_id"] for row in part] == [user] * 4
        assert [row["rank"] for row in part] == ["1", "2", "3", "4"]
        assert [row["item_id"] for row in part] == [one.item for one in found]
        assert [row["title"] for row in part] == [one.title or "" for one in found]
        assert {row["by_popularity"] for row in part} == {str(int(user == "other"))}
        np.testing.assert_allclose(
            [float(row["score"]) for row in part], [one.score for one in found], rtol=1e-4
        )
    assert sorted(os.listdir(tmp_path)) == ["histories.tsv", "out.tsv"]


def test_json_lines_with_reasons_from_the_command_line(tiny_workdir, tmp_path):
    given = tmp_path / "in.jsonl.gz"
    lines = [{"user_id": 7, "history": ["i003", "i004"]}, {"user_id": "ü", "history": ["x"]}]
    given.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    output = tmp_path / "out.jsonl"
    output.write_text("of yesterday")
    arguments = [f"--workdir={tiny_workdir}", f"--histories={given}", f"--output={output}"]
    arguments += ["--k=2", "--explain", "--noexclude_seen", "--show_users"]
    (tmp_path / "deny.txt").write_text("i003\ni020\n")
    lists = [f"--deny={tmp_path / 'deny.txt'}", f"--cards={tmp_path / 'why.html'}"]
    code, out, err = launch("recommend.py", *arguments, *lists)
    assert code == 0, err
    assert err.startswith("recommend: 2/2 users, ") and len(err.splitlines()) == 1
    assert out.splitlines()[0] == f"workdir {tiny_workdir}, scoring finetune"
    assert out.splitlines()[1:3] == [
        str(tmp_path / "why.html"),
        "4 recommendations for 2 histories",
    ]
    assert "User 7" in (tmp_path / "why.html").read_text(encoding="utf-8")
    assert out.splitlines()[-1] == str(output)
    known, unknown = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    assert (known["user_id"], unknown["user_id"]) == (7, "ü")
    assert (known["by_popularity"], unknown["by_popularity"]) == (False, True)
    assert (known["unknown_items"], unknown["unknown_items"], unknown["memories"]) == (0, 1, [])
    assert [one["rank"] for one in known["recommendations"]] == [1, 2]
    found = [*known["recommendations"], *unknown["recommendations"]]
    assert not {one["item_id"] for one in found} & {"i003", "i020"}
    assert list(known["recommendations"][0]) == [
        *("rank", "item_id", "score", "title", "score_without_memory", "memory_weight")
    ]
    assert len(known["memories"]) == 5
    for memory in known["memories"]:
        assert memory.pop("user_id").startswith("u")
        assert list(memory) == ["history", "followed_by", "time", "cosine", "weight", "attention"]
        assert set(memory["followed_by"]) == {"item_id", "title"} == set(memory["history"][0])
    assert sum(memory["weight"] for memory in known["memories"]) == pytest.approx(1, abs=1e-5)


def test_reasons_as_text(recommender, histories, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "HISTORIES_AT_ONCE", 2)  # so that there are two batches
    report = recommend_file(recommender, histories, tmp_path / "out.tsv", k=3, explain=True)
    assert report == FileReport(3, 9, 2, 2, 1)
    rows = table(tmp_path / "out.tsv")
    assert list(rows[0])[6:] == ["score_without_memory", "memory_weight", "memories"]
    explained = recommender.explain(["i003", "i004"], 3, user="u03")
    memories = rows[0]["memories"].split(" | ")
    heaviest = max(explained.memories, key=lambda memory: memory.weight)
    assert len(memories) == 3 and memories[0].startswith(f"{heaviest.weight:.3f}: ")
    assert memories[0].endswith(f" -> {heaviest.followed_by.title or heaviest.followed_by.item}")
    assert (rows[-1]["memories"], rows[-1]["memory_weight"]) == ("", "0.0000")


def test_parquet_in_and_out(recommender, tmp_path):
    """The rows of a TSV file, typed; integer users and items stay integers, mixed users become strings."""
    pytest.importorskip("pyarrow", reason="pyarrow, an optional extra, is not installed")
    import pyarrow as pa
    import pyarrow.parquet as pq

    users, histories = ["u03", "new", "other"], [["i003", "i004"], ["i009", "i010"], ["gone"]]
    given = tmp_path / "in.parquet"
    pq.write_table(pa.table({"user_id": users, "history": histories}), given)
    for ending in ("parquet", "tsv"):
        recommend_file(recommender, given, tmp_path / f"out.{ending}", k=4, explain=True)
    found, rows = pq.read_table(tmp_path / "out.parquet"), table(tmp_path / "out.tsv")
    assert found.column_names == list(rows[0])
    for name in ("user_id", "item_id", "memories"):
        assert found[name].to_pylist() == [row[name] for row in rows]
    assert found["title"].to_pylist() == [row["title"] or None for row in rows]
    assert found["rank"].to_pylist() == [int(row["rank"]) for row in rows]
    assert found["by_popularity"].to_pylist() == [row["by_popularity"] == "1" for row in rows]
    for name in ("score", "score_without_memory"):
        np.testing.assert_allclose(found[name], [float(row[name]) for row in rows], rtol=1e-6)
    for users, kind in (([7, 8, 9], pa.int64()), ([7, "8", 9], pa.string())):
        lines = [json.dumps({"user_id": user, "history": ["i003"]}) for user in users]
        (tmp_path / "in.jsonl").write_text("\n".join(lines))
        recommend_file(recommender, tmp_path / "in.jsonl", tmp_path / "out.parquet", k=1)
        found = pq.read_table(tmp_path / "out.parquet")
        assert found.schema.field("user_id").type == kind
        assert found["user_id"].to_pylist() == [
            int(one) if kind == pa.int64() else str(one) for one in users
        ]


def test_a_broken_line_leaves_nothing_written(recommender, histories, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "HISTORIES_AT_ONCE", 2)
    histories.write_text(HISTORIES + "u4\n")
    output = tmp_path / "out.tsv"
    with pytest.raises(DataError, match="line 5: 1 fields in 'u4', expected 2"):
        recommend_file(recommender, histories, output)
    assert os.listdir(tmp_path) == ["histories.tsv"]
    output.write_text("of yesterday")
    with pytest.raises(DataError, match="line 5"):
        recommend_file(recommender, histories, output)
    assert output.read_text() == "of yesterday"


@pytest.mark.parametrize(
    "line", ['{"user_id": 1, "history": ["gone"]}', '{"user_id": "a\\tb", "history": ["i003"]}']
)
def test_no_mistake_at_the_end_costs_the_work_before_it(recommender, tmp_path, monkeypatch, line):
    given = tmp_path / "in.jsonl"
    given.write_text('{"user_id": 1, "history": ["i003"]}\n' * 5 + line)
    monkeypatch.setattr(files, "HISTORIES_AT_ONCE", 2)
    monkeypatch.setattr(recommender, "recommend", None)  # nothing is asked for
    with pytest.raises(DataError, match="line 6: unknown item 'gone'|holds a tab"):
        recommend_file(recommender, given, tmp_path / "out.tsv", strict=True)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: is no regular file, which is read more than once"):
        check_paths(tmp_path / "pipe", tmp_path / "out.tsv")


def test_unknown_items_are_an_error_if_strict(recommender, histories, tmp_path):
    with pytest.raises(
        DataError, match=r"histories\.tsv, line 3: unknown item 'gone', expected ids of"
    ):
        recommend_file(recommender, histories, tmp_path / "out.tsv", strict=True)
    assert os.listdir(tmp_path) == ["histories.tsv"]


def test_lists_of_items_are_lists(recommender, histories, tmp_path):
    for name in ("allow", "deny"):
        with pytest.raises(
            DataError, match=f"{name}='i003' is a single value; give a list of item"
        ):
            recommend_file(recommender, histories, tmp_path / "out.tsv", **{name: "i003"})
    found = []
    for deny in (["i005", "i030"], np.array([b"i030", b"i005"])):
        recommend_file(recommender, histories, tmp_path / "out.tsv", k=30, deny=deny)
        found.append({row["item_id"] for row in table(tmp_path / "out.tsv")})
    assert found[0] == found[1] and not {"i005", "i030"} & found[0]


def test_ids_that_tsv_cannot_hold(recommender, tmp_path):
    given = tmp_path / "in.jsonl"
    given.write_text('{"user_id": "a\\tb", "history": ["i003"]}')
    with pytest.raises(DataError, match=r"the id 'a\\tb' holds a tab or a line break.*NAME\.jsonl"):
        recommend_file(recommender, given, tmp_path / "out.tsv", k=1)
    recommend_file(recommender, given, tmp_path / "out.jsonl", k=1)
    assert json.loads((tmp_path / "out.jsonl").read_text())["user_id"] == "a\tb"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("out.csv", ConfigError, r"--output=.*out\.csv: expected a name that ends in \.tsv, \.jsonl or \.parquet"),
        ("none/out.tsv", DataError, "there is no folder .*none; give a file in a folder that exists"),
        ("folder.tsv", DataError, "is a folder; give a file"),
        ("histories.tsv", ConfigError, "is the file of histories; give another name"),
    ],
)  # fmt: skip
def test_unusable_outputs(recommender, histories, tmp_path, name, error, message):
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(error, match=message):
        recommend_file(recommender, histories, tmp_path / name)
    assert histories.read_text() == HISTORIES


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none/why.html", DataError, "--cards=.*: there is no folder .*none; give a file in a folder"),
        ("histories.tsv", ConfigError, "--cards=.*: is the file of histories; give another name"),
        ("./out.tsv", ConfigError, "--cards=.*: is the --output too; give another name"),
    ],
)  # fmt: skip
def test_unusable_cards(recommender, histories, tmp_path, name, error, message):
    with pytest.raises(error, match=message):
        check_paths(histories, tmp_path / "out.tsv", f"{tmp_path}/{name}")
    if name != "./out.tsv":
        with pytest.raises(error, match=message):
            write_cards(recommender, histories, tmp_path / name)
    assert histories.read_text() == HISTORIES


def test_a_full_disk_is_one_sentence(recommender, histories, tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DataError, match=r"out\.tsv: cannot be written \(No space left on device\)"):
        recommend_file(recommender, histories, tmp_path / "out.tsv", k=1)
    assert os.listdir(tmp_path) == ["histories.tsv"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"histories": None}, "--histories is missing; give it, for example --histories=histories.tsv"),
        ({"histories": "none.tsv"}, "none.tsv: no such file; check the path"),
        ({"k": "31"}, "k=31 but the catalogue has 30 items; give a k of 1..30"),
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line(tiny_workdir, histories, tmp_path, changed, message):
    output = tmp_path / "out.tsv"
    given = {"workdir": tiny_workdir, "histories": histories, "output": output} | changed
    arguments = [f"--{name}={value}" for name, value in given.items() if value is not None]
    code, _, err = launch("recommend.py", *arguments)
    assert (code, err.startswith("error: "), len(err.splitlines())) == (2, True, 1), err
    assert message in err and not output.exists()


# --- evaluate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [None, "exact"])
def test_the_test_computed_again_is_the_same(tiny_workdir, engine):
    before = sorted((path, path.stat().st_mtime_ns) for path in tiny_workdir.rglob("*"))
    found = reevaluate(tiny_workdir, engine=engine)
    assert found.holds, found.verdict
    assert found.verdict == (
        "240 test metrics of 8 models computed again: all equal those in results.json"
    )
    assert found.table.startswith("test, unfiltered ")
    assert "RaSeRec, bank train+valid" in found.table
    assert sorted((path, path.stat().st_mtime_ns) for path in tiny_workdir.rglob("*")) == before


def test_validation_computed_again_is_the_same(tiny_workdir):
    found = reevaluate(tiny_workdir, "valid")
    assert found.holds
    assert found.verdict.startswith("150 valid metrics of 5 models computed again: all equal those")
    lines = found.table.splitlines()
    models = [line.split()[0] for line in lines[1:6]]
    assert models == ["pretrain", "control", "finetune", "combined", "mixing"]
    record = json.loads((tiny_workdir / "stages/finetune.json").read_text())
    assert f"{record['valid']['unfiltered']['NDCG@10']:.4f}" in lines[3]


def test_metrics_that_are_others_end_with_exit_code_1(copied):
    for stage in ("memory", "finetune", "mixing"):
        (copied / f"stages/{stage}.json").unlink()
    path = copied / "stages/pretrain.json"
    record = json.loads(path.read_text())
    record["valid"]["filtered"]["HR@10"] += 0.25
    path.write_text(json.dumps(record))
    code, out, err = launch("evaluate.py", f"--workdir={copied}", "--split=valid")
    assert (code, len(err.splitlines())) == (1, 1), err
    assert (
        "error: 60 valid metrics of 2 models computed again: 1 differ from those in stages/" in err
    )
    assert "most of all pretrain filtered/HR@10 is" in err
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["pretrain", "control"]
    found = reevaluate(copied)
    assert not found.holds and "is only stored; another machine" in found.verdict


def test_without_memory_the_encoder_is_evaluated(copied):
    for stage in ("memory", "finetune", "mixing", "control"):
        (copied / f"stages/{stage}.json").unlink()
    found = reevaluate(copied, split="valid")
    assert found.holds and found.verdict.startswith("30 valid metrics of 1 models")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "results.json").unlink(), r"results\.json does not exist"),
        (lambda run: (run / "results.json").write_text("{}"), r"results\.json: not the results of a run"),
        (
            lambda run: (run / "results.json").write_text(
                '{"protocol": {"fingerprint": "abc"}, "stages": {}}'
            ),
            r"results of other data \(fingerprint abc, the log's is [0-9a-f]{12}\)",
        ),
        (lambda run: (run / "memory/neighbours_test.npz").unlink(), r"neighbours_test\.npz: cannot be read"),
        (
            lambda run: shutil.copy(run / "memory/neighbours_train.npz", run / "memory/neighbours_test_train_bank.npz"),
            "neighbours of [0-9]+ queries, expected 60",
        ),
        (lambda run: (run / "stages/memory.json").write_text("{}"), "neighbours were found in bank"),
    ],
)  # fmt: skip
def test_unusable_workdirs(copied, damage, message):
    damage(copied)
    with pytest.raises(CheckpointError, match=message):
        reevaluate(copied)


def test_another_engine_may_give_other_metrics(copied):
    """Stored results are changed instead of the engine, so that the metrics differ for certain."""
    path = copied / "results.json"
    results = json.loads(path.read_text())
    results["stages"]["finetune"]["test"]["unfiltered"]["HR@5"] = 0.9876
    path.write_text(json.dumps(results))
    before = reevaluate(copied)
    found = reevaluate(copied, engine="exact")
    assert found.holds
    assert "with engine=exact: 1 differ from those in results.json, most of all finetune unf" in (
        found.verdict
    )
    assert not before.holds
    assert "0.9876" in before.table and "0.9876" not in found.table
