"""Densities of samples under the posteriors of all data."""

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import TanhTransform

from pyrovae.infer.estimators.aggregate import _broadcast_log_prob, _normal_log_prob

pytestmark = pytest.mark.usefixtures("float64")


def assert_all_pairs(q: Any, data_axis: int, log_prob: Any, tolerance: float) -> None:
    """The densities of each sample given each datum match densities computed one by one."""
    z = q.sample((3,)).movedim(data_axis + 1, 0).flatten(0, 1)
    num = q.batch_shape[data_axis]
    got = log_prob(z)
    assert got.shape == (3 * num, num)
    for row, some in zip(got, z, strict=True):
        value = torch.stack([some] * num, data_axis)
        summed = q.log_prob(value).movedim(data_axis, 0).reshape(num, -1).sum(1)
        torch.testing.assert_close(row, summed, rtol=tolerance, atol=tolerance)


class TestLogProb:
    @pytest.mark.parametrize(("shape", "data_axis"), [((7, 4), 0), ((5, 7), 1), ((5, 7, 2), 1)])
    def test_normals(self, shape: tuple[int, ...], data_axis: int) -> None:
        base = dist.Normal(3 * torch.randn(shape), torch.randn(shape).exp())
        q = base.to_event(1) if data_axis == 0 or len(shape) == 3 else base
        assert_all_pairs(q, data_axis, _normal_log_prob(base, data_axis)[0], 1e-10)
        assert_all_pairs(q, data_axis, _broadcast_log_prob(q, data_axis), 1e-10)

    @pytest.mark.parametrize("narrow", [1e-3, 1e-9])
    def test_narrow_normals_far_from_zero_and_from_each_other(self, narrow: float) -> None:
        loc = 1000 + torch.randn(6, 3)
        scale = torch.full((6, 3), 1.0)
        scale[0] = narrow
        base = dist.Normal(loc, scale)
        log_prob, width = _normal_log_prob(base, 0)
        assert width == (2 if narrow == 1e-3 else 9)
        assert_all_pairs(base.to_event(1), 0, log_prob, 1e-8)

    @pytest.mark.parametrize("family", ["joint", "categorical", "gamma", "flow"])
    def test_other_families(self, family: str) -> None:
        normal = dist.Normal(torch.randn(7, 2), 1.0).to_event(1)
        q = {
            "joint": dist.MultivariateNormal(torch.randn(7, 2), torch.eye(2)),
            "categorical": dist.Categorical(logits=torch.randn(7, 3)),
            "gamma": dist.Gamma(torch.rand(7, 2) + 1, torch.rand(7, 2) + 1).to_event(1),
            "flow": dist.TransformedDistribution(normal, [TanhTransform()]),
        }[family]
        assert_all_pairs(q, 0, _broadcast_log_prob(q, 0), 1e-8)
