"""Test subjects for `check_task`: right tasks as plugins' authors write them, and tasks with one planted mistake each.

`CORRECT` maps a name to a function of the check's (arguments, keywords). `MUTANTS` maps a name to such a function and a
pattern (case does not count) that a message which is right about the mistake matches.
"""

import hashlib
import math
import random
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ebm.interfaces import Batch, Task
from ebm.tasks import Digits, Dyck, Points, RowTask, draw_splits

CORRECT, MUTANTS = {}, {}


def correct(name, /, **keywords):
    """Registers a class, which is built with these keywords, or a function that builds one."""

    def register(factory):
        CORRECT[name] = lambda: ((lambda: factory(**keywords),), {})
        return factory

    return register


def mutant(name, pattern, /, **keywords):
    def register(factory):
        MUTANTS[name] = (lambda: ((lambda: factory(**keywords),), {}), pattern)
        return factory

    return register


# ---------------------------------------------------------------------------------------------------------------- pieces


def seeded(*what):
    return torch.Generator().manual_seed(int(hashlib.sha256(repr(what).encode()).hexdigest()[:8], 16))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded("normal", seed))


def noise(like, generator):
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)


def cut(rows, train=80, validation=20):
    """The first rows train, the next validate, the rest test."""
    return {
        "train": rows.rows(slice(0, train)),
        "validation": rows.rows(slice(train, train + validation)),
        "test": rows.rows(slice(train + validation, None)),
    }


