"""What can train with sharded weights, asked before anything is made."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves  # private, but what torch.func itself maps trees by

# Optimisers that treat every number of a parameter alike, and so its rows: each process steps its own.
ELEMENTWISE = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")


def check_shardable(energy: Any, objective: nn.Module, optimizer: Optimizer, compile: bool | str) -> None:
    """Raises ValueError for what cannot train with sharded weights."""
    asked = "fit(strategy='fsdp')"
    if compile is True:
        raise ValueError(f"{asked} and compile=True: sharded weights are gathered between kernels: leave compile=True out")
    if type(optimizer).__name__ not in ELEMENTWISE or type(optimizer).__module__.partition(".")[0] != "torch":
        raise ValueError(
            f"{asked}: {type(optimizer).__name__} may look at a whole matrix, of which a process has some rows: choose one of "
            f"{', '.join(name.lower() for name in ELEMENTWISE)}, or strategy='ddp'"
        )
    for part in (energy, objective):
        for name, module in part.named_modules() if isinstance(part, nn.Module) else ():
            where = f"{type(module).__name__} {name}".strip()
            own = {id(p) for p in module._parameters.values() if p is not None}
            others = {key: value for key, value in module.__dict__.items() if key != "_parameters"}
            plain = {key: value for key, value in others.items() if key not in ("_buffers", "_modules")}
            if any(isinstance(leaf, nn.Parameter) and (id(leaf) in own or leaf.ndim >= 2) for leaf in tree_leaves(plain)):
                raise ValueError(
                    f"{asked}: {where} keeps a weight in a list of its own, which sharding would not reach: use another "
                    f"module, or strategy='ddp'"
                )
