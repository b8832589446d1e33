"""Classical denoisers, which train nothing and are told how strong the noise is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ebm.interfaces import Batch, Prediction
from ebm.registry import check_keywords
from ebm.words import nearest

Method = Literal["total-variation", "wavelet", "bilateral", "non-local-means", "bm3d"]


def _channels(x: np.ndarray) -> int | None:
    """Names the axis of colours of a picture (H, W, C), or none of one in greys (H, W)."""
    return -1 if x.ndim == 3 else None


def _total_variation(x: np.ndarray, std: float, weight: float = 0.9) -> np.ndarray:
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(x, weight=weight * std, eps=1e-5, channel_axis=_channels(x))


def _wavelet(
    x: np.ndarray,
    std: float,
    sigma: float = 1.0,
    method: str = "BayesShrink",
    convert2ycbcr: bool = True,
    wavelet: str = "db2",
    clip: bool = False,
) -> np.ndarray:
    from skimage.restoration import denoise_wavelet

    x, convert2ycbcr = np.clip(x, 0, 1) if clip else x, convert2ycbcr and x.shape[2:] == (3,)
    options: dict[str, Any] = {"method": method, "convert2ycbcr": convert2ycbcr, "wavelet": wavelet, "channel_axis": _channels(x)}
    # Colours and noise are rescaled to [0, 1] in between: what is not clipped must fit.
    low, width = float(x.min()), max(float(np.ptp(x)), 1e-6)
    found = denoise_wavelet((x - low) / width, sigma=sigma * std / width, rescale_sigma=True, **options)
    return found * width + low


def _bilateral(x: np.ndarray, std: float, sigma_color: float = 0.7, sigma_spatial: float = 2.0, clip: bool = False) -> np.ndarray:
    from skimage.restoration import denoise_bilateral

    x = np.clip(x, 0, 1) if clip else x
    low = float(x.min())
    options: dict[str, Any] = {"sigma_color": sigma_color * std, "sigma_spatial": sigma_spatial, "mode": "reflect"}
    return denoise_bilateral(x - low, **options, channel_axis=_channels(x)) + low


def _non_local_means(
    x: np.ndarray, std: float, h: float = 0.6, patch_size: int = 7, patch_distance: int = 9, fast_mode: bool = False
) -> np.ndarray:
    from skimage.restoration import denoise_nl_means

    options: dict[str, Any] = {"patch_size": patch_size, "patch_distance": patch_distance, "fast_mode": fast_mode}
    return denoise_nl_means(x, h=h * std, sigma=std, **options, channel_axis=_channels(x))


def _bm3d(x: np.ndarray, std: float, sigma: float = 1.0) -> np.ndarray:
    try:
        from bm3d import bm3d, bm3d_rgb
    except ImportError as error:
        raise ImportError("BM3D is not installed, and is free for non-commercial use only: pip install bm3d") from error
    return (bm3d_rgb if x.shape[2:] == (3,) else bm3d)(x, sigma * std)


METHODS: dict[Method, Callable[..., np.ndarray]] = {
    "total-variation": _total_variation,
    "wavelet": _wavelet,
    "bilateral": _bilateral,
    "non-local-means": _non_local_means,
    "bm3d": _bm3d,
}

# What `tuned` tries: every combination. Weight, sigma_color and h are multiples of std.
GRIDS: dict[Method, dict[str, Sequence[Any]]] = {
    "total-variation": {"weight": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)},
    "wavelet": {
        "sigma": (0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2),
        "method": ("BayesShrink", "VisuShrink"),
        "convert2ycbcr": (False, True),
        "wavelet": ("db2", "sym4"),
    },
    "bilateral": {"sigma_color": (0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.5), "sigma_spatial": (1.0, 1.5, 2.0, 3.0, 4.0)},
    "non-local-means": {
        "h": (0.5, 0.6, 0.85),  # fast at 0.5 and 0.6; else colours at 0.6, greys at 0.85
        "patch_size": (5, 7),
        "patch_distance": (9,),  # 5 and 13 were worse on the bundled photographs
        "fast_mode": (False, True),
    },
    "bm3d": {"sigma": (0.8, 0.9, 1.0, 1.1, 1.2)},
}


@dataclass(frozen=True, init=False)
class Classical:
    """Denoises pictures by a classical method that knows the noise's standard deviation.

    Arguments:
        method: total-variation, wavelet, bilateral, non-local-means (scikit-image's), or bm3d (the
            package of that name).
        settings: total-variation: weight. wavelet: sigma, method, convert2ycbcr, wavelet, clip.
            bilateral: sigma_color, sigma_spatial, clip. non-local-means: h, patch_size,
            patch_distance, fast_mode. bm3d: sigma. Here weight, sigma, sigma_color and h are
            multiples of the noise's std, and `clip` cuts the noisy picture to valid colours first.

    Source: Chambolle (2004); Chang, Yu and Vetterli (2000); Tomasi and Manduchi (1998); Buades,
    Coll and Morel (2005); Mäkinen, Azzari and Foi (2020).

    Raises:
        ValueError: an unknown method or setting (with the nearest known one).

    >>> noisy = torch.zeros(3, 32, 32) + 0.3 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> Classical("total-variation", weight=1.0).denoise(noisy, std=0.3).std() < 0.1
    tensor(True)
    """

    method: Method
    settings: Mapping[str, Any]

    def __init__(self, method: Method, /, **settings: Any) -> None:
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}: {nearest(method, METHODS)}")
        check_keywords(f"method {method!r}", partial(METHODS[method], None, 1.0), settings)
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "settings", settings)

    def denoise(self, image: Tensor, std: float, signal: float = 1.0) -> Tensor:
        """Estimates the clean picture (C, H, W) of image = signal * clean + std * noise.

        ValueError for another shape, and for a std or a signal that is not positive.
        """
        if image.ndim != 3:
            raise ValueError(f"image has shape {tuple(image.shape)}: pass one picture (C, H, W)")
        if not (std > 0 and signal > 0):
            raise ValueError(f"std={std} and signal={signal}: pass positive numbers")
        x = ((image.detach() / signal + 1) / 2).movedim(0, -1).cpu().numpy()
        y = METHODS[self.method](x[..., 0] if len(image) == 1 else x, std / signal / 2, **self.settings)
        found = torch.from_numpy(np.ascontiguousarray(y.reshape(x.shape))).to(image).movedim(-1, 0)
        return (found * 2 - 1).clamp(-1, 1).contiguous()


def tuned(method: Method, pairs: Sequence[tuple[Tensor, Tensor]], std: float, signal: float = 1.0) -> Classical:
    """Chooses settings from `GRIDS` by mean PSNR on pairs (clean, signal * clean + std * noise)."""
    if not pairs:
        raise ValueError(f"tuned({method!r}, pairs=[]): pass at least one (clean, noisy) pair")
    grid = GRIDS[Classical(method).method]
    choices = [Classical(method, **dict(zip(grid, values, strict=True))) for values in product(*grid.values())]

    def quality(choice: Classical) -> float:
        errors = (torch.mean((choice.denoise(noisy, std, signal) - clean) ** 2) for clean, noisy in pairs)
        return sum(-math.log(max(float(error), 1e-12)) for error in errors)

    return max(choices, key=quality)


@runtime_checkable
class Tunes(Protocol):
    """A task of noisy pictures that a denoiser can be tuned on."""

    def level(self, step: int) -> tuple[float, float]:
        """Returns the standard deviation of a step's noise, and the factor of the picture."""
        ...

    def examples(self) -> Sequence[tuple[Tensor, Any]]:
        """Lists clean training pictures (C, H, W), and their noisy `image` and its `step` (1,)."""
        ...


