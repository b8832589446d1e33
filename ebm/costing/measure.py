"""What a step of training, thinking and generating cost: operations, counted as they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException as DataDependent
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch._subclasses.fake_tensor import UnsupportedFakeTensorException as Unsupported

from ebm.costing.concatenated import Concatenated
from ebm.costing.sketch import Sketch
from ebm.decoding.codes import growing
from ebm.interfaces import FeedForward, Sampler, check_steps, eval_mode
from ebm.interfaces.abilities import Decodes, DecodesFrames, DrawsSequences, FollowsCode, lacking
from ebm.objectives import InTurn
from ebm.thinking import Thinker, think
from ebm.training.recomputing import blockwise_parts, recomputing


@dataclass(frozen=True)
class Spent:
    """Floating-point operations of products, bytes read and written, and the most bytes held."""

    flops: float
    bytes: float
    peak: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.flops + other.flops, self.bytes + other.bytes, self.peak + other.peak)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.flops - other.flops, self.bytes - other.bytes, self.peak - other.peak)

    def __mul__(self, times: float) -> Spent:
        return Spent(self.flops * times, self.bytes * times, self.peak * times)


class Untold(ValueError):
    """A cost cannot be told, and why."""


@contextmanager
def told(what: str) -> Iterator[None]:
    """Says why operations cannot be counted without numbers."""
    try:
        yield
    except (DataDependent, DynamicOutputShapeException, Unsupported) as error:
        asked = getattr(error, "func", error)
        raise Untold(f"{what} depends on the numbers themselves (it asks for {asked}), which are not there yet") from error


FEW = 4  # of like parts that are counted one by one


def of_many(measure: Callable[[int], Spent], count: int) -> Spent:
    """Counts what has many like parts, blocks or steps, by what one more costs; one by one if that differs."""
    if count <= FEW:
        return measure(count)
    one, two, three = map(measure, (1, 2, 3))
    more = three - two
    if more.flops != two.flops - one.flops:
        return measure(count)
    return three + more * (count - 3)


def units(sketch: Sketch) -> int:
    """Counts what a batch predicts: its chains (tokens, frames, whole answers or pictures)."""
    with told("where chains start"), sketch.counted():
        return sketch.task.distance(sketch.task.start(sketch.batch), sketch.batch).numel()


def training(sketch: Sketch, energy: Any = None, steps: int | None = None) -> Spent:
    """Counts a step of training: the loss, and all its derivatives; where steps differ, their mean over so many."""
    energy, objective = sketch.energy if energy is None else energy, sketch.objective
    left = steps = sketch.fit["steps"] if steps is None else steps
    if not isinstance(objective, InTurn):
        return _step(sketch, energy, objective)
    spent = []
    for part, count in zip(objective.objectives, [*objective.steps, left], strict=True):
        share = min(count, left)
        left -= share
        spent += [(share / steps, _step(sketch, energy, part))] if share else []
    flops, moved = (sum(share * getattr(one, name) for share, one in spent) for name in ("flops", "bytes"))
    return Spent(flops, moved, max(one.peak for _, one in spent))


def _step(sketch: Sketch, energy: Any, objective: Any) -> Spent:
    random = [part for part in objective.modules() if isinstance(part, Sampler) and _is_random(part)]
    if not random:
        return _counted(sketch, energy, objective)
    # A cost is affine in a number of steps, so its mean is that of its ends.
    ends = []
    for place in (0, 1):
        before = [part.steps for part in random]
        for part in random:
            part.steps = part.steps[place]  # type: ignore[index]
        ends.append(_counted(sketch, energy, objective))
        for part, pair in zip(random, before, strict=True):
            part.steps = pair
    return (ends[0] + ends[1]) * 0.5


def _is_random(sampler: Sampler) -> bool:
    return "steps" in vars(sampler) and isinstance(sampler.steps, tuple) and sampler.steps[0] != sampler.steps[1]


def _counted(sketch: Sketch, energy: Any, objective: Any) -> Spent:
    stores = any(type(part).begin is not Sampler.begin for part in objective.modules() if isinstance(part, Sampler))
    objective.train()
    asked = sketch.fit["activation_checkpointing"] and not isinstance(energy, Concatenated)  # whose authors compute none again
    parts = blockwise_parts(energy, asked, sketch.fit["compile"])
    parameters = [p for part in (energy, objective) if isinstance(part, nn.Module) for p in part.parameters()]
    with told("a step of training"):
        for _ in range(1 + stores):  # what keeps rows of earlier batches has some in the second step
            for parameter in parameters:
                parameter.grad = None
            with recomputing(parts), sketch.counted() as counter:
                objective(energy, sketch.batch).value.backward()
    return Spent(counter.flops, counter.bytes, counter.peak)


def thinks(sketch: Sketch, energy: Any) -> bool:
    """Tells whether predictions take steps."""
    return not (isinstance(sketch.objective, DrawsSequences) or isinstance(energy, FeedForward))


def _steps_of(sketch: Sketch, steps: int | None) -> int:
    return check_steps(sketch.sampler.steps if steps is None else steps)[1]


def predictor(sketch: Sketch, energy: Any, steps: int | None, candidates: int) -> Any:
    """Makes what predicts, as a run's `predictor` does."""
    if isinstance(sketch.objective, DrawsSequences):
        return sketch.objective.predictor(energy)
    if isinstance(energy, FeedForward):
        return energy
    return Thinker(energy, sketch.sampler, steps=steps, candidates=candidates)


