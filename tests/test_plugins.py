"""Packages that pip installs beside the toolkit: those in plugins/ keep their tests and the laws, broken ones are reported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_plugins import REPOSITORY, offering, run_python

PLUGINS = sorted(path.parent.name for path in (REPOSITORY / "plugins").glob("*/pyproject.toml"))
PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "1.0"
[project.entry-points.ebm]
it = "{entry}"
[tool.setuptools]
py-modules = [{module}]
"""
RAISING = """
from ebm.registry import hookimpl
def broken(dim: int = 2):
    raise RuntimeError("out of luck")
@hookimpl
def ebm_energies():
    return {"raising": broken}
"""
BROKEN = {  # name: (source, entry point, its reason in `ebm list`)
    "ebm-on-fire": ("import no_such_package\n", "ebm_on_fire", "No module named 'no_such_package'"),
    "ebm-thief": (offering("ebm_samplers", "langevin"), "ebm_thief", "the name belongs to the core"),
    "ebm-misspelt": (offering("ebm_enrgies", "x"), "ebm_misspelt", "did you mean 'ebm_energies'"),
    "ebm-nowhere": (None, "ebm_nowhere", "No module named 'ebm_nowhere'"),
    "ebm-no-name": ("x = 1\n", "ebm_no_name:plugin", "has no attribute 'plugin'"),
    "ebm-raising": (RAISING, "ebm_raising", None),
}


def pip_install(site: Path, *sources: Path) -> None:
    """Installs packages as a user does, but into a folder, and with what is here."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
        + ["--no-deps", "--no-build-isolation", "--target", str(site), *map(str, sources)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def copied(name: str, folder: Path) -> Path:
    """Copies a plugin's sources, so that building leaves nothing in the repository."""
    import shutil

    unwanted = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    return Path(shutil.copytree(REPOSITORY / "plugins" / name, folder / name, ignore=unwanted))


@pytest.mark.parametrize("name", PLUGINS)
def test_a_bundled_plugin_installs_and_passes_its_tests(name, tmp_path):
    source, site = copied(name, tmp_path), tmp_path / "site"
    pip_install(site, source)
    listed = run_python("-m", "ebm", "list", cwd=tmp_path, folders=(site,))
    assert listed.returncode == 0, listed.stderr
    assert name in listed.stdout
    assert "not loaded" not in listed.stdout
    held(name, source, site, "tests", "--doctest-modules", name.replace("-", "_"))


@pytest.mark.parametrize("name", ["ebm-template", *(pytest.param(n, marks=pytest.mark.slow) for n in PLUGINS[:-1])])
def test_a_bundled_plugin_keeps_the_laws(name, tmp_path):
    pip_install(tmp_path / "site", source := copied(name, tmp_path))
    held(name, source, tmp_path / "site", "--ebm", name)


def held(name: str, source: Path, site: Path, *words: str) -> None:
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", *words, cwd=source, folders=(site,))
    assert done.returncode == 0, f"{name} {words}\n{done.stdout}\n{done.stderr}"


def test_no_plugin_is_named_or_imported_by_the_core():
    for path in sorted((REPOSITORY / "ebm").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for name in PLUGINS:
            assert name not in text, path
            assert name.replace("-", "_") not in text, path


def test_broken_packages_are_reported_and_stop_nothing(tmp_path):
    sources, site = [copied("ebm-template", tmp_path)], tmp_path / "site"
    for name, (source, entry, _) in BROKEN.items():
        folder, module = tmp_path / name, name.replace("-", "_")
        folder.mkdir()
        modules = "" if source is None else f'"{module}"'
        (folder / "pyproject.toml").write_text(PROJECT.format(name=name, entry=entry, module=modules))
        if source is not None:
            (folder / f"{module}.py").write_text(source)
        sources.append(folder)
    pip_install(site, *sources)

    def ebm(*words: str) -> subprocess.CompletedProcess[str]:
        return run_python("-m", "ebm", *words, cwd=tmp_path, folders=(site,))

    listed = ebm("list")
    assert listed.returncode == 0, listed.stderr
    offered, _, problems = listed.stdout.partition("not loaded")
    for name, (_, _, reason) in BROKEN.items():
        row = [line for line in problems.splitlines() if line.startswith(f"{name}\t")]
        if reason is None:
            assert not row
        else:
            assert row
            assert reason in problems
    assert offered.count("ebm-template\t") == 8
    assert "langevin" in offered
    shown = ebm("show", "template")
    assert shown.returncode == 0
    assert all(
        meaning in shown.stdout for meaning in ("the length of y", "standard deviation of a proposed step", "A bowl learns")
    )
    ran = ebm("run", "template", "--steps", "20", "--evaluate_limit", "50", "--out", "run")
    assert ran.returncode == 0, ran.stderr
    assert "mmd" in ran.stdout
    failed = ebm("run", "template", "--energy.use", "raising", "--out", "other")
    assert failed.returncode == 2
    assert "energy 'raising' of ebm-raising failed: RuntimeError: out of luck (" in failed.stderr
    kit = run_python("-m", "pytest", "-q", "--ebm", "ebm-raising", "--ebm", "ebm-misspelt", cwd=tmp_path, folders=(site,))
    assert kit.returncode == 1
    assert "out of luck" in kit.stdout
    assert "did you mean 'ebm_energies'" in kit.stdout
    unknown = run_python("-m", "pytest", "--ebm", "ebm-nonesuch", cwd=tmp_path, folders=(site,))
    assert unknown.returncode == 4
    assert "no installed distribution of this name" in unknown.stderr
