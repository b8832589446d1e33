"""Best of N: sequences drawn from a model, of which an energy of whole sequences chooses."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ebm.decoding.sequences import draw, one_hot, score
from ebm.interfaces import Batch, EnergyFn, Prediction
from ebm.interfaces.abilities import WritesAnswers

LEAST = 1e-35  # the least probability whose logarithm is taken


class Reranked(NamedTuple):
    """Sequences that were drawn for prompts, their energies, and which were chosen."""

    ids: Tensor  # (N, B, T)
    energies: Tensor  # (N, B)
    chosen: Tensor  # (B,)

    @property
    def best(self) -> Tensor:
        """The chosen sequences (B, T)."""
        return self.ids[self.chosen, torch.arange(self.ids.shape[1], device=self.ids.device)]


def rerank(
    energy: EnergyFn,
    base: Any,
    prompt: Tensor,
    n: int = 16,
    *,
    resample: bool = False,
    generator: Generator | None = None,
    **how: Any,
) -> Reranked:
    """Draws n sequences for each prompt, and takes the one of the lowest energy.

    With `resample` one is drawn by its importance weight, softmax(−E) over the n: as n grows, a
    draw of p_base exp(−E) / Z, where sequences were drawn at temperature 1.

    Arguments:
        energy: of whole sequences, E(x | prompt): y (N, B, T, V) to (N, B).
        base: what sequences are drawn from, as `ebm.decoding.sequences.draw` says.
        prompt: ids (B, P).
        n: how many are drawn of each prompt.
        resample: whether weights choose.
        generator: where draws come from.
        how: further keywords of `draw`: length, end, temperature …

    Source: resampling, Deng et al. (arXiv 2004.11714); the lowest energy, EORM (arXiv 2505.14999),
    which is trained on what was right, not on a base's draws.

    >>> from ebm.baselines import Transformer
    >>> from ebm.energies import SequenceEBT
    >>> base, energy = Transformer(5, dim=8, depth=1, heads=2), SequenceEBT(5, dim=8, depth=1, heads=2)
    >>> rerank(energy, base, torch.tensor([[1, 2], [-1, 3]]), n=4, length=6).best.shape
    torch.Size([2, 6])
    """
    ids = draw(base, prompt, n, generator=generator, **how)
    energies = score(energy, prompt, ids, base.vocab_size)
    return Reranked(ids, energies, choose(energies, resample=resample, generator=generator))


def choose(energies: Tensor, *, resample: bool = False, generator: Generator | None = None) -> Tensor:
    """Chooses one of N for each prompt, by energies (N, B): numbers (B,).

    Raises:
        FloatingPointError: an energy is not finite.

    >>> choose(torch.tensor([[0.5, 2.0], [1.0, -1.0]]))
    tensor([0, 1])
    """
    if not bool(energies.isfinite().all()):
        raise FloatingPointError("an energy of a candidate is not finite: nothing can be chosen by it")
    if not resample:
        return energies.argmin(0)
    weights = (-energies.double()).softmax(0)
    return torch.multinomial(weights.T, 1, generator=generator)[:, 0]


class Reranker:
    """Predicts by drawing n sequences from a base, and weighing them by an energy.

    Of answers, y (B, S, V) is the logarithm of each position's probabilities Σ_n w_n [x_n,i = v], w
    = softmax(−E) over the n: the marginals of p_base exp(−E) / Z, estimated. Marginals of next
    tokens would need whole texts drawn from every prefix: of those y is the base's own prediction.

    Arguments:
        energy: of whole sequences.
        base: what sequences are drawn from.
        n: how many are drawn of each.
    """

    def __init__(self, energy: EnergyFn, base: Any, n: int = 16) -> None:
        if n < 1:
            raise ValueError(f"n={n}: draw at least one sequence")
        self.energy, self.base, self.n = energy, base, n

    def predict(self, batch: Batch, start: Any = None, *, generator: Generator | None = None) -> Prediction:
        """Predicts a batch; there is nothing to start from."""
        if not isinstance(self.base, WritesAnswers):
            return self.base.predict(batch, start, generator=generator)
        found = rerank(self.energy, self.base, batch.context, self.n, generator=generator)
        weights = (-found.energies).softmax(0)[..., None, None]
        marginal = (weights * one_hot(found.ids, self.base.vocab_size)).sum(0)
        energy = found.energies.amin(0)
        return Prediction(marginal.clamp(min=LEAST).log(), energy, self.n * (batch.context.shape[1] + 1))
