"""The numbers of a geolocator, against distances that can be recomputed by hand."""

from __future__ import annotations

import json
import logging
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from mnvision.annotations import PlacedPictures
from mnvision.errors import UserError
from mnvision.metrics import geolocation
from mnvision.metrics.geolocation import GEOLOCATION_NUMBERS, WITHIN, GeolocationMetric
from mnvision.ops.geo import DISTANCES, FARTHEST, haversine
from mnvision.ops.s2 import cell_centers, find_cells, leaf_cells, parent_cells, read_tokens
from mnvision.types import Labels

# Two cells of level 8 side by side in Paris's cell of level 5, New York's, and a large one around Sydney.
CELLS = ("47e61", "47e67", "6b", "89c25")
CENTERS = cell_centers(read_tokens(CELLS))
KM = 180 / (np.pi * 6371)  # degrees of latitude


class Answer(NamedTuple):
    probabilities: Tensor
    places: Tensor


def placed(coordinates, *, constants=None) -> PlacedPictures:
    coordinates = np.asarray(coordinates, dtype=np.float64)
    names = np.array([f"{row}.jpg".encode() for row in range(len(coordinates))])
    labels = find_cells(leaf_cells(coordinates), read_tokens(CELLS))
    return PlacedPictures(names, labels, CELLS, coordinates=coordinates, constants=constants)


def feed(metric, probabilities, places, *, ids=None, batch_size=2) -> None:
    ids = list(range(len(places))) if ids is None else ids
    labels = metric.pictures.labels
    for start in range(0, len(ids), batch_size):
        rows = ids[start : start + batch_size]
        answer = Answer(torch.tensor(probabilities, dtype=torch.float32)[rows], torch.tensor(places).float()[rows])
        metric.update(answer, Labels(torch.from_numpy(labels[rows]), torch.tensor(rows)))


def off(place, kilometres) -> list[float]:
    """A place so far to the north."""
    return [place[0] + kilometres * KM, place[1]]


TRUTH = np.array([CENTERS[0], CENTERS[1], CENTERS[2], CENTERS[3], [0.0, 0.0]])  # the last lies in no cell
PLACES = [off(TRUTH[0], 0.9), off(TRUTH[1], 24.0), off(TRUTH[2], 800.0), off(TRUTH[3], 2400.0), off(TRUTH[4], 150.0)]
ROWS = [[0.6, 0.2, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.7, 0.1], [0.3, 0.3, 0.0, 0.4], [0.4, 0.3, 0.2, 0.1]]


def test_shares_within_distances_by_hand():
    metric = GeolocationMetric(placed(TRUTH))
    feed(metric, ROWS, PLACES)
    numbers = metric.compute()
    np.testing.assert_allclose(metric.distances(), [0.9, 24, 800, 2400, 150], atol=2e-3)
    assert [numbers[name] for name in WITHIN] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 3 / 5, 5 / 5])
    assert numbers["median_km"] == pytest.approx(150, abs=2e-3)
    assert numbers["top1"] == pytest.approx(3 / 4)  # the picture in no cell does not count
    # Levels 2 to 7; up to 5, the two cells beside each other are one, whose sum 0.6 puts New York's 0.4 behind it.
    assert metric.levels == [2, 3, 4, 5, 6, 7]
    assert numbers["parent/level_5"] == pytest.approx(3 / 5)
    assert numbers["parent/level_7"] == pytest.approx(3 / 5)
    assert list(numbers) == [*GEOLOCATION_NUMBERS, *(f"parent/level_{level}" for level in metric.levels)]


def test_a_distance_at_the_limit_is_within_it(monkeypatch):
    """Of the answers and of the constants; what is a little farther is not."""
    limits = np.array(DISTANCES, dtype=np.float64)
    constants = np.zeros((len(limits), 2))
    for distances in (limits, np.nextafter(limits, np.inf)):
        monkeypatch.setattr(geolocation, "haversine", lambda *_, distances=distances: distances)
        metric = GeolocationMetric(placed(TRUTH, constants=constants))
        feed(metric, ROWS, PLACES)
        numbers = metric.compute()
        shares = np.arange(1, 6) / 5 - (distances is not limits) / 5
        for place, name in enumerate(WITHIN):
            assert numbers[name] == numbers[f"constant/{name}"] == pytest.approx(shares[place])


