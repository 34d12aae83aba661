"""Recommender: histories in, recommendations and their reasons out, in original ids.

    rec = Recommender.load("runs/a")
    rec.recommend([["B00A", "B00B"]], k=10)
    rec.explain(["B00A", "B00B"], k=10)
    rec.update([("u1", "B00C", 1700000000)])    # found by the next call, on disk when this returns
    rec.forget("u1")

A recommendation is what the test evaluates: the history's last max_len items are encoded, the full bank is searched
under `config.memory.eligibility`, the reader reads what was found, and all items are scored. Any number of threads may
ask at once.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from raserec_jax.constants import PAD_ID
from raserec_jax.data.interactions import InteractionLog
from raserec_jax.data.splits import split_log
from raserec_jax.data.storage import PathLike
from raserec_jax.errors import ConfigError, DataError
from raserec_jax.mesh import mesh_of_process
from raserec_jax.recommend.answers import (
    Explained,
    Explanation,
    Item,
    Recommendation,
    Recommendations,
    RetrievedMemory,
)
from raserec_jax.recommend.histories import UNKNOWN_USER
from raserec_jax.recommend.living import LivingMemory
from raserec_jax.recommend.loading import choose_method, open_workdir
from raserec_jax.recommend.memory import Memory, log_times
from raserec_jax.recommend.model import Model, Scored
from raserec_jax.recommend.recent_items import RecentItems
from raserec_jax.recommend.scoring import LARGEST_BATCH
from raserec_jax.recommend.traces import Forgotten
from raserec_jax.recommend.updating import UpdateReport, is_time

MEMORY_ITEMS = 10  # of a memory's history, the last so many are shown
_AT_THE_END = np.iinfo(np.int32).max  # after every time of the log


class Recommender:
    """A trained model with its memory; made by `Recommender.load`.

    Attributes:
      scoring: what ranks the items: "finetune" (the memory reader), "combined" (the reader and its neighbours mixed,
        with `config.finetune.combine`), "mixing" (encoder and neighbours, if stage 2 is not finished) or "pretrain"
        (the encoder alone, if there is no memory either).
      config, log: of the run.
    """

    def __init__(self, model: Model):
        self._model = model
        self._living = LivingMemory(model)

    @classmethod
    def load(cls, workdir: PathLike, *, mesh: Mesh | str | None = "data:-1") -> "Recommender":
        """Reads the workdir of launch/train.py or `train`; nothing there is changed.

        Args:
          mesh: an exactly searched memory lies over all its devices, with the same answers; threads that ask at once
            search it one after the other. A mesh, or a text as --mesh takes; by default all devices of this process.
            None: the default device alone.

        Raises:
          ConfigError: the mesh does not fit the devices, or has some of other processes.
          CheckpointError: it is no workdir, its pre-training is not finished, or a part is damaged or foreign.
        """
        opened = open_workdir(workdir)
        method = choose_method(opened)
        if method.reader_params is not None:
            _, opened = opened.best_reader()
        recommender = cls(Model(opened, method, None, mesh_of_process(mesh)))
        if method.scoring != "pretrain" and not recommender.refresh():
            recommender.model.bank = opened.bank()
        return recommender

    @property
    def scoring(self) -> str:
        return self._model.method.scoring

    @property
    def model(self) -> Model:
        """What computes, in dense ids."""
        return self._model

    @property
    def config(self) -> ConfigDict:
        return self._model.workdir.config

    @property
    def log(self) -> InteractionLog:
        return self._model.workdir.log

    def fingerprint(self) -> str:
        """SHA-256 over all that an answer depends on, but for what is asked: model, memory, log and titles."""
        return hashlib.sha256(
            json.dumps([self._model.fingerprint(), self.log.fingerprint(), self._titles]).encode()
        ).hexdigest()

    def recommend(
        self,
        histories: Iterable,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        users: Sequence | None = None,
        as_of: int | float | None = None,
        allow: Iterable | None = None,
        deny: Iterable | None = None,
    ) -> list[Recommendations]:
        """The k best items for each history.

        Args:
          histories: original item ids, oldest first. Items that the log does not have are skipped and counted; a
            history with no known item gets what is taken most of late (`recent_items`). The answer's attributes tell
            both.
          k: how many, 1..items.
          exclude_seen: leave out the items of the history.
          users: original user id of each history; None for one that the log does not have. Under `own_earlier` a
            known user does not see his own memories of this moment and later ones; others see everything.
          as_of: time from which on no memory is used, in the log's unit; for `memory.eligibility=before`.
          allow: original ids of the only items that may be recommended; those that the log does not have are skipped.
          deny: original ids of items that must not be recommended.

        Returns:
          One `Recommendations` per history, of `Recommendation`; fewer than k where fewer items are left.

        Raises:
          ConfigError: k outside 1..items, or `as_of` with another eligibility or no number.
          DataError: a history is no list of ids, not one user per history, or no item is allowed.
        """
        asked = self._asked(histories, users, k, as_of, allow, deny)
        answers = {row: self._popular_answer(asked, row, k) for row in asked.rows(known=False)}
        for rows, _, ids, scores in self._batches(asked, k, exclude_seen):
            for place, row in enumerate(rows):
                answers[row] = self._answer(asked, row, ids[place], scores[place])
        return [answers[row] for row in range(len(asked.items))]

    def explain(
        self,
        history: Iterable,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        user: int | str | None = None,
        as_of: int | float | None = None,
        allow: Iterable | None = None,
        deny: Iterable | None = None,
        show_users: bool = False,
    ) -> Explanation:
        """Recommendations for one history, with the memories that were read, their weights, and the scores that
        the encoder alone would give; arguments and errors as `recommend`.

        `show_users` tells whose each memory is: look at the law, and at who will read it, before asking.
        """
        return self.explain_many(
            [history],
            k,
            exclude_seen=exclude_seen,
            users=[user],
            as_of=as_of,
            allow=allow,
            deny=deny,
            show_users=show_users,
        )[0]

    def explain_many(
        self,
        histories: Iterable,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        users: Sequence | None = None,
        as_of: int | float | None = None,
        allow: Iterable | None = None,
        deny: Iterable | None = None,
        show_users: bool = False,
    ) -> list[Explanation]:
        """`explain` for many histories; arguments and errors as `recommend`."""
        asked = self._asked(histories, users, k, as_of, allow, deny)
        shares, answers = self._model.channel_shares, {}
        for row in asked.rows(known=False):
            found = self._popular_answer(asked, row, k)
            found = found.replaced(Explained(*one, one.score, 0.0) for one in found)
            answers[row] = Explanation(found, (), self.scoring, (), shares)
        for rows, scored, ids, scores in self._batches(asked, k, exclude_seen):
            plain = self._model.plain_scores(scored, ids)
            for place, row in enumerate(rows):
                found = self._answer(asked, row, ids[place], scores[place])
                followed = scored.target_ids[place] == ids[place][: len(found), None]
                weights = (scored.weights[place] * followed).sum(axis=1).tolist()
                reasons = zip(found, plain[place].tolist(), weights, strict=False)
                found = found.replaced(Explained(*one, *reason) for one, *reason in reasons)
                memories = self._memories(scored, place, show_users)
                history = tuple(self._item(item) for item in asked.items[row].tolist())
                own = float(scored.own_weights[place])
                answers[row] = Explanation(found, memories, self.scoring, history, shares, own)
        return [answers[row] for row in range(len(asked.items))]

    def update(self, events: Iterable) -> UpdateReport:
        """Remembers what happened: found by the next call, and on disk when this one returns.

        Args:
          events: (user, item, time) each, in original ids; also of users that are new. The time is in the log's unit,
            None where the log has no times.

        Returns:
          What was taken and what was not; see `updating.plan_update`.

        Raises:
          DataError: an event is no such triple, or its user or time cannot be one; nothing was changed then.
          ConfigError: the workdir has no memory to be updated.
          CheckpointError: the memory is being written to by another process, or cannot be written.
        """
        return self._living.update(events)

    def forget(self, user: int | str, *, compact: bool = True) -> Forgotten:
        """Removes a user, and says what else of the workdir holds traces of him.

        Args:
          user: original id; one that is not known is no error.
          compact: also write the memory's files anew, without him; else `compact` does that later, for many at once.

        Raises:
          CheckpointError: as `update`.
        """
        return self._living.forget([user], [], compact=compact)

    def refresh(self) -> bool:
        """Takes what others, such as launch/update_memory.py, wrote since; whether there was something.

        Other threads may recommend meanwhile; each call reads one version throughout.

        Raises:
          CheckpointError: the memory is damaged, or of another encoder; the version at hand stays.
        """
        return self._living.refresh()

    def save(self, folder: PathLike) -> None:
        """Writes a workdir that `load` reads: model, log and the memory as it is now, without what was removed.

        Raises:
          CheckpointError: the folder exists, or cannot be written, or the workdir is gone.
        """
        self._living.save(folder)

    def _asked(self, histories, users, k: int, as_of, allow, deny) -> "_Asked":
        num_items = self.log.num_items
        if not _is_whole(k) or not 1 <= k <= num_items:
            raise ConfigError(
                f"k={k!r:.80} but the catalogue has {num_items} items; give a k of 1..{num_items}"
            )
        lists = _as_lists(histories)
        if isinstance(users, (str, bytes)):
            raise DataError(f"users={users!r:.80} is a single value; give one user per history")
        users = None if users is None else list(users)  # a column of pandas finds by its labels
        if users is not None and len(users) != len(lists):
            raise DataError(
                f"{len(users)} users for {len(lists)} histories; give one user per history"
            )
        ends = np.cumsum([len(one) for one in lists], dtype=np.int64)
        found = np.split(self.log.item_ids_of([item for one in lists for item in one]), ends[:-1])
        items = [one[one > 0] for one in found[: len(lists)]]
        unknown = [len(one) - len(known) for one, known in zip(lists, items, strict=True)]
        memory = self._model.memory
        user_ids, time = self._user_ids(users, len(lists), memory), self._time(as_of, memory)
        return _Asked(items, unknown, user_ids, time, self._allowed(allow, deny), memory)

    def _allowed(self, allow: Iterable | None, deny: Iterable | None) -> np.ndarray:
        """[items + 1] bool: what may be recommended."""
        allowed = np.full(self.log.num_items + 1, allow is None)
        for ids, value in ((allow, True), (deny, False)):
            if isinstance(ids, (str, bytes)):
                name = "allow" if value else "deny"
                raise DataError(f"{name}={ids!r:.80} is a single value; give a list of item ids")
            if ids is not None:
                allowed[self.log.item_ids_of(list(ids))] = value
        allowed[PAD_ID] = False
        if not allowed.any():
            raise DataError(
                f"allow and deny leave none of the {self.log.num_items} items; give ids as the training data spell "
                f"them, such as {self._labels[1]!r:.80}"
            )
        return allowed

    def _user_ids(self, users: Sequence | None, count: int, memory: Memory | None) -> np.ndarray:
        ids = np.full(count, UNKNOWN_USER, np.int32)
        given = [] if users is None else [row for row in range(count) if users[row] is not None]
        if given:
            find = (memory.histories if memory else self.log).user_ids_of
            ids[given] = find([users[row] for row in given])  # -1 where unknown
        return ids

    def _time(self, as_of: int | float | None, memory: Memory | None) -> int | None:
        """Rank of the time of what is to be predicted; None where the rule does not ask."""
        rule = self.config.memory.eligibility
        if rule != "before":
            if as_of is not None:
                raise ConfigError(
                    f"as_of={as_of} needs the rule 'before' but the run has config.memory.eligibility={rule}; "
                    "leave as_of out or train with config.memory.eligibility=before"
                )
            return None
        if as_of is None:
            return _AT_THE_END
        if not is_time(as_of):
            raise ConfigError(
                f"as_of={as_of!r:.80} is no time; give a number in the unit of the log, such as "
                f"{self.log.timestamps.max()}"
            )
        return int(np.searchsorted(memory.times if memory else log_times(self.log), as_of))

    def _batches(
        self, asked: "_Asked", k: int, exclude_seen: bool
    ) -> Iterator[tuple[list[int], Scored, np.ndarray, np.ndarray]]:
        """Yields (rows, scored, ids [padded, k], scores [padded, k]) of the histories with a known item."""
        known = asked.rows(known=True)
        for start in range(0, len(known), LARGEST_BATCH):
            rows = known[start : start + LARGEST_BATCH]
            histories = [asked.items[row] for row in rows]
            scored = self._model.score(histories, asked.user_ids[rows], asked.time, asked.memory)
            best = self._model.best(scored, k, exclude_seen=exclude_seen, allowed=asked.allowed)
            yield rows, scored, *best

    def _answer(self, asked: "_Asked", row: int, ids, scores, **flags) -> Recommendations:
        found = [
            Recommendation(self._labels[item], score, self._titles[item])
            for item, score in zip(ids.tolist(), scores.tolist(), strict=True)
            if item > 0
        ]
        return Recommendations(found, unknown_items=asked.unknown[row], **flags)

    def _popular_answer(self, asked: "_Asked", row: int, k: int) -> Recommendations:
        """What a history without a known item gets."""
        ids, counts = self._recent.best(asked.time)
        kept = np.flatnonzero(asked.allowed[ids])[:k]
        return self._answer(asked, row, ids[kept], counts[kept], by_popularity=True)

    def _memories(
        self, scored: Scored, place: int, show_users: bool
    ) -> tuple[RetrievedMemory, ...]:
        memory, found = scored.memory, []
        for slot in np.flatnonzero(scored.target_ids[place]):
            bank_row = scored.row_ids[place, slot]
            bank, histories = memory.bank, memory.histories
            user = int(bank.user_ids[bank_row])
            history = histories.items_of(user)[: bank.lengths[bank_row]]
            history = history[history > 0]
            found.append(
                RetrievedMemory(
                    tuple(self._item(item) for item in history[-MEMORY_ITEMS:].tolist()),
                    self._item(int(scored.target_ids[place, slot])),
                    None if bank.times is None else memory.times[bank.times[bank_row]].item(),
                    float(scored.cosines[place, slot]),
                    float(scored.weights[place, slot]),
                    {name: float(one[place, slot]) for name, one in scored.attention.items()},
                    histories.label_of(user) if show_users else None,
                )
            )
        return tuple(found)

    def _item(self, item: int) -> Item:
        return Item(self._labels[item], self._titles[item])

    @functools.cached_property
    def _labels(self) -> list[int | str]:
        return self.log.item_labels.tolist()

    @functools.cached_property
    def _titles(self) -> list[str | None]:
        text = self._model.workdir.text
        found = [None if text is None else text.title_of(label) for label in self._labels]
        # A lone surrogate, which JSON can hold, could not be written to any file.
        return [title and title.encode("utf-8", "replace").decode() for title in found]

    @functools.cached_property
    def _recent(self) -> RecentItems:
        return RecentItems(split_log(self.log, self.config.data))


class _Asked(NamedTuple):
    """Histories in dense ids.

    items: the known ones of each history.  unknown: how many are not.  user_ids: [histories] int32, -1 = unknown.
    time: rank, or None.  allowed: [items + 1] bool, what may be recommended.
    memory: the version that user_ids and time belong to.
    """

    items: list[np.ndarray]
    unknown: list[int]
    user_ids: np.ndarray
    time: int | None
    allowed: np.ndarray
    memory: Memory | None

    def rows(self, *, known: bool) -> list[int]:
        """Histories with a known item, or those without."""
        return [row for row, items in enumerate(self.items) if bool(len(items)) == known]


def _is_whole(value) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _as_lists(histories: Iterable) -> list[list]:
    """Each history as a list, so that an array or a tuple will do and a single id will not."""
    if isinstance(histories, (str, bytes)):
        raise DataError(f"histories is {histories!r:.80}; give a list of lists of item ids")
    lists = []
    for place, history in enumerate(histories):
        if isinstance(history, (str, bytes)) or not hasattr(history, "__len__"):
            raise DataError(
                f"histories[{place}] is {history!r:.80}, a single value; give a list of item ids per user"
            )
        lists.append(history.tolist() if isinstance(history, np.ndarray) else list(history))
    return lists
