"""What ASE's tools ask a calculator of bands for, and what a calculator of the LDOS answers: no, but.

The model predicts the local density of states as a whole. It has no k-points, no eigenvalues and no wave functions, and
none are made up.
"""

from __future__ import annotations

from typing import NoReturn

from ase.calculators.calculator import PropertyNotImplementedError

_DOS = "get_dos() gives the density of states"
_LDOS = "get_ldos() gives the local density of states, get_local_density(window) its integral over energies"


class NoBands:
    """The methods of ASE's tools for bands (``DOS``, ``STM``, ``BandStructure``, …), each with what to call instead."""

    def get_eigenvalues(self, kpt: int = 0, spin: int = 0) -> NoReturn:  # noqa: ARG002
        """Not available: see ``get_dos``."""
        raise _refusal("eigenvalues", _DOS)

    def get_occupation_numbers(self, kpt: int = 0, spin: int = 0) -> NoReturn:  # noqa: ARG002
        """Not available: see ``get_dos``."""
        raise _refusal("occupation numbers", _DOS)

    def get_number_of_bands(self) -> NoReturn:
        """Not available: see ``get_local_density``."""
        raise _refusal("bands", _LDOS)

    def get_pseudo_wave_function(
        self,
        band: int = 0,  # noqa: ARG002
        kpt: int = 0,  # noqa: ARG002
        spin: int = 0,  # noqa: ARG002
        broadcast: bool = True,  # noqa: ARG002
        pad: bool = True,  # noqa: ARG002
    ) -> NoReturn:
        """Not available: see ``get_ldos``."""
        raise _refusal("wave functions", _LDOS)

    def get_k_point_weights(self) -> NoReturn:
        """Not available: see ``get_dos``."""
        raise _refusal("k-points", _DOS)

    def get_ibz_k_points(self) -> NoReturn:
        """Not available: see ``get_dos``."""
        raise _refusal("k-points", _DOS)

    def get_bz_k_points(self) -> NoReturn:
        """Not available: see ``get_dos``."""
        raise _refusal("k-points", _DOS)

    def get_bz_to_ibz_map(self) -> NoReturn:
        """Not available: see ``get_dos``."""
        raise _refusal("k-points", _DOS)

    def band_structure(self) -> NoReturn:
        """Not available: see ``get_dos``."""
        raise _refusal("bands", f"{_DOS}; {_LDOS}")


def _refusal(what: str, instead: str) -> PropertyNotImplementedError:
    return PropertyNotImplementedError(f"a model of the local density of states has no {what}; {instead}")
