"""Corruptions of pictures that a denoiser was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import torch
from torch import Tensor

from ebm.randomness import randn_like


def salt_and_pepper(image: Tensor, generator: torch.Generator | None = None, *, share: float = 0.1) -> Tensor:
    """Sets a share of a picture's pixels (C, H, W) to black or white, in all channels alike.

    >>> salt_and_pepper(torch.zeros(3, 4, 4), share=1.0).abs().unique()
    tensor([1.])
    """
    drawn = torch.rand(image.shape[-2:], generator=generator, dtype=image.dtype, device=image.device)
    extreme = torch.where(drawn < share / 2, -torch.ones_like(drawn), 1.0)
    return torch.where(drawn < share, extreme, image)


def speckle(image: Tensor, generator: torch.Generator | None = None, *, std: float = 0.3) -> Tensor:
    """Multiplies the brightness of a picture (C, H, W), black being 0, by 1 + std * noise.

    >>> speckle(-torch.ones(1, 1, 2))
    tensor([[[-1., -1.]]])
    """
    return image + (image + 1) * std * randn_like(image, generator)


def jpeg(image: Tensor, generator: torch.Generator | None = None, *, quality: int = 10) -> Tensor:
    """Compresses a picture (C, H, W) in [-1, 1], of 1 or 3 channels, as JPEG does."""
    import numpy as np
    from PIL import Image

    pixels = ((image + 1) * 127.5).round().clamp(0, 255).byte().cpu().movedim(0, -1).numpy()
    file = BytesIO()
    Image.fromarray(pixels.squeeze(-1) if len(image) == 1 else pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as compressed:
        read = torch.from_numpy(np.array(compressed)).reshape(pixels.shape).movedim(-1, 0)
    return read.to(image) / 127.5 - 1


# name -> what makes a corrupted picture of a clean one (C, H, W), and of a generator
CORRUPTIONS: dict[str, Callable[..., Tensor]] = {"salt-and-pepper": salt_and_pepper, "speckle": speckle, "jpeg": jpeg}
