"""Compiled: whole steps, several at a time, as one program that torch.compile makes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ebm.interfaces import EnergyFn, Info, Sampler, Unroll
from ebm.interfaces.precision import Fine
from ebm.interfaces.sampler import Watch, detach, eval_mode
from ebm.randomness import Drawn, Noting
from ebm.samplers.accepting import AcceptingSampler
from ebm.samplers.stepping import SteppingSampler, at
from ebm.samplers.tree_program import check_loops
from ebm.samplers.wrapper import Wrapper

GRADIENTS = 8  # about so many in a program: beside them a call's own time is small, and compiling takes seconds
SCHEDULED = ("step_size", "temperature", "noise_std")  # what may differ from step to step
PLAIN = {bool, int, float, str}  # attributes that say what a step draws; of a fraction, whether it is 0
LIMIT = 64  # programs of one sampler, for energies, shapes and kinds of mass


class Compiled(Wrapper):
    """Steps as the sampler inside it does, by programs of whole steps, several at a time.

    Noise is drawn outside of the programs and in the same order: on a CPU the same generator makes
    the same moves, up to rounding. (On a GPU `NUTS` draws its numbers in one go, which are others.)

    A chain's first step runs as it is, with all checks. Then a program is compiled, which takes
    seconds, once for an energy and a shape of y. Step sizes, schedules, masses of one kind, weights
    and contexts of one shape may change without another one, so `warm_up` tunes it as any sampler.
    The steps of a program are taken together: a loop that shares the generator, or breaks, finds it
    up to `together` − 1 steps ahead, and a change of the sampler counts from the next program on. A
    state that is not finite is told when its step's turn comes.

    It is a wrapper, since a program belongs to both a sampler and an energy, and whatever takes a
    sampler takes it. Put it around the sampler, and others around it: `Structured(Compiled(NUTS()))`.

    Arguments:
        sampler: one whose steps are all alike (`steady`): LangevinDynamics and its relatives,
            GradientDescent, MirrorDescent, MALA, HMC, NUTS, RandomWalk.
        together: how many steps make a program; by default about eight gradients' worth, for NUTS 1.
        backend: torch.compile's: "inductor" needs a C++ compiler; "eager" traces only, for tests.

    Raises:
        ValueError: the steps are not alike; the installed torch lacks the loops that NUTS needs; a
            graph is asked for; when a program is made, the energy cannot be compiled: it leaves
            torch, or decides by values.

    >>> from ebm.samplers import HMC
    >>> sampler, g = Compiled(HMC(0.5), backend="eager"), torch.Generator().manual_seed(0)
    >>> y = sampler.sample(lambda y: y.square().sum(-1) / 2, torch.zeros(4, 2), steps=4, generator=g)
    >>> g = torch.Generator().manual_seed(0)
    >>> torch.equal(y, HMC(0.5).sample(lambda y: y.square().sum(-1) / 2, torch.zeros(4, 2), steps=4, generator=g))
    True
    """

    def __init__(self, sampler: Sampler, together: int | None = None, backend: str | Callable[..., Any] = "inductor") -> None:
        super().__init__(sampler)
        name = type(sampler).__name__
        if not is_steady(type(sampler)):
            way_out = f"take it as it is, or compile its energy; what can be compiled is {', '.join(steady_samplers())}"
            raise ValueError(f"Compiled({name}): no program holds its steps, which are not all alike: {way_out}")
        if together is not None and together < 1:
            raise ValueError(f"Compiled({name}, together={together}): pass how many steps make a program, at least 1")
        long = hasattr(sampler, "max_depth")
        if long:
            check_loops()
        self.together = together or (1 if long else max(1, GRADIENTS // getattr(sampler, "leapfrog_steps", 1)))
        self.backend = backend
        self._programs: dict[str, Any] = {}  # by kind of device
        self._notes: dict[Any, list[Any] | None] = {}  # what a step draws, by what that depends on
        self._twins: dict[int, Any] = {}  # copies of the sampler, by how many steps

    differentiable = False  # it keeps no graph

    def trajectory(
        self,
        energy: EnergyFn | Sequence[EnergyFn],
        y: Any,
        *,
        steps: int | None = None,
        unroll: Unroll = "none",
        generator: Generator | None = None,
    ) -> Iterator[tuple[Any, Info]]:
        """Iterates as every sampler does, without a graph."""
        self._refuse_graph(unroll != "none", f"unroll={unroll!r}")
        return super().trajectory(energy, y, steps=steps, generator=generator)

    def step(
        self, energy: EnergyFn, state: Any, *, create_graph: bool = False, generator: Generator | None = None
    ) -> tuple[Any, Info]:
        self._refuse_graph(create_graph, "create_graph=True")
        with torch.no_grad():
            path, _ = self._take(1, energy, state, generator)
        return path[0]

    def _refuse_graph(self, asked: bool, how: str) -> None:
        if asked and not self.sampler.differentiable:
            raise ValueError(f"{type(self.sampler).__name__} accepts or rejects, which no gradient passes: not {how}")
        if asked:
            raise ValueError(f"Compiled keeps no graph, as {how} asks: take the {type(self.sampler).__name__} inside it")

    def _walk(
        self,
        functions: list[EnergyFn],
        counts: list[int],
        state: Any,
        unroll: Unroll,
        generator: Generator | None,
        one: Tensor | None,
    ) -> Iterator[tuple[Any, Info]]:
        taken, watch, state = 0, Watch(), detach(state)
        for index, (energy, left) in enumerate(zip(functions, counts, strict=True)):
            calm, size = eval_mode(energy), self.together if left >= self.together else 1
            with calm, torch.no_grad():
                state = self.enter(energy, state) if index else state
            while left:
                with calm, torch.no_grad():  # the last few run as they are: another program would not pay
                    path, total = self._take(size if left >= size else 0, energy, state, generator)
                state, left = path[-1][0], left - len(path)
                finite = total is not None and total.is_cpu and bool(total.isfinite())
                while path:
                    inner, info = path.pop(0)
                    taken, shown = taken + 1, inner if one is None else Fine(inner, one)
                    if not finite:
                        watch.see(taken, shown.y, info.energy)
                    yield shown, info
                    del inner, info, shown  # so that the next step finds their memory free
        watch.end()

    def _take(
        self, count: int, energy: EnergyFn, state: Any, generator: Generator | None
    ) -> tuple[list[tuple[Any, Info]], Tensor | None]:
        """Takes `count` steps by a program, or one as it is: the path, and a sum of what must be finite."""
        inner: Any = self.sampler
        ahead = self._ahead(max(count, 1), state)
        notes = self._noted(energy, state, ahead) if count and state.t else None
        if notes is None:  # a chain's first step checks, and draws what holds for a trajectory
            return [inner.step(energy, state, generator=generator)], None
        drawn = [torch.empty(count, *note.shape, dtype=note.dtype, device=note.device) for note in notes]
        for number in range(count):
            own = inner.source(state.y, generator)
            for note, values in zip(notes, drawn, strict=True):
                note.draw(values[number], own)
        try:
            path, total = self._program(state.y)(self._twin(count, state, ahead), energy, state._replace(t=0), drawn, count)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # a compiler's errors have no class in common
            name, why = type(inner).__name__, str(error).strip().partition("\n")[0]
            what = f"Compiled({name}): no program can be made of its steps on this energy ({why})"
            raise ValueError(f"{what}: take the {name} itself, or write the energy in torch alone") from error
        return [(new._replace(t=state.t + new.t), info) for new, info in path], total

    def _program(self, y: Tensor) -> Any:
        """Makes, or looks up, what compiles the steps where y is."""
        if y.device.type not in self._programs:
            options: Any = {"cpp_wrapper": True} if y.is_cpu and self.backend == "inductor" else None  # loops without Python
            more: dict[str, Any] = {"isolate_recompiles": True, "recompile_limit": LIMIT}  # which older versions of torch lack
            more = {key: value for key, value in more.items() if key in inspect.signature(torch.compile).parameters}
            made = torch.compile(_steps, fullgraph=True, dynamic=False, backend=self.backend, options=options, **more)
            self._programs[y.device.type] = made
        return self._programs[y.device.type]

    def _ahead(self, count: int, state: Any) -> dict[str, list[Any]]:
        """Evaluates what may differ from step to step, for the next steps."""
        inner, found = self.sampler, {}
        for name in SCHEDULED:
            value = getattr(inner, name, None)
            if (callable(value) and not isinstance(value, Tensor)) or (name == "step_size" and isinstance(value, float)):
                positive = name == "temperature" and isinstance(inner, AcceptingSampler)
                found[name] = [at(value, state.t + step, positive) for step in range(count)]
        return found

    def _noted(self, energy: EnergyFn, state: Any, ahead: dict[str, list[Any]]) -> list[Any] | None:
        """Looks up what each of the next steps draws, or None where that differs from step to step.

        A step that is thrown away says it, once: so which steps a program takes, and their rounding, does not depend
        on what ran before.
        """
        inner: Any = self.sampler
        loud = {name: {isinstance(value, Tensor) or value != 0 for value in values} for name, values in ahead.items()}
        if any(len(found) > 1 for found in loud.values()):
            return None  # noise of size 0 is not drawn
        held = (
            (name, value == 0 if type(value) is float else value) for name, value in vars(inner).items() if type(value) in PLAIN
        )
        key = _kind(state), (*held,), (*(name for name, found in loud.items() if True in found),)
        if key not in self._notes:
            noting = Noting(inner.source(state.y, torch.Generator(state.y.device)))
            new, _ = inner.step(energy, state, generator=noting)
            self._notes[key] = noting.notes if _kind(new) == _kind(state) else None  # else the first, which may draw more
        return self._notes[key]

    def _twin(self, count: int, state: Any, ahead: dict[str, list[Any]]) -> Any:
        """Copies the sampler as it is now; what may change from step to step becomes a tensor of numbers."""
        inner, twin = self.sampler, self._twins.setdefault(count, copy.copy(self.sampler))
        twin.__dict__.update(vars(inner))
        for name, values in ahead.items():
            none = not any(isinstance(value, Tensor) or value != 0 for value in values)
            numbers = 0.0 if none else Numbers(torch.as_tensor(values, dtype=state.y.dtype, device=state.y.device))
            twin.__dict__[name] = numbers
        return twin

    def extra_repr(self) -> str:
        return f"together={self.together}, backend={self.backend!r}"


class Numbers:
    """A schedule of numbers that are known: t -> values[t]."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __call__(self, t: int) -> Tensor:
        return self.values[t]


