"""Laws of sharded weights: processes that hold rows of them train what one process trains, and any number goes on.

Run under torchrun as a script, this file is each of the processes: `torchrun --nproc-per-node 2 test_sharding.py FOLDER`.
"""

from __future__ import annotations

import json
import os
import random
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import ebm
from ebm.objectives import Reconstruction
from ebm.registry import build
from ebm.runs import checkpoints
from ebm.runs.checkpoints import CheckpointError
from ebm.runs.shards import own_rows
from ebm.samplers import GradientDescent, ReplayAugmented
from ebm.training import fit
from ebm.training.optimizers import muon
from ebm.training.settings import fabric_of
from ebm.training.shardable import check_shardable
from tests.fake_plugins import mlp, parameters, quick_report, run_python
from tests.training.test_ranks import TORCHRUN, assert_close, persistent, reconstruction, saved

PARTS = ("energy", "objective", "average")


def text(folder: Path, kind: str, second: bool = False, drawn: bool = False, **how: Any) -> dict[str, Any]:
    """An EBT of text by the paper's first stage, or its second; nothing is drawn, or all that it draws is."""
    task = build("task", "text", source=str(folder / "corpus.txt"), context=8)
    torch.manual_seed(0)
    time = {"conditioning": "time"} if second and kind == "text-ebt" else {}
    energy = build("energy", kind, vocab_size=task.spec["vocab_size"], dim=8, depth=2, heads=2, **time)
    sampler: Any = GradientDescent(1.0, steps=2, retraction="softmax", learnable=not drawn)
    if drawn:
        sampler = GradientDescent(1.0, steps=(2, 3), retraction="softmax", noise_std=1.0, step_scale=2.0)
        sampler = ReplayAugmented(sampler, capacity=96, join=0.5)
    objective = Reconstruction(sampler, task, reduce="last" if second else "mean")
    usual = {"steps": 4, "batch_size": 8, "lr": 1e-3, "log_every": 1, "ema": 0.9, "clip_norm": 0.5, "weight_decay": 0.1}
    return {"energy": energy, "objective": objective, "task": task, "evaluate_limit": 8, **usual, **how}


def corpus(folder: Path) -> None:
    words, draw = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "dogs", "run", "far", "away"], random.Random(0)
    folder.joinpath("corpus.txt").write_text("\n\n".join(" ".join(draw.choices(words, k=20)) for _ in range(30)))


def jobs(folder: Path) -> dict[str, dict[str, Any]]:
    """What draws nothing, so that any number of processes trains the same."""
    return {
        "s1": text(folder, "text-ebt"),
        "s2": text(folder, "text-ebt", second=True),
        "residual": text(folder, "residual-text-ebt", accumulate=2),
        "weighted": reconstruction(True, accumulate=2, evaluate_every=5),
    }


def process(folder: Path) -> None:
    """Trains several runs in each of the processes, and writes what only the processes themselves know."""
    patch = pytest.MonkeyPatch()
    quick_report(patch)
    rank, count = os.environ["RANK"], int(os.environ["WORLD_SIZE"])
    ranks: dict[str, Any] = {"strategy": "fsdp", "devices": count, "accelerator": "cpu"}
    for name, parts in jobs(folder).items():
        run = fit(**parts, **ranks, out=folder / name)
        torch.save([parameters(parts["energy"], parts["objective"]), run.metrics], folder / f"{name}-{rank}.pt")
    fit(**persistent(), **ranks, out=folder / "persistent")
    fit(**persistent(), **{**ranks, "strategy": "ddp"}, out=folder / "persistent-ddp")
    fit(**text(folder, "text-ebt", second=True, drawn=True), **ranks, out=folder / "drawn")
    fit(**reconstruction(False, steps=5), **ranks, out=folder / "half")
    try:
        fit(**reconstruction(False, optimizer="muon"), **ranks, out=folder / "refused")
    except ValueError as error:
        (folder / f"refused-{rank}.txt").write_text(str(error))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    corpus(folder)
    done = run_python(*TORCHRUN, __file__, str(folder), cwd=folder)
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    quick_report(monkeypatch)


@pytest.mark.parametrize("name", ["s1", "s2", "residual", "weighted"])
def test_sharded_processes_train_what_one_trains(pair, tmp_path, name):
    parts = jobs(pair)[name]
    start = parameters(parts["energy"])
    alone = fit(**parts, out=tmp_path / "alone")
    assert (pair / name / "metrics.json").exists(), (pair / "stderr.txt").read_text()[-3000:]
    together, expected = saved(pair / name), saved(tmp_path / "alone")
    for part in PARTS:
        assert_close(together[part], expected[part])
    assert max((a - b).abs().max().item() for a, b in zip(start, parameters(parts["energy"]), strict=True)) > 1e-3
    assert json.loads((pair / name / "metrics.json").read_text()) == pytest.approx(alone.metrics, rel=1e-4, abs=1e-3)


