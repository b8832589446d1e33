"""Laws of pictures: what nobody sees, and what is converted."""

from __future__ import annotations

import numpy as np

from ebm.tasks.images.files import Picture


def test_pixels_that_nobody_sees_have_their_neighbours_colour():
    alpha = np.full((20, 30), 255, np.uint8)
    alpha[:, 10:20] = 0
    pixels = np.zeros((20, 30, 1), np.uint8)
    pixels[:, :10], pixels[:, 10:20], pixels[:, 20:] = 50, 255, 90
    seen = Picture(pixels, alpha=alpha).visible()
    assert (seen[:, 11:14] == 50).all()
    assert (seen[:, 16:19] == 90).all()
    assert (pixels[:, 10:20] == 255).all()
    kept = Picture(pixels, alpha=alpha).with_visible(np.full_like(pixels, 7)).pixels
    assert set(kept[:, 10:20].flatten()) == {255}
    assert set(kept[:, :10].flatten()) == {7}
    assert (Picture(pixels, alpha=0 * alpha).visible() == 127).all()  # nothing is seen at all
