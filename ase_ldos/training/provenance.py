"""Where a model comes from: its data and its pseudopotentials, for its energies and its provenance."""

from __future__ import annotations

from typing import Any

from ase_ldos.dataset.provenance import describe_source
from ase_ldos.formats.pseudopotential import check_functional, read_pseudopotential
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.core_charge import CoreCharge
from ase_ldos.training.settings import TrainingSettings, data_paths, find_source


def core_charges(settings: TrainingSettings) -> dict[str, CoreCharge]:
    """The partial core charges of the pseudopotentials of some settings, by chemical symbol.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: it is of another element, or its valence charge or functional is not the model's.
    """
    found = {}
    for symbol, name in settings.model.pseudopotentials.items():
        pseudo = read_pseudopotential(find_source(settings, name))
        if pseudo.symbol != symbol or pseudo.valence != settings.model.valence.get(symbol):
            raise ValueError(
                f"{name} is a pseudopotential of {pseudo.symbol} with {pseudo.valence:g} valence electrons; "
                f"the settings have {symbol} with {settings.model.valence.get(symbol)}"
            )
        check_functional(name, pseudo.functional, settings.model.functional)
        if pseudo.core is not None:
            found[symbol] = pseudo.core
    return found


def held_out_names(model: LDOSModel) -> tuple[set[str], set[str]]:
    """Names of the snapshots that a model has learned from, and of those held back from its training.

    Raises:
        ValueError: the model file does not tell.
    """
    known = model.metadata.provenance
    if not known.get("held back"):
        raise ValueError(
            f"the model {model.metadata.name!r} does not tell what was held back from its training; "
            "choose snapshots by --every and --offset"
        )
    return set(known.get("training", ())), set(known["held back"])


def describe_sources(settings: TrainingSettings) -> dict[str, Any]:
    """Names and hashes of the data and pseudopotentials of some settings, for a model's provenance.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: labels were made with another functional than the model's, or with a core charge that the model
            would lack; the message tells what to add.
    """
    data = [describe_source(path) for path in data_paths(settings)]
    known, functional = core_charges(settings), settings.model.functional
    for source in data:
        for symbol, pseudo in source.get("labels", {}).get("pseudopotentials", {}).items():
            if "functional" in pseudo:
                check_functional(f"{source['name']} ({pseudo['file']})", pseudo["functional"], functional)
            if pseudo["core_charge"] and symbol not in known:
                raise ValueError(
                    f"{source['name']} was labelled with {pseudo['file']}, which has a partial core charge that the "
                    f'energy needs; add pseudopotentials = {{ {symbol} = "{pseudo["file"]}" }} to [model]'
                )
    files = [find_source(settings, name) for name in settings.model.pseudopotentials.values()]
    pseudos = [{"name": file.name, "sha256": read_pseudopotential(file).sha256} for file in files]
    return {"data": data, "pseudopotentials": pseudos}
