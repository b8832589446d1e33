"""What tasks of whole answers share: a belief about every position, and a verifier of the answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from ebm.interfaces import Batch, Prediction
from ebm.randomness import stream
from ebm.samplers.mirror import LEAST
from ebm.tasks.rows import InMemory, RowsOf, loader_of


class Answers(InMemory):
    """Finds whole answers: symbols (B, S), given contexts (B, S) of ids, −1 where nothing is known.

    States are logits (B, S, V); what stands behind the first V numbers of a position, such as
    hidden units, is the sampler's own. Chains are answers, start at standard normal logits, and
    are trained by the cross-entropy of unknown positions.

    A task of this kind sets `spec` (with vocab_size, V) and `splits`, and writes `accepts`.
    `evaluate` reports `solved`, the share of answers that `accepts` takes; `cells`, the share of
    unknown positions that are as in the answer of the data; and `loss`.
    """

    headline = "solved"
    unit = "answer"
    rows_at_once = 100  # each may have several candidates

    @abstractmethod
    def accepts(self, answer: Tensor, batch: Batch) -> Tensor:
        """Tells which answers (*more, B, S) are right: (*more, B)."""

    def turned(self, batch: Batch, generator: Generator) -> Batch:
        """Makes another problem of each in training; here none."""
        return batch

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        """Makes a loader of `Batch`es; those of "train" are `turned`."""
        rows = self.rows(split)
        if split != "train":
            return loader_of(RowsOf(rows), batch_size, False, seed, workers)
        return loader_of(Turned(rows, self.turned, seed), batch_size, True, seed, workers)

    def blank(self, n: int) -> Batch | None:
        """Makes n boards of which nothing is known; None for a task whose contexts say more."""
        length = self.spec.get("length")
        if length is None or "context_vocab" in self.spec or not self.spec.get("fixed", True):
            return None
        unknown = torch.full((n, length), -1)
        return Batch(torch.zeros_like(unknown), unknown)

    def start(self, batch: Batch, *, generator: Generator | None = None) -> Tensor:
        """Draws standard normal logits (B, S, V); what is known is sure from the start."""
        context, vocab = batch.context, self.spec["vocab_size"]
        logits = torch.randn((*context.shape, vocab), generator=generator, device=context.device)
        known = ~self.unknown(context)
        sure = F.one_hot(torch.where(known, context, 0), vocab).to(logits).log().clamp(min=LEAST)
        return torch.where(known.unsqueeze(-1), sure, logits)

    def answers(self, y: Tensor, context: Tensor) -> Tensor:
        """Reads answers (*more, B, S) off y (*more, B, S, V + hidden): the likeliest symbols, and what is known."""
        likeliest = y[..., : self.spec["vocab_size"]].argmax(-1)
        return torch.where(self.unknown(context), likeliest, context.clamp(max=self.spec["vocab_size"] - 1))

    def unknown(self, context: Tensor) -> Tensor:
        """Marks the positions (B, S) that are asked for."""
        return context < 0

    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        """Averages the cross-entropy in nats over unknown positions: (*more, B)."""
        return self.nats(y, batch) / self.unknown(batch.context).sum(-1).clamp(min=1)

    def nats(self, y: Tensor, batch: Batch) -> Tensor:
        """Computes −log p of the whole answer, its unknown positions taken as independent: (*more, B)."""
        vocab, shape = self.spec["vocab_size"], tuple(batch.target.shape)
        if y.shape[-3:-1] != shape or y.shape[-1] < vocab:
            raise ValueError(f"y has shape {tuple(y.shape)}: it must end in {(*shape, vocab)}, logits for each position")
        target = batch.target.expand(y.shape[:-1])
        loss = F.cross_entropy(y[..., :vocab].flatten(0, -2), target.flatten(), reduction="none").view(target.shape)
        return (loss * self.unknown(batch.context)).sum(-1)

    def scores(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        answer, asked = self.answers(prediction.y, batch.context), self.unknown(batch.context)
        right = ((answer == batch.target) & asked).sum(-1) / asked.sum(-1).clamp(min=1)
        return {"solved": self.accepts(answer, batch).float(), "cells": right, "loss": self.distance(prediction.y.float(), batch)}


class Turned(RowsOf):
    """Serves rows that are turned into others, by a stream of the seed and of which rows they are."""

    def __init__(self, rows: Batch, turn: Callable[[Batch, Generator], Batch], seed: int) -> None:
        super().__init__(rows)
        self.turn, self.seed = turn, seed

    def __getitem__(self, index: Any) -> Batch:
        return self.turn(self.rows.rows(index), stream(self.seed, "turned", str(index)))

    __getitems__ = __getitem__


def revealed(batch: Batch, generator: Generator, share: float = 0.5) -> Batch:
    """Gives further positions of the answer away, up to all, in a share of the problems.

    So training holds problems of every difficulty, from their own to nearly solved ones.
    """
    rows = len(batch.target)
    chance = torch.rand(rows, 1, generator=generator) * (torch.rand(rows, 1, generator=generator) < share)
    shown = torch.rand(batch.target.shape, generator=generator) < chance
    return batch._replace(context=torch.where(shown, batch.target, batch.context))


def shuffled(rows: int, groups: int, size: int, generator: Generator) -> Tensor:
    """Draws orders (rows, groups * size) of lines: of the groups, and of the lines in each.

    >>> order = shuffled(1, 2, 3, torch.Generator().manual_seed(0))[0]
    >>> sorted(order[:3].tolist()) in ([0, 1, 2], [3, 4, 5]), sorted(order.tolist()) == list(range(6))
    (True, True)
    """
    groups_first = torch.rand(rows, groups, generator=generator).argsort(-1)
    within = torch.rand(rows, groups, size, generator=generator).argsort(-1)
    return (groups_first[..., None] * size + within).flatten(1)
