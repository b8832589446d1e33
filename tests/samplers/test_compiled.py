"""Compiled: the moves of the sampler itself for the same generator, whatever varies, and what it refuses."""

import copy
import math
import os
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ebm
import ebm.samplers
from ebm.energies import Constrained
from ebm.interfaces import State
from ebm.samplers import (
    HMC,
    MALA,
    NUTS,
    Compiled,
    Conditioned,
    GradientDescent,
    LangevinDynamics,
    MirrorDescent,
    PreconditionedLangevin,
    RandomWalk,
    RMSpropLangevin,
    SliceSampler,
    Structured,
    UnderdampedLangevin,
    tree_program,
    warm_up,
)
from ebm.samplers.compiled import steady_samplers
from ebm.samplers.hamiltonian import Mass, Phase
from ebm.samplers.nuts import grown
from ebm.samplers.tree import begun
from ebm.samplers.tree_program import grown_in_program
from tests.helpers import Valley, close, laws, normal, quadratic, seeded, seeds

FALLING = {"schedule": "linear", "start": 0.2, "end": 0.05, "steps": 9}
SPREAD = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)


def bent(y):
    return y.square().sum(-1) / 2 + (2 * y[..., 0] - y[..., 1]).sin()


def traced(sampler, **keywords):
    """Compiled by tracing alone: its program is what torch's own compiler would translate."""
    return Compiled(sampler, **keywords, backend="eager")


PLAIN = {
    "langevin": lambda: LangevinDynamics(0.05),
    "langevin, all that varies": lambda: LangevinDynamics(FALLING, temperature=FALLING, step_scale=1.5, grad_clip=1.0),
    "langevin, decoupled noise": lambda: LangevinDynamics(0.1, noise_std=FALLING, retraction="clamp"),
    "mala": lambda: MALA(0.3),
    "mala, all that varies": lambda: MALA(FALLING, temperature=FALLING, preconditioner=SPREAD, step_scale=1.5),
    "hmc": lambda: HMC(0.4, leapfrog_steps=3),
    "hmc, all that varies": lambda: HMC(FALLING, leapfrog_steps=3, temperature=FALLING, mass=SPREAD, step_scale=1.5),
    "hmc, a step size for each chain": lambda: HMC(torch.tensor([0.1, 0.2, 0.3, 0.4]), leapfrog_steps=2),
    "preconditioned": lambda: PreconditionedLangevin(SPREAD, 0.05),
    "preconditioned, all that varies": lambda: PreconditionedLangevin(0.5, FALLING, temperature=FALLING, step_scale=1.5),
    "rmsprop": lambda: RMSpropLangevin(0.05),
    "rmsprop, all that varies": lambda: RMSpropLangevin(FALLING, temperature=FALLING, step_scale=1.5),
    "underdamped": lambda: UnderdampedLangevin(0.2),
    "underdamped, all that varies": lambda: UnderdampedLangevin(FALLING, mass=SPREAD, temperature=FALLING, step_scale=1.5),
    "descent": lambda: GradientDescent(0.1),
    "descent, learnable": lambda: GradientDescent(0.1, learnable=True),
    "descent, all that varies": lambda: GradientDescent(
        FALLING, momentum=0.5, nesterov=True, noise_std=FALLING, retraction="softmax", step_scale=1.5, grad_clip=1.0
    ),
    "mirror": lambda: MirrorDescent(0.2, momentum=0.5, noise_std=FALLING),
    "random walk": lambda: RandomWalk(0.5),
    "random walk, all that varies": lambda: RandomWalk(FALLING, covariance=SPREAD, temperature=FALLING, step_scale=1.5),
    "nuts": lambda: NUTS(0.3, max_depth=4),
    "nuts, all that varies": lambda: NUTS(FALLING, max_depth=4, mass=SPREAD, step_scale=1.5),
}


def path_of(sampler, energy, y, steps, seed=0):
    return [*sampler.trajectory(energy, y, steps=steps, generator=seeded(seed))]


def same(one, other):
    for (state, info), (twin, told) in zip(one, other, strict=True):
        for a, b in ((state, twin), (info, told)):
            assert type(a) is type(b)
            close(a._asdict(), b._asdict())


@pytest.mark.parametrize("label", PLAIN)
def test_it_makes_the_same_moves(label):
    paths, states = [], []
    for sampler in (PLAIN[label](), traced(PLAIN[label]())):
        g = seeded()
        paths.append([*sampler.trajectory(bent, normal(4, 2), steps=11, generator=g)])
        states.append(g.get_state())
    same(*paths)
    assert torch.equal(*states)


def test_every_steady_sampler_is_among_them():
    known = {type(make()).__name__ for make in PLAIN.values()}
    assert {name for name in steady_samplers() if getattr(ebm.samplers, name, None)} == known


