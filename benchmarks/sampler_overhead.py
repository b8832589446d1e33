"""Times one Langevin step through the toolkit, all its checks on, against a hand-written loop and against other libraries.

    python benchmarks/sampler_overhead.py --rival torchebm=PYTHON --rival ebmkit=PYTHON

where PYTHON is the interpreter of an environment that has the rival (see README.md here). Every library gets a process of
its own, which holds the same problems and, beside the library, the loop: two processes that run the very same code differ by
several per cent, so a library is compared with the loop in its own process. Only one works at a time: in each round the driver
asks all in turn for a block of steps, and a ratio is that of two blocks a moment apart. First, a fixed seed shows that all take
the same steps.

Exit code 1: the toolkit takes more than 1.10 times the loop's time, or measurably more than a rival's.
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
from typing import Any

import torch
from torch import Tensor, nn

LIMIT = 1.10  # of the hand-written loop's time
STEP_SIZE = 0.01
SIGMA = math.sqrt(2 * STEP_SIZE)

# -------------------------------------------------------------------------------------------------------------- problems

ANGLES = 2 * math.pi * torch.arange(8) / 8
MEANS = 3 * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=-1)
VARIANCE = 0.25


def mixture(y: Tensor) -> Tensor:
    """Eight Gaussians on a ring, expanded so that the chains meet the means in one matrix product: the fast way to write it."""
    scores = y @ (MEANS.T / VARIANCE) - MEANS.square().sum(-1) / (2 * VARIANCE)
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


def problems() -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    torch.manual_seed(0)
    return {"mixture": (mixture, torch.randn(10_000, 2)), "conv": (Conv().eval(), torch.randn(64, 1, 28, 28))}


STEPS = {"mixture": 100, "conv": 20}  # a block takes some 50 ms: far above the clock's grain, well below a machine's moods

# ----------------------------------------------------------------------------------- contestants: energy -> (y, steps) -> y

Run = Callable[[Tensor, int], Tensor]


def loop(energy: Callable[[Tensor], Tensor]) -> Run:
    def run(y: Tensor, steps: int) -> Tensor:
        for _ in range(steps):
            y = y.detach().requires_grad_()
            (grad,) = torch.autograd.grad(energy(y).sum(), y)
            y = y.detach() - STEP_SIZE * grad + SIGMA * torch.randn_like(y)
        return y

    return run


def ebm(energy: Callable[[Tensor], Tensor]) -> Run:
    from ebm.samplers import LangevinDynamics

    sampler = LangevinDynamics(step_size=STEP_SIZE)
    return lambda y, steps: sampler.sample(energy, y, steps=steps)


def ebmkit(energy: Callable[[Tensor], Tensor]) -> Run:
    from ebm.samplers import LangevinDynamics  # this package takes our import name

    sampler = LangevinDynamics(step_size=STEP_SIZE)
    return lambda y, steps: sampler.sample(energy, y, steps=steps)


def torchebm(energy: Callable[[Tensor], Tensor]) -> Run:
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


LIBRARIES = {"ebm": ebm, "torchebm": torchebm, "ebmkit": ebmkit}


def work(library: str, threads: int) -> None:
    """Answers the driver's lines `contestant problem steps seed` with `[seconds, a digest of where the chains ended]`."""
    torch.set_num_threads(threads)
    held = problems()
    runs = {
        (contestant, problem): make(energy)
        for contestant, make in (("loop", loop), (library, LIBRARIES[library]))
        for problem, (energy, _) in held.items()
    }
    for line in sys.stdin:
        contestant, problem, steps, seed = line.split()
        torch.manual_seed(int(seed))
        start = time.perf_counter()
        y = runs[contestant, problem](held[problem][1], int(steps))
        seconds = time.perf_counter() - start
        print(json.dumps([seconds, [y.mean().item(), y.std().item(), y.flatten()[0].item()]]), flush=True)


# ---------------------------------------------------------------------------------------------------------------- driver


