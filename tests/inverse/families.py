"""A small model of every kind, with incomplete observations and the arguments that go with them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyrovae import VAE, HierarchicalVAE, Likelihood, Mixed
from pyrovae.models.conditional import ConditionalVAE
from pyrovae.models.mixture import MixtureVAE
from pyrovae.models.pca import ProbabilisticPCA
from pyrovae.models.semi_supervised import SemiSupervisedVAE
from pyrovae.nn import MLP
from pyrovae.priors import FlowPrior, LearnedNormal, NormalMixture, VampPrior
from tests.posteriors.kinds import DISCRETE, KINDS, small_vae

body = partial(MLP, hidden=(6,))
NORMAL = {"family": "Normal", "scale": 0.6}
BODIES: dict[str, Any] = {"encoder": body, "decoder": body}
NAN = torch.nan
Y = torch.tensor([[0.3, NAN, -1.0], [NAN, NAN, NAN], [0.1, 0.2, 0.3]])
COUNTS = torch.tensor([[3.0, NAN, 1.0], [NAN, NAN, NAN], [0.0, 12.0, 2.0]])
EXPOSURE = torch.tensor([1.0, 2.0, 9.0])
ENDLESS = {"name": "refined", "num_steps": 10**9}
"""A method that never ends, to show that errors are raised before any work."""


def _vae(likelihood: Any = NORMAL, **settings: Any) -> VAE:
    return VAE((3,), 2, likelihood, **(BODIES | settings))


def _with_vamp_prior() -> VAE:
    vae = _vae(prior=VampPrior((3,), 4))
    vae.standardise(torch.randn(20, 3))
    return vae


Case = tuple[Callable[[], Any], Tensor, tuple[Tensor, ...]]

_FREE = {"name": "free", "num_data": 3, "num_steps": 4}

FAMILIES: dict[str, Case] = {
    **{f"{kind} posterior": (partial(small_vae, kind), Y, ()) for kind in KINDS},
    "learned prior": (lambda: _vae(prior=LearnedNormal(2)), Y, ()),
    "mixture prior": (lambda: _vae(prior=NormalMixture(2, 3)), Y, ()),
    "flow prior": (lambda: _vae(prior=FlowPrior(2)), Y, ()),
    "vamp prior": (_with_vamp_prior, Y, ()),
    "bottom-up": (
        lambda: HierarchicalVAE((3,), (3, 2), NORMAL, "bottom_up", hidden=(6,), **BODIES),
        Y,
        (),
    ),
    "top-down": (
        lambda: HierarchicalVAE((3,), (3, 2), NORMAL, "top_down", hidden=(6,), **BODIES),
        Y,
        (),
    ),
    "mixture": (lambda: MixtureVAE((3,), 2, 3, NORMAL, **BODIES), Y, ()),
    "conditional": (
        lambda: ConditionalVAE((3,), 2, NORMAL, num_classes=3, width=6, **BODIES),
        Y,
        (torch.tensor([0, 2, 1]),),
    ),
    "conditional with exposures": (
        lambda: ConditionalVAE(
            (3,), 2, Likelihood("Poisson", exposure=True), num_classes=3, width=6, **BODIES
        ),
        COUNTS,
        (torch.tensor([0, 2, 1]), EXPOSURE),
    ),
    "semi-supervised": (
        lambda: SemiSupervisedVAE((3,), 2, 3, NORMAL, width=6, **BODIES),
        Y,
        (torch.tensor([0, -1, 1]),),
    ),
    "ppca": (lambda: ProbabilisticPCA((3,), 2), Y, ()),
    "free": (lambda: _vae(inference=_FREE), Y, ()),
    "free with numbers": (lambda: _vae(inference=_FREE), Y, (torch.arange(3),)),
    "semi-amortised": (lambda: _vae(inference="semi_amortised"), Y, ()),
    "missing": (lambda: _vae(missing=True), Y, ()),
    "table": (
        lambda: _vae(
            Mixed(a="Normal", b="Bernoulli", c={"family": "Categorical", "num_classes": 3}),
            missing=True,
        ),
        torch.tensor([[0.3, NAN, 2.0], [NAN, NAN, NAN], [0.1, 1.0, 0.0]]),
        (),
    ),
    "exposures": (lambda: _vae(Likelihood("Poisson", exposure=True)), COUNTS, (EXPOSURE,)),
    "totals": (
        lambda: _vae(Likelihood("Binomial", total_count="data")),
        COUNTS,
        (torch.tensor([5.0, 2.0, 30.0]),),
    ),
}
"""A function that makes the model, y, and the arguments given with each datum."""

DISCRETE_LATENTS = {"mixture", "semi-supervised", "straight through posterior"} & FAMILIES.keys()
assert set(DISCRETE) == {"concrete", "straight through"}  # concrete is a relaxation, and continuous
