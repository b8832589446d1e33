"""More test subjects for `check_objective`, by a second author, on the bases of objective_mutants.py."""

import torch
import torch.nn.functional as F
from torch import nn

from ebm.interfaces import Batch, Loss, Objective, bind, energy_and_grad, landscapes
from ebm.objectives import ContrastiveDivergence, DenoisingScoreMatching
from ebm.randomness import randn_like
from ebm.samplers import MALA, LangevinDynamics
from tests.testing.objective_mutants import (
    Contrastive,
    Denoising,
    Described,
    InfoNCE,
    Labelled,
    Sequential,
    Trace,
    Unrolled,
    arguments,
    conv,
    described,
    images,
    labelled,
    mlp,
    normal,
    points,
    sequences,
    weighed,
)

CORRECT, MUTANTS = {}, {}


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


class Ladder(Described):
    """Three landscapes, of one shape and of three heights."""

    levels = 3

    def encode(self, context=None, level=-1):
        return 1.0 + level % 3, context

    def forward(self, y, code=None):
        return code[0] * super().forward(y, code[1])


# ----------------------------------------------------------------------------------------------------------------- right


@correct("contrastive divergence of a function with nothing to learn", energy=lambda: lambda y: y.square().sum(-1) / 2)
@correct("contrastive divergence by an accept/reject sampler", energy=Described, batch=described)
def accepting():
    return ContrastiveDivergence(MALA(step_size=0.1, steps=3), "noise")


@correct("a ladder of noise levels, one landscape each", energy=Ladder, batch=described)
@correct("a ladder of noise levels, one landscape each, weights with a zero", energy=Ladder,
         batch=lambda: described()._replace(weight=weighed().weight[:9]))  # fmt: skip
def ladder():
    return DenoisingScoreMatching((1.0, 0.5, 0.2))


@correct("cross-entropy of the classes' energies", energy=Labelled, batch=labelled)
class Classes(Denoising):
    """−log p(c | y), p(c | y) ∝ exp(−E(y | c)): draws nothing."""

    def rows(self, energy, batch, generator):
        wrong = [bind(energy, torch.full_like(batch.context, label))(batch.target) for label in range(5)]
        return F.cross_entropy(-torch.stack(wrong, -1), batch.context, reduction="none")


@correct("noise matching that refuses a start")
class Refuses(Denoising):
    """As the core's Diffusion does: what it noises is the target."""

    def forward(self, energy, batch, *, start=None, generator=None):
        if start is not None:
            raise ValueError("start is given, but it is the target that is noised: leave it out")
        return super().forward(energy, batch, generator=generator)


@correct("a network of its own says where chains start", energy=Described, batch=described)
class Amortised(Unrolled):
    """Its layer starts at random numbers: two objectives from one factory are not the same function."""

    def __init__(self):
        super().__init__()
        self.guess = nn.Linear(3, 2)

    def forward(self, energy, batch, *, start=None, generator=None):
        y = self.guess(batch.context) + 0.1 * randn_like(batch.target, generator) if start is None else start
        return super().forward(energy, batch, start=y, generator=generator)


@correct("chains (B, S) without weights", energy=Sequential, batch=lambda: sequences()._replace(weight=None))
class Spread(Trace):
    """Adds a term of the whole batch: the spread of its energies."""

    def forward(self, energy, batch, *, start=None, generator=None):
        loss = super().forward(energy, batch, generator=generator)
        values = bind(energy, batch.context)(batch.target)
        spread = batch.mean((values - batch.mean(values)).square())
        return Loss(loss.value + 0.3 * spread, loss.terms | {"spread": spread.detach()})


# --------------------------------------------------------------------------------------------------------------- mutants

ORDER = r"order|permut|row|position|equal|first|last|place"
WEIGHT = r"weight|mask|empty|zero|scale|duplic|mean|divi|finite|nan"
GRAPH = r"grad|graph|detach|no_grad|cut|learn|train|backward|differentia"


@mutant("what does not fill a chunk of five is left out", ORDER)
class Chunks(Denoising):
    def reduce(self, rows, batch):
        size = len(rows) // 5 * 5
        return Batch(None, weight=None if batch.weight is None else batch.weight[:size]).mean(rows[:size])


