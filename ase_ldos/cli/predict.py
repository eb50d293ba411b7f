"""``ase-ldos predict``: one structure from a file that ASE reads."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_ldos.cli.evaluate import add_device
from ase_ldos.cli.structure_files import read_structure

if TYPE_CHECKING:
    from ase import Atoms

    from ase_ldos.calculator.calculator import LDOSCalculator

_VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", type=Path, help="structure in any format that ASE reads")
    parser.add_argument("--index", default="-1", help="which structure of the file, as ASE counts (default: the last)")
    parser.add_argument("--model", default="be", help="bundled model or model file (default: be)")
    parser.add_argument("--forces", action="store_true", help="print forces")
    parser.add_argument("--stress", action="store_true", help="print the stress")
    parser.add_argument(
        "--quantity", action="append", default=[], metavar="NAME", help="print a derived quantity; may be repeated"
    )
    parser.add_argument("--uncertainty", action="store_true", help="print and draw standard deviations")
    parser.add_argument(
        "--force-samples",
        type=int,
        default=0,
        metavar="N",
        help="with --uncertainty: those of forces from N samples of the last layer, each as dear as a force step "
        "(default: by the distance from the training data)",
    )
    parser.add_argument(
        "--force-error", type=float, metavar="EV/Å", help="warn of atoms whose forces may be as wrong as this"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--temperature", type=float, metavar="K", help="electronic temperature (default: the model's)")
    parser.add_argument("--spacing", type=float, metavar="Å", help="target distance of grid points")
    parser.add_argument("--chunk-size", type=int, metavar="N", help="grid points that are handled at once")
    add_device(parser)
    parser.add_argument("--dtype", choices=("float32", "float64"), help="number type of the network")
    parser.add_argument("--dos-plot", type=Path, metavar="PNG", help="draw the density of states")
    parser.add_argument("--density-plot", type=Path, metavar="PNG", help="draw the density in a plane")
    parser.add_argument("--plane", type=float, nargs=3, metavar=("H", "K", "L"), help="Miller indices of that plane")
    parser.add_argument("--through", type=float, nargs=3, metavar=("X", "Y", "Z"), help="a point of it, Å")
    parser.add_argument("--cube", type=Path, metavar="FILE", help="write the density, e/bohr³")
    parser.add_argument("--report", type=Path, metavar="HTML", help="write one HTML file to look at everything")


def run(args: argparse.Namespace) -> int:
    """Predict, print and write what is asked for."""
    atoms = read_structure(args.file, args.index)
    if args.density_plot is None and (args.plane is not None or args.through is not None):
        raise ValueError("--plane and --through choose what --density-plot draws; give its file")
    if args.plane is None and args.through is not None:
        raise ValueError("--through is a point of a plane; give its Miller indices by --plane")
    _check_outputs((args.dos_plot, args.density_plot), (args.cube, args.report))
    from ase_ldos.calculator.calculator import LDOSCalculator
    from ase_ldos.calculator.parallel import lead

    calculator = LDOSCalculator(
        args.model,
        device=args.device,
        dtype=args.dtype,
        electronic_temperature=args.temperature,
        grid_spacing=args.spacing,
        chunk_size=args.chunk_size,
        accepted_force_error=args.force_error,
    )
    calculator.progress = not args.json
    calculator.uncertainty = args.uncertainty
    if args.force_samples and not args.uncertainty:
        raise ValueError("--force-samples asks for standard deviations: give --uncertainty, too")
    from ase_ldos.prediction.quantities import QUANTITIES

    quantities = {name: QUANTITIES[name] for name in args.quantity}  # a wrong name is told before the calculation

    def work(calculator: LDOSCalculator) -> None:
        wanted = [name for name in ("forces", "stress") if getattr(args, name)]
        calculator.calculate(atoms, ["energy", *wanted])
        _write_files(args, atoms, calculator)
        if args.json:
            table = _as_dict(atoms, calculator, wanted, args.quantity)
            if args.uncertainty:
                table["standard_deviations"] = _deviations(calculator, args.force_samples)
            print(json.dumps(table, indent=1))
        else:
            _print_tables(atoms, calculator, wanted)
            if args.uncertainty:
                _print_uncertainty(atoms, calculator, args.force_samples)
            for name, quantity in quantities.items():
                print(f"\n{name} ({quantity.description}), {quantity.unit}\n{calculator.get_quantity(name)}")

    lead(work, calculator)
    return 0


def _check_outputs(plots: Iterable[Path | None], others: Iterable[Path | None]) -> None:
    """Find out before the calculation that a file cannot be written."""
    from matplotlib.backend_bases import FigureCanvasBase

    from ase_ldos.files import check_output

    known = FigureCanvasBase.get_supported_filetypes()
    for path in (path for path in (*plots, *others) if path is not None):
        check_output(path)
    for path in (path for path in plots if path is not None):
        if path.suffix[1:].lower() not in known:
            raise ValueError(f"cannot draw {path}: its name must end in one of {', '.join(sorted(known))}")


def _write_files(args: argparse.Namespace, atoms: Atoms, calculator: LDOSCalculator) -> None:
    from ase_ldos.files import atomic_write
    from ase_ldos.formats.cube import write_cube
    from ase_ldos.simulation.plots import density_figure, dos_figure, plane_figure

    prediction = calculator.prediction
    density = calculator.get_density()
    if args.dos_plot is not None:
        energies, dos = prediction.energy_grid.cpu().numpy(), prediction.dos.cpu().numpy()
        temperature = calculator.parameters["electronic_temperature"]
        found = prediction.uncertainty
        figure = dos_figure(
            energies,
            dos,
            prediction.fermi_level,
            temperature,
            deviation=None if found is None else found.dos.cpu().numpy(),
            fermi_deviation=None if found is None else found.fermi_level,
            title=atoms.get_chemical_formula(),
        )
        with atomic_write(args.dos_plot) as draft:
            figure.savefig(draft, dpi=150)
    if args.density_plot is not None:
        with atomic_write(args.density_plot) as draft:
            if args.plane is None:
                figure = density_figure(atoms, density)
            else:
                figure = plane_figure(atoms, density, tuple(args.plane), point=args.through)
            figure.savefig(draft, dpi=150)
    if args.cube is not None:
        write_cube(args.cube, atoms, density, comment="electron density in e/bohr^3")
    if args.report is not None:
        from ase_ldos.web.report import write_report

        write_report(args.report, atoms, calculator, source=args.file.name)


def _print_tables(atoms: Atoms, calculator: LDOSCalculator, wanted: list[str]) -> None:
    prediction = calculator.prediction
    spacing = " ".join(f"{step:.3f}" for step in atoms.cell.lengths() / prediction.density.shape)
    print(f"structure          {atoms.get_chemical_formula()}, {atoms.get_volume():.3f} Å³")
    print(f"grid               {' x '.join(map(str, prediction.density.shape))} points, {spacing} Å apart")
    print(f"electrons          {float(prediction.grid.integrate(prediction.density)):.6f}")
    print(
        f"Fermi level        {prediction.fermi_level:.6f} eV at {calculator.parameters['electronic_temperature']:g} K"
    )
    gap = _gap_line(calculator)
    if gap:
        print(f"gap                {gap}")
    print(f"\n{prediction.energies}")
    if "forces" in wanted:
        print("\nforces (eV/Å)")
        for number, (symbol, force) in enumerate(zip(atoms.symbols, calculator.results["forces"])):
            print(f"{number:5d} {symbol:2} {force[0]:14.6f} {force[1]:14.6f} {force[2]:14.6f}")
    if "stress" in wanted:
        print("\nstress (eV/Å³, tension positive)")
        print("   ".join(f"{name} {value:.8f}" for name, value in zip(_VOIGT, calculator.results["stress"])))


def _print_uncertainty(atoms: Atoms, calculator: LDOSCalculator, samples: int) -> None:
    found, prediction = calculator.get_uncertainty(force_samples=samples), calculator.prediction
    n_electrons = float(prediction.grid.integrate(prediction.density))
    density = float(prediction.grid.integrate(found.density)) / n_electrons
    dos = float(found.dos.norm() / prediction.dos.norm())
    print("\nstandard deviations (68 % of the errors on held-back structures were smaller)")
    print(f"free energy        {1000 * found.free_energy / len(atoms):.2f} meV/atom")
    print(f"Fermi level        {found.fermi_level:.4f} eV")
    print(f"DOS                {100 * dos:.2f} % (norm)")
    print(f"density            {100 * density:.2f} % (mean, of the electrons)")
    if found.forces is None:
        return
    source = f"{samples} samples of the last layer" if samples else "the distance from the training data"
    print(f"forces (eV/Å)      by {source}")
    for number, (symbol, force) in enumerate(zip(atoms.symbols, found.forces.tolist())):
        print(f"{number:5d} {symbol:2} {force[0]:14.6f} {force[1]:14.6f} {force[2]:14.6f}")


def _deviations(calculator: LDOSCalculator, samples: int) -> dict[str, Any]:
    found = calculator.get_uncertainty(force_samples=samples)
    return {
        "free_energy": found.free_energy,
        "fermi_level": found.fermi_level,
        "dos": found.dos.tolist(),
        "density_mean": float(found.density.mean()),
        "forces": None if found.forces is None else found.forces.tolist(),
    }


def _gap_line(calculator: LDOSCalculator) -> str:
    """The gap with its uncertainty and edges; empty for a metal, and where the window ends too early to tell."""
    from ase_ldos.prediction.quantities import prediction_gap

    try:
        gap = prediction_gap(calculator.model, calculator.prediction)
    except ValueError:
        return ""
    if not gap.resolved:
        return ""
    edges = f"{gap.valence_edge:.2f} to {gap.conduction_edge:.2f} eV"
    return f"{gap.width:.2f} ± {gap.uncertainty:.2f} eV, from {edges}; middle {gap.middle:.3f} eV"


def _as_dict(atoms: Atoms, calculator: LDOSCalculator, wanted: list[str], quantities: list[str]) -> dict[str, Any]:
    prediction = calculator.prediction
    found = {name: calculator.get_quantity(name) for name in quantities}
    terms = {name: float(value) for name, value in vars(prediction.energies).items() if name != "n_atoms"}
    return {
        "formula": atoms.get_chemical_formula(),
        "units": {"energy": "eV", "length": "Å", "temperature": "K"},
        "parameters": dict(calculator.parameters),
        "free_energy": prediction.free_energy,
        "internal_energy": float(prediction.energies.internal_energy),
        "energies": terms,
        "fermi_level": prediction.fermi_level,
        "grid": list(prediction.density.shape),
        **{name: calculator.results[name].tolist() for name in wanted},
        "quantities": {name: value if isinstance(value, float) else value.tolist() for name, value in found.items()},
    }
