"""Generating text: each next token is thought about given the code of what came before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, Literal

import torch
from torch import Tensor

from ebm.decoding.codes import growing
from ebm.interfaces import EnergyFn, Sampler, check_configuration, check_steps, eval_mode
from ebm.interfaces.abilities import Decodes, PadsRows, lacking
from ebm.thinking import Select, check_choices, think


def generate(
    energy: Any,
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    window: int,
    end: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    candidates: int = 1,
    steps: int | None = None,
    select: Select = "min",
    patience: int | None = None,
    start: Literal["uniform", "noise"] = "uniform",
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Iterator[Tensor]:
    """Generates tokens: iterates over ids (B,), one for each prompt, until all rows have ended.

    A token costs one trajectory (B, 1, V). Once a row has filled the window, its last half window is
    encoded anew. Prompts of different lengths are encoded together where the energy `PadsRows` and no
    row can fill the window. With a generator for each row, a row's text is what it is alone (but for
    rounding); where thinking draws noise, each row is then thought about by itself.

    Arguments:
        energy: an energy with `vocab_size` and `extend`, such as a TextEBT or a Transformer. Its
            context is ids (B, S); y (*more, B, T, V) predicts what follows each of the last T ids.
        sampler: moves logits; its raw state is the next token's logits (retraction="softmax").
        prompts: rows of ids, of at least one and at most `window` tokens each.
        max_new_tokens: how many tokens are generated at most.
        window: how many tokens are seen at most: the context length of the energy's training.
        end: the id that ends a row, which then repeats it. None: no row ends.
        temperature: what logits are divided by; 0 takes the likeliest token.
        top_k, top_p: which tokens are drawn from, as `draw` says.
        candidates, steps, select, patience: how each token is thought about, as `think` says.
        start: where thinking starts, "uniform" (logits 0) or "noise" (standard normal logits).
        generator: where starts, noise and tokens are drawn from: one for all rows, or one for each.

    Raises:
        ValueError: for arguments that cannot work, at the call.
        FloatingPointError: thinking left the finite numbers.

    >>> from ebm.energies import TextEBT
    >>> from ebm.samplers import GradientDescent
    >>> energy = TextEBT(vocab_size=11, dim=8, depth=2, heads=2)
    >>> sampler = GradientDescent(step_size=1.0, steps=2, retraction="softmax")
    >>> tokens = generate(energy, sampler, [[1, 2, 3], [4]], max_new_tokens=5, window=16)
    >>> torch.stack([*tokens], 1).shape
    torch.Size([2, 5])
    """
    if missing := lacking(energy, Decodes):
        raise ValueError(
            f"energy is {type(energy).__name__}, which lacks {' and '.join(missing)}: tokens are generated from an "
            f"energy with vocab_size and extend(code, context), such as text-ebt, residual-text-ebt and transformer"
        )
    rows, size = [[*prompt] for prompt in prompts], energy.vocab_size
    if not rows:
        raise ValueError("prompts is empty: pass a list of at least one row of ids, as in [[1, 2, 3]]")
    for name, value in (("max_new_tokens", max_new_tokens), ("window", window)):
        if value < 1:
            raise ValueError(f"{name}={value}: pass a number of at least 1")
    for index, row in enumerate(rows):
        if not row:
            raise ValueError(f"prompts[{index}] is empty: start a text from the id of end-of-text")
        if len(row) > window:
            raise ValueError(f"prompts[{index}] has {len(row)} tokens, more than window={window}: pass its last {window}")
        if not all(0 <= token < size for token in row):
            raise ValueError(f"prompts[{index}] has ids from {min(row)} to {max(row)}, outside the {size} tokens")
    if end is not None and not 0 <= end < size:
        raise ValueError(f"end={end} is outside the {size} tokens")
    if start not in ("uniform", "noise"):
        raise ValueError(f"start={start!r}: choose uniform or noise")
    check_drawing(temperature, top_k, top_p)
    check_choices(candidates, select, patience)
    check_steps(sampler.steps if steps is None else steps)
    weights = (*energy.parameters(), *energy.buffers())
    like = next((weight for weight in weights if weight.is_floating_point()), torch.empty(0))
    common = generator if generator is None or isinstance(generator, torch.Generator) else None
    own = None if generator is common else [*generator]  # type: ignore[misc]  # one for each
    if own is not None and len(own) != len(rows):
        raise ValueError(f"generator has {len(own)} generators for {len(rows)} prompts: pass one for each, or one for all")
    for one in [common] if own is None else own:
        check_configuration(like.new_empty(1), one)
    alone = own is not None and len(own) > 1 and (start == "noise" or _draws(sampler, like.new_zeros(1, 1, size), energy, steps))
    fills = max(map(len, rows)) + max_new_tokens - 1 > window

    def tokens(rows: list[list[int]], own: list[torch.Generator] | None) -> Iterator[Tensor]:
        """Generates for rows that are encoded together; of several, only tokens are drawn by `own`."""
        shared = common if own is None else own[0]
        origin = like.new_zeros(len(rows), 1, size)
        ended = torch.zeros(len(rows), dtype=torch.bool, device=like.device)

        def begin(generator: torch.Generator | None = None) -> Tensor:
            return origin if start == "uniform" else torch.empty_like(origin).normal_(generator=generator)

        def last(count: int) -> Any:
            recent = [row[-count:] for row in rows]
            alike = len({*map(len, recent)}) == 1
            return torch.tensor(recent, device=like.device) if alike else energy.padded(recent)

        codes = growing(energy, last, max(map(len, rows)), window)
        for _ in range(max_new_tokens):
            with torch.no_grad(), eval_mode([energy, sampler]):  # and out of both before a caller sees the token
                bound = next(codes)
                if candidates == 1 and patience is None:  # think would evaluate energies that nobody compares
                    y = sampler.sample(bound, begin(shared), steps=steps, generator=shared)
                else:
                    y = think(bound, sampler, None, begin, candidates, steps, select, patience, generator=shared).y
                logits, by = (y[:, -1:], own) if own else (y[None, :, -1], [shared])  # draw by draw, (rows, V) each
                ids = torch.cat([draw(part, temperature, top_k, top_p, generator=g) for part, g in zip(logits, by, strict=True)])
            if end is not None:
                ids = ids.masked_fill(ended, end)
                ended = ended | (ids == end)
            for row, token in zip(rows, ids.tolist(), strict=True):
                row.append(token)
            yield ids
            if bool(ended.all()):
                return

    def columns() -> Iterator[Tensor]:
        """Joins the groups' tokens; a group stops first only where all of its rows ended."""
        groups: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            together = isinstance(energy, PadsRows) and not fills
            groups.setdefault(index if alone else 0 if together else len(row), []).append(index)
        found = (tokens([rows[i] for i in group], own and [own[i] for i in group]) for group in groups.values())
        for parts in zip_longest(*found):
            ids = torch.full((len(rows),), end or 0, device=like.device)
            for group, part in zip(groups.values(), parts, strict=True):
                if part is not None:
                    ids[group] = part
            yield ids

    return columns()


