"""Pictures of predictions. Figures are made without pyplot: no windows, no global state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from scipy.ndimage import map_coordinates
from scipy.special import expit

from ase_ldos.simulation.observables import MeanDOS
from ase_ldos.units import BOLTZMANN

#: Atoms this far (Å) from the plane of a slice are still drawn.
SLICE_DEPTH = 0.7


def dos_figure(
    energies: np.ndarray,
    dos: np.ndarray,
    fermi_level: float,
    electronic_temperature: float,
    *,
    deviation: np.ndarray | None = None,
    fermi_deviation: float | None = None,
    title: str = "",
) -> Figure:
    """Plot the density of states, its occupied part shaded, and the Fermi level.

    Args:
        energies: nodes, eV, ``[energy]``.
        dos: D, 1/eV, ``[energy]``.
        fermi_level: μ, eV.
        electronic_temperature: K.
        deviation: standard deviation of D, drawn as a band, 1/eV, ``[energy]``.
        fermi_deviation: standard deviation of μ, eV.
        title: of the figure.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    # finer than the nodes, because the occupation falls faster than D changes
    fine = np.linspace(energies[0], energies[-1], 2000)
    curve = np.interp(fine, energies, dos)
    occupation = expit((fermi_level - fine) / (BOLTZMANN * electronic_temperature))
    axes.fill_between(fine, curve * occupation, color="tab:blue", alpha=0.35, linewidth=0, label="occupied")
    axes.plot(fine, curve, color="tab:blue")
    if deviation is not None:
        band = np.interp(fine, energies, deviation)
        axes.fill_between(fine, curve - band, curve + band, color="tab:orange", alpha=0.4, linewidth=0, label="± σ")
    told = f"μ = {fermi_level:.3f} eV"
    if fermi_deviation is not None:
        told = f"μ = {fermi_level:.3f} ± {fermi_deviation:.3f} eV"
        low, high = fermi_level - fermi_deviation, fermi_level + fermi_deviation
        axes.axvspan(low, high, color="black", alpha=0.12, linewidth=0)
    axes.axvline(fermi_level, color="black", linestyle="--", linewidth=1, label=told)
    axes.set(xlabel="energy (eV)", ylabel="density of states (1/eV)", title=title, xlim=(energies[0], energies[-1]))
    axes.legend(frameon=False)
    return figure