@dataclass(frozen=True)
class Tuned:
    """A classical denoiser as a predictor, of whole pictures and of tiles."""

    classical: Classical
    level: Callable[[int], tuple[float, float]]

    def denoise(self, image: Tensor, std: float, signal: float = 1.0) -> Tensor:
        return self.classical.denoise(image, std, signal)

    def predict(self, batch: Batch, start: Any = None, *, generator: torch.Generator | None = None) -> Prediction:
        """Denoises every picture of a batch (B, C, H, W), by the noise of its step."""
        seen = zip(batch.context.image, batch.context.step, strict=True)
        return Prediction(torch.stack([self.denoise(image, *self.level(int(step))) for image, step in seen]), None, 0)


def by_bilateral(task: Any) -> Tuned:
    """Denoises pictures by bilateral filters, tuned on the task's training pictures."""
    return _tuned_on(task, "bilateral")


def by_bm3d(task: Any) -> Tuned:
    """Denoises pictures by BM3D, tuned on the task's training pictures."""
    return _tuned_on(task, "bm3d")


def by_non_local_means(task: Any) -> Tuned:
    """Denoises pictures by non-local means, tuned on the task's training pictures."""
    return _tuned_on(task, "non-local-means")


def by_total_variation(task: Any) -> Tuned:
    """Denoises pictures by total variation, tuned on the task's training pictures."""
    return _tuned_on(task, "total-variation")


def by_wavelet(task: Any) -> Tuned:
    """Denoises pictures by wavelets, tuned on the task's training pictures."""
    return _tuned_on(task, "wavelet")


def _tuned_on(task: Any, method: Method) -> Tuned:
    """Makes the rival of a method: tunes it on a task's examples."""
    if not isinstance(task, Tunes):
        needed = f"the rival {method!r} needs a task with examples() and level(step), as Denoising has"
        raise ValueError(f"{type(task).__name__} has no noisy pictures: {needed}")
    examples = task.examples()
    noise = task.level(int(examples[0][1].step))
    return Tuned(tuned(method, [(clean, seen.image[0]) for clean, seen in examples], *noise), task.level)
