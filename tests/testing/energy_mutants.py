"""Test subjects for `check_energy`: right energies as plugins' authors write them, and energies with one planted mistake each.

`CORRECT` maps a name to a function of the check's (arguments, keywords). `MUTANTS` maps a name to such a function and a
pattern (case does not count) that a message which is right about the mistake matches.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

from ebm.energies import ConvEnergy, Gaussian, GaussianMixture, ImageEBT, MLPEnergy, ResidualTextEBT, TextEBT
from ebm.interfaces import Energy, Given

CORRECT, MUTANTS = {}, {}


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def points():
    return normal(6, 2)


def doubles():
    return normal(6, 2, dtype=torch.float64)


def images():
    return normal(4, 1, 8, 8)


def colours():
    return normal(4, 3, 6, 6)


def numbers():
    return normal(9)


def vectors():  # a context (B, 3)
    return normal(6, 3, seed=1)


def words():  # a context of ids (B, S), its rows different and without a period
    return torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(2))


def guesses():  # a prediction of what follows each of them (B, S, V)
    return normal(3, 5, 7).softmax(-1)


def arguments(factory, y, context):
    return lambda: ((factory, y()) if context is None else (factory, y(), context()), {})


def correct(name, y=points, context=None):
    def register(factory):
        CORRECT[name] = arguments(factory, y, context)
        return factory

    return register


def mutant(name, pattern, y=points, context=None):
    def register(factory):
        MUTANTS[name] = (arguments(factory, y, context), pattern)
        return factory

    return register


def attend(q, k, v, allowed=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return (scores if allowed is None else scores.masked_fill(~allowed, -math.inf)).softmax(-1) @ v


# --------------------------------------------------------------------------------------------------------- right: vectors


class Net(Energy):
    """w · tanh(W y + b): right, and what most mutants change one line of."""

    def __init__(self, dim=2, hidden=8):
        super().__init__()
        self.inner, self.head = nn.Linear(dim, hidden), nn.Linear(hidden, 1, bias=False)

    def hidden(self, y):
        return self.inner(y).tanh()

    def forward(self, y, code=None):
        return self.head(self.hidden(y)).squeeze(-1)


correct("net")(Net)
correct("net in float64", y=doubles)(lambda: Net().double())
correct("net on several chain axes", y=lambda: normal(3, 4, 2))(Net)
correct("net on one chain", y=lambda: normal(1, 2))(Net)
correct("net on wide vectors", y=lambda: normal(5, 20))(lambda: Net(20))
correct("net on events of length one", y=lambda: normal(7, 1))(lambda: Net(1))
correct("sum of a net and a scaled function")(lambda: Net() + 0.5 * Net() + (lambda y: y.square().sum(-1)))


@correct("mlp with a biased head")
class Biased(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 1)


@correct("relu network")
class Relu(Energy):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.LeakyReLU(), nn.Linear(16, 1, bias=False))

    def forward(self, y, code=None):
        return self.layers(y)[..., 0]


@correct("dropout")
class Dropped(Net):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.3)

    def hidden(self, y):
        return self.dropout(super().hidden(y))


@correct("batch norm, frozen in either mode")
class FrozenNorm(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.norm.running_mean += 0.3
        self.norm.eval()

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def hidden(self, y):
        h = self.inner(y)
        return self.norm(h.reshape(-1, 8)).reshape(h.shape).tanh()


@correct("layer norm, weights normalised by parametrisation")
class LayerNormed(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.inner = nn.utils.parametrizations.weight_norm(self.inner)

    def hidden(self, y):
        return F.silu(self.norm(self.inner(y)))


@correct("spectral norm")
class Spectral(Net):
    def __init__(self):
        super().__init__()
        self.inner = spectral_norm(self.inner)


@correct("zero-initialised head")
class ZeroHead(Net):
    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.head.weight)


@correct("zero-initialised gates, two deep")
class ZeroGates(Net):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.gates = nn.Parameter(torch.zeros(2, 8))

    def hidden(self, y):
        h = super().hidden(y)
        for block, gate in zip(self.blocks, self.gates, strict=True):
            h = h + gate * block(h).tanh()
        return h


@correct("learnable gaussian, covariance by Cholesky")
class Cholesky(Energy):
    def __init__(self, dim=2):
        super().__init__()
        self.mean, self.raw = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.randn(dim, dim) / 4)

    def forward(self, y, code=None):
        # The upper triangle of `raw` is not used, its entries get gradient zero; the tensor does get one.
        lower = self.raw.tril(-1) + self.raw.diagonal().exp().diag_embed()
        white = torch.linalg.solve_triangular(lower, (y - self.mean).unsqueeze(-1), upper=False)
        return white.square().sum((-2, -1)) / 2 + self.raw.diagonal().sum()


@correct("linear in y")
class Linear(Energy):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))

    def forward(self, y, code=None):
        return y @ self.weight


@correct("no parameters")
class Sombrero(Energy):
    def forward(self, y, code=None):
        return (y.square().sum(-1) - 1).square()


@correct("y of one axis, each number a chain", y=numbers)
class Wells(Energy):
    def __init__(self):
        super().__init__()
        self.depth = nn.Parameter(torch.tensor(1.5))

    def forward(self, y, code=None):
        return self.depth * (y.square() - 1).square()


@correct("frozen random features, as parameters")
class RandomFeatures(Energy):
    def __init__(self):
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(2, 16), requires_grad=False)
        self.head = nn.Parameter(torch.randn(16))

    def forward(self, y, code=None):
        return (y @ self.frequencies).cos() @ self.head


@correct("statistics and grid as buffers")
class Standardised(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.tensor([0.1, -0.3]))
        self.register_buffer("spread", torch.tensor([1.5, 0.7]))
        self.register_buffer("count", torch.tensor(1000))  # of the wrong kind to be moved to another precision

    def hidden(self, y):
        return super().hidden((y - self.centre) / self.spread)


@correct("joint energy of class logits")
class Joint(Energy):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Softplus(), nn.Linear(16, 5))

    def forward(self, y, code=None):
        return -self.layers(y).logsumexp(-1)


@correct("class-conditional logits, labels as context", context=lambda: torch.tensor([0, 3, 1, 4, 4, 2]))
class Labelled(Joint):
    def encode(self, context=None, level=-1):
        return F.one_hot(context, 5)

    def forward(self, y, code=None):
        return -(self.layers(y) * code).sum(-1)


@correct("free energy of a restricted Boltzmann machine")
class Boltzmann(Energy):
    def __init__(self):
        super().__init__()
        self.visible, self.hidden = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(6))
        self.weight = nn.Parameter(0.1 * torch.randn(2, 6))

    def forward(self, y, code=None):
        return (y - self.visible).square().sum(-1) / 2 - F.softplus(y @ self.weight + self.hidden).sum(-1)


@correct("kernel density of stored data, learnable bandwidth")
class Kernel(Energy):
    def __init__(self):
        super().__init__()
        self.register_buffer("data", torch.randn(20, 2))
        self.log_width = nn.Parameter(torch.tensor(0.0))

    def forward(self, y, code=None):
        squared = (y[..., None, :] - self.data).square().sum(-1)
        return -(-squared / (2 * (2 * self.log_width).exp())).logsumexp(-1) + 2 * self.log_width


@correct("mixture of experts, softly gated")
class Experts(Energy):
    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(2, 3), nn.ModuleList(Net() for _ in range(3))

    def forward(self, y, code=None):
        return (self.gate(y).softmax(-1) * torch.stack([expert(y) for expert in self.experts], -1)).sum(-1)


@correct("distance to the nearest of some learned centres")
class Nearest(Energy):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(3, 2))

    def forward(self, y, code=None):
        return (y[..., None, :] - self.centres).square().sum(-1).min(-1).values


class Square(torch.autograd.Function):
    """x², differentiable as often as one likes."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


