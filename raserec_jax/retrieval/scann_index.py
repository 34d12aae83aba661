"""ScannIndex: the interface of ExactIndex through ScaNN, for banks where exact search on a CPU takes too long.

ScaNN 1.4.2 has traps that this file keeps to itself: it imports TensorFlow if it can and then fails on a newer
one; it cannot filter, so more than k are fetched and rows that the query may not see dropped; where a search of
the tree runs dry it pads with row 0 and distance NaN; it refuses empty batches; its training has no seed, so two
builds differ (save what was found to repeat a run). Rows are known by position only: no ids, hence no pickles.

Settings follow the makers' advice (google-research, scann/docs/algorithms.md): below 20,000 rows brute force,
below 100,000 asymmetric hashing with exact reordering, above that also a tree of about sqrt(rows) leaves.
How many rows are reordered and how many leaves searched is tuned on the bank's own vectors to a recall target.
"""

import copy
import importlib
import math
import sys
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from raserec_jax.errors import ConfigError
from raserec_jax.retrieval.eligibility import Queries, check_times, checked_queries, may_see_rows
from raserec_jax.retrieval.exact import ExactIndex
from raserec_jax.retrieval.layout import unit_rows
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.retrieved import Retrieved, masked
from raserec_jax.retrieval.scann_rows import ScannRows

BRUTE_FORCE_BELOW = 20_000
TREE_FROM = 100_000
_TRAINING_SAMPLE = 250_000
_TUNING_QUERIES = 256
# Beyond this many per query, or this share of the bank, searching it exactly is cheaper than fetching more.
_LARGEST_FETCH = 512
_LARGEST_SHARE = 1 / 256
_LEAST_SHOWN = 1 / 16
# Bounds the host arrays of one call: queries * fetched.
_FETCHED_AT_ONCE = 2**23
# Hashing has 16 cluster centres per block of dimensions to train.
_FEWEST_TO_TRAIN = 16
_ABSENT = object()


