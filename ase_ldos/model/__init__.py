"""The model: what it is made of, its file, and how far its knowledge reaches."""
