"""What a class or a function says of itself, read from its source: nothing is imported, so nothing is
waited for.

Importing torch takes seconds, and to print what a sampler is called for needs no torch. Whatever
cannot be told from the source for certain is not guessed (`Unreadable`): then it is imported.
"""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec, resolve_name
from inspect import Parameter
from pathlib import Path
from typing import Any, NamedTuple

KEPT = ("checked", "holding", "plainly", "retried")  # our decorators, which keep a signature and a documentation
BARE = ("nn.Module", "ABC")  # bases from elsewhere that have no keywords of their own
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
CONSTANTS = {"math.inf": float("inf"), "math.pi": 3.141592653589793}


class Unreadable(Exception):
    """The source does not say for certain; whoever asks imports instead."""


class Written(str):
    """A default that is an object: as it is written."""

    def __repr__(self) -> str:
        return str(self)


class Said(NamedTuple):
    """What a class or a function says: its documentation, all that explain its keywords, and those."""

    text: str
    texts: list[str | None]  # the bases' first: what comes later says it better
    parameters: dict[str, Parameter]


class Definition(NamedTuple):
    """A class or a function, and the module whose source defines it."""

    module: str
    node: ast.ClassDef | ast.FunctionDef


def said(where: str) -> Said:
    """Reads what "module:name" says of itself, as `inspect` would tell of the imported thing.

    Annotations are text, as they are written.

    Raises:
        Unreadable: the source does not say for certain.

    >>> found = said("ebm.words:nearest")
    >>> found.text.splitlines()[0], list(found.parameters), found.parameters["known"].annotation
    ('Says which known name is nearest, and lists them.', ['name', 'known'], 'Iterable[str]')
    """
    found = definition(where)
    if isinstance(found.node, ast.FunctionDef):
        return Said(text(where), [text(where)], _parameters(found, found.node))
    mro = _mirror(found.module, found.node.name).__mro__
    texts = [each for kind in reversed(mro) for each in (_of_init(kind), _doc(kind))]
    try:
        constructor = _init(mro)
    except LookupError:
        return Said(text(where), texts, {})
    return Said(text(where), texts, _parameters(*constructor))


def text(where: str) -> str:
    """Reads the documentation of "module:name", or of the first base that has one.

    Raises:
        Unreadable: the source does not say for certain.
    """
    found = definition(where)
    own = _text(found)
    if own is not None or isinstance(found.node, ast.FunctionDef):
        return inspect.cleandoc(own or "")
    for kind in _mirror(found.module, found.node.name).__mro__[:-1]:
        if _definition_of(kind) is None:
            raise Unreadable(f"{kind.__name__} is a base from elsewhere")
        if (doc := _doc(kind)) is not None:
            return inspect.cleandoc(doc)
    return ""


def definition(where: str) -> Definition:
    """Finds the class or the function that "module:name" is, through what modules import.

    Raises:
        Unreadable: it is neither, or not where it seems to be.
    """
    module, _, name = where.partition(":")
    found = _assigned(module, name)
    if isinstance(found, str):
        return definition(found)
    if not isinstance(found, ast.ClassDef | ast.FunctionDef):
        raise Unreadable(f"{where} is no class and no function")
    if any(not _keeps(module, decorator) for decorator in found.decorator_list) or getattr(found, "keywords", None):
        raise Unreadable(f"{where} is made by more than its source")
    if isinstance(found, ast.ClassDef) and _bound(found) & {"__init__", "__new__", "__doc__", "__signature__"}:
        raise Unreadable(f"{where} is given what it says")
    return Definition(module, found)


# ------------------------------------------------------------------------------------------------------------- modules


