"""Laws of the replay buffer: rows stay whole, capacity, which rows are dropped, what is refused, and saving."""

import copy
import io
import math
import warnings
from collections import deque
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils import _pytree as pytree

from ebm.interfaces import Batch
from ebm.runs import checkpoints
from ebm.samplers import MALA, GradientDescent, LangevinDynamics, ReplayAugmented
from tests.helpers import close, laws, normal, quadratic, seeded, seeds

pytestmark = pytest.mark.filterwarnings("ignore:ReplayAugmented.*asks for")  # buffers are small here on purpose


class Pair(NamedTuple):
    image: torch.Tensor
    label: torch.Tensor | None


# A context made of tags: whatever its kind, every row of it names itself.
CONTEXTS = {
    "none": lambda tags: None,
    "tensor": lambda tags: tags[:, None].expand(-1, 3).clone(),
    "tuple": lambda tags: (tags.clone(), tags[:, None, None].expand(-1, 2, 2).clone()),
    "dictionary": lambda tags: {"a": tags.clone(), "b": [tags.long(), None]},
    "named tuple": lambda tags: Pair(tags[:, None].clone(), tags.long()),
    "named tuple with a gap": lambda tags: Pair(tags[:, None].clone(), None),
}
contexts = pytest.mark.parametrize("kind", CONTEXTS)


def batch_of(tags, kind="tensor", weighted=True):
    tags = torch.as_tensor(tags, dtype=torch.float64)
    return Batch(tags[:, None].expand(-1, 2).clone(), CONTEXTS[kind](tags), tags.clone() if weighted else None)


def ends_of(tags):
    return torch.as_tensor(tags, dtype=torch.float64)[:, None].expand(-1, 2).clone()


def tags_of(tree):
    """The tag of every row of every tensor in a tree; all entries of a row must agree."""
    found = []
    for leaf in pytree.tree_leaves(tree):
        if leaf is not None:
            flat = leaf.reshape(len(leaf), -1).double()
            assert torch.equal(flat.amin(1), flat.amax(1))
            found.append(flat[:, 0].tolist())
    return found


def make(capacity=8, steps=2, **keywords):
    return ReplayAugmented(LangevinDynamics(0.1, steps=steps), capacity=capacity, **keywords)


def stored(replay):
    """The tags of the rows in the buffer, sorted; every stored tensor must tell the same."""
    tags = tags_of([leaf for key, leaf in replay.get_extra_state().items() if key.startswith("rows")])
    assert all(one == tags[-1] for one in tags)
    return sorted(tags[-1]) if tags else []


# ------------------------------------------------------------------------------------------------------------ rows are whole


@contexts
@laws
@given(seed=seeds, sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), fresh=st.sampled_from([0.0, 0.3, 1.0]))
def test_swapped_rows_bring_their_context(kind, seed, sizes, fresh):
    replay, g, offered, new = make(fresh=fresh), seeded(seed), set(), 0
    for size in sizes:
        tags = list(range(new, new + size))
        new += size
        batch = batch_of(tags, kind)
        begun, y = replay.begin(batch, ends_of(tags), generator=g)
        rows = tags_of((begun.context, y))
        assert all(row == rows[-1] for row in rows)
        assert type(begun.context) is type(batch.context)
        assert y.shape == (size, 2)
        assert all(tag in offered or tag == own for tag, own in zip(rows[-1], tags, strict=True))
        replay.finish(begun, y)
        offered |= set(rows[-1])


@laws
@given(seed=seeds)
def test_swapped_rows_bring_their_weight_and_their_target(seed):
    """A weight masks the chains of its own row's context, and a target is the answer to its own row's context."""
    replay = make(fresh=0.5)
    replay.finish(batch_of(range(8)), ends_of(range(8)))
    begun, y = replay.begin(batch_of(range(10, 16)), ends_of(range(10, 16)), generator=seeded(seed))
    rows = tags_of((begun, y))
    assert all(row == rows[-1] for row in rows)


@laws
@given(seed=seeds, rows=st.integers(1, 20), stored_rows=st.integers(1, 8))
def test_stored_rows_go_on_equally_often_and_none_twice_where_there_are_enough(seed, rows, stored_rows):
    """Drawn with replacement, chains of a buffer of a batch's size would die out: a third of them at each batch."""
    replay = make(capacity=20, fresh=0.0)
    replay.finish(batch_of(range(stored_rows)), ends_of(range(stored_rows)))
    begun, y = replay.begin(batch_of([-1] * rows), ends_of([-1] * rows), generator=seeded(seed))
    counts = torch.bincount(torch.tensor(tags_of((begun.context, y))[-1]).long(), minlength=stored_rows)
    assert counts.sum() == rows
    assert counts.max() - counts.min() <= 1


