"""Files of grids: what they say is checked, with the nearest name; those that are bundled can be run; budgets are kept."""

from __future__ import annotations

import copy
import math
import re
import tomllib

import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ebm.costing.counter import Counter
from ebm.energies.ebt.products import linear
from ebm.grids import budget
from ebm.grids.grid import READINGS, load, parse, read, slug
from ebm.grids.measured import flops, parameters
from ebm.grids.plan import jobs, tuning
from ebm.grids.showing import cost, shown_grid
from ebm.interfaces import Batch, Energy, Loss, Objective
from ebm.registry import components
from ebm.runs.run import Run
from ebm.samplers import GradientDescent
from tests.fake_plugins import REPOSITORY

BUNDLED = [name for name, found in components("grid").items() if found.distribution == "ebm-toolkit"]
GRID = {
    "claim": "c",
    "source": "s",
    "axis": {"label": "steps", "settings": {"fit.steps": [1, 2, 3]}},
    "arms": {"ours": {"recipe": "density"}, "theirs": {"recipe": "density", "settings": {"fit.lr": 1e-3}}},
    "measure": {"metric": "mmd"},
    "test": {"use": "gain", "against": "theirs"},
}


def changed(place, value):
    """Sets a place of a grid's table, as in "arms.ours.recipe"; None takes it away."""
    made = copy.deepcopy(GRID)
    *path, last = place.split("/")
    inner = made
    for key in path:
        inner = inner.setdefault(key, {})
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return made


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("clam", "c", "it has no place for 'clam': did you mean 'claim'"),
        ("claim", None, "claim is missing"),
        ("claim", 3, "claim = 3: input should be a valid string"),
        ("claim", "", "claim = '': string should have at least 1 character"),
        ("seeds", "3", "seeds = '3': input should be a valid integer, or input should be a valid list"),
        ("axis/x", ["a"], r"axis.x.0 = 'a': input should be a valid number"),
        ("test", {}, "test.use is missing"),
        ("test/point", ["1"], "test has no place for 'point': did you mean 'points'"),
        ("test/points", 3, "test.points = 3: input should be a valid list"),
        ("test/floor", "x", "test.floor = 'x': input should be a valid number, or input should be 'fit'"),
        ("arms/ours/like", ["a"], r"arms.ours.like = \['a'\]: no arm has this name"),
        ("axis/lable", "x", "axis has no place for 'lable': did you mean 'label'"),
        ("axis/scale", "logs", "axis.scale = 'logs'"),
        ("arms/ours/setings", {}, "arms.ours has no place for 'setings': did you mean 'settings'"),
        ("arms/ours/lik", "theirs", "arms.ours has no place for 'lik': did you mean 'like'"),
        ("arms/ours/like", "their", "arms.ours.like = 'their': no arm has this name: did you mean 'theirs'"),
        ("arms/ours/like", "ours", "arms.ours is like itself"),
        ("arms/ours/measure", {"metrik": "x"}, "arms.ours.measure: it has no place for 'metrik': did you mean 'metric'"),
        ("arms", {}, "arms = {}"),
        ("arms/ours:", {"recipe": "text"}, "two would have one folder"),
        ("measure/metric", 3, "measure.metric = 3"),
        ("measure/study", "thinkin", "measure.study = 'thinkin': no study has this name: did you mean 'thinking'"),
        ("measure/where", {"steps": 1}, "name measure.study, too"),
        ("test/use", "gains", "test.use = 'gains': no reading has this name: did you mean 'gain'"),
        ("test/against", "their", "is compared with 'their': no arm has this name: did you mean 'theirs'"),
        ("test/against", None, "gain compares arms: name the one to compare with"),
        ("test/points", ["4"], "test.points: '4' is no point of all arms"),
        ("seeds", 0, "seeds = 0"),
        ("seeds", [1, 1], "seeds = "),
        ("seeds", -2, "seeds = -2"),
        ("axis/column", "steps", "write either settings"),
        ("axis/settings", {"fit.steps": [1, 2, 3], "fit.lr": [1.0]}, "all lists need the same length"),
        ("axis/settings", {"fit.steps": [1, 1, 2]}, "two points of ours are the same"),
        ("axis/settings", {"task.name": ["a", "b", "c"]}, "are no numbers: say by axis.x where they lie"),
        ("axis/x", [1.0], "axis.x has 1 numbers for 3 points"),
        ("axis/x", "flop", "axis.x"),
        ("test", {"use": "power-law", "against": "theirs", "floor": "fit"}, None),
        ("axis/settings", {"fit.steps": []}, "all lists need the same length"),
        ("tune", {}, "arms are tuned with equal effort"),
        ("arms/ours/tune", [1.0], "no \\[tune\\] says of which setting"),
        ("arms/ours/values", [1], "are of an axis along a column"),
        ("settings", {"seed": 5}, "settings says seed, and so does seeds"),
        ("arms/ours/settings", {"seed": 5}, "arms.ours.settings says seed, and so does seeds"),
        ("axis/settings", {"seed": [1, 2, 3]}, "axis.settings says seed, and so does seeds"),
        ("arms/ours/settings", {"fit.steps": 5}, "arms.ours.settings says fit.steps, and the axis sets it for all arms"),
        ("measure/mean_over", ["seed"], "name measure.study, too"),
        ("axis", {"label": "s", "column": "steps", "values": [1, 2]}, "name arms.ours.measure.study, too"),
    ],
)
def test_what_a_file_says_is_checked(place, value, message):
    if message is None:
        assert parse(changed(place, value)).test.floor == "fit"
        return
    with pytest.raises(ValueError, match=message):
        parse(changed(place, value))


