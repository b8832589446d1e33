"""The law of resuming: a run stopped at any moment, by anything, and gone on with is the undisturbed run, bit for bit.

Run as a script, this file is the process whose children are killed: `python test_resume.py FOLDER`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ebm
from ebm.objectives import ContrastiveDivergence, DenoisingScoreMatching, Reconstruction
from ebm.runs import checkpoints
from ebm.runs.history import read_history
from ebm.samplers import MALA, GradientDescent, ReplayAugmented
from ebm.tasks import Points
from ebm.training import EarlyStopping, fit
from tests.fake_plugins import (
    WAITING,
    Around,
    Bare,
    Dropped,
    Interrupted,
    Still,
    assert_same,
    environment,
    fail,
    interrupting,
    langevin,
    mlp,
    quick_report,
    run_python,
    write_distribution,
    written,
)

STEPS = 12


# ------------------------------------------------------------------------------------------------ what is trained, and how


def points() -> Points:
    return Points("moons", n=60)  # 42 rows are for training: five batches of 8 an epoch, so that runs cross two epochs


def replay(**keywords: Any) -> ReplayAugmented:
    return ReplayAugmented(langevin(), **{"capacity": 20, "fresh": 0.3, **keywords})


def learned(**keywords: Any) -> GradientDescent:
    return GradientDescent(0.1, steps=(1, 3), learnable=True, step_scale=2.0, momentum=0.5, noise_std=0.1, **keywords)


CONFIGURATIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "contrastive divergence": lambda: {"energy": mlp(), "objective": ContrastiveDivergence(langevin()), "task": points()},
    "persistent, fifo": lambda: {
        "energy": mlp(),
        "objective": ContrastiveDivergence(replay(), start="noise", energy_l2=0.1),
        "task": points(),
        "sampler": MALA(step_size=0.1, steps=2),
        "ema": 0.9,
        "clip_norm": 0.5,
        "warmup": 4,
        "schedule": "cosine",
        "evaluate_every": 3,
    },
    "persistent, reservoir": lambda: {
        "energy": mlp(),
        "objective": ContrastiveDivergence(replay(policy="reservoir"), start="noise"),
        "task": points(),
        "sampler": langevin(),
    },
    "reconstruction, joined rows": lambda: {
        "energy": mlp(),
        "objective": Reconstruction(ReplayAugmented(learned(), capacity=12, join=0.5), points()),
        "task": points(),
        "sampler": langevin(),
        "sampler_lr": 1e-2,
        "weight_decay": 0.1,
    },
    "learned step, last": lambda: {
        "energy": mlp(),
        "objective": Reconstruction(learned(), Still(60), reduce="last"),
        "task": Still(60, weighted=True),
        "betas": (0.5, 0.9),
    },
    "global generators": lambda: {
        "energy": Dropped(2),
        "objective": Around(DenoisingScoreMatching([0.1, 0.3]), noise=0.3),
        "task": Bare(),
        "sampler": langevin(),
        "ema": 0.5,
        "evaluate_every": 2,
    },
    "muon, one cycle": lambda: {
        "energy": mlp(),
        "objective": ContrastiveDivergence(replay(), start="noise"),
        "task": points(),
        "optimizer": ebm.build("optimizer", "muon", momentum=0.9),
        "scheduler": ebm.build("scheduler", "one-cycle", max_lr=2e-2, total_steps=STEPS, cycle_momentum=False),
    },
    "objects of one's own": lambda: of_ones_own(mlp()),
    "float64": lambda: {
        "energy": mlp(torch.float64),
        "objective": ContrastiveDivergence(replay(), start="noise"),
        "task": as_double(points()),
        "sampler": langevin(),
        "ema": 0.9,
    },
}


class Watching:
    """A callback that stops after as many falls of the loss as never come, and remembers them."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def __call__(self, step: int, row: Any, run: Any) -> bool:
        self.seen.append(row.get("loss", 0.0))
        return len(self.seen) > 2 * STEPS

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Any) -> None:
        self.seen = list(state["seen"])


def of_ones_own(energy: Any) -> dict[str, Any]:
    """An optimiser and a scheduler that were made before, and callbacks that remember."""
    optimizer = torch.optim.SGD(energy.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5)
    callbacks = [EarlyStopping("validation/mmd", patience=100), Watching()]
    own = {"optimizer": optimizer, "scheduler": scheduler, "callbacks": callbacks, "lr": 1e-3, "evaluate_every": 2}
    return {"energy": energy, "objective": ContrastiveDivergence(langevin()), "task": points(), **own}


