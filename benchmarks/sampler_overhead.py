"""Times a Langevin step through the toolkit, all its checks on, against a hand-written loop and against other libraries.

    python benchmarks/sampler_overhead.py --rival torchebm=PYTHON --rival ebmkit=PYTHON --threads 1 2

where PYTHON is the interpreter of an environment that has the rival (see README.md here). Every library gets a process of
its own, which holds the same energies and, beside the library, the loop: two processes running the very same code differ by
several per cent, so a library is compared with the loop of its own process. Only one works at a time: in each round the
driver asks all in turn for a block of steps, and a ratio is that of two blocks a moment apart. First, a fixed seed shows
that all take the same steps.

Exit code 1: the toolkit takes more than 1.10 times the loop's time, or measurably more than a rival (relative to the loop:
the 95% interval of the median lies above 1); or a ratio is more than a tenth below the one recorded in sampler_overhead.json
(`--record` writes that file).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import IO, Any, cast

import torch
from recorded import Recorded
from torch import Tensor, nn

LIMIT = 1.10  # of the hand-written loop's time
STEP_SIZE = 0.01
SIGMA = math.sqrt(2 * STEP_SIZE)
BLOCK = {"mixture": 50, "conv": 10}  # steps: some 30 ms, far above the clock's grain and well below a machine's moods

# -------------------------------------------------------------------------------------------------------------- energies

EnergyFn = Callable[[Tensor], Tensor]
ANGLES = 2 * math.pi * torch.arange(8) / 8
MEANS = 3 * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=-1)
VARIANCE = 0.25


def mixture(y: Tensor, means: Tensor = MEANS) -> Tensor:
    """Eight Gaussians on a ring, with the square expanded: one matrix product, which is the fast way to write it."""
    scores = y @ (means.T / VARIANCE) - means.square().sum(-1) / (2 * VARIANCE)
    return y.square().sum(-1) / (2 * VARIANCE) - torch.logsumexp(scores, dim=-1)


class Conv(nn.Module):
    """A small convolutional energy of 1x28x28 images."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 1, bias=False))

    def forward(self, y: Tensor) -> Tensor:
        return self.net(y).squeeze(-1)


def problems() -> dict[str, tuple[EnergyFn, Tensor]]:
    torch.manual_seed(0)
    return {"mixture": (mixture, torch.randn(10_000, 2)), "conv": (Conv().eval(), torch.randn(64, 1, 28, 28))}


# ----------------------------------------------------------------------------------- contestants: energy -> (y, steps) -> y

Run = Callable[[Tensor, int], Tensor]


def loop(energy: EnergyFn) -> Run:
    def run(y: Tensor, steps: int) -> Tensor:
        for _ in range(steps):
            y = y.detach().requires_grad_()
            (grad,) = torch.autograd.grad(energy(y).sum(), y)
            y = y.detach() - STEP_SIZE * grad + SIGMA * torch.randn_like(y)
        return y

    return run


def ebm(energy: EnergyFn) -> Run:
    """Serves for ebmkit as well: in its environment it is ebmkit that answers to the name `ebm`, and it is called alike."""
    from ebm.samplers import LangevinDynamics

    sampler = LangevinDynamics(step_size=STEP_SIZE)
    return lambda y, steps: sampler.sample(energy, y, steps=steps)


def torchebm(energy: EnergyFn) -> Run:
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__(device="cpu")
            self.energy = energy

        def forward(self, x: Tensor) -> Tensor:
            return self.energy(x)

    sampler = LangevinDynamics(Model(), step_size=STEP_SIZE, noise_scale=1.0, device="cpu")
    return lambda y, steps: sampler.sample(x=y, n_steps=steps)


LIBRARIES = {"ebm": ebm, "torchebm": torchebm, "ebmkit": ebm}


