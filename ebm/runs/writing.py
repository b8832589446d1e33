"""What a run writes after prompts, as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ebm.decoding.generate import generate
from ebm.interfaces.abilities import WritesText, lacking
from ebm.randomness import stream
from ebm.tasks.text.tokenizers import encode_prompt
from ebm.tasks.text.writing import Continuation

if TYPE_CHECKING:
    from ebm.runs.run import Run

ROWS_AT_ONCE = 32  # texts that are written beside each other


class Written(NamedTuple):
    """A piece of a text: all of them, joined, are the text."""

    row: int  # of the texts, those of the first prompt first
    piece: str
    finish: str | None  # with the last piece: "end" of text, a "stop" string, or the "length" that was asked for


def write(
    run: Run,
    prompts: Sequence[str],
    *,
    n: int = 1,
    max_new_tokens: int = 200,
    stop: str | Sequence[str] | None = None,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    think_steps: int | None = None,
    candidates: int = 1,
    patience: int | None = None,
    cut: bool = False,
    seed: int = 0,
) -> Iterator[Written]:
    """Writes on from prompts: iterates over pieces of `n` texts for each, as they come.

    A text is drawn from the seed, its prompt, and how many of this prompt were before it: not from
    the texts beside it. Errors come at the call; `Run.generate` has the arguments.
    """
    task = writes(run)
    if n < 1:
        raise ValueError(f"n={n}: ask for at least one text of each prompt")
    if not prompts:
        raise ValueError('no prompt: pass at least one, or "" for a new document')
    window, copies = task.context_length, Counter[str]()
    rows: list[tuple[str, list[int], Any]] = []
    for text in prompts:
        ids = encode_prompt(task.tokenizer, text)
        if getattr(task, "rows_begin_with_end", False) and text:
            ids = [task.tokenizer.end, *ids]
        if len(ids) > window and not cut:
            what = f"the prompt {text[:20]!r}… has {len(ids)} tokens"
            raise ValueError(
                f"{what}, but the run's context is {window}: shorten it, or cut=True (--cut) keeps its last {window}"
            )
        for _ in range(n):
            rows.append((text, ids[-window:], stream(seed, "generate", copies[text], text, device=run.device)))
            copies[text] += 1
    stops = [] if stop is None else [stop] if isinstance(stop, str) else [*stop]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    options |= {"steps": think_steps, "candidates": candidates, "patience": patience}
    options |= {"window": window, "end": task.tokenizer.end, "start": getattr(task, "starts_at", "uniform")}

    def begin(first: int) -> tuple[list[Continuation], Iterator[Any]]:
        chunk = rows[first : first + ROWS_AT_ONCE]
        generators = [generator for *_, generator in chunk]
        tokens = generate(run.energy, run.sampler, [ids for _, ids, _ in chunk], generator=generators, **options)
        return [Continuation(task.tokenizer, ids, stops) for _, ids, _ in chunk], tokens

    begun = begin(0)  # with its checks

    def pieces() -> Iterator[Written]:
        for first in range(0, len(rows), ROWS_AT_ONCE):
            texts, tokens = begun if first == 0 else begin(first)
            for ids in tokens:
                for row, (text, token) in enumerate(zip(texts, ids.tolist(), strict=True), first):
                    if text.finish is None and ((piece := text.push(token)) or text.finish):
                        yield Written(row, piece, text.finish)
                if all(text.finish for text in texts):
                    break
            for row, text in enumerate(texts, first):
                if text.finish is None:
                    yield Written(row, text.close(), text.finish)

    return pieces()


def writes(run: Run) -> Any:
    """Returns a run's task; ValueError where it is none of text."""
    task = run.judge()
    if missing := lacking(task, WritesText):
        raise ValueError(
            f"{run.path} was not trained on text: its task {type(task).__name__} has no {' and no '.join(missing)}, "
            f"as the tasks text, dyck and questions have"
        )
    return task
