"""How fast the exact sweep is, beside hooks and other libraries: `make bench` (libraries: the extra "bench")."""