def test_parents_are_those_of_a_slow_sum():
    rng = np.random.default_rng(1)
    truth = np.concatenate((TRUTH, CENTERS + rng.normal(scale=2.0, size=(4, 2)), rng.uniform(-60, 60, (20, 2))))
    rows = rng.dirichlet(np.ones(4), size=len(truth))
    metric = GeolocationMetric(placed(truth))
    feed(metric, rows, truth)
    numbers = metric.compute()
    leaves, cells = leaf_cells(truth), read_tokens(CELLS)
    for level in metric.levels:
        right = 0
        for row, leaf in zip(rows, leaves, strict=True):
            sums: dict[int, float] = {}
            for probability, parent in zip(row, parent_cells(cells, level).tolist(), strict=True):
                sums[parent] = sums.get(parent, 0.0) + probability
            best = max(sums, key=sums.get)
            right += find_cells(np.array([leaf]), np.array([best], dtype=np.uint64))[0] == 0
        assert numbers[f"parent/level_{level}"] == pytest.approx(right / len(truth))


def test_every_picture_counts_once_whatever_the_order():
    metric = GeolocationMetric(placed(TRUTH))
    feed(metric, ROWS, PLACES)
    expected = metric.compute()
    metric.reset()
    feed(metric, ROWS, PLACES, ids=[4, 2, 0, 1, 3, 4, 4, 2], batch_size=3)
    assert metric.compute() == expected
    assert [row["file"] for row in metric.results()] == [f"{row}.jpg" for row in range(5)]


def test_the_best_constant_answers_stand_beside():
    constants = np.array([TRUTH[0], TRUTH[0], TRUTH[4], TRUTH[4], [89.0, 0.0]])
    metric = GeolocationMetric(placed(TRUTH, constants=constants))
    feed(metric, ROWS, PLACES)
    numbers = metric.compute()
    limits = dict(zip(WITHIN, (1, 25, 200, 750, 2500), strict=True))
    for (name, limit), answer in zip(limits.items(), constants, strict=True):
        share = np.mean([haversine(one, answer) <= limit for one in TRUTH])
        assert numbers[f"constant/{name}"] == pytest.approx(share)
    assert numbers["constant/within_1km"] == pytest.approx(1 / 5)


def test_answers_that_are_not_finite_are_wrong(caplog):
    rows = [[float("nan")] * 4, *ROWS[1:]]
    metric = GeolocationMetric(placed(TRUTH))
    feed(metric, rows, PLACES)
    with caplog.at_level(logging.WARNING):
        numbers = metric.compute()
    assert "1 of 5 predictions are not finite" in caplog.text
    assert numbers["within_1km"] == 0
    assert metric.distances()[0] == FARTHEST
    row = metric.results()[0]
    assert row["place"] is None
    assert row["cells"] == []
    json.dumps(metric.results(), allow_nan=False)


def test_what_is_missing_is_said_once_and_nothing_gives_minus_one(caplog):
    metric = GeolocationMetric(placed(TRUTH, constants=TRUTH))
    assert set(metric.compute().values()) == {-1.0}
    feed(metric, ROWS, PLACES, ids=[0, 1])
    caplog.clear()
    metric.compute()
    metric.compute()
    assert caplog.text.count("Geolocation of 2 pictures of 5") == 1


def test_wrong_predictions_are_refused():
    metric = GeolocationMetric(placed(TRUTH))
    with pytest.raises(
        UserError, match=r"probabilities of shape \[1, 3\] and places of shape \[1, 2\], expected \[1, 4\]"
    ):
        metric.update(
            Answer(torch.zeros(1, 3), torch.zeros(1, 2)), Labels(torch.zeros(1).long(), torch.zeros(1).long())
        )
    metric.update(Answer(torch.ones(1, 4) / 4, torch.zeros(1, 2)), Labels(torch.zeros(1).long(), torch.tensor([7])))
    with pytest.raises(UserError, match=r"image id 7, expected 0\.\.4"):
        metric.compute()


def test_cells_of_one_level_have_no_parents_to_ask():
    pictures = PlacedPictures(np.array([b"a"]), np.zeros(1, np.int64), ("6b", "47"), coordinates=CENTERS[2:3])
    metric = GeolocationMetric(pictures)
    feed(metric, [[0.9, 0.1]], CENTERS[2:3].tolist())
    assert metric.levels == []
    assert metric.compute()["top1"] == 1


def _work(rank, store, shards, out):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(shards))
    metric = GeolocationMetric(placed(TRUTH))
    feed(metric, ROWS, PLACES, ids=shards[rank])
    found = {"numbers": metric.compute(), "results": metric.results()}
    (out / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_numbers_of_one(tmp_path):
    shards = ([0, 2, 4, 0], [1, 3])
    torch.multiprocessing.spawn(_work, args=(tmp_path / "store", shards, tmp_path), nprocs=2)
    metric = GeolocationMetric(placed(TRUTH))
    feed(metric, ROWS, PLACES)
    expected = {"numbers": metric.compute(), "results": metric.results()}
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected
