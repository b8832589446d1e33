"""A fake third-party plugin (this module), fake distributions that offer it or worse, and what tests of runs share.

`write_distribution` makes a package with metadata and entry points in a folder; `installed` puts the folder on `sys.path`,
`run_ebm` on a sub-process's. The plugin's components are tiny, so that a run takes a second.
"""

from __future__ import annotations

import importlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import ebm
from ebm.energies import MLPEnergy
from ebm.interfaces import Batch, Energy, Loss, Objective, Task
from ebm.registry import hookimpl, registry
from ebm.samplers import LangevinDynamics
from ebm.tasks import Points

HERE = Path(__file__).parent
REPOSITORY = Path(ebm.__file__).parents[1]


# ------------------------------------------------------------------------------------------------------- the fake plugin


class Quadric(Energy):
    """Scores y by a bowl around zero: E(y) = c |y|² / 2.

    Arguments:
        curvature: c, which trains.
        label: means nothing.
    """

    def __init__(self, curvature: float = 2.0, label: str = "bowl") -> None:
        super().__init__()
        self.curvature, self.label = nn.Parameter(torch.tensor(float(curvature))), label

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        return self.curvature * y.square().sum(-1) / 2


class Dropped(Energy):
    """Scores vectors by a network with dropout, which draws from torch's global generator; its batch norm has buffers.

    Arguments:
        dim: the length of y's last axis.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Dropout(0.5), nn.Linear(8, 1, bias=False))

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        return self.layers(y.reshape(-1, y.shape[-1])).reshape(y.shape[:-1])


class Still(Points):
    """Points whose chains start at a fixed place, so that reconstruction draws nothing; rows may weigh differently.

    Arguments:
        n: how many points there are.
        weighted: gives rows the weights 0, 1, 2, … in turn, and most to the first.
    """

    def __init__(self, n: int = 60, weighted: bool = False) -> None:
        super().__init__("moons", n)
        if weighted:
            rows = self.splits["train"]
            weight = (torch.arange(len(rows.target)) % 5).float()
            self.splits["train"] = rows._replace(weight=weight + 20.0 * (weight == 0))

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.full_like(batch.target, 0.5)


class Bare(Task):
    """A third party's task: its loader has no generator, so that making its iterator draws from torch's global one.

    Arguments:
        rows: how many rows there are.
    """

    def __init__(self, rows: int = 24) -> None:
        self.spec = {"dim": 2}
        self.data = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))

    def loader(self, split: str, batch_size: int, *, seed: int = 0, workers: int = 0) -> DataLoader[Batch]:
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(seed % 2**60)).tolist()
        return DataLoader(_Rows(self.data[order]), batch_size, collate_fn=_collate, num_workers=workers)

    def start(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(batch.target.shape, generator=generator)

    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        return (y - batch.target).square().mean(-1)

    def evaluate(
        self, predictor: Any, *, split: str = "test", limit: int | None = None, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        batch = Batch(self.data)
        return {"energy": predictor.score(batch, self.data).mean().item(), "draw": torch.rand((), generator=generator).item()}


class _Rows(Dataset[Tensor]):
    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


def _collate(rows: list[Tensor]) -> Batch:
    return Batch(torch.stack(rows))


class Around(Objective):
    """Wraps an objective and draws from Python's, NumPy's and torch's global generators, as third-party code may.

    Arguments:
        objective: what is trained with.
        noise: scales a factor of the loss that is drawn.
    """

    def __init__(self, objective: Objective, noise: float = 0.0) -> None:
        super().__init__()
        self.objective, self.noise = objective, noise

    @property
    def sampler(self) -> Any:
        return self.objective.sampler

    def forward(self, energy: Any, batch: Batch, *, start: Any = None, generator: torch.Generator | None = None) -> Loss:
        loss = self.objective(energy, batch, start=start, generator=generator)
        factor = 1 + self.noise * (random.random() + float(np.random.rand()) + torch.rand(()))
        return Loss(factor * loss.value, {**loss.terms, "factor": torch.as_tensor(factor)})


# A recipe but for its summary and [fit]: contrastive divergence with a replay buffer, whose steps wait.
WAITING = """
[task]
use = "points"
name = "moons"
n = 60

[energy]
use = "mlp"
hidden = [8]

[objective]
use = "waiting"

[objective.objective]
use = "contrastive-divergence"
start = "noise"

[objective.objective.sampler]
use = "replay"
capacity = 16

