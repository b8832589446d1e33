"""Abilities: small protocols. A component that has the names of one can do what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import get_annotations
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ebm.interfaces.energy import Energy
from ebm.interfaces.values import Batch, Prediction


def lacking(component: Any, ability: type) -> list[str]:
    """Lists what a component lacks of an ability, by name. The default `extend` counts as none.

    >>> lacking(Energy(), Decodes)
    ['vocab_size', 'extend']
    """
    asked = (name for base in ability.__mro__ for name in (*get_annotations(base), *vars(base)) if not name.startswith("_"))
    found = {name: getattr(component, name, None) for name in asked}
    return [name for name, part in found.items() if part is None or getattr(part, "__func__", None) is Energy.extend]


@runtime_checkable
class Scorer(Protocol):
    """A predictor that scores given configurations: reports can draw its landscape."""

    def score(self, batch: Batch, y: Tensor) -> Tensor:
        """Computes the energies (*chains,) of configurations y."""


@runtime_checkable
class FeedForward(Protocol):
    """An energy that predicts without descending: it is its own predictor."""

    def predict(self, batch: Batch, start: Any, *, generator: torch.Generator | None = None) -> Prediction:
        """Predicts a batch in one forward pass, or in a fixed number of them."""


@runtime_checkable
class Paced(Protocol):
    """A predictor that can take several forward passes, as a diffusion model does."""

    def at(self, passes: int) -> Any:
        """Makes the predictor of the same weights that takes another number of passes."""


@runtime_checkable
class Decodes(Protocol):
    """An energy that generates: y (*more, B, T, vocab_size) predicts what follows T ids."""

    vocab_size: int

    def extend(self, code: Any, context: Any) -> Any:
        """Makes a new code with ids (B, T) appended."""


@runtime_checkable
class PadsRows(Protocol):
    """An energy of tokens that takes rows of different lengths as one context."""

    def padded(self, rows: list[list[int]]) -> Any:
        """Makes one context of rows of ids."""


@runtime_checkable
class WritesAnswers(Protocol):
    """A model that writes whole sequences after contexts, symbol by symbol, and says how likely each symbol was."""

    vocab_size: int

    def write(self, context: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Writes ids (B, S): `choose` maps each symbol's logits (B, V) to symbols (B,)."""

    def teacher_forced(self, context: Tensor, target: Tensor) -> Tensor:
        """Computes each symbol's logits (B, S, V) after those of the target (B, S) before it."""


