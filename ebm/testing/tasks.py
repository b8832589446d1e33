"""The laws of tasks."""

from __future__ import annotations

import hashlib
import itertools
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebm.interfaces import Batch, Prediction, Task
from ebm.registry import parameters
from ebm.testing.laws import (
    broken,
    built,
    cloned,
    close,
    double,
    draws_nothing_global,
    generator,
    leaves,
    obey,
    rows,
    same,
    shown,
    stir,
    worst,
)

__all__ = ["check_task"]

SPLITS = ("train", "validation", "test")
BATCH, WIDE = 8, 256
MOST = 20_000  # rows of a split that are looked at
JUDGED = 32  # examples that an evaluation is limited to


def check_task(factory: Callable[[], Task], *, again: Callable[[Path], Task] | None = None, seed: int = 0) -> None:
    """Holds a task to its laws: loaders that depend on their seed alone, disjoint splits, starts
    that do not read the answer, a differentiable distance per chain with the truth nearest, and an
    evaluation that looks at predictions.

    Arguments:
        factory: makes the task anew, without arguments; a small one will do.
        again: makes it from the folder that its `save_learned` wrote, as loading a run does; by
            default the factory itself, where it takes `learned`.
        seed: what every random draw of the check is derived from.

    Raises:
        LawBroken: naming the law, a counterexample and the likely cause.

    >>> from ebm.tasks import Points
    >>> check_task(lambda: Points("moons", n=500))
    """
    if again is None and "learned" in parameters(factory):
        again = partial(_again, factory)
    obey("task", LAWS, lambda: Case(factory, seed, again), seed)


def _again(factory: Callable[..., Task], folder: Path) -> Task:
    return factory(learned=folder)


class Case:
    """A task, and its first batches."""

    def __init__(self, factory: Callable[[], Task], seed: int, again: Callable[[Path], Task] | None = None) -> None:
        self.factory, self.seed, self.again = factory, seed, again
        self.task: Task = built(factory, Task, "a task")
        self.splits: dict[str, list[Batch]] = {}  # batches of every split; set by the first law
        self.targets: dict[str, set[bytes]] = {}  # hashes of every split's targets

    @property
    def batch(self) -> Batch:
        return self.splits["train"][0]

    def start(self, batch: Batch | None = None, seed: int = 0) -> Tensor:
        return self.task.start(self.batch if batch is None else batch, generator=generator(self.seed + seed))

    def batches(self, split: str, seed: int, size: int = BATCH, most: int = MOST) -> list[Batch]:
        found, count = [], 0
        for batch in self.task.loader(split, size, seed=seed):
            found.append(batch)
            count += _count(batch) if isinstance(batch, Batch) else size
            if count >= most:
                break
        return found


def _whole(case: Case, split: str, seed: int) -> list[Batch]:
    """Goes through a split: in wide batches, or where there are few of them in narrow ones, of
    which fewer rows are left out."""
    found = case.batches(split, seed, WIDE)
    return found if len(found) > 4 else case.batches(split, seed)


def _count(batch: Batch) -> int:
    return len(leaves(batch.target)[0])


# ------------------------------------------------------------------------------------------------------------------- laws


def loaders_give_batches(case: Case) -> None:
    """loader(split, batch_size) gives ebm.Batch of at most batch_size rows, for train, validation
    and test."""
    for split in SPLITS:
        try:
            found = case.batches(split, 0, most=3 * BATCH)
        except (ValueError, KeyError):
            if split == "validation":
                continue  # not every task has one
            raise
        if not found:
            broken(f"the loader of split {split!r} is empty", "too few rows for a batch: a last, short batch is better than none")
        for batch in found:
            if not isinstance(batch, Batch) or not leaves(batch.target):
                broken(
                    f"the loader of split {split!r} gave a {type(batch).__name__}",
                    "collate to ebm.Batch(target, context, weight)",
                )
            counts = {len(leaf) for leaf in leaves(batch.target)}
            if max(counts) > BATCH:
                broken(f"batch_size={BATCH} gave {max(counts)} rows in split {split!r}", "pass batch_size on to the DataLoader")
        case.splits[split] = found


