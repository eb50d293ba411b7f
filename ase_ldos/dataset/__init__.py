"""Labelled structures and their files."""