@laws
@given(seed=seeds)
def test_a_buffer_of_a_batchs_size_is_that_many_chains(seed):
    replay, g = make(capacity=6, fresh=0.0), seeded(seed)
    for _ in range(5):
        begun, y = replay.begin(batch_of(range(6)), ends_of(range(6)), generator=g)
        replay.finish(begun, y)
        assert stored(replay) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("keywords", "lost"), [({}, "some chains are lost"), ({"join": 1.5}, "fewer are joined")])
def test_a_buffer_that_is_too_small_for_its_batches_says_so(keywords, lost):
    needed = 9 if keywords else 6
    with pytest.warns(UserWarning, match=rf"capacity={needed - 1}.*6 rows asks for {needed} .*{lost}.*: pass capacity={needed} "):
        make(capacity=needed - 1, **keywords).begin(batch_of(range(6)), ends_of(range(6)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(capacity=needed, **keywords).begin(batch_of(range(6)), ends_of(range(6)))
        make(capacity=needed - 1, **keywords).eval().begin(batch_of(range(6)), ends_of(range(6)))


@contexts
@laws
@given(seed=seeds, sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), join=st.sampled_from([0.5, 1.0, 2.0]))
def test_joined_rows_are_whole_and_follow_the_batchs_own(kind, seed, sizes, join):
    replay, g, new = make(join=join), seeded(seed), 0
    for size in sizes:
        tags = list(range(new, new + size))
        new += size
        batch, before = batch_of(tags, kind, weighted=seed % 2 == 0), stored(replay)
        begun, y = replay.begin(batch, ends_of(tags), generator=g)
        rows = tags_of((begun, y))
        assert all(row == rows[-1] for row in rows)
        assert rows[-1][:size] == tags
        joined = rows[-1][size:]
        assert len(joined) == min(int(join * size), len(before))
        assert len(set(joined)) == len(joined)
        assert set(joined) <= set(before)
        assert (begun.weight is None) == (batch.weight is None)
        replay.finish(begun, y)
        assert stored(replay) == sorted(deque([*range(new)], maxlen=8))  # joined rows are not stored again


@laws
@given(seed=seeds, fresh=st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_a_fraction_of_the_rows_starts_anew(seed, fresh):
    replay = make(fresh=fresh)
    replay.finish(batch_of(range(8)), ends_of(range(8)))
    _, y = replay.begin(batch_of([100] * 2000), ends_of([100] * 2000), generator=seeded(seed))
    anew = (y[:, 0] == 100).double().mean().item()
    assert anew == pytest.approx(fresh, abs=5 * math.sqrt(fresh * (1 - fresh) / 2000))
    if fresh < 1:
        kept = y[y[:, 0] != 100, 0].long()
        counts = torch.bincount(kept, minlength=8)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_nothing_is_shared_with_the_caller():
    replay, y, batch = make(fresh=0.0), ends_of(range(4)), batch_of(range(4))
    replay.finish(batch, y)
    y.fill_(50)
    batch.context.fill_(50)
    assert stored(replay) == [0, 1, 2, 3]
    start, own = ends_of([9] * 4), batch_of([9] * 4)
    begun, begin = replay.begin(own, start, generator=seeded())
    begin.fill_(60)
    begun.context.fill_(60)
    assert stored(replay) == [0, 1, 2, 3]
    assert torch.equal(start, ends_of([9] * 4))
    assert torch.equal(own.context, batch_of([9] * 4).context)


def test_stored_rows_carry_no_graph():
    replay, y = make(fresh=0.0), ends_of(range(4)).requires_grad_()
    replay.finish(batch_of(range(4)), y * 2)
    assert not replay.begin(batch_of(range(4)), ends_of(range(4)))[1].requires_grad


# ------------------------------------------------------------------------------------------------------ which rows are kept


@laws
@given(st.integers(1, 9), st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_fifo_drops_the_oldest(capacity, sizes):
    replay, oracle, new = make(capacity=capacity), deque(maxlen=capacity), 0
    for size in sizes:
        replay.finish(batch_of(range(new, new + size)), ends_of(range(new, new + size)))
        oracle.extend(range(new, new + size))
        new += size
        assert stored(replay) == sorted(oracle)
        assert len(replay) == len(oracle) <= capacity


@pytest.mark.parametrize("size", [1, 7, 30])
def test_a_reservoir_is_a_uniform_sample_of_all_that_was_offered(size):
    offered, capacity, repeats = 60, 10, 150
    counts = torch.zeros(offered)
    for repeat in range(repeats):
        replay, g = make(capacity=capacity, policy="reservoir", fresh=1.0), seeded(repeat)
        for first in range(0, offered, size):
            tags = range(first, min(first + size, offered))
            begun, y = replay.begin(batch_of(tags, "none"), ends_of(tags), generator=g)
            replay.finish(begun, y)
            assert len(replay) == min(capacity, first + len(tags))
        kept = stored(replay)
        assert len(set(kept)) == capacity
        counts[torch.tensor(kept).long()] += 1
    share = capacity / offered
    # Ten of sixty without replacement: counts vary less than independent ones would, by (1 - share) N / (N - 1).
    away = (counts - repeats * share).square().sum() / (repeats * share * (1 - share)) * (offered - 1) / offered
    assert 1e-3 < stats.chi2.sf(away.item(), offered - 1) < 1 - 1e-3


def test_a_reservoir_that_is_only_given_rows_keeps_taking_some():
    """Rows may be offered without a `begin` in between, as when a buffer is filled by hand."""
    replay = make(capacity=20, policy="reservoir")
    for first in range(0, 2000, 10):
        replay.finish(batch_of(range(first, first + 10)), ends_of(range(first, first + 10)))
    assert any(tag >= 1000 for tag in stored(replay))  # of twenty uniform ones, half


# --------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("keywords", [{}, {"policy": "reservoir"}, {"join": 1.0}])
def test_rows_that_are_not_finite_are_refused_and_none_of_their_batch_is_stored(bad, keywords):
    replay = make(**keywords)
    replay.finish(batch_of(range(3)), ends_of(range(3)))
    begun, y = replay.begin(batch_of(range(3, 7)), ends_of(range(3, 7)), generator=seeded())
    y[2, 1] = bad
    before = copy.deepcopy(replay.get_extra_state())
    with pytest.raises(FloatingPointError, match=r"rows \[2\] are not finite.*takes none"):
        replay.finish(begun, y)
    after = replay.get_extra_state()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_in_eval_mode_the_buffer_is_left_alone():
    replay = make(fresh=0.0)
    replay.finish(batch_of(range(4)), ends_of(range(4)))
    before = copy.deepcopy(replay.get_extra_state())
    batch, y = batch_of(range(10, 14)), ends_of(range(10, 14))
    used = seeded()
    begun, begin = replay.eval().begin(batch, y, generator=used)
    replay.finish(begun, begin)
    assert begun is batch
    assert begin is y
    assert torch.equal(used.get_state(), seeded().get_state())
    assert all(torch.equal(replay.get_extra_state()[key], before[key]) for key in before)


@pytest.mark.parametrize(
    "other",
    [
        (batch_of(range(3)), normal(3, 5)),
        (batch_of(range(3), "none"), ends_of(range(3))),
        (batch_of(range(3), "tuple"), ends_of(range(3))),
    ],
)
def test_rows_of_another_kind_are_refused(other):
    replay = make()
    replay.finish(batch_of(range(3)), ends_of(range(3)))
    for call in (replay.begin, replay.finish):
        with pytest.raises(ValueError, match="one buffer holds one kind"):
            call(*other)
    assert stored(replay) == [0, 1, 2]


@pytest.mark.parametrize("rows", [2, 5])
def test_contexts_of_another_number_of_rows_are_refused(rows):
    replay = make()
    with pytest.raises(ValueError):
        replay.finish(Batch(normal(3, 2), normal(rows, 2)), normal(3, 2))
    assert len(replay) == 0


def test_contexts_that_are_no_tensors_are_refused():
    with pytest.raises(ValueError):
        make().finish(Batch(normal(2, 2), {"text": ["a", "b"]}), normal(2, 2))


@pytest.mark.parametrize(
    "keywords",
    [
        {"capacity": 0},
        {"fresh": -0.1},
        {"fresh": 1.1},
        {"policy": "lifo"},
        {"join": -1.0},
        {"fresh": math.nan},
        {"join": math.nan},
    ],
)
def test_arguments_that_cannot_work_are_refused(keywords):
    with pytest.raises(ValueError, match="ReplayAugmented"):
        make(**keywords)
    with pytest.raises(ValueError, match="pass a Sampler"):
        ReplayAugmented(quadratic, capacity=3)


def test_a_batch_that_failed_half_way_leaves_no_trace():
    replay = make(join=1.0)
    replay.finish(batch_of(range(2)), ends_of(range(2)))
    replay.begin(batch_of(range(2)), ends_of(range(2)))  # its trajectory stopped, nothing was finished
    replay.finish(batch_of(range(2, 7)), ends_of(range(2, 7)))
    assert stored(replay) == [0, 1, 2, 3, 4, 5, 6]


# ----------------------------------------------------------------------------------------------------------- saving, running


def through_torch(state, folder):
    held = io.BytesIO()
    torch.save(state, held)
    held.seek(0)
    return torch.load(held, weights_only=True)


def through_a_checkpoint(state, folder):
    checkpoints.write(folder, "sampler", dict(state))
    return checkpoints.read(folder, "sampler")


def rounds(replay, generator, count, kind):
    ends = []
    for number in range(count):
        batch = batch_of(torch.arange(3) + 3.0 * number, kind)
        begun, y = replay.begin(batch, ends_of(range(3)), generator=generator)
        end = replay.sample(quadratic, y, generator=generator)
        replay.finish(begun, end)
        ends.append(end)
    return ends


@pytest.mark.parametrize("save", [through_torch, through_a_checkpoint])
@pytest.mark.parametrize("keywords", [{"fresh": 0.3}, {"policy": "reservoir"}, {"join": 1.0}])
@pytest.mark.parametrize("done", [0, 1, 5])
@contexts
def test_a_reloaded_buffer_goes_on_exactly(save, keywords, done, kind, tmp_path):
    replay, g = make(**keywords), seeded()
    rounds(replay, g, done, kind)
    other, h = make(**keywords), seeded(1)
    rounds(other, h, 2, kind)  # what it held is replaced
    other.load_state_dict(save(replay.state_dict(), tmp_path))
    h.set_state(g.get_state())
    assert len(other) == len(replay)
    for one, two in zip(rounds(replay, g, 4, kind), rounds(other, h, 4, kind), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(g.get_state(), h.get_state())
    first, second = replay.get_extra_state(), other.get_extra_state()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_buffer_of_another_capacity_is_refused():
    replay = make(capacity=8)
    rounds(replay, seeded(), 5, "none")
    for capacity in (4, 16):
        with pytest.raises(ValueError, match="capacity"):
            make(capacity=capacity).load_state_dict(replay.state_dict())


@settings(laws, max_examples=5)
@given(seed=seeds)
def test_it_moves_as_its_inner_sampler_does(seed):
    y = normal(4, 2, seed=seed)
    for inner in (LangevinDynamics(0.1, steps=3), MALA(0.5, steps=3)):
        moving = ReplayAugmented(inner, capacity=3)
        for energy in (quadratic, [quadratic, lambda y: 2 * quadratic(y + 1)]):
            ends = (each.sample(energy, y, generator=seeded(seed)) for each in (moving, inner))
            assert torch.equal(*ends)
    outer = ReplayAugmented(GradientDescent(0.1, steps=2, retraction="softmax"), capacity=3)
    assert outer.steps == 2
    assert outer.differentiable
    close(outer.point(y), y.softmax(-1))


@laws
@given(seed=seeds, keywords=st.sampled_from([{"fresh": 0.3}, {"policy": "reservoir"}, {"join": 1.0}]))
def test_a_run_is_a_function_of_its_generator(seed, keywords):
    globally = torch.get_rng_state()
    one, two = (rounds(make(**keywords), seeded(seed), 4, "tensor") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert torch.equal(torch.get_rng_state(), globally)


def test_dtypes_of_contexts_stay():
    replay = make(fresh=0.0)
    context = {"token": torch.arange(4), "mask": torch.ones(4, dtype=torch.bool), "x": torch.ones(4, dtype=torch.float32)}
    for _ in range(2):
        begun, y = replay.begin(Batch(normal(4, 2), context), normal(4, 2), generator=seeded())
        replay.finish(begun, y)
        assert {key: leaf.dtype for key, leaf in begun.context.items()} == {key: leaf.dtype for key, leaf in context.items()}
    assert y.dtype == torch.float64
