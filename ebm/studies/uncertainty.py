"""Whether a model knows what it does not know: energies of predictions against what they lose."""

from __future__ import annotations

import torch
from torch import Tensor

from ebm.judging.ranking import rank_correlation
from ebm.randomness import stream
from ebm.runs.run import Run
from ebm.studies.confidence import calibrated
from ebm.studies.findings import Finding


def uncertainty(run: Run, *, split: str = "test", limit: int | None = 64, seed: int | None = None) -> list[Finding]:
    """Compares the energy of each prediction with its loss: a high energy should tell a bad one.

    `correlation` is Spearman's over all chains. Where predictions are logits, `entropy_correlation`
    is that of the entropy of their softmax, which needs no energy. Where chains are sequences,
    `early_energy` and `late_energy` are means over the first and the last quarter of positions, and
    `energy_fall` is the first less the last, in standard deviations of all energies: later
    positions know more. Where predictions are right or wrong, `calibration_error` is the expected
    error of the probability of being right that isotonic regression on validation makes of energies;
    `softmax_calibration_error` that of the softmax as it is, and `softmax_fitted_calibration_error`
    once it is fitted alike. `brier`, `softmax_brier` and `softmax_fitted_brier` are their Brier scores,
    and `blind_brier` that of knowing only how often predictions are right, whose calibration error is
    nothing (`ebm.judging.calibration`).

    Arguments:
        run: a trained run whose predictions have energies.
        split: what is predicted.
        limit: examples of it.
        seed: what every draw is derived from; the run's by default.

    Raises:
        ValueError: the run's predictions have no energies.

    Source: arXiv 2507.02092v1, figures 8 (text) and 11 (video).
    """
    root = run.recipe.get("seed", 0) if seed is None else seed
    task, generator = run.judge(), stream(root, "study", split, device=run.device)
    energies, losses, entropies, places = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    with torch.no_grad():
        for batch, prediction in task.predictions(run.thinker, split, limit, generator):
            if prediction.energy is None:
                raise ValueError(f"{type(run.thinker).__name__} predicts without energies: ask this of a run that has them")
            loss = task.distance(prediction.y, batch)
            counts = torch.ones_like(loss, dtype=torch.bool) if batch.weight is None else batch.weight > 0
            place = torch.linspace(0, 1, loss.shape[-1], device=loss.device).expand_as(loss)
            parts = [(energies, prediction.energy), (losses, loss), (places, place)]
            if prediction.y.shape[-1] == task.spec.get("vocab_size"):
                parts.append((entropies, torch.distributions.Categorical(logits=prediction.y.float()).entropy()))
            for kept, values in parts:
                kept.append(values[counts].double().cpu())
            sequences = loss.ndim > 1
    energy, lost = torch.cat(energies), torch.cat(losses)
    found = {"correlation": rank_correlation(energy[:, None], lost[:, None], resamples=1)[0]}
    if entropies:
        found["entropy_correlation"] = rank_correlation(torch.cat(entropies)[:, None], lost[:, None], resamples=1)[0]
    if sequences:
        place = torch.cat(places)
        found["early_energy"], found["late_energy"] = energy[place <= 0.25].mean().item(), energy[place >= 0.75].mean().item()
        found["energy_fall"] = (found["early_energy"] - found["late_energy"]) / max(energy.std().item(), 1e-12)
    if entropies:
        names = {"energy": "", "softmax": "softmax_", "softmax, fitted": "softmax_fitted_"}
        errors = {} if split == "validation" else calibrated(run, split, limit, root)
        found |= {f"{names[who]}calibration_error": curve.error for who, curve in errors.items()}
        found |= {f"{names[who]}brier": curve.brier for who, curve in errors.items()}
        if errors:
            found["blind_brier"] = errors["energy"].blind
    return [Finding("run", split, name=name, value=value) for name, value in found.items()]
