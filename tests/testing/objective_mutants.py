"""Test subjects for `check_objective`: right objectives as plugins' authors write them, and ones with one planted mistake each.

`CORRECT` maps a name to a function of the check's (arguments, keywords). `MUTANTS` maps a name to such a function and a
pattern (case does not count) that a message which is right about the mistake matches.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ebm.energies import ConvEnergy, MLPEnergy, TextEBT
from ebm.interfaces import Batch, Energy, Loss, Objective, bind, energy_and_grad, landscapes
from ebm.objectives import ContrastiveDivergence, DenoisingScoreMatching, Reconstruction, WeightedSum
from ebm.randomness import randn_like
from ebm.samplers import GradientDescent, LangevinDynamics, ReplayAugmented

CORRECT, MUTANTS = {}, {}


# --------------------------------------------------------------------------------------------------------------- batches


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def integers(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def points():
    return Batch(normal(12, 2))


def weighed():
    return Batch(normal(12, 2), weight=torch.rand(12, generator=torch.Generator().manual_seed(5)) * (torch.arange(12) != 3))


def doubles():
    return Batch(normal(12, 2, dtype=torch.float64))


def images():
    return Batch(normal(4, 1, 8, 8))


def labelled():
    return Batch(normal(12, 2), integers(5, 12))


def described():
    return Batch(normal(9, 2), normal(9, 3, seed=1))


class View(NamedTuple):
    where: torch.Tensor  # (B, 3)
    what: torch.Tensor  # (B,)


def viewed():
    return Batch(normal(8, 2), View(normal(8, 3, seed=1), integers(5, 8)))


def sequences():
    weight = torch.ones(6, 5)
    weight[0, 3:] = weight[4, 1:] = 0
    return Batch(normal(6, 5, 2), integers(7, 6, 5), weight)


def tokens():
    ids = integers(7, 6, 6)
    weight = torch.ones(6, 5)
    weight[2, 2:] = 0
    return Batch(ids[:, 1:], ids[:, :-1], weight)


# -------------------------------------------------------------------------------------------------------------- energies


def mlp():
    return MLPEnergy(2, hidden=(16,))


class Labelled(Energy):
    """E(y | class ids (B,))."""

    def __init__(self):
        super().__init__()
        self.table, self.net = nn.Embedding(5, 4), MLPEnergy(6, hidden=(16,))

    def encode(self, context=None, level=-1):
        return self.table(context)

    def forward(self, y, code=None):
        return self.net(torch.cat([y, code.expand(*y.shape[:-1], 4)], -1))


class Described(Energy):
    """E(y | vectors (B, 3))."""

    def __init__(self):
        super().__init__()
        self.net = MLPEnergy(5, hidden=(16,))

    def forward(self, y, code=None):
        return self.net(torch.cat([y, code.expand(*y.shape[:-1], 3)], -1))


class Viewed(Energy):
    """E(y | View)."""

    def __init__(self):
        super().__init__()
        self.table, self.net = nn.Embedding(5, 3), MLPEnergy(5, hidden=(16,))

    def encode(self, context=None, level=-1):
        return torch.tanh(context.where + self.table(context.what))

    def forward(self, y, code=None):
        return self.net(torch.cat([y, code.expand(*y.shape[:-1], 3)], -1))


class Sequential(Labelled):
    """E(y | ids (B, S)), one energy for each position, which knows the ids up to it."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4)

    def encode(self, context=None, level=-1):
        return self.table(context).cumsum(-2) / 3


def conv():
    return ConvEnergy(1, 8, width=4)


def ebt():
    return TextEBT(vocab_size=7, dim=16, depth=1, heads=2)


def arguments(factory, energy, batch):
    return lambda: ((factory, energy(), batch()), {})


def correct(name, energy=mlp, batch=points):
    def register(factory):
        CORRECT[name] = arguments(factory, energy, batch)
        return factory

    return register


def mutant(name, pattern, energy=mlp, batch=points):
    def register(factory):
        MUTANTS[name] = (arguments(factory, energy, batch), pattern)
        return factory

    return register


# ----------------------------------------------------------------------------------------------------------------- right


