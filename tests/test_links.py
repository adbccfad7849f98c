"""Links map all real numbers into the constraint and can be found by name."""

import pytest
import torch
from torch.distributions import constraints

from pyrovae import InputError
from pyrovae.links import LINKS, find_link, link_to

EXTREME = torch.tensor([-1e4, -50.0, -1.0, 0.0, 1.0, 50.0, 1e4])


@pytest.mark.parametrize(
    "constraint",
    [
        constraints.real,
        constraints.positive,
        constraints.nonnegative,
        constraints.greater_than(3.0),
        constraints.less_than(-2.0),
        constraints.unit_interval,
        constraints.interval(-1.0, 4.0),
        constraints.half_open_interval(0.0, 2.0),
        constraints.simplex,
        constraints.real_vector,
        constraints.independent(constraints.positive, 1),
    ],
    ids=str,
)
def test_values_satisfy_the_constraint(constraint: constraints.Constraint) -> None:
    values = link_to(constraint)(EXTREME)
    assert values.isfinite().all()
    # A sigmoid of large arguments rounds to 0 and 1, which open and half-open intervals exclude.
    inside = values if "interval" not in str(constraint) else values[2:5]
    assert constraint.check(inside).all()


def test_gradients_are_finite_for_large_arguments() -> None:
    x = EXTREME.clone().requires_grad_()
    for constraint in (constraints.positive, constraints.unit_interval, constraints.simplex):
        link_to(constraint)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_softplus_agrees_with_torch() -> None:
    x = torch.linspace(-5, 5, 11)
    expected = torch.nn.functional.softplus(x) + 1e-7
    torch.testing.assert_close(link_to(constraints.positive)(x), expected)


@pytest.mark.parametrize("name", LINKS)
def test_named_links_have_inverses(name: str) -> None:
    link = find_link(name)
    y = link(torch.tensor([0.2, -0.3, 0.1]))
    torch.testing.assert_close(link(link.inv(y)), y)


def test_misspelt_link_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match="unknown link 'softplos': did you mean 'softplus'"):
        find_link("softplos")
