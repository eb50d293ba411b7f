"""What the viewer shows, as one JSON document: the same for the server's page, the one-file report and a Jupyter cell.

Fields are brought to a grid that a page can draw, coarser than the prediction's for many atoms and finer for few; the
full ones are for the downloads. Windows of energy are added up on the page from bins, which are exact integrals at the
points of the drawn grid.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

import ase_ldos
from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.geometry.fourier_resampling import resample
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.extrapolation import ExtrapolationWarning, describe, warning_threshold
from ase_ldos.prediction.deviations import Uncertainty
from ase_ldos.prediction.local_density import atomic_dos, sum_over_energies, window_weights
from ase_ldos.web.arrays import drawn_shape, encode_field, encode_fields, encode_floats

FORMAT, VERSION = "ase-ldos view", 1
#: Grid points of the density, of each energy bin, and of the density of one picture of a film, at most.
DENSITY_POINTS, BIN_POINTS, FILM_POINTS = 200_000, 27_000, 8_000
#: Distance of the points that a field is drawn on where there are not too many of them, Å.
DRAWN_SPACING = 0.15
#: Energy bins are this wide, eV, or wider where there would be more than so many.
BIN_WIDTH, BINS = 0.25, 100
#: Up to so many atoms the DOS is told by atom, and by species.
ATOMIC_DOS_ATOMS, SPECIES_DOS_ATOMS = 64, 512
#: Of the model's metadata: part of the errors on held-back structures within one standard deviation.
_WITHIN = "within_one_"


def view_document(
    atoms: Atoms,
    calculator: LDOSCalculator,
    *,
    title: str = "",
    kind: str = "predict",
    film: dict[str, Any] | None = None,
    script: str = "",
    remarks: list[str] | None = None,
) -> dict[str, Any]:
    """The document of a structure and its prediction.

    Args:
        atoms: what the calculator has predicted, or is to predict now.
        calculator: forces and stress are shown where it has them.
        title: for the page; default is the formula.
        kind: predict, relax or md.
        film: from ``Film.document``.
        script: Python source that does the same.
        remarks: sentences for the reader.

    Raises:
        CalculatorError: the structure cannot be predicted.
    """
    with warnings.catch_warnings():
        # the warning is told in the document, with the atoms' colours
        warnings.simplefilter("ignore", ExtrapolationWarning)
        calculator.get_property("energy", atoms)
    prediction, metadata = calculator.prediction, calculator.model.metadata
    density = calculator.get_density()
    shown = resample(density, drawn_shape(atoms.cell.array, DRAWN_SPACING, DENSITY_POINTS))
    energies = prediction.energy_grid.cpu().numpy()
    numbers = np.unique(atoms.numbers)
    return {
        "format": FORMAT,
        "version": VERSION,
        "program": f"ase-ldos {ase_ldos.__version__}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": kind,
        "title": title or atoms.get_chemical_formula(),
        "formula": atoms.get_chemical_formula(),
        "remarks": remarks or [],
        "script": script,
        "model": {
            "name": metadata.name,
            "functional": metadata.functional,
            "broadening": metadata.broadening,
            "errors": metadata.errors,
        },
        "parameters": dict(calculator.parameters),
        "atoms": {
            "symbols": atoms.get_chemical_symbols(),
            "positions": encode_floats(atoms.positions),
            "cell": atoms.cell.tolist(),
        },
        "elements": {
            symbol: {
                "color": "#" + "".join(f"{round(255 * c):02x}" for c in jmol_colors[n]),
                "radius": float(covalent_radii[n]),
            }
            for n, symbol in ((int(n), Atoms(numbers=[n]).get_chemical_formula()) for n in numbers)
        },
        "grid": list(density.shape),
        "electrons": float(prediction.grid.integrate(prediction.density)),
        "volume": float(atoms.get_volume()),
        "fermi_level": prediction.fermi_level,
        "dos": {"energies": energies.tolist(), "total": prediction.dos.cpu().tolist(), **_dos_parts(atoms, calculator)},
        "energies": _energy_rows(calculator, len(atoms)),
        "forces": encode_floats(calculator.results["forces"]) if "forces" in calculator.results else None,
        "stress": calculator.results["stress"].tolist() if "stress" in calculator.results else None,
        "extrapolation": _extrapolation(atoms, calculator),
        "deviations": _deviations(prediction.uncertainty, metadata.uncertainty),
        "density": encode_field(shown, 16),
        "bins": _energy_bins(atoms, calculator),
        "film": film,
    }


class Film:
    """The pictures of a run: structure, energies, DOS and a coarse density of each.

    Args:
        calculator: of the run.
    """

    def __init__(self, calculator: LDOSCalculator) -> None:
        self._calculator = calculator
        self._shape: tuple[int, int, int] | None = None
        self._pictures: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, atoms: Atoms, time: float) -> None:
        """Keep the current step; the calculator has predicted these atoms.

        Args:
            atoms: of the run.
            time: fs, or number of the step.
        """
        prediction = self._calculator.prediction
        density = self._calculator.get_density()
        if self._shape is None:
            self._shape = drawn_shape(atoms.cell.array, DRAWN_SPACING, FILM_POINTS)
        forces = self._calculator.results.get("forces")
        self._pictures.append(
            {
                "time": time,
                "positions": atoms.get_positions(),
                "cell": atoms.cell.array.copy(),
                "dos": prediction.dos.cpu().numpy(),
                "fermi_level": prediction.fermi_level,
                "potential": prediction.free_energy,
                "kinetic": float(atoms.get_kinetic_energy()),
                "force": 0.0 if forces is None else float(np.linalg.norm(forces, axis=1).max()),
                "density": resample(density, self._shape).astype(np.float32),
            }
        )

    def document(self, unit: str) -> dict[str, Any] | None:
        """For ``view_document``; ``None`` without two pictures.

        Args:
            unit: of the times: fs or step.
        """
        if len(self._pictures) < 2:
            return None
        columns = {name: np.array([picture[name] for picture in self._pictures]) for name in self._pictures[0]}
        return {
            "unit": unit,
            **{name: columns[name].tolist() for name in ("time", "fermi_level", "potential", "kinetic", "force")},
            **{name: encode_floats(columns[name]) for name in ("positions", "cell", "dos")},
            "density": encode_field(columns["density"], 8),
        }


def _energy_rows(calculator: LDOSCalculator, n_atoms: int) -> list[dict[str, Any]]:
    energies = calculator.prediction.energies
    rows = (
        ("band energy", "E_b", energies.band),
        ("entropy term", "−TS", energies.entropy_term),
        ("minus Hartree", "−E_H", -energies.hartree),
        ("exchange-correlation", "E_xc", energies.xc),
        ("minus n v_xc", "−∫ n v_xc", -energies.xc_potential),
        ("ion-ion", "E_ii", energies.ewald),
        ("free energy", "A", energies.free_energy),
        ("internal energy", "A + TS", energies.internal_energy),
    )
    return [
        {"name": name, "symbol": symbol, "energy": float(value), "per_atom": float(value) / n_atoms}
        for name, symbol, value in rows
    ]


def _energy_bins(atoms: Atoms, calculator: LDOSCalculator) -> dict[str, Any]:
    """Local density of states in bins of energy, of which the page adds up any window: states/Å³ of each bin."""
    model = calculator.model
    energies = model.energies
    low, high = float(energies[0]), float(energies[-1])
    count = max(1, min(BINS, math.ceil((high - low) / BIN_WIDTH)))
    edges = np.linspace(low, high, count + 1)
    weights = torch.stack([window_weights(energies, (a, b)) for a, b in pairwise(edges.tolist())])
    structure = Structure.from_atoms(atoms, device=model.device)
    coarse = Grid(structure.cell, drawn_shape(atoms.cell.array, DRAWN_SPACING, BIN_POINTS))
    fields = sum_over_energies(model, structure, coarse, weights, chunk_size=calculator.parameters["chunk_size"])
    return {"edges": edges.tolist(), "fields": encode_fields(fields.cpu().numpy(), 8)}


def _dos_parts(atoms: Atoms, calculator: LDOSCalculator) -> dict[str, Any]:
    """DOS by species where there are several, and by atom; both by Voronoi's cells."""
    species = sorted(set(atoms.get_chemical_symbols()))
    by_species = len(species) > 1 and len(atoms) <= SPECIES_DOS_ATOMS
    by_atom = len(atoms) <= ATOMIC_DOS_ATOMS
    if not (by_species or by_atom):
        return {}
    model, prediction = calculator.model, calculator.prediction
    structure = Structure.from_atoms(atoms, device=model.device)
    chunk_size = calculator.parameters["chunk_size"]
    dos = atomic_dos(model, structure, prediction.grid, chunk_size=chunk_size).cpu().numpy()
    symbols = np.array(atoms.get_chemical_symbols())
    parts: dict[str, Any] = {}
    if by_species:
        parts["by_species"] = {name: dos[symbols == name].sum(axis=0).tolist() for name in species}
    if by_atom:
        parts["by_atom"] = encode_floats(dos)
    return parts


