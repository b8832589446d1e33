"""Laws of encoding clips: which squares are cut, what their files hold, and that memory does not grow with a clip."""

import gc
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._C._functorch import is_functorch_wrapped_tensor

from ebm.encoders import Encoder, Pixels
from ebm.tasks.video import tracks as features
from ebm.tasks.video.clips import Clip
from ebm.tasks.video.tracks import (
    Sampling,
    Track,
    View,
    digest,
    drawn_views,
    encode_clips,
    learning_frames,
    side_by_side,
    squares,
)
from tests.helpers import laws, seeded, seeds

LAW = settings(laws, max_examples=25)
shares = st.floats(0, 1)


def noise(count, height=10, width=14, seed=0):
    return torch.randint(256, (count, 3, height, width), generator=seeded(seed), dtype=torch.uint8)


def clip_of(pictures, name="a", version=""):
    return Clip(name, lambda: iter(pictures), version=version)


def broken(name):
    def fail():
        raise ValueError("it is broken")

    return Clip(name, fail)


def whole(clip, frame):
    return [View()]


def beside(clip, frame):
    return side_by_side(*frame.shape[1:])


# ----------------------------------------------------------------------------------------------------------------- views


@LAW
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), side=st.floats(0.01, 1), top=shares, left=shares, mirrored=st.booleans()
)
def test_a_view_of_its_own_size_is_a_slice(height, width, side, top, left, mirrored):
    frame = noise(1, height, width)[0]
    size = max(1, round(side * min(height, width)))
    down, right = round(top * (height - size)), round(left * (width - size))
    square = View(side, top, left, mirrored).cut(frame, size)
    assert square.shape == (3, size, size)
    assert square.dtype == torch.uint8
    for row in range(size):
        for column in range(size):
            across = size - 1 - column if mirrored else column
            assert torch.equal(square[:, row, across], frame[:, down + row, right + column])


@LAW
@given(height=st.integers(1, 20), width=st.integers(1, 20), size=st.integers(1, 20), side=st.floats(0.3, 1), seed=seeds)
def test_a_view_is_scaled_within_the_frames_range(height, width, size, side, seed):
    frame = noise(1, height, width, seed)[0]
    view = View(side, 0.3, 0.7)
    square = view.cut(frame, size)
    own = view.cut(frame, max(1, round(side * min(height, width))))
    scaled = F.interpolate(own[None].double(), (size, size), mode="bilinear", antialias=True)[0]
    assert square.shape == (3, size, size)
    assert (square - scaled).abs().max() <= 0.501  # rounded
    assert torch.equal(view._replace(mirrored=True).cut(frame, size), square.flip(-1))
    grey = torch.full_like(frame, 77)
    assert (view.cut(grey, size) == 77).all()


def place_of(view, number, height, width, side):
    """Where a square's corner is at a frame, in pixels from the top and from the left."""
    swing = math.sin(2 * math.pi * (number + view.phase) / view.period)
    down, right = (min(1, max(0, place + swing * by)) for place, by in ((view.top, view.down), (view.left, view.right)))
    return down * (height - side), right * (width - side)


@LAW
@given(side=st.integers(1, 8), number=st.integers(0, 300), mirrored=st.booleans(), seed=seeds)
def test_a_swinging_view_is_between_pixels(side, number, mirrored, seed):
    """The oracle weighs the four pixels around each place."""
    frame = noise(1, 8, 13, seed)[0]
    view = drawn_views(1, 1.0, 1.0, seeded(seed))[0]._replace(side=side / 8, mirrored=mirrored)
    square = view.cut(frame, side, number)
    top, left = place_of(view, number, 8, 13, side)
    for row in range(side):
        for column in range(side):
            y, x = top + row, left + column
            around = [
                (1 - abs(y - i)) * (1 - abs(x - j)) * frame[:, i, j].double()
                for i in range(math.floor(y), min(8, math.floor(y) + 2))
                for j in range(math.floor(x), min(13, math.floor(x) + 2))
            ]
            shown = square[:, row, side - 1 - column if mirrored else column]
            assert (sum(around) - shown).abs().max() <= 0.51  # rounded


@LAW
@given(side=st.floats(0.3, 1), size=st.integers(1, 10), number=st.integers(0, 300), seed=seeds)
def test_a_view_that_does_not_swing_stays(side, size, number, seed):
    frame = noise(1, seed=seed)[0]
    view = View(side, 0.2, 0.6, period=16.0, phase=3.0)
    assert torch.equal(view.cut(frame, size, number), view.cut(frame, size))
    swinging = view._replace(down=0.3, right=-0.4)
    assert torch.equal(swinging.cut(frame, size, number), swinging.cut(frame, size, number + 16))
    assert torch.equal(swinging.cut(frame, size, 5), swinging._replace(phase=8.0).cut(frame, size, 0))
    nearly = view._replace(top=0.5, left=0.5, right=1e-9)  # whole pixels, or halves
    own = max(1, round(side * 10))
    if not (10 - own) % 2 and size == own:
        assert torch.equal(nearly.cut(frame, size, number), nearly._replace(right=0.0).cut(frame, size))


