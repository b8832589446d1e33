"""`ebm generate RUN`: write on from a prompt."""

from __future__ import annotations

from typing import Any

from ebm.commands.console import say
from ebm.decoding.generate import generate as generated
from ebm.interfaces.abilities import WritesText, lacking
from ebm.randomness import stream
from ebm.runs.run import Run
from ebm.tasks.text.tokenizers import encode_prompt, pieces


def generate(
    run: Run,
    /,
    *,
    prompt: list[str],
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    think_steps: int | None = None,
    candidates: int = 1,
    patience: int | None = None,
    seed: int = 0,
) -> None:
    """Generate text from a run: prints what follows a prompt as it comes, or several at the end.

    Args:
        run: the run folder.
        prompt: what the text begins with ("" for a new document); more than once for several texts.
        max_new_tokens: how many tokens to add at most; end-of-text ends a text before.
        temperature: what logits are divided by; 0 takes the likeliest token.
        top_k: draw from this many of the likeliest tokens.
        top_p: draw from the likeliest tokens, as few as have this probability together.
        think_steps: steps per landscape for each token; by default the run's.
        candidates: starts that are tried for each token, of which the energy chooses.
        patience: think about a token until its energy fell no further for this many steps.
        seed: what every random draw is derived from.
    """
    task: Any = run.judge()
    if missing := lacking(task, WritesText):
        raise ValueError(
            f"{run.path} was not trained on text: its task {type(task).__name__} has no {' and no '.join(missing)}, "
            f"as the tasks text, dyck and questions have"
        )
    prompts = [encode_prompt(task.tokenizer, text) for text in prompt]
    for text, ids in zip(prompt, prompts, strict=True):
        if len(ids) > task.context_length:
            what = f"the prompt {text[:20]!r}… has {len(ids)} tokens"
            raise ValueError(f"{what}, but the run's context is {task.context_length}")
    tokens = generated(
        run.energy,
        run.sampler,
        prompts,
        max_new_tokens=max_new_tokens,
        window=task.context_length,
        end=task.tokenizer.end,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        candidates=candidates,
        steps=think_steps,
        patience=patience,
        start=getattr(task, "starts_at", "uniform"),
        generator=stream(seed, "generate", device=run.device),
    )
    if len(prompts) == 1:
        say(prompt[0], end="", flush=True)
        for piece in pieces(task.tokenizer, prompts[0], (int(ids) for ids in tokens)):
            say(piece, end="", flush=True)
        print()
        return
    rows = zip(*(ids.tolist() for ids in tokens), strict=True)
    for text, ids, row in zip(prompt, prompts, rows, strict=True):
        say(text, *pieces(task.tokenizer, ids, row), "\n", sep="")
