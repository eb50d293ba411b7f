"""A page of headings, text, tables and pictures as one HTML file without scripts, that loads nothing from anywhere."""

from __future__ import annotations

import html
import io
import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #d5dbe3; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #e6eaf0; }
th:first-child, td:first-child { text-align: left; } thead th { background: #f3f6fa; font-weight: 600; }
tr.chosen td { background: #e8f4e6; font-weight: 600; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; } svg { max-width: 100%; height: auto; }
figcaption, .note { color: #55606e; font-size: .9rem; }
.good { color: #1d7a35; font-weight: 600; } .bad { color: #b3341f; font-weight: 600; }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page(title: str, parts: Sequence[str]) -> str:
    """The whole file.

    Args:
        title: plain text.
        parts: HTML, from the functions of this module.
    """
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """A heading of a section."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph of plain text.

    Args:
        text: the text.
        kind: ``"note"``, ``"good"`` or ``"bad"`` for its look.
    """
    return f'<p class="{kind}">{html.escape(text)}</p>' if kind else f"<p>{html.escape(text)}</p>"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, chosen: int | None = None) -> str:
    """A table; numbers keep four digits.

    Args:
        heads: of the columns.
        rows: cells, plain text or numbers; ``None`` is left empty.
        chosen: number of a row that stands out.
    """
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{html.escape(_shown(cell))}</td>" for cell in row)
        lines.append(f'<tr class="chosen">{cells}</tr>' if number == chosen else f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def pictures(figures: Sequence[tuple[Figure, str]]) -> str:
    """Figures side by side, with captions."""
    parts = [
        f"<figure>{_svg(fig, n)}<figcaption>{html.escape(text)}</figcaption></figure>"
        for n, (fig, text) in enumerate(figures)
    ]
    return f'<div class="pictures">{"".join(parts)}</div>'


def _svg(figure: Figure, number: int) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # ids are random, and unique within a figure only: number them
    names: dict[str, str] = {}
    for found in re.findall(r'\bid="([^"]+)"', text):
        names.setdefault(found, f"{len(names)}")
    plain = re.sub(r'(\bid="|href="#|url\(#)([^")]+)', lambda match: f"{match[1]}{names[match[2]]}", text)
    mark = f"p{number}-{zlib.crc32(plain.encode()):x}-"
    return re.sub(r'(\bid="|href="#|url\(#)(\d+)(?=[")])', lambda match: f"{match[1]}{mark}{match[2]}", plain)


def _shown(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool) or not isinstance(cell, float):
        return str(cell)
    return f"{cell:.4g}" if abs(cell) < 1e4 else f"{cell:.1f}"
