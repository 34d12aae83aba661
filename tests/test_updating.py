"""What an update changes, against plain histories: each entry is that of its place, whatever the order of events."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raserec_jax.data.interactions import InteractionLog
from raserec_jax.errors import DataError
from raserec_jax.recommend.histories import Histories
from raserec_jax.recommend.updating import is_time, plan_update, read_events
from raserec_jax.store import MemoryStore
from tests.store.rows import quick_folder

USERS, ITEMS = 4, 6


def log_of(times=True):
    """User uN took items 1, 2, ... at times 10, 20, ...; N + 2 of them."""
    users = [f"u{n}" for n in range(USERS) for _ in range(n + 2)]
    items = [f"i{1 + place % ITEMS}" for n in range(USERS) for place in range(n + 2)]
    at = [10 * (place + 1) for n in range(USERS) for place in range(n + 2)]
    return InteractionLog.from_columns(users, items, timestamp=at if times else None)


def key_of(history):
    """A key that tells histories apart."""
    powers = 7.0 ** np.arange(len(history))
    return [len(history), float((history * powers).sum() % 9973), float(history[-1])]


class Live:
    """A store that goes on from a log, with the bank that training would leave: all but each user's last item."""

    def __init__(self, folder, log):
        self.log = log
        self.store = MemoryStore.create(
            folder,
            encoder_fingerprint="e",
            dim=3,
            num_users=log.num_users,
            num_items=log.num_items,
            time_dtype=None if log.timestamps is None else "int64",
        )
        rows = []
        for user in range(log.num_users):
            items, start = log.items_of(user), log.offsets[user]
            rows += [
                (key_of(items[:place]), items[place], user, place, start + place)
                for place in range(1, len(items) - 1)
            ]
        keys, targets, users, lengths, places = map(np.array, zip(*rows, strict=True))
        times = None if log.timestamps is None else log.timestamps[places]
        self.store.append(keys, targets, users, lengths, times)

    def update(self, events):
        columns = read_events(events, self.log)
        planned = plan_update(Histories(self.log, self.store.snapshot), *columns)
        version = self.store.version
        if planned.report.events:
            keys = np.array([key_of(h) for h in planned.histories], np.float32).reshape(-1, 3)
            version = self.store.append(
                keys,
                *planned[1:5],
                events=planned.events,
                new_users=planned.new_users,
                replaced_rows=planned.replaced_rows,
            )
        return planned.report._replace(version=version)

    def entries(self):
        """(user label, length) -> (target, key), of what is there."""
        now = self.store.snapshot
        found = {}
        for row in np.flatnonzero(now.alive):
            user = int(now.user_ids[row])
            label = now.labels.get(user) or self.log.user_labels[user]
            place = (str(label), int(now.lengths[row]))
            assert place not in found, "two entries of one place"
            found[place] = (int(now.target_ids[row]), now.keys[row].tolist())
        return found


def expected_entries(log, events):
    """The same from the log and all events, by sorting."""
    found = {}
    labels = dict.fromkeys([*log.user_labels.tolist(), *(event[0] for event in events)])
    for label in labels:
        user = log.user_id_of(label)
        rows = slice(0) if user is None else slice(*log.offsets[user : user + 2])
        history = [
            (time, 0, place, item, False)
            for place, (time, item) in enumerate(
                zip(log.timestamps[rows], log.item_ids[rows], strict=True)
            )
        ]
        seen = {(time, item) for time, _, _, item, _ in history}
        unremembered = len(history) - 1  # the last one is the test's: no entry
        for order, (_, item, time) in enumerate(e for e in events if e[0] == label):
            item = log.item_id_of(item)
            if item and (time, item) not in seen:
                seen.add((time, item))
                history.append((time, 1, order, item, True))
        history.sort()
        items = np.array([one[3] for one in history])
        for place, (_, _, number, item, is_event) in enumerate(history):
            if place and (is_event or 0 < number < unremembered):
                found[label, place] = (item, np.float32(key_of(items[:place])).tolist())
    return found


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([f"u{n}" for n in range(USERS)] + ["new", "../other"]),
        st.sampled_from([f"i{n}" for n in range(1, ITEMS)] + ["unknown"]),
        st.integers(0, 70),
    ),
    max_size=12,
)


@given(events=EVENTS, cuts=st.lists(st.integers(0, 12), max_size=3))
@settings(max_examples=40)
def test_any_events_in_any_batches_give_the_entries_of_the_histories(events, cuts):
    log = log_of()
    with quick_folder() as folder:
        live, totals = Live(f"{folder}/store", log), np.zeros(8, int)
        ends = sorted({min(cut, len(events)) for cut in cuts} | {len(events)})
        given_so_far = []
        for start, end in zip([0, *ends], ends, strict=False):
            # Within a batch events of one time keep the order given; batches follow one another.
            given_so_far += sorted(events[start:end], key=lambda event: event[2])
            totals += live.update(events[start:end])
            assert live.entries() == expected_entries(log, given_so_far)
        events_taken, _, _, _, unknown, duplicates, *_ = totals.tolist()
        assert events_taken + unknown + duplicates == len(events)
        assert events_taken == int(live.store.snapshot.event_alive.sum())
        if events:  # sent again, nothing changes
            again = live.update(events)
            assert (again.events, again.version) == (0, live.store.version)


