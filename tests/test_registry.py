"""Laws of the registry: who may offer what, what becomes of a broken plugin, and what `build` checks."""

from __future__ import annotations

import json
import subprocess
import sys
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ebm
from ebm import registry
from ebm.energies import MLPEnergy
from ebm.registry import KINDS, Problem, Registry, component, components, hookimpl, problems
from ebm.samplers import LangevinDynamics
from ebm.words import nearest
from tests.fake_plugins import HERE, environment, installed, offering, run_python, write_distribution

LAW = settings(max_examples=50, deadline=None, derandomize=True)


def reasons(distribution: str) -> str:
    return "\n".join(f"{p.what}: {p.reason}" for p in problems() if p.distribution == distribution)


@pytest.fixture
def fake(tmp_path):
    """Installs a distribution from its source, and the working one of fake_plugins; a test may write more before it asks."""
    write_distribution(tmp_path, "working", entry="tests.fake_plugins")
    with installed(tmp_path):
        yield lambda name, source=None, entry=None: write_distribution(tmp_path, name, source, entry)


# ------------------------------------------------------------------------------------------------------------- the core


def test_the_core_is_registered_through_its_own_hooks():
    assert components("energy")["mlp"].factory is MLPEnergy
    assert components("sampler")["langevin"].factory is LangevinDynamics
    for kind in KINDS:
        assert components(kind) or kind == "model", kind
        for name, found in components(kind).items():
            assert (found.name, component(kind, name)) == (name, found)
            if found.distribution == registry.CORE and not isinstance(found.factory, str):
                assert found.summary.endswith((".", ":")) or "." in found.summary, f"{kind} {name} says nothing of itself"
                assert component(kind, f"{registry.CORE}:{name}") == found


def test_components_are_listed_in_order_and_the_list_is_ones_own():
    listed = components("sampler")
    assert list(listed) == sorted(listed)
    listed.clear()
    problems().append("x")
    assert components("sampler")
    assert "x" not in problems()


# ------------------------------------------------------------------------------------------------------------- joining in


def test_a_plugin_offers_every_kind(fake, tmp_path):
    assert components("energy")["quadric"].distribution == "working"
    assert components("energy")["quadric"].summary == "Scores y by a bowl around zero: E(y) = c |y|² / 2."
    assert ebm.build("energy", "quadric", curvature=3.0).curvature.item() == 3.0
    assert ebm.build("task", "still", n=20).spec == {"dim": 2}
    assert problems() == []


def test_a_plugin_object_is_registered_without_an_entry_point(fake):
    class Plugin:
        @hookimpl
        def ebm_samplers(self):
            return {"mine": LangevinDynamics}

    registry.register(Plugin(), "notebook")
    assert component("sampler", "notebook:mine").factory is LangevinDynamics
    assert problems() == []


def test_a_plugins_recipe_is_offered_and_read(fake, tmp_path):
    recipe = tmp_path / "bowl.toml"
    recipe.write_text('summary = "A bowl."\n[task]\nuse = "still"\n[energy]\nuse = "quadric"\n[objective]\nuse = "around"\n')
    fake("cook", offering("ebm_recipes", "bowl", f"__import__('pathlib').Path({str(recipe)!r})"))
    assert components("recipe")["bowl"].summary == "A bowl."
    assert ebm.recipes.load("bowl")["energy"] == {"use": "quadric"}


def test_one_distribution_may_have_several_entry_points(tmp_path):
    write_distribution(tmp_path, "twins", offering("ebm_energies", "first"))
    (tmp_path / "second_twin.py").write_text(offering("ebm_samplers", "second"))
    (tmp_path / "twins-1.0.dist-info" / "entry_points.txt").write_text("[ebm]\na = twins\nb = second_twin\n")
    with installed(tmp_path):
        assert component("energy", "first").distribution == component("sampler", "second").distribution == "twins"
        assert problems() == []


# -------------------------------------------------------------------------------------------------------- whose name it is


