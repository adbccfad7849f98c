"""What the model families share: their base class and the Pyro programs behind it."""

from ...nn.build import Body
from .generative import DeepLatentModel, GenerativeModel, Layer
from .model import LatentVariableModel
from .parts import (
    Part,
    build_decoder,
    build_encoder,
    build_joint_encoder,
    build_posterior,
    build_prior,
)
from .recognition import AmortisedGuide, RecognitionModel, encoder_input_shape
from .results import Encoding, Prediction

__all__ = [
    "AmortisedGuide",
    "Body",
    "DeepLatentModel",
    "Encoding",
    "GenerativeModel",
    "LatentVariableModel",
    "Layer",
    "Part",
    "Prediction",
    "RecognitionModel",
    "build_decoder",
    "build_encoder",
    "build_joint_encoder",
    "build_posterior",
    "build_prior",
    "encoder_input_shape",
]
