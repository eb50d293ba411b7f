"""Parts by name: own ones, registered ones, those of entry points, and what is wrong with the others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ase_ldos.registry import Registry


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Installs a package with three entry points; returns their group."""
    (tmp_path / "other_parts.py").write_text("def triangle():\n    return 3\n")
    installed = tmp_path / "other_parts-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: other-parts\nVersion: 1.0\n")
    lines = ["triangle = other_parts:triangle", "circle = other_parts:circle", "square = missing_module:square"]
    (installed / "entry_points.txt").write_text("\n".join(["[test.shapes]", *lines, ""]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "other_parts", raising=False)
    return "test.shapes"


def test_own_and_registered_parts() -> None:
    shapes: Registry[int] = Registry("shape", parts={"square": 4})
    assert shapes.register("triangle", 3) == 3
    assert list(shapes) == shapes.names() == ["square", "triangle"]
    assert ("square" in shapes, "circle" in shapes) == (True, False)
    assert (shapes["square"], shapes["triangle"]) == (4, 3)
    with pytest.raises(ValueError, match="unknown shape 'circle'; known: square, triangle"):
        shapes["circle"]
    with pytest.raises(ValueError, match="unknown shape 'circle'; known: none"):
        Registry("shape")["circle"]


def test_a_name_is_given_once() -> None:
    shapes: Registry[object] = Registry("shape")
    part = object()
    shapes.register("square", part)
    shapes.register("square", part)  # a module that is imported twice
    with pytest.raises(ValueError, match="there is a shape 'square' already"):
        shapes.register("square", object())
    assert shapes["square"] is part


def test_the_given_parts_stay_their_owners() -> None:
    parts = {"square": 4}
    shapes = Registry("shape", parts=parts)
    shapes.register("triangle", 3)
    assert parts == {"square": 4}
    assert list(Registry("shape", parts=parts)) == ["square"]


def test_parts_of_other_packages(other_package: str) -> None:
    shapes: Registry[object] = Registry("shape", other_package, {"hexagon": 6})
    assert shapes.names() == ["circle", "hexagon", "square", "triangle"]
    assert "other_parts" not in sys.modules  # a name costs no import
    found = shapes["triangle"]
    assert callable(found)
    assert found() == 3
    assert shapes["triangle"] is found
    with pytest.raises(ValueError, match=r"shape 'circle' of other_parts:circle cannot be loaded: .*no attribute"):
        shapes["circle"]
    with pytest.raises(ValueError, match=r"shape 'square' of missing_module:square cannot be loaded: No module named"):
        shapes["square"]
    assert Registry("shape", "test.other").names() == []


def test_the_package_s_own_part_comes_first(other_package: str) -> None:
    shapes: Registry[object] = Registry("shape", other_package, {"triangle": "ours"})
    assert shapes["triangle"] == "ours"
    assert shapes.names().count("triangle") == 1
