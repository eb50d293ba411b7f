"""A page to try, look at and hand on predictions: the server, its workers, the viewer and the one-file report."""
