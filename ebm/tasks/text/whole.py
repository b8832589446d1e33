"""A text of one's own, all of it, to judge a language model by."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ebm.interfaces import Batch
from ebm.tasks.rows import SPLITS, RowsOf
from ebm.tasks.text.corpora import BUNDLED, documents, read_rows
from ebm.tasks.text.formats import format_of
from ebm.tasks.text.questions import Questions
from ebm.tasks.text.tokenizers import Tokenizer, make_tokenizer
from ebm.tasks.text.tokens import TokenTask
from ebm.words import nearest


class WholeText(TokenTask):
    """All documents of a source as next-token prediction: each token counts exactly once.

    Documents are joined and cut into windows as those of a `Text` are, so that the numbers compare;
    end-of-texts count as tokens. Every split serves the same rows.

    Arguments:
        source: as of a `Text`.
        tokenizer: "bytes", a Hugging Face tokenizer, or a `Text`'s.
        context: tokens that a window predicts.
        column: where the text of a row is.
        start: where thinking starts, "uniform" or "noise".

    Raises:
        FileNotFoundError, ImportError, ValueError: as `documents` and `make_tokenizer` say.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
    ...     file.write("In the beginning") and file.flush()
    ...     task = WholeText(file.name, context=12)
    >>> [int(batch.weight.sum()) for batch in task.loader("test", 2)]    # 16 bytes and an end-of-text
    [17]
    """

    def __init__(
        self,
        source: str,
        tokenizer: str | Tokenizer = "bytes",
        context: int = 128,
        *,
        column: str = "text",
        start: Literal["uniform", "noise"] = "uniform",
    ) -> None:
        super().__init__(start)
        if context < 1:
            raise ValueError(f"context={context}: it must be at least 1")
        self.tokenizer = make_tokenizer(tokenizer, list)
        self.context_length, self.spec = context, {"vocab_size": self.tokenizer.vocab_size}
        texts = documents(source, column=column)
        self.reads = f"{len(texts):,} documents of {source}"
        end = np.array([self.tokenizer.end], np.int64)
        parts = [part for ids in self.tokenizer.encode_batch(texts) for part in (ids, end)]
        ids = torch.from_numpy(np.concatenate([end, *parts], dtype=np.int64))
        count = len(ids) - 1
        self._bytes_per_token = sum(len(text.encode()) + 1 for text in texts) / count
        windows = F.pad(ids, (0, -count % context), value=self.tokenizer.end).unfold(0, context + 1, context)
        counts = (torch.arange(windows[:, 1:].numel()) < count).to(torch.get_default_dtype())
        self._rows = Batch(windows[:, 1:], windows[:, :-1], counts.view(-1, context))

    def data(self, split: str, *, seed: int = 0) -> Dataset[Batch]:
        """Serves the windows, which are the same for every split; ValueError for an unknown one."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: {nearest(split, SPLITS)}")
        return RowsOf(self._rows)

    def bytes_per_token(self, split: str) -> float:
        """Divides the text's bytes by its tokens; an end-of-text counts as one byte."""
        return self._bytes_per_token

    def conclude(self, scores: dict[str, Tensor], split: str) -> dict[str, float]:
        """Averages scores as every token task does, and counts `tokens`."""
        return super().conclude(scores, split) | {"tokens": scores["weight"].sum().item()}


def task_of(data: str, like: Any, format: str | None = None, column: str = "text") -> TokenTask:
    """Makes the task that judges by data of one's own, with another task's tokenizer and context.

    Arguments:
        data: a file, folder, glob or hub dataset of documents, or of a question set.
        like: the task that a model was trained on.
        format: "text", or a format of `Questions`; by default what the fields of the rows say.
        column: where the text of documents is.
    """
    how: dict[str, Any] = {
        "tokenizer": like.tokenizer,
        "context": like.context_length,
        "start": getattr(like, "starts_at", "uniform"),
    }
    if format is None:
        format = "text" if data in BUNDLED else format_of(_fields(read_rows(data))) or "text"
    return WholeText(data, column=column, **how) if format == "text" else Questions(data, format, **how)


def _fields(rows: Any) -> list[str]:
    """Names the fields of rows: of a dataset, or of the first of a list."""
    names = getattr(rows, "column_names", None)
    return list(names if names is not None else rows[0] if rows and isinstance(rows[0], dict) else [])
