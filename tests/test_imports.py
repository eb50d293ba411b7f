"""Who imports whom: the order of the rooms, and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ase_ldos

ROOT = Path(ase_ldos.__file__).parent

#: A room imports only from itself and from rooms to its right; files in the package's own folder are the ground.
ROOMS = [
    *(
        "cli",
        "active_learning",
        "web",
        "learning_primitives",
        "calculator",
        "training",
        "prediction",
        "model",
        "labelling",
        "simulation",
    ),
    *("networks", "formats", "descriptors", "physics", "dataset", "geometry"),
]
#: Beyond the order: what describes and makes reference data knows of no model, and a calculator of no training.
BANS = {room: {"networks", "model", "prediction"} for room in ("dataset", "formats", "labelling")}
BANS["calculator"] = {"training"}
#: Imported by name (``import_module``), against the order: the calculator opens the viewer that is built upon it.
BY_NAME = {("calculator/calculator.py", "web.notebook")}
#: Names what lies in the rooms without entering them, or starts the command line.
DOORS = {"__init__", "__main__", "ase_plugin"}


def imported_modules(path: Path) -> set[str]:
    """Dotted names below ``ase_ldos`` that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import; write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            names = [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
        else:
            continue
        found.update(name.removeprefix("ase_ldos.") for name in names if name.startswith("ase_ldos."))
    return found


def violation(importer: Path, module: str) -> str | None:
    """Say what is wrong about ``importer`` (relative to the package) importing ``module``, if anything is."""
    room, target = importer.parts[0].removesuffix(".py"), module.split(".")[0]
    # models/ holds scripts that made its labels: nothing imports them
    if room in DOORS | {"models"} or room == target or target == "__version__":
        return None
    for name in (room, target):
        if name not in ROOMS and not (ROOT / f"{name}.py").exists():
            return f"{importer} imports {module}: {name} is neither a room nor a ground file"
    if target not in ROOMS:
        return None
    if room not in ROOMS or ROOMS.index(target) < ROOMS.index(room) or target in BANS.get(room, ()):
        return f"{importer} imports {module}"
    return None


def test_rooms_import_only_to_the_right() -> None:
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 100
    imports = [(path.relative_to(ROOT), module) for path in files for module in imported_modules(path)]
    problems = {(path.as_posix(), module) for path, module in imports if violation(path, module)}
    assert problems == BY_NAME
    folders = {path.relative_to(ROOT).parts[0] for path in files if path.parent != ROOT}
    assert folders <= {*ROOMS, "models"}


@pytest.mark.parametrize(
    ("importer", "module", "allowed"),
    [
        ("geometry/grid.py", "physics.ewald", False),
        ("physics/ewald.py", "geometry.grid.Grid", True),
        ("physics/ewald.py", "physics.hartree", True),
        ("physics/ewald.py", "units.COULOMB", True),
        ("model/ldos_model.py", "prediction.predict", False),
        ("units.py", "geometry.grid", False),
        ("files.py", "units", True),
        ("labelling/run.py", "dataset.npz", True),
        ("labelling/run.py", "networks.mlp", False),
        ("formats/cube.py", "model.metadata", False),
        ("calculator/calculator.py", "training.train", False),
        ("calculator/calculator.py", "prediction.predict", True),
        ("cli/train.py", "training.train", True),
        ("__init__.py", "calculator.calculator", True),
        ("attic/old.py", "geometry.grid", False),
        ("geometry/grid.py", "attic.old", False),
    ],
)
def test_the_rule_itself(importer: str, module: str, allowed: bool) -> None:
    assert (violation(Path(importer), module) is None) is allowed


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(run.stdout.split())


def test_importing_the_package_does_not_import_torch() -> None:
    modules = modules_after("import ase_ldos; dir(ase_ldos)")
    assert "ase_ldos" in modules
    assert not modules & {"torch", "vesin", "torchpme", "matplotlib", "ase"}


def test_public_names_load_on_first_use() -> None:
    for name in ase_ldos.__all__:
        assert getattr(ase_ldos, name).__name__ == name
    assert set(ase_ldos.__all__) <= set(dir(ase_ldos))
    assert callable(ase_ldos.predict), "no module of this name hides the function"
    with pytest.raises(AttributeError, match="no attribute 'LDOSCalculater'"):
        _ = ase_ldos.LDOSCalculater