def it_has_nothing_to_learn(case: Case) -> None:
    """A task owns data and meaning, no parameters that train: those belong to energies, samplers
    and objectives."""
    held = [case.task, *vars(case.task).values()]
    for module in held:
        if isinstance(module, nn.Module) and (names := [name for name, p in module.named_parameters() if p.requires_grad]):
            broken(
                f"{type(module).__name__} has parameters {names[:3]} that train",
                "freeze them (requires_grad_(False)), or move them",
            )


def spec_says_what_the_data_are(case: Case) -> None:
    """spec is a dictionary whose entries agree with the data: recipes fill in energies' keywords
    from it."""
    spec = getattr(case.task, "spec", None)
    if not isinstance(spec, dict):
        broken(f"spec is {spec!r}", "set self.spec = {'dim': …}: what the data decide (dim, image_size, channels, vocab_size …)")
    target = leaves(case.batch.target)[0]
    seen: dict[str, Any] = {}
    if target.is_floating_point():
        seen["dim"] = target.shape[-1] if target.ndim == 2 else None
        if target.ndim == 4:
            size = spec.get("image_size")
            seen["channels"] = target.shape[1]
            seen["image_size"] = tuple(target.shape[2:]) if isinstance(size, list | tuple) else target.shape[2]
    for name, value in seen.items():
        told = spec.get(name, value)
        told = tuple(told) if isinstance(told, list) else told
        if value is not None and told != value:
            broken(f"spec[{name!r}] is {told}, the data have {value}", "spec was written by hand, or for other data")
    ids = {"vocab_size": case.batch.target, "context_vocab": case.batch.context}
    for name, held in ids.items():
        size = spec.get(name, spec.get("vocab_size"))  # a context has the answers' ids, where it has none of its own
        numbers = [leaf for leaf in leaves(held) if not leaf.is_floating_point() and leaf.dtype is not torch.bool]
        most = max((int(leaf.max()) for leaf in numbers), default=-1)
        if isinstance(size, int) and most >= size:
            name = name if name in spec else "vocab_size"
            broken(f"spec[{name!r}] is {size}, but there are ids up to {most}", "ids are 0 … V − 1")


def the_seed_alone_orders_the_data(case: Case) -> None:
    """loader(split, …, seed=s) gives the same batches whenever it is called, whatever the global
    generators' state."""
    for split in case.splits:  # (a DataLoader without a generator draws one number from torch's, which orders nothing)
        first = cloned(case.batches(split, 3, most=3 * BATCH))
        stir(case.seed)
        again = case.batches(split, 3, most=3 * BATCH)
        cause = (
            "shuffling or noise from a global generator, or from one that lives on: make it anew, from seed, in loader() "
            "(DataLoader(…, generator=ebm.randomness.stream(seed, 'loader')))"
        )
        if len(first) != len(again) or not all(map(same, first, again)):
            broken(f"two loaders of split {split!r} with one seed give other batches", cause)
        other = built(case.factory, Task, "a task", seed=1)
        fresh = Case.batches(_Other(other), split, 3, most=3 * BATCH)  # type: ignore[arg-type]
        if len(first) != len(fresh) or not all(map(same, first, fresh)):
            broken(
                f"split {split!r} of a task that is built anew gives other batches",
                cause + "; data are drawn by the task's own seed",
            )

    _other_seeds_other_orders(case)


def _other_seeds_other_orders(case: Case) -> None:
    found = [case.batches("train", seed, most=3 * BATCH) for seed in (3, 4, 5)]
    if sum(map(_count, found[0])) >= 4 and all(
        len(found[0]) == len(other) and all(map(same, found[0], other)) for other in found[1:]
    ):
        seen = "three seeds give split 'train' in the same order"
        broken(seen, "loader() ignores its seed: every epoch would see the rows alike (shuffle, by a generator of the seed)")


class _Other:
    def __init__(self, task: Task) -> None:
        self.task = task


