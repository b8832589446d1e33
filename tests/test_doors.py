"""The open doors: one file of a plugin adds a section, a study, a command, a rival and a model; a broken one costs nothing."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys

import pytest

import ebm
from ebm.cli import main
from ebm.registry import components, problems
from ebm.reports.page import write_report
from ebm.studies.findings import rows_of
from tests.fake_plugins import environment, installed, run_python, write_distribution

PLUGIN = '''
from ebm import Prediction
from ebm.figures import figure_of
from ebm.registry import hookimpl
from ebm.reports import Section
from ebm.studies import Finding
from ebm.tasks import Points


class Waves(Points):
    """Points that are judged by how far they are from the middle.

    Arguments:
        n: how many.
    """

    headline = "wander"

    def __init__(self, n: int = 60) -> None:
        super().__init__("moons", n)

    def scores(self, prediction, batch):
        return {"loss": self.distance(prediction.y, batch), "wander": prediction.y.norm(dim=-1)}

    evaluate = __import__("ebm").Task.evaluate


class Zero:
    """Predicts nothing but zeros."""

    def __init__(self, task):
        assert task.headline == "wander"

    def predict(self, batch, start, *, generator=None):
        return Prediction(batch.target * 0, None, 0)


def ripples(run, *, heights: tuple[float, ...] = (1.0, 2.0), seed: int = 5):
    """Measures the energy at several heights."""
    y = run.energy(__import__("torch").tensor([[0.0, h] for h in heights]))
    return [Finding(split="test", steps=i + 1, name="ripple", value=v) for i, v in enumerate(y.tolist())]


def shout(run, *, times: int = 2, loud: bool = False):
    """Say what a run's task is.

    Args:
        times: how often.
        loud: in capitals.
    """
    word = type(run.task).__name__
    return [word.upper() if loud else word] * times


@hookimpl
def ebm_tasks():
    return {"waves": Waves}


@hookimpl
def ebm_rivals():
    return {"zero": Zero}


@hookimpl
def ebm_studies():
    return {"ripples": ripples}


@hookimpl
def ebm_commands():
    return {"shout": shout, "lazy": "json:dumps", "lost": "no_such_module:f"}


@hookimpl
def ebm_sections(run, seed):
    with figure_of(2, 1) as (figure, png):
        figure.subplots().plot([0, seed])
    yield Section("A <b>wave", "Look & see.", png.getvalue(), place=1)
    yield Section("Words", "", "<i>italic</i>")
'''

RECIPE = """
summary = "Waves."
[task]
use = "waves"
[energy]
use = "mlp"
hidden = [8]
[objective]
use = "contrastive-divergence"
[objective.sampler]
use = "langevin"
steps = 2
[fit]
steps = 2
batch_size = 8
evaluate_limit = 8
[thinking]
steps = [1, 2]
candidates = [1]
rivals = ["zero"]
limit = 8
[ripples]
heights = [1.0, 3.0]
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "waves.toml").write_text(RECIPE)
    return tmp_path / "waves.toml"


