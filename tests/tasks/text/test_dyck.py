"""Laws of balanced brackets: strings are balanced and as deep as they should be, drawn uniformly, and dealt out once."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from ebm.interfaces import Prediction
from ebm.tasks.text.dyck import Brackets, Dyck, draw_strings
from ebm.tasks.text.tokenizers import Tokenizer
from tests.helpers import laws, seeded, seeds

SMALL = {"length": 16, "n": 300}


def depth_of(string: str) -> int | None:
    """The most brackets that are open at a time, or None where the string is not balanced."""
    held, deepest = [], 0
    for sign in string:
        if sign in "([{<":
            held.append(sign)
        elif not held or held.pop() + sign not in ("()", "[]", "{}", "<>"):
            return None
        deepest = max(deepest, len(held))
    return None if held else deepest


def balanced(kinds: int, length: int, low: int, high: int) -> list[str]:
    """All balanced strings of this length and these depths, by trying them all."""
    signs = Brackets(kinds).signs
    strings = map("".join, itertools.product(signs, repeat=length))
    return [string for string in strings if low <= (depth_of(string) or 0) <= high]


def strings(task: Dyck, split: str) -> list[str]:
    return [
        task.tokenizer.decode(target[weight > 0].tolist())
        for batch in task.loader(split, 64)
        for target, _, weight in zip(*batch, strict=True)
    ]


class Oracle:
    """Predicts what `legal` marks, all alike; or what comes, with the closing kinds moved on by `wrong`."""

    def __init__(self, task: Dyck, truth: bool = False, wrong: int = 0) -> None:
        self.task, self.truth, self.wrong = task, truth, wrong

    def predict(self, batch, start, *, generator=None):
        y = self.task.legal(batch.context).float() * 100
        if self.truth:
            kinds, target = self.task.kinds, batch.target
            closing = (target >= kinds) & (target < 2 * kinds)
            target = torch.where(closing, kinds + (target - kinds + self.wrong) % kinds, target)
            y = torch.nn.functional.one_hot(target, start.shape[-1]) * 100.0
        return Prediction(y, None, 1)


@laws
@given(kinds=st.integers(1, 4), low=st.integers(1, 4), more=st.tuples(st.integers(0, 3), st.integers(0, 8)), seed=seeds)
def test_strings_are_balanced_and_as_deep_as_asked_for(kinds, low, more, seed):
    high = low + more[0]
    length = 2 * high + more[1]
    ids, end = draw_strings(20, kinds, length, low, high, seeded(seed)), 2 * kinds
    assert ids.shape == (20, length)
    for row in ids.tolist():
        string = Brackets(kinds).decode(row)
        assert low <= depth_of(string) <= high
        assert row == [*Brackets(kinds).encode(string), *[end] * (length - len(string))]


@pytest.mark.parametrize(
    ("kinds", "length", "low", "high"), [(1, 8, 1, 4), (1, 10, 2, 3), (1, 10, 4, 4), (2, 6, 1, 2), (3, 4, 2, 2)]
)
def test_lengths_are_uniform_and_so_are_the_strings_of_a_length(kinds, length, low, high):
    drawn = Counter(map(Brackets(kinds).decode, draw_strings(20_000, kinds, length, low, high, seeded()).tolist()))
    expected = {}
    for half in range(low, length // 2 + 1):
        alike = balanced(kinds, 2 * half, low, high)
        # A pair draws its kind: as many strings of each path, and each as likely.
        expected |= dict.fromkeys(alike, 20_000 / (length // 2 + 1 - low) / len(alike))
    assert drawn.keys() <= expected.keys()
    assert len(expected) == 1 or chisquare([drawn[string] for string in expected], [*expected.values()]).pvalue > 1e-3


def test_counts_do_not_overflow():
    ids = draw_strings(4, 1, 4000, 1, 3, seeded())
    assert all(1 <= depth_of(Brackets(1).decode(row)) <= 3 for row in ids.tolist())


def test_splits_are_disjoint_and_deep_ones_are_deep():
    task = Dyck(**SMALL)
    held = {split: strings(task, split) for split in task.depths}
    shallow = [string for split in ("train", "validation", "test") for string in held[split]]
    assert len(shallow) == len(set(shallow))
    assert 150 < len(shallow) < 300
    assert [*task.depths] == ["train", "validation", "test", "deep", "deep-5", "deep-6", "deep-7", "deep-8"]
    for split, (low, high) in task.depths.items():
        assert held[split]
        assert {low <= depth_of(string) <= high for string in held[split]} == {True}
    assert {depth_of(string) for string in shallow} == {1, 2, 3, 4}
    assert len(held["deep"]) == len(held["deep-7"]) == 60


def test_a_row_is_a_string_and_its_end():
    task = Dyck(kinds=3, **SMALL)
    assert task.spec == {"vocab_size": 7}
    assert task.context_length == 17
    for target, context, weight in (row for batch in task.loader("test", 8) for row in zip(*batch, strict=True)):
        count = int(weight.sum())
        assert target.shape == context.shape == weight.shape == (17,)
        assert weight.tolist() == [1.0] * count + [0.0] * (17 - count)
        assert depth_of(task.tokenizer.decode(target[: count - 1].tolist()))
        assert target[count - 1] == context[0] == 6
        assert torch.equal(context[1:], target[:-1])


def test_the_seed_alone_decides():
    def rows(**keywords) -> list[Tensor]:
        task = Dyck(**SMALL, **keywords)
        return [field for split in task.depths for field in task.data(split)[range(len(task.data(split)))]]

    state = torch.get_rng_state()
    first, again, other = rows(), rows(), rows(seed=1)
    assert all(map(torch.equal, first, again))
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first[:2], other[:2], strict=True))
    torch.rand(3)
    orders = [[batch.target for batch in Dyck(**SMALL).loader("train", 8, seed=seed)] for seed in (0, 0, 1)]
    assert all(map(torch.equal, orders[0], orders[1]))
    assert not all(map(torch.equal, orders[0], orders[2]))
    torch.set_rng_state(state)
    rows()
    assert torch.equal(torch.get_rng_state(), state)


@laws
@given(kinds=st.integers(1, 3), seed=seeds)
def test_what_is_legal_is_what_some_balanced_string_goes_on_with(kinds, seed):
    length = 6 if kinds < 3 else 4
    task = Dyck(kinds, length, depth=(1, 1), deep=(2, length // 2), n=10)
    every = ["", *(string for m in range(1, length // 2 + 1) for string in balanced(kinds, 2 * m, 1, m))]
    context = draw_strings(4, kinds, length, 1, length // 2, seeded(seed))
    legal = task.legal(torch.cat([torch.full((4, 1), 2 * kinds), context], 1))
    for row, marks in zip(context.tolist(), legal, strict=True):
        string = task.tokenizer.decode(row)
        for place in range(len(string) + 1):
            begun = string[:place]
            signs = {other[place : place + 1] for other in every if other.startswith(begun)}
            expected = {task.tokenizer.signs.index(sign) if sign else 2 * kinds for sign in signs}
            assert set(marks[place].nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("split", ["validation", "deep", "deep-8"])
def test_what_oracles_reach(split):
    task = Dyck(**SMALL)
    told = task.evaluate(Oracle(task, truth=True), split=split)
    assert told["accuracy"] == told["closing_accuracy"] == 1.0
    assert told["legal"] == pytest.approx(1.0)
    assert {"loss", "perplexity", "accuracy", "closing_accuracy", "legal"} == told.keys()
    wrong = task.evaluate(Oracle(task, truth=True, wrong=1), split=split)
    assert wrong["closing_accuracy"] == 0.0
    closing = [len(string) / 2 for string in strings(task, split)]
    share = sum(closing) / sum(2 * count + 1 for count in closing)
    assert wrong["accuracy"] == pytest.approx(1 - share)
    assert wrong["legal"] == pytest.approx(1 - share)
    assert task.evaluate(Oracle(task), split=split, limit=5)["legal"] == pytest.approx(1.0)


def test_a_tokenizer_says_and_reads_brackets():
    tokenizer = Brackets(3)
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.decode([*tokenizer.encode("([{}])"), tokenizer.end]) == "([{}])"
    assert [ids.tolist() for ids in tokenizer.encode_batch(["", "{}"])] == [[], [2, 5]]
    with pytest.raises(ValueError, match="'<': pass brackets of"):
        tokenizer.encode("(<>)")


def test_a_task_survives_pickling():
    task = pickle.loads(pickle.dumps(Dyck(**SMALL)))
    assert strings(task, "test") == strings(Dyck(**SMALL), "test")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"kinds": 0}, "kinds=0"),
        ({"kinds": 5}, "kinds=5: there are from 1 to 4"),
        ({"n": 0}, "n=0"),
        ({"length": 14}, r"deep=\(5, 8\).*half of length=14"),
        ({"depth": (0, 4)}, r"depth=\(0, 4\): pass \(low, high\)"),
        ({"depth": (3, 2)}, r"depth=\(3, 2\)"),
        ({"deep": (5,)}, r"deep=\(5,\)"),
        ({"deep": (4, 8)}, r"depth=\(1, 4\) and deep=\(4, 8\) overlap"),
        ({"start": "middle"}, "start='middle'"),
    ],
)
def test_arguments_that_cannot_be(keywords, message):
    with pytest.raises(ValueError, match=message):
        Dyck(**{**SMALL, **keywords})


def test_splits_that_are_not_there():
    task = Dyck(length=4, depth=(1, 1), deep=(2, 2), n=1)
    with pytest.raises(ValueError, match="unknown split 'deep-3'.*deep-2"):
        task.loader("deep-3", 4)
    with pytest.raises(ValueError, match="split 'test' is empty: draw more strings"):
        task.loader("test", 4)


@laws
@given(kinds=st.integers(1, 3), length=st.integers(1, 4), cut=st.booleans(), seed=seeds)
def test_what_is_right_is_balanced_and_ended(kinds, length, cut, seed):
    task = Dyck(kinds=kinds, length=8, depth=(1, 2), deep=(3, 4), n=20)
    ids = torch.randint(2 * kinds, (30, 2 * length), generator=seeded(seed))
    end = torch.full((30, 1), task.tokenizer.end)
    whole = torch.cat([end, ids] if cut else [end, ids, end, torch.full((30, 2), -1)], 1)
    expected = [not cut and depth_of(task.tokenizer.decode(row)) is not None for row in ids.tolist()]
    assert task.is_right(whole).tolist() == expected
    assert task.is_right(whole.expand(2, -1, -1)).tolist() == [expected] * 2


def test_all_of_the_task_s_own_strings_are_right():
    task = Dyck(**SMALL)
    for split in ("train", "deep"):
        for target, context, weight in task.loader(split, 64):
            rows = torch.cat([context[:, :1], target.masked_fill(weight == 0, -1)], 1)
            assert task.is_right(rows).all()
            last = (rows >= 0).sum(1, keepdim=True) - 1
            assert not task.is_right(rows.scatter(1, last, -1)).any()
