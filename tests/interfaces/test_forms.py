"""Every form that an energy may have: contexts and landscapes reach it, or it is refused."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel

import ebm
from ebm.energies import ConditionalMLP, MLPEnergy, NoiseConditional
from ebm.interfaces import (
    Batch,
    Energy,
    Function,
    Unconditional,
    as_energy,
    bind,
    energy_and_grad,
    landscapes,
    levels_of,
    modules_of,
)
from ebm.objectives import (
    ContrastiveDivergence,
    DenoisingScoreMatching,
    EnergyDiscrepancy,
    InfoNCE,
    Reconstruction,
    ScoreMatching,
    SlicedScoreMatching,
)
from ebm.samplers import GradientDescent, LangevinDynamics


class Shifted(Energy):
    """A bowl around its context, or around 0 without one; its code is its context."""

    def __init__(self):
        super().__init__()
        self.width = nn.Parameter(torch.tensor(0.7))

    def forward(self, y, code=None):
        return self.width * (y if code is None else y - code).square().sum(-1)


class Ladder(Shifted):
    """Three landscapes, told apart by their codes."""

    levels = 3

    def encode(self, context=None, level=-1):
        return (0.0 if context is None else context) + float(level % 3)


class Parts(Energy):
    """Two landscapes, each an energy of its own that has its own code."""

    levels = 2

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([Shifted(), Shifted()])
        self.parts[1].width.data.mul_(3)

    def encode(self, context=None, level=-1):
        return context, level % 2

    def given(self, context=None, level=-1):
        return self.parts[level % 2].given(context)

    def forward(self, y, code=None):
        context, level = code
        return self.parts[level](y, context)


class Handed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *arguments, **keywords):
        return self.inner(*arguments, **keywords)


class Coded(Handed):
    def forward(self, y, code=None):
        return self.inner(y, code)


class Alone(Handed):
    def forward(self, y):
        return 2 * self.inner(y)


class Told(Handed):
    def forward(self, y, context):
        return self.inner(y, context)


class Bound(Handed):
    def forward(self, y, context=None):
        return self.inner.given(context)(y)


class Plain(nn.Module):
    """No energy of ours: a module of y and labels."""

    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.randn(3, 2))

    def forward(self, y, label=None):
        place = 0 if label is None else self.places[label]
        return (y - place).square().sum(-1)


WRAPPERS = {
    "compiled": partial(torch.compile, backend="eager"),
    "parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "handed": Handed,
    "coded": Coded,
    "twice": lambda energy: nn.DataParallel(Handed(energy)),
    "method": lambda energy: energy.forward,
    "call": lambda energy: energy.__call__,
}
Y, C = torch.randn(5, 2), torch.randn(5, 2)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    "make", [Shifted, Ladder, Parts, lambda: ConditionalMLP(2, 2), lambda: NoiseConditional(MLPEnergy(2), sigma=[1.0, 0.1])]
)
def test_wrapped_is_plain(make, wrapper):
    """Values, gradients by y and by parameters, contexts, landscapes, candidates."""
    plain = make()
    wrapped = WRAPPERS[wrapper](plain)
    context = None if isinstance(plain, NoiseConditional) else C
    assert levels_of(wrapped) == plain.levels == len(landscapes(wrapped, context))
    for level in range(plain.levels):
        for y in (Y, torch.stack([Y, -Y])):
            want = energy_and_grad(plain.given(context, level), y, create_graph=True)
            got = energy_and_grad(bind(wrapped, context, level), y, create_graph=True)
            for a, b in zip(want, got, strict=True):
                assert torch.allclose(a, b)
            grads = [
                torch.autograd.grad(g.square().sum() + v.sum(), [*plain.parameters()], allow_unused=True) for v, g in (want, got)
            ]
            if wrapper != "averaged":  # which holds a copy
                assert all(a is b is None or torch.allclose(a, b) for a, b in zip(*grads, strict=True))
        assert torch.allclose(landscapes(wrapped, context)[level](Y), plain.given(context, level)(Y))


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    "objective",
    [
        lambda: ContrastiveDivergence(LangevinDynamics(0.01, 3)),
        lambda: DenoisingScoreMatching(0.3),
        lambda: EnergyDiscrepancy(),
        lambda: InfoNCE(),
        lambda: ScoreMatching(),
        lambda: SlicedScoreMatching(),
        lambda: Reconstruction(
            GradientDescent(0.1, 2),
            start=lambda batch, generator=None: torch.zeros(5, 2),
            distance=lambda y, batch: (y - batch.target).square().sum(-1),
        ),
    ],
)
def test_objectives_hand_contexts_to_wrapped_energies(objective, wrapper):
    energy = Shifted()
    found = [
        objective()(form, Batch(Y, C), generator=torch.Generator().manual_seed(0)).value.item()
        for form in (energy, WRAPPERS[wrapper](energy))
    ]
    without = objective()(energy, Batch(Y), generator=torch.Generator().manual_seed(0)).value.item()
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] != pytest.approx(without, rel=1e-3)


def test_a_ladder_of_noise_reaches_wrapped_landscapes():
    energy = NoiseConditional(MLPEnergy(2), sigma=[1.0, 0.3, 0.1])
    objective = DenoisingScoreMatching([1.0, 0.3, 0.1])
    found = [objective(form, Batch(Y), generator=torch.Generator().manual_seed(0)) for form in (energy, nn.DataParallel(energy))]
    assert set(found[0].terms) == set(found[1].terms) > {"loss_0", "loss_1", "loss_2"}
    assert found[0].value.item() == pytest.approx(found[1].value.item())


def test_a_plain_module_or_function_gets_the_context_as_its_second_argument():
    module, labels = Plain(), torch.tensor([0, 1, 2, 0, 1])
    for form in (module, module.forward, lambda y, label: module(y, label), lambda y, *, context=None: module(y, context)):
        assert torch.equal(bind(form, labels)(Y), module(Y, labels))
    summed = as_energy(module) + (lambda y: y.sum(-1))
    assert torch.allclose(summed.given(labels)(Y), module(Y, labels) + Y.sum(-1))
    assert torch.equal(bind(module)(Y), module(Y))
    scripted = torch.jit.script(module)
    assert torch.allclose(bind(torch.jit.trace(module, (Y, labels)), labels)(Y), module(Y, labels))
    assert second_argument_of(scripted) == "label"


def second_argument_of(form):
    return as_energy(form).second.name


def test_functional_calls_take_contexts():
    energy = Shifted()
    weights = {"width": torch.tensor(2.0)}
    for form in (lambda y, code=None: functional_call(energy, weights, (y, code)), partial(functional_call, energy, weights)):
        assert torch.allclose(bind(form, C)(Y), 2 * (Y - C).square().sum(-1))


@pytest.mark.parametrize(
    "form", [lambda e: lambda y: e(y), lambda e: partial(e.__class__.forward, e), Alone, lambda e: nn.Sequential(e)]
)
def test_what_drops_a_context_is_refused_and_what_has_none_is_not(form):
    energy = Shifted()
    dropped = form(energy)
    if not isinstance(dropped, partial):  # a method hands its second argument on
        with pytest.raises(ValueError, match="has a context, but .* scores Shifted without"):
            bind(dropped, C)(Y)
        with pytest.raises(ValueError, match="pass Shifted itself"):
            ContrastiveDivergence(LangevinDynamics(0.01, 2))(dropped, Batch(Y, C))
    assert bind(dropped)(Y).shape == (5,)


def test_a_global_energy_is_found_behind_a_function():
    with pytest.raises(ValueError, match="scores Shifted without"):
        bind(by_global, C)(Y)
    assert torch.equal(bind(by_global)(Y), GLOBAL(Y))


GLOBAL = Shifted()


def by_global(y):
    return GLOBAL(y)


def test_what_binds_by_hand_or_ignores_contexts_is_taken():
    energy = Shifted()

    class Ignores(Energy):
        def forward(self, y, code=None):
            return y.square().sum(-1)

    for form in (lambda y: energy.given(C)(y), lambda y: energy(y, C), energy.given(C)):
        assert torch.equal(bind(form, -C)(Y), energy(Y, C))
    ignores = Ignores()
    assert torch.equal(bind(lambda y: ignores(y), C)(Y), Y.square().sum(-1))
    assert torch.equal(bind(nn.Sequential(ignores), C)(Y), Y.square().sum(-1))
    assert torch.equal(bind(Bound(Ladder()), C)(Y), Ladder().given(C)(Y))


def test_what_cannot_pass_a_code_or_a_landscape_is_refused():
    with pytest.raises(ValueError, match="3 landscapes, but Alone scores it without choosing"):
        bind(Alone(Ladder()))(Y)
    ladder = Ladder()
    assert torch.equal(bind(lambda y: ladder(y))(Y), ladder(Y))  # a function may leave it at forward's default
    assert torch.equal(Function(Shifted()).given(C)(Y), Shifted()(Y))  # said to be a function of y alone
    with pytest.raises(ValueError, match="hands the context on to Ladder"):
        bind(Told(Ladder()), C)(Y)
    assert torch.equal(bind(Told(Shifted()), C)(Y), Shifted()(Y, C))

    class Two(Handed):
        def __init__(self):
            super().__init__(Ladder())
            self.other = Shifted()

    with pytest.raises(ValueError, match="holds several energies"):
        bind(Two(), C)
    with pytest.raises(ValueError, match="write scale=None"):
        bind(lambda y, scale=2.0: scale * y.sum(-1), C)
    traced = torch.jit.trace(GlobalLadder(), (Y, C))
    with pytest.raises(ValueError, match="GlobalLadder is scripted or traced"):
        bind(traced, C)


class GlobalLadder(Ladder):
    pass


def test_a_conditional_model_learns_its_classes_inside_any_wrapper():
    """The share of samples on their class's side: without contexts it would be a half."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (400,), generator=g)
    x = 0.3 * torch.randn(400, 1, generator=g) + 4 * labels[:, None] - 2
    energy = ConditionalMLP(1, 1, hidden=(16,))
    wrapped, objective = nn.DataParallel(energy), DenoisingScoreMatching(0.3)
    optimizer = torch.optim.Adam(energy.parameters(), 1e-2)
    for _ in range(150):
        loss = objective(wrapped, Batch(x, labels[:, None].float()), generator=g)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    start = torch.randn(100, 1, generator=g)
    samples = LangevinDynamics(0.05, 200).sample(energy.given(torch.zeros(100, 1)), start, generator=g)
    assert (samples < 0).float().mean() > 0.95