@pytest.mark.parametrize(("hook", "kind", "name"), [("ebm_energies", "energy", "mlp"), ("ebm_samplers", "sampler", "langevin")])
def test_a_name_of_the_core_cannot_be_taken(fake, hook, kind, name):
    before = component(kind, name)
    fake("thief", offering(hook, name))
    registry.registry.cache_clear()
    assert component(kind, name) == before
    assert f"{kind} {name!r}" in reasons("thief")
    assert "the name belongs to the core" in reasons("thief")
    with pytest.raises(ValueError, match=f"no {kind} is named 'thief:{name}'"):
        component(kind, f"thief:{name}")
    assert components("energy")["quadric"]  # nobody else is harmed


def test_what_else_the_thief_of_a_name_offers_is_kept(fake):
    fake("thief", offering("ebm_energies", "mlp").replace("}", ", 'honest': lambda: 1}"))
    assert component("energy", "honest").distribution == "thief"


def test_a_name_that_two_plugins_offer_is_an_error_only_when_asked_for(fake):
    fake("left", offering("ebm_energies", "both", "lambda: 'left'"))
    fake("right", offering("ebm_energies", "both", "lambda: 'right'"))
    assert {"left:both", "right:both"} <= components("energy").keys()
    assert "both" not in components("energy")
    assert problems() == []
    with pytest.raises(ValueError, match=r"energy 'both' is offered by 2 distributions") as caught:
        ebm.build("energy", "both")
    assert "left:both" in str(caught.value)
    assert "right:both" in str(caught.value)
    assert (ebm.build("energy", "left:both"), ebm.build("energy", "right:both")) == ("left", "right")


def test_one_distribution_offers_a_name_once(tmp_path):
    write_distribution(tmp_path, "twins", offering("ebm_energies", "one", "lambda: 'first'"))
    (tmp_path / "second_twin.py").write_text(offering("ebm_energies", "one", "lambda: 'second'"))
    (tmp_path / "twins-1.0.dist-info" / "entry_points.txt").write_text("[ebm]\na = twins\nb = second_twin\n")
    with installed(tmp_path):
        assert ebm.build("energy", "one") == "first"
        assert "offered twice" in reasons("twins")


# --------------------------------------------------------------------------------------------------------- broken plugins

