"""What thinking buys at noise within and beyond training's: energies, and feed-forward networks applied as often.

    python benchmarks/thinking_noise.py --data FOLDER --energy runs/restore --feed-forward runs/restore-feed-forward
    python benchmarks/thinking_noise.py --data FOLDER --energy runs/seed-0 runs/seed-1 runs/seed-2 --json

FOLDER holds the folder BSD68. Runs are of the recipe `restore` and its feed-forward form; several of either are seeds. Each
picture's middle has noise of each sigma and is told it, at most the strongest of training. Printed are PSNR after so many steps,
where the energy alone stops (by the recipe's `thinking.familiar` and `tolerance`), and how the gain over one step grows with the
distance from training: dB for 25 grey levels, by seed through that seed's pictures, and the interval of the seeds' mean (of one
seed, a bootstrap over pictures). Exit code 1: a step raised an energy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

import ebm
from ebm.judging.seeds import over_seeds
from ebm.judging.slope import slope
from ebm.randomness import randn_like, stream
from ebm.samplers import FixedPoint, GradientDescent, Monotone
from ebm.tasks.images.photographs import read_photograph
from ebm.thinking import think

GREYS, SPAN = 127.5, 25.0  # grey levels in one unit of pixels; the distance that slopes are given for


def middles(data: Path, side: int, every: int) -> list[tuple[str, Tensor]]:
    """Reads the middles of BSD68, (1, side, side) in [-1, 1], or as large as the picture is."""
    files = sorted((data / "BSD68").glob("*.png"))[::every]
    if not files:
        raise SystemExit(f"{data / 'BSD68'} holds no .png: --data names the folder that holds BSD68")
    found = []
    for file in files:
        image = read_photograph(file, 1) / GREYS - 1
        top, left = (max(0, (size - side) // 2) for size in image.shape[1:])
        found.append((file.stem, image[:, top : top + side, left : left + side]))
    return found


def quality(found: Tensor, clean: Tensor) -> float:
    return peak_signal_noise_ratio(found.clamp(-1, 1), clean, data_range=2.0).item()


def judge(run: Any, forward: bool, pictures: Sequence[tuple[str, Tensor]], sigmas: Sequence[float], steps: int) -> dict[str, Any]:
    """Thinks about every picture at every sigma; a feed-forward network repeats its own step and has no energy to stop by."""
    energy, thinks = run.energy, run.recipe.get("thinking", {})
    strongest = run.judge().noise_std[1] * GREYS
    sampler = FixedPoint() if forward else Monotone(GradientDescent(1.0), halvings=6)
    how = {"patience": 1, "tolerance": thinks.get("tolerance", 0.0), "familiar": thinks.get("familiar")}
    rows: list[dict[str, Any]] = []
    raised = 0
    for sigma in sigmas:
        told = min(sigma, strongest) / GREYS
        for name, clean in pictures:
            noisy = (clean + sigma / GREYS * randn_like(clean, stream(0, "thinking-noise", name, str(sigma))))[None]
            with torch.no_grad():
                walked = list(sampler.trajectory(energy.given(told), noisy, steps=steps))
                quality_by_step = [quality(state.y[0], clean) for state, _ in walked]
                energies = [float(info.energy) for _, info in walked]
                raised += 0 if forward else sum(after > before for before, after in pairwise(energies))
                stopped, taken = quality_by_step[0], 1.0
                if not forward:
                    thought = think(energy, sampler, told, noisy[None], steps=steps, **how)
                    stopped, taken = quality(thought.y[0], clean), float(thought.steps)
            rows.append({"sigma": sigma, "picture": name, "psnr": quality_by_step, "stopped": stopped, "steps": taken})
    return {"rows": rows, "raised": raised, "strongest": strongest}


def table_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Averages over pictures: PSNR by steps, the best number of them, and where the energy stops."""
    table = []
    for sigma in dict.fromkeys(row["sigma"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["sigma"] == sigma]
        psnr = [fmean(values) for values in zip(*(row["psnr"] for row in rows), strict=True)]
        stopped, taken = (fmean(row[key] for row in rows) for key in ("stopped", "steps"))
        table.append({"sigma": sigma, "psnr": psnr, "best": max(psnr), "stopped": stopped, "steps": taken})
    return table


def gain_slope(found: dict[str, Any], forward: bool) -> Any:
    """Fits the gain over one step to the distance from training: where the energy stops, or at a network's best number."""
    best = {row["sigma"]: max(range(len(row["psnr"])), key=row["psnr"].__getitem__) for row in table_of(found)}
    ends = [row["psnr"][best[row["sigma"]]] if forward else row["stopped"] for row in found["rows"]]
    gains = torch.tensor([end - row["psnr"][0] for end, row in zip(ends, found["rows"], strict=True)])
    far = torch.tensor([max(row["sigma"] - found["strongest"], 0.0) / SPAN for row in found["rows"]])
    return slope(far, gains)


def show(who: str, runs: list[dict[str, Any]], forward: bool) -> None:
    tables = [table_of(run) for run in runs]
    print(
        f"\n{who}, {len(runs)} seed{'s' if len(runs) > 1 else ''}: PSNR by steps" + ("" if forward else "; stopped by the energy")
    )
    for rows in zip(*tables, strict=True):
        steps = zip(*(row["psnr"] for row in rows), strict=True)
        line = "  ".join(f"{fmean(values):6.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "") for values in steps)
        ends, taken, lost = (
            fmean(values) for values in zip(*((r["stopped"], r["steps"], r["best"] - r["stopped"]) for r in rows), strict=True)
        )
        stop = "" if forward else f" | {ends:6.2f} in {taken:.1f}, {lost:.2f} below the best number"
        print(f"sigma {rows[0]['sigma']:5g}: {line}{stop}")
    slopes = [gain_slope(run, forward) for run in runs]
    one = len(slopes) == 1
    value, low, high = slopes[0] if one else over_seeds([found.value for found in slopes])[:3]
    over = "pictures" if one else "seeds"
    print(f"gain over one step, for {SPAN:g} grey levels further: {value:.2f} dB, 95 % {low:.2f} to {high:.2f} over {over}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds BSD68")
    parser.add_argument("--energy", nargs="+", required=True, help="runs of an energy: seeds")
    parser.add_argument("--feed-forward", nargs="+", default=[], help="runs of its feed-forward form: seeds")
    parser.add_argument("--sigma", nargs="+", type=float, default=[15, 25, 50, 60, 75, 100])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--every", type=int, default=4, help="judge every so manieth picture")
    parser.add_argument("--side", type=int, default=320, help="of the pictures' middles, in pixels")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pictures = middles(options.data, options.side, options.every)
    found = {
        forward: [judge(ebm.load(name), forward, pictures, options.sigma, options.steps) for name in names]
        for forward, names in ((False, options.energy), (True, options.feed_forward))
        if names
    }
    if options.json:
        print(json.dumps({"energy": found[False], "feed-forward": found.get(True, [])}, indent=1))
    else:
        for forward, runs in found.items():
            show("feed-forward" if forward else "energy", runs, forward)
    raised = sum(run["raised"] for run in found[False])
    if raised:
        print(f"{raised} steps raised an energy under the accept rule", file=sys.stderr)
    return int(raised > 0)


if __name__ == "__main__":
    raise SystemExit(main())
