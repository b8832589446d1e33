"""Noise-contrastive estimation of sequences: where it is least, what it draws, and what it keeps."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ebm.baselines import LeftToRight, Transformer
from ebm.decoding.sequences import log_likelihood, one_hot, split_rows
from ebm.energies import BeliefEBT, SequenceEBT, TextEBT
from ebm.interfaces import Batch, Energy
from ebm.objectives import SequenceNCE
from ebm.tasks import Dyck
from tests.helpers import close, laws, seeded, seeds

V = 3


def base(seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(V, dim=8, depth=1, heads=2)


def rows(count: int, length: int, seed: int = 0) -> Batch:
    tokens = torch.randint(V, (count, length + 1), generator=seeded(seed))
    return Batch(tokens[:, 1:], tokens[:, :-1])


def energy(seed: int = 0) -> SequenceEBT:
    torch.manual_seed(seed)
    made = SequenceEBT(V, dim=8, depth=1, heads=2)
    nn.init.normal_(made.head.weight)
    return made


class Table(Energy):
    """Gives each sequence of two tokens after one an energy of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(V, V, V))

    def forward(self, y, code=None):
        return torch.einsum("bi,bj,ijb->b", y[:, 0], y[:, 1], self.values[:, :, code[:, -1]])


# ---------------------------------------------------------------------------------------------------------- what it learns


def test_it_is_least_where_the_model_has_the_data_s_distribution():
    """The residual of a known distribution is log p_base − log p_data, of every sequence: the slope there is 0."""
    model = base()
    everything = torch.tensor([*itertools.product(range(V), repeat=2)])
    truth = torch.rand(V, V * V, generator=seeded(1)).softmax(-1)  # of the first token, and of what follows
    prompts = torch.arange(V)[:, None]
    known = log_likelihood(model, prompts, everything[:, None].expand(-1, V, -1)).T  # (prompts, sequences)
    residual = (known - truth.log()).float()
    table = Table()
    with torch.no_grad():
        table.values.copy_(residual.view(V, V, V).permute(1, 2, 0))
    objective = SequenceNCE(model, prompt=(1, 1), fresh=1.0)
    generator, count = seeded(2), 30_000
    first = torch.randint(V, (count,), generator=generator)
    rest = everything[torch.multinomial(truth[first], 1, generator=generator)[:, 0]]
    tokens = torch.cat([first[:, None], rest], 1)
    objective(table, Batch(tokens[:, 1:], tokens[:, :-1]), generator=generator).value.backward()
    assert table.values.grad.abs().max() < 0.006  # about five standard deviations
    table.values.grad = None
    with torch.no_grad():
        table.values.zero_()
    objective(table, Batch(tokens[:, 1:], tokens[:, :-1]), generator=generator).value.backward()
    assert table.values.grad.abs().max() > 0.02  # elsewhere it is not


@pytest.mark.parametrize("ratio", [1, 3])
def test_without_an_energy_it_is_a_guess(ratio):
    loss = SequenceNCE(base(), ratio=ratio, prompt=(1, 2))(
        SequenceEBT(V, dim=8, depth=1, heads=2), rows(8, 6), generator=seeded()
    )
    expected = math.log(1 + ratio) + ratio * math.log(1 + 1 / ratio)
    close(loss.value.item(), expected, rtol=1e-5)


def test_the_base_is_never_trained_and_the_energy_is():
    model, trained = base(), energy()
    before = copy.deepcopy(model.state_dict())
    objective = SequenceNCE(model, prompt=(1, 2))
    objective(trained, rows(8, 6), generator=seeded()).value.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad.abs().sum() > 0 for parameter in trained.parameters())
    assert objective.log_z.grad.abs() > 0


# ------------------------------------------------------------------------------------------------------- prompts and draws


@laws
@given(seed=seeds, length=st.integers(2, 6), width=st.integers(0, 3))
def test_a_row_is_its_prompt_and_what_follows(seed, length, width):
    batch = rows(4, length, seed)
    known = torch.randint(1, length + 1, (4,), generator=seeded(seed))
    prompt, rest = split_rows(batch, known, None, length + width)
    for row in range(4):
        both = torch.cat([prompt[row], rest[row]])
        assert both[both >= 0].tolist() == [batch.context[row, 0].item(), *batch.target[row].tolist()]
        assert int((prompt[row] >= 0).sum()) == known[row]


def test_what_has_no_weight_or_stands_behind_the_end_belongs_to_no_sequence():
    task = Dyck(length=8, depth=(1, 2), deep=(3, 4), n=50)
    batch = next(iter(task.loader("train", 16)))
    prompt, rest = split_rows(batch, torch.full((len(batch.target),), 2), task.tokenizer.end)
    assert ((rest >= 0).sum(1) == batch.weight.sum(1) - 1).all()
    assert (prompt[:, 0] == task.tokenizer.end).all()
    assert task.is_right(torch.cat([prompt, rest], 1)).all()


