"""`ebm new-plugin`: writes a package that joins the toolkit, with one component of each kind, from
the files in `template/`."""

from __future__ import annotations

import keyword
import re
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

from ebm.registry import CORE, KINDS, components

__all__ = ["new_plugin"]

# Where a file of the template goes; $module is a folder's name.
FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "__init__.py": "$module/__init__.py",
    "runs.py": "$module/runs.py",
    "recipe.toml": "$module/recipe.toml",
    "test_laws.py": "tests/test_laws.py",
}


class Written(NamedTuple):
    """A package that was written: where, and the names in it."""

    folder: Path
    distribution: str
    module: str
    component: str


def new_plugin(name: str, out: Path | None = None) -> Written:
    """Writes a new plugin package, whole or not at all.

    Arguments:
        name: the distribution's, as in my-ebms; components are called like it, without "ebm-".
        out: the folder to write; by default the name, in the working directory.

    Raises:
        ValueError: for a name that no distribution or module may have or that belongs to the core,
            or a folder that exists.
    """
    if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?", name):
        raise ValueError(f"new-plugin {name!r}: a name has letters, digits and hyphens, and begins with a letter, as in my-ebms")
    distribution = re.sub(r"[-_]+", "-", name).lower()
    component, module = distribution.removeprefix("ebm-"), distribution.replace("-", "_")
    if taken := [kind for kind in KINDS if getattr(components(kind).get(component), "distribution", None) == CORE]:
        raise ValueError(f"new-plugin {name!r}: {taken[0]} {component!r} is the toolkit's own: choose another name")
    if _is_taken(module):
        raise ValueError(f"new-plugin {name!r}: Python has a module or word {module!r} already: choose another name")
    folder = Path(name) if out is None else out
    if folder.exists():
        raise ValueError(f"new-plugin {name!r}: {folder} exists: choose another name, or --out another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    written = Written(folder, distribution, module, component)
    names = written._asdict()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as draft:
        for source, target in FILES.items():
            text = (files(__name__) / "template" / f"{source}.txt").read_text(encoding="utf-8")
            path = Path(draft) / folder.name / Template(target).substitute(names)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(names), encoding="utf-8")
        shutil.move(Path(draft) / folder.name, folder)
    return written


def _is_taken(module: str) -> bool:
    ours = ("ebm", "torch", "tests", "test", "plugins")
    return module in sys.stdlib_module_names or keyword.iskeyword(module) or module in ours
