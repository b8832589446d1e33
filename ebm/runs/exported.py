"""A model that can be given away: a folder with weights, recipe, what was learned, numbers and a card.

No file of it is code, and reading one runs none. model.json has the SHA-256 of every file that a
model is built from, and of itself; the card, README.md, may be edited.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import tomli_w
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ebm import __version__
from ebm.files import check_writable, discard, draft_of, hold, holding, read_json, write_text
from ebm.interfaces import EnergyFn, Objective, Task
from ebm.interfaces.abilities import Learns, lacking
from ebm.registry import CORE, PARTS, PLURALS, component, components
from ebm.runs import checkpoints, learned
from ebm.runs.card import Numbers, card, numbers_of, size_of
from ebm.runs.checkpoints import CheckpointError
from ebm.runs.index import CARD, FORMAT, INDEX, index_of, is_model, seal
from ebm.runs.portable import portable, unplaced, unplaced_json
from ebm.words import nearest

if TYPE_CHECKING:
    from ebm.runs.run import Run

WEIGHTS = "model.safetensors"
SUFFIXES = (".safetensors", ".json", ".toml", ".md", ".txt", ".model")  # of a model's files; none is code
LEFT = (".jinja",)  # templates of chats, which transformers writes beside tokenizers and no task uses
EXTRA = "extra/"  # before the names of tensors that are not weights, in a module's own state
UNKNOWN = "unknown: ask its author"  # the licence, where nobody says one

DType: TypeAlias = Literal["float32", "float16", "bfloat16"]


# ------------------------------------------------------------------------------------------------------------- writing


@holding()
def export(
    run: Run,
    folder: str | Path,
    *,
    also: Sequence[Run | str | Path] = (),
    dtype: DType | None = None,
    licence: str = UNKNOWN,
    name: str = "",
    overwrite: bool = False,
) -> Path:
    """Writes a run's model into a folder of its own, which `ebm.load` takes on any machine.

    The folder holds model.safetensors (the energy, by its moving average where there is one, and
    the objective's parameters), model.json, recipe.toml, learned/, metrics.json, and the card
    README.md; no optimiser, no replay buffer, no path of this machine. It is written whole or not
    at all. Nothing is evaluated: the numbers are the run's own. An exported model is copied.

    Arguments:
        run: what `ebm.run`, `ebm.fit` or `ebm.load` returned.
        folder: a new or an empty folder.
        also: finished runs of the same recipe and other seeds (or their folders), for means and
            standard deviations over seeds on the card.
        dtype: stores the energy's weights so; loading turns them back into the energy's dtype.
        licence: the model's, as in "mit"; it is for whoever owns the data to say.
        name: what the card calls the model; by default the folder's name.
        overwrite: replaces an exported model in that folder.

    Raises:
        ValueError: for a folder that holds anything else, runs that differ in more than their
            seed, weights that are not finite in this dtype, or a file that may not be given away.
        OSError: the folder cannot be written to, or another export writes to it.

    >>> import ebm, tempfile
    >>> small = {"fit.steps": 2, "fit.evaluate_limit": 20, "energy.hidden": [8], "task.n": 200}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = ebm.run("density", small, out=folder + "/run")
    ...     model = run.export(folder + "/model", licence="mit")
    ...     sorted(path.name for path in model.iterdir()), ebm.load(model).metrics == run.metrics
    (['README.md', 'learned', 'metrics.json', 'model.json', 'model.safetensors', 'recipe.toml'], True)
    """
    final = Path(folder)
    _check_place(final, overwrite)
    if (draft := draft_of(final)).is_symlink():
        draft.unlink()
    draft.mkdir(parents=True, exist_ok=True)
    hold(draft)
    try:
        for left in draft.iterdir():  # by a killed export
            discard(left)
        if is_model(run.path):
            if also or dtype is not None or licence != UNKNOWN or name:
                raise ValueError(f"{run.path} is an exported model, which is copied as it is: export the run that it came from")
            _copy(run.path, draft)
        else:
            _write(run, draft, numbers_of(run, also), dtype, licence, name or final.absolute().name)
        if final.exists():
            discard(aside := draft_of(final, "before"))
            final.rename(aside)
            draft.replace(final)
            discard(aside)
        else:
            draft.replace(final)
    finally:
        discard(draft)
    return final


def _check_place(final: Path, overwrite: bool) -> None:
    """Raises where a folder holds what an export may not replace, or has no name to be replaced by."""
    if final.name in ("", ".."):
        raise ValueError(f"{str(final)!r} is no folder's name, by which an export could be put in its place: name a new folder")
    check_writable(final.parent)
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        raise ValueError(f"{final} is a {'symbolic link' if final.is_symlink() else 'file'}: name a new folder to export to")
    if not final.is_dir() or not any(final.iterdir()):
        return
    if not is_model(final):
        raise ValueError(f"{final} holds what no export wrote, and none will touch: name a new or an empty folder")
    ours = {INDEX, CARD, *index_of(final)["files"]}
    others = sorted(str(path.relative_to(final)) for path in final.rglob("*") if not path.is_dir())
    if others := [path for path in others if path not in ours]:
        raise ValueError(f"{final} holds {', '.join(others[:3])}, which no export wrote: move that away, or name another folder")
    if not overwrite:
        raise ValueError(
            f"{final} holds an exported model: name another folder, or pass overwrite=True (--overwrite) to replace it"
        )


def _copy(source: Path, draft: Path) -> None:
    for name in (*read(source)["files"], INDEX, CARD):
        if (source / name).exists():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, draft / name)


def _write(run: Run, draft: Path, numbers: Numbers, dtype: DType | None, licence: str, name: str) -> None:
    tensors, holds, stored = _weights(run, dtype)
    (draft / WEIGHTS).write_bytes(save(tensors))  # save_file would let its owner alone read it
    write_text(draft / "metrics.json", json.dumps(run.metrics, indent=2) + "\n")
    recipe = portable(run.recipe)
    if run.recipe:
        write_text(draft / "recipe.toml", tomli_w.dumps(recipe))
    kept = learned.kept(run.path)
    if kept is not None:
        left = shutil.ignore_patterns(*(f"*{suffix}" for suffix in LEFT), ".*")
        shutil.copytree(kept, draft / learned.FOLDER, ignore=left, copy_function=shutil.copyfile)
    elif run.task is not None:  # of an older toolkit, that kept nothing
        learned.keep(draft, run.task, whole=bool(run.recipe))
    _unplace(draft / learned.FOLDER, run.recipe)
    files = {str(path.relative_to(draft)): _sha256(path) for path in sorted(draft.rglob("*")) if path.is_file()}
    if odd := [file for file in files if not file.endswith(SUFFIXES)]:
        raise ValueError(f"{odd[0]} may not be given away with a model, whose files end in {', '.join(SUFFIXES)}")
    headline = numbers.headline
    index: dict[str, Any] = {
        "format": FORMAT,
        "toolkit": __version__,
        "energy": type(run.energy).__name__,
        "parameters": sum(p.numel() for p in run.energy.parameters()) if isinstance(run.energy, nn.Module) else 0,
        "dtype": stored,
        "licence": licence,
        "headline": {"name": headline, **numbers.found[headline]._asdict()} if headline else None,
        "requires": requires_of(recipe),
        "files": files,
    } | ({"holds": holds} if holds else {})
    write_text(draft / INDEX, json.dumps({**index, "sha256": seal(index)}, indent=2) + "\n")
    about = {**learned.index_of(draft), "size": size_of(draft), "judged": str(_dtype_of(run.energy)), "name": name}
    write_text(draft / CARD, card(run, recipe, numbers, index, about))


def _weights(run: Run, dtype: DType | None) -> tuple[dict[str, Tensor], Any, str]:
    """Lists tensors by name, what else modules keep, and the dtype that the energy is stored in."""
    parts: dict[str, Mapping[str, Any]] = {
        "energy": run.energy.state_dict() if isinstance(run.energy, nn.Module) else {},
        "objective": run.objective.state_dict() if isinstance(run.objective, nn.Module) else {},
        "task": {} if _keeps(run.task) or lacking(run.task, Learns) else run.task.state_dict(),  # type: ignore[union-attr]
    }
    tensors: dict[str, Tensor] = {}
    odd: dict[str, Any] = {}
    for kind, state in parts.items():
        for key, value in state.items():
            if kind == "objective" and key.endswith("_extra_state"):
                continue  # a replay buffer
            if isinstance(value, Tensor):
                tensors[f"{kind}/{key}"] = _stored(f"{kind}.{key}", value, dtype if kind == "energy" else None)
            else:
                odd[f"{kind}/{key}"] = value
    extra, holds = checkpoints.flatten({EXTRA[:-1]: odd} if odd else {})
    tensors |= {name: _stored(name, value, None) for name, value in extra.items()}
    return tensors, holds if odd else None, dtype or str(_dtype_of(run.energy)).removeprefix("torch.")


def _keeps(task: Any) -> bool:
    """Tells whether a task writes what it learned into a run's folder, where it need not stand twice."""
    return isinstance(task, Task) and type(task).save_learned is not Task.save_learned


def _stored(name: str, tensor: Tensor, dtype: DType | None) -> Tensor:
    """Copies a tensor to be stored; ValueError where it is finite, and would not be in this dtype."""
    tensor = tensor.detach().cpu().contiguous().clone()
    if dtype is None or not tensor.is_floating_point():
        return tensor
    cast = tensor.to(getattr(torch, dtype))
    if bool((tensor.isfinite() & ~cast.isfinite()).any()):
        raise ValueError(f"{name} has numbers too large for {dtype}: store the weights in bfloat16 or float32")
    return cast


def _dtype_of(energy: EnergyFn) -> torch.dtype:
    parameters = energy.parameters() if isinstance(energy, nn.Module) else iter(())
    return next((p.dtype for p in parameters if p.is_floating_point()), torch.get_default_dtype())


def _unplace(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Takes the folders of this machine out of what is given away, and lists its files anew."""
    if not (folder / learned.INDEX).exists():
        return
    for path in folder.rglob("*.json"):
        if path.name != "tokenizer.json":  # whose words may look like anything
            found = read_json(path)
            if (clean := unplaced_json(found)) != found:
                write_text(path, json.dumps(clean, indent=2, ensure_ascii=False) + "\n")
    index = read_json(folder / learned.INDEX)
    index["reads"] = unplaced(index["reads"], recipe)
    index["files"] = {name: _sha256(folder / name) for name in index["files"] if (folder / name).exists()}
    write_text(folder / learned.INDEX, json.dumps(index, indent=2) + "\n")


def requires_of(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Lists the components that a recipe names, with the distributions that offer them.

    >>> requires_of({"task": {"use": "points"}, "objective": {"use": "score-matching", "sampler": {"use": "langevin"}}})
    {'task points': 'ebm-toolkit', 'objective score-matching': 'ebm-toolkit', 'sampler langevin': 'ebm-toolkit'}
    """
    found: dict[str, str] = {}
    for key, value in recipe.items():
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, Mapping):
                kind = PLURALS.get(key, key)
                if kind in PARTS and isinstance(part.get("use"), str):
                    found[f"{kind} {part['use']}"] = component(kind, part["use"]).distribution
                found |= requires_of(part)
    return found


# ------------------------------------------------------------------------------------------------------------- reading


def read(folder: Path) -> dict[str, Any]:
    """Reads a model's model.json, once all files that it lists are what was written.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    index = index_of(folder)
    for name, digest in index["files"].items():
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise CheckpointError(f"{folder / INDEX} lists {name}, which is not in that folder")
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, which the model was given away with: copy the whole folder")
        if _sha256(path) != digest:
            raise CheckpointError(f"{path} is damaged: it is not what was written, by its SHA-256")
    return index


@contextmanager
def built_with(index: Mapping[str, Any], folder: str | Path) -> Iterator[None]:
    """Says what to install where a component or a library is missing to build a model.

    Raises:
        ValueError: a component's package is not installed.
        ImportError: a library is not.
    """
    for what, distribution in index.get("requires", {}).items():
        kind, _, name = what.partition(" ")
        offered = [c.distribution for c in components(kind).values() if name in (c.name, f"{c.distribution}:{c.name}")]
        if offered:
            continue
        if distribution == CORE:
            way_out = f"this {CORE} is {__version__}, the model's {index.get('toolkit')}: pip install --upgrade {CORE}"
        else:
            way_out = f"it is of the package {distribution}, which is not installed: pip install {distribution}"
        raise ValueError(f"{folder} needs the {kind} {name!r}; {way_out}. {nearest(name, components(kind))}")
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f"{folder} needs {error.name}: pip install 'ebm-toolkit[recipes]'") from error


def restore(folder: Path, index: Mapping[str, Any], energy: EnergyFn, objective: Objective | None, task: Any) -> None:
    """Loads a model's weights into its parts, in the parts' own dtypes.

    Raises:
        CheckpointError: the weights cannot be read, are not finite, or do not fit.
    """
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
        holds = checkpoints.unflatten(index["holds"], tensors)[EXTRA[:-1]] if "holds" in index else {}
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as a model's tensors: {error!r}") from error
    state = {name: value for name, value in tensors.items() if not name.startswith(EXTRA)} | holds
    parts: dict[str, Any] = {"energy": energy, "objective": objective, "task": task}
    for kind, part in parts.items():
        found = {name.removeprefix(f"{kind}/"): value for name, value in state.items() if name.startswith(f"{kind}/")}
        with checkpoints.named(path):
            if isinstance(part, nn.Module):
                _load(part, found, f"{path} holds weights that are not finite: {kind}.")
            elif kind == "task" and found and not lacking(part, Learns):
                part.load_state_dict(found)


def _load(part: nn.Module, state: Mapping[str, Any], complaint: str) -> None:
    own, parameters = part.state_dict(), dict(part.named_parameters(remove_duplicate=False))
    cast: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Tensor) and isinstance(own.get(name), Tensor) and value.is_floating_point():
            value = value.to(own[name].dtype)
            if name in parameters and not bool(value.isfinite().all()):
                raise CheckpointError(complaint + name)
        cast[name] = value
    missing, unexpected = part.load_state_dict(cast, strict=False)
    if missing := [name for name in missing if not name.endswith("_extra_state")]:
        raise ValueError(f"it has no {', '.join(missing)}")
    if unexpected:
        raise ValueError(f"it has {', '.join(unexpected)}, which {type(part).__name__} has not")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
