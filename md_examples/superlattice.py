"""A Si/Ge superlattice: density of states over depth and energy, the profile of the band edges, beside DFT.

Run: python superlattice.py (a minute; --layers 32 for longer periods). Layers of a (001) superlattice share the lattice
constant within their planes; across them each element keeps nearly its volume, by its elastic constants. The LDOS,
averaged over planes and over a layer's thickness, tells how far the states of one element reach into the other. Edges
of the bands are read off each layer as a gap is read off a density of states (ase_ldos.physics.gap), as well as the
model's width allows. DFT's LDOS of the shortest period, four layers of each, comes with the package. Writes
superlattice.png.
"""

import argparse

import numpy as np
import torch
from ase import Atoms
from matplotlib.figure import Figure
from scipy.ndimage import uniform_filter1d

from ase_ldos import LDOSCalculator, load_snapshots
from ase_ldos.dataset.broadening import on_model_energies
from ase_ldos.geometry.structure import Structure
from ase_ldos.labelling.reference_labels import MODELS
from ase_ldos.physics.gap import find_gap

LATTICE = {"Si": 5.47, "Ge": 5.78}  # Å, PBE with the potentials of the labels
STIFFNESS = {"Si": 0.39, "Ge": 0.37}  # C12 / C11

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="sp")
parser.add_argument("--layers", type=int, default=8, help="of a period, half of them of each element; a multiple of 4")
options = parser.parse_args()


def superlattice(layers: int) -> Atoms:
    """Half of the layers of silicon, half of germanium, stacked along z as in diamond."""
    within = sum(LATTICE.values()) / 2
    across = {s: a - 2 * STIFFNESS[s] * (within - a) for s, a in LATTICE.items()}
    symbols = ["Si"] * (layers // 2) + ["Ge"] * (layers // 2)
    heights, height = [], 0.0
    for here, after in zip(symbols, symbols[1:] + symbols[:1]):
        heights.append(height)
        height += (across[here] + across[after]) / 8
    edge = within / 2**0.5
    places = np.array([[0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]]) * edge  # of four layers, one above the other
    positions = [[*places[layer % 4], z] for layer, z in enumerate(heights)]
    return Atoms(symbols, positions=positions, cell=[edge, edge, height], pbc=True)


def by_layer(ldos: np.ndarray, atoms: Atoms) -> np.ndarray:
    """D(z, ε) of a layer about each height, 1/eV, one atom in a layer."""
    height = atoms.cell[2, 2]
    planes = ldos.mean(axis=(0, 1), dtype=float) * atoms.get_volume() / height
    size = max(1, round(len(planes) / len(atoms)))
    return uniform_filter1d(planes, size, axis=0, mode="wrap") * height / len(atoms)


def edges(layers: np.ndarray, energies: np.ndarray, atoms: Atoms, sigma: float) -> np.ndarray:
    """Valence and conduction edge at each height, eV, ``[plane, 2]``, by the states below the middle of the gap."""
    total = torch.as_tensor(layers.mean(axis=0) * len(atoms))
    whole = find_gap(total, torch.as_tensor(energies), 4.0 * len(atoms), len(atoms), sigma)
    found = []
    for dos in layers:
        fine = np.linspace(energies[0], whole.middle, 2000)
        electrons = np.trapezoid(np.interp(fine, energies, dos), fine)
        gap = find_gap(torch.as_tensor(dos), torch.as_tensor(energies), float(electrons), 1, sigma)
        found.append((gap.valence_edge, gap.conduction_edge))
    return np.array(found)


atoms = superlattice(options.layers)
atoms.calc = calculator = LDOSCalculator(options.model)
energies, sigma = (
    calculator.model.energies_of(Structure.from_atoms(atoms)).numpy(),
    calculator.model.metadata.broadening,
)
profiles = {"model": by_layer(calculator.get_ldos(atoms), atoms)}
levels = {"model": energies}
(label,) = load_snapshots(MODELS / "sp" / "superlattice.npz")
if len(label) == len(atoms):  # of the same width, as far up as DFT has all bands
    ldos, known = on_model_energies(label, label.ldos_values(), energies, sigma)
    profiles["DFT"], levels["DFT"] = by_layer(ldos, atoms), energies[:known]

figure = Figure(figsize=(4.2 * len(profiles) + 4.2, 3.6), layout="constrained")
*maps, lines = figure.subplots(1, len(profiles) + 1)
for place, (axes, (name, layers)) in enumerate(zip(maps, profiles.items())):
    heights = np.arange(len(layers)) / len(layers) * atoms.cell[2, 2]
    found = edges(layers, levels[name], atoms, sigma)
    nearest = np.abs(heights[:, None] - atoms.positions[:, 2]).argmin(axis=0)
    # away from the interfaces, where an element has more than two layers
    inner = {s: np.flatnonzero(atoms.symbols == s)[1:-1] for s in LATTICE}
    valence, conduction = ({s: found[nearest[inner[s]], k].mean() for s in LATTICE} for k in (0, 1))
    top = found[:, 0].max()
    print(
        f"{name}: valence edge of Ge above that of Si {valence['Ge'] - valence['Si']:.2f} eV, conduction edge "
        f"{conduction['Ge'] - conduction['Si']:+.2f} eV; gap of the whole {found[:, 1].min() - top:.2f} eV"
    )
    picture = axes.pcolormesh(heights, levels[name] - top, layers.T, cmap="viridis", shading="nearest", vmin=0)
    axes.plot(heights, found - top, "w", linewidth=1.2)
    for height, symbol in zip(atoms.positions[:, 2], atoms.symbols):
        axes.text(height, 2.4, symbol, color="w", ha="center", fontsize=7 if len(atoms) < 20 else 4)
    axes.set(xlabel="height (Å)", ylim=(-14, 3), title=f"{name}: density of states (1/eV/atom)")
    figure.colorbar(picture)
    lines.plot(heights, found - top, f"C{place}", label=[name, None])
maps[0].set(ylabel="energy from the highest valence edge (eV)")
lines.set(xlabel="height (Å)", title="band edges (eV)")
lines.legend()
figure.savefig("superlattice.png", dpi=120)
