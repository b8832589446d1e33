"""NumPy's numbers and arrays are taken wherever a number or a tensor goes, and truth values nowhere."""

import inspect

import numpy as np
import pytest
import torch

import ebm
from ebm.energies import Gaussian, MLPEnergy
from ebm.interfaces import Sampler, plain, plainly
from ebm.interfaces.arguments import NUMBER
from ebm.judging import (
    annealed_importance_sampling,
    geometric_path,
    kernel_stein_discrepancy,
    mmd,
    mmd_permutation_test,
    split_rhat,
)
from ebm.objectives import ContrastiveDivergence
from ebm.samplers import HMC, MALA, Annealed, LangevinDynamics, Linear, ParallelTempering, clamp, warm_up
from ebm.tasks import Points
from tests.helpers import OBJECTIVES, SAMPLERS, close, normal, quadratic, seeded


def numpyed(value):
    """Writes numbers as NumPy's, also those within lists, tuples and dictionaries."""
    if type(value) is int:
        return np.int64(value)
    if type(value) is float:
        return np.float32(value)
    if type(value) in (list, tuple):
        return type(value)(map(numpyed, value))
    return {key: numpyed(part) for key, part in value.items()} if type(value) is dict else value


def rounded(value):
    """The same numbers in Python's types."""
    return plain(numpyed(value))


@pytest.mark.parametrize("label", SAMPLERS)
def test_every_sampler_is_the_same_with_numpys_numbers(label):
    ends = [
        ebm.build("sampler", label.partition("/")[0], **{name: write(value) for name, value in SAMPLERS[label]().items()})
        .train()
        .sample(quadratic, normal(3, 2), generator=seeded())
        for write in (numpyed, rounded)
    ]
    assert torch.equal(*ends)


@pytest.mark.parametrize("label", OBJECTIVES)
def test_every_objective_is_the_same_with_numpys_numbers(label):
    torch.manual_seed(0)
    energy, batch = MLPEnergy(2).double(), ebm.Batch(normal(8, 2))
    losses = [
        ebm.build("objective", label.partition("/")[0], **{name: write(value) for name, value in OBJECTIVES[label]().items()})(
            energy, batch, generator=seeded()
        ).value
        for write in (numpyed, rounded)
    ]
    close(*losses)


def numeric(kind):
    """The parameters of registered components that are annotated as numbers, with a default that is one."""
    for name, component in ebm.components(kind).items():
        for parameter in inspect.signature(component.factory).parameters.values():
            hint = str(parameter.annotation)
            if NUMBER.search(hint) and "bool" not in hint and type(parameter.default) in (int, float):
                yield pytest.param(component.factory, parameter.name, parameter.default, id=f"{name}-{parameter.name}")


REQUIRED = {
    "sampler": lambda: LangevinDynamics(0.1),
    "dim": lambda: 3,
    "vocab_size": lambda: 5,
    "features": lambda: 4,
    "image_size": lambda: 8,
    "energy": lambda: lambda y: y.square().sum(-1),
    "length": lambda: 4,
}


@pytest.mark.parametrize("kind", ["sampler", "energy", "objective"])
def test_there_are_numbers_to_look_at(kind):
    assert len([*numeric(kind)]) > 10


@pytest.mark.parametrize(("factory", "name", "value"), [*numeric("sampler"), *numeric("energy"), *numeric("objective")])
def test_truth_values_are_no_numbers(factory, name, value):
    with pytest.raises(ValueError, match=rf"\({name}=True\): pass a number, a truth value is none|steps=True"):
        factory(**{name: True})
    given = {p.name: REQUIRED[p.name]() for p in inspect.signature(factory).parameters.values() if p.name in REQUIRED}
    try:
        factory(**{**given, name: value})
    except (TypeError, ValueError):
        return  # it needs more than this test knows of, or this number is none that it allows alone
    made = factory(**{**given, name: numpyed(value)})
    assert not any(isinstance(held, np.generic) for held in vars(made).values())


