"""Model: what a workdir trained, ready to score batches of histories in dense ids."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from raserec_jax import checkpoints
from raserec_jax.evaluation.ranking import Scores
from raserec_jax.evaluation.top_items import top_items
from raserec_jax.models.encoder import repeat_bias
from raserec_jax.models.memory_reader import reader_weights
from raserec_jax.recommend.histories import UNKNOWN_USER
from raserec_jax.recommend.loading import Method, Workdir
from raserec_jax.recommend.memory import Memory
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


class Scored(NamedTuple):
    """A batch, padded to its bucket; host arrays but for the scores.

    scores, plain: with memory, and of the encoder alone on the same scale.
    seen: [batch, entries] int32, distinct items of each history, 0 = none.
    memory: the version that was searched; None if the method uses no memory.
    row_ids: [batch, memories] rows of the bank, best first, -1 = none.
    cosines, weights: [batch, memories]; the weights of a row sum to 1.
    target_ids: [batch, memories] the items that followed, 0 = none.
    attention: by channel [batch, memories], what the reader's channels and "neighbors", the mixture, gave each memory;
      a row with memories sums to 1.
    own_weights: [batch] weight of the user's own vector in what the reader makes of it; 1 without reader or memories.
    """

    scores: Scores
    plain: Scores
    seen: np.ndarray
    memory: Memory | None
    row_ids: np.ndarray
    cosines: np.ndarray
    weights: np.ndarray
    target_ids: np.ndarray
    attention: dict[str, np.ndarray]
    own_weights: np.ndarray


class Model:
    """Encoder, and as far as the method uses them memory, reader and mixture.

    `memory` may be replaced by a later version while others read: each call sees one version.
    """

    def __init__(
        self, workdir: Workdir, method: Method, bank: MemoryBank | None, mesh: Mesh | None = None
    ):
        """mesh: over which an exactly searched memory lies; None = one device."""
        self.workdir, self.method, self.mesh = workdir, method, mesh
        self.memory: Memory | None = None
        self.bank = bank
        self._table = jnp.asarray(workdir.encoder_params["item_table"])
        self._repeat_bias = repeat_bias(workdir.encoder_params)

    @property
    def bank(self) -> MemoryBank | None:
        """What is remembered now, without entries that were removed; setting it replaces the memory."""
        memory = self.memory
        return None if memory is None else memory.kept_bank

    @bank.setter
    def bank(self, bank: MemoryBank | None) -> None:
        workdir = self.workdir
        self.memory = bank and Memory.of_bank(
            workdir.config.memory, workdir.log, bank, mesh=self.mesh
        )

    def fingerprint(self) -> str:
        """Of parameters, method and memory, in words and digests."""
        method, bank = self.method, self.bank
        parts = (self.workdir.encoder_params, method.reader_params or {})
        known = [checkpoints.params_fingerprint(part) for part in parts]
        memory = None if bank is None else bank.fingerprint
        return repr(
            [method.scoring, method.mixture, self.workdir.config.memory.to_dict(), known, memory]
        )

    def encode(self, histories: list[np.ndarray]) -> np.ndarray:
        """[histories, dim] float32: the vector of each history, of its last max_len items; any number of them."""
        keys = np.zeros((len(histories), self.workdir.encoder.dim), np.float32)
        for start in range(0, len(histories), LARGEST_BATCH):
            part = histories[start : start + LARGEST_BATCH]
            windows, lengths = self._windows(part)
            keys[start : start + len(part)] = self._encode(windows, lengths)[: len(part)]
        return keys

    def score(
        self,
        histories: list[np.ndarray],
        user_ids: np.ndarray,
        time: int | None,
        memory: Memory | None,
    ) -> Scored:
        """Encodes, searches and reads a batch.

        Args:
          histories: at most LARGEST_BATCH, each [items >= 1] int32.
          user_ids: [histories] int32, UNKNOWN_USER where not known.
          time: rank of the time of what is to be predicted; None if the eligibility does not ask.
          memory: the version to read; the one that `time` is a rank of.
        """
        windows, lengths = self._windows(histories)
        size = len(windows)
        users = np.full(size, UNKNOWN_USER, np.int32)
        users[: len(histories)] = user_ids
        query = self._encode(windows, lengths)
        seen = _padded([np.unique(history) for history in histories], size, windows.shape[1])
        plain = Scores(query)
        if self._repeat_bias is not None:
            plain = plain._replace(repeat_ids=seen, repeat_bias=self._repeat_bias)
        if memory is None:
            none = np.zeros((size, 0), np.int32)
            own = np.ones(size, np.float32)
            return Scored(plain, plain, seen, None, none, none, none, none, {}, own)
        times = None if time is None else np.full(size, time, np.int32)
        queries = Queries(np.asarray(query), users, lengths, times)
        return self._with_memory(memory, plain, seen, queries)

    def _windows(self, histories: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(windows [padded, max_len], lengths [padded] of the whole histories), padded to a bucket."""
        size, max_len = bucket(len(histories), LARGEST_BATCH), self.workdir.encoder.max_len
        windows, lengths = np.zeros((size, max_len), np.int32), np.zeros(size, np.int32)
        for place, history in enumerate(histories):
            kept = history[-max_len:]
            windows[place, : len(kept)] = kept
            lengths[place] = len(history)
        return windows, lengths

    def _encode(self, windows: np.ndarray, lengths: np.ndarray) -> jax.Array:
        encoder, params = self.workdir.encoder, self.workdir.encoder_params
        return encode_windows(encoder, params, windows, np.minimum(lengths, windows.shape[1]))

    def best(
        self, scored: Scored, k: int, *, exclude_seen: bool, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(item ids, scores) [batch, k], best first, 0 where no item is left; `allowed` is [items + 1] bool."""
        excluded = scored.seen if exclude_seen else np.zeros_like(scored.seen)
        ids, values = top_items(scored.scores, self._table, k, excluded, allowed=allowed)
        return np.asarray(ids), np.asarray(values)

    def plain_scores(self, scored: Scored, item_ids: np.ndarray) -> np.ndarray:
        """Scores [batch, k] that the encoder alone gives to the items."""
        return np.asarray(scores_of(scored.plain, self._table, item_ids))

    @functools.cached_property
    def channel_shares(self) -> dict[str, float]:
        """How much of `Scored.weights` is from each channel of `Scored.attention`."""
        method, shares = self.method, {}
        mixed = method.mixture.weight if method.mixture else 0.0
        if method.reader_params is not None:
            beta = reader_weights(self.workdir.reader, method.reader_params)["beta"]
            read = {"history_to_target": beta, "target_to_history": 1.0 - beta}
            shares = {name: (1.0 - mixed) * share for name, share in read.items()}
        if method.mixture:
            shares["neighbors"] = mixed if shares else 1.0
        return shares

    def _with_memory(
        self, memory: Memory, plain: Scores, seen: np.ndarray, queries: Queries
    ) -> Scored:
        bank, mixture = memory.bank, self.method.mixture
        with_reader = self.method.reader_params is not None
        reader_k = self.workdir.config.memory.top_k if with_reader else 0
        top_k = min(max(reader_k, mixture.top_k if mixture else 0), bank.rows)
        found = memory.index().search(queries, top_k)
        row_ids, cosines, mask = map(np.asarray, found)
        target_ids = np.where(mask, bank.target_ids[row_ids], 0)
        scores = plain
        weights, attention = np.zeros(mask.shape, np.float32), {}
        own = np.ones(len(mask), np.float32)
        if with_reader:
            used = (row_ids[:, :reader_k], target_ids[:, :reader_k], mask[:, :reader_k])
            augmented, channels, weights[:, :reader_k], own = self._read(bank, plain.query, *used)
            scores = plain._replace(query=augmented)
            attention = {name: _widened(one, mask.shape) for name, one in channels.items()}
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
            attention["neighbors"] = _widened(mass, mask.shape)
        return Scored(
            scores, plain, seen, memory, row_ids, cosines, weights, target_ids, attention, own
        )

    def _read(
        self, bank: MemoryBank, query, row_ids, target_ids, mask
    ) -> tuple[jax.Array, dict[str, jax.Array], np.ndarray, np.ndarray]:
        """User vectors after reading; the attention by channel, and of both together; `Scored.own_weights`."""
        # Gathered on the host: what is compiled does not depend on the size of the bank.
        keys = bank.keys[np.where(mask, row_ids, 0)]
        reader, params = self.workdir.reader, self.method.reader_params
        augmented, attention, own = read_memories(
            reader,
            params,
            query,
            keys,
            target_ids,
            mask,
            self._table,
        )
        merged = merged_attention(reader, params, attention, mask)
        return augmented, attention, merged, np.asarray(own)


def _widened(weights, shape: tuple[int, int]) -> np.ndarray:
    """Zeros for the memories that the channel does not read."""
    wide = np.zeros(shape, np.float32)
    wide[:, : weights.shape[1]] = weights
    return wide


def _padded(lists: list[np.ndarray], rows: int, usual: int) -> np.ndarray:
    """[rows, entries] int32: a list of item ids per row, 0 after its end; wider only if a list is longer than usual."""
    padded = np.zeros((rows, bucket(max([usual, *map(len, lists)]))), np.int32)
    for place, items in enumerate(lists):
        padded[place, : len(items)] = items
    return padded
