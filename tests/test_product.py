"""The promise of the shared registry: every form of every detector on every backbone, at two widths, end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mnvision import list_backbones, load_model, run
from mnvision.errors import UserError
from tests.runs import DATA, TRAINER, configure

FORMS = [("ssd", "paper"), ("ssd", "lite"), ("ssd", "fpn"), ("faster_rcnn", "c4"), ("faster_rcnn", "fpn")]
STEP = (
    *("trainer.max_epochs=1", "trainer.limit_train_batches=1", "task.image_size=64", "task.score_threshold=0"),
    "optimizer.lr=0.0001",  # a fresh network survives one step of it
)
# Few regions, none of them too unlikely: quick, and there is always something to compare.
REGIONS = ("task.proposals=20", "task.train_proposals=20", "task.roi_batch=8", "task.rpn_score_threshold=0")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    """Where the generated pictures are kept."""
    return f"data.root={tmp_path_factory.mktemp('shapes')}"


# For classification alone, which tests/backbones/test_registry.py shows that every detector says.
CLASSIFY = ("mobilenet_cifar", "squeezenet")
BACKBONES = [name for name in list_backbones() if name not in CLASSIFY]
# The width of a timm model stands in its name.
TIMM = {0.25: "mobilenetv3_small_050", 0.5: "mobilenetv3_small_075"}


@pytest.mark.parametrize("alpha", [0.25, 0.5])
@pytest.mark.parametrize("backbone", [*BACKBONES, "timm"])
@pytest.mark.parametrize(("task", "form"), FORMS)
def test_trains_evaluates_saves_loads_and_predicts_the_same(task, form, backbone, alpha, root, tmp_path):
    width = f"backbone.name={TIMM[alpha]}" if backbone == "timm" else f"backbone.alpha={alpha}"
    words = (f"task={task}", f"task.form={form}", f"backbone={backbone}", width, root)
    words += REGIONS if task == "faster_rcnn" else ()
    words += () if backbone == "timm" else ("backbone.norm_momentum=1.0",)  # statistics that fit after one step
    folder = tmp_path / "run"
    if (backbone, form) == ("timm", "c4"):  # whose stages cannot be run one by one
        with pytest.raises(UserError, match="task.form=c4"):
            run.train(configure("train", *DATA, *TRAINER, *STEP, *words, f"output_dir={folder}"))
        return
    trained = run.train(configure("train", *DATA, *TRAINER, *STEP, *words, f"output_dir={folder}"))
    assert np.isfinite(trained["val/loss"])

    ckpt = folder / "checkpoints" / "last.ckpt"
    again = run.evaluate(configure("eval", *TRAINER, f"ckpt={ckpt}", f"output_dir={tmp_path / 'eval'}"))
    assert again["val/loss"] == pytest.approx(trained["val/loss"], rel=1e-5)
    first, second = (json.loads((place / "predictions.json").read_text()) for place in (folder, tmp_path / "eval"))
    assert first
    assert first == second

    model = load_model(ckpt)
    assert (model.spec.task, model.form) == (task, form)
    assert model.spec.backbone_options["name"] == (TIMM[alpha] if backbone == "timm" else backbone)
    picture = np.random.default_rng(0).integers(0, 256, (48, 72, 3), dtype=np.uint8)
    with torch.no_grad():
        found = model.predict([picture], score_threshold=0.0)[0]
        twice = load_model(ckpt).predict([picture], score_threshold=0.0)[0]
    assert len(found.scores) > 0
    for left, right in zip(vars(found).values(), vars(twice).values(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
