"""The order in which folders may import each other is held, by the check that CI runs: an import that runs up breaks it."""

from __future__ import annotations

import shutil

import pytest

from tests.fake_plugins import REPOSITORY, run_python

CHECK = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, is_debug_mode=False))"


def test_dependencies_run_one_way():
    done = run_python("-c", CHECK, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout
    assert "lint-imports" in (REPOSITORY / ".ci" / "run").read_text()


@pytest.mark.parametrize("planted", ["from ebm.reports.page import write_report", "def f():\n    import ebm.cli"])
def test_a_planted_import_that_runs_up_is_found(tmp_path, planted):
    shutil.copytree(REPOSITORY / "ebm", tmp_path / "ebm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    with (tmp_path / "ebm" / "samplers" / "langevin.py").open("a") as file:
        file.write(f"\n\n{planted}\n")
    done = run_python("-c", CHECK, cwd=tmp_path, folders=(tmp_path,))
    assert done.returncode == 1
    assert "ebm.samplers is not allowed to import" in done.stdout
