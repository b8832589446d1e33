"""Laws of what a run keeps: it works without its data, anywhere, and says where data are others."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import ebm
from ebm.cli import main
from ebm.recipes.paths import absolute
from ebm.runs import learned
from ebm.runs.checkpoints import CheckpointError
from ebm.samplers import GradientDescent
from tests.fake_plugins import quick_report

FIT = {"steps": 2, "batch_size": 4, "evaluate_limit": 3, "checkpoint_every": 1}
DESCENT = {"use": "gradient-descent", "step_size": 1.0, "steps": 2}
SOFT = {**DESCENT, "retraction": "softmax"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    quick_report(monkeypatch)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def documents(count: int = 60) -> str:
    return "".join(json.dumps({"text": f"Doc {i}: the cat number {i} sat on mat {i % 7}."}) + "\n" for i in range(count))


def text(**task) -> dict:
    with open("corpus.jsonl", "w") as file:
        file.write(documents())
    task = {"use": "text", "source": "corpus.jsonl", "context": 8, **task}
    energy = {"use": "residual-text-ebt", "dim": 8, "depth": 1, "heads": 1}
    return {"task": task, "energy": energy, "objective": {"use": "reconstruction", "sampler": SOFT}, "fit": FIT}


def tokenizer_folder() -> str:
    """Writes a tokenizer as Hugging Face's libraries do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(signs)}, merges=[]))
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    model.add_special_tokens(["<end>"])
    shutil.os.makedirs("tokenizer", exist_ok=True)
    model.save("tokenizer/tokenizer.json")
    with open("tokenizer/tokenizer_config.json", "w") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}, file)
    return "tokenizer"


def photographs() -> dict:
    generator = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        shutil.os.makedirs(f"photos/{split}")
        for i in range(2):
            Image.fromarray(generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(f"photos/{split}/{i}.png")
    task = {"use": "denoising", "source": "photos", "tile": 8, "crop": 16, "tiles": 16, "stride": 8}
    energy = {"use": "residual-image-ebt", "dim": 8, "depth": 1, "heads": 1, "patch_size": 4}
    return {"task": task, "energy": energy, "objective": {"use": "reconstruction", "sampler": DESCENT}, "fit": FIT}


def frames(encoder: dict) -> dict:
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for clip in range(2):
            shutil.os.makedirs(f"clips/{split}/{clip}")
            for i in range(8):
                Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(f"clips/{split}/{clip}/{i}.png")
    task = {"use": "frames", "source": "clips", "encoder": encoder, "context": 3, "cache": "cache", "cut": 300.0}
    energy = {"use": "residual-frame-ebt", "dim": 8, "depth": 1, "heads": 1}
    return {"task": task, "energy": energy, "objective": {"use": "reconstruction", "sampler": DESCENT}, "fit": FIT}


def points() -> dict:
    rows = np.random.default_rng(0).normal(3, 2, (60, 2))
    np.savetxt("points.csv", rows, delimiter=",", header="a,b", comments="")
    task = {"use": "points", "name": "points.csv", "columns": ["a", "b"]}
    objective = {"use": "contrastive-divergence", "sampler": {"use": "langevin", "step_size": 0.01, "steps": 2}}
    return {"task": task, "energy": {"use": "mlp", "hidden": [8]}, "objective": objective, "fit": {**FIT, "evaluate_limit": 4}}


def boards() -> dict:
    rows = ["12..34..21..43..,1234341221434321"] * 30
    with open("boards.csv", "w") as file:
        file.write("\n".join(rows))
    task = {
        "use": "puzzles",
        "game": {"kind": "sudoku", "box": [2, 2], "clues": [7, 10], "hard": 6},
        "data": "boards.csv",
        "held_out": 4,
    }
    sampler = {"use": "mirror-descent", "steps": 2}
    objective = {"use": "reconstruction", "sampler": sampler}
    return {"task": task, "energy": {"use": "belief-ebt", "dim": 8, "heads": 2, "depth": 1}, "objective": objective, "fit": FIT}


AUTOENCODER = {"use": "autoencoder", "size": 16, "channels": 4, "downsample": 8, "width": 4, "steps": 3}
RUNS = {
    "bytes": text,
    "byte pairs": lambda: text(tokenizer="bpe", vocab_size=280),
    "a tokenizer's folder": lambda: text(tokenizer=tokenizer_folder()),
    "a stream": lambda: text(streaming=True),
    "photographs": photographs,
    "pixels of clips": lambda: frames({"use": "pixels", "size": 8}),
    "an encoder that learned": lambda: frames(AUTOENCODER),
    "a table": points,
    "boards": boards,
}


def use(run, out) -> list:
    """Does with a run what needs no data of its task, by the command line where there is a command."""
    name = type(run.task).__name__

    def call(*arguments: str) -> None:
        with pytest.raises(SystemExit) as stop:
            main([*arguments])
        assert stop.value.code == 0

    if name == "Text":
        call("generate", str(run.path), "--prompt", "Doc 1", "--max-new-tokens", "5")
        return [run.task.tokenizer.encode("the cat"), run.task.spec]
    if name == "Denoising":
        Image.fromarray(np.full((16, 16, 3), 99, np.uint8)).save(out / "p.png")
        call("denoise", str(run.path), str(out / "p.png"), "--out", str(out / "q.png"))
        return [np.asarray(Image.open(out / "q.png")).tolist()]
    if name == "Frames":
        for i in range(8):
            (out / "clip").mkdir(exist_ok=True)
            Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(out / "clip" / f"{i}.png")
        call("rollout", str(run.path), str(out / "clip"), "--observe", "3", "--predict", "1", "--out", str(out / "roll"))
        return [run.task.read(out / "clip", 8)[1].tolist()]
    if name == "Puzzles":
        call("solve", str(run.path), "12..34..21..43..", "--steps", "2", "--candidates", "1")
        return [run.task.spec["vocab_size"]]
    return [run.sample(5).tolist(), run.task.mean.tolist()]


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_needs_no_data_to_be_used(tmp_path, monkeypatch, capsys, kind):
    recipe = RUNS[kind]()
    trained = ebm.run(recipe, out="run")
    (tmp_path / "out").mkdir()
    before = use(trained, tmp_path / "out")
    shown = capsys.readouterr().out
    shutil.move("run", tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / "here")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    run = ebm.load("moved")
    assert use(run, tmp_path / "out") == before
    assert capsys.readouterr().out.replace("moved", "run") == shown
    with pytest.raises((FileNotFoundError, ValueError), match="here"):
        run.evaluate()


@pytest.mark.parametrize("kind", ["byte pairs", "photographs", "a table"])
def test_data_that_changed_are_named(tmp_path, kind):
    recipe = RUNS[kind]()
    metrics = ebm.run(recipe, out="run").metrics
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ebm.load("run").evaluate() == pytest.approx(metrics)  # by what was kept, bit for bit the same
    if kind == "photographs":
        shutil.copy("photos/train/0.png", "photos/train/9.png")
    elif kind == "a table":
        with open("points.csv", "a") as file:
            file.write("9,9\n")
    else:
        with open("corpus.jsonl", "a") as file:
            file.write(json.dumps({"text": "zzz " * 500}) + "\n")
    run = ebm.load("run")
    if kind == "byte pairs":
        assert run.task.tokenizer.vocab_size == run.task.spec["vocab_size"]
    with pytest.warns(UserWarning, match=r"run was trained on other data .*fingerprint"):
        run.evaluate()
    with pytest.warns(UserWarning, match="this run trains on the new ones"):
        ebm.run("run/recipe.toml", out="again")


def test_a_renamed_folder_is_the_same_data():
    recipe = photographs()
    ebm.run(recipe, out="run")
    shutil.move("photos", "pictures")
    recipe["task"]["source"] = "pictures"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ebm.load("run", task=ebm.build("task", "denoising", **{k: v for k, v in recipe["task"].items() if k != "use"})).evaluate()


def test_a_stopped_run_does_not_go_on_with_other_data(monkeypatch):
    recipe = text()
    ebm.run(recipe, out="run")
    (shutil.os.remove("run/metrics.json"), shutil.rmtree("run/checkpoints/step-000000002"))
    with open("corpus.jsonl", "a") as file:
        file.write(json.dumps({"text": "another"}) + "\n")
    with pytest.raises(ValueError, match=r"another data: they have changed since it began .*: bring them back"):
        ebm.run(recipe, out="run")


def test_what_a_run_keeps_is_checked_and_removed_with_it():
    recipe = text(tokenizer="bpe", vocab_size=280)
    ebm.run(recipe, out="run")
    kept = learned.kept(ebm.load("run").path)
    assert sorted(learned.index_of(kept.parent)["files"]) == ["tokenizer.json", "tokenizer.settings.json"]
    (kept / "notes.txt").write_text("mine")
    ebm.run(text(), {"seed": 3}, out="run", overwrite=True)
    assert sorted(path.name for path in kept.iterdir()) == ["notes.txt", "task.json", "tokenizer.settings.json"]
    path = kept / "tokenizer.settings.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(CheckpointError, match=r"settings.json is damaged: it is not what was written"):
        ebm.load("run")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"settings.json is missing"):
        ebm.load("run")


