"""Draws the pictures of docs/restoring.md: photographs that scikit-image ships, restored by a run of the recipe restore.

    python benchmarks/restoring.py RUN            # writes docs/images/restoring.png and docs/images/composing.png

RUN is a run of grey photographs and additive noise. Noise and everything else is drawn from seed 0.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.color import rgb2gray

import ebm
from ebm.commands.denoise import denoise
from ebm.commands.restore import restore

SIDE, STRIP, GAP = 160, 20, 6  # pixels of a picture's side, of the words above it, and between pictures
IMAGES = Path(__file__).parents[1] / "docs" / "images"

Shown = tuple[str, np.ndarray]  # words, and grey levels (SIDE, SIDE)


def cut(photo: np.ndarray, top: int, left: int, side: int = SIDE) -> np.ndarray:
    """Cuts a square of grey levels from a photograph in colours."""
    return (rgb2gray(photo) * 255).round()[top : top + side, left : left + side]


def written(path: Path, grey: np.ndarray) -> Path:
    Image.fromarray(grey.round().clip(0, 255).astype("uint8")).save(path)
    return path


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"), dtype=float)


def psnr(found: np.ndarray, clean: np.ndarray) -> str:
    return f"{10 * math.log10(255**2 / np.mean((found.clip(0, 255) - clean) ** 2)):.1f} dB"


def as_map(values: np.ndarray) -> np.ndarray:
    """Scales a map to grey levels, the highest two hundredths to white."""
    return 255 * (values / np.quantile(values, 0.98)).clip(0, 1)


def sheet(rows: Sequence[Sequence[Shown]], path: Path) -> None:
    """Lays pictures out in rows, each below its words, as a grey PNG."""
    width, height = max(map(len, rows)) * (SIDE + GAP) - GAP, len(rows) * (SIDE + STRIP + GAP) - GAP
    page = Image.new("L", (width, height), 255)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for number, row in enumerate(rows):
        for place, (words, grey) in enumerate(row):
            left, top = place * (SIDE + GAP), number * (SIDE + STRIP + GAP)
            pen.text((left, top + 2), words, fill=30, font=font)
            page.paste(Image.fromarray(grey.round().clip(0, 255).astype("uint8")), (left, top + STRIP))
    page.save(path, optimize=True)
    print(path, path.stat().st_size)


def denoised(run: Any, folder: Path) -> list[list[Shown]]:
    """Denoises two photographs: by strength, and beside the map of the energy."""
    rows: list[list[Shown]] = []
    for name, clean, sigma in (("coffee", cut(data.coffee(), 110, 190), 25), ("astronaut", cut(data.astronaut(), 20, 140), 15)):
        noisy = clean + sigma * np.random.default_rng(0).normal(size=clean.shape)
        photo = written(folder / f"{name}.png", noisy)
        usual, weaker = (
            denoise(run, photo, out=folder / f"{name}-{strength}.png", strength=strength, map=True) for strength in (1.0, 0.8)
        )
        row = [(f"noise {sigma}, {psnr(noisy, clean)}", noisy)]
        found, half = read(usual["picture"]), read(weaker["picture"])
        row.append((f"took off {usual['noise'].split(' ')[0]}, {psnr(found, clean)}", found))
        if name == "coffee":
            row += [(f"strength 0.8, {psnr(half, clean)}", half), ("clean", clean)]
        else:
            error = gaussian_filter((found - clean) ** 2, 2)
            energy = gaussian_filter(_brightness(usual["map"]), 2)
            row += [("its energy", as_map(energy)), ("its squared error", as_map(error))]
        rows.append(row)
    return rows


def _brightness(path: Path) -> np.ndarray:
    """Reads a map of the command, whose palette goes from dark to bright, as levels."""
    return np.asarray(Image.open(path), dtype=float)


def composed(run: Any, folder: Path) -> list[list[Shown]]:
    """Fills in, sharpens and enlarges a photograph, each beside what was seen."""
    clean = cut(data.coffee(), 110, 190)
    hidden = np.zeros((SIDE, SIDE), dtype=bool)
    generator = np.random.default_rng(0)
    for top, left in generator.integers(0, SIDE - 10, (50, 2)):
        hidden[top : top + 10, left : left + 10] = True
    small = gaussian_filter(clean, 0.8)[::2, ::2]
    seen = {
        "inpaint": np.where(hidden, 255, clean),
        "deblur": gaussian_filter(clean, 1.6) + 2.5 * generator.normal(size=clean.shape),
        "enlarge": small,
    }
    how: dict[str, dict[str, Any]] = {"inpaint": {"mask": written(folder / "mask.png", 255.0 * hidden)}, "deblur": {"sigma": 2.5}}
    words = {"inpaint": f"{hidden.mean():.0%} hidden", "deblur": "blur 1.6, noise 2.5", "enlarge": "half the size"}
    above, below = list[Shown](), list[Shown]()
    for task, what in seen.items():
        photo = written(folder / f"{task}.png", what)
        out = restore(run, photo, task=task, out=folder / f"{task}-done.png", **how.get(task, {}))["picture"]  # type: ignore[arg-type]
        found = read(out)
        shown = what if task != "enlarge" else np.kron(what, np.ones((2, 2)))
        above.append((words[task], shown))
        below.append((f"{task}, {psnr(found, clean)}", found))
    above.append(("clean", clean))
    return [above, below]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run of the recipe restore")
    parser.add_argument("--out", type=Path, default=IMAGES, help="where the pictures are written")
    options = parser.parse_args()
    run = ebm.load(options.run)
    with tempfile.TemporaryDirectory() as folder:
        sheet(denoised(run, Path(folder)), options.out / "restoring.png")
        sheet(composed(run, Path(folder)), options.out / "composing.png")


if __name__ == "__main__":
    main()
