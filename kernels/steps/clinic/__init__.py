"""Kernels of the benchmark clinic: one that is wrong on purpose, and one that tunes itself."""
