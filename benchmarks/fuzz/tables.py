"""CSV files with unusual cells, names, separators and encodings, and malformed ones."""

from hypothesis import strategies as st

from .harness import Case
from .mutations import mutated_bytes
from .options import small_table

__all__ = ["tables_to_impute", "tables_to_train_on"]

_cells = st.one_of(
    st.integers(-5, 5).map(str),
    st.floats(-9, 9).map(repr),
    st.sampled_from(
        [
            "",
            " ",
            "NA",
            "nan",
            "NaN ",
            "inf",
            "-inf",
            "Infinity",
            "1e400",
            "1e39",
            "-1e308",
            "1e-320",
            "9" * 25,
            "9" * 400,
            "9" * 5000,
            "0x1F",
            "1_000",
            "1,5",
            '"',
            '""',
            '"a',
            'a"b',
            '"1"',
            '"1,2"',
            "'1'",
            "True",
            "word",
            "x" * 70_000,
            "\0",
            "1\0",
            "\ufeff1",
            "\u202e",
            "é",
            "١٢",
            "½",
            "2001-01-01",
            "12:30",
            "1+2j",
            "[/x]",
            "$x$",
            "=1+1",
            "\x1b[31m",
            "\r",
            "\x85",
            "\u2028",
        ]
    ),
    st.text(max_size=6),
)

_numbers = st.one_of(st.integers(-9, 9).map(str), st.floats(-9, 9).map(lambda x: f"{x:.2f}"))

_names = st.one_of(
    st.sampled_from(["a", "b", "c", "a ", "A", "", "1", "1.0", "nan", "a_low"]),
    st.sampled_from(["[/b]", "$x^$", '"q"']),
    st.text(max_size=8),
)

_LINE_ENDS = ("\n", "\r\n", "\r", "\n\n", ",\n", "\n ")
_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252")


@st.composite
def _tables(draw: st.DrawFn) -> bytes:
    """Draw a table of up to 30 rows, some with unusual cells, names, separators or encoding."""
    width = draw(st.integers(1, 4))
    height = draw(st.sampled_from([0, 1, 2, 3, 12, 30, 30, 30]))
    base = draw(st.lists(_numbers, min_size=5, max_size=12))
    rows = [
        [base[(i * (j + 2) + i // 3 + j) % len(base)] for j in range(width)] for i in range(height)
    ]
    for _ in range(draw(st.integers(0, 4)) if height else 0):
        rows[draw(st.integers(0, height - 1))][draw(st.integers(0, width - 1))] = draw(_cells)
    if height and draw(st.integers(0, 9)) == 0:
        column, cell = draw(st.integers(0, width - 1)), draw(_cells)
        for row in rows:
            row[column] = cell
    if height and draw(st.integers(0, 9)) == 0:
        rows[draw(st.integers(0, height - 1))] = draw(st.lists(_cells, max_size=6))
    if draw(st.integers(0, 3)):
        usual = [["a", "b", "c", "d"][:width]]
        unusual = st.lists(_names, min_size=width, max_size=width)
        rows = [*(usual if draw(st.integers(0, 2)) else [draw(unusual)]), *rows]
    line_end = draw(st.one_of(*[st.just("\n")] * 4, st.sampled_from(_LINE_ENDS)))
    separator = draw(st.one_of(*[st.just(",")] * 8, st.sampled_from([";", "\t", ", ", "|", " "])))
    text = line_end.join(separator.join(row) for row in rows)
    text += draw(st.sampled_from(["\n", "", "\n\n"]))
    encoding = draw(st.one_of(*[st.just("utf-8")] * 6, st.sampled_from(_ENCODINGS)))
    return text.encode(encoding, "replace" if "utf" not in encoding else "surrogatepass")


def _files() -> st.SearchStrategy[bytes]:
    return st.one_of(
        _tables(),
        _tables(),
        _tables(),
        mutated_bytes(small_table()),
        _tables().flatmap(mutated_bytes),
        st.sampled_from(
            [
                b"",
                b"\n",
                b"\xff\xfe",
                b"\xef\xbb\xbf",
                b"\0" * 100,
                b"," * 50_000,
                b"a" * 300_000,
                b'"' + b"a,b\n" * 1000,
                b"a,b\n" * 2000,
                b"a,a\n1,2\n" * 20,
                b"PK\x03\x04",
                b"\x1f\x8b\x08\0",
            ]
        ),
    )


_TRAIN_OPTIONS: tuple[tuple[str, ...], ...] = (
    (),
    (),
    (),
    ("--likelihood", "infer"),
    ("--likelihood", "infer"),
    ("--label", "a"),
    ("--exposure", "a", "--likelihood", "poisson", "--likelihood.exposure", "true"),
    ("--likelihood", "{family: Mixed, blocks: [{columns: [a, b], likelihood: Normal}]}"),
    ("--missing",),
    ("--model", "ppca"),
    ("--label", "b", "--model", "semi_supervised"),
)


def tables_to_train_on() -> st.SearchStrategy[Case]:
    """Run ``train`` on unusual and malformed tables."""

    def make_case(table: bytes, options: tuple[str, ...]) -> Case:
        short = ("--epochs", "1", "--hidden", "4", "--latent-dim", "2", "--device", "cpu")
        arguments = ("train", "t.csv", "--output", "run", *short, *options)
        return Case(arguments, {"t.csv": table}, "tables to train on")

    return st.builds(make_case, _files(), st.sampled_from(_TRAIN_OPTIONS))


_IMPUTE_OPTIONS: tuple[tuple[str, ...], ...] = (
    (),
    (),
    (),
    ("--likelihood", "StudentT"),
    ("--likelihood", "{family: Mixed, blocks: [{columns: [a], likelihood: Poisson}]}"),
    ("--imputations", "2"),
    ("--level", "0.999"),
    ("--latent-dim", "1000000000"),
)


def tables_to_impute() -> st.SearchStrategy[Case]:
    """Run ``impute`` on unusual and malformed tables."""

    def make_case(table: bytes, options: tuple[str, ...]) -> Case:
        arguments = ("impute", "t.csv", "--output", "filled.csv", "--steps", "2", *options)
        return Case(arguments, {"t.csv": table}, "tables to impute")

    return st.builds(make_case, _files(), st.sampled_from(_IMPUTE_OPTIONS))
