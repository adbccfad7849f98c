"""Build a model from the names and settings that YAML files and the command line give."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from ..declared import build_part, describe_settings, parse_declaration
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

__all__ = ["MODELS", "build_model", "check_declared", "list_parts"]

MODELS: dict[str, type[LatentVariableModel]] = {
    "vae": VAE,
    "autoencoder": Autoencoder,
    "ppca": ProbabilisticPCA,
    "hierarchical": HierarchicalVAE,
    "mixture": MixtureVAE,
    "conditional": ConditionalVAE,
    "semi_supervised": SemiSupervisedVAE,
}
"""Model families by name."""

_RUN_OPTIONS = (
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
"""Arguments of families that are options of a run, not settings of the family."""

_GUIDE_CONTEXT = ("model", "encoder", "posterior", "event_shape", "missing")
"""Arguments of guides that the family gives, so they are not settings of the inference."""


def list_parts() -> Iterator[tuple[str, str, list[str]]]:
    """The option, name and settings of every part that a model is built from."""
    catalogues: list[tuple[str, Mapping[str, Any], tuple[str, ...]]] = [
        ("model", MODELS, _RUN_OPTIONS),
        ("prior", PRIORS, ("latent_dim", "event_shape")),
        ("posterior", POSTERIORS, ("latent_dim",)),
        ("inference", INFERENCES, _GUIDE_CONTEXT),
    ]
    for option, catalogue, context in catalogues:
        for name, builder in catalogue.items():
            settings = describe_settings(builder, *context)
            for from_data in ("num_classes", "num_data"):
                required, default = f"{from_data} (required)", f"{from_data} (from the data)"
                settings = [default if each == required else each for each in settings]
            yield option, name, settings


def check_declared(
    model: Any, *, prior: Any = None, posterior: Any = None, inference: Any = "amortised"
) -> str:
    """Check that the declared parts exist and fit together, without building them.

    Returns:
        The name of the family.

    Raises:
        InputError: if a part does not exist, a setting is wrong, or the family does not take a
            part.
    """
    # The data determine num_classes and num_data if they are left out.
    has_num_classes = isinstance(model, Mapping) and "num_classes" in model
    from_data = () if has_num_classes else ("num_classes",)
    name, _ = parse_declaration("model", MODELS, model, *_RUN_OPTIONS, *from_data)
    taken = inspect.signature(MODELS[name]).parameters
    given = {"prior": prior, "posterior": posterior, "inference": inference}
    for part, declared in given.items():
        if part not in taken and declared not in (None, "amortised"):
            raise InputError(f"model {name!r} has its own {part}; leave {part} out")
    if prior is not None:
        parse_declaration("prior", PRIORS, prior, "latent_dim", "event_shape")
    if posterior is not None:
        parse_declaration("posterior", POSTERIORS, posterior, "latent_dim")
    has_num_data = isinstance(inference, Mapping) and "num_data" in inference
    from_data = () if has_num_data else ("num_data",)
    parse_declaration("inference", INFERENCES, inference, *_GUIDE_CONTEXT, *from_data)
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
    """Build a model, with new parameters, from names or settings.

    Arguments:
        declared: name of the family, or settings with the name.
        event_shape: shape of one datum.
        latent_dim: number of latent dimensions.
        prior: p(z), as a name or settings; by default the prior of the family or the posterior.
        posterior: q(z | x), as a name or settings; by default the posterior of the family.
        inference: how to find q(z | x), as a name or settings.
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
