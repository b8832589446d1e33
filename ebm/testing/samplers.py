"""The laws of samplers."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebm.energies import GaussianMixture
from ebm.interfaces import Energy, EnergyFn, Sampler, check_steps
from ebm.samplers import HMC, MALA, NUTS, from_tensors, to_tensors, warm_up
from ebm.testing.laws import (
    broken,
    built,
    changed,
    close,
    draws_nothing_global,
    generator,
    in_double,
    obey,
    shown,
    snapshot,
    worst,
)

__all__ = ["check_sampler"]

CHAINS = 6
STILL_CAUSE = "step returns the y it was given, or a step size of zero; a rejected proposal may stay, not all of them"


class Exact(NamedTuple):
    """A distribution p ∝ exp(−E) with exact draws."""

    name: str
    energy: EnergyFn
    sample: Callable[..., Tensor]  # (n, generator=) -> (n, *event)


def check_sampler(factory: Callable[[], Sampler], *, energy: Any = None, stationary: bool | None = None, seed: int = 0) -> None:
    """Holds a sampler to its laws: draws come from the generator alone, the energy and the start
    stay as they are, runs leave no trace, n steps and then m are n + m, chains are independent,
    graphs reach as far as `unroll` says, and where it samples, the stationary distribution stays.

    Arguments:
        factory: makes the sampler anew, without arguments.
        energy: what it samples from, where that cannot be any smooth energy of vectors (a
            lattice's): an energy with exact draws `sample(n, generator=) -> (n, *event)`. None
            means mixtures of Gaussians as wide as the sampler's step allows.
        stationary: whether p ∝ exp(−E) has to stay (up to what vanishes with the step size, for a
            sampler without an acceptance test). None means what the sampler's attribute
            `stationary` says, and where that is None, too, if it draws.
        seed: what every random draw of the check is derived from.

    Raises:
        LawBroken: naming the law, a counterexample and the likely cause.

    >>> from ebm.samplers import LangevinDynamics
    >>> check_sampler(lambda: LangevinDynamics(step_size=0.1, steps=5))
    >>> class Careless(LangevinDynamics):
    ...     def step(self, energy, state, *, create_graph=False, generator=None):
    ...         return super().step(energy, state, create_graph=create_graph)
    >>> check_sampler(lambda: Careless(step_size=0.1, steps=5))
    Traceback (most recent call last):
    ...
    ebm.testing.laws.LawBroken: sampler: draws come from the generator
      law: ...
      counterexample: a run with generator= moved torch's global generator
      likely cause: it draws without the generator that it was given: ...
    """
    obey("sampler", LAWS, lambda: Case(factory, energy, stationary, seed), seed)


class Landscape(Energy):
    """E(y) = a · base(y), and beside it all that sampling must leave alone; it notes in which mode
    it was scored."""

    def __init__(self, base: EnergyFn) -> None:
        super().__init__()
        self.base = base
        self.height = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.register_buffer("memory", torch.zeros(3, dtype=torch.float64))
        self.inner = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
        self.inner[0].eval()  # modes are mixed on purpose
        self.modes: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)  # what a sampler needs beside values: an RBM's conditionals

    def forward(self, y: Tensor, code: Any = None) -> Tensor:
        self.modes.append(self.training)
        return self.height.to(y.dtype) * self.base(y)


class Case:
    """A sampler's factory, and where it runs."""

    def __init__(self, factory: Callable[[], Sampler], energy: Any, stationary: bool | None, seed: int) -> None:
        self.factory, self.seed, self.stationary = factory, seed, stationary
        self.sampler = self.fresh()
        self.given = energy
        if energy is None:
            self.y = torch.randn(CHAINS, 3, generator=generator(seed), dtype=torch.float64)
            self.base: EnergyFn = _valley
        else:
            if not callable(getattr(energy, "sample", None)):
                raise TypeError(f"energy is {type(energy).__name__}: pass one with exact draws, sample(n, generator=)")
            self.base = in_double(energy)
            self.y = self.exact(CHAINS, generator=generator(seed)).double()
        self.draws, self.noisy = False, False  # in train mode, and in eval mode; set by the first law

    def exact(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draws exactly from the energy that was passed."""
        return self.base.sample(n, generator=generator)  # type: ignore[attr-defined]

    def fresh(self, train: bool = True, seed: int = 0) -> Sampler:
        made = in_double(built(self.factory, Sampler, "a sampler", seed))
        return made.train(train)

    def landscape(self) -> Landscape:
        return Landscape(self.base)

    @property
    def count(self) -> int:
        """Steps of a run: the sampler's own, where that is not none or hundreds."""
        return min(check_steps(self.sampler.steps)[1], 20) or 5

    def run(self, sampler: Sampler | None = None, y: Any = None, seed: int = 0, energy: Any = None, **how: Any) -> Tensor:
        how.setdefault("steps", self.count)
        sampler = self.fresh() if sampler is None else sampler
        draws = generator(self.seed + seed)
        y = self.y.clone() if y is None else y
        return sampler.sample(self.landscape() if energy is None else energy, y, generator=draws, **how)

    @property
    def several(self) -> bool:
        """Tells whether it visits several landscapes, where steps are counted for each."""
        return len(self.sampler.route([self.base])) > 1


def _valley(y: Tensor) -> Tensor:
    """E(y) = |y|²/2 + Σ tanh(y U), smooth, without symmetry."""
    weights = torch.linspace(-1.0, 1.5, y.shape[-1] * 4, dtype=y.dtype, device=y.device).reshape(y.shape[-1], 4)
    return y.square().sum(-1) / 2 + (y @ weights).tanh().sum(-1)


# ------------------------------------------------------------------------------------------------------------------- laws


def steps_move_y_and_keep_its_form(case: Case) -> None:
    """A trajectory takes the steps it was asked for; y keeps shape and dtype, some chain moves,
    info has an energy per chain."""
    _, high = check_steps(case.sampler.steps)
    count = len(case.sampler.route([case.base]))
    asked = max(1, min(high, 3))
    path = [
        (state, state.y.clone())
        for state, _ in case.fresh().trajectory(case.landscape(), case.y.clone(), steps=asked, generator=generator(case.seed))
    ]
    if any(not torch.equal(state.y, kept) for state, kept in path):
        broken("a state that was yielded changes with later steps", "an in-place operation on state.y: make a new tensor")
    if len(path) != asked * count:
        broken(
            f"steps={asked} over {count} landscape(s) gave {len(path)} steps", "trajectory is overridden, or route lists others"
        )
    cause = "new tensors of a fixed shape or dtype: use torch.zeros_like(y), y.dtype, y.new_tensor, and keep every chain"
    for dtype in (torch.float32, torch.float64):
        y = case.y.to(dtype)
        energy, moving = case.landscape(), case.fresh()
        moving.to(dtype)
        if isinstance(case.base, nn.Module):
            energy = Landscape(copy.deepcopy(case.base).to(dtype))
        for state, info in moving.trajectory(energy, y, steps=asked, generator=generator(case.seed)):
            if state.y.shape != y.shape or state.y.dtype != dtype:
                broken(f"y {tuple(y.shape)} in {dtype} became {tuple(state.y.shape)} in {state.y.dtype}", cause)
            if info.energy.shape != y.shape[:1] or info.energy.dtype != dtype:
                seen = f"info.energy has shape {tuple(info.energy.shape)} in {info.energy.dtype} for {len(y)} chains in {dtype}"
                broken(seen, "Info(energy=…) takes the energies (*chains,) that the step was taken from")
            if info.accepted is not None and info.accepted.shape != info.energy.shape:
                broken(
                    f"info.accepted has shape {tuple(info.accepted.shape)}",
                    "it is a truth (or a probability) per chain (*chains,)",
                )
    end = case.y
    for _ in range(10):
        end = case.run(y=case.y, steps=max(asked, 5), seed=_)
        if not torch.equal(end, case.y):
            break
    else:
        broken("after ten runs no chain was anywhere but at its start", STILL_CAUSE)
    if not bool(torch.isfinite(end).all()):
        broken("a chain is not finite", "the step diverges on |y|²/2 + Σ tanh: a smaller step size in the factory")
    case.draws, case.noisy = (_draws(case, train, asked) for train in (True, False))


def _draws(case: Case, train: bool, steps: int) -> bool:
    used = generator(case.seed)
    case.fresh(train).sample(case.landscape(), case.y.clone(), steps=steps, generator=used)
    return not torch.equal(used.get_state(), generator(case.seed).get_state())


def draws_come_from_the_generator(case: Case) -> None:
    """With generator=, a run is a function of it and leaves the global generators alone; without,
    torch's is drawn from."""
    with draws_nothing_global("a run with generator="):
        first = case.run()
    again = case.run()
    if not torch.equal(first, again):
        place, a, b = worst(first, again)
        broken(
            f"two fresh samplers with generators of one seed end at {shown(a)} and {shown(b)} (entry {place})",
            "it draws from elsewhere than the generator, such as the clock, NumPy or a new generator without a seed",
        )
    torch.manual_seed(case.seed)
    one = case.fresh().sample(case.landscape(), case.y.clone(), steps=case.count)
    torch.manual_seed(case.seed)
    if not torch.equal(one, case.fresh().sample(case.landscape(), case.y.clone(), steps=case.count)):
        broken("without generator=, two runs after torch.manual_seed(0) differ", "generator=None means torch's global generator")
    if not case.draws:
        torch.manual_seed(case.seed + 1)
        ends = [case.run(seed=s) for s in (0, 1)] + [case.fresh().sample(case.landscape(), case.y.clone(), steps=case.count)]
        alike = case.y[:1].expand_as(case.y)
        spread = case.run(y=alike.clone())
        if not close(ends[0], ends[1]) or not close(ends[0], ends[2]) or not close(spread, spread[:1].expand_as(spread), 1e-5):
            broken(
                "chains that start alike end apart, but the generator is never drawn from",
                "noise of a generator of its own: every draw takes the generator that step is given",
            )
        return
    if all(torch.equal(first, case.run(seed=s)) for s in range(1, 6)):
        broken("six generators of different seeds gave one and the same end", "a generator of its own, seeded anew at each run")
    start = case.y[:1].expand(case.y.shape).clone()
    moves = torch.stack([(case.run(y=start, seed=s, steps=2) - start).flatten(1) for s in range(40)], 1)
    moves = (moves - moves.mean(1, keepdim=True)).flatten(1)
    if bool((moves.abs() > 1e-12 * start.abs().max()).any()):  # rounding is no move
        alike = torch.corrcoef(moves).fill_diagonal_(0.0).nan_to_num()
        if float(alike.abs().max()) > 0.8:
            i, j = divmod(int(alike.abs().argmax()), len(alike))
            broken(
                f"over 40 runs from one place, the moves of chains {i} and {j} correlate by {shown(float(alike[i, j]))}",
                "draws are shared by chains: draw of y's whole shape",
            )


def the_start_and_the_energy_are_left_alone(case: Case) -> None:
    """A run changes neither its start nor the energy's parameters, buffers, gradients and modes,
    and scores it in eval mode."""
    for unroll in ("none", "each", "last", "full") if case.sampler.differentiable else ("none",):
        energy, y = case.landscape(), case.y.clone()
        energy.height.grad = torch.ones_like(energy.height)  # the loop's, from a loss before
        held = snapshot(energy)
        case.run(y=y, energy=energy, unroll=unroll)
        if not torch.equal(y, case.y):
            broken("the start was changed in place", "an in-place operation (+=, add_, clamp_) on state.y: make a new tensor")
        if name := changed(energy, held):
            broken(
                f"after a run with unroll={unroll!r}, {name} has changed",
                "energy.backward() instead of ebm.energy_and_grad (which leaves .grad alone), an optimiser over the energy's "
                "parameters, train(), eval() or requires_grad_() without its undoing, or a write to parameters or buffers",
            )
        if True in energy.modes:
            broken(
                "the energy was scored in train mode", "trajectory is overridden, or step calls train(): sampling is in eval mode"
            )


def runs_leave_no_trace(case: Case) -> None:
    """What one run does has no influence on the next, on another that goes on beside it, or on one
    from other chains."""
    for train in (True, False):
        moving = case.fresh(train)
        held = {name: value.clone() for name, value in moving.state_dict().items() if isinstance(value, Tensor)}
        first = case.run(moving)
        cause = (
            "momentum, a step counter, a cached energy or gradient, or an adapted step size on self: whatever moves belongs in "
            "the State that init makes and step returns"
        )
        case.run(moving, y=torch.cat([case.y, case.y.flip(0)])[: CHAINS + 2], seed=3, steps=2)
        abandoned = moving.trajectory(case.landscape(), case.y.flip(0).clone(), generator=generator(case.seed + 5))
        next(abandoned, None)
        if not torch.is_grad_enabled():
            broken(
                "within the loop over a trajectory gradients are disabled",
                "a yield inside torch.no_grad(): leave the block first",
            )
        again = case.run(moving)
        if not torch.equal(first, again):
            place, a, b = worst(first, again)
            broken(f"the same run again ends at {shown(b)} instead of {shown(a)} (entry {place})", cause)
        one, two = (
            moving.trajectory(case.landscape(), y.clone(), steps=case.count, generator=generator(case.seed + seed))
            for y, seed in ((case.y, 0), (case.y.flip(0), 7))
        )
        end = case.y
        for (state, _), _other in zip(one, two, strict=False):
            end = state.y
        if not torch.equal(end, first):
            broken("beside another trajectory of the same sampler, a run ends elsewhere", cause)
        after = moving.state_dict()
        moved = [name for name, value in held.items() if not torch.equal(value.nan_to_num(), after[name].nan_to_num())]
        if moved:
            broken(f"a run changed the sampler's own {', '.join(moved)}", cause)


def n_steps_and_then_m_are_n_plus_m(case: Case) -> None:
    """A trajectory that goes on from its State is the one that never stopped."""
    if case.several:
        return
    draws = generator(case.seed)
    whole = [state.y for state, _ in case.fresh().trajectory(case.landscape(), case.y.clone(), steps=5, generator=draws)]
    moving, draws = case.fresh(), generator(case.seed)
    state, parts = None, []
    for count in (2, 1, 2):
        start = case.y.clone() if state is None else state
        for state, _ in moving.trajectory(case.landscape(), start, steps=count, generator=draws):
            parts.append(state.y)
    for number, (a, b) in enumerate(zip(whole, parts, strict=True), 1):
        if not torch.equal(a, b):
            place, x, y = worst(a, b)
            broken(
                f"after step {number} of 2 + 1 + 2, entry {place} is {shown(y)}, and {shown(x)} in one go",
                "the State that step returns lacks something that the next step needs (a counter, a velocity, a cache), or init "
                "or trajectory draws or does something at the beginning of each call",
            )


def chains_are_independent(case: Case) -> None:
    """Where a chain starts has no influence on others, and chain axes may be several."""
    cause = (
        "a norm, a mean or a decision over all chains: acceptance, clipping and step sizes are per chain "
        "(reduce the event's axes of a gradient alone, as in grad.flatten(1).norm(dim=1))"
    )
    if case.sampler.interacting:
        return
    for train, shape, seed in itertools.product((False, True), ((CHAINS,), (2, CHAINS // 2)), range(4)):
        ends, used = [], []
        far = [30 * case.y[0], 3 * case.y[0] + 1] if case.given is None else [case.y[1], case.y[2]]
        for first in (case.y[0], far[seed % 2]):
            y, draws = case.y.clone(), generator(case.seed + seed)
            y[0] = first
            y = y.reshape(*shape, *y.shape[1:])
            end = case.fresh(train).sample(case.landscape(), y, steps=case.count, generator=draws)
            if end.shape != y.shape:
                broken(f"y {tuple(y.shape)} with {len(shape)} chain axes became {tuple(end.shape)}", cause)
            ends.append(end.reshape(case.y.shape))
            used.append(draws.get_state())
        if torch.equal(used[0], used[1]) and not close(ends[0][1:], ends[1][1:], 1e-9):
            place, a, b = worst(ends[0][1:], ends[1][1:])
            broken(
                f"with chains {shape}, another start of the first moved the end of chain {place[0] + 1} from {shown(a)} to "
                f"{shown(b)}",
                cause,
            )
    if case.given is None:
        y = torch.randn(4, 2, 2, generator=generator(case.seed), dtype=torch.float64)
        end = case.run(y=y, energy=lambda y: _valley(y.flatten(-2)))
        if end.shape != y.shape:
            broken(
                f"four chains of 2 x 2 events became {tuple(end.shape)}",
                "per-chain values broadcast from the left: ebm.interfaces.left",
            )
    end = case.run(case.fresh(False), y=case.y.reshape(2, CHAINS // 2, *case.y.shape[1:]))
    if not case.noisy:
        flat = case.run(case.fresh(False))
        if not close(end.reshape(flat.shape), flat):
            broken("2 x 3 chains end elsewhere than the same 6 chains", cause)


def without_noise_the_energy_falls(case: Case) -> None:
    """A sampler that draws nothing descends: on a wide bowl a few steps lower the energy, on
    average over chains."""
    skipped = case.noisy or case.given is not None or case.several or case.sampler.interacting
    if skipped or not torch.equal(case.sampler.point(case.y), case.y):
        return

    def bowl(y: Tensor) -> Tensor:
        return 1e-6 * y.square().sum(-1) / 2

    moved = float((case.run(case.fresh(False), energy=bowl, steps=1) - case.y).abs().max())
    start = case.y * max(1.0, 100 * moved)
    end = case.run(case.fresh(False), y=start, energy=bowl, steps=5)
    if not float(bowl(end).mean()) <= float(bowl(start).mean()):
        broken(
            f"on E = 1e-6 |y|²/2, five steps took the mean energy from {shown(float(bowl(start).mean()))} to "
            f"{shown(float(bowl(end).mean()))}",
            "the sign of the gradient: y − ε ∇E(y) goes down",
        )


def info_tells_where_a_step_was_taken_from(case: Case) -> None:
    """info.energy is E(point(y)) of the y before the step (or near it, where noise comes first), on
    every landscape anew."""
    if case.several:
        return
    other = case.landscape()
    other.height.data.fill_(2.0)
    energies: list[EnergyFn] = [case.base, other]
    moving, before, exact = case.fresh(False), case.y, True
    try:
        walk = moving.trajectory(energies, case.y.clone(), steps=3, generator=generator(case.seed))
    except ValueError:  # it is for a certain number of landscapes
        energies = energies[:1]
        walk = moving.trajectory(energies, case.y.clone(), steps=3, generator=generator(case.seed))
    path = list(walk)
    if len(path) != 3 * len(energies):
        broken(
            f"3 steps on each of {len(energies)} landscapes gave {len(path)} steps",
            "trajectory is overridden: it goes through all landscapes",
        )
    for number, (state, info) in enumerate(path):
        energy = energies[number // 3]
        told, here, there = info.energy, energy(moving.point(before)), energy(moving.point(state.y))
        if number < 3:
            exact = exact and close(told, here)
        elif exact and number == 3 and not close(told, here) and close(told, energies[0](moving.point(before))):
            place, a, b = worst(told, here)
            seen = f"on a second landscape info.energy{list(place)} is {shown(a)}, E(point(y)) {shown(b)}"
            broken(seen, "what was cached on the old landscape is not dropped: write enter(energy, state)")
        if number >= 3 and not close(told, here):
            break  # entering a landscape may move y, as rescaling it to a noise level does
        alike = bool((told == told.flatten()[0]).all()) and not close(here, here.flatten()[0].expand_as(here))
        if not close(told, here) and (not case.noisy or alike or close(told, there)):
            place, a, b = worst(told, here)
            what = ", that after the step" if close(told, there) else ""
            broken(
                f"step {number + 1}: info.energy{list(place)} is {shown(a)}{what}, but E(point(y)) was {shown(b)}",
                "Info(energy=…) takes the energies (*chains,) that the step was taken from",
            )
        before = state.y


def states_lie_within_their_bounds(case: Case) -> None:
    """Where `point` projects into bounds, as a clamp does, states and samples lie inside: point(y)
    is y. Raw states, such as logits, have no bounds."""
    if case.given is not None or case.several:
        return
    moving, far = case.fresh(), 30 * case.y
    once = moving.point(far)
    if once.shape != far.shape or close(once, far) or not close(moving.point(once), once):
        return
    cause = "y is moved, and not projected after it: step returns self.project(y), init projects the start, and so does a jump"
    with torch.no_grad():
        path = moving.trajectory(case.landscape(), far, steps=case.count, generator=generator(case.seed))
        ends = [*(state.y for state, _ in path), case.run(y=far), case.run(y=far, steps=0)]
    for number, y in enumerate(ends, 1):
        if not close(moving.point(y), y):
            place, a, b = worst(moving.point(y), y)
            what = f"the state after step {number}" if number <= case.count else "what sample returns"
            broken(f"{what} has {shown(b)} at {list(place)}, where its bounds allow {shown(a)}", cause)


def what_is_not_finite_stops_or_is_rejected(case: Case) -> None:
    """A start of an energy that is not finite raises FloatingPointError; a proposal of one raises,
    or is rejected: a wall."""
    if case.given is not None or not torch.equal(case.sampler.point(case.y), case.y):
        return
    y = case.y.clone()
    y[1] = 50.0

    def wall(y: Tensor) -> Tensor:
        return torch.where(y[..., 0] > 20, math.nan, _valley(y))

    try:
        case.run(y=y, energy=wall, steps=2)
    except FloatingPointError:
        pass
    else:
        broken(
            "a chain that starts where the energy is NaN goes on",
            "nan_to_num, clamp or where repairs it: leave values as they are",
        )
    if getattr(case.sampler, "differentiable", True):
        return
    inside = case.y.clone()
    inside[:, 0] = -1e-3

    def edge(y: Tensor) -> Tensor:
        return torch.where(y[..., 0] > 0, math.nan, y.square().sum(-1) / 2)

    for seed in range(5):
        try:
            end = case.run(y=inside, energy=edge, seed=seed)
        except FloatingPointError as error:
            broken(
                f"a proposal where the energy is NaN stopped the run ({error})",
                "reject what is not finite: accepted & torch.isfinite(new)",
            )
        if bool((end[:, 0] > 0).any()):
            broken("a chain went where the energy is NaN", "NaN passed the acceptance test: accepted & torch.isfinite(new)")


def arguments_are_checked_at_the_call(case: Case) -> None:
    """trajectory(…) raises ValueError for arguments that cannot work when it is called, not when it
    is iterated over."""
    wrong: dict[str, dict[str, Any]] = {
        "steps=-1": {"steps": -1},
        "an integer y": {"y": case.y.long()},
        "unroll='all'": {"unroll": "all"},
    }
    for what, how in wrong.items():
        try:
            case.fresh().trajectory(case.landscape(), **{"y": case.y.clone(), **how})
        except (ValueError, TypeError):
            continue
        broken(
            f"{what} is accepted at the call",
            "trajectory is overridden by a generator function: checks come before the first yield",
        )


def graphs_reach_as_far_as_unroll_says(case: Case) -> None:
    """Values agree between unroll modes; an end's derivative by the energy's parameters equals
    finite differences."""
    if not case.sampler.differentiable:
        for unroll in ("each", "last", "full"):
            try:
                case.fresh().trajectory(case.landscape(), case.y.clone(), unroll=unroll)
            except ValueError:
                continue
            broken(
                f"unroll={unroll!r} is not refused", "trajectory is overridden: with differentiable = False the base refuses it"
            )
        return
    cause = (
        "step ignores create_graph (pass it on to ebm.energy_and_grad), detaches, or writes in place or under no_grad; "
        "a sampler that accepts or rejects sets differentiable = False"
    )
    for seed in range(20):
        path = case.fresh().trajectory(case.landscape(), case.y.clone(), steps=3, generator=generator(case.seed + seed))
        if any(info.accepted is not None and not bool(info.accepted.bool().all()) for _, info in path):
            broken(
                "it rejects steps, but says differentiable = True", "no gradient passes a decision: set differentiable = False"
            )
    expected = case.run()
    for unroll in ("each", "last", "full"):
        end = case.run(unroll=unroll)
        if not close(end, expected):
            place, a, b = worst(expected, end)
            broken(f"unroll={unroll!r} ends at {shown(b)} where 'none' ends at {shown(a)} (entry {place})", cause)
    for unroll in ("full",) if case.several else ("each", "last", "full"):
        slopes = [_slopes(case, unroll, seed) for seed in range(3)]  # over a kink once, not three times
        if not any(abs(a - b) <= 1e-3 * max(abs(a), abs(b)) + 1e-6 for a, b in slopes):
            a, b = slopes[0]
            broken(
                f"the end's derivative by the energy's height is {shown(a)} with unroll={unroll!r}, {shown(b)} in truth", cause
            )
    moving = case.fresh()
    learnable = {name: p for name, p in moving.named_parameters() if p.requires_grad}
    if learnable:
        end = case.run(moving, unroll="full")
        grads = torch.autograd.grad(end.square().sum(), list(learnable.values()), allow_unused=True)
        for name, grad in zip(learnable, grads, strict=True):
            if grad is None:
                broken(
                    f"the sampler's parameter {name} gets no gradient from the end", "it is detached (.item(), float(), .data)"
                )


def _slopes(case: Case, unroll: Any, seed: int) -> tuple[float, float]:
    """Differentiates an end by the energy's height: (by the graph, by finite differences of the
    steps that the graph covers)."""
    direction = torch.randn(case.y.shape, generator=generator(case.seed + seed), dtype=torch.float64)

    def end(shift: float, unroll: Any, covered: bool) -> tuple[Tensor, Tensor]:
        moving, draws, energy, plain = case.fresh(False), generator(case.seed + seed), case.landscape(), case.landscape()
        with torch.no_grad():
            energy.height.add_(shift)
        if not covered:
            y = moving.sample(energy, case.y.clone(), steps=3, unroll=unroll, generator=draws)
            return (y * direction).sum(), energy.height
        *_, (state, _) = moving.trajectory(plain, case.y.clone(), steps=2, generator=draws)
        return (moving.sample(energy, state, steps=1, generator=draws) * direction).sum(), energy.height

    total, height = end(0.0, unroll, covered=False)
    (grad,) = torch.autograd.grad(total, height, allow_unused=True) if total.requires_grad else (None,)
    ends = [float(end(shift, "none", covered=unroll != "full")[0]) for shift in (1e-5, -1e-5)]
    return 0.0 if grad is None else float(grad), (ends[0] - ends[1]) / 2e-5


def a_saved_sampler_samples_the_same(case: Case) -> None:
    """state_dict() of one sampler, also of one that `warm_up` tuned, loaded into a fresh one, gives
    the same run."""
    one, other = case.fresh(), case.fresh(seed=1)
    other.load_state_dict(one.state_dict())
    if not torch.equal(case.run(one), case.run(other)):
        broken(
            "a fresh sampler with the saved state ends elsewhere", "a number or tensor drawn at construction: pass it, or save it"
        )
    if case.given is not None or not isinstance(one, HMC | NUTS | MALA):
        return
    tuned, other = warm_up(one, case.landscape(), case.y, steps=20, generator=generator(case.seed)).sampler, case.fresh()
    other.load_state_dict(tuned.state_dict())
    if not torch.equal(case.run(tuned), case.run(other)):
        broken("a fresh sampler with a tuned one's saved state ends elsewhere", "state_dict() lacks the step size that was found")


def a_saved_state_goes_on_as_it_would_have(case: Case) -> None:
    """A State that is turned into named tensors and back (`ebm.samplers.to_tensors`) goes on bit
    for bit."""
    moving, draws = case.fresh(), generator(case.seed)
    *_, (state, _) = moving.trajectory(case.landscape(), case.y.clone(), steps=2, generator=draws)
    if case.several or not hasattr(state, "_fields"):
        return
    cause = "init makes another kind of State than step returns, or one field is a number here and a tensor there"
    try:
        saved = to_tensors(state, draws)
    except ValueError:  # it holds what is neither tensor nor number
        return
    on = generator(case.seed + 1)
    try:
        again = from_tensors(saved, case.fresh().init(case.landscape(), torch.zeros_like(case.y), generator=on), on)
    except ValueError as error:
        broken(f"the state after two steps cannot be restored into a fresh one: {error}", cause)
    ends = [
        m.sample(case.landscape(), s, steps=2, generator=g) for m, s, g in ((moving, state, draws), (case.fresh(), again, on))
    ]
    if not torch.equal(*ends):
        place, a, b = worst(*ends)
        broken(f"after two steps, saving and two more, entry {place} is {shown(b)}, and {shown(a)} without saving", cause)


def its_stationary_distribution_stays(case: Case) -> None:
    """Chains that start as exact draws of p ∝ exp(−E) are distributed like p after any number of
    steps."""
    claims = case.stationary if case.stationary is not None else getattr(case.sampler, "stationary", None)
    if not (case.noisy if claims is None else claims) or case.several:
        return
    for target in _targets(case):
        judged = _drift(case, target, 40 if case.given is not None else 0)
        if judged is not None:
            broken(f"on {target.name}: {judged}", STATIONARY)


STATIONARY = (
    "the noise's size (σ = √(2εT) for y − ε∇E + σξ) or the gradient's, a proposal's density that is missing from the acceptance "
    "test, a log ratio of the wrong sign, a cached energy that belongs to another y, or an update that is not reversible; "
    "an optimiser, or one that samples elsewhere on purpose, says stationary = False"
)
POOL = 20_000


def _targets(case: Case) -> Iterator[Exact]:
    if case.given is not None:
        yield Exact(f"{type(case.given).__name__}, from exact draws", case.base, case.exact)
        return
    for name, mean, spread in (("a Gaussian", 0.0, 1.0), ("a mixture of two Gaussians", 1.5, 0.7)):
        for scale in _scales(case, mean, spread):
            mixture = _mixture(mean, spread, scale)
            yield Exact(f"{name} of width {shown(scale)}", mixture, mixture.sample)


def _mixture(mean: float, spread: float, scale: float) -> GaussianMixture:
    means = torch.tensor([[mean, 0.5], [-mean, -0.5]] if mean else [[0.3, -0.2]], dtype=torch.float64) * scale
    shape = torch.tensor([[1.0, 0.3], [0.3, 0.8]], dtype=torch.float64) * (spread * scale) ** 2
    return GaussianMixture(means, shape.expand(len(means), 2, 2).clone()).double()


def _run(case: Case, target: Exact, start: Tensor, steps: int, seed: int) -> tuple[Tensor, float | None]:
    """Runs chains on a target: (their ends, the mean acceptance)."""
    temperature = getattr(case.sampler, "temperature", 1.0)
    heat = float(temperature) if isinstance(temperature, int | float) and temperature > 0 else 1.0
    rates, end = [], start
    moving = case.fresh(False)
    energy = target.energy if heat == 1 else lambda y: heat * target.energy(y)
    for state, info in moving.trajectory(energy, start, steps=steps, generator=generator(case.seed + seed)):
        end = state.y
        if info.accepted is not None:
            rates.append(float(info.accepted.double().mean()))
    return end, sum(rates) / len(rates) if rates else None


def _scales(case: Case, mean: float, spread: float) -> list[float]:
    """Chooses the target's widths: where acceptance is near 0.6 and 0.3, or without a test, where
    steps are small in the target.

    Without a test the law holds up to a discretisation error, which is (step / width)²: a tenth of
    the width moves it by 1 %. A test makes up for steps of any size; where it never rejects, steps
    half as wide as the target show what it is worth.
    """
    seen: list[tuple[float, float, float | None]] = []
    for power in sorted(range(-14, 15), key=abs):
        mixture = _mixture(mean, spread, 2.0**power)
        start = mixture.sample(256, generator=generator(case.seed))
        try:
            end, rate = _run(case, Exact("", mixture, mixture.sample), start, 2, 1)
        except FloatingPointError:
            continue
        ratio = float((end - start).square().mean() / start.var(0).mean()) / 2
        seen.append((2.0**power, max(ratio, 1e-12), rate))
    if not seen:
        return [1.0]
    if all(rate is None for _, _, rate in seen):
        return [min(seen, key=lambda row: abs(math.log(row[1] / 0.02)))[0]]
    judged = [row for row in seen if row[2] is not None and 0.02 < row[2] < 0.98]
    if not judged:
        return [min((abs(math.log(ratio / aim)), scale) for scale, ratio, _ in seen)[1] for aim in (0.02, 0.5)]
    return sorted({min((abs((rate or 0) - aim), scale) for scale, _, rate in judged)[1] for aim in (0.6, 0.3)})


def _drift(case: Case, target: Exact, steps: int) -> str | None:
    """Runs chains from exact draws, and says which statistic has moved; None where none has."""
    probe = target.sample(256, generator=generator(case.seed + 1)).double()
    _, rate = _run(case, target, probe, 2, 2)
    tested = rate is not None or not case.sampler.differentiable
    steps = steps or (30 if tested else 300)
    count = POOL if case.given is None and tested else POOL // 5
    start = target.sample(count, generator=generator(case.seed + 2)).double()
    pool = target.sample(POOL, generator=generator(case.seed + 3)).double()
    end, seen = start, None
    for attempt, more in enumerate((steps, 10 * steps)):
        try:
            end, _ = _run(case, target, end, more, 10 + attempt)
        except FloatingPointError as error:
            return f"chains that start as exact draws diverge ({error})"
        seen = _moved(target, start, end, pool, 0.02 if tested else 0.08)
        if seen is None or tested:
            return None if seen is None else f"after {more} steps from exact draws, {seen}"
    # Velocities may have to settle first: without a test, the law is judged once they have.
    return f"after {11 * steps} steps from exact draws, {seen}"


def _moved(target: Exact, start: Tensor, end: Tensor, pool: Tensor, tolerance: float) -> str | None:
    directions = torch.randn(4, start[0].numel(), generator=generator(0), dtype=torch.float64)
    scale = pool.flatten(1).std(0).clamp(min=1e-12)

    def statistics(y: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            energy = target.energy(y)
        along = ((y.flatten(1) - pool.flatten(1).mean(0)) / scale) @ directions.mT
        found = {f"the mean along direction {i}": along[:, i] for i in range(4)}
        found |= {f"the variance along direction {i}": along[:, i].square() for i in range(4)}
        return found | {"the mean energy": energy, "the energy's variance": (energy - energies[0]) ** 2}

    with torch.no_grad():
        pooled = target.energy(pool)
    energies = (pooled.mean(),)
    truth, before, after = statistics(pool), statistics(start), statistics(end)
    for name in truth:
        std = float(truth[name].std())
        if std < 1e-12:
            continue
        # The start's own deviation from the truth stays in chains that hardly move: what counts is
        # the change since.
        change = after[name] - before[name]
        error = max(float(change.std()) / math.sqrt(len(change)), 1e-12)
        shift = float(change.mean())
        if abs(shift) > 6 * error and abs(shift) > tolerance * std:
            return f"{name} has moved from {shown(float(before[name].mean()))} to {shown(float(after[name].mean()))}"
    return None


LAWS = [
    steps_move_y_and_keep_its_form,
    draws_come_from_the_generator,
    the_start_and_the_energy_are_left_alone,
    runs_leave_no_trace,
    n_steps_and_then_m_are_n_plus_m,
    chains_are_independent,
    without_noise_the_energy_falls,
    info_tells_where_a_step_was_taken_from,
    states_lie_within_their_bounds,
    what_is_not_finite_stops_or_is_rejected,
    arguments_are_checked_at_the_call,
    graphs_reach_as_far_as_unroll_says,
    a_saved_sampler_samples_the_same,
    a_saved_state_goes_on_as_it_would_have,
    its_stationary_distribution_stays,
]
