"""The verdict on a training run, from its history alone: exploding energy gaps, frozen chains, vanishing gradients."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Curve", "History", "Verdict", "verdict"]

Curve = tuple[list[int], list[float]]  # steps, values
History = Mapping[tuple[str, str], Curve]  # by (split, name)

# Thresholds lie far from what healthy runs show: a verdict that cries wolf is not read.
GAP_LIMIT = 1e3  # nats, at temperature 1: no chain mixes over that; healthy gaps hover within a few, images' within tens
GAP_GROWTH, GAP_FLOOR = 30.0, 100.0  # or 30 times the largest gap of the first tenth, where that is over 100 nats
LOSS_GROWTH = 100.0  # times the largest loss of the first tenth: a loss that measures a distance has run away
STILL = 1e-3  # displacement, in units of data scaled to about 1: one Langevin step of size 1e-6 moves a point further
FLAT = 1e-5  # |∇E|: a thousand steps of size 0.1 along such a slope move a chain by 1e-3
STOPPED = 1e-7  # norm of the parameters' gradient: AdamW divides by √v + 1e-8, so below this its steps shrink to nothing


class Verdict(NamedTuple):
    """Whether training went well, and a line that says so."""

    healthy: bool
    line: str


def verdict(history: History) -> Verdict:
    """Judges how training ended: did the energy gap explode, did chains freeze, did gradients vanish?

    Terms are found by their names, a weighted sum's ("0.energy_gap") included; what is absent is not judged.

    >>> calm = {("train", name): ([1, 2, 3], [0.1, -0.2, 0.1]) for name in ("energy_gap", "energy_samples")}
    >>> verdict(calm).line
    'Healthy: nothing exploded, froze or vanished.'
    >>> verdict({**calm, ("train", "energy_gap"): ([1, 2, 3], [-0.1, -1e4, -1e9])}).healthy
    False
    """
    terms = {name: values for (split, name), (_, values) in history.items() if split == "train"}
    groups = sorted({name.rpartition(".")[0] for name in terms})
    found = [symptom for group in groups for symptom in _symptoms(terms, f"{group}." if group else "")]
    if found:
        return Verdict(False, "Training diverged: " + " Also, ".join(dict.fromkeys(found)))
    return Verdict(True, "Healthy: nothing exploded, froze or vanished.")


def _symptoms(terms: Mapping[str, list[float]], prefix: str) -> Iterator[str]:
    """Says what is wrong with the terms of one objective, each with the usual remedy."""
    names = ("energy_gap", "loss", "displacement", "grad_norm", "gradient_norm")
    gap, loss, moved, slope, gradient = (terms.get(prefix + name) for name in names)
    # Where no samples are scored, "gap" means something else. And a contrastive loss measures no distance, but is a gap.
    contrastive = any(name.endswith("energy_samples") for name in terms)
    if gap and f"{prefix}energy_samples" in terms:
        end = _end(gap)
        grown = len(gap) >= 10 and abs(end) > max(GAP_FLOOR, GAP_GROWTH * max(map(abs, _beginning(gap))))
        if grown or not abs(end) <= GAP_LIMIT:
            yield (
                f"the energy gap between data and samples exploded to {end:.3g} (it should hover around zero). A lower lr "
                f"or step_size, clip_norm, more sampling steps, or an energy_l2 of about 0.1 to 1 usually holds it."
            )
    if loss and not contrastive and len(loss) >= 10 and not _end(loss) <= LOSS_GROWTH * max(map(abs, _beginning(loss))):
        yield (
            f"the loss exploded from {_beginning(loss)[0]:.3g} to {_end(loss):.3g}. "
            f"A lower lr, warmup, clip_norm, or a smaller step_size usually holds it."
        )
    if moved and _end(moved) < STILL:
        yield (
            f"the chains are frozen, a trajectory moves them by {_end(moved):.1g}. A larger step_size or temperature "
            f"usually frees them; where steps are accepted or rejected, a smaller step_size does."
        )
    # Chains that rest on the floor of a real valley lie below the data: the landscape is flat only where there is no gap.
    if slope and _end(slope) < FLAT and not (gap and abs(_end(gap)) > 100 * FLAT):
        yield (
            f"the gradients vanish, the landscape's slope where chains end is {_end(slope):.1g}. "
            f"Less energy_l2 or weight_decay, or activations that do not saturate usually bring it back."
        )
    # A loss that fell, or is next to nothing, has a small gradient because it is learned.
    fell = loss and not contrastive and (_end(loss) < 0.9 * statistics.median(_beginning(loss)) or abs(_end(loss)) < 1e-6)
    if gradient and _end(gradient) < STOPPED and not fell:
        yield (
            f"the gradients vanish, that of the parameters has norm {_end(gradient):.1g}. "
            f"Less weight_decay, a higher lr, or activations that do not saturate usually bring it back."
        )


def _beginning(values: Sequence[float]) -> Sequence[float]:
    return values[: max(1, len(values) // 10)]


def _end(values: Sequence[float]) -> float:
    """Says where values end: the median of the last twentieth, or of the last five, which forgives a spike."""
    return statistics.median(values[-max(min(5, len(values) // 2), len(values) // 20, 1) :])
