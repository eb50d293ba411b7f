"""DFT's answers for particular cells: labels that come with the package, or calculations on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from ase_ldos.dataset.npz import PathLike, Snapshot, load_snapshots
from ase_ldos.labelling.dft_settings import load_recipe
from ase_ldos.labelling.run import label_structures

if TYPE_CHECKING:
    from ase import Atoms

MODELS = Path(__file__).parents[1] / "models"


def reference_labels(
    cells: Sequence[Atoms],
    *,
    exact: bool = True,
    pseudo_dir: PathLike | None = None,
    folder: PathLike = "dft",
    recipe: PathLike = MODELS / "be" / "reference.toml",
) -> dict[str, Atoms]:
    """Cells with DFT's free energy, forces and stress, by ``info["name"]``, as far as they are known.

    Args:
        cells: named structures.
        exact: refuse packed labels of other positions; else such labels come with their own positions, as is right
            for cells that a model has relaxed.
        pseudo_dir: folder of the pseudopotentials; with it Quantum ESPRESSO calculates what ``folder`` lacks, on the
            k-mesh and grid of the packed label of that name, if there is one; else only the packed labels are looked
            at.
        folder: where new labels go; a run that was killed goes on.
        recipe: set-up of the calculations, a TOML file; the packed labels lie beside it, with the suffix ``.npz``.

    Raises:
        ValueError: ``pw.x`` or a pseudopotential is missing, a calculation failed, or a label of the same name
            belongs to another structure.
    """
    packed = Path(recipe).with_suffix(".npz")
    found = {snapshot.name: snapshot for snapshot in load_snapshots(packed)} if packed.exists() else {}
    if pseudo_dir is not None:
        cells = [_on_mesh_of(found.get(str(cell.info["name"])), cell) for cell in cells]
        found = _calculate(cells, Path(folder), recipe, pseudo_dir)
    names = {str(cell.info["name"]): cell for cell in cells}
    return {name: labelled_atoms(found[name], cell if exact else None) for name, cell in names.items() if name in found}


def labelled_atoms(snapshot: Snapshot, cell: Atoms | None = None) -> Atoms:
    """The snapshot as atoms whose calculator answers with its labels; energy is the free energy.

    Raises:
        ValueError: the snapshot is not of this cell.
    """
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    atoms = snapshot.to_atoms()
    if cell is not None and not (len(cell) == len(atoms) and _close(cell.cell.array, atoms.cell.array)):
        raise ValueError(f"the label {snapshot.name!r} is of another cell; calculate it anew")
    if cell is not None and not _close(cell.positions, atoms.positions):
        raise ValueError(f"the label {snapshot.name!r} has its atoms at other places; calculate it anew")
    stress = None if snapshot.stress is None else full_3x3_to_voigt_6_stress(snapshot.stress)
    energy = snapshot.free_energy
    atoms.calc = SinglePointCalculator(atoms, energy=energy, free_energy=energy, forces=snapshot.forces, stress=stress)
    atoms.info["name"] = snapshot.name
    return atoms


def _on_mesh_of(label: Snapshot | None, cell: Atoms) -> Atoms:
    """The cell with the meshes of a label, which a series of cells shares; its own, if it brings some, stay."""
    copy = cell.copy()
    for key in ("kpoints", "fft_grid"):
        mesh = getattr(label, key, None)
        if mesh is not None:
            copy.info.setdefault(key, mesh)
    return copy


def _calculate(cells: Sequence[Atoms], folder: Path, recipe: PathLike, pseudo_dir: PathLike) -> dict[str, Snapshot]:
    with tqdm(total=len(cells), desc="pw.x", unit="cell") as bar:
        report = label_structures(
            cells, load_recipe(recipe, pseudo_dir=pseudo_dir), folder, progress=lambda *_: bar.update()
        )
    if report.failed:
        name, reason = next(iter(report.failed.items()))
        raise ValueError(f"{len(report.failed)} calculations failed, {name} for one: {reason}")
    return {snapshot.name: snapshot for snapshot in load_snapshots(folder)}


def _close(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.abs(left - right).max() < 1e-5)
