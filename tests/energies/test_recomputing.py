"""Laws of activation checkpointing: blocks that are computed again have the same derivatives, and keep less."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ebm.baselines import Transformer
from ebm.energies import ImageEBT, ResidualTextEBT, TextEBT
from ebm.energies.ebt.recomputing import Blockwise, recomputed
from ebm.energies.ebt.text import padded
from ebm.interfaces import energy_and_grad
from tests.energies.test_laws import ENERGIES, draw, make, stirred
from tests.helpers import close

SMALL = {"dim": 8, "depth": 2, "heads": 2}
TEXTS = {
    "none": lambda: TextEBT(7, **SMALL),
    "time": lambda: TextEBT(7, **SMALL, conditioning="time", levels=2),
    "adaln-zero": lambda: TextEBT(7, **SMALL, conditioning="adaln-zero", levels=2),
    "residual": lambda: ResidualTextEBT(7, **SMALL),
}


def blocks_of(energy):
    return [part for part in energy.modules() if isinstance(part, Blockwise)]


def recomputing(energy, asked=True):
    for part in blocks_of(energy):
        part.recomputes = asked
    return energy


BLOCKWISE = [name for name in ENERGIES if blocks_of(make(name)[0])]


def second_order(function, energy, y):
    """Two steps of descent whose ends are judged, as an objective does: the loss, and all its gradients."""
    y = start = y.clone().requires_grad_()
    total = 0.0
    for _ in range(2):
        value, grad = energy_and_grad(function, y, create_graph=True)
        y = y - 0.1 * grad
        total = total + value.sum() + y.square().sum()
    held = [start, *(p for p in energy.parameters() if p.requires_grad)]
    found = torch.autograd.grad(total, held, allow_unused=True)
    return total.detach(), [torch.zeros_like(p) if grad is None else grad for p, grad in zip(held, found, strict=True)]


def kept(energy, make_loss):
    """Counts the numbers that a graph keeps beside parameters."""
    held = {p.untyped_storage().data_ptr() for p in energy.parameters()}
    seen = {}

    def note(x):
        if x.untyped_storage().data_ptr() not in held:
            seen[x.untyped_storage().data_ptr()] = x  # which keeps the address from being used again
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = make_loss()
    return sum(x.untyped_storage().nbytes() for x in seen.values()), loss


@pytest.mark.parametrize("name", BLOCKWISE)
def test_derivatives_are_those_of_blocks_that_keep_what_they_compute(name):
    energy, event = make(name)
    energy.train()
    y = draw(3, *event)
    plain = second_order(energy, energy, y)
    close(second_order(recomputing(energy), energy, y), plain)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("pads", [False, True])
def test_derivatives_of_texts(name, pads):
    torch.manual_seed(0)
    energy = stirred(TEXTS[name]()).double()
    context = padded([[1, 2, 3, 4], [5, 6]]) if pads else torch.tensor([[1, 2, 3, 4], [5, 6, 0, 1]])
    y = draw(3, 2, 4, 7)
    plain = [second_order(energy.given(context, level), energy, y) for level in range(energy.levels)]
    recomputing(energy)
    close([second_order(energy.given(context, level), energy, y) for level in range(energy.levels)], plain)


def test_a_feed_forward_transformer_has_the_same_gradient():
    model = stirred(Transformer(7, **SMALL)).double()
    context = torch.tensor([[1, 2, 3, 4]])
    plain = torch.autograd.grad(model.logits(context).square().sum(), [*model.parameters()], allow_unused=True)
    found = torch.autograd.grad(recomputing(model).logits(context).square().sum(), [*model.parameters()], allow_unused=True)
    close(found, plain)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_graph_of_a_second_order_loss_keeps_a_fraction(kind):
    """Torch's own checkpoint would keep nearly all: the gradient's graph holds what blocks compute again."""
    torch.manual_seed(0)
    deep = {"dim": 32, "depth": 8, "heads": 2}
    energy = TextEBT(7, **deep) if kind == "text" else stirred(ImageEBT(8, 4, 1, **deep))
    context, y = (torch.arange(6)[None], draw(1, 6, 7).float()) if kind == "text" else (None, draw(1, 1, 8, 8).float())

    def loss():
        return energy_and_grad(energy.given(context), y, create_graph=True)[1].square().sum()

    whole, one = kept(energy, loss)
    recomputing(energy)
    less, two = kept(energy, loss)
    assert less < 0.4 * whole
    assert torch.equal(one, two)


def test_without_gradients_nothing_is_computed_again():
    energy, calls = recomputing(stirred(ImageEBT(8, 4, 1, **SMALL))), []
    energy.attentions[0].register_forward_hook(lambda *_: calls.append(1))
    y = draw(1, 1, 8, 8).float().requires_grad_()
    with torch.no_grad():
        energy(y)
    assert len(calls) == 1
    energy.eval()(y).sum().backward()  # samplers hold energies in eval mode
    assert len(calls) == 3


def test_what_a_piece_draws_is_drawn_again():
    torch.manual_seed(0)
    layer, drop, x = nn.Linear(4, 4), nn.Dropout(0.5), torch.randn(5, 4, requires_grad=True)

    def gradients(run):
        torch.manual_seed(1)
        y = run(lambda x: drop(layer(x)).tanh(), x)
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return y, slope, *torch.autograd.grad(slope.square().sum(), [x, *layer.parameters()]), torch.rand(2)

    close(gradients(lambda piece, x: recomputed([layer], piece, x)), gradients(lambda piece, x: piece(x)), 1e-6, 1e-6)


def test_a_third_derivative_is_an_error():
    layer, x = nn.Linear(2, 2), torch.randn(3, 2, requires_grad=True)
    y = recomputed([layer], lambda x: layer(x).sin(), x).sum()
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="a third derivative with activation_checkpointing"):
        torch.autograd.grad(bend.sum(), x)


def test_autocast_is_that_of_the_first_time():
    layer, x = nn.Linear(4, 4), torch.randn(5, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, plain = recomputed([layer], lambda x: layer(x).sin(), x), layer(x).sin()
    assert y.dtype == plain.dtype == torch.bfloat16
    found, expected = (torch.autograd.grad(each.float().sum(), [x, *layer.parameters()]) for each in (y, plain))
    close(found, expected, 0, 0)