@pytest.mark.parametrize(
    ("tune", "settings", "message"),
    [
        ({"setting": "fit.steps"}, {}, "axis.settings says fit.steps, and .tune. sets it at all points alike"),
        ({"setting": "fit.batch_size"}, {"fit.batch-size": 3}, "ours.settings says fit.batch-size, and .tune. sets it"),
        ({"seed": 2}, {}, "tune.seed = 2 is one of seeds, too"),
        ({"setting": "seed"}, {}, "tune.setting says seed"),
        ({"point": "30"}, {}, "tune.point = '30' is no point of the axis"),
        ({}, {"fit.batch_size": 3}, None),
    ],
)
def test_what_is_tuned_is_said_nowhere_else(tune, settings, message):
    made = changed("tune", tune)
    made["arms"] = {name: {"recipe": "density", "settings": settings, "tune": [1e-3, 1e-2]} for name in ("ours", "theirs")}
    if message is None:
        assert parse(made).tune is not None
        return
    with pytest.raises(ValueError, match=message):
        parse(made)


def test_readings_ask_for_points():
    two = changed("axis/settings", {"fit.steps": [1, 2]})
    two["test"]["use"] = "power-law"
    with pytest.raises(ValueError, match="power-law needs 3 points along an axis, and here are 2"):
        parse(two)
    logged = changed("axis/settings", {"fit.lr": [0.0, 1.0]})
    logged["axis"]["scale"] = "log"
    with pytest.raises(ValueError, match=r"a point at 0\.0"):
        parse(logged)


@pytest.mark.parametrize(
    ("use", "axis", "measure", "message"),
    [
        ("gain", {"x": [0.0, 1.0, 2.0], "scale": "log"}, {}, r"axis.scale = 'log', but ours has a point at 0\.0"),
        ("gain", {"x": [0.0, 1.0, math.nan]}, {}, "ours has points at 0.0, 1.0, nan: write numbers that are finite"),
        ("power-law", {"x": [0.0, 1.0, 2.0]}, {}, r"test.use = 'power-law', but ours has a point at 0\.0"),
        ("power-law", {"x": [1.0, 1.0, 2.0]}, {}, "power-law needs 3 points at different places"),
        ("slope", {"x": [1.0, 1.0, 1.0]}, {}, "slope needs 2 points at different places, and those of ours lie at 1.0, 1.0, 1.0"),
        ("power-law", {}, {"better": "higher"}, "power-law reads how a loss falls, and of arms.ours more is better"),
        ("power-law", {"x": "flops", "scale": "log"}, {}, None),
    ],
)
def test_what_a_reading_could_not_read_is_refused_before_anything_is_run(use, axis, measure, message):
    made = copy.deepcopy(GRID)
    made["axis"] |= axis
    made["measure"] |= measure
    made["test"]["use"] = use
    if message is None:
        assert parse(made).test.use == use
        return
    with pytest.raises(ValueError, match=message):
        parse(made)


def test_arms_that_are_compared_have_the_same_points():
    made = changed("axis", {"label": "split", "column": "split", "values": ["a", "b"], "x": [0.0, 1.0]})
    made["measure"]["study"] = "thinking"
    parse(made)
    made["arms"]["ours"]["values"] = ["a", "c"]
    with pytest.raises(ValueError, match="have different points along the axis"):
        parse(made)


