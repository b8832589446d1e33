"""Video: the features of a clip's next frame are predicted from those of the frames before."""

from __future__ import annotations

import math
import os
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from platformdirs import user_cache_path
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ebm.encoders import Encoder, Pixels
from ebm.files import atomic, sweep
from ebm.interfaces import Batch, Prediction, Task
from ebm.interfaces.task import check_limit
from ebm.judging.ranking import rank_correlation
from ebm.randomness import randn_like, stream
from ebm.tasks.learned import read_tensors
from ebm.tasks.rows import LOSSES, SPLITS, errors, loader_of
from ebm.tasks.sources import few_of
from ebm.tasks.video.clips import Clip, clips
from ebm.tasks.video.decoding import frames as decoded
from ebm.tasks.video.tracks import (
    Sampling,
    Track,
    View,
    contents_of,
    digest,
    drawn_views,
    encode_clips,
    learning_frames,
    side_by_side,
)
from ebm.words import nearest

SAMPLED = 64  # rows of a clip that the mean and the deviation of features are taken from
SCALES = "frames.safetensors"  # in a run's folder: the features' mean and deviation
STILL = 0.05  # deviations per frame below which a window counts as still, where windows are balanced


class Frames(Task):
    """Videos as next-frame prediction: windows of frames, encoded once by a frozen encoder.

    A batch's context is features (B, S, features) of frames 0 … S-1, its target those of frames 1 …
    S, for S = `context`; they are centred, and scaled by one number to unit variance over the
    training frames. A chain is a frame: energies are (B, S).

    Of every training clip `views` squares are encoded, drawn by the seed, and windows begin at
    every frame. Of other clips the squares lie side by side over the whole frame, and windows one
    behind the other. No window crosses a change of scene. A clip is in one split alone; what cannot
    be decoded, or is too short, is left out, and one warning counts and names it.

    Arguments:
        source: "bundled", a folder, "atari:" and a game, as in "atari:seaquest" (use every), or a
            hub dataset, as `ebm.tasks.video.clips.clips` says.
        encoder: turns frames into features, maybe learning from training frames; default pixels.
        context: S.
        every: takes each every-th frame of a clip.
        seconds: instead, takes a frame each so many seconds.
        limit_frames: takes at most so many frames of a clip.
        limit_clips: takes at most so many clips of a split.
        views: squares of a training clip.
        smallest: the side of the smallest square, as a share of the frame's shorter side.
        swinging: the share of squares that move over the frames, as a camera would.
        speeds: how many times the speed a training window goes at most.
        reverse: whether training windows may run backwards.
        balance: training weights are 1 / (mean square of a window's changes)^(balance / 2).
        cut: the mean difference of neighbouring frames (0 to 255) from which a new scene begins.
        start: where thinking starts: "noise" (standard normal), "last-frame" or "zeros".
        loss: "squared" or "smooth-l1", averaged over features.
        learn_from: how many frames an encoder learns from.
        fold: which list of UCF-101 is read.
        column: where the video of a hub dataset's row is.
        hub_split: which split of a hub dataset is read, and then dealt out.
        config: the hub dataset's configuration, where it has several.
        cache: the folder that encoded frames are kept in; by default one in the user's cache.
        seed: decides the split of each clip, the squares, and the draws of an encoder that learns.
        learned: what a run of this task keeps: the encoder's weights and the features' mean and
            deviation; with it clips are opened when they are needed.

    Raises:
        ValueError: an argument is out of range; later, no clip of a split can be decoded or has a
            window; and what `clips` raises.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as cache:
    ...     task = Frames(encoder=Pixels(8), context=4, views=2, limit_frames=20, cache=cache)
    ...     batch = next(iter(task.loader("train", 8)))
    >>> batch.context.shape, task.spec, torch.equal(batch.context[:, 1:], batch.target[:, :-1])
    (torch.Size([8, 4, 192]), {'features': 192}, True)
    """

    rows_at_once = 64
    unit = "frame"
    inherits: ClassVar = ("encoder",)
    paths: ClassVar = {"source": ("bundled",), "cache": ()}

    def __init__(
        self,
        source: str = "bundled",
        encoder: Encoder | None = None,
        context: int = 16,
        *,
        every: int = 1,
        seconds: float | None = None,
        limit_frames: int | None = None,
        limit_clips: int | None = None,
        views: int = 1,
        smallest: float = 0.5,
        swinging: float = 0.0,
        speeds: int = 1,
        reverse: bool = False,
        balance: float = 0.0,
        cut: float = 30.0,
        start: Literal["noise", "last-frame", "zeros"] = "noise",
        loss: Literal["squared", "smooth-l1"] = "squared",
        learn_from: int = 4096,
        fold: int = 1,
        column: str = "video",
        hub_split: str = "train",
        config: str | None = None,
        cache: str | None = None,
        seed: int = 0,
        learned: Path | None = None,
    ) -> None:
        whole = {"context": context, "views": views, "speeds": speeds, "learn_from": learn_from, "every": every}
        for name, value in {**whole, "limit_frames": limit_frames, "limit_clips": limit_clips}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1")
        if not 0 < smallest <= 1:
            raise ValueError(f"smallest={smallest}: it is a share of the frame's shorter side, in (0, 1]")
        if not 0 <= swinging <= 1:
            raise ValueError(f"swinging={swinging}: it is a share of the squares, in [0, 1]")
        if seconds is not None and (not 0 < seconds < math.inf or every != 1):
            raise ValueError(f"seconds={seconds}, every={every}: pass a positive number of seconds, or every, and not both")
        if not balance >= 0:
            raise ValueError(f"balance={balance}: it must be at least 0")
        if start not in ("noise", "last-frame", "zeros"):
            raise ValueError(f"start={start!r}: choose noise, last-frame or zeros")
        if loss not in LOSSES:
            raise ValueError(f"loss={loss!r}: choose squared or smooth-l1")
        self.encoder = Pixels() if encoder is None else encoder
        self.context_length, self.views, self.smallest, self.swinging = context, views, smallest, swinging
        self.speeds, self.reverse = speeds, reverse
        self.balance, self.cut, self.starts_at, self.loss = balance, cut, start, loss
        self.learn_from, self.seed, self.source = learn_from, seed, source
        self.sampling = Sampling(every, seconds, limit_frames)
        self.cache = user_cache_path("ebm") / "frames" if cache is None else Path(cache)
        self._find = partial(clips, source, fold=fold, column=column, hub_split=hub_split, config=config, seed=seed)
        self.limit_clips = limit_clips
        self.spec = {"features": self.encoder.features}
        self._tracks: dict[str, list[Track]] = {}
        self._learned = not self.encoder.learns
        self._moments: tuple[Tensor, float] | None = None
        if learned is None:
            _ = self.clips  # what cannot be read is refused now
        else:
            self.encoder.load_learned(learned)
            self.load_state_dict(read_tensors(learned / SCALES, "mean", "deviation"))

    @cached_property
    def reads(self) -> str:  # type: ignore[override]
        """Which data are read."""
        return f"{sum(map(len, self.clips.values()))} clips of {self.source}"

    @cached_property
    def clips(self) -> dict[str, list[Clip]]:
        """The clips of each split."""
        return {split: listed[: self.limit_clips] for split, listed in self._find().items()}

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        """Hashes what the clips' files hold, by split; their names do not count."""
        return contents_of(self.clips)

    def save_learned(self, folder: Path) -> None:
        """Writes the encoder's weights, and the features' mean and deviation."""
        mean, deviation = self._scale()
        save_file({"mean": mean, "deviation": torch.tensor(deviation)}, folder / SCALES)
        self.encoder.save_learned(folder)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the features' mean and deviation, and what the encoder learned."""
        mean, deviation = self._scale()
        learned = self.encoder.state_dict() if self.encoder.learns else {}
        return {"mean": mean, "deviation": torch.tensor(deviation), **{f"encoder.{key}": part for key, part in learned.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `state_dict` returned, so that nothing has to be learned anew."""
        weights = {key.removeprefix("encoder."): part for key, part in state.items() if key.startswith("encoder.")}
        if weights:
            self.encoder.load_state_dict(weights)
        self._learned, self._moments, self._tracks = True, (state["mean"].cpu(), state["deviation"].item()), {}

    def _scale(self) -> tuple[Tensor, float]:
        """Computes the mean (features,) and the deviation of training features, from some rows."""
        if self._moments is None:
            count, total, square = 0, torch.zeros(self.encoder.features, dtype=torch.float64), 0.0
            for track in self.tracks("train"):
                step = max(1, len(track) // SAMPLED)
                for view in range(track.views):
                    rows = track.window(view, 0, len(track), step).double()
                    count, total, square = count + len(rows), total + rows.sum(0), square + rows.square().sum().item()
            mean = total / count
            variance = (square / count - mean.square().sum().item()) / len(mean)
            self._moments = mean.float(), max(variance, 1e-12) ** 0.5
        return self._moments

    def tracks(self, split: str) -> list[Track]:
        """Encodes a split's clips, once, or finds them encoded."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: {nearest(split, SPLITS)}")
        if split not in self._tracks:
            if not self._learned:
                self._learn()
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            found, bad = encode_clips(
                self.clips[split],
                self.encoder.to(device or "cpu"),
                self.sampling,
                self._drawn if split == "train" else self._beside,
                shorter=self._shorter,
                folder=self.cache,
                described=f"{self.seed} {self.views} {self.smallest} {self.swinging}" if split == "train" else "side by side",
                device=device or "cpu",
                progress=f"encoding {split} clips",
            )
            self.encoder.to("cpu")
            bad += [f"{track.name}: {len(track)} frames are too few" for track in found if len(track) <= self.context_length]
            if bad:
                count = len(self.clips[split])
                warnings.warn(f"{self.source}: {len(bad)} of {count} {split} clips are left out: {few_of(bad)}", stacklevel=2)
            self._tracks[split] = [track for track in found if len(track) > self.context_length]
            if not self._tracks[split]:
                window = f"a window of context={self.context_length} frames and one more"
                raise ValueError(f"{self.source}: no {split} clip has {window}")
        return self._tracks[split]

    def _learn(self) -> None:
        """Lets the encoder learn from training frames, or finds what it learned before."""
        where: dict[str, Any] = {"size": self.encoder.size, "shorter": self._shorter}
        generator = stream(self.seed, "learn")
        taken = learning_frames(self.clips["train"], self.sampling, self._drawn, self.learn_from, **where, generator=generator)
        path = self.cache / f"{digest(self.encoder, self.seed, taken.numpy().tobytes())}.safetensors"
        if path.exists():
            self.encoder.load_state_dict(read_tensors(path, way_out="remove it, and the encoder learns anew"))
        else:
            self.encoder.learn(taken, seed=self.seed, progress=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path.parent)
            with atomic(path, by=str(os.getpid())) as draft:  # another process may be learning the same
                save_file(self.encoder.state_dict(), draft)
        self._learned = True

    @property
    def _shorter(self) -> int:
        """Computes how large frames are decoded: as the smallest square needs them."""
        return math.ceil(self.encoder.size / self.smallest)

    def _drawn(self, clip: Clip, frame: Tensor) -> list[View]:
        return drawn_views(self.views, self.smallest, self.swinging, stream(self.seed, "views", clip.name))

    def _beside(self, clip: Clip, frame: Tensor) -> list[View]:
        return side_by_side(*frame.shape[1:])

    def read(
        self, file: str | Path, count: int, begin: float = 0.0, *, every: int | None = None, seconds: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Reads the middle of a video's first frames, uint8 (n, 3, size, size), and their features.

        Of a file that is broken, what lies before that is read, and a warning names the place.

        Arguments:
            file: the video, or a folder of pictures.
            count: how many frames are read at most.
            begin: where to begin, in seconds.
            every: takes each every-th frame, instead of what the task takes.
            seconds: takes a frame each so many seconds, instead of what the task takes.
        """
        self._scale()  # which lets an encoder learn that has to
        if every is None and seconds is None:
            every, seconds = self.sampling.every, self.sampling.seconds
        how: dict[str, Any] = {"every": 1 if every is None else every, "seconds": seconds, "shorter": self._shorter}
        taken: list[Tensor] = []
        try:
            for frame in islice(decoded(file, begin=begin, **how), count):
                taken.append(View().cut(frame, self.encoder.size))
        except ValueError as error:
            if not taken:
                raise
            warnings.warn(f"{error}: {len(taken)} frames that lie before are read", stacklevel=3)
        shown = torch.stack(taken) if taken else torch.empty(0, 3, *[self.encoder.size] * 2, dtype=torch.uint8)
        return shown, self.scaled(self.encoder.encode(shown))

    def scaled(self, features: Tensor) -> Tensor:
        """Centres and scales an encoder's features."""
        mean, deviation = self._scale()
        return (features - mean.to(features)) / deviation

    @property
    def decodes(self) -> bool:
        """Whether the encoder can turn features into pixels."""
        return self.encoder.decodes

    def decode(self, y: Tensor) -> Tensor:
        """Turns scaled features (*more, features) into pixels (*more, 3, size, size) in [0, 1]."""
        mean, deviation = self._scale()
        return self.encoder.decode((y.cpu() * deviation + mean).float())

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader of features (batch_size, S, features), as `loader_of` orders them."""
        return loader_of(_Windows(self, split, seed), batch_size, split == "train", seed, workers)

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Makes the features (B, S, features) that thinking starts from."""
        if self.starts_at == "last-frame":
            return batch.context
        return randn_like(batch.target, generator) if self.starts_at == "noise" else torch.zeros_like(batch.target)

    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        """Averages the loss over features: y (*more, B, S, features) -> (*more, B, S)."""
        return errors(y, batch.target, self.loss).mean(-1)

    def judged(self, split: str, limit: int | None = None) -> Iterator[Batch]:
        """Iterates over `limit` windows of a split (all if None), spread over it evenly."""
        check_limit(limit)
        windows = _Windows(self, split, 0)
        count = len(windows) if limit is None else min(limit, len(windows))
        chosen = np.linspace(0, len(windows) - 1, count).round().astype(int).tolist()
        for first in range(0, count, self.rows_at_once):
            yield windows[chosen[first : first + self.rows_at_once]]._replace(weight=None)

    def check_split(self, split: str, limit: int | None = None) -> None:
        """Raises ValueError where a split has no clip; how long clips are is known once they are encoded."""
        check_limit(limit)
        if not self.clips.get(split):
            raise ValueError(f"{self.source}: split {split!r} has no clip to judge by")

    def scores(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Scores frames (B, S), and beside them what copying the last frame gives.

        `evaluate` reports means over frames: `loss`, `copy_loss`; where the encoder decodes, `psnr`
        and `copy_psnr` (decibels) against decoded frames; where the predictor has them, `energy`,
        and `steps` that moved one; and `correlation`, as `conclude` says.
        """
        from torchmetrics.functional.image import peak_signal_noise_ratio

        y = prediction.y.float()
        found = {"loss": self.distance(y, batch), "copy_loss": self.distance(batch.context, batch)}
        if self.encoder.decodes:
            truth, *shown = [self.decode(part).flatten(0, 1) for part in (batch.target, y, batch.context)]
            how: dict[str, Any] = {"data_range": 1.0, "dim": (1, 2, 3), "reduction": "none"}
            for name, part in zip(("psnr", "copy_psnr"), shown, strict=True):
                # Where a still scene is copied exactly, an infinite ratio would be the mean.
                found[name] = peak_signal_noise_ratio(part, truth, **how).clamp(max=60).view(batch.target.shape[:2])
        return found

    def conclude(self, scores: dict[str, Tensor], split: str) -> dict[str, float]:
        """Averages over frames; correlates ranks of energies and losses, with a bootstrap's 95 %."""
        means = super().conclude(scores, split)
        del means["evaluations"]
        if "energy" in scores:
            energy, loss = (scores[name].view(-1, self.context_length) for name in ("energy", "loss"))
            value, low, high = rank_correlation(energy, loss, seed=self.seed)
            means |= {"correlation": value, "correlation_low": low, "correlation_high": high}
        return means


class _Windows(Dataset[Batch]):
    """Serves windows by the batch; a training window is a function of the seed and its index."""

    by_index = True

    def __init__(self, task: Frames, split: str, seed: int) -> None:
        self.tracks, self.seed, self.training = task.tracks(split), seed, split == "train"
        self.context, self.reverse, self.balance = task.context_length, task.reverse, task.balance
        self.speeds = task.speeds if self.training else 1
        self.mean, self.deviation = task._scale()
        self.cuts, self.begins = [], []
        stride = 1 if self.training else self.context
        for track in self.tracks:
            cuts = np.concatenate([[0], np.cumsum(track.changes() > task.cut)])
            begins, first = [], 0
            while first + self.context < len(track):
                if cuts[first + self.context + 1] == cuts[first + 1]:
                    begins.append(first)
                    first += stride
                else:
                    first += 1
            self.cuts.append(cuts)
            self.begins.append(np.array(begins, dtype=np.int64))
        counts = [len(begins) * track.views for begins, track in zip(self.begins, self.tracks, strict=True)]
        self.ends = list(accumulate(counts))
        if not self.ends[-1]:
            scene = f"without a change of scene (cut={task.cut})"
            raise ValueError(f"no {split} clip has a window of {self.context + 1} frames {scene}")

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        windows = (torch.stack([self._window(int(index)) for index in indices]) - self.mean) / self.deviation
        weight = None
        if self.training and self.balance:
            change = windows.diff(dim=1).square().mean((1, 2)) + STILL**2
            weight = change.pow(-self.balance / 2)[:, None].expand(-1, self.context)
        return Batch(windows[:, 1:], windows[:, :-1], weight)

    __getitems__ = __getitem__  # what torch's loader calls with all indices of a batch

    def _window(self, index: int) -> Tensor:
        which = bisect_right(self.ends, index)
        track, place = self.tracks[which], index - (self.ends[which - 1] if which else 0)
        begin, view = int(self.begins[which][place // track.views]), place % track.views
        if not self.training or (self.speeds == 1 and not self.reverse):
            return track.window(view, begin, begin + self.context + 1)
        speed, turn = torch.rand(2, generator=stream(self.seed, "window", index)).tolist()
        step, cuts = 1 + int(speed * self.speeds), self.cuts[which]
        while step > 1 and (begin + step * self.context >= len(track) or cuts[begin + step * self.context + 1] > cuts[begin + 1]):
            step -= 1
        window = track.window(view, begin, begin + step * self.context + 1, step)
        return window.flip(0) if self.reverse and turn < 0.5 else window
