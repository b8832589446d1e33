"""Chains as ArviZ sees them: draws by name, with what each step reports."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path, tree_map  # private, but what torch.func itself maps trees by

from ebm.interfaces import EnergyFn, Info, evaluate
from ebm.judging.chains import import_arviz

# ArviZ's names (its schema of sample statistics) of what an Info may have.
STATISTICS = {"acceptance": "acceptance_rate", "diverged": "diverging", "depth": "tree_depth", "gradients": "n_steps"}


def to_arviz(
    path: Iterable[tuple[Any, Info]], *, energy: EnergyFn | None = None, view: Callable[[Any], Any] = lambda y: y, name: str = "y"
) -> Any:
    """Makes an ArviZ object of a trajectory: an `InferenceData`, a `DataTree` from ArviZ 1 on.

    The group `posterior` has each draw's y, a variable of dimensions (chain, draw, *event) for each
    tensor of a tree, by its name; chain axes are flattened into one. `sample_stats` has what the
    steps report, by ArviZ's names: `acceptance_rate` (or whether the proposal was accepted, as a
    number), `diverging`, `tree_depth`, `n_steps` (gradients); with `energy`, `lp` (−E of the draw).

    Arguments:
        path: states and infos, as `sampler.trajectory(…)` yields; `itertools.islice` thins it.
        energy: what the chains are sampled from, where `lp` is wanted: one evaluation a draw.
        view: what to keep of y, such as `Constrained(…).constrain`.
        name: the variable's name, where y is a tensor.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: the path is empty.

    >>> from ebm.samplers import NUTS
    >>> y, normal = torch.zeros(4, 2), lambda y: y.square().sum(-1) / 2
    >>> chains = to_arviz(NUTS(0.5, steps=50).trajectory(normal, y), energy=normal)
    >>> chains.posterior["y"].shape, sorted(chains.sample_stats)
    ((4, 50, 2), ['acceptance_rate', 'diverging', 'lp', 'n_steps', 'tree_depth'])
    """
    arviz = import_arviz()
    draws: dict[str, list[Tensor]] = {}
    told: dict[str, list[Tensor]] = {}
    for state, info in path:
        chains = info.energy.ndim
        for keys, leaf in tree_flatten_with_path(tree_map(torch.detach, view(state.y)))[0]:
            key = ".".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in keys) or name
            draws.setdefault(key, []).append(_by_chain(leaf, chains))
        for field, known in STATISTICS.items():
            if (value := getattr(info, field, None)) is not None:
                told.setdefault(known, []).append(_by_chain(value, chains))
        if getattr(info, "acceptance", None) is None and info.accepted is not None:
            told.setdefault("acceptance_rate", []).append(_by_chain(info.accepted.to(info.energy.dtype), chains))
        if energy is not None:
            with torch.no_grad():
                value = evaluate(energy, state.y) if isinstance(state.y, Tensor) else energy(state.y)
                told.setdefault("lp", []).append(-_by_chain(value, chains))
    if not draws:
        raise ValueError("the trajectory has no steps: there is no draw to look at")
    posterior, statistics = ({key: torch.stack(of, 1).cpu().numpy() for key, of in kept.items()} for kept in (draws, told))
    groups = {"posterior": posterior} | ({"sample_stats": statistics} if statistics else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more chains than draws
        if int(arviz.__version__.partition(".")[0]) < 1:
            return arviz.from_dict(**groups)
        return arviz.from_dict(groups)


def _by_chain(values: Tensor, chains: int) -> Tensor:
    """Flattens chain axes, none or several, into one: (chain, *event)."""
    return values.detach().reshape(-1, *values.shape[chains:])
