"""The task over reasoning-gym itself, where it is installed."""

from __future__ import annotations

import pytest
import torch
from ebm_reasoning_gym import ReasoningGym

from ebm import recipes
from ebm.testing import check_task

pytest.importorskip("reasoning_gym", reason="reasoning-gym is optional")

CASES = {
    "chain_sum": {"question_length": 8, "answer_length": 4, "options": {"max_terms": 2, "min_digits": 2, "max_digits": 2}},
    "basic_arithmetic": {},
    "letter_counting": {"question_length": 128},
    "spell_backward": {"question_length": 12, "answer_length": 12},
    "prime_factorization": {"question_length": 8, "answer_length": 24},  # its verifier raises on what is no number
    "list_functions": {"question_length": 600, "answer_length": 40},  # draws from a global generator
}


@pytest.mark.parametrize("name", CASES)
def test_data_sets_keep_the_laws_and_accept_their_own_answers(name: str) -> None:
    def made() -> ReasoningGym:
        return ReasoningGym(name, n=300, **CASES[name])

    check_task(made)
    task = made()
    batch = task.rows("test")
    assert bool(task.accepts(batch.target, batch).all())
    none = batch.context.clamp(min=0)
    assert float(task.accepts(none, batch).float().mean()) == 0


def test_other_spellings_of_a_number_are_right() -> None:
    task = ReasoningGym("chain_sum", n=100, **CASES["chain_sum"])
    core, item = next((core, item) for core, item in task.entries.items() if 9 < int(item["answer"]) < 100)
    target, context = task.texts.target(core, item["answer"])[None], task.read(core)[None]
    zeros = task.texts.target(core, f"0{item['answer']}")[None]
    batch = task.rows("train").rows(slice(1))._replace(target=target, context=context)
    assert task.accepts(torch.stack([target, zeros]), batch).tolist() == [[True], [True]]


def test_names_and_options_are_checked_against_the_package() -> None:
    with pytest.raises(ValueError, match="did you mean 'chain_sum'"):
        ReasoningGym("chain_sums")
    with pytest.raises(ValueError, match="did you mean 'max_terms'"):
        ReasoningGym("chain_sum", options={"max_term": 2})
    with pytest.raises(ValueError, match="max_terms must be >= min_terms"):
        ReasoningGym("chain_sum", options={"max_terms": 1})


def test_the_recipe_builds_and_takes_a_step() -> None:
    parts = recipes.assemble(recipes.resolve(recipes.load("reasoning-gym"), {"task.n": "400"}))
    batch = next(iter(parts.task.loader("train", 8)))
    loss = parts.objective(parts.energy, batch, generator=torch.Generator().manual_seed(0))
    loss.value.backward()
    assert bool(torch.isfinite(loss.value))
