"""Laws of causal EBTs and of the Transformers that they are compared with; in float64, against a slow and obvious oracle.

The oracle's rotary tables are float64, and so are the models' where they are compared with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import ebm
from ebm.baselines import FrameTransformer, Transformer
from ebm.energies.ebt import SIZES, CausalEBT, FrameEBT, FreeTextEBT, Padded, ResidualFrameEBT, ResidualTextEBT, TextEBT, padded
from ebm.energies.ebt.attention import attend_plainly, attend_to_past, attend_to_past_and_self, future, turns
from ebm.energies.ebt.kernels import gated, gelu, heads, rms_norm
from ebm.energies.ebt.layer_norm import layer_norm
from ebm.interfaces import Batch, energy_and_grad
from ebm.objectives import Reconstruction
from ebm.samplers import GradientDescent
from tests.concatenated import concatenated
from tests.helpers import close, grads, laws, normal, seeds

V = 5
TINY = {"vocab_size": V, "dim": 8, "depth": 2, "heads": 2}
CONDITIONINGS = ("none", "time", "adaln", "adaln-zero")

FRAME = {"features": V, "dim": 8, "depth": 2, "heads": 2}

TEXT = {
    **{
        f"{conditioning}{'-tied' * tied}": lambda conditioning=conditioning, tied=tied: TextEBT(
            **TINY, hidden=6, conditioning=conditioning, levels=2, tied=tied
        )
        for conditioning in CONDITIONINGS
        for tied in (False, True)
    },
    "residual": lambda: ResidualTextEBT(**TINY, levels=2),
    "residual-time": lambda: ResidualTextEBT(**TINY, conditioning="time", levels=2),
    "residual-adaln": lambda: ResidualTextEBT(**TINY, conditioning="adaln", levels=2, tied=False),
    "free": lambda: FreeTextEBT(**TINY, levels=2),
    "free-time": lambda: FreeTextEBT(**TINY, conditioning="time", levels=2),
    "transformer": lambda: Transformer(**TINY),
}
# Their context is features, in which nothing is padding.
FRAMES = {
    "frame": lambda: FrameEBT(**FRAME, hidden=6, levels=2),
    "frame-time": lambda: FrameEBT(**FRAME, conditioning="time", levels=2),
    "frame-adaln": lambda: FrameEBT(**FRAME, conditioning="adaln", levels=2),
    "residual-frame": lambda: ResidualFrameEBT(**FRAME, levels=2),
    "residual-frame-time": lambda: ResidualFrameEBT(**FRAME, conditioning="time", levels=2, history=1),
    "residual-frame-adaln": lambda: ResidualFrameEBT(**FRAME, conditioning="adaln", levels=2, appearance=True),
    "frame-transformer": lambda: FrameTransformer(**FRAME),
}
MODELS = {**TEXT, **FRAMES}
every = pytest.mark.parametrize("name", MODELS)
every_text = pytest.mark.parametrize("name", TEXT)
LAW = settings(laws, max_examples=5)


def make(name: str, seed: int = 0) -> nn.Module:
    """Draws all parameters anew: what starts at zero or one would let much pass."""
    torch.manual_seed(seed)
    model = MODELS[name]().double()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.add_(normal(*parameter.shape, seed=seed + index), alpha=0.3)
    return model


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def context_of(name: str, *shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, V, seed=seed) if name in FRAMES else ids(*shape, seed=seed)


def probabilities(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, V, seed=seed).softmax(-1)


def training(reduce: str = "mean") -> Reconstruction:
    def start(batch, generator=None):
        return torch.randn(*batch.target.shape, V, generator=generator, dtype=torch.float64)

    def distance(y, batch):
        return F.cross_entropy(y.mT, batch.target, reduction="none")

    sampler = GradientDescent(step_size=0.7, steps=2, retraction="softmax", learnable=True)
    return Reconstruction(sampler, start=start, distance=distance, reduce=reduce)


# ---------------------------------------------------------------------------------------------------------------- oracle


def exact_turns(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    angles = positions[..., None] * 10_000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    return angles.cos(), angles.sin()


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr("ebm.energies.ebt.streams.turns", exact_turns)


def test_rotary_tables_are_right_to_single_precision():
    for got, expected in zip(turns(torch.arange(256), 64), exact_turns(torch.arange(256), 64), strict=True):
        assert got.dtype == torch.float32
        close(got.double(), expected, rtol=0, atol=3e-5)  # a relative 6e-8 of an angle of 255, and of its frequency


def oracle(model: nn.Module, context: Tensor, level: int = -1):
    """The energy as the oracle computes it: that of the candidates, and what the observed stream says of them."""
    level %= model.levels
    names = ("observe", "heads", "conditioning", "blocks", "norm", "level_embedding", "modulations", "final_modulation")
    parts = {name: getattr(model, name, None) for name in names}
    count = context.shape[1]

    def energy(y: Tensor) -> Tensor:
        if hasattr(model, "motion"):
            return moved(y)
        if not hasattr(model, "output"):
            return concatenated(model, context, y, level)
        if not isinstance(model, CausalEBT):
            return -(y * logits(y)).sum(-1)

        def head(x: Tensor) -> Tensor:  # the oracle takes [:, -S:, 0] of what its head makes of all tokens
            return -(x[:, -count:] * model.head.weight * (y @ model.output.weight)).sum(-1, keepdim=True)

        free = isinstance(model, FreeTextEBT)
        own = (
            {"propose": lambda y, _: ResidualTextEBT.propose(model, y, None) + hidden(y)} if free else {"propose": model.propose}
        )
        found = concatenated(SimpleNamespace(**parts, **own, head=head), context, y, level) - (y * logits(y)).sum(-1)
        return found + (y * y.log()).sum(-1) if free else found

    def moved(y: Tensor) -> Tensor:
        seen = model.motion.see(context)
        refining = model.head.weight if isinstance(model, CausalEBT) else 0.0

        def head(x: Tensor) -> Tensor:
            predicted = model.motion.predict(x[:, -2 * count : -count] + x[:, -count:] * refining, seen)
            return (y - predicted).square().sum(-1, keepdim=True) / 2

        own = {"observe": lambda _: (model.motion.observe(seen), None), "propose": lambda y, _: model.motion.propose(y, seen)}
        return concatenated(SimpleNamespace(**{**parts, **own}, head=head), context, y, level)

    def logits(y: Tensor) -> Tensor:
        return model.output(hidden(y))

    def hidden(y: Tensor) -> Tensor:
        blank = y.new_zeros(*context.shape, model.dim)

        def head(x: Tensor) -> Tensor:  # reads out the observed tokens
            return x[:, -2 * count : -count, None]

        return concatenated(SimpleNamespace(**parts, propose=lambda *_: blank, head=head), context, y, level)

    return energy


@every
@LAW
@given(seed=seeds, rows=st.integers(1, 2), count=st.integers(1, 5))
def test_energies_and_their_slopes_are_the_oracles(exact, name, seed, rows, count):
    model, context, y = make(name), context_of(name, rows, count, seed=seed), probabilities(rows, count, seed=seed)
    for level, landscape in enumerate(model.landscapes(context)):
        for got, expected in zip(energy_and_grad(landscape, y), energy_and_grad(oracle(model, context, level), y), strict=True):
            close(got, expected, rtol=1e-8)


@every
def test_training_gradients_are_the_oracles(exact, name):
    model, context, objective = make(name), context_of(name, 2, 4), training()
    batch, start = Batch(ids(2, 4, seed=1), context), normal(2, 4, V)
    parameters = [*model.parameters(), *objective.parameters()]
    landscapes = [oracle(model, context, level) for level in range(model.levels)]
    losses = [objective(energy, batch, start=start).value for energy in (model, landscapes)]
    close(*losses)
    for got, expected in zip(*(grads(loss, *parameters) for loss in losses), strict=True):
        close(got, expected, rtol=1e-8)


# ------------------------------------------------------------------------------------------------------------- causality


@every
def test_an_energy_depends_on_its_past_and_its_candidate_alone(name):
    model, context, y = make(name), context_of(name, 2, 5), probabilities(2, 5)
    value, slope = energy_and_grad(model.given(context), y)
    place = torch.arange(5)
    for j in range(5):
        other, changed = context.clone(), y.clone()
        other[:, j] = (other[:, j] + 1) % V
        changed[:, j] = probabilities(2, seed=1)
        # x_j is the answer of candidate j - 1: it and all before it see nothing of the change.
        for results, sees in (
            (energy_and_grad(model.given(other), y), place >= j),
            (energy_and_grad(model.given(context), changed), place == j),
        ):
            for got, before in zip(results, (value, slope), strict=True):
                close(got[:, ~sees], before[:, ~sees])
            assert ((results[0] - value)[:, sees].abs() > 1e-6).all()


@every
def test_gradients_flow_from_the_past_and_the_candidate_alone(name):
    model, context = make(name), context_of(name, 1, 4)
    if name in FRAMES:
        observed = context.requires_grad_()
    else:
        observed = model.embedding(context).detach().requires_grad_()
        model.observe = lambda _: (observed, None)
    y = probabilities(1, 4).requires_grad_()
    value = model.given(context)(y)
    for i in range(4):
        from_past, from_y = (grad[0].abs().amax(-1) for grad in grads(value[0, i], observed, y))
        assert (from_past > 1e-8).tolist() == [j <= i for j in range(4)]
        assert (from_past[i + 1 :] == 0).all()
        assert from_y.nonzero().flatten().tolist() == [i]


# ---------------------------------------------------------------------------------------------------------------- shapes


@every
@LAW
@given(more=st.lists(st.integers(1, 3), max_size=2), tail=st.integers(1, 4), seed=seeds)
def test_candidates_and_tails_are_scored_as_if_alone(name, more, tail, seed):
    model, context = make(name), context_of(name, 2, 4)
    energy, y = model.given(context), probabilities(*more, 2, 4, seed=seed)
    value, slope = energy_and_grad(energy, y)
    assert value.shape == (*more, 2, 4)
    for index in itertools.product(*map(range, more)):
        for got, whole in zip(energy_and_grad(energy, y[index]), (value, slope), strict=True):
            close(got, whole[index])
    for got, whole in zip(energy_and_grad(energy, y[..., -tail:, :]), (value, slope), strict=True):
        close(got, whole[..., -tail:, *[slice(None)] * (whole.ndim - value.ndim)])


@every_text
@LAW
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=seeds)
def test_padded_rows_are_scored_as_if_alone(name, lengths, seed):
    model = make(name)
    rows = [ids(length, seed=seed + i).tolist() for i, length in enumerate(lengths)]
    y = probabilities(2, len(rows), max(lengths), seed=seed)
    together = energy_and_grad(model.given(padded(rows)), y)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        alone = energy_and_grad(model.given(torch.tensor([row])), y[:, [index], -length:])
        for got, expected in zip(together, alone, strict=True):
            close(got[:, [index], -length:], expected)
        assert together[0].isfinite().all()


def test_padding_counts_for_nothing_in_training():
    for name in TEXT:
        model, objective, start = make(name), training(), normal(1, 3, V)
        alone = Batch(ids(1, 3, seed=1), ids(1, 3))
        other = F.pad(alone.context, (2, 0), value=3)
        weight = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]])
        together = Batch(F.pad(alone.target, (2, 0)), Padded(other, torch.tensor([2])), weight)
        losses = objective(model, alone, start=start).value, objective(model, together, start=F.pad(start, (0, 0, 2, 0))).value
        for got, expected in zip(*(grads(loss, *model.parameters()) for loss in losses), strict=True):
            close(got, expected, rtol=1e-7)


@every
@LAW
@given(
    cuts=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    pad=st.lists(st.integers(0, 2), min_size=2, max_size=2),
    grad=st.booleans(),
    seed=seeds,
)
def test_an_extended_code_is_that_of_the_whole_context(name, cuts, pad, grad, seed):
    model, context = make(name), context_of(name, 2, sum(cuts), seed=seed)
    first, *more = context.split(cuts, 1)
    lead = torch.tensor([0 if name in FRAMES else min(p, cuts[0] - 1) for p in pad])

    def encode(part: Tensor):
        return model.encode(Padded(part, lead) if lead.any() else part)

    def check(code, context: Tensor) -> None:
        whole, y = encode(context), probabilities(*context.shape[:2], seed=seed)
        assert (code.length, code.level) == (whole.length, whole.level) == (context.shape[1], model.levels - 1)
        counted = torch.arange(context.shape[1]) >= lead[:, None]
        close(model(y, code)[counted], model(y, whole)[counted])
        if code.out is not None:
            close(code.out[counted], whole.out[counted])
        close(code.observed, whole.observed)

    codes = [encode(first)]
    with torch.set_grad_enabled(grad):
        for part in more:
            before = [t.clone() for t in tensors(codes[-1])]
            codes.append(model.extend(codes[-1], part))
            assert all(map(torch.equal, tensors(codes[-2]), before))
        other = (more[-1] + 1) % V
        check(model.extend(codes[-2], other), torch.cat([first, *more[:-1], other], 1))  # a code has several futures
        for code in codes:
            check(code, context[:, : code.length])


def tensors(code) -> list[Tensor]:
    return [*code.keys, *code.values, *(t for t in (code.pad, code.out, *(code.observed or ())) if t is not None)]


# ------------------------------------------------------------------------------------------------------------ landscapes


@every
def test_what_tells_landscapes_apart(name):
    model, calls = make(name), []
    encode = model.encode
    model.encode = lambda *arguments: calls.append(1) or encode(*arguments)
    energies = [landscape(probabilities(2, 4)) for landscape in model.landscapes(context_of(name, 2, 4))]
    assert len(energies) == model.levels
    if model.conditioning == "none":
        assert len(calls) == 1
        assert all(torch.equal(energy, energies[0]) for energy in energies)
    else:
        assert len(calls) == model.levels == 2
        assert ((energies[0] - energies[1]).abs() > 1e-4).all()


# ----------------------------------------------------------------------------------------------------------- derivatives


@every
def test_derivatives_equal_finite_differences_twice_over(name):
    model, context = make(name), context_of(name, 1, 2)
    y, parameters = probabilities(2, 1, 2).requires_grad_(), dict(model.named_parameters())
    energy = Scored(model, context)

    def call(y: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(energy, {f"energy.{k}": v for k, v in zip(parameters, values, strict=True)}, y)

    def slope(y: Tensor, *values: Tensor) -> Tensor:
        return torch.autograd.grad(call(y, *values).square().sum(), y, create_graph=True)[0]

    assert gradcheck(energy, y)
    assert gradcheck(call, (y, *parameters.values()), fast_mode=True)
    assert gradcheck(slope, (y, *parameters.values()), fast_mode=True)  # all that training differentiates twice
    if isinstance(model, CausalEBT):  # a Transformer's energy is linear in y, or quadratic
        assert gradgradcheck(energy, y, fast_mode=True)
        assert gradgradcheck(
            lambda y, head: call(y, *[head if k == "head.weight" else v for k, v in parameters.items()]),
            (y[:1].detach().requires_grad_(), model.head.weight),
        )


class Scored(nn.Module):
    def __init__(self, energy: nn.Module, context: Tensor) -> None:
        super().__init__()
        self.energy, self.context = energy, context

    def forward(self, y: Tensor) -> Tensor:
        return self.energy.given(self.context)(y)


def norm_plainly(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, 1e-3)


def layer_norm_plainly(x: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-3) * weight + shift


def heads_plainly(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
    q, k, v = rearrange(qkv, "b ... t (three h d) -> three b h ... t d", three=3, h=2)
    turn = torch.complex(cos, sin).to(torch.complex128)
    q, k = (torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2) for x in (q, k))
    return q * q.shape[-1] ** -0.5, k, v


def joined(*parts: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def past_plainly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).masked_fill(future(q.shape[-2], q.shape[-2], device=q.device), -torch.inf).softmax(-1) @ v


def inputs(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(normal(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes))


# B, H, N, T, d = 2, 2, 2, 2, 4 and S = 3: two candidates at each of the last two of three positions
SEEN = ((2, 1, 2, 2, 2),) * 3 + ((2, 1, 3, 2),) * 2
HIDDEN = future(2, 3, device=torch.device("cpu"))
HIDDEN_PADDED = future(2, 3, device=torch.device("cpu"), pad=torch.tensor([0, 3]))  # the second row's sees itself alone

DOUBLE, SINGLE = exact_turns(torch.arange(3), 4), turns(torch.arange(3), 4)
NONE = torch.ones(3, 2, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
QKV = ((1, 2, 3, 24),)  # B, N, T, 3 H d


def in_parts(function: Callable[..., Tensor], rows: int) -> Callable[..., Tensor]:
    """Attends for so many queries at a time."""

    def call(*x: Tensor) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ebm.energies.ebt.attention.ROWS", rows)
            return function(*x)

    return call


# name -> kernel, plain formula, shapes of the inputs
KERNELS = {
    "rms_norm": (lambda x, weight: rms_norm(x, weight, 1e-3), norm_plainly, ((2, 3, 4), (4,))),
    "layer_norm": (lambda *x: layer_norm(*x, 1e-3), layer_norm_plainly, ((2, 3, 4), (4,), (4,))),
    "layer_norm-by-row": (lambda *x: layer_norm(*x, 1e-3), layer_norm_plainly, ((2, 3, 4), (2, 1, 4), (2, 1, 4))),
    "gelu": (gelu, lambda x: F.gelu(x, approximate="tanh"), ((3, 4),)),
    "gated": (gated, lambda both: F.silu(both[..., :3]) * both[..., 3:], ((2, 6),)),
    "heads": (lambda x: joined(*heads(x, *DOUBLE, 2)), lambda x: joined(*heads_plainly(x, *DOUBLE)), QKV),
    "heads-single": (lambda x: joined(*heads(x, *SINGLE, 2)), lambda x: joined(*heads_plainly(x, *SINGLE)), QKV),
    "heads-queries": (lambda x: heads(x, *DOUBLE, 2)[0], lambda x: heads_plainly(x, *DOUBLE)[0], QKV),
    "heads-values": (lambda x: heads(x, *DOUBLE, 2)[2], lambda x: heads_plainly(x, *DOUBLE)[2], QKV),
    "heads-unturned": (lambda x: joined(*heads(x, None, None, 2)), lambda x: joined(*heads_plainly(x, *NONE)), QKV),
    "attention": (attend_to_past_and_self, attend_plainly, SEEN),
    "attention-in-parts": (in_parts(attend_to_past_and_self, 1), attend_plainly, SEEN),
    "attention-padded": (
        in_parts(lambda *x: attend_to_past_and_self(*x, HIDDEN_PADDED), 1),
        lambda *x: attend_plainly(*x, HIDDEN_PADDED),
        SEEN,
    ),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@every_kernel
def test_kernels_derivatives_equal_finite_differences_twice_over(kernel):
    function, _, shapes = KERNELS[kernel]
    assert gradcheck(function, inputs(*shapes))
    assert gradgradcheck(function, inputs(*shapes))


@every_kernel
def test_kernels_derivatives_are_the_plain_formulas_whichever_are_asked_for(kernel):
    function, plain, shapes = KERNELS[kernel]
    asked = [c for n in range(1, len(shapes) + 1) for c in itertools.combinations(range(len(shapes)), n)]
    for through in asked:  # a derivative by the others is undefined, then
        for needed in {through, tuple(range(len(shapes)))}:
            results = []
            for call in (function, plain):
                x = [t.requires_grad_(i in needed) for i, t in enumerate(t.detach() for t in inputs(*shapes))]
                value = call(*x)
                cotangent = normal(*value.shape, seed=9).requires_grad_()
                slopes = torch.autograd.grad(value, [x[i] for i in through], cotangent, create_graph=True)
                total = sum((slope * normal(*slope.shape, seed=20 + i)).sum() for i, slope in enumerate(slopes))
                seconds = grads(total, cotangent, *[x[i] for i in needed])
                expanded = grads(sum(slope.sum() for slope in slopes), cotangent)  # from directions without strides
                results.append([value, *slopes, *seconds, *expanded])
            close(*results)


@every_kernel
def test_kernels_take_strided_inputs(kernel):
    function, plain, shapes = KERNELS[kernel]
    x = [torch.stack([t, t], -1)[..., 0].detach().requires_grad_() for t in inputs(*shapes)]
    values = function(*x), plain(*x)
    close(*values)
    close(*(grads(value.sum(), *x) for value in values))


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_keep_the_dtype(kernel, dtype):
    function, plain, shapes = KERNELS[kernel]
    x = [t.detach().to(dtype).requires_grad_() for t in inputs(*shapes)]
    value = function(*x)
    assert value.dtype == dtype
    slopes = torch.autograd.grad(value.square().sum(), x, create_graph=True)
    seconds = grads(sum(slope.square().sum() for slope in slopes), *x)
    assert {t.dtype for t in (*slopes, *seconds)} == {dtype}
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    close(value.double(), plain(*[t.double() for t in x]), rtol=tolerance, atol=tolerance)
    assert all(t.isfinite().all() for t in seconds)


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if not kernel.startswith("heads")])
def test_a_third_derivative_is_an_error(kernel):
    function, _, shapes = KERNELS[kernel]
    for needed in range(len(shapes)):
        x = [t.requires_grad_(i == needed) for i, t in enumerate(t.detach() for t in inputs(*shapes))]
        value = function(*x)
        (slope,) = torch.autograd.grad(value.pow(3).sum(), x[needed], create_graph=True)
        (second,) = torch.autograd.grad(slope.pow(3).sum(), x[needed], create_graph=True)
        assert second.requires_grad
        with pytest.raises(RuntimeError, match="a third derivative"):
            torch.autograd.grad(second.sum(), x[needed])


def test_a_rotation_has_all_derivatives():
    x = normal(1, 3, 24).requires_grad_()
    (slope,) = torch.autograd.grad(KERNELS["heads"][0](x).pow(4).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), x)
    assert third.abs().min() > 0


def test_a_third_derivative_of_an_energy_is_an_error():
    for name in ("none", "time-tied", "adaln", "residual", "frame", "residual-frame"):
        model, y = make(name), probabilities(1, 3).requires_grad_()
        (slope,) = torch.autograd.grad(model.given(context_of(name, 1, 3))(y).sum(), y, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), y, create_graph=True)
        for wanted in (y, model.head.weight, model.blocks[0].qkv.weight):
            with pytest.raises(RuntimeError, match="a third derivative"):
                torch.autograd.grad(second.sum(), wanted, retain_graph=True)


@pytest.mark.parametrize("rows", [1, 2, 3, 64])
def test_observed_attention_is_the_plain_formula_in_whatever_parts(rows):
    x = [t.requires_grad_() for t in normal(3, 2, 2, 5, 4)]
    results = []
    for attend in (in_parts(attend_to_past, rows), past_plainly):
        value = attend(*x)
        results.append([value, *grads((value * normal(*value.shape, seed=9)).sum(), *x)])
    close(*results)
    assert gradcheck(in_parts(attend_to_past, rows), x)


def test_observed_attention_refuses_a_second_derivative():
    x = [t.requires_grad_() for t in normal(3, 1, 1, 3, 2)]
    (slope,) = torch.autograd.grad(attend_to_past(*x).square().sum(), x[0], create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(slope.sum(), x[0])


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_energies_keep_the_dtype(name, dtype):
    model, context = make(name), context_of(name, 2, 4)
    y = probabilities(2, 4)
    expected, slope = energy_and_grad(model.given(context), y)
    context = context.to(dtype) if name in FRAMES else context
    got, got_slope = energy_and_grad(model.to(dtype).given(context), y.to(dtype))
    assert got.dtype == got_slope.dtype == dtype
    if dtype == torch.float32:  # two blocks of large random weights in 8 bits are another function
        assert (got - expected).norm() < 1e-4 * expected.norm()
        assert (got_slope - slope).norm() < 1e-4 * slope.norm()


# -------------------------------------------------------------------------------------------------------------- training


@every
def test_every_parameter_receives_a_gradient(name):
    model, objective = make(name), training()
    loss = objective(model, Batch(ids(2, 4, seed=1), context_of(name, 2, 4)), generator=torch.Generator().manual_seed(0)).value
    for parameter, grad in zip(dict(model.named_parameters()), grads(loss, *model.parameters()), strict=True):
        assert grad.isfinite().all(), parameter
        assert grad.abs().max() > 1e-9, parameter


@every
@pytest.mark.parametrize("reduce", ["mean", "last"])
def test_thinking_is_what_training_does(name, reduce):
    model, objective, context, start = make(name), training(reduce), context_of(name, 2, 4), normal(2, 4, V)
    batch = Batch(ids(2, 4, seed=1), context)
    *_, (state, _) = objective.sampler.trajectory(model.landscapes(context), start, unroll=objective.unroll)
    thought = ebm.think(model, objective.sampler, context, start[None])
    close(thought.y, state.y)
    close(batch.mean(objective.distance(thought.y, batch)), objective(model, batch, start=start).terms["last_step"])
    close(thought.energy, model.given(context)(thought.y.softmax(-1)))


# ----------------------------------------------------------------------------------------------------------------- sizes


def built(model: nn.Module) -> tuple[int, int, int]:
    return len(model.blocks), model.blocks[0].heads, model.embedding.weight.shape[1]


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_a_name_is_a_depth_heads_and_a_dim(size):
    with torch.device("meta"):
        transformer, energy, tied, residual = (
            make(50277, size) for make in (Transformer, TextEBT, lambda *x: TextEBT(*x, tied=True), ResidualTextEBT)
        )
    depth, heads, dim, _ = SIZES[size]
    assert built(transformer) == built(energy) == built(residual) == (depth, heads, dim)
    # Of each block: query, key, value, output; gate, up, down; two norms. Then a norm, and two tables.
    assert count(transformer) == depth * (7 * dim**2 + 2 * dim) + dim + 2 * 50277 * dim
    assert count(energy) == count(transformer) + dim
    assert count(residual) == count(transformer) + 2 * dim
    assert count(tied) == count(energy) - 50277 * dim


def test_the_sizes_are_the_papers():
    assert {name: tuple(size)[:3] for name, size in SIZES.items()} == {
        "4xs": (2, 2, 128),
        "3xs": (4, 4, 256),
        "xxs": (6, 6, 384),
        "2xs": (6, 6, 384),
        "xs": (12, 6, 384),
        "small": (12, 12, 768),
        "medium": (24, 16, 1024),
        "large": (24, 16, 1536),
        "xl": (24, 32, 2048),
    }


def test_free_sizes_and_numbers_beside_a_name():
    assert built(TextEBT(V, dim=12, depth=3, heads=2)) == (3, 2, 12)
    assert built(Transformer(V, "4xs", depth=1)) == (1, 2, 128)
    assert built(ResidualTextEBT(V, "4xs", dim=24, heads=3)) == (2, 3, 24)
    assert TextEBT(**TINY, hidden=20).blocks[0].down.weight.shape == (8, 20)
    assert TextEBT(**TINY).blocks[0].down.weight.shape == (8, 8)


@pytest.mark.parametrize("make", [TextEBT, ResidualTextEBT, Transformer])
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"size": "xss"}, "no size is named 'xss'.*xs"),
        ({"dim": 8, "depth": 1}, "pass the name of a size .* or dim, depth and heads"),
        ({}, "pass the name of a size"),
        ({"dim": 8, "depth": 1, "heads": 3}, "dim divides by 2 heads"),
        ({"dim": 6, "depth": 1, "heads": 2}, "dim divides by 2 heads"),
        ({"size": "4xs", "heads": 5}, "dim divides by 2 heads"),
        ({"size": "4xs", "depth": 0}, "at least 1"),
        ({"dim": 8, "depth": 0, "heads": 1}, "at least 1"),
        ({"dim": -8, "depth": 1, "heads": 1}, "at least 1"),
        ({"size": "4xs", "hidden": 0}, "hidden=0"),
        ({"size": "4xs", "vocab_size": 1}, "vocab_size=1"),
    ],
)
def test_sizes_that_cannot_work(make, keywords, message):
    with pytest.raises(ValueError, match=message):
        make(**{"vocab_size": V, **keywords})


# -------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, "the context is NoneType"),
        ([[0, 1]], "the context is list"),
        (torch.zeros(1, 3), "ids .* of whole numbers"),
        (torch.zeros(3, dtype=torch.long), r"the context is \(3,\)"),
        (torch.zeros(0, 3, dtype=torch.long), "at least one position"),
        (torch.zeros(2, 0, dtype=torch.long), "at least one position"),
        (torch.tensor([[0, V]]), f"ids from 0 to {V}, outside the {V} tokens"),
        (torch.tensor([[-1, 0]]), "ids from -1 to 0"),
    ],
)
@pytest.mark.parametrize("name", ["none", "residual", "transformer"])
def test_contexts_that_are_none(name, context, message):
    model = make(name)
    with pytest.raises(ValueError, match=message):
        model.given(context)
    with pytest.raises(ValueError, match=message):
        model.extend(model.encode(ids(1, 2)), context)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, V + 1), f"the {V} tokens of the vocabulary"),
        ((2, 3, 1), f"the {V} tokens of the vocabulary"),
        ((2, 4, V), "2 rows of 3 positions"),
        ((2, 0, V), "2 rows of 3 positions"),
        ((3, 3, V), "2 rows of 3 positions"),
        ((1, 3, V), "2 rows of 3 positions"),
        ((3, V), "2 rows of 3 positions"),
        ((V,), "2 rows of 3 positions"),
    ],
)
@every_text
def test_candidates_that_do_not_fit(name, shape, message):
    with pytest.raises(ValueError, match=message):
        make(name).given(ids(2, 3))(torch.zeros(shape, dtype=torch.float64))


@every_text
def test_codes_that_do_not_fit(name):
    model = make(name)
    with pytest.raises(ValueError, match="scores y given a context"):
        model(probabilities(2, 3))
    code = model.encode(ids(2, 3))
    with pytest.raises(ValueError, match="3 rows extend a code of 2"):
        model.extend(code, ids(3, 1))
    with pytest.raises(ValueError, match="without padding"):
        model.extend(code, padded([[1, 2], [1]]))
    with pytest.raises(ValueError, match=f"level {model.levels}"):
        model.given(ids(2, 3), level=model.levels)


def test_landscapes_that_cannot_be():
    with pytest.raises(ValueError, match="conditioning='film': choose none, time, adaln or adaln-zero"):
        TextEBT(**TINY, conditioning="film")
    with pytest.raises(ValueError, match="levels=0"):
        TextEBT(**TINY, levels=0)


# -------------------------------------------------------------------------------------------------------- initialisation


def test_embeddings_have_rms_one_and_matrices_are_xaviers():
    torch.manual_seed(0)
    energy = TextEBT(vocab_size=50277, dim=16, depth=1, heads=1)
    close(energy.embedding.weight.square().mean().sqrt().item(), 1.0, rtol=0.01)
    close(energy.candidate.weight.std().item(), (2 / (50277 + 16)) ** 0.5, rtol=0.01)
    close(energy.head.weight.std().item(), (2 / 17) ** 0.5, rtol=0.5)
    block = energy.blocks[0]
    for matrix in (*block.qkv.weight.chunk(3), *block.gate_up.weight.chunk(2), block.out.weight, block.down.weight):
        close(matrix.std().item(), (2 / sum(matrix.shape)) ** 0.5, rtol=0.15)


@LAW
@given(seed=seeds)
def test_adaln_zero_starts_at_zero_and_a_residual_form_at_its_transformer(seed):
    torch.manual_seed(seed)
    context, y = ids(2, 4, seed=seed), probabilities(3, 2, 4, seed=seed)
    assert not TextEBT(**TINY, conditioning="adaln-zero", levels=2).double().given(context)(y).any()
    for conditioning in CONDITIONINGS[:3]:
        model = ResidualTextEBT(**TINY, conditioning=conditioning, levels=1).double()
        logits = model.encode(context).out
        close(model.given(context)(y), -(y * logits).sum(-1))
        sampler = GradientDescent(step_size=1.0, steps=1, retraction="softmax")
        thought = ebm.think(model, sampler, context, torch.zeros(1, 2, 4, V, dtype=torch.float64))
        close(thought.y, logits + 1 / V)
        close(thought.y.softmax(-1), logits.softmax(-1))


def test_a_residual_form_without_its_head_is_the_transformer_of_the_same_weights():
    model, transformer = make("residual"), make("transformer")
    missing = model.load_state_dict(transformer.state_dict(), strict=False)
    assert missing == (["common", "head.weight"], [])
    nn.init.zeros_(model.head.weight)
    context, y = ids(2, 4), probabilities(2, 4)
    close(model.given(context)(y), transformer.given(context)(y))
    batch = Batch(ids(2, 4, seed=1), context)
    thought = ebm.think(
        transformer, GradientDescent(step_size=1.0, retraction="softmax"), context, torch.zeros(1, 2, 4, V).double()
    )
    close(thought.y.log_softmax(-1), transformer.predict(batch).y.log_softmax(-1))
