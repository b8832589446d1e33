"""Fixed-point iteration: it repeats a network's own update, counts its passes, and refuses others."""

import pytest
import torch

from ebm.baselines import LoopedNetwork
from ebm.interfaces import Batch
from ebm.samplers import FixedPoint
from ebm.testing import check_energy
from ebm.thinking import Thinker
from tests.helpers import close, normal, quadratic, seeded

CONTEXT = torch.tensor([[-1, 2, -1, 0], [-1, -1, 1, -1]])


def network(state="belief"):
    torch.manual_seed(0)
    return LoopedNetwork(3, dim=8, heads=2, relations={"kind": "order", "reach": 2}, state=state).double()


@pytest.mark.parametrize("state", ["belief", "hidden"])
def test_steps_are_the_networks_own(state):
    looped = network(state)
    code, y = looped.encode(CONTEXT), normal(5, 2, 4, 3 + looped.hidden)
    expected = y
    with torch.no_grad():
        for _ in range(3):
            expected, _ = looped.advance(expected, code)
    close(FixedPoint(3).sample(looped.given(CONTEXT), y), expected)


def test_a_hidden_state_gets_room_and_noise_stays_in_training():
    looped, start = network("hidden"), normal(2, 4, 3)
    assert FixedPoint(2).sample(looped.given(CONTEXT), start, generator=seeded()).shape == (2, 4, 11)
    assert FixedPoint(2, hidden=8).sample(looped.given(CONTEXT), start, generator=seeded()).shape == (2, 4, 11)
    noisy, belief = FixedPoint(2, noise_std=0.1, noise_in="train"), network()
    ends = [noisy.train(mode).sample(belief.given(CONTEXT), start, generator=seeded(s)) for mode in (True, False) for s in (0, 1)]
    assert not torch.equal(ends[0], ends[1])
    assert torch.equal(ends[2], ends[3])


def test_known_positions_are_sure_and_do_not_count():
    looped = network()
    y, energy = looped.advance(normal(2, 4, 3), looped.encode(CONTEXT))
    known = CONTEXT >= 0
    assert torch.equal(y.argmax(-1)[known], CONTEXT[known])
    expected = (-y.log_softmax(-1).amax(-1) * ~known).sum(-1) / (~known).sum(-1)
    close(energy, expected)


def test_a_thinker_counts_its_passes_and_chooses_the_surest():
    looped = network()
    thinker = Thinker(looped, FixedPoint(5), candidates=3)
    start = normal(3, 2, 4, 3)
    found = thinker.predict(Batch(CONTEXT, CONTEXT), start)
    assert found.evaluations == 3 * 6  # and one to score the end
    ends = FixedPoint(5).sample(looped.given(CONTEXT), start)
    with torch.no_grad():
        energies = looped.given(CONTEXT)(ends)
    close(found.energy, energies.min(0).values)
    close(found.y, ends[energies.argmin(0), torch.arange(2)])


@pytest.mark.parametrize("state", ["belief", "hidden"])
def test_as_an_energy_it_keeps_the_laws(state):
    def make():
        return LoopedNetwork(3, dim=8, heads=2, state=state)

    check_energy(make, torch.randn(6, 4, 3 + make().hidden), CONTEXT[:1].repeat(6, 1))


def test_what_has_no_update_is_refused():
    with pytest.raises(ValueError, match="advance"):
        FixedPoint(2).sample(quadratic, normal(3, 2))
    for how, message in (({"hidden": -1}, "hidden=-1"), ({"noise_in": "never"}, "never"), ({"noise_std": -1.0}, "noise_std")):
        with pytest.raises(ValueError, match=message):
            FixedPoint(2, **how)
