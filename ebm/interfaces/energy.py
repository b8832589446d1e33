"""The energy interface: E(y | context), its checked gradient, and energies made of energies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Generator, Tensor, nn

from ebm.interfaces.arguments import built_plainly

EnergyFn: TypeAlias = Callable[[Tensor], Tensor]
ValueAndGrad: TypeAlias = Callable[..., tuple[Tensor, Tensor]]

COMPILED = (
    "the energy is compiled by torch.compile, whose gradients cannot be differentiated again, as is asked for here: "
    "pass the energy itself, and call energy.compile(), which compiles it together with its gradient"
)


class Operators(NamedTuple):
    """What `e1 + e2`, `c * e`, `w * e` make, and how other energies than `Energy` are read."""

    add: Callable[..., Energy]
    scale: Callable[..., Energy]
    weigh: Callable[..., Energy]
    read: Callable[[EnergyFn], Energy]


class Energy(nn.Module):
    """Scores how well y fits a context: E(y | context), where low energy means a good fit.

    Write `forward`, and `encode` if there is a context. `levels` counts landscapes (noise levels,
    an EBT's step embeddings). Energies and functions compose: `e1 + e2`, `e1 - e2`, `0.5 * e`, `e /
    2.0`, and `e * w` with a function w of the context.

    >>> class Quadratic(Energy):
    ...     def forward(self, y, code=None):
    ...         return (y**2).sum(-1) / 2
    >>> (Quadratic() / 2.0)(torch.ones(3, 4))
    tensor([1., 1., 1.])
    """

    levels: int = 1
    _operators: ClassVar[Operators]  # what they make are energies themselves: `composed` sets it
    _compiled: tuple[Callable[..., Any], ValueAndGrad] | None = None  # encode, and E with dE/dy
    __array_ufunc__ = None  # so that NumPy leaves np.float64(2) * energy to __rmul__

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        built_plainly(cls)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_compiled"}  # it computes with this one's weights

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

    def regions(self) -> list[nn.Module]:
        """Lists modules that compile by themselves (`part.compile()`) to what is twice differentiable."""
        return []

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compiles the energy and its derivatives; takes `torch.compile`'s arguments.

        Where it names `regions`, those alone are compiled: in seconds, for all shapes, with and
        without gradients. Otherwise encoding, and the energy with its gradient, become one program
        each: the first steps take minutes, and what is bound while gradients are disabled runs
        eagerly, since shapes change too often there. Results agree up to rounding.
        """
        if parts := self.regions():
            for part in parts:
                part.compile(*arguments, **options)
            return
        options.setdefault("dynamic", False)  # dynamic second derivatives are NaN in torch 2.14
        encode = torch.compile(self.encode, *arguments, **options)
        self._compiled = encode, torch.compile(partial(_value_and_grad, self), *arguments, **options)

    def __add__(self, other: EnergyFn) -> Energy:
        return self._operators.add([self, other])

    def __radd__(self, other: EnergyFn | float) -> Energy:
        if isinstance(other, int | float):
            if other == 0:
                return self  # sum() starts at 0
            raise TypeError(f"{other} is no energy: add an Energy, or a function of y")
        return self._operators.add([other, self])

    def __neg__(self) -> Energy:
        return self * -1.0

    def __sub__(self, other: EnergyFn) -> Energy:
        if isinstance(other, int | float):
            raise TypeError(f"{other} is no energy: subtract an Energy, or a function of y")
        return self + -self._operators.read(other)

    def __rsub__(self, other: EnergyFn) -> Energy:
        return self._operators.read(other) - self

    def __mul__(self, scale: Any) -> Energy:
        weighs = callable(scale) and not isinstance(scale, Energy)
        return self._operators.weigh(self, scale) if weighs else self._operators.scale(self, scale)

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


def _value_and_grad(energy: EnergyFn, y: Tensor, *code: Any) -> tuple[Tensor, Tensor]:
    """Computes E(y) and dE/dy by torch.func, so that a compiler can differentiate both again."""

    def total(y: Tensor) -> tuple[Tensor, Tensor]:
        value = energy(y, *code)
        return value.sum(), value

    grad, value = torch.func.grad(total, has_aux=True)(y)
    return value, grad


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
    if torch.compiler.is_compiling() and not create_graph:  # inside a sampler's program, after a first step that made the checks
        return _value_and_grad(energy, y)
    if torch.is_inference_mode_enabled():
        raise RuntimeError("sampling needs gradients, which torch.inference_mode() forbids: use torch.no_grad() instead")
    check_configuration(y)
    if isinstance(energy, Given) and energy.compiled is not None:
        with torch.set_grad_enabled(create_graph):
            return energy.compiled(y if create_graph else y.detach(), energy.code)
    own = not (create_graph and y.requires_grad)
    with torch.enable_grad():
        if own:
            # A tensor made under inference_mode cannot require gradients, its copy can.
            y = (y.clone() if y.is_inference() else y.detach()).requires_grad_()
        value, grad = evaluate(energy, y), None
        if create_graph and type(value.grad_fn).__name__ == "CompiledFunctionBackward":
            raise ValueError(COMPILED)
        if value.requires_grad:
            (grad,) = torch.autograd.grad(value, y, torch.ones_like(value), create_graph=create_graph, allow_unused=True)
    if own:
        y.requires_grad_(False)  # nobody can ask for its gradient: a later backward pass need not compute that
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
        behind = getattr(energy, "energy", None)
        energy = getattr(energy, "__self__", None) if behind is None else behind
        if energy is None:
            return []
    return list(energy.modules())


def check_configuration(y: Any, generator: Generator | None = None) -> None:
    """Raises ValueError unless y is a floating, nonempty tensor on the generator's device."""
    if not isinstance(y, Tensor):
        more = ", or move a tree of tensors by ebm.samplers.Structured(sampler)" if isinstance(y, dict | tuple | list) else ""
        raise ValueError(f"y is {type(y).__name__}: pass a tensor (*chains, *event){more}")
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
