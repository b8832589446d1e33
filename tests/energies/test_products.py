"""Products by oneDNN: their values and derivatives are those of torch's, in float64, as often as one likes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebm.energies import TextEBT
from ebm.energies.ebt import products
from ebm.energies.ebt.products import Linear, linear
from ebm.interfaces import energy_and_grad
from tests.helpers import close

SHAPES = [(16, 8, 12), (9, 32, 8), (16, 12, 12), (3, 8, 12), (16, 2, 12)]  # rows, features in, features out


@pytest.fixture
def multiplied(monkeypatch) -> list[tuple[int, ...]]:
    """Notes the shapes (n, k, m) of products that oneDNN computes."""
    op, seen = torch.ops.mkldnn._linear_pointwise, []

    def watched(a: Tensor, b: Tensor, *rest: object) -> Tensor:
        seen.append((*a.shape, len(b)))
        return op(a, b, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", watched)
    monkeypatch.setattr(products, "MANY", 1)
    return seen


def derivatives(x: Tensor, weight: Tensor, bias: Tensor | None, function) -> list[Tensor]:
    """Computes a value and three derivatives, each of all that went before."""
    inputs = [t for t in (x, weight, bias) if t is not None]
    values = [function(x, weight, bias)]
    for _ in range(3):
        values += torch.autograd.grad(
            values[-1].sin().sum(), inputs, create_graph=True, allow_unused=True, materialize_grads=True
        )
    return values


@pytest.mark.parametrize(("rows", "before", "after"), SHAPES)
@pytest.mark.parametrize("biased", [False, True])
def test_derivatives_of_all_orders_are_float64s(rows, before, after, biased, multiplied):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, before), torch.randn(after, before), torch.randn(after) if biased else None
    inputs = [t if t is None else t.requires_grad_() for t in (x, weight, bias)]
    exact = [t if t is None else t.detach().double().requires_grad_() for t in inputs]
    found = derivatives(*inputs, linear)
    for got, expected in zip(found, derivatives(*exact, torch.nn.functional.linear), strict=True):
        assert got.dtype == torch.float32
        close(got.double(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert bool(multiplied) == (min(rows, before, after) >= products.ROWS)


@pytest.mark.parametrize(
    "x", [torch.randn(2, 3, 16), torch.randn(16, 6).t(), torch.randn(1, 16).expand(12, 16), torch.randn(0, 16)]
)
def test_any_layout_is_multiplied(x, multiplied):
    weight = torch.randn(16, 20).t()
    close(linear(x, weight), x @ weight.t(), rtol=1e-4, atol=1e-4)


def test_onednn_gets_no_second_factor_with_gaps(multiplied, monkeypatch):
    op, strides = torch.ops.mkldnn._linear_pointwise, []

    def watched(a: Tensor, b: Tensor, *rest: object) -> Tensor:
        strides.append(b.stride())
        return op(a, b, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", watched)
    x, weight, wide = torch.randn(32, 16), torch.randn(40, 16, requires_grad=True), torch.randn(40, 50)
    linear(x, wide[:, :16])
    linear(x, wide.t()[:16].t())
    out = torch.cat([linear(x, weight), x], -1)  # its gradient comes back as a slice of 40 columns of 56
    out.sin().sum().backward()
    assert len(strides) == 4
    assert all(1 in stride and max(stride) in (16, 32, 40) for stride in strides)
    close(weight.grad, torch.autograd.grad((x @ weight.t()).sin().sum(), weight)[0], rtol=1e-4, atol=1e-4)


def test_small_products_are_torchs_own(multiplied, monkeypatch):
    monkeypatch.setattr(products, "MANY", 16 * 16 * 16)
    linear(torch.randn(15, 16), torch.randn(16, 16))
    assert not multiplied
    linear(torch.randn(16, 16), torch.randn(16, 16))
    assert multiplied == [(16, 16, 16)]


def test_nothing_reaches_a_state_that_nobody_holds(multiplied):
    weight = torch.randn(24, 16, requires_grad=True)
    y = torch.randn(32, 16)
    _, slope = energy_and_grad(lambda y: linear(y, weight).square().sum(-1), y, create_graph=True)
    multiplied.clear()
    slope.square().sum().backward()
    assert multiplied == [(32, 16, 24), (16, 32, 24), (16, 32, 24)]  # not (32, 24, 16), which would lead to y
    assert weight.grad is not None


def test_elsewhere_it_is_torchs_own(multiplied):
    x, layer = torch.randn(16, 16), Linear(16, 16)
    assert layer.double()(x.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(x).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        layer(x)
    assert not multiplied
    layer(x)
    assert multiplied


def test_a_gradient_of_y_alone_computes_no_weights(multiplied):
    x, layers = (
        torch.randn(32, 16, requires_grad=True),
        torch.nn.Sequential(Linear(16, 24, bias=False), Linear(24, 8, bias=False)),
    )
    (slope,) = torch.autograd.grad(layers(x).square().sum(), x, create_graph=True)
    assert multiplied == [(32, 16, 24), (32, 24, 8), (32, 8, 24), (32, 24, 16)]
    multiplied.clear()
    slope.square().sum().backward(inputs=[*layers.parameters()])
    assert (32, 16, 16) not in multiplied
    assert all(p.grad is not None for p in layers.parameters())


def test_nobody_computes_what_nobody_reads():
    energy, run = TextEBT(11, dim=8, depth=2, heads=2), []
    for index, block in enumerate(energy.blocks):
        block.down.register_forward_hook(lambda *_, index=index: run.append(index))
    code = energy.encode(torch.tensor([[1, 2, 3]]))
    energy.extend(code, torch.tensor([[4]]))
    assert run == [0, 0]  # the last block of what is observed has keys and values only
