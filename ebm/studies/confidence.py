"""How sure a model is of what it predicts, by its energies and by its softmax, and what was right."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebm.interfaces.abilities import HasAnswers, lacking
from ebm.judging.calibration import Calibration, Reliability, reliability
from ebm.randomness import stream
from ebm.runs.run import Run


class Confidence(NamedTuple):
    """Of each token, or each whole answer."""

    energy: Tensor  # (n,)
    softmax: Tensor  # (n,): the likeliest token's probability; of an answer, the product of its symbols'
    right: Tensor  # (n,)


def confidence(run: Run, split: str, limit: int | None = None, seed: int = 0) -> Confidence | None:
    """Predicts a split, and compares what is likeliest with what is right.

    None where predictions are no logits of tokens or answers, or have no energies.
    """
    task: Any = run.judge()
    generator = stream(seed, "confidence", split, device=run.device)
    found: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for batch, prediction in task.predictions(run.thinker, split, limit, generator):
            y, energy = prediction.y, prediction.energy
            if energy is None or y.shape[-1] != task.spec.get("vocab_size"):
                return None
            sure = y.double().log_softmax(-1).amax(-1)
            if not lacking(task, HasAnswers) and energy.shape == y.shape[:-2]:
                asked = task.unknown(batch.context)
                right, sure = task.accepts(task.answers(y, batch.context), batch), (sure * asked).sum(-1)
            elif energy.shape == y.shape[:-1] and getattr(batch.target, "shape", ()) == energy.shape:
                right = y.argmax(-1) == batch.target
            else:
                return None
            counts = torch.ones_like(right) if batch.weight is None else batch.weight > 0
            found.append(tuple(part[counts].cpu() for part in (energy.double(), sure.exp(), right)))
    return Confidence(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def calibrated(run: Run, split: str = "test", limit: int | None = None, seed: int = 0) -> dict[str, Reliability]:
    """Judges probabilities of being right on a split: the energy's, fitted on validation, and the softmax'.

    The energy's is isotonic regression's, and so is "softmax, fitted"'s, for a fair comparison; "softmax"
    is as the model says it. Empty where `confidence` finds none.
    """
    held, judged = confidence(run, "validation", limit, seed), confidence(run, split, limit, seed)
    if held is None or judged is None:
        return {}
    said = {
        "energy": Calibration(-held.energy, held.right)(-judged.energy),
        "softmax": judged.softmax,
        "softmax, fitted": Calibration(held.softmax, held.right)(judged.softmax),
    }
    return {name: reliability(values.clamp(0, 1), judged.right) for name, values in said.items()}
