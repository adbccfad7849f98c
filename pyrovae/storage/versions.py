"""Versions of the packages that affect results, for files to record."""

import platform
from importlib.metadata import version

__all__ = ["describe_versions", "versions"]


def versions() -> dict[str, str]:
    """The versions of pyrovae, torch and Pyro."""
    return {name: version(name) for name in ("pyrovae", "torch", "pyro-ppl")}


def describe_versions() -> str:
    """The versions of pyrovae, Python, torch and Pyro, in a line."""
    found = versions()
    return (
        f"pyrovae {found['pyrovae']} (Python {platform.python_version()}, "
        f"torch {found['torch']}, Pyro {found['pyro-ppl']})"
    )
