"""Laws of training on several processes: together they are one process, but for what each of them draws.

Run under torchrun as a script, this file is each of the processes: `torchrun --nproc-per-node 2 test_distributed.py FOLDER`.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

import ebm
from ebm.interfaces import Batch
from ebm.objectives import ContrastiveDivergence, Reconstruction
from ebm.randomness import stream
from ebm.registry import components
from ebm.runs import checkpoints
from ebm.runs.history import read_history
from ebm.samplers import GradientDescent, ReplayAugmented
from ebm.tasks import Points
from ebm.training import fit
from ebm.training.ranks import broadcast_from_first, shard
from tests.fake_plugins import (
    Still,
    environment,
    installed,
    langevin,
    mlp,
    parameters,
    quick_report,
    run_python,
    write_distribution,
    written,
)

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
CLOSE = {"rtol": 0, "atol": 1e-6}


def reconstruction(weighted: bool, **keywords: Any) -> dict[str, Any]:
    """An objective that draws nothing: a fixed start, and a sampler without noise."""
    task = Still(60, weighted=weighted)
    objective = Reconstruction(GradientDescent(0.1, steps=3, learnable=True), task)
    usual = {"steps": 12, "batch_size": 8, "lr": 1e-3, "log_every": 1, "checkpoint_every": 5}
    usual |= {"ema": 0.9, "clip_norm": 0.05, "weight_decay": 0.1}
    return {"energy": mlp(), "objective": objective, "task": task, "sampler": langevin(), **usual, **keywords}


def persistent(**keywords: Any) -> dict[str, Any]:
    objective = ContrastiveDivergence(ReplayAugmented(langevin(), capacity=16), start="noise")
    usual = {"steps": 6, "batch_size": 8, "log_every": 1, "checkpoint_every": 3}
    return {"energy": mlp(), "objective": objective, "task": Points("moons", n=60), "sampler": langevin(), **usual, **keywords}


def saved(folder: Path, name: str = "shared") -> Any:
    found = checkpoints.latest(folder / "checkpoints")
    assert found is not None
    return checkpoints.read(found, name)


def assert_close(one: Any, two: Any) -> None:
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], msg=lambda text, key=key: f"{key}: {text}", **CLOSE)


def stop_at_ten(step: int, row: Any, run: Any) -> bool:
    assert os.environ.get("RANK", "0") == "0"  # the first process is the one that knows the rows
    return step == 10


def process(folder: Path) -> None:
    """Trains several runs in each of two processes, and writes what only the processes themselves know."""
    patch = pytest.MonkeyPatch()
    quick_report(patch)
    ranks = {"strategy": "ddp", "devices": 2, "accelerator": "cpu"}
    rank = os.environ["RANK"]
    cut = reconstruction(True, accumulate=2, callbacks=[stop_at_ten], optimizer="muon")
    for name, parts in (
        ("equal", reconstruction(False)),
        ("weighted", reconstruction(True)),
        ("drawn", persistent()),
        ("cut", cut),
    ):
        run = fit(**parts, **ranks, out=folder / name)
        torch.save([parameters(parts["energy"], parts["objective"]), run.metrics], folder / f"{name}-{rank}.pt")
    said = {}
    for name, keywords in (("odd", {"batch_size": 7}), ("finished", {})):
        try:
            fit(**persistent(**keywords), **ranks, out=folder / "drawn")
        except ValueError as error:
            said[name] = str(error)
    (folder / f"said-{rank}.json").write_text(json.dumps(said))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes under torchrun leave."""
    folder = tmp_path_factory.mktemp("pair")
    run_python(*TORCHRUN, __file__, str(folder), cwd=folder)  # a process that fails leaves less, which the tests tell
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    quick_report(monkeypatch)


# ------------------------------------------------------------------------------------------------------------ two are one


