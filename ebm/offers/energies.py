"""Energies, by name."""

from __future__ import annotations

from ebm.registry import hookimpl


@hookimpl
def ebm_energies() -> dict[str, str]:
    """Offers the energies of the toolkit."""
    return {
        "gaussian": "ebm.energies.analytic.gaussian:Gaussian",
        "mixture": "ebm.energies.analytic.gaussian:GaussianMixture",
        "banana": "ebm.energies.analytic.toys:Banana",
        "double-well": "ebm.energies.analytic.toys:DoubleWell",
        "funnel": "ebm.energies.analytic.toys:Funnel",
        "ring": "ebm.energies.analytic.toys:Ring",
        "mlp": "ebm.energies.mlp:MLPEnergy",
        "conditional-mlp": "ebm.energies.conditional_mlp:ConditionalMLP",
        "conv": "ebm.energies.conv:ConvEnergy",
        "joint": "ebm.energies.joint:JointClassifier",
        "joint-conv": "ebm.energies.joint:joint_conv",
        "sum": "ebm.interfaces.composed:SumEnergy",
        "scaled": "ebm.interfaces.composed:ScaledEnergy",
        "with-prior": "ebm.energies.compose:WithPrior",
        "constrained": "ebm.energies.constrained:Constrained",
        "noise-conditional": "ebm.energies.noise_conditional:NoiseConditional",
        "noise-embedded": "ebm.energies.noise_conditional:NoiseEmbedded",
        "product": "ebm.energies.experts:ProductOfExperts",
        "mixture-of-experts": "ebm.energies.experts:MixtureOfExperts",
        "modern-hopfield": "ebm.energies.hopfield:ModernHopfield",
        "hopfield": "ebm.energies.hopfield:Hopfield",
        "rbm": "ebm.energies.rbm:RBM",
        "eight-schools": "ebm.energies.posteriors.eight_schools:EightSchools",
        "logistic-regression": "ebm.energies.posteriors.logistic_regression:LogisticRegression",
        "brownian-bridge": "ebm.energies.posteriors.brownian_bridge:BrownianBridge",
        "stochastic-volatility": "ebm.energies.posteriors.stochastic_volatility:StochasticVolatility",
        "item-response": "ebm.energies.posteriors.item_response:ItemResponse",
        "latent": "ebm.energies.latent:LatentEnergy",
        "free-energy": "ebm.energies.latent:FreeEnergy",
        "text-ebt": "ebm.energies.ebt.text:TextEBT",
        "residual-text-ebt": "ebm.energies.ebt.text:ResidualTextEBT",
        "free-text-ebt": "ebm.energies.ebt.text:FreeTextEBT",
        "likelihood-ratio": "ebm.energies.likelihood_ratio:LikelihoodRatio",
        "sequence-ebt": "ebm.energies.ebt.sequences:SequenceEBT",
        "frame-ebt": "ebm.energies.ebt.frames:FrameEBT",
        "residual-frame-ebt": "ebm.energies.ebt.frames:ResidualFrameEBT",
        "image-ebt": "ebm.energies.ebt.bidirectional:ImageEBT",
        "residual-image-ebt": "ebm.energies.ebt.bidirectional:ResidualImageEBT",
        "gradient-step-ebt": "ebm.energies.restoration.gradient_step_ebt:GradientStepEBT",
        "gradient-step-unet": "ebm.energies.restoration.gradient_step:GradientStepUNet",
        "causal-lm": "ebm.energies.causal_lm:CausalLM",
        "belief-ebt": "ebm.energies.ebt.belief:BeliefEBT",
    }