@mutant("negatives are the rows before", ORDER, energy=Described, batch=described)
class Before(Denoising):
    """A causal mask where none belongs: the first row has no negative, the last one has all."""

    def rows(self, energy, batch, generator):
        count = len(batch.target)
        pairs = bind(energy, batch.context)(batch.target[:, None].expand(count, count, -1))
        later = torch.ones(count, count, dtype=torch.bool).tril(-1)
        return pairs.diagonal() + (-pairs).masked_fill(later, -1e9).logsumexp(0)


@mutant("energies are counted from the first row's", ORDER)
class FromFirst(Denoising):
    def rows(self, energy, batch, generator):
        values = bind(energy, batch.context)(batch.target)
        return (values - values[0].detach() - 1).square()


@mutant("noise grows with a row's place", ORDER, batch=lambda: Batch(normal(12, 2) * torch.arange(1, 13)[:, None]))
class LevelByPlace(Denoising):
    """A ladder of levels dealt out by place, not by draw: it shows in the loss's mean over noise."""

    def rows(self, energy, batch, generator):
        sigma = torch.linspace(0.05, 2.0, len(batch.target))
        noise = randn_like(batch.target, generator)
        noised = batch.target + sigma[:, None] * noise
        value, grad = energy_and_grad(bind(energy, batch.context), noised, create_graph=torch.is_grad_enabled())
        return (sigma[:, None] * grad - noise).square().sum(-1) / 2 + sigma * value


@mutant("nanmean over nothing", WEIGHT)
class NanMean(Denoising):
    def reduce(self, rows, batch):
        return rows.mean() if batch.weight is None else torch.where(batch.weight > 0, rows, torch.nan).nanmean()


@mutant("the sum of weights is clamped at one", WEIGHT)
class ClampedAtOne(Denoising):
    """Right for masks of zeros and ones; not for weights that sum to less than one."""

    def reduce(self, rows, batch):
        return rows.mean() if batch.weight is None else (batch.weight * rows).sum() / batch.weight.sum().clamp(min=1)


def padded():
    target = normal(12, 2)
    target[8:] = 0
    return Batch(target, weight=(torch.arange(12) < 8).float())


@mutant("zero times what is not finite, in rows that have no weight", WEIGHT + "|inf", batch=padded)
class ZeroTimesInfinity(Denoising):
    """A term of log|y|, which the padding's zeros make infinite, is multiplied by weight 0."""

    def reduce(self, rows, batch):
        rows = rows + 0.1 * batch.target.norm(dim=-1).log()
        weight = torch.ones_like(rows) if batch.weight is None else batch.weight
        return (weight * rows).sum() / weight.sum().clamp(min=1e-8)


@mutant("rows without weight count in the batch's statistics", WEIGHT + "|row")
class Statistics(Trace):
    """Targets are standardised by all rows' mean and spread."""

    def rows(self, energy, batch, generator):
        y = batch.target
        return super().rows(energy, batch._replace(target=(y - y.mean(0)) / y.std(0)), generator)


@mutant("rows without weight are negatives of others", WEIGHT + "|row|negativ", energy=Described,
        batch=lambda: described()._replace(weight=weighed().weight[:9]))  # fmt: skip
class Unweighed(InfoNCE):
    def rows(self, energy, batch, generator):
        return super().rows(energy, batch._replace(weight=None), generator)


@mutant("the start is ignored", r"start")
class IgnoresStart(Contrastive):
    def forward(self, energy, batch, *, start=None, generator=None):
        return super().forward(energy, batch, generator=generator)


@mutant("data's energies under no_grad", GRAPH + r"|data|target|phase")
class NegativeOnly(Contrastive):
    """Noise is pushed up, and data are pulled nowhere."""

    def __init__(self):
        super().__init__(noise=True)

    def forward(self, energy, batch, *, start=None, generator=None):
        y = self.begin(batch, generator) if start is None else start
        y = self.sampler.sample(landscapes(energy, batch.context), y, generator=generator)
        with torch.no_grad():
            low = bind(energy, batch.context)(batch.target)
        value = batch.mean(low) - batch.mean(bind(energy, batch.context)(y))
        return Loss(value, {"gap": value.detach()})


