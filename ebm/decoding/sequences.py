"""Whole sequences: drawn from a model that writes them, with how likely each is, and scored by an
energy.

A sequence is ids (…, T), −1 where there is no token: behind its end, where it is shorter than
others; in front of it, where it is a prompt (B, P).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ebm.decoding.generate import draw as draw_token
from ebm.decoding.generate import generate
from ebm.interfaces import Batch, EnergyFn, bind, eval_mode
from ebm.interfaces.abilities import Decodes, FeedForward, WritesAnswers, WritesOn, lacking
from ebm.samplers import GradientDescent

NOTHING = -1  # where there is no token
ROWS_AT_ONCE = 256  # sequences that are drawn, or scored, beside each other


class Drawn(NamedTuple):
    """Sequences that were drawn for prompts, and how likely each was."""

    ids: Tensor  # (N, B, T)
    log_likelihood: Tensor  # (N, B), in nats


def one_hot(ids: Tensor, vocab_size: int) -> Tensor:
    """Makes vectors (*shape, V) of ids (*shape): zeros where there is no token.

    >>> one_hot(torch.tensor([1, -1]), 3)
    tensor([[0., 1., 0.],
            [0., 0., 0.]])
    """
    vectors = F.one_hot(ids.clamp(min=0), vocab_size).to(torch.get_default_dtype())
    return vectors.masked_fill_((ids < 0).unsqueeze(-1), 0.0)


def ended(ids: Tensor, end: int | None) -> Tensor:
    """Takes away what stands behind the first end of each sequence (…, T).

    >>> ended(torch.tensor([[3, 9, 9, 3], [1, 2, 3, 4]]), 9)
    tensor([[ 3,  9, -1, -1],
            [ 1,  2,  3,  4]])
    """
    if end is None:
        return ids
    is_end = ids == end
    return ids.masked_fill(is_end.cumsum(-1) - is_end.long() > 0, NOTHING)


def check_base(base: Any) -> None:
    """Raises ValueError for a model whose sequences cannot be drawn, or have no known likelihood."""
    writes = isinstance(base, WritesOn) or not lacking(base, Decodes)
    if isinstance(base, WritesAnswers) or (isinstance(base, FeedForward) and writes):
        return
    raise ValueError(
        f"the base is {type(base).__name__}, which says no sequence's likelihood: pass a model that predicts tokens in one pass "
        f"(transformer), symbol by symbol (left-to-right), or a language model (causal-lm)"
    )


@torch.no_grad()
def draw(
    base: Any,
    prompt: Tensor,
    count: int = 1,
    *,
    length: int | None = None,
    window: int | None = None,
    end: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Draws `count` sequences (count, B, T) for each prompt (B, P), token by token.

    Arguments:
        base: what `check_base` takes: a model of tokens, such as a `Transformer`, which writes on
            from ids; or what writes an answer to a context, such as a `LeftToRight`.
        prompt: ids; at least one in each row for a model of tokens.
        count: N.
        length: T, how many tokens are drawn at most; an answer is as long as its context.
        window: how many tokens a prompt and what follows have at most, together.
        end: the id that ends a sequence, which belongs to it.
        temperature, top_k, top_p: how tokens are drawn, as `ebm.decoding.generate.draw` says; at
            temperature 1 sequences are draws of the model.
        generator: where draws come from.

    Raises:
        ValueError: for arguments that cannot work.
    """
    check_base(base)
    if count < 1:
        raise ValueError(f"count={count}: draw at least one sequence of each prompt")
    drawing: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    rows = prompt.repeat(count, 1)
    found = []
    for part in rows.split(ROWS_AT_ONCE):
        if isinstance(base, WritesAnswers):
            with eval_mode(base):
                found.append(base.write(part, lambda logits: draw_token(logits, **drawing, generator=generator)))
            continue
        if length is None:
            raise ValueError("length is missing: how many tokens may follow a prompt?")
        if isinstance(base, WritesOn):
            ids = base.write_on(part, length, lambda logits: draw_token(logits, **drawing, generator=generator))
        else:
            ids = _generated(base, part, length, end, drawing, generator)
        ids = F.pad(ended(ids, end), (0, length - ids.shape[1]), value=NOTHING)
        if window is not None:
            known = (part >= 0).sum(1, keepdim=True)
            ids = ids.masked_fill(known + torch.arange(length, device=ids.device) >= window, NOTHING)
        found.append(ids)
    return torch.cat(found).unflatten(0, (count, len(prompt)))


