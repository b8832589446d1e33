"""Encodes clips once: an encoder's features are kept in files that are memory-mapped."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ebm.encoders.base import Encoder
from ebm.files import atomic, sweep
from ebm.tasks.video.clips import Clip
from ebm.tasks.video.decoding import frame_files

FORMAT = 1  # changes whenever kept files would mean something else
SQUARES = 256  # that are encoded together
PERIODS = (16.0, 256.0)  # frames in which a swinging square comes back
SUFFIX = ".f32"
COARSE = 32  # pixels a side at which neighbouring frames are compared


class View(NamedTuple):
    """A square of frames: its side as a share of the shorter one, its place in the room left.

    A swinging one moves about its place: by down and right at frame period / 4 - phase.
    """

    side: float = 1.0
    top: float = 0.5
    left: float = 0.5
    mirrored: bool = False
    down: float = 0.0
    right: float = 0.0
    period: float = 1.0  # in frames
    phase: float = 0.0

    def cut(self, frame: Tensor, size: int, number: int = 0) -> Tensor:
        """Cuts the square out of a frame (3, H, W) by its number: uint8 (3, size, size).

        >>> View(left=0.0).cut(torch.arange(8, dtype=torch.uint8).expand(3, 4, 8), 4)[0, 0]
        tensor([0, 1, 2, 3], dtype=torch.uint8)
        """
        height, width = frame.shape[1:]
        side = max(1, round(self.side * min(height, width)))
        swing = math.sin(2 * math.pi * (number + self.phase) / self.period)
        top, left = (min(max(place, 0.0), 1.0) for place in (self.top + swing * self.down, self.left + swing * self.right))
        top, left = top * (height - side), left * (width - side)
        if self.down or self.right:  # places between pixels, or a slow swing would go by jerks
            across = [side / width, 0.0, (2 * left + side) / width - 1]
            down = [0.0, side / height, (2 * top + side) / height - 1]
            grid = F.affine_grid(torch.tensor([[across, down]]), [1, 3, side, side], align_corners=False)
            square = F.grid_sample(frame[None].float(), grid, padding_mode="border", align_corners=False)[0]
        else:
            square = frame[:, round(top) : round(top) + side, round(left) : round(left) + side]
        if side != size:
            how: dict[str, Any] = {"mode": "bilinear", "antialias": True}
            square = F.interpolate(square[None].float(), (size, size), **how)[0]
        square = square.round().clamp(0, 255).to(torch.uint8) if square.is_floating_point() else square
        return square.flip(-1) if self.mirrored else square


def drawn_views(count: int, smallest: float, swinging: float, generator: torch.Generator) -> list[View]:
    """Draws squares from `smallest` to the whole shorter side, half mirrored, some swinging."""
    views = []
    for numbers in torch.rand(count, 9, generator=generator, dtype=torch.float64).tolist():
        size, top, left, mirror, moves, down, right, period, phase = numbers
        view = View(smallest**size, top, left, mirror < 0.5)
        if moves < swinging:
            period = PERIODS[0] * (PERIODS[1] / PERIODS[0]) ** period
            view = view._replace(down=down - 0.5, right=right - 0.5, period=period, phase=phase * period)
        views.append(view)
    return views


def side_by_side(height: int, width: int) -> list[View]:
    """Places squares side by side, as many as a frame holds; the middle one of a square frame.

    >>> [view.left for view in side_by_side(272, 640)]
    [0.0, 1.0]
    """
    count = max(1, round(max(height, width) / min(height, width)))
    return [View(1.0, place, place) for place in ([0.5] if count == 1 else np.linspace(0, 1, count).tolist())]


class Sampling(NamedTuple):
    """Which frames of a clip are taken: every n-th, or one every so many seconds."""

    every: int = 1
    seconds: float | None = None
    limit: int | None = None

    def frames(self, clip: Clip, shorter: int) -> Iterator[Tensor]:
        """Decodes the frames (3, H, W), their shorter side scaled."""
        return islice(clip.frames(every=self.every, seconds=self.seconds, shorter=shorter), self.limit)


Views = Callable[[Clip, Tensor], Sequence[View]]  # a clip, and its first frame


class Track(NamedTuple):
    """A clip's encoded frames in a file: of each frame the features by view, and its change."""

    name: str
    path: Path
    views: int
    features: int

    def __len__(self) -> int:
        return self.path.stat().st_size // (4 * self.width)

    @property
    def width(self) -> int:
        """Counts the numbers of a row."""
        return self.views * self.features + 1

    def window(self, view: int, begin: int, end: int, step: int = 1) -> Tensor:
        """Reads the features (frames, features) of one view at rows begin … end."""
        columns = slice(view * self.features, (view + 1) * self.features)
        return torch.from_numpy(np.array(_mapped(self.path, self.width)[begin:end:step, columns]))

    def changes(self) -> np.ndarray:
        """Reads each frame's mean difference, over coarse pixels, from the one before."""
        return np.array(_mapped(self.path, self.width)[:, -1])


