"""What a configuration says of its data is what the training reads, and what launch/prepare_data.py makes of it."""

import os
import subprocess
import sys

import pytest

from raserec_jax import presets
from raserec_jax.data.filters import Filters
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.known_sets import IN_DATA_DIR
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.training.pipeline import read_data

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Every filter has something to leave out: see `test_each_filter_changes_the_log`.
FILTERS = {
    "columns": "user_id=who,item_id=sku,rating=stars,timestamp=when",
    "min_rating": 3,
    "from_date": "2014-07-20",
    "to_date": "2014-08-10",
    "duplicates": "last",
    "min_history": 5,
    "max_history": 6,
    "min_interactions": 4,
}
DAY, FIRST = 86_400, 1_405_728_000  # 2014-07-19


@pytest.fixture
def path(tmp_path):
    """A CSV file of ratings over some weeks."""
    rows = [
        (
            f"u{user}",
            f"s{(user * user + place * (place % 4)) % 29}",
            1 + (user + place) % 6,
            FIRST + place * 2 * DAY,
        )
        for user in range(60)
        for place in range(4 + user % 20)
    ]
    file = tmp_path / "sales.csv"
    file.write_text("when,who,sku,stars\n" + "".join(f"{t},{u},{i},{r}\n" for u, i, r, t in rows))
    return file


def configured(path, filters):
    config = presets.raserec("mine")
    config.data.interactions = str(path)
    config.data.update(filters)
    presets.check_config(config)
    return config


def without(name):
    return {key: value for key, value in FILTERS.items() if key != name}


def test_both_scripts_make_the_same_log(path, tmp_path):
    flags = [f"--{name}={value}" for name, value in FILTERS.items()]
    prepared, workdir = tmp_path / "prepared", tmp_path / "run"
    data = ["--format=table", f"--interactions={path}"]
    run("launch/prepare_data.py", *data, f"--output={prepared}", *flags)
    run(
        *("launch/train.py", "--config=configs/raserec.py", f"--workdir={workdir}"),
        *(flag.replace("--", "--config.data.", 1) for flag in (*data, *flags)),
        "--stages=report",  # of nothing: what is left is the log
    )
    log = InteractionLog.load(workdir / "log")
    assert log.fingerprint() == InteractionLog.load(prepared).fingerprint()
    assert log.fingerprint() == read_data(configured(path, FILTERS))[0].fingerprint()


def run(*command):
    environment = {**os.environ, "PYTHONPATH": ROOT, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", [name for name in FILTERS if name != "columns"])
def test_each_filter_changes_the_log(path, name):
    try:
        one_less = read_data(configured(path, without(name)))[0].fingerprint()
    except DataError as error:  # the filters after it leave nothing
        one_less = str(error)
        assert "no user left" in one_less
    assert read_data(configured(path, FILTERS))[0].fingerprint() != one_less


def test_filters_take_their_names_from_the_configuration():
    assert Filters.of(presets.raserec().data) == Filters()


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"columns": "who"}, "columns 'who' is not usable; write role=column pairs"),
        (FILTERS | {"from_date": "last week"}, "from_date='last week' is not usable; expected an"),
        (without("columns"), "no column 'user_id' among"),
        (FILTERS | {"columns": "user_id=who,item_id=sku"}, "min_rating is given but there is no"),
        (FILTERS | {"min_rating": 9}, r"min_rating=9 \(the highest is 6\)"),
        (FILTERS | {"format": "pairs"}, "columns=.* does not go with lines of a user and items"),
    ],
)
def test_what_cannot_be_is_refused(path, filters, message):
    with pytest.raises((ConfigError, DataError), match=message):
        read_data(configured(path, filters))


# users, items, interactions that the settings of each set leave
LEFT = {
    "amazon_beauty": (22363, 12101, 198502),
    "amazon_sports": (35598, 18357, 296337),
    "amazon_clothing": (39387, 23033, 278677),
    "amazon_video_games": (31013, 23715, 287107),
    "wikipedia_edits": (5173, 1000, 154420),
    "ml_latest_small": (610, 3650, 90274),
}


@pytest.mark.parametrize("name", IN_DATA_DIR)
def test_known_sets_with_their_settings(name):
    if not os.path.isdir(os.environ.get("RASEREC_DATA_DIR", "")):
        pytest.skip("RASEREC_DATA_DIR is not set to a folder of real data sets")
    log, text = read_data(presets.raserec(name))
    assert (log.num_users, log.num_items, log.num_interactions) == LEFT[name]
    if text is not None:
        assert set(text.labels.tolist()) == set(log.item_labels[1:].tolist())
