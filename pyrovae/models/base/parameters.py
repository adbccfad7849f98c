"""Declare the parameters of networks to Pyro without its global parameter store."""

import weakref

from pyro.poutine.runtime import effectful
from torch import Tensor, nn

__all__ = ["declare_parameters"]


def declare_parameters(module: nn.Module) -> None:
    """Send a ``param`` message to Pyro for each trainable parameter of the module.

    Call it at the start of a model or guide, in place of ``pyro.module``, so that
    ``pyro.infer.SVI`` and every handler find the parameters. Unlike ``pyro.module``, it puts
    nothing into the global parameter store: the parameters belong to this module, and a second
    model, or a deep copy, never shares them. The names contain the identity of the module, so one
    program may use several modules.
    """
    owner = f"{type(module).__name__}@{id(module):x}"
    for path, parameter in module.named_parameters():
        if parameter.requires_grad:
            effectful(_as_pyro_param, type="param")(parameter, name=f"{owner}.{path}")


def _as_pyro_param(parameter: nn.Parameter) -> Tensor:
    # A view, since Pyro sets an attribute on the value, and a parameter with it cannot be pickled.
    value = parameter.view_as(parameter)
    value.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
    return value
