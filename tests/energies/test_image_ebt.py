"""Laws of the bidirectional Energy-Based Transformers, over sizes, channels and conditions."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st

from ebm.energies import ImageEBT, ResidualImageEBT
from ebm.interfaces import energy_and_grad
from ebm.samplers import GradientDescent
from ebm.thinking import think
from tests.energies.test_laws import stirred
from tests.helpers import close, laws, normal, seeds

both = pytest.mark.parametrize("kind", [ImageEBT, ResidualImageEBT])


def make(kind, size=(4, 6), patch=2, channels=2, seed=0, **options):
    torch.manual_seed(seed)
    return stirred(kind(size, patch, channels, dim=8, depth=2, heads=2, **options)).double()


def patches(y, side=2):
    return rearrange(y, "... c (h p) (w q) -> ... (h w) c p q", p=side, q=side)


@both
@laws
@given(seed=seeds, rows=st.integers(1, 3), columns=st.integers(1, 3), patch=st.integers(1, 3), channels=st.integers(1, 5))
def test_any_size_that_patches_divide_and_any_channels(kind, seed, rows, columns, patch, channels):
    energy = make(kind, (rows * patch, columns * patch), patch, channels)
    y = normal(2, 3, channels, rows * patch, columns * patch, seed=seed)
    assert energy.patch_energies(y).shape == (2, 3, rows, columns)
    close(energy(y), energy.patch_energies(y).mean((-2, -1)))


@both
@laws
@given(seed=seeds)
def test_an_image_s_energy_and_gradient_are_its_own(kind, seed):
    energy, y = make(kind), normal(5, 2, 4, 6, seed=seed)
    together, grads = energy_and_grad(energy.given(None), y)
    for row in range(5):
        alone, grad = energy_and_grad(energy.given(None), y[row : row + 1])
        close(alone[0], together[row])
        close(grad[0], grads[row])
    close(energy(y[0]), together[0])  # an image without any axis of chains


@both
@laws
@given(seed=seeds)
def test_permuting_patches_with_their_positions_permutes_patch_energies(kind, seed):
    energy, y = make(kind), normal(3, 2, 4, 6, seed=seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed % 2**31))
    before = energy.patch_energies(y).flatten(1)
    moved = rearrange(patches(y)[:, order], "b (h w) c p q -> b c (h p) (w q)", h=2)
    assert not torch.allclose(energy.patch_energies(moved).flatten(1), before[:, order])  # the position counts
    energy.positions = energy.positions[order]
    close(energy.patch_energies(moved).flatten(1), before[:, order])


@both
@pytest.mark.parametrize(("condition", "size"), [("class", 4), ("embedding", 5)])
def test_a_condition_moves_the_energy_and_is_encoded_for_each_row(kind, condition, size):
    energy = make(kind, condition=condition, condition_size=size)
    context = torch.tensor([0, 3, 1]) if condition == "class" else normal(3, size, seed=2)
    y = normal(4, 3, 2, 4, 6, seed=1)  # four candidates of three rows
    values = energy.given(context)(y)
    assert values.shape == (4, 3)
    for row in range(3):
        close(energy.given(context[row : row + 1])(y[:, row : row + 1])[:, 0], values[:, row])
    assert not torch.allclose(energy.given(context.flip(0))(y), values)
    values.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in energy.parameters())
    with pytest.raises(ValueError, match=r"NoneType: pass labels \(B,\) or embeddings"):
        energy.given(None)


@both
def test_bfloat16_stays_near_float64(kind):
    energy, y = make(kind), normal(3, 2, 4, 6, seed=1)
    exact, grad = energy_and_grad(energy.given(None), y)
    rough, rough_grad = energy_and_grad(energy.bfloat16().given(None), y.bfloat16())
    assert rough.dtype == rough_grad.dtype == torch.bfloat16
    assert (rough.double() - exact).abs().max() < 0.05 * exact.abs().max()
    assert (rough_grad.double() - grad).norm() < 0.1 * grad.norm()


@both
def test_first_energies_are_known(kind):
    energy, y = kind(8, 4, 3, dim=8, depth=1, heads=2), normal(2, 3, 8, 8, seed=0).float()
    expected = torch.zeros(2) if kind is ImageEBT else y.square().sum((-3, -2, -1)) / 8
    torch.testing.assert_close(energy(y).detach(), expected)


def test_a_natural_step_at_first_takes_everything_off():
    energy, y = ResidualImageEBT(8, 4, 3, dim=8, depth=1, heads=2), torch.randn(2, 3, 8, 8)
    thought = think(energy, GradientDescent(float(energy.natural_step)), start=y[None])
    torch.testing.assert_close(thought.y, torch.zeros_like(y), atol=1e-5, rtol=0)


def test_its_gradient_is_the_residual_and_its_transposed_jacobian():
    """∇E = (r − Jᵀ r) / patches with r = y − N(y): the oracle computes J whole."""
    energy, y = make(ResidualImageEBT), normal(1, 2, 4, 6, seed=3)

    def clean(y):
        read = energy.head(energy.consider(y, energy.encode()))
        return rearrange(read, "b (h w) (c p q) -> b c (h p) (w q)", h=2, p=2, q=2)

    jacobian = torch.autograd.functional.jacobian(clean, y).reshape(48, 48)
    residual = (y - clean(y)).flatten()
    _, grad = energy_and_grad(energy.given(None), y)
    close(grad.flatten(), (residual - jacobian.T @ residual) / 6)


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (5, 6)}, r"image_size=\(5, 6\), patch_size=2.*patches tile the image"),
        ({"patch": 0}, "patch_size=0"),
        ({"condition": "text"}, "condition='text'"),
        ({"condition": "class"}, "condition='class', condition_size=None"),
        ({"condition": "none", "condition_size": 3}, "condition='none', condition_size=3"),
    ],
)
def test_what_cannot_work_is_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        make(kind, **options)


@both
def test_another_size_is_refused_at_the_call(kind):
    with pytest.raises(ValueError, match=r"y has shape \(1, 2, 4, 5\).*scores images \(\*chains, \(2, 4, 6\)\)"):
        make(kind)(torch.zeros(1, 2, 4, 5).double())
