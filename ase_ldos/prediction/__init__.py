"""From a model and a structure to energies, density, DOS, forces and stress."""
