"""Laws that every energy meets, whatever it is made of; in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from ebm.baselines import DiT, FrameTransformer, LoopedNetwork, Transformer
from ebm.energies import (
    RBM,
    Banana,
    BeliefEBT,
    BrownianBridge,
    ConditionalMLP,
    Constrained,
    ConvEnergy,
    DoubleWell,
    EightSchools,
    FrameEBT,
    FreeEnergy,
    Funnel,
    Gaussian,
    GaussianMixture,
    GradientStepEBT,
    GradientStepUNet,
    Hopfield,
    ImageEBT,
    ItemResponse,
    JointClassifier,
    LatentEnergy,
    LikelihoodRatio,
    LogisticRegression,
    MixtureOfExperts,
    MLPEnergy,
    ModernHopfield,
    NoiseConditional,
    NoiseEmbedded,
    ProductOfExperts,
    ResidualFrameEBT,
    ResidualImageEBT,
    Ring,
    ScaledEnergy,
    SequenceEBT,
    StochasticVolatility,
    SumEnergy,
    WithPrior,
    joint_conv,
)
from ebm.interfaces import Energy, Function, energy_and_grad
from ebm.samplers import GradientDescent
from ebm.tasks.images.noising import Noisy

LAW = settings(max_examples=10, deadline=None, derandomize=True)
MEANS = ((-1.0, 0.5), (2.0, 0.0), (0.0, -1.0))
MATRIX = ((2.0, 0.5), (0.5, 1.0))
JOINT = ((2.0, 0.5, 0.8), (0.5, 1.0, -0.3), (0.8, -0.3, 0.9))


def learn(values: object) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def descent(**keywords: object) -> GradientDescent:
    return GradientDescent(step_size=0.3, steps=4, **keywords)


def calm(energy: Energy) -> Energy:
    """In eval mode: power iteration moves a spectral norm's buffers at every forward in train mode."""
    return energy.eval()


def stirred(energy: Energy) -> Energy:
    """With all parameters drawn at random: some start at zero, and hide others."""
    for parameter in energy.parameters():
        nn.init.normal_(parameter, std=0.3)
    return energy


class Beside(Energy):
    """Scores y beside one noisy picture, whatever the context."""

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy
        self.register_buffer("image", draw(1, *energy.event), persistent=False)

    def encode(self, context=None, level=-1):
        return self.energy.encode(Noisy(self.image, torch.tensor([99])))[0]

    def extend(self, code, context):
        return code

    def forward(self, y, code=None):
        return self.energy(y, self.encode() if code is None else code)


class Told(Energy):
    """Scores y at noise of 0.3, whatever the context."""

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy

    def encode(self, context=None, level=-1):
        return self.energy.encode(0.3)

    def extend(self, code, context):
        return code

    def forward(self, y, code=None):
        return self.energy(y, self.encode() if code is None else code)


class After(Energy):
    """Scores y as what follows three frames, whatever the context."""

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy
        self.register_buffer("frames", draw(1, 3, energy.features), persistent=False)

    def encode(self, context=None, level=-1):
        first = self.energy.encode(self.frames[:, :2])
        return self.energy.extend(first, self.frames[:, 2:])

    def extend(self, code, context):
        return code

    def forward(self, y, code=None):
        code = self.energy.encode(self.frames) if code is None else code
        return self.energy(y[..., None, None, :], code)[..., 0, 0]


class Knowing(Energy):
    """Scores beliefs about three positions, one of which is known, whatever the context."""

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy
        self.register_buffer("ids", torch.tensor([[-1, 2, -1]]), persistent=False)

    def encode(self, context=None, level=-1):
        return self.energy.encode(self.ids)

    def extend(self, code, context):
        return code

    def forward(self, y, code=None):
        return self.energy(y.unsqueeze(-3), self.encode() if code is None else code)[..., 0]


class Following(Energy):
    """Scores three tokens as what follows a prompt, in front of which there is no token, whatever the context."""

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy
        self.register_buffer("ids", torch.tensor([[-1, 2, 0]]), persistent=False)

    def encode(self, context=None, level=-1):
        return self.energy.encode(self.ids)

    def extend(self, code, context):
        return code

    def forward(self, y, code=None):
        return self.energy(y.unsqueeze(-3), self.encode() if code is None else code)[..., 0]