def rows_are_themselves_whatever_their_batch(case: Case) -> None:
    """A row does not depend on the rows that share its batch: at inference there may be none."""
    for split, batches in case.splits.items():
        whole = [_floats(batch) for batch in batches if _count(batch) > 1]
        if len(whole) < 3 or not whole[0].numel():
            continue
        spread = torch.cat(whole).std(0)
        varied = spread > 0
        means = torch.stack([part.mean(0) for part in whole])[:, varied].abs()
        if bool(varied.any()) and bool((means <= 1e-5 * spread[varied]).all(0).any()):
            broken(
                f"in split {split!r} an entry has the mean 0 in each of {len(whole)} batches",
                "rows are centred by their batch's own mean: take the mean of the training split, once",
            )


def splits_are_disjoint(case: Case) -> None:
    """No row of one split is in another (beyond what repeats by nature within a split), and rows
    keep their contexts."""
    keys: dict[str, dict[str, Counter[bytes]]] = {}
    values: dict[str, Tensor] = {}
    for split in case.splits:
        first = _whole(case, split, 0)
        keys[split] = {part: Counter() for part in PARTS}
        contexts: dict[bytes, bytes] = {}
        for batch in first:
            for target, context in _pairs(batch):
                contexts[target] = context
                for part, key in zip(PARTS, (target, target + context, context), strict=True):
                    keys[split][part][key] += 1
        if split == "train":  # what a first pass leaves out, a second brings
            _second_pass(keys[split], contexts, _whole(case, split, 1))
        kept = [_floats(batch) for batch in first]
        if kept and kept[0].shape[1]:
            values[split] = torch.cat(kept)[:1500]
    natural = {part: max(_repeated(found[part]) for found in keys.values()) for part in PARTS}
    if values and not _repeats_by_nature(max(values.values(), key=len)):
        natural["target and context"] = 0.0
    for one, other in itertools.combinations(case.splits, 2):
        for part in PARTS:
            _none_shared(one, other, keys[one][part], keys[other][part], natural[part])
        if one in values and other in values:
            _no_near_copies(one, other, values[one], values[other])
    case.targets = {split: set(found["target"]) for split, found in keys.items()}


PARTS = ("target", "target and context", "context")


def _pairs(batch: Batch) -> Iterator[tuple[bytes, bytes]]:
    return zip(_hashes(batch.target, _count(batch)), _hashes(batch.context, _count(batch)), strict=True)


def _floats(batch: Batch) -> Tensor:
    """Lines up the floating entries of a batch's targets and contexts, (rows, entries)."""
    count = _count(batch)
    parts = [leaf.double().reshape(count, -1) for leaf in leaves(batch[:2]) if leaf.is_floating_point() and len(leaf) == count]
    return torch.cat(parts, 1) if parts else torch.zeros(count, 0)


def _second_pass(keys: dict[str, Counter[bytes]], contexts: dict[bytes, bytes], batches: list[Batch]) -> None:
    unique = {target for target, number in keys["target"].items() if number == 1}
    known, judged, apart = set(keys["context"]), 0, 0
    for batch in batches:
        for target, context in _pairs(batch):
            if target in unique and context in known:
                judged, apart = judged + 1, apart + (contexts[target] != context)
            if target not in keys["target"] and (not context or context not in known):
                for part, key in zip(PARTS, (target, target + context, context), strict=True):
                    keys[part][key] += 1
    if judged > 10 and apart > judged / 2 and len(known) > 10:
        broken(
            f"with another seed {apart} of {judged} training rows come with another row's context",
            "targets and contexts are shuffled apart: index both by one order",
        )


def _none_shared(one: str, other: str, first: Counter[bytes], second: Counter[bytes], natural: float) -> None:
    small, large = (first, second) if first.total() <= second.total() else (second, first)
    shared = sum(number for key, number in small.items() if key and key in large)
    allowed = natural + 5 * math.sqrt(natural * (1 - natural) / small.total()) + 0.02 if natural else 0.0
    if shared / max(1, small.total()) > allowed and natural < 0.5:
        broken(f"{shared} of {small.total()} rows of one of the splits {one!r} and {other!r} are in the other", OVERLAP)


def _repeated(rows: Counter[bytes]) -> float:
    """Computes the share of a split's rows that are there more than once."""
    return sum(number for number in rows.values() if number > 1) / max(1, rows.total())


