"""Pages and pictures that are made from the package itself, so that they cannot say something else than the code."""
