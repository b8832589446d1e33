"""The laws of energies."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ebm.interfaces import Energy, EnergyFn, bind, energy_and_grad, evaluate, interface_of, landscapes, levels_of
from ebm.randomness import random_states
from ebm.testing.laws import (
    batch_norms,
    broken,
    built,
    calm_dropout,
    changed,
    cloned,
    close,
    copied,
    double,
    floating,
    generator,
    in_double,
    leaves,
    mapped,
    obey,
    rows,
    same,
    shown,
    snapshot,
    touched,
    worst,
)

__all__ = ["check_energy"]

ROWS = 6  # chains along the first axis that a law looks at
TRIES = 3  # independent directions; finite differences may step over a kink of a ReLU once, not three times


def check_energy(
    factory: Callable[[], EnergyFn], y: Tensor, context: Any = None, *, causal: bool | None = None, seed: int = 0
) -> None:
    """Holds an energy to its laws: one energy per chain, independent chains, exact first and second
    derivatives, gradients for all parameters, a context that is bound once and shared by
    candidates, causality, dtypes, and saving.

    Arguments:
        factory: makes the energy anew, without arguments: an `Energy`, or any function of y.
        y: configurations (*chains, *event) where the energy is defined; their first axis is one of
            chains, better six than one.
        context: what `given` and `encode` take; tensors whose first axis is as long as y's hold a
            row per row of y.
        causal: whether energies (rows, positions) may not depend on the context of later positions.
            None means yes where the context has as many positions: E[:, i] may look at context[:,
            :i + 1], and its answer is context[:, i + 1].
        seed: what every random draw of the check is derived from.

    Raises:
        LawBroken: naming the law, a counterexample and the likely cause.

    Warns:
        UserWarning: a parameter moves all energies alike, so that nothing that follows slopes can
        train it.

    >>> from ebm.energies import MLPEnergy
    >>> check_energy(lambda: MLPEnergy(dim=2), torch.randn(6, 2))
    >>> check_energy(lambda: lambda y: (y - y.mean(0)).square().sum(-1), torch.randn(6, 2))
    Traceback (most recent call last):
    ...
    ebm.testing.laws.LawBroken: energy: chains are independent
      law: ...
      counterexample: in eval mode, other rows of y moved the energy of row 0 from ... to ...
      likely cause: a mean, a norm, a softmax or attention over the batch: reduce the event's axes alone, as in .sum(-1)
    """
    obey("energy", LAWS, lambda: Case(factory, y, context, causal, seed), seed)


class Case:
    """An energy, what it scores in float64, and how to make it anew."""

    def __init__(self, factory: Callable[[], EnergyFn], y: Tensor, context: Any, causal: bool | None, seed: int) -> None:
        if not isinstance(y, Tensor) or not y.is_floating_point() or not y.ndim or not len(y):
            raise TypeError(f"y is {type(y).__name__}: pass a floating tensor (*chains, *event) with at least one row")
        self.factory, self.causal, self.seed, self.generator = factory, causal, seed, generator(seed)
        self.raw_y, self.raw_context = y.detach(), context
        self.original = copied(built(factory, None, "an energy"))
        if not callable(self.original):
            broken(f"the factory returned {self.original!r}", "return an Energy, or a function of y")
        if context is not None and not isinstance(interface_of(self.original), Energy):
            seen = "a context was passed, but the energy takes y alone"
            broken(seen, "subclass ebm.Energy, whose given() binds a context, or take it as a second argument")
        many = torch.arange(ROWS) % len(y)
        self.y, self.context = double(rows(y, many, len(y))), double(rows(context, many, len(y)))
        if len(y) < ROWS:  # rows that repeat others are stirred
            self.y = self.y + 0.05 * self.y.std(correction=0).clamp(min=0.1) * self.noise(self.y)
        self.energy: Any = None  # in float64 and eval mode, once the first laws hold

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=torch.float64)

    def bound(self, energy: Any, context: Any = None, level: int = -1) -> EnergyFn:
        context = self.context if context is None else context
        return bind(energy, context, level)

    def value(self, energy: Any, y: Tensor, context: Any = None) -> Tensor:
        """Scores by a copy: a spectral norm's buffers move at every forward in train mode."""
        with torch.no_grad():
            return evaluate(self.bound(copied(energy), context), y)

    def levels(self) -> Iterator[EnergyFn]:
        return (self.bound(self.energy, level=level) for level in range(levels_of(self.energy)))

    def ends(self) -> list[EnergyFn]:
        """Binds the first landscape and the last: enough for derivatives by parameters, each of
        which takes four passes."""
        bound = list(self.levels())
        return bound[:1] + bound[1:][-1:]

    def parameters(self) -> dict[str, nn.Parameter]:
        held = self.energy.named_parameters() if isinstance(self.energy, nn.Module) else ()
        return {name: parameter for name, parameter in held if parameter.requires_grad}


