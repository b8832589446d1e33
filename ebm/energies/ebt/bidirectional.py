"""The bidirectional Energy-Based Transformers: an image's energy is the mean of its patches'."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from ebm.energies.ebt.patches import Code, Condition, PatchStream
from ebm.energies.ebt.products import along
from ebm.energies.ebt.sizes import size_of


class BidirectionalEBT(PatchStream):
    """Scores images by the mean of patch energies. Write `patch_energies`."""

    def patch_energies(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps y (*chains, C, H, W) to its patches' energies (*chains, rows, columns)."""
        raise NotImplementedError(f"{type(self).__name__} must define patch_energies(y, code=None)")

    def forward(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps y (*chains, C, H, W) to energies (*chains,)."""
        return self.patch_energies(y, code).mean((-2, -1))


class ImageEBT(BidirectionalEBT):
    """Scores images with a diffusion transformer's blocks: E is the mean of a head over patches.

    Blocks are modulated by a condition (adaLN-zero), by default one learned vector, so that all
    energies are 0 at first. Position is fixed, sines and cosines of rows and columns. Attention is
    written out: fused kernels have no second derivative.

    Arguments:
        image_size: the side of a square image, or (height, width).
        patch_size: the side of a patch, which divides them.
        channels: C.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a patch's token, divisible by 4.
        depth: how many blocks there are.
        heads: attention heads in a block.
        mlp_ratio: the hidden width of a block's MLP, over dim.
        condition: "learned" (one vector), "none", "class" (the context is labels (B,)) or
            "embedding" (B, condition_size).
        condition_size: how many classes there are, or how wide an embedding is.

    Source: arXiv 2507.02092v1, section 4.3; DiT (Peebles and Xie, 2023).

    Raises:
        ValueError: for sizes that cannot work, and (at the call) a y of another shape or a missing
            condition.

    >>> import torch
    >>> energy = ImageEBT(image_size=8, patch_size=4, channels=3, dim=8, depth=1, heads=2)
    >>> energy(torch.randn(5, 3, 8, 8)), energy.patch_energies(torch.randn(5, 3, 8, 8)).shape
    (tensor([0., 0., 0., 0., 0.], grad_fn=<MeanBackward1>), torch.Size([5, 2, 2]))
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 32,
        patch_size: int = 4,
        channels: int = 3,
        size: str | None = None,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 1.0,
        condition: Condition = "learned",
        condition_size: int | None = None,
    ) -> None:
        shape = size_of(size, dim, depth, heads)
        super().__init__(image_size, patch_size, channels, shape, mlp_ratio, condition, condition_size)
        self.head = nn.Linear(shape.dim, 1, bias=False)
        self.initialise()
        nn.init.zeros_(self.head.weight)

    def patch_energies(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps y (*chains, C, H, W) to its patches' energies (*chains, rows, columns)."""
        tokens = self.consider(y, self.encode() if code is None else code)
        return along(tokens, self.head.weight[0]).unflatten(-1, self.grid)


class ResidualImageEBT(BidirectionalEBT):
    """Scores images by how far from clean a transformer N takes them to be.

        E(y) = mean over patches p of |y_p − N(y)_p|² / 2.

    A gradient step of size `patches` (how many there are, which undoes the mean) goes to N(y) +
    Jᵀ(y − N(y)), J = ∂N/∂y: to what a feed-forward denoiser predicts, and a correction that makes
    the field a gradient. So the energy starts where an `ImageEBT` has to learn to be. Errors are an
    `ImageEBT`'s.

    Arguments:
        image_size: the side of a square image, or (height, width).
        patch_size: the side of a patch, which divides them.
        channels: C.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a patch's token, divisible by 4.
        depth: how many blocks there are.
        heads: attention heads in a block.
        mlp_ratio: the hidden width of a block's MLP, over dim.
        condition: "none", "learned" (one vector), "class" (the context is labels (B,)) or
            "embedding" (B, condition_size).
        condition_size: how many classes there are, or how wide an embedding is.

    Source: Gradient step denoiser for convergent plug-and-play (Hurault, Leclaire and Papadakis,
    2022).

    >>> import torch
    >>> energy = ResidualImageEBT(image_size=8, patch_size=4, channels=3, dim=8, depth=1, heads=2)
    >>> y = torch.ones(1, 3, 8, 8)
    >>> energy(y), energy.natural_step    # N is 0 at first: half of a patch's 48 ones
    (tensor([24.], grad_fn=<MeanBackward1>), 4)
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 32,
        patch_size: int = 4,
        channels: int = 3,
        size: str | None = None,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 1.0,
        condition: Condition = "none",
        condition_size: int | None = None,
    ) -> None:
        shape = size_of(size, dim, depth, heads)
        super().__init__(image_size, patch_size, channels, shape, mlp_ratio, condition, condition_size)
        self.head = nn.Linear(shape.dim, channels * patch_size**2, bias=False)
        self.initialise()
        nn.init.zeros_(self.head.weight)

    @property
    def natural_step(self) -> int:
        """Counts the patches: the step size at which one gradient step denoises."""
        return self.grid[0] * self.grid[1]

    def patch_energies(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps y (*chains, C, H, W) to its patches' energies (*chains, rows, columns)."""
        clean = self.head(self.consider(y, self.encode() if code is None else code))
        side = self.patch_size
        given = rearrange(y, "... c (h p) (w q) -> ... (h w) (c p q)", p=side, q=side)
        return (given - clean).square().sum(-1).unflatten(-1, self.grid) / 2
