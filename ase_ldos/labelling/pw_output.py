"""What pw.x writes into ``PREFIX.save``: energies, eigenvalues, density, wavefunctions; and the LDOS made of them."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import fft

from ase_ldos.geometry.fourier_resampling import resample, resize_waves
from ase_ldos.labelling.symmetry import Operation, symmetric_grid, symmetrise
from ase_ldos.units import BOHR, HARTREE

#: Memory for the wavefunctions on the grid, bytes.
_BATCH_MEMORY = 1 << 27
#: Bands whose densities are added to the LDOS by one product of matrices.
_PRODUCT_BANDS = 128


@dataclass(frozen=True, eq=False)
class Wavefunctions:
    """The Kohn-Sham states of one k-point.

    Attributes:
        miller: Miller indices of the plane waves, ``[wave, 3]``.
        coefficients: complex128 ``[band, wave]``; their squares sum to 1.
    """

    miller: np.ndarray
    coefficients: np.ndarray


def read_xml(save: Path) -> dict[str, np.ndarray]:
    """Read ``data-file-schema.xml``: energies, forces, stress, eigenvalues, in eV and Å.

    Returns:
        Arrays under the keys of a snapshot; also ``occupations`` ``[k, band]`` and ``n_electrons``.

    Raises:
        ValueError: the file is missing or cut off, or the calculation is spin-polarised.
    """
    path = Path(save) / "data-file-schema.xml"
    try:
        output = ET.parse(path).getroot().find("output")  # noqa: S314 (written by our own pw.x)
    except (OSError, ET.ParseError) as error:
        raise ValueError(f"{path} is missing or cut off: {error}") from error
    if output is None:
        raise ValueError(f"{path} has no output; pw.x did not finish")
    if output.findtext("magnetization/lsda") == "true" or output.findtext("magnetization/noncolin") == "true":
        raise ValueError(f"{path} is spin-polarised; only calculations without spin can be read")
    total = {key: _number(output, f"total_energy/{key}") for key in ("etot", "ehart", "etxc", "ewald")}
    # without smearing there is none
    total["demet"] = 0.0 if output.find("total_energy/demet") is None else _number(output, "total_energy/demet")
    states = output.findall("band_structure/ks_energies")
    weights = np.array([float(state.find("k_point").get("weight")) for state in states])  # type: ignore[union-attr,arg-type]
    eigenvalues = np.array([_numbers(state, "eigenvalues") for state in states]) * HARTREE
    occupations = np.array([_numbers(state, "occupations") for state in states])
    weights *= 2 / weights.sum()
    grid = output.find("basis_set/fft_grid")
    result = {
        "free_energy": total["etot"] * HARTREE,
        "hartree": total["ehart"] * HARTREE,
        "xc": total["etxc"] * HARTREE,
        "ewald": total["ewald"] * HARTREE,
        "smearing_TS": total["demet"] * HARTREE,
        "one_electron": (2 * total["etot"] - sum(total.values())) * HARTREE,
        "band_energy": (weights[:, None] * occupations * eigenvalues).sum(),
        "fermi_level": _fermi_level(output, eigenvalues),
        "n_electrons": _number(output, "band_structure/nelec"),
        "k_weights": weights,
        "eigenvalues": eigenvalues,
        "occupations": occupations,
        "fft_grid": np.array([int(grid.get(f"nr{i}")) for i in (1, 2, 3)]),  # type: ignore[union-attr,arg-type]
    }
    if output.find("forces") is not None:
        result["forces"] = _numbers(output, "forces").reshape(-1, 3) * HARTREE / BOHR
    if output.find("stress") is not None:
        result["stress"] = -_numbers(output, "stress").reshape(3, 3) * HARTREE / BOHR**3
    return {key: np.asarray(value) for key, value in result.items()}


def _fermi_level(output: ET.Element, eigenvalues: np.ndarray) -> float:
    """pw.x's, or, of fixed occupations, the middle of the gap between these eigenvalues ``[k, band]``, eV.

    For these pw.x writes the edge of the filled bands, or nothing.
    """
    fixed = output.findtext("band_structure/occupations_kind", "").strip() == "fixed"
    if not fixed and output.find("band_structure/fermi_energy") is not None:
        return _number(output, "band_structure/fermi_energy") * HARTREE
    filled = round(_number(output, "band_structure/nelec") / 2)
    edges = [float(eigenvalues[:, filled - 1].max())]
    if eigenvalues.shape[1] > filled:
        edges.append(float(eigenvalues[:, filled].min()))
    return sum(edges) / len(edges)


def read_creator(save: Path) -> str:
    """Name and version of the program that wrote ``PREFIX.save``, e.g. "PWSCF 6.7MaX"."""
    creator = ET.parse(Path(save) / "data-file-schema.xml").getroot().find("general_info/creator")  # noqa: S314
    return "unknown" if creator is None else f"{creator.get('NAME')} {creator.get('VERSION')}"


def _numbers(element: ET.Element, tag: str) -> np.ndarray:
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"pw.x's XML file has no {tag}")
    return np.array(text.split(), dtype=float)


def _number(element: ET.Element, tag: str) -> float:
    return float(_numbers(element, tag)[0])


def read_density(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Read ``charge-density.dat`` and resample it.

    Args:
        path: the file.
        shape: the wanted grid.

    Returns:
        Electron density, e/Å³, ``[*shape]``.

    Raises:
        ValueError: the file is missing or cut off.
    """
    records = _fortran_records(path)
    gamma_only, _, _ = np.frombuffer(next(records), "<i4")
    next(records)  # reciprocal lattice vectors
    miller = np.frombuffer(next(records), "<i4").reshape(-1, 3)
    values = np.frombuffer(next(records), "<c16")
    if gamma_only:
        miller, values = _both_signs(miller, values[None])
        values = values[0]
    full = tuple(2 * np.abs(miller).max(axis=0) + 1)
    waves = np.zeros(full, dtype=complex)
    waves[tuple((miller % full).T)] = values
    waves = resize_waves(waves, shape)
    return np.asarray(fft.ifftn(waves, norm="forward").real / BOHR**3)


