"""Start a run from the model and the weights of an earlier one."""

from pathlib import Path
from typing import Any

from ..data import Dataset
from ..errors import InputError, short_repr
from ..models.base import LatentVariableModel
from ..models.pca import ProbabilisticPCA
from .config import RunConfig, read_config
from .directory import RunDirectory
from .resolve import as_settings
from .trained import Trained, model_options, open_run

__all__ = ["check_options", "options_from", "recode_as", "start_from"]


def options_from(path: Path, config: Path | None, given: dict[str, Any]) -> RunConfig:
    """The options of a run that starts from an earlier one: of the model, those of that run.

    Arguments:
        path: directory of the earlier run.
        config: YAML file of options, if any.
        given: options that were given.

    Raises:
        InputError: if the earlier run cannot be read, or an option of the model is given too.
    """
    options = model_options(RunDirectory.open(path).read_config())
    for name in given:
        if name in options:
            raise InputError(
                f"--from takes the model of {path}, so leave out --{name.replace('_', '-')}"
            )
    if "data" not in given:
        raise InputError("--from needs data to train on; name them before it")
    return read_config(config, {**options, **given, "from_run": path.resolve()})


def check_options(config: RunConfig) -> None:
    """Check that options from a file are those of the model to start from.

    Raises:
        InputError: naming the first that is not.
    """
    if config.from_run is None:
        return
    ours, theirs = (
        model_options(each) for each in (config, RunDirectory.open(config.from_run).read_config())
    )
    for name, value in theirs.items():
        if ours[name] != value:
            raise InputError(
                f"from_run takes the model of {config.from_run}, whose {name} is "
                f"{short_repr(value)}, but the options say {short_repr(ours[name])}; leave it out"
            )


def start_from(path: Path, dataset: Dataset) -> LatentVariableModel:
    """The model of an earlier run with its weights, on the CPU.

    Raises:
        InputError: if it cannot be trained on these data.
    """
    trained = open_run(path, "cpu")
    _check_data(trained, dataset)
    if isinstance(trained.family, ProbabilisticPCA):
        raise InputError("ppca is fitted in closed form, so it has no start; leave out --from")
    if as_settings(trained.config.inference)["name"] == "free":
        raise InputError(
            f"{path} keeps a q(z|x) for each of its own data (inference free), which new data do "
            "not have; train anew"
        )
    return trained.family.train()


def recode_as(path: Path, dataset: Dataset) -> Dataset:
    """The data with words and classes numbered as in an earlier run.

    Raises:
        InputError: if they hold others.
    """
    return open_run(path, "cpu").about.recode(dataset)


def _check_data(trained: Trained, dataset: Dataset) -> None:
    about, path = trained.about, trained.run.path
    if dataset.event_shape != about.event_shape:
        raise InputError(
            f"{dataset.name} has data of shape {dataset.event_shape}, but the model of {path} is "
            f"for {about.event_shape}"
        )
    if dataset.features != about.features:
        named = [", ".join(names or ("no names",)) for names in (dataset.features, about.features)]
        raise InputError(
            f"{dataset.name} has columns {named[0]}, but the model of {path} is for {named[1]}"
        )
