"""The four interfaces (Energy, Sampler, Objective, Task) and the values that pass between them. Start reading here.

One promise carries the toolkit: *low energy is compatible, and an energy is any callable whose output shape is a prefix of
its input's shape.* Data flow one way: task -> objective -> sampler -> energy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

__all__ = [
    "Batch",
    "Energy",
    "EnergyFn",
    "Info",
    "Loss",
    "Objective",
    "Prediction",
    "Predictor",
    "Sampler",
    "State",
    "Task",
    "Unroll",
    "bind",
    "energy_and_grad",
    "evaluate",
    "landscapes",
    "left",
]

EnergyFn: TypeAlias = Callable[[Tensor], Tensor]
Unroll: TypeAlias = Literal["none", "each", "last", "full"]


# ---------------------------------------------------------------------------------------------------------------- values


class Batch(NamedTuple):
    """One batch of data: rows of targets, what they are conditioned on, and how much each chain counts."""

    target: Any
    context: Any = None
    weight: Tensor | None = None

    def mean(self, values: Tensor) -> Tensor:
        """Averages one value per chain (*chains,) with the batch's weights: sum(w d) / sum(w), and 0 where all w are 0.

        >>> Batch(None, weight=torch.tensor([1.0, 1.0, 0.0])).mean(torch.tensor([1.0, 3.0, 100.0]))
        tensor(2.)
        """
        if self.weight is None:
            return values.mean()
        if self.weight.shape != values.shape:
            raise ValueError(f"weight shape {tuple(self.weight.shape)} differs from the chains' {tuple(values.shape)}")
        total = self.weight.sum()
        # What has no weight has no say, even where it is not finite; and an all-masked batch gives zero, not 0/0.
        counted = torch.where(self.weight > 0, values, torch.zeros_like(values))
        return (self.weight * counted).sum() / torch.where(total > 0, total, torch.ones_like(total))


class Loss(NamedTuple):
    """What an objective returns: the scalar to differentiate, and detached scalars worth logging."""

    value: Tensor
    terms: dict[str, Tensor]


class State(NamedTuple):
    """What a sampler's next step needs. A sampler with more to remember defines a NamedTuple of its own that has `y`.

    Fields other than `y` may be None until the first step, since only the energy's output says what a chain is.
    """

    y: Tensor
    t: int = 0  # steps taken so far, for schedules
    scale: Tensor | None = None  # (*chains,): this trajectory's draw of the step-size scale
    gain: float = 1.0  # the present landscape's multiplier of the step size


class Info(NamedTuple):
    """What a person wants to see of a step: the energies (*chains,) it was taken from, their gradient, the acceptance."""

    energy: Tensor
    grad: Tensor | None = None
    accepted: Tensor | None = None

    @property
    def grad_norm(self) -> Tensor | None:
        """Computes each chain's gradient norm (*chains,), only when asked."""
        if self.grad is None:
            return None
        chains = self.energy.shape
        return self.grad.detach().reshape(*chains, -1).norm(dim=-1)


class Prediction(NamedTuple):
    """What a predictor returns: predictions, their energies (None for a feed-forward model), forward passes spent."""

    y: Tensor
    energy: Tensor | None
    evaluations: int


class Predictor(Protocol):
    """What a task judges: a `Thinker(energy, sampler)` or a feed-forward baseline.

    A predictor that starts from several `candidates` is given as many starts, as the leading axis of `start`. One that can
    also score given configurations has `score(batch, y) -> (*chains,)`.
    """

    def predict(self, batch: Batch, start: Tensor, *, generator: torch.Generator | None = None) -> Prediction: ...


# -------------------------------------------------------------------------------------------------------------- energies


