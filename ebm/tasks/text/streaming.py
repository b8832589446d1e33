"""Serves windows of tokens of documents that are read as they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ebm.interfaces import Batch
from ebm.randomness import stream
from ebm.tasks.text.lanes import Lanes
from ebm.tasks.text.packing import Windows
from ebm.tasks.text.shards import Stream
from ebm.tasks.text.tokenizers import Tokenizer


class StreamedWindows(IterableDataset[Batch]):
    """Packs streamed documents into windows as they come; each worker packs its own shards.

    Arguments:
        sources: the shards of each source.
        shares: how often a source's window is drawn; a source that ends begins anew until all have
            ended once.
        tokenizer: what makes tokens of the documents.
        context: tokens of a window.
        buffer: windows that are drawn from; None keeps shards and windows in their order.
        seed: of the draws.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Stream]],
        shares: Sequence[float],
        tokenizer: Tokenizer,
        context: int,
        *,
        buffer: int | None,
        seed: int,
    ) -> None:
        self.sources, self.shares, self.tokenizer, self.context = sources, shares, tokenizer, context
        self.buffer, self.seed = buffer, seed

    def lanes(self, batch_size: int) -> Lanes:
        """Serves the same documents without end, in lanes that processes share."""
        how: dict[str, Any] = {"buffer": self.buffer or 1, "seed": self.seed, "batch_size": batch_size}
        return Lanes(self.sources, self.shares, self.tokenizer, self.context, **how)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        index, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if self.buffer is None:
            yield from self._windows([shard for shards in self.sources for shard in shards][index::count])
            return
        orders = stream(self.seed, "shards")  # of all workers together
        shuffled = [[shards[place] for place in torch.randperm(len(shards), generator=orders)] for shards in self.sources]
        generator = stream(self.seed, "buffer", index)
        held: list[Batch] = []
        for window in self._mixed([shards[index::count] for shards in shuffled], generator):
            held.append(window)
            if len(held) == self.buffer:
                chosen = int(torch.randint(len(held), (), generator=generator))
                held[chosen], held[-1] = held[-1], held[chosen]
                yield held.pop()
        yield from (held[place] for place in torch.randperm(len(held), generator=generator).tolist())

    def _mixed(self, sources: Sequence[Sequence[Stream]], generator: torch.Generator) -> Iterator[Batch]:
        if len(sources) == 1:
            yield from self._windows(sources[0])
            return
        windows = [self._windows(shards) for shards in sources]
        begun, shares = {*range(len(sources))}, torch.tensor(self.shares)
        while begun:
            chosen = int(torch.multinomial(shares, 1, generator=generator))
            window = next(windows[chosen], None)
            if window is None:
                begun.discard(chosen)
                windows[chosen] = self._windows(sources[chosen])
                window = next(windows[chosen], None) if begun else None
            if window is not None:
                yield window

    def _windows(self, shards: Iterable[Iterable[str]]) -> Iterator[Batch]:
        end = np.array([self.tokenizer.end], np.int32)
        left = end
        for shard in shards:
            for document in shard:
                left = np.concatenate([left, *self.tokenizer.encode_batch([document]), end], dtype=np.int32)
                full = (len(left) - 1) // self.context * self.context
                yield from self._rows(left[: full + 1])
                left = left[full:]
        yield from self._rows(left)

    def _rows(self, ids: np.ndarray) -> Iterator[Batch]:
        windows = Windows(ids, self.context, self.tokenizer.end)
        return (windows[row] for row in range(len(windows)))
