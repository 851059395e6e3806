"""Methods: one room each, with its computation, figures, notebook explorers and view; see each room's docstring."""
