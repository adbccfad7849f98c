"""Invalid values of options: extreme numbers, unusual text, nested values and malformed YAML."""

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
"""Numbers that are very large, very small, negative, zero or not finite."""

arbitrary_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), extreme_numbers, unusual_text),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(unusual_text, st.integers()), inner)
    ),
    max_leaves=4,
)
"""None, booleans, unusual text, extreme numbers, and lists and dictionaries of all these."""


def _alias_bomb(levels: int) -> str:
    """YAML aliases that expand to a list of 10^levels words."""
    lines = ["a0: &a0 [x]"]
    for i in range(1, levels + 1):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    return "{" + ", ".join(lines) + "}"


def _merge_bomb(levels: int) -> str:
    """YAML mappings that each merge the one before ten times."""
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
            _alias_bomb(9),
            _merge_bomb(7),
        ]
    ),
    st.text(alphabet=" \n:-[]{},&*!|>'\"%@`#ab1.", max_size=40),
)
"""Text that is not YAML, and YAML whose value is not valid for any option."""


def as_yaml(value: Any) -> str:
    """Format a value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")
