"""What an embedding run does of its own: what judges it, and what it prints, draws and writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mnvision.annotations import PairedPictures
from mnvision.class_pictures import NEUTRAL, RIGHT, WRONG, Caption, mistakes_sheet
from mnvision.data.class_dataset import ClassDataset
from mnvision.data.splits import Split
from mnvision.embedding_figures import distance_picture, roc_picture
from mnvision.figures import save
from mnvision.files import write_text
from mnvision.index import nearest, write_index
from mnvision.metrics.embeddings import EmbeddingMetric
from mnvision.metrics.verification import FARS
from mnvision.models.base import ModelSpec, TaskModel
from mnvision.models.embedder import Embedder
from mnvision.outputs import pixels_of, write_picture
from mnvision.pair_pictures import pair_captions, pairs_sheet
from mnvision.report_plans import EMBEDDING
from mnvision.wording import counted

CHOSEN_BY = "top_k"  # how much predict tells of a picture: its nearest ones
COLUMNS: Mapping[str, str] = {"pairs": "val/accuracy", "AUC": "val/auc", "rank-1": "val/rank1"}
PLAN = EMBEDDING
SHOWN_PAIRS = 18  # wrong ones, on their sheet
NEIGHBOURS = 5  # of a picture, on theirs
_MEANINGS = {
    "accuracy": "pairs told right, mean over the folds",
    "accuracy_std": "its standard deviation over the folds",
    "auc": "area under the ROC curve",
    "eer": "where as many same pairs are refused as others accepted",
    "val_at_far_1e-3": "same pairs accepted where 1 of 1,000 others is",
    "val_at_far_1e-4": "same pairs accepted where 1 of 10,000 others is",
    "threshold": "squared distance below which a pair is called same",
    "rank1": "pictures whose nearest other one is of their identity",
    "map": "mean average precision of the nearest ones",
}


def make_metric(pictures: PairedPictures) -> EmbeddingMetric:
    """Verification by the split's pairs, and identification among its pictures."""
    return EmbeddingMetric(pictures)


def summary(metric: EmbeddingMetric, numbers: Mapping[str, float]) -> str:
    """The numbers, each with what it is; and how few different pairs the smallest rates rest on."""
    told = max(map(len, _MEANINGS.values()))
    lines = []
    for name, meaning in _MEANINGS.items():
        if name in numbers:
            value = f"{numbers[name]:.4f}" if numbers[name] >= 0 else "-"
            lines.append(f"{name:<16} {meaning:<{told}} {value:>8}")
    pairs = metric.pairs
    if pairs is not None and len(pairs):
        other = int((~pairs.same).sum())
        fewest = int(np.bincount(pairs.folds[~pairs.same]).max(initial=0))
        lines.append(
            f"{len(pairs):,} pairs, {other:,} of them of two identities, up to {fewest:,} in a fold: there, one is "
            f"a rate of {1 / max(1, fewest):.1e}, so that what is accepted at 1e-3 and 1e-4 hangs on very few"
        )
    if metric.one_fold:
        chosen = "cut into ten in their order, each told by the threshold of the others, whose people may be the same"
        if metric.threshold_from is not None:
            chosen = f"the thresholds are those of the {len(metric.threshold_from.same):,} validation pairs"
        lines.append(f"the pairs are one fold: {chosen}")
    return "\n".join(lines)


def remarks(metric: EmbeddingMetric, numbers: Mapping[str, float]) -> dict[str, str]:
    """What to say beside a number on the page: where one pair of a fold is more than the rate that was asked for."""
    if (pairs := metric.pairs) is None:
        return {}
    one = 1 / max(1, int(np.bincount(pairs.folds[~pairs.same]).max(initial=0)))
    return {
        f"val_at_far_{name}": f"measured {measured:.1e}: one pair of a fold is {one:.1e}"
        for name, far in FARS.items()
        if one > far and (measured := numbers.get(f"val_at_far_{name}_measured_far", -1.0)) >= 0
    }


