"""A stacking fault in beryllium at the size of the field's headline: 131,072 atoms, 80 million grid points.

    python stacking_fault.py                        # energy and density; --forces for forces as well
    torchrun --nproc-per-node 2 stacking_fault.py   # the same on two processes
    python stacking_fault.py --size 8 8 8           # a small one first

64 layers of hcp with the intrinsic fault I2 (h h … h c c): two layers have fcc surroundings. An interrupted run
resumes from the folder ``stacking_fault.part`` when it is started again. Writes slices of the density about the fault.
"""

import argparse
import resource
import shutil
import time
from pathlib import Path

import numpy as np
from ase import Atoms

from ase_ldos import Communicator, Prediction, Snapshot, Structure, load_model, predict
from ase_ldos.files import atomic_write
from ase_ldos.formats.cube import write_cube
from ase_ldos.formats.openpmd import write_openpmd
from ase_ldos.simulation.plots import density_figure
from ase_ldos.simulation.stacking import polytype

A, C = 2.245, 3.531


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(64, 32, 64), help="cells along a and b, layers (even)")
    parser.add_argument("--forces", action="store_true")
    parser.add_argument("--cube", action="store_true", help="write density.cube")
    parser.add_argument("--hdf5", action="store_true", help="write density.h5 (openPMD)")
    options = parser.parse_args()
    communicator, model = Communicator.from_torchrun(), load_model("be").requires_grad_(False)
    nx, ny, layers = options.size
    atoms = polytype("Be", A, C, "h" * (layers - 2) + "cc", (nx, ny))
    # that of the perfect crystal is a good guess of the Fermi level
    guess = predict(model, Structure.from_atoms(polytype("Be", A, C, "hh"))).fermi_level
    folder = Path("stacking_fault.part")
    wall, cpu = time.perf_counter(), time.process_time()
    resumable = {"communicator": communicator, "checkpoint": folder, "progress": True}
    found = predict(model, Structure.from_atoms(atoms), forces=options.forces, fermi_guess=guess, **resumable)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    print(f"rank {communicator.rank}: {wall:.0f} s, {cpu:.0f} s of CPU, largest memory {peak:.1f} GiB", flush=True)
    if communicator.is_root:
        report(atoms, found, options)
        shutil.rmtree(folder)
    communicator.close()


def report(atoms: Atoms, found: Prediction, options: argparse.Namespace) -> None:
    print(f"{len(atoms)} atoms, {found.grid.n_points} points, fermi level {found.fermi_level:.4f} eV")
    print(found.energies)
    density, height = found.density.numpy(), atoms.cell[2, 2]
    for axis, name in ((1, "across"), (2, "within")):
        figure = density_figure(atoms, density, axis=axis, position=0.0 if axis == 1 else 1 - 1 / height)
        figure.axes[0].set(xlim=(0, 14), ylim=(height - 14, height) if axis == 1 else (0, 14))
        with atomic_write(f"fault_{name}.png") as draft:
            figure.savefig(draft, dpi=150)
    if found.forces is not None:
        np.save("forces.npy", found.forces.numpy())
        print(f"largest force {found.forces.norm(dim=1).max():.4f} eV/Å")
    if options.cube:
        write_cube("density.cube", atoms, density, comment="electron density in e/bohr^3")
    if options.hdf5:
        arrays = (atoms.numbers, atoms.cell.array, atoms.positions)
        write_openpmd("density.h5", Snapshot("fault", *arrays, density=density))


if __name__ == "__main__":
    main()
