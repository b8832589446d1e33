"""`ebm denoise RUN PHOTOS`: restore photographs, and draw a map of their energy."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ebm.commands.sides import OURS, check_unnamed, is_ours, write_map
from ebm.files import check_outputs, check_writable
from ebm.interfaces.abilities import ScoresPatches, Tiled, lacking
from ebm.randomness import randn_like, stream
from ebm.runs.run import Run
from ebm.studies.restoring import Untouched, beyond_training, estimated
from ebm.tasks.images.estimating import GRAIN
from ebm.tasks.images.files import Picture, format_of, lost, open_pictures, write_pictures
from ebm.tasks.images.noising import AdditiveNoise
from ebm.tasks.images.shades import Shades
from ebm.tasks.images.tiling import Coding, Restored, count_tiles, patch_scores
from ebm.tasks.images.whole import count_parts, restore_picture, takes_greys
from ebm.tasks.sources import PICTURES, few_of, pictures_below

FALL = 0.15  # of the energy, the least that patience counts
BAND = 256  # rows that are handled together
LOOKED_AT, LEAST = 2048, 6  # the side of the middle whose noise is estimated, and the least that can be


def denoise(
    run: Run,
    /,
    *photos: Path,
    out: Path | None = None,
    steps: int | None = None,
    candidates: int = 1,
    patience: int | None = None,
    tolerance: float | None = None,
    stride: int | None = None,
    noise_step: int | None = None,
    noise_std: float | None = None,
    sigma: float | None = None,
    strength: float = 1.0,
    add_noise: int | None = None,
    map: bool | None = None,
    white: float | None = None,
    quality: int | None = None,
    overwrite: bool = False,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Denoise pictures of any size by a run: writes them clean, and a map of a picture's energy.

    A picture keeps its alpha, depth, profile, EXIF, resolution, frames and pages. OUT-energy.png is
    bright where the energy is high; --add-noise also writes OUT-noisy.png. Of several pictures, what
    is broken is named and left out, and the others are denoised.

    Args:
        run: the run folder.
        photos: pictures, as noisy as they are, and folders of them.
        out: the picture to write, or the folder for several, which keeps their names; by default
            the photo's name with -clean, in this folder.
        steps: steps per landscape; by default the run's. Where the noise is stronger than training's,
            as lower the energy by more than its recipe's `thinking.tolerance`.
        candidates: starts that are tried for each tile, of which the energy chooses.
        patience: think until the energy fell no further for this many steps, --steps at most.
        tolerance: with --patience, the least fall that counts, as a share of the energy; by default 0.15.
        stride: pixels between neighbouring tiles, at most; by default the task's.
        noise_step: the schedule's step of the picture's noise. By default the noise is estimated, by a
            run that was trained on noise of many strengths and is told it, or else training's strongest.
        noise_std: instead, the standard deviation of its noise, for pixels of -1 to 1.
        sigma: instead, the standard deviation of its noise in grey levels of 255.
        strength: what the noise's deviation is multiplied by: below 1, more detail and more noise stay.
        add_noise: take the picture as clean, and add the noise of this step.
        map: write the map (of an energy that knows its patches' energies); by default where one
            picture is denoised.
        white: the number that stands for white, in files of more than 8 bits.
        quality: of JPEG, WebP, AVIF and HEIF files, 1 to 100; by default 95.
        overwrite: replace pictures that are there already, where `out` does not name them.
        batch_size: how many tiles are denoised together.
        seed: what every random draw is derived from.

    Returns:
        The files that were written; of additive noise, how much was taken off (in grey levels, and
        whether it was estimated); means over tiles: energy, steps, and forward passes; of several
        photos, the picture that was written of each, and its noise.

    Raises:
        ValueError: a photo cannot be read, or the run or the arguments do not fit.
        FileNotFoundError: there is no such photo, or no folder to write to.
    """
    task: Any = run.judge()
    if missing := lacking(task, Tiled):
        raise ValueError(
            f"{run.path} was not trained to denoise: its task {type(task).__name__} has no {' and no '.join(missing)}, "
            f"as the task denoising has"
        )
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality={quality}: it is 1 to 100")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: denoise at least one tile at a time")
    if tolerance is not None and patience is None:
        raise ValueError(f"tolerance={tolerance}, patience=None: it counts while thinking is patient, so pass --patience, too")
    told = getattr(run.energy, "deviations", None) is not None  # an energy that asks how strong a step's noise is
    said = _said(task, {"noise_step": noise_step, "noise_std": noise_std, "sigma": sigma, "add_noise": add_noise}, strength, told)
    predictor = beyond = run.predictor(steps, candidates, patience, FALL if tolerance is None else tolerance)
    if (steps, patience) == (None, None):
        beyond = beyond_training(run, candidates) or predictor
    restorer = _Restorer(
        task,
        predictor,
        beyond=beyond,
        said=said,
        strength=strength,
        added=add_noise,
        stride=stride,
        scores=patch_scores(run.energy) if isinstance(run.energy, ScoresPatches) else None,
        device=run.device,
        batch_size=batch_size,
        seed=seed,
    )
    count_tiles(1, 1, task.tile, stride)  # says what is wrong
    if len(photos) == 1 and not Path(photos[0]).is_dir():
        photo, target = _target(Path(photos[0]), out)
        check_unnamed(target, out, photo, overwrite)
        return restorer.file(photo, target, white=white, quality=quality, map=map)
    targets = _targets([Path(photo) for photo in photos], out, overwrite)
    return _one_by_one(restorer, targets, white=white, quality=quality, map=bool(map))