@correct("denoising score matching")
@correct("denoising score matching, weights with a zero", batch=weighed)
@correct("denoising score matching in float64", energy=lambda: mlp().double(), batch=doubles)
@correct("denoising score matching, class ids", energy=Labelled, batch=labelled)
@correct("denoising score matching, vectors", energy=Described, batch=described)
@correct("denoising score matching, a NamedTuple", energy=Viewed, batch=viewed)
@correct("denoising score matching of sequences", energy=Sequential, batch=sequences)
@correct("denoising score matching of images", energy=conv, batch=images)
class Denoising(Objective):
    """Right, and what most mutants change one line of."""

    sigma = 0.3

    def rows(self, energy, batch, generator):
        noise = randn_like(batch.target, generator)
        value, grad = energy_and_grad(
            bind(energy, batch.context), batch.target + self.sigma * noise, create_graph=torch.is_grad_enabled()
        )
        return (self.sigma * grad - noise).square().reshape(*value.shape, -1).sum(-1) / 2

    def reduce(self, rows, batch):
        return batch.mean(rows)

    def forward(self, energy, batch, *, start=None, generator=None):
        value = self.reduce(self.rows(energy, batch, generator), batch)
        return Loss(value, {"loss": value.detach()})


@correct("score matching with the exact trace")
@correct("score matching with the exact trace, weights with a zero", batch=weighed)
class Trace(Denoising):
    def rows(self, energy, batch, generator):
        y = batch.target.detach().clone().requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(bind(energy, batch.context)(y).sum(), y, create_graph=True)
            second = [torch.autograd.grad(grad[..., i].sum(), y, create_graph=True)[0][..., i] for i in range(y.shape[-1])]
        return grad.square().sum(-1) / 2 - torch.stack(second, -1).sum(-1)


@correct("sliced score matching")
@correct("sliced score matching, vectors", energy=Described, batch=described)
class Sliced(Denoising):
    def rows(self, energy, batch, generator):
        y = batch.target.detach().clone().requires_grad_()
        v = torch.randn(y.shape, generator=generator, dtype=y.dtype)
        with torch.enable_grad():
            _, grad = energy_and_grad(bind(energy, batch.context), y, create_graph=True)
            (second,) = torch.autograd.grad((grad * v).sum(), y, create_graph=True)
        return (grad * v).sum(-1).square() / 2 - (second * v).sum(-1)


@correct("contrastive divergence")
@correct("contrastive divergence, weights with a zero", batch=weighed)
@correct("contrastive divergence, class ids", energy=Labelled, batch=labelled)
@correct("contrastive divergence of sequences", energy=Sequential, batch=sequences)
class Contrastive(Objective):
    """CD-k, with a penalty on the energies' size."""

    def __init__(self, sampler=None, noise=False):
        super().__init__()
        self.sampler, self.noise = sampler or LangevinDynamics(step_size=0.05, steps=3), noise

    def begin(self, batch, generator):
        return randn_like(batch.target, generator) if self.noise else batch.target

    def forward(self, energy, batch, *, start=None, generator=None):
        y = self.begin(batch, generator) if start is None else start
        chains, y = self.sampler.begin(batch, y, generator=generator)
        y = self.sampler.sample(landscapes(energy, chains.context), y, generator=generator).detach()
        self.sampler.finish(chains, y)
        low, high = bind(energy, batch.context)(batch.target), bind(energy, chains.context)(self.sampler.point(y))
        gap = batch.mean(low) - chains.mean(high)
        size = batch.mean(low**2) + chains.mean(high**2)
        return Loss(gap + 0.1 * size, {"gap": gap.detach(), "size": size.detach(), "moved": (y.detach() - batch.target).norm()})


correct("short-run contrastive divergence")(lambda: Contrastive(noise=True))
correct("short-run contrastive divergence, vectors", energy=Described, batch=described)(lambda: Contrastive(noise=True))


@correct("persistent contrastive divergence")
@correct("persistent contrastive divergence, a NamedTuple", energy=Viewed, batch=viewed)
def persistent():
    return Contrastive(ReplayAugmented(LangevinDynamics(step_size=0.05, steps=2), capacity=100, fresh=0.1), noise=True)


