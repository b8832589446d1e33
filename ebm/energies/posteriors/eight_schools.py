"""Eight schools: a hierarchy that narrows to a funnel."""

from __future__ import annotations

from torch import Tensor

from ebm.energies.posteriors.posterior import Posterior, Variables, half_cauchy, normal

EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
ERRORS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


class EightSchools(Posterior):
    """Scores the effects θ of coaching at eight schools, seen with errors σ, and their law:

        μ ~ N(0, 5²),  τ ~ C⁺(0, 5),  θⱼ ~ N(μ, τ²),  seenⱼ ~ N(θⱼ, σⱼ²),

    by variables `mean` μ, `scale` τ and `effects` θ (8,). Centred, small τ make a funnel's neck,
    which steps of one size cannot enter; non-centred, the last are `standard` z with θ = μ + τ z,
    independent of τ before there are data. `constrain` gives θ either way.

    Source: Rubin, 1981 (Estimation in parallel randomized experiments); priors of posteriordb's
    eight_schools; Papaspiliopoulos, Roberts and Sköld, 2007 (A general framework for the
    parametrization of hierarchical models).

    Arguments:
        centred: whether the last coordinates are θ, or else z.

    >>> import torch
    >>> energy = EightSchools(centred=False)
    >>> energy.dim, energy.labels()[:3]
    (10, ['mean', 'scale', 'standard[0]'])
    >>> energy.constrain(torch.ones(2, 10))["effects"].shape
    torch.Size([2, 8])
    """

    def __init__(self, centred: bool = True) -> None:
        self.centred, last = centred, "effects" if centred else "standard"
        variables = {"mean": ((), "real"), "scale": ((), "positive"), last: ((len(EFFECTS),), "real")}
        super().__init__(_centred if centred else _standard, variables, {"seen": EFFECTS, "errors": ERRORS}, "eight-schools")

    def constrain(self, y: Tensor) -> Variables:
        values = super().constrain(y)
        if not self.centred:
            values["effects"] = values["mean"][..., None] + values["scale"][..., None] * values["standard"]
        return values


def _centred(y: Variables, seen: Tensor, errors: Tensor) -> Tensor:
    mean, scale, effects = y["mean"], y["scale"], y["effects"]
    prior = normal(mean, 5.0) + half_cauchy(scale, 5.0) + normal(effects - mean[..., None], scale[..., None]).sum(-1)
    return prior + normal(seen - effects, errors).sum(-1)


def _standard(y: Variables, seen: Tensor, errors: Tensor) -> Tensor:
    mean, scale, standard = y["mean"], y["scale"], y["standard"]
    prior = normal(mean, 5.0) + half_cauchy(scale, 5.0) + normal(standard, 1.0).sum(-1)
    return prior + normal(seen - mean[..., None] - scale[..., None] * standard, errors).sum(-1)
