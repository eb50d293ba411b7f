"""``ase-ldos setup``: both recipes of a new material, measured, with a page of tables and pictures."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ase import Atoms
from matplotlib.figure import Figure

from ase_ldos.active_learning.recipes import model_settings, write_dft_recipe, write_training_recipe
from ase_ldos.files import PathLike, write_json, write_text
from ase_ldos.formats.gth import find_potential, write_upf
from ase_ldos.formats.pseudopotential import read_pseudopotential
from ase_ldos.labelling.convergence import (
    ConvergenceTargets,
    Series,
    SetupMeasurement,
    measure_mesh,
    measure_setup,
)
from ase_ldos.labelling.dft_settings import Recipe, build_recipe
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.simulation.primitive_cell import primitive_cell
from ase_ldos.toml_settings import build
from ase_ldos.training.settings import ModelSettings
from ase_ldos.web.static_page import heading, page, paragraph, pictures, table

if TYPE_CHECKING:
    from os import PathLike as Path_

DFT_RECIPE, TRAINING_RECIPE, PAGE, RECORD = "dft.toml", "training.toml", "setup.html", "setup.json"
PSEUDO_FOLDER = "pseudo"

logger = logging.getLogger(__name__)


def set_up(
    structures: Sequence[Atoms],
    out: PathLike,
    *,
    name: str = "model",
    pseudopotentials: Sequence[PathLike] = (),
    electronic_temperature: float = 300.0,
    targets: ConvergenceTargets | None = None,
    workers: int = 1,
    launcher: str = "",
    progress: Callable[[str], None] = logger.info,
) -> SetupMeasurement:
    """Measure a DFT set-up on the structures' primitive cells and write ``dft.toml`` and ``training.toml``.

    Interrupted, it resumes: every calculation is kept in ``OUT/setup``.

    Args:
        structures: one or two crystals of what shall be learned.
        out: folder; made if need be. Potentials go to ``OUT/pseudo``.
        name: of the model.
        pseudopotentials: UPF files; elements without one get a GTH potential (see ``ase-ldos pseudo``).
        electronic_temperature: K.
        targets: how well the set-up shall be converged.
        workers: calculations side by side.
        launcher: put before pw.x.
        progress: told of every step in a line.

    Raises:
        ValueError: no structures, a pseudopotential that does not fit, or an element for which none is known.
        CalculationError: a calculation failed.
    """
    out = Path(out)
    (out / PSEUDO_FOLDER).mkdir(parents=True, exist_ok=True)
    cells = [primitive_cell(atoms) for atoms in structures]
    symbols = sorted({symbol for atoms in cells for symbol in atoms.symbols})
    files = collect_pseudopotentials(symbols, out / PSEUDO_FOLDER, pseudopotentials)
    for atoms, cell in zip(structures, cells, strict=True):
        progress(f"{atoms.get_chemical_formula()}: measured on its primitive cell of {len(cell)} atoms")
    measured = measure_setup(
        cells,
        files,
        (out / PSEUDO_FOLDER).resolve(),
        out / "setup",
        electronic_temperature=electronic_temperature,
        targets=targets,
        workers=workers,
        launcher=launcher,
        progress=progress,
    )
    write_training_recipe(out / TRAINING_RECIPE, name, model_settings(measured.recipe, cells))
    _write_measurement(out, name, measured)
    return measured


def _write_measurement(out: Path, name: str, measured: SetupMeasurement, **origin: str) -> None:
    """DFT's recipe, which tells the folder of potentials relative to its own, record and page."""
    relative = replace(measured.recipe, pseudo_dir=Path(PSEUDO_FOLDER))
    write_dft_recipe(out / DFT_RECIPE, replace(measured, recipe=relative), **origin)
    write_json(out / RECORD, measured.as_record())
    write_text(out / PAGE, setup_page(name, measured))


