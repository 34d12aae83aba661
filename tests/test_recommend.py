"""Recommender: what it recommends is what a computation by hand from the same parts gives."""

# ruff: noqa: F811 - fixtures are imported, and named by the tests

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import math
import shutil
import threading

import jax
import numpy as np
import pytest

import raserec_jax
from raserec_jax.data.splits import leave_one_out
from raserec_jax.errors import ConfigError
from raserec_jax.recommend import Recommender
from raserec_jax.recommend import model as model_module
from raserec_jax.recommend import recommender as recommender_module
from raserec_jax.recommend.loading import open_workdir
from raserec_jax.recommend.recent_items import RecentItems
from raserec_jax.recommend.scoring import bucket
from raserec_jax.retrieval.memory_bank import COLUMNS, MemoryBank
from tests import tiny_workdir as tiny
from tests.quick_jit import quick_jit
from tests.tiny_workdir import change_config, copied, recommender, tiny_workdir  # noqa: F401

CHANNELS = ("history_to_target", "target_to_history")


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    """Small batches, so that only two sizes are compiled."""
    with tiny.quick_compiles(), pytest.MonkeyPatch.context() as patch:
        for module in (model_module, recommender_module):
            patch.setattr(module, "LARGEST_BATCH", 16)
        yield


class ByHand:
    """One history at a time, NumPy where there is no parameter: encode alone, search all rows, read, sort."""

    def __init__(self, folder):
        self.opened = opened = open_workdir(folder)
        self.log, self.bank, self.params = opened.log, opened.bank(), opened.encoder_params
        self.reader_params = opened.best("finetune")
        self.table = np.asarray(self.params["item_table"])
        self._encode = quick_jit(lambda ids: opened.encoder.apply({"params": self.params}, ids))
        self._read = quick_jit(
            lambda params, *parts: opened.reader.apply(
                {"params": params}, *parts, return_attention=True
            )
        )

    def encode(self, ids):
        kept = ids[-tiny.MAX_LEN :]
        row = np.pad(kept, (0, tiny.MAX_LEN - len(kept)))[None].astype(np.int32)
        return np.asarray(self._encode(row))[0, len(kept) - 1]

    def neighbours(self, query, user_id, length, k):
        """(rows, cosines) of the k best rows that a user at that length may see."""
        bank = self.bank
        cosines = bank.keys @ query / np.linalg.norm(bank.keys, axis=1) / np.linalg.norm(query)
        hidden = (bank.user_ids == user_id) & (bank.lengths >= length)
        rows = np.argsort(-np.where(hidden, -np.inf, cosines), kind="stable")[:k]
        return rows, cosines[rows]

    def read(self, query, rows):
        values = self.table[self.bank.target_ids[rows]]
        augmented, attention, _ = self._read(
            self.reader_params, query[None], self.bank.keys[rows][None], values[None]
        )
        beta = self.opened.reader.beta
        weights = (
            beta * attention["history_to_target"] + (1 - beta) * attention["target_to_history"]
        )
        return np.asarray(augmented)[0], np.asarray(weights)[0]

    def logits(self, query, history):
        """Scores of items 1..V."""
        scores = self.table @ query
        scores[np.unique(history)] += 10 * self.params["repeat_bias"]
        return scores[1:]

    def probabilities(self, query, history):
        logits = self.logits(query, history)
        return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()

    def mass(self, rows, cosines, temperature):
        """Share of the memories that each item 1..V followed."""
        weights = np.exp(cosines / temperature) / np.exp(cosines / temperature).sum()
        return np.bincount(self.bank.target_ids[rows], weights, len(self.table))[1:]


@pytest.fixture(scope="module")
def by_hand(tiny_workdir):
    return ByHand(tiny_workdir)


def histories_of(log, users, drop=1):
    """Original ids of what users took, without their last items."""
    return [log.labels_of(log.items_of(int(user)))[:-drop].tolist() for user in users]


def check_order(found, scores, excluded, k):
    """The recommendations are the items of best score, with it; items that nearly tie may change places."""
    allowed = np.where(np.isin(np.arange(1, len(scores) + 1), excluded), -np.inf, scores)
    ids = [int(one.item[1:]) for one in found]
    assert len(found) == k and len(set(ids)) == k
    np.testing.assert_allclose([one.score for one in found], np.sort(allowed)[::-1][:k], rtol=1e-4)
    np.testing.assert_allclose(
        [one.score for one in found], allowed[np.array(ids) - 1], rtol=1e-4, atol=1e-6
    )


