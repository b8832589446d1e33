"""Laws of the command line: what can be said to it, what it answers, and that wrong words cost one line and nothing else."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from safetensors.torch import load_file

import ebm
from ebm.cli import describe, main, parse_settings, summary
from ebm.recipes.runs import name_of as recipe_name
from ebm.registry import KINDS, PATHS, components, imported, parameters
from ebm.runs import checkpoints
from ebm.tasks import Points
from ebm.training import fit
from tests.fake_plugins import REPOSITORY, installed, offering, quick_report, run_python, write_distribution

TINY = """
summary = "Tiny."

[task]
use = "points"
n = 60

[energy]
use = "mlp"
hidden = [8]

[objective]
use = "contrastive-divergence"
start = "noise"

[objective.sampler]
use = "replay"
capacity = 20

[objective.sampler.sampler]
use = "langevin"
step_size = 0.1
steps = 2

[fit]
steps = 4
batch_size = 8
log_every = 1
evaluate_every = 2

[fit.sampler]
use = "langevin"
step_size = 0.1
steps = 2
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "tiny.toml").write_text(TINY)
    monkeypatch.chdir(tmp_path / "here")
    quick_report(monkeypatch)


@pytest.fixture
def said(capsys):
    """Says something to the command line: (exit status, what it printed, what it complained about)."""

    def say(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main([str(word) for word in words])
            status = 0
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
        out, err = capsys.readouterr()
        return status, out, err

    return say


def fails(said, *words):
    """Says something that cannot be done, and returns the one line that says why."""
    status, out, err = said(*words)
    assert status not in (0, None)
    assert "Traceback" not in err + out
    return err + out


# --------------------------------------------------------------------------------------------------------------- in general


def test_the_command_and_the_module_are_one():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert EntryPoint("ebm", scripts["ebm"], "console_scripts").load() is main
    assert "from ebm.cli import main" in (REPOSITORY / "ebm" / "__main__.py").read_text()


def test_the_module_runs_and_says_what_it_can_do(tmp_path):
    done = run_python("-m", "ebm", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for command in ("run", "list", "show", "eval", "sample"):
        assert command in done.stdout


def test_version_and_help(said):
    assert said("--version")[1].strip() == ebm.__version__
    status, out, _ = said("run", "--help")
    assert status == 0
    assert "--energy.width 64" in out
    assert "--out" in out


def test_asking_for_help_loads_no_plugin(tmp_path):
    write_distribution(tmp_path, "loud", "raise SystemExit('a plugin was loaded')\n")
    done = run_python("-m", "ebm", "--version", cwd=tmp_path, folders=(tmp_path,))
    assert (done.returncode, done.stderr) == (0, "")


def test_what_nobody_knows_is_refused(said):
    assert "nonesuch" in fails(said, "nonesuch")
    assert "nonesuch" in fails(said, "list", "nonesuch")
    assert "nothing is named 'densty': did you mean 'density'" in fails(said, "show", "densty")
    assert "no recipe is named 'densty': did you mean 'density'" in fails(said, "run", "densty")
    assert "holds no run with a checkpoint" in fails(said, "eval", "nowhere")
    assert "holds no run with a checkpoint" in fails(said, "sample", "nowhere")
    assert not list(Path().iterdir())


# --------------------------------------------------------------------------------------------------------------------- list


def test_list_names_every_component_with_its_origin(said):
    out = said("list")[1]
    for kind in KINDS:
        for name, found in components(kind).items():
            numbers = r"\S+ [^\t\n]+\t[\d,]+\t" if kind == "model" else ""  # the first number, and how many parameters
            said_of_it = re.escape(" ".join(summary(found).split()))
            assert re.search(rf"^{re.escape(name)}\t{found.distribution}\t{numbers}{said_of_it}$", out, re.M)
    assert "not loaded" not in out


def test_list_of_one_kind(said):
    out = said("list", "sampler")[1]
    assert "langevin" in out
    assert "contrastive-divergence" not in out


def test_list_shows_what_is_wrong_with_plugins(said, tmp_path):
    write_distribution(tmp_path, "broken", "raise RuntimeError('on [bold]fire[/bold]')\n")
    write_distribution(tmp_path, "thief", offering("ebm_energies", "mlp"))
    write_distribution(tmp_path, "one", offering("ebm_energies", "both"))
    write_distribution(tmp_path, "two", offering("ebm_energies", "both"))
    with installed(tmp_path):
        for words in (("list",), ("list", "energy"), ("list", "recipe")):
            status, out, _ = said(*words)
            assert status == 0
            assert "not loaded" in out
            assert "on [bold]fire[/bold]" in out
            assert "belongs to the core" in out
        assert "one:both" in said("list", "energy")[1]


# --------------------------------------------------------------------------------------------------------------------- show


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in PATHS])
def test_show_explains_every_parameter_of_every_component(said, kind):
    for name, found in components(kind).items():
        status, out, _ = said("show", name, "--kind", kind)
        assert status == 0
        assert f"{kind} {name} ({found.distribution})" in out
        factory = imported(found)
        assert inspect.getdoc(factory).splitlines()[0] in out
        for parameter, _, default, meaning in describe(factory)[kind in ("study", "rival", "command") :]:
            assert f"\n{parameter}\t" in out
            assert f"\t{default}\t" in out
            assert meaning, f"{kind} {name} does not say what {parameter} means"