@runtime_checkable
class WritesOn(Protocol):
    """A model that writes tokens behind prompts by itself."""

    def write_on(self, prompt: Tensor, length: int, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Writes ids (B, length) behind prompts (B, P): `choose` maps logits (B, V) to tokens (B,)."""


@runtime_checkable
class StartsAs(Protocol):
    """An energy of sequences that is built on the model it corrects, and starts as that."""

    def start_as(self, base: Any) -> None:
        """Takes a base's weights; raises RuntimeError where they do not fit."""


@runtime_checkable
class DrawsSequences(Protocol):
    """An objective that trains an energy of whole sequences against a model that it draws them from."""

    base: Any  # what `ebm.decoding.sequences.check_base` takes

    def predictor(self, energy: Any) -> Any:
        """Makes what a task judges: a `Predictor` that draws from the base, and chooses by the energy."""


@runtime_checkable
class DecodesFrames(Protocol):
    """An energy that rolls out: y (*more, B, T, features) predicts what follows T frames."""

    features: int

    def extend(self, code: Any, context: Any) -> Any:
        """Makes a new code with frames (B, T, features) appended."""


@runtime_checkable
class FollowsCode(Protocol):
    """An energy of sequences that reads a prediction off its code, without descending."""

    def follow_code(self, code: Any) -> Tensor:
        """Predicts what follows each element of a code: (B, S, *event)."""


@runtime_checkable
class Follows(Protocol):
    """A predictor of sequences that needs no code, such as copying the last frame."""

    def follow(self, frames: Tensor) -> Tensor:
        """Maps frames (B, S, features) to what follows each."""


@runtime_checkable
class Advances(Protocol):
    """A network with an update of its own, which `FixedPoint` repeats."""

    def advance(self, y: Tensor, code: Any) -> tuple[Tensor, Tensor]:
        """Takes a step from y (*chains, *event): the next y, and the energies (*chains,) of this one."""


@runtime_checkable
class Solves(Protocol):
    """An energy that a step can be solved for: `ProximalGradient` asks for it."""

    def prox(self, y: Tensor, step: Any) -> Tensor:
        """Finds argmin_z |z − y|²/2 + step E(z) for y (*chains, *event); step is a number, or (*chains,)."""


@runtime_checkable
class ScoresPositions(Protocol):
    """An energy of whole answers that knows each position's share."""

    vocab_size: int

    def position_energies(self, y: Tensor, code: Any) -> Tensor:
        """Computes the energies (*chains, S) of positions."""


@runtime_checkable
class HasAnswers(Protocol):
    """A task whose predictions can be read as whole answers, and judged."""

    def answers(self, y: Tensor, context: Any) -> Tensor:
        """Reads the likeliest answers (*more, B, S) off y, beside what contexts give."""

    def accepts(self, answer: Tensor, batch: Batch) -> Tensor:
        """Tells which answers (*more, B, S) are right: (*more, B)."""


@runtime_checkable
class JudgesText(Protocol):
    """A task that can tell whether a whole text is right."""

    def is_right(self, ids: Tensor) -> Tensor:
        """Tells which texts (*more, L) are right: ids, −1 behind their end."""


@runtime_checkable
class ScoresPatches(Protocol):
    """An energy of images that knows the energy of each patch."""

    patch_size: int

    def patch_energies(self, y: Tensor, code: Any) -> Tensor:
        """Computes the energies (*more, B, rows, columns) of patches."""


@runtime_checkable
class Represents(Protocol):
    """An energy of images whose features can be probed."""

    event: tuple[int, ...]  # (C, H, W)

    def representations(self, images: Tensor) -> list[Tensor]:
        """Computes features (n, D) of images (n, C, H, W) at every depth."""


@runtime_checkable
class Recomputes(Protocol):
    """A module whose blocks can be computed again in the backward pass, so that a graph keeps their inputs alone."""

    recomputes: bool  # whether they are; `fit` sets it


@runtime_checkable
class Learns(Protocol):
    """A task that takes something from its training data, which checkpoints keep for it."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what was taken from the data."""

    def load_state_dict(self, state: Any) -> Any:
        """Loads what `state_dict` returned, so that the data are not needed again."""


@runtime_checkable
class Shares(Protocol):
    """A loader of training batches that processes share: each reads its own rows of them alone."""

    def share(self, rank: int, ranks: int, *, taken: int = 0, state: Any = None) -> Iterator[tuple[Any, Batch]]:
        """Iterates over this process's rows of each batch, behind `taken` batches, and a state.

        All processes' rows in the order of ranks are the rows that one process would get; each batch
        must divide over the processes. A state is what a later call needs beside `taken` to go on
        behind that batch without reading what lies before it, in trees of tensors, numbers, strings,
        lists and dictionaries; None where `taken` is enough.
        """


@runtime_checkable
class DrawsSamples(Protocol):
    """A task that draws its own samples, for `ebm sample`."""

    def draw_samples(self, samples: Tensor) -> bytes:
        """Draws samples (n, *event) as a PNG."""


@runtime_checkable
class WritesText(Protocol):
    """A task whose tokens a tokenizer reads and writes; it may say where thinking starts.

    One with `rows_begin_with_end` puts end-of-text before each row, so it goes before prompts, too.
    """

    tokenizer: Any  # an `ebm.tasks.text.tokenizers.Tokenizer`
    context_length: int  # how many tokens an energy sees at most


@runtime_checkable
class Tiled(Protocol):
    """A task of pictures that are denoised tile by tile; its contexts are `Noisy`."""

    spec: dict[str, Any]  # with "channels"
    tile: int  # the side of a tile
    stride: int  # pixels between neighbouring tiles
    schedule: Any  # an `ebm.tasks.images.noising.NoiseSchedule`
    noise_step: tuple[int, int]  # the training noise's lowest and highest step


class HoldsPhotographs(Tiled, Protocol):
    """A task of pictures with held-out ones to show, at "test"'s noise and at that of "step-N"."""

    def held_out(self, split: str, limit: int) -> list[tuple[str, Tensor, Any]]:
        """Lists pictures: name, clean (C, h, w), and as a `Noisy` of one row."""


@runtime_checkable
class Films(Protocol):
    """A task of videos whose frames are encoded as features; it may say where rollouts start."""

    context_length: int  # how many frames an energy sees at most
    decodes: bool  # whether features can be turned into pixels

    def read(self, file: Any, count: int, begin: float) -> tuple[Tensor, Tensor]:
        """Reads at most count frames: uint8 (n, 3, size, size), and features (n, features).

        Where `every` or `seconds` is asked for, they are keywords of it.
        """

    def decode(self, y: Tensor) -> Tensor:
        """Turns features (*more, features) into pixels (*more, 3, size, size) in [0, 1]."""

    def distance(self, y: Tensor, batch: Batch) -> Tensor:
        """Measures how far features (*more, features) are from the batch's: (*more,)."""


class HoldsClips(Films, Protocol):
    """A task of videos with held-out clips to show."""

    cut: float  # the change from one frame to the next from which a new scene begins

    def tracks(self, split: str) -> list[Any]:
        """Lists encoded clips, `ebm.tasks.video.tracks.Track`s."""

    def scaled(self, features: Tensor) -> Tensor:
        """Scales a track's features as the task's batches have them."""
