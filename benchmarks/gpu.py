"""Checks and times the toolkit on one accelerator in some eight minutes, and on a CPU with small sizes in less than five.

    python benchmarks/gpu.py --json gpu.json              # on the accelerator that torch finds, else on the CPU
    python benchmarks/gpu.py --only kernels text          # some parts
    python benchmarks/gpu.py --device cpu --quick         # seconds: whether it runs at all

    matmul       the machine's peak: the rate of a large product, in float32 and bfloat16
    kernels      values, gradients and second derivatives of every kernel, against the plain formula in float64 on the CPU
    text         both stages' training step at two sizes, eager, compiled and in bfloat16, against the concatenated form
    generation   tokens a second of one row and of many, each token against the slow way's
    images       a training step of pictures (denoise, restore, image-ebt), its gradients against float64 on the CPU
    sampler      a Langevin step beside a hand-written loop's

Exit code 1: a check failed, or did not run. No time is a check. What needs more memory than there is is left out, and said; the
rest goes on. Float32 is meant as such: TF32 is off. Shares are of the measured peak of the same precision; memory is what a step
adds to what it found, at its highest.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import generation
import machine
import sampler_overhead
import text_ebt
import torch
import torch.nn.functional as F
from machine import DTYPES, Take
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ebm.energies import GradientStepEBT, GradientStepUNet, ImageEBT, TextEBT
from ebm.energies.ebt import attention, kernels, layer_norm, mutual, products, regions
from ebm.energies.ebt.sizes import SIZES
from ebm.energies.restoration import convolutions, elu
from ebm.files import write_text
from ebm.interfaces import Batch
from ebm.objectives import Reconstruction
from ebm.samplers import GradientDescent
from ebm.training.compiling import lacking

# How far a check lets a result be from the exact one: |found − exact| / |exact|. A derivative that is missing is 1 away.
KERNEL = {"float32": 1e-4, "bfloat16": 3e-2}  # inputs are rounded before, so that it is the kernel's own rounding
ENERGY = {"float32": 1e-2, "bfloat16": 0.3}  # all gradients of a step of training
STEP_SIZE = 0.1  # of text: larger steps cost as much, and amplify rounding a thousand times
FEW = 11  # tokens in the vocabulary where bfloat16 is compared: an even mixture of many embeddings cancels, in any form
LOSS = {"float32": 1e-3, "bfloat16": 5e-2}
TOKEN = 1e-2  # how far below the likeliest token's logit the chosen one's may lie, in deviations of logits


@dataclass
class Row:
    """One result: a time, a check, or what stood in the way."""

    part: str
    case: str
    ms: float | None = None
    rate: float | None = None  # of `unit` a second
    unit: str = ""
    share: float | None = None  # of the peak
    megabytes: float | None = None
    times: float | None = None  # as fast as what stands beside it
    error: float | None = None
    tolerance: float | None = None
    note: str = ""
    failed: bool = False

    def __post_init__(self) -> None:
        if self.error is not None and self.tolerance is not None:
            self.failed = self.failed or not self.error <= self.tolerance  # NaN fails


TIMED = ("ms", "rate", "unit", "share", "megabytes")


@dataclass
class Bench:
    """Where and how large: what every part is handed."""

    device: torch.device
    sizes: Namespace
    compiler: dict[str, Any] | None  # the options of `compile`; None where there is no compiler
    peaks: dict[str, float]

    def timed(self, part: str, case: str, take: Take, count: int, unit: str, **more: Any) -> Row:
        """Times a step that has warmed up, counts its arithmetic, and measures its memory."""
        flops = machine.flops_of(take)
        took = machine.seconds(take, self.device, self.sizes.rounds, self.sizes.repeat)
        best = self.peaks.get("bfloat16" if "bfloat16" in case else "float32")
        share = flops / took / best if best else None
        return Row(part, case, 1e3 * took, count / took, unit, share, machine.peak(take, self.device), **more)


# -------------------------------------------------------------------------------------------------------------- matmul


def matmul(bench: Bench) -> Iterator[Row]:
    """Measures the peak that shares are of."""
    for name, dtype in DTYPES.items():
        bench.peaks[name] = found = machine.matmul_rate(bench.device, dtype, bench.sizes.matmul)
        yield Row("matmul", name, rate=found, unit="flop")


# ------------------------------------------------------------------------------------------------------------- kernels


def _heads(qkv: Tensor, count: int = 2) -> tuple[Tensor, ...]:
    cos, sin = (t.to(qkv.device) for t in attention.turns(torch.arange(qkv.shape[-2]), qkv.shape[-1] // 3 // count))
    return kernels.heads(qkv, cos, sin, count)


def _heads_plainly(qkv: Tensor, count: int = 2) -> tuple[Tensor, ...]:
    rows, places, width = qkv.shape
    q, k, v = qkv.view(rows, places, 3, count, -1).permute(2, 0, 3, 1, 4)
    cos, sin = (t.double().repeat_interleave(2, -1) for t in attention.turns(torch.arange(places), width // 3 // count))

    def turned(x: Tensor) -> Tensor:
        return x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2) * sin

    return turned(q) * q.shape[-1] ** -0.5, turned(k), v


def _norm_plainly(x: Tensor, weight: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + regions.EPSILON).rsqrt() * weight + shift


def _past_plainly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    ahead = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
    return (q @ k.mT).masked_fill(ahead, -math.inf).softmax(-1) @ v


def _join_plainly(x: Tensor, branch: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    return x + branch, _norm_plainly(x + branch, weight)


def _gated_plainly(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, -1)
    return F.silu(gate) * up


def kernels_of(bench: Bench) -> Iterator[tuple[str, Callable[..., Any], Callable[..., Any], tuple[tuple[int, ...], ...]]]:
    """Lists the kernels: (name, kernel, plain formula, shapes of the inputs). Each is looked up where it is called."""
    t = bench.sizes.places
    yield "rms norm", lambda x, w: kernels.rms_norm(x, w, regions.EPSILON), _norm_plainly, ((4, t, 32), (32,))
    for what, vector in (("", (32,)), (" by row", (4, 1, 32))):
        yield (
            f"layer norm{what}",
            lambda x, w, b: layer_norm.layer_norm(x, w, b, 1e-5),
            lambda x, w, b: F.layer_norm(x, x.shape[-1:], eps=1e-5) * w + b,
            ((4, t, 32), vector, vector),
        )
    yield "gelu", lambda x: kernels.gelu(x), lambda x: F.gelu(x, approximate="tanh"), ((4, t, 32),)
    yield "gate", lambda x: kernels.gated(x), _gated_plainly, ((4, t, 64),)
    yield "heads", _heads, _heads_plainly, ((2, t, 96),)
    own, past = (2, 2, 2, t, 16), (2, 2, t, 16)  # two candidates at each position
    yield "attention", lambda *x: attention.attend_to_past_and_self(*x), attention.attend_plainly, (own,) * 3 + (past,) * 2
    yield "observed attention", lambda *x: attention.attend_to_past(*x), _past_plainly, (past,) * 3
    yield "mutual attention", lambda *x: mutual.attend(*x), mutual.attend_plainly, ((past,) * 3 + ((2, t, t),))
    yield "product", lambda *x: products.linear(*x), F.linear, ((8, 70, 96), (128, 96), (128,))  # large enough for oneDNN
    yield "elu", lambda x: elu.elu(x), F.elu, ((4, t, 32),)
    picture, weight = (2, 8, 16, 16), (12, 8, 3, 3)
    yield (
        "convolution",
        lambda x, w, b: convolutions.convolved(x, w, b, padding=1),
        lambda x, w, b: F.conv2d(x, w, b, padding=1),
        (picture, weight, (12,)),
    )
    yield "spread", lambda *x: convolutions.spread(*x, 2), lambda *x: F.conv_transpose2d(*x, stride=2), (picture, (8, 4, 2, 2))
    if bench.compiler is not None:
        made = regions.regions(**bench.compiler)
        yield "compiled norm", lambda *x: made.enter(*x), _norm_plainly, ((4, t, 32), (32,))
        yield "compiled join", lambda *x: made.join(*x), _join_plainly, ((4, t, 32), (4, t, 32), (32,))
        yield "compiled gate", lambda x: made.middle(x), _gated_plainly, ((4, t, 64),)


def derivatives(function: Callable[..., Any], inputs: list[Tensor], given: list[Tensor], twice: bool) -> dict[str, list[Tensor]]:
    """Computes a value, its gradients by all inputs, and the second derivatives by those and the cotangent.

    Arguments:
        function: inputs -> a tensor or several, which are joined.
        inputs: what it is differentiated by.
        given: the cotangent, and a direction for each input.
        twice: whether second derivatives are asked for.
    """
    inputs = [x.detach().requires_grad_() for x in inputs]
    made = function(*inputs)
    value = torch.cat([part.flatten() for part in (made if isinstance(made, tuple) else (made,))])
    cotangent = given[0].detach().requires_grad_()
    slopes = torch.autograd.grad(value, inputs, cotangent, create_graph=twice)
    if not twice:
        return {"value": [value], "gradient": [*slopes]}
    along = sum((slope * direction).sum() for slope, direction in zip(slopes, given[1:], strict=True))
    seconds = torch.autograd.grad(along, [cotangent, *inputs], allow_unused=True, materialize_grads=True)
    return {"value": [value], "gradient": [*slopes], "second": [*seconds]}


def far(found: Tensor, exact: Tensor) -> float:
    """Measures |found − exact| / |exact|, and where the exact one is 0, |found − exact| itself."""
    size = exact.norm().item()
    return (found.detach().cpu().double() - exact).norm().item() / (size or 1.0)


def kernels_right(bench: Bench) -> Iterator[Row]:
    """Compares every kernel with its plain formula: one row for each and precision, with its worst derivative."""
    for name, kernel, plain, shapes in kernels_of(bench):
        twice = name != "observed attention"  # which nobody differentiates twice
        for precision, dtype in DTYPES.items():

            def check(name=name, kernel=kernel, plain=plain, shapes=shapes, twice=twice, precision=precision, dtype=dtype) -> Row:
                torch.manual_seed(0)
                inputs = [torch.randn(shape).to(dtype) for shape in shapes]
                made = plain(*(x.double() for x in inputs))
                count = sum(part.numel() for part in (made if isinstance(made, tuple) else (made,)))
                given = [torch.randn(count).to(dtype), *(torch.randn(shape).to(dtype) for shape in shapes)]
                exact = derivatives(plain, [x.double() for x in inputs], [x.double() for x in given], twice)
                try:
                    found = derivatives(kernel, [x.to(bench.device) for x in inputs], [x.to(bench.device) for x in given], twice)
                except RuntimeError as error:
                    if machine.out_of_memory(error):
                        raise
                    return Row("kernels", f"{name}, {precision}", note=first_line(error), failed=True)
                worst = {order: max(map(far, found[order], exact[order])) for order in exact}
                order = max(worst, key=lambda order: math.inf if math.isnan(worst[order]) else worst[order])
                return Row("kernels", f"{name}, {precision}", error=worst[order], tolerance=KERNEL[precision], note=order)

            yield from attempt(bench, "kernels", f"{name}, {precision}", lambda check=check: iter([check()]), checks=True)


# ---------------------------------------------------------------------------------------------------------------- text


def text(bench: Bench) -> Iterator[Row]:
    """Times and checks both stages' training step."""
    for size in bench.sizes.text:
        for stage in ("first", "second"):
            yield from attempt(bench, "text", f"{size} {stage}", partial(_text, bench, size, stage), checks=True)


