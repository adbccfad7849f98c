"""Read YAML safely: only plain values, and no text that would exhaust time or memory.

This module does not import torch.
"""

from typing import Any

import yaml

from ..errors import InputError

__all__ = ["parse_yaml"]

_MAX_CHARACTERS = 1_000_000

_MAX_VALUES = 100_000
"""A value counts as often as aliases repeat it."""

_MAX_DEPTH = 50

_MAX_BITS = 1024
"""A whole number with more bits does not fit into a float."""

_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """Reads dates as words."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag != _TIMESTAMP]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parse_yaml(text: str) -> Any:
    """Parse YAML that holds None, truth values, numbers, words, lists and mappings.

    >>> parse_yaml("{family: Normal, scale: 0.1}")
    {'family': 'Normal', 'scale': 0.1}

    Raises:
        InputError: if the text is not YAML, or holds other things or too much. The message starts
            with "it", so that callers can put the name of the text and a colon before it.
    """
    if len(text) > _MAX_CHARACTERS:
        raise InputError(f"it is longer than {_MAX_CHARACTERS:,} characters; options are shorter")
    loader: Any = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        value = loader.construct_document(node)
    except InputError:
        raise
    except yaml.YAMLError as error:
        raise InputError(f"it is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise InputError(f"it is nested too deeply; {_MAX_DEPTH} levels are enough") from None
    except (ValueError, OverflowError, LookupError, TypeError, AttributeError) as error:
        # PyYAML raises these if a value does not fit its tag, such as an integer without digits.
        reason = " ".join(str(error).split())
        raise InputError(f"it is not YAML: {reason or type(error).__name__}") from error
    finally:
        if loader is not None:
            loader.dispose()
    return _check_plain(value)


def _count_values(node: Any, known: dict[int, int], depth: int = 1) -> int:
    """Count the values in a node, with each alias written out.

    Raises:
        InputError: if there are too many, or the nesting is too deep or endless.
    """
    if depth > _MAX_DEPTH:
        raise InputError(f"it is nested too deeply; {_MAX_DEPTH} levels are enough")
    if id(node) in known:
        return known[id(node)]
    size = 1
    if isinstance(node, yaml.MappingNode):
        size += sum(_count_values(each, known, depth + 1) for pair in node.value for each in pair)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_count_values(each, known, depth + 1) for each in node.value)
    if size > _MAX_VALUES:
        raise InputError(f"it holds more than {_MAX_VALUES:,} values; options are fewer")
    known[id(node)] = size
    return size


def _check_plain(value: Any) -> Any:
    """Return the value with all keys as words, because YAML may read some as numbers.

    Raises:
        InputError: if it is, or holds, anything that is not plain.
    """
    if isinstance(value, dict):
        return {str(_check_plain(key)): _check_plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_check_plain(each) for each in value]
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise InputError(f"it holds a whole number of more than {_MAX_BITS} bits")
    if not isinstance(value, str | bool | int | float | None):
        raise InputError(
            f"it holds a {type(value).__name__}; options are words, numbers, lists and mappings"
        )
    return value
