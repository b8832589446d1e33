"""Generating text: each next token is thought about given the cached code of its past, which is never thought about again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from ebm.baselines.transformer import Transformer
from ebm.energies.ebt.streams import Code
from ebm.energies.ebt.text import TextEBT, padded
from ebm.interfaces import Given, Sampler, check_configuration, check_steps, eval_mode
from ebm.tasks.text.tokenizers import Tokenizer
from ebm.thinking import Select, check_choices, think

__all__ = ["draw", "generate", "pieces"]


def generate(
    energy: TextEBT | Transformer,
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
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Generates tokens: iterates over ids (B,), one for each prompt, until all rows have ended.

    A token costs a trajectory of its own logits (B, 1, V), and one position of the observed stream for each different
    landscape: what came before is a code, extended by the token. Once a row has filled the window, the last half window of
    every row is encoded anew: in all, some two positions are encoded for each token. (So a row's text depends on the rows
    beside it from there on, and where noise is drawn.)

    Arguments:
        energy: a TextEBT or a Transformer.
        sampler: moves logits; its raw state is the next token's logits (retraction="softmax").
        prompts: rows of ids, of at least one and at most `window` tokens each.
        max_new_tokens: how many tokens are generated at most.
        window: how many tokens are seen at most: the context length that the energy was trained with.
        end: the id that ends a row, which then repeats it. None: no row ends.
        temperature: what logits are divided by; 0 takes the likeliest token.
        top_k, top_p: which tokens are drawn from, as `draw` says.
        candidates, steps, select, patience: how each token is thought about, as `think` says.
        start: where thinking starts, "uniform" (logits 0) or "noise" (standard normal logits).
        generator: where starts, noise and tokens are drawn from.

    Raises:
        ValueError: for arguments that cannot work, at the call.
        FloatingPointError: thinking left the finite numbers.

    >>> from ebm.samplers import GradientDescent
    >>> energy = TextEBT(vocab_size=11, dim=8, depth=2, heads=2)
    >>> sampler = GradientDescent(step_size=1.0, steps=2, retraction="softmax")
    >>> tokens = generate(energy, sampler, [[1, 2, 3], [4]], max_new_tokens=5, window=16)
    >>> torch.stack([*tokens], 1).shape
    torch.Size([2, 5])
    """
    if not isinstance(energy, TextEBT | Transformer):
        raise ValueError(f"energy is {type(energy).__name__}: tokens are generated from a TextEBT or a Transformer")
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
            raise ValueError(f"prompts[{index}] has {len(row)} tokens, more than window={window}: pass at most its last {window}")
        if not all(0 <= token < size for token in row):
            raise ValueError(f"prompts[{index}] has ids from {min(row)} to {max(row)}, outside the {size} tokens")
    if end is not None and not 0 <= end < size:
        raise ValueError(f"end={end} is outside the {size} tokens")
    if start not in ("uniform", "noise"):
        raise ValueError(f"start={start!r}: choose uniform or noise")
    check_drawing(temperature, top_k, top_p)
    check_choices(candidates, select, patience)
    check_steps(sampler.steps if steps is None else steps)
    weight = energy.embedding.weight
    origin = torch.zeros(len(rows), 1, size, dtype=weight.dtype, device=weight.device)
    check_configuration(origin, generator)

    def begin(generator: torch.Generator | None = None) -> Tensor:
        return origin if start == "uniform" else torch.empty_like(origin).normal_(generator=generator)

    def tokens() -> Iterator[Tensor]:
        codes: list[Code] = []
        ids, ended = origin.new_empty(0, dtype=torch.long), torch.zeros(len(rows), dtype=torch.bool, device=origin.device)
        for _ in range(max_new_tokens):
            with torch.no_grad(), eval_mode([energy, sampler]):  # and out of both before a caller sees the token
                if codes and codes[0].length < window:
                    codes = [energy.extend(code, ids[:, None]) for code in codes]
                else:
                    codes = encoded(energy, rows if not codes else [row[-max(1, window // 2) :] for row in rows])
                functions = [Given(energy, codes[level % len(codes)]) for level in range(energy.levels)]
                if candidates == 1 and patience is None:  # think would spend a forward pass on an energy that nobody compares
                    y = sampler.sample(functions, begin(generator), steps=steps, generator=generator)
                else:
                    y = think(functions, sampler, None, begin, candidates, steps, select, patience, generator=generator).y
                ids = draw(y[:, -1], temperature, top_k, top_p, generator=generator)
            if end is not None:
                ids = ids.masked_fill(ended, end)
                ended = ended | (ids == end)
            for row, token in zip(rows, ids.tolist(), strict=True):
                row.append(token)
            yield ids.clone()
            if bool(ended.all()):
                return

    return tokens()


def encoded(energy: TextEBT | Transformer, rows: list[list[int]]) -> list[Code]:
    """Encodes rows of ids, once for each landscape that differs from the others."""
    context = padded(rows, energy.embedding.weight.device)
    levels = range(1 if energy.conditioning == "none" else energy.levels)
    return [energy.encode(context if bool(context.pad.any()) else context.ids, level) for level in levels]


def draw(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws tokens (B,) from softmax(logits / temperature), for logits (B, V).

    With top_k only the k likeliest tokens are drawn from. With top_p only the likeliest ones are, as few as have probability
    top_p together (of what top_k leaves). Of equals, the first ones count as the likeliest.

    Source of top_p: nucleus sampling (arXiv 1904.09751, section 3.1).

    Raises:
        ValueError: for a negative temperature, a top_k below 1, or a top_p outside (0, 1].

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


def check_drawing(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises ValueError where tokens cannot be drawn so."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature}: pass a number of at least 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: pass a number of at least 1, or None")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: pass a number in (0, 1], or None")


def pieces(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
    """Decodes what follows a prompt as its tokens come, up to end-of-text; a piece never ends within a character.

    >>> from ebm.tasks.text.tokenizers import Bytes
    >>> list(pieces(Bytes(), [110], [195, 169, 33, 256, 33]))
    ['é', '!']
    """
    ids = [*prompt]
    text = said = tokenizer.decode(ids)
    for token in tokens:
        if token == tokenizer.end:
            break
        ids.append(token)
        text = tokenizer.decode(ids)
        whole = text.rstrip("\ufffd")  # what may be the beginning of a character
        if len(whole) > len(said):
            yield whole[len(said) :]
            said = whole
    if len(text) > len(said):
        yield text[len(said) :]
