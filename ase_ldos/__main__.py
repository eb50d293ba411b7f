"""``python -m ase_ldos`` and ``torchrun … -m ase_ldos``: the command ``ase-ldos``."""

import sys

from ase_ldos.cli.main import main

sys.exit(main())
