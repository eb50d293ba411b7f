"""What a run tells of its electrons: records at chosen steps, means over them, fields in space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import GPa
from numpy.typing import ArrayLike

from ase_ldos.dataset.compact import in_half_precision, save_compact
from ase_ldos.dataset.snapshot import Snapshot, snapshot_from_arrays

#: Relative changes of volume over which the entropy is differentiated, and kelvins for the temperature's slope.
_VOLUME_STEP = 2e-3


def observe(atoms: Atoms, *, pressure: bool = False) -> dict[str, Any]:
    """Numbers of this moment, per atom where they grow with the size; nothing is calculated anew but for the stress.

    Args:
        atoms: with an ``LDOSCalculator`` that has their forces.
        pressure: also the pressure, of electrons and ions, kinetic part included.

    Returns:
        ``temperature`` of the ions and ``electronic_temperature`` (K); ``free_energy`` A, ``kinetic_energy`` (eV/atom);
        ``entropy`` and ``heat_capacity`` of the electrons (eV/(K atom)); ``fermi_level`` (eV); ``dos_at_fermi_level``
        (1/(eV atom)); ``volume`` (Å³/atom); ``pressure`` (GPa); ``dos`` (1/eV, ``[energy]``); ``cell`` (Å).
    """
    calc, n = atoms.calc, len(atoms)
    found: dict[str, Any] = {
        "temperature": atoms.get_temperature(),
        "electronic_temperature": calc.parameters["electronic_temperature"],
        "free_energy": atoms.get_potential_energy() / n,
        "kinetic_energy": atoms.get_kinetic_energy() / n,
        "entropy": calc.get_quantity("electronic_entropy") / n,
        "heat_capacity": calc.get_quantity("electronic_heat_capacity") / n,
        "fermi_level": calc.get_fermi_level(),
        "dos_at_fermi_level": calc.get_quantity("dos_at_fermi_level") / n,
        "volume": atoms.get_volume() / n,
    }
    if pressure:
        stress = atoms.get_stress(include_ideal_gas=True)
        found["pressure"] = -float(stress[:3].mean()) / GPa
    return found | {"dos": np.asarray(calc.get_dos().get_weights()), "cell": atoms.cell.array.copy()}


@dataclass(frozen=True)
class ElectronPressure:
    """How electrons push when they are heated at fixed places of the atoms (in units of the cell).

    Attributes:
        gruneisen: electronic Grüneisen parameter γ = V (∂p/∂E)_V = V (∂S/∂V)_T / C; 2/3 for free electrons.
        slope: (∂p/∂T)_V = (∂S/∂V)_T, GPa/K.
        pressure: p(T) − p(T of reference), GPa.
    """

    gruneisen: float
    slope: float
    pressure: float


def electron_pressure(atoms: Atoms, reference: float) -> ElectronPressure:
    """Evaluate it with the atoms' calculator, whose last results are lost: take one of its own for it.

    ∂S/∂V by a central difference over ±0.2 % of the volume, on one grid; p(T) − p(reference) from two stresses.

    Args:
        atoms: with an ``LDOSCalculator``, at the temperature that it is set to.
        reference: electronic temperature at which the pressure of the electrons is taken to be zero, K.
    """
    calc, copy = atoms.calc, atoms.copy()
    copy.calc = calc
    hot = calc.parameters["electronic_temperature"]
    try:
        pressures = []
        for temperature in (reference, hot):
            calc.set(electronic_temperature=temperature)
            pressures.append(-float(copy.get_stress()[:3].mean()) / GPa)
        capacity, shape = calc.get_quantity("electronic_heat_capacity"), calc.grid_shape
        entropies = []
        for side in (-1, 1):
            scaled = copy.copy()
            scaled.set_cell(copy.cell.array * (1 + side * _VOLUME_STEP) ** (1 / 3), scale_atoms=True)
            calc.fix_grid(shape)
            entropies.append(calc.get_quantity("electronic_entropy", scaled))
    finally:
        calc.set(electronic_temperature=hot)
    volume = atoms.get_volume()
    slope = (entropies[1] - entropies[0]) / (2 * _VOLUME_STEP * volume)
    return ElectronPressure(volume * slope / capacity, slope / GPa, pressures[1] - pressures[0])


@dataclass(frozen=True)
class MeanDOS:
    """Density of states averaged over a run.

    Attributes:
        energies: from the Fermi level of each moment, eV, ``[energy]``.
        dos: mean, 1/eV, ``[energy]``; of the moments whose window reaches there.
        spread: standard deviation over the run, 1/eV, ``[energy]``.
        fermi_level: mean of μ, eV.
        fermi_level_spread: its standard deviation, eV.
    """

    energies: np.ndarray
    dos: np.ndarray
    spread: np.ndarray
    fermi_level: float
    fermi_level_spread: float


def mean_dos(energies: ArrayLike, dos: ArrayLike, fermi_levels: ArrayLike) -> MeanDOS:
    """Average densities of states, each taken from its own Fermi level.

    Args:
        energies: nodes, eV, ``[energy]``.
        dos: D, 1/eV, ``[time, energy]``.
        fermi_levels: μ, eV, ``[time]``.

    Raises:
        ValueError: no moments, or windows that have no energies from μ in common.
    """
    nodes, curves, levels = (np.asarray(values, dtype=float) for values in (energies, dos, fermi_levels))
    if not len(levels) or curves.shape != (len(levels), len(nodes)):
        raise ValueError(
            f"the densities of states have shape {curves.shape}; {len(levels)} Fermi levels and {len(nodes)} energies "
            "need one curve for each moment, and at least one"
        )
    low, high = nodes[0] - levels.min(), nodes[-1] - levels.max()
    spacing = float(np.diff(nodes).min())
    if high <= low:
        raise ValueError("the windows of energies have nothing in common when they are counted from the Fermi levels")
    away = np.arange(np.ceil(low / spacing), np.floor(high / spacing) + 1) * spacing
    shifted = np.array([np.interp(away + level, nodes, curve) for level, curve in zip(levels, curves)])
    return MeanDOS(away, shifted.mean(axis=0), shifted.std(axis=0), float(levels.mean()), float(levels.std()))


def frame_fields(
    atoms: Atoms, name: str, *, density: bool = True, window: tuple[float, float] | None = None
) -> Snapshot:
    """A moment of a run with its density, its LDOS within a window of energies about the Fermi level, or both.

    Args:
        atoms: with an ``LDOSCalculator``.
        name: of the snapshot.
        density: take the electron density.
        window: take the LDOS from μ + window[0] to μ + window[1], eV.

    Raises:
        ValueError: there are no energies of the model in the window.
    """
    calc = atoms.calc
    level = calc.get_fermi_level(atoms)
    arrays: dict[str, Any] = {
        "numbers": atoms.numbers,
        "cell": atoms.cell.array,
        "positions": atoms.positions,
        "free_energy": np.array(atoms.get_potential_energy()),
        "fermi_level": np.array(level),
        "electronic_temperature": np.array(calc.parameters["electronic_temperature"]),
    }
    if density:
        arrays["density"] = calc.get_density().astype(np.float32)
    if window is not None:
        data = calc.get_dos()
        energies, dos = np.asarray(data.get_energies()), np.asarray(data.get_weights())
        inside = (energies >= level + window[0]) & (energies <= level + window[1])
        if not inside.any():
            raise ValueError(
                f"no energy of the model lies between {window[0]:g} and {window[1]:g} eV from the Fermi level, "
                f"{level:.2f} eV; its window goes from {energies[0]:g} to {energies[-1]:g} eV"
            )
        arrays |= in_half_precision(calc.get_ldos()[..., inside])
        arrays |= {"energies": energies[inside], "dos": dos[inside]}
    return snapshot_from_arrays(name, arrays, name)


def write_frame(folder: Path, frame: Snapshot, kind: str) -> Path:
    """Write a frame's fields into a folder, as a compact label (``npz``) or openPMD (``h5``); returns the file.

    Compact files are read by ``ase_ldos.dataset.npz.load_snapshots(folder)``; density to 0.01 %, LDOS to 0.2 %.

    Raises:
        ValueError: another kind, or openPMD is not installed.
    """
    from ase_ldos.formats.openpmd import write_openpmd

    writers = {"npz": save_compact, "h5": write_openpmd}
    if kind not in writers:
        raise ValueError(f"fields cannot be written as {kind!r}; known are {', '.join(writers)}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{frame.name}.{kind}"
    writers[kind](path, frame)
    return path


def table_lines(record: Mapping[str, Sequence[Any]], columns: Mapping[str, tuple[str, str, int, float]]) -> list[str]:
    """A table of what was recorded: two lines of headings, then one for each moment.

    Args:
        record: values by name.
        columns: by name: heading, unit, decimals and factor; names that the record lacks are left out.
    """
    chosen = {name: column for name, column in columns.items() if record.get(name)}
    width = {name: max(9, len(column[0]) + 1, len(column[1]) + 1, 7 + column[2]) for name, column in chosen.items()}
    lines = ["".join(f"{column[part]:>{width[name]}}" for name, column in chosen.items()) for part in (0, 1)]
    for row in zip(*(record[name] for name in chosen), strict=True):
        cells = (f"{value * c[3]:{width[n]}.{c[2]}f}" for value, (n, c) in zip(row, chosen.items()))
        lines.append("".join(cells))
    return lines
