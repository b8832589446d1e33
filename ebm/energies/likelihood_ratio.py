"""An energy of whole sequences that is the ratio of two likelihoods: a model's, and what it became."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ebm.energies.ebt.text import Padded
from ebm.interfaces import Energy
from ebm.interfaces.abilities import WritesAnswers


class LikelihoodRatio(Energy):
    """Scores whole sequences by two models of tokens, of which one is trained and one stays:

        E(y | prompt) = Σ_i ⟨y_i, log p(· | prompt, y_<i) − log q(· | prompt, y_<i)⟩,

    with p the base, frozen, and q a copy of it, trained: at first the energy of every sequence is 0.
    As the residual of p (`SequenceNCE`) it makes p exp(−E) = q, so that Z is 1: q learns to tell the
    data's sequences from those that p draws, and starts with all that p knows.

    y (*more, B, T, V) holds a one-hot vector for each token, and zeros where there is none, behind the
    end of a shorter sequence (`ebm.decoding.sequences.one_hot`); what a token follows are the
    likeliest tokens of the vectors before it, which have no slope. The context is a prompt's ids
    (B, P), −1 where there is no token, at least one in each row. Of answers, it is the question.
    Energies are (*more, B), in nats.

    Arguments:
        base: the model: a `Transformer`, or `LeftToRight`, which writes answers. It is copied. In a
            recipe it has the shape of the run's base, and starts as that.

    Source: autoregressive models are energies (arXiv 2512.15605); telling data from a model's own
    draws by such a ratio trains the model in SPIN (arXiv 2401.01335).

    Raises:
        ValueError: for a model without likelihoods, and (at the call) a prompt without tokens or a y of
            another shape.

    >>> from ebm.baselines import Transformer
    >>> energy = LikelihoodRatio(Transformer(vocab_size=11, dim=8, depth=1, heads=2))
    >>> candidates = torch.eye(11)[torch.tensor([[[3, 4, 5]], [[6, 7, 8]]])]    # two, for one prompt
    >>> energy.given(torch.tensor([[1, 2]]))(candidates).tolist()
    [[0.0], [0.0]]
    """

    def __init__(self, base: Any) -> None:
        super().__init__()
        if not isinstance(base, WritesAnswers) and not callable(getattr(base, "logits", None)):
            what = f"the base is {type(base).__name__}, which says no sequence's likelihood"
            raise ValueError(
                f"{what}: pass a model that predicts tokens in one pass (transformer), or symbol by symbol (left-to-right)"
            )
        self.vocab_size: int = base.vocab_size
        self.base = copy.deepcopy(base).requires_grad_(False)
        self.model = copy.deepcopy(base).requires_grad_(True)

    def start_as(self, base: Any) -> None:
        """Takes the weights of a base, for both models: the energy is 0 again.

        Raises:
            RuntimeError: they do not fit.
        """
        for mine in (self.base, self.model):
            mine.load_state_dict(base.state_dict())

    def encode(self, context: Any = None, level: int = -1) -> Tensor:
        if not isinstance(context, Tensor) or context.ndim != 2 or context.is_floating_point() or not context.numel():
            found = f"{context.dtype} {tuple(context.shape)}" if isinstance(context, Tensor) else type(context).__name__
            raise ValueError(f"the context is {found}: pass a prompt's ids (B, P), -1 where there is no token")
        if isinstance(self.base, WritesAnswers):
            return context
        if context.is_cpu and bool((context < 0).all(1).any()):
            raise ValueError(f"a prompt of the context {tuple(context.shape)} has no token: give each at least one")
        return context.gather(1, (context >= 0).long().argsort(dim=1, stable=True))  # what is missing goes to the front

    def forward(self, y: Tensor, code: Tensor | None = None) -> Tensor:
        """Maps y (*more, B, T, V) to energies (*more, B), in nats."""
        prompt = self.encode() if code is None else code
        if y.ndim < 3 or y.shape[-1] != self.vocab_size or y.shape[-3] != len(prompt):
            raise ValueError(
                f"y has shape {tuple(y.shape)}: pass (*more, {len(prompt)}, T, {self.vocab_size}), a vector over the vocabulary "
                f"for each token"
            )
        if not y.numel():
            return y.sum((-2, -1))
        before, after = prompt.expand(*y.shape[:-2], -1).flatten(0, -2), y.argmax(-1).flatten(0, -2)
        with torch.no_grad():
            stays = log_probabilities(self.base, before, after)
        lost = stays - log_probabilities(self.model, before, after)
        return (y * lost.view(y.shape)).sum((-2, -1))


def log_probabilities(model: Any, prompt: Tensor, ids: Tensor) -> Tensor:
    """Computes log p(· | prompt, those before) (B, T, V) at each of ids (B, T), after prompts (B, P)."""
    if isinstance(model, WritesAnswers):
        return model.teacher_forced(prompt, ids).log_softmax(-1)
    whole = torch.cat([prompt.clamp(min=0), ids[:, :-1]], 1)
    logits = model.logits(Padded(whole, (prompt < 0).sum(1)))
    return logits[:, prompt.shape[1] - 1 :].log_softmax(-1)
