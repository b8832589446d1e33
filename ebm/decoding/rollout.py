"""Rolling out: each next frame is predicted from those before it, predicted ones included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ebm.decoding.codes import growing
from ebm.interfaces import bind, check_configuration, check_steps, eval_mode, evaluate
from ebm.interfaces.abilities import DecodesFrames, Follows, FollowsCode, lacking
from ebm.randomness import randn_like
from ebm.thinking import Thinker, check_choices, think

Start: TypeAlias = Literal["last-frame", "noise", "zeros"]
ROWS_AT_ONCE = 64  # windows that are encoded at a time


class Rollout(NamedTuple):
    """What a rollout returns: predicted frames, and the energy of each, where it has one."""

    frames: Tensor  # (B, count, features)
    energies: Tensor | None  # (B, count)


def lacks(predictor: Any) -> list[str]:
    """Lists what a predictor lacks to be rolled out, by name."""
    if isinstance(predictor, Thinker):
        return lacking(predictor.energy, DecodesFrames)
    if isinstance(predictor, FollowsCode):
        return lacking(predictor, DecodesFrames)
    return lacking(predictor, Follows)


def rollout(
    predictor: Any,
    observed: Tensor,
    count: int,
    *,
    window: int,
    start: Start = "last-frame",
    generator: torch.Generator | None = None,
) -> Rollout:
    """Predicts the `count` frames after observed ones (B, S, features), each from those before it.

    A frame costs one trajectory. When the window is full, its last half is encoded anew.

    Arguments:
        predictor: a Thinker over an energy with `features` and `extend`, such as a FrameEBT; such
            an energy that `FollowsCode`; or what has `follow(frames)`, such as CopyLast.
        observed: the frames' features; of more than `window`, the last ones are used.
        count: how many frames are predicted.
        window: how many frames are seen at most: the context length of the energy's training.
        start: where thinking starts: the "last-frame", "noise" (standard normal) or "zeros".
        generator: where starts and noise are drawn from.

    Raises:
        ValueError: for arguments that cannot work, at the call.
        FloatingPointError: thinking left the finite numbers.

    >>> from ebm.energies import ResidualFrameEBT
    >>> from ebm.samplers import GradientDescent
    >>> energy = ResidualFrameEBT(features=6, dim=8, depth=2, heads=2)
    >>> thinker = Thinker(energy, GradientDescent(step_size=1.0, steps=2))
    >>> found = rollout(thinker, torch.randn(3, 5, 6), 4, window=8)
    >>> found.frames.shape, found.energies.shape
    (torch.Size([3, 4, 6]), torch.Size([3, 4]))
    """
    thinks = isinstance(predictor, Thinker)
    energy = predictor.energy if thinks else predictor
    if missing := lacks(predictor):
        what = f"a Thinker over {type(energy).__name__}" if thinks else type(predictor).__name__
        raise ValueError(
            f"predictor is {what}, which lacks {' and '.join(missing)}: frames are predicted by a Thinker over an energy "
            f"with features and extend(code, context), such as frame-ebt and residual-frame-ebt, by such an energy with "
            f"follow_code(code), such as frame-transformer, or by what has follow(frames), such as copying"
        )
    features = getattr(energy, "features", None)
    shape = tuple(observed.shape) if isinstance(observed, Tensor) else ()
    if len(shape) != 3 or not shape[1] or features not in (None, shape[2]):
        what = str(shape) if isinstance(observed, Tensor) else type(observed).__name__
        raise ValueError(f"observed is {what}: pass features (B, S, {features or 'features'}) of at least one frame")
    check_configuration(observed, generator)
    for name, value in (("count", count), ("window", window)):
        if value < 1:
            raise ValueError(f"{name}={value}: pass a number of at least 1")
    if start not in ("last-frame", "noise", "zeros"):
        raise ValueError(f"start={start!r}: choose last-frame, noise or zeros")
    if thinks:
        check_choices(predictor.candidates, predictor.select, predictor.patience, predictor.tolerance)
        check_steps(predictor.sampler.steps if predictor.steps is None else predictor.steps)

    def begin(generator: torch.Generator | None = None) -> Tensor:
        last = frames[:, -1:]
        if start == "noise":
            return randn_like(last, generator)
        return last if start == "last-frame" else torch.zeros_like(last)

    energies: list[Tensor] = []
    with torch.no_grad(), eval_mode(energy):
        frames = observed[:, -window:]
        codes = growing(energy, lambda n: frames[:, -n:], frames.shape[1], window)
        for _ in range(count):
            if thinks:
                how = (predictor.candidates, predictor.steps, predictor.select, predictor.patience, predictor.tolerance)
                thought = think(next(codes), predictor.sampler, None, begin, *how, generator=generator)
                energies.append(thought.energy)
                y = thought.y
            elif isinstance(predictor, FollowsCode):
                y = predictor.follow_code(next(codes)[0].code)
            else:
                y = predictor.follow(frames[:, -window:])
            frames = torch.cat([frames, y[:, -1:]], 1)
    return Rollout(frames[:, -count:], torch.cat(energies, 1) if energies else None)


def surprise(energy: Any, features: Tensor, window: int) -> Tensor:
    """Scores each true frame given those before it: features (T, features) to energies (T - 1,).

    At most `window` frames before it are seen. Energies are those of the last landscape. Raises
    ValueError for a window below 1, or features of another shape.

    >>> from ebm.energies import ResidualFrameEBT
    >>> energy = ResidualFrameEBT(features=6, dim=8, depth=2, heads=2)    # at first a still scene is likely to it
    >>> clip = torch.zeros(9, 6)
    >>> clip[5:] = 2.0
    >>> surprise(energy, clip, window=4)
    tensor([ 0.,  0.,  0.,  0., 12.,  0.,  0.,  0.])
    """
    what = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if not isinstance(what, tuple) or len(what) != 2 or not what[0] or what[1] != energy.features:
        raise ValueError(f"features is {what}: pass those of a clip's frames, (T, {energy.features})")
    if window < 1:
        raise ValueError(f"window={window}: pass a number of at least 1")
    if len(features) == 1:
        return features.new_empty(0)
    with torch.no_grad(), eval_mode(energy):
        first = features[None, : window + 1]  # with fewer before them; energies are causal, so all are scored at once
        found = [evaluate(bind(energy, first[:, :-1]), first[:, 1:])[0]]
        for t in range(window + 1, len(features), ROWS_AT_ONCE):
            y = features[t : t + ROWS_AT_ONCE, None]
            contexts = features[t - window : t + len(y) - 1].unfold(0, window, 1).mT
            found.append(evaluate(bind(energy, contexts), y)[:, 0])
    return torch.cat(found)


def horizons(
    predictor: Any,
    windows: Tensor,
    observe: int,
    *,
    window: int,
    start: Start = "last-frame",
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Measures rollouts at each horizon: windows (N, S, features) to errors (N, S - observe).

    Arguments:
        predictor, window, start, generator: as `rollout` takes them.
        windows: the true frames.
        observe: how many of them the predictor sees.
        distance: of predicted and true frames; by default the mean squared error over features.

    Raises:
        ValueError: as `rollout` does, and where `observe` leaves nothing to see or to predict.
        FloatingPointError: thinking left the finite numbers.

    >>> from ebm.baselines import CopyLast
    >>> clips = torch.arange(6.0).view(1, 6, 1)
    >>> horizons(CopyLast(), clips, 3, window=8)
    tensor([[1., 4., 9.]])
    """
    if not 0 < observe < windows.shape[1]:
        count = windows.shape[1]
        raise ValueError(f"observe={observe}: of windows of {count} frames, observe 1 to {count - 1}")
    true = windows[:, observe:]
    y = rollout(predictor, windows[:, :observe], true.shape[1], window=window, start=start, generator=generator).frames
    return (y - true).square().mean(-1) if distance is None else distance(y, true)
