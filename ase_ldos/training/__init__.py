"""The training loop, its losses and batches, and the primitives that explain it."""
