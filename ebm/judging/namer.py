"""Names samples by a classifier that was trained on real digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebm.randomness import stream

EPOCHS, BATCH, RATE = 12, 64, 1e-3  # 97.9 % of MNIST's held-out digits, of 3,500 to learn from; some 15 s on one core


class Namer:
    """Trains a small convolutional network to name images, and counts what it calls others.

    Arguments:
        images: (rows, channels, height, width), sides of at least 4.
        labels: (rows,), from 0 to classes - 1.
        classes: how many there are.
        seed: fixes weights, order and dropout; the global generator stays as it is.

    >>> images = torch.cat([torch.zeros(64, 1, 4, 4), torch.ones(64, 1, 4, 4)])
    >>> Namer(images, torch.arange(2).repeat_interleave(64), classes=2).name(images[62:66]).argmax(-1)
    tensor([0, 0, 1, 1])
    """

    def __init__(self, images: Tensor, labels: Tensor, classes: int, seed: int = 0) -> None:
        channels, height, width = images.shape[1:]
        generator = stream(seed, "namer")
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(generator.initial_seed())
            self.network = nn.Sequential(
                *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * (height // 4) * (width // 4), 128), nn.ReLU()),
                *(nn.Dropout(0.3), nn.Linear(128, classes)),
            ).to(images)
            optimizer = torch.optim.AdamW(self.network.parameters(), RATE)
            for _ in range(EPOCHS):
                for rows in torch.randperm(len(images), generator=generator).split(BATCH):
                    loss = functional.cross_entropy(self.network(images[rows]), labels[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        self.network.eval()

    @torch.no_grad()
    def name(self, images: Tensor) -> Tensor:
        """Computes the probabilities (rows, classes) of what images (rows, C, H, W) show."""
        return self.network(images).softmax(-1)

    def judge(self, samples: Tensor) -> dict[str, float]:
        """Measures mean `confidence`, the number of named `classes`, and the `rarest` share."""
        named = self.name(samples)
        counts, confidence = named.argmax(-1).bincount(minlength=named.shape[-1]), named.amax(-1).mean().item()
        return {"confidence": confidence, "classes": float((counts > 0).sum()), "rarest": counts.min().item() / len(samples)}
