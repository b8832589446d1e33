"""Energies over whole answers: a belief about every position at once, scored as a free energy."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebm.energies.ebt.mutual import MutualBlock
from ebm.energies.ebt.products import Linear, along
from ebm.energies.ebt.recomputing import Blockwise
from ebm.energies.ebt.relations import Described, relations_of
from ebm.interfaces import Energy

LEAST = 1e-35  # the least probability whose logarithm is taken: a normal number in float32 and in bfloat16


class Code(NamedTuple):
    """What does not depend on y: the embedded context, and what it fixes."""

    x: Tensor  # (B, S, D)
    biases: tuple[Tensor | None, ...]  # a block's, (H, S, S)
    known: Tensor | None = None  # (B, S): positions whose answer the context gives
    answer: Tensor | None = None  # (B, S, V): that answer, one-hot


class BeliefNetwork(Blockwise, Energy):
    """Reads beliefs beside their context: what belief energies and looped networks share.

        f(p | x) = N(W p + x),    x = embedding(context) + place,

    with blocks N in which all positions see each other. A context holds ids (B, S), −1 where
    nothing is known. Arguments are `BeliefEBT`'s.
    """

    def __init__(
        self,
        vocab_size: int,
        context_vocab: int | None,
        length: int | None,
        relations: Any,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        hidden: int,
        fixed: bool,
    ) -> None:
        super().__init__()
        if min(vocab_size, dim, depth, heads) < 1 or hidden < 0 or dim % heads or int(mlp_ratio * dim) < 1:
            sizes = f"vocab_size={vocab_size}, dim={dim}, depth={depth}, heads={heads}, mlp_ratio={mlp_ratio}, hidden={hidden}"
            raise ValueError(f"{type(self).__name__}({sizes}): sizes are at least 1, hidden at least 0, and heads divide dim")
        self.vocab_size, self.context_vocab = vocab_size, vocab_size if context_vocab is None else context_vocab
        self.hidden, self.fixed, self.length = hidden, fixed, length
        if fixed and self.context_vocab != vocab_size:
            raise ValueError(
                f"fixed=True: a context of {context_vocab} symbols gives no answers in {vocab_size}: set fixed=False"
            )
        self.relations = relations_of(relations)
        self.known = nn.Embedding(self.context_vocab + 1, dim)
        self.place = None if length is None else nn.Parameter(0.1 * torch.randn(length, dim))
        self.blocks = nn.ModuleList(MutualBlock(dim, heads, int(mlp_ratio * dim), self.relations) for _ in range(depth))
        self.read_in = Linear(vocab_size, dim, bias=False)

    def encode(self, context: Any = None, level: int = -1) -> Code:
        """Embeds ids (B, S), −1 where unknown.

        Raises:
            ValueError: the context is no such tensor, or of another length.
        """
        if not isinstance(context, Tensor) or context.ndim != 2 or context.is_floating_point():
            found = f"{context.dtype} {tuple(context.shape)}" if isinstance(context, Tensor) else type(context).__name__
            raise ValueError(f"the context is {found}: pass whole numbers (B, S), -1 where nothing is known")
        if self.length is not None and context.shape[1] != self.length:
            raise ValueError(f"the context has {context.shape[1]} positions, but {type(self).__name__} has length={self.length}")
        x = self.known(context + 1)
        if self.place is not None:
            x = x + self.place
        if not self.fixed:
            return Code(x, self._biases(context))
        answer = F.one_hot(context.clamp(min=0), self.vocab_size).to(x.dtype)
        return Code(x, self._biases(context), context >= 0, answer)

    def _biases(self, context: Tensor) -> tuple[Tensor | None, ...]:
        if self.relations is None:
            return (None,) * len(self.blocks)
        numbers = self.relations.among(context.shape[1]).to(context.device)
        return tuple(block.bias_among(numbers, self.relations.hidden) for block in self.blocks)  # type: ignore[operator]

    def check(self, y: Tensor, code: Code | None) -> Code:
        """Returns the code, or raises ValueError where y (*more, B, S, V + hidden) does not fit it."""
        if code is None:
            raise ValueError(f"{type(self).__name__} scores y given a context: energy.given(context)(y)")
        shape, width = tuple(code.x.shape[:2]), self.vocab_size + self.hidden
        if y.shape[-1] != width or y.shape[-3:-1] != shape:
            more = f" and {self.hidden} hidden units" if self.hidden else ""
            raise ValueError(
                f"y has shape {tuple(y.shape)}, but the context has {shape[0]} rows of {shape[1]} positions: pass (*more, "
                f"{shape[0]}, {shape[1]}, {width}), {self.vocab_size} probabilities{more} for each"
            )
        return code

    def beliefs(self, p: Tensor, code: Code) -> Tensor:
        """Replaces probabilities p (*more, B, S, V) by what is known."""
        if code.known is None or code.answer is None:
            return p
        return torch.where(code.known.unsqueeze(-1), code.answer.to(p.dtype), p)

    def transform(self, x: Tensor, code: Code) -> Tensor:
        """Runs tokens (*more, B, S, D) through the blocks."""
        shape = x.shape
        x = x.reshape(-1, *shape[-2:])
        for block, bias in zip(self.blocks, code.biases, strict=True):
            x = self.through([block], block, x, bias)
        return x.view(shape)


class BeliefEBT(BeliefNetwork):
    """Scores beliefs about a whole answer by their free energy, given what is known.

        E(p | x) = Σ_i ⟨p_i, log p_i⟩ − ⟨p_i, U f_i⟩,    f = N(W p + x),

    where p_i are probabilities of position i's answer, and the transformer N sees the present
    belief about all positions. There is one energy for each answer, so that positions have to
    agree. `MirrorDescent` steps of size 1 would be a mean field's updates, p = softmax(U f), if f
    did not depend on p. Where the context is known, the belief is its one-hot vector, whatever y
    says.

    With `hidden` units, y holds as many numbers g in (−1, 1) behind each position's probabilities,
    N sees V g as well, and the energy adds Σ −H(g_i) − ⟨g_i, R f_i⟩, with the entropy H of units
    that are ±1 with mean g.

    Source: our own form of the energies of arXiv 2507.02092; a mean field's free energy is that of
    Peterson and Anderson, 1987.

    Arguments:
        vocab_size: how many answers a position has, V.
        length: S, for a learned embedding of each position; by default there is none, and rows
            may be of any length.
        relations: how positions lie to each other, for biases of attention: whole numbers (S, S),
            or {"kind": "boxes", "height": 2, "width": 3}, "lines", "offsets" or "order"
            (`ebm.energies.ebt.relations`).
        dim: the width D of a position's token.
        depth: how many blocks N has.
        heads: attention heads of a block.
        mlp_ratio: the hidden width of a block's MLP, over D.
        context_vocab: how many symbols the context has; by default V.
        hidden: hidden units of a position.
        fixed: whether a known context fixes the answer; it needs context_vocab = vocab_size.
        head: "free", or "scalar" for the paper's energies, Σ_i ⟨w, f_i⟩ without an entropy.

    Raises:
        ValueError: for sizes that cannot work, and (at the call) a y or a context of another shape.

    >>> energy = BeliefEBT(vocab_size=6, length=36, relations={"kind": "boxes", "height": 2, "width": 3})
    >>> clues = torch.full((5, 36), -1)
    >>> energy.given(clues)(torch.full((2, 5, 36, 6), 1 / 6)).shape    # two candidates for each of five boards
    torch.Size([2, 5])
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
        hidden: int = 0,
        fixed: bool = True,
        head: Literal["free", "scalar"] = "free",
    ) -> None:
        super().__init__(vocab_size, context_vocab, length, relations, dim, depth, heads, mlp_ratio, hidden, fixed)
        if head not in ("free", "scalar") or (head == "scalar" and hidden):
            raise ValueError(f"head={head!r}, hidden={hidden}: choose free, or scalar without hidden units")
        self.head = head
        self.read_out = nn.Linear(dim, vocab_size) if head == "free" else nn.Linear(dim, 1, bias=False)
        if hidden:
            self.units_in, self.units_out = nn.Linear(hidden, dim, bias=False), nn.Linear(dim, hidden, bias=False)

    def position_energies(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps y (*more, B, S, V + hidden) to each position's share (*more, B, S) of the energy."""
        code = self.check(y, code)
        p, g = self.beliefs(y[..., : self.vocab_size], code), y[..., self.vocab_size :]
        x = self.read_in(p) + code.x
        f = self.transform(x + self.units_in(g) if self.hidden else x, code)
        if self.head == "scalar":
            return along(f, self.read_out.weight[0])
        energy = (p * (p.clamp(min=LEAST).log() - self.read_out(f))).sum(-1)
        if self.hidden:
            energy = energy - (g * self.units_out(f)).sum(-1) - _entropy(g).sum(-1)
        return energy

    def forward(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps beliefs y (*more, B, S, V + hidden) to energies (*more, B)."""
        return self.position_energies(y, code).sum(-1)


def _entropy(g: Tensor) -> Tensor:
    """Computes the entropy of units that are ±1 with mean g; its slope is −artanh g."""
    up, down = ((1 + g) / 2).clamp(min=LEAST), ((1 - g) / 2).clamp(min=LEAST)
    return -(up * up.log() + down * down.log())
