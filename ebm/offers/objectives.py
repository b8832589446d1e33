"""Objectives, by name."""

from __future__ import annotations

from ebm.registry import hookimpl


@hookimpl
def ebm_objectives() -> dict[str, str]:
    """Offers the objectives of the toolkit."""
    return {
        "contrastive-divergence": "ebm.objectives.contrastive:ContrastiveDivergence",
        "cross-entropy": "ebm.objectives.classification:CrossEntropy",
        "denoising-score-matching": "ebm.objectives.denoising_score_matching:DenoisingScoreMatching",
        "diffusion": "ebm.objectives.diffusion:Diffusion",
        "diffusion-recovery": "ebm.objectives.recovery:DiffusionRecoveryLikelihood",
        "energy-matching": "ebm.objectives.energy_matching:EnergyMatching",
        "equilibrium-matching": "ebm.objectives.equilibrium_matching:EquilibriumMatching",
        "energy-discrepancy": "ebm.objectives.energy_discrepancy:EnergyDiscrepancy",
        "improved-contrastive-divergence": "ebm.objectives.improved_contrastive:ImprovedContrastiveDivergence",
        "in-turn": "ebm.objectives.in_turn:InTurn",
        "infonce": "ebm.objectives.infonce:InfoNCE",
        "joint": "ebm.objectives.classification:JointLikelihood",
        "mixture": "ebm.objectives.mixture:Mixture",
        "nce": "ebm.objectives.nce:NoiseContrastiveEstimation",
        "next-symbol": "ebm.objectives.next_symbol:NextSymbol",
        "reconstruction": "ebm.objectives.reconstruction:Reconstruction",
        "score-matching": "ebm.objectives.score_matching:ScoreMatching",
        "sequence-nce": "ebm.objectives.sequence_nce:SequenceNCE",
        "sliced-score-matching": "ebm.objectives.score_matching:SlicedScoreMatching",
        "weighted-sum": "ebm.objectives.combine:WeightedSum",
    }
