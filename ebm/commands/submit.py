"""`ebm run RECIPE --cluster slurm`: the same run as a job of a cluster, by submitit."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ebm import recipes
from ebm.commands.console import print_json, print_run, say
from ebm.files import hold, holding, read_json, write_text
from ebm.grids.cluster import check, executor_of, options_in, typed
from ebm.processes import is_first_process, use_threads
from ebm.recipes.runs import Plan, plan
from ebm.runs import checkpoints
from ebm.runs.folder import MARKER, check_ours, check_same, clear, finished
from ebm.training import ranks
from ebm.training.settings import check_data

JOBS = "cluster"  # the folder, in a run's own, of what submitit writes: jobs and their logs
REPLACED = "replaced.json"  # in it: folders of the runs that a job replaces; it is there until the job begins
# Options of submitit that are said in words of ours, since a training has to know them, too.
OURS = {
    **dict.fromkeys(("nodes", "slurm_nodes"), "--nodes"),
    **dict.fromkeys(("gpus_per_node", "slurm_gpus_per_node"), "--gpus"),
    **dict.fromkeys(("tasks_per_node", "slurm_tasks_per_node", "slurm_ntasks_per_node"), "--gpus, or --devices without GPUs"),
    **dict.fromkeys(("timeout_min", "slurm_timeout_min", "slurm_time"), "--minutes"),
    **dict.fromkeys(("stderr_to_stdout", "slurm_stderr_to_stdout"), "nothing: a process has one log"),
}
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp")  # whose processes may be started by somebody else
STARTS = 1_000  # that a job may have after its time was over, before it is left to the person who began it


class Submission(NamedTuple):
    """A job that was handed in."""

    job: Any  # submitit's
    folder: Path  # of the run
    log: Path  # of the first process
    what: str
    cancel: str


def hand_in(recipe: str, settings: Mapping[str, Any], cluster: str, wait: bool, json: bool, **how: Any) -> None:
    """Hands a run in as a job, as `submit` does, and says how to follow, end and go on with it."""
    made = submit(recipe, settings, cluster, **how)
    if json:
        print_json({"job": made.job.job_id, "folder": str(made.folder), "log": str(made.log), "cancel": made.cancel})
    else:
        say(f"{made.folder}: job {made.job.job_id} on {made.what}\nlog: {made.log}")
        say(f"end it, with its step saved: {made.cancel}\ngo on then: the same command with --out {made.folder}")
    if wait and not follow(made):
        raise ChildProcessError(f"job {made.job.job_id} has ended, and the run is not finished: see {made.log}")


@holding()
def submit(
    recipe: str,
    settings: Mapping[str, Any],
    cluster: str,
    *,
    nodes: int | None = None,
    gpus: int | None = None,
    minutes: int | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    extend: bool = False,
    from_model: str | None = None,
    threads: int | None = None,
) -> Submission:
    """Checks a run as far as that goes without training, fixes its folder, and hands it in.

    Arguments:
        recipe, out, overwrite, extend, from_model: as of `ebm.run`.
        settings: of the recipe, and submitit's options as "cluster.slurm_partition".
        cluster: "local" or "slurm".
        nodes: machines.
        gpus: GPUs of each, a process for each; without, devices of [fit] says how many processes.
        minutes: what a job may take; what is not done by then is saved and handed in again.
        threads: that each process computes with.

    Raises:
        ValueError: for what the run would refuse, and what a cluster does.
        ImportError: submitit is not installed.
    """
    options, mine = options_in(settings)
    check(cluster, options)
    for name, way in OURS.items():
        if name in options:
            raise ValueError(f"--cluster.{name.replace('_', '-')}: a training has to know this, too: write {way}")
    for flag, value in {"--nodes": nodes, "--gpus": gpus, "--minutes": minutes}.items():
        if value is not None and value < 1:
            raise ValueError(f"{flag} {value}: write at least 1")
    source = str(Path(recipe) / "recipe.toml") if extend and Path(recipe).is_dir() else recipe
    read = recipes.load(source)
    mine = _processes(mine, read.get("fit", {}), nodes, gpus)
    made = plan(recipe, mine, out=out, overwrite=overwrite, extend=extend, from_model=from_model)
    fit = made.whole.recipe["fit"]
    nodes, gpus, each = fit["num_nodes"], fit["devices"] if fit["accelerator"] in ("gpu", "cuda") else 0, fit["devices"]
    if cluster == "local" and nodes > 1:
        raise ValueError(f"--cluster local is this machine, and --nodes is {nodes}: leave it out, or use --cluster slurm")
    if fit["strategy"] not in STRATEGIES:
        raise ValueError(
            f"strategy={fit['strategy']!r}: a cluster starts a process for each device: write --strategy ddp or fsdp"
        )
    for parts in (*made.baselines.values(), made.whole):
        told = parts.recipe["fit"]
        ranks.check(each * nodes, told["batch_size"], told["accumulate"], told["on_divergence"])
    splits = ["validation"] * bool(fit["evaluate_every"]) + ["test"]
    check_data(made.whole.task, fit["batch_size"], fit.get("evaluate_limit"), splits, anew=False)
    jobs = made.folder.absolute() / JOBS
    _check_folder(made, jobs, overwrite, extend)

    how: dict[str, Any] = {"name": f"ebm-{made.folder.name}", "nodes": nodes, "tasks_per_node": each, "stderr_to_stdout": True}
    how |= {
        "gpus_per_node": gpus or None,
        "timeout_min": minutes,
        "slurm_max_num_timeout": STARTS,
        "local_max_num_timeout": STARTS,
    }
    executor = executor_of(cluster, jobs, {name: value for name, value in {**how, **options}.items() if value is not None})
    places = [place for place in (made.folder, *made.places.values()) if overwrite and place.is_dir()]
    for place in places:
        check_ours(place, made.folder)
    arguments = {"recipe": read, "settings": mine, "out": str(made.folder.absolute()), "extend": extend, "from_model": from_model}
    from submitit.helpers import clean_env

    jobs.mkdir(parents=True, exist_ok=True)
    write_text(jobs / REPLACED, json.dumps([str(place.absolute()) for place in places]))
    try:
        with clean_env(), _apart():
            job = executor.submit(Training(arguments, threads))
    except (RuntimeError, OSError) as error:
        (jobs / REPLACED).unlink()
        raise ValueError(f"--cluster {cluster}: the job could not be handed in: {error}") from error
    devices = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else f"{each} CPU process{'es' * (each > 1)}"
    what = f"{nodes} machine{'s' * (nodes > 1)} with {devices}{' each' * (nodes > 1)}"
    log = made.folder / JOBS / f"{job.job_id}_0_log.out"
    return Submission(job, made.folder, log, what, f"{'kill' if cluster == 'local' else 'scancel'} {job.job_id}")


def _processes(settings: Mapping[str, Any], fit: Mapping[str, Any], nodes: int | None, gpus: int | None) -> dict[str, Any]:
    """Says to a training what the cluster will start: how many processes on how many machines, and on what."""

    def said(name: str, usual: Any) -> Any:
        return typed(settings.get(f"fit.{name}", fit.get(name, usual)))

    made = dict(settings)
    for name, flag, value in (("num_nodes", "--nodes", nodes), ("devices", "--gpus", gpus)):
        if value is not None and f"fit.{name}" in settings and said(name, value) != value:
            raise ValueError(f"{flag} {value}, but --{name.replace('_', '-')} {said(name, value)}: they mean the same, say one")
    if gpus is not None:
        if (accelerator := said("accelerator", "auto")) not in ("auto", "gpu", "cuda"):
            raise ValueError(f"--gpus {gpus}, but accelerator={accelerator!r}: leave one out, or write --devices {gpus}")
        made |= {"fit.accelerator": "gpu", "fit.devices": gpus}
    if nodes is not None:
        made["fit.num_nodes"] = nodes
    if (devices := made.get("fit.devices", said("devices", "auto"))) == "auto":
        devices = 1
    if type(devices := typed(devices)) is not int or devices < 1:
        raise ValueError(
            f"devices={devices!r}: on a cluster say how many of a machine's, as in --gpus 8, or --devices 4 without GPUs"
        )
    made["fit.devices"] = devices
    if said("strategy", "auto") == "auto" and devices * (nodes or said("num_nodes", 1)) > 1:
        made["fit.strategy"] = "ddp"  # what "auto" comes to
    return made


def _check_folder(made: Plan, jobs: Path, overwrite: bool, extend: bool) -> None:
    """Raises ValueError where a job of this folder has not ended, or the folder holds another run."""
    if running := _unended(jobs):
        raise ValueError(
            f"{made.folder} has a job that has not ended, as far as its cluster says: choose another --out, wait for it, or end "
            f"it by {running.cancel} (where it is long gone, remove {running.file})"
        )
    if (made.folder / MARKER).exists() and not overwrite:
        before, recipe = read_json(made.folder / MARKER), json.loads(json.dumps(made.whole.recipe))
        settings = {**before["settings"], **{name: value for name, value in recipe["fit"].items() if name in before["settings"]}}
        check_same(made.folder, {**before, "settings": settings, "recipe": recipe}, extend)


class Unended(NamedTuple):
    """A job that has not ended."""

    cancel: str
    file: Path


def _unended(jobs: Path) -> Unended | None:
    """Finds a job of a folder that waits or runs: two would train in one folder, or the second in vain."""
    for file in sorted(jobs.glob("*_submitted.pkl")):
        name = file.name.removesuffix("_submitted.pkl")
        if (jobs / f"{name}_submission.sh").exists():  # which is SLURM's
            import submitit

            if not submitit.SlurmJob(jobs, name).done(force_check=True):
                return Unended(f"scancel {name}", file)
        else:
            try:
                if str(jobs).encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    return Unended(f"kill {name}", file)
            except OSError:  # no such process, or no Linux: the job's own lock on the folder is left
                continue
    return None


@contextmanager
def _apart() -> Iterator[None]:
    """Lets what is started in here hear no Ctrl-C and no closed terminal, and keep no pipe of ours open."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    kept, nothing = [os.dup(number) for number in range(3)], os.open(os.devnull, os.O_RDWR)
    try:
        for number in range(3):
            os.dup2(nothing, number)
        yield
    finally:
        for number, own in enumerate(kept):
            os.dup2(own, number)
            os.close(own)
        os.close(nothing)
        for number, usual in before.items():
            signal.signal(number, usual)


