"""What a grid's spacing costs and spares: errors of A and of forces against a fine grid, and CPU time.

Run: OMP_NUM_THREADS=1 python grid_error.py --model be --spacing 0.25 0.2875 0.305 --structures 4. Structures are
rattled crystals of several volumes. Columns: points per atom; mean and standard deviation over structures of the error
of A; largest error of a component of a force; CPU time of energy and forces. The mean is a constant that no difference
of energies feels, the deviation is what is left of it. A table in Markdown. What a grid feels of the atoms' places is
in ``egg_box.py``.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from ase import Atoms
from ase.build import bulk
from tqdm import tqdm

from ase_ldos import load_model, predict
from ase_ldos.geometry.grid import grid_shape
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.predict import Prediction
from ase_ldos.training.distill import reference_crystal


def structures(model: LDOSModel, count: int, rattle: float) -> list[Atoms]:
    """Rattled crystals within 3 % of the lengths of the reference."""
    beryllium = model.descriptor.species == (4,)
    crystal = bulk("Be", "hcp", a=2.245, c=3.531).repeat((2, 2, 2)) if beryllium else reference_crystal(model)
    found = []
    for seed, stretch in enumerate(np.linspace(0.985, 1.015, count)):
        atoms = crystal.copy()
        atoms.set_cell(atoms.cell.array * stretch, scale_atoms=True)
        atoms.rattle(rattle, seed=seed)
        found.append(atoms)
    return found


def timed(model: LDOSModel, atoms: Atoms, spacing: float) -> tuple[Prediction, float]:
    """A prediction with forces, and its CPU time in s."""
    begin = time.process_time()
    found = predict(model, atoms, forces=True, grid_shape=grid_shape(atoms.cell.array, spacing))
    return found, time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="be")
    parser.add_argument("--spacing", type=float, nargs="+", metavar="Å", help="default: the model's, and 1.15 times it")
    parser.add_argument("--finest", type=float, metavar="Å", help="what the errors are against (default: half)")
    parser.add_argument("--structures", type=int, default=5)
    parser.add_argument("--rattle", type=float, default=0.08, metavar="Å", help="standard deviation of the atoms")
    options = parser.parse_args()
    model = load_model(options.model)
    own = model.metadata.grid_spacing
    spacings = options.spacing or [own, 1.15 * own]
    finest = options.finest or 0.5 * own
    energies: dict[float, list[float]] = {spacing: [] for spacing in spacings}
    forces: dict[float, list[float]] = {spacing: [] for spacing in spacings}
    seconds: dict[float, list[float]] = {spacing: [] for spacing in spacings}
    points: dict[float, list[float]] = {spacing: [] for spacing in spacings}
    for atoms in tqdm(structures(model, options.structures, options.rattle), unit="structure"):
        reference, _ = timed(model, atoms, finest)
        for spacing in spacings:
            found, clock = timed(model, atoms, spacing)
            assert found.forces is not None
            assert reference.forces is not None
            energies[spacing].append(1000 * (found.free_energy - reference.free_energy) / len(atoms))
            forces[spacing].append(1000 * float((found.forces - reference.forces).abs().max()))
            seconds[spacing].append(clock)
            points[spacing].append(found.density.numel() / len(atoms))
    print(f"{options.model}, {options.structures} structures, against {finest:.3f} Å\n")
    print("| spacing, Å | points per atom | mean error of A, meV/atom | its deviation | force, meV/Å | CPU s |")
    print("|---|---|---|---|---|---|")
    for spacing in spacings:
        errors = np.array(energies[spacing])
        print(
            f"| {spacing:.3f} | {np.mean(points[spacing]):.0f} | {errors.mean():+.3f} | {errors.std():.3f} | "
            f"{max(forces[spacing]):.2f} | {np.mean(seconds[spacing]):.2f} |"
        )


if __name__ == "__main__":
    main()
