"""`ebm rollout RUN CLIP`: predict how a video goes on, as a picture and as a movie."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebm.decoding.rollout import rollout as rolled_out
from ebm.figures import DATA, GREY, INK, SAMPLES, figure_of
from ebm.files import atomic, check_outputs
from ebm.interfaces import Batch
from ebm.interfaces.abilities import Films, lacking
from ebm.optional import installed
from ebm.randomness import stream
from ebm.runs.run import Run
from ebm.tasks.video.decoding import rate_of

RATE = 5  # frames a second of a movie of pictures, which have no times: slow enough to see each
FASTEST = 1000  # frames a second
SLOWEST = Fraction(1, 1001)  # of a movie's file, whose clock has so many ticks a second
SIDE = 256  # pixels a side of a movie's panels, at least
PALE = "#d0d4d9"
COLORS = {"energy": DATA, "error": SAMPLES, "error of a copy": GREY}
WIDEST = 80.0  # inches of a picture, at most: at 200 dots an inch, wider ones open slowly


def rollout(
    run: Run,
    clip: Path,
    /,
    *,
    out: Path | None = None,
    observe: int = 5,
    predict: int = 8,
    begin: float = 0.0,
    every: int | None = None,
    seconds: float | None = None,
    fps: float | None = None,
    steps: int | None = None,
    candidates: int = 1,
    patience: int | None = None,
    tolerance: float = 0.15,
    seed: int = 0,
) -> dict[str, Any]:
    """Predict how a video goes on by a run: writes predicted frames beside the true ones.

    Of a file that is broken, the frames before that are used, and the place is named.

    Args:
        run: the run folder.
        clip: the video (an animated GIF or WebP is one), or a folder of pictures; the middle square
            of the picture is seen.
        out: the files' name, or their folder; by default the clip's name with -rollout, here.
        observe: how many frames are seen.
        predict: how many frames are predicted, each from those before it, predicted ones included.
        begin: where to begin, in seconds.
        every: take each every-th frame; by default as the run was trained.
        seconds: take a frame each so many seconds instead.
        fps: frames a second of the movie; by default as the clip's frames that are taken follow each
            other, and 5 for a folder of pictures.
        steps: steps per landscape for each frame; by default the run's.
        candidates: starts that are tried for each frame, of which the energy chooses.
        patience: think until the energy fell no further for this many steps, --steps at most.
        tolerance: with --patience, the least fall that counts, as a share of the energy.
        seed: what every random draw is derived from.

    Returns:
        The files that were written, and means over predicted frames: energy, error, and a copy's.

    Raises:
        ValueError: the clip cannot be read or is too short, or the run or arguments do not fit.
        FileNotFoundError: there is no such clip, or no folder to write to.
        ImportError: PyAV, Pillow or matplotlib is not installed.
    """
    task: Any = run.judge()
    if missing := lacking(task, Films):
        raise ValueError(
            f"{run.path} was not trained on video: its task {type(task).__name__} has no {' and no '.join(missing)}, "
            f"as the task frames has"
        )
    clip = Path(clip)
    picture, movie = _files(clip, Path() if out is None else Path(out))
    for name, value in (("observe", observe), ("predict", predict)):
        if value < 1:
            raise ValueError(f"{name}={value}: pass a number of at least 1")
    if not task.decodes:
        task.decode(torch.zeros(1, task.spec["features"]))  # says so, and what can
    for package in ("av", "PIL", "matplotlib"):
        installed(package)
    predictor = run.predictor(steps, candidates, patience, tolerance)
    if fps is not None and not 0 < fps <= FASTEST:
        raise ValueError(f"fps={fps}: pass frames a second, above 0 and at most {FASTEST}")
    count = observe + predict
    asked = {name: value for name, value in {"every": every, "seconds": seconds}.items() if value is not None}
    shown, features = task.read(clip, count, begin, **asked)
    if len(features) < count:
        raise ValueError(
            f"{clip} has {len(features)} frames from begin={begin} on, but --observe {observe} --predict {predict} "
            f"need {count}: choose fewer"
        )
    found = rolled_out(
        predictor,
        features[None, :observe].to(run.device),
        predict,
        window=task.context_length,
        start=getattr(task, "starts_at", "last-frame"),
        generator=stream(seed, "rollout", device=run.device),
    )
    true = Batch(features[observe:])
    errors = task.distance(found.frames[0].to(features), true)
    copied = task.distance(features[observe - 1].expand_as(true.target), true)
    frames = shown.movedim(1, -1).numpy()
    predicted = task.decode(found.frames[0]).movedim(1, -1).mul(255).round().to(torch.uint8).numpy()
    numbers = {"error": errors.tolist(), "error of a copy": copied.tolist()}
    if found.energies is not None:
        numbers = {"energy": found.energies[0].tolist(), **numbers}
    with atomic(picture) as draft, atomic(movie) as reel:
        draft.write_bytes(_drawn(clip.name, frames, predicted, numbers))
        _write(_panels(frames, predicted, numbers), reel, Fraction(fps) if fps else _rate(clip, task, asked))
    return {"picture": picture, "movie": movie, **{name: sum(values) / predict for name, values in numbers.items()}}


def _files(clip: Path, out: Path) -> tuple[Path, Path]:
    """Finds the names of the picture and the movie, before any work is done for nothing."""
    if out.is_dir():
        out = out / f"{clip.stem}-rollout"
    elif out.suffix.lower() in (".png", ".mp4"):
        out = out.with_suffix("")
    files = out.with_name(f"{out.name}.png"), out.with_name(f"{out.name}.mp4")
    check_outputs(*files, clip=clip)
    return files


def _drawn(name: str, frames: np.ndarray, predicted: np.ndarray, numbers: dict[str, list[float]]) -> bytes:
    """Draws the true frames above the predicted ones, with numbers and charts below: a PNG."""
    count, observe = len(frames), len(frames) - len(predicted)
    charts = [group for group in (["energy"], ["error", "error of a copy"]) if group[0] in numbers]
    # In inches, from left and top: columns and two rows of frames, lines of numbers, charts.
    left, top, cell = 1.1, 0.75, min(1.0, (WIDEST - 1.25) / count)
    edge, lines, first_chart = left + observe * cell, top + 2 * cell + 0.22, top + 2 * cell + 0.3 + 0.17 * len(numbers)
    width, height = max(5.0, left + count * cell + 0.15), first_chart + len(charts) + 0.05
    with figure_of(width, height) as (figure, png):
        figure.set_layout_engine("none")  # so that all of a frame is in one column

        def write(x: float, y: float, text: str, **style: Any) -> None:
            figure.text(x / width, 1 - y / height, text, **{"color": GREY, "size": 8, **style})

        def axes_at(x: float, y: float, wide: float, high: float) -> Any:
            return figure.add_axes((x / width, 1 - (y + high) / height, wide / width, high / height))

        def show(image: np.ndarray, column: int, row: int, color: str) -> None:
            axes = axes_at(left + (column + 0.04) * cell, top + row * (cell + 0.04), 0.92 * cell, 0.92 * cell)
            axes.imshow(image, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=color, linewidth=2)

        write(0.12, 0.24, f"{name}: {len(predicted)} frames predicted from {observe}", size=11, color=INK)
        for text, column, color in (("observed", 0, DATA), ("predicted", observe, SAMPLES)):
            write(left + (column + 0.04) * cell, top - 0.24, text, size=9, color=color, weight="bold")
        for row, text in enumerate(("true", "predicted")):
            write(left - 0.08, top + (row + 0.46) * (cell + 0.04), text, size=9, color=INK, ha="right", va="center")
        for index, image in enumerate(frames):
            write(left + (index + 0.5) * cell, top - 0.06, str(index + 1), ha="center")
            show(image, index, 0, DATA if index < observe else PALE)
        for index, image in enumerate(predicted, observe):
            show(image, index, 1, SAMPLES)
        for line, (label, values) in enumerate(numbers.items()):
            write(edge - 0.08, lines + 0.17 * line, label, ha="right", color=COLORS[label])
            for index, value in enumerate(values):
                write(edge + (index + 0.5) * cell, lines + 0.17 * line, f"{value:.3g}", ha="center", color=COLORS[label])
        columns = range(observe + 1, count + 1)
        for row, group in enumerate(charts):
            axes = axes_at(edge, first_chart + row, len(predicted) * cell, 0.75)
            for label in group:
                if label == "energy":
                    axes.bar(columns, numbers[label], width=0.5, color=COLORS[label])
                    axes.axhline(0, color=GREY, linewidth=0.8)
                else:
                    style = "-" if label == "error" else "--"  # both are seen where they are equal
                    axes.plot(columns, numbers[label], style, marker="o", markersize=4, color=COLORS[label])
                    axes.set_ylim(0, 1.15 * max(max(numbers[each]) for each in group) or 1)
            axes.set(xlim=(observe + 0.5, count + 0.5), xticks=[])
            axes.tick_params(labelsize=7)
            write(edge - 0.55, first_chart + row + 0.375, group[0], size=9, ha="right", va="center")
    return png.getvalue()


def _panels(frames: np.ndarray, predicted: np.ndarray, numbers: dict[str, list[float]]) -> Iterator[np.ndarray]:
    """Draws a movie's frames (H, W, 3): true beside predicted, with numbers below."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    def font(name: str, size: int) -> Any:
        return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)

    plain, bold = font("DejaVuSans.ttf", 15), font("DejaVuSans-Bold.ttf", 16)
    count, observe = len(frames), len(frames) - len(predicted)
    side, margin, head, foot = frames.shape[1] * math.ceil(SIDE / frames.shape[1]), 14, 40, 66
    width, height = (2 * side + 3 * margin + 1) // 2 * 2, (head + side + foot + 1) // 2 * 2  # even, as yuv420p has it
    for index, frame in enumerate(frames):
        seen = index < observe
        canvas = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(canvas)
        right, color = (frame, DATA) if seen else (predicted[index - observe], SAMPLES)
        for x, image, title, paint in (
            (margin, frame, "true", DATA),
            (2 * margin + side, right, "observed" if seen else "predicted", color),
        ):
            draw.text((x, head - 10), title, font=bold, fill=paint, anchor="ls")
            draw.rectangle((x - 3, head - 3, x + side + 2, head + side + 2), fill=paint)
            canvas.paste(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST), (x, head))
        said = "" if seen else "   ".join(f"{label} {values[index - observe]:.3g}" for label, values in numbers.items())
        draw.text((margin, head + side + 27), f"frame {index + 1} of {count}", font=bold, fill=INK, anchor="ls")
        draw.text((margin, head + side + 50), said or "observed", font=plain, fill=GREY, anchor="ls")
        yield np.asarray(canvas)


def _rate(clip: Path, task: Any, asked: dict[str, Any]) -> Fraction:
    """Finds how fast the frames that are taken follow each other."""
    sampling = getattr(task, "sampling", None)
    if not asked and sampling is not None:
        asked = {"every": sampling.every, "seconds": sampling.seconds}
    if asked.get("seconds"):
        return 1 / Fraction(asked["seconds"])
    return Fraction(rate_of(clip) or RATE) / (asked.get("every") or 1)


def _write(pictures: Iterator[np.ndarray], path: Path, rate: Fraction) -> None:
    """Writes pictures (H, W, 3) of even sizes as an MP4 file, so many a second."""
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"  # which every build has
    # Without the prefix, a colon in the file's name would make it an address.
    with av.open(f"file:{path}", "w", format="mp4") as container:
        reel: Any = None
        for picture in pictures:
            if reel is None:
                reel = container.add_stream(
                    codec, rate=max(SLOWEST, rate.limit_denominator(1001)), options={"crf": "16"} if codec == "libx264" else {}
                )
                reel.height, reel.width = picture.shape[:2]
                reel.pix_fmt = "yuv420p"
                if codec == "mpeg4":
                    reel.bit_rate = 4_000_000
            container.mux(reel.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(reel.encode())
