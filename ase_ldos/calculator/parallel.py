"""Rank 0 runs an ASE script, the other ranks share its calculations: for scripts started by torchrun.

    from ase_ldos.calculator.parallel import lead

    def dynamics(calculator):
        atoms.calc = calculator
        VelocityVerlet(atoms, timestep=1 * units.fs).run(1000)

    lead(dynamics, LDOSCalculator("be"))

``torchrun --nproc-per-node 4 script.py`` runs ``dynamics`` on rank 0; whatever it asks the calculator for, the other
ranks calculate their share of. Without torchrun the same script runs in one process.
"""

from __future__ import annotations

from collections.abc import Callable

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.communicator import Communicator
from ase_ldos.prediction.predict import fulfil_request
from ase_ldos.prediction.request import PredictionRequest, broadcast_end


def lead(main: Callable[[LDOSCalculator], None], calculator: LDOSCalculator) -> None:
    """Run ``main(calculator)`` on rank 0 while the other ranks wait for its requests; all return when it has ended.

    Every rank must call this with the same calculator. Where ``main`` fails, rank 0 raises its error, and the other
    ranks end with ``RankLostError``, as all do when a rank dies.

    Args:
        main: reads, moves and writes; only rank 0 calls it.
        calculator: gets the communicator.
    """
    communicator = Communicator.from_torchrun()
    calculator.communicator = communicator
    if communicator.is_root:
        main(calculator)
        if communicator.size > 1:
            broadcast_end(communicator)
    else:
        _serve(calculator, communicator)
    calculator.communicator = Communicator()
    communicator.close()


def _serve(calculator: LDOSCalculator, communicator: Communicator) -> None:
    """Do this rank's share of what rank 0 requests, until it sends no more."""
    while (request := PredictionRequest.receive(communicator)) is not None:
        try:
            fulfil_request(calculator.model, request, communicator=communicator)
        except ValueError:
            # it is about the input: rank 0 raises the same, and its caller decides what to do
            continue
