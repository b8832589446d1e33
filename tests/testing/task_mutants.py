"""Test subjects for `check_task`: right tasks as plugins' authors write them, and tasks with one planted mistake each.

`CORRECT` maps a name to a function of the check's (arguments, keywords). `MUTANTS` maps a name to such a function and a
pattern (case does not count) that a message which is right about the mistake matches.
"""

import math
import zlib
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ebm.interfaces import Batch, Task
from ebm.randomness import randn_like, stream, uniform
from ebm.tasks import Digits, Points

CORRECT, MUTANTS = {}, {}


def correct(name):
    def register(factory):
        CORRECT[name] = lambda: ((factory,), {})
        return factory

    return register


def mutant(name, pattern):
    def register(factory):
        MUTANTS[name] = (lambda: ((factory,), {}), pattern)
        return factory

    return register


def select(tree, index):
    if tree is None or isinstance(tree, torch.Tensor):
        return None if tree is None else tree[index]
    return type(tree)(*(select(part, index) for part in tree))


def stacked(rows):
    """Collates rows that are tensors, None, or NamedTuples of them."""
    if rows[0] is None or isinstance(rows[0], torch.Tensor):
        return None if rows[0] is None else torch.stack(rows)
    return type(rows[0])(*(stacked(parts) for parts in zip(*rows, strict=True)))


class Listed(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows.target)

    def __getitem__(self, index):
        return select(self.rows, index)


# ----------------------------------------------------------------------------------------------------------------- right


@correct("rows in memory")
class Rows(Task):
    """Right, and what most mutants change one line of: points around a spiral."""

    spec = {"dim": 2}  # noqa: RUF012
    count = 200

    def __init__(self):
        rows = self.data(stream(0, "data"))
        order = torch.randperm(len(rows.target), generator=stream(0, "split"))
        self.splits = {split: select(rows, index) for split, index in self.deal(order).items()}

    def data(self, generator):
        angle = 6 * torch.rand(self.count, 1, generator=generator)
        curve = torch.cat([angle.cos(), angle.sin()], 1) * angle / 4
        return Batch(curve + 0.1 * torch.randn(curve.shape, generator=generator))

    def deal(self, order):
        first, second = int(0.7 * len(order)), int(0.85 * len(order))
        return {"train": order[:first], "validation": order[first:second], "test": order[second:]}

    def loader(self, split, batch_size, *, seed=0, workers=0):
        rows, training = Listed(self.splits[split]), split == "train"
        return DataLoader(
            rows,
            batch_size,
            shuffle=training,
            drop_last=training and len(rows) >= batch_size,
            num_workers=workers,
            collate_fn=stacked,
            generator=stream(seed, "loader"),
        )

    def start(self, batch, *, generator=None):
        return randn_like(batch.target, generator)

    def distance(self, y, batch):
        return (y - batch.target).square().mean(-1)

    def judged(self, split, limit):
        for batch in self.loader(split, 20):
            if limit is not None:
                batch = select(batch, slice(limit))
                limit -= len(batch.target)
            if len(batch.target):
                yield batch

    @torch.no_grad()
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        total = count = 0.0
        for batch in self.judged(split, limit):
            start = self.starts(predictor, batch, generator=generator)
            found = predictor.predict(batch, start, generator=generator)
            distance = self.distance(found.y, batch)
            weight = torch.ones_like(distance) if batch.weight is None else batch.weight
            total, count = total + (weight * distance).sum().item(), count + weight.sum().item()
        return self.report(total / max(count, 1e-8))

    def report(self, mean):
        return {"distance": mean}


@correct("regression with a context")
class Regression(Rows):
    spec = {"dim": 1, "context_dim": 3}  # noqa: RUF012

    def data(self, generator):
        x = torch.randn(self.count, 3, generator=generator)
        y = (2 * x[:, :1]).sin() + x[:, 1:2] * x[:, 2:]
        return Batch(y + 0.05 * torch.randn(y.shape, generator=generator), x)

    def report(self, mean):
        return {"mse": mean, "rmse": math.sqrt(mean)}


