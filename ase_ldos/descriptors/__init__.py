"""What surrounds a point, as numbers that do not change when everything is rotated."""
