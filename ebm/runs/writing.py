"""What a run writes after prompts, as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ebm.decoding.generate import check_drawing, generate
from ebm.decoding.rerank import rerank as rerank_draws
from ebm.interfaces.abilities import DrawsSequences, WritesText, lacking
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
    energies: tuple[float, ...] = ()  # of all that were drawn, the chosen first, where a text was chosen


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
    rerank: int | None = None,
    resample: bool = False,
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
    _check_choosing(run, rerank, resample, (think_steps, candidates, patience))
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
    stops: list[str] = [] if stop is None else [stop] if isinstance(stop, str) else [*stop]
    if rerank is not None:
        drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        check_drawing(**drawing)  # type: ignore[arg-type]
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}: pass a number of at least 1")
        Continuation(task.tokenizer, rows[0][1], stops)  # checks the stop strings
        return _chosen(run, task, rows, stops, rerank, max_new_tokens, {**drawing, "resample": resample})
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


def _check_choosing(run: Run, rerank: int | None, resample: bool, thinking: tuple[int | None, int, int | None]) -> None:
    """Raises ValueError where a run cannot choose among texts, or can do nothing else."""
    chooses = isinstance(run.objective, DrawsSequences)
    if rerank is None:
        if resample:
            raise ValueError("resample=True draws one of several texts: pass rerank=N (--rerank N), how many are drawn")
        if chooses:
            raise ValueError(
                f"{run.path} has an energy that scores whole texts, and writes none: pass rerank=16 (--rerank 16) to choose "
                f"among 16 that its base draws, or rerank=1 for what the base draws"
            )
        return
    if not chooses:
        raise ValueError(
            f"rerank={rerank}: {run.path} has no energy of whole texts to choose by: train one that builds on it, by the "
            f'objective sequence-nce with base = "{run.path}", as the recipe dyck-rerank does, and choose by that run'
        )
    if rerank < 1:
        raise ValueError(f"rerank={rerank}: draw at least one text")
    if thinking != (None, 1, None):
        raise ValueError("think_steps, candidates and patience: rerank draws from a base that does not think: leave them out")


def _chosen(
    run: Run, task: Any, rows: list[tuple[str, list[int], Any]], stops: list[str], n: int, most: int, how: dict[str, Any]
) -> Iterator[Written]:
    """Writes each text at once: of n that the base draws, the one that the energy chooses."""
    base, window = run.objective.base, task.context_length + 1  # type: ignore[union-attr]
    for row, (_, ids, generator) in enumerate(rows):
        prompt = torch.tensor([ids], device=run.device)
        room: dict[str, Any] = {"length": min(most, window - len(ids)), "end": task.tokenizer.end}
        found = rerank_draws(run.energy, base, prompt, n, generator=generator, **room, **how)
        text = Continuation(task.tokenizer, ids, stops)
        for token in found.best[0].tolist():
            if token >= 0:
                text.push(token)
        text.close()
        energies, chosen = found.energies[:, 0].tolist(), int(found.chosen)
        yield Written(row, text.text, text.finish, (energies.pop(chosen), *energies))


def writes(run: Run) -> Any:
    """Returns a run's task; ValueError where it is none of text."""
    task = run.judge()
    if missing := lacking(task, WritesText):
        raise ValueError(
            f"{run.path} was not trained on text: its task {type(task).__name__} has no {' and no '.join(missing)}, "
            f"as the tasks text, dyck and questions have"
        )
    return task
