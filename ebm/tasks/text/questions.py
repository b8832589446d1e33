"""Questions with an answer each, to judge a language model by how well it predicts the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ebm.interfaces import Batch, Prediction, Predictor
from ebm.tasks.rows import SPLITS, RowsOf
from ebm.tasks.text.corpora import read_rows
from ebm.tasks.text.tokenizers import Tokenizer, make_tokenizer
from ebm.tasks.text.tokens import TokenTask
from ebm.words import nearest


def _ask(question: str, answer: str) -> tuple[str, str]:
    # The space belongs to the answer, since that is how byte pairs begin a word.
    return f"[[Question]]: {question}\n[[Answer]]:", f" {answer}"


def _squad(row: Mapping[str, Any]) -> tuple[str, str] | None:
    answers = row["answers"]["text"]
    return _ask(f"{row['context']}\n{row['question']}", answers[0]) if len(answers) else None


def _arc_choices(row: Mapping[str, Any]) -> tuple[list[str], int]:
    choices = row["choices"]
    return [f" {text}" for text in choices["text"]], list(choices["label"]).index(row["answerKey"])


def _lambada(row: Mapping[str, Any]) -> tuple[str, str] | None:
    text = row["text"].rstrip()
    word = text.split()[-1]
    prompt = text.removesuffix(word)
    return prompt.rstrip(), prompt[len(prompt.rstrip()) :] + word


# format -> what makes a row's prompt and answer, or None for a row without one, which is left out
FORMATS: dict[str, Callable[[Mapping[str, Any]], tuple[str, str] | None]] = {
    "gsm8k": lambda row: _ask(row["question"], row["answer"]),
    "squad": _squad,
    "arc": lambda row: _ask(row["question"], row["choices"]["text"][_arc_choices(row)[1]]),
    "lambada": _lambada,
    "bigbench": lambda row: _ask(row["inputs"], row["targets"][0]) if len(row["targets"]) else None,
}
# format -> what lists a row's possible answers, and which of them is right
CHOICES: dict[str, Callable[[Mapping[str, Any]], tuple[list[str], int]]] = {"arc": _arc_choices}
# format -> hub dataset, configuration, split
HUBS = {
    "gsm8k": ("openai/gsm8k", "main", "test"),
    "squad": ("rajpurkar/squad_v2", None, "validation"),
    "arc": ("allenai/ai2_arc", "ARC-Challenge", "test"),
    "lambada": ("EleutherAI/lambada_openai", "en", "test"),
    "bigbench": ("tasksource/bigbench", "elementary_math_qa", "validation"),
}


class Questions(TokenTask):
    """Questions and answers as next-token prediction, in which the answers alone count.

    A row is end-of-text, prompt, answer, end-of-text, as a document of `Text` begins and ends; the
    tokens of the answer and its end have weight 1, all others 0. A prompt that is too long loses
    its beginning, the answer stays whole. This is a set to evaluate on: every split serves the same
    rows.

    A format of one's own is a function of a row in `FORMATS`: `FORMATS["mine"] = lambda row:
    (row["q"], " " + row["a"])`.

    Arguments:
        data: a file, folder or glob of .json, .jsonl or .parquet, or a hub dataset; the format's
            own hub dataset if None.
        format: the fields of a row: "gsm8k" (question, answer), "squad" (context, question,
            answers), "arc" (question, choices, answerKey), "lambada" (text, whose last word is the
            answer), "bigbench" (inputs, targets).
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
        ValueError: the data or the tokenizer cannot be read, a row is not of the format, an answer
            is longer than the context, or an argument is out of range.

    >>> import json, tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     file.write(json.dumps({"question": "6 x 7?", "answer": "42"})) and file.flush()
    ...     task = Questions(file.name, "gsm8k", context=64)
    >>> target, _, weight = next(iter(task.loader("test", 1)))
    >>> task.tokenizer.decode(target[weight > 0].tolist())
    ' 42'
    """

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
        self.context_length, self.spec = context, {"vocab_size": self.tokenizer.vocab_size}
        hub, usual, split = HUBS.get(format, (None, None, "test"))
        source = hub if data is None else data
        if source is None:
            raise ValueError(f"format={format!r} has no hub dataset of its own: name the data")
        config = usual if config is None and source == hub else config
        way_out = f"--task.data rows.jsonl, a local file with rows of {format!r}, needs no network"
        table = read_rows(source, config, hub_split or (split if source == hub else "test"), way_out=way_out)
        asked: list[tuple[int, str, str]] = []
        offered: list[tuple[int, str, str]] = []
        self._owner: list[int] = []  # of each offered answer, the row
        self._right: list[int] = []  # of each row, which offered answer is right
        for index, row in enumerate(table):
            if len(asked) == limit:
                break
            prompt, answer = _adapted(FORMATS[format], source, format, index, row) or ("", "")
            if not answer.strip():
                continue
            if format in CHOICES:
                texts, right = _adapted(CHOICES[format], source, format, index, row)
                offered += [(index, prompt, text) for text in texts]
                self._owner += [len(asked)] * len(texts)
                self._right.append(right)
            asked.append((index, prompt, answer))
        if not asked:
            raise ValueError(f"{source}: no row has an answer, of {len(table)}")
        self.reads = f"{len(asked):,} questions of {source}"
        self._bytes = sum(len(answer.encode()) + 1 for _, _, answer in asked)
        self._asked = self._encode(source, asked)
        self._offered = self._encode(source, offered) if offered else None

    def _encode(self, source: str, rows: list[tuple[int, str, str]]) -> Batch:
        length, end = self.context_length, self.tokenizer.end
        ids = torch.full((len(rows), length + 1), end)
        weight = torch.zeros(len(rows), length)
        prompts = self.tokenizer.encode_batch([prompt for _, prompt, _ in rows])
        answers = self.tokenizer.encode_batch([answer for *_, answer in rows])
        for place, ((index, *_), prompt, answer) in enumerate(zip(rows, prompts, answers, strict=True)):
            if len(answer) + 1 > length:
                count = f"{len(answer)} tokens and an end-of-text"
                raise ValueError(f"{source}, row {index}: the answer has {count}, more than context={length}")
            before = [end, *prompt.tolist()][-(length - len(answer)) :]
            whole = [*before, *answer.tolist(), end]
            ids[place, : len(whole)] = torch.tensor(whole)
            weight[place, len(before) - 1 : len(whole) - 1] = 1
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
        """Scores tokens as every token task does, and spreads an answer's score over its tokens.

        `evaluate` reports `answer_accuracy`: the share of answers whose every token is right.
        """
        assert batch.weight is not None
        right = ((prediction.y.argmax(-1) == batch.target) | (batch.weight == 0)).all(-1, keepdim=True)
        share = (1 / batch.weight.sum(-1, keepdim=True)).expand_as(batch.weight)
        return super().scores(prediction, batch) | {"answer": share, "answer_accuracy": right * share}

    def conclude(self, scores: dict[str, Tensor], split: str) -> dict[str, float]:
        """Counts answer accuracy among answers, not among tokens."""
        means = super().conclude(scores, split)
        means["answer_accuracy"] /= means.pop("answer")
        return means

    def evaluate(
        self, predictor: Predictor, *, split: str = "test", limit: int | None = None, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """Judges the predicted answers of the first `limit` rows, given the true tokens before.

        Returns:
            what `scores` says; and `choice_accuracy`, the share of rows whose right choice has the
            lowest mean cross-entropy of all choices, where a row offers several.
        """
        result = super().evaluate(predictor, split=split, limit=limit, generator=generator)
        if self._offered is not None:
            result["choice_accuracy"] = self._choose(predictor, self._offered, limit, generator)
        return result

    @torch.no_grad()
    def _choose(self, predictor: Predictor, offered: Batch, limit: int | None, generator: torch.Generator | None) -> float:
        truth = torch.tensor(self._right[:limit])
        owner = torch.tensor([row for row in self._owner if row < len(truth)])
        scores = []
        for places in torch.arange(len(owner)).split(self.rows_at_once):
            batch = offered.rows(places).to("cpu" if generator is None else generator.device)
            found = predictor.predict(batch, self.starts(predictor, batch, generator=generator), generator=generator)
            assert batch.weight is not None
            scores.append(((self.distance(found.y.float(), batch) * batch.weight).sum(-1) / batch.weight.sum(-1)).cpu())
        chosen = torch.stack([part.argmin() for part in torch.cat(scores).split(torch.bincount(owner).tolist())])
        return (chosen == truth).double().mean().item()


def _adapted(adapt: Callable[[Mapping[str, Any]], Any], source: str, format: str, index: int, row: Mapping[str, Any]) -> Any:
    try:
        return adapt(row)
    except KeyError as error:
        field = str(error.args[0])
        what = f"no field {field!r}, which {format!r} needs: {nearest(field, row)}"
        raise ValueError(f"{source}, row {index} has {what}") from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{source}, row {index} is not of the format {format!r} ({error}): {str(dict(row))[:200]}") from error