def squared_by(function):
    class Squared(Net):
        def forward(self, y, code=None):
            return super().forward(y) + function.apply(y @ self.inner.weight.mT).sum(-1)

    return Squared


correct("an autograd function of its own")(squared_by(Square))


@correct("squared score of a network")
class Score(Net):
    def forward(self, y, code=None):
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            value = super().forward(y)
            (score,) = torch.autograd.grad(value.sum(), y, create_graph=True)
            value = value + score.square().sum(-1) / 2
        return value if torch.is_grad_enabled() else value.detach()


@correct("y's dependence through a Fourier transform", y=lambda: normal(5, 12))
class Spectrum(Energy):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(7))

    def forward(self, y, code=None):
        spectrum = torch.fft.rfft(y)
        return ((spectrum.real.square() + spectrum.imag.square()) * self.weight).sum(-1)


# ---------------------------------------------------------------------------------------- right: contexts and landscapes


@correct("context vectors", context=vectors)
class Conditional(Net):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 8))

    def encode(self, context=None, level=-1):
        return self.encoder(context)

    def forward(self, y, code=None):
        return self.head((self.inner(y) + code).tanh()).squeeze(-1)


@correct("context vectors, bilinear", context=vectors)
class Bilinear(Energy):
    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(3, 4, bias=False), nn.Linear(2, 4, bias=False)

    def encode(self, context=None, level=-1):
        return self.query(context)

    def forward(self, y, code=None):
        return -(self.key(y) * code).sum(-1) + y.square().sum(-1)


@correct("weights made from the context", context=vectors)
class Hyper(Energy):
    def __init__(self):
        super().__init__()
        self.make, self.head = nn.Linear(3, 2 * 4), nn.Parameter(torch.randn(4))

    def encode(self, context=None, level=-1):
        return self.make(context).unflatten(-1, (4, 2))

    def forward(self, y, code=None):
        return (code @ y[..., None]).squeeze(-1).tanh() @ self.head


@correct("a set as context", context=lambda: normal(6, 4, 3, seed=1))
class SetConditional(Energy):
    def __init__(self):
        super().__init__()
        self.query, self.keys, self.head = nn.Linear(2, 8), nn.Linear(3, 16, bias=False), nn.Linear(8, 1, bias=False)

    def encode(self, context=None, level=-1):
        return self.keys(context).chunk(2, -1)

    def forward(self, y, code=None):
        return self.head(attend(self.query(y)[..., None, :], *code).squeeze(-2).tanh()).squeeze(-1)


@correct("noise levels by embedding, dropout in the encoder", context=vectors)
class Noised(Conditional):
    levels = 4

    def __init__(self):
        super().__init__()
        self.level, self.dropout = nn.Embedding(4, 8), nn.Dropout(0.2)

    def encode(self, context=None, level=-1):
        return self.dropout(self.encoder(context)) + self.level.weight[level]