class Held(Dataset):
    """Rows, one at a time."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows.target)

    def __getitem__(self, index):
        return pick(self.rows, index)


def pick(tree, index):
    """Takes a row, or rows, of every tensor in a batch."""
    if isinstance(tree, dict):
        return {name: pick(leaf, index) for name, leaf in tree.items()}
    if isinstance(tree, tuple):
        return type(tree)(*(pick(leaf, index) for leaf in tree))
    return None if tree is None else tree[index]


def stack(rows):
    """Makes a batch of a list of rows."""
    first = rows[0]
    if isinstance(first, dict):
        return {name: stack([row[name] for row in rows]) for name in first}
    if isinstance(first, tuple):
        return type(first)(*(stack(list(column)) for column in zip(*rows, strict=True)))
    return None if first is None else torch.stack(rows)


class InMemory(Task):
    """Right, and what most mutants change one thing of: 160 rows of three numbers."""

    def __init__(self):
        self.spec = {"dim": 3}
        self.splits = self.split(self.rows())

    def rows(self):
        return Batch(normal(160, 3) * torch.tensor([1.0, 2.0, 0.5]) + 1)

    def split(self, rows):
        return cut(rows)

    def data(self, split, seed):
        return Held(self.splits[split])

    def loader(self, split, batch_size, *, seed=0, workers=0):
        own = torch.Generator().manual_seed(seed)
        train = split == "train"
        return DataLoader(self.data(split, seed), batch_size, shuffle=train, collate_fn=stack, generator=own, num_workers=workers)

    def start(self, batch, *, generator=None):
        return noise(batch.target, generator)

    def distance(self, y, batch):
        return (y - batch.target).square().mean(-1)

    @torch.no_grad()
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        total, count, left = 0.0, 0.0, math.inf if limit is None else limit
        for batch in self.loader(split, 32):
            if left <= 0:
                break
            batch = pick(batch, slice(0, min(len(batch.target), left)))
            left -= len(batch.target)
            y = predictor.predict(batch, self.starts(predictor, batch, generator=generator), generator=generator).y
            distance = self.distance(y, batch)
            weight = torch.ones_like(distance) if batch.weight is None else batch.weight
            total, count = total + (weight * distance).sum().item(), count + weight.sum().item()
        return {"distance": total / max(count, 1e-9), "root": math.sqrt(max(total / max(count, 1e-9), 0.0))}


# ----------------------------------------------------------------------------------------------------------------- right


correct("rows in memory")(InMemory)
correct("the core's moons", name="moons", n=500)(Points)
correct("the core's iris, with copies by nature", name="iris")(Points)
correct("the core's digits", size=8)(Digits)
correct("the core's digits with labels", size=8, conditional=True, n=400)(Digits)
correct("the core's brackets", length=12, n=300, depth=(1, 3), deep=(4, 5))(Dyck)
correct("the core's brackets from noise", length=12, n=300, depth=(1, 3), deep=(4, 5), start="noise")(Dyck)


@correct("rows of the core's base")
class Base(RowTask):
    def __init__(self):
        rows = Batch(normal(300, 2, seed=1).sinh())
        self.splits = {split: rows.rows(index) for split, index in draw_splits(300, None, 0).items()}
        self.spec = {"dim": 2}

    def start(self, batch, *, generator=None):
        return 3 * noise(batch.target, generator)


@correct("a function's values, given where")
class Regression(InMemory):
    """y = (sin x, cos x₀) with a little noise; the start is zero, and draws nothing."""

    def __init__(self):
        super().__init__()
        self.spec = {"dim": 2, "context_dim": 2}

    def rows(self):
        x = 2 * normal(160, 2, seed=2)
        y = torch.stack([x.sum(-1).sin(), x[:, 0].cos()], -1)
        return Batch(y + 0.05 * normal(160, 2, seed=3), x)

    def start(self, batch, *, generator=None):
        return torch.zeros_like(batch.target)


@correct("the next token")
class NextToken(InMemory):
    """Ids (B, S + 1), shifted by one; y are logits (B, S, V), chains (B, S)."""

    def __init__(self):
        super().__init__()
        self.spec = {"vocab_size": 11}

    def rows(self):
        steps = torch.randint(1, 6, (160, 17), generator=seeded("ids"))
        ids = steps.cumsum(1) % 11
        return Batch(ids[:, 1:], ids[:, :-1])

    def start(self, batch, *, generator=None):
        return torch.randn((*batch.target.shape, 11), generator=generator)

    def distance(self, y, batch):
        target = batch.target.expand(y.shape[:-1])
        return -y.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)


@correct("the next token, with padding")
class Padded(NextToken):
    """Sequences of several lengths; what is behind them has weight 0."""

    def rows(self):
        target, context, _ = super().rows()
        lengths = torch.randint(9, 17, (160, 1), generator=seeded("lengths"))
        weight = (torch.arange(16) < lengths).float()
        return Batch(torch.where(weight > 0, target, 0), torch.where(weight > 0, context, 0), weight)


@correct("classes of images")
class Classes(InMemory):
    """The target is a class id (B,), the context an image; y are logits (B, C). Targets are the same in every split."""

    def __init__(self):
        super().__init__()
        self.spec = {"classes": 4, "image_size": 6, "channels": 1}

    def rows(self):
        label = torch.arange(160) % 4
        image = 0.5 * normal(160, 1, 6, 6, seed=4)
        image[torch.arange(160), 0, label] += 1.0
        return Batch(label, image)

    def start(self, batch, *, generator=None):
        return 0.1 * torch.randn((len(batch.target), 4), generator=generator)

    def distance(self, y, batch):
        return F.cross_entropy(y, batch.target, reduction="none")

    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        rows = pick(self.splits[split], slice(0, limit))
        with torch.no_grad():
            found = predictor.predict(rows, self.start(rows, generator=generator), generator=generator)
            right = (found.y.argmax(-1) == rows.target).double().mean().item()
            return {"accuracy": right, "loss": self.distance(found.y, rows).mean().item()}


@correct("images")
class Images(InMemory):
    """Blobs (1, 8, 8); the distance has no room for candidates in front."""

    def __init__(self):
        super().__init__()
        self.spec = {"image_size": 8, "channels": 1}

    def rows(self):
        grid = torch.linspace(-1, 1, 8)
        x, y = 0.7 * normal(160, 1, 1, 1, seed=5), 0.7 * normal(160, 1, 1, 1, seed=6)
        return Batch(2 * torch.exp(-4 * ((grid - x) ** 2 + (grid[:, None] - y) ** 2)) - 1)

    def start(self, batch, *, generator=None):
        return 2 * torch.rand(batch.target.shape, generator=generator) - 1

    def distance(self, y, batch):
        return F.mse_loss(y, batch.target, reduction="none").flatten(1).mean(1)


class Noised(Dataset):
    """Adds noise as rows are read: a function of the seed and of the row."""

    def __init__(self, rows, *names, std=0.5):
        self.rows, self.names, self.std = rows, names, std

    def __len__(self):
        return len(self.rows.target)

    def __getitem__(self, index):
        clean = self.rows.target[index]
        return Batch(clean, clean + self.std * noise(clean, seeded("noise", *self.names, int(index))))


@correct("denoising, with noise drawn as rows are read")
class Denoise(Images):
    def data(self, split, seed):
        return Noised(self.splits[split], split, seed if split == "train" else 0)

    def start(self, batch, *, generator=None):
        return batch.context


def orders(share):
    """Lists the orders of six things that belong to a split, by their hash."""
    where = {"train": range(7), "validation": range(7, 8), "test": range(8, 10)}[share]
    return [order for order in permutations(range(6)) if seeded("order", order).initial_seed() % 10 in where]


class Puzzles(Dataset):
    """Target: the ranks of six things; context: where each of them stands."""

    def __init__(self, split, seed, count):
        self.orders, self.split, self.seed, self.count = orders(split), split, seed, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = seeded("puzzle", self.split, self.seed, int(index))
        order = torch.tensor(self.orders[int(torch.randint(len(self.orders), (), generator=generator))])
        return Batch(order.float() / 5, order.argsort())


@correct("puzzles made by seed, dealt out by their hash")
class Sorting(InMemory):
    """Training puzzles repeat now and then; none is in two splits."""

    def __init__(self):
        self.spec = {"dim": 6}

    def data(self, split, seed):
        return Puzzles(split, seed if split == "train" else 0, 96 if split == "train" else 40)


@correct("few distinct rows, many copies of each in one split")
class Copies(InMemory):
    """32 words of five bits, 20 times each; all copies of a word are in one split."""

    def __init__(self):
        super().__init__()
        self.spec = {"dim": 5}

    def split(self, rows):
        words = ((torch.arange(32)[:, None] >> torch.arange(5)) & 1).float() * 2 - 1
        words = words[torch.randperm(32, generator=seeded("words"))]
        return {
            name: Batch(words[which].repeat(20, 1))
            for name, which in {"train": slice(0, 20), "validation": slice(20, 25), "test": slice(25, 32)}.items()
        }


@correct("bits, as logits")
class Bits(InMemory):
    """y are logits of the target's shape: the truth itself, 0 or 1, is not where the distance is least."""

    def __init__(self):
        super().__init__()
        self.spec = {"dim": 24}

    def rows(self):
        return Batch((torch.rand(160, 24, generator=seeded("bits")) < 0.4).float())

    def distance(self, y, batch):
        target = batch.target.expand_as(y)
        return F.binary_cross_entropy_with_logits(y, target, reduction="none").sum(-1)