def dos_history_figure(
    times: np.ndarray, energies: np.ndarray, dos: np.ndarray, fermi_levels: np.ndarray, *, title: str = ""
) -> Figure:
    """Plot how the density of states changes in time.

    Args:
        times: fs, ``[time]``, at least two.
        energies: eV, ``[energy]``.
        dos: D, 1/eV, ``[time, energy]``.
        fermi_levels: μ, eV, ``[time]``.
        title: of the figure.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.pcolormesh(times, energies, dos.T, shading="nearest", cmap="viridis", rasterized=True)
    axes.plot(times, fermi_levels, color="white", linestyle="--", linewidth=1)
    axes.set(xlabel="time (fs)", ylabel="energy (eV)", title=title)
    figure.colorbar(picture, label="density of states (1/eV)")
    return figure


def density_figure(
    atoms: Atoms, density: np.ndarray, *, axis: int = 2, position: float | None = None, title: str = ""
) -> Figure:
    """Plot the density in a plane of two lattice vectors, with the atoms near that plane.

    Args:
        atoms: the structure.
        density: n, e/Å³, ``[nx, ny, nz]``.
        axis: the lattice vector (0, 1, 2) that is not in the plane.
        position: where the plane cuts it, as a fraction; default: through the first atom.
        title: of the figure.

    Raises:
        ValueError: ``axis`` is not 0, 1 or 2.
    """
    if axis not in (0, 1, 2):
        raise ValueError(f"axis is {axis}; it must be 0, 1 or 2")
    scaled = atoms.get_scaled_positions()
    place = float(scaled[0, axis] if position is None else position) % 1.0
    layer = round(place * density.shape[axis]) % density.shape[axis]
    first, second = (vector for number, vector in enumerate(atoms.cell[:]) if number != axis)
    values = np.take(density, layer, axis=axis)
    # the plane once around, so that the picture reaches the cell's edges
    values = np.pad(values, ((0, 1), (0, 1)), mode="wrap")
    across = first / np.linalg.norm(first)
    up = second - (second @ across) * across
    plane = np.stack((across, up / np.linalg.norm(up)))
    i, j = np.meshgrid(*(np.linspace(0, 1, n) for n in values.shape), indexing="ij")
    points = (i[..., None] * first + j[..., None] * second) @ plane.T
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.pcolormesh(points[..., 0], points[..., 1], values, shading="gouraud", cmap="magma", rasterized=True)
    figure.colorbar(picture, label="electron density (e/Å³)")
    for number, spot in _atoms_near_plane(atoms, scaled, axis, layer / density.shape[axis]):
        colour = jmol_colors[number]
        axes.add_patch(Circle(tuple(spot @ plane.T), 0.3 * covalent_radii[number], facecolor=colour, edgecolor="white"))
    axes.set(xlabel="Å", ylabel="Å", aspect="equal", title=title or f"plane at {place:.3f} of lattice vector {axis}")
    return figure


def plane_figure(
    atoms: Atoms,
    density: np.ndarray,
    normal: tuple[float, float, float],
    *,
    point: tuple[float, float, float] | None = None,
    size: float | None = None,
    title: str = "",
) -> Figure:
    """Plot the density in any plane, with the atoms near it.

    Args:
        atoms: the structure.
        density: n, e/Å³, ``[nx, ny, nz]``; between its points it is interpolated by cubic splines.
        normal: Miller indices (h k l); the normal is h b₁ + k b₂ + l b₃ with the cell's reciprocal lattice vectors.
        point: a place in the plane, Å; default: the first atom.
        size: edge of the picture, Å; default: twice the cube root of the volume, from 6 to 40.
        title: of the figure.

    Raises:
        ValueError: a normal of length zero, or a size that is not positive.
    """
    across, up, along = _plane_axes(atoms, normal)
    edge = float(np.clip(2 * atoms.get_volume() ** (1 / 3), 6, 40)) if size is None else size
    if not edge > 0:
        raise ValueError(f"the size is {edge} Å; it must be positive")
    middle = atoms.positions[0] if point is None else np.asarray(point, dtype=float)
    steps = np.linspace(-edge / 2, edge / 2, 241)
    places = middle + steps[:, None, None] * across + steps[None, :, None] * up
    indices = places @ np.linalg.inv(atoms.cell.array) * np.array(density.shape)
    values = map_coordinates(density.astype(float), np.moveaxis(indices, -1, 0), order=3, mode="grid-wrap")
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.pcolormesh(steps, steps, values.T, shading="gouraud", cmap="magma", rasterized=True)
    figure.colorbar(picture, label="electron density (e/Å³)")
    lengths = np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    # an image in every cell that the picture's circle reaches
    reach = np.ceil((edge / np.sqrt(2) + np.linalg.norm(atoms.cell.array, axis=1).sum()) * lengths).astype(int)
    home = atoms.get_scaled_positions() + np.floor(middle @ np.linalg.inv(atoms.cell.array))
    for shift in np.ndindex(*(2 * reach + 1)):
        images = (home + np.array(shift) - reach) @ atoms.cell.array - middle
        for number, image in zip(atoms.numbers, images):
            spot = (float(image @ across), float(image @ up))
            if abs(image @ along) <= SLICE_DEPTH and max(map(abs, spot)) <= edge / 2:
                colour, radius = jmol_colors[number], 0.3 * covalent_radii[number]
                axes.add_patch(Circle(spot, radius, facecolor=colour, edgecolor="white"))
    indices_text = " ".join(f"{index:g}" for index in normal)
    axes.set(xlabel="Å", ylabel="Å", aspect="equal", title=title or f"plane ({indices_text})")
    axes.set(xlim=(-edge / 2, edge / 2), ylim=(-edge / 2, edge / 2))
    return figure


def _plane_axes(atoms: Atoms, normal: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two unit vectors in a plane, the first along the most suitable lattice vector, and the one along its normal."""
    along = np.linalg.inv(atoms.cell.array) @ np.asarray(normal, dtype=float)
    if not np.linalg.norm(along) > 0:
        raise ValueError(f"the normal is {list(normal)}; at least one index must differ from zero")
    along = along / np.linalg.norm(along)
    flat = atoms.cell.array - np.outer(atoms.cell.array @ along, along)
    across = flat[np.argmax(np.linalg.norm(flat, axis=1) / np.linalg.norm(atoms.cell.array, axis=1))]
    across = across / np.linalg.norm(across)
    return across, np.cross(along, across), along


def _atoms_near_plane(atoms: Atoms, scaled: np.ndarray, axis: int, place: float) -> Iterator[tuple[int, np.ndarray]]:
    """Atomic number and in-plane Cartesian position of the atoms (and images at the cell's edges) near the plane."""
    height = atoms.get_volume() / np.linalg.norm(np.cross(*(v for n, v in enumerate(atoms.cell[:]) if n != axis)))
    for number, fractional in zip(atoms.numbers, scaled):
        distance = (fractional[axis] - place + 0.5) % 1.0 - 0.5
        if abs(distance) * height > SLICE_DEPTH:
            continue
        for step in np.ndindex(3, 3):
            inside = np.insert(np.delete(fractional, axis) % 1.0 + np.array(step) - 1, axis, 0.0)
            if np.all((inside > -0.05) & (inside < 1.05)):
                yield int(number), inside @ atoms.cell[:]


def run_figure(times: np.ndarray, panels: Mapping[str, Mapping[str, np.ndarray]], *, title: str = "") -> Figure:
    """Plot what a run recorded, one panel above the other.

    Args:
        times: fs, ``[time]``.
        panels: by the label of its axis, curves by their name, ``[time]`` each.
        title: of the figure.
    """
    figure = Figure(figsize=(6.4, 1.0 + 1.7 * len(panels)), layout="constrained")
    for axes, (label, curves) in zip(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels.items()):
        for name, values in curves.items():
            axes.plot(times, values, label=name)
        axes.set(ylabel=label)
        if len(curves) > 1:
            axes.legend(frameon=False)
    axes.set(xlabel="time (fs)")
    figure.suptitle(title)
    return figure


def mean_dos_figure(mean: MeanDOS, *, title: str = "") -> Figure:
    """Plot a run's mean density of states from the Fermi level, and how far it spreads."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.fill_between(mean.energies, mean.dos - mean.spread, mean.dos + mean.spread, alpha=0.35, linewidth=0)
    axes.plot(mean.energies, mean.dos)
    axes.axvline(0, color="black", linestyle="--", linewidth=1)
    label = f"energy from the Fermi level, {mean.fermi_level:.3f} ± {mean.fermi_level_spread:.3f} eV (eV)"
    axes.set(xlabel=label, ylabel="density of states (1/eV)", title=title)
    return figure
