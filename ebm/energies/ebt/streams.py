"""The two streams of a causal transformer: the observed one, and that of the candidates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ebm.energies.ebt.attention import attend_to_past, attend_to_past_and_self, future, turns
from ebm.energies.ebt.blocks import Block, RMSNorm
from ebm.energies.ebt.products import along
from ebm.energies.ebt.recomputing import Blockwise
from ebm.energies.ebt.sizes import Size
from ebm.interfaces import Energy, EnergyFn

Conditioning = Literal["none", "time", "adaln", "adaln-zero"]


class Code(NamedTuple):
    """An encoded context: the observed stream's keys and values. A value that nobody changes."""

    keys: tuple[Tensor, ...]  # one (B, H, lead + S, d) per block
    values: tuple[Tensor, ...]
    level: int  # which landscape
    length: int  # S: observed positions, padding included
    pad: Tensor | None = None  # (B,): how many positions on the left of a row are padding
    out: Tensor | None = None  # (B, S, *): what `read_out` makes of the stream's last hidden states
    spares: tuple[Spare | None, ...] = ()  # behind the keys and values of each block, and behind out
    observed: Any = None  # what a stem keeps of the observed elements


class Spare:
    """Spare room behind a tensor's rows, so that appending copies old rows only now and then.

    The first to append takes the room; the next finds it taken, and copies. So the rows themselves
    never change.
    """

    def __init__(self, rows: Tensor, size: int) -> None:
        self.buffer, self.taken = rows.new_empty(*rows.shape[:-2], size, rows.shape[-1]), rows.shape[-2]
        self.buffer[..., : self.taken, :] = rows


def append(rows: Tensor, new: Tensor, spare: Spare | None) -> tuple[Tensor, Spare | None]:
    """Joins rows (..., S, d) and new ones (..., T, d), in the room behind them if it is free."""
    if torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return torch.cat([rows, new], -2), None
    count, total = rows.shape[-2], rows.shape[-2] + new.shape[-2]
    if spare is None or spare.taken != count or total > spare.buffer.shape[-2]:
        spare = Spare(rows, 2 * total)
    buffer = spare.buffer.data  # a graph that kept the older rows may go on: they stay what they are
    buffer[..., count:total, :] = new
    spare.taken = total
    return buffer[..., :total, :], spare