def _repeats_by_nature(values: Tensor) -> bool:
    """Tells whether entries are coarse enough that rows may be alike by chance: columns with far
    fewer values than rows."""
    if values.shape[1] < 2:
        return True
    count = len(values.unique(dim=0))
    distinct = [len(column.unique()) / count for column in values[:, :64].mT]
    return float(torch.tensor(distinct).median()) < 0.5


OVERLAP = (
    "splits drawn apart from each other, with replacement or by different seeds, ranges that meet, or windows cut before the "
    "split: deal rows out once, by one permutation, as in index.split([…])"
)


def _hashes(tree: Any, count: int) -> list[bytes]:
    found = [b""] * count
    for leaf in leaves(tree):
        if leaf.ndim and len(leaf) == count:
            found = [
                key + hashlib.sha1(row.numpy().tobytes()).digest() for key, row in zip(found, leaf.contiguous(), strict=True)
            ]
    return found


def _no_near_copies(one: str, other: str, first: Tensor, second: Tensor) -> None:
    """Rows of one split that have near copies in another, where rows of one split have none: noise
    was added after the split."""
    if first.shape[1] < 2 or len(first) < 50 or len(second) < 20 or first.shape[1] != second.shape[1]:
        return
    own = torch.cdist(first, first).fill_diagonal_(math.inf).min(1).values
    across = torch.cdist(second[:500], first).min(1).values
    usual = float(own.median())
    near = float((across < 0.2 * usual).double().mean()) - float((own < 0.2 * usual).double().mean())
    if usual > 0 and near > 0.2:
        broken(
            f"{near:.0%} of the rows of split {other!r} have a near copy in {one!r}, far nearer than rows are to each other",
            OVERLAP,
        )


def starts_are_drawn_and_do_not_read_the_answer(case: Case) -> None:
    """start(batch, generator=) draws a finite floating y_0 from the generator alone, without
    looking at the target's values."""
    batch, kept = case.batch, cloned(case.batch)
    with draws_nothing_global("start(batch, generator=)"):
        first = case.start()
    if not same(batch, kept):
        broken("start changed the batch in place", "an in-place operation on the target or the context: make a new tensor")
    case.task.start(batch)  # without a generator, torch's global one is drawn from
    if not isinstance(first, Tensor) or not first.is_floating_point() or not first.ndim:
        seen = f"{first.dtype} of shape {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
        broken(f"start is {seen}", "y is a floating tensor (*chains, *event); for ids it is logits (…, vocab_size)")
    if len(first) != _count(batch):
        broken(
            f"start has {len(first)} rows for a batch of {_count(batch)}", "y (*chains, *event) has a row per row of the batch"
        )
    one = case.start(rows(batch, torch.tensor([0]), _count(batch)))
    if len(one) != 1:
        broken(f"start has {len(one)} rows for a batch of one", "y (*chains, *event) has a row per row of the batch")
    if not bool(torch.isfinite(first).all()):
        broken("start is not finite", "an uninitialised tensor (torch.empty), or a logarithm of 0")
    if not torch.equal(first, case.start()):
        broken("two generators of one seed give two starts", "a draw without generator=generator")
    other = case.start(seed=1)
    if len(first) > 1 and not torch.equal(first, other) and all(bool((part == part[:1]).all()) for part in (first, other)):
        broken("the generator draws one start, and all rows get it", "a draw of one row that is expanded: draw one for each row")
    _own_noise(case, first)
    if not isinstance(batch.target, Tensor) or len(first) % _count(batch):
        return
    if first.shape == batch.target.shape and batch.target.is_floating_point() and close(first, batch.target):
        broken("start is the target", "start may use the context and the target's shape, not its values")
    order = (torch.arange(_count(batch)) + 1) % _count(batch)
    if not same(batch.target[order], batch.target) and not torch.equal(
        case.start(batch._replace(target=batch.target[order])), first
    ):
        broken(
            "with the rows of the target exchanged, and all else the same, start is another",
            "start may use the context and the target's shape, dtype and device, not its values: at inference there is no answer",
        )


