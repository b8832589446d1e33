"""How much memory a process takes at its highest with sharded weights, of what one process takes alone.

    python benchmarks/sharding.py                       # 1000 MB of weights, four processes on this CPU: 14 GB of memory
    python benchmarks/sharding.py --megabytes 250

An energy of square matrices, next to nothing but weights, learns by reconstruction through two steps
with Adam: by one process, and by several under torchrun with `strategy="fsdp"`. Exits with 1 where the
highest of them takes more than 0.45 of the one, which is its bar from 1000 MB of weights on: below,
Python and its libraries are much of both.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import ebm
from ebm.interfaces import Batch, Energy, Task
from ebm.objectives import Reconstruction
from ebm.samplers import GradientDescent

BAR, ENOUGH = 0.45, 1000  # from how many MB of weights on it is meant
SIDE = 2048  # of each matrix: 16 MB


class Matrices(Energy):
    """E(y) = sum tanh(W_n … tanh(W_1 y))."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, SIDE, bias=False)
        self.layers = nn.ModuleList([nn.Linear(SIDE, SIDE, bias=False) for _ in range(count)])

    def forward(self, y: Tensor, code: None = None) -> Tensor:
        found = self.first(y).tanh()
        for layer in self.layers:
            found = layer(found).tanh()
        return found.sum(-1)


class Rows(Task):
    """Eight rows of three numbers, of which no report draws a picture."""

    spec: ClassVar[dict[str, Any]] = {"dim": 3}

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> Any:
        return DataLoader(range(8), batch_size, collate_fn=lambda rows: Batch(torch.tensor(rows)[:, None] / torch.ones(3)))

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros_like(batch.target)

    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        return (y - batch.target).square().mean(-1)


def process(megabytes: int, folder: Path) -> None:
    """Trains in this process, which may be one of several, and leaves its highest memory."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    how: dict[str, Any] = {"accelerator": "cpu"} | ({"strategy": "fsdp", "devices": ranks} if ranks > 1 else {})
    energy = Matrices(max(1, round(megabytes / (SIDE * SIDE * 4 / 2**20))))
    objective = Reconstruction(GradientDescent(0.1, steps=2), Rows())
    how |= {"steps": 2, "batch_size": 8, "optimizer": "adam", "lr": 1e-6, "log_every": 1, "evaluate_limit": 8}
    out = folder / f"run-{ranks}"
    ebm.fit(energy, objective, Rows(), out=out, **how)
    highest = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    (folder / f"{ranks}-{rank}.peak").write_text(str(int(highest.split()[1]) / 1024))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=ENOUGH, help="of weights")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.folder:
        process(asked.megabytes, asked.folder)
        return 0
    with tempfile.TemporaryDirectory() as made:
        this = [__file__, "--megabytes", str(asked.megabytes), "--folder", made]
        many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(asked.processes)]
        for how in ([], many):
            subprocess.run([sys.executable, *how, *this], check=True, stdout=subprocess.DEVNULL)
        read = {path.stem: float(path.read_text()) for path in Path(made).glob("*.peak")}
    alone = read.pop("1-0")
    highest = max(read.values())
    print(f"{asked.megabytes} MB of weights: {alone:,.0f} MB by one process, at most {highest:,.0f} by each of {asked.processes}")
    print(f"of it: {highest / alone:.3f} (bar {BAR} from {ENOUGH} MB of weights on)")
    return int(asked.megabytes >= ENOUGH and highest > BAR * alone)


if __name__ == "__main__":
    sys.exit(main())
