"""The sampler interface: `init`, `step`, and the trajectory that every sampler shares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Generator, Tensor, nn

from ebm.interfaces.agreement import agreed
from ebm.interfaces.arguments import built_plainly, plain
from ebm.interfaces.energy import EnergyFn, check_configuration, energy_and_grad, modules_of
from ebm.interfaces.precision import HALF, Fine, Rounded, refined
from ebm.interfaces.values import Batch, Info, State

Unroll: TypeAlias = Literal["none", "each", "last", "full"]


class Sampler(nn.Module):
    """Moves y through an energy's landscape. It holds step sizes; the State holds all that changes.

    Write `init` and `step`, and set `steps`. A sampler that accepts or rejects sets `differentiable
    = False`; one that draws noise but does not preserve p ∝ exp(−E) sets `stationary = False`; one
    whose chains act on each other (particles) sets `interacting = True`.
    """

    steps: int | tuple[int, int] = 1
    differentiable: bool = True
    interacting: bool = False  # whether chains along the leading axis act on each other
    stationary: bool | None = None  # whether steps preserve p ∝ exp(−E); None: if they draw noise
    compensated: bool = True  # whether a half-precision y is moved by a float32 copy of it

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        built_plainly(cls)

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> Any:
        """Makes the State that the first step starts from."""
        return State(y)

    def step(
        self, energy: EnergyFn, state: Any, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[Any, Info]:
        """Takes one step: returns a new State, and an Info about the step."""
        raise NotImplementedError(f"{type(self).__name__} must define step(energy, state, *, create_graph, generator)")

    def enter(self, energy: EnergyFn, state: Any) -> Any:
        """Drops what the State caches of the old landscape; called at each new one."""
        return state

    def route(self, energies: list[EnergyFn]) -> list[EnergyFn]:
        """Lists the landscapes to visit, in order: `energies`, unless the sampler anneals."""
        return energies

    def point(self, y: Tensor) -> Tensor:
        """Maps a state to where the energy is taken: y itself, or its retraction.

        It makes a sample of a raw state, such as probabilities of logits; a state that lies within
        its bounds already (`project`) is its own point.
        """
        return y

    def project(self, y: Tensor) -> Tensor:
        """Maps y to where states lie: into the bounds the sampler was given, if it has any.

        `init` projects the start and `step` what it moved, so that states, and what `sample`
        returns, lie inside. Raw states (logits) have no bounds.
        """
        return y

    def begin(self, batch: Batch, y: Tensor, *, generator: Generator | None = None) -> tuple[Batch, Tensor]:
        """Lets a replay buffer swap in or add rows; objectives call it before a trajectory."""
        return batch, y

    def finish(self, batch: Batch, y: Tensor) -> None:
        """Gives a trajectory's ends back to a replay buffer."""

    def trajectory(
        self,
        energy: EnergyFn | Sequence[EnergyFn],
        y: Any,
        *,
        steps: int | None = None,
        unroll: Unroll = "none",
        generator: Generator | None = None,
    ) -> Iterator[tuple[Any, Info]]:
        """Iterates over (state after the step, info about the step), landscape by landscape.

        Modules run in eval mode; call `eval()` yourself on a module that only a closure knows. Where
        y is in half precision, a float32 copy of it, held by the state, moves, so that small steps
        are not lost in rounding; energies are taken at, and state.y is, that copy rounded.

        Arguments:
            energy: an energy function, or a sequence of them (annealing, an EBT's landscapes).
            y: the start (*chains, *event), or a State to continue from.
            steps: steps per landscape; by default the sampler's, a pair's upper end in eval mode.
            unroll: which graph is kept: "none"; "each" (within a step, states detached in between);
                "last" (the last step); "full". Values agree, gradients differ. no_grad keeps none.
            generator: where noise comes from; torch's global generator if None.

        Raises:
            ValueError: at the call, for arguments that cannot work.
            FloatingPointError: a state or an energy is not finite; names the step and the chains.
        """
        check_unroll(self, unroll)
        y = y if isinstance(y, Tensor) else plain(y)
        functions: list[EnergyFn] = [*energy] if isinstance(energy, list | tuple | nn.ModuleList) else [energy]  # type: ignore
        if not functions or not all(callable(function) for function in functions):
            raise ValueError(f"energy is {energy!r}: pass a callable, or a sequence of at least one")
        functions = self.route(functions)
        fresh = isinstance(y, Tensor) or not hasattr(y, "y")
        start = y if fresh else y.y
        check_configuration(start, generator)
        if torch.is_inference_mode_enabled():
            energy_and_grad(functions[0], start)  # raises, with the way out
        if not fresh and len(functions) > 1:
            raise ValueError(f"a State continues on its own landscape: pass state.y to visit {len(functions)} landscapes")
        counts = [self._count(self.steps if steps is None else steps, generator) for _ in functions]
        if not torch.is_grad_enabled():
            unroll = "none"
        one = start.new_ones(()) if start.dtype in HALF and self.compensated else None
        if one is not None:
            functions, y = [Rounded(function, one.dtype) for function in functions], refined(y)
        with eval_mode(functions[0]), torch.set_grad_enabled(unroll == "full"):
            state = self.init(functions[0], y, generator=generator) if fresh else y
        return self._walk(functions, counts, state, unroll, generator, one)

    def sample(
        self,
        energy: EnergyFn | Sequence[EnergyFn],
        y: Any,
        *,
        steps: int | None = None,
        unroll: Unroll = "none",
        generator: Generator | None = None,
    ) -> Tensor:
        """Runs a trajectory and returns its end, the last state's y; arguments as `trajectory`'s.

        It lies within the sampler's bounds. Where states are raw (logits under
        retraction="softmax", `MirrorDescent`), the sample is `point` of it.
        """
        y = y if isinstance(y, Tensor) else plain(y)
        path = self.trajectory(energy, y, steps=steps, unroll=unroll, generator=generator)
        end = self.project(y if isinstance(y, Tensor) else y.y)
        for state, info in path:
            end = state.y
            del info, state  # so that the next step finds their memory free
        return end

    def compile(self, *_: Any, **__: Any) -> None:
        """Raises ValueError: torch would compile `forward`, which samplers do not have, and say nothing."""
        raise ValueError(f"{type(self).__name__}.compile() has no energy: put ebm.samplers.Compiled(sampler) in its place")

    def _count(self, steps: int | tuple[int, int], generator: Generator | None) -> int:
        low, high = check_steps(steps)
        if low == high or not self.training:
            return high
        device = "cpu" if generator is None else generator.device
        return agreed(int(torch.randint(low, high + 1, (), generator=generator, device=device)))

    def _walk(
        self,
        functions: list[EnergyFn],
        counts: list[int],
        state: Any,
        unroll: Unroll,
        generator: Generator | None,
        one: Tensor | None,
    ) -> Iterator[tuple[Any, Info]]:
        total, taken, watch = sum(counts), 0, Watch()
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
                if unroll == "each":  # "none" and "last" make no graph that could be cut here
                    state = detach(state)
                with calm, torch.set_grad_enabled(graph):
                    state, info = self.step(energy, state, create_graph=graph, generator=generator)
                shown = state if one is None else Fine(state, one)
                watch.see(taken, shown.y, info.energy)
                yield shown, info
                del info, shown  # so that the next step finds their memory free
        watch.end()


