"""Times generated tokens: with a long past against a short one, and against thinking about the whole prefix again.

    python benchmarks/generation.py

The energy is a TextEBT (6 blocks of width 384, 6 heads, 257 tokens) that takes two steps for a token. The slow way thinks at
each token about all positions of the prefix, states (B, l, V), through the concatenated stream of tests/concatenated.py. First,
it is shown that both ways generate the same text.

Exit code 1: a token with 512 before it takes more than 1.3 times one with 64 (median of pairs), or 32 rows of 256 tokens are
generated less than 100 times as fast as the slow way does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor

from ebm.decoding.generate import generate
from ebm.energies.ebt import TextEBT
from ebm.samplers import GradientDescent
from ebm.thinking import think

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.concatenated import landscapes_of

GROWTH, SPEEDUP = 1.3, 100.0
SHORT, LONG, TOKENS, VOCABULARY = 64, 512, 256, 257
SAMPLER = GradientDescent(step_size=10.0, steps=2, retraction="softmax")


def tokens(energy: TextEBT, prompt: Tensor, count: int, window: int = 4096) -> Iterator[Tensor]:
    return generate(energy, SAMPLER, prompt.tolist(), max_new_tokens=count, window=window, temperature=0)


def slow_logits(energy: TextEBT, ids: Tensor) -> Tensor:
    """Thinks about every position of ids (B, l), and returns the logits after the last: (B, V)."""
    start = torch.zeros(1, *ids.shape, energy.vocab_size, dtype=energy.embedding.weight.dtype, device=ids.device)
    return think(landscapes_of(energy, ids), SAMPLER, start=start).y[:, -1]


def slow_token(energy: TextEBT, ids: Tensor) -> Tensor:
    """Takes the likeliest token (B,) after ids (B, l), the slow way."""
    return slow_logits(energy, ids).argmax(-1)


def seconds(step) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    step()
    return clock() - begun


def growth(energy: TextEBT, pairs: int) -> bool:
    """Times tokens after a long and after a short past, in turn."""
    prompts = {length: torch.randint(VOCABULARY, (1, length)) for length in (SHORT, LONG)}
    runs = {length: tokens(energy, prompt, pairs + 3) for length, prompt in prompts.items()}
    for run in runs.values():
        for _ in range(3):  # a prompt is encoded, and room is made for what follows
            next(run)
    times: dict[int, list[float]] = {length: [] for length in runs}
    for turn in range(pairs):
        for length in (SHORT, LONG) if turn % 2 else (LONG, SHORT):
            times[length].append(seconds(lambda length=length: next(runs[length])))
    ratios = [late / early for late, early in zip(times[LONG], times[SHORT], strict=True)]
    low, middle, high = quantiles(ratios, n=4)
    print(f"past    ms/token\n{SHORT:4} {1e3 * median(times[SHORT]):11.1f}\n{LONG:4} {1e3 * median(times[LONG]):11.1f}")
    print(f"ratio {middle:.2f} ({low:.2f}-{high:.2f}), at most {GROWTH}: {'met' if middle <= GROWTH else 'MISSED'}\n")
    return middle <= GROWTH


def speedup(energy: TextEBT, rows: int, past: int, points: int) -> float:
    """Times TOKENS tokens after a past, and the slow way at some lengths between, which are integrated."""
    prompt = torch.randint(VOCABULARY, (rows, past))
    fast = seconds(lambda: [*tokens(energy, prompt, TOKENS)])
    lengths = [past + round(i * (TOKENS - 1) / (points - 1)) for i in range(points)]
    contexts = [torch.randint(VOCABULARY, (rows, length)) for length in lengths]
    took = [seconds(lambda context=context: slow_token(energy, context)) for context in contexts]
    pieces = zip(pairwise(lengths), pairwise(took), strict=True)
    slow = took[0] + sum((b - a) * (early + late) / 2 for (a, b), (early, late) in pieces)
    print(f"{rows:4} {past:6} {fast:11.1f} {slow:11.1f} {slow / fast:8.0f}", flush=True)
    return slow / fast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60, help="pairs of tokens that are timed (60)")
    parser.add_argument("--points", type=int, default=9, help="lengths at which the slow way is timed (9)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    energy = TextEBT(VOCABULARY, dim=384, depth=6, heads=6).eval()
    print(f"torch {torch.__version__}, {options.threads} thread(s)\n")
    ids = torch.randint(VOCABULARY, (2, 8))
    for token in tokens(energy, ids, 4):
        if not torch.equal(token, slow_token(energy, ids)):
            raise SystemExit(f"after {ids.shape[1]} tokens both ways generate different text")
        ids = torch.cat([ids, token[:, None]], 1)
    met = growth(energy, options.pairs)
    print(f"rows   past  {TOKENS} tokens  the slow way  speedup (seconds)")
    speedup(energy, 1, 1, options.points)
    speedup(energy, 1, 256, options.points)
    batched = speedup(energy, 32, 1, options.points)
    print(f"32 rows: at least {SPEEDUP:.0f} times as fast: {'met' if batched >= SPEEDUP else 'MISSED'}")
    sys.exit(0 if met and batched >= SPEEDUP else 1)


if __name__ == "__main__":
    main()