class Sky(NamedTuple):
    where: torch.Tensor
    kind: torch.Tensor


@correct("regression with a NamedTuple as context, in float64")
class TwoContexts(Regression):
    def data(self, generator):
        where = torch.randn(self.count, 3, generator=generator, dtype=torch.float64)
        kind = torch.randint(4, (self.count,), generator=generator)
        return Batch(where[:, :1] * kind[:, None] + where[:, 1:2], Sky(where, kind))


@correct("vectors without an axis of events")
class Numbers(Rows):
    """A target (B,): each number is a chain."""

    spec = {}  # noqa: RUF012

    def data(self, generator):
        return Batch(torch.randn(self.count, generator=generator).exp())

    def distance(self, y, batch):
        return F.smooth_l1_loss(y, batch.target.expand_as(y), reduction="none")


@correct("rows with a weight")
class Weighed(Regression):
    """Some rows are of no use, others count by how sure they are."""

    def data(self, generator):
        rows = super().data(generator)
        weight = torch.rand(self.count, generator=generator)
        return rows._replace(weight=torch.where(weight < 0.1, 0.0, weight))


@correct("next tokens")
class Tokens(Rows):
    """Context and target (B, S) ids, y logits (B, S, V); what is beyond an end (id 0) has no weight."""

    spec = {"vocab_size": 9}  # noqa: RUF012

    def data(self, generator):
        ids = (torch.rand(self.count, 11, generator=generator) ** 2 * 9).long()
        ids = torch.unique(ids, dim=0)
        ended = (ids[:, :-1] == 0).cumsum(1) > 3
        return Batch(ids[:, 1:].clone(), ids[:, :-1].clone(), (~ended).float())

    def start(self, batch, *, generator=None):
        return torch.randn((*batch.target.shape, 9), generator=generator)

    def distance(self, y, batch):
        target = batch.target.expand(y.shape[:-1])
        return F.cross_entropy(y.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)

    def report(self, mean):
        return {"loss": mean, "perplexity": math.exp(min(mean, 50.0))}


@correct("next tokens from uniform logits")
class UniformTokens(Tokens):
    def start(self, batch, *, generator=None):
        return torch.zeros(*batch.target.shape, 9)


def drawings(count, generator, size=8):
    kind = torch.randint(5, (count,), generator=generator)
    grid = torch.linspace(-3, 3, size)
    waves = (grid[None, :, None] * (1 + kind[:, None, None]) + grid[None, None, :]).sin()
    return (0.7 * waves + 0.2 * torch.randn(waves.shape, generator=generator))[:, None], kind


@correct("classification of images")
class Classes(Rows):
    """Context images (B, 1, 8, 8), target ids (B,), y logits (B, 5)."""

    spec = {"classes": 5, "image_size": 8, "channels": 1}  # noqa: RUF012

    def data(self, generator):
        images, kind = drawings(self.count, generator)
        return Batch(kind, images)

    def start(self, batch, *, generator=None):
        return 0.1 * torch.randn((*batch.target.shape, 5), generator=generator)

    def distance(self, y, batch):
        return y.logsumexp(-1) - y.gather(-1, batch.target.expand(y.shape[:-1])[..., None])[..., 0]


@correct("images")
class Images(Rows):
    spec = {"image_size": 8, "channels": 1}  # noqa: RUF012

    def data(self, generator):
        return Batch(drawings(self.count, generator)[0])

    def start(self, batch, *, generator=None):
        return uniform(batch.target, -1.0, 1.0, generator)

    def distance(self, y, batch):
        return (y - batch.target).square().flatten(-3).mean(-1)


@correct("images of a class")
class OfClass(Images):
    """The contexts, ids (B,), are in all splits: the images are not."""

    spec = {"image_size": 8, "channels": 1, "classes": 5}  # noqa: RUF012

    def data(self, generator):
        return Batch(*drawings(self.count, generator))


