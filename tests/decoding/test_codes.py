"""Laws of decoding by energies that the core does not know: their own codes, no padding, closed forms; from a plugin."""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader

import ebm
from ebm import cli, recipes
from ebm.baselines import Extrapolate
from ebm.decoding.codes import growing
from ebm.decoding.generate import generate
from ebm.decoding.rollout import rollout
from ebm.interfaces import Batch, Energy, Task
from ebm.registry import hookimpl, register
from ebm.reports.text import continuations, strips
from ebm.samplers import GradientDescent
from ebm.tasks.text.tokenizers import pieces
from ebm.thinking import Thinker
from tests.fake_plugins import installed, quick_report
from tests.helpers import normal

V = 5
SAMPLER = GradientDescent(step_size=0.7, steps=2, retraction="softmax")


class Bag(NamedTuple):
    counts: Tensor  # (B, S, V): how often each token has come, up to every position
    level: int


class BagOfTokens(Energy):
    """Scores next tokens by those that have come, in any order: E_i(p) = -⟨p, W c_i⟩, a W for each landscape."""

    def __init__(self, vocab_size: int, levels: int = 1) -> None:
        super().__init__()
        self.vocab_size, self.levels = vocab_size, levels
        self.weight = nn.Parameter(normal(levels, vocab_size, vocab_size).float())

    def counts(self, ids: Tensor) -> Tensor:
        return one_hot(ids, self.vocab_size).to(self.weight).cumsum(1)

    def encode(self, context=None, level=-1):
        return Bag(self.counts(context), level % self.levels)

    def extend(self, code, context):
        return Bag(torch.cat([code.counts, code.counts[:, -1:] + self.counts(context)], 1), code.level)

    def forward(self, y, code=None):
        return -(y * (code.counts[:, -y.shape[-2] :] @ self.weight[code.level])).sum(-1)


class Padding(BagOfTokens):
    """Also takes rows of different lengths: a token outside the vocabulary counts for nothing."""

    def counts(self, ids: Tensor) -> Tensor:
        return one_hot(ids, V + 1)[..., :V].to(self.weight).cumsum(1)

    def padded(self, rows):
        return torch.tensor([[V] * (max(map(len, rows)) - len(row)) + row for row in rows])


class Counted(BagOfTokens):
    """Remembers the shapes that it encodes and extends by."""

    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    def encode(self, context=None, level=-1):
        self.seen.append(("encode", tuple(context.shape)))
        return super().encode(context, level)

    def extend(self, code, context):
        self.seen.append(("extend", tuple(context.shape)))
        return super().extend(code, context)


