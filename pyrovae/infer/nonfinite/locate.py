"""Locate the first number of a step that is not finite, and describe it in words."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ..compiler.preserve import preserve_state
from ..compiler.watch import Watch
from ..pair.pair import Pair
from .non_finite_tensor import NonFiniteTensor, StepBatch
from .sample_site import SampleSite

__all__ = ["locate_non_finite"]

Named = list[tuple[str, Tensor]]


def locate_non_finite(
    pair: Pair,
    loss: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    numbers: Sequence[int] | None = None,
) -> str | None:
    """Run a step again, forward and backward, and name the first thing that is not finite.

    The search follows the order of cause: a parameter; an argument of the distribution of a site,
    its value, or its log density, in the guide and then in the model; the loss; a gradient, with
    the site where it first went wrong and the parameters that it reached. It ignores what is
    masked, and what plays no part, such as a missing entry that the model leaves out.

    Call this with the parameters, modes, random state and autocast of the step. Parameters,
    gradients, buffers and the parameter store are unchanged afterwards.

    Arguments:
        pair: model and guide.
        loss: an ELBO or objective of this package, or of Pyro.
        args: positional arguments that the loss gave to model and guide.
        kwargs: keyword arguments likewise.
        numbers: numbers of the data of the batch in the whole data set; unless given, data are
            numbered by their place in the batch, from 0.

    Returns:
        A clause without a full stop; None if everything is finite.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyrovae.infer import ELBO
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1 / x), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
        >>> locate_non_finite(Pair(model, guide), ELBO(), (torch.tensor([2.0, 0.0, 3.0]),), {})
        "scale of Normal at site 'x' of the model is infinite in 1 of 3 entries, for datum 1 of the batch"
    """  # noqa: E501
    batch = StepBatch.from_arguments((args, kwargs), numbers)
    watch = Watch(*pair.functions, loss)
    search = _Search(getattr(loss, "plate", "data"), batch)
    with (
        warnings.catch_warnings(),
        preserve_state(watch.buffers()),
        pyro.validation_enabled(False),
        torch.enable_grad(),
        _preserve_store(pair),
        _fresh_gradients(_parameters(watch)) as parameters,
    ):
        warnings.simplefilter("ignore")  # Pyro warns of the same numbers
        bad_parameters = _find_non_finite(parameters)
        if bad_parameters:
            return _describe("parameter", bad_parameters)
        try:
            with search:
                result = loss.loss_and_grads(*pair.functions, *args, **kwargs)
        except Exception:  # for example, NaN probabilities cannot be sampled
            found = search.found or search.zero or search.find_cause_of_error()
            if found is None:
                raise
            return batch.describe(found)
        if search.found is not None:
            return batch.describe(search.found)
        gradients = [(name, p.grad) for name, p in _parameters(watch) if p.grad is not None]
        return _describe_rest(result, search, _find_non_finite(gradients), batch)


def _describe_rest(
    result: Any, search: "_Search", bad_gradients: list[NonFiniteTensor], batch: StepBatch
) -> str | None:
    """The clause on the loss and the gradients, once no site of the forward pass explains it."""
    terms = result._asdict() if hasattr(result, "_asdict") else {"loss": result}
    names = [name for name, term in terms.items() if not torch.as_tensor(term).isfinite().all()]
    if names and search.zero is not None:
        return batch.describe(search.zero)
    if names:
        return (
            f"every site is finite, but not the {' and '.join(names)}: the sum over sites, or a "
            "term that the objective computes from them (a divergence in closed form, a weight), "
            "overflows"
        )
    if not bad_gradients:
        return None
    parameters = _describe("the gradient of parameter", bad_gradients)
    if search.gradient is not None:
        return f"{batch.describe(search.gradient)}; then {parameters}"
    return (
        f"{parameters}, though all sites and their gradients are finite: an operation between them "
        "and the parameter has no finite gradient, such as a square root, a norm, a logarithm or a "
        f"quotient at 0{batch.describe_input(None)}"
    )


class _Search(Messenger):
    """Checks each site in the forward pass, and the gradients that reach it in the backward pass.

    Attributes:
        found: the first part of the forward pass that is not finite, densities of zero excepted.
        zero: the first density of zero; these may be intended, as for values that are summed over.
        gradient: the first gradient that is not finite.
    """

    def __init__(self, plate: str, batch: StepBatch) -> None:
        super().__init__()
        self.found: NonFiniteTensor | None = None
        self.zero: NonFiniteTensor | None = None
        self.gradient: NonFiniteTensor | None = None
        self._plate = plate
        self._batch = batch
        self._in_trial: NonFiniteTensor | None = None
        self._last_site: SampleSite | None = None

    def find_cause_of_error(self) -> NonFiniteTensor | None:
        """What led to an error, if all sites that count were finite."""
        if self._in_trial is not None or self._last_site is None:
            return self._in_trial
        return self._last_site.find_argument()

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self._last_site = SampleSite(msg, self._plate, self._batch)

    def _pyro_post_param(self, msg: Any) -> None:
        if self.found is None:
            name = f"constrained value of parameter {_plain_name(msg['name'])!r}"
            self.found = NonFiniteTensor.find(name, msg["value"])

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.found is not None or site_is_subsample(msg):
            return
        site = SampleSite(msg, self._plate, self._batch)
        if not torch.is_grad_enabled():  # a trial run, as for several samples at once
            self._in_trial = self._in_trial or site.find_first()
            return
        site.watch_gradients(self._note_gradient)
        if msg["infer"].get("_deterministic"):
            if not self._batch.bad_rows:  # else it may just copy missing entries
                self.found = site.check_value()
            return
        first = site.find_first()
        if first is None or not first.is_zero_density:
            self.found = first
        elif self.zero is None and not msg["infer"].get("enumerate"):
            self.zero = first

    def _note_gradient(self, gradient: NonFiniteTensor) -> None:
        self.gradient = self.gradient or gradient


def _find_non_finite(named: Named) -> list[NonFiniteTensor]:
    found = (NonFiniteTensor.find(repr(name), tensor) for name, tensor in named)
    return [each for each in found if each is not None]


def _describe(role: str, found: list[NonFiniteTensor]) -> str:
    num_more = len(found) - 1
    more = f", and {num_more} more {'is' if num_more == 1 else 'are'} not finite"
    return f"{role} {found[0].name} is {found[0].problem}{more if num_more else ''}"


def _parameters(watch: Watch) -> Named:
    """The unconstrained parameters in the store, and the parameters of all modules in use."""
    named: dict[int, tuple[str, Tensor]] = {}
    for name, parameter in pyro.get_param_store().named_parameters():
        named[id(parameter)] = _plain_name(name), parameter
    for each in watch.objects():
        for name, parameter in each.named_parameters() if isinstance(each, nn.Module) else ():
            named.setdefault(id(parameter), (name, parameter))
    return list(named.values())


def _plain_name(name: str) -> str:
    """Replace the separator that pyro.module puts between network and parameter."""
    return name.replace("$$$", ".")


@contextmanager
def _preserve_store(pair: Pair) -> Iterator[None]:
    """Work in the pair's parameter store and restore it: some losses keep baselines there."""
    with pair.store():
        store = pyro.get_param_store()
        before = store.get_state()
        try:
            yield
        finally:
            store.clear()
            store.set_state(before)


@contextmanager
def _fresh_gradients(parameters: Named) -> Iterator[Named]:
    """Clear the gradients of parameters, and restore them at the end."""
    before = [(parameter, parameter.grad) for _, parameter in parameters]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield parameters
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient
