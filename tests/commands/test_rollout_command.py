"""Laws of `ebm rollout`: a prediction of a video becomes a picture and a movie, and what cannot be done is one line."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ebm
from ebm import cli, figures, recipes
from ebm.commands.rollout import _write, rollout
from ebm.decoding.rollout import horizons
from ebm.decoding.rollout import rollout as rolled_out
from ebm.encoders import Encoder, Pixels
from ebm.runs.run import Run
from ebm.tasks import Points
from ebm.tasks.video.decoding import frames
from ebm.tasks.video.frames import Frames
from ebm.thinking import Thinker
from tests.fake_plugins import quick_report
from tests.helpers import lent
from tests.tasks.video.test_decoding import write

av = pytest.importorskip("av")
SIZE = 8


def moving(count: int, first: int = 0) -> list[np.ndarray]:
    """Makes pictures of a slope of colours that moves."""
    rows, columns = np.mgrid[:24, :32]
    return [
        np.stack([(rows * 6 + t * 4) % 256, (columns * 6 + t * 2) % 256, (rows + columns) * 4], -1).astype(np.uint8)
        for t in range(first, first + count)
    ]


def trained(folder: Path, energy: str) -> Run:
    """Trains two steps."""
    thinking = {"use": "gradient-descent", "step_size": 1.0, "steps": 2}
    encoder = {"use": "pixels", "size": SIZE}
    recipe = {
        "summary": "Tiny.",
        "seed": 0,
        "task": {
            "use": "frames",
            "source": str(folder / "clips"),
            "encoder": encoder,
            "context": 4,
            "cache": str(folder / "cache"),
        },
        "energy": {"use": energy, "dim": 8, "depth": 1, "heads": 2},
        "objective": {"use": "reconstruction", "reduce": "last", "sampler": thinking},
        "fit": {"steps": 2, "batch_size": 4, "lr": 0.01, "evaluate_limit": 2},
    }
    parts = recipes.assemble(recipes.resolve(recipe))
    with pytest.MonkeyPatch.context() as patch:
        quick_report(patch)
        ebm.fit(parts.energy, parts.objective, parts.task, **parts.fit, out=folder / energy, recipe=parts.recipe)
    return ebm.load(folder / energy)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    (folder / "clips").mkdir()
    for index in range(10):
        write(folder / "clips" / f"{index}.mkv", moving(8, 5 * index))
    write(folder / "clip.mp4", moving(20), "libx264")
    return folder


@pytest.fixture(scope="module")
def trained_run(folder) -> Run:
    return trained(folder, "residual-frame-ebt")


@pytest.fixture(scope="module")
def feed_forward(folder) -> Run:
    return trained(folder, "frame-transformer")


@pytest.fixture
def run(trained_run) -> Run:
    return Run(**vars(trained_run))


@pytest.fixture
def clip(folder) -> Path:
    return folder / "clip.mp4"


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def pictures(path: Path) -> torch.Tensor:
    return torch.stack([*frames(path)])


def panels(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Cuts the two panels (n, 3, 256, 256) out of a movie."""
    found = pictures(path)
    return found[..., 40:296, 14:270], found[..., 40:296, 284:540]


# --------------------------------------------------------------------------------------------------------------- in Python


def test_a_picture_and_a_movie_are_written(run, clip):
    done = rollout(run, clip)
    assert (done["picture"], done["movie"]) == (Path("clip-rollout.png"), Path("clip-rollout.mp4"))
    assert sorted(os.listdir()) == ["clip-rollout.mp4", "clip-rollout.png"]
    with Image.open(done["picture"]) as picture:
        assert picture.format == "PNG"
        assert picture.width > 13 * 0.9 * figures.DPI  # thirteen frames side by side, nearly an inch each
    with av.open(str(done["movie"])) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
    found = pictures(done["movie"])
    assert found.shape[:2] == (13, 3)
    assert found.shape[2] % 2 == found.shape[3] % 2 == 0
    assert min(found.shape[2:]) >= 256


