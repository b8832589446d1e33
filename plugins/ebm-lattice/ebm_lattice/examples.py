"""How `pytest --ebm ebm-lattice` checks what lives on a lattice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ebm import Batch
from ebm_lattice.boltzmann import Pairwise
from ebm_lattice.clusters import SwendsenWang
from ebm_lattice.gibbs import Gibbs
from ebm_lattice.informed import GibbsWithGradients
from ebm_lattice.lattices import Ising, Potts
from ebm_lattice.objectives import PseudoLikelihood, RatioMatching

__all__ = ["examples"]


def examples() -> dict[tuple[str, str], Callable[[], dict[str, Any]]]:
    """Lists keywords of the conformance kit's checks: (kind, name) -> what makes them."""

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(0))

    spins, values = Ising((3, 3), coupling=0.3, field=0.2), Potts((2, 2), coupling=0.5, field=[0.3, 0.0, -0.2], periodic=False)

    def learned() -> Pairwise:
        energy = Pairwise(3)
        with torch.no_grad():
            energy.couplings.copy_(0.3 * drawn(36))
        return energy

    made: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {
        ("energy", "ising"): lambda: {"factory": lambda: Ising((3, 4), 0.3, drawn(3, 4)), "y": drawn(6, 3, 4)},
        ("energy", "potts"): lambda: {"factory": lambda: Potts((3, 4), 3, 0.3, drawn(3)), "y": drawn(6, 3, 4, 3)},
        ("energy", "pairwise"): lambda: {"factory": lambda: Pairwise(3, radius=1), "y": drawn(6, 1, 3, 3)},
        ("sampler", "gibbs"): lambda: {"factory": lambda: Gibbs(steps=5), "energy": spins},
        ("sampler", "gibbs-with-gradients"): lambda: {"factory": lambda: GibbsWithGradients("one-hot"), "energy": values},
        ("sampler", "swendsen-wang"): lambda: {"factory": lambda: SwendsenWang("one-hot", steps=5), "energy": values},
    }
    for name, kind in {"pseudo-likelihood": PseudoLikelihood, "ratio-matching": RatioMatching}.items():
        batch = Batch(drawn(12, 1, 3, 3).sign())
        made["objective", name] = partial(dict, factory=kind, energy=learned(), batch=batch)
    return made
