"""``ase-ldos info``: what a model is for and how good it is."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="name of a bundled model (be) or path of a model file")


def run(args: argparse.Namespace) -> int:
    """Print the model's metadata."""
    from ase_ldos.model.model_file import find_model, load_model

    path = find_model(args.model)
    model = load_model(args.model)
    metadata, energies = model.metadata, model.energies
    network = model.network
    layers = " - ".join(str(n) for n in (network.n_inputs, *network.hidden, network.n_outputs))
    settings = {key: value for key, value in model.descriptor.settings().items() if key not in ("kind", "species")}
    rows = {
        "model": f"{metadata.name} ({path.name}, {path.stat().st_size / 1e6:.2f} MB)",
        "valence electrons": ", ".join(f"{symbol} {charge:g}" for symbol, charge in metadata.valence.items()),
        "functional": metadata.functional.upper(),
        "electronic temperature": f"{metadata.electronic_temperature:g} K",
        "energy grid": f"{energies[0]:g} to {energies[-1]:g} eV, {len(energies)} nodes",
        "broadening of the LDOS": f"{metadata.broadening:g} eV (standard deviation)",
        "grid spacing": f"{metadata.grid_spacing:g} Å",
        "shortest distance": f"{metadata.minimum_distance:g} Å",
        "descriptor": f"{model.descriptor.settings()['kind']}, {model.descriptor.n_features} features, "
        + ", ".join(f"{key} {value}" for key, value in settings.items()),
        "network": f"{layers}, {network.activation}" + (", linear skip" if network.skip else ""),
        "parameters": f"{sum(p.numel() for p in model.parameters())}, {str(model.dtype).removeprefix('torch.')}",
    }
    ranges = metadata.extrapolation
    rows["training range"] = (
        f"distances up to {ranges['threshold']:.2f} on {ranges['structures']:.0f} held-back structures, warns beyond"
        if ranges
        else "not calibrated, no warning of extrapolation"
    )
    _print_rows(rows)
    if metadata.errors:
        print("\nerrors on held-back structures")
        _print_rows({name: f"{value:.4g} {_unit(name)}" for name, value in metadata.errors.items()})
    if metadata.provenance:
        print("\nprovenance")
        _print_rows({name: _readable(value) for name, value in metadata.provenance.items()})
    return 0


def _unit(name: str) -> str:
    """Unit of an error; bias and spread have that of their quantity."""
    from ase_ldos.training.evaluate import COLUMNS

    quantity = max((key for key in COLUMNS if name.startswith(key)), key=len, default="")
    return COLUMNS[quantity][1] if quantity else ""


def _readable(value: object) -> str:
    """Lists as names with commas, data with their hashes; of tables the single values."""
    if isinstance(value, list):
        value = [f"{v['name']} (SHA-256 {v['sha256'][:12]}…)" if isinstance(v, dict) else v for v in value]
        return f"{len(value)}: {', '.join(map(str, value))}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items() if isinstance(item, str | int | float))
    return str(value)


def _print_rows(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")