def expected(weight: Tensor, row: list[int], count: int, window: int) -> list[int]:
    """Generates greedily by the closed form: y <- softmax(y) + ε W c, for the counts c of what the window shows."""
    ids, shown = [*row], len(row)
    for _ in range(count):
        counts = torch.bincount(torch.tensor(ids[-shown:]), minlength=V).float()
        y = torch.zeros(V)
        for matrix in weight.detach():
            for _ in range(SAMPLER.steps):
                y = y.softmax(0) + 0.7 * counts @ matrix
        ids.append(int(y.argmax()))
        shown = shown + 1 if shown < window else max(1, window // 2)
    return ids[len(row) :]


def texts(energy, prompts, count=15, window=64, **keywords) -> Tensor:
    keywords = {"temperature": 0.0, "max_new_tokens": count, "window": window, **keywords}
    return torch.stack([*generate(energy, SAMPLER, prompts, **keywords)], 1)


PROMPTS = [[1, 2, 3], [4], [0, 2, 2], [3, 3]]


@pytest.mark.parametrize("window", [3, 4, 7, 64])
@pytest.mark.parametrize("levels", [1, 3])
def test_any_energy_that_extends_generates_its_closed_form(levels, window):
    energy = BagOfTokens(V, levels)
    found = texts(energy, PROMPTS, window=window).tolist()
    assert found == [expected(energy.weight, row, 15, window) for row in PROMPTS]
    assert max(len(set(row)) for row in found) > 1


def test_an_energy_that_pads_rows_generates_them_together():
    energy = Padding(V, 2)
    assert texts(energy, PROMPTS).tolist() == texts(BagOfTokens(V, 2), PROMPTS).tolist()
    assert texts(energy, PROMPTS[1:2]).tolist() == [expected(energy.weight, [4], 15, 64)]


def test_rows_of_one_length_share_a_code_which_is_extended_once_for_each_landscape():
    energy = Counted(V, 2)
    texts(energy, PROMPTS, 3)
    assert energy.seen.count(("encode", (2, 3))) == energy.seen.count(("encode", (1, 1))) == 2
    assert energy.seen.count(("extend", (2, 1))) == 2 * 2
    assert len(energy.seen) == 3 * (2 + 2 * 2)


def test_rows_that_ended_repeat_the_end_while_others_go_on():
    energy = BagOfTokens(V)
    free = texts(energy, PROMPTS, 40)
    for end in range(V):
        found = texts(energy, PROMPTS, 40, end=end)
        at = [row.tolist().index(end) if end in row else 40 for row in free]
        assert found.shape[1] == min(40, max(at) + 1)
        for row, plain, first in zip(found, free, at, strict=True):
            assert torch.equal(row[: first + 1], plain[: found.shape[1]][: first + 1])
            assert (row[first:] == end).all()


def test_an_energy_without_parameters_generates_in_the_default_dtype():
    class Last(Energy):
        vocab_size = V
        extend = BagOfTokens.extend
        counts = BagOfTokens.counts
        weight = torch.zeros(1)

        def encode(self, context=None, level=-1):
            return Bag(self.counts(context), 0)

        def forward(self, y, code=None):  # whatever has come most often comes again
            return -(y * code.counts[:, -y.shape[-2] :]).sum(-1)

    assert texts(Last(), [[1, 3, 3]], 4).tolist() == [[3] * 4]


def test_what_cannot_be_decoded_says_what_is_missing():
    class Fixed(Energy):
        def forward(self, y, code=None):
            return y.sum(-1)

    whole = Fixed()
    both = "vocab_size and extend"
    for energy, words in ((lambda y: y, both), (whole, both), (2.0 * BagOfTokens(V), "vocab_size")):
        with pytest.raises(ValueError, match=f"energy is .*, which lacks {words}: tokens are generated from an energy with"):
            texts(energy, [[1]])
    whole.vocab_size = V
    with pytest.raises(ValueError, match="energy is Fixed, which lacks extend:"):
        texts(whole, [[1]])
    wrapped = 2.0 * whole
    wrapped.vocab_size = V
    with pytest.raises(ValueError, match="cached codes: Fixed cannot extend a code"):
        texts(wrapped, [[1]])


def test_codes_are_extended_until_the_window_is_full_and_then_begin_at_its_half():
    ids = torch.arange(20) % V
    energy = BagOfTokens(V)
    codes = growing(energy, lambda n: ids[None, seen - n : seen], 2, window=5)
    lengths = []
    for seen in range(2, 14):
        (given,) = next(codes)
        lengths.append(given.code.counts.shape[1])
        torch.testing.assert_close(given.code.counts, energy.counts(ids[None, seen - lengths[-1] : seen]))
    assert lengths == [2, 3, 4, 5, 2, 3, 4, 5, 2, 3, 4, 5]


# --------------------------------------------------------------------------------------------------------------- frames


class Straight(Energy):
    """Takes the last change to happen once more: E = |y - (2 x_i - x_{i-1})|² / 2. Its code is the frames."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def extend(self, code, context):
        return torch.cat([code, context], 1)

    def forward(self, y, code=None):
        return (y - Extrapolate().follow(code)[:, -y.shape[-2] :]).square().sum(-1) / 2


class Read(Straight):
    """Reads that off its code."""

    def follow_code(self, code):
        return Extrapolate().follow(code)


@pytest.mark.parametrize("window", [2, 3, 9])
def test_any_energy_of_frames_rolls_out(window):
    observed = normal(3, 4, 2)
    one = GradientDescent(step_size=1.0, steps=1)
    found = rollout(Thinker(Straight(2), one), observed, 7, window=window)
    torch.testing.assert_close(found.energies, torch.zeros(3, 7, dtype=torch.float64))
    read = rollout(Read(2), observed, 7, window=window)
    torch.testing.assert_close(found.frames, read.frames)
    assert read.energies is None
    if window > 3:  # a window of a single frame knows no change
        torch.testing.assert_close(found.frames, rollout(Extrapolate(), observed, 7, window=window).frames)
    with pytest.raises(ValueError, match="predictor is Straight, which lacks follow"):
        rollout(Straight(2), observed, 7, window=window)


# ------------------------------------------------------------------------------------------------------------ a plugin


class Letters:
    """Three letters, and an end."""

    vocab_size, end = 4, 3

    def encode(self, text):
        return ["abc".index(letter) for letter in text]

    def decode(self, ids):
        return "".join("abc"[token] for token in ids if token < 3)


class Spelling(Task):
    """Words of a and b in turn, and then nothing but c; a task of its own, with a tokenizer and a window."""

    def __init__(self) -> None:
        self.tokenizer, self.context_length = Letters(), 6
        self.spec = {"vocab_size": 4}

    def loader(self, split, batch_size, *, seed=0, workers=0):
        rows = torch.tensor([self.tokenizer.encode("ababcccc")] * 8)
        return DataLoader(rows, batch_size, collate_fn=lambda r: Batch(torch.stack(r)[:, 1:], torch.stack(r)[:, :-1]))

    def start(self, batch, *, generator=None):
        return torch.zeros(*batch.target.shape, 4)

    def distance(self, y, batch):
        return cross_entropy(y.movedim(-1, 1), batch.target, reduction="none")


@hookimpl
def ebm_energies():
    return {"bag": BagOfTokens}


@hookimpl
def ebm_tasks():
    return {"spelling": Spelling}


def test_a_plugin_s_energy_and_task_train_generate_and_are_reported(tmp_path, monkeypatch, capsys):
    quick_report(monkeypatch)
    sampler = {"use": "gradient-descent", "step_size": 1.0, "steps": 1, "retraction": "softmax"}
    recipe = {
        "summary": "Tiny.",
        "seed": 0,
        "task": {"use": "spelling"},
        "energy": {"use": "bag", "levels": 2},
        "objective": {"use": "reconstruction", "sampler": sampler},
        "fit": {"steps": 60, "batch_size": 8, "lr": 0.3, "evaluate_limit": 8},
    }
    with installed():
        register(sys.modules[__name__], "ebm-bag")
        parts = recipes.assemble(recipes.resolve(recipe))
        run = ebm.fit(parts.energy, parts.objective, parts.task, **parts.fit, out=tmp_path / "run", recipe=parts.recipe)
        prompts = ["aba", "b", "cab"]
        words = [word for prompt in prompts for word in ("--prompt", prompt)]
        capsys.readouterr()
        with pytest.raises(SystemExit, match="0"):
            cli.main(["generate", str(tmp_path / "run"), *words, "--max-new-tokens", "9", "--temperature", "0"])
        said = capsys.readouterr().out
        assert len(strips(run, 0)) == 3
        assert [who for who, *_ in continuations(run, 0)] == ["run", "run"]
        run.energy = lambda y: y.square().sum(-1)
        assert continuations(run, 0) == []
    tokenizer = Letters()
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    found = torch.stack([*generate(parts.energy, parts.objective.sampler, ids, max_new_tokens=9, window=6, temperature=0)], 1)
    rows = zip(prompts, ids, found.tolist(), strict=True)
    assert said == "".join(f"{prompt}{''.join(pieces(tokenizer, row, new))}\n\n" for prompt, row, new in rows)
    assert said.startswith("ababccccc")
