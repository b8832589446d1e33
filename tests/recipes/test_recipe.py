"""Laws of recipes: they are data, every name and value in them is checked, and what is saved reads back as it was."""

from __future__ import annotations

import builtins
import contextlib
import copy
import json
import pathlib
import random
import sys
import tomllib

import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm import recipes
from ebm.cli import parse_settings
from ebm.energies import MLPEnergy, SumEnergy
from ebm.objectives import ContrastiveDivergence, DenoisingScoreMatching
from ebm.recipes.recipe import assemble, load, read, resolve
from ebm.registry import CORE, components
from ebm.samplers import LangevinDynamics, ReplayAugmented
from ebm.tasks import Points
from tests.fake_plugins import installed, offering, write_distribution

LAW = settings(max_examples=100, deadline=None, derandomize=True)


def tiny(**tables):
    recipe = {
        "summary": "Tiny.",
        "seed": 0,
        "task": {"use": "points", "n": 40},
        "energy": {"use": "mlp", "hidden": [8]},
        "objective": {"use": "contrastive-divergence", "sampler": {"use": "langevin", "step_size": 0.1, "steps": 2}},
        "fit": {"steps": 4, "batch_size": 8},
    }
    return {**copy.deepcopy(recipe), **tables}


def written(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------------- the bundled recipes


@pytest.mark.parametrize("name", sorted(components("recipe")))
def test_a_bundled_recipe_resolves_says_what_it_is_and_reads_back(name, tmp_path):
    recipe = resolve(load(name))
    assert recipe["summary"].endswith(".")
    assert components("recipe")[name].summary == recipe["summary"]
    path = written(tmp_path, tomli_w.dumps(recipe))
    assert resolve(load(path)) == recipe
    assert json.loads(json.dumps(recipe)) == json.loads(json.dumps(resolve(load(str(path)))))


# ---------------------------------------------------------------------------------------------------------------- building


def test_a_recipe_builds_its_components_and_the_data_fill_in_what_they_decide():
    parts = assemble(resolve(tiny(task={"use": "points", "n": 40})))
    assert isinstance(parts.task, Points)
    assert isinstance(parts.energy, MLPEnergy)
    assert parts.energy.dim == 2
    assert isinstance(parts.objective, ContrastiveDivergence)
    assert parts.objective.task is parts.task
    assert isinstance(parts.objective.sampler, LangevinDynamics)
    assert parts.sampler is None
    assert {key: parts.fit[key] for key in ("steps", "batch_size")} == {"steps": 4, "batch_size": 8}
    assert not set(parts.fit) & {"energy", "objective", "task", "out", "recipe", "overwrite", "seed"}


def test_components_nest_and_a_top_level_sampler_is_handed_on():
    half_a_ring = {"use": "scaled", "scale": 0.5, "energy": {"use": "ring"}}
    recipe = tiny(
        energy={"use": "sum", "energies": [{"use": "mlp", "hidden": [4]}, half_a_ring]},
        sampler={"use": "replay", "capacity": 7, "sampler": {"use": "langevin", "step_size": 0.1}},
        objective={"use": "contrastive-divergence"},
    )
    parts = assemble(resolve(recipe))
    assert isinstance(parts.energy, SumEnergy)
    assert isinstance(parts.sampler, ReplayAugmented)
    assert parts.objective.sampler is parts.sampler


def test_a_top_level_sampler_is_what_evaluation_uses_where_the_objective_has_none():
    recipe = tiny(
        sampler={"use": "langevin", "step_size": 0.25, "steps": 3}, objective={"use": "denoising-score-matching", "sigma": 0.1}
    )
    parts = assemble(resolve(recipe))
    assert isinstance(parts.objective, DenoisingScoreMatching)
    assert parts.fit.get("sampler") is parts.sampler


def test_parameters_come_from_the_seed_alone_and_no_generator_moves():
    recipe = resolve(tiny())
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    one = assemble(recipe).energy.state_dict()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    torch.rand(3)
    two, other = assemble(recipe).energy.state_dict(), assemble(resolve(recipe, {"seed": "1"})).energy.state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["layers.0.weight"], other["layers.0.weight"])


