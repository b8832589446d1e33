"""Objectives: how data shape the landscape."""

from ebm.interfaces import Objective
from ebm.objectives.classification import CrossEntropy, JointLikelihood
from ebm.objectives.combine import WeightedSum
from ebm.objectives.contrastive import ContrastiveDivergence
from ebm.objectives.denoising_score_matching import DenoisingScoreMatching
from ebm.objectives.diffusion import Diffusion
from ebm.objectives.energy_discrepancy import EnergyDiscrepancy
from ebm.objectives.energy_matching import EnergyMatching
from ebm.objectives.equilibrium_matching import EquilibriumMatching
from ebm.objectives.improved_contrastive import ImprovedContrastiveDivergence
from ebm.objectives.in_turn import InTurn
from ebm.objectives.infonce import InfoNCE
from ebm.objectives.mixture import Mixture
from ebm.objectives.nce import NoiseContrastiveEstimation
from ebm.objectives.next_symbol import NextSymbol
from ebm.objectives.reconstruction import Reconstruction
from ebm.objectives.recovery import DiffusionRecoveryLikelihood
from ebm.objectives.score_matching import ScoreMatching, SlicedScoreMatching
from ebm.objectives.sequence_nce import SequenceNCE

__all__ = [
    "ContrastiveDivergence",
    "CrossEntropy",
    "DenoisingScoreMatching",
    "Diffusion",
    "DiffusionRecoveryLikelihood",
    "EnergyDiscrepancy",
    "EnergyMatching",
    "EquilibriumMatching",
    "ImprovedContrastiveDivergence",
    "InTurn",
    "InfoNCE",
    "JointLikelihood",
    "Mixture",
    "NextSymbol",
    "NoiseContrastiveEstimation",
    "Objective",
    "Reconstruction",
    "ScoreMatching",
    "SequenceNCE",
    "SlicedScoreMatching",
    "WeightedSum",
]
