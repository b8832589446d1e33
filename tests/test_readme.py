"""The README is true: its Python runs as written, its commands are those that CI runs, what it points at exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ebm.registry import components

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.filterwarnings("ignore::UserWarning")  # what libraries say about the machine is none of the README's business
def test_python_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"Quadric": type("Quadric", (), {})}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["samples"].shape == (512, 2)
    assert (tmp_path / "runs" / "moons" / "report.html").is_file()
    assert names["ebm_energies"]() == {"quadric": names["Quadric"]}


def test_ci_runs_the_test_command_as_written():
    commands = [line for line in README.splitlines() if re.match(r"python3 -m venv .*pytest", line)]
    assert len(commands) == 1
    found = subprocess.run(["grep", "-E", "^python3 -m venv .*pytest", "README.md"], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.splitlines() == commands
    assert "grep -E '^python3 -m venv .*pytest' README.md" in (ROOT / ".ci" / "run").read_text()


def test_what_it_points_at_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    for recipe in re.findall(r"ebm run ([a-z-]+)", README):
        assert recipe in components("recipe")
