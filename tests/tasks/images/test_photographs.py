"""Laws of reading photographs: every kind of source, who is in which split, and what is left out."""

import os
import subprocess
import sys
import warnings
from io import BytesIO
from itertools import chain

import datasets
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, features
from skimage import data

from ebm.tasks.images.photographs import Photograph, photographs, read_photograph


def picture(number=0, height=40, width=50, kind="PNG", **options):
    """The bytes of a picture whose upper left pixel says its number."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)
    pixels[0, 0] = number
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def folder_of(folder, count, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:02}.png").write_bytes(picture(number, **options))
    return str(folder)


def numbers(found):
    return {split: [photo.pixels[0, 0, 0].item() for photo in photos] for split, photos in found.items()}


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


# --------------------------------------------------------------------------------------------------------------- bundled


@pytest.mark.parametrize("channels", [1, 3])
def test_bundled_photographs(channels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = photographs(channels=channels)
    assert {split: len(photos) for split, photos in found.items()} == {"train": 12, "validation": 1, "test": 3}
    photos = [photo for held in found.values() for photo in held]
    assert len({photo.name for photo in photos}) == 16
    assert all(isinstance(photo, Photograph) and photo.pixels.dtype == torch.uint8 for photo in photos)
    assert {len(photo.pixels) for photo in photos} == {channels}
    assert [photo.name for photo in found["test"]] == ["astronaut.png", "coffee.png", "flower.jpg"]


def test_pixels_are_scikit_images():
    astronaut = photographs()["test"][0].pixels
    assert torch.equal(astronaut, torch.from_numpy(data.astronaut()).movedim(-1, 0))
    camera = next(photo.pixels for photo in photographs(channels=1)["train"] if photo.name == "camera.png")
    assert torch.equal(camera, torch.from_numpy(data.camera())[None])
    grey = next(photo.pixels for photo in photographs()["train"] if photo.name == "camera.png")
    assert torch.equal(grey, camera.expand(3, -1, -1))


def test_foolbox_is_for_testing_alone(monkeypatch):
    pytest.importorskip("foolbox")
    found = photographs("foolbox")
    assert {split: len(photos) for split, photos in found.items()} == {"train": 0, "validation": 0, "test": 20}
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(ImportError, match="^foolbox is not installed: pip install foolbox$"):
        photographs("foolbox")


@pytest.mark.parametrize("package", ["skimage", "sklearn", "PIL"])
def test_missing_packages_name_their_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"^{package} is not installed: pip install 'ebm-toolkit\[recipes\]'"):
        photographs()


# --------------------------------------------------------------------------------------------------------------- folders


def test_a_folder_is_dealt_out_by_its_seed(tmp_path):
    source = folder_of(tmp_path / "odd [1] *", 20)
    found = photographs(source)
    assert {split: len(photos) for split, photos in found.items()} == {"train": 14, "validation": 2, "test": 4}
    assert sorted(chain(*numbers(found).values())) == list(range(20))
    assert all(photo.name == f"{photo.pixels[0, 0, 0]:02}.png" for photos in found.values() for photo in photos)
    assert numbers(photographs(source)) == numbers(found) != numbers(photographs(source, seed=1))


def test_sub_folders_are_splits(tmp_path):
    for number, split in enumerate(("train", "validation", "test", "other")):
        (tmp_path / split / "below").mkdir(parents=True)
        (tmp_path / split / "below" / "test.png").write_bytes(picture(number))
        (tmp_path / split / "notes.txt").write_text("no picture")
    found = photographs(str(tmp_path))
    assert numbers(found) == {"train": [0], "validation": [1], "test": [2]}
    assert found["train"][0].name == "train/below/test.png"
    (tmp_path / "test" / "below" / "test.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no picture in .*test: name a folder with files of \.jpg"):
        photographs(str(tmp_path))


@pytest.mark.parametrize("name", ["val", "Valid", "dev"])
def test_a_split_goes_by_its_other_names(tmp_path, name):
    for number, split in enumerate(("Train", name, "TEST")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_bytes(picture(number))
    assert numbers(photographs(str(tmp_path))) == {"train": [0], "validation": [1], "test": [2]}
    (tmp_path / "validation").mkdir()
    with pytest.raises(
        ValueError, match=rf"has {name} and validation, which both are validation|has validation and {name}, which"
    ):
        photographs(str(tmp_path))


def test_a_split_without_a_folder_is_named(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_bytes(picture(1))
    with pytest.raises(FileNotFoundError, match="has the folders train, val and none of test"):
        photographs(str(tmp_path))


def test_pictures_beside_the_splits_are_counted(tmp_path):
    for number, split in enumerate(("train", "val", "test", "more")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_bytes(picture(number))
    (tmp_path / "loose.png").write_bytes(picture(9))
    with pytest.warns(UserWarning, match="2 pictures outside of test, train, val are left out"):
        photographs(str(tmp_path))


@pytest.mark.parametrize("named", ["pictures", "./pictures", "pictures/", "../here/pictures"])
def test_a_folder_may_be_named_from_here(tmp_path, monkeypatch, named):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder_of(tmp_path / "here" / "pictures", 10)
    found = photographs(named)
    assert sorted(chain(*numbers(found).values())) == list(range(10))
    assert all(photo.name == f"{photo.pixels[0, 0, 0]:02}.png" for photos in found.values() for photo in photos)


def test_no_picture_is_passed_over_in_silence(tmp_path):
    """All kinds are read as what they show, or counted as left out; hidden files are nobody's pictures."""
    source, shown = folder_of(tmp_path, 8), np.linspace(0, 1, 40 * 40).reshape(40, 40)
    tifffile.imwrite(tmp_path / "10-float.tif", shown.astype(np.float32))
    tifffile.imwrite(tmp_path / "11-twelve.tif", (shown * 4095).astype(np.uint16))
    tifffile.imwrite(tmp_path / "12-unknown.tif", (shown * 3 - 1).astype(np.float32))
    Image.fromarray((shown * 255).astype(np.uint8)).save(tmp_path / "13.JP2")
    (tmp_path / "14-drawing.svg").write_text("<svg/>")
    (tmp_path / "._15.png").write_bytes(b"of a system's own")
    (tmp_path / "15.png").symlink_to(tmp_path / "nowhere.png")
    if features.check("avif"):
        Image.fromarray((shown * 255).astype(np.uint8)).save(tmp_path / "16.avif", quality=100)
    with pytest.warns(UserWarning, match="left out|look at") as caught:
        found = photographs(source)
    told = [str(each.message) for each in caught]
    assert any(
        f"3 of {14 + features.check('avif')}" in words
        and "; 15.png: there is no file" in words
        and "12-unknown.tif" in words
        and "-1 to 2" in words
        and "14-drawing.svg" in words
        for words in told
    )
    assert any("10-float.tif: its numbers" in words and "11-twelve.tif: its 16 bits" in words for words in told)
    photos = {photo.name: photo.pixels for held in found.values() for photo in held}
    assert len(photos) == 8 + 3 + features.check("avif")
    for name in photos.keys() - {f"{number:02}.png" for number in range(8)}:
        assert (photos[name][0] - torch.from_numpy(shown * 255)).abs().mean() < 2, name


