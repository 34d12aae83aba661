"""Model: what a workdir trained, ready to score batches of histories in dense ids."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from raserec_jax.evaluation.ranking import Scores
from raserec_jax.evaluation.top_items import top_items
from raserec_jax.models.encoder import repeat_bias
from raserec_jax.recommend.loading import Method, Workdir
from raserec_jax.recommend.scoring import (
    LARGEST_BATCH,
    bucket,
    encode_windows,
    merged_attention,
    mixture_mass,
    read_memories,
    scores_of,
)
from raserec_jax.retrieval.eligibility import Queries
from raserec_jax.retrieval.memory_bank import MemoryBank
from raserec_jax.retrieval.searcher import Searcher, make_searcher

UNKNOWN_USER = -1  # no bank row is his, so he sees those of all users


class Scored(NamedTuple):
    """A batch, padded to its bucket; host arrays but for the scores.

    scores, plain: with memory, and of the encoder alone on the same scale.
    row_ids: [batch, memories] rows of the bank, best first, -1 = none.
    cosines, weights: [batch, memories]; the weights of a row sum to 1.
    target_ids: [batch, memories] the items that followed, 0 = none.
    """

    scores: Scores
    plain: Scores
    row_ids: np.ndarray
    cosines: np.ndarray
    weights: np.ndarray
    target_ids: np.ndarray


class Model:
    """Encoder, and as far as the method uses them memory, reader and mixture.

    `bank` may be replaced by a later version; the index follows.
    """

    def __init__(self, workdir: Workdir, method: Method, bank: MemoryBank | None):
        self.workdir, self.method, self.bank = workdir, method, bank
        self._table = jnp.asarray(workdir.encoder_params["item_table"])
        self._repeat_bias = repeat_bias(workdir.encoder_params)
        self._searcher: Searcher | None = None

    def score(self, histories: list[np.ndarray], user_ids: np.ndarray, time: int | None) -> Scored:
        """Encodes, searches and reads a batch.

        Args:
          histories: at most LARGEST_BATCH, each [items >= 1] int32.
          user_ids: [histories] int32, UNKNOWN_USER where not in the log.
          time: rank of the time of what is to be predicted; None if the eligibility does not ask.
        """
        size, max_len = bucket(len(histories), LARGEST_BATCH), self.workdir.encoder.max_len
        windows, lengths = np.zeros((size, max_len), np.int32), np.zeros(size, np.int32)
        users = np.full(size, UNKNOWN_USER, np.int32)
        users[: len(histories)] = user_ids
        for place, history in enumerate(histories):
            kept = history[-max_len:]
            windows[place, : len(kept)] = kept
            lengths[place] = len(history)
        query = encode_windows(
            self.workdir.encoder,
            self.workdir.encoder_params,
            windows,
            np.minimum(lengths, max_len),
        )
        plain = Scores(query)
        if self._repeat_bias is not None:
            met = _padded([np.unique(history) for history in histories], size)
            plain = plain._replace(repeat_ids=met, repeat_bias=self._repeat_bias)
        if self.bank is None:
            none = np.zeros((size, 0), np.int32)
            return Scored(plain, plain, none, none, none, none)
        times = None if time is None else np.full(size, time, np.int32)
        return self._with_memory(plain, Queries(np.asarray(query), users, lengths, times))

    def best(
        self, scored: Scored, k: int, exclude: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(item ids, scores) [batch, k], best first, 0 where no item is left; `exclude` has a list per history."""
        excluded = _padded(exclude, scored.scores.query.shape[0])
        ids, values = top_items(scored.scores, self._table, k, excluded)
        return np.asarray(ids), np.asarray(values)

    def plain_scores(self, scored: Scored, item_ids: np.ndarray) -> np.ndarray:
        """Scores [batch, k] that the encoder alone gives to the items."""
        return np.asarray(scores_of(scored.plain, self._table, item_ids))

    def _with_memory(self, plain: Scores, queries: Queries) -> Scored:
        bank, mixture = self.bank, self.method.mixture
        with_reader = self.method.reader_params is not None
        reader_k = self.workdir.config.memory.top_k if with_reader else 0
        top_k = min(max(reader_k, mixture.top_k if mixture else 0), bank.rows)
        found = self._index().search(queries, top_k)
        row_ids, cosines, mask = map(np.asarray, found)
        target_ids = np.where(mask, bank.target_ids[row_ids], 0)
        scores = plain
        weights = np.zeros(mask.shape, np.float32)
        if with_reader:
            used = (row_ids[:, :reader_k], target_ids[:, :reader_k], mask[:, :reader_k])
            augmented, weights[:, :reader_k] = self._read(plain.query, *used)
            scores = plain._replace(query=augmented)
        if mixture is not None:
            k = mixture.top_k
            mass = mixture_mass(cosines[:, :k], mask[:, :k], mixture.temperature)
            scores = scores._replace(
                sparse_ids=target_ids[:, :k], sparse_mass=mass, mix=mixture.weight
            )
            nothing = np.zeros((len(mask), 1), np.float32)
            plain = plain._replace(
                sparse_ids=nothing.astype(np.int32), sparse_mass=nothing, mix=0.0
            )
            share = mixture.weight if with_reader else 1.0
            weights *= 1.0 - share
            weights[:, :k] += share * np.asarray(mass)
        return Scored(scores, plain, row_ids, cosines, weights, target_ids)

    def _read(self, query, row_ids, target_ids, mask) -> tuple[jax.Array, np.ndarray]:
        """User vectors after reading, and the attention."""
        # Gathered on the host: what is compiled does not depend on the size of the bank.
        keys = self.bank.keys[np.where(mask, row_ids, 0)]
        reader, params = self.workdir.reader, self.method.reader_params
        augmented, attention = read_memories(
            reader,
            params,
            query,
            keys,
            target_ids,
            mask,
            self._table,
        )
        return augmented, merged_attention(reader, params, attention, mask)

    def _index(self) -> Searcher:
        """Made when first needed, and anew for another version of the bank."""
        if self._searcher is None or self._searcher.bank is not self.bank:
            memory = self.workdir.config.memory
            self._searcher = make_searcher(
                memory.engine, self.bank, eligibility=memory.eligibility, top_k=memory.top_k
            )
        return self._searcher


def _padded(lists: list[np.ndarray], rows: int) -> np.ndarray:
    """[rows, entries] int32: a list of item ids per row, 0 after its end."""
    padded = np.zeros((rows, bucket(max(map(len, lists), default=0))), np.int32)
    for place, items in enumerate(lists):
        padded[place, : len(items)] = items
    return padded
