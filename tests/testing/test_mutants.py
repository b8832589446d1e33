"""The kit finds planted mistakes, each with a fitting message, and raises no false alarm.

Right components and mutants were written from the contract alone, not from the kit. Checks of samplers
and objectives take seconds each: of their tables a sample runs by default, and the rest is slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from ebm.testing import (
    LawBroken,
    check_encoder,
    check_energy,
    check_objective,
    check_sampler,
    check_task,
    encoders,
    energies,
    objectives,
    samplers,
    tasks,
)
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

# What the kit does not find, and why. A test says so, and fails once the kit does find it.
BEYOND = {
    "later rows count slightly more": "five per cent more, under the noise of score matching: thousands of losses would tell",
    "the context's order is ignored": "sorted targets, whose contexts' part in the loss is hidden by its noise",
    "rows without weight count in the batch's statistics": "a loss that weighs rows against each other may have its own way",
    "rows without weight are negatives of others": "in-batch contrast may be meant so",
    "the start is ignored": "objectives without chains rightly ignore it",
    "sequences dealt out after they were doubled": "rows that repeat in every split may do so by nature",
    "held-out loaders have no generator": "a DataLoader without one draws a number from torch's, and orders nothing by it",
    "evaluate's limit counts batches": "what an example is, is the task's to say",
    "spec's features are the whole sequence's": "only dim, image_size, channels and vocab_size mean the same for all tasks",
    "a task is made of seeds of the global generator": "its data are the same at every construction",
}


EVERY = {"sampler": 10}  # what is run by default, one of how many; the whole tables are slow, and samplers the slowest
USUAL = 5

# For every law, a mutant that breaks it and no law before.
BREAKS: dict[str, dict[str, str]] = {
    "encoder": {
        "it can be built": "no call of super().__init__",
        "learning is a function of frames and seed": "it learns from the global generator",
        "other frames are refused": "frames of any size are taken",
        "a frame becomes a finite vector": "features are not flat",
        "encoding is a function that changes nothing": "frames are scaled in place",
        "it is frozen": "parameters that train",
        "frames do not see each other": "statistics of the batch",
        "features become pixels where it decodes": "decoded pixels are not clamped",
        "it is the same when built or loaded anew": "weights that nobody fixes",
        "it moves to a device as a whole": "a constant that stays on the CPU",
    },
    "energy": {
        "it can be built": "weights made once, when the energy is built",
        "there is one energy per chain": "an array of numpy",
        "dtype follows the input": "dropout that does not know of eval mode",
        "energies are finite": "the logarithm of what may be negative",
        "scoring is a function that changes nothing": "noise in forward",
        "chains are independent": "minus the batch's mean, in y",
        "candidates share a context": "sums over axis 1, whatever comes before",
        "it can be differentiated": "wholly detached",
        "its gradient can be differentiated": "once differentiable",
        "every parameter receives a gradient": "an unused parameter",
        "a bound context scores as a passed one": "wraps levels out of range",
        "predictions see no future": "a mask that is not quite minus infinity",
        "extending a code is encoding the whole": "extend starts again at position 0",
        "a saved energy loads to the same function": "random features that are not saved",
    },
    "sampler": {
        "steps move y and keep its form": "drops the last chain",
        "draws come from the generator": "noise without the generator",
        "the start and the energy are left alone": "weight decay",
        "runs leave no trace": "mean squares of gradients on self",
        "n steps and then m are n plus m": "a State given is begun anew",
        "chains are independent": "one decision for the whole batch",
        "without noise the energy falls": "uphill, without noise [optimiser]",
        "info tells where a step was taken from": "a cached energy not dropped on a new landscape",
        "states lie within their bounds": "clamps before each step, and not after [optimiser]",
        "what is not finite stops or is rejected": "a cached energy refreshed by what was rejected",
        "arguments are checked at the call": "complains at the first iteration, not at the call",
        "graphs reach as far as unroll says": "accepts or rejects, and says that it is differentiable",
        "a saved sampler samples the same": "a step size drawn when built, and not saved",
        "a saved state goes on as it would have": "init makes another State than step [optimiser]",
        "its stationary distribution stays": "metropolis that always accepts",
    },
    "objective": {
        "the loss is a finite scalar with detached terms": "a loss of shape (1,)",
        "draws come from the generator": "draws from the global generator",
        "the loss trains": "the energy's gradient without a graph",
        "the energy and the batch are left alone": "backward() inside forward",
        "a loss leaves no trace": "a running mean is subtracted",
        "the order of rows does not matter": "neighbouring rows contrasted by roll, without noise",
        "an empty mask gives a finite loss": "all weights zero divide zero by zero",
        "weights say what counts": "divides by how many weights are positive",
        "the energy of data is pushed down": "contrastive divergence with its sign turned round",
    },
    "task": {
        "loaders give batches": "batches of 16, whatever is asked for",
        "it has nothing to learn": "a task that learns",
        "spec says what the data are": "no spec",
        "the seed alone orders the data": "splits are drawn anew for every task",
        "rows are themselves whatever their batch": "targets centred by the batch's own mean",
        "splits are disjoint": "validation is a part of train",
        "starts are drawn and do not read the answer": "starts at the answer",
        "distance is one number per chain": "the distance from the next row's answer",
        "distance can be differentiated": "the distance is one minus the accuracy",
        "the truth is nearest": "a distance of the wrong sign",
        "evaluation gives numbers about predictions": "scores that are tensors",
        "what it learned makes it again": "another scale is written",
    },
}
MODULES = {"encoder": encoders, "energy": energies, "sampler": samplers, "objective": objectives, "task": tasks}


def named(table: str) -> pytest.MarkDecorator:
    found = []
    for kind, (_, module) in KINDS.items():
        for place, name in enumerate(name for name in getattr(module, table) if name not in BEYOND):
            marks = [pytest.mark.slow] if place % EVERY.get(kind, USUAL) else []
            found.append(pytest.param(kind, name, marks=marks))
    return pytest.mark.parametrize(("kind", "name"), found)


def mutant(kind: str, name: str) -> tuple[Callable[[], tuple], str]:
    """Finds a mutant in the tables of both authors."""
    return next(module.MUTANTS[name] for key, (_, module) in KINDS.items() if key.startswith(kind) and name in module.MUTANTS)


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


@pytest.mark.parametrize("kind", BREAKS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_law_finds_a_mistake(kind):
    laws = [law.__name__.replace("_", " ") for law in MODULES[kind].LAWS]
    assert [law for law in BREAKS[kind] if law != "it can be built"] == laws
    for law, name in BREAKS[kind].items():
        positional, keywords = subject(mutant(kind, name)[0], 0)
        with pytest.raises(LawBroken) as found:
            KINDS[kind][0](*positional, **keywords)
        assert found.value.law == f"{kind}: {law}"


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