def test_recommendations_are_those_computed_by_hand(recommender, by_hand):
    log = by_hand.log
    users = [*np.argsort(-log.lengths)[:3], *range(8)]  # some have more than max_len items
    histories = [*histories_of(log, users), ["i004"], ["i009", "i009", "i010"]]
    names = [*log.user_labels[users].tolist(), None, "nobody"]
    assert recommender.scoring == "finetune"
    answers = recommender.recommend(histories, k=6, users=names)
    for history, name, found in zip(histories, names, answers, strict=True):
        ids = log.item_ids_of(history)
        user_id = -1 if name in (None, "nobody") else log.user_id_of(name)
        query = by_hand.encode(ids)
        rows, _ = by_hand.neighbours(query, user_id, len(ids), 5)
        augmented, _ = by_hand.read(query, rows)
        check_order(found, by_hand.logits(augmented, ids), ids, 6)
        assert (found.by_popularity, found.unknown_items) == (False, 0)


def test_ranks_are_those_of_the_test(recommender, tiny_workdir):
    log = recommender.log
    users = np.flatnonzero(log.lengths >= 3)
    histories, names = histories_of(log, users), log.user_labels[users].tolist()
    everything = recommender.recommend(histories, log.num_items, users=names, exclude_seen=False)
    unseen = recommender.recommend(histories, log.num_items, users=names)
    with np.load(tiny_workdir / "ranks.npz", allow_pickle=False) as stored:
        assert stored["user_labels"].tolist() == names
        ranks = stored["finetune/unfiltered"], stored["finetune/filtered"]
    for place, history in enumerate(histories):
        target = log.labels_of(log.items_of(int(users[place]))[-1:]).item()
        assert [one.item for one in everything[place]].index(target) == ranks[0][place]
        if target not in history:
            assert [one.item for one in unseen[place]].index(target) == ranks[1][place]


def test_an_answer_depends_on_its_history_alone(recommender):
    histories = histories_of(recommender.log, range(9))
    together = recommender.recommend(histories, k=5)
    for history, found in zip(histories, together, strict=True):
        alone = recommender.recommend([tuple(history)], k=5)[0]
        assert [one.item for one in alone] == [one.item for one in found]
        np.testing.assert_allclose([one.score for one in alone], [one.score for one in found], 1e-4)
    again = recommender.recommend([np.array(history) for history in histories * 2], k=5)
    assert [[one.item for one in found] for found in again] == 2 * [
        [one.item for one in found] for found in together
    ]


def test_sizes_of_batches_are_few():
    assert [bucket(n) for n in (0, 1, 8, 9, 16, 100)] == [8, 8, 8, 16, 16, 128]
    assert bucket(1000, 128) == 128


def test_seen_items_are_left_out_unless_asked_for(recommender):
    history = [f"i{item:03d}" for item in range(1, 27)]
    found = recommender.recommend([history], k=10)[0]
    assert sorted(one.item for one in found) == ["i027", "i028", "i029", "i030"]
    found = recommender.recommend([history], k=10, exclude_seen=False)[0]
    assert len(found) == 10 and {one.item for one in found} & set(history)


def test_original_ids_and_titles_come_back(recommender):
    (found,) = recommender.recommend([["i007"]], k=29)
    assert {one.item for one in found} == {f"i{item:03d}" for item in range(1, 31)} - {"i007"}
    for one in found:
        assert one.title == (None if one.item == "i001" else f"Title {int(one.item[1:])}")
    assert raserec_jax.Recommender is Recommender


def test_unknown_items_are_skipped_and_counted(recommender):
    known, mixed = recommender.recommend([["i003", "i004"], ["i003", "x", 7, "i004"]], k=4)
    assert [one.item for one in mixed] == [one.item for one in known]
    assert (known.unknown_items, mixed.unknown_items, mixed.by_popularity) == (0, 2, False)


def late_items(log, before=None):
    """Item ids, best first, and counts: the newest tenth of the training interactions, user by user in plain Python."""
    moments = [
        (time, user, place, item)
        for user in range(log.num_users)
        for place, (item, time) in enumerate(
            zip(
                log.items_of(user)[:-2].tolist(),
                log.timestamps[log.offsets[user] :].tolist(),
                strict=False,
            )
        )
        if before is None or time < before
    ]
    moments.sort()
    late = collections.Counter(
        item for *_, item in moments[len(moments) - math.ceil(len(moments) / 10) :]
    )
    ever = collections.Counter(item for *_, item in moments)
    ids = sorted(range(1, log.num_items + 1), key=lambda item: (-late[item], -ever[item], item))
    return ids, [late[item] for item in ids]


