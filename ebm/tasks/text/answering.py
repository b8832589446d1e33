"""Written answers: what any predictor of tokens writes after prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ebm.decoding.generate import draw, generate
from ebm.interfaces import Batch, Predictor
from ebm.interfaces.abilities import Decodes, FeedForward, lacking
from ebm.samplers import GradientDescent
from ebm.tasks.text.tokens import TokenTask
from ebm.tasks.text.writing import Continuation
from ebm.thinking import Thinker


@torch.no_grad()
def written(
    predictor: Predictor,
    task: TokenTask,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop: Sequence[str] = (),
    max_new_tokens: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Writes on from prompts (rows of ids, none longer than the context) until a stop string or end-of-text."""
    texts = [Continuation(tokenizer, prompt, stop) for prompt in prompts]
    how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "window": task.context_length, "temperature": temperature}
    how |= {"end": tokenizer.end, "start": task.starts_at, "generator": generator}
    plain = isinstance(predictor, Thinker) and predictor.residual is None and not predictor.tolerance
    if isinstance(predictor, Thinker) and plain and not lacking(predictor.energy, Decodes):
        thinking: dict[str, Any] = {key: getattr(predictor, key) for key in ("candidates", "steps", "select", "patience")}
        columns = generate(predictor.energy, predictor.sampler, prompts, **thinking, **how)
    elif isinstance(predictor, FeedForward) and not lacking(predictor, Decodes):
        step = GradientDescent(step_size=float(getattr(predictor, "natural_step", 1)), steps=1)
        columns = generate(predictor, step, prompts, **how)
    else:
        columns = predicted(predictor, task, prompts, max_new_tokens, temperature, generator)
    for ids in columns:
        for text, token in zip(texts, ids.tolist(), strict=True):
            text.push(token)
        if all(text.finish for text in texts):
            break
    for text in texts:
        text.close()
    return [text.text for text in texts]


def predicted(
    predictor: Predictor,
    task: TokenTask,
    prompts: Sequence[Sequence[int]],
    count: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Predicts tokens (B,) from the whole context each time, as every predictor can."""
    rows, window = [[*prompt] for prompt in prompts], task.context_length
    device = "cpu" if generator is None else generator.device
    for _ in range(count):
        recent = [row[-window:] for row in rows]
        last = torch.tensor([len(row) - 1 for row in recent], device=device)
        context = torch.tensor([row + [0] * (int(last.max()) + 1 - len(row)) for row in recent], device=device)
        batch = Batch(torch.cat([context[:, 1:], torch.zeros_like(context[:, :1])], 1), context)
        y = predictor.predict(batch, task.starts(predictor, batch, generator=generator), generator=generator).y
        ids = draw(y[torch.arange(len(rows), device=device), last], temperature, generator=generator)
        for row, token in zip(rows, ids.tolist(), strict=True):
            row.append(token)
        yield ids