def test_the_settings_of_training_are_all_explained():
    assert [name for name, _, _, meaning in describe(fit) if not meaning] == []


@pytest.mark.parametrize("name", sorted(components("recipe")))
def test_show_of_a_recipe_lists_all_that_can_be_set(said, name):
    """What is not written in the recipe can be set too: how else would one know?"""
    status, out, _ = said("show", name)
    assert status == 0
    recipe = ebm.recipes.load(name)
    assert recipe["summary"] in out
    for kind in ("task", "energy", "objective"):
        for parameter, known in parameters(components(kind)[recipe[kind]["use"]].factory).items():
            if known.default is not known.empty and parameter != "learned":  # which loading a run hands over
                assert parameter in out, f"{kind}.{parameter}"
    for parameter in ("clip_norm", "schedule", "devices", "strategy", "sampler_lr", "checkpoint_every"):
        assert parameter in out, f"fit.{parameter}"


def test_show_of_a_plugins_component_and_recipe(said, tmp_path):
    recipe = tmp_path / "bowl.toml"
    recipe.write_text('summary = "A bowl."\n[task]\nuse = "still"\n[energy]\nuse = "quadric"\n[objective]\nuse = "waiting"\n')
    write_distribution(tmp_path, "fake", entry="tests.fake_plugins")
    write_distribution(tmp_path, "cook", offering("ebm_recipes", "bowl", repr(str(recipe))))
    with installed(tmp_path):
        status, out, _ = said("show", "quadric")
        assert status == 0
        assert "energy quadric (fake)" in out
        assert "c, which trains." in out
        assert "2.0" in out
        assert said("show", "fake:quadric")[:2] == (0, out.replace("energy quadric", "energy fake:quadric"))
        status, out, _ = said("show", "bowl")
        assert status == 0
        assert "A bowl." in out
        assert "c, which trains." in out
        assert said("show", str(recipe))[0] == 0
        assert "nothing is named 'cook:quadric'" in fails(said, "show", "cook:quadric")


def test_show_of_a_name_that_two_offer_says_which(said, tmp_path):
    write_distribution(tmp_path, "one", offering("ebm_energies", "both", "lambda: 0"))
    write_distribution(tmp_path, "two", offering("ebm_energies", "both", "lambda: 0"))
    write_distribution(tmp_path, "odd", offering("ebm_samplers", "odd", "dict"))
    with installed(tmp_path):
        complaint = fails(said, "show", "both")
        assert "energy 'both' is offered by 2 distributions" in complaint
        assert "one:both" in complaint
        assert "two:both" in complaint
        assert said("show", "two:both")[0] == 0
        assert said("show", "odd")[0] == 0  # it has no signature to read


def test_show_picks_the_kind_where_names_are_shared(said, tmp_path):
    write_distribution(tmp_path, "one", offering("ebm_energies", "points"))
    with installed(tmp_path):
        out = said("show", "points")[1]
        assert "energy points (one)" in out
        assert "task points (ebm-toolkit)" in out
        assert "energy points" not in said("show", "points", "--kind", "task")[1]


# ---------------------------------------------------------------------------------------------------------------------- run