def _target(photo: Path, out: Path | None) -> tuple[Path, Path]:
    """Finds the name of a photo's picture."""
    if out is not None:
        return photo, Path(out) / photo.name if Path(out).is_dir() else Path(out)
    named = Path(f"{photo.stem}-clean{photo.suffix}")
    try:
        format_of(named)
    except (ValueError, ImportError):  # a name without a kind, or a kind that is read alone
        named = Path(f"{photo.stem}-clean.png")
    return photo, named


def _targets(photos: list[Path], out: Path | None, overwrite: bool) -> list[tuple[Path, Path]]:
    """Finds the pictures of folders, and the name of each one's picture, all before any work is done.

    Raises:
        FileNotFoundError: a folder has no picture, or there is none to make the out folder in.
        ValueError: two would have one name, or would replace a photo or what is there already.
    """
    if not photos:
        raise ValueError("no picture: name one, or several, or a folder of them")
    folder = Path() if out is None else Path(out)
    if not folder.is_dir() and (folder.exists() or folder.suffix):
        raise ValueError(f"out={str(folder)!r} is no folder, and of several pictures each keeps its name: name a folder")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"out={str(folder)!r}: there is no folder {folder.parent}, make it first")
    check_writable(folder)
    found: list[tuple[Path, Path]] = []
    for photo in photos:
        inside = [photo]
        if photo.is_dir():
            inside = pictures_below(photo)
            if out is not None and folder.resolve() != photo.resolve():  # what was written there before is no input
                inside = [each for each in inside if folder.resolve() not in each.absolute().parents]
            if not inside:
                raise FileNotFoundError(f"{photo} holds no picture: name a folder with files of {', '.join(PICTURES)}")
        for each in inside:
            place = each.relative_to(photo) if photo.is_dir() else Path(each.name)
            if out is None:
                place = place.with_name(_target(each, None)[1].name)
            found.append((each, folder / place))
    owners: dict[Path, Path] = {}
    for photo, target in found:
        if (other := owners.setdefault(target, photo)) != photo:
            raise ValueError(f"{other} and {photo} would both be written to {target}: denoise them one by one")
    there = [target for _, target in found if target.exists()]
    for target in there:
        if replaced := next((each for each, _ in found if each.exists() and target.samefile(each)), None):
            raise ValueError(f"out: {str(target)!r} is the photo {replaced} itself, and would be replaced: choose another folder")
    if there and not overwrite:
        raise ValueError(
            f"{len(there)} of {len(found)} pictures are in {folder} already, such as {there[0].name}: --overwrite replaces them"
        )
    return [*dict.fromkeys(found)]


def _one_by_one(restorer: _Restorer, targets: list[tuple[Path, Path]], **how: Any) -> dict[str, Any]:
    """Denoises several photos; what fails is named at once and at the end, and the others are done."""
    stems = Counter(target.with_suffix("") for _, target in targets)
    inputs, outputs = [photo for photo, _ in targets], {out for _, out in targets}
    failed: list[str] = []
    done: dict[str, Any] = {}
    for number, (photo, out) in enumerate(targets, 1):
        sides = out.name if stems[out.with_suffix("")] > 1 else out.stem
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            named: dict[str, Any] = {"sides": sides, "others": inputs, "taken": outputs - {out}}
            written = restorer.file(photo, out, of=f"{number} of {len(targets)} ", **named, **how)
        except (ValueError, OSError, ImportError, FloatingPointError) as error:
            said = str(error) if str(photo) in str(error) else f"{photo}: {error}"
            warnings.warn(said, stacklevel=3)
            failed.append(said)
        else:
            done[str(photo)] = written["picture"]
            if "noise" in written:
                done[f"noise of {photo}"] = written["noise"]
    if failed:
        rest = f"the other {len(targets) - len(failed)} are written"
        raise ValueError(f"{len(failed)} of {len(targets)} pictures could not be denoised, {rest}: {few_of(failed)}")
    return done


