"""Left to right: a causal transformer that writes an answer symbol by symbol, for good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ebm.energies.ebt.belief import BeliefNetwork, Code
from ebm.energies.ebt.mutual import MutualBlock
from ebm.energies.ebt.relations import Described, Relations
from ebm.interfaces import Batch, Prediction, eval_mode
from ebm.samplers.mirror import LEAST

Order = Literal["first", "last"]


class LeftToRight(BeliefNetwork):
    """Writes a whole answer symbol by symbol, each the likeliest after what stands before it.

        a_i = argmax_a log π(a | x, a_<i),    π = softmax(U N(x, a_<i)),

    where < is the order of writing. Tokens are the S positions of the question x, which all see
    each other, and S of the answer: the i-th holds the symbol that was written before it, and sees
    the question and the answer's tokens up to itself. `NextSymbol` trains it on the data's own
    answers (teacher forcing). What the context fixes is copied, and later symbols see it once it is
    written.

    As an energy it is the bowl around the logits f of the answer that it writes, E(y | x) = Σ |y −
    f|² / 2, whose one step of size 1 is the prediction.

    Source: a decoder with a prefix as in T5 (arXiv 1910.10683), section 3.2.1; that sums are easier
    with the lowest digit first: Lee et al. (arXiv 2307.03381).

    Arguments:
        vocab_size: how many answers a position has, V.
        length: S, for a learned embedding of each position; by default there is none, and rows
            may be of any length.
        relations: how positions lie to each other, as a `BeliefEBT`'s; each has a bias of its own
            from question to question, from answer to question and from answer to answer.
        dim: the width D of a token.
        depth: how many blocks N has.
        heads: attention heads of a block.
        mlp_ratio: the hidden width of a block's MLP, over D.
        context_vocab: how many symbols the context has; by default V.
        order: which end is written first: place 0 ("first", the lowest digit of a sum), or the
            "last" place.
        fixed: whether a known context fixes the answer; it needs context_vocab = vocab_size.

    Raises:
        ValueError: for sizes that cannot work, and (at the call) a target, a y or a context of
            another shape.

    >>> network = LeftToRight(vocab_size=6, relations={"kind": "order"}, dim=8, heads=2)
    >>> clues = torch.tensor([[-1, 5, -1, 0]])
    >>> found = network.predict(Batch(clues, clues))
    >>> found.y.shape, found.y.argmax(-1)[0, [1, 3]].tolist(), found.evaluations
    (torch.Size([1, 4, 6]), [5, 0], 4)
    """

    def __init__(
        self,
        vocab_size: int,
        length: int | None = None,
        relations: Described = None,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 1.5,
        context_vocab: int | None = None,
        order: Order = "first",
        fixed: bool = True,
    ) -> None:
        if order not in ("first", "last"):
            raise ValueError(f"order={order!r}: choose first or last")
        super().__init__(vocab_size, context_vocab, length, relations, dim, depth, heads, mlp_ratio, 0, fixed)
        self.order = order
        self.relations = written_in_order(self.relations, order)
        self.blocks = nn.ModuleList(MutualBlock(dim, heads, int(mlp_ratio * dim), self.relations) for _ in range(depth))
        del self.read_in  # symbols are written for good: no beliefs are read
        self.written = nn.Embedding(vocab_size + 1, dim)  # and a symbol that begins
        self.read_out = nn.Linear(dim, vocab_size)

    def encode(self, context: Any = None, level: int = -1) -> Code:
        """Writes answers to ids (B, S) in S passes; the code's `answer` has their logits (B, S, V)."""
        code = super().encode(context)
        written = torch.zeros_like(context) if code.answer is None else code.answer.argmax(-1)
        with torch.no_grad():
            written = self._written(code, written, lambda logits: logits.argmax(-1), self._order(context)[:-1])
        # No token sees the symbol that is written last: these are the logits of the whole answer.
        return code._replace(answer=self._logits(code, written))

    def write(self, context: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Writes answers (B, S) to ids (B, S): `choose` maps each symbol's logits (B, V) to symbols (B,)."""
        return self._written(super().encode(context), torch.zeros_like(context), choose, self._order(context))

    def _order(self, context: Tensor) -> list[int]:
        places = range(context.shape[1])
        return list(places if self.order == "first" else reversed(places))

    def _written(self, code: Code, written: Tensor, choose: Callable[[Tensor], Tensor], places: list[int]) -> Tensor:
        for place in places:
            symbol = choose(self._logits(code, written)[:, place])
            written = torch.cat([written[:, :place], symbol[:, None], written[:, place + 1 :]], 1)
        return written

    def teacher_forced(self, context: Any, target: Tensor) -> Tensor:
        """Computes each symbol's logits (B, S, V) after those of the target (B, S) before it.

        Raises:
            ValueError: the target has other rows or positions than the context, or is not of ids.
        """
        code = super().encode(context)
        if target.shape != context.shape or target.is_floating_point():
            found = f"the target is {target.dtype} {tuple(target.shape)}, the context {tuple(context.shape)}"
            raise ValueError(f"{found}: pass whole numbers, a symbol for each of its positions")
        return self._logits(code, target)

    def _logits(self, code: Code, written: Tensor) -> Tensor:
        begin = torch.full_like(written[:, :1], self.vocab_size)
        before = [begin, written[:, :-1]] if self.order == "first" else [written[:, 1:], begin]
        answer = self.written(torch.cat(before, 1))
        if self.place is not None:
            answer = answer + self.place
        f = self.transform(torch.cat([code.x, answer], 1), code)[:, code.x.shape[1] :]
        logits = F.log_softmax(self.read_out(f), -1)
        if code.known is None or code.answer is None:
            return logits
        return torch.where(code.known.unsqueeze(-1), code.answer.to(logits).log().clamp(min=LEAST), logits)

    def forward(self, y: Tensor, code: Code | None = None) -> Tensor:
        """Maps y (*more, B, S, V) to half its squared distance (*more, B) from the answer's logits."""
        code = self.check(y, code)
        assert code.answer is not None
        return (y - code.answer).square().sum((-2, -1)) / 2

    def predict(self, batch: Batch, start: Any = None, *, generator: Generator | None = None) -> Prediction:
        """Writes the answers in S passes; there is nothing to start from, and nothing to draw."""
        with torch.no_grad(), eval_mode(self):
            logits = self.encode(batch.context).answer
        assert logits is not None
        return Prediction(logits, None, logits.shape[1])


def written_in_order(relations: Relations | None, order: Order) -> Relations:
    """Relates S positions of a question and, behind them, S of its answer: numbers (2 S, 2 S).

    A question's positions have the given relations, and so have an answer's to it, and to itself up
    to its present position, each with numbers of its own; the last number is what is hidden.

    >>> both = written_in_order(None, "first")
    >>> both.among(2).tolist(), both.hidden
    ([[0, 0, 3, 3], [0, 0, 3, 3], [1, 1, 2, 3], [1, 1, 2, 2]], (3,))
    """
    one = relations or Relations(1, lambda count: torch.zeros(count, count, dtype=torch.long), torch.zeros(0, 1))
    unseen = 3 * one.kinds

    def among(count: int) -> Tensor:
        numbers = one.among(count)
        place = torch.arange(count, device=numbers.device)
        later = place[None] > place[:, None] if order == "first" else place[None] < place[:, None]
        question = torch.cat([numbers, torch.full_like(numbers, unseen)], 1)
        answer = torch.cat([one.kinds + numbers, torch.where(later, unseen, 2 * one.kinds + numbers)], 1)
        return torch.cat([question, answer])

    hints = torch.cat([one.hints] * 3 + [torch.zeros(len(one.hints), 1)], 1)
    hidden = (*(kind + part * one.kinds for part in range(3) for kind in one.hidden), unseen)
    return Relations(unseen + 1, among, hints, hidden)
