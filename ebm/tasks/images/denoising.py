"""Denoising photographs: a clean tile is predicted from the noisy one."""

from __future__ import annotations

import math
import re
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ebm.figures import figure_of, grid
from ebm.interfaces import Batch, Prediction, Predictor, Task
from ebm.interfaces.sharing import own_parts
from ebm.interfaces.task import check_limit
from ebm.randomness import randn_like, stream
from ebm.tasks.images.corruptions import CORRUPTIONS
from ebm.tasks.images.noising import TENTHS, AdditivelyNoisy, AdditiveNoise, NoiseSchedule, Noisy
from ebm.tasks.images.photographs import Photograph, photographs
from ebm.tasks.images.tiling import Restored
from ebm.tasks.images.whole import restore_picture
from ebm.tasks.rows import LOSSES, SPLITS, RowsOf, digest_of, errors, loader_of
from ebm.thinking import Considered
from ebm.words import nearest

EXAMPLES = 16  # photographs that classical denoisers are tuned on, at most
WINDOW = 11  # pixels a side that the structural similarity needs
LOG, LEAST = "log-squared", 6e-6  # a loss, and what is added to the error in it: 58 dB, beyond which nobody sees
BY_NOISE = "noise-weighted"  # a loss
DRAWN = 7  # numbers that decide a training tile: photograph, place (2), flips (2), transposition, noise step


@runtime_checkable
class Denoiser(Protocol):
    """A predictor that restores whole photographs and is told how strong their noise is."""

    def denoise(self, image: Tensor, std: float, signal: float = 1.0) -> Tensor:
        """Estimates the clean photograph (C, H, W) of image = signal * clean + std * noise."""
        ...


