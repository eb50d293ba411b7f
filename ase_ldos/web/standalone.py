"""The viewer and its data as one HTML file that needs nothing else: no server, no network.

The modules of the page are carried as ``data:`` addresses in an import map. A content security policy inside the file
forbids it to load anything from anywhere.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from typing import Any

from ase_ldos.web.asset_files import read_asset

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_MODULES = ("arrays", "dos_plot", "elements", "fields", "isosurface", "result_view", "scene")


def standalone_page(documents: Sequence[dict[str, Any]], title: str = "") -> str:
    """One HTML page that shows the documents.

    Args:
        documents: from ``view_document``, at least one; where there are several the page lets choose and compare.
        title: default is the first document's.
    """
    title = title or str(documents[0]["title"])
    modules = {f"ase-ldos/{name}.js": _as_address(_with_bare_names(read_asset(f"{name}.js"))) for name in _MODULES}
    data = json.dumps(list(documents), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{html.escape(title)} – ase-ldos</title>
<style>{_inline(read_asset("uPlot.min.css"))}</style>
<style>{_inline(read_asset("style.css"))}</style>
</head>
<body class="report{" single" if len(documents) == 1 else ""}">
<header><h1>{html.escape(title)}</h1></header>
<main id="report"><noscript>This report needs JavaScript to draw.</noscript></main>
<footer><p>Made by {html.escape(str(documents[0]["program"]))}. Drawn with 3Dmol.js (BSD-3-Clause, University of
Pittsburgh and contributors) and uPlot (MIT, Leon Sorokin).</p></footer>
<!--
{_inline(read_asset("LICENSES.txt")).replace("--", "- -")}
-->
<script>{_inline(read_asset("3Dmol-min.js"))}</script>
<script>{_inline(read_asset("uPlot.iife.min.js"))}</script>
<script type="importmap">{json.dumps({"imports": modules})}</script>
<script type="application/json" id="documents">{data}</script>
<script type="module">
import {{ showReport }} from "ase-ldos/result_view.js";
showReport(document.getElementById("report"), JSON.parse(document.getElementById("documents").textContent));
</script>
</body>
</html>
"""


def _with_bare_names(source: str) -> str:
    """Imports by names of the import map: a module in a ``data:`` address has no folder beside it."""
    return re.sub(r'from "\./([\w-]+\.js)"', r'from "ase-ldos/\1"', source)


def _as_address(source: str) -> str:
    return "data:text/javascript;base64," + base64.b64encode(source.encode()).decode("ascii")


def _inline(source: str) -> str:
    """Source that may stand in a script or style element."""
    return source.replace("</script", "<\\/script").replace("</style", "<\\/style")
