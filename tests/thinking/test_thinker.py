"""Laws of thinking: candidates, what is recorded, which candidate is chosen, when a chain stops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm import Thinker, think
from ebm.interfaces import Batch, Prediction
from ebm.samplers import MALA, Annealed, GradientDescent, LangevinDynamics, Monotone
from tests.helpers import SAMPLERS, Restless, Valley, close, laws, normal, quadratic, sampler, seeded, seeds

shapes = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)
every = pytest.mark.parametrize("label", SAMPLERS)


def at_end(energy, context, y):
    with torch.no_grad():
        return energy.given(context)(y)


# ------------------------------------------------------------------------------------------------------- shapes and values


@every
@settings(laws, max_examples=2)
@given(seed=seeds, shape=shapes, candidates=st.integers(1, 3), steps=st.integers(1, 3), levels=st.integers(1, 2))
def test_shapes_and_energies(label, seed, shape, candidates, steps, levels):
    moving = sampler(label)
    routed = len(moving.route([quadratic]))
    if levels > 1 and (routed > 1 or label == "annealed/one"):
        return
    energy, context = Valley(levels=levels), normal(*shape, 3, seed=seed)
    start, globally = normal(candidates, *shape, 2, seed=seed + 1), torch.get_rng_state()
    kept = start.clone()
    thought = think(energy, moving, context, start, candidates=candidates, steps=steps, generator=seeded(seed))
    assert thought.y.shape == (*shape, 2)
    assert thought.energy.shape == thought.steps.shape == shape
    assert thought.energies.shape == (levels * routed * steps + 1, candidates, *shape)
    close(thought.energy, at_end(energy, context, moving.point(thought.y)))
    assert bool((thought.steps == levels * routed * steps).all())
    close(thought.energy, thought.energies[-1].min(0).values)
    assert not any(field.requires_grad for field in thought)
    assert torch.equal(torch.get_rng_state(), globally)
    assert torch.equal(start, kept)
    again = think(energy, moving, context, start, candidates=candidates, steps=steps, generator=seeded(seed))
    assert all(torch.equal(one, two) for one, two in zip(thought, again, strict=True))


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("patience", [None, 2])
def test_without_steps_the_best_start_is_chosen(candidates, patience):
    start = normal(candidates, 4, 2)
    thought = think(quadratic, GradientDescent(0.1), None, start, candidates=candidates, steps=0, patience=patience)
    close(thought.energies, quadratic(start)[None])
    close(thought.energy, quadratic(start).min(0).values)
    close(quadratic(thought.y), thought.energy)
    assert torch.equal(thought.steps, torch.zeros(4, dtype=torch.long))


@settings(laws, max_examples=20)
@given(seed=seeds, candidates=st.integers(1, 4), steps=st.integers(1, 5), levels=st.integers(1, 3))
def test_candidates_together_equal_candidates_one_by_one(seed, candidates, steps, levels):
    energy, context, start = Valley(levels=levels), normal(3, 3, seed=seed), normal(candidates, 3, 2, seed=seed + 1)
    moving = GradientDescent(0.3, momentum=0.5, retraction=torch.tanh)
    together = think(energy, moving, context, start, candidates=candidates, steps=steps)
    alone = [think(energy, moving, context, one[None], steps=steps) for one in start]
    close(together.energies, torch.cat([thought.energies for thought in alone], 1))
    best = torch.stack([thought.energy for thought in alone]).argmin(0)
    for chain in range(3):
        close(together.y[chain], alone[best[chain]].y[chain])
        close(together.energy[chain], alone[best[chain]].energy[chain])


@laws
@given(seed=seeds, levels=st.integers(1, 3), steps=st.integers(1, 4))
def test_energies_are_those_before_each_step_and_of_the_end(seed, levels, steps):
    energy, context, start = Valley(levels=levels), normal(3, 3, seed=seed), normal(2, 3, 2, seed=seed + 1)
    moving = GradientDescent(0.4)
    thought = think(energy, moving, context, start, candidates=2, steps=steps)
    y, expected = start, []
    for landscape in energy.landscapes(context):
        for _ in range(steps):
            expected.append(landscape(y).detach())
            y = moving.sample(landscape, y, steps=1)
    expected.append(at_end(energy, context, y))
    close(thought.energies, torch.stack(expected))


@settings(laws, max_examples=30)
@given(seed=seeds, select=st.sampled_from(["min", "max", "max-drop"]), candidates=st.integers(1, 5), levels=st.integers(1, 2))
def test_each_chain_chooses_for_itself(seed, select, candidates, levels):
    energy, context, start = Valley(levels=levels), normal(2, 3, 3, seed=seed), normal(candidates, 2, 3, 2, seed=seed + 1)
    moving = LangevinDynamics(0.3)
    thought = think(energy, moving, context, start, candidates=candidates, steps=3, select=select, generator=seeded(seed))
    ends = moving.sample(energy.landscapes(context), start, steps=3, generator=seeded(seed))
    before = energy.given(context, 0)(start).detach()
    last = at_end(energy, context, ends)
    close(thought.energies[0], before)
    close(thought.energies[-1], last)
    for row in range(2):
        for column in range(3):
            firsts, lasts = before[:, row, column].tolist(), last[:, row, column].tolist()
            drops = [a - b for a, b in zip(firsts, lasts, strict=True)]
            score = {"min": [-x for x in lasts], "max": lasts, "max-drop": drops}[select]
            chosen = score.index(max(score))
            close(thought.y[row, column], ends[chosen, row, column])
            close(thought.energy[row, column], last[chosen, row, column])


@laws
@given(seed=seeds, select=st.sampled_from(["min", "max", "max-drop"]))
def test_permuting_candidates_chooses_the_same(seed, select):
    start, moving = normal(5, 4, 2, seed=seed), GradientDescent(0.3)
    order = torch.randperm(5, generator=seeded(seed))
    one, two = (think(quadratic, moving, None, s, candidates=5, steps=2, select=select) for s in (start, start[order]))
    close(one.y, two.y)
    close(one.energy, two.energy)
    close(one.energies[:, order], two.energies)


def test_a_sequence_of_energies_is_one_landscape_after_the_other():
    start, moving = normal(2, 4, 2), GradientDescent(0.3)
    functions = [quadratic, lambda y: 2 * quadratic(y - 1)]
    thought = think(functions, moving, None, start, candidates=2, steps=3)
    path = list(moving.trajectory(functions, start, steps=3))
    close(thought.energies[:-1], torch.stack([info.energy for _, info in path]))
    close(thought.energies[-1], functions[1](path[-1][0].y))
    energies, context = [Restless(), Restless()], normal(4, 3)
    before = [energy.everything() for energy in energies]
    think(energies, moving, context, start, candidates=2, steps=3, patience=1)
    assert all(energy.untouched_since(was) for energy, was in zip(energies, before, strict=True))


# ------------------------------------------------------------------------------------------------------------------ starts


def test_a_start_may_be_a_callable_that_draws_each_candidate():
    drawn = []

    def start(generator=None):
        drawn.append(torch.randn(3, 2, generator=generator, dtype=torch.float64))
        return drawn[-1]

    moving = LangevinDynamics(0.1)
    called = think(quadratic, moving, None, start, candidates=4, steps=2, generator=seeded())
    assert len(drawn) == 4
    g = seeded()
    given_start = torch.stack([torch.randn(3, 2, generator=g, dtype=torch.float64) for _ in range(4)])
    assert torch.equal(torch.stack(drawn), given_start)
    passed = think(quadratic, moving, None, given_start, candidates=4, steps=2, generator=g)
    assert torch.equal(called.y, passed.y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": None}, "NoneType"),
        ({"start": normal(3, 2)}, r"\(3, 2\).*candidates=2.*first axis"),
        ({"start": torch.ones(2, 3, dtype=torch.long)}, "int64"),
        ({"start": normal(2, 0, 2)}, r"\(2, 0, 2\)"),
        ({"candidates": 0}, "candidates=0"),
        ({"select": "best"}, "select='best'.*min, max or max-drop"),
        ({"patience": 0}, "patience=0"),
        ({"patience": -1}, "patience=-1"),
        ({"tolerance": 0.1}, "tolerance=0.1, patience=None"),
        ({"tolerance": 1.0, "patience": 1}, "tolerance=1.0"),
        ({"steps": -1}, "steps=-1"),
        ({"steps": 1.5}, "steps=1.5"),
        ({"start": torch.zeros(2, 3, 2, device="meta"), "generator": seeded()}, "generator lives on cpu"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        think(quadratic, GradientDescent(0.1), **{"start": normal(2, 3, 2), "candidates": 2, **arguments})


def test_inference_mode_is_refused_with_the_way_out():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode.*no_grad"):
        think(quadratic, GradientDescent(0.1), start=torch.ones(1, 3, 2))


# ---------------------------------------------------------------------------------------- nothing is drawn, nothing is moved


@every
def test_no_step_scale_and_no_number_of_steps_is_drawn_and_modes_return(label):
    moving = sampler(label).train()
    moving.steps = (1, 5)
    inner = moving
    while hasattr(inner, "sampler"):
        inner = inner.sampler
    inner.step_scale = 3.0
    start, routed = normal(1, 4, 2), len(moving.route([quadratic]))
    modes = [module.training for module in moving.modules()]
    thoughts = [think(quadratic, moving, None, start, generator=seeded()) for _ in range(2)]
    assert [module.training for module in moving.modules()] == modes
    thoughts.append(think(quadratic, moving.eval(), None, start, generator=seeded()))
    assert all(len(thought.energies) == 5 * routed + 1 for thought in thoughts)
    assert all(torch.equal(thought.y, thoughts[0].y) for thought in thoughts)
    with pytest.raises(KeyError):
        think(lambda y: {}["none"], moving.train(), None, start)
    assert moving.training


def test_the_energy_is_in_eval_mode_from_its_encoder_to_its_last_evaluation():
    energy, context, start = Restless(), normal(4, 3), normal(2, 4, 2)
    before = energy.everything()
    moving = GradientDescent(0.1)
    busy = think(energy, moving, context, start, candidates=2, steps=3, patience=2)
    scores = Thinker(energy, moving).score(Batch(None, context), start[0])
    assert energy.untouched_since(before)
    assert torch.is_grad_enabled()
    still = think(energy.eval(), moving, context, start, candidates=2, steps=3, patience=2)
    close(busy.y, still.y)
    close(busy.energy, still.energy)
    close(scores, Thinker(energy, moving).score(Batch(None, context), start[0]))


def test_the_context_is_encoded_once_per_landscape_and_without_a_graph():
    encoded = []

    class Counting(Valley):
        def encode(self, context=None, level=-1):
            code = super().encode(context, level)
            encoded.append((level, code[0].requires_grad))
            return code

    think(Counting(levels=3), GradientDescent(0.1), normal(4, 3), normal(5, 4, 2), candidates=5, steps=4)
    assert encoded == [(0, False), (1, False), (2, False)]


def test_a_chain_that_is_not_finite_stops():
    start = normal(2, 3, 2)
    start[1, 2, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"step 1: .* 1 of 6 chains \(chain 5\)"):
        think(quadratic, GradientDescent(0.1), None, start, candidates=2)


# ---------------------------------------------------------------------------------------------------------------- patience


def wavy(y):
    return (y.square() / 2 + 2 * (3 * y).cos()).sum(-1)


def by_hand(energies, patience, tolerance=0.0):
    """One chain's loop: (the number of the state of its last fall that counted, the steps taken until it stopped)."""
    best, waited = 0, 0
    for k in range(1, len(energies)):
        fell = energies[k] < energies[best] - tolerance * abs(energies[best])
        best, waited = (k, 0) if fell else (best, waited + 1)
        if waited >= patience:
            return best, k
    return best, len(energies) - 1


