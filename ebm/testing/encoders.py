"""The laws of encoders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.encoders import Encoder
from ebm.tasks.video.tracks import digest
from ebm.testing.laws import broken, built, changed, close, copied, draws_nothing_global, generator, obey, shown, snapshot, worst

__all__ = ["check_encoder"]

ROWS = 6  # frames that a law looks at
ROUNDING = 1e-4  # of the largest feature or pixel: networks in float32 take batches of other sizes by other sums


def check_encoder(factory: Callable[[], Encoder], frames: Tensor | None = None, *, seed: int = 0) -> None:
    """Holds an encoder to its laws: a finite vector for each frame, whatever frames are beside it;
    frozen, without draws and traces; the same when it is built, taught or loaded anew; decoded
    pixels in [0, 1]; clear refusals.

    Arguments:
        factory: makes the encoder anew, without arguments; one that learns does so here, so let it
            take few steps.
        frames: what it learns from and encodes: uint8 (n, 3, size, size), best six or more. None
            draws smooth ones.
        seed: what every random draw of the check is derived from.

    Raises:
        LawBroken: naming the law, a counterexample and the likely cause.

    >>> from ebm.encoders import Encoder, Pixels
    >>> check_encoder(lambda: Pixels(size=8, pool=2))
    >>> class Careless(Encoder):
    ...     def _encode(self, pixels):
    ...         return (pixels - pixels.mean(0)).flatten(1)
    >>> check_encoder(lambda: Careless(size=8, features=192))
    Traceback (most recent call last):
    ...
    ebm.testing.laws.LawBroken: encoder: frames do not see each other
      law: ...
      counterexample: encoded alone, feature ... of frame ... is 0 instead of ...
      likely cause: a mean, a norm or attention over the batch, or a batch norm in train mode: ...
    """
    obey("encoder", LAWS, lambda: Case(factory, frames, seed), seed)


class Case:
    """An encoder's factory, and frames."""

    def __init__(self, factory: Callable[[], Encoder], frames: Tensor | None, seed: int) -> None:
        self.factory, self.seed = factory, seed
        self.encoder = self.fresh()
        for name in ("size", "features"):
            number = getattr(self.encoder, name, None)
            if not isinstance(number, int) or number < 1:
                broken(f"{name} is {number!r}", "call super().__init__(size, features): pixels a side, and numbers of a frame")
        if frames is not None and (not isinstance(frames, Tensor) or frames.dtype != torch.uint8 or not len(frames)):
            raise TypeError(f"frames is {type(frames).__name__}: pass uint8 (n, 3, size, size) with at least one frame")
        self.taken = self._smooth() if frames is None else frames
        self.frames = self.taken[torch.arange(ROWS) % len(self.taken)]

    def _smooth(self) -> Tensor:
        """Draws frames with something to learn, the last two of them black and white."""
        coarse = torch.rand(2 * ROWS, 3, 4, 4, generator=generator(self.seed))
        smooth = F.interpolate(coarse, (self.encoder.size, self.encoder.size), mode="bilinear")
        smooth[ROWS - 2], smooth[ROWS - 1] = 0, 1
        return (255 * smooth).round().to(torch.uint8)

    def fresh(self, seed: int = 0) -> Encoder:
        made: Encoder = built(self.factory, Encoder, "an encoder", seed)
        return made

    def learned(self, seed: int = 0) -> Encoder:
        """Makes another encoder, ready to encode."""
        encoder = self.fresh(seed)
        if encoder.learns:
            encoder.learn(self.taken.clone(), seed=self.seed)
        return encoder

    def encode(self, frames: Tensor | None = None) -> Tensor:
        return self.encoder.encode((self.frames if frames is None else frames).clone())


def identity(encoder: Encoder) -> str:
    """Computes what encoded clips are kept under: it changes with all that may change features."""
    try:
        return digest(encoder)
    except Exception as error:
        broken(
            f"its state cannot be read: {type(error).__name__}: {error}",
            "a state_dict of tensors alone: encoded clips are kept under them, and what is learned in checkpoints",
        )


@contextmanager
def left_alone(encoder: Encoder, what: str) -> Iterator[None]:
    """Breaks the law where the block leaves a trace in an encoder, in a global generator, or in
    torch's grad mode."""
    held, before = snapshot(encoder), identity(encoder)
    with draws_nothing_global(what):
        yield
    if not torch.is_grad_enabled():
        broken(f"after {what} gradients are disabled", "torch.set_grad_enabled(False) that stays: use @torch.no_grad()")
    if name := changed(encoder, held):
        broken(f"{what} changed {name}", "write to nothing on self (running statistics, train(), eval()) but in learn")
    if identity(encoder) != before:
        broken(
            f"{what} changed a plain attribute of the encoder",
            "a counter or a cache on self: encoded clips are kept under what the encoder holds, and threads encode side by side",
        )


def row_of(place: tuple[int, ...], what: str) -> str:
    return f"{what} {', '.join(map(str, place[1:]))} of frame {place[0]}"


# ------------------------------------------------------------------------------------------------------------------- laws


def learning_is_a_function_of_frames_and_seed(case: Case) -> None:
    """An encoder that `learns` refuses to encode before; frames and a seed decide what it learns;
    others learn nothing."""
    encoder = case.encoder
    if not encoder.learns:
        before = identity(encoder)
        encoder.learn(case.taken.clone(), seed=case.seed)
        if identity(encoder) != before:
            broken("learn changed the encoder, whose `learns` is False", "set learns = True on the class, or it never learns")
        return
    _refuses(lambda: case.encode(), "encoding before it has learned", "raise ValueError('…: call learn(frames)')")
    frames = case.taken.clone()
    with draws_nothing_global("learning"):
        found = encoder.learn(frames, seed=case.seed)
    if not torch.is_grad_enabled():
        broken("after learning gradients are disabled", "torch.set_grad_enabled(False) that stays: use a with block")
    if not torch.equal(frames, case.taken):
        broken("learning changed the frames in place", "an in-place operation on the frames: make a new tensor")
    if not isinstance(found, dict) or not all(isinstance(v, int | float) and math.isfinite(v) for v in found.values()):
        broken(f"learn returned {found!r}", "return what it measured, finite numbers by name, or {}")
    with torch.no_grad():
        again = case.learned(seed=1)
    if identity(again) != identity(encoder) or not torch.equal(again.encode(case.frames), case.encode()):
        broken(
            "two encoders that learned from the same frames and seed, one of them under no_grad, are different",
            "a draw that does not follow from seed (with own_randomness(seed): …), or a backward that needs @torch.enable_grad()",
        )


def a_frame_becomes_a_finite_vector(case: Case) -> None:
    """encode maps frames (n, 3, size, size), uint8, to features (n, features), float32, for any n;
    they follow the frame."""
    for count in (ROWS, 1, 0):
        found = case.encode(case.frames[:count])
        seen = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        if not isinstance(found, Tensor) or found.shape != (count, case.encoder.features) or found.dtype != torch.float32:
            broken(
                f"{count} frames became {seen}, and features is {case.encoder.features}",
                "flatten(1) what _encode returns, pass its length to super().__init__(size, features), and overwrite _encode, "
                "not encode, which sees to types and to no frames at all",
            )
        if not bool(found.isfinite().all()):
            broken("a feature is not finite", "a logarithm, root or division of what can be 0, as on a black frame")
    features = case.encode()
    if bool((features == features[:1]).all()):
        broken("all frames have the same features", "_encode does not look at its pixels, or saturates")