def _generated(
    base: Any, prompt: Tensor, length: int, end: int | None, drawing: dict[str, Any], generator: Generator | None
) -> Tensor:
    """Writes on from prompts by cached codes; a sequence repeats its end, and all have ended before `length` where it is cut."""
    prompts = [[token for token in row if token >= 0] for row in prompt.tolist()]
    step = GradientDescent(step_size=float(getattr(base, "natural_step", 1)), steps=1, retraction="softmax")
    how: dict[str, Any] = {**drawing, "max_new_tokens": length, "window": max(map(len, prompts)) + length, "end": end}
    return torch.stack([*generate(base, step, prompts, **how, generator=generator)], 1)


@torch.no_grad()
def log_likelihood(base: Any, prompt: Tensor, ids: Tensor) -> Tensor:
    """Computes log p(sequence | prompt) (N, B), in nats, of ids (N, B, T) after prompts (B, P)."""
    check_base(base)
    rows, asked = prompt.repeat(len(ids), 1), ids.flatten(0, 1)
    found = []
    for before, after in zip(rows.split(ROWS_AT_ONCE), asked.split(ROWS_AT_ONCE), strict=True):
        with eval_mode(base):
            if isinstance(base, WritesAnswers):
                logits = base.teacher_forced(before, after)
                target, counts = after, torch.ones_like(after, dtype=torch.bool)
            else:
                whole = torch.cat([before, after], 1)
                order = (whole < 0).long().argsort(dim=1, stable=True)  # tokens first: a causal model sees none behind them
                tokens = whole.gather(1, order).clamp(min=0)
                context, target = tokens[:, :-1], tokens[:, 1:]
                logits = base.predict(Batch(target, context), None).y
                place, known = torch.arange(target.shape[1], device=ids.device) + 1, (before >= 0).sum(1, keepdim=True)
                counts = (place >= known) & (place < known + (after >= 0).sum(1, keepdim=True))
        nats = F.cross_entropy(logits.double().flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
        found.append(-(nats * counts).sum(1))
    return torch.cat(found).unflatten(0, ids.shape[:2])


@torch.no_grad()
def score(energy: EnergyFn, prompt: Any, ids: Tensor, vocab_size: int) -> Tensor:
    """Computes energies (N, B) of sequences ids (N, B, T) after prompts (B, P)."""
    at_once = max(1, ROWS_AT_ONCE // ids.shape[1])
    with eval_mode([energy]):
        bound = bind(energy, prompt)
        return torch.cat([bound(one_hot(part, vocab_size)) for part in ids.split(at_once)])


def split_rows(batch: Batch, known: Tensor, end: int | None = None, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Splits rows of text into prompts of `known` (B,) tokens, and what follows up to an end.

    A row is the first token of its context (B, S) and its targets (B, S), up to the last one that
    has weight.

    Returns:
        Prompts (B, width), by default as wide as the longest, and sequences (B, S).

    >>> batch = Batch(torch.tensor([[1, 2, 3, 9]]), torch.tensor([[9, 1, 2, 3]]))
    >>> split_rows(batch, torch.tensor([2]), end=9, width=3)
    (tensor([[-1,  9,  1]]), tensor([[ 2,  3,  9, -1]]))
    """
    target, context, weight = batch
    count, device = target.shape[1], target.device
    tokens = torch.cat([context[:, :1], target], 1)
    place = torch.arange(count + 1, device=device)
    if weight is not None:
        last = ((weight > 0) * place[1:]).amax(1, keepdim=True)
        tokens = tokens.masked_fill(place > last, NOTHING)
    width = int(known.max()) if width is None else width
    before = known[:, None] - width + torch.arange(width, device=device)
    prompt = tokens.gather(1, before.clamp(min=0)).masked_fill(before < 0, NOTHING)
    after = known[:, None] + place[:count]
    rest = tokens.gather(1, after.clamp(max=count)).masked_fill(after > count, NOTHING)
    return prompt, ended(rest, end)
