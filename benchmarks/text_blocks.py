"""What a loss that rewards whole answers buys, where the next few tokens are believed at once.

    ebm run text-transformer --out runs/base
    python benchmarks/text_blocks.py --base runs/base

A belief energy thinks about the next --block tokens together, given the base model's last hidden state before them. It is
trained twice, on the same blocks and from as many starts: by the mean of their cross-entropies (`Reconstruction`), which is
least where every start ends at the same marginals, and by the nats of their mixture (`Mixture`), which rewards starts that
share whole answers out among themselves. Printed are nats a token of test blocks: of mixtures of so many starts, of one start,
of the best in hindsight, and of the base model, which reads the block's own beginning.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Generator, Tensor, nn

import ebm
from ebm.baselines import Transformer
from ebm.energies import BeliefEBT
from ebm.energies.ebt.belief import Code
from ebm.interfaces import Batch
from ebm.judging.seeds import over_seeds
from ebm.objectives import Mixture, Reconstruction
from ebm.randomness import stream
from ebm.samplers import MirrorDescent

PER_WINDOW = 4  # blocks that one window of text gives


class BlockEBT(BeliefEBT):
    """A belief about the next tokens, all at once: f = N(W p + place + C h), of what the base thinks before the first of them."""

    def __init__(self, vocab_size: int, block: int, dim: int, hidden: int, width: int) -> None:
        super().__init__(vocab_size, length=block, dim=dim, hidden=hidden, fixed=False)
        self.reads = nn.Linear(width, block * dim)

    def encode(self, context: Any = None, level: int = -1) -> Code:
        assert self.place is not None
        given = self.reads(context).unflatten(-1, self.place.shape)
        return Code(given + self.place, (None,) * len(self.blocks))


def blocks_of(base: Transformer, task: Any, split: str, count: int, block: int, seed: int) -> tuple[Batch, float]:
    """Cuts blocks out of windows, each behind a quarter of one: their tokens, the base's last hidden states, its nats a token."""
    generator, found, nats = stream(seed, "blocks", split), list[tuple[Tensor, Tensor]](), list[Tensor]()
    hidden = list[Tensor]()
    hook = base.output.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    for batch in task.loader(split, 64, seed=seed):
        hidden.clear()
        with torch.no_grad():
            logits = base.logits(batch.context)
            losses = F.cross_entropy(logits.flatten(0, 1), batch.target.flatten(), reduction="none").view(batch.target.shape)
        rows, length = batch.target.shape
        first = torch.randint(length // 4, length - block + 1, (rows, PER_WINDOW), generator=generator)
        for at in (first + place for place in range(block)):
            nats.append(losses.gather(1, at).flatten())
        tokens = torch.stack([batch.target.gather(1, first + place) for place in range(block)], -1)
        found.append((tokens.flatten(0, 1), hidden[0].gather(1, first[..., None].expand(-1, -1, base.dim)).flatten(0, 1)))
        if sum(len(tokens) for tokens, _ in found) >= count:
            break
    hook.remove()
    tokens, given = (torch.cat(parts)[:count] for parts in zip(*found, strict=True))
    return Batch(tokens, given), torch.cat(nats).mean().item()


class Blocks(NamedTuple):
    """Where a belief about a block starts, and how far it is from the block."""

    vocab_size: int
    noise: float

    def start(self, batch: Batch, *, generator: Generator | None = None) -> Tensor:
        return self.noise * torch.randn(*batch.target.shape, self.vocab_size, generator=generator)

    def nats(self, y: Tensor, batch: Batch) -> Tensor:
        """Computes −log p of whole blocks, their places taken as independent: (*more, B)."""
        said = y[..., : self.vocab_size].log_softmax(-1)
        return -said.gather(-1, batch.target.expand(y.shape[:-1])[..., None]).sum((-1, -2))


def batches(rows: Batch, size: int, steps: int, generator: Generator) -> Iterator[Batch]:
    """Draws rows, each once in a pass."""
    count = len(rows.target)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(-(-size * steps // count))])
    for some in order[: size * steps].split(size):
        yield Batch(rows.target[some], rows.context[some])


def train(
    mixture: bool, rows: Batch, vocab_size: int, settings: argparse.Namespace, seed: int, console: Console
) -> tuple[BlockEBT, Mixture]:
    """Trains by the mixture of starts, or by their mean: returns the energy, and how it is judged."""
    torch.manual_seed(seed)
    generator = stream(seed, "train-blocks")
    energy = BlockEBT(vocab_size, settings.block, settings.dim, settings.hidden, rows.context.shape[-1])
    sampler = MirrorDescent(1.0, steps=settings.thinks, hidden=settings.hidden)
    blocks = Blocks(vocab_size, settings.noise)
    how: dict[str, Any] = {"start": blocks.start, "distance": blocks.nats, "unroll": "full"}
    shared = Mixture(sampler, starts=settings.starts, **how)
    aim = shared if mixture else Reconstruction(sampler, reduce="last", **how)
    optimizer = torch.optim.AdamW(energy.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    name = f"{'mixture' if mixture else 'mean'}, seed {seed}"
    drawn = batches(rows, settings.batch, settings.steps, generator)
    for batch in track(drawn, f"training by the {name}", settings.steps, console=console, transient=True):
        if not mixture:
            batch = Batch(*(each.repeat(settings.starts, 1) for each in (batch.target, batch.context)))
        optimizer.zero_grad()
        aim(energy, batch, generator=generator).value.backward()
        nn.utils.clip_grad_norm_(energy.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        rate.step()
    return energy, shared


@torch.no_grad()
def judge(energy: BlockEBT, aim: Mixture, rows: Batch, shares: list[int], generator: Generator) -> dict[str, float]:
    """Measures nats a token of the mixture of so many starts, of one, and of the best of most in hindsight."""
    parts = list[Tensor]()
    for some in torch.arange(len(rows.target)).split(32):
        batch = Batch(rows.target[some], rows.context[some])
        found = list[Tensor]()
        for _ in range(max(shares)):
            start = aim.start(batch, generator=generator)
            found.append(aim.distance(aim.sampler.sample(energy.given(batch.context), start, generator=generator), batch))
        parts.append(torch.stack(found))
    distance = torch.cat(parts, -1)
    block = rows.target.shape[-1]
    values = {f"mixture of {k}": (math.log(k) - (-distance[:k]).logsumexp(0)).mean().item() / block for k in shares}
    best = distance.amin(0).mean().item() / block
    return {"one start": distance.mean().item() / block, **values, f"best of {max(shares)} in hindsight": best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="a run of the recipe text-transformer")
    parser.add_argument("--block", type=int, default=4, help="tokens that are believed at once")
    parser.add_argument("--steps", type=int, default=2000, help="of the optimiser")
    parser.add_argument("--batch", type=int, default=32, help="blocks of one step")
    parser.add_argument("--starts", type=int, default=8, help="of each block in training")
    parser.add_argument("--shares", nargs="+", type=int, default=[16, 64, 256], help="starts of the mixtures that are judged")
    parser.add_argument("--thinks", type=int, default=1, help="mirror steps from each start")
    parser.add_argument("--noise", type=float, default=3.0, help="standard deviation of the starts' logits")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=16, help="hidden units of a place")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--test", type=int, default=1000, help="blocks that are judged")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", action="store_true")
    settings = parser.parse_args()
    base, console = ebm.load(settings.base), Console(stderr=True)
    if not isinstance(base.energy, Transformer):
        raise SystemExit(f"--base {settings.base} is a {type(base.energy).__name__}: pass a run of the recipe text-transformer")
    task = base.judge()
    count = min(settings.steps * settings.batch, 100_000)
    rows, _ = blocks_of(base.energy, task, "train", count, settings.block, 0)
    tests, reads = blocks_of(base.energy, task, "test", settings.test, settings.block, 0)
    found: dict[str, list[dict[str, float]]] = {"mean": [], "mixture": []}
    for seed in settings.seeds:
        for arm, results in found.items():
            trained = train(arm == "mixture", rows, base.energy.vocab_size, settings, seed, console)
            results.append(judge(*trained, tests, settings.shares, stream(seed, "judge-blocks")))
            console.print(f"{arm}, seed {seed}: {', '.join(f'{name} {value:.4f}' for name, value in results[-1].items())}")
    if settings.json:
        print(json.dumps({"base": reads, **found}, indent=1))
        return
    table = Table("nats a token", "trained by the mean", "by the mixture", "difference, 95 %")
    for name in found["mean"][0]:
        mean, mixture = ([result[name] for result in found[arm]] for arm in ("mean", "mixture"))
        value, low, high = over_seeds([b - a for a, b in zip(mean, mixture, strict=True)])[:3]
        table.add_row(name, f"{fmean(mean):.4f}", f"{fmean(mixture):.4f}", f"{value:+.4f}, {low:+.4f} to {high:+.4f}")
    Console().print(table, f"the base model, which reads the block's own beginning: {reads:.4f}")


if __name__ == "__main__":
    main()
