"""The stream of a bidirectional transformer: an image's patches all see each other."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ebm.energies.ebt.blocks import plus
from ebm.energies.ebt.kernels import gelu, heads
from ebm.energies.ebt.layer_norm import layer_norm
from ebm.energies.ebt.mutual import attend
from ebm.energies.ebt.products import Linear, linear
from ebm.energies.ebt.recomputing import Blockwise
from ebm.energies.ebt.sizes import Size
from ebm.interfaces import Energy

EPSILON = 1e-6  # of every LayerNorm, as in DiT
Condition: TypeAlias = Literal["none", "learned", "class", "embedding"]
Code: TypeAlias = list[Tensor]  # the modulations (6 D,) or (B, 1, 6 D) of each block, and the last one (2 D,) or (B, 1, 2 D)


class PatchStream(Blockwise, Energy):
    """Transforms an image's patches by a diffusion transformer's blocks: image energies' base.

    The condition is "none" (a block's six vectors are parameters of its own), "learned" (they are
    read from one learned vector), "class" (from a label's) or "embedding" (from a given vector's
    projection). It is encoded once for a trajectory.

    Arguments:
        image_size: the side of a square image, or (height, width).
        patch_size: the side of a patch, which divides them.
        channels: C.
        shape: depth, heads and the width D of a patch's token, divisible by 4.
        mlp_ratio: the hidden width of a block's MLP, over D.
        condition: what modulates the blocks.
        condition_size: how many classes there are, or how wide an embedding is.

    Source: DiT (Peebles and Xie, 2023).

    Raises:
        ValueError: for sizes that cannot work.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int,
        channels: int,
        shape: Size,
        mlp_ratio: float,
        condition: Condition,
        condition_size: int | None,
    ) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        dim = shape.dim
        if min(height, width, patch_size, channels) < 1 or height % patch_size or width % patch_size or dim % 4:
            raise ValueError(
                f"{type(self).__name__}(image_size={image_size}, patch_size={patch_size}, channels={channels}, dim={dim}): "
                f"patches tile the image, and 4 divides dim"
            )
        self.event, self.grid = (channels, height, width), (height // patch_size, width // patch_size)
        self.patch_size, self.dim = patch_size, dim
        self.positions: Tensor
        self.register_buffer("positions", positions(*self.grid, dim), persistent=False)
        self.patches = Patches(patch_size, channels, dim)
        self.attentions = nn.ModuleList(Attention(dim, shape.heads) for _ in range(shape.depth))
        self.mlps = nn.ModuleList(MLP(dim, int(dim * mlp_ratio)) for _ in range(shape.depth))
        self.condition, modulation = _condition(condition, condition_size, dim)
        self.modulations = nn.ModuleList(modulation(6 * dim) for _ in range(shape.depth))
        self.final_modulation = modulation(2 * dim)

    def initialise(self) -> None:
        """Draws Xavier-uniform weights; biases and modulations are 0, so that blocks do nothing."""
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(part.weight.flatten(1))
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        for part in (*self.modulations, self.final_modulation):
            nn.init.zeros_(part.weight)

    def encode(self, context: Any = None, level: int = -1) -> Code:
        """Computes the blocks' modulations from labels (B,), embeddings (B, size), or nothing.

        Raises:
            ValueError: there is a condition, but the context is none.
        """
        if not isinstance(self.condition, nn.Module):
            return self.modulated(None if self.condition is None else self.condition[0])
        if not isinstance(context, Tensor):
            raise ValueError(f"the context is {type(context).__name__}: pass labels (B,) or embeddings (B, condition_size)")
        return self.modulated(self.condition(context).unsqueeze(-2))

    def modulated(self, vector: Tensor | None) -> Code:
        """Computes the modulations of all blocks from condition vectors (D,) or (B, 1, D)."""
        active = None if vector is None else F.silu(vector)
        return [part(active) for part in (*self.modulations, self.final_modulation)]

    def extend(self, code: Code, context: Any) -> Code:
        """Returns the code as it is: what a condition says is said at once."""
        return code

    def depths(self, y: Tensor, code: Code) -> list[Tensor]:
        """Computes tokens (*chains, T, D) of images after the embedding, and after every block.

        Raises:
            ValueError: y has another shape.
        """
        if y.shape[-3:] != self.event:
            name = type(self).__name__
            raise ValueError(f"y has shape {tuple(y.shape)}, but this {name} scores images (*chains, {self.event})")
        chains = y.shape[:-3]
        x = self.patches(y.reshape(-1, *self.event)) + self.positions
        x = x.reshape(*chains, *x.shape[-2:])
        tokens = [x]
        for attention, mlp, modulation in zip(self.attentions, self.mlps, code, strict=False):
            x = self.through([attention, mlp], partial(_block, attention, mlp), x, modulation)
            tokens.append(x)
        return tokens

    def representations(self, images: Tensor, code: Code | None = None) -> list[Tensor]:
        """Averages the tokens of images (n, C, H, W) over each quarter: (n, 4 D) at every depth."""
        found = self.depths(images, self.encode() if code is None else code)
        return [F.adaptive_avg_pool2d(tokens.mT.unflatten(-1, self.grid), 2).flatten(1) for tokens in found]

    def consider(self, y: Tensor, code: Code) -> Tensor:
        """Computes the last block's tokens (*chains, T, D), as a head reads them."""
        return modulated(self.depths(y, code)[-1], *code[-1].chunk(2, -1))


def _block(attention: nn.Module, mlp: nn.Module, x: Tensor, modulation: Tensor) -> Tensor:
    """Transforms tokens x (*chains, T, D) by a block; its modulation is (6 D,) or (B, 1, 6 D)."""
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation.chunk(6, -1)
    seen = modulated(x, shift, scale)
    x = plus(x, attention(seen.reshape(-1, *seen.shape[-2:])).reshape(x.shape), gate)
    return plus(x, mlp(modulated(x, shift_mlp, scale_mlp)), gate_mlp)


class Patches(nn.Module):
    """Embeds the patches of images (B, C, H, W), row by row: (B, T, D)."""

    def __init__(self, side: int, channels: int, dim: int) -> None:
        super().__init__()
        self.side = side
        self.proj = nn.Conv2d(channels, dim, side, side)  # holds the weights; as a product its derivatives are faster

    def forward(self, images: Tensor) -> Tensor:
        patches = rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=self.side, q=self.side)
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Lets all tokens (B, T, D) see each other."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, Linear(dim, 3 * dim), Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attend(*heads(self.qkv(x), None, None, self.heads)).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Transforms tokens one by one, through a hidden layer."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(dim, hidden), Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalises tokens (..., T, D), scales them by 1 + scale and shifts them."""
    return layer_norm(x, 1 + scale, shift, EPSILON)


class _Constant(nn.Module):
    """Stands for a modulation that depends on no condition: its output is its weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, _: Tensor | None) -> Tensor:
        return self.weight


def _condition(condition: Condition, size: int | None, dim: int) -> tuple[Any, Any]:
    """Makes what gives the condition vector, and the class of what reads modulations from it."""
    known = ("none", "learned", "class", "embedding")
    if condition not in known or (size is None) != (condition in known[:2]) or (size is not None and size < 1):
        raise ValueError(
            f"condition={condition!r}, condition_size={size}: choose none or learned without a size, class with the number "
            f"of classes, or embedding with its width"
        )
    if condition == "none":
        return None, _Constant
    made = {"learned": lambda: nn.Parameter(torch.randn(1, dim)), "class": lambda: nn.Embedding(size or 0, dim)}
    return made.get(condition, lambda: nn.Linear(size or 0, dim))(), partial(nn.Linear, dim)


def positions(rows: int, columns: int, dim: int) -> Tensor:
    """Computes sines and cosines (rows * columns, dim) of patch positions, by column, then by row.

    >>> positions(2, 3, 8).shape
    torch.Size([6, 8])
    """
    frequencies = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.stack([column, row]).flatten(1)[..., None] * frequencies
    return rearrange(torch.stack([angles.sin(), angles.cos()]), "wave side place f -> place (side wave f)").float()