@correct("responses to one of three doses")
class Doses(Regression):
    spec = {"dim": 2}  # noqa: RUF012

    def data(self, generator):
        dose = torch.randint(3, (self.count, 1), generator=generator).float()
        return Batch(dose.sqrt() + 0.3 * torch.randn(self.count, 2, generator=generator), dose)


class Noisy:
    """Collates clean rows, and draws their noise."""

    def __init__(self, seed, split):
        self.generator = stream(seed, "noise", split)

    def __call__(self, rows):
        clean = stacked(rows).target
        return Batch(clean, clean + 0.5 * torch.randn(clean.shape, generator=self.generator))


@correct("denoising, noise drawn in the loader")
class Denoise(Images):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        rows, training = Listed(self.splits[split]), split == "train"
        return DataLoader(
            rows,
            batch_size,
            shuffle=training,
            num_workers=workers,
            collate_fn=Noisy(seed, split),
            generator=stream(seed, "loader"),
        )


@correct("denoising that starts at the noisy image")
class FromNoisy(Denoise):
    def start(self, batch, *, generator=None):
        return batch.context.clone()


@correct("sums of two digits, all of them")
class Sums(Regression):
    """Every problem (a, b) is in one split; their answers are in all of them."""

    spec = {"dim": 1}  # noqa: RUF012

    def data(self, generator):
        pairs = torch.cartesian_prod(torch.arange(20), torch.arange(20)).float()
        return Batch(pairs.sum(1, keepdim=True) / 40, pairs / 20)


class Puzzles(IterableDataset):
    """Sequences to sort, generated by seed; a puzzle's own digits say which split it is in."""

    def __init__(self, split, count, seed):
        self.split, self.count, self.seed = split, count, seed

    def __iter__(self):
        generator, made = stream(self.seed, self.split), 0
        while self.count is None or made < self.count:
            ids = torch.randint(100, (6,), generator=generator)
            draw = zlib.crc32(bytes(ids.tolist())) % 10
            if self.split == ("test" if draw < 2 else "validation" if draw < 3 else "train"):
                made += 1
                yield Batch(ids.sort().values / 100, ids / 100)


@correct("puzzles generated by seed, an IterableDataset")
class Sorting(Rows):
    spec = {"dim": 6}  # noqa: RUF012
    length = 300

    def __init__(self):
        pass

    def loader(self, split, batch_size, *, seed=0, workers=0):
        training = split == "train"
        data = Puzzles(split, self.length if training else 50, seed if training else 0)
        return DataLoader(data, batch_size, drop_last=training, collate_fn=stacked, generator=stream(seed, "loader"))


@correct("puzzles without end")
class Endless(Sorting):
    """A training stream that never ends."""

    length = None


@correct("duplicates inside a split")
class Lattice(Rows):
    """Rounded measurements: many rows are equal, and equal rows go together."""

    count = 400

    def data(self, generator):
        return Batch((3 * torch.randn(self.count, 2, generator=generator)).round() / 3)

    def __init__(self):
        rows = self.data(stream(0, "data"))
        _, cell = rows.target.unique(dim=0, return_inverse=True)
        group = torch.randperm(int(cell.max()) + 1, generator=stream(0, "split"))[cell] % 10
        splits = {"train": group < 7, "validation": group == 7, "test": group > 7}
        self.splits = {split: select(rows, index) for split, index in splits.items()}


@correct("a plain DataLoader without a generator in evaluate")
class Plain(Regression):
    def judged(self, split, limit):
        rows = self.splits[split]
        limit = len(rows.target) if limit is None else limit
        for target, context in DataLoader(TensorDataset(rows.target[:limit], rows.context[:limit]), batch_size=32):
            yield Batch(target, context)