def test_what_nobody_sees_is_not_learned(tmp_path):
    pixels = np.full((40, 40, 4), 200, np.uint8)
    pixels[10:20, :, 3], pixels[10:20, :, :3] = 0, 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_photograph(tmp_path / "a.png") == 200).all()


def test_of_several_frames_the_first_is_read_and_that_is_said(tmp_path):
    shown = [Image.fromarray(np.full((9, 9), 40 * number, np.uint8)) for number in range(1, 4)]
    shown[0].save(tmp_path / "a.tif", save_all=True, append_images=shown[1:])
    with pytest.warns(UserWarning, match=r"a\.tif: it has 3 frames or pages, of which the first is read"):
        assert (read_photograph(tmp_path / "a.tif") == 40).all()


def test_names_of_files_are_no_splits(tmp_path):
    for number, name in enumerate(("train", "test-a", "validation", "test-b", "dev", "eval")):
        (tmp_path / f"{name}.jpg").write_bytes(picture(number))
    assert [len(photos) for photos in photographs(str(tmp_path)).values()] == [4, 1, 1]


def test_too_few_photographs_say_so(tmp_path):
    source = folder_of(tmp_path, 5)
    with pytest.raises(ValueError, match=r"has 5 photographs, as splits \{'train': 4, 'validation': 0, 'test': 1\}: each split"):
        photographs(source)