class Stream(IterableDataset):
    """Generates rows one after the other, and holds none."""

    def __init__(self, split, seed, count):
        self.split, self.seed, self.count = split, seed, count

    def __iter__(self):
        generator = seeded("stream", self.split, self.seed)
        for _ in range(self.count):
            angle = 2 * math.pi * torch.rand((), generator=generator)
            yield Batch(torch.stack([angle.cos(), angle.sin()]) * (1 + 0.1 * torch.randn((), generator=generator)))


@correct("a stream")
class Streamed(InMemory):
    def __init__(self):
        self.spec = {"dim": 2}

    def data(self, split, seed):
        return Stream(split, seed if split == "train" else 0, 700 if split == "train" else 60)

    def loader(self, split, batch_size, *, seed=0, workers=0):
        own = torch.Generator().manual_seed(seed)
        return DataLoader(self.data(split, seed), batch_size, drop_last=split == "train", collate_fn=stack, generator=own)


@correct("frames with chains of their own, some without weight")
class Frames(InMemory):
    """Target (B, S, 2): the next place on a walk, chains (B, S). The start is where the walk is."""

    def __init__(self):
        super().__init__()
        self.spec = {"features": 2}

    def rows(self):
        walk = normal(160, 6, 2, seed=7).cumsum(1)
        weight = (torch.rand(160, 5, generator=seeded("seen")) < 0.8).float()
        return Batch(walk[:, 1:], walk[:, :-1], weight)

    def start(self, batch, *, generator=None):
        return batch.context + 0.1 * noise(batch.context, generator)


@correct("rows with a weight each")
class Weighed(InMemory):
    def rows(self):
        return Batch(normal(160, 3, seed=8), weight=torch.rand(160, generator=seeded("weights")))


@correct("a module with a state_dict, of buffers alone")
class Stateful(nn.Module, InMemory):
    def __init__(self):
        nn.Module.__init__(self)
        rows = normal(160, 3, seed=9) * 4 + 2
        self.register_buffer("mean", rows[:80].mean(0))
        self.register_buffer("std", rows[:80].std(0))
        self.splits = cut(Batch((rows - self.mean) / self.std))
        self.spec = {"dim": 3}


@correct("a state_dict of its own")
class Remembers(InMemory):
    """Keeps the best score it ever gave, to be saved."""

    def __init__(self):
        super().__init__()
        self.best = math.inf

    def state_dict(self):
        return {"best": self.best}

    def load_state_dict(self, state):
        self.best = state["best"]

    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        scores = super().evaluate(predictor, split=split, limit=limit, generator=generator)
        self.best = min(self.best, scores["distance"])
        return scores


class Seen(NamedTuple):
    image: torch.Tensor
    mask: torch.Tensor


@correct("inpainting, given what is seen")
class Inpainting(Images):
    """Only hidden pixels count, so that the distance has no gradient at the others."""

    def rows(self):
        image = super().rows().target
        mask = (torch.rand(160, 1, 8, 8, generator=seeded("mask")) < 0.6).float()
        return Batch(image, Seen(image * mask, mask))

    def split(self, rows):
        parts = {"train": slice(0, 80), "validation": slice(80, 100), "test": slice(100, None)}
        return {name: pick(rows, part) for name, part in parts.items()}

    def start(self, batch, *, generator=None):
        image, mask = batch.context
        return image + (1 - mask) * noise(image, generator)

    def distance(self, y, batch):
        hidden = 1 - batch.context.mask
        error = (hidden * (y - batch.target).square()).flatten(y.ndim - 3).sum(-1)
        return error / hidden.flatten(1).sum(-1).clamp(min=1)


@correct("a dictionary as the context")
class Described(InMemory):
    def rows(self):
        where, what = normal(160, 2, seed=10), torch.randint(3, (160,), generator=seeded("what"))
        target = torch.cat([where, where[:, :1] * (what[:, None] - 1)], -1) + 0.1 * normal(160, 3, seed=11)
        return Batch(target, {"where": where, "what": what})

    split = Inpainting.split


@correct("angles")
class Angles(InMemory):
    """The distance is periodic: 1 − cos(y − target)."""

    def __init__(self):
        super().__init__()
        self.spec = {"dim": 2}

    def rows(self):
        return Batch((2 * torch.rand(160, 2, generator=seeded("angles")) - 1) * math.pi)

    def start(self, batch, *, generator=None):
        return (2 * torch.rand(batch.target.shape, generator=generator) - 1) * math.pi

    def distance(self, y, batch):
        return (1 - (y - batch.target).cos()).sum(-1)


@correct("double precision and a robust distance")
class Robust(InMemory):
    def rows(self):
        return Batch(normal(160, 3, seed=12).double().sinh())

    def distance(self, y, batch):
        return F.huber_loss(y, batch.target.expand_as(y), reduction="none").sum(-1)


@correct("no validation rows, only train and test")
class TwoSplits(InMemory):
    def split(self, rows):
        return {"train": rows.rows(slice(0, 110)), "test": rows.rows(slice(110, None))}

    def loader(self, split, batch_size, *, seed=0, workers=0):
        if split not in self.splits:
            raise ValueError(f"unknown split {split!r}: train or test")
        return super().loader(split, batch_size, seed=seed, workers=workers)


# -------------------------------------------------------------------------------------------------------- mutants: splits

OVERLAP = r"overlap|split|disjoint|shared?\b|common|both|leak|held.?out"


@mutant("test is train", OVERLAP)
class SameRows(InMemory):
    def split(self, rows):
        return {**cut(rows), "test": cut(rows)["train"]}  # all of it


@mutant("test has one row of train", OVERLAP)
class OneRow(InMemory):
    def split(self, rows):
        return {**cut(rows), "test": rows.rows(torch.tensor([17, *range(100, 160)]))}  # 17 is in train