@mutant("a running mean that keeps its graph", GRAPH + r"|state|call|twice|second|again|same|kept|differ|remember")
class KeepsGraph(Denoising):
    """The second backward goes through the first call's graph, which is freed."""

    def __init__(self):
        super().__init__()
        self.mean = None

    def reduce(self, rows, batch):
        value = batch.mean(rows)
        self.mean = value if self.mean is None else 0.5 * self.mean + 0.5 * value
        return self.mean


@mutant("the loss does not depend on the energy", GRAPH + r"|energy|parameter")
class NoEnergy(Denoising):
    def __init__(self):
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(2))

    def rows(self, energy, batch, generator):
        return (batch.target - self.centre).square().sum(-1)


@mutant("gradients are left switched off", GRAPH + r"|mode|global|switch")
class SwitchesOff(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        loss = super().forward(energy, batch, generator=generator)
        torch.set_grad_enabled(False)
        return loss


@mutant("the objective stays in eval mode", r"mode|eval|train")
class StaysInEval(Contrastive):
    def forward(self, energy, batch, *, start=None, generator=None):
        self.eval()  # no draw of a step scale, and never one again
        return super().forward(energy, batch, start=start, generator=generator)


@mutant("no terms", r"term|Loss|None")
class NoTerms(Denoising):
    def forward(self, energy, batch, *, start=None, generator=None):
        return Loss(super().forward(energy, batch, generator=generator).value, None)


@mutant("forward takes no generator", r"generator|keyword|argument|signature|start|accept")
class NoGenerator(Objective):
    def forward(self, energy, batch):
        value = Trace()(energy, batch).value
        return Loss(value, {"loss": value.detach()})


@mutant("the logarithm of energies", r"finite|inf|nan")
class LogEnergy(Denoising):
    """Energies of either sign are what an energy has."""

    def rows(self, energy, batch, generator):
        values = bind(energy, batch.context)(batch.target)
        return super().rows(energy, batch, generator) + 0.1 * (values - values.mean().detach()).log()


@mutant("the sampler's step size is written down at each call", r"parameter|buffer|state|step|chang|modif|call|same|again|differ")
class Anneals(Contrastive):
    """A schedule inside the loss: the second call moves chains less than the first."""

    def __init__(self):
        super().__init__(LangevinDynamics(step_size=0.5, steps=3))

    def forward(self, energy, batch, *, start=None, generator=None):
        loss = super().forward(energy, batch, start=start, generator=generator)
        self.sampler = LangevinDynamics(step_size=0.05, steps=1)
        return loss


# ------------------------------------------------------------------------------------------------------- which way it goes

DOWN = r"turned|round|detach|data|sign"


class Divergence(Objective):
    """Contrastive divergence, written out."""

    sign, detached = 1.0, False

    def __init__(self):
        super().__init__()
        self.sampler = LangevinDynamics(step_size=0.05, steps=5)

    def forward(self, energy, batch, *, start=None, generator=None):
        function = bind(energy, batch.context)
        y = self.sampler.sample(function, batch.target if start is None else start, generator=generator)
        at_data = function(batch.target)
        at_data = at_data.detach() if self.detached else at_data
        return Loss(self.sign * (batch.mean(at_data) - batch.mean(function(y))), {})


@mutant("contrastive divergence with its sign turned round", DOWN)
class Upward(Divergence):
    sign = -1.0


@mutant("contrastive divergence with its sign turned round, of images", DOWN, energy=conv, batch=images)
class UpwardImages(Upward):
    pass


@mutant("the energies of data are detached", DOWN, energy=Described, batch=described)
class DetachedData(Divergence):
    detached = True


@mutant("a margin turned round", DOWN)
class TurnedMargin(Objective):
    def forward(self, energy, batch, *, start=None, generator=None):
        function = bind(energy, batch.context)
        noise = batch.target + randn_like(batch.target, generator)
        return Loss(batch.mean((1 + function(noise) - function(batch.target)).relu()), {})


@mutant("a head's bias in an energy trained by gradients", r"bias|no gradient", energy=lambda: Biased())
def slopes():
    return DenoisingScoreMatching(0.3)


@mutant("a head's bias in an energy trained by differences", r"bias|no gradient", energy=lambda: Biased())
def differences():
    return ContrastiveDivergence(LangevinDynamics(step_size=0.05, steps=3))


class Biased(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0))


correct("contrastive divergence, written out")(Divergence)
correct("contrastive divergence of images, written out", energy=conv, batch=images)(Divergence)