# ------------------------------------------------------------------------------------------------------------------- laws


def there_is_one_energy_per_chain(case: Case) -> None:
    """The output's shape is a prefix of y's shape (*chains, *event): (*chains,)."""
    y, context = case.raw_y, floating(case.raw_context, case.raw_y.dtype)
    cause = (
        "reduce the event's axes alone: .sum(-1) for vectors, .flatten(1).sum(-1) for images, .squeeze(-1) after a Linear to 1"
    )
    many = torch.arange(max(5, len(y)) + 1) % len(y)
    for index in (torch.arange(len(y)), many, torch.arange(1)):
        part, known, energy = rows(y, index, len(y)), rows(context, index, len(y)), copied(case.original)
        if isinstance(energy, nn.Module):
            energy.to(y.dtype).eval()
        function = bind(energy, known)
        try:
            with torch.no_grad():
                value = evaluate(function, part)
        except ValueError as error:
            broken(str(error), cause)
        except RuntimeError as error:
            if "type" not in str(error):
                raise
            return  # the next law's
        if not value.ndim:
            broken(f"y of shape {tuple(part.shape)} gets one number", cause)


def dtype_follows_the_input(case: Case) -> None:
    """float32 y and parameters give float32 energies, float64 ones float64, and the same up to
    rounding."""
    cause = (
        "a tensor on the energy that is no parameter and no buffer, which .double() and .to(device) do not move "
        "(register_buffer), or a dtype written down, as in .float() or dtype=torch.float32 (use y.dtype, y.new_zeros)"
    )
    found = {}
    for dtype in (torch.float32, torch.float64):
        energy = copied(case.original)
        energy = energy.to(dtype).eval() if isinstance(energy, nn.Module) else energy
        context = floating(case.context, dtype)
        try:
            with torch.no_grad():
                found[dtype] = evaluate(case.bound(energy, context), case.y.to(dtype))
        except Exception as error:
            seen = f"with everything in {dtype}: {type(error).__name__}: {error}"
            broken(seen, cause)
        if found[dtype].dtype != dtype:
            broken(f"y in {dtype} gets energies in {found[dtype].dtype}", cause)
    single, exact = found[torch.float32].double(), found[torch.float64]
    if bool(torch.isfinite(single).all() & torch.isfinite(exact).all()) and not close(single, exact, 1e-2):
        place, a, b = worst(single, exact)
        broken(f"energy {place} is {shown(a)} in float32 and {shown(b)} in float64", cause)
    case.energy = in_double(case.original)
    if isinstance(case.energy, nn.Module):
        case.energy.eval()


def energies_are_finite(case: Case) -> None:
    """Where y is an ordinary configuration, no energy is infinite or not a number."""
    for level, function in enumerate(case.levels()):
        value = evaluate(function, case.y)
        if not bool(torch.isfinite(value).all()):
            broken(
                f"landscape {level} gives {value[~torch.isfinite(value)][0].item()}",
                "a logarithm or a root of what can be 0, a division, an overflow of exp (logsumexp, softplus), or weights that "
                "were never initialised (torch.empty)",
            )


