"""The README and the documents that it points to do what they say: code runs, files exist, numbers are printed."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

import ase_ldos
from ase_ldos.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = ("", "ase_ldos", "ase_ldos/calculator", "ase_ldos/labelling", "ase_ldos/physics", "ase_ldos/training")
DOCUMENTS = [ROOT / folder / "README.md" for folder in (*FOLDERS, "md_examples", "tests/benchmarks")]
#: A measured number with its unit, as tables hold them.
MEASURED = re.compile(r"\d(?:[\d.,/ ]*)(?:meV|mJ|GPa|µs|GiB|THz|CPU|%|s\b|s per|times)")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def tables(text: str) -> list[list[list[str]]]:
    """Every table as rows of cells, its head first."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in table.splitlines()] for table in found]


def runnable(text: str) -> list[str]:
    """Command lines of the package in blocks of text and in inline code."""
    lines = [line for language in ("text", "bash") for block in blocks(language, text) for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]*ase-ldos [^`\n]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    return [line.split("#")[0].strip() for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_python_blocks_run(document: Path, bundled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python", document.read_text(encoding="utf-8")):
        exec(compile(block, str(document), "exec"), names)
    if document == ROOT / "README.md":
        assert names["density"].min() > -0.1
        assert names["ldos"].ndim == 4


@pytest.mark.slow
def test_bash_blocks_run(bundled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All lines but those that install, of the README, and its installed command."""
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Be", "hcp", a=2.245, c=3.531)
    atoms.rattle(0.03, seed=0)
    write("be.xyz", atoms)
    installed = blocks("bash")[0].splitlines()[0].split("&&")[1]
    lines = [line for block in blocks("bash") for line in block.splitlines() if "pip install" not in line]
    assert len(lines) >= 2
    for line in (installed, *lines):
        program, *arguments = shlex.split(line, comments=True)
        assert program == "ase-ldos"
        assert main(arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"dos.png", "density.png", "density.cube", "ase-ldos-demo"}


def test_first_screen_has_exactly_two_commands() -> None:
    first = blocks("bash")[0].splitlines()
    assert len(first) == 2
    assert first[0].endswith("&& ase-ldos demo")
    assert first[1].endswith("&& pytest")
    assert README.index(first[1]) < 900


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 130


def test_ci_runs_the_same_installation() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    install, _ = (part.strip() for part in blocks("bash")[0].splitlines()[1].split("&&"))
    assert install in script


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_what_is_named_exists(document: Path) -> None:
    """Links and pictures relative to the document; files in inline code relative to it, to the package or the root."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    links += re.findall(r'<img src="([^"]+)"', text)
    missing = [link for link in links if not (document.parent / link).exists()]
    assert not missing
    files = re.findall(r"[\w/.-]+\.py\b|\b[\w/-]+/(?=`)", "\n".join(re.findall(r"`[^`\n]+`", text)))
    places = (document.parent, ROOT, ROOT / "ase_ldos", ROOT / "ase_ldos/prediction", ROOT / "ase_ldos/simulation")
    made = {"ase-ldos-demo/"}  # by the demo
    missing = [name for name in files if name not in made and not any((place / name).exists() for place in places)]
    assert not missing
    for dotted in re.findall(r"`(ase_ldos(?:\.\w+)+)", text):
        if dotted.split(".")[1] not in {point.split(".")[1] for point in entry_point_groups()}:
            assert any(
                (ROOT / (part.replace(".", "/") + end)).exists() for part in parents(dotted) for end in ("", ".py")
            )


def entry_point_groups() -> list[str]:
    return [
        "ase_ldos.descriptors",
        "ase_ldos.networks",
        "ase_ldos.functionals",
        "ase_ldos.commands",
        "ase_ldos.quantities",
    ]


def parents(dotted: str) -> list[str]:
    """``a.b.C`` may be a module, or a name in a module ``a.b``, or a public name of the package."""
    head, _, last = dotted.rpartition(".")
    return [dotted, head] if head != "ase_ldos" or last in ase_ldos.__all__ or last.startswith("__") else [dotted]


def test_no_word_of_the_workplace() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert not re.search(r"/work\b|/tmp\b|\.\./shared", text), document