@correct("sequences of vectors")
class Motion(Rows):
    """Chains (B, S): what follows each of the vectors so far."""

    spec = {"features": 3}  # noqa: RUF012

    def data(self, generator):
        phase = 6 * torch.rand(self.count, 1, 3, generator=generator)
        path = (phase + 0.5 * torch.arange(7.0)[:, None]).sin()
        return Batch(path[:, 1:].clone(), path[:, :-1].clone(), torch.ones(self.count, 6))


@correct("starts at zero")
class Zero(Rows):
    def start(self, batch, *, generator=None):
        return torch.zeros_like(batch.target)


@correct("starts at the context")
class Persisted(Motion):
    def start(self, batch, *, generator=None):
        return batch.context.clone()


correct("core points, moons")(lambda: Points("moons", n=500))
correct("core points, iris")(lambda: Points("iris"))  # a table with equal rows
correct("core digits")(lambda: Digits(size=8))
correct("core digits of a class")(lambda: Digits(size=8, conditional=True, n=300))


# ----------------------------------------------------------------------------------------------------- mutants: splits

OVERLAP = r"overlap|split|share|leak|both|common|disjoint|held|train.*(test|validation)|validation.*test"


@mutant("all rows in all splits", OVERLAP)
class Whole(Rows):
    def deal(self, order):
        return dict.fromkeys(("train", "validation", "test"), order)


@mutant("train and test share one row", OVERLAP)
class OneRow(Regression):
    def deal(self, order):
        return {"train": order[:141], "validation": order[141:170], "test": order[[*range(170, 200), 140]]}


@mutant("an off-by-one at every boundary", OVERLAP)
class OffByOne(Images):
    def deal(self, order):
        return {"train": order[:141], "validation": order[140:171], "test": order[170:]}


@mutant("half of the test split was trained on", OVERLAP)
class Half(Classes):
    def deal(self, order):
        return {"train": order[:140], "validation": order[140:160], "test": order[120:160]}


@mutant("validation is test", OVERLAP)
class Same(Tokens):
    def deal(self, order):
        splits = super().deal(order)
        return splits | {"validation": splits["test"]}


@mutant("validation is a part of train", OVERLAP)
class Inside(Rows):
    def deal(self, order):
        return {"train": order[:160], "validation": order[:30], "test": order[160:]}


@mutant("splits are drawn with replacement", OVERLAP)
class Replaced(Regression):
    def deal(self, order):
        drawn = torch.randint(len(order), (len(order),), generator=stream(0, "replaced"))
        return super().deal(drawn)


@mutant("every split shuffles by its own seed", OVERLAP)
class OwnOrders(Images):
    def deal(self, order):
        return {
            split: super(OwnOrders, self).deal(torch.randperm(len(order), generator=stream(0, split)))[split]
            for split in ("train", "validation", "test")
        }


@mutant("splits are drawn anew for every task", OVERLAP + r"|factory|twice|again|differ|random|seed|global|repro")
class Redealt(Images):
    """Drawn from the global generator: a run that goes on trains on what another tested on."""

    def deal(self, order):
        return super().deal(order[torch.randperm(len(order))])


class Jitters:
    def __init__(self, seed):
        self.generator = stream(seed, "jitter")

    def __call__(self, rows):
        batch = stacked(rows)
        return batch._replace(target=batch.target + 0.01 * torch.randn(batch.target.shape, generator=self.generator))


class Jittered(Rows):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        if split != "train":
            return super().loader(split, batch_size, seed=seed, workers=workers)
        rows = Listed(self.splits[split])
        return DataLoader(rows, batch_size, True, collate_fn=Jitters(seed), generator=stream(seed, "loader"), drop_last=True)


@mutant("noise in the loader hides that images overlap", OVERLAP + "|near|close|almost")
class HiddenImages(Jittered, Images):
    def deal(self, order):
        return {"train": order, "validation": order[:30], "test": order[30:70]}


@mutant("noise on the answers hides that questions overlap", OVERLAP + "|near|close|almost|context")
class HiddenQuestions(Jittered, Regression):
    def deal(self, order):
        return {"train": order, "validation": order[:30], "test": order[30:70]}


