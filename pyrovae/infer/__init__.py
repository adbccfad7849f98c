"""Inference for any Pyro model and guide: nothing in this package is specific to VAEs.

Names are imported where they are first used; see ``__init__.pyi`` for the list.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