def read_wavefunctions(path: Path) -> Wavefunctions:
    """Read a ``wfc*.dat``.

    Raises:
        ValueError: the file is missing, cut off, or holds spinors.
    """
    records = _fortran_records(path)
    gamma_only = bool(np.frombuffer(next(records)[32:36], "<i4")[0])
    _, n_waves, n_spin, n_bands = np.frombuffer(next(records), "<i4")
    if n_spin != 1:
        raise ValueError(f"{path} holds spinors; only calculations without spin can be read")
    next(records)  # reciprocal lattice vectors
    miller = np.frombuffer(next(records), "<i4").reshape(-1, 3)
    coefficients = np.stack([np.frombuffer(next(records), "<c16") for _ in range(n_bands)])
    if coefficients.shape[1] != n_waves:
        raise ValueError(f"{path} announces {n_waves} waves and holds {coefficients.shape[1]}")
    if gamma_only:
        miller, coefficients = _both_signs(miller, coefficients)
    return Wavefunctions(miller, coefficients)


def _both_signs(miller: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add the waves −G, conjugate to G, that files at the Γ point leave out."""
    other = np.any(miller != 0, axis=1)
    return np.concatenate([miller, -miller[other]]), np.concatenate([values, values[:, other].conj()], axis=1)


def _fortran_records(path: Path) -> Iterator[bytes]:
    """The records of an unformatted sequential file.

    Raises:
        ValueError: the file is missing or ends within a record or before one that is asked for.
    """
    try:
        with Path(path).open("rb") as file:
            while head := file.read(4):
                size = int.from_bytes(head, "little")
                data = file.read(size)
                if len(data) < size or file.read(4) != head:
                    break
                yield data
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    raise ValueError(f"{path} is cut off; was the disk full, or pw.x stopped?")


def band_densities(states: Wavefunctions, fft_grid: tuple[int, int, int], shape: tuple[int, int, int]) -> np.ndarray:
    """|ψ|² of each band times the cell's volume, resampled from pw.x's own grid (which carries it exactly).

    Returns:
        ``[band, *shape]``; the mean over the grid is 1.
    """
    where = tuple((states.miller % fft_grid).T)
    batch = max(1, _BATCH_MEMORY // (16 * math.prod(fft_grid)))
    parts = []
    for start in range(0, len(states.coefficients), batch):
        coefficients = states.coefficients[start : start + batch]
        waves = np.zeros((len(coefficients), *fft_grid), dtype=complex)
        waves[(slice(None), *where)] = coefficients
        waves = fft.ifftn(waves, axes=(1, 2, 3), norm="forward", overwrite_x=True)
        density = waves.real**2 + waves.imag**2
        if shape == fft_grid:
            parts.append(density)
            continue
        small = resize_waves(fft.fftn(density, axes=(1, 2, 3), norm="forward"), shape)
        parts.append(fft.ifftn(small, axes=(1, 2, 3), norm="forward").real)
    return np.concatenate(parts)


def gaussians(energies: np.ndarray, centers: np.ndarray, sigma: float) -> np.ndarray:
    """Normalised Gaussians around ``centers``, 1/eV, ``[energy, *centers]``."""
    arguments = (energies.reshape(-1, *[1] * centers.ndim) - centers) / sigma
    return np.asarray(np.exp(-0.5 * arguments**2) / (sigma * math.sqrt(2 * math.pi)))


def sample_dos(energies: np.ndarray, sigma: float, eigenvalues: np.ndarray, k_weights: np.ndarray) -> np.ndarray:
    """Density of states, D(ε) = Σ_k w_k Σ_b G_σ(ε − ε_kb), 1/eV, ``[energy]``."""
    return np.asarray(gaussians(energies, eigenvalues, sigma).sum(axis=2) @ k_weights)


def sample_ldos(
    save: Path,
    shape: tuple[int, int, int],
    volume: float,
    energies: np.ndarray,
    sigma: float,
    operations: Sequence[Operation] = (),
) -> np.ndarray:
    """Local density of states, d(ε, r) = Σ_k w_k Σ_b G_σ(ε − ε_kb) |ψ_kb(r)|², from norm-conserving wavefunctions.

    Args:
        save: the folder ``PREFIX.save``.
        shape: the wanted grid.
        volume: of the cell, Å³.
        energies: eV, ``[energy]``.
        sigma: standard deviation of the Gaussian, eV.
        operations: of the crystal, where the k-mesh was reduced by them; see ``labelling.symmetry``.

    Returns:
        1/(eV Å³), spin included, ``[*shape, energy]``.

    Raises:
        ValueError: a file is missing or cut off.
    """
    results = read_xml(save)
    fft_grid = (int(results["fft_grid"][0]), int(results["fft_grid"][1]), int(results["fft_grid"][2]))
    reduced = len(operations) > 1
    if reduced:
        # densities hold no more waves than pw.x's own grid does, so that a finer one has the same
        fft_grid = symmetric_grid(operations, fft_grid)
    first = fft_grid if reduced else shape
    total = np.zeros((math.prod(first), len(energies)))
    densities, weights = list[np.ndarray](), list[np.ndarray]()
    for k, weight in enumerate(results["k_weights"]):
        states = read_wavefunctions(Path(save) / f"wfc{k + 1}.dat")
        densities.append(band_densities(states, fft_grid, first).reshape(len(states.coefficients), -1))
        weights.append(gaussians(energies, results["eigenvalues"][k], sigma).T * (weight / volume))
        # many bands at once: the sum over the grid and energies is read and written for each product
        if sum(map(len, densities)) >= _PRODUCT_BANDS or k + 1 == len(results["k_weights"]):
            total += np.concatenate(densities).T @ np.concatenate(weights)
            densities, weights = [], []
    ldos = total.reshape(*first, len(energies))
    if reduced:
        whole = symmetrise(ldos, list(operations))
        ldos = np.stack([resample(whole[..., e], shape) for e in range(len(energies))], axis=-1)
    return np.asarray(ldos)
