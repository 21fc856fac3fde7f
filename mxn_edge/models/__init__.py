"""Weights that mxn-edge's own tools trained, with their model card."""
