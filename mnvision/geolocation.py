"""What a geolocation run does of its own: what judges it, and what it prints, draws and writes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from mnvision.annotations import PlacedPictures
from mnvision.class_pictures import NEUTRAL, RIGHT, WRONG, Caption, draw_label, mistakes_sheet
from mnvision.data.splits import Split
from mnvision.figures import save
from mnvision.files import csv_text, write_text
from mnvision.metrics.geolocation import WITHIN, GeolocationMetric
from mnvision.models.base import ModelSpec, TaskModel, check_finite
from mnvision.models.geolocator import Geolocator
from mnvision.ops.geo import DISTANCES
from mnvision.ops.s2 import read_tokens
from mnvision.outputs import pixels_of, write_picture
from mnvision.place_figures import partition_map, predictions_map
from mnvision.report_plans import GEOLOCATION
from mnvision.wording import counted

logger = logging.getLogger(__name__)

CHOSEN_BY = "top_k"  # how much predict tells of a picture
# What the line of an epoch tells.
COLUMNS: Mapping[str, str] = {"25 km": "val/within_25km", "750 km": "val/within_750km", "median km": "val/median_km"}
PLAN = GEOLOCATION
MISTAKES = 25  # on the sheet
_NEAR = 200  # km: an answer within a region is drawn as right


class Found(NamedTuple):
    """Where a picture seems to have been taken: place, and the likeliest cells with their probabilities, best first."""

    place: tuple[float, float]
    labels: list[int]
    scores: list[float]


def make_metric(pictures: PlacedPictures) -> GeolocationMetric:
    """Shares within distances, and cells at all levels."""
    return GeolocationMetric(pictures)


def summary(metric: GeolocationMetric, numbers: Mapping[str, float]) -> str:
    """The shares beside those of the best constant answers, and the cells by level."""
    lines = [f"{'pictures placed within':<30} {'model':>8} {'constant':>9}"]
    for name, distance in zip(WITHIN, DISTANCES, strict=True):
        constant = _text(numbers.get(f"constant/{name}", -1.0))
        lines.append(f"{f'{distance:,} km':<30} {_text(numbers[name]):>8} {constant:>9}")
    lines.append(f"{'median distance, km':<30} {numbers['median_km']:>8.1f}")
    lines.append("constant: the one place that most training pictures are within this distance of")
    cells = [f"{'right cell comes first':<30} {_text(numbers['top1']):>8}"]
    for level in metric.levels:
        cells.append(f"{f'right parent at level {level}':<30} {_text(numbers[f'parent/level_{level}']):>8}")
    return "\n".join([*lines, "", *cells])


def by_class(metric: GeolocationMetric) -> tuple[dict[str, float], dict[str, float]]:
    """The shares within each distance, and those of the best constant answers."""
    distances, constants = metric.distances(), metric.constant_shares()
    names = {f"{distance:,} km": name for name, distance in zip(WITHIN, DISTANCES, strict=True)}
    bars = {title: float((distances <= one).mean()) for title, one in zip(names, DISTANCES, strict=True)}
    return bars, {title: constants[name] for title, name in names.items() if name in constants}


def write_results(metric: GeolocationMetric, folder: Path) -> None:
    """Write ``predictions.json``, ``.csv`` and ``.geojson``, and the two maps of the report page."""
    rows, pictures = metric.results(), metric.pictures
    write_text(folder / "predictions.json", json.dumps(rows))
    table = [["file", "lat", "lon", "true_lat", "true_lon", "distance_km", "cell", "probability"]]
    for row in rows:
        best = row["cells"][0] if row["cells"] else {"label": "", "probability": ""}
        table.append(
            [
                row["file"],
                *(row["place"] or ["", ""]),
                *row["truth"],
                row["distance_km"],
                best["label"],
                best["probability"],
            ]
        )
    write_text(folder / "predictions.csv", csv_text(table))
    points = [
        _point(row["place"], file=row["file"], distance_km=row["distance_km"], true_lat_lon=row["truth"])
        for row in rows
        if row["place"]
    ]
    write_text(folder / "predictions.geojson", _geojson(points))
    nowhere = [np.nan, np.nan]
    truth = np.array([row["truth"] for row in rows]).reshape(-1, 2)
    answers = np.array([row["place"] or nowhere for row in rows], dtype=np.float64).reshape(-1, 2)
    save(predictions_map(truth, answers, metric.distances()), folder / "places")
    save(partition_map(read_tokens(pictures.classes), places=pictures.coordinates), folder / "partition")


def write_pictures(
    model: TaskModel, data: Any, split: Split, *, metric: GeolocationMetric, folder: Path, count: int
) -> list[Path]:
    """Write some pictures of a split, spread evenly over it, with where they were placed; and the farthest off."""
    dataset = data.dataset(split, training=False)
    results = metric.results()
    places = np.linspace(0, len(results) - 1, min(count, len(results))).round().astype(int)
    written = []
    for row in [results[place] for place in np.unique(places).tolist()]:
        if (image := pixels_of(dataset, row["image_id"])) is not None:
            path = folder / "pictures" / f"{row['image_id']:06d}.jpg"
            write_picture(path, draw_label(image, _lines(row)))
            written.append(path)
    images, texts = [], []
    for row in sorted(results, key=lambda row: -row["distance_km"])[: MISTAKES if count else 0]:
        if (image := pixels_of(dataset, row["image_id"])) is not None:
            images.append(image)
            texts.append(_lines(row))
    if images:
        write_picture(folder / "mistakes.jpg", mistakes_sheet(images, texts))
    return written


def predict(model: Geolocator, images: Sequence[np.ndarray], *, cfg: Mapping[str, Any]) -> list[Found]:
    """The places of pictures uint8 [H, W, 3], and the ``top_k`` most likely cells.

    Raises:
        UserError: The probabilities of the cells are not finite.
    """
    located = model.predict(images)
    check_finite(located.probabilities, what="probabilities")
    scores, labels = located.probabilities.topk(min(cfg["top_k"], model.num_classes))
    rows = zip(located.places.tolist(), labels.tolist(), scores.tolist(), strict=True)
    return [Found((place[0], place[1]), some, theirs) for place, some, theirs in rows]


def draw(image: np.ndarray, found: Found, *, spec: ModelSpec) -> np.ndarray:
    """The place and the likeliest cell under a copy of the picture."""
    lines = [Caption(degrees(found.place), "", NEUTRAL), Caption(f"cell {spec.classes[found.labels[0]]}")]
    lines[1] = lines[1]._replace(value=f"{found.scores[0]:.0%}")
    return draw_label(image, lines)


def entry(found: Found, *, spec: ModelSpec) -> dict[str, Any]:
    """A picture's part of ``predictions.json``."""
    named = [
        {"label": spec.classes[label], "probability": round(score, 5)}
        for label, score in zip(found.labels, found.scores, strict=True)
    ]
    return {"lat": round(found.place[0], 6), "lon": round(found.place[1], 6), "cells": named}


