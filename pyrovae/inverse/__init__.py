"""Inverse problems: draw from p(x | y), where y is x with entries missing, blurred, noisy or small.

An *operator* defines p(y | x), and turns the likelihood p(x | z) of a model into p(y | z). A
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
