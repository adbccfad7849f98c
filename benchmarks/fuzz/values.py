"""Values that are of no type that anybody asked for, as YAML and as words of a command line."""

from typing import Any

import yaml
from hypothesis import strategies as st

__all__ = ["arbitrary_values", "as_yaml", "extreme_numbers", "malformed_yaml", "unusual_text"]

unusual_text = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            " ",
            "\n",
            "\0",
            "\ud800",
            "\udcff",
            "é\u0301",
            "\u202etxt",
            "[/bold]",
            "[red]",
            ":smile:",
            "$x^$",
            "a\nb",
            "\x1b[2J",
            "\ufeffa",
            "../../etc",
            "~",
            "-",
            "--",
            "None",
            "nan",
            "{",
            "%s%n",
            "x" * 5000,
        ]
    ),
)

_HUGE = [10**9, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**19, 10**30, 10**400]

extreme_numbers = st.one_of(
    st.sampled_from([0, -1, -(10**9), -(2**63), -(10**30), *_HUGE]),
    st.sampled_from([0.0, -0.0, 1e-320, -1e308, 1e308, float("nan"), float("inf"), -float("inf")]),
    st.floats(-3, 1),
    st.integers(-3, 3),
)
"""Numbers that are too large, too small, or none."""

arbitrary_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), extreme_numbers, unusual_text),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(unusual_text, st.integers()), inner)
    ),
    max_leaves=4,
)
"""None, truth values, words, numbers that are too large or none at all, and lists of all these."""


def _bomb(levels: int) -> str:
    """A list that would hold 10^levels words, were it written out."""
    lines = ["a0: &a0 [x]"]
    for i in range(1, levels + 1):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    return "{" + ", ".join(lines) + "}"


def _merged(levels: int) -> str:
    """Settings that hold those before them ten times over."""
    lines = ["m0: &m0 {x: 1}"]
    for i in range(1, levels + 1):
        lines.append(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 10)}]}}")
    return "{" + ", ".join(lines) + "}"


malformed_yaml = st.one_of(
    st.sampled_from(
        [
            "[" * 3000,
            "[" * 300 + "]" * 300,
            "{a: " * 2000 + "1" + "}" * 2000,
            "- " * 500,
            "9" * 5000,
            "0x" + "f" * 9000,
            "1:" * 3000 + "1",
            "1e400",
            "2001-99-99",
            "2001-01-01",
            "2001-01-01 25:61:61",
            "!!python/object/apply:os.system [touch ../outside/harm]",
            "!!python/name:os.system",
            "!!binary '*'",
            "!!binary aGVsbG8=",
            "!!set {a, b}",
            "!!omap [a: 1]",
            "!!int x",
            "!!float x",
            "!!bool maybe",
            "!!timestamp x",
            "!unknown x",
            "&a [*a]",
            "&a {a: *a}",
            "*nowhere",
            "{[1, 2]: 3}",
            "{{a: 1}: 3}",
            "? [a, b]\n: c",
            "{1: 2}",
            "{null: 2}",
            "{true: 2}",
            "{1.5: 2}",
            "<<: 3",
            "{<<: [1, 2]}",
            "a: 1\na: 2",
            "--- 1\n--- 2",
            "%YAML 9.9\n---\na: 1",
            "\t- x",
            "'unclosed",
            '"\\ud800"',
            '"\\x00"',
            '"\\UFFFFFFFF"',
            "a: b: c",
            "| \n x",
            _bomb(9),
            _merged(7),
        ]
    ),
    st.text(alphabet=" \n:-[]{},&*!|>'\"%@`#ab1.", max_size=40),
)
"""Text that is no YAML, or YAML that means what no option is."""


def as_yaml(value: Any) -> str:
    """One line that means the value."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")
