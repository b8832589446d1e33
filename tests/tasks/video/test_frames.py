"""Laws of Frames: its windows are those of an oracle that decodes and encodes by hand, encoded once, judged frame by frame."""

import os
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from ebm.baselines import CopyLast
from ebm.encoders import Encoder, Pixels
from ebm.interfaces import Batch, Prediction
from ebm.randomness import stream
from ebm.tasks import Frames
from ebm.tasks.video import tracks as features
from ebm.tasks.video.decoding import frames
from ebm.tasks.video.frames import STILL
from ebm.tasks.video.tracks import View, drawn_views, side_by_side
from ebm.thinking import Considered
from tests.helpers import laws, seeded, seeds

av = pytest.importorskip("av")

SIZE, HEIGHT, WIDTH = 8, 16, 24
# clip -> its scenes: how bright, and how many frames
SCENES = {
    "train/a.mkv": [(20, 12)],
    "train/b.mkv": [(20, 6), (200, 9), (60, 3)],
    "train/c.mkv": [(150, 7)],
    "validation/d.mkv": [(100, 11), (10, 10)],
    "test/e.mkv": [(30, 9)],
    "test/f.mkv": [(90, 13)],
}
LAW = settings(laws, max_examples=12)


def write(path, pictures):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "bgr0"
        container.start_encoding()  # so that there is a file even of no frames
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def drawn(scenes, seed=0):
    generator = np.random.default_rng(seed)
    return [
        (bright + generator.integers(0, 40, (HEIGHT, WIDTH, 3))).astype(np.uint8)
        for bright, count in scenes
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed, (name, scenes) in enumerate(SCENES.items()):
        write(folder / name, drawn(scenes, seed))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def make(folder, cache):
    def make(context=4, encoder=None, *, cache=cache, **keywords):
        return Frames(str(folder), encoder or Pixels(SIZE), context, cache=str(cache), **keywords)

    return make


def everything(loader):
    batches = list(loader)
    return [torch.cat(field) for field in zip(*(batch[:2] for batch in batches), strict=True)]


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def files(cache):
    return sorted(path.name for path in cache.rglob("*"))


# ---------------------------------------------------------------------------------------------------------------- oracle


def scenes_of(folder, split, views=1, seed=0, swinging=0.0):
    """Encodes by hand: for each clip and each of its views, the features of each scene."""
    found = []
    for name, scenes in SCENES.items():
        if not name.startswith(split):
            continue
        whole = list(frames(folder / name))
        generator = stream(seed, "views", name)
        chosen = drawn_views(views, 0.5, swinging, generator) if split == "train" else side_by_side(HEIGHT, WIDTH)
        squares = [torch.stack([view.cut(frame, SIZE, number) for number, frame in enumerate(whole)]) for view in chosen]
        encoded = torch.stack([Pixels(SIZE).encode(each) for each in squares], 1)
        found.append(encoded.split([count for _, count in scenes]))
    return found


def scale_of(folder, *how):
    whole = torch.cat([scene.flatten(0, 1) for clip in scenes_of(folder, "train", *how) for scene in clip]).double()
    mean = whole.mean(0)
    return mean, (whole - mean).square().mean().sqrt()


def windows_of(folder, split, context, stride, *how):
    """Lists the windows (windows, context + 1, features), of each clip in the order of their beginnings."""
    mean, deviation = scale_of(folder, *how)
    found = [
        scene[begin : begin + context + 1, view]
        for clip in scenes_of(folder, split, *how)
        for scene in clip
        for begin in range(0, len(scene) - context, stride)
        for view in range(scene.shape[1])
    ]
    return ((torch.stack(found).double() - mean) / deviation).float()


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@settings(laws, max_examples=6)
@given(context=st.integers(1, 6), how=st.sampled_from([(1, 0, 0.0), (2, 1, 0.0), (3, 1, 0.5)]))
def test_windows_are_the_oracles(folder, make, context, how):
    task = make(context, **dict(zip(("views", "seed", "swinging"), how, strict=True)))
    for split in ("train", "validation", "test"):
        expected = windows_of(folder, split, context, 1 if split == "train" else context, *how)
        rows = task.loader(split, 8).dataset
        batch = rows[list(range(len(rows)))]
        close(batch.context, expected[:, :-1])
        close(batch.target, expected[:, 1:])
        assert batch.weight is None


def test_context_and_target_are_shifted_by_one(make):
    task = make()
    assert task.spec == {"features": 3 * SIZE**2}
    for split, shortest in (("train", 8), ("validation", 1), ("test", 1)):
        for batch in task.loader(split, 8):
            assert batch.target.shape == batch.context.shape == (len(batch.target), 4, 192)
            assert shortest <= len(batch.target) <= 8
            assert batch.target.dtype == batch.context.dtype == torch.float32
            assert torch.equal(batch.context[:, 1:], batch.target[:, :-1])


def test_features_are_centred_and_scaled_by_one_number(make):
    task = make(context=1, views=3)
    whole = torch.cat([track.window(view, 0, len(track)) for track in task.tracks("train") for view in range(3)])
    scaled = task.scaled(whole)
    assert scaled.mean(0).abs().max() < 1e-4
    assert scaled.square().mean().item() == pytest.approx(1, abs=1e-4)
    ratio = scaled.std(0) / whole.std(0)
    assert (ratio.max() / ratio.min()).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("context", range(1, 13))
def test_no_window_crosses_a_change_of_scene_or_an_end(folder, make, context):
    """Of context 11 on clip c is too short, and of 12 on clip a, too."""
    task = make(context)
    for split in ("train", "validation"):
        lengths = [count for name, scenes in SCENES.items() if name.startswith(split) for _, count in scenes]
        expected = sum(max(0, n - context) if split == "train" else 2 * max(0, (n - 1) // context) for n in lengths)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if expected:
                assert len(task.loader(split, 1).dataset) == expected
                continue
            with pytest.raises(ValueError, match=f"no {split} clip has a window"):
                task.loader(split, 1)


@pytest.mark.filterwarnings("ignore:.*are left out")
def test_where_a_scene_is_cut_is_a_choice(make):
    assert len(make(9).loader("validation", 1).dataset) == 2 * (10 // 9 + 9 // 9)
    assert len(make(9, cut=255.0).loader("validation", 1).dataset) == 2 * (20 // 9)
    with pytest.raises(ValueError, match=r"no train clip has a window of 5 frames without a change of scene \(cut=1.0\)"):
        make(cut=1.0).loader("train", 1)


# -------------------------------------------------------------------------------------------------------------- sampling


@LAW
@given(context=st.integers(1, 5), views=st.integers(1, 2), speeds=st.integers(1, 4), reverse=st.booleans(), seed=seeds)
def test_training_windows_are_subsequences_of_a_scene(folder, make, context, views, speeds, reverse, seed):
    task = make(context, views=views, speeds=speeds, reverse=reverse)
    rows = task.loader("train", 1, seed=seed).dataset
    batch = rows[list(range(len(rows)))]
    whole, (mean, deviation) = torch.cat([batch.context, batch.target[:, -1:]], 1), scale_of(folder, views)
    index = 0
    for clip in scenes_of(folder, "train", views):
        for scene in clip:
            scaled = ((scene.double() - mean) / deviation).float()
            for begin in range(len(scene) - context):
                for view in range(views):
                    possible = [
                        taken
                        for speed in range(1, speeds + 1)
                        if begin + speed * context < len(scene)
                        for forwards in [scaled[begin : begin + speed * context + 1 : speed, view]]
                        for taken in ([forwards, forwards.flip(0)] if reverse else [forwards])
                    ]
                    assert min((taken - whole[index]).abs().max().item() for taken in possible) < 1e-4
                    index += 1
    assert index == len(whole)


def test_every_speed_and_direction_is_drawn(folder, make):
    task = make(2, speeds=3, reverse=True)
    scene, (mean, deviation) = scenes_of(folder, "train")[0][0][:, 0], scale_of(folder)
    drawn = {}
    for seed in range(200):
        batch = task.loader("train", 1, seed=seed).dataset[[3]]
        frame = batch.target[0, 0] * deviation + mean  # the middle of three frames
        middle = (scene - frame).abs().amax(1).argmin().item()
        first = (scene - (batch.context[0, 0] * deviation + mean)).abs().amax(1).argmin().item()
        drawn[middle - 3, first == 3] = drawn.get((middle - 3, first == 3), 0) + 1
    assert sorted(drawn) == [(speed, forwards) for speed in (1, 2, 3) for forwards in (False, True)]
    assert all(10 < count < 60 for count in drawn.values())  # of 200 / 6 each


def test_held_out_windows_are_neither_sped_up_nor_turned(make):
    for split in ("validation", "test"):
        plain = everything(make().loader(split, 7))
        task = make(speeds=3, reverse=True, balance=1.0)
        assert same(everything(task.loader(split, 7, seed=1)), plain)
        assert all(batch.weight is None for batch in task.loader(split, 7))


@pytest.mark.parametrize("keywords", [{}, {"speeds": 2, "reverse": True}])
def test_batches_are_a_function_of_the_seed_alone(make, keywords):
    task = make(**keywords)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = everything(task.loader("train", 8, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert same(everything(task.loader("train", 8, seed=3)), first)
    assert same(everything(make(**keywords).loader("train", 8, seed=3, workers=2)), first)
    assert not same(everything(task.loader("train", 8, seed=4)), first)
    rows = task.loader("train", 8, seed=3).dataset
    together = rows[[3, 7, 11]]
    for place, index in enumerate((3, 7, 11)):
        assert torch.equal(rows[[index]].target[0], together.target[place])


def test_training_is_shuffled_and_drops_a_short_batch(make):
    task = make()
    rows = task.loader("train", 1).dataset
    count = len(rows)
    ordered = rows[list(range(count))].target.flatten(1)
    shuffled = everything(task.loader("train", 1))[0].flatten(1)
    assert torch.equal(shuffled.unique(dim=0), ordered.unique(dim=0))
    assert not torch.equal(shuffled, ordered)
    assert [len(batch.target) for batch in task.loader("train", count - 1)] == [count - 1]
    assert [len(batch.target) for batch in task.loader("train", count + 1)] == [count]
    assert sum(len(batch.target) for batch in task.loader("test", 3)) == len(task.loader("test", 3).dataset)


def test_frames_are_sampled(folder, make, tmp_path):
    whole = make().tracks("test")[1]
    for keywords, taken in (
        ({"every": 2}, slice(None, None, 2)),
        ({"seconds": 0.12}, slice(None, None, 3)),
        ({"limit_frames": 7}, slice(7)),
        ({"every": 2, "limit_frames": 3}, slice(None, 6, 2)),
    ):
        track = make(2, **keywords).tracks("test")[-1]
        expected = torch.arange(13)[taken]
        assert len(track) == len(expected)
        for view in range(2):
            assert torch.equal(track.window(view, 0, 13), whole.window(view, 0, 13)[taken])
    assert [len(held) for held in make(limit_clips=1).clips.values()] == [1, 1, 1]


@given(balance=st.floats(0.01, 2))
@settings(laws, max_examples=5)
def test_slow_windows_count_more_where_windows_are_balanced(make, balance):
    batch = next(iter(make(balance=balance, speeds=2).loader("train", 8)))
    assert batch.weight.shape == (8, 4)
    for row in range(8):
        change = (batch.target[row] - batch.context[row]).square().mean() + STILL**2
        close(batch.weight[row], (1 / change ** (balance / 2)).expand(4))
    assert next(iter(make(balance=0.0).loader("train", 8))).weight is None


# ------------------------------------------------------------------------------------------------------ start, distance


def test_thinking_starts_as_asked(make):
    batch = next(iter(make().loader("test", 4)))
    assert torch.equal(make(start="last-frame").start(batch), batch.context)
    assert torch.equal(make(start="zeros").start(batch), torch.zeros_like(batch.target))
    first, again, other = (make().start(batch, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == batch.target.shape
    assert first.std().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("loss", "slow"), [("squared", F.mse_loss), ("smooth-l1", F.smooth_l1_loss)])
@given(more=st.lists(st.integers(1, 3), max_size=2), seed=seeds)
@settings(laws, max_examples=8)
def test_a_distance_is_a_frames(make, loss, slow, more, seed):
    task, batch = make(loss=loss), Batch(torch.randn(2, 3, 5, generator=seeded(seed)))
    y = torch.randn(*more, 2, 3, 5, generator=seeded(seed + 1))
    value = task.distance(y, batch)
    assert value.shape == (*more, 2, 3)
    for index in np.ndindex(*value.shape):
        close(value[index], slow(y[index], batch.target[index[-2:]]))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (3, 2, 5), (2, 1, 5), (5,)])
def test_a_distance_needs_the_targets_shape(make, shape):
    with pytest.raises(ValueError, match=r"y has shape .* the target \(2, 3, 5\): y's must end in the target's"):
        make().distance(torch.zeros(shape), Batch(torch.zeros(2, 3, 5)))


# --------------------------------------------------------------------------------------------------------------- encoders


class Learner(Encoder):
    """Learns one number; counts how often."""

    learns = True
    calls: list[int] = []  # noqa: RUF012

    def __init__(self, start=0.0):
        super().__init__(SIZE, 6)
        self.register_buffer("factor", torch.tensor(start))

    def _encode(self, pixels):
        return self.factor * F.avg_pool2d(pixels, (SIZE, SIZE // 2)).flatten(1)

    def learn(self, frames, *, seed=0, progress=False):
        self.calls.append(seed)
        self.factor.fill_(1 + frames.float().mean() / 255)
        return {}


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(Learner, "calls", [])
    return Learner.calls


def refuse(*_, **__):
    raise AssertionError("it was decoded, or learned, again")


def test_an_encoder_learns_once(make, tmp_path, calls):
    task = make(encoder=Learner(), cache=tmp_path)
    assert calls == []
    for split in ("test", "train", "validation"):
        task.loader(split, 4)
    assert calls == [0]
    again = make(encoder=Learner(), cache=tmp_path)
    assert same(everything(again.loader("test", 4)), everything(task.loader("test", 4)))
    assert calls == [0]
    assert torch.equal(again.encoder.factor, task.encoder.factor)
    make(encoder=Learner(), cache=tmp_path, seed=5).loader("train", 4)
    make(encoder=Learner(), cache=tmp_path, learn_from=8).loader("train", 4)
    make(encoder=Learner(0.5), cache=tmp_path).loader("train", 4)
    assert calls == [0, 5, 0, 0]


class Killed(BaseException):
    """What ends an encoder as a kill would: nothing is tidied up."""


def kill(*_, **__):
    raise Killed


@pytest.mark.parametrize("encoder", [lambda: Pixels(SIZE), Learner])
def test_what_a_killed_encoder_left_is_swept(make, tmp_path, monkeypatch, encoder):
    (tmp_path / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("ebm.files.commit", kill)
        patch.setattr("ebm.files.discard", lambda draft: None)
        make(encoder=encoder(), cache=tmp_path).tracks("validation")
    (draft,) = tmp_path.glob(".*.draft")
    draft.rename(draft.with_name(draft.name.replace(str(os.getpid()), "1")))  # another process's
    make(encoder=encoder(), cache=tmp_path).tracks("validation")
    assert not [*tmp_path.glob(".*")]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("damage", [b"", b"x" * 99, None])
def test_damaged_weights_of_an_encoder_are_named(make, tmp_path, damage):
    make(encoder=Learner(), cache=tmp_path).tracks("validation")
    (file,) = tmp_path.glob("*.safetensors")
    if damage is None:
        save_file({name: torch.full_like(part, float("nan")) for name, part in load_file(file).items()}, file)
    else:
        file.write_bytes(damage)
    with pytest.raises(ValueError, match=rf"{file.name} is damaged .*: remove it"):
        make(encoder=Learner(), cache=tmp_path).tracks("validation")


@pytest.mark.parametrize("encoder", [Learner, lambda: Pixels(SIZE)])
def test_a_saved_state_gives_the_same_features_without_learning(make, tmp_path, calls, monkeypatch, encoder):
    task = make(encoder=encoder(), cache=tmp_path / "one")
    state = {name: part.clone() for name, part in task.state_dict().items()}
    assert all(isinstance(part, torch.Tensor) for part in state.values())
    expected = {split: everything(task.loader(split, 4)) for split in ("train", "validation", "test")}
    monkeypatch.setattr(Learner, "learn", refuse)
    other = make(encoder=encoder(), cache=tmp_path / "two")
    other.load_state_dict(state)
    for split, found in expected.items():
        assert same(everything(other.loader(split, 4)), found)
    assert same([*other.state_dict().values()], [*state.values()])


def test_a_saved_state_replaces_what_was_learned(make, tmp_path, calls):
    task, other = make(encoder=Learner(), cache=tmp_path), make(encoder=Learner(), cache=tmp_path, seed=1)
    first = everything(other.loader("test", 4))
    other.load_state_dict(task.state_dict())
    assert not same(everything(other.loader("test", 4)), first)
    assert same(everything(other.loader("test", 4)), everything(task.loader("test", 4)))


@pytest.mark.filterwarnings("ignore:.*are left out")
def test_frames_are_read_and_decoded(folder, make):
    task = make()
    shown, found = task.read(folder / "test/f.mkv", 5)
    expected = torch.stack([View().cut(frame, SIZE) for frame in frames(folder / "test/f.mkv")])
    assert torch.equal(shown, expected[:5])
    close(found, task.scaled(Pixels(SIZE).encode(expected[:5])))
    assert torch.equal(task.read(folder / "test/f.mkv", 5, begin=0.4)[0], expected[10:])
    assert torch.equal(make(every=3).read(folder / "test/f.mkv", 3)[0], expected[:9:3])
    close(task.decode(found), shown / 255)
    assert task.decode(found[None]).shape == (1, 5, 3, SIZE, SIZE)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        task.read(folder / "missing.mkv", 5)


def test_an_encoder_that_cannot_decode_says_so(make, tmp_path, calls):
    with pytest.raises(ValueError, match="Learner cannot decode"):
        make(encoder=Learner(), cache=tmp_path).decode(torch.zeros(1, 6))


# ------------------------------------------------------------------------------------------------------------------ files


def test_clips_are_encoded_once(make, tmp_path, monkeypatch):
    expected = {split: everything(make(cache=tmp_path).loader(split, 4)) for split in ("train", "validation", "test")}
    assert len(files(tmp_path)) == len(SCENES)
    monkeypatch.setattr(features, "squares", refuse)
    again = make(cache=tmp_path)
    for split, found in expected.items():
        assert same(everything(again.loader(split, 4)), found)
    longer = make(6, cache=tmp_path, speeds=2, reverse=True, balance=1.0, cut=50.0)
    for split in expected:
        longer.loader(split, 4)


class Shifted(Pixels):
    """Pixels, and weights."""

    def __init__(self, shift):
        super().__init__(SIZE)
        self.register_buffer("shift", torch.tensor(shift))


def test_what_changes_features_changes_their_files(make, tmp_path):
    held = set()
    kinds = [
        {},
        {"seed": 1},
        {"views": 2},
        {"smallest": 0.6},
        {"swinging": 1.0},
        {"every": 2},
        {"seconds": 0.08},
        {"limit_frames": 9},
    ]
    encoders = [None, Pixels(SIZE, patch=2), Pixels(SIZE, pool=2), Pixels(4), Shifted(0.0), Shifted(1.0)]
    for keywords in [*kinds, *({"encoder": encoder} for encoder in encoders[1:])]:
        make(2, cache=tmp_path, **keywords).tracks("train")
        now = set(files(tmp_path))
        assert len(now - held) == 3, keywords
        held = now
    for keywords in ({}, {"seed": 1}, {"views": 2}):  # held-out squares are not drawn
        make(2, cache=tmp_path, **keywords).tracks("validation")
    assert len(set(files(tmp_path)) - held) == 1


def test_a_changed_file_is_encoded_anew(tmp_path):
    """Also where its size stays, as that of an uncompressed picture does."""
    folder, cache = tmp_path / "videos", tmp_path / "cache"
    for split in ("train", "validation"):
        write(folder / split / "a.mkv", drawn([(50, 8)]))
    (folder / "test" / "a").mkdir(parents=True)
    seen = []
    for time in (1, 2):
        for number, picture in enumerate(drawn([(50, 8)], time)):
            file = folder / f"test/a/{number}.bmp"
            Image.fromarray(picture).save(file)
            os.utime(file, (time, time))
        (track,) = Frames(str(folder), Pixels(SIZE), 4, cache=str(cache)).tracks("test")
        whole = torch.stack([View(1.0, 0.0, 0.0).cut(frame, SIZE) for frame in frames(folder / "test/a")])
        assert torch.equal(track.window(0, 0, 8), Pixels(SIZE).encode(whole))
        seen.append(track.path)
    assert seen[0] != seen[1]
    assert len(files(cache)) == 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_no_half_written_file(make, tmp_path, monkeypatch, error):
    monkeypatch.setattr(features, "SQUARES", 4)

    class Tired(Pixels):
        calls = 0

        def _encode(self, pixels):
            Tired.calls += 1
            if Tired.calls == 3:
                raise error("enough")
            return super()._encode(pixels)

    with pytest.raises(error, match="enough"):
        make(encoder=Tired(SIZE), cache=tmp_path).tracks("validation")
    assert files(tmp_path) == []
    assert len(make(encoder=Tired(SIZE), cache=tmp_path).tracks("validation")[0]) == 21
    assert len(files(tmp_path)) == 1


# ------------------------------------------------------------------------------------------------------------- bad clips


@pytest.fixture
def flawed(tmp_path):
    """A folder of 3 good clips and 5 bad ones in training, and of nothing but bad ones for testing."""
    folder = tmp_path / "videos"
    for split in ("train", "validation"):
        for name in "ab":
            write(folder / split / f"{name}.mkv", drawn([(50, 8)]))
    for split in ("train", "test"):
        (folder / split).mkdir(exist_ok=True)
        (folder / split / "corrupt.mkv").write_bytes(bytes(range(256)) * 9)
        (folder / split / "empty.mp4").touch()
        write(folder / split / "none.mkv", [])
        write(folder / split / "short.mkv", drawn([(50, 4)]))
        whole = write(folder / split / "truncated.mkv", drawn([(50, 40)]))
        whole.write_bytes(whole.read_bytes()[:-20_000])
    return folder


def test_bad_clips_are_left_out_and_named_in_one_warning(flawed, tmp_path):
    task = Frames(str(flawed), Pixels(SIZE), 4, cache=str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="are left out") as caught:
        assert len(everything(task.loader("train", 4))[0]) == 8
    message = str(caught[0].message)
    assert len(caught) == 1
    assert message.startswith(f"{flawed}: 5 of 7 train clips are left out: train/corrupt.mkv: ")
    for name in ("empty.mp4: ", "none.mkv: ", "truncated.mkv: ", "short.mkv: 4 frames are too few"):
        assert f"; train/{name}" in message
    assert [track.name for track in task.tracks("train")] == ["train/a.mkv", "train/b.mkv"]
    with (
        pytest.warns(UserWarning, match="5 of 5 test clips are left out"),
        pytest.raises(ValueError, match="no test clip has a window of context=4 frames and one more"),
    ):
        task.loader("test", 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task.loader("train", 4)
        task.loader("validation", 4)


def test_a_warning_names_five(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / split / "good.mkv", drawn([(50, 8)]))
    for number in range(7):
        (tmp_path / f"train/{number}.mkv").write_bytes(b"no video")
    task = Frames(str(tmp_path), Pixels(SIZE), 4, cache=str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="7 of 8 train clips are left out: ") as caught:
        task.loader("train", 4)
    assert [f"train/{number}.mkv" in str(caught[0].message) for number in range(7)] == [True] * 5 + [False] * 2
    assert str(caught[0].message).endswith("; …")


def test_an_encoder_learns_from_the_clips_that_can_be_decoded(flawed, tmp_path, calls):
    task = Frames(str(flawed), Learner(), 4, cache=str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match="5 of 7 train clips"):
        task.loader("train", 4)
    assert calls == [0]


# -------------------------------------------------------------------------------------------------------------- evaluate


class Predicts:
    """Predicts what a function makes of the batch, with what energy another makes of that; remembers what it saw."""

    def __init__(self, y, energy=None, steps=None):
        self.y, self.energy, self.steps, self.seen, self.starts_seen = y, energy, steps, [], []

    def predict(self, batch, start, *, generator=None):
        self.seen.append(batch.context)
        self.starts_seen.append(start)
        y = self.y(batch)
        energy = None if self.energy is None else self.energy(y, batch)
        if self.steps is None:
            return Prediction(y, energy, 1)
        considered = Considered(y, energy, 1)
        considered.steps = torch.full(y.shape[:2], self.steps)
        return considered


def noisy(batch):
    spread = 1 + torch.arange(batch.target.shape[1])[:, None]
    return batch.target + spread * torch.randn(batch.target.shape, generator=seeded(len(batch.target)))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_copying_is_as_good_as_copying(make, split):
    for predictor in (Predicts(lambda batch: batch.context), CopyLast()):
        found = make().evaluate(predictor, split=split)
        assert sorted(found) == ["copy_loss", "copy_psnr", "loss", "psnr"]
        assert found["loss"] == found["copy_loss"] > 0
        assert found["psnr"] == found["copy_psnr"] < 60


def test_a_perfect_prediction_has_no_loss(make):
    found = make().evaluate(Predicts(lambda batch: batch.target))
    assert found["loss"] == 0
    assert found["psnr"] == 60
    assert found["copy_loss"] > 0


def test_values_are_means_over_frames(make, folder):
    task = make()
    found = task.evaluate(Predicts(noisy, task.distance, steps=3))
    windows = windows_of(folder, "test", 4, 4)
    batch = Batch(windows[:, 1:], windows[:, :-1])
    error = (noisy(batch) - batch.target).square().mean(-1)
    assert found["loss"] == pytest.approx(error.mean().item(), rel=1e-4)
    assert found["energy"] == pytest.approx(found["loss"])
    assert found["steps"] == 3
    assert found["copy_loss"] == pytest.approx(windows.diff(dim=1).square().mean().item(), rel=1e-4)
    shown = [task.decode(part).double() for part in (noisy(batch), batch.target)]
    psnr = -10 * (shown[0] - shown[1]).square().mean((-3, -2, -1)).log10()
    assert found["psnr"] == pytest.approx(psnr.mean().item(), rel=1e-4)


def test_an_energy_that_is_the_error_correlates_with_it(make):
    task = make()
    for sign in (1, -1):
        found = task.evaluate(Predicts(noisy, lambda y, batch, sign=sign: sign * task.distance(y, batch)))
        assert found["correlation"] == found["correlation_low"] == found["correlation_high"] == sign
    found = task.evaluate(Predicts(noisy, lambda y, batch: torch.zeros(y.shape[:2])))
    assert [found[name] for name in ("correlation", "correlation_low", "correlation_high")] == [0, -1, 1]


@given(limit=st.integers(1, 20))
@settings(laws, max_examples=8)
def test_a_limit_takes_windows_spread_evenly(make, limit):
    task = make(2)
    whole = everything(task.loader("test", 4))[1]
    watched = Predicts(lambda batch: batch.context)
    task.evaluate(watched, limit=limit)
    seen = torch.cat(watched.seen)
    places = [(whole == row).flatten(1).all(1).nonzero().item() for row in seen]
    count = min(limit, len(whole))
    assert len(places) == len(set(places)) == count
    assert places[0] == 0
    if count > 1:
        assert places[-1] == len(whole) - 1
        step = (len(whole) - 1) / (count - 1)
        assert all(abs(gap - step) <= 1 for gap in np.diff(places))


def test_a_prediction_that_is_not_finite_stops(make):
    for split in ("validation", "test"):
        with pytest.raises(FloatingPointError, match=f"a prediction of Predicts on split '{split}' is NaN"):
            make().evaluate(Predicts(lambda batch: batch.context / 0 * 0), split=split)


def test_what_cannot_be_decoded_has_no_psnr(make, tmp_path, calls):
    found = make(encoder=Learner(), cache=tmp_path).evaluate(Predicts(lambda batch: batch.context))
    assert sorted(found) == ["copy_loss", "loss"]


def test_evaluation_leaves_the_global_generator_alone(make):
    task = make()
    before = torch.get_rng_state()
    watched = Predicts(noisy, task.distance)
    first, again = (task.evaluate(watched, generator=seeded()) for _ in range(2))
    assert first == again
    assert torch.equal(*watched.starts_seen)
    assert torch.equal(torch.get_rng_state(), before)


# -------------------------------------------------------------------------------------------------------------- bad calls


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        *(({name: 0}, f"{name}=0: it must be at least 1") for name in ("context", "views", "speeds", "learn_from", "every")),
        ({"limit_frames": 0}, "limit_frames=0: it must be at least 1"),
        ({"limit_clips": -1}, "limit_clips=-1: it must be at least 1"),
        ({"smallest": 0.0}, r"smallest=0.0: it is a share .* \(0, 1\]"),
        ({"smallest": 1.5}, "smallest=1.5"),
        ({"smallest": float("nan")}, "smallest=nan"),
        ({"swinging": -0.1}, r"swinging=-0.1: it is a share of the squares, in \[0, 1\]"),
        ({"swinging": float("nan")}, "swinging=nan"),
        ({"seconds": 0.0}, "seconds=0.0, every=1: pass a positive number"),
        ({"seconds": float("inf")}, "seconds=inf"),
        ({"seconds": 0.1, "every": 2}, "seconds=0.1, every=2: .* not both"),
        ({"balance": -0.1}, "balance=-0.1"),
        ({"balance": float("nan")}, "balance=nan"),
        ({"start": "last"}, "start='last': choose noise, last-frame or zeros"),
        ({"loss": "l1"}, "loss='l1': choose squared or smooth-l1"),
    ],
)
def test_arguments_that_cannot_be(make, keywords, message):
    with pytest.raises(ValueError, match=message):
        make(**keywords)


def test_calls_that_cannot_be(make):
    task = make()
    for call in (task.tracks, lambda split: task.loader(split, 4), lambda split: task.evaluate(CopyLast(), split=split)):
        with pytest.raises(ValueError, match="unknown split 'tset': did you mean 'test'"):
            call("tset")
    with pytest.raises(ValueError, match="batch_size=0"):
        task.loader("train", 0)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Frames("/missing", cache=str(task.cache))