class Energy(nn.Module):
    """Scores how compatible y is with a context: E(y | context), low is compatible.

    Write `forward`, and `encode` where there is a context. `levels` is the number of landscapes (noise levels, or an
    EBT's step embeddings). Energies compose: `e1 + e2`, `0.5 * e`, `e / temperature`; plain functions may join.

    >>> class Quadratic(Energy):
    ...     def forward(self, y, code=None):
    ...         return (y**2).sum(-1) / 2
    >>> (Quadratic() / 2.0)(torch.ones(3, 4))
    tensor([1., 1., 1.])
    """

    levels: int = 1
    _compiled: tuple[Callable[..., Any], Callable[..., tuple[Tensor, Tensor]]] | None = None  # encode, and value with gradient

    def encode(self, context: Any = None, level: int = -1) -> Any:
        """Computes once everything that does not depend on y. By default the code is the context itself."""
        return context

    def extend(self, code: Any, context: Any) -> Any:
        """Makes a new code with more context appended; `code` itself stays as it is."""
        raise NotImplementedError(f"{type(self).__name__} cannot extend a code: encode the whole context instead")

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        """Maps y (*chains, *event) to energies (*chains,)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(y, code=None)")

    def given(self, context: Any = None, level: int = -1) -> EnergyFn:
        """Binds an encoded context: the result maps y to energies, and samplers never change the energy behind it."""
        if not -self.levels <= level < self.levels:
            raise ValueError(f"level {level} of an energy with {self.levels} landscape(s)")
        if self._compiled is not None and torch.is_grad_enabled():
            encode, value_and_grad = self._compiled
            return Given(self, encode(context, level % self.levels), value_and_grad)
        return Given(self, self.encode(context, level % self.levels))

    def landscapes(self, context: Any = None) -> list[EnergyFn]:
        """Binds the context at every level, from the first landscape of a trajectory to the last."""
        return [self.given(context, level) for level in range(self.levels)]

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compiles encoding, and the energy together with its gradient; takes `torch.compile`'s arguments.

        The first steps then take minutes, and later ones less time. Results are those of eager mode up to rounding. Only what is
        bound with gradients enabled, as in training, runs compiled: elsewhere shapes change too often.
        """
        options.setdefault("dynamic", False)  # with shapes left open the compiled second derivative was not finite (torch 2.14)
        encode = torch.compile(self.encode, *arguments, **options)
        self._compiled = encode, torch.compile(partial(_value_and_grad, self), *arguments, **options)

    def __add__(self, other: EnergyFn) -> Energy:
        from ebm.energies.compose import SumEnergy

        return SumEnergy([self, other])

    def __radd__(self, other: EnergyFn | float) -> Energy:
        from ebm.energies.compose import SumEnergy

        if isinstance(other, int | float):
            if other == 0:
                return self  # sum() starts at 0
            raise TypeError(f"{other} is no energy: add an Energy, or a function of y")
        return SumEnergy([other, self])

    def __mul__(self, scale: float) -> Energy:
        from ebm.energies.compose import ScaledEnergy

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
    compiled: Callable[..., tuple[Tensor, Tensor]] | None = None  # (y, code) -> E(y) and dE/dy

    def __call__(self, y: Tensor) -> Tensor:
        return self.energy(y, self.code)


def _value_and_grad(energy: Energy, y: Tensor, code: Any) -> tuple[Tensor, Tensor]:
    """Computes E(y) and dE/dy in a way that a compiler can differentiate: torch.func inside, one backward outside."""

    def total(y: Tensor) -> tuple[Tensor, Tensor]:
        value = energy(y, code)
        return value.sum(), value

    grad, value = torch.func.grad(total, has_aux=True)(y)
    return value, grad


def bind(energy: EnergyFn, context: Any = None, level: int = -1) -> EnergyFn:
    """Binds a context to an energy; a plain function is an unconditional energy and stays as it is."""
    return energy.given(context, level) if isinstance(energy, Energy) else energy


def landscapes(energy: EnergyFn | Sequence[EnergyFn], context: Any = None) -> list[EnergyFn]:
    """Lists the landscapes of an energy, of a plain function (itself) or of a sequence of either."""
    if isinstance(energy, Energy):
        return energy.landscapes(context)
    if isinstance(energy, list | tuple | nn.ModuleList):
        return [bind(part, context) for part in energy]
    return [energy]  # type: ignore[list-item]  # a Sequence that is neither list nor tuple is no energy


