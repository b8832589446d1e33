"""The command line: run, list, show, new-plugin, eval, probe, sample, generate, denoise, rollout. Cyclopts parses."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from ebm import __version__

if TYPE_CHECKING:
    from ebm.runs import Run

__all__ = ["main"]

app = App(
    name="ebm",
    version=__version__,
    help="Compose, train, sample and judge energy-based models.",
    suppress_keyboard_interrupt=False,  # a stopped run has something to say
)

Kind = Literal["energy", "sampler", "objective", "encoder", "task", "recipe"]
SWITCHES = ("--compile", "--fit.compile", "--task.streaming")  # settings that may stand without a value
Settings = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


@app.command
def run(recipe: str, /, *settings: Settings, out: Path | None = None, overwrite: bool = False) -> None:
    """Train what a recipe says, evaluate it, and write a run folder with a report.

    Any value of the recipe can be set: `--energy.width 64 --steps 500 --seed 1` (a name without a dot belongs to [fit]; so
    `--devices 2 --strategy ddp`). `ebm show RECIPE` lists them. The same command goes on with a run that was stopped.

    Args:
        recipe: a recipe's name, or the path of a recipe file such as RUN/recipe.toml.
        out: the run folder; by default runs/NAME, or runs/NAME-2 … where that holds a finished run.
        overwrite: start anew in a folder that holds another or a finished run.
    """
    from ebm import recipes
    from ebm.runs import BASELINE, fresh_folder

    resolved = recipes.resolve(recipes.load(recipe), parse_settings(settings))
    folder = out or fresh_folder(Path("runs") / recipe_name(recipe))
    if (baseline := recipes.baseline_of(resolved)) is not None:
        refuse_finished(folder, overwrite)
        if overwrite or not (folder / BASELINE / "metrics.json").exists():
            train(baseline, folder / BASELINE, overwrite)
    done = train(resolved, folder, overwrite)
    if is_first_process():
        print_run(done)


def refuse_finished(folder: Path, overwrite: bool) -> None:
    """Raises ValueError where a folder holds a finished run, before its baseline is trained again."""
    if (folder / "metrics.json").exists() and not overwrite:
        raise ValueError(f"{folder} holds a finished run: choose another --out, or pass --overwrite to start anew")


def train(resolved: dict[str, Any], folder: Path, overwrite: bool) -> Run:
    """Builds a resolved recipe and trains it."""
    from ebm import recipes
    from ebm.training import fit

    parts = recipes.assemble(resolved)
    options: dict[str, Any] = {"seed": resolved["seed"], "out": folder, "overwrite": overwrite, "recipe": parts.recipe}
    complain(f"{folder}: {resolved['summary']}")
    return fit(parts.energy, parts.objective, parts.task, **parts.fit, **options)


@app.command(name="list")
def list_components(kind: Kind | None = None, /) -> None:
    """List the registered components with who offers them, and what is wrong with installed plugins.

    Args:
        kind: only this kind.
    """
    from ebm.registry import KINDS, components, problems

    for each in [kind] if kind else KINDS:
        rows = [(c_name, c.distribution, c.summary) for c_name, c in components(each).items()]
        print_table(each, ("name", "from", "what it is"), rows)
    if found := problems():
        print_table("not loaded", ("from", "what", "reason"), [(p.distribution, p.what, p.reason) for p in found])


@app.command
def show(name: str, /, *, kind: Kind | None = None) -> None:
    """Show a recipe or a component with its parameters, their defaults and what they mean.

    Args:
        name: the name of a recipe or a component, or the path of a recipe file.
        kind: the kind, where several have something of this name.
    """
    from ebm import recipes
    from ebm.registry import KINDS, component, components, nearest

    distribution, _, plain = name.rpartition(":")

    def offers(kind: str) -> bool:
        names = {c.name for c in components(kind).values() if not distribution or c.distribution == distribution}
        return plain in names

    kinds = [kind] if kind else [k for k in KINDS if offers(k)]
    if name.endswith(".toml"):
        kinds = ["recipe"]
    if not kinds:
        everything = [n for k in KINDS for n in components(k)]
        raise ValueError(f"nothing is named {name!r}: {nearest(name, everything)}")
    for each in kinds:
        if each == "recipe":
            show_recipe(name, recipes.resolve(recipes.load(name)))
        else:
            found = component(each, name)
            print(f"{each} {name} ({found.distribution})\n\n{inspect.getdoc(found.factory) or ''}\n")
            print_table("parameters", ("name", "type", "default", "meaning"), describe(found.factory))


@app.command(name="new-plugin")
def write_plugin(name: str, /, *, out: Path | None = None) -> None:
    """Write a package of your own: one component of each kind, a recipe and tests, which install and run as they are.

    Args:
        name: what the package is called, as in my-ebms.
        out: the folder to write; by default the name, in this folder.
    """
    from ebm.scaffold import new_plugin

    written = new_plugin(name, out)
    print(f"{written.folder}: next")
    for command in (f"pip install -e {written.folder}", f"ebm run {written.component}", f"pytest --ebm {written.distribution}"):
        print(f"  {command}")


@app.command(name="eval")
def evaluate(run: Path, /, *, split: str = "test", limit: int | None = None, seed: int | None = None) -> None:
    """Evaluate a run by its task; without options, to the numbers that the run ended with.

    Args:
        run: the run folder.
        split: the part of the data to judge by.
        limit: how many examples at most; by default what the recipe says.
        seed: what every random draw is derived from; by default the recipe's.
    """
    from ebm.runs import load

    print_metrics(load(run).evaluate(split, limit=limit, seed=seed))


@app.command(name="probe")
def probe_features(
    run: Path,
    /,
    *,
    data: Annotated[tuple[str, ...], Parameter(negative=())] = ("digits-28", "digits-8"),
    seeds: int = 3,
    limit: int | None = 3_000,
) -> None:
    """Classify labelled images by a run's features: writes probe.csv, and the report anew.

    Args:
        run: the run folder; its baseline is probed, too.
        data: digits-28, digits-8, a folder with a sub-folder of pictures for each class, or a hub dataset; more than once for
            several.
        seeds: how many splits of the images into training, validation and test parts.
        limit: how many images of each data set at most.
    """
    from ebm.probe import probe
    from ebm.runs import load

    loaded = load(run)
    probe(loaded, data=data, seeds=seeds, limit=limit)
    loaded.report(loaded.recipe.get("seed", 0))
    print_probe(run)
    print(f"report: {run / 'report.html'}")


@app.command
def sample(run: Path, /, *, n: int = 64, seed: int = 0, out: Path | None = None) -> None:
    """Sample from a run: writes samples.safetensors and a picture.

    Args:
        run: the run folder.
        n: how many samples.
        seed: what every random draw is derived from.
        out: the folder to write to; by default the run folder.
    """
    from safetensors.torch import save

    from ebm import checkpoints
    from ebm.report import picture_of_samples
    from ebm.runs import load

    if n < 1:
        raise ValueError(f"--n {n}: ask for at least one sample")
    loaded = load(run)
    samples = loaded.sample(n, seed=seed)
    folder = out or run
    folder.mkdir(parents=True, exist_ok=True)
    picture = picture_of_samples(loaded, samples)
    for name, content in (("samples.safetensors", save({"samples": samples.contiguous()})), ("samples.png", picture)):
        if content is not None:
            with checkpoints.atomic(folder / name) as draft:
                draft.write_bytes(content)
            print(folder / name)


@app.command(name="generate")
def generate_text(
    run: Path,
    /,
    *,
    prompt: list[str],
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    think_steps: int | None = None,
    candidates: int = 1,
    patience: int | None = None,
    seed: int = 0,
) -> None:
    """Generate text from a run: prints what follows a prompt as it comes, or each of several prompts at the end.

    Args:
        run: the run folder.
        prompt: what the text begins with ("" for a new document); more than once for several texts.
        max_new_tokens: how many tokens to add at most; end-of-text ends a text before.
        temperature: what logits are divided by; 0 takes the likeliest token.
        top_k: draw from this many of the likeliest tokens.
        top_p: draw from the likeliest tokens, as few as have this probability together.
        think_steps: steps per landscape for each token; by default the run's.
        candidates: starts that are tried for each token, of which the energy chooses.
        patience: think about a token until its energy fell no further for this many steps.
        seed: what every random draw is derived from.
    """
    from ebm.generation import generate, pieces
    from ebm.randomness import stream
    from ebm.runs import load
    from ebm.tasks.tokenizers import encode_prompt
    from ebm.tasks.tokens import TokenTask

    loaded = load(run)
    task, tokenizer = loaded.task, getattr(loaded.task, "tokenizer", None)
    if not isinstance(task, TokenTask) or tokenizer is None:
        raise ValueError(f"{run} was not trained on text: its task ({type(task).__name__}) has no tokenizer")
    prompts = [encode_prompt(tokenizer, text) for text in prompt]
    for text, ids in zip(prompt, prompts, strict=True):
        if len(ids) > task.context_length:
            raise ValueError(f"the prompt {text[:20]!r}… has {len(ids)} tokens, but the run's context is {task.context_length}")
    tokens = generate(
        loaded.energy,  # type: ignore[arg-type]  # what is no energy of text says so
        loaded.sampler,
        prompts,
        max_new_tokens=max_new_tokens,
        window=task.context_length,
        end=tokenizer.end,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        candidates=candidates,
        steps=think_steps,
        patience=patience,
        start=task.starts_at,
        generator=stream(seed, "generate", device=loaded.device),
    )
    if len(prompts) == 1:
        print(prompt[0], end="", flush=True)
        for piece in pieces(tokenizer, prompts[0], (int(ids) for ids in tokens)):
            print(piece, end="", flush=True)
        print()
        return
    columns = [ids.tolist() for ids in tokens]
    for text, ids, row in zip(prompt, prompts, zip(*columns, strict=True), strict=True):
        print(text, *pieces(tokenizer, ids, row), "\n", sep="")


@app.command(name="denoise")
def denoise_photo(
    run: Path,
    photo: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    steps: int | None = None,
    candidates: int = 1,
    patience: int | None = None,
    tolerance: float = 0.15,
    stride: int | None = None,
    noise_step: int | None = None,
    noise_std: float | None = None,
    add_noise: int | None = None,
    map: bool = True,
    seed: int = 0,
) -> None:
    """Denoise a photograph of any size by a run: writes the clean picture, and a map of its energy beside it.

    Args:
        run: the run folder.
        photo: the picture, as noisy as it is.
        out: the picture to write; by default the photo's name with -clean, in this folder.
        steps: steps per landscape; by default the run's.
        candidates: starts that are tried for each tile, of which the energy chooses (they differ by the sampler's noise).
        patience: think, for --steps at most, until the picture's energy fell no further for this many steps.
        tolerance: with --patience, the least fall that counts, as a share of the energy.
        stride: pixels between neighbouring tiles; by default the task's.
        noise_step: the step of the noise schedule that the picture has; by default the strongest of the run's training.
        noise_std: instead, the standard deviation of the picture's noise, in pixels of -1 to 1.
        add_noise: take the picture as clean, add the noise of this step, and write that picture too.
        map: write the map (of an energy that knows its patches' energies).
        seed: what every random draw is derived from.
    """
    from ebm.restoring import denoise_file
    from ebm.runs import load

    how: dict[str, Any] = {"steps": steps, "candidates": candidates, "patience": patience, "tolerance": tolerance}
    noise: dict[str, Any] = {"noise_step": noise_step, "noise_std": noise_std, "add_noise": add_noise}
    done = denoise_file(load(run), photo, out, **how, **noise, stride=stride, energy_map=map, seed=seed, progress=True)
    for path in (done.noisy, done.out, done.energy_map):
        if path is not None:
            print(path)
    found = done.restored
    numbers = {"energy per tile": found.energy, "steps per tile": found.steps, "forward passes": found.evaluations}
    print_metrics({name: value for name, value in numbers.items() if value is not None})


@app.command(name="rollout")
def roll_out(
    run: Path,
    clip: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    observe: int = 5,
    predict: int = 8,
    begin: float = 0.0,
    steps: int | None = None,
    candidates: int = 1,
    patience: int | None = None,
    tolerance: float = 0.15,
    seed: int = 0,
) -> None:
    """Predict how a video goes on by a run: writes a picture and a movie of predicted frames beside the true ones.

    Args:
        run: the run folder.
        clip: the video, or a folder of pictures.
        out: what the files are called, without .png and .mp4; by default the clip's name with -rollout, in this folder.
        observe: how many frames are seen.
        predict: how many frames are predicted, each from those before it, predicted ones included.
        begin: where to begin, in seconds.
        steps: steps per landscape for each frame; by default the run's.
        candidates: starts that are tried for each frame, of which the energy chooses.
        patience: think about a frame, for --steps at most, until its energy fell no further for this many steps.
        tolerance: with --patience, the least fall that counts, as a share of the energy.
        seed: what every random draw is derived from.
    """
    from ebm.filming import film
    from ebm.runs import load

    how: dict[str, Any] = {"steps": steps, "candidates": candidates, "patience": patience, "tolerance": tolerance}
    done = film(load(run), clip, out, observe=observe, predict=predict, begin=begin, **how, seed=seed)
    print(done.picture, done.movie, sep="\n")
    energies = done.rollout.energies
    numbers = {} if energies is None else {"energy per frame": energies.mean().item()}
    print_metrics({**numbers, "error": done.errors.mean().item(), "error of copying": done.copy_errors.mean().item()})


def parse_settings(tokens: Sequence[str]) -> dict[str, str]:
    """Reads `--energy.width 64 --steps=500` as {"energy.width": "64", "fit.steps": "500"}."""
    settings: dict[str, str] = {}
    rest = list(tokens)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not key.startswith("--"):
            raise ValueError(f"{key!r} belongs to nothing: settings are written --table.key VALUE")
        if not equals and (not rest or rest[0].startswith("--")):
            if key not in SWITCHES:
                raise ValueError(f"{key} has no value: write {key} VALUE")
            value = "true"
        elif not equals:
            value = rest.pop(0)
        name = key[2:].replace("-", "_")
        settings[name if "." in name or name in ("seed", "summary") else f"fit.{name}"] = value
    return settings


def recipe_name(recipe: str) -> str:
    """Names the folder of a recipe's runs: its own name, or for a run's recipe.toml that run's."""
    path = Path(recipe)
    if path.suffix != ".toml":
        return recipe.rpartition(":")[2]
    return path.absolute().parent.name if path.stem == "recipe" else path.stem


def describe(factory: Any, values: dict[str, Any] | None = None) -> list[tuple[str, str, str, str]]:
    """Lists a factory's parameters: (name, type, value or default, meaning from the docstring)."""
    from docstring_parser import parse

    from ebm.registry import parameters

    text = inspect.getdoc(factory) or ""
    if inspect.isclass(factory):
        text += "\n\n" + (inspect.getdoc(factory.__init__) or "")
    meanings = {p.arg_name: " ".join((p.description or "").split()) for p in parse(text).params}
    rows = []
    for name, p in parameters(factory).items():
        kind = "" if p.annotation is p.empty else str(getattr(p.annotation, "__name__", p.annotation))
        default = "required" if p.default is p.empty else repr(p.default)
        if name in (values or {}):
            default = repr(values[name])  # type: ignore[index]
        rows.append((name, kind, default, meanings.get(name, "")))
    return rows


def show_recipe(name: str, recipe: dict[str, Any]) -> None:
    """Prints a resolved recipe, table by table, with what every value means."""
    from ebm.recipes import COMPONENT_PARAMETERS, FIT_HANDED
    from ebm.registry import component
    from ebm.training import fit

    print(f"recipe {name}: {recipe['summary']}\nseed = {recipe['seed']}\n")

    def table(path: str, kind: str, values: dict[str, Any]) -> None:
        factory = fit if kind == "fit" else component(kind, values["use"]).factory
        title = f"[{path}]" + (f" use = {values['use']}" if "use" in values else "")
        # What takes a component is shown as a table of its own, and fit is handed more than a recipe may say.
        left_out = {*COMPONENT_PARAMETERS, *(FIT_HANDED if kind == "fit" else ())}
        rows = [row for row in describe(factory, values) if row[0] not in left_out]
        rows = [(n, t, "from the data" if v == "required" else v, m) for n, t, v, m in rows]
        print_table(title, ("name", "type", "value", "meaning"), rows)
        for key, value in values.items():
            if key in COMPONENT_PARAMETERS:
                for i, part in enumerate(value if isinstance(value, list) else [value]):
                    suffix = f"[{i}]" if isinstance(value, list) else ""
                    table(f"{path}.{key}{suffix}", COMPONENT_PARAMETERS[key], part)

    for kind in ("task", "energy", "sampler", "objective", "fit"):
        if kind in recipe:
            table(kind, kind, recipe[kind])


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table that fits the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False, show_header=bool(rows))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table, "")