def test_settings_are_read_as_they_are_typed():
    words = shlex.split("--energy.width 64 --steps=500 --seed 1 --fit.batch-size 8 --lr -1 --strategy ddp --summary 'a b'")
    assert parse_settings(words) == {
        "energy.width": "64",
        "fit.steps": "500",
        "seed": "1",
        "summary": "a b",
        "fit.batch_size": "8",
        "fit.lr": "-1",
        "fit.strategy": "ddp",
    }
    assert parse_settings(["--task.name=a=b.csv"]) == {"task.name": "a=b.csv"}
    assert parse_settings([]) == {}
    with pytest.raises(ValueError, match="'steps' belongs to nothing"):
        parse_settings(["steps", "5"])
    assert parse_settings(["--seed", "1", "--compile"]) == {"seed": "1", "fit.compile": True}
    assert parse_settings(["--task.reverse", "--seed", "1"]) == {"task.reverse": True, "seed": "1"}


def test_names_of_runs():
    assert recipe_name("density") == "density"
    assert recipe_name("mine:density") == "density"
    assert recipe_name("a/b/cloud.toml") == "cloud"
    assert recipe_name("runs/x/recipe.toml") == "x"
    assert recipe_name("runs/x-2/recipe.toml") == "x-2"


def test_run_trains_and_leaves_a_folder(said, tmp_path):
    status, out, err = said("run", "../tiny.toml", "--seed", "3", "--out", tmp_path / "x")
    assert status == 0, err
    assert "mmd" in out
    assert str(tmp_path / "x" / "report.html") in out
    recipe = tomllib.loads((tmp_path / "x" / "recipe.toml").read_text())
    assert (recipe["seed"], recipe["fit"]["steps"], recipe["task"]["n"], recipe["energy"]["hidden"]) == (3, 4, 60, [8])
    assert recipe["objective"]["sampler"]["sampler"]["temperature"] == 1.0  # a default, written out
    assert (tmp_path / "x" / "report.html").exists()
    metrics = json.loads((tmp_path / "x" / "metrics.json").read_text())
    assert all(f"{name}\t{value:.5g}\n" in out for name, value in metrics.items())


def test_a_bundled_recipe_is_run_by_its_name(said):
    few = shlex.split("--task.n 60 --steps 2 --batch-size 8 --evaluate-every 1 --evaluate-limit 4")
    status, out, err = said("run", "density", *few)
    assert status == 0, err
    assert str(Path("runs/density/report.html")) in out
    assert said("run", "density", *few)[0] == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["density", "density-2"]


def test_options_may_stand_anywhere_and_with_an_equals_sign(said, tmp_path):
    assert said("run", f"--out={tmp_path / 'x'}", "../tiny.toml", "--seed=3")[0] == 0
    assert said("run", "../tiny.toml", "--seed", "3", "--out", tmp_path / "x", "--overwrite")[0] == 0
    assert said("run", "../tiny.toml", "--overwrite", "--out", tmp_path / "x", "--lr", "1e-2")[0] == 0
    assert tomllib.loads((tmp_path / "x" / "recipe.toml").read_text())["fit"]["lr"] == 1e-2
    fails(said, "run", "--steps", "4", "../tiny.toml")  # a setting cannot stand before the recipe it sets


def test_a_runs_recipe_repeats_the_run_to_the_same_numbers(said, tmp_path):
    assert said("run", "../tiny.toml", "--seed", "3", "--ema", "0.5")[0] == 0
    assert said("run", Path("runs/tiny/recipe.toml"))[0] == 0
    assert said("run", Path("runs/tiny-2/recipe.toml"), "--out", "again")[0] == 0
    one, two, three = Path("runs/tiny"), Path("runs/tiny-2"), Path("again")
    names = "metrics.csv metrics.json recipe.toml run.json report.html checkpoints/step-000000004/shared.safetensors"
    for file in names.split():
        assert (one / file).read_bytes() == (two / file).read_bytes() == (three / file).read_bytes(), file
    assert said("run", Path("runs/tiny/recipe.toml"), "--seed", "4", "--out", "other")[0] == 0
    assert (one / "metrics.csv").read_bytes() != Path("other/metrics.csv").read_bytes()


