"""Numbers of attributes against slow references and by hand."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch

from mnvision.annotations import LabelledPictures
from mnvision.errors import UserError
from mnvision.metrics.attribute_tables import attribute_table, number_table
from mnvision.metrics.attributes import AttributeMetric, average_precision
from mnvision.types import Labels

NAMES = ("hat", "beard", "scar")
NAN = math.nan
# Five pictures; nobody is known to have a scar.
TRUTH = [[1, 0, 0], [0, 1, NAN], [1, 1, 0], [0, NAN, 0], [NAN, 0, 0]]
TOLD = [[0.9, 0.25, 0.5], [0.75, 0.5, 0.5], [0.5, 0.75, 0.5], [0.25, 0.9, 0.5], [0.9, 0.5, 0.5]]


def pictures_of(truth=TRUTH, names=NAMES) -> LabelledPictures:
    labels = np.array(truth, np.float32).reshape(-1, len(names))
    return LabelledPictures(np.array([f"{row}.jpg".encode() for row in range(len(labels))]), labels, tuple(names))


def feed(metric, told=TOLD, *, ids=None, batch_size=3) -> None:
    rows = torch.tensor(told, dtype=torch.float32)
    places = torch.arange(len(rows)) if ids is None else torch.tensor(ids, dtype=torch.int64)
    for start in range(0, len(places), batch_size):
        part = places[start : start + batch_size]
        labels = torch.from_numpy(metric.pictures.labels)[part]
        metric.update(rows[part], Labels(labels, part))


def measured(told=TOLD, truth=TRUTH, names=NAMES, **options) -> AttributeMetric:
    metric = AttributeMetric(pictures_of(truth, names), **options)
    feed(metric, told)
    return metric


def slow_average_precision(scores, present) -> float:
    """The definition of scikit-learn's ``average_precision_score``: every score is a threshold, from the highest on."""
    total, before, sum_ = sum(present), 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = [here for score, here in zip(scores, present, strict=True) if score >= threshold]
        recall, precision = sum(found) / total, sum(found) / len(found)
        sum_ += (recall - before) * precision
        before = recall
    return sum_


@pytest.mark.parametrize("seed", range(40))
def test_average_precision_is_that_of_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 60))
    scores = rng.integers(0, rng.integers(2, 40), count) / 40  # with ties, from hardly any to almost all
    present = rng.random(count) < rng.uniform(0.05, 0.95)
    present[rng.integers(count)] = True
    expected = slow_average_precision(scores.tolist(), present.tolist())
    assert average_precision(scores, present) == pytest.approx(expected, abs=1e-12)
    mixed = rng.permutation(count)
    assert average_precision(scores[mixed], present[mixed]) == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand():
    assert average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, True, False])) == 1
    assert average_precision(np.array([0.9, 0.8, 0.1]), np.array([False, False, True])) == pytest.approx(1 / 3)
    # A constant answer has one threshold: precision is the share of those who have it.
    assert average_precision(np.full(8, 0.5), np.arange(8) < 3) == 3 / 8
    assert average_precision(np.array([0.5]), np.array([False])) == -1


def test_numbers_by_hand():
    metric = measured()
    numbers = metric.compute()
    # hat is known of four: 0.9 yes, 0.75 no, 0.5 yes, 0.25 no; beard of four: 0.75 yes, 0.5 yes and no, 0.25 no.
    hat, beard = (1 + 2 / 3) / 2, 0.5 * 1 + 0.5 * 2 / 3
    assert numbers["ap/hat"] == pytest.approx(hat)
    assert numbers["ap/beard"] == pytest.approx(beard)
    assert numbers["ap/scar"] == -1
    assert numbers["mean_ap"] == pytest.approx((hat + beard) / 2)
    # At 0.5, where 0.5 counts as present: hat 2 of 2 and 1 of 2 right, beard 2 of 2 and 1 of 2.
    assert numbers["balanced_accuracy"] == pytest.approx(0.75)
    logs = [0.9 * 0.25 * 0.5 * 0.75, 0.75 * 0.5 * 0.75 * 0.5, 0.5**4]
    assert numbers["cross_entropy"] == pytest.approx(-sum(math.log(one) / 4 for one in logs) / 3, rel=1e-6)
    rows = metric.per_attribute()
    assert [row.pictures for row in rows] == [4, 4, 4]
    assert [row.share for row in rows] == [0.5, 0.5, 0.0]
    assert "ap/hat" not in measured(by_attribute=False).compute()