def test_nothing_known_gives_what_is_taken_most_of_late(recommender):
    log = recommender.log
    ids, counts = late_items(log)
    answers = recommender.recommend([["x", "y"], ["i001"], []], k=3)
    assert [one.by_popularity for one in answers] == [True, False, True]
    assert [one.unknown_items for one in answers] == [2, 0, 0]
    for found in (answers[0], answers[2]):
        assert [one.item for one in found] == log.labels_of(ids[:3]).tolist()
        assert [one.score for one in found] == counts[:3]
    explained = recommender.explain(["x"], k=3)
    assert (explained.memories, explained.history) == ((), ())
    assert explained.recommendations.by_popularity
    assert [one.item for one in explained.recommendations] == [one.item for one in answers[0]]
    assert recommender.recommend([]) == []


def test_of_late_ends_at_as_of(copied):
    change_config(copied, memory__eligibility="before")
    found = Recommender.load(copied)
    ids, counts = late_items(found.log, before=400)
    (answer,) = found.recommend([[]], k=30, as_of=400)
    assert [one.item for one in answer] == found.log.labels_of(ids).tolist()
    assert [one.score for one in answer] == counts
    assert ids != late_items(found.log)[0]


def test_without_times_of_late_is_the_end_of_each_users_order(recommender):
    log = dataclasses.replace(recommender.log, timestamps=None)
    split = leave_one_out(log)
    late, ever = collections.Counter(), collections.Counter()
    for user in range(log.num_users):
        trained = log.items_of(user)[:-2].tolist()
        late.update(trained[len(trained) - math.ceil(len(trained) / 10) :])
        ever.update(trained)
    expected = sorted(range(1, 31), key=lambda item: (-late[item], -ever[item], item))
    ids, counts = RecentItems(split).best()
    assert ids.tolist() == expected and counts.tolist() == [late[item] for item in expected]


# --- allow and deny ---------------------------------------------------------------------------


def test_allow_and_deny_leave_the_best_of_the_rest(recommender):
    histories = [["i003", "i004"], ["i009", "i010", "i011"], ["x"]]
    everything = recommender.recommend(histories, 30)
    allow, deny = [f"i{item:03d}" for item in range(1, 16)] + ["x"], ["i005", "i006", "i020", "y"]
    for options, keep in (
        ({"allow": allow}, lambda item: item in allow),
        ({"deny": deny}, lambda item: item not in deny),
        ({"allow": set(allow), "deny": np.array(deny)}, lambda i: i in allow and i not in deny),
    ):
        answers = recommender.recommend(histories, 30, **options)
        explained = recommender.explain_many(histories, 30, **options)
        for found, reasons, ranked in zip(answers, explained, everything, strict=True):
            expected = [one.item for one in ranked if keep(one.item)]
            assert [one.item for one in found] == expected
            assert [one.item for one in reasons.recommendations] == expected
            scores = {one.item: one.score for one in ranked}
            assert [one.score for one in found] == [scores[item] for item in expected]


class Relabelled(list):
    """Like a column of pandas that was sorted: a number finds by label, not by place."""

    def __getitem__(self, label):
        return super().__getitem__(-1 - label)


def test_users_belong_to_histories_by_their_places(recommender):
    log = recommender.log
    own = [log.labels_of(log.items_of(user)[:-2]).tolist() for user in range(9)]
    users = log.user_labels[:9].tolist()
    assert recommender.recommend(own, users=Relabelled(users)) == recommender.recommend(
        own, users=users
    )
    assert recommender.recommend(own, users=users[::-1]) != recommender.recommend(own, users=users)


# --- batches and threads ----------------------------------------------------------------------


def test_after_one_batch_of_each_size_nothing_is_compiled(recommender):
    """Sizes of the batches are 8 and 16 here (`quick_compiles`); numbers of histories are 1 to 40."""
    history = [f"i{item:03d}" for item in range(1, tiny.MAX_LEN + 1)]
    for count in (1, 9):
        recommender.explain_many([history] * count, 6)
    with counted_compilations() as compiled:
        for count in range(1, 41):
            asked = [history[: 1 + (count + place) % 8] for place in range(count)] + [["x"]]
            answers = recommender.recommend(asked, 6)
            assert [len(found) for found in answers] == [6] * (count + 1)
        recommender.recommend([history], 6, exclude_seen=False, deny=["i004"])
    assert compiled == []
    with counted_compilations() as compiled:
        recommender.recommend([history], 7)  # another k is another program: the count does count
    assert compiled