def _deviations(found: Uncertainty | None, calibration: Mapping[str, float]) -> dict[str, Any] | None:
    """Standard deviations, where the prediction has them; of forces one for each atom; how often they were kept to."""
    if found is None:
        return None
    forces = None if found.forces is None else found.forces.square().mean(dim=1).sqrt()
    return {
        "free_energy": found.free_energy,
        "fermi_level": found.fermi_level,
        "dos": found.dos.cpu().tolist(),
        "forces": None if forces is None else encode_floats(forces.cpu().numpy()),
        "within": {name.removeprefix(_WITHIN): part for name, part in calibration.items() if name.startswith(_WITHIN)},
    }


def _extrapolation(atoms: Atoms, calculator: LDOSCalculator) -> dict[str, Any] | None:
    """Distances from the training data, and the warning in words."""
    metadata = calculator.model.metadata
    if not metadata.extrapolation:
        return None
    distances = calculator.get_extrapolation(atoms)
    threshold = warning_threshold(metadata, calculator.accepted_force_error)
    text = ""
    if (distances > threshold).any():
        structure = Structure.from_atoms(atoms)
        text = describe(torch.from_numpy(distances), structure, threshold, metadata)
    return {
        "distances": encode_floats(distances),
        "threshold": threshold,
        "typical": float(metadata.extrapolation.get("median", 1.0)),
        "warning": text,
    }