class Denoising(Task):
    """Photographs to denoise: targets are clean tiles (B, C, tile, tile), contexts `Noisy`.

    Pixels lie in [-1, 1], noise is that of `NoiseSchedule`, or with `sigma` of `AdditiveNoise`, and
    chains start at the noisy tile.
    Training tile i and its noise are a function of the loader's seed and i: cut at random from a
    photograph, whose chance grows as the root of its area, flipped and transposed.

    Held-out splits are "validation" and "test" at the training noise (the upper end of a range, or
    `judged_sigma`). The test photographs have further splits: "step-N", with the noise of step N,
    or "sigma-N" with additive noise of N grey levels; and "salt-and-pepper", "speckle" and "jpeg",
    whose context gives the step of the training noise, because no step describes them. Noise
    depends on `seed`, split and the photograph's name.

    Arguments:
        source: "bundled", "foolbox" (for testing alone), a folder or a hub dataset, or a list of
            these, as `photographs` says.
        tile: the side of a tile.
        channels: 3 (colours), or 1 (greys).
        noise_step: the training noise's step, or a pair (low, high) that each tile's is drawn from.
        noise_std: instead, the training noise's standard deviation, in pixels of [-1, 1].
        sigma: instead, additive noise: its standard deviation in grey levels of 255, or a pair (low,
            high) that each tile's is drawn from, to a tenth of a level.
        judged_sigma: additive noise that held-out photographs have; by default the strongest.
        schedule_steps: how many steps the schedule has.
        tiles: training tiles of an epoch.
        crop: the side of the held-out photographs' middle that is judged, or a shorter whole side.
        stride: pixels between neighbouring tiles when a photograph is restored, at most.
        loss: "squared"; "smooth-l1", as arXiv 2507.02092's code has; "log-squared", the logarithm
            of a tile's mean squared error, as PSNR has: weak noise counts as much as strong, and
            smooth tiles as much as textures; or "noise-weighted", the squared error over the noise's
            deviation: weak noise counts about as much as strong, and tiles as in a photograph's error.
        strict: whether a file that cannot be read, or is smaller than a tile, is an error.
        column: where the picture of a hub dataset's row is.
        hub_split: which split of a hub dataset is read, and then dealt out.
        config: the hub dataset's configuration, where it has several.
        seed: decides the split of each photograph, and the noise that predictors are judged on.
        learned: what a run of this task keeps; with it photographs are read when they are needed.

    Raises:
        ValueError: an argument is out of range; and what `photographs` raises.

    >>> task = Denoising(noise_std=0.3)
    >>> batch = next(iter(task.loader("train", 8)))
    >>> batch.target.shape, batch.context.image.shape, batch.context.step[0], task.spec
    (torch.Size([8, 3, 32, 32]), torch.Size([8, 3, 32, 32]), tensor(92), {'image_size': 32, 'channels': 3})
    """

    headline = "psnr"
    unit = "tile"
    paths: ClassVar = {"source": ("bundled", "foolbox")}

    def __init__(
        self,
        source: str | Sequence[str] = "bundled",
        tile: int = 32,
        channels: int = 3,
        noise_step: int | tuple[int, int] = 99,
        noise_std: float | None = None,
        sigma: float | tuple[float, float] | None = None,
        judged_sigma: float | None = None,
        schedule_steps: int = 1000,
        tiles: int = 4096,
        crop: int = 256,
        stride: int = 16,
        loss: Literal["squared", "smooth-l1", "log-squared", "noise-weighted"] = "squared",
        strict: bool = False,
        column: str = "image",
        hub_split: str = "train",
        config: str | None = None,
        seed: int = 0,
        learned: Path | None = None,
    ) -> None:
        for name, value in (("tile", tile), ("tiles", tiles)):
            if value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1")
        smallest = max(tile, WINDOW)
        if crop < smallest:
            raise ValueError(f"crop={crop}: with tile={tile} a side of at least {smallest} is needed")
        if not 1 <= stride <= tile:
            raise ValueError(f"stride={stride} with tile={tile}: a stride of 1 to {tile} leaves no gaps between tiles")
        if loss not in (*LOSSES, LOG, BY_NOISE):
            raise ValueError(f"loss={loss!r}: choose squared or smooth-l1, {LOG} or {BY_NOISE}")
        self.schedule = NoiseSchedule(schedule_steps) if sigma is None else AdditiveNoise()
        if loss == BY_NOISE and sigma is not None and 0 in _tenths("sigma", sigma):
            raise ValueError(f"loss={loss!r}, sigma={sigma}: an error is divided by the noise's deviation, so let it be above 0")
        if sigma is not None and (noise_std, noise_step) != (None, 99):
            raise ValueError(f"sigma={sigma}, noise_step={noise_step}, noise_std={noise_std}: each says the noise, so pass one")
        if sigma is None and judged_sigma is not None:
            raise ValueError(f"judged_sigma={judged_sigma}: it is additive noise, so pass sigma, too")
        if noise_std is not None:
            noise_step = self.schedule.step_of(noise_std)
        self.noise_step = _pair(noise_step, schedule_steps) if sigma is None else _tenths("sigma", sigma)
        self.judged_step = self.noise_step[1] if judged_sigma is None else _tenths("judged_sigma", judged_sigma)[1]
        self.tile, self.channels, self.tiles, self.crop, self.stride = tile, channels, tiles, crop, stride
        self.loss, self.seed = loss, seed
        hub: dict[str, Any] = {"column": column, "hub_split": hub_split, "config": config}
        how: dict[str, Any] = {"channels": channels, "smallest": smallest, "strict": strict, "seed": seed}
        self.source = source if isinstance(source, str) else list(source)
        self.named = source if isinstance(source, str) else " and ".join(source)
        self._read = partial(photographs, source, **how, **hub)
        self.spec = {"image_size": tile, "channels": channels}
        if sigma is not None or self.noise_step[0] < self.noise_step[1]:
            self.spec["strongest"] = self.noise_std[1]
        if sigma is None and self.noise_step[0] < self.noise_step[1]:
            self.spec["deviations"] = tuple(self.schedule.std.tolist())
        if learned is None:
            _ = self.photographs  # what cannot be read is refused now

    @cached_property
    def reads(self) -> str:  # type: ignore[override]
        """Which data are read."""
        counts = ", ".join(f"{len(listed)} {split}" for split, listed in self.photographs.items())
        return f"{sum(map(len, self.photographs.values()))} photographs of {self.named} ({counts})"

    @cached_property
    def photographs(self) -> dict[str, list[Photograph]]:
        """The photographs of each split."""
        return self._read()

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        """Hashes the pixels of all photographs, by split; their names do not count."""
        return digest_of([photo.pixels for listed in self.photographs.values() for photo in listed])

    @property
    def noise_std(self) -> tuple[float, float]:
        """Returns the lowest and highest standard deviation of the training noise."""
        low, high = (self.schedule.std[step].item() for step in self.noise_step)
        return low, high

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader of `Batch`es (batch_size, C, tile, tile).

        Training tiles depend on `seed` alone, and their last batch is left out where it is short
        (unless it is the only one). Other splits are the tiles, side by side, of what `held_out`
        returns: whole and in a fixed order.
        """
        training = split == "train"
        rows: Any = _Drawn(self, self._of(split)[0], seed) if training else RowsOf(self._held_tiles(split))
        return loader_of(rows, batch_size, training, seed, workers)

    def _held_tiles(self, split: str) -> Batch:
        """Cuts the tiles of held-out photographs, which lie side by side."""
        _, clean, seen = zip(*self.held_out(split), strict=True)
        tiles = torch.cat([_tiles(image, self.tile) for image in clean])
        noisy = torch.cat([_tiles(each.image[0], self.tile) for each in seen])
        return Batch(tiles, self.schedule.seen(noisy, seen[0].step.expand(len(tiles))))

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        """Starts from the noisy tiles; draws nothing."""
        return batch.context.image

    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        """Averages the loss over the event: y (*more, B, C, H, W) -> (*more, B)."""
        each = errors(y, batch.target, self.loss if self.loss in LOSSES else "squared")
        mean = each.flatten(y.ndim - batch.target.ndim + 1).mean(-1)
        if self.loss == BY_NOISE:
            return mean / self.schedule.std.to(mean)[batch.context.step]
        return (mean + LEAST).log() if self.loss == LOG else mean

    def held_out(self, split: str = "test", limit: int | None = None) -> list[tuple[str, Tensor, Noisy | AdditivelyNoisy]]:
        """Lists at most `limit` photographs: name, clean middle (C, h, w), noisy (1, C, h, w)."""
        check_limit(limit)
        found, step, corrupt = self._of(split)
        listed = []
        for name, pixels in found[:limit]:
            clean = _scaled(_middle(pixels, self.crop))
            steps, generator = torch.tensor([step]), stream(self.seed, "noise", split, name)
            if corrupt is None:
                seen = self.schedule.noised(clean[None], steps, randn_like(clean[None], generator))
            else:
                seen = corrupt(clean, generator)[None]
            listed.append((name, clean, self.schedule.seen(seen, steps)))
        return listed

    def level(self, step: int) -> tuple[float, float]:
        """Returns the standard deviation of a step's noise, and the factor of the picture."""
        return self.schedule.std[step].item(), self.schedule.signal[step].item()

    def examples(self, side: int = 128) -> list[tuple[Tensor, Noisy | AdditivelyNoisy]]:
        """Lists middles of at most 16 training photographs, clean and noisy, to tune a denoiser on."""
        held = self.held_out("train", EXAMPLES)
        return [(_middle(clean, side), seen._replace(image=_middle(seen.image[0], side)[None])) for _, clean, seen in held]

    def predictions(
        self, predictor: Predictor, split: str, limit: int | None = None, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Batch, Prediction]]:
        """Restores photographs one at a time, from overlapping tiles or by a `Denoiser`.

        A `Denoiser` is told the noise's deviation; of other kinds than Gaussian, the training
        noise's. FloatingPointError where a restored photograph or its energy is not finite.
        """
        device = torch.device("cpu") if generator is None else generator.device
        for (name, clean, seen), own in own_parts(self.held_out(split, limit), generator):
            step = int(seen.step)
            if isinstance(predictor, Denoiser):
                std, signal = self.level(step)
                known = predictor.denoise(seen.image[0], std, 1.0 if split in CORRUPTIONS else signal)
                found = Restored(known.to(device), None, 0, None, None)
            else:
                found = restore_picture(self, predictor, seen.image[0].to(device), step, generator=own)
            if not (bool(found.image.isfinite().all()) and math.isfinite(found.energy or 0.0)):
                raise FloatingPointError(
                    f"{name!r} of split {split!r}: the restored photograph or its energy ({found.energy}) is not finite: "
                    f"lower step_size, clip gradients, or check the weights"
                )
            energy, steps = (None if x is None else torch.tensor([x], dtype=torch.float64) for x in (found.energy, found.steps))
            prediction = Considered(found.image[None], energy, found.evaluations)
            if steps is not None:
                prediction.steps = steps
            yield Batch(clean[None], seen).to(device), prediction

    def scores(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Scores how near a restored photograph comes to the clean one, both clamped to [-1, 1].

        `evaluate` reports means over photographs: `psnr` (decibels), `ssim`, `mse`; `noisy_psnr`,
        of the noisy ones; `lpips`, where its AlexNet is on this machine; `energy` of a tile and
        `steps` that moved it, where the predictor has them; and `evaluations`, forward passes per
        tile.
        """
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        clean, restored, noisy = (image.clamp(-1, 1) for image in (batch.target, prediction.y, batch.context.image))
        found: dict[str, Any] = {
            "psnr": peak_signal_noise_ratio(restored, clean, data_range=2.0),
            "ssim": structural_similarity_index_measure(restored, clean, data_range=2.0),
            "mse": F.mse_loss(restored, clean),
            "noisy_psnr": peak_signal_noise_ratio(noisy, clean, data_range=2.0),
        }
        if _has_lpips():
            found["lpips"] = _lpips().to(clean.device)(*(image.float().expand(-1, 3, -1, -1) for image in (restored, clean)))
        return {name: value.reshape(1) for name, value in found.items()}

    def draw_samples(self, samples: Tensor) -> bytes:
        """Draws predictions for the first test tiles as a PNG, between noisy and clean tiles."""
        batch = next(iter(self.loader("test", len(samples))))
        rows = torch.arange(len(samples)) % len(batch.target)
        kinds = {"noisy": batch.context.image[rows], "denoised": samples, "clean": batch.target[rows]}
        with figure_of(9.6, 3.5) as (figure, png):
            for axes, (title, images) in zip(figure.subplots(1, len(kinds)), kinds.items(), strict=True):
                grid(axes, images, -1, 1)
                axes.set_title(title)
        return png.getvalue()

    def _of(self, split: str) -> tuple[list[Photograph], int, Callable[..., Tensor] | None]:
        """Finds a split's photographs, its noise's step, and what else corrupts them."""
        step = self.judged_step
        if (levels := re.fullmatch(r"sigma-(\d+(?:\.\d)?)", split)) and isinstance(self.schedule, AdditiveNoise):
            step = _tenths(f"split {split!r}", float(levels[1]))[1]
        elif numbered := re.fullmatch(r"step-(\d+)", split):
            step = int(numbered[1])
            if step >= self.schedule.steps:
                raise ValueError(f"split {split!r}: the schedule has step-0 to step-{self.schedule.steps - 1}")
        elif split not in (*SPLITS, *CORRUPTIONS):
            raise ValueError(f"unknown split {split!r}: {nearest(split, [*SPLITS, *CORRUPTIONS, 'step-N'])}")
        found = self.photographs[split if split in SPLITS else "test"]
        if not found:
            held = {name: len(listed) for name, listed in self.photographs.items()}
            raise ValueError(f"split {split!r} is empty, the photographs are {held}: another source has some in each split")
        return found, step, CORRUPTIONS.get(split)


class _Drawn(Dataset[Batch]):
    """Draws training tiles by the batch: each is a function of the seed and its index."""

    by_index = True

    def __init__(self, task: Denoising, found: list[Photograph], seed: int) -> None:
        self.pixels, self.seed, self.tile, self.tiles = [photo.pixels for photo in found], seed, task.tile, task.tiles
        self.schedule, self.noise_step = task.schedule, task.noise_step
        self.chances = list(accumulate((image.shape[1] * image.shape[2]) ** 0.5 for image in self.pixels))

    def __len__(self) -> int:
        return self.tiles

    def __getitem__(self, indices: Any) -> Batch:
        cut, steps = [], []
        noise = torch.empty(len(indices), len(self.pixels[0]), self.tile, self.tile)
        low, high = self.noise_step
        for index, own in zip(indices, noise, strict=True):
            generator = stream(self.seed, "tile", int(index))
            which, top, left, over, along, across, step = torch.rand(DRAWN, generator=generator, dtype=torch.float64).tolist()
            own.normal_(generator=generator)
            image = self.pixels[bisect(self.chances, which * self.chances[-1])]
            top, left = (int(place * (size - self.tile + 1)) for place, size in zip((top, left), image.shape[1:], strict=True))
            tile = image[:, top : top + self.tile, left : left + self.tile]
            tile = tile.mT if across < 0.5 else tile
            if flips := [axis for axis, number in ((1, over), (2, along)) if number < 0.5]:
                tile = tile.flip(flips)
            cut.append(tile)
            steps.append(low + int(step * (high - low + 1)))
        clean, step = _scaled(torch.stack(cut)), torch.tensor(steps)
        return Batch(clean, self.schedule.seen(self.schedule.noised(clean, step, noise.to(clean)), step))

    __getitems__ = __getitem__  # what torch's loader calls with all indices of a batch


def _pair(noise_step: int | Sequence[int], steps: int) -> tuple[int, int]:
    pair = (noise_step, noise_step) if isinstance(noise_step, int) else tuple(noise_step)
    if len(pair) != 2 or not all(type(step) is int for step in pair) or not 0 <= pair[0] <= pair[1] < steps:
        raise ValueError(f"noise_step={noise_step!r}: pass a step from 0 to {steps - 1}, or a pair (low, high) of them")
    return pair[0], pair[1]


def _tenths(name: str, sigma: float | Sequence[float]) -> tuple[int, int]:
    """Reads additive noise in grey levels of 255, or a pair, as steps of `AdditiveNoise`."""
    pair = (sigma, sigma) if isinstance(sigma, int | float) else tuple(sigma)
    numbers = len(pair) == 2 and all(isinstance(each, int | float) for each in pair)
    if (
        not numbers
        or not 0 <= pair[0] <= pair[1] <= 255
        or any(abs(TENTHS * each - round(TENTHS * each)) > 1e-6 for each in pair)
    ):
        raise ValueError(f"{name}={sigma!r}: pass grey levels from 0 to 255, to a tenth, or a pair (low, high) of them")
    return round(TENTHS * pair[0]), round(TENTHS * pair[1])


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.to(torch.get_default_dtype()) / 127.5 - 1


def _middle(image: Tensor, side: int) -> Tensor:
    """Cuts out the middle of a picture (C, H, W), of at most so many pixels a side."""
    for axis in (1, 2):
        length = min(side, image.shape[axis])
        image = image.narrow(axis, (image.shape[axis] - length) // 2, length)
    return image


def _tiles(image: Tensor, side: int) -> Tensor:
    """Cuts a picture (C, H, W) into tiles side by side (tiles, C, side, side), without its rest."""
    return image.unfold(1, side, side).unfold(2, side, side).movedim(0, 2).flatten(0, 1)


def _has_lpips() -> bool:
    """Tells whether this machine has the AlexNet of LPIPS, which is never downloaded."""
    from torchvision.models import AlexNet_Weights

    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name).is_file()


@cache
def _lpips() -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity("alex")
