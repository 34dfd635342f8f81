"""The promise of the shared registry: every form of every task on every backbone, at two widths, end to end."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from mnvision import list_backbones, load_model, run
from mnvision.errors import UserError
from tests.runs import DATA, TRAINER, configure

FORMS = [("ssd", "paper"), ("ssd", "lite"), ("ssd", "fpn"), ("faster_rcnn", "c4"), ("faster_rcnn", "fpn")]
TASKS = {  # of every task, the words that differ; in bfloat16
    "ssd": ("task=ssd", "task.form=paper"),
    "ssd_lite": ("task=ssd", "task.form=lite"),
    "faster_rcnn": ("task=faster_rcnn", "task.form=fpn"),
    "classify": ("task=classify",),
    "distill": ("task=distill", "task.embedding_weight=0.5"),
    "arcface": ("task=embed", "task.loss=arcface"),
    "triplet": ("task=embed", "task.loss=triplet"),
    "attributes": ("task=attributes",),
    "geolocate": ("task=geolocate", "task.soft_labels_km=75"),
}
FACES = ("data.train_identities=8", "data.val_identities=4", "data.pictures=4", "data.num_workers=0")
OWN_DATA = {
    "embed": (*FACES, "data.batch_size=8", "data.pair_count=20"),
    "attributes": (*FACES, "data.batch_size=8"),
    "geolocate": (
        *("data.train_count=200", "data.val_count=8", "data.canvas=32", "data.batch_size=16", "data.num_workers=0"),
    ),
}
STEP = (
    *("trainer.max_epochs=1", "trainer.limit_train_batches=1", "task.image_size=64"),
    "optimizer.lr=0.0001",  # a fresh network survives one step of it
)
# Few regions, none of them too unlikely: quick, and there is always something to compare.
REGIONS = ("task.proposals=20", "task.train_proposals=20", "task.roi_batch=8", "task.rpn_score_threshold=0")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    """Where the generated pictures are kept."""
    return f"data.root={tmp_path_factory.mktemp('shapes')}"


# The width of a timm model stands in its name, and SqueezeNet has one alone.
TIMM = {"narrow": "mobilenetv3_small_050", "wide": "mobilenetv3_small_075"}
LARGE = tuple(f"mobilenet_v4_{name}" for name in ("conv_medium", "conv_large", "hybrid_medium", "hybrid_large"))
FOR_CLASSES_ALONE = ("mobilenet_cifar", "squeezenet")
DETECTORS = [name for name in list_backbones() if name not in FOR_CLASSES_ALONE]


def width_of(backbone: str, width: str) -> str:
    if backbone == "timm":
        return f"backbone.name={TIMM[width]}"
    if backbone == "squeezenet":
        return "backbone.version=1.0" if width == "wide" else "backbone.version=1.1"
    return f"backbone.alpha={(0.25 if width == 'wide' else 0.125) * (1 if backbone in LARGE else 2)}"


def train_and_measure_again(words: tuple[str, ...], tmp_path) -> str:
    """Train one step and evaluate twice: the same numbers and predictions; returns the checkpoint."""
    folder = tmp_path / "run"
    trained = run.train(configure("train", *DATA, *TRAINER, *STEP, *words, f"output_dir={folder}"))
    assert np.isfinite(trained["val/loss"])
    ckpt = folder / "checkpoints" / "last.ckpt"
    again = run.evaluate(configure("eval", *TRAINER, f"ckpt={ckpt}", f"output_dir={tmp_path / 'eval'}"))
    assert again["val/loss"] == pytest.approx(trained["val/loss"], rel=1e-5)
    first, second = (json.loads((place / "predictions.json").read_text()) for place in (folder, tmp_path / "eval"))
    assert first
    assert first == second
    return str(ckpt)


@pytest.mark.parametrize("width", ["narrow", "wide"])
@pytest.mark.parametrize("backbone", [*DETECTORS, *FOR_CLASSES_ALONE, "timm"])
def test_classifiers(backbone, width, root, tmp_path):
    words = ("task=classify", f"backbone={backbone}", width_of(backbone, width), root)
    ckpt = train_and_measure_again(words, tmp_path)
    model = load_model(ckpt)
    assert model.spec.task == "classify"
    picture = np.random.default_rng(0).integers(0, 256, (48, 72, 3), dtype=np.uint8)
    found, twice = model.predict([picture]), load_model(ckpt).predict([picture])
    assert found.sum().item() == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(found, twice, rtol=0, atol=0)


@pytest.mark.parametrize("width", ["narrow", "wide"])
@pytest.mark.parametrize("backbone", [*DETECTORS, "timm"])
@pytest.mark.parametrize(("task", "form"), FORMS)
def test_detectors(task, form, backbone, width, root, tmp_path):
    words = (f"task={task}", f"task.form={form}", f"backbone={backbone}", width_of(backbone, width), root)
    words += ("task.score_threshold=0",)
    words += REGIONS if task == "faster_rcnn" else ()
    words += () if backbone == "timm" else ("backbone.norm_momentum=1.0",)  # statistics that fit after one step
    if (backbone, form) == ("timm", "c4"):  # whose stages cannot be run one by one
        with pytest.raises(UserError, match="task.form=c4"):
            run.train(configure("train", *DATA, *TRAINER, *STEP, *words, f"output_dir={tmp_path}"))
        return
    ckpt = train_and_measure_again(words, tmp_path)
    model = load_model(ckpt)
    assert (model.spec.task, model.form) == (task, form)
    assert model.spec.backbone_options["name"] == (TIMM[width] if backbone == "timm" else backbone)
    picture = np.random.default_rng(0).integers(0, 256, (48, 72, 3), dtype=np.uint8)
    with torch.no_grad():
        found = model.predict([picture], score_threshold=0.0)[0]
        twice = load_model(ckpt).predict([picture], score_threshold=0.0)[0]
    assert len(found.scores) > 0
    for left, right in zip(vars(found).values(), vars(twice).values(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


@pytest.fixture(scope="module")
def teacher(root, tmp_path_factory) -> str:
    """A classifier that was trained for one step in bfloat16."""
    folder = tmp_path_factory.mktemp("teacher")
    words = ("task=classify", "backbone.alpha=0.25", "trainer.precision=bf16", root, f"output_dir={folder}")
    run.train(configure("train", *DATA, *TRAINER, *STEP, *words))
    return f"task.teacher={folder}/checkpoints/last.ckpt"


@pytest.mark.parametrize("name", TASKS)
def test_every_task_in_bfloat16(name, request, tmp_path):
    """The default on processors and GPUs that are fast at it."""
    words = TASKS[name]
    data = OWN_DATA.get(words[0].removeprefix("task="))
    words += REGIONS if name == "faster_rcnn" else ()
    words += (request.getfixturevalue("teacher"),) if name == "distill" else ()
    words += (*DATA, request.getfixturevalue("root")) if data is None else (*data, f"data.root={tmp_path / 'data'}")
    folder = tmp_path / "run"
    words = (*TRAINER, *STEP, *words, "trainer.precision=bf16", "backbone.alpha=0.25", f"output_dir={folder}")
    trained = run.train(configure("train", *words))
    ckpt = folder / "checkpoints" / "last.ckpt"
    for weights in load_model(ckpt).state_dict().values():
        assert torch.isfinite(weights).all()
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(value) for row in rows for key, value in row.items() if key.endswith("loss") and value]
    assert losses
    assert np.isfinite(losses).all()
    again = run.evaluate(
        configure("eval", *TRAINER, "trainer.precision=bf16", f"ckpt={ckpt}", f"output_dir={tmp_path / 'eval'}")
    )
    assert set(again) <= set(trained)
    assert np.isfinite(list(again.values())).all()
