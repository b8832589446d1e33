"""What stops a training that goes wrong, before its weights are saved as good."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ebm.interfaces import Batch, Loss
from ebm.reports.page import write_report
from ebm.runs import checkpoints
from ebm.runs.doctor import Diverged, diagnose
from ebm.runs.history import History
from ebm.runs.rollback import roll_back
from ebm.runs.run import Run
from ebm.training import ranks
from ebm.training.devices import runs_ahead

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ROWS = 10  # logged, before the doctor may stop a run: fewer tell too little


def relative_change(before: Sequence[Tensor], after: Sequence[Tensor], over: Callable[[Tensor], Any] = lambda own: own) -> float:
    """Computes |θ' − θ| / |θ| over weight matrices, |θ| at least that of variance 1 / fan-in.

    Where processes hold rows of matrices, `over` sums over them.

    >>> round(relative_change([torch.zeros(4, 100)], [torch.full((4, 100), 0.01)]), 6)    # zeros count as weights of size 0.1
    0.1
    """
    changed = [new.detach() - old for old, new in zip(before, after, strict=True)]
    squares = [torch.stack([part.double().square().sum() for part in parts]).sum() for parts in (changed, before)]
    rows = sum(len(old) for old in before)  # a row has the fan-in as its length, and 1 as its natural size
    change, size, natural = over(torch.stack([*squares, torch.full_like(squares[0], rows)])).sqrt().tolist()
    return change / max(size, natural)


@contextmanager
def divergence_leaves_a_report(run: Run, seed: int, first: bool, going_back: bool) -> Iterator[None]:
    """Leaves a report behind where training diverged, or goes back to where it had not."""
    try:
        yield
    except FloatingPointError as error:
        if going_back and (again := roll_back(run.path, str(error))) is not None:
            raise again from error
        if first and (run.path / "metrics.csv").exists():
            try:
                write_report(run, seed, stopped=str(error))
            except Exception as second:  # what stopped the run matters more
                error.add_note(f"the report could not be written: {second}")
        raise


@contextmanager
def data_are_blamed(step: int, batch: Batch) -> Iterator[None]:
    """Says at which step numbers went wrong since the data were wrong, where they were."""
    try:
        yield
    except FloatingPointError as error:
        if flaw := batch.flaw():
            raise FloatingPointError(f"training step {step}: {flaw}") from error
        raise


LOST = ("DataLoader worker", "DataLoader timed out")  # what torch says where a worker was killed
PEERS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")  # where a rank was


@contextmanager
def lost_processes_are_named(folder: Path, processes: int) -> Iterator[None]:
    """Says in one line that another process of a training is gone: a worker that loads data, or a rank."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        saved = checkpoints.steps(folder / "checkpoints")
        onward = f"the same call with out={str(folder)!r} " + (f"goes on from step {saved[-1]}" if saved else "starts anew")
        if text.startswith(LOST):
            what = "a process that loads data was killed, by the system where memory is short: use fewer workers"
            raise ChildProcessError(f"{what}; {onward} ({text.splitlines()[0]})") from error
        if processes > 1 and any(word in text.lower() for word in PEERS):
            raise ChildProcessError(f"another process of this training was killed or has failed; {onward}") from error
        raise


def examine(step: int, written: History | None, folder: Path, fabric: Fabric) -> None:
    """Raises Diverged where the history says so, before what diverged is saved as good."""

    def ask() -> str:
        assert written is not None  # the first process has one
        history = written.curves
        rows = max((len(values) for (split, _), (_, values) in history.items() if split == "train"), default=0)
        verdict = diagnose(history) if rows >= ROWS else None
        return "" if verdict is None or verdict.healthy else verdict.line

    if line := ranks.broadcast_from_first(fabric, ask):
        saved = checkpoints.latest(folder / "checkpoints")
        raise Diverged(f"training step {step}: {line} The weights were last saved in {saved or 'no checkpoint'}.")


def check_parameters(step: int, model: nn.Module, folder: Path) -> None:
    """Raises FloatingPointError where a step made parameters that are not finite."""
    bad = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if bad:
        saved = checkpoints.latest(folder / "checkpoints")
        raise FloatingPointError(
            f"training step {step}: the step made {', '.join(bad)} not finite; the weights were last saved in "
            f"{saved or 'no checkpoint'}. A lower lr is the usual way out"
        )


class Finite:
    """Remembers, on the device, the first step whose loss or gradient was not finite.

    A CPU is asked at every step. An accelerator is asked where the host waits for it anyway: at rows
    that are logged, and before anything is evaluated or saved.

    In float16 a scaled gradient may overflow: its scaler then skips the step, and halves the scale. That
    is no fault before the scale is below 1, which is asked where the host waits, too.

    Arguments:
        device: the process's.
        scaler: torch's GradScaler of a training in float16.
    """

    def __init__(self, device: torch.device, scaler: Any = None) -> None:
        self.at_once, self.scaler = not runs_ahead(device), scaler
        self.first = torch.zeros((), dtype=torch.long, device=device)

    def see(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Looks at a step's loss and gradient norm, and does not wait for them."""
        fine = torch.isfinite(loss.detach())
        if self.scaler is None:
            fine = fine & torch.isfinite(norm)
        self.first = torch.where((self.first == 0) & ~fine, step, self.first)

    def check(self, step: int, loss: Loss, norm: Tensor, folder: Path, batch: Batch) -> None:
        """Raises FloatingPointError that names the first step that was not finite, if there was one."""
        if self.scaler is not None and not bool(torch.isfinite(norm)) and self.scaler.get_scale() < 1:
            raise not_finite(step, loss, norm, folder, batch)
        if not (first := int(self.first)):
            return
        if first == step:
            raise not_finite(step, loss, norm, folder, batch)
        saved = checkpoints.latest(folder / "checkpoints")
        raise FloatingPointError(
            f"training step {first}: the loss or a gradient was not finite, as was seen at step {step}; the weights were last "
            f"saved in {saved or 'no checkpoint'}. With log_every=1 the error says which term, and whether the data are to "
            f"blame; a lower lr, clip_norm, or a smaller step_size is the usual way out"
        )


def not_finite(step: int, loss: Loss, norm: Tensor, folder: Path, batch: Batch) -> FloatingPointError:
    """Makes the error that names what is not finite, and whether the data are to blame."""
    values = {"loss": loss.value, **loss.terms, "gradient norm": norm}
    bad = ", ".join(name for name, value in values.items() if not bool(torch.isfinite(value).all()))
    saved = checkpoints.latest(folder / "checkpoints")
    if flaw := batch.flaw():
        return FloatingPointError(f"training step {step}: {flaw}")
    return FloatingPointError(
        f"training step {step}: {bad} is not finite; the weights were last saved in "
        f"{saved or 'no checkpoint'}. A lower lr, clip_norm, or a smaller step_size is the usual way out"
    )