def follow(submitted: Submission) -> bool:
    """Prints a job's log until the job has ended; tells whether the run is finished. Ctrl-C leaves the job running."""
    seen, ended = 0, False
    try:
        while True:
            if submitted.log.exists():
                with submitted.log.open(encoding="utf-8", errors="replace") as file:
                    file.seek(seen)
                    sys.stdout.write(file.read())
                    seen = file.tell()
                sys.stdout.flush()
            if ended:
                return finished(submitted.folder) and not (submitted.folder / JOBS / REPLACED).exists()
            if not (ended := submitted.job.done()):
                time.sleep(0.5)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"job {submitted.job.job_id} goes on; {submitted.cancel} ends it") from None


class Preempted(KeyboardInterrupt):
    """Raised in a job whose cluster wants its machines back; a study's failures are caught, and this is none."""


class Training:
    """A run as a job: one of its processes. It is handed in again where its time is over or its machines are taken.

    It holds plain values alone: a recipe as it was read, and settings.
    """

    def __init__(self, arguments: Mapping[str, Any], threads: int | None) -> None:
        self.arguments, self.threads = dict(arguments), threads

    def checkpoint(self) -> Any:
        """Says to submitit what to do at the next start: the same, which goes on from what was saved."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        from submitit import JobEnvironment

        number = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
        if _join() == "local":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # SLURM's comes before the other; here it ends the job
        if self.threads is not None:
            use_threads(self.threads)
        folder, theirs = Path(self.arguments["out"]), signal.getsignal(number)
        try:
            signal.signal(number, _preempted)
            _replace(folder)
            if finished(folder) and not self.arguments["extend"]:
                say(f"{folder}: this run is finished")  # by this job, before it was started again
                return
            done = recipes.run(**self.arguments)
            if is_first_process():
                print_run(done)
            return
        except Preempted:
            signal.signal(number, signal.SIG_IGN)  # once is enough
            saved = checkpoints.steps(folder / "checkpoints")
            say(f"{folder}: stopped by the cluster, and goes on {f'from step {saved[-1]}' if saved else 'anew'}", file=sys.stderr)
        except (ValueError, FloatingPointError, OSError, ImportError) as error:
            say(f"ebm: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        finally:
            signal.signal(number, theirs)
        signal.raise_signal(number)  # the first process hands the job in again, and ends there


def _replace(folder: Path) -> None:
    """Removes what a job replaces, once, in the first process; the others wait. Handed in again, a job goes on."""
    noted = folder / JOBS / REPLACED
    while noted.exists():
        if not is_first_process():
            time.sleep(0.1)
            continue
        with holding():
            for place in map(Path, read_json(noted)):
                hold(place)
                check_ours(place, folder)
                clear(place)
            noted.unlink()


def _preempted(number: int, frame: Any) -> None:
    raise Preempted


def _join() -> str:
    """Says to torch which process this is, in torchrun's words, which Fabric hears first on any cluster."""
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    job = JobEnvironment()
    os.environ.update(TORCHELASTIC_RUN_ID=job.job_id, GROUP_RANK=str(job.node))
    if job.cluster == "local":
        os.environ["MASTER_ADDR"] = "127.0.0.1"  # its name need not lead anywhere
    return str(job.cluster)
