"""From labels to a model, and how good it is."""
