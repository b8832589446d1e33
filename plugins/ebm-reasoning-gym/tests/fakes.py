"""A stand-in for reasoning-gym: one data set, with everything that an adapter may meet."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest


@dataclass
class DoublesConfig:
    low: int = 10
    high: int = 99_999
    seed: int | None = None
    size: int = 500

    def validate(self) -> None:
        assert self.low <= self.high, "low must not exceed high"


class Doubles:
    """Asks for doubles: every eleventh item has no answer, every seventh is too long for the task's tests."""

    def __init__(self, config: DoublesConfig) -> None:
        self.config = config

    def __len__(self) -> int:
        return self.config.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = random.Random(self.config.seed + index).randint(self.config.low, self.config.high)
        question = f"What is twice the number {number}{' and nothing else' if index % 7 == 0 else ''} ?\n"
        return {"question": question, "answer": None if index % 11 == 0 else str(2 * number), "metadata": {"number": number}}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """Takes other spellings ("+4", "04"), raises on what is no number, and gives some credit for being near."""
        off = abs(int(answer) - 2 * entry["metadata"]["number"])
        return 1.0 if off == 0 else 0.5 if off == 1 else 0.0


def install(patch: pytest.MonkeyPatch) -> None:
    """Puts the stand-in where reasoning-gym would be."""
    package, factory = ModuleType("reasoning_gym"), ModuleType("reasoning_gym.factory")

    def create_dataset(name: str, **options: Any) -> Doubles:
        config = DoublesConfig(**options)
        config.validate()
        return factory.DATASETS[name][0](config)

    factory.DATASETS, factory.create_dataset = {"doubles": (Doubles, DoublesConfig)}, create_dataset
    package.factory = factory
    patch.setitem(sys.modules, "reasoning_gym", package)
    patch.setitem(sys.modules, "reasoning_gym.factory", factory)
