"""Robustness of runs: invalid input on the command line, and processes killed at random."""
