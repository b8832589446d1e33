"""Laws of models that are given away: they are what the run was, anywhere, without its data; what is wrong is refused."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

import ebm
from ebm.cli import main
from ebm.energies import MLPEnergy
from ebm.objectives import ContrastiveDivergence
from ebm.runs import exported
from ebm.runs.checkpoints import CheckpointError
from ebm.runs.index import index_of, seal
from ebm.runs.portable import portable
from ebm.samplers import LangevinDynamics
from tests.fake_plugins import installed, offering, quick_report, run_python, write_distribution
from tests.runs.test_learned import RUNS, text, use

LANGEVIN = {"use": "langevin", "step_size": 0.1, "steps": 2}
REPLAY = {"use": "replay", "capacity": 40, "sampler": {**LANGEVIN, "use": "gradient-descent", "learnable": True}}
MOONS = {
    "summary": "Moons.",
    "task": {"use": "points", "name": "moons", "n": 60},
    "energy": {"use": "mlp", "hidden": [8]},
    "objective": {"use": "contrastive-divergence", "sampler": LANGEVIN},
    "fit": {"steps": 2, "batch_size": 4, "evaluate_limit": 4},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    quick_report(monkeypatch)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def said(capsys, *words) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return (stop.value.code, *capsys.readouterr())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ------------------------------------------------------------------------------------------------------------ round trip


@pytest.mark.parametrize("kind", RUNS)
def test_what_is_given_away_is_what_was_trained_and_names_no_folder_of_this_machine(tmp_path, monkeypatch, capsys, kind):
    trained = ebm.run(RUNS[kind](), out="run")
    weights = {name: value.clone() for name, value in trained.energy.state_dict().items()}
    (tmp_path / "out").mkdir()
    before, shown = use(trained, tmp_path / "out"), capsys.readouterr().out
    trained.export(tmp_path / "moved" / "model")
    monkeypatch.chdir(tmp_path / "moved")
    shutil.rmtree(tmp_path / "here")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    for name, content in files(tmp_path / "moved" / "model").items():
        assert name.endswith(exported.SUFFIXES)
        assert Path("model", name).stat().st_mode == Path("model/model.json").stat().st_mode
        for secret in (str(tmp_path).encode(), b"/here", tmp_path.name.encode()):
            assert secret not in content, name
    model = ebm.load("model")
    assert {name: value.tolist() for name, value in model.energy.state_dict().items()} == {
        n: v.tolist() for n, v in weights.items()
    }
    assert model.metrics == trained.metrics
    assert use(model, tmp_path / "out") == before
    assert capsys.readouterr().out.replace("model", "run") == shown


def test_the_average_and_learned_step_sizes_are_kept_and_nothing_of_training(tmp_path):
    recipe = {**MOONS, "objective": {**MOONS["objective"], "sampler": REPLAY}, "fit": {**MOONS["fit"], "steps": 5, "ema": 0.5}}
    trained = ebm.run(recipe, out="run")
    with torch.no_grad():
        next(trained.objective.sampler.parameters()).mul_(2)
    model = ebm.load(trained.export("model"))
    for name, value in trained.energy.state_dict().items():  # which is the average
        assert torch.equal(model.energy.state_dict()[name], value), name
    found, was = model.objective.sampler.sampler, trained.objective.sampler.sampler
    assert [p.tolist() for p in found.parameters()] == [p.tolist() for p in was.parameters()]
    assert found.step_size.item() == pytest.approx(0.2)
    tensors = exported.load_file(Path("model/model.safetensors"))
    assert sum(value.numel() for value in tensors.values()) == sum(
        p.numel() for p in [*trained.energy.parameters(), *was.parameters()]
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_stored_and_turned_back(capsys, dtype):
    trained = ebm.run(MOONS, out="run")
    assert said(capsys, "export", "run", "model", "--dtype", dtype)[0] == 0
    stored = exported.load_file(Path("model/model.safetensors"))
    assert {value.dtype for name, value in stored.items() if name.startswith("energy/")} == {getattr(torch, dtype)}
    model = ebm.load("model")
    for was, now in zip(trained.energy.parameters(), model.energy.parameters(), strict=True):
        assert now.dtype == was.dtype == torch.float32
        assert torch.equal(now, was.to(getattr(torch, dtype)).float())
    assert f"Weights are stored in {dtype}; the numbers are of them before that." in Path("model/README.md").read_text()
    assert json.loads(Path("model/model.json").read_text())["dtype"] == dtype


def test_weights_too_large_for_a_dtype_are_refused():
    trained = ebm.run(MOONS, out="run")
    with torch.no_grad():
        next(trained.energy.parameters())[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"energy\..*weight has numbers too large for float16: store the weights in bfloat16"):
        trained.export("model", dtype="float16")
    assert not Path("model").exists()
    trained.export("model", dtype="bfloat16")


def test_a_model_of_parts_made_by_hand_asks_for_them():
    objective = ContrastiveDivergence(LangevinDynamics(step_size=0.1, steps=2))
    energy = MLPEnergy(2, hidden=(8,)).double()
    run = ebm.fit(energy, objective, torch.randn(60, 2).double(), steps=2, batch_size=4, evaluate_limit=4, out="run")
    run.export("model", dtype="float32")
    with pytest.raises(ValueError, match=r"made by hand: pass it, as in ebm.load\('model', energy=…\)"):
        ebm.load("model")
    found = ebm.load("model", energy=MLPEnergy(2, hidden=(8,)).double(), objective=objective)
    assert next(found.energy.parameters()).dtype == torch.float64
    assert torch.allclose(next(found.energy.parameters()), next(energy.parameters()), atol=1e-6)
    with pytest.raises(CheckpointError, match=r"model.safetensors does not fit"):
        ebm.load("model", energy=MLPEnergy(2, hidden=(9,)))


def test_a_states_own_values_travel(tmp_path):
    class Marked(MLPEnergy):
        mark = None

        def get_extra_state(self):
            return {"note": "kept", "seen": torch.arange(3)}

        def set_extra_state(self, state):
            self.mark = state

    objective = ContrastiveDivergence(LangevinDynamics(step_size=0.1, steps=2))
    ebm.fit(Marked(2, hidden=(8,)), objective, torch.randn(60, 2), steps=2, batch_size=4, evaluate_limit=4, out="run").export(
        "model"
    )
    found = ebm.load("model", energy=Marked(2, hidden=(8,)), objective=objective)
    assert (found.energy.mark["note"], found.energy.mark["seen"].tolist()) == ("kept", [0, 1, 2])


# --------------------------------------------------------------------------------------------------------- what is refused


def test_a_flipped_bit_and_a_missing_file_are_named():
    ebm.run(text(tokenizer="bpe", vocab_size=280), out="run").export("model")
    whole = files(Path("model"))
    assert len(whole) == 8
    for name, content in whole.items():
        path = Path("model", name)
        if name == "README.md":  # it is for people, who may edit it
            path.unlink()
            ebm.load("model")
            continue
        for place in {0, len(content) // 2, len(content) - 2}:
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises((CheckpointError, ValueError), match=re.escape(name)):
                ebm.load("model")
        path.unlink()
        with pytest.raises(ValueError, match=re.escape(name)):
            ebm.load("model")
        path.write_bytes(content)
    ebm.load("model")


def test_files_outside_the_folder_and_newer_formats_are_refused():
    model = ebm.run(MOONS, out="run").export("model")
    index = index_of(model)

    def write(**changed):
        changed = {**index, **changed}
        (model / "model.json").write_text(json.dumps({**changed, "sha256": seal(changed)}))

    write(files={"../run/run.json": "0"})
    with pytest.raises(CheckpointError, match="which is not in that folder"):
        ebm.load(model)
    write(format=99)
    with pytest.raises(ValueError, match=r"a newer version, in format 99 .* pip install --upgrade ebm-toolkit"):
        ebm.load(model)
    (model / "model.json").write_text('{"format": "layers-model"}')
    with pytest.raises(ValueError, match="no model of this toolkit"):
        ebm.load(model)


def test_only_an_empty_folder_or_an_exported_one_is_written_to(capsys):
    ebm.run(MOONS, out="run")
    Path("mine").mkdir()
    Path("mine/README.md").write_text("mine")
    Path("link").symlink_to("elsewhere")
    Path("file").write_text("")
    for folder, what in {
        "mine": "holds what no export wrote",
        "run": "holds what no",
        "link": "symbolic link",
        "file": "file",
        ".": "name a new folder",
        "mine/..": "name a new folder",
    }.items():
        for words in ([], ["--overwrite"]):
            status, _, err = said(capsys, "export", "run", folder, *words)
            assert (status, what in err) == (2, True), err
    assert Path("mine/README.md").read_text() == "mine"
    Path("empty").mkdir()
    assert said(capsys, "export", "run", "empty")[0] == 0
    assert "pass overwrite=True (--overwrite)" in said(capsys, "export", "run", "empty")[2]
    assert said(capsys, "export", "run", "empty", "--overwrite", "--licence", "mit")[0] == 0
    assert "license: mit" in Path("empty/README.md").read_text()
    Path("empty/notes.txt").write_text("mine")
    assert "holds notes.txt, which no export wrote" in said(capsys, "export", "run", "empty", "--overwrite")[2]
    assert Path("empty/notes.txt").read_text() == "mine"


def test_an_export_that_fails_leaves_nothing_and_replaces_nothing(monkeypatch):
    run = ebm.run(MOONS, out="run")
    before = files(run.export("model"))
    monkeypatch.setattr(exported, "card", lambda *_: 1 / 0)
    for folder in ("model", "new"):
        with pytest.raises(ZeroDivisionError):
            run.export(folder, overwrite=True)
    assert files(Path("model")) == before
    assert sorted(path.name for path in Path().iterdir()) == ["model", "run"]


def test_two_exports_at_once_do_not_mix():
    run = ebm.run(MOONS, out="run")
    Path(".model.draft").mkdir()
    Path(".model.draft/left").write_text("by a killed export")
    handle = os.open(".model.draft", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as another process does
    with pytest.raises(BlockingIOError, match="another command is writing"):
        run.export("model")
    assert Path(".model.draft/left").exists()
    os.close(handle)
    assert not run.export("model").joinpath("left").exists()
    run.export("model", overwrite=True)


def test_a_model_is_copied_as_it_is(capsys):
    ebm.run(MOONS, out="run").export("model", licence="mit")
    assert said(capsys, "export", "model", "copy")[0] == 0
    assert files(Path("copy")) == files(Path("model"))
    assert "which is copied as it is" in said(capsys, "export", "model", "half", "--dtype", "float16")[2]


# ------------------------------------------------------------------------------------------------------------------- card


def test_the_card_says_what_it_is_on_what_data_with_which_numbers(capsys):
    import yaml

    recipe = {**text(), "summary": "Cats on mats.", "baseline": "text-transformer"}
    metrics = {}
    for seed in (0, 1, 2):
        done = ebm.run(recipe, {"seed": seed}, out=f"run-{seed}")
        metrics[seed] = done.metrics["loss"], done.baseline.metrics["loss"]
    ebm.load("run-0").export("alone")
    alone = Path("alone/README.md").read_text()
    assert "Of one seed (0): how far seeds differ is not known." in alone
    assert "unknown: ask its author" in alone
    assert (
        said(capsys, "export", "run-0", "model", "--also", "run-1", "run-2", "--licence", "Ours alone", "--name", "cats")[0] == 0
    )
    card = Path("model/README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "other"
    assert front["license_name"] == "ours-alone"
    assert front["library_name"] == "ebm-toolkit"
    assert {"energy-based-model", "residual-text-ebt", "text"} <= set(front["tags"])
    assert "loss" in front["metrics"]
    for words in ("# cats", "Cats on mats.", "60 documents of corpus.jsonl", "fingerprint", "ResidualTextEBT", "kB on disk"):
        assert words in card
    ours, theirs = (torch.tensor(values, dtype=torch.float64) for values in zip(*metrics.values(), strict=True))
    cells = [f"{values.mean():.4g} ± {values.std():.2g}" for values in (ours, theirs)]
    assert f"| loss | {cells[0]} | {cells[1]} |" in card
    assert "| held-out data | this model | text-transformer |" in card
    assert "ebm generate cats --prompt" in card
    program = card.split("```python\n")[1].split("```")[0]
    exec(program.replace('"cats"', '"model"').replace("=50", "=3"), {})


def test_only_other_seeds_of_the_same_recipe_count(capsys):
    run = ebm.run(MOONS, out="run")
    ebm.run(MOONS, {"energy.hidden": [9], "seed": 1}, out="wider")
    ebm.run(MOONS, {"task.n": 70, "seed": 1}, out="more")
    for other, what in {
        "run": "has the seed 0, which counts already",
        "wider": "another energy.hidden",
        "more": "another",
    }.items():
        with pytest.raises(ValueError, match=what):
            run.export("model", also=[other])
    with pytest.raises(ValueError, match="no finished run"):
        run.export("model", also=["nowhere"])


def test_the_card_names_weak_spots():
    run = ebm.run(MOONS, out="run")
    run.metrics |= {"psnr": 27.9, "noisy_psnr": 34.3, "mmd_p": 0.01}
    Path("run/thinking.csv").write_text(
        "who,split,steps,name,value\nrun,step-9,1,psnr,28.0\nrun,step-9,2,psnr,29.0\nrun,step-9,1,noisy_psnr,38.7\n"
        "run,step-90,1,psnr,28.0\nrun,step-90,1,noisy_psnr,14.0\nbaseline,step-90,1,psnr,8.0\n"
    )
    card = run.export("model").joinpath("README.md").read_text()
    assert "On test photographs it gains nothing: 27.9 dB after, 34.3 dB before." in card
    assert "On step-9 photographs it gains nothing: 29.0 dB after, 38.7 dB before." in card
    assert "step-90" not in card
    assert "can be told from held-out data (MMD, p = 0.01)" in card


def test_a_portable_recipe_keeps_what_was_typed_and_no_folder():
    recipe = {
        "summary": "Text, changed: task.source = '/somewhere/some data/x.txt'.",
        "task": {
            "use": "text",
            "source": ["/somewhere/some data/x.txt", "/somewhere/y"],
            "separator": "/END/",
            "weights": {"~/z": 1},
        },
        "fit": {"steps": 2, "callbacks": [{"use": "early-stopping"}], "loggers": ["wandb"]},
        "probe": {"data": ["/somewhere/photos"]},
        "baseline": "/somewhere/other.toml",
        "typed": {"task.source": ["some data/x.txt", "../y"]},
    }
    assert portable(recipe) == {
        "summary": "Text, changed: task.source = 'x.txt'.",
        "task": {"use": "text", "source": ["some data/x.txt", "y"], "separator": "/END/", "weights": {"z": 1}},
        "fit": {"steps": 2},
    }


# --------------------------------------------------------------------------------------------------------------- elsewhere


def test_a_package_that_is_missing_is_named(tmp_path):
    source = (
        "from ebm.energies import MLPEnergy\nfrom ebm.registry import hookimpl\n\n\nclass Own(MLPEnergy):\n    '''Own.'''\n\n\n"
    )
    write_distribution(tmp_path, "ebm-own", source + "@hookimpl\ndef ebm_energies():\n    return {'own': Own}\n")
    with installed(tmp_path):
        ebm.run({**MOONS, "energy": {"use": "own", "hidden": [8]}}, out="run").export("model")
        assert "pip install 'ebm-toolkit[recipes]' ebm-own\n" in Path("model/README.md").read_text()
        ebm.load("model")
    way_out = r"model needs the energy 'own'; it is of the package ebm-own, which is not installed: pip install ebm-own"
    with pytest.raises(ValueError, match=way_out):
        ebm.load("model")


def test_a_library_that_is_missing_is_named(monkeypatch):
    ebm.run(text(tokenizer="bpe", vocab_size=280), out="run").export("model")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install"):
        ebm.load("model")


def test_loading_needs_no_extra_where_the_model_needs_none():
    """As after `pip install .` alone, for bytes."""
    ebm.run(text(), out="run").export("model")
    extras = ["tokenizers", "datasets", "huggingface_hub", "torchvision", "PIL", "sklearn", "scipy", "matplotlib", "timm"]
    code = f"import sys\nfor name in {extras}: sys.modules[name] = None\n"
    code += "from ebm.cli import main\nmain(['generate', 'model', '--prompt', 'Doc', '--max-new-tokens', '4'])"
    done = run_python("-c", code, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Doc")


def test_what_watched_a_training_is_not_needed_to_use_what_it_made(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", type(sys)("wandb"))
    for name in ("init", "log", "finish"):
        setattr(sys.modules["wandb"], name, lambda *_, **__: None)
    metrics = ebm.run(MOONS, {"fit.loggers": ["wandb"]}, out="run").metrics
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = ebm.load("run")
    assert "loggers" in run.recipe["fit"]
    assert "loggers" not in ebm.load(run.export("model")).recipe["fit"]
    assert ebm.load("model").metrics == metrics


def test_samples_are_drawn_and_pictured_without_the_data(capsys):
    ebm.run(RUNS["a table"](), out="run").export("model")
    Path("points.csv").unlink()
    with pytest.warns(UserWarning, match="framed by the samples, since the data are not here"):
        status, out, _ = said(capsys, "sample", "model", "--n", "5")
    assert (status, out) == (0, "samples.safetensors\nsamples.png\n")


def test_a_model_says_that_it_has_no_history(capsys):
    ebm.run(MOONS, out="run").export("model")
    model = ebm.load("model")
    before = files(Path("model"))
    for ask in (lambda: model.verdict, lambda: ebm.reports.page.write_report(model, 0)):
        with pytest.raises(ValueError, match="model is a model, which has no history"):
            ask()
    for words in (("study", "thinking", "model"), ("probe", "model"), ("diagnose", "model")):
        status, _, err = said(capsys, *words)
        assert (status, "no history" in err, err.count("\n")) == (2, True, 1), err
    assert model.baseline is None
    assert files(Path("model")) == before


# ------------------------------------------------------------------------------------------------------- registered models


@pytest.fixture
def shop(tmp_path):
    """A package that ships the model `moons`, in a folder that nothing may change."""
    run = ebm.run(MOONS, out="run")
    run.export(tmp_path / "shop" / "moons", name="moons")
    hook = offering("ebm_models", "moons", repr(str(tmp_path / "shop" / "moons")))
    with installed(write_distribution(tmp_path / "site", "ebm-shop", hook)):
        yield tmp_path / "shop" / "moons"


def test_models_are_listed_with_their_numbers_and_shown_with_their_card(shop, capsys):
    stat = json.loads((shop / "model.json").read_text())["headline"]
    for kind in ("model", "models"):
        row = f"moons\tebm-shop\t{stat['name']} {stat['mean']:.4g}\t32\tMoons.\n"
        assert row in said(capsys, "list", kind)[1]
    assert said(capsys, "list", "energies")[1] == said(capsys, "list", "energy")[1]
    listed = json.loads(said(capsys, "list", "models", "--json")[1])["model"]
    assert [each["parameters"] for each in listed if each["name"] == "moons"] == ["32"]
    assert (shop / "README.md").read_text() in said(capsys, "show", "moons", "--kind", "models")[1]
    assert json.loads(said(capsys, "show", "moons", "--kind", "model", "--json")[1])["model"]["from"] == "ebm-shop"
    assert "did you mean 'moons'" in said(capsys, "eval", "mons")[2]


def test_a_registered_model_is_used_by_its_name_and_never_written_to(shop, capsys):
    before = files(shop)
    assert ebm.load("moons").metrics == ebm.load("run").metrics
    Path("moons").mkdir()  # a folder of that name with something else in it hides nothing
    Path("moons/rows.csv").write_text("1,2")
    assert said(capsys, "eval", "moons")[1] == said(capsys, "eval", "run")[1]
    assert said(capsys, "sample", "moons", "--n", "5")[0] == 0
    assert Path("samples.safetensors").exists()
    assert "pass --overwrite" in said(capsys, "sample", "moons", "--n", "5")[2]
    assert files(shop) == before


def test_a_folder_that_holds_a_run_comes_first(shop):
    shutil.copytree("run", "moons")
    assert ebm.load("moons").path == Path("moons")
    assert ebm.load("ebm-shop:moons").path == shop


def test_the_bundled_models_are_those_with_a_model_json(tmp_path, monkeypatch):
    import ebm.models

    ebm.run(MOONS, out="run").export(tmp_path / "moons")  # first, for the registry keeps what it found
    (tmp_path / "notes").mkdir()
    monkeypatch.setattr(ebm.models, "__file__", str(tmp_path / "__init__.py"))
    assert ebm.models.ebm_models() == {"moons": tmp_path / "moons"}


def test_what_is_no_run_and_no_model_is_named():
    Path("photos").mkdir()
    with pytest.raises(ValueError, match=r"photos holds no run with a checkpoint, and no model, which has a model.json"):
        ebm.load("photos")
    recipe = {**MOONS, "fit": {**MOONS["fit"], "checkpoint_every": 1}}
    ebm.run(recipe, out="run")
    shutil.rmtree("run/checkpoints")
    with pytest.raises(ValueError, match="its training has not come that far"):
        ebm.load("run")