@correct("noise levels by scale, without context")
class Scaled(Net):
    levels = 3

    def __init__(self):
        super().__init__()
        self.register_buffer("sigmas", torch.tensor([2.0, 1.0, 0.5]))

    def encode(self, context=None, level=-1):
        return self.sigmas[level]

    def forward(self, y, code=None):
        return super().forward(y) / (self.sigmas[-1] if code is None else code)


# ---------------------------------------------------------------------------------------------------------- right: images


@correct("convolutions and group norm", y=colours)
class Convolutions(Energy):
    def __init__(self, channels=3):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.AvgPool2d(2), nn.Conv2d(8, 1, 3, bias=False)
        )

    def forward(self, y, code=None):
        return self.layers(y.reshape(-1, *y.shape[-3:])).sum((-3, -2, -1)).reshape(y.shape[:-3])


@correct("error of an autoencoder", y=images)
class Autoencoder(Energy):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 4, 2, 1), nn.ConvTranspose2d(4, 1, 4, 2, 1)

    def forward(self, y, code=None):
        flat = y.reshape(-1, *y.shape[-3:])
        return (self.up(self.down(flat).tanh()) - flat).square().sum((1, 2, 3)).reshape(y.shape[:-3])


@correct("lattice field with one coupling", y=lambda: normal(5, 4, 4))
class Lattice(Energy):
    def __init__(self):
        super().__init__()
        self.coupling = nn.Parameter(torch.tensor(0.3))

    def forward(self, y, code=None):
        bonds = y * (y.roll(1, -1) + y.roll(1, -2))
        return ((y.square() - 1).square() - self.coupling * bonds).sum((-2, -1))


class Patches(Energy):
    """Attention between the patches of an image (..., 1, 8, 8)."""

    def __init__(self):
        super().__init__()
        self.patch, self.where = nn.Linear(16, 8), nn.Parameter(0.1 * torch.randn(4, 8))
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 1, bias=False)

    def cut(self, y):
        parts = y.reshape(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 4, 16)
        return self.patch(parts) + self.where

    def mix(self, x):
        return attend(*self.qkv(x).chunk(3, -1))

    def forward(self, y, code=None):
        x = self.cut(y)
        return self.head((x + self.mix(x)).tanh().mean(1)).reshape(y.shape[:-3])


correct("attention over an image's patches", y=images)(Patches)


@correct("torch's own attention over patches", y=images)
class TorchAttention(Patches):
    def __init__(self):
        super().__init__()
        del self.qkv
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def mix(self, x):
        return self.attention(x, x, x, need_weights=True)[0]  # with weights asked for it is plain products and a softmax


# ------------------------------------------------------------------------------------------------------- right: sequences


@correct("causal, without extend", y=guesses, context=words)
class Causal(Energy):
    """One layer of attention over the ids; prediction i looks at the state of position i."""

    def __init__(self, vocabulary=7, dim=8):
        super().__init__()
        self.table, self.where = nn.Embedding(vocabulary, dim), nn.Embedding(16, dim)
        self.qkv, self.propose = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(vocabulary, dim, bias=False)
        self.head = nn.Linear(dim, 1, bias=False)

    def observe(self, ids, start=0):
        return self.table(ids) + self.where.weight[start : start + ids.shape[1]]

    def seen(self, count, device):
        return torch.ones(count, count, dtype=torch.bool, device=device).tril()

    def mix(self, x):
        return x + attend(*self.qkv(x).chunk(3, -1), self.seen(x.shape[1], x.device))

    def encode(self, context=None, level=-1):
        return self.mix(self.observe(context))

    def forward(self, y, code=None):
        return self.head((self.propose(y) + code[:, -y.shape[-2] :]).tanh()).squeeze(-1)


class Cache(NamedTuple):
    keys: torch.Tensor
    values: torch.Tensor
    hidden: torch.Tensor


@correct("causal, with extend", y=guesses, context=words)
class Extending(Causal):
    def encode(self, context=None, level=-1):
        return self.grow(self.observe(context), None)

    def start(self, code):
        return code.keys.shape[1]

    def extend(self, code, context):
        return self.grow(self.observe(context, self.start(code)), code)

    def grow(self, x, code):
        q, k, v = self.qkv(x).chunk(3, -1)
        if code is not None:
            k, v = torch.cat([code.keys, k], 1), torch.cat([code.values, v], 1)
        allowed = self.seen(k.shape[1], x.device)[-x.shape[1] :]
        hidden = x + attend(q, k, v, allowed)
        return Cache(k, v, hidden if code is None else torch.cat([code.hidden, hidden], 1))

    def forward(self, y, code=None):
        return super().forward(y, code.hidden)


@correct("causal, recurrent", y=guesses, context=words)
class Recurrent(Causal):
    def __init__(self):
        super().__init__()
        del self.qkv
        self.cell = nn.GRU(8, 8, batch_first=True)

    def mix(self, x):
        return self.cell(x)[0]


@correct("causal convolution, two landscapes", y=guesses, context=words)
class CausalConvolution(Causal):
    levels = 2

    def __init__(self):
        super().__init__()
        del self.qkv
        self.filter, self.level = nn.Conv1d(8, 8, 3), nn.Embedding(2, 8)

    def mix(self, x):
        return self.filter(F.pad(x.mT, (2, 0))).mT

    def encode(self, context=None, level=-1):
        return super().encode(context) + self.level.weight[level]