def encoding_is_a_function_that_changes_nothing(case: Case) -> None:
    """The same frames have the same features in train and eval mode; nothing is drawn, and frames
    and encoder stay."""
    found = []
    for train in (False, True, False):
        case.encoder.train(train)
        frames = case.frames.clone()
        with left_alone(case.encoder, "encoding"):
            found.append(case.encoder.encode(frames))
        if not torch.equal(frames, case.frames):
            broken("encoding changed the frames in place", "an in-place operation on the frames: make a new tensor")
    for other, what in ((found[2], "encoded again"), (found[1], "in train mode")):
        if not torch.equal(found[0], other):
            place, a, b = worst(found[0], other)
            broken(
                f"{row_of(place, 'feature')} is {shown(a)} and, {what}, {shown(b)}",
                "noise or a sample (take the mean), something kept from call to call, or an encode of its own that leaves "
                "dropout and batch norm in train mode: overwrite _encode",
            )


def it_is_frozen(case: Case) -> None:
    """No parameter requires grad, and features and pixels carry no graph: an encoder is not trained
    with an energy."""
    if held := [name for name, parameter in case.encoder.named_parameters() if parameter.requires_grad]:
        broken(f"parameters {held[:3]} require grad", "self.requires_grad_(False) at the end of __init__, and of learn")
    features = case.encode()
    pixels = case.encoder.decode(features.clone().requires_grad_()) if case.encoder.decodes else features
    for found, what in ((features, "features"), (pixels, "decoded pixels")):
        if found.requires_grad:
            broken(f"{what} carry a graph", "an encode or decode of its own without @torch.no_grad(): overwrite _encode, _decode")


def frames_do_not_see_each_other(case: Case) -> None:
    """A frame's features do not depend on the frames beside it, on their order, or on how they lie
    in memory."""
    _rows_are_independent(case.frames, case.encoder.encode, "feature", "encoded")
    strided = case.frames.contiguous(memory_format=torch.channels_last)
    if not close(case.encode(strided), case.encode(), ROUNDING):
        broken("frames in channels_last order have other features", "as_strided or data_ptr: index by axes")


def _rows_are_independent(rows: Tensor, function: Callable[[Tensor], Tensor], what: str, done: str) -> None:
    together = function(rows)
    order = torch.arange(ROWS - 1, -1, -1)
    alone = torch.cat([function(row[None]) for row in rows])
    for other, how in ((alone, f"{done} alone"), (function(rows[order])[order], "in another order of frames")):
        if not close(other, together, ROUNDING):
            place, a, b = worst(together, other)
            broken(
                f"{how}, {row_of(place, what)} is {shown(b)} instead of {shown(a)}",
                "a mean, a norm or attention over the batch, or a batch norm in train mode: reduce a frame's own axes alone",
            )


def other_frames_are_refused(case: Case) -> None:
    """encode raises ValueError for frames that are not uint8 (n, 3, size, size)."""
    frames = case.frames
    wrong = {
        "floating frames": frames.float(),
        "a frame without its batch axis": frames[0],
        "frames of one channel": frames[:, :1],
        "frames with channels last": frames.permute(0, 2, 3, 1) if frames.shape[-1] != 3 else frames[:, :2],
        "frames of another size": torch.cat([frames, frames], 3),
    }
    for name, bad in wrong.items():
        _refuses(lambda bad=bad: case.encoder.encode(bad), name, "overwrite _encode, not encode, or call self._check(frames)")  # type: ignore[misc]


def _refuses(call: Callable[[], Any], what: str, way_out: str) -> None:
    try:
        call()
    except ValueError:
        return
    except Exception as error:
        broken(f"{what}: {type(error).__name__}: {error}", way_out)
    broken(f"{what} raised nothing", way_out)