HOOK = "from ebm.registry import hookimpl\n\n@hookimpl\ndef ebm_tasks():\n    "
BROKEN = {
    "no-such-package": (None, "no_such_package", "No module named 'no_such_package'"),
    "no-such-name": ("x = 1\n", "no_such_name:plugin", "plugin"),
    "fails-to-import": ("raise RuntimeError('on fire')\n", None, "on fire"),
    "syntax": ("def f(:\n", None, "SyntaxError"),
    "exits": ("raise SystemExit(3)\n", None, "SystemExit: 3"),
    "points-at-none": ("nothing = None\n", "points_at_none:nothing", "None"),
    "points-at-a-number": ("number = 5\n", "points_at_a_number:number", "offers nothing"),
    "offers-nothing": ("x = 1\n", None, "offers nothing"),
    "misspelt-hook": (offering("ebm_energys", "x"), None, "did you mean 'ebm_energies'"),
    "unmarked-hook": ("def ebm_energies():\n    return {}\n", None, "hookimpl"),
    "argument": (offering("ebm_energies", "x").replace("()", "(config)"), None, "config"),
    "raises": (HOOK + "raise OSError('no data')\n", None, "no data"),
    "exits-in-hook": (HOOK + "raise SystemExit(4)\n", None, "SystemExit: 4"),
    "no-mapping": (HOOK + "return 5\n", None, "hook ebm_tasks"),
    "none-mapping": (HOOK + "return\n", None, "hook ebm_tasks"),
    "not-callable": (offering("ebm_energies", "five", "5"), None, "energy 'five': ValueError: 5 is not callable"),
    "bad-name": (offering("ebm_energies", "a:b"), None, "without a colon"),
    "empty-name": (offering("ebm_energies", ""), None, "a component's name"),
    "number-name": (offering("ebm_energies", 5), None, "a component's name"),
    "no-recipe": (offering("ebm_recipes", "gone", "'gone.toml'"), None, "recipe 'gone'"),
    "odd-doc": (
        "class Odd:\n    __doc__ = property(lambda self: 1 / 0)\n    def __call__(self): ...\n\n"
        + offering("ebm_energies", "odd", "Odd()"),
        None,
        "energy 'odd': ZeroDivisionError",
    ),
    "no-function": (
        offering("ebm_energies", "odd", "'nowhere'"),
        None,
        "'nowhere' names no function: write it as 'module:function'",
    ),
    "odd-truth": ("import numpy\nplugin = numpy.zeros(3)\n", "odd_truth:plugin", "odd_truth:plugin"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_listed_with_its_reason_and_stops_nobody_else(fake, name):
    source, entry, reason = BROKEN[name]
    fake("a-" + name if source is None else name, source, entry)  # in the alphabet before and after "working"
    assert components("energy")["quadric"].distribution == "working"
    assert components("energy")["mlp"].distribution == registry.CORE
    found = reasons("a-" + name if source is None else name)
    assert reason in found
    for kind in KINDS:
        assert not [n for n, c in components(kind).items() if c.distribution == name]
    with pytest.raises(ValueError, match="no energy is named 'nonesuch'") as caught:
        component("energy", "nonesuch")
    assert reason in str(caught.value)  # the reader may be looking for what is broken


def test_what_is_right_with_a_half_broken_plugin_is_kept(fake):
    fake("half", offering("ebm_energies", "good").replace("}", ", 'wrong': 5}") + offering("ebm_taskz", "lost"))
    assert component("energy", "good").distribution == "half"
    assert "energy 'wrong'" in reasons("half")
    assert "hook ebm_taskz: no such hook: did you mean 'ebm_tasks'" in reasons("half")


def test_one_broken_plugin_among_many_hides_none_of_the_reasons(fake):
    for name, (source, entry, _) in BROKEN.items():
        fake(name, source, entry)
    assert component("energy", "quadric").distribution == "working"
    assert BROKEN.keys() <= {problem.distribution for problem in problems()}


def test_a_stop_by_the_user_is_not_a_plugins_fault(fake):
    fake("slow", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        components("energy")


def test_a_plugin_that_asks_for_components_while_it_is_imported_keeps_its_own(fake):
    fake("eager", "import ebm\nknown = list(ebm.components('sampler'))\n" + offering("ebm_energies", "eager"))
    assert component("energy", "eager").distribution == "eager"


def test_an_object_whose_hook_is_a_property_that_raises_is_recorded():
    class Odd:
        @property
        def ebm_energies(self):
            raise RuntimeError("not now")

    found = Registry()
    found.add(Odd(), "odd")
    assert [problem.distribution for problem in found.problems] == ["odd"]


def test_the_core_may_not_be_broken(monkeypatch):
    broken = ModuleType("ebm.broken")
    broken.ebm_energies = hookimpl(lambda: {"bad": 5})
    monkeypatch.setitem(sys.modules, "ebm.broken", broken)
    monkeypatch.setattr(registry, "CORE_MODULES", (*registry.CORE_MODULES, "ebm.broken"))
    registry.registry.cache_clear()
    with pytest.raises(RuntimeError, match="5 is not callable"):
        components("energy")
    monkeypatch.undo()
    registry.registry.cache_clear()
    assert components("energy")


def test_what_the_core_offers_beside_its_lists_is_not_lost(monkeypatch):
    hidden = ModuleType("ebm.hidden")
    hidden.ebm_samplers = hookimpl(lambda: {"mine": LangevinDynamics})
    monkeypatch.setitem(sys.modules, "ebm.hidden", hidden)
    monkeypatch.setattr(registry, "CORE_PARTS", (*registry.CORE_PARTS, "ebm.hidden"))
    registry._core_parts.cache_clear()
    with pytest.raises(RuntimeError, match="sampler 'mine' is offered where nobody lists it"):
        registry.sections()
    monkeypatch.undo()
    assert registry.sections()


def test_a_problem_reads_as_a_sentence():
    assert str(Problem("mine", "hook x", "no such hook")) == "mine: hook x: no such hook"


# ----------------------------------------------------------------------------------------------------------------- build


def test_build_names_the_nearest_keyword_and_what_is_missing():
    with pytest.raises(ValueError, match=r"sampler 'langevin' has no keyword 'stepsize': did you mean 'step_size'\?"):
        ebm.build("sampler", "langevin", stepsize=0.1)
    with pytest.raises(ValueError, match="energy 'mlp' needs dim"):
        ebm.build("energy", "mlp", hidden=(3,))
    with pytest.raises(ValueError, match=r"no sampler is named 'langevn': did you mean 'langevin'\?"):
        ebm.build("sampler", "langevn")
    with pytest.raises(ValueError, match=r"no kind is named 'energi': did you mean 'energy'\?"):
        ebm.build("energi", "mlp")
    with pytest.raises(ValueError, match=r"a recipe is run, by ebm\.run"):
        ebm.build("recipe", "density")


def test_of_several_unknown_keywords_the_first_is_named():
    for _ in range(3):
        with pytest.raises(ValueError, match="has no keyword 'aaa'"):
            ebm.build("sampler", "langevin", aaa=1, zzz=2, step_size=0.1, bbb=3)
    script = "import ebm\ntry: ebm.build('sampler', 'langevin', aaa=1, zzz=2, bbb=3)\nexcept ValueError as e: print(e)"
    for seed in ("1", "2"):  # the order of a set of strings is another in every process
        env = environment(PYTHONHASHSEED=seed)
        out = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
        assert "'aaa'" in out.stdout


@pytest.mark.parametrize(
    ("factory", "keywords", "result"),
    [("dict", {}, {}), ("lambda *a: a", {}, ()), ("lambda **k: k", {"x": 1}, {"x": 1}), ("lambda a=1, /: a", {}, 1)],
)
def test_any_callable_may_be_offered(fake, factory, keywords, result):
    fake("odd", offering("ebm_energies", "odd", factory))
    assert ebm.build("energy", "odd", **keywords) == result


@LAW
@given(st.text(max_size=20))
def test_a_name_is_known_or_a_value_error_says_that_it_is_not(name):
    if name in components("energy"):
        assert component("energy", name).name == name
        return
    with pytest.raises(ValueError, match="no energy is named"):
        component("energy", name)


@LAW
@given(st.text(max_size=10), st.lists(st.text(max_size=10), max_size=5))
def test_nearest_lists_all_that_is_known(name, known):
    assert all(each in nearest(name, known) for each in known)


# ------------------------------------------------------------------------------------------------------ what import costs

IMPORT = """
import json, sys
import ebm
light = "torch" not in sys.modules
import torch
before = set(sys.modules)
ebm.Energy, ebm.Sampler, ebm.energy_and_grad, dir(ebm)
after = set(sys.modules)
components = ebm.components("energy")
loud = ["loud" in names for names in (after, sys.modules, components)]
print(json.dumps([light, sorted(after - before), loud]))
"""


def test_import_loads_little_more_than_torch_and_no_plugin(tmp_path):
    write_distribution(tmp_path, "loud", offering("ebm_energies", "loud"))
    done = run_python("-c", IMPORT, cwd=tmp_path, folders=(tmp_path,))
    assert done.returncode == 0, done.stderr
    light, cost, loud = json.loads(done.stdout)
    # A count of modules cannot be disturbed by a slow machine; torch alone brings more than a thousand.
    assert [name for name in cost if name.partition(".")[0] not in ("ebm", *sys.stdlib_module_names)] == []
    ours = [name for name in cost if name.startswith("ebm.")]
    assert all(name.startswith("ebm.interfaces") for name in ours)
    assert len(cost) - len(ours) < 9
    assert light
    assert loud == [False, True, True]


def test_every_name_that_ebm_promises_is_there():
    for name in ebm.__all__:
        assert getattr(ebm, name) is not None
    assert set(ebm.__all__) <= set(dir(ebm))
    with pytest.raises(AttributeError, match="nonesuch"):
        ebm.nonesuch  # noqa: B018
    assert (HERE / "fake_plugins.py").exists()
