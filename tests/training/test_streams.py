"""Laws of training on a stream: on any number of processes it is one training, and it goes on where it was stopped.

Run under torchrun as a script, this file is each of two processes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ebm.energies import TextEBT
from ebm.objectives import Reconstruction
from ebm.runs import checkpoints
from ebm.runs.history import read_history
from ebm.samplers import GradientDescent
from ebm.tasks.text.text import Text
from ebm.tasks.text.tokenizers import Bytes
from ebm.training import fit
from tests.fake_plugins import Interrupted, fail, interrupting, quick_report, run_python, written

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
PAIR = {"strategy": "ddp", "devices": 2}
STEPS = 12
CLOSE = {"rtol": 0, "atol": 1e-6}


class Counting(Bytes):
    """Notes which documents are tokenized."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode_batch(self, texts: Any) -> Any:
        self.seen += texts
        return super().encode_batch(texts)


def train(out: Path, wrap: Any = lambda objective: objective, noise: float = 0.0, **keywords: Any) -> Any:
    """Trains on a stream of one file beside the run: without noise, nothing is drawn but the data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        energy = TextEBT(257, dim=8, depth=1, heads=1)
    source = str(out.parent / "corpus.jsonl")
    task = Text(source, tokenizer=Counting(), context=8, streaming=True, shuffle_buffer=40)
    task.tokenizer.seen.clear()
    sampler = GradientDescent(0.1, steps=2, retraction="softmax", noise_std=noise)
    usual = {"steps": STEPS, "batch_size": 8, "lr": 1e-3, "log_every": 1, "checkpoint_every": 5, "evaluate_limit": 2}
    keywords = {**usual, "sampler": sampler, "accelerator": "cpu", **keywords}
    return fit(energy, wrap(Reconstruction(sampler, task)), task, **keywords, out=out)


def write_corpus(folder: Path) -> None:
    rows = (json.dumps({"text": f"document number {index} of many"}) for index in range(300))
    (folder / "corpus.jsonl").write_text("\n".join(rows))


def stopped(out: Path, **keywords: Any) -> None:
    """Leaves a run that failed at step 8, with a checkpoint of step 5."""
    with pytest.raises(Interrupted):
        train(out, interrupting(8, fail), **keywords)


def process(folder: Path) -> None:
    """Trains several runs in each of two processes."""
    quick_report(pytest.MonkeyPatch())
    rank = os.environ["RANK"]
    seen = train(folder / "together", **PAIR).task.tokenizer.seen
    (folder / f"seen-{rank}.json").write_text(json.dumps(seen))
    train(folder / "noisy", noise=0.1, **PAIR)
    stopped(folder / "resumed", noise=0.1, **PAIR)
    train(folder / "resumed", noise=0.1, **PAIR)
    stopped(folder / "fewer", **PAIR)
    train(folder / "more", **PAIR)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What one process leaves, and two under torchrun after it."""
    folder = tmp_path_factory.mktemp("pair")
    patch = pytest.MonkeyPatch()
    quick_report(patch)
    write_corpus(folder)
    seen = train(folder / "alone").task.tokenizer.seen
    (folder / "seen.json").write_text(json.dumps(seen))
    stopped(folder / "more")
    patch.undo()
    done = run_python(*TORCHRUN, __file__, str(folder), cwd=folder)
    (folder / "said.txt").write_text(done.stderr)
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    quick_report(monkeypatch)


def weights(run: Path) -> Any:
    return checkpoints.read(run / "checkpoints" / f"step-{STEPS:09d}", "shared")["energy"]


def assert_trained_alike(one: Path, two: Path) -> None:
    """Compares losses and weights of two runs."""
    losses = [read_history(run)["train", "loss"] for run in (one, two)]
    assert losses[0][0] == losses[1][0] == [*range(1, STEPS + 1)]
    assert losses[0][1] == pytest.approx(losses[1][1], rel=1e-6, abs=1e-6)
    for key, weight in weights(one).items():
        torch.testing.assert_close(weights(two)[key], weight, **CLOSE)


def test_two_processes_train_on_the_stream_what_one_trains_and_tokenize_each_document_once(pair):
    assert_trained_alike(pair / "together", pair / "alone")
    alone, *both = (json.loads((pair / f"{name}.json").read_text()) for name in ("seen", "seen-0", "seen-1"))
    # At the end both judge some rows of the test split, whose documents each reads; those of training one of them alone reads.
    held = {*both[0]} & {*both[1]}
    assert held == {*alone[-10:]}
    one, *two = ([name for name in seen if name not in held] for seen in (alone, *both))
    assert sorted(two[0] + two[1]) == sorted(one)
    assert min(map(len, two)) > 0.3 * len(one)
    assert [len(seen) - len(own) for seen, own in zip((alone, *both), (one, *two), strict=True)] == [20, 20, 10]  # and a report


def test_two_processes_go_on_to_the_same_bytes(pair):
    one, two = written(pair / "resumed", STEPS), written(pair / "noisy", STEPS)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    held = [
        checkpoints.read(pair / "noisy" / "checkpoints" / f"step-{STEPS:09d}", f"rank{rank}")["data"]["held"] for rank in (0, 1)
    ]
    assert [[*found] for found in held] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_other_processes_go_on_and_say_so(pair, capsys):
    """From two to one, and from one to two: the batches stay the same."""
    train(pair / "fewer")
    said = capsys.readouterr().err
    assert "fewer: 2 processes trained it for 5 steps, and 1 goes on: on the same batches, with other random draws" in said
    assert_trained_alike(pair / "fewer", pair / "alone")
    assert (pair / "said.txt").read_text().count("more: 1 process trained it for 5 steps, and 2 go on: on the same batches") == 1
    assert_trained_alike(pair / "more", pair / "alone")
    with pytest.raises(ValueError, match="holds a finished run"):
        train(pair / "fewer", devices=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_in_the_middle_of_a_stream_loses_nothing(tmp_path, workers):
    write_corpus(tmp_path)
    expected = written(train(tmp_path / "undisturbed", noise=0.1, workers=workers).path, STEPS)
    with pytest.raises(SystemExit, match="stopped after step 7"):
        train(tmp_path / "run", interrupting(7, lambda: os.kill(os.getpid(), signal.SIGTERM)), noise=0.1, workers=workers)
    run = train(tmp_path / "run", noise=0.1, workers=workers)
    found = written(run.path, STEPS)
    assert [name for name in expected if found[name] != expected[name]] == []
    if not workers:  # else others tokenize
        assert len(run.task.tokenizer.seen) < 60


if __name__ == "__main__":
    process(Path(sys.argv[1]))