@pytest.mark.parametrize("source", ["./missing", "~/missing-folder", "/missing"])
def test_a_missing_folder_is_no_hub_dataset(source):
    with pytest.raises(FileNotFoundError, match=f"there is no folder {source}"):
        photographs(source)


def test_a_folder_without_pictures_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(FileNotFoundError, match=r"holds no picture"):
        photographs(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*notes.txt"):
        photographs(str(tmp_path / "notes.txt"))


@pytest.fixture
def mixed(tmp_path):
    """Ten good photographs, five bad ones, each in a way of its own, and two more small ones."""
    source = folder_of(tmp_path, 10)
    (tmp_path / "20-noise.png").write_bytes(b"no picture at all")
    (tmp_path / "21-cut.png").write_bytes(picture(21)[:300])
    (tmp_path / "22-cut.jpg").write_bytes(picture(22, kind="JPEG")[:900])
    (tmp_path / "23-empty.jpg").write_bytes(b"")
    for number, size in enumerate([(31, 50), (50, 31), (8, 8)], start=24):
        (tmp_path / f"{number}-small.png").write_bytes(picture(number, *size))
    return source


def test_bad_files_are_named_counted_and_left_out(mixed):
    with pytest.warns(UserWarning, match="photographs are left out") as caught:
        found = photographs(mixed)
    assert sorted(chain(*numbers(found).values())) == list(range(10))
    assert len(caught) == 1
    said = str(caught[0].message)
    assert said.startswith(f"{mixed}: 7 of 17 photographs are left out: 20-noise.png: ")
    assert "cannot be read as a picture (cannot identify image file)" in said
    assert "24-small.png: 31x50 pixels are fewer than 32 a side" in said
    assert said.endswith("; …")
    assert "25-small" not in said
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["20-noise.png", "21-cut.png", "22-cut.jpg", "23-empty.jpg", "24-small.png", "25-small.png"])
def test_strictness_stops_at_the_first(mixed, tmp_path, name):
    for file in tmp_path.iterdir():
        if file.name[0] == "2" and file.name != name:
            file.unlink()
    with pytest.raises(ValueError, match=rf"{name}: .*; strict=False leaves it out"):
        photographs(mixed, strict=True)


def test_channels_are_no_files_fault():
    with pytest.raises(ValueError, match=r"^channels=2: choose 3"):
        photographs(channels=2)


def test_smallest_is_a_choice(mixed):
    with pytest.warns(UserWarning, match="5 of 17"):
        found = photographs(mixed, smallest=31)
    assert sum(map(len, found.values())) == 12


def test_folders_need_no_network_and_leave_nothing_behind(tmp_path):
    home, source = tmp_path / "home", folder_of(tmp_path / "pictures", 10)
    home.mkdir()
    code = f"""
import socket
def refuse(*_): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
import sys
from ebm.tasks.images.photographs import photographs
assert not {{"PIL", "datasets", "skimage", "sklearn"}} & set(sys.modules)
photographs(), photographs({source!r})
assert not {{"skimage", "sklearn"}} & set(sys.modules)
"""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "TMPDIR": str(home)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    assert [path for path in home.rglob("*") if path.is_file()] == []


# ------------------------------------------------------------------------------------------------------------------- hub


def test_a_hub_dataset_is_asked_for_by_name(hub):
    rows = [{"bytes": picture(number), "path": None} for number in range(10)] + [{"bytes": b"broken", "path": "a.jpg"}, None]
    asked = hub({"photo": rows, "label": [0] * 12}, photo=datasets.Image(), label=datasets.Value("int64"))
    with pytest.warns(UserWarning, match=r"org/pictures: 2 of 12 photographs are left out: row 10: .*; row 11: "):
        found = photographs("org/pictures", column="photo", config="small", hub_split="all")
    assert asked == [(("org/pictures", "small"), {"split": "all"})]
    assert sorted(chain(*numbers(found).values())) == list(range(10))
    with pytest.warns(UserWarning, match="2 of 12"):
        assert numbers(photographs("org/pictures", column="photo", smallest=1)) == numbers(found)
    for column, message in (
        ("foto", r"no column 'foto': did you mean 'photo'\?"),
        ("label", "column 'label' holds .*no pictures"),
    ):
        with pytest.raises(ValueError, match=message):
            photographs("org/pictures", column=column)


