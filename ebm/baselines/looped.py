"""Looped networks: the block of a belief energy, repeated as it is, without an energy to descend."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm.energies.ebt.belief import BeliefNetwork, Code
from ebm.energies.ebt.relations import Described
from ebm.samplers.mirror import LEAST


class LoopedNetwork(BeliefNetwork):
    """Fills in an answer by repeating a transformer N, whose weights all steps share.

        state="belief":  y⁺ = log softmax(U N(W softmax(y) + x))
        state="hidden":  h⁺ = N(h + x),    y⁺ = log softmax(U h⁺)

    `ebm.samplers.FixedPoint` takes the steps. As an energy it is the mean over unknown positions of
    −log of y⁺'s largest probability: the lower, the surer the network is, so that candidates
    compete by their confidence.

    Source: weight-tied recurrence as in Universal Transformers (Dehghani et al., 2019) and Tiny
    Recursive Models (arXiv 2510.04871).

    Arguments:
        vocab_size: how many answers a position has, V.
        length: S, for a learned embedding of each position; by default there is none.
        relations: how positions lie to each other, as a `BeliefEBT`'s.
        dim: the width D of a position's token.
        depth: how many blocks N has.
        heads: attention heads of a block.
        mlp_ratio: the hidden width of a block's MLP, over D.
        context_vocab: how many symbols the context has; by default V.
        state: what a step hands to the next: "belief", or a "hidden" state of D numbers behind the
            logits, for which the sampler has hidden = D.
        fixed: whether a known context fixes the answer; it needs context_vocab = vocab_size.

    >>> network = LoopedNetwork(vocab_size=6, length=36)
    >>> from ebm.samplers import FixedPoint
    >>> clues = torch.full((5, 36), -1)
    >>> FixedPoint(steps=3).sample(network.given(clues), torch.randn(5, 36, 6)).shape
    torch.Size([5, 36, 6])
    """

    def __init__(
        self,
        vocab_size: int,
        length: int | None = None,
        relations: Described = None,
        dim: int = 64,
        depth: int = 1,
        heads: int = 4,
        mlp_ratio: float = 1.5,
        context_vocab: int | None = None,
        state: Literal["belief", "hidden"] = "belief",
        fixed: bool = True,
    ) -> None:
        if state not in ("belief", "hidden"):
            raise ValueError(f"state={state!r}: choose belief or hidden")
        hidden = dim if state == "hidden" else 0
        super().__init__(vocab_size, context_vocab, length, relations, dim, depth, heads, mlp_ratio, hidden, fixed)
        self.read_out = nn.Linear(dim, vocab_size)
        if self.hidden:
            del self.read_in  # a hidden state is read as it is

    def advance(self, y: Tensor, code: Code | None) -> tuple[Tensor, Tensor]:
        """Takes a step from y (*more, B, S, V + hidden): the next y, and how unsure it is (*more, B)."""
        code = self.check(y, code)
        own = y[..., self.vocab_size :] if self.hidden else self.read_in(self.beliefs(y.softmax(-1), code))
        f = self.transform(own + code.x, code)
        logits = F.log_softmax(self.read_out(f), -1)
        asked = torch.ones_like(logits[..., 0])
        if code.known is not None and code.answer is not None:
            logits = torch.where(code.known.unsqueeze(-1), code.answer.to(logits).log().clamp(min=LEAST), logits)
            asked = asked * ~code.known
        unsure = -logits.amax(-1)
        energy = (unsure * asked).sum(-1) / asked.sum(-1).clamp(min=1)
        return (torch.cat([logits, f], -1) if self.hidden else logits), energy

    def forward(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps logits y (*more, B, S, V + hidden) to how unsure the step from them is (*more, B)."""
        return self.advance(y, code)[1]
