"""Numbers that rank answers, turned into the probability of being right; and whether that can be believed."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ebm.interfaces import plainly
from ebm.optional import installed

BINS = 15  # of equal width, as in Guo et al.

Kind = Literal["isotonic", "logistic"]


class Calibration:
    """Turns scores, higher for what is surer, into the probability of being right.

    "isotonic" is the rising step function that fits best (it needs many examples), "logistic" is
    Platt's scaling, 1 / (1 + exp(−a s − b)). Minus an energy is a score.

    Arguments:
        scores: (n,), of held-out examples that nothing was trained on.
        right: (n,), whether each is right.
        kind: which function is fitted, by scikit-learn.

    Source: Zadrozny and Elkan, 2002 (isotonic); Platt, 1999 (logistic).

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: for no example, shapes that differ, or an unknown kind.
        FloatingPointError: for a score that is not finite.

    >>> scores, right = torch.tensor([-2.0, -1.0, 0.0, 1.0]), torch.tensor([False, False, True, True])
    >>> Calibration(scores, right, "isotonic")(torch.tensor([-5.0, 0.5])).tolist()
    [0.0, 1.0]
    """

    @plainly
    def __init__(self, scores: Tensor, right: Tensor, kind: Kind = "isotonic") -> None:
        installed("sklearn")
        from sklearn.isotonic import IsotonicRegression
        from sklearn.linear_model import LogisticRegression

        x, y = _flat(scores, right)
        self.shift, self.scale = float(np.median(x)), float(x.std()) or 1.0  # logistic regression's penalty asks for a scale
        self.rate = float(y.mean())
        if kind not in ("isotonic", "logistic"):
            raise ValueError(f"kind={kind!r}: choose isotonic or logistic")
        self.model: Any = None
        if 0 < self.rate < 1:  # else every example has the same answer
            model = (
                IsotonicRegression(out_of_bounds="clip", y_min=0, y_max=1) if kind == "isotonic" else LogisticRegression(C=1e6)
            )
            x = self._scaled(x)
            self.model = model.fit(x if kind == "isotonic" else x[:, None], y if kind == "isotonic" else y.astype(int))

    def _scaled(self, x: Any) -> Any:
        return (x - self.shift) / self.scale

    def __call__(self, scores: Tensor) -> Tensor:
        """Computes probabilities (*shape) of scores (*shape)."""
        x = self._scaled(scores.detach().double().cpu().numpy().ravel())
        if self.model is None:
            found = np.full(x.shape, self.rate)
        elif hasattr(self.model, "predict_proba"):
            found = self.model.predict_proba(x[:, None])[:, 1]
        else:
            found = self.model.predict(x)
        return torch.from_numpy(np.asarray(found, dtype=np.float64)).view(scores.shape)


class Reliability(NamedTuple):
    """A reliability curve: in bins of what was said, what was true; the expected error, and a proper score.

    An expected error of nothing is no sign of knowledge: who says the share that is right of every
    example has it. The Brier score is least where what is said is true, and tells most apart.
    """

    said: Tensor  # (bins,): the mean probability of a bin, NaN where it is empty
    true: Tensor  # (bins,): the share that is right
    members: Tensor  # (bins,): how many examples
    error: float  # Σ members |said − true| / n: the expected calibration error
    brier: float  # the mean of (what was said − what was right)²

    @property
    def blind(self) -> float:
        """The Brier score of saying of every example the share that is right: a lower one knows more."""
        share = float((self.true.nan_to_num() * self.members).sum() / self.members.sum())
        return share * (1 - share)


@plainly
def reliability(probability: Tensor, right: Tensor, bins: int = BINS) -> Reliability:
    """Compares probabilities of being right (n,) with what is right (n,), in bins of equal width.

    `error` is torchmetrics' expected calibration error. Source: Guo et al. (arXiv 1706.04599),
    section 2, equation 3; Brier, 1950.

    Raises:
        ImportError: torchmetrics is not installed.
        ValueError: for no example, shapes that differ, fewer than one bin, or what is no probability.

    >>> found = reliability(torch.tensor([0.9, 0.9, 0.9, 0.9]), torch.tensor([True, True, True, False]))
    >>> round(found.error, 4), round(found.brier, 4), round(found.blind, 4)
    (0.15, 0.21, 0.1875)
    """
    installed("torchmetrics")
    from torchmetrics.functional.classification import binary_calibration_error

    x, y = _flat(probability, right)
    if bins < 1 or x.min() < 0 or x.max() > 1:
        raise ValueError(f"bins={bins}, probabilities from {x.min():.4g} to {x.max():.4g}: pass at least one, and from 0 to 1")
    said, true = torch.from_numpy(x), torch.from_numpy(y)
    index = (said * bins).long().clamp(max=bins - 1)
    count = torch.bincount(index, minlength=bins)
    sums = [torch.zeros(bins, dtype=torch.float64).index_add(0, index, values) for values in (said, true)]
    error = binary_calibration_error(said, true.long(), n_bins=bins, norm="l1")
    return Reliability(sums[0] / count, sums[1] / count, count, float(error), float((said - true).square().mean()))


def _flat(scores: Tensor, right: Tensor) -> tuple[Any, Any]:
    if scores.shape != right.shape or not scores.numel():
        raise ValueError(
            f"scores have shape {tuple(scores.shape)}, right {tuple(right.shape)}: pass one of each, of at least one"
        )
    x, y = (part.detach().double().flatten().cpu().numpy() for part in (scores, right))
    if not np.isfinite(x).all():
        raise FloatingPointError(f"{int((~np.isfinite(x)).sum())} of {x.size} scores are not finite")
    return x, y
