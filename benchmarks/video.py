"""Measures how clips are encoded: peak memory for a short and a long clip, use of cores, and how long training waits for data.

python benchmarks/video.py
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (1_000, 10_000)  # frames
WIDTH, HEIGHT = 640, 272


def write(path: Path, frames: int) -> None:
    """Writes a clip of a texture that moves."""
    import av
    import numpy as np

    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8 + 64, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            place = number * 2 % 512
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[:, place : place + WIDTH]), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def encode(folder: str) -> None:
    """Encodes all clips of a folder, and reports memory and cores; then how long a loader takes for a batch."""
    from ebm.encoders import Pixels
    from ebm.tasks import Frames

    before = resource.getrusage(resource.RUSAGE_SELF)
    base, start = before.ru_maxrss, time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        task = Frames(folder, encoder=Pixels(32), context=16, views=8, cache=cache)
        count = sum(map(len, task.tracks("train")))
        took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{count} frames: {count / took:.0f} a second, {cpu / took:.2f} of {os.cpu_count()} cores busy, ", end="")
        print(f"{(after.ru_maxrss - base) / 1024:.0f} MB above {base / 1024:.0f} MB")
        batches = iter(task.loader("train", 64))
        next(batches)
        start = time.perf_counter()
        for _ in range(20):
            next(batches)
        print(f"a batch of 64 windows: {(time.perf_counter() - start) / 20 * 1000:.1f} ms")


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        write(Path(root) / "short.mp4", 64)
        for frames, clips in ((SIZES[0], 1), (SIZES[1], 1), (SIZES[0], 4)):
            folder = Path(root) / f"{frames}x{clips}"
            for split in ("train", "validation", "test"):
                (folder / split).mkdir(parents=True)
            for split in ("validation", "test"):
                (folder / split / f"{split}.mp4").symlink_to(Path(root) / "short.mp4")
            for number in range(clips):
                write(folder / "train" / f"{number}.mp4", frames)
            print(f"{clips} clip(s): ", end="", flush=True)
            subprocess.run([sys.executable, __file__, str(folder)], check=True)


if __name__ == "__main__":
    encode(sys.argv[1]) if len(sys.argv) > 1 else main()
