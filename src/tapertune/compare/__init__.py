"""Grids of runs: methods by tasks by seeds by learning rates, into a store that any number of processes share."""
