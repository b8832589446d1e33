"""ARC and BIG-bench: the credit of the likeliest of several answers."""

from __future__ import annotations

from collections.abc import Sequence


def choices(losses: Sequence[float], texts: Sequence[str], credits: Sequence[float]) -> dict[str, float]:
    """Takes the likeliest choice, and the likeliest for its length: the credit of each.

    Arguments:
        losses: −log p of each choice's tokens given the question, in nats.
        texts: the choices, whose characters (without the space before them) are their lengths.
        credits: what each choice earns, 1 where it is right. Of equals, the first is taken.

    Source: `acc` and `acc_norm` of lm-evaluation-harness; BIG-bench's multiple_choice_grade
    (arXiv 2206.04615) is the first.

    >>> choices([3.0, 4.0], ["no", "maybe"], [0, 1])
    {'choice_accuracy': 0.0, 'choice_accuracy_normalized': 1.0}
    """
    order = range(len(losses))
    likeliest = min(order, key=losses.__getitem__)
    for_length = min(order, key=lambda place: losses[place] / max(len(texts[place].strip()), 1))
    return {"choice_accuracy": float(credits[likeliest]), "choice_accuracy_normalized": float(credits[for_length])}