def scoring_is_a_function_that_changes_nothing(case: Case) -> None:
    """In eval mode the same y gets the same energy; y, the context, parameters and buffers stay,
    and nothing is drawn."""
    y, context, held = case.y.clone(), cloned(case.context), snapshot(case.energy)
    torch.rand(1)  # so that seeding the generator anew shows
    states = random_states()
    first = case.bound(case.energy, context)(y).detach().clone()
    with torch.no_grad():
        plain = case.bound(case.energy, context)(y).clone()
    second = case.bound(case.energy, context)(y).detach().clone()
    if not close(first, second):
        place, a, b = worst(first, second)
        drawn = touched(states, random_states())
        broken(
            f"energy {place} is {shown(a)} at first and {shown(b)} at the second call"
            + (", and numbers were drawn" * bool(drawn)),
            "noise in forward (dropout by F.dropout without training=self.training?), or a counter or cache on the energy that "
            "forward writes to",
        )
    if not close(plain, first):
        place, a, b = worst(first, plain)
        broken(f"energy {place} is {shown(a)}, and under no_grad {shown(b)}", "forward asks whether gradients are enabled")
    wide = 10 * y
    kept = wide.clone()
    with torch.no_grad():
        case.bound(case.energy, context)(wide)
    if not torch.equal(wide, kept):
        broken("y was changed in place", "an in-place operation (+=, .clamp_(), out=) on y: make a new tensor")
    if used := touched(states, random_states()):
        broken(
            f"scoring moved {' and '.join(used)} global generator",
            "forward or encode draws numbers: an energy is a function of y",
        )
    if not torch.equal(y, case.y):
        broken("y was changed in place", "an in-place operation (+=, .clamp_(), out=) on y: make a new tensor")
    if not same(context, case.context):
        broken("the context was changed in place", "an in-place operation on the context: make a new tensor")
    if name := changed(case.energy, held):
        broken(
            f"{name} changed in eval mode", "forward writes to the energy: samplers score it any number of times, in any order"
        )


def chains_are_independent(case: Case) -> None:
    """A chain's energy depends on that chain's y and context alone, in eval mode and in train mode."""
    for mode in ("eval", "train"):
        energy = copied(case.energy)
        if isinstance(energy, nn.Module):
            energy.train(mode == "train")
            calm_dropout(energy)
        torch.manual_seed(case.seed)
        value = case.value(energy, case.y)
        whole = copied(case.energy)
        if isinstance(whole, nn.Module):
            held = snapshot(whole.train(mode == "train"), buffers=False)
            case.bound(whole)(case.y)
            if name := changed(whole, held, buffers=False):
                broken(f"in {mode} mode, scoring changed {name}", "train() or eval() in forward: samplers and the loop set modes")
        torch.manual_seed(case.seed + 1)
        if mode == "train" and not close(value, case.value(energy, case.y)):
            continue  # noise of its own in train mode
        cause = "a mean, a norm, a softmax or attention over the batch: reduce the event's axes alone, as in .sum(-1)"
        if mode == "train" and (norms := batch_norms(energy)):
            cause = (
                f"batch norm in train mode ({', '.join(norms[:3])}) takes its statistics over the batch, so that chains pull at "
                f"each other's energies: use GroupNorm or LayerNorm, or keep it in eval mode"
            )
        for other, others, what in _disturbed(case, value):
            got = case.value(energy, *other)
            if got.shape != value.shape:
                broken(
                    f"in {mode} mode, energies have shape {tuple(got.shape)} after {what}, and {tuple(value.shape)} before", cause
                )
            kept = torch.where(others, got, value)
            if not close(kept, value):
                place, a, b = worst(value, kept)
                where = ", ".join(map(str, place))
                broken(f"in {mode} mode, {what} moved the energy of row {where} from {shown(a)} to {shown(b)}", cause)
        order = torch.randperm(ROWS, generator=case.generator)
        got = case.value(energy, case.y[order], rows(case.context, order, ROWS))
        if not close(got, value[order]):
            place, a, b = worst(value[order], got)
            broken(f"in {mode} mode, in another order of rows an energy is {shown(b)} instead of {shown(a)}", cause)
        alone = torch.cat([case.value(energy, case.y[[i]], rows(case.context, torch.tensor([i]), ROWS)) for i in range(ROWS)])
        if not close(alone, value):
            place, a, b = worst(value, alone)
            broken(f"in {mode} mode, scored alone, row {place[0]} has energy {shown(b)} instead of {shown(a)}", cause)


