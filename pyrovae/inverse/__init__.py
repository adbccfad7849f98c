"""What is missing, blurred, noisy or too small, asked of a model: p(x | y) for y a part of x.

An *operator* says how y comes from x; it makes another likelihood p(y | z) of any p(x | z). A
*method* draws z from p(z | y).
"""

from .draws import Posterior
from .images import Blur, Downsample
from .linear import Linear
from .methods import METHODS, Method
from .operators import Mask, Noise, Operator
from .posterior import posterior

__all__ = [
    "METHODS",
    "Blur",
    "Downsample",
    "Linear",
    "Mask",
    "Method",
    "Noise",
    "Operator",
    "Posterior",
    "posterior",
]
