"""Energies: how compatible is y with the context? Analytic ones, networks, and energies made of
energies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ebm.energies.analytic import Banana, DoubleWell, Funnel, Gaussian, GaussianMixture, Ring
from ebm.energies.causal_lm import CausalLM
from ebm.energies.compose import WithPrior
from ebm.energies.conditional_mlp import ConditionalMLP
from ebm.energies.constrained import Constrained
from ebm.energies.conv import ConvEnergy
from ebm.energies.ebt import (
    BeliefEBT,
    FrameEBT,
    FreeTextEBT,
    ImageEBT,
    ResidualFrameEBT,
    ResidualImageEBT,
    ResidualTextEBT,
    SequenceEBT,
    TextEBT,
)
from ebm.energies.experts import MixtureOfExperts, ProductOfExperts
from ebm.energies.hopfield import Hopfield, ModernHopfield
from ebm.energies.joint import JointClassifier, joint_conv
from ebm.energies.latent import FreeEnergy, LatentEnergy
from ebm.energies.likelihood_ratio import LikelihoodRatio
from ebm.energies.mlp import MLPEnergy
from ebm.energies.noise_conditional import NoiseConditional, NoiseEmbedded
from ebm.energies.posteriors import (
    BrownianBridge,
    EightSchools,
    ItemResponse,
    LogisticRegression,
    Posterior,
    StochasticVolatility,
)
from ebm.energies.rbm import RBM
from ebm.energies.restoration.gradient_step import GradientStepUNet
from ebm.energies.restoration.gradient_step_ebt import GradientStepEBT
from ebm.energies.restoration.observed import Observed
from ebm.interfaces import ScaledEnergy, SumEnergy, Unconditional, WeightedEnergy
from ebm.registry import component, hookimpl
from ebm.samplers import BlockGibbs

__all__ = [
    "RBM",
    "Banana",
    "BeliefEBT",
    "BrownianBridge",
    "CausalLM",
    "ConditionalMLP",
    "Constrained",
    "ConvEnergy",
    "DoubleWell",
    "EightSchools",
    "FrameEBT",
    "FreeEnergy",
    "FreeTextEBT",
    "Funnel",
    "Gaussian",
    "GaussianMixture",
    "GradientStepEBT",
    "GradientStepUNet",
    "Hopfield",
    "ImageEBT",
    "ItemResponse",
    "JointClassifier",
    "LatentEnergy",
    "LikelihoodRatio",
    "LogisticRegression",
    "MLPEnergy",
    "MixtureOfExperts",
    "ModernHopfield",
    "NoiseConditional",
    "NoiseEmbedded",
    "Observed",
    "Posterior",
    "ProductOfExperts",
    "ResidualFrameEBT",
    "ResidualImageEBT",
    "ResidualTextEBT",
    "Ring",
    "ScaledEnergy",
    "SequenceEBT",
    "StochasticVolatility",
    "SumEnergy",
    "TextEBT",
    "Unconditional",
    "WeightedEnergy",
    "WithPrior",
    "joint_conv",
]


@hookimpl
def ebm_examples() -> dict[tuple[str, str], Callable[[], dict[str, Any]]]:
    """Builds what no recipe uses and has no default size; block Gibbs sampling needs an RBM."""

    def example(factory: Callable[..., Any], *event: int, **more: Any) -> Callable[[], dict[str, Any]]:
        return lambda: {"factory": factory, "y": torch.randn(6, *event), **more}

    def experts() -> list[Unconditional]:
        return [Gaussian(), Ring(), MLPEnergy(2, hidden=(4,))]

    energies = {
        "image-ebt": example(lambda: ImageEBT((4, 6), patch_size=2, channels=2, dim=8, depth=1, heads=2), 2, 4, 6),
        "gradient-step-ebt": example(
            lambda: GradientStepEBT((4, 8), 2, 1, dim=8, depth=1, heads=2, overlap=1), 1, 4, 8, context=torch.rand(6)
        ),
        "gradient-step-unet": example(lambda: GradientStepUNet(1, (4, 6), (1, 1)), 1, 6, 8, context=torch.rand(6)),
        "conditional-mlp": example(lambda: ConditionalMLP(2, 3, hidden=(8,)), 2, context=torch.randn(6, 3)),
        "noise-conditional": example(lambda: NoiseConditional(MLPEnergy(2, hidden=(8,)), sigma=[1.0, 0.1]), 2),
        "noise-embedded": example(lambda: NoiseEmbedded(ConditionalMLP(2, 1, hidden=(8,)), sigma=[1.0, 0.5, 0.1]), 2),
        "constrained": example(lambda: Constrained(MLPEnergy(3, hidden=(8,)), "simplex"), 2),
        "product": example(lambda: ProductOfExperts(experts()), 2),
        "mixture-of-experts": example(lambda: MixtureOfExperts(experts()), 2),
        "modern-hopfield": example(lambda: ModernHopfield(dim=3, count=5), 3),
        "hopfield": example(lambda: Hopfield(((1, 1, -1), (1, -1, 1))), 3),
        "belief-ebt": example(lambda: BeliefEBT(3, dim=8, heads=2), 4, 3, context=torch.tensor([[-1, 2, -1, 0]]).repeat(6, 1)),
        "likelihood-ratio": example(
            lambda: LikelihoodRatio(component("energy", "transformer").factory(5, dim=8, depth=1, heads=2)),
            *(4, 5),
            context=torch.tensor([[-1, 2]]).repeat(6, 1),
        ),
        "sequence-ebt": example(
            lambda: SequenceEBT(5, dim=8, depth=1, heads=2), 4, 5, context=torch.tensor([[-1, 2]]).repeat(6, 1)
        ),
        "logistic-regression": example(lambda: LogisticRegression([[0.5, -1.0], [1.0, 2.0], [-1.5, 0.0]], [0, 1, 1]), 3),
        "brownian-bridge": example(lambda: BrownianBridge([0.1, math.nan, -0.2]), 5),
        "stochastic-volatility": example(lambda: StochasticVolatility([0.1, -0.5, 0.3]), 6),
        "item-response": example(lambda: ItemResponse([[1, 0], [math.nan, 1]]), 5),
        "latent": example(lambda: LatentEnergy(MLPEnergy(3), 1), 2),
        "free-energy": example(lambda: FreeEnergy(MLPEnergy(3), (-1.0, 1.0)), 2),
    }
    gibbs = {("sampler", "block-gibbs"): lambda: {"factory": lambda: BlockGibbs(steps=5), "energy": RBM(4, 2)}}
    return gibbs | {("energy", name): made for name, made in energies.items()}
