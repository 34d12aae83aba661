"""What a Recommender answers, in original ids."""

from collections.abc import Iterable
from typing import NamedTuple


class Item(NamedTuple):
    """item: original id.  title: None if unknown."""

    item: int | str
    title: str | None


class Recommendation(NamedTuple):
    """One recommended item.

    item: original id.
    score: what the model ranks by, higher is better: the dot product of user vector and item ("pretrain",
      "finetune"), or a probability ("mixing", "combined"); how often it was taken of late if by popularity.
    title: None if unknown.
    """

    item: int | str
    score: float
    title: str | None


class Explained(NamedTuple):
    """A Recommendation, and what memory did for it.

    score_without_memory: the score, on the same scale, that the encoder alone gives.
    memory_weight: sum of the weights of the memories that this very item followed, in [0, 1].
    """

    item: int | str
    score: float
    title: str | None
    score_without_memory: float
    memory_weight: float


class RetrievedMemory(NamedTuple):
    """A moment of the past that was read.

    history: the last items that were taken by then, oldest first.
    followed_by: what was taken next.
    time: when that was, in the log's unit; None if the log has no times.
    cosine: similarity to the history that is recommended for.
    weight: the attention it got; the weights of all memories of an answer sum to 1.
    attention: the same by channel, each summing to 1: "history_to_target" and "target_to_history" of the reader,
      "neighbors" of the mixture.
    user: whose it was; None unless it was asked for.
    """

    history: tuple[Item, ...]
    followed_by: Item
    time: int | float | None
    cosine: float
    weight: float
    attention: dict[str, float]
    user: int | str | None = None


class Recommendations(list):
    """The list of one history's recommendations, best first; shorter where fewer items are left.

    Attributes:
      by_popularity: no item of the history was known, so what is taken most of late stands here (`recent_items`).
      unknown_items: how many items of the history were skipped because the log does not have them.
    """

    def __init__(self, found=(), *, by_popularity: bool = False, unknown_items: int = 0):
        super().__init__(found)
        self.by_popularity = by_popularity
        self.unknown_items = unknown_items

    def replaced(self, found: Iterable) -> "Recommendations":
        """Other entries, same attributes."""
        return Recommendations(
            found, by_popularity=self.by_popularity, unknown_items=self.unknown_items
        )


class Explanation(NamedTuple):
    """Recommendations and the memories they were made from.

    recommendations: of `Explained`.
    memories: best cosine first; none if the scoring uses no memory, or by popularity.
    scoring: as `Recommender.scoring`.
    history: what was recommended for, as far as it is known, oldest first.
    channel_shares: how much each channel of `RetrievedMemory.attention` counts for the weight; they sum to 1.
    own_weight: how much the vector of the history itself counts beside what the memory reader read, in [0, 1]: alpha,
      or what `reader.gate` and `reader.null_memory` make of it for this history; 1 where nothing was read.
    """

    recommendations: Recommendations
    memories: tuple[RetrievedMemory, ...]
    scoring: str
    history: tuple[Item, ...]
    channel_shares: dict[str, float]
    own_weight: float = 1.0

    def to_json(self) -> str:
        """One line of JSON, as `records.explanation_record` lays it out; ids stay integers or strings."""
        from raserec_jax.recommend.records import explanation_record, json_line

        return json_line(explanation_record(self))

    def to_html(self, heading: str = "Why these items") -> str:
        """A page for people that needs no other file and no network; all text in it is escaped."""
        from raserec_jax.recommend.cards import cards_page

        return cards_page(heading, [("", self)])
