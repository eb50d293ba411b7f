"""Files of other programs: read, written, converted."""