def set_up_like(
    model: LDOSModel,
    structures: Sequence[Atoms],
    out: PathLike,
    *,
    name: str = "model",
    pseudopotentials: Sequence[PathLike] = (),
    targets: ConvergenceTargets | None = None,
    workers: int = 1,
    launcher: str = "",
    progress: Callable[[str], None] = logger.info,
) -> SetupMeasurement:
    """Write ``dft.toml`` and ``training.toml`` as they were for a model that knows the elements.

    Labels of the same cutoff and potentials are what the model already reproduces, so that few more are needed. Only
    the k-mesh is measured: that of a model of many materials has to serve the most demanding of them. The model's file
    tells the rest: of the label sets with LDOS, that of the fewest elements which has all of the structures'.

    Args:
        model: to train on from.
        structures: one or two crystals of what shall be learned.
        out: folder; made if need be. Potentials go to ``OUT/pseudo``.
        name: of the new model.
        pseudopotentials: UPF files, those of the model's labels; elements without one get a GTH potential.
        targets: how well the mesh shall be converged.
        workers: calculations side by side.
        launcher: put before pw.x.
        progress: told of every step in a line.

    Raises:
        ValueError: the model does not know an element, does not tell its recipes, or had another pseudopotential.
        CalculationError: a calculation failed.
    """
    out, title = Path(out), model.metadata.name
    recipe, settings = recipes_of(model, structures, out, pseudopotentials)
    progress(f"cutoff {recipe.cutoff:g} Ry and all else but the k-mesh as in labels of the model {title!r}")
    measured = measure_mesh(
        [primitive_cell(atoms) for atoms in structures],
        recipe,
        out / "setup",
        targets=targets,
        workers=workers,
        launcher=launcher,
        progress=progress,
    )
    write_training_recipe(out / TRAINING_RECIPE, name, settings)
    _write_measurement(out, name, measured, origin=f"As labels of the model {title!r}, with a k-mesh measured anew")
    return measured


def recipes_of(
    model: LDOSModel, structures: Sequence[Atoms], out: Path, pseudopotentials: Sequence[PathLike] = ()
) -> tuple[Recipe, ModelSettings]:
    """DFT's recipe and the settings with which a model was made, for elements of some structures; nothing is measured.

    Args:
        model: whose file tells them.
        structures: whose elements are wanted.
        out: potentials go to ``OUT/pseudo``.
        pseudopotentials: see ``set_up_like``, as for the errors.
    """
    title = model.metadata.name
    symbols = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    known = model.metadata.valence
    unknown = [symbol for symbol in symbols if symbol not in known]
    if unknown:
        raise ValueError(
            f"the model {title!r} knows {', '.join(known)}, not {', '.join(unknown)}; begin from scratch, or put "
            f"{DFT_RECIPE} and {TRAINING_RECIPE} with these elements into {out}"
        )
    provenance = model.metadata.provenance
    sources = [source.get("labels", {}) for source in provenance.get("data", ())]
    fitting = [
        (labels, recipe)
        for labels in sources
        for recipe in labels.get("recipes", ())
        if recipe.get("ldos") and set(symbols) <= set(labels["pseudopotentials"]) & set(recipe["pseudopotentials"])
    ]
    if not fitting or "model" not in provenance.get("settings", {}):
        raise ValueError(
            f"the file of the model {title!r} does not tell the recipes for {', '.join(symbols)}; put its {DFT_RECIPE} "
            f"and {TRAINING_RECIPE} into {out}"
        )
    labels, table = min(fitting, key=lambda item: len(item[0]["pseudopotentials"]))
    (out / PSEUDO_FOLDER).mkdir(parents=True, exist_ok=True)
    files = collect_pseudopotentials(symbols, out / PSEUDO_FOLDER, pseudopotentials)
    for symbol, file in files.items():
        theirs = labels["pseudopotentials"][symbol]
        if read_pseudopotential(out / PSEUDO_FOLDER / file).sha256 != theirs["sha256"]:
            raise ValueError(
                f"{file} is not the pseudopotential {theirs['file']} of {symbol} that the labels of the model "
                f"{title!r} have; give that one, or begin from scratch"
            )
    of_ours = {"pseudopotentials": files, "pulay": {s: c for s, c in table.get("pulay", {}).items() if s in symbols}}
    folder = (out / PSEUDO_FOLDER).resolve()
    recipe = build_recipe(table | of_ours | {"pseudo_dir": folder}, f"the recipe of the model {title!r}")
    chosen = build(ModelSettings, provenance["settings"]["model"], f"the settings of the model {title!r}")
    descriptor = dict(chosen.descriptor)
    if "channels" in descriptor:
        descriptor["channels"] = {symbol: descriptor["channels"][symbol] for symbol in symbols}
    return recipe, replace(chosen, valence={symbol: known[symbol] for symbol in symbols}, descriptor=descriptor)


