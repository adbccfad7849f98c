"""The options of a training run, the same for YAML, the command line and Python.

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

__all__ = [
    "MAX_PARTICLES",
    "RunConfig",
    "explain",
    "from_yaml",
    "read_config",
    "to_yaml",
    "validate",
]

Network = Literal["mlp", "conv", "residual"]
Binarise = Literal["none", "static", "dynamic"]
Schedule = Literal["constant", "cosine"]
_HIDDEN = Parameter(show=False, parse=False)
Declared = Annotated[str | dict[str, Any], _HIDDEN]
"""A name, or settings with a name. The command line has a parameter of its own for it."""
MaybeDeclared = Annotated[str | dict[str, Any] | None, _HIDDEN]
"""Likewise, or None, which stands for a default that depends on other options or the data."""

_TOO_LARGE = 2**31
"""Sizes and counts are below this."""

_LARGEST = 1e38
"""About the largest number in single precision."""

_MAX_WIDTH = 10_000_000
"""The largest number of latent dimensions, or of units in a layer."""

_MAX_LAYERS = 100
"""The largest number of hidden layers."""

_MAX_SHARDS = 10_000
"""The largest number of parts of a batch."""

MAX_PARTICLES = 10_000
"""The largest number of samples of each datum's latents in the test ELBO."""

Width = Annotated[int, Field(ge=1, le=_MAX_WIDTH)]


class RunConfig(BaseModel):
    """Everything that determines a run. Options that are None (null) are chosen from the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Annotated[str, Parameter(show=False, parse=False)] = Field(
        "digits", description="Data set, or path of a .npz, .npy or .csv file."
    )
    data_root: Path | None = Field(
        None, description="Folder with torchvision data sets. Default: the variable PYROVAE_DATA."
    )
    download: bool = Field(False, description="Download the data set if it is not in the folder.")
    label: str | None = Field(None, description="CSV column with the class of each row.")
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of the training data to hold out for validation."
    )
    binarise: Binarise | None = Field(
        None,
        description="Binarise grey pixels at random: once (static) or at each step (dynamic). "
        "Default: dynamic for grey images with a Bernoulli likelihood, else none.",
    )
    dequantise: bool = Field(
        False,
        description="Add uniform noise to whole numbers at each step. The ELBO of a density then "
        "bounds the log probability mass of the data.",
    )
    exposure: str | None = Field(
        None, description="CSV column with the exposure of each row, for likelihoods of counts."
    )
    missing: bool | None = Field(
        None, description="Whether values may be missing (NaN). Default: whether some are."
    )
    model: Declared = Field(
        "vae",
        description="Model: vae, autoencoder, ppca, hierarchical, mixture, conditional or "
        'semi_supervised (see pyrovae parts). With settings: "{name: hierarchical, '
        'latent_dims: [20, 10]}". Default: vae.',
    )
    prior: MaybeDeclared = Field(
        None,
        description="Prior p(z): standard, learned, mixture, vamp or flow (see pyrovae parts). "
        "With settings: "
        '"{name: vamp, num_components: 500}". Default: the one that suits the posterior.',
    )
    posterior: MaybeDeclared = Field(
        None,
        description="Posterior q(z|x): diagonal, full_rank, low_rank, iaf, spline, concrete or "
        "straight_through (see pyrovae parts). Default: diagonal.",
    )
    inference: Declared = Field(
        "amortised",
        description="How to find q(z|x): amortised (by an encoder network), semi_amortised "
        "(encoder refined by gradient steps) or free (own parameters for each datum). "
        "Default: amortised.",
    )
    likelihood: MaybeDeclared = Field(
        None,
        description="Likelihood p(x|z): Bernoulli, Binomial, Categorical, Normal, Poisson or "
        "another Pyro distribution (see pyrovae likelihoods); infer chooses one for each column "
        'of a table. With settings: "{family: Normal, scale: 0.1}". Default: one that suits the '
        "data.",
    )
    objective: MaybeDeclared = Field(
        None,
        description="Training objective: elbo, beta, capacity, free_bits, beta_tc, info, iwae, "
        "stl, dreg, renyi, miwae, piwae, ciwae, rws, wake_sleep or enumerated (see pyrovae parts). "
        "With settings: "
        '"{name: beta, beta: 4}". Default: elbo, or what the model needs.',
    )
    num_labels: int | None = Field(
        None,
        ge=1,
        lt=_TOO_LARGE,
        description="Number of training labels that a semi-supervised model sees, the same for "
        "each class. Default: all.",
    )
    latent_dim: int = Field(20, ge=1, le=_MAX_WIDTH, description="Number of latent dimensions.")
    network: Network = Field("mlp", description="Network of encoder and decoder.")
    hidden: tuple[Width, ...] = Field(
        (400,), max_length=_MAX_LAYERS, description="Widths of the hidden layers of the MLP."
    )
    epochs: int = Field(100, ge=1, lt=_TOO_LARGE, description="Passes through the training data.")
    batch_size: int = Field(128, ge=1, lt=_TOO_LARGE, description="Number of data in a minibatch.")
    lr: float = Field(
        1e-3, gt=0, le=_LARGEST, allow_inf_nan=False, description="Learning rate of Adam."
    )
    schedule: Schedule = Field("constant", description="Learning-rate schedule.")
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="Compile the training step: if it saves time (auto), from the second step on "
        "(true), or never (false).",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        le=_LARGEST,
        allow_inf_nan=False,
        description="Clip the gradient of the loss per datum to this global norm.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        lt=_TOO_LARGE,
        description="Stop after this many epochs without a lower validation loss, and return to "
        "the best epoch.",
    )
    non_finite: Literal["stop", "skip"] = Field(
        "stop",
        description="What to do when the loss or gradient is not finite: stop with the parameters "
        "from before that step, or skip the update.",
    )
    shards: int | None = Field(
        None,
        ge=1,
        le=_MAX_SHARDS,
        description="Number of parts of each batch, each with its own noise, to divide among "
        "torchrun's processes. Default: the number of processes.",
    )
    num_particles: int = Field(
        10,
        ge=1,
        le=MAX_PARTICLES,
        description="Number of samples of z per datum in the test ELBO.",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Random seed of everything except the data splits, which are fixed.",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps.")
    output: Path | None = Field(
        None, description="New or empty run directory. Default: runs/DATA-TIME."
    )
    from_run: Annotated[Path | None, Parameter(name="--from")] = Field(
        None,
        description="Run directory whose model and weights to start from, on data with the same "
        "columns. Options of the model are those of that run.",
    )


_MAX_CHARACTERS = 2_000_000
"""How much of a file is read; a file of options is shorter."""

_PLAIN_MESSAGES = {
    "tuple_type": "it must be a list, as in [400]",
    "path_type": "it must be a path",
    "bool_type": "it must be true or false",
}
"""Plainer messages for some of pydantic's types of errors."""


