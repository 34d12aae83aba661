"""Sample recommendations on the page: what a user had, what was recommended, and which memories
spoke for it."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_HISTORY_SHOWN = 8
_MEMORIES_SHOWN, _MEMORY_ITEMS_SHOWN = 3, 4


def samples_section(samples: Sequence[Mapping[str, Any]]) -> str:
    """HTML of the samples, escaped; "" without samples.

    Args:
      samples: {"user", "history": [title, ...], "target": title, "recommendations": [{"title",
        "score"}, ...], "memories": [{"history": [title, ...], "then": title, "weight"}, ...]}; any
        of them may be absent. Of the memories the heaviest are shown.
    """
    if not samples:
        return ""
    shown = "".join(_sample(sample) for sample in samples)
    return (
        "<section><h2>Recommendations and the memories behind them</h2>"
        '<p class="soft">Test users. A green title is the item that the user really took next; '
        "a memory is an earlier moment of some user, and its weight what the reader gave it.</p>"
        f"{shown}</section>"
    )


def _sample(sample: Mapping[str, Any]) -> str:
    target = sample.get("target")
    history = [str(title) for title in sample.get("history") or []]
    earlier = len(history) - _HISTORY_SHOWN
    note = f'<li class="soft">… {earlier} earlier</li>' if earlier > 0 else ""
    titles = "".join(f"<li>{escape(title)}</li>" for title in history[-_HISTORY_SHOWN:])
    then = "" if target is None else f"<h3>Then took</h3><p>{escape(str(target))}</p>"
    return (
        f'<div class="sample"><p><b>User {escape(str(sample.get("user", "")))}</b></p>'
        '<div class="columns"><div><h3>History, newest last</h3>'
        f"<ul>{note}{titles}</ul>{then}</div>"
        f"<div>{_recommendations(sample, target)}</div></div>{_memories(sample, target)}</div>"
    )


def _recommendations(sample: Mapping[str, Any], target: Any) -> str:
    lines = []
    for item in sample.get("recommendations") or []:
        hit = ' class="hit"' if target is not None and item.get("title") == target else ""
        score = item.get("score")
        told = "" if score is None else f" <small>{float(score):.3g}</small>"
        lines.append(f"<li{hit}>{escape(str(item.get('title', '')))}{told}</li>")
    return f"<h3>Recommended</h3><ol>{''.join(lines)}</ol>" if lines else ""


def _memories(sample: Mapping[str, Any], target: Any) -> str:
    memories = sorted(sample.get("memories") or [], key=_weight, reverse=True)
    heaviest = max(map(_weight, memories), default=0.0)
    lines = []
    for memory in memories[:_MEMORIES_SHOWN]:
        weight = _weight(memory)
        width = 100 * weight / heaviest if heaviest > 0 else 0.0
        titles = [str(title) for title in memory.get("history") or []]
        dots = "… " if len(titles) > _MEMORY_ITEMS_SHOWN else ""
        had = dots + ", ".join(titles[-_MEMORY_ITEMS_SHOWN:])
        lines.append(
            f'<div class="memory"><div><div class="weight" style="width:{width:.1f}%"></div>'
            f"<small>{weight:.3f}</small></div><div><small>{escape(had)} → </small>"
            f"{_then(memory, target)}</div></div>"
        )
    more = f", the heaviest of {len(memories)}" if len(memories) > len(lines) else ""
    return f"<h3>Memories{more}</h3>{''.join(lines)}" if lines else ""


def _weight(memory: Mapping[str, Any]) -> float:
    return float(memory.get("weight") or 0.0)


def _then(memory: Mapping[str, Any], target: Any) -> str:
    then = escape(str(memory.get("then", "")))
    hit = target is not None and memory.get("then") == target
    return f'<span class="hit">{then}</span>' if hit else then