@mutant("puzzles whose split nobody asks for", OVERLAP)
class SameSeeds(Sorting):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        count = self.length if split == "train" else 50
        return DataLoader(Puzzles("train", count, 0), batch_size, collate_fn=stacked, generator=stream(seed, "loader"))


# --------------------------------------------------------------------------------------------------- mutants: distance

GRAPH = r"differentia|grad|graph|detach|no_grad|numpy|\.data|cut"
SHAPE = r"shape|chain|prefix|one (number|value|distance)|scalar"


@mutant("the distance is detached", GRAPH)
class Detached(Rows):
    def distance(self, y, batch):
        return super().distance(y, batch).detach()


@mutant("the distance is one minus the accuracy", GRAPH)
class Argmax(Classes):
    def distance(self, y, batch):
        return (y.argmax(-1) != batch.target).float()


@mutant("the distance rounds y", GRAPH + "|zero|flat|round")
class Rounds(Images):
    def distance(self, y, batch):
        return super().distance((y * 128).round() / 128, batch)


@mutant("the distance under no_grad", GRAPH)
class NoGrad(Regression):
    @torch.no_grad()
    def distance(self, y, batch):
        return super().distance(y, batch)


@mutant("the distance through numpy", GRAPH)
class Numpy(Rows):
    def distance(self, y, batch):
        return torch.from_numpy(np.square(y.detach().numpy() - batch.target.numpy()).mean(-1))


@mutant("the distance through .data", GRAPH)
class Data(Images):
    def distance(self, y, batch):
        return super().distance(y.data, batch)


@mutant("the distance through .data, and a constant that requires gradients", GRAPH + "|zero")
class Straight(Rows):
    def distance(self, y, batch):
        return super().distance(y.data, batch) + 0 * y.sum(-1)


@mutant("one distance for the batch", SHAPE)
class Scalar(Rows):
    def distance(self, y, batch):
        return (y - batch.target).square().mean()


@mutant("one distance for a batch of tokens", SHAPE)
class ScalarTokens(Tokens):
    def distance(self, y, batch):
        return super().distance(y, batch).mean()


@mutant("the distance keeps an axis", SHAPE + "|keepdim")
class KeepDim(Rows):
    def distance(self, y, batch):
        return (y - batch.target).square().mean(-1, keepdim=True)


@mutant("one distance for every pixel", SHAPE + "|pixel|element|event|depend|sum|weight")
class PerElement(Images):
    def distance(self, y, batch):
        return (y - batch.target).square()


ALONE = r"independent|other|chain|batch|row|own|alone|permut|mix|neighbo"


@mutant("every chain's distance is the batch's mean", ALONE)
class Averaged(Rows):
    def distance(self, y, batch):
        distance = super().distance(y, batch)
        return distance.mean().expand_as(distance)


@mutant("the distance is scaled by the batch's largest", ALONE)
class Largest(Images):
    def distance(self, y, batch):
        distance = super().distance(y, batch)
        return distance / distance.max().clamp_min(1e-6)


@mutant("predictions are standardised over the batch", ALONE)
class Standardised(Regression):
    def distance(self, y, batch):
        return super().distance(y - 0.1 * (y.mean(-2, keepdim=True) - batch.target.mean(0)), batch)


@mutant("a token's distance is its window's mean", ALONE + "|token|position")
class WindowMean(Tokens):
    def distance(self, y, batch):
        distance = super().distance(y, batch)
        return distance.mean(-1, keepdim=True).expand_as(distance)


@mutant(
    "a distance of the wrong sign", r"sign|negative|truth|target|answer|closer|farther|smaller|larger|lower|higher|least|zero"
)
class Sign(Rows):
    def distance(self, y, batch):
        return -super().distance(y, batch)


@mutant(
    "log-probability for a distance", r"sign|negative|truth|target|answer|closer|farther|smaller|larger|lower|higher|least|zero"
)
class LogProbability(Classes):
    def distance(self, y, batch):
        return -super().distance(y, batch)