@dataclass(frozen=True)
class _Restorer:
    """Denoises picture files by a predictor, each with all that belongs to it."""

    task: Any
    predictor: Any
    beyond: Any  # predicts where the noise is stronger than training's
    said: tuple[float, float] | None  # the noise's deviation and the picture's signal; None: estimated
    strength: float
    added: int | None  # the step of noise that is added
    stride: int | None
    scores: Callable[..., Tensor] | None
    device: torch.device
    batch_size: int
    seed: int

    def file(
        self,
        photo: Path,
        out: Path,
        *,
        white: float | None,
        quality: int | None,
        map: bool | None,
        sides: str = "",
        others: Sequence[Path] = (),
        taken: Set[Path] = frozenset(),
        of: str = "",
    ) -> dict[str, Any]:
        """Denoises a file: the files that were written, and means over tiles."""
        format_of(out)
        check_outputs(out, photo=photo)
        file = open_pictures(photo, white)
        drawn = self.scores is not None and (file.count == 1 if map is None else map)
        numbers = [""] if file.count == 1 else [f"-{number}" for number in range(1, file.count + 1)]
        noisy, maps = (
            {f"{kind}{number}": out.with_name(f"{sides or out.stem}-{name}{number}.png") for number in numbers if wanted}
            for kind, name, wanted in (("noisy", "noisy", self.added is not None), ("map", "energy", drawn))
        )
        for side in (*noisy.values(), *maps.values()):
            check_outputs(side, photo=photo, **{f"photo {other}": other for other in others})
            if side in taken:
                raise ValueError(f"{str(side)!r} is where another photo is written, and would be replaced: denoise {photo} alone")
            if side.exists() and not is_ours(side):
                raise ValueError(f"{str(side)!r} is there, and was not written by this command: choose another name for out")
        known = [f"{said}; --white NUMBER says what is" if said.endswith("white") else said for said in file.said]
        for said in (*known, *lost(file, out, file.first())):
            warnings.warn(f"{photo}: {said}", stacklevel=4)
        results: list[Restored] = []
        steps: list[int] = []

        def restored() -> Iterator[Picture]:
            generator = stream(self.seed, "denoise", device=self.device)
            coloured = False
            for number, picture in zip(numbers, file, strict=True):
                shades = Shades(picture, self.task.spec["channels"], self.device, takes_greys(self.predictor))
                if shades.loses_colours and not coloured:
                    coloured = True
                    warnings.warn(f"{photo}: it has colours, and the run knows greys alone: it is written grey", stacklevel=2)
                title = of and f"{of}{photo.name}"
                found, pixels, step = self._picture(picture, shades, generator, noisy.get(f"noisy{number}"), drawn, title)
                if found.map is not None:
                    write_map(found.map, maps[f"map{number}"])
                results.append(found._replace(image=torch.empty(0), map=None))
                steps.append(step)
                yield picture.with_visible(pixels)

        write_pictures(out, restored(), like=file, quality=quality)
        means = {"energy per tile": "energy", "steps per tile": "steps", "forward passes": "evaluations"}
        values = {name: [value for found in results if (value := getattr(found, key)) is not None] for name, key in means.items()}
        known_means = {name: sum(each) / len(each) for name, each in values.items() if each}
        return {**noisy, "picture": out, **maps, **self._noise(steps), **known_means}

    def _picture(
        self, picture: Picture, shades: Shades, generator: torch.Generator, noisy: Path | None, drawn: bool, title: str
    ) -> tuple[Restored, np.ndarray, int]:
        """Denoises a picture: what restoring found, the pixels (H, W, C), and the step of its noise."""
        held: Tensor = torch.from_numpy(picture.visible()).movedim(-1, 0)
        scaled: Callable[[Tensor], Tensor] = shades.scaled
        if noisy is not None:
            held, scaled = self._noised(held, shades, generator), lambda y: y.to(self.device, torch.float32)
            pixels = torch.cat([shades.encode(rows.float()) for rows in held.split(BAND, 1)], 1).movedim(0, -1).numpy()
            write_pictures(noisy, [replace(picture, pixels=pixels, texts=OURS)])
        std, signal = (self._estimated(held, shades, scaled), 1.0) if self.said is None else self.said
        step, factor = _step(self.task, std * self.strength, signal, estimated=self.said is None)
        predictor, scores = self.beyond if step > self.task.noise_step[1] else self.predictor, self.scores
        if self.said is None and self.task.schedule.std[step] == 0:
            predictor = untouched = Untouched()
            scores = untouched.scores
        height, width = held.shape[1:]
        total = count_parts(self.task, predictor, height, width, self.stride)  # at most
        with tqdm(total=total, unit="tile", desc=title or None, disable=None, dynamic_ncols=True) as bar:  # on a terminal alone
            found = restore_picture(
                self.task,
                predictor,
                held,
                step,
                stride=self.stride,
                batch_size=self.batch_size,
                scores=scores if drawn else None,
                generator=generator,
                advance=bar.update,
                coding=Coding(lambda tiles: shades.expand(scaled(tiles) * factor), shades.encode),
            )
        return found, found.image.movedim(0, -1).numpy(), step

    def _noised(self, held: Tensor, shades: Shades, generator: torch.Generator) -> Tensor:
        """Adds noise to a picture; what has one shade has one noise. In half precision."""
        assert self.added is not None
        found, step = [], torch.tensor([self.added], device=self.device)
        for rows in held.split(BAND, 1):
            clean = shades.scaled(rows[None])
            found.append(self.task.schedule.noised(clean, step, randn_like(clean, generator))[0].half().cpu())
        return torch.cat(found, 1)

    def _estimated(self, held: Tensor, shades: Shades, scaled: Callable[[Tensor], Tensor]) -> float:
        """Estimates the noise of a picture (C, H, W) from its middle; an energy that is told it has the last word."""
        height, width = held.shape[1:]
        if min(height, width) < LEAST:
            raise ValueError(f"a picture of {width} x {height} is too small to estimate its noise: say it by --sigma")
        top, left = (max(0, (size - LOOKED_AT) // 2) for size in (height, width))
        middle = scaled(held[None, :, top : top + LOOKED_AT, left : left + LOOKED_AT])
        return estimated(self.predictor, middle[0], shades.expand(middle)[0])

    def _noise(self, steps: Sequence[int]) -> dict[str, str]:
        """Says how much additive noise was taken off pictures whose noise had these steps."""
        schedule = self.task.schedule
        if not isinstance(schedule, AdditiveNoise) and self.said is not None:
            return {}
        low, high = (127.5 * (schedule.std[step] / schedule.signal[step]).item() for step in (min(steps), max(steps)))
        span = f"{low:.1f}" if low == high else f"{low:.1f} to {high:.1f}"
        if high == 0 and self.said is None:
            span = f"none taken off, as less than {127.5 * GRAIN:g}"
        return {"noise": f"{span} of 255" + (", estimated" if self.said is None else "")}


def _said(task: Tiled, given: dict[str, Any], strength: float, told: bool = False) -> tuple[float, float] | None:
    """Finds the deviation of the picture's noise beside a signal of 1, in pixels of -1 to 1, and the
    picture's own signal; None where the noise is to be estimated."""
    known = {name: value for name, value in given.items() if value is not None}
    if len(known) > 1:
        shown = ", ".join(f"{name}={value}" for name, value in known.items())
        raise ValueError(f"{shown}: each says how strong the noise is, so pass one of them")
    if not 0 < strength < math.inf:
        raise ValueError(f"strength={strength}: pass a positive number, 1 for the noise as it is")
    if not known and (told or isinstance(task.schedule, AdditiveNoise)) and task.noise_step[0] < task.noise_step[1]:
        return None
    name, value = next(iter(known.items()), ("noise_step", task.noise_step[1]))
    if name in ("noise_step", "add_noise"):
        if not 0 <= value < task.schedule.steps:
            raise ValueError(f"{name}={value}: the schedule's steps are 0 to {task.schedule.steps - 1}")
        signal = task.schedule.signal[value].item()
        return task.schedule.std[value].item() / signal, signal
    if not 0 < value < math.inf:
        raise ValueError(
            f"{name}={value}: pass a positive number, in {'grey levels' if name == 'sigma' else 'pixels of -1 to 1'}"
        )
    return (value / 127.5 if name == "sigma" else value), 1.0


def _step(task: Tiled, std: float, signal: float, estimated: bool = False) -> tuple[int, float]:
    """Finds the step of noise of a deviation, and what a picture of that signal is multiplied by.

    An estimate weaker or stronger than all of a schedule's noise counts as its weakest or strongest."""
    schedule = task.schedule
    if isinstance(schedule, AdditiveNoise):
        return schedule.step_of(min(std, schedule.std[-1].item())), 1.0
    share = std / math.hypot(1, std)  # signal² + std² = 1
    share = min(max(share, schedule.std[0].item()), schedule.std[-1].item()) if estimated else share
    step = schedule.step_of(share)
    return step, schedule.signal[step].item() / signal
