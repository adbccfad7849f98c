"""Steps that are not finite: left out as if they had not been, or the last, and nothing is lost."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.utils.data import DataLoader

from pyrovae import InputError, fit
from pyrovae.errors import NotFinite
from pyrovae.infer import ELBO, SVI

OPTIMISERS: dict[str, Callable[..., Any]] = {
    "Adam": partial(Adam, lr=0.1),
    "fused Adam": partial(Adam, lr=0.1, fused=True),
    "AdamW": partial(AdamW, lr=0.1, weight_decay=0.1),
    "Adam with decay": partial(Adam, lr=0.1, weight_decay=0.1),
    "SGD with momentum": partial(SGD, lr=0.1, momentum=0.9),
}
GOOD = [torch.full((4, 2), float(i)) for i in range(12)]
BAD = torch.full((4, 2), torch.nan)
"""Of the same shape, as a graph is of one."""


def mean_of_data(x: Tensor) -> None:
    loc = pyro.param("loc", torch.ones(2))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False).to_event(1), obs=x)


def nothing(x: Tensor) -> None:
    pass


def of_pair(model: Callable[[Tensor], None] = mean_of_data, **options: Any) -> SVI:
    return SVI(model, nothing, loss=ELBO(), **({"optimiser": OPTIMISERS["Adam"]} | options))


def taken(svi: SVI, batches: list[Tensor]) -> Tensor:
    for x in batches:
        svi.step(x)
    return svi.pair.params()["loc"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "compile"),
    [*((name, False) for name in OPTIMISERS), ("AdamW", True), ("Adam with decay", True)],
)
def test_a_step_that_is_skipped_leaves_no_trace(name: str, compile: bool) -> None:
    options = {"optimiser": OPTIMISERS[name], "compile": compile, "non_finite": "skip"}
    with_bad = [GOOD[0], BAD, *GOOD[1:5], BAD, BAD, *GOOD[5:], BAD]
    svi = of_pair(**options)
    torch.testing.assert_close(
        taken(svi, with_bad), taken(of_pair(**options), GOOD), rtol=1e-6, atol=0
    )
    svi.check_finite()
    assert svi.num_skipped == 4
    assert svi.optimiser is not None
    (state,) = svi.optimiser.state.values()
    assert float(state.get("step", len(GOOD))) == len(GOOD)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_parameters_stay_what_they_were_before_the_step(compile: bool, accumulate: int) -> None:
    options: dict[str, Any] = {"compile": compile, "accumulate": accumulate}
    svi = of_pair(**options)
    with pytest.raises(NotFinite) as error:
        taken(svi, [*GOOD[:6], BAD, *GOOD * 20])
    assert error.value.step == 7
    assert torch.equal(svi.pair.params()["loc"], taken(of_pair(**options), GOOD[:6]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_what_is_accumulated_from_good_steps_counts() -> None:
    svi = of_pair(accumulate=2, non_finite="skip", optimiser=partial(SGD, lr=1.0))
    after = taken(svi, [GOOD[3], BAD])
    # The gradient (1 - 3) of the one batch.
    torch.testing.assert_close(after, torch.full((2,), 3.0))
    assert torch.equal(taken(svi, [BAD, BAD]), after)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_momentum_that_is_not_there_yet() -> None:
    """A fused optimiser allocates it in the first step, which is skipped."""
    options = {"optimiser": partial(SGD, lr=0.1, momentum=0.9, fused=True), "non_finite": "skip"}
    after = taken(of_pair(**options), [BAD, *GOOD])
    torch.testing.assert_close(after, taken(of_pair(**options), GOOD))


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("first", [1, 2])
def test_a_graph_whose_first_step_is_skipped(first: int) -> None:
    """In which it is compared with the program itself."""
    options: dict[str, Any] = {"compile": True, "non_finite": "skip"}
    batches = [*GOOD[:first], BAD, *GOOD[first:5]]
    after = taken(of_pair(**options), batches)
    torch.testing.assert_close(after, taken(of_pair(compile=False), GOOD[:5]), rtol=1e-6, atol=0)


def root_of_data(x: Tensor) -> None:
    """A finite density whose gradient is none, as that of a root at zero is."""
    loc = pyro.param("loc", torch.ones(2))
    root = torch.where(x == 0, (loc * x).sqrt(), loc * x)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(root, 1.0).to_event(1), obs=torch.ones_like(x))


@pytest.mark.parametrize("compile", [False, True])
def test_a_gradient_that_is_not_finite_is_noticed_though_the_loss_is(compile: bool) -> None:
    svi = of_pair(root_of_data, compile=compile)
    batches = [GOOD[1], GOOD[2], GOOD[3], GOOD[0]]  # of which the last holds zeros
    before = taken(of_pair(root_of_data, compile=compile), batches[:3])
    assert torch.equal(taken(svi, batches), before)
    with pytest.raises(NotFinite) as error:
        svi.check_finite()
    assert error.value.step == 4


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("compile", [False, True])
def test_running_means_of_a_skipped_step_are_those_before(compile: bool) -> None:
    def trained(batches: list[Tensor]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))

        def model(x: Tensor) -> None:
            pyro.module("network", network)
            p = dist.Normal(network(x), 1.0, validate_args=False).to_event(1)
            with pyro.plate("data", len(x)):
                pyro.sample("x", p, obs=x)

        svi = of_pair(model, compile=compile, non_finite="skip")
        for x in batches:
            svi.step(x)
        return {n: t for n, t in network.state_dict().items() if t.is_floating_point()}

    batches = [torch.randn(4, 2) for _ in range(8)]
    with_bad = trained([*batches[:4], BAD, *batches[4:]])
    torch.testing.assert_close(with_bad, trained(batches), rtol=1e-5, atol=1e-6)


class Counting(nn.Module):
    """Puts another tensor in place of its mean in each step from the third on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.num_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.num_calls += 1
        if self.num_calls > 2:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_means_that_are_replaced_and_begin_late() -> None:
    def trained(batches: list[Tensor]) -> Tensor:
        network = Counting()

        def model(x: Tensor) -> None:
            mean_of_data(network(x))

        svi = of_pair(model, non_finite="skip", compile=False)
        taken(svi, batches)
        return network.mean

    good = trained(GOOD[:6])
    assert good.isfinite().all()
    assert torch.equal(trained([*GOOD[:6], BAD]), good)
    network = Counting()
    options: dict[str, Any] = {"epochs": 1, "batch_size": 4, "shards": 2, "progress": False}
    with pytest.raises(InputError, match="puts another tensor in place of a buffer"):
        fit(lambda x: mean_of_data(network(x)), nothing, torch.cat(GOOD), **options)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_a_hundred_in_a_row_are_too_many() -> None:
    svi = of_pair(non_finite="skip")
    taken(svi, [*GOOD, *[BAD] * 90, *GOOD[:3], *[BAD] * 95])  # 200 steps
    with pytest.raises(NotFinite, match="the last 195 steps") as error:
        taken(svi, [BAD] * 100)
    assert error.value.step == 201


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_of_large_batches_fewer_are_kept_until_the_next_look() -> None:
    large = torch.full((2**20, 2), torch.nan)  # of 8 MiB
    svi = of_pair()
    for _ in range(8):
        svi.step(large)
    with pytest.raises(NotFinite):
        svi.step(large)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_figures_of_an_epoch_are_those_of_its_finite_batches() -> None:
    data = torch.cat([GOOD[1], BAD, GOOD[3]])
    with pyro.validation_enabled(False):
        history = fit(
            mean_of_data,
            nothing,
            DataLoader(data, 4),
            epochs=1,
            optimiser=partial(SGD, lr=0.0),
            non_finite="skip",
            progress=False,
        )
    assert history.num_skipped == 1
    of_each = -dist.Normal(1.0, 1.0).log_prob(torch.tensor([1.0, 3.0])) * 2
    assert history["loss"] == pytest.approx([of_each.mean().item()], rel=1e-6)
