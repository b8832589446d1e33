"""Handing work to submitit: which clusters there are, and the options that it passes on."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebm.words import nearest

CLUSTERS = ("local", "slurm")  # of submitit's: this machine, and what SLURM manages
OPTION = "cluster."  # what settings begin with that are submitit's
MINUTES = 24 * 60  # that a job is given, unless its cluster is told otherwise
# Options, behind the cluster's name, that its executor is made with.
AT_ONCE = ("max_num_timeout", "max_pickle_size_gb", "python")


def options_in(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divides settings into a cluster's options and the others.

    >>> options_in({"cluster.slurm_partition": "gpu", "cluster.cpus_per_task": "4", "fit.steps": "500"})
    ({'slurm_partition': 'gpu', 'cpus_per_task': 4}, {'fit.steps': '500'})
    """
    options = {key.removeprefix(OPTION): typed(value) for key, value in settings.items() if key.startswith(OPTION)}
    return options, {key: value for key, value in settings.items() if not key.startswith(OPTION)}


def typed(text: Any) -> Any:
    """Reads a value typed on the command line as TOML, or as a bare string."""
    if not isinstance(text, str):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def check(cluster: str, options: Mapping[str, Any], **flags: Any) -> None:
    """Raises ValueError for an unknown cluster, options or flags without one, ImportError where submitit is missing.

    Flags are those of a command that mean a cluster, None where they are not given.

    >>> check("slrum", {})
    Traceback (most recent call last):
    ValueError: --cluster slrum: did you mean 'slurm'? Known: none, local, slurm
    """
    if cluster not in ("none", *CLUSTERS):
        raise ValueError(f"--cluster {cluster}: {nearest(cluster, ('none', *CLUSTERS))}")
    if cluster == "none" and options:
        raise ValueError(f"--cluster.{next(iter(options))} is for a cluster: add --cluster slurm or --cluster local")
    if cluster == "none" and (given := [name for name, value in flags.items() if value is not None]):
        instead = {"nodes": "--num-nodes {}", "gpus": "--accelerator gpu --devices {}"}.get(given[0], "").format(flags[given[0]])
        ways = f", or without one write {instead}" if instead else ""
        raise ValueError(f"--{given[0]} is for a cluster: add --cluster slurm or --cluster local{ways}")
    if cluster != "none" and importlib.util.find_spec("submitit") is None:
        raise ImportError("submitit is not installed: pip install 'ebm-toolkit[cluster]'")


def executor_of(cluster: str, folder: Path, options: Mapping[str, Any]) -> Any:
    """Makes what submits jobs: submitit's executor.

    Arguments:
        cluster: "local" or "slurm".
        folder: where logs and jobs lie, which a cluster's machines have to see, too.
        options: what submitit passes on, such as slurm_partition, timeout_min, cpus_per_task.

    Raises:
        ImportError: submitit is not installed.
        ValueError: options that submitit does not know, or a cluster that is not here.
    """
    check(cluster, options)
    import submitit

    at_once = {name: value for name, value in options.items() if name.partition("_")[2] in AT_ONCE}
    later = {name: value for name, value in options.items() if name not in at_once}
    try:
        executor = submitit.AutoExecutor(folder=folder.absolute(), cluster=cluster, **at_once)
        executor.update_parameters(**{"timeout_min": MINUTES, **later})
    except (RuntimeError, NameError, TypeError, AssertionError) as error:
        raise ValueError(f"--cluster {cluster}: {error}") from error
    return executor