@LAW
@given(count=st.integers(1, 40), smallest=st.floats(0.1, 1), swinging=shares, seed=seeds)
def test_views_are_drawn_within_a_frame(count, smallest, swinging, seed):
    views = drawn_views(count, smallest, swinging, seeded(seed))
    assert len(views) == count
    assert (
        views == drawn_views(count, smallest, swinging, seeded(seed)) != drawn_views(count, smallest, swinging, seeded(seed + 1))
    )
    for view in views:
        assert smallest - 1e-12 <= view.side <= 1
        assert 0 <= view.top <= 1
        assert 0 <= view.left <= 1
        assert max(abs(view.down), abs(view.right)) <= 0.5
        assert view.period == 1 or 16 <= view.period <= 256
        assert 0 <= view.phase <= view.period
    still = drawn_views(count, smallest, 0.0, seeded(seed))
    assert [view[:4] for view in still] == [view[:4] for view in views]  # the same squares, some of which swing
    assert all(view[4:] == View()[4:] for view in still)


def test_views_are_of_all_sizes_places_and_swings():
    views = drawn_views(4000, 0.25, 0.6, seeded())
    sides, tops, lefts, mirrored, downs, rights, periods, phases = map(np.array, zip(*views, strict=True))
    swings = downs != 0
    shares = [np.log(sides) / math.log(0.25), tops, lefts, *(moves[swings] + 0.5 for moves in (downs, rights))]
    shares += [np.log(periods[swings] / 16) / math.log(16), (phases / periods)[swings]]  # each ratio is as likely
    for numbers in shares:
        for share in (0.1, 0.25, 0.5, 0.75, 0.9):
            assert np.mean(numbers < share) == pytest.approx(share, abs=0.03)
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.03)
    assert np.mean(swings) == pytest.approx(0.6, abs=0.03)


@LAW
@given(short=st.integers(1, 30), ratio=st.floats(1, 4.4), upright=st.booleans())
def test_squares_lie_side_by_side(short, ratio, upright):
    long = round(short * ratio)
    views = side_by_side(*((long, short) if upright else (short, long)))
    assert len(views) == max(1, round(long / short))
    where = torch.arange(long)
    frame = (where[:, None].expand(long, short) if upright else where.expand(short, long)).expand(3, -1, -1)
    begins = [int(view.cut(frame, short)[0, 0, 0]) for view in views]
    if len(views) == 1:
        assert begins == [round((long - short) / 2)]
    else:
        assert (begins[0], begins[-1]) == (0, long - short)  # over the whole frame
        assert max(np.diff(begins)) - min(np.diff(begins)) <= 1
        assert max(np.diff(begins)) <= short * 1.5


# ---------------------------------------------------------------------------------------------------------------- tracks


def encoded(clips, folder, views=beside, encoder=None, sampling=Sampling(), **keywords):  # noqa: B008
    how = {"shorter": 10, "folder": folder, "described": "", **keywords}
    return encode_clips(clips, encoder or Pixels(4), sampling, views, **how)


@settings(laws, max_examples=12)
@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=3), at_once=st.integers(1, 30), seed=seeds)
def test_tracks_hold_what_the_encoder_makes_of_each_square(tmp_path_factory, counts, at_once, seed):
    shown = [noise(count, 10, 20, seed + index) for index, count in enumerate(counts)]
    clips = [clip_of(pictures, str(index)) for index, pictures in enumerate(shown)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "SQUARES", at_once)
        tracks, bad = encoded(clips, tmp_path_factory.mktemp("cache"))
    assert bad == []
    assert [(track.name, len(track), track.views, track.features) for track in tracks] == [
        (str(index), count, 2, 48) for index, count in enumerate(counts)
    ]
    for track, pictures in zip(tracks, shown, strict=True):
        for number, view in enumerate(side_by_side(10, 20)):
            expected = torch.stack([Pixels(4).encode(view.cut(picture, 4)[None])[0] for picture in pictures])
            assert torch.equal(track.window(number, 0, len(track)), expected)
        coarse = F.adaptive_avg_pool2d(pictures.float(), 32)
        expected = [0.0, *coarse.diff(dim=0).abs().mean((1, 2, 3)).tolist()]
        assert track.changes().tolist() == pytest.approx(expected, rel=1e-5)


