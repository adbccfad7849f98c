"""Pictures of a run as matplotlib Figures.

The functions take arrays, not models, and use no global pyplot state.
"""

from .comparisons import reconstructions, restorations, samples
from .curves import training_curves
from .images import Limits, gallery, image_grid, is_image
from .latents import latent_space, manifold, traversals

__all__ = [
    "Limits",
    "gallery",
    "image_grid",
    "is_image",
    "latent_space",
    "manifold",
    "reconstructions",
    "restorations",
    "samples",
    "training_curves",
    "traversals",
]