[objective.objective.sampler.sampler]
use = "langevin"
step_size = 0.1
steps = 2
"""


class Waiting(Around):
    """Waits at its call number EBM_TEST_WAIT_AT until the file EBM_TEST_GO exists, so that a signal can come meanwhile.

    Arguments:
        objective: what is trained with.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__(objective)
        self.calls = 0

    def forward(self, energy: Any, batch: Batch, *, start: Any = None, generator: torch.Generator | None = None) -> Loss:
        self.calls += 1
        if str(self.calls) == os.environ.get("EBM_TEST_WAIT_AT"):
            print("waiting", flush=True)
            while not os.path.exists(os.environ["EBM_TEST_GO"]):
                time.sleep(0.002)
        return super().forward(energy, batch, start=start, generator=generator)


@hookimpl
def ebm_energies() -> Mapping[str, Callable[..., Any]]:
    return {"quadric": Quadric, "dropped": Dropped}


@hookimpl
def ebm_objectives() -> Mapping[str, Callable[..., Any]]:
    return {"around": Around, "waiting": Waiting}


@hookimpl
def ebm_tasks() -> Mapping[str, Callable[..., Any]]:
    return {"still": Still, "bare": Bare}


# ---------------------------------------------------------------------------------------------------- fake distributions


def write_distribution(folder: Path, name: str, source: str | None = None, entry: str | None = None) -> Path:
    """Writes a distribution as an installer would leave it: a package (none without `source`) and its metadata.

    `entry` is what its entry point in the group `ebm` points at; by default the package.
    """
    package = name.replace("-", "_")
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ebm]\nmine = {entry or package}\n")
    if source is not None:
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(source)
    return folder


def offering(kind: str, name: str, value: str = "lambda: 0") -> str:
    """Writes a plugin's source that offers one component."""
    return f"from ebm.registry import hookimpl\n\n@hookimpl\ndef {kind}():\n    return {{{name!r}: {value}}}\n"


@contextmanager
def installed(*folders: Path) -> Iterator[None]:
    """Puts folders of distributions on sys.path, with a registry that has not looked yet; afterwards all is as it was."""
    path, modules = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(folder) for folder in folders]
    importlib.invalidate_caches()
    registry.cache_clear()
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if any(str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)) for folder in folders):
                del sys.modules[name]
        registry.cache_clear()


def environment(*folders: Path, **variables: str) -> dict[str, str]:
    """Makes a sub-process's environment: folders of distributions, one thread, no network."""
    path = os.pathsep.join(map(str, (*folders, REPOSITORY)))
    fixed = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **fixed, **variables}


def run_python(*arguments: str, cwd: Path, folders: tuple[Path, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a sub-process to its end."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment(*folders, **variables), capture_output=True, text=True
    )


# ------------------------------------------------------------------------------------------------------- what runs leave


def written(folder: Path, step: int) -> dict[str, bytes]:
    """Reads everything that two equal runs agree on to the byte: the checkpoint of a step, metrics, recipe and report."""
    names = ["metrics.csv", "metrics.json", "report.html", "recipe.toml", "run.json"]
    paths = [folder / name for name in names] + sorted((folder / "checkpoints" / f"step-{step:09d}").iterdir())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.exists()}


def assert_same(found: Mapping[str, bytes], expected: Mapping[str, bytes]) -> None:
    """Compares what two runs wrote, and names the files that differ rather than showing them."""
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def quick_report(monkeypatch: Any) -> None:
    """Replaces the report by a few words, since pictures take longer than a tiny run."""

    def write(run: Any, seed: int, *words: str, **_: Any) -> None:
        (run.path / "report.html").write_text(f"seed {seed}, {run.metrics}, {words}\n{(run.path / 'metrics.csv').read_text()}")

    monkeypatch.setattr("ebm.training.finish.write_report", write)


class Interrupted(Exception):
    """What stops a run in a test."""


def interrupting(at: int, action: Callable[[], Any]) -> Callable[[Any], Any]:
    """Makes an objective do something in the middle of its call number `at`, once what it has drawn cannot be undone."""

    def wrap(objective: Any) -> Any:
        usual, calls = objective.forward, []

        def forward(*args: Any, **keywords: Any) -> Any:
            loss = usual(*args, **keywords)
            calls.append(1)
            if len(calls) == at:
                action()
            return loss

        objective.forward = forward
        return objective

    return wrap


def fail() -> None:
    raise Interrupted


def mlp(dtype: torch.dtype = torch.float32, seed: int = 0) -> MLPEnergy:
    """Makes a tiny energy of the plane, from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLPEnergy(2, hidden=(8,)).to(dtype)


def langevin(steps: int = 3) -> LangevinDynamics:
    return LangevinDynamics(step_size=0.1, steps=steps)


def parameters(*parts: Any) -> list[Tensor]:
    """Copies the parameters of energies and objectives."""
    return [p.detach().clone() for part in parts for p in part.parameters()]