# name -> (what makes it, the shape of one event). Constants are learnable where a parameter law should see them.
ENERGIES = {
    "gaussian": (lambda: Gaussian(learn((1.0, 2.0)), learn(MATRIX)), (2,)),
    "gaussian-diagonal": (lambda: Gaussian(learn((1.0, 2.0, 3.0)), learn((1.0, 2.0, 0.5))), (3,)),
    "gaussian-isotropic": (lambda: Gaussian(learn((1.0, 2.0)), learn(0.5)), (2,)),
    "mixture": (lambda: GaussianMixture(learn(MEANS), learn((MATRIX,) * 3), learn((1.0, 2.0, 3.0))), (2,)),
    "mixture-diagonal": (lambda: GaussianMixture(learn(MEANS), learn(((1.0, 2.0), (0.5, 1.0), (2.0, 2.0)))), (2,)),
    "mixture-isotropic": (lambda: GaussianMixture(learn(MEANS), learn((1.0, 0.5, 2.0))), (2,)),
    "mixture-one-variance": (lambda: GaussianMixture(learn(MEANS), learn(0.5)), (2,)),
    "mixture-no-parameters": (lambda: GaussianMixture(MEANS, 0.5, (0.0, 1.0, 2.0)), (2,)),
    "banana": (lambda: Banana(learn(0.5), learn(1.5)), (2,)),
    "double-well": (lambda: DoubleWell(3, learn(2.0), learn(1.5)), (3,)),
    "double-well-line": (lambda: DoubleWell(1), (1,)),
    "funnel": (lambda: Funnel(3, learn(2.0)), (3,)),
    "ring": (lambda: Ring(learn(1.5), learn(0.5)), (2,)),
    "rbm": (lambda: RBM(3, 2), (3,)),
    "rbm-gaussian": (lambda: RBM(3, 2, units="gaussian"), (3,)),
    "mlp": (lambda: MLPEnergy(3, hidden=(8, 5)), (3,)),
    "mlp-softplus": (lambda: MLPEnergy(2, hidden=(6,), activation="softplus"), (2,)),
    "mlp-gelu": (lambda: MLPEnergy(2, hidden=(6,), activation="gelu"), (2,)),
    "mlp-tanh": (lambda: MLPEnergy(2, hidden=(6,), activation="tanh"), (2,)),
    "conv": (lambda: ConvEnergy(1, 8, width=2), (1, 8, 8)),
    "conv-oblong": (lambda: ConvEnergy(2, (5, 9), width=2), (2, 5, 9)),
    "conv-spectral-norm": (lambda: calm(ConvEnergy(1, 6, width=2, spectral_norm=True)), (1, 6, 6)),
    "joint": (lambda: JointClassifier(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)), event=1), (3,)),
    "joint-conv": (lambda: joint_conv(1, 8, width=2, classes=3), (1, 8, 8)),
    "image-ebt": (lambda: stirred(ImageEBT((4, 6), 2, 2, dim=8, depth=1, heads=2)), (2, 4, 6)),
    "residual-image-ebt": (lambda: stirred(ResidualImageEBT((4, 6), 2, 2, dim=8, depth=1, heads=2)), (2, 4, 6)),
    "gradient-step-ebt": (lambda: stirred(Told(GradientStepEBT((4, 6), 2, 2, dim=8, depth=1, heads=2, overlap=1))), (2, 4, 6)),
    "gradient-step-unet": (lambda: Told(GradientStepUNet(1, (4, 6), (1, 1))), (1, 5, 6)),
    "gradient-step-unet-blind": (lambda: GradientStepUNet(2, (4,), (2,), blind=True), (2, 4, 3)),
    "dit": (lambda: stirred(Beside(DiT((4, 6), 2, 2, dim=8, depth=1, heads=2))), (2, 4, 6)),
    "frame-ebt": (lambda: stirred(After(FrameEBT(3, dim=8, depth=2, heads=2))), (3,)),
    "residual-frame-ebt": (lambda: stirred(After(ResidualFrameEBT(3, dim=8, depth=2, heads=2))), (3,)),
    "frame-transformer": (lambda: stirred(After(FrameTransformer(3, dim=8, depth=2, heads=2))), (3,)),
    "belief-ebt": (lambda: stirred(Knowing(BeliefEBT(3, dim=8, heads=2, relations={"kind": "order"}))), (3, 3)),
    "belief-ebt-hidden": (lambda: stirred(Knowing(BeliefEBT(3, dim=8, heads=2, hidden=1, depth=2))), (3, 4)),
    "sequence-ebt": (lambda: stirred(Following(SequenceEBT(3, dim=8, depth=2, heads=2))), (3, 3)),
    "likelihood-ratio": (lambda: stirred(Following(LikelihoodRatio(Transformer(3, dim=8, depth=2, heads=2)))), (3, 3)),
    "looped": (lambda: stirred(Knowing(LoopedNetwork(3, dim=8, heads=2))), (3, 3)),
    "sum": (lambda: SumEnergy([MLPEnergy(2, hidden=(4,)), Ring(), lambda y: y.cos().sum(-1)]), (2,)),
    "scaled": (lambda: ScaledEnergy(MLPEnergy(2, hidden=(4,)), learn(0.5)), (2,)),
    "tempered": (lambda: MLPEnergy(2, hidden=(4,)) / 3.0, (2,)),
    "noise-conditional": (lambda: NoiseConditional(MLPEnergy(2, hidden=(6,)), sigma=0.3), (2,)),
    "noise-embedded": (lambda: Function(NoiseEmbedded(ConditionalMLP(2, 1, hidden=(6, 5)), sigma=[1.0, 0.3])), (2,)),
    "with-prior": (lambda: WithPrior(ConvEnergy(1, 4, width=2), std=2.0), (1, 4, 4)),
    "constrained": (lambda: Constrained(MLPEnergy(2, hidden=(4,)), "positive"), (2,)),
    "constrained-simplex": (lambda: Constrained(MLPEnergy(3, hidden=(4,)), "simplex"), (2,)),
    "constrained-ordered": (lambda: Constrained(MLPEnergy(3, hidden=(4,)), "ordered"), (3,)),
    "product": (lambda: ProductOfExperts([MLPEnergy(2, hidden=(4,)), Ring(), lambda y: y.cos().sum(-1)]), (2,)),
    "mixture-of-experts": (lambda: MixtureOfExperts([Gaussian(learn((1.0, 2.0)), learn(MATRIX)), Ring(learn(1.5))]), (2,)),
    "mixture-of-networks": (lambda: MixtureOfExperts([MLPEnergy(2, hidden=(4,)) for _ in range(3)], (0.5, 0.0, -1.0)), (2,)),
    "modern-hopfield": (lambda: ModernHopfield(dim=3, count=5), (3,)),
    "modern-hopfield-patterns": (lambda: ModernHopfield(MEANS, beta=3.0), (2,)),
    "hopfield": (lambda: Hopfield(((1, 1, -1), (1, -1, 1))), (3,)),
    "hopfield-learned": (lambda: Hopfield(weights=learn(MATRIX), bias=learn((0.5, -1.0))), (2,)),
    "latent": (lambda: LatentEnergy(Gaussian(learn((1.0, 2.0, 0.5)), learn(JOINT)), 1), (2,)),
    "latent-network": (lambda: LatentEnergy(WithPrior(MLPEnergy(5, hidden=(6,))), 2, descent(momentum=0.5)), (3,)),
    "latent-picture": (lambda: LatentEnergy(MLPEnergy(9, hidden=(4,)), 1, descent(), event=3), (2, 2, 2)),
    "free-energy": (lambda: FreeEnergy(MLPEnergy(4, hidden=(6,)), learn(((-1.0, 0.0), (0.5, 1.0), (2.0, -1.0))), 0.5), (2,)),
    "free-energy-picture": (lambda: FreeEnergy(MLPEnergy(5, hidden=(4,)), (-1.0, 1.0), event=2), (2, 2)),
    "eight-schools": (lambda: EightSchools(), (10,)),
    "eight-schools-non-centred": (lambda: EightSchools(centred=False), (10,)),
    "logistic-regression": (lambda: LogisticRegression([[0.5, -1.0], [1.0, 2.0], [-1.5, 0.0]], [0, 1, 1]), (3,)),
    "brownian-bridge": (lambda: BrownianBridge([0.1, math.nan, -0.2]), (5,)),
    "stochastic-volatility": (lambda: StochasticVolatility([0.1, -0.5, 0.3]), (6,)),
    "item-response": (lambda: ItemResponse([[1, 0], [math.nan, 1]]), (5,)),
}


