"""Questions with an answer each, to judge a language model by how well it predicts the answers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ebm.interfaces import Batch, Prediction, Predictor
from ebm.tasks.rows import SPLITS, RowsOf
from ebm.tasks.text.answering import written
from ebm.tasks.text.corpora import read_rows
from ebm.tasks.text.formats import FORMATS, HUBS, Question, questions_in
from ebm.tasks.text.metrics.choices import choices
from ebm.tasks.text.metrics.final_number import final_number
from ebm.tasks.text.metrics.overlap import overlap
from ebm.tasks.text.tokenizers import Tokenizer, make_tokenizer
from ebm.tasks.text.tokens import TokenTask
from ebm.words import nearest

Encoded: TypeAlias = tuple[list[int], list[int]]  # the tokens before an answer, and the answer's, with an end-of-text

# format -> how a written answer is scored, and what ends it; a rule returns nothing where it does not apply
RULES: dict[str, tuple[Callable[[str, Sequence[str]], dict[str, float]], Sequence[str]]] = {
    "gsm8k": (final_number, ["[[Question]]"]),
    "squad": (overlap, ["\n"]),
}


class Questions(TokenTask):
    """Questions and answers as next-token prediction, in which the answers alone count.

    A row is end-of-text, prompt, answer, end-of-text, as a document of `Text` begins and ends; the
    tokens of the answer and its end have weight 1, all others 0. A prompt that is too long loses
    its beginning, the answer stays whole; a row whose answer is longer than the context is left out.
    Both are counted, with a warning. This is a set to evaluate on: every split serves the same rows.

    A format of one's own is a function of a row in `FORMATS`: `FORMATS["mine"] = lambda row:
    (row["q"], " " + row["a"])`, or a `Question` with references or choices. `RULES["mine"]` may say
    how written answers are scored.

    Arguments:
        data: a file, folder or glob of .json, .jsonl or .parquet, or a hub dataset; the format's
            own hub dataset if None.
        format: the fields of a row: "gsm8k" (question, answer), "squad" (context, question,
            answers; or the official file), "arc" (question, choices, answerKey), "lambada" (text,
            whose last word is the answer), "bigbench" (inputs, targets, multiple_choice_targets and
            multiple_choice_scores where there are choices).
        tokenizer: "bytes", a Hugging Face tokenizer's folder, tokenizer.json or name, or a tokenizer,
            such as a `Text`'s.
        end_token: the token that ends a row, where a Hugging Face tokenizer names none, or another.
        special_tokens: whether special tokens that a row names are encoded whole.
        context: tokens of a row at most, answer included.
        config: the hub dataset's configuration; the format's own if None.
        hub_split: the hub dataset's split; the format's own if None.
        start: where thinking starts, "uniform" or "noise".
        limit: how many rows are taken at most, in their order.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a package that the data need is not installed.
        ValueError: the data or the tokenizer cannot be read, a row is not of the format, no answer
            fits into the context, or an argument is out of range.

    >>> import json, tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     file.write(json.dumps({"question": "6 x 7?", "answer": "42"})) and file.flush()
    ...     task = Questions(file.name, "gsm8k", context=64)
    >>> target, _, weight = next(iter(task.loader("test", 1)))
    >>> task.tokenizer.decode(target[weight > 0].tolist())
    ' 42'
    """

    rows_begin_with_end = True

    def __init__(
        self,
        data: str | None = None,
        format: str = "gsm8k",
        tokenizer: str | Tokenizer = "bytes",
        context: int = 256,
        *,
        end_token: str | None = None,
        special_tokens: bool = False,
        config: str | None = None,
        hub_split: str | None = None,
        start: Literal["uniform", "noise"] = "uniform",
        limit: int | None = None,
    ) -> None:
        super().__init__(start)
        if format not in FORMATS:
            raise ValueError(f"unknown format {format!r}: {nearest(format, FORMATS)}")
        for name, value in (("context", context), ("limit", limit)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1")
        if tokenizer == "bpe":
            raise ValueError("tokenizer='bpe' is learned from text: pass a Text's, as in tokenizer=text.tokenizer")
        self.tokenizer = make_tokenizer(tokenizer, list, end_token=end_token, special_tokens=special_tokens)
        self.format, self.context_length, self.spec = format, context, {"vocab_size": self.tokenizer.vocab_size}
        hub, usual, split = HUBS.get(format, (None, None, "test"))
        source = hub if data is None else data
        if source is None:
            raise ValueError(f"format={format!r} has no hub dataset of its own: name the data")
        config = usual if config is None and source == hub else config
        way_out = f"--task.data rows.jsonl, a local file with rows of {format!r}, needs no network"
        table = read_rows(source, config, hub_split or (split if source == hub else "test"), way_out=way_out)
        self.left_out = {"too long": 0, "without an answer": 0}  # questions, by the reason
        self._questions: list[Question] = []
        asked: list[Encoded] = []
        offered: list[Encoded] = []
        self._owner: list[int] = []  # of each offered answer, the question
        self._cut: list[bool] = []  # of each question, whether its prompt lost its beginning
        first = ""
        found = ((index, each) for index, row in enumerate(table) for each in _adapted(source, format, index, row))
        for index, question in found:
            if len(asked) == limit:
                break
            if not question.answer.strip():
                self.left_out["without an answer"] += 1
                continue
            texts = [question.answer, *question.choices]
            prompt, *ids = self.tokenizer.encode_batch([question.prompt, *texts])
            if (longest := max(map(len, ids))) + 1 > context:
                count = f"{longest} tokens and an end-of-text"
                first = first or f"{source}, row {index}: the answer has {count}, more than context={context}"
                self.left_out["too long"] += 1
                continue
            rows = [self._row(prompt, answer) for answer in ids]
            self._owner += [len(asked)] * len(question.choices)
            self._questions.append(question)
            self._cut.append(len(prompt) + 1 + len(ids[0]) > context)
            asked.append(rows[0])
            offered += rows[1:]
        if not asked:
            raise ValueError(first or f"{source}: no row has an answer, of {len(table)}")
        self.reads = f"{len(asked):,} questions of {source}"
        if first:
            few = f"{self.left_out['too long']} of {self.left_out['too long'] + len(asked)} questions are left out"
            warnings.warn(f"{few}, as too long: {first}", stacklevel=2)
        if cut := sum(self._cut):
            warnings.warn(
                f"{source}: {cut} of {len(asked)} prompts lost their beginning: with context={context} there is no room",
                stacklevel=2,
            )
        self._bytes = sum(len(question.answer.encode()) + 1 for question in self._questions)
        self._asked = self._batch(asked)
        self._offered = self._batch(offered) if offered else None

    def _row(self, prompt: np.ndarray, answer: np.ndarray) -> Encoded:
        end = self.tokenizer.end
        before = [end, *prompt.tolist()][-(self.context_length - len(answer)) :]
        return before, [*answer.tolist(), end]

    def _batch(self, rows: list[Encoded]) -> Batch:
        length = self.context_length
        ids = torch.full((len(rows), length + 1), self.tokenizer.end)
        weight = torch.zeros(len(rows), length)
        for place, (before, after) in enumerate(rows):
            ids[place, : len(before) + len(after)] = torch.tensor(before + after)
            weight[place, len(before) - 1 : len(before) + len(after) - 1] = 1
        return Batch(ids[:, 1:], ids[:, :-1], weight)

    def data(self, split: str, *, seed: int = 0) -> Dataset[Batch]:
        """Serves the rows, which are the same for every split; ValueError for an unknown one."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: {nearest(split, SPLITS)}")
        return RowsOf(self._asked)

    def bytes_per_token(self, split: str) -> float | None:
        """Divides the answers' bytes by their tokens; an end-of-text counts as one byte."""
        self.data(split)  # checks the name
        return self._bytes / self._asked.weight.sum().item()  # type: ignore[union-attr]  # answers have weights

    def scores(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Scores tokens as every token task does, and spreads an answer's scores over its tokens.

        `evaluate` reports `answer_accuracy`: the share of answers whose every token is right. Those
        of "lambada" are judged without their end-of-text: a text goes on after its last word.
        """
        assert batch.weight is not None
        found = super().scores(prediction, batch)
        counts = batch.weight if self.format != "lambada" else _without_end(batch.weight)
        right = ((prediction.y.argmax(-1) == batch.target) | (counts == 0)).all(-1, keepdim=True)
        share = (1 / batch.weight.sum(-1, keepdim=True)).expand_as(batch.weight)
        return found | {"answer": share, "answer_accuracy": right * share, "answer_loss": found["loss"] * counts}

    def conclude(self, scores: dict[str, Tensor], split: str) -> dict[str, float]:
        """Counts answers, not tokens, in what is said of answers; in "lambada", of words."""
        means = super().conclude(scores, split)
        share, loss = means.pop("answer"), means.pop("answer_loss")
        means["answer_accuracy"] /= share
        if self.format == "lambada":
            means |= {"accuracy": means["answer_accuracy"], "perplexity": math.exp(min(loss / share, 700.0))}
        return means

    def evaluate(
        self, predictor: Predictor, *, split: str = "test", limit: int | None = None, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """Judges the predicted answers of the first `limit` rows, given the true tokens before.

        Returns:
            what `scores` says, and what the format's benchmark counts. Of "lambada", `accuracy` and
            `perplexity` are those of last words. Of "gsm8k", `final_number` is the share of written
            solutions that end with the right number; of "squad", `exact_match` and `f1` are those of
            written answers (each takes the likeliest tokens). Where rows offer choices,
            `choice_accuracy` is the credit of the likeliest one, `choice_accuracy_normalized` that of
            the likeliest per character, both without end-of-text. `rows` are the answers judged,
            `rows_left_out` those that are longer than the context, `rows_cut` those whose prompts
            lost their beginning.
        """
        result = super().evaluate(predictor, split=split, limit=limit, generator=generator)
        asked = self._questions[:limit]
        if self._offered is not None and any(question.choices for question in asked):
            result |= _averaged(self._choose(predictor, self._offered, asked, generator))
        if self.format in RULES:
            result |= _averaged(self._write(predictor, asked, generator))
        cut = sum(self._cut[: len(asked)])
        return result | {"rows": float(len(asked)), "rows_left_out": float(self.left_out["too long"]), "rows_cut": float(cut)}

    @torch.no_grad()
    def _choose(
        self, predictor: Predictor, offered: Batch, asked: list[Question], generator: torch.Generator | None
    ) -> Iterator[dict[str, float]]:
        count = sum(len(question.choices) for question in asked)
        losses: list[float] = []
        for places in torch.arange(count).split(self.rows_at_once):
            batch = offered.rows(places).to("cpu" if generator is None else generator.device)
            found = predictor.predict(batch, self.starts(predictor, batch, generator=generator), generator=generator)
            assert batch.weight is not None
            losses += (self.distance(found.y.float(), batch) * _without_end(batch.weight)).sum(-1).tolist()
        for question in asked:
            own, losses = losses[: len(question.choices)], losses[len(question.choices) :]
            if own:
                yield choices(own, question.choices, question.credits)

    def _write(
        self, predictor: Predictor, asked: list[Question], generator: torch.Generator | None
    ) -> Iterator[dict[str, float]]:
        rule, stop = RULES[self.format]
        how: dict[str, Any] = {"stop": stop, "max_new_tokens": self.context_length, "generator": generator}
        asked = [each for each in asked if rule("", each.references or [each.answer])]  # those to which the rule applies
        for first in range(0, len(asked), self.rows_at_once):
            part = asked[first : first + self.rows_at_once]
            prompts = [[self.tokenizer.end, *ids.tolist()] for ids in self.tokenizer.encode_batch([each.prompt for each in part])]
            texts = written(predictor, self, self.tokenizer, [ids[-self.context_length :] for ids in prompts], **how)
            for text, question in zip(texts, part, strict=True):
                yield rule(text.strip(), question.references or [question.answer])


def _without_end(weight: Tensor) -> Tensor:
    """Takes the weight (B, S) of each row's last token, its end-of-text, away."""
    after = F.pad(weight, (0, 1))[:, 1:]
    return torch.where(after > 0, weight, 0.0)


def _averaged(scores: Iterable[dict[str, float]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for each in scores:
        for name, value in each.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def _adapted(source: str, format: str, index: int, row: Mapping[str, Any]) -> list[Question]:
    try:
        return questions_in(format, row)
    except KeyError as error:
        field = str(error.args[0])
        what = f"no field {field!r}, which {format!r} needs: {nearest(field, row)}"
        raise ValueError(f"{source}, row {index} has {what}") from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{source}, row {index} is not of the format {format!r} ({error}): {str(dict(row))[:200]}") from error
