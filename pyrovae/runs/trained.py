"""Open a run directory: the trained model and its data."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Batches, Dataset, Split
from ..data.description import DataDescription
from ..data.memory import parameter_budget
from ..data.rows import Rows
from ..device import find_device
from ..errors import InputError, did_you_mean, short_repr
from ..models.base import LatentVariableModel
from ..models.base.saved import DESCRIPTION, rebuild
from .config import RunConfig
from .directory import RunDirectory
from .prepare import arrange_data, build_model, load_data, prepare_data

__all__ = [
    "EVALUATION_BATCH",
    "Trained",
    "apply_in_chunks",
    "describe_data",
    "make_ordered_batches",
    "model_options",
    "open_run",
    "read_data",
    "refuse_non_finite",
]

_OF_MODEL = (
    *("model", "prior", "posterior", "inference", "likelihood", "latent_dim", "network"),
    *("hidden", "missing", "binarise", "dequantise", "label", "exposure"),
)
"""Options that a trained model cannot change."""

EVALUATION_BATCH = 1000
"""Number of data in a batch outside training."""


class Trained:
    """A trained model, what it was trained on, and its data, which are read where they are needed.

    Arguments:
        run: the run directory.
        config: its options.
        family: the model, on the device.
        about: what is known of the data without reading them.
        device: where the model is.
        data: the data as the likelihood sees them; None to read them when they are asked for.

    Attributes:
        rows: new data, which then take the place of the test data; None if there are none.
        key: column that identifies each row of the new data, if any.
        records: results, by name.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: RunConfig,
        family: LatentVariableModel,
        about: DataDescription,
        device: torch.device,
        data: Dataset | None = None,
    ) -> None:
        self.run = run
        self.config = config
        self.family = family
        self.about = about
        self.device = device
        self.rows: Rows | None = None
        self.key: str | None = None
        self.records: dict[str, Mapping[str, Any]] = {}
        self._data = data
        family.about = about

    @property
    def data(self) -> Dataset:
        """The data as the likelihood sees them.

        Raises:
            InputError: if they cannot be read, or are not those of the training.
        """
        if self._data is None:
            about = self.about if self.config.from_run is not None else None
            try:
                dataset = read_data(self.config, about)
            except InputError as error:
                raise InputError(
                    f"{error} (the model of {self.run.path} opens without its data, but its test "
                    "data are needed here)"
                ) from None
            _check_layout(self.config, dataset, self.about.event_shape, self.about.features)
            self.about.check_same(dataset)
            self._data = prepare_data(self.config, dataset)
        return self._data

    def use(self, source: str | None, key: str | None = None) -> None:
        """Put new data in the place of the test data.

        Arguments:
            source: a file, or the name of a data set; None for the test data of the run.
            key: column of a table that identifies each row.

        Raises:
            InputError: if the data are not such as the model was trained on.
        """
        if source is None:
            if key is not None:
                raise InputError("--id names a column of new data; name the file too")
            return
        rows = self.family.as_rows(source, key)
        self.family.read(rows, ())
        self.rows, self.key = rows, key

    @property
    def test(self) -> Split:
        """The test data of the run, or the new data."""
        if self.rows is None:
            return self.data.test
        rows, label = self.rows, None
        if self.family.num_conditions:
            label = self.family.given_of(rows)[0]
        exposure = rows.exposure if self.about.exposure is not None else None
        return Split(rows.x, rows.y, exposure, label)

    @property
    def test_rows(self) -> Rows:
        """The same, as a model takes it."""
        if self.rows is not None:
            return self.rows
        test = self.data.test
        return Rows(self.data.name, test.x, test.y, test.exposure)

    @property
    def test_name(self) -> str:
        """What to call the test data, or the new data."""
        return self.data.name if self.rows is None else self.rows.name

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Write results on test data to the run; those on new data are kept in ``records``."""
        if self.rows is None:
            self.run.write_record(name, record)
        self.records[name] = record

    @torch.no_grad()
    def draw(
        self, num: int, label: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Draw latents z from the prior and x from p(x | z); return z, x, E[x | z] and the classes.

        Arguments:
            num: number of draws.
            label: class of all draws, for a model that is conditioned on classes; by default,
                classes are drawn as they are distributed in the training data.
        """
        labels = None
        if self.family.num_conditions and label is not None:
            labels = torch.full((num,), label)
        elif self.family.num_conditions and self.about.class_counts is not None:
            frequencies = torch.tensor(self.about.class_counts, dtype=torch.float64)
            labels = torch.multinomial(frequencies, num, replacement=True)
        given = () if labels is None else (labels.to(self.device),)
        z, eta = self.family.draw(num, *given)
        likelihood = self.family.likelihood
        drawn, mean = likelihood(eta).sample().cpu(), likelihood.mean(eta).cpu()
        return z.cpu(), drawn, mean, labels

    def find_class(self, word: str) -> int:
        """The number of a class by its name.

        Raises:
            InputError: if the model is not conditioned on classes, or there is no such class.
        """
        about = self.about
        if not self.family.num_conditions:
            raise InputError(
                f"the model of {self.run.path} is not conditioned on classes; train a conditional "
                "model to draw from one"
            )
        names = about.classes or tuple(map(str, range(len(about.class_counts or ()))))
        if word not in names:
            raise InputError(
                f"there is no class {word!r} in {about.label or 'the labels'}: "
                f"{did_you_mean(word, names)}"
            )
        return names.index(word)


