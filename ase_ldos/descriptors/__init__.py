"""Descriptors of the surroundings of a point: one file each, one protocol."""
