"""Energies of whole sequences of tokens: all tokens see each other, and there is one number for all."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebm.energies.ebt.attention import turns
from ebm.energies.ebt.blocks import Block, RMSNorm, initialise
from ebm.energies.ebt.mutual import attend
from ebm.energies.ebt.products import along
from ebm.energies.ebt.recomputing import Blockwise
from ebm.energies.ebt.sizes import size_of
from ebm.interfaces import Energy


class Prompt(NamedTuple):
    """An embedded prompt; a value that nobody changes."""

    x: Tensor | None  # (B, P, D), or None where there is no prompt
    hidden: Tensor | None  # (B, P): where there is no token


class SequenceEBT(Blockwise, Energy):
    """Scores whole sequences that follow a prompt: one energy each, of tokens that all see each other.

        E(y | prompt) = Σ_i ⟨w, f_i⟩,    f = N(prompt, y W),

    with the sum over y's tokens, a bidirectional transformer N, and w = 0 at first: a sequence's
    energy is then 0, and a model's that it corrects (`SequenceNCE`) is left as it is.

    y (*more, B, T, V) holds a one-hot vector for each token, and zeros where there is none, as
    behind the end of a shorter sequence: `ebm.decoding.sequences.one_hot` makes them of ids.
    Probabilities do, too, so that samplers can move them. The context is ids (B, P), −1 where there
    is no token, as in front of shorter prompts; or None, for no prompt. Energies are (*more, B).

    Arguments:
        vocab_size: V.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a token.
        depth: how many blocks there are.
        heads: attention heads in a block.
        hidden: the feed-forward's hidden width; dim by default.

    Source: residual energies of text, Deng et al. (arXiv 2004.11714); the blocks are those of arXiv
    2507.02092.

    Raises:
        ValueError: for sizes that cannot work, and (at the call) ids outside the vocabulary or a y
            of another shape.

    >>> energy = SequenceEBT(vocab_size=11, dim=8, depth=2, heads=2)
    >>> candidates = torch.eye(11)[torch.tensor([[[3, 4, 5]], [[6, 7, 8]]])]    # two, for one prompt
    >>> energy.given(torch.tensor([[1, 2]]))(candidates).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        vocab_size: int,
        size: str | None = None,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if vocab_size < 2:
            raise ValueError(f"vocab_size={vocab_size}: a vocabulary has at least 2 tokens")
        shape = size_of(size, dim, depth, heads)
        hidden = shape.dim if hidden is None else hidden
        if hidden < 1:
            raise ValueError(f"hidden={hidden}: the feed-forward is at least 1 wide")
        self.vocab_size, self.dim, self.heads = vocab_size, shape.dim, shape.heads
        self.embedding = nn.Embedding(vocab_size, self.dim)
        self.scored = nn.Parameter(torch.randn(self.dim))  # added to y's tokens, so that they are told from the prompt's
        self.blocks = nn.ModuleList(Block(self.dim, shape.heads, hidden) for _ in range(shape.depth))
        self.norm = RMSNorm(self.dim)
        self.head = nn.Linear(self.dim, 1, bias=False)
        initialise(self)
        nn.init.zeros_(self.head.weight)

    def regions(self) -> list[nn.Module]:
        return [*self.blocks]

    def encode(self, context: Any = None, level: int = -1) -> Prompt:
        if context is None:
            return Prompt(None, None)
        if not isinstance(context, Tensor) or context.ndim != 2 or context.is_floating_point():
            found = f"{context.dtype} {tuple(context.shape)}" if isinstance(context, Tensor) else type(context).__name__
            raise ValueError(f"the context is {found}: pass a prompt's ids (B, P), -1 where there is no token")
        if context.numel() and not -1 <= int(context.min()) <= int(context.max()) < self.vocab_size:
            low, high = int(context.min()), int(context.max())
            raise ValueError(f"the context has ids from {low} to {high}: pass those of the {self.vocab_size} tokens, and -1")
        return Prompt(self.embedding(context.clamp(min=0)), context < 0)

    def forward(self, y: Tensor, code: Prompt | None = None) -> Tensor:
        """Maps y (*more, B, T, V) to energies (*more, B)."""
        code = self.encode() if code is None else code
        rows = y.shape[-3:-2] if code.x is None else code.x.shape[:1]
        if y.ndim < 3 or y.shape[-1] != self.vocab_size or y.shape[-3:-2] != rows:
            raise ValueError(
                f"y has shape {tuple(y.shape)}: pass (*more, {rows[0] if rows else 'B'}, T, {self.vocab_size}), a vector over "
                f"the vocabulary for each token"
            )
        more, count = y.shape[:-3], y.shape[-2]
        x = y @ self.embedding.weight + self.scored
        there = (y != 0).any(-1)
        hidden = ~there
        if code.x is not None and code.hidden is not None:
            x = torch.cat([code.x.expand(*more, *code.x.shape).to(x.dtype), x], -2)
            hidden = torch.cat([code.hidden.expand(*more, *code.hidden.shape), hidden], -1)
        chains = math.prod(y.shape[:-2])
        x, hidden = x.reshape(chains, *x.shape[-2:]), hidden.reshape(chains, hidden.shape[-1])
        # What is not there is seen by nobody but itself: a row without tokens has no softmax of nothing.
        unseen = hidden[:, None, None] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        bias = torch.zeros(unseen.shape, dtype=x.dtype, device=x.device).masked_fill(unseen, -torch.inf)
        where = turns(torch.arange(x.shape[1], device=x.device), self.dim // self.heads)
        for block in self.blocks:
            x = self.through([block], partial(block, turns=where, attend=lambda q, k, v: attend(q, k, v, bias)), x)
        scores = along(self.norm(x[:, -count:]), self.head.weight[0])
        return scores.view(there.shape).masked_fill(~there, 0.0).sum(-1)
