"""Laws that every registered sampler meets, on every closed-form energy, and on energies that sampling must leave alone."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.interfaces import Energy, Sampler, State, energy_and_grad, eval_mode
from ebm.samplers import Cooled, MirrorDescent, PredictorCorrector
from tests.helpers import SAMPLERS, Restless, Valley, close, laws, normal, quadratic, sampler, seeded, seeds, without_example
from tests.problems import PROBLEMS

MODES = ("each", "last", "full")
WITHOUT_GRADIENT = {"random-walk", "slice"}
every = pytest.mark.parametrize("label", SAMPLERS)
differentiable = pytest.mark.parametrize("label", [label for label in SAMPLERS if sampler(label).differentiable])
chains = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)


def landscapes_of(label: str) -> int:
    return len(sampler(label).route([quadratic]))


def over(moving: Sampler) -> None:
    """Makes a sampler that knows how many landscapes there are ready for three, or for any number."""
    if hasattr(moving, "step_scales"):
        moving.step_scales = ()
    if isinstance(moving, PredictorCorrector):
        moving.sigma = (3.0, 2.0, 1.0)


def draws(label: str) -> bool:
    """Whether a sampler in eval mode uses its generator at all."""
    used = seeded()
    sampler(label).eval().sample(quadratic, normal(2, 2), generator=used)
    return not torch.equal(used.get_state(), seeded().get_state())


quiet = pytest.mark.parametrize("label", [label for label in SAMPLERS if not draws(label)])
scaled = pytest.mark.parametrize("label", [label for label in SAMPLERS if getattr(sampler(label), "step_scale", 1.0) > 1])


def test_every_registered_sampler_is_tested():
    elsewhere = {
        "block-gibbs": "moves bits, of energies with two layers: tests/samplers/test_block_gibbs.py",
        "fixed-point": "follows a network's own update: tests/samplers/test_fixed_point.py",
    }
    missing = without_example("sampler", {**SAMPLERS, **elsewhere})
    assert not missing, f"no laws run over the samplers {missing}: add an example of each to SAMPLERS in tests/helpers.py"


# ------------------------------------------------------------------------------------------------------------- randomness


@every
def test_a_run_is_a_function_of_its_generator(label):
    for seed, problem in enumerate(PROBLEMS.values()):
        shape = ((1,), (3,), (2, 3))[seed % 3]
        y = problem.sample(math.prod(shape), seeded(seed)).reshape(*shape, -1)
        kept, globally = y.clone(), torch.get_rng_state()
        first, again = (sampler(label).sample(problem.energy, y, generator=seeded(seed)) for _ in range(2))
        assert torch.equal(first, again)
        assert torch.equal(torch.get_rng_state(), globally)
        assert torch.equal(y, kept)
        assert first.shape == y.shape
        assert first.dtype == torch.float64
        assert bool(torch.isfinite(first).all())
        torch.manual_seed(seed)
        by_default = sampler(label).sample(problem.energy, y)
        torch.manual_seed(seed)
        assert torch.equal(sampler(label).sample(problem.energy, y), by_default)


@every
@settings(laws, max_examples=8)
@given(seed=seeds, n=st.integers(0, 4), m=st.integers(0, 4), problem=st.sampled_from(sorted(PROBLEMS)))
def test_n_steps_and_then_m_are_n_plus_m(label, seed, n, m, problem):
    if landscapes_of(label) > 1:
        return  # steps are per landscape there
    energy, y = PROBLEMS[problem].energy, PROBLEMS[problem].sample(3, seeded(seed))
    moving, one, other = sampler(label), seeded(seed), seeded(seed)
    whole = list(moving.trajectory(energy, y, steps=n + m, generator=one))
    parts = list(moving.trajectory(energy, y, steps=n, generator=other))
    parts += moving.trajectory(energy, parts[-1][0] if parts else y, steps=m, generator=other)
    assert len(whole) == len(parts) == n + m
    for (expected, about), (got, seen) in zip(whole, parts, strict=True):
        assert torch.equal(got.y, expected.y)
        assert torch.equal(seen.energy, about.energy)
    assert torch.equal(one.get_state(), other.get_state())
    if whole:
        again = moving.sample(energy, parts[-1][0], steps=0)
        assert torch.equal(again, whole[-1][0].y)


@every
def test_a_saved_sampler_samples_the_same(label):
    moving = sampler(label)
    other = copy.deepcopy(moving)
    other.load_state_dict(moving.state_dict())
    y = normal(3, 2)
    assert torch.equal(*(each.sample(quadratic, y, generator=seeded()) for each in (moving, other)))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_stays_and_the_info_says_where_the_step_was_taken_from(label, dtype):
    moving, y = sampler(label).eval(), normal(3, 2, 4).to(dtype)
    path = list(moving.trajectory(quadratic, y, generator=seeded()))
    assert all(state.y.dtype == info.energy.dtype == dtype and state.y.shape == y.shape for state, info in path)
    assert all(info.energy.shape == (3, 2) for _, info in path)
    if label.partition("/")[0] in WITHOUT_GRADIENT:
        assert all(info.grad is None and info.grad_norm is None for _, info in path)
    else:
        assert all(info.grad_norm.shape == (3, 2) for _, info in path)
    if not draws(label) and landscapes_of(label) == 1:
        for state, (_, info) in zip([y, *(state.y for state, _ in path)], path, strict=False):
            close(info.energy, quadratic(moving.point(state)), rtol=1e-5, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------------- chains


@quiet
@settings(laws, max_examples=8)
@given(seed=seeds, problem=st.sampled_from(sorted(PROBLEMS)))
def test_permuting_chains_permutes_results(label, seed, problem):
    moving, energy, y = sampler(label).eval(), PROBLEMS[problem].energy, PROBLEMS[problem].sample(6, seeded(seed))
    order = torch.randperm(6, generator=seeded(seed))
    close(moving.sample(energy, y[order]), moving.sample(energy, y)[order])
    if moving.interacting:
        return
    alone = torch.cat([moving.sample(energy, row[None]) for row in y])
    close(moving.sample(energy, y), alone)
    close(moving.sample(energy, y.reshape(2, 3, -1)).reshape(y.shape), alone)


@quiet
@settings(laws, max_examples=8)
@given(seed=seeds, size=st.floats(1e-5, 1e-3), problem=st.sampled_from(sorted(PROBLEMS)))
def test_small_steps_without_noise_lower_a_smooth_energy(label, seed, size, problem):
    moving = sampler(label).eval()
    inner = moving
    while hasattr(inner, "sampler"):
        inner = inner.sampler
    if inner.retraction is not None or inner.interacting or isinstance(moving, Cooled):
        return  # particles that push each other apart go uphill, too, and heat does
    if isinstance(inner.step_size, float):
        inner.step_size = size
    energy, y = PROBLEMS[problem].energy, PROBLEMS[problem].sample(8, seeded(seed))
    if y.shape[-1] == 1 and isinstance(inner, MirrorDescent):
        return  # one answer alone has probability 1
    ends = moving.point(moving.sample(energy, y, steps=6))
    path = [*(info.energy for _, info in moving.trajectory(energy, y, steps=6)), energy(ends)]
    for before, after in pairwise(path):
        assert bool((after <= before + 1e-12).all())
    assert bool((path[-1] < path[0]).any())


def test_a_chain_may_be_everything_there_is():
    for label in SAMPLERS:
        if label.startswith("parallel-tempering"):
            continue  # replicas are an axis of chains, so there is one
        if label.startswith("conditioned"):
            continue  # a mask without axes leaves every axis to the chains: tests/samplers/test_conditioned.py has one with
        end = sampler(label).sample(lambda y: y.square().sum(), normal(5), generator=seeded())
        assert end.shape == (5,)


# ----------------------------------------------------------------------------------------------------------------- graphs


@differentiable
@settings(laws, max_examples=4)
@given(seed=seeds)
def test_unroll_modes_agree_in_value(label, seed):
    energy, y = Valley(), normal(4, 2, seed=seed).requires_grad_()
    ends = {mode: sampler(label).sample(energy, y, unroll=mode, generator=seeded(seed)) for mode in ("none", *MODES)}
    for mode, end in ends.items():
        close(end, ends["none"])
        assert end.requires_grad == (mode != "none")
    with torch.no_grad():
        for mode, end in ends.items():
            without = sampler(label).sample(energy, y, unroll=mode, generator=seeded(seed))
            close(without, end.detach())
            assert not without.requires_grad


@pytest.mark.parametrize("label", [label for label in SAMPLERS if not sampler(label).differentiable])
@pytest.mark.parametrize("mode", MODES)
def test_accepting_samplers_refuse_a_graph_at_the_call(label, mode):
    with pytest.raises(ValueError, match=f"accepts or rejects.*unroll='{mode}'"):
        sampler(label).trajectory(quadratic, normal(3, 2), unroll=mode)
    moving = sampler(label)
    with pytest.raises(ValueError, match=r"accepts or rejects.*create_graph"):
        moving.step(quadratic, moving.init(quadratic, normal(3, 2)), create_graph=True)


@differentiable
def test_graphs_reach_as_far_as_the_mode_says(label):
    """The energy's parameters of step k are told apart by giving every step parameters of its own."""
    moving = sampler(label)
    steps = 4 * landscapes_of(label)
    for mode, expected in {
        "each": lambda k, i: i == k,
        "last": lambda k, i: i == k == steps - 1,
        "full": lambda k, i: i <= k,
    }.items():
        pushes = [torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(steps)]
        calls = iter(range(steps))

        def energy(y, pushes=pushes, calls=calls):
            return quadratic(y - pushes[next(calls)])

        y = normal(3, 2).requires_grad_()
        for k, (state, _) in enumerate(moving.trajectory(energy, y, unroll=mode, generator=seeded())):
            if not state.y.requires_grad:
                reached = [False] * steps
            else:
                found = torch.autograd.grad(state.y.square().sum(), [*pushes, y], retain_graph=True, allow_unused=True)
                *found, of_start = found
                reached = [grad is not None and bool(grad.any()) for grad in found]
                assert (of_start is not None) == (mode == "full")
            assert reached == [expected(k, i) for i in range(steps)]