class CausalStream(Blockwise, Energy):
    """Encodes a context x_0 … x_{S-1} causally. A subclass writes `observe` and `forward`.

    Arguments:
        size: depth, heads and dim.
        hidden: the feed-forward's hidden width; dim by default.
        conditioning: how a landscape is told from another: "none", "time" (its embedding is a token
            in front), "adaln" or "adaln-zero" (it scales, shifts and gates every block).
        levels: how many landscapes there are.
    """

    def __init__(self, size: Size, hidden: int | None, conditioning: Conditioning = "none", levels: int = 1) -> None:
        super().__init__()
        if conditioning not in ("none", "time", "adaln", "adaln-zero"):
            raise ValueError(f"conditioning={conditioning!r}: choose none, time, adaln or adaln-zero")
        if levels < 1:
            raise ValueError(f"levels={levels}: there is at least one landscape")
        dim, hidden = size.dim, size.dim if hidden is None else hidden
        if hidden < 1:
            raise ValueError(f"hidden={hidden}: the feed-forward is at least 1 wide")
        self.dim, self.heads, self.levels, self.conditioning = dim, size.heads, levels, conditioning
        self.lead = 1 if conditioning == "time" else 0  # tokens in front of the observed ones
        self.blocks = nn.ModuleList(Block(dim, size.heads, hidden) for _ in range(size.depth))
        self.norm = RMSNorm(dim)
        if conditioning != "none":
            self.level_embedding = nn.Embedding(levels, dim)
        if conditioning.startswith("adaln"):
            self.modulations = nn.ModuleList(nn.Linear(dim, 6 * dim) for _ in range(size.depth))
            self.final_modulation = nn.Linear(dim, 2 * dim)

    @abstractmethod
    def observe(self, context: Any) -> tuple[Tensor, Tensor | None]:
        """Embeds a context: (B, S, D), and how many positions (B,) on the left are padding."""

    def read_out(self, hidden: Tensor) -> Tensor | None:
        """Maps the last hidden states (B, S, D) to what they say of the next elements (B, S, *)."""
        return None

    def regions(self) -> list[nn.Module]:
        return [*self.blocks]

    def landscapes(self, context: Any = None) -> list[EnergyFn]:
        if self.conditioning != "none":
            return super().landscapes(context)
        return [self.given(context)] * self.levels  # all landscapes are one: encoded once

    def encode(self, context: Any = None, level: int = -1) -> Code:
        x, pad = self.observe(context)
        level %= self.levels
        if self.lead:
            front = self.level_embedding.weight[level].expand(len(x), 1, -1)
            x = torch.cat([front.to(x.dtype), x], 1)
        count = x.shape[1]
        mask = None if pad is None else future(count, count, device=x.device, pad=pad, lead=self.lead)
        keys, values, hidden = self._run(x, self.turns(0, count, pad, x.device), level, mask)
        out = None if hidden is None else self.read_out(hidden[:, self.lead :])
        return Code(keys, values, level, count - self.lead, pad, out)

    def extend(self, code: Code, context: Any) -> Code:
        x, pad = self.observe(context)
        if pad is not None or len(x) != len(code.keys[0]):
            raise ValueError(f"{len(x)} rows extend a code of {len(code.keys[0])}: pass as many, without padding")
        old, new = code.keys[0].shape[2], x.shape[1]
        mask = future(new, old + new, device=x.device, pad=code.pad, lead=self.lead)
        left, spares = iter(code.spares), list[Spare | None]()

        def grow(rows: Tensor, more: Tensor) -> Tensor:
            rows, spare = append(rows, more, next(left, None))
            spares.append(spare)
            return rows

        past = zip(code.keys, code.values, strict=True)
        where = self.turns(old, new, code.pad, x.device)
        keys, values, hidden = self._run(x, where, code.level, mask, lambda k, v: tuple(map(grow, next(past), (k, v))))
        out = None if hidden is None else self.read_out(hidden)
        if out is not None and code.out is not None:
            out = grow(code.out, out)
        return Code(keys, values, code.level, code.length + new, code.pad, out, tuple(spares))

    def check(self, chains: torch.Size, code: Code | None) -> Code:
        """Returns the code, or raises ValueError where chains (*more, B, T) do not fit it."""
        if code is None:
            raise ValueError(f"{type(self).__name__} scores y given a context: energy.given(context)(y)")
        rows = len(code.keys[0])
        if len(chains) < 2 or chains[-2] != rows or not 0 < chains[-1] <= code.length:
            raise ValueError(
                f"y has chains {tuple(chains)}, but the context has {rows} rows of {code.length} positions: pass chains "
                f"(*more, {rows}, T), which are those of the last T positions"
            )
        return code

    def _run(
        self,
        x: Tensor,
        where: tuple[Tensor, Tensor],
        level: int,
        mask: Tensor | None,
        join: Callable[[Tensor, Tensor], tuple[Tensor, ...]] | None = None,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor | None]:
        """Runs x (B, T, D) through the blocks; `join` appends their keys and values to the past.

        Returns:
            All keys, all values, and the last hidden states, if they are read out.
        """
        keys: list[Tensor] = []
        values: list[Tensor] = []

        def look_back(block: nn.Module, x: Tensor, modulation: Tensor | None) -> tuple[Tensor, ...]:
            seen = list[Tensor]()

            def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                k, v = join(k, v) if join else (k, v)
                seen.extend((k, v))
                return attend_to_past(q, k, v, mask)

            return block(x, where, attend, modulation), *seen

        last = len(self.blocks) - 1 if type(self).read_out is CausalStream.read_out else None
        for index, (block, modulation) in enumerate(zip(self.blocks, self.block_modulations(level), strict=True)):
            if index == last:  # nobody reads its output: its keys and values are all that is left to compute
                k, v = block.look(x, where, modulation)[1:]  # type: ignore[operator]
                k, v = join(k, v) if join else (k, v)
                return (*keys, k), (*values, v), None
            piece = partial(look_back, block)  # what joins the past is no function of its inputs alone
            x, k, v = piece(x, modulation) if join else self.through([block], piece, x, modulation)
            keys.append(k)
            values.append(v)
        return tuple(keys), tuple(values), self.last(x, level)

    def turns(self, first: int, count: int, pad: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
        """Computes the turns of `count` positions, without padding: (T, d/2) or (B, 1, T, d/2)."""
        positions = torch.arange(first, first + count, device=device)
        if pad is not None:
            positions = torch.where(positions < self.lead, positions, (positions - pad[:, None]).clamp(min=self.lead))[:, None]
        return turns(positions, self.dim // self.heads)

    def block_modulations(self, level: int) -> list[Tensor | None]:
        """Computes what adaLN does to each block at a level: (6 D,) each, or None without adaLN."""
        if not self.conditioning.startswith("adaln"):
            return [None] * len(self.blocks)
        embedded = F.silu(self.level_embedding.weight[level])
        return [modulation(embedded) for modulation in self.modulations]

    def last(self, x: Tensor, level: int) -> Tensor:
        """Normalises the last block's output, and modulates it with adaLN."""
        if not self.conditioning.startswith("adaln"):
            return self.norm(x)
        return self.norm(x, *self.final_modulation(F.silu(self.level_embedding.weight[level])).chunk(2, -1))


class CausalEBT(CausalStream):
    """Scores predictions in parallel: energy i is that of y_i as what follows x_0 … x_i.

    The observed stream runs over x alone. The prediction stream runs over the candidates: y_i
    stands at position i + 1, and attends to x_0 … x_i and to itself. So chains are independent, and
    `encode` does all that does not depend on y.

    A subclass writes `observe` (context -> (B, S, D)) and `propose` (y, code -> (..., D)).
    Arguments are `CausalStream`'s.

    Source: arXiv 2507.02092v1, section 3.4 and appendix C.3.
    """

    def __init__(self, size: Size, hidden: int | None, conditioning: Conditioning, levels: int) -> None:
        super().__init__(size, hidden, conditioning, levels)
        self.head = nn.Linear(self.dim, 1, bias=False)  # a bias would get no gradient: energies count by their differences

    @abstractmethod
    def propose(self, y: Tensor, code: Code | None) -> Tensor:
        """Embeds candidates y (*chains, event) for a code's last positions: (*chains, D)."""

    def reset_adaln(self) -> None:
        """Initialises adaLN: by torch's own draw, or for "adaln-zero" by zeros, with the head."""
        if self.conditioning == "adaln":
            for part in (*self.modulations, self.final_modulation):
                part.reset_parameters()
        if self.conditioning == "adaln-zero":
            for part in (*self.modulations, self.final_modulation, self.head):
                for parameter in part.parameters():
                    nn.init.zeros_(parameter)

    def forward(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps y (*more, B, T, event), for the last T positions, to energies (*more, B, T)."""
        return along(self.consider(y, code), self.head.weight[0])

    def consider(self, y: Tensor, code: Code | None) -> Tensor:
        """Runs the prediction stream: y (*more, B, T, event) to hidden states (*more, B, T, D)."""
        code = self.check(y.shape[:-1], code)
        x = self.propose(y, code)
        more, (rows, count) = x.shape[:-3], x.shape[-3:-1]
        x = x.reshape(-1, *x.shape[-3:]).transpose(0, 1)  # (B, N, T, D): candidates beside each other share keys and values
        seen = code.keys[0].shape[2]
        mask = None if code.pad is None else future(count, seen, device=x.device, pad=code.pad, lead=self.lead)
        # Candidate i stands where element i + 1 will: one position after the last that it sees.
        where = self.turns(seen - count + 1, count, code.pad, x.device)
        if code.pad is not None:
            where = (where[0][:, :, None], where[1][:, :, None])

        def look_back(block: nn.Module, x: Tensor, keys: Tensor, values: Tensor, modulation: Tensor | None) -> Tensor:
            return block(x, where, lambda q, k, v: attend_to_past_and_self(q, k, v, keys, values, mask), modulation)

        past = zip(self.blocks, code.keys, code.values, self.block_modulations(code.level), strict=True)
        for block, keys, values, modulation in past:
            x = self.through([block], partial(look_back, block), x, keys, values, modulation)
        return rearrange(self.last(x, code.level), "b n t d -> n b t d").reshape(*more, rows, count, self.dim)
