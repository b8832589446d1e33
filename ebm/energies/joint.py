"""The joint classifier: one network as a classifier and as an energy of inputs with labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ebm.energies.conv import strided
from ebm.interfaces import Energy, plainly

WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class JointClassifier(Energy):
    """Reads a classifier's logits f(y) as the energy of a joint density, p(y, c) ∝ exp(f(y)[c]):

        E(y, c) = −f(y)[c],    E(y) = −log Σ_c exp(f(y)[c]),    p(c | y) = softmax(f(y))[c].

    With labels as the context it scores inputs of that label, from which samples of a class are
    drawn. Without a context it scores all inputs, which tells inputs from outliers. The network has
    no batch statistics, because chains must not see each other. Source: Your classifier is secretly
    an energy based model and you should treat it like one (Grathwohl et al., 2020), section 4.

    Arguments:
        network: maps (rows, *event) to logits (rows, classes); smooth: chains follow its gradient.
        event: an input's shape, or how many axes it has: 3 for images (C, H, W), 1 for vectors.

    Raises:
        ValueError: for an event without axes, and (at the call) inputs of another shape, and labels
            that are not whole numbers, one for every row.

    >>> energy = JointClassifier(nn.Linear(2, 3), event=1)
    >>> y, labels = torch.randn(5, 2), torch.tensor([0, 1, 2, 0, 1])
    >>> energy(y).shape, energy.given(labels)(y).shape, energy.logits(y).shape
    (torch.Size([5]), torch.Size([5]), torch.Size([5, 3]))
    """

    def __init__(self, network: nn.Module, event: int | tuple[int, ...] = 3) -> None:
        super().__init__()
        self.shape = None if isinstance(event, int) else tuple(event)
        self.event = event if isinstance(event, int) else len(event)
        if self.event < 1:
            raise ValueError(f"JointClassifier(event={event}): an input has at least one axis, 3 for images and 1 for vectors")
        self.network = network

    def encode(self, context: Any = None, level: int = -1) -> Tensor | None:
        """Checks the labels (rows,), which are the code; None stands for all of them."""
        if context is not None and not (isinstance(context, Tensor) and context.dtype in WHOLE):
            kind = context.dtype if isinstance(context, Tensor) else type(context).__name__
            raise ValueError(f"the context is {kind}: pass labels as a tensor of whole numbers (rows,), or None for all of them")
        return None if context is None else context.long()

    def forward(self, y: Tensor, code: Tensor | None = None) -> Tensor:
        """Maps y (*chains, *event) to energies (*chains,); labels may lack leading axes of y."""
        logits = self.logits(y)
        if code is None:
            return -logits.logsumexp(-1)
        chains = logits.shape[:-1]
        if code.shape != chains[len(chains) - code.ndim :]:
            raise ValueError(f"labels {tuple(code.shape)} for chains {tuple(chains)}: pass one label for every row")
        return -logits.gather(-1, code.expand(chains)[..., None])[..., 0]

    def logits(self, y: Tensor) -> Tensor:
        """Computes f(y) (*chains, classes)."""
        chains = y.shape[: y.ndim - self.event]
        if y.ndim < self.event or self.shape not in (None, tuple(y.shape[len(chains) :])):
            raise ValueError(f"y has shape {tuple(y.shape)}, but inputs are (*chains, *event), event {self.shape or self.event}")
        logits = self.network(y.reshape(-1, *y.shape[len(chains) :]))
        return logits.reshape(*chains, logits.shape[-1])


@plainly
def joint_conv(
    channels: int = 1, image_size: int | tuple[int, int] = 28, width: int = 32, classes: int = 10, spectral_norm: bool = False
) -> JointClassifier:
    """Makes a joint classifier of images from the strided convolutions of `ConvEnergy`.

    Arguments:
        channels: C.
        image_size: the side of a square image, or (height, width).
        width: channels after the first convolution.
        classes: how many labels there are.
        spectral_norm: divides every kernel but the head's by its largest singular value.

    >>> joint_conv(image_size=8, width=4).logits(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    height, length = (image_size, image_size) if isinstance(image_size, int) else image_size
    return JointClassifier(strided(channels, image_size, width, classes, spectral_norm), event=(channels, height, length))
