"""Laws of the diffusion transformer, of how it denoises, and of the objective that trains it."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ebm
from ebm.baselines import DiT
from ebm.baselines.diffusion_steps import bound, predicted_clean
from ebm.interfaces import Batch, energy_and_grad
from ebm.objectives import Diffusion, Reconstruction
from ebm.samplers import GradientDescent
from ebm.tasks import Denoising
from ebm.tasks.images.noising import Noisy
from ebm.thinking import think
from tests.helpers import close, laws, normal, quadratic, seeded, seeds

EVENT = (2, 4, 6)


def dit(stir: float = 0.3, **keywords) -> DiT:
    torch.manual_seed(0)
    model = DiT((4, 6), 2, 2, dim=8, depth=2, heads=2, **keywords).double()
    if stir:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=stir)
    return model


def noisy(*steps: int, seed: int = 0) -> Noisy:
    return Noisy(normal(len(steps), *EVENT, seed=seed), torch.tensor(steps))


def batch_of(context: Noisy) -> Batch:
    return Batch(torch.zeros_like(context.image), context)


def rows_of(context: Noisy, rows) -> Noisy:
    return Noisy(context.image[rows], context.step[rows])


class Known(DiT):
    """Knows the noise in Gaussian data N(0.1, 0.2²)."""

    def noise_and_variance(self, y, step):
        signal, std = (table[step].reshape(-1, 1, 1, 1) for table in (self.schedule.signal, self.schedule.std))
        share = torch.zeros_like(y)
        return std * (y - 0.1 * signal) / (0.04 * signal**2 + std**2), share


# --------------------------------------------------------------------------------------------------------------- the network


def test_it_predicts_no_noise_at_first():
    model = dit(stir=0)
    for found in model.noise_and_variance(normal(3, *EVENT), torch.tensor([0, 5, 999])):
        assert found.shape == (3, *EVENT)
        assert not found.any()


def test_steps_and_places_matter():
    model, y = dit(), normal(1, *EVENT).expand(2, *EVENT)
    one, two = model.noise_and_variance(y, torch.tensor([3, 4]))[0]
    assert not torch.allclose(one, two, atol=1e-4)
    same = model.noise_and_variance(torch.ones(1, *EVENT).double(), torch.tensor([3]))[0]
    assert not torch.allclose(same[0, :, :2, :2], same[0, :, 2:, 2:4], atol=1e-4)


def test_its_head_reads_a_patch_where_the_patch_is():
    """With a head that copies a bias, every patch of the prediction is that bias: (noise or share, channel, row, column)."""
    model = dit(stir=0)
    with torch.no_grad():
        model.head.bias.copy_(torch.arange(16.0))
    noise, share = model.noise_and_variance(normal(1, *EVENT), torch.tensor([3]))
    assert torch.equal(noise[0], torch.arange(8.0).double().reshape(2, 2, 2).repeat(1, 2, 3))
    assert torch.equal(share[0], torch.arange(8.0, 16.0).double().reshape(2, 2, 2).repeat(1, 2, 3))


@laws
@given(seeds)
def test_rows_do_not_look_at_each_other(seed):
    model, context = dit(), noisy(99, 3, 50, 3, seed=seed)
    together = model.at(6).predict(batch_of(context)).y
    order = torch.tensor([2, 0, 3, 1])
    close(model.at(6).predict(batch_of(rows_of(context, order))).y, together[order])
    for row in range(4):
        close(model.at(6).predict(batch_of(rows_of(context, slice(row, row + 1)))).y, together[row : row + 1])


# ---------------------------------------------------------------------------------------------------------------- the energy


@laws
@given(seeds)
def test_its_energy_is_a_bowl_around_the_predicted_picture(seed):
    model, context, y = dit(), noisy(99, 4, seed=seed), normal(2, *EVENT, seed=seed + 1)
    clean = predicted_clean(model.schedule, context.image, context.step, model.noise_and_variance(*context)[0])
    value, slope = energy_and_grad(model.given(context), y)
    close(value, (y - clean).square().flatten(1).mean(1).detach() / 2)
    close(slope, (y - clean).detach() / model.natural_step)
    close(model.score(batch_of(context), y.expand(3, 2, *EVENT)), value.expand(3, 2))
    thought = think(model, GradientDescent(step_size=model.natural_step), context, y[None])
    close(thought.y, clean.detach())
    close(model.at(1).predict(batch_of(context)).y, clean.clamp(-1, 1).detach())


def test_reconstruction_trains_it_too():
    model, context = dit(), noisy(99, 4)
    objective = Reconstruction(
        GradientDescent(step_size=model.natural_step),
        start=lambda batch, generator=None: batch.context.image,
        distance=lambda y, batch: (y - batch.target).square().flatten(1).mean(1),
    )
    objective(model, batch_of(context)).value.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


# --------------------------------------------------------------------------------------------------------------- denoising


@pytest.mark.parametrize("sampling", ["ddim", "ddpm"])
@pytest.mark.parametrize("passes", [1, 3, 10])
def test_pictures_are_denoised_from_their_own_steps(sampling, passes):
    model, context = dit(sampling=sampling, passes=passes), noisy(99, 4, 0, 4)
    before = copy.deepcopy(context)
    model.train()
    found = model.predict(batch_of(context), generator=seeded())
    assert model.training
    assert found.energy is None
    assert found.evaluations == passes
    assert found.y.shape == context.image.shape
    assert found.y.abs().max() <= 1  # the last pass ends at a clipped picture
    assert not found.y.requires_grad
    assert all(torch.equal(one, two) for one, two in zip(before, context, strict=True))
    assert torch.equal(found.y, model.at(passes).predict(batch_of(context), context.image, generator=seeded()).y)
    assert (sampling == "ddim" or passes == 1) == torch.equal(found.y, model.predict(batch_of(context), generator=seeded(1)).y)
    assert model.at(10).predict(batch_of(noisy(4, 2))).evaluations == 5
    once = model.encode(rows_of(context, slice(2, 3))).clamp(-1, 1)
    close(found.y[2:3], once.detach())  # from step 0 there is one pass to take


def test_many_passes_know_gaussian_data():
    """DDIM keeps how many deviations from the mean a number is, and the mean of ancestral samples is the expected picture."""
    model = Known((4, 6), 2, 2, dim=8, depth=1, heads=2, passes=100)
    signal, std = model.schedule.signal[99], model.schedule.std[99]
    context = Noisy(0.1 * signal + 0.2 * normal(64, *EVENT), torch.full((64,), 99))
    spread = (0.04 * signal**2 + std**2).sqrt()
    close(model.predict(batch_of(context)).y, 0.1 + 0.2 * (context.image - 0.1 * signal) / spread, atol=4e-3, rtol=0)
    model.sampling = "ddpm"
    one = Noisy(context.image[:1].expand(4000, *EVENT), torch.full((4000,), 99))
    drawn = model.predict(batch_of(one), generator=seeded()).y
    expected = 0.1 + 0.04 * signal / spread**2 * (context.image[0] - 0.1 * signal)
    deviation = 0.2 * std / spread
    close(drawn.mean(0), expected, rtol=0, atol=5 * float(deviation) / math.sqrt(4000))
    assert drawn.std(0).mean().item() == pytest.approx(float(deviation), rel=0.05)


# ------------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"passes": 0}, "passes=0: pass a number"),
        ({"sampling": "euler"}, "sampling='euler': choose ddim or ddpm"),
        ({"schedule_steps": 20}, "steps=20"),
    ],
)
def test_arguments_that_cannot_work_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        dit(**keywords)


def test_contexts_that_cannot_be_are_refused():
    model, y = dit(), normal(1, *EVENT)
    with pytest.raises(ValueError, match=r"context is NoneType: pass Noisy\(image, step\)"):
        model.encode()
    with pytest.raises(ValueError, match="steps -1 to 1000: those of the schedule are 0 to 999"):
        model.predict(batch_of(noisy(-1, 1000)))
    with pytest.raises(ValueError, match=r"code is NoneType.*energy\.given"):
        model(y)
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\).*\(2, 4, 6\)"):
        model.given(noisy(3))(y[..., :4])
    with pytest.raises(ValueError, match="passes=0"):
        model.at(0)


# --------------------------------------------------------------------------------------------------------------- training it


@laws
@given(seeds, st.booleans())
def test_the_loss_is_the_noises_error_and_the_bound(seed, weighted):
    model, clean = dit(), normal(3, *EVENT, seed=seed).clamp(-1, 1)
    weight = normal(3, seed=seed + 1).abs() if weighted else None
    loss = Diffusion(steps=(5, 80))(model, Batch(clean, None, weight), generator=seeded(seed))
    generator = seeded(seed)
    step = torch.randint(5, 81, (3,), generator=generator)
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    x = model.schedule.noised(clean, step, noise)
    predicted, share = model.noise_and_variance(x, step)
    error, bits = (predicted - noise).square().flatten(1).mean(1), bound(model.schedule, clean, x, step, predicted, share)
    weight = torch.ones(3, dtype=torch.float64) if weight is None else weight
    shares = weight / weight.sum()
    close(loss.terms["noise_error"], (shares * error).sum().detach())
    close(loss.terms["vlb"], (shares * bits).sum().detach())
    close(loss.value.detach(), loss.terms["noise_error"] + loss.terms["vlb"])
    assert not any(term.requires_grad for term in loss.terms.values())


def test_the_bound_trains_the_variance_alone():
    gradients = {}
    for vlb in (True, False):
        model = dit()
        Diffusion(vlb=vlb)(model, Batch(normal(8, *EVENT).clamp(-1, 1)), generator=seeded()).value.backward()
        gradients[vlb] = model.head.weight.grad.clone()
        assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    close(*(gradients[vlb][:8] for vlb in (True, False)))
    assert gradients[True][8:].any()
    assert not gradients[False][8:].any()


def test_a_row_of_weight_zero_does_not_matter():
    losses = []
    for far in (0.0, 0.5):
        model, clean = dit(), normal(3, *EVENT).clamp(-1, 1)
        clean[1] += far
        loss = Diffusion()(model, Batch(clean, None, torch.tensor([1.0, 0.0, 2.0]).double()), generator=seeded())
        losses.append((loss.value, loss.terms))
    close(*losses)


def test_the_global_generator_is_left_alone():
    models = [dit(), dit()]
    before = torch.get_rng_state()
    one, two = (Diffusion()(model, Batch(torch.zeros(3, *EVENT).double()), generator=seeded(1)).value for model in models)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)


def test_training_on_one_tile_lowers_the_loss():
    torch.manual_seed(0)
    model, aim, generator = DiT(8, 4, 1, dim=32, depth=2, heads=2), Diffusion(steps=(0, 99)), seeded()
    clean = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8).expand(32, 1, 8, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def judged():
        with torch.no_grad():
            return aim(model, Batch(clean), generator=seeded(1)).terms

    before = judged()
    for _ in range(50):
        optimizer.zero_grad()
        aim(model, Batch(clean), generator=generator).value.backward()
        optimizer.step()
    after = judged()
    assert before["noise_error"] == pytest.approx(1, abs=0.1)
    assert after["noise_error"] < 0.7 * before["noise_error"]
    assert after["vlb"] < before["vlb"]


def test_in_mixed_precision_noise_and_loss_keep_their_digits():
    model, clean = dit().float(), normal(4, *EVENT).clamp(-1, 1).bfloat16()
    wanted = Diffusion(steps=(0, 99))(model, Batch(clean.float()), generator=seeded())
    got = Diffusion(steps=(0, 99))(model, Batch(clean), generator=seeded())
    assert torch.equal(got.value, wanted.value)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = Diffusion(steps=(0, 99))(model, Batch(clean), generator=seeded())
    assert mixed.value.dtype == torch.float32
    assert all(term.dtype == torch.float32 for term in mixed.terms.values())
    assert mixed.terms["vlb"].item() == pytest.approx(wanted.terms["vlb"].item(), rel=0.1)


@pytest.mark.parametrize("steps", [(3, 2), (-1, 5), (1, 2, 3)])
def test_steps_that_are_no_pair_are_refused(steps):
    with pytest.raises(ValueError, match=r"steps=\("):
        Diffusion(steps=steps)


def test_objectives_calls_that_cannot_work_are_refused():
    batch = Batch(torch.zeros(2, *EVENT).double())
    with pytest.raises(ValueError, match="function has no noise_and_variance"):
        Diffusion()(quadratic, batch)
    with pytest.raises(ValueError, match=r"steps=\(0, 99\): the energy's schedule has steps 0 to 49"):
        Diffusion(steps=(0, 99))(dit(schedule_steps=50), batch)
    with pytest.raises(ValueError, match="leave it out"):
        Diffusion()(dit(), batch, start=batch.target)
    with pytest.raises(ValueError, match=r"int64.*float"):
        Diffusion()(dit(), Batch(batch.target.long()))


# --------------------------------------------------------------------------------------------------------------------- a run


def test_a_run_of_the_recipe_trains_and_predicts_without_a_sampler(tmp_path):
    settings = {
        "task": {"crop": 32, "tiles": 16, "tile": 16, "stride": 8},
        "energy": {"dim": 8, "depth": 1, "heads": 2, "passes": 3},
        "fit": {"steps": 2, "batch_size": 2, "warmup": 1, "evaluate_limit": 1},
    }
    flat = {f"{kind}.{name}": str(value) for kind, table in settings.items() for name, value in table.items()}
    parts = ebm.recipes.assemble(ebm.recipes.resolve(ebm.recipes.load("denoise-dit"), flat))
    assert parts.objective.steps == (0, 99)
    assert parts.sampler is None
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*has no sampler")
        ebm.fit(parts.energy, parts.objective, parts.task, out=tmp_path, recipe=parts.recipe, **parts.fit)
        run = ebm.load(tmp_path)
    assert isinstance(run.thinker, DiT)
    assert isinstance(run.task, Denoising)
    assert run.metrics["evaluations"] == 3
    assert run.evaluate()["psnr"] == pytest.approx(run.metrics["psnr"], abs=0.2)  # there without mixed precision
    assert run.sampler.steps == 1
    assert (tmp_path / "report.html").exists()
    batch = next(iter(run.task.loader("test", 2)))
    seen = think(run.energy, run.sampler, batch.context, batch.context.image[None])
    close(seen.y, run.energy.encode(batch.context).detach(), rtol=1e-4, atol=1e-4)
