"""The options of a training run: one list for YAML, the command line and Python.

This module does not import torch, so that ``--help`` and a misspelt option answer at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import InputError, did_you_mean, error_reason, short_repr
from .yaml_text import parse_yaml

__all__ = ["RunConfig", "explain", "from_yaml", "read_config", "to_yaml", "validated"]

Network = Literal["mlp", "conv", "residual"]
Binarise = Literal["none", "static", "dynamic"]
Schedule = Literal["constant", "cosine"]
_Own = Parameter(show=False, parse=False)
Declared = Annotated[str | dict[str, Any], _Own]
"""A name, or settings with a name, for which the command line has parameters of its own."""
Maybe = Annotated[str | dict[str, Any] | None, _Own]
"""Likewise, or what follows from the rest."""

_TOO_LARGE = 2**31
"""No size or number of anything is so large."""

_LARGEST = 1e38
"""Number of single precision, nearly."""

Width = Annotated[int, Field(ge=1, lt=_TOO_LARGE)]


class RunConfig(BaseModel):
    """Everything that determines a run. Options left out (null) follow from the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Annotated[str, Parameter(show=False, parse=False)] = Field(
        "digits", description="Data set, or path of a .npz, .npy or .csv."
    )
    data_root: Path | None = Field(
        None, description="Folder of torchvision data sets; else the variable PYROVAE_DATA."
    )
    download: bool = Field(False, description="Fetch a torchvision data set that is not there.")
    label: str | None = Field(None, description="Column of a CSV that holds the class.")
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Part of the training data set aside for validation."
    )
    binarise: Binarise | None = Field(
        None,
        description="Draw grey pixels to 0 or 1: once (static) or at each step (dynamic); "
        "dynamic for grey images under Bernoulli.",
    )
    dequantise: bool = Field(
        False,
        description="Add uniform noise to whole numbers, afresh at each step, so that a density "
        "bounds their log mass.",
    )
    exposure: str | None = Field(
        None, description="Column of a CSV that holds the exposure of each datum, for counts."
    )
    missing: bool | None = Field(
        None, description="Whether values may be missing; whether they are, unless given."
    )
    model: Declared = Field(
        "vae",
        description="Family: vae, autoencoder, ppca, hierarchical, mixture, conditional or "
        'semi_supervised; with settings: "{name: hierarchical, latent_dims: [20, 10]}".',
    )
    prior: Maybe = Field(
        None,
        description="p(z): standard, learned, mixture, vamp or flow; with settings: "
        '"{name: vamp, num_components: 500}". That of the posterior unless given.',
    )
    posterior: Maybe = Field(
        None,
        description="q(z|x): diagonal, full_rank, low_rank, iaf, spline, concrete or "
        "straight_through; diagonal unless given.",
    )
    inference: Declared = Field(
        "amortised",
        description="How q(z|x) is found: amortised, semi_amortised (refined by gradient steps) or "
        "free (of each datum by itself).",
    )
    likelihood: Maybe = Field(
        None,
        description="p(x|z): Bernoulli, Binomial, Categorical, Normal, Poisson or another Pyro "
        'distribution; with settings: "{family: Normal, scale: 0.1}".',
    )
    objective: Maybe = Field(
        None,
        description="What is maximised: elbo, beta, capacity, free_bits, beta_tc, info, iwae, stl, "
        "dreg, renyi, miwae, piwae, ciwae, rws, wake_sleep or enumerated; with settings: "
        '"{name: beta, beta: 4}"; what the model asks for unless given.',
    )
    num_labels: int | None = Field(
        None,
        ge=1,
        lt=_TOO_LARGE,
        description="Labels of training data that a semi-supervised model is told, as many of "
        "each class; all of them unless given.",
    )
    latent_dim: int = Field(20, ge=1, lt=_TOO_LARGE, description="Number of latent dimensions.")
    network: Network = Field("mlp", description="Bodies of encoder and decoder.")
    hidden: tuple[Width, ...] = Field((400,), description="Widths of the hidden layers of the MLP.")
    epochs: int = Field(100, ge=1, lt=_TOO_LARGE, description="Passes through the training data.")
    batch_size: int = Field(128, ge=1, lt=_TOO_LARGE, description="Data in a step.")
    lr: float = Field(
        1e-3, gt=0, le=_LARGEST, allow_inf_nan=False, description="Learning rate of Adam."
    )
    schedule: Schedule = Field("constant", description="Learning rate over the steps.")
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="Record the training step and compile it: where it pays (auto), from the "
        "second step on (true), or never (false).",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        le=_LARGEST,
        allow_inf_nan=False,
        description="Largest global norm of the gradient of the loss per datum.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        lt=_TOO_LARGE,
        description="Stop after this many epochs without a lower validation loss; keep the best.",
    )
    non_finite: Literal["stop", "skip"] = Field(
        "stop",
        description="What becomes of a step whose loss or gradient is not finite: the run stops, "
        "with parameters as before it, or its update is left out.",
    )
    shards: int | None = Field(
        None,
        ge=1,
        lt=_TOO_LARGE,
        description="Parts of each batch, each with noise of its own, that processes of torchrun "
        "share out; as many as there are processes unless given.",
    )
    num_particles: int = Field(
        10, ge=1, lt=_TOO_LARGE, description="Samples of z a datum in the test ELBO."
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of all randomness but the splits, which are fixed."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps.")
    output: Path | None = Field(
        None, description="Run directory, which must not hold a run; runs/DATA-TIME unless given."
    )


