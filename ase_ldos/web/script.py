"""The Python script that does what was done on the page."""

from __future__ import annotations

import json
from typing import Any

_HEAD = '''"""Made by ase-ldos: does again what was shown. Reads the structure from the file named below."""

from ase.io import read
from ase_ldos import LDOSCalculator
'''


def make_script(kind: str, model: str, settings: dict[str, Any], *, source: str = "structure.extxyz") -> str:
    """Python source for one job.

    Args:
        kind: predict, relax or md.
        model: name of a bundled model or of a file.
        settings: ``temperature`` (electronic, K), ``spacing`` (Å), ``forces``, and those of the run.
        source: file that the script reads; its last structure is taken.
    """
    imports, body = {"predict": _predict, "relax": _relax, "md": _dynamics}[kind](settings)
    options = [json.dumps(model)]
    if settings.get("temperature") is not None:
        options.append(f"electronic_temperature={settings['temperature']:g}")
    if settings.get("spacing") is not None:
        options.append(f"grid_spacing={settings['spacing']:g}")
    head = _HEAD.replace("from ase.io import read\n", "".join(sorted(["from ase.io import read\n", *imports])))
    return (
        f"{head}\natoms = read({json.dumps(source)})\natoms.calc = LDOSCalculator({', '.join(options)})\n{body}"
        "print(atoms.calc.prediction.energies)\n"
        'print("Fermi level", atoms.calc.get_fermi_level(), "eV")\n'
        "density = atoms.calc.get_density()  # e/Å³\n"
        "dos = atoms.calc.get_dos()\n"
        "window = (atoms.calc.get_fermi_level() - 1.0, atoms.calc.get_fermi_level())\n"
        "states = atoms.calc.get_local_density(window)  # states/Å³\n"
    )


def _predict(settings: dict[str, Any]) -> tuple[list[str], str]:
    if not settings.get("forces", True):
        return [], "print(atoms.get_potential_energy())\n"
    return [], "print(atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())\n"


def _relax(settings: dict[str, Any]) -> tuple[list[str], str]:
    imports, target = ["from ase.optimize import BFGS\n"], "atoms"
    if settings["cell"]:
        imports.append("from ase.filters import FrechetCellFilter\n")
        target = "FrechetCellFilter(atoms)"
    return imports, f"BFGS({target}).run(fmax={settings['fmax']:g}, steps={settings['steps']})\n"


def _dynamics(settings: dict[str, Any]) -> tuple[list[str], str]:
    imports = [
        "from ase import units\n",
        "from ase.md.velocitydistribution import MaxwellBoltzmannDistribution\n",
        "import numpy as np\n",
    ]
    ions, step = settings["ion_temperature"], settings["timestep"]
    body = (
        f"random = np.random.default_rng({settings['seed']})\n"
        f"MaxwellBoltzmannDistribution(atoms, temperature_K={ions:g}, rng=random)\n"
    )
    if settings["thermostat"] == "langevin":
        imports.append("from ase.md.langevin import Langevin\n")
        body += (
            f"dynamics = Langevin(atoms, timestep={step:g} * units.fs, temperature_K={ions:g}, "
            "friction=0.01 / units.fs, rng=random)\n"
        )
    else:
        imports.append("from ase.md.verlet import VelocityVerlet\n")
        body += f"dynamics = VelocityVerlet(atoms, timestep={step:g} * units.fs)\n"
    return imports, body + f"dynamics.run({settings['steps']})\n"
