"""What every encoder of frames is, and what those that take weights from the hub share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ebm.interfaces import eval_mode
from ebm.optional import reachable
from ebm.registry import components

BATCH = 256  # frames a pass, whose activations have to fit into memory
WEIGHTS = "encoder.safetensors"  # in a run's folder
WAY_OUT = "`--task.encoder.use autoencoder` needs no network"


class Encoder(nn.Module, ABC):
    """Turns each frame into a feature vector; it never trains together with an energy.

    A subclass writes `_encode`, and where it has an inverse, `_decode` and `decodes = True`.

    Arguments:
        size: pixels a side of the square frames that it takes.
        features: numbers that a frame becomes.
    """

    learns: bool = False  # whether it has to see frames before it encodes
    decodes: bool = False  # whether it turns features back into frames

    def __init__(self, size: int, features: int) -> None:
        super().__init__()
        self.size, self.features = size, features

    @abstractmethod
    def _encode(self, pixels: Tensor) -> Tensor:
        """Maps pixels (n, 3, size, size) in [-1, 1] to features (n, features)."""

    def _decode(self, features: Tensor) -> Tensor:
        """Maps features (n, features) to pixels (n, 3, size, size) near [-1, 1]."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Maps frames (n, 3, size, size), uint8, to constant features (n, features), float32."""
        self._check(frames)
        if not len(frames):  # which not every network takes
            return torch.empty(0, self.features, dtype=torch.float32, device=frames.device)
        with eval_mode(self):
            return torch.cat([self._encode(signed(part)).float() for part in frames.split(BATCH)])

    @torch.no_grad()
    def decode(self, features: Tensor) -> Tensor:
        """Maps features (*more, features) to constant pixels (*more, 3, size, size) in [0, 1]."""
        if not self.decodes:
            able = [name for name, found in components("encoder").items() if getattr(found.factory, "decodes", False)]
            raise ValueError(f"{type(self).__name__} cannot decode features to frames: choose one of {', '.join(able)}")
        if not features.ndim or features.shape[-1] != self.features:
            raise ValueError(
                f"features have shape {tuple(features.shape)}, but this {type(self).__name__} decodes (*more, {self.features})"
            )
        rows = features.reshape(-1, self.features).float()
        with eval_mode(self):
            pixels = torch.cat([self._decode(part) for part in rows.split(BATCH)])
        return ((pixels + 1) / 2).clamp(0, 1).reshape(*features.shape[:-1], 3, self.size, self.size)

    def learn(self, frames: Tensor, *, seed: int = 0, progress: bool = False) -> dict[str, float]:
        """Learns from frames (n, 3, size, size) and returns measurements; the base does nothing."""
        return {}

    def save_learned(self, folder: Path) -> None:
        """Writes the weights into a folder, which a run keeps.

        Where an encoder's factory has a keyword `learned`, loading the run hands it that folder, so
        that it need not look for its weights elsewhere.
        """
        if weights := self.state_dict():
            save_file({name: part.cpu().contiguous().clone() for name, part in weights.items()}, folder / WEIGHTS)

    def load_learned(self, folder: Path) -> None:
        """Reads what `save_learned` wrote; ValueError for a damaged file."""
        if (path := folder / WEIGHTS).exists():
            try:
                self.load_state_dict(load_file(path))
            except (OSError, RuntimeError, SafetensorError) as error:
                raise ValueError(f"{path} does not fit {type(self).__name__}, or is damaged: {error}") from error

    def _check(self, frames: Tensor) -> None:
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"frames are {frames.dtype} of shape {tuple(frames.shape)}, but this {type(self).__name__} takes torch.uint8, "
                f"(n, 3, {self.size}, {self.size}): resize them, or set its size"
            )


def signed(frames: Tensor) -> Tensor:
    """Scales frames of uint8 to pixels in [-1, 1], float32.

    >>> signed(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    return frames.to(torch.float32) / 127.5 - 1


@contextmanager
def hub(what: str, way_out: str) -> Iterator[None]:
    """Turns any failure to read weights from the hub into a ValueError with ways out."""
    from huggingface_hub import constants

    try:
        if not constants.HF_HUB_OFFLINE:
            reachable(constants.ENDPOINT)
        yield
    except Exception as error:  # the hub's client reports in a dozen ways
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the weights of {what} cannot be read from the hub ({reason}): {WAY_OUT}; {way_out}") from error