@correct("the core's persistent contrastive divergence", batch=weighed)
def core_persistent():
    return ContrastiveDivergence(ReplayAugmented(LangevinDynamics(step_size=0.05, steps=2), capacity=50), "noise", energy_l2=0.1)


@correct("noise contrastive estimation")
@correct("noise contrastive estimation, weights with a zero", batch=weighed)
class NCE(Denoising):
    """With a learnable log Z, and ν = 4 noise points for each row."""

    def __init__(self):
        super().__init__()
        self.log_z = nn.Parameter(torch.zeros(()))

    def rows(self, energy, batch, generator):
        function, x = bind(energy, batch.context), batch.target
        noise = 1.5 * torch.randn((4, *x.shape), generator=generator, dtype=x.dtype)

        def logit(y):
            log_q = -(y / 1.5).square().sum(-1) / 2 - y.shape[-1] * math.log(1.5 * math.sqrt(2 * math.pi))
            return -function(y) - self.log_z - log_q - math.log(4)

        return F.softplus(-logit(x)) + F.softplus(logit(noise)).sum(0)


@correct("InfoNCE with in-batch negatives", energy=Described, batch=described)
@correct(
    "InfoNCE with in-batch negatives and weights",
    energy=Described,
    batch=lambda: described()._replace(weight=weighed().weight[:9]),
)
class InfoNCE(Denoising):
    """E(y_i | c_i) + log Σ_j w_j exp(−E(y_j | c_i)) / Σ_j w_j: a row of no weight is no negative either."""

    def rows(self, energy, batch, generator):
        count = len(batch.target)
        pairs = bind(energy, batch.context)(batch.target[:, None].expand(count, count, -1))  # of y_j (rows) and c_i (columns)
        weight = torch.ones(count) if batch.weight is None else batch.weight
        total = weight.sum()
        shares = weight / torch.where(total > 0, total, torch.ones_like(total))
        counted = torch.where(shares > 0, shares, torch.ones_like(shares)).log()
        others = torch.where(shares[:, None] > 0, counted[:, None] - pairs, torch.full_like(pairs, -1e9))
        return pairs.diagonal() + others.logsumexp(0)


@correct("energy discrepancy")
@correct("energy discrepancy, class ids", energy=Labelled, batch=labelled)
class Discrepancy(Denoising):
    """log(w/M + 1/M Σ_m exp(E(x) − E(x + √t ξ + √t ξ_m))), with w = 1, M = 8."""

    def rows(self, energy, batch, generator):
        function, x = bind(energy, batch.context), batch.target
        middle = x + 0.5 * randn_like(x, generator)
        around = middle + 0.5 * torch.randn((8, *x.shape), generator=generator, dtype=x.dtype)
        gaps = function(x) - function(around)
        return torch.cat([gaps, torch.zeros_like(gaps[:1])]).logsumexp(0) - math.log(8)


@correct("margin loss against noise")
class Margin(Denoising):
    def rows(self, energy, batch, generator):
        function = bind(energy, batch.context)
        return F.relu(1.0 + function(batch.target) - function(randn_like(batch.target, generator)))


@correct("square-square margin loss against wrong labels", energy=Labelled, batch=labelled)
class WrongLabel(Denoising):
    def rows(self, energy, batch, generator):
        others = (batch.context + torch.randint(1, 5, batch.context.shape, generator=generator)) % 5
        low, high = bind(energy, batch.context)(batch.target), bind(energy, others)(batch.target)
        return low.square() + F.relu(2.0 - high).square()


@correct("all pairs of rows, data against data")
class Pairs(Denoising):
    """Every row's energy should differ from those of noise around all rows: a kernel over the batch, in no order."""

    def rows(self, energy, batch, generator):
        function = bind(energy, batch.context)
        low, high = function(batch.target), function(batch.target + randn_like(batch.target, generator))
        weight = torch.ones_like(low) if batch.weight is None else batch.weight
        return torch.stack([Batch(None, weight=weight).mean(F.softplus(1 + one - high)) for one in low])