@pytest.mark.parametrize("kind", [LangevinDynamics, PreconditionedLangevin, RMSpropLangevin, UnderdampedLangevin])
def test_noise_that_a_schedule_ends_is_no_longer_drawn(kind):
    """And comes back, where the schedule does."""
    first = {"preconditioner": 1.0} if kind is PreconditionedLangevin else {}

    def heat(t):
        return 0.0 if 4 <= t < 9 else 0.3

    ends = []
    for wrap in (lambda s: s, lambda s: traced(s, together=2)):
        g = seeded()
        y = wrap(kind(**first, step_size=0.05, temperature=heat)).sample(bent, normal(4, 2), steps=14, generator=g)
        ends.append((y, torch.rand(3, generator=g)))
    close(*ends)


def test_what_is_drawn_is_looked_at_anew_where_the_sampler_changes():
    changes = [
        (LangevinDynamics(0.05), {"temperature": 0.0}),
        (GradientDescent(0.1, noise_std=0.1, noise_in="train"), {"training": False}),
        (NUTS(0.3, max_depth=2), {"max_depth": 4}),
    ]
    for plain, change in changes:
        sampler, runs = traced(copy.deepcopy(plain)), []
        for one in (sampler, plain):
            g, inner = seeded(), getattr(one, "sampler", one)
            held = {name: getattr(inner, name) for name in change}
            y = one.sample(bent, normal(4, 2), steps=10, generator=g)
            for values in (change, held):
                for name, value in values.items():
                    setattr(inner, name, value)
                y = one.sample(bent, y, steps=10, generator=g)
            runs.append((y, torch.rand(3, generator=g)))
        close(*runs)


