"""The convolutional network as an energy of images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalise

from ebm.interfaces import Unconditional


def strided(
    channels: int, image_size: int | tuple[int, int], width: int, outputs: int, spectral_norm: bool = False
) -> nn.Sequential:
    """Makes `ConvEnergy`'s network: images (rows, C, H, W) to (rows, outputs)."""
    height, length = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(channels, width, outputs) < 1 or min(height, length) < 4:
        raise ValueError(
            f"channels={channels}, image_size={image_size}, width={width}, outputs={outputs}: "
            f"pass at least 1 channel, images of at least 4 x 4, and a width and outputs of at least 1"
        )
    wrap = normalise if spectral_norm else lambda layer: layer
    layers: list[nn.Module] = []
    before, after = channels, width
    while min(height, length) > 3:
        layers += [wrap(nn.Conv2d(before, after, 4, stride=2, padding=1)), nn.SiLU()]
        height, length = height // 2, length // 2
        before, after = after, min(2 * after, 4 * width)
    layers += [nn.Flatten(), wrap(nn.Linear(before * height * length, 4 * width)), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(4 * width, outputs, bias=False))


class ConvEnergy(Unconditional):
    """Scores images with strided convolutions: E(y) = wᵀ h(y), h smooth.

    Each convolution (4 x 4, stride 2) halves the sides and doubles the channels, to at most four
    times `width`, until the shorter side is 2 or 3. One hidden layer and a head without bias (a
    constant gets no gradient) follow. The stride divides the kernel, so that every pixel is covered
    equally often: else ∇E, and samples, would show a checkerboard. There is no batch norm, because
    chains must not see each other. SiLU is smooth, because training differentiates ∇E.

    Arguments:
        channels: C.
        image_size: the side of a square image, or (height, width).
        width: channels after the first convolution.
        spectral_norm: divides every kernel but the head's by its largest singular value (Miyato et
            al., 2018, equation 8), estimated by one step of power iteration per forward in train
            mode. That bounds how steep h is, and leaves the scale to the head.

    Raises:
        ValueError: for sizes too small, and (at the call) images of another shape.

    >>> ConvEnergy(channels=1, image_size=8, width=8)(torch.zeros(5, 3, 1, 8, 8)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self, channels: int = 1, image_size: int | tuple[int, int] = 28, width: int = 32, spectral_norm: bool = False
    ) -> None:
        super().__init__()
        height, length = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.event = (channels, height, length)
        self.layers = strided(channels, image_size, width, 1, spectral_norm)

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        if y.shape[-3:] != self.event:
            wanted = f"images (*chains, {', '.join(map(str, self.event))}): check channels and image_size"
            raise ValueError(f"y has shape {tuple(y.shape)}, but this ConvEnergy scores {wanted}")
        return self.layers(y.reshape(-1, *self.event)).reshape(y.shape[:-3])
