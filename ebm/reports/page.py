"""The report of a run: one HTML file with a verdict, tables and sections."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any

import jinja2
import tomli_w
from torch import nn

from ebm.files import write_text
from ebm.randomness import own_randomness, subseed
from ebm.registry import CORE, reason_of, sections
from ebm.reports.section import Section
from ebm.runs.doctor import Verdict, diagnose
from ebm.runs.history import read_history
from ebm.runs.rollback import rollbacks
from ebm.runs.run import Run

PNG = b"\x89PNG\r\n"  # what a picture begins with


def write_report(run: Run, seed: int, stopped: str = "", notes: Sequence[str] = ()) -> None:
    """Writes `report.html` into a run's folder.

    Run and seed determine its bytes. A section that fails becomes a note naming its distribution.

    Arguments:
        run: the run, whose folder holds metrics.csv (or FileNotFoundError is raised).
        seed: what every draw is derived from.
        stopped: why training could not go on, where it could not.
        notes: sentences to show above everything else.
    """
    history = read_history(run.path)
    judged = diagnose(history, stopped)
    said = [*notes, *(f"Training went back to step {back['to']}. {back['because']}" for back in rollbacks(run.path))]
    shown: list[Section] = []
    for distribution, draw in sections():
        try:
            for section in _drawn(draw, run, seed):
                shown.append(section)  # one by one: what was drawn before a failure stays
        except ImportError as error:
            said.append(f"Sections of {distribution} are missing. {error}")
        except FloatingPointError as error:  # a bad landscape deserves a report all the more
            said.append(f"A section of {distribution} is missing, because chains ran away from the landscape. {error}")
            if distribution == CORE and judged.healthy:
                judged = Verdict(False, "Training diverged: chains run away from the landscape.")
        except (Exception, SystemExit) as error:  # a plugin's section may raise anything
            where = f"{draw.__module__}.{draw.__qualname__}" if hasattr(draw, "__qualname__") else repr(draw)
            said.append(f"A section of {distribution} is missing: {where} failed. {reason_of(error)}")
    parts = [(kind, getattr(run, kind)) for kind in ("energy", "objective", "task", "sampler")]
    facts = [f"{kind} {getattr(part, '__name__', type(part).__name__)}" for kind, part in parts if part is not None]
    parameters = sum(p.numel() for p in run.energy.parameters()) if isinstance(run.energy, nn.Module) else 0
    steps = max((steps[-1] for (split, _), (steps, _) in history.items() if split == "train"), default=0)
    compared = run.baseline.metrics if run.baseline is not None else {}
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        files("ebm.reports").joinpath("page.html").read_text(encoding="utf-8")
    )
    page = template.render(
        title=run.recipe.get("summary") or " · ".join(fact.split()[1] for fact in facts),
        facts=[*facts, f"{parameters:,} parameters", f"{steps:,} training steps", f"seed {seed}"],
        verdict=judged,
        notes=list(dict.fromkeys(said)),
        metrics=[(name, f"{value:.5g}", _number(compared.get(name))) for name, value in run.metrics.items()],
        compared=bool(compared),
        step_sizes=_step_sizes(run),
        sections=[_ready(section) for section in sorted(shown, key=lambda section: section.place)],
        recipe=tomli_w.dumps(run.recipe) if run.recipe else "",
    )
    write_text(run.path / "report.html", page + "\n")


def _drawn(draw: Callable[..., Iterable[Section] | None], run: Run, seed: int) -> Iterator[Section]:
    """Draws one hook's sections with draws of its own; ValueError where something is no section."""
    given = {"run": run, "seed": seed}
    with own_randomness(subseed(seed, "report", getattr(draw, "__module__", ""))):
        for section in draw(**{name: given[name] for name in inspect.signature(draw).parameters}) or ():
            if not isinstance(section, Section) or not isinstance(section.title, str) or not isinstance(section.caption, str):
                raise ValueError(f"{repr(section)[:60]} is no Section(title, caption, body, place=50)")
            if not isinstance(section.body, str) and not (isinstance(section.body, bytes) and section.body.startswith(PNG)):
                raise ValueError(f"the section {section.title!r} has a body that is neither the bytes of a PNG nor HTML text")
            if not isinstance(section.place, int | float):
                raise ValueError(f"the section {section.title!r} has place={section.place!r}: pass a number")
            yield section


def _ready(section: Section) -> dict[str, str]:
    html = section.body if isinstance(section.body, str) else ""
    png = "" if isinstance(section.body, str) else base64.b64encode(section.body).decode()
    return {"title": section.title, "caption": section.caption, "html": html, "png": png}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _step_sizes(run: Run) -> list[tuple[str, str]]:
    """Lists the step sizes that were learned, one or several to a sampler."""
    modules: list[Any] = [part for part in (run.sampler, run.objective) if isinstance(part, nn.Module)]
    learned = {id(p): (name, p) for part in reversed(modules) for name, p in part.named_parameters() if "step_size" in name}
    return [(name, ", ".join(f"{value:.5g}" for value in p.detach().flatten().tolist())) for name, p in learned.values()]