@pytest.mark.parametrize("name", ["equal", "weighted"])
def test_two_processes_that_draw_nothing_train_what_one_trains(pair, tmp_path, name):
    """Rows that weigh differently fall to the processes unevenly: the mean over both is not the mean of their means."""
    parts = reconstruction(name == "weighted")
    start = parameters(parts["energy"])
    alone = fit(**parts, out=tmp_path / "alone")
    together, expected = saved(pair / name), saved(tmp_path / "alone")
    for part in ("energy", "objective", "average"):
        assert_close(together[part], expected[part])
    moved = max((a - b).abs().max().item() for a, b in zip(start, parameters(parts["energy"]), strict=True))
    assert moved > 1e-3  # a thousand times the tolerance
    assert together["place"] == expected["place"]
    assert json.loads((pair / name / "metrics.json").read_text()) == pytest.approx(alone.metrics, abs=1e-3)


def test_two_processes_train_in_pieces_and_stop_early_together(pair, tmp_path):
    """Four pieces of a batch whose rows weigh differently; the first process alone sees the rows that stop training."""
    fit(**reconstruction(True, callbacks=[stop_at_ten], optimizer="muon"), out=tmp_path / "alone")
    together, expected = saved(pair / "cut"), saved(tmp_path / "alone")
    assert together["step"] == expected["step"] == 10
    for part in ("energy", "objective", "average"):
        assert_close(together[part], expected[part])


def test_both_processes_hold_the_same_weights(pair):
    for name in ("equal", "weighted", "drawn", "cut"):
        (one, _), (two, _) = (torch.load(pair / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True)), name


def test_what_is_logged_is_the_mean_over_the_processes(pair, tmp_path):
    run = fit(**reconstruction(False), out=tmp_path / "alone")
    alone, together = read_history(run.path), read_history(pair / "equal")
    assert alone.keys() == together.keys()
    for name in ("loss", "first_step", "last_step", "gradient_norm", "lr"):
        assert together["train", name][0] == alone["train", name][0]
        assert together["train", name][1] == pytest.approx(alone["train", name][1], abs=1e-5), name


def test_both_processes_return_the_metrics(pair):
    for name in ("equal", "drawn"):
        found = json.loads((pair / name / "metrics.json").read_text())
        for rank in (0, 1):
            assert torch.load(pair / f"{name}-{rank}.pt", weights_only=True)[1] == found, rank


def test_processes_that_draw_have_streams_of_their_own(pair):
    first, second = saved(pair / "drawn", "rank0"), saved(pair / "drawn", "rank1")
    assert not torch.equal(first["generator"], second["generator"])
    assert not torch.equal(first["random"]["torch"], second["random"]["torch"])
    buffers = [own["objective"]["sampler._extra_state"] for own in (first, second)]
    assert [int(buffer["seen"]) for buffer in buffers] == [24, 24]  # six steps of half a batch
    ends = [buffer[max(key for key in buffer if key.startswith("rows"))] for buffer in buffers]  # a row's last part is its end
    assert len(torch.cat(ends).unique(dim=0)) == 32


def test_the_streams_are_derived_from_the_seed(pair):
    """Each process' first draw is its chains' start; the numbers can be had from the seed, its purpose and the rank."""
    starts = [torch.randn(4, 2, generator=stream(0, "train", rank)) for rank in (0, 1)]
    assert not torch.equal(*starts)
    states = [stream(0, "train", rank).get_state() for rank in (0, 1)]
    for rank, state in enumerate(states):
        assert not torch.equal(saved(pair / "drawn", f"rank{rank}")["generator"], state)


def test_bad_input_is_the_same_error_in_every_process(pair):
    for rank in (0, 1):
        said = json.loads((pair / f"said-{rank}.json").read_text())
        assert said["odd"] == "batch_size=7 does not divide over 2 processes"
        assert "holds a finished run" in said["finished"]


def member(rank, count):
    return SimpleNamespace(global_rank=rank, world_size=count)


def test_a_batch_is_dealt_out_whole():
    batch = Batch(torch.arange(8), (torch.arange(16).reshape(8, 2), None, "words"), torch.ones(8))
    shares = [shard(member(rank, 4), batch) for rank in range(4)]
    assert torch.equal(torch.cat([share.target for share in shares]), batch.target)
    assert torch.equal(torch.cat([share.context[0] for share in shares]), batch.context[0])
    assert [share.context[1:] for share in shares] == [(None, "words")] * 4
    assert shard(member(0, 1), batch) is batch
    with pytest.raises(ValueError, match="a batch of 8 rows does not divide over 3 processes"):
        shard(member(0, 3), batch)


