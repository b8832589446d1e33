"""Energies that restore: convolutions and ELU by their derivatives, U-Nets of any size, gradient steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from ebm.energies import GradientStepUNet, MLPEnergy, Observed
from ebm.energies.restoration import convolutions
from ebm.energies.restoration.convolutions import convolved, spread
from ebm.energies.restoration.elu import elu
from ebm.energies.restoration.operators import Blurred, Masked, Sampled, Shrunk, gaussian
from ebm.energies.restoration.unet import padded
from ebm.energies.restoration.windowed import Windowed
from ebm.interfaces import Batch, energy_and_grad, evaluate
from ebm.objectives import DenoisingScoreMatching, InTurn, Reconstruction
from ebm.samplers import Conditioned, FixedPoint, GradientDescent, Monotone, ParallelTempering, ProximalGradient, Recovery
from ebm.tasks import Points
from ebm.tasks.images.noising import AdditivelyNoisy, AdditiveNoise, Noisy
from ebm.training import fit
from tests.helpers import close, laws, normal, seeds

KINDS = [(3, 1, 1), (2, 2, 0)]  # side, stride, padding


def make(channels=1, widths=(4, 6), blocks=(1, 1), seed=0, **options):
    torch.manual_seed(seed)
    return GradientStepUNet(channels, widths, blocks, **options).double()


def derivatives(function, *inputs, orders=3):
    """Computes a value and its derivatives, each of all that went before."""
    values = [function(*inputs)]
    for _ in range(orders):
        values += torch.autograd.grad(
            values[-1].sin().sum(), inputs, create_graph=True, materialize_grads=True, allow_unused=True
        )
    return values


# ----------------------------------------------------------------------------------------------------------- derivatives


@laws
@given(seed=seeds, kind=st.sampled_from(KINDS), rows=st.integers(1, 2), columns=st.integers(1, 2), biased=st.booleans())
def test_a_convolution_s_derivatives_of_three_orders_are_torch_s(seed, kind, rows, columns, biased):
    side, stride, padding = kind
    x = normal(2, 2, 2 * rows, 2 * columns, seed=seed).requires_grad_()
    weight = normal(3, 2, side, side, seed=seed + 1).requires_grad_()
    inputs = [x, weight, *([normal(3, seed=seed + 2).requires_grad_()] if biased else [])]
    ours = derivatives(lambda x, w, b=None: convolved(x, w, b, stride, padding), *inputs)
    for got, expected in zip(ours, derivatives(lambda x, w, b=None: F.conv2d(x, w, b, stride, padding), *inputs), strict=True):
        close(got, expected)


@laws
@given(seed=seeds, kind=st.sampled_from(KINDS), rows=st.integers(1, 2), columns=st.integers(1, 2))
def test_a_transposed_convolution_s_derivatives_of_three_orders_are_torch_s(seed, kind, rows, columns):
    side, stride, padding = kind
    inputs = normal(2, 3, rows, columns, seed=seed).requires_grad_(), normal(3, 2, side, side, seed=seed + 1).requires_grad_()
    ours = derivatives(lambda x, w: spread(x, w, stride, padding), *inputs)
    theirs = derivatives(lambda x, w: F.conv_transpose2d(x, w, None, stride, padding), *inputs)
    for got, expected in zip(ours, theirs, strict=True):
        close(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_pass_torch_s_own_checks(kind):
    side, stride, padding = kind
    x, weight = normal(2, 2, 4, 4).requires_grad_(), normal(3, 2, side, side, seed=1).requires_grad_()
    bias = normal(3, seed=2).requires_grad_()
    assert gradcheck(lambda *a: convolved(*a, stride, padding), (x, weight, bias))
    assert gradgradcheck(lambda *a: convolved(*a, stride, padding), (x, weight, bias))
    back = normal(2, 3, 2, 2).requires_grad_()
    assert gradcheck(lambda *a: spread(*a, stride, padding), (back, weight))
    assert gradgradcheck(lambda *a: spread(*a, stride, padding), (back, weight))


def test_a_stride_that_leaves_a_rest_is_refused():
    with pytest.raises(ValueError, match=r"pictures of \(5, 4\), a kernel of 2, stride=2, padding=0: the stride leaves a rest"):
        convolved(torch.ones(1, 1, 5, 4), torch.ones(1, 1, 2, 2), stride=2)


def test_no_weight_s_gradient_is_computed_where_the_picture_s_alone_is_asked_for(monkeypatch):
    computed, real = [], convolutions._weight_gradient
    monkeypatch.setattr(convolutions, "_weight_gradient", lambda *given: computed.append(1) or real(*given))
    energy, y = make(), normal(2, 1, 8, 8)
    energy_and_grad(energy.given(0.2), y)
    _, grad = energy_and_grad(energy.given(0.2), y, create_graph=True)
    assert not computed
    grad.sum().backward()
    convolved_once = 3 + 2 * 3 + 1  # head, tail and the two between scales; two for each of three residual blocks
    assert len(computed) == 2 * convolved_once  # of each, and of its transposed


@laws
@given(seed=seeds)
def test_elu_and_its_derivatives_are_torch_s(seed):
    x = (3 * normal(4, 5, seed=seed)).requires_grad_()
    for got, expected in zip(derivatives(elu, x, orders=2), derivatives(F.elu, x, orders=2), strict=True):
        close(got, expected)
    half = x.detach().bfloat16()
    assert (elu(half).double() - F.elu(half.double())).abs().max() <= 0.005 * half.double().abs().clamp(min=1).max()


def test_elu_passes_torch_s_own_checks_and_has_no_third_derivative():
    x = normal(3, 4).requires_grad_()
    assert gradcheck(elu, x)
    assert gradgradcheck(elu, x)
    (first,) = torch.autograd.grad(elu(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="a third derivative of an ELU"):
        torch.autograd.grad(second.sum(), x)


# ---------------------------------------------------------------------------------------------------------- the network


@laws
@given(height=st.integers(1, 9), width=st.integers(1, 9), side=st.integers(1, 6))
def test_pictures_are_padded_as_mirrors_do(height, width, side):
    y = normal(2, 1, height, width)
    found = padded(y, side)
    assert found.shape[-2] % side == found.shape[-1] % side == 0
    assert max(found.shape[-2] - height, found.shape[-1] - width) < side
    close(found[..., :height, :width], y)
    below, right = (got - size for got, size in zip(found.shape[-2:], (height, width), strict=True))
    if below < height and right < width:
        close(found, F.pad(y, (0, right, 0, below), mode="reflect"))


@laws
@given(seed=seeds, height=st.integers(1, 11), width=st.integers(1, 11), channels=st.integers(1, 3))
def test_any_size_and_any_leading_axes(seed, height, width, channels):
    energy, y = make(channels, blind=False), normal(2, 3, channels, height, width, seed=seed)
    std = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    values, grads = energy_and_grad(energy.given(std), y)
    assert values.shape == (2, 3)
    for row in range(3):
        alone, grad = energy_and_grad(energy.given(std[row].item()), y[1, row : row + 1])
        close(alone[0], values[1, row])
        close(grad[0], grads[1, row])
    close(energy.patch_energies(y, energy.encode(std)).sum((-2, -1)), values)


def test_bfloat16_by_autocast_stays_near_float64():
    energy, y = make(widths=(8, 8)), normal(3, 1, 16, 16)
    exact, grad = energy_and_grad(energy.given(0.3), y)
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_grad = energy_and_grad(energy.float().given(0.3), y.float())
    assert rough.dtype == rough_grad.dtype == torch.float32
    assert (rough.double() - exact).abs().max() < 0.05 * exact.abs().max()
    assert (rough_grad.double() - grad).norm() < 0.05 * grad.norm()


# ----------------------------------------------------------------------------------------------------------- the energy


@pytest.mark.parametrize("blind", [False, True])
def test_a_step_takes_the_residual_off_through_its_jacobian(blind):
    """y⁺ = y − Jᵀ R: the oracle computes J whole."""
    energy, y = make(2, blind=blind), normal(1, 2, 4, 6, seed=3)
    code = energy.encode(0.3)
    jacobian = torch.autograd.functional.jacobian(lambda y: energy.noise(y, code), y).reshape(48, 48)
    noise = energy.noise(y, code).detach()
    close(evaluate(energy.given(0.3), y), noise.square().sum((1, 2, 3)) / 2)
    moved = GradientDescent(float(energy.natural_step)).sample(energy.given(0.3), y)
    close(moved.flatten(), y.flatten() - jacobian.T @ noise.flatten())
    close(FixedPoint().sample(energy.given(0.3), y), y - noise)


@laws
@given(seed=seeds, rows=st.integers(1, 3), candidates=st.sampled_from([(), (2,)]), blind=st.booleans())
def test_colours_apart_are_the_greys_energies_of_three_axes(seed, rows, candidates, blind):
    """The same weights score y's brightness and two differences of colour, and a step goes back by the same axes."""
    grey, colour = make(seed=seed, blind=blind), make(3, seed=seed + 1, blind=blind, colours="apart")
    colour.load_state_dict(grey.state_dict())
    axes = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
    axes = axes / axes.norm(dim=1, keepdim=True)
    close(axes @ axes.mT, torch.eye(3, dtype=torch.float64))
    y = normal(*candidates, rows, 3, 5, 7, seed=seed + 2)
    std = None if blind else torch.linspace(0.1, 0.4, rows, dtype=torch.float64)
    parts = [energy_and_grad(grey.given(std), torch.tensordot(y, axis, ([-3], [0])).unsqueeze(-3)) for axis in axes]
    energy, grad = energy_and_grad(colour.given(std), y)
    close(energy, sum(part for part, _ in parts))
    close(grad, sum(slope * axis[:, None, None] for (_, slope), axis in zip(parts, axes, strict=True)))
    close(colour.patch_energies(y, colour.encode(std)).sum((-2, -1)), energy)
    close(colour.given(std)(y[..., :1, :, :]), grey.given(std)(y[..., :1, :, :]))
    close(colour.given(0.2)(y), colour.given(torch.full((rows,), 0.2, dtype=torch.float64))(y))


