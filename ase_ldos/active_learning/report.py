"""The report of a learning: one HTML page that needs nothing else."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from ase.eos import EquationOfState
from matplotlib.figure import Figure

from ase_ldos.active_learning.settings import LearnSettings
from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.labelling.reference_labels import labelled_atoms
from ase_ldos.physics.gap import Gap, find_gap
from ase_ldos.prediction.quantities import prediction_gap
from ase_ldos.simulation.elasticity import ElasticResponse, deformations, elastic_response
from ase_ldos.units import GIGAPASCAL
from ase_ldos.web.static_page import heading, page, paragraph, pictures, table

if TYPE_CHECKING:
    from ase_ldos.active_learning.learn import State

#: Of the errors that have goals.
_UNITS = {"energy": "meV/atom", "forces": "meV/Å", "density": "%"}


@dataclass
class Report:
    """What the report says.

    Attributes:
        page: the HTML file.
        lines: how the model and DFT compare in what was not fitted as such: equation of state, elastic constants,
            phonons, gap, error bars.
    """

    page: str
    lines: list[str]


def make_report(out: Path, name: str, crystals: Sequence[Atoms], settings: LearnSettings, state: State) -> Report:
    """The report of a learning.

    Args:
        out: folder of the learning.
        name: of the model, whose file is ``OUT/NAME.safetensors``.
        crystals: primitive cells at rest.
        settings: goals and limits.
        state: what each round gave.
    """
    calculator = LDOSCalculator(out / f"{name}.safetensors")
    test, labels = _snapshots(out / "labels-test"), _snapshots(out / "labels")
    reference = _snapshots(out / "labels-reference")
    lines: list[str] = []
    parts = [*_summary(settings, state), *_learning_curve(settings, state)]
    parts += _test_set(calculator, test, lines)
    parts += _equation_of_state(calculator, crystals, labels, lines)
    for place, crystal in enumerate(crystals):
        own = [s for s in reference if s.name.startswith(f"d{place}_")]
        parts += _elasticity(calculator, crystal, own, lines)
    parts += _dos(calculator, crystals, labels, lines)
    parts += _range(calculator, settings, labels)
    parts += _cheap_potential(calculator)
    parts += _cost(state, len(labels), len(test), len(reference))
    return Report(page(f"{name}: a model learned from {len(labels)} structures", parts), lines)


def _summary(settings: LearnSettings, state: State) -> list[str]:
    last = [item for item in state.rounds if item.finished][-1]
    rows: list[tuple[object, ...]] = []
    for key, goal in settings.goals.items():
        found = last.test.get(key)
        met = found is not None and found <= goal
        rows.append(("free energy" if key == "energy" else key, found, goal, _UNITS[key], "met" if met else "not met"))
    others = (("stress", "stress", "GPa"), ("DOS", "dos", "%"), ("LDOS", "ldos", "%"), ("gap", "gap", "eV"))
    rows += [(label, last.test[key], None, unit, "") for label, key, unit in others if key in last.test]
    parts = [paragraph(f"Why it ended: {state.verdict or 'it has not ended'}.")]
    parts.append(table(("test set, root mean square", "error", "goal", "unit", ""), rows))
    parts.append(paragraph(_dynamics_sentence(state), kind=_dynamics_kind(state)))
    return parts


def _dynamics_sentence(state: State) -> str:
    run = state.dynamics
    if not run:
        return "No long dynamics has been run with the finished model."
    what = f"Dynamics of {run['atoms']} atoms for {run['ps']:g} ps at {run['temperature']:g} K"
    if "passed" not in run:
        return f"{what} was not run: it needs some {run['needed_cpu_hours']:.1f} CPU hours, more than were left."
    if run["passed"]:
        return f"{what} passed without alarm."
    return f"{what} was stopped: {run['alarm']}."


def _dynamics_kind(state: State) -> str:
    return {True: "good", False: "bad"}.get(state.dynamics.get("passed"), "note")  # type: ignore[arg-type]


def _learning_curve(settings: LearnSettings, state: State) -> list[str]:
    rounds = [item for item in state.rounds if item.finished]
    heads = ("round", "labels", "test: energy", "forces", "density", "new frames: energy", "forces", "explored (ps)",
             "trajectories stopped", "CPU hours")  # fmt: skip
    rows = [
        (
            n + 1, item.labels, item.test.get("energy"), item.test.get("forces"), item.test.get("density"),
            item.fresh.get("energy"), item.fresh.get("forces"), item.explored_ps,
            f"{sum(map(bool, item.alarms))} of {len(item.alarms)}", item.cpu_hours,
        )
        for n, item in enumerate(rounds)
    ]  # fmt: skip
    figures = []
    for key, goal in settings.goals.items():
        figure = Figure(figsize=(3.9, 3.0), layout="constrained")
        axes = figure.add_subplot()
        axes.semilogy([r.labels for r in rounds], [r.test.get(key, np.nan) for r in rounds], "o-", label="test set")
        fresh = [r for r in rounds if key in r.fresh]
        if fresh:
            axes.semilogy([r.labels for r in fresh], [r.fresh[key] for r in fresh], "s:", label="new frames, unlearned")
        axes.axhline(goal, color="0.4", linestyle="--", linewidth=0.8, label="goal")
        axes.set(xlabel="labels", ylabel=f"{key} ({_UNITS[key]})")
        axes.legend(frameon=False, fontsize=7)
        figures.append((figure, f"{key}: root mean square error"))
    note = (
        "meV/atom, meV/Å and %. New frames come from the dynamics; their errors are those of the round before, made "
        "before they were learned."
    )
    return [heading("Learning curve"), table(heads, rows), paragraph(note, kind="note"), pictures(figures)]


def _test_set(calculator: LDOSCalculator, test: Sequence[Snapshot], lines: list[str]) -> list[str]:
    energies, forces = [], []
    bars: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for snapshot in test:
        atoms = snapshot.to_atoms()
        atoms.calc = calculator
        predicted = atoms.get_forces()
        energies.append((float(snapshot.free_energy or 0) / len(atoms), atoms.get_potential_energy() / len(atoms)))
        if snapshot.forces is not None:
            forces.append(np.stack([np.asarray(snapshot.forces).ravel(), predicted.ravel()]))
        if calculator.model.metadata.uncertainty:
            for key, (error, deviation) in _deviations(calculator, atoms, snapshot).items():
                bars.setdefault(key, ([], []))[0].append(np.abs(error).ravel())
                bars[key][1].append(np.broadcast_to(deviation, np.shape(error)).ravel())
    if not energies:
        return []
    pairs = np.array(energies).T
    figures = [
        (
            _parity_figure(1000 * (pairs - pairs[0].min()), "A above the lowest, DFT (meV/atom)", "model"),
            "Free energies",
        ),
    ]
    if forces:
        figures.append((_parity_figure(np.concatenate(forces, axis=1), "force, DFT (eV/Å)", "model"), "Forces"))
    return [heading("The test set, never learned from"), pictures(figures), *_error_bars(bars, lines)]


def _deviations(
    calculator: LDOSCalculator, atoms: Atoms, snapshot: Snapshot
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Errors and the standard deviations that the model tells for them: energies in meV/atom, forces in meV/Å."""
    told = calculator.get_uncertainty(atoms)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if snapshot.free_energy is not None:
        scale = 1000 / len(atoms)
        error = atoms.get_potential_energy() - float(snapshot.free_energy)
        found["free energy"] = (np.array([error * scale]), np.array([told.free_energy * scale]))
    if snapshot.forces is not None and told.forces is not None:
        difference = atoms.get_forces() - np.asarray(snapshot.forces)
        moves = np.abs(np.asarray(snapshot.forces)) > 1e-6  # components that vanish by symmetry neither err nor deviate
        deviation = told.forces.cpu().numpy() * np.ones_like(difference)
        found["force"] = (1000 * difference[moves], 1000 * deviation[moves])
    return found


