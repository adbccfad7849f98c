"""Variational autoencoders, and any deep latent-variable model, as probabilistic programs in Pyro.

Names are imported where they are first used (see ``__init__.pyi`` for the list), so that the
command line answers ``--help`` without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