@every
def test_the_start_keeps_no_graph_and_gets_none(label):
    weights = normal(3, 2).requires_grad_()
    y = weights * 2
    end = sampler(label).sample(quadratic, y, generator=seeded())
    assert not end.requires_grad
    assert y.requires_grad
    assert weights.grad is None


# ------------------------------------------------------------------------------------------------ what sampling leaves alone


@every
@pytest.mark.parametrize("mode", ["none", *MODES])
def test_sampling_leaves_modes_statistics_and_parameters_alone(label, mode):
    moving = sampler(label)
    if mode != "none" and not moving.differentiable:
        return
    energy, y = Restless(), normal(4, 2)
    function = energy.given()
    before, globally = energy.everything(), torch.get_rng_state()
    modes = [module.training for module in moving.modules()]
    states = [state.y.detach() for state, _ in moving.trajectory(function, y, unroll=mode, generator=seeded())]
    assert energy.untouched_since(before)
    assert torch.equal(torch.get_rng_state(), globally)
    assert [module.training for module in moving.modules()] == modes
    with eval_mode(energy):
        close(states[-1], sampler(label).sample(energy, y, generator=seeded()))


@every
@pytest.mark.parametrize("outside", [True, False])
def test_modes_do_not_leak_between_steps_nor_from_an_abandoned_trajectory(label, outside):
    energy, moving = Restless(), sampler(label)
    before = energy.everything()
    with torch.set_grad_enabled(outside):
        for mode in ("none", *MODES) if moving.differentiable else ("none",):
            path = moving.trajectory(energy, normal(4, 2), unroll=mode, generator=seeded())
            for _ in range(2):
                next(path)
                assert torch.is_grad_enabled() == outside
                assert energy.untouched_since(before)
            path.close()
            assert torch.is_grad_enabled() == outside
            assert energy.untouched_since(before)


