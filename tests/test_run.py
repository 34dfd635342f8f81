from __future__ import annotations

import csv
import html
import json
import logging
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import mnvision
from mnvision import cli, detection, hardware, outputs, predicting, run
from mnvision.backbones.folding import is_folded
from mnvision.checkpoint import load_model, save_model
from mnvision.data.coco import read_coco
from mnvision.data.datamodule import DetectionDataModule
from mnvision.data.scenes import CLASSES
from mnvision.data.shapes import CATEGORY_IDS
from mnvision.errors import UserError
from mnvision.metrics.coco import COCO_NUMBERS, CocoMetric
from mnvision.models.classifier import Classifier
from mnvision.models.create import create_model
from mnvision.module import VisionModule
from mnvision.ops.image import read_image
from mnvision.recall import recall, reproduce
from tests.runs import DATA, TINY, TRAINER, configure, detector, state

# Learns its training pictures by heart, so that there is something to find.
OVERFIT = (
    "optimizer=adamw",
    "optimizer.lr=0.003",
    "trainer.max_epochs=8",
    "data.augment=none",
    "data.val_images=train",
    "data.val_annotations=annotations/train.json",
)
LONG = ("trainer.max_epochs=4", "data.augment=ssd")
# Of a training and of an evaluation.
OUTPUTS = {"config.yaml", "metrics.json", "origin.json", "predictions.json", "profile.csv", "report.html"}


@pytest.fixture(autouse=True)
def _own_process(monkeypatch):
    """No run sees the environment of another one."""
    for variable in ("LOCAL_RANK", outputs.FOLDER_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    """Where the generated pictures are kept."""
    return f"data.root={tmp_path_factory.mktemp('shapes')}"


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A run that is over: its folder, the numbers that it returned, and its configuration."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    more = ("trainer.tensorboard=true", "trainer.pictures=3", f"output_dir={folder}")
    cfg = configure("train", *TINY, *OVERFIT, root, *more)
    return folder, run.train(cfg), cfg


@pytest.fixture(scope="module")
def four_epochs(root, tmp_path_factory) -> Path:
    """The folder of a run of four epochs that nothing interrupted."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    run.train(configure("train", *TINY, *LONG, root, f"output_dir={folder}"))
    return folder


def val_pictures(root: str) -> Path:
    """The folder of the generated pictures that are measured on."""
    return next(Path(root.removeprefix("data.root=")).glob("*/val"))


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(folder: Path, name: str) -> dict[int, float]:
    """A column of metrics.csv by step."""
    return {int(row["step"]): float(row[name]) for row in rows_of(folder) if row[name]}


def checkpoint(folder: Path, name: str) -> dict:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def evaluate(*words: str, folder: Path) -> dict[str, float]:
    return run.evaluate(configure("eval", *TRAINER, f"output_dir={folder}", *words))


def same(left: object, right: object) -> bool:
    """Whether two nested values are equal, tensors bit for bit."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return left == right


# the folder of a run


def test_the_folder_holds_what_a_run_leaves(finished):
    folder, numbers, cfg = finished
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("tensorboard/events.out.tfevents")}
    assert len(events) == 1
    assert files - events - {"tensorboard/hparams.yaml"} == {
        *OUTPUTS,
        "metrics.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        # three pictures spread over twelve
        "pictures/100001.jpg",
        "pictures/100007.jpg",
        "pictures/100012.jpg",
    }
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written == {key: value for key, value in cfg.items() if key not in ("overrides", "override_words")}
    assert cv2.imread(str(folder / "pictures" / "100007.jpg")).shape == (80, 80, 3)


def test_the_numbers_have_the_loggers_names(finished):
    folder, numbers, _ = finished
    losses = {"val/loss", "val/class_loss", "val/box_loss"}
    assert set(numbers) == losses | {f"val/{name}" for name in COCO_NUMBERS}
    assert json.loads((folder / "metrics.json").read_text()) == numbers
    assert set(numbers) <= set(rows_of(folder)[0])
    assert numbers["val/map"] > 0.005
    assert numbers["val/loss"] == pytest.approx(numbers["val/class_loss"] + numbers["val/box_loss"], abs=1e-5)


def test_the_log_has_one_measurement_an_epoch(finished):
    folder, numbers, _ = finished
    measured = [(int(row["epoch"]), float(row["val/map"])) for row in rows_of(folder) if row["val/map"]]
    assert [epoch for epoch, _ in measured] == list(range(8))
    assert max(value for _, value in measured) == pytest.approx(numbers["val/map"], abs=1e-6)
    steps, means = column(folder, "train/loss_step"), column(folder, "train/loss")
    assert sorted(steps) == list(range(24))  # of 3 batches in 8 epochs
    for last, mean in means.items():
        assert mean == pytest.approx(np.mean([steps[step] for step in range(last - 2, last + 1)]), rel=1e-5)


def test_predictions_are_cocos_results(finished):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder, numbers, cfg = finished
    results = json.loads((folder / "predictions.json").read_text())
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}
    assert {result["category_id"] for result in results} <= set(CATEGORY_IDS)
    assert max(result["category_id"] for result in results) > len(CATEGORY_IDS)  # ids with gaps: no labels
    [truth] = Path(cfg["data"]["root"]).glob("v*-seed0-*/annotations/train.json")
    reference = COCO(truth)
    judge = COCOeval(reference, reference.loadRes(results), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    ours = [numbers[f"val/{name}"] for name in COCO_NUMBERS]
    assert ours == pytest.approx(judge.stats.tolist(), abs=1e-4)


def test_the_best_and_the_last_epoch_are_kept(root, tmp_path, monkeypatch):
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.9])  # the last one is of the end

    def compute(metric):
        return {**dict.fromkeys(COCO_NUMBERS, 0.0), "map": next(scores)}

    monkeypatch.setattr(CocoMetric, "compute", compute)
    run.train(configure("train", *TINY, root, "trainer.max_epochs=5", f"output_dir={tmp_path}"))
    best, last = checkpoint(tmp_path, "best"), checkpoint(tmp_path, "last")
    assert (best["epoch"], best["global_step"]) == (1, 6)
    assert (last["epoch"], last["global_step"]) == (4, 15)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize(("every", "epochs", "expected"), [(2, 5, (3, 4)), (9, 2, (1, 1))])
