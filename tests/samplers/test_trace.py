"""How many files a reader opens to follow one step of a sampler."""

import sys
from pathlib import Path

import torch

import ebm
from ebm.samplers import GradientDescent, LangevinDynamics

ROOT = Path(ebm.__file__).parent


def entered(call):
    """Lists the files of ebm/ whose functions run during a call."""
    files = set()
    sys.setprofile(lambda frame, event, argument: files.add(frame.f_code.co_filename))
    try:
        call()
    finally:
        sys.setprofile(None)
    return sorted(str(Path(file).relative_to(ROOT)) for file in files if ROOT in Path(file).parents)


def test_one_step_enters_at_most_four_files():
    y = torch.ones(3, 2)
    for sampler, own in ((LangevinDynamics(0.1), "langevin.py"), (GradientDescent(0.1, noise_std=0.1), "descent.py")):
        files = entered(lambda sampler=sampler: sampler.sample(lambda y: (y**2).sum(-1) / 2, y, steps=1))
        assert f"samplers/{own}" in files
        assert len(files) <= 4, files
