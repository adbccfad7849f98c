"""Checks of arguments: each returns the value in its plain form, or raises an InputError.

The message names the argument, its value and what was expected, as in ``latent_dim is 0; it must be
1 or more``. Public functions call these checks before any work. Names are imported on first use, so
that checks of numbers and words do not load torch; see ``__init__.pyi`` for the list.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
