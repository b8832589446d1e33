"""Transformer++: the feed-forward language model beside Energy-Based Transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ebm.energies.ebt.blocks import initialise
from ebm.energies.ebt.products import Linear
from ebm.energies.ebt.sizes import size_of
from ebm.energies.ebt.streams import Code
from ebm.energies.ebt.text import TokenStream, expected
from ebm.interfaces import Batch, Prediction, eval_mode


class Transformer(TokenStream):
    """Predicts the next token in one forward pass: softmax(U h(context)), h a causal transformer.

    As an energy it is E(p | context) = −⟨p, U h(context)⟩, whose step of size 1 from the uniform
    distribution is the prediction: an EBT's objective, sampler and tasks serve it. The context is
    ids (B, S), or `Padded` rows. A TextEBT has D parameters more.

    Arguments:
        vocab_size: V.
        size: 4xs, 3xs, xxs (2xs), xs, small, medium, large or xl; or pass dim, depth and heads.
        dim: the width D of a token.
        depth: how many blocks there are.
        heads: attention heads in a block.
        hidden: the feed-forward's hidden width; dim by default.

    Source: the Transformer++ of arXiv 2507.02092: Llama 2's block with a feed-forward of width dim.

    >>> model = Transformer(vocab_size=11, dim=8, depth=2, heads=2)
    >>> context = torch.tensor([[1, 2, 3]])
    >>> model.logits(context).shape, model.given(context)(torch.full((1, 3, 11), 1 / 11)).shape
    (torch.Size([1, 3, 11]), torch.Size([1, 3]))
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
        if vocab_size < 2:
            raise ValueError(f"vocab_size={vocab_size}: a vocabulary has at least 2 tokens")
        super().__init__(size_of(size, dim, depth, heads), hidden)
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, self.dim)
        self.output = Linear(self.dim, vocab_size, bias=False)
        initialise(self)

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)

    def logits(self, context: Any) -> Tensor:
        """Computes the next token's logits (B, S, vocab_size) at every position."""
        logits = self.encode(context).out
        assert logits is not None
        return logits

    def forward(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps y (*more, B, T, vocab_size) to −⟨y, logits⟩ (*more, B, T)."""
        return -expected(y, self.check(y.shape[:-1], code))

    def predict(self, batch: Batch, start: Any = None, *, generator: torch.Generator | None = None) -> Prediction:
        """Predicts in one forward pass; there is nothing to start from, and nothing to draw."""
        with torch.no_grad(), eval_mode(self):
            return Prediction(self.logits(batch.context), None, 1)
