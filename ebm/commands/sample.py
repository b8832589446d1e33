"""`ebm sample RUN`: draw samples, and their picture."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save

from ebm.files import atomic, check_writable
from ebm.reports.chains import picture_of_samples
from ebm.runs.index import is_model
from ebm.runs.run import Run

NAMES = ("samples.safetensors", "samples.png")  # of what is written


def sample(run: Run, /, *, n: int = 64, seed: int = 0, out: Path | None = None, overwrite: bool = False) -> list[Path]:
    """Sample from a run: writes samples.safetensors and a picture.

    Args:
        run: the run folder.
        n: how many samples.
        seed: what every random draw is derived from.
        out: the folder to write to; by default the run folder, and for a model this folder.
        overwrite: replaces files of these names in a folder that is not the run's.
    """
    if n < 1:
        raise ValueError(f"--n {n}: ask for at least one sample")
    folder = out or (Path() if is_model(run.path) else run.path)
    check_writable(folder)
    there = [name for name in NAMES if (folder / name).exists()]
    if there and not overwrite and folder.resolve() != run.path.resolve():
        raise ValueError(f"--out {folder}: it holds {', '.join(there)} already: choose another folder, or pass --overwrite")
    samples = run.sample(n, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    picture = picture_of_samples(run, samples)
    files = dict(zip(NAMES, (save({"samples": samples.contiguous()}), picture), strict=True))
    for name, content in files.items():
        if content is not None:
            with atomic(folder / name) as draft:
                draft.write_bytes(content)
    return [folder / name for name, content in files.items() if content is not None]
