"""Runs of embedders: training, evaluation, prediction and distillation through the commands."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mnvision import load_model, predicting, run
from mnvision.checkpoint import save_model
from mnvision.data.drawn_faces import make_faces
from mnvision.errors import ConfigError, UserError
from mnvision.files import csv_text
from mnvision.models.create import create_model
from mnvision.models.embedding_objective import EmbeddingObjective
from mnvision.objectives import build_teacher
from mnvision.ops.image import read_image
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
    measured = numbers["val/val_at_far_1e-3_measured_far"]
    different = max(Counter(row["fold"] for row in pairs if not row["same"]).values())
    remark = f"measured {measured:.1e}: one pair of a fold is {1 / different:.1e}"
    assert f"same pairs accepted at a false accept rate of 1e-3; {remark}" in page
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
    words = (root, "data.per_identity=2", "task.loss=arcface", "data.augment=light")
    words = (*words, "scheduler=constant", "scheduler.warmup_epochs=0")  # whose rate no number of epochs changes
    train(tmp_path / "whole", *words)
    train(tmp_path / "cut", *words, "trainer.max_epochs=1")
    run.train(configure("train", f"resume={tmp_path}/cut/checkpoints/last.ckpt", "trainer.max_epochs=2"))
    assert len(losses(tmp_path / "whole")) == 2
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    numbers, tensors = [], []
    for folder in (tmp_path / "whole", tmp_path / "cut"):
        numbers.append(json.loads((folder / "metrics.json").read_text()))
        tensors.append(torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    assert numbers[0] == numbers[1]
    assert tensors[0]["objective.directions"].shape == (8, 16)
    torch.testing.assert_close(tensors[1], tensors[0], rtol=0, atol=0)


@pytest.mark.parametrize("loss", ["triplet", "batch_hard", "contrastive", "cosface"])
def test_every_loss_trains(root, tmp_path, loss):
    numbers = train(tmp_path / loss, root, f"task.loss={loss}", "trainer.max_epochs=1")
    assert 0 <= numbers["val/auc"] <= 1
    assert np.isfinite(losses(tmp_path / loss, f"train/{loss}_loss")).all()


def test_a_student_of_a_teacher(root, trained, tmp_path, caplog):
    words = (f"task.teacher={best(trained)}", "task.loss=none", "task.relation_weight=0.5")
    with caplog.at_level(logging.INFO):
        train(tmp_path / "student", root, *words)
    assert "teacher: mobilenet_v1 at 32 pixels, 8 identities\n" in caplog.text
    assert "train: 48 pictures, 8 identities, 6 of each" in caplog.text
    assert "at 32x32, 8 identities known: " in caplog.text
    teacher, relations = (losses(tmp_path / "student", f"train/{name}_loss") for name in ("teacher", "relation"))
    assert len(teacher) == len(relations) == 2
    assert teacher[1] < teacher[0]
    page = (tmp_path / "student" / "report.html").read_text()
    assert "no identities" in page


def test_a_teacher_is_asked_once_for_each_view(root, trained, tmp_path, monkeypatch):
    """As many views as epochs are those of a training that always asks; fewer come again."""
    asked = []
    ask = EmbeddingObjective.ask

    def count(self, images):
        asked.append(len(images))
        return ask(self, images)

    monkeypatch.setattr(EmbeddingObjective, "ask", count)
    words = (root, f"task.teacher={best(trained)}", "task.loss=none", "data.augment=light", "trainer.ema_decay=0.9")
    train(tmp_path / "live", *words)
    pictures = sum(asked)
    assert pictures == 2 * 48  # epochs of 8 identities with 6 pictures
    train(tmp_path / "kept", *words, "task.teacher_views=2")
    assert sum(asked) == 2 * pictures
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "live"), rel=1e-5)
    train(tmp_path / "once", *words, "task.teacher_views=1")
    assert sum(asked) == 2 * pictures + 48
    first, second = losses(tmp_path / "once")
    assert first == pytest.approx(losses(tmp_path / "live")[0], rel=1e-5)
    assert second != pytest.approx(losses(tmp_path / "live")[1], rel=1e-5)
    with pytest.raises(UserError, match="teacher_views is of a teacher, and there is none"):
        train(tmp_path / "none", root, "task.teacher_views=2")
    with pytest.raises(UserError, match="give trainer.progressive_rho=null, or task.teacher_views=null"):
        train(tmp_path / "none", *words, "task.teacher_views=2", "trainer.progressive_rho=[0.5,1]")
    # The repeats of a picture in a batch of identities would be copies of one view.
    for word in ("task.loss=triplet", "data.per_identity=2"):
        with pytest.raises(
            UserError, match="give task.teacher_views=null, or task.loss=none .* with data.per_identity"
        ):
            train(tmp_path / "none", *words, "task.teacher_views=2", word)
    assert not (tmp_path / "none").exists()


def test_whom_a_start_knows_is_not_measured_on(root, trained, tmp_path, caplog):
    """Neither by the teacher nor by the weights that a training begins with."""
    model = load_model(best(trained))
    model.spec = dataclasses.replace(model.spec, classes=("val0001", "somebody"), category_ids=(1, 2))
    save_model(model, tmp_path / "knows.ckpt")
    message = "1 of its 4 identities were trained on, such as val0001"
    own = tuple(f"train{number:04d}" for number in range(8))
    for key, *words in (("task.teacher", "task.loss=none"), ("task.weights",), ("backbone.weights",)):
        start = (root, f"{key}={tmp_path / 'knows.ckpt'}", *words, "trainer.max_epochs=1")
        with pytest.raises(UserError, match=message):
            train(tmp_path / "refused", *start)
        assert not (tmp_path / "refused").exists()
        with caplog.at_level(logging.INFO):
            train(tmp_path / key, *start, "data.allow_overlap=true")
        assert "8 identities to learn; its teacher and its weights know the others" in caplog.text
        assert "10 identities known" in (tmp_path / key / "report.html").read_text()
        caplog.clear()
        # Whoever measures the new checkpoint is told, too.
        assert load_model(best(tmp_path / key)).spec.classes == (*own, "val0001", "somebody")
        words = ("task=embed", f"ckpt={best(tmp_path / key)}", "data.allow_overlap=false")
        again = configure("eval", *TRAINER, *words, f"output_dir={tmp_path / 'eval'}")
        with pytest.raises(UserError, match=message):
            run.evaluate(again)
    for key, *words in (("task.weights",), ("backbone.weights", "task.embedding_size=0")):
        words = (*TINY, root, f"{key}={tmp_path / 'knows.ckpt'}", *words, f"output_dir={tmp_path / f'as_is_{key}'}")
        with pytest.raises(UserError, match=message):  # nor by weights that are measured as they are
            run.evaluate(configure("eval", *words))
        assert run.evaluate(configure("eval", *words, "data.allow_overlap=true"))["val/auc"] >= 0
    resumed = f"resume={tmp_path / 'task.teacher'}/checkpoints/last.ckpt"
    assert np.isfinite(run.train(configure("train", resumed, "trainer.max_epochs=2"))["val/auc"])


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
    others = ("task.flip=true", "task.crop_share=0.5", f"output_dir={tmp_path / 'flipped'}")
    status, _, _ = start("predict", *words[:-1], *others)
    assert status == 0
    mirrored = np.load(tmp_path / "flipped" / "index" / "embeddings.npy")
    assert np.abs(mirrored - vectors).max() > 1e-4
    # Such an index says so, and a search in it mirrors and cuts the pictures that it looks for.
    index = f"index={tmp_path / 'flipped' / 'index'}"
    status, _, err = start("search", words[0], words[1], index, "top_k=1", f"output_dir={tmp_path / 'searched'}")
    assert status == 0, err
    found = json.loads((tmp_path / "searched" / "results.json").read_text())
    expected = 2 - 2 * mirrored[0] @ mirrored[1:].T
    assert found[0]["nearest"][0]["distance"] == pytest.approx(expected.min(), abs=1e-4)


def test_wrong_wishes(root, trained, tmp_path):
    with pytest.raises(ConfigError, match="task.pooling=depthwise fits one size"):
        configure("train", "task=embed", "task.pooling=depthwise", "trainer.progressive_rho=[0.5,1]")
    with pytest.raises(ConfigError, match="task=embed cannot learn from data=shapes"):
        configure("train", "task=embed", "data=shapes")
    classifier = create_model("classify", alpha=0.25, image_size=32, classes=["a", "b"])
    save_model(classifier, tmp_path / "c.ckpt")
    with pytest.raises(UserError, match="holds a model of task classify, expected one of task embed"):
        build_teacher(configure("train", *TINY, root, f"task.teacher={tmp_path / 'c.ckpt'}"))
    with pytest.raises(UserError, match="task.embedding_size=16, or task.teacher_weight=0"):
        train(tmp_path / "x", root, f"task.teacher={best(trained)}", "task.embedding_size=8")
    with pytest.raises(UserError, match="give task.teacher=CKPT"):
        train(tmp_path / "x", root, "task.loss=none")
    assert not (tmp_path / "x").exists()


# lists of pairs


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """Folders of people for validation and test, and a list of one fold of pairs of the latter."""
    root = tmp_path_factory.mktemp("people")
    make_faces(root, seed=3, train_identities=4, val_identities=4, pictures=6)
    (root / "train").rename(root / "test")  # 4 people, 6 pictures each; in val, 4 others, 3 pictures each
    files = {name: f"test/train000{name}/0" for name in range(4)}
    rows = [["first", "second", "same", "fold"]]
    rows += [[f"{files[name]}{i}.jpg", f"{files[name]}{i + 1}.jpg", 1, 7] for name in range(4) for i in range(5)]
    rows += [[f"{files[name]}{i}.jpg", f"{files[(name + 1) % 4]}{i}.jpg", 0, 7] for name in range(4) for i in range(5)]
    (root / "test.csv").write_text(csv_text(rows))
    torch.manual_seed(0)
    options = {"embedding_size": 16}
    model = create_model("embed", alpha=0.25, image_size=32, classes=["a", "b"], task_options=options)
    save_model(model.eval(), root / "model.ckpt")
    return root


def measure(people: Path, folder: Path, *words: str) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """The numbers of an evaluation, and the distances of its pairs with what they are."""
    data = ("task=embed", "data=faces", f"data.root={people}", "data.num_workers=0", "data.pair_count=24")
    words = (*TRAINER, *data, f"ckpt={people}/model.ckpt", f"output_dir={folder}", *words)
    numbers = run.evaluate(configure("eval", *words))
    pairs = json.loads((folder / "predictions.json").read_text())
    return numbers, np.array([pair["distance"] for pair in pairs]), np.array([pair["same"] for pair in pairs])


def test_one_fold_is_told_by_the_threshold_of_the_validation_pairs(people, tmp_path, caplog):
    _, distances, same = measure(people, tmp_path / "val", "split=val")
    # by hand: the least threshold that tells most validation pairs right
    grid = [step / 100 for step in range(400)]
    right = [sum((d < threshold) == s for d, s in zip(distances, same, strict=True)) for threshold in grid]
    expected, count = grid[right.index(max(right))], len(same)
    caplog.set_level("INFO")
    numbers, distances, same = measure(people, tmp_path / "test", "split=test", "data.test_pairs=test.csv")
    assert (len(same), int(same.sum())) == (40, 20)
    assert numbers["test/threshold"] == pytest.approx(expected)
    assert numbers["test/accuracy"] == pytest.approx(((distances < expected) == same).mean())
    assert (numbers["test/accuracy_std"], numbers["test/accuracy_se"]) == (-1, -1)  # one fold says nothing of it
    assert "test: 40 pairs of test.csv, in 1 folds" in caplog.text
    assert f"the pairs are one fold: the thresholds are those of the {count} validation pairs" in caplog.text


def test_without_validation_pairs_one_fold_is_cut(people, tmp_path, caplog):
    caplog.set_level("INFO")
    words = ("split=test", "data.test_pairs=test.csv", "data.val=nowhere")
    numbers, distances, same = measure(people, tmp_path, *words)
    assert "no validation pairs to choose a threshold by: " in caplog.text
    assert "the pairs are one fold: cut into ten in their order" in caplog.text
    accuracies = []
    for fold in range(10):  # two same and two different pairs each
        test = np.isin(np.arange(40), [2 * fold, 2 * fold + 1, 20 + 2 * fold, 21 + 2 * fold])
        right = [((distances < step / 100) == same)[~test].sum() for step in range(400)]
        accuracies.append(((distances < np.argmax(right) / 100) == same)[test].mean())
    assert numbers["test/accuracy"] == pytest.approx(np.mean(accuracies))


@pytest.mark.parametrize("one_fold", [True, False])
def test_whom_validation_and_test_share_is_said(people, tmp_path, caplog, one_fold):
    """The best checkpoint was chosen by them, whatever the folds."""
    words = ("split=test", *(["data.test_pairs=test.csv"] if one_fold else []))
    measure(people, tmp_path / "other", *words)
    assert "identities of the test are in the validation split" not in caplog.text
    measure(people, tmp_path / "same", *words, "data.val=test")
    chosen = "the best checkpoint and this threshold" if one_fold else "the best checkpoint"
    assert f"4 identities of the test are in the validation split, which chooses {chosen}: the numbers" in caplog.text


def test_a_list_of_validation_pairs(people, tmp_path, caplog):
    (people / "val.csv").write_text(
        "first;second;same\nval/val0000/00.jpg;val/val0000/01.jpg;1\nval/val0002/00.jpg;val/val0001/02.jpg;0\n"
        "val/val0003/00.jpg;val/val0003/02.jpg;1\nval/val0001/02.jpg;val/val0000/02.jpg;0\n"
    )
    _, distances, same = measure(people, tmp_path / "a", "split=val", "data.val_pairs=val.csv")
    assert same.tolist() == [True, False, True, False]
    rows = json.loads((tmp_path / "a" / "predictions.json").read_text())
    assert [row["fold"] for row in rows] == [1, 1, 2, 2]
    assert (rows[1]["first"], rows[1]["second"]) == ("val/val0002/00.jpg", "val/val0001/02.jpg")
    model = load_model(people / "model.ckpt")
    pictures = [read_image(people / rows[1][key]) for key in ("first", "second")]
    one, other = (model.predict([picture])[0].numpy() for picture in pictures)
    assert distances[1] == pytest.approx(((one - other) ** 2).sum(), abs=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first,second,same\nval/x.jpg,val/val0000/00.jpg,1\n", "line 2 names 'val/x.jpg', which is no picture of"),
        ("same,second,first\nval/val0000/00.jpg,val/val0000/01.jpg,1\n", "line 2 names '1', which is no picture of"),
        ("one,other,same\nval/val0000/00.jpg,val/val0000/01.jpg,1\n", "has no column 'first' in its first line"),
        (
            "first,second,same\n\nval/val0000/00.jpg,val/val0000/01.jpg,0\nval/val0000/00.jpg,val/val0001/01.jpg,1\n",
            "line 3 calls a pair different whose identities are 'val0000' and 'val0000'; so is every line: are 1 and 0 "
            "swapped?",
        ),
        (None, "list of pairs not found: "),
    ],
)
def test_a_wrong_list_is_named_by_its_key(people, tmp_path, text, message):
    if text is not None:
        (people / "bad.csv").write_text(text)
    else:
        (people / "bad.csv").unlink(missing_ok=True)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        measure(people, tmp_path / "x", "split=val", "data.val_pairs=bad.csv")
    assert str(error.value).startswith("data.val_pairs: ")
    assert str(people / "bad.csv") in str(error.value)
    assert not (tmp_path / "x").exists()


def test_people_who_were_trained_on_are_refused_with_a_list_as_well(people, tmp_path):
    model = create_model("embed", alpha=0.25, image_size=32, classes=["train0001", "b"])
    save_model(model, tmp_path / "trained.ckpt")
    words = ("split=test", "data.test_pairs=test.csv", f"ckpt={tmp_path}/trained.ckpt")
    with pytest.raises(UserError, match="1 of its 4 identities were trained on, such as train0001"):
        measure(people, tmp_path / "x", *words)
