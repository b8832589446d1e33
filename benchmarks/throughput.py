"""Says how fast a recipe trains on this machine, what share of its matrix products' rate that is, and where the time goes.

    python benchmarks/throughput.py --recipe text-s1
    python benchmarks/throughput.py --recipe text-s1 --energy.size xxs --batch-size 32 --precision bf16-mixed --devices 2

All settings of `ebm run` are taken, and no run is written. The steps are those of `ebm.fit`, on its own parts: first so many that
warm up, then so many whose time is the table's, between which the host waits for nothing that training does not wait for; then
some that wait at the end of each part, to tell where the time goes, and one whose arithmetic and host reads are counted.

Rates are over all processes, whose products are measured at the same time; memory, arithmetic and parts are the first one's. A
compiled energy takes its inner gradient within the forward pass. On a CPU a host read (`.item()`, a truth value) is free; on
an accelerator the host waits at each until the device is done.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import machine
import torch
from rich.console import Console
from rich.table import Table
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from ebm.cli import parse_settings
from ebm.files import write_text
from ebm.interfaces import Batch, Energy
from ebm.randomness import own_randomness, stream, subseed
from ebm.recipes.recipe import assemble, load, resolve
from ebm.registry import parameters
from ebm.training import fit, ranks
from ebm.training.accumulation import pieces, whole
from ebm.training.batches import Batches
from ebm.training.compiling import compile_if_it_pays
from ebm.training.devices import fuses, onto
from ebm.training.loop import Trainee
from ebm.training.optimizers import optimizer_of
from ebm.training.settings import check, fabric_of
from ebm.training.watch import Finite

PARTS = ("data", "forward", "inner gradient", "outer backward", "optimiser")
READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
Within = Callable[[str], Any]


def anywhere(_: str) -> Any:
    return nullcontext()


class Steps:
    """Takes the steps of a recipe's training, as `fit` does, without its learning rate's schedule, logs and files."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        parts = assemble(recipe)
        how = {name: p.default for name, p in parameters(fit).items()} | parts.fit
        how["seed"] = recipe["seed"]
        where = ("accelerator", "strategy", "devices", "num_nodes", "precision")
        self.fabric = fabric = fabric_of(**{name: how[name] for name in where})
        fabric.launch()
        ranks.check(fabric.world_size, how["batch_size"], how["accumulate"], how["on_divergence"])
        self.how, self.task, self.energy, self.done = how, parts.task, parts.energy, 0
        self.parameters = [p for p in parts.energy.parameters() if p.requires_grad]
        known = {id(p) for p in self.parameters}
        free = [p for p in parts.objective.parameters() if p.requires_grad and id(p) not in known]
        numbers = {name: how[name] for name in ("lr", "sampler_lr", "betas", "weight_decay")}
        fused = fuses(fabric.device, how["precision"])
        made = optimizer_of(how["optimizer"], self.parameters, free, **numbers, fused=fused)
        self.model, self.optimizer = fabric.setup(Trainee(parts.energy, parts.objective), made)
        self.compiles = compile_if_it_pays(parts.energy, how["compile"], fabric.device)
        held = how["ema"] and isinstance(parts.energy, Energy)
        self.average = AveragedModel(parts.energy, multi_avg_fn=get_ema_multi_avg_fn(how["ema"])) if held else None
        self.batches = Batches(parts.task, how["batch_size"], how["seed"], how["workers"], (0, 0), member=fabric)
        self.generator = stream(how["seed"], "train", fabric.global_rank, device=fabric.device)
        self.finite = Finite(fabric.device)
        self.model.train()

    def take(self, within: Within = anywhere) -> Batch:
        """Takes a step, whose parts are within what is given; returns this process's rows."""
        fabric, count = self.fabric, self.how["accumulate"]
        self.done += 1
        with within("data"):
            batch = onto(fabric, next(self.batches)[1])
        portion, parts, losses = ranks.weight_of_rank(fabric, batch), pieces(batch, count), []
        for number, (part, share) in enumerate(parts, start=1):
            with fabric.no_backward_sync(self.model, enabled=number < len(parts)):
                with within("forward"):
                    losses.append(self.model(part, self.generator))
                with within("outer backward"):
                    fabric.backward(losses[-1].value * (portion * share))
        with within("optimiser"):
            loss = whole(losses, [share for _, share in parts])
            largest = self.how["clip_norm"] or math.inf
            norm = fabric.clip_gradients(self.model, self.optimizer, max_norm=largest, error_if_nonfinite=False)
            self.finite.see(self.done, loss.value, norm)
            if self.finite.at_once:
                self.finite.check(self.done, loss, norm, Path(), batch)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.average is not None:
                self.average.update_parameters(self.energy)
        return batch


class Clock:
    """Tells where the time goes: a part's time is its own, without that of the parts within it.

    >>> clock = Clock(torch.device("cpu"), now=iter([0.0, 1.0, 3.0, 7.0]).__next__)
    >>> with clock("outer"):
    ...     with clock("inner"): pass
    >>> clock.spent
    {'outer': 5.0, 'inner': 2.0}
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self.device, self.now, self.spent, self.open, self.since = device, now, dict[str, float](), list[str](), 0.0

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._turn()
        self.open.append(part)
        self.spent.setdefault(part, 0.0)
        try:
            yield
        finally:
            self._turn()
            self.open.pop()

    def _turn(self) -> None:
        machine.wait(self.device)
        now = self.now()
        if self.open:
            self.spent[self.open[-1]] += now - self.since
        self.since = now


@contextmanager
def inner_gradients(within: Within) -> Iterator[None]:
    """Puts every `torch.autograd.grad` within a part."""
    plain = torch.autograd.grad

    def grad(*arguments: Any, **keywords: Any) -> Any:
        with within("inner gradient"):
            return plain(*arguments, **keywords)

    torch.autograd.grad = grad  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.autograd.grad = plain


class Reads(TorchDispatchMode):
    """Counts how often the host reads a tensor's number."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._overloadpacket in READS
        return func(*args, **(kwargs or {}))