def test_the_movie_shows_the_truth_beside_the_prediction(run, clip):
    left, right = panels(rollout(run, clip, observe=3, predict=4)["movie"])
    shown, features = run.task.read(clip, 7)
    found = rolled_out(run.thinker, features[None, :3], 4, window=4, start=run.task.starts_at).frames[0]
    predicted = torch.cat([shown[:3], run.task.decode(found).mul(255).to(torch.uint8)])
    for panel, small in ((left, shown), (right, predicted)):
        averages = torch.nn.functional.avg_pool2d(panel.float(), 256 // SIZE)
        assert (averages - small).abs().mean() < 4  # what the codec leaves
    assert (left[:3].float() - right[:3].float()).abs().mean() < 1
    assert (left[3:].float() - right[3:].float()).abs().mean() > 1


def test_the_numbers_are_those_of_the_rollout(run, clip):
    done = rollout(run, clip, observe=3, predict=6)
    _, features = run.task.read(clip, 9)
    how = {"window": 4, "start": run.task.starts_at}
    energies = rolled_out(run.thinker, features[None, :3], 6, **how).energies
    errors = horizons(run.thinker, features[None], 3, **how)
    for name, values in {"energy": energies, "error": errors, "error of a copy": (features[3:] - features[2]).square()}.items():
        assert done[name] == pytest.approx(values.mean().item(), rel=1e-4, abs=1e-9)


def test_a_feed_forward_run_has_no_energies(feed_forward, clip):
    done = rollout(feed_forward, clip, out="a", observe=4, predict=1)
    assert "energy" not in done
    assert len(pictures(done["movie"])) == 5
    with pytest.raises(ValueError, match=r"steps=3, candidates=1, patience=None: FrameTransformer is feed-forward"):
        rollout(feed_forward, clip, steps=3)


def test_thinking_is_as_it_is_told(run, clip, monkeypatch):
    told = []

    def remember(predictor, *arguments, **keywords):
        told.append(predictor)
        return rolled_out(predictor, *arguments, **keywords)

    monkeypatch.setattr("ebm.commands.rollout.rolled_out", remember)
    rollout(run, clip, predict=1, steps=5, candidates=2)
    rollout(run, clip, predict=1, patience=3)
    assert all(isinstance(thinker, Thinker) for thinker in told)
    assert [(t.steps, t.candidates, t.patience, t.tolerance) for t in told] == [(5, 2, None, 0.0), (None, 1, 3, 0.15)]


def test_draws_depend_on_the_seed_alone(run, clip):
    run.task = Frames(str(clip.parent / "clips"), Pixels(SIZE), 4, start="noise", cache=str(clip.parent / "cache"))
    run.sampler = type(run.sampler)(step_size=0.1, steps=1)
    found = [rollout(run, clip, predict=2, seed=seed)["energy"] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def rate(path: Path) -> float:
    with av.open(str(path)) as container:
        return float(container.streams.video[0].average_rate)


def test_a_movie_is_as_fast_as_the_frames_that_are_taken(run, clip):
    for number, (options, fast) in enumerate(
        (({}, 25), ({"every": 2}, 12.5), ({"seconds": 0.1}, 10), ({"fps": 3.5}, 3.5), ({"every": 3, "fps": 30000 / 1001}, 29.97))
    ):
        done = rollout(run, clip, out=f"{number}", observe=2, predict=2, **options)
        assert rate(done["movie"]) == pytest.approx(fast, rel=1e-3)
    thinned = panels(Path("1.mp4"))[0].float()
    whole = panels(rollout(run, clip, out="whole", observe=3, predict=4)["movie"])[0].float()
    torch.testing.assert_close(thinned, whole[::2], atol=40, rtol=0)
    assert (thinned[1] - whole[1]).abs().mean() > (thinned[1] - whole[2]).abs().mean()
    for wrong, reason in (
        ({"fps": 0}, "fps=0"),
        ({"fps": 1e9}, "fps="),
        ({"every": 0}, "every=0"),
        ({"seconds": -1}, "seconds=-1"),
    ):
        with pytest.raises(ValueError, match=reason):
            rollout(run, clip, out="wrong", **wrong)
    with pytest.raises(ValueError, match="sample by number or by time"):
        rollout(run, clip, out="wrong", every=2, seconds=0.1)


def test_a_folder_of_pictures_has_no_rate_but_what_is_said(run, tmp_path):
    (tmp_path / "still").mkdir()
    for number, pixels in enumerate(moving(6)):
        Image.fromarray(pixels).save(tmp_path / "still" / f"{number}.png")
    assert rate(rollout(run, tmp_path / "still", observe=2, predict=2)["movie"]) == 5
    assert rate(rollout(run, tmp_path / "still", out="b", observe=2, predict=2, fps=8)["movie"]) == 8


def test_of_a_broken_file_what_lies_before_is_used(run, tmp_path):
    file = write(
        tmp_path / "broken.mp4", moving(40), "libx264", setup=lambda stream: setattr(stream, "options", {"g": "5", "bf": "0"})
    )
    content = bytearray(file.read_bytes())
    with av.open(str(file)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    begin, size = packets[20]
    content[begin : begin + size] = b"\xff" * size
    file.write_bytes(content)
    done = rollout(run, file, observe=5, predict=8)  # ends before
    assert done["error"] >= 0
    place = r"broken\.mp4 cannot be decoded from frame 20, at 0\.80 s on \(.*\): 20 frames that lie before are read"
    with pytest.warns(UserWarning, match=place), pytest.raises(ValueError, match=r"broken\.mp4 has 20 frames .* need 22"):
        rollout(run, file, observe=14, predict=8)


def test_an_animated_webp_is_a_video(run, tmp_path):
    shown = [Image.fromarray(pixels) for pixels in moving(9)]
    shown[0].save(tmp_path / "a.webp", save_all=True, append_images=shown[1:], duration=80, lossless=True)
    done = rollout(run, tmp_path / "a.webp", observe=3, predict=4)
    assert rate(done["movie"]) == 12.5
    left, _ = panels(done["movie"])
    assert (torch.nn.functional.avg_pool2d(left.float(), 256 // SIZE) - run.task.read(tmp_path / "a.webp", 7)[0]).abs().mean() < 4


def test_it_begins_where_it_is_told(run, clip):
    later = rollout(run, clip, observe=2, predict=2, begin=8 / 25)
    whole = rollout(run, clip, out="whole", observe=10, predict=2)
    torch.testing.assert_close(panels(later["movie"])[0].float(), panels(whole["movie"])[0][8:].float(), atol=40, rtol=0)


@pytest.mark.parametrize("out", ["x", "x.png", "x.MP4"])
def test_files_are_named_with_or_without_a_kind(run, clip, out):
    done = rollout(run, clip, out=out, observe=1, predict=1)
    assert (str(done["picture"]), str(done["movie"])) == ("x.png", "x.mp4")
    assert sorted(os.listdir()) == ["x.mp4", "x.png"]


def test_they_are_written_to_a_folder_and_a_dot_in_their_name_stays(run, clip):
    os.mkdir("films")
    assert str(rollout(run, clip, out="films", observe=1, predict=1)["movie"]) == "films/clip-rollout.mp4"
    assert str(rollout(run, clip, out="films/v1.5: a", observe=1, predict=1)["movie"]) == "films/v1.5: a.mp4"
    assert sorted(os.listdir("films")) == ["clip-rollout.mp4", "clip-rollout.png", "v1.5: a.mp4", "v1.5: a.png"]


def test_a_build_without_x264_writes_mpeg4(run, clip, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    movie = rollout(run, clip, observe=2, predict=3)["movie"]
    with av.open(str(movie)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert len(pictures(movie)) == 5


@pytest.mark.parametrize("part", ["_drawn", "_panels"])
def test_old_files_stay_when_something_fails(run, clip, monkeypatch, part):
    for name in ("x.png", "x.mp4"):
        Path(name).write_bytes(b"old")

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(f"ebm.commands.rollout.{part}", fail)
    with pytest.raises(OSError, match="full"):
        rollout(run, clip, out="x")
    assert {Path(name).read_bytes() for name in os.listdir()} == {b"old"}
    assert sorted(os.listdir()) == ["x.mp4", "x.png"]


class Blind(Encoder):
    """Cannot decode."""

    def _encode(self, pixels):
        raise AssertionError("no frame is to be read")


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"out": "nowhere/x.png"}, "there is no folder nowhere"),
        ({"observe": 0}, "observe=0: pass a number of at least 1"),
        ({"predict": 0}, "predict=0"),
        ({"candidates": 0}, "candidates=0"),
        ({"patience": 0}, "patience=0"),
        ({"begin": -1.0}, r"begin=-1\.0"),
        (
            {"observe": 12, "predict": 9},
            r"clip.mp4 has 20 frames from begin=0.0 on, but --observe 12 --predict 9 need 21: choose",
        ),
        ({"begin": 13 / 25}, r"has 7 frames from begin=0.52 on, but --observe 5 --predict 8 need 13: choose fewer"),
    ],
)
def test_what_cannot_be_done_says_so_and_writes_nothing(run, clip, keywords, reason):
    with pytest.raises((ValueError, OSError), match=reason):
        rollout(run, clip, **keywords)
    with pytest.raises(FileNotFoundError, match=r"there is no file nothing\.mp4"):
        rollout(run, "nothing.mp4")
    assert os.listdir() == []


def test_the_clip_itself_is_not_overwritten(run, clip):
    before = clip.read_bytes()
    for out in (clip, clip.with_suffix(".png"), clip.with_suffix("")):
        with pytest.raises(ValueError, match="is the clip itself"):
            rollout(run, clip, out=out)
    assert clip.read_bytes() == before


def test_a_frame_of_the_clip_is_not_overwritten(run, clip):
    folder = clip.parent / "frames"
    folder.mkdir()
    (folder / "0.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is a file of the clip"):
        rollout(run, folder, out=folder / "0")
    assert (folder / "0.png").read_bytes() == b"mine"


def test_runs_that_do_not_fit_say_so(run, clip, monkeypatch):
    task = run.task
    run.task = lent(task, "tracks", "scaled", "cut")  # of another class, with all that is needed
    assert rollout(run, clip, predict=1)["error"] == rollout(Run(**{**vars(run), "task": task}), clip, predict=1)["error"]
    run.task = task
    monkeypatch.setattr(run.task, "encoder", Blind(SIZE, 3 * SIZE**2))
    with pytest.raises(ValueError, match="Blind cannot decode features to frames: choose one of"):
        rollout(run, clip)
    run.task = Points("moons", n=60)
    with pytest.raises(ValueError, match="not trained on video: its task Points has no context_length and no decodes and"):
        rollout(run, clip)


# ------------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def said(capsys):
    def say(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            cli.main(["rollout", *map(str, words)])
            status = 0
        except SystemExit as leaving:
            status = leaving.code or 0
        return status, *capsys.readouterr()

    return say


def test_the_command_writes_and_prints(said, run, feed_forward, clip):
    thinking = ("--steps", 3, "--candidates", 2, "--patience", 1, "--tolerance", 0.1, "--seed", 1)
    status, out, err = said(run.path, clip, "-o", "x", "--observe", 3, "--predict", 2, "--begin", 0.1, *thinking)
    assert (status, err) == (0, "")
    lines = dict(line.split("\t") for line in out.splitlines())
    assert [*lines] == ["picture", "movie", "energy", "error", "error of a copy"]
    assert (lines["picture"], lines["movie"]) == ("x.png", "x.mp4")
    assert len(pictures(Path("x.mp4"))) == 5
    status, out, _ = said(feed_forward.path, clip)
    assert status == 0
    assert "energy" not in out
    assert len(pictures(Path("clip-rollout.mp4"))) == 13


def test_the_command_fails_in_one_line(said, run, clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"junk")
    for words, reason in (
        ((run.path, clip, "--predict", 99), "--predict 99 need 104"),
        ((run.path, clip, "-o", "no/x"), "there is no folder no"),
        ((run.path, broken), "cannot be decoded"),
        ((run.path, tmp_path / "none.mp4"), "there is no file"),
        ((tmp_path / "nowhere", clip), "holds no run"),
    ):
        status, _, err = said(*words)
        assert status == 2
        assert reason in err
        assert err.count("\n") == 1


def test_a_frame_an_hour_is_slower_than_a_movie_can_be_and_is_written_all_the_same(tmp_path):
    pictures = (np.full((16, 16, 3), level, dtype=np.uint8) for level in (0, 99, 198))
    _write(pictures, tmp_path / "slow.mp4", Fraction(1, 3600))
    assert rate(tmp_path / "slow.mp4") == pytest.approx(1 / 1001)
