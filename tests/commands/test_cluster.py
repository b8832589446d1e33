"""Runs as jobs: by submitit's local executor in processes of their own, by SLURM's commands as stubs play them, and the job
itself in this process."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ebm import cli
from ebm.runs import checkpoints
from tests.fake_plugins import WAITING, installed, quick_report, run_python, write_distribution, written

submitit = pytest.importorskip("submitit")
STEPS = 12
RECIPE = f"""
summary = "Several processes, and a buffer."
{WAITING}
[fit]
steps = 12
batch_size = 8
log_every = 5
checkpoint_every = 100
ema = 0.9

[fit.sampler]
use = "langevin"
step_size = 0.1
steps = 2
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_distribution(tmp_path / "plugins", "fake", entry="tests.fake_plugins")
    (tmp_path / "mine.toml").write_text(RECIPE)
    with installed(tmp_path / "plugins"):
        yield tmp_path


def ebm(folder: Path, *words: str, **variables: str):
    return run_python("-m", "ebm", "run", "mine.toml", *words, cwd=folder, folders=(folder / "plugins",), **variables)


# ---------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--cluster slrum", "--cluster slrum: did you mean 'slurm'"),
        ("--gpus 8", "--gpus is for a cluster: add --cluster slurm or --cluster local, or without one write --accelerator gpu"),
        ("--nodes 2", "or without one write --num-nodes 2"),
        ("--wait", "--wait is for a cluster"),
        ("--cluster.slurm-partition gpu", "--cluster.slurm_partition is for a cluster"),
        ("--cluster local --energy.hiden [3]", "did you mean 'hidden'"),
        ("--cluster local --minutes 0", "--minutes 0: write at least 1"),
        ("--cluster local --nodes 2", "--cluster local is this machine, and --nodes is 2"),
        ("--cluster local --nodes 2 --num-nodes 3", "--nodes 2, but --num-nodes 3: they mean the same"),
        ("--cluster local --gpus 2 --accelerator cpu", "--gpus 2, but accelerator='cpu'"),
        ("--cluster local --cluster.tasks-per-node 2", "write --gpus, or --devices without GPUs"),
        ("--cluster local --cluster.timeout-min 2", "write --minutes"),
        ("--cluster local --devices [0,1]", "devices=[0, 1]: on a cluster say how many"),
        ("--cluster local --devices 3", "batch_size=8 does not divide over 3 processes"),
        ("--cluster local --devices 2 --on-divergence rollback", "on_divergence='rollback' is for one process"),
        ("--cluster local --devices 2 --strategy ddp_spawn", "write --strategy ddp or fsdp"),
        ("--cluster local --evaluate-limit 0", "evaluate_limit is a whole number of at least 1"),
        ("--cluster local --cluster.local-colour red", "Unknown argument 'colour'"),
        ("--cluster slurm --nodes 2 --gpus 2", 'Could not detect "srun"'),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_handed_in(recipe, capsys, monkeypatch, words, said):
    if "srun" in said:
        monkeypatch.setenv("PATH", "")
    assert said in refused(capsys, "run", "mine.toml", *words.split())
    assert not list(recipe.rglob("*_submitted.pkl"))


def test_a_folder_of_another_run_or_with_a_job_is_refused(recipe, capsys, monkeypatch):
    quick_report(monkeypatch)
    cli_main("run", "mine.toml", "--steps", "1", "--out", "done")
    for words, said in (("", "holds a finished run"), ("--extend", "ask for more steps")):
        assert said in refused(capsys, "run", "mine.toml", "--out", "done", "--cluster", "local", "--steps", "1", *words.split())
    (recipe / "done" / "report.html").unlink()
    assert "another recipe.energy.hidden" in refused(
        capsys, "run", "mine.toml", "--out", "done", "--cluster", "local", "--steps", "1", "--energy.hidden", "[4]"
    )
    assert checkpoints.steps(recipe / "done" / "checkpoints") == [1]


def test_a_job_that_has_not_ended_keeps_others_from_its_folder(recipe, capsys, monkeypatch):
    """As where seeds are handed in one after the other, and the folder's name is left to the command."""
    monkeypatch.setattr("submitit.SlurmJob.done", lambda job, force_check=False: job.job_id != "7")
    jobs = recipe / "runs" / "mine" / "cluster"
    jobs.mkdir(parents=True)
    for number in (6, 7):
        (jobs / f"{number}_submitted.pkl").touch()
        (jobs / f"{number}_submission.sh").touch()
    said = refused(capsys, "run", "mine.toml", "--seed", "1", "--cluster", "local")
    assert "runs/mine has a job that has not ended" in said
    assert "scancel 7" in said


