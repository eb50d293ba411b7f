"""From a structure to a model: set-up, sampling, labels, training, exploration, a report."""
