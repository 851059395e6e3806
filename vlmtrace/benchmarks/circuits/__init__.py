"""How well each method finds circuits that are known: `make circuit-benchmark`.

- `registry`: what a method of one's own has to be
- `edge_methods`, `node_methods`: those of this package, a small function each
- `truth`, `scores`: what is true in a planted model, and how well a table of scores ranks it
- `runs`: all methods on all models, part by part
- `report`, `figures`: tables and a figure of what was found
"""