def test_a_job_that_is_refused_leaves_the_run_that_it_would_replace(recipe, capsys, monkeypatch):
    quick_report(monkeypatch)
    cli_main("run", "mine.toml", "--steps", "1", "--out", "done")
    before = written(recipe / "done", 1)

    def submit(*_):
        raise RuntimeError("the queue is full")

    monkeypatch.setattr("submitit.AutoExecutor.submit", submit)
    assert "the queue is full" in refused(capsys, "run", "mine.toml", "--out", "done", "--cluster", "local", "--overwrite")
    assert written(recipe / "done", 1) == before
    assert not (recipe / "done" / "cluster" / "replaced.json").exists()


def cli_main(*words: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 0


def refused(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    return capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- the job, in this process


class Requeued(Exception):
    """What submitit's own handler does in a test, in place of handing the job in again and ending the process."""


@pytest.fixture
def job(monkeypatch):
    """A process of a job of one process, as submitit's local executor would start it."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")  # so that they are taken away again
    monkeypatch.setenv("MASTER_ADDR", "")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "1")
    quick_report(monkeypatch)

    def theirs(number, frame):
        raise Requeued

    before = {number: signal.signal(number, theirs) for number in (signal.SIGUSR2, signal.SIGTERM)}
    yield theirs
    for number, usual in before.items():
        signal.signal(number, usual)


def arguments(folder: Path, out: str) -> dict[str, object]:
    from ebm import recipes

    read = recipes.load(folder / "mine.toml")
    return {"recipe": read, "settings": {}, "out": str(folder / out), "extend": False, "from_model": None}


def test_the_function_that_is_handed_in_again_goes_on_to_the_same_bytes(recipe, job, monkeypatch, capsys):
    from ebm.commands.submit import Training
    from ebm.training.progress import Progress

    Training(arguments(recipe, "undisturbed"), None)()
    usual = Progress.took

    def took(progress, step, row):
        usual(progress, step, row)
        if step in (4, 9) and progress.done < step - 1:  # once each
            os.kill(os.getpid(), signal.SIGUSR2)

    monkeypatch.setattr(Progress, "took", took)
    again = Training(arguments(recipe, "disturbed"), None)
    for step in (4, 9):
        with pytest.raises(Requeued):
            again()
        assert signal.getsignal(signal.SIGUSR2) is job
        assert checkpoints.steps(recipe / "disturbed" / "checkpoints")[-1] == step
        assert f"goes on from step {step}" in capsys.readouterr().err
        again = again.checkpoint().function  # what submitit writes for the next start
    again()
    one, two = (written(recipe / name, STEPS) for name in ("disturbed", "undisturbed"))
    assert [name for name in two if one[name] != two[name]] == []
    again()  # started once more when all was done, as where a machine failed just then
    assert "this run is finished" in capsys.readouterr().out
    monkeypatch.setattr(Progress, "took", usual)
    (recipe / "disturbed" / "cluster").mkdir()
    (recipe / "disturbed" / "cluster" / "replaced.json").write_text(json.dumps([str(recipe / "disturbed")]))
    again()
    assert "this run is finished" not in capsys.readouterr().out
    again()
    assert "this run is finished" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- jobs in their own processes


def until(done, seconds: float = 1800) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def processes_with(*words: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def undisturbed(recipe):
    """Makes the run that nobody stops, on two processes that Fabric starts."""

    def make(*words: str) -> dict[str, bytes]:
        done = ebm(recipe, "--out", "undisturbed", "--devices", "2", "--strategy", "ddp", *words)
        assert done.returncode == 0, done.stderr
        return written(recipe / "undisturbed", STEPS)

    return make


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
def test_a_local_job_of_two_processes_that_is_preempted_goes_on_to_the_same_bytes(recipe, undisturbed):
    waiting = {"EBM_TEST_WAIT_AT": "7", "EBM_TEST_GO": str(recipe / "go")}
    done = ebm(recipe, "--cluster", "local", "--devices", "2", "--json", **waiting)
    assert done.returncode == 0, done.stderr  # and the command has ended, though the job has not
    said = json.loads(done.stdout)
    assert said["cancel"] == f"kill {said['job']}"
    logs = [recipe / "runs" / "mine" / "cluster" / f"{said['job']}_{rank}_log.out" for rank in (0, 1)]
    assert recipe / said["log"] == logs[0]
    until(lambda: all(log.exists() and "waiting" in log.read_text() for log in logs))
    second = ebm(recipe, "--cluster", "local", "--seed", "1")
    assert second.returncode == 2
    assert "another command is writing to" in second.stderr or "has a job that has not ended" in second.stderr
    for pid in processes_with("submitit.core._submit", str(recipe)):
        os.kill(pid, signal.SIGUSR2)
    (recipe / "go").touch()
    until(lambda: not processes_with("submitit", str(recipe)))
    log = logs[0].read_text()
    assert "goes on from step 7" in log
    assert log.count("report: ") == 1
    found, expected = written(recipe / "runs" / "mine", STEPS), undisturbed()
    assert [name for name in expected if found[name] != expected[name]] == []


SBATCH = """#!/bin/sh
echo Submitted batch job 7
cp "$1" script
(sleep 1; while sh script; [ -e requeue ]; do rm requeue; done; touch ended) </dev/null >/dev/null 2>&1 &
"""
SCONTROL = """#!/bin/sh
[ "$*" = "requeue 7" ] && touch requeue
"""
SACCT = """#!/bin/sh
echo 'JobID|State|NodeList'
[ -e ended ] && echo '7|COMPLETED|localhost'
"""
SRUN = """#!{python}
import os, subprocess, sys
words = sys.argv[1:]
command = words[words.index("--output") + 2 :]
shared = dict(SLURM_JOB_ID="7", SLURM_NTASKS="2", SLURM_JOB_NUM_NODES="2", SLURM_NNODES="2", SLURM_NTASKS_PER_NODE="1")
started = []
for task in range(2):
    own = dict(SLURM_PROCID=str(task), SLURM_NODEID=str(task), SLURM_LOCALID="0", SLURM_JOB_NODELIST="localhost")
    out = open(words[words.index("--output") + 1].replace("%j", "7").replace("%t", str(task)), "a")
    started.append(subprocess.Popen(command, env={{**os.environ, **shared, **own}}, stdout=out, stderr=out))
for process in started:
    process.wait()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
def test_a_job_of_slurm_on_two_machines_is_handed_in_again_and_goes_on_to_the_same_bytes(recipe, undisturbed):
    """SLURM's commands are stubs, which start a process for each machine on this one."""
    commands = recipe / "bin"
    commands.mkdir()
    for name, text in {
        "sbatch": SBATCH,
        "scontrol": SCONTROL,
        "sacct": SACCT,
        "srun": SRUN.format(python=sys.executable),
    }.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    waiting = {"EBM_TEST_WAIT_AT": "7", "EBM_TEST_GO": str(recipe / "go"), "PATH": f"{commands}:{os.environ['PATH']}"}
    words = ("--cluster", "slurm", "--nodes", "2", "--minutes", "90", "--cluster.slurm-partition", "gpu", "--out", "job")
    done = ebm(recipe, *words, **waiting)
    assert done.returncode == 0, done.stderr
    assert "job: job 7 on 2 machines with 1 CPU process each" in done.stdout
    assert "scancel 7" in done.stdout
    script = (recipe / "job" / "cluster" / "7_submission.sh").read_text()
    for flag in ("--nodes=2", "--ntasks-per-node=1", "--time=90", "--partition=gpu", "--signal=USR2@90"):
        assert f"#SBATCH {flag}\n" in script
    logs = [recipe / "job" / "cluster" / f"7_{rank}_log.out" for rank in (0, 1)]
    until(lambda: all(log.exists() and "waiting" in log.read_text() for log in logs))
    again = ebm(recipe, *words, **waiting)
    assert again.returncode == 2
    for number in (signal.SIGTERM, signal.SIGUSR2):  # as where a job is preempted
        for pid in processes_with("submitit.core._submit", str(recipe)):
            if "srun" not in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, number)
    (recipe / "go").touch()
    until(lambda: (recipe / "ended").exists())
    assert "goes on from step 7" in logs[0].read_text()
    found, expected = written(recipe / "job", STEPS), undisturbed()
    same = [name for name in expected if name not in ("run.json", "recipe.toml", "report.html")]  # which say how many machines
    assert [name for name in same if found[name] != expected[name]] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
def test_a_job_is_waited_for_and_an_error_is_one_line(recipe):
    done = ebm(recipe, "--cluster", "local", "--wait", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert f"step {STEPS} of {STEPS}" in done.stdout
    assert "report: " in done.stdout
    failing = ebm(recipe, "--cluster", "local", "--wait", "--out", "bad", "--lr", "1e30", "--steps", "300")
    assert failing.returncode == 2
    assert "ebm: job " in failing.stderr
    assert "Traceback" not in failing.stdout + failing.stderr
