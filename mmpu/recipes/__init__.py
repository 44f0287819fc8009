"""Composition roots: configs become objects here, and nowhere else."""
