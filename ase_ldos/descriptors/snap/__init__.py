"""SNAP, the bispectrum in LAMMPS' convention."""