@correct("reconstruction with a learnable step size")
@correct("reconstruction with a learnable step size, vectors", energy=Described, batch=described)
@correct("reconstruction with a learnable step size, sequences", energy=Sequential, batch=sequences)
class Unrolled(Objective):
    def __init__(self):
        super().__init__()
        self.log_step = nn.Parameter(torch.tensor(-1.0))

    def forward(self, energy, batch, *, start=None, generator=None):
        y = randn_like(batch.target, generator) if start is None else start
        function, distances = bind(energy, batch.context), []
        for _ in range(3):
            _, grad = energy_and_grad(function, y, create_graph=torch.is_grad_enabled())
            y = y - self.log_step.exp() * grad
            distances.append(batch.mean((y - batch.target).square().mean(-1)))
        terms = {f"step_{i}": distance.detach() for i, distance in enumerate(distances)}
        return Loss(torch.stack(distances).mean(), terms | {"step_size": self.log_step.detach().exp()})


@correct("the core's reconstruction, all steps")
@correct("the core's reconstruction, all steps, weights with a zero", batch=weighed)
def reconstruction():
    return Reconstruction(
        GradientDescent(step_size=0.5, steps=3, learnable=True),
        start=lambda batch, generator=None: randn_like(batch.target, generator),
        distance=lambda y, batch: (y - batch.target).square().mean(-1),
        unroll="full",
    )


@correct("the core's reconstruction of tokens", energy=ebt, batch=tokens)
def text():
    return Reconstruction(
        GradientDescent(step_size=5.0, steps=2, retraction="softmax", learnable=True),
        start=lambda batch, generator=None: torch.randn((*batch.target.shape, 7), generator=generator),
        distance=lambda y, batch: F.cross_entropy(y.flatten(0, -2), batch.target.flatten(), reduction="none").view(y.shape[:-1]),
    )


correct("a sum", batch=weighed)(lambda: WeightedSum([DenoisingScoreMatching(0.3), Contrastive()], [1.0, 0.2]))


@correct("a sum of two noise levels, written by hand", energy=Described, batch=described)
class Sum(Objective):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([Denoising(), Sliced(), Margin()])
        self.register_buffer("shares", torch.tensor([1.0, 0.5, 0.1]))

    def forward(self, energy, batch, *, start=None, generator=None):
        losses = [part(energy, batch, generator=generator).value for part in self.parts]
        return Loss(torch.stack(losses) @ self.shares, {str(i): loss.detach() for i, loss in enumerate(losses)})


@correct("regression of the energy, no noise and no terms", energy=Described, batch=described)
class Deterministic(Objective):
    def forward(self, energy, batch, *, start=None, generator=None):
        return Loss(batch.mean((energy.given(batch.context)(batch.target) + 1.0).square()), {})


@correct("weights of its own by distance from the centre")
class Centred(Denoising):
    """Far rows count less: a function of the row, not of its place."""

    def reduce(self, rows, batch):
        return batch.mean(rows * torch.exp(-batch.target.square().sum(-1) / 4))


@correct("a mean divided by hand", batch=weighed)
class ByHand(Denoising):
    def reduce(self, rows, batch):
        weight = torch.ones_like(rows) if batch.weight is None else batch.weight
        return (rows * weight).sum() / weight.sum().clamp_min(1e-8)


# -------------------------------------------------------------------------------------------------- mutants: rows' order

ORDER = r"order|permut|row|position|equal|first|last|place"


@mutant("only the first row", ORDER + "|weight")
class First(Denoising):
    def reduce(self, rows, batch):
        return rows[0]


@mutant("only the last row", ORDER + "|weight")
class Last(Denoising):
    def reduce(self, rows, batch):
        return rows[-1]


@mutant("leaves out the last row", ORDER)
class AllButOne(Denoising):
    def reduce(self, rows, batch):
        weight = None if batch.weight is None else batch.weight[:-1]
        return Batch(None, weight=weight).mean(rows[:-1])


@mutant("every second row", ORDER, batch=weighed)
class Even(Denoising):
    def reduce(self, rows, batch):
        return Batch(None, weight=None if batch.weight is None else batch.weight[::2]).mean(rows[::2])


@mutant("later rows count more", ORDER)
class Later(Denoising):
    def reduce(self, rows, batch):
        return batch.mean(rows * torch.linspace(0.5, 1.5, len(rows)))


