"""How the rows of question sets are read: a prompt, its answer, and what else is offered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

Row: TypeAlias = Mapping[str, Any]


class Question(NamedTuple):
    """A prompt and what may follow it."""

    prompt: str
    answer: str  # which is scored token by token
    references: Sequence[str] = ()  # what a written answer is compared with; the answer alone where there are none
    choices: Sequence[str] = ()
    credits: Sequence[float] = ()  # what each choice earns


def _ask(question: str) -> str:
    return f"[[Question]]: {question}\n[[Answer]]:"


def _said(answer: str) -> str:
    return f" {answer}"  # the space belongs to the answer, since that is how byte pairs begin a word


def _gsm8k(row: Row) -> Question:
    return Question(_ask(row["question"]), _said(row["answer"]))


def _squad(row: Row) -> list[Question]:
    """Reads a row of the hub's data set, or the whole file of the official one, with many questions."""
    if "data" in row:
        return [question for part in row["data"] for question in _squad(part)]
    if "paragraphs" in row:
        asked = [{**part, "context": each["context"]} for each in row["paragraphs"] for part in each["qas"]]
        return [question for part in asked for question in _squad(part)]
    answers = row["answers"]
    texts = list(answers["text"]) if isinstance(answers, Mapping) else [each["text"] for each in answers]
    prompt = _ask(f"{row['context']}\n{row['question']}")
    return [Question(prompt, _said(texts[0]), texts)] if texts else [Question(prompt, "")]


def _arc(row: Row) -> Question:
    """Reads a row of the hub's data set, or of the original files, whose question holds the choices."""
    question, choices = row["question"], row.get("choices")
    if isinstance(question, Mapping):
        question, choices = question["stem"], question["choices"]
    if choices is None:
        raise KeyError("choices")
    if not isinstance(choices, Mapping):
        choices = {key: [each[key] for each in choices] for key in ("text", "label")}
    right = list(choices["label"]).index(row["answerKey"])
    texts = [_said(text) for text in choices["text"]]
    return Question(_ask(question), texts[right], (), texts, [float(place == right) for place in range(len(texts))])


def _lambada(row: Row) -> Question:
    text = row["text"].rstrip()
    word = text.split()[-1]
    prompt = text.removesuffix(word)
    return Question(prompt.rstrip(), prompt[len(prompt.rstrip()) :] + word)


def _bigbench(row: Row) -> Question:
    texts, credits = list(row.get("multiple_choice_targets") or ()), list(row.get("multiple_choice_scores") or ())
    if len(texts) != len(credits):
        raise ValueError(f"{len(texts)} multiple_choice_targets, but {len(credits)} multiple_choice_scores")
    best = [texts[credits.index(max(credits))]] if texts else []
    targets = list(row["targets"]) or best
    return Question(_ask(row["inputs"]), _said(targets[0]) if targets else "", targets, [_said(text) for text in texts], credits)


# format -> what makes a row's question, or several: `Question`s, or pairs of a prompt and an answer.
# None, or an empty answer, is a row without one, which is left out.
FORMATS: dict[str, Callable[[Row], Any]] = {
    "gsm8k": _gsm8k,
    "squad": _squad,
    "arc": _arc,
    "lambada": _lambada,
    "bigbench": _bigbench,
}
# format -> hub dataset, configuration, split
HUBS = {
    "gsm8k": ("openai/gsm8k", "main", "test"),
    "squad": ("rajpurkar/squad_v2", None, "validation"),
    "arc": ("allenai/ai2_arc", "ARC-Challenge", "test"),
    "lambada": ("EleutherAI/lambada_openai", "en", "test"),
    "bigbench": ("tasksource/bigbench", "elementary_math_qa", "validation"),
}


def format_of(fields: Iterable[str]) -> str | None:
    """Tells the format of rows by their fields; None where they are no questions.

    >>> format_of(["question", "answer"]), format_of(["inputs", "targets", "idx"]), format_of(["text"])
    ('gsm8k', 'bigbench', None)
    """
    there = set(fields)
    marks = {
        "bigbench": [{"inputs", "targets"}],
        "arc": [{"question", "answerKey"}],
        "squad": [{"context", "question", "answers"}, {"paragraphs"}, {"data", "version"}],
        "gsm8k": [{"question", "answer"}],
    }
    return next((name for name, any_of in marks.items() if any(needed <= there for needed in any_of)), None)


def questions_in(format: str, row: Row) -> list[Question]:
    """Lists the questions of a row; KeyError and its kind where it is not of the format."""
    found = FORMATS[format](row)
    many = found if isinstance(found, list) else [] if found is None else [found]
    return [each if isinstance(each, Question) else Question(*each) for each in many]
