"""Draw the pictures of a run from its trained model and its data."""

from contextlib import suppress
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ..errors import InputError
from ..models import VAE
from . import plots
from .trained import EVALUATION_BATCH, Trained, apply_in_chunks

__all__ = ["draw_pictures", "draw_reconstructions", "draw_samples"]

_NUM_IMAGES = 64
_NUM_TRAVERSALS = 10
_PRIOR_DRAWS = 10_000
"""Number of draws of the prior, for the range of each latent."""


def draw_pictures(trained: Trained) -> None:
    """Draw all pictures that this model has."""
    family, test = trained.family, trained.data.test
    draw_reconstructions(trained)
    codes = apply_in_chunks(family.embed, *test.parts, device=trained.device).flatten(1)
    if family.has_prior:
        _draw_from_prior(trained, codes)
    # Last, so that a run with this picture is known to be finished.
    figure = plots.latent_space(codes, test.y, trained.data.classes)
    trained.run.write_figure("latent_space", figure)


def _draw_from_prior(trained: Trained, codes: Float[Tensor, "num latent"]) -> None:
    """Draw samples, and the effect of each latent on images."""
    family, test = trained.family, trained.data.test
    is_image = plots.is_image(family.event_shape)
    torch.manual_seed(trained.config.seed)
    _, drawn, means, _ = trained.draw(_NUM_IMAGES if is_image else max(len(test), 500))
    draw_samples(trained, drawn, means)
    if is_image and isinstance(family, VAE):
        _draw_latents(trained, family, codes)


def draw_reconstructions(trained: Trained) -> None:
    """Draw test data and their reconstructions."""
    is_image = plots.is_image(trained.family.event_shape)
    rows = trained.test_rows[: _NUM_IMAGES if is_image else EVALUATION_BATCH]
    mean = trained.family.reconstruct(rows).cpu()
    figure = plots.reconstructions(rows.x.float(), mean, _limits(trained), trained.about.features)
    trained.run.write_figure("reconstructions", figure)


def draw_samples(trained: Trained, drawn: Tensor, means: Tensor) -> None:
    """Draw samples from the model; those of tables beside test data, if the data are there.

    Arguments:
        trained: the model and its data.
        drawn: draws from p(x).
        means: E[x | z] at the same latents.
    """
    is_image = plots.is_image(trained.family.event_shape)
    x = None
    if not is_image:
        with suppress(InputError):  # the data were moved or changed
            x = trained.data.test.x.float()
    shown = means[:_NUM_IMAGES] if is_image else drawn
    figure = plots.samples(x, shown, _limits(trained), trained.about.features)
    trained.run.write_figure("samples", figure)


@torch.no_grad()
def _draw_latents(trained: Trained, vae: VAE, codes: Float[Tensor, "num latent"]) -> None:
    """Draw the effect of each latent on the image, or a grid over the plane of two latents."""
    draws = vae.model.prior().sample((_PRIOR_DRAWS,)).cpu()
    if draws.ndim != 2 or draws.shape[1] < 2:
        return
    decode = partial(apply_in_chunks, vae.decode_mean, device=trained.device)
    if draws.shape[1] == 2:
        figure = plots.manifold(decode, draws, _limits(trained))
        trained.run.write_figure("manifold", figure)
        return
    use, unit = _measure_use(trained, vae, codes)
    order = use.argsort(descending=True)[:_NUM_TRAVERSALS].tolist()
    labels = [f"$z_{{{d + 1}}}$  {use[d]:.2f} {unit}" for d in order]
    spread = draws.mean(0), draws.std(0)
    figure = plots.traversals(decode, codes[0], order, labels, spread, _limits(trained))
    trained.run.write_figure("traversals", figure)


def _measure_use(trained: Trained, vae: VAE, codes: Tensor) -> tuple[Float[Tensor, "latent"], str]:
    """Return how much the model uses each latent, and the unit.

    This is the mean KL of each latent if q and the prior are fully factorised normals, and the
    variance of the posterior means otherwise.
    """
    x = trained.data.test.parts
    q, p = vae.q(*(part[:1].to(trained.device) for part in x)), vae.model.prior()
    factors = (getattr(each, "base_dist", None) for each in (q, p))
    if not all(isinstance(each, Normal) for each in factors):
        return codes.var(0), "variance of means"

    def kl(*parts: Tensor) -> Tensor:
        return kl_divergence(vae.q(*parts).base_dist, vae.model.prior().base_dist)

    return apply_in_chunks(kl, *x, device=trained.device).mean(0), "nats"


def _limits(trained: Trained) -> tuple[float, float]:
    """Return the values of a black and of a white pixel in the prepared data."""
    about = trained.about
    if about.binarise != "none":
        return 0.0, 1.0
    if about.levels is not None:
        return 0.0, about.levels
    lowest, highest = about.limits or (0.0, 1.0)
    return min(0.0, lowest), max(1.0, highest)