class ScannIndex:
    """Approximate cosine search over one version of a bank; never a row that the query may not see.

    Attributes:
      bank, eligibility, build_s: as in ExactIndex.
      settings: what was built and tuned, for the report.
      exact_queries: how many queries of the last search were finished by exact search.
    """

    def __init__(
        self,
        bank: MemoryBank,
        *,
        eligibility: str = "own_earlier",
        recall_target: float = 0.97,
        top_k: int = 20,
        seed: int = 0,
        brute_force_below: int = BRUTE_FORCE_BELOW,
        tree_from: int = TREE_FROM,
        exact: ExactIndex | None = None,
    ):
        """Builds and tunes the index.

        Args:
          bank: any size.
          eligibility: which rows a query may see.
          recall_target: recall of the best `top_k` to tune for, in (0, 1]; higher is slower.
          top_k: how many neighbours will mostly be asked for; any number may be.
          seed: which of the bank's vectors are asked when tuning. (ScaNN's own training has no seed.)
          brute_force_below, tree_from: rows at which the kind of index changes.
          exact: of the same bank and rule, if there is one already: it serves here too, and no other is made.

        Raises:
          ConfigError: ScaNN is not installed, recall_target is outside (0, 1], an unknown rule, or `before` for a
            bank without times.
        """
        check_times(eligibility, bank)
        if not 0 < recall_target <= 1:
            raise ConfigError(
                f"recall_target={recall_target} must be above 0 and at most 1; try 0.97"
            )
        scann = import_scann()
        start = time.perf_counter()
        self.bank = bank
        self.eligibility = eligibility
        self.exact_queries = 0
        self.settings = {"kind": _kind(bank.rows, brute_force_below, tree_from)}
        self._exact = exact
        self._hidden: np.ndarray | None = None
        self._stretch = 1.0
        self._rows: ScannRows | None = None
        if bank.rows:
            self._rows = ScannRows(
                _build(scann, unit_rows(bank.keys), self.settings), *bank.keys.shape
            )
        if self.settings["kind"] != "brute_force":
            self._tune(top_k, recall_target, np.random.default_rng(seed))
        self.build_s = time.perf_counter() - start

    def hiding(self, hidden: Bool[np.ndarray, " rows"]) -> "ScannIndex":
        """The same index without the rows that are set; this one stays as it is, and shares the keys."""
        index = copy.copy(self)
        index._hidden = hidden
        # Where hidden rows take places among the best, more are asked for, of more leaves.
        index._stretch = 1 / max(1 - hidden.mean(), _LEAST_SHOWN)
        index._exact = None if self._exact is None else self._exact.hiding(hidden)
        return index

    def tuned_to(self, recall_target: float, *, top_k: int = 20, seed: int = 0) -> "ScannIndex":
        """The same index with settings for another recall target; arguments as of the constructor. What ScaNN has built
        is shared: settings are told anew in each search."""
        index = copy.copy(self)
        index.settings = dict(self.settings)
        if index.settings["kind"] != "brute_force":
            index._tune(top_k, recall_target, np.random.default_rng(seed))
        return index

    def following(self, bank: MemoryBank) -> "ScannIndex | None":
        """The index of a bank with the same rows and more; ScaNN takes the new ones in, this index does not show them.

        None if another bank went on from this one.
        """
        rows = self._rows
        if rows is None or not rows.append(unit_rows(bank.keys[self.bank.rows :]), self.bank.rows):
            return None
        index = copy.copy(self)
        index.bank, index._exact, index._hidden, index._stretch = bank, None, None, 1.0
        return index

    @property
    def wants_training(self) -> bool:
        """Whether one trained anew would find much better, as far as growth and ScaNN's statistics tell."""
        return self._rows is not None and self._rows.wants_training

    def search(self, queries: Queries, k: int) -> Retrieved:
        """The k best rows found that each query may see; arguments, result and errors as in ExactIndex.search.

        Fetches some more than k, drops what may not be seen, and asks again for twice as many for the queries that
        are still short; the last few are searched exactly, so a list is short only if the bank has no more for it.
        """
        queries = checked_queries(self.eligibility, self.bank, queries, k)
        count = len(queries.vectors)
        vectors = unit_rows(queries.vectors)
        ids = np.zeros((count, k), np.int32)
        scores = np.zeros((count, k), np.float32)
        mask = np.zeros((count, k), bool)
        short = np.arange(count)
        limit = max(_LARGEST_FETCH, int(_LARGEST_SHARE * self.bank.rows), 2 * k)
        limit = min(limit, self.bank.rows)
        fetch = 0
        while len(short) and fetch < limit:
            fetch = min(max(2 * fetch, math.ceil(self._stretch * _first_fetch(k))), limit)
            step = max(1, _FETCHED_AT_ONCE // fetch)
            for part in (short[start : start + step] for start in range(0, len(short), step)):
                found = self._fetch(vectors[part], fetch)
                ids[part], scores[part], mask[part] = best_seen(
                    *found, self._seen(queries, part, found[0]), k
                )
            short = short[~mask[short].all(axis=1)]
            if fetch == self._rows.rows and self.settings["kind"] == "brute_force":
                short = short[:0]  # every row was looked at: there are no more
        self.exact_queries = len(short)
        if len(short):
            rest = self._exact_index().search(_take(queries, short), k)
            ids[short], scores[short], mask[short] = map(np.asarray, rest)
        return masked(ids, scores, mask)

    def _fetch(self, vectors: np.ndarray, fetch: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and cosines [queries, fetched], -inf where ScaNN padded with row 0 and NaN."""
        reorder, leaves = self.settings.get("reorder_factor"), self.settings.get("leaves_to_search")
        ids, scores = self._rows.search(
            vectors,
            final_num_neighbors=fetch,
            pre_reorder_num_neighbors=reorder and min(reorder * fetch, self.bank.rows),
            leaves_to_search=leaves
            and min(math.ceil(self._stretch * leaves), self.settings["leaves"]),
        )
        found = np.isfinite(scores) & (ids < self.bank.rows)
        ids = np.where(found, ids, 0).astype(np.int32)
        return ids, np.where(found, scores + 0.0, -np.inf)  # + 0.0: no -0.0

    def _seen(self, queries: Queries, part: np.ndarray, ids: np.ndarray) -> np.ndarray:
        seen = may_see_rows(self.eligibility, self.bank, _take(queries, part), ids)
        return seen if self._hidden is None else seen & ~self._hidden[ids]

    def _exact_index(self) -> ExactIndex:
        """Made when first needed: it holds the keys twice more."""
        if self._exact is None:
            exact = ExactIndex(self.bank, eligibility=self.eligibility)
            self._exact = exact if self._hidden is None else exact.hiding(self._hidden)
        return self._exact

    def _tune(self, top_k: int, recall_target: float, rng: np.random.Generator) -> None:
        """The fewest reordered rows, then the fewest leaves, that reach the target on a sample of the bank."""
        rows = self.bank.rows
        sample = np.sort(rng.choice(rows, min(_TUNING_QUERIES, rows), replace=False))
        k = min(top_k + 1, rows)  # one more: each vector finds itself
        vectors = unit_rows(self.bank.keys[sample])
        asked = Queries(vectors, self.bank.user_ids[sample], self.bank.lengths[sample])
        exact = self._exact if self.eligibility == "all" else None
        truth = (exact or ExactIndex(self.bank, eligibility="all")).search(asked, k)
        worst = np.asarray(truth.scores)[:, -1:]
        fetch = min(_first_fetch(k), rows)

        def recall() -> float:
            scores = self._fetch(vectors, fetch)[1]
            return float((np.sort(scores, axis=1)[:, -k:] >= worst - 1e-5).mean())

        leaves = self.settings.get("leaves")
        if leaves:
            self.settings["leaves_to_search"] = leaves
        # Half of what may be missed is left to the leaves.
        half_way = (1 + recall_target) / 2
        _lower_to(self.settings, "reorder_factor", 2, -(-rows // fetch), recall, half_way)
        if leaves:
            _lower_to(self.settings, "leaves_to_search", 1, leaves, recall, recall_target)
        self.settings["tuning_recall"] = recall()


def import_scann():
    """The module, imported as if there were no TensorFlow.

    Raises:
      ConfigError: it is not installed, or does not load on this machine.
    """
    # ScaNN 1.4.2 looks for TensorFlow and, finding 2.21, dies loading an op library that was built for 2.20.
    before = sys.modules.get("tensorflow", _ABSENT)
    sys.modules["tensorflow"] = None
    try:
        return importlib.import_module("scann")
    except ImportError as error:
        raise ConfigError(
            f"engine=scann needs ScaNN, which does not load here ({error}); install it with "
            "`pip install 'scann>=1.4.2'` (Linux, Python below 3.14) or set config.memory.engine=exact"
        ) from error
    finally:
        if before is _ABSENT:
            del sys.modules["tensorflow"]
        else:
            sys.modules["tensorflow"] = before


def _kind(rows: int, brute_force_below: int, tree_from: int) -> str:
    if rows < max(brute_force_below, _FEWEST_TO_TRAIN):
        return "brute_force"
    return "hashing" if rows < tree_from else "tree"


def _build(scann, keys: np.ndarray, settings: dict):
    """Builds the searcher; adds to `settings` what it depends on."""
    # How many to return and to reorder and how many leaves to search is said anew in each search.
    builder = scann.scann_ops_pybind.builder(keys, 10, "dot_product")
    if settings["kind"] == "brute_force":
        return builder.score_brute_force().build()
    if settings["kind"] == "tree":
        settings["leaves"] = max(1, round(len(keys) ** 0.5))
        builder = builder.tree(
            num_leaves=settings["leaves"],
            num_leaves_to_search=1,
            training_sample_size=min(len(keys), _TRAINING_SAMPLE),
        )
    return builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()


def best_seen(
    ids: np.ndarray, scores: np.ndarray, seen: np.ndarray, k: int
) -> tuple[np.ndarray, ...]:
    """ids, scores, mask [queries, k]: the best that may be seen; on equal scores the lower row first."""
    scores = np.where(seen, scores, -np.inf)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    ids, scores = (np.take_along_axis(array, order, axis=1) for array in (ids, scores))
    missing = ((0, 0), (0, k - order.shape[1]))
    ids, scores = np.pad(ids, missing), np.pad(scores, missing, constant_values=-np.inf)
    return ids, scores, scores > -np.inf


def _take(queries: Queries, rows: np.ndarray) -> Queries:
    return Queries(*(None if column is None else column[rows] for column in queries))


def _first_fetch(k: int) -> int:
    """How many to ask ScaNN for at first: some of them may not be seen, mostly the user's own later rows."""
    return k + max(k // 2, 10)


def _lower_to(
    settings: dict, name: str, least: int, most: int, recall: Callable[[], float], target: float
) -> None:
    """Sets the least value with which the target is reached, to about an eighth; `most` if none does."""

    def reached(value: int) -> bool:
        settings[name] = value
        return recall() >= target

    low, high = least, least
    while high < most and not reached(high):
        low, high = high, min(2 * high, most)
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    settings[name] = high
