"""Model families: pairs of a Pyro model p(x, z) and a Pyro guide q(z | x)."""

from .autoencoder import Autoencoder
from .base import Encoding, LatentVariableModel, Prediction
from .conditional import ConditionalVAE
from .hierarchical import HierarchicalVAE
from .mixture import MixtureVAE
from .pca import ProbabilisticPCA
from .semi_supervised import SemiSupervisedVAE
from .vae import VAE

__all__ = [
    "VAE",
    "Autoencoder",
    "ConditionalVAE",
    "Encoding",
    "HierarchicalVAE",
    "LatentVariableModel",
    "MixtureVAE",
    "Prediction",
    "ProbabilisticPCA",
    "SemiSupervisedVAE",
]