@pytest.mark.parametrize("label", ["langevin", "mala", "hmc", "underdamped", "rmsprop"])
def test_which_steps_a_program_takes_does_not_depend_on_what_ran_before(label):
    """So a run that is stopped, loaded into a fresh sampler and goes on is bit for bit what it would have been."""
    sampler, taken = traced(PLAIN[label](), together=2), []
    program = sampler._program
    sampler._program = lambda y: lambda *how: (taken.append(how[-1]), program(y)(*how))[1]
    ends = []
    for _ in range(2):
        *_, (state, _) = sampler.trajectory(bent, normal(4, 2), steps=3, generator=(g := seeded()))
        ends.append(sampler.sample(bent, state, steps=4, generator=g))
    assert torch.equal(*ends)
    assert taken == [*taken[: len(taken) // 2]] * 2


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("label", ["langevin", "mala", "hmc", "nuts", "underdamped"])
def test_so_does_the_program_that_a_compiler_makes(label):
    """Of the smallest kind, since compiling takes seconds."""
    y, sampler = normal(4, 2), PLAIN[label]()
    same(path_of(sampler, bent, y, 5), path_of(Compiled(PLAIN[label](), together=1), bent, y, 5))


@laws
@given(steps=st.integers(0, 9), more=st.integers(0, 9), together=st.integers(1, 4), seed=seeds)
def test_n_steps_and_then_m_are_n_and_m(steps, more, together, seed):
    sampler, g, y = HELD[together], seeded(seed), normal(3, 2, seed=seed)
    whole = MALA(0.3).sample(bent, y, steps=steps + more, generator=seeded(seed))
    state = y
    for state, _ in sampler.trajectory(bent, y, steps=steps, generator=g):  # noqa: B007
        pass
    close(sampler.sample(bent, state, steps=more, generator=g), whole)


HELD = {together: traced(MALA(0.3), together=together) for together in range(1, 5)}  # traced once for all examples


@laws
@given(depth=st.sampled_from([2, 5]), size=st.floats(0.05, 1.5), dense=st.booleans(), seed=seeds)
def test_a_tree_in_a_program_is_the_tree(depth, size, dense, seed):
    y, mass = normal(4, 2, seed=seed), Mass(SPREAD if dense else torch.ones(2, dtype=torch.float64))
    value = bent(y)
    grad = torch.func.grad(lambda y: bent(y).sum())(y)
    motion, tree = begun(bent, mass, torch.tensor(size, dtype=y.dtype), Phase(y, normal(4, 2, seed=seed + 1), value, grad))
    table = torch.rand(2**depth - 1 + 2 * depth, 4, generator=seeded(seed), dtype=y.dtype)
    rows = iter(table)
    with torch.no_grad():
        close(GROWN(motion, tree, depth, table), grown(motion, tree, depth, lambda _: next(rows)))


GROWN = torch.compile(grown_in_program, backend="eager", fullgraph=True, dynamic=False, recompile_limit=64)


def test_the_global_generator_is_drawn_from_as_by_the_sampler():
    ends = []
    for sampler in (MALA(0.3), traced(MALA(0.3))):
        torch.manual_seed(0)
        ends.append(torch.cat([sampler.sample(bent, normal(4, 2), steps=12), torch.rand(4, 2)]))
    close(*ends)


class Counting:
    """torch.compile's eager backend, which counts."""

    def __init__(self):
        self.made = 0

    def __call__(self, graph, inputs):
        self.made += 1
        return graph.forward


def test_what_may_change_makes_no_new_program():
    energy, backend = Valley(context_dim=3), Counting()
    sampler = Compiled(HMC(0.1, leapfrog_steps=2), together=2, backend=backend)
    plain = HMC(0.1, leapfrog_steps=2)
    for seed in range(4):
        for one in (sampler.sampler, plain):
            one.step_size = 0.1 * (1 + seed)
        with torch.no_grad():
            energy.inner.mul_(1.1)
        bound = energy.given(normal(4, 3, seed=seed))  # another context, of one shape
        y = normal(4, 2, seed=seed)
        close(sampler.sample(bound, y, steps=8, generator=seeded(seed)), plain.sample(bound, y, steps=8, generator=seeded(seed)))
    assert backend.made == 1


def test_what_must_change_the_program_does():
    sampler, plain, y = traced(HMC(0.1, leapfrog_steps=2), together=1), HMC(0.1, leapfrog_steps=2), normal(4, 2)
    for change in ({"leapfrog_steps": 3}, {"mass": Mass(torch.tensor([2.0, 3.0]))}, {"mass": Mass(SPREAD)}):
        for one in (sampler.sampler, plain):
            for name, value in change.items():
                setattr(one, name, value)
        close(sampler.sample(bent, y, steps=9, generator=seeded()), plain.sample(bent, y, steps=9, generator=seeded()))
    close(sampler.sample(quadratic, y, steps=9, generator=seeded()), plain.sample(quadratic, y, steps=9, generator=seeded()))
    one, both = normal(7, 2), normal(2, 3, 2)
    for start in (one, both):
        ends = [s.sample(bent, start, steps=9, generator=seeded()) for s in (sampler, plain)]
        close(*ends)


@pytest.mark.parametrize("label", ["langevin", "mala", "hmc", "nuts"])
def test_it_is_warmed_up_as_the_sampler(label):
    scales = torch.tensor([1.0, 5.0], dtype=torch.float64)
    ends, backend = [], Counting()
    for sampler in (PLAIN[label](), Compiled(PLAIN[label](), backend=backend)):
        ends.append(warm_up(sampler, lambda y: (y / scales).square().sum(-1) / 2, normal(8, 2), steps=60, generator=seeded()))
    (plain, y), (compiled, other) = ends
    assert isinstance(compiled, Compiled)
    close(compiled.sampler.state_dict(), plain.state_dict())
    close(other, y)
    assert backend.made <= 2  # the mass comes after some steps without one


def test_landscapes_are_visited_in_turn():
    energy, y = Valley(levels=3), normal(4, 2)
    for plain in (MALA(0.1), LangevinDynamics(0.1)):
        landscapes = energy.landscapes(normal(4, 3))
        close(
            traced(plain, together=2).sample(landscapes, y, steps=5, generator=seeded()),
            plain.sample(landscapes, y, steps=5, generator=seeded()),
        )


def test_it_works_inside_others():
    def joint(y):
        return y["a"].square().sum(-1) / 2 + (y["b"] - y["a"][..., 0]).square()

    start = {"a": normal(4, 2), "b": normal(4, seed=1)}
    still = torch.tensor([True, False, False])
    for plain in (MALA(0.2), HMC(0.3, leapfrog_steps=8)):
        ends = [Structured(s).sample(joint, start, steps=7, generator=seeded()) for s in (traced(plain), plain)]
        close(*ends)
        ends = [
            Conditioned(s, still).sample(quadratic, normal(4, 3), steps=7, generator=seeded()) for s in (traced(plain), plain)
        ]
        close(*ends)
    positive = Constrained(lambda y: y.sum(-1) - y.log().sum(-1), torch.distributions.ExpTransform())
    ends = [s.sample(positive, normal(4, 3), steps=7, generator=seeded()) for s in (traced(HMC(0.2)), HMC(0.2))]
    close(*ends)


def test_half_precision_moves_as_it_does_eagerly():
    y = normal(4, 2).to(torch.bfloat16)
    ends = [s.sample(bent, y, steps=12, generator=seeded()) for s in (traced(MALA(0.2)), MALA(0.2))]
    assert ends[0].dtype == torch.bfloat16
    close(*ends)


def steep(y):
    """Overflows once a chain has come far."""
    return -y.square().square().sum(-1)


@pytest.mark.parametrize("together", [1, 4])
def test_what_is_not_finite_is_told_with_its_step_and_chain(together):
    y = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    told = []
    for sampler in (LangevinDynamics(0.5, temperature=0.0), traced(LangevinDynamics(0.5, temperature=0.0), together=together)):
        seen = 0
        with pytest.raises(FloatingPointError) as error:
            for seen, _ in enumerate(sampler.trajectory(steep, y, steps=40), 1):  # noqa: B007
                pass
        told.append((seen, str(error.value)))
    assert told[0] == told[1]
    assert "chain 1" in told[0][1]


def test_an_overflowing_sum_is_no_alarm():
    y = torch.full((4, 2), 1e308, dtype=torch.float64)

    def flat(y):
        return (y * 1e-308).square().sum(-1)

    assert traced(LangevinDynamics(0.1), together=2).sample(flat, y, steps=6, generator=seeded()).isfinite().all()


def test_a_copy_has_numbers_of_its_own():
    one = traced(MALA(0.3))
    one.sample(bent, normal(4, 2), steps=12)
    other = copy.deepcopy(one)
    other.sampler.step_size = 0.01
    close(
        one.sample(bent, normal(4, 2), steps=12, generator=seeded()),
        MALA(0.3).sample(bent, normal(4, 2), steps=12, generator=seeded()),
    )
    close(
        other.sample(bent, normal(4, 2), steps=12, generator=seeded()),
        MALA(0.01).sample(bent, normal(4, 2), steps=12, generator=seeded()),
    )


def test_errors_name_the_way_out():
    with pytest.raises(ValueError, match=r"Compiled\(SliceSampler\): no program holds its steps.*take it as it is.*HMC, Lan"):
        Compiled(SliceSampler(0.1))
    with pytest.raises(ValueError, match=r"Compiled\(Own\): no program holds its steps"):
        Compiled(type("Own", (MALA,), {})(0.1))  # who knows what its steps do
    with pytest.raises(ValueError, match=r"MALA.compile\(\) has no energy: put ebm.samplers.Compiled\(sampler\) in its place"):
        MALA(0.1).compile()
    with pytest.raises(ValueError, match="together=0.: pass how many steps make a program"):
        Compiled(MALA(0.1), together=0)
    with pytest.raises(ValueError, match="Compiled keeps no graph, as unroll='full' asks: take the LangevinDynamics inside it"):
        traced(LangevinDynamics(0.1)).trajectory(quadratic, normal(4, 2), unroll="full")
    with pytest.raises(ValueError, match="create_graph=True asks"):
        traced(LangevinDynamics(0.1)).step(quadratic, State(normal(4, 2)), create_graph=True)

    def by_value(y):
        return quadratic(y) if float(y.detach().sum()) > math.inf else 2 * quadratic(y)

    with pytest.raises(ValueError, match="no program can be made of its steps on this energy .*take the MALA itself"):
        traced(MALA(0.1)).sample(by_value, normal(4, 2), steps=12)
    with pytest.raises(ValueError, match="it draws anew at each call"):
        traced(MALA(0.1)).sample(lambda y: quadratic(nn.functional.dropout(y)), normal(4, 2), steps=12)


@pytest.mark.parametrize(
    ("loop", "why"), [(None, "it is not there"), (lambda goes_on, body, carried: body(*carried), r"it finds \[")]
)
def test_a_torch_whose_loops_are_others_is_refused_at_the_start(monkeypatch, loop, why):
    monkeypatch.setattr(tree_program, "while_loop", loop)
    tree_program.check_loops.cache_clear()
    try:
        with pytest.raises(ValueError, match=f"as NUTS's tree needs it .{why}.*take the NUTS itself"):
            traced(NUTS(0.1))
        traced(HMC(0.1))  # which needs none
    finally:
        tree_program.check_loops.cache_clear()


def test_a_recipe_says_it(tmp_path):
    inner = {"use": "mala", "step_size": 0.01, "steps": 4}
    compiled = {"use": "compiled", "backend": "eager", "sampler": inner}
    small = {"fit.steps": 2, "fit.batch_size": 8, "fit.evaluate_every": 2, "fit.evaluate_limit": 8, "fit.accelerator": "cpu"}
    ends = []
    for name, sampler in (("plain", inner), ("compiled", compiled)):
        settings = {"objective.sampler": sampler, "fit.sampler": sampler, "energy.hidden": [4], "task.n": 64, **small}
        run = ebm.run("density", settings, out=tmp_path / name)
        ends.append({key: value for key, value in run.energy.state_dict().items()})
    close(*ends)
    assert "compiled" in (tmp_path / "compiled" / "recipe.toml").read_text()
