"""The laws of objectives."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ebm.interfaces import Batch, EnergyFn, Loss, Objective, bind
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
    obey,
    rows,
    same,
    shown,
    snapshot,
)

__all__ = ["check_objective"]

SEEDS = 60  # losses that are averaged where an objective draws noise
ROWS = 12  # rows of the batch that a law looks at


def check_objective(factory: Callable[[], Objective], energy: EnergyFn, batch: Batch, *, seed: int = 0) -> None:
    """Holds an objective to its laws: a finite scalar loss that trains the energy, draws from the generator alone, no trace in
    the energy or the batch, no dependence on the order of rows, and means that weights decide, an empty mask included.

    Arguments:
        factory: makes the objective anew, without arguments.
        energy: what it trains; best an energy with parameters. A copy in float64 is used.
        batch: rows of data; tensors of target, context and weight whose first axis is as long as the target's hold a row each.
        seed: what every random draw of the check is derived from.

    Raises:
        LawBroken: naming the law, a counterexample and the likely cause.

    >>> from ebm.energies import MLPEnergy
    >>> from ebm.objectives import DenoisingScoreMatching
    >>> check_objective(lambda: DenoisingScoreMatching(sigma=0.3), MLPEnergy(dim=2), Batch(torch.randn(12, 2)))
    """
    obey("objective", LAWS, lambda: Case(factory, energy, batch, seed), seed)


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
        self.draws = False  # set by the first law
        self.chains: tuple[int, ...] = ()
        self.fresh()

    def fresh(self) -> Objective:
        return in_double(built(self.factory, Objective, "an objective"))

    def energy(self, train: bool = False) -> Any:
        return copy.deepcopy(self.trained).train(train) if isinstance(self.trained, nn.Module) else self.trained

    def loss(self, batch: Batch | None = None, seed: int = 0, objective: Objective | None = None, energy: Any = None) -> Loss:
        objective = self.fresh() if objective is None else objective
        energy = self.energy() if energy is None else energy
        return objective(energy, self.batch if batch is None else batch, generator=generator(self.seed + seed))

    def values(self, batch: Batch) -> Tensor:
        """Computes the loss (seeds,) for many generators; for one, where none is drawn from."""
        return torch.stack([self.loss(batch, seed).value.detach() for seed in range(SEEDS if self.draws else 1)])

    def weighted(self, weight: Tensor, batch: Batch | None = None) -> Batch:
        """Gives rows weights (rows,), for all their chains."""
        batch = self.batch if batch is None else batch
        wide = weight.reshape(-1, *(1,) * (len(self.chains) - 1)).expand(self.chains).clone()
        return batch._replace(weight=wide if batch.weight is None else wide * (batch.weight if batch.weight.any() else 1))


def differ(one: Tensor, other: Tensor) -> bool:
    """Tells whether two means of losses differ by more than chance, and by more than a thousandth."""
    gap, scale = abs(float(one.mean() - other.mean())), max(float(one.abs().mean()), float(other.abs().mean()), 1e-12)
    if len(one) == 1:
        return not gap <= 1e-8 * scale + 1e-12
    error = math.sqrt(float(one.var() + other.var()) / len(one))
    return not gap <= max(6 * error, 1e-3 * scale)


# ------------------------------------------------------------------------------------------------------------------- laws


def the_loss_is_a_finite_scalar_with_detached_terms(case: Case) -> None:
    """forward returns Loss(value, terms): a scalar tensor to differentiate, and scalars without a graph."""
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
    """With generator=, the loss is a function of it and of the batch, and the global generators stay as they are."""
    with draws_nothing_global("a loss with generator="):
        first = case.loss().value.detach()
    again = case.loss().value.detach()
    if not torch.equal(first, again):
        broken(
            f"two fresh objectives with generators of one seed give {shown(float(first))} and {shown(float(again))}",
            "it draws from elsewhere than the generator, such as NumPy, or a new generator without a seed",
        )
    used = generator(case.seed)
    case.fresh()(case.energy(), case.batch, generator=used)
    if not case.draws and torch.equal(used.get_state(), generator(case.seed).get_state()):
        torch.manual_seed(case.seed)
        one = case.fresh()(case.energy(), case.batch).value.detach()
        torch.manual_seed(case.seed + 1)
        other = case.fresh()(case.energy(), case.batch).value.detach()
        if not torch.equal(one, other):
            broken(
                "without generator= it draws noise, with generator= always the same", "a generator of its own: use the one given"
            )


def the_loss_trains(case: Case) -> None:
    """The loss has a gradient with respect to the energy's parameters, and to every parameter of the objective."""
    objective, energy = case.fresh(), case.energy(train=True)
    value = case.loss(objective=objective, energy=energy).value
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
    if unused := [name for name in own if found[name] is None]:
        broken(
            f"{', '.join(unused)}: no gradient from the loss",
            "a parameter that forward never uses; or a learnable step size where the trajectory keeps no graph (unroll='none')",
        )