def _own_noise(case: Case, first: Tensor) -> None:
    """A start that the generator does not change is fixed, or follows the context: rows that differ
    without either are noise."""
    if (
        len(first) < 2
        or any(not torch.equal(first, case.start(seed=seed)) for seed in (1, 2))
        or bool((first == first[:1]).all())
    ):
        return
    order = (torch.arange(_count(case.batch)) + 1) % _count(case.batch)
    moved = case.batch._replace(context=rows(case.batch.context, order, len(order)))
    if case.batch.context is None or torch.equal(first, case.start(moved)):
        broken(
            "rows start apart, but neither the generator nor the context has a say",
            "noise from a seed of its own: draw by generator",
        )


def distance_is_one_number_per_chain(case: Case) -> None:
    """distance(y, batch) is (*chains,), a prefix of y's shape, finite, and each chain's depends on
    its own y alone."""
    batch, y = double(case.batch), case.start().double()
    value = case.task.distance(y, batch)
    cause = "average over the event's axes alone, as in (y - target).square().flatten(1).mean(-1); objectives average the batch"
    shape = tuple(value.shape) if isinstance(value, Tensor) else None
    if shape is None or not shape or shape != tuple(y.shape[: len(shape)]) or (len(shape) == y.ndim and y.ndim > 1):
        broken(f"distance has shape {shape} for y {tuple(y.shape)}", cause)
    if not bool(torch.isfinite(value).all()):
        broken("distance is not finite at the start", "a logarithm or root of what can be 0")
    if batch.weight is not None and batch.weight.shape != value.shape:
        seen = f"the batch's weight has shape {tuple(batch.weight.shape)}, distance {shape}"
        broken(seen, "weights are per chain (*chains,), as distances are")
    count = _count(batch)
    if len(y) != count or count < 2:
        return
    kept = y.clone()
    if not close(case.task.distance(y, batch), value) or not torch.equal(y, kept):
        broken("distance changed y in place", "an in-place operation on y (clamp_, +=): make a new tensor")
    if value.ndim > 1 and value.shape[1] > 1:
        moved = y.clone()
        moved[:, -1] = y[:, -1] * 1.5 + torch.linspace(0.3, 1.0, y[0, -1].numel(), dtype=y.dtype).reshape(y[0, -1].shape)
        got = case.task.distance(moved, batch)
        if not close(got[:, 0], value[:, 0]):
            broken("moving y at the last position changed the distance at the first: chains are to be independent", cause)
    moved = y.clone()
    moved[1:] = y[1:] * 1.5 + 0.3
    got = case.task.distance(moved, batch)
    if not close(got[0], value[0]):
        broken(
            f"moving other rows of y changed the distance of row 0 from {shown(float(value[0].mean()))} to "
            f"{shown(float(got[0].mean()))}",
            cause,
        )
    order = torch.arange(count).flip(0)
    got = case.task.distance(y[order], rows(batch, order, count))
    if not close(got, value[order]):
        _, a, b = worst(value[order], got)
        broken(f"in another order of rows a distance is {shown(b)} instead of {shown(a)}", cause)


def distance_can_be_differentiated(case: Case) -> None:
    """∇ distance(y) equals finite differences: reconstruction trains through it."""
    cause = (
        "a detach(), no_grad(), NumPy round trip, argmax, rounding or comparison in distance: use a smooth measure (squares, "
        "cross-entropy)"
    )
    batch, kept = double(case.batch), generator(case.seed)
    start = case.start().double()
    if not start.std() > 0:
        start = start + 0.1 * torch.randn(start.shape, generator=kept, dtype=torch.float64)
    y = start.clone().requires_grad_()
    with torch.enable_grad():
        value = case.task.distance(y, batch)
    if not value.requires_grad:
        broken("distance has no graph", cause)
    (grad,) = torch.autograd.grad(value.sum(), y, allow_unused=True)
    if grad is None:
        broken("distance has no gradient with respect to y", cause)
    if not bool(torch.isfinite(grad).all()):
        broken("the gradient of distance is not finite at the start", "a root or norm at 0")
    misses, seen = 0.0, ""
    for attempt in range(3):
        v, h = torch.randn(y.shape, generator=kept, dtype=torch.float64), 1e-6 * 10**attempt
        with torch.no_grad():
            numeric = (case.task.distance(start + h * v, batch) - case.task.distance(start - h * v, batch)) / (2 * h)
            # Over a wider step what is flat by rounding shows that it moves.
            wide = (case.task.distance(start + 0.5 * v, batch) - case.task.distance(start - 0.5 * v, batch)).abs().max()
        exact = (grad * v).reshape(*value.shape, -1).sum(-1)
        off = ~((exact - numeric).abs() <= 1e-3 * torch.maximum(exact.abs(), numeric.abs()) + 1e-7 * (1 + value.detach().abs()))
        flat = not bool(grad.any()) and float(wide) > 1e-6
        misses += (1.0 if flat else float(off.double().mean())) / 3
        place = tuple(torch.nonzero(off)[0].tolist()) if bool(off.any()) else (0,) * value.ndim
        seen = (
            f"at {place} autograd's slope is {shown(float(exact[place]))}, finite differences say {shown(float(numeric[place]))}"
        )
    if misses > 0.2:
        broken(seen, cause)
    if not bool(grad.any()):
        broken("the gradient of distance is 0 everywhere at the start", cause)


