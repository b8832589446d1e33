"""`ebm denoise RUN PHOTOS`: restore photographs, and draw a map of their energy."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ebm.files import atomic, check_outputs, check_writable
from ebm.interfaces import check_steps
from ebm.interfaces.abilities import ScoresPatches, Tiled, lacking
from ebm.randomness import randn_like, stream
from ebm.runs.run import Run
from ebm.tasks.images.files import Picture, format_of, lost, open_pictures, write_pictures
from ebm.tasks.images.shades import Shades
from ebm.tasks.images.tiling import Coding, Restored, count_tiles, patch_of, patch_scores, restore
from ebm.tasks.sources import PICTURES, few_of, pictures_below


def denoise(
    run: Run,
    /,
    *photos: Path,
    out: Path | None = None,
    steps: int | None = None,
    candidates: int = 1,
    patience: int | None = None,
    tolerance: float = 0.15,
    stride: int | None = None,
    noise_step: int | None = None,
    noise_std: float | None = None,
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
        steps: steps per landscape; by default the run's.
        candidates: starts that are tried for each tile, of which the energy chooses.
        patience: think until the energy fell no further for this many steps, --steps at most.
        tolerance: with --patience, the least fall that counts, as a share of the energy.
        stride: pixels between neighbouring tiles, at most; by default the task's.
        noise_step: the schedule's step of the picture's noise; by default training's strongest.
        noise_std: instead, the standard deviation of its noise, for pixels of -1 to 1.
        add_noise: take the picture as clean, and add the noise of this step.
        map: write the map (of an energy that knows its patches' energies); by default where one
            picture is denoised.
        white: the number that stands for white, in files of more than 8 bits.
        quality: of JPEG, WebP, AVIF and HEIF files, 1 to 100; by default 95.
        overwrite: replace pictures that are in the folder already.
        batch_size: how many tiles are denoised together.
        seed: what every random draw is derived from.

    Returns:
        The files that were written, and means over tiles: energy, steps, and forward passes; of
        several photos, the picture that was written of each.

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
    step, signal = _strength(task, noise_step, noise_std, add_noise)
    restorer = _Restorer(
        run.predictor(steps, candidates, patience, tolerance),
        tile=task.tile,
        stride=task.stride if stride is None else stride,
        patch=patch_of(run.energy),
        step=step,
        signal=signal,
        noised=task.schedule.noised if add_noise is not None else None,
        channels=task.spec["channels"],
        scores=patch_scores(run.energy) if isinstance(run.energy, ScoresPatches) else None,
        passes=1 if patience is None else check_steps(run.sampler.steps if steps is None else steps)[1],
        device=run.device,
        batch_size=batch_size,
        seed=seed,
    )
    count_tiles(1, 1, restorer.tile, restorer.stride, restorer.patch)  # says what is wrong
    if len(photos) == 1 and not Path(photos[0]).is_dir():
        photo, target = _target(Path(photos[0]), out)
        if out is not None and Path(out).is_dir() and target.exists() and not overwrite and not target.samefile(photo):
            raise ValueError(f"{target.name} is in {out} already: --overwrite replaces it")
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
    inputs = [photo for photo, _ in targets]
    failed: list[str] = []
    done: dict[str, Any] = {}
    for number, (photo, out) in enumerate(targets, 1):
        sides = out.name if stems[out.with_suffix("")] > 1 else out.stem
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            written = restorer.file(photo, out, sides=sides, others=inputs, of=f"{number} of {len(targets)} ", **how)
        except (ValueError, OSError, ImportError, FloatingPointError) as error:
            said = str(error) if str(photo) in str(error) else f"{photo}: {error}"
            warnings.warn(said, stacklevel=3)
            failed.append(said)
        else:
            done[str(photo)] = written["picture"]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(targets)} pictures could not be denoised, the other {len(done)} are written: {few_of(failed)}"
        )
    return done


@dataclass(frozen=True)
class _Restorer:
    """Denoises picture files by a predictor, each with all that belongs to it."""

    predictor: Any
    tile: int
    stride: int
    patch: int
    step: int
    signal: float  # what the schedule multiplies pictures by
    noised: Callable[[Tensor, Tensor, Tensor], Tensor] | None  # where noise is added
    channels: int
    scores: Callable[..., Tensor] | None
    passes: int
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
            for kind, name, wanted in (("noisy", "noisy", self.noised is not None), ("map", "energy", drawn))
        )
        for side in (*noisy.values(), *maps.values()):
            check_outputs(side, photo=photo, **{f"photo {other}": other for other in others})
            if side.exists() and not _is_ours(side):
                raise ValueError(f"{str(side)!r} is there, and was not written by this command: choose another name for out")
        known = [f"{said}; --white NUMBER says what is" if said.endswith("white") else said for said in file.said]
        for said in (*known, *lost(file, out, file.first())):
            warnings.warn(f"{photo}: {said}", stacklevel=4)
        results: list[Restored] = []

        def restored() -> Iterator[Picture]:
            generator = stream(self.seed, "denoise", device=self.device)
            coloured = False
            for number, picture in zip(numbers, file, strict=True):
                shades = Shades(picture, self.channels, self.signal, self.device)
                if shades.loses_colours and not coloured:
                    coloured = True
                    warnings.warn(f"{photo}: it has colours, and the run knows greys alone: it is written grey", stacklevel=2)
                title = of and f"{of}{photo.name}"
                found, pixels = self._picture(picture, shades, generator, noisy.get(f"noisy{number}"), drawn, title)
                if found.map is not None:
                    _write_map(found.map, maps[f"map{number}"])
                results.append(found._replace(image=torch.empty(0), map=None))
                yield picture.with_visible(pixels)

        write_pictures(out, restored(), like=file, quality=quality)
        means = {"energy per tile": "energy", "steps per tile": "steps", "forward passes": "evaluations"}
        values = {name: [getattr(found, key) for found in results] for name, key in means.items()}
        known_means = {name: sum(each) / len(each) for name, each in values.items() if None not in each}
        return {**noisy, "picture": out, **maps, **known_means}

    def _picture(
        self, picture: Picture, shades: Shades, generator: torch.Generator, noisy: Path | None, drawn: bool, title: str
    ) -> tuple[Restored, np.ndarray]:
        """Denoises a picture: what restoring found, and the pixels (H, W, C)."""
        held: Tensor = torch.from_numpy(picture.visible()).movedim(-1, 0)
        if noisy is not None:
            held = self._noised(held, shades, generator)
            pixels = torch.cat([shades.encode(rows.float()) for rows in held.split(BAND, 1)], 1).movedim(0, -1).numpy()
            write_pictures(noisy, [replace(picture, pixels=pixels, texts=OURS)])
        height, width = held.shape[1:]
        total = count_tiles(height, width, self.tile, self.stride, self.patch) * self.passes  # at most
        with tqdm(total=total, unit="tile", desc=title or None, disable=None, dynamic_ncols=True) as bar:  # on a terminal alone
            found = restore(
                self.predictor,
                held,
                tile=self.tile,
                stride=self.stride,
                patch=self.patch,
                step=self.step,
                batch_size=self.batch_size,
                scores=self.scores if drawn else None,
                generator=generator,
                advance=bar.update,
                coding=Coding(shades.decode if noisy is None else shades.expand, shades.encode),
            )
        return found, found.image.movedim(0, -1).numpy()

    def _noised(self, held: Tensor, shades: Shades, generator: torch.Generator) -> Tensor:
        """Adds noise to a picture; what has one shade has one noise. In half precision."""
        assert self.noised is not None
        found, step = [], torch.tensor([self.step], device=self.device)
        for rows in held.split(BAND, 1):
            clean = shades.scaled(rows[None])
            found.append(self.noised(clean, step, randn_like(clean, generator))[0].half().cpu())
        return torch.cat(found, 1)


BAND = 256  # rows that are handled together
OURS = {"pnginfo": {"Software": "ebm denoise"}}  # what a side file says of itself


def _is_ours(side: Path) -> bool:
    """Tells whether a side file was written by this command, and may be written anew."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(side) as file:  # however large it is
            return file.info.get("Software") == OURS["pnginfo"]["Software"]
    except OSError:
        return False


