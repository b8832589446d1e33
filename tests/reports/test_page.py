"""Laws of reports: the same bytes for the same run, nothing fetched from elsewhere, and verdicts that hit what was planted."""

import base64
import importlib.util
import math
import re
from html.parser import HTMLParser

import pytest
import torch

from ebm.energies import ConvEnergy, MLPEnergy
from ebm.interfaces import Batch, Energy, Task, left
from ebm.objectives import ContrastiveDivergence, Reconstruction
from ebm.reports.chains import picture_of_samples
from ebm.reports.page import write_report
from ebm.runs.history import COLUMNS
from ebm.runs.run import Run
from ebm.samplers import GradientDescent, LangevinDynamics
from ebm.tasks import Digits, Points


class Words(Task):
    """A third party's task without anything to look at: y are logits of words, and there is one split."""

    spec = {"vocab_size": 5}  # noqa: RUF012

    def loader(self, split, batch_size, *, seed=0, workers=0):
        return [Batch(torch.zeros(4, 3, dtype=torch.long))]

    def start(self, batch, *, generator=None):
        return torch.zeros(*batch.target.shape, 5)

    def distance(self, y, batch):
        return y.square().mean(-1)

    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        return {}


class Pairs(Words):
    """Points of a plane that depend on a context, with starts that draw from the global generator."""

    spec = {"dim": 2}  # noqa: RUF012

    def loader(self, split, batch_size, *, seed=0, workers=0):
        side = torch.arange(16.0) % 2 * 2 - 1
        return [Batch(side[:, None] + torch.randn(16, 2) / 4, side)]

    def start(self, batch, *, generator=None):
        return torch.randn(batch.target.shape)


class Sided(Energy):
    """(y - context)², for contexts of one number a row."""

    def forward(self, y, code=None):
        return (y - left(code, y[0] if y.ndim > 2 else y)).square().sum(-1)


def langevin(**keywords):
    return LangevinDynamics(step_size=0.1, steps=12, **keywords)


def curve(f, n=100):
    return list(range(1, n + 1)), [float(f(i / n)) for i in range(1, n + 1)]


def history(**terms):
    """A training history of functions of time, 0 … 1; "a__b" stands for the name a.b."""
    return {("train", name.removeprefix("_").replace("__", ".")): curve(f) for name, f in terms.items()}


