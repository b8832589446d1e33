"""Laws of reading source: it tells what `inspect` tells of the imported thing, or that it cannot tell."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm import recipes, source
from ebm.cli import FIT, as_command, describe, recipe_of
from ebm.registry import CORE, KINDS, Component, component, components, documentation, inspected
from ebm.source import Unreadable
from tests.fake_plugins import offering, run_python, write_distribution

LAW = settings(max_examples=60, deadline=None, derandomize=True)
NAMED = [found for kind in KINDS for found in components(kind).values() if found.by_name and found.distribution == CORE]


@pytest.mark.parametrize("found", [*NAMED, FIT], ids=lambda found: f"{found.kind}-{found.name}")
def test_the_source_of_every_component_says_what_the_imported_one_says(found: Component):
    """A name that is wrong, a keyword that is missing or an odd default would be shown to people."""
    read, true = found.said, inspected(found.factory)
    assert read.text == true.text == documentation(found.factory)
    assert found.summary
    for row, expected in zip(describe(read), describe(true), strict=True):
        assert (row[0], row[2], row[3]) == (expected[0], expected[2], expected[3])


def test_every_component_can_be_read_without_an_import():
    """What cannot is imported, with torch, and `ebm show` of it takes seconds: none of our own does."""
    for found in NAMED:
        source.said(getattr(found.offered, "like", found.offered))


# -------------------------------------------------------------------------------------------- any signature, any bases


names = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6)
values = st.sampled_from(["1", "-2.5", "None", "'x'", "(1, 'y')", "()", "LIMIT", "math.inf", "1 / 3", "[1, 2]", "True"])


@st.composite
def signatures(draw) -> str:
    """Draws the parameters of a function, in all their kinds."""
    listed, kind, optional = [], 0, False
    for name in draw(names):
        step = draw(st.integers(0, 1))
        if step and kind == 0 and listed:
            listed.append("/")
        elif step and kind == 1:
            listed.append("*")
            optional = False
        kind = min(2, kind + step)
        optional = draw(st.booleans()) or (optional and kind < 2)
        hint = draw(st.sampled_from(["", ": int", ": dict[str, float] | None"]))
        listed.append(f"{name}{hint}{f' = {draw(values)}' if optional else ''}")
    return ", ".join([*listed, *(["**more"] if draw(st.booleans()) else [])])


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module, and names it; each has another name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def write(text: str) -> str:
        name = f"written_{len(made)}"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


HEAD = "from __future__ import annotations\nimport math\nLIMIT = (3, 4.5)\n"


@LAW
@given(signatures())
def test_any_signature_is_read_as_inspect_reads_it(tmp_path_factory, parameters):
    folder = tmp_path_factory.mktemp("signatures")
    body = f"{HEAD}\n\ndef made({parameters}):\n    'Says so.'\n\n\nclass Made:\n    def __init__(self, {parameters}): ...\n"
    (folder / f"{folder.name}.py").write_text(body)
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        found = importlib.import_module(folder.name)
        for thing in (found.made, found.Made):
            read, true = source.said(f"{folder.name}:{thing.__name__}").parameters, inspect.signature(thing).parameters
            assert list(read.values()) == list(true.values())
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(folder.name, None)


def test_bases_are_ordered_as_python_orders_them(module):
    name = module(
        "class A:\n    'A, in words.'\n    def __init__(self, a=1): ...\n"
        "class B(A): ...\n"
        "class C(A):\n    'C, in words.'\n    def __init__(self, c=2):\n        'Takes c.'\n"
        "class D(B, C): ...\n"
    )
    made = importlib.import_module(name)
    for kind in "ABCD":
        read, true = source.said(f"{name}:{kind}"), inspected(getattr(made, kind))
        assert read.text == true.text
        assert list(read.parameters) == list(true.parameters)
        assert [text for text in read.texts if text] == [
            text for text in true.texts if text and text not in (object.__doc__, object.__init__.__doc__)
        ]


@pytest.mark.parametrize(
    "text",
    [
        "if True:\n    def made(a): ...\nelse:\n    def made(b): ...\n",
        "def made(a): ...\ndef made(b): ...\n",
        "def made(a): ...\nif True:\n    made = print\n",
        "def made(a): ...\ntry:\n    from math import sin as made\nexcept ImportError:\n    pass\n",
        "made = dict\n",
        "made = lambda a: a\n",
        "from elsewhere import made\n",
        "def odd(f): return print\n\n@odd\ndef made(a): ...\n",
        "class made(dict): ...\n",
        "class made(metaclass=type): ...\n",
        "class made:\n    def __new__(cls, a): ...\n",
        "class made:\n    def __init__(self, a): ...\nmade.__signature__ = 5\n",
        "import os\ndef made(a=os.environ): ...\n",
        "def made(a=later()): ...\n",
        "def made(a=1 / 0): ...\n",
        "def checked(f): return print\n\n@checked\ndef made(a): ...\n",
        "A = 1\nclass made:\n    A = 2\n    def __init__(self, a=A): ...\n",
        "class made:\n    def __init__(self, a): ...\n    __init__ = print\n",
        "class made:\n    if True:\n        def __init__(self, a): ...\n",
        "class made:\n    __doc__ = 'Says so.'\n    def __init__(self, a): ...\n",
        "def odd(f): return print\n\nclass made:\n    @odd\n    def __init__(self, a): ...\n",
        "def made(a): ...\ndel made\n",
        "def made(a=nowhere): ...\n",
        "def made(:\n",
        "",
    ],
)
def test_what_is_not_certain_is_not_guessed(module, text):
    with pytest.raises(Unreadable):
        source.said(f"{module(text)}:made")


def test_what_changed_on_the_disk_is_read_anew(module, tmp_path):
    name = module("def made(a): ...\n")
    assert list(source.said(f"{name}:made").parameters) == ["a"]
    (tmp_path / f"{name}.py").write_text("def made(b): ...\n")
    os.utime(tmp_path / f"{name}.py", ns=(1, 1))
    assert list(source.said(f"{name}:made").parameters) == ["b"]


# ------------------------------------------------------------------------------------------------------- without torch

LIGHT = """
import sys
from ebm.cli import main
from ebm.registry import KINDS, components

