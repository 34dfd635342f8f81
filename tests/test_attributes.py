"""Runs on attributes: training, evaluation, prediction and distillation through the commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mnvision import load_model, predicting, run, sharding
from mnvision.attributes import Found, draw, judged_lines
from mnvision.checkpoint import save_model
from mnvision.class_pictures import RIGHT, WRONG
from mnvision.errors import ConfigError, UserError
from mnvision.models.create import create_model
from tests.runs import TRAINER, configure, diverged

TINY = (
    *("data.train_identities=6", "data.val_identities=3", "data.pictures=4"),
    *("data.batch_size=8", "data.num_workers=0", "data.augment=flip"),
    *TRAINER,
    *("task=attributes", "backbone.alpha=0.25", "task.image_size=32", "optimizer.lr=0.001"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    return f"data.root={tmp_path_factory.mktemp('faces')}"


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run.train(configure("train", *TINY, root, "trainer.pictures=3", f"output_dir={folder}"))
    return folder


def train(folder: Path, *words: str) -> dict[str, float]:
    return run.train(configure("train", *TINY, *words, f"output_dir={folder}"))


def last(folder: Path) -> str:
    return f"{folder}/checkpoints/last.ckpt"


def columns(folder: Path) -> set[str]:
    with (folder / "metrics.csv").open(newline="") as file:
        return set(csv.DictReader(file).fieldnames or ())


def test_what_a_run_leaves_behind(trained):
    numbers = json.loads((trained / "metrics.json").read_text())
    rows = json.loads((trained / "predictions.json").read_text())
    assert len(rows) == 3 * 2
    with (trained / "attributes.csv").open(newline="") as file:
        table = {row["name"]: row for row in csv.DictReader(file)}
    assert list(table) == list(load_model(last(trained)).spec.classes)
    defined = [float(row["ap"]) for row in table.values() if float(row["ap"]) >= 0]
    assert numbers["val/mean_ap"] == pytest.approx(np.mean(defined), abs=1e-6)
    known = [row["attributes"]["smiling"] for row in rows if row["attributes"]["smiling"]["truth"] is not None]
    assert int(table["smiling"]["pictures"]) == len(known)
    assert float(table["smiling"]["share"]) == pytest.approx(np.mean([one["truth"] for one in known]))
    right = [one["probability"] if one["truth"] else 1 - one["probability"] for one in known]
    assert float(table["smiling"]["cross_entropy"]) == pytest.approx(-np.log(right).mean(), rel=1e-3)
    assert len(list((trained / "pictures").iterdir())) == 3
    page = (trained / "report.html").read_text()
    assert "Average precision by attribute" in page
    assert "ap/smiling" not in page  # the bars show it


def test_evaluation_repeats_the_numbers_of_the_training(trained, tmp_path):
    best = f"ckpt={trained}/checkpoints/best.ckpt"
    numbers = json.loads((trained / "metrics.json").read_text())
    assert run.evaluate(configure("eval", *TRAINER, best, f"output_dir={tmp_path / 'a'}")) == numbers


def test_keys_of_the_data_can_change_in_an_evaluation(trained, start):
    """The command line finds the data and the task of the run by itself."""
    words = ("data.pictures=2", "data.num_workers=0", "trainer.progress_bar=false", "output_dir=out")
    status, _, err = start("eval", f"ckpt={trained}/checkpoints/best.ckpt", *words)
    assert (status, "error" in err) == (0, False)
    assert len(json.loads(Path("out/predictions.json").read_text())) == 3 * 1


def test_a_list_is_measured_without_that_of_the_training(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    rows = ["file,hat,beard", *(f"{number}.png,{number % 2},{number // 3}" for number in range(6))]
    (tmp_path / "val.csv").write_text("\n".join(rows))
    torch.manual_seed(0)
    save_model(create_model("attributes", alpha=0.25, image_size=32, classes=["beard", "hat"]), tmp_path / "a.ckpt")
    data = ("task=attributes", "data=attribute_list", f"data.root={tmp_path}", "data.val=val.csv", "data.num_workers=0")
    words = (*TRAINER, *data, f"ckpt={tmp_path}/a.ckpt")
    alone = run.evaluate(configure("eval", *words, f"output_dir={tmp_path}/one"))
    truths = [row["attributes"]["hat"]["truth"] for row in json.loads((tmp_path / "one/predictions.json").read_text())]
    assert truths == [False, True] * 3
    (tmp_path / "train.csv").write_text("file,hat,beard\nx.png,0,1\n")
    (tmp_path / "x.png").write_bytes((tmp_path / "0.png").read_bytes())
    assert run.evaluate(configure("eval", *words, f"output_dir={tmp_path}/two")) == alone


def test_prediction_tells_every_attribute(trained, tmp_path, caplog):
    pictures = tmp_path / "photos"
    pictures.mkdir()
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 256, (50 + number, 70, 3), dtype=np.uint8)
        cv2.imwrite(str(pictures / f"{number}.png"), image[..., ::-1])
    words = ("trainer.accelerator=cpu", f"ckpt={last(trained)}", f"source={pictures}", "top_k=2", "score_threshold=0.4")
    entries = predicting.predict(configure("predict", *words, f"output_dir={tmp_path / 'out'}"))
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["top_k has no effect: it is not for models of task attributes"]
    model = load_model(last(trained))
    told = model.predict([cv2.imread(entries[1]["file"])[..., ::-1]])[0].tolist()
    assert list(entries[1]["probabilities"]) == list(model.spec.classes)
    assert list(entries[1]["probabilities"].values()) == pytest.approx(told, abs=2e-4)
    expected = [name for name, score in entries[1]["probabilities"].items() if score >= 0.4]
    assert entries[1]["present"] == expected
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["smiling"]) == entries[1]["probabilities"]["smiling"]
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2


def test_a_model_that_has_diverged_tells_nothing(trained, tmp_path):
    words = diverged(last(trained), tmp_path)
    with pytest.raises(UserError, match="the model's probabilities are not finite: it has diverged"):
        predicting.predict(configure("predict", *words))
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_what_stands_under_a_picture():
    told = {
        "hat": {"probability": 0.8, "truth": True},
        "beard": {"probability": 0.9, "truth": False},
        "scar": {"probability": 0.1, "truth": True},
        "ring": {"probability": 0.1, "truth": False},
        "bald": {"probability": 0.7, "truth": None},
    }
    lines = judged_lines(told)
    assert [(line.text, line.value) for line in lines] == [
        ("not there: beard", "90%"),
        ("missed: scar", "10%"),
        ("hat", "80%"),
        ("bald", "70%"),
    ]
    assert [line.color for line in lines][:3] == [WRONG, WRONG, RIGHT]
    assert [line.text for line in judged_lines({"ring": told["ring"]})] == ["no attribute"]
    many = judged_lines({f"a{n}": told["hat"] for n in range(12)})
    assert (len(many), many[-1].text) == (8, "and 5 more")
    spec = create_model("attributes", alpha=0.25, classes=["hat", "beard"], image_size=32).spec
    image = np.zeros((240, 240, 3), np.uint8)
    one, none = (draw(image, Found([0.9, 0.1], threshold), spec=spec) for threshold in (0.5, 0.95))
    assert one.shape == none.shape
    assert not np.array_equal(one, none)


def test_a_run_is_repeated_and_resumed_to_the_digit(root, tmp_path):
    words = (root, "trainer.max_epochs=3", "task.positive_weights=balanced", "trainer.ema_decay=0.9")
    numbers = train(tmp_path / "whole", *words)
    cfg = configure("train", *TINY, *words, f"output_dir={tmp_path / 'parts'}")
    with pytest.MonkeyPatch.context() as patch:
        from lightning.pytorch import Trainer

        original = Trainer.save_checkpoint

        def save_and_stop(self, path, *rest, **options):
            original(self, path, *rest, **options)
            if self.current_epoch == 1 and Path(path).name == "last.ckpt":
                raise RuntimeError("power cut")

        patch.setattr(Trainer, "save_checkpoint", save_and_stop)
        with pytest.raises(RuntimeError, match="power cut"):
            run.train(cfg)
    assert run.train(configure("train", f"resume={last(tmp_path / 'parts')}")) == pytest.approx(numbers, rel=1e-5)


def test_distillation_beside_the_labels_and_without(trained, root, tmp_path):
    teacher = f"task.teacher={last(trained)}"
    student = (root, teacher, "backbone.alpha=0.125", "trainer.max_epochs=1")
    train(tmp_path / "both", *student, "task.weight=0.5")
    assert {"train/attribute_loss", "train/teacher_loss"} <= columns(tmp_path / "both")
    train(tmp_path / "alone", *student, "task.use_labels=false", "data.classes=[smiling,hat]")
    assert "train/attribute_loss" not in columns(tmp_path / "alone")
    # Without labels the student has the teacher's attributes, whatever the data say.
    model = load_model(last(tmp_path / "alone"))
    assert model.spec.classes == load_model(last(trained)).spec.classes
    assert not any("teacher" in name for name in torch.load(last(tmp_path / "alone"), weights_only=True)["state_dict"])
    page = (tmp_path / "both" / "report.html").read_text()
    assert f"{last(trained)}: attributes, weight 0.5, beside the labels, weight 0.5" in page
    fewer = (root, teacher, "data.classes=[hat]", "trainer.max_epochs=1")
    train(tmp_path / "fewer", *fewer)
    assert load_model(last(tmp_path / "fewer")).spec.classes == ("hat",)


def test_pictures_of_which_nothing_is_known_have_a_teacher(trained, root, tmp_path):
    """The paper's point: what a teacher says needs no labels at all."""
    faces = next(Path(root.removeprefix("data.root=")).iterdir())
    files = sorted(path.relative_to(faces).as_posix() for path in faces.rglob("*.jpg"))
    training, measuring = files[:12], files[-4:]
    (tmp_path / "train.csv").write_text("file,hat\n" + "".join(f"{file},\n" for file in training))
    (tmp_path / "val.csv").write_text("file,hat\n" + "".join(f"{file},{n % 2}\n" for n, file in enumerate(measuring)))
    words = ("task=attributes", "data=attribute_list", f"data.root={tmp_path}", f"data.images={faces}")
    words += (*TRAINER, "data.num_workers=0", "data.batch_size=4", "trainer.max_epochs=1", "backbone.alpha=0.125")
    words += ("data.val=val.csv", "task.image_size=32", f"task.teacher={last(trained)}")
    cfg = configure("train", *words, "task.use_labels=false", f"output_dir={tmp_path / 'run'}")
    numbers = run.train(cfg)
    assert numbers["val/ap/hat"] >= 0
    assert numbers["val/ap/smiling"] == -1  # of which the list says nothing
    with pytest.raises(UserError, match="no picture has a known attribute"):
        run.train(configure("train", *words, f"output_dir={tmp_path / 'labels'}"))
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text((tmp_path / f"{name}.csv").read_text().replace("hat", "Wearing_Hat", 1))
    with pytest.raises(
        UserError, match=r"\(Wearing_Hat\) none is the same as one of .* \(bald, .*\), which are the teac"
    ):
        run.train(configure("train", *words, "task.use_labels=false", f"output_dir={tmp_path / 'none'}"))


def test_what_does_not_suit_is_refused(trained, root, tmp_path):
    with pytest.raises(
        ConfigError, match="task=attributes cannot learn from data=shape_crops; choose one of drawn_att"
    ):
        configure("train", "task=attributes", "data=shape_crops")
    with pytest.raises(ConfigError, match="task=classify cannot learn from data=drawn_attributes"):
        configure("train", "task=classify", "data=drawn_attributes")
    with pytest.raises(ConfigError, match="data.mixup: unknown key"):
        configure("train", "task=attributes", "+data.mixup=0.2")
    with pytest.raises(UserError, match="holds a model of task attributes, expected one of task classify"):
        run.train(configure("train", *TRAINER, "task=distill", f"task.teacher={last(trained)}"))
    with pytest.raises(UserError, match="there is nothing to learn from; give task.teacher"):
        train(tmp_path / "x", root, "task.use_labels=false")
    assert not (tmp_path / "x").exists()
    shards = configure("shards", "task=attributes", *TINY[:3], root, f"output_dir={tmp_path / 'shards'}")
    with pytest.raises(UserError, match="shards hold a class or a place each"):
        sharding.write_shards(shards)
