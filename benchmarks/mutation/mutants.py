"""The mutants of a source file: versions of it that differ in one operator, constant or call."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Mutant", "mutants_in", "mutants_of"]

_LEFT_OUT = ("infer/compiler/break_even.py", "infer/compiler/onednn.py", "gmm/pictures.py")
"""Files that decide only how fast a result is computed, or how a picture looks."""

_SWAPPED_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_SWAPPED_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_SWAPPED_NAMES = {
    "min": "max",
    "amin": "amax",
    "argmin": "argmax",
    "minimum": "maximum",
    "clamp_min": "clamp_max",
    "sum": "mean",
    "all": "any",
    "log": "log1p",
    "exp": "expm1",
    "movedim": "transpose",
}
_SWAPPED_NAMES |= {new: old for old, new in _SWAPPED_NAMES.items() if new != "transpose"}
_REMOVED_CALLS = frozenset({"abs", "detach", "exp", "log", "neg", "square"})
_SWAPPED_ARGUMENTS = {"where": (1, 2), "sub": (0, 1), "div": (0, 1), "Normal": (0, 1)}
_CALLS_LEFT_ALONE = frozenset({"warn", "cast", "TypeVar", "isinstance", "issubclass"})
_FUNCTIONS_LEFT_ALONE = frozenset({"__repr__", "__str__"})
_KEYWORDS_LEFT_ALONE = frozenset({"repr", "stacklevel", "strict"})
_LARGE_DEFAULT, _LARGE_LIMIT = 100, 1000
"""From here on, a default or a limit may be one more without a fault."""
_GENERIC_TYPES = frozenset(
    {"Bool", "Callable", "ClassVar", "Counter", "Float", "Int", "Iterable", "Iterator", "Literal"}
    | {"Mapping", "Sequence", "dict", "list", "set", "tuple", "type"}
)
_NUMERIC_TYPES = ("Tensor", "PerSample", "float", "Float[", "FloatArray")


class _Edit(NamedTuple):
    node: ast.expr | ast.stmt
    statement: int
    kind: str
    text: str


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        path: the file, from the root of the checkout, with slashes.
        line: line of the change, from 1.
        last_line: last line of the change.
        statement: first line of the statement that it is in.
        kind: kind of the change in a word or two.
        before: the expression or statement, as ``ast.unparse`` writes it.
        after: what stands there instead.
        start: first byte of the change.
        end: byte after its last.
    """

    path: str
    line: int
    last_line: int
    statement: int
    kind: str
    before: str
    after: str
    start: int
    end: int

    @property
    def change(self) -> tuple[str, str, str, str]:
        """The change without its place."""
        return self.path, self.kind, self.before, self.after

    def apply(self, source: bytes) -> bytes:
        """The file with the change."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def mutants_of(root: Path, wings: tuple[str, ...]) -> list[Mutant]:
    """All mutants of the files of some wings, in order of file and place.

    Arguments:
        root: root of the checkout.
        wings: folders or files in ``pyrovae/``, such as ``"infer"`` or ``"infer/pair"``.

    Raises:
        FileNotFoundError: if there is no such wing.
    """
    paths: set[Path] = set()
    for wing in wings:
        place = root / "pyrovae" / wing
        found = [place] if place.suffix == ".py" and place.is_file() else [*place.rglob("*.py")]
        if not found:
            raise FileNotFoundError(f"pyrovae/{wing} contains no Python file")
        paths.update(found)
    mutants = []
    for path in sorted(paths):
        name = path.relative_to(root).as_posix()
        if not name.endswith(_LEFT_OUT):
            mutants += mutants_in(path.read_bytes(), name)
    return mutants


def mutants_in(source: bytes, path: str) -> list[Mutant]:
    """All mutants of one source file, in order of place.

    Docstrings, annotations, types, error messages, warnings and ``__all__`` are left alone. So are
    seconds that have passed, sums with seeds, comparisons of devices, which need two of them, and
    numbers with a name in capitals, such as limits on memory and starting values: results are right
    for any such number near the one that was chosen. For the same reason, default seeds and large
    default integers stay, and a comparison with such a name stays strict or not if the number is
    large or a fraction.
    """
    tree = ast.parse(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    mutants = []
    for node, statement, kind, text in _Edits(tree).edits:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before = ast.unparse(node)
        place = (node.lineno, node.end_lineno, statement)
        mutant = Mutant(path, *place, kind, before, text, start, end)
        if before != text:
            mutants.append(mutant)
    return sorted(set(mutants), key=lambda m: (m.start, m.end, m.kind, m.after))


class _Edits(ast.NodeVisitor):
    """Collects the changes of a tree."""

    def __init__(self, tree: ast.Module) -> None:
        self.edits: list[_Edit] = []
        self._returns_number = False
        self._statement = 1
        self._limits = {name for each in tree.body for name in _limits_in(each)}
        self.visit(tree)

    def visit(self, node: ast.AST) -> None:
        """Visit a node, and keep track of the statement that it is in."""
        outer = self._statement
        if isinstance(node, ast.stmt):
            self._statement = node.lineno
        super().visit(node)
        self._statement = outer

    # What is left alone.

    def visit_Raise(self, node: ast.Raise) -> None:
        pass

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        is_alias = "TypeAlias" in ast.unparse(node.annotation)
        if node.value is not None and not is_alias:
            self._visit_default(_name_of(node.target), node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        positional = [*node.posonlyargs, *node.args]
        with_default = positional[len(positional) - len(node.defaults) :]
        for argument, default in zip(with_default, node.defaults, strict=True):
            self._visit_default(argument.arg, default)
        for argument, value in zip(node.kwonlyargs, node.kw_defaults, strict=True):
            if value is not None:
                self._visit_default(argument.arg, value)

    def _visit_default(self, name: str, value: ast.expr) -> None:
        number = value.value if isinstance(value, ast.Constant) else None
        if name != "seed" and not (type(number) is int and number >= _LARGE_DEFAULT):
            self.visit(value)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        is_type = isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.BitOr)
        is_named = bool(names) and all(name.strip("_")[:1].isupper() for name in names)
        is_setting = is_named and all(name.isupper() for name in names) and _is_number(node.value)
        if not (is_named and is_type) and not is_setting and names != ["__all__"]:
            self.generic_visit(node)

    # What is changed.

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in _FUNCTIONS_LEFT_ALONE:
            return
        returned, self._returns_number = self._returns_number, _is_numeric(node.returns)
        for child in (node.args, *node.body):
            self.visit(child)
        self._returns_number = returned

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for child in node.body:
            self.visit(child)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in _KEYWORDS_LEFT_ALONE:
            self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            is_constant = isinstance(node.value, ast.Constant) or _is_nan(node.value)
            if self._returns_number and not is_constant:
                self._add(node, "scaled result", f"return 2 * ({ast.unparse(node.value)})")
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if len(node.body) == 1 and isinstance(node.body[0], ast.Raise) and not node.orelse:
            self._add(node.test, "dropped check", "False")
        else:
            self._add(node.test, "negated condition", f"not ({ast.unparse(node.test)})")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        swapped = ast.IfExp(node.test, node.orelse, node.body)
        self._add(node, "negated condition", f"({ast.unparse(swapped)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_text = any(_is_text(side) for side in (node.left, node.right))
        is_time = ast.unparse(node.left) == "perf_counter()"
        is_seed = _name_of(node.left) == "seed"
        other = _SWAPPED_OPERATORS.get(type(node.op))
        if other is not None and not (is_text or is_time or is_seed):
            changed = ast.BinOp(node.left, other(), node.right)
            self._add(node, "operator", f"({ast.unparse(changed)})")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        other = _SWAPPED_OPERATORS.get(type(node.op))
        if other is not None and not _is_text(node.value):
            self._add(
                node, "operator", ast.unparse(ast.AugAssign(node.target, other(), node.value))
            )
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for place, operator in enumerate(node.ops):
            is_order = isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
            both = sides[place : place + 2]
            if is_order and any(_name_of(s) in self._limits for s in both):
                continue
            if all(_name_of(s) == "device" for s in both):
                continue
            ops = [*node.ops]
            ops[place] = _SWAPPED_COMPARISONS[type(operator)]()
            changed = ast.Compare(node.left, ops, node.comparators)
            self._add(node, "comparison", f"({ast.unparse(changed)})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._add(node, "and/or", f"({ast.unparse(ast.BoolOp(other, node.values))})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            kind = "removed not" if isinstance(node.op, ast.Not) else "sign"
            self._add(node, kind, f"({ast.unparse(node.operand)})")
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            self._add(node, "constant", f"(-{node.operand.value + 1!r})")  # type: ignore[operator]
        else:
            self.visit(node.operand)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, "constant", repr(not node.value))
        elif isinstance(node.value, int | float):
            self._add(node, "constant", repr(node.value + 1))

    def visit_Call(self, node: ast.Call) -> None:
        name = _name_of(node.func)
        if name in _CALLS_LEFT_ALONE:
            return
        if isinstance(node.func, ast.Attribute) and name in _REMOVED_CALLS and not node.args:
            self._add(node, "removed call", ast.unparse(node.func.value))
        if name in _SWAPPED_NAMES and isinstance(node.func, ast.Name | ast.Attribute):
            self._add(node, "function", _rename_function(node, _SWAPPED_NAMES[name]))
        for place, keyword in enumerate(node.keywords):
            if name == "clamp" and keyword.arg in ("min", "max") and len(node.keywords) == 1:
                other = ast.keyword("max" if keyword.arg == "min" else "min", keyword.value)
                keywords = [*node.keywords[:place], other, *node.keywords[place + 1 :]]
                changed = ast.Call(node.func, node.args, keywords)
                self._add(node, "function", ast.unparse(changed))
        first, second = _SWAPPED_ARGUMENTS.get(name, (0, 0))
        if first < second < len(node.args):
            args = [*node.args]
            args[first], args[second] = args[second], args[first]
            changed = ast.Call(node.func, args, node.keywords)
            self._add(node, "swapped arguments", ast.unparse(changed))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in ("T", "mT") and isinstance(node.ctx, ast.Load):
            self._add(node, "removed transpose", ast.unparse(node.value))
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if _name_of(node.value) not in _GENERIC_TYPES:
            self.generic_visit(node)

    def _add(self, node: ast.expr | ast.stmt, kind: str, text: str) -> None:
        self.edits.append(_Edit(node, self._statement, kind, text))


def _is_numeric(annotation: ast.expr | None) -> bool:
    text = "" if annotation is None else ast.unparse(annotation)
    return text.startswith(_NUMERIC_TYPES)


def _is_number(node: ast.expr) -> bool:
    """Whether an expression is made of numbers alone."""
    kinds = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)
    return all(isinstance(each, kinds) for each in ast.walk(node))


def _limits_in(node: ast.stmt) -> list[str]:
    """The names in capitals that a statement sets to a large number or a fraction."""
    if not isinstance(node, ast.Assign) or not _is_number(node.value):
        return []
    value = eval(compile(ast.Expression(node.value), "limit", "eval"))
    names = [target.id for target in node.targets if isinstance(target, ast.Name)]
    is_fraction = isinstance(value, float) and not value.is_integer()
    is_limit = is_fraction or (isinstance(value, int | float) and value >= _LARGE_LIMIT)
    return [name for name in names if is_limit and name.isupper()]


def _is_nan(node: ast.expr) -> bool:
    return ast.unparse(node) in ("float('nan')", "math.nan", "nan", "torch.nan")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _name_of(function: ast.expr) -> str:
    match function:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""


def _rename_function(node: ast.Call, name: str) -> str:
    function: Any
    if isinstance(node.func, ast.Attribute):
        function = ast.Attribute(node.func.value, name)
    else:
        function = ast.Name(name)
    return ast.unparse(ast.Call(function, node.args, node.keywords))
