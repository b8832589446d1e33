"""What a checkpoint holds of a run's parts, and how it goes back into them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ebm.interfaces import EnergyFn, Objective
from ebm.interfaces.abilities import Learns, lacking
from ebm.runs import checkpoints
from ebm.runs.checkpoints import CheckpointError
from ebm.runs.shards import Layout

AVERAGED = "module."  # what torch's AveragedModel puts before the names of the weights it averages


def shared_state(energy: EnergyFn, objective: Objective, task: Any, average: nn.Module | None) -> dict[str, Any]:
    """Reads what ranks share: weights, their moving average, and what the task learned."""
    return {
        "energy": _state(energy, extra=False),
        "objective": _state(objective, extra=False),
        "task": {} if lacking(task, Learns) else task.state_dict(),
        "average": {} if average is None else average.state_dict(),
    }


def own_state(energy: EnergyFn, objective: Objective) -> dict[str, Any]:
    """Reads what each rank keeps for itself, such as a replay buffer."""
    return {"energy": _state(energy, extra=True), "objective": _state(objective, extra=True)}


def put_back(
    saved: Path,
    energy: EnergyFn,
    objective: Objective | None,
    task: Any,
    *,
    averaged: bool,
    rank: int = 0,
    device: torch.device | str = "cpu",
    verified: bool = False,
    layout: Layout | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loads a checkpoint into a run's parts, and returns what ranks share and this rank's own.

    Arguments:
        saved: the checkpoint's folder.
        energy: gets the weights, or with `averaged` their moving average where there is one.
        objective: gets its parameters, and the rank's replay buffer.
        task: gets what it learned from its data, if it has `load_state_dict`.
        averaged: whether the energy is to be used, and not trained on.
        rank: whose own part is read; where fewer ranks wrote the checkpoint, they are counted through again.
        device: where shared tensors go.
        verified: whether `newest` found the checkpoint, and has read all of it.
        layout: of parts that hold a process's rows alone.

    Raises:
        CheckpointError: the weights are truncated, foreign, or do not fit.
    """
    shared = checkpoints.read(saved, "shared", device, verified=verified, layout=layout)
    own = checkpoints.read(saved, f"rank{rank % ranks_in(saved)}", verified=verified)
    if not verified:
        check_weights(saved, shared, energy, objective)
    with checkpoints.named(saved):
        if isinstance(energy, nn.Module):
            average = {k.removeprefix(AVERAGED): v for k, v in shared["average"].items() if k.startswith(AVERAGED)}
            energy.load_state_dict({**(average if averaged and average else shared["energy"]), **own["energy"]})
        if isinstance(objective, nn.Module):
            objective.load_state_dict({**shared["objective"], **own["objective"]})
        if shared.get("task") and not lacking(task, Learns):
            task.load_state_dict(shared["task"])
    return shared, own


def ranks_in(saved: Path) -> int:
    """Counts the ranks that wrote a checkpoint."""
    return max(1, len([*saved.glob("rank*.json")]))


def joined_data(saved: Path) -> Any:
    """Joins what all ranks' loaders keep of the data, by what they hold; None where they keep nothing."""
    states = [checkpoints.read(saved, f"rank{rank}", verified=True).get("data") for rank in range(ranks_in(saved))]
    if states[0] is None:
        return None
    return {**states[0], "held": {lane: held for state in states for lane, held in state["held"].items()}}


def newest(folder: Path, energy: EnergyFn, objective: Objective | None, *, aside: bool = False) -> Path | None:
    """Finds the newest checkpoint that is whole and whose weights are numbers, as `newest_whole` does."""
    return checkpoints.newest_whole(folder, lambda path, shared: check_weights(path, shared, energy, objective), aside=aside)


def check_weights(saved: Path, shared: Mapping[str, Any], energy: EnergyFn, objective: Objective | None) -> None:
    """Raises CheckpointError for saved weights that are not finite, or of another dtype than the parts'.

    Buffers may be infinite, as masks are; parameters may not.
    """
    file = saved / "shared.safetensors"
    averaged = {key.removeprefix(AVERAGED): value for key, value in shared.get("average", {}).items() if key.startswith(AVERAGED)}
    for kind, part, held in (("energy", energy, "energy"), ("energy", energy, "average"), ("objective", objective, "objective")):
        if not isinstance(part, nn.Module):
            continue
        state = averaged if held == "average" else shared.get(held, {})
        parameters, expected = dict(part.named_parameters(remove_duplicate=False)), part.state_dict()
        for name, value in state.items():
            if not isinstance(value, torch.Tensor):
                continue
            if name in parameters and not bool(value.isfinite().all()):
                raise CheckpointError(f"{file} holds weights that are not finite: {kind}.{name}")
            wanted = getattr(expected.get(name), "dtype", value.dtype)
            if value.dtype != wanted:
                raise CheckpointError(
                    f"{file} holds {kind}.{name} as {value.dtype}, and here it is {wanted}: build the {kind} as it was trained, "
                    f"as by {kind}.to({value.dtype})"
                )


def _state(part: Any, extra: bool) -> Mapping[str, Any]:
    """Reads a module's parameters and buffers, or with `extra` what it keeps beside them."""
    if not isinstance(part, nn.Module):
        return {}
    return {key: value for key, value in part.state_dict().items() if key.endswith("_extra_state") == extra}