def test_every_command_is_named() -> None:
    assert all(f"ase-ldos {name}" in README for name in COMMANDS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_options_exist(document: Path) -> None:
    """Whatever command line of ``ase-ldos`` a document shows: its command and options are there."""
    for line in runnable(document.read_text(encoding="utf-8")):
        for name, rest in re.findall(r"(?:ase-ldos|-m ase_ldos) ([a-z]+)([^;|]*)", line):
            parser = argparse.ArgumentParser()
            COMMANDS[name].add_arguments(parser)
            unknown = {option for option in re.findall(r"(?<= )--[\w-]+", rest) if option not in parser.format_help()}
            assert not unknown, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_measured_numbers_stand_beside_a_command(document: Path) -> None:
    """In a row, the head of the table, or the paragraphs about it, a command says what prints the number."""
    text = document.read_text(encoding="utf-8")
    command = re.compile(r"`[^`]*(?:ase-ldos |pytest|torchrun|\w\.py)[^`]*`")
    for table in tables(text):
        head = "|".join(table[0])
        start = text.index("|" + head + "|")
        section = text[text.rfind("\n## ", 0, start) : start]
        about = re.sub(r"^\|.*$", "", section, flags=re.MULTILINE)
        for row in table[2:]:
            # the unit may stand in the head
            if any(
                MEASURED.search(cell + " " + "".join(re.findall(r"\((.*?)\)", top))) for top, cell in zip(table[0], row)
            ):
                assert command.search("|".join([about, *row])), row


def test_errors_of_the_models_are_those_of_info(capsys: pytest.CaptureFixture[str]) -> None:
    """The table of models holds what ``ase-ldos info`` prints."""
    (table,) = (table for table in tables(README) if "printed by" in table[0][-1] and "knows" in table[0][1])
    assert len(table) == 2 + 3
    for row in table[2:]:
        command = row[-1].strip(" `").split()
        assert command[:2] == ["ase-ldos", "info"]
        assert f"`{command[2]}`" in row[0]
        assert main(command[1:]) == 0
        lines = {line[:26].strip(): line[26:].split() for line in capsys.readouterr().out.splitlines()}
        for head, cell in zip(table[0][2:-1], row[2:-1]):
            quantity, unit = re.fullmatch(r" (.*) \((.*)\) ", head).groups()
            name = "below the Fermi level" if quantity == "LDOS below μ" else quantity
            assert lines[name][:2] == [unit, cell.strip()]
    level = re.search(r"\((\d\.\d+) eV by `ase-ldos info be`\)", README)
    assert level is not None
    assert main(["info", "be"]) == 0
    assert f"Fermi level             eV{level[1]:>23}" in capsys.readouterr().out


def test_formulas_name_their_functions() -> None:
    """The page of conventions: each file holds what it is said to hold."""
    folder = ROOT / "ase_ldos" / "physics"
    text = (folder / "README.md").read_text(encoding="utf-8")
    rows = [row for row in tables(text)[0][2:] if "](" in row[1] and "`../" not in row[1]]
    assert len(rows) > 8
    for row in rows:
        source = "".join((folder / name).read_text(encoding="utf-8") for name in re.findall(r"\]\((\w+\.py)\)", row[1]))
        functions = re.findall(r"`(\w+)`", row[2])
        assert functions
        assert all(re.search(rf"^(def|class) {name}\b", source, re.MULTILINE) for name in functions), row
    assert "fermi_level" in tables(text)[0][2][2]


def test_every_room_is_described() -> None:
    text = (ROOT / "ase_ldos" / "README.md").read_text(encoding="utf-8")
    rooms = {path.name for path in (ROOT / "ase_ldos").iterdir() if (path / "__init__.py").exists()}
    rule = text[text.index("    cli > ") : text.index("ground files")]
    order = [room.strip() for room in rule.split(">")]
    assert rooms <= set(order)
    assert all(f"| `{room}/` |" in text for room in rooms)
    assert all(group in text for group in entry_point_groups())


def test_settings_in_the_documents_are_toml() -> None:
    found = [block for document in DOCUMENTS for block in blocks("toml", document.read_text(encoding="utf-8"))]
    assert len(found) >= 2
    for block in found:
        assert tomllib.loads(block)


def test_the_gallery_shows_every_script() -> None:
    folder = ROOT / "md_examples"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"{path.name}" in text for path in folder.glob("*.py"))
    pictures = sorted((folder / "pictures").iterdir())
    assert len(pictures) > 10
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 60_000
        assert f"pictures/{picture.name}" in text


def test_version_is_the_same_everywhere() -> None:
    for name, pattern in (("pyproject.toml", 'version = "{}"'), ("CITATION.cff", "version: {}")):
        assert pattern.format(ase_ldos.__version__) in (ROOT / name).read_text(encoding="utf-8")
