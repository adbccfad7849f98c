"""The run-time type checker of the suite."""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""An int will do where a float is asked for, as for static checkers."""
