"""The card of a model: what it is, on what data, its numbers with seeds, its licence, its weak spots."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ebm.files import read_csv, read_json
from ebm.interfaces import FeedForward, Task
from ebm.interfaces.abilities import Films, HasAnswers, Tiled, WritesText, lacking
from ebm.registry import CORE
from ebm.runs import learned
from ebm.runs.folder import BASELINE, differences
from ebm.runs.index import Stat
from ebm.runs.portable import bare_name, portable

if TYPE_CHECKING:
    from ebm.runs.run import Run

# What may differ between runs of one recipe: the seed, and what changes no number.
FREE = ("seed", "summary", "fit.workers", "fit.accelerator", "fit.checkpoint_every", "fit.log_every")
DECIBEL = 0.05  # below it a photograph is as noisy after as before


class Numbers(NamedTuple):
    """A model's numbers over seeds, those it is compared with, by name, and which comes first."""

    found: dict[str, Stat]
    compared: dict[str, dict[str, Stat]]
    headline: str
    seeds: list[int]


def numbers_of(run: Run, also: Sequence[Run | str | Path] = ()) -> Numbers:
    """Gathers a run's numbers, with those of further seeds of its recipe.

    Raises:
        ValueError: a further run is unfinished, of the same seed, or differs in more than that.
    """
    others = [Path(other) if isinstance(other, str | Path) else other.path for other in also]
    seeds, every = [run.recipe.get("seed", 0)], [run.metrics]
    for other in others:
        if not (other / "metrics.json").exists() or not (other / "recipe.toml").exists() or not run.recipe:
            raise ValueError(f"also={str(other)!r}: it is no finished run of a recipe, as {run.path} should be, too")
        recipe = learned.read_recipe(other)
        different = [name for name in sorted(differences(portable(run.recipe), portable(recipe))) if name not in FREE]
        if learned.index_of(other)["data"] != learned.index_of(run.path)["data"]:
            different.append("data, by their fingerprint")
        if different:
            raise ValueError(f"also={str(other)!r} is no other seed of the same recipe: another {', '.join(different)}")
        if recipe["seed"] in seeds:
            raise ValueError(f"also={str(other)!r} has the seed {recipe['seed']}, which counts already: pass runs of other seeds")
        seeds.append(recipe["seed"])
        every.append(read_json(other / "metrics.json"))
    compared = {}
    for label, base in run.compared.items():
        if base is not None:
            places = (other / base.path.name / "metrics.json" for other in others)
            compared[label or BASELINE] = _over([base.metrics, *(read_json(place) for place in places if place.exists())])
    found = _over(every)
    wanted = getattr(run.task, "headline", "loss")
    return Numbers(found, compared, wanted if wanted in found else next(iter(found), ""), seeds)


def _over(runs: Sequence[Mapping[str, float]]) -> dict[str, Stat]:
    found = {}
    for name in runs[0]:
        values = [run[name] for run in runs if name in run]
        found[name] = Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))
    return found


def size_of(folder: Path) -> str:
    """Says how large a folder's files are together.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "x").write_bytes(bytes(1_230_000))
    ...     size_of(Path(folder))
    '1.2 MB'
    """
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"


