"""Laws of Points, and of what it shares with other tasks of independent rows."""

import inspect
import math
import os
import subprocess
import sys

import datasets
import docstring_parser
import pandas as pd
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm.interfaces import Batch, Prediction
from ebm.registry import component
from ebm.tasks import Digits, Points
from ebm.tasks.points import SHAPES, TABLES
from ebm.tasks.rows import draw_splits

NAMES = [*SHAPES, *TABLES]
laws = settings(deadline=None, max_examples=25)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def table(tmp_path):
    """A table of three numeric columns and a text, 60 rows."""
    frame = pd.DataFrame({"lon": torch.randn(60, generator=seeded()).tolist(), "row": range(60), "word": ["a"] * 60})
    frame["lat"] = 40 + 8 * frame["lon"] ** 2
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame.to_parquet(tmp_path / "table.parquet")
    return frame, tmp_path


class FromTraining:
    """Predicts by drawing training rows: as good as a density can be."""

    def __init__(self, task):
        self.points = task.rows("train").target

    def predict(self, batch, start, *, generator=None):
        assert not torch.is_grad_enabled()
        order = torch.randperm(len(self.points), generator=generator)
        return Prediction(self.points[order[: len(start)]], None, 1)


class Still:
    """Predicts the start, with its squared norm for an energy."""

    def predict(self, batch, start, *, generator=None):
        return Prediction(start, start.square().sum(-1), 1)


# ----------------------------------------------------------------------------------------------------------------- splits


@laws
@given(st.integers(1, 500), st.none() | st.integers(1, 600), st.integers(0, 2**31))
def test_splits_are_disjoint_and_fixed_by_the_seed(count, n, seed):
    splits = draw_splits(count, n, seed)
    rows = torch.cat(list(splits.values())).tolist()
    assert len(rows) == len(set(rows)) == min(count, n or count)
    assert set(rows) <= set(range(count))
    torch.manual_seed(seed % 7)
    assert all(torch.equal(splits[split], again) for split, again in draw_splits(count, n, seed).items())


@pytest.mark.parametrize("name", NAMES)
def test_points_are_a_function_of_the_seed(name):
    before = torch.get_rng_state()
    first, again, other = Points(name, 300), Points(name, 300), Points(name, 300, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for split in first.splits:
        assert torch.equal(first.rows(split).target, again.rows(split).target)
        assert not torch.equal(first.rows(split).target, other.rows(split).target)


@pytest.mark.parametrize("name", NAMES)
def test_points_are_standardised_by_the_training_split(name, float64):
    task = Points(name, 500)
    train = task.rows("train").target
    assert train.dtype == torch.float64
    assert train.shape[1] == task.spec["dim"] == 2
    torch.testing.assert_close(train.mean(0), torch.zeros(2), atol=1e-12, rtol=0)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(2))


def test_default_points_suffice_for_two_halves_of_2000():
    assert len(Points().rows("test").target) >= 4000


# ----------------------------------------------------------------------------------------------------------------- shapes


def drawn(name: str) -> torch.Tensor:
    task = Points(name, 4000, noise=0.0)
    return torch.cat([task.mean + task.std * rows.target for rows in task.splits.values()])


def test_moons_are_two_half_circles(float64):
    x, y = drawn("moons").T
    upper = (x.hypot(y) - 1).abs().lt(1e-9) & (y >= -1e-9)
    lower = ((1 - x).hypot(0.5 - y) - 1).abs().lt(1e-9) & (y <= 0.5 + 1e-9)
    assert (upper | lower).all()
    assert upper.double().mean() == pytest.approx(0.5, abs=0.05)


def test_a_checkerboard_has_eight_equal_squares(float64):
    corners = drawn("checkerboard").floor().long()
    assert (corners.sum(1) % 2 == 0).all()
    squares, counts = corners.unique(dim=0, return_counts=True)
    assert len(squares) == 8
    assert squares.min() == 0
    assert squares.max() == 3
    assert (counts - 500).abs().max() < 100


def test_rings_have_three_radii(float64):
    radii, counts = drawn("rings").norm(dim=1).round(decimals=9).unique(return_counts=True)
    assert radii.tolist() == [1, 2, 3]
    assert (counts - 4000 / 3).abs().max() < 200