def read_config(path: Path | None, overrides: Mapping[str, Any]) -> RunConfig:
    """Read the options of a YAML file, and override them by others.

    Arguments:
        path: the file; None for the default options.
        overrides: options that replace those of the file.

    Raises:
        InputError: if the file cannot be read, or an option is unknown or has an invalid value.
    """
    options: Any = {}
    if path is not None:
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(_MAX_CHARACTERS)
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not YAML in UTF-8; save it as UTF-8") from error
        except (OSError, ValueError) as error:  # ValueError: the name contains NUL
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
    return validate({**options, **overrides}, str(path) if path else "options")


def validate(options: Mapping[str, Any], source: str) -> RunConfig:
    """Return a configuration with these options.

    Arguments:
        options: by name; others have their defaults.
        source: where the options are from, for the error message.

    Raises:
        InputError: naming the first option that is unknown or has an invalid value.
    """
    try:
        return RunConfig.model_validate(dict(options))
    except ValidationError as error:
        raise InputError(f"{source}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Return pydantic's first error as one sentence that names the nearest valid word."""
    first = error.errors()[0]
    if not first["loc"]:
        return f"names of options must be words; got {short_repr(first['input'])}"
    key, given = str(first["loc"][0]), short_repr(first["input"])
    if first["type"] == "extra_forbidden":
        return f"unknown option {short_repr(key)}: {did_you_mean(key, RunConfig.model_fields)}"
    if first["type"] == "literal_error":
        known = [
            word.strip().strip("'")
            for word in first["ctx"]["expected"].replace(" or ", ",").split(",")
        ]
        return f"{key} cannot be {given}: {did_you_mean(str(first['input']), known)}"
    message = _PLAIN_MESSAGES.get(first["type"], first["msg"])
    return f"{key} cannot be {given}: {message[0].lower()}{message[1:]}"


def from_yaml(text: str, option: str) -> Any:
    """Read the value of an option from the command line as YAML.

    >>> from_yaml("{family: Normal, scale: 0.1}", "likelihood")
    {'family': 'Normal', 'scale': 0.1}

    Raises:
        InputError: if the text is not YAML, or is empty.
    """
    try:
        value = parse_yaml(text)
    except InputError as error:
        raise InputError(f"{option} cannot be {short_repr(text)}: {error}") from None
    if value is None:
        raise InputError(f"{option} cannot be {short_repr(text)}: give a word, or settings in YAML")
    return value


def to_yaml(config: RunConfig) -> str:
    """Return the configuration as the text of a YAML file, which ``--config`` can read."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
