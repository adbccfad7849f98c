"""Bodies of encoders and decoders: networks from one shape to another.

Each body is called as ``Body(in_shape, out_shape)``, leaves any batch shape on the left alone,
and ends in a linear map, so that its output may be any real numbers.
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
