"""Laws of rolling out: a cached past changes nothing but the time, frames follow one another, and surprise is their energy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ebm.baselines import CopyLast, Extrapolate, FrameTransformer
from ebm.decoding.rollout import ROWS_AT_ONCE, horizons, rollout, surprise
from ebm.energies import MLPEnergy
from ebm.energies.ebt import FrameEBT, ResidualFrameEBT
from ebm.interfaces import Batch
from ebm.samplers import GradientDescent
from ebm.thinking import Thinker, think

F = 5
TINY = {"features": F, "dim": 8, "depth": 2, "heads": 2}
CONDITIONINGS = [
    ("none", 1),
    ("none", 2),
    ("time", 1),
    ("time", 2),
    ("adaln", 1),
    ("adaln", 2),
    ("adaln-zero", 1),
    ("adaln-zero", 2),
]
KINDS = {"plain": FrameEBT, "residual": ResidualFrameEBT}
SAMPLER = GradientDescent(step_size=0.3, steps=2)


def randomised(model: nn.Module, seed: int = 0):
    """Draws all weights of a model in float64, since some start at zero."""
    drawing = generator(seed)
    for parameter in model.double().parameters():
        nn.init.normal_(parameter, std=0.25, generator=drawing)
    return model


def energy_of(kind: str = "residual", conditioning: str = "time", levels: int = 2, seed: int = 0):
    return randomised(KINDS[kind](**TINY, conditioning=conditioning, levels=levels), seed)


def thinker(energy=None, **how) -> Thinker:
    return Thinker(energy_of() if energy is None else energy, SAMPLER, **how)


def clips(rows: int = 2, count: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(rows, count, F, dtype=torch.float64, generator=generator(seed)).cumsum(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------------------- the cache


def recomputed(predictor: Thinker, frames: Tensor, count: int, start: str = "last-frame", drawing=None, last=None):
    """Rolls out by thinking about every position of the whole (or the `last` frames') context at each frame."""
    energies = []
    for _ in range(count):
        context = frames if last is None else frames[:, -last:]

        def begin(context=context) -> Tensor:
            y = context.clone() if start == "last-frame" else torch.zeros_like(context)
            if start == "noise":
                y[:, -1:].normal_(generator=drawing)
            return y

        starts = torch.stack([begin() for _ in range(predictor.candidates)])
        how = (predictor.candidates, predictor.steps, predictor.select, predictor.patience, predictor.tolerance)
        thought = think(predictor.energy, SAMPLER, context, starts, *how)
        frames = torch.cat([frames, thought.y[:, -1:]], 1)
        energies.append(thought.energy[:, -1])
    return frames[:, -count:], torch.stack(energies, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("conditioning", "levels"), CONDITIONINGS)
def test_a_cached_past_predicts_what_recomputing_it_does(kind, conditioning, levels):
    energy, observed = energy_of(kind, conditioning, levels), clips()
    for how, start in (({}, "last-frame"), ({"steps": 3, "candidates": 3}, "noise"), ({"steps": 4, "patience": 1}, "zeros")):
        predictor = thinker(energy, **how)
        found = rollout(predictor, observed, 4, window=16, start=start, generator=generator(1))
        frames, energies = recomputed(predictor, observed, 4, start, generator(1))
        torch.testing.assert_close(found.frames, frames)
        torch.testing.assert_close(found.energies, energies)
        assert found.frames.diff(dim=1).abs().amin((0, 2)).max() > 1e-6  # else a law of copying would be tested


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    *(st.integers(1, high) for high in (3, 5, 4, 3, 3)),
    st.sampled_from(["min", "max", "max-drop"]),
    st.integers(0, 99),
)
def test_any_shape_is_predicted_so(kind, rows, observe, count, steps, candidates, select, seed):
    predictor = thinker(energy_of(kind, seed=seed), steps=steps, candidates=candidates, select=select)
    observed = clips(rows, observe, seed)
    found = rollout(predictor, observed, count, window=observe + count, start="noise", generator=generator(seed))
    frames, energies = recomputed(predictor, observed, count, "noise", generator(seed))
    assert found.frames.shape == (rows, count, F)
    torch.testing.assert_close(found.frames, frames)
    torch.testing.assert_close(found.energies, energies)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [1, 2, 3, 6])
