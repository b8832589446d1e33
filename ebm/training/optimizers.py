"""Optimisers: torch's by name, Muon for matrices beside AdamW, or one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ebm.offers.training import FITS, OPTIMIZERS
from ebm.registry import build
from ebm.training.later import Later, later

FUSED = (torch.optim.Adam, torch.optim.AdamW)
DEFAULTS = {"lr": 1e-3, "sampler_lr": None, "betas": (0.9, 0.999), "weight_decay": 0.0}  # of `fit`


class Together(Optimizer):
    """Steps several optimisers as one, whose groups are all theirs."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        super().__init__([group for one in optimizers for group in one.param_groups], {})
        self.optimizers = list(optimizers)
        self._share()

    def _share(self) -> None:
        # The same dictionaries: what a scheduler writes into a group, its optimiser reads.
        self.param_groups = [group for one in self.optimizers for group in one.param_groups]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self._share()


def muon(
    params: Any,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
) -> Optimizer:
    """Orthogonalises the momentum of matrices (Muon); other parameters go to AdamW.

    Steps of matrices are scaled to the size of AdamW's, so both have the same learning rate. By
    torch (2.9 or newer). Source: Jordan et al., 2024; the scale: Liu et al., 2025 (arXiv
    2502.16982), equation 4.

    Arguments:
        params: groups of parameters.
        lr, weight_decay: of groups that do not say their own.
        betas: AdamW's.
        momentum: how much of the last momentum of a matrix is kept.
        nesterov: whether matrices step by Nesterov's momentum.
        ns_steps: Newton-Schulz iterations that orthogonalise a momentum.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ImportError(f"torch {torch.__version__} has no Muon: pip install 'torch>=2.9'")
    both: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    own: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "adjust_lr_fn": "match_rms_adamw"}
    made: list[Optimizer] = []
    if matrices := _of(params, lambda p: p.ndim == 2):
        made.append(torch.optim.Muon(matrices, **both, **own))
    if others := _of(params, lambda p: p.ndim != 2):
        made.append(torch.optim.AdamW(others, **both, betas=betas))
    return Together(made)


def _of(groups: Any, fits: Callable[[torch.Tensor], bool]) -> list[dict[str, Any]]:
    chosen = [{**group, "params": [p for p in group["params"] if fits(p)]} for group in groups]
    return [group for group in chosen if group["params"]]


MADE = SimpleNamespace(**{name.lower(): later(getattr(torch.optim, name), FITS) for name in OPTIMIZERS}, muon=later(muon, FITS))


def optimizer_of(
    optimizer: Any,
    decayed: list[nn.Parameter],
    free: list[nn.Parameter],
    *,
    lr: float,
    sampler_lr: float | None,
    betas: tuple[float, float],
    weight_decay: float,
    fused: bool = False,
) -> Optimizer:
    """Makes the optimiser of a training, or checks one that was made.

    Arguments:
        optimizer: a name, what `ebm.build("optimizer", …)` returns, a function of parameters, or an
            optimiser. The last two bring their own numbers, so those of `fit` must be its defaults.
        decayed: the energy's parameters, to which weight decay applies.
        free: the objective's, whose learning rate is `sampler_lr`, or lr.
        lr, sampler_lr, betas, weight_decay: as in `fit`.
        fused: whether an Adam or AdamW that is named takes its step in one kernel, unless it is told
            how by `fused`, `foreach`, `capturable` or `differentiable`.

    Raises:
        ValueError: for numbers that the optimiser does not take, an optimiser of other parameters,
            or one that needs several gradients a step.
    """
    numbers = {"lr": lr, "sampler_lr": sampler_lr, "betas": tuple(betas), "weight_decay": weight_decay}
    given = [f"{name}={value}" for name, value in numbers.items() if value != DEFAULTS[name]]
    if isinstance(optimizer, str):
        optimizer = build("optimizer", optimizer)
    if isinstance(optimizer, Later):
        for name in ("betas", "weight_decay"):
            if numbers[name] != DEFAULTS[name] and not optimizer.takes(name):
                raise ValueError(f"{name}={numbers[name]}: {optimizer.make.__name__} has no {name}, so leave it out")
        groups = [
            {"params": decayed, "lr": lr, "weight_decay": weight_decay},
            {"params": free, "lr": lr if sampler_lr is None else sampler_lr, "weight_decay": 0.0},
        ]
        more: dict[str, Any] = {"betas": betas} if optimizer.takes("betas") else {}
        told = {"fused", "foreach", "capturable", "differentiable"} & optimizer.keywords.keys()
        if fused and optimizer.make in FUSED and not told and all(p.is_floating_point() for p in (*decayed, *free)):
            more["fused"] = True
        return optimizer([group for group in groups if group["params"]], **more)
    if given:
        way_out = "say them where it is made, as in optimizer=partial(torch.optim.SGD, lr=0.1), or name it, as in optimizer='sgd'"
        raise ValueError(f"{', '.join(given)} beside an optimiser of one's own, which has its own numbers: {way_out}")
    if not isinstance(optimizer, Optimizer):
        if not callable(optimizer):
            raise ValueError(f"optimizer={optimizer!r}: pass a name, a function of parameters, or a torch.optim.Optimizer")
        optimizer = optimizer([{"params": params} for params in (decayed, free) if params])
        if not isinstance(optimizer, Optimizer):
            raise ValueError(f"optimizer(parameters) returned {type(optimizer).__name__}: return a torch.optim.Optimizer")
    known = {id(p) for p in (*decayed, *free)}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if foreign := sum(id(p) not in known for p in held):
        raise ValueError(
            f"{foreign} of the optimiser's {len(held)} parameters are none of the energy's or the objective's that train: "
            f"make it of [*energy.parameters(), *objective.parameters()]"
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        name = type(optimizer).__name__
        raise ValueError(f"{name} evaluates the loss several times a step, which fit does not: choose another optimiser")
    return optimizer


def described_as(optimizer: Optimizer) -> str:
    """Describes an optimiser by its type and numbers: a stopped run does not go on with another.

    >>> described_as(torch.optim.SGD([torch.zeros(1)], lr=0.1))
    'SGD(dampening=0, differentiable=False, lr=0.1, ...)'
    """
    if isinstance(optimizer, Together):
        return " and ".join(map(described_as, optimizer.optimizers))
    numbers = {name: value for name, value in sorted(optimizer.defaults.items()) if isinstance(value, int | float | str | tuple)}
    numbers.pop("fused", None)  # how a step is computed, which depends on the device
    return f"{type(optimizer).__name__}({', '.join(f'{name}={value}' for name, value in numbers.items())})"
