"""Runs on text from the command line to the report: the baseline beside the run, the study of thinking, bad input."""

from __future__ import annotations

import json
import math
import re

import pytest

import ebm
from ebm import recipes
from ebm.cli import main
from ebm.reports.page import write_report
from ebm.studies.thinking import read_findings

TINY = ["--energy.dim", "16", "--energy.depth", "1", "--energy.heads", "2", "--task.context", "16", "--steps", "6"]
TINY += ["--batch-size", "4", "--evaluate-limit", "4", "--evaluate-every", "3", "--thinking.limit", "3"]
TINY += ["--thinking.steps", "[1, 3]"]
TINY += ["--thinking.splits", '["test", "documentation"]', "--thinking.candidates", "[1, 2]", "--log-every", "2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "psalm.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "text"
    main_quietly(["run", "text", "--task.source", str(corpus), "--out", str(out), *TINY])
    return ebm.load(out)


def main_quietly(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_run_trains_its_baseline_on_the_same_data(run):
    baseline = run.baseline
    assert type(baseline.energy).__name__ == "Transformer"
    for key in ("source", "context", "seed"):
        assert baseline.recipe["task"][key] == run.recipe["task"][key]
    for key in ("steps", "batch_size", "evaluate_limit"):
        assert baseline.recipe["fit"][key] == run.recipe["fit"][key]
    parameters = [sum(p.numel() for p in each.energy.parameters()) for each in (run, baseline)]
    assert parameters[0] - parameters[1] <= 2 * 16  # of equal size, but for the head and the likes
    assert baseline.metrics["loss"] == pytest.approx(baseline.evaluate()["loss"])
    assert run.metrics["nats_per_byte"] == pytest.approx(run.metrics["loss"])


def test_the_study_of_thinking_compares_on_the_same_examples(run):
    found = {(f.who, f.split, f.steps, f.candidates, f.name): f.value for f in read_findings(run.path)}
    assert {(split, steps) for who, split, steps, _, name in found if who == "run" and name == "loss"} == {
        (split, steps) for split in ("test", "documentation") for steps in (1, 2, 3)
    }
    assert ("run", "test", 2, 2, "loss") in found  # candidates, with the run's own number of steps
    assert found["run", "test", 3, 1, "steps_adaptive"] <= 3
    expected = run.baseline.evaluate("documentation", limit=3)["loss"]
    assert found["baseline", "documentation", 0, 1, "loss"] == pytest.approx(expected)


def test_the_report_shows_thinking_hard_tokens_and_text(run):
    page = (run.path / "report.html").read_text(encoding="utf-8")
    for title in (
        "What thinking buys",
        "In and out of distribution",
        "What it finds hard",
        "Generated text",
        "How sure it may be",
        "Validation",
    ):
        assert title in page
    assert page.count('class="strip"') >= 1
    assert page.count("<b>baseline</b>") == 2
    write_report(run, 0)
    assert (run.path / "report.html").read_text(encoding="utf-8") == page


def test_evaluating_again_gives_the_numbers_of_the_run(run, capsys):
    assert main_quietly(["eval", str(run.path)]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(printed["loss"]) == pytest.approx(json.loads((run.path / "metrics.json").read_text())["loss"], rel=1e-4)


def test_a_finished_run_is_not_trained_again(run, capsys):
    before = (run.path / "baseline" / "metrics.json").stat().st_mtime_ns
    assert main_quietly(["run", "text", "--out", str(run.path), *TINY]) == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert (run.path / "baseline" / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("content", "message"), [("", "has no documents|no rows|empty"), ("Too short.", "choose a smaller context")]
)
def test_a_corpus_that_cannot_serve_leaves_nothing_behind(content, message, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text(content)
    arguments = [
        "run",
        "text",
        "--task.source",
        str(tmp_path / "corpus.txt"),
        "--task.context",
        "64",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main_quietly(arguments) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_a_hub_name_without_network_names_the_offline_corpus(tmp_path, capsys):
    assert main_quietly(["run", "text", "--task.source", "somebody/some-corpus", "--out", str(tmp_path / "run")]) == 2
    assert "--task.source kjv" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", ["text", "text-s1", "text-s2", "text-transformer", "dyck", "shakespeare", "shakespeare-transformer"]
)
def test_bundled_recipes_resolve_with_their_baselines(name):
    resolved = recipes.resolve(recipes.load(name))
    baseline = recipes.baseline_of(resolved)
    assert (baseline is None) == name.endswith("-transformer")
    if baseline is not None:
        assert baseline["task"] == resolved["task"]
        assert {key: baseline["energy"][key] for key in ("dim", "depth", "heads")} == {
            key: resolved["energy"][key] for key in ("dim", "depth", "heads")
        }


def test_an_untrained_run_is_about_as_good_as_guessing(run):
    assert run.metrics["loss"] < 1.2 * math.log(257)