@cache
def _parsed(path: Path, package: str, written: int) -> dict[str, Any]:
    """Parses a module: name -> the one statement that gives it, or "module:name" of an import."""
    names: dict[str, list[Any]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            module = resolve_name(f"{'.' * node.level}{node.module or ''}", package)
            for alias in node.names:
                names.setdefault(alias.asname or alias.name, []).append(f"{module}:{alias.name}")
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            for each in [node, *node.body]:
                if isinstance(each, ast.FunctionDef):
                    del each.body[1:]  # what it does is not kept: only what it says
            names.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                names.setdefault(ast.unparse(target), []).append(node.value)  # also "Name.__doc__"
        else:  # what is bound under a condition, or once more, is not certain
            for part in ast.walk(node):
                if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
                    names.setdefault(part.id, []).extend([None, None])
                elif isinstance(part, ast.ClassDef | ast.FunctionDef | ast.alias):
                    names.setdefault(getattr(part, "asname", None) or part.name, []).extend([None, None])
    return {name: found[0] for name, found in names.items() if len(found) == 1}  # what is given twice is not certain


def _module(name: str) -> dict[str, Any]:
    """Finds and parses a module; of a package only the folder is asked for, and nothing imported."""
    top, *rest = name.split(".")
    try:
        spec = find_spec(top)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        base = Path(folders[0]).joinpath(*rest) if len(folders) == 1 else Path(str(spec and spec.origin))
        path = base / "__init__.py" if base.is_dir() else base if base.suffix == ".py" else base.with_suffix(".py")
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        return _parsed(path, package, path.stat().st_mtime_ns)
    except (OSError, ValueError, SyntaxError, RecursionError, ImportError) as error:
        raise Unreadable(f"{name} has no source to read: {error}") from error


def _assigned(module: str, name: str) -> Any:
    found = _module(module).get(name)
    if found is None:
        raise Unreadable(f"{module} does not say what {name} is")
    return found


def _keeps(module: str, decorator: ast.expr) -> bool:
    named = any(isinstance(part, ast.Name) and part.id in KEPT for part in ast.walk(decorator))
    return named and module.partition(".")[0] == "ebm"  # others may mean something else by the word


def _bound(kind: ast.ClassDef) -> set[str]:
    """Lists what a class's body gives a value to, or defines under a condition."""
    rest = [part for node in kind.body if not isinstance(node, ast.FunctionDef | ast.ClassDef) for part in ast.walk(node)]
    names = {part.id for part in rest if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load)}
    return names | {part.name for part in rest if isinstance(part, ast.FunctionDef)}


# -------------------------------------------------------------------------------------------------------------- classes


@cache
def _foreign(name: str) -> type:
    return type(name, (), {"__doc__": None})


def _mirror(module: str, name: str) -> type:
    """Makes an empty class with the bases of the one in the source, for Python to order them."""
    try:
        found = definition(f"{module}:{name}")
    except Unreadable:
        return _foreign(f"{module}:{name}")
    assert isinstance(found.node, ast.ClassDef)
    bases = tuple(_base(found.module, base) for base in found.node.bases)
    try:
        return _made(found.module, found.node.name, bases, id(found.node))
    except TypeError as error:
        raise Unreadable(f"{module}:{name}: {error}") from error


@cache
def _made(module: str, name: str, bases: tuple[type, ...], node: int) -> type:
    return type(name, bases, {"where": f"{module}:{name}", "__doc__": None})


def _base(module: str, base: ast.expr) -> type:
    top = module.partition(".")[0]
    found = _module(module).get(base.id) if isinstance(base, ast.Name) else None
    if isinstance(found, ast.ClassDef):
        return _mirror(module, found.name)
    if isinstance(found, str) and found.partition(".")[0] == top:
        return _mirror(*found.split(":"))
    return _foreign(ast.unparse(base))


def _definition_of(kind: type) -> Definition | None:
    return definition(vars(kind)["where"]) if "where" in vars(kind) else None


def _text(found: Definition) -> str | None:
    given = _module(found.module).get(f"{found.node.name}.__doc__")
    own = ast.get_docstring(found.node, clean=False)
    return own if given is None else str(_value(found.module, given))


def _doc(kind: type) -> str | None:
    found = _definition_of(kind)
    return None if found is None else _text(found)


