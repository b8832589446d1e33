"""Together: the windows of a large picture think in step, and the energy of the whole picture decides for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ebm.energies.restoration.windowed import Window, Within, windows
from ebm.interfaces import EnergyFn, check_steps, eval_mode, landscapes
from ebm.samplers import Monotone
from ebm.samplers.monotone import choose
from ebm.tasks.images.tiling import MANY, Coding
from ebm.thinking import Thinker, check_choices
from ebm.thinking.stopping import Stopping


class Thoughts(NamedTuple):
    """What windows thought: the picture (C, H, W) as a model sees it, its energy, passes of a window, and steps."""

    y: Tensor | None  # None: the picture itself, which no step has moved
    energy: float
    evaluations: float
    steps: int


def think_together(
    thinker: Thinker,
    image: Tensor,
    coding: Coding,
    seen: Callable[[Tensor], Any],
    *,
    generator: Generator | None = None,
    advance: Callable[[int], None] | None = None,
) -> Thoughts:
    """Thinks about a picture (C, H, W) that is seen window by window, as the thinker would about one chain.

    Its energy is the sum over windows. That decides whether a step of `Monotone` is taken, whole or
    halved, when thinking stops, and which candidate is kept; so no window goes further than its
    neighbour, and each sees its neighbours as they are after the last step. Memory holds the picture,
    two states of it (in half precision, where it is large), and a window.

    Arguments:
        thinker: whose energy takes pictures of any size.
        image: the picture, as its coding holds it.
        coding: how.
        seen: makes the context of a window's pixels (1, C, h, w).
        generator: where a sampler's noise comes from.
        advance: called with 1 for each window and step.

    Raises:
        ValueError: candidates are chosen by something else than the lowest energy.
        FloatingPointError: the energy is not finite where thinking ends.
    """
    check_choices(thinker.candidates, thinker.select, thinker.patience, thinker.tolerance, thinker.residual, thinker.familiar)
    if thinker.candidates > 1 and thinker.select != "min":
        raise ValueError(f"select={thinker.select!r}: a picture of several windows keeps the candidate of lowest energy, 'min'")
    with torch.no_grad(), eval_mode(thinker.sampler), eval_mode(thinker.energy):
        best, passes = None, 0.0
        for _ in range(thinker.candidates):
            found = _Descent(thinker, image, coding, seen, generator, advance or (lambda count: None)).thoughts()
            passes += found.evaluations
            best = found if best is None or found.energy < best.energy else best
    assert best is not None
    return best._replace(evaluations=passes)


def most_steps(thinker: Thinker) -> int:
    """Counts the steps that a thinker takes on a landscape, at most."""
    return check_steps(thinker.sampler.steps if thinker.steps is None else thinker.steps)[1]


class _Descent:
    """One candidate's way down. A state y is a picture (C, H, W) of numbers; None stands for the image."""

    def __init__(
        self,
        thinker: Thinker,
        image: Tensor,
        coding: Coding,
        seen: Callable[[Tensor], Any],
        generator: Generator | None,
        advance: Callable[[int], None],
    ) -> None:
        self.thinker, self.image, self.coding, self.seen, self.generator = thinker, image, coding, seen, generator
        self.advance = advance
        outer = thinker.sampler
        self.sampler = outer.sampler if isinstance(outer, Monotone) else outer
        self.halvings = outer.halvings if isinstance(outer, Monotone) else None  # None: steps are taken whatever the energy
        self.windows = windows(*image.shape[1:])
        self.states: list[Any] = [None] * len(self.windows)  # the sampler's, without their y
        self.passes = 0
        self.per_landscape = most_steps(thinker)
        first = self.part(None, self.windows[0])
        self.total = self.per_landscape * len(self.functions(thinker.energy, self.windows[0]))
        self.size = first.shape[1] * image.shape[1] * image.shape[2]

    def thoughts(self) -> Thoughts:
        """Walks, step by step, until all are taken or thinking stops."""
        who, y, energy, moved = self.thinker, None, None, None
        stops = (who.patience, who.residual, who.familiar) != (None, None, None)
        stopping: Stopping | None = None
        best: Tensor | None = None
        for number in range(self.total + 1):
            landscape = min(number, self.total - 1) // max(self.per_landscape, 1)
            ends = number == self.total
            entered = not ends and number % self.per_landscape == 0
            if entered:
                energy = None  # of another landscape
            watched = stops and number >= self.total - self.per_landscape
            if energy is None and (ends or watched or self.halvings is not None):
                energy = self.energy(y, landscape)
            if watched and self.total:
                assert energy is not None
                # A number stands for the state, and its energy counts per pixel.
                each, named = torch.tensor([energy / self.size], dtype=torch.float64), torch.tensor([number])
                stopping = stopping or Stopping(who.patience, who.tolerance, who.residual, each, named, who.familiar)
                stopping.see(each, named, number, None if moved is None else torch.tensor([moved]))
                best = y if stopping.y.item() == number else best
                if bool(stopping.stopped.all()):
                    break
            if not ends:
                y, energy, moved = self.step(y, energy, landscape, entered and number > 0)
        if stopping is None:
            assert energy is not None
            found, taken, last = y, self.total, energy
        else:
            found, taken, last = best, int(stopping.taken), float(stopping.energy) * self.size
        if not math.isfinite(last):
            raise FloatingPointError(f"the energy is {last} after step {taken}: try a smaller step_size, or check the weights")
        return Thoughts(found, last, self.passes / len(self.windows), taken)

    def step(
        self, y: Tensor | None, before: float | None, landscape: int, entered: bool
    ) -> tuple[Tensor | None, float | None, float]:
        """Takes a step of all windows: the state, its energy where that is known, and how far it moved, root mean square."""
        new, squares, old = self.proposed(y, landscape, entered)
        if self.halvings is None:
            return new, None, math.sqrt(squares / self.size)
        assert before is not None
        after = self.energy(new, landscape)
        for _ in range(self.halvings):
            if after < before or squares == 0:
                break
            self.draw_near(new, y)
            squares, after = squares / 4, self.energy(new, landscape)
        if after < before:
            return new, after, math.sqrt(squares / self.size)
        rejected = torch.tensor([False], device=new.device)
        self.states = [choose(rejected, *pair) for pair in zip(self.states, old, strict=True)]
        return y, before, 0.0

    def proposed(self, y: Tensor | None, landscape: int, entered: bool) -> tuple[Tensor, float, list[Any]]:
        """Moves each window as the sampler does: the new state, the squares by which points moved, summed, and the
        sampler's states before."""
        new, old = None, list[Any]()
        squares: Any = 0.0
        for index, window in enumerate(self.windows):
            part, state = self.part(y, window), self.states[index]
            function = self.functions(self.thinker.energy, window)[landscape]
            state = self.sampler.init(function, part, generator=self.generator) if state is None else _with(state, part)
            state = self.sampler.enter(function, state) if entered else state
            old.append(_with(state, None))
            state, _ = self.sampler.step(function, state, generator=self.generator)
            self.passes += 1
            moved, was = (values[0, :, *window.inner] for values in (state.y, part))
            if new is None:
                large = self.total > 1 and self.size > MANY
                new = moved.new_empty(len(moved), *self.image.shape[1:], dtype=torch.half if large else None)
            new[:, *window.place] = moved
            squares = squares + (self.sampler.point(moved) - self.sampler.point(was)).square().sum(dtype=torch.float64)
            self.states[index] = _with(state, None)
            self.advance(1)
        assert new is not None
        return new, float(squares), old

    def draw_near(self, new: Tensor, y: Tensor | None) -> None:
        """Moves a new state half the way back to y."""
        for window in self.windows:
            was = self.part(y, window)[0, :, *window.inner]
            new[:, *window.place] = self.sampler.project((was + new[:, *window.place].to(was)) / 2)

    def energy(self, y: Tensor | None, landscape: int) -> float:
        """Sums the energies of windows."""
        total: Any = 0.0
        for window in self.windows:
            function = self.functions(Within(self.thinker.energy, window.inner), window)[landscape]
            total = total + function(self.sampler.point(self.part(y, window))).double()
            self.passes += 1
        return float(total)  # the device is waited for once, not at each window

    def part(self, y: Tensor | None, window: Window) -> Tensor:
        """Cuts out what a window sees (1, C, h, w), as a model sees it."""
        if y is None:
            return self.coding.decode(self.image[None, :, *window.seen])
        return y[None, :, *window.seen].float()

    def functions(self, energy: Any, window: Window) -> list[EnergyFn]:
        """Lists the landscapes of a window that are visited; their context is what it shows of the image."""
        return self.thinker.sampler.route(landscapes(energy, self.seen(self.part(None, window))))


def _with(state: Any, y: Tensor | None) -> Any:
    """Puts y into a sampler's state, or its inner state."""
    return state._replace(y=y) if "y" in state._fields else state._replace(inner=_with(state.inner, y))