def thinking(sketch: Sketch, energy: Any = None, steps: int | None = None, candidates: int = 1) -> Spent:
    """Counts what it costs to predict a batch, in `steps` for each landscape."""
    energy = sketch.energy if energy is None else energy
    if thinks(sketch, energy):
        return of_many(lambda n: _predicted(sketch, energy, n, candidates), _steps_of(sketch, steps))
    return _predicted(sketch, energy, None, 1)


def _predicted(sketch: Sketch, energy: Any, steps: int | None, candidates: int) -> Spent:
    who = predictor(sketch, energy, steps, candidates)
    with told("a prediction"):
        with sketch.counted(), torch.no_grad():
            start = sketch.task.starts(who, sketch.batch)
        with sketch.counted() as counter, torch.no_grad():
            who.predict(sketch.batch, start)
    return Spent(counter.flops, counter.bytes, counter.peak)


def generation(sketch: Sketch, energy: Any = None, steps: int | None = None, candidates: int = 1) -> Spent | None:
    """Counts one more element for each row of a batch, behind a whole context; None where nothing is decoded."""
    energy = sketch.energy if energy is None else energy
    if isinstance(energy, Concatenated):  # which predicts all elements anew, to keep the last
        return thinking(sketch, energy, steps, candidates)
    context = sketch.batch.context
    if not isinstance(context, Tensor) or context.ndim < 2 or context.shape[1] < 2:
        return None
    if lacking(energy, Decodes) and lacking(energy, DecodesFrames):
        return None
    if isinstance(energy, FeedForward):
        return _generated(sketch, energy, None, 1)
    return of_many(lambda n: _generated(sketch, energy, n, candidates), _steps_of(sketch, steps))


def _generated(sketch: Sketch, energy: Any, steps: int | None, candidates: int) -> Spent:
    context: Any = sketch.batch.context
    with told("an element of a generation"), torch.no_grad(), eval_mode([energy, sketch.sampler]):
        with sketch.counted():
            start = sketch.task.start(sketch.batch)[:, -1:]
            codes = growing(energy, lambda n: context[:, -n:], context.shape[1] - 1, context.shape[1])
            next(codes)
        with sketch.counted() as counter:
            bound = next(codes)
            if isinstance(energy, FollowsCode):
                energy.follow_code(bound[0].code)
            elif candidates == 1 and not lacking(energy, Decodes):
                sketch.sampler.sample(bound, start, steps=steps)
            else:
                think(bound, sketch.sampler, None, torch.stack([start] * candidates), candidates, steps)
    return Spent(counter.flops, counter.bytes, counter.peak)