def _text(bench: Bench, size: str, stage: str) -> Iterator[Row]:
    """Compares all forms with the concatenated one: of few tokens in float64 on the CPU, and at full size in this run."""
    depth, heads, dim = SIZES[size][:3] if size in SIZES else (2, 2, 32)
    settings = Namespace(dim=dim, depth=depth, heads=heads, step_size=STEP_SIZE, **vars(bench.sizes.shape))
    few = Namespace(**{**vars(settings), "batch": 2, "context": min(16, settings.context), "vocabulary": FEW})
    exact = _gradients_of(stage, few)
    forms = ["eager", "compiled"][: 2 if bench.compiler is not None else 1]
    for precision in DTYPES:
        energy, take = text_ebt.step(stage, few, f"eager, {precision}", bench.device)
        yield _compared("text", f"{size} {stage}, few tokens, {precision}", precision, take(), text_ebt.gradients(energy), exact)
    oracle, plain = text_ebt.step(stage, settings, "concatenated", bench.device)
    at_size = plain().item(), text_ebt.gradients(oracle).cpu().double()
    tokens = settings.batch * settings.context
    slow = bench.timed("text", f"{size} {stage}, concatenated, float32", plain, tokens, "tok")
    yield slow
    del oracle, plain
    for form in forms:
        for precision in DTYPES:
            case = f"{size} {stage}, {form}, {precision}"
            options = (bench.compiler or {}) if form == "compiled" else {}

            def one(case=case, form=form, precision=precision, options=options) -> Iterator[Row]:
                energy, take = text_ebt.step(stage, settings, f"{form}, {precision}", bench.device, **options)
                loss = take()
                grad = text_ebt.gradients(energy) if precision == "float32" else None
                check = _compared("text", case, precision, loss, grad, at_size)
                row = bench.timed("text", case, take, tokens, "tok")
                yield replace(check, **{key: getattr(row, key) for key in TIMED}, times=slow.ms / row.ms)

            yield from attempt(bench, "text", case, one, checks=True)


