"""`ebm diagnose SAMPLES`: how far the chains of a file can be believed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ebm.commands.console import print_json, print_table
from ebm.files import atomic
from ebm.judging.chains import import_arviz

KINDS = (".safetensors", ".npz", ".npy", ".nc")
COLUMNS = {"mean": "mean", "sd": "sd", "mcse_mean": "mcse", "ess_bulk": "ess bulk", "ess_tail": "ess tail", "r_hat": "r_hat"}
RHAT, ESS = 1.01, 100  # from which R-hat chains disagree, and the least ESS for each chain (arXiv 1903.08008)
DRAWN = 4  # coordinates that are drawn, the worst

Axes = Literal["draws-chains", "chains-draws", "draws"]


def diagnose(samples: Path, /, *, axes: Axes | None = None, rows: int = 20, out: Path | None = None, json: bool = False) -> None:
    """Diagnose the chains of a samples file: R-hat, effective sample sizes, Monte Carlo errors.

    Needs ArviZ: pip install 'ebm-toolkit[arviz]'. Coordinates are listed by R-hat, the worst first.

    Args:
        samples: a file of draws, .safetensors, .npz or .npy with arrays (draws, chains, *event), or
            ArviZ's .nc, as ebm.judging.to_arviz(...).to_netcdf(...) writes. The samples.safetensors
            of ebm sample, independent draws (draws, *event), are taken as one chain.
        axes: what an array's first axes are, where they are others: "draws-chains",
            "chains-draws", or "draws" alone.
        rows: how many coordinates to list.
        out: a folder for pictures of the worst coordinates: trace.png, rank.png and
            autocorrelation.png.
        json: print all numbers as JSON.
    """
    if rows < 1:
        raise ValueError(f"--rows {rows}: list at least one coordinate")
    if samples.suffix not in KINDS or not samples.is_file():
        what = "there is no such file" if samples.suffix in KINDS else f"a samples file ends in {', '.join(KINDS)}"
        if samples.is_dir():
            what = "a folder has no chains to diagnose, and a model no history: ebm sample it, and diagnose the samples"
        raise ValueError(f"{samples}: {what}")
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: name a folder, this is a file")
    arviz = import_arviz()
    chains, statistics = _read(samples, axes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a new version, of many chains, and of 0 / 0
        named = {label: series for name, array in chains.items() for label, series in _coordinates(name, array)}
        table = arviz.summary(arviz.convert_to_dataset(named), kind="all", round_to="none")[[*COLUMNS]]
    found = {label: {COLUMNS[column]: float(value) for column, value in row.items()} for label, row in table.iterrows()}
    worst = sorted(found, key=lambda label: -np.nan_to_num(found[label]["r_hat"], nan=np.inf))
    told = _verdict(chains, found, statistics)
    if json:
        print_json({"coordinates": {label: found[label] for label in worst}, "verdict": told})
    else:
        lines = [[label, *(f"{value:.4g}" for value in found[label].values())] for label in worst[:rows]]
        more = f", the {len(lines)} of {len(worst)} coordinates with the largest R-hat" if len(worst) > len(lines) else ""
        print_table(f"{samples}{more}", ("", *COLUMNS.values()), lines)
        for line in told:
            print(line)
    if out is not None:
        for path in _draw(arviz, {label: named[label] for label in worst[:DRAWN]}, out):
            if not json:
                print(path)


def _read(path: Path, axes: Axes | None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Reads arrays (chains, draws, *event) by name, and sample statistics where a file has them."""
    if path.suffix == ".nc":
        if axes is not None:
            raise ValueError(f"--axes {axes}: {path} names its own axes")
        try:
            data = import_arviz().from_netcdf(str(path))
        except Exception as error:  # each of its engines has its own
            raise ValueError(f"{path} cannot be read as .nc: {error}") from error
        groups = {name: data[name] for name in ("posterior", "sample_stats") if name in data}
        if "posterior" not in groups:
            raise ValueError(f"{path} has no group posterior: write it by ebm.judging.to_arviz(...).to_netcdf(...)")
        found = [{name: array.values for name, array in groups.get(key, {}).items()} for key in ("posterior", "sample_stats")]
        return _checked(path, found[0]), found[1]
    held: Mapping[str, Any]
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            held = {name: tensor.double().numpy() for name, tensor in load_file(path).items()}
        else:
            loaded = np.load(path, allow_pickle=False)
            held = {"y": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except Exception as error:  # each library has its own
        raise ValueError(f"{path} cannot be read as {path.suffix}: {error}") from error
    chains = {}
    for name, array in held.items():
        # What `ebm sample` writes are ends of independent chains, one draw of each.
        kind = axes or ("draws" if path.suffix == ".safetensors" and name == "samples" else "draws-chains")
        if array.dtype.kind not in "fiub" or array.ndim < (1 if kind == "draws" else 2):
            raise ValueError(f"{path}: {name} is {array.dtype} of shape {array.shape}: pass numbers (draws, chains, *event)")
        array = array.astype(np.float64)
        chains[name] = array[None] if kind == "draws" else array if kind == "chains-draws" else np.moveaxis(array, 1, 0)
    return _checked(path, chains), {}


def _checked(path: Path, chains: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not chains:
        raise ValueError(f"{path} holds no samples")
    for name, array in chains.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} is not finite everywhere: leave out the chains that diverged, and say so")
        if array.shape[1] < 4:
            what = f"{array.shape[1]} draws of {array.shape[0]} chains (--axes says which axis is which)"
            raise ValueError(f"{path}: {name} has {what}: at least 4 draws are needed")
    return {name: np.ascontiguousarray(array) for name, array in chains.items()}


def _coordinates(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Lists every coordinate of an event, with its draws (chains, draws)."""
    event = array.shape[2:]
    return [(f"{name}{[*place]}" if event else name, array[(..., *place)]) for place in np.ndindex(*event)]


def _verdict(chains: dict[str, np.ndarray], found: dict[str, dict[str, float]], statistics: dict[str, np.ndarray]) -> list[str]:
    """Says in lines what was looked at, and whether it can be believed."""
    lines = []
    for name, array in chains.items():
        alone = "; with one chain, R-hat compares its halves only" if len(array) == 1 else ""
        shape = f", each of shape {array.shape[2:]}" if array.shape[2:] else ""
        lines.append(f"{name}: {array.shape[1]} draws of {len(array)} chain{'s' * (len(array) > 1)}{shape}{alone}")
    least = ESS * max(len(array) for array in chains.values())
    still = [label for label, row in found.items() if np.isnan(row["r_hat"])]
    apart = [label for label, row in found.items() if row["r_hat"] > RHAT]
    few = [label for label, row in found.items() if min(row["ess bulk"], row["ess tail"]) < least]
    for who, what in ((still, "never move"), (apart, f"have an R-hat above {RHAT}"), (few, f"have an ESS below {least}")):
        if who:
            lines.append(f"{len(who)} of {len(found)} coordinates {what}, such as {who[0]}")
    if "diverging" in statistics and (count := int(statistics["diverging"].sum())):
        lines.append(f"{count} of {statistics['diverging'].size} paths diverged: take a smaller step")
    if "acceptance_rate" in statistics:
        lines.append(f"acceptance {statistics['acceptance_rate'].mean():.2f}")
    if not still and not apart and not few:
        lines.append("nothing speaks against these chains")
    return lines


def _draw(arviz: Any, named: dict[str, np.ndarray], out: Path) -> list[Path]:
    """Draws traces, ranks and autocorrelations into a folder."""
    import matplotlib

    written = []
    out.mkdir(parents=True, exist_ok=True)
    plots = {"trace": arviz.plot_trace, "rank": arviz.plot_rank, "autocorrelation": arviz.plot_autocorr}
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matplotlib.use("agg")
        from matplotlib import pyplot

        for name, plot in plots.items():
            axes = np.ravel(plot(arviz.convert_to_dataset(named)))
            figure = axes[0].figure
            with atomic(out / f"{name}.png") as draft:
                figure.savefig(draft, format="png", dpi=120)
            pyplot.close(figure)
            written.append(out / f"{name}.png")
    return written
