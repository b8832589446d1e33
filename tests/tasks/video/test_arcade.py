"""Laws of played clips: they are a function of their seed, and are sampled and scaled like a folder of the same pictures."""

import pickle
import sys
import warnings
from itertools import chain, islice

import pytest
import torch
from PIL import Image

from ebm.encoders import Pixels
from ebm.tasks import Frames
from ebm.tasks.video.arcade import FRAMES, episodes, play
from ebm.tasks.video.clips import Clip, clips
from ebm.tasks.video.decoding import frames
from ebm.tasks.video.tracks import Sampling
from tests.helpers import seeded

ale_py = pytest.importorskip("ale_py")


def made(count=6, height=12, width=20):
    """Draws frames, the same at every call."""
    return list(torch.randint(256, (count, 3, height, width), generator=seeded(), dtype=torch.uint8))


# ----------------------------------------------------------------------------------------------------- frames that are made


def test_made_frames_are_sampled_and_scaled_like_a_folder(tmp_path):
    clip = Clip("a", lambda: iter(made()))
    for number, frame in enumerate(made()):
        Image.fromarray(frame.movedim(0, -1).numpy()).save(tmp_path / f"{number}.png")
    for options in ({}, {"every": 2}, {"every": 4, "shorter": 6}, {"shorter": 5}, {"shorter": 24}, {"every": 9}):
        expected = list(frames(tmp_path, **options))
        for _ in range(2):  # they are made anew
            assert all(map(torch.equal, clip.frames(**options), expected))
            assert len(list(clip.frames(**options))) == len(expected)
    assert all(map(torch.equal, Sampling(2, None, 2).frames(clip, 8), frames(tmp_path, every=2, shorter=8)))
    assert len(list(Sampling(2, None, 2).frames(clip, 8))) == 2


def test_only_the_frames_that_are_taken_are_made():
    def endless():
        for number in range(10):
            assert number < 7, "a frame too many"
            yield torch.zeros(3, 4, 4, dtype=torch.uint8)

    assert len(list(islice(Clip("a", endless).frames(every=3), 3))) == 3


@pytest.mark.parametrize(
    ("clip", "options", "message"),
    [
        ((), {"seconds": 0.1}, r"a, seconds=0.1, .*has no times: use every="),
        ((0.5,), {}, "begin=0.5, .*has no times: use every="),
        ((0.0, 2.0), {}, "end=2.0: .*has no times: use every="),
        ((), {"every": 0}, "every=0: it must be at least 1"),
        ((), {"shorter": 0}, "shorter=0: the shorter side needs"),
    ],
)
def test_made_frames_have_no_times(clip, options, message):
    with pytest.raises(ValueError, match=message):
        Clip("a", lambda: iter(made()), *clip).frames(**options)


# ------------------------------------------------------------------------------------------------------------------- games


def test_an_episode_is_a_function_of_its_game_and_seed():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = torch.stack(list(play("seaquest", 1)))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (FRAMES, 3, 210, 160)
    assert first.dtype == torch.uint8
    side_by_side = list(zip(play("seaquest", 1), play("seaquest", 2), play("freeway", 1), strict=True))
    again, other, game = (torch.stack(part) for part in zip(*side_by_side, strict=True))
    assert torch.equal(again, first)
    assert not torch.equal(other, first)
    assert not torch.equal(game, first)
    change = first.float().diff(dim=0).abs().mean((1, 2, 3))
    assert 0.1 < change.mean() < 10
    assert (change > 0).float().mean() > 0.5


def test_a_lost_game_begins_anew(monkeypatch):
    calls = []

    class Losing(ale_py.ALEInterface):
        def game_over(self):
            calls.append("over" if len(calls) % 500 == 499 else "on")
            return calls[-1] == "over"

        def reset_game(self):
            calls.append("reset")
            super().reset_game()

    monkeypatch.setattr(ale_py, "ALEInterface", Losing)
    assert len(list(play("seaquest", 0))) == FRAMES
    lost = [index for index, call in enumerate(calls) if call == "over"]
    assert len(lost) == 2
    assert [index for index, call in enumerate(calls) if call == "reset"] == [0, *(index + 1 for index in lost)]


def test_a_game_has_episodes_of_three_splits():
    found = clips("atari:seaquest")
    assert {split: len(held) for split, held in found.items()} == {"train": 64, "validation": 8, "test": 16}
    every = list(chain(*found.values()))
    assert len({clip.name for clip in every}) == len({clip.version for clip in every}) == 88
    assert [clip.version for clip in chain(*clips("atari:seaquest", seed=1).values())] == [clip.version for clip in every]
    assert not {clip.version for clip in every} & {version for held in episodes("freeway").values() for _, version in held}
    clip = pickle.loads(pickle.dumps(found["test"][3]))
    expected = next(play("seaquest", int(clip.name.split()[1])))
    assert torch.equal(next(clip.frames()), expected)
    assert next(clip.frames(shorter=16)).shape == (3, 21, 16)
    assert all(part in clip.version for part in ("seaquest", ale_py.__version__, clip.name.split()[1]))


def test_games_are_frames_of_a_task(tmp_path):
    task = Frames("atari:freeway", Pixels(8), 4, limit_clips=2, limit_frames=20, every=2, cache=str(tmp_path))
    batch = next(iter(task.loader("train", 8)))
    assert batch.target.shape == (8, 4, 192)
    assert sorted(len(track) for track in task.tracks("train")) == [20, 20]
    timed = Frames("atari:freeway", Pixels(8), 4, limit_clips=2, seconds=0.1, cache=str(tmp_path))
    with (
        pytest.warns(UserWarning, match="2 of 2 train clips are left out: freeway 0.* has no times: use every="),
        pytest.raises(ValueError, match="no train clip"),
    ):
        timed.loader("train", 8)


def test_an_unknown_game_names_the_nearest():
    with pytest.raises(ValueError, match=r"ale-py has no game 'seaqest': did you mean 'seaquest'\? Known: adventure, "):
        clips("atari:seaqest")


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clips("bundled")
    with pytest.raises(ImportError, match=r"^ale-py is not installed: pip install 'ebm-toolkit\[atari\]'$"):
        clips("atari:seaquest")
