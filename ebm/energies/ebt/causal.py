"""The causal Energy-Based Transformer: two streams, of which the observed one is computed once per context and landscape."""

from __future__ import annotations

from abc import abstractmethod

from einops import rearrange
from torch import Tensor, nn

from ebm.energies.ebt.attention import attend_to_past_and_self, future
from ebm.energies.ebt.sizes import Size
from ebm.energies.ebt.stream import CausalStream, Code, Conditioning

__all__ = ["CausalEBT"]


class CausalEBT(CausalStream):
    """Scores next-element predictions in parallel: energy i is that of y_i as what follows x_0 … x_i.

    The observed stream runs over x alone. The prediction stream runs over the candidates: y_i stands at position i + 1, and
    attends to x_0 … x_i and to itself. So chains are independent, and `encode` does all that does not depend on y.

    A subclass writes `observe` (context -> (B, S, D)) and `propose` (y, code -> (..., D)). Arguments are `CausalStream`'s.

    Source: arXiv 2507.02092, section 3 and appendix C.
    """

    def __init__(self, size: Size, hidden: int | None, conditioning: Conditioning, levels: int) -> None:
        super().__init__(size, hidden, conditioning, levels)
        self.head = nn.Linear(self.dim, 1, bias=False)  # a bias would get no gradient: energies count by their differences

    @abstractmethod
    def propose(self, y: Tensor, code: Code | None) -> Tensor:
        """Embeds candidates y (*chains, event), which follow the last positions of a code, as (*chains, D)."""

    def reset_adaln(self) -> None:
        """Initialises adaLN: torch's own draw for "adaln"; zeros, the head's included, for "adaln-zero"."""
        if self.conditioning == "adaln":
            for part in (*self.modulations, self.final_modulation):
                part.reset_parameters()
        if self.conditioning == "adaln-zero":
            for part in (*self.modulations, self.final_modulation, self.head):
                for parameter in part.parameters():
                    nn.init.zeros_(parameter)

    def forward(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps candidates y (*more, B, T, event) for the last T of the code's S positions to energies (*more, B, T)."""
        # The product is written out: under autocast a Linear would round energies, by whose differences candidates are judged.
        return (self.consider(y, code) * self.head.weight[0]).sum(-1)

    def consider(self, y: Tensor, code: Code | None) -> Tensor:
        """Runs the prediction stream: candidates y (*more, B, T, event) to its last hidden states (*more, B, T, D)."""
        code = self.check(y.shape[:-1], code)
        x = self.propose(y, code)
        more, (rows, count) = x.shape[:-3], x.shape[-3:-1]
        x = x.reshape(-1, *x.shape[-3:]).transpose(0, 1)  # (B, N, T, D): candidates beside each other share keys and values
        seen = code.keys[0].shape[2]
        mask = future(count, seen, device=x.device, pad=code.pad, lead=self.lead)
        # Candidate i stands where element i + 1 will: one position after the last that it sees.
        where = self.turns(seen - count + 1, count, code.pad, x.device)
        if code.pad is not None:
            where = (where[0][:, :, None], where[1][:, :, None])
        past = iter(zip(code.keys, code.values, strict=True))

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend_to_past_and_self(q, k, v, *next(past), mask)

        for block, modulation in zip(self.blocks, self.block_modulations(code.level), strict=True):
            x = block(x, where, attend, modulation)
        return rearrange(self.last(x, code.level), "b n t d -> n b t d").reshape(*more, rows, count, self.dim)