def as_double(task: Points) -> Points:
    task.splits = {split: rows._replace(target=rows.target.double()) for split, rows in task.splits.items()}
    return task


def train(name: str, out: Path, wrap: Callable[[Any], Any] = lambda objective: objective, **keywords: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a hand-made energy starts from torch's global generator
        parts = CONFIGURATIONS[name]()
    parts["objective"] = wrap(parts["objective"])
    usual = {"steps": STEPS, "batch_size": 8, "lr": 1e-2, "log_every": 1, "checkpoint_every": 3}
    return fit(**{**usual, **parts, **keywords}, out=out)


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


STOPS = {
    "exception": (fail, Interrupted),
    "SIGINT": (send(signal.SIGINT), KeyboardInterrupt),
    "SIGTERM": (send(signal.SIGTERM), SystemExit),
    "SIGHUP": (send(signal.SIGHUP), SystemExit),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What each configuration's run leaves that nobody stops; made once."""
    made: dict[tuple[str, str], dict[str, bytes]] = {}

    def run(name: str, **keywords: Any) -> dict[str, bytes]:
        key = (name, repr(keywords))
        if key not in made:
            made[key] = written(train(name, tmp_path_factory.mktemp("undisturbed") / "run", **keywords).path, STEPS)
        return made[key]

    return run


@pytest.fixture(autouse=True)
def _quick(monkeypatch, request):
    if request.node.name != "test_the_report_is_the_same_to_the_byte":
        quick_report(monkeypatch)


# ------------------------------------------------------------------------------------------------------ stopped in-process


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("at", [1, 3, 4, 6, 8, 12])
def test_a_run_that_failed_at_any_step_goes_on_to_the_same_numbers(undisturbed, tmp_path, name, at):
    """Before, at and after a checkpoint (every 3 steps) and the end of an epoch (every 3 or 5); at the last step."""
    with pytest.raises(Interrupted):
        train(name, tmp_path / "run", interrupting(at, fail))
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert_same(written(train(name, tmp_path / "run").path, STEPS), undisturbed(name))


@pytest.fixture
def hearing():
    """Lets a closed terminal be heard where the tests run under nohup, whose processes ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hearing")
@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_the_step_in_progress_and_loses_nothing(undisturbed, tmp_path, name, number):
    action, error = STOPS[number]
    for at, expected in ((4, 4), (1, 5), (1, 6), (4, 10)):  # steps since the last start, and steps done; 10 ends an epoch
        with pytest.raises(error, match=f"stopped after step {expected}; the same call with out=.*run.* goes on"):
            train(name, tmp_path / "run", interrupting(at, action))
        assert checkpoints.steps(tmp_path / "run" / "checkpoints")[-1] == expected
    assert_same(written(train(name, tmp_path / "run").path, STEPS), undisturbed(name))


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("checkpoint_every", [1, 5, 100])
def test_how_often_it_is_saved_changes_nothing(undisturbed, tmp_path, name, checkpoint_every):
    kept = ("metrics.csv", "metrics.json", "report.html", f"checkpoints/step-{STEPS:09d}/shared.safetensors")
    expected = undisturbed(name)
    found = written(train(name, tmp_path / "run", checkpoint_every=checkpoint_every).path, STEPS)
    assert_same({file: found[file] for file in kept}, {file: expected[file] for file in kept})


def test_every_step_stopped_by_turns(undisturbed, tmp_path):
    for i in range(STEPS):
        action, error = list(STOPS.values())[1 + i % 2]
        with pytest.raises(error):
            train("persistent, fifo", tmp_path / "run", interrupting(1, action))
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [STEPS - 1, STEPS]
    assert_same(written(train("persistent, fifo", tmp_path / "run").path, STEPS), undisturbed("persistent, fifo"))


def test_the_generators_of_the_caller_are_no_part_of_a_run(undisturbed, tmp_path):
    torch.manual_seed(99)
    random.seed(99)
    with pytest.raises(Interrupted):
        train("persistent, reservoir", tmp_path / "run", interrupting(7, fail))
    torch.rand(5)
    random.random()
    assert_same(written(train("persistent, reservoir", tmp_path / "run").path, STEPS), undisturbed("persistent, reservoir"))


def test_a_hangup_that_is_ignored_stays_ignored(undisturbed, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        run = train("contrastive divergence", tmp_path / "run", interrupting(5, send(signal.SIGHUP)))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert_same(written(run.path, STEPS), undisturbed("contrastive divergence"))


class Requeued(Exception):
    """What a cluster's handler of a signal raises in a test, once it was called."""


@pytest.mark.parametrize("name", ["persistent, fifo", "reconstruction, joined rows"])
def test_who_handles_a_signal_is_called_once_the_step_is_saved(undisturbed, tmp_path, name):
    """As a cluster's job does: it asks to be started again, and the run goes on to the same numbers."""
    folder, found = tmp_path / "run" / "checkpoints", []

    def handler(number: int, frame: Any) -> None:
        found.append((number, checkpoints.steps(folder)[-1]))
        if number == signal.SIGUSR2:
            raise Requeued

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        # The last comes after 2 steps, and the first of a pair is no reason to stop at once at the second.
        for at, sent in ((4, [signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2]), (2, [signal.SIGUSR2])):
            with pytest.raises(Requeued):
                train(name, tmp_path / "run", interrupting(at, lambda sent=sent: [send(number)() for number in sent]))
        run = train(name, tmp_path / "run", interrupting(1, send(signal.SIGTERM)))  # where it returns, training goes on
        assert [signal.getsignal(number) for number in before] == [handler, handler]
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
    assert found == [(signal.SIGTERM, 4), (signal.SIGUSR2, 4), (signal.SIGUSR2, 6), (signal.SIGTERM, 7)]
    assert_same(written(run.path, STEPS), undisturbed(name))


def test_who_handles_a_signal_is_called_at_once_when_all_is_saved(tmp_path, monkeypatch):
    """The last evaluation and the studies after it may take longer than a cluster waits."""

    def handler(number: int, frame: Any) -> None:
        raise Requeued

    def evaluate(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR2)
        raise AssertionError("it was not called at once")

    before = signal.signal(signal.SIGUSR2, handler)
    try:
        with monkeypatch.context() as patch, pytest.raises(Requeued):
            patch.setattr(Points, "evaluate", evaluate)
            train("contrastive divergence", tmp_path / "run")
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert checkpoints.steps(tmp_path / "run" / "checkpoints")[-1] == STEPS


def test_a_second_signal_stops_at_once(tmp_path):
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train("contrastive divergence", tmp_path / "run", interrupting(5, twice))
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_evaluating_saves_that_step_too(undisturbed, tmp_path, monkeypatch, number):
    """An evaluation may take minutes, and the last checkpoint may be hours old."""
    usual, calls = Points.evaluate, []

    def evaluate(self: Points, *args: Any, **keywords: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:  # of steps 3, 6, 9
            os.kill(os.getpid(), number)
        return usual(self, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Points, "evaluate", evaluate)
        with pytest.raises((KeyboardInterrupt, SystemExit), match="stopped after step 6"):
            train("persistent, fifo", tmp_path / "run", checkpoint_every=100)
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [6]
    expected = undisturbed("persistent, fifo", checkpoint_every=100)
    assert_same(written(train("persistent, fifo", tmp_path / "run", checkpoint_every=100).path, STEPS), expected)


@pytest.mark.parametrize("where", ["ebm.tasks.Points.evaluate", "ebm.training.finish.write_report"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_run_is_judged_stops_it_at_once_and_loses_nothing(undisturbed, tmp_path, monkeypatch, number, where):
    """Judging may take long, too; the weights are saved by then."""

    def stop(*args: Any, **keywords: Any) -> Any:
        os.kill(os.getpid(), number)
        raise AssertionError("it went on")

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=f"after its last step {STEPS}; the same call"):
        patch.setattr(where, stop)
        train("contrastive divergence", tmp_path / "run")
    assert checkpoints.steps(tmp_path / "run" / "checkpoints")[-1] == STEPS
    assert_same(written(train("contrastive divergence", tmp_path / "run").path, STEPS), undisturbed("contrastive divergence"))


def test_a_failed_evaluation_or_report_is_repeated(undisturbed, tmp_path, monkeypatch):
    for where in ("ebm.tasks.Points.evaluate", "ebm.training.finish.write_report"):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(where, lambda *args, **keywords: fail())
            train("contrastive divergence", tmp_path / "run")
    assert_same(written(train("contrastive divergence", tmp_path / "run").path, STEPS), undisturbed("contrastive divergence"))


def test_the_report_is_the_same_to_the_byte(tmp_path):
    expected = written(train("persistent, fifo", tmp_path / "undisturbed" / "run").path, STEPS)
    assert len(expected["report.html"]) > 10_000
    for at, stop in ((4, "SIGINT"), (1, "SIGTERM"), (5, "exception")):
        action, error = STOPS[stop]
        with pytest.raises(error):
            train("persistent, fifo", tmp_path / "stopped" / "run", interrupting(at, action))
    assert_same(written(train("persistent, fifo", tmp_path / "stopped" / "run").path, STEPS), expected)


def test_loading_data_in_other_processes_changes_nothing(undisturbed, tmp_path):
    with pytest.raises(Interrupted):
        train("persistent, fifo", tmp_path / "run", interrupting(7, fail), workers=1)
    found = written(train("persistent, fifo", tmp_path / "run", workers=1).path, STEPS)
    expected = undisturbed("persistent, fifo")
    assert found["metrics.csv"] == expected["metrics.csv"]
    file = f"checkpoints/step-{STEPS:09d}/rank0.safetensors"
    assert found[file] == expected[file]


def test_tensorboard_shows_a_stopped_run_as_the_undisturbed_one(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for at in (2, 5, 2):  # before the first checkpoint, after one, and again
        with pytest.raises(Interrupted):
            train("persistent, fifo", tmp_path / "run", interrupting(at, fail))
    run = train("persistent, fifo", tmp_path / "run")
    board = accumulator.EventAccumulator(str(run.path / "tensorboard")).Reload()
    for (split, name), (steps, _) in read_history(run.path).items():
        assert [event.step for event in board.Scalars(f"{split}/{name}")] == steps, (split, name)


# --------------------------------------------------------------------------------------- killed at every touch of the disk


def touches(path: str, watch: Callable[[int], None]) -> None:
    """Calls `watch` with the number of each operation on files below a path, before it happens."""
    count = 0
    names = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree", "os.scandir")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in names and any(str(argument).startswith(path) for argument in arguments[:2]):
            count += 1
            watch(count)

    sys.addaudithook(hook)


def in_child(work: Callable[[], Any]) -> int:
    """Does something in a forked process, and returns how that ended: 0 where all went well."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        work()
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def kill_everywhere(folder: Path) -> dict[str, Any]:
    """Kills a run before every single operation on its folder, resumes it, and compares; also with half-written tensors."""
    monkeypatch = pytest.MonkeyPatch()
    quick_report(monkeypatch)
    name, keywords = "persistent, fifo", {"steps": 4, "checkpoint_every": 2, "evaluate_every": 3}
    expected = written(train(name, folder / "undisturbed" / "run", **keywords).path, 4)
    found: dict[str, Any] = {"kills": 0, "wrong": []}
    save = checkpoints.save_file

    def half(content: Any, path: Path) -> None:
        save(content, path)
        path.write_bytes(path.read_bytes()[:77])
        os._exit(9)

    def attempt(out: Path, at: int, flavour: str) -> None:
        def watch(count: int) -> None:
            if count == at:
                if flavour == "half":
                    checkpoints.save_file = half  # the next tensors written are cut off, and that is the end
                else:
                    os._exit(9)

        touches(str(out), watch)
        train(name, out, **keywords)

    for flavour, stride in (("plain", 1), ("half", 7)):
        for at in range(1, 10_000, stride):
            out = folder / f"{flavour}{at}" / "run"
            out.parent.mkdir()
            if (code := in_child(lambda out=out, at=at, flavour=flavour: attempt(out, at, flavour))) == 0:
                break
            found["kills"] += 1
            finished = (out / "metrics.json").exists() and (out / "report.html").exists()
            if code != 9 or (not finished and in_child(lambda out=out: train(name, out, **keywords))):
                found["wrong"].append([flavour, at, code, "cannot be resumed"])
                continue
            left = written(out, 4)
            if left != expected:
                different = [file for file in expected if left.get(file) != expected[file]]
                found["wrong"].append([flavour, at, *different, *sorted(left.keys() - expected.keys())])
            hidden = [str(path.relative_to(out)) for path in out.rglob(".*")]
            if hidden:
                found["wrong"].append([flavour, at, "leaves behind", *hidden])
    return found


def test_a_run_killed_at_any_touch_of_the_disk_goes_on_to_the_same_numbers(tmp_path):
    done = run_python(__file__, str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] > 20
    assert found["wrong"] == []


# --------------------------------------------------------------------------------------------------- killed sub-processes

RECIPE = f"""
summary = "Killed and gone on with."
{WAITING}
[fit]
steps = 30
batch_size = 8
log_every = 1
checkpoint_every = 4
evaluate_every = 10
ema = 0.9

[fit.sampler]
use = "langevin"
step_size = 0.1
steps = 3
"""


@pytest.fixture
def recipe(tmp_path):
    write_distribution(tmp_path / "plugins", "fake", entry="tests.fake_plugins")
    (tmp_path / "killed.toml").write_text(RECIPE)
    (tmp_path / "go").touch()
    return tmp_path


def command(recipe: Path, folder: str, *settings: str) -> list[str]:
    return ["-m", "ebm", "run", str(recipe / "killed.toml"), "--out", str(recipe / folder / "run"), *settings]


def start(recipe: Path, folder: str, *settings: str, **variables: str) -> subprocess.Popen[str]:
    environ = environment(recipe / "plugins", EBM_TEST_GO=str(recipe / "go"), **variables)
    words = [sys.executable, *command(recipe, folder, *settings)]
    return subprocess.Popen(words, cwd=recipe, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(recipe: Path, folder: str, *settings: str) -> subprocess.CompletedProcess[str]:
    words = command(recipe, folder, *settings)
    done = run_python(*words, cwd=recipe, folders=(recipe / "plugins",), EBM_TEST_GO=str(recipe / "go"))
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def kill_at(recipe: Path, folder: str, step: int, number: int) -> subprocess.Popen[str]:
    """Starts the run, waits until it is in the middle of its step number `step` since this start, and sends it a signal."""
    (recipe / "go").unlink(missing_ok=True)
    process = start(recipe, folder, EBM_TEST_WAIT_AT=str(step))
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n", process.stderr and process.stderr.read()
    process.send_signal(number)
    (recipe / "go").touch()
    process.communicate()
    return process


@pytest.mark.slow
def test_the_command_killed_by_every_signal_and_repeated_makes_the_undisturbed_run(recipe):
    finish(recipe, "undisturbed")
    assert kill_at(recipe, "stopped", 6, signal.SIGINT).returncode == 130
    assert checkpoints.steps(recipe / "stopped" / "run" / "checkpoints") == [4, 6]
    assert kill_at(recipe, "stopped", 9, signal.SIGKILL).returncode == -signal.SIGKILL  # in the middle of step 15
    assert checkpoints.steps(recipe / "stopped" / "run" / "checkpoints") == [8, 12]
    assert kill_at(recipe, "stopped", 1, signal.SIGTERM).returncode not in (0, -signal.SIGTERM)
    assert checkpoints.steps(recipe / "stopped" / "run" / "checkpoints") == [12, 13]
    finish(recipe, "stopped")
    assert_same(written(recipe / "stopped" / "run", 30), written(recipe / "undisturbed" / "run", 30))


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_is_the_undisturbed_run(recipe):
    """The moments come from a fixed seed; where exactly a kill lands is up to the system, and the law holds anywhere."""
    steps = "2000"
    finish(recipe, "undisturbed", "--steps", steps)
    moments, kills = random.Random(0), 0
    while kills < 20:
        process = start(recipe, "stopped", "--steps", steps)
        history = recipe / "stopped" / "run" / "metrics.csv"
        before = history.stat().st_size if history.exists() else 0
        wanted = moments.randrange(50_000)
        # How much it has written since it started says how far it is; it may also be killed before it has written anything.
        while wanted > 5_000 and process.poll() is None:
            if history.exists() and history.stat().st_size > before + wanted:
                break
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed twenty times"
        kills += 1
    finish(recipe, "stopped", "--steps", steps)
    assert_same(written(recipe / "stopped" / "run", int(steps)), written(recipe / "undisturbed" / "run", int(steps)))


if __name__ == "__main__":
    print(json.dumps(kill_everywhere(Path(sys.argv[1]))))