def _disturbed(case: Case, value: Tensor) -> Iterator[tuple[tuple[Tensor, Any], Tensor, str]]:
    """Disturbs some chains: ((y, context), which energies must stay, what was done)."""
    keep = torch.zeros(ROWS, dtype=torch.bool)
    keep[0] = True
    column = keep.reshape(-1, *(1,) * (value.ndim - 1)).expand(value.shape)
    rolled = torch.where(keep.reshape(-1, *(1,) * (case.y.ndim - 1)), case.y, _other(case, case.y))
    yield (rolled, case.context), column, "other rows of y"
    if case.context is not None and value.ndim:
        order = torch.tensor([0, *(1 + (torch.arange(ROWS - 1) + 1) % (ROWS - 1)).tolist()])
        yield (case.y, rows(case.context, order, ROWS)), column, "other rows of the context"
    for axis in range(1, value.ndim):
        last = value.shape[axis] - 1
        if last < 1:
            continue
        for place in (0, last):
            stays = torch.arange(value.shape[axis]) != place
            shape = [1] * value.ndim
            shape[axis] = -1
            stays = stays.reshape(shape).expand(value.shape)
            y = torch.where(stays.reshape(*value.shape, *(1,) * (case.y.ndim - value.ndim)), case.y, _other(case, case.y))
            yield (y, case.context), stays, f"y at position {place} of chain axis {axis}"


def _other(case: Case, y: Tensor) -> Tensor:
    """Rows for rows: each one's neighbour, or where all rows are alike, stirred ones."""
    rolled = y.roll(1, 0)
    return rolled if not close(rolled, y) else y + 0.1 * case.noise(y)


def candidates_share_a_context(case: Case) -> None:
    """y may have more leading axes than its context: E of stacked candidates is the stack of their
    energies."""
    function = case.bound(case.energy)
    parts = [case.y, _other(case, case.y), case.y.flip(0)]
    cause = (
        "forward counts y's axes from the left, or takes the batch's size from the context: flatten leading axes "
        "(y.reshape(-1, *event)), count from the right (.sum(-1), .flatten(-3)), and let the code broadcast"
    )
    try:
        got = evaluate(function, torch.stack(parts))
    except Exception as error:
        seen = f"y {tuple(case.y.shape)} is scored, three of them stacked are not: {type(error).__name__}: {error}"
        broken(seen, cause)
    expected = torch.stack([function(part) for part in parts])
    if got.shape != expected.shape:
        broken(f"three stacked candidates get energies {tuple(got.shape)}, not {tuple(expected.shape)}", cause)
    if not close(got, expected):
        place, a, b = worst(expected, got)
        broken(f"candidate {place[0]} has energy {shown(b)} in a stack, {shown(a)} alone", cause)


def it_can_be_differentiated(case: Case) -> None:
    """∇E(y) equals finite differences."""
    for level, function in enumerate(case.levels()):
        try:
            _, grad = energy_and_grad(function, case.y)
        except ValueError as error:
            broken(str(error), CUT)
        misses, total, example = 0, 0, ""
        for _ in range(TRIES):
            v = case.noise(case.y)
            h = _small(case.y)
            numeric = (function(case.y + h * v).detach() - function(case.y - h * v).detach()) / (2 * h)
            exact = _per_chain(grad * v, numeric)
            off = _off(exact, numeric, 1e-3, 1e-9 / h * (1 + function(case.y).detach().abs()) * 1e-5)
            misses, total = misses + int(off.sum()), total + off.numel()
            if bool(off.any()):
                place = tuple(torch.nonzero(off)[0].tolist())
                slope, seen = shown(float(exact[place])), shown(float(numeric[place]))
                example = (
                    f"landscape {level}, chain {place}: autograd's slope along a random direction is {slope}, the energy's {seen}"
                )
        if misses > 0.1 * total:
            broken(example, f"{CUT}; or a backward of your own (autograd.Function, register_hook) is wrong")


