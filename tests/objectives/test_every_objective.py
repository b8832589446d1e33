"""Laws that every registered objective meets, with and without a context, with landscapes, and on plain functions."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ebm.energies import MLPEnergy
from ebm.interfaces import Batch, Energy
from tests.helpers import OBJECTIVES, Restless, Valley, close, laws, normal, objective, quadratic, seeded, seeds, without_example

every = pytest.mark.parametrize("label", OBJECTIVES)
chains = st.lists(st.integers(2, 3), min_size=1, max_size=2).map(tuple)


class Bowl(Energy):
    """E(y) = |y − m|²/2 with a learnable m."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, y, code=None):
        return quadratic(y - self.centre)


def batch_of(shape, seed, weighted=True):
    weight = normal(*shape, seed=seed + 2).abs() if weighted else None
    return Batch(normal(*shape, 2, seed=seed), normal(*shape, 3, seed=seed + 1), weight)


def energies(label):
    """One energy of every kind that the objective takes, by name."""
    levels = 1 if label in ("denoising-score-matching", "weighted-sum") else 3  # one noise level is for one landscape
    torch.manual_seed(0)
    return {
        "conditional": Valley(),
        "landscapes": Valley(levels=levels),
        "unconditional": MLPEnergy(2, hidden=(8,)).double(),
        "function": quadratic,
        "composed": Valley() + quadratic,
    }


def test_every_registered_objective_is_tested():
    # Diffusion trains what predicts noise, and no energy of these: its laws are in tests/baselines/test_dit.py.
    # Classification trains what has logits: tests/objectives/test_classification.py, and the kit in tests/testing.
    # Writing symbol by symbol trains what is teacher-forced: tests/baselines/test_left_to_right.py.
    # Sequences are told from a model's draws, and are ids: tests/objectives/test_sequence_nce.py.
    elsewhere = dict.fromkeys(["diffusion", "cross-entropy", "joint", "next-symbol", "sequence-nce"])
    missing = without_example("objective", {**OBJECTIVES, **elsewhere})
    assert not missing, f"no laws run over the objectives {missing}: add an example of each to OBJECTIVES in tests/helpers.py"


@every
@settings(laws, max_examples=2)
@given(seed=seeds, shape=chains, weighted=st.booleans())
def test_a_loss_is_a_function_of_its_generator(label, seed, shape, weighted):
    batch = batch_of(shape, seed % 1000, weighted)
    for energy in energies(label).values():
        kept, globally = copy.deepcopy(batch), torch.get_rng_state()
        one, two = (objective(label)(energy, batch, generator=seeded(seed)) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), globally)
        assert torch.equal(one.value, two.value)
        assert one.terms.keys() == two.terms.keys()
        assert all(torch.equal(one.terms[name], two.terms[name]) for name in one.terms)
        assert one.value.shape == ()
        assert one.value.dtype == torch.float64
        assert bool(torch.isfinite(one.value))
        assert all(term.shape == () and not term.requires_grad for term in one.terms.values())
        for before, after in zip(kept, batch, strict=True):
            assert (before is after is None) or torch.equal(before, after)
        torch.manual_seed(seed)
        by_default = objective(label)(energy, batch).value
        torch.manual_seed(seed)
        assert torch.equal(objective(label)(energy, batch).value, by_default)


@every
def test_every_evaluation_sees_the_labels_of_its_own_rows(label):
    """Data and what they are contrasted with are judged under one label, which stays a whole number whatever y's dtype."""
    seen = []

    class Labelled(Bowl):
        def encode(self, context=None, level=-1):
            return context

        def forward(self, y, code=None):
            seen.append(code)
            return quadratic(y - self.centre) * (1 + code)

    labels = torch.tensor([0, 3, 1, 2, 1])
    loss = objective(label)(Labelled(), Batch(normal(5, 2), labels), generator=seeded())
    assert loss.value.requires_grad
    assert seen
    assert all(code.dtype == torch.int64 and torch.equal(code, labels.expand_as(code)) for code in seen)


@every
def test_every_parameter_receives_a_gradient(label):
    aim = objective(label)
    for name, energy in energies(label).items():
        if name in ("function", "landscapes"):
            continue
        loss = aim(energy, batch_of((5,), 0), generator=seeded())
        assert all(p.grad is None and p.requires_grad for p in energy.parameters())
        loss.value.backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in energy.parameters()), name
        assert all(p.grad is not None and bool(p.grad.any()) for p in aim.parameters()), name


@every
@settings(laws, max_examples=3)
@given(seed=seeds)
def test_without_gradients_the_value_is_the_same(label, seed):
    energy, batch = Valley(), batch_of((4,), seed % 1000)
    loss = objective(label)(energy, batch, generator=seeded(seed))
    with torch.no_grad():
        judged = objective(label)(energy, batch, generator=seeded(seed))
    close(judged.value, loss.value.detach())
    assert loss.value.requires_grad
    assert not judged.value.requires_grad


