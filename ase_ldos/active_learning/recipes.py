"""The two recipes of a new material as files: ``dft.toml`` and ``training.toml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ase import Atoms

from ase_ldos.files import write_text
from ase_ldos.formats.pseudopotential import read_pseudopotential
from ase_ldos.labelling.convergence import SetupMeasurement
from ase_ldos.labelling.dft_settings import Recipe
from ase_ldos.simulation.primitive_cell import nearest_distance
from ase_ldos.training.settings import ModelSettings

#: Cutoff of the descriptor in nearest distances, and its bounds, Å: that of the bundled models.
DESCRIPTOR_REACH, SHORTEST_REACH, LONGEST_REACH = 2.3, 4.5, 7.0
#: Atoms closer than this, in nearest distances, are refused by the model.
CLOSEST = 0.65
_MODEL_UNITS = {
    "broadening": "eV",
    "energy_window": "eV",
    "energy_spacing": "eV",
    "electronic_temperature": "K",
    "grid_spacing": "Å",
    "minimum_distance": "Å",
}


def write_dft_recipe(path: Path, measured: SetupMeasurement, origin: str = "Measured by `ase-ldos setup`") -> None:
    """Write a set-up as a file that ``load_recipe`` reads; the potentials lie where ``pseudo_dir`` tells.

    Args:
        path: the file.
        measured: the set-up, and what was measured for it.
        origin: where the rest of it comes from, for a remark.
    """
    recipe = measured.recipe
    lines = [
        f"# {origin}; the tables are in setup.html.",
        *(f"# {item.headline}{'' if item.met else '; the target is not met'}" for item in measured.series),
        f"pseudopotentials = {_inline(recipe.pseudopotentials)}",
        f"pseudo_dir = {_text(recipe.pseudo_dir)}",
        f"cutoff = {recipe.cutoff:.9g}  # Ry",
        f"electronic_temperature = {recipe.electronic_temperature:.9g}  # K",
        f"kspacing = {recipe.kspacing:.9g}  # 1/Å",
        f"bands_per_atom = {recipe.bands_per_atom:.9g}",
        f"convergence = {recipe.convergence:.3g}  # Ry",
        f"grid_spacing = {recipe.grid_spacing:.9g}  # Å",
    ]
    if recipe.occupations != "smearing":
        lines.append(f"occupations = {_text(recipe.occupations)}")
    if any(recipe.kpoint_shift):
        lines.append(f"kpoint_shift = {_inline(list(recipe.kpoint_shift))}  # 1: by half a step")
    if recipe.time_limit is not None:
        lines.append(f"time_limit = {recipe.time_limit:.9g}  # s")
    if recipe.pulay:
        lines.append(f"pulay = {_inline(recipe.pulay)}  # eV")
    if recipe.options:
        lines.append(f"options = {_inline(recipe.options)}")
    for table, sampling in (("ldos", recipe.ldos), ("dos", recipe.dos)):
        if sampling is not None:
            lines += ["", f"[{table}]"]
            for name, value in asdict(sampling).items():
                unit = {"kspacing": "  # 1/Å", "bands_per_atom": ""}.get(name, "  # eV")
                lines.append(f"{name} = {value:.9g}{unit}")
    write_text(path, "\n".join(lines) + "\n")


def model_settings(recipe: Recipe, structures: Sequence[Atoms]) -> ModelSettings:
    """A model for labels of a set-up, from scratch.

    Args:
        recipe: the DFT set-up, with LDOS.
        structures: whose elements and distances the model is for.

    Raises:
        ValueError: the set-up has no LDOS.
    """
    if recipe.ldos is None:
        raise ValueError("the DFT set-up has no [ldos]; a model learns it")
    symbols = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    pseudos = {symbol: read_pseudopotential(recipe.pseudopotential_path(symbol)) for symbol in symbols}
    distance = min(nearest_distance(atoms) for atoms in structures)
    reach = min(max(DESCRIPTOR_REACH * distance, SHORTEST_REACH), LONGEST_REACH)
    return ModelSettings(
        valence={symbol: float(pseudo.valence) for symbol, pseudo in pseudos.items()},
        functional=next(iter(pseudos.values())).functional,
        electronic_temperature=recipe.electronic_temperature,
        broadening=recipe.ldos.sigma,
        energy_window=(recipe.ldos.minimum, float(recipe.ldos.energies[-1])),
        energy_spacing=recipe.ldos.spacing,
        n_components=96,
        hidden=(96, 96),
        grid_spacing=recipe.grid_spacing,
        minimum_distance=round(CLOSEST * distance, 3),
        descriptor={"kind": "power_spectrum", "cutoff": round(reach, 2), "n_radial": 6, "lmax": 4},
        pseudopotentials={
            s: str(recipe.pseudopotential_path(s).resolve()) for s in symbols if pseudos[s].core is not None
        },
    )


def write_training_recipe(path: Path, name: str, model: ModelSettings) -> None:
    """Write a training recipe, to be edited at will.

    Args:
        path: the file.
        name: of the model.
        model: what it is.
    """
    weights = "ldos = 10.0, dos = 10.0, density = 300.0, stress = 5000.0, electrons = 10000.0"
    lines = [
        "# Written by `ase-ldos setup`; `ase-ldos learn` takes model, weights and rates from here and sets names and",
        "# lengths by the labels that it has.",
        f"name = {_text(name)}",
        'data = ["labels"]',
        "validation = { every = 6, offset = 1 }",
        "seed = 0",
        "",
        "[model]",
    ]
    usual = {item.name: item.default for item in fields(ModelSettings)}
    for key, value in asdict(model).items():
        if value == usual[key] or value == {}:
            continue
        unit = f"  # {_MODEL_UNITS[key]}" if key in _MODEL_UNITS else ""
        lines.append(f"{key} = {_inline(value)}{unit}")
    lines += [
        "",
        "[[stages]]",
        'name = "ldos"',
        "steps = 300",
        "learning_rate = 2e-3",
        "warmup = 0.15",
        "",
        "[[stages]]",
        'name = "everything"',
        "epochs = 60",
        "learning_rate = 1e-3",
        "warmup = 0.15",
        f"weights = {{ {weights}, energy = 500.0, forces = 20.0 }}",
        "",
        "[[stages]]",
        'name = "forces"',
        "epochs = 30",
        "learning_rate = 5e-4",
        "warmup = 0.15",
        "patience = 20",
        f"weights = {{ {weights}, energy = 2000.0, forces = 40.0 }}",
    ]
    write_text(path, "\n".join(lines) + "\n")


def _inline(value: Any) -> str:  # noqa: ANN401 - what TOML knows
    """A value in TOML on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return repr(value) if isinstance(value, int | float) else _text(value)


def _text(value: object) -> str:
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
