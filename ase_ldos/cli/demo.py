"""``ase-ldos demo``: molecular dynamics of beryllium with the electronic structure at every step."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms

    from ase_ldos.web.view_document import Film

#: Supercells of the two-atom hcp cell.
SUPERCELLS = {16: (2, 2, 2), 36: (3, 3, 2), 128: (4, 4, 4)}
#: Lattice constants a and c of beryllium, Å: the equilibrium of the DFT set-up behind the bundled model.
LATTICE = (2.245, 3.531)
_HEADER = f"{'fs':>7} {'Epot':>12} {'Ekin':>10} {'Etot':>12} {'T':>7} {'mu':>9}"
_UNITS = f"{'':>7} {'eV/atom':>12} {'eV/atom':>10} {'eV/atom':>12} {'K':>7} {'eV':>9}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--atoms", type=int, choices=list(SUPERCELLS), default=16, help="number of atoms (default: 16)")
    parser.add_argument("--steps", type=int, default=50, help="number of steps (default: 50)")
    parser.add_argument("--timestep", type=float, default=1.0, metavar="FS", help="fs (default: 1)")
    parser.add_argument("--temperature", type=float, default=300.0, metavar="K", help="of the ions (default: 300)")
    parser.add_argument("--model", default="be", help="bundled model or model file (default: be)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (default: cuda where there is a device)")
    parser.add_argument("--seed", type=int, default=1, help="of the initial velocities (default: 1)")
    parser.add_argument(
        "--output", type=Path, default=Path("ase-ldos-demo"), metavar="FOLDER", help="default: ase-ldos-demo"
    )


@dataclass
class _Record:
    """What a run leaves behind, one entry a step."""

    times: list[float] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    dos: list[np.ndarray] = field(default_factory=list)
    fermi_levels: list[float] = field(default_factory=list)
    film: Film | None = None


def run(args: argparse.Namespace) -> int:
    """Run constant-energy dynamics and leave trajectory, plots and cube file in the output folder.

    Raises:
        ValueError: a number that makes no sense.
        CalculatorSetupError: no such model.
    """
    if args.steps < 1 or not args.timestep > 0 or not args.temperature >= 0:
        raise ValueError("steps and timestep must be positive, the temperature not negative")
    if args.output.exists() and not args.output.is_dir():
        raise FileExistsError(f"{args.output} exists and is not a folder; choose another --output")
    from ase_ldos.calculator.calculator import LDOSCalculator
    from ase_ldos.files import check_output_folder

    atoms = make_crystal(args.atoms, args.temperature, args.seed)
    atoms.calc = LDOSCalculator(args.model, device=args.device)
    check_output_folder(args.output, 16 * 2**20)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    # everything appears at once, at the end: a run that fails leaves no half-written files
    with TemporaryDirectory(prefix=".ase-ldos-demo-", dir=args.output.parent) as folder:
        record, wall, cpu = _run_dynamics(atoms, args.steps, args.timestep, Path(folder) / "trajectory.traj")
        _write_results(Path(folder), atoms, record)
        args.output.mkdir(exist_ok=True)
        written = [path.replace(args.output / path.name) for path in sorted(Path(folder).iterdir())]
    print(f"\n{atoms.calc.prediction.energies}\n")
    print(f"one step of {len(atoms)} atoms on a grid of {'x'.join(map(str, atoms.calc.grid_shape))} points took")
    print(f"{wall / args.steps:.3f} s ({cpu / args.steps:.3f} s of CPU) on {atoms.calc.parameters['device']}; written:")
    print("\n".join(f"  {path}" for path in written))
    return 0


def make_crystal(n_atoms: int, temperature: float, seed: int) -> Atoms:
    """A hcp beryllium crystal whose atoms move with twice ``temperature`` (K), its centre of mass at rest.

    From the ideal lattice, half of the kinetic energy soon becomes potential energy, and ``temperature`` is left.
    """
    import numpy as np
    from ase.build import bulk

    from ase_ldos.simulation.velocities import draw_momenta

    a, c = LATTICE
    atoms = bulk("Be", "hcp", a=a, c=c).repeat(SUPERCELLS[n_atoms])
    draw_momenta(atoms, 2 * temperature, np.random.default_rng(seed), exact=True)
    return atoms


def _run_dynamics(atoms: Atoms, steps: int, timestep: float, trajectory: Path) -> tuple[_Record, float, float]:
    """Velocity Verlet; returns the record, and the steps' wall and CPU time, s."""
    from ase.io.trajectory import Trajectory
    from ase.md.verlet import VelocityVerlet
    from ase.units import fs
    from tqdm import tqdm

    atoms.get_forces()  # before the clock starts: the first call also sets up libraries
    from ase_ldos.web.view_document import Film

    record, every, film_every = _Record(film=Film(atoms.calc)), max(1, steps // 10), max(1, steps // 50)
    dynamics = VelocityVerlet(atoms, timestep=timestep * fs)
    print(f"{atoms.get_chemical_formula()}, {steps} steps of {timestep:g} fs at constant energy\n")
    print(f"{_HEADER}\n{_UNITS}")
    with Trajectory(str(trajectory), "w", atoms) as file, tqdm(total=steps, unit="step", leave=False) as bar:

        def observe() -> None:
            _observe(record, atoms, dynamics.nsteps * timestep)
            file.write()
            if dynamics.nsteps % film_every == 0 and record.film is not None:
                record.film.add(atoms, dynamics.nsteps * timestep)
            if dynamics.nsteps % every == 0:
                tqdm.write(record.rows[-1])
            if dynamics.nsteps:
                bar.update()

        dynamics.attach(observe)
        wall, cpu = time.perf_counter(), time.process_time()
        dynamics.run(steps)
        return record, time.perf_counter() - wall, time.process_time() - cpu


def _observe(record: _Record, atoms: Atoms, now: float) -> None:
    prediction = atoms.calc.prediction
    potential, kinetic = atoms.get_potential_energy() / len(atoms), atoms.get_kinetic_energy() / len(atoms)
    record.times.append(now)
    record.dos.append(prediction.dos.cpu().numpy())
    record.fermi_levels.append(prediction.fermi_level)
    record.rows.append(
        f"{now:7.1f} {potential:12.6f} {kinetic:10.6f} {potential + kinetic:12.6f} "
        f"{atoms.get_temperature():7.1f} {prediction.fermi_level:9.4f}"
    )


def _write_results(folder: Path, atoms: Atoms, record: _Record) -> None:
    """Table, plots and cube file of the last step, plot and report of the whole run."""
    import numpy as np

    from ase_ldos.formats.cube import write_cube
    from ase_ldos.simulation.plots import density_figure, dos_figure, dos_history_figure

    energies, last = atoms.calc.prediction.energy_grid.cpu().numpy(), record.dos[-1]
    temperature = atoms.calc.parameters["electronic_temperature"]
    title = f"{atoms.get_chemical_formula()} after {record.times[-1]:g} fs"
    (folder / "energies.txt").write_text("\n".join([_HEADER, _UNITS, *record.rows, ""]), encoding="utf-8")
    dos_figure(energies, last, record.fermi_levels[-1], temperature, title=title).savefig(folder / "dos.png", dpi=150)
    history = dos_history_figure(
        np.array(record.times), energies, np.array(record.dos), np.array(record.fermi_levels), title="DOS in time"
    )
    history.savefig(folder / "dos-in-time.png", dpi=150)
    density = atoms.calc.get_density()
    density_figure(atoms, density, title=title).savefig(folder / "density-slice.png", dpi=150)
    write_cube(folder / "density.cube", atoms, density, comment="electron density in e/bohr^3")
    from ase_ldos.web.report import write_report

    write_report(folder / "report.html", atoms, atoms.calc, title=title, film=record.film, film_unit="fs")
