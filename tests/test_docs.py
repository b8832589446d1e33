"""The guides are true: their programs run as written, their packages install, their commands work, what they point at exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_plugins import REPOSITORY, environment

GUIDES = sorted((REPOSITORY / "docs").glob("*.md"))


def blocks(guide: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (REPOSITORY / "docs" / guide).read_text(encoding="utf-8"), re.DOTALL)


def run(words: list[str], folder: Path, site: Path) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment(site), capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("guide", ["compose.md", "judging.md", "thinking.md", "video.md"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_programs_run_as_written(guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    found = blocks(guide, "python")
    assert found
    for block in found:
        exec(compile(block, guide, "exec"), names)


def test_the_plugin_guide_from_an_empty_folder(tmp_path):
    text = (REPOSITORY / "docs" / "plugins.md").read_text(encoding="utf-8")
    written = re.findall(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert [name for name, _ in written] == [
        "ebm-student/pyproject.toml",
        "ebm-student/ebm_student/__init__.py",
        "ebm-student/ebm_student/student.toml",
    ]
    for name, content in written:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    site, said = tmp_path / "site", {}
    tools = {
        "pip": ["-m", "pip", "--disable-pip-version-check"],
        "ebm": ["-m", "ebm"],
        "pytest": ["-m", "pytest", "-p", "no:cacheprovider"],
    }
    for line in "".join(blocks("plugins.md", "console")).splitlines():
        tool, *words = shlex.split(line)
        if tool == "pip":  # into a folder of its own, with what is here
            words = [*words, "--no-deps", "--no-build-isolation", "--quiet", "--target", str(site)]
        if tool == "pytest":
            words = [*words, "-p", "pytest_ebm"] if not _installed("pytest_ebm") else words
        said[line] = run([*tools[tool], *words], tmp_path, site)
    assert "ebm-student" in said["ebm list energy"]
    assert "the fewer, the heavier the tails" in said["ebm show student --kind energy"]
    assert (tmp_path / "runs" / "student" / "report.html").is_file()
    assert "2 passed" in said["pytest --ebm ebm-student"]
    program = "\n".join(block for block in blocks("plugins.md", "python") if "check_energy" in block or "ebm_examples" in block)
    run(["-c", f"from ebm.registry import hookimpl\n{program}\nassert ebm_examples()"], tmp_path, site)


def _installed(plugin: str) -> bool:
    from importlib.metadata import entry_points

    return any(entry.value == plugin for entry in entry_points(group="pytest11"))


@pytest.mark.parametrize("guide", [path.name for path in GUIDES])
def test_what_they_point_at_exists(guide):
    for target in re.findall(r"\]\(([^)#]+)\)", (REPOSITORY / "docs" / guide).read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (REPOSITORY / "docs" / target).exists(), target