def the_truth_is_nearest(case: Case) -> None:
    """distance looks at the target: where y can be the truth, that is nearer than the start, and
    than another row's truth."""
    batch, y = double(case.batch), case.start().double()
    target = batch.target
    if not isinstance(target, Tensor) or len(target) < 2:
        return
    if target.shape == y.shape and target.is_floating_point():
        truth = target
    elif (
        not target.is_floating_point()
        and target.shape == y.shape[:-1]
        and 0 <= int(target.min()) <= int(target.max()) < y.shape[-1]
    ):
        truth = 10 * torch.nn.functional.one_hot(target.long(), y.shape[-1]).double()  # logits
        size = case.task.spec.get("vocab_size")
        if size is not None and size != y.shape[-1]:
            broken(f"spec['vocab_size'] is {size}, but y has {y.shape[-1]} logits", "spec was written by hand, or for other data")
    else:
        return
    near, far = case.task.distance(truth, batch), case.task.distance(y, batch)
    if not float(near.mean()) < float(far.mean()) and not close(truth, y):
        broken(
            f"the mean distance of the truth is {shown(float(near.mean()))}, that of the start {shown(float(far.mean()))}",
            "the sign: low is near, a similarity or log-probability is a negative distance; or it ignores the target",
        )
    order = (torch.arange(len(target)) + 1) % len(target)
    if not same(target[order], target) and close(case.task.distance(truth, batch._replace(target=target[order])), near):
        broken("of another row's target, y has the same distance", "distance does not look at batch.target")


class _Stub:
    """Predicts its start, moved by noise, and remembers what it was asked."""

    candidates = 1

    def __init__(self, task: Task, shift: float = 0.0) -> None:
        self.task, self.shift = task, shift
        self.rows, self.targets = 0, list[bytes]()
        self.without, self.told = False, False  # whether it was called without a generator, whether it started at the truth

    def predict(self, batch: Batch, start: Tensor, *, generator: torch.Generator | None = None) -> Prediction:
        self.rows += _count(batch)
        self.targets += _hashes(batch.target, _count(batch))
        self.without = self.without or generator is None
        if isinstance(batch.target, Tensor) and start.shape == batch.target.shape and close(start, batch.target):
            own = self.task.start(batch, generator=torch.Generator().manual_seed(0))
            self.told = self.told or not close(own, batch.target)  # a still picture's own start is the truth
        noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(self.rows), dtype=start.dtype)
        return Prediction(start + self.shift * noise, None, 0)