@settings(laws, max_examples=40)
@given(
    seed=seeds,
    size=st.floats(0.01, 0.5),
    patience=st.integers(1, 6),
    steps=st.integers(1, 10),
    select=st.sampled_from([min, max]),
    tolerance=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_patience_equals_the_loop_over_chains(seed, size, patience, steps, select, tolerance):
    moving, start = GradientDescent(size), 2 * normal(3, 4, 2, seed=seed)
    path = torch.stack([start, *(state.y for state, _ in moving.trajectory(wavy, start, steps=steps))])
    thought = think(wavy, moving, None, start, 3, steps, select=select.__name__, patience=patience, tolerance=tolerance)
    assert thought.energies.shape == (steps + 1, 3, 4)
    close(thought.energies[0], wavy(start))
    for chain in range(4):
        ended = []
        for candidate in range(3):
            energies = wavy(path[:, candidate, chain]).tolist()
            best, taken = by_hand(energies, patience, tolerance)
            assert thought.energies[-1, candidate, chain].item() == pytest.approx(energies[best])
            ended.append((energies[best], path[best, candidate, chain], taken))
        energy, state, taken = select(ended, key=lambda one: one[0])
        assert thought.energy[chain].item() == pytest.approx(energy)
        close(thought.y[chain], state)
        assert thought.steps[chain] == taken


@laws
@given(seed=seeds, size=st.floats(0.1, 0.5), patience=st.integers(1, 4))
def test_the_energies_of_a_chain_that_moves_are_those_of_its_states(seed, size, patience):
    """Rises too: a plot of them would else show a descent that was none."""
    moving, start, steps = GradientDescent(size), 2 * normal(1, 4, 2, seed=seed), 8
    path = torch.stack([start, *(state.y for state, _ in moving.trajectory(wavy, start, steps=steps))])
    thought = think(wavy, moving, None, start, steps=steps, patience=patience)
    for chain in range(4):
        energies = wavy(path[:, 0, chain]).tolist()
        _, taken = by_hand(energies, patience)
        assert thought.energies[:taken, 0, chain].tolist() == pytest.approx(energies[:taken])


@laws
@given(seed=seeds, patience=st.integers(1, 5), levels=st.integers(2, 3))
def test_patience_watches_the_last_landscape_only(seed, patience, levels):
    energy, context, start = Valley(levels=levels), normal(3, 3, seed=seed), 2 * normal(1, 3, 2, seed=seed + 1)
    moving, steps = LangevinDynamics(0.4), 6
    thought = think(energy, moving, context, start, steps=steps, patience=patience, generator=seeded(seed))
    landscapes = energy.landscapes(context)
    path = [state.y for state, _ in moving.trajectory(landscapes, start, steps=steps, generator=seeded(seed))]
    last = path[(levels - 1) * steps - 1 :]
    for chain in range(3):
        energies = [at_end(energy, context, y)[0, chain].item() for y in last]
        best, taken = by_hand(energies, patience)
        close(thought.y[chain], last[best][0, chain])
        assert thought.energy[chain].item() == pytest.approx(energies[best])
        assert thought.steps[chain] == (levels - 1) * steps + taken
    assert thought.energies.shape == (levels * steps + 1, 1, 3)


@laws
@given(seed=seeds, patience=st.integers(1, 4))
def test_thinking_ends_when_every_chain_has_stopped(seed, patience):
    calls = []

    def uphill(y):
        calls.append(1)
        return quadratic(y) + len(calls)  # higher at every look

    thought = think(uphill, GradientDescent(1e-6), None, normal(1, 3, 2, seed=seed), steps=50, patience=patience)
    assert len(calls) <= patience + 3
    assert bool((thought.steps == patience).all())
    assert thought.energies.shape == (51, 1, 3)
    close(thought.y, normal(1, 3, 2, seed=seed)[0])


def test_endless_patience_keeps_the_lowest_state():
    moving, start = LangevinDynamics(0.3), normal(1, 4, 2)
    thought = think(quadratic, moving, None, start, steps=10, patience=100, generator=seeded())
    path = torch.stack([start, *(s.y for s, _ in moving.trajectory(quadratic, start, steps=10, generator=seeded()))])
    close(thought.energy, quadratic(path).min(0).values[0])
    assert bool((thought.steps == 10).all())


@every
def test_patience_works_with_every_sampler(label):
    moving, start = sampler(label), normal(2, 4, 2)
    thought = think(Valley(), moving, normal(4, 3), start, candidates=2, steps=6, patience=1, generator=seeded())
    close(thought.energy, at_end(Valley(), normal(4, 3), moving.point(thought.y)))
    assert bool((thought.steps <= 6 * len(moving.route([quadratic]))).all())
    close(thought.energy, thought.energies[-1].min(0).values)


# ----------------------------------------------------------------------------------------------------------------- Thinker


@laws
@given(seed=seeds, candidates=st.integers(1, 3), steps=st.integers(1, 4))
def test_a_thinker_predicts_what_thinking_finds(seed, candidates, steps):
    energy, batch = Valley(levels=2), Batch(normal(3, 2), normal(3, 3, seed=seed))
    moving, start = LangevinDynamics(0.1), normal(candidates, 3, 2, seed=seed + 1)
    thinker = Thinker(energy, moving, candidates=candidates, steps=steps, select="max-drop")
    predicted = thinker.predict(batch, start if candidates > 1 else start[0], generator=seeded(seed))
    thought = think(energy, moving, batch.context, start, candidates, steps, "max-drop", generator=seeded(seed))
    assert isinstance(predicted, Prediction)
    close(predicted.y, thought.y)
    close(predicted.energy, thought.energy)
    assert predicted.evaluations == (2 * steps + 1) * candidates


class Counted(Valley):
    """Counts the chains that it scores."""

    count = 0

    def forward(self, y, code=None):
        self.count += y[..., 0].numel()
        return super().forward(y, code)


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("patience", [None, 1, 3])
@pytest.mark.parametrize("make", [GradientDescent, LangevinDynamics, MALA, lambda *a, **k: Monotone(LangevinDynamics(*a, **k))])
def test_evaluations_are_the_forward_passes_spent(make, patience, candidates):
    energy, batch = Counted(), Batch(normal(3, 2), normal(3, 3))
    thinker = Thinker(energy, make(0.5, steps=20), candidates=candidates, patience=patience)
    start = normal(candidates, 3, 2)
    predicted = thinker.predict(batch, start if candidates > 1 else start[0], generator=seeded())
    assert predicted.evaluations == pytest.approx(energy.count / 3)  # the candidates' together, per row


def test_a_task_may_judge_a_thinker_with_several_candidates():
    """Tasks ask a predictor how many starts it wants."""
    from ebm.tasks import Points

    task = Points("moons", 200)
    for thinker in (Thinker(quadratic, LangevinDynamics(0.1, steps=2), candidates=n) for n in (1, 3)):
        assert "mmd" in task.evaluate(thinker, limit=20, generator=seeded())


def test_a_thinker_scores_given_configurations_at_the_last_landscape():
    energy, context, y = Valley(levels=3), normal(4, 3), normal(4, 2)
    scores = Thinker(energy, GradientDescent(0.1)).score(Batch(None, context), y)
    close(scores, at_end(energy, context, y))
    assert not scores.requires_grad
    close(Thinker(quadratic, GradientDescent(0.1)).score(Batch(None), y), quadratic(y))


@laws
@given(seed=seeds)
def test_annealing_and_accepting_samplers_think_too(seed):
    start = 2 * normal(3, 4, 2, seed=seed)
    thought = think(quadratic, Annealed(MALA(0.2), temperatures=[4.0, 1.0]), None, start, 3, 5, generator=seeded(seed))
    assert thought.energies.shape == (11, 3, 4)
    close(thought.energies[0], quadratic(start) / 4)
    close(thought.energies[-1].min(0).values, quadratic(thought.y))
    lower = think(wavy, Monotone(LangevinDynamics(0.1)), None, start, 3, 8, generator=seeded(seed))
    assert bool((lower.energies.diff(dim=0) <= 1e-12).all())


@pytest.mark.parametrize("candidates", [1, 2])
def test_an_end_whose_energy_is_not_finite_stops_thinking(candidates):
    """No step begins there, so the trajectory does not see it; argmax would choose NaN."""

    def cliff(y):
        return (y - y.log()).sum(-1)  # NaN below zero

    start = torch.tensor([[[3.0]], [[0.5]]])[-candidates:] if candidates == 2 else torch.tensor([[[3.0]]])
    with pytest.raises(FloatingPointError, match=f"energy is not finite in 1 of {candidates} chains"):
        think(cliff, GradientDescent(5.0, steps=1), start=start, candidates=candidates)


def test_bits_of_two_layers_think():
    from ebm.energies import RBM
    from ebm.samplers import BlockGibbs

    rbm = RBM(6, 3).double()
    thinker, start = Thinker(rbm, BlockGibbs(steps=2)), torch.zeros(4, 6, dtype=torch.float64)
    found = thinker.predict(Batch(start), start, generator=seeded())
    close(found.y, BlockGibbs(steps=2).sample(rbm, start, generator=seeded()))
    assert found.evaluations == 3
