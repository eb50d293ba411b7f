"""Who imports whom: the floors of the house, and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ase_ldos

ROOT = Path(ase_ldos.__file__).parent

#: A file imports only from a lower floor or from its own folder. Decimals order the rooms of floor 5.
FLOORS = {
    "arrays": 0,
    "build": 0,
    "restart": 0,
    "distributed": 0,
    "elasticity": 0,
    "structure": 0,
    "units": 0,
    "grid": 1,
    "neighbours": 1,
    "ldos": 2,
    "occupation": 2,
    "energies": 2,
    "level_interpolation": 2,
    "descriptors": 3,
    "networks": 4,
    "model": 5,
    "models": 5,
    "data": 5.3,
    "training": 5.6,
    "novelty": 6,
    "journal": 5.8,
    "adjoint": 6,
    "streaming": 6,
    "predict": 6,
    "evaluate": 7,
    "cli_train": 7,
    "memory": 7,
    "grid_keeper": 7,
    "calculator_setup": 7,
    "calculator": 7,
    "orders": 7,
    "serving": 7,
    "__main__": 7,
    "cli": 7,
    "cli_demo": 7,
    "cli_info": 7,
    "cli_predict": 7,
    "cli_pseudo": 7,
    "view": 7,
    "ase_plugin": 7,
}


def imported_modules(path: Path) -> set[str]:
    """Dotted names below ``ase_ldos`` that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import; write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found.update(name.removeprefix("ase_ldos.") for name in names if name.startswith("ase_ldos."))
    return found


def source_files() -> list[Path]:
    # the package's own __init__ is the porch: it names what lies upstairs without entering
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def violation(importer: Path, module: str) -> str | None:
    """Say what is wrong about ``importer`` (relative to the package) importing ``module``, if anything is."""
    room, target = importer.parts[0].removesuffix(".py"), module.split(".")[0]
    missing = {room, target} - FLOORS.keys()
    if missing:
        return f"{importer}: no floor is set for {sorted(missing)}"
    same_folder = room == target or (len(importer.parts) == 1 and (ROOT / f"{target}.py").exists())
    if FLOORS[target] < FLOORS[room] or (FLOORS[target] == FLOORS[room] and same_folder):
        return None
    return f"{importer} (floor {FLOORS[room]}) imports {module} (floor {FLOORS[target]})"


def test_files_import_only_from_below() -> None:
    files = source_files()
    assert len(files) > 10
    problems = [violation(path.relative_to(ROOT), module) for path in files for module in imported_modules(path)]
    assert not [problem for problem in problems if problem]
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in files} <= FLOORS.keys()


@pytest.mark.parametrize(
    ("importer", "module", "allowed"),
    [
        ("grid.py", "occupation", False),
        ("energies/xc.py", "ldos", False),
        ("energies/xc.py", "energies.ewald", True),
        ("ldos.py", "occupation.OccupationWeights", True),
        ("networks/mlp.py", "model", False),
        ("cli.py", "calculator", True),
        ("grid.py", "attic", False),
    ],
)
def test_the_rule_itself(importer: str, module: str, allowed: bool) -> None:
    assert (violation(Path(importer), module) is None) is allowed


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(run.stdout.split())


def test_importing_the_package_does_not_import_torch() -> None:
    modules = modules_after("import ase_ldos")
    assert "ase_ldos" in modules
    assert not modules & {"torch", "vesin", "torchpme", "matplotlib"}


def test_public_names_load_on_first_use() -> None:
    for name in ase_ldos.__all__:
        assert getattr(ase_ldos, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'LDOSCalculater'"):
        _ = ase_ldos.LDOSCalculater