def test_a_plugins_recipe_runs_and_is_repeated(said, tmp_path):
    recipe = tmp_path / "bowl.toml"
    recipe.write_text(
        '[task]\nuse = "still"\n[energy]\nuse = "quadric"\n[objective]\nuse = "around"\nnoise = 0.2\n'
        '[objective.objective]\nuse = "reconstruction"\n[objective.objective.sampler]\nuse = "gradient-descent"\nsteps = 2\n'
        "[fit]\nsteps = 3\nbatch_size = 8\nlog_every = 1\n"
    )
    write_distribution(tmp_path, "fake", entry="tests.fake_plugins")
    write_distribution(tmp_path, "cook", offering("ebm_recipes", "bowl", repr(str(recipe))))
    with installed(tmp_path):
        assert said("run", "cook:bowl")[0] == 0
        status, _, err = said("run", "runs/bowl/recipe.toml", "--out", "again")
        assert status == 0, err
        assert Path("runs/bowl/metrics.csv").read_bytes() == Path("again/metrics.csv").read_bytes()
    assert "no task is named 'still'" in fails(said, "eval", "again")  # without the plugin


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--enrgy.hidden", "[3]"], "did you mean 'energy'"),
        (["--energy.hiden", "[3]"], "energy 'mlp' has no keyword 'hiden': did you mean 'hidden'"),
        (["--batchsize", "8"], "did you mean 'batch_size'"),
        (["--steps", "many"], "fit.steps = 'many'"),
        (["--steps", "0"], "steps=0"),
        (["--steps"], "fit.steps = True"),
        (["steps", "5"], "'steps' belongs to nothing"),
        (["--energy.use", "mpl"], "did you mean 'mlp'"),
        (["--energy", "conv"], "energy"),
        (["--task.name", "moonz"], "did you mean 'moons'"),
        (["--seed", "-1"], "seed = -1"),
        (["--strategy", "luck"], "luck"),
        (["--precision", "31-true"], "31-true"),
        (["--objective.sampler.sampler.step_size", "-1"], "step_size"),
        (["--energy.hidden.0", "3"], "energy.hidden"),
    ],
)
def test_wrong_words_cost_one_line_and_nothing_else(said, words, reason):
    complaint = fails(said, "run", "../tiny.toml", "--out", "x", *words)
    assert reason in complaint
    assert not Path("x").exists()


def test_a_finished_run_is_not_overwritten_unasked(said):
    assert said("run", "../tiny.toml", "--out", "x")[0] == 0
    before = Path("x/metrics.csv").read_bytes()
    assert "holds a finished run" in fails(said, "run", "../tiny.toml", "--out", "x")
    assert Path("x/metrics.csv").read_bytes() == before


def test_the_same_command_goes_on_with_a_stopped_run(said, monkeypatch):
    def stop(*args, **keywords):
        raise KeyboardInterrupt("stopped here")

    with monkeypatch.context() as patch:
        patch.setattr(Points, "evaluate", stop)
        status, _, err = said("run", "../tiny.toml", "--checkpoint-every", "1")
    assert (status, err.strip().splitlines()[-1]) == (130, "stopped here")
    assert checkpoints.steps(Path("runs/tiny/checkpoints")) == [1]
    complaint = fails(said, "run", "../tiny.toml", "--checkpoint-every", "1", "--lr", "0.5")
    assert "unfinished run with another" in complaint
    assert "fit.lr" in complaint
    assert said("run", "../tiny.toml", "--checkpoint-every", "1")[0] == 0
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]


def test_any_failure_of_a_plugin_is_told_without_a_traceback_of_ours(said, tmp_path):
    """A plugin's KeyError or TypeError is its author's to see in full, a value error the user's."""
    write_distribution(tmp_path, "fake", offering("ebm_energies", "picky", "picky").replace("@hookimpl", PICKY + "@hookimpl"))
    with installed(tmp_path):
        assert "even numbers only" in fails(said, "run", "../tiny.toml", "--energy.use", "picky", "--energy.n", "3", "--out", "x")


PICKY = "def picky(n: int):\n    raise ValueError('even numbers only')\n\n"


EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt.exe\r"
PLUGIN = f"""
from ebm.registry import hookimpl

def evil(n: int = 1):
    {EVIL!r}
    raise ValueError({EVIL!r})

evil.__doc__ = {EVIL!r} + "\\n\\nArguments:\\n    n: " + {EVIL!r}

@hookimpl
def ebm_energies():
    return {{"evil": evil, "evil" + {EVIL!r}: evil}}
"""


