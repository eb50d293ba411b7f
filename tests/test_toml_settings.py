"""Settings are checked against their annotations; one sentence tells what is wrong and what would be right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from ase_ldos.toml_settings import (
    Fraction,
    Limit,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    build,
    check_arguments,
    read_toml,
)


@dataclass(frozen=True)
class Inner:
    size: PositiveInt
    scale: float = 1.0


@dataclass(frozen=True)
class Outer:
    name: str
    temperature: PositiveFloat
    window: tuple[float, float]
    hidden: tuple[PositiveInt, ...] = (3, 4)
    charges: dict[str, PositiveFloat] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    inner: Inner = Inner(1)
    rows: tuple[Inner, ...] = ()
    folder: Path = Path()
    kind: Literal["a", "b"] = "a"
    fast: bool = False
    part: Fraction | None = None
    weight: NonNegativeFloat = 0.0
    even: Annotated[int, Limit(lambda x: x % 2 == 0, "an even number")] = 2

    def __post_init__(self) -> None:
        if self.window[0] >= self.window[1]:
            raise ValueError(f"window {list(self.window)} does not rise")


MINIMAL = 'name = "x"\ntemperature = 300\nwindow = [-1, 2.5]\n'


def load(text: str, folder: Path) -> Outer:
    (folder / "s.toml").write_text(text)
    return build(Outer, read_toml(folder / "s.toml"), "s.toml")


def test_everything_that_toml_can_say(tmp_path: Path) -> None:
    more = 'hidden = [5]\ncharges = { Be = 2, Mg = 2.5 }\nfolder = "there"\nkind = "b"\nfast = true\npart = 0.5\n'
    tables = "[options.electrons]\nbeta = 0.3\n[inner]\nsize = 7\n[[rows]]\nsize = 1\n[[rows]]\nsize = 2\nscale = 3\n"
    found = load(MINIMAL + more + tables, tmp_path)
    assert found == Outer(
        "x",
        300,
        (-1, 2.5),
        (5,),
        {"Be": 2, "Mg": 2.5},
        {"electrons": {"beta": 0.3}},
        Inner(7),
        (Inner(1), Inner(2, 3)),
        Path("there"),
        "b",
        True,
        0.5,
    )
    assert load(MINIMAL, tmp_path) == Outer("x", 300, (-1, 2.5))


def test_what_is_built_already_is_taken(tmp_path: Path) -> None:
    table = {"name": "x", "temperature": 1.0, "window": (0, 1), "inner": Inner(9), "folder": tmp_path, "part": None}
    assert build(Outer, table, "s").inner.size == 9


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("300", "-5", "s.toml: key 'temperature' is -5; it must be a positive number"),
        ("300", '"abc"', "s.toml: key 'temperature' is 'abc'; it must be a number"),
        ("300", "true", "s.toml: key 'temperature' is True; it must be a number"),
        ("300", "nan", "s.toml: key 'temperature' is nan; it must be a number"),
        ("300", "inf", "s.toml: key 'temperature' is inf; it must be a number"),
        ('name = "x"', "", "s.toml: key 'name' is missing"),
        ('"x"', "3", "s.toml: key 'name' is 3; it must be a text in quotes"),
        ("name", "nome", "s.toml: key 'nome' is unknown; known are name, temperature"),
        ("2.5]", "2.5, 3]", "key 'window' is [-1, 2.5, 3]; it must be a list of 2 values"),
        ("[-1, 2.5]", "5", "key 'window' is 5; it must be a list"),
        ("2.5]", '"b"]', "key 'window', value 2, is 'b'; it must be a number"),
        ("2.5]", "-3]", "s.toml: window [-1, -3] does not rise"),
        ("", "hidden = [2.5]\n", "key 'hidden', value 1, is 2.5; it must be a whole number"),
        ("", "hidden = [0]\n", "key 'hidden', value 1, is 0; it must be a positive whole number"),
        ("", "charges = { Be = -2 }\n", "key 'charges', 'Be', is -2; it must be a positive number"),
        ("", "charges = 3\n", "key 'charges' is 3; it must be a table"),
        ("", "inner = { size = 1, sise = 2 }\n", "s.toml, table 'inner': key 'sise' is unknown"),
        ("", "rows = [{ scale = 1 }]\n", "s.toml, table 'rows', value 1: key 'size' is missing"),
        ("", "inner = 3\n", "s.toml, table 'inner' is 3; it must be a table"),
        ("", "fast = 1\n", "key 'fast' is 1; it must be true or false"),
        ("", 'kind = "c"\n', "key 'kind' is 'c'; it must be one of 'a', 'b'"),
        ("", "part = 1.0\n", "key 'part' is 1.0; it must be a number between 0 and 1"),
        ("", "folder = 1\n", "key 'folder' is 1; it must be a path"),
        ("", "weight = -10\n", "key 'weight' is -10; it must be zero or a positive number"),
        ("", "even = 3\n", "key 'even' is 3; it must be an even number"),
    ],
)
def test_one_sentence_names_file_key_value_and_what_would_be_right(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        load(MINIMAL.replace(old, new, 1), tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class Described:
    """As descriptors are: species first, then keywords."""

    def __init__(self, species: tuple[int, ...], *, lmax: int = 4, weights: Sequence[float] | None = None) -> None:
        self.values = (species, lmax, weights)


def test_arguments_of_a_class() -> None:
    assert check_arguments(Described, {"lmax": 2, "weights": [1, 2.5]}, "s") == {"lmax": 2, "weights": (1, 2.5)}
    with pytest.raises(ValueError, match=r"s: key 'lmax' is 2\.5; it must be a whole number"):
        check_arguments(Described, {"lmax": 2.5}, "s")
    with pytest.raises(ValueError, match="s: key 'species' is unknown; known are lmax, weights"):
        check_arguments(Described, {"species": [4]}, "s")


def test_a_file_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no recipe .*s\.toml"):
        read_toml(tmp_path / "s.toml")
    with pytest.raises(ValueError, match="is not a TOML file"):
        load("[", tmp_path)
