"""What `pytest --ebm` makes of packages that are not all in order: each fault is told where it is, and hides nothing else."""

from __future__ import annotations

import pytest

from ebm.testing import LawBroken
from ebm.testing.collecting import NoExample, checks_of
from tests.fake_plugins import installed, write_distribution

SOURCE = """
from pathlib import Path
from ebm import Energy, Sampler
from ebm.encoders import Encoder, Pixels
from ebm.energies import MLPEnergy
from ebm.registry import hookimpl
from ebm.tasks import Points

class Mixing(Energy):
    def forward(self, y, code=None):
        return (y - y.mean(0)).square().sum(-1)

def raising():
    raise RuntimeError("out of luck")

def far_away():
    try:
        raise ConnectionError("no network")
    except ConnectionError as error:
        raise ValueError("no data") from error

@hookimpl
def ebm_energies():
    return {"good": lambda dim: MLPEnergy(dim, hidden=(8,)), "mixing": Mixing, "raising": raising, "needy": lambda secret: secret}

class Averaging(Encoder):
    def __init__(self):
        super().__init__(4, 3)

    def _encode(self, pixels):
        return (pixels - pixels.mean(0)).mean((2, 3))

def packed():
    import nonesuch

@hookimpl
def ebm_encoders():
    return {"squares": lambda: Pixels(size=8), "averaging": Averaging, "packed": packed, "far": far_away}

@hookimpl
def ebm_tasks():
    return {"far": far_away, "near": lambda: Points("moons", n=300)}

@hookimpl
def ebm_recipes():
    return {"broken": Path(__file__).with_name("broken.toml")}
"""
RECIPE = '[task]\nuse = "near"\n[energy]\nuse = "nonesuch"\n[objective]\nuse = "denoising-score-matching"\nsigma = 0.1\n'


@pytest.fixture
def checks(tmp_path):
    write_distribution(tmp_path, "Mixed.Bag", SOURCE, "mixed_bag")
    (tmp_path / "Mixed.Bag").rename(tmp_path / "mixed_bag")
    (tmp_path / "mixed_bag" / "broken.toml").write_text(RECIPE)
    with installed(tmp_path):
        yield checks_of("mixed-bag")


def test_a_broken_recipe_hides_no_component(checks):
    checks["energy good"]()
    checks["task near"]()
    checks["encoder squares"]()
    with pytest.raises(ValueError, match="no energy is named 'nonesuch'"):
        checks["recipe broken"]()


def test_what_breaks_a_law_or_cannot_be_built_is_told(checks):
    with pytest.raises(LawBroken, match="chains are independent"):
        checks["energy mixing"]()
    with pytest.raises(LawBroken, match=r"(?s)it can be built.*out of luck"):
        checks["energy raising"]()
    with pytest.raises(LawBroken, match="frames do not see each other"):
        checks["encoder averaging"]()


def test_what_nothing_says_how_to_build_is_skipped_with_its_reason(checks):
    with pytest.raises(NoExample, match=r"needs secret.*ebm_examples"):
        checks["energy needy"]()
    with pytest.raises(NoExample, match="data cannot be reached"):
        checks["task far"]()
    with pytest.raises(NoExample, match="data cannot be reached"):
        checks["encoder far"]()
    with pytest.raises(NoExample, match="a package is missing .*nonesuch"):
        checks["encoder packed"]()


def test_the_toolkit_says_how_its_own_are_built():
    checks_of("ebm-toolkit")["energy image-ebt"]()
    with pytest.raises(ValueError, match="no installed distribution of this name"):
        checks_of("nonesuch")
