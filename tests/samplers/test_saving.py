"""What was walked or tuned can be saved: chains go on bit for bit, and a tuned sampler is loaded tuned."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from ebm.energies import RBM
from ebm.samplers import HMC, MALA, NUTS, BlockGibbs, FixedPoint, Halving, LangevinDynamics, from_tensors, to_tensors, warm_up
from tests.helpers import SAMPLERS, Valley, laws, normal, quadratic, sampler, seeded, seeds

ELSEWHERE = {
    "block-gibbs": (lambda: BlockGibbs(steps=4), RBM(6, 3).double(), torch.ones(3, 6, dtype=torch.float64)),
    "fixed-point": (lambda: FixedPoint(steps=4), Halving(), normal(3, 2)),
}
every = pytest.mark.parametrize("label", [*SAMPLERS, *ELSEWHERE])


def subject(label):
    if label in ELSEWHERE:
        return ELSEWHERE[label]
    return (lambda: sampler(label)), Valley(), normal(3, 2)


def last(walk):
    *_, (state, _) = walk
    return state


def through_torch(state, generator, fresh):
    """torch.save and a load that runs no code."""
    file = io.BytesIO()
    torch.save((state, generator.get_state()), file)
    file.seek(0)
    state, seed = torch.load(file, weights_only=True)
    generator = torch.Generator()
    generator.set_state(seed)
    return state, generator


def through_safetensors(state, generator, fresh):
    other = seeded(99)
    return from_tensors(load(save(to_tensors(state, generator))), fresh(), other), other


def go_on(moving, energy, state, steps, generator):
    if len(moving.route([energy])) == 1:
        return last(moving.trajectory(energy, state, steps=steps, generator=generator))
    for _ in range(steps):  # it would visit all its landscapes again
        state, _ = moving.step(energy, state, generator=generator)
    return state


@every
@pytest.mark.parametrize("way", [through_torch, through_safetensors])
@settings(laws, max_examples=4)
@given(seed=seeds, k=st.integers(1, 4))
def test_chains_that_are_saved_go_on_bit_for_bit(label, way, seed, k):
    make, energy, y = subject(label)
    g = seeded(seed)
    state = last(make().trajectory(energy, y, steps=k, generator=g))
    saved = to_tensors(state, g)
    other, kept = way(state, g, lambda: make().init(energy, torch.zeros_like(y)))
    expected = go_on(make(), energy, state, k, g)
    assert type(other) is type(state)
    assert all(torch.equal(value, saved[name]) for name, value in to_tensors(other, kept).items())
    got = go_on(make(), energy, other, k, kept)
    assert torch.equal(got.y, expected.y)
    one, two = to_tensors(got, kept), to_tensors(expected, g)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_numbers_and_what_is_none_come_back_as_they_were():
    state = MALA(0.1).init(quadratic, normal(3, 2))
    again = from_tensors(to_tensors(state), MALA(0.1).init(quadratic, normal(3, 2, seed=1)))
    assert (again.t, again.scale, again.gain, again.energy) == (0, None, 1.0, None)
    assert type(again.t) is int
    assert type(again.gain) is float
    assert to_tensors(state)["y"].data_ptr() != state.y.data_ptr()


def test_another_samplers_tensors_are_refused():
    y = normal(3, 2)
    walked = to_tensors(last(MALA(0.1).trajectory(quadratic, y, steps=2, generator=seeded())))
    with pytest.raises(ValueError, match=r"\['energy', 'grad'\].*State does not"):
        from_tensors(walked, LangevinDynamics(0.1).init(quadratic, y))
    with pytest.raises(ValueError, match="lack 'inner.y'"):
        from_tensors(walked, sampler("monotone").init(quadratic, y))
    with pytest.raises(ValueError, match="hold none: leave it out"):
        from_tensors(walked, MALA(0.1).init(quadratic, y), seeded())
    with pytest.raises(ValueError, match="pass generator="):
        from_tensors(to_tensors(MALA(0.1).init(quadratic, y), seeded()), MALA(0.1).init(quadratic, y))
    with pytest.raises(ValueError, match="Tensor is no sampler's State"):
        to_tensors(y)


# ------------------------------------------------------------------------------------------------------- tuned samplers


@pytest.mark.parametrize("kind", [MALA, HMC, NUTS])
@pytest.mark.parametrize("mass", ["diagonal", "dense", None])
@pytest.mark.parametrize("built", [0.1, torch.tensor(0.2), lambda t: 0.3], ids=["number", "tensor", "schedule"])
def test_a_tuned_sampler_is_loaded_tuned(kind, mass, built):
    y = normal(16, 3)
    warmed = warm_up(kind(0.3, steps=3), lambda y: quadratic(y * torch.tensor([1.0, 3.0, 0.5])), y, steps=40, mass=mass)
    file = io.BytesIO()
    torch.save(warmed.sampler.state_dict(), file)
    file.seek(0)
    fresh = kind(built, steps=3)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert fresh.step_size == warmed.sampler.step_size
    ends = [moving.sample(quadratic, warmed.y, generator=seeded()) for moving in (fresh, warmed.sampler)]
    assert torch.equal(*ends)
    assert fresh.state_dict().keys() == warmed.sampler.state_dict().keys()
    holder = torch.nn.ModuleDict({"inner": kind(0.1)})
    holder.load_state_dict({f"inner.{key}": value for key, value in warmed.sampler.state_dict().items()})
    assert holder["inner"].step_size == warmed.sampler.step_size


def test_a_tuned_sampler_does_not_load_what_says_nothing_of_its_step_size():
    tuned = warm_up(MALA(0.3), quadratic, normal(16, 3), steps=20).sampler
    with pytest.raises(RuntimeError, match="tuned_step_size"):
        tuned.load_state_dict(MALA(0.1).state_dict())
    with pytest.raises(RuntimeError, match="tuned_step_size"):
        LangevinDynamics(0.1, learnable=True).load_state_dict(tuned.state_dict())
    massive = HMC(0.1, mass=torch.ones(3))
    with pytest.raises(RuntimeError, match="mass.values"):
        massive.load_state_dict(HMC(0.1).state_dict())
