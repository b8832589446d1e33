"""Laws of what video prediction is compared with: copying, extrapolating, and a causal transformer in one pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ebm
from ebm.baselines import CopyLast, Extrapolate, FrameTransformer
from ebm.energies import ResidualFrameEBT
from ebm.energies.ebt import SIZES
from ebm.interfaces import Batch
from ebm.samplers import GradientDescent
from tests.helpers import close, laws, normal, seeds

FEATURES = 3
TINY = {"features": FEATURES, "dim": 8, "depth": 2, "heads": 2}
VARIANTS = {"plain": {}, "one-change": {"history": 1}, "appearance": {"appearance": True, "hidden": 6}}
every = pytest.mark.parametrize("name", VARIANTS)
LAW = settings(laws, max_examples=8)


def make(name="plain", kind=FrameTransformer, seed=0):
    """Draws all parameters anew: the prediction's are zero at first."""
    torch.manual_seed(seed)
    model = kind(**TINY, **VARIANTS[name]).double()
    for index, parameter in enumerate(model.parameters()):
        nn.init._no_grad_normal_(parameter, 0.0, 0.5) if index % 2 else nn.init._no_grad_normal_(parameter, 0.3, 0.5)
    return model


# --------------------------------------------------------------------------------------------------- copying, extrapolating


@LAW
@given(rows=st.integers(1, 3), count=st.integers(1, 5), seed=seeds)
def test_copying_and_extrapolating(rows, count, seed):
    context = normal(rows, count, FEATURES, seed=seed)
    copied, continued = (kind().predict(Batch(context, context)) for kind in (CopyLast, Extrapolate))
    for prediction in (copied, continued):
        assert prediction.energy is None
        assert prediction.evaluations == 0
        assert prediction.y.shape == context.shape
    for row in range(rows):
        for i in range(count):
            close(copied.y[row, i], context[row, i])
            close(continued.y[row, i], context[row, i] + (context[row, i] - context[row, i - 1] if i else 0))


def test_steady_motion_is_extrapolated_without_error():
    frames = torch.arange(7.0)[None, :, None] * torch.tensor([1.0, -2.0, 0.5]) + 3
    batch = Batch(frames[:, 1:], frames[:, :-1])
    close(Extrapolate().predict(batch).y[:, 1:], batch.target[:, 1:])
    assert (CopyLast().predict(batch).y - batch.target).abs().amin() == 0.5


# ------------------------------------------------------------------------------------------------------------ transformer


@every
@LAW
@given(rows=st.integers(1, 2), count=st.integers(1, 6), seed=seeds)
def test_a_prediction_is_one_step_of_its_energy_from_anywhere(name, rows, count, seed):
    model, context = make(name), normal(rows, count, FEATURES, seed=seed)
    prediction = model.predict(Batch(context, context))
    assert prediction.energy is None
    assert prediction.evaluations == 1
    start = 3 * normal(1, rows, count, FEATURES, seed=seed + 1)
    thought = ebm.think(model, GradientDescent(step_size=1.0, steps=1), context, start)
    close(thought.y, prediction.y)
    close(thought.energy, torch.zeros_like(thought.energy))
    y = start[0]
    close(model.given(context)(y), (y - prediction.y).square().sum(-1) / 2)


@every
@pytest.mark.parametrize("kind", [FrameTransformer, ResidualFrameEBT])
def test_a_prediction_sees_its_past_alone(name, kind):
    model, context, y = make(name, kind), normal(2, 6, FEATURES), normal(2, 6, FEATURES, seed=1)
    value = model.given(context)(y)
    for j in range(6):
        other = context.clone()
        other[:, j] += 0.5
        changed = (model.given(other)(y) - value).abs() > 1e-9
        assert (changed == (torch.arange(6) >= j)).all()


@every
@pytest.mark.parametrize("kind", [FrameTransformer, ResidualFrameEBT])
@LAW
@given(cuts=st.lists(st.integers(1, 4), min_size=2, max_size=4), grad=st.booleans(), seed=seeds)
def test_an_extended_code_is_that_of_all_frames(name, kind, cuts, grad, seed):
    model, context = make(name, kind), normal(2, sum(cuts), FEATURES, seed=seed)
    y = normal(2, sum(cuts), FEATURES, seed=seed + 1)
    first, *more = context.split(cuts, 1)
    with torch.set_grad_enabled(grad):
        code = model.encode(first)
        for part in more:
            before, code = code, model.extend(code, part)
        whole = model.encode(context)
        for got, expected in zip((*code.observed, code.out), (*whole.observed, whole.out), strict=True):
            close(got, expected)
        close(model(y, code), model(y, whole))
        tail = y[:, -cuts[-1] :]
        close(model(tail, code), model(y, whole)[:, -cuts[-1] :])
        close(model.extend(before, more[-1] + 1).observed.frames[:, : before.length], context[:, : before.length])
        if kind is FrameTransformer:
            close(model.follow_code(code), model.predict(Batch(context, context)).y)


