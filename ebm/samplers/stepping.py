"""What gradient samplers share: a step size with a random scale, a retraction, a clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor, nn

from ebm.interfaces import EnergyFn, Sampler, State, check_steps, left, plain
from ebm.randomness import Source, rand_like
from ebm.samplers.retractions import RETRACTIONS as RETRACTIONS
from ebm.samplers.retractions import Retraction, as_retraction, is_projection, softmax
from ebm.samplers.schedules import Between, Schedule, as_schedule

Steps: TypeAlias = int | tuple[int, int]
Scheduled: TypeAlias = float | Schedule | Mapping[str, Any]
StepSize: TypeAlias = Scheduled | Tensor

TUNED = "tuned_step_size"  # its name in a state_dict
SMALLEST_LEARNED = 1e-4  # the least learned step size, so that none changes sign (EBT's value)


class SteppingSampler(Sampler):
    """Holds the step size of a gradient sampler and computes how far each chain moves.

    Arguments:
        step_size: a number, a tensor (*chains,), an nn.Parameter, a schedule t -> number, or one as
            data ({"schedule": "cosine", "start": 0.1, "end": 0.01, "steps": 60}).
        steps: steps per landscape, or a pair: train mode draws from it, eval mode takes the higher.
        step_scale: s >= 1; train mode draws each chain's step per trajectory from [ε/s, εs].
        learnable: makes step_size a parameter of this module, clamped at 1e-4 from below.
        retraction: "softmax", "clamp" (to [-1, 1]) or a function R: energies are taken at R(y). One
            that projects (R(R(y)) = R(y), as a clamp does) also ends each step: states lie in its
            image. Under another (softmax, tanh) y stays raw.
        grad_clip: clamps every entry of the gradient to [-grad_clip, grad_clip].
    """

    begins: Callable[[Tensor], Any] = State  # makes the first State
    # A step size for E becomes step_size · T^heated for E/T, which is √T times as wide where E is
    # quadratic: T would suit, were it not for steeper walls, which throw such steps out.
    heated = 0.5
    # Whether all steps but a chain's first run the same program, which `Compiled` takes: the same draws by
    # `rand_like` and `normals`, no schedules but step_size, temperature and noise_std. Each class says so itself.
    steady = False
    tuned = False  # whether the step size was found by `warm_up`: then it is a number that is saved

    def __init__(
        self,
        step_size: StepSize,
        steps: Steps = 1,
        *,
        step_scale: float = 1.0,
        learnable: bool = False,
        retraction: str | Retraction | None = None,
        grad_clip: float | None = None,
    ) -> None:
        super().__init__()
        low, high = check_steps(steps)
        if not 1 <= step_scale < math.inf:
            raise ValueError(f"step_scale={step_scale}: pass s >= 1, the step is drawn from [step_size/s, step_size*s]")
        if grad_clip is not None and not grad_clip > 0:
            raise ValueError(f"grad_clip={grad_clip}: pass a positive bound, or None")
        self.steps = low if low == high else (low, high)
        self.step_scale, self.grad_clip, self.retraction = float(step_scale), grad_clip, as_retraction(retraction)
        self.shares = self.retraction is softmax  # whether entries along the last axis share one sum
        # Whether states lie in the retraction's image; None until the first y.
        self.projects: bool | None = False if self.retraction is softmax else None
        self._set_step_size(as_schedule(step_size), learnable)

    def _set_step_size(self, step_size: Any, learnable: bool) -> None:
        if callable(step_size):
            if learnable:
                raise ValueError("a schedule cannot be learnable: pass step_size as a number or a tensor")
            self.step_size = as_scheduled("step_size", step_size)
            return
        if not isinstance(step_size, int | float | Tensor):
            raise ValueError(f"step_size={step_size!r}: pass a number, a tensor, an nn.Parameter or a schedule")
        value = step_size.detach() if isinstance(step_size, Tensor) else torch.tensor(step_size, dtype=torch.get_default_dtype())
        if not bool((torch.isfinite(value) & (value > 0)).all()):
            raise ValueError(f"step_size={step_size}: pass positive finite numbers")
        if (learnable or isinstance(step_size, nn.Parameter)) and bool((value < SMALLEST_LEARNED).any()):
            raise ValueError(f"step_size={step_size}: a learnable one is at least {SMALLEST_LEARNED}, below which it is held")
        if isinstance(step_size, nn.Parameter):
            self.step_size = step_size
        elif learnable:
            self.step_size = nn.Parameter(value.clone())
        elif isinstance(step_size, Tensor):
            self.register_buffer("step_size", step_size)
        else:
            self.step_size = float(step_size)  # a Python number keeps a float64 trajectory exact

    def init(self, energy: EnergyFn, y: Tensor, *, generator: Generator | None = None) -> Any:
        return self.begins(self.project(y))

    def point(self, y: Tensor) -> Tensor:
        return y if self.retraction is None else self.retraction(y)

    def project(self, y: Tensor) -> Tensor:
        if self.retraction is None:
            return y
        if self.projects is None:
            self.projects = is_projection(self.retraction, y)
        return self.retraction(y) if self.projects else y

    def source(self, y: Tensor, generator: Any) -> Any:
        """Makes what one step draws from: the trajectory's generator."""
        return generator

    def normals(self, y: Tensor, generator: Generator | None) -> Tensor:
        """Draws what `ebm.randomness.randn_like` draws; here, so that a step enters fewer files."""
        if isinstance(generator, Source):
            return generator.normal(y)
        return torch.empty_like(y, memory_format=torch.contiguous_format).normal_(generator=generator)

    def clipped(self, grad: Tensor) -> Tensor:
        """Clips a gradient, if a clip is set."""
        return grad if self.grad_clip is None else grad.clamp(-self.grad_clip, self.grad_clip)

    def scale(self, state: Any, energy: Tensor, generator: Generator | None) -> Tensor | None:
        """Draws the trajectory's step-size scale (*chains,) at its first step, and keeps it."""
        if self.shares and energy.ndim == state.y.ndim:
            what = f"y {tuple(state.y.shape)} has an energy for each entry, but {type(self).__name__} takes y's last axis"
            raise ValueError(f"{what} for one distribution, which would mix the chains: pass logits (*chains, symbols)")
        if state.scale is not None or self.step_scale == 1.0 or not self.training:
            return state.scale
        low, high = 1 / self.step_scale, self.step_scale
        draw = rand_like(energy, generator)
        return low + (high - low) * draw

    def stride(self, state: Any, scale: Tensor | None, energy: Tensor, y: Tensor) -> float | Tensor:
        """Computes the step size of this step: a number, or a tensor that broadcasts over y."""
        gained = isinstance(state.gain, Tensor) or state.gain != 1.0
        if scale is None and not gained and isinstance(fixed := self.step_size, float):
            return fixed
        step_size = at(self.step_size, state.t)
        if isinstance(step_size, Tensor):
            if step_size.ndim and step_size.shape != energy.shape:
                what = f"step_size shape {tuple(step_size.shape)} differs from the chains' {tuple(energy.shape)}"
                raise ValueError(f"{what}: pass one number, or one per chain")
            step_size = step_size.to(y)
            if step_size.requires_grad or isinstance(self.step_size, nn.Parameter):
                step_size = step_size.clamp(min=SMALLEST_LEARNED)
            step_size = left(step_size, y)
        if gained:
            step_size = state.gain * step_size
        return step_size if scale is None else left(scale, y) * step_size

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.tuned:
            destination[prefix + TUNED] = torch.tensor(self.step_size, dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        _, _, missing, *_ = rest  # torch's list of keys that it misses
        found = state_dict.get(prefix + TUNED)
        if found is not None and not isinstance(self.step_size, nn.Parameter):
            self.set_tuned(found.item())
            # torch does not know the number by name, and would call it unexpected.
            state_dict = {key: value for key, value in state_dict.items() if key != prefix + TUNED}
        elif self.tuned:
            missing.append(prefix + TUNED)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def set_tuned(self, step_size: float) -> None:
        """Makes a number that was found the step size, in place of a number, a tensor or a schedule."""
        del self.step_size  # it may be a buffer or a parameter
        self.step_size, self.tuned = float(step_size), True

    def extra_repr(self) -> str:
        size = tuple(self.step_size.shape) if isinstance(self.step_size, Tensor) else self.step_size
        return f"step_size={size}, steps={self.steps}"


def at(value: Any, t: int, positive: bool = False) -> Any:
    """Evaluates a schedule at step t; a number stays as it is.

    Raises:
        ValueError: the schedule gives no finite number of at least 0 (above 0 if `positive`): a
            step would go uphill, or chains would stand still without a word.
    """
    if not callable(value):
        return value
    now = plain(value(t))
    if isinstance(now, Tensor):  # a network's is held above 0, and to look at others would wait for an accelerator
        return now
    if isinstance(now, bool) or not isinstance(now, int | float) or not (now > 0 if positive else now >= 0) or now == math.inf:
        due = "above 0" if positive else "of at least 0"
        raise ValueError(f"the schedule {value!r} gives {now!r} at step {t}: pass one whose numbers are finite and {due}")
    return now


def as_scheduled(name: str, value: Any, positive: bool = False) -> Any:
    """Reads a finite number of at least 0 (above 0 if `positive`), or a schedule of such numbers."""
    found = as_schedule(value)
    if isinstance(found, Tensor) and found.ndim:  # it would spread over the event's axes
        raise ValueError(f"{name} of shape {tuple(found.shape)}: pass one number; only step_size takes one for each chain")
    given = not callable(found) and not isinstance(found, Tensor)
    known = [found.start, found.end] if isinstance(found, Between) else [found] if given else []
    numbers = [float(one) if isinstance(one, Real) else math.nan for one in known]
    if not all((one > 0 if positive else one >= 0) and one < math.inf for one in numbers):
        what = ("a positive number" if positive else "a number of at least 0") + " that is finite"
        raise ValueError(f"{name}={found}: pass {what}" + (" at both ends" if len(known) > 1 else ""))
    return found


at_temperature_one = property(lambda sampler: sampler.temperature == 1)  # a `stationary`


def is_noise(size: Any) -> bool:
    """Tells whether noise of this size, or temperature, is drawn; a tensor's value is not looked at, which would wait for it."""
    return isinstance(size, Tensor) or bool(size)


def plus(y: Tensor, a: float | Tensor, x: Tensor) -> Tensor:
    """Computes y + a x in one pass over memory; a tensor a broadcasts from the left."""
    return torch.addcmul(y, a, x) if isinstance(a, Tensor) else torch.add(y, x, alpha=a)


def std_of(step_size: float | Tensor, temperature: float) -> float | Tensor:
    """Computes the standard deviation of Langevin noise, σ = √(2 ε T)."""
    if not isinstance(temperature, Tensor) and temperature == 0:
        return 0.0  # the root's derivative at 0 is infinite: a learnable step size would get NaN
    variance = 2 * temperature * step_size
    return variance.sqrt() if isinstance(variance, Tensor) else math.sqrt(variance)