def said(*words):
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 0, words
    for slow in ("torch", "numpy", "lightning_fabric", "matplotlib", "pydantic"):
        assert slow not in sys.modules, f"ebm {' '.join(words)} imports {slow}, to print"

said("--version")
said("--help")
said()
for kind in (None, *KINDS):
    said("list", *([kind] if kind else []))
    said("list", *([kind] if kind else []), "--json")
for verb in ("run", "list", "show", "study", "new-plugin", "eval", "generate", "sample", "denoise", "rollout", "solve", "probe"):
    said(verb, "--help")
for kind in KINDS:
    for name in components(kind):
        said("show", name, "--kind", kind)
        said("show", name, "--json")
"""


def test_help_and_lists_and_explanations_import_no_torch(tmp_path):
    """Counts no seconds: what is refused cannot be spent."""
    done = run_python("-c", LIGHT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "langevin" in done.stdout


@pytest.mark.parametrize("name", [found.name for found in NAMED if found.kind == "command"])
def test_a_commands_options_are_the_functions_own(name):
    found = component("command", name)
    read, true = as_command(found), as_command(replace(found, offered=found.factory))
    assert inspect.signature(read) == inspect.signature(true)
    assert (read.__annotations__, inspect.getdoc(read)) == (true.__annotations__, inspect.getdoc(true))


def test_a_plugin_that_offers_by_name_is_listed_without_an_import(tmp_path):
    write_distribution(tmp_path, "lazy", offering("ebm_energies", "bowl", "'lazy_parts:Bowl'"))
    (tmp_path / "lazy_parts.py").write_text(
        "raise RuntimeError('it is imported')\n\nclass Bowl:\n    '''Scores by a bowl.'''\n\n    def __init__(self, c=2): ...\n"
    )
    listed = run_python("-m", "ebm", "list", "energy", cwd=tmp_path, folders=(tmp_path,))
    assert "bowl\tlazy\tScores by a bowl.\n" in listed.stdout
    shown = run_python("-m", "ebm", "show", "bowl", cwd=tmp_path, folders=(tmp_path,))
    assert "c\t\t2\t\n" in shown.stdout
    script = "import ebm\ntry: ebm.build('energy', 'bowl')\nexcept ValueError as error: print(error)"
    built = run_python("-c", script, cwd=tmp_path, folders=(tmp_path,))
    assert "'bowl' of lazy: lazy_parts:Bowl cannot be imported: RuntimeError: it is imported" in built.stdout


@pytest.mark.parametrize("name", sorted(components("recipe")))
def test_a_bundled_recipe_is_shown_as_it_is_run(name):
    """It is shown unchecked, since the check takes torch: here it is checked."""
    assert recipe_of(name) == json.loads(json.dumps(recipes.resolve(recipes.load(name))))
