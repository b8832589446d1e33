"""The command line: its own verbs and the offered commands, parsed by cyclopts.

What takes torch is imported where it is used: help and lists are there at once.
"""

from __future__ import annotations

import collections.abc
import inspect
import os
import sys
import tomllib
import typing
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from inspect import Parameter as InspectParameter
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from docstring_parser import parse as parse_docstring

from ebm import __version__, recipes
from ebm.commands.console import as_data, print_json, print_run, print_table, say
from ebm.commands.console import show as show_result
from ebm.commands.settings import Settings, parse_settings
from ebm.grids.cluster import check as check_cluster
from ebm.grids.cluster import options_in
from ebm.processes import first_is_gone, is_first_process, use_threads, wait_passively
from ebm.recipes.tables import COMPONENT_PARAMETERS, COMPONENTS, FIT_HANDED, LEARNED
from ebm.registry import CORE, KINDS, PARTS, PLURALS, TAKES, VERBS, Component, blamed, component, components, inspected, problems
from ebm.runs.index import CARD, headline_of
from ebm.scaffold import new_plugin as write_package
from ebm.source import Said, Written
from ebm.words import nearest, visible


def run(
    recipe: str,
    /,
    *settings: Settings,
    out: Path | None = None,
    overwrite: bool = False,
    extend: bool = False,
    from_model: Annotated[str | None, Parameter(name="--from")] = None,
    threads: int | None = None,
    cluster: str = "none",
    nodes: int | None = None,
    gpus: int | None = None,
    minutes: int | None = None,
    wait: bool = False,
    json: bool = False,
) -> None:
    """Train what a recipe says, evaluate it, and write a run folder with a report.

    Any value of the recipe can be set: `--energy.width 64 --steps 500 --seed 1`. A name without a
    dot belongs to [fit], as in `--devices 2 --strategy ddp`. `ebm show RECIPE` lists all values.
    The same command goes on with a run that was stopped. With --cluster the run is checked, and
    handed in as a job, which goes on by itself after its time is over or its machines are taken.

    Args:
        recipe: a recipe's name, or the path of a recipe file such as RUN/recipe.toml.
        out: the run folder; by default runs/NAME, or runs/NAME-2 … where that holds a finished run.
        overwrite: start anew in a folder that holds another or a finished run.
        extend: train a finished run on, named by its folder, to more steps: `--extend --steps 3200`.
        from_model: start from a model's weights, with its tokenizer or encoder: a run, or a name.
        threads: how many threads compute; by default one for each core. On a machine with other
            work fewer are faster.
        cluster: none, local (a job of this machine) or slurm, by submitit, whose options are set as
            in --cluster.slurm-partition gpu.
        nodes: of a cluster: how many machines.
        gpus: of a cluster: GPUs of each machine, with a process for each. Without, --devices says
            how many processes compute on the CPUs of each.
        minutes: of a cluster: how long a job may take, by default a day; the next one goes on.
        wait: of a cluster: print the job's log until it ends.
        json: print what the run found as JSON, or which job was handed in.
    """
    if threads is not None:
        use_threads(threads)
    values = parse_settings(settings)
    how: dict[str, Any] = {"out": out, "overwrite": overwrite, "extend": extend, "from_model": from_model}
    of_cluster = {"nodes": nodes, "gpus": gpus, "minutes": minutes}
    check_cluster(cluster, options_in(values)[0], **of_cluster, wait=wait or None)
    if cluster != "none":
        from ebm.commands.submit import hand_in

        hand_in(recipe, values, cluster, wait, json, **how, **of_cluster, threads=threads)
        return
    done = recipes.run(recipe, values, **how)
    if is_first_process():
        print_json(as_data(done)) if json else print_run(done)


def list_components(kind: str | None = None, /, *, json: bool = False) -> None:
    """List what is registered with who offers it, and what is wrong with installed plugins.

    Args:
        kind: only this kind, such as energy, sampler, task, recipe, study, grid, command or model.
        json: print JSON.
    """
    kind = PLURALS.get(kind or "", kind)
    if kind is not None and kind not in KINDS:
        raise ValueError(f"no kind is named {kind!r}: {nearest(kind, KINDS)}")
    listed = {each: components(each) for each in ([kind] if kind else KINDS)}
    if json:
        data: dict[str, list[Any]] = {"not loaded": [vars(problem) for problem in problems()]}
        for each, found in listed.items():
            data[each] = [{"name": n, "from": c.distribution, "summary": summary(c), **facts(each, c)} for n, c in found.items()]
        print_json(data)
        return
    for each, found in listed.items():
        if found or kind:
            more = ("number", "parameters") if each == "model" else ()
            rows = [(n, c.distribution, *facts(each, c).values(), summary(c)) for n, c in found.items()]
            print_table(each, ("name", "from", *more, "what it is"), rows)
    if wrong := problems():
        print_table("not loaded", ("from", "what", "reason"), [(p.distribution, p.what, p.reason) for p in wrong])


