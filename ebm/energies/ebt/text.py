"""Energy-Based Transformers of text: candidates are probability vectors over a vocabulary."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebm.energies.ebt.belief import LEAST
from ebm.energies.ebt.blocks import initialise
from ebm.energies.ebt.products import Linear, linear
from ebm.energies.ebt.sizes import size_of
from ebm.energies.ebt.streams import CausalEBT, CausalStream, Code, Conditioning


class Padded(NamedTuple):
    """Rows of different lengths as one context: the first pad (B,) of a row's ids do not count."""

    ids: Tensor
    pad: Tensor


def padded(rows: list[list[int]], device: torch.device | str = "cpu") -> Padded:
    """Pads rows of ids on the left to one length.

    >>> padded([[1, 2, 3], [4]])
    Padded(ids=tensor([[1, 2, 3],
            [0, 0, 4]]), pad=tensor([0, 2]))
    """
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    return Padded(ids, torch.tensor([longest - len(row) for row in rows], device=device))


class TokenStream(CausalStream):
    """Encodes ids (B, S), or `Padded` rows of them, through an embedding, which a subclass sets."""

    vocab_size: int
    embedding: nn.Embedding

    def observe(self, context: Any) -> tuple[Tensor, Tensor | None]:
        ids, pad = context if isinstance(context, Padded) else (context, None)
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point() or not ids.numel():
            what = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(f"the context is {what}: pass ids (B, S) of whole numbers, with at least one position")
        if ids.is_cpu and not torch.compiler.is_compiling():
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= self.vocab_size:
                raise ValueError(f"the context has ids from {low} to {high}, outside the {self.vocab_size} tokens")
        return self.embedding(ids), pad

    def padded(self, rows: list[list[int]]) -> Padded:
        """Pads rows of ids on the left to one length, as one context."""
        return padded(rows, self.embedding.weight.device)


class TextEBT(TokenStream, CausalEBT):
    """Scores next-token distributions p_i over the vocabulary: E_i = E(p_i | x_0 … x_i).

    The context is ids (B, S), or `Padded` rows; y is (*more, B, T, vocab_size), energies are
    (*more, B, T). Samplers move logits whose softmax is scored:
    `GradientDescent(retraction="softmax")`.

    Arguments:
        vocab_size: V.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a token.
        depth: how many blocks there are.
        heads: attention heads in a block.
        hidden: the feed-forward's hidden width; dim by default.
        conditioning: how landscapes are told apart: "none", "time", "adaln" or "adaln-zero".
        levels: how many landscapes there are.
        tied: candidates are embedded as the mean of the input table's rows, p @ table; by default
            by a matrix of their own.

    Source: arXiv 2507.02092, sections 3 and 4.1.

    Raises:
        ValueError: for sizes that cannot work, and (at the call) ids outside the vocabulary or a y
            of another shape.

    >>> energy = TextEBT(vocab_size=11, dim=8, depth=2, heads=2, conditioning="time", levels=2)
    >>> context = torch.tensor([[1, 2, 3, 4, 5]])
    >>> energy.given(context, level=0)(torch.full((1, 5, 11), 1 / 11)).shape
    torch.Size([1, 5])
    """

    def __init__(
        self,
        vocab_size: int,
        size: str | None = None,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        hidden: int | None = None,
        conditioning: Conditioning = "none",
        levels: int = 1,
        tied: bool = False,
    ) -> None:
        if vocab_size < 2:
            raise ValueError(f"vocab_size={vocab_size}: a vocabulary has at least 2 tokens")
        super().__init__(size_of(size, dim, depth, heads), hidden, conditioning, levels)
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, self.dim)
        self.candidate = None if tied else Linear(vocab_size, self.dim, bias=False)
        initialise(self)
        self.reset_adaln()

    def propose(self, y: Tensor, code: Code | None) -> Tensor:
        if y.shape[-1] != self.vocab_size:
            raise ValueError(f"y has shape {tuple(y.shape)}: its last axis is the {self.vocab_size} tokens of the vocabulary")
        return linear(y, self.embedding.weight.t()) if self.candidate is None else self.candidate(y)