def write_entries(
    entries: Sequence[dict[str, Any]], found: Sequence[Any], folder: Path, *, model: TaskModel, cfg: Mapping[str, Any]
) -> str:
    """Write ``predictions.csv``, a line a picture, and ``predictions.geojson`` for a map."""
    rows: list[list[Any]] = [["file", "lat", "lon", "cell", "probability"]]
    for one in entries:
        best = one["cells"][0]
        rows.append([one["file"], one["lat"], one["lon"], best["label"], best["probability"]])
    write_text(folder / "predictions.csv", csv_text(rows))
    points = [_point((row[1], row[2]), file=row[0], cell=row[3], probability=row[4]) for row in rows[1:]]
    write_text(folder / "predictions.geojson", _geojson(points))
    return f"{counted(len(entries), 'picture')} placed"


def degrees(place: Sequence[float]) -> str:
    """A place in words.

    >>> degrees((48.8584, 2.2941)), degrees((-33.8568, -151.2))
    ('48.858 N 2.294 E', '33.857 S 151.200 W')
    """
    latitude, longitude = place
    return f"{abs(latitude):.3f} {'S' if latitude < 0 else 'N'} {abs(longitude):.3f} {'W' if longitude < 0 else 'E'}"


def _lines(row: Mapping[str, Any]) -> list[Caption]:
    """What stands under a picture of a split."""
    away = row["distance_km"]
    value = f"{away:,.0f} km off" if away >= 10 else f"{away:.1f} km off"
    answer = degrees(row["place"]) if row["place"] else "no prediction"
    return [
        Caption(answer, value, RIGHT if away <= _NEAR else WRONG),
        Caption(f"is: {degrees(row['truth'])}"),
        Caption(PurePath(row["file"]).name),
    ]


def _point(place: Sequence[float], **properties: Any) -> dict[str, Any]:
    """A point of GeoJSON (RFC 7946), whose longitude comes first."""
    geometry = {"type": "Point", "coordinates": [place[1], place[0]]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _geojson(features: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps({"type": "FeatureCollection", "features": features})


def _text(value: float) -> str:
    return f"{value:.4f}" if value >= 0 else "-"
