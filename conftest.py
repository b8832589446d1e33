"""What all tests share: no network, one thread (small tensors are faster so), Ctrl-C, and torch in the doctests' namespace."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts what it runs in the background so
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _doctest_namespace(doctest_namespace: dict[str, Any]) -> None:
    import torch

    doctest_namespace["torch"] = torch