CUT = (
    "a detach(), .data, no_grad(), NumPy round trip, rounding or argmax in forward or encode cuts the graph from y to the energy"
)
TWICE = (
    "the gradient's graph is cut: a fused attention kernel (use the math backend, as in torch.nn.attention.sdpa_kernel), "
    "once_differentiable, a backward or hook that detaches or works on .data, or a detach of one factor; "
    "reconstruction and score matching train through this derivative"
)


def its_gradient_can_be_differentiated(case: Case) -> None:
    """Second derivatives of E, by y twice and by y and each parameter, equal finite differences of
    the gradient."""
    for level, function in enumerate(case.levels()):
        y = case.y.clone().requires_grad_()
        v, u, h = case.noise(y), case.noise(y), 1e-5
        try:
            _, grad = energy_and_grad(function, y, create_graph=True)
            slope = (grad * v).sum()
            if slope.requires_grad:
                (curved,) = torch.autograd.grad(slope, y, retain_graph=True, allow_unused=True)
            else:
                curved = None
        except RuntimeError as error:
            broken(f"landscape {level}: {type(error).__name__}: {error}", TWICE)
        ends = [energy_and_grad(function, (case.y + sign * h * u))[1] for sign in (1, -1)]
        like = evaluate(function, case.y)
        numeric = _per_chain((ends[0] - ends[1]) * v, like) / (2 * h)
        exact = torch.zeros_like(numeric) if curved is None else _per_chain(curved.detach() * u, like)
        off = _off(exact, numeric, 1e-3, 1e-6 * (1 + grad.detach().abs().max()))
        if float(off.double().mean()) > 0.25:
            place = tuple(torch.nonzero(off)[0].tolist())
            seen = f"autograd says {shown(float(exact[place]))}, finite differences {shown(float(numeric[place]))}"
            broken(f"landscape {level}, chain {place}: of the gradient's derivative by y, {seen}", TWICE)
    for name, parameter in case.parameters().items():
        _parameter_derivative(case, name, parameter, of_slope=False)
        _parameter_derivative(case, name, parameter, of_slope=True)


def _parameter_derivative(case: Case, name: str, parameter: nn.Parameter, of_slope: bool) -> None:
    """Compares d(Σ r E)/dθ, or d(v·∇E)/dθ, with finite differences, along a direction."""
    seen = ""
    for attempt in range(TRIES):
        y, v = case.y.clone().requires_grad_(), case.noise(case.y)
        u = torch.randn(parameter.shape, generator=case.generator, dtype=torch.float64)
        if parameter.ndim > 1 and parameter.shape[-1] == parameter.shape[-2] and torch.equal(parameter, parameter.mT):
            u = u + u.mT  # a covariance matrix stays symmetric
        h = 10.0 ** -(5 + attempt / 2)

        def total(y: Tensor = y, v: Tensor = v, graph: bool = False) -> Tensor:
            found = y.new_zeros(())
            for function in case.ends():
                if of_slope:
                    found = found + (energy_and_grad(function, y, create_graph=graph)[1] * v).sum()
                else:
                    value = evaluate(function, y)
                    found = found + (value * v.reshape(*value.shape, -1)[..., 0]).sum()
            return found

        whole = total(graph=True)
        (exact,) = torch.autograd.grad(whole, parameter, allow_unused=True) if whole.requires_grad else (None,)
        ends = []
        kept = parameter.detach().clone()
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * h * u)
            try:
                ends.append(float(total().detach()))
            finally:
                with torch.no_grad():
                    parameter.copy_(kept)
        numeric = (ends[0] - ends[1]) / (2 * h)
        got = 0.0 if exact is None else float((exact * u).sum())
        if abs(got - numeric) <= 1e-3 * max(abs(got), abs(numeric)) + 1e-5 * (1 + 1e-3 * abs(ends[0])):
            return
        seen = f"autograd says {shown(got)}, finite differences {shown(numeric)}"
    what, cause = ("the gradient's derivative", TWICE) if of_slope else ("the energy's derivative", PARAMETER)
    broken(f"of {what} by parameter {name}, {seen}", cause)


