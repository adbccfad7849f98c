"""The programs, one file for each family."""

import importlib
import pkgutil

__all__ = ["load_all"]


def load_all() -> None:
    """Import all families, so that their programs are in the registry."""
    for family in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{family.name}")