def make(name: str, seed: int = 0) -> tuple[Energy, tuple[int, ...]]:
    torch.manual_seed(seed)
    maker, event = ENERGIES[name]
    return maker().double(), event


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


every = pytest.mark.parametrize("name", ENERGIES)
seeds = st.integers(0, 2**31)


@every
@LAW
@given(chains=st.lists(st.integers(0, 3), max_size=3), seed=seeds)
def test_output_shape_is_the_chains(name, chains, seed):
    energy, event = make(name)
    value = energy(draw(*chains, *event, seed=seed))
    assert value.shape == tuple(chains)
    assert value.dtype == torch.float64


@every
@LAW
@given(seed=seeds)
def test_chains_are_independent(name, seed):
    energy, event = make(name)
    y = draw(4, *event, seed=seed)
    value, grad = energy_and_grad(energy, y)
    order = torch.tensor([2, 0, 3, 1])
    for got, expected in zip(energy_and_grad(energy, y[order]), (value[order], grad[order]), strict=True):
        torch.testing.assert_close(got, expected)
    changed = y.clone()
    changed[1] = draw(*event, seed=seed + 1)
    others = torch.tensor([0, 2, 3])
    for got, expected in zip(energy_and_grad(energy, changed), (value, grad), strict=True):
        torch.testing.assert_close(got[others], expected[others])
    torch.testing.assert_close(energy(y.unflatten(0, (2, 2))), value.unflatten(0, (2, 2)))


