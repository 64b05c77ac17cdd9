"""Signatures and comments as they stand in the source, for the API reference: `Float[Array, "N M"]`, no long forms."""

import ast
import copy
import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

#: Abbreviations that are explained on the page `course/site/types.rst` and stay in signatures; others are spelled out.
EXPLAINED = ("ApplyFn", "Model", "Params")


class Member(NamedTuple):
    """A documented member of a class: a heading for one of Sphinx's directives, and the docstring."""

    directive: str
    heading: str
    docstring: str
    arguments: frozenset[str]


@functools.cache
def signature(value: Any) -> str:
    """The signature of a function or class, `(x1: ArrayLike, *, tile: int | None = None) -> Array`; else nothing."""
    if inspect.isclass(value):
        return _of_class(value)
    if not callable(value):
        return ""
    value = inspect.unwrap(value)
    return _written(_definition(value), value.__module__)


@functools.cache
def arguments(value: Any) -> frozenset[str]:
    """The names of the arguments, which a docstring quotes just as it quotes functions."""
    return frozenset(re.findall(r"[(,]\s*\*{0,2}(\w+)\s*(?=[:,)=])", signature(value)))


def members(value: type) -> Iterator[Member]:
    """What a class documents itself, and what a private class documents that it extends."""
    seen: set[str] = set()
    for base in value.__mro__:
        if not base.__module__.startswith("ntklib") or not (base is value or base.__name__.startswith("_")):
            continue
        node, plain, comments = _definition(base), _Plain(base.__module__), _comments(inspect.getsource(base))
        for statement in node.body:
            name = _name(statement)
            if name in seen or (name.startswith("_") and name != "__call__"):
                continue
            if isinstance(statement, ast.AnnAssign) and name in comments:
                found = Member("attribute", f"{name}\n   :type: {plain.text(statement.annotation)}", comments[name],
                               frozenset())  # fmt: skip
            elif isinstance(statement, ast.FunctionDef) and ast.get_docstring(statement):
                found = _method(statement, base.__module__)
            else:
                continue
            seen.add(name)
            yield found


def comment(module: str, name: str) -> str:
    """The comment `#:` above the place where a module assigns a name."""
    return _comments(inspect.getsource(importlib.import_module(module))).get(name, "")


def origin(module: str, name: str, value: Any) -> str:
    """The module in which a name is defined that `module` has."""
    if is_code(value):
        return inspect.unwrap(value).__module__
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
            return origin(node.module, name, value)
    return module


def is_code(value: Any) -> bool:
    """Whether it is a class or function, which has a docstring, or a constant, which has a comment."""
    return inspect.isclass(value) or inspect.isroutine(value) or hasattr(value, "__wrapped__")


# --------------------------------------------------------------------------------------------------------- the source


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(Path(inspect.getfile(importlib.import_module(module))).read_text(encoding="utf-8"))


def _definition(value: Any) -> Any:
    """The definition of a function or class, parsed."""
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def _name(statement: ast.stmt) -> str:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    return statement.name if isinstance(statement, ast.FunctionDef) else "_"


def _comments(source: str) -> dict[str, str]:
    """The comments `#:` above assignments, by the name that is assigned."""
    found: dict[str, str] = {}
    pending: list[str] = []
    for line in source.split("\n"):
        if match := re.match(r"\s*#: ?(.*)", line):
            pending.append(match[1])
        elif pending:
            if match := re.match(r"\s*(\w+)\s*[:=]", line):
                found[match[1]] = "\n".join(pending)
            pending = []
    return found


# ----------------------------------------------------------------------------------------------------- the signatures


def _of_class(value: type) -> str:
    """What a class is called with: its own `__init__`, that of a private class below it, or the fields of a record."""
    for base in value.__mro__:
        if not base.__module__.startswith("ntklib"):
            continue
        node, plain = _definition(base), _Plain(base.__module__)
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                return _written(statement, base.__module__, bound=True, returns=False)
        if hasattr(base, "__dataclass_fields__") or hasattr(base, "_fields"):
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and not _name(n).startswith("_")]
            texts = [f"{_name(n)}: {plain.text(n.annotation)}{_default(n.value)}" for n in fields]
            return f"({', '.join(texts)})"
    return ""


