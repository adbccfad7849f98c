"""Steps that are not finite are skipped without a trace, or stop training with nothing lost."""

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
from pyrovae.infer.parallel.processes import Processes
from pyrovae.infer.parallel.shards import Shards

OPTIMISERS: dict[str, Callable[..., Any]] = {
    "Adam": partial(Adam, lr=0.1),
    "fused Adam": partial(Adam, lr=0.1, fused=True),
    "AdamW": partial(AdamW, lr=0.1, weight_decay=0.1),
    "Adam with decay": partial(Adam, lr=0.1, weight_decay=0.1),
    "SGD with momentum": partial(SGD, lr=0.1, momentum=0.9),
}
GOOD = [torch.full((4, 2), float(i)) for i in range(12)]
BAD = torch.full((4, 2), torch.nan)
"""Of the same shape as the others, since a graph holds for one shape."""


def mean_of_data(x: Tensor) -> None:
    loc = pyro.param("loc", torch.ones(2))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False).to_event(1), obs=x)


def empty_guide(x: Tensor) -> None:
    pass


def make_svi(model: Callable[[Tensor], None] = mean_of_data, **options: Any) -> SVI:
    pyro.clear_param_store()
    return SVI(model, empty_guide, loss=ELBO(), **({"optimiser": OPTIMISERS["Adam"]} | options))


def run_steps(svi: SVI, batches: list[Tensor]) -> Tensor:
    """The parameter after steps on these batches."""
    for x in batches:
        svi.step(x)
    return svi.pair.params()["loc"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "compile"),
    [*((name, False) for name in OPTIMISERS), ("AdamW", True), ("Adam with decay", True)],
)
def test_skipped_step_leaves_no_trace(name: str, compile: bool) -> None:
    options = {"optimiser": OPTIMISERS[name], "compile": compile, "non_finite": "skip"}
    with_bad = [GOOD[0], BAD, *GOOD[1:5], BAD, BAD, *GOOD[5:], BAD]
    svi = make_svi(**options)
    torch.testing.assert_close(
        run_steps(svi, with_bad), run_steps(make_svi(**options), GOOD), rtol=1e-6, atol=0
    )
    svi.check_finite()
    assert svi.num_skipped == 4
    assert svi.optimiser is not None
    (state,) = svi.optimiser.state.values()
    assert float(state.get("step", len(GOOD))) == len(GOOD)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_parameters_stay_as_before_the_bad_step(compile: bool, accumulate: int) -> None:
    options: dict[str, Any] = {"compile": compile, "accumulate": accumulate}
    svi = make_svi(**options)
    with pytest.raises(NotFinite) as error:
        run_steps(svi, [*GOOD[:6], BAD, *GOOD * 20])
    assert error.value.step == 7
    assert torch.equal(svi.pair.params()["loc"], run_steps(make_svi(**options), GOOD[:6]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_good_steps_count_in_an_accumulated_gradient() -> None:
    svi = make_svi(accumulate=2, non_finite="skip", optimiser=partial(SGD, lr=1.0))
    after = run_steps(svi, [GOOD[3], BAD])
    # One batch has the gradient 1 - 3.
    torch.testing.assert_close(after, torch.full((2,), 3.0))
    assert torch.equal(run_steps(svi, [BAD, BAD]), after)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_skip_before_momentum_is_allocated() -> None:
    """A fused optimiser allocates momentum in its first step, which is skipped here."""
    options = {"optimiser": partial(SGD, lr=0.1, momentum=0.9, fused=True), "non_finite": "skip"}
    after = run_steps(make_svi(**options), [BAD, *GOOD])
    torch.testing.assert_close(after, run_steps(make_svi(**options), GOOD))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("first", [1, 2])
def test_first_step_of_a_graph_is_skipped(first: int) -> None:
    """In that step, the graph is compared with the program itself."""
    options: dict[str, Any] = {"compile": True, "non_finite": "skip"}
    batches = [*GOOD[:first], BAD, *GOOD[first:5]]
    after = run_steps(make_svi(**options), batches)
    torch.testing.assert_close(
        after, run_steps(make_svi(compile=False), GOOD[:5]), rtol=1e-6, atol=0
    )


def root_of_data(x: Tensor) -> None:
    """A finite density without a finite gradient, because of a square root at zero."""
    loc = pyro.param("loc", torch.ones(2))
    root = torch.where(x == 0, (loc * x).sqrt(), loc * x)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(root, 1.0).to_event(1), obs=torch.ones_like(x))


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
def test_gradient_that_is_not_finite_is_detected_though_the_loss_is_finite(compile: bool) -> None:
    batches = [GOOD[1], GOOD[2], GOOD[3], GOOD[0]]  # the last holds zeros
    before = run_steps(make_svi(root_of_data, compile=compile), batches[:3])
    svi = make_svi(root_of_data, compile=compile)
    assert torch.equal(run_steps(svi, batches), before)
    with pytest.raises(NotFinite) as error:
        svi.check_finite()
    assert error.value.step == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("compile", [False, True])
def test_skipped_step_leaves_running_means_unchanged(compile: bool) -> None:
    def train(batches: list[Tensor]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))

        def model(x: Tensor) -> None:
            pyro.module("network", network)
            p = dist.Normal(network(x), 1.0, validate_args=False).to_event(1)
            with pyro.plate("data", len(x)):
                pyro.sample("x", p, obs=x)

        svi = make_svi(model, compile=compile, non_finite="skip")
        for x in batches:
            svi.step(x)
        return {n: t for n, t in network.state_dict().items() if t.is_floating_point()}

    batches = [torch.randn(4, 2) for _ in range(8)]
    with_bad = train([*batches[:4], BAD, *batches[4:]])
    torch.testing.assert_close(with_bad, train(batches), rtol=1e-5, atol=1e-6)