correct("core mlp")(lambda: MLPEnergy(2, hidden=(8,)))
correct("core conv, spectral norm", y=images)(lambda: ConvEnergy(1, 8, width=4, spectral_norm=True))
correct("core gaussian")(lambda: Gaussian(mean=(0.0, 1.0), covariance=((2.0, 1.0), (1.0, 2.0))))
correct("core mixture")(GaussianMixture)
correct("core text EBT", y=guesses, context=words)(lambda: TextEBT(7, dim=8, depth=1, heads=2))
correct("core text EBT, adaln-zero", y=guesses, context=words)(
    lambda: TextEBT(7, dim=8, depth=1, heads=2, conditioning="adaln-zero", levels=2)
)
correct("core residual text EBT, time", y=guesses, context=words)(
    lambda: ResidualTextEBT(7, dim=8, depth=2, heads=2, conditioning="time", levels=2)
)
correct("core image EBT", y=images, context=lambda: normal(4, 1, 8, 8, seed=1))(
    lambda: ImageEBT(8, 4, 1, dim=8, depth=1, heads=2)
)


# ------------------------------------------------------------------------------------------------------- mistakes: shapes

SHAPE = r"prefix|shape|ax[ei]s"
MIXES = r"batch|chain|independent|mix|row"


@mutant("keeps the last axis", SHAPE)
class KeepsAxis(Net):
    def forward(self, y, code=None):
        return self.head(self.hidden(y))  # (B, 1)


@mutant("one number for all chains", SHAPE + "|one number|" + MIXES)
class OneNumber(Net):
    def forward(self, y, code=None):
        return super().forward(y).sum()


@mutant("mean over the batch, expanded to its shape", MIXES)
class MeanExpanded(Net):
    def forward(self, y, code=None):
        value = super().forward(y)
        return value.mean(0, keepdim=True).expand_as(value)


@mutant("transposed axes", SHAPE, y=guesses, context=words)
class Transposed(Causal):
    def forward(self, y, code=None):
        return super().forward(y, code).transpose(-2, -1)  # (S, B)


@mutant("one axis too many", SHAPE)
class TooManyAxes(Net):
    def forward(self, y, code=None):
        return super().forward(y)[..., None].expand(y.shape)[..., None]  # (B, D, 1)


@mutant("whole numbers as energies", r"float|dtype|int|gradient|differentiab")
class WholeNumbers(Net):
    def forward(self, y, code=None):
        return (100 * super().forward(y)).long()


@mutant("truth values as energies", r"float|dtype|bool|gradient|differentiab")
class Truths(Net):
    def forward(self, y, code=None):
        return super().forward(y) > 0


@mutant("an array of numpy", r"tensor|numpy|ndarray")
class Array(Net):
    def forward(self, y, code=None):
        return super().forward(y).detach().numpy()


@mutant("a pair of energies and features", r"tensor|tuple")
class Pair(Net):
    def forward(self, y, code=None):
        return super().forward(y), self.hidden(y)


@mutant("forgets to sum over the event", MIXES + "|" + SHAPE)
class NotSummed(Net):
    def forward(self, y, code=None):  # (B, 2) of (B, 2): a prefix, so coordinates are chains; but each sees the other
        return (self.hidden(y) * self.head.weight[0]) @ self.inner.weight


@mutant("sums over pixels, not over channels", MIXES + "|" + SHAPE, y=colours)
class NotOverChannels(Energy):
    def __init__(self):
        super().__init__()
        self.filter = nn.Conv2d(3, 3, 3)

    def forward(self, y, code=None):  # (B, C) of (B, C, H, W), and every channel sees the others
        return self.filter(y.reshape(-1, *y.shape[-3:])).tanh().sum((-2, -1)).reshape(y.shape[:-2])


MORE = r"leading|candidate|more ax|extra ax|chain ax|several|prefix|more chains|" + MIXES


@mutant("one batch axis hard-coded: no candidates", MORE + "|fail|rais", y=images)
class OneBatchAxis(Energy):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.SiLU(), nn.Flatten(1), nn.Linear(64, 1, bias=False))

    def forward(self, y, code=None):
        return self.layers(y).squeeze(-1)


@mutant("sums over axis 1, whatever comes before", MORE)
class SumsAxisOne(Energy):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, y, code=None):
        return self.scale * y.square().sum(1)


@mutant("contexts paired with the wrong candidates", MORE + "|context", context=vectors)
class WrongPairs(Conditional):
    def forward(self, y, code=None):
        flat = y.reshape(-1, 2)
        code = code.repeat_interleave(len(flat) // len(code), 0)  # should be repeat: candidates are in front
        return super().forward(flat, code).reshape(y.shape[:-1])


@mutant("a reshape that shuffles chains with several axes", MORE + "|permut|order", y=lambda: normal(3, 4, 2))
class Shuffles(Net):
    def forward(self, y, code=None):
        return super().forward(y.transpose(0, -2).reshape(-1, 2)).reshape(y.shape[:-1])  # not transposed back


@mutant("mixes candidates, not rows", MORE)
class MixesCandidates(Net):
    def forward(self, y, code=None):
        value = super().forward(y)
        return value - value.mean(0) if value.ndim > 1 else value


# -------------------------------------------------------------------------------------------------------- mistakes: chains


@mutant("batch norm", MIXES)
class BatchNormed(Net):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 8, bias=False)
        self.norm = nn.BatchNorm1d(8)  # mixes chains in train mode, in which energies are trained

    def hidden(self, y):
        h = self.inner(y)
        return self.norm(h.reshape(-1, 8)).reshape(h.shape).tanh()


@mutant("batch norm without running statistics", MIXES)
class BatchNormedAlways(BatchNormed):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)  # in eval mode too