def _default(value: ast.expr | None) -> str:
    """The default of a field of a record, whether it stands there or in `dataclasses.field(default=...)`."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "dataclasses.field":
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    return f" = {ast.unparse(value)}" if value else ""


def _method(statement: ast.FunctionDef, module: str) -> Member:
    decorators = [ast.unparse(decorator) for decorator in statement.decorator_list]
    text = ast.get_docstring(statement) or ""
    if any("property" in decorator for decorator in decorators):
        result = _Plain(module).text(statement.returns)
        heading = f"{statement.name}\n   :type: {result}" if result else statement.name
        return Member("property", heading, text, frozenset())
    options = "".join(f"\n   :{kind}:" for kind in ("classmethod", "staticmethod") if kind in decorators)
    heading = statement.name + _written(statement, module, bound="staticmethod" not in decorators) + options
    names = frozenset(argument.arg for argument in [*statement.args.args, *statement.args.kwonlyargs])
    return Member("method", heading, text, names)


def _written(node: ast.FunctionDef, module: str, *, bound: bool = False, returns: bool = True) -> str:
    """The arguments of a function, without the first where it is bound, and what it returns."""
    made = copy.deepcopy(node)
    if bound:
        (made.args.posonlyargs or made.args.args).pop(0)
    plain = _Plain(module, made.type_params)
    results = _overloads(module).get(node.name, [node.returns] if node.returns else []) if returns else []
    result = " | ".join(dict.fromkeys(plain.text(result) for result in results))
    text = ast.unparse(plain.visit(made.args)).replace("'", '"')
    return f"({text}) -> {result}" if result else f"({text})"


@functools.cache
def _overloads(module: str) -> dict[str, list[ast.expr]]:
    """What each overload of the functions of a module returns."""
    found: dict[str, list[ast.expr]] = {}
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef) and "overload" in [ast.unparse(d) for d in node.decorator_list]:
            found.setdefault(node.name, []).extend([node.returns] if node.returns else [])
    return found


class _Plain(ast.NodeTransformer):
    """Annotations without quotes, and with what the abbreviations and type variables of a module stand for."""

    def __init__(self, module: str, type_params: list[ast.type_param] | tuple[()] = ()) -> None:
        self.module = module
        self.bounds = {param.name: param.bound for param in type_params if isinstance(param, ast.TypeVar)}

    def text(self, node: ast.expr | None) -> str:
        """An annotation as text."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        return ast.unparse(self.visit(copy.deepcopy(node))).replace("'", '"') if node else ""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        """An argument, its annotation spelled out."""
        node.annotation = ast.parse(self.text(node.annotation), mode="eval").body if node.annotation else None
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A name, or what it abbreviates."""
        if (bound := self.bounds.get(node.id)) is not None:
            return self.visit(copy.deepcopy(bound))
        if node.id in EXPLAINED or (found := _abbreviation(self.module, node.id)) is None:
            return node
        return _Plain(found[0]).visit(copy.deepcopy(found[1]))

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """`layers.Layer` is `Layer`; `nnx.Module` stays."""
        inside = vars(importlib.import_module(self.module)).get(ast.unparse(node.value))
        return ast.Name(node.attr) if getattr(inside, "__name__", "").startswith("ntklib") else node


@functools.cache
def _abbreviation(module: str, name: str) -> tuple[str, ast.expr] | None:
    """What stands for a name that a module of the library assigns (`Which = Literal[...]`), and in which module."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ntklib"):
            if name in [alias.name for alias in node.names]:
                return _abbreviation(str(node.module), name)
        elif isinstance(node, ast.Assign | ast.TypeAlias):
            target = node.name if isinstance(node, ast.TypeAlias) else node.targets[0]
            if ast.unparse(target) == name:
                return module, node.value
    return None
