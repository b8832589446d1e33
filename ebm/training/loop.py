"""Training: one loop that reads from top to bottom, on Lightning Fabric."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ebm.files import commit, discard, draft_of, holding
from ebm.interfaces import Batch, EnergyFn, Loss, Objective, Sampler, plainly
from ebm.randomness import own_randomness, random_states, set_random_states, stream, subseed
from ebm.runs import checkpoints, learned, shards
from ebm.runs.folder import SCHEDULE, extensions, open_folder
from ebm.runs.history import History
from ebm.runs.rollback import retried, rollbacks
from ebm.runs.run import Run, sampler_of
from ebm.runs.shards import Layout
from ebm.runs.snapshots import joined_data, newest, own_state, put_back, ranks_in, shared_state
from ebm.tasks import as_task
from ebm.training import ranks
from ebm.training.accumulation import pieces, whole
from ebm.training.batches import Batches
from ebm.training.callbacks import Callback, call, checked_callbacks, put_states_back, states_of
from ebm.training.compiling import compile_if_it_pays
from ebm.training.devices import fuses, onto
from ebm.training.extension import as_it_began, described_schedule, reschedule, told_of_extension
from ebm.training.finish import finish
from ebm.training.loggers import loggers_of, logging_to
from ebm.training.optimizers import described_as, optimizer_of
from ebm.training.progress import Progress
from ebm.training.recomputing import blockwise_parts, recomputing
from ebm.training.schedulers import scheduler_of
from ebm.training.settings import check_can_be_saved, check_data, checked, fabric_of
from ebm.training.shardable import check_shardable
from ebm.training.sharding import gathered_anew, layout_of, unshard
from ebm.training.stopping import stop_signals
from ebm.training.watch import (
    Finite,
    check_parameters,
    data_are_blamed,
    divergence_leaves_a_report,
    examine,
    lost_processes_are_named,
    relative_change,
)
from ebm.words import visible

if TYPE_CHECKING:
    from lightning_fabric import Fabric

KEEP = 2  # checkpoints: the newest, and one more in case a disk loses that


@checked
@partial(plainly, arrays=False)
@retried
@holding()
def fit(
    energy: EnergyFn,
    objective: Objective,
    task: Any,
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
    lr_end: float = 0.1,
    optimizer: Any = "adamw",
    scheduler: Any = None,
    accumulate: int = 1,
    activation_checkpointing: bool = False,
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
    compile: bool | Literal["auto"] = "auto",
    on_divergence: Literal["stop", "rollback", "ignore"] = "stop",
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Any] = (),
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    extend: bool = False,
    recipe: Mapping[str, Any] | None = None,
    baseline: Run | None = None,
    others: Mapping[str, Run] | None = None,
) -> Run:
    """Trains an energy with an objective on a task, evaluates it, and writes a run folder.

    The same call on the same folder resumes a run that was stopped, to the same numbers bit for
    bit.

    Arguments:
        energy: what is trained; with a plain function only the objective's parameters are.
        objective: the loss; its parameters (learnable step sizes) train too.
        task: the data, and the judge; or data of one's own, as `ebm.tasks.as_task` takes them: rows
            (n, *event), a pair (rows, contexts), a dataset, or a dictionary of splits.
        sampler: moves y in evaluation and pictures; by default the objective's.
        steps: optimiser steps.
        batch_size: rows that one step learns from, over all devices.
        lr: the peak learning rate.
        sampler_lr: the learning rate of the objective's parameters; by default lr.
        betas: Adam's betas.
        weight_decay: the weight decay, on the energy's parameters.
        warmup: steps over which the learning rate rises from lr / warmup.
        schedule: "constant", or "cosine" down to lr_end at the last step.
        lr_end: where the cosine schedule ends, as a fraction of lr.
        optimizer: a name, as "sgd" or "muon"; `ebm.build("optimizer", "sgd", momentum=0.9)`; or
            with numbers of its own a function of parameters, or a torch optimiser.
        scheduler: in place of warmup and schedule: a name, `ebm.build("scheduler", …)`, a function
            of the optimiser, or a torch scheduler; it steps after each optimiser step.
        accumulate: pieces that a batch is cut into, whose gradients are summed: the memory of a
            piece, and the gradient of the batch (where its rows do not depend on each other).
        activation_checkpointing: computes the energy's blocks again in the backward pass, and keeps
            their inputs alone: the same gradients for a fraction of the memory, in about half as
            much time again. Energy-Based Transformers, and U-Nets, can.
        clip_norm: the largest norm of all gradients together.
        ema: decay of the energy's moving average, which is then evaluated and loaded; 0: none.
        log_every: steps between logged rows.
        evaluate_every: steps between evaluations on the validation split; 0 means none.
        evaluate_limit: examples that an evaluation uses at most.
        checkpoint_every: steps between checkpoints.
        workers: processes that load data.
        accelerator: Fabric's: "auto", "cpu", "gpu" …
        strategy: Fabric's: "auto", "ddp" …; or "fsdp", where each process holds its rows of every
            matrix, of its gradient, its moving average and the optimiser's state (`ebm.training.sharding`).
        devices: Fabric's: how many processes, or "auto". A stopped run may go on on another number.
        num_nodes: Fabric's: how many machines.
        precision: Fabric's: "32-true", "bf16-mixed" or "16-mixed".
        compile: compiles the energy and its derivatives: its regions, in seconds, where it has some
            (text EBTs), else the whole, in minutes. "auto" compiles regions on an accelerator.
        on_divergence: what follows where a value is not finite, or where the doctor
            (`ebm.runs.doctor`) finds at a checkpoint that training diverged: "stop", with a report;
            "rollback" to the last good checkpoint, and on with a new seed, at most 5 times (one
            process only); "ignore" the doctor, and stop for values that are not finite alone.
        callbacks: functions of (step, row, run), called with every logged row (of an evaluation:
            names as "validation/mmd"); training ends where one returns True, as `EarlyStopping`
            does. What has a `state_dict` is saved with checkpoints.
        loggers: further loggers: "wandb", "trackio", or Lightning Fabric's. A run that goes on
            logs the steps since its last checkpoint again.
        seed: what every random draw is derived from.
        out: the run folder; by default a new one below `runs`.
        overwrite: starts anew in a folder that holds another or a finished run.
        extend: trains the finished run in the folder on, to more steps, maybe by another lr or
            schedule; its curves go on where they ended.
        recipe: the resolved recipe that the parts were built from, which is saved with the run.
        baseline: the finished run that this one is compared with.
        others: further finished runs to compare with, by name.

    Raises:
        ValueError: for arguments that cannot work, or a folder that holds another run.
        FloatingPointError: where the loss or a gradient stops being finite, or the doctor stops the
            run (`ebm.runs.doctor.Diverged`); the last good checkpoint stays.
    """
    if overwrite and extend:
        raise ValueError("overwrite=True removes the run in the folder, which extend=True would train on: choose one of them")
    task = as_task(task)
    settings = {key: value for key, value in locals().items() if isinstance(value, bool | int | float | str | tuple)}
    settings = {
        key: value for key, value in settings.items() if key not in ("out", "overwrite", "extend", "callbacks", "loggers")
    }
    fabric = fabric_of(accelerator=accelerator, strategy=strategy, devices=devices, num_nodes=num_nodes, precision=precision)
    fabric.launch()
    ranks.check(fabric.world_size, batch_size, accumulate, on_divergence)
    lead = getattr(objective, "lead", 0)
    if lead and lead >= steps * accumulate:
        raise ValueError(
            f"steps={steps}: {type(objective).__name__} begins with its last objective after {lead} steps, so that it would "
            f"never train by it: pass more steps, or fewer of its own (objective.steps in a recipe)"
        )
    first = fabric.global_rank == 0
    blockwise = blockwise_parts(energy, activation_checkpointing, compile)

    trainee = Trainee(energy, objective)
    decayed, free = _parameters(energy), _parameters(objective)
    free = [p for p in free if all(p is not q for q in decayed)]
    matrices = [p for p in decayed if p.ndim >= 2]  # their size tells whether a step is too large
    if not decayed and not free:
        raise ValueError("neither the energy nor the objective has a parameter that requires a gradient: nothing to train")
    numbers: dict[str, Any] = {"lr": lr, "sampler_lr": sampler_lr, "betas": betas, "weight_decay": weight_decay}
    made = optimizer_of(optimizer, decayed, free, **numbers, fused=fuses(fabric.device, precision))
    rate = partial(_rate, steps=steps, warmup=warmup, schedule=schedule, end=lr_end)
    usual = {"warmup": (warmup, 0), "schedule": (schedule, "constant"), "lr_end": (lr_end, 0.1)}
    sharded, shares = strategy == "fsdp", ranks.share_judging(fabric, task)
    if sharded:
        check_shardable(energy, objective, made, compile)
    pace = scheduler_of(
        scheduler, made, rate, [f"{name}={value!r}" for name, (value, default) in usual.items() if value != default]
    )
    callbacks, sinks = checked_callbacks(callbacks, evaluate_every), loggers_of(loggers) if first else []
    model, optimizer = fabric.setup(trainee, made)

    # What decides the learning rate of a step: a checkpoint under another goes on by this one.
    scheduled = {**{name: settings.get(name) for name in SCHEDULE}, "scheduler": described_schedule(pace)}

    def moving() -> dict[str, Any]:
        states = {"optimizer": optimizer.state_dict(), "scheduler": pace.state_dict(), "callbacks": states_of(callbacks)}
        scaled = fabric.strategy.precision.state_dict()  # by how much a loss is scaled in float16
        return states | {"scheduled": scheduled} | ({"precision": scaled} if scaled else {})

    check_can_be_saved(moving())
    # Before an average is made, which shares the programs; sharded weights are gathered between kernels.
    told = "" if sharded else compile_if_it_pays(energy, compile, fabric.device)
    if told and first:
        print(visible(told), file=sys.stderr)
    average = AveragedModel(energy, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema and isinstance(energy, nn.Module) else None
    judged = average.module if average is not None else energy
    layout = layout_of(fabric, {"energy": energy, "objective": objective, "average": average}, made) if sharded else None
    named = {"energy": energy, "objective": objective, "task": task, "sampler": sampler}
    described: dict[str, Any] = {"settings": settings, "parts": {kind: type(part).__qualname__ for kind, part in named.items()}}
    described["parts"] |= {"optimizer": described_as(made), "scheduler": type(pace).__qualname__}

    def opened() -> str:
        check_data(task, batch_size, evaluate_limit, ["validation"] * bool(evaluate_every) + ["test"], overwrite)
        folder = open_folder(out, described | learned.fingerprint(task), recipe, overwrite, extend)
        learned.keep(folder, task, whole=recipe is not None)
        return str(folder)

    folder = Path(ranks.broadcast_from_first(fabric, opened))
    mover = sampler_of(objective, judged) if sampler is None else sampler
    run = Run(folder, dict(recipe or {}), judged, mover, objective, task, {}, {"": baseline, **(others or {})})

    back = len(rollbacks(folder))
    drawn = subseed(seed, "rollback", back) if back else seed
    mine = own_randomness(subseed(drawn, "global", fabric.global_rank))
    # A report draws from the model, and the first process alone has some rows of it.
    watched = divergence_leaves_a_report(run, seed, first and not sharded, on_divergence == "rollback")
    lost, logged = lost_processes_are_named(folder, fabric.world_size), logging_to(sinks, {"run": folder.name, **settings})
    rows = gathered_anew(fabric.device) if sharded else nullcontext()
    with mine, stop_signals() as stop, lost, watched, logged, rows, recomputing(blockwise), as_it_began(scheduler):
        generator = stream(drawn, "train", fabric.global_rank, device=fabric.device)
        done, place, size, own, state, ended, used = 0, (0, 0), 0, None, None, False, 0.0
        unbroken = ranks.broadcast_from_first(
            fabric, lambda: str(newest(folder / "checkpoints", energy, objective, aside=True) or "")
        )
        if saved := Path(unbroken) if unbroken else None:
            to: dict[str, Any] = {"averaged": False, "rank": fabric.global_rank, "device": fabric.device, "verified": True}
            to["layout"] = layout
            shared, own = put_back(saved, energy, objective, task, **to)
            state = own.get("data")
            if (began := ranks_in(saved)) != fabric.world_size:
                own, state = None, joined_data(saved)
                generator = stream(
                    drawn, "train", fabric.global_rank, "of", fabric.world_size, shared["step"], device=fabric.device
                )
                if first:
                    print(visible(ranks.told_of_change(folder, shared["step"], began, fabric.world_size)), file=sys.stderr)
            with checkpoints.named(saved):
                if scaled := shared.get("precision"):
                    fabric.strategy.precision.load_state_dict(scaled)
                if shared.get("scheduled", scheduled) == scheduled:
                    optimizer.load_state_dict(shared["optimizer"])
                    pace.load_state_dict(shared["scheduler"])
                    put_states_back(callbacks, shared["callbacks"])
                else:
                    reschedule(optimizer, pace, shared["optimizer"], shared["step"])
                    if first:
                        rates = shared["lr"], optimizer.param_groups[0]["lr"]
                        print(visible(told_of_extension(folder, shared["step"], steps, *rates)), file=sys.stderr)
                    shared["ended"] = False
                if extend and shared["step"] in [each["step"] for each in extensions(folder)]:
                    shared["ended"] = False  # what a callback ended there is trained on
                if average is not None:
                    average.load_state_dict(shared["average"])
            done, place, size, ended = shared["step"], tuple(shared["place"]), shared["history"], shared["ended"]
        batches = Batches(task, batch_size, drawn, workers, place, member=fabric, state=state)
        if own is not None and shared["rollbacks"] == back:  # after a rollback draws are new
            generator.set_state(own["generator"])
            set_random_states(own["random"])
        history = History(folder, size, done, sinks) if first else None
        progress = Progress(done, steps, shown=first)
        model.train()
        optimizer.zero_grad()  # what diverged may have left gradients behind
        finite = Finite(fabric.device, getattr(fabric.strategy.precision, "scaler", None))
        over = {"over": partial(fabric.all_reduce, reduce_op="sum")} if sharded else {}  # of rows that processes hold

        def save(step: int) -> None:
            """Writes a checkpoint of all that the steps to come depend on."""
            shared = {
                "step": step,
                "place": list(place),
                "history": history.size() if history is not None else 0,
                "rollbacks": back,
                "ended": ended,
                "lr": used,
                **moving(),
                **shared_state(energy, objective, task, average),
            }
            own = {"generator": generator.get_state(), "random": random_states(), "data": batches.state}
            own |= own_state(energy, objective)
            _save(folder / "checkpoints", step, shared, own, fabric, layout)

        if saved is None and on_divergence == "rollback":
            save(0)
        step = done
        while step < steps and not ended:
            step += 1
            place, batch = next(batches)
            batch = onto(fabric, batch)
            portion, parts, losses = ranks.weight_of_rank(fabric, batch), pieces(batch, accumulate), []
            for number, (part, share) in enumerate(parts, start=1):
                with fabric.no_backward_sync(model, enabled=number < len(parts)), data_are_blamed(step, batch):
                    losses.append(model(part, generator))
                    fabric.backward(losses[-1].value * (portion * share))
            loss = whole(losses, [share for _, share in parts])
            norm = fabric.clip_gradients(model, optimizer, max_norm=clip_norm or math.inf, error_if_nonfinite=False)
            assert norm is not None  # it is None only where a value is clipped
            finite.see(step, loss.value, norm)
            logging = step % log_every == 0 or step in (1, steps)
            saving = step % checkpoint_every == 0 or step == steps
            evaluating = bool(evaluate_every) and step % evaluate_every == 0 and step < steps
            if finite.at_once or logging or saving or evaluating:
                finite.check(step, loss, norm, folder, batch)
            watching = logging and (sharded or history is not None)
            before = [p.detach().clone() for p in matrices] if watching else []
            optimizer.step()
            optimizer.zero_grad()
            if average is not None and isinstance(energy, nn.Module):
                average.update_parameters(energy)

            row = ranks.mean(fabric, {"loss": loss.value, **loss.terms}, portion) if logging else {}
            change = relative_change(before, matrices, **over) if before else None
            if history is not None and logging:
                row |= {"gradient_norm": float(norm)} if math.isfinite(float(norm)) else {}  # else the step was skipped
                row |= {"lr": optimizer.param_groups[0]["lr"]}
                row |= {"relative_update": change} if change is not None else {}
                history.add(step, "train", row)
            progress.took(step, row)
            if evaluating and (sharded or shares or history is not None):  # sharded weights are gathered by all in step
                found = _evaluate(run, "validation", evaluate_limit, seed, fabric, shares and not sharded)
                row |= {f"validation/{name}": value for name, value in found.items()}
                if history is not None:
                    history.add(step, "validation", found)
            used = optimizer.param_groups[0]["lr"]
            pace.step()
            if callbacks and (logging or evaluating):
                ended = fabric.broadcast(first and call(callbacks, step, row, run))
            # Looked at once: a signal may come at any moment. Processes agree on it where the host waits anyway.
            alone = fabric.world_size == 1
            asking = alone or finite.at_once or logging or saving or evaluating
            came = ranks.anywhere(fabric, stop.flags()) if asking else []
            if saving or ended or any(came):
                check_parameters(step, model, folder)
                if on_divergence == "rollback" or (on_divergence == "stop" and step < steps):
                    examine(step, history, folder, fabric)
                save(step)
            if any(came):
                stop.leave(step, folder, came, first)
        stop.save_no_more(step, folder)
        progress.close()
        if sharded:  # a report, and whoever gets the run, use whole weights
            optimizer.state.clear()
            unshard(model)
            if average is not None:
                unshard(average)

        if shares or history is not None:
            run.metrics = _evaluate(run, "test", evaluate_limit, seed, fabric, shares)
        if history is not None:
            history.add(step, "test", run.metrics)
            history.close()
            finish(run, seed)
    run.metrics = fabric.broadcast(run.metrics)
    return run


class Trainee(nn.Module):
    """Holds energy and objective, and returns the loss: Fabric wraps one module with one forward."""

    def __init__(self, energy: EnergyFn, objective: Objective) -> None:
        super().__init__()
        self.energy, self.objective = energy, objective

    def forward(self, batch: Batch, generator: torch.Generator) -> Loss:
        loss = self.objective(self.energy, batch, generator=generator)
        if not isinstance(loss, Loss):
            raise ValueError(f"{type(self.objective).__name__} returned {type(loss).__name__}: return Loss(value, terms)")
        return loss


def _parameters(part: Any) -> list[nn.Parameter]:
    return [p for p in part.parameters() if p.requires_grad] if isinstance(part, nn.Module) else []


def _rate(step: int, steps: int, warmup: int, schedule: str, end: float = 0.1) -> float:
    """Computes the learning rate of step 1 … steps as a fraction of its peak."""
    if step <= warmup:
        return step / warmup
    if schedule == "constant":
        return 1.0
    return end + (1 - end) * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


def _evaluate(run: Run, split: str, limit: int | None, seed: int, fabric: Fabric, shared: bool) -> dict[str, float]:
    # The same draws at every evaluation: what differs between two is the model.
    with fabric.autocast(), ranks.sharing_with_all(fabric) if shared else nullcontext():
        return run.evaluate(split, limit=limit, seed=seed)


def _save(
    folder: Path, step: int, shared: dict[str, Any], own: dict[str, Any], fabric: Fabric, layout: Layout | None = None
) -> None:
    """Writes a checkpoint whole or not at all: what ranks share, and what each has of its own."""
    first, final = fabric.global_rank == 0, checkpoints.at(folder, step)
    draft = draft_of(final)
    try:
        if first:
            discard(draft)  # of a killed run
            draft.mkdir(parents=True)
        fabric.barrier()
        apart = {}
        if layout is not None:
            apart = {path: tensor for path, tensor in checkpoints.flatten(shared)[0].items() if layout.has_rows(path, tensor)}
            own = {**own, "shards": shards.write(draft, apart, layout) if apart else {}}
        checkpoints.write(draft, f"rank{fabric.global_rank}", own)
        if first:
            checkpoints.write(draft, "shared", shared, apart)
        fabric.barrier()
        if first:
            commit(draft, final)
    except BaseException:
        discard(draft)
        raise
    if first:
        checkpoints.prune(folder, KEEP)
    fabric.barrier()