def test_measuring_every_few_epochs(root, tmp_path, every, epochs, expected):
    words = (f"trainer.check_every_epochs={every}", f"trainer.max_epochs={epochs}", "optimizer.lr=0.001")
    run.train(configure("train", *TINY, *OVERFIT[3:], root, *words, f"output_dir={tmp_path}"))
    best, last = checkpoint(tmp_path, "best"), checkpoint(tmp_path, "last")
    assert best["epoch"] in range(every - 1, epochs, every) or best["epoch"] == expected[0]
    assert last["epoch"] == expected[1]
    measured = [int(row["epoch"]) for row in rows_of(tmp_path) if row["val/map"]]
    assert measured == [epoch for epoch in range(epochs) if (epoch + 1) % min(every, epochs) == 0]


def test_a_folder_is_named_after_task_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = {"output_dir": None, "task": {"name": "ssd"}}
    first, second = outputs.run_folder(cfg), outputs.run_folder(cfg)
    assert first != second
    assert {first.parent, second.parent} == {tmp_path / "runs" / "ssd"}
    assert outputs.run_folder({"output_dir": "here/there"}) == tmp_path / "here" / "there"


def test_processes_of_one_run_share_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = {"output_dir": None, "task": {"name": "ssd"}}
    folder = outputs.run_folder(cfg)
    monkeypatch.setenv("LOCAL_RANK", "1")  # in a process that Lightning started
    assert outputs.run_folder(cfg) == folder
    monkeypatch.setenv("LOCAL_RANK", "0")  # in the one that started it, afterwards
    assert outputs.run_folder({**cfg, "output_dir": "next"}) == tmp_path / "next"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_that_another_program_starts_need_a_folder(tmp_path, monkeypatch, rank):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(UserError, match="give output_dir=FOLDER"):
        outputs.run_folder({"output_dir": None, "task": {"name": "ssd"}})
    assert list(tmp_path.iterdir()) == []
    for name in ("one", "two"):
        assert outputs.run_folder({"output_dir": name}) == tmp_path / name


def test_every_annotated_picture_has_a_name_of_its_own():
    names = ["a/b.jpg", "a__b.jpg", "a__b-2.jpg", "c.png", "C.jpg", "d.jpg", "d.png", "d.jpg"]
    made = outputs.annotated_names([Path("in") / name for name in names])
    assert made[:4] == ["a__b.jpg", "a__b-2.jpg", "a__b-2-2.jpg", "c.jpg"]
    assert made[4:] == ["C-2.jpg", "d_jpg.jpg", "d_png.jpg", "d_jpg-2.jpg"]
    assert outputs.annotated_names([]) == []


def test_many_annotated_pictures_are_named_in_no_time():
    pictures = [Path(f"in/{number}.jpg") for number in range(20_000)]
    started = time.perf_counter()
    assert outputs.annotated_names(pictures)[-1] == "19999.jpg"
    assert time.perf_counter() - started < 20  # comparing all with all takes minutes


def test_a_picture_that_cannot_be_drawn_is_left_out(finished, tmp_path, caplog):
    folder, _, cfg = finished
    [made] = Path(cfg["data"]["root"]).glob("v*-seed0-*")
    images = shutil.copytree(made / "train", tmp_path / "train")
    (images / "100007.jpg").write_bytes(b"no picture")
    annotations = read_coco(made / "annotations" / "train.json", image_folder=images)
    model = load_model(folder / "checkpoints" / "best.ckpt")
    written = detection.draw_pictures(model, annotations, images, folder=tmp_path, count=3)
    assert [path.name for path in written] == ["100001.jpg", "100012.jpg"]
    assert all(path.is_file() for path in written)
    assert "100007.jpg" in caplog.text


# eval