def _error_bars(bars: dict[str, tuple[list[np.ndarray], list[np.ndarray]]], lines: list[str]) -> list[str]:
    """How errors of the test set compare with the error bars that were calibrated on other structures."""
    rows = []
    for name, (errors, deviations) in bars.items():
        error, deviation = np.concatenate(errors), np.concatenate(deviations)
        unit = "meV/atom" if name == "free energy" else "meV/Å"
        within = [100 * float((error <= width * deviation).mean()) for width in (1, 2)]
        root = [float(np.sqrt(np.mean(np.square(values)))) for values in (error, deviation)]
        rows.append((f"{name} ({unit})", *root, *within))
        lines.append(
            f"error bars of the {name}: {root[1]:.3g} {unit} told, {root[0]:.3g} found on the test set, "
            f"{within[0]:.0f} % within one (a Gaussian: 68 %)"
        )
    if not rows:
        return []
    heads = ("root mean squares", "error", "standard deviation told", "within σ (%)", "within 2 σ (%)")
    note = (
        "A Gaussian has 68 and 95 % within. The bars are calibrated on structures held back from training, those of "
        "forces by the distance from the training data; which frames are labelled is decided by the models' "
        "disagreement, for it costs one more force step where samples of a last layer would cost eight."
    )
    return [heading("Error bars on the test set"), table(heads, rows), paragraph(note, kind="note")]


