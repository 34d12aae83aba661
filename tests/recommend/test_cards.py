"""Explanations as JSON and as pages: everything there, and nothing that titles or ids smuggle in."""

# ruff: noqa: F811 - fixtures are imported, and named by the tests

import html.parser
import json

import hypothesis
import hypothesis.strategies as st
import pytest

from raserec_jax.recommend import Explained, Explanation, Item, Recommendations, RetrievedMemory
from raserec_jax.recommend.cards import cards_page
from raserec_jax.recommend.files import write_cards
from tests import tiny_workdir as tiny
from tests.tiny_workdir import recommender, tiny_workdir  # noqa: F401

HOSTILE = (
    '<script>alert("x")</script>',
    "</title></style></section><img src=x onerror=alert(1)>",
    "\"' onmouseover='alert(1)' &lt;b&gt; \\u003cscript",
    "javascript:alert(1) <!-- --> ]]> {{7*7}} \u202egnp.exe\x00\x1b[31m",
)
ATTENTION = {"history_to_target": 0.25, "target_to_history": 0.75}


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    with tiny.quick_compiles():
        yield


class Page(html.parser.HTMLParser):
    """Tags and attributes of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


def explanation(*texts, user=None, time=1388534400):
    """All of whose titles and ids are from the texts, by turns."""
    items = [Item(text, text) for text in texts] + [Item(text, None) for text in texts]
    found = Recommendations(
        (Explained(item.item, 1.5, item.title, 0.5, 0.25) for item in items), unknown_items=2
    )
    memories = tuple(
        RetrievedMemory(tuple(items), item, time, 0.9, 0.5, ATTENTION, user) for item in items
    )
    return Explanation(found, memories, "finetune", tuple(items), ATTENTION)


PLAIN = Page(explanation("plain").to_html())


@hypothesis.given(st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=40)))
@hypothesis.settings(max_examples=25)
def test_titles_and_ids_are_text_and_nothing_else(text):
    page = Page(cards_page(text, [(text, explanation(text, user=text))]))
    assert page.tags == _with_heading(PLAIN.tags)
    assert {name for name, _ in page.attributes} <= {name for name, _ in PLAIN.attributes}
    assert not any(value and text in value for _, value in page.attributes if len(text) > 20)


def _with_heading(tags):
    """Of a page whose card has a name: one h2 more, at the start of its section."""
    place = tags.index("section") + 1
    return [*tags[:place], "h2", *tags[place:]]


def test_the_page_needs_nothing_else():
    page = explanation(*HOSTILE).to_html()
    assert "default-src 'none'" in page and "<script" not in page
    for word in ("src=", "href=", "@import", "url("):
        assert word not in page.replace("src=x onerror", "")
    assert "".join(Page(page).text).count("<script>alert") > 3  # shown, as text


def test_json_is_what_the_explanation_holds():
    answer = explanation("a", user="u")
    found = json.loads(answer.to_json())
    assert "\n" not in explanation(*HOSTILE).to_json()
    assert [one["item_id"] for one in found["recommendations"]] == ["a", "a"]
    assert [one["rank"] for one in found["recommendations"]] == [1, 2]
    assert found["recommendations"][0] == {
        **{"rank": 1, "item_id": "a", "score": 1.5, "title": "a"},
        **{"score_without_memory": 0.5, "memory_weight": 0.25},
    }
    assert found["memories"][0] == {
        "user_id": "u",
        "history": [{"item_id": "a", "title": "a"}, {"item_id": "a", "title": None}],
        "followed_by": {"item_id": "a", "title": "a"},
        **{"time": 1388534400, "cosine": 0.9, "weight": 0.5, "attention": ATTENTION},
    }
    assert (found["scoring"], found["channel_shares"]) == ("finetune", ATTENTION)
    assert (found["unknown_items"], found["by_popularity"]) == (2, False)
    for text in HOSTILE:
        hostile = json.loads(explanation(text).to_json())
        assert hostile["history"][0] == {"item_id": text, "title": text}


def test_whose_a_memory_is_is_shown_only_if_asked_for(recommender):
    history, names = ["i003", "i004", "i005"], set(recommender.log.user_labels.tolist())
    hidden, shown = (recommender.explain(history, show_users=asked) for asked in (False, True))
    for text in (hidden.to_json(), hidden.to_html()):
        assert not any(name in text for name in names)
    users = {memory.user for memory in shown.memories}
    assert users <= names
    for text in (shown.to_json(), shown.to_html()):
        assert all(name in text for name in users)


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (1388534400, "2014-01-01"),
        (1388534400_500, "2014-01-01"),
        (20240131, "time 20240131"),
        (None, None),
    ],
)
def test_times_are_dates_where_they_can_be(time, words):
    page = explanation("a", time=time).to_html()
    assert words in page if words else "time" not in page.partition("Memories")[2]


def test_page_of_the_first_histories_of_a_file(recommender, tmp_path):
    path = tmp_path / "in.tsv"
    path.write_text("user_id\thistory\n<b>1</b>\ti003 i004\n2\tgone\n3\ti005\n")
    write_cards(recommender, path, tmp_path / "why.html", count=2, k=3)
    page = Page((tmp_path / "why.html").read_text())
    text = " ".join(page.text)
    assert page.tags.count("section") == 2 and "b" in page.tags
    assert "User <b>1</b>" in text and "User 2" in text and "User 3" not in text
    assert (
        "Nothing in this history is known" in text
        and "Skipped: 1 unknown item of the history." in text
    )
    answer = recommender.explain(["i003", "i004"], 3)
    for one in answer.recommendations:
        assert f". {one.title or one.item}" in text
    for memory in answer.memories:
        assert f"{memory.weight:.3f}" in text


def test_what_memory_moved_up_is_green():
    found = [Explained("a", 3.0, None, 0.1, 0.5), Explained("b", 2.0, None, 0.3, 0.0)]
    page = Explanation(Recommendations(found), (), "finetune", (), ATTENTION).to_html()
    assert '<span class="hit">0.1 (2.)</span>' in page
    assert '<span class="soft">0.3 (1.)</span>' in page
