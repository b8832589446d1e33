"""Regions: a block's programs are its plain formulas, with both derivatives, whatever the shape; and when they are made."""

import copy
import os
import pickle
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import ebm
from ebm.energies import MLPEnergy, TextEBT
from ebm.energies.ebt import regions as module
from ebm.energies.ebt.regions import Region, enter, join, middle, regions
from ebm.interfaces import Batch, energy_and_grad
from ebm.objectives import Reconstruction
from ebm.samplers import GradientDescent
from ebm.tasks import Dyck
from ebm.training.compiling import compile_if_it_pays
from tests.helpers import close, normal

V, CPU, CUDA = 7, torch.device("cpu"), torch.device("cuda")
INPUTS = {  # widths of rows and vectors, for a region of width D
    "enter": (enter, lambda *rows: (normal(*rows, 4), normal(4))),
    "enter, shifted": (enter, lambda *rows: (normal(*rows, 4), normal(4), normal(4))),
    "join": (join, lambda *rows: (normal(*rows, 4), normal(*rows, 4), normal(4))),
    "join, modulated": (join, lambda *rows: (normal(*rows, 4), normal(*rows, 4), normal(4), normal(4), normal(4))),
    "middle": (middle, lambda *rows: (normal(*rows, 6),)),
}


@pytest.mark.parametrize("label", INPUTS)
def test_a_region_is_its_formula_with_both_derivatives(label):
    function, inputs = INPUTS[label]
    region = Region(function, backend="eager")
    for rows in ((2,), (1, 3), (1,)):
        given = tuple(x.requires_grad_() for x in inputs(*rows))
        close(region(*given), function(*given), 1e-12, 1e-12)
        assert gradcheck(region, given)
        assert gradgradcheck(region, given)


def test_a_third_derivative_is_an_error():
    x = normal(2, 6).requires_grad_()
    (first,) = torch.autograd.grad(Region(middle, backend="eager")(x)[0].sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="third derivative"):
        torch.autograd.grad(second.sum(), x)


@pytest.fixture
def always(monkeypatch):
    """Lets small rows go through programs, too, and makes these anew, untraced: tracing takes seconds."""
    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(module, "_made", {})
    monkeypatch.setattr(torch, "compile", lambda program, **options: program)
    monkeypatch.setattr(module, "rms_norm", lambda x, weight, epsilon: F.rms_norm(x, x.shape[-1:], weight, epsilon))
    monkeypatch.setattr(module, "gated", lambda both: F.silu(both.chunk(2, -1)[0]) * both.chunk(2, -1)[1])


def trained(energy, rows, length, unroll, seed=0):
    """Takes a step of training, and thinks: the loss, all gradients, and where thinking ends."""
    torch.manual_seed(seed)
    sampler = GradientDescent(step_size=1.0, steps=2, retraction="softmax")

    def distance(y, batch):
        return F.cross_entropy(y.movedim(-1, 1), batch.target, reduction="none")

    start = torch.randn(rows, length, V, dtype=torch.float64)
    objective = Reconstruction(sampler, start=lambda batch, generator=None: start, distance=distance, unroll=unroll)
    batch = Batch(torch.randint(V, (rows, length)), torch.randint(V, (rows, length)))
    energy.zero_grad()
    loss = objective(energy, batch).value
    loss.backward()
    thought = ebm.think(energy, sampler, batch.context, start.expand(2, -1, -1, -1), candidates=2)
    gradients = {name: p.grad.clone() for name, p in energy.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "y": thought.y, "energy": thought.energy, **gradients}


@pytest.mark.parametrize("conditioning", ["time", "adaln"])
def test_a_compiled_text_ebt_is_the_eager_one_in_all_that_is_done_with_it(conditioning, always):
    """Other rows, lengths and graphs than before, two landscapes, a frozen weight; and without gradients."""
    torch.manual_seed(0)
    energy = TextEBT(V, dim=8, depth=2, heads=2, conditioning=conditioning, levels=2).double()
    energy.blocks[0].feed_forward_norm.weight.requires_grad_(False)
    compiled = copy.deepcopy(energy)
    compiled.compile(backend="eager")
    for rows, length, unroll in ((2, 5, "each"), (3, 4, "full")):
        eager, other = (trained(each, rows, length, unroll) for each in (energy, compiled))
        close(other, eager, 1e-9, 1e-10)
    assert compiled.blocks[1].regions.join.programs


def test_a_sampler_computes_no_gradient_of_weights(always):
    energy = TextEBT(V, dim=8, depth=1, heads=2)
    energy.compile(backend="eager")
    energy_and_grad(energy.given(torch.zeros(2, 3, dtype=torch.long)), torch.randn(2, 3, V))
    asked = [wanted for region in energy.blocks[0].regions for order, wanted in region.programs if order]
    assert sorted(asked) == [(True,), (True, False), (True, True, False)]


def test_small_rows_go_as_they_are(monkeypatch):
    monkeypatch.setattr(module, "_made", {})
    energy = TextEBT(V, dim=8, depth=1, heads=2)
    energy.compile()
    energy.given(torch.zeros(2, 3, dtype=torch.long))(torch.randn(2, 3, V))
    assert not any(region.programs for region in energy.blocks[0].regions)


