"""How questions and answers are written as ids, and read back."""

from __future__ import annotations

import pytest
import torch
from ebm_reasoning_gym.texts import Texts, frame_of
from hypothesis import given
from hypothesis import strategies as st

LETTERS = "abc =\n"


@given(st.text(LETTERS, min_size=1, max_size=8), st.text(LETTERS, max_size=5))
def test_texts_come_back(question: str, answer: str) -> None:
    texts = Texts(LETTERS, "", "", 8, 5)
    core = texts.core(question)
    if not core:
        return
    target, context = texts.target(question, answer), texts.context(question)
    assert texts.question_of(target.tolist()) == texts.question_of(context.tolist()) == core
    assert texts.answer_of(target.tolist()) == answer
    assert torch.equal(context[:8], target[:8])
    assert bool((context[8:] == -1).all())


@given(st.lists(st.text("ab ", max_size=6), min_size=1, max_size=5), st.sampled_from(["", "say ", "say it "]))
def test_a_frame_is_what_all_begin_and_end_with(cores: list[str], before: str) -> None:
    questions = [f"{before}{core} ?" for core in cores]
    found = frame_of(questions)
    assert all(question.startswith(found[0]) and question.endswith(found[1]) for question in questions)
    assert len({question.removeprefix(found[0]).removesuffix(found[1]) for question in questions}) == len(set(questions))


def test_a_question_is_read_with_and_without_its_frame() -> None:
    texts = Texts("+12", "What is ", " ?", 5, 2)
    assert texts.context("What is 1+2 ?").tolist() == texts.context(" 1+2\n").tolist() == texts.context("1+2 ?").tolist()
    assert texts.whole("1+2") == "What is 1+2 ?"


@pytest.mark.parametrize(
    ("question", "told"), [("1+2+1+2", "has 7 characters"), ("", "has 0 characters"), ("1-x", r"characters '-x'")]
)
def test_what_cannot_be_a_question_is_refused(question: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Texts("+12", "", "", 5, 2).context(question)


def test_a_long_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 2 have room"):
        Texts("+12", "", "", 5, 2).target("1+1", "121")
