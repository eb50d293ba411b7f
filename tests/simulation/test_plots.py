"""Figures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from matplotlib.figure import Figure

from ase_ldos.simulation.plots import density_figure, dos_figure, dos_history_figure, plane_figure


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_dos_figure_shades_the_occupied_states(tmp_path: Path) -> None:
    energies, dos = np.linspace(-3, 5, 30), np.linspace(0, 4, 30)
    figure = dos_figure(energies, dos, 1.5, 300.0, title="test")
    (axes,) = figure.axes
    shaded = axes.collections[0].get_paths()[0].vertices
    # at 300 K hardly anything is occupied half an eV above μ, and nearly all below
    assert np.abs(shaded[shaded[:, 0] > 2.0, 1]).max() < 1e-6
    below = shaded[(shaded[:, 0] < 1.0) & (shaded[:, 1] > 0)]
    np.testing.assert_allclose(below[:, 1], np.interp(below[:, 0], energies, dos), rtol=1e-6)
    assert axes.lines[1].get_xdata()[0] == 1.5
    save(figure, tmp_path / "dos.png")


def test_dos_history_figure(tmp_path: Path) -> None:
    times, energies = np.arange(4.0), np.linspace(-3, 5, 30)
    figure = dos_history_figure(times, energies, np.random.default_rng(0).random((4, 30)), np.full(4, 1.0))
    save(figure, tmp_path / "history.png")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_density_figure_shows_atoms_and_values_of_the_plane(tmp_path: Path, axis: int) -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    density = np.random.default_rng(0).random((6, 8, 10))
    figure = density_figure(atoms, density, axis=axis, position=0.5)
    picture = figure.axes[0].collections[0]
    layer = np.take(density, density.shape[axis] // 2, axis=axis)
    values = picture.get_array().reshape(layer.shape[0] + 1, layer.shape[1] + 1)
    np.testing.assert_array_equal(values[:-1, :-1], layer)
    np.testing.assert_array_equal(values[-1, :-1], layer[0])
    save(figure, tmp_path / "slice.png")


def test_atoms_of_the_plane_are_drawn_with_their_images() -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.positions -= atoms.positions[0]
    figure = density_figure(atoms, np.ones((4, 4, 8)))
    # the atom at the origin stands at all four corners; the other one is half a lattice vector away
    assert len(figure.axes[0].patches) == 4
    centres = np.array([patch.center for patch in figure.axes[0].patches])
    first, second = atoms.cell[:2, :2]
    for corner in (0 * first, first, second, first + second):
        assert np.abs(centres - corner).max(axis=1).min() < 1e-9


@pytest.mark.parametrize("normal", [(1, 0, 0), (1, 1, 1), (1, -2, 0)])
def test_a_plane_shows_the_field_at_its_points(tmp_path: Path, normal: tuple[int, int, int]) -> None:
    """A wave of the lattice, whose values anywhere are known; along its own normal it is constant."""
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    fractions = np.stack(np.meshgrid(*(np.arange(n) / n for n in (24, 24, 32)), indexing="ij"), axis=-1)
    wave = 2 + np.cos(2 * np.pi * fractions @ np.array(normal))
    figure = plane_figure(atoms, wave, normal, point=(0.3, 0.2, 0.1))
    axes = figure.axes[0]
    values = axes.collections[0].get_array()
    phase = 2 * np.pi * (np.array([0.3, 0.2, 0.1]) @ np.linalg.inv(atoms.cell.array)) @ np.array(normal)
    np.testing.assert_allclose(values, 2 + np.cos(phase), atol=2e-3)
    # in the plane (0 0 1) the same wave is seen to run
    across = plane_figure(atoms, wave, (0, 0, 1), point=(0.0, 0.0, 0.0)).axes[0].collections[0].get_array()
    assert np.ptp(across) == pytest.approx(2, abs=2e-2)
    save(figure, tmp_path / "plane.png")


def test_atoms_of_any_plane_lie_on_the_density_of_the_picture() -> None:
    """Bells on the atoms: every drawn atom stands on a maximum, and every maximum has its atom."""
    atoms = bulk("Si", "diamond", a=5.43)
    fractions = np.stack(np.meshgrid(*(np.arange(20) / 20,) * 3, indexing="ij"), axis=-1)
    bells = np.zeros((20, 20, 20))
    for place in atoms.get_scaled_positions():
        gaps = (fractions - place - np.round(fractions - place)) @ atoms.cell.array
        bells += np.exp(-(gaps**2).sum(axis=-1) / 0.5)
    figure = plane_figure(atoms, bells, (1, -1, 0), size=12)
    axes = figure.axes[0]
    values = axes.collections[0].get_array().reshape(241, 241)
    centres = np.array([patch.center for patch in axes.patches])
    assert len(centres) > 6
    places = np.round((centres + 6) / 12 * 240).astype(int)
    assert values[places[:, 1], places[:, 0]].min() > 0.9
    high = np.argwhere(values > 0.97) / 240 * 12 - 6
    assert np.linalg.norm(high[:, None, ::-1] - centres[None], axis=2).min(axis=1).max() < 0.6


def test_a_plane_without_normal_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the normal is \[0, 0, 0\]"):
        plane_figure(bulk("Be"), np.ones((4, 4, 4)), (0, 0, 0))
    with pytest.raises(ValueError, match="the size is -1 Å"):
        plane_figure(bulk("Be"), np.ones((4, 4, 4)), (0, 0, 1), size=-1)


def test_a_fourth_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="axis is 3; it must be 0, 1 or 2"):
        density_figure(bulk("Be"), np.ones((4, 4, 4)), axis=3)


def test_no_window_system_is_touched() -> None:
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
