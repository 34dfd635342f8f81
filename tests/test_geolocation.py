"""Runs of geolocators: training, evaluation and prediction through the commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mnvision import load_model, predicting, run, sharding
from mnvision.errors import UserError
from mnvision.geolocation import degrees
from mnvision.models.create import create_model
from mnvision.models.place_objective import PlaceObjective
from mnvision.ops.geo import DISTANCES, haversine
from mnvision.ops.s2 import leaf_cells, parent_cells, read_tokens
from mnvision.place_figures import partition_map, predictions_map
from mnvision.types import Labels
from tests.runs import TRAINER, configure, diverged

TINY = (
    *TRAINER,
    *("task=geolocate", "backbone.alpha=0.25", "task.image_size=32", "optimizer.lr=0.003"),
    *("data.train_count=200", "data.val_count=24", "data.canvas=32", "data.batch_size=16", "data.num_workers=0"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    return f"data.root={tmp_path_factory.mktemp('places')}"


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    words = ("trainer.pictures=3", "task.soft_labels_km=75", f"output_dir={folder}")
    run.train(configure("train", *TINY, root, *words))
    return folder


def test_what_a_run_leaves_behind(trained):
    numbers = json.loads((trained / "metrics.json").read_text())
    rows = json.loads((trained / "predictions.json").read_text())
    assert len(rows) == 24
    away = [float(haversine(np.array(row["place"]), np.array(row["truth"]))) for row in rows]
    assert away == pytest.approx([row["distance_km"] for row in rows], abs=0.01)
    for distance in DISTANCES:
        assert numbers[f"val/within_{distance}km"] == pytest.approx(np.mean(np.array(away) <= distance), abs=1e-6)
        assert 0 <= numbers[f"val/constant/within_{distance}km"] <= 1
    model = load_model(trained / "checkpoints" / "best.ckpt", task="geolocate")
    assert all(one["label"] in model.spec.classes for row in rows for one in row["cells"])
    with (trained / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["distance_km"]) for row in table] == [row["distance_km"] for row in rows]
    points = json.loads((trained / "predictions.geojson").read_text())["features"]
    assert points[5]["geometry"]["coordinates"] == rows[5]["place"][::-1]  # GeoJSON has the longitude first
    assert len(list((trained / "pictures").iterdir())) == 3
    for name in ("mistakes.jpg", "places.png", "partition.png"):
        assert cv2.imread(str(trained / name)) is not None
    page = (trained / "report.html").read_text()
    assert "Pictures placed within a distance" in page
    assert "best constant answer" in page
    assert "not for pictures of people or homes" in page


def test_evaluation_repeats_the_numbers_and_may_ask_the_parents_first(trained, tmp_path):
    words = (*TRAINER, "task=geolocate", f"ckpt={trained}/checkpoints/best.ckpt")
    again = run.evaluate(configure("eval", *words, f"output_dir={tmp_path / 'a'}"))
    assert again == json.loads((trained / "metrics.json").read_text())
    parents = run.evaluate(configure("eval", *words, "task.parent_level=2", f"output_dir={tmp_path / 'b'}"))
    assert parents["val/top1"] == again["val/top1"]  # the cells' own numbers stay
    with pytest.raises(UserError, match=r"task\.max_photos: the model is that of the checkpoint"):
        run.evaluate(configure("eval", *words, "task.max_photos=7", f"output_dir={tmp_path / 'c'}"))


def test_prediction_tells_places(trained, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 256, (50, 70, 3), dtype=np.uint8)
        cv2.imwrite(str(photos / f"{number}.png"), image)
    ckpt = f"ckpt={trained}/checkpoints/best.ckpt"
    words = ("trainer.accelerator=cpu", ckpt, f"source={photos}", "top_k=2", f"output_dir={tmp_path / 'out'}")
    entries = predicting.predict(configure("predict", *words))
    model = load_model(trained / "checkpoints" / "best.ckpt")
    for entry in entries:
        found = model.predict([cv2.imread(entry["file"])[..., ::-1]])
        assert [entry["lat"], entry["lon"]] == pytest.approx(found.places[0].tolist(), abs=1e-4)
        best = found.probabilities[0].argsort(descending=True)[:2].tolist()
        assert [one["label"] for one in entry["cells"]] == [model.spec.classes[label] for label in best]
    points = json.loads((tmp_path / "out" / "predictions.geojson").read_text())["features"]
    assert points[1]["geometry"]["coordinates"] == [entries[1]["lon"], entries[1]["lat"]]
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2


def test_a_model_that_has_diverged_tells_nothing(trained, tmp_path):
    words = diverged(trained / "checkpoints" / "best.ckpt", tmp_path)
    with pytest.raises(UserError, match="the model's probabilities are not finite: it has diverged"):
        predicting.predict(configure("predict", *words))
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_a_run_goes_on_as_if_nothing_had_happened(root, tmp_path):
    words = (*TINY, root, "task.soft_labels_km=75")
    whole = run.train(configure("train", *words, f"output_dir={tmp_path / 'whole'}"))
    cfg = configure("train", *words, f"output_dir={tmp_path / 'parts'}")
    with pytest.MonkeyPatch.context() as patch:
        from lightning.pytorch import Trainer

        fit = Trainer.fit

        def fit_one_epoch(trainer, *args, **kwargs):
            trainer.fit_loop.max_epochs = 1
            fit(trainer, *args, **kwargs)

        patch.setattr(Trainer, "fit", fit_one_epoch)
        run.train(cfg)
    resumed = run.train(configure("train", *TRAINER, f"resume={tmp_path / 'parts' / 'checkpoints' / 'last.ckpt'}"))
    assert resumed.keys() == whole.keys()
    one, other = (load_model(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    assert one.spec == other.spec


def test_soft_labels_are_what_training_minimises(root):
    from mnvision import build
    from mnvision.objectives import build_objective

    for words, kind in (((), type(None)), (("task.soft_labels_km=75",), PlaceObjective)):
        cfg = configure("train", *TINY, root, *words)
        data = build.build_data(cfg, preprocessing=build.build_preprocessing(cfg))
        data.setup("fit")
        model = build.build_model(cfg, classes=data.classes, category_ids=None, task_options=data.task_options)
        assert torch.isfinite(model.places).all()
        assert isinstance(build_objective(cfg, model, data=data, teacher=None), kind)


def test_the_loss_counts_its_pictures_in_float32():
    """257 of them, which bfloat16 has no number for."""
    model = create_model("geolocate", alpha=0.25, image_size=32, classes=["47e61", "47e67", "6b"])
    objective = PlaceObjective(model, scale=75)
    count = 257
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 3, generator=generator).bfloat16()
    places = model.places[torch.randint(3, (count,), generator=generator)]
    targets = Labels(torch.zeros(count, dtype=torch.int64), torch.arange(count), places=places)
    expected = -(objective.soft_targets(targets).double() * logits.double().log_softmax(-1)).sum() / count
    assert objective.class_loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_places_in_words():
    assert degrees((0.0, -0.0004)) == "0.000 N 0.000 W"


# Maps


def test_a_cell_across_the_180th_meridian_is_drawn_at_both_ends():
    """Token 7 is the face around the Pacific, from 135 E to 135 W; 5 holds the north pole."""
    figure = partition_map(read_tokens(["7"]))
    faces = figure.axes[0].collections[-1]
    ends = [path.vertices[:, 0] for path in faces.get_paths()]
    assert len(ends) == 2
    assert {round(float(x.max())) for x in ends} == {225, -135}
    assert {round(float(x.min())) for x in ends} == {135, -225}


def test_a_cell_with_a_pole_inside_or_at_its_corner_reaches_the_edge_of_the_map():
    corner = parent_cells(leaf_cells(np.array([[89.9, 10.0]])), 2)
    for cells, width in ((read_tokens(["5"]), 360), (corner, 90)):
        shapes = [path.vertices for path in partition_map(cells).axes[0].collections[-1].get_paths()]
        assert max(float(points[:, 1].max()) for points in shapes) == pytest.approx(90)
        top = np.concatenate([points[points[:, 1] > 89.999, 0] for points in shapes[:1]])
        assert np.ptp(top) == pytest.approx(width)  # a line along the edge of the map, not a point


def test_the_map_of_answers_counts_the_pictures_of_each_distance():
    truth = np.array([[0.0, 0.0], [0.0, 0.0], [10.0, 170.0], [5.0, 5.0]])
    answers = np.array([[0.0, 0.001], [0.0, 10.0], [10.0, -170.0], [np.nan, np.nan]])
    figure = predictions_map(truth, answers, np.array([0.1, 1112.0, 2189.0, 20015.0]))
    _, labels = figure.axes[0].get_legend_handles_labels()
    counts = {label.split(": ")[0]: int(label.split(": ")[1]) for label in labels}
    assert counts == {
        "0 to 1 km": 1, "1 to 25 km": 0, "25 to 200 km": 0, "200 to 750 km": 0, "750 to 2,500 km": 2,
        "beyond 2,500 km": 1,
    }  # fmt: skip
    assert len(figure.axes[0].collections[0].get_segments()) == 2  # none across the edge of the map, none to nowhere


# Shards


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MNVISION_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def shards(root, tmp_path_factory) -> Path:
    """The drawn places as shards of 30."""
    folder = tmp_path_factory.mktemp("shards")
    words = ("task=geolocate", root, "data.train_count=200", "data.val_count=24", "data.canvas=32")
    for split, count in (("train", 200), ("val", 24)):
        cfg = configure("shards", *words, f"split={split}", f"output_dir={folder}", "pictures_per_shard=30")
        assert sharding.write_shards(cfg) == {"shards": -(-count // 30), "pictures": count}
    return folder


def streaming(shards: Path) -> tuple[str, ...]:
    words = (*TRAINER, "task=geolocate", "backbone.alpha=0.25", "task.image_size=32", "optimizer.lr=0.003")
    words += ("task.soft_labels_km=75", "trainer.max_epochs=2", "trainer.pictures=2")
    return (*words, "data=place_shards", f"data.root={shards}", "data.batch_size=16", "data.augment=none")


@pytest.fixture(scope="module")
def of_shards(shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("of_shards")
    run.train(configure("train", *streaming(shards), "data.num_workers=2", f"output_dir={folder}"))
    return folder


def test_training_from_shards(trained, of_shards, root, tmp_path):
    """The cells of the list, and the same numbers for the same weights on shards and list."""
    numbers = json.loads((of_shards / "metrics.json").read_text())
    listed = json.loads((trained / "metrics.json").read_text())
    one, other = (load_model(folder / "checkpoints" / "best.ckpt") for folder in (of_shards, trained))
    assert one.spec.classes == other.spec.classes
    torch.testing.assert_close(one.places, other.places)
    constants = [name for name in numbers if "constant" in name]
    assert len(constants) == len(DISTANCES)
    assert [numbers[name] for name in constants] == [listed[name] for name in constants]
    rows = json.loads((of_shards / "predictions.json").read_text())
    assert len(rows) == 24
    assert rows[0]["file"].startswith("val-000000.tar/")
    assert len(list((of_shards / "pictures").iterdir())) == 2
    ckpt = f"ckpt={of_shards}/checkpoints/best.ckpt"
    again = run.evaluate(configure("eval", *TRAINER, ckpt, f"output_dir={tmp_path / 'shards'}"))
    assert again == numbers
    words = ("task=geolocate", "data=drawn_places", root, "data.train_count=200", "data.val_count=24", "data.canvas=32")
    on_list = run.evaluate(configure("eval", *TRAINER, ckpt, *words, f"output_dir={tmp_path / 'list'}"))
    assert on_list == pytest.approx(numbers, abs=1e-6)
    train = run.evaluate(configure("eval", *TRAINER, ckpt, "split=train", f"output_dir={tmp_path / 'train'}"))
    assert train["train/median_km"] > 0


def test_prediction_by_a_model_of_shards(of_shards, root, tmp_path):
    photos = next(Path(root.split("=")[1]).glob("*/val"))
    ckpt = f"ckpt={of_shards}/checkpoints/best.ckpt"
    words = ("trainer.accelerator=cpu", ckpt, f"source={photos}", f"output_dir={tmp_path / 'out'}")
    entries = predicting.predict(configure("predict", *words))
    assert len(entries) == 24
    rows = json.loads((of_shards / "predictions.json").read_text())
    measured = {Path(row["file"]).name: row["place"] for row in rows}
    for entry in entries:
        assert [entry["lat"], entry["lon"]] == pytest.approx(measured[Path(entry["file"]).stem], abs=1e-3)


def test_a_run_on_shards_goes_on_as_if_nothing_had_happened(shards, tmp_path):
    words = (*streaming(shards), "data.num_workers=0", "trainer.pictures=0", "task.soft_labels_km=null")
    words += ("scheduler=constant", "scheduler.warmup_epochs=0")  # the one that does not depend on the last epoch
    run.train(configure("train", *words, f"output_dir={tmp_path / 'whole'}"))
    run.train(configure("train", *words, "trainer.max_epochs=1", f"output_dir={tmp_path / 'parts'}"))
    resume = f"resume={tmp_path / 'parts' / 'checkpoints' / 'last.ckpt'}"
    run.train(configure("train", *TRAINER, resume, "trainer.max_epochs=2"))
    one, other = (load_model(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    assert one.spec == other.spec
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, msg=name)
