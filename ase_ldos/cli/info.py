"""``ase-ldos info``: what a model is for and how good it is, on one screen."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase_ldos.model.ldos_model import LDOSModel

#: Quantity of ``training.evaluate.COLUMNS`` → its name for people, in the order of the table.
_QUANTITIES = {
    "energy": "free energy",
    "energy_within_family": "  within one cell type",
    "energy_ldos": "  from DFT's LDOS",
    "forces": "forces",
    "stress": "stress",
    "density": "density",
    "dos": "DOS",
    "ldos": "LDOS",
    "ldos_occupied": "  below the Fermi level",
    "fermi_level": "Fermi level",
    "electrons": "electrons below DFT's",
}
#: Key of ``ModelMetadata.uncertainty`` → symbol.
_WITHIN = {
    "within_one_free_energy": "A",
    "within_one_fermi_level": "μ",
    "within_one_dos": "DOS",
    "within_one_density": "density",
    "within_one_forces": "forces",
}
_FERMI_LEVEL_NOTE = (
    "The Fermi level's error contains that of the labels: DFT's own moves by tenths of an eV from a\n"
    "coarse mesh of k-points to a dense one."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="name of a bundled model (be) or path of a model file")
    parser.add_argument(
        "--provenance",
        action="store_true",
        help="list settings, data with their hashes, structures learned and held back",
    )


def run(args: argparse.Namespace) -> int:
    """Print the model's metadata."""
    from ase_ldos.model.model_file import find_model, load_model

    path = find_model(args.model)
    model = load_model(args.model)
    if args.provenance:
        parts = {"descriptor": model.descriptor.settings(), "network": model.network.settings()}
        rows = {name: ", ".join(f"{key} {value}" for key, value in part.items()) for name, part in parts.items()}
        _print_rows(rows | {name: _readable(value) for name, value in model.metadata.provenance.items()})
        return 0
    size = f"{path.name}, {path.stat().st_size / 1e6:.2f} MB"
    _print_rows({"model": f"{model.metadata.name} ({size}, {_count_parameters(model)})", **_describe(model)})
    errors = model.metadata.errors
    if errors:
        print()
        _print_errors(errors)
    if "fermi_level" in errors and "electrons" not in errors:  # the electrons below it tell that, where they are known
        print(_FERMI_LEVEL_NOTE)
    return 0


def _count_parameters(model: LDOSModel) -> str:
    return f"{sum(p.numel() for p in model.parameters())} parameters, {str(model.dtype).removeprefix('torch.')}"


def _energy_zero(model: LDOSModel) -> dict[str, str]:
    """What the network's energies are, where they are not the DFT program's."""
    constants = model.metadata.level_constants
    if not constants:
        return {}
    shown = ", ".join(f"{symbol} {value:.1f}" for symbol, value in constants.items())
    return {"energy zero": f"of these energies: DFT's less the sum of {shown} eV Å³ over the cell's volume"}


def _describe(model: LDOSModel) -> dict[str, str]:
    """One line for each of the things that a user of the model has to know."""
    metadata, energies, network = model.metadata, model.energies, model.network
    valence = ", ".join(f"{symbol} with {charge:g}" for symbol, charge in metadata.valence.items())
    layers = " - ".join(map(str, (network.n_inputs, *network.hidden, network.n_outputs)))
    ranges, learned = metadata.extrapolation, metadata.provenance
    described = {
        "elements": f"{valence} valence electrons, {metadata.functional.upper()}",
        "electrons at": f"{metadata.electronic_temperature:g} K, another temperature may be asked for"
        + ("" if model.thermal_correction is None else f" up to {model.thermal_correction.highest:g} K (learned)"),
        "energies": f"{energies[0]:g} to {energies[-1]:g} eV, {len(energies)} nodes, "
        f"LDOS broadened by {metadata.broadening:g} eV (standard deviation)",
        **_energy_zero(model),
        "grid": f"{metadata.grid_spacing:g} Å between points; atoms at least {metadata.minimum_distance:g} Å apart",
        "descriptor": f"{model.descriptor.settings()['kind']}, {model.descriptor.n_features} features, "
        f"cutoff {model.descriptor.cutoff:g} Å",
        "network": f"{layers}, {network.activation}" + (", linear skip" if network.skip else ""),
    }
    if "training" in learned:
        described["learned from"] = (
            f"{len(learned['training'])} structures, {len(learned.get('held back', []))} held back; "
            f"'ase-ldos info MODEL --provenance' names them"
        )
    described["extrapolation"] = _describe_range(ranges) if ranges else "not calibrated, no warning"
    factors = metadata.uncertainty
    within = [f"{symbol} {100 * factors[name]:.0f} %" for name, symbol in _WITHIN.items() if name in factors]
    described["error bars"] = f"held-back errors within σ: {', '.join(within)}" if within else "not calibrated"
    if model.distilled is not None:
        made = model.distilled.provenance
        described["distilled"] = (
            f"{', '.join(made['structures'])} at {made['temperature']:g} K, off the model by "
            f"{model.distilled.error_words}"
        )
    return described


def _describe_range(ranges: dict[str, float]) -> str:
    """When the model warns."""
    number = f"{ranges['structures']:.0f} held-back structures"
    if "force_error" not in ranges:
        return f"warns beyond distance {ranges['threshold']:.2f}, largest of {number}"
    error, largest = 1000 * ranges["force_error"], ranges["largest"]
    return f"warns beyond distance {ranges['threshold']:.2f} (forces off by {error:.0f} meV/Å; {number}: {largest:.2f})"


def _print_errors(errors: dict[str, float]) -> None:
    """A table with a line for each quantity; energies have a bias and a spread beside the root mean square."""
    from ase_ldos.training.evaluate import COLUMNS

    print(f"{'errors on held-back structures':34}{'root mean square':>17}{'bias':>9}{'spread':>9}")
    parts = ("", "_bias", "_spread")
    known = {name + part for name in _QUANTITIES for part in parts}
    for name in [*_QUANTITIES, *(name for name in errors if name not in known)]:
        if name not in errors:
            continue
        values = "".join(f"{errors[name + part]:{w}.2f}" for part, w in zip(parts, (17, 9, 9)) if name + part in errors)
        # the longest name that fits: ldos_occupied is no LDOS
        column = max((key for key in COLUMNS if name.startswith(key)), key=len, default=None)
        print(f"  {_QUANTITIES.get(name, name):24}{COLUMNS[column][1] if column else '':8}{values}")


def _readable(value: object) -> str:
    """Lists as names with commas, data with their hashes; of tables the single values."""
    if isinstance(value, list):
        value = [f"{v['name']} (SHA-256 {v['sha256'][:12]}…)" if isinstance(v, dict) else v for v in value]
        return f"{len(value)}: {', '.join(map(str, value))}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items() if isinstance(item, str | int | float))
    return str(value)


def _print_rows(rows: dict[str, str]) -> None:
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")