def facts(kind: str, found: Component) -> dict[str, str]:
    """Says of a model its first number and how many parameters it has; of other kinds nothing."""
    return headline_of(Path(str(found.factory))) if kind == "model" else {}


def summary(found: Component) -> str:
    """Says in a line what a component is, or why it cannot be imported."""
    try:
        return found.summary
    except ValueError as error:
        return str(error)


def show(name: str, /, *, kind: str | None = None, json: bool = False) -> None:
    """Show a recipe or a component with its parameters, their defaults and what they mean.

    Args:
        name: the name of a recipe or a component, or the path of a recipe file.
        kind: the kind, where several have something of this name.
        json: print JSON.
    """
    distribution, _, plain = name.rpartition(":")
    kind = PLURALS.get(kind or "", kind)

    def offers(kind: str) -> bool:
        names = {c.name for c in components(kind).values() if not distribution or c.distribution == distribution}
        return plain in names

    kinds = [kind_of_file(name)] if name.endswith(".toml") else [kind] if kind else [k for k in KINDS if offers(k)]
    if not kinds:
        everything = [n for k in KINDS for n in components(k)]
        raise ValueError(f"nothing is named {name!r}: {nearest(name, everything)}")
    shown: dict[str, Any] = {}
    for each in kinds:
        if each == "recipe":
            resolved = recipe_of(name)
            shown[each] = resolved
            if not json:
                show_recipe(name, resolved)
            continue
        if each == "grid":
            from ebm.grids.showing import shown_grid

            shown[each], text = shown_grid(name)
            if not json:
                say(text)
            continue
        found = component(each, name)
        if each == "model":
            card = Path(str(found.factory)) / CARD
            text = card.read_text(encoding="utf-8") if card.exists() else found.summary
            shown[each] = {"from": found.distribution, "folder": str(found.factory), "card": text}
            if not json:
                say(f"model {name} ({found.distribution})\n\n{text}")
            continue
        text = found.said.text
        rows = describe(found.said)[each in TAKES :]  # without what is handed to it
        explained = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        shown[each] = {"from": found.distribution, "text": text, "parameters": explained}
        if not json:
            say(f"{each} {name} ({found.distribution})\n\n{text or found.summary}\n")
            print_table("parameters", COLUMNS, rows)
    if json:
        print_json(shown)


COLUMNS = ("name", "type", "default", "meaning")  # of a factory's parameters
FIT = Component("fit", "ebm.training.loop:fit", CORE, "")
APART = {verb: Component(verb, f"ebm.commands.{verb}:{verb}", CORE, "") for verb in ("diagnose", "cost")}  # imported when called
TYPES = {**vars(typing), **vars(collections.abc), "Path": Path}  # of which commands' options are
THREADS = Annotated[int | None, Parameter(help="How many threads compute; by default one for each core.")]


def kind_of_file(name: str) -> str:
    """Tells a grid's file from a recipe's: it makes a claim."""
    with suppress(OSError, ValueError):
        return "grid" if "claim" in tomllib.loads(Path(name).read_text(encoding="utf-8")) else "recipe"
    return "recipe"  # whose reader says what is wrong


def recipe_of(name: str) -> dict[str, Any]:
    """Reads a recipe to be shown: a bundled one as it is, others once they were checked, by torch."""
    if not name.endswith(".toml") and (found := component("recipe", name)).distribution == CORE:
        return {"summary": "", "seed": 0, **tomllib.loads(found.offered.read_text(encoding="utf-8"))}
    return recipes.resolve(recipes.load(name))


