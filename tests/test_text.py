"""Text that leaves the program: in Markdown, any text is shown as it is."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from nih.text import cut, markdown_table, markdown_text, sanitize

HOSTILE = st.text(st.sampled_from("ab1 -+=*_`~#|[]()<>&!\\\\:/.@$\"'\n\x1b"), max_size=12) | st.text(
    max_size=12
)


class Shown(HTMLParser):
    """The elements and the text of a rendered page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text: list[str] = [""]
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text.append("")

    def handle_data(self, data: str) -> None:
        self.text[-1] += data


def shown(markdown: str) -> Shown:
    return Shown(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))


@given(HOSTILE)
@settings(max_examples=300)
def test_markdown_shows_any_text_as_it_is(text: str) -> None:
    clean, escaped = sanitize(text, lines=False), markdown_text(text)
    for before, after, tags in (("# ", "", ["h1"]), ("- ", "", ["ul", "li"]), ("a ", " b", ["p"])):
        page = shown(f"{before}{escaped}{after}\n")
        assert page.tags == tags
        assert "".join(page.text).strip("\n") == before.strip("#- ") + " " * bool(after) + clean + after
    page = shown("\n".join(markdown_table(["a", "b"], [[escaped, "1"], ["2", escaped]])))
    assert page.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td", "tr", "td", "td"]
    cells = [text for tag, text in zip(page.tags, page.text[1:], strict=True) if tag == "td"]
    assert [cell.strip("\n") for cell in cells] == [clean, "1", "2", clean]


@pytest.mark.parametrize(
    "text", ["www.example.org", "https://example.org", "WWW.x", "@someone", "#12", "$x$", "~a~"]
)
def test_nothing_becomes_a_link_a_mention_or_mathematics(text: str) -> None:
    assert not re.search(r"(?i)www\.|://|[@$~]|(?<!&)#", markdown_text(text))
    assert "".join(shown(markdown_text(text)).text).strip() == text


@given(st.text(), st.integers(1, 20).map(lambda half: 2 * half))
def test_a_cut_keeps_both_ends(text: str, most: int) -> None:
    short = cut(text, most)
    assert short == text if len(text) <= most else len(short) == most
    assert text.startswith(short[: most // 2 - 1]) and text.endswith(short[len(short) - most // 2 :])
