"""Linear probes: features that classify, what is chosen by what, labelled images of every source, the way to the report."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from einops import reduce
from PIL import Image
from PIL import features as features_of_pillow
from torch import nn

import ebm
from ebm import recipes
from ebm.baselines.dit import DiT, _waves
from ebm.cli import main
from ebm.energies import FrameEBT, ResidualImageEBT
from ebm.energies.ebt.patches import PatchStream
from ebm.interfaces import Energy
from ebm.runs.folder import clear
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from ebm.studies.findings import conduct, write_rows
from ebm.studies.probe import COLUMNS, Probed, classify, features, labelled, lines, probe, read_probe, split
from tests.helpers import close, seeded

TINY = {
    "seed": 3,
    "task": {"use": "digits", "size": 8, "n": 60},
    "energy": {"use": "residual-image-ebt", "image_size": 8, "patch_size": 4, "channels": 1, "dim": 8, "depth": 1, "heads": 2},
    "objective": {
        "use": "contrastive-divergence",
        "start": "noise",
        "sampler": {"use": "langevin", "step_size": 0.1, "steps": 2},
    },
    "fit": {"steps": 2, "batch_size": 4, "evaluate_limit": 4},
}


class Oracle(Energy):
    """Knows the digits: its first features are noise, its second the class, and its third the class again."""

    event = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout()
        self.images, self.labels = labelled("digits-8", self.event, None)

    def representations(self, images):
        nearest = torch.cdist(images.flatten(1), self.images.flatten(1)).argmin(1)
        classes = nn.functional.one_hot(self.labels[nearest], 10).float()
        assert torch.equal(self.dropout(classes), classes)  # it is in eval mode
        return [torch.rand(len(images), 4, generator=seeded()), classes, classes]


def run_of(energy, path):
    return Run(path, {}, energy, GradientDescent(step_size=1.0), None, None, {})


def paint(folder, colors, each=10, size=12, seed=0):
    """Writes noisy pictures of one colour for each class, in a sub-folder of its name."""
    draw = np.random.default_rng(seed)
    for name, color in colors.items():
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = (np.array(color) + draw.integers(0, 40, (size, size + index % 2, 3))).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def colors(tmp_path):
    return paint(tmp_path / "colors", {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)})


def quietly(*arguments):
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


# ------------------------------------------------------------------------------------------------------------ classifying


def test_features_that_say_the_class_classify_all_and_pixels_stand_beside(tmp_path):
    energy = Oracle()
    conduct(run_of(energy, tmp_path), "probe", {"data": "digits-8", "seeds": (5, 7), "limit": 300})
    found = read_probe(tmp_path)
    assert [(each.who, each.seed) for each in found] == [("run", 5), ("run", 7), ("pixels", 5), ("pixels", 7)]
    assert [each[2:] for each in found[:2]] == [(1, 5, 1.0, 1.0), (1, 7, 1.0, 1.0)]  # the first of equals
    assert all(0.75 < each.top1 < 1 and each.top5 > 0.95 and each.depth == 0 for each in found[2:])
    assert energy.training


def test_the_depth_is_chosen_on_the_validation_part_alone():
    train, validation, test = split(100, seed=4)
    labels = torch.arange(100) % 4
    validates, tests = (nn.functional.one_hot(labels, 4).float() for _ in range(2))
    validates[test] = validates[test].roll(1, 1)
    tests[validation] = tests[validation].roll(1, 1)
    assert classify([tests, validates], labels, 4) == (1, 0.0, 1.0)
    assert classify([validates, tests], labels, 4)[0] == 0
    swapped = labels.clone()
    swapped[test] = 0  # what the test part's labels are changes nothing
    assert classify([tests, validates], swapped, 4)[0] == 1
    assert sorted(torch.cat([train, validation, test]).tolist()) == list(range(100))
    assert [len(part) for part in (train, validation, test)] == [60, 20, 20]
    assert not torch.equal(split(100, seed=5)[0], train)


def test_top_five_counts_the_five_likeliest_and_a_class_that_is_not_trained_on_is_missed():
    labels = torch.arange(1000) % 10
    guess = torch.stack([(labels - labels % 5).float(), labels.float() * 0], 1)  # tells 0 … 4 from 5 … 9, and no more
    _, top1, top5 = classify([guess], labels, 0)
    assert (top1, top5) == (pytest.approx(0.2, abs=0.1), 1.0)
    train, _, test = split(1000, 0)
    labels[train] = labels[train].clamp(max=8)
    labels[test] = 9
    assert classify([guess], labels, 0)[1:] == (0.0, 0.0)


def test_two_classes_are_enough():
    labels = torch.arange(50) % 2
    assert classify([labels[:, None].float()], labels, 0) == (0, 1.0, 1.0)


def quarters(tokens):
    return reduce(tokens, "n (a h b w) d -> n (d a b)", "mean", a=2, b=2, h=2)


def test_features_of_an_image_ebt_are_means_over_quarters():
    energy = ResidualImageEBT(8, 2, 3, dim=8, depth=2, heads=2)
    for p in energy.parameters():
        nn.init.normal_(p, generator=seeded())
    images = torch.randn(5, 3, 8, 8, generator=seeded())
    found = energy.representations(images)
    assert [tuple(depth.shape) for depth in found] == [(5, 32)] * 3
    close(found[2], quarters(energy.depths(images, energy.encode())[2]), 1e-5, 1e-5)
    grey = features(run_of(energy, None), images[:, :1])
    close(grey, energy.representations(images[:, :1].expand(-1, 3, -1, -1)), 1e-5, 1e-5)


def test_features_of_a_dit_are_those_of_step_zero():
    energy = DiT(8, 2, 3, dim=8, depth=2, heads=2)
    for p in energy.parameters():
        nn.init.normal_(p, generator=seeded())
    energy, images = energy.double(), torch.randn(5, 3, 8, 8, generator=seeded()).double()
    codes = [PatchStream.encode(energy, _waves(torch.full((5,), step))) for step in (0, 99)]
    early, late = (quarters(energy.depths(images, code)[2]) for code in codes)
    close(energy.representations(images)[2], early, 1e-5, 1e-5)
    assert not torch.allclose(early, late, rtol=1e-2)


@pytest.mark.parametrize(
    ("energy", "keywords", "message"),
    [
        (lambda y: y.sum(), {}, r"the run's energy function has no event and no representations: probe a run"),
        (FrameEBT(6, dim=8, depth=1, heads=2), {}, r"the run's energy FrameEBT has no event and no representations"),
        (Oracle(), {"seeds": 0}, r"probe\(seeds=0\): at least one split"),
        (Oracle(), {"limit": 0}, r"limit=0: images are needed"),
        (Oracle(), {"data": "digits-8", "limit": 4}, r"digits-8, limit=4: 4 images of \d classes, but at least 5 of 2"),
        (Oracle(), {"data": "digits-9"}, r"'digits-9' is no local folder.*digits-28` needs no network.*did you mean 'digits-8'"),
        (Oracle(), {"data": "./nowhere"}, r"there is no folder ./nowhere"),
    ],
)
def test_what_cannot_be_probed_says_why(energy, keywords, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        probe(run_of(energy, tmp_path), **keywords)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------------ images


def test_a_folder_has_a_class_in_each_sub_folder(colors, tmp_path):
    images, labels = labelled(str(colors), (3, 8, 8), None)
    assert (images.shape, labels.bincount().tolist()) == ((30, 3, 8, 8), [10, 10, 10])
    assert torch.equal(images.mean((2, 3)).argmax(1), 2 - labels)  # blue, green, red
    assert -1 <= images.min() < -0.6 < 0.5 < images.max() <= 1
    assert labelled(str(colors), (1, 8, 8), 7)[0].shape == (7, 1, 8, 8)
    energy = ResidualImageEBT(8, 4, 3, dim=8, depth=1, heads=2)
    found = probe(run_of(energy, tmp_path), data=[str(colors)], seeds=1)
    assert [(each.who, each.top1, each.top5) for each in found] == [("run", 1.0, 1.0), ("pixels", 1.0, 1.0)]


def test_a_folder_that_cannot_serve_says_why(colors, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no picture in a sub-folder"):
        labelled(str(colors / "red"), (3, 8, 8), None)
    paint(tmp_path / "one", {"red": (200, 0, 0)})
    with pytest.raises(ValueError, match="10 images of 1 classes, but at least 5 of 2"):
        labelled(str(tmp_path / "one"), (3, 8, 8), None)
    (colors / "red" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"cannot be read as a picture.*leave it out"):
        labelled(str(colors), (3, 8, 8), None)


def test_a_hub_dataset_says_which_column_is_which(monkeypatch):
    pictures = [Image.new("L", (6, 6), 20 * index) for index in range(8)]
    rows = {"id": list(range(8)), "img": pictures, "fine": [0, 1] * 4}
    kinds = {"id": datasets.Value("int64"), "img": datasets.Image(), "fine": datasets.ClassLabel(names=["even", "odd"])}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    images, labels = labelled("org/pictures", (1, 6, 6), None)
    shades = ((images.mean((1, 2, 3)) + 1) * 127.5 / 20).round().long()
    assert torch.equal(shades % 2, labels)
    assert sorted(shades.tolist()) == list(range(8))
    table = table.remove_columns("fine")
    with pytest.raises(ValueError, match=r"org/pictures has the columns .*one of pictures and one of class labels"):
        labelled("org/pictures", (1, 6, 6), None)


def test_an_unreachable_hub_fails_fast(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("ebm.tasks.sources.reachable", fail)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(ValueError, match=r"cannot be reached \(no route\): `--data digits-28` needs no network"):
        labelled("org/pictures", (1, 6, 6), None)


# ------------------------------------------------------------------------------------------------- from recipe to report


def test_findings_are_read_back_and_summarised(tmp_path):
    assert read_probe(tmp_path) == []
    found = [Probed("run", "a, b", depth, depth, top1, 0.9) for depth, top1 in ((2, 0.1), (3, 1 / 3), (3, 0.5))]
    found.append(Probed("pixels", "a, b", 0, 0, 0.25, 1.0))
    write_rows(tmp_path / "probe.csv", [each._asdict() for each in found])
    assert read_probe(tmp_path) == found
    assert lines(found)[0][:3] == ("a, b", "run", "3")
    assert lines(found)[0][3].endswith(f"± {100 * np.std([0.1, 1 / 3, 0.5], ddof=1):.1f}")
    assert lines(found) == [
        ("a, b", "run", "3", "31.1 ± 20.1", "90.0 ± 0.0", "3"),
        ("a, b", "pixels", "", "25.0 ± 0.0", "100.0 ± 0.0", "1"),
    ]
    assert len(COLUMNS) == len(lines(found)[0])
    clear(tmp_path)
    assert read_probe(tmp_path) == []


def test_a_recipe_says_what_is_probed():
    table = {"data": ["digits-8"], "seeds": 2}
    resolved = recipes.resolve({**TINY, "probe": table})
    assert resolved["probe"] == table
    assert recipes.assemble(resolved).recipe["probe"] == table
    assert recipes.resolve(TINY, {"probe.seeds": "2"})["probe"] == {"seeds": 2}
    with pytest.raises(ValueError, match=r"did you mean 'seeds'"):
        recipes.resolve({**TINY, "probe": {"seed": 2}})
    with pytest.raises(ValueError, match=r"probe.run is not a recipe's to say"):
        recipes.resolve({**TINY, "probe": {"run": 2}})


def test_a_run_is_probed_at_its_end_and_from_the_command_line(colors, tmp_path, capsys):
    resolved = recipes.resolve({**TINY, "probe": {"data": ["digits-8"], "seeds": 1, "limit": 100}})
    parts = recipes.assemble(resolved)
    out = tmp_path / "run"
    ebm.fit(parts.energy, parts.objective, parts.task, **parts.fit, seed=3, out=out, recipe=parts.recipe)
    assert {each.who for each in read_probe(out)} == {"run", "pixels"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Linear probe" in page
    assert "digits-8" in page.split("Linear probe")[1]

    again = recipes.assemble(recipes.resolve(TINY))
    ebm.fit(again.energy, again.objective, again.task, **again.fit, seed=3, out=out / "baseline", recipe=again.recipe)
    assert not read_probe(out / "baseline")
    assert "Linear probe" not in (out / "baseline" / "report.html").read_text(encoding="utf-8")

    assert quietly("probe", out, "--data", "digits-8", "--data", colors, "--seeds", 2, "--limit", 50) == 0
    printed = capsys.readouterr().out
    found = read_probe(out)
    assert {(each.who, each.data) for each in found} == {
        (who, data) for who in ("run", "baseline", "pixels") for data in ("digits-8", str(colors))
    }
    assert len(found) == 12
    page = (out / "report.html").read_text(encoding="utf-8")
    for line in lines(found):
        assert line[3] in printed
        assert all(cell in page for cell in line)
    assert quietly("probe", out, "--data", "digits-7") == 2
    assert "did you mean" in capsys.readouterr().err
    assert read_probe(out) == found


def test_no_kind_of_picture_is_passed_over(tmp_path):
    for number, (name, label) in enumerate(
        (("0.png", "a"), ("1.JPG", "a"), ("2.jp2", "b"), ("3.webp", "b"), ("4.tga", "b"), ("5.avif", "a"))
    ):
        (tmp_path / label).mkdir(exist_ok=True)
        if features_of_pillow.check("avif") or not name.endswith("avif"):
            Image.fromarray(np.full((9, 9), 50 * number, np.uint8)).save(tmp_path / label / name)
    assert labelled(str(tmp_path), (1, 9, 9), None)[1].bincount().tolist() == [2 + features_of_pillow.check("avif"), 3]
    (tmp_path / "b" / "6.svg").write_text("<svg/>")
    with pytest.raises(ValueError, match=r"6\.svg cannot be read as a picture .*: leave it out"):
        labelled(str(tmp_path), (1, 9, 9), None)
