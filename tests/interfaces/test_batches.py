"""Laws of bare batches: what a DataLoader gives is the batch that one would write, and what must be guessed is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ebm.energies import ConditionalMLP, MLPEnergy
from ebm.interfaces import Batch, Loss, Objective, as_batch
from ebm.objectives import ContrastiveDivergence, DenoisingScoreMatching, WeightedSum
from ebm.samplers import LangevinDynamics
from tests.helpers import seeded

Y, C = torch.randn(8, 2, generator=seeded()), torch.randn(8, 3, generator=seeded(1))
SAME = {
    "tensor": Y,
    "array": Y.numpy(),
    "doubles of an array": Y.numpy().astype(np.float64),
    "1-tuple": (Y,),
    "a DataLoader's": next(iter(DataLoader(TensorDataset(Y), batch_size=8))),
}


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("aim", [ContrastiveDivergence(LangevinDynamics(0.01, 3)), DenoisingScoreMatching(0.3)])
def test_a_bare_batch_has_the_loss_of_the_batch(kind, aim):
    torch.manual_seed(0)
    energy = MLPEnergy(2, hidden=(8,))
    expected = aim(energy, Batch(Y), generator=seeded())
    found = WeightedSum([aim])(energy, SAME[kind], generator=seeded())
    assert torch.equal(found.value, expected.value)


def test_a_pair_is_y_and_its_context():
    torch.manual_seed(0)
    energy, aim = ConditionalMLP(dim=2, context_dim=3), DenoisingScoreMatching(0.3)
    expected = aim(energy, Batch(Y, C), generator=seeded()).value
    for pair in ((Y, C), [Y, C], (Y.numpy(), C.numpy()), next(iter(DataLoader(TensorDataset(Y, C), batch_size=8)))):
        assert torch.equal(aim(energy, pair, generator=seeded()).value, expected)
    assert aim(energy, Batch(Y, C.flip(0)), generator=seeded()).value != expected


def test_labels_of_an_array_stay_whole_numbers():
    assert as_batch((Y.numpy(), np.arange(8))).context.dtype == torch.int64


def test_a_batch_of_ones_own_type_stays_as_it_is():
    own = type("Own", (), {"target": Y, "context": None})()
    assert as_batch(own) is own
    batch = Batch(Y)
    assert as_batch(batch) is batch


@pytest.mark.parametrize(
    "data",
    [
        {"y": Y},
        [Y, C, C],
        [],
        [Y, C[:5]],
        (Y[:, 0], C[:, 0]),  # two rows, or y with a context?
        [Y[0], Y[1]],
        torch.tensor(1.0),
        "data",
        None,
        DataLoader(TensorDataset(Y)),
        [[1.0, 2.0], [3.0, 4.0]],
        np.array(["a", "b"]),
    ],
    ids=lambda data: type(data).__name__,
)
def test_what_would_have_to_be_guessed_is_refused(data):
    with pytest.raises(ValueError, match=r"the batch .*pass (y \(rows, \*event\), a pair \(y, context\), or ebm\.Batch|numbers)"):
        DenoisingScoreMatching(0.3)(MLPEnergy(2), data)


def test_the_batch_may_be_named():
    aim = DenoisingScoreMatching(0.3)
    assert aim(MLPEnergy(2), batch=Y).value.isfinite()


def test_nan_in_data_is_called_that_and_not_a_step_size():
    data = Y.clone()
    data[3, 1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"target is NaN in 1 of 8 rows \(row 3 first\)"):
        ContrastiveDivergence(LangevinDynamics(0.01, 3))(MLPEnergy(2), data)
    assert Batch(Y, C).flaw() == ""
    assert Batch(Y, (C, [C / 0])).flaw().startswith("the batch's context is infinite in 8 of 8 rows (row 0 first)")
    assert Batch(Y, weight=torch.tensor([torch.inf] + 7 * [1.0])).flaw().startswith("the batch's weight is infinite in 1")

    class Broken(Objective):
        def forward(self, energy, batch, *, start=None, generator=None):
            raise FloatingPointError("of its own")

    with pytest.raises(FloatingPointError, match=r"^of its own$"):  # where the data are finite, nothing is blamed on them
        Broken()(MLPEnergy(2), Y)


def test_a_forward_gets_a_batch():
    class Watching(Objective):
        def forward(self, energy, batch, *, start=None, generator=None):
            assert isinstance(batch, Batch)
            return Loss(batch.target.sum(), {})

    assert Watching()(None, Y.numpy()).value == Y.sum()