class ReplacesBuffer(nn.Module):
    """Replaces its buffer by a new tensor in each step from the third on."""

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
def test_buffer_that_is_replaced_in_later_steps() -> None:
    def train(batches: list[Tensor]) -> Tensor:
        network = ReplacesBuffer()

        def model(x: Tensor) -> None:
            mean_of_data(network(x))

        svi = make_svi(model, non_finite="skip", compile=False)
        run_steps(svi, batches)
        return network.mean

    good = train(GOOD[:6])
    assert good.isfinite().all()
    assert torch.equal(train([*GOOD[:6], BAD]), good)
    network = ReplacesBuffer()
    options: dict[str, Any] = {"epochs": 1, "batch_size": 4, "shards": 2, "progress": False}
    with pytest.raises(InputError, match="replaces a buffer by another tensor"):
        fit(lambda x: mean_of_data(network(x)), empty_guide, torch.cat(GOOD), **options)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("num_shards", [None, 1, 3])
@pytest.mark.parametrize("row", [0, 5])
def test_the_report_names_the_site_that_is_not_finite(row: int, num_shards: int | None) -> None:
    x = torch.ones(6, 2)
    x[row, 1] = torch.nan
    shards = None if num_shards is None else Shards(num_shards, Processes())
    svi = make_svi(shards=shards)
    svi.step(torch.ones(6, 2))
    svi.step(x)
    with pytest.raises(NotFinite, match="value observed at site 'x' of the model is NaN in 1 of"):
        svi.check_finite()
    svi = make_svi(shards=shards, transform=lambda numbers: x[numbers])
    svi.step(torch.arange(6).flip(0))
    with pytest.raises(NotFinite, match=f"for datum {row}, where the batch holds NaN in datum"):
        svi.check_finite()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_program_is_run_again_on_the_noise_of_the_step() -> None:
    """Here one draw in two is far too large."""

    def model(x: Tensor) -> None:
        coin = torch.rand(())
        drawn.append(coin.item())
        mean_of_data(x if coin < 0.5 else x + torch.inf)

    drawn: list[float] = []
    torch.manual_seed(1)
    svi = make_svi(model)
    run_steps(svi, GOOD)
    before = torch.get_rng_state()
    first = next(number for number, coin in enumerate(drawn) if coin >= 0.5)
    with pytest.raises(NotFinite, match="density of Normal at site 'x' of the model is") as error:
        svi.check_finite()
    assert error.value.step == first + 1
    assert drawn[-1] == drawn[first]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_a_hundred_bad_steps_in_a_row_stop_training() -> None:
    svi = make_svi(non_finite="skip")
    run_steps(svi, [*GOOD, *[BAD] * 90, *GOOD[:3], *[BAD] * 95])  # 200 steps
    with pytest.raises(NotFinite, match="the last 195 steps") as error:
        run_steps(svi, [BAD] * 100)
    assert error.value.step == 201


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_large_batches_are_checked_earlier() -> None:
    large = torch.full((2**20, 2), torch.nan)  # 8 MiB
    svi = make_svi()
    for _ in range(8):
        svi.step(large)
    with pytest.raises(NotFinite):
        svi.step(large)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
def test_epoch_means_are_over_its_finite_batches() -> None:
    data = torch.cat([GOOD[1], BAD, GOOD[3]])
    with pyro.validation_enabled(False):
        history = fit(
            mean_of_data,
            empty_guide,
            DataLoader(data, 4),
            epochs=1,
            optimiser=partial(SGD, lr=0.0),
            non_finite="skip",
            progress=False,
        )
    assert history.num_skipped == 1
    losses = -dist.Normal(1.0, 1.0).log_prob(torch.tensor([1.0, 3.0])) * 2
    assert history["loss"] == pytest.approx([losses.mean().item()], rel=1e-6)