@mutant("later rows count slightly more", ORDER)
class SlightlyLater(Denoising):
    def reduce(self, rows, batch):
        return batch.mean(rows * torch.linspace(0.95, 1.05, len(rows)))


@mutant("the first row counts twice", ORDER, energy=Described, batch=described)
class Twice(Denoising):
    def reduce(self, rows, batch):
        weight = torch.ones_like(rows) if batch.weight is None else batch.weight.clone()
        weight[0] = 2 * weight[0]
        return Batch(None, weight=weight).mean(rows)


@mutant("cumulative sums", ORDER)
class Cumulative(Denoising):
    def reduce(self, rows, batch):
        return batch.mean(rows.cumsum(0))


@mutant("neighbouring rows contrasted by roll", ORDER)
class Rolled(Denoising):
    def rows(self, energy, batch, generator):
        low = bind(energy, batch.context)(batch.target)
        high = bind(energy, batch.context)(batch.target.roll(1, 0) + randn_like(batch.target, generator))
        return F.softplus(10 * (low - high))


@mutant("neighbouring rows contrasted by roll, without noise", ORDER)
class RolledPlain(Denoising):
    def rows(self, energy, batch, generator):
        low = bind(energy, batch.context)(batch.target)
        return F.softplus(1 + 10 * (low - low.roll(1, 0)))


@mutant("wrong contexts by roll", ORDER + "|context", energy=Labelled, batch=labelled)
class RolledContext(Denoising):
    def rows(self, energy, batch, generator):
        low, high = bind(energy, batch.context)(batch.target), bind(energy, batch.context.roll(1, 0))(batch.target)
        return F.softplus(1 + 5 * (low - high))