def _parameters(module: Any) -> dict[str, nn.Parameter]:
    if not isinstance(module, nn.Module):
        return {}
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def the_energy_and_the_batch_are_left_alone(case: Case) -> None:
    """A loss changes no parameter, gradient or mode of the energy (in eval mode no buffer), and nothing in the batch."""
    for train in (True, False):
        energy, batch = case.energy(train), cloned(case.batch)
        held = snapshot(energy, buffers=not train)
        case.loss(batch, energy=energy)
        if name := changed(energy, held, buffers=not train):
            broken(
                f"{name} has changed",
                "backward() or an optimiser's step inside forward (that is for the loop), or a train() or eval() that stays "
                "(samplers hold the energy in eval mode by themselves)",
            )
        if not same(batch, case.batch):
            broken("the batch was changed in place", "an in-place operation (+=, add_, clamp_) on target, context or weight")


def a_loss_leaves_no_trace(case: Case) -> None:
    """The same batch and generator give the same loss again, unless the objective's saved state says why (a replay buffer)."""
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


def _saved(module: nn.Module) -> list[Tensor]:
    return [leaf.clone() for leaf in leaves(dict(module.state_dict()))]


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def the_order_of_rows_does_not_matter(case: Case) -> None:
    """Permuting the rows of a batch permutes nothing in the loss (on average over noise, where it draws)."""
    cause = (
        "rows are told apart by their place: an index like values[0] or [: n // 2], a roll or difference between neighbours, a "
        "cumulative sum, weights by position, a context that does not move with its target"
    )
    one, other = _two_kinds(case)
    half = case.count // 2
    grouped = torch.tensor([one] * half + [other] * half)
    orders = [(grouped, grouped.flip(0)), (grouped, grouped.reshape(2, half).T.reshape(-1)), (torch.arange(case.count), None)]
    if not case.draws:
        orders += [(torch.arange(case.count), torch.randperm(case.count, generator=generator(case.seed + s))) for s in range(3)]
    for first, second in orders:
        second = first.flip(0) if second is None else second
        a, b = (case.values(rows(case.batch, index, case.count)) for index in (first, second))
        if differ(a, b):
            broken(
                f"rows {first.tolist()} of the batch give {shown(float(a.mean()))}, rows {second.tolist()} "
                f"{shown(float(b.mean()))}" + f" (means over {len(a)} generators)" * (len(a) > 1),
                cause,
            )


def _two_kinds(case: Case) -> tuple[int, int]:
    """Chooses two rows that differ much: with few kinds of rows an order shows."""
    flat = torch.cat([leaf.double().reshape(case.count, -1) for leaf in leaves(case.batch[:2]) if len(leaf) == case.count], 1)
    gaps = torch.cdist(flat, flat)
    place = int(gaps.argmax())
    return place // case.count, place % case.count


def an_empty_mask_gives_a_finite_loss(case: Case) -> None:
    """Where all weights are 0 there is nothing to learn: the loss and its gradients are finite, not 0/0."""
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
    """Means are sum(w d) / sum(w): rows of weight 0 have no say, and only the weights' ratios matter."""
    one, other = _two_kinds(case)
    half = case.count // 2
    mask = (torch.arange(2 * half) < half).double()
    mixed: Batch = rows(case.batch, torch.tensor([one] * half + [other] * half), case.count)
    same_kind = [rows(case.batch, torch.tensor([kind] * (2 * half)), case.count) for kind in (one, other)]
    count, case.chains = case.chains, (2 * half, *case.chains[1:])
    try:
        whole, first, second = (case.values(batch) for batch in (mixed, *same_kind))
        if not differ(first, second):
            return  # nothing to tell rows by
        masked, opposite = (case.values(case.weighted(weight, mixed)) for weight in (mask, 1 - mask))
        cause = "the loss averages by itself: batch.mean(values) takes one value per chain and the batch's weights"
        if all(torch.allclose(part, whole, rtol=1e-9, atol=1e-12) for part in (masked, opposite)):
            broken(
                f"weight 0 on one half of the rows, or on the other, leaves the loss at {shown(float(whole.mean()))}, though the "
                f"halves alone have {shown(float(first.mean()))} and {shown(float(second.mean()))}",
                cause,
            )
        if differ(whole, (first + second) / 2):
            return  # rows are weighed against each other: what a masked row is good for is the objective's to say
        for weight, alone, what in ((mask, first, "second"), (1 - mask, second, "first")):
            got = case.values(case.weighted(weight, mixed))
            if differ(got, alone):
                broken(
                    f"with weight 0 on the {what} half of the rows the loss is {shown(float(got.mean()))}; the other half alone "
                    f"has {shown(float(alone.mean()))}",
                    cause + " (rows of weight 0 still count somewhere, or the weights' sum is not divided by)",
                )
    finally:
        case.chains = count


LAWS = [
    the_loss_is_a_finite_scalar_with_detached_terms,
    draws_come_from_the_generator,
    the_loss_trains,
    the_energy_and_the_batch_are_left_alone,
    a_loss_leaves_no_trace,
    the_order_of_rows_does_not_matter,
    an_empty_mask_gives_a_finite_loss,
    weights_say_what_counts,
]
