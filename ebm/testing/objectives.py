"""The laws of objectives."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ebm.interfaces import Batch, Energy, EnergyFn, Loss, Objective, SumEnergy, bind, energy_and_grad
from ebm.testing.laws import (
    broken,
    built,
    changed,
    cloned,
    double,
    draws_nothing_global,
    generator,
    in_double,
    leaves,
    mapped,
    obey,
    rows,
    same,
    shown,
    snapshot,
)

__all__ = ["check_objective"]

# How many losses are averaged where an objective draws noise. The first number is enough where
# means hardly differ; the second one decides.
SEEDS, FEW = (10, 30), (10,)  # fewer of large energies
MANY = (60, 240)  # of small energies, where two places in a batch are compared
EXACT = 5  # losses that are compared one by one, where the noise is the same
SMALL = 20_000  # entries of the parameters and the batch
ROWS = 12  # rows of the batch that a law looks at


def check_objective(factory: Callable[[], Objective], energy: EnergyFn, batch: Batch, *, seed: int = 0) -> None:
    """Holds an objective to its laws: a finite scalar loss that trains the energy, draws from the
    generator alone, no trace in the energy or the batch, no dependence on the order of rows, and
    means that weights decide, an empty mask included.

    Arguments:
        factory: makes the objective anew, without arguments.
        energy: what it trains; best an energy with parameters. A copy in float64 is used.
        batch: rows of data; tensors of target, context and weight whose first axis is as long as
            the target's hold a row each.
        seed: what every random draw of the check is derived from.

    Raises:
        LawBroken: naming the law, a counterexample and the likely cause.

    >>> from ebm.energies import MLPEnergy
    >>> from ebm.objectives import DenoisingScoreMatching
    >>> check_objective(lambda: DenoisingScoreMatching(sigma=0.3), MLPEnergy(dim=2), Batch(torch.randn(12, 2)))
    """
    obey("objective", LAWS, lambda: Case(factory, energy, batch, seed), seed, dtype=torch.float64)


class Case:
    """An objective's factory, an energy and a batch in float64."""

    def __init__(self, factory: Callable[[], Objective], energy: Any, batch: Batch, seed: int) -> None:
        if not isinstance(batch, Batch) or not leaves(batch.target):
            raise TypeError(f"batch is {type(batch).__name__}: pass an ebm.Batch with a target")
        self.factory, self.seed, self.trained = factory, seed, in_double(energy)
        self.count = len(leaves(batch.target)[0])
        index = torch.arange(min(self.count, ROWS)) if self.count > 1 else torch.zeros(2, dtype=torch.long)
        self.batch: Batch = double(rows(batch, index, self.count))
        self.count = len(index)
        held = [*(self.trained.parameters() if isinstance(self.trained, nn.Module) else ()), *leaves(self.batch)]
        self.small = sum(tensor.numel() for tensor in held) < SMALL
        self.original = in_double(built(self.factory, Objective, "an objective"))
        self.draws = False  # set by the first law
        self.chains: tuple[int, ...] = ()
        self.kept: tuple[Any, Any] = (None, None)  # an energy and an objective that no loss changes, once laws say so

    def fresh(self) -> Objective:
        return copy.deepcopy(self.original)

    def energy(self, train: bool = False) -> Any:
        return copy.deepcopy(self.trained).train(train) if isinstance(self.trained, nn.Module) else self.trained

    def loss(self, batch: Batch | None = None, seed: int = 0, objective: Objective | None = None, energy: Any = None) -> Loss:
        energy = self.shared(0, self.energy) if energy is None else energy
        objective = self.shared(1, self.fresh) if objective is None else objective
        batch = cloned(self.batch if batch is None else batch)  # so that no mistake spoils it for later laws
        return objective(energy, batch, generator=generator(self.seed + seed))

    def shared(self, place: int, make: Callable[[], Any]) -> Any:
        return make() if self.kept[place] is None else self.kept[place]

    def weigh(self, batch: Batch, weight: Tensor) -> Batch:
        """Gives rows weights (rows,), which all chains of a row share."""
        wide = weight.double().reshape(-1, *(1,) * (len(self.chains) - 1))
        return batch._replace(weight=wide.expand(len(weight), *self.chains[1:]).clone())

    @property
    def counts(self) -> tuple[int, ...]:
        """How many losses are averaged: one, where none is drawn from its generator."""
        return (SEEDS if self.small else FEW) if self.draws else (1,)

    def kinds(self) -> Iterator[Batch]:
        """Makes batches of two rows that differ much: with few kinds of rows, it shows what is made
        of each."""
        flat = torch.cat([leaf.double().reshape(self.count, -1) for leaf in leaves(self.batch[:2]) if len(leaf) == self.count], 1)
        gaps = torch.cdist(flat, flat)
        pair: Batch = rows(self.batch, torch.tensor(divmod(int(gaps.argmax()), self.count)), self.count)
        far = mapped(lambda leaf: torch.cat([leaf[:1], 20 * leaf[1:] + 5]) if leaf.is_floating_point() else leaf, pair.target)
        yield pair._replace(target=far)  # so far away that noise hides nothing
        yield pair
        if pair.context is not None:
            yield pair._replace(target=rows(pair.target, torch.zeros(2, dtype=torch.long), 2))  # which differ in context alone