def card(run: Run, recipe: Mapping[str, Any], numbers: Numbers, index: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Writes a model's card, in Markdown with the hub's front matter.

    Arguments:
        run: the run that is given away.
        recipe: its recipe, without paths of this machine.
        numbers: its numbers, over seeds.
        index: what model.json says.
        about: "name", "size", "judged" (a dtype), and what the run says of its data ("reads", "data").
    """
    name, stored = about["name"], index["dtype"]
    summary = recipe.get("summary") or f"An energy-based model: {index['energy']}."
    half = (
        "" if f"torch.{stored}" == about["judged"] else f" Weights are stored in {stored}; the numbers are of them before that."
    )
    front = ["---", *_licence(index["licence"]), f"library_name: {CORE}", "tags:", "- energy-based-model"]
    front += [f"- {_slug(recipe[kind]['use'])}" for kind in ("energy", "task") if kind in recipe]
    front += ["metrics:", *(f"- {_slug(metric)}" for metric in numbers.found)] if numbers.found else []
    begun = bare_name(str(run.recipe.get("from", {}).get("model", "")))
    begun = f" It began from the weights of {begun}." if begun else ""
    data = about["reads"] or f"Data of the task {type(run.task).__name__}"
    finger = f"; their fingerprint is {about['data']}" if about["data"] else ""
    packages = sorted({distribution for distribution in index["requires"].values() if distribution != CORE})
    install = " ".join(["pip install", f"'{CORE}[recipes]'", *packages])
    parts = [
        f"{chr(10).join(front)}\n---\n\n# {name}\n\n{summary}",
        f"An exported model of {CORE} {index['toolkit']}: {index['energy']}, "
        f"{index['parameters']:,} parameters, {about['size']} on disk.{begun}{half}",
        f"## Data\n\n{data}{finger}. No data are part of the model.",
        f"## Numbers\n\n{_numbers(numbers)}",
        f"## Use\n\n```\n{install}\n{_command(run, name)}\n```\n\n```python\nimport ebm\n\n"
        f"run = ebm.load({json.dumps(name)})  # or the folder's path\n{_call(run)}\n```\n\nLoading it runs no code of it."
        + ("" if recipe else " The energy was made by hand: pass it, too, as energy=…."),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(run, numbers)),
        f"## Licence\n\n{index['licence']}",
    ]
    return "\n\n".join(parts) + "\n"


def _numbers(numbers: Numbers) -> str:
    if not numbers.found:
        return "Its run was not finished: there are none."
    seeds = ", ".join(map(str, numbers.seeds))
    one = f"Of one seed ({seeds}): how far seeds differ is not known."
    lines = [one if len(numbers.seeds) == 1 else f"Means ± standard deviations over {len(numbers.seeds)} seeds ({seeds})."]
    if len(numbers.seeds) > 1:
        lines[0] += f" The weights are those of seed {numbers.seeds[0]}."
    columns = ["held-out data", "this model", *numbers.compared]
    lines += ["", f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    for metric, stat in sorted(numbers.found.items(), key=lambda item: item[0] != numbers.headline):
        cells = [str(other[metric]) if metric in other else "" for other in numbers.compared.values()]
        lines.append(f"| {metric} | {' | '.join([str(stat), *cells])} |")
    return "\n".join(lines)


def _limits(run: Run, numbers: Numbers) -> Iterator[str]:
    """Lists what a model is not good for, as far as its run tells."""
    with suppress(OSError, ValueError):  # a run without a history
        if not (verdict := run.verdict).healthy:
            yield verdict.line
    found = {name: stat.mean for name, stat in numbers.found.items()}
    for split, noisy, restored in _photographs(run.path, found):
        if restored < noisy + DECIBEL:
            yield f"On {split} photographs it gains nothing: {restored:.1f} dB after, {noisy:.1f} dB before."
    if found.get("mmd_p", 1) < 0.05:
        yield f"Its samples can be told from held-out data (MMD, p = {found['mmd_p']:.2g})."
    yield "It was judged on held-out data of the same source alone: nothing is known of others."


def _photographs(folder: Path, found: Mapping[str, float]) -> Iterator[tuple[str, float, float]]:
    """Lists (split, decibels of the noisy photographs, of the restored ones), as the run judged them."""
    if {"psnr", "noisy_psnr"} <= found.keys():
        yield "test", found["noisy_psnr"], found["psnr"]
    if not (path := folder / "thinking.csv").exists():
        return
    table: dict[str, dict[str, float]] = {}
    for row in read_csv(path):
        if row.get("who") == "run" and row.get("name") in ("psnr", "noisy_psnr"):
            best = table.setdefault(row.get("split", ""), {})
            best[row["name"]] = max(float(row["value"]), best.get(row["name"], float("-inf")))
    for split, best in table.items():
        if len(best) == 2 and split != "test":
            yield split, best["noisy_psnr"], best["psnr"]


def _command(run: Run, name: str) -> str:
    """Writes a command that works as it is, whatever the model's tokens; a text begins anew."""
    task: Any = run.task
    game = getattr(task, "game", task)
    if not lacking(task, WritesText):
        return f'ebm generate {name} --prompt ""'
    if not lacking(task, Tiled):
        return f"ebm denoise {name} photo.jpg"
    if not lacking(task, Films):
        return f"ebm rollout {name} clip.mp4"
    if not lacking(task, HasAnswers) and hasattr(game, "read") and not isinstance(run.energy, FeedForward):
        return f"ebm solve {name} problem.txt"
    return f"ebm sample {name}"


def _call(run: Run) -> str:
    task: Any = run.task
    if not lacking(task, WritesText):
        return 'print(run.generate([""], max_new_tokens=50))'
    return "print(run.sample(4))" if isinstance(task, Task) and task.blank(1) is not None else "print(run.energy, run.metrics)"


def _licence(words: str) -> list[str]:
    """Writes the licence as the hub reads it: by its short name, or as another, with a name.

    >>> _licence("MIT"), _licence("unknown: ask its author"), _licence("Mine alone")
    (['license: mit'], ['license: unknown'], ['license: other', 'license_name: mine-alone'])
    """
    short = words.partition(":")[0].strip().lower()
    if re.fullmatch(r"[a-z][a-z0-9.+-]*", short):
        return [f"license: {short}"]
    return ["license: other", f"license_name: {_slug(words) or 'other'}"]


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "-", words.lower()).strip("-.")