def said(capsys, *words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main([str(word) for word in words])
    return (done.value.code or 0), *capsys.readouterr()


def titles(folder):
    return re.findall("<h2>(.*?)</h2>", (folder / "report.html").read_text())


def test_one_file_adds_a_section_a_study_a_command_and_a_rival(tmp_path, recipe, capsys):
    write_distribution(tmp_path, "waves", PLUGIN)
    with installed(tmp_path):
        status, out, err = said(capsys, "run", recipe, "--out", tmp_path / "x")
        assert status == 0, err
        assert "split\twho\tsteps\tcandidates\twander\ntest\tzero\t\t1\t0.0000\n" in out
        assert "ripples\nsteps\tripple\n1\t" in re.sub(r"who\tsplit\t(steps)\tcandidates", r"\1", out).replace("run\ttest\t", "")
        page = (tmp_path / "x" / "report.html").read_text()
        assert titles(tmp_path / "x")[:2] == ["Final metrics", "A &lt;b&gt;wave"]
        assert "Look &amp; see." in page
        assert "<i>italic</i>" in page
        assert {"Study: ripples", "Study: ripples, in numbers", "What thinking buys"} <= {*titles(tmp_path / "x")}
        with (tmp_path / "x" / "ripples.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [(row["name"], row["steps"]) for row in rows] == [("ripple", "1"), ("ripple", "2")]
        assert said(capsys, "shout", tmp_path / "x", "--times", "3", "--loud")[1] == "WAVES\nWAVES\nWAVES\n"
        assert "how often." in said(capsys, "shout", "--help")[1]
        status, out, _ = said(capsys, "study", "ripples", tmp_path / "x", "--heights", "[0.0]", "--json")
        assert (status, len(json.loads(out))) == (0, 1)
        assert len((tmp_path / "x" / "ripples.csv").read_text().splitlines()) == 2
        assert "no keyword 'hights'" in said(capsys, "study", "ripples", tmp_path / "x", "--hights", "1")[2]
        assert "lost" in said(capsys, "list", "command")[1]
        status, _, err = said(capsys, "lost", tmp_path / "x")
        assert status == 2
        assert "'lost' of waves: no_such_module:f cannot be imported" in err
        run = ebm.load(tmp_path / "x")
        before = (tmp_path / "x" / "report.html").read_bytes()
        write_report(run, 0)
        assert (tmp_path / "x" / "report.html").read_bytes() == before


BREAKS = {
    "a section that raises": ("def ebm_sections(run, seed):\n    raise KeyError('spoon')", "KeyError: 'spoon'"),
    "a section that exits": ("def ebm_sections(run, seed):\n    raise SystemExit(3)", "SystemExit"),
    "a section that is none": ("def ebm_sections(run):\n    return ['words']", "is no Section"),
    "a picture that is none": (
        "def ebm_sections(run):\n    from ebm.reports import Section\n    return [Section('t', 'c', b'GIF')]",
        "neither the bytes of a PNG nor HTML text",
    ),
    "a section that runs away": ("def ebm_sections(run):\n    raise FloatingPointError('far')", "chains ran away"),
}
TINY = RECIPE.replace('use = "waves"', 'use = "points"\nn = 60').partition("[thinking]")[0]


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_section_is_a_note_and_the_run_is_whole(name, tmp_path, capsys):
    source, note = BREAKS[name]
    write_distribution(tmp_path, "broken", f"from ebm.registry import hookimpl\n\n@hookimpl\n{source}\n")
    (tmp_path / "tiny.toml").write_text(TINY)
    with installed(tmp_path):
        status, _, err = said(capsys, "run", tmp_path / "tiny.toml", "--out", tmp_path / "x")
    assert status == 0, err
    page = (tmp_path / "x" / "report.html").read_text()
    assert re.search(f'class="note">[^<]*of broken [^<]*{re.escape(note)}', page.replace("&#39;", "'"))
    assert "Learning curves" in page
    assert "verdict diverged" not in page
    assert json.loads((tmp_path / "x" / "metrics.json").read_text())


@pytest.mark.parametrize("result", ["1 / 0", "object()", "[object()]", "{'a': [1]}"])
def test_a_broken_study_is_a_note_and_the_numbers_are_written_before(result, tmp_path, capsys):
    source = f"def study(run):\n    assert (run.path / 'metrics.json').exists()\n    return {result}\n"
    hook = "@hookimpl\ndef ebm_studies():\n    return {'wild': study}\n"
    write_distribution(tmp_path, "broken", f"from ebm.registry import hookimpl\n\n{source}\n{hook}")
    (tmp_path / "tiny.toml").write_text(TINY + "[wild]\n")
    with installed(tmp_path):
        status, _, err = said(capsys, "run", tmp_path / "tiny.toml", "--out", tmp_path / "x")
        assert status == 0, err
        assert "The study &#39;wild&#39; of broken failed." in (tmp_path / "x" / "report.html").read_text()
        status, _, err = said(capsys, "study", "wild", tmp_path / "x")
        assert (status, "Traceback" in err) == (2, False)
        assert "broken" in err


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        ("def ebm_commands():\n    return {'run': print}", "the name belongs to the core"),
        ("def ebm_commands():\n    return {'x': 5}", "5 is not callable"),
        ("def ebm_commands():\n    return {'x': 'nothing'}", "write it as 'module:function'"),
        ("def ebm_commands():\n    return {'x': lambda: 0}", "takes no run"),
        ("def ebm_studies():\n    return {'fit': lambda run: 0}", "the name belongs to the core"),
        ("def ebm_studies():\n    return {'thinking': lambda run: 0}", "the name belongs to the core"),
        ("def ebm_rivals():\n    return {'x': None}", "None is not callable"),
        ("def ebm_models():\n    return {'x': 'nowhere'}", "No such file"),
        ("def ebm_sections(run, sed):\n    return []", "it asks for run, sed, but is given run, seed"),
        ("def ebm_sektions(run, seed):\n    return []", "did you mean 'ebm_sections'"),
    ],
)
def test_a_broken_hook_is_listed_and_keeps_its_neighbours(hook, problem, tmp_path):
    good = "@hookimpl\ndef ebm_energies():\n    return {'fine': lambda: 0}\n"
    write_distribution(tmp_path, "broken", f"from ebm.registry import hookimpl\n\n@hookimpl\n{hook}\n\n\n{good}")
    with installed(tmp_path):
        assert components("energy")["fine"].distribution == "broken"
        assert [p.distribution for p in problems()] == ["broken"]
        assert problem in str(problems()[0])