@pytest.mark.parametrize("fresh", [0.25, 1.0])
def test_draws_are_no_longer_than_the_data(fresh):
    """A length that only draws have would tell them from data without a look at a token."""
    objective = SequenceNCE(base(), prompt=(1, 3), fresh=fresh, ratio=2)
    prompts, rest, weight = objective.pairs(rows(16, 5), seeded())
    asked, drawn, _ = objective.draws(prompts, weight, rest.shape[1], seeded())
    for before, after in ((prompts, rest), (asked, drawn)):
        assert ((before >= 0).sum(1) + (after >= 0).sum(1) == 6).all()
    assert drawn.shape == (32, 5)


def test_kept_draws_are_met_again_and_the_oldest_go():
    objective = SequenceNCE(base(), prompt=(1, 1), fresh=0.25, capacity=12)
    for step in range(6):
        objective(energy(), rows(8, 4, seed=step), generator=seeded(step))
    ((kept, drawn, _),) = objective.kept.values()
    assert len(kept) == len(drawn) == 12
    assert not {*map(tuple, kept.tolist())} - {(token,) for token in range(V)}
    with pytest.raises(ValueError, match="capacity=12: a batch of 16 rows needs 16"):
        objective(energy(), rows(16, 4), generator=seeded())


def test_kept_draws_go_with_the_state():
    """The loss after a stop is what it would have been."""
    first = SequenceNCE(base(), prompt=(1, 2))
    first(energy(), rows(8, 4), generator=seeded(1))
    second = SequenceNCE(base(seed=1), prompt=(1, 2))
    second.load_state_dict(first.state_dict())
    batch = rows(8, 4, seed=2)
    close(*(each(energy(), batch, generator=seeded(3)).value for each in (first, second)))


@pytest.mark.parametrize("order", ["first", "last"])
def test_answers_are_sequences_after_their_contexts(order):
    torch.manual_seed(0)
    writer = LeftToRight(V, dim=8, heads=2, context_vocab=4, fixed=False, order=order, relations={"kind": "order"})
    trained = BeliefEBT(V, dim=8, heads=2, context_vocab=4, fixed=False, relations={"kind": "order"}, head="scalar")
    context = torch.randint(4, (6, 5), generator=seeded())
    objective = SequenceNCE(writer)
    for wide in (5, 3):  # widths in turn, as in a task's training
        loss = objective(trained, Batch(context[:, :wide] % V, context[:, :wide]), generator=seeded())
        loss.value.backward()
    assert len(objective.kept) == 2
    found = objective.predictor(trained).predict(Batch(context % V, context), generator=seeded())
    close(found.y.exp().sum(-1), torch.ones(6, 5), rtol=1e-5)
    assert found.energy.shape == (6,)


def test_weights_of_answers_count():
    torch.manual_seed(0)
    writer = LeftToRight(V, dim=8, heads=2, fixed=False)
    trained = BeliefEBT(V, dim=8, heads=2, fixed=False, head="scalar")
    context = torch.randint(V, (2, 3), generator=seeded())
    other = context.clone()
    other[1] = 0
    batches = [Batch(target, context, torch.tensor([1.0, 0.0])) for target in (context, other)]
    close(*(SequenceNCE(writer, fresh=1.0)(trained, batch, generator=seeded()).value for batch in batches))


# ------------------------------------------------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"ratio": 0}, "ratio=0"),
        ({"fresh": 0.0}, "fresh=0.0"),
        ({"prompt": (0, 2)}, r"prompt=\(0, 2\)"),
        ({"log_z": math.nan}, "nan"),
    ],
)
def test_numbers_out_of_range_are_refused(keywords, words):
    with pytest.raises(ValueError, match=words):
        SequenceNCE(base(), **keywords)


def test_what_it_cannot_train_is_refused():
    with pytest.raises(ValueError, match="says no sequence's likelihood"):
        SequenceNCE(TextEBT(V, dim=8, depth=1, heads=2))
    with pytest.raises(ValueError, match="energy of whole sequences"):
        SequenceNCE(base(), prompt=(1, 1))(lambda y: y.sum(-1), rows(4, 3))
    with pytest.raises(ValueError, match="pass shorter"):
        SequenceNCE(base(), prompt=(1, 8))(energy(), rows(4, 3))
    with pytest.raises(ValueError, match="target is torch.float32"):
        SequenceNCE(base())(energy(), Batch(torch.zeros(4, 3), torch.zeros(4, 3)))
    with pytest.raises(ValueError, match="moves no chains"):
        SequenceNCE(base(), prompt=(1, 1))(energy(), rows(4, 3), start=torch.zeros(4, 3))


def test_sequences_of_the_energy_are_one_hot():
    seen = []

    def spy(y):
        seen.append(y)
        return y.flatten(1).sum(1) * 0

    SequenceNCE(base(), prompt=(1, 1), fresh=1.0)(spy, rows(4, 3), generator=seeded())
    assert torch.equal(seen[0], one_hot(seen[0].argmax(-1), V))
