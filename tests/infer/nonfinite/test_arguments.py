"""Tensor arguments of distributions, with their event dimensions."""

import pyro.distributions as dist
import torch

from pyrovae.infer.nonfinite.arguments import tensor_arguments


def test_arguments_of_mixture_and_matrix_normal() -> None:
    parts = dist.Normal(torch.zeros(2, 3, 4), torch.ones(2, 3, 4)).to_event(1)
    mixture = dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(2, 3)), parts)
    found = [
        (f"{each.name} of {each.family}", each.event_dim) for each in tensor_arguments(mixture)
    ]
    assert found == [("logits of Categorical", 1), ("loc of Normal", 0), ("scale of Normal", 0)]
    matrix = dist.MultivariateNormal(torch.zeros(5, 2), scale_tril=torch.eye(2))
    found = [(f"{each.name} of {each.family}", each.event_dim) for each in tensor_arguments(matrix)]
    assert found == [
        ("scale_tril of MultivariateNormal", 2),
        ("loc of MultivariateNormal", 1),
    ]


def test_arguments_without_a_constraint() -> None:
    """Those of transforms: all dimensions beyond the batch shape belong to the event."""
    base = dist.Normal(torch.zeros(2, 3), 1.0)
    affine = dist.transforms.AffineTransform(torch.zeros(2, 3), torch.ones(3))
    found = list(tensor_arguments(dist.TransformedDistribution(base, [affine])))
    dims = {each.name: each.event_dim for each in found if each.family == "AffineTransform"}
    assert dims == {"loc": 0, "scale": 0}
    affine = dist.transforms.AffineTransform(torch.zeros(2, 3), torch.ones(3), event_dim=1)
    found = list(tensor_arguments(dist.TransformedDistribution(base.to_event(1), [affine])))
    dims = {each.name: each.event_dim for each in found if each.family == "AffineTransform"}
    assert dims == {"loc": 1, "scale": 0}


def test_arguments_that_a_property_hands_on() -> None:
    """A distribution that gives both logits and probs is described by its logits."""
    beta = dist.Beta(torch.ones(2), torch.ones(2))
    names = [f"{each.name} of {each.family}" for each in tensor_arguments(beta)]
    assert names[:2] == ["concentration1 of Beta", "concentration0 of Beta"]
    relaxed = dist.RelaxedBernoulli(torch.tensor(0.5), logits=torch.zeros(3))
    own = [each.name for each in tensor_arguments(relaxed) if each.family == "RelaxedBernoulli"]
    assert own == ["logits"]