def _steps(sampler: Any, energy: EnergyFn, state: Any, drawn: list[Tensor], count: int) -> tuple[list[Any], Tensor]:
    """The program: takes `count` steps from t = 0, and sums what must be finite."""
    path, total = [], 0.0
    for number in range(count):
        source = Drawn([values[number] for values in drawn])
        state, info = sampler.step(energy, state, generator=source)
        assert source.taken == len(drawn), "a step drew less than was noted of it"
        path.append((state, info))
        total = total + state.y.sum() + info.energy.sum()
    return path, total  # type: ignore[return-value]


def _kind(state: Any) -> tuple[Any, ...]:
    """Tells states apart by what draws depend on: type, and each field's shape, or that it is None."""
    return type(state), *((f.shape, f.dtype, f.device) if isinstance(f, Tensor) else f is None for f in state)


def is_steady(kind: type) -> bool:
    """Tells whether a class of samplers says of itself that its steps are all alike: a subclass says so anew."""
    return bool(vars(kind).get("steady"))


def steady_samplers() -> list[str]:
    """Lists the names of the known classes of samplers whose steps are all alike."""
    kinds, found = [SteppingSampler], []
    while kinds:
        kind = kinds.pop()
        found += [kind.__name__] if is_steady(kind) else []
        kinds += kind.__subclasses__()
    return sorted({*found})