def test_an_arm_that_is_like_another_adds_to_its_tables():
    made = changed("measure/study", "thinking")
    made["measure"]["where"] = {"split": "test"}
    made["arms"]["ours"]["measure"] = {"where": {"steps": 4}}
    made["arms"]["again"] = {"like": "ours", "settings": {"fit.lr": 1.0}, "measure": {"where": {"candidates": 8}}}
    grid = parse(made)
    assert grid.measure_of("again").where == {"split": "test", "steps": 4, "candidates": 8}
    assert (grid.arms["again"].recipe, grid.arms["again"].settings) == ("density", {"fit.lr": 1.0})


# ------------------------------------------------------------------------------------------------------------------ bundled


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_study_says_what_it_tests_and_can_be_run(name):
    grid = load(name)
    assert grid.claim.endswith(".")
    assert re.search(r"arXiv 2507\.02092v1, .*(figure|figures|table) \d", grid.source)  # where a reader finds it
    assert grid.test.use != "power-law" or grid.measure.metric in grid.claim
    assert grid.minutes > 0
    planned = jobs(grid)
    assert all("baseline" not in job.recipe and job.recipe["seed"] == job.seed for job in planned.values())
    unique = {job.name for job in planned.values()}
    tried = sum(map(len, tuning(grid).values()))
    steps = sum({job.name: job.recipe["fit"]["steps"] for job in planned.values()}.values())
    steps += sum(job.recipe["fit"]["steps"] for each in tuning(grid).values() for job in each)
    assert cost(grid.model_dump(exclude_none=True)).startswith(
        f"{len(unique)} runs{f', and {tried} to tune' if tried else ''}: {steps:,} training steps"
    )


@pytest.mark.parametrize("name", BUNDLED)
def test_a_study_s_own_file_is_shown_as_what_it_was_made_of(name, tmp_path):
    """study.toml says all keys, also those that are empty."""
    (tmp_path / "study.toml").write_text(tomli_w.dumps(load(name).model_dump(exclude_none=True)))
    own, whole = (shown_grid(each)[1].split("\n", 1)[1] for each in (str(tmp_path / "study.toml"), name))
    assert own == whole


def test_the_studies_of_the_claims_are_there():
    scaling = {f"scaling-{axis}" for axis in ("data", "parameters", "depth", "width", "batch", "flops")}
    assert {*BUNDLED} == scaling | {"thinking", "ood", "ablation", "denoise-passes", "probe", "uncertainty", "step-or-pass"}


def test_no_ablation_changes_more_than_its_part():
    grid = load("ablation")
    full, lacking = (jobs(grid)[arm, 0, 0].recipe["objective"]["sampler"] for arm in ("full", "no replay"))
    assert lacking == full["sampler"]


# ------------------------------------------------------------------------------------------------------------------ budgets


@given(
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 3),
    st.floats(0, 100),
    st.lists(st.floats(0.1, 20), min_size=5, max_size=5),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_what_is_kept_fits_and_no_seed_more_would(points, seeds, fewest, left, costs):
    def cost(p, s):
        return s * sum(costs[:p])

    kept = budget.keep(points, seeds, fewest, cost, left)
    assert cost(*kept) <= left
    assert (kept.points == 0) == (costs[0] > left)
    assert kept.points == 0 or kept.seeds == seeds or cost(kept.points, kept.seeds + 1) > left
    if kept.seeds >= min(3, seeds) and kept.points < points:
        assert cost(kept.points + 1, min(3, seeds)) > left  # a point is dropped only where three seeds of it do not fit
    more = budget.keep(points, seeds, fewest, cost, 2 * left)
    assert more.points >= kept.points


@pytest.mark.parametrize("text", ["", "30", "m", "30 m", "1h30", "-5m", "30x"])
def test_a_budget_is_a_time(text):
    with pytest.raises(ValueError, match="write a time"):
        budget.seconds_of(text)


@given(st.dictionaries(st.integers(0, 3), st.floats(1, 100), min_size=1), st.integers(0, 3))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_run_is_expected_to_take_some_time(known, point):
    found = budget.expected([1.0, 2.0, 4.0, 8.0], known, point)
    assert found >= min(known.values()) > 0
    assert point not in known or found == known[point]