def test_compiled_energies_point_to_their_own_compile_where_gradients_are_differentiated():
    compiled = torch.compile(Shifted(), backend="aot_eager")
    assert ContrastiveDivergence(LangevinDynamics(0.01, 2))(compiled, Batch(Y, C)).value.isfinite()
    with pytest.raises(ValueError, match=r"call energy\.compile\(\)"):
        DenoisingScoreMatching(0.3)(compiled, Batch(Y, C))


def test_fit_and_think_work_to_the_end_with_a_compiled_energy(tmp_path):
    compiled = torch.compile(ConditionalMLP(2, 1), backend="eager")
    data = Batch(torch.randn(40, 2), torch.randn(40, 1))
    thought = ebm.think(compiled, LangevinDynamics(0.05, 3), data.context, torch.randn(2, 40, 2), candidates=2)
    assert thought.y.shape == (40, 2)
    from ebm.tasks import Points

    run = ebm.fit(
        torch.compile(ebm.energies.MLPEnergy(2), backend="eager"),
        ContrastiveDivergence(LangevinDynamics(0.01, 3)),
        Points("moons", n=60),
        steps=3,
        batch_size=16,
        ema=0.5,
        evaluate_limit=10,
        out=tmp_path / "run",
    )
    assert run.metrics


def test_sums_and_products_keep_what_is_wrapped():
    energy = Shifted()
    wrapped = nn.DataParallel(energy)
    want = 2 * energy(Y, C) + Y.sum(-1)
    assert torch.allclose((2.0 * as_energy(wrapped) + (lambda y: y.sum(-1))).given(C)(Y), want)
    assert torch.allclose((energy + wrapped).given(C)(Y), 2 * energy(Y, C))
    assert modules_of(bind(wrapped, C))[1] is wrapped


