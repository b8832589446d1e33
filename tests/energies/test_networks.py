"""What is particular to the networks; the laws are in test_laws.py."""

from __future__ import annotations

import pytest
import torch

from ebm.energies import ConvEnergy, MLPEnergy


@pytest.mark.parametrize("size", [4, 5, 7, 8, 15, 28, 32, 33])
def test_conv_takes_any_image_size(size):
    energy = ConvEnergy(3, size, width=4)
    y = torch.randn(2, 3, size, size, requires_grad=True)
    (grad,) = torch.autograd.grad(energy(y).sum(), y)
    assert (grad != 0).all()  # every pixel counts


def test_spectral_norm_bounds_every_layer_but_the_head():
    torch.manual_seed(0)
    energy = ConvEnergy(1, 8, width=4, spectral_norm=True)
    for _ in range(200):  # power iteration, one step a forward
        energy(torch.randn(2, 1, 8, 8))
    energy.eval()
    *body, head = [layer for layer in energy.layers if hasattr(layer, "weight")]
    for layer in body:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=1e-3)
    assert not hasattr(head, "parametrizations")
    before = energy.state_dict()
    energy(torch.randn(2, 1, 8, 8))
    assert all(torch.equal(before[key], value) for key, value in energy.state_dict().items())


def test_heads_have_no_bias():
    for energy in (MLPEnergy(2, hidden=(4,)), ConvEnergy(1, 8, width=2)):
        assert energy.layers[-1].bias is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLPEnergy(0), r"MLPEnergy\(dim=0, hidden=\(128, 128\)\): pass sizes of at least 1"),
        (lambda: MLPEnergy(2, hidden=(4, 0)), "sizes of at least 1"),
        (lambda: MLPEnergy(2, hidden=()), "a hidden layer"),
        (lambda: MLPEnergy(2, activation="relu"), "activation='relu' is unknown: choose one of silu, softplus, gelu, tanh"),
        (lambda: MLPEnergy(2)(torch.zeros(5, 3)), r"y has shape \(5, 3\), but MLPEnergy\(dim=2\) scores \(\*chains, 2\)"),
        (lambda: ConvEnergy(0, 8), r"channels=0, image_size=8, width=32, outputs=1: pass"),
        (lambda: ConvEnergy(1, 3), "at least 4 x 4"),
        (lambda: ConvEnergy(1, (8, 2)), "at least 4 x 4"),
        (lambda: ConvEnergy(1, 8)(torch.zeros(5, 3, 8, 8)), r"y has shape \(5, 3, 8, 8\).*\(\*chains, 1, 8, 8\)"),
        (lambda: ConvEnergy(1, 8)(torch.zeros(8, 8)), r"y has shape \(8, 8\)"),
    ],
)
def test_errors_restate_the_call(make, message):
    with pytest.raises(ValueError, match=message):
        make()