def test_eight_gaussians_have_eight_centres(float64):
    centres = drawn("eight-gaussians").round(decimals=9).unique(dim=0)
    assert len(centres) == 8
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(8))


def test_noise_is_a_standard_deviation(float64):
    task = Points("eight-gaussians", 4000, noise=0.02)
    points = task.mean + task.std * task.rows("train").target
    assert (points.norm(dim=1) - 1).std().item() == pytest.approx(0.02, rel=0.1)


# ----------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("columns", [["lon", "lat"], ["row"], ["lat", "row", "lon"]])
def test_samples_map_back_to_the_table(table, kind, columns, float64):
    frame, folder = table
    task = Points(folder / f"table.{kind}", columns=columns)
    assert task.spec == {"dim": len(columns)}
    back = torch.cat([task.mean + task.std * rows.target for rows in task.splits.values()])
    expected = sorted(frame[columns].itertuples(index=False, name=None))
    torch.testing.assert_close(torch.tensor(sorted(map(tuple, back.tolist()))), torch.tensor(expected, dtype=back.dtype))


def test_n_caps_a_table(table):
    assert sum(len(rows.target) for rows in Points(table[1] / "table.csv", n=10, columns=["row"]).splits.values()) == 10


def test_a_column_may_change_its_type_late(tmp_path):
    path = tmp_path / "late.csv"
    path.write_text("a\n" + "".join(f"{i}\n" for i in range(12_000)) + "0.5\n")
    assert sum(len(rows.target) for rows in Points(path, columns=["a"]).splits.values()) == 12_001


def test_a_path_is_no_pattern(tmp_path):
    (tmp_path / "a[1]*.csv").write_text("a\n1\n2\n3\n")
    assert Points(tmp_path / "a[1]*.csv", columns="a").spec == {"dim": 1}


def test_airports_are_real_places(float64):
    task = Points("airports")
    assert sum(len(rows.target) for rows in task.splits.values()) == 3376
    assert -125 < task.mean[0] < -70  # longitude: most lie in the United States
    assert 25 < task.mean[1] < 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows could be read as csv"),
        ("a,b\n", "no rows could be read as csv"),
        ("a,b\n1,2\n3,4,5\n", "no rows could be read as csv .*line 3"),
        ("a,b\n1,2\n3,\ninf,4\n5,6\n", r"bad.csv, column 'b': 1 of 4 values are no finite numbers, in rows 1 \(nan\)"),
        ("b,a\n1,2\n3,4\ninf,4\n5,6\n", r"column 'b': 1 of 4 values are no finite numbers, in rows 2 \(inf\)"),
        ("b\n1\nx\n", r"column 'b': 1 of 2 values are no finite numbers, in rows 1 \('x'\)"),
        ("lat,bb\n1,2\n", r"bad.csv has no column 'b': did you mean 'bb'\? Known: lat, bb"),
        ("a,b\n1,2\n2,2\n3,2\n", r"bad.csv: \['b'\] are constant over the \d training rows"),
    ],
)
def test_bad_files_name_file_column_and_rows(tmp_path, content, message):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        Points(tmp_path / "bad.csv", columns=["b"])


def test_a_broken_parquet_file_says_so(tmp_path):
    (tmp_path / "bad.parquet").write_text("a,b")
    with pytest.raises(ValueError, match="no rows could be read as parquet"):
        Points(tmp_path / "bad.parquet", columns=["a"])
    with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
        Points(tmp_path / "none.parquet", columns=["a"])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"name": "moon"}, r"unknown name 'moon': did you mean 'moons'\? Known: moons, .*, or a path"),
        ({"name": "iris", "columns": ["petal_lenght"]}, "did you mean 'petal_length'"),
        ({"name": "table.csv"}, "columns=None: name the columns of table.csv"),
        ({"columns": ["x"]}, "columns is a keyword of tables"),
        ({"name": "iris", "noise": 0.1}, "noise is a keyword of synthetic points"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"noise": math.nan}, "noise=nan"),
        ({"n": 0}, "n=0"),
        ({"n": None}, "n=None"),
        ({"name": "iris", "n": 0}, "n=0"),
        ({"n": 1}, "constant over the 1 training rows"),
    ],
)
def test_errors_restate_the_call(keywords, message):
    with pytest.raises(ValueError, match=message):
        Points(**keywords)