def collect_pseudopotentials(
    symbols: Sequence[str], folder: Path, given: Sequence[str | Path_[str]] = ()
) -> Mapping[str, str]:
    """Pseudopotentials of all elements in one folder: the user's own, or GTH ones.

    Returns:
        File names by chemical symbol.

    Raises:
        ValueError: a file is no pseudopotential, two are of one element, or there is none for an element.
    """
    files: dict[str, str] = {}
    for path in map(Path, given):
        symbol = read_pseudopotential(path).symbol
        if symbol in files:
            raise ValueError(f"{files[symbol]} and {path.name} are both pseudopotentials of {symbol}; give one")
        files[symbol] = path.name
        if path.resolve() != (folder / path.name).resolve():
            shutil.copyfile(path, folder / path.name)
    for symbol in symbols:
        if symbol not in files:
            known = sorted(folder.glob(f"{symbol}.*UPF"))
            files[symbol] = known[0].name if known else Path(write_upf(find_potential(symbol), folder)).name
    return {symbol: files[symbol] for symbol in symbols}


def setup_page(name: str, measured: SetupMeasurement) -> str:
    """The page of a measurement: a table and a picture of every convergence."""
    recipe, check = measured.recipe, measured.check
    parts = [
        paragraph(
            f"Cutoff {recipe.cutoff:g} Ry, k-points every {recipe.kspacing:g} 1/Å"
            + (", shifted by half a step" if any(recipe.kpoint_shift) else "")
            + f", {recipe.bands_per_atom:g} bands per atom, "
            + ("fixed occupations" if recipe.occupations == "fixed" else "Fermi-Dirac occupations")
            + f" at {recipe.electronic_temperature:g} K, grid {recipe.grid_spacing:g} Å"
            + (
                ""
                if recipe.ldos is None
                else f", σ {recipe.ldos.sigma:g} eV, LDOS from {recipe.ldos.minimum:g} to {recipe.ldos.maximum:g} eV"
            )
            + f". Measured in {measured.cpu_seconds / 60:.1f} CPU minutes."
        )
    ]
    for series in measured.series:
        parts.append(heading(series.headline))
        if not series.met:
            parts.append(paragraph("The target is not met by anything that was tried.", kind="bad"))
        chosen = next((n for n, row in enumerate(series.rows) if series.taken and row[0] == series.chosen), None)
        # a crystal of several atoms is not asked for its stress, one of a single atom not for a force
        kept = [n for n in range(len(series.columns)) if n == 0 or any(row[n] for row in series.rows)]
        rows = [[row[n] for n in kept] for row in series.rows]
        parts.append(table([series.columns[n] for n in kept], rows, chosen=chosen))
        if series.note:
            parts.append(paragraph(series.note + ".", kind="note"))
        if len(series.rows) > 1:
            parts.append(pictures([(convergence_figure(series), f"Convergence in {series.name}")]))
    if check is not None:
        parts.append(heading("Stress and forces beside derivatives of energies"))
        parts.append(
            table(
                ("quantity", "stress or force minus energies"),
                [
                    ("pressure (GPa)", check.pressure),
                    ("deviatoric stress (GPa)", check.deviatoric),
                    ("force (eV/Å)", check.force),
                    ("Pulay constant that the recipe takes off (eV per atom)", max(recipe.pulay.values(), default=0.0)),
                ],
            )
        )
    return page(f"{name}: DFT set-up", parts)


def convergence_figure(series: Series) -> Figure:
    """The numbers of a series over what was varied, with their targets dashed."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    values = [row[0] for row in series.rows]
    shown = list(series.bounds) or [column for column in series.columns[1:] if "eV" in column]
    for number, column in enumerate(shown):
        place = series.columns.index(column)
        heights = [row[place] for row in series.rows]
        if not any(heights):
            continue
        colour = f"C{number}"
        if series.bounds:
            points = [(x, y) for x, y in zip(values, heights) if y > 0]  # the last one is zero: its own reference
            axes.semilogy(*zip(*points), "o-", color=colour, label=column)
            axes.axhline(series.bounds[column], color=colour, linestyle="--", linewidth=0.8)
        else:
            axes.plot(values, heights, "o-", color=colour, label=column)
    if series.taken:
        axes.axvline(series.chosen, color="0.4", linewidth=0.8)
    if values[0] > values[-1]:
        axes.invert_xaxis()
    axes.set(xlabel=series.columns[0])
    axes.legend(frameon=False, fontsize=8)
    return figure