@mutant("batch norm of images", MIXES, y=colours)
class BatchNormedImages(Convolutions):
    def __init__(self):
        super().__init__()
        self.layers[0], self.layers[1] = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)


@mutant("a share of the batch's mean", MIXES)
class ShareOfMean(Net):
    def forward(self, y, code=None):
        value = super().forward(y)
        return value + 0.1 * value.mean()


@mutant("softmax over the batch axis", MIXES)
class BatchSoftmax(Net):
    def hidden(self, y):
        return super().hidden(y) * self.inner(y).softmax(0)  # should be -1


@mutant("minus the batch's mean, in y", MIXES)
class BatchCentred(Net):
    def hidden(self, y):
        return super().hidden(y - y.mean(0))


@mutant("minus the batch's largest energy, detached", MIXES + "|detach")
class BatchMaximum(Net):
    def forward(self, y, code=None):  # gradients are right, values are not
        value = super().forward(y)
        return value - value.max().detach()


@mutant("divided by the norm of all of y", MIXES)
class GlobalNorm(Net):
    def hidden(self, y):
        return super().hidden(y / (1 + 0.1 * y.norm()))


@mutant("a weak repulsion between neighbouring rows", MIXES)
class Repulsion(Net):
    def forward(self, y, code=None):
        gap = (y - y.roll(1, 0)).square().sum(-1)
        return super().forward(y) + 0.01 * torch.exp(-gap)


@mutant("attention across rows", MIXES, y=images)
class AcrossRows(Patches):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)  # batch_first=False, and patches are handed over with rows first

    def mix(self, x):
        return self.attention(x, x, x)[0] + super().mix(x)


@mutant("batch statistics in train mode only", MIXES)
class OnlyInTraining(Net):
    def hidden(self, y):
        return super().hidden(y / (1 + y.std(0)) if self.training else y)


@mutant("batch norm in the context encoder", MIXES + "|context", context=vectors)
class ContextNorm(Conditional):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8), nn.SiLU())


@mutant("contexts centred over the batch, in either mode", MIXES + "|context", context=vectors)
class ContextCentred(Conditional):
    def encode(self, context=None, level=-1):
        return super().encode(context - context.mean(0))


# ----------------------------------------------------------------------------------------------- mistakes: differentiation

CUT = r"detach|gradient|graph|finite diff|differentiab|derivative|slope"
TWICE = r"second|twice|double|create_graph|order|once|gradgrad|again"


@mutant("wholly detached", CUT)
class Detached(Net):
    def hidden(self, y):
        return super().hidden(y.detach())


@mutant("detached in one branch", CUT)
class BranchDetached(Net):
    def forward(self, y, code=None):
        return super().forward(y) + (y.detach() * y.roll(1, -1)).sum(-1)


@mutant("the .data of y in a scale", CUT)
class DataScale(Net):
    def forward(self, y, code=None):
        return super().forward(y) * (1 + 0.2 * y.data.square().sum(-1))


@mutant("a trunk under no_grad", CUT)
class NoGradTrunk(Net):
    def forward(self, y, code=None):
        with torch.no_grad():
            reach = y.square().sum(-1).sqrt()
        return super().forward(y) + 0.3 * reach


@mutant("a round trip through numpy", CUT + "|numpy")
class RoundTrip(Net):
    def forward(self, y, code=None):
        return super().forward(y) + torch.from_numpy(np.cos(y.detach().cpu().numpy())).sum(-1)


@mutant("rebuilt by torch.tensor", CUT)
class Rebuilt(Net):
    def forward(self, y, code=None):
        value = super().forward(y)
        return torch.tensor(value.tolist(), dtype=value.dtype)


@mutant("a straight-through estimate", CUT)
class StraightThrough(Net):
    def hidden(self, y):
        return super().hidden(y + (y.round() - y).detach())


@mutant("a gradient clipped by a hook", CUT + "|hook|clip")
class ClippedByHook(Net):
    def hidden(self, y):
        h = super().hidden(y)
        if h.requires_grad:
            h.register_hook(lambda grad: grad.clamp(-0.05, 0.05))
        return h


@mutant("its own score, taken without create_graph", CUT + "|" + TWICE)
class ScoreCut(Net):
    def forward(self, y, code=None):
        with torch.enable_grad():
            at = y.detach().requires_grad_()
            (score,) = torch.autograd.grad(super().forward(at).sum(), at)
        return super().forward(y) + score.square().sum(-1)


class Once(Square):
    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Doubled(Square):
    @staticmethod
    def backward(ctx, grad):
        return 4 * ctx.saved_tensors[0] * grad


class Flipped(Square):
    @staticmethod
    def backward(ctx, grad):
        return -2 * ctx.saved_tensors[0] * grad


class CutInBackward(Square):
    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0].detach() * grad


class NoGradInBackward(Square):
    @staticmethod
    def backward(ctx, grad):
        with torch.no_grad():
            return 2 * ctx.saved_tensors[0] * grad


mutant("once differentiable", TWICE)(squared_by(Once))
mutant("a backward of twice the gradient", CUT)(squared_by(Doubled))
mutant("a backward of the other sign", CUT)(squared_by(Flipped))
mutant("a backward that detaches what it saved", TWICE)(squared_by(CutInBackward))
mutant("a backward under no_grad", TWICE)(squared_by(NoGradInBackward))


