"""Laws of the estimate of noise: white noise alone is known, smooth pictures and edges count for nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm.interfaces import Energy
from ebm.tasks.images.estimating import confirmed, estimate_noise
from ebm.tasks.images.photographs import photographs
from tests.helpers import laws, seeded, seeds


def smooth(height: int, width: int) -> torch.Tensor:
    """A slope, a wave and an edge between two levels, within (-0.8, 0.8)."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return (0.3 * rows + 0.2 * torch.sin(4 * columns) + 0.25 * (rows + columns > 0.3).float())[None]


@laws
@given(seed=seeds, sigma=st.floats(4, 60), height=st.integers(96, 200), width=st.integers(96, 200))
def test_noise_on_a_smooth_picture_is_known_within_a_tenth(seed, sigma, height, width):
    image = 0.4 * smooth(height, width) + sigma / 127.5 * torch.randn(1, height, width, generator=seeded(seed))
    assert estimate_noise(image) * 127.5 == pytest.approx(sigma, rel=0.12, abs=0.8)


def test_what_is_clean_has_no_noise_to_speak_of():
    assert estimate_noise(smooth(100, 120)) == 0
    found = [estimate_noise(photo.pixels / 127.5 - 1) * 127.5 for photo in photographs(channels=1)["test"]]
    assert max(found) < 1.0


@pytest.mark.parametrize("sigma", [5, 10, 25])
def test_photographs_hide_little_of_it(sigma):
    for photo in photographs(channels=1)["test"]:
        image = photo.pixels / 127.5 - 1
        noisy = image + sigma / 127.5 * torch.randn(image.shape, generator=seeded(sigma))
        assert estimate_noise(noisy) * 127.5 == pytest.approx(sigma, rel=0.1)


def test_clipped_skies_are_left_out():
    """Half of the picture is white: its noise was cut off, and says nothing."""
    image = smooth(128, 128) * 0.4
    image[:, :64] = 1.2
    noisy = (image + 0.1 * torch.randn(image.shape, generator=seeded(1))).clamp(-1, 1)
    assert estimate_noise(noisy) == pytest.approx(0.1, rel=0.15)


def test_colours_are_looked_at_one_by_one_and_small_pictures_whole():
    noise = 0.2 * torch.randn(3, 128, 128, generator=seeded(0))
    assert estimate_noise(noise * torch.tensor([1.0, 1.0, 1.0])[:, None, None]) == pytest.approx(0.2, rel=0.1)
    assert 0.1 < estimate_noise(noise[:, :12, :14]) < 0.3
    with pytest.raises(ValueError, match="at least 6 pixels a side"):
        estimate_noise(noise[:, :5])


class Taking(Energy):
    """A step takes a share off the noise that it is told, but no more of the picture than there is: 0.02."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.told = share, []

    def encode(self, context=None, level=-1):
        self.told.append(context)
        return context

    def forward(self, y, code=None):
        size = min(self.share * code, 0.02)
        return size * (y * (y.detach() / y.detach().abs())).sum((-3, -2, -1))


def test_an_estimate_is_lowered_until_a_step_takes_most_of_it_off():
    image = torch.randn(1, 20, 30, generator=seeded(0))
    believing, doubting = Taking(0.8), Taking(0.4)
    assert confirmed(believing, image, 0.02) == 0.02
    assert confirmed(Taking(0.8), image, 0.1) == pytest.approx(0.02, rel=1e-4)  # 0.02 is what a step takes off
    assert confirmed(doubting, image, 0.01) == pytest.approx(0.01 * 0.4**8, rel=1e-3)
    assert len(doubting.told) == 8
    assert confirmed(Taking(0.8), image, 0.0) == 0


@laws
@given(share=st.floats(0.1, 0.9), std=st.floats(0.0, 0.3), least=st.floats(0.0, 0.1))
def test_once_an_estimate_counts_as_none_an_energy_is_asked_no_further(share, std, least):
    """The answer is that of asking to the end; each question but the last one left more than the least."""
    image, brief, whole = torch.randn(1, 8, 9, generator=seeded(0)), Taking(share), Taking(share)
    found, expected = confirmed(brief, image, std, least), confirmed(whole, image, std)
    assert found == (expected if expected >= least else 0)
    assert all(told >= least for told in brief.told)
    assert brief.told == whole.told[: len(brief.told)]
