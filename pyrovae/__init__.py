"""Variational autoencoders, and any deep latent-variable model, as probabilistic programs in Pyro.

Names (listed in ``__init__.pyi``) are imported on first use, so that the command line answers
``--help`` without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
