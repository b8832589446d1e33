"""Baselines, by name: models to train beside an energy, and rivals that need no training."""

from __future__ import annotations

from ebm.registry import hookimpl


@hookimpl
def ebm_energies() -> dict[str, str]:
    """Offers looped networks, and feed-forward models as energies whose one step is a prediction."""
    return {
        "dit": "ebm.baselines.dit:DiT",
        "frame-transformer": "ebm.baselines.frames:FrameTransformer",
        "left-to-right": "ebm.baselines.left_to_right:LeftToRight",
        "transformer": "ebm.baselines.transformer:Transformer",
        "looped": "ebm.baselines.looped:LoopedNetwork",
    }


@hookimpl
def ebm_rivals() -> dict[str, str]:
    """Offers methods without a model: of video, and of pictures."""
    return {
        "copy": "ebm.baselines.frames:copying",
        "linear": "ebm.baselines.frames:extrapolating",
        "bilateral": "ebm.baselines.classical:by_bilateral",
        "bm3d": "ebm.baselines.classical:by_bm3d",
        "non-local-means": "ebm.baselines.classical:by_non_local_means",
        "total-variation": "ebm.baselines.classical:by_total_variation",
        "wavelet": "ebm.baselines.classical:by_wavelet",
    }