def draw(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws tokens (B,) from softmax(logits / temperature), for logits (B, V).

    top_k keeps the k likeliest tokens (of equals, the first). top_p keeps the likeliest of these,
    as few as have probability top_p together (nucleus sampling, arXiv 1904.09751, section 3.1).
    Raises ValueError for a negative temperature, a top_k below 1, or a top_p outside (0, 1].

    >>> draw(torch.tensor([[0.0, 2.0, 1.0]]), temperature=0)
    tensor([1])
    """
    check_drawing(temperature, top_k, top_p)
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.double()
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # the largest is 0, however small the temperature
    order = None
    if top_k is not None or top_p is not None:
        logits, order = logits.sort(dim=-1, descending=True, stable=True)
        logits = logits[:, :top_k]
    chances = logits.softmax(-1)
    if top_p is not None and top_p < 1:  # sums are rounded: at 1 they might leave out the unlikeliest
        chances = chances.masked_fill(chances.cumsum(-1) - chances >= top_p, 0.0)
    choice = torch.multinomial(chances, 1, generator=generator)
    return (choice if order is None else order.gather(-1, choice))[:, 0]


def _draws(sampler: Sampler, y: Tensor, energy: Any, steps: int | None) -> bool:
    """Tells whether a trajectory of a sampler draws numbers, by trying one on a bowl."""
    probe = torch.Generator(y.device).manual_seed(0)
    before = probe.get_state()
    bowls: list[EnergyFn] = [lambda y: y.square().sum(-1)] * getattr(energy, "levels", 1)
    try:
        with torch.no_grad(), eval_mode(sampler):
            sampler.sample(bowls, y, steps=steps, generator=probe)
    except (ValueError, TypeError, AttributeError, RuntimeError, FloatingPointError):
        return True  # it asks for more than a function, so nobody knows
    return not torch.equal(before, probe.get_state())


def check_drawing(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises ValueError where tokens cannot be drawn so."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature}: pass a number of at least 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: pass a number of at least 1, or None")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: pass a number in (0, 1], or None")
