"""The terms of the total free energy: one file each."""
