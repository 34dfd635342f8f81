"""Runs of classifiers: training, evaluation, prediction and distillation through the commands."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mnvision import build, cli, load_model, predicting, run, sharding
from mnvision.checkpoint import save_model
from mnvision.data.class_datamodule import ClassDataModule
from mnvision.errors import ConfigError, UserError
from mnvision.models.create import build_model, create_model
from mnvision.objectives import build_teacher
from mnvision.teacher_cache import outputs_file
from tests.runs import DATA, TRAINER, configure, diverged

TINY = (*DATA, *TRAINER, "task=classify", "backbone.alpha=0.25", "task.image_size=32", "optimizer.lr=0.001")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    return f"data.root={tmp_path_factory.mktemp('shapes')}"


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run.train(configure("train", *TINY, root, "trainer.pictures=4", f"output_dir={folder}"))
    return folder


def train(folder: Path, *words: str) -> dict[str, float]:
    return run.train(configure("train", *TINY, *words, f"output_dir={folder}"))


def last(folder: Path) -> str:
    return f"{folder}/checkpoints/last.ckpt"


def losses(folder: Path, name: str = "train/loss") -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_what_a_run_leaves_behind(trained):
    numbers = json.loads((trained / "metrics.json").read_text())
    rows = json.loads((trained / "predictions.json").read_text())
    right = [row["classes"][0]["label"] == row["truth"] for row in rows]
    assert numbers["val/top1"] == pytest.approx(np.mean(right), abs=1e-6)
    with (trained / "confusion.csv").open(newline="") as file:
        head, *table = csv.reader(file)
    counts = np.array([row[1:] for row in table], dtype=int)
    assert counts.sum() == len(rows)
    assert counts.trace() == sum(right)
    assert head[1:] == [row[0] for row in table] == list(load_model(last(trained)).spec.classes)
    assert len(list((trained / "pictures").iterdir())) == 4
    assert cv2.imread(str(trained / "mistakes.jpg")) is not None
    page = (trained / "report.html").read_text()
    assert "calibration" in page
    assert "Dashed boxes" not in page


def test_evaluation_repeats_the_numbers_of_the_training(trained, tmp_path):
    again = run.evaluate(configure("eval", *TRAINER, f"ckpt={trained}/checkpoints/best.ckpt", f"output_dir={tmp_path}"))
    assert again == json.loads((trained / "metrics.json").read_text())


def test_prediction_names_the_most_likely_classes(trained, tmp_path, caplog):
    pictures = tmp_path / "photos"
    pictures.mkdir()
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 256, (50 + number, 70, 3), dtype=np.uint8)
        cv2.imwrite(str(pictures / f"{number}.png"), image[..., ::-1])
    words = ("trainer.accelerator=cpu", f"ckpt={last(trained)}", f"source={pictures}", "top_k=2", "score_threshold=0.9")
    entries = predicting.predict(configure("predict", *words, f"output_dir={tmp_path / 'out'}"))
    assert [Path(entry["file"]).name for entry in entries] == ["0.png", "1.png", "2.png"]
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["score_threshold has no effect: it is not for models of task classify"]
    model = load_model(last(trained))
    probabilities = model.predict([cv2.imread(entries[1]["file"])[..., ::-1]])[0]
    best = probabilities.argsort(descending=True)[:2].tolist()
    assert [one["label"] for one in entries[1]["classes"]] == [model.spec.classes[label] for label in best]
    assert entries[1]["classes"][0]["probability"] == pytest.approx(probabilities[best[0]].item(), abs=2e-4)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["label_1"] == entries[1]["classes"][0]["label"]
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 3
    assert json.loads((tmp_path / "out" / "origin.json").read_text())["command"].startswith("mnvision predict ")
    assert "top_k: 2" in (tmp_path / "out" / "config.yaml").read_text()


def test_a_model_that_has_diverged_tells_nothing(trained, tmp_path):
    words = diverged(last(trained), tmp_path)
    with pytest.raises(UserError, match="the model's probabilities are not finite: it has diverged"):
        predicting.predict(configure("predict", *words))
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_the_data_have_to_suit_the_task():
    with pytest.raises(ConfigError, match="task=classify cannot learn from data=shapes; choose one of shape_crops"):
        configure("train", "task=classify", "data=shapes")
    with pytest.raises(ConfigError, match="task=ssd cannot learn from data=cifar10"):
        configure("train", "task=ssd", "data=cifar10", "data.root=x")


def test_a_run_is_repeated_and_resumed_to_the_digit_with_everything_on(root, tmp_path):
    """EMA, layer-wise rates, unfreezing, mixing, balance and erasing: an interrupted run ends as one in one go."""
    words = (
        *(root, "trainer.max_epochs=4", "trainer.ema_decay=0.9", "trainer.layer_decay=0.7"),
        *("trainer.unfreeze_every_epochs=1", "data.mixup=0.2", "data.cutmix=1.0", "data.balanced=true"),
        *("data.augment=strong", "task.label_smoothing=0.1"),
    )
    numbers = train(tmp_path / "whole", *words)
    best = tmp_path / "whole" / "checkpoints" / "best.ckpt"
    assert torch.load(best, weights_only=True)["epoch"] < 3  # another one than the last
    assert run.evaluate(configure("eval", *TRAINER, f"ckpt={best}", f"output_dir={tmp_path / 'eval'}")) == numbers
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
    resumed = run.train(configure("train", f"resume={last(tmp_path / 'parts')}"))
    assert resumed == pytest.approx(numbers, rel=1e-5)
    whole, parts = (torch.load(last(tmp_path / name), weights_only=True) for name in ("whole", "parts"))
    for section in ("state_dict", "current_model_state"):
        for name, tensor in whole[section].items():
            torch.testing.assert_close(parts[section][name], tensor, rtol=1e-5, atol=1e-6)
    averaged, current = whole["state_dict"], whole["current_model_state"]
    assert not torch.equal(averaged["model.head.weight"], current["model.head.weight"])


def test_unfreezing_goes_from_the_head_to_the_stem(root, tmp_path):
    words = (root, "trainer.max_epochs=2", "optimizer.weight_decay=0", "trainer.unfreeze_every_epochs=1")
    train(tmp_path, *words)
    trained = load_model(last(tmp_path))
    torch.manual_seed(0)
    with torch.random.fork_rng():
        from lightning import seed_everything

        seed_everything(0, verbose=False)
        fresh = build_model(trained.spec)  # the weights that the run began with
    after = dict(trained.named_parameters())
    moved = {name for name, value in fresh.named_parameters() if not torch.equal(value, after[name])}
    stages = [{id(value) for part in stage for value in part.parameters()} for stage in fresh.backbone.stages]
    by_stage = [
        {name in moved for name, value in fresh.named_parameters() if id(value) in stage and value.ndim == 4}
        for stage in stages
    ]
    assert "head.weight" in moved
    assert by_stage == [{False}] * (len(stages) - 1) + [{True}]


@pytest.mark.parametrize("missing", ["use_labels=true", "use_labels=false"])
def test_distillation_with_and_without_labels(missing, trained, root, tmp_path):
    words = (root, "task=distill", f"task.teacher={last(trained)}", f"task.{missing}", "backbone.alpha=0.125")
    numbers = train(tmp_path, *words)
    assert 0 <= numbers["val/top1"] <= 1
    model = load_model(last(tmp_path))
    assert model.spec.task == "classify"
    page = (tmp_path / "report.html").read_text()
    assert f"{last(trained)}: classes at temperature 4, weight 0.7, " in page
    assert ("no labels" in page) == (missing == "use_labels=false")
    assert model.spec.classes == load_model(last(trained)).spec.classes
    assert not any("teacher" in name for name in torch.load(last(tmp_path), weights_only=True)["state_dict"])
    if missing == "use_labels=false":
        with (tmp_path / "metrics.csv").open() as file:
            assert "train/class_loss" not in file.readline()


def test_a_cached_teacher_gives_the_same_student(trained, root, tmp_path, monkeypatch):
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path / "cache"))
    words = (root, "task=distill", f"task.teacher={last(trained)}", "backbone.alpha=0.125", "data.augment=none")
    words += ("task.embedding_weight=0.5", "optimizer=sgd")  # Adam's first steps make much of the last bit
    live = train(tmp_path / "live", *words)
    kept = train(tmp_path / "kept", *words, "task.cache_teacher=true")
    [file] = (tmp_path / "cache" / "teachers").iterdir()
    changed = file.stat().st_mtime_ns
    assert kept == pytest.approx(live, rel=1e-5, abs=1e-5)
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "live"), rel=1e-5)
    again = train(tmp_path / "again", *words, "task.cache_teacher=true")
    assert again == kept
    assert file.stat().st_mtime_ns == changed  # asked once
    with pytest.raises(UserError, match="data.augment=none"):
        train(tmp_path / "x", *words, "data.augment=flip", "task.cache_teacher=true")
    with pytest.raises(UserError, match="trainer.progressive_rho=null"):
        train(tmp_path / "x", *words, "trainer.progressive_rho=[1,2]", "task.cache_teacher=true")


def test_a_teacher_has_the_class_head_of_its_weights(trained, tmp_path):
    model = load_model(last(trained))
    names = list(model.spec.classes)
    own = ("task=distill", f"task.teacher={last(trained)}", "task.teacher_backbone=mobilenet_v1")

    def teacher(file: str, *words: str):
        return build_teacher(configure("train", *own, f"task.teacher={file}", "task.teacher_alpha=0.25", *words))

    found = teacher(last(trained))
    assert found.spec.classes == tuple(names)
    assert torch.equal(found.head.weight, model.head.weight)
    for wrong in ([*names, "more"], names[:-1] + ["else"]):
        with pytest.raises(UserError, match=f"no column for 1 of these {len(wrong)} names, such as '{wrong[-1]}'"):
            teacher(last(trained), f"task.teacher_classes=[{','.join(wrong)}]")
    bare = tmp_path / "bare.pt"
    torch.save(model.state_dict(), bare)
    with pytest.raises(UserError, match=r"does not name its classes; give task\.teacher_classes"):
        teacher(str(bare))
    with pytest.raises(UserError, match="no column for"):
        teacher(str(bare), "task.teacher_classes=[a,b]")
    words = (f"task.teacher_classes=[{','.join(names)}]", "task.teacher_image_size=64")
    assert torch.equal(teacher(str(bare), *words).head.weight, model.head.weight)
    assert teacher(str(bare), *words).preprocessing.size == 64


def test_training_from_shards(trained, root, tmp_path, caplog):
    """Shards of the generated pictures' files: written, streamed, measured, predicted alike."""
    photos, random = tmp_path / "photos", np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 7)):
        for name in ("dark", "light"):
            folder = photos / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = random.integers(0, 120, (40, 50, 3)) + (0 if name == "dark" else 130)
                cv2.imwrite(str(folder / f"{number}.png"), image.astype(np.uint8))
    data = ("data=image_folder", f"data.root={photos}")
    for split, count in (("train", 40), ("val", 14)):
        words = (*data, f"output_dir={tmp_path / 'shards'}", f"split={split}", "pictures_per_shard=6")
        assert sharding.write_shards(configure("shards", *words)) == {"shards": -(-count // 6), "pictures": count}
    common = ("data.num_workers=2", "data.batch_size=8", "trainer.max_epochs=2", "task.image_size=32", *TRAINER[:2])
    common += ("task=classify", "backbone.alpha=0.25", "backbone.norm_momentum=0.5", "optimizer.lr=0.003")
    words = (*common, "data=shards", f"data.root={tmp_path / 'shards'}", "data.augment=none")
    cfg = configure("train", *words, f"output_dir={tmp_path / 'run'}")
    module = build.build_data(cfg, preprocessing=build.build_preprocessing(cfg))
    with caplog.at_level(logging.INFO):
        module.setup("fit")
    assert "train: 40 pictures in 7 shards, 2 classes" in caplog.text
    for batches in (list(module.train_dataloader()), list(module.val_dataloader())):
        for batch in batches:
            assert (batch.images.float().mean(dim=(1, 2, 3)) > 125).tolist() == (batch.targets.labels == 1).tolist()
    numbers = run.train(cfg)
    assert np.isfinite(numbers["val/loss"])
    rows = json.loads((tmp_path / "run" / "predictions.json").read_text())
    assert len(rows) == 14
    assert all(f"/{row['truth']}/" in row["file"] for row in rows)
    shard = tmp_path / "shards" / "train-000003.tar"
    shard.write_bytes(shard.read_bytes()[:-2000])
    with pytest.raises(UserError, match="train-000003.tar has .* bytes that index.json beside it says"):
        run.train(configure("train", *words, f"output_dir={tmp_path / 'cut'}"))
    assert not (tmp_path / "cut").exists()
    run.train(configure("train", *words, "data.bad_images=skip", f"output_dir={tmp_path / 'cut'}"))
    again = run.evaluate(
        configure("eval", *TRAINER, *data, f"ckpt={last(tmp_path / 'run')}", f"output_dir={tmp_path / 'eval'}")
    )
    streamed = run.evaluate(
        configure("eval", *TRAINER, f"ckpt={last(tmp_path / 'run')}", f"output_dir={tmp_path / 'eval2'}")
    )
    assert again == pytest.approx(streamed, rel=1e-4)


def test_keys_of_a_checkpoints_own_data_can_be_changed(trained, tmp_path, monkeypatch, capfd):
    ckpt = f"ckpt={trained}/checkpoints/best.ckpt"
    monkeypatch.setattr("sys.argv", ["mnvision", "eval", ckpt, "data.batch_size=3", *TRAINER, f"output_dir={tmp_path}"])
    cli.main()
    assert "batch_size: 3" in (tmp_path / "config.yaml").read_text()
    assert json.loads((tmp_path / "metrics.json").read_text()) == pytest.approx(
        json.loads((trained / "metrics.json").read_text()), rel=1e-4
    )


def test_a_loss_that_is_not_finite_names_the_pictures(root, tmp_path):
    with pytest.raises(UserError, match="the loss is not finite at epoch 0.*Look at their pixels"):
        train(tmp_path, root, "optimizer=sgd", "optimizer.lr=1e30", "trainer.gradient_clip=null")


def test_a_resumed_run_fills_with_the_same_colour(root, tmp_path):
    words = (root, "data.mean=[10,20,30]", "data.std=[60,60,60]", "data.augment=strong", "data.erasing=1.0")
    cfg = configure("train", *TINY, *words, f"output_dir={tmp_path}")
    fills = []
    with pytest.MonkeyPatch.context() as patch:
        original = ClassDataModule.train_dataloader

        def noted(module):
            fills.append(module.view(training=True).fill)
            return original(module)

        patch.setattr(ClassDataModule, "train_dataloader", noted)
        run.train(cfg)
        run.train(configure("train", f"resume={last(tmp_path)}", "trainer.max_epochs=3"))
    assert set(fills) == {(10, 20, 30)}


def test_pictures_without_a_class_teach_a_student(trained, root, tmp_path):
    folder = tmp_path / "photos" / "train"
    folder.mkdir(parents=True)
    for number in range(8):
        cv2.imwrite(str(folder / f"{number}.png"), np.random.default_rng(number).integers(0, 255, (40, 40, 3)))
    for name in ("circle", "unheard of"):
        (tmp_path / "photos" / "val" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "photos" / "val" / name / "0.png"), np.zeros((40, 40, 3)))
    words = ("task=distill", f"task.teacher={last(trained)}", "task.use_labels=false", "data=image_folder")
    own = ("data.num_workers=0", "data.batch_size=4", "task.image_size=32", "backbone.alpha=0.125", *TRAINER)
    run.train(configure("train", *words, *own, f"data.root={tmp_path / 'photos'}", f"output_dir={tmp_path / 'run'}"))
    rows = json.loads((tmp_path / "run" / "predictions.json").read_text())
    assert [row["truth"] for row in rows] == ["circle", None]


def test_what_a_kept_teacher_depends_on(trained, root):
    cfg = configure("train", *TINY, root)
    data = build.build_data(cfg, preprocessing=build.build_preprocessing(cfg))
    pictures, teacher = data.load_split("train"), load_model(last(trained))
    known = {"folder": data.image_folder("train"), "seen": data.preprocessing, "margin": 0.1}
    names = {outputs_file(teacher, pictures, **known)}
    names.add(outputs_file(teacher, pictures, **{**known, "margin": None}))
    names.add(outputs_file(teacher, pictures, **{**known, "seen": replace(data.preprocessing, size=40)}))
    names.add(outputs_file(teacher, replace(pictures, boxes=pictures.boxes + 1), **known))
    names.add(outputs_file(teacher, pictures.take(np.arange(5)), **known))
    teacher.preprocessing = replace(teacher.preprocessing, mean=(1.0, 2.0, 3.0))
    names.add(outputs_file(teacher, pictures, **known))
    teacher.head.bias.data += 1
    names.add(outputs_file(teacher, pictures, **known))
    assert len(names) == 7
    assert outputs_file(teacher, pictures, **known) in names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.mean=[127]"], "data.mean: expected three numbers, of red, green and blue; got [127]"),
        (["data.balanced=true", "task.class_weights=balanced"], "data.balanced=true makes up for rare classes already"),
        (["data=shards", "data.root=https://x.org/set"], "data.root: expected a folder, got https://x.org/set; shards"),
        (["task=ssd", "data=shapes", "trainer.progressive_rho=[0.5,1]"], "task=ssd has boxes that would not shrink"),
    ],
)
def test_bad_values(words, message):
    with pytest.raises(ConfigError) as error:
        configure("train", "task=classify", *words)
    assert message in str(error.value)


