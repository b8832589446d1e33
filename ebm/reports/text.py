"""What a report shows of text: each token's energy, generated text, and deep brackets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm.decoding.generate import generate
from ebm.figures import DATA, SAMPLES, figure_of
from ebm.interfaces import Batch, FeedForward
from ebm.interfaces.abilities import Decodes, WritesText, lacking
from ebm.judging.calibration import Reliability
from ebm.randomness import stream
from ebm.registry import hookimpl
from ebm.reports.section import Section
from ebm.runs.run import Run
from ebm.studies.confidence import calibrated
from ebm.studies.findings import Finding
from ebm.studies.thinking import read_findings
from ebm.thinking import Thinker, think

STRIPS, LONGEST = 3, 8  # windows whose tokens are coloured, and the steps that a token thinks at most there
PROMPT, WRITTEN, TEMPERATURE = 48, 128, 0.7  # tokens of a prompt and of its continuation
JUDGED = 32  # windows, of validation and of test, whose tokens are judged by how sure they are
COOL, WARM = (255, 255, 255), (210, 96, 58)


class Token(NamedTuple):
    """A token of a strip: its text, its energy's colour, and how many steps it took."""

    text: str
    color: str
    energy: float
    steps: int


@hookimpl
def ebm_sections(run: Run, seed: int) -> Iterator[Section]:
    """Shows text coloured by energy, generated text, and how deep brackets are closed right."""
    if lines := strips(run, seed):
        yield Section(
            "What it finds hard",
            "Held-out text, each token with the energy of its prediction where thinking ended: the "
            "warmer, the higher, so the less certain. The thicker the line below, the more steps until "
            "its energy fell no further. Point at a token for its numbers.",
            "\n".join(f'<p class="strip">{"".join(map(_span, line))}</p>' for line in lines),
            place=60,
        )
    if written := continuations(run, seed):
        texts = (f"<b>{escape(who)}</b> <i>{escape(prompt)}</i>{escape(text)}" for who, prompt, text in written)
        yield Section(
            "Generated text",
            "In italics the beginning of held-out text, and then what was generated (temperature 0.7).",
            "\n".join(f'<p class="text">{text}</p>' for text in texts),
            place=61,
        )
    if curves := sureness(run, seed):
        yield _reliability_picture(curves)
    closing = [finding for finding in read_findings(run.path) if finding.name == "closing_accuracy"]
    if splits := list(dict.fromkeys(finding.split for finding in closing)):
        yield _depths_picture(closing, splits)


def _span(token: Token) -> str:
    title = f"energy {token.energy:.4g}, {token.steps} steps"
    style = f'class="s{min(token.steps, 8)}" style="background: {token.color}"'
    return f'<span {style} title="{title}">{escape(token.text)}</span>'


def strips(run: Run, seed: int) -> list[list[Token]]:
    """Thinks about held-out windows, stopping adaptively: each token with its energy and steps."""
    task: Any = run.task
    if lacking(task, WritesText) or isinstance(run.energy, FeedForward):
        return []
    generator = stream(seed, "strips", device=run.device)
    batch = _first(task, STRIPS, run.device)

    def start(generator: torch.Generator | None = None) -> Tensor:
        return task.start(batch, generator=generator)

    thought = think(run.energy, run.sampler, batch.context, start, steps=LONGEST, patience=1, generator=generator)
    if thought.energy.shape != batch.target.shape:  # the energy is that of whole rows
        return []
    low, high = thought.energy.double().quantile(0.02).item(), thought.energy.double().quantile(0.98).item()
    lines = []
    for ids, energies, steps in zip(batch.target.tolist(), thought.energy.tolist(), thought.steps.tolist(), strict=True):
        shown = [_readable(task, token) for token in ids]
        colors = [_color((energy - low) / max(high - low, 1e-9)) for energy in energies]
        lines.append([Token(*fields) for fields in zip(shown, colors, energies, steps, strict=True)])
    return lines


def continuations(run: Run, seed: int) -> list[tuple[str, str, str]]:
    """Continues the beginnings of held-out windows: (who, prompt, what was written)."""
    task: Any = run.task
    models = {"run": run, "baseline": run.baseline}
    writers = {who: model for who, model in models.items() if model is not None and not lacking(model.energy, Decodes)}
    if lacking(task, WritesText) or not writers:
        return []
    prompts = [row[: min(PROMPT, task.context_length)] for row in _first(task, 2, run.device).context.tolist()]
    start, written = getattr(task, "starts_at", "uniform"), []
    for who, model in writers.items():
        how: dict[str, Any] = {"window": task.context_length, "start": start, "temperature": TEMPERATURE}
        generator = stream(seed, "continuations", device=run.device)
        tokens = generate(model.energy, model.sampler, prompts, max_new_tokens=WRITTEN, generator=generator, **how)
        rows = torch.stack([*tokens], 1).tolist()
        written += [(who, task.tokenizer.decode(p), task.tokenizer.decode(r)) for p, r in zip(prompts, rows, strict=True)]
    return written


def sureness(run: Run, seed: int) -> dict[str, Reliability]:
    """Judges how far the run's energies and its softmax tell which tokens are right; empty without energies."""
    if lacking(run.task, WritesText) or isinstance(run.energy, FeedForward) or not isinstance(run.thinker, Thinker):
        return {}
    return calibrated(run, "test", JUDGED, seed)


def _reliability_picture(curves: dict[str, Reliability]) -> Section:
    """Draws what was said against what was right, with each curve's expected error."""
    with figure_of(9.6, 3.2) as (figure, png):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for (name, curve), color in zip(curves.items(), (SAMPLES, DATA, DATA), strict=True):
            there, dashed = curve.members > 0, (0, (4, 3)) if "fitted" in name else "solid"
            label = f"{name}: error {curve.error:.3f}, Brier {curve.brier:.3f}"
            axes.plot(curve.said[there], curve.true[there], marker="o", markersize=3, color=color, linestyle=dashed, label=label)
        axes.set(xlabel="probability of being right, as said", ylabel="share that is right", aspect="equal")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return Section(
        "How sure it may be",
        "Each token's probability of being the likeliest one rightly: what isotonic regression on "
        "validation makes of the energy, what the softmax says, and that fitted alike. On the diagonal, what is "
        "said is so; the error is the expected calibration error on held-out text. What says the same of all tokens "
        f"may err as little: its Brier score is {curves['energy'].blind:.3f}, and a lower one knows more.",
        png.getvalue(),
        place=62,
    )


def _first(task: Any, count: int, device: torch.device) -> Batch:
    return next(iter(task.loader("test", count))).to(device)


def _readable(task: Any, token: int) -> str:
    if token == task.tokenizer.end:
        return "⏹"
    text = task.tokenizer.decode([token])
    return text.replace("\n", "⏎") if text.isprintable() or "\n" in text else "·"


def _color(share: float) -> str:
    """Mixes a colour between cool (0, low energy) and warm (1, high)."""
    share = min(max(share, 0.0), 1.0)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(COOL, WARM, strict=True))


def _depths_picture(closing: Sequence[Finding], splits: Sequence[str]) -> Section:
    """Draws how often closing brackets are right on each split, by steps of thinking."""
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
    return Section(
        "Deeper than training",
        "At a closing bracket the kind is decided by what is open. The first split has the depths "
        "of training, the others are deeper; thinking longer is drawn in a fuller colour.",
        png.getvalue(),
        place=32,
    )