def test_differences_negatives_and_weights():
    energy, bowl = Shifted(), lambda y: y.square().sum(-1)
    assert torch.allclose((energy - bowl).given(C)(Y), energy(Y, C) - bowl(Y))
    assert torch.allclose((bowl - energy).given(C)(Y), bowl(Y) - energy(Y, C))
    assert torch.allclose((-energy).given(C)(Y), -energy(Y, C))
    with pytest.raises(TypeError, match="3 is no energy"):
        energy - 3
    weighted = energy * (lambda context: 1 + context.square().sum(-1))
    assert torch.allclose(weighted.given(C)(torch.stack([Y, -Y])), (1 + C.square().sum(-1)) * energy(torch.stack([Y, -Y]), C))
    with pytest.raises(ValueError, match="one for each chain"):
        (energy * (lambda context: torch.ones(3, 5))).given(C)(Y)


def test_guidance_pushes_away_from_the_unconditional_energy():
    """(1 + w) E(y | x) − w E(y): the pattern of classifier-free guidance."""
    energy = Shifted()
    guided = 3.0 * energy - 2.0 * as_energy(energy.given(None))
    assert torch.allclose(guided.given(C)(Y), 3 * energy(Y, C) - 2 * energy(Y))
    lost = Function(lambda y: energy(y))
    with pytest.raises(ValueError, match="without"):
        (3.0 * energy - 2.0 * lost).given(C)(Y)
    assert isinstance(as_energy(ebm.energies.MLPEnergy(2)), Unconditional)


@pytest.mark.parametrize("dropping", ["context", "landscape"])
def test_the_kit_catches_a_toolkit_that_drops_what_wrappers_should_keep(monkeypatch, dropping):
    import ebm.testing.energies as kit
    from ebm.testing import check_energy
    from ebm.testing.laws import LawBroken

    def lost(energy, context=None):
        if dropping == "context":
            return landscapes(energy)
        return [bind(energy, context, level % levels_of(energy)) for level in range(1, levels_of(energy) + 1)]

    check_energy(Ladder, torch.randn(6, 2), torch.randn(6, 2))
    monkeypatch.setattr(kit, "landscapes", lost)
    with pytest.raises(LawBroken, match="inside _Handed"):
        check_energy(Ladder, torch.randn(6, 2), torch.randn(6, 2))
