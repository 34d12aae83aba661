"""Answers as plain dictionaries, and these as JSON: the layout of `Explanation.to_json` and of files.

    {"recommendations": [{"rank", "item_id", "score", "title"} ...], "by_popularity", "unknown_items"}

and of an explanation also score_without_memory and memory_weight by recommendation, and

    "history": [{"item_id", "title"} ...], "scoring", "channel_shares": {channel: share}, "own_weight",
    "memories": [{"history": [...], "followed_by": {"item_id", "title"}, "time", "cosine", "weight",
                  "attention": {channel: weight}} ...]

with a "user_id" in each memory where whose it is was asked for. Scores have float32's seven digits.
"""

import json
from typing import Any

from raserec_jax.recommend.answers import Explanation, Recommendations, RetrievedMemory


def recommendations_record(found: Recommendations) -> dict[str, Any]:
    """Of one history."""
    return {
        "recommendations": [
            {"rank": rank, **_plain(one._asdict())} for rank, one in enumerate(found, start=1)
        ],
        "by_popularity": found.by_popularity,
        "unknown_items": found.unknown_items,
    }


def explanation_record(answer: Explanation) -> dict[str, Any]:
    """The same, and the reasons."""
    return recommendations_record(answer.recommendations) | {
        "history": [_plain(item._asdict()) for item in answer.history],
        "scoring": answer.scoring,
        "channel_shares": _plain(answer.channel_shares),
        "own_weight": _seven_digits(answer.own_weight),
        "memories": [_memory_record(memory) for memory in answer.memories],
    }


def json_line(record: dict[str, Any]) -> str:
    """Without line breaks; a number that JSON does not have is a bug of ours and raises ValueError."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


def _memory_record(memory: RetrievedMemory) -> dict[str, Any]:
    user = {} if memory.user is None else {"user_id": memory.user}
    return {
        **user,
        "history": [_plain(item._asdict()) for item in memory.history],
        "followed_by": _plain(memory.followed_by._asdict()),
        "time": memory.time,
        "cosine": _seven_digits(memory.cosine),
        "weight": _seven_digits(memory.weight),
        "attention": _plain(memory.attention),
    }


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """With float32's digits, and `item` under the name that files use."""
    return {
        "item_id" if name == "item" else name: _seven_digits(value)
        if isinstance(value, float)
        else value
        for name, value in entry.items()
    }


def _seven_digits(value: float) -> float:
    return float(f"{value:.7g}")
