"""Versions of what numbers depend on, as files record them."""

from importlib.metadata import version

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Those of this package, of torch and of Pyro."""
    return {name: version(name) for name in ("pyrovae", "torch", "pyro-ppl")}
