"""What the model families share: their base class and the Pyro programs behind it."""

from .generative import DeepLatentModel, GenerativeModel, Layer
from .model import Body, LatentVariableModel, build_network
from .recognition import AmortisedGuide, RecognitionModel, encoder_input_shape

__all__ = [
    "AmortisedGuide",
    "Body",
    "DeepLatentModel",
    "GenerativeModel",
    "LatentVariableModel",
    "Layer",
    "RecognitionModel",
    "build_network",
    "encoder_input_shape",
]
