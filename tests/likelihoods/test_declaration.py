"""One declaration, however it is written; and mistakes in it."""

import copy
from typing import Any

import pyro.distributions as dist
import pytest
import torch
import yaml
from torch.distributions import constraints

from pyrovae import InputError, Likelihood, register
from pyrovae.likelihoods import families
from pyrovae.likelihoods.families import family_of


@pytest.mark.parametrize(
    ("spec", "written"),
    [
        ("Bernoulli", "Likelihood('Bernoulli', logits='predicted')"),
        ("Normal", "Likelihood('Normal', loc='predicted', scale='shared')"),
        ("Poisson", "Likelihood('Poisson', rate='predicted')"),
        (
            {"family": "Binomial", "total_count": 16},
            "Likelihood('Binomial', total_count=16, logits='predicted')",
        ),
        (
            {"family": "Categorical", "num_classes": 5},
            "Likelihood('Categorical', logits='predicted', num_classes=5)",
        ),
        (
            {"family": "Bernoulli", "probs": "predicted"},
            "Likelihood('Bernoulli', probs='predicted')",
        ),
        (
            {"family": "Normal", "scale": "predicted", "links": {"scale": "exp"}},
            "Likelihood('Normal', loc='predicted', scale='predicted', links={'scale': 'exp'})",
        ),
        (dist.Laplace, "Likelihood('Laplace', loc='predicted', scale='predicted')"),
        ("laplace", "Likelihood('Laplace', loc='predicted', scale='shared')"),
        (
            {"family": "negative-binomial", "exposure": True},
            "Likelihood('NegativeBinomial', total_count='per_feature', logits='predicted', "
            "exposure=True)",
        ),
        (
            {"family": "StudentT", "df": 4.0, "scale": "per_feature"},
            "Likelihood('StudentT', df=4.0, loc='predicted', scale='per_feature')",
        ),
    ],
)
def test_object_name_class_dict_and_yaml_mean_the_same(spec: Any, written: str) -> None:
    likelihood = Likelihood.of(spec)
    assert repr(likelihood) == written
    assert eval(written, {"Likelihood": Likelihood}) == likelihood
    assert Likelihood.of(yaml.safe_load(yaml.safe_dump(likelihood.to_dict()))) == likelihood
    assert Likelihood.of(likelihood) is likelihood
    assert copy.deepcopy(likelihood) == likelihood
    assert len({likelihood, Likelihood.of(spec)}) == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("Bernouli", "unknown likelihood 'Bernouli': did you mean 'Bernoulli'"),
        ("Wishart Distribution", "unknown likelihood"),
        ({"scale": 1.0}, "needs the key 'family'"),
        ({"family": "Normal", "scal": 1.0}, "has no argument 'scal': did you mean 'scale'"),
        ({"family": "Normal", "scale": "sharde"}, "is not a source: did you mean 'shared'"),
        ({"family": "Normal", "scale": -1.0}, "scale=-1.0 does not satisfy GreaterThan"),
        ({"family": "Binomial"}, "needs a number for total_count, as in total_count=16"),
        ({"family": "Binomial", "total_count": "shared"}, "whole number.*constant"),
        ({"family": "Categorical"}, "needs num_classes"),
        ({"family": "Normal", "num_classes": 3}, "no vector argument for num_classes"),
        ({"family": "Categorical", "num_classes": 0}, "num_classes is 0"),
        ({"family": "Binomial", "total_count": 2.5}, r"total_count=2.5 does not satisfy Integer"),
        ({"family": "Bernoulli", "logits": "shared", "probs": "shared"}, "logits or probs"),
        ({"family": "Normal", "links": {"scale": "ex"}}, "unknown link 'ex': did you mean 'exp'"),
        (
            {"family": "Normal", "scale": 1.0, "links": {"scale": "exp"}},
            "no learned argument 'scale'",
        ),
        ({"family": "MultivariateNormal", "scale_tril": 1.0}, "does not satisfy LowerCholesky"),
        (
            {"family": "MultivariateNormal", "scale_tril": [[1.0, 0.0], [0.0, 1.0]]},
            r"scale_tril has shape \(2, 2\); it must be a matrix of 3 rows and columns",
        ),
        ({"family": "MultivariateNormal", "rank": 2}, "no vector argument for rank"),
        ({"family": "Pareto"}, "support of Pareto depends on its scale.* as in scale=1.0"),
        ({"family": "pareto", "scale": "shared"}, "support of Pareto depends on its scale"),
        ({"family": "AffineBeta", "loc": 0.0}, "support of AffineBeta depends on its scale"),
        (
            {"family": "GeneralizedPareto", "loc": 0.0},
            "support of GeneralizedPareto depends on its concentration",
        ),
        ({"family": "LowRankNormal"}, "needs rank, the size of its cov_factor.*rank: 2"),
        ({"family": "LowRankNormal", "rank": 2, "num_components": 2}, "over all features"),
        ({"family": "Normal", "exposure": True}, "Normal takes no exposure"),
        ({"family": "NegativeBinomial", "probs": "predicted", "exposure": True}, "no exposure"),
        ({"family": "Poisson", "links": {"rate": "identity"}}, "makes no distribution"),
        ({"family": "Normal", "links": {"scale": "softmax"}}, "'softmax' maps vectors"),
        ({"family": "Multinomial", "total_count": "predicted"}, "whole number"),
        ({"family": "Normal", "loc": 0.0, "scale": 1.0}, "predicts no argument"),
    ],
)
def test_mistakes_are_one_sentence(spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Likelihood.of(spec).build((3,))
    assert "\n" not in str(caught.value)


def test_a_class_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch distribution that Pyro has never heard of becomes one that it can sample."""
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))

    class Shifted(torch.distributions.Exponential):
        arg_constraints = {"rate": constraints.positive}  # noqa: RUF012

    layer = Likelihood(Shifted).build((4,))
    p = layer(torch.zeros(7, 1, 4))
    assert (p.batch_shape, p.event_shape) == ((7,), (4,))
    assert Likelihood(Shifted) == Likelihood(Shifted)
    torch.testing.assert_close(layer.mean(torch.zeros(1, 4)), torch.full((4,), 1 / 0.693147))

    register("Shifted", Shifted, rate="per_feature")
    assert Likelihood("Shifted").to_dict() == {"family": "Shifted", "rate": "per_feature"}


def test_a_family_is_a_name_or_a_class() -> None:
    with pytest.raises(InputError, match="a family is a name or a class of distributions, not 3"):
        family_of(3)
