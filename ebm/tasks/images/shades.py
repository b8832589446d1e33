"""How the numbers of a picture become what a model sees, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from ebm.tasks.images.files import Picture

GREY = (0.299, 0.587, 0.114)  # shares of red, green and blue (ITU-R BT.601), as Pillow has them


class Shades:
    """How a picture's numbers become what a model sees, and back: greys stay grey.

    Arguments:
        picture: whose numbers they are.
        channels: that the model takes: 1 (greys) or 3 (colours).
        device: where the model is.
        takes_greys: whether a model of colours takes one channel of greys, too.

    >>> import numpy as np
    >>> shades = Shades(Picture(np.full((1, 1, 1), 255, np.uint8)), 3, torch.device("cpu"))
    >>> shades.decode(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)).flatten()
    tensor([1., 1., 1.])
    """

    def __init__(self, picture: Picture, channels: int, device: torch.device, takes_greys: bool = False) -> None:
        self.white, self.channels, self.device = picture.white, channels, device
        self.dtype = torch.from_numpy(picture.pixels[:0].copy()).dtype
        self.own, self.low, self.high = picture.pixels.shape[-1], 0.0, min(picture.white, picture.full)
        if self.dtype.is_floating_point:  # whose file may go beyond
            self.low, self.high = min(0.0, float(picture.pixels.min())), max(picture.white, float(picture.pixels.max()))
        self.grey = picture.is_grey()
        self.seen = 1 if self.grey and takes_greys else channels

    @property
    def loses_colours(self) -> bool:
        """Tells whether the picture has colours that the model does not know."""
        return self.channels == 1 and not self.grey

    def scaled(self, held: Tensor) -> Tensor:
        """Maps pixels (n, C, H, W) to [-1, 1]: one channel of greys, or the model's."""
        y = held[:, :1] if self.grey else held
        y = y.to(self.device, torch.float32).mul(2 / self.white).sub_(1)  # mul: the picture stays what it is
        if not self.grey and self.channels == 1:
            y = torch.einsum("nchw,c->nhw", y, y.new_tensor(GREY))[:, None]
        return y

    def expand(self, y: Tensor) -> Tensor:
        """Gives a model as many channels as it takes."""
        return y.to(self.device, torch.float32).expand(-1, self.seen, -1, -1)

    def decode(self, held: Tensor) -> Tensor:
        """Maps pixels (n, C, H, W) to what a model sees."""
        return self.expand(self.scaled(held))

    def encode(self, y: Tensor) -> Tensor:
        """Maps what a model says (C, rows, W) to pixels; what lies outside is cut off."""
        if self.grey:
            y = y.mean(0, keepdim=True)
        if self.grey and self.channels > 1:
            y = y.expand(self.own, -1, -1)
        if not bool(y.isfinite().all()):
            raise FloatingPointError("the restored picture is not finite: fewer --steps, or another run")
        y = y.add(1).mul_(self.white / 2).clamp_(self.low, self.high).cpu()
        return y if self.dtype.is_floating_point else y.round_().to(self.dtype)
