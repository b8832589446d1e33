"""Log-likelihoods of given tokens after others, however long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from ebm.interfaces import Batch, Predictor
from ebm.tasks.text.tokens import TokenTask


class Likelihood(NamedTuple):
    """What a predictor says of given tokens."""

    logprob: float  # in nats
    greedy: bool  # whether each is the likeliest at its place


def windows(before: Sequence[int], tokens: Sequence[int], size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Cuts tokens into parts, each with as much of what is before it as a window of `size` has room for.

    Each token is in one part; `before` has at least one.

    >>> list(windows([0], [1, 2, 3, 4, 5], size=3))
    [([0], [1, 2, 3]), ([2, 3], [4, 5])]
    """
    whole = [*before, *tokens]
    for first in range(len(before), len(whole), size):
        part = whole[first : first + size]
        yield whole[max(0, first + len(part) - 1 - size) : first], part


@torch.no_grad()
def likelihoods(
    predictor: Predictor,
    task: TokenTask,
    pairs: Iterable[tuple[Sequence[int], Sequence[int]]],
    *,
    rows_at_once: int = 32,
    generator: torch.Generator | None = None,
) -> list[Likelihood]:
    """Computes the log-likelihoods of tokens, given those before them: minus the sum of `task.distance`.

    Arguments:
        predictor: what predicts, on the generator's device.
        task: whose context length is the window, and whose distance counts.
        pairs: (tokens before, of which there is at least one; tokens). Longer ones than the context
            lose the beginning of what is before; tokens that do not fit either are scored in parts.
        rows_at_once: how many parts are predicted at a time.
        generator: where starts and noise come from.
    """
    device = "cpu" if generator is None else generator.device
    pairs = [*pairs]
    parts = [(owner, *part) for owner, pair in enumerate(pairs) for part in windows(*pair, task.context_length)]
    found = [Likelihood(0.0, True)] * len(pairs)
    for first in range(0, len(parts), rows_at_once):
        chunk = parts[first : first + rows_at_once]
        length = max(len(before) + len(after) for _, before, after in chunk)
        ids = torch.zeros(len(chunk), length, dtype=torch.long, device=device)
        weight = torch.zeros(len(chunk), length - 1, device=device)
        for row, (_, before, after) in enumerate(chunk):
            ids[row, : len(before) + len(after)] = torch.tensor([*before, *after])
            weight[row, len(before) - 1 : len(before) + len(after) - 1] = 1
        batch = Batch(ids[:, 1:], ids[:, :-1], weight)
        y = predictor.predict(batch, task.starts(predictor, batch, generator=generator), generator=generator).y
        nats = (task.distance(y.double(), batch) * weight).sum(-1).tolist()
        greedy = ((y.argmax(-1) == batch.target) | (weight == 0)).all(-1).tolist()
        for (owner, *_), loss, right in zip(chunk, nats, greedy, strict=True):
            found[owner] = Likelihood(found[owner].logprob - loss, found[owner].greedy and right)
    return found
