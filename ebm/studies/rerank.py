"""What choosing among draws buys: one draw, the likeliest of N, and that of the lowest energy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ebm.decoding.rerank import choose
from ebm.decoding.sequences import NOTHING, draw, log_likelihood, score, split_rows
from ebm.interfaces.abilities import DrawsSequences, HasAnswers, JudgesText, WritesAnswers, lacking
from ebm.judging.residual import residual_nats
from ebm.randomness import stream
from ebm.runs.run import Run
from ebm.studies.findings import Finding


def rerank(
    run: Run,
    *,
    splits: Sequence[str] = ("test",),
    n: int = 16,
    limit: int | None = 128,
    prompt: int = 8,
    temperature: float = 1.0,
    seed: int | None = None,
) -> list[Finding]:
    """Judges whole sequences that the run's base draws, by who chooses among N of them.

    Where a task can tell what is right: `solved` is the share of prompts whose sequence is, with
    one draw ("single"), of N the likeliest ("likelihood"), of the lowest energy ("energy"), of the
    highest probability of both together, log p_base − E ("joint"), drawn by importance
    ("resampled"), and the share where any is ("any"). `missed` is the share that
    neither one draw nor the likeliest solves, `recovered` the share of these that the energy does.

    At temperature 1, `nats_base` is the base's loss per token of held-out sequences, and the residual
    model's lies between `nats_at_least` and `nats_at_most` if draws are enough
    (`ebm.judging.residual`). `nats_resampled` is what resampling of n + 1 draws has at most, however
    few they are, and `nats_gain` what it gains on the base at least. Each has an interval of 95 %
    over prompts, in `_low` and `_high`, where there are several.

    Arguments:
        run: a run of `sequence-nce`.
        splits: what to judge on.
        n: how many sequences are drawn for each prompt.
        limit: prompts of each split.
        prompt: tokens of a text that are given; of answers, all of the question is.
        temperature: of the draws.
        seed: what every draw is derived from; the run's by default.

    Raises:
        ValueError: the run has no base that it draws from, or no text is longer than the prompt.
    """
    if not isinstance(run.objective, DrawsSequences):
        raise ValueError(f"{run.path} has no energy of whole sequences: train one by the objective sequence-nce")
    if n < 2:
        raise ValueError(f"n={n}: choosing takes at least two")
    root, found = run.recipe.get("seed", 0) if seed is None else seed, list[Finding]()
    for split in splits:
        with torch.no_grad():
            parts = [*_judged(run, split, n, limit, prompt, temperature, root)]
        if not parts:
            raise ValueError(f"split {split!r} has no text of more than prompt={prompt} tokens: give fewer")
        found += _findings(split, n, parts, temperature == 1, root)
    return found


def _judged(
    run: Run, split: str, n: int, limit: int | None, prompt: int, temperature: float, root: int
) -> Iterator[tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Draws for batches: what is right (N, B), likelihoods and energies (N, B), the data's (B,), tokens (B,)."""
    task: Any = run.judge()
    base: Any = run.objective.base  # type: ignore[union-attr]
    generator = stream(root, "study", "rerank", split, device=run.device)
    end = None if isinstance(base, WritesAnswers) else task.tokenizer.end
    for batch in task.judged(split, limit):
        batch = batch.to(run.device)
        how: dict[str, Any] = {}
        if isinstance(base, WritesAnswers):
            before, after = batch.context, batch.target
        else:
            total = batch.target.shape[1] + 1
            known = torch.full((len(batch.target),), prompt, device=run.device)
            before, after = split_rows(batch, known, end)
            going_on = after[:, 0] != NOTHING
            if not bool(going_on.any()):
                continue
            before, after, how = before[going_on], after[going_on], {"length": total - prompt, "end": end}
            after = after[:, : how["length"]]
        ids = draw(base, before, n, temperature=temperature, generator=generator, **how)
        vocab = base.vocab_size
        right = None
        if not lacking(task, HasAnswers) and isinstance(base, WritesAnswers):
            right = task.accepts(ids, batch)
        elif not lacking(task, JudgesText):
            right = task.is_right(torch.cat([before.expand(n, -1, -1), ids], -1))
        energies, own = score(run.energy, before, ids, vocab), score(run.energy, before, after[None], vocab)[0]
        likelihoods, known_ones = log_likelihood(base, before, ids), log_likelihood(base, before, after[None])[0]
        yield right, likelihoods, energies, known_ones, own, (after != NOTHING).sum(1)


def _findings(split: str, n: int, parts: list[Any], exact: bool, root: int) -> Iterator[Finding]:
    rights, *numbers = zip(*parts, strict=True)
    likelihoods, energies = (torch.cat(each, 1) for each in numbers[:2])
    of_data, own, tokens = (torch.cat(each) for each in numbers[2:])
    generator = stream(root, "study", "rerank", "choices", split, device=energies.device)

    def finding(name: str, value: float, choice: str = "", candidates: int = n) -> Finding:
        return Finding("run", split, 0, candidates, name, value, choice)

    if rights[0] is not None:
        right = torch.cat(rights, 1)
        rows = torch.arange(right.shape[1], device=right.device)
        chosen = {"likelihood": likelihoods.argmax(0), "energy": choose(energies), "joint": choose(energies - likelihoods)}
        solved = {"single": right[0]} | {name: right[index, rows] for name, index in chosen.items()}
        solved |= {"resampled": right[choose(energies, resample=True, generator=generator), rows], "any": right.any(0)}
        for name, each in solved.items():
            yield finding("solved", each.double().mean().item(), name, 1 if name == "single" else n)
        missed = ~solved["single"] & ~solved["likelihood"]
        yield finding("missed", missed.double().mean().item())
        if bool(missed.any()):
            yield finding("recovered", solved["energy"][missed].double().mean().item())
    if exact:
        told = residual_nats(of_data, own, energies, tokens)._asdict()
        for name, (value, low, high) in {"gain": told["gain"], **told}.items():  # the first is what a text's study is about
            yield finding(f"nats_{name}", value)
            for suffix, end in (("_low", low), ("_high", high)):
                if math.isfinite(end):
                    yield finding(f"nats_{name}{suffix}", end)
