"""`ebm sample RUN`: draw samples, and their picture."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save

from ebm.files import atomic, check_writable
from ebm.reports.chains import picture_of_samples
from ebm.runs.run import Run


def sample(run: Run, /, *, n: int = 64, seed: int = 0, out: Path | None = None) -> list[Path]:
    """Sample from a run: writes samples.safetensors and a picture.

    Args:
        run: the run folder.
        n: how many samples.
        seed: what every random draw is derived from.
        out: the folder to write to; by default the run folder.
    """
    if n < 1:
        raise ValueError(f"--n {n}: ask for at least one sample")
    folder = out or run.path
    check_writable(folder)
    samples = run.sample(n, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    picture = picture_of_samples(run, samples)
    files = {"samples.safetensors": save({"samples": samples.contiguous()}), "samples.png": picture}
    for name, content in files.items():
        if content is not None:
            with atomic(folder / name) as draft:
                draft.write_bytes(content)
    return [folder / name for name, content in files.items() if content is not None]