@lru_cache(maxsize=512)
def _mapped(path: Path, width: int) -> np.ndarray:
    try:
        return np.memmap(path, np.float32, "r").reshape(-1, width)
    except ValueError as error:
        raise ValueError(f"{path} is damaged, its rows are not whole: remove it, and the clip is encoded anew") from error


def squares(clip: Clip, sampling: Sampling, views: Views, size: int, shorter: int) -> Iterator[tuple[Tensor, float]]:
    """Decodes a clip: the squares (views, 3, size, size) of each frame, and how much it changed."""
    chosen: Sequence[View] = ()
    before: Tensor | None = None
    for number, frame in enumerate(sampling.frames(clip, shorter)):
        chosen = chosen or views(clip, frame)
        coarse = F.adaptive_avg_pool2d(frame.float(), COARSE)
        change = 0.0 if before is None else (coarse - before).abs().mean().item()
        before = coarse
        yield torch.stack([view.cut(frame, size, number) for view in chosen]), change


def encode_clips(
    clips: Sequence[Clip],
    encoder: Encoder,
    sampling: Sampling,
    views: Views,
    *,
    shorter: int,
    folder: Path,
    described: str,
    device: torch.device | str = "cpu",
    progress: str = "",
) -> tuple[list[Track], list[str]]:
    """Encodes the frames of clips, several clips at a time, or finds what was encoded before.

    Returns a track for each clip that could be decoded, in their order; and for each other one its
    name and what is wrong.

    Arguments:
        clips: what to encode.
        encoder: turns squares of `encoder.size` pixels into features.
        sampling: which frames.
        views: which squares of a clip.
        shorter: pixels that the shorter side of a frame is scaled to before squares are cut.
        folder: where encoded clips are kept, a file each.
        described: whatever else decides what the files hold, as the views' seed.
        device: where frames are encoded.
        progress: what a progress bar is called; none if empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    encoder.eval()  # once, and not by each thread
    same = (FORMAT, digest(encoder), encoder.size, shorter, *sampling, described)

    def encode(clip: Clip) -> Track | str:
        name = _hash(*same, clip.name, *_identity(clip))
        try:
            path = next(folder.glob(f"{name}-*{SUFFIX}"), None) or _write(folder, name, clip, encoder)
        except (OSError, ValueError) as error:
            return f"{clip.name}: {error}"
        return Track(clip.name, path, int(path.stem.rpartition("-")[2]), encoder.features)

    def _write(folder: Path, name: str, clip: Clip, encoder: Encoder) -> Path:
        rows = squares(clip, sampling, views, encoder.size, shorter)
        first, change = next(rows, (None, 0.0))
        if first is None:
            raise ValueError("it has no frames")
        path = folder / f"{name}-{len(first)}{SUFFIX}"
        at_once = max(1, SQUARES // len(first))
        # Another process may be encoding the same clip.
        with atomic(path, by=str(os.getpid())) as draft, draft.open("wb") as file:
            rest = chain([(first, change)], rows)
            while part := list(islice(rest, at_once)):
                pixels = torch.cat([frame for frame, _ in part]).to(device)
                features = encoder.encode(pixels).cpu().reshape(len(part), -1)
                changes = torch.tensor([[change] for _, change in part])
                file.write(torch.cat([features, changes], 1).numpy().tobytes())
        return path

    # Decoders have threads of their own; several clips keep all cores busy where one cannot.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(tqdm(pool.map(encode, clips), progress, len(clips), disable=None if progress else True, unit="clip"))
    return [track for track in found if isinstance(track, Track)], [bad for bad in found if isinstance(bad, str)]


def learning_frames(
    clips: Sequence[Clip], sampling: Sampling, views: Views, count: int, *, size: int, shorter: int, generator: torch.Generator
) -> Tensor:
    """Draws training squares (about count, 3, size, size), evenly from up to `count` / 4 clips.

    Of a clip's frames each is as likely to be taken, with one of its squares or several. Clips that
    cannot be decoded give none; ValueError where all are.
    """
    chosen = torch.randperm(len(clips), generator=generator)[: max(1, count // 4)].tolist()
    quota, taken, reason = -(-count // len(chosen)), list[Tensor](), ""
    for index in chosen:
        held: list[Tensor] = []
        try:
            number = 0
            for found, _ in squares(clips[index], sampling, views, size, shorter):
                # A reservoir: when it is full, a square comes in with a chance of quota / number.
                each = max(1, min(len(found), quota // 64))
                for square in found[torch.randperm(len(found), generator=generator)[:each]]:
                    number += 1
                    place = int(torch.randint(number, (), generator=generator)) if len(held) >= quota else len(held)
                    if place < quota:
                        held[place : place + 1] = [square]
        except (OSError, ValueError) as error:
            reason = f"{clips[index].name}: {error}"
        taken += held
    if not taken:
        raise ValueError(f"none of {len(chosen)} clips can be decoded, the last one is {reason}")
    return torch.stack(taken)


def digest(encoder: Encoder, *more: Any) -> str:
    """Tells encoders apart by what they are and by their weights, and by what else is passed."""
    own = {name: value for name, value in vars(encoder).items() if name != "training"}
    plain = {name: value for name, value in own.items() if isinstance(value, bool | int | float | str)}
    weights = [part for name, value in encoder.state_dict().items() for part in (name, value.cpu().numpy().tobytes())]
    return _hash(type(encoder).__qualname__, *sorted(plain.items()), *weights, *more)


def _identity(clip: Clip) -> Iterable[Any]:
    """Identifies what a clip's file holds, by size and time, or by the version that is fetched."""
    yield from (clip.begin, clip.end)
    if callable(clip.file):
        yield clip.version
        return
    for file in frame_files(clip.file) if clip.file.is_dir() else [clip.file]:
        yield from (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)


def contents_of(clips: Mapping[str, Sequence[Clip]]) -> str:
    """Hashes what the files of clips hold, by split: not their names, nor when they were written."""
    whole, known = hashlib.sha256(), dict[Path, bytes]()
    for split, listed in clips.items():
        for clip in listed:
            whole.update(f"{split} {clip.begin} {clip.end} ".encode())
            if callable(clip.file):
                whole.update(clip.version.encode())
                continue
            for file in frame_files(clip.file) if clip.file.is_dir() else [clip.file]:
                if file not in known:
                    with file.open("rb") as opened:
                        known[file] = hashlib.file_digest(opened, "sha256").digest()
                whole.update(known[file])
    return whole.hexdigest()[:16]


def _hash(*parts: Any) -> str:
    total = blake2b(digest_size=16)
    for part in parts:
        content = part if isinstance(part, bytes) else repr(part).encode()
        total.update(len(content).to_bytes(8, "little") + content)
    return total.hexdigest()
