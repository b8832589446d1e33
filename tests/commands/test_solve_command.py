"""`ebm solve`: answers, pictures, and problems that cannot be read."""

import json

import pytest
import torch

import ebm
from ebm.cli import main
from tests.studies.test_answers import SMALL

PLAIN = {key: value for key, value in SMALL.items() if not key.startswith("thinking")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from ebm.recipes import load

    recipe = {key: value for key, value in load("sudoku").items() if key not in ("baseline", "pace", "thinking")}
    return ebm.run(recipe, {**PLAIN, "fit.steps": 150}, out=tmp_path_factory.mktemp("runs") / "solver")


def called(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


def test_a_board_is_solved_from_a_file_or_as_it_stands(run, tmp_path, capsys):
    rows = run.task.rows("test")
    text = run.task.game.show(rows.context[0])
    path = tmp_path / "puzzle.txt"
    path.write_text(text)
    for puzzle in (path, text.replace("\n", "")):
        code, out, err = called(capsys, "solve", run.path, puzzle, "--out", tmp_path / "board.png")
        assert code == 0
        answer = run.task.game.read(out)
        right = bool(run.task.accepts(answer[None], rows.rows(slice(1))))
        assert ("It is right." in err) == right
        assert "energy" in err
        assert (tmp_path / "board.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("search", ["plain", "fresh", "hop", "cool"])
def test_json_says_the_same_for_every_search(run, capsys, search):
    rows = run.task.rows("test")
    text = run.task.game.show(rows.context[1]).replace("\n", "")
    code, out, _ = called(capsys, "solve", run.path, text, "--search", search, "--candidates", 2, "--steps", 20, "--json")
    found = json.loads(out)
    assert code == 0
    answer = torch.tensor(found["answer"])
    known = rows.context[1] >= 0
    assert torch.equal(answer[known], rows.context[1][known])
    assert found["right"] == bool(run.task.accepts(answer[None], rows.rows(slice(1, 2))))
    assert found["steps"] == 20
    assert 0 <= found["settled"] <= 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["12"], "2 cells"),
        (["." * 16, "--candidates", "0"], "candidates=0"),
        (["." * 16, "--steps", "-1"], "steps=-1"),
        (["." * 16, "--steps", "0"], "steps=0"),
    ],
)
def test_problems_that_cannot_be_are_one_line(run, capsys, arguments, message):
    code, _, err = called(capsys, "solve", run.path, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_picture_never_replaces_the_puzzle(run, tmp_path, capsys):
    path = tmp_path / "puzzle.txt"
    path.write_text("." * 16)
    code, _, err = called(capsys, "solve", run.path, path, "--out", path)
    assert (code, path.read_text()) == (2, "." * 16)
    assert "is the puzzle itself" in err


def test_a_run_of_another_kind_is_refused(tmp_path, capsys):
    small = {"fit.steps": 2, "fit.evaluate_limit": 20, "energy.hidden": [8], "task.n": 200}
    run = ebm.run("density", small, out=tmp_path / "plane")
    code, _, err = called(capsys, "solve", run.path, "1+1")
    assert code == 2
    assert "reads no problems" in err


def test_a_verifier_may_not_know_a_problem(run, capsys, monkeypatch):
    monkeypatch.setattr(type(run.task), "judges", lambda self, context: False, raising=False)
    text = run.task.game.show(run.task.rows("test").context[0]).replace("\n", "")
    code, out, _ = called(capsys, "solve", run.path, text, "--json")
    assert code == 0
    assert json.loads(out)["right"] is None