def _parity_figure(pairs: np.ndarray, across: str, up: str) -> Figure:
    figure = Figure(figsize=(4.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    ends = [float(pairs.min()), float(pairs.max())]
    axes.plot(ends, ends, color="0.6", linewidth=0.8)
    axes.plot(pairs[0], pairs[1], ".", markersize=5)
    axes.set(xlabel=across, ylabel=up, aspect="equal")
    return figure


def _equation_of_state(
    calculator: LDOSCalculator, crystals: Sequence[Atoms], labels: Sequence[Snapshot], lines: list[str]
) -> list[str]:
    parts, figures, rows = [heading("Equation of state")], [], []
    for place, crystal in enumerate(crystals):
        known = [s for s in labels if f"_c{place}-volume" in s.name and s.free_energy is not None]
        known.sort(key=lambda s: abs(np.linalg.det(s.cell)))
        if len(known) < 5:
            continue
        volumes = np.array([abs(np.linalg.det(s.cell)) / len(s) for s in known])
        dft = np.array([float(s.free_energy or 0) / len(s) for s in known])
        model = []
        for snapshot in known:
            atoms = snapshot.to_atoms()
            atoms.calc = calculator
            model.append(atoms.get_potential_energy() / len(atoms))
        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        fits = {}
        for name, energies, look in (("DFT", dft, "o"), ("model", np.array(model), "s")):
            fit = EquationOfState(volumes, energies, eos="birchmurnaghan")
            try:
                volume, lowest, bulk = fit.fit(warn=False)
            except (RuntimeError, ValueError):
                continue
            fits[name] = (volume, bulk * GIGAPASCAL)
            rows.append((crystal.get_chemical_formula(), name, volume, bulk * GIGAPASCAL, 1000 * (lowest - dft.min())))
            axes.plot(volumes, 1000 * (energies - dft.min()), look, label=name, markersize=5)
        if len(fits) == 2:
            (theirs, stiff), (here, bulk) = fits["DFT"], fits["model"]
            lines.append(
                f"{crystal.get_chemical_formula()}: volume {here:.2f} Å³/atom (DFT {theirs:.2f}), bulk modulus "
                f"{bulk:.1f} GPa (DFT {stiff:.1f})"
            )
        axes.set(xlabel="volume (Å³/atom)", ylabel="A (meV/atom)")
        axes.legend(frameon=False)
        figures.append((figure, f"{crystal.get_chemical_formula()}: these volumes were learned"))
    if not rows:
        return []
    heads = ("crystal", "", "volume (Å³/atom)", "bulk modulus (GPa)", "A at rest above DFT's lowest (meV/atom)")
    return [*parts, table(heads, rows), pictures(figures)]


def _elasticity(
    calculator: LDOSCalculator, crystal: Atoms, reference: Sequence[Snapshot], lines: list[str]
) -> list[str]:
    cells = {}
    for cell in deformations(crystal):
        cell.calc = calculator
        cells[cell.info["name"]] = cell
    found = {"model": elastic_response(crystal, cells)}
    dft = {}
    for snapshot in reference:
        if snapshot.stress is not None and snapshot.forces is not None:
            dft[_plain(snapshot.name)] = labelled_atoms(snapshot)
    with suppress(ValueError):  # the reference may not be complete
        found = {"DFT": elastic_response(crystal, dft), **found}
    heads = ("", "C11", "C12", "C44", "bulk modulus", "phonons at Γ (meV)")
    rows = [(name, *_constants(response), _phonons(response)) for name, response in found.items()]
    formula = crystal.get_chemical_formula()
    for name, *constants, phonons in rows:
        c11, c12, c44 = (f"{value:.1f}" for value in constants[:3])
        lines.append(f"{formula}, {name}: C11 {c11}, C12 {c12}, C44 {c44} GPa; phonons at Γ (meV): {phonons}")
    note = "GPa, atoms at rest; C11, C12 and C44 are means over x, y and z. The strained cells were not learned."
    return [
        heading(f"{formula}: elastic constants and phonons"),
        table(heads, rows),
        paragraph(note, kind="note"),
    ]


def _plain(name: str) -> str:
    """The name of a deformed cell, as ``deformations`` gives it, from that of its label."""
    head, rest = name.split("_", 1)[1].split("-", 1)
    place, sign = rest[:-3], rest[-2:]
    return f"{head}_{place}_{sign}"


def _constants(response: ElasticResponse) -> tuple[float, float, float, float]:
    c = response.elastic
    first = float(np.mean([c[0, 0], c[1, 1], c[2, 2]]))
    second = float(np.mean([c[0, 1], c[0, 2], c[1, 2]]))
    return first, second, float(np.mean([c[3, 3], c[4, 4], c[5, 5]])), response.bulk_modulus


def _phonons(response: ElasticResponse) -> str:
    return ", ".join(f"{energy:.1f}" for energy in response.phonons[3:]) or "none but the acoustic ones"


def _dos(
    calculator: LDOSCalculator, crystals: Sequence[Atoms], labels: Sequence[Snapshot], lines: list[str]
) -> list[str]:
    figures, sentences = [], []
    for place, crystal in enumerate(crystals):
        at_rest = next(
            (s for s in labels if s.name.endswith(f"_c{place}-volume+0") or s.name.endswith(f"_c{place}-volume-0")),
            None,
        )
        if at_rest is None or at_rest.dos is None or at_rest.energies is None:
            continue
        atoms = at_rest.to_atoms()
        atoms.calc = calculator
        atoms.get_potential_energy()
        prediction = calculator.prediction
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(at_rest.energies, np.asarray(at_rest.dos) / len(atoms), label="DFT")
        energies = calculator.model.energies.cpu().numpy()
        axes.plot(energies, prediction.dos.cpu().numpy() / len(atoms), "--", label="model")
        axes.axvline(prediction.fermi_level, color="0.4", linewidth=0.8, label=f"μ = {prediction.fermi_level:.2f} eV")
        axes.set(xlabel="energy (eV)", ylabel="states per eV and atom")
        axes.legend(frameon=False)
        figures.append(
            (
                figure,
                f"{crystal.get_chemical_formula()} at rest, broadened by {calculator.model.metadata.broadening:g} eV",
            )
        )
        gap = _gap_sentence(calculator, at_rest)
        if gap:
            lines.append(gap)
            sentences.append(f"{gap}.")
        elif at_rest.fermi_level is not None:
            here, theirs = (
                float(np.interp(level, grid, np.asarray(dos))) / len(atoms)
                for level, grid, dos in (
                    (prediction.fermi_level, energies, prediction.dos.cpu().numpy()),
                    (at_rest.fermi_level, at_rest.energies, at_rest.dos),
                )
            )
            sentences.append(
                f"{crystal.get_chemical_formula()}: states at the Fermi level {here:.3f} per eV and atom "
                f"(DFT {theirs:.3f}); "
                f"Fermi level {prediction.fermi_level:.3f} eV (DFT {at_rest.fermi_level:.3f} eV)."
            )
    if not figures:
        return []
    return [heading("Density of states"), pictures(figures), *map(paragraph, sentences)]


def _gap_sentence(calculator: LDOSCalculator, label: Snapshot) -> str:
    """The gap of DFT's states, of its DOS and of the model's; empty where DFT has none."""
    if label.n_electrons is None or (label.gap is not None and label.gap <= 0):
        return ""
    dos, energies = (torch.as_tensor(np.asarray(values, dtype=float)) for values in (label.dos, label.energies))
    try:
        predicted = prediction_gap(calculator.model, calculator.prediction)
        expected = find_gap(dos, energies, label.n_electrons, len(label), float(label.ldos_sigma or 0.0))
    except ValueError:  # the energies end among the states about the last electron
        return ""
    if label.gap is None and not expected.resolved:
        return ""
    states = "" if label.gap is None else f"; of DFT's states on the labels' k-mesh {label.gap:.2f} eV"
    read = f"gap read off the DOS {_gap_words(predicted)} (DFT {_gap_words(expected)}{states})"
    where = f"its middle at {predicted.middle:.2f} eV (DFT {expected.middle:.2f} eV)"
    return f"{label.to_atoms().get_chemical_formula()}: {read}, {where}"


def _gap_words(gap: Gap) -> str:
    return f"{gap.width:.2f} ± {gap.uncertainty:.2f} eV" if gap.resolved else "not resolved at its width"


def _range(calculator: LDOSCalculator, settings: LearnSettings, labels: Sequence[Snapshot]) -> list[str]:
    metadata = calculator.model.metadata
    volumes = [abs(np.linalg.det(s.cell)) / len(s) for s in labels]
    forces = [float(np.linalg.norm(np.asarray(s.forces), axis=1).max()) for s in labels if s.forces is not None]
    temperatures = ", ".join(f"{t:g}" for t in settings.temperatures)
    rows = [
        ("elements", ", ".join(sorted(metadata.valence))),
        ("temperatures explored (K)", temperatures),
        ("pressures explored (GPa)", ", ".join(f"{p:g}" for p in settings.pressures)),
        ("electrons at (K)", f"{metadata.electronic_temperature:g}"),
        ("volumes learned (Å³/atom)", f"{min(volumes):.2f} to {max(volumes):.2f}"),
        ("largest force learned (eV/Å)", f"{max(forces, default=0.0):.1f}"),
        ("largest cell learned (atoms)", str(max(map(len, labels)))),
        ("distance at which it warns", f"{metadata.extrapolation.get('threshold', float('nan')):.2f}"),
        ("closest atoms (Å)", f"{metadata.minimum_distance:g}"),
    ]
    text = "Beyond these the model guesses: other phases, surfaces, defects and melts want labels of their own."
    return [heading("Where it may be used"), table(("", "known range"), rows), paragraph(text)]


def _cheap_potential(calculator: LDOSCalculator) -> list[str]:
    distilled = calculator.model.distilled
    if distilled is None:
        return []
    text = (
        f"The model file holds a potential of the atoms alone, off the model by {distilled.error_words}; ase-ldos md "
        "--ensemble respa takes long steps by it."
    )
    return [heading("Cheap potential"), paragraph(text)]


def _cost(state: State, labels: int, test: int, reference: int) -> list[str]:
    rows = [(kind, seconds / 60) for kind, seconds in state.cpu_seconds.items() if seconds >= 1]
    rows.append(("all", state.total_cpu / 60))
    machine = f"{platform.processor() or platform.machine()}, {platform.system()}"
    text = f"{labels} labels to learn from, {test} to test, {reference} for elastic constants. {machine}."
    return [heading("What it cost"), table(("", "CPU minutes"), rows), paragraph(text)]


def _snapshots(folder: Path) -> list[Snapshot]:
    return load_snapshots(folder) if folder.is_dir() and any(folder.glob("[!.]*.npz")) else []