def energy_and_grad(energy: EnergyFn, y: Tensor, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Computes E(y) (*chains,) and every chain's own gradient dE/dy, checking the one promise an energy makes.

    The gradient is that of sum(E): chains are independent, so each receives its own. With `create_graph` both results carry
    the graph (second order); without it they carry none, and y and the energy's parameters are left untouched.

    Raises:
        ValueError: y is no floating tensor, or the energy's output is no prefix of y, is on another device, or does not
            depend on y.
        RuntimeError: under `torch.inference_mode`, which forbids gradients.

    >>> energy_and_grad(lambda y: (y**2).sum(-1) / 2, torch.tensor([[3.0, 4.0]]))
    (tensor([12.5000]), tensor([[3., 4.]]))
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "sampling needs the energy's gradients, which torch.inference_mode() forbids: use torch.no_grad() instead"
        )
    check_configuration(y)
    if isinstance(energy, Given) and energy.compiled is not None:
        with torch.set_grad_enabled(create_graph):
            return energy.compiled(y if create_graph else y.detach(), energy.code)
    with torch.enable_grad():
        if not (create_graph and y.requires_grad):
            # A tensor made under inference_mode cannot be differentiated, its copy can.
            y = (y.clone() if y.is_inference() else y.detach()).requires_grad_()
        value = evaluate(energy, y)
        if not value.requires_grad:
            raise ValueError(_NO_GRADIENT.format(tuple(value.shape)))
        (grad,) = torch.autograd.grad(value, y, torch.ones_like(value), create_graph=create_graph, allow_unused=True)
    if grad is None:
        raise ValueError(_NO_GRADIENT.format(tuple(value.shape)))
    return (value if create_graph else value.detach()), grad


_NO_GRADIENT = (
    "the energy (output shape {}) has no gradient with respect to y: a detach(), .data, no_grad() or "
    "NumPy round trip inside it cuts the graph, or it ignores y"
)


def evaluate(energy: EnergyFn, y: Tensor) -> Tensor:
    """Evaluates an energy and checks that what comes back is one energy per chain of y."""
    try:
        value = energy(y)
    except RuntimeError as error:
        held = (p for module in _modules(energy)[:1] for p in (*module.parameters(), *module.buffers()))
        parameter = next((p for p in held if p.is_floating_point() and (p.dtype, p.device) != (y.dtype, y.device)), None)
        if parameter is None or not any(word in str(error) for word in ("type", "device")):
            raise
        raise ValueError(
            f"y is {y.dtype} on {y.device}, but the energy holds {parameter.dtype} on {parameter.device}: "
            f"move one to the other, as in energy.to(y) or y.to(dtype, device) ({error})"
        ) from error
    if not isinstance(value, Tensor):
        raise ValueError(f"the energy returned {type(value).__name__}: return a tensor with one energy per chain of y")
    shape, whole = tuple(value.shape), tuple(y.shape)
    if shape != whole[: len(shape)]:
        raise ValueError(f"energy shape {shape} is not a prefix of y's shape {whole}: {_way_out(shape, whole)}")
    if not shape and len(whole) != 1:
        raise ValueError(
            f"energy shape () for y of shape {whole} is one number for all chains: sum over event axes only, "
            f"and leave the chains' axes alone, as in E.sum(-1)"
        )
    if not value.is_floating_point() or value.device != y.device:
        raise ValueError(f"the energy is {value.dtype} on {value.device}, but y is {y.dtype} on {y.device}")
    return value


def _way_out(shape: tuple[int, ...], whole: tuple[int, ...]) -> str:
    if shape[:-1] == whole[: len(shape) - 1] and shape[-1:] == (1,):
        return "sum out the last axis"
    if len(shape) > len(whole):
        return f"it has more axes than y; return at most {len(whole)}"
    return "return one energy per chain, that is, reduce y's last axes only"


def _modules(energy: Any) -> list[nn.Module]:
    """Lists the modules behind an energy function, where there are any to be found."""
    while not isinstance(energy, nn.Module):
        # What binds an energy (`Given`, or a wrapper of yours) has it as `.energy`; a module's method has it as `__self__`.
        energy = getattr(energy, "energy", None) or getattr(energy, "__self__", None)
        if energy is None:
            return []
    return list(energy.modules())