PARAMETER = "the parameter is detached on its way (.data, .detach(), no_grad(), float()), or a backward of your own is wrong"


def every_parameter_receives_a_gradient(case: Case) -> None:
    """No parameter is without effect on the energies: it would never train, and distributed
    training refuses it."""
    missing, still = dict(case.parameters()), set(case.parameters())
    for attempt in range(4):
        energy = copied(case.energy)
        parameters = {name: p for name, p in energy.named_parameters() if p.requires_grad} if missing else {}
        with torch.no_grad():  # what starts at zero hides others: later attempts stir all parameters
            for parameter in parameters.values():
                noise = torch.randn(parameter.shape, generator=case.generator, dtype=parameter.dtype)
                parameter.add_(attempt * 0.05 * noise if parameter.ndim < 2 else attempt * 0.05 * (noise + noise.roll(1, 0)))
        if not parameters:
            break
        try:
            for level in range(levels_of(energy)):
                y = case.y.clone().requires_grad_()
                value, slope = energy_and_grad(case.bound(energy, level=level), y, create_graph=True)
                weights = case.noise(value)
                for total, names in (((value * weights).sum(), missing), ((slope * case.noise(slope)).sum(), still)):
                    if not total.requires_grad:
                        continue
                    grads = torch.autograd.grad(total, list(parameters.values()), retain_graph=True, allow_unused=True)
                    for name, grad in zip(parameters, grads, strict=True):
                        # A sum that cancels to rounding is no gradient.
                        if grad is not None and bool(torch.isfinite(grad).all()) and float(grad.abs().max()) > 1e-14:
                            names.pop(name, None) if isinstance(names, dict) else names.discard(name)
        except (RuntimeError, ValueError, ArithmeticError):
            continue  # stirred parameters may be none that the energy allows (a covariance that is no longer one)
    if missing:
        broken(
            f"{', '.join(missing)}: no gradient from any energy",
            "a parameter that forward never uses, or uses detached; one of the context, where the check was given none; or one "
            " whose effect cancels. Remove it, use it, or set requires_grad_(False)",
        )
    if constant := still & set(case.parameters()):
        warnings.warn(
            f"{', '.join(sorted(constant))}: moves all energies alike, so that no slope has a gradient with respect to it: "
            f"reconstruction and score matching cannot train it, and distributed training would refuse it (a bias of the head? "
            f"energy heads carry none)",
            stacklevel=2,
        )


def a_bound_context_scores_as_a_passed_one(case: Case) -> None:
    """given(context, level)(y) is forward(y, encode(context, level)), and stays so when another
    context is bound, and inside modules that hand their arguments on, such as DataParallel."""
    if not isinstance(case.energy, Energy):
        return
    cause = (
        "encode keeps the code on the energy instead of returning it, or given, forward and encode take the context differently"
    )
    for level in range(case.energy.levels):
        function = case.energy.given(case.context, level)
        before = function(case.y)
        code = case.energy.encode(case.context, level)
        for what, got in (
            ("forward(y, encode(context))", case.energy(case.y, code)),
            ("the level counted from the end", case.energy.given(case.context, level - case.energy.levels)(case.y)),
        ):
            if not close(got, before):
                place, a, b = worst(before, got)
                broken(f"landscape {level}: given(context)(y)[{place}] is {shown(a)}, {what} gives {shown(b)}", cause)
        if case.context is None:
            continue
        order = (torch.arange(ROWS) + 1) % ROWS
        rolled = rows(case.context, order, ROWS)
        later = case.energy.given(rolled, level)
        after, moved = function(case.y), later(case.y[order])
        if not close(after, before):
            broken(f"landscape {level}: binding another context changed what was bound before", cause)
        if not close(moved, before[order]):
            broken(f"landscape {level}: a context that is bound later scores as the first one", cause)
    together = case.energy.landscapes(case.context)
    if len(together) != case.energy.levels:
        broken(f"landscapes() lists {len(together)} of {case.energy.levels}", "levels says how many landscapes there are")
    for level, function in enumerate(together):
        if not close(function(case.y), case.energy.given(case.context, level)(case.y)):
            broken(f"landscapes()[{level}] is not given(context, {level})", cause + "; or landscapes come in another order")
    _inside_wrappers(case)
    try:
        case.energy.given(case.context, case.energy.levels)(case.y)
    except Exception:
        return
    broken(
        f"level {case.energy.levels} of {case.energy.levels} is accepted",
        "levels are counted from 0; ebm.Energy.given refuses others",
    )


