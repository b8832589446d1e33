"""Laws of retractions: their values, their names, and where they may come from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.samplers import GradientDescent, LangevinDynamics, clamp, softmax
from ebm.samplers.stepping import RETRACTIONS, as_retraction
from tests.helpers import close, laws, normal, quadratic, seeded, seeds


@laws
@given(seeds, st.floats(-2, 0), st.floats(0.1, 2))
def test_values(seed, low, width):
    y = 2 * normal(3, 4, seed=seed)
    close(softmax(y), y.exp() / y.exp().sum(-1, keepdim=True))
    clipped = [[max(low, min(low + width, x)) for x in row] for row in y.tolist()]
    close(clamp(low, low + width)(y), torch.tensor(clipped, dtype=torch.float64))


def test_names_and_functions():
    assert as_retraction(None) is None
    assert as_retraction(torch.tanh) is torch.tanh
    y = 3 * normal(3, 4)
    close(as_retraction("softmax")(y), softmax(y))
    close(as_retraction("clamp")(y), y.clamp(-1, 1))
    with pytest.raises(ValueError, match=f"'sphere'.*{', '.join(RETRACTIONS)}"):
        as_retraction("sphere")


@pytest.mark.parametrize("kind", [GradientDescent, LangevinDynamics])
def test_a_sampler_takes_its_energies_at_the_retracted_point(kind):
    seen = []

    def energy(y):
        seen.append(y.detach().clone())
        return quadratic(y)

    moving, y = kind(0.5, steps=3, retraction=clamp(-0.1, 0.1)), normal(5, 2)
    path = list(moving.trajectory(energy, y, generator=seeded()))
    for state, point in zip([y, *(state.y for state, _ in path)], seen, strict=False):
        close(point, state.clamp(-0.1, 0.1))
        close(moving.point(state), point)
