"""Fuzzing of the command line: Hypothesis strategies that generate invalid input.

Each module generates one kind of input, as a ``harness.Case``: a command line and the files that it
finds. ``harness.run_case`` runs a case and reports how it ended.
"""
