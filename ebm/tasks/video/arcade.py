"""Plays Atari games at random: as many frames of an emulator as needed, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice

import torch
from torch import Tensor

from ebm.randomness import stream
from ebm.words import nearest

EPISODES = {"train": 64, "validation": 8, "test": 16}
FRAMES, EVERY = 240, 4  # of a clip, and of the emulator's 60 frames a second: 16 seconds
HELD = 16  # frames that an action is held
SKIPPED = 120  # frames: the first seconds of a game look alike, whatever is played


def episodes(game: str) -> dict[str, list[tuple[int, str]]]:
    """Lists the episodes of a game by split: each one's seed, and the version of its frames.

    >>> {split: len(found) for split, found in episodes("seaquest").items()}
    {'train': 64, 'validation': 8, 'test': 16}
    """
    try:
        from ale_py import roms
    except ImportError as error:
        raise ImportError("ale-py is not installed: pip install 'ebm-toolkit[atari]'") from error
    if game not in roms.get_all_rom_ids():
        raise ValueError(f"ale-py has no game {game!r}: {nearest(game, roms.get_all_rom_ids())}")
    seeds = iter(range(sum(EPISODES.values())))
    how = f"ale-py {version('ale-py')} {game} {FRAMES} {EVERY} {HELD} {SKIPPED}"
    return {split: [(seed, f"{how} {seed}") for seed in islice(seeds, count)] for split, count in EPISODES.items()}


def play(game: str, seed: int) -> Iterator[Tensor]:
    """Plays an episode: iterates over its frames, uint8 (3, H, W), 15 a second, by the seed.

    Actions are drawn from those that do something; a game that is lost begins anew.

    >>> frames = list(play("seaquest", 0))
    >>> len(frames), frames[0].shape
    (240, torch.Size([3, 210, 160]))
    """
    from ale_py import ALEInterface, LoggerMode, roms

    ALEInterface.setLoggerMode(LoggerMode.Error)
    emulator = ALEInterface()
    emulator.setInt("random_seed", seed)
    emulator.setFloat("repeat_action_probability", 0.0)
    file = roms.get_rom_path(game)
    assert file is not None
    emulator.loadROM(file)
    emulator.reset_game()
    known = emulator.getMinimalActionSet()
    total = SKIPPED + FRAMES * EVERY
    drawn = torch.randint(len(known), (-(-total // HELD),), generator=stream(seed, "atari", game)).tolist()
    for number in range(total):
        if number >= SKIPPED and (number - SKIPPED) % EVERY == 0:
            yield torch.from_numpy(emulator.getScreenRGB()).movedim(-1, 0).contiguous()
        if emulator.game_over():
            emulator.reset_game()
        emulator.act(known[drawn[number // HELD]])