def test_greys_have_no_colours_to_tell_apart():
    for wrong in ({"colours": "apart"}, {"channels": 3, "colours": "rgb"}):
        with pytest.raises(ValueError, match="choose together, or with 3 channels apart"):
            make(**wrong)


@pytest.mark.parametrize(("height", "width"), [(449, 40), (40, 449), (448, 448), (900, 30), (13, 833)])
@pytest.mark.parametrize("channels", [1, 3])
def test_windows_give_the_energy_and_the_gradient_of_the_whole(height, width, channels):
    energy = make(channels, seed=height, colours="apart" if channels == 3 else "together")
    y, std = normal(2, channels, height, width, seed=width), torch.tensor([0.1, 0.3], dtype=torch.float64)
    whole, parts = energy_and_grad(energy.given(std), y), energy_and_grad(Windowed(energy).given(std), y)
    close(parts[0], whole[0])
    close(parts[1], whole[1])


def test_windows_keep_no_more_than_one_of_them():
    """Eight windows' gradient needs no more than twice the memory of two."""
    energy, kept = make(), []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    def numbers(windows):
        kept.clear()
        y = normal(1, 1, 8, 384 * windows + 64).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            value = Windowed(energy).given(0.1)(y).sum()
        assert torch.autograd.grad(value, y)[0].shape == y.shape
        return sum(kept)

    assert numbers(8) <= 8 * 2 * (8 * (384 * 8 + 64))  # no more than a few pictures', where a network keeps hundreds


