"""Structures worth calculating, and what is done with a calculator."""
