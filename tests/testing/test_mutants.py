"""The kit finds planted mistakes, each with a fitting message, and raises no false alarm.

Right components and mutants were written from the contract alone, not from the kit.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from ebm.testing import LawBroken, check_encoder, check_energy, check_objective, check_sampler, check_task
from tests.testing import (
    encoder_mutants,
    energy_mutants,
    more_objective_mutants,
    more_task_mutants,
    objective_mutants,
    sampler_mutants,
    task_mutants,
)

KINDS: dict[str, tuple] = {
    "encoder": (check_encoder, encoder_mutants),
    "energy": (check_energy, energy_mutants),
    "sampler": (check_sampler, sampler_mutants),
    "objective": (check_objective, objective_mutants),
    "objective, second author": (check_objective, more_objective_mutants),
    "task": (check_task, task_mutants),
    "task, second author": (check_task, more_task_mutants),
}

# What the kit does not find, and why; a test says so, lest it be forgotten when it does.
BEYOND = {
    "later rows count slightly more": "five per cent more, under the noise of score matching: thousands of losses would tell",
    "the context's order is ignored": "sorted targets, whose contexts' part in the loss is hidden by its noise",
    "rows without weight count in the batch's statistics": "a loss that weighs rows against each other may have its own way",
    "rows without weight are negatives of others": "likewise: in-batch contrast may be meant so",
    "the start is ignored": "objectives without chains rightly ignore it",
    "data's energies under no_grad": "the other phase still trains the energy",
    "sequences dealt out after they were doubled": "rows that repeat in every split may do so by nature",
    "held-out loaders have no generator": "a DataLoader without one draws a number from torch's, and orders nothing by it",
    "evaluate's limit counts batches": "what an example is, is the task's to say",
    "spec's features are the whole sequence's": "only dim, image_size, channels and vocab_size mean the same for all tasks",
    "a task is made of seeds of the global generator": "its data are the same at every construction",
}


def named(table: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("kind", "name"),
        [(kind, name) for kind, (_, module) in KINDS.items() for name in getattr(module, table) if name not in BEYOND],
    )


def subject(make: Callable[[], tuple], seed: int) -> tuple:
    torch.manual_seed(seed)
    return make()


@named("CORRECT")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_right_passes(kind, name):
    check, module = KINDS[kind]
    positional, keywords = subject(module.CORRECT[name], 0)
    check(*positional, **keywords)


@named("MUTANTS")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_planted_mistake_is_found_and_named(kind, name):
    check, module = KINDS[kind]
    make, words = module.MUTANTS[name]
    positional, keywords = subject(make, 0)
    with pytest.raises(LawBroken) as found:
        check(*positional, **keywords)
    assert re.search(words, str(found.value), re.IGNORECASE | re.DOTALL), str(found.value)


def test_what_is_beyond_the_kit_is_still_beyond_it():
    names = {name for _, module in KINDS.values() for name in module.MUTANTS}
    assert set(BEYOND) <= names
    for check, module in KINDS.values():
        for name in BEYOND.keys() & module.MUTANTS.keys():
            positional, keywords = subject(module.MUTANTS[name][0], 0)
            check(*positional, **keywords)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 10))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ten_seeds_of_ten(kind, seed):
    check, module = KINDS[kind]
    wrong = []
    for name, make in module.CORRECT.items():
        positional, keywords = subject(make, seed)
        try:
            check(*positional, **keywords, seed=seed)
        except LawBroken as error:
            wrong.append(f"false alarm: {name}: {error}")
    for name, (make, _) in module.MUTANTS.items():
        if name in BEYOND:
            continue
        positional, keywords = subject(make, seed)
        try:
            check(*positional, **keywords, seed=seed)
        except LawBroken:
            continue
        wrong.append(f"missed: {name}")
    assert not wrong, "\n".join(wrong)