def test_a_context_is_a_number_a_tensor_or_has_a_deviation():
    energy, y = make(strongest=0.4), normal(2, 1, 8, 8)
    noise = AdditiveNoise()
    steps = torch.tensor([250, 100])
    seen = noise.seen(y, steps)
    close(energy.given(seen)(y), energy.given(noise.std[steps])(y))
    close(energy.given(25 / 127.5)(y)[0], energy.given(seen)(y)[0])
    close(energy.given(0.9)(y), energy.given(0.4)(y))  # stronger noise counts as the strongest
    for context in (None, Noisy(y, steps)):
        with pytest.raises(ValueError, match="says no deviation of additive noise: pass σ"):
            energy.given(context)
    with pytest.raises(ValueError, match="bind it"):
        energy(y)
    with pytest.raises(ValueError, match=r"scores \(\*chains, 1, H, W\)"):
        energy.given(0.1)(normal(2, 3, 8, 8))


def test_further_landscapes_are_told_less_noise():
    energy, y = make(levels=3, decay=0.3), normal(2, 1, 8, 8)
    told = make()
    for level, function in enumerate(energy.landscapes(0.5)):
        close(function(y), told.given(0.5 * 0.3**level)(y))


@pytest.mark.parametrize(
    "wrong", [{"widths": (4,), "blocks": (1, 1)}, {"channels": 0}, {"levels": 0}, {"decay": 0.0}, {"strongest": -1.0}]
)
def test_sizes_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValueError, match="pass"):
        make(**wrong)