class Losses:
    """The losses (count,) of a batch by the first `count` generators, computed when they are asked
    for."""

    def __init__(self, case: Case, batch: Batch) -> None:
        self.case, self.batch = case, batch
        self.found: list[Tensor] = []
        self(1)  # an error comes here

    def __call__(self, count: int) -> Tensor:
        while len(self.found) < count:
            self.found.append(self.case.loss(self.batch, len(self.found)).value.detach())
        return torch.stack(self.found[:count])

    def __str__(self) -> str:
        return shown(float(torch.stack(self.found).mean()))


def differ(counts: tuple[int, ...], one: Callable[[int], Tensor], other: Callable[[int], Tensor]) -> bool:
    """Tells whether two losses of the same generators differ in their mean by more than chance and
    rounding."""
    for count in counts:
        first, second = one(count), other(count)
        gaps, scale = first - second, max(float(first.abs().mean()), float(second.abs().mean()), 1e-12)
        if count == 1 or not bool(torch.isfinite(gaps).all()):
            return not float(gaps.abs().max()) <= 1e-8 * scale + 1e-12
        deviations = 6 if count == counts[-1] else 1.5  # a difference that few do not hint at is none that many show
        if abs(float(gaps.mean())) <= max(deviations * float(gaps.std()) / math.sqrt(count), 1e-6 * scale + 1e-12):
            return False
    return True


def alike(one: Tensor, other: Tensor) -> bool:
    """Tells whether losses are the same, generator by generator."""
    return torch.allclose(one, other, rtol=1e-7, atol=1e-10, equal_nan=True)


def equal(one: Losses, other: Losses) -> bool:
    """Tells whether two batches have the same losses, generator by generator."""
    count = min(EXACT, one.case.counts[-1])
    return alike(one(count), other(count))


# ------------------------------------------------------------------------------------------------------------------- laws


def the_loss_is_a_finite_scalar_with_detached_terms(case: Case) -> None:
    """forward returns Loss(value, terms): a scalar tensor to differentiate, and scalars without a
    graph."""
    found = case.loss()
    if not isinstance(found, Loss):
        broken(
            f"forward returned {type(found).__name__}",
            "return ebm.Loss(value, terms): a scalar, and a dictionary of scalars to log",
        )
    value = found.value
    if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
        seen = f"a tensor of shape {tuple(value.shape)} in {value.dtype}" if isinstance(value, Tensor) else repr(value)
        broken(f"the loss is {seen}", "reduce to one number, as batch.mean(values) does with values (*chains,)")
    if not bool(torch.isfinite(value)):
        broken(f"the loss is {float(value)} on the batch that was passed", "a logarithm, root or division of what can be 0")
    for name, term in dict(found.terms).items():
        if not isinstance(name, str) or not isinstance(term, Tensor) or term.numel() != 1:
            broken(
                f"term {name!r} is {type(term).__name__} {tuple(getattr(term, 'shape', ()))}", "terms are scalar tensors by name"
            )
        if term.requires_grad:
            broken(f"term {name!r} carries a graph", "terms are logged: term.detach(), or memory grows with every logged step")
    case.draws = not all(torch.equal(value, case.loss(seed=seed).value) for seed in range(1, 4))
    case.chains = _chains(case)