@mutant("validation begins one row too early", OVERLAP)
class OffByOne(InMemory):
    def split(self, rows):
        return {**cut(rows), "validation": rows.rows(slice(79, 100))}  # 79 is in train


@mutant("half of test is in train", OVERLAP)
class HalfShared(InMemory):
    def split(self, rows):
        return {**cut(rows), "test": rows.rows(slice(50, 110))}  # 50 … 79 are in train


@mutant("validation is test", OVERLAP)
class ValidationIsTest(InMemory):
    def split(self, rows):
        parts = cut(rows)
        return {**parts, "validation": parts["test"]}


@mutant("one row of validation is in test", OVERLAP)
class OneOfValidation(InMemory):
    def split(self, rows):
        return {**cut(rows), "validation": rows.rows(slice(80, 101))}  # 100 is in test


@mutant("train has every row", OVERLAP)
class Everything(InMemory):
    def split(self, rows):
        return {**cut(rows), "train": rows}


@mutant("splits drawn with replacement", OVERLAP)
class Replacement(InMemory):
    def split(self, rows):
        return cut(rows.rows(torch.randint(160, (160,), generator=seeded("bootstrap"))))


@mutant("every split shuffles by a seed of its own", OVERLAP)
class OwnShuffles(InMemory):
    def split(self, rows):
        shares = {"train": slice(0, 80), "validation": slice(80, 100), "test": slice(100, 160)}
        orders = {name: torch.randperm(160, generator=seeded("shuffle", name)) for name in shares}  # one order was meant
        return {name: rows.rows(orders[name][share]) for name, share in shares.items()}


@mutant("the split depends on the loader's seed", OVERLAP + "|seed")
class SeedSplits(InMemory):
    """Who is in train changes with the seed, while test stays: with most seeds they overlap."""

    def data(self, split, seed):
        order = torch.randperm(160, generator=seeded("split", seed if split == "train" else 0))
        return Held(cut(self.rows().rows(order))[split])


@mutant("windows cut at random places of one series", OVERLAP)
class Windows(InMemory):
    """Every split draws from the whole series: about half of test's windows are train's."""

    def __init__(self):
        super().__init__()
        self.spec = {"features": 1}

    def rows(self):
        series, places = normal(200, seed=13).cumsum(0), torch.randint(190, (160,), generator=seeded("windows"))
        return Batch(series[places[:, None] + torch.arange(8)][..., None])


@mutant("the same clean images under other noise", OVERLAP)
class SharedClean(Denoise):
    """Noise makes contexts differ, and the targets are the same."""

    def split(self, rows):
        return {**cut(rows), "test": rows.rows(slice(20, 80))}


@mutant("the same contexts with other labels' noise", OVERLAP)
class SharedContexts(Regression):
    """The targets of test are measured anew, at the places of train."""

    def split(self, rows):
        again = Batch(rows.target + 0.05 * normal(160, 2, seed=14), rows.context)
        return {**cut(rows), "test": again.rows(slice(0, 60))}


@mutant("the same rows, dequantised anew in each split", OVERLAP)
class Dequantised(InMemory):
    """Test's rows are train's, with noise of a ten-thousandth."""

    def split(self, rows):
        parts = cut(rows)
        return {**parts, "test": Batch(parts["train"].target + 1e-4 * normal(80, 3, seed=15))}


@mutant("puzzles of train and test come from one seed", OVERLAP)
class OneStream(Streamed):
    def data(self, split, seed):
        return Stream("any", 0, 200 if split == "train" else 60)  # the split's name is forgotten


@mutant("sequences dealt out after they were doubled", OVERLAP)
class Doubled(NextToken):
    """Oversampling before the split: copies land on both sides."""

    def split(self, rows):
        twice = torch.arange(160).repeat(2)[torch.randperm(320, generator=seeded("doubled"))]
        return cut(rows.rows(twice), train=200, validation=40)


# ------------------------------------------------------------------------------------------------------ mutants: distance

SMOOTH = r"differentiab|gradient|grad\b|detach|requires_grad|graph|no_grad|constant"
SHAPE = r"shape|chain|scalar|per row|one (number|value|distance)|axis|axes"
MIXES = r"row|chain|batch|other|mix|independen|permut|order|position"
TRUTH = r"truth|target|sign|small|least|lower|larger|far|near|wrong|negative|grow|answer|start"


@mutant("distance detached", SMOOTH)
class Detached(InMemory):
    def distance(self, y, batch):
        return super().distance(y.detach(), batch)


@mutant("distance under no_grad", SMOOTH)
class NoGrad(InMemory):
    @torch.no_grad()
    def distance(self, y, batch):
        return super().distance(y, batch)


@mutant("distance by .data", SMOOTH)
class Data(InMemory):
    def distance(self, y, batch):
        return super().distance(y.data, batch)


@mutant("distance through numpy", SMOOTH + "|numpy")
class Numpy(InMemory):
    def distance(self, y, batch):
        gap = y.detach().numpy() - batch.target.numpy()
        return torch.from_numpy((gap**2).mean(-1))


@mutant("distance is whether the class is wrong", SMOOTH)
class ZeroOne(Classes):
    def distance(self, y, batch):
        return (y.argmax(-1) != batch.target).float()


@mutant("distance of rounded values", SMOOTH + "|zero|round")
class Rounded(InMemory):
    def distance(self, y, batch):
        return (y.round() - batch.target).square().mean(-1)  # the gradient of round is zero


