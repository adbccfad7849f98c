"""The parameters that an SVI has met, and which of them have been trained."""

import torch

from pyrovae.infer.svi.parameters import Parameters


def test_trained_parameters_are_counted() -> None:
    parameters = Parameters()
    first, second, third = (torch.zeros(2, requires_grad=True) for _ in range(3))
    parameters.begin_run()
    for name, each in (("first", first), ("second", second), ("third", third)):
        parameters.add(name, each)
    assert len(parameters) == 3
    assert parameters.num_trained == 0
    (first.sum() + second.sum()).backward()
    gradients = parameters.take_gradients()
    assert [each is not None for each in gradients] == [True, True, False]
    assert parameters.num_trained == 2
    parameters.begin_run()
    parameters.add("third", third)
    third.sum().backward()
    parameters.take_gradients()
    assert parameters.num_trained == 3
