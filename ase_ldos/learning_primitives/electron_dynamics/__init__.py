"""Electrons that move: the one-dimensional Kohn-Sham equation in time, solved, and learned in two ways."""