def test_arrays_are_tensors_or_lists_as_a_parameter_wants():
    assert HMC(0.1, mass=np.ones(2)).mass.values.dtype == torch.get_default_dtype()
    assert Annealed(LangevinDynamics(0.1), np.array([4.0, 1 / 3])).temperatures == (4.0, 1 / 3)
    assert ParallelTempering(MALA(0.1), np.array([1.0, 2.0])).temperatures == (1.0, 2.0)
    assert [*map(type, MLPEnergy(2, hidden=np.array([8, 8])).parameters())]
    close(Gaussian(np.zeros(2), np.eye(2)).mean, torch.zeros(2))
    close(LangevinDynamics(np.array([0.1, 0.2])).step_size, torch.tensor([0.1, 0.2]))
    close(clamp(np.zeros(2), np.ones(2))(torch.tensor([-1.0, 3.0])), torch.tensor([0.0, 1.0]))
    y = LangevinDynamics(0.1, 3).sample(quadratic, np.zeros((4, 2)), steps=np.int64(2), generator=seeded())
    assert torch.equal(y, LangevinDynamics(0.1).sample(quadratic, torch.zeros(4, 2), steps=2, generator=seeded()))
    assert len(geometric_path(quadratic, quadratic, betas=np.linspace(0, 1, 4))) == 4
    assert plain(np.array(["a", "b"])).tolist() == ["a", "b"]
    assert plain(np.array([1, 2])).dtype == torch.int64


def test_numbers_of_calls():
    energy = Gaussian((0.0, 0.0))
    for halved in (energy / np.float32(2), energy * np.float64(0.5), np.float32(0.5) * energy, np.float64(0.5) * energy):
        close(halved(torch.ones(3, 2)), torch.full((3,), 0.5))
    assert len(geometric_path(energy, energy, betas=np.int64(5))) == 6
    moving, y = MALA(0.1), torch.randn(16, 2, generator=seeded())
    assert warm_up(moving, energy, y, steps=np.int64(20), target=np.float32(0.5)).y.shape == (16, 2)
    moving.steps = np.int64(3)
    assert sum(1 for _ in moving.trajectory(energy, y)) == 3
    thought = ebm.think(energy, moving, start=y[None].expand(2, 16, 2), candidates=np.int64(2), steps=np.int64(2))
    assert thought.energies.shape == (3, 2, 16)
    path = geometric_path(energy, energy, betas=2)
    found = annealed_importance_sampling(path, moving, y, steps=np.int64(1), confidence=np.float32(0.9))
    assert found.estimate == pytest.approx(energy.log_z.item(), abs=1e-5)
    assert mmd(y.numpy(), y.numpy() + 3, bandwidth=np.float32(1)) > 0.1
    assert mmd_permutation_test(y.numpy(), y.numpy(), permutations=np.int64(10)).p > 0.1
    assert kernel_stein_discrepancy(y.numpy(), energy, bandwidth=np.float32(1)) < 1
    falling = LangevinDynamics(Linear(np.float32(0.1), np.float32(0.01), np.int64(3)), 4)
    assert falling.sample(quadratic, y).shape == (16, 2)
    assert LangevinDynamics(lambda t: np.float32(0.1), 4, temperature=lambda t: np.float32(1)).sample(quadratic, y).shape == (
        16,
        2,
    )


def test_arrays_of_draws():
    pytest.importorskip("arviz")
    draws = np.random.default_rng(0).normal(size=(100, 4, 2))
    assert (split_rhat(draws) - 1).abs().max() < 0.1


def test_a_fit_takes_numpys_numbers_and_no_truth_values(tmp_path):
    energy, objective = MLPEnergy(2, hidden=(8,)), ContrastiveDivergence(LangevinDynamics(0.1, 2))
    how = {
        "steps": np.int64(2),
        "batch_size": np.int64(16),
        "lr": np.float32(1e-3),
        "evaluate_limit": np.int64(20),
        "seed": np.int64(1),
    }
    run = ebm.fit(energy, objective, Points("moons", n=200), out=tmp_path / "run", **how)
    assert run.metrics
    for name in ("steps", "seed", "lr", "batch_size"):
        with pytest.raises(ValueError, match=rf"fit\({name}=True\): {name} is "):
            ebm.fit(energy, objective, Points("moons", n=200), out=tmp_path / "other", **{name: True})


def test_what_others_write_takes_them_too():
    class Own(Sampler):
        def __init__(self, size: float, steps: int, exact: bool = False, more: object = None) -> None:
            super().__init__()
            self.size, self.steps, self.exact, self.more = size, steps, exact, more

    made = Own(np.float32(0.5), np.int64(3), exact=np.bool_(True), more=True)
    assert (type(made.size), type(made.steps), made.exact, made.more) == (float, int, True, True)
    assert [*inspect.signature(Own).parameters] == ["size", "steps", "exact", "more"]

    @plainly
    def several(first: int, *rest: float, **named: float) -> tuple:
        return first, rest, named

    assert several(1, 2.0, 3.0, a=np.float64(1)) == (1, (2.0, 3.0), {"a": 1.0})
