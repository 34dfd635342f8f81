"""Runs of embedders: training, evaluation, prediction and distillation through the commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mnvision import load_model, predicting, run
from mnvision.errors import ConfigError, UserError
from mnvision.models.create import create_model
from mnvision.objectives import build_teacher
from tests.runs import TRAINER, configure

FACES = ("data.train_identities=8", "data.val_identities=4", "data.pictures=6", "data.batch_size=8")
TINY = (
    *(*FACES, *TRAINER, "task=embed", "backbone.alpha=0.25", "task.image_size=32", "optimizer.lr=0.001"),
    *("data.num_workers=0", "data.pair_count=40", "task.embedding_size=16"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    return f"data.root={tmp_path_factory.mktemp('faces')}"


def train(folder: Path, *words: str) -> dict[str, float]:
    return run.train(configure("train", *TINY, *words, f"output_dir={folder}"))


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(folder, root, "trainer.pictures=3")
    return folder


def best(folder: Path) -> str:
    return f"{folder}/checkpoints/best.ckpt"


def losses(folder: Path, name: str = "train/loss") -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_what_a_run_leaves_behind(trained):
    numbers = json.loads((trained / "metrics.json").read_text())
    assert {"val/accuracy", "val/auc", "val/eer", "val/val_at_far_1e-3", "val/rank1", "val/map"} <= set(numbers)
    pairs = json.loads((trained / "predictions.json").read_text())
    assert {row["same"] for row in pairs} == {True, False}
    for name in ("neighbours.jpg", "roc.png", "distances.png"):
        assert cv2.imread(str(trained / name)) is not None, name
    page = (trained / "report.html").read_text()
    assert "Nearest pictures" in page
    assert "ROC curve" in page
    model = load_model(best(trained))
    assert model.spec.classes == tuple(f"train{number:04d}" for number in range(8))
    assert not [name for name in model.state_dict() if "directions" in name]


def test_evaluation_repeats_the_numbers_of_the_training(trained, tmp_path):
    again = run.evaluate(configure("eval", *TRAINER, f"ckpt={best(trained)}", f"output_dir={tmp_path / 'a'}"))
    assert again == json.loads((trained / "metrics.json").read_text())
    words = ("task=embed", f"ckpt={best(trained)}", "task.flip=true", f"output_dir={tmp_path}/b")
    flipped = run.evaluate(configure("eval", *TRAINER, *words))
    assert flipped != again


def test_what_it_was_trained_on_has_no_pairs(trained, tmp_path):
    numbers = run.evaluate(
        configure("eval", *TRAINER, f"ckpt={best(trained)}", "split=train", f"output_dir={tmp_path}")
    )
    assert set(numbers) >= {"train/rank1", "train/map"}
    assert "train/accuracy" not in numbers


def test_a_training_goes_on_as_if_it_had_not_stopped(root, trained, tmp_path):
    """The directions of the identities are no part of the model, and are there again all the same."""
    train(tmp_path / "cut", root, "trainer.max_epochs=1")
    run.train(configure("train", f"resume={tmp_path}/cut/checkpoints/last.ckpt", "trainer.max_epochs=2"))
    # The schedule of the first epoch was another one: a whole run of two epochs is compared below.
    assert len(losses(tmp_path / "cut")) == 2
    saved = torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)
    assert saved["state_dict"]["objective.directions"].shape == (8, 16)


@pytest.mark.parametrize("loss", ["triplet", "batch_hard", "contrastive", "cosface"])
def test_every_loss_trains(root, tmp_path, loss):
    numbers = train(tmp_path / loss, root, f"task.loss={loss}", "trainer.max_epochs=1")
    assert 0 <= numbers["val/auc"] <= 1
    assert np.isfinite(losses(tmp_path / loss, f"train/{loss}_loss")).all()


def test_a_student_of_a_teacher(root, trained, tmp_path):
    words = (f"task.teacher={best(trained)}", "task.loss=none", "task.relation_weight=0.5")
    train(tmp_path / "student", root, *words)
    teacher, relations = (losses(tmp_path / "student", f"train/{name}_loss") for name in ("teacher", "relation"))
    assert len(teacher) == len(relations) == 2
    assert teacher[1] < teacher[0]
    page = (tmp_path / "student" / "report.html").read_text()
    assert "no identities" in page


def test_a_teacher_that_is_used_to_other_views(root, trained, tmp_path, caplog):
    words = (f"task.teacher={best(trained)}", "task.loss=none", "trainer.max_epochs=1")
    train(tmp_path / "same", root, *words)
    assert "teacher: it was trained with" not in caplog.text
    train(tmp_path / "other", root, *words, "task.fit=stretch")
    assert "it was trained with fit=crop and is shown the student's pictures, with fit=stretch" in caplog.text


def test_pooled_features_need_no_training(root, trained, tmp_path):
    """Weights of a backbone alone are measured as they are: what any training has to beat."""
    backbone = load_model(best(trained)).backbone
    torch.save(backbone.state_dict(), tmp_path / "backbone.pt")
    words = (*TINY, root, f"backbone.weights={tmp_path / 'backbone.pt'}", f"output_dir={tmp_path / 'raw'}")
    numbers = run.evaluate(configure("eval", *words, "task.embedding_size=0"))
    assert 0 < numbers["val/auc"] < 1
    again = run.evaluate(configure("eval", *words[:-1], "task.embedding_size=0", f"output_dir={tmp_path / 'again'}"))
    assert again == numbers
    with pytest.raises(ConfigError, match="missing, expected a checkpoint"):
        configure("eval", *words)  # the last layer would be a random one
    with pytest.raises(ConfigError, match="missing, expected a checkpoint"):
        configure("eval", *TINY, root, "task.embedding_size=0")


def test_prediction_writes_an_index(trained, tmp_path, start):
    pictures = tmp_path / "photos"
    pictures.mkdir()
    for number in range(3):
        image = np.random.default_rng(number // 2).integers(0, 256, (50, 40 + number, 3), dtype=np.uint8)
        cv2.imwrite(str(pictures / f"{number}.png"), image)
    words = (f"ckpt={best(trained)}", f"source={pictures}", "top_k=1", f"output_dir={tmp_path / 'found'}")
    entries = predicting.predict(configure("predict", *words))
    assert [Path(entry["file"]).name for entry in entries] == ["0.png", "1.png", "2.png"]
    assert [len(entry["nearest"]) for entry in entries] == [1, 1, 1]
    vectors = np.load(tmp_path / "found" / "index" / "embeddings.npy")
    assert vectors.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    expected = 2 - 2 * vectors[0] @ vectors[1:].T
    assert entries[0]["nearest"][0]["distance"] == pytest.approx(expected.min(), abs=1e-4)
    assert json.loads((tmp_path / "found" / "predictions.json").read_text()) == entries
    assert not (tmp_path / "found" / "pictures").exists()
    # Keys of the checkpoint's own task can change, without naming it.
    status, _, _ = start("predict", *words[:-1], "task.flip=true", f"output_dir={tmp_path / 'flipped'}")
    assert status == 0
    mirrored = np.load(tmp_path / "flipped" / "index" / "embeddings.npy")
    assert np.abs(mirrored - vectors).max() > 1e-4


def test_wrong_wishes(root, trained, tmp_path):
    with pytest.raises(ConfigError, match="task.pooling=depthwise fits one size"):
        configure("train", "task=embed", "task.pooling=depthwise", "trainer.progressive_rho=[0.5,1]")
    with pytest.raises(ConfigError, match="task=embed cannot learn from data=shapes"):
        configure("train", "task=embed", "data=shapes")
    classifier = create_model("classify", alpha=0.25, image_size=32, classes=["a", "b"])
    from mnvision.checkpoint import save_model

    save_model(classifier, tmp_path / "c.ckpt")
    with pytest.raises(UserError, match="holds a model of task classify, expected one of task embed"):
        build_teacher(configure("train", *TINY, root, f"task.teacher={tmp_path / 'c.ckpt'}"))
    with pytest.raises(UserError, match="task.embedding_size=16, or task.teacher_weight=0"):
        train(tmp_path / "x", root, f"task.teacher={best(trained)}", "task.embedding_size=8")
    with pytest.raises(UserError, match="give task.teacher=CKPT"):
        train(tmp_path / "x", root, "task.loss=none")
    assert not (tmp_path / "x").exists()