@contextlib.contextmanager
def counted_compilations():
    """A list that gets an entry for each program that XLA compiles meanwhile."""
    compiled = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_threads_get_whole_answers_while_the_bank_changes(copied):
    """Each answer is that of one version of the bank, memories included: never a mixture of two."""
    found = Recommender.load(copied)
    first = found._model.bank
    # Rows in reverse: the same numbers name other memories, and other targets are read.
    columns = {name: getattr(first, name)[::-1] for name in COLUMNS if name != "target_ids"}
    second = MemoryBank(target_ids=first.target_ids[::-1] % 30 + 1, **columns, version=2)
    histories = [[f"i{1 + (start + place) % 30:03d}" for place in range(4)] for start in range(10)]
    names = [None, "u03", *[None] * 8]
    expected = []
    for bank in (first, second):
        found._model.bank = bank
        expected.append([found.explain(*asked) for asked in zip(histories, [5] * 10, strict=True)])
    assert all(one != other for one, other in zip(*expected, strict=True))
    start, stop = threading.Barrier(9), threading.Event()

    def read(seed):
        start.wait()
        for place in np.random.default_rng(seed).integers(0, 10, 12).tolist():
            answer = found.explain(histories[place], 5)
            assert answer in (expected[0][place], expected[1][place])
            plain = found.recommend([histories[place]], 5, users=[names[place]])[0]
            assert len(plain) == 5
        return True

    def write():
        start.wait()
        for turn in itertools.count():
            if stop.wait(0.01):
                return
            found._model.bank = (first, second)[turn % 2]

    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        writer = pool.submit(write)
        readers = [pool.submit(read, seed) for seed in range(8)]
        assert all(reader.result() for reader in readers)
        stop.set()
        writer.result()


# --- reasons ----------------------------------------------------------------------------------


def test_explanation_holds_what_was_retrieved_and_read(recommender, by_hand):
    log, bank = by_hand.log, by_hand.bank
    history = histories_of(log, [4])[0]
    ids = log.item_ids_of(history)
    query = by_hand.encode(ids)
    rows, cosines = by_hand.neighbours(query, 4, len(ids), 5)
    augmented, weights = by_hand.read(query, rows)
    found = recommender.explain(history, k=6, user=log.user_labels[4].item())
    assert (found.scoring, len(found.memories)) == ("finetune", 5)
    for memory, row, cosine, weight in zip(found.memories, rows, cosines, weights, strict=True):
        stored = log.items_of(int(bank.user_ids[row]))[: bank.lengths[row]][-10:]
        assert [one.item for one in memory.history] == log.labels_of(stored).tolist()
        assert memory.followed_by.item == log.labels_of(bank.target_ids[row : row + 1]).item()
        np.testing.assert_allclose((memory.cosine, memory.weight), (cosine, weight), rtol=1e-4)
        assert memory.time == np.unique(log.timestamps)[bank.times[row]] and memory.user is None
        user, place = int(bank.user_ids[row]), int(bank.lengths[row])
        assert memory.time == log.timestamps[log.offsets[user] + place]
        parts = [found.channel_shares[name] * memory.attention[name] for name in CHANNELS]
        np.testing.assert_allclose(sum(parts), weight, rtol=1e-4)
    for name in CHANNELS:
        total = sum(memory.attention[name] for memory in found.memories)
        np.testing.assert_allclose(total, 1, rtol=1e-5)
    assert found.history == tuple(recommender._item(item) for item in ids.tolist())
    asked = recommender.explain(history, k=6, user=log.user_labels[4].item(), show_users=True)
    assert [one.user for one in asked.memories] == log.user_labels[bank.user_ids[rows]].tolist()
    assert [one._replace(user=None) for one in asked.memories] == list(found.memories)
    np.testing.assert_allclose(sum(memory.weight for memory in found.memories), 1, rtol=1e-5)
    check_order(found.recommendations, by_hand.logits(augmented, ids), ids, 6)
    for one in found.recommendations:
        plain = by_hand.logits(query, ids)[int(one.item[1:]) - 1]
        np.testing.assert_allclose(one.score_without_memory, plain, rtol=1e-4, atol=1e-6)
        followed = [m.weight for m in found.memories if m.followed_by.item == one.item]
        np.testing.assert_allclose(one.memory_weight, sum(followed), rtol=1e-5)
    assert any(one.memory_weight > 0 for one in recommender.explain(history, 20).recommendations)