class CutsWeight(torch.autograd.Function):
    """y Wᵀ, whose gradients are right, but dE/dy forgets that it depends on W."""

    @staticmethod
    def forward(ctx, y, weight):
        ctx.save_for_backward(y, weight)
        return y @ weight.mT

    @staticmethod
    def backward(ctx, grad):
        y, weight = ctx.saved_tensors
        return grad @ weight.detach(), grad.reshape(-1, grad.shape[-1]).mT @ y.reshape(-1, y.shape[-1])


@mutant("no second derivative by the weights", TWICE + "|parameter")
class SecondOrderCut(Net):
    def hidden(self, y):
        return (CutsWeight.apply(y, self.inner.weight) + self.inner.bias).tanh()


@mutant("reentrant checkpointing", CUT + "|checkpoint|backward")
class Reentrant(Net):
    def forward(self, y, code=None):
        return checkpoint(super().forward, y, use_reentrant=True)


@mutant("torch's fused attention", TWICE, y=images)
class Fused(Patches):
    def mix(self, x):
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v)[:, 0]  # its default kernel has no second derivative


# ----------------------------------------------------------------------------------------------------- mistakes: parameters

PARAMETER = r"parameter|unused|never|gradient"


@mutant("an unused parameter", PARAMETER)
class Unused(Net):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))


@mutant("a layer never called", PARAMETER)
class NeverCalled(Net):
    def __init__(self):
        super().__init__()
        self.middle = nn.Linear(8, 8)


@mutant("a parameter detached where it is used", PARAMETER)
class ParameterDetached(Net):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))

    def hidden(self, y):
        return super().hidden(y) * self.gain.detach()


@mutant("a parameter in a branch never taken", PARAMETER)
class NeverTaken(Net):
    def __init__(self, residual=False):
        super().__init__()
        self.residual, self.skip = residual, nn.Linear(2, 8)

    def hidden(self, y):
        return super().hidden(y) + self.skip(y) if self.residual else super().hidden(y)


@mutant("a parameter times zero", PARAMETER)
class TimesZero(Net):
    def __init__(self):
        super().__init__()
        self.quadratic = nn.Parameter(torch.ones(()))

    def forward(self, y, code=None):
        return super().forward(y) + 0.0 * self.quadratic * y.square().sum(-1)


@mutant("a bias that cancels", PARAMETER)
class Cancels(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 1)

    def forward(self, y, code=None):  # E(y) - E(0): the head's bias has no say in it
        return super().forward(y) - super().forward(torch.zeros_like(y))


@mutant("attention to a single token", PARAMETER)
class SingleToken(Energy):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(2, 4), nn.Linear(2, 4), nn.Linear(2, 4)
        self.head = nn.Linear(4, 1, bias=False)

    def forward(self, y, code=None):  # a softmax over one key is 1: query and key are never trained
        token = y[..., None, :]
        return self.head(attend(self.query(token), self.key(token), self.value(token)).tanh()).squeeze((-2, -1))


@mutant("a gate chosen by argmax", PARAMETER)
class HardGate(Experts):
    def forward(self, y, code=None):
        choice = F.one_hot(self.gate(y).argmax(-1), 3)
        return (choice * torch.stack([expert(y) for expert in self.experts], -1)).sum(-1)


@mutant("a context encoder under no_grad", PARAMETER, context=vectors)
class NoGradEncoder(Conditional):
    @torch.no_grad()
    def encode(self, context=None, level=-1):
        return super().encode(context)


@mutant("a level's embedding never looked up", PARAMETER + "|level", context=vectors)
class LevelUnused(Noised):
    def encode(self, context=None, level=-1):
        return self.encoder(context)


@mutant("weights made once, when the energy is built", PARAMETER + r"|state|dtype|double|backward|second time|register|saved")
class MadeOnce(Net):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))
        self.positive = F.softplus(self.gain)  # stays what it was, whatever becomes of `gain`

    def hidden(self, y):
        return super().hidden(y) * self.positive.to(y)


# ----------------------------------------------------------------------------------------------------- mistakes: causality

LEAK = r"leak|causal|answer|future|later|sees|position"


def leaks(name, pattern=LEAK):
    return mutant(name, pattern, y=guesses, context=words)


@leaks("no mask")
class NoMask(Causal):
    def seen(self, count, device):
        return torch.ones(count, count, dtype=torch.bool, device=device)


@leaks("a mask off by one")
class OffByOne(Causal):
    def seen(self, count, device):
        return torch.ones(count, count, dtype=torch.bool, device=device).tril(1)


@leaks("a mask the wrong way round")
class Backwards(Causal):
    def seen(self, count, device):
        return torch.ones(count, count, dtype=torch.bool, device=device).triu()


