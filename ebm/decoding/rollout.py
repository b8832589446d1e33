"""Rolling out: each next frame is predicted from those before it, predicted ones included, whose code is only extended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from ebm.baselines.frames import CopyLast, FrameTransformer
from ebm.energies.ebt.frames import FrameEBT, ResidualFrameEBT
from ebm.energies.ebt.streams import CausalStream, Code
from ebm.interfaces import Given, bind, check_configuration, check_steps, eval_mode, evaluate
from ebm.randomness import randn_like
from ebm.thinking import Thinker, Thought, check_choices, think

__all__ = ["Rollout", "horizons", "rollout", "surprise"]

Start: TypeAlias = Literal["last-frame", "noise", "zeros"]
ROWS_AT_ONCE = 64  # windows that are encoded at a time


class Rollout(NamedTuple):
    """What a rollout returns: predicted frames, and how compatible each is with those before it, to a predictor that says."""

    frames: Tensor  # (B, count, features)
    energies: Tensor | None  # (B, count)


def rollout(
    predictor: Thinker | FrameTransformer | CopyLast,
    observed: Tensor,
    count: int,
    *,
    window: int,
    start: Start = "last-frame",
    generator: torch.Generator | None = None,
) -> Rollout:
    """Predicts the `count` frames after observed features (B, S, features), each from those before it.

    A frame costs a trajectory of its own features (B, 1, features), and one position of the observed stream for each different
    landscape: what came before is a code, extended by the frame. Once the window is full, its last half is encoded anew: in all,
    some two positions are encoded for each frame.

    Arguments:
        predictor: a Thinker over a FrameEBT or a ResidualFrameEBT (its candidates, steps, patience … are those of each frame), a
            FrameTransformer, CopyLast or Extrapolate.
        observed: the frames' features; of more than `window`, the last ones are used.
        count: how many frames are predicted.
        window: how many frames are seen at most: the context length that the energy was trained with.
        start: where thinking about a frame starts: the "last-frame", "noise" (standard normal) or "zeros".
        generator: where starts and noise are drawn from.

    Raises:
        ValueError: for arguments that cannot work, at the call.
        FloatingPointError: thinking left the finite numbers.

    >>> from ebm.samplers import GradientDescent
    >>> energy = ResidualFrameEBT(features=6, dim=8, depth=2, heads=2)
    >>> thinker = Thinker(energy, GradientDescent(step_size=1.0, steps=2))
    >>> found = rollout(thinker, torch.randn(3, 5, 6), 4, window=8)
    >>> found.frames.shape, found.energies.shape
    (torch.Size([3, 4, 6]), torch.Size([3, 4]))
    """
    energy = predictor.energy if isinstance(predictor, Thinker) else predictor
    fitting = (FrameEBT, ResidualFrameEBT, FrameTransformer) if isinstance(predictor, Thinker) else (FrameTransformer, CopyLast)
    if not isinstance(energy, fitting):
        what = f"a Thinker over {type(energy).__name__}" if isinstance(predictor, Thinker) else type(predictor).__name__
        raise ValueError(
            f"predictor is {what}: frames are predicted by a Thinker over a FrameEBT or a ResidualFrameEBT, by a "
            f"FrameTransformer, CopyLast or Extrapolate"
        )
    features = getattr(energy, "features", None)
    if (
        not isinstance(observed, Tensor)
        or observed.ndim != 3
        or not observed.shape[1]
        or features not in (None, observed.shape[-1])
    ):
        what = str(tuple(observed.shape)) if isinstance(observed, Tensor) else type(observed).__name__
        raise ValueError(f"observed is {what}: pass the features (B, S, {features or 'features'}) of at least one frame")
    check_configuration(observed, generator)
    for name, value in (("count", count), ("window", window)):
        if value < 1:
            raise ValueError(f"{name}={value}: pass a number of at least 1")
    if start not in ("last-frame", "noise", "zeros"):
        raise ValueError(f"start={start!r}: choose last-frame, noise or zeros")
    if isinstance(predictor, Thinker):
        check_choices(predictor.candidates, predictor.select, predictor.patience, predictor.tolerance)
        check_steps(predictor.sampler.steps if predictor.steps is None else predictor.steps)

    codes: list[Code] = []
    energies: list[Tensor] = []
    with torch.no_grad(), eval_mode(energy):
        frames = observed[:, -window:]
        for _ in range(count):
            if isinstance(energy, CausalStream):
                codes = _observed(energy, codes, frames, window)
            if isinstance(predictor, Thinker):
                thought = _thought(predictor, codes, frames[:, -1:], start, generator)
                energies.append(thought.energy)
                y = thought.y
            elif isinstance(predictor, FrameTransformer):
                y = predictor.follow(codes[0])[:, -1:]
            else:
                y = predictor.follow(frames[:, -window:])[:, -1:]
            frames = torch.cat([frames, y], 1)
    return Rollout(frames[:, -count:], torch.cat(energies, 1) if energies else None)


def _observed(energy: CausalStream, codes: list[Code], frames: Tensor, window: int) -> list[Code]:
    """Extends codes by the last frame; where there are none, or they are full, encodes frames anew."""
    if codes and codes[0].length < window:
        return [energy.extend(code, frames[:, -1:]) for code in codes]
    recent = frames[:, -max(1, window // 2) :] if codes else frames
    return [energy.encode(recent, level) for level in range(1 if energy.conditioning == "none" else energy.levels)]


def _thought(thinker: Thinker, codes: list[Code], last: Tensor, start: Start, generator: torch.Generator | None) -> Thought:
    """Thinks about the frame after the last one (B, 1, features)."""
    energy = cast(CausalStream, thinker.energy)
    functions = [Given(energy, codes[level % len(codes)]) for level in range(energy.levels)]

    def begin(generator: torch.Generator | None = None) -> Tensor:
        return last if start == "last-frame" else torch.zeros_like(last) if start == "zeros" else randn_like(last, generator)

    how = (thinker.candidates, thinker.steps, thinker.select, thinker.patience, thinker.tolerance)
    return think(functions, thinker.sampler, None, begin, *how, generator=generator)


def surprise(energy: FrameEBT | ResidualFrameEBT | FrameTransformer, features: Tensor, window: int) -> Tensor:
    """Scores each true frame given those before it, `window` at most: features (T, features) to energies (T - 1,).

    They are those of the last landscape, and high where something new appears.

    Raises:
        ValueError: for a window below 1, or features of another shape.

    >>> energy = ResidualFrameEBT(features=6, dim=8, depth=2, heads=2)    # at first it takes a still scene for likely
    >>> clip = torch.zeros(9, 6)
    >>> clip[5:] = 2.0
    >>> surprise(energy, clip, window=4)
    tensor([ 0.,  0.,  0.,  0., 12.,  0.,  0.,  0.])
    """
    if not isinstance(features, Tensor) or features.ndim != 2 or not len(features) or features.shape[-1] != energy.features:
        what = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"features is {what}: pass those of a clip's frames, (T, {energy.features})")
    if window < 1:
        raise ValueError(f"window={window}: pass a number of at least 1")
    if len(features) == 1:
        return features.new_empty(0)
    with torch.no_grad(), eval_mode(energy):
        first = features[None, : window + 1]  # these have fewer before them, and energies are causal: all are scored at once
        found = [evaluate(bind(energy, first[:, :-1]), first[:, 1:])[0]]
        for t in range(window + 1, len(features), ROWS_AT_ONCE):
            y = features[t : t + ROWS_AT_ONCE, None]
            contexts = features[t - window : t + len(y) - 1].unfold(0, window, 1).mT
            found.append(evaluate(bind(energy, contexts), y)[:, 0])
    return torch.cat(found)


def horizons(
    predictor: Thinker | FrameTransformer | CopyLast,
    windows: Tensor,
    observe: int,
    *,
    window: int,
    start: Start = "last-frame",
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Rolls out from the first `observe` frames of windows (N, S, features), and measures each horizon: (N, S - observe).

    Arguments:
        predictor, window, start, generator: as `rollout` takes them.
        windows: the true frames.
        observe: how many of them the predictor sees.
        distance: maps predicted and true frames (N, S - observe, features) to how far apart they are; by default the mean
            squared error over features.

    Raises:
        ValueError: as `rollout` does, and where `observe` leaves nothing to see, or nothing to predict.
        FloatingPointError: thinking left the finite numbers.

    >>> clips = torch.arange(6.0).view(1, 6, 1)
    >>> horizons(CopyLast(), clips, 3, window=8)
    tensor([[1., 4., 9.]])
    """
    if not 0 < observe < windows.shape[1]:
        raise ValueError(f"observe={observe}: of windows of {windows.shape[1]} frames, observe 1 to {windows.shape[1] - 1}")
    true = windows[:, observe:]
    y = rollout(predictor, windows[:, :observe], true.shape[1], window=window, start=start, generator=generator).frames
    return (y - true).square().mean(-1) if distance is None else distance(y, true)
