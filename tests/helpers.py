"""What the laws share: settings, seeded draws, energies with every complication, examples of registered components."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ebm
from ebm.interfaces import Batch, Energy, Objective, Sampler

CORE = "ebm-toolkit"

# derandomize: the same examples at every run, so that a law never fails by bad luck.
laws = settings(deadline=None, derandomize=True, max_examples=15, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 2**31 - 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def parameter(*values: float) -> nn.Parameter:
    """A learnable number (one value) or vector, in float64."""
    return nn.Parameter(torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64))


def quadratic(y: Tensor) -> Tensor:
    return y.square().sum(-1) / 2


def gradient(function: Callable[[Tensor], Tensor], y: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of a scalar function by central differences, one entry after the other."""
    result, flat = torch.zeros_like(y), y.detach().clone()
    for index in range(y.numel()):
        entry = flat.view(-1)[index].item()
        ends = []
        for sign in (1, -1):
            flat.view(-1)[index] = entry + sign * step
            ends.append(float(function(flat)))
        flat.view(-1)[index] = entry
        result.view(-1)[index] = (ends[0] - ends[1]) / (2 * step)
    return result


def grads(value: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Gradients of a scalar, zero where there is none; the graph stays."""
    found = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(one) if grad is None else grad for one, grad in zip(inputs, found, strict=True)]


def close(got: Any, expected: Any, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)


# -------------------------------------------------------------------------------------------------------------- energies


class Valley(Energy):
    """E_l(y | c) = |y|²/2 + a_l Σ tanh(y U + c W), smooth, with parameters, a context that may be None, and landscapes."""

    def __init__(self, dim: int = 2, context_dim: int = 3, levels: int = 1, seed: int = 0) -> None:
        super().__init__()
        self.levels = levels
        self.inner = nn.Parameter(normal(dim, 4, seed=seed))
        self.outer = nn.Parameter(normal(context_dim, 4, seed=seed + 1))
        self.heights = nn.Parameter(1 + normal(levels, seed=seed + 2) / 4)

    def encode(self, context=None, level=-1):
        return (None if context is None else context @ self.outer), self.heights[level]

    def forward(self, y, code=None):
        shift, height = (None, self.heights[-1]) if code is None else code
        hidden = y @ self.inner if shift is None else y @ self.inner + shift
        return y.square().sum(-1) / 2 + height * hidden.tanh().sum(-1)


class Restless(Energy):
    """Has all that sampling must leave alone: batch statistics, dropout in its encoder and in its forward, mixed modes."""

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.body = nn.Sequential(nn.Linear(dim, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1, bias=False))
        self.double()
        self.body[0].eval()  # modes are mixed on purpose

    def encode(self, context=None, level=-1):
        return 0.0 if context is None else self.encoder(context).sum(-1)

    def forward(self, y, code=None):
        flat = y.reshape(-1, y.shape[-1])
        return y.square().sum(-1) / 2 + self.body(flat).reshape(y.shape[:-1]) + (0.0 if code is None else code)

    def everything(self) -> tuple[list[bool], dict[str, Tensor], list[Any]]:
        """Modes, values and gradients, to be compared before and after."""
        modes = [module.training for module in self.modules()]
        return modes, {k: v.clone() for k, v in self.state_dict().items()}, [p.grad for p in self.parameters()]

    def untouched_since(self, before: tuple[list[bool], dict[str, Tensor], list[Any]]) -> bool:
        modes, values, held = self.everything()
        return modes == before[0] and all(torch.equal(values[k], before[1][k]) for k in values) and held == before[2]


# -------------------------------------------------------------------------------------------------------------- examples


def langevin(**keywords: Any) -> Sampler:
    return ebm.build("sampler", "langevin", **{"step_size": 0.02, "steps": 4, **keywords})


def descent(**keywords: Any) -> Sampler:
    return ebm.build("sampler", "gradient-descent", **{"step_size": 0.02, "steps": 4, **keywords})


def mala(**keywords: Any) -> Sampler:
    return ebm.build("sampler", "mala", **{"step_size": 0.05, "steps": 4, **keywords})


FALLING_TO_ONE = {"schedule": "linear", "start": 1.5, "end": 1.0, "steps": 3}
FALLING = {"schedule": "linear", "start": 0.04, "end": 0.01, "steps": 5}


def mirror(**keywords: Any) -> Sampler:
    return ebm.build("sampler", "mirror-descent", **{"step_size": 0.2, "steps": 4, **keywords})


# "registered name/variant" -> keywords: every sampler law runs over them.
SAMPLERS: dict[str, Callable[[], dict[str, Any]]] = {
    "gradient-descent": lambda: {"step_size": 0.02, "steps": 4},
    "gradient-descent/momentum": lambda: {"step_size": 0.01, "steps": 4, "momentum": 0.7},
    "gradient-descent/nesterov": lambda: {"step_size": 0.01, "steps": 4, "momentum": 0.7, "nesterov": True},
    "gradient-descent/softmax": lambda: {"step_size": 0.5, "steps": 4, "retraction": "softmax"},
    "gradient-descent/noise": lambda: {"step_size": 0.02, "steps": 4, "noise_std": 0.1, "retraction": "clamp"},
    "gradient-descent/clip": lambda: {"step_size": 0.02, "steps": 4, "grad_clip": 0.3},
    "gradient-descent/scale": lambda: {"step_size": 0.02, "steps": 4, "step_scale": 2.0},
    "gradient-descent/schedule": lambda: {"step_size": FALLING, "steps": 4},
    "gradient-descent/learnable": lambda: {"step_size": 0.02, "steps": 4, "learnable": True},
    "gradient-descent/noise-in-training": lambda: {"step_size": 0.02, "steps": 4, "noise_std": 0.1, "noise_in": "train"},
    "mirror-descent": lambda: {"step_size": 0.5, "steps": 4},
    "mirror-descent/momentum": lambda: {"step_size": 0.1, "steps": 4, "momentum": 0.5, "hidden": 1},
    "mirror-descent/noise": lambda: {"step_size": 0.2, "steps": 4, "noise_std": 0.1, "step_scale": 2.0, "learnable": True},
    "basin-hopping": lambda: {"sampler": descent(), "every": 2},
    "basin-hopping/mirror": lambda: {"sampler": mirror(steps=8), "every": 2, "share": 1.0, "scale": 3.0},
    "cooled": lambda: {"sampler": mirror(), "temperature": FALLING_TO_ONE},
    "langevin": lambda: {"step_size": 0.02, "steps": 4},
    "langevin/cold": lambda: {"step_size": 0.02, "steps": 4, "temperature": 0.0},
    "langevin/decoupled": lambda: {"step_size": 0.02, "steps": 4, "noise_std": 0.005},
    "langevin/schedule": lambda: {"step_size": FALLING, "steps": 4, "temperature": lambda t: 1 / (1 + t)},
    "langevin/scale": lambda: {"step_size": 0.02, "steps": 4, "step_scale": 1.5},
    "mala": lambda: {"step_size": 0.05, "steps": 4},
    "mala/schedule": lambda: {"step_size": FALLING, "steps": 4, "temperature": 2.0},
    "mala/scale": lambda: {"step_size": 0.05, "steps": 4, "step_scale": 2.0},
    "mala/preconditioned": lambda: {"step_size": 0.05, "steps": 4, "preconditioner": 2.0},
    "random-walk": lambda: {"step_size": 0.2, "steps": 4},
    "random-walk/scale": lambda: {"step_size": FALLING, "steps": 4, "covariance": 2.0, "temperature": 2.0, "step_scale": 2.0},
    "slice": lambda: {"step_size": 0.5, "steps": 4},
    "slice/scale": lambda: {"step_size": 3.0, "steps": 4, "grow": 1, "temperature": 0.5, "step_scale": 1.5},
    "hmc": lambda: {"step_size": 0.3, "steps": 4, "leapfrog_steps": 3},
    "hmc/scale": lambda: {"step_size": 0.2, "steps": 4, "leapfrog_steps": 2, "temperature": 2.0, "step_scale": 1.5},
    "nuts": lambda: {"step_size": 0.4, "steps": 4, "max_depth": 5},
    "nuts/scale": lambda: {"step_size": FALLING, "steps": 4, "max_depth": 3, "step_scale": 2.0},
    "monotone": lambda: {"sampler": descent(momentum=0.5)},
    "monotone/halvings": lambda: {"sampler": descent(step_size=2.0), "halvings": 3},
    "monotone/langevin": lambda: {"sampler": langevin(step_scale=2.0)},
    "annealed": lambda: {"sampler": langevin(), "temperatures": [2.0, 1.0], "step_scales": [2.0, 1.0]},
    "annealed/one": lambda: {"sampler": descent(momentum=0.5), "step_scales": [0.5]},
    "recovery": lambda: {"sampler": langevin(step_size=0.1), "sigma": 0.4},
    "recovery/mala": lambda: {"sampler": mala(), "sigma": 0.4},
    "underdamped-langevin": lambda: {"step_size": 0.2, "steps": 4},
    "underdamped-langevin/mass": lambda: {"step_size": 0.2, "steps": 4, "mass": torch.tensor(2.0), "friction": 3.0},
    "underdamped-langevin/cold": lambda: {"step_size": FALLING, "steps": 4, "temperature": 0.0},
    "underdamped-langevin/scale": lambda: {"step_size": 0.1, "steps": 4, "step_scale": 2.0, "learnable": True},
    "preconditioned-langevin": lambda: {"preconditioner": 0.5, "step_size": 0.04, "steps": 4},
    "preconditioned-langevin/cold": lambda: {"preconditioner": 2.0, "step_size": FALLING, "steps": 4, "temperature": 0.0},
    "rmsprop-langevin": lambda: {"step_size": 0.01, "steps": 4},
    "rmsprop-langevin/cold": lambda: {"step_size": 0.01, "steps": 4, "temperature": 0.0, "decay": 0.9},
    "stein": lambda: {"step_size": 0.1, "steps": 4},
    "stein/bandwidth": lambda: {"step_size": 0.05, "steps": 4, "bandwidth": 0.7, "learnable": True},
    "parallel-tempering": lambda: {"sampler": mala(), "temperatures": (1.0, 2.0)},
    "parallel-tempering/scale": lambda: {"sampler": mala(step_scale=1.5), "temperatures": (1.0, 1.5, 2.0)},
    "tempered-transitions": lambda: {"sampler": mala(), "temperatures": (1.0, 1.5, 2.0)},
    "tempered-transitions/scale": lambda: {"sampler": mala(step_scale=1.5), "temperatures": (1.0, 2.0), "moves": 2},
    "predictor-corrector": lambda: {"sampler": langevin(), "sigma": 1.0},
    "structured": lambda: {"sampler": mala(step_scale=1.5)},
    "compiled": lambda: {"sampler": mala(step_scale=1.5), "together": 1, "backend": "eager"},
    "conditioned": lambda: {"sampler": langevin(step_scale=1.5), "still": False},
    "conditioned/mala": lambda: {"sampler": mala(), "still": False},
    "replay": lambda: {"sampler": langevin(), "capacity": 8},
    "replay/mala": lambda: {"sampler": mala(), "capacity": 8},
}


def sampler(label: str) -> Sampler:
    return ebm.build("sampler", label.partition("/")[0], **SAMPLERS[label]())


def squared(y: Tensor, batch: Batch) -> Tensor:
    return (y - batch.target).square().sum(-1)


def from_noise(batch: Batch, generator: torch.Generator | None = None) -> Tensor:
    return torch.randn(batch.target.shape, generator=generator, dtype=batch.target.dtype)


def reconstruction(**keywords: Any) -> dict[str, Any]:
    return {"sampler": descent(step_size=0.1, learnable=True), "start": from_noise, "distance": squared, **keywords}


def contrastive(**keywords: Any) -> dict[str, Any]:
    return {"sampler": langevin(step_size=0.05), **keywords}


# Likewise of objectives.
OBJECTIVES: dict[str, Callable[[], dict[str, Any]]] = {
    "reconstruction": lambda: reconstruction(),
    "reconstruction/last": lambda: reconstruction(reduce="last"),
    "reconstruction/full": lambda: reconstruction(unroll="full"),
    "reconstruction/scale": lambda: reconstruction(sampler=descent(step_size=0.1, step_scale=2.0, steps=(2, 4))),
    "contrastive-divergence": lambda: contrastive(),
    "contrastive-divergence/noise": lambda: contrastive(sampler=langevin(step_size=0.3, steps=8), start="noise", energy_l2=0.01),
    "contrastive-divergence/noised-data": lambda: contrastive(data_noise=0.1),
    "contrastive-divergence/mala": lambda: contrastive(sampler=mala()),
    "contrastive-divergence/replay": lambda: contrastive(
        sampler=ebm.build("sampler", "replay", sampler=langevin(step_size=0.2), capacity=512), start="noise"
    ),
    "improved-contrastive-divergence": lambda: contrastive(entropy=0.1),
    "improved-contrastive-divergence/full": lambda: contrastive(
        sampler=langevin(step_size=0.3, steps=8), start="noise", unroll="full"
    ),
    "diffusion-recovery": lambda: {"sampler": langevin(step_size=0.1), "sigma": 0.5},
    "diffusion-recovery/ladder": lambda: {"sampler": langevin(step_size=0.1), "sigma": [1.0, 0.5, 0.25]},
    "energy-matching": lambda: {},
    "energy-matching/chains": lambda: {"sampler": langevin(step_size=0.05), "cd_weight": 0.1, "cutoff": 0.8},
    "equilibrium-matching": lambda: {},
    "denoising-score-matching": lambda: {"sigma": 0.3},
    "denoising-score-matching/ladder": lambda: {"sigma": [1.0, 0.5, 0.1]},
    "score-matching": lambda: {},
    "sliced-score-matching": lambda: {"projections": 2},
    "sliced-score-matching/plain": lambda: {"variance_reduced": False},
    "nce": lambda: {"noise": 2.0, "ratio": 2},
    "nce/energy": lambda: {"noise": ebm.build("energy", "gaussian", covariance=torch.tensor([2.0, 3.0], dtype=torch.float64))},
    "energy-discrepancy": lambda: {"samples": 4},
    "in-turn": lambda: {"objectives": [objective("reconstruction/last"), objective("reconstruction/scale")], "steps": [3]},
    "infonce": lambda: {"source": 2.0, "proposals": 4},
    "weighted-sum": lambda: {"objectives": [objective("denoising-score-matching"), objective("reconstruction")]},
    "mixture": lambda: reconstruction(sampler=descent(step_size=0.3, learnable=True)),
    "mixture/last": lambda: reconstruction(unroll="last", starts=2),
}


def objective(label: str) -> Objective:
    return ebm.build("objective", label.partition("/")[0], **OBJECTIVES[label]())


def without_example(kind: str, examples: dict[str, Any]) -> list[str]:
    """The core's registered components of which a table has no example."""
    offered = {name for name, component in ebm.components(kind).items() if component.distribution == CORE}
    return sorted(offered - {label.partition("/")[0] for label in examples})


def lent(task: Any, *names: str) -> Any:
    """Makes a task of another class with the same abilities, as a plugin's may have; lacks what is named."""
    return SimpleNamespace(**{name: getattr(task, name) for name in dir(task) if name[0] != "_" and name not in names})


def benchmark(name: str) -> ModuleType:
    """Loads benchmarks/NAME.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "benchmarks" / f"{name}.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