def test_only_what_changed_is_encoded(tmp_path):
    live = Live(tmp_path / "store", log_of())
    late = [("u3", "i4", 25)]
    in_order = [("u3", "i4", 60), ("u1", "i2", 60), ("new", "i1", 60), ("new", "i2", 61)]
    plan = plan_update(Histories(live.log, live.store.snapshot), *read_events(in_order, live.log))
    assert [len(history) for history in plan.histories] == [3, 5, 1]
    assert (plan.report.replaced, plan.report.late, plan.report.new_users) == (0, 0, 1)
    plan = plan_update(Histories(live.log, live.store.snapshot), *read_events(late, live.log))
    assert [len(history) for history in plan.histories] == [2, 3, 4]
    assert (plan.report.replaced, plan.report.late) == (2, 1)


def test_without_times_events_follow_in_the_order_given(tmp_path):
    live = Live(tmp_path / "store", log_of(times=False))
    report = live.update([("u0", "i3", None), ("u0", "i3", 5), ("u0", "i1", None)])
    assert (report.events, report.duplicates) == (3, 0)
    assert Histories(live.log, live.store.snapshot).items_of(0).tolist() == [1, 2, 3, 3, 1]


def test_new_users_have_ids_of_the_kind_that_the_log_has(tmp_path):
    log = InteractionLog.from_columns([7, 7, 8, 8, 8], ["a", "b"] * 2 + ["c"], timestamp=range(5))
    live = Live(tmp_path / "store", log)
    live.update([(99, "a", 60), ("100", "a", 60), ("007", "a", 60)])
    found = Histories(log, live.store.snapshot)
    assert [found.label_of(user) for user in range(5)] == [7, 8, 99, 100, "007"]


def test_an_earlier_version_keeps_the_names_of_users_who_are_forgotten_later(tmp_path):
    live = Live(tmp_path / "store", log_of())
    live.update([("new", "i1", 60), ("new", "i2", 61)])
    before = Histories(live.log, live.store.snapshot)
    live.store.delete([USERS], [])
    assert before.label_of(USERS) == "new" and before.user_ids_of(["new"]).tolist() == [USERS]
    assert Histories(live.log, live.store.snapshot).user_ids_of(["new"]).tolist() == [-1]


def test_a_forgotten_user_starts_anew_and_a_removed_item_leaves_its_place(tmp_path):
    live = Live(tmp_path / "store", log_of())
    live.update([("u1", "i5", 60), ("new", "i1", 60), ("new", "i2", 61)])
    store, log = live.store, live.log
    new = store.snapshot.user_ids_by_label["new"]
    store.delete(users=[1, new], items=[log.item_id_of("i2")])
    histories = Histories(log, store.snapshot)
    assert histories.items_of(1).tolist() == [] and histories.items_of(new).tolist() == []
    assert histories.user_ids_of(["new", "u1"]).tolist() == [-1, 1]
    assert histories.items_of(2).tolist() == [1, 0, 3, 4]
    live.update([("u1", "i5", 60), ("u1", "i4", 61), ("new", "i1", 60), ("u2", "i5", 70)])
    store.compact()
    now = store.snapshot
    histories = Histories(log, now)
    assert histories.items_of(1).tolist() == [5, 4]
    assert now.user_ids_by_label["new"] == new + 1
    row = np.flatnonzero((now.user_ids == 2) & (now.lengths == 4) & now.alive)
    assert now.keys[row].tolist() == [np.float32(key_of(np.array([1, 3, 4]))).tolist()]


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (("u1", "i1"), r"give \(user, item, time\)"),
        ("abc", r"give \(user, item, time\)"),
        (7, r"give \(user, item, time\)"),
        (("u1", "i1", None), "time is None"),
        (("u1", "i1", "yesterday"), "time is 'yesterday'"),
        (("u1", "i1", float("nan")), "time is nan"),
        (("u1", "i1", float("inf")), "time is inf"),
        (("u1", "i1", 1.5), "a whole number"),
        (("u1", "i1", True), "time is True"),
        (("u1", "i1", -1), "expected 0.."),
        (("u1", "i1", 10**17), "at most a year from now"),
        (("u1", "i1", 10**20), "at most a year from now"),
        (("u1", "i1", -(10**5000)), "beyond -2.64, expected 0.."),
        (("", "i1", 1), "empty or too long"),
        (("x" * 10_000_000, "i1", 1), "10,000,000 characters"),
        (("u1", "x" * 10_000_000, 1), "10,000,000 characters"),
        ((None, "i1", 1), "no integer or string"),
        (("u1", 1.5, 1), "no integer or string"),
        (("\ud800", "i1", 1), "not valid text"),
        ((10**2000, "i1", 1), "empty or too long"),
        ((10**5000, "i1", 1), "empty or too long"),
    ],
)
def test_what_is_no_event_is_refused_in_one_sentence(event, words):
    with pytest.raises(DataError, match=words) as error:
        read_events([("u1", "i1", 5), event], log_of())
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_events_that_are_a_text_are_refused():
    with pytest.raises(DataError, match="events are 'u1'; give a list"):
        read_events("u1", log_of())


def test_times_are_finite_numbers():
    assert all(map(is_time, (0, -1, 1.5, np.int64(3), np.float32(2), 10**400)))
    assert not any(map(is_time, ("2020-01-01", None, True, np.nan, np.inf, [160], np.array([1]))))


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_the_far_future_is_refused_in_the_unit_of_the_log(unit):
    log = InteractionLog.from_columns(
        ["a", "a"], ["x", "y"], timestamp=[10**9 * unit, 10**9 * unit + 1]
    )
    read_events([("a", "x", 17 * 10**8 * unit)], log)
    with pytest.raises(DataError, match="at most a year from now"):
        read_events([("a", "x", 10**10 * unit)], log)
    for another in (5, 17 * 10**8 * unit // 1000):
        with pytest.raises(
            DataError, match=r"of user 'a': time is .*, in the unit of the log, whose"
        ):
            read_events([("a", "x", another)], log)
