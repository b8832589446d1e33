"""Costs: counted without numbers, they are those of real steps, and of the paper's own code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ebm.baselines.dit import DiT
from ebm.costing.concatenated import Concatenated
from ebm.costing.cost import Model, cost
from ebm.costing.counter import Counter
from ebm.costing.measure import Spent, of_many, thinking, training, units
from ebm.costing.sketch import sketch
from ebm.costing.table import sizes, tables
from ebm.energies import ImageEBT, TextEBT
from ebm.recipes.recipe import assemble, baselines_of, build_table, load, resolve
from ebm.runs.run import sampler_of
from ebm.thinking import Thinker
from ebm.training.recomputing import blockwise_parts, recomputing

SMALL = {"fit.batch_size": 2, "energy.dim": 32, "energy.depth": 1}
PAPER = {"fit.batch_size": 1, "task.context": 256, "fit.accelerator": "gpu"}


def test_a_counter_counts_products_bytes_and_what_is_held():
    with Counter() as counter:
        a = torch.ones(100, 50)
        b = a @ torch.ones(50, 20)
        del a
        c = b.view(-1) + 1
    assert counter.flops == 2 * 100 * 50 * 20
    made = {"a": 20_000, "w": 4_000, "b": 8_000, "c": 8_000}
    assert counter.bytes == 2 * (made["a"] + made["w"]) + 2 * made["b"] + made["c"]
    assert counter.peak == made["a"] + made["w"] + made["b"]
    assert counter.held == made["b"] + made["c"]
    assert len(c)


def test_a_product_of_onednn_is_counted_as_torchs_own():
    from ebm.energies.ebt.products import _Product

    x, weight = torch.randn(4, 64, 128), torch.randn(96, 128)
    with Counter() as ours:
        _Product.apply(x, weight, None)
    with Counter() as theirs:
        torch.nn.functional.linear(x, weight)
    assert ours.flops == theirs.flops == 2 * 4 * 64 * 128 * 96


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("text-s1", {"task.context": 100, "energy.dim": 128}),  # attends in two parts, and multiplies by oneDNN
        ("text", {"fit.batch_size": 2}),
        ("dyck", {"fit.batch_size": 2}),
        ("queens", {"task.n": 60, "fit.batch_size": 2}),
        ("queens", {"task.n": 60, "fit.batch_size": 2, "objective": {"use": "mixture", "sampler": {"use": "mirror-descent"}}}),
        ("density", {"fit.batch_size": 8, "objective.sampler.sampler.steps": 3, "fit.sampler.steps": 3}),
        ("arithmetic-causal", {"fit.batch_size": 2}),
        ("text-s1", {**SMALL, "fit.activation_checkpointing": True}),
        ("frames", {"fit.batch_size": 2, "fit.activation_checkpointing": True}),
    ],
)
def test_what_is_counted_without_numbers_is_what_a_real_step_computes(name, settings):
    recipe = resolve(load(name), settings)
    task = build_table("task", recipe["task"], {"task": None})
    without, real = sketch(recipe, task, accelerated=False), assemble(recipe, task)
    assert all(isinstance(p, FakeTensor) for p in without.energy.parameters())
    batch = next(iter(task.loader("train", recipe["fit"]["batch_size"])))
    sampler = real.fit.get("sampler") or sampler_of(real.objective, real.energy)
    who = real.energy if hasattr(real.energy, "predict") else Thinker(real.energy, sampler)
    with torch.no_grad():
        start = task.starts(who, batch)
        with Counter() as predicting:
            who.predict(batch, start)
    real.objective.train()
    parts = blockwise_parts(real.energy, recipe["fit"].get("activation_checkpointing", False), False)
    for _ in range(2 if name == "density" else 1):  # its buffer is filled by the first
        for parameter in real.energy.parameters():
            parameter.grad = None
        with recomputing(parts), Counter() as stepping:
            real.objective(real.energy, batch).value.backward()
    found = training(without)
    assert found.flops == stepping.flops > 0
    assert found.bytes == pytest.approx(stepping.bytes, rel=0.01)
    assert thinking(without).flops == predicting.flops > 0


def test_blocks_that_are_computed_again_cost_operations_and_spare_memory_but_not_in_the_papers_form():
    plain, again = (
        cost("text-s1", {"fit.batch_size": 2, "fit.activation_checkpointing": asked}, training_only=True)
        for asked in (False, True)
    )
    for one in ("flops", "bytes"):
        assert again["model"]["training"][one] > 1.3 * plain["model"]["training"][one]
    assert again["model"]["training"]["memory"] < 0.8 * plain["model"]["training"]["memory"]
    assert again["paper"]["training"] == plain["paper"]["training"]
    with pytest.raises(ValueError, match="has no blocks that are computed again"):
        cost("density", {"fit.activation_checkpointing": True}, training_only=True)


def test_a_random_number_of_steps_costs_its_mean_and_stored_rows_are_joined():
    recipe = resolve(load("text-s2"), SMALL)
    task = build_table("task", recipe["task"], {"task": None})

    def flops(**settings):
        changed = {f"objective.sampler.{key.replace('__', '.')}": value for key, value in settings.items()}
        return training(sketch(resolve(load("text-s2"), {**SMALL, **changed}), task, accelerated=False)).flops

    two, three = (flops(sampler__steps=steps) for steps in (2, 3))
    assert flops() == (two + three) / 2
    assert two == 1.5 * flops(sampler__steps=2, join=0.25)  # of two rows a quarter is none


def test_many_like_parts_are_counted_by_what_one_more_costs():
    recipe = resolve(load("text"), {"fit.batch_size": 1, "energy.dim": 16, "energy.depth": 6, "task.context": 16})
    task = build_table("task", recipe["task"], {"task": None})

    def at(depth):
        made = {**recipe, "energy": {**recipe["energy"], "depth": depth}}
        return training(sketch(made, task, accelerated=True))

    whole, by_few = at(6), of_many(at, 6)
    assert by_few.flops == whole.flops
    assert by_few.bytes == pytest.approx(whole.bytes, rel=1e-3)
    assert by_few.peak == pytest.approx(whole.peak, rel=0.02)
    assert of_many(lambda n: Spent(n * n, 0), 9).flops == 81  # parts that are not alike are counted one by one


@pytest.mark.parametrize("conditioning", ["none", "time", "adaln"])
def test_the_papers_form_gives_the_same_energies_and_gradients(conditioning):
    torch.manual_seed(0)
    energy = TextEBT(vocab_size=7, dim=8, depth=2, heads=2, conditioning=conditioning, levels=2).double()
    ids, y = torch.randint(7, (2, 5)), torch.rand(3, 2, 5, 7, dtype=torch.double, requires_grad=True)
    ours, theirs = energy.given(ids, 1)(y), Concatenated(energy).given(ids, 1)(y)
    torch.testing.assert_close(theirs, ours)
    grads = [torch.autograd.grad(value.sum(), y)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*grads)


# What the reference has and computes: its parameters, and GFLOPs of a training step on 256 tokens.
@pytest.mark.parametrize(("size", "energy", "plain", "flops", "beside"), [("xxs", 44_812_034, 44_810_880, 216.7, 41.0)])
def test_parameters_and_flops_are_those_of_the_papers_code(size, energy, plain, flops, beside):
    found = cost("text-s1", PAPER, size=size, vocabulary=50277, training_only=True)
    paper, baseline = found["paper"], found["baselines"]["text-transformer"]
    assert (paper["parameters"], baseline["parameters"]) == (energy, plain)
    assert found["model"]["parameters"] == energy - 1  # no deviation of a noise that it has not
    assert round(paper["training"]["flops"] * 256 / 1e9, 1) == flops
    assert round(baseline["training"]["flops"] * 256 / 1e9, 1) == beside
    assert found["model"]["training"]["flops"] < paper["training"]["flops"]


@pytest.mark.parametrize(("conditioning", "body"), [("none", 6_198_528), ("time", 6_199_296), ("adaln", 11_817_216)])
def test_bodies_have_the_papers_parameters(conditioning, body):
    with FakeTensorMode():
        energy = TextEBT(50277, size="xxs", conditioning=conditioning, levels=2)
    assert sum(p.numel() for p in energy.parameters()) - 2 * 50277 * 384 == body


# Pictures of 128 x 128 in patches of 16. Fixed positions are parameters there and a buffer here; the energy's learned condition
# is the energy's here and the task's there.
@pytest.mark.parametrize(
    ("kind", "size", "published"), [(ImageEBT, "xxs", 11_260_416), (ImageEBT, "large", 685_922_304), (DiT, "xxs", 12_097_920)]
)
def test_image_models_have_the_papers_parameters(kind, size, published):
    with FakeTensorMode():
        energy = kind(image_size=128, patch_size=16, channels=3, size=size)
    condition = energy.condition.numel() if kind is ImageEBT else 0
    assert sum(p.numel() for p in energy.parameters()) + energy.positions.numel() - condition == published


def test_an_accelerator_attends_to_the_whole_square_and_a_cpu_to_less():
    cpu, gpu = (
        cost("text-s1", {**SMALL, "task.context": 256, "fit.accelerator": where}, training_only=True) for where in ("cpu", "gpu")
    )
    assert (cpu["device"], gpu["device"]) == ("cpu", "accelerator")
    assert cpu["model"]["training"]["flops"] < gpu["model"]["training"]["flops"]


def test_objectives_in_turn_count_by_their_steps_and_tokens_set_a_runs_length():
    recipe = resolve(load("restore"), {"fit.batch_size": 1, "task.tile": 16, "task.tiles": 64, "energy.widths": [8, 8]})
    task = build_table("task", recipe["task"], {"task": None})
    made = sketch(recipe, task, accelerated=False)
    first, last = (training(made._replace(objective=part)).flops for part in made.objective.objectives)
    assert first < last
    assert training(made).flops == pytest.approx((2400 * first + 6400 * last) / 8800)
    assert units(made) == 1


def test_steps_in_turn_are_those_of_the_run_whatever_the_depth(monkeypatch):
    monkeypatch.setattr(
        "ebm.costing.measure._step", lambda sketch, energy, part: Spent(len(energy.blocks) * part.sampler.steps, 0)
    )
    task = {"use": "dyck", "n": 60}
    energy = {"use": "residual-text-ebt", "dim": 16, "depth": 6, "heads": 2}
    last = {"use": "reconstruction", "sampler": {"use": "gradient-descent", "retraction": "softmax", "steps": 2}}
    first = {**last, "sampler": {**last["sampler"], "steps": 1}}
    objective = {"use": "in-turn", "steps": [100], "objectives": [first, last]}
    recipe = resolve({"task": task, "energy": energy, "objective": objective, "fit": {"steps": 200, "batch_size": 2}}, {})
    model = Model("deep", recipe, build_table("task", task, {"task": None}), accelerated=False)
    assert [model.count(training, steps).flops for steps in (200, 2000)] == [6 * 1.5, pytest.approx(6 * 1.95)]


def test_a_baseline_of_another_batch_size_costs_what_it_costs_alone():
    usual, other = (
        cost("text", {**SMALL, "task.context": 16, "baseline_fit.batch_size": size})["baselines"]["text-transformer"]
        for size in (2, 6)
    )
    for activity in ("training", "thinking", "generation"):
        assert other[activity]["flops"] == pytest.approx(usual[activity]["flops"])
    assert other["run"]["flops"] == pytest.approx(3 * usual["run"]["flops"])


def test_time_and_money_follow_from_the_rate_and_the_price():
    asked = {"tokens": 1e6, "flops_per_second": 1e12, "price_per_hour": 3.6}
    found = cost("text-s1", SMALL, training_only=True, **asked)
    steps = -(-1_000_000 // 256)
    assert found["run"] == {"steps": steps, "units": steps * 256}
    for one in (found["model"], found["paper"], *found["baselines"].values()):
        flops = one["training"]["flops"] * steps * 256
        assert one["run"]["flops"] == pytest.approx(flops)
        assert one["run"]["seconds"] == pytest.approx(flops / 1e12)
        assert one["run"]["price"] == pytest.approx(flops / 1e12 / 1000)


def test_thinking_more_costs_more_and_the_papers_generation_computes_everything_anew():
    found = [cost("text-s1", SMALL, think_steps=steps, candidates=n) for steps, n in ((1, 1), (2, 1), (2, 3))]
    spent = [one["model"]["thinking"]["flops"] for one in found]
    assert spent[0] < spent[1] < spent[2] < 3 * spent[1]  # what is observed is encoded once for all candidates
    one = found[0]
    assert one["paper"]["generation"]["flops"] > 50 * one["model"]["generation"]["flops"]
    assert one["model"]["generation"]["flops"] < one["model"]["thinking"]["flops"] * 1.2


def test_a_vocabulary_of_ones_own_needs_no_tokenizer():
    found = cost("text-s1", SMALL, vocabulary=1000, training_only=True)
    assert found["model"]["vocabulary_parameters"] == 2 * 1000 * 32


def test_a_named_size_replaces_the_recipes_numbers_also_of_its_baseline():
    recipe = resolve(load("text"), {"energy.size": "4xs"})
    assert not {"dim", "depth", "heads"} & recipe["energy"].keys()
    assert resolve(load("text"), {"energy.size": "4xs", "energy.depth": "1"})["energy"]["depth"] == 1
    (baseline,) = baselines_of(recipe).values()
    assert baseline["energy"]["size"] == "4xs"
    assert "dim" not in baseline["energy"]


@pytest.mark.parametrize(
    ("recipe", "asked", "words"),
    [
        ("text-s1", {"size": "gigantic"}, "no size is named so"),
        ("density", {"size": "xl"}, "has no named sizes"),
        ("density", {"tokens": 1e9}, "learns from points, not tokens: set its length by --steps"),
        ("density", {"vocabulary": 100}, "no vocabulary"),
        ("text-s1", {"vocabulary": 1}, "--vocabulary 1: write a whole number of at least 2"),
        ("text-s1", {"candidates": 0}, "--candidates 0"),
        ("text-s1", {"think_steps": 0}, "--think-steps 0"),
        ("text-s1", {"tokens": float("nan")}, "--tokens nan"),
        ("text-s1", {"tokens": 1e30}, "at most 10\\^12"),
        ("text-s1", {"flops_per_second": -1.0}, "--flops-per-second -1.0"),
        ("text-s1", {"price_per_hour": 2.0}, "needs the hours"),
    ],
)
def test_what_makes_no_sense_is_refused(recipe, asked, words):
    with pytest.raises(ValueError, match=words):
        cost(recipe, SMALL if recipe == "text-s1" else {}, **asked)


def test_tables_fit_a_hundred_columns_and_the_command_prints_json(capsys):
    from ebm.cli import main

    arguments = [part for key, value in SMALL.items() for part in (f"--{key}", str(value))]
    with pytest.raises(SystemExit) as end:
        main(["cost", "text-s1", *arguments, "--tokens", "1e9", "--flops-per-second", "1e12", "--price-per-hour", "2", "--json"])
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert {"training", "thinking", "generation"} <= found["model"].keys()
    for _, columns, rows in [*tables(found), sizes({"xxs": found})]:
        assert all(len(row) == len(columns) for row in rows)
        widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
        assert sum(widths) + 2 * len(widths) <= 100  # headings fold


def test_the_pages_table_is_what_the_command_counts():
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    lines = page[page.index("## The arithmetic") :].splitlines()
    written = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
    settings = {"task.context": 256, "fit.batch_size": 256, "fit.accelerator": "gpu"}
    asked = {"vocabulary": 50277, "tokens": 100e9, "flops_per_second": 4e14, "price_per_hour": 2.0}
    _, columns, (row,) = sizes({"4xs": cost("text-s1", settings, size="4xs", training_only=True, **asked)})
    assert written[0] == columns
    assert row in written
    assert [line[0] for line in written[2:]] == ["4xs", "3xs", "xxs", "xs", "small", "medium", "large", "xl"]