@mutant("distance counts pixels by a sign", SMOOTH + "|zero|sign")
class Signs(Bits):
    def distance(self, y, batch):
        return (y.sign() - (2 * batch.target - 1)).abs().mean(-1)


@mutant("distance with a graph and no gradient", SMOOTH + "|zero")
class ZeroGradient(InMemory):
    def distance(self, y, batch):
        return super().distance(y.detach(), batch) + 0 * y.sum(-1)


@mutant("distance clamped from below, above all it meets", SMOOTH + "|zero|flat|truth|target")
class Clamped(InMemory):
    def distance(self, y, batch):
        return super().distance(y, batch).clamp(min=1e4)  # flat wherever y is


@mutant("distance with an infinite gradient at the truth", r"finite|nan|inf|gradient")
class Root(Images):
    def distance(self, y, batch):
        seen = torch.cat([y.flatten(1), y.flatten(1)[:, :1]], 1) - torch.cat([y.flatten(1), batch.target.flatten(1)[:, :1]], 1)
        return super().distance(y, batch) + seen.square().sqrt().sum(1)  # 63 roots of zero: gradients of 0/0


@mutant("distance is a NaN", r"finite|nan")
class NotANumber(InMemory):
    def distance(self, y, batch):
        return super().distance(y, batch) + (y - y.detach() - 1e-3).sum(-1).log()  # of a negative number


@mutant("distance is one number", SHAPE)
class Scalar(InMemory):
    def distance(self, y, batch):
        return F.mse_loss(y, batch.target)


@mutant("distance keeps an axis", SHAPE)
class KeepDim(InMemory):
    def distance(self, y, batch):
        return (y - batch.target).square().mean(-1, keepdim=True)


@mutant("distance per element, where rows have a weight", SHAPE + "|weight|element")
class PerElement(Weighed):
    def distance(self, y, batch):
        return (y - batch.target).square()

    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        rows = pick(self.splits[split], slice(0, limit))
        y = predictor.predict(rows, self.start(rows, generator=generator), generator=generator).y
        return {"distance": self.distance(y, rows).mean().item()}


@mutant("distance of sequences, transposed", SHAPE)
class Transposed(NextToken):
    def distance(self, y, batch):
        return F.cross_entropy(y.permute(1, 2, 0), batch.target.T, reduction="none")  # (S, B)


@mutant("distance of sequences, one for each sequence though tokens have weights", SHAPE + "|weight")
class PerSequence(Padded):
    def distance(self, y, batch):
        return super().distance(y, batch).mean(-1)

    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        rows = pick(self.splits[split], slice(0, limit))
        y = predictor.predict(rows, self.start(rows, generator=generator), generator=generator).y
        return {"distance": self.distance(y, rows).mean().item()}


@mutant("distance averaged over the batch", MIXES)
class Averaged(InMemory):
    def distance(self, y, batch):
        return super().distance(y, batch).mean().expand(len(y))


@mutant("distance of what is centred over the batch", MIXES)
class Centred(InMemory):
    def distance(self, y, batch):
        return super().distance(y - y.mean(0) + batch.target.mean(0), batch)


@mutant("distance over the batch's largest", MIXES)
class Relative(InMemory):
    def distance(self, y, batch):
        found = super().distance(y, batch)
        return found / found.max().clamp(min=1e-6)


@mutant("distance to the neighbour's target", MIXES + "|" + TRUTH)
class Neighbour(InMemory):
    def distance(self, y, batch):
        return (y - batch.target.roll(1, 0)).square().mean(-1)


@mutant("distance weighed by place in the batch", MIXES)
class Placed(InMemory):
    def distance(self, y, batch):
        return super().distance(y, batch) * torch.linspace(0.5, 1.5, len(y))


@mutant("distance with the wrong sign", TRUTH)
class Similar(InMemory):
    def distance(self, y, batch):
        return -super().distance(y, batch)


@mutant("distance falls as y goes away", TRUTH)
class Falls(InMemory):
    def distance(self, y, batch):
        return torch.exp(-super().distance(y, batch))  # a similarity, of the right range


@mutant("distance is a logit's likelihood, not its negative", TRUTH)
class Likelihood(NextToken):
    def distance(self, y, batch):
        return -super().distance(y, batch)


@mutant("distance from nothing, whatever the target", TRUTH)
class Origin(InMemory):
    def distance(self, y, batch):
        return y.square().mean(-1)


@mutant("distance writes into y", r"in.?place|modif|chang|writ|differentiab|gradient|untouched")
class Overwrites(InMemory):
    def distance(self, y, batch):
        gap = y.data.sub_(batch.target)  # the caller's y is moved
        return (y * 1.0).square().mean(-1) + 0 * gap.sum(-1)


# --------------------------------------------------------------------------------------------------------- mutants: start

START = r"start|truth|target|answer|leak|know"
RANDOM = r"generator|global|random|seed|draw|reprod|determin|same|differ"


@mutant("start is the answer", START)
class Answer(InMemory):
    def start(self, batch, *, generator=None):
        return batch.target.clone()


@mutant("start is the answer with noise", START)
class NoisyAnswer(InMemory):
    def start(self, batch, *, generator=None):
        return batch.target + 0.1 * noise(batch.target, generator)


@mutant("start is the answer's mean over the batch", START)
class MeanAnswer(InMemory):
    def start(self, batch, *, generator=None):
        return batch.target.mean(0) + noise(batch.target, generator)


@mutant("start has the answer's logit raised a little", START)
class RaisedLogit(NextToken):
    def start(self, batch, *, generator=None):
        return super().start(batch, generator=generator) + 0.5 * F.one_hot(batch.target, 11)


@mutant("start draws from the global generator", RANDOM)
class GlobalStart(InMemory):
    def start(self, batch, *, generator=None):
        return torch.randn_like(batch.target)


@mutant("start draws from numpy", RANDOM + "|numpy")
class NumpyStart(InMemory):
    def start(self, batch, *, generator=None):
        return torch.from_numpy(np.random.normal(size=tuple(batch.target.shape))).to(batch.target)


@mutant("start is the same noise at every call", RANDOM + "|" + MIXES)
class FixedStart(InMemory):
    def start(self, batch, *, generator=None):
        return noise(batch.target, torch.Generator().manual_seed(0))  # whatever the generator


@mutant("start seeds the global generator", RANDOM)
class SeedsGlobal(InMemory):
    def start(self, batch, *, generator=None):
        torch.manual_seed(0)
        return noise(batch.target, generator)


@mutant("start is of integers", r"start|dtype|float|int")
class Integers(InMemory):
    def start(self, batch, *, generator=None):
        return torch.randint(-2, 3, batch.target.shape, generator=generator)


@mutant("start is ids, where the state is logits", r"start|dtype|float|int|shape|vocab")
class Ids(NextToken):
    def start(self, batch, *, generator=None):
        return torch.randint(11, batch.target.shape, generator=generator)


@mutant("start is one event, without the rows", r"start|shape|row|chain")
class OneStart(InMemory):
    def start(self, batch, *, generator=None):
        return torch.randn(3, generator=generator)  # broadcasts in the distance


@mutant("start always has 32 rows", r"start|shape|row|chain|batch")
class AlwaysThirtyTwo(InMemory):
    def start(self, batch, *, generator=None):
        return torch.randn(32, 3, generator=generator)[: max(len(batch.target), 2)]  # a batch of one gets two, of 40 gets 32


@mutant("start is not finite", r"start|finite|nan|inf")
class Infinite(InMemory):
    def start(self, batch, *, generator=None):
        return (torch.rand(batch.target.shape, generator=generator) - 0.5).log()


@mutant("start is written over the batch", r"in.?place|modif|chang|writ|batch|untouched|target|context")
class WritesBatch(Denoise):
    def start(self, batch, *, generator=None):
        return batch.context.add_(0.1 * noise(batch.context, generator))


@mutant("start requires the caller to pass a generator", r"generator|start|None")
class NeedsGenerator(InMemory):
    def start(self, batch, *, generator=None):
        return torch.randn(batch.target.shape, generator=torch.Generator().set_state(generator.get_state()))  # None has none


# -------------------------------------------------------------------------------------------------------- mutants: loader


@mutant("the loader shuffles by the global generator", RANDOM)
class GlobalOrder(InMemory):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        return DataLoader(self.data(split, seed), batch_size, shuffle=split == "train", collate_fn=stack)


@mutant("held-out loaders have no generator", RANDOM)
class HeldOutGlobal(InMemory):
    """Their order is fixed, and yet torch's DataLoader draws a base seed from the global generator."""

    def loader(self, split, batch_size, *, seed=0, workers=0):
        if split == "train":
            return super().loader(split, batch_size, seed=seed, workers=workers)
        return DataLoader(self.data(split, seed), batch_size, collate_fn=stack)


@mutant("the loader's order changes at each call", RANDOM + "|order")
class CountsCalls(InMemory):
    calls = 0

    def loader(self, split, batch_size, *, seed=0, workers=0):
        self.calls += 1
        return super().loader(split, batch_size, seed=seed + self.calls, workers=workers)


@mutant("the loader shuffles by Python's random", RANDOM + "|order")
class PythonOrder(InMemory):
    def data(self, split, seed):
        order = list(range(len(self.splits[split].target)))
        random.shuffle(order)
        return Held(self.splits[split].rows(torch.tensor(order)))


@mutant("noise is drawn from the global generator as rows are read", RANDOM)
class GlobalNoise(Denoise):
    def data(self, split, seed):
        rows = self.splits[split]

        class Fresh(Held):
            def __getitem__(self, index):
                return Batch(rows.target[index], rows.target[index] + 0.5 * torch.randn(1, 8, 8))

        return Fresh(rows)


@mutant("noise is drawn from numpy as rows are read", RANDOM + "|numpy")
class NumpyNoise(Denoise):
    def data(self, split, seed):
        rows = self.splits[split]

        class Fresh(Held):
            def __getitem__(self, index):
                drawn = np.random.standard_normal((1, 8, 8)).astype(np.float32)
                return Batch(rows.target[index], rows.target[index] + torch.from_numpy(0.5 * drawn))

        return Fresh(rows)


@mutant("held-out noise is drawn anew at every call", RANDOM)
class HeldOutNoise(Denoise):
    """From a generator of the task's own, which goes on and on: no two evaluations see the same images."""

    def __init__(self):
        super().__init__()
        self.own = torch.Generator().manual_seed(0)

    def data(self, split, seed):
        if split == "train":
            return super().data(split, seed)
        clean = self.splits[split].target
        return Held(Batch(clean, clean + 0.5 * noise(clean, self.own)))


@mutant("the loader's batches are always of 16", r"batch.?size|rows|size")
class Sixteen(InMemory):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        return super().loader(split, 16, seed=seed, workers=workers)


@mutant("the loader's batches have twice the rows", r"batch.?size|rows|size")
class Twice(InMemory):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        return super().loader(split, 2 * batch_size, seed=seed, workers=workers)