class Worker:
    """The process of one library, and of a hand-written loop to compare it with; idle, it waits for a line on its pipe."""

    def __init__(self, library: str, python: str, threads: int) -> None:
        # A rival must not find our `ebm` where ebmkit's is meant.
        environment = {key: value for key, value in os.environ.items() if library == "ebm" or key != "PYTHONPATH"}
        command = [python, os.path.abspath(__file__), "--worker", library, "--threads", str(threads)]
        pipe: Any = subprocess.PIPE
        self.library = library
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def ask(self, contestant: str, problem: str, steps: int, seed: int) -> tuple[float, list[float]]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{contestant} {problem} {steps} {seed}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"the worker of {self.library} ended with code {self.process.wait()}: its error is above")
        seconds, digest = json.loads(answer)
        return seconds, digest


def race(problem: str, workers: list[Worker], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Times blocks of steps, each contestant in turn: microseconds per step of (library, the loop beside it), by library."""
    for worker in workers:
        ours, plain = (worker.ask(contestant, problem, 5, 0)[1] for contestant in (worker.library, "loop"))
        if not all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-4) for a, b in zip(ours, plain, strict=True)):
            raise SystemExit(f"{problem}: {worker.library} takes other steps than the loop: they end at {ours} and {plain}")
    times: dict[str, list[tuple[float, float]]] = {worker.library: [] for worker in workers}
    for turn in range(-2, rounds):  # two rounds to warm up
        shift = turn % len(workers)  # nobody always goes first
        for worker in workers[shift:] + workers[:shift]:
            order = (worker.library, "loop") if turn % 2 else ("loop", worker.library)
            block = {who: 1e6 * worker.ask(who, problem, STEPS[problem], turn + 2)[0] / STEPS[problem] for who in order}
            if turn >= 0:
                times[worker.library].append((block[worker.library], block["loop"]))
    return times


def interval(values: list[float]) -> tuple[float, float]:
    """Brackets the median with 95% confidence, whatever the distribution: between two order statistics."""
    values, reach = sorted(values), 0.98 * math.sqrt(len(values))
    return values[max(math.floor(len(values) / 2 - reach), 0)], values[min(math.ceil(len(values) / 2 + reach), len(values) - 1)]


def report(problem: str, times: dict[str, list[tuple[float, float]]]) -> bool:
    """Prints one problem's table, and says whether the toolkit met its bar."""
    print(f"\n{problem:10}us/step  its loop | ratio to its loop: median, quartiles, range | ebm's ratio to this ratio: median, 95%")
    ratios = {library: [mine / plain for mine, plain in pairs] for library, pairs in times.items()}
    met = median(ratios["ebm"]) <= LIMIT
    for library, to_loop in ratios.items():
        mine, plain = (median(column) for column in zip(*times[library], strict=True))
        low, _, high = quantiles(to_loop, n=4)
        line = f"{library:10}{mine:7.1f}  {plain:8.1f} | {median(to_loop):.3f}   {low:.3f}-{high:.3f}   {min(to_loop):.3f}-{max(to_loop):.3f}"
        if library == "ebm":
            print(f"{line}           | at most {LIMIT:.2f} of the loop: {'ok' if met else 'FAILED'}")
            continue
        of_ours = [a / b for a, b in zip(ratios["ebm"], to_loop, strict=True)]
        low, high = interval(of_ours)
        met = met and low <= 1
        print(f"{line}           | {median(of_ours):.3f}   {low:.3f}-{high:.3f}   {'ok' if low <= 1 else 'FAILED'}")
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", action="append", default=[], metavar="NAME=PYTHON", help="torchebm=... or ebmkit=...")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2, help="torch's threads in every worker (2)")
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, options.threads)
    rivals = dict(rival.split("=", 1) for rival in options.rival)
    if unknown := rivals.keys() - {"torchebm", "ebmkit"}:
        parser.error(f"unknown rival {sorted(unknown)}: torchebm and ebmkit are known")
    workers = [Worker(library, python, options.threads) for library, python in {"ebm": sys.executable, **rivals}.items()]
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.rounds} rounds, steps in a block: {STEPS}")
    met = [report(problem, race(problem, workers, options.rounds)) for problem in STEPS]
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
