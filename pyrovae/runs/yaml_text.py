"""YAML as plain values: words, numbers, lists and settings, and nothing that takes a machine down.

This module does not import torch.
"""

from typing import Any

import yaml

from ..errors import InputError

__all__ = ["parse_yaml"]

_LONGEST = 1_000_000
"""Characters."""

_MOST = 100_000
"""Values, each counted as often as an alias repeats it."""

_DEEPEST = 50

_LARGEST_BITS = 1024
"""Beyond it, a whole number is more than a float may be."""

_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """Dates are words."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag != _TIMESTAMP]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parse_yaml(text: str) -> Any:
    """What YAML means, where it is of None, truth values, numbers, words, lists and mappings.

    >>> parse_yaml("{family: Normal, scale: 0.1}")
    {'family': 'Normal', 'scale': 0.1}

    Raises:
        InputError: if the text is no YAML, or holds other things, or too much; it says what is
            wrong, to be put after the name of the text and a colon.
    """
    if len(text) > _LONGEST:
        raise InputError(f"it is longer than {_LONGEST:,} characters; options are shorter")
    loader: Any = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        value = loader.construct_document(node)
    except InputError:
        raise
    except yaml.YAMLError as error:
        raise InputError(f"it is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise InputError(f"it is nested too deeply; {_DEEPEST} levels are enough") from None
    except (ValueError, OverflowError, LookupError, TypeError, AttributeError) as error:
        # Of PyYAML, where a value is none of its tag: a month 13, or an integer without digits.
        reason = " ".join(str(error).split())
        raise InputError(f"it is not YAML: {reason or type(error).__name__}") from error
    finally:
        if loader is not None:
            loader.dispose()
    return _plain(value)


def _measure(node: Any, known: dict[int, int], depth: int = 1) -> int:
    """How many values there are in a node, were each alias written out.

    Raises:
        InputError: if they are too many, or never end.
    """
    if depth > _DEEPEST:
        raise InputError(f"it is nested too deeply; {_DEEPEST} levels are enough")
    if id(node) in known:
        return known[id(node)]
    size = 1
    if isinstance(node, yaml.MappingNode):
        size += sum(_measure(each, known, depth + 1) for pair in node.value for each in pair)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_measure(each, known, depth + 1) for each in node.value)
    if size > _MOST:
        raise InputError(f"it holds more than {_MOST:,} values; options are fewer")
    known[id(node)] = size
    return size


def _plain(value: Any) -> Any:
    """The value with words for names, which YAML may take for numbers.

    Raises:
        InputError: if it is, or holds, something else.
    """
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
        raise InputError(f"it holds a whole number of more than {_LARGEST_BITS} bits")
    if not isinstance(value, str | bool | int | float | None):
        raise InputError(
            f"it holds a {type(value).__name__}; options are words, numbers, lists and mappings"
        )
    return value
