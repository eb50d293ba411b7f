"""The SE(3)-equivariant graph network."""
