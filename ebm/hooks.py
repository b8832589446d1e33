"""The hooks that the core and third-party packages implement, and the kinds that they offer."""

from __future__ import annotations

from typing import Any

import pluggy

KINDS = {
    "energy": "ebm_energies",
    "sampler": "ebm_samplers",
    "objective": "ebm_objectives",
    "encoder": "ebm_encoders",
    "task": "ebm_tasks",
    "optimizer": "ebm_optimizers",
    "scheduler": "ebm_schedulers",
    "callback": "ebm_callbacks",
    "logger": "ebm_loggers",
    "recipe": "ebm_recipes",
    "study": "ebm_studies",
    "grid": "ebm_grids",
    "rival": "ebm_rivals",
    "command": "ebm_commands",
    "model": "ebm_models",
}
SECTIONS = "ebm_sections"  # called for each report, with arguments: it offers nothing by name
EXAMPLES = "ebm_examples"  # what the conformance kit asks for
HOOKS = (*KINDS.values(), SECTIONS, EXAMPLES)

hookspec = pluggy.HookspecMarker("ebm")
hookimpl = pluggy.HookimplMarker("ebm")


class Hooks:
    """What a plugin may implement; all but `ebm_sections` return a dictionary by name.

    A factory, a study or a command is offered as itself, or as "module:name", and is then imported
    when it is asked for: listing it reads its source.
    """

    @hookspec
    def ebm_energies(self) -> Any:
        """Offers energies: name -> factory."""

    @hookspec
    def ebm_samplers(self) -> Any:
        """Offers samplers: name -> factory."""

    @hookspec
    def ebm_objectives(self) -> Any:
        """Offers objectives: name -> factory."""

    @hookspec
    def ebm_encoders(self) -> Any:
        """Offers encoders of frames: name -> factory."""

    @hookspec
    def ebm_tasks(self) -> Any:
        """Offers tasks: name -> factory."""

    @hookspec
    def ebm_optimizers(self) -> Any:
        """Offers optimisers: name -> factory(**keywords), which returns a function of parameters."""

    @hookspec
    def ebm_schedulers(self) -> Any:
        """Offers schedulers: name -> factory(**keywords), which returns a function of the optimiser."""

    @hookspec
    def ebm_callbacks(self) -> Any:
        """Offers callbacks: name -> factory, which returns a function of (step, row, run)."""

    @hookspec
    def ebm_loggers(self) -> Any:
        """Offers loggers: name -> factory, which returns a logger as Lightning Fabric has them."""

    @hookspec
    def ebm_recipes(self) -> Any:
        """Offers recipes: name -> path of a TOML file."""

    @hookspec
    def ebm_studies(self) -> Any:
        """Offers studies: name -> study(run, **keywords), which returns findings or None.

        A study runs after training where the recipe has a table of its name, and by `ebm study`.
        """

    @hookspec
    def ebm_grids(self) -> Any:
        """Offers grids, studies that run recipes: name -> path of a TOML file."""

    @hookspec
    def ebm_rivals(self) -> Any:
        """Offers rivals: name -> factory(task), which returns a `Predictor` without training."""

    @hookspec
    def ebm_commands(self) -> Any:
        """Offers commands: verb -> function(run, …)."""

    @hookspec
    def ebm_models(self) -> Any:
        """Offers trained models: name -> the folder of an exported model, or of a run."""

    @hookspec
    def ebm_sections(self, run: Any, seed: int) -> Any:
        """Draws `ebm.reports.Section`s of a run's report; none for a run of another kind."""

    @hookspec
    def ebm_examples(self) -> Any:
        """Says how `pytest --ebm` builds a component: (kind, name) -> the check's keywords."""
