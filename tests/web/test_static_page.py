"""Pages without scripts: escaped, complete in themselves, figures beside each other."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from matplotlib.figure import Figure

from ase_ldos.web.static_page import heading, page, paragraph, pictures, table


def figure(height: float) -> Figure:
    made = Figure(figsize=(3, 2))
    axes = made.add_subplot()
    axes.plot([0, 1], [0, height], label="a < b")
    axes.legend()
    return made


def test_text_is_escaped_and_tags_are_closed() -> None:
    text = page(
        "<Si>", [heading("a & b"), paragraph("<script>", kind="note"), table(["x"], [["<b>"], [1.23456], [None]])]
    )

    class Checker(HTMLParser):
        open_tags: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
            if tag not in {"meta", "link", "br"}:
                self.open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open_tags.pop() == tag

    checker = Checker()
    checker.feed(text)
    assert not checker.open_tags
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "<td>1.235</td>" in text
    assert "default-src 'none'" in text


def test_figures_share_no_ids_and_load_nothing() -> None:
    text = pictures([(figure(1), "one"), (figure(2), "two & three")])
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) > 10
    for target in re.findall(r'href="#([^"]+)"', text) + re.findall(r"url\(#([^)]+)\)", text):
        assert target in ids
    assert not re.findall(r'(?:href|src)="(?!#)', text)
    assert "two &amp; three" in text


def test_the_same_content_gives_the_same_page() -> None:
    assert pictures([(figure(1), "x")]) == pictures([(figure(1), "x")])


def test_a_chosen_row_stands_out() -> None:
    assert table(["x"], [[1], [2]], chosen=1).count('class="chosen"><td>2') == 1