@LAW
@given(st.integers(0, 2), st.integers(0, 12), st.integers(0, 12), st.integers(1, 5))
def test_a_window_is_a_slice(tmp_path_factory, view, begin, end, step):
    rows = np.arange(12 * 7, dtype=np.float32).reshape(12, 7)
    path = tmp_path_factory.mktemp("cache") / "a-3.f32"
    rows.tofile(path)
    track = Track("a", path, views=3, features=2)
    assert (len(track), track.width) == (12, 7)
    assert torch.equal(track.window(view, begin, end, step), torch.from_numpy(rows[begin:end:step, 2 * view : 2 * view + 2]))
    assert track.changes().tolist() == rows[:, 6].tolist()
    track.window(view, 0, 12).zero_()  # a copy
    assert torch.equal(track.window(view, 0, 12), torch.from_numpy(rows[:, 2 * view : 2 * view + 2]))


def test_bad_clips_are_said_and_others_keep_their_order(tmp_path):
    clips = [clip_of(noise(3), "a"), broken("b"), clip_of(noise(4), "c"), broken("d")]
    tracks, bad = encoded(clips, tmp_path)
    assert [(track.name, len(track)) for track in tracks] == [("a", 3), ("c", 4)]
    assert bad == ["b: it is broken", "d: it is broken"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_clip_without_frames_is_bad(tmp_path):
    tracks, bad = encoded([clip_of([], "a"), clip_of(noise(3), "b")], tmp_path)
    assert [track.name for track in tracks] == ["b"]
    assert len(bad) == 1
    assert bad[0].startswith("a: ")


def test_what_is_fetched_is_known_by_its_version(tmp_path):
    first, second = noise(3), noise(3, seed=1)
    for pictures, version, held in ((first, "1", first), (second, "1", first), (second, "2", second)):
        (track,), _ = encoded([clip_of(pictures, version=version)], tmp_path, whole)
        assert torch.equal(track.window(0, 0, 3), Pixels(4).encode(torch.stack([View().cut(frame, 4) for frame in held])))
    encoded([clip_of(first, "b", "1")], tmp_path, whole)  # another clip of the same version
    encoded([clip_of(first, version="1")], tmp_path, whole, described="other squares")
    assert len(list(tmp_path.iterdir())) == 4


def test_encoding_takes_the_memory_of_a_part_of_a_clip(tmp_path):
    peaks = {}
    held = 0

    class Watching(Pixels):
        def _encode(self, pixels):
            nonlocal held
            found = [each for each in gc.get_objects() if type(each) is torch.Tensor and not is_functorch_wrapped_tensor(each)]
            kept = {each.untyped_storage().data_ptr(): each for each in found}
            held = max(held, sum(each.untyped_storage().nbytes() for each in kept.values()))
            return super()._encode(pixels)

    def made(count):
        for number in range(count):
            yield torch.full((3, 40, 60), number % 256, dtype=torch.uint8)

    gc.collect()
    for count in (300, 1500):
        held = 0
        (track,), _ = encoded([Clip(str(count), lambda count=count: made(count))], tmp_path, beside, Watching(16), shorter=20)
        assert len(track) == count
        peaks[count] = held
    frame = 3 * 40 * 60
    assert peaks[1500] < peaks[300] + 10 * frame < peaks[300] + 1200 * 3 * 16 * 16


# ---------------------------------------------------------------------------------------------------- frames to learn from


def seen_of(taken):
    """The clip and the frame that each square says it is from."""
    return [(int(square[0, 0, 0]), int(square[1, 0, 0])) for square in taken]


def saying(lengths):
    def pictures(clip, count):
        said = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
        said[:, 0], said[:, 1] = clip, torch.arange(count).view(-1, 1, 1)
        return said

    return [clip_of(pictures(index, count), str(index)) for index, count in enumerate(lengths)]


def learned(clips, count, seed=0, views=whole, sampling=Sampling()):  # noqa: B008
    return learning_frames(clips, sampling, views, count, size=8, shorter=8, generator=seeded(seed))


@LAW
@given(clips=st.integers(1, 6), count=st.integers(4, 60), seed=seeds)
def test_about_as_many_frames_as_asked_for_are_learned_from_evenly(clips, count, seed):
    listed = saying([100] * clips)
    taken = learned(listed, count, seed)
    assert taken.dtype == torch.uint8
    assert taken.shape[1:] == (3, 8, 8)
    chosen = min(clips, count // 4)
    assert count <= len(taken) < count + chosen
    seen = seen_of(taken)
    assert len(set(seen)) == len(seen)  # no frame comes twice
    each = [sum(clip == index for clip, _ in seen) for index in range(clips)]
    assert sorted(each)[-chosen:] == [-(-count // chosen)] * chosen
    assert sum(each) == len(taken)
    torch.manual_seed(seed)
    before = torch.get_rng_state()
    assert torch.equal(learned(listed, count, seed), taken)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("length", "count", "views"), [(40, 10, 1), (160, 256, 4)])
def test_each_frame_is_as_likely_to_be_learned_from(length, count, views):
    counts = torch.zeros(length)
    for seed in range(1500 // count):
        taken = learned(saying([length]), count, seed, views=lambda *_: [View()] * views)
        counts += torch.tensor([frame for _, frame in seen_of(taken)]).bincount(minlength=length)
    parts = counts.view(10, -1).sum(1)
    expected = counts.sum() / 10
    assert ((parts - expected) ** 2 / expected).sum() < 27.9  # p = 0.001 of 9 degrees of freedom; they have less variance


def test_short_and_bad_clips_give_what_they_have():
    listed = [*saying([3, 100]), broken("c")]
    seen = seen_of(learned(listed, 30))
    assert sorted(frame for clip, frame in seen if clip == 0) == [0, 1, 2]
    assert sum(clip == 1 for clip, _ in seen) == 10
    with pytest.raises(ValueError, match="none of 2 clips can be decoded, the last one is [cd]: it is broken"):
        learned([broken("c"), broken("d")], 30)
    assert len(learned(saying([100]), 30, sampling=Sampling(limit=9))) == 9


def test_all_views_are_learned_from():
    def quarters(clip, frame):
        return [View(0.5, top, left) for top in (0.0, 1.0) for left in (0.0, 1.0)]

    frame = torch.zeros(3, 8, 8, dtype=torch.uint8)
    frame[:, :4, 4:], frame[:, 4:, :4], frame[:, 4:, 4:] = 1, 2, 3
    taken = learned([clip_of(frame.expand(50, -1, -1, -1))], 40, views=quarters)
    assert len(taken) == 40
    assert taken.flatten(1).unique().tolist() == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------------------------------- digest


class Weighted(Encoder):
    def __init__(self, size=4, features=3, weight=0.0, number=1):
        super().__init__(size, features)
        self.number = number
        self.register_buffer("weight", torch.tensor(weight))

    def _encode(self, pixels):
        return pixels.mean((2, 3)) * self.weight


class Other(Weighted):
    pass


def test_encoders_are_told_apart_by_all_that_they_are():
    encoders = [Weighted(), Weighted(5), Weighted(features=2), Weighted(weight=1.0), Weighted(number=2), Other(), Pixels(4)]
    encoders += [Pixels(8), Pixels(8, patch=2), Pixels(8, pool=2)]
    digests = [digest(encoder) for encoder in encoders]
    assert len(set(digests)) == len(digests)
    assert [digest(encoder.train()) for encoder in encoders] == [digest(encoder.eval()) for encoder in encoders] == digests
    more = [digest(Pixels(4), *parts) for parts in ((1,), ("1",), (1, 1), (11,), ("", 1), (1, ""), ())]
    assert len(set(more)) == len(more)
    assert more[-1] == digest(Pixels(4))


# --------------------------------------------------------------------------------------------------------------- squares


@LAW
@given(count=st.integers(1, 5), limit=st.one_of(st.none(), st.integers(1, 6)), every=st.integers(1, 3))
def test_squares_are_cut_from_sampled_frames_by_the_first_frames_views(count, limit, every):
    asked = []

    def views(clip, frame):
        asked.append(frame)
        return side_by_side(*frame.shape[1:])

    pictures = noise(count, 6, 12)
    found = list(squares(clip_of(pictures), Sampling(every, None, limit), views, 6, 6))
    taken = pictures[::every][:limit]
    assert len(asked) == 1
    assert torch.equal(torch.stack([frame for frame, _ in found]), torch.stack([taken[..., :6], taken[..., 6:]], 1))
    assert found[0][1] == 0.0


def test_squares_swing_by_the_number_of_their_frame():
    pictures, view = noise(12, 6, 12), View(1.0, 0.5, 0.5, False, 0.0, 0.5, 8.0, 0.0)
    found = torch.cat([frame for frame, _ in squares(clip_of(pictures), Sampling(every=2), lambda *_: [view], 6, 6)])
    assert torch.equal(found, torch.stack([view.cut(frame, 6, number) for number, frame in enumerate(pictures[::2])]))
    assert torch.equal(found[2], pictures[4][..., 6:])  # all the way to the right
    assert torch.equal(found[0], pictures[0][..., 3:9])
