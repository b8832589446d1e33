"""Arguments as callers have them: NumPy's numbers and arrays become Python's and torch's."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

Function = TypeVar("Function", bound=Callable[..., Any])

NUMBER = re.compile(r"\b(int|float|Steps|StepSize|Scheduled)\b")  # annotations of numbers,
SEVERAL = re.compile(r"\b(Sequence|tuple|list)\b(?!.*Tensor)")  # and of several that are no tensor


def plain(value: Any, arrays: bool = True) -> Any:
    """Turns NumPy's numbers into Python's and, with `arrays`, arrays of numbers into tensors.

    Arrays of fractions become tensors of torch's default dtype, as lists do. It looks into lists,
    tuples and dictionaries; all else stays what it is.

    >>> plain([np.int64(5), np.float64(0.5), "five"]), plain(np.ones(2))
    ([5, 0.5, 'five'], tensor([1., 1.]))
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if not arrays or value.dtype.kind not in "biuf":
            return value
        if value.ndim == 0:
            return value.item()
        return torch.tensor(value, dtype=torch.get_default_dtype() if value.dtype.kind == "f" else None)
    if type(value) in (list, tuple):
        parts = [plain(part, arrays) for part in value]
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else type(value)(parts)
    if type(value) is dict:
        return {key: plain(part, arrays) for key, part in value.items()}
    return value


def plainly(function: Function, *, arrays: bool = True) -> Function:
    """Decorates a function, so that it takes NumPy's numbers (and arrays) for Python's and torch's.

    Raises:
        ValueError: at a call, where a parameter that is annotated as a number gets True or False.

    >>> @plainly
    ... def double(number: float):
    ...     return 2 * number
    >>> double(np.float32(0.5))
    1.0
    >>> double(True)
    Traceback (most recent call last):
    ...
    ValueError: double(number=True): pass a number, a truth value is none
    """
    parameters = inspect.signature(function).parameters
    names = [*parameters]
    hints = {name: str(parameter.annotation) for name, parameter in parameters.items()}
    numbers = {name for name, hint in hints.items() if NUMBER.search(hint) and "bool" not in hint}
    several = {name for name, hint in hints.items() if SEVERAL.search(hint)}

    def taken(name: str, value: Any) -> Any:
        if isinstance(value, bool) and name in numbers:
            what = function.__qualname__.removesuffix(".__init__")
            raise ValueError(f"{what}({name}={value}): pass a number, a truth value is none")
        if isinstance(value, np.ndarray) and name in several and value.ndim and value.dtype.kind in "iuf":
            return value.tolist()
        return plain(value, arrays)

    @functools.wraps(function)
    def called(*positional: Any, **named: Any) -> Any:
        given = map(taken, names, positional)
        return function(*given, *positional[len(names) :], **{name: taken(name, value) for name, value in named.items()})

    return called  # type: ignore[return-value]


def built_plainly(kind: type) -> None:
    """Lets a component's own constructor take its arguments `plainly`."""
    if "__init__" in vars(kind):
        kind.__init__ = plainly(kind.__init__)  # type: ignore[misc]
