"""The numbers of a classifier: by hand, beside a plain reference, in several processes, and of bad predictions."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch
import torch.distributed

from mnvision.annotations import LabelledPictures
from mnvision.metrics.classification import CLASSIFICATION_NUMBERS, ClassificationMetric, Confusion, Mistake
from mnvision.metrics.classification_tables import accuracy_table, classification_table, confusion_table
from mnvision.metrics.detections import write_predictions
from mnvision.types import Labels, UserError

NAMES = ("beagle", "basset", "poodle")
# Two beagles right, one taken for a basset; a basset right, the second one a poodle; no poodle; an unlabelled picture.
ROWS = [[0.5, 0.25, 0.25], [0.75, 0.25, 0.0], [0.25, 0.75, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
TRUTH = [0, 0, 0, 1, 1, -1]


def pictures_of(labels, classes=NAMES):
    names = np.array([f"{index}.jpg".encode() for index in range(len(labels))])
    return LabelledPictures(names, np.array(labels, dtype=np.int64), tuple(classes))


def feed(metric, rows, *, ids=None, batch_size=4):
    ids = np.arange(len(rows)) if ids is None else np.asarray(ids, dtype=np.int64)
    rows = torch.as_tensor(np.asarray(rows, dtype=np.float32))
    labels = torch.from_numpy(metric.pictures.labels)
    for start in range(0, len(ids), batch_size):
        part = torch.from_numpy(ids[start : start + batch_size])
        metric.update(rows[part], Labels(labels[part], part))
    return metric


def classified(rows, labels, classes=None, **given):
    classes = classes or [f"class {index}" for index in range(len(rows[0]))]
    return feed(ClassificationMetric(pictures_of(labels, classes), **given), rows)


def test_a_small_problem_by_hand():
    metric = classified(ROWS, TRUTH, NAMES)
    numbers = metric.compute()
    few = tuple(name for name in CLASSIFICATION_NUMBERS if name != "top5")  # of three classes, all are among the best
    assert tuple(numbers) == (*few, "top1/beagle", "top1/basset", "top1/poodle")
    assert numbers["top1"] == 3 / 5
    assert numbers["top1/beagle"] == 2 / 3
    assert numbers["top1/basset"] == 1 / 2  # the tie with poodle is lost
    assert numbers["top1/poodle"] == -1.0
    assert numbers["top1_per_class"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    # Bins (7/15, 8/15]: 0.5 right and 0.5 wrong; (11/15, 12/15]: 0.75 right and 0.75 wrong; (14/15, 1]: 1 right.
    assert numbers["ece"] == pytest.approx((2 * abs(0.5 - 0.5) + 2 * abs(0.5 - 0.75) + 1 * abs(1 - 1)) / 5)
    assert numbers["nll"] == pytest.approx(-math.log(0.5 * 0.75 * 0.25 * 1.0 * 0.5) / 5)
    assert metric.confusion().dtype == np.int64
    assert metric.confusion().tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert metric.confusions(5) == [Confusion(1, 2, 1, 2), Confusion(0, 1, 1, 3)]  # the larger share first
    assert metric.confusions(1) == [Confusion(1, 2, 1, 2)]
    assert metric.mistakes(1) == [Mistake(2, 0, 1, 0.75)]
    assert metric.mistakes(9) == [Mistake(2, 0, 1, 0.75), Mistake(4, 1, 2, 0.5)]
    assert [tuple(row) for row in metric.per_class()] == [
        ("beagle", pytest.approx(2 / 3), 1.0, pytest.approx(0.8), 3),
        ("basset", 0.5, 0.5, 0.5, 2),
        ("poodle", -1.0, 0.0, -1.0, 0),
    ]
    assert {round(one.low * 15): one[2:] for one in metric.calibration() if one.pictures} == {
        7: (2, 0.5, 0.5),
        11: (2, 0.75, 0.5),
        14: (1, 1.0, 1.0),
    }


def test_results_name_the_best_classes():
    metric = classified(ROWS, TRUTH, NAMES)
    first, *_, last = metric.results()
    best = [("beagle", 0.5), ("basset", 0.25), ("poodle", 0.25)]
    expected = {"image_id": 0, "file": "0.jpg", "truth": "beagle"}
    assert first == expected | {"classes": [{"label": name, "probability": p} for name, p in best]}
    assert last["truth"] is None
    assert last["classes"][0] == {"label": "poodle", "probability": 1.0}
    assert len(classified([[1 / 8] * 8], [3]).results()[0]["classes"]) == 5


def reference(rows, labels, bins=15):
    """The same numbers, one picture after the other."""
    top1, top5, nll, accuracy = [], [], [], {}
    held = [[] for _ in range(bins)]
    confusion = np.zeros((rows.shape[1], rows.shape[1]), np.int64)
    for row, label in zip(rows.astype(np.float64), labels, strict=True):
        if label < 0:
            continue
        others = np.delete(row, label)
        rank = int((others >= row[label]).sum())
        top1.append(rank == 0)
        top5.append(rank < 5)
        nll.append(-math.log(max(row[label], 1.1754943508222875e-38)))
        accuracy.setdefault(label, []).append(rank == 0)
        best = [index for index in np.flatnonzero(row == row.max()) if index != label or rank == 0]
        confusion[label, best[0]] += 1
        place = next(index for index in range(bins) if row.max() <= (index + 1) / bins or index == bins - 1)
        held[place].append((row.max(), rank == 0))
    ece = sum(len(one) * abs(np.mean([r for _, r in one]) - np.mean([c for c, _ in one])) for one in held if one)
    return {
        "top1": np.mean(top1),
        **({"top5": np.mean(top5)} if rows.shape[1] > 5 else {}),
        "top1_per_class": np.mean([np.mean(one) for one in accuracy.values()]),
        "ece": ece / len(top1),
        "nll": np.mean(nll),
    }, confusion


@pytest.mark.parametrize("seed", range(12))
def test_random_predictions_beside_the_reference(seed):
    rng = np.random.default_rng(seed)
    classes, count = int(rng.choice([2, 3, 5, 6, 40])), int(rng.integers(1, 200))
    logits = rng.normal(0, rng.choice([0.1, 1, 4]), (count, classes))
    if seed % 3 == 0:
        logits = logits.round()  # many ties
    rows = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    labels = rng.integers(-1, classes, count)
    labels[0] = 0
    metric = classified(rows, labels, by_class=False)
    expected, confusion = reference(rows, labels)
    assert metric.compute() == pytest.approx(expected, abs=1e-6)
    assert (metric.confusion() == confusion).all()
    known = labels >= 0
    assert np.trace(confusion) / known.sum() == pytest.approx(expected["top1"])
    for label, row in enumerate(metric.per_class()):
        right, present, predicted = confusion[label, label], confusion[label].sum(), confusion[:, label].sum()
        assert row.pictures == present
        assert row.accuracy == (right / present if present else -1)
        assert row.precision == (right / predicted if predicted else -1)
        assert row.f1 == pytest.approx(2 * right / (present + predicted) if present else -1)
    wrong = [
        (-row.max(), i)
        for i, row in enumerate(rows)
        if known[i] and (np.delete(row, labels[i]) >= row[labels[i]]).any()
    ]
    assert [mistake.image_id for mistake in metric.mistakes(10)] == [index for _, index in sorted(wrong)][:10]


@pytest.mark.parametrize("classes", [2, 4, 5, 10])
def test_a_constant_prediction_is_never_right(classes):
    """Not even for the class that comes first where probabilities are sorted."""
    labels = np.repeat(np.arange(classes), 3)
    metric = classified(np.full((len(labels), classes), 1 / classes), labels)
    numbers = metric.compute()
    assert numbers["top1"] == numbers["top1_per_class"] == 0.0
    assert numbers.get("top5") == (None if classes <= 5 else 0.0)
    assert np.trace(metric.confusion()) == 0
    assert metric.confusion().sum() == len(labels)
    assert metric.confusion()[0, 1] == 3
    assert numbers["ece"] == pytest.approx(1 / classes)
    assert numbers["nll"] == pytest.approx(math.log(classes))


def test_always_the_same_class():
    rows = np.tile(np.float32([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), (14, 1))
    metric = classified(rows, np.arange(14) % 7)
    numbers = metric.compute()
    assert numbers["top1"] == numbers["top1_per_class"] == pytest.approx(1 / 7)
    assert numbers["top5"] == pytest.approx(1 / 7)  # tied with all others, the right class is the last of them
    assert numbers["ece"] == pytest.approx(6 / 7)
    assert numbers["nll"] == pytest.approx(-6 / 7 * math.log(1.1754943508222875e-38), rel=1e-6)
    assert [row.precision for row in metric.per_class()] == [-1, pytest.approx(1 / 7), *[-1] * 5]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("classes", [2, 10])
def test_a_prediction_that_is_not_finite_is_wrong(bad, classes, caplog):
    rows = np.zeros((4, classes), np.float32)
    rows[:, 1] = 1.0
    rows[1, 0] = bad  # beside a right answer
    rows[2] = bad
    with caplog.at_level(logging.WARNING):
        metric = classified(rows, [1, 1, 1, 1])
        numbers = metric.compute()
    assert "2 of 4 predictions are not finite" in caplog.text
    assert numbers["top1"] == numbers.get("top5", 0.5) == numbers["top1/class 1"] == 0.5
    assert numbers["ece"] == pytest.approx(0.5)  # it counts as sure
    assert numbers["nll"] == pytest.approx(0.5 * 87.3365, abs=1e-3)
    assert metric.confusion().sum() == 2
    assert metric.per_class()[1][1:] == (0.5, 1.0, pytest.approx(2 * 2 / (4 + 2)), 4)
    assert metric.mistakes(9) == []
    assert [len(row["classes"]) for row in metric.results()] == [min(classes, 5), 0, 0, min(classes, 5)]
    json.dumps(metric.results(), allow_nan=False)


def test_one_picture_and_one_class():
    assert classified([[0.75, 0.25]], [1]).compute() == pytest.approx(
        {
            "top1": 0,
            "top1_per_class": 0,
            "ece": 0.75,
            "nll": math.log(4),
            "top1/class 0": -1,
            "top1/class 1": 0,
        }
    )
    assert classified([[1.0]], [0]).compute()["top1"] == 1.0


def test_without_labels_every_number_is_undefined():
    metric = classified(ROWS, [-1] * 6, NAMES)
    assert set(metric.compute().values()) == {-1.0}
    assert metric.confusion().sum() == 0
    assert len(metric.results()) == 6
    assert set(ClassificationMetric(pictures_of([])).compute().values()) == {-1.0}


def test_edges_belong_to_the_bin_below():
    rows = [[1.0, 0.0], [0.5, 0.5], [14 / 15 + 1e-6, 1 / 15]]
    filled = [index for index, one in enumerate(classified(rows, [0, 0, 0]).calibration()) if one.pictures]
    assert filled == [7, 14]
    [last] = [one for one in classified(rows, [0, 0, 0]).calibration() if one.pictures == 2]
    assert (last.low, last.high) == (pytest.approx(14 / 15), 1.0)


def test_a_picture_that_comes_twice_counts_once():
    metric = classified(ROWS, TRUTH, NAMES)
    expected, results = metric.compute(), metric.results()
    feed(metric, np.roll(ROWS, 1, axis=1), ids=[0, 3])  # other predictions, too late
    assert metric.compute() == expected
    assert metric.results() == results


def test_fewer_pictures_are_evaluated_alone_with_one_warning(caplog):
    metric = ClassificationMetric(pictures_of(TRUTH))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            metric.reset()
            feed(metric, ROWS, ids=[3, 1, 2])
            numbers = metric.compute()
    assert numbers["top1"] == 2 / 3
    assert [row["image_id"] for row in metric.results()] == [1, 2, 3]
    assert [record.getMessage() for record in caplog.records] == [
        "Classification of 3 pictures of 6: the others were not predicted."
    ]
    caplog.clear()
    feed(metric, ROWS, ids=[0, 4, 5])
    metric.compute()
    assert not caplog.records


def test_reset_forgets_and_gradients_and_half_precision_are_taken():
    metric = classified(ROWS, TRUTH, NAMES)
    metric.reset()
    assert metric.results() == []
    rows = torch.tensor(ROWS, requires_grad=True)
    metric.update(rows.bfloat16(), Labels(torch.tensor(TRUTH, dtype=torch.int32), torch.arange(6)))
    assert metric.compute()["top1"] == 3 / 5


def test_what_cannot_be_predictions_is_refused():
    metric = ClassificationMetric(pictures_of(TRUTH))
    with pytest.raises(UserError, match=r"shape \[6, 2\], expected \[6, 3\]"):
        metric.update(torch.zeros(6, 2), Labels(torch.tensor(TRUTH), torch.arange(6)))
    for given, message in (
        ((ROWS, TRUTH, range(1, 7)), r"image id outside 0\.\.5, in 1 of 6 rows; the first is row 5 \(image id 6"),
        ((ROWS, TRUTH, [-1] * 6), "image id outside"),
        ((ROWS, [1] * 6, range(6)), "label that is not the one of the picture.* in 4 of 6 rows"),
        (([[2.0, -1.0, 0.5]] * 6, TRUTH, range(6)), r"outside 0\.\.1: expected the output of softmax"),
        (([[-2.0, -1.0, -3.0]] * 6, TRUTH, range(6)), "softmax"),
    ):
        rows, labels, ids = (torch.tensor(list(values)) for values in given)
        metric.reset()
        metric.update(rows, Labels(labels, ids))
        with pytest.raises(UserError, match=message):
            metric.compute()


def _work(rank, size, store, shards, out):
    """One process of several: feed a shard, compute twice, write what came out."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    metric = ClassificationMetric(pictures_of(TRUTH))
    feed(metric, ROWS, ids=shards[rank], batch_size=2)
    try:
        metric.per_class()
        early = "no error"
    except RuntimeError as error:
        early = str(error)
    first = metric.compute()
    if rank == 0:  # only one of them changes: the next compute() must still meet the others
        metric.update(torch.zeros(0, 3), Labels(torch.zeros(0).long(), torch.zeros(0).long()))
    found = {"early": early, "first": first, "numbers": metric.compute(), "results": metric.results()}
    (out / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("shards", [([0, 2, 4], [1, 3, 5, 0, 2]), ([], [5, 4, 3, 2, 1, 0])])
def test_two_processes_give_the_numbers_of_one(tmp_path, shards):
    torch.multiprocessing.spawn(_work, args=(2, tmp_path / "store", shards, tmp_path), nprocs=2)
    metric = classified(ROWS, TRUTH, NAMES)
    expected = metric.compute()
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert "call compute() on every process first" in found["early"]
        assert found["first"] == found["numbers"] == expected
        assert found["results"] == metric.results()


def test_classes_of_one_name_stay_apart(tmp_path):
    metric = classified([[1, 0, 0], [0, 0, 1]], [0, 2], ("crane", "owl", "crane"))
    numbers = metric.compute()
    assert [name for name in numbers if "/" in name] == ["top1/crane [0]", "top1/owl", "top1/crane [2]"]
    assert [row.name for row in metric.per_class()] == ["crane [0]", "owl", "crane [2]"]
    path = write_predictions(metric.results(), tmp_path / "predictions.json")
    assert json.loads(path.read_text())[1]["truth"] == "crane"


def test_the_tables():
    metric = classified(ROWS, TRUTH, NAMES)
    lines = classification_table(metric.compute()).splitlines()
    assert [(line.split()[0], line.split()[-1]) for line in lines] == [
        ("top1", "0.6000"),
        ("top1_per_class", "0.5833"),
        ("ece", "0.1000"),
        ("nll", f"{-math.log(0.5 * 0.75 * 0.25 * 0.5) / 5:.4f}"),
    ]
    assert len({len(line) for line in lines}) == 1
    assert classification_table(dict.fromkeys(CLASSIFICATION_NUMBERS, -1.0)).split()[-1] == "-"
    assert accuracy_table(metric.per_class()).splitlines() == [
        "           top1 precision       f1 pictures",
        "beagle   0.6667    1.0000   0.8000        3",
        "basset   0.5000    0.5000   0.5000        2",
        "poodle        -    0.0000        -        0",
    ]
    many = classified(np.eye(9), np.arange(9)).per_class()
    short = accuracy_table(many, ends=2).splitlines()
    assert len(short) == 1 + 2 + 1 + 2
    assert short[3] == "... 5 more"
    assert confusion_table(metric.confusions(5), NAMES).splitlines() == [
        "basset -> poodle  1 of 2",
        "beagle -> basset  1 of 3",
    ]
    assert confusion_table([], NAMES) == ""