def test_what_a_run_saves_has_all_defaults_written_out_and_builds_the_same():
    parts = assemble(resolve(tiny()))
    saved = tomllib.loads(tomli_w.dumps(parts.recipe))
    assert saved["energy"] == {"use": "mlp", "hidden": [8], "activation": "silu"}  # dim comes from the data, also next time
    assert saved["objective"]["sampler"]["temperature"] == 1.0
    assert saved["fit"]["lr"] == 1e-3
    again = assemble(resolve(saved))
    assert tomllib.loads(tomli_w.dumps(again.recipe)) == saved
    assert all(torch.equal(a, b) for a, b in zip(parts.energy.parameters(), again.energy.parameters(), strict=True))


@pytest.mark.parametrize("default", ["float('inf')", "{}", "()", "(1, (2, 3))", "1e-300", "'x'", "True", "'nan'", "2**70"])
def test_any_default_of_a_plugins_survives_saving(tmp_path, default):
    write_distribution(tmp_path, "odd", offering("ebm_energies", "odd", f"lambda a={default}: a"))
    with installed(tmp_path):
        recipe = assemble(resolve(tiny(energy={"use": "odd"}))).recipe
        saved = tomllib.loads(tomli_w.dumps(recipe))
        assert tomllib.loads(tomli_w.dumps(assemble(resolve(saved)).recipe)) == saved


def test_a_factory_may_have_parameters_of_any_name_and_type(tmp_path):
    source = "def odd(energies: str = 'x', task: 'No.Such' = 1): ...\n\n" + offering("ebm_energies", "odd", "odd")
    write_distribution(tmp_path, "odd", source)
    with installed(tmp_path):
        recipe = assemble(resolve(tiny(energy={"use": "odd"}))).recipe
        assemble(resolve(tomllib.loads(tomli_w.dumps(recipe))))


# ---------------------------------------------------------------------------------------------------------------- settings


def test_any_value_can_be_set():
    recipe = tiny(objective={"use": "weighted-sum", "objectives": [{"use": "denoising-score-matching", "sigma": 0.1}]})
    settings = {
        "energy.hidden": "[4, 4]",
        "fit.lr": "2e-4",
        "fit.schedule": "cosine",
        "seed": "7",
        "summary": "Mine",
        "objective.objectives.0.sigma": "0.3",
        "objective.weights": "[2.0]",
        "task.name": "rings",
        "fit.sampler.use": "langevin",
        "fit.sampler.step-size": "0.5",
    }
    resolved = resolve(recipe, settings)
    assert resolved["energy"] == {"use": "mlp", "hidden": [4, 4]}
    assert (resolved["fit"]["lr"], resolved["fit"]["schedule"], resolved["seed"]) == (2e-4, "cosine", 7)
    assert resolved["summary"] == "Mine"
    assert resolved["objective"]["objectives"][0]["sigma"] == 0.3
    assert resolved["objective"]["weights"] == [2.0]
    assert resolved["task"]["name"] == "rings"
    assert resolved["fit"]["sampler"] == {"use": "langevin", "step_size": 0.5}
    assert recipe["energy"] == {"use": "mlp", "hidden": [8]}  # what was given stays as it was


def test_another_component_starts_from_its_own_defaults_whatever_the_order():
    for names in (("objective.sampler.use", "objective.sampler.steps"), ("objective.sampler.steps", "objective.sampler.use")):
        values = {"objective.sampler.use": "gradient-descent", "objective.sampler.steps": "9"}
        resolved = resolve(tiny(), {name: values[name] for name in names})
        assert resolved["objective"]["sampler"] == {"use": "gradient-descent", "steps": 9}
    same = resolve(tiny(), {"objective.sampler.use": "langevin"})["objective"]["sampler"]
    assert same == {"use": "langevin", "step_size": 0.1, "steps": 2}