def _chains(case: Case) -> tuple[int, ...]:
    """Finds the chains' shape, which weights have."""
    if case.batch.weight is not None:
        return tuple(case.batch.weight.shape)
    target = leaves(case.batch.target)[0]
    tried = [tuple(target.shape[:axes]) for axes in range(1, target.ndim + 1)]
    try:
        value = bind(case.energy(), case.batch.context)(target)
        tried.insert(0, tuple(value.shape))
    except Exception:  # a target that is no configuration (token ids)
        pass
    for shape in tried:
        try:
            case.loss(case.batch._replace(weight=torch.ones(shape, dtype=torch.float64)))
        except ValueError as error:
            if "weight" not in str(error):
                raise
        else:
            return shape
    broken(
        f"no weight of a shape among {tried} is accepted", "Batch.weight is (*chains,): one number for each energy of the target"
    )


def draws_come_from_the_generator(case: Case) -> None:
    """With generator=, the loss is a function of it and of the batch, and the global generators
    stay as they are."""
    objective = case.fresh()
    with draws_nothing_global("a loss with generator="):
        first = case.loss(objective=objective).value.detach()
    again = case.loss().value.detach()
    if not torch.equal(first, again):
        broken(
            f"two fresh objectives with generators of one seed give {shown(float(first))} and {shown(float(again))}",
            "it draws from elsewhere than the generator, such as NumPy, or a new generator without a seed",
        )
    used = generator(case.seed)
    case.fresh()(case.energy(), cloned(case.batch), generator=used)
    if not case.draws and torch.equal(used.get_state(), generator(case.seed).get_state()):
        torch.manual_seed(case.seed)
        one = case.fresh()(case.energy(), cloned(case.batch)).value.detach()
        torch.manual_seed(case.seed + 1)
        other = case.fresh()(case.energy(), cloned(case.batch)).value.detach()
        if not torch.equal(one, other):
            broken(
                "without generator= it draws noise, with generator= always the same", "a generator of its own: use the one given"
            )


def the_loss_trains(case: Case) -> None:
    """The loss has a gradient with respect to the energy's parameters, and to every parameter of
    the objective."""
    objective, energy = case.fresh(), case.energy(train=True)
    value = case.loss(objective=objective, energy=energy).value
    if not torch.is_grad_enabled():
        broken("after the loss gradients are disabled", "torch.set_grad_enabled(False) that is not undone: use a with block")
    held = {f"the energy's {n}": p for n, p in _parameters(energy).items()}
    own = {f"the objective's {n}": p for n, p in _parameters(objective).items()}
    if not held and not own:
        return
    if not value.requires_grad:
        broken("the loss has no graph", "a detach(), no_grad() or .item() between the energies and the loss")
    grads = torch.autograd.grad(value, [*held.values(), *own.values()], allow_unused=True)
    found = dict(zip([*held, *own], grads, strict=True))
    for name, grad in found.items():
        if grad is not None and not bool(torch.isfinite(grad).all()):
            broken(f"the gradient of {name} is not finite", "a root or norm at 0, or a division of what can be 0")
    if held and not any(grad is not None and bool(grad.any()) for name, grad in found.items() if name in held):
        broken("no parameter of the energy gets a gradient", "energies are detached, or evaluated under no_grad, before the loss")
    still = {name for name in held if found[name] is None or not bool(found[name].any())}
    try:
        for seed in (1, 2):
            later = case.loss(seed=seed, objective=objective, energy=energy).value
            again = torch.autograd.grad(later, [*held.values(), *own.values()], allow_unused=True)
            still &= {name for name, grad in zip(held, again, strict=False) if grad is None or not bool(grad.any())}
    except RuntimeError as error:
        broken(f"a second step fails: {error}", "something with a graph is kept from one loss to the next: detach it")
    if alike := still & _moves_all_alike(case):
        broken(
            f"{', '.join(sorted(alike))}: no gradient from the loss",
            "it moves all energies alike, as a bias of the head does, and this loss trains slopes or differences of energies: "
            "leave it out",
        )
    if unused := [name for name in own if found[name] is None]:
        broken(
            f"{', '.join(unused)}: no gradient from the loss",
            "a parameter that forward never uses; or a learnable step size where the trajectory keeps no graph (unroll='none')",
        )