def test_a_known_user_does_not_see_his_own_moment(recommender):
    """The bank holds this history with what followed; only others may be told."""
    log = recommender.log
    history, name = histories_of(log, [11], drop=2)[0], log.user_labels[11].item()
    followed_by = log.labels_of(log.items_of(11)[-2:-1]).item()
    own = {"history": history[-10:], "followed_by": followed_by}

    def told(user):
        memories = recommender.explain(history, user=user).memories
        return own in [
            {
                "history": [one.item for one in memory.history],
                "followed_by": memory.followed_by.item,
            }
            for memory in memories
        ]

    assert told(None) and told("nobody") and not told(name)


# --- what scores ------------------------------------------------------------------------------


def test_without_stage_2_neighbours_are_mixed_in(copied, by_hand):
    (copied / "stages/finetune.json").unlink()
    found = Recommender.load(copied)
    assert found.scoring == "mixing"
    mixture = json.loads((copied / "stages/mixing.json").read_text())["mixing"]
    check_mixture(found, by_hand, mixture, by_hand_reads=False)


def test_reader_and_neighbours_are_combined_where_the_configuration_says_so(copied, by_hand):
    change_config(copied, finetune__combine=True)
    found = Recommender.load(copied)
    assert found.scoring == "combined"
    mixture = json.loads((copied / "stages/mixing.json").read_text())["combined"]
    check_mixture(found, by_hand, mixture, by_hand_reads=True)
    (copied / "stages/mixing.json").unlink()
    assert Recommender.load(copied).scoring == "finetune"


def check_mixture(found, by_hand, mixture, *, by_hand_reads):
    weight, temperature = 0.3, mixture["temperature"]
    mixture["weight"] = weight  # the one tried; 0 may have been chosen
    found._model.method = found._model.method._replace(
        mixture=found._model.method.mixture._replace(weight=weight)
    )
    history = histories_of(by_hand.log, [5])[0]
    ids = by_hand.log.item_ids_of(history)
    query = by_hand.encode(ids)
    rows, cosines = by_hand.neighbours(query, 5, len(ids), mixture["top_k"])
    base = by_hand.read(query, rows[:5])[0] if by_hand_reads else query
    scores = (1 - weight) * by_hand.probabilities(base, ids)
    scores = scores + weight * by_hand.mass(rows, cosines, temperature)
    explained = found.explain(history, 6, user="u05")
    check_order(explained.recommendations, scores, ids, 6)
    for one in explained.recommendations:
        plain = by_hand.probabilities(query, ids)[int(one.item[1:]) - 1]
        np.testing.assert_allclose(one.score_without_memory, plain, rtol=1e-4)
    assert len(explained.memories) == 8
    np.testing.assert_allclose(sum(memory.weight for memory in explained.memories), 1, rtol=1e-5)


def test_without_memory_stages_the_encoder_scores(copied, by_hand):
    for stage in ("finetune", "mixing", "memory"):
        (copied / f"stages/{stage}.json").unlink()
    shutil.rmtree(copied / "memory")
    found = Recommender.load(copied)
    assert found.scoring == "pretrain"
    history = histories_of(by_hand.log, [6])[0]
    ids = by_hand.log.item_ids_of(history)
    explained = found.explain(history, 4)
    check_order(explained.recommendations, by_hand.logits(by_hand.encode(ids), ids), ids, 4)
    assert explained.memories == ()
    for one in explained.recommendations:
        assert (one.score_without_memory, one.memory_weight) == (pytest.approx(one.score), 0.0)


def test_as_of_hides_later_memories(copied):
    change_config(copied, memory__eligibility="before")
    found = Recommender.load(copied)
    log, history = found.log, ["i003", "i004"]
    times = dict(zip(log.item_ids.tolist(), log.timestamps.tolist(), strict=True))
    assert len(found.explain(history).memories) == 5
    assert found.explain(history, as_of=0).memories == ()
    # Histories of one item are followed by something at times 100..159, longer ones later.
    early = found.explain(history, as_of=160).memories
    assert {len(memory.history) for memory in early} == {1} and len(times) == log.num_items
    for wrong in (math.nan, math.inf, True):
        with pytest.raises(ConfigError, match="as_of=.* is no time; give a number in the unit of"):
            found.recommend([history], as_of=wrong)