@pytest.mark.parametrize("package", ["datasets", "vega_datasets"])
def test_missing_packages_name_their_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"^{package} is not installed: pip install 'ebm-toolkit\[recipes\]'"):
        Points("airports")


def test_reading_keeps_progress_bars_as_they_were():
    assert not datasets.are_progress_bars_disabled()
    Points("iris")
    assert not datasets.are_progress_bars_disabled()


def test_reading_needs_no_network_leaves_nothing_and_importing_is_light(tmp_path):
    script = """
import socket, sys
def refuse(*arguments, **keywords): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
import ebm.tasks
heavy = {"datasets", "pandas", "sklearn", "torchmetrics", "mlxtend", "vega_datasets"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
ebm.tasks.Points("airports"), ebm.tasks.Points("iris"), ebm.tasks.Digits(8), ebm.tasks.Digits(28)
assert not {"sklearn", "mlxtend", "vega_datasets"} & set(sys.modules)
"""
    home, spare = tmp_path / "home", tmp_path / "spare"
    spare.mkdir()
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "TMPDIR": str(spare)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not home.exists()
    assert not list(spare.iterdir())
    assert not done.stdout + done.stderr


# ----------------------------------------------------------------------------------------------------------------- loader


def epochs(loader, count=2):
    return torch.stack([torch.cat([batch.target for batch in loader]) for _ in range(count)])