@mutant("the loader gives tuples", r"Batch|tuple|target")
class Tuples(InMemory):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        own = torch.Generator().manual_seed(seed)
        return DataLoader(self.data(split, seed), batch_size, collate_fn=lambda rows: tuple(stack(rows)), generator=own)

    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        batch = pick(self.splits[split], slice(0, limit))
        y = predictor.predict(batch, self.start(batch, generator=generator), generator=generator).y
        return {"distance": self.distance(y, batch).mean().item()}


@mutant("the loader writes into the rows it keeps", RANDOM + r"|in.?place|modif|chang|again|twice|second|order")
class Jitters(InMemory):
    """Augmentation in place: every pass moves the stored rows a little further."""

    def data(self, split, seed):
        rows = self.splits[split]

        class Jittered(Held):
            def __getitem__(self, index):
                return Batch(rows.target[index].add_(0.1 * noise(rows.target[index], seeded("jitter", seed, index))))

        return Jittered(rows)


@mutant("batches share the task's memory, and evaluate writes there", RANDOM + r"|in.?place|modif|chang|again|twice|second")
class WritesRows(InMemory):
    @torch.no_grad()
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        batch = pick(self.splits[split], slice(0, limit))  # a view
        y = predictor.predict(batch, self.start(batch, generator=generator), generator=generator).y
        return {"rmse": batch.target.sub_(y).square().mean().sqrt().item()}


@mutant("the weight is per row, though chains are tokens", r"weight|shape|chain")
class RowWeights(NextToken):
    def rows(self):
        return super().rows()._replace(weight=torch.ones(160))

    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        rows = pick(self.splits[split], slice(0, limit))
        y = predictor.predict(rows, self.start(rows, generator=generator), generator=generator).y
        return {"distance": self.distance(y, rows).mean().item()}


@mutant("a row's context goes with another row", r"order|row|pair|context|seed|align|belong|same|differ|overlap")
class Misaligned(Regression):
    """The batch's targets are sorted after they were put together, the contexts are not: pairs depend on who is in the batch."""

    def loader(self, split, batch_size, *, seed=0, workers=0):
        own = torch.Generator().manual_seed(seed)

        def sort(rows):
            batch = stack(rows)
            return batch._replace(target=batch.target[batch.target[:, 0].argsort()])

        return DataLoader(self.data(split, seed), batch_size, shuffle=split == "train", collate_fn=sort, generator=own)


# ------------------------------------------------------------------------------------------------------ mutants: evaluate

SCORES = r"evaluate|float|score|metric|finite|nan|str|dict|key|tensor|None"


class Judging(InMemory):
    """Right: what mutants of `evaluate` change one line of."""

    def judged(self, predictor, split, limit, generator):
        rows = pick(self.splits[split], slice(0, limit))
        with torch.no_grad():
            found = predictor.predict(rows, self.start(rows, generator=generator), generator=generator)
        return rows, found

    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        rows, found = self.judged(predictor, split, limit, generator)
        return {"distance": self.distance(found.y, rows).mean().item()}


correct("evaluation in one batch")(Judging)


@mutant("evaluate returns tensors", SCORES)
class TensorScores(Judging):
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        rows, found = self.judged(predictor, split, limit, generator)
        return {"distance": self.distance(found.y, rows).mean()}


@mutant("evaluate returns a score for every row", SCORES)
class RowScores(Judging):
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        rows, found = self.judged(predictor, split, limit, generator)
        return {"distance": self.distance(found.y, rows).tolist()}


@mutant("evaluate returns one number", SCORES)
class OneScore(Judging):
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        rows, found = self.judged(predictor, split, limit, generator)
        return self.distance(found.y, rows).mean().item()


@mutant("evaluate returns nothing", SCORES)
class NoScores(Judging):
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        self.judged(predictor, split, limit, generator)


@mutant("evaluate returns a NaN", SCORES)
class NaNScore(Judging):
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        scores = super().evaluate(predictor, split=split, limit=limit, generator=generator)
        return scores | {"gain": math.sqrt(max(scores["distance"], 0.0)) * math.nan}


@mutant("evaluate's names are numbers", SCORES)
class NumberNames(Judging):
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        rows, found = self.judged(predictor, split, limit, generator)
        return dict(enumerate((found.y - rows.target).square().mean(0).tolist()))


@mutant("evaluate ignores the predictor", r"predict|ignor|evaluate")
class Ignores(Judging):
    """It scores the start that it gave to the predictor."""

    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        rows = pick(self.splits[split], slice(0, limit))
        start = self.start(rows, generator=generator)
        predictor.predict(rows, start.clone(), generator=generator)
        return {"distance": self.distance(start, rows).mean().item()}


@mutant("evaluate never calls the predictor", r"predict|ignor|evaluate|call")
class NeverCalls(Judging):
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        return {"rows": float(len(self.splits[split].target))}


@mutant("evaluate draws starts from the global generator", RANDOM)
class GlobalEvaluate(Judging):
    def judged(self, predictor, split, limit, generator):
        return super().judged(predictor, split, limit, None)


@mutant("evaluate picks rows by Python's random", RANDOM)
class PythonRows(Judging):
    def judged(self, predictor, split, limit, generator):
        count = len(self.splits[split].target)
        rows = self.splits[split].rows(torch.tensor(random.sample(range(count), min(count, limit or 20))))
        return rows, predictor.predict(rows, self.start(rows, generator=generator), generator=generator)


@mutant("evaluate ignores the limit", r"limit")
class NoLimit(Judging):
    def judged(self, predictor, split, limit, generator):
        return super().judged(predictor, split, None, generator)


@mutant("evaluate's limit counts batches", r"limit")
class LimitsBatches(Judging):
    def judged(self, predictor, split, limit, generator):
        return super().judged(predictor, split, None if limit is None else 8 * limit, generator)


