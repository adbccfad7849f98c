"""Versions of the packages that affect results, for files to record."""

from importlib.metadata import version

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """The versions of pyrovae, torch and Pyro."""
    return {name: version(name) for name in ("pyrovae", "torch", "pyro-ppl")}
