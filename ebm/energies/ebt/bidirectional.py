"""The bidirectional Energy-Based Transformer: patches of an image that all see each other."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ebm.energies.ebt.blocks import modulate
from ebm.energies.ebt.sizes import size_of
from ebm.energies.unconditional import Unconditional

__all__ = ["ImageEBT"]

EPSILON = 1e-6  # of every LayerNorm, as in DiT


class ImageEBT(Unconditional):
    """Scores images with a diffusion transformer's blocks: E(y) is the mean over patches of a linear head's output.

    Blocks are modulated by one learned vector (adaLN-zero), so that all energies are 0 at first. Position is fixed, sines and
    cosines of rows and columns. Attention takes torch's plain kernel: fused ones have no second derivative.

    Arguments:
        image_size: the side of a square image, or (height, width).
        patch_size: the side of a patch, which divides them.
        channels: C.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a patch's token, divisible by 4.
        depth: how many blocks there are.
        heads: attention heads in a block.
        mlp_ratio: the hidden width of a block's MLP, over dim.

    Source: DiT (Peebles and Xie, 2023); arXiv 2507.02092, section 4.3.

    Raises:
        ValueError: for sizes that cannot work, and (at the call) a y of another shape.
        ImportError: timm is not installed.

    >>> import torch
    >>> ImageEBT(image_size=8, patch_size=4, channels=3, dim=8, depth=1, heads=2)(torch.randn(5, 3, 8, 8))
    tensor([0., 0., 0., 0., 0.], grad_fn=<ViewBackward0>)
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
    ) -> None:
        super().__init__()
        try:
            from timm.layers import Mlp, PatchEmbed
            from timm.layers.attention import Attention
        except ImportError as error:
            raise ImportError("ImageEBT is made of timm's blocks: pip install 'ebm-toolkit[recipes]'") from error
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        shape = size_of(size, dim, depth, heads)
        if min(height, width, patch_size, channels) < 1 or height % patch_size or width % patch_size or shape.dim % 4:
            raise ValueError(
                f"ImageEBT(image_size={image_size}, patch_size={patch_size}, channels={channels}, dim={shape.dim}): "
                f"patches tile the image, and 4 divides dim"
            )
        self.event, width_of = (channels, height, width), shape.dim
        self.positions: Tensor
        self.patches = PatchEmbed(None, patch_size, channels, width_of, strict_img_size=False)
        self.register_buffer("positions", positions(height // patch_size, width // patch_size, width_of), persistent=False)
        self.condition = nn.Parameter(torch.randn(1, width_of))
        hidden, gelu = int(width_of * mlp_ratio), partial(nn.GELU, approximate="tanh")
        self.attentions = nn.ModuleList(Attention(width_of, shape.heads, qkv_bias=True) for _ in range(shape.depth))
        self.mlps = nn.ModuleList(Mlp(width_of, hidden, act_layer=gelu) for _ in range(shape.depth))  # type: ignore[arg-type]
        self.modulations = nn.ModuleList(nn.Linear(width_of, 6 * width_of) for _ in range(shape.depth))
        self.final_modulation = nn.Linear(width_of, 2 * width_of)
        self.head = nn.Linear(width_of, 1, bias=False)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(part.weight.flatten(1))
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        for part in (*self.modulations, self.final_modulation, self.head):
            nn.init.zeros_(part.weight)

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        """Maps y (*chains, C, H, W) to energies (*chains,)."""
        if y.shape[-3:] != self.event:
            raise ValueError(f"y has shape {tuple(y.shape)}, but this ImageEBT scores images (*chains, {self.event})")
        chains, condition = y.shape[:-3], F.silu(self.condition[0])
        x = self.patches(y.reshape(-1, *self.event)) + self.positions
        for attention, mlp, modulation in zip(self.attentions, self.mlps, self.modulations, strict=True):
            shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation(condition).chunk(6, -1)
            with sdpa_kernel(SDPBackend.MATH):
                x = x + gate * attention(modulate(normalised(x), shift, scale))
            x = x + gate_mlp * mlp(modulate(normalised(x), shift_mlp, scale_mlp))
        x = modulate(normalised(x), *self.final_modulation(condition).chunk(2, -1))
        return (x * self.head.weight[0]).sum(-1).mean(-1).reshape(chains)


def normalised(x: Tensor) -> Tensor:
    """Normalises features to mean 0 and variance 1."""
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


def positions(rows: int, columns: int, dim: int) -> Tensor:
    """Computes sines and cosines (rows * columns, dim) of patch positions: the first half by column, the second by row.

    >>> positions(2, 3, 8).shape
    torch.Size([6, 8])
    """
    frequencies = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.stack([column, row]).flatten(1)[..., None] * frequencies
    return rearrange(torch.stack([angles.sin(), angles.cos()]), "wave side place f -> place (side wave f)").float()
