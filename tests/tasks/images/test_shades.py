"""Laws of shades: a picture's numbers become what a model sees, and come back as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebm.tasks.images.files import Picture
from ebm.tasks.images.shades import Shades

CPU = torch.device("cpu")


def picture_of(dtype, white: float, channels: int) -> Picture:
    numbers = np.random.default_rng(0).random((5, 7, channels)) * white
    return Picture(numbers.astype(dtype), white)


def seen(shades: Shades, picture: Picture) -> torch.Tensor:
    return shades.decode(torch.from_numpy(picture.pixels).movedim(-1, 0)[None])[0]


@pytest.mark.parametrize(("dtype", "white"), [("u1", 255), ("u2", 65535), ("u2", 4095), ("f4", 1), ("f4", 255)])
@pytest.mark.parametrize(("own", "channels"), [(1, 1), (1, 3), (3, 3)])
def test_what_a_model_leaves_as_it_was_comes_back(dtype, white, own, channels):
    picture = picture_of(dtype, white, own)
    shades = Shades(picture, channels, CPU)
    y = seen(shades, picture)
    assert y.shape == (channels, 5, 7)
    assert y.abs().max() <= 1
    back = shades.encode(y).movedim(0, -1).numpy()
    assert back.dtype == picture.pixels.dtype
    np.testing.assert_allclose(back, picture.pixels, atol=white * 1e-6 if dtype == "f4" else 0)
    assert not shades.loses_colours


def test_colours_become_the_greys_that_eyes_see_and_that_is_known():
    picture = picture_of("u1", 255, 3)
    shades = Shades(picture, 1, CPU)
    assert shades.loses_colours
    expected = picture.pixels @ [0.299, 0.587, 0.114]
    assert np.abs(shades.encode(seen(shades, picture))[0].numpy() - expected).max() <= 0.5 + 1e-3


def test_greys_that_a_file_calls_colours_stay_grey_and_lose_nothing():
    picture = Picture(np.repeat(picture_of("u1", 255, 1).pixels, 3, -1))
    for channels in (1, 3):
        shades = Shades(picture, channels, CPU)
        noise = torch.randn(channels, 5, 7, generator=torch.Generator().manual_seed(0))
        found = shades.encode(seen(shades, picture) + 0.1 * noise)
        assert not shades.loses_colours
        assert (found == found[:1]).all()


def test_what_lies_outside_is_cut_off_and_what_is_not_finite_is_refused():
    shades = Shades(picture_of("u1", 255, 1), 1, CPU)
    assert shades.encode(torch.tensor([[[-3.0, 0.0, 3.0]]])).flatten().tolist() == [0, 128, 255]
    with pytest.raises(FloatingPointError, match="not finite"):
        shades.encode(torch.tensor([[[float("nan")]]]))
