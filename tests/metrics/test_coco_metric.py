"""The metric that is fed batch by batch: one process, several processes, and what it writes."""

from __future__ import annotations

import json
import logging
import os
import stat

import numpy as np
import pytest
import torch
import torch.distributed

from mnvision.metrics.coco import COCO_NUMBERS, CocoMetric, coco_evaluate
from mnvision.metrics.detections import write_predictions
from mnvision.types import Detections, Target, UserError, pad_targets
from tests.metrics.coco_problems import make_annotations, make_arrays, make_dataset, pycocotools_numbers, random_problem

SEED = 58  # a problem of six pictures, several classes and hundreds of detections


def predictions_of(arrays, image_id):
    rows = arrays.image_ids == image_id
    return Detections(
        boxes=torch.tensor(arrays.boxes[rows], dtype=torch.float32),
        scores=torch.tensor(arrays.scores[rows], dtype=torch.float32),
        labels=torch.tensor(arrays.labels[rows], dtype=torch.int64),
    )


def targets_of(image_ids):
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "crowd": torch.zeros(0).bool()}
    return pad_targets([Target(**none, image_id=int(image_id), original_size=(9, 9)) for image_id in image_ids])


def feed(metric, arrays, image_ids, *, batch_size=2):
    for start in range(0, len(image_ids), batch_size):
        batch = image_ids[start : start + batch_size]
        metric.update([predictions_of(arrays, image_id) for image_id in batch], targets_of(batch))


@pytest.fixture
def problem():
    dataset, results = random_problem(SEED)
    annotations, arrays = make_annotations(dataset), make_arrays(results, dataset)
    assert len(annotations) >= 5
    assert len(arrays) > 30
    return dataset, annotations, arrays


def test_batches_give_the_numbers_of_the_whole(problem):
    dataset, annotations, arrays = problem
    metric = CocoMetric(annotations)
    feed(metric, arrays, annotations.image_ids[::-1])  # in another order than the file's
    numbers = metric.compute()
    assert tuple(numbers) == COCO_NUMBERS
    expected = pycocotools_numbers(dataset, metric.results())
    assert 0 < expected["map"] < 1
    assert numbers == pytest.approx({name: expected[name] for name in COCO_NUMBERS}, abs=1e-12)
    for number in ("map", "map_50"):
        per_class = metric.per_class(number=number)
        assert tuple(per_class) == annotations.classes
        assert per_class == pytest.approx(
            {name: expected[f"{number}/{name}"] for name in annotations.classes}, abs=1e-12
        )


def test_results_carry_the_files_own_ids():
    dataset = make_dataset([{"image_id": 3, "category_id": 90, "bbox": [1, 2, 3, 4]}], categories=(17, 90))
    dataset["images"] = [{"id": 3}, {"id": 1}]
    metric = CocoMetric(make_annotations(dataset))
    one = Detections(torch.tensor([[1.0, 2, 4, 6.5]]), torch.tensor([0.25]), torch.tensor([2]))
    two = Detections(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([0.75]), torch.tensor([1]))
    metric.update([two, one], targets_of([1, 3]))
    assert metric.results() == [
        {"image_id": 3, "category_id": 90, "bbox": [1.0, 2.0, 3.0, 4.5], "score": 0.25},
        {"image_id": 1, "category_id": 17, "bbox": [0.0, 0.0, 2.0, 2.0], "score": 0.75},
    ]


def test_a_picture_that_comes_twice_counts_once(problem):
    _, annotations, arrays = problem
    metric = CocoMetric(annotations)
    feed(metric, arrays, annotations.image_ids)
    expected, results = metric.compute(), metric.results()
    metric.update(
        [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())], targets_of(annotations.image_ids[:1])
    )
    feed(metric, arrays, annotations.image_ids[1:2])
    assert metric.compute() == expected
    assert metric.results() == results


def test_fewer_pictures_are_evaluated_alone_with_one_warning(problem, caplog):
    dataset, annotations, arrays = problem
    seen = annotations.image_ids[:-2]
    metric = CocoMetric(annotations)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            metric.reset()
            feed(metric, arrays, seen)
            numbers = metric.compute()
            metric.per_class()
    expected = coco_evaluate(annotations, make_arrays(metric.results(), dataset), image_ids=seen)
    assert numbers == {name: expected[name] for name in COCO_NUMBERS}
    assert numbers != CocoMetric(annotations).compute()
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING][:1]
    assert f"{len(seen)} pictures of {len(annotations)}" in record.getMessage()
    assert sum(f"{len(seen)} pictures of" in record.getMessage() for record in caplog.records) == 1