@every
def test_an_energy_that_raises_leaves_no_mode_behind(label):
    class Failing(Restless):
        calls = 0

        def forward(self, y, code=None):
            self.calls += 1
            if self.calls == 3:
                raise KeyError("third")
            return super().forward(y, code)

    energy, moving = Failing(), sampler(label)
    before = energy.everything()
    with pytest.raises(KeyError):
        moving.sample(energy, normal(4, 2), generator=seeded())
    assert torch.is_grad_enabled()
    assert energy.untouched_since(before)


@every
def test_two_trajectories_may_be_interleaved(label):
    energy, y = Valley(), normal(3, 2)
    one, two = sampler(label), sampler(label)
    alone = [state.y for state, _ in one.trajectory(energy, y, generator=seeded())]
    pair = zip(one.trajectory(energy, y, generator=seeded()), two.trajectory(energy, -y, generator=seeded(1)), strict=True)
    assert all(torch.equal(a[0].y, b) for (a, _), b in zip(pair, alone, strict=True))


# ----------------------------------------------------------------------------------------------------------------- errors

START = torch.ones(3, 2)
CALLS = {
    "unroll": ({"unroll": "all"}, "unroll='all'"),
    "negative steps": ({"steps": -1}, "steps=-1"),
    "a fraction of a step": ({"steps": 1.5}, "steps=1.5"),
    "a falling pair": ({"steps": (4, 2)}, r"steps=\(4, 2\)"),
    "integer y": ({"y": START.long()}, r"int64.*y\.float"),
    "list": ({"y": [[1.0, 2.0]]}, "list"),
    "none": ({"y": None}, "NoneType"),
    "no chains": ({"y": START[:0]}, r"\(0, 2\)"),
    "integer state": ({"y": State(START.long())}, "int64"),
    "no energies": ({"energy": []}, "at least one"),
    "not callable": ({"energy": 3.0}, "callable"),
    "one not callable": ({"energy": [quadratic, None]}, "callable"),
    "generator's device": ({"y": START.to("meta"), "generator": seeded()}, r"generator lives on cpu.*meta.*torch\.Generator"),
}