def _moves_all_alike(case: Case) -> set[str]:
    """Finds parameters that the energy depends on, and no slope of it."""
    energy, target = case.energy(), case.batch.target
    held = {f"the energy's {name}": p for name, p in _parameters(energy).items()}

    def moving(of: Tensor) -> set[str]:
        grads = torch.autograd.grad(of, [*held.values()], retain_graph=True, allow_unused=True)
        return {name for name, grad in zip(held, grads, strict=True) if grad is not None and bool(grad.any())}

    try:
        value, slope = energy_and_grad(bind(energy, case.batch.context), target.detach(), create_graph=True)
        noise = torch.randn(slope.shape, generator=generator(case.seed), dtype=slope.dtype)
        return moving(value.sum()) - moving((slope * noise).sum())
    except (ValueError, TypeError, AttributeError, RuntimeError):
        return set()  # the target is no configuration, such as ids


def _parameters(module: Any) -> dict[str, nn.Parameter]:
    if not isinstance(module, nn.Module):
        return {}
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def the_energy_and_the_batch_are_left_alone(case: Case) -> None:
    """A loss changes no parameter, gradient or mode of the energy (in eval mode no buffer), and
    nothing in the batch."""
    for train in (True, False):
        energy, weight = case.energy(train), 2 * torch.ones(case.chains, dtype=torch.float64)
        given = case.batch._replace(weight=weight) if case.batch.weight is None else case.batch
        for parameter in _parameters(energy).values():
            parameter.grad = torch.ones_like(parameter)  # of a loss before
        batch, objective = cloned(given), case.fresh().train(train)
        held, own = snapshot(energy, buffers=not train), [part.training for part in objective.modules()]
        objective(energy, batch, generator=generator(case.seed))
        if own != [part.training for part in objective.modules()]:
            broken("the objective's own mode has changed", "train() or eval() on self or its sampler that is not undone")
        if name := changed(energy, held, buffers=not train):
            broken(
                f"{name} has changed",
                "backward() or an optimiser's step inside forward (that is for the loop), or a train() or eval() that stays "
                "(samplers hold the energy in eval mode by themselves)",
            )
        if not same(batch, given) or any(leaf.requires_grad for leaf in leaves(batch)):
            broken("the batch was changed in place", "an in-place operation (+=, add_, requires_grad_) on a tensor of it")


def a_loss_leaves_no_trace(case: Case) -> None:
    """The same batch and generator give the same loss again, unless the objective's saved state
    says why (a replay buffer)."""
    stateless = True
    for train in (True, False):
        objective = case.fresh().train(train)
        before = _saved(objective)
        first = case.loss(objective=objective).value.detach()
        unsaved = _equal(before, _saved(objective))
        again = case.loss(objective=objective).value.detach()
        if unsaved and not torch.equal(first, again):
            broken(
                f"the loss is {shown(float(first))} at the first call and {shown(float(again))} at the second",
                "a counter or running mean on self that is not in state_dict(): a resumed run would go another way "
                "(register_buffer, get_extra_state)",
            )
        stateless = stateless and unsaved
    case.kept = case.energy(), case.fresh() if stateless else None


def _saved(module: nn.Module) -> list[Tensor]:
    return [leaf.clone() for leaf in leaves(dict(module.state_dict()))]


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def the_order_of_rows_does_not_matter(case: Case) -> None:
    """Permuting the rows of a batch permutes nothing in the loss (on average over noise, where it
    draws)."""
    cause = (
        "rows are told apart by their place: an index like values[0] or [: n // 2], a roll or difference between neighbours, a "
        "cumulative sum, weights by position, a context that does not move with its target"
    )
    grouped = torch.tensor([0] * 6 + [1] * 6)
    orders = [grouped, grouped.flip(0), grouped.reshape(2, 6).T.reshape(-1), torch.tensor([0] * 3 + [1] * 6 + [0] * 3)]
    for pair in case.kinds():
        try:
            found = [Losses(case, rows(pair, order, 2)) for order in orders]
            wrong = [(order, got) for order, got in zip(orders, found, strict=True) if differ(case.counts, found[0], got)]
        except (FloatingPointError, ValueError):  # too far away for the energy, or no data of this kind
            continue
        for order, got in wrong:
            broken(
                f"a batch of two kinds of rows, 0 and 1, has a loss of {found[0]} in order {_letters(grouped)} "
                f"and {got} in order {_letters(order)}",
                cause,
            )
    if not case.draws:
        plain = Losses(case, case.batch)
        for seed in range(3):
            order = torch.randperm(case.count, generator=generator(case.seed + seed))
            if differ((1,), plain, got := Losses(case, rows(case.batch, order, case.count))):
                broken(f"the loss is {plain}, with the rows in order {order.tolist()} {got}", cause)