def study(
    name: str,
    run: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *settings: Settings,
    seeds: str | None = None,
    budget: str | None = None,
    out: str | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Ask a study of a finished run, or without one conduct a study that does its own runs.

    `ebm study NAME RUN` writes NAME.csv into the run's folder, and the report anew. `ebm study NAME`
    does a grid of runs (`ebm list grid`), or goes on with it: it ends with a table, a picture and
    the finding. What is set, as in --fit.batch-size 8, then holds for all its runs.

    Args:
        name: the study's name, such as thinking; of a grid also the path of its file. `ebm show NAME`
            lists its keywords, set as in --steps "[1, 2]" with a run, and the grid.
        run: the run folder, or a model's name.
        seeds: of a grid: how many, or which, as in "[0, 5]".
        budget: of a grid: how long this command may take, as in 30m. What has no time is left out
            fairly: every point that is run has every seed that is; the same command goes on with
            the rest.
        out: of a grid: its folder, by default studies/NAME.
        jobs: of a grid: runs at a time, by default one for each core, or one with an accelerator.
        cluster: of a grid: none (processes of this machine), local or slurm, by submitit, whose
            options are set as in --cluster.slurm-partition gpu.
        threads: how many threads compute; by default one for each core, in a grid one for each run.
        json: print what was found as JSON.
    """
    own = {"seeds": seeds, "budget": budget, "out": out, "jobs": jobs, "cluster": cluster}
    given = {key: value for key, value in own.items() if value is not None}
    from ebm.commands.study import ask, conduct

    if run is None or run.startswith("--"):
        conduct(name, [run, *settings] if run else settings, given, threads, json)
    else:
        ask(name, run, settings, given, threads, json)


def new_plugin(name: str, /, *, out: Path | None = None) -> None:
    """Write a package of your own that shows every hook, and installs and runs as it is.

    Args:
        name: what the package is called, as in my-ebms.
        out: the folder to write; by default the name, in this folder.
    """
    written = write_package(name, out)
    say(f"{written.folder}: next")
    for command in (f"pip install -e {written.folder}", f"ebm run {written.component}", f"pytest --ebm {written.distribution}"):
        say(f"  {command}")


def describe(factory: Any, values: dict[str, Any] | None = None) -> list[tuple[str, str, str, str]]:
    """Lists a factory's parameters: (name, type, value or default, meaning from the docstring)."""
    said = factory if isinstance(factory, Said) else inspected(factory)
    explained = [p for text in said.texts for p in parse_docstring(text or "").params]
    meanings = {p.arg_name: " ".join((p.description or "").split()) for p in explained}
    rows = []
    for name, p in said.parameters.items():
        if p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            continue
        kind = "" if p.annotation is p.empty else str(getattr(p.annotation, "__name__", p.annotation))
        default = "required" if p.default is p.empty else repr(p.default)
        if name in (values or {}):
            default = repr(values[name])  # type: ignore[index]
        rows.append((name, kind, default, meanings.get(name, "")))
    return rows


def show_recipe(name: str, recipe: dict[str, Any]) -> None:
    """Prints a resolved recipe, table by table, with what every value means."""
    studies = components("study")
    say(f"recipe {name}: {recipe['summary']}\nseed = {recipe['seed']}\n")

    def table(path: str, kind: str, values: dict[str, Any]) -> None:
        said = component(kind, values["use"]).said if kind in PARTS else FIT.said if kind == "fit" else studies[kind].said
        title = f"[{path}]" + (f" use = {values['use']}" if "use" in values else "")
        # A component has a table of its own, and fit is handed more than a recipe may say.
        left_out = {*COMPONENT_PARAMETERS, LEARNED, *(FIT_HANDED if kind == "fit" else ()), *([] if kind in PARTS else ["run"])}
        rows = [row for row in describe(said, values) if row[0] not in left_out]
        rows = [(n, t, "from the data" if v == "required" else v, m) for n, t, v, m in rows]
        print_table(title, ("name", "type", "value", "meaning"), rows)
        for key, value in values.items():
            if key in COMPONENT_PARAMETERS:
                for i, part in enumerate(value if isinstance(value, list) else [value]):
                    suffix = f"[{i}]" if isinstance(value, list) else ""
                    table(f"{path}.{key}{suffix}", COMPONENT_PARAMETERS[key], part)

    for kind in (*COMPONENTS, "fit", *studies):
        if kind in recipe:
            table(kind, kind, recipe[kind])


def as_command(found: Component) -> Callable[..., Any]:
    """Makes a command of the command line, which loads the run, from one that takes a `Run`.

    It is imported when it is called, or where its source does not say what its options are.
    """
    parameters, hints = options_of(found)
    first, *others = parameters
    threaded = all(p.name != "threads" for p in others)  # a command may have a parameter of that name
    if threaded:
        open_end = [others.pop()] if others and others[-1].kind is first.VAR_KEYWORD else []
        others += [InspectParameter("threads", first.KEYWORD_ONLY, default=None), *open_end]
        hints["threads"] = THREADS

    def command(run: str, /, *arguments: Any, **keywords: Any) -> None:
        if threaded and (threads := keywords.pop("threads", None)) is not None:
            use_threads(threads)
        function = found.factory
        loaded = recipes.load_run(run)
        with blamed("command", found):
            result = function(loaded, *arguments, **keywords)
        show_result(result)

    path = first.replace(name="run", annotation=str, kind=first.POSITIONAL_ONLY, default=first.empty)
    told = {name: Parameter(name=[f"--{name}", f"-{name[0]}"]) for name in ("out", "n")}
    # Texts of one's own may begin with a hyphen, and - is standard input.
    told |= {name: Parameter(allow_leading_hyphen=True) for name in ("prompt", "prompts", "stop")}
    hints = {name: Annotated[hint, told[name]] if name in told else hint for name, hint in hints.items()}
    typed = [p.replace(annotation=hints.get(p.name, p.empty if isinstance(p.annotation, str) else p.annotation)) for p in others]
    command.__signature__ = inspect.Signature([path, *typed], return_annotation=None)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [path, *typed] if p.annotation is not p.empty}
    command.__doc__ = visible(found.said.text)
    return command


