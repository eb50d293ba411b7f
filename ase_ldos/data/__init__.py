"""Readers and writers of snapshots and data sets."""