@mutant("the distance from the next row's answer", ALONE + r"|truth|target|answer|closer|zero|least")
class Neighbour(Rows):
    def distance(self, y, batch):
        return (y - batch.target.roll(1, 0)).square().mean(-1)


@mutant("the distance ignores the truth", r"truth|target|answer|closer|ignore|zero|least")
class Norm(Images):
    def distance(self, y, batch):
        return y.square().flatten(-3).mean(-1)


@mutant("the distance overwrites y", r"in.?place|modif|chang|leaf|untouched|overw|\by\b")
class Overwrites(Rows):
    def distance(self, y, batch):
        with torch.no_grad():
            y.clamp_(-0.5, 0.5)
        return super().distance(y, batch)


# ------------------------------------------------------------------------------------------------------ mutants: start

LEAK = r"answer|truth|target|leak|distance"
RANDOM = r"generator|global|random|seed|draw|repro|determin|same"


@mutant("starts at the answer", LEAK)
class Answer(Rows):
    def start(self, batch, *, generator=None):
        return batch.target.clone()


@mutant("starts near the answer", LEAK)
class NearAnswer(Images):
    def start(self, batch, *, generator=None):
        return batch.target + 0.3 * randn_like(batch.target, generator)


@mutant("starts with a hint of the answer", LEAK)
class Hint(Regression):
    def start(self, batch, *, generator=None):
        return 0.1 * batch.target + randn_like(batch.target, generator)


@mutant("starts at logits of the answer", LEAK)
class AnswerLogits(Tokens):
    def start(self, batch, *, generator=None):
        return F.one_hot(batch.target, 9) + super().start(batch, generator=generator)


@mutant("starts of the answers' scale", LEAK + "|scale|row")
class Scaled(Regression):
    def start(self, batch, *, generator=None):
        return randn_like(batch.target, generator) * batch.target.abs()


@mutant("starts from a seed of its own", RANDOM)
class OwnSeed(Rows):
    def start(self, batch, *, generator=None):
        return randn_like(batch.target, torch.Generator().manual_seed(0))


@mutant("starts drawn from the global generator", RANDOM)
class GlobalStart(Tokens):
    def start(self, batch, *, generator=None):
        return torch.randn(*batch.target.shape, 9)


@mutant("starts drawn from numpy", RANDOM + "|numpy")
class NumpyStart(Images):
    def start(self, batch, *, generator=None):
        return torch.from_numpy(np.random.rand(*batch.target.shape)).float() * 2 - 1


@mutant("starts are whole numbers", r"dtype|int|float")
class Whole64(Tokens):
    def start(self, batch, *, generator=None):
        return torch.randint(9, (*batch.target.shape, 9), generator=generator)


@mutant("starts at ids where y is logits", r"dtype|int|float|shape")
class Ids(Classes):
    def start(self, batch, *, generator=None):
        return torch.randint(5, batch.target.shape, generator=generator)


@mutant("one start for the whole batch", r"shape|row|start|chain")
class OneStart(Rows):
    def start(self, batch, *, generator=None):
        return torch.randn(1, 2, generator=generator)


@mutant("starts are not finite", r"finite|nan|inf")
class Infinite(Tokens):
    def start(self, batch, *, generator=None):
        return torch.rand(*batch.target.shape, 9, generator=generator).mul(4).floor().log()


# ----------------------------------------------------------------------------------------------------- mutants: loader

ORDER = RANDOM + "|order|call|twice|again|differ"


@mutant("a loader that ignores its seed", ORDER + "|seed")
class Seedless(Rows):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        return super().loader(split, batch_size, seed=7, workers=workers)


@mutant("one start for a whole batch", r"start|row|draw")
class OneDraw(Rows):
    def start(self, batch, *, generator=None):
        return randn_like(batch.target[:1], generator).expand(batch.target.shape)


