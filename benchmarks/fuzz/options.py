"""Options that cannot be: of wrong types and sizes, unknown, nested without end."""

import inspect
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from pyrovae.infer.objectives.catalogue import OBJECTIVES
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

_NOT_SHORT = ("epochs", "download", "device", "compile")
"""Options that are given as numbers and words that make them wrong, and no others."""

_wrong = st.one_of(extreme_numbers, st.lists(extreme_numbers, max_size=3), arbitrary_values)

_OPTIONS = sorted(set(RunConfig.model_fields) - set(_NOT_SHORT))

_CATALOGUES: dict[str, dict[str, Any]] = {
    "model": MODELS,
    "prior": PRIORS,
    "posterior": POSTERIORS,
    "objective": OBJECTIVES,
    "likelihood": {name: family.distribution for name, family in FAMILIES.items()},
    "inference": dict.fromkeys(("amortised", "semi_amortised", "free"), lambda num_steps: None),
}

_KEPT_SHORT = ("num_steps", "steps", "num_transforms", "num_layers", "wake_steps", "period")
"""Settings by which a fit may be made as long as anyone likes."""


def small_table() -> bytes:
    """A table that can be trained on: 40 rows of three columns of numbers."""
    rows = (f"{i % 7 - 3}.{i % 9},{(i * i) % 11 / 4 - 1},{(i * 5) % 13 - 6}" for i in range(40))
    return "\n".join(["a,b,c", *rows, ""]).encode()


def _train(*arguments: str, kind: str, **files: bytes) -> Case:
    tree = {"table.csv": small_table(), **{name.replace("_", "."): f for name, f in files.items()}}
    start = ("train", *(() if "table.csv" in arguments else ("table.csv",)))
    return Case((*start, *arguments, "--epochs", "1"), tree, kind)


def yaml_texts() -> st.SearchStrategy[Case]:
    """YAML files whose text is rubbish, as a whole or in the place of an option."""
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
    return data.map(lambda each: _train("--config", "c.yaml", *OUT, kind="YAML text", c_yaml=each))


OUT = ("--output", "run", *TINY)


def yaml_options() -> st.SearchStrategy[Case]:
    """YAML files with an option, or several, of a wrong value."""
    name = st.one_of(*[st.sampled_from(_OPTIONS)] * 9, unusual_text)
    options = st.dictionaries(name, _wrong, min_size=1, max_size=1)

    def made(given: dict[str, Any]) -> Case:
        lines = [f"{as_yaml(key)}: {as_yaml(value)}" for key, value in given.items()]
        text = "\n".join(["epochs: 1", *_tiny_beside(given), *lines])
        data = text.encode("utf-8", "surrogatepass")
        output = () if given.get("output") is not None else ("--output", "run")
        return _train("--config", "c.yaml", *output, kind="options in YAML", c_yaml=data)

    return options.map(made)


def _tiny_beside(given: Iterable[str]) -> list[str]:
    tiny = {"hidden": "[4]", "latent_dim": "2", "batch_size": "64"}
    return [f"{key}: {value}" for key, value in tiny.items() if key not in given]


def command_lines() -> st.SearchStrategy[Case]:
    """Options of a wrong value on the command line."""
    known = st.sampled_from([name.replace("_", "-") for name in _OPTIONS])
    value = st.one_of(_wrong.map(as_yaml), unusual_text, malformed_yaml)
    words = st.one_of(
        st.tuples(known.map("--{}".format), value),
        st.builds("--{}={}".format, known, value).map(lambda word: (word,)),
        st.builds("--{}.{}".format, known, unusual_text).map(lambda word: (word, "1")),
        st.tuples(unusual_text, unusual_text),
    )

    def made(given: tuple[str, ...]) -> Case:
        # An argument of a program cannot hold a NUL, nor what UTF-8 cannot.
        clean = [word.replace("\0", "").encode("utf-8", "ignore").decode() for word in given]
        return _train(*OUT, *clean, kind="command lines")

    return words.map(made)


def part_settings() -> st.SearchStrategy[Case]:
    """Models, priors, posteriors, likelihoods and objectives with rubbish for settings."""
    return st.sampled_from(sorted(_CATALOGUES)).flatmap(_declared)


def _declared(part: str) -> st.SearchStrategy[Case]:
    key = "family" if part == "likelihood" else "name"

    def of(name: str) -> st.SearchStrategy[Case]:
        settings = inspect.signature(_CATALOGUES[part][name]).parameters
        known = sorted(set(settings) - {"self", "args", "kwargs", *_KEPT_SHORT})
        known = known or ["name"]
        chosen = st.one_of(*[st.sampled_from(known)] * 5, unusual_text)
        given = st.dictionaries(chosen, _wrong, min_size=1, max_size=2)

        def made(rubbish: dict[str, Any]) -> Case:
            text = f"{part}: {as_yaml({key: name, **rubbish})}"
            data = text.encode("utf-8", "surrogatepass")
            return _train("--config", "c.yaml", *OUT, kind="declared parts", c_yaml=data)

        return given.map(made)

    return st.sampled_from(sorted(_CATALOGUES[part])).flatmap(of)
