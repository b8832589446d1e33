"""Objectives: how data shape the landscape."""

from ebm.interfaces import Objective
from ebm.objectives.classification import CrossEntropy, JointLikelihood
from ebm.objectives.combine import WeightedSum
from ebm.objectives.contrastive import ContrastiveDivergence
from ebm.objectives.diffusion import Diffusion
from ebm.objectives.reconstruction import Reconstruction
from ebm.objectives.score_matching import DenoisingScoreMatching
from ebm.registry import hookimpl

__all__ = [
    "ContrastiveDivergence",
    "CrossEntropy",
    "DenoisingScoreMatching",
    "Diffusion",
    "JointLikelihood",
    "Objective",
    "Reconstruction",
    "WeightedSum",
]


@hookimpl
def ebm_objectives() -> dict[str, type[Objective]]:
    return {
        "contrastive-divergence": ContrastiveDivergence,
        "cross-entropy": CrossEntropy,
        "denoising-score-matching": DenoisingScoreMatching,
        "diffusion": Diffusion,
        "joint": JointLikelihood,
        "reconstruction": Reconstruction,
        "weighted-sum": WeightedSum,
    }
