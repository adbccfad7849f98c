"""The likelihoods that you declare: of one family, or mixed over the columns of a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import as_callable, as_instance, as_shape, describe
from ..errors import InputError
from .declaration import Declaration
from .layer import LikelihoodLayer
from .mixed import MixedDeclaration, MixedLayer
from .proposal import propose_settings

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Likelihood", "Mixed", "infer", "propose"]


class Likelihood(Declaration):
    """p(x | z) declared: a family of distributions and the source of each argument.

    A declaration holds no tensors, so that it can be shared, compared, printed and written to YAML.
    :meth:`build` makes the layer that a model uses, with parameters of its own.

    Arguments:
        family: a name in any capitalisation, such as ``"Bernoulli"`` or ``"negative-binomial"``
            (``pyrovae likelihoods`` lists them); the name of any other class of
            ``pyro.distributions``; or a class of distributions.
        num_classes: number K of classes of ``Categorical`` and ``OrderedLogistic``.
        rank: number of columns of a matrix argument, such as that of ``LowRankNormal``.
        num_components: number of components, for a finite mixture of the family for each feature.
        exposure: whether each datum comes with an exposure (a size factor, a time of observation)
            that multiplies the mean of its counts.
        links: names of links that replace the default ones, as in ``links={"rate": "exp"}``;
            see :mod:`pyrovae.links`.
        sources: for each argument of the distribution ``"predicted"`` (by the decoder, for each
            datum and feature), ``"shared"`` (one learned number), ``"per_feature"`` (a learned
            number for each feature), ``"data"`` (given with each datum) or a constant. Arguments
            that you leave out are predicted, unless the family is registered with another source.

    Raises:
        InputError: if the family or an argument is unknown, or a constant violates its constraint.

    Example:
        >>> Likelihood("Bernoulli")
        Likelihood('Bernoulli', logits='predicted')
        >>> Likelihood("Normal", scale=1.0).to_dict()
        {'family': 'Normal', 'loc': 'predicted', 'scale': 1.0}
        >>> Likelihood("Binomial", total_count=16).build((1, 8, 8)).in_shape
        (1, 1, 8, 8)
        >>> Likelihood("Normal", num_components=3).build((5,)).in_shape  # locs and weights
        (6, 5)
    """

    @staticmethod
    def infer(table: "pd.DataFrame", report: Callable[[str], object] = print) -> "Mixed":
        """Propose a likelihood for each column of a DataFrame, as :func:`infer` does."""
        return infer(table, report)

    @classmethod
    def of(cls, spec: Any) -> "Likelihood | Mixed":
        """The declaration that an object, a name, a class or a dict with the key ``family`` means.

        A :class:`Mixed`, or a dict of the family ``Mixed``, gives a :class:`Mixed`.

        >>> Likelihood.of({"family": "normal", "scale": 0.1}) == Likelihood("Normal", scale=0.1)
        True
        """
        if isinstance(spec, Likelihood | Mixed):
            return spec
        if not isinstance(spec, Mapping):
            return cls(spec)
        if "family" not in spec:
            raise InputError(
                "a likelihood needs the key 'family', as in {family: Normal}; got "
                f"{describe(spec)}"
            )
        if str(spec["family"]).lower() == "mixed":
            return Mixed.from_dict(spec)
        if not all(isinstance(key, str) for key in spec):
            raise InputError(f"names of settings must be words; got {describe(spec)}")
        return cls(**spec)

    def build(self, event_shape: Sequence[int]) -> LikelihoodLayer:
        """Make a layer with new parameters, for data of that shape."""
        return LikelihoodLayer(self, as_shape("event_shape", event_shape))


class Mixed(MixedDeclaration):
    """p(x | z) = product over blocks of columns b of p_b(x_b | z), each with its own likelihood.

    Arguments:
        blocks: a mapping, or pairs, from a column or a tuple of columns to its likelihood: an
            object, a name or a dict. The columns of x are in the order of the blocks.
        columns: the same, for columns whose names are Python identifiers.

    Raises:
        InputError: if there is no block, a column is named twice, or a likelihood is not valid.

    Example:
        >>> mixed = Mixed({("height", "weight"): "Normal"}, smoker="Bernoulli")
        >>> mixed.columns
        ('height', 'weight', 'smoker')
        >>> mixed.build((3,)).in_shape
        (3,)
    """

    blocks: dict[tuple[str, ...], Likelihood]  # type: ignore[assignment]

    def __init__(
        self,
        blocks: Mapping[str | tuple[str, ...], Any]
        | Sequence[tuple[str | tuple[str, ...], Any]]
        | None = None,
        **columns: Any,
    ) -> None:
        declared: dict[tuple[str, ...], Likelihood] = {}
        for key, spec in [*_as_pairs(blocks), *columns.items()]:
            names = (key,) if isinstance(key, str) else key
            if (
                not isinstance(names, tuple | list)
                or not names
                or not all(isinstance(name, str) for name in names)
            ):
                raise InputError(
                    f"a block is of {describe(key)}; give the name of a column, or a tuple of names"
                )
            names = tuple(names)
            for name in names:
                if any(name in others for others in declared) or names.count(name) > 1:
                    raise InputError(f"column {name!r} is in two blocks; name each column once")
            likelihood = Likelihood.of(spec)
            if not isinstance(likelihood, Likelihood) or likelihood.given:
                raise InputError(
                    f"a block of columns takes a likelihood of x alone; {', '.join(names)} has "
                    f"{likelihood!r}"
                )
            declared[names] = likelihood
        super().__init__(declared)

    def build(self, event_shape: Sequence[int]) -> MixedLayer:
        """Make a layer with new parameters, for rows of a table."""
        event_shape = as_shape("event_shape", event_shape)
        if event_shape != (len(self.columns),):
            raise InputError(
                f"Mixed declares {len(self.columns)} columns; a datum has shape {event_shape}"
            )
        return MixedLayer(self)

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> "Mixed":
        """The declaration that :meth:`to_dict` wrote.

        Raises:
            InputError: if the dict has another form.
        """
        as_instance("spec", spec, Mapping, "a mapping, as to_dict returns it")
        try:
            return cls([(_names(b["columns"]), b["likelihood"]) for b in spec["blocks"]])
        except (KeyError, TypeError) as error:
            raise InputError(
                "Mixed is written as {family: Mixed, blocks: [{columns: [a, b], likelihood: "
                f"Normal}}, ...]}}; got {describe(spec)}"
            ) from error


def infer(table: "pd.DataFrame", report: Callable[[str], object] = print) -> Mixed:
    """Propose a likelihood for each column of a table, and report the reason.

    Words, categories and truth values are taken as classes, and whole numbers from 0 upwards as
    counts. Missing cells are ignored.

    Arguments:
        table: the data.
        report: called with one line for each column.

    Raises:
        InputError: if a column is empty or constant, or has more than 50 classes.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"age": [31.5, 42.0, 27.2], "smoker": [True, False, True]})
    >>> mixed = infer(table)
    age: Normal, as its numbers are real
    smoker: Bernoulli, as it has two classes
    >>> mixed.columns
    ('age', 'smoker')
    """
    import pandas as pd

    as_callable("report", report, "a function of one line")
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"table is {describe(table)}; it must be a pandas.DataFrame")
    blocks: dict[str | tuple[str, ...], Any] = {}
    for column in table:
        values = table[column]
        classes = None
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            codes, names = pd.factorize(values, sort=True)
            classes = len(names)
            values = pd.Series(codes, dtype=float).where(codes >= 0)
        numbers = torch.tensor(values.to_numpy(dtype=float, na_value=float("nan")))
        likelihood, reason = propose(str(column), numbers, classes)
        report(f"{column}: {_short(likelihood)}, as {reason}")
        blocks[str(column)] = likelihood
    return Mixed(blocks)


def propose(name: str, x: Tensor, classes: int | None = None) -> tuple[Likelihood, str]:
    """Propose a likelihood for one column, and give the reason.

    Arguments:
        name: the column.
        x: its values, NaN where missing.
        classes: number of classes, where the values are numbers of classes.

    Raises:
        InputError: if the column is empty or constant, or has more than 50 classes.
    """
    settings, reason = propose_settings(name, x, classes)
    return Likelihood(**settings), reason


def _as_pairs(blocks: Any) -> list[tuple[Any, Any]]:
    """The pairs of columns and likelihoods of a mapping, or of a sequence of pairs."""
    if isinstance(blocks, Mapping):
        return list(blocks.items())
    blocks = () if blocks is None else blocks
    if not isinstance(blocks, list | tuple) or not all(
        isinstance(each, list | tuple) and len(each) == 2 for each in blocks
    ):
        raise InputError(
            f"blocks is {describe(blocks)}; it must map columns to likelihoods, or hold pairs of "
            "them"
        )
    return [(key, spec) for key, spec in blocks]


def _names(columns: Any) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns)


def _short(likelihood: Likelihood) -> str:
    size = likelihood.num_classes
    return likelihood.family.name + (f"({size} classes)" if size else "")