def test_a_full_window_goes_on_from_its_last_half(kind, window):
    predictor, frames = thinker(energy_of(kind)), clips(count=4)
    found = rollout(predictor, frames, 9, window=window)
    length = min(4, window)
    for index in range(9):
        if length > window:
            length = max(1, window // 2)
        y, energy = recomputed(predictor, frames, 1, last=length)
        torch.testing.assert_close(found.frames[:, index : index + 1], y)
        torch.testing.assert_close(found.energies[:, index : index + 1], energy)
        frames = torch.cat([frames, y], 1)
        length += 1


@pytest.mark.parametrize("predictor", [thinker(), randomised(FrameTransformer(**TINY)), CopyLast(), Extrapolate()])
def test_of_what_was_observed_the_last_window_counts(predictor):
    found = rollout(predictor, clips(count=9), 5, window=4)
    assert torch.equal(found.frames, rollout(predictor, clips(count=9)[:, -4:], 5, window=4).frames)


@pytest.mark.parametrize(("conditioning", "codes"), [("none", 1), ("time", 2)])
def test_the_past_is_encoded_once_for_landscapes_that_are_one(monkeypatch, conditioning, codes):
    calls = []
    for name in ("encode", "extend"):
        whole = getattr(FrameEBT, name)
        monkeypatch.setattr(FrameEBT, name, lambda *a, name=name, whole=whole: calls.append(name) or whole(*a))
    rollout(thinker(energy_of("plain", conditioning, 2)), clips(), 5, window=16)
    assert (calls.count("encode"), calls.count("extend")) == (codes, 4 * codes)


# -------------------------------------------------------------------------------------------------------------- predictors


def test_a_feed_forward_transformer_predicts_from_the_growing_context():
    model, frames = randomised(FrameTransformer(**TINY)), clips()
    found = rollout(model, frames, 6, window=16)
    for _ in range(6):
        frames = torch.cat([frames, model.predict(Batch(frames, frames)).y[:, -1:]], 1)
    torch.testing.assert_close(found.frames, frames[:, -6:])
    assert found.energies is None


def test_a_transformer_as_an_energy_predicts_the_same():
    model = randomised(FrameTransformer(**TINY))
    found = rollout(Thinker(model, GradientDescent(step_size=1.0, steps=1)), clips(), 6, window=5)
    torch.testing.assert_close(found.frames, rollout(model, clips(), 6, window=5).frames)
    torch.testing.assert_close(found.energies, torch.zeros(2, 6, dtype=torch.float64))


def test_what_has_no_model_copies_or_goes_straight_on():
    observed = clips()
    last, change = observed[:, -1:], observed[:, -1:] - observed[:, -2:-1]
    steps = torch.arange(1, 6).view(1, 5, 1)
    torch.testing.assert_close(rollout(Extrapolate(), observed, 5, window=8).frames, last + steps * change)
    torch.testing.assert_close(rollout(Extrapolate(), observed, 5, window=1).frames, last.expand(-1, 5, -1))
    copied = rollout(CopyLast(), observed, 5, window=8)
    assert torch.equal(copied.frames, last.expand(-1, 5, -1))
    assert copied.energies is None


def test_rows_are_independent():
    together = rollout(thinker(), clips(3), 5, window=4)
    for index in range(3):
        alone = rollout(thinker(), clips(3)[index : index + 1], 5, window=4)
        torch.testing.assert_close(together.frames[index : index + 1], alone.frames)
        torch.testing.assert_close(together.energies[index : index + 1], alone.energies)


def test_energies_are_those_of_the_predicted_frames():
    predictor, observed = thinker(energy_of(levels=1)), clips(1)
    found = rollout(predictor, observed, 4, window=16)
    scored = surprise(predictor.energy, torch.cat([observed, found.frames], 1)[0], window=16)
    torch.testing.assert_close(found.energies[0], scored[-4:])


# ---------------------------------------------------------------------------------------------------------- draws and modes


def test_the_same_generator_predicts_the_same_and_no_other_is_touched():
    noisy = Thinker(energy_of(), GradientDescent(step_size=0.3, steps=2, noise_std=0.1), candidates=2)
    before = torch.get_rng_state()
    found = [rollout(noisy, clips(), 4, window=5, start="noise", generator=generator(seed)).frames for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.isclose(found[0], found[2]).any()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("predictor", [thinker(), randomised(FrameTransformer(**TINY)), Extrapolate()])
def test_nothing_is_differentiated_and_modes_and_inputs_stay(predictor):
    observed = clips().requires_grad_()
    modules = [part for part in (predictor, getattr(predictor, "energy", None)) if isinstance(part, nn.Module)]
    for module in modules:
        module.train()
    before = observed.detach().clone()
    found = rollout(predictor, observed, 4, window=5)
    assert not found.frames.requires_grad
    assert found.energies is None or not found.energies.requires_grad
    assert torch.is_grad_enabled()
    assert all(module.training for module in modules)
    assert all(parameter.grad is None for module in modules for parameter in module.parameters())
    assert torch.equal(observed, before)


# ---------------------------------------------------------------------------------------------------------------- surprise


@pytest.mark.parametrize("energy", [energy_of("plain"), energy_of("residual"), randomised(FrameTransformer(**TINY))])
@pytest.mark.parametrize(("count", "window"), [(1, 3), (2, 3), (4, 3), (5, 3), (ROWS_AT_ONCE + 9, 4), (6, 1), (5, 90)])
def test_surprise_is_each_frames_energy_given_its_own_past(energy, count, window):
    features = clips(1, count)[0]
    found = surprise(energy, features, window)
    assert found.shape == (count - 1,)
    assert not found.requires_grad
    with torch.no_grad():
        alone = [energy.given(features[None, max(0, t - window) : t])(features[None, t : t + 1]).item() for t in range(1, count)]
    torch.testing.assert_close(found, torch.tensor(alone, dtype=torch.float64))


def test_what_is_new_surprises():
    features = torch.zeros(12, F)
    features[7:] = torch.randn(F, generator=generator())
    assert surprise(ResidualFrameEBT(**TINY), features, 4).argmax() == 6


# ---------------------------------------------------------------------------------------------------------------- horizons


@pytest.mark.parametrize("predictor", [thinker(), randomised(FrameTransformer(**TINY)), CopyLast()])
def test_horizons_are_the_errors_of_a_rollout(predictor):
    windows = clips(3, 9)
    y, true = rollout(predictor, windows[:, :4], 5, window=6).frames, windows[:, 4:]
    torch.testing.assert_close(
        horizons(predictor, windows, 4, window=6), nn.functional.mse_loss(y, true, reduction="none").mean(-1)
    )
    found = horizons(predictor, windows, 4, window=6, distance=lambda a, b: (a - b).abs().amax(-1))
    torch.testing.assert_close(found, (y - true).abs().amax(-1))


def test_horizons_draw_from_their_generator():
    found = [horizons(thinker(), clips(2, 6), 3, window=4, start="noise", generator=generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


# ------------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"predictor": MLPEnergy(2)}, "predictor is MLPEnergy, which lacks follow: frames are predicted by a Thinker over"),
        ({"predictor": energy_of()}, "predictor is ResidualFrameEBT"),
        ({"predictor": thinker(MLPEnergy(2))}, "predictor is a Thinker over MLPEnergy, which lacks features: frames"),
        ({"observed": [1.0]}, r"observed is list: pass features \(B, S, 5\)"),
        ({"observed": clips()[0]}, r"observed is \(4, 5\)"),
        ({"observed": clips()[..., :4]}, r"observed is \(2, 4, 4\)"),
        ({"predictor": CopyLast(), "observed": clips()[0]}, r"observed is \(4, 5\): pass features \(B, S, features\)"),
        ({"observed": clips()[:, :0]}, r"observed is \(2, 0, 5\)"),
        ({"observed": clips()[:0]}, r"shape \(0, 4, 5\): there are no chains"),
        ({"observed": clips().long()}, r"int64"),
        ({"count": 0}, "count=0: pass a number of at least 1"),
        ({"window": 0}, "window=0"),
        ({"start": "data"}, "start='data': choose last-frame, noise or zeros"),
        ({"predictor": thinker(candidates=0)}, "candidates=0"),
        ({"predictor": thinker(patience=0)}, "patience=0"),
        ({"predictor": thinker(steps=-1)}, "steps=-1"),
    ],
)
def test_what_cannot_work_is_said(changed, words):
    with pytest.raises(ValueError, match=words):
        rollout(**{"predictor": thinker(), "observed": clips(), "count": 1, "window": 8, **changed})


def test_what_cannot_be_scored_is_said():
    for features in (clips(), clips()[0, :0], clips()[0, :, :2], [1.0]):
        with pytest.raises(ValueError, match=r"features is .*: pass those of a clip's frames, \(T, 5\)"):
            surprise(energy_of(), features, 4)
    with pytest.raises(ValueError, match="window=0"):
        surprise(energy_of(), clips()[0], 0)
    for observe in (0, 4, 5):
        with pytest.raises(ValueError, match=f"observe={observe}: of windows of 4 frames, observe 1 to 3"):
            horizons(thinker(), clips(), observe, window=4)


def test_thinking_that_runs_away_says_so():
    runaway = Thinker(energy_of(), GradientDescent(step_size=1e30, steps=12))
    with pytest.raises(FloatingPointError):
        rollout(runaway, clips(), 3, window=8)
