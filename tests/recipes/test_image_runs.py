"""The recipes of images, from the command line to the report, on the bundled photographs."""

from __future__ import annotations

import pytest

import ebm
from ebm import recipes
from ebm.cli import main
from ebm.commands.settings import parse_settings
from ebm.samplers import FixedPoint
from ebm.studies.probe import read_probe
from ebm.studies.thinking import read_findings

SMALL = [
    *(
        "--steps",
        "2",
        "--objective.steps",
        "[1]",
        "--batch-size",
        "4",
        "--task.crop",
        "40",
        "--energy.dim",
        "16",
        "--energy.depth",
        "1",
    ),
    *("--thinking.steps", "[1, 2]", "--thinking.splits", '["test", "step-199"]', "--thinking.limit", "1"),
    *("--thinking.passes", "[1, 3]", "--thinking.rivals", '["total-variation"]'),
    *("--probe.data", '["digits-8"]', "--probe.seeds", "1", "--probe.limit", "60"),
]


def run(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code in (0, None)


def test_a_run_compares_thinks_and_probes(tmp_path, capsys):
    run(["run", "denoise", "--out", str(tmp_path / "run"), *SMALL])
    loaded = ebm.load(tmp_path / "run")
    assert {"psnr", "ssim", "mse", "noisy_psnr"} <= loaded.metrics.keys()
    assert loaded.baseline.recipe["fit"]["steps"] == round(2 * loaded.recipe["pace"])
    assert int(loaded.objective.taken) == 2
    assert loaded.energy.strongest == pytest.approx(loaded.task.schedule.std[99].item())
    found = {(f.who, f.split, f.steps) for f in read_findings(tmp_path / "run") if f.name == "psnr"}
    assert {("run", "test", 2), ("run", "step-199", 1), ("total-variation", "step-199", 0), ("baseline", "test", 1)} <= found
    assert ("baseline", "step-199", 3) in found
    assert ("baseline", "step-199", 1) not in found
    assert {probed.who for probed in read_probe(tmp_path / "run")} == {"run", "baseline", "pixels"}
    assert "Linear probe" in (tmp_path / "run" / "report.html").read_text()
    assert "psnr" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "baseline"), [("denoise", "denoise-dit"), ("denoise-long", None), ("denoise-dit", None)])
def test_bundled_recipes_resolve(name, baseline):
    resolved = recipes.resolve(recipes.load(name))
    compared = recipes.baseline_of(resolved)
    assert resolved.get("baseline") == baseline
    if compared is not None:
        assert compared["task"] == resolved["task"]
        assert compared["fit"]["steps"] == resolved["fit"]["steps"] * resolved["pace"]
        assert resolved["objective"]["steps"][0] < resolved["fit"]["steps"]  # the energy gets its turn
        assert all(compared["energy"][key] == resolved["energy"][key] for key in ("dim", "depth", "heads", "mlp_ratio"))


def test_a_pace_needs_a_baseline_and_a_number():
    recipe = recipes.load("denoise")
    with pytest.raises(ValueError, match="pace = 'slow'"):
        recipes.resolve({**recipe, "pace": "slow"})
    with pytest.raises(ValueError, match="pace = 2: write how many steps a baseline takes"):
        recipes.resolve({**recipe, "pace": 2, "baseline": ""})


def test_a_recipe_runs_without_its_baseline_or_beside_another():
    recipe = recipes.load("denoise")
    alone = recipes.resolve(recipe, parse_settings(["--baseline", "none", "--steps", "3"]))
    beside = {"baseline", "pace", "baseline_fit"}
    assert alone == recipes.resolve({key: recipe[key] for key in {*recipe} - beside}, {"fit.steps": 3})
    other = recipes.resolve(recipes.load("text"), parse_settings(["--baseline", "text-s1", "--pace", "1.5"]))
    assert (other["baseline"], other["pace"]) == ("text-s1", 1.5)
    with pytest.raises(ValueError, match="pace = 2: write how many steps a baseline takes"):
        recipes.resolve(recipe, parse_settings(["--baseline", "none", "--pace", "2"]))
    with pytest.raises(ValueError, match="nothing-like-it"):
        recipes.resolve(recipe, parse_settings(["--baseline", "nothing-like-it"]))


def test_a_baseline_trains_otherwise_where_the_recipe_says_so():
    recipe = recipes.load("denoise")
    resolved = recipes.resolve(recipe, {"baseline_fit.batch_size": "5", "fit.batch_size": "2"})
    assert (resolved["fit"]["batch_size"], recipes.baseline_of(resolved)["fit"]["batch_size"]) == (2, 5)
    shared = recipes.resolve({key: value for key, value in recipe.items() if key != "baseline_fit"})
    assert recipes.baseline_of(shared)["fit"]["batch_size"] == shared["fit"]["batch_size"]
    alone = recipes.resolve({key: value for key, value in recipe.items() if key not in ("baseline", "pace")})
    assert "baseline_fit" not in alone
    for wrong, words in (({"steps": 3}, "write pace"), ({"batch": 3}, "batch_size"), (3, "it is a table")):
        with pytest.raises(ValueError, match=words):
            recipes.resolve({**recipe, "baseline_fit": wrong})


def test_restoring_is_run_beside_its_feed_forward_form(tmp_path):
    small = {
        **{
            "fit.steps": 4,
            "fit.batch_size": 2,
            "objective.steps": [2],
            "task.tiles": 8,
            "task.crop": 64,
            "fit.evaluate_limit": 1,
        },
        **{"energy.widths": [4, 4], "energy.blocks": [1, 1], "thinking.rivals": [], "thinking.limit": 1},
        **{"thinking.splits": ["test", "sigma-75"], "thinking.steps": [1, 2], "fit.precision": "32-true"},
    }
    done = ebm.run("restore", small, out=tmp_path / "run")
    assert isinstance(done.baseline.sampler, FixedPoint)
    assert type(done.baseline.energy) is type(done.energy)
    assert int(done.objective.taken) == 4
    assert done.energy.strongest == pytest.approx(55 / 127.5)
    found = {(f.who, f.split, f.steps, f.name) for f in read_findings(tmp_path / "run")}
    assert {("run", "sigma-75", 2, "psnr"), ("baseline", "test", 0, "psnr"), ("run", "test", 2, "psnr_adaptive")} <= found
    judged = done.judge().held_out("test", 1)[0][2]
    assert judged.std.item() == pytest.approx(25 / 127.5)
    going_on = ebm.run(
        "restore-long", small | {"fit.steps": 2, "objective.steps": [0]}, out=tmp_path / "on", from_model=done.path
    )
    assert type(going_on.energy) is type(done.energy)
