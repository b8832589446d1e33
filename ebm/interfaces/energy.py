"""The energy interface: E(y | context), its checked gradient, and energies made of energies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor, nn

from ebm.interfaces.arguments import built_plainly

EnergyFn: TypeAlias = Callable[[Tensor], Tensor]
ValueAndGrad: TypeAlias = Callable[..., tuple[Tensor, Tensor]]


class Energy(nn.Module):
    """Scores how well y fits a context: E(y | context), where low energy means a good fit.

    Write `forward`, and `encode` if there is a context. `levels` counts landscapes (noise levels,
    an EBT's step embeddings). Energies and functions compose: `e1 + e2`, `0.5 * e`, `e / 2.0`.

    >>> class Quadratic(Energy):
    ...     def forward(self, y, code=None):
    ...         return (y**2).sum(-1) / 2
    >>> (Quadratic() / 2.0)(torch.ones(3, 4))
    tensor([1., 1., 1.])
    """

    levels: int = 1
    _compiled: tuple[Callable[..., Any], ValueAndGrad] | None = None  # encode, and E with dE/dy
    __array_ufunc__ = None  # so that NumPy leaves np.float64(2) * energy to __rmul__

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        built_plainly(cls)

    def encode(self, context: Any = None, level: int = -1) -> Any:
        """Computes once all that does not depend on y; by default the code is the context."""
        return context

    def extend(self, code: Any, context: Any) -> Any:
        """Makes a new code with more context appended and leaves `code` unchanged."""
        raise NotImplementedError(f"{type(self).__name__} cannot extend a code: encode the whole context instead")

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        """Maps y (*chains, *event) to energies (*chains,)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(y, code=None)")

    def given(self, context: Any = None, level: int = -1) -> EnergyFn:
        """Binds an encoded context and returns the function that maps y to energies."""
        if not -self.levels <= level < self.levels:
            raise ValueError(f"level {level} of an energy with {self.levels} landscape(s)")
        if self._compiled is not None and torch.is_grad_enabled():
            encode, value_and_grad = self._compiled
            return Given(self, encode(context, level % self.levels), value_and_grad)
        return Given(self, self.encode(context, level % self.levels))

    def landscapes(self, context: Any = None) -> list[EnergyFn]:
        """Binds the context at every level, in the order in which a trajectory visits them."""
        return [self.given(context, level) for level in range(self.levels)]

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compiles encoding, and the energy with its gradient; takes `torch.compile`'s arguments.

        The first steps take minutes, later ones less time than before; results agree up to
        rounding. Energies bound while gradients are disabled run eagerly, since shapes change too
        often there.
        """
        options.setdefault("dynamic", False)  # dynamic second derivatives are NaN in torch 2.14
        encode = torch.compile(self.encode, *arguments, **options)
        self._compiled = encode, torch.compile(partial(_value_and_grad, self), *arguments, **options)

    def __add__(self, other: EnergyFn) -> Energy:
        return SumEnergy([self, other])

    def __radd__(self, other: EnergyFn | float) -> Energy:
        if isinstance(other, int | float):
            if other == 0:
                return self  # sum() starts at 0
            raise TypeError(f"{other} is no energy: add an Energy, or a function of y")
        return SumEnergy([other, self])

    def __mul__(self, scale: float) -> Energy:
        return ScaledEnergy(self, scale)

    __rmul__ = __mul__

    def __truediv__(self, temperature: float) -> Energy:
        if temperature == 0:
            raise ValueError("an energy divided by temperature 0 is infinite: pass a positive temperature")
        return self * (1.0 / temperature)


@dataclass(frozen=True, slots=True)
class Given:
    """An energy with its context bound: what `Energy.given` returns."""

    energy: Energy
    code: Any
    compiled: ValueAndGrad | None = None  # (y, code) -> E(y) and dE/dy

    def __call__(self, y: Tensor) -> Tensor:
        return self.energy(y, self.code)


def _value_and_grad(energy: Energy, y: Tensor, code: Any) -> tuple[Tensor, Tensor]:
    """Computes E(y) and dE/dy by torch.func, so that a compiler can differentiate both again."""

    def total(y: Tensor) -> tuple[Tensor, Tensor]:
        value = energy(y, code)
        return value.sum(), value

    grad, value = torch.func.grad(total, has_aux=True)(y)
    return value, grad


def bind(energy: EnergyFn, context: Any = None, level: int = -1) -> EnergyFn:
    """Binds a context to an energy; a plain function is unconditional and stays as it is."""
    return energy.given(context, level) if isinstance(energy, Energy) else energy


def landscapes(energy: EnergyFn | Sequence[EnergyFn], context: Any = None) -> list[EnergyFn]:
    """Lists the landscapes of an energy, of a plain function (itself) or of a list of either."""
    if isinstance(energy, Energy):
        return energy.landscapes(context)
    if isinstance(energy, list | tuple | nn.ModuleList):
        return [bind(part, context) for part in energy]
    return [energy]  # type: ignore[list-item]  # the Sequences are lists and tuples


def energy_and_grad(energy: EnergyFn, y: Tensor, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Computes E(y) (*chains,) and dE/dy, and checks that E gives one energy per chain.

    The gradient is that of sum(E), since chains are independent. With `create_graph` both results
    carry the graph (second order); without it none, and parameters stay untouched.

    Raises:
        ValueError: y is not a floating tensor; the output's shape is not a prefix of y's; the
            output is on another device or does not depend on y.
        RuntimeError: under `torch.inference_mode`, which forbids gradients.

    >>> energy_and_grad(lambda y: (y**2).sum(-1) / 2, torch.tensor([[3.0, 4.0]]))
    (tensor([12.5000]), tensor([[3., 4.]]))
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("sampling needs gradients, which torch.inference_mode() forbids: use torch.no_grad() instead")
    check_configuration(y)
    if isinstance(energy, Given) and energy.compiled is not None:
        with torch.set_grad_enabled(create_graph):
            return energy.compiled(y if create_graph else y.detach(), energy.code)
    with torch.enable_grad():
        if not (create_graph and y.requires_grad):
            # A tensor made under inference_mode cannot require gradients, its copy can.
            y = (y.clone() if y.is_inference() else y.detach()).requires_grad_()
        value, grad = evaluate(energy, y), None
        if value.requires_grad:
            (grad,) = torch.autograd.grad(value, y, torch.ones_like(value), create_graph=create_graph, allow_unused=True)
    if grad is None:
        why = "it ignores y, or a detach(), .data, no_grad() or NumPy round trip inside it cuts the graph"
        raise ValueError(f"the energy (output shape {tuple(value.shape)}) has no gradient with respect to y: {why}")
    return (value if create_graph else value.detach()), grad


def evaluate(energy: EnergyFn, y: Tensor) -> Tensor:
    """Evaluates an energy and checks that it returns one energy per chain of y."""
    try:
        value = energy(y)
    except RuntimeError as error:
        held = (p for module in modules_of(energy)[:1] for p in (*module.parameters(), *module.buffers()))
        parameter = next((p for p in held if p.is_floating_point() and (p.dtype, p.device) != (y.dtype, y.device)), None)
        if parameter is None or not any(word in str(error) for word in ("type", "device")):
            raise
        what = f"y is {y.dtype} on {y.device}, but the energy holds {parameter.dtype} on {parameter.device}"
        raise ValueError(f"{what}: move one, as in energy.to(y) or y.to(dtype, device) ({error})") from error
    if not isinstance(value, Tensor):
        raise ValueError(f"the energy returned {type(value).__name__}: return a tensor with one energy per chain of y")
    shape, whole = tuple(value.shape), tuple(y.shape)
    if shape != whole[: len(shape)]:
        more = f"it has more axes than y; return at most {len(whole)}" if len(shape) > len(whole) else "reduce y's last axes only"
        way_out = "sum out the last axis" if shape[-1:] == (1,) and shape[:-1] == whole[: len(shape) - 1] else more
        raise ValueError(f"energy shape {shape} is not a prefix of y's shape {whole}: {way_out}")
    if not shape and len(whole) != 1:
        raise ValueError(f"energy shape () for y of shape {whole}: one number for all chains; sum event axes, as in E.sum(-1)")
    if not value.is_floating_point() or value.device != y.device:
        raise ValueError(f"the energy is {value.dtype} on {value.device}, but y is {y.dtype} on {y.device}")
    return value


def modules_of(energy: Any) -> list[nn.Module]:
    """Lists the modules behind an energy function, if it has any."""
    while not isinstance(energy, nn.Module):
        # What binds an energy has it as `.energy`, a module's method as `__self__`.
        energy = getattr(energy, "energy", None) or getattr(energy, "__self__", None)
        if energy is None:
            return []
    return list(energy.modules())


def check_configuration(y: Any, generator: Generator | None = None) -> None:
    """Raises ValueError unless y is a floating, nonempty tensor on the generator's device."""
    if not isinstance(y, Tensor):
        raise ValueError(f"y is {type(y).__name__}: pass a tensor (*chains, *event)")
    if not y.is_floating_point():
        raise ValueError(f"y is {y.dtype}: energies are differentiated with respect to y, so pass y.float()")
    if y.ndim == 0 or y.numel() == 0:
        raise ValueError(f"y has shape {tuple(y.shape)}: there are no chains to move")
    if generator is not None and generator.device.type != y.device.type:
        raise ValueError(f"the generator lives on {generator.device}, y on {y.device}: make it with torch.Generator(y.device)")


def left(values: Tensor, like: Tensor) -> Tensor:
    """Reshapes one value per chain (*chains,) to broadcast from the left over (*chains, *event).

    >>> left(torch.ones(5), torch.ones(5, 3, 2)).shape
    torch.Size([5, 1, 1])
    """
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


class Unconditional(Energy):
    """Scores y alone: it ignores contexts, so it can be added to a conditional energy."""

    def encode(self, context: Any = None, level: int = -1) -> Any:
        return None

    def extend(self, code: Any, context: Any) -> Any:
        return code


class Function(Unconditional):
    """Wraps a plain function y (*chains, *event) -> (*chains,), with its module's parameters.

    >>> Function(lambda y: y.square().sum(-1))(torch.ones(3, 2))
    tensor([2., 2., 2.])
    """

    def __init__(self, function: EnergyFn) -> None:
        super().__init__()
        if not callable(function):
            raise ValueError(f"{function!r} is no energy: pass an Energy, or a function of y")
        self.function = function
        self.bound = function.energy if isinstance(function, Given) else None

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        return self.function(y)

    def extra_repr(self) -> str:
        return "" if isinstance(self.function, nn.Module) else getattr(self.function, "__name__", repr(self.function))


class Several(Energy):
    """Holds several energies of the same y; a subclass's `forward` combines their `values`.

    Every part gets the context (plain functions ignore it); the code is the tuple of the parts'
    codes. A part with one landscape serves all landscapes of the others.
    """

    energies: Any  # an nn.ModuleList of Energy

    def __init__(self, energies: Sequence[EnergyFn]) -> None:
        super().__init__()
        parts = [as_energy(energy) for energy in energies]
        levels = [part.levels for part in parts]
        if not parts or len({*levels} - {1}) > 1:
            raise ValueError(f"{type(self).__name__} of parts with {levels} landscapes: pass one, or the same number for all")
        self.energies, self.levels = nn.ModuleList(parts), max(levels)

    def encode(self, context: Any = None, level: int = -1) -> tuple[Any, ...]:
        return tuple(part.encode(context, -1 if part.levels == 1 else level) for part in self.energies)

    def extend(self, code: tuple[Any, ...], context: Any) -> tuple[Any, ...]:
        return tuple(part.extend(own, context) for part, own in zip(self.energies, code, strict=True))

    def values(self, y: Tensor, code: tuple[Any, ...] | None = None) -> list[Tensor]:
        """Maps y (*chains, *event) to every part's energies (*chains,)."""
        codes = (None,) * len(self.energies) if code is None else code
        values = [part(y, own) for part, own in zip(self.energies, codes, strict=True)]
        if any(value.shape != values[0].shape for value in values):
            shapes = ", ".join(str(tuple(value.shape)) for value in values)
            what = type(self).__name__
            raise ValueError(f"the parts of a {what} have energies of shapes {shapes}: they must agree on what a chain is")
        return values


class SumEnergy(Several):
    """Adds energies, as `e1 + e2` does: E(y) = Σᵢ Eᵢ(y), the product of their densities.

    Contexts and landscapes are as in `Several`. Sums within sums are flattened. Source: Hinton,
    2002 (Training products of experts by minimizing contrastive divergence), equation 1.

    Arguments:
        energies: energies, or functions of y, with one landscape or all with the same number.

    >>> energy = SumEnergy([lambda y: y.square().sum(-1), lambda y: y.sum(-1)])
    >>> (energy + (lambda y: -y.sum(-1)))(torch.ones(3, 2))
    tensor([2., 2., 2.])
    """

    def __init__(self, energies: Sequence[EnergyFn]) -> None:
        parts = ((energy.energies if isinstance(energy, SumEnergy) else [energy]) for energy in energies)
        super().__init__([*chain(*parts)])

    def forward(self, y: Tensor, code: tuple[Any, ...] | None = None) -> Tensor:
        values = self.values(y, code)
        return sum(values[1:], start=values[0])


class Modified(Energy):
    """Wraps one energy and changes its values; landscapes, codes and contexts stay the same."""

    def __init__(self, energy: EnergyFn) -> None:
        super().__init__()
        self.energy = as_energy(energy)
        self.levels = self.energy.levels

    def encode(self, context: Any = None, level: int = -1) -> Any:
        return self.energy.encode(context, level)

    def extend(self, code: Any, context: Any) -> Any:
        return self.energy.extend(code, context)


class ScaledEnergy(Modified):
    """Multiplies an energy, as `c * e` and `e / T` do: c E(y), the density to the power c.

    Arguments:
        energy: an energy, or a function of y.
        scale: c, finite; a negative c turns the landscape over, an nn.Parameter is learned.

    >>> (ScaledEnergy(lambda y: y.square().sum(-1), 0.5) / 2.0)(torch.ones(3, 2))
    tensor([0.5000, 0.5000, 0.5000])
    """

    scale: float | Tensor

    def __init__(self, energy: EnergyFn, scale: float | Tensor) -> None:
        super().__init__(energy)
        value = scale.item() if isinstance(scale, Tensor) and scale.ndim == 0 else scale
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"ScaledEnergy(scale={scale!r}): pass one finite number")
        if isinstance(scale, Tensor) and not isinstance(scale, nn.Parameter):
            self.register_buffer("scale", scale.detach().clone())
        else:
            self.scale = scale

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        return self.scale * self.energy(y, code)

    def extra_repr(self) -> str:
        return f"scale={float(torch.as_tensor(self.scale).detach()):g}"


def as_energy(energy: EnergyFn) -> Energy:
    """Wraps a plain function as an energy; an `Energy` stays as it is."""
    return energy if isinstance(energy, Energy) else Function(energy)