def _gradients_of(stage: str, settings: Namespace) -> tuple[float, Tensor]:
    """Takes the concatenated form's step in float64 on the CPU: its loss and all gradients."""
    energy, objective, batch, start = text_ebt.case(stage, settings)
    energy, objective = energy.double(), objective.double()
    value = objective(text_ebt.landscapes_of(energy, batch.context), batch, start=start.double()).value
    value.backward()
    return value.item(), text_ebt.gradients(energy)


def _compared(part: str, case: str, precision: str, loss: Tensor, grad: Tensor | None, exact: tuple[float, Tensor]) -> Row:
    """Compares a loss with the exact one, and if that fits all gradients, where they are given."""
    off = abs(loss.item() - exact[0]) / abs(exact[0])
    if grad is None or not off <= LOSS[precision]:
        return Row(part, case, error=off, tolerance=LOSS[precision], note="of the loss")
    return Row(part, case, error=far(grad, exact[1]), tolerance=ENERGY[precision], note="of the gradients")


# ---------------------------------------------------------------------------------------------------------- generation


def generated(bench: Bench) -> Iterator[Row]:
    """Times generated tokens, each of two steps of thinking, and compares some with the slow way's."""
    torch.manual_seed(0)
    vocabulary = bench.sizes.shape.vocabulary
    size = {"size": bench.sizes.text[0]} if bench.sizes.text[0] in SIZES else {"dim": 32, "depth": 2, "heads": 2}
    energy = TextEBT(vocabulary, **size).eval().to(bench.device)

    def right() -> Iterator[Row]:
        ids, worst = torch.randint(vocabulary, (2, 8), device=bench.device), 0.0
        for token in generation.tokens(energy, ids, 4):
            logits = generation.slow_logits(energy, ids).detach()
            short = logits.amax(-1) - logits.gather(-1, token.to(ids)[:, None])[:, 0]
            worst = max(worst, (short / logits.std(-1)).max().item())
            ids = torch.cat([ids, token.to(ids)[:, None]], 1)
        yield Row("generation", "the slow way's tokens", error=worst, tolerance=TOKEN, note="logits")

    yield from attempt(bench, "generation", "the slow way's tokens", right, checks=True)
    for rows in bench.sizes.rows:
        for precision in DTYPES:

            def one(rows=rows, precision=precision) -> Iterator[Row]:
                prompt, count = torch.randint(vocabulary, (rows, 16)), bench.sizes.tokens

                def take() -> None:
                    with torch.autocast(bench.device.type, DTYPES[precision], enabled=precision != "float32"):
                        for _ in generation.tokens(energy, prompt, count):
                            pass

                take()
                yield bench.timed("generation", f"{rows} row(s), {precision}", take, rows * count, "tok")

            yield from attempt(bench, "generation", f"{rows} row(s), {precision}", one)


