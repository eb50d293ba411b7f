"""The viewer in a cell of a Jupyter notebook, offline: ``calc.view(atoms)``."""

from __future__ import annotations

import html

from ase import Atoms

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.web.standalone import standalone_page
from ase_ldos.web.view_document import view_document


class NotebookView:
    """A whole page that Jupyter shows in a frame of its own: neither can reach into the other.

    Args:
        page: from ``standalone_page``.
        height: of the frame, pixels.
    """

    def __init__(self, page: str, height: int) -> None:
        self.page, self.height = page, height

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="ase-ldos viewer" sandbox="allow-scripts allow-downloads" width="100%" '
            f'height="{self.height}" style="border:0" srcdoc="{html.escape(self.page)}"></iframe>'
        )


def view(calculator: LDOSCalculator, atoms: Atoms, *, height: int = 820) -> NotebookView:
    """Predict the atoms if need be and show them; see ``LDOSCalculator.view``."""
    return NotebookView(standalone_page([view_document(atoms, calculator)]), height)
