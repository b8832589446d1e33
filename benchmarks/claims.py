"""Writes docs/claims.md from what studies found: no number of it is typed.

    ebm study thinking --budget 20m --out studies/thinking
    python benchmarks/claims.py studies/thinking    # takes its finding over, and writes the page anew

A finding lies in docs/claims/NAME.json as the study wrote it; a study without one is said to have
none. `--check` writes nothing, and ends with 1 where the page is not what the findings say.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

from ebm.grids.findings import FINDING, Finding, read_finding
from ebm.grids.grid import load
from ebm.registry import CORE, components

DOCS = Path(__file__).parents[1] / "docs"
VERDICTS = {
    "holds": "the claim holds",
    "opposite": "the opposite holds",
    "mixed": "the claim holds in part at most",
    "undecided": "nothing is decided",
}


def page(findings: dict[str, Finding]) -> str:
    """Writes the page: a section for each bundled study."""
    parts = ["# What is claimed of energy-based transformers, and what was found here"]
    parts.append(
        wrapped(
            "Written by `python benchmarks/claims.py` from what `ebm study NAME` found, at the scale of the machine that is "
            "named and no other; how studies are conducted and intervals made stands in [studies.md](studies.md). A study "
            "without a finding has not been conducted in full."
        )
    )
    for name, found in components("grid").items():
        if found.distribution == CORE:
            parts += section(name, findings.get(name))
    return "\n\n".join(parts) + "\n"


def section(name: str, found: Finding | None) -> list[str]:
    """Writes what a study claims and found."""
    grid = load(name)
    parts = [f"## {name}", wrapped(f"*{grid.claim}* ({grid.source})")]
    if found is None:
        return [*parts, wrapped(f"No finding yet: `ebm study {name}` conducts it.")]
    parts.append(wrapped(f"**Here {VERDICTS[found.verdict]}.** {found.finding}"))
    for arm, tuned in found.tuned.items():
        tried = ", ".join(f"{value} ({score:.4g})" for value, score in tuned["tried"].items())
        setting = grid.tune.setting if grid.tune is not None else ""
        parts.append(wrapped(f"Tuned for {arm}: {setting} = {tuned['value']:g}, of {tried}."))
    seeds = ", ".join(map(str, found.seeds))
    cost = f"{found.date}, seeds {seeds}, {found.runs} runs, {found.machine_minutes:g} machine minutes ({found.machine})"
    return [*parts, wrapped(f"{cost}: `{found.command}`")]


def wrapped(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def main(words: list[str]) -> int:
    kept = DOCS / "claims"
    for folder in [Path(word) for word in words if word != "--check"]:
        found = read_finding(folder)
        if found.study not in components("grid"):
            raise SystemExit(f"{folder} is of the study {found.study!r}, which is not bundled")
        kept.mkdir(exist_ok=True)
        (kept / f"{found.study}.json").write_bytes((folder / FINDING).read_bytes())
    findings = {path.stem: Finding(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(kept.glob("*.json"))}
    written = page(findings)
    if "--check" in words:
        return int((DOCS / "claims.md").read_text(encoding="utf-8") != written)
    (DOCS / "claims.md").write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