def work(library: str, threads: int) -> None:
    """Answers the driver's lines `library-or-loop problem steps seed` with `[seconds, digest of where the chains ended]`."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter  # one thread's own time leaves the neighbours' out
    held = problems()
    makers = {library: LIBRARIES[library], "loop": loop}
    runs = {(who, what): make(held[what][0]) for who, make in makers.items() for what in held}
    for line in sys.stdin:
        who, what, steps, seed = line.split()
        torch.manual_seed(int(seed))
        start = clock()
        y = runs[who, what](held[what][1], int(steps))
        seconds = clock() - start
        print(json.dumps([seconds, [y.mean().item(), y.std().item(), y.flatten()[0].item()]]), flush=True)


# ---------------------------------------------------------------------------------------------------------------- driver


class Worker:
    """The process of one library and of the loop beside it; idle, it waits for a line on its pipe."""

    def __init__(self, library: str, python: str, threads: int) -> None:
        environment = os.environ | {
            # Without these, glibc hands memory back to the system and faults it in again in the middle of steps, which in a
            # convolutional step costs up to a quarter of the time, more in one process than in the next.
            "MALLOC_TRIM_THRESHOLD_": str(2**30),
            "MALLOC_MMAP_THRESHOLD_": str(2**30),
        }
        if library != "ebm":
            environment.pop("PYTHONPATH", None)  # which may lead to our `ebm` where ebmkit's is meant
        command = [python, os.path.abspath(__file__), "--worker", library, "--threads", str(threads)]
        self.library = library
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, who: str, what: str, steps: int, seed: int) -> tuple[float, list[float]]:
        print(who, what, steps, seed, file=self.process.stdin, flush=True)
        answer = cast(IO[str], self.process.stdout).readline()
        if not answer:
            raise SystemExit(f"the worker of {self.library} ended with code {self.process.wait()}: its error is above")
        seconds, digest = json.loads(answer)
        return seconds, digest

    def end(self) -> None:
        cast(IO[str], self.process.stdin).close()
        self.process.wait()


def race(what: str, workers: list[Worker], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Times blocks of steps, all in turn: by library, microseconds per step of (the library, the loop beside it)."""
    for worker in workers:
        mine, plain = (worker.ask(who, what, 5, 0)[1] for who in (worker.library, "loop"))
        if not all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-4) for a, b in zip(mine, plain, strict=True)):
            raise SystemExit(f"{what}: {worker.library} takes other steps than the loop: they end at {mine} and {plain}")
    times: dict[str, list[tuple[float, float]]] = {worker.library: [] for worker in workers}
    for turn in range(-2, rounds):  # two rounds to warm up
        shift = turn % len(workers)  # nobody always goes first
        for worker in workers[shift:] + workers[:shift]:
            order = (worker.library, "loop") if turn % 2 else ("loop", worker.library)
            took = {who: 1e6 * worker.ask(who, what, BLOCK[what], turn + 2)[0] / BLOCK[what] for who in order}
            if turn >= 0:
                times[worker.library].append((took[worker.library], took["loop"]))
    return times


def report(what: str, threads: int, times: dict[str, list[tuple[float, float]]], recorded: Recorded) -> bool:
    """Prints one problem's table, and says whether the toolkit met its bar."""
    what = f"{what}, threads {threads}"
    ratios = {library: [mine / plain for mine, plain in pairs] for library, pairs in times.items()}
    met = median(ratios["ebm"]) <= LIMIT
    print(f"\n{what}\n          us/step  its loop's | to its loop: median, quartiles, range  | ebm to this: median, 95% interval")
    for library, values in ratios.items():
        mine, plain = (median(column) for column in zip(*times[library], strict=True))
        low, _, high = quantiles(values, n=4)
        line = f"{library:8} {mine:8.1f} {plain:11.1f} | {median(values):.3f}  {low:.3f}-{high:.3f}"
        line += f"  {min(values):5.3f}-{max(values):5.3f}      | "
        if library == "ebm":
            recorded.see(f"loop / ebm, {what}", 1 / median(values))
            print(f"{line}at most {LIMIT:.2f} of the loop: {'met' if met else 'MISSED'}")
            continue
        ours = sorted(a / b for a, b in zip(ratios["ebm"], values, strict=True))
        reach = math.ceil(0.98 * math.sqrt(len(ours)))  # the median's interval lies between two order statistics
        low, high = ours[max(len(ours) // 2 - reach, 0)], ours[min(len(ours) // 2 + reach, len(ours) - 1)]
        met = met and low <= 1
        recorded.see(f"{library} / ebm, {what}", 1 / median(ours))
        print(f"{line}{median(ours):.3f}  {low:.3f}-{high:.3f}  no more than it: {'met' if low <= 1 else 'MISSED'}")
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", action="append", default=[], metavar="NAME=PYTHON", help="torchebm=... or ebmkit=...")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="torch's threads in every worker, in turn (1)")
    parser.add_argument("--record", action="store_true", help="write the ratios into sampler_overhead.json")
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, options.threads[0])
    pythons: dict[str, Any] = {"ebm": sys.executable, **dict(rival.partition("=")[::2] for rival in options.rival)}
    if not pythons.keys() <= LIBRARIES.keys() or not all(pythons.values()):
        parser.error(f"--rival {options.rival}: pass torchebm=PYTHON or ebmkit=PYTHON")
    recorded, met = Recorded(__file__, options.record), True
    print(f"torch {torch.__version__}, {options.rounds} rounds, steps in a block: {BLOCK}")
    for threads in options.threads:
        workers = [Worker(library, python, threads) for library, python in pythons.items()]
        met = all([report(what, threads, race(what, workers, options.rounds), recorded) for what in BLOCK]) and met
        for worker in workers:
            worker.end()
    sys.exit(recorded.end() or int(not met))


if __name__ == "__main__":
    main()