def counted(batch: Batch, spec: Mapping[str, Any]) -> tuple[str, int]:
    """Says what a batch's elements are, and how many it has.

    >>> counted(Batch(torch.zeros(4, 16)), {"vocab_size": 257}), counted(Batch(torch.zeros(4, 1, 8, 8)), {"image_size": 8})
    (('tokens', 64), ('pictures', 4))
    """
    rows = batch.target
    if "relations" in spec:
        return "boards", len(rows)
    if "vocab_size" in spec:
        return "tokens", rows.numel()
    return ("pictures" if "image_size" in spec else "rows"), len(rows)


def measure(recipe: Mapping[str, Any], warm: int, rounds: int, side: int | None = None) -> tuple[Steps, dict[str, Any]]:
    """Measures a resolved recipe's training steps; all processes do so together, and each tells of itself."""
    check(recipe["fit"])
    with own_randomness(subseed(recipe["seed"], "global")):
        steps = Steps(recipe)
        fabric, half = steps.fabric, recipe["fit"].get("precision", "32-true") != "32-true"
        device = fabric.device
        begun = time.perf_counter()
        memory = machine.peak(lambda: steps.take(), device)  # two steps, which load what a first one loads
        for _ in range(max(warm - 2, 0)):
            steps.take()
        machine.wait(device)
        warmed = time.perf_counter() - begun
        fabric.barrier()
        begun = time.perf_counter()
        for _ in range(rounds):
            batch = steps.take()
        machine.wait(device)
        fabric.barrier()
        took = (time.perf_counter() - begun) / rounds
        clock = Clock(device)
        with inner_gradients(clock):
            for _ in range(rounds):
                steps.take(clock)
        with machine.Arithmetic() as arithmetic, Reads() as reads:
            steps.take()
        fabric.barrier()  # all multiply at once, as they train at once
        rates = {name: machine.matmul_rate(device, dtype, side) for name, dtype in machine.DTYPES.items()}
        fabric.barrier()
    unit, count = counted(batch, getattr(steps.task, "spec", {}))
    peak = rates["bfloat16" if half else "float32"]
    return steps, {
        "device": machine.name_of(device),
        "processes": fabric.world_size,
        "parameters": sum(p.numel() for p in steps.parameters),
        "unit": unit,
        "rate": count * fabric.world_size / took,
        "ms": 1e3 * took,
        "warm_up_s": warmed,
        "flops": arithmetic.flops,
        "share": arithmetic.flops / took / peak,
        "matmul": rates,
        "megabytes": memory,
        "parts": {name: clock.spent.get(name, 0.0) / rounds * 1e3 for name in PARTS},
        "host_reads": reads.count,
        "compiles": steps.compiles,
    }


def show(name: str, found: Mapping[str, Any]) -> None:
    """Prints what was measured."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=f"{name}, {found['device']}")
    total = sum(found["parts"].values()) or 1.0
    memory = "unknown" if found["megabytes"] is None else f"{found['megabytes']:,.0f} MB"
    rows = {
        f"{found['unit']} a second": f"{found['rate']:,.4g}",
        "a step": f"{found['ms']:,.4g} ms, of {found['processes']} process(es)",
        "arithmetic of a step": f"{found['flops'] / 1e9:,.3g} Gflop, {found['parameters']:,} parameters",
        "share of the products' rate": f"{found['share']:.1%}",
        **{f"products, {dtype}": f"{rate / 1e9:,.0f} Gflop/s" for dtype, rate in found["matmul"].items()},
        "peak memory, beyond the model's": memory,
        "host reads in a step": str(found["host_reads"]),
        **{part: f"{took:,.3g} ms, {took / total:.0%}" for part, took in found["parts"].items()},
    }
    for row in rows.items():
        table.add_row(*row)
    console = Console(width=100)
    console.print(table)
    if found["compiles"]:
        console.print(found["compiles"], highlight=False)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--recipe", required=True, help="a recipe's name or file; every other setting is as ebm run's")
    parser.add_argument("--rounds", type=int, default=20, help="steps that are timed (20)")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before, at least 2 (5)")
    parser.add_argument("--threads", type=int, help="torch's, of each process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers are written, too")
    options, settings = parser.parse_known_args(arguments)
    if options.rounds < 1 or options.warm_up < 2:
        parser.error(f"--rounds {options.rounds} --warm-up {options.warm_up}: at least 1 and 2")
    if options.json is not None and (options.json.exists() or not options.json.absolute().parent.is_dir()):
        raise SystemExit(f"--json {options.json}: name a new file in a folder that is there; none is replaced")
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        recipe = resolve(load(options.recipe), parse_settings(settings))
        steps, found = measure(recipe, options.warm_up, options.rounds)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if steps.fabric.global_rank == 0:
        show(options.recipe, found)
        if options.json is not None:
            write_text(options.json, json.dumps({"recipe": recipe, **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