def test_a_command_that_raises_names_its_package_and_the_place(tmp_path, capsys):
    source = "from ebm.registry import hookimpl\n\ndef act(run):\n    return run.nonesuch\n\n"
    write_distribution(tmp_path, "broken", source + "@hookimpl\ndef ebm_commands():\n    return {'act': act}\n")
    (tmp_path / "tiny.toml").write_text(TINY)
    with installed(tmp_path):
        assert said(capsys, "run", tmp_path / "tiny.toml", "--out", tmp_path / "x")[0] == 0
        status, _, err = said(capsys, "act", tmp_path / "x")
    assert status == 2
    assert re.fullmatch(r"ebm: command 'act' of broken failed: AttributeError: .*nonesuch.* \(.*__init__\.py, line 4\)\n", err)


def test_a_model_of_a_package_is_loaded_by_its_name(tmp_path, capsys):
    (tmp_path / "tiny.toml").write_text(TINY)
    assert said(capsys, "run", tmp_path / "tiny.toml", "--out", tmp_path / "x")[0] == 0
    hook = f"from ebm.registry import hookimpl\n\n@hookimpl\ndef ebm_models():\n    return {{'tiny': {str(tmp_path / 'x')!r}}}\n"
    write_distribution(tmp_path, "shop", hook)
    with installed(tmp_path):
        assert ebm.load("tiny").metrics == ebm.load(tmp_path / "x").metrics
        assert said(capsys, "eval", "tiny")[1] == said(capsys, "eval", tmp_path / "x")[1]
        assert "Waves." in said(capsys, "list", "model")[1]
        assert "did you mean 'tiny'" in said(capsys, "eval", "tinny")[2]


def test_findings_are_rows():
    assert rows_of(None) == []
    assert rows_of([{"a": 1, "b": "x"}]) == [{"a": 1, "b": "x"}]
    for odd in (3, "words", [3], [{"a": None}], [{}]):
        with pytest.raises(ValueError, match="the study returned"):
            rows_of(odd)


def test_the_command_line_serves_programs(tmp_path):
    """Standard output is a pipe here, and no terminal's width is set."""
    (tmp_path / "tiny.toml").write_text(TINY)
    done = run_python("-m", "ebm", "run", "tiny.toml", "--out", "x", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["metrics"] == json.loads((tmp_path / "x" / "metrics.json").read_text())
    assert re.search(r"^step 2 of 2, loss ", done.stderr, re.MULTILINE)
    shown = run_python("-m", "ebm", "list", cwd=tmp_path).stdout
    longest = max(components("energy").values(), key=lambda c: len(c.summary))
    assert f"{longest.name}\t{longest.distribution}\t{longest.summary}\n" in shown


@pytest.mark.parametrize("words", [("list",), ("list", "sampler"), ("show", "langevin"), ("show", "density"), ("eval", "x")])
def test_answers_are_json_where_that_is_asked(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if words[0] == "eval":
        (tmp_path / "tiny.toml").write_text(TINY)
        assert said(capsys, "run", "tiny.toml", "--out", "x")[0] == 0
    status, out, _ = said(capsys, *words, "--json")
    assert status == 0
    assert json.loads(out)


def test_who_has_read_enough_ends_it_quietly(tmp_path):
    words = [sys.executable, "-m", "ebm", "list"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reading:
        reading.stdout.close()
        assert (reading.stderr.read(), reading.wait()) == (b"", 0)


def test_a_summary_that_settings_made_untrue_is_not_shown(tmp_path, capsys):
    (tmp_path / "tiny.toml").write_text(TINY)
    _, _, err = said(capsys, "run", tmp_path / "tiny.toml", "--task.name", "rings", "--out", tmp_path / "x", "--steps", "1")
    assert "Waves." not in err
    assert "changed: task.name = 'rings'" in err
    assert "Waves." not in (tmp_path / "x" / "report.html").read_text()


def test_running_a_recipe_is_a_python_call_too(tmp_path):
    (tmp_path / "base.toml").write_text(TINY)
    (tmp_path / "tiny.toml").write_text(f'baseline = "{tmp_path / "base.toml"}"\n' + TINY)
    run = ebm.run(tmp_path / "tiny.toml", {"fit.steps": 1, "seed": 3}, out=tmp_path / "x")
    assert run.baseline is not None
    assert run.baseline.task is run.task
    assert (run.recipe["seed"], run.recipe["fit"]["steps"]) == (3, 1)
    loaded = ebm.load(tmp_path / "x")
    assert loaded.baseline.metrics == run.baseline.metrics
    assert loaded.baseline is loaded.baseline
    with pytest.raises(ValueError, match="holds a finished run"):
        ebm.run(tmp_path / "tiny.toml", {"fit.steps": 1, "seed": 3}, out=tmp_path / "x")


@pytest.mark.parametrize("name", ["judging", "doctor_is_in_runs", "thinking", "reports", "studies", "recipes", "samplers", "run"])
def test_documented_sub_packages_are_attributes(name):
    if name == "doctor_is_in_runs":
        assert ebm.runs.doctor.diagnose
    else:
        assert getattr(ebm, name)