@mutant("first half as data, second half as noise", ORDER + "|half")
class Halves(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        values, half = bind(energy, batch.context)(batch.target), len(batch.target) // 2
        weight = torch.ones_like(values) if batch.weight is None else batch.weight
        low, high = (Batch(None, weight=weight[part]).mean(values[part]) for part in (slice(half), slice(half, None)))
        return Loss(low - high, {"gap": (low - high).detach()})


@mutant("one context for all rows", ORDER + "|context", energy=Described, batch=described)
class OneContext(Denoising):
    def rows(self, energy, batch, generator):
        return super().rows(energy, batch._replace(context=batch.context[:1].expand_as(batch.context)), generator)


@mutant("the context's order is ignored", ORDER + "|context|align", energy=Described, batch=described)
class SortedTargets(Denoising):
    """Sorts the data for a quantile, and forgets to sort the contexts alike."""

    def rows(self, energy, batch, generator):
        return super().rows(energy, batch._replace(target=batch.target.sort(0).values), generator)


@mutant("the noise's context is back to front", ORDER + "|context|align", energy=Described, batch=described)
class Flipped(Denoising):
    def rows(self, energy, batch, generator):
        noise = randn_like(batch.target, generator)
        low, high = bind(energy, batch.context)(batch.target), bind(energy, batch.context.flip(0))(noise)
        return low - high + 5 * (low - bind(energy, batch.context.flip(0))(batch.target)).square()


@mutant("positions count by their number", ORDER, energy=Sequential, batch=sequences)
class RowNumbers(Denoising):
    def reduce(self, rows, batch):
        return batch.mean(rows * torch.arange(1.0, 1 + len(rows))[:, None] / len(rows))


# ------------------------------------------------------------------------------------------------------ mutants: weights

WEIGHT = r"weight|sum\(w"


@mutant("all weights zero divide zero by zero", WEIGHT + "|zero|finite|nan", batch=weighed)
class Unguarded(Denoising):
    def reduce(self, rows, batch):
        return rows.mean() if batch.weight is None else (batch.weight * rows).sum() / batch.weight.sum()


@mutant("divides by how many weights are positive", WEIGHT)
class Positive(Denoising):
    def reduce(self, rows, batch):
        return rows.mean() if batch.weight is None else (batch.weight * rows).sum() / (batch.weight > 0).sum().clamp_min(1)


@mutant("ignores the weight", WEIGHT)
class Unweighted(Denoising):
    def reduce(self, rows, batch):
        return rows.mean()


@mutant("ignores the weight of the noise", WEIGHT, batch=weighed)
class HalfWeighted(Contrastive):
    def forward(self, energy, batch, *, start=None, generator=None):
        noise = self.sampler.sample(landscapes(energy, batch.context), batch.target, generator=generator)
        function = bind(energy, batch.context)
        gap = batch.mean(function(batch.target)) - function(noise + 1.0).mean()
        return Loss(gap, {"gap": gap.detach()})


@mutant("weights multiply and do not renormalise", WEIGHT)
class Multiplied(Denoising):
    def reduce(self, rows, batch):
        return rows.mean() if batch.weight is None else (batch.weight * rows).mean()


@mutant("weights are summed and never divided", WEIGHT)
class Summed(Denoising):
    def reduce(self, rows, batch):
        return rows.mean() if batch.weight is None else (batch.weight * rows).sum()


@mutant("weights are a mask", WEIGHT)
class Masked(Denoising):
    def reduce(self, rows, batch):
        return Batch(None, weight=None if batch.weight is None else (batch.weight > 0).to(rows)).mean(rows)


@mutant("weights broadcast to a square", WEIGHT)
class Square(Denoising):
    def reduce(self, rows, batch):
        if batch.weight is None:
            return rows.mean()
        return (batch.weight[:, None] * rows).mean() * len(rows) / batch.weight.sum().clamp_min(1e-8)


@mutant("squared weights", WEIGHT)
class Squared(Denoising):
    def reduce(self, rows, batch):
        return Batch(None, weight=None if batch.weight is None else batch.weight**2).mean(rows)


@mutant("a softmax of the weights", WEIGHT)
class Softmax(Denoising):
    def reduce(self, rows, batch):
        return rows.mean() if batch.weight is None else (batch.weight.softmax(0) * rows).sum()


@mutant("every sequence counts alike, whatever its weights", WEIGHT, energy=Sequential, batch=sequences)
class MeanOfMeans(Denoising):
    def reduce(self, rows, batch):
        if batch.weight is None:
            return rows.mean()
        return ((batch.weight * rows).sum(1) / batch.weight.sum(1).clamp_min(1e-8)).mean()


@mutant("the weight of a sequence is that of its start", WEIGHT, energy=Sequential, batch=sequences)
class StartsWeight(Denoising):
    def reduce(self, rows, batch):
        return Batch(None, weight=None if batch.weight is None else batch.weight[:, :1].expand_as(rows)).mean(rows)


# --------------------------------------------------------------------------------------------------- mutants: randomness

RANDOM = r"generator|global|random|seed|draw|repro|determin|same"


@mutant("draws from the global generator", RANDOM)
class Global(Denoising):
    def rows(self, energy, batch, generator):
        return super().rows(energy, batch, None)


@mutant("the sampler is not given the generator", RANDOM)
class Forgets(Contrastive):
    def forward(self, energy, batch, *, start=None, generator=None):
        y = self.sampler.sample(landscapes(energy, batch.context), batch.target)
        gap = batch.mean(bind(energy, batch.context)(batch.target)) - batch.mean(bind(energy, batch.context)(y))
        return Loss(gap, {"gap": gap.detach()})


@mutant("drops out by the global generator", RANDOM)
class Dropped(Denoising):
    def rows(self, energy, batch, generator):
        return F.dropout(super().rows(energy, batch, generator), 0.2)


@mutant("draws from numpy", RANDOM + "|numpy")
class Numpy(Denoising):
    def rows(self, energy, batch, generator):
        sigma = torch.from_numpy(np.random.uniform(0.5, 1.5, len(batch.target))).to(batch.target)
        return sigma * super().rows(energy, batch, generator)


@mutant("the same noise at every call, of a seed of its own", RANDOM)
class OwnSeed(Denoising):
    def rows(self, energy, batch, generator):
        return super().rows(energy, batch, torch.Generator().manual_seed(0))


@mutant("a generator of its own that goes on and on", RANDOM)
class OwnGenerator(Denoising):
    def __init__(self):
        super().__init__()
        self.own = torch.Generator().manual_seed(0)

    def rows(self, energy, batch, generator):
        return super().rows(energy, batch, self.own)


@mutant("seeds the global generator", RANDOM)
class Seeds(Denoising):
    def rows(self, energy, batch, generator):
        torch.manual_seed(42)
        return super().rows(energy, batch, generator)


# ---------------------------------------------------------------------------------------------------- mutants: what comes

VALUE = r"scalar|shape|0-d|\(\)|tensor|one number"
GRAPH = r"grad|graph|detach|no_grad|cut|learn|train|backward|differentia"


@mutant("the loss is detached", GRAPH)
class Detached(Denoising):
    def reduce(self, rows, batch):
        return batch.mean(rows).detach()


@mutant("a loss for every row", VALUE)
class PerRow(Denoising):
    def reduce(self, rows, batch):
        return rows


@mutant("a loss of shape (1,)", VALUE)
class OneElement(Denoising):
    def reduce(self, rows, batch):
        return batch.mean(rows).reshape(1)


@mutant("a loss that is a Python number", VALUE + "|float|item")
class Number(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        value = batch.mean(self.rows(energy, batch, generator)).item()
        return Loss(value, {"loss": torch.tensor(value)})


@mutant("a bare tensor", r"Loss|tensor|terms")
class Bare(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        return batch.mean(self.rows(energy, batch, generator))


@mutant("a dictionary", r"Loss|dict|value")
class Dictionary(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        value = batch.mean(self.rows(energy, batch, generator))
        return {"loss": value, "terms": {"loss": value.detach()}}


@mutant("terms with a graph", r"term")
class LiveTerms(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        value = batch.mean(self.rows(energy, batch, generator))
        return Loss(value, {"loss": value})


@mutant("terms for every row", r"term")
class RowTerms(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        rows = self.rows(energy, batch, generator)
        return Loss(batch.mean(rows), {"rows": rows.detach()})


@mutant("terms that are Python numbers", r"term")
class NumberTerms(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        value = batch.mean(self.rows(energy, batch, generator))
        return Loss(value, {"loss": value.item()})


@mutant("the logarithm of a gap that is zero for one row", r"finite|inf|nan")
class Infinite(Denoising):
    def rows(self, energy, batch, generator):
        rows = super().rows(energy, batch, generator)
        return (rows - rows.min()).log()


@mutant("a square root whose gradient is not finite", r"finite|inf|nan|grad")
class Root(Denoising):
    def rows(self, energy, batch, generator):
        values = bind(energy, batch.context)(batch.target)
        return values + (values - values.max()).square().sqrt() + super().rows(energy, batch, generator)


@mutant("energies under no_grad", GRAPH)
class NoGrad(Denoising):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def rows(self, energy, batch, generator):
        with torch.no_grad():
            values = bind(energy, batch.context)(batch.target)
        return (values + self.shift).square()


@mutant("the energy's gradient without a graph", GRAPH)
class FirstOrder(Denoising):
    """Descends with `create_graph=False`: the step size learns, the energy does not."""

    def __init__(self):
        super().__init__()
        self.step = nn.Parameter(torch.tensor(0.3))

    def rows(self, energy, batch, generator):
        start = randn_like(batch.target, generator)
        _, grad = energy_and_grad(bind(energy, batch.context), start)
        return (start - self.step * grad - batch.target).square().sum(-1)


# ------------------------------------------------------------------------------------------------- mutants: what is done


@mutant("backward() inside forward", r"backward|grad|accumul|forward")
class Backward(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        value = batch.mean(self.rows(energy, batch, generator))
        value.backward(retain_graph=True)
        return Loss(value, {"loss": value.detach()})


@mutant("an optimizer's step inside forward", r"parameter|optimi|step|chang|modif|untouched|grad")
class Steps(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        value = batch.mean(self.rows(energy, batch, generator))
        grads = torch.autograd.grad(value, [*energy.parameters()], retain_graph=True, allow_unused=True)
        with torch.no_grad():
            for parameter, grad in zip(energy.parameters(), grads, strict=True):
                parameter.data.sub_(0.01 * (0.0 if grad is None else grad))
        return Loss(value, {"loss": value.detach()})


@mutant("clips the energy's weights", r"parameter|chang|modif|untouched|weights", energy=Described, batch=described)
class Clips(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        for parameter in energy.parameters():
            parameter.data.clamp_(-0.1, 0.1)
        return super().forward(energy, batch, generator=generator)


@mutant("clears the gradients that others left", r"grad")
class Clears(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        energy.zero_grad()
        return super().forward(energy, batch, generator=generator)


@mutant("noise is added to the batch in place", r"batch|target|in.?place|chang|modif|untouched")
class InPlace(Denoising):
    def rows(self, energy, batch, generator):
        batch.target.add_(0.1 * randn_like(batch.target, generator))
        return super().rows(energy, batch, generator)


@mutant("the batch is made to require gradients", r"batch|target|requires_grad|chang|modif|untouched")
class Requires(Denoising):
    def rows(self, energy, batch, generator):
        y = batch.target.requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(bind(energy, batch.context)(y).sum(), y, create_graph=True)
            second = [torch.autograd.grad(grad[:, i].sum(), y, create_graph=True)[0][:, i] for i in range(2)]
        return grad.square().sum(-1) / 2 - torch.stack(second, -1).sum(-1)


@mutant("weights are normalised in place", r"batch|weight|in.?place|chang|modif|untouched", batch=weighed)
class NormalisedInPlace(Denoising):
    def reduce(self, rows, batch):
        if batch.weight is not None and bool(batch.weight.sum() > 0):
            batch.weight.div_(batch.weight.sum())
        return batch.mean(rows)


@mutant("contexts are dropped in place", r"batch|context|in.?place|chang|modif|untouched", energy=Described, batch=described)
class DropsContext(Denoising):
    """Classifier-free guidance, a tenth of the contexts zero, written over the caller's."""

    def rows(self, energy, batch, generator):
        batch.context[torch.rand(len(batch.context), generator=generator) < 0.5] = 0
        return super().rows(energy, batch, generator)


@mutant("leaves the energy in eval mode", r"mode|eval|train")
class Eval(Denoising):
    def rows(self, energy, batch, generator):
        energy.eval()
        return super().rows(energy, batch, generator)


@mutant("puts the energy into train mode", r"mode|eval|train")
class Train(Denoising):
    def rows(self, energy, batch, generator):
        energy.eval()
        rows = super().rows(energy, batch, generator)
        energy.train()
        return rows


@mutant("leaves the energy frozen", r"requires_grad|frozen|freez|parameter|grad")
class Freezes(Contrastive):
    def forward(self, energy, batch, *, start=None, generator=None):
        loss = super().forward(energy, batch, generator=generator)
        energy.requires_grad_(False)
        return loss


@mutant("a running mean is subtracted", r"state|call|same|repeat|again|twice|differ|remember|kept|self")
class Running(Denoising):
    def __init__(self):
        super().__init__()
        self.mean = 0.0

    def reduce(self, rows, batch):
        value = batch.mean(rows)
        self.mean = 0.9 * self.mean + 0.1 * value.item()
        return value - self.mean


@mutant(
    "chains are kept on the objective, apart from their contexts",
    r"state|call|same|repeat|again|differ|remember|kept|self|buffer",
    energy=Described,
    batch=described,
)
class Keeps(Contrastive):
    def __init__(self):
        super().__init__()
        self.chains = None

    def begin(self, batch, generator):
        return batch.target if self.chains is None or self.chains.shape != batch.target.shape else self.chains

    def forward(self, energy, batch, *, start=None, generator=None):
        y = self.begin(batch, generator) if start is None else start
        self.chains = y = self.sampler.sample(landscapes(energy, batch.context), y, generator=generator)
        gap = batch.mean(bind(energy, batch.context)(batch.target)) - batch.mean(bind(energy, batch.context)(y))
        return Loss(gap, {"gap": gap.detach()})


@mutant("a parameter of its own without a gradient", r"parameter|gradient")
class Idle(Denoising):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))


@mutant("a learnable noise level that is read as a number", r"parameter|gradient")
class Read(Denoising):
    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.3))

    @property
    def sigma(self):
        return self.level.item()
