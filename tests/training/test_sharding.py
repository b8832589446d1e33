"""Laws of many processes, with whole weights and with sharded ones: they train what one trains, and any number goes on.

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
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import ebm
from ebm.energies import GradientStepEBT, GradientStepUNet, ImageEBT
from ebm.interfaces import Loss, Objective, energy_and_grad
from ebm.objectives import Reconstruction
from ebm.randomness import stream
from ebm.registry import build
from ebm.runs import checkpoints
from ebm.runs.checkpoints import CheckpointError
from ebm.runs.history import read_history
from ebm.runs.shards import own_rows
from ebm.samplers import GradientDescent, ReplayAugmented
from ebm.tasks import Denoising
from ebm.training import fit
from ebm.training.accumulation import pieces
from ebm.training.optimizers import muon
from ebm.training.settings import fabric_of
from ebm.training.shardable import check_shardable
from ebm.training.sharding import gathered_anew, shard
from tests.energies.test_laws import ENERGIES, draw, make
from tests.fake_plugins import mlp, parameters, quick_report, run_python
from tests.training.test_ranks import TORCHRUN, assert_close, persistent, reconstruction, saved

PARTS = ("energy", "objective", "average")
STRATEGIES = ("ddp", "fsdp")


def text(folder: Path, kind: str, second: bool = False, drawn: bool = False, **how: Any) -> dict[str, Any]:
    """An EBT of text by the paper's first stage, or its second; nothing is drawn, or all that it draws is."""
    task = build("task", "text", source=str(folder / "corpus.txt"), context=8)
    task.rows_at_once = 3  # eight rows are judged in three parts
    torch.manual_seed(0)
    time = {"conditioning": "time"} if second and kind == "text-ebt" else {}
    energy = build("energy", kind, vocab_size=task.spec["vocab_size"], dim=8, depth=2, heads=2, **time)
    size = 1.0 if kind == "residual-text-ebt" else 0.1
    sampler: Any = GradientDescent(size, steps=2, retraction="softmax", learnable=not drawn)
    if drawn:
        sampler = GradientDescent(1.0, steps=(2, 3), retraction="softmax", noise_std=1.0, step_scale=2.0)
        sampler = ReplayAugmented(sampler, capacity=96, join=0.5)
    objective = Reconstruction(sampler, task, reduce="last" if second else "mean")
    usual = {"steps": 3, "batch_size": 8, "lr": 1e-3, "log_every": 1, "ema": 0.9, "clip_norm": 0.5, "weight_decay": 0.1}
    return {"energy": energy, "objective": objective, "task": task, "evaluate_limit": 8, **usual, **how}


def pictures(folder: Path, energy: Any, **how: Any) -> dict[str, Any]:
    """An energy of pictures learns to denoise; chains start at the noisy ones, and noise depends on a tile's number."""
    task = Denoising(str(folder / "pictures"), tile=8, crop=16, stride=8, sigma=(5, 50), tiles=64)
    sampler = GradientDescent(1.0, steps=2, learnable=True)
    usual = {"steps": 3, "batch_size": 8, "lr": 1e-3, "log_every": 1, "ema": 0.9, "clip_norm": 0.5, "evaluate_limit": 1}
    return {"energy": energy, "objective": Reconstruction(sampler, task), "task": task, **usual, **how}