def test_each_process_returns_the_whole_model(pair):
    for name in ("s1", "weighted"):
        (one, metrics), (two, others) = (torch.load(pair / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        assert metrics == others
        assert {tuple(p.shape) for p in one} == {tuple(p.shape) for p in parameters(*(jobs(pair)[name][k] for k in PARTS[:2]))}


def test_chains_and_replay_are_those_of_whole_weights(pair):
    """Both draw the same numbers: sharding changes where weights lie, and nothing else."""
    assert_close(saved(pair / "persistent")["energy"], saved(pair / "persistent-ddp")["energy"])
    for rank in ("rank0", "rank1"):
        one, two = saved(pair / "persistent", rank), saved(pair / "persistent-ddp", rank)
        assert torch.equal(one["generator"], two["generator"])
        buffers = [own["objective"]["sampler._extra_state"] for own in (one, two)]
        assert_close(buffers[0], buffers[1])


def test_numbers_of_steps_that_are_drawn_are_drawn_for_all(pair):
    """Processes of which one took three steps and the other two would gather different weights."""
    assert json.loads((pair / "drawn" / "metrics.json").read_text())["loss"] > 0


def test_a_process_saves_its_rows_alone(pair):
    folder = checkpoints.latest(pair / "weighted" / "checkpoints")
    held = [load_file(file) for file in sorted((folder / "shards").iterdir())]
    counts = [sum(tensor.numel() for tensor in rows.values()) for rows in held]
    whole = sum(p.numel() for p in mlp().parameters() if p.ndim >= 2)
    assert sum(counts) == 4 * whole  # weights, their average, and Adam's two moments
    assert max(counts) <= 0.67 * sum(counts)  # one matrix has a single row
    named = load_file(folder / "shared.safetensors").keys()
    assert "energy/layers.0.bias" in named
    assert "energy/layers.0.weight" not in named


def test_a_sharded_run_goes_on_alone_and_is_given_away(pair, tmp_path):
    run = fit(**reconstruction(False, extend=True, accelerator="cpu"), out=pair / "half")
    alone = fit(**reconstruction(False), out=tmp_path / "alone")
    for part in PARTS:
        assert_close(saved(pair / "half")[part], saved(tmp_path / "alone")[part])
    loaded = ebm.load(pair / "weighted", energy=mlp(), sampler=run.sampler, task=alone.task)
    model = loaded.export(tmp_path / "model")
    again = ebm.load(model, energy=mlp(), sampler=run.sampler, task=alone.task)
    assert_close(dict(again.energy.state_dict()), dict(loaded.energy.state_dict()))


def test_a_damaged_shard_is_refused(pair):
    folder = checkpoints.latest(pair / "s1" / "checkpoints")
    file = next((folder / "shards").iterdir())
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{file.name} is damaged"):
        checkpoints.newest_whole(folder.parent)
    file.write_bytes(whole)
    assert checkpoints.newest_whole(folder.parent) == folder


@pytest.mark.slow
def test_four_processes_then_two_then_one(pair, tmp_path):
    corpus(tmp_path)
    four = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4")
    for words, steps in ((four, 4), (TORCHRUN, 8)):
        done = run_python(*words, __file__, str(tmp_path), str(steps), cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    fit(**reconstruction(False, steps=12, extend=True, accelerator="cpu"), out=tmp_path / "fewer")
    fit(**reconstruction(False), out=tmp_path / "alone")
    for part in PARTS:
        assert_close(saved(tmp_path / "fewer")[part], saved(tmp_path / "alone")[part])


def fewer(folder: Path, steps: int) -> None:
    quick_report(pytest.MonkeyPatch())
    ranks: dict[str, Any] = {"strategy": "fsdp", "devices": int(os.environ["WORLD_SIZE"]), "accelerator": "cpu"}
    fit(**reconstruction(False, steps=steps, extend=(folder / "fewer").exists()), **ranks, out=folder / "fewer")


# ------------------------------------------------------------------------------------------------------- what is refused


def test_what_cannot_shard_is_refused(pair):
    for rank in (0, 1):
        assert "choose one of adadelta" in (pair / f"refused-{rank}.txt").read_text()
    assert not (pair / "refused").exists()
    energy = mlp()
    adam, objective = torch.optim.AdamW(energy.parameters()), nn.Module()
    check_shardable(energy, objective, adam, "auto")
    with pytest.raises(ValueError, match="compile=True"):
        check_shardable(energy, objective, adam, True)
    with pytest.raises(ValueError, match="may look at a whole matrix"):
        check_shardable(energy, objective, muon([{"params": [*energy.parameters()]}]), False)
    with pytest.raises(ValueError, match="LSTM keeps a weight in a list of its own"):
        check_shardable(nn.LSTM(2, 2), objective, adam, False)
    for name in ("fsdp_cpu_offload", "deepspeed_stage_3"):
        with pytest.raises(ValueError, match=f"strategy='{name}': its hooks drop weights"):
            fabric_of(strategy=name, devices=1, accelerator="cpu")


def test_rows_are_dealt_out_whole():
    for rows in range(1, 12):
        for ranks in range(1, 6):
            dealt = [list(range(rows))[own_rows(rows, rank, ranks)] for rank in range(ranks)]
            assert [*chain(*dealt)] == list(range(rows))


if __name__ == "__main__":
    fewer(Path(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else process(Path(sys.argv[1]))
