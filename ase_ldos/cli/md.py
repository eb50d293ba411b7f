"""``ase-ldos md``: molecular dynamics of a structure with its electrons on record; an interrupted run resumes."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_ldos.cli.structure_files import read_structure

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from ase.md.md import MolecularDynamics

    from ase_ldos.calculator.calculator import LDOSCalculator

#: Columns of the table: heading, unit, decimals, factor.
COLUMNS: dict[str, tuple[str, str, int, float]] = {
    "time": ("time", "fs", 1, 1.0),
    "temperature": ("T ions", "K", 1, 1.0),
    "electronic_temperature": ("T el.", "K", 1, 1.0),
    "free_energy": ("A", "eV/atom", 5, 1.0),
    "kinetic_energy": ("E kin", "eV/atom", 5, 1.0),
    "conserved": ("conserved", "meV/atom", 3, 1000.0),
    "absorbed": ("absorbed", "meV/atom", 2, 1000.0),
    "lost": ("lost", "meV/atom", 2, 1000.0),
    "transferred": ("to ions", "meV/atom", 2, 1000.0),
    "fermi_level": ("mu", "eV", 4, 1.0),
    "dos_at_fermi_level": ("D(mu)", "1/eV/atom", 4, 1.0),
    "heat_capacity": ("C el.", "k/atom", 4, 11604.518),
    "volume": ("V", "Å³/atom", 3, 1.0),
    "pressure": ("p", "GPa", 3, 1.0),
    "electron_pressure": ("p el.", "GPa", 3, 1.0),
    "gruneisen": ("gamma el.", "", 3, 1.0),
}
#: Of the Langevin thermostat, 1/fs.
DEFAULT_FRICTION = 0.01
#: What a resumed run may have otherwise than before.
FREE_TO_CHANGE = frozenset({"steps", "out", "file", "index", "device", "fields", "fields_every", "fields_as", "window"})
#: Shortest run whose drift of the conserved energy is told, fs.
SHORTEST_DRIFT = 200.0
#: Least time between two saves of the state, s.
SAVE_INTERVAL = 5.0


@dataclass(frozen=True)
class Driver:
    """A way of running: an entry of ``DRIVERS``.

    Attributes:
        purpose: for the help.
        make: gives the ASE driver from atoms, options and a random generator.
        conserved: gives what the run conserves, eV; None where there is no such quantity.
        stress: the driver needs the stress at every step.
        extra: further numbers to record, eV, per atom in the table.
    """

    purpose: str
    make: Callable[[Atoms, argparse.Namespace, np.random.Generator], MolecularDynamics]
    conserved: Callable[[MolecularDynamics], float] | None
    stress: bool = False
    extra: tuple[str, ...] = ()


def _nve(atoms: Atoms, args: argparse.Namespace, random: np.random.Generator) -> MolecularDynamics:  # noqa: ARG001
    from ase.md.verlet import VelocityVerlet
    from ase.units import fs

    return VelocityVerlet(atoms, args.timestep * fs)


def _nvt(atoms: Atoms, args: argparse.Namespace, random: np.random.Generator) -> MolecularDynamics:
    from ase.md.langevin import Langevin
    from ase.units import fs

    friction = DEFAULT_FRICTION if args.friction is None else args.friction
    heat = {"temperature_K": args.temperature, "friction": friction / fs}
    return Langevin(atoms, args.timestep * fs, **heat, rng=random, fixcm=False)


def _npt(atoms: Atoms, args: argparse.Namespace, random: np.random.Generator) -> MolecularDynamics:  # noqa: ARG001
    from ase.md.nose_hoover_chain import MTKNPT
    from ase.units import GPa, fs

    damping = {"tdamp": args.tdamp * fs, "pdamp": args.pdamp * fs}
    pressure = args.pressure * GPa
    return MTKNPT(atoms, args.timestep * fs, temperature_K=args.temperature, pressure_au=pressure, **damping)


def _respa(atoms: Atoms, args: argparse.Namespace, random: np.random.Generator) -> MolecularDynamics:
    from ase.units import fs

    from ase_ldos.model.distilled_calculator import DistilledCalculator
    from ase_ldos.simulation.respa import RespaLDOS

    heat = {} if args.friction is None else {"temperature_K": args.temperature, "friction": args.friction / fs}
    inner = DistilledCalculator(args.model if args.inner is None else args.inner)
    return RespaLDOS(atoms, args.timestep * fs, inner, args.inner_steps, **heat, rng=random)


def _two_temperatures(atoms: Atoms, args: argparse.Namespace, random: np.random.Generator) -> MolecularDynamics:
    from ase.units import fs

    from ase_ldos.simulation.two_temperature import LaserPulse, TwoTemperatureMD

    return TwoTemperatureMD(
        atoms,
        args.timestep * fs,
        args.electronic_temperature,
        coupling=args.coupling,
        laser=None if args.laser is None else LaserPulse(*args.laser),
        loss=None if args.loss is None else partial(_linear_loss, rate=args.loss[0], rest=args.loss[1]),
        rng=random,
    )


def _linear_loss(temperature: float, *, rate: float, rest: float) -> float:
    return rate * (temperature - rest)


def _total_energy(dynamics: MolecularDynamics) -> float:
    return float(dynamics.atoms.get_total_energy())


def _own_energy(dynamics: Any) -> float:  # noqa: ANN401
    return float(dynamics.get_conserved_energy())


#: Ways of running by the name that ``--ensemble`` takes.
DRIVERS: dict[str, Driver] = {
    "nve": Driver("constant energy (velocity Verlet)", _nve, _total_energy),
    "nvt": Driver("constant temperature (Langevin)", _nvt, None),
    "npt": Driver("constant pressure and temperature (Martyna-Tobias-Klein)", _npt, _own_energy, stress=True),
    "respa": Driver("constant energy, or with --friction temperature, by long steps (r-RESPA)", _respa, _own_energy),
    "2t": Driver(
        "electrons with a temperature of their own",
        _two_temperatures,
        _own_energy,
        extra=("absorbed", "lost", "transferred"),
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", type=Path, help="structure in any format that ASE reads")
    parser.add_argument("--index", default="-1", help="which structure of the file, as ASE counts (default: the last)")
    parser.add_argument("--repeat", type=int, nargs=3, default=(1, 1, 1), metavar="N", help="cells along each vector")
    listing = "; ".join(f"{name}: {driver.purpose}" for name, driver in DRIVERS.items())
    parser.add_argument("--ensemble", choices=list(DRIVERS), default="nve", help=f"{listing} (default: nve)")
    parser.add_argument("--steps", type=int, default=100, help="in all, earlier runs in the folder included")
    parser.add_argument("--timestep", type=float, default=1.0, metavar="FS", help="fs (default: 1)")
    parser.add_argument("--temperature", type=float, default=300.0, metavar="K", help="of the ions (default: 300)")
    parser.add_argument("--out", type=Path, default=Path("ase-ldos-md"), metavar="FOLDER", help="default: ase-ldos-md")
    parser.add_argument("--interval", type=int, default=10, metavar="STEPS", help="between records (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="of velocities and thermostat (default: 1)")
    parser.add_argument("--model", default="be", help="bundled model or model file (default: be)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (default: cuda where there is a device)")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="number type of the network")
    parser.add_argument("--electronic-temperature", type=float, metavar="K", help="at the start (default: the model's)")
    parser.add_argument(
        "--states-to", type=float, metavar="EV", help="continue the model's states as free ones up to this energy"
    )
    parser.add_argument("--record-pressure", action="store_true", help="in any ensemble; each step then takes longer")
    parser.add_argument(
        "--electron-pressure",
        type=float,
        metavar="K",
        help="record the electrons' pressure against electrons of this temperature, and their Grüneisen parameter",
    )
    parser.add_argument("--fields", choices=("density", "window", "both"), help="write fields in space at some steps")
    parser.add_argument("--fields-every", type=int, default=100, metavar="STEPS", help="default: 100")
    parser.add_argument("--fields-as", choices=("npz", "h5"), default="npz", help="compact npz, or openPMD")
    parser.add_argument(
        "--window", type=float, nargs=2, default=(-1.0, 1.0), metavar="EV", help="of the LDOS, from the Fermi level"
    )
    thermostat = parser.add_argument_group("nvt, npt and respa")
    thermostat.add_argument("--friction", type=float, metavar="1/FS", help=f"default: {DEFAULT_FRICTION}")
    thermostat.add_argument("--pressure", type=float, default=0.0, metavar="GPA", help="default: 0")
    thermostat.add_argument("--tdamp", type=float, default=50.0, metavar="FS", help="default: 50")
    thermostat.add_argument("--pdamp", type=float, default=200.0, metavar="FS", help="default: 200")
    long = parser.add_argument_group("respa", "the model has to hold a distilled potential: ase-ldos distill")
    long.add_argument("--inner", metavar="MODEL", help="model with the potential of the inner steps (default: --model)")
    long.add_argument("--inner-steps", type=int, default=8, metavar="N", help="in a step (default: 8)")
    hot = parser.add_argument_group("2t")
    hot.add_argument("--coupling", type=float, default=0.0, metavar="G", help="of electrons and ions, W/(m³ K)")
    hot.add_argument(
        "--laser", type=float, nargs=3, metavar=("EV", "FS", "FS"), help="energy per atom, duration (FWHM), its centre"
    )
    hot.add_argument(
        "--loss", type=float, nargs=2, metavar=("RATE", "K"), help="eV/(atom fs K) times T − K leaves the electrons"
    )


def run(args: argparse.Namespace) -> int:
    """Run, print the table, leave trajectory, table, state and pictures in the folder.

    Raises:
        ValueError: a number that makes no sense, or the folder holds another run.
    """
    if args.steps < 1 or args.interval < 1 or args.fields_every < 1 or not args.timestep > 0 or min(args.repeat) < 1:
        raise ValueError("steps, intervals, repetitions and timestep must be positive")
    if not args.temperature >= 0:
        raise ValueError(f"--temperature is {args.temperature}; it must not be negative")
    if args.out.exists() and not args.out.is_dir():
        raise FileExistsError(f"{args.out} exists and is not a folder; choose another --out")
    atoms = read_structure(args.file, args.index).repeat(args.repeat)
    atoms.set_constraint()
    from ase_ldos.calculator.calculator import LDOSCalculator
    from ase_ldos.calculator.parallel import lead
    from ase_ldos.model.energy_tail import with_free_states
    from ase_ldos.model.model_file import load_model

    model: Any = args.model if args.states_to is None else with_free_states(load_model(args.model), args.states_to)
    calculator = LDOSCalculator(
        model, device=args.device, dtype=args.dtype, electronic_temperature=args.electronic_temperature
    )
    atoms.calc = calculator
    args.out.mkdir(parents=True, exist_ok=True)
    lead(lambda _: _Run(atoms, args).go(), calculator)
    return 0


def _draw_velocities(atoms: Atoms, temperature: float, random: np.random.Generator) -> None:
    """Draw momenta, unless the file told velocities."""
    import numpy as np

    from ase_ldos.simulation.velocities import draw_momenta

    if not atoms.has("momenta") or not np.any(atoms.get_momenta()):
        draw_momenta(atoms, temperature, random)


class _Run:
    """One run in its folder: ``run.npz`` (state, record), ``settings.json``, ``trajectory.traj``, table and plots."""

    def __init__(self, atoms: Atoms, args: argparse.Namespace) -> None:
        import numpy as np

        from ase_ldos.geometry.grid import grid_shape
        from ase_ldos.simulation.restart import load_run

        self.atoms, self.args, self.driver = atoms, args, DRIVERS[args.ensemble]
        random = np.random.default_rng(args.seed)
        _draw_velocities(atoms, args.temperature, random)
        if self.driver.stress:  # one grid for all cells to come
            atoms.calc.fix_grid(grid_shape(1.03 * atoms.cell.array, atoms.calc.parameters["grid_spacing"]))
        self.dynamics = self.driver.make(atoms, args, random)
        self.state, self.trajectory = args.out / "run.npz", args.out / "trajectory.traj"
        self.record: dict[str, list[Any]] = {}
        self._check_settings()
        if self.state.exists():
            self.record = load_run(self.state, self.dynamics)
        self.probe = _probe(atoms) if args.electron_pressure is not None else None
        self._printed, self._saved, self._sections = 0, time.monotonic(), 0

    def go(self) -> None:
        """Run the steps that are missing, then write table and pictures."""
        from ase.io.trajectory import Trajectory
        from tqdm import tqdm

        done = self.dynamics.nsteps
        if done:
            print(f"resumes at step {done} of {self.args.steps}, {self.args.out}")
        self._cut_trajectory()
        if done < self.args.steps:
            with (
                Trajectory(str(self.trajectory), "a" if done else "w", self.atoms) as self._file,
                tqdm(total=self.args.steps, initial=done, unit="step", leave=False) as self._bar,
            ):
                self.dynamics.attach(self._observe, 1)
                self.dynamics.run(self.args.steps - done)
            self._save()
        _write_results(self.args, self.atoms, self.record)
        print(f"\nwritten to {self.args.out}: " + ", ".join(sorted(path.name for path in self.args.out.iterdir())))

    def _check_settings(self) -> None:
        """Keep the settings beside the state, so that nobody goes on with others.

        Raises:
            ValueError: the run in the folder has other settings.
        """
        from ase_ldos.files import write_text

        path = self.args.out / "settings.json"
        own = {name: value for name, value in vars(self.args).items() if name not in FREE_TO_CHANGE}
        own = json.loads(json.dumps(own, default=str))  # as they are read again
        if self.state.exists() and path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            other = [name for name in own if known.get(name) != own[name]]
            if other:
                name = other[0]
                raise ValueError(
                    f"{self.args.out} holds a run with --{name.replace('_', '-')} {known.get(name)}, not {own[name]}; "
                    "resume it as it was, or name another --out"
                )
        write_text(path, json.dumps(own, indent=1) + "\n")

    def _cut_trajectory(self) -> None:
        """Drop frames later than the saved state, which will come again."""
        from ase.io.trajectory import Trajectory

        from ase_ldos.files import atomic_write

        kept = len(self.record.get("time", []))
        if not kept or not self.trajectory.exists():
            return
        with Trajectory(str(self.trajectory)) as old:
            if len(old) == kept:
                return
            frames = [old[number] for number in range(min(kept, len(old)))]
        with atomic_write(self.trajectory) as draft, Trajectory(str(draft), "w") as new:
            for frame in frames:
                new.write(frame)

    def _observe(self) -> None:
        step = self.dynamics.nsteps
        if step:
            self._bar.update()
        if self.args.fields is not None and step % self.args.fields_every == 0:
            self._write_fields(step)
        if step % self.args.interval and step != self.args.steps:
            return
        self._note()
        self._file.write()
        self._print()
        if time.monotonic() - self._saved > SAVE_INTERVAL:
            self._save()

    def _note(self) -> None:
        from ase_ldos.simulation.observables import electron_pressure, observe

        n, args = len(self.atoms), self.args
        found = {"time": self.dynamics.nsteps * args.timestep}
        found |= observe(self.atoms, pressure=self.driver.stress or args.record_pressure)
        if self.driver.conserved is not None:
            found["conserved"] = self.driver.conserved(self.dynamics) / n
            # from the first one: its change is of interest
            found["conserved"] -= self.record["reference"][0] if "reference" in self.record else found["conserved"]
            if "reference" not in self.record:
                self.record["reference"] = [self.driver.conserved(self.dynamics) / n]
        for name in self.driver.extra:
            found[name] = getattr(self.dynamics, name) / n
        if self.probe is not None:
            copy = self.atoms.copy()
            copy.calc = self.probe
            self.probe.fix_grid(self.atoms.calc.grid_shape)
            self.probe.set(electronic_temperature=self.atoms.calc.parameters["electronic_temperature"])
            pushed = electron_pressure(copy, args.electron_pressure)
            found |= {"electron_pressure": pushed.pressure, "gruneisen": pushed.gruneisen}
        for name, value in found.items():
            self.record.setdefault(name, []).append(value)

    def _write_fields(self, step: int) -> None:
        from ase_ldos.simulation.observables import frame_fields, write_frame

        args = self.args
        window = None if args.fields == "density" else tuple(args.window)
        frame = frame_fields(self.atoms, f"step_{step:07d}", density=args.fields != "window", window=window)
        write_frame(args.out / "fields", frame, args.fields_as)

    def _print(self) -> None:
        from tqdm import tqdm

        from ase_ldos.simulation.observables import table_lines

        last = {name: values[-1:] for name, values in self.record.items()}
        lines = table_lines(last, COLUMNS)
        for line in lines if self._printed % 20 == 0 else lines[2:]:
            tqdm.write(line)
        self._printed += 1

    def _save(self) -> None:
        from ase_ldos.simulation.restart import save_run

        save_run(self.state, self.dynamics, self.record)
        self._saved = time.monotonic()


def _probe(atoms: Atoms) -> LDOSCalculator:
    """A calculator like that of the atoms, for side calculations that must not disturb the run."""
    from ase_ldos.calculator.calculator import LDOSCalculator

    own = atoms.calc.parameters
    chosen = {name: own[name] for name in ("device", "electronic_temperature", "grid_spacing", "chunk_size")}
    return LDOSCalculator(atoms.calc.model, **chosen)


def _write_results(args: argparse.Namespace, atoms: Atoms, record: dict[str, list[Any]]) -> None:
    """Table and pictures of the whole run."""
    import numpy as np

    from ase_ldos.files import atomic_write, write_text
    from ase_ldos.simulation.observables import mean_dos, table_lines
    from ase_ldos.simulation.plots import dos_history_figure, mean_dos_figure, run_figure

    write_text(args.out / "table.txt", "\n".join([*table_lines(record, COLUMNS), ""]))
    energies = np.asarray(atoms.calc.model.energies.cpu())
    times, dos, levels = (np.array(record[name]) for name in ("time", "dos", "fermi_level"))
    mean = mean_dos(energies, dos, levels)
    panels = {
        "temperature (K)": ("temperature", "electronic_temperature"),
        "conserved (meV/atom)": ("conserved",),
        "pressure (GPa)": ("pressure", "electron_pressure"),
        "Fermi level (eV)": ("fermi_level",),
    }
    curves = {
        label: {COLUMNS[name][0]: np.array(record[name]) * COLUMNS[name][3] for name in names if record.get(name)}
        for label, names in panels.items()
    }
    figures = {
        "run.png": run_figure(times, {label: lines for label, lines in curves.items() if lines}),
        "dos.png": mean_dos_figure(mean, title=f"{atoms.get_chemical_formula()}, mean over {len(times)} moments"),
    }
    if len(times) > 1:
        figures["dos-in-time.png"] = dos_history_figure(times, energies, dos, levels)
    for name, figure in figures.items():
        with atomic_write(args.out / name) as draft:
            figure.savefig(draft, dpi=150, format="png")
    late = len(times) // 2
    print(f"\nmeans over the second half ({len(times) - late} moments)")
    for name, (heading, unit, digits, factor) in COLUMNS.items():
        if name != "time" and record.get(name):
            values = np.array(record[name][late:]) * factor
            print(f"  {heading:10} {values.mean():14.{digits}f} ± {values.std():.{digits}f} {unit}")
    if record.get("conserved") and times[-1] - times[0] >= SHORTEST_DRIFT:
        drift = 1e6 * np.polyfit(times, np.array(record["conserved"]), 1)[0]
        print(f"  drift of the conserved energy {drift:.3f} meV/atom/ps")
