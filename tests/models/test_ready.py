"""Ready models: small, at work at once, and as good as their cards say."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

import ebm
from ebm.cli import main
from ebm.registry import components
from ebm.studies.restoring import beyond_training
from ebm.tasks.images.whole import restore_picture

FOLDERS = {name: Path(found.factory) for name, found in components("model").items() if found.distribution == "ebm-toolkit"}


def test_all_are_there_and_together_they_are_small():
    assert {"text", "dyck", "sudoku", "digits", "frames", "photograph", "photograph-grey"} <= FOLDERS.keys()
    assert sum(file.stat().st_size for folder in FOLDERS.values() for file in folder.rglob("*")) < 3e6


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_card_has_numbers_a_licence_and_a_command(name):
    card = (FOLDERS[name] / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card
    assert f'ebm.load("{name}")' in card
    for metric in json.loads((FOLDERS[name] / "metrics.json").read_text()):
        assert metric in card


def test_text_is_written():
    (text,) = ebm.load("text").generate("In the beginning", max_new_tokens=60, temperature=0)
    assert " the " in text
    assert len(text) > 40


def test_brackets_are_closed():
    model = ebm.load("dyck")
    for prompt in ("(([", "[([(["):
        (written,) = model.generate(prompt, temperature=0)
        opened = []
        for sign in prompt + written:
            if sign in "([":
                opened.append(sign)
            else:
                assert {"(": ")", "[": "]"}[opened.pop()] == sign
        assert not opened


def test_a_sudoku_is_solved(tmp_path, capsys):
    board = "1.34.6 ....23 23.5.4 .642.. 3..6.5 .45.1."
    with pytest.raises(SystemExit) as stop:
        main(["solve", "sudoku", board.replace(" ", "\n"), "--steps", "32", "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["right"] is True


def test_digits_are_sampled_without_data(monkeypatch):
    monkeypatch.setattr("ebm.tasks.digits.read_table", None)
    samples = ebm.load("digits").sample(20)
    assert samples.shape == (20, 1, 8, 8)
    assert 0.1 < (samples > 0).float().mean() < 0.6  # strokes on a dark ground


@pytest.mark.parametrize("name", ["photograph", "photograph-grey"])
def test_noise_is_taken_off(name):
    model = ebm.load(name)
    task = model.task
    for split, gain in (("sigma-1", 0.1), ("sigma-3", 1.5), ("sigma-10", 4), ("test", 7), ("sigma-50", 9)):
        _, clean, seen = task.held_out(split, 1)[0]
        crop = seen.image[0][:, 96:192, 96:192]
        found = restore_picture(task, model.thinker, crop, int(seen.step)).image
        errors = [(each - clean[:, 96:192, 96:192]).square().mean() for each in (found, crop)]
        assert 10 * (errors[1] / errors[0]).log10() > gain, split


@pytest.mark.parametrize("name", ["photograph", "photograph-grey"])
def test_noise_beyond_training_s_is_thought_about(name):
    model = ebm.load(name)
    _, clean, seen = model.task.held_out("sigma-75", 1)[0]
    crop, clean = seen.image[0][:, 96:192, 96:192], clean[:, 96:192, 96:192]
    thinker = beyond_training(model)
    assert thinker is not None
    once, longer = (restore_picture(model.task, who, crop, int(seen.step)) for who in (model.thinker, thinker))
    errors = [(each.image - clean).square().mean() for each in (once, longer)]
    assert 10 * (errors[0] / errors[1]).log10() > 3


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_the_weights_are_as_good_as_the_card_says(name):
    model = ebm.load(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = model.evaluate()
    headline = model.task.headline
    assert found[headline] == pytest.approx(model.metrics[headline], rel=0.01, abs=0.003)