def _letters(order: Tensor) -> str:
    return "".join(map(str, order.tolist()))


def an_empty_mask_gives_a_finite_loss(case: Case) -> None:
    """Where all weights are 0 there is nothing to learn: the loss and its gradients are finite, not
    0/0."""
    empty = case.batch._replace(weight=torch.zeros(case.chains, dtype=torch.float64))
    cause = "a division by the sum of the weights, or a mean over no entries: batch.mean(values) takes care of it"
    energy = case.energy(train=True)
    value = case.loss(empty, energy=energy).value
    if not bool(torch.isfinite(value)):
        broken(f"with all weights 0 the loss is {float(value)}", cause)
    held = list(_parameters(energy).values())
    if held and value.requires_grad:
        for grad in torch.autograd.grad(value, held, allow_unused=True):
            if grad is not None and not bool(torch.isfinite(grad).all()):
                broken("with all weights 0 the loss is finite, its gradient is not", cause)


def weights_say_what_counts(case: Case) -> None:
    """Means are sum(w d) / sum(w): rows of weight 0 have no say, only the weights' ratios matter,
    and none means all alike."""
    cause = "the loss averages by itself: batch.mean(values) takes one value per chain and the batch's weights"
    plain = Losses(case, case.weigh(case.batch, torch.ones(case.count)))
    ramp = torch.arange(case.count, dtype=torch.float64)
    for weight, what in ((torch.ones(case.count), "1"), (ramp, "0, 1, 2 …")):
        once = Losses(case, case.weigh(case.batch, weight))
        for factor in (3, 0.001):
            other = Losses(case, case.weigh(case.batch, factor * weight))
            if not equal(once, other):
                seen = f"with weights {what} the loss is {once}, with {factor} times those {other}"
                broken(seen, cause + " (the weights' sum is not divided by)")
    if not equal(plain, none := Losses(case, case.batch._replace(weight=None))):
        broken(f"with weights of 1 the loss is {plain}, with none {none}", cause)
    separable = not _who_has_a_say(case, cause) and not _is_of_all_rows_together(case)
    for pair in case.kinds():
        try:
            separable = _two_kinds(case, pair, cause) and separable
        except (FloatingPointError, ValueError):  # too far away for the energy, or no data of this kind
            continue
    if separable:
        _the_whole_is_the_mean_of_its_rows(case, cause)
        _what_is_masked_has_no_say(case, cause)


def _who_has_a_say(case: Case, cause: str) -> bool:
    """Tells whether a row's own loss looks at others: then at all of them (negatives of a batch),
    and not at certain places."""
    pair, count = list(case.kinds())[1], 6
    for row in (0, 2, count - 1):
        alone = torch.arange(count) == row

        def loss(index: Tensor, alone: Tensor = alone) -> Tensor:
            return case.loss(case.weigh(rows(pair, index, 2), alone)).value.detach()

        plain = loss(torch.zeros(count, dtype=torch.long))
        said = [other for other in range(count) if other != row and not alike(plain, loss((torch.arange(count) == other).long()))]
        if 0 < len(said) < count - 1:
            silent = [other for other in range(count) if other not in (row, *said)]
            broken(
                f"where row {row} alone has weight, another row {said} changes the loss, another row {silent} does not",
                "rows are told apart by their place: a roll, a flip or an index, or one row's context for all; or " + cause,
            )
        if said:
            return True
    return False