def test_evaluation_repeats_the_numbers_of_the_training(finished, tmp_path):
    folder, numbers, _ = finished
    assert evaluate(f"ckpt={folder}/checkpoints/best.ckpt", folder=tmp_path) == numbers
    assert {path.name for path in tmp_path.iterdir()} == OUTPUTS
    for name in ("metrics.json", "predictions.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_evaluation_runs_in_the_precision_of_the_training(finished, tmp_path, monkeypatch):
    folder, numbers, _ = finished
    monkeypatch.setattr(hardware, "fast_bfloat16", lambda device: True)
    best = f"ckpt={folder}/checkpoints/best.ckpt"
    words = (best, "trainer.accelerator=cpu", "trainer.progress_bar=false")
    assert run.evaluate(configure("eval", *words, f"output_dir={tmp_path}/a")) == numbers
    asked = run.evaluate(configure("eval", *words, "trainer.precision=bf16", f"output_dir={tmp_path}/b"))
    assert asked != numbers
    assert asked["val/loss"] == pytest.approx(numbers["val/loss"], rel=0.05)


def test_evaluation_on_other_data(finished, tmp_path):
    folder, numbers, _ = finished
    best = f"ckpt={folder}/checkpoints/best.ckpt"
    val = ("data.val_images=val", "data.val_annotations=annotations/val.json")
    other = evaluate(best, *val, folder=tmp_path / "val")
    assert other != numbers
    ids = {result["image_id"] for result in json.loads((tmp_path / "val" / "predictions.json").read_text())}
    assert ids
    assert ids <= set(range(900_001, 900_007))
    # the training split of this run is what it was measured on
    again = evaluate(best, *val, "split=train", folder=tmp_path / "train")
    assert {name.replace("train/", "val/"): value for name, value in again.items()} == numbers
    assert all(name.startswith("train/") for name in again)


def test_a_training_is_not_overwritten(finished, root, tmp_path):
    folder, *_ = finished
    pictures = val_pictures(root)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = configure("train", *TINY, root, f"output_dir={folder}")
    with pytest.raises(UserError, match=r"holds a training already; give another folder, or resume=.*last\.ckpt"):
        run.train(again)
    for command in ("eval", "predict"):
        source = [f"source={pictures}"] if command == "predict" else []
        words = (f"ckpt={folder}/checkpoints/best.ckpt", *source, f"output_dir={folder}")
        with pytest.raises(UserError, match="holds a training already"):
            {"eval": run.evaluate, "predict": predicting.predict}[command](configure(command, *words))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_pictures_are_not_overwritten_by_their_annotated_copies(finished, root, tmp_path):
    folder, *_ = finished
    album = tmp_path / "album" / "pictures"
    shutil.copytree(val_pictures(root), album)
    before = {path: path.read_bytes() for path in album.iterdir()}
    best = f"ckpt={folder}/checkpoints/best.ckpt"
    for source in (album, album.parent):
        with pytest.raises(UserError, match="annotated copies would"):
            predicting.predict(configure("predict", best, f"source={source}", f"output_dir={album.parent}"))
    val = ("data.val_images=" + str(album), "data.val_annotations=annotations/val.json")
    with pytest.raises(UserError, match="annotated copies would"):
        run.evaluate(configure("eval", best, *val, f"output_dir={album.parent}"))
    assert {path: path.read_bytes() for path in album.iterdir()} == before


def test_annotated_copies_are_not_looked_at_again(finished, root, tmp_path):
    folder, *_ = finished
    album = tmp_path / "album"
    shutil.copytree(val_pictures(root), album)
    words = (f"ckpt={folder}/checkpoints/best.ckpt", f"source={album}", f"output_dir={album}/found")
    assert (
        len(predicting.predict(configure("predict", *words)))
        == len(predicting.predict(configure("predict", *words)))
        == 6
    )


def test_a_folder_that_cannot_be_made(finished, tmp_path):
    folder, *_ = finished
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below"):
        with pytest.raises(UserError, match="output_dir: cannot make the folder"):
            evaluate(f"ckpt={folder}/checkpoints/best.ckpt", folder=tmp_path / path)


def test_what_may_change_of_the_model_of_a_checkpoint(finished, tmp_path):
    folder, numbers, _ = finished
    best = f"ckpt={folder}/checkpoints/best.ckpt"
    same = ("task=ssd", "backbone.alpha=0.25", "task.score_threshold=0.01")  # as it was trained
    assert evaluate(best, *same, folder=tmp_path / "same") == numbers
    written = yaml.safe_load((tmp_path / "same" / "config.yaml").read_text())
    assert (written["backbone"]["alpha"], written["optimizer"]["lr"]) == (0.25, 0.003)
    few = evaluate(best, "task.max_detections=1", folder=tmp_path / "few")
    assert few["val/mar_100"] < numbers["val/mar_100"]
    for words in (["backbone.alpha=0.5"], ["task.form=lite"], ["experiment=paper_ssd300", "data.root=x"]):
        with pytest.raises(UserError, match="the model is that of the checkpoint"):
            evaluate(best, *words, folder=tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(finished, root, tmp_path):
    folder, *_ = finished
    out, best = f"output_dir={tmp_path}/run", f"ckpt={folder}/checkpoints/best.ckpt"
    gpu = "trainer.accelerator=gpu"
    for function, cfg in (
        (run.train, configure("train", *TINY, root, out, gpu, "trainer.precision=32")),
        (run.evaluate, configure("eval", best, out, gpu)),
        (predicting.predict, configure("predict", best, f"source={folder}/pictures", out, gpu)),
    ):
        with pytest.raises(UserError, match="trainer.accelerator=gpu: .* finds no such device here"):
            function(cfg)
    assert not (tmp_path / "run").exists()


def test_what_is_recalled_from_a_checkpoint():
    saved = {
        "data": {"name": "coco", "root": "/a", "batch_size": 4},
        "trainer": {"precision": "32", "devices": 2},
        "seed": 5,
        "resume": "old.ckpt",
        "output_dir": "/old",
        "overrides": ["data.root"],
    }
    mine = {
        "data": {"name": "shapes", "root": None, "batch_size": 16, "canvas": 320},
        "trainer": {"precision": "auto", "devices": 1},
        "seed": 0,
        "resume": "new.ckpt",
        "output_dir": None,
    }
    keys = ("data", "trainer.precision")
    assert recall({**mine, "overrides": []}, saved, keys=keys) == {
        **mine,
        "data": saved["data"],
        "trainer": {"precision": "32", "devices": 1},
        "overrides": [],
    }
    given = {**mine, "overrides": ["data.batch_size", "trainer.precision"]}
    assert recall(given, saved, keys=keys) == {**given, "data": {**saved["data"], "batch_size": 16}}
    given = {**mine, "overrides": ["data"]}
    assert recall(given, saved, keys=keys)["data"] == mine["data"]
    given = {**mine, "overrides": ["trainer.devices"]}
    assert recall(given, saved) == {
        **given,
        "data": saved["data"],
        "trainer": {"precision": "32", "devices": 1},
        "seed": 5,
    }
    newer = {**mine, "data": {**mine["data"], "name": "coco", "mosaic": 0.5}, "overrides": []}
    assert recall(newer, saved)["data"] == {**saved["data"], "canvas": 320, "mosaic": 0.5}
    assert recall({**mine, "overrides": []}, saved)["data"] == saved["data"]
    assert recall({**mine, "overrides": []}, {}) == {**mine, "overrides": []}


def test_evaluation_of_a_model_that_was_saved_alone(root, tmp_path):
    model = create_model("ssd", alpha=0.25, image_size=64, classes=CLASSES, category_ids=CATEGORY_IDS)
    save_model(model, tmp_path / "alone.ckpt")
    numbers = evaluate(*DATA, root, f"ckpt={tmp_path}/alone.ckpt", folder=tmp_path / "a")
    weights = (f"task.weights={tmp_path}/alone.ckpt", "backbone.alpha=0.25", "task.image_size=64")
    assert evaluate(*DATA, root, *weights, folder=tmp_path / "b") == numbers
    assert math.isfinite(numbers["val/loss"])


def test_evaluation_needs_weights_that_know_the_classes(root, tmp_path, caplog):
    words = (*DATA, root, "backbone.alpha=0.25", "task.image_size=64")
    for name, classes in (("none", ("cat", "dog")), ("some", ("cat", CLASSES[1].upper())), ("unnamed", None)):
        model = create_model("ssd", alpha=0.25, image_size=64, classes=classes, num_classes=None if classes else 5)
        save_model(model, tmp_path / f"{name}.ckpt")
    with pytest.raises(UserError, match=rf"none of the data's classes {', '.join(CLASSES)}: it knows cat, dog;"):
        evaluate(*words, f"task.weights={tmp_path}/none.ckpt", folder=tmp_path / "run")
    with pytest.raises(UserError, match="none of the data's classes"):
        evaluate(*words, f"task.weights={tmp_path}/unnamed.ckpt", folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    evaluate(*words, f"task.weights={tmp_path}/some.ckpt", folder=tmp_path / "run")
    [line] = [record.message for record in caplog.records if "was not trained on" in record.message]
    assert ", ".join((CLASSES[0], *CLASSES[2:])) in line
    assert CLASSES[1] not in line


def test_commands_that_repeat_a_run(finished):
    words = ("ckpt=a b.ckpt", "data.batch_size=4", "trainer.precision=32", "trainer.progress_bar=false", "output_dir=x")
    assert reproduce(configure("eval", *words, "split=train"), ckpt="/runs/a b.ckpt") == [
        ["mnvision", "eval", "ckpt=/runs/a b.ckpt", "split=train", "data.batch_size=4", "trainer.precision=32"],
        ["mnvision", "predict", "ckpt=/runs/a b.ckpt", "source=photos/"],
    ]
    words = ("ckpt=a.ckpt", "task.score_threshold=0.3", "task.nms_iou=0.4")  # on which the numbers depend
    assert reproduce(configure("eval", *words), ckpt="a.ckpt") == [
        ["mnvision", "eval", *words],
        ["mnvision", "predict", words[0], "source=photos/", *words[1:]],
    ]
    words = ("ckpt=a.ckpt", "task.crop_share=0.9")
    assert reproduce(configure("eval", "task=embed", *words, "split=test"), ckpt="a.ckpt") == [
        ["mnvision", "eval", words[0], "split=test", words[1]],
        ["mnvision", "predict", words[0], "source=photos/", words[1]],
    ]
    words = ("task.weights=w.npz", "data=coco", "data.root=/coco", "split=train", "seed=3", "output_dir=x")
    assert reproduce(configure("eval", *words), ckpt=None) == [
        ["mnvision", "eval", *words[:-1]],
        ["mnvision", "predict", *words[:3], "source=photos/"],
    ]
    folder, _, cfg = finished  # its checkpoint holds the data section: what was typed is said of the training alone
    best = folder / "checkpoints" / "best.ckpt"
    page = html.unescape((folder / "report.html").read_text())
    assert cfg["override_words"][-1] == f"output_dir={folder}"  # which is there now: no command for another training
    trained = shlex.join(["mnvision", "train", *cfg["override_words"][:-1]])
    assert f"<pre>{trained}\nmnvision eval ckpt={best}\nmnvision predict ckpt={best} source=photos/</pre>" in page


# predict


@pytest.fixture(scope="module")
def photos(tmp_path_factory, finished) -> Path:
    """Pictures of all sorts, made of the pictures that the model knows, and one that is broken."""
    folder = tmp_path_factory.mktemp("photos")
    [known] = Path(finished[2]["data"]["root"]).glob("v*-seed0-*/train")
    paths = sorted(known.iterdir())
    image = Image.open(paths[1]).resize((120, 90))
    image.convert("L").save(folder / "grey.png")
    image.convert("RGBA").save(folder / "clear.png")
    deep = np.asarray(image)[..., ::-1].astype(np.uint16) * 257
    cv2.imwrite(str(folder / "deep.png"), deep)
    exif = Image.Exif()
    exif[274] = 6  # turn by a quarter, clockwise, to see it upright
    image.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif)
    pixels = cv2.imread(str(folder / "turned.jpg"), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    cv2.imwrite(str(folder / "upright.png"), cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE))
    (folder / "more").mkdir()
    shutil.copy(paths[3], folder / "more" / "known.jpg")
    (folder / "broken.jpg").write_bytes(paths[3].read_bytes()[:200])
    (folder / "notes.txt").write_text("no picture")
    return folder


def predict(finished, *words: str) -> list[dict]:
    best = f"ckpt={finished[0]}/checkpoints/best.ckpt"
    return predicting.predict(configure("predict", *TRAINER, best, *words))


def test_prediction_for_a_folder_of_odd_pictures(finished, photos, tmp_path):
    with pytest.raises(UserError, match=r"1 of 7 pictures left out:\n  .*broken\.jpg"):
        predict(finished, f"source={photos}", "score_threshold=0.02", "batch_size=2", f"output_dir={tmp_path}")
    entries = json.loads((tmp_path / "predictions.json").read_text())
    names = ["clear.png", "deep.png", "grey.png", "more/known.jpg", "turned.jpg", "upright.png"]
    assert [entry["file"] for entry in entries] == [str(photos / name) for name in names]
    model = load_model(finished[0] / "checkpoints" / "best.ckpt")
    total = 0
    for entry in entries:
        image = read_image(entry["file"])
        height, width = (80, 80) if "known" in entry["file"] else (90, 120)
        assert image.shape == (height, width, 3)
        assert (entry["height"], entry["width"]) == (height, width)
        assert cv2.imread(str(tmp_path / "pictures" / entry["annotated"])).shape == (height, width, 3)
        [expected] = model.predict([image], score_threshold=0.02)
        found = entry["detections"]
        assert [box["score"] for box in found] == pytest.approx(expected.scores.tolist(), abs=2e-5)
        for box, corners, label in zip(found, expected.boxes.tolist(), expected.labels.tolist(), strict=True):
            assert box["box"] == pytest.approx(corners, abs=0.02)
            assert box["label"] == model.spec.classes[label - 1]
            assert box["category_id"] == CATEGORY_IDS[label - 1]
            x1, y1, x2, y2 = box["box"]
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
        total += len(found)
    assert total > 20
    clear, deep, _, _, turned, upright = (entry["detections"] for entry in entries)
    assert clear == deep
    assert turned == upright != clear


def test_prediction_that_finds_nothing_says_which_key_finds_more(finished, photos, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        predict(finished, f"source={photos}/grey.png", "score_threshold=1.0", f"output_dir={tmp_path}")
    assert "0 detections in 1 pictures; lower score_threshold shows weaker ones" in caplog.text


@pytest.mark.parametrize(
    ("source", "names"),
    [("*/*.jpg", ["more/known.jpg"]), ("[dg]*.png", ["deep.png", "grey.png"]), ("grey.png", ["grey.png"])],
)
def test_prediction_for_a_pattern_and_a_file(finished, photos, tmp_path, source, names):
    entries = predict(finished, f'source="{photos}/{source}"', f"output_dir={tmp_path}")
    assert [entry["file"] for entry in entries] == [str(photos / name) for name in names]
    assert len(list((tmp_path / "pictures").iterdir())) == len(names)
    assert json.loads((tmp_path / "predictions.json").read_text()) == entries


def test_prediction_with_weights_alone(finished, photos, tmp_path):
    best = f"{finished[0]}/checkpoints/best.ckpt"
    words = (f"source={photos}/grey.png", "score_threshold=0.02", f"output_dir={tmp_path}")
    cfg = configure("predict", *TRAINER, f"task.weights={best}", "backbone.alpha=0.25", "task.image_size=64", *words)
    [entry] = predicting.predict(cfg)
    [other] = predict(finished, *words)
    assert entry["detections"]
    # the weights name the classes; the data set's own ids are in a checkpoint alone
    assert [(box["label"], box["box"]) for box in entry["detections"]] == [
        (box["label"], box["box"]) for box in other["detections"]
    ]


def test_loading_a_model_needs_neither_hydra_nor_lightning(finished):
    code = (
        "import sys, mnvision; model = mnvision.load_model(sys.argv[1]); "
        "print(len(model.spec.classes), sorted({'lightning', 'hydra', 'omegaconf'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code, finished[0] / "checkpoints" / "best.ckpt"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.stdout == "8 []\n", done.stderr


# resume


class StoppedError(Exception):
    pass


def interrupted(folder: Path, root: str, *words: str, epoch: int, batch: int, monkeypatch) -> Path:
    """Train until a batch of an epoch is reached; the last checkpoint."""
    original = VisionModule.training_step

    def training_step(module, batch_, batch_idx):
        if (module.current_epoch, batch_idx) == (epoch, batch):
            raise StoppedError
        return original(module, batch_, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(VisionModule, "training_step", training_step)
        with pytest.raises(StoppedError):
            run.train(configure("train", *TINY, *LONG, root, *words, f"output_dir={folder}"))
    return folder / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(("workers", "epoch", "batch"), [(0, 2, 1), (2, 2, 0), (0, 1, 0)])
def test_a_resumed_run_ends_as_if_nothing_had_happened(four_epochs, root, tmp_path, monkeypatch, workers, epoch, batch):
    folder = tmp_path / "run"
    more = f"data.num_workers={workers}"
    last = interrupted(folder, root, more, epoch=epoch, batch=batch, monkeypatch=monkeypatch)
    assert checkpoint(folder, "last")["epoch"] == epoch - 1
    assert set(column(folder, "train/loss_step")) >= set(range(3 * epoch))
    numbers = run.train(configure("train", f"resume={last}"))

    losses = column(folder, "train/loss_step")
    assert [int(row["step"]) for row in rows_of(folder) if row["train/loss_step"]] == list(range(12))  # each once
    assert len(set(losses.values())) == 12
    for name in ("train/loss_step", "train/loss", "val/loss", "val/map"):
        assert column(folder, name) == column(four_epochs, name), name  # bit for bit: same pictures in the same order
    for name in ("best", "last"):
        ours, straight = checkpoint(folder, name), checkpoint(four_epochs, name)
        for key in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers"):
            assert same(ours[key], straight[key]), (name, key)
    assert numbers == json.loads((four_epochs / "metrics.json").read_text())
    assert (folder / "predictions.json").read_bytes() == (four_epochs / "predictions.json").read_bytes()
    assert "mnvision train" in (four_epochs / "report.html").read_text()
    assert "mnvision train" not in (folder / "report.html").read_text()  # to go on is not to train it again


def test_a_better_epoch_before_the_interruption_stays_the_best(root, tmp_path, monkeypatch):
    scores = iter([0.3, 0.1, 0.2, 0.1, 0.3])  # of two epochs, of two more, of the end

    def compute(metric):
        return {**dict.fromkeys(COCO_NUMBERS, 0.0), "map": next(scores)}

    monkeypatch.setattr(CocoMetric, "compute", compute)
    interrupted(tmp_path / "old", root, epoch=2, batch=0, monkeypatch=monkeypatch)
    (tmp_path / "old").rename(tmp_path / "new")  # as a folder that was copied to another machine
    run.train(configure("train", f"resume={tmp_path}/new/checkpoints/last.ckpt"))
    assert not (tmp_path / "old").exists()
    assert checkpoint(tmp_path / "new", "best")["epoch"] == 0
    assert checkpoint(tmp_path / "new", "last")["epoch"] == 3


def test_a_finished_run_may_go_on(four_epochs, tmp_path):
    shutil.copytree(four_epochs, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = json.loads((four_epochs / "metrics.json").read_text())
    assert run.train(configure("train", f"resume={last}")) == before
    with pytest.raises(UserError, match="has done all its 4 epochs"):
        run.train(configure("train", f"resume={last}", f"output_dir={tmp_path}/elsewhere"))
    run.train(configure("train", f"resume={last}", "trainer.max_epochs=5"))
    assert checkpoint(tmp_path / "run", "last")["epoch"] == 4
    assert sorted(column(tmp_path / "run", "train/loss_step")) == list(range(15))


def test_a_resumed_run_needs_no_weights_file(finished, root, tmp_path, monkeypatch):
    weights = tmp_path / "weights.ckpt"
    shutil.copy(finished[0] / "checkpoints" / "best.ckpt", weights)
    folder = tmp_path / "run"
    last = interrupted(folder, root, f"task.weights={weights}", epoch=1, batch=0, monkeypatch=monkeypatch)
    weights.unlink()
    run.train(configure("train", f"resume={last}"))
    assert checkpoint(folder, "last")["epoch"] == 3


@pytest.mark.parametrize(
    "word",
    ["optimizer.lr=0.1", "optimizer=adamw", "backbone.alpha=0.5", "task.loss=focal", "trainer.layer_decay=0.5"],
)
def test_what_cannot_change_while_a_run_goes_on(four_epochs, word):
    last = four_epochs / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=f"{word.split('=')[0]} cannot change while a run goes on"):
        run.train(configure("train", f"resume={last}", word))


def test_a_model_alone_is_no_run_to_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(detector(), "alone.ckpt")
    with pytest.raises(UserError, match="holds a model alone; give the checkpoints/last.ckpt"):
        run.train(configure("train", "resume=alone.ckpt"))
    assert [path.name for path in tmp_path.iterdir()] == ["alone.ckpt"]


def test_the_message_names_the_key_that_the_user_gave(tmp_path):
    (tmp_path / "last.ckpt").write_text("text")
    for name in ("last.ckpt", "none.ckpt"):
        with pytest.raises(UserError, match=f"^resume: .*{name}"):
            run.train(configure("train", f"resume={tmp_path}/{name}"))


# how a run trains


@pytest.fixture
def first_step(monkeypatch):
    """Notes what a model is like when training begins."""
    seen: list[dict] = []
    original = VisionModule.training_step

    def training_step(module, batch, batch_idx):
        if not seen:
            modes = {name: part.training for name, part in module.model.named_modules()}
            seen.append({"modes": modes, "folded": is_folded(module.model), "state": state(module.model)})
        return original(module, batch, batch_idx)

    monkeypatch.setattr(VisionModule, "training_step", training_step)
    return seen


def folded_weights(path: Path, *, classes: tuple[str, ...]) -> str:
    """Weights whose norms are identities but for their bias, as if BatchNorm had been folded into the convolutions."""
    model = create_model("ssd", alpha=0.25, image_size=64, classes=classes)
    with torch.no_grad():
        for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
            norm.running_var.fill_(1).sub_(norm.eps)
            norm.bias.uniform_(-0.1, 0.1)
    save_model(model, path)
    return f"task.weights={path}"


def test_folded_weights_are_unfolded_before_training(root, tmp_path, first_step):
    weights = folded_weights(tmp_path / "folded.ckpt", classes=CLASSES)
    run.train(configure("train", *TINY, root, weights, "trainer.max_epochs=1", f"output_dir={tmp_path}/a"))
    assert not first_step[0]["folded"]
    assert all(first_step[0]["modes"].values())


def test_other_classes_than_those_of_the_weights(root, tmp_path, first_step, caplog):
    torch.manual_seed(3)
    model = create_model("ssd", alpha=0.25, image_size=64, classes=["cat", "dog"])
    save_model(model, tmp_path / "pets.ckpt")
    cfg = configure("train", *TINY, root, f"task.weights={tmp_path}/pets.ckpt", f"output_dir={tmp_path}/run")
    with caplog.at_level(logging.INFO):
        numbers = run.train(cfg)
    assert "class head re-initialised" in caplog.text
    assert math.isfinite(numbers["val/loss"])
    begun, trained = first_step[0]["state"], load_model(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert begun["heads.0.classes.pointwise.weight"].shape[0] == 3 * 9
    assert torch.equal(begun["heads.0.boxes.pointwise.weight"], model.heads[0].boxes.pointwise.weight)
    assert trained.spec.category_ids == CATEGORY_IDS
    assert trained.spec.classes == CLASSES


@pytest.mark.parametrize("norm", ["train", "freeze_statistics", "freeze"])
def test_frozen_parts_survive_training(root, tmp_path, first_step, norm):
    words = ("backbone.freeze=2", f"backbone.norm={norm}", f"output_dir={tmp_path}")
    run.train(configure("train", *TINY, root, *words))
    begun, trained = first_step[0]["state"], checkpoint(tmp_path, "last")["state_dict"]
    model = load_model(tmp_path / "checkpoints" / "last.ckpt")
    frozen = {id(part) for stage in model.backbone.stages[:2] for top in stage for part in top.modules()}
    changed, kept = set(), set()
    for name, tensor in trained.items():
        owner, _, leaf = name.removeprefix("model.").rpartition(".")
        part = model.get_submodule(owner)
        is_norm = isinstance(part, nn.BatchNorm2d)
        kind = "statistics" if "running" in leaf else "affine" if is_norm else "weight"
        if leaf == "num_batches_tracked":
            continue
        where = "frozen" if id(part) in frozen else "backbone" if owner.startswith("backbone") else "head"
        (kept if torch.equal(tensor, begun[name.removeprefix("model.")]) else changed).add((where, kind))
    fixed = {("frozen", kind) for kind in ("statistics", "affine", "weight")}
    if norm != "train":
        fixed.add(("backbone", "statistics"))
    if norm == "freeze":
        fixed.add(("backbone", "affine"))
    assert kept >= fixed
    assert not changed & fixed
    everything = {(where, kind) for where in ("backbone", "head") for kind in ("statistics", "affine", "weight")}
    assert changed == everything - fixed


def test_a_poisoned_picture_ends_the_run_with_its_name(root, tmp_path, monkeypatch):
    original = DetectionDataModule.train_dataloader

    def train_dataloader(data):
        for batch in original(data):
            batch.targets.boxes[batch.targets.image_ids == 100_004] = math.nan
            yield batch

    class Loader:
        def __init__(self, data):
            self.data, self.sampler, self.batch_size = data, None, 4

        def __iter__(self):
            return train_dataloader(self.data)

        def __len__(self):
            return 3

    monkeypatch.setattr(DetectionDataModule, "train_dataloader", lambda data: Loader(data))
    with pytest.raises(UserError, match=r"not finite at epoch 0, step \d .*; pictures with image ids 100004\. Look"):
        run.train(configure("train", *TINY, root, f"output_dir={tmp_path}"))


def test_a_wrong_optimizer_leaves_nothing_behind(root, tmp_path):
    words = ("optimizer.momentum=0.0", "optimizer.nesterov=true", f"output_dir={tmp_path}/run")
    with pytest.raises(UserError, match="optimizer: SGD does not take these options: Nesterov"):
        run.train(configure("train", *TINY, root, *words))
    assert list(tmp_path.iterdir()) == []


# errors, as the command line tells them


@pytest.fixture
def start(logging_as_before, monkeypatch, tmp_path, capfd):
    """Run the program in an empty folder: (exit status, what stands on stderr)."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def start(*words):
        monkeypatch.setattr(sys, "argv", ["mnvision", *words])
        try:
            cli.main()
        except SystemExit as error:
            return int(error.code or 0), capfd.readouterr().err
        return 0, capfd.readouterr().err

    return start


@pytest.fixture
def coco(root, finished, tmp_path) -> Path:
    """A copy of the generated pictures, to be spoilt."""
    [made] = Path(finished[2]["data"]["root"]).glob("v*-seed0-*")
    return Path(shutil.copytree(made, tmp_path / "coco"))


FILES = (
    "data.train_images=train",
    "data.train_annotations=annotations/train.json",
    "data.val_images=val",
    "data.val_annotations=annotations/val.json",
    "data.num_workers=0",
    "data.batch_size=4",
)


def only_error(told: tuple[int, str]) -> str:
    """The message, of a program that ended as it should with an error."""
    status, err = told
    assert status == 1, err
    assert "Traceback" not in err
    lines = err.splitlines()
    [first] = [number for number, line in enumerate(lines) if line.startswith("error:")]
    assert all(line[2:3] == line[5:6] == ":" for line in lines[:first]), err  # log lines: they begin with the time
    assert list(Path.cwd().iterdir()) == []  # no folder of a run that never began
    return "\n".join(lines[first:])


def test_errors_in_the_data(start, coco):
    words = ("train", "data=coco", f"data.root={coco}", *FILES, "backbone.alpha=0.25", "task.image_size=64")
    assert "no such file or folder" in only_error(start(*words, f"data.root={coco}/nothing"))
    missing = coco / "train" / "100001.jpg"
    content = missing.read_bytes()
    missing.unlink()
    assert "picture not found" in only_error(start(*words))
    missing.write_bytes(content)
    file = coco / "annotations" / "train.json"
    file.write_text(file.read_text()[:-10])
    assert "train.json: is not JSON" in only_error(start(*words))
    shutil.rmtree(coco / "train")
    file.unlink()
    assert "annotation file not found" in only_error(start(*words))


def test_errors_in_checkpoints(start, tmp_path, finished):
    model = create_model("classify", alpha=0.25, classes=["cat", "dog"])
    assert isinstance(model, Classifier)
    path = tmp_path / "classifier.ckpt"
    save_model(model, path)
    message = only_error(start("eval", f"ckpt={path}"))
    assert message.startswith("error: data=shapes is not for a model of task classify; choose one of shape_crops, ")
    path.write_text("text")
    assert "is not a checkpoint" in only_error(start("eval", f"ckpt={path}"))
    assert "no such file" in only_error(start("eval", f"ckpt={tmp_path}/none.ckpt"))
    best = f"ckpt={finished[0]}/checkpoints/best.ckpt"
    assert "no file, folder or match" in only_error(start("predict", best, "source=none/"))


def test_weights_of_another_width(start, shared_weights, root):
    path = shared_weights / "ssd_mobilenet_v1_0.75_300_coco.npz"
    message = only_error(start("train", *DATA, root, "backbone.alpha=0.5", f"task.weights={path}"))
    assert "set backbone.alpha=0.75" in message


def test_a_picture_that_goes_missing_while_a_run_lasts(start, coco):
    (coco / "train" / "100005.jpg").unlink()
    words = ("data=coco", f"data.root={coco}", *FILES, "backbone.alpha=0.25", "task.image_size=64", *TRAINER)
    status, err = start("train", *words, "output_dir=run")
    assert status == 1
    assert "Traceback" not in err
    [line] = [line for line in err.splitlines() if line.startswith("error:")]
    assert "100005.jpg" in line


def test_interruption_is_no_error(start, root, monkeypatch):
    def training_step(module, batch, batch_idx):
        raise KeyboardInterrupt

    monkeypatch.setattr(VisionModule, "training_step", training_step)
    status, err = start("train", *TINY, root, "output_dir=run")
    assert status == 130
    assert err.endswith("told to end; no epoch is done yet\ninterrupted\n")
    assert "Traceback" not in err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_says_how_to_go_on(start, root, monkeypatch, number, status):
    step = VisionModule.training_step

    def training_step(module, batch, batch_idx):
        if module.current_epoch == 1:
            os.kill(os.getpid(), number)
        return step(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(VisionModule, "training_step", training_step)
        ended, err = start("train", *TINY, *LONG, root, "output_dir=run")
    last = Path("run/checkpoints/last.ckpt").resolve()
    assert ended == status
    assert f"told to end; resume={last} goes on after the last whole epoch\n" in err
    status, err = start("train", "resume=run")
    assert (status, f"resume: {last.parents[1]} is a folder; give " in err) == (1, True)
    assert f"the newest last.ckpt in it is {last})" in err
    assert "goes on after epoch 1 of 4" in start("train", f"resume={last}", "trainer.limit_train_batches=1")[1]


def test_a_run_that_is_told_to_end_is_no_success(start, root, monkeypatch):
    step = VisionModule.training_step

    def training_step(module, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(module, batch, batch_idx)

    monkeypatch.setattr(VisionModule, "training_step", training_step)
    status, err = start("train", "-m", "seed=1,2", *TINY, root, "output_dir=run")
    assert status == 143
    assert "told to end; no epoch is done yet" in err
    assert "Traceback" not in err
    assert not Path("run/1").exists()  # nor does the sweep go on


def program(*words: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess:
    """The program in a process of its own."""
    environ = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", outputs.FOLDER_VARIABLE)}
    code = "from mnvision.cli import main; main()"
    entry = cwd / "entry.py"  # processes of a distributed run are started with this file
    entry.write_text(code)
    environ["PYTHONPATH"] = str(Path(mnvision.__file__).parents[1])
    words = (sys.executable, str(entry), *words)
    return subprocess.run(words, cwd=cwd, env=environ, capture_output=True, text=True, timeout=timeout)


def test_a_run_in_a_process_of_its_own(root, tmp_path):
    """What the log shows of a whole run: nothing but our own lines."""
    done = program("train", *TINY, root, "trainer.max_epochs=1", "output_dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    log, _, table = done.stderr.partition("IoU")
    lines = log.splitlines()[:-1]
    assert all(line[2] == line[5] == ":" for line in lines), done.stderr
    assert len(lines) == 7, done.stderr  # two splits, model, folder, two of the epoch, and the table begins
    assert "\nmap_50 " in table


@pytest.mark.slow
def test_two_processes_measure_what_one_does(finished, tmp_path):
    """Seven pictures: the last batch of one of the two processes repeats a picture."""
    folder, _, cfg = finished
    annotations = next(Path(cfg["data"]["root"]).glob("v*-seed0-*/annotations/train.json"))
    content = json.loads(annotations.read_text())
    content["images"] = content["images"][:7]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in ids]
    (tmp_path / "seven.json").write_text(json.dumps(content))
    words = (f"ckpt={folder}/checkpoints/best.ckpt", f"data.val_annotations={tmp_path}/seven.json", *TRAINER)
    numbers = []
    for devices in (1, 2):
        target = tmp_path / str(devices)
        done = program("eval", *words, f"trainer.devices={devices}", f"output_dir={target}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "arning" not in done.stderr
        assert done.stderr.count("map_50 ") == 1
        numbers.append(json.loads((target / "metrics.json").read_text()))
    coco = [{name: each[f"val/{name}"] for name in COCO_NUMBERS} for each in numbers]
    assert coco[0] == coco[1]
    assert coco[0]["map"] > 0
    assert numbers[0]["val/loss"] != numbers[1]["val/loss"]  # of other batches: each process had its part
    results = [json.loads((tmp_path / name / "predictions.json").read_text()) for name in "12"]
    assert len(results[0]) == len(results[1])


@pytest.mark.slow
def test_two_processes_train_one_run(root, tmp_path):
    words = (*TINY, *OVERFIT, root, "trainer.max_epochs=2", "data.batch_size=3", "trainer.devices=2")
    done = program("train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "arning" not in done.stderr, done.stderr
    [folder] = (tmp_path / "runs" / "ssd").iterdir()
    assert {path.name for path in folder.iterdir()} == {*OUTPUTS, "checkpoints", "metrics.csv"}
    assert sorted(column(folder, "train/loss_step")) == [0, 1, 2, 3]  # 12 pictures, 6 a step
    numbers = evaluate(f"ckpt={folder}/checkpoints/best.ckpt", "trainer.devices=1", folder=tmp_path / "one")
    both = json.loads((folder / "metrics.json").read_text())
    assert {name: both[f"val/{name}"] for name in COCO_NUMBERS} == {
        name: numbers[f"val/{name}"] for name in COCO_NUMBERS
    }