@every
@settings(LAW, max_examples=2)
@given(seed=seeds)
def test_gradients_equal_finite_differences_twice_over(name, seed):
    energy, event = make(name)
    y = draw(2, *event, seed=seed).requires_grad_()
    assert gradcheck(energy, y)
    assert gradgradcheck(energy, y, fast_mode=y.numel() > 20)  # the fast mode checks random directions


@every
@LAW
@given(seed=seeds)
def test_cached_code_equals_uncached(name, seed):
    energy, event = make(name)
    y = draw(3, *event, seed=seed)
    torch.testing.assert_close(energy.given()(y), energy(y))
    assert len(energy.landscapes()) == energy.levels == 1


@pytest.mark.parametrize("name", [name for name in ENERGIES if not name.startswith("joint")])  # their context is labels
def test_context_is_not_looked_at(name):
    energy, event = make(name)
    y, context = draw(3, *event), torch.zeros(7)
    torch.testing.assert_close(energy.given(context)(y), energy(y))
    torch.testing.assert_close(energy(y, energy.extend(energy.encode(context), context)), energy(y))


@every
def test_every_parameter_receives_a_gradient_from_the_energy_and_from_its_slope(name):
    energy, event = make(name)
    y = draw(5, *event).requires_grad_()
    value, slope = energy_and_grad(energy, y, create_graph=True)
    for loss in (value.sum(), slope.square().sum()):
        trained = [each for each in energy.named_parameters() if each[1].requires_grad]  # a frozen part is meant to be
        names, parameters = zip(*trained, strict=True) if trained else ((), ())
        grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) if parameters else ()
        for parameter, grad in zip(names, grads, strict=True):
            # A mixture's weights are divided by their sum: they have one direction without a gradient, not all.
            assert grad is not None, parameter
            assert grad.isfinite().all(), parameter
            assert grad.abs().sum() > 0, parameter


def test_what_is_frozen_is_meant_to_be():
    """The law above passes over it."""
    frozen = {(name, part) for name in ENERGIES for part, p in make(name)[0].named_parameters() if not p.requires_grad}
    assert {name for name, _ in frozen} == {"likelihood-ratio"}
    assert {part.split(".")[1] for _, part in frozen} == {"base"}


@pytest.mark.parametrize("name", [name for name in ENERGIES if list(make(name)[0].parameters())])
def test_parameters_gradients_equal_finite_differences(name):
    energy, event = make(name)
    y, parameters = draw(2, *event), dict(energy.named_parameters())

    def symmetric(value: torch.Tensor) -> torch.Tensor:  # finite differences would leave the covariance matrices
        return (value + value.mT) / 2 if value.ndim > 1 and value.shape[-1] == value.shape[-2] else value

    def call(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(energy, dict(zip(parameters, map(symmetric, values), strict=True)), (y,))

    assert gradcheck(call, tuple(parameters.values()), fast_mode=True)


@every
def test_state_dict_round_trip(name):
    energy, event = make(name)
    other, _ = make(name, seed=1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.25)  # as covariances and weights stay what they must be
    y = draw(3, *event)
    assert not list(energy.parameters()) or not torch.allclose(other(y), energy(y))
    energy.load_state_dict(other.state_dict())
    assert torch.equal(energy(y), other(y))


@every
def test_dtype_is_the_energys(name):
    energy, event = make(name)
    single = copy.deepcopy(energy).float()
    y = draw(3, *event)
    assert single(y.float()).dtype == torch.float32
    torch.testing.assert_close(single(y.float()).double(), energy(y), rtol=1e-4, atol=1e-4)


@every
def test_repr_says_what_it_is(name):
    energy, _ = make(name)
    assert type(energy).__name__ in repr(energy)
