"""Which number of a step was the first that is not finite, in words."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ..compiler.captured import without_trace
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
    """Run a step once more, forward and backward, and name the first thing that is not finite.

    In the order of cause: a parameter; an argument of the distribution of a site, its value, or its
    log density, in the guide and then in the model; the loss; a gradient, by the site that it first
    went wrong at and the parameters that it came to. What is masked is passed over, and so is what
    has no part in it, such as a missing entry that the model leaves out.

    To be called with the parameters, modes, random numbers and autocast that the step had. These,
    gradients, buffers and the parameter store are left as they were.

    Arguments:
        pair: model and guide.
        loss: an ELBO or objective of this package, or of Pyro.
        args: what the loss gave to model and guide.
        kwargs: likewise.
        numbers: of the data of the batch among all data; unless given, they are numbered as they
            stand in the batch, from 0.

    Returns:
        A clause without a full stop; None where everything is finite.

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
    batch = StepBatch.of((args, kwargs), numbers)
    watch = Watch(*pair.functions, loss)
    search = _Search(getattr(loss, "plate", "data"), batch)
    with (
        warnings.catch_warnings(),
        without_trace(watch.buffers()),
        pyro.validation_enabled(False),
        torch.enable_grad(),
        _store_as_it_is(pair),
        _gradients_apart(_parameters(watch)) as parameters,
    ):
        warnings.simplefilter("ignore")  # Pyro's own, of the same numbers
        wrong = _not_finite(parameters)
        if wrong:
            return _sentence("parameter", wrong)
        try:
            with search:
                result = loss.loss_and_grads(*pair.functions, *args, **kwargs)
        except Exception:  # such as of probabilities that are NaN, which cannot be drawn from
            found = search.found or search.zero or search.at_failure()
            if found is None:
                raise
            return batch.clause(found)
        if search.found is not None:
            return batch.clause(search.found)
        gradients = [(name, p.grad) for name, p in _parameters(watch) if p.grad is not None]
        return _after(result, search, _not_finite(gradients), batch)


def _after(
    result: Any, search: "_Search", wrong: list[NonFiniteTensor], batch: StepBatch
) -> str | None:
    """The clause, where every site of the forward pass is finite, but for densities of zero."""
    terms = result._asdict() if hasattr(result, "_asdict") else {"loss": result}
    names = [name for name, term in terms.items() if not torch.as_tensor(term).isfinite().all()]
    if names and search.zero is not None:
        return batch.clause(search.zero)
    if names:
        return (
            f"every site is finite, but not the {' and '.join(names)} made of them: their sum, or "
            "what the objective makes of them (a divergence in closed form, a weight), overflows"
        )
    if wrong and search.gradient is not None:
        return (
            f"{batch.clause(search.gradient)}; then {_sentence('the gradient of parameter', wrong)}"
        )
    if wrong:
        return (
            f"{_sentence('the gradient of parameter', wrong)}, though all sites and the gradients "
            "in them are finite: what lies between them and the parameter, such as a square root, "
            f"a norm, a logarithm or a quotient at 0, has no gradient{batch.note(None)}"
        )
    return None


class _Search(Messenger):
    """Looks at each site as it is passed, and at gradients as they come back to it.

    Attributes:
        found: the first thing in the forward pass that is not finite, but for
        zero: the first density of zero, which may be meant, as of values that are summed over.
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
        self._reached: SampleSite | None = None

    def at_failure(self) -> NonFiniteTensor | None:
        """What led to an error, where all that was passed in earnest was finite."""
        if self._in_trial is not None or self._reached is None:
            return self._in_trial
        return self._reached.argument()

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self._reached = SampleSite(msg, self._plate, self._batch)

    def _pyro_post_param(self, msg: Any) -> None:
        if self.found is None:
            what = f"parameter {_plain(msg['name'])!r}, under its constraint,"
            self.found = NonFiniteTensor.of(what, msg["value"])

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.found is not None or site_is_subsample(msg):
            return
        site = SampleSite(msg, self._plate, self._batch)
        if not torch.is_grad_enabled():  # a trial, such as of how several samples are drawn at once
            self._in_trial = self._in_trial or site.first()
            return
        site.on_gradient(self._note_gradient)
        if msg["infer"].get("_deterministic"):
            if not self._batch.wrong:  # else it may be no more than a copy of what is missing
                self.found = site.value()
            return
        wrong = site.first()
        if wrong is None or not wrong.is_zero_density:
            self.found = wrong
        elif self.zero is None and not msg["infer"].get("enumerate"):
            self.zero = wrong

    def _note_gradient(self, wrong: NonFiniteTensor) -> None:
        self.gradient = self.gradient or wrong


def _not_finite(named: Named) -> list[NonFiniteTensor]:
    wrong = (NonFiniteTensor.of(repr(name), tensor) for name, tensor in named)
    return [each for each in wrong if each is not None]


def _sentence(what: str, wrong: list[NonFiniteTensor]) -> str:
    more = f", and so it is with {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return f"{what} {wrong[0].what} is {wrong[0].how}{more}"


def _parameters(watch: Watch) -> Named:
    """The unconstrained parameters in the store, and of modules that can be reached."""
    named: dict[int, tuple[str, Tensor]] = {}
    for name, parameter in pyro.get_param_store().named_parameters():
        named[id(parameter)] = _plain(name), parameter
    for each in watch.objects():
        for name, parameter in each.named_parameters() if isinstance(each, nn.Module) else ():
            named.setdefault(id(parameter), (name, parameter))
    return list(named.values())


def _plain(name: str) -> str:
    """A name without what pyro.module puts between those of a network and of its parameter."""
    return name.replace("$$$", ".")


@contextmanager
def _store_as_it_is(pair: Pair) -> Iterator[None]:
    """Work in the store of the pair, and leave it as it was: some losses keep baselines there."""
    with pair.store():
        store = pyro.get_param_store()
        before = store.get_state()
        try:
            yield
        finally:
            store.clear()
            store.set_state(before)


@contextmanager
def _gradients_apart(parameters: Named) -> Iterator[Named]:
    """Within, parameters have no gradient yet; then those that they had."""
    before = [(parameter, parameter.grad) for _, parameter in parameters]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield parameters
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient
