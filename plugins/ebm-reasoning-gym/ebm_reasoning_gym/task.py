"""A data set of reasoning-gym as a task of whole answers, judged by the data set's own verifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ebm.interfaces import Batch
from ebm.randomness import own_randomness, subseed
from ebm.tasks import Answers, draw_splits
from ebm.words import nearest
from ebm_reasoning_gym.texts import Texts, frame_of

FEWEST = 10  # problems, so that each split has one


class ReasoningGym(Answers):
    """Questions and answers of a data set of reasoning-gym, written as characters.

    A batch's target holds a question and its answer (B, S) as ids of characters, padded, and its
    context the question, −1 where the answer goes. An answer is right where the data set's own
    verifier gives it the full score, so that `solved` may exceed the share of answers that are
    those of the data. `cells` counts padding as well: an answer has to end where it ends.

    Problems are different questions, of which 70 % are "train", 10 % "validation" and 20 % "test".
    Left out are questions that come again, that or whose answers do not fit, and those for which
    the data set has no answer; `reads` says how many.

    Source: Stojanovski et al., 2025, "Reasoning Gym: Reasoning Environments for Reinforcement
    Learning with Verifiable Rewards" (arXiv 2505.24760).

    Arguments:
        name: the data set, such as "chain_sum", "basic_arithmetic" or "letter_counting".
        n: how many items are drawn.
        question_length: positions of a question, without the words that all questions share.
        answer_length: positions of an answer.
        options: the data set's own keywords, such as {"max_terms": 2, "max_digits": 2}.
        seed: fixes the items, and which split they belong to.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: for an unknown data set, options that it refuses, lengths or numbers below 1, or
            where fewer than half of the items are left.

    For two numbers of chain_sum, questions such as "12 + 30" (without the words around them):

    >>> task = ReasoningGym("chain_sum", options={"max_terms": 2, "min_digits": 2, "max_digits": 2})  # doctest: +SKIP
    >>> task.spec, len(task.read("12 + 30"))                                                          # doctest: +SKIP
    ({'vocab_size': 14, 'positions': 72}, 72)
    """

    def __init__(
        self,
        name: str = "chain_sum",
        n: int = 6000,
        question_length: int = 64,
        answer_length: int = 8,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if min(n, question_length, answer_length) < 1:
            sizes = f"n={n}, question_length={question_length}, answer_length={answer_length}"
            raise ValueError(f"{sizes}: each is at least 1")
        own = subseed(seed, "reasoning-gym") % 2**31  # items of neighbouring seeds overlap: theirs is seed + index
        with own_randomness(own):  # a few data sets draw from global generators
            self.data = dataset_of(name, n, own, options or {})
            drawn = [self.data[index] for index in range(n)]
        answered = [item for item in drawn if isinstance(item["answer"], str) and item["answer"]]
        before, after = frame_of([item["question"].strip() for item in answered]) if answered else ("", "")
        texts = Texts("", before, after, question_length, answer_length)
        distinct: dict[str, Any] = {}
        for item in answered:
            distinct.setdefault(texts.core(item["question"]), item)
        self.entries = {
            core: item
            for core, item in distinct.items()
            if 1 <= len(core) <= question_length and len(item["answer"]) <= answer_length
        }
        left_out = {
            "without an answer": n - len(answered),
            "repeated": len(answered) - len(distinct),
            "too long": len(distinct) - len(self.entries),
        }
        told = ", ".join(f"{count:,} {why}" for why, count in left_out.items() if count)
        self.reads = f"{len(self.entries):,} problems of {name}, drawn" + (f" (left out: {told})" if told else "")
        if len(self.entries) < max(FEWEST, n / 2):
            longest = [max(map(len, found), default=0) for found in (distinct, (item["answer"] for item in distinct.values()))]
            way_out = f"the longest question has {longest[0]} characters, the longest answer {longest[1]}"
            raise ValueError(
                f"{name}: {len(self.entries)} of {n} items are left ({told or 'none left out'}), and "
                f"{max(FEWEST, -(-n // 2))} are needed: {way_out}, so choose lengths, options or n by that"
            )
        characters = sorted({c for core, item in self.entries.items() for c in core + item["answer"]})
        self.texts = texts._replace(characters="".join(characters))
        self.spec: dict[str, Any] = {"vocab_size": len(characters) + 1, "length": question_length + answer_length}
        target = torch.stack([self.texts.target(item["question"], item["answer"]) for item in self.entries.values()])
        context = target.clone()
        context[:, question_length:] = -1
        rows = Batch(target, context)
        self.splits = {split: rows.rows(index) for split, index in draw_splits(len(target), None, seed).items()}

    def accepts(self, answer: Tensor, batch: Batch) -> Tensor:
        """Tells which answers (*more, B, S) get the full score of the data set's verifier: (*more, B).

        Of a question that was not drawn nobody knows the answer: it is compared with the batch's
        target, and is not accepted where that has none.
        """
        entries = [self.entries.get(self.texts.question_of(ids)) for ids in batch.context.tolist()]
        known = [self.texts.answer_of(ids) for ids in batch.target.tolist()]
        told = []
        for index, ids in enumerate(answer.reshape(-1, answer.shape[-1]).tolist()):
            text, entry = self.texts.answer_of(ids), entries[index % len(entries)]
            told.append(self._score(text, entry) if entry is not None else bool(text) and text == known[index % len(entries)])
        keeps = ((answer == batch.context) | self.unknown(batch.context)).all(-1)
        return keeps & torch.tensor(told, dtype=torch.bool, device=answer.device).view(keeps.shape)

    def _score(self, text: str, entry: Any) -> bool:
        try:
            return float(self.data.score_answer(text, entry)) >= 1.0
        except Exception:  # some verifiers parse an answer as it is, and raise whatever that raises: it is none
            return False

    def read(self, text: str) -> Tensor:
        """Reads a question as a context (S,), with or without the words that all questions share.

        Raises:
            ValueError: it is empty, too long, or has a character that no problem has.
        """
        return self.texts.context(text)

    def judges(self, context: Tensor) -> bool:
        """Tells whether a question (S,) is among those that were drawn, which can be judged."""
        return self.texts.question_of(context.tolist()) in self.entries

    def show(self, answer: Tensor, context: Tensor) -> str:
        """Writes a question and its answer as text."""
        core = self.texts.question_of(context.tolist())
        return f"{self.texts.whole(core)}\n{self.texts.answer_of(answer.tolist())}"


def dataset_of(name: str, size: int, seed: int, options: Mapping[str, Any]) -> Any:
    """Makes a data set of reasoning-gym.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: for an unknown data set, or options that it refuses.
    """
    try:
        from reasoning_gym.factory import DATASETS, create_dataset  # lazy: it is optional
    except ImportError as error:
        raise ImportError(f"reasoning-gym cannot be imported ({error}): pip install reasoning-gym") from error
    if name not in DATASETS:
        raise ValueError(f"reasoning-gym has no data set {name!r}: {nearest(name, DATASETS)}")
    own = {"size": "the task's n", "seed": "the task's seed"}
    known = [option for option in DATASETS[name][1].__dataclass_fields__ if option not in own]
    for option in options:
        if option in own:
            raise ValueError(f"options={dict(options)}: {option} is {own[option]}")
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}: {nearest(option, known)}")
    try:
        return create_dataset(name, size=size, seed=seed, **options)
    except (AssertionError, TypeError, ValueError) as error:  # its own checks are assertions
        raise ValueError(f"{name} refuses options={dict(options)}: {error}") from error
