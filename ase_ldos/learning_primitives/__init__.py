"""Small problems that explain the method; clients of the training loop."""