WRONG = {
    "unknown table": ({"enrgy.width": "3"}, r"enrgy.*did you mean 'energy'"),
    "unknown key": ({"energy.hiden": "[3]"}, r"hiden.*did you mean 'hidden'"),
    "unknown nested key": ({"objective.sampler.stepsize": "1"}, r"stepsize.*did you mean 'step_size'"),
    "unknown fit key": ({"fit.batchsize": "3"}, r"batchsize.*did you mean 'batch_size'"),
    "unknown component": ({"energy.use": "mpl"}, r"no energy is named 'mpl': did you mean 'mlp'"),
    "wrong type": ({"fit.steps": "many"}, r"fit\.steps = 'many'.*int"),
    "fraction for a count": ({"fit.steps": "2.5"}, r"fit\.steps = 2\.5"),
    "truth for a count": ({"fit.steps": "true"}, r"fit\.steps = True"),
    "string for a number": ({"fit.lr": '"0.1"'}, r"fit\.lr = '0.1'"),
    "not a number": ({"fit.lr": "nan"}, r"fit\.lr = nan: write .*finite number"),
    "not a number, as a string": ({"fit.lr": '"nan"'}, r"fit\.lr = 'nan'"),
    "not a number, in a list": ({"fit.betas": "[nan, 0.9]"}, r"fit\.betas.*finite"),
    "infinite": ({"objective.sampler.step_size": "-inf"}, r"objective\.sampler\.step_size"),
    "not a choice": ({"fit.schedule": "cosin"}, r"fit\.schedule = 'cosin'.*'constant' or 'cosine'"),
    "a date": ({"fit.lr": "1979-05-27"}, r"fit\.lr"),
    "table for a number": ({"fit.lr.x": "1"}, r"fit\.lr"),
    "value for a table": ({"energy": "3"}, r"energy is 3, but it is a table"),
    "value for a component": ({"objective.sampler": "langevin"}, r"writes a component as a table"),
    "into a value": ({"seed.x": "1"}, r"seed is the value"),
    "into a list": ({"energy.hidden.0": "3"}, r"energy\.hidden"),
    "use in a list": ({"energy.hidden.use": "3"}, r"energy\.hidden"),
    "beyond a list": ({"objective.objectives.3.sigma": "3"}, r"objective\.objectives"),
    "no number of a list": ({"energy.hidden.first.x": "3"}, r"energy\.hidden"),
    "negative seed": ({"seed": "-1"}, r"seed = -1"),
    "seed of another type": ({"seed": "1.0"}, r"seed = 1\.0"),
    "truth for a seed": ({"seed": "true"}, r"seed = True"),
    "summary of another type": ({"summary": "3"}, r"summary is 3"),
    "what is not a recipe's": ({"fit.out": "x"}, r"fit\.out is not a recipe's to say"),
    "nesting without end": ({"energy.hidden": "[" * 100_000}, r"."),
    "digits without end": ({"fit.steps": "9" * 10_000}, r"."),
    "no key": ({"": "1"}, r"."),
    "dots": ({"..": "1"}, r"."),
    "use of nothing": ({".use": "mlp"}, r"."),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_a_value_error_that_names_it(name):
    recipe = tiny()
    if "objectives" in str(WRONG[name][0]):
        recipe["objective"] = {"use": "weighted-sum", "objectives": [{"use": "denoising-score-matching", "sigma": 0.1}]}
    with pytest.raises(ValueError, match=WRONG[name][1]):
        resolve(recipe, WRONG[name][0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"no \[task\]"),
        ("[task]\nuse = 'points'\n[energy]\nuse = 'mlp'\n", r"no \[objective\]"),
        ("[task]\nname = 'moons'\n", "names no component"),
        ("task = 3\n", "task is 3, but it is a table"),
        ("[tusk]\nuse = 'points'\n", "did you mean 'task'"),
        ("[task\n", "is not TOML"),
        ("summary = 3\n", "summary"),
        ("a = " + "[" * 100_000, "is not TOML"),
    ],
)
def test_a_wrong_recipe_file_is_a_value_error(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        resolve(load(written(tmp_path, text)))


def test_a_file_that_cannot_be_read_is_a_value_error(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ValueError, match="recipe .*(No such file|Is a directory)"):
            read(path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not TOML"):
        read(tmp_path / "binary.toml")
    with pytest.raises(ValueError, match="no recipe is named 'densty': did you mean 'density'"):
        load("densty")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="objective 'contrastive-divergence' needs sampler"):
        assemble(resolve(tiny(objective={"use": "contrastive-divergence"})))


KEYS = st.one_of(
    st.sampled_from(
        ["task", "energy", "objective", "objective.sampler", "fit", "sampler", "fit.sampler"]
        + ["task.n", "energy.hidden", "energy.dim", "fit.lr", "fit.betas", "seed", "summary"]
    ).flatmap(lambda key: st.sampled_from([key, f"{key}.use", f"{key}.0", f"{key}.x.y", f"{key}."])),
    st.text(max_size=12),
    st.lists(st.sampled_from(["task", "energy", "fit", "use", "0", "-1", "sampler", "hidden", ""]), max_size=4).map(".".join),
)
VALUES = st.one_of(
    st.sampled_from(["mlp", "langevin", "true", "nan", "[1, 2]", "{use = 'mlp'}", "{}", "[]", "1979-05-27", "''", "-1", "1e400"]),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)


@LAW
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_random_settings_raise_nothing_but_value_errors(settings):
    try:
        resolved = resolve(tiny(), settings)
    except ValueError:
        return
    assert resolve(tomllib.loads(tomli_w.dumps(resolved))) == resolved


TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.sampled_from(["mlp", "points"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["use", "sampler", "energies", "hidden", "task", "x"]), inner, max_size=4),
    ),
    max_leaves=8,
)


