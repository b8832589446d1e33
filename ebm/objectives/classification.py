"""Classification: a joint classifier's cross-entropy, alone or with inputs' likelihood (JEM)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Generator, Tensor
from torch.nn import functional

from ebm.interfaces import Batch, EnergyFn, Loss, Objective, Sampler, Task, check_configuration
from ebm.objectives.contrastive import ContrastiveDivergence


class CrossEntropy(Objective):
    """Trains a `JointClassifier` to tell labels (rows,), the batch's context, as a classifier does.

        L = E[−log p(c | x)] = E[E(x, c) − E(x)].

    Terms: cross_entropy, accuracy.

    >>> from ebm.energies import JointClassifier
    >>> energy = JointClassifier(torch.nn.Linear(2, 4, bias=False), event=1)
    >>> batch = Batch(torch.zeros(3, 2), context=torch.tensor([0, 1, 3]))
    >>> round(CrossEntropy()(energy, batch).value.exp().item(), 4)    # four labels, equally likely
    4.0
    """

    def forward(self, energy: Any, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        if not hasattr(energy, "logits"):
            raise ValueError(f"{type(energy).__name__} has no logits(y): classification trains a JointClassifier")
        if not isinstance(batch.context, Tensor) or batch.context.shape != batch.target.shape[:1]:
            raise ValueError("the batch's context holds no labels (rows,): a task gives them, as Digits(conditional=True) does")
        if start is not None:
            raise ValueError("start is given, but cross-entropy moves no chains: leave it out")
        check_configuration(batch.target, generator)
        logits, labels = energy.logits(batch.target), energy.encode(batch.context)
        loss = batch.mean(functional.cross_entropy(logits, labels, reduction="none"))
        right = (logits.argmax(-1) == labels).to(logits.dtype)
        return Loss(loss, {"cross_entropy": loss.detach(), "accuracy": batch.mean(right)})


class JointLikelihood(Objective):
    """Trains a `JointClassifier` by the likelihood of inputs and labels together (JEM).

        L = −log p(x) + w (−log p(c | x)),

    the first term by `ContrastiveDivergence` on E(x), the second by `CrossEntropy`, with the terms
    of both. Source: Grathwohl et al., 2020 (arXiv 1912.03263), equation 7 (w = 1).

    Arguments:
        sampler: moves the chains of E(x); a `ReplayAugmented` sampler makes them persistent.
        weight: w.
        start: "data" or "noise", as in `ContrastiveDivergence`.
        energy_l2: weight of the squared energies E(x).
        data_noise: standard deviation of normal noise added to the inputs of E(x).
        task: draws the noise.

    >>> from ebm.energies import JointClassifier
    >>> from ebm.samplers import LangevinDynamics
    >>> energy = JointClassifier(torch.nn.Linear(2, 4, bias=False), event=1)
    >>> batch = Batch(torch.zeros(3, 2), context=torch.tensor([0, 1, 3]))
    >>> loss = JointLikelihood(LangevinDynamics(step_size=0.1, steps=5))(energy, batch)
    >>> {"energy_gap", "cross_entropy", "accuracy"} <= loss.terms.keys()
    True
    """

    def __init__(
        self,
        sampler: Sampler,
        weight: float = 1.0,
        start: Literal["data", "noise"] = "noise",
        energy_l2: float = 0.0,
        data_noise: float = 0.0,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight={weight}: pass a number of at least 0")
        self.weight = weight
        self.inputs = ContrastiveDivergence(sampler, start, energy_l2, data_noise, task)
        self.labels = CrossEntropy()

    sampler = property(lambda self: self.inputs.sampler)

    def forward(self, energy: EnergyFn, batch: Batch, *, start: Tensor | None = None, generator: Generator | None = None) -> Loss:
        labels = self.labels(energy, batch, generator=generator)
        inputs = self.inputs(energy, Batch(batch.target, None, batch.weight), start=start, generator=generator)
        return Loss(inputs.value + self.weight * labels.value, {**inputs.terms, **labels.terms})