def test_all_pictures_give_no_warning(problem, caplog):
    _, annotations, arrays = problem
    metric = CocoMetric(annotations)
    feed(metric, arrays, annotations.image_ids)
    metric.compute()
    assert not caplog.records


def test_reset_forgets(problem):
    _, annotations, arrays = problem
    metric = CocoMetric(annotations)
    feed(metric, arrays, annotations.image_ids)
    assert metric.compute()["map"] > 0
    metric.reset()
    assert metric.results() == []
    assert set(metric.compute().values()) == {-1.0}


def test_half_precision_and_gradients_are_taken(problem):
    _, annotations, _ = problem
    metric = CocoMetric(annotations)
    boxes = torch.tensor([[0.0, 0, 8, 8]], requires_grad=True)
    half = Detections(boxes.bfloat16(), torch.tensor([0.5], dtype=torch.bfloat16), torch.tensor([1], dtype=torch.int32))
    metric.update([half], targets_of(annotations.image_ids[:1]))
    metric.compute()
    assert metric.results()[0]["bbox"] == [0.0, 0.0, 8.0, 8.0]


def test_one_prediction_for_each_picture(problem):
    _, annotations, arrays = problem
    with pytest.raises(UserError, match="1 predictions for 2 pictures"):
        CocoMetric(annotations).update([predictions_of(arrays, 1)], targets_of([1, 2]))


def test_a_foreign_picture_is_refused(problem):
    _, annotations, arrays = problem
    metric = CocoMetric(annotations)
    metric.update([predictions_of(arrays, 123456)], targets_of([123456]))
    with pytest.raises(UserError, match="123456"):
        metric.compute()


def _work(rank, size, store, shards, out):
    """One process of several: feed a shard, compute twice, write what came out."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    dataset, results = random_problem(SEED)
    annotations, arrays = make_annotations(dataset), make_arrays(results, dataset)
    metric = CocoMetric(annotations)
    feed(metric, arrays, np.array(shards[rank], dtype=np.int64))
    try:
        metric.per_class()
        early = "no error"
    except RuntimeError as error:
        early = str(error)
    first = metric.compute()
    if rank == 0:  # only one of them changes: the next compute() must still meet the others
        metric.update([], targets_of([]))
    found = {"early": early, "first": first, "numbers": metric.compute()}
    found |= {"per_class": metric.per_class(), "results": metric.results()}
    (out / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("split", ["uneven, with a padded duplicate", "one shard empty"])
def test_two_processes_give_the_numbers_of_one(problem, tmp_path, split):
    _, annotations, arrays = problem
    ids = annotations.image_ids.tolist()
    shards = (ids[::2], [*ids[1::2], ids[0], ids[2]]) if split.startswith("uneven") else ([], ids)
    assert len(shards[0]) != len(shards[1])
    torch.multiprocessing.spawn(_work, args=(2, tmp_path / "store", shards, tmp_path), nprocs=2)

    metric = CocoMetric(annotations)
    feed(metric, arrays, annotations.image_ids)
    expected = metric.compute()
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert "call compute() on every process first" in found["early"]
        assert found["first"] == found["numbers"] == expected
        assert found["per_class"] == metric.per_class()
        assert found["results"] == metric.results()


def test_predictions_file(problem, tmp_path):
    dataset, annotations, arrays = problem
    metric = CocoMetric(annotations)
    feed(metric, arrays, annotations.image_ids)
    path = write_predictions(metric.results(), tmp_path / "run" / "predictions.json")
    written = json.loads(path.read_text())
    assert written == metric.results()
    assert pycocotools_numbers(dataset, written)["map"] == pytest.approx(metric.compute()["map"], abs=1e-12)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert os.listdir(path.parent) == ["predictions.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_predictions([], tmp_path / "predictions.json")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_predictions([{"score": float("nan")}], path)
    assert os.listdir(tmp_path) == ["predictions.json"]
    assert path.read_text() == "[]"


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write the predictions to .*file/predictions\.json"):
        write_predictions([], tmp_path / "file" / "predictions.json")