@LAW
@given(st.dictionaries(st.sampled_from(["task", "energy", "objective", "fit", "sampler", "seed", "summary", "y"]), TREES))
def test_random_recipes_raise_nothing_but_value_errors(recipe):
    with contextlib.suppress(ValueError):
        resolve({**tiny(), **recipe})


# ------------------------------------------------------------------------------------------------ data, and nothing but data

BAIT = "danger_of_recipes"
BAITS = [
    BAIT,
    f"{BAIT}:boom",
    f"{BAIT}.boom",
    f"{BAIT}.boom()",
    f"__import__('{BAIT}')",
    f"!!python/object/apply:{BAIT}.boom",
    f"!!python/name:{BAIT}",
    f"${{{BAIT}}}",
    f"{{{{ {BAIT}.boom() }}}}",
    "os.system",
    "builtins.eval",
    "file:///danger_of_recipes.py",
]


@pytest.fixture(scope="module")
def danger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("danger")
    (folder / f"{BAIT}.py").write_text("raise SystemExit('a recipe imported this')\n")
    with installed(folder):
        components("energy")
        yield


PLACES = ["task.use", "task.name", "class_path", "plugins", "import", "summary"]
PLACES += [f"energy.{key}" for key in ("use", "activation", "hidden", "class_path", "_target_", "module")]
PLACES += ["objective.use", "objective.start", "fit.strategy", "fit.precision", "fit.schedule"]
PLACES += [f"objective.sampler.{key}" for key in ("use", "step_size", "noise_std", "retraction")]


def watched(usual, bait, called):
    def watching(code, *args, **keywords):
        return called.append(code) if bait in str(code) else usual(code, *args, **keywords)

    return watching


@pytest.mark.parametrize("bait", BAITS)
def test_a_recipe_imports_and_runs_nothing(danger, monkeypatch, bait):
    resolve(tiny())
    modules = set(sys.modules)
    called = []
    for name in ("eval", "exec", "compile"):  # reading a factory's own annotations compiles them
        monkeypatch.setattr(builtins, name, watched(getattr(builtins, name), bait, called))
    monkeypatch.setattr("os.system", called.append)
    for place in PLACES:
        for value in (bait, json.dumps({"use": bait, "class_path": bait})):
            try:
                resolved = resolve(tiny(), {place: value})
            except ValueError:
                continue
            if not place.startswith(("fit", "summary")):
                with pytest.raises(ValueError):  # a value that may be a string is refused by the component itself
                    assemble(resolved)
    assert called == []
    assert {name for name in set(sys.modules) - modules if BAIT in name} == set()


def test_reading_a_recipe_opens_nothing_but_the_file(tmp_path, monkeypatch):
    path = written(tmp_path, tomli_w.dumps(tiny(task={"use": "points", "name": "/etc/passwd.csv"})))
    resolve(read(path))  # names a file, which is the task's to open, when it is built
    with pytest.raises((ValueError, OSError)):
        assemble(resolve(read(path)))


def test_the_module_is_its_own_plugin():
    offered = {name for name, found in components("recipe").items() if found.distribution == CORE}
    assert offered == {path.stem for path in pathlib.Path(recipes.__file__).parent.glob("*.toml")}


@pytest.mark.parametrize(("typed", "meant"), [([], True), (["true"], True), (["false"], False), (["auto"], "auto")])
def test_compiling_is_asked_for_bare_or_by_a_word(typed, meant):
    assert recipes.resolve(recipes.load("dyck"), parse_settings(["--compile", *typed]))["fit"]["compile"] == meant
