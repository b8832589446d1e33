"""The benchmark of blocks: it cuts what follows, reads the base, and trains and judges both losses alike."""

from __future__ import annotations

import json
import math
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ebm.baselines import Transformer
from ebm.interfaces import Batch
from ebm.tasks import Text
from tests.helpers import benchmark, close, normal, seeded

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return benchmark("text_blocks")


@pytest.fixture(scope="module")
def task() -> Text:
    return Text({"train": [ALPHABET * 40], "validation": [ALPHABET * 8], "test": [ALPHABET * 8]}, context=16)


class LastToken(torch.nn.Module):
    """Says the token that it read last, e^10 times as likely as any other."""

    dim = 257

    def __init__(self):
        super().__init__()
        self.output = torch.nn.Linear(257, 257, bias=False)
        self.output.weight = torch.nn.Parameter(10 * torch.eye(257))

    def logits(self, context):
        return self.output(F.one_hot(context, 257).float())


def test_a_block_is_what_follows_the_token_that_the_base_read_last(bench, task):
    rows, reads = bench.blocks_of(LastToken(), task, "train", 100, 3, 0)
    assert rows.target.shape == (100, 3)
    read = torch.cat([rows.context.argmax(-1, keepdim=True), rows.target], -1)
    letters = torch.tensor([*ALPHABET.encode()])
    whole = (read <= letters.max()).all(-1)  # not over the document's end
    assert int(whole.sum()) > 90
    assert torch.equal((read[whole, 1:] - letters[0]), (read[whole, :-1] - letters[0] + 1) % 26)
    assert reads == pytest.approx(math.log(256 + math.exp(10)), rel=0.02)  # the right token is one of those that got 0
    again, _ = bench.blocks_of(LastToken(), task, "train", 100, 3, 0)
    assert torch.equal(rows.target, again.target)


def test_nats_are_those_of_independent_places(bench):
    batch, y = Batch(torch.tensor([[0, 2]])), normal(5, 1, 2, 3 + 4)  # with four hidden units
    said = y[..., :3].softmax(-1)
    close(bench.Blocks(3, 1.0).nats(y, batch), -(said[:, :, 0, 0] * said[:, :, 1, 2]).log())


def test_rows_are_drawn_once_in_a_pass(bench):
    rows = Batch(torch.arange(10)[:, None], torch.zeros(10, 3))
    drawn = [batch.target.flatten() for batch in bench.batches(rows, 4, 5, seeded())]
    assert [len(batch) for batch in drawn] == [4] * 5
    assert torch.equal(torch.cat(drawn).bincount(), torch.full((10,), 2))


def measured(bench, monkeypatch, capsys, task, energy, *words):
    monkeypatch.setattr(bench.ebm, "load", lambda path: SimpleNamespace(energy=energy, judge=lambda: task))
    small = ("--steps", "40", "--batch", "8", "--starts", "2", "--dim", "8", "--hidden", "2", "--test", "40", "--lr", "0.02")
    monkeypatch.setattr("sys.argv", ["text_blocks.py", "--base", "a", *small, "--shares", "2", "4", *words])
    bench.main()
    return capsys.readouterr().out


def test_both_losses_learn_and_a_mixture_is_between_one_start_and_the_best(bench, monkeypatch, capsys, task):
    torch.manual_seed(0)
    base = Transformer(257, dim=8, depth=1, heads=1)
    found = json.loads(measured(bench, monkeypatch, capsys, task, base, "--seeds", "0", "--json"))
    assert found["base"] == pytest.approx(math.log(257), rel=0.2)
    for arm in ("mean", "mixture"):
        (result,) = found[arm]
        assert result["best of 4 in hindsight"] <= result["mixture of 4"] <= result["one start"] + 1e-6
        assert result["one start"] < 0.9 * math.log(257)
    table = measured(bench, monkeypatch, capsys, task, base, "--seeds", "0", "1", "--steps", "2")
    assert "mixture of 4" in table
    assert "the base model, which reads the block's own beginning" in table
    with pytest.raises(SystemExit, match="--base a is a Linear: pass a run of the recipe text-transformer"):
        measured(bench, monkeypatch, capsys, task, torch.nn.Linear(1, 1))
