"""The base class of all model families."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from ...arguments import (
    TensorLike,
    as_data,
    as_flag,
    as_instance,
    as_path,
    as_tensor,
    as_whole,
    describe,
)
from ...data.description import DataDescription
from ...data.memory import check_fits_memory
from ...described import Described
from ...errors import InputError
from ...likelihoods.support import check_values
from ...storage import weights
from .generative import GenerativeModel, Layer
from .new_data import NewData
from .recognition import RecognitionModel
from .saved import WEIGHTS, Description

__all__ = ["Given", "LatentVariableModel"]

Given = Mapping[str, Tensor] | None
"""Tensors that the likelihood takes besides the decoder's output, by name."""


class LatentVariableModel(Described, NewData):
    """A generative model p(x, z) and an amortised guide q(z | x), assembled from parts.

    ``model`` and ``guide`` are ordinary Pyro functions of the data. They are also ``nn.Module``s,
    with parameters that belong to this pair alone. Train them with :func:`pyrovae.fit`, with
    ``pyro.infer.SVI(m.model, m.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())``, or with a
    ``torch.optim`` optimiser on the parameters of ``Trace_ELBO()(m.model, m.guide)``.

    Attributes:
        event_shape: shape of one datum.
        model: p(x, z).
        guide: q(z | x).
        about: what is known of the data that it was trained on, if it was opened from a file.
    """

    about: DataDescription | None = None

    has_prior: ClassVar[bool] = True
    """Whether you can draw latents from p(z)."""
    objective: ClassVar[str] = "elbo"
    """The default training objective."""

    num_conditions: ClassVar[int] = 0
    """Number of arguments of ``model`` between x and the tensors that the likelihood takes."""

    event_shape: tuple[int, ...]
    model: GenerativeModel
    guide: RecognitionModel

    @property
    def likelihood(self) -> Layer:
        """p(x | z) as a function of the decoder's output."""
        return self.model.likelihood

    def save(self, path: str | Path) -> Path:
        """Save the model in a folder, from which :func:`pyrovae.open` opens it anywhere.

        Arguments:
            path: the folder, which is created; files of an earlier model in it are replaced.

        Returns:
            The folder.

        Raises:
            InputError: if the model has parts that a file cannot keep, such as a network of your
                own, or the folder cannot be written to.

        Example:
            >>> import tempfile
            >>> from pyrovae import VAE
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     sorted(each.name for each in VAE((3,), 2).save(folder).iterdir())
            ['description.json', 'model.safetensors']
        """
        folder = as_path("path", path)
        dtype = self.guide.standardise.loc.dtype
        Description(self.describe(), dtype, self.about).write(folder)
        weights.write(folder / WEIGHTS, self, {})
        return folder

    def as_latent(self, z: TensorLike, shape: tuple[int, ...], name: str = "z") -> Tensor:
        """Latents z as a tensor of the model's type and device, after a check of their shape.

        Raises:
            InputError: if z are no real numbers, or have another shape.
        """
        like = self.guide.standardise.loc
        latent = as_tensor(name, z, like=like)
        first = latent.ndim - len(shape)
        if first < 0 or tuple(latent.shape[first:]) != shape:
            raise InputError(
                f"{name} has shape {tuple(latent.shape)}; the model expects {shape} for each datum"
            )
        weights = next(self.model.decoder.parameters(), like)
        return latent.to(like.dtype) if weights.dtype == like.dtype else latent

    def as_number(self, num: Any, name: str = "num") -> int:
        """A number of draws, after a check that they fit into memory.

        Raises:
            InputError: if it is no whole number of 1 or more, or too large.
        """
        number = as_whole(name, num, 1)
        check_fits_memory(4 * number * prod(self.event_shape), f"{number:,} draws", f"lower {name}")
        return number

    def check_given(self, given: Given) -> None:
        """Check what a likelihood takes besides the decoder's output.

        Raises:
            InputError: if it is no mapping from its names to tensors.
        """
        if given is None:
            return
        as_instance("given", given, Mapping, "a mapping from names to tensors, or None")
        known = (*self.likelihood.likelihood.given, "total_count")
        for key, value in given.items():
            if key not in known or not isinstance(value, Tensor):
                raise InputError(
                    f"given has {describe(key)}: {describe(value)}; it maps "
                    f"{', '.join(known)} to tensors"
                )

    def standardise(self, x: TensorLike, *given: TensorLike) -> None:
        """Learn the units of the data from training data x. Call it before training.

        The encoder then takes numbers of order one, and learned locations and scales are in these
        units; log p(x | z) remains the density of x in its own units. Tables are standardised
        column by column. Images and other arrays get one mean and one standard deviation for all
        features; otherwise nearly constant pixels would dominate. Binary data are left unchanged.
        Missing entries are ignored.

        Raises:
            InputError: if x have another shape, or infinite values.
        """
        like = self.guide.standardise.loc
        x = as_data("x", x, self.event_shape, like=like, batch_dims=1)
        given = self.as_given(given, x)
        check_values(x, self.event_shape, missing=True)
        self.likelihood.set_typical(self.likelihood.given_with(x, *given))
        x = x.double()
        if bool(((x == 0) | (x == 1) | x.isnan()).all()):
            return
        features = 0 if len(self.event_shape) == 1 else tuple(range(x.ndim))
        loc = x.nanmean(features).nan_to_num(0.0)
        scale = (x - loc).square().nanmean(features).sqrt()
        scale = torch.where(scale > 0, scale, 1.0)
        self.guide.standardise.set(loc, scale)
        self.likelihood.set_units(loc, scale)

    def embed(self, x: TensorLike, *given: TensorLike) -> Float[Tensor, "*batch code"]:
        """A point of the latent space that represents x: the mean of q(z | x) if it is known."""
        raise NotImplementedError

    def draw(
        self, num: int, *given: TensorLike
    ) -> tuple[Float[Tensor, "num code"], Float[Tensor, "..."]]:
        """Draw latents from the prior; return them and the decoder's output for them."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(
        self, num_samples: int, *given: TensorLike, mean: bool = False
    ) -> Num[Tensor, "..."]:
        """Draw from p(x): z from the prior, then x from p(x | z), or the mean of x if ``mean``.

        The samples have shape ``(num_samples, *event_shape)``.

        Raises:
            InputError: if num_samples is below 1, or the samples would not fit into memory.
        """
        mean = as_flag("mean", mean)
        num_samples = self.as_number(num_samples, "num_samples")
        _, eta = self.draw(num_samples, *given)
        return self.likelihood.mean(eta) if mean else self.likelihood(eta).sample()
