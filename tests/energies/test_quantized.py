"""Laws of what a JPEG file says: its cells hold what it was made of, and solving projects onto them."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

from ebm.energies import GradientStepUNet
from ebm.energies.restoration.quantized import Quantized
from ebm.interfaces import energy_and_grad, evaluate
from ebm.samplers import Monotone, ProximalGradient
from tests.helpers import close, laws, normal, seeds

blocks = st.integers(1, 3)


def seen(height, width, seed=0):
    return torch.randint(40, 216, (height, width), generator=torch.Generator().manual_seed(seed))


def table(seed=0, low=1, high=60):
    return torch.randint(low, high, (8, 8), generator=torch.Generator().manual_seed(seed)).double()


@laws
@given(seed=seeds, rows=blocks, columns=blocks, step=st.floats(0.1, 10.0), std=st.floats(0.1, 100.0))
def test_a_step_is_solved_coefficient_by_coefficient(seed, rows, columns, step, std):
    """The oracle goes through blocks, by SciPy's DCT: u moves towards its interval by w / (1 + w) of what it lies outside."""
    picture, q = seen(8 * rows, 8 * columns, seed), table(seed)
    energy, y = Quantized(picture, q, std), 0.3 * normal(1, 1, 8 * rows, 8 * columns, seed=seed)
    moved, expected, value = energy.prox(y, step), y.clone(), 0.0
    weight = step / (std / 127.5) ** 2
    for top in range(0, 8 * rows, 8):
        for left in range(0, 8 * columns, 8):
            place = (0, 0, slice(top, top + 8), slice(left, left + 8))
            centre = q.numpy() * np.round(dctn(picture[place[2:]].numpy() - 128.0, norm="ortho") / q.numpy())
            u = dctn((y[place].numpy() + 1) * 127.5 - 128, norm="ortho")
            outside = (u - centre) - np.clip(u - centre, -q.numpy() / 2, q.numpy() / 2)
            value += np.square(outside).sum() / (2 * std**2)
            target = torch.from_numpy(dctn(u - weight / (1 + weight) * outside, type=3, norm="ortho"))
            expected[place] = (target + 128) / 127.5 - 1
    close(energy(y), torch.tensor([value]), rtol=1e-4, atol=1e-6)
    close(moved, expected, rtol=1e-4, atol=1e-5)


@laws
@given(seed=seeds, rows=blocks, columns=blocks, rest=st.integers(0, 7))
def test_solving_with_a_small_deviation_projects_onto_the_cells(seed, rows, columns, rest):
    picture = seen(8 * rows, 8 * columns + rest, seed)
    energy, y = Quantized(picture, table(seed), 1e-4), normal(2, 1, *picture.shape, seed=seed)
    assert (energy((picture / 127.5 - 1)[None, None].double()) == 0).all() or (table(seed) < 2).any()
    found = energy.prox(y, 1.0)
    if not rest:
        close(energy.prox(found, 1.0), found, rtol=1e-4, atol=1e-5)
        assert (energy._outside(energy._coefficients(found)).abs() < 0.01).all()
    assert (evaluate(energy, found) < evaluate(energy, y)).all()


@pytest.mark.parametrize("quality", [10, 50, 80])
def test_what_a_file_was_made_of_lies_in_its_cells(quality):
    rows, columns = np.mgrid[:40, :44]
    noise = np.random.default_rng(0).normal(0, 10, (40, 44))
    original = (128 + 70 * np.sin(rows / 5) * np.cos(columns / 4) + noise).clip(1, 254).astype("uint8")
    held = BytesIO()
    Image.fromarray(original).save(held, "JPEG", quality=quality)
    with Image.open(held) as file:
        energy = Quantized(torch.from_numpy(np.array(file)), torch.tensor(file.quantization[0]).reshape(8, 8))
    y = torch.from_numpy(original).double()[None, None] / 127.5 - 1
    outside = energy._outside(energy._coefficients(y))[0, 0, :, :5]  # whole blocks
    assert outside.abs().max() < 0.3  # of 255: encoders compute in whole numbers
    assert energy._outside(energy._coefficients(y + 0.2 * normal(*y.shape)))[0, 0].abs().max() > 2


@laws
@given(seed=seeds, step=st.floats(0.1, 10.0), std=st.floats(0.5, 50.0))
def test_no_accepted_step_raises_a_prior_and_cells(seed, step, std):
    torch.manual_seed(0)
    prior, y = GradientStepUNet(1, (4, 6), (1, 1)).double(), normal(2, 1, 16, 8, seed=seed)
    energy = (prior + Quantized(seen(16, 8, seed), table(seed, 20), std)).given(0.3)
    before = evaluate(energy, y)
    for state, _ in Monotone(ProximalGradient(step, steps=3), halvings=12).trajectory(energy, y):
        assert (evaluate(energy, state.y) <= before * (1 + 1e-12)).all()
        before = evaluate(energy, state.y)


def test_the_gradient_is_the_share_outside():
    energy, y = Quantized(seen(8, 8), table(), 10.0), normal(1, 1, 8, 8)
    _, grad = energy_and_grad(energy, y)
    close(y - energy.prox(y, 1e-6), 1e-6 * grad, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Quantized(seen(8, 8), torch.zeros(8, 8)), r"table \(8, 8\) of 0 at least, std=0.01: pass"),
        (lambda: Quantized(seen(8, 8), table(), 0), "std=0: pass"),
        (lambda: Quantized(seen(8, 8)[None], table()), r"seen \(1, 8, 8\)"),
        (
            lambda: Quantized(seen(8, 8), table())(torch.zeros(1, 1, 8, 16)),
            r"y has shape \(1, 1, 8, 16\), and a file of \(8, 8\)",
        ),
        (lambda: Quantized(seen(8, 8), table())(torch.zeros(1, 3, 8, 8)), r"pass \(\*chains, 1, H, W\)"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
