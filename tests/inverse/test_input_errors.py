"""The errors of posterior and of its result, raised before any work where that is possible."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pyrovae import VAE, InputError
from pyrovae.inverse import Blur, Downsample, Linear, Mask, Noise, posterior
from pyrovae.models.autoencoder import Autoencoder

from .families import ENDLESS, EXPOSURE, FAMILIES, NAN, NORMAL, Y


def test_an_autoencoder_is_refused() -> None:
    with pytest.raises(InputError, match="Autoencoder has no p"):
        Autoencoder((3,), 2, NORMAL).posterior(Y, method=ENDLESS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"y": torch.ones(2, 4)}, r"\(2, 4\); the model expects \(3,\)"),
        ({"y": torch.ones(3)}, r"give one of shape \(3,\) for each datum"),
        ({"y": torch.ones(2, 2, 3)}, r"give one of shape \(3,\) for each datum"),
        ({"y": torch.ones(0, 3)}, "are empty"),
        ({"y": torch.ones(2, 3) + 0j}, "complex"),
        ({"y": torch.tensor([[1.0, torch.inf, 0.0]])}, "infinite values, the first in datum 0"),
        ({"num_samples": 0}, "num_samples is 0; it must be 1 or more"),
        ({"batch_size": 0}, "batch_size is 0; it must be 1 or more"),
        ({"method": "gibs"}, "method cannot be 'gibs'"),
        ({"method": {"name": "refined", "steps": 3}}, "did you mean 'num_steps'"),
        ({"method": {"name": "refined", "num_steps": 0}}, "num_steps is 0"),
        ({"method": {"name": "refined", "lr": 0.0}}, "lr is 0.0"),
        ({"method": {"name": "refined", "posterior": "concrete"}}, "posterior cannot be"),
        ({"method": {"name": "importance", "proposal": "prior"}}, "proposal cannot be 'prior'"),
        ({"method": {"name": "importance", "num_proposals": 1}}, "num_proposals is 1"),
        ({"method": {"name": "pseudo_gibbs", "thin": 0}}, "thin is 0"),
        ({"method": {"name": "nuts", "target_acceptance": 1.0}}, "target_acceptance is 1.0"),
        ({"operator": Linear(torch.eye(3), 0.1)}, "missing .NaN. values, which Linear does not"),
        ({"operator": Linear(torch.eye(4), 0.1)}, "4 columns, for data of shape"),
        ({"operator": Downsample(2, 0.1)}, "Downsample needs images"),
        ({"operator": Blur(1.0, 0.1)}, "Blur needs images"),
        ({"operator": Noise(0.1, of="mean"), "method": "pseudo_gibbs"}, "x a function of z"),
        ({"given": (EXPOSURE,)}, "takes x and nothing else; got 1"),
    ],
)
def test_bad_arguments_are_refused(settings: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"y": Y, "method": ENDLESS} | settings
    given = arguments.pop("given", ())
    with pytest.raises(InputError, match=message):
        VAE((3,), 2, NORMAL).posterior(arguments.pop("y"), *given, **arguments)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "takes exposure with each datum: give it after x"),
        ((torch.ones(2),), r"has shape \(2,\); it needs a row for each of 3"),
        ((torch.ones(()),), r"has shape \(\); it needs a row"),
        ((torch.tensor([1.0, 1.0, -1.0]),), "exposures must be positive"),
    ],
)
def test_arguments_given_with_data_are_checked(given: tuple[Tensor, ...], message: str) -> None:
    make, y, _ = FAMILIES["exposures"]
    with pytest.raises(InputError, match=message):
        make().posterior(y, *given, method=ENDLESS, batch_size=2)
    if len(given) == 1:
        noisy = partial(make().posterior, y, *given, operator=Noise(0.1, of="mean"))
        with pytest.raises(InputError, match=message):
            noisy(method=ENDLESS, batch_size=2)


def test_observations_outside_the_support_are_refused() -> None:
    vae = VAE((3,), 2)
    y = torch.tensor([[1.0, NAN, 0.0], [0.0, 0.3, 1.0]])
    with pytest.raises(InputError, match=r"Bernoulli is of whole numbers, .* 0\.3 in datum 1"):
        vae.posterior(y, method=ENDLESS)
    with pytest.raises(InputError, match="Bernoulli is of whole numbers"):
        vae.posterior(y, operator=Mask(), method=ENDLESS)
    result = vae.posterior(y, operator=Noise(0.2), method="amortised", num_samples=5)
    assert set(result.x.unique().tolist()) <= {0.0, 1.0}
    make, counts, _ = FAMILIES["totals"]
    with pytest.raises(InputError, match="Binomial cannot have produced the observations"):
        make().posterior(counts, torch.ones(3), method=ENDLESS)


def test_log_prob_needs_complete_data_that_have_a_density() -> None:
    vae = VAE((3,), 2, NORMAL)
    result = vae.posterior(Y, method="amortised", num_samples=5)
    for x, message in (
        (torch.ones(2, 3), "one datum for each of 3 observations"),
        (torch.ones(6, 3), "one datum for each of 3 observations"),
        (torch.ones(3, 1), r"expects \(3,\)"),
        (Y, "missing"),
    ):
        with pytest.raises(InputError, match=message):
            result.log_prob(x)
    exact_operator = Linear(torch.eye(3)[:2], 0.0)
    result = vae.posterior(
        torch.ones(1, 2), operator=exact_operator, method="amortised", num_samples=5
    )
    with pytest.raises(InputError, match="x given y has no density without noise"):
        result.log_prob(torch.ones(1, 3))
    torch.testing.assert_close(result.x[..., :2], torch.ones(5, 1, 2))


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_densities_that_overflow_raise_an_error() -> None:
    far = torch.tensor([[1e20, NAN, 0.0], [0.0, 0.1, 0.2]])  # the square of the first overflows
    answer = partial(VAE((3,), 2, NORMAL).posterior, far, operator=Noise(0.1), num_samples=5)
    with pytest.raises(FloatingPointError, match=r"cannot draw from p\(z \| y\) for 1 of 2"):
        answer(method={"name": "importance", "proposal": "amortised", "num_proposals": 20})


def test_a_row_of_numbers_is_no_row_of_data() -> None:
    vae = VAE((1,), 2, "Normal")
    with pytest.raises(InputError, match=r"have shape \(5,\); give data along the first dimension"):
        posterior(vae.model, vae.guide, torch.ones(5))