def check_configuration(y: Any, generator: torch.Generator | None = None) -> None:
    """Raises ValueError where y cannot be moved by a gradient: not a floating tensor, empty, or not on the generator's device."""
    if not isinstance(y, Tensor):
        raise ValueError(f"y is {type(y).__name__}: pass a tensor (*chains, *event)")
    if not y.is_floating_point():
        raise ValueError(f"y is {y.dtype}: energies are differentiated with respect to y, so pass y.float()")
    if y.ndim == 0 or y.numel() == 0:
        raise ValueError(f"y has shape {tuple(y.shape)}: there are no chains to move")
    if generator is not None and generator.device.type != y.device.type:
        raise ValueError(f"the generator lives on {generator.device}, y on {y.device}: make it with torch.Generator(y.device)")


def left(values: Tensor, like: Tensor) -> Tensor:
    """Views one value per chain (*chains,) so that it broadcasts from the left over (*chains, *event).

    >>> left(torch.ones(5), torch.ones(5, 3, 2)).shape
    torch.Size([5, 1, 1])
    """
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


# -------------------------------------------------------------------------------------------------------------- samplers


class Sampler(nn.Module):
    """Moves y downhill, or through, an energy's landscape. Holds step sizes; all that moves is in the State.

    Write `init` and `step`, and set `steps`; `trajectory` and `sample` come from here. A sampler that accepts or rejects
    sets `differentiable = False`: no gradient passes through a decision. One that draws noise, but does not leave p ∝ exp(−E)
    alone (an optimiser, a sampler at another temperature), sets `stationary = False`, so that nobody holds it to that. One whose
    chains act on each other (particles) sets `interacting = True`.
    """

    steps: int | tuple[int, int] = 1
    differentiable: bool = True
    interacting: bool = False  # whether the chains along the leading axis know of each other
    stationary: bool | None = None  # whether p ∝ exp(−E) stays as it is, up to what vanishes with the step; None: if it draws

    def init(self, energy: EnergyFn, y: Tensor, *, generator: torch.Generator | None = None) -> Any:
        """Makes the State that the first step starts from."""
        return State(y)

    def step(
        self, energy: EnergyFn, state: Any, *, create_graph: bool = False, generator: torch.Generator | None = None
    ) -> tuple[Any, Info]:
        """Takes one step: a new State, and an Info about the step."""
        raise NotImplementedError(f"{type(self).__name__} must define step(energy, state, *, create_graph, generator)")

    def enter(self, energy: EnergyFn, state: Any) -> Any:
        """Drops what was cached of the old landscape; called at each new one."""
        return state

    def route(self, energies: list[EnergyFn]) -> list[EnergyFn]:
        """Lists the landscapes that a trajectory over these visits, in order: the same, unless the sampler anneals."""
        return energies

    def point(self, y: Tensor) -> Tensor:
        """Maps a raw state to where the energy is taken: y itself, or its retraction."""
        return y

    def begin(self, batch: Batch, y: Tensor, *, generator: torch.Generator | None = None) -> tuple[Batch, Tensor]:
        """Lets a replay buffer swap in, or add, stored rows; objectives call it before a trajectory."""
        return batch, y

    def finish(self, batch: Batch, y: Tensor) -> None:
        """Gives the ends of a trajectory back to a replay buffer."""

    def trajectory(
        self,
        energy: EnergyFn | Sequence[EnergyFn],
        y: Any,
        *,
        steps: int | None = None,
        unroll: Unroll = "none",
        generator: torch.Generator | None = None,
    ) -> Iterator[tuple[Any, Info]]:
        """Iterates over (state after the step, info about the step), landscape by landscape.

        Arguments:
            energy: an energy function, or a sequence of them (annealing, an EBT's landscapes).
            y: the start (*chains, *event), or a State to go on from: n steps and then m are n + m.
            steps: steps per landscape; by default the sampler's own, drawn once per landscape where that is a pair
                (in train mode; its upper end in eval mode).
            unroll: which graph is kept: "none"; "each" (within a step, the state detached in between); "last" (in the
                last step only); "full". Values agree between them, gradients differ. Under no_grad none is kept.
            generator: where noise comes from; torch's global generator if None.

        Modules are evaluated in eval mode, so that sampling draws no dropout and moves no batch statistics. (A module that
        only a closure knows cannot be found: call its `eval()` yourself.)

        Raises:
            ValueError: for arguments that cannot work, at the call.
            FloatingPointError: where a state or an energy stops being finite, naming step and chains.
        """
        check_unroll(self, unroll)
        functions: list[EnergyFn] = [*energy] if isinstance(energy, list | tuple | nn.ModuleList) else [energy]  # type: ignore
        if not functions or not all(callable(function) for function in functions):
            raise ValueError(f"energy is {energy!r}: pass a callable, or a sequence of at least one")
        functions = self.route(functions)
        fresh = isinstance(y, Tensor) or not hasattr(y, "y")
        check_configuration(y if fresh else y.y, generator)
        if torch.is_inference_mode_enabled():
            energy_and_grad(functions[0], y if fresh else y.y)  # raises, with the way out
        if not fresh and len(functions) > 1:
            raise ValueError(
                f"a State goes on on the landscape where it stands: pass state.y to go through {len(functions)} landscapes"
            )
        counts = [self._count(self.steps if steps is None else steps, generator) for _ in functions]
        if not torch.is_grad_enabled():
            unroll = "none"
        with eval_mode(functions[0]), torch.set_grad_enabled(unroll == "full"):
            state = self.init(functions[0], y, generator=generator) if fresh else y
        return self._walk(functions, counts, state, unroll, generator)

    def sample(
        self,
        energy: EnergyFn | Sequence[EnergyFn],
        y: Any,
        *,
        steps: int | None = None,
        unroll: Unroll = "none",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Runs a trajectory and returns its end, the raw state y; arguments as `trajectory`'s."""
        end = y if isinstance(y, Tensor) else getattr(y, "y", y)
        for state, info in self.trajectory(energy, y, steps=steps, unroll=unroll, generator=generator):
            end = state.y
            del info, state  # so that the next step finds their memory free
        return end

    def _count(self, steps: int | tuple[int, int], generator: torch.Generator | None) -> int:
        low, high = check_steps(steps)
        if low == high or not self.training:
            return high
        device = "cpu" if generator is None else generator.device
        return int(torch.randint(low, high + 1, (), generator=generator, device=device))

    def _walk(
        self,
        functions: list[EnergyFn],
        counts: list[int],
        state: Any,
        unroll: Unroll,
        generator: torch.Generator | None,
    ) -> Iterator[tuple[Any, Info]]:
        total, taken, watch = sum(counts), 0, _Watch()
        if unroll != "full":
            state = detach(state)
        for index, (energy, count) in enumerate(zip(functions, counts, strict=True)):
            calm = eval_mode(energy)
            if index:
                with calm, torch.set_grad_enabled(unroll == "full"):
                    state = self.enter(energy, state)
            for _ in range(count):
                taken += 1
                graph = unroll in ("each", "full") or (unroll == "last" and taken == total)
                if unroll == "each":  # the steps of "none", and those of "last" before the last, make no graph to cut
                    state = detach(state)
                with calm, torch.set_grad_enabled(graph):
                    state, info = self.step(energy, state, create_graph=graph, generator=generator)
                watch.see(taken, state.y, info.energy)
                yield state, info
                del info  # so that the next step finds its memory free
        watch.end()


def check_unroll(sampler: Sampler, unroll: str) -> None:
    """Raises ValueError where a sampler cannot keep such a graph."""
    if unroll not in ("none", "each", "last", "full"):
        raise ValueError(f"unroll={unroll!r}: choose none, each, last or full")
    if unroll != "none" and not sampler.differentiable:
        raise ValueError(
            f"{type(sampler).__name__} accepts or rejects its steps, and no gradient passes through that: "
            f"unroll={unroll!r} is not possible, use unroll='none'"
        )


def check_steps(steps: Any) -> tuple[int, int]:
    """Reads a number of steps, or a pair of its bounds, as (low, high).

    Raises:
        ValueError: for anything else.
    """
    pair = (steps, steps) if isinstance(steps, int) else tuple(steps) if isinstance(steps, Sequence) else ()
    if len(pair) != 2 or not all(type(n) is int for n in pair) or not 0 <= pair[0] <= pair[1]:
        raise ValueError(f"steps={steps!r}: pass a whole number of at least 0, or a pair (low, high) of them")
    return pair[0], pair[1]


def detach(state: Any) -> Any:
    """Cuts every tensor of a State (NamedTuples may nest) out of the graph."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple):
        fields = [detach(field) for field in state]
        return type(state)(*fields) if hasattr(state, "_fields") else type(state)(fields)
    if isinstance(state, Mapping):
        return {key: detach(value) for key, value in state.items()}
    return state


class eval_mode:
    """Holds the module behind an energy (or a list of modules) in eval mode, and puts each part back into its own mode."""

    # A class, so that one serves all steps of a landscape: a generator made anew at each is a few per cent of a cheap step.
    def __init__(self, energy: Any) -> None:
        parts = energy if isinstance(energy, list | tuple) else [energy]
        self.modules: list[nn.Module] = [module for part in parts for module in _modules(part)]
        self.training: list[nn.Module] = []

    def __enter__(self) -> None:
        self.training = [module for module in self.modules if module.training]
        for module in self.training:
            module.training = False

    def __exit__(self, *_: object) -> None:
        for module in self.training:
            module.training = True


class _Watch:
    """Watches a trajectory for values that are not finite: at once on a CPU, by a flag read at the end on an accelerator."""

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.seen: tuple[Tensor, Tensor] | None = None

    def see(self, step: int, y: Tensor, energy: Tensor) -> None:
        # A sum screens all values (a sum of finite values that overflows is sent on to the exact look below).
        if y.is_cpu:
            if not math.isfinite(y.sum().item() + energy.sum().item()):
                raise_if_not_finite(step, y.detach(), energy.detach())
            return
        y, energy = y.detach(), energy.detach()
        finite = torch.isfinite(y).all() & torch.isfinite(energy).all()
        if self.first is None:
            self.first = torch.zeros((), dtype=torch.long, device=y.device)
        self.first = torch.where((self.first == 0) & ~finite, step, self.first)
        self.seen = (y, energy)

    def end(self) -> None:
        if self.first is not None and self.seen is not None and (step := int(self.first)):
            raise_if_not_finite(step, *self.seen)
            raise FloatingPointError(f"step {step}: the energy or the state was not finite, though later ones are")


def raise_if_not_finite(step: int | None, y: Tensor, energy: Tensor) -> None:
    """Raises FloatingPointError naming the step, what is not finite, and in which chains."""
    by_chain = torch.isfinite(y).reshape(*energy.shape, -1).all(-1)
    for what, finite in (("energy", torch.isfinite(energy)), ("state", by_chain)):
        if not bool(finite.all()):
            bad = torch.nonzero(~finite.reshape(-1)).flatten().tolist()
            shown = ", ".join(map(str, bad[:8])) + (", …" if len(bad) > 8 else "")
            where = "" if step is None else f"step {step}: "
            raise FloatingPointError(
                f"{where}the {what} is not finite in {len(bad)} of {finite.numel()} chains (chain {shown}): "
                f"a smaller step_size, a gradient clip or a check of the start and the weights is the usual way out"
            )


# ------------------------------------------------------------------------------------------------------------ objectives


class Objective(nn.Module):
    """Shapes a landscape with data: maps an energy and a batch to a scalar loss. Owns its sampler, start rule and weights."""

    def forward(
        self,
        energy: EnergyFn,
        batch: Batch,
        *,
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Loss:
        """Computes the loss of one batch; `start` replaces the objective's own start of the chains."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(energy, batch, *, start, generator)")


class Task(ABC):
    """Owns data and their meaning: where y starts, how far it is from the truth, how it is judged. No parameters.

    `spec` holds what the data decide (dim, image_size, channels, vocab_size …); recipes fill in factories' keywords from it.
    """

    spec: dict[str, Any]

    @abstractmethod
    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader of `Batch`es; the order of the training split depends on the seed alone."""

    @abstractmethod
    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws y_0 for a batch."""

    def starts(self, predictor: Predictor, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws what a predictor starts from: y_0, or where it has several `candidates`, one y_0 for each in front."""
        count = getattr(predictor, "candidates", 1)
        if count == 1:
            return self.start(batch, generator=generator)
        return torch.stack([self.start(batch, generator=generator) for _ in range(count)])

    @abstractmethod
    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        """Measures how far y is from the batch's truth (*chains,), differentiably."""

    @abstractmethod
    def evaluate(
        self,
        predictor: Predictor,
        *,
        split: str = "test",
        limit: int | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, float]:
        """Judges a predictor on a split, on at most `limit` examples."""