class ResidualTextEBT(TextEBT):
    """Refines a feed-forward reading of the context: E = −⟨p, U (h(context) + w ⊙ x(p, context))⟩.

    h is the observed stream's last hidden state, x the prediction stream's, U an output matrix, and
    w (D,) starts at zero. So at first, and after one step of size 1 from the uniform distribution,
    this is exactly the feed-forward transformer softmax(U h): thinking starts where that ends, and
    learns what to add by looking at the context once more, with the candidate in mind. Candidates
    are embedded by the input table and a vector in common, so that the parameters are those of a
    `Transformer` and 2 D more. This form is ours: it is not in arXiv 2507.02092.

    Arguments:
        vocab_size: V.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a token.
        depth: how many blocks there are.
        heads: attention heads in a block.
        hidden: the feed-forward's hidden width; dim by default.
        conditioning: how landscapes are told apart: "none", "time", "adaln" or "adaln-zero".
        levels: how many landscapes there are.
        tied: candidates are embedded as the mean of the input table's rows, p @ table; or by a
            matrix of their own.

    Shapes and errors are `TextEBT`'s.

    >>> energy = ResidualTextEBT(vocab_size=11, dim=8, depth=2, heads=2)
    >>> energy.given(torch.tensor([[1, 2, 3]]))(torch.full((4, 1, 3, 11), 1 / 11)).shape    # four candidates
    torch.Size([4, 1, 3])
    """

    def __init__(
        self,
        vocab_size: int,
        size: str | None = None,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        hidden: int | None = None,
        conditioning: Conditioning = "none",
        levels: int = 1,
        tied: bool = True,
    ) -> None:
        super().__init__(vocab_size, size, dim, depth, heads, hidden, conditioning, levels, tied)
        self.output = Linear(self.dim, vocab_size, bias=False)
        initialise(self.output)
        # A spread-out candidate's mean embedding is next to nothing, and the norm would blow up its
        # gradient: not with this.
        self.common = nn.Parameter(torch.randn(self.dim))
        nn.init.zeros_(self.head.weight)

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)

    def propose(self, y: Tensor, code: Code | None) -> Tensor:
        return super().propose(y, code) + self.common

    def refined(self, y: Tensor, code: Code | None) -> Tensor:
        """Computes ⟨y, U (w ⊙ x(y, context))⟩ (*more, B, T)."""
        return (self.consider(y, code) * self.head.weight[0] * (y @ self.output.weight)).sum(-1)

    def forward(self, y: Tensor, code: Code | None = None) -> Tensor:
        refined = self.refined(y, code)  # which checks the code
        return -expected(y, code) - refined


class FreeTextEBT(ResidualTextEBT):
    """Scores beliefs by their free energy: E = ⟨p, log p⟩ − ⟨p, U (h + w ⊙ x(p, h, context))⟩.

    The entropy is what makes a step of `MirrorDescent` of size 1 the fixed-point iteration p⁺ =
    softmax(U (h + w ⊙ x) + what x's slope adds): where w is zero, it is the feed-forward transformer
    softmax(U h) from any start, and further steps stay there. The candidate is embedded with h, the
    observed stream's last hidden state, beside it. Samplers move logits: `MirrorDescent(1.0,
    steps=2)`. This form is ours; a mean field's free energy is that of Peterson and Anderson, 1987.

    Arguments, shapes and errors are `ResidualTextEBT`'s.

    >>> from ebm.samplers import MirrorDescent
    >>> energy = FreeTextEBT(vocab_size=11, dim=8, depth=2, heads=2)
    >>> landscape = energy.given(torch.tensor([[1, 2, 3]]))
    >>> ends = MirrorDescent(1.0, steps=1).sample(landscape, torch.randn(4, 1, 3, 11))
    >>> torch.allclose(ends[0], ends[3], atol=1e-5)    # w is zero at first
    True
    """

    def read_out(self, hidden: Tensor) -> Tensor:
        return torch.cat([self.output(hidden), hidden], -1)

    def propose(self, y: Tensor, code: Code | None) -> Tensor:
        return super().propose(y, code) + _last(code, y.shape[-2])[..., self.vocab_size :]

    def forward(self, y: Tensor, code: Code | None = None) -> Tensor:
        refined = self.refined(y, code)
        logits = _last(code, y.shape[-2])[..., : self.vocab_size]
        return (y * (y.clamp(min=LEAST).log() - logits)).sum(-1) - refined


def expected(y: Tensor, code: Code | None) -> Tensor:
    """Computes ⟨y, logits⟩ (*more, B, T) for the logits of the code's last T positions."""
    logits = _last(code, y.shape[-2])
    if y.shape[-1] != logits.shape[-1]:
        raise ValueError(f"y has shape {tuple(y.shape)}: its last axis is the {logits.shape[-1]} tokens of the vocabulary")
    return (y * logits).sum(-1)


def _last(code: Code | None, count: int) -> Tensor:
    """Takes what was read out at the code's last positions: (B, count, *)."""
    assert code is not None
    assert code.out is not None
    return code.out[:, code.length - count :]
