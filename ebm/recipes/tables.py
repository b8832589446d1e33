"""The tables of a recipe: which name a component, and what a recipe does not say itself."""

from __future__ import annotations

from ebm.registry import PARTS

COMPONENTS = ("task", "energy", "sampler", "objective")  # the tables that name one
LEARNED = "learned"  # the keyword of tasks and encoders that takes what a run keeps, which no recipe says
FIT_HANDED = ("energy", "objective", "task", "seed", "recipe", "baseline", "others", "out", "overwrite", "extend")
# A parameter of one of these names takes a component, or several, of the kind.
COMPONENT_PARAMETERS = {kind: kind for kind in PARTS} | {
    f"{kind}s": kind for kind in ("sampler", "objective", "callback", "logger")
}
COMPONENT_PARAMETERS |= {"energies": "energy", "base": "energy"}  # a base is the energy of another run
