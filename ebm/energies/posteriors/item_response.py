"""Item response: abilities of students and difficulties of questions, from who answered what right."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import logsigmoid

from ebm.energies.posteriors.posterior import Posterior, Variables, normal, numbers


class ItemResponse(Posterior):
    """Scores abilities a (less their mean m) and difficulties d, given right (1) and wrong (0) answers:

        m ~ N(0.75, 1),  aᵢ, dⱼ ~ N(0, 1),  answerᵢⱼ ~ Bernoulli(1 / (1 + exp(−(m + aᵢ − dⱼ)))),

    by variables `mean_ability` m, `ability` a (students,) and `difficulty` d (questions,). Without
    data it has 60 students and 20 questions, drawn from the model, and a fifth of the answers is
    missing; the stream is one that numpy promises to keep (RandomState(1)).

    Source: Rasch, 1960; model of inference-gym's synthetic_item_response_theory.

    Arguments:
        answers: (students, questions), zeros and ones, NaN where a question was not asked.

    Raises:
        ValueError: for another shape, other values, or where nothing was asked.

    >>> ItemResponse().dim, ItemResponse([[1, 0], [1, float("nan")]]).labels()
    (81, ['mean_ability', 'ability[0]', 'ability[1]', 'difficulty[0]', 'difficulty[1]'])
    """

    def __init__(self, answers: Any = None) -> None:
        values = numbers(self, missing=True, answers=_design() if answers is None else answers)
        asked = ~values.isnan()
        if values.ndim != 2 or not bool(asked.any()) or not bool((~asked | (values == 0) | (values == 1)).all()):
            wanted = "pass (students, questions) of 0 and 1, NaN where a question was not asked, and at least one that was"
            raise ValueError(f"ItemResponse(answers {tuple(values.shape)}), {int(asked.sum())} of them asked: {wanted}")
        students, questions = values.shape
        variables = {"mean_ability": ((), "real"), "ability": ((students,), "real"), "difficulty": ((questions,), "real")}
        data = {"sign": 2 * values.nan_to_num(0.5) - 1, "asked": asked.to(values)}
        super().__init__(_joint, variables, data, "item-response" if answers is None else None)


def _joint(y: Variables, sign: Tensor, asked: Tensor) -> Tensor:
    mean, ability, difficulty = y["mean_ability"], y["ability"], y["difficulty"]
    prior = normal(mean - 0.75, 1.0) + normal(ability, 1.0).sum(-1) + normal(difficulty, 1.0).sum(-1)
    logits = mean[..., None, None] + ability[..., None] - difficulty[..., None, :]
    return prior - (asked * logsigmoid(sign * logits)).sum((-2, -1))


def _design() -> np.ndarray:
    draws = np.random.RandomState(1)
    logits = draws.normal(0.75) + draws.standard_normal((60, 1)) - draws.standard_normal(20)
    answers = (draws.random_sample((60, 20)) < 1 / (1 + np.exp(-logits))).astype(float)
    answers[draws.random_sample((60, 20)) < 0.2] = np.nan
    return answers
