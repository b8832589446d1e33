"""What posteriors share: named variables on free coordinates, data, and reference moments."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Size, Tensor

from ebm.energies.analytic.base import LOG_2PI, Held
from ebm.energies.constrained import Constrained
from ebm.energies.transforms import Confines, as_transform
from ebm.interfaces import Packing
from ebm.interfaces.trees import Packed

Variables: TypeAlias = dict[str, Tensor]  # by name, each (*chains, *shape)


class Moments(NamedTuple):
    """What is known of a posterior, by the variables' names; `source` says from whom, or how."""

    mean: Variables
    deviation: Variables  # standard deviations
    error: Variables  # standard errors of the means
    source: str


class Joint(Held):
    """Scores named variables θ by −log p(θ, data), a function of both; the data are buffers."""

    def __init__(self, function: Callable[..., Tensor], data: Mapping[str, Any]) -> None:
        super().__init__()
        self.function, self.names = function, tuple(data)
        self.hold(**data)

    def forward(self, y: Variables, code: None = None) -> Tensor:  # type: ignore[override]  # named tensors
        return self.function(y, **{name: getattr(self, name) for name in self.names})

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={tuple(getattr(self, name).shape)}" for name in self.names)


class Posterior(Packed):
    """Scores free coordinates y (*chains, dim) of named variables θ = T(y), given data:

        E(y) = −log p(θ, data) − log|det ∂T/∂y|,

    so that log Z is the log evidence, log p(data), where the joint has all its constants (those of
    this package have). Any sampler moves y; `constrain` gives the variables back, `labels` names
    the coordinates.

    Arguments:
        joint: −log p(θ, data) (*chains,), called with a dict of θ and with the data by name.
        variables: each variable's shape, and what confines it (see `Constrained`).
        data: tensors, arrays, lists or numbers, finite.
        reference: the name of the data's `Moments` in references.json, where they are known.

    Attributes:
        dim: the number of coordinates.

    >>> def rate(y, seen):  # Poisson counts, of a rate that is Gamma(2, 1)
    ...     return y["rate"] - y["rate"].log() - (seen * y["rate"].log()[..., None] - y["rate"][..., None]).sum(-1)
    >>> posterior = Posterior(rate, {"rate": ((), "positive")}, {"seen": [3.0, 5.0]})
    >>> y = posterior.unconstrain({"rate": torch.tensor([1.0, 4.0])})
    >>> y.shape, posterior.constrain(y)
    (torch.Size([2, 1]), {'rate': tensor([1., 4.])})
    """

    energy: Any  # a Constrained

    def __init__(
        self,
        joint: Callable[..., Tensor],
        variables: Mapping[str, tuple[tuple[int, ...], Confines]],
        data: Mapping[str, Any],
        reference: str | None = None,
    ) -> None:
        transforms = {name: as_transform(confines) for name, (_, confines) in variables.items()}
        free = {name: transforms[name].inverse_shape(Size(shape)) for name, (shape, _) in variables.items()}
        packing = Packing.of({name: torch.zeros(1, *shape) for name, shape in free.items()})
        super().__init__(Constrained(Joint(joint, data), transforms), packing)
        self.dim = sum(map(math.prod, free.values()))
        self._reference = reference

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        self._check(y)
        return super().forward(y, code)

    def constrain(self, y: Tensor) -> Variables:
        """Maps coordinates y (*chains, dim) to the variables, each (*chains, *shape)."""
        self._check(y)
        values: Variables = self.energy.constrain(self.packing.unpack(y))
        return values

    def unconstrain(self, values: Variables) -> Tensor:
        """Maps variables to coordinates (*chains, dim); ValueError where one lies outside its set."""
        return self.packing.pack(self.energy.unconstrain(values))

    def labels(self) -> list[str]:
        """Names every coordinate, for tables of chains."""
        return self.packing.labels()

    @property
    def reference(self) -> Moments | None:
        """Reads the variables' reference moments, float64; None for data of one's own."""
        if self._reference is None:
            return None
        held = json.loads(files(__package__).joinpath("references.json").read_text("utf-8"))[self._reference]

        def read(kind: str) -> Variables:
            return {name: torch.tensor(values, dtype=torch.float64) for name, values in held[kind].items()}

        return Moments(read("mean"), read("deviation"), read("error"), held["source"])

    def _check(self, y: Tensor) -> None:
        if y.shape[-1:] != (self.dim,):
            wanted = f"{type(self).__name__} is over {self.dim} coordinates: pass y (*chains, {self.dim})"
            raise ValueError(f"y has shape {tuple(y.shape)}, but {wanted}")


def numbers(posterior: Posterior, missing: bool = False, **given: Any) -> Tensor:
    """Makes a floating tensor of one argument: a tensor's own dtype, or else torch's default.

    Raises:
        ValueError: for infinite values, and for NaN unless it stands for what is missing.
    """
    ((name, value),) = given.items()
    kept = isinstance(value, Tensor) and value.is_floating_point()
    values = value if kept else torch.as_tensor(value, dtype=torch.get_default_dtype())
    if not bool((values.isfinite() | (values.isnan() & missing)).all()):
        what = f"{type(posterior).__name__}({name} {tuple(values.shape)}) has values that are not finite"
        raise ValueError(f"{what}: pass finite numbers" + (", and NaN for what is missing" if missing else ""))
    return values


# ------------------------------------------------------------------------------------ densities, as energies elementwise


def normal(away: Tensor, scale: Tensor | float) -> Tensor:
    """Computes −log N(away | 0, scale²)."""
    log = scale.log() if isinstance(scale, Tensor) else math.log(scale)
    return (away / scale).square() / 2 + log + LOG_2PI / 2


def half_cauchy(value: Tensor, scale: float) -> Tensor:
    """Computes −log p of |x|, x ~ Cauchy(0, scale)."""
    return (value / scale).square().log1p() + math.log(math.pi * scale / 2)
