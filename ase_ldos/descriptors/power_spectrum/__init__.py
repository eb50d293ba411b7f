"""The smooth power spectrum."""