@LAW
@given(history=st.integers(1, 4), count=st.integers(1, 7), cut=st.integers(1, 6), seed=seeds)
def test_changes_and_their_strength_are_the_oracles(history, count, cut, seed):
    motion = FrameTransformer(**TINY, history=history).motion
    frames = normal(2, count, FEATURES, seed=seed)
    seen = motion.see(frames)
    if cut < count:
        first = motion.see(frames[:, :cut])
        joined = first.then(motion.see(frames[:, cut:], first))
        for got, expected in zip(joined, seen, strict=True):
            close(got, expected)
    for row in range(2):
        for i in range(count):
            changes = [frames[row, k] - frames[row, k - 1] for k in range(i, max(0, i - history), -1)]
            for k in range(history):
                close(seen.changes[row, i, k], changes[k] if k < len(changes) else torch.zeros_like(frames[0, 0]))
            squares = torch.stack([*(change.square().mean() for change in changes)] or [torch.zeros(()).double()])
            close(seen.scale[row, i, 0], (squares.mean() + 1e-6).sqrt())


@LAW
@given(factor=st.floats(0.1, 10), shift=st.floats(-3, 3), seed=seeds)
def test_scaling_a_clips_changes_scales_what_is_predicted(factor, shift, seed):
    """But for log s, which is embedded, too: without it, and where no clip is nearly still."""
    model = make()
    with torch.no_grad():
        model.motion.projection.weight[:, -1] = 0
    context = 1e3 * normal(2, 5, FEATURES, seed=seed)  # far above STILL
    context = torch.cat([context[:, :1], context], 1)[:, 1:]
    scaled = factor * context + shift
    change, expected = (model.predict(Batch(clip, clip)).y[:, 1:] - clip[:, 1:] for clip in (scaled, context))
    close(change, factor * expected, rtol=1e-6, atol=1e-6)


def test_it_starts_as_a_copy_and_is_registered():
    model = ebm.build("energy", "frame-transformer", **TINY)
    assert isinstance(model, FrameTransformer)
    assert isinstance(ebm.build("energy", "residual-frame-ebt", **TINY), ResidualFrameEBT)
    context = torch.randn(2, 5, FEATURES)
    assert torch.equal(model.predict(Batch(context, context)).y, context)


def test_prediction_leaves_the_mode_and_the_gradients_alone():
    model, context = make(), normal(2, 5, FEATURES)
    assert not model.train().predict(Batch(context, context)).y.requires_grad
    assert model.training


@pytest.mark.parametrize("name", VARIANTS)
def test_without_its_head_a_residual_ebt_is_the_transformer_of_the_same_weights(name):
    model, transformer = make(name, ResidualFrameEBT), make(name)
    missing = model.load_state_dict(transformer.state_dict(), strict=False)
    assert missing == (["head.weight"], [])
    context, y = normal(2, 4, FEATURES), normal(3, 2, 4, FEATURES, seed=1)
    assert not torch.allclose(model.given(context)(y), transformer.given(context)(y))
    nn.init.zeros_(model.head.weight)
    close(model.given(context)(y), transformer.given(context)(y))


@pytest.mark.parametrize("size", SIZES)
def test_a_name_is_a_size(size):
    with torch.device("meta"):
        models = FrameTransformer(96, size), ResidualFrameEBT(96, size)
    depth, heads, dim, _ = SIZES[size]
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    for model in models:
        assert (len(model.blocks), model.blocks[0].heads, model.dim) == (depth, heads, dim)
    # Of each block: query, key, value, output; gate, up, down; two norms. Then a norm, what embeds, and what reads out.
    assert counts[0] == depth * (7 * dim**2 + 2 * dim) + dim + (97 + 1) * dim + (3 + 96) * dim
    assert counts[1] == counts[0] + dim


@pytest.mark.parametrize("kind", [FrameTransformer, ResidualFrameEBT])
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"features": 0}, "features=0: a frame has at least one"),
        ({"history": 0}, "history=0: look at one change at least"),
        ({"hidden": 0}, "hidden=0"),
        ({"heads": 3}, "dim divides by 2 heads"),
        ({"size": "xss"}, "no size is named 'xss'"),
    ],
)
def test_sizes_that_cannot_work(kind, keywords, message):
    with pytest.raises(ValueError, match=message):
        kind(**{**TINY, **keywords})


@pytest.mark.parametrize("kind", [FrameTransformer, ResidualFrameEBT])
@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, "the context is NoneType"),
        ([[0.0]], "the context is list"),
        (torch.zeros(2, 3).double(), r"the context is \(2, 3\): pass features \(B, S, 3\)"),
        (torch.zeros(2, 0, 3).double(), r"the context is \(2, 0, 3\).* at least one frame"),
        (torch.zeros(2, 4, 5).double(), r"the context is \(2, 4, 5\)"),
    ],
)
def test_contexts_that_are_none(kind, context, message):
    model = make(kind=kind)
    code = model.encode(normal(2, 2, FEATURES))
    with pytest.raises(ValueError, match=message):
        model.given(context)
    with pytest.raises(ValueError, match=message):
        model.extend(code, context)


@pytest.mark.parametrize("kind", [FrameTransformer, ResidualFrameEBT])
def test_what_does_not_fit(kind):
    model, context = make(kind=kind), normal(2, 3, FEATURES)
    with pytest.raises(ValueError, match="3 rows extend a code of 2: pass as many"):
        model.extend(model.encode(context), normal(3, 1, FEATURES))
    with pytest.raises(ValueError, match="scores y given a context"):
        model(normal(2, 3, FEATURES))
    for shape in ((2, 4, 3), (3, 3, 3), (1, 3, 3), (3, 3), (2, 0, 3)):
        with pytest.raises(ValueError, match="2 rows of 3 positions"):
            model.given(context)(torch.zeros(shape).double())
    for width in (1, 2, 4):
        with pytest.raises(ValueError, match=f"features of shape .*{width}.*: the last axis has 3 of them"):
            model.given(context)(normal(2, 3, width))