@every
@settings(laws, max_examples=3)
@given(seed=seeds, shape=chains)
def test_a_chain_of_weight_zero_does_not_matter(label, seed, shape):
    energy, batch = Valley(), batch_of(shape, seed % 1000)
    batch.weight.view(-1)[1] = 0.0
    changed = copy.deepcopy(batch)
    changed.target.view(-1, 2)[1] += 1.0
    results = []
    for one in (batch, changed):
        energy.zero_grad()
        loss = objective(label)(energy, one, generator=seeded(seed))
        loss.value.backward()
        results.append([loss.value.detach(), *(p.grad.clone() for p in energy.parameters())])
    for before, after in zip(*results, strict=True):
        close(after, before)


@every
@settings(laws, max_examples=3)
@given(seed=seeds, weight=st.floats(0.1, 10.0))
def test_equal_weights_are_no_weights(label, seed, weight):
    energy, batch = Valley(), batch_of((4,), seed % 1000, weighted=False)
    weighted = batch._replace(weight=torch.full((4,), weight, dtype=torch.float64))
    one, two = (objective(label)(energy, each, generator=seeded(seed)) for each in (batch, weighted))
    close(one.value, two.value)
    for name in one.terms:
        close(one.terms[name], two.terms[name])


@every
def test_weights_that_are_all_zero_say_nothing(label):
    energy, batch = Valley(), batch_of((4,), 0)._replace(weight=torch.zeros(4, dtype=torch.float64))
    loss = objective(label)(energy, batch, generator=seeded())
    loss.value.backward()
    assert loss.value == 0
    assert all(bool((p.grad == 0).all()) for p in energy.parameters())
    assert all(bool(torch.isfinite(term)) for term in loss.terms.values())


@every
def test_modes_are_left_as_they_were(label):
    energy, aim = Restless(), objective(label)
    modes = [module.training for module in (*energy.modules(), *aim.modules())]
    loss = aim(energy, batch_of((4,), 0), generator=seeded())
    assert [module.training for module in (*energy.modules(), *aim.modules())] == modes
    assert bool(torch.isfinite(loss.value))
    assert torch.is_grad_enabled()


@every
def test_a_plain_loop_lowers_the_loss(label):
    """Contrastive divergence has no loss that falls: there the chains' mean, and so the energy's, comes to the data's."""
    energy, aim, g = Bowl(), objective(label), seeded()
    data = torch.tensor([2.0, -1.0], dtype=torch.float64) + 0.5 * torch.randn(256, 2, generator=g, dtype=torch.float64)
    optimizer = torch.optim.Adam([*energy.parameters(), *aim.parameters()], lr=0.05)

    def judged():
        if "contrastive" in label:
            return (energy.centre - data.mean(0)).norm().item()
        with torch.no_grad():
            return copy.deepcopy(aim)(energy, Batch(data), generator=seeded(1)).value.item()

    before = judged()
    for _ in range(80):
        optimizer.zero_grad()
        loss = aim(energy, Batch(data), generator=g)
        loss.value.backward()
        optimizer.step()
    assert judged() < before * (0.25 if "contrastive" in label else 0.9)


@every
def test_an_energy_of_the_wrong_shape_is_refused(label):
    with pytest.raises(ValueError, match=r"4, 1\).*4, 2\).*sum out the last axis"):
        objective(label)(lambda y: y.square().sum(-1, keepdim=True), batch_of((4,), 0), generator=seeded())


@every
def test_weights_of_another_shape_are_refused(label):
    batch = batch_of((4,), 0)._replace(weight=torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(4,\)"):
        objective(label)(Valley(), batch, generator=seeded())


ROW_BY_ROW = ("energy-matching", "equilibrium-matching", "denoising-score-matching", "diffusion-recovery")


@pytest.mark.parametrize("label", [label for label in OBJECTIVES if label.startswith(ROW_BY_ROW) and "ladder" not in label])
@pytest.mark.parametrize("shape", [(1, 2), (2,), (6, 1), (5, 2), (12, 2), (6, 3)])
def test_a_start_that_is_not_one_for_each_row_is_refused(label, shape):
    """Spread over the rows, it would be one start, or one coordinate, for all of them."""
    with pytest.raises(ValueError, match=r"start has shape .*\(6, 2\): pass a start for each row"):
        objective(label)(quadratic, Batch(normal(6, 2)), start=normal(*shape, seed=1), generator=seeded())


@pytest.mark.parametrize("label", [label for label in OBJECTIVES if "contrastive" in label])
@pytest.mark.parametrize("shape", [(6, 1), (6, 3), (6, 2, 2)])
def test_samples_that_are_no_data_are_refused(label, shape):
    """A plain function takes events of any width, but two widths have nothing to be contrasted by."""
    with pytest.raises(ValueError, match=r"events \(2,\), .*: pass a start like the data"):
        objective(label)(lambda y: y.square().flatten(1).sum(-1), Batch(normal(6, 2)), start=normal(*shape), generator=seeded())


def moves_chains(label: str) -> bool:
    """Whether the objective's chains all begin at `start`; those of energy matching may begin at data instead."""
    return getattr(objective(label), "sampler", None) is not None and not label.startswith("energy-matching")


@pytest.mark.parametrize("label", [*filter(moves_chains, OBJECTIVES)])
def test_chains_that_are_not_finite_stop_with_their_names(label):
    start = normal(4, 2)
    start[3, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"step 1: .* \(chain 3\)"):
        objective(label)(quadratic, Batch(normal(4, 2)), start=start, generator=seeded())