# -------------------------------------------------------------------------------------------------------- the command line

RECIPE = """
summary = "Two processes."

[task]
use = "still"
n = 60

[energy]
use = "mlp"
hidden = [8]

[objective]
use = "reconstruction"

[objective.sampler]
use = "gradient-descent"
steps = 2

[fit]
steps = 6
batch_size = 8
log_every = 1
checkpoint_every = 2

[fit.sampler]
use = "langevin"
step_size = 0.1
steps = 2
"""


@pytest.fixture
def recipe(tmp_path):
    write_distribution(tmp_path / "plugins", "fake", entry="tests.fake_plugins")
    (tmp_path / "pair.toml").write_text(RECIPE)
    return tmp_path


def command(recipe: Path, folder: str, *settings: str) -> list[str]:
    return ["-m", "ebm", "run", str(recipe / "pair.toml"), "--out", str(recipe / folder / "run"), *settings]


def say(recipe: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_python(*words, cwd=recipe, folders=(recipe / "plugins",))


PAIR = ("--devices", "2", "--strategy", "ddp")


def test_the_command_trains_on_two_processes_and_speaks_with_one_voice(recipe):
    done = say(recipe, *command(recipe, "pair", *PAIR))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1
    assert done.stdout.count("mmd\t") == 1
    folder = recipe / "pair" / "run"
    assert {path.stem for path in (folder / "checkpoints" / "step-000000006").iterdir()} == {"shared", "rank0", "rank1"}
    assert tomllib.loads((folder / "recipe.toml").read_text())["fit"]["devices"] == 2
    with installed(recipe / "plugins"):
        parts = ebm.recipes.assemble(ebm.recipes.resolve(ebm.recipes.read(recipe / "pair.toml")))
        alone = fit(parts.energy, parts.objective, parts.task, **parts.fit, out=recipe / "alone")
    assert_close(saved(folder)["energy"], saved(alone.path)["energy"])


@pytest.mark.slow
def test_torchrun_and_the_launcher_agree(recipe):
    one = say(recipe, *command(recipe, "launched", *PAIR))
    two = say(recipe, *TORCHRUN, *command(recipe, "torchrun", *PAIR))
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert two.stdout.count("report: ") == 1
    one, two = written(recipe / "launched" / "run", 6), written(recipe / "torchrun" / "run", 6)
    assert [name for name in one if one[name] != two[name]] == []


@pytest.mark.slow
def test_torchrun_without_a_strategy_does_not_train_twice_in_one_folder(recipe):
    """It is refused, or it trains on both processes; two runs of one process each would write over one another."""
    done = say(recipe, *TORCHRUN, *command(recipe, "torchrun"))
    if done.returncode == 0:
        names = {path.stem for path in (recipe / "torchrun" / "run" / "checkpoints" / "step-000000006").iterdir()}
        assert names == {"shared", "rank0", "rank1"}
    else:
        assert "--strategy ddp" in done.stderr


@pytest.mark.slow
def test_an_error_on_two_processes_is_told_once_and_leaves_nobody_waiting(recipe):
    assert say(recipe, *command(recipe, "pair", *PAIR)).returncode == 0
    before = (recipe / "pair" / "run" / "metrics.csv").read_bytes()
    done = say(recipe, *command(recipe, "pair", *PAIR))
    assert done.returncode not in (0, None)
    assert done.stderr.count("holds a finished run") == 1
    assert "Traceback" not in done.stderr
    assert (recipe / "pair" / "run" / "metrics.csv").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_two_processes_stopped_at_any_moment_go_on_to_the_same_numbers(recipe, number):
    settings = (*PAIR, "--steps", "400", "--checkpoint-every", "20", "--ema", "0.9", "--objective.sampler.noise_std", "0.1")
    assert say(recipe, *command(recipe, "undisturbed", *settings)).returncode == 0
    history = recipe / "stopped" / "run" / "metrics.csv"
    for rows in (200, 1200):
        arguments = [sys.executable, *command(recipe, "stopped", *settings)]
        process = subprocess.Popen(
            arguments,
            cwd=recipe,
            env=environment(recipe / "plugins"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        while process.poll() is None and (not history.exists() or history.read_bytes().count(b"\n") < rows):
            time.sleep(0.01)
        os.killpg(process.pid, number)
        process.communicate()
        assert process.returncode != 0
        assert not (recipe / "stopped" / "run" / "metrics.json").exists()
    done = say(recipe, *command(recipe, "stopped", *settings))
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = written(recipe / "stopped" / "run", 400), written(recipe / "undisturbed" / "run", 400)
    assert [name for name in two if one[name] != two[name]] == []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
@pytest.mark.parametrize(("strategy", "victim"), [("ddp", "first"), ("ddp", "second"), ("fsdp", "second")])
def test_a_process_that_is_killed_ends_the_others_with_a_word_and_one_goes_on(recipe, strategy, victim):
    """Nobody waits for it: the job ends by itself, and what was saved is whole."""
    words = ("--devices", "2", "--strategy", strategy, "--checkpoint-every", "10")
    started = subprocess.Popen(
        [sys.executable, *command(recipe, "killed", *words, "--steps", "100000")],
        cwd=recipe,
        env=environment(recipe / "plugins"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = recipe / "killed" / "run"
    while started.poll() is None and len(checkpoints.steps(folder / "checkpoints")) < 2:
        time.sleep(0.05)
    (second,) = children(started.pid)
    os.kill(second if victim == "second" else started.pid, signal.SIGKILL)
    _, said = started.communicate(timeout=900)  # ends when both have closed it; a group's own timeout is 1,800 seconds
    assert started.returncode != 0
    assert "another process of this training was killed or has failed; the same call with out=" in said
    assert "goes on from step" in said
    assert "Traceback" not in said
    at = checkpoints.steps(folder / "checkpoints")[-1]
    with installed(recipe / "plugins"):
        ebm.load(folder)
        ebm.run(recipe / "pair.toml", {"fit.steps": at + 5}, out=folder, extend=True)
    assert saved(folder)["step"] == at + 5


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_signal_to_one_process_saves_the_step_in_both(recipe, strategy):
    """Else each would leave at a step of its own, and what lies behind the last checkpoint would be lost."""
    words = ("--devices", "2", "--strategy", strategy, "--checkpoint-every", "99999", "--steps", "99999")
    arguments = [sys.executable, *command(recipe, "stopped", *words)]
    environ, pipe = environment(recipe / "plugins"), subprocess.PIPE
    started = subprocess.Popen(arguments, cwd=recipe, env=environ, stdout=subprocess.DEVNULL, stderr=pipe, text=True)
    history = recipe / "stopped" / "run" / "metrics.csv"
    while started.poll() is None and (not history.exists() or history.read_bytes().count(b"\n") < 50):
        time.sleep(0.01)
    (second,) = children(started.pid)
    os.kill(second, signal.SIGTERM)
    _, said = started.communicate(timeout=900)
    assert started.returncode != 0
    (step,) = checkpoints.steps(recipe / "stopped" / "run" / "checkpoints")
    assert said.count("stopped after step") == said.count(f"stopped after step {step}; the same call with out=") == 1
    assert "killed" not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(components("recipe")))
def test_any_bundled_recipe_trains_on_two_processes(tmp_path, name):
    few = shlex.split("--steps 2 --checkpoint-every 1 --evaluate-limit 8")
    done = run_python("-m", "ebm", "run", name, *few, *PAIR, "--out", str(tmp_path / "run"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.stem for path in (tmp_path / "run" / "checkpoints" / "step-000000002").iterdir()} == {"shared", "rank0", "rank1"}


if __name__ == "__main__":
    process(Path(sys.argv[1]))


@pytest.mark.parametrize("error", [BlockingIOError("another command holds the folder"), ValueError("no")])
def test_what_the_first_process_cannot_do_is_told_to_those_that_wait_for_it(error):
    class OfOne:
        global_rank = 0
        told: ClassVar[list[Any]] = []

        def broadcast(self, value):
            self.told.append(value)
            return value

    def ask():
        raise error

    with pytest.raises(type(error), match=str(error)):
        broadcast_from_first(OfOne(), ask)
    assert OfOne.told[-1] is error
