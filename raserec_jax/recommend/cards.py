"""Explanations as cards on a page for people: what was had, what is recommended, and which memories spoke for it.

Titles and ids are data: every one is escaped, and the page's policy forbids scripts and foreign resources.
"""

import datetime
from collections.abc import Iterable
from html import escape

from raserec_jax.recommend.answers import Explained, Explanation, Item, RetrievedMemory
from raserec_jax.report.frame import html_page

_HISTORY_SHOWN, _MEMORY_ITEMS_SHOWN = 12, 5
_CHANNELS = {
    "history_to_target": "by similar histories",
    "target_to_history": "by what followed",
    "neighbors": "as neighbors",
}
_SCORINGS = {
    "pretrain": "The encoder alone scores: no memory was read.",
    "finetune": "Memories were read by the memory reader.",
    "mixing": "What followed similar histories is mixed in.",
    "combined": "Memories were read by the memory reader, and what followed them is mixed in.",
}
# Numbers of this size are taken as seconds, or milliseconds, since 1970: 2001 to 2096.
_SECONDS = (10**9, 4 * 10**9)


def cards_page(heading: str, cards: Iterable[tuple[str, Explanation]]) -> str:
    """A whole page with one card per (whose, explanation); "" where it is nobody's."""
    return html_page(heading, (_card(name, answer) for name, answer in cards))


def _card(name: str, answer: Explanation) -> str:
    found = answer.recommendations
    title = f"<h2>{escape(name)}</h2>" if name else ""
    notes = []
    if found.by_popularity:
        notes.append("Nothing in this history is known, so these are the items taken most of late.")
    else:
        notes.append(_SCORINGS[answer.scoring])
    if found.unknown_items:
        items = "item" if found.unknown_items == 1 else "items"
        notes.append(f"Skipped: {found.unknown_items} unknown {items} of the history.")
    return (
        f'<section>{title}<p class="soft">{escape(" ".join(notes))}</p>'
        f"{_history(answer.history)}{_recommended(found)}{_memories(answer)}</section>"
    )


def _history(history: tuple[Item, ...]) -> str:
    if not history:
        return ""
    earlier = len(history) - _HISTORY_SHOWN
    note = f'<li class="soft">… {earlier} earlier</li>' if earlier > 0 else ""
    shown = "".join(f"<li>{_name(item)}</li>" for item in history[-_HISTORY_SHOWN:])
    return f"<h3>History, newest last</h3><ul>{note}{shown}</ul>"


def _recommended(found: list[Explained]) -> str:
    with_reasons = not found.by_popularity
    heads = ["", "score"] + ["without memory", "weight of memories of it"] * with_reasons
    # Scores with and without memory are of two user vectors: only the order they give can be compared.
    plain = sorted(one.score_without_memory for one in found)[::-1]
    rows = []
    for rank, one in enumerate(found, start=1):
        cells = [f"{rank}. {_name(one)}", f"{one.score:.4g}"]
        if with_reasons:
            place = 1 + plain.index(one.score_without_memory)
            sign = "hit" if rank < place else "soft"
            cells += [
                f'<span class="{sign}">{one.score_without_memory:.4g} ({place}.)</span>',
                f"{one.memory_weight:.3f}",
            ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{head}</th>" for head in heads)
    legend = "In brackets: the place among these without memory; green: memory moved it up."
    legend = f'<p class="soft">{legend}</p>' if with_reasons and rows else ""
    return (
        '<h3>Recommended</h3><div class="scroll"><table>'
        f"<tr>{head}</tr>{''.join(rows)}</table></div>{legend}"
    )


def _memories(answer: Explanation) -> str:
    if not answer.memories:
        return ""
    shares = ", ".join(
        f"{_CHANNELS[name]} {share:.2f}" for name, share in answer.channel_shares.items()
    )
    read = ""
    if answer.scoring in ("finetune", "combined"):
        own = answer.own_weight
        read = f" The history itself counts {own:.2f}, what was read {1.0 - own:.2f}."
    heaviest = max(memory.weight for memory in answer.memories)
    by_weight = sorted(answer.memories, key=lambda memory: -memory.weight)
    lines = "".join(_memory(memory, heaviest) for memory in by_weight)
    return (
        f'<h3>Memories, heaviest first</h3><p class="soft">Moments of the past with a similar history, and what was '
        f"taken next. The weight is made of: {escape(shares)}.{read}</p>{lines}"
    )


def _memory(memory: RetrievedMemory, heaviest: float) -> str:
    width = 100 * memory.weight / heaviest if heaviest > 0 else 0.0
    dots = "… " if len(memory.history) > _MEMORY_ITEMS_SHOWN else ""
    had = ", ".join(_name(item) for item in memory.history[-_MEMORY_ITEMS_SHOWN:])
    facts = [f"cosine {memory.cosine:.3f}"]
    facts += [f"{_CHANNELS[name]} {weight:.3f}" for name, weight in memory.attention.items()]
    if memory.time is not None:
        facts.insert(0, _time(memory.time))
    if memory.user is not None:
        facts.insert(0, f"user {memory.user}")
    return (
        f'<div class="memory"><div><div class="weight" style="width:{width:.1f}%"></div>'
        f"<small>{memory.weight:.3f}</small></div><div>{dots}{had} → <b>{_name(memory.followed_by)}</b><br>"
        f"<small>{escape(' · '.join(facts))}</small></div></div>"
    )


def _name(item: Item | Explained) -> str:
    """The title, or the id where there is none; escaped."""
    return escape(str(item.title or item.item))


def _time(time: int | float) -> str:
    """A date where the number can be seconds or milliseconds since 1970; else the number."""
    for per_second in (1, 1000):
        if _SECONDS[0] <= time / per_second <= _SECONDS[1]:
            moment = datetime.datetime.fromtimestamp(time / per_second, datetime.UTC)
            return f"{moment:%Y-%m-%d}"
    return f"time {time}"
