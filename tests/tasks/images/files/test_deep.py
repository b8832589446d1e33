"""Laws of pixels of more than 8 bits, which Pillow would cut."""

from __future__ import annotations

import numpy as np
import pytest

from ebm.tasks.images.files.deep import encoded_png
from tests.tasks.images.files.samples import only


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_of_a_png_keep_the_last_one(channels):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    found = only(encoded_png(deep))
    whole = found.pixels if found.alpha is None else np.concatenate([found.pixels, found.alpha[..., None]], -1)
    assert np.array_equal(whole, deep)