def test_training_order_depends_on_the_seed_alone():
    task = Points(n=200)
    torch.manual_seed(0)
    first = epochs(task.loader("train", 10, seed=3))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(epochs(task.loader("train", 10, seed=3)), first)
    assert torch.equal(epochs(task.loader("train", 10, seed=3, workers=1)), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(epochs(task.loader("train", 10, seed=4)), first)
    assert not torch.equal(first[0], first[1])
    rows = task.rows("train").target
    assert all(torch.equal(epoch.sort(0).values, rows.sort(0).values) for epoch in first)


@laws
@given(st.integers(10, 60), st.integers(1, 80), st.integers(0, 9))
def test_batches_cover_a_split(n, size, seed):
    task = Points(n=n)
    for split in ("train", "validation", "test"):
        rows, batches = task.rows(split).target, list(task.loader(split, size, seed=seed))
        assert all(isinstance(batch, Batch) and batch.context is None for batch in batches)
        sizes = [len(batch.target) for batch in batches]
        if split == "train":
            assert sizes == [size] * (len(rows) // size) or sizes == [len(rows)]
        else:
            assert torch.equal(torch.cat([batch.target for batch in batches]), rows)
            assert set(sizes[:-1]) <= {size}


@pytest.mark.parametrize(
    ("split", "size", "message"),
    [
        ("tset", 8, r"unknown split 'tset': did you mean 'test'\? Known: train, validation, test"),
        ("train", 0, "batch_size=0"),
        ("validation", 8, r"split 'validation' is empty, the rows are \{'train': 3"),
    ],
)
def test_loader_errors(split, size, message):
    with pytest.raises(ValueError, match=message):
        Points(n=4).loader(split, size)


# ------------------------------------------------------------------------------------------------------- start, distance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_start_is_standard_normal(dtype):
    batch, before = Batch(torch.zeros(5000, 2, dtype=dtype)), torch.get_rng_state()
    start = Points(n=10).start(batch, generator=seeded())
    assert start.dtype == dtype
    assert torch.equal(start, Points(n=10).start(batch, generator=seeded()))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(start.mean(0), torch.zeros(2, dtype=dtype), atol=0.06, rtol=0)
    torch.testing.assert_close(start.std(0), torch.ones(2, dtype=dtype), atol=0.06, rtol=0)


@laws
@given(st.lists(st.integers(1, 3), max_size=2), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_distance_is_a_mean_square_and_differentiable(more, n, d, seed):
    target = torch.randn(n, d, generator=seeded(seed), dtype=torch.float64)
    y = torch.randn(*more, n, d, generator=seeded(seed + 1), dtype=torch.float64, requires_grad=True)
    task, batch = Points(n=10), Batch(target)
    value = task.distance(y, batch)
    assert value.shape == (*more, n)
    torch.testing.assert_close(value, ((y - target) ** 2).mean(-1))
    assert torch.equal(task.distance(target, batch), torch.zeros(n, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda y: task.distance(y, batch), y)


def test_distance_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"y has shape \(5, 2\), the target \(4, 2\)"):
        Points(n=10).distance(torch.zeros(5, 2), Batch(torch.zeros(4, 2)))


# --------------------------------------------------------------------------------------------------------------- evaluate


@pytest.mark.parametrize("name", NAMES)
def test_data_pass_for_data(name):
    task = Points(name, 2000)
    result = task.evaluate(FromTraining(task), generator=seeded())
    assert list(result) == ["mmd", "mmd_reference", "mmd_p"]
    assert result["mmd_p"] > 0.05


@pytest.mark.parametrize("name", [*SHAPES, "airports"])
def test_noise_does_not_pass_for_data(name):
    result = Points(name, 3000).evaluate(Still(), limit=500, generator=seeded())
    assert result["mmd_p"] < 0.01
    assert result["mmd"] > result["mmd_reference"]
    assert result["energy"] == pytest.approx(2, abs=0.3)


def test_evaluation_is_a_function_of_its_generator():
    task, before = Points(n=1000), torch.get_rng_state()
    first, again, other = (task.evaluate(Still(), split="validation", generator=seeded(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)
    assert all(type(value) is float for value in first.values())


def test_evaluation_moves_so_many_chains_at_a_time():
    sizes = []

    class Recorder(Still):
        def predict(self, batch, start, *, generator=None):
            assert batch.target.shape == start.shape
            sizes.append(len(start))
            return super().predict(batch, start, generator=generator)

    Points(n=12_000).evaluate(Recorder(), limit=1100, generator=seeded())
    assert sizes == [1000, 100]


def test_evaluation_stops_at_what_is_not_finite_or_shaped():
    class Broken(Still):
        def predict(self, batch, start, *, generator=None):
            start[3] = math.nan
            return super().predict(batch, start, generator=generator)

    class Short(Still):
        def predict(self, batch, start, *, generator=None):
            return super().predict(batch, start[1:], generator=generator)

    class Summed(Still):
        def predict(self, batch, start, *, generator=None):
            return Prediction(start, start.sum(), 1)

    task = Points(n=100)
    with pytest.raises(ValueError, match=r"energies have shape \(\), those of y \(10, 2\) have \(10,\)"):
        task.evaluate(Summed())
    with pytest.raises(FloatingPointError, match=r"not finite in 1 of 10 chains \(chain 3\)"):
        task.evaluate(Broken())
    with pytest.raises(ValueError, match=r"\(9, 2\) for targets of \(10, 2\)"):
        task.evaluate(Short())
    for keywords in ({"limit": 1}, {"limit": -1}, {"split": "tset"}):
        with pytest.raises(ValueError, match=r"halves of at least two rows|unknown split"):
            task.evaluate(Still(), **keywords)


# ------------------------------------------------------------------------------------------------- what recipes rely on


@pytest.mark.parametrize("task", [Points, Digits])
def test_parameters_are_documented(task):
    parsed = docstring_parser.parse(task.__doc__, style=docstring_parser.DocstringStyle.GOOGLE)
    assert parsed.short_description
    names = list(inspect.signature(task).parameters)
    assert {p.arg_name: bool(p.description) for p in parsed.params} == dict.fromkeys(names, True)


def test_toml_builds_tasks():
    points, digits = (pydantic.validate_call(task.__init__) for task in (Points, Digits))
    task = Points.__new__(Points)
    points(task, name="iris", n=60, columns=["sepal_length", "petal_width", "petal_length"])
    assert task.spec == {"dim": 3}
    for build, keywords in ((points, {"n": "many"}), (points, {"columns": [1]}), (digits, {"size": 16})):
        with pytest.raises(pydantic.ValidationError):
            build(None, **keywords)


def test_tasks_are_registered():
    assert (component("task", "points").factory, component("task", "digits").factory) == (Points, Digits)