_LONGEST = 2_000_000
"""Characters that are read of a file; more are no options."""

_PLAINLY = {
    "tuple_type": "it must be a list, as in [400]",
    "path_type": "it must be a path",
    "bool_type": "it must be true or false",
}
"""What to say in place of pydantic's words for kinds of values."""


def read_config(path: Path | None, overrides: Mapping[str, Any]) -> RunConfig:
    """The options of a YAML file, overridden by those given elsewhere.

    Raises:
        InputError: if the file cannot be read, or a key or value is none that there is.
    """
    options: Any = {}
    if path is not None:
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(_LONGEST)
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not YAML in UTF-8; save it as UTF-8") from error
        except (OSError, ValueError) as error:  # a ValueError where NUL is in the name
            raise InputError(f"cannot read {path}: {error_reason(error)}") from error
        try:
            options = parse_yaml(text)
        except InputError as error:
            raise InputError(f"{path} cannot be used: {error}") from None
        options = {} if options is None else options
        if not isinstance(options, dict):
            raise InputError(
                f"{path} must hold options, as in 'epochs: 10'; got {short_repr(options)}"
            )
    return validated({**options, **overrides}, str(path) if path else "options")


def validated(options: Mapping[str, Any], source: str) -> RunConfig:
    """A configuration of these options.

    Raises:
        InputError: one sentence on the first option that is unknown or has no such value.
    """
    try:
        return RunConfig.model_validate(dict(options))
    except ValidationError as error:
        raise InputError(f"{source}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """The first complaint of pydantic as one sentence that names the nearest right word."""
    first = error.errors()[0]
    if not first["loc"]:
        return f"options are named by words; got {short_repr(first['input'])}"
    key, given = str(first["loc"][0]), short_repr(first["input"])
    if first["type"] == "extra_forbidden":
        return f"unknown option {short_repr(key)}: {did_you_mean(key, RunConfig.model_fields)}"
    if first["type"] == "literal_error":
        known = [
            word.strip().strip("'")
            for word in first["ctx"]["expected"].replace(" or ", ",").split(",")
        ]
        return f"{key} cannot be {given}: {did_you_mean(str(first['input']), known)}"
    message = _PLAINLY.get(first["type"], first["msg"])
    return f"{key} cannot be {given}: {message[0].lower()}{message[1:]}"


def from_yaml(text: str, option: str) -> Any:
    """What an option written on the command line would mean in the YAML file.

    >>> from_yaml("{family: Normal, scale: 0.1}", "likelihood")
    {'family': 'Normal', 'scale': 0.1}

    Raises:
        InputError: if it means nothing.
    """
    try:
        value = parse_yaml(text)
    except InputError as error:
        raise InputError(f"{option} cannot be {short_repr(text)}: {error}") from None
    if value is None:
        raise InputError(
            f"{option} cannot be {short_repr(text)}: it must be a word, or settings in YAML"
        )
    return value


def to_yaml(config: RunConfig) -> str:
    """The configuration as a YAML file that ``--config`` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