def test_copies_share_programs_and_have_weights_of_their_own(always):
    energy, y = TextEBT(V, dim=8, depth=1, heads=2), torch.randn(2, 3, V)
    energy.compile(backend="eager")
    for twin in (copy.deepcopy(energy), pickle.loads(pickle.dumps(energy))):
        assert twin.blocks[0].regions is energy.blocks[0].regions is regions(backend="eager")
        torch.nn.init.zeros_(twin.head.weight)
        assert not twin.given(torch.zeros(2, 3, dtype=torch.long))(y).any()


def test_a_copy_of_a_wholly_compiled_energy_computes_with_its_own_weights():
    energy = MLPEnergy(2, hidden=(4,))
    energy.compile(backend="eager")
    assert energy.given().compiled is not None
    with torch.no_grad():  # where shapes change from call to call
        assert energy.given().compiled is None
    twin = copy.deepcopy(energy)
    for parameter in twin.parameters():
        torch.nn.init.zeros_(parameter)
    value, grad = energy_and_grad(twin.given(), torch.ones(3, 2), create_graph=True)
    assert not value.any()
    assert not grad.any()


@pytest.mark.slow
def test_a_text_ebt_whose_regions_are_traced_is_the_eager_one(monkeypatch):
    monkeypatch.setattr(module, "SMALL", 0)
    energy = TextEBT(V, dim=8, depth=1, heads=2, conditioning="adaln", levels=2).double()
    compiled = copy.deepcopy(energy)
    compiled.compile(backend="aot_eager")
    for rows, length, unroll in ((2, 5, "each"), (3, 4, "full"), (1, 1, "each"), (2, 8, "last")):
        eager, other = (trained(each, rows, length, unroll) for each in (energy, compiled))
        close(other, eager, 1e-9, 1e-10)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")
def test_a_compiler_makes_programs_for_any_number_of_rows():
    region = Region(middle)
    for rows in (64, 96):
        x, g = torch.randn(rows, 32, requires_grad=True), torch.randn(rows, 16)
        found = []
        for apply in (region, middle):
            (first,) = torch.autograd.grad(apply(x)[0], x, g, create_graph=True)
            found.append((apply(x)[0], first, *torch.autograd.grad(first.sin().sum(), x)))
        close(found[0], found[1], 1e-5, 1e-6)


# ---------------------------------------------------------------------------------------------------- what a training does


def text():
    return TextEBT(V, dim=8, depth=1, heads=2)


@pytest.mark.parametrize(
    ("energy", "asked", "device", "told", "compiled"),
    [
        (text, "auto", CPU, "does not compile: on a CPU TextEBT", False),
        (text, "auto", CUDA, "compiles: the regions of TextEBT", True),
        (text, "auto", torch.device("mps"), "does not compile: it was never tried on mps", False),
        (text, True, CPU, "compiles: the regions of TextEBT, in seconds, because it is asked for", True),
        (text, False, CUDA, "", False),
        (lambda: MLPEnergy(2), True, CPU, "compiles: MLPEnergy with its gradient", True),
        (lambda: MLPEnergy(2), "auto", CUDA, "", False),
        (lambda: lambda y: y.sum(-1), "auto", CPU, "", False),
    ],
)
def test_a_training_says_whether_it_compiles_and_why(energy, asked, device, told, compiled, monkeypatch):
    monkeypatch.setattr("ebm.training.compiling.lacking", lambda device: "")
    made = energy()
    found = compile_if_it_pays(made, asked, device)
    assert found.startswith(told)
    assert bool(found) == bool(told)
    blocks = getattr(made, "blocks", [])
    assert compiled == (any(block.regions is not None for block in blocks) or getattr(made, "_compiled", None) is not None)


def test_what_cannot_be_compiled_is_refused_when_it_is_asked_for(monkeypatch):
    with pytest.raises(ValueError, match="function is no ebm.Energy"):
        compile_if_it_pays(lambda y: y.sum(-1), True, CPU)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no C\\+\\+ compiler \\(no-such-compiler\\)"):
        compile_if_it_pays(text(), True, CPU)
    monkeypatch.setattr("ebm.training.compiling.find_spec", lambda name: None)
    assert "there is no Triton" in compile_if_it_pays(text(), "auto", CUDA)


def test_a_training_compiles_its_average_too_and_goes_on_without(tmp_path, capsys, always):
    """Rounding is all that differs, so a stopped run may change its mind."""
    task = Dyck(length=8, depth=(1, 2), deep=(3, 4), n=10)
    torch.manual_seed(0)
    energy = TextEBT(dim=8, depth=1, heads=2, **task.spec)
    objective = Reconstruction(GradientDescent(step_size=1.0, steps=2, retraction="softmax"), task)
    left = [KeyboardInterrupt]

    def interrupted(step, row, run):
        if step == 2 and left:
            raise left.pop()

    options = {"steps": 4, "batch_size": 4, "checkpoint_every": 1, "log_every": 1, "ema": 0.5, "accelerator": "cpu"}
    options |= {"callbacks": [interrupted], "out": tmp_path / "x"}
    with pytest.raises(KeyboardInterrupt):
        ebm.fit(energy, objective, task, compile=True, **options)
    assert capsys.readouterr().err.count("compiles: the regions of TextEBT") == 1
    run = ebm.fit(energy, objective, task, **options)
    assert capsys.readouterr().err.count("does not compile: on a CPU TextEBT") == 1
    assert run.energy.blocks[0].regions is energy.blocks[0].regions is not None
