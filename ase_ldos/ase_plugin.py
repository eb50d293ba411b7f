"""Makes ASE list the calculator (entry point group ``ase.plugins``); loads neither torch nor the calculator itself."""

from __future__ import annotations

from typing import Any

try:
    from ase._4.plugins.plugin import CalculatorPlugin
except ImportError:  # ASE's plugins live in a private module, which may move
    __ase_plugins__: set[Any] = set()
else:
    __ase_plugins__ = {
        CalculatorPlugin(
            "ldos", citation="see CITATION.cff", implementation="ase_ldos.calculator.calculator.LDOSCalculator"
        )
    }