@mutant("evaluate judges test, whatever the split", r"split")
class AlwaysTest(Judging):
    def judged(self, predictor, split, limit, generator):
        return super().judged(predictor, "test", limit, generator)


@mutant("evaluate lets the predictor start at the truth", START)
class FromTruth(Judging):
    def judged(self, predictor, split, limit, generator):
        rows = pick(self.splits[split], slice(0, limit))
        return rows, predictor.predict(rows, rows.target.clone(), generator=generator)


@mutant("evaluate needs an energy, which a baseline has not", r"energy|None|baseline|feed|predict")
class NeedsEnergy(Judging):
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        rows, found = self.judged(predictor, split, limit, generator)
        return {"distance": self.distance(found.y, rows).mean().item(), "energy": found.energy.mean().item()}


@mutant("evaluate leaves gradients switched off", r"grad|mode|global|switch|left")
class LeavesNoGrad(Judging):
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        torch.set_grad_enabled(False)
        rows, found = self.judged(predictor, split, limit, generator)
        return {"distance": self.distance(found.y, rows).mean().item()}


# ---------------------------------------------------------------------------------------------- mutants: spec and the rest


@mutant("no spec", r"spec")
class NoSpec(InMemory):
    def __init__(self):
        self.splits = self.split(self.rows())


@mutant("a spec that is a list", r"spec")
class ListSpec(InMemory):
    def __init__(self):
        super().__init__()
        self.spec = ["dim", 3]


@mutant("spec's dim is wrong", r"spec|dim")
class WrongDim(InMemory):
    def __init__(self):
        super().__init__()
        self.spec = {"dim": 2}


@mutant("spec's vocab_size is one too small", r"spec|vocab")
class SmallVocabulary(NextToken):
    """The padding's id was not counted; the logits are right."""

    def __init__(self):
        super().__init__()
        self.spec = {"vocab_size": 10}


@mutant("spec's vocab_size is larger than the logits", r"spec|vocab")
class LargeVocabulary(NextToken):
    def __init__(self):
        super().__init__()
        self.spec = {"vocab_size": 50}


@mutant("spec's image_size is that before the crop", r"spec|image_size")
class WrongImage(Images):
    def __init__(self):
        super().__init__()
        self.spec = {"image_size": 28, "channels": 1}


@mutant("spec's channels are those of colours", r"spec|channels")
class WrongChannels(Images):
    def __init__(self):
        super().__init__()
        self.spec = {"image_size": 8, "channels": 3}


@mutant("spec's features are the whole sequence's", r"spec|features")
class WrongFeatures(Frames):
    def __init__(self):
        super().__init__()
        self.spec = {"features": 10}


@mutant("a task that learns", r"parameter")
class Learns(nn.Module, InMemory):
    def __init__(self):
        nn.Module.__init__(self)
        self.log_scale = nn.Parameter(torch.zeros(3))
        self.splits = cut(Batch(normal(160, 3, seed=9)))
        self.spec = {"dim": 3}

    def distance(self, y, batch):
        return ((y - batch.target) * self.log_scale.exp()).square().mean(-1)


@mutant("a layer kept on the task", r"parameter")
class Perceptual(Images):
    """Distance between features of a layer whose parameters the optimiser would find."""

    def __init__(self):
        super().__init__()
        self.features = nn.utils.skip_init(nn.Conv2d, 1, 4, 3, bias=False)
        self.features.weight.data.copy_(normal(4, 1, 3, 3, seed=16))

    def distance(self, y, batch):
        return (self.features(y) - self.features(batch.target)).square().flatten(1).mean(1)


@mutant("data are drawn from the global generator as the task is made", RANDOM + "|factory|built|made|construct|overlap")
class GlobalData(InMemory):
    def rows(self):
        return Batch(torch.randn(160, 3))


@mutant("a task is made of seeds of the global generator", RANDOM + "|factory|built|made|construct")
class Reseeds(InMemory):
    def rows(self):
        torch.manual_seed(0)  # the data are fixed, and everybody else's draws with them
        return Batch(torch.randn(160, 3))


# ------------------------------------------------------------------------------------------------------- what a run keeps


class Scaled(InMemory):
    """Scales rows by what it learned of them, and reads that again from a run's folder."""

    NAME, LATER, FORGETS, BLANK = "scale.txt", False, False, (3,)

    def __init__(self, learned=None):
        self.folder = learned
        if learned is None:
            super().__init__()
        self.spec = {"dim": 3}
        self.scale = self.read() if not self.LATER else None

    def read(self):
        return 2.0 if self.folder is None else float((self.folder / self.NAME).read_text())

    def save_learned(self, folder):
        (folder / self.NAME).write_text("1.0" if self.FORGETS else "2.0")

    def blank(self, n):
        return Batch(torch.zeros(n, *self.BLANK))

    def distance(self, y, batch):
        scale = self.scale or self.read()
        return ((y - batch.target) / scale).square().mean(-1)


def learned(subject):
    return lambda: ((subject,), {})


CORRECT["what it learned makes it again"] = learned(Scaled)
for _name, _change, _pattern in (
    ("what was learned is not written", {"save_learned": lambda self, folder: None}, r"learned|save_learned"),
    ("another scale is written", {"FORGETS": True}, r"learned|distance"),
    ("what was learned is read too late", {"LATER": True}, r"learned|folder was gone"),
    ("blank rows of another width", {"BLANK": (4,)}, r"blank"),
):
    MUTANTS[_name] = (learned(type("Scaled", (Scaled,), _change)), _pattern)