class _Handed(nn.Module):
    """A wrapper of somebody's own, which hands everything on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *arguments: Any) -> Any:
        return self.inner(*arguments)


def _inside_wrappers(case: Case) -> None:
    """In a module that hands its arguments on, an energy keeps its contexts and landscapes."""
    cause = "given or landscapes compute the energy by other ways than forward(y, code), which is all that a wrapper can call"
    for wrap in (_Handed, nn.DataParallel, AveragedModel):
        functions = landscapes(wrap(copied(case.energy)), case.context)
        if len(functions) != case.energy.levels:
            broken(f"inside {wrap.__name__} there are {len(functions)} of {case.energy.levels} landscapes", cause)
        for level, (function, plain) in enumerate(zip(functions, case.levels(), strict=True)):
            pairs = zip(energy_and_grad(function, case.y), energy_and_grad(plain, case.y), strict=True)
            for what, (got, want) in zip(("energy", "slope"), pairs, strict=True):
                if not close(got, want):
                    place, a, b = worst(want, got)
                    broken(f"landscape {level}: {what} {place} is {shown(a)}, inside {wrap.__name__} {shown(b)}", cause)


def predictions_see_no_future(case: Case) -> None:
    """Energy (row, i) of a causal energy does not depend on the context after position i, where its
    answer stands."""
    length = _positions(case)
    if length is None:
        return
    cause = (
        "attention without a causal mask, or with one that is off by one (position i may see context 0 … i; element i + 1 is the "
        "answer), a mean or a norm over positions; if predictions may see everything, pass causal=False"
    )
    for mode in ("eval", "train"):
        energy = calm_dropout(copied(case.energy).train(mode == "train"))
        for level, cut in itertools.product(range(energy.levels), range(1, length)):
            with torch.no_grad():
                whole = copied(energy).given(case.context, level)(case.y)
                got = copied(energy).given(_future_changed(case, cut), level)(case.y)
            if not close(got[:, :cut], whole[:, :cut]):
                place, a, b = worst(whole[:, :cut], got[:, :cut])
                own = ": it sees its own answer" if place[1] == cut - 1 else ""
                broken(
                    f"in {mode} mode, landscape {level}: other context from position {cut} on moved the energy at row "
                    f"{place[0]}, position {place[1]} from {shown(a)} to {shown(b)}{own}",
                    cause,
                )


def extending_a_code_is_encoding_the_whole(case: Case) -> None:
    """extend(encode(context[:, :k]), context[:, k:]) scores as encode(context), and leaves the
    shorter code as it was."""
    length = _positions(case)
    if length is None or type(case.energy).extend is Energy.extend:
        return
    whole = case.energy(case.y, case.energy.encode(case.context))
    for cut in range(1, length):
        first, rest = _cut(case, slice(None, cut)), _cut(case, slice(cut, None))
        code = case.energy.encode(first)
        before = case.energy(case.y[:, :cut], code)
        try:
            extended = case.energy.extend(code, rest)
        except NotImplementedError:
            return
        got, after = case.energy(case.y, extended), case.energy(case.y[:, :cut], code)
        if got.shape != whole.shape or not close(got, whole):
            place, a, b = worst(whole, got) if got.shape == whole.shape else ((0, 0), float("nan"), float("nan"))
            broken(
                f"extended after {cut} of {length} positions, the energy at {place} is {shown(b)} instead of {shown(a)}",
                "extend forgets where the new elements stand (positions, caches), or drops part of the old code",
            )
        if after.shape != before.shape or not close(after, before):
            broken(f"extending a code of {cut} positions changed the code itself", "extend appends in place: make a new code")


def _positions(case: Case) -> int | None:
    """Counts the positions of a causal energy: None without any."""
    if case.context is None or case.causal is False or not isinstance(case.energy, Energy):
        return None
    shape = evaluate(case.bound(case.energy), case.y).shape
    aligned = [leaf for leaf in leaves(case.context) if leaf.ndim >= 2 and leaf.shape[:2] == shape[:2]]
    if len(shape) < 2 or not aligned or shape[1] < 2:
        if case.causal:
            broken(
                f"energies {tuple(shape)} have no positions in common with the context",
                "causal=True needs context (rows, positions)",
            )
        return None
    return shape[1]


def _sequence(case: Case, function: Callable[[Tensor], Tensor]) -> Any:
    shape = case.y.shape[:2]
    return mapped(lambda leaf: function(leaf) if leaf.ndim >= 2 and leaf.shape[:2] == shape else leaf, case.context)


def _cut(case: Case, where: slice) -> Any:
    return _sequence(case, lambda leaf: leaf[:, where])


def _future_changed(case: Case, cut: int) -> Any:
    def change(leaf: Tensor) -> Tensor:
        future = leaf[:, cut:]
        if leaf.is_floating_point():
            future = future + future.std(correction=0).clamp(min=0.1) * case.noise(future)
        elif leaf.dtype is torch.bool:
            return leaf
        else:  # ids: others that occur
            known = leaf.unique()
            place = torch.searchsorted(known, future.contiguous())
            future = known[(place + torch.randint(1, max(2, len(known)), future.shape, generator=case.generator)) % len(known)]
        return torch.cat([leaf[:, :cut], future], 1)

    return _sequence(case, change)


def a_saved_energy_loads_to_the_same_function(case: Case) -> None:
    """state_dict() of one energy, loaded into a fresh one, gives the same energies."""
    if not isinstance(case.energy, nn.Module):
        return
    other = in_double(built(case.factory, None, "an energy", seed=1))
    other.eval().load_state_dict(case.energy.state_dict())
    value, got = case.bound(case.energy)(case.y), case.bound(other)(case.y)
    if not close(got, value):
        place, a, b = worst(value, got)
        broken(
            f"energy {place} is {shown(a)}, and {shown(b)} after loading the state into a fresh energy",
            "a tensor on the energy that is no parameter and no buffer (register_buffer), or state kept elsewhere: checkpoints "
            "would lose it",
        )


LAWS = [
    there_is_one_energy_per_chain,
    dtype_follows_the_input,
    energies_are_finite,
    scoring_is_a_function_that_changes_nothing,
    chains_are_independent,
    candidates_share_a_context,
    it_can_be_differentiated,
    its_gradient_can_be_differentiated,
    every_parameter_receives_a_gradient,
    a_bound_context_scores_as_a_passed_one,
    predictions_see_no_future,
    extending_a_code_is_encoding_the_whole,
    a_saved_energy_loads_to_the_same_function,
]


# ---------------------------------------------------------------------------------------------------------------- numbers


def _small(y: Tensor) -> float:
    """A step for central differences in float64."""
    return 1e-6 * float(y.abs().mean().clamp(min=0.1))


def _per_chain(product: Tensor, like: Tensor) -> Tensor:
    return product.reshape(*like.shape, -1).sum(-1)


def _off(exact: Tensor, numeric: Tensor, rtol: float, atol: Tensor | float) -> Tensor:
    """Tells where two slopes differ by more than rounding; a slope that is not finite is off."""
    gap = (exact - numeric).abs()
    return ~(gap <= rtol * torch.maximum(exact.abs(), numeric.abs()) + atol)
