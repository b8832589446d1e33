"""What tasks say that they read: true for every source, and known without encoding anything."""

from __future__ import annotations

import pytest

from ebm.tasks import Denoising, Digits, Dyck, Frames, Points, Text

READS = {
    "20,000 points of moons": Points,
    "50 points of rings": lambda: Points("rings", n=50),
    "150 rows of iris": lambda: Points("iris"),
    "1,797 digits of scikit-learn": Digits,
    "100 digits of MNIST": lambda: Digits(28, n=100),
    "4 documents of source-code": lambda: Text("source-code", limit_documents=4),
    "2 documents of source-code": lambda: Text("source-code", limit_documents=2),  # each of which is cut into three
    "a stream of 40 documents of documentation": lambda: Text("documentation", streaming=True, limit_documents=40),
    "a stream of all documents of documentation": lambda: Text("documentation", streaming=True),
    "16 photographs of bundled (12 train, 1 validation, 3 test)": lambda: Denoising(tiles=1),
    "7 clips of bundled": Frames,
    "3 clips of bundled": lambda: Frames(limit_clips=1),
    "": lambda: Dyck(n=20),
}


@pytest.mark.parametrize("reads", READS)
def test_a_task_says_what_it_reads(reads):
    assert READS[reads]().reads == reads