@leaks("a mask that is not quite minus infinity")
class SoftMask(Causal):
    def mix(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.mT / math.sqrt(8) - 6.0 * (~self.seen(x.shape[1], x.device)).to(x)
        return x + scores.softmax(-1) @ v


@leaks("a mean over the whole sequence")
class WholeMean(Causal):
    def mix(self, x):
        return super().mix(x) + x.mean(1, keepdim=True)


@leaks("contexts shifted by one")
class Shifted(Causal):
    def observe(self, ids, start=0):
        return super().observe(ids.roll(-1, 1))


@leaks("normalised over time")
class OverTime(Causal):
    def mix(self, x):
        x = super().mix(x)
        return x / (1 + x.std(1, keepdim=True))


@leaks("recurrent in both directions")
class BothWays(Recurrent):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(8, 4, batch_first=True, bidirectional=True)


@leaks("a convolution padded on both sides")
class SamePadding(CausalConvolution):
    def mix(self, x):
        return self.filter(F.pad(x.mT, (1, 1))).mT


@leaks("no mask in the second layer, weakly")
class SecondLayer(Causal):
    def mix(self, x):
        x = super().mix(x)
        return x + 0.1 * attend(*self.qkv(x).chunk(3, -1))


@leaks("no mask in train mode")
class TrainingLeak(Causal):
    def seen(self, count, device):
        seen = super().seen(count, device)
        return torch.ones_like(seen) if self.training else seen


@leaks("the second landscape leaks, the last does not")
class LevelLeak(Causal):
    levels = 3

    def __init__(self):
        super().__init__()
        self.level = nn.Embedding(3, 8)

    def encode(self, context=None, level=-1):
        code = super().encode(context) + self.level.weight[level]
        return code + self.observe(context).roll(-1, 1) if level == 1 else code


@leaks("predictions attend to each other", LEAK + "|" + MIXES)
class PredictionsSee(Causal):
    def forward(self, y, code=None):  # even those before only: each prediction is a chain of its own
        x = self.propose(y) + code
        return self.head((x + attend(x, x, x, self.seen(x.shape[-2], x.device))).tanh()).squeeze(-1)


@leaks("predictions normalised over time", LEAK + "|" + MIXES)
class PredictionsNormed(Causal):
    def forward(self, y, code=None):
        return super().forward(y - y.mean(-2, keepdim=True), code)


EXTEND = r"extend|append|encod|cache|code"


@leaks("extend starts again at position 0", EXTEND)
class ExtendRestarts(Extending):
    def start(self, code):
        return 0


@leaks("extend forgets the past", EXTEND)
class ExtendForgets(Extending):
    def extend(self, code, context):
        new = self.grow(self.observe(context, self.start(code)), None)
        return Cache(*(torch.cat(pair, 1) for pair in zip(code, new, strict=True)))


@leaks("extend without a mask among the new", EXTEND + "|" + LEAK)
class ExtendUnmasked(Extending):
    def grow(self, x, code):
        grown = super().grow(x, code)
        if code is None:
            return grown
        hidden = x + attend(self.qkv(x).chunk(3, -1)[0], grown.keys, grown.values)
        return grown._replace(hidden=torch.cat([code.hidden, hidden], 1))


@leaks("extend changes the code that it was given", EXTEND + "|mutat|in.place|change")
class ExtendMutates(Extending):
    def encode(self, context=None, level=-1):
        return [super().encode(context)]

    def extend(self, code, context):
        code[0] = super().extend(code[0], context)
        return code

    def forward(self, y, code=None):
        return super().forward(y, code[0])


@leaks("positions as fractions of the length", EXTEND + "|length|" + LEAK)
class Fractions(Extending):
    def observe(self, ids, start=0):
        last = start + ids.shape[1]
        place = torch.arange(start, last, device=ids.device).to(self.table.weight) / last
        return super().observe(ids, start) + place[:, None]


# --------------------------------------------------------------------------------------- mistakes: randomness, what is kept

RANDOM = r"random|determin|generator|noise|twice|same|repeat"
CHANGED = r"chang|in.place|mutat|modif|touch|write|alter|buffer|state|read.only"
SAVED = r"state_dict|save|load|register|buffer|persist|round trip|plain|restore"
DTYPE = r"dtype|float32|float64|double|precision|buffer|\.to\b|move"


@mutant("noise in forward", RANDOM)
class Noisy(Net):
    def hidden(self, y):
        return super().hidden(y + 0.01 * torch.randn_like(y))


@mutant("dropout that does not know of eval mode", RANDOM + "|dropout|eval")
class DropoutAlways(Net):
    def hidden(self, y):
        return F.dropout(super().hidden(y), 0.2)  # training=True by default


@mutant("noise of numpy in forward", RANDOM)
class NumpyNoisy(Net):
    def forward(self, y, code=None):
        return super().forward(y) * (1 + 0.01 * np.random.randn())


@mutant("a code drawn at random", RANDOM + "|encod", context=vectors)
class RandomCode(Conditional):
    def encode(self, context=None, level=-1):  # a variational encoder's sample, in eval mode too
        code = super().encode(context)
        return code + 0.1 * torch.randn_like(code)


@mutant("seeds the global generator", r"global|generator|seed|random")
class Seeds(Net):
    def hidden(self, y):
        torch.manual_seed(0)  # the noise is the same at every call, but everybody else's is now as well
        return super().hidden(y) * (1 + 0.01 * torch.randn(8)).to(y)


@mutant("draws from the global generator, and does not use it", r"global|generator|random")
class Draws(Net):
    def hidden(self, y):
        torch.rand(())
        return super().hidden(y)


@mutant("a counter in eval mode", CHANGED)
class Counts(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def hidden(self, y):
        self.calls += 1
        return super().hidden(y)


@mutant("running statistics in eval mode", CHANGED + "|" + RANDOM)
class RunningMean(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(2))

    def hidden(self, y):
        with torch.no_grad():
            self.centre.lerp_(y.reshape(-1, 2).mean(0), 0.1)
        return super().hidden(y - self.centre)


@mutant("a hidden counter that changes the energy", RANDOM + "|" + CHANGED)
class Ages(Net):
    calls = 0

    def forward(self, y, code=None):
        self.calls += 1
        return super().forward(y) / (1 + 0.01 * self.calls)


@mutant("weights clamped in forward", CHANGED + "|parameter|weight")
class Clamps(Net):
    def forward(self, y, code=None):
        self.head.weight.data.clamp_(min=0)  # to be convex
        return super().forward(y)


@mutant("y clamped in place", CHANGED)
class ClampsY(Net):
    def forward(self, y, code=None):
        y.data.clamp_(-0.5, 0.5)
        return super().forward(y)


@mutant("the context scaled in place", CHANGED + "|context", context=vectors)
class ScalesContext(Conditional):
    def encode(self, context=None, level=-1):
        return super().encode(context.mul_(0.5))


@mutant("the code changed by forward", CHANGED + "|code|" + RANDOM, context=vectors)
class ChangesCode(Conditional):
    def forward(self, y, code=None):
        value = super().forward(y, code)
        code.data.mul_(0.9)
        return value


@mutant("gradients left on parameters", CHANGED + r"|\.grad|parameter", context=vectors)
class LeavesGrad(Conditional):
    def encode(self, context=None, level=-1):
        with torch.enable_grad():
            self.encoder(context).square().mean().backward()
        return super().encode(context)


@mutant("switches itself to eval mode", r"mode|eval|train|" + CHANGED, context=vectors)
class SwitchesMode(Conditional):
    def encode(self, context=None, level=-1):
        self.eval()
        return super().encode(context)


@mutant("random features that are not saved", SAVED + "|" + DTYPE)
class NotSaved(Net):
    def __init__(self):
        super().__init__()
        self.basis = torch.randn(2, 2)

    def hidden(self, y):
        return super().hidden(y @ self.basis.to(y))


@mutant("random features in a buffer that is not persistent", SAVED)
class NotPersistent(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("basis", torch.randn(2, 2), persistent=False)

    def hidden(self, y):
        return super().hidden(y @ self.basis)


@mutant("a fixed matrix that does not move", DTYPE + "|" + SAVED)
class NotMoved(Net):
    def __init__(self):
        super().__init__()
        self.basis = torch.tensor([[1.0, 0.5], [0.0, 1.0]])

    def hidden(self, y):
        return super().hidden(y @ self.basis)


@mutant("layers in a list", SAVED + "|" + DTYPE + "|parameter")
class ListOfLayers(Net):
    def __init__(self):
        super().__init__()
        self.more = [nn.Linear(8, 8)]  # should be an nn.ModuleList

    def hidden(self, y):
        h = super().hidden(y)
        for layer in self.more:
            h = h + F.linear(h, layer.weight.to(h), layer.bias.to(h)).tanh()
        return h


@mutant("float32 whatever y is", DTYPE)
class Single(Net):
    def forward(self, y, code=None):
        return super().forward(y).float()


@mutant("float32 on the way, and back", DTYPE + "|" + CUT)
class SingleInside(Net):
    def hidden(self, y):
        return super().hidden(y).float().to(y)


@mutant("another value under no_grad", r"no_grad|grad mode|enabled|agree|differ|same|" + RANDOM)
class GradMode(Net):
    def forward(self, y, code=None):
        value = super().forward(y)
        return value if torch.is_grad_enabled() else value.bfloat16().to(value)  # a "fast path"


STALE = r"context|encod|cach|stale|kept|keep|first|state"


@mutant("keeps the first context for ever", STALE, context=vectors)
class FirstContext(Conditional):
    kept = None

    def encode(self, context=None, level=-1):
        if self.kept is None:
            self.kept = context
        return super().encode(self.kept)


@mutant("keeps codes by the context's shape", STALE, context=vectors)
class KeptByShape(Conditional):
    def encode(self, context=None, level=-1):
        if not hasattr(self, "kept"):
            self.kept = {}
        return super().encode(self.kept.setdefault((context.shape, context.dtype), context))


@mutant("the last context bound counts for all", STALE + "|bind|bound|given", context=vectors)
class LastContext(Conditional):
    def encode(self, context=None, level=-1):
        self.code = super().encode(context)
        return self.code

    def forward(self, y, code=None):
        return super().forward(y, self.code)


@mutant("ignores its context", PARAMETER + "|context|depend", context=vectors)
class IgnoresContext(Conditional):
    def forward(self, y, code=None):
        return Net.forward(self, y)


# -------------------------------------------------------------------------------------------------------- mistakes: levels

LEVEL = r"level|landscape|range"


@mutant("wraps levels out of range", LEVEL, context=vectors)
class Wraps(Noised):
    def given(self, context=None, level=-1):
        return Given(self, self.encode(context, level % self.levels))


@mutant("one level more than there are embeddings", LEVEL + "|index", context=vectors)
class OneTooMany(Noised):
    levels = 5


@mutant("landscapes in the wrong order", LEVEL + "|order", context=vectors)
class WrongOrder(Noised):
    def landscapes(self, context=None):
        return super().landscapes(context)[::-1]


@mutant("one landscape too few in the list", LEVEL, context=vectors)
class TooFew(Noised):
    def landscapes(self, context=None):
        return [self.given(context, level) for level in range(self.levels - 1)]


@mutant("landscapes share what the last one set", LEVEL + "|" + STALE + "|bind|bound|given", context=vectors)
class SharedLevel(Noised):
    def encode(self, context=None, level=-1):
        self.sharpness = 1.0 + level % self.levels
        return super().encode(context, level)

    def forward(self, y, code=None):
        return self.sharpness * super().forward(y, code)


@mutant("the logarithm of what may be negative", r"finite|logarithm")
class Logarithm(Energy):
    def forward(self, y, code=None):
        return y.log().sum(-1)
