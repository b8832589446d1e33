"""The classifier that names samples."""

import pytest
import torch

from ebm.judging.namer import Namer
from ebm.tasks import Digits


@pytest.fixture(scope="module")
def small():
    task = Digits(size=8, conditional=True)
    rows, held = task.rows("train"), task.rows("test")
    return rows, held, Namer(rows.target, rows.context, 10)


def test_it_names_held_out_digits(small):
    _, held, namer = small
    right = namer.name(held.target).argmax(-1) == held.context
    assert right.double().mean() > 0.95


def test_it_is_a_function_of_its_seed_and_leaves_the_global_generator_alone(small):
    rows, held, _ = small
    before = torch.get_rng_state()
    one, two, other = (Namer(rows.target[:64], rows.context[:64], 10, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.name(held.target), two.name(held.target))
    assert not torch.equal(one.name(held.target), other.name(held.target))


def test_a_judgement_counts_names(small):
    _, held, namer = small
    real = namer.judge(held.target)
    assert real["confidence"] > 0.95
    assert real["classes"] == 10
    assert real["rarest"] > 0.05
    threes = namer.judge(held.target[held.context == 3])
    assert threes["classes"] <= 4
    assert threes["rarest"] == 0
    assert namer.judge(torch.rand(100, 1, 8, 8) * 2 - 1)["confidence"] < real["confidence"] - 0.1


def test_digits_are_named_only_where_that_is_asked(small):
    samples = small[1].target[:20]
    assert Digits(size=8).extra_metrics(samples) == {}
    named = Digits(size=8, named=True)
    shown = (2 * samples).clamp(-1, 1)  # what lies out of [-1, 1] is shown as the bound
    assert named.extra_metrics(2 * samples) == named.extra_metrics(shown)
    assert named.extra_metrics(samples)["confidence"] > 0.9