def by_class(metric: EmbeddingMetric) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracy of each fold; nothing where the split has no pairs, as that of a training."""
    judged = metric.verified() if metric.pairs is not None else None
    if judged is None:
        return {}, {}
    return {f"fold {fold + 1}": value for fold, value in zip(judged.folds, judged.accuracies.tolist(), strict=True)}, {}


def write_results(metric: EmbeddingMetric, folder: Path) -> None:
    """Write ``predictions.json``, the distance of every pair, and the two drawings of the report page."""
    if metric.pairs is None:
        return
    write_text(folder / "predictions.json", json.dumps(metric.results()))
    judged, curve, numbers = metric.judged(), metric.roc(), metric.verification()
    if curve is None:
        return
    marks = {far: numbers.get(f"val_at_far_{name}", -1.0) for name, far in FARS.items()}
    different = int((~judged.same).sum())
    save(roc_picture(curve.far, curve.val, auc=numbers["auc"], different=different, marks=marks), folder / "roc")
    save(distance_picture(judged.distances, judged.same, threshold=numbers.get("threshold")), folder / "distances")


def write_pictures(
    model: TaskModel, data: Any, split: Split, *, metric: EmbeddingMetric, folder: Path, count: int
) -> list[Path]:
    """Write ``neighbours.jpg``, some pictures with those nearest to them, and ``pairs.jpg``, the worst mistakes."""
    dataset = data.dataset(split, training=False)
    written = []
    for name, sheet in (
        ("neighbours.jpg", _neighbours(metric, dataset, count=count)),
        ("pairs.jpg", _worst_pairs(metric, dataset) if count and metric.pairs is not None else None),
    ):
        if sheet is not None:
            written.append(folder / name)
            write_picture(written[-1], sheet)
    return written


def predict(model: Embedder, images: Sequence[np.ndarray], *, cfg: Mapping[str, Any]) -> list[Tensor]:
    """The embeddings float32 [D] of pictures uint8 [H, W, 3]."""
    return list(model.predict(images).cpu())


def draw(image: np.ndarray, found: Tensor, *, spec: ModelSpec) -> None:
    """Nothing: an embedding cannot be seen."""


def entry(found: Tensor, *, spec: ModelSpec) -> dict[str, Any]:
    """A picture's part of ``predictions.json``; its nearest ones are known when all are there."""
    return {}


def write_entries(
    entries: Sequence[dict[str, Any]],
    found: Sequence[Tensor],
    folder: Path,
    *,
    model: TaskModel,
    cfg: Mapping[str, Any],
) -> str:
    """Write the index, ``index/``, and name in each entry the ``top_k`` nearest other pictures."""
    if not found:
        return "no picture could be read"
    embeddings, paths = np.stack([one.numpy() for one in found]), [one["file"] for one in entries]
    write_index(folder / "index", embeddings, [os.path.abspath(path) for path in paths], model=model)
    cosines, places = nearest(embeddings, embeddings, count=cfg["top_k"] + 1)
    for row, one in enumerate(entries):
        pairs = zip(places[row].tolist(), cosines[row].tolist(), strict=True)
        named = [
            {"file": paths[place], "distance": round(max(0.0, 2 - 2 * cosine), 5)}
            for place, cosine in pairs
            if place != row
        ]
        one["nearest"] = named[: cfg["top_k"]]
    return f"{counted(len(entries), 'embedding')} of {embeddings.shape[1]} numbers in {folder / 'index'}"


def _neighbours(metric: EmbeddingMetric, dataset: ClassDataset, *, count: int) -> np.ndarray | None:
    """A sheet of some pictures, spread evenly over the split, each at the head of a row of those nearest to it."""
    ids, embeddings = metric.embeddings()
    usable = np.flatnonzero(np.isfinite(embeddings).all(axis=1))
    ids, embeddings = ids[usable], embeddings[usable]
    labels = metric.truth.labels[ids]
    known, counts = np.unique(labels[labels >= 0], return_counts=True)
    several = np.flatnonzero(np.isin(labels, known[counts > 1]))  # there is something to find for these
    queries = several if len(several) else np.arange(len(ids))
    rows = queries[np.unique(np.linspace(0, len(queries) - 1, min(count, len(queries))).round().astype(int))]
    if not len(rows):
        return None
    cosines, places = nearest(embeddings, embeddings[rows], count=NEIGHBOURS + 1)
    images: list[np.ndarray] = []
    texts = []
    for row, near, likeness in zip(rows.tolist(), places.tolist(), cosines.tolist(), strict=True):
        others = [(place, 2 - 2 * cosine) for place, cosine in zip(near, likeness, strict=True) if place != row]
        shown = [(row, 0.0), *others[:NEIGHBOURS]]
        found = [image for place, _ in shown if (image := pixels_of(dataset, int(ids[place]))) is not None]
        if len(found) < len(shown):
            continue
        images += found
        for place, distance in shown:
            color = NEUTRAL if place == row else RIGHT if labels[place] == labels[row] else WRONG
            value = "" if place == row else f"{max(0.0, distance):.2f}"
            texts.append([Caption(_identity(metric, int(labels[place])), value, color)])
    return mistakes_sheet(images, texts, columns=min(NEIGHBOURS + 1, len(ids)), cell=200) if images else None


def _worst_pairs(metric: EmbeddingMetric, dataset: ClassDataset) -> np.ndarray | None:
    """A sheet of the pairs that were told wrong."""
    pairs, texts = [], []
    for pair in metric.hardest_pairs(SHOWN_PAIRS):
        first, second = (pixels_of(dataset, place) for place in (pair.first, pair.second))
        if first is None or second is None:
            continue
        one, other = (_identity(metric, int(metric.truth.labels[place])) for place in (pair.first, pair.second))
        pairs.append((first, second))
        texts.append(pair_captions((one, other), pair.distance, pair.threshold, same=pair.same))
    return pairs_sheet(pairs, texts) if pairs else None


def _identity(metric: EmbeddingMetric, label: int) -> str:
    return metric.truth.classes[label].replace("_", " ") if label >= 0 else "unknown"