def test_paths_of_a_recipe_are_kept_absolute_beside_what_was_typed(tmp_path):
    ebm.run(text(), out="run")
    recipe = ebm.load("run").recipe
    assert recipe["task"]["source"] == str(tmp_path / "here" / "corpus.jsonl")
    assert recipe["typed"] == {"task.source": "corpus.jsonl"}
    assert absolute(recipe) == recipe


def test_words_of_a_task_are_no_paths(tmp_path):
    for name in ("kjv", "bytes"):
        (tmp_path / "here" / name).mkdir()
    recipe = {"task": {"use": "text", "source": "kjv", "tokenizer": "bytes"}}
    assert absolute(recipe) == recipe


def test_a_task_of_ones_own_replaces_the_recipes_which_is_not_built(monkeypatch):
    ebm.run(text(), out="run")
    own = ebm.build("task", "dyck", n=50, length=16)
    monkeypatch.setattr("ebm.tasks.text.text.Text.__init__", None)
    energy = ebm.build("energy", "residual-text-ebt", vocab_size=257, dim=8, depth=1, heads=1)
    assert ebm.load("run", task=own, energy=energy, sampler=GradientDescent(1.0)).task is own


def test_blank_batches_are_like_the_data():
    for task in (ebm.build("task", "digits", conditional=True), ebm.build("task", "digits"), ebm.build("task", "points", n=50)):
        blank, batch = task.blank(4), next(iter(task.loader("test", 4)))
        assert [None if x is None else (x.shape, x.dtype) for x in blank] == [
            None if x is None else (x.shape, x.dtype) for x in batch
        ]
        assert torch.equal(blank.target, torch.zeros_like(batch.target))


def test_a_text_is_no_path():
    recipe = {"task": {"use": "text", "source": ["a text. " * 9999, "b"]}}
    assert absolute(recipe) == recipe


def test_samples_of_a_split_without_a_batch_are_refused(monkeypatch):
    run = ebm.run(text(), out="run")
    monkeypatch.setattr(run.task, "loader", lambda *_, **__: [])
    with pytest.raises(ValueError, match=r"sample\(3\): Text has no batch of 3 rows in its test split"):
        run.sample(3)
