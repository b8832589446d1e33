"""What is named before it can be made: optimisers before there are parameters, schedulers before
there is an optimiser."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any


class Later:
    """Holds a factory and its keywords, until what it works on is handed over."""

    def __init__(self, make: Callable[..., Any], keywords: dict[str, Any]) -> None:
        self.make, self.keywords = make, keywords

    def __call__(self, given: Any, **more: Any) -> Any:
        return self.make(given, **self.keywords, **more)

    def takes(self, name: str) -> bool:
        """Tells whether the factory has a keyword."""
        return name in inspect.signature(self.make).parameters


def later(make: Callable[..., Any], without: Sequence[str]) -> Callable[..., Later]:
    """Makes a factory of `Later`, with make's documentation and keywords but some.

    >>> import torch
    >>> sgd = later(torch.optim.SGD, without=["params", "lr", "weight_decay"])
    >>> optimizer = sgd(momentum=0.9)([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> optimizer.defaults["lr"], optimizer.defaults["momentum"]
    (0.1, 0.9)
    """

    def factory(**keywords: Any) -> Later:
        return Later(make, keywords)

    kept = [p for name, p in inspect.signature(make).parameters.items() if name not in without]
    keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in kept]
    factory.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    factory.__annotations__ = {p.name: p.annotation for p in keywords if p.annotation is not p.empty}
    factory.__name__, factory.__doc__ = make.__name__, make.__doc__
    return factory
