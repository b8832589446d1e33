"""timm's image models as encoders."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ebm.encoders.base import Encoder, hub
from ebm.words import nearest

FILES = ("model.safetensors", "pytorch_model.bin")  # where timm looks, in its order, when a model names no file


class TimmEncoder(Encoder):
    """Takes the pooled features of one of timm's pretrained image models; it cannot decode.

    Pixels are normalised as in the model's training. Raises FileNotFoundError without the file,
    ImportError without timm, ValueError for an unknown model, a wrong size or unreadable weights.

    Arguments:
        model: its name in timm, as in "resnet18" or "vit_small_patch14_dinov2.lvd142m".
        weights: a file (.safetensors, .pth); None takes timm's, from the hub's cache or the hub.
        size: pixels a side of a frame; None takes the model's own.
        learned: what a run with this encoder keeps, which has the weights.
    """

    paths: ClassVar = {"weights": ()}
    mean: Tensor
    std: Tensor

    def __init__(
        self, model: str = "resnet18", weights: str | None = None, size: int | None = None, learned: Path | None = None
    ) -> None:
        try:
            import timm
        except ImportError as error:
            raise ImportError("timm is not installed: pip install 'ebm-toolkit[recipes]'") from error
        if not timm.is_model(model):
            names = timm.list_models()
            raise ValueError(f"timm has no model {model!r}: {nearest(model, difflib.get_close_matches(model, names, 5, 0.5))}")
        if learned is None and weights is not None and not Path(weights).expanduser().is_file():
            raise FileNotFoundError(f"there is no file {weights}: name one of {model}'s weights, or leave it out for timm's own")
        call = f"TimmEncoder(model={model!r}, size={size})"
        try:
            config: Any = timm.get_pretrained_cfg(model)
            side = config.input_size[-1] if size is None else size
            keywords: dict[str, Any] = {"img_size": side} if config.fixed_input_size else {}
            # Made without weights first: errors in the call show before anything is downloaded.
            with torch.random.fork_rng(devices=[]):
                network = timm.create_model(model, num_classes=0, **keywords).eval()
            with torch.no_grad():
                (features,) = network(torch.zeros(1, 3, side, side))[0].shape
        except Exception as error:  # timm's and the models' own, of a dozen types
            raise ValueError(f"{call}: {error}") from error
        if learned is None and (file := weights or _cached(config)):
            _load(network, file)
        elif learned is None:
            with hub(f"timm's {model}", "`weights` names a file that has them"), torch.random.fork_rng(devices=[]):
                network = timm.create_model(model, pretrained=True, num_classes=0, **keywords)
        super().__init__(side, features)
        self.network = network
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)
        self.float().requires_grad_(False)

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.network(((pixels + 1) / 2 - self.mean) / self.std)


def _load(network: nn.Module, weights: str) -> None:
    """Loads a file's weights; those of a classifier, which the network has not, are left out."""
    from timm.models import load_checkpoint

    module = inspect.getmodule(type(network))
    try:
        # The model's own filter fits names, and positions to the size.
        adapt = getattr(module, "checkpoint_filter_fn", None)
        found = load_checkpoint(network, str(Path(weights).expanduser()), strict=False, filter_fn=adapt, weights_only=True)
    except Exception as error:  # of a dozen types
        reason = str(error).strip().replace("\n\t", " ").partition("\n")[0]
        raise ValueError(f"the weights of {type(network).__name__} cannot be read from {weights}: {reason}") from error
    parameters = dict(network.named_parameters())
    missing = [name for name in found.missing_keys if name in parameters] if found else []
    if missing:
        named = ", ".join(missing[:3])
        raise ValueError(f"{weights} lacks {len(missing)} of {type(network).__name__}'s parameters, as {named}: name another")


def _cached(config: Any) -> str | None:
    """Finds a model's weights in the hub's cache; timm itself would ask the hub first."""
    from huggingface_hub import try_to_load_from_cache

    names = [config.hf_hub_filename] if config.hf_hub_filename else FILES
    paths = [try_to_load_from_cache(config.hf_hub_id, name) for name in names] if config.hf_hub_id else []
    return next((path for path in paths if isinstance(path, str)), None)
