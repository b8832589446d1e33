"""Judging samples and chains: how far they can be believed, and what an energy's normaliser is."""

from ebm.judging.partition import LogZ, annealed_importance_sampling, geometric_path, reverse_annealed_importance_sampling

__all__ = ["LogZ", "annealed_importance_sampling", "geometric_path", "reverse_annealed_importance_sampling"]
