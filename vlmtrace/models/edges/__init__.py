"""Nodes and edges of a model: what one node's output does that enters another node alone."""