# ------------------------------------------------------------------------------------------------------------- training


def test_it_learns_to_take_noise_off_first_as_a_network_then_as_an_energy():
    energy = GradientStepUNet(1, (8, 8), (1, 1))
    torch.manual_seed(0)

    def start(batch, generator=None):
        return batch.context.image

    def distance(y, batch):
        return (y - batch.target).square().mean((-3, -2, -1))

    how = {"start": start, "distance": distance}
    objective = InTurn([Reconstruction(FixedPoint(), **how), Reconstruction(GradientDescent(1.0), **how)], steps=[40])
    optimizer = torch.optim.Adam(energy.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        clean = torch.rand(16, 1, 1, 1, generator=generator).mul(2).sub(1).expand(16, 1, 8, 8)
        std = torch.full((16,), 0.4)
        seen = clean + 0.4 * torch.randn(clean.shape, generator=generator)
        loss = objective(energy, Batch(clean, AdditivelyNoisy(seen, torch.zeros(16, dtype=torch.long), std)))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert loss.value < 0.04  # a quarter of the noise's variance
    assert int(objective.taken) == 80


def test_a_training_that_would_end_before_the_last_turn_is_refused():
    task, energy = Points("moons", n=60), MLPEnergy(dim=2, hidden=(4,))
    objective = InTurn([DenoisingScoreMatching(0.1), DenoisingScoreMatching(0.2)], steps=[4])
    for steps, accumulate in ((4, 1), (2, 2)):
        with pytest.raises(ValueError, match=f"steps={steps}: InTurn begins with its last objective after 4 steps"):
            fit(energy, objective, task, steps=steps, accumulate=accumulate, batch_size=8, out=None)
    fit(energy, objective, task, steps=5, batch_size=8, out=None)
    assert int(objective.taken) == 5


def test_in_turn_takes_its_turns_and_remembers_them():
    def counted(name):
        def distance(y, batch):
            seen.append(name)
            return (y - batch.target).square().sum(-1)

        return Reconstruction(GradientDescent(0.5), start=lambda batch, generator=None: batch.target, distance=distance)

    seen: list[str] = []
    objective, batch = InTurn([counted("a"), counted("b"), counted("c")], steps=[2, 1]), Batch(torch.zeros(3, 2))

    def energy(y):
        return y.square().sum(-1)

    for _ in range(3):
        objective(energy, batch)
    again = InTurn([counted("a"), counted("b"), counted("c")], steps=[2, 1])
    again.load_state_dict(objective.state_dict())
    for _ in range(2):
        again(energy, batch)
    assert seen == ["a", "a", "b", "c", "c"]
    seen.clear()
    InTurn([counted("a"), counted("b")], steps=[2]).eval()(energy, batch)
    assert seen == ["b"]
    with pytest.raises(ValueError, match=r"2 objectives and steps=\[\]: pass"):
        InTurn([counted("a"), counted("b")], steps=[])


# ------------------------------------------------------------------------------------------------------ what was seen


def operators(height, width):
    kept = torch.rand(height, width, generator=torch.Generator().manual_seed(0)) < 0.7
    kernel = normal(3, 3, seed=5)
    return {
        "masked": Masked(kept),
        "blurred": Blurred(kernel),
        "shrunk": Blurred(gaussian(0.8).double(), every=2),
        "bicubic": Shrunk(2),
        "sampled": Sampled.drawn((height, width), 0.4, generator=torch.Generator().manual_seed(0)),
    }


@pytest.mark.parametrize("name", ["masked", "blurred", "shrunk", "sampled"])
@laws
@given(seed=seeds, step=st.floats(0.01, 2.0), std=st.floats(0.5, 2.0))
def test_a_step_is_solved_as_linear_algebra_does(name, seed, step, std):
    """argmin |z − y|²/2 + ε |A z − b|²/(2 s²): the oracle writes A as a matrix."""
    operator, y = operators(9, 10)[name], normal(2, 1, 9, 10, seed=seed)
    matrix = operator(torch.eye(90, dtype=torch.float64).reshape(90, 1, 9, 10)).flatten(1).T
    seen = normal(*operator(y[:1]).shape[1:], seed=seed + 1)
    weight = step / std**2
    left = torch.eye(90, dtype=torch.float64) + weight * matrix.T @ matrix
    expected = torch.linalg.solve(left, (y.flatten(1) + weight * seen.flatten() @ matrix).T).T
    energy = Observed(operator, seen, std, iterations=200)
    close(energy.prox(y, step).flatten(1), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    close(energy(y), (y.flatten(1) @ matrix.T - seen.flatten()).square().sum(1) / (2 * std**2))
    mixed = energy.prox(y.unsqueeze(1), torch.tensor([[step], [0.0]], dtype=torch.float64))
    close(mixed[0, 0], energy.prox(y[:1], step)[0])
    close(mixed[1], y[1:])  # a step of 0 goes nowhere


def test_what_was_not_seen_by_the_operator_is_refused():
    with pytest.raises(ValueError, match=r"the operator makes \(1, 3, 3\) of \(1, 6, 6\), and \(1, 6, 6\) was seen"):
        Observed(Blurred(gaussian(0.8), every=2), torch.ones(1, 6, 6), 0.1)(torch.ones(1, 1, 6, 6))
    with pytest.raises(ValueError, match="std=0"):
        Observed(lambda x: x, torch.ones(1, 4, 4), 0)
    with pytest.raises(ValueError, match="odd sides"):
        Blurred(torch.ones(2, 2))


@laws
@given(seed=seeds, size=st.floats(0.1, 1.5))
def test_a_proximal_step_descends_one_part_and_solves_the_other(seed, size):
    """E = |y − c|²/2 and F = |y − b|²/(2 s²): both steps have closed forms."""
    centre, seen, y = normal(1, 3, 3, seed=seed), normal(1, 3, 3, seed=seed + 1), normal(2, 1, 3, 3, seed=seed + 2)

    def bowl(y):
        return (y - centre).square().sum((-3, -2, -1)) / 2

    energy = Observed(lambda x: x, seen, std=0.5) + bowl
    (state, info), *_ = ProximalGradient(size, steps=1).trajectory(energy, y)
    descended = y - size * (y - centre)
    close(state.y, (descended + 4 * size * seen) / (1 + 4 * size), rtol=1e-5, atol=1e-6)
    close(info.energy, evaluate(energy, y))
    if size <= 1:  # one over the gradient's Lipschitz constant
        assert (evaluate(energy, state.y) <= info.energy + 1e-9).all()


def test_a_prior_of_known_noise_composes_with_what_was_seen():
    prior, truth = make(), torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    kept = torch.ones(8, 8, dtype=torch.bool)
    kept[2:4] = False
    sum_ = prior + Observed(Masked(kept), truth[0], std=1e-3)
    y = normal(1, 1, 8, 8)
    found = ProximalGradient(1.0, steps=1).sample(sum_.given(0.3), y)
    stepped = GradientDescent(1.0).sample(prior.given(0.3), y)
    close(found[..., ~kept], stepped[..., ~kept])
    assert found[..., kept].abs().max() < 1e-4
    for wrong in (prior.given(0.3), Observed(Masked(kept), truth[0], std=1.0)):
        with pytest.raises(ValueError, match="pass a sum of a prior and of one energy that has prox"):
            ProximalGradient(1.0).sample(wrong, y)


NOT_LINEAR = {
    "curved": lambda x: (3 * x).exp(),
    "rounded": lambda x: (x * 127.5).round() / 127.5,
    "cut off": lambda x: x.clamp(-1, 1),
    "shifted": lambda x: x + 0.1,
    "nan": lambda x: x / 0,
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_an_operator_that_is_not_linear_is_refused_where_it_is_solved(name):
    energy, y = Observed(NOT_LINEAR[name], torch.ones(1, 3, 3), std=0.05), torch.randn(1, 1, 3, 3)
    energy(y)  # to score is no fault
    with pytest.raises(ValueError, match=r"the operator <lambda> is not linear: A\(3x − y\) is not 3 A x − A y"):
        energy.prox(y, 1.0)


def test_an_operator_that_draws_is_refused():
    with pytest.raises(ValueError, match="the operator <lambda> makes something else at each call"):
        Observed(lambda x: x + torch.randn_like(x), torch.ones(1, 3, 3), std=0.05).prox(torch.randn(1, 1, 3, 3), 1.0)


def test_data_too_exact_for_the_precision_are_said():
    wide = Blurred(gaussian(3.0))
    energy = Observed(wide, wide(normal(1, 1, 30, 30).float())[0], std=1e-9, iterations=3)
    with pytest.raises(FloatingPointError, match="went astray after 3 iterations: pass a larger std"):
        energy.prox(torch.zeros(1, 1, 30, 30), 1.0)


class Physics(torch.nn.Module):
    """What has deepinv's interface: A, its adjoint, and a call that adds noise."""

    def __init__(self, matrix, factor=1.0):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.factor = factor

    def A(self, x, **kwargs):
        return x.flatten(1).detach() @ self.matrix.T  # no gradient passes through it

    def A_adjoint(self, y, **kwargs):
        return self.factor * (y @ self.matrix).reshape(-1, 1, 3, 4)

    def forward(self, x):
        return self.A(x) + 100 * torch.randn(len(x), len(self.matrix), dtype=x.dtype)


@laws
@given(seed=seeds, count=st.integers(1, 15))
def test_a_physics_with_an_adjoint_is_taken_without_its_noise(seed, count):
    physics, y = Physics(normal(count, 12, seed=seed)), normal(2, 1, 3, 4, seed=seed + 1)
    seen = normal(count, seed=seed + 2)
    ours = Observed(physics, seen, std=0.7)
    plain = Observed(lambda x: x.flatten(1) @ physics.matrix.T, seen, std=0.7)
    close(ours(y), plain(y))
    close(ours.prox(y, 0.5), plain.prox(y, 0.5))


def test_an_adjoint_that_is_none_is_refused():
    with pytest.raises(ValueError, match="A_adjoint of the operator Physics is not the transpose of its A"):
        Observed(Physics(normal(5, 12), factor=0.9), normal(5), std=1.0).prox(normal(1, 1, 3, 4), 1.0)
    with pytest.raises(ValueError, match="operator=3: pass a function of pictures"):
        Observed(3, normal(5), std=1.0)


def test_linear_transforms_of_torchvision_are_operators():
    from torchvision.transforms import GaussianBlur, Resize

    truth = normal(1, 1, 12, 12)
    for operator in (GaussianBlur(5, 1.2), Resize(6, antialias=True)):
        energy = Observed(operator, operator(truth)[0], std=0.1)
        y = energy.prox(torch.zeros_like(truth), 100.0)
        assert energy(y) < 1e-3 * energy(torch.zeros_like(truth))
    drawing = GaussianBlur(5, (0.1, 2.0))  # another sigma each time
    with pytest.raises(ValueError, match="the operator GaussianBlur makes something else at each call"):
        Observed(drawing, truth[0], std=0.1).prox(truth, 1.0)


@laws
@given(seed=seeds, height=st.integers(1, 9), width=st.integers(1, 9), share=st.floats(0.2, 1.0))
def test_measurements_are_orthonormal_rows(seed, height, width, share):
    """A Aᵀ = 1; and the transform is SciPy's DCT."""
    from scipy.fft import dctn

    operator = Sampled.drawn((height, width), max(share, 1 / (height * width)), generator=torch.Generator().manual_seed(seed))
    matrix = operator(torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)).flatten(1).T
    close(matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64), rtol=1e-9, atol=1e-9)
    x = normal(1, 1, height, width, seed=seed)
    whole = torch.from_numpy(dctn((x * operator.signs).numpy(), axes=(-2, -1), norm="ortho"))
    close(operator(x), whole[..., operator.kept], rtol=1e-9, atol=1e-9)
    assert len(matrix) == round(max(share, 1 / (height * width)) * height * width)


@laws
@given(seed=seeds, rows=st.sampled_from([1, 3, 5]), columns=st.sampled_from([1, 3]), every=st.integers(1, 3), plain=st.booleans())
def test_a_kernel_that_is_a_product_is_taken_apart_and_gives_the_same(seed, rows, columns, every, plain):
    kernel = normal(rows, columns, seed=seed)
    if plain:
        kernel = torch.outer(kernel[:, 0], kernel[0])
    x = normal(2, 3, 7, 8, seed=seed + 1)
    wide = F.pad(x, (columns // 2, columns // 2, rows // 2, rows // 2), mode="reflect")
    expected = F.conv2d(wide, kernel.expand(3, 1, rows, columns), stride=every, groups=3)
    close(Blurred(kernel, every)(x), expected, rtol=1e-8, atol=1e-8)


def test_shrinking_is_pillow_s_bicubic():
    from PIL import Image

    x = normal(1, 1, 12, 18).float()
    theirs = Image.fromarray(x[0, 0].numpy(), mode="F").resize((9, 6), Image.Resampling.BICUBIC)
    close(Shrunk(2)(x)[0, 0], torch.from_numpy(np.array(theirs)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Shrunk(2)(torch.ones(1, 1, 5, 6)), "pictures of 5 x 6 are not 2 times another size"),
        (lambda: Shrunk(0), "times=0"),
        (lambda: gaussian(0), r"gaussian\(0\): pass a positive deviation"),
        (lambda: Blurred(gaussian(2.0))(torch.ones(1, 1, 30, 8)), r"a kernel of \(17, 17\) reaches beyond pictures of \(30, 8\)"),
        (lambda: Sampled.drawn((4, 4), 0.01), "share=0.01"),
        (lambda: Sampled(torch.ones(3, 3), torch.ones(3, 4)), r"signs \(3, 3\), kept \(3, 4\)"),
        (lambda: Sampled(torch.ones(3, 3), torch.ones(3, 3))(torch.ones(1, 1, 4, 4)), "pass one size"),
    ],
)
def test_operators_that_cannot_work_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_data_are_exact_also_under_autocast():
    operator, y = Blurred(gaussian(1.0)), torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    energy = Observed(operator, operator(y)[0], std=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert energy(y) < 1e-3
        assert torch.equal(energy.prox(y, 1.0), y)


# -------------------------------------------------------------------------------------------------- what never rises


@pytest.mark.parametrize("name", ["masked", "blurred", "shrunk", "sampled", "bicubic"])
@laws
@given(seed=seeds, step=st.floats(0.1, 30.0), std=st.floats(0.02, 1.0))
def test_no_accepted_proximal_step_raises_a_composed_energy(name, seed, step, std):
    """Forward-backward's direction is one of descent, so halving along it ends, however long the step."""
    operator, y = operators(8, 10)[name], normal(2, 1, 8, 10, seed=seed)
    energy = (make() + Observed(operator, operator(normal(1, 1, 8, 10, seed=seed + 1))[0], std, iterations=300)).given(0.3)
    sampler = Monotone(ProximalGradient(step, steps=3), halvings=12)
    before, moved = evaluate(energy, y), False
    for state, info in sampler.trajectory(energy, y):
        after = evaluate(energy, state.y)
        assert (after <= before * (1 + 1e-12)).all()
        moved, before = moved or bool(info.accepted.any()), after
    assert moved


def test_a_proximal_step_never_goes_past_what_changes_the_sum():
    """A scale, a temperature or a mask around the sum would be lost without a word."""
    sum_ = Observed(lambda x: x, torch.ones(1, 3, 3), std=1.0) + (lambda y: y.square().sum((-3, -2, -1)) / 2)
    y, still = torch.zeros(2, 1, 3, 3), torch.zeros(1, 3, 3, dtype=torch.bool)
    solving = ProximalGradient(0.5, steps=1)
    for sampler, energy in (
        (solving, 4.0 * sum_),
        (ParallelTempering(solving), sum_),
        (Recovery(solving, 1.0), sum_),
        (Conditioned(solving, still), sum_),
    ):
        with pytest.raises(ValueError, match="which no other energy or sampler changes: scale the parts"):
            sampler.sample(energy, y)


@pytest.mark.parametrize(("size", "rows"), [((), 2), ((1,), 1), ((2,), 2)])
def test_a_proximal_step_takes_its_size_as_a_tensor(size, rows):
    sum_ = Observed(lambda x: x, torch.ones(1, 3, 3), std=1.0) + (lambda y: y.square().sum((-3, -2, -1)) / 2)
    y = torch.zeros(rows, 1, 3, 3)
    close(ProximalGradient(torch.full(size, 0.5), steps=1).sample(sum_, y), ProximalGradient(0.5, steps=1).sample(sum_, y))
