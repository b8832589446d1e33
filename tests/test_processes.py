"""Laws of processes: threads wait as the user says, or passively, and are as many as is asked."""

from __future__ import annotations

import os

import pytest
import torch

from ebm.cli import main
from ebm.optional import only_named
from ebm.processes import PASSIVE, is_first_process, use_threads, wait_passively
from tests.fake_plugins import installed, quick_report, run_python, write_distribution
from tests.test_cli import TINY


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """Leaves the number of threads and the environment as they were."""
    before = torch.get_num_threads()
    for name in (*PASSIVE, "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # which is then put back, also where there was none
        monkeypatch.delenv(name)
    yield
    torch.set_num_threads(before)


def said(*words: object) -> int:
    with pytest.raises(SystemExit) as leaving:
        main([str(word) for word in words])
    return leaving.value.code


def test_threads_wait_passively_unless_the_user_says_how_they_wait(monkeypatch):
    wait_passively()
    assert {name: os.environ[name] for name in PASSIVE} == PASSIVE
    for name in PASSIVE:
        for each in PASSIVE:
            monkeypatch.delenv(each, raising=False)
        monkeypatch.setenv(name, "active")
        wait_passively()
        assert os.environ[name] == "active"
        assert len(PASSIVE.keys() & os.environ.keys()) == 1


def test_the_command_line_says_so_before_torch_could_ask(tmp_path):
    script = """
import os, sys
for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
    os.environ.pop(name, None)

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch finds", os.environ.get("OMP_WAIT_POLICY"), os.environ.get("OMP_NUM_THREADS"))

sys.meta_path.insert(0, Watch())
from ebm.cli import main
main(["run", "nowhere.toml", "--threads", "3"])
"""
    done = run_python("-c", script, cwd=tmp_path)
    assert "torch finds passive 3" in done.stdout
    assert "nowhere.toml" in done.stderr


def test_the_number_of_threads_is_said_to_torch_and_to_processes_that_are_started():
    use_threads(2)
    assert torch.get_num_threads() == 2
    assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "2"
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="at least one thread"):
            use_threads(wrong)


def test_runs_commands_and_studies_take_a_number_of_threads(tmp_path, monkeypatch, capsys):
    quick_report(monkeypatch)
    (tmp_path / "tiny.toml").write_text(TINY)
    assert said("run", tmp_path / "tiny.toml", "--out", tmp_path / "x", "--threads", "2") == 0
    assert torch.get_num_threads() == 2
    assert said("eval", tmp_path / "x", "--threads", "1") == 0
    assert torch.get_num_threads() == 1
    assert said("study", "nonesuch", tmp_path / "x", "--threads", "2") == 2
    assert torch.get_num_threads() == 2
    assert said("eval", tmp_path / "x", "--threads", "0") == 2
    assert "at least one thread" in capsys.readouterr().err
    assert "threads" not in (tmp_path / "x" / "recipe.toml").read_text()  # it belongs to the machine


def test_a_command_with_threads_of_its_own_keeps_them(tmp_path, monkeypatch, capsys):
    quick_report(monkeypatch)
    source = "from ebm.registry import hookimpl\n\ndef weave(run, threads: int = 5):\n    return {'woven': threads}\n\n"
    source += "def spin(run, **more):\n    return {'spun': len(more)}\n\n"
    source += "@hookimpl\ndef ebm_commands():\n    return {'weave': weave, 'spin': spin}\n"
    write_distribution(tmp_path, "loom", source)
    (tmp_path / "tiny.toml").write_text(TINY)
    assert said("run", tmp_path / "tiny.toml", "--out", tmp_path / "x") == 0
    before = torch.get_num_threads()
    with installed(tmp_path):
        assert said("weave", tmp_path / "x", "--threads", "7") == 0
        assert "woven\t7" in capsys.readouterr().out
        assert torch.get_num_threads() == before
        assert said("spin", tmp_path / "x", "--threads", "2") == 0
        assert torch.get_num_threads() == 2


def test_the_first_process_is_known_before_they_join(monkeypatch):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert is_first_process()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_first_process()
    monkeypatch.setenv("RANK", "0")
    assert is_first_process()


# ---------------------------------------------------------------------------------------------- what training imports

FABRIC = """
import sys
from ebm.training.settings import fabric_of

fabric_of(accelerator="cpu", devices=1)
slow = [name for name in ("torchmetrics", "torchvision", "transformers", "scipy", "matplotlib") if name in sys.modules]
import torchmetrics
from lightning_fabric.utilities.imports import _TORCHMETRICS_GREATER_EQUAL_1_0_0 as known

print(slow, torchmetrics.MeanMetric.__name__, known)
"""


def test_fabric_is_told_the_version_of_what_it_need_not_import(tmp_path):
    pytest.importorskip("torchmetrics")
    assert run_python("-c", FABRIC, cwd=tmp_path).stdout == "[] MeanMetric True\n"


def test_a_package_that_is_missing_or_there_is_left_alone():
    with only_named("nonesuch"), pytest.raises(ImportError):
        import nonesuch  # noqa: F401
    with only_named("torch"):
        import torch as there
    assert there is torch