def test_names_of_folders():
    assert slug("dit, 100 passes") == "dit-100-passes"
    assert slug("../../x") == "x"
    assert slug("[64, 64]") == "64-64"
    assert slug("…") == "arm"


def test_what_is_tuned_is_tuned_at_the_point_that_is_named():
    made = changed("tune", {"setting": "fit.weight_decay"})
    for arm in made["arms"].values():
        arm["tune"] = [0.1, 0.2]
    named = parse(made).points_of_runs()
    for point, name in enumerate(named):
        tried = tuning(parse({**made, "tune": {"setting": "fit.weight_decay", "point": name}}))
        whole = jobs(
            parse({**made, "seeds": [1000]} | {"tune": {"setting": "fit.weight_decay", "seed": 0}}), {"ours": 0.1, "theirs": 0.1}
        )
        assert tried["ours"][0].recipe == whole["ours", point, 1000].recipe
    assert [job.digest for job in tuning(parse(made))["ours"]] == [
        job.digest for job in tuning(parse({**made, "tune": {"setting": "fit.weight_decay", "point": named[0]}}))["ours"]
    ]


def test_no_two_runs_have_one_folder():
    """Folders of -1 and 1, and of two arms whose names end in what others' points begin with, would have one name."""
    made = changed("axis/settings", {"fit.weight_decay": [-1.0, 1.0, 1.5, 5.0]})
    made["arms"]["ours.1"] = {"recipe": "density", "settings": {"fit.lr": 1e-4}}
    planned = jobs(parse({**made, "seeds": 1}))
    assert len({job.name for job in planned.values()}) == len({job.digest for job in planned.values()}) == 12
    assert [planned["theirs", point, 0].name for point in (0, 2)] == ["theirs.1.0.seed-0", "theirs.1.5.seed-0"]
    for arm in made["arms"].values():
        arm["tune"] = [0.1, 0.10000001]
    tried = [job for each in tuning(parse({**made, "tune": {"setting": "objective.energy_l2"}})).values() for job in each]
    assert len({job.name for job in tried}) == 6


# ---------------------------------------------------------------------------------------------------- where a run is measured


class Net(Energy):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False))

    def forward(self, y, code=None):
        return self.layers(y).squeeze(-1)


class Plain(Objective):
    def forward(self, energy, batch, *, start=None, generator=None):
        return Loss(energy(batch.target).mean(), {})


class Descends(Objective):
    """Differentiates the gradient of the energy, as EBTs do."""

    def forward(self, energy, batch, *, start=None, generator=None):
        y = batch.target.clone().requires_grad_()
        return Loss(torch.autograd.grad(energy(y).sum(), y, create_graph=True)[0].square().mean(), {})


class Five:
    def loader(self, split, batch_size, **_):
        return [Batch(torch.ones(5, 2))]


def test_operations_and_parameters_are_those_that_are_counted_by_hand():
    run = Run(None, {"fit": {"batch_size": 5, "steps": 10}}, Net(), GradientDescent(step_size=1.0), Plain(), Five(), {})
    assert parameters(run) == 24
    forward = 2 * 5 * (2 * 8 + 8)
    backward = 2 * 5 * (2 * 8 + 8 + 8)  # both weights, and the hidden layer between them
    assert flops(run) == 10 * (forward + backward)
    twice = Run(None, run.recipe, Net(), run.sampler, Descends(), Five(), {})
    assert flops(twice) > 1.5 * flops(run)


@pytest.mark.parametrize("width", [8, 256])
def test_products_are_counted_whoever_computes_them(width):
    """The larger one is oneDNN's, where torch is built with it."""
    x, weight = torch.randn(64, width), torch.randn(width, width)
    with Counter() as counter:
        linear(x, weight)
    assert counter.flops == 2 * 64 * width * width


def test_a_file_is_read_from_its_path(tmp_path):
    (tmp_path / "x.toml").write_text("claim = 3\n")
    with pytest.raises(ValueError, match=rf"study {tmp_path / 'x.toml'}: "):
        read(tmp_path / "x.toml")


def test_the_guides_study_is_one_that_can_be_run():
    text = (REPOSITORY / "docs" / "studies.md").read_text(encoding="utf-8")
    grid = parse(tomllib.loads(text.split("```toml\n")[1].split("```")[0]))
    assert len(jobs(grid)) == 18
    assert set(re.findall(r"^\| `([a-z-]+)` \|", text.split("| `test.use` |")[1], re.M)) == READINGS.keys()