def data(folder: Path) -> None:
    words, draw = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "dogs", "run", "far", "away"], random.Random(0)
    folder.joinpath("corpus.txt").write_text("\n\n".join(" ".join(draw.choices(words, k=20)) for _ in range(30)))
    (folder / "pictures").mkdir(exist_ok=True)
    for index in range(10):
        pixels = torch.randint(256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
        Image.fromarray(pixels.numpy()).save(folder / "pictures" / f"{index}.png")


def jobs(folder: Path) -> dict[str, dict[str, Any]]:
    """What draws nothing, so that any number of processes trains the same."""
    torch.manual_seed(0)
    return {
        "s1": text(folder, "text-ebt", evaluate_every=2),
        "s2": text(folder, "text-ebt", second=True),
        "recomputed": text(folder, "text-ebt", second=True, accumulate=2, activation_checkpointing=True),
        "residual": text(folder, "residual-text-ebt", accumulate=2),
        "weighted": reconstruction(True, accumulate=2, evaluate_every=5),
        "denoising": pictures(folder, GradientStepEBT(8, 4, 3, dim=8, depth=1, heads=2), accumulate=2),
        "image-ebt": pictures(folder, ImageEBT(8, 4, 3, dim=8, depth=1, heads=2), activation_checkpointing=True),
        "unet": pictures(folder, GradientStepUNet(3, widths=(4, 6), blocks=(1, 1))),
    }


class InTheirPlace(Objective):
    """Draws in one process what each of several would: its rows, by a generator and an objective of its own."""

    def __init__(self, objectives: list[Objective]) -> None:
        super().__init__()
        self.objectives = nn.ModuleList(objectives)
        self.generators = [stream(0, "train", rank) for rank in range(len(objectives))]

    def forward(self, energy, batch, *, start=None, generator=None):
        parts = zip(self.objectives, pieces(batch, len(self.objectives)), self.generators, strict=True)
        losses = [objective(energy, part, generator=own).value for objective, (part, _), own in parts]
        return Loss(torch.stack(losses).mean(), {})


def derivatives(energy: Any, y: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """An energy, its gradient, and the derivative of that gradient's size by each parameter."""
    value, grad = energy_and_grad(energy, y, create_graph=True)
    held = [p for p in energy.parameters() if p.requires_grad]
    found = torch.autograd.grad(value.sum() + grad.square().sum(), held, allow_unused=True)
    return [value.detach(), grad.detach()], [torch.zeros_like(p) if g is None else g for p, g in zip(held, found, strict=True)]


def compare(name: str) -> float | str:
    """Measures how far an energy's derivatives with sharded weights are from those with whole ones, or why it cannot shard."""
    energy, event = make(name)
    held = [p for p in energy.parameters() if p.requires_grad]
    y, whole = draw(2, *event), [(p.shape[0] if p.ndim else 0, p.ndim >= 2) for p in held]
    expected, rises = derivatives(energy, y)
    try:
        check_shardable(energy, nn.Module(), torch.optim.SGD(held), "auto")
    except ValueError as error:
        return str(error)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    shard(energy, torch.device("cpu"))
    with gathered_anew(torch.device("cpu")):
        found, own = derivatives(energy, y)
    for rise, (rows, cut) in zip(rises, whole, strict=True):  # gradients of rows are summed over processes
        expected.append(ranks * rise[own_rows(rows, rank, ranks)] if cut and rows else rise)
    return max(float((a - b).abs().max()) if a.numel() else 0.0 for a, b in zip([*found, *own], expected, strict=True))


def process(folder: Path) -> None:
    """Trains several runs in each of the processes, and writes what only the processes themselves know."""
    patch = pytest.MonkeyPatch()
    quick_report(patch)
    rank, count = os.environ["RANK"], int(os.environ["WORLD_SIZE"])
    ranks: dict[str, Any] = {"strategy": "fsdp", "devices": count, "accelerator": "cpu"}
    for strategy in STRATEGIES:
        for name, parts in jobs(folder).items():
            run = fit(**parts, **{**ranks, "strategy": strategy}, out=folder / strategy / name)
            torch.save([parameters(parts["energy"], parts["objective"]), run.metrics], folder / strategy / f"{name}-{rank}.pt")
        fit(**persistent(), **{**ranks, "strategy": strategy}, out=folder / strategy / "persistent")
    fit(**text(folder, "text-ebt", second=True, drawn=True), **ranks, out=folder / "drawn")
    fit(**reconstruction(False, steps=5), **ranks, out=folder / "half")
    try:
        fit(**reconstruction(False, optimizer="muon"), **ranks, out=folder / "refused")
    except ValueError as error:
        (folder / f"refused-{rank}.txt").write_text(str(error))
    names = [name for name in ENERGIES if any(p.requires_grad for p in make(name)[0].parameters())]
    (folder / f"energies-{rank}.json").write_text(json.dumps({name: compare(name) for name in names}))


def group_of(count: int, folder: Path) -> Path:
    """What a number of processes leaves."""
    data(folder)
    done = run_python(*TORCHRUN[:-1], str(count), __file__, str(folder), cwd=folder)
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return group_of(2, tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def group(request, tmp_path_factory):
    """(how many processes, what they leave)."""
    if request.param == 2:
        return 2, request.getfixturevalue("pair")
    return request.param, group_of(request.param, tmp_path_factory.mktemp("group"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    quick_report(monkeypatch)


def losses(folder: Path) -> list[float]:
    """The losses of all steps, and of validations where there are some."""
    history = read_history(folder)
    return [*history["train", "loss"][1], *history.get(("validation", "loss"), ([], []))[1]]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["s1", "s2", "recomputed", "residual", "weighted", "denoising", "image-ebt", "unet"])
def test_processes_that_draw_nothing_train_what_one_trains(group, tmp_path, name, strategy):
    folder = group[1] / strategy / name
    parts = jobs(group[1])[name]
    parts.pop("activation_checkpointing", None)
    start = parameters(parts["energy"])
    alone = fit(**parts, out=tmp_path / "alone")
    assert (folder / "metrics.json").exists(), (group[1] / "stderr.txt").read_text()[-3000:]
    together, expected = saved(folder), saved(tmp_path / "alone")
    for part in PARTS:
        assert_close(together[part], expected[part])
    assert max((a - b).abs().max().item() for a, b in zip(start, parameters(parts["energy"]), strict=True)) > 1e-3
    assert losses(folder) == pytest.approx(losses(tmp_path / "alone"), rel=1e-6, abs=1e-6)
    assert json.loads((folder / "metrics.json").read_text()) == pytest.approx(alone.metrics, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_with_replay_train_what_one_trains_that_draws_for_each(group, tmp_path, strategy):
    count, folder = group[0], group[1] / strategy / "persistent"
    parts = persistent()
    parts["objective"] = InTheirPlace([persistent()["objective"] for _ in range(count)])
    start = parameters(parts["energy"])
    fit(**parts, out=tmp_path / "alone")
    assert_close(saved(folder)["energy"], saved(tmp_path / "alone")["energy"])
    assert max((a - b).abs().max().item() for a, b in zip(start, parameters(parts["energy"]), strict=True)) > 1e-3
    assert losses(folder) == pytest.approx(losses(tmp_path / "alone"), rel=1e-6, abs=1e-6)
    drawn = saved(tmp_path / "alone", "rank0")["objective"]
    for rank, generator in enumerate(parts["objective"].generators):
        own = saved(folder, f"rank{rank}")
        assert torch.equal(own["generator"], generator.get_state())
        assert_close(own["objective"]["sampler._extra_state"], drawn[f"objectives.{rank}.sampler._extra_state"])


def test_each_process_returns_the_whole_model(pair):
    for name in ("s1", "weighted"):
        (one, metrics), (two, others) = (torch.load(pair / "fsdp" / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        assert metrics == others
        assert {tuple(p.shape) for p in one} == {tuple(p.shape) for p in parameters(*(jobs(pair)[name][k] for k in PARTS[:2]))}


def test_every_energy_has_the_derivatives_of_whole_weights(group):
    for rank in range(group[0]):
        found = json.loads((group[1] / f"energies-{rank}.json").read_text())
        assert {name: error for name, error in found.items() if not isinstance(error, float) or error > 1e-9} == {}


def test_numbers_of_steps_that_are_drawn_are_drawn_for_all(pair):
    """Processes of which one took three steps and the other two would gather different weights."""
    assert json.loads((pair / "drawn" / "metrics.json").read_text())["loss"] > 0


def test_a_process_saves_its_rows_alone(pair):
    folder = checkpoints.latest(pair / "fsdp" / "weighted" / "checkpoints")
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
    loaded = ebm.load(pair / "fsdp" / "weighted", energy=mlp(), sampler=run.sampler, task=alone.task)
    model = loaded.export(tmp_path / "model")
    again = ebm.load(model, energy=mlp(), sampler=run.sampler, task=alone.task)
    assert_close(dict(again.energy.state_dict()), dict(loaded.energy.state_dict()))


def test_a_damaged_shard_is_refused(pair):
    folder = checkpoints.latest(pair / "fsdp" / "s1" / "checkpoints")
    file = next((folder / "shards").iterdir())
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{file.name} is damaged"):
        checkpoints.newest_whole(folder.parent)
    file.write_bytes(whole)
    assert checkpoints.newest_whole(folder.parent) == folder


@pytest.mark.slow
def test_four_processes_then_two_then_one(pair, tmp_path):
    for count, steps in ((4, 4), (2, 8)):
        done = run_python(*TORCHRUN[:-1], str(count), __file__, str(tmp_path), str(steps), cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    fit(**reconstruction(False, steps=12, extend=True, accelerator="cpu"), out=tmp_path / "fewer")
    fit(**reconstruction(False), out=tmp_path / "alone")
    for part in PARTS:
        assert_close(saved(tmp_path / "fewer")[part], saved(tmp_path / "alone")[part])


def fewer(folder: Path, steps: int) -> None:
    quick_report(pytest.MonkeyPatch())
    ranks: dict[str, Any] = {"strategy": "fsdp", "devices": int(os.environ["WORLD_SIZE"]), "accelerator": "cpu"}
    fit(**reconstruction(False, steps=steps, extend=(folder / "fewer").exists()), **ranks, out=folder / "fewer")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 7])
def test_three_processes_judge_what_one_judges(tmp_path, limit):
    """Seven rows are three parts, one is one: some processes have less to judge than others, or nothing."""
    data(tmp_path)
    done = run_python(*TORCHRUN[:-1], "3", __file__, str(tmp_path), "judging", str(limit), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    run = fit(**text(tmp_path, "text-ebt", **JUDGING, evaluate_limit=limit), out=tmp_path / "alone")
    assert losses(tmp_path / "judged") == pytest.approx(losses(tmp_path / "alone"), rel=1e-6, abs=1e-6)
    assert len(losses(tmp_path / "judged")) == 3 + 2
    assert json.loads((tmp_path / "judged" / "metrics.json").read_text()) == pytest.approx(run.metrics, rel=1e-5)


JUDGING = {"batch_size": 6, "evaluate_every": 1}


def judging(folder: Path, limit: int) -> None:
    quick_report(pytest.MonkeyPatch())
    ranks: dict[str, Any] = {"strategy": "ddp", "devices": int(os.environ["WORLD_SIZE"]), "accelerator": "cpu"}
    fit(**text(folder, "text-ebt", **JUDGING, evaluate_limit=limit), **ranks, out=folder / "judged")


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
    match sys.argv[1:]:
        case [folder]:
            process(Path(folder))
        case [folder, "judging", limit]:
            judging(Path(folder), int(limit))
        case [folder, steps]:
            fewer(Path(folder), int(steps))