def evaluation_gives_numbers_about_predictions(case: Case) -> None:
    """evaluate(predictor, limit=, generator=) asks the predictor, and returns finite floats that
    follow its predictions."""
    found: list[dict[str, float]] = []
    for shift in (0.0, 0.0, 0.7):
        stub = _Stub(case.task, shift)
        stir(len(found))
        result = case.task.evaluate(stub, limit=JUDGED, generator=generator(case.seed))
        if not torch.is_grad_enabled():
            broken("after evaluate gradients are disabled", "torch.set_grad_enabled(False) that stays: use @torch.no_grad()")
        if not isinstance(result, dict) or not result:
            broken(f"evaluate returned {result!r}", "return a dictionary of floats by name")
        for name, value in result.items():
            if not isinstance(name, str) or not isinstance(value, int | float):
                broken(f"{name!r} is a {type(value).__name__}", "numbers by name: value.item(), float(value)")
            if math.isnan(value):
                broken(f"{name!r} is NaN, not finite", "a mean of nothing, or 0/0, where predictions are ordinary")
        if not stub.rows:
            broken("evaluate never asked the predictor", "evaluate judges predictor.predict(batch, start, generator=generator)")
        if stub.without:
            broken("predict was called without the generator", "predictor.predict(batch, start, generator=generator)")
        if stub.told:
            broken(
                "evaluate lets the predictor start at the truth", "start at self.starts(predictor, batch, generator=generator)"
            )
        if any(key in case.targets["train"] and key not in case.targets["test"] for key in stub.targets):
            broken(
                "with split='test', the predictor was asked about rows of the training split", "evaluate looks at its own split"
            )
        found.append(result)
    if found[0] != found[1]:
        broken("two evaluations with generators of one seed differ", "a draw from a global generator: pass generator= on")
    if found[0] == found[2]:
        broken(
            "other predictions get the same numbers",
            "evaluate looks at the start, or at the target, instead of the prediction's y",
        )
    _limit_is_kept(case)
    _other_splits_are_judged(case)


def _other_splits_are_judged(case: Case) -> None:
    if "validation" not in case.targets:
        return
    stub = _Stub(case.task)
    case.task.evaluate(stub, split="validation", limit=JUDGED, generator=generator(case.seed))
    if any(key in case.targets["test"] and key not in case.targets["validation"] for key in stub.targets):
        broken("with split='validation', the predictor was asked about rows of the test split", "evaluate looks at its own split")


def _limit_is_kept(case: Case) -> None:
    asked = []
    for limit in (2, MOST):
        stub = _Stub(case.task)
        try:
            case.task.evaluate(stub, limit=limit, generator=generator(case.seed))
        except ValueError:  # too few to judge by
            return
        asked.append(stub.rows)
    rows_of_test = sum(map(_count, _whole(case, "test", 0)))
    if asked[0] == asked[1] == rows_of_test > 10:
        broken(f"limit=2, but all {asked[0]} rows were predicted", "limit is the number of examples at most")


def what_it_learned_makes_it_again(case: Case) -> None:
    """From what save_learned wrote, a factory's keyword `learned` makes the same task: spec, starts
    and distances agree, and nothing is read from the folder later."""
    if case.again is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        case.task.save_learned(Path(folder))
        try:
            task = case.again(Path(folder))
        except Exception as error:
            broken(
                f"learned=folder raised {type(error).__name__}: {error}", "read there what save_learned wrote, and nothing else"
            )
    if task.spec != case.task.spec:
        broken(f"spec is {task.spec}, and was {case.task.spec}", "what the data decide is written by save_learned")
    batch = case.batch
    try:
        start = task.start(cloned(batch), generator=generator(case.seed))
        distances = [each.distance(case.start(), cloned(batch)) for each in (task, case.task)]
    except Exception as error:
        broken(
            f"once its folder was gone, start or distance raised {type(error).__name__}: {error}",
            "read what was learned when the task is made; data are opened when a loader is asked for",
        )
    if not same(start, case.start()):
        broken("starts of the same draws differ", "scales, vocabularies and encoders are part of what is learned: write them")
    if not same(*distances):
        broken("distances of the same y differ", "scales, vocabularies and encoders are part of what is learned: write them")
    blank = task.blank(BATCH)
    if blank is not None and (_count(blank) != BATCH or task.start(blank).shape[1:] != start.shape[1:]):
        broken(f"blank({BATCH}) starts at {tuple(task.start(blank).shape)}, data at {tuple(start.shape)}", "rows like the data's")


LAWS = [
    loaders_give_batches,
    it_has_nothing_to_learn,
    spec_says_what_the_data_are,
    the_seed_alone_orders_the_data,
    rows_are_themselves_whatever_their_batch,
    splits_are_disjoint,
    starts_are_drawn_and_do_not_read_the_answer,
    distance_is_one_number_per_chain,
    distance_can_be_differentiated,
    the_truth_is_nearest,
    evaluation_gives_numbers_about_predictions,
    what_it_learned_makes_it_again,
]
