"""Invalid options of ``train``: wrong types, wrong sizes, unknown names, malformed YAML."""

import inspect
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from pyrovae.infer.objectives import OBJECTIVES
from pyrovae.likelihoods.families import FAMILIES
from pyrovae.models.catalogue import MODELS
from pyrovae.posteriors import POSTERIORS
from pyrovae.priors import PRIORS
from pyrovae.runs.config import RunConfig

from .harness import Case
from .values import arbitrary_values, as_yaml, extreme_numbers, malformed_yaml, unusual_text

__all__ = ["command_lines", "part_settings", "small_table", "yaml_options", "yaml_texts"]

TINY = ("--hidden", "4", "--latent-dim", "2", "--batch-size", "64", "--device", "cpu")
"""Options that make training short."""

_EXCLUDED = ("epochs", "download", "device", "compile")
"""Options that are never changed, because a valid random value could take minutes or download."""

_invalid = st.one_of(extreme_numbers, st.lists(extreme_numbers, max_size=3), arbitrary_values)

_OPTIONS = sorted(set(RunConfig.model_fields) - set(_EXCLUDED))

_CATALOGUES: dict[str, dict[str, Any]] = {
    "model": MODELS,
    "prior": PRIORS,
    "posterior": POSTERIORS,
    "objective": OBJECTIVES,
    "likelihood": {name: family.distribution for name, family in FAMILIES.items()},
    "inference": dict.fromkeys(("amortised", "semi_amortised", "free"), lambda num_steps: None),
}

_SLOW_SETTINGS = ("num_steps", "steps", "num_transforms", "num_layers", "wake_steps", "period")
"""Settings that are never changed, because a large value makes training arbitrarily slow."""


def small_table() -> bytes:
    """A valid table as CSV: 40 rows and three numeric columns."""
    rows = (f"{i % 7 - 3}.{i % 9},{(i * i) % 11 / 4 - 1},{(i * 5) % 13 - 6}" for i in range(40))
    return "\n".join(["a,b,c", *rows, ""]).encode()


def _train_case(*arguments: str, kind: str, **files: bytes) -> Case:
    tree = {"table.csv": small_table(), **{name.replace("_", "."): f for name, f in files.items()}}
    start = ("train", *(() if "table.csv" in arguments else ("table.csv",)))
    return Case((*start, *arguments, "--epochs", "1"), tree, kind)


def yaml_texts() -> st.SearchStrategy[Case]:
    """YAML files with malformed text, for the whole file or for the value of an option."""
    text = st.one_of(
        malformed_yaml,
        st.builds("{}: {}".format, st.sampled_from(_OPTIONS), malformed_yaml),
        unusual_text,
    )
    data = st.one_of(
        text.map(lambda each: each.encode("utf-8", "surrogatepass")),
        text.map(lambda each: each.encode("utf-16", "surrogatepass")),
        st.binary(max_size=40),
    )
    return data.map(lambda each: _config_case(each, "YAML text"))


_OUTPUT = ("--output", "run", *TINY)


def _config_case(data: bytes, kind: str) -> Case:
    return _train_case("--config", "c.yaml", *_OUTPUT, kind=kind, c_yaml=data)


def yaml_options() -> st.SearchStrategy[Case]:
    """YAML files with an invalid value for one option."""
    name = st.one_of(*[st.sampled_from(_OPTIONS)] * 9, unusual_text)
    options = st.dictionaries(name, _invalid, min_size=1, max_size=1)

    def make_case(given: dict[str, Any]) -> Case:
        lines = [f"{as_yaml(key)}: {as_yaml(value)}" for key, value in given.items()]
        text = "\n".join(["epochs: 1", *_tiny_options_except(given), *lines])
        data = text.encode("utf-8", "surrogatepass")
        output = () if given.get("output") is not None else ("--output", "run")
        return _train_case("--config", "c.yaml", *output, kind="options in YAML", c_yaml=data)

    return options.map(make_case)


def _tiny_options_except(given: Iterable[str]) -> list[str]:
    tiny = {"hidden": "[4]", "latent_dim": "2", "batch_size": "64"}
    return [f"{key}: {value}" for key, value in tiny.items() if key not in given]


def command_lines() -> st.SearchStrategy[Case]:
    """Options with invalid values, and unknown options, on the command line."""
    known = st.sampled_from([name.replace("_", "-") for name in _OPTIONS])
    value = st.one_of(_invalid.map(as_yaml), unusual_text, malformed_yaml)
    words = st.one_of(
        st.tuples(known.map("--{}".format), value),
        st.builds("--{}={}".format, known, value).map(lambda word: (word,)),
        st.builds("--{}.{}".format, known, unusual_text).map(lambda word: (word, "1")),
        st.tuples(unusual_text, unusual_text),
    )

    def make_case(given: tuple[str, ...]) -> Case:
        # The arguments of a process cannot contain NUL, or characters that UTF-8 cannot encode.
        clean = [word.replace("\0", "").encode("utf-8", "ignore").decode() for word in given]
        return _train_case(*_OUTPUT, *clean, kind="command lines")

    return words.map(make_case)


def part_settings() -> st.SearchStrategy[Case]:
    """Models, priors, posteriors, likelihoods and objectives with invalid settings."""
    return st.sampled_from(sorted(_CATALOGUES)).flatmap(_settings_of_part)


def _settings_of_part(part: str) -> st.SearchStrategy[Case]:
    key = "family" if part == "likelihood" else "name"

    def invalid_settings(name: str) -> st.SearchStrategy[Case]:
        settings = inspect.signature(_CATALOGUES[part][name]).parameters
        known = sorted(set(settings) - {"self", "args", "kwargs", *_SLOW_SETTINGS})
        known = known or ["name"]
        chosen = st.one_of(*[st.sampled_from(known)] * 5, unusual_text)
        given = st.dictionaries(chosen, _invalid, min_size=1, max_size=2)

        def make_case(values: dict[str, Any]) -> Case:
            text = f"{part}: {as_yaml({key: name, **values})}"
            return _config_case(text.encode("utf-8", "surrogatepass"), "declared parts")

        return given.map(make_case)

    return st.sampled_from(sorted(_CATALOGUES[part])).flatmap(invalid_settings)