def print_run(run: Run) -> None:
    """Prints what a run found: its metrics, those of its baseline, what thinking longer did, and the doctor's verdict."""
    from ebm.study import read_findings

    baseline = run.baseline
    if baseline is None:
        print_metrics(run.metrics)
    else:
        rows = [(n, f"{v:.5g}", f"{baseline.metrics[n]:.5g}" if n in baseline.metrics else "") for n, v in run.metrics.items()]
        print_table("held-out data", ("", "run", "baseline"), rows)
    found: dict[tuple[str, ...], dict[str, str]] = {}  # how it was thought: metrics
    for f in read_findings(run.path):
        name = f.name.removesuffix("_adaptive")
        if name in ("loss", "psnr"):
            most = "≤ " if name != f.name else ""  # what stops by itself takes as many steps at most
            how = (f.split, f.who, f"{most}{f.steps}" if f.steps else "", str(f.candidates))
            found.setdefault(how, {})[name] = f"{f.value:.4f}"
    if found:
        names = list(dict.fromkeys(name for row in found.values() for name in row))
        lines = [(*how, *(row.get(name, "") for name in names)) for how, row in found.items()]
        print_table("thinking", ("split", "who", "steps", "candidates", *names), lines)
    print_probe(run.path)
    print(run.verdict.line)
    print(f"report: {run.path / 'report.html'}")


def print_probe(folder: Path) -> None:
    """Prints what probing a run's features found, where that was done."""
    from ebm.probe import COLUMNS, lines, read_probe

    if found := read_probe(folder):
        print_table("linear probe", COLUMNS, lines(found))


def print_metrics(metrics: dict[str, float]) -> None:
    """Prints numbers, one a line."""
    for name, value in metrics.items():
        print(f"{name:>24} {value:.5g}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; what is wrong with its input is one line on stderr, and exit status 2."""
    try:
        app(arguments)
    except KeyboardInterrupt as stop:
        complain(str(stop) or "stopped")
        raise SystemExit(130) from None
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        complain(f"ebm: {error}")
        raise SystemExit(2) from None


def complain(line: str) -> None:
    """Prints a line on stderr, where it is in nobody's way, once where several processes have the same to say."""
    if is_first_process():
        print(line, file=sys.stderr)


def is_first_process() -> bool:
    """Tells whether this is the first of the processes that a launcher started."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