def test_what_a_terminal_would_obey_is_shown_escaped(said, tmp_path):
    """Of plugins, of names of files, of arguments."""
    write_distribution(tmp_path, "mean", PLUGIN)
    write_distribution(tmp_path, "broken", f"raise RuntimeError({EVIL!r})\n")
    calls = [
        ("list",),
        ("list", "energy"),
        ("list", EVIL),
        ("show", "evil"),
        ("show", EVIL),
        ("run", "../tiny.toml", "--energy.use", "evil", "--out", EVIL),
        ("run", f"{EVIL}.toml"),
        ("run", "../tiny.toml", f"--{EVIL}", "3"),
        ("run", "../tiny.toml", "--out", EVIL),
        ("sample", EVIL, "--n", "3"),
        (EVIL,),
        ("eval", f"--{EVIL}"),
    ]
    with installed(tmp_path):
        for words in calls:
            _, out, err = said(*words)
            assert not [*filter(set("\x1b\x07\x9b\u202e\r").__contains__, out + err)], (words, out, err)
            assert "x1b]0;owned" in out + err, words


# ---------------------------------------------------------------------------------------------------------- eval and sample


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        quick_report(patch)
        parts = ebm.recipes.assemble(ebm.recipes.resolve(tomllib.loads(TINY)))
        fit(parts.energy, parts.objective, parts.task, **parts.fit, recipe=parts.recipe, out=folder)
    return folder


def test_eval_judges_a_run(said, run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    status, out, _ = said("eval", run)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(json.loads((run / "metrics.json").read_text()))
    assert said("eval", run)[1] == out
    assert said("eval", run, "--seed", "1")[1] != out
    assert said("eval", run, "--split", "validation", "--limit", "3")[1] != out
    assert "unknown split 'tset'" in fails(said, "eval", run, "--split", "tset")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_eval_repeats_what_the_run_found(said, run):
    """The same weights, data and seed: a number that differs from metrics.json would have to be explained."""
    out = said("eval", run)[1]
    found = dict(line.split() for line in out.splitlines())
    assert found == {name: f"{value:.5g}" for name, value in json.loads((run / "metrics.json").read_text()).items()}


def test_sample_writes_samples_and_a_picture(said, run, tmp_path):
    status, out, _ = said("sample", run, "--n", "5", "--out", tmp_path / "new" / "folder")
    assert status == 0
    written = load_file(tmp_path / "new" / "folder" / "samples.safetensors")
    assert written["samples"].shape == (5, 2)
    assert (tmp_path / "new" / "folder" / "samples.png").read_bytes()[:4] == b"\x89PNG"
    assert str(tmp_path / "new" / "folder" / "samples.safetensors") in out
    said("sample", run, "--n", "5", "--out", tmp_path / "again")
    said("sample", run, "--n", "5", "--seed", "1", "--out", tmp_path / "other")
    (tmp_path / "other" / "samples.png").write_bytes(b"mine")
    assert "holds samples.safetensors, samples.png already" in fails(said, "sample", run, "--out", tmp_path / "other")
    assert (tmp_path / "other" / "samples.png").read_bytes() == b"mine"
    same = [(tmp_path / name / "samples.safetensors").read_bytes() for name in ("new/folder", "again", "other")]
    assert same[0] == same[1] != same[2]
    assert (tmp_path / "again" / "samples.png").read_bytes() == (tmp_path / "new" / "folder" / "samples.png").read_bytes()


@pytest.mark.parametrize("words", [["--n", "0"], ["--n", "-3"], ["--n", "many"]])
def test_sample_asks_for_a_number(said, run, words):
    assert "n" in fails(said, "sample", run, *words)


def test_damage_is_told_in_one_line(said, run, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "checkpoints" / "step-000000004" / "shared.json").write_text("{")
    for command in ("eval", "sample"):
        complaint = fails(said, command, broken)
        assert "shared.json cannot be read" in complaint
    (broken / "recipe.toml").write_text("[energy")
    assert "is not TOML" in fails(said, "eval", broken)
    (broken / "recipe.toml").write_text(tomli_of(run).replace('use = "mlp"', 'use = "os.system"'))
    assert "no energy is named 'os.system'" in fails(said, "eval", broken)


def tomli_of(run):
    return (run / "recipe.toml").read_text()


def test_nothing_is_printed_to_stdout_but_answers(said, tmp_path):
    status, out, err = said("run", "../tiny.toml", "--out", tmp_path / "x")
    assert status == 0
    assert len(out.splitlines()) == len(json.loads((tmp_path / "x" / "metrics.json").read_text())) + 2, out  # verdict and report
    assert "warn" not in err.lower(), err
