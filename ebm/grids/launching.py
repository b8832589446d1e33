"""Where runs are done: in processes of this machine, or on a cluster by submitit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ebm.grids.cluster import check, executor_of
from ebm.grids.plan import Job
from ebm.grids.work import LOGS, work
from ebm.processes import use_threads

# What every run imports, and may be imported before a process is forked: it starts no thread and asks for no device.
IMPORTED = (work.__module__, "ebm.reports.page", "lightning_fabric", "matplotlib.figure", "torch.utils.tensorboard")


class Running(Protocol):
    """A run that was started."""

    def done(self) -> bool:
        """Tells whether it has ended, however."""

    def stop(self) -> None:
        """Asks it to end; in a process of this machine it first saves its step."""

    def wait(self) -> None:
        """Waits for its end, after it was asked to."""


Launch: TypeAlias = Callable[[Job], Running]


class OwnProcess:
    """A run in a process of its own, forked from one that has imported what runs need."""

    def __init__(self, folder: Path, job: Job, threads: int) -> None:
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # to ask for a device opens none, which no fork could share
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*IMPORTED])
        self.process = context.Process(target=_in_process, args=(folder, job, threads), name=job.name)
        self.process.start()

    def done(self) -> bool:
        return not self.process.is_alive()

    def stop(self) -> None:
        self.process.terminate()

    def wait(self) -> None:
        self.process.join()


def _in_process(folder: Path, job: Job, threads: int) -> None:
    """Works apart from the terminal, whose Ctrl-C the study answers, and ends when the study does."""
    os.setsid()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)  # the step in progress is saved

    threading.Thread(target=end_with_parent, daemon=True).start()
    with (folder / LOGS / f"{job.name}.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    use_threads(threads)
    work(folder, job)


def launcher(folder: Path, cluster: str, options: Mapping[str, Any], threads: int) -> Launch:
    """Makes what starts runs.

    Arguments:
        folder: the study's, which a cluster's machines have to see, too.
        cluster: "none": processes of this machine; or what submitit knows, "local" or "slurm".
        options: what submitit passes on, such as slurm_partition, timeout_min, cpus_per_task.
        threads: that each run computes with on this machine.

    Raises:
        ImportError: submitit is not installed.
        ValueError: options where there is no cluster, or that submitit does not know.
    """
    check(cluster, options)
    if cluster == "none":
        return lambda job: OwnProcess(folder, job, threads)
    executor = executor_of(cluster, folder / LOGS, options)
    return lambda job: Submitted(executor.submit(_submitted, folder.absolute(), job, threads))


def _submitted(folder: Path, job: Job, threads: int) -> None:
    use_threads(threads)
    work(folder, job)


class Submitted:
    """A run that submitit has taken."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def done(self) -> bool:
        return bool(self.job.done())

    def stop(self) -> None:
        self.job.cancel()

    def wait(self) -> None: ...


def cores() -> int:
    """Counts the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
