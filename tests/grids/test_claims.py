"""The page of claims is what the studies found: written by a program, and by nobody's hand."""

from __future__ import annotations

import runpy

import pytest

from ebm.grids.conducting import conduct
from ebm.grids.findings import Finding
from ebm.registry import components
from tests.fake_plugins import REPOSITORY, quick_report
from tests.grids.grids import Here, tiny

CLAIMS = runpy.run_path(str(REPOSITORY / "benchmarks" / "claims.py"), run_name="claims")


def test_the_page_is_the_one_that_its_program_writes():
    assert CLAIMS["main"](["--check"]) == 0
    page = (REPOSITORY / "docs" / "claims.md").read_text(encoding="utf-8")
    bundled = [name for name, found in components("grid").items() if found.distribution == "ebm-toolkit"]
    assert [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")] == bundled


def test_a_section_says_all_that_was_found_and_how():
    found = Finding(
        study="ood",
        claim="Claimed.",
        source="there",
        verdict="opposite",
        finding="Of 1 comparison 1 contradicts it: boards against boards, 4 steps: gains 3 [2, 4].",
        date="2026-12-24",
        seeds=[0, 4],
        runs=7,
        machine_minutes=8.5,
        machine="abacus",
        command="ebm study ood --seeds '[0, 4]'",
        left_out=["seed 2"],
        tuned={"ours": {"value": 0.01, "tried": {"0.01": 1.5, "0.02": 1.6}, "at_end": True}},
        estimates=[],
    )
    text = " ".join("\n".join(CLAIMS["section"]("ood", found)).split())
    assert f"**Here the opposite holds.** {found.finding}" in text
    assert "2026-12-24, seeds 0, 4, 7 runs, 8.5 machine minutes (abacus): `ebm study ood --seeds '[0, 4]'`" in text
    assert "Tuned for ours:" in text
    assert "0.01 (1.5), 0.02 (1.6)" in text
    assert "No finding yet" in "\n".join(CLAIMS["section"]("ood", None))


def test_a_finding_of_another_study_is_refused(tmp_path, monkeypatch):
    quick_report(monkeypatch)
    conduct(tiny(tmp_path), tmp_path / "s", Here(), name="tiny")
    with pytest.raises(SystemExit, match="'tiny', which is not bundled"):
        CLAIMS["main"]([str(tmp_path / "s")])