def test_weights_of_a_detector_are_refused(tmp_path):
    save_model(create_model("ssd", alpha=0.25, num_classes=2, image_size=64), tmp_path / "ssd.ckpt")
    weights = f"task.weights={tmp_path / 'ssd.ckpt'}"
    with pytest.raises(UserError, match=r"ssd\.ckpt are weights of task ssd, not of classify: give task=ssd, or backb"):
        train(tmp_path / "run", weights)


def test_own_data_are_measured_again_and_gone_on_with(tmp_path):
    """Without saying again where the data are."""
    for split, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = np.random.default_rng(number).integers(0, 255, (40, 40, 3))
                cv2.imwrite(str(folder / f"{number}.png"), image)
    words = ("task=classify", "data=image_folder", f"data.root={tmp_path / 'photos'}", "data.num_workers=0")
    words += ("data.batch_size=4", "task.image_size=32", "backbone.alpha=0.25", *TRAINER)

    def start(*arguments: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["mnvision", *arguments])
            cli.main()

    start("train", *words, "trainer.max_epochs=1", f"output_dir={tmp_path / 'run'}")
    first = json.loads((tmp_path / "run" / "metrics.json").read_text())
    ckpt = tmp_path / "run" / "checkpoints" / "last.ckpt"
    start("eval", f"ckpt={ckpt}", f"output_dir={tmp_path / 'eval'}")
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text()) == pytest.approx(first)
    start("train", f"resume={ckpt}")  # all its epochs are done
    assert len(losses(tmp_path / "run")) == 1
    start("train", *words, f"resume={ckpt}", "trainer.max_epochs=2")  # what was typed once, and more epochs
    assert len(losses(tmp_path / "run")) == 2
    start("train", f"resume={ckpt}", "trainer.max_epochs=3")
    assert len(losses(tmp_path / "run")) == 3
