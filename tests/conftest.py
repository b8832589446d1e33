"""What tests share beside the root's conftest: pictures of few pixels, for a report's time goes into its pixels."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def _small_pictures():
    import ebm.figures

    usual, ebm.figures.DPI = ebm.figures.DPI, 40
    yield
    ebm.figures.DPI = usual
