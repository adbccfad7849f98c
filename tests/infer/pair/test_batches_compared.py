"""What a pair makes of a batch: plates without a size, rows of parameters, scales of the user's."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI as PyroSVI
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import InputError, evaluate, fit
from pyrovae.infer import ELBO, SVI, Pair
from pyrovae.infer.estimators.importance import importance_sample
from pyrovae.infer.pair.positional import find_positional_parameters
from pyrovae.infer.pair.scaling import find_scaled_sites

X = torch.randn(60, generator=torch.Generator().manual_seed(0)) + 2
NUM = len(X)
QUIET = {"progress": False, "compile": False}

Plate = Callable[[Tensor], Any]


def sized(x: Tensor) -> Any:
    return pyro.plate("data", len(x))


def unsized(x: Tensor) -> Any:
    return pyro.plate("data")


def normal_pair(plate: Plate = sized, **scales: Callable[[Tensor], Any]) -> tuple[Any, Any]:
    """z ~ N(0, 1), x ~ N(b + z, 1); ``scales`` by the name of the site."""

    def scale(name: str, x: Tensor) -> Any:
        return pyro.poutine.scale(scale=scales[name](x) if name in scales else 1.0)

    def model(x: Tensor) -> None:
        b = pyro.param("b", torch.tensor(0.0))
        with plate(x):
            with scale("z", x):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            with scale("x", x):
                pyro.sample("x", dist.Normal(b + z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        a = pyro.param("a", torch.tensor(0.0))
        with plate(x), scale("z", x):
            pyro.sample("z", dist.Normal(a + 0.3 * x, 0.7))

    return model, guide


@pytest.mark.parametrize("objective", ["elbo", "iwae", "beta", "dreg", "rws", "wake_sleep"])
def test_plates_without_a_size_train_as_those_with_one(objective: Any) -> None:
    ends = []
    for plate in (sized, unsized):
        pyro.clear_param_store()
        torch.manual_seed(1)
        history = fit(
            *normal_pair(plate), X, epochs=3, lr=0.05, batch_size=25, objective=objective, **QUIET
        )
        ends.append((history["loss"], history.params["a"].tolist()))
    assert ends[0] == ends[1]


def test_plates_without_a_size_have_the_same_log_likelihood() -> None:
    ends = [importance_sample(*normal_pair(plate), X, num_samples=50) for plate in (sized, unsized)]
    torch.testing.assert_close(ends[0].log_likelihood, ends[1].log_likelihood)


def test_a_site_without_data_in_a_plate_without_a_size_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(pyro.param("a", torch.tensor(0.0)), 1.0))

    with pytest.raises(InputError, match="'data' has no size, and a site in it has no dimension"):
        evaluate(model, guide, X)


class TestPositional:
    """Rows that belong to places in a batch, and rows that belong to numbers."""

    @staticmethod
    def by_place(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.randn(len(x)))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.7))

    @staticmethod
    def by_number(x: Tensor, number: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.randn(NUM), event_dim=0)
        with pyro.plate("data", NUM, subsample=number):
            pyro.sample("z", dist.Normal(loc[number], 0.7))

    def test_found(self) -> None:
        model, guide = normal_pair()
        for args, one in (((X,), self.by_place), ((X[:20],), self.by_place), ((X,), guide)):
            found = find_positional_parameters(Pair(model, one), args, "data")
            assert found == (["loc"] if one is self.by_place else [])
        assert not len(pyro.get_param_store())

    def test_found_in_columns_and_autoguides(self) -> None:
        model, _ = normal_pair()

        def in_columns(x: Tensor) -> None:
            loc = pyro.param("loc", lambda: torch.randn(2, len(x)))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc.sum(0), 0.7))

        assert find_positional_parameters(Pair(model, in_columns), (X,), "data") == ["loc"]
        autos = ((AutoNormal, 2), (AutoDelta, 1), (AutoDiagonalNormal, 2))
        for auto, names in (*autos, (AutoMultivariateNormal, 2)):
            guide = auto(pyro.poutine.block(model, hide=["x"]))
            assert len(find_positional_parameters(Pair(model, guide), (X,), "data")) == names

    def test_found_beside_latents_that_all_data_share(self) -> None:
        """One vector holds the latents of all data, and one that each datum depends on."""

        def hierarchy(x: Tensor) -> None:
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(mean, 1.0))
                pyro.sample("x", dist.Normal(z + mean, 1.0), obs=x)

        guide = AutoDiagonalNormal(hierarchy)
        assert len(find_positional_parameters(Pair(hierarchy, guide), (X,), "data")) == 2

    def test_tables_and_networks_are_told_apart(self) -> None:
        model, _ = normal_pair()
        net = nn.Linear(1, NUM)

        def guide(x: Tensor, number: Tensor) -> None:
            pyro.module("net", net)
            table = pyro.param("table", lambda: torch.randn(NUM, 2))
            with pyro.plate("data", len(x)):
                loc = table[number].sum(-1) + net(x[:, None]).mean(-1)
                pyro.sample("z", dist.Normal(loc, 0.7))

        pair = Pair(lambda x, number: model(x), guide)
        assert find_positional_parameters(pair, (X, torch.arange(NUM)), "data") == []

    @pytest.mark.parametrize("by_loader", [False, True])
    def test_minibatches_are_refused(self, by_loader: bool) -> None:
        data: Any = DataLoader(TensorDataset(X), NUM, shuffle=True) if by_loader else X
        with pytest.raises(InputError, match="'loc' has a row for each place in a batch"):
            fit(normal_pair()[0], self.by_place, data, epochs=1, batch_size=20, **QUIET)

    def test_one_batch_keeps_its_order(self) -> None:
        """The posterior mean of each datum is x / 2."""
        options = QUIET | {"lr": 0.05, "batch_size": NUM, "schedule": "cosine"}
        fit(normal_pair()[0], self.by_place, X, epochs=600, **options)
        half = (X - pyro.param("b").detach()) / 2
        torch.testing.assert_close(pyro.param("loc").detach(), half, atol=0.25, rtol=0)

    def test_rows_of_a_subsampled_plate_are_served(self) -> None:
        """Rows keep their number, as in Pyro."""

        def model(x: Tensor, number: Tensor) -> None:
            with pyro.plate("data", NUM, subsample=number):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        data = (X, torch.arange(NUM))
        options = QUIET | {"lr": 0.05, "batch_size": 20, "schedule": "cosine"}
        fit(model, self.by_number, data, epochs=300, **options)
        torch.testing.assert_close(pyro.param("loc").detach(), X / 2, atol=0.25, rtol=0)

    @pytest.mark.slow
    def test_plates_of_an_autoguide_are_served(self) -> None:
        def model(x: Tensor, number: Tensor) -> None:
            with pyro.plate("data", NUM, subsample=number):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        guide = AutoNormal(
            model, create_plates=lambda x, number: pyro.plate("data", NUM, subsample=number)
        )
        data = (X, torch.arange(NUM))
        options = QUIET | {"lr": 0.05, "batch_size": 20, "schedule": "cosine"}
        fit(model, guide, data, epochs=300, **options)
        locs = pyro.param("AutoNormal.locs.z").detach()
        torch.testing.assert_close(locs, X / 2, atol=0.25, rtol=0)


def to_all(x: Tensor) -> float:
    return NUM / len(x)


class TestScaled:
    """Sites that the program itself scales from a batch to all data."""

    @pytest.mark.parametrize("names", [("z", "x"), ("x",), ("z",)])
    def test_scales_are_followed(self, names: tuple[str, ...]) -> None:
        own = normal_pair(**dict.fromkeys(names, to_all))
        found = find_scaled_sites(Pair(*own), (X[:20],), {}, size=NUM, plate="data")
        assert found == set(names)
        torch.manual_seed(0)
        elbo = evaluate(*own, X, batch_size=20)
        torch.manual_seed(0)
        assert elbo == evaluate(*normal_pair(), X, batch_size=20)

    @pytest.mark.parametrize("make", [lambda *pair: SVI(*pair, compile=False), PyroSVI])
    def test_steps_are_those_without_the_scale(self, make: Any) -> None:
        ends = []
        for pair in (normal_pair(), normal_pair(z=to_all, x=to_all)):
            pyro.clear_param_store()
            torch.manual_seed(0)
            loss = ELBO(size=NUM)
            if make is PyroSVI:
                svi = make(*pair, pyro.optim.SGD({"lr": 1e-2}), loss.differentiable_loss)
            else:
                svi = SVI(*pair, pyro.optim.SGD({"lr": 1e-2}), loss, compile=False)
            for start in (0, 20, 40):
                svi.step(X[start : start + 20])
            ends.append([pyro.param(name).item() for name in "ab"])
        assert ends[0] == pytest.approx(ends[1], rel=1e-5)

    def test_a_weight_of_the_kl_stays_a_weight(self) -> None:
        """It multiplies the scale from the batch to all data."""
        found = []
        for pair in (normal_pair(z=lambda x: 0.5), normal_pair()):
            torch.manual_seed(0)
            found.append(ELBO(size=NUM).loss(*pair, X[:20]))
        half, whole = found
        assert half.kl.item() == pytest.approx(whole.kl.item() / 2, rel=1e-5)
        assert half.reconstruction.item() == pytest.approx(whole.reconstruction.item(), rel=1e-5)

    def test_a_weighted_bound_is_not_evaluated(self) -> None:
        """It is no bound on log p(x)."""
        with pytest.raises(InputError, match=r"site 'z' is scaled by 0.5"):
            evaluate(*normal_pair(z=lambda x: 0.5), X, batch_size=20)

    @pytest.mark.parametrize("num", [1, 2, 3])
    def test_batches_of_few_data(self, num: int) -> None:
        own = normal_pair(z=to_all, x=to_all)
        found = find_scaled_sites(Pair(*own), (X[:num],), {}, size=NUM, plate="data")
        assert found == {"z", "x"}

    def test_a_scale_of_shared_latents_that_follows_the_batch_is_refused(self) -> None:
        def model(x: Tensor) -> None:
            m = pyro.sample("m", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(m, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            pyro.sample("m", dist.Normal(pyro.param("a", torch.tensor(0.0)), 0.1))

        def scaled(program: Any) -> Any:
            return lambda x: pyro.poutine.scale(program, scale=NUM / len(x))(x)

        with pytest.raises(InputError, match="site 'm' is scaled by 3"):
            fit(scaled(model), scaled(guide), X, epochs=1, batch_size=20, **QUIET)

    def test_a_factor_outside_the_plate_is_refused(self) -> None:
        """Its shape says nothing, but its value follows the data."""

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("x", dist.Normal(z, 1.0).log_prob(x).sum())
            pyro.factor("penalty", -(pyro.param("b", torch.tensor(3.0)) ** 2))

        with pytest.raises(InputError, match="site 'x' is outside of plate 'data'"):
            evaluate(model, normal_pair()[1], X, batch_size=20)

    @pytest.mark.parametrize(
        "scale",
        [
            lambda x: NUM / 20,
            lambda x: 1 / len(x),
            lambda x: len(x) / 7.0,
            lambda x: NUM / 20 if len(x) == 20 else 2.0,
        ],
    )
    def test_scales_with_two_meanings_are_refused(self, scale: Any) -> None:
        pair = normal_pair(z=scale, x=scale)
        with pytest.raises(InputError, match=r"site 'z' is scaled by .* in a batch of 20 of 60"):
            evaluate(*pair, X, batch_size=20)
        with pytest.raises(InputError, match="is scaled by"):
            fit(*pair, X, epochs=1, batch_size=20, **QUIET)
        with pytest.raises(InputError, match="is scaled by"):
            ELBO(size=NUM).loss(*pair, X[:20])

    def test_nothing_is_left_behind(self) -> None:
        net = nn.BatchNorm1d(1)

        def guide(x: Tensor) -> None:
            pyro.module("net", net)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(net(x[:, None])[:, 0], 0.7))

        random = torch.get_rng_state()
        pair = Pair(normal_pair()[0], guide)
        find_scaled_sites(pair, (X[:20],), {}, size=NUM, plate="data")
        assert torch.equal(torch.get_rng_state(), random)
        assert net.num_batches_tracked == 0
        assert not len(pyro.get_param_store())


def test_observations_outside_the_plate() -> None:
    """Refused in minibatches; in one batch of all data their weight is known."""

    def model(x: Tensor) -> None:
        b = pyro.param("b", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(b + z, 1.0).to_event(1), obs=x)

    _, guide = normal_pair()
    for refused in (
        lambda: fit(model, guide, X, epochs=1, batch_size=20, **QUIET),
        lambda: fit(model, guide, X, epochs=1, validation=X[:9], **QUIET),
        lambda: evaluate(model, guide, X),
        lambda: ELBO(size=NUM).loss(model, guide, X[:20]),
    ):
        with pytest.raises(InputError, match="'x' is outside of plate 'data', but follows"):
            refused()
    ends = []
    for one in (model, normal_pair()[0]):
        pyro.clear_param_store()
        torch.manual_seed(0)
        ends.append(fit(one, guide, X, epochs=3, **QUIET)["loss"])
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)


@pytest.mark.parametrize("objective", ["dreg", "stl", "iwae", "rws"])
def test_shared_latents_are_refused_in_a_sentence(objective: str) -> None:
    def model(x: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("m", dist.Normal(pyro.param("a", torch.tensor(0.0)), 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    with pytest.raises(InputError, match="'m' is outside of plate 'data', shared by all data"):
        fit(model, guide, X, epochs=1, objective=objective, **QUIET)