def _strength(task: Tiled, noise_step: int | None, noise_std: float | None, add_noise: int | None) -> tuple[int, float]:
    """Finds the step of the picture's noise, and what the schedule multiplies pictures by."""
    given = {"noise_step": noise_step, "noise_std": noise_std, "add_noise": add_noise}
    if sum(value is not None for value in given.values()) > 1:
        shown = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
        raise ValueError(f"{shown}: each says how strong the noise is, so pass one of them")
    schedule = task.schedule
    if noise_std is not None:
        if not noise_std > 0:
            raise ValueError(f"noise_std={noise_std}: pass a positive number, in pixels of -1 to 1")
        step = schedule.step_of(noise_std / math.hypot(1, noise_std))  # signal² + std² = 1
        return step, schedule.signal[step].item()
    for name, value in (("noise_step", noise_step), ("add_noise", add_noise)):
        if value is not None and not 0 <= value < schedule.steps:
            raise ValueError(f"{name}={value}: the schedule's steps are 0 to {schedule.steps - 1}")
    return next(value for value in (noise_step, add_noise, task.noise_step[1]) if value is not None), 1.0


def _write_map(values: Tensor, path: Path) -> None:
    """Writes a map (H, W) in colours from its lowest value to its highest, dark to bright."""
    from matplotlib import colormaps
    from PIL import Image, PngImagePlugin

    low, high = values.aminmax()
    levels = values.sub_(low).mul_(255 / (high - low).clamp(min=1e-12)).to("cpu", torch.uint8).numpy()
    image, said = Image.fromarray(levels), PngImagePlugin.PngInfo()
    image.putpalette(colormaps["magma"](range(256), bytes=True)[:, :3].tobytes())
    said.add_text("Software", OURS["pnginfo"]["Software"])
    with atomic(path) as draft:
        image.save(draft, format="PNG", pnginfo=said)