def test_values_that_are_not_known_change_nothing():
    other = [[*row] for row in TOLD]
    other[4][0], other[3][1], other[1][2] = 0.0, 0.1, 1.0  # where the truth is NaN
    assert measured(other).compute() == measured().compute()
    assert set(measured(truth=[[NAN] * 3] * 5).compute().values()) == {-1.0}


def test_a_picture_that_comes_twice_counts_once():
    metric = measured()
    expected, results = metric.compute(), metric.results()
    feed(metric, (1 - np.array(TOLD)).tolist(), ids=[0, 3])
    assert metric.compute() == expected
    assert metric.results() == results


def test_fewer_pictures_are_evaluated_alone_with_one_warning(caplog):
    metric = AttributeMetric(pictures_of())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            metric.reset()
            feed(metric, ids=[2, 0])
            numbers = metric.compute()
    assert numbers["ap/hat"] == 1
    assert [row["image_id"] for row in metric.results()] == [0, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "Attributes of 2 pictures of 5: the others were not predicted."
    ]


def test_what_is_not_finite_is_wrong_whatever_the_truth_is(caplog):
    told = [[NAN, *TOLD[0][1:]], [NAN, *TOLD[1][1:]], *TOLD[2:]]
    with caplog.at_level(logging.WARNING):
        metric = measured(told)
        numbers = metric.compute()
    assert "2 of 5 predictions are not finite" in caplog.text
    # yes as 0, no as 1, 0.5 yes, 0.25 no: found at ranks 2 and 4.
    assert numbers["ap/hat"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert metric.results()[0]["attributes"]["hat"] == {"probability": None, "truth": True}
    json.dumps(metric.results(), allow_nan=False)


def test_mistakes_are_the_surest_wrong_answers():
    worst = measured().mistakes(9)
    assert [(one.image_id, one.attribute, one.present, round(one.probability, 4)) for one in worst] == [
        (1, 0, False, 0.75)
    ]
    assert measured().mistakes(0) == []


def test_what_cannot_be_predictions_is_refused():
    metric = AttributeMetric(pictures_of())
    with pytest.raises(UserError, match=r"shape \[5, 2\], expected \[5, 3\]"):
        metric.update(torch.zeros(5, 2), Labels(torch.zeros(5, 3), torch.arange(5)))
    metric.update(torch.zeros(5, 3), Labels(torch.zeros(5, 3), torch.arange(1, 6)))
    with pytest.raises(UserError, match=r"image ids outside 0\.\.4"):
        metric.compute()
    metric.reset()
    metric.update(torch.full((5, 3), 2.0), Labels(torch.zeros(5, 3), torch.arange(5)))
    with pytest.raises(UserError, match="output of a sigmoid"):
        metric.compute()


def _work(rank, size, store, shards, out):
    """One process of several: feed a shard, compute, write what came out."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    metric = AttributeMetric(pictures_of())
    feed(metric, ids=shards[rank], batch_size=2)
    try:
        metric.per_attribute()
        early = "no error"
    except RuntimeError as error:
        early = str(error)
    found = {"early": early, "numbers": metric.compute(), "results": metric.results()}
    (out / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("shards", [([0, 2, 4], [1, 3, 0]), ([], [4, 3, 2, 1, 0])])
def test_two_processes_give_the_numbers_of_one(tmp_path, shards):
    torch.multiprocessing.spawn(_work, args=(2, tmp_path / "store", shards, tmp_path), nprocs=2)
    metric = measured()
    expected = metric.compute()
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert "call compute() on every process first" in found["early"]
        assert found["numbers"] == expected
        assert found["results"] == metric.results()


def test_the_tables():
    metric = measured()
    lines = number_table(metric.compute()).splitlines()
    assert [(line.split()[0], line.split()[-1]) for line in lines] == [
        ("mean_ap", "0.8333"),
        ("balanced_accuracy", "0.7500"),
        ("cross_entropy", f"{metric.compute()['cross_entropy']:.4f}"),
    ]
    table = attribute_table(metric.per_attribute()).splitlines()
    assert table[0].split() == ["ap", "chance", "balanced", "entropy", "pictures"]
    assert table[-1].split() == ["scar", "-", "0.0000", "-", "0.6931", "4"]
    many = measured(np.eye(9), np.eye(9), [f"a{n}" for n in range(9)]).per_attribute()
    assert attribute_table(many, ends=2).splitlines()[3] == "... 5 more"
