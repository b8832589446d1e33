"""What a report shows of token sequences: what thinking buys, each token's energy and steps, and generated text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ebm.figures import DATA, INK, NOISE, OTHER, SAMPLES, Picture, figure_of
from ebm.interfaces import Batch, check_steps
from ebm.randomness import stream
from ebm.study import Finding, read_findings
from ebm.tasks.tokens import TokenTask
from ebm.thinking import Thinker, think

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ebm.runs import Run

__all__ = ["adaptive", "continuations", "pictures", "strips"]

STRIPS, LONGEST = 3, 8  # windows whose tokens are coloured, and the steps that a token thinks at most there
PROMPT, WRITTEN, TEMPERATURE = 48, 240, 0.7  # tokens of a prompt and of its continuation
COOL, WARM = (255, 255, 255), (210, 96, 58)


class Token(NamedTuple):
    """A token of a strip: its text, its energy's colour, and how many steps it took."""

    text: str
    color: str
    energy: float
    steps: int


def pictures(run: Run) -> list[Picture]:
    """Draws a study of thinking: loss by steps and by candidates beside the baseline's, and the gain on every split."""
    found = [finding for finding in read_findings(run.path) if finding.name in ("loss", "energy")]
    loss = [finding for finding in found if finding.name == "loss"]
    if not loss:
        return []
    splits = list(dict.fromkeys(finding.split for finding in loss))
    drawn = [_thinking_picture(run, loss, [f for f in found if f.name == "energy"], splits[0])]
    if len(splits) > 1:
        drawn.append(_splits_picture(loss, splits))
    closing = [finding for finding in read_findings(run.path) if finding.name == "closing_accuracy"]
    if closing:
        drawn.append(_depths_picture(closing, splits))
    return drawn


def _thinking_picture(run: Run, loss: Sequence[Finding], energy: Sequence[Finding], split: str) -> Picture:
    flat = [f.value for f in loss if f.who == "baseline" and f.split == split]
    what = "loss (nats per token)" if isinstance(run.task, TokenTask) else "loss"
    with figure_of(9.6, 3.0) as (figure, png):
        several = any(f.candidates > 1 for f in loss)
        left, *more, right = figure.subplots(1, 2 + several)
        steps = {f.steps: f.value for f in loss if f.who == "run" and f.split == split and f.candidates == 1}
        own = check_steps(run.sampler.steps)[1]
        starts = {1: steps[own]} | {f.candidates: f.value for f in loss if f.who == "run" and f.candidates > 1}
        curves = [(left, steps, "thinking steps per landscape"), *((axes, starts, "candidates") for axes in more)]
        for axes, curve, label in curves:
            axes.plot(list(curve), list(curve.values()), "o-", color=SAMPLES, label="thinking", markersize=4)
            if flat:
                axes.axhline(flat[0], color=DATA, linestyle=(0, (4, 3)), label="baseline")
            axes.set(xlabel=label, xticks=list(curve), title=what if axes is left else "")
            axes.ticklabel_format(axis="y", useOffset=False)
        left.axvline(own, color=NOISE, linewidth=0.8)
        left.legend()
        by_step = {f.steps: f.value for f in energy if f.split == split and f.candidates == 1}
        right.plot(list(by_step), list(by_step.values()), "o-", color=INK, markersize=4)
        right.set(xlabel="thinking steps per landscape", title="mean energy where thinking ends", xticks=list(by_step))
    return "thinking", png.getvalue(), ""


def _splits_picture(loss: Sequence[Finding], splits: Sequence[str]) -> Picture:
    """Draws, for every split, how much lower the loss is than after one step, and than the baseline's."""
    with figure_of(9.6, 2.8) as (figure, png):
        left, right = figure.subplots(1, 2)
        for axes, against in ((left, "one step"), (right, "the baseline")):
            if any(f.who == "baseline" for f in loss) or against == "one step":
                _gains(axes, loss, splits, against)
    return "splits", png.getvalue(), ""


def _depths_picture(closing: Sequence[Finding], splits: Sequence[str]) -> Picture:
    """Draws how often closing brackets are right, split by split, for the baseline and for several amounts of thinking."""
    with figure_of(9.6, 3.0) as (figure, png):
        axes = figure.subplots()
        steps = sorted({f.steps for f in closing if f.candidates == 1})
        for count in steps:
            values = [f.value for split in splits for f in closing if (f.split, f.steps, f.candidates) == (split, count, 1)]
            share = steps.index(count) / max(1, len(steps) - 1)
            how = {"color": DATA, "linestyle": (0, (4, 3))} if count == 0 else {"color": SAMPLES, "alpha": 0.3 + 0.7 * share}
            axes.plot(
                splits, values, "o-" if count else "o", label=f"{count} steps" if count else "baseline", markersize=4, **how
            )
        axes.set(title="closing brackets predicted right", ylabel="share")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return "depths", png.getvalue(), ""


