"""How the networks of a model make themselves known to Pyro, without Pyro's global store."""

import weakref

from pyro.poutine.runtime import effectful
from torch import Tensor, nn

__all__ = ["declare_parameters"]


def declare_parameters(module: nn.Module) -> None:
    """Send a ``param`` message for each trainable parameter of the module.

    Called at the head of a model or guide, as ``pyro.module`` would be, so that
    ``pyro.infer.SVI`` and every handler find the parameters. Unlike ``pyro.module`` nothing
    enters the global parameter store: the parameters stay those of this very module, and a
    second model, or a deep copy, never shares them. The names hold the identity of the module,
    so that several modules may appear in one program.
    """
    owner = f"{type(module).__name__}@{id(module):x}"
    for path, parameter in module.named_parameters():
        if parameter.requires_grad:
            effectful(_value_of, type="param")(parameter, name=f"{owner}.{path}")


def _value_of(parameter: nn.Parameter) -> Tensor:
    # A view, since Pyro's mark must not stick to the parameter: it could not be pickled.
    value = parameter.view_as(parameter)
    value.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
    return value
