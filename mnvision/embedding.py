"""What an embedding run does of its own: what judges it, and what it prints, draws and writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mnvision.class_pictures import NEUTRAL, RIGHT, WRONG, Caption, mistakes_sheet
from mnvision.classification import pixels_of
from mnvision.data.splits import Split
from mnvision.embedding_figures import distances_picture, roc_picture
from mnvision.figures import save
from mnvision.files import write_text
from mnvision.index import write_index
from mnvision.metrics.embeddings import EmbeddingMetric
from mnvision.models.base import ModelSpec, TaskModel
from mnvision.models.embedder import Embedder
from mnvision.outputs import write_picture
from mnvision.report_plans import EMBEDDING
from mnvision.types import PairedPictures

CHOSEN_BY = "top_k"  # how much predict tells of a picture: its nearest ones
COLUMNS: Mapping[str, str] = {"pairs": "val/accuracy", "AUC": "val/auc", "rank-1": "val/rank1"}
PLAN = EMBEDDING
SHOWN_PAIRS = 20  # wrong ones, on their sheet
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
    return "\n".join(lines)


def by_class(metric: EmbeddingMetric) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracy of each fold."""
    return {f"fold {number}": accuracy for number, accuracy in metric.by_fold().items()}, {}


def write_results(metric: EmbeddingMetric, folder: Path) -> None:
    """Write ``predictions.json``, the distance of every pair, and the two drawings of the report page."""
    write_text(folder / "predictions.json", json.dumps(metric.results()))
    judged, curve = metric.judged(), metric.roc()
    if curve is not None:
        save(roc_picture(curve), folder / "roc")
        save(distances_picture(judged, threshold=metric.compute()["threshold"]), folder / "distances")


def write_pictures(
    model: TaskModel, data: Any, split: Split, *, metric: EmbeddingMetric, folder: Path, count: int
) -> list[Path]:
    """Write ``neighbours.jpg``, some pictures with those nearest to them, and ``pairs.jpg``, the worst mistakes."""
    dataset = data.dataset(split, training=False)
    ids, embeddings = metric.embeddings()
    rows = np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int))
    labels = metric.truth.labels[ids]
    images, texts = [], []
    for row in rows.tolist():
        distances = 2 - 2 * embeddings @ embeddings[row]
        distances[row] = -1  # itself comes first
        nearest = np.argsort(distances, kind="stable")[: NEIGHBOURS + 1]
        found = [image for place in nearest if (image := pixels_of(dataset, int(ids[place]))) is not None]
        if len(found) < len(nearest):
            continue
        images += found
        for place in nearest.tolist():
            same = labels[place] == labels[row]
            value = "" if place == row else f"{max(0, distances[place]):.2f}"
            color = NEUTRAL if place == row else RIGHT if same else WRONG
            texts.append([Caption(_identity(metric, int(labels[place])), value, color)])
    written = []
    if images:
        written.append(folder / "neighbours.jpg")
        write_picture(written[-1], mistakes_sheet(images, texts, columns=NEIGHBOURS + 1, cell=200))
    images, texts = [], []
    for pair in metric.hardest_pairs(SHOWN_PAIRS) if count else []:
        places = (pair.first, pair.second)
        found = [image for place in places if (image := pixels_of(dataset, place)) is not None]
        if len(found) < 2:
            continue
        images += found
        verdict = Caption("taken for two" if pair.same else "taken for one", f"{pair.distance:.2f}", WRONG)
        names = [Caption(_identity(metric, int(metric.truth.labels[place]))) for place in places]
        texts += [[names[0], verdict], [names[1], Caption("")]]
    if images:
        written.append(folder / "pairs.jpg")
        write_picture(written[-1], mistakes_sheet(images, texts, columns=4, cell=224))
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
    embeddings = np.stack([one.numpy() for one in found]) if len(found) else np.zeros((0, 1), np.float32)
    paths = [one["file"] for one in entries]
    write_index(folder / "index", embeddings, paths, model=model)
    for row, one in enumerate(entries):
        distances = 2 - 2 * embeddings @ embeddings[row]
        distances[row] = np.inf
        nearest = np.argsort(distances, kind="stable")[: min(cfg["top_k"], len(entries) - 1)].tolist()
        one["nearest"] = [{"file": paths[place], "distance": round(float(distances[place]), 5)} for place in nearest]
    return f"{len(entries)} embeddings of {embeddings.shape[1]} numbers in {folder / 'index'}"


def _identity(metric: EmbeddingMetric, label: int) -> str:
    return metric.truth.classes[label].replace("_", " ") if label >= 0 else "unknown"
