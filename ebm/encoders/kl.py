"""Autoencoders of latent diffusion as encoders."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from ebm.encoders.base import Encoder, hub

NETWORK = "autoencoder-kl"  # in a run's folder: diffusers' own folder of a network


class KLAutoencoder(Encoder):
    """Takes the mean latents of diffusers' AutoencoderKL (latent diffusion), which also decodes.

    Features are C (size / f)², unscaled, channel by channel; Stable Diffusion has C = 4, f = 8.
    Raises FileNotFoundError without the folder, ImportError without diffusers, ValueError if f does
    not divide size or the weights cannot be read. Source: Rombach et al., 2022, section 3.1.

    Arguments:
        model: its name on the hub, or a local folder that has config.json and safetensors.
        size: pixels a side of a frame.
        learned: what a run with this encoder keeps, which has the network.
    """

    decodes = True
    paths: ClassVar = {"model": ()}

    def __init__(self, model: str = "stabilityai/sd-vae-ft-mse", size: int = 224, learned: Path | None = None) -> None:
        model = model if learned is None else str(learned / NETWORK)
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise ImportError("diffusers is not installed: pip install diffusers") from error

        def read(source: str, here: bool) -> AutoencoderKL:
            options = {"use_safetensors": True, "low_cpu_mem_usage": False}  # low memory needs another package
            return AutoencoderKL.from_pretrained(source, local_files_only=here, **options)

        folder = Path(model).expanduser()
        if folder.is_dir() or model.startswith((".", "~", "/")):
            if not folder.is_dir():
                raise FileNotFoundError(f"there is no folder {model}: name one that has config.json and safetensors")
            try:
                network = read(str(folder), True)
            except Exception as error:  # of a dozen types
                reason = str(error).strip().partition("\n")[0]
                raise ValueError(f"the weights of an AutoencoderKL cannot be read from {model} ({reason})") from error
        else:
            try:
                network = read(model, True)  # from the hub's cache
            except Exception:  # of a dozen types
                with hub(model, "`model` may be a local folder that has them"):
                    network = read(model, False)
        factor = 2 ** (len(network.config.block_out_channels) - 1)
        if size < 1 or size % factor:
            raise ValueError(f"KLAutoencoder(model={model!r}, size={size}): choose a size that {factor} divides")
        channels = network.config.latent_channels
        super().__init__(size, channels * (size // factor) ** 2)
        self.latent = (channels, size // factor, size // factor)
        self.network = network.float().requires_grad_(False)

    def save_learned(self, folder: Path) -> None:
        self.network.save_pretrained(folder / NETWORK)

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.network.encode(pixels).latent_dist.mean.flatten(1)

    def _decode(self, features: Tensor) -> Tensor:
        return self.network.decode(features.unflatten(1, self.latent)).sample
