"""The run-time type checker of the test suite."""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Accepts an int for a float, as static type checkers do."""