# -------------------------------------------------------------------------------------------------------------- images


def images(bench: Bench) -> Iterator[Row]:
    """Times training steps of pictures, and compares gradients at few pictures with float64 on the CPU."""
    side, scale = bench.sizes.side, bench.sizes.scale
    makers: dict[str, tuple[int, Callable[[], nn.Module], float]] = {
        "denoise": (
            3,
            lambda: GradientStepEBT(32, 4, 3, dim=128 // scale, depth=3, heads=4, mlp_ratio=2.0, colours="apart"),
            1.0,
        ),
        "restore": (1, lambda: GradientStepUNet(1, (64 // scale, 128 // scale), (1, 2)), 1.0),
        "image-ebt": (3, lambda: ImageEBT(32, 4, 3, dim=384 // scale, depth=3, heads=4), 100.0),
    }
    for name, (channels, make, step_size) in makers.items():
        width = side if name == "restore" else 32
        one = partial(_images, bench, name, make, step_size, (channels, width, width))
        yield from attempt(bench, "images", name, one, checks=True)


def _images(bench: Bench, name: str, make: Callable[[], nn.Module], step_size: float, event: tuple[int, ...]) -> Iterator[Row]:
    torch.manual_seed(0)
    energy, sampler = make(), GradientDescent(step_size=step_size, steps=1)
    with torch.no_grad():  # an adaLN-zero begins at an energy of 0, of which nothing could be wrong
        for p in energy.parameters():
            p.add_(torch.randn(p.shape), alpha=0.02)
    objective = Reconstruction(
        sampler,
        start=lambda batch, generator=None: None,
        distance=lambda y, batch: (y - batch.target).square().mean((-3, -2, -1)),
    )

    def step(energy: nn.Module, rows: int, precision: str = "float32", dtype: torch.dtype = torch.float32) -> Take:
        device = next(energy.parameters()).device
        clean = torch.rand(rows, *event, generator=torch.Generator().manual_seed(1)) * 2 - 1
        start = (clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))).to(device, dtype)
        context = start if name == "image-ebt" else torch.full((rows,), 0.2, dtype=dtype, device=device)
        batch = Batch(clean.to(device, dtype), context)

        def take() -> Tensor:
            energy.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = objective(energy, batch, start=start).value
            loss.backward()
            return loss.detach()

        return take

    exact = deepcopy(energy).double()
    truth = step(exact, 2, dtype=torch.float64)().item(), text_ebt.gradients(exact)
    energy, rows = energy.to(bench.device), bench.sizes.pictures
    for precision in DTYPES:
        case = f"{name}, {precision}"
        found = _compared("images", case, precision, step(energy, 2, precision)(), text_ebt.gradients(energy), truth)

        def one(case=case, precision=precision) -> Iterator[Row]:
            take = step(energy, rows, precision)
            take()
            yield bench.timed("images", case, take, rows, "pic")

        found.case = f"{name}, two pictures, {precision}"
        yield found
        yield from attempt(bench, "images", case, one)


# ------------------------------------------------------------------------------------------------------------- sampler


def sampler(bench: Bench) -> Iterator[Row]:
    """Times a Langevin step, all its checks on, beside a hand-written loop's; first, both take the same steps."""
    for name, (energy, start) in sampler_overhead.problems().items():

        def one(name=name, energy=energy, start=start) -> Iterator[Row]:
            y = start.to(bench.device)
            if isinstance(energy, nn.Module):
                energy = energy.to(bench.device)
            else:
                energy = partial(energy, means=sampler_overhead.MEANS.to(bench.device))
            ours, plain = (make(energy) for make in (sampler_overhead.ebm, sampler_overhead.loop))
            ends = []
            for run in (ours, plain):
                torch.manual_seed(0)
                ends.append(run(y, 5).detach().cpu().double())
            steps = sampler_overhead.BLOCK[name]
            times = [machine.seconds(lambda run=run: run(y, steps), bench.device, bench.sizes.rounds) for run in (ours, plain)]
            took, speed = 1e3 * times[0] / steps, len(y) * steps / times[0]
            row = Row(
                "sampler", name, took, speed, "chain", error=far(*ends), tolerance=1e-3, note="ends", times=times[1] / times[0]
            )
            yield row

        yield from attempt(bench, "sampler", name, one, checks=True)


# --------------------------------------------------------------------------------------------------------------- parts

PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "matmul": matmul,
    "kernels": kernels_right,
    "text": text,
    "generation": generated,
    "images": images,
    "sampler": sampler,
}


def attempt(bench: Bench, part: str, case: str, ask: Callable[[], Iterator[Row]], checks: bool = False) -> Iterator[Row]:
    """Asks for rows; what fails becomes a row, which memory alone excuses where nothing was to be checked."""
    try:
        yield from ask()
    except (Exception, SystemExit) as error:
        if machine.out_of_memory(error):
            error = None  # with its frames, which hold what filled the memory
            yield Row(part, case, note="out of memory" + (": not checked" if checks else ""), failed=checks)
        else:
            yield Row(part, case, note=f"{type(error).__name__}: {first_line(error)}", failed=True)
    if bench.device.type != "cpu" and (free := getattr(torch.get_device_module(bench.device), "empty_cache", None)):
        free()


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def sizes_of(device: torch.device, quick: bool) -> Namespace:
    """Chooses how large things are: for an accelerator, for a CPU, or for seconds."""
    if quick:
        how = {"text": ["tiny"], "rounds": 1, "repeat": 1, "matmul": 64, "places": 5, "rows": [1], "tokens": 2}
        shape = {"vocabulary": 61, "batch": 1, "context": 8}
        more = {"pictures": 1, "side": 8, "scale": 16}
    elif device.type == "cpu":
        how = {"text": ["xxs", "small"], "rounds": 2, "repeat": 1, "matmul": None, "places": 70, "rows": [1, 8], "tokens": 16}
        shape = {"vocabulary": 257, "batch": 1, "context": 32}
        more = {"pictures": 4, "side": 64, "scale": 2}
    else:
        how = {"text": ["xxs", "small"], "rounds": 5, "repeat": 5, "matmul": None, "places": 70, "rows": [1, 32], "tokens": 64}
        shape = {"vocabulary": 16384, "batch": 16, "context": 256}
        more = {"pictures": 64, "side": 128, "scale": 1}
    return Namespace(**how, **more, shape=Namespace(**shape))


def show(row: Row) -> tuple[str, ...]:
    """Writes a row of the table."""
    check = "" if row.error is None or row.tolerance is None else f"{row.error:.0e} ≤ {row.tolerance:.0e}"
    return (
        row.part,
        row.case,
        "" if row.ms is None else f"{row.ms:,.4g}",
        "" if row.rate is None else f"{shortly(row.rate)} {row.unit}/s",
        "" if row.share is None else f"{row.share:.1%}",
        "" if row.megabytes is None else f"{row.megabytes:,.0f}",
        "" if row.times is None else f"{row.times:.2f}",
        "FAILED" if row.failed else check or row.note,
    )


def shortly(number: float) -> str:
    """Writes a positive number by three digits and a power of a thousand.

    >>> shortly(123456.0), shortly(0.5)
    ('123k', '0.5')
    """
    power = min(max(int(math.log10(number) // 3), 0), 4) if number > 0 else 0
    return f"{number / 1000**power:.3g}{('', 'k', 'M', 'G', 'T')[power]}"


def parse(arguments: list[str] | None) -> Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all results are written, too")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--device", default="auto", help="torch's name of a device; by default the accelerator, if there is one")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which take seconds and tell no speed")
    parser.add_argument("--threads", type=int, help="torch's, on a CPU")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    settings = parse(arguments)
    if settings.json is not None and settings.json.exists():
        raise SystemExit(f"--json {settings.json}: there is a file of this name, which is not replaced: name another")
    if settings.json is not None and not settings.json.absolute().parent.is_dir():
        raise SystemExit(f"--json {settings.json}: there is no folder {settings.json.parent}")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device, begun = machine.device_of(settings.device), time.monotonic()
    missing = lacking(device) or ("--quick compiles nothing" if settings.quick else "")
    compiler = None if missing else {}
    bench = Bench(device, sizes_of(device, settings.quick), compiler, {})
    rows = [Row("compiler", "left out", note=missing)] if missing else []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # matrix products have no TF32 by default
        for place, name in enumerate(settings.only, start=1):
            for row in attempt(bench, name, "all", partial(PARTS[name], bench), checks=True):
                rows.append(row)
                told = ", ".join(filter(None, show(row)[1:]))
                print(f"[{place}/{len(settings.only)}] {time.monotonic() - begun:4.0f} s  {row.part}: {told}", file=sys.stderr)
    failed = [row for row in rows if row.failed]
    table = Table(box=None, padding=(0, 1, 0, 0), title=machine.name_of(device))
    for name in ("part", "case", "ms", "rate", "of peak", "MB", "times", "check"):
        table.add_column(name, no_wrap=name != "check", justify="left" if name in ("part", "case", "check") else "right")
    for row in rows:
        table.add_row(*show(row), style="bold red" if row.failed else None)
    Console(width=100).print(table)
    for row in failed:
        what = "" if row.error is None else f"{row.error:.1e} is more than {row.tolerance:.1e}, "
        print(f"FAILED {row.part}, {row.case}: {what}{row.note}")
    took = time.monotonic() - begun
    print(f"torch {torch.__version__}, {took:.0f} s; times: as fast as the concatenated form, or the hand-written loop")
    print(f"{len(failed)} of {sum(row.error is not None or row.failed for row in rows)} checks failed")
    if settings.json is not None:
        said = {"device": machine.name_of(device), "torch": torch.__version__, "seconds": took, "quick": settings.quick}
        write_text(
            settings.json, json.dumps(said | {"failed": len(failed), "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
        )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
