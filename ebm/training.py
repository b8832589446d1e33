"""Training: one loop that reads from top to bottom, on Lightning Fabric."""

from __future__ import annotations

import itertools
import math
import random
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils import _pytree as pytree
from tqdm import tqdm

from ebm import checkpoints
from ebm.history import History
from ebm.interfaces import Batch, EnergyFn, Loss, Objective, Sampler, Task
from ebm.randomness import stream, subseed
from ebm.runs import Run, load, open_folder, sampler_of

__all__ = ["Run", "fit", "load"]

KEEP = 2  # checkpoints: the newest, and one more in case a disk loses that


def fit(
    energy: EnergyFn,
    objective: Objective,
    task: Task,
    sampler: Sampler | None = None,
    *,
    steps: int = 1000,
    batch_size: int = 128,
    lr: float = 1e-3,
    sampler_lr: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    warmup: int = 0,
    schedule: Literal["constant", "cosine"] = "constant",
    clip_norm: float | None = None,
    ema: float = 0.0,
    log_every: int = 10,
    evaluate_every: int = 0,
    evaluate_limit: int | None = None,
    checkpoint_every: int = 500,
    workers: int = 0,
    accelerator: str = "auto",
    strategy: str = "auto",
    devices: int | str = "auto",
    num_nodes: int = 1,
    precision: str = "32-true",
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> Run:
    """Trains an energy with an objective on a task, evaluates it, and writes a run folder with a report.

    The same call on the same folder goes on where a stopped run stopped, to the same numbers bit for bit.

    Arguments:
        energy: what is trained; with a plain function only the objective's parameters are.
        objective: the loss; its parameters (learnable step sizes) train too.
        task: the data, and the judge.
        sampler: moves y in evaluation and pictures; by default the objective's.
        steps: optimiser steps.
        batch_size: rows of a batch over all devices.
        lr: AdamW's peak learning rate.
        sampler_lr: the learning rate of the objective's parameters; by default lr.
        betas: AdamW's betas.
        weight_decay: AdamW's weight decay, on the energy's parameters.
        warmup: steps over which the learning rate rises from lr / warmup.
        schedule: "constant", or "cosine" down to a tenth of lr at the last step.
        clip_norm: the largest norm of all gradients together.
        ema: decay of the energy's moving average, which is then what is evaluated and loaded; 0 means none.
        log_every: steps between logged rows.
        evaluate_every: steps between evaluations on the validation split; 0 means none.
        evaluate_limit: examples that an evaluation uses at most.
        checkpoint_every: steps between checkpoints.
        workers: processes that load data.
        accelerator: Fabric's: "auto", "cpu", "gpu" …
        strategy: Fabric's: "auto", "ddp" …
        devices: Fabric's: how many processes, or "auto".
        num_nodes: Fabric's: how many machines.
        precision: Fabric's: "32-true", "bf16-mixed", "64-true" …
        seed: what every random draw is derived from.
        out: the run folder; by default a new one below `runs`.
        overwrite: starts anew in a folder that holds another or a finished run.
        recipe: the resolved recipe that the parts were built from, which is saved with the run.

    Raises:
        ValueError: for arguments that cannot work, or a folder that holds another run.
        FloatingPointError: where the loss or a gradient stops being finite; the last good checkpoint stays.
    """
    settings = {key: value for key, value in locals().items() if isinstance(value, bool | int | float | str | tuple)}
    settings = {key: value for key, value in settings.items() if key not in ("out", "overwrite")}
    if steps < 1 or batch_size < 1 or not lr > 0 or not 0 <= ema < 1 or checkpoint_every < 1 or log_every < 1:
        raise ValueError(
            f"fit(steps={steps}, batch_size={batch_size}, lr={lr}, ema={ema}, checkpoint_every={checkpoint_every}, "
            f"log_every={log_every}): counts are at least 1, lr is positive, ema in [0, 1)"
        )

    fabric = Fabric(
        accelerator=accelerator,
        strategy=strategy,
        devices=devices,
        num_nodes=num_nodes,
        precision=precision,  # type: ignore[arg-type]  # Fabric names the choices in its error
    )
    fabric.launch()
    if batch_size % fabric.world_size:
        raise ValueError(f"batch_size={batch_size} does not divide over {fabric.world_size} processes")
    first = fabric.global_rank == 0
    folder = Path(fabric.broadcast(str(open_folder(out, settings, recipe, overwrite)) if first else ""))

    trainee = Trainee(energy, objective)
    decayed, free = _parameters(energy), _parameters(objective)
    free = [p for p in free if all(p is not q for q in decayed)]
    groups = [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay, "peak": lr},
        {"params": free, "lr": sampler_lr or lr, "weight_decay": 0.0, "peak": sampler_lr or lr},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("neither the energy nor the objective has a parameter that requires a gradient: nothing to train")
    optimizer = torch.optim.AdamW(groups, betas=betas)
    model, optimizer = fabric.setup(trainee, optimizer)
    average = AveragedModel(energy, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema and isinstance(energy, nn.Module) else None
    judged = average.module if average is not None else energy
    run = Run(folder, dict(recipe or {}), judged, sampler_of(objective) if sampler is None else sampler, objective, task, {})

    own_randomness = _own_randomness(subseed(seed, "global", fabric.global_rank))
    with own_randomness, _stop_signals() as stop, _report_of_divergence(run, seed, first):
        generator = stream(seed, "train", fabric.global_rank, device=fabric.device)
        done, place, size, own = 0, (0, 0), 0, None
        if (saved := checkpoints.latest(folder / "checkpoints")) is not None:
            shared, own = _restore(saved, fabric, trainee, optimizer, average)
            done, place, size = shared["step"], tuple(shared["place"]), shared["history"]
        batches = _batches(task, batch_size, seed, workers, place)
        if own is not None:
            batches = _ahead(batches) if done < steps else batches
            generator.set_state(own["generator"])
            _set_random_states(own["random"])
        history = History(folder, size, done) if first else None
        bar = tqdm(range(steps), initial=done, disable=None if first else True, dynamic_ncols=True)
        model.train()
        finite = torch.ones((), dtype=torch.bool, device=fabric.device)

        for step in range(done + 1, steps + 1):
            place, batch = next(batches)
            batch = fabric.to_device(_share(batch, fabric.global_rank, fabric.world_size))
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * _rate(step, steps, warmup, schedule)
            loss = model(batch, generator)
            fabric.backward(loss.value)
            norm = fabric.clip_gradients(model, optimizer, max_norm=clip_norm or math.inf, error_if_nonfinite=False)
            assert norm is not None  # it is None only where a value is clipped
            finite = finite & torch.isfinite(loss.value.detach()) & torch.isfinite(norm)
            logging = step % log_every == 0 or step == steps
            saving = step % checkpoint_every == 0 or step == steps or stop.signal is not None
            evaluating = bool(evaluate_every) and step % evaluate_every == 0 and step < steps
            if (fabric.device.type == "cpu" or logging or saving or evaluating) and not bool(finite):
                raise _not_finite(step, loss, norm, folder)
            optimizer.step()
            optimizer.zero_grad()
            if average is not None and isinstance(energy, nn.Module):
                average.update_parameters(energy)
            bar.update()

            if history is not None and logging:
                row = {"loss": float(loss.value.detach())} | {name: float(term) for name, term in loss.terms.items()}
                history.add(step, "train", row | {"gradient_norm": float(norm), "lr": optimizer.param_groups[0]["lr"]})
                bar.set_postfix({name: f"{value:.4g}" for name, value in list(row.items())[:4]})
            if history is not None and evaluating:
                history.add(step, "validation", _evaluate(run, "validation", evaluate_limit, seed, step, fabric))
            if saving and (stop.signal is None or fabric.world_size == 1):
                shared = {
                    "step": step,
                    "place": list(place),
                    "history": history.size() if history is not None else 0,
                    "energy": _state(energy, extra=False),
                    "objective": _state(objective, extra=False),
                    "optimizer": optimizer.state_dict(),
                    "average": {} if average is None else average.state_dict(),
                }
                own = {
                    "generator": generator.get_state(),
                    "random": _random_states(),
                    "energy": _state(energy, extra=True),
                    "objective": _state(objective, extra=True),
                }
                _save(folder / "checkpoints", step, shared, own, fabric)
            if stop.signal is not None:
                stop.leave(step, folder)
        bar.close()

        if history is not None:
            run.metrics = _evaluate(run, "test", evaluate_limit, seed, steps, fabric)
            history.add(steps, "test", run.metrics)
            history.close()
            run.finish(seed)
    fabric.barrier()
    return run


class Trainee(nn.Module):
    """Holds energy and objective and returns the loss: Fabric wraps one module, and calls its forward only."""

    def __init__(self, energy: EnergyFn, objective: Objective) -> None:
        super().__init__()
        self.energy, self.objective = energy, objective

    def forward(self, batch: Batch, generator: torch.Generator) -> Loss:
        return self.objective(self.energy, batch, generator=generator)


def _parameters(part: Any) -> list[nn.Parameter]:
    return [p for p in part.parameters() if p.requires_grad] if isinstance(part, nn.Module) else []


def _rate(step: int, steps: int, warmup: int, schedule: str) -> float:
    """Computes the learning rate of step 1 … steps as a fraction of its peak."""
    if step <= warmup:
        return step / warmup
    if schedule == "constant":
        return 1.0
    return 0.1 + 0.9 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def _batches(
    task: Task, batch_size: int, seed: int, workers: int, place: tuple[int, int]
) -> Iterator[tuple[tuple[int, int], Batch]]:
    """Yields ((epoch, batches taken of it), batch) for ever, from a place on."""
    epoch, taken = place
    while True:
        count = 0
        for batch in task.loader("train", batch_size, seed=subseed(seed, "data", epoch), workers=workers):
            count += 1
            if count > taken:
                yield (epoch, count), batch
        if not count:
            raise ValueError(f"the training split of {type(task).__name__} gives no batch of {batch_size}: it is empty")
        epoch, taken = epoch + 1, 0


def _ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """Draws the next batch now, so that what loading draws from the global generators is drawn before they are set."""
    return itertools.chain([next(batches)], batches)


def _share(batch: Batch, rank: int, world_size: int) -> Batch:
    """Takes one process's rows of a batch."""

    def rows(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if len(leaf) % world_size:
            raise ValueError(f"a batch of {len(leaf)} rows does not divide over {world_size} processes")
        return leaf.chunk(world_size)[rank]

    return batch if world_size == 1 else pytree.tree_map(rows, batch)


def _evaluate(run: Run, split: str, limit: int | None, seed: int, step: int, fabric: Fabric) -> dict[str, float]:
    assert run.task is not None
    generator = stream(seed, "evaluate", step, device=fabric.device)
    with torch.no_grad(), fabric.autocast():
        found = run.task.evaluate(run.thinker, split=split, limit=limit, generator=generator)
    return {name: float(value) for name, value in found.items()}


@contextmanager
def _report_of_divergence(run: Run, seed: int, first: bool) -> Iterator[None]:
    """Leaves a report behind where a value that is not finite ends the training."""
    try:
        yield
    except FloatingPointError as error:
        if first and (run.path / "metrics.csv").exists():
            run.report(seed, stopped=str(error))
        raise


def _not_finite(step: int, loss: Loss, norm: Tensor, folder: Path) -> FloatingPointError:
    values = {"loss": loss.value, **loss.terms, "gradient norm": norm}
    bad = ", ".join(name for name, value in values.items() if not bool(torch.isfinite(value).all()))
    saved = checkpoints.latest(folder / "checkpoints")
    return FloatingPointError(
        f"training step {step}: {bad or 'an earlier loss'} is not finite; the weights were last saved in "
        f"{saved or 'no checkpoint'}. A lower lr, clip_norm, or a smaller step_size is the usual way out"
    )


# ----------------------------------------------------------------------------------------------------- stopping and going on


def _state(part: Any, extra: bool) -> dict[str, Any]:
    """Reads a module's parameters and buffers, which all processes share, or what each keeps for itself (a replay buffer)."""
    if not isinstance(part, nn.Module):
        return {}
    return {key: value for key, value in part.state_dict().items() if key.endswith("_extra_state") == extra}


def _save(folder: Path, step: int, shared: dict[str, Any], own: dict[str, Any], fabric: Fabric) -> None:
    """Writes a checkpoint, whole or not at all: the part that all processes share, and each one's own."""
    first, final = fabric.global_rank == 0, checkpoints.at(folder, step)
    draft = checkpoints.draft_of(final)
    try:
        draft.mkdir(parents=True, exist_ok=True)
        checkpoints.write(draft, f"rank{fabric.global_rank}", own)
        if first:
            checkpoints.write(draft, "shared", shared)
        fabric.barrier()
        if first:
            checkpoints.commit(draft, final)
    except BaseException:
        checkpoints.discard(draft)
        raise
    if first:
        checkpoints.prune(folder, KEEP)
    fabric.barrier()


def _restore(
    saved: Path, fabric: Fabric, trainee: Trainee, optimizer: Any, average: AveragedModel | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loads a checkpoint into the parts that train: returns its contents, what all processes share and this one's own."""
    shared = checkpoints.read(saved, "shared", fabric.device)
    own = checkpoints.read(saved, f"rank{fabric.global_rank}")
    with checkpoints.named(saved):
        for name in ("energy", "objective"):
            part = getattr(trainee, name)
            if isinstance(part, nn.Module):
                part.load_state_dict({**shared[name], **own[name]})
        optimizer.load_state_dict(shared["optimizer"])
        if average is not None:
            average.load_state_dict(shared["average"])
    return shared, own


def _random_states() -> dict[str, Any]:
    """Reads the states of the global generators, which a third party's component may draw from."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = cast(tuple[str, np.ndarray, int, int, float], np.random.get_state())
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(internal), gauss],
        "numpy": [kind, keys.tolist(), position, has_gauss, cached],
    }


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seeds the global generators for a run, and gives the caller's states back after it."""
    before = _random_states()
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        _set_random_states(before)


class _Stop:
    """Remembers a signal until the step in progress is done and saved; the second one stops at once."""

    signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def leave(self, step: int, folder: Path) -> None:
        message = f"stopped after step {step}; the same call with out={str(folder)!r} goes on from there"
        raise KeyboardInterrupt(message) if self.signal == signal.SIGINT else SystemExit(message)


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Catches SIGINT and SIGTERM while a run trains (in the main thread, the only one that may)."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