def options_of(found: Component) -> tuple[list[InspectParameter], dict[str, Any]]:
    """Reads a command's parameters, the run first, and their types: of its source, or imported."""
    if found.by_name and found.said.parameters:
        first, *others = parameters = [*found.said.parameters.values()]
        with suppress(Exception):  # types may have names of the command's own module
            hints = {p.name: eval(p.annotation, dict(TYPES)) for p in others if p.annotation is not p.empty}
            if first.kind is not first.KEYWORD_ONLY and not any(isinstance(p.default, Written) for p in others):
                return parameters, hints
    from ebm.recipes.recipe import type_hints

    return [*inspect.signature(found.factory).parameters.values()], type_hints(found.factory, include_extras=True)


def in_a_line(found: Component) -> Callable[..., None]:
    """Makes what stands for a command where commands are listed, without importing it."""

    def command(*_: str) -> None:
        """Does nothing: who calls a command gets the command itself."""

    command.__doc__ = visible(found.summary)
    return command


def application(verb: str | None) -> App:
    """Makes the parser of the command that is called; of others it has what they are in a line."""
    app = App(name="ebm", version=__version__, help="Compose, train, sample and judge energy-based models.")
    apart = [found.factory if verb == found.name else in_a_line(found) for found in APART.values()]
    own: tuple[Callable[..., Any], ...] = (run, list_components, show, study, *apart, new_plugin)
    for name, function in zip(VERBS, own, strict=True):
        app.command(function, name=name)
    if verb in (*VERBS, "--version"):
        return app
    offered = components("command")
    for name, found in {verb: offered[verb]}.items() if verb in offered else offered.items():
        try:
            app.command(as_command(found) if name == verb else in_a_line(found), name=name)
        except ValueError as error:
            if name == verb:
                raise
            complain(f"ebm: {error}")
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits; an error of input is one line on stderr and status 2."""
    wait_passively()
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    usual = warnings.formatwarning
    warnings.formatwarning = _warning
    try:
        parser = application(tokens[0] if tokens else None)
        command, bound, *_ = parser.parse_args(tokens, print_error=False, exit_on_error=False)
        command(*bound.args, **bound.kwargs)
        sys.stdout.flush()
        raise SystemExit(0)
    except BrokenPipeError:  # whoever read our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt as stop:
        complain(str(stop) or "stopped")
        raise SystemExit(130) from None
    except (CycloptsError, ValueError, FloatingPointError, OSError, ImportError) as error:
        complain(f"ebm: {error}")
        if isinstance(error, ChildProcessError) and first_is_gone():
            say(f"ebm: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        warnings.formatwarning = usual


def _warning(message: Warning | str, category: Any, filename: str, lineno: int, line: str | None = None) -> str:
    return f"ebm: warning: {visible(message)}\n"


def complain(line: str) -> None:
    """Prints a line on stderr, in the first process only."""
    if is_first_process():
        say(line, file=sys.stderr)
