"""Networks for encoders and decoders.

You make each one as ``Body(in_shape, out_shape)``. It accepts any batch shape on the left and ends
in a linear map, so its output can be any real numbers.
"""

from .conv import ConvDecoder, ConvEncoder
from .joint import Joint, concatenate, joint_network
from .mlp import MLP
from .residual import ResidualDecoder, ResidualEncoder, ResidualMLP
from .standardise import Standardise

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "Joint",
    "ResidualDecoder",
    "ResidualEncoder",
    "ResidualMLP",
    "Standardise",
    "concatenate",
    "joint_network",
]
