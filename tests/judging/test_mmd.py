"""Laws of MMD, of its permutation test, of the AUROC, and of the rank correlation."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ebm.judging.mmd import SCALES, median_distance, mmd, mmd_permutation_test
from ebm.judging.ranking import auroc, rank_correlation

sizes = st.integers(2, 8)
seeds = st.integers(0, 2**31)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def slow_mmd(x: torch.Tensor, y: torch.Tensor, width: float) -> float:
    """Computes Eq. (3) of Gretton et al. (2012) as it is written there."""

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        squared = float(((a - b) ** 2).sum())
        return sum(math.exp(-squared / (2 * (scale * width) ** 2)) for scale in SCALES) / len(SCALES)

    m, n = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_y = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


@settings(deadline=None, max_examples=50)
@given(sizes, sizes, st.integers(1, 3), st.floats(0.1, 10), seeds)
def test_mmd_is_equation_3(m, n, d, width, seed):
    points = normal(m + n, d, seed=seed)
    x, y = points[:m], points[m:]
    assert mmd(x, y, bandwidth=width) == pytest.approx(slow_mmd(x, y, width), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(sizes, sizes, seeds, st.floats(1e-3, 1e3))
def test_mmd_knows_neither_order_nor_units(m, n, seed, unit):
    points = normal(m + n, 3, seed=seed)
    x, y = points[:m], points[m:]
    value = mmd(x, y)
    assert mmd(y, x) == pytest.approx(value, abs=1e-12)
    assert mmd(x.flip(0), y) == pytest.approx(value, abs=1e-12)
    assert mmd(unit * x, unit * y) == pytest.approx(value, abs=1e-9)
    assert mmd(x[:, None, :, None], y[:, None, :, None]) == value  # events of any shape


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 30), seeds)
def test_median_distance_is_the_median_over_pairs(n, seed):
    points = normal(2 * n, 2, seed=seed)
    assert median_distance(points[:n], points[n:]) == pytest.approx(torch.pdist(points).median().item())


def test_mmd_is_unbiased():
    values = torch.tensor([mmd(normal(20, 2, seed=seed), normal(20, 2, seed=seed + 500)) for seed in range(400)])
    assert abs(values.mean()) < 4 * values.std() / 20
    assert values.min() < 0


def test_equal_points_have_no_distance():
    x = torch.ones(5, 2)
    assert mmd(x, x) == 0
    assert mmd_permutation_test(x, x, generator=seeded()) == (0, 1)


def test_p_values_are_uniform_where_the_distributions_agree():
    samples = [(normal(20, 2, seed=2 * seed), normal(15, 2, seed=2 * seed + 1), seeded(seed)) for seed in range(300)]
    ps = [mmd_permutation_test(x, y, permutations=199, generator=g).p for x, y, g in samples]
    assert stats.kstest(ps, "uniform").pvalue > 0.01
    # Every p is a whole multiple of 1/200, and the level holds at the usual thresholds.
    assert all(round(200 * p) == pytest.approx(200 * p) and p > 0 for p in ps)
    for level in (0.05, 0.1, 0.5):
        assert stats.binomtest(sum(p <= level for p in ps), 300, level).pvalue > 0.01


def test_few_points_keep_the_level():
    """Deals that repeat the observed one must count as reaching it: with 2 + 2 points, a third of them do."""
    x, y = torch.tensor([[0.0], [0.1]]), torch.tensor([[5.0], [5.3]])
    assert mmd_permutation_test(x, y, permutations=3000, generator=seeded()).p == pytest.approx(1 / 3, abs=0.04)


@pytest.mark.parametrize("change", [lambda y: y + 0.5, lambda y: 1.5 * y, lambda y: y * torch.tensor([1.0, 0.3])])
def test_differences_are_detected(change):
    x, y = normal(200, 2), change(normal(200, 2, seed=1))
    test = mmd_permutation_test(x, y, permutations=99, generator=seeded())
    assert test.p == 0.01
    assert test.mmd == pytest.approx(mmd(x, y), abs=1e-12)


def test_tests_are_a_function_of_their_generator():
    x, y = normal(30, 2), normal(30, 2, seed=1)
    before = torch.get_rng_state()
    first, again, other = (mmd_permutation_test(x, y, generator=seeded(seed)) for seed in (0, 0, 1))
    assert first == again
    assert first.p != other.p
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("x", "y", "keywords", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(5, 2), {}, r"x has shape \(0, 2\)"),
        (torch.zeros(5, 2), torch.zeros(1, 2), {}, "y has shape .* at least two points"),
        (torch.zeros(5), torch.zeros(5), {}, r"x has shape \(5,\)"),
        (torch.zeros(5, 2), torch.zeros(5, 3), {}, "cannot be compared"),
        (torch.tensor([[0.0], [math.nan]]), torch.zeros(5, 1), {}, r"x is NaN .* 1 of 2 points \(point 1"),
        (torch.zeros(5, 1), torch.tensor([[math.inf], [0.0]]), {}, "y is NaN or infinite"),
        (torch.zeros(5, 1), torch.zeros(5, 1), {"bandwidth": 0.0}, "bandwidth=0.0"),
        (torch.zeros(5, 1), torch.zeros(5, 1), {"bandwidth": math.nan}, "bandwidth=nan"),
        (torch.zeros(5, 1), torch.zeros(5, 1), {"permutations": 0}, "permutations=0"),
    ],
)
def test_errors_name_what_is_wrong(x, y, keywords, message):
    with pytest.raises(ValueError, match=message):
        mmd_permutation_test(x, y, **keywords)


energies = st.lists(st.sampled_from([-1e30, -1000.0, -1.0, 0.0, 1e-8, 0.5, 1.0, 50.0, 1000.0, 1001.0, math.inf]), min_size=1)


@settings(deadline=None, max_examples=50)
@given(energies, energies)
def test_auroc_counts_pairs(inside, outside):
    wins = sum((b > a) + 0.5 * (b == a) for a in inside for b in outside) / (len(inside) * len(outside))
    inside, outside = torch.tensor(inside), torch.tensor(outside)
    assert auroc(inside, outside) == pytest.approx(wins, abs=1e-6)
    assert auroc(outside, inside) == pytest.approx(1 - wins, abs=1e-6)


def test_auroc_sees_differences_that_a_sigmoid_would_lose():
    inside = 1e4 + torch.arange(500.0)
    assert auroc(inside, inside + 1000) == 1


@pytest.mark.parametrize(
    ("inside", "outside", "error"), [([], [1.0], ValueError), ([1.0], [], ValueError), ([1.0], [math.nan], FloatingPointError)]
)
def test_auroc_needs_energies(inside, outside, error):
    with pytest.raises(error):
        auroc(torch.tensor(inside), torch.tensor(outside))


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ImportError, match=r"torchmetrics is not installed: pip install 'ebm-toolkit\[recipes\]'"):
        auroc(torch.zeros(1), torch.zeros(1))


# ------------------------------------------------------------------------------------------------------ rank correlation


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 12), st.integers(1, 4), st.integers(1, 6), seeds)
def test_a_rank_correlation_is_spearmans(rows, columns, kinds, seed):
    x = torch.randint(kinds + 1, (rows, columns), generator=seeded(seed))  # with ties
    y = x + normal(rows, columns, seed=seed + 1)
    value, low, high = rank_correlation(x, y, resamples=50)
    assert -1 <= low <= high <= 1
    if len(x.unique()) == 1:
        assert (value, low, high) == (0, -1, 1)
    else:
        assert value == pytest.approx(stats.spearmanr(x.flatten(), y.flatten()).statistic, abs=1e-9)
        assert rank_correlation(x, -y, resamples=50)[0] == -value
        assert rank_correlation(y, x, resamples=50) == (value, low, high)
    assert rank_correlation(y.exp(), y**3)[0] == 1  # orders alone count


def slow_interval(x: torch.Tensor, y: torch.Tensor, resamples: int) -> list[float]:
    """Draws whole rows of ranks again, one sample after the other."""
    ranks = [torch.from_numpy(stats.rankdata(values.flatten())).view(x.shape) for values in (x, y)]
    drawn = torch.randint(len(x), (resamples, len(x)), generator=seeded())
    found = [torch.corrcoef(torch.stack([values[rows].flatten() for values in ranks]))[0, 1] for rows in drawn]
    return torch.stack(found).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


def test_an_interval_is_a_bootstrap_over_rows():
    x = normal(12, 3)
    y = x + 2 * normal(12, 3, seed=1)
    _, *interval = rank_correlation(x, y, resamples=200)
    assert interval == pytest.approx(slow_interval(x, y, 200), abs=1e-9)


@pytest.mark.parametrize("columns", [1, 4])
def test_an_interval_holds_nothing_as_often_as_it_says(columns):
    """Also where what is in a row depends on each other, as a window's frames do."""
    covered, narrow = [], []
    for seed in range(200):
        x, y = (normal(50, 1, seed=2 * seed + k) + 0.3 * normal(50, columns, seed=1000 + 2 * seed + k) for k in (0, 1))
        value, low, high = rank_correlation(x, y, seed=seed)
        assert low < value < high
        covered.append(low <= 0 <= high)
        narrow.append(abs(value) <= 1.96 / (50 * columns) ** 0.5)
    assert 180 <= sum(covered) <= 198
    assert columns == 1 or sum(narrow) < 160  # taking frames for independent would claim too much


def test_one_row_says_nothing_about_others():
    x = torch.arange(6.0)[None]
    assert rank_correlation(x, x) == (1, -1, 1)
    assert rank_correlation(normal(20, 1), normal(20, 1))[1] > 0.9


def test_a_rank_correlation_is_a_function_of_its_seed():
    x, y = normal(20, 2), normal(20, 2, seed=1)
    before = torch.get_rng_state()
    first, again, other = (rank_correlation(x, y, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first[0] == other[0]
    assert first[1:] != other[1:]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("values", [torch.zeros(5, 2), torch.full((5, 2), 1e9), torch.zeros(1, 1)])
def test_what_does_not_vary_has_no_correlation(values):
    other = normal(*values.shape)
    assert rank_correlation(values, other) == rank_correlation(other, values) == (0.0, -1.0, 1.0)