def centred(rows):
    batch = stacked(rows)
    return batch._replace(target=batch.target - batch.target.mean(0))


@mutant("targets centred by the batch's own mean", r"mean|centred")
class OwnMean(Rows):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        rows = Listed(self.splits[split])
        return DataLoader(rows, batch_size, split == "train", collate_fn=centred, generator=stream(seed, "loader"))


@mutant("the order is the global generator's", ORDER)
class GlobalOrder(Rows):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        return DataLoader(Listed(self.splits[split]), batch_size, shuffle=split == "train", collate_fn=stacked)


@mutant("the noise is the global generator's", ORDER)
class GlobalNoise(Denoise):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        noisy = Noisy(seed, split)
        noisy.generator = None
        return DataLoader(
            Listed(self.splits[split]), batch_size, split == "train", collate_fn=noisy, generator=stream(seed, "loader")
        )


@mutant("one generator for all loaders", ORDER)
class SharedGenerator(Regression):
    def __init__(self):
        super().__init__()
        self.generator = stream(0, "loader")

    def loader(self, split, batch_size, *, seed=0, workers=0):
        rows = Listed(self.splits[split])
        return DataLoader(rows, batch_size, shuffle=split == "train", collate_fn=stacked, generator=self.generator)


@mutant("the rows are shuffled in place by every loader", ORDER)
class Reshuffled(Rows):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        rows = self.splits[split]
        if split == "train":
            self.splits[split] = rows = select(rows, torch.randperm(len(rows.target), generator=stream(seed, "order")))
        return DataLoader(Listed(rows), batch_size, collate_fn=stacked, generator=stream(seed, "loader"))


@mutant("batches of 16, whatever is asked for", r"batch.?size|size|rows")
class Sixteen(Rows):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        return super().loader(split, 16, seed=seed, workers=workers)


@mutant("one row at a time, without an axis of rows", r"batch.?size|size|rows|shape|axis")
class Unbatched(Tokens):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        return DataLoader(Listed(self.splits[split]), None, shuffle=split == "train", generator=stream(seed, "loader"))


def pairs(rows):
    return tuple(stacked(rows))[:2]


@mutant("batches that are tuples", r"Batch|tuple")
class Tuples(Regression):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        loader = super().loader(split, batch_size, seed=seed, workers=workers)
        loader.collate_fn = pairs
        return loader

    def judged(self, split, limit):
        for batch in super().judged(split, None):
            yield Batch(*batch)


def mapped(rows):
    return stacked(rows)._asdict()


@mutant("batches that are dictionaries", r"Batch|dict")
class Dictionaries(Regression):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        loader = super().loader(split, batch_size, seed=seed, workers=workers)
        loader.collate_fn = mapped
        return loader

    def judged(self, split, limit):
        for batch in super().judged(split, None):
            yield Batch(**batch)


@mutant("a weight with an axis too many", r"weight|shape|chain")
class WeightAxis(Weighed):
    def data(self, generator):
        rows = super().data(generator)
        return rows._replace(weight=rows.weight[:, None])


@mutant("a weight for every row, where chains are tokens", r"weight|shape|chain")
class RowWeight(Tokens):
    def data(self, generator):
        rows = super().data(generator)
        return rows._replace(weight=torch.ones(len(rows.target)))

    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        rows = self.splits[split]
        found = predictor.predict(rows, self.starts(predictor, rows, generator=generator), generator=generator)
        return self.report(self.distance(found.y, rows).mean().item())


@mutant("contexts shuffled apart from their targets", r"pair|context|align|order|belong|mix")
class Apart(Regression):
    def loader(self, split, batch_size, *, seed=0, workers=0):
        rows = self.splits[split]
        if split == "train":
            order = torch.randperm(len(rows.target), generator=stream(seed, "contexts"))
            rows = rows._replace(context=rows.context[order])
        return DataLoader(
            Listed(rows), batch_size, split == "train", collate_fn=stacked, generator=stream(seed, "loader"), drop_last=True
        )


