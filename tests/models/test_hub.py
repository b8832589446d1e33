"""Models on a hub: what was pushed is what is loaded, only files of ours are taken, and failures say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ebm
from ebm.cli import main
from tests.fake_plugins import quick_report
from tests.models.hub import standing_in

TINY = {
    "task": {"use": "points", "name": "moons", "n": 60},
    "energy": {"use": "mlp", "hidden": [8]},
    "objective": {"use": "contrastive-divergence", "sampler": {"use": "langevin", "step_size": 0.1, "steps": 2}},
    "fit": {"steps": 2, "batch_size": 4, "evaluate_limit": 4},
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    quick_report(monkeypatch)
    monkeypatch.chdir(tmp_path)
    with standing_in(monkeypatch, tmp_path / "cache") as found:
        yield found


@pytest.fixture
def run(hub):
    return ebm.run(TINY, out="run")


def said(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    shown = capsys.readouterr()
    assert shown.err.count("\n") == (stop.value.code != 0), shown.err  # no bars, and one line of an error
    return (stop.value.code, *shown)


def test_what_was_pushed_is_what_is_loaded(hub, run, capsys):
    assert run.push_to_hub("someone/tiny", private=True, licence="mit") == f"{hub.url}/someone/tiny"
    assert hub.private == {"someone/tiny": True}
    assert "Bearer hf_test" in hub.tokens
    files = hub.repositories["someone/tiny"]
    assert {"README.md", "learned/task.json", "metrics.json", "model.json", "model.safetensors", "recipe.toml"} <= {*files}
    assert b"license: mit" in files["README.md"]
    assert b'ebm.load("someone/tiny")' in files["README.md"]
    before = run.sample(5, seed=3)
    found = ebm.load("someone/tiny")
    assert found.sample(5, seed=3).equal(before)
    assert found.metrics == run.metrics
    status, out, _ = said(capsys, "eval", "someone/tiny", "--json")
    assert (status, json.loads(out)) == (0, pytest.approx(run.metrics))


def test_the_command_pushes_runs_and_exported_models(hub, run, capsys):
    assert said(capsys, "push", "run", "someone/tiny", "--message", "First")[:2] == (0, f"{hub.url}/someone/tiny\n")
    run.export("model", licence="mit")
    assert said(capsys, "push", "model", "someone/other")[0] == 0
    assert hub.repositories["someone/other"]["model.json"] == Path("model/model.json").read_bytes()
    assert said(capsys, "push", "someone/other", "someone/third")[0] == 0
    assert ebm.load("someone/third").metrics == run.metrics
    assert said(capsys, "push", "run", "someone/tiny")[0] == 0


def test_other_files_of_a_repository_are_left_there(hub, run):
    run.push_to_hub("someone/tiny")
    hub.repositories["someone/tiny"] |= {
        "evil.py": b"raise SystemExit(9)",
        "more.safetensors": bytes(9),
        "pytorch_model.bin": b"x",
    }
    path = ebm.load("someone/tiny").path
    assert not [file for file in path.rglob("*") if file.name in ("evil.py", "more.safetensors", "pytorch_model.bin")]


def test_models_of_other_libraries_are_refused_before_their_weights_are_fetched(hub):
    hub.repositories["someone/llm"] = {"config.json": b"{}", "model.safetensors": bytes(100)}
    hub.repositories["someone/layers"] = {"model.json": b'{"format": "layers-model"}', "weights.bin": bytes(100)}
    hub.private |= {"someone/llm": False, "someone/layers": False}
    with pytest.raises(ValueError, match=r"someone/llm of the hub is no model of this toolkit: it has no model.json"):
        ebm.load("someone/llm")
    with pytest.raises(ValueError, match="no model of this toolkit: its model.json has no format and no files"):
        ebm.load("someone/layers")
    assert not [path for verb, path in hub.asked if verb == "GET" and path.endswith((".safetensors", ".bin"))]


def test_files_that_could_be_code_are_refused(hub, run):
    model = run.export("model")
    index = json.loads((model / "model.json").read_text())
    from ebm.runs.index import seal as _seal

    index["files"]["learned/tokenizer.py"] = "0"
    del index["sha256"]
    run.push_to_hub("someone/tiny")
    hub.repositories["someone/tiny"]["model.json"] = json.dumps({**index, "sha256": _seal(index)}).encode()
    with pytest.raises(ValueError, match=r"lists learned/tokenizer.py, and only .safetensors"):
        ebm.load("someone/tiny")


def test_without_a_network_it_fails_at_once_or_takes_what_was_downloaded(hub, run, monkeypatch):
    from huggingface_hub import constants

    run.push_to_hub("someone/tiny")
    ebm.load("someone/tiny")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.warns(UserWarning, match=r"the hub cannot be reached .*: someone/tiny is taken as it was downloaded before"):
        assert ebm.load("someone/tiny").metrics == run.metrics
    with pytest.raises(OSError, match=r"someone/none is no folder here .*the hub's someone/none cannot be had .*refused"):
        ebm.load("someone/none")
    with pytest.raises(OSError, match=r"the hub's someone/new cannot be had .*log in"):
        run.push_to_hub("someone/new")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert ebm.load("someone/tiny").metrics == run.metrics
    with pytest.raises(OSError, match="HF_HUB_OFFLINE=1 forbids"):
        run.push_to_hub("someone/new")


def test_what_the_hub_has_not_or_refuses_is_said(hub, run):
    with pytest.raises(ValueError, match=r"someone/none is no folder here.*is not there, or is private: check"):
        ebm.load("someone/none")
    with pytest.raises(ValueError, match="write owner/name"):
        run.push_to_hub("tiny")
    run.push_to_hub("someone/tiny")
    with pytest.raises(ValueError, match="everybody sees it"):
        run.push_to_hub("someone/tiny", private=True)
    with pytest.raises(ValueError, match="numbers too large for float16"):
        with __import__("torch").no_grad():
            next(run.energy.parameters()).fill_(1e30)
        run.push_to_hub("someone/huge", dtype="float16")
    assert "someone/huge" not in hub.repositories


def test_a_typing_error_below_a_folder_is_not_asked_of_the_hub(hub, run, tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match="runs is a folder here, so the hub is not asked"):
        ebm.load("runs/tiny")
    assert hub.asked == []
