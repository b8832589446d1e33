"""The doctor reads a run's history and gives one verdict, with its reason and a remedy."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias, get_args

Curve: TypeAlias = tuple[list[int], list[float]]  # steps, values
History: TypeAlias = Mapping[tuple[str, str], Curve]  # by (split, name)
Cause: TypeAlias = Literal["learning rate", "stuck chains", "exploding energies", "exploding loss", "vanishing gradients"]

# Thresholds lie far from the values of healthy runs, so that healthy runs raise no alarm.
STILL = 1e-3  # displacement of frozen chains
GAP_LIMIT = 1e3  # nats, at temperature 1; healthy gaps stay within a few, images' within tens
GAP_GROWTH, GAP_FLOOR = 30.0, 100.0  # or times the first tenth's largest gap, if over 100 nats
LOSS_GROWTH = 100.0  # times the largest loss of the first tenth
STUCK = 0.99  # share of chains that stay at their start, or of entries on their bounds
REJECTED = 0.01  # acceptance
FLAT = 1e-5  # |∇E|: a thousand steps of size 0.1 along such a slope move a chain by 1e-3
STOPPED = 1e-7  # gradient norm: below it AdamW, dividing by √v + 1e-8, hardly moves
LEAP = 0.3  # |Δθ| / |θ| of one step; the bundled recipes have 0.003 to 0.12 at their peak
LEAPED = "a step changed the weights by {:.2g} times their size (0.001 to 0.05 is usual)"

REMEDIES: dict[Cause, str] = {
    "learning rate": "A tenth of lr or less usually holds; warmup and clip_norm soften the beginning.",
    "stuck chains": "A larger step_size or temperature, more steps, or fresh rows in the buffer usually free them; "
    "where steps are accepted or rejected, a smaller step_size does.",
    "exploding energies": "A lower lr or step_size, clip_norm, more sampling steps, smooth activations, or an energy_l2 of about "
    "0.1 to 1 usually holds them; --on-divergence rollback resumes from the last good checkpoint with new draws.",
    "exploding loss": "A lower lr, warmup, clip_norm, or a smaller step_size usually holds it.",
    "vanishing gradients": "Less energy_l2 or weight_decay, a higher lr, or smooth activations usually bring them back.",
}
assert set(REMEDIES) == set(get_args(Cause))


class Diverged(FloatingPointError):
    """Raised when the doctor stops training; the message is the verdict."""


class Verdict(NamedTuple):
    """Whether training went well, a line with reason and remedy, and the cause of a failure."""

    healthy: bool
    line: str
    cause: Cause | None = None


class Symptom(NamedTuple):
    """One finding: its cause, the row of the history where it began, and a clause to state it."""

    cause: Cause
    since: int
    said: str


def diagnose(history: History, stopped: str = "") -> Verdict:
    """Judges training by its logged terms: leaps, explosions, stuck chains, vanishing gradients.

    What began first is the cause and the verdict; the line also tells what followed. It reads loss,
    gradient_norm, relative_update (from `fit`), energy_gap, energy_samples, displacement,
    grad_norm, acceptance, frozen and clamped (from contrastive objectives), also with a weighted
    sum's prefixes ("0.energy_gap"), if they are there. `stopped` says why training had to stop.

    >>> calm = {("train", name): ([1, 2], [0.1, -0.2]) for name in ("energy_gap", "energy_samples")}
    >>> diagnose(calm).line
    'Healthy: nothing exploded, got stuck or vanished.'
    >>> diagnose({**calm, ("train", "energy_gap"): ([1, 2, 3], [-0.1, -1e4, -1e9])}).cause
    'exploding energies'
    """
    terms = {name: values for (split, name), (_, values) in history.items() if split == "train"}
    groups = sorted({name.rpartition(".")[0] for name in terms})
    leaps = terms.get("relative_update", [])
    far = (Symptom("learning rate", row, LEAPED.format(leap)) for row, leap in enumerate(leaps) if not leap <= LEAP)
    found = [*islice(far, 1)]
    found += [symptom for group in groups for symptom in _symptoms(terms, f"{group}." if group else "")]
    if not found:
        line = f"Training stopped: {stopped}" if stopped else "Healthy: nothing exploded, got stuck or vanished."
        return Verdict(not stopped, line)
    found.sort(key=lambda symptom: symptom.since)  # stable: causes are listed before effects
    story = "; then ".join(dict.fromkeys([symptom.said for symptom in found] + [stopped] * bool(stopped)))
    cause = found[0].cause
    return Verdict(False, f"Training diverged: {cause}, for {story}. {REMEDIES[cause]}", cause)


def _symptoms(terms: Mapping[str, list[float]], prefix: str) -> Iterator[Symptom]:
    """Lists what is wrong with the terms of one objective."""
    # Without samples "gap" means something else. With them the loss is a gap, not a distance.
    contrastive = any(name.endswith("energy_samples") for name in terms)
    gap, loss = terms.get(f"{prefix}energy_gap"), terms.get(f"{prefix}loss")
    exploded: list[Symptom] = []
    if gap and f"{prefix}energy_samples" in terms:
        sizes = [abs(value) for value in gap]
        limit = GAP_LIMIT if len(gap) < 10 else min(GAP_LIMIT, max(GAP_FLOOR, GAP_GROWTH * max(_beginning(sizes))))
        if not _end(sizes) <= limit:
            said = f"the energy gap between data and samples exploded to {_end(gap):.3g} (it should hover around zero)"
            exploded.append(Symptom("exploding energies", _onset(sizes, lambda value: not value <= limit), said))
    if loss and not contrastive and len(loss) >= 10:
        limit = LOSS_GROWTH * max(map(abs, _beginning(loss)))
        if not _end(loss) <= limit:
            said = f"the loss exploded from {_beginning(loss)[0]:.3g} to {_end(loss):.3g}"
            exploded.append(Symptom("exploding loss", _onset(loss, lambda value: not value <= limit), said))
    yield from _stuck(terms, prefix, min((symptom.since for symptom in exploded), default=None))
    yield from exploded
    yield from _vanishing(terms, prefix, contrastive)


def _stuck(terms: Mapping[str, list[float]], prefix: str, exploded: int | None) -> Iterator[Symptom]:
    """Finds one sign of chains that do not move, or did not before an explosion moved them."""
    signs = (
        ("displacement", lambda value: value < STILL, "the chains are frozen: a trajectory moves them by {:.1g}"),
        ("frozen", lambda value: value > STUCK, "the chains are frozen: {:.0%} of them end where they started"),
        ("acceptance", lambda value: value < REJECTED, "the chains are frozen: {:.1%} of their steps are accepted"),
        ("clamped", lambda value: value > STUCK, "the chains are pressed against their bounds: {:.0%} of entries are clamped"),
    )
    for name, wrong, said in signs:
        for until in (None, exploded):
            values = terms.get(prefix + name, [])[:until]
            if values and wrong(_end(values)):
                yield Symptom("stuck chains", _onset(values, wrong), said.format(_end(values)))
                return  # one sign is enough


def _vanishing(terms: Mapping[str, list[float]], prefix: str, contrastive: bool) -> Iterator[Symptom]:
    """Lists the signs of a flat landscape, or a flat loss."""
    gap, loss = terms.get(f"{prefix}energy_gap"), terms.get(f"{prefix}loss")
    slope, gradient = terms.get(f"{prefix}grad_norm"), terms.get(f"{prefix}gradient_norm")
    # Chains may rest at the bottom of a real valley, below the data: flat landscapes have no gap.
    if slope and _end(slope) < FLAT and not (gap and abs(_end(gap)) > 100 * FLAT):
        said = f"the gradients vanish: the landscape's slope where chains end is {_end(slope):.1g}"
        yield Symptom("vanishing gradients", _onset(slope, lambda value: value < FLAT), said)
    # A loss that fell, or is nearly zero, has a small gradient because it is learned.
    fell = loss and not contrastive and (_end(loss) < 0.9 * statistics.median(_beginning(loss)) or abs(_end(loss)) < 1e-6)
    if gradient and _end(gradient) < STOPPED and not fell:
        said = f"the gradients vanish: that of the parameters has norm {_end(gradient):.1g}"
        yield Symptom("vanishing gradients", _onset(gradient, lambda value: value < STOPPED), said)


def _beginning(values: Sequence[float]) -> Sequence[float]:
    return values[: max(1, len(values) // 10)]


def _end(values: Sequence[float]) -> float:
    """Takes the median of the last twentieth, or of the last five values, which ignores a spike."""
    return statistics.median(values[-max(min(5, len(values) // 2), len(values) // 20, 1) :])


def _onset(values: Sequence[float], wrong: Callable[[float], bool]) -> int:
    """Finds the row where a problem began: the first wrong one after which most are wrong."""
    bad, onset = 0, len(values) - 1
    for behind, value in enumerate(reversed(values), start=1):
        bad += wrong(value)
        if wrong(value) and 2 * bad > behind:
            onset = len(values) - behind
    return onset