def _is_of_all_rows_together(case: Case) -> bool:
    """Tells whether next to no weight on the other rows changes the loss of one, as where it is one of
    a sample's spread: rows that are there, however little they count, are its neighbours."""
    alone = torch.eye(case.count, dtype=torch.float64)[0]
    one, among, whole = (
        case.loss(case.weigh(case.batch, weight)).value.detach()
        for weight in (alone, alone.clamp(min=1e-12), torch.ones_like(alone))
    )
    return not alike(one, among) and not alike(among, whole)  # alike with all rows where weights are taken for a mask


def _two_kinds(case: Case, pair: Batch, cause: str) -> bool:
    """Weighs two kinds of rows against each other; tells whether the loss may be a mean over rows."""
    half = torch.arange(12) < 6
    mixed: Batch = rows(pair, (~half).long(), 2)
    alone = [Losses(case, rows(pair._replace(weight=None), torch.full((12,), kind), 2)) for kind in (0, 1)]
    both, first, second = (Losses(case, case.weigh(mixed, weight)) for weight in (torch.ones(12), half, ~half))
    if (case.draws or differ((1,), *alone)) and equal(both, first) and equal(both, second):
        broken(f"weight 0 on one half of the rows, or on the other, leaves the loss at {both}", cause)
    if differ(case.counts, both, lambda count: (alone[0](count) + alone[1](count)) / 2):
        return False  # rows are weighed against each other: the objective decides what a masked row does
    for got, kind, what in ((first, 0, "second"), (second, 1, "first")):
        if differ(case.counts, got, alone[kind]):
            seen = f"with weight 0 on the {what} half of the rows the loss is {got}, the other half alone has {alone[kind]}"
            broken(seen, cause)
    return True


def _the_whole_is_the_mean_of_its_rows(case: Case, cause: str) -> None:
    """Where rows are weighed one at a time, and then all together, the noise is the same: losses
    add up exactly."""

    def weighed(weight: Tensor) -> Tensor:
        return torch.stack([case.loss(case.weigh(case.batch, weight), seed).value.detach() for seed in range(2)])

    single = torch.stack([weighed(row) for row in torch.eye(case.count, dtype=torch.float64)])
    ramp = torch.arange(1, case.count + 1, dtype=torch.float64)
    for weight, what in ((torch.ones_like(ramp), "all rows"), (ramp, "rows of weights 1, 2, 3 …")):
        got, expected = weighed(weight), (weight @ single) / weight.sum()
        if not alike(got, expected):
            seen = f"the loss of {what} is {shown(float(got[0]))}, the mean of the rows' own losses {shown(float(expected[0]))}"
            broken(seen, "rows are weighted by their place or left out, or weights are not averaged with; " + cause)

    if case.draws and case.small:
        alike_rows: Batch = rows(case.batch, torch.zeros(case.count, dtype=torch.long), case.count)
        places = torch.eye(case.count, dtype=torch.float64)[[0, -1]]
        first, last = (Losses(case, case.weigh(alike_rows, place)) for place in places)
        if differ(MANY, first, last):
            seen = f"one row has a loss of {first} in the first place, {last} in the last (means over {MANY[-1]} generators)"
            broken(seen, "rows are weighted by their place")


def _what_is_masked_has_no_say(case: Case, cause: str) -> None:
    """Where chains of weight 0 hold another target, a loss that is a mean over rows stays as it is,
    generator by generator."""
    mask = torch.rand(case.chains, generator=generator(case.seed)) < 0.5
    mask.view(-1)[0], mask.view(-1)[-1] = False, True

    def other(leaf: Tensor) -> Tensor:
        if leaf.shape[: mask.ndim] != mask.shape:
            return leaf
        return torch.where(mask.reshape(*mask.shape, *(1,) * (leaf.ndim - mask.ndim)), leaf, leaf.roll(1, 0))

    masked = case.batch._replace(weight=mask.double())
    one, two = Losses(case, masked), Losses(case, masked._replace(target=mapped(other, masked.target)))
    if not equal(one, two):
        broken(
            f"other targets where the weight is 0 moved the loss from {one} to {two}",
            cause + ": weights are per chain (*chains,), and what has none may stand nowhere in the loss",
        )