def features_become_pixels_where_it_decodes(case: Case) -> None:
    """Where `decodes` is True, decode maps (*more, features) to pixels (*more, 3, size, size) in
    [0, 1], row by row."""
    encoder, features = case.encoder, case.encode()
    if not encoder.decodes:
        if type(encoder)._decode is not Encoder._decode:
            broken("there is a _decode, but `decodes` is False", "set decodes = True on the class")
        _refuses(lambda: encoder.decode(features), "decoding where `decodes` is False", "leave decode to the base class")
        return
    _refuses(lambda: encoder.decode(features[:, 1:]), "features of another length", "overwrite _decode, not decode")
    given = features.clone()
    with left_alone(encoder, "decoding"):
        pixels = encoder.decode(given)
    if not torch.equal(given, features):
        broken("decoding changed the features in place", "an in-place operation on the features: make a new tensor")
    side = encoder.size
    for given in (features, features.reshape(2, ROWS // 2, -1), features[0], 1e3 * features):
        found = encoder.decode(given)
        wanted = (*given.shape[:-1], 3, side, side)
        if found.shape != wanted or not found.is_floating_point():
            broken(
                f"features {tuple(given.shape)} became {found.dtype} of shape {tuple(found.shape)}, not {wanted}",
                "_decode returns floating pixels (n, 3, size, size); decode brings the other axes back",
            )
        if not bool(((found >= 0) & (found <= 1)).all()):  # nor for NaN
            reach = f"from {shown(float(found.min()))} to {shown(float(found.max()))}"
            broken(f"decoded pixels reach {reach}", "clamp them, or leave decode as it is")
    if float(pixels.min()) >= 0.5:
        broken("no decoded pixel is below 0.5", "_decode returns pixels near [-1, 1], which decode brings to [0, 1]")
    if bool((pixels == pixels[:1]).all()):
        broken("all features become the same pixels", "_decode does not look at its features, or saturates")
    if not torch.equal(pixels, encoder.decode(features)):
        broken("decoded again, pixels are others", "noise, or something kept from call to call")
    _rows_are_independent(features, encoder.decode, "pixel", "decoded")


def it_is_the_same_when_built_or_loaded_anew(case: Case) -> None:
    """Another one, built anew or loaded from the saved state (tensors, in safetensors), gives the
    same features."""
    features, state = case.encode(), case.encoder.state_dict()
    try:
        kept = safetensors.torch.load(safetensors.torch.save(state))
    except Exception as error:
        broken(
            f"its state cannot be saved: {type(error).__name__}: {error}",
            "a state_dict of tensors, each by itself and contiguous: what is learned is kept with the run's checkpoints",
        )
    other = case.fresh(seed=1)
    if not other.learns and (identity(other) != identity(case.encoder) or not torch.equal(other.encode(case.frames), features)):
        broken(
            "built anew, it is another encoder",
            "weights or constants drawn from a global generator, while a run is resumed with an encoder that is built anew: "
            "draw them with own_randomness(0), or let it learn",
        )
    with torch.no_grad():
        for value in other.state_dict().values():
            value.add_(1) if value.is_floating_point() else None
    other.load_state_dict(kept)
    try:
        found = other.encode(case.frames)
    except Exception as error:
        broken(f"loaded from its state, it raises {type(error).__name__}: {error}", UNSAVED)
    if not torch.equal(found, features):
        place, a, b = worst(features, found)
        broken(f"{row_of(place, 'feature')} is {shown(a)}, and loaded from its state {shown(b)}", UNSAVED)


UNSAVED = "what learn finds is kept in plain attributes: register_buffer (whether it has learned, too), or a parameter"


def it_moves_to_a_device_as_a_whole(case: Case) -> None:
    """.to(device) moves all that it holds: frames are encoded where there is an accelerator."""
    moved = copied(case.encoder).to("meta")
    try:
        moved.encode(case.frames.to("meta"))
    except Exception as error:  # tensors without values refuse more than those of an accelerator
        if "expected device" in str(error) or "same device" in str(error):
            broken(
                f"on another device: {str(error).splitlines()[0]}",
                "a tensor on self that is no parameter and no buffer: register_buffer, or make it on pixels.device",
            )


LAWS = [
    learning_is_a_function_of_frames_and_seed,
    other_frames_are_refused,
    a_frame_becomes_a_finite_vector,
    encoding_is_a_function_that_changes_nothing,
    it_is_frozen,
    frames_do_not_see_each_other,
    features_become_pixels_where_it_decodes,
    it_is_the_same_when_built_or_loaded_anew,
    it_moves_to_a_device_as_a_whole,
]
