"""From the local density of states to the free energy: one idea, one file; the formulas are in README.md here."""