WIDTHS = (0.03, 0.1, 0.3, 1.0)  # of hills around the data, in units of the data's spread


class _Hills(Energy):
    """Hills of four widths around the data's rows, each for its own context, whose heights are 0:
    what the loss makes of them shows."""

    def __init__(self, batch: Batch, chains: int, shift: float) -> None:
        super().__init__()
        self.shift, data = shift, batch.target.detach()
        self.event, flat = data.ndim - chains, data.reshape(math.prod(data.shape[:chains]), -1)
        spread = (flat - flat.mean(0)).square().sum(1).mean().clamp(min=1e-12)
        self.data, self.squares = flat, spread * torch.tensor(WIDTHS, dtype=flat.dtype).square()
        self.told = None if batch.context is None else _told(batch.context, len(data))
        if self.told is not None and chains > 1:
            raise ValueError("chains share contexts in ways of their own")
        self.heights = nn.Parameter(torch.zeros(len(WIDTHS), dtype=flat.dtype))

    def encode(self, context: Any = None, level: int = -1) -> Tensor | None:
        """Tells which of the data's rows (K,) have the contexts (B,): (B, K)."""
        if context is None or self.told is None:
            return None
        told = _told(context, len(leaves(context)[0]))
        return (told[:, None] == self.told).all(-1)

    def forward(self, y: Tensor, code: Tensor | None = None) -> Tensor:
        flat = y.flatten(y.ndim - self.event) if self.event else y.unsqueeze(-1)
        squared = (flat.unsqueeze(-2) - self.data).square().sum(-1)  # (*chains, rows)
        hills = (-squared.unsqueeze(-1) / (2 * self.squares)).exp()
        return (hills if code is None else hills * code.unsqueeze(-1)).mean(-2) @ self.heights + self.shift


def _told(context: Any, count: int) -> Tensor:
    return torch.cat([leaf.double().reshape(count, -1) for leaf in leaves(context) if len(leaf) == count], 1)


def the_energy_of_data_is_pushed_down(case: Case) -> None:
    """Raising the energy around the data raises the loss: low energy is what data have."""
    target = case.batch.target
    if not isinstance(target, Tensor) or not target.is_floating_point():
        return
    wrong = [found for shift in (0.0, 100.0) if (found := _pushed_up(case, shift)) is not None]
    if len(wrong) == 2:  # losses such as E² pull energies to 0, whence data are below where energies are positive alone
        width, by = wrong[0]
        broken(
            f"hills of width {width:g} (of the data's spread) on the data change the loss by {by} for each unit of their height",
            "a difference of energies that is turned round (it is that of the data, minus that of the samples), or energies of "
            "the data that are detached, so that the others' alone are followed",
        )


def _pushed_up(case: Case, shift: float) -> tuple[float, str] | None:
    """Finds the width of hills on the data by which the loss falls, where it rises by none."""
    slopes = []
    try:
        for seed in range(max(case.counts)):
            hills = _Hills(case.batch, len(case.chains), shift)
            value = case.loss(seed=seed, energy=SumEnergy([case.energy(), hills])).value
            (slope,) = torch.autograd.grad(value, hills.heights, allow_unused=True)
            slopes.append(torch.zeros_like(hills.heights) if slope is None else slope)
    except (ValueError, TypeError, AttributeError, RuntimeError, FloatingPointError):
        return None  # an objective of energies of a certain kind alone
    found = torch.stack(slopes)
    mean = found.mean(0)
    error = found.std(0) / math.sqrt(len(found)) if len(found) > 1 else 1e-9 * torch.ones_like(mean)
    if not bool((mean < -5 * error - 1e-9).any()) or bool((mean > 2 * error).any()):
        return None
    place = int((mean / (error + 1e-9)).argmin())
    return WIDTHS[place], shown(float(mean[place]))


LAWS = [
    the_loss_is_a_finite_scalar_with_detached_terms,
    draws_come_from_the_generator,
    the_loss_trains,
    the_energy_and_the_batch_are_left_alone,
    a_loss_leaves_no_trace,
    the_order_of_rows_does_not_matter,
    an_empty_mask_gives_a_finite_loss,
    weights_say_what_counts,
    the_energy_of_data_is_pushed_down,
]