def read_data(config: RunConfig, about: DataDescription | None = None) -> Dataset:
    """The data of a run, before binarisation, as its model takes them.

    Arguments:
        config: its options.
        about: a description whose numbers of words and classes the data get; None for their own.
    """
    dataset = load_data(config)
    return arrange_data(config, dataset if about is None else about.recode(dataset))


def open_run(path: Path, device: str | None = None) -> Trained:
    """Open a run directory: its model in eval mode. Data are read only where they are needed.

    Arguments:
        path: the run directory.
        device: where to put the model; by default that of the training, if this machine has it.

    Raises:
        InputError: if the directory holds no run; or if it is of a version that did not describe
            its data, and they have changed since.
    """
    run = RunDirectory.open(path)
    config = run.read_config()
    place = find_device(device) if device is not None else _find_own_device(config.device)
    if (path / DESCRIPTION).is_file():
        family, description = rebuild(path)
        if not isinstance(family, LatentVariableModel) or description.data is None:
            raise InputError(f"{path / DESCRIPTION} does not describe a run of pyrovae train")
        _check_options(path, config, description.options)
        return Trained(run, config, family.to(place).eval(), description.data, place)
    event_shape, features = run.read_metadata("event_shape", "features")
    dataset = read_data(config)
    _check_layout(config, dataset, event_shape, features)
    with parameter_budget(run.weights_size()):
        family = build_model(config, dataset)
    run.read_weights(family)
    about = describe_data(config, dataset)
    prepared = prepare_data(config, dataset)
    return Trained(run, config, family.to(place).eval(), about, place, prepared)


def describe_data(config: RunConfig, dataset: Dataset) -> DataDescription:
    """What a run keeps of its data.

    Arguments:
        config: the resolved options.
        dataset: the data before binarisation, as the model takes them.
    """
    return DataDescription.of(
        dataset,
        label=config.label,
        exposure=config.exposure,
        binarise=config.binarise or "none",
        dequantise=config.dequantise,
    )


def model_options(config: RunConfig) -> dict[str, Any]:
    """The options that determine the model, in plain values."""
    plain = config.model_dump(mode="json")
    return {name: plain[name] for name in _OF_MODEL}


def _check_options(path: Path, config: RunConfig, trained_with: Mapping[str, Any]) -> None:
    """Check that nobody changed config.yaml since the training, where that describes the model."""
    for name, value in model_options(config).items():
        if name in trained_with and trained_with[name] != value:
            raise InputError(
                f"{path / 'config.yaml'} says {name} is {short_repr(value)}, but the run was "
                f"trained with {short_repr(trained_with[name])} ({DESCRIPTION}); put it back, or "
                "train again"
            )


def _find_own_device(name: str) -> torch.device:
    """The device of the training, or the best one of a machine that does not have it."""
    try:
        return find_device(name)
    except InputError:
        return find_device("auto")


def _check_layout(config: RunConfig, dataset: Dataset, event_shape: Any, features: Any) -> None:
    event_shape, features = _as_list(event_shape), _as_list(features)
    if list(dataset.event_shape) != event_shape:
        raise InputError(
            f"{config.data} now has data of shape {list(dataset.event_shape)}, but the run was "
            f"trained on {short_repr(event_shape)}"
        )
    columns = _as_list(dataset.features)
    if columns != features:
        raise InputError(
            f"{config.data} now has columns {_join_names(columns)}, but the run was trained on "
            f"{_join_names(features)}"
        )


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@contextmanager
def refuse_non_finite(path: Path) -> Iterator[None]:
    """Context in which a model that gives NaN or infinite numbers raises an InputError.

    Arguments:
        path: run directory, for the message.

    Raises:
        InputError: in place of a FloatingPointError, or of Pyro's ValueError.
    """
    try:
        with warnings.catch_warnings():
            # Pyro warns before it raises.
            warnings.filterwarnings("ignore", "Encountered (NaN|[+-]?inf)")
            yield
    except (FloatingPointError, ValueError) as error:
        if isinstance(error, InputError) or not (
            isinstance(error, FloatingPointError) or "to satisfy the constraint" in str(error)
        ):
            raise
        raise InputError(
            f"the model of {path} gives numbers that are not finite: its weights are damaged, or "
            "its training diverged; train again with a lower learning rate (lr)"
        ) from error


def _join_names(features: Any) -> str:
    return ", ".join(map(str, features)) if isinstance(features, list) else short_repr(features)


def make_ordered_batches(part: Split, device: torch.device) -> Batches:
    """Make batches of the data of a split, in their order, on the device."""
    return Batches(part.parts, EVALUATION_BATCH, shuffle=False, device=device)


@torch.no_grad()
def apply_in_chunks(
    function: Callable[..., Tensor], *tensors: Tensor, device: torch.device
) -> Tensor:
    """Apply a function to tensors in chunks of bounded size, and return the results on the CPU."""
    parts = zip(*(t.split(EVALUATION_BATCH) for t in tensors), strict=True)
    return torch.cat([function(*(t.to(device) for t in part)).cpu() for part in parts])