@every
@pytest.mark.parametrize("name", CALLS)
def test_argument_errors_come_at_the_call(label, name):
    arguments, message = CALLS[name]
    with pytest.raises(ValueError, match=message):
        sampler(label).trajectory(**{"energy": quadratic, "y": START, **arguments})  # not iterated over


@every
def test_inference_mode_is_refused_at_the_call(label):
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode.*no_grad"):
        sampler(label).trajectory(quadratic, torch.ones(3, 2))
    with torch.inference_mode():
        y = torch.ones(3, 2)
    assert sampler(label).sample(quadratic, y, generator=seeded()).shape == (3, 2)


@every
@settings(laws, max_examples=3)
@given(chain=st.integers(0, 5))
def test_a_start_that_is_not_finite_stops_naming_step_and_chain(label, chain):
    y = normal(2, 3, 2)
    y.view(6, 2)[chain, 1] = math.nan
    with pytest.raises(FloatingPointError, match=rf"step 1: .* 1 of 6 chains \(chain {chain}\)"):
        sampler(label).sample(quadratic, y, generator=seeded())


@differentiable
@settings(laws, max_examples=5)
@given(chain=st.integers(0, 4), step=st.integers(1, 4), bad=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_an_energy_that_is_not_finite_stops_naming_step_and_chain(label, chain, step, bad):
    calls = []

    def energy(y):
        calls.append(1)
        value = quadratic(y)
        return torch.where((torch.arange(5) == chain) & (len(calls) == step), bad, value)

    path = sampler(label).trajectory(energy, normal(5, 2), generator=seeded())
    for _ in range(step - 1):
        next(path)
    with pytest.raises(FloatingPointError, match=rf"step {step}: the energy is not finite in 1 of 5 chains \(chain {chain}\)"):
        next(path)


# Basin hopping tests its hops alone.
TESTED = [label for label in SAMPLERS if not sampler(label).differentiable and not label.startswith("basin-hopping")]


@pytest.mark.parametrize("label", TESTED)
@pytest.mark.parametrize("far", [1e3, 1e8])
def test_where_quartic_walls_overflow_tested_chains_stay_or_move_to_what_is_finite(label, far):
    """Far out on y⁴ a step is astronomically long: whoever tests it refuses it; nothing is clamped, replaced or lost."""

    def energy(y):
        return y.pow(4).sum(-1) / 10

    y = torch.full((3, 2), far)
    end = sampler(label).sample(energy, y, generator=seeded())
    assert bool((energy(end) <= energy(y)).all())


@pytest.mark.parametrize("label", [label for label in SAMPLERS if label.startswith(("langevin", "underdamped"))])
def test_where_quartic_walls_overflow_untested_chains_stop(label):
    with pytest.raises(FloatingPointError, match=r"step \d: the (energy|state|gradient) is not finite in 3 of 3 chains"):
        sampler(label).sample(lambda y: y.pow(4).sum(-1) / 10, torch.full((3, 2), 1e8), generator=seeded())


@pytest.mark.parametrize("label", [label for label in TESTED if label != "compiled"])  # which refuses an energy with hooks
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_slope_that_is_not_finite_is_a_wall(label, bad):
    """The energy is finite everywhere, its gradient within the ball alone: whoever asks for gradients stays there."""

    def energy(y):
        z = y * 1.0
        if z.requires_grad:
            z.register_hook(lambda grad: torch.where(y.norm(dim=-1, keepdim=True) > 1, bad, grad))
        return quadratic(z)

    y = 0.3 * normal(200, 2, seed=1).clamp(-2, 2)
    for state, _ in sampler(label).trajectory(energy, y, steps=12, generator=seeded()):
        assert bool(state.y.isfinite().all())
        assert label.startswith(tuple(WITHOUT_GRADIENT)) or bool((sampler(label).point(state.y).norm(dim=-1) <= 1).all())


class Elsewhere(torch.Tensor):
    """Passes for a tensor on an accelerator, where values are looked at when the trajectory ends."""

    is_cpu = False


@pytest.mark.parametrize("label", ["gradient-descent", "langevin"])
@pytest.mark.parametrize(("recovers", "where"), [(False, r".*\(chain 3\)"), (True, "")])
def test_on_an_accelerator_it_stops_at_the_end_naming_the_step(label, recovers, where):
    calls = []

    def energy(y):
        calls.append(1)
        wrong = len(calls) == 2 or (len(calls) > 2 and not recovers)
        return torch.where((torch.arange(5) == 3) & wrong, math.inf, quadratic(y))

    y = normal(5, 2).as_subclass(Elsewhere)
    with pytest.raises(FloatingPointError, match=r"step 2: the energy .*not finite" + where):
        sampler(label).sample(energy, y, generator=seeded())
    assert len(calls) == 4
    large = torch.full((5, 2), 1e308, dtype=torch.float64).as_subclass(Elsewhere)  # finite, unlike its sum
    sampler(label).sample(lambda y: y[:, 0] / 1e300, large, generator=seeded())


# ------------------------------------------------------------------------------------------------------------- landscapes


@every
@settings(laws, max_examples=4)
@given(seed=seeds, count=st.integers(1, 3))
def test_a_sequence_is_one_landscape_after_the_other(label, seed, count):
    if landscapes_of(label) > 1 or label == "predictor-corrector":
        return  # these know how many landscapes there are, and do not go on on one of them
    functions = [Valley(seed=level) for level in range(count)]
    moving, y = sampler(label), normal(3, 2, seed=seed)
    over(moving)
    for sequence in (functions, tuple(functions), torch.nn.ModuleList(functions)):
        one, other = seeded(seed), seeded(seed)
        whole = list(moving.trajectory(sequence, y, steps=2, generator=one))
        parts = []
        for level, function in enumerate(functions):
            start = moving.enter(function, parts[-1][0]) if level else y
            parts += moving.trajectory(function, start, steps=2, generator=other)
        assert len(whole) == 2 * count
        for (expected, about), (got, seen) in zip(whole, parts, strict=True):
            assert torch.equal(got.y, expected.y)
            close(seen.energy, about.energy)


@every
def test_an_energy_with_levels_is_visited_from_first_to_last(label):
    if landscapes_of(label) > 1:
        return
    visited = []

    class Stairs(Energy):
        levels = 3

        def encode(self, context=None, level=-1):
            return level

        def forward(self, y, code=None):
            visited.append(code)
            return quadratic(y)

    moving = sampler(label)
    over(moving)
    path = list(moving.trajectory(Stairs().landscapes(), normal(3, 2), steps=2, generator=seeded()))
    assert len(path) == 6
    assert visited == sorted(visited)
    assert set(visited) == {0, 1, 2}


# ----------------------------------------------------------------------------------------------- numbers drawn in train mode


@every
def test_a_pair_of_steps_is_drawn_in_train_mode_only(label):
    moving = sampler(label)
    moving.steps = (2, 5)
    levels, y = landscapes_of(label), normal(3, 2)

    def lengths(seed):
        return sum(1 for _ in moving.trajectory(quadratic, y, generator=seeded(seed)))

    found = [lengths(seed) for seed in range(30)]
    assert found == [lengths(seed) for seed in range(30)]
    assert min(found) >= 2 * levels
    assert max(found) <= 5 * levels
    if levels == 1:
        assert set(found) == {2, 3, 4, 5}
    moving.eval()
    assert {lengths(seed) for seed in range(10)} == {5 * levels}
    assert sum(1 for _ in moving.trajectory(quadratic, y, steps=3)) == 3 * levels


@scaled
@settings(laws, max_examples=10)
@given(seed=seeds, scale=st.sampled_from([1.0, 1.01, 1.5, 2.0, 4.0]))
def test_a_step_scale_is_drawn_once_per_trajectory_and_chain(label, seed, scale):
    moving = sampler(label)
    moving.step_scale = scale
    drawn = [state.scale for state, _ in moving.trajectory([quadratic] * 2, normal(40, 2), generator=seeded(seed))]
    if scale == 1.0:
        assert drawn == [None] * 8
    else:
        assert drawn[0].shape == (40,)
        assert drawn[0].unique().numel() == 40
        assert all(torch.equal(draw, drawn[0]) for draw in drawn)
        assert 1 / scale <= drawn[0].min() <= drawn[0].max() <= scale
    drawn = [state.scale for state, _ in moving.eval().trajectory(quadratic, normal(40, 2), generator=seeded(seed))]
    assert drawn == [None] * 4


def test_a_step_scale_spreads_the_steps_over_its_whole_range():
    def slope(y):
        return y.sum(-1)

    moving, y = sampler("gradient-descent/scale"), torch.zeros(4000, 1, dtype=torch.float64)
    moved = -moving.sample(slope, y, steps=1, generator=seeded()) / 0.02
    assert moved.min().item() == pytest.approx(0.5, abs=0.01)
    assert moved.max().item() == pytest.approx(2.0, abs=0.01)
    assert moved.mean().item() == pytest.approx(1.25, abs=4 * 1.5 / math.sqrt(12 * 4000))
    close(moving.eval().sample(slope, y, steps=1), torch.full_like(y, -0.02))


@every
def test_one_step_is_what_a_trajectory_makes_of_it(label):
    """`step` may be called by hand, as other packages' loops do."""
    if landscapes_of(label) > 1:
        return
    moving, energy, y = sampler(label), Valley(), normal(3, 2)
    generator, state = seeded(), moving.init(energy, y)
    for expected, _ in moving.trajectory(energy, y, generator=seeded()):
        state, info = moving.step(energy, state, generator=generator)
        close(state.y, expected.y)
        assert not info.energy.requires_grad
    if not any(True for _ in moving.parameters()):
        assert not state.y.requires_grad
    assert energy_and_grad(energy, state.y)[0].shape == (3,)