def _gains(axes: Axes, loss: Sequence[Finding], splits: Sequence[str], against: str) -> None:
    for split, color in zip(splits, (DATA, SAMPLES, INK, OTHER, NOISE), strict=False):
        curve = {f.steps: f.value for f in loss if f.split == split and f.candidates == 1}
        base = curve.get(0, 0.0) if against == "the baseline" else curve[min(step for step in curve if step)]
        gain = {step: 100 * (base - value) / base for step, value in sorted(curve.items()) if step}
        axes.plot(list(gain), list(gain.values()), "o-", color=color, label=split, markersize=4)
    axes.axhline(0, color=NOISE, linewidth=0.8)
    axes.set(xlabel="thinking steps per landscape", title=f"loss below that of {against} (%)", xticks=list(gain))
    axes.legend()


def adaptive(run: Run) -> str:
    """Says what adaptive stopping found, where it was studied."""
    # reversed, so that the first split, in distribution, is what remains
    found = {f.name: f for f in reversed(read_findings(run.path)) if f.name in ("loss_adaptive", "steps_adaptive")}
    if len(found) < 2:
        return ""
    loss, steps = found["loss_adaptive"], found["steps_adaptive"]
    return (
        f"Stopping each token once its energy falls no further, at most {steps.steps} steps per landscape: "
        f"{steps.value:.2f} steps on average, and a loss of {loss.value:.4f}."
    )


def strips(run: Run, seed: int) -> list[list[Token]]:
    """Thinks about held-out windows with adaptive stopping: each token with its final energy, and the steps it took."""
    task = run.task
    if not isinstance(task, TokenTask) or not hasattr(task, "tokenizer") or not isinstance(run.thinker, Thinker):
        return []
    generator = stream(seed, "strips", device=run.device)
    batch = _first(task, STRIPS, run.device)

    def start(generator: torch.Generator | None = None) -> Tensor:
        return task.start(batch, generator=generator)

    thought = think(run.energy, run.sampler, batch.context, start, steps=LONGEST, patience=1, generator=generator)
    low, high = thought.energy.double().quantile(0.02).item(), thought.energy.double().quantile(0.98).item()
    lines = []
    for ids, energies, steps in zip(batch.target.tolist(), thought.energy.tolist(), thought.steps.tolist(), strict=True):
        shown = [_readable(task, token) for token in ids]
        colors = [_color((energy - low) / max(high - low, 1e-9)) for energy in energies]
        lines.append([Token(*fields) for fields in zip(shown, colors, energies, steps, strict=True)])
    return lines


def continuations(run: Run, seed: int) -> list[tuple[str, str, str]]:
    """Continues the beginnings of held-out windows: (who, prompt, what was written)."""
    from ebm.generation import generate

    task = run.task
    if not isinstance(task, TokenTask) or not hasattr(task, "tokenizer"):
        return []
    prompts = [row[: min(PROMPT, task.context_length)] for row in _first(task, 2, run.device).context.tolist()]
    written = []
    for who, model in (("run", run), ("baseline", run.baseline)):
        if model is not None:
            options = {"max_new_tokens": WRITTEN, "window": task.context_length, "temperature": TEMPERATURE}
            generator = stream(seed, "continuations", device=run.device)
            tokens = generate(model.energy, model.sampler, prompts, start=task.starts_at, generator=generator, **options)  # type: ignore[arg-type]
            rows = torch.stack([*tokens], 1).tolist()
            written += [(who, task.tokenizer.decode(p), task.tokenizer.decode(r)) for p, r in zip(prompts, rows, strict=True)]
    return written


def _first(task: TokenTask, count: int, device: torch.device) -> Batch:
    """Takes the first windows of the test split."""
    batch = next(iter(task.loader("test", count)))
    return Batch(*(None if field is None else field.to(device) for field in batch))


def _readable(task: Any, token: int) -> str:
    """Writes a token so that it can be seen."""
    if token == task.tokenizer.end:
        return "⏹"
    text = task.tokenizer.decode([token])
    return text.replace("\n", "⏎") if text.isprintable() or "\n" in text else "·"


def _color(share: float) -> str:
    """Mixes a colour between cool (0, low energy) and warm (1, high)."""
    share = min(max(share, 0.0), 1.0)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(COOL, WARM, strict=True))
