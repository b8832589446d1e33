"""Judging samples and chains: how far they can be believed, and what an energy's normaliser is."""

from ebm.judging.arviz_data import to_arviz
from ebm.judging.chains import effective_sample_size, split_rhat
from ebm.judging.classifier import C2ST, classifier_test
from ebm.judging.flow import FlowLikelihood, flow_log_likelihood
from ebm.judging.frechet import frechet_distance
from ebm.judging.manifolds import Manifolds, precision_recall
from ebm.judging.mmd import mmd, mmd_permutation_test
from ebm.judging.partition import LogZ, annealed_importance_sampling, geometric_path, reverse_annealed_importance_sampling
from ebm.judging.stein import SteinTest, kernel_stein_discrepancy, stein_test

__all__ = [
    "C2ST",
    "FlowLikelihood",
    "LogZ",
    "Manifolds",
    "SteinTest",
    "annealed_importance_sampling",
    "classifier_test",
    "effective_sample_size",
    "flow_log_likelihood",
    "frechet_distance",
    "geometric_path",
    "kernel_stein_discrepancy",
    "mmd",
    "mmd_permutation_test",
    "precision_recall",
    "reverse_annealed_importance_sampling",
    "split_rhat",
    "stein_test",
    "to_arviz",
]