def make_run(folder, task, energy, *, sampler=None, objective=None, recipe=None, metrics=None, **terms):
    """A run by hand, with a folder that holds a history."""
    folder.mkdir()
    rows = [
        f"{step},{split},{name},{value!r}"
        for (split, name), (steps, values) in history(**(terms or {"loss": lambda t: 1 - t})).items()
        for step, value in zip(steps, values, strict=True)
    ]
    (folder / "metrics.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    return Run(folder, recipe or {}, energy, sampler or langevin(), objective, task, metrics or {})


def wave(t):
    return 0.3 * math.sin(40 * t)


def moons(folder):
    torch.manual_seed(0)
    energy, sampler = MLPEnergy(2, hidden=(16,)), langevin()
    recipe = {"summary": "Two <b>moons</b>", "seed": 3, "task": {"use": "points"}}
    return make_run(
        folder, Points("moons", n=1000), energy, sampler=sampler, objective=ContrastiveDivergence(sampler), recipe=recipe,
        metrics={"mmd": 0.125}, energy_gap=wave, energy_samples=wave, energy_data=wave, loss=wave, lr=lambda t: 1e-3,
    )  # fmt: skip


def digits(folder):
    torch.manual_seed(0)
    return make_run(folder, Digits(8, n=200), ConvEnergy(1, 8, width=4))


def pairs(folder):
    return make_run(folder, Pairs(), Sided())


def words(folder):
    return make_run(folder, Words(), lambda y: y.square().sum(-1), first_step=lambda t: -t, sampler=langevin())


def titles(page):
    return re.findall("<h2>(.*?)</h2>", page)


def report(run, seed=0):
    write_report(run, seed)
    return (run.path / "report.html").read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize("make", [moons, digits, pairs, words])
def test_a_report_depends_on_the_run_and_the_seed_alone(tmp_path, make):
    import matplotlib

    run = make(tmp_path / "undisturbed")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    page = report(run)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    with matplotlib.rc_context({"font.size": 20, "image.cmap": "hot", "savefig.dpi": 30}):
        again = make(tmp_path / "resumed-elsewhere")
        again.sampler.train()
        assert report(again) == page
        assert matplotlib.rcParams["font.size"] == 20
    assert again.sampler.training
    assert "undisturbed" not in page
    assert (report(run, seed=1) != page) or make is words
    assert {path.name for path in run.path.iterdir()} == {"metrics.csv", "report.html"}


class Links(HTMLParser):
    """Collects what a browser would fetch, and the tags that are left open."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "poster")]
        self.found += [tag] * (tag in ("script", "iframe", "link", "object"))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("make", [moons, digits, words])
def test_a_report_needs_nothing_from_elsewhere(tmp_path, make):
    page = report(make(tmp_path / "run"))
    links = Links()
    links.feed(page)
    assert not links.open
    prefix = "data:image/png;base64,"
    assert links.found
    for link in links.found:
        assert link.startswith(prefix)
        png = base64.b64decode(link.removeprefix(prefix))
        assert png.startswith(b"\x89PNG")
        assert b"tEXt" not in png  # no library's version, no time
    text = re.sub(f'{prefix}[^"]*', "", page)
    assert not re.search(r"https?:|file:|//|url\(|@import|\d\d:\d\d", text)
    assert str(tmp_path) not in text


def test_a_plane_shows_its_landscape_energies_gap_and_recipe(tmp_path):
    page = report(moons(tmp_path / "run"))
    assert titles(page) == [
        "Final metrics", "Data, samples and landscape", "Energies", "Energy gap between data and samples", "Learning curves"
    ]  # fmt: skip
    assert "<td>0.125</td>" in page
    assert "<title>Two &lt;b&gt;moons&lt;/b&gt;</title>" in page
    assert "[task]\nuse = &#34;points&#34;" in page
    assert "energy MLPEnergy" in page
    assert "65 parameters" not in page  # it counts them: (2 + 1) 16 + 16
    assert "64 parameters" in page


def test_images_are_laid_out_in_grids(tmp_path):
    page = report(digits(tmp_path / "run"))
    assert titles(page) == ["Data and samples", "Chains on their way", "Energies", "Learning curves"]


def test_a_context_leaves_no_single_landscape_to_draw(tmp_path):
    page = report(pairs(tmp_path / "run"))
    assert titles(page)[:2] == ["Data, samples and chains", "Energies"]


def test_what_cannot_be_looked_at_gets_curves_and_tables_only(tmp_path):
    page = report(words(tmp_path / "run"))
    assert titles(page) == ["Learning curves"]
    assert "Healthy" in page


def test_columns_of_a_table_get_their_energies(tmp_path):
    task = Points("iris", columns=["petal_length", "petal_width", "sepal_width"])
    page = report(make_run(tmp_path / "run", task, MLPEnergy(3)))
    assert titles(page) == ["Energies", "Learning curves"]


def test_validation_has_its_own_curves(tmp_path):
    run = words(tmp_path / "run")
    with (run.path / "metrics.csv").open("a") as file:
        file.write("50,validation,error,0.5\n75,validation,error,0.25\n100,test,error,0.2\n")
    assert titles(report(run)) == ["Learning curves", "Validation"]


def test_learned_step_sizes_are_listed_once(tmp_path):
    sampler = GradientDescent(step_size=0.25, steps=2, learnable=True)
    task = Points("moons", n=1000)
    objective = Reconstruction(sampler, task)
    run = make_run(tmp_path / "run", task, MLPEnergy(2), sampler=sampler, objective=objective)
    assert report(run).count("<td>0.25</td>") == 1
    run.sampler = langevin()
    assert report(run).count("<td>0.25</td>") == 1


def test_without_matplotlib_a_report_says_how_to_get_pictures(tmp_path, monkeypatch):
    run = moons(tmp_path / "run")
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else find(name))
    page = report(run)
    assert titles(page) == ["Final metrics"]
    assert "pip install &#39;ebm-toolkit[recipes]&#39;" in page
    with pytest.warns(UserWarning, match=r"ebm-toolkit\[recipes\]"):
        assert picture_of_samples(run, torch.zeros(4, 2)) is None


def test_chains_that_run_away_leave_a_report_that_says_so(tmp_path):
    run = make_run(tmp_path / "run", Points("moons", n=1000), lambda y: -y.pow(4).sum(-1), sampler=GradientDescent(0.5, steps=50))
    page = report(run)
    assert titles(page) == ["Learning curves"]
    assert "Training diverged: chains run away" in page
    assert "is not finite" in page


def test_pictures_of_samples(tmp_path):
    plane, image, word = moons(tmp_path / "a"), digits(tmp_path / "b"), words(tmp_path / "c")
    for run, samples in ((plane, torch.randn(7, 2)), (image, torch.rand(7, 1, 8, 8)), (image, torch.rand(1, 1, 8, 8))):
        png = picture_of_samples(run, samples)
        assert png is not None
        assert png.startswith(b"\x89PNG")
        assert png == picture_of_samples(run, samples)
    assert picture_of_samples(word, torch.zeros(4, 3, 5)) is None
    assert picture_of_samples(make_run(tmp_path / "d", None, lambda y: y.sum(-1)), torch.zeros(4, 2)) is None
