"""`ebm new-plugin`: what it writes is what lies in plugins/, and names that cannot be are refused."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from ebm.scaffold import new_plugin
from tests.fake_plugins import REPOSITORY

EXAMPLE = REPOSITORY / "plugins" / "ebm-template"


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {"__pycache__", "build"} & set(path.parts) and ".egg-info" not in str(path)
    }


def test_the_template_in_plugins_is_what_the_command_writes(tmp_path):
    written = new_plugin("ebm-template", tmp_path / "fresh")
    assert files(written.folder) == files(EXAMPLE), "write it anew: ebm new-plugin ebm-template --out plugins/ebm-template"
    assert not [path for path in tmp_path.iterdir() if path != written.folder]


def test_names_are_filled_in(tmp_path):
    written = new_plugin("My_EBMs", tmp_path / "here")
    assert written == (tmp_path / "here", "my-ebms", "my_ebms", "my-ebms")
    found = files(written.folder)
    module = [f"my_ebms/{name}" for name in ("__init__.py", "recipe.toml", "runs.py")]
    assert sorted(found) == ["README.md", *module, "pyproject.toml", "tests/test_laws.py"]
    assert not [name for name, text in found.items() if "$" in text]
    project = tomllib.loads(found["pyproject.toml"])
    assert project["project"]["name"] == "my-ebms"
    assert project["project"]["entry-points"]["ebm"] == {"my_ebms": "my_ebms"}
    assert tomllib.loads(found["my_ebms/recipe.toml"])["task"]["use"] == "my-ebms"
    for module in ("__init__", "runs"):
        code = [line for line in found[f"my_ebms/{module}.py"].splitlines() if line.strip()]
        assert len(code) < 70, "the template is to be read in a minute"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "a name has letters"),
        ("9lives", "a name has letters"),
        ("../up", "a name has letters"),
        ("a b", "a name has letters"),
        ("trailing-", "a name has letters"),
        ("text", "task 'text' is the toolkit's own"),
        ("ebm-langevin", "sampler 'langevin' is the toolkit's own"),
        ("json", "has a module or word 'json'"),
        ("class", "has a module or word 'class'"),
        ("ebm", "has a module or word 'ebm'"),
    ],
)
def test_names_that_cannot_be(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        new_plugin(name, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("x")
    with pytest.raises(ValueError, match="exists: choose another name"):
        new_plugin("mine", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious.txt"]


def test_it_is_said_what_to_type_next(tmp_path, monkeypatch, capsys):
    from ebm.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        main(["new-plugin", "ebm-rings"])
    assert done.value.code in (0, None)
    said = capsys.readouterr().out
    assert "ebm run rings" in said
    assert "pytest --ebm ebm-rings" in said
    assert (tmp_path / "ebm-rings" / "ebm_rings" / "__init__.py").is_file()
    assert "ebm_rings" not in sys.modules