def test_an_unreachable_hub_fails_fast_and_names_the_way_out(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("ebm.optional.urlopen", fail)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    message = r"'bundeld' is no local folder.* \(no route\): `--task.source bundled` needs no network.*did you mean 'bundled'\?"
    with pytest.raises(ValueError, match=message):
        photographs("bundeld")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match="needs no network"):
        photographs("org/pictures")


def test_a_wrong_hub_split_restates_the_call(hub, monkeypatch):
    def refuse(*_, **__):
        raise ValueError('Unknown split "trian".')

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"hub dataset 'org/p', config=None, hub_split='trian': Unknown split"):
        photographs("org/p", hub_split="trian")


# ---------------------------------------------------------------------------------------------------------- one at a time


def test_a_photograph_is_read_from_path_or_bytes(tmp_path):
    content = picture(7, 12, 9)
    (tmp_path / "a.png").write_bytes(content)
    read = read_photograph(content)
    assert read.shape == (3, 12, 9)
    assert torch.equal(read, read_photograph(tmp_path / "a.png"))
    assert torch.equal(read, read_photograph(str(tmp_path / "a.png")))
    assert read_photograph(content, 1).shape == (1, 12, 9)
    assert read_photograph(content, 1)[0, 0, 0] == 7


def test_photographs_are_upright():
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned clockwise by 90 degrees
    read, plain = read_photograph(picture(3, 20, 30, exif=turned)), read_photograph(picture(3, 20, 30))
    assert read.shape == (3, 30, 20)
    assert torch.equal(read, plain.rot90(-1, (1, 2)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_kind_of_pixel_is_converted(mode):
    file, grey = BytesIO(), np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(file, "TIFF")
    for channels in (1, 3):
        read = read_photograph(file.getvalue(), channels)
        assert read.shape == (channels, 8, 8)
        expected = 255.0 * (grey > 127) if mode == "1" else grey.astype(float)
        assert np.abs(read.numpy() - expected).mean() < (128 if mode == "1" else 2)


def test_reading_one_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.png"):
        read_photograph(tmp_path / "none.png")
    (tmp_path / "bad.png").write_bytes(b"bad")
    with pytest.raises(ValueError, match=r"bad\.png cannot be read as a picture \(cannot identify image file\)"):
        read_photograph(tmp_path / "bad.png")
    with pytest.raises(ValueError, match="channels=2: choose 3"):
        read_photograph(b"", 2)


# --------------------------------------------------------------------------------------------------------- several sources


def test_the_splits_of_several_sources_are_joined(tmp_path):
    mine, more = tmp_path / "mine", tmp_path / "more"
    folder_of(mine / "train", 3)
    folder_of(more, 10)
    found = photographs([str(mine), "bundled"])
    bundled, own = photographs(), numbers(photographs(str(more)))
    assert numbers({"train": found["train"][:3]}) == {"train": [0, 1, 2]}
    assert [photo.name for photo in found["train"][3:]] == [photo.name for photo in bundled["train"]]
    assert [photo.name for photo in found["test"]] == [photo.name for photo in bundled["test"]]
    both = photographs([str(mine), str(more)])
    assert numbers(both) == {"train": [0, 1, 2, *own["train"]], "validation": own["validation"], "test": own["test"]}
    names = [photo.name for photos in both.values() for photo in photos]
    assert len(set(names)) == len(names)


def test_several_sources_have_all_splits_among_them(tmp_path):
    mine = tmp_path / "mine"
    folder_of(mine / "train", 3)
    with pytest.raises(FileNotFoundError, match="has the folders train and none of validation and test"):
        photographs(str(mine))
    folder_of(tmp_path / "more" / "val", 2)
    with pytest.raises(ValueError, match=r"mine, .*more has 5 photographs, as splits .*'validation': 2, 'test': 0"):
        photographs([str(mine), str(tmp_path / "more")])
    for sources in ([], ["bundled", "bundled"]):
        with pytest.raises(ValueError, match="pass one name or folder, or a list of different ones"):
            photographs(sources)