def _init(mro: tuple[type, ...]) -> tuple[Definition, ast.FunctionDef]:
    """Finds the constructor among classes in Python's order; LookupError where there is none."""
    for kind in mro[:-1]:
        found = _definition_of(kind)
        if found is None and kind.__name__ in BARE:
            continue
        if found is None:
            break
        assert isinstance(found.node, ast.ClassDef)
        own = {node.name: node for node in found.node.body if isinstance(node, ast.FunctionDef)}
        if "__new__" in own or f"{found.node.name}.__signature__" in _module(found.module):
            break
        if "__init__" in own:
            defaults = [each for each in (*own["__init__"].args.defaults, *own["__init__"].args.kw_defaults) if each]
            used = {part.id for each in defaults for part in ast.walk(each) if isinstance(part, ast.Name)}
            if own["__init__"].decorator_list or used & _bound(found.node):  # the class's own, before the module's
                break
            return found, own["__init__"]
    else:
        raise LookupError(mro[0].__name__)
    raise Unreadable(f"{mro[0].__name__} has no constructor in its source")


def _of_init(kind: type) -> str | None:
    try:
        return ast.get_docstring(_init(kind.__mro__)[1], clean=False)
    except (Unreadable, LookupError):
        return None


# ----------------------------------------------------------------------------------------------------------- parameters


def _parameters(found: Definition, function: ast.FunctionDef) -> dict[str, Parameter]:
    given = function.args
    places: list[tuple[ast.arg, Any]] = [(a, Parameter.POSITIONAL_ONLY) for a in given.posonlyargs]
    places += [(a, Parameter.POSITIONAL_OR_KEYWORD) for a in given.args]
    defaults = [*[None] * (len(places) - len(given.defaults)), *given.defaults]
    listed: list[tuple[ast.arg, Any, ast.expr | None]] = [(*each, d) for each, d in zip(places, defaults, strict=True)]
    if isinstance(found.node, ast.ClassDef):
        listed = listed[1:]  # without self
    listed += [(given.vararg, Parameter.VAR_POSITIONAL, None)] if given.vararg else []
    listed += [(a, Parameter.KEYWORD_ONLY, d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    listed += [(given.kwarg, Parameter.VAR_KEYWORD, None)] if given.kwarg else []
    return {a.arg: _parameter(found.module, a, kind, default) for a, kind, default in listed}


def _parameter(module: str, argument: ast.arg, kind: Any, default: ast.expr | None) -> Parameter:
    hint = Parameter.empty if argument.annotation is None else ast.unparse(argument.annotation)
    return Parameter(argument.arg, kind, annotation=hint, default=Parameter.empty if default is None else _value(module, default))


def _value(module: str, node: Any) -> Any:
    """Computes a value that is written out, or named in a module."""
    if isinstance(node, str):  # an import
        return _value(node.partition(":")[0], _assigned(*node.split(":")))
    if isinstance(node, ast.Name):
        return _value(module, _assigned(module, node.id))
    if isinstance(node, ast.Attribute) and ast.unparse(node) in CONSTANTS:
        return CONSTANTS[ast.unparse(node)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(module, node.operand)
    if isinstance(node, ast.Tuple):
        return tuple(_value(module, part) for part in node.elts)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        try:
            return OPERATORS[type(node.op)](_value(module, node.left), _value(module, node.right))
        except (ArithmeticError, TypeError) as error:
            raise Unreadable(f"{module}: {ast.unparse(node)}: {error}") from error
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id[0].isupper():
        return Written(ast.unparse(node))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "tuple" and len(node.args) == 1:
        return tuple(_value(module, node.args[0]))
    if isinstance(node, ast.JoinedStr):
        return "".join(_pieces(module, node))
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError) as error:
        raise Unreadable(f"{module}: {error}") from error


def _pieces(module: str, node: ast.JoinedStr) -> Iterator[str]:
    for part in node.values:
        if isinstance(part, ast.FormattedValue) and (part.conversion != -1 or part.format_spec is not None):
            raise Unreadable(f"{module}: {ast.unparse(part)}")
        yield str(_value(module, part.value if isinstance(part, ast.FormattedValue) else part))
