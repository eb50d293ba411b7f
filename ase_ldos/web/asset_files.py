"""The files of the page: the only ones that are served, known by name from the start."""

from __future__ import annotations

from importlib.resources import files

#: Name in the page → file and media type.
ASSETS = {
    "style.css": ("style.css", "text/css"),
    "uPlot.min.css": ("vendor/uPlot.min.css", "text/css"),
    "3Dmol-min.js": ("vendor/3Dmol-min.js", "text/javascript"),
    "uPlot.iife.min.js": ("vendor/uPlot.iife.min.js", "text/javascript"),
    **{
        f"{name}.js": (f"{name}.js", "text/javascript")
        for name in ("app", "arrays", "dos_plot", "fields", "isosurface", "result_view", "scene", "elements")
    },
    "LICENSES.md": ("LICENSES.md", "text/plain"),
    "LICENSES.txt": ("vendor/LICENSES.txt", "text/plain"),
}


def read_asset(name: str) -> str:
    """Text of a file of the page.

    Raises:
        KeyError: there is none of this name.
    """
    return files("ase_ldos.web").joinpath("assets", ASSETS[name][0]).read_text(encoding="utf-8")


def read_page(name: str) -> str:
    """Text of ``index.html`` or ``login.html``."""
    return files("ase_ldos.web").joinpath("assets", name).read_text(encoding="utf-8")
