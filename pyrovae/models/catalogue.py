"""Families, and how q(z | x) is found, by name, as they stand in YAML and on the command line."""

import inspect
from collections.abc import Mapping
from typing import Any

from ..declared import build_part, parse_declaration
from ..errors import InputError
from ..posteriors import POSTERIORS
from ..priors import PRIORS
from .autoencoder import Autoencoder
from .base import LatentVariableModel
from .base.refinement import INFERENCES
from .conditional import ConditionalVAE
from .hierarchical import HierarchicalVAE
from .mixture import MixtureVAE
from .pca import ProbabilisticPCA
from .semi_supervised import SemiSupervisedVAE
from .vae import VAE

__all__ = ["MODELS", "build_model", "check_declared"]

MODELS: dict[str, type[LatentVariableModel]] = {
    "vae": VAE,
    "autoencoder": Autoencoder,
    "ppca": ProbabilisticPCA,
    "hierarchical": HierarchicalVAE,
    "mixture": MixtureVAE,
    "conditional": ConditionalVAE,
    "semi_supervised": SemiSupervisedVAE,
}
"""Families by name."""

_CONTEXT = (
    "event_shape",
    "latent_dim",
    "likelihood",
    "encoder",
    "decoder",
    "missing",
    "prior",
    "posterior",
    "inference",
    "classifier",
    "condition",
    "condition_shape",
)
"""Arguments of families that are no settings of theirs, but options of a run."""

_OF_GUIDES = ("model", "encoder", "posterior", "event_shape", "missing")
"""Likewise, of what finds q(z | x)."""


def check_declared(
    model: Any, *, prior: Any = None, posterior: Any = None, inference: Any = "amortised"
) -> str:
    """Make sure that there are such parts and that they go together, without making any.

    Returns:
        The name of the family.

    Raises:
        InputError: if there is no such part, a setting is wrong, or the family takes no such part.
    """
    is_settled = isinstance(model, Mapping) and "num_classes" in model
    of_data = () if is_settled else ("num_classes",)  # which follows from them, if left out
    name, _ = parse_declaration("model", MODELS, model, *_CONTEXT, *of_data)
    taken = inspect.signature(MODELS[name]).parameters
    given = {"prior": prior, "posterior": posterior, "inference": inference}
    for part, declared in given.items():
        if part not in taken and declared not in (None, "amortised"):
            raise InputError(f"model {name!r} has its own {part}; leave {part} out")
    if prior is not None:
        parse_declaration("prior", PRIORS, prior, "latent_dim", "event_shape")
    if posterior is not None:
        parse_declaration("posterior", POSTERIORS, posterior, "latent_dim")
    is_counted = isinstance(inference, Mapping) and "num_data" in inference
    of_data = () if is_counted else ("num_data",)
    parse_declaration("inference", INFERENCES, inference, *_OF_GUIDES, *of_data)
    return name


def build_model(
    declared: str | Mapping[str, Any],
    *,
    event_shape: tuple[int, ...],
    latent_dim: int,
    prior: str | Mapping[str, Any] | None = None,
    posterior: str | Mapping[str, Any] | None = None,
    inference: str | Mapping[str, Any] = "amortised",
    **parts: Any,
) -> LatentVariableModel:
    """The model that words, or settings from YAML, mean, with new parameters.

    Arguments:
        declared: name of the family, or its settings with the name.
        event_shape: shape of one datum.
        latent_dim: number of latent dimensions.
        prior: p(z) likewise; that of the family, or of the posterior, unless given.
        posterior: q(z | x) likewise; that of the family unless given.
        inference: how q(z | x) is found.
        parts: ``likelihood``, ``encoder``, ``decoder`` and ``missing``, as families take them.

    Raises:
        InputError: as :func:`check_declared`, or if the parts do not fit together.

    >>> build_model("vae", event_shape=(3,), latent_dim=2, prior="mixture").sample(5).shape
    torch.Size([5, 3])
    """
    check_declared(declared, prior=prior, posterior=posterior, inference=inference)
    shape = {"latent_dim": latent_dim, "event_shape": event_shape}
    q = None if posterior is None else build_part("posterior", POSTERIORS, posterior, **shape)
    p = None if prior is None else build_part("prior", PRIORS, prior, **shape)
    return build_part(
        "model", MODELS, declared, prior=p, posterior=q, inference=inference, **shape, **parts
    )