def check_unroll(sampler: Sampler, unroll: str) -> None:
    """Raises ValueError where a sampler cannot keep such a graph."""
    if unroll not in ("none", "each", "last", "full"):
        raise ValueError(f"unroll={unroll!r}: choose none, each, last or full")
    if unroll != "none" and not sampler.differentiable:
        name = type(sampler).__name__
        raise ValueError(f"{name} accepts or rejects, which no gradient passes: not unroll={unroll!r}, use unroll='none'")


def check_steps(steps: Any) -> tuple[int, int]:
    """Reads a number of steps, or a pair (low, high), as a pair; raises ValueError for others."""
    steps = steps if type(steps) is int else plain(steps)
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
    """Sets the modules behind energies to eval mode, and each back to its own mode at the end."""

    # A class: one context manager per step, made by a generator, would slow down cheap steps.
    def __init__(self, energy: Any) -> None:
        parts = energy if isinstance(energy, list | tuple) else [energy]
        self.modules: list[nn.Module] = [module for part in parts for module in modules_of(part)]
        self.training: list[nn.Module] = []

    def __enter__(self) -> None:
        self.training = [module for module in self.modules if module.training]
        for module in self.training:
            module.training = False

    def __exit__(self, *_: object) -> None:
        for module in self.training:
            module.training = True


class Watch:
    """Finds values that are not finite: at once on a CPU, at the trajectory's end elsewhere."""

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.seen: tuple[Tensor, Tensor] | None = None

    def see(self, step: int, y: Tensor, energy: Tensor) -> None:
        # A sum screens all values; `raise_if_not_finite` looks exactly, in case the sum overflowed.
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
    """Raises FloatingPointError that names the step, and the chains that are not finite."""
    by_chain = torch.isfinite(y).reshape(*energy.shape, -1).all(-1)
    for what, finite in (("energy", torch.isfinite(energy)), ("state", by_chain)):
        if not bool(finite.all()):
            bad = torch.nonzero(~finite.reshape(-1)).flatten().tolist()
            shown = ", ".join(map(str, bad[:8])) + (", …" if len(bad) > 8 else "")
            where = "" if step is None else f"step {step}: "
            where += f"the {what} is not finite in {len(bad)} of {finite.numel()} chains (chain {shown})"
            raise FloatingPointError(f"{where}: try a smaller step_size or a gradient clip, or check the start and the weights")