# --------------------------------------------------------------------------------------------------- mutants: evaluate

NUMBER = r"float|tensor|number|dict"


@mutant("scores that are tensors", NUMBER)
class TensorScores(Rows):
    def report(self, mean):
        return {"distance": torch.tensor(mean)}


@mutant("a score that is a list", NUMBER + "|list")
class ListScores(Rows):
    def report(self, mean):
        return {"distance": mean, "bounds": [0.9 * mean, 1.1 * mean]}


@mutant("a bare score", NUMBER)
class BareScore(Images):
    def report(self, mean):
        return mean


@mutant("a score that is not a number", r"finite|nan")
class NanScore(Regression):
    def report(self, mean):
        return {"mse": mean, "explained": (torch.tensor(mean) / 0.0 * 0.0).item()}


@mutant("judges the start", r"predict|ignore|same|start")
class JudgesStart(Rows):
    @torch.no_grad()
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        batch = select(self.splits[split], slice(limit))
        start = self.starts(predictor, batch, generator=generator)
        predictor.predict(batch, start, generator=generator)
        return {"distance": self.distance(start, batch).mean().item()}


@mutant("never asks the predictor", r"predict|ignore|same|call|ask")
class NeverAsks(Images):
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        batch = select(self.splits[split], slice(limit))
        return {"distance": self.distance(torch.zeros_like(batch.target), batch).mean().item()}


@mutant("judges from starts of the global generator", RANDOM)
class GlobalEvaluation(Rows):
    @torch.no_grad()
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        batch = select(self.splits[split], slice(limit))
        found = predictor.predict(batch, self.starts(predictor, batch), generator=generator)
        return {"distance": self.distance(found.y, batch).mean().item()}


@mutant("judges other rows at every call", RANDOM)
class OtherRows(Regression):
    def judged(self, split, limit):
        rows = self.splits[split]
        order = torch.randperm(len(rows.target))[: max(2, len(rows.target) // 2)][:limit]
        yield select(rows, order)


@mutant("keeps the generator from the predictor", RANDOM)
class Keeps(Rows):
    @torch.no_grad()
    def evaluate(self, predictor, *, split="test", limit=None, generator=None):
        batch = select(self.splits[split], slice(limit))
        found = predictor.predict(batch, self.starts(predictor, batch, generator=generator))
        return {"distance": self.distance(found.y, batch).mean().item()}


@mutant("judges all rows, whatever the limit", r"limit")
class Unlimited(Images):
    def judged(self, split, limit):
        yield from self.loader(split, 20)


@mutant("judges the training rows, whatever the split", r"split|train|test")
class JudgesTraining(Rows):
    def judged(self, split, limit):
        yield select(self.splits["train"], slice(limit))


# ------------------------------------------------------------------------------------------------------- mutants: spec


@mutant("a spec with another dim", r"spec|dim")
class WrongDim(Rows):
    spec = {"dim": 3}  # noqa: RUF012


@mutant("a spec with another vocabulary", r"spec|vocab")
class WrongVocabulary(Tokens):
    spec = {"vocab_size": 8}  # noqa: RUF012


@mutant("a vocabulary that is too large", r"spec|vocab")
class LargeVocabulary(Tokens):
    spec = {"vocab_size": 50}  # noqa: RUF012


@mutant("a spec with another image size", r"spec|image_size|size")
class WrongSize(Images):
    spec = {"image_size": 28, "channels": 1}  # noqa: RUF012


@mutant("a spec with other channels", r"spec|channel")
class WrongChannels(Images):
    spec = {"image_size": 8, "channels": 3}  # noqa: RUF012


@mutant("no spec", r"spec")
class NoSpec(Rows):
    def __init__(self):
        super().__init__()

    @property
    def spec(self):
        raise AttributeError(f"{type(self).__name__} has no attribute 'spec'")


@mutant("a spec that is None", r"spec")
class NoneSpec(Rows):
    spec = None
