"""Structures, grids, neighbours and blocks of grid points: where things are, and nothing of what they mean."""
