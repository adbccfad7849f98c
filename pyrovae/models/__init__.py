"""Model families: pairs of a model p(x, z) and a guide q(z | x), wired with ``pyro.sample``."""

from .vae import VAE

__all__ = ["VAE"]
