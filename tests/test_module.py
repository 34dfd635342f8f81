from __future__ import annotations

import logging
import math

import lightning as L  # noqa: N812
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from mnvision.backbones.layers import is_depthwise
from mnvision.errors import UserError
from mnvision.models.create import create_model
from mnvision.models.ssd import SSD
from mnvision.module import VisionModule
from mnvision.types import Batch, Labels
from tests.runs import batch, detector, state


@pytest.fixture(autouse=True)
def _quiet():
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Recorder(Callback):
    """Keeps the learning rates of each step, and what was logged after each step and each epoch."""

    def __init__(self):
        self.rates: list[list[float]] = []
        self.steps: list[float] = []
        self.epochs: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(trainer.logged_metrics["train/loss_step"].item())

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append({name: value.item() for name, value in trainer.callback_metrics.items()})


class Counts:
    """A metric that counts what it is fed."""

    def __init__(self):
        self.log: list = []
        self.reset()

    def reset(self):
        self.pictures = self.boxes = 0
        self.log.append("reset")

    def update(self, predictions, targets):
        assert len(predictions) == len(targets.image_ids)
        self.pictures += len(predictions)
        self.sizes = [tuple(prediction.boxes.amax(0).tolist()) for prediction in predictions if len(prediction.boxes)]

    def compute(self):
        self.log.append(self.pictures)
        return {"map": 0.25, "pictures": float(self.pictures)}


def sgd(lr=0.01, **options):
    return lambda groups: torch.optim.SGD(groups, lr=lr, **options)


def fit(module: VisionModule, batches: list[Batch], *, epochs=1, val: list[Batch] | None = None, **options) -> Recorder:
    """Train on these very batches."""
    recorder = Recorder()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[recorder],
        **options,
    )
    loaders = [DataLoader(part, batch_size=None) if part is not None else None for part in (batches, val)]
    trainer.fit(module, *loaders)
    return recorder


# steps


def test_the_loss_is_the_sum_of_the_models_losses():
    module = VisionModule(detector(), make_optimizer=sgd(0.0))
    given = batch()
    recorder = fit(module, [given])
    model = detector()  # with the statistics of the start
    parts = model.losses(given.images, given.targets)
    assert recorder.steps == [pytest.approx(sum(parts.values()).item(), rel=1e-5)]
    [means] = recorder.epochs
    assert means["train/class_loss"] == pytest.approx(parts["class_loss"].item(), rel=1e-5)
    assert means["train/box_loss"] == pytest.approx(parts["box_loss"].item(), rel=1e-5)


def test_an_epochs_loss_is_the_mean_over_pictures():
    module = VisionModule(detector(), make_optimizer=sgd())
    batches = [batch(seed=1), batch(counts=(1, 2), seed=2), batch(counts=(2,) * 4, seed=3)]
    recorder = fit(module, batches, epochs=2)
    for epoch in range(2):
        steps = recorder.steps[3 * epoch : 3 * epoch + 3]
        mean = (3 * steps[0] + 2 * steps[1] + 4 * steps[2]) / 9
        assert recorder.epochs[epoch]["train/loss"] == pytest.approx(mean, rel=1e-5)
        assert "train/loss_epoch" not in recorder.epochs[epoch]


def test_training_lowers_the_loss():
    module = VisionModule(detector(), make_optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.003))
    recorder = fit(module, [batch()], epochs=15)
    assert recorder.steps[-1] < 0.7 * recorder.steps[0]


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "focal"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_batch_of_empty_pictures(loss, decay):
    model = detector(task_options={"loss": loss})
    before = state(model)
    recorder = fit(VisionModule(model, make_optimizer=sgd(weight_decay=decay)), [batch(counts=(0, 0))])
    assert math.isfinite(recorder.steps[0])
    if loss != "focal":  # that learns from background alone, too
        assert recorder.steps == [0.0]
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        if loss != "focal":
            kept = 1 - 0.01 * decay if parameter.ndim == 4 and not is_depthwise_weight(model, name) else 1.0
            assert torch.allclose(parameter, before[name] * kept, rtol=1e-6, atol=0), name


def test_a_step_of_one_picture_is_refused():
    with pytest.raises(UserError, match=r"one picture is too small .* set data\.batch_size to 2 or more"):
        fit(VisionModule(detector(), make_optimizer=sgd()), [batch(counts=(1,))])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("fused", [False, True])
def test_the_gradient_is_no_longer_than_the_limit(precision, fused):
    model = detector()
    before = state(model)
    module = VisionModule(model, make_optimizer=sgd(1.0, fused=fused), selective_weight_decay=False)
    fit(module, [batch()], precision=precision, gradient_clip_val=0.25)
    moved = [(weight - before[name]).square().sum() for name, weight in model.named_parameters()]
    assert torch.stack(moved).sum().sqrt().item() == pytest.approx(0.25, rel=1e-3)


def is_depthwise_weight(model: nn.Module, name: str) -> bool:
    return is_depthwise(model.get_submodule(name.rpartition(".")[0]))


def test_channels_last_reaches_model_and_pictures(monkeypatch):
    seen = []
    monkeypatch.setattr(
        SSD, "normalise", lambda model, images: seen.append(images.stride()) or (images - model.mean) / model.std
    )
    for channels_last, stride in ((True, 1), (False, 64 * 64)):
        module = VisionModule(detector(), make_optimizer=sgd(), channels_last=channels_last)
        weight = module.model.extras[0].expand.conv.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
        fit(module, [batch()])
        assert seen.pop()[1] == stride


# evaluation


def test_evaluation_feeds_the_metric_once_an_epoch():
    metric = Counts()
    module = VisionModule(detector(), metric=metric, make_optimizer=sgd())
    recorder = fit(module, [batch()], epochs=2, val=[batch(counts=(1, 0)), batch(counts=(2,), seed=5)])
    assert metric.log == ["reset", "reset", 3, "reset", 3]
    for numbers in recorder.epochs:
        assert numbers["val/map"] == 0.25
        assert numbers["val/pictures"] == 3
    assert max(width for width, *_ in metric.sizes) <= 128  # in original pixels, which are twice as wide
    assert max(x2 for _, _, x2, _ in metric.sizes) > 64


def test_evaluation_measures_the_losses_in_evaluation_mode():
    model = detector()
    module = VisionModule(model, make_optimizer=sgd(0.0))
    batches = [batch(counts=(1, 3)), batch(counts=(2,), seed=5)]
    recorder = fit(module, [batch()], val=batches)
    model.eval()
    expected = [sum(model.losses(each.images, each.targets).values()).item() for each in batches]
    [numbers] = recorder.epochs
    assert numbers["val/loss"] == pytest.approx((2 * expected[0] + expected[1]) / 3, rel=1e-5)
    assert numbers["val/loss"] == pytest.approx(numbers["val/class_loss"] + numbers["val/box_loss"], rel=1e-5)


def test_a_classifier_trains_with_the_same_module():
    torch.manual_seed(0)
    model = create_model("classify", alpha=0.25, num_classes=3, image_size=64)
    module = VisionModule(model, make_optimizer=sgd(0.05))
    recorder = fit(module, [Batch(batch().images, Labels(torch.tensor([0, 1, 2]), torch.arange(3)))], epochs=10)
    assert recorder.steps[-1] < recorder.steps[0]


# losses that are not finite


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "focal"])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_the_picture_with_a_broken_box_is_named(loss, poison):
    given = batch(counts=(2, 1, 3, 2))
    given.targets.boxes[2, 1, 2] = poison
    module = VisionModule(detector(task_options={"loss": loss}), make_optimizer=sgd())
    with pytest.raises(UserError) as raised:
        fit(module, [batch(seed=7), given])
    message = str(raised.value)
    assert message.startswith("the loss is not finite at epoch 0, step 1 (class_loss ")
    assert "image ids 102. Look at their boxes" in message


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "focal"])
def test_the_picture_with_a_broken_output_is_named(loss, monkeypatch):
    module = VisionModule(detector(task_options={"loss": loss}), make_optimizer=sgd())
    original, given = SSD.forward, batch(counts=(2, 1, 3))

    def forward(model, images):
        output = original(model, images)
        second = (images == given.images[1]).flatten(1).all(1)
        poison = torch.zeros(len(images), 1, 1).masked_fill_(second[:, None, None], math.nan)
        return type(output)(output.logits + poison, output.offsets)

    monkeypatch.setattr(SSD, "forward", forward)
    with pytest.raises(UserError, match=r"image ids 101\. Look"):
        fit(module, [given])


def test_broken_weights_are_every_pictures_fault():
    model = detector()
    with torch.no_grad():
        model.backbone.stem.conv.weight.fill_(math.nan)
    with pytest.raises(UserError, match=r"image ids 100, 101, 102\. Look"):
        fit(VisionModule(model, make_optimizer=sgd()), [batch()])


@pytest.mark.parametrize(("epochs", "expected"), [(3, [32, 64, 96]), (4, [32, 32, 64, 96]), (2, [32, 64])])
def test_pictures_grow_in_equal_parts_of_the_training(epochs, expected):
    torch.manual_seed(0)
    model = create_model("classify", alpha=0.25, num_classes=3, image_size=96)
    sides = []
    model.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]) if model.training else None)
    module = VisionModule(model, make_optimizer=sgd(0.01), progressive=(0.3, 0.667, 1))
    fit(module, [Batch(batch(size=96).images, Labels(torch.tensor([0, 1, 2]), torch.arange(3)))], epochs=epochs)
    assert sides == expected


def test_sizes_that_are_too_small_show_at_once():
    with pytest.raises(UserError, match="rho 0.1 of 96 pixels"):
        VisionModule(create_model("classify", alpha=0.25, num_classes=3, image_size=96), progressive=(1, 0.1))


def test_the_loss_of_two_processes_is_the_mean_over_all_known_pictures():
    """Two known pictures on the one and three on the other."""
    torch.manual_seed(0)
    model = create_model("classify", alpha=0.25, num_classes=3, image_size=32).eval()
    images = batch(size=32, counts=(1,) * 8).images
    labels = torch.tensor([0, -1, 1, 2, 0, -1, -1, 1])
    known = model.losses(images[labels >= 0], Labels(labels[labels >= 0], torch.arange(5)))["class_loss"].item()
    parts = [slice(first, first + 2) for first in range(0, 8, 2)]
    batches = [Batch(images[rows], Labels(labels[rows], torch.arange(8)[rows])) for rows in parts]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp_spawn", **quiet)
    [numbers] = trainer.validate(VisionModule(model), DataLoader(batches, batch_size=None), verbose=False)
    assert numbers["val/loss"] == pytest.approx(known, rel=1e-5)


def test_pictures_without_a_class_do_not_count_in_the_loss():
    torch.manual_seed(0)
    model = create_model("classify", alpha=0.25, num_classes=3, image_size=32).eval()
    images = batch(size=32, counts=(1,) * 4).images
    labels = torch.tensor([0, -1, -1, -1])
    known = model.losses(images[:1], Labels(labels[:1], torch.arange(1)))["class_loss"].item()
    batches = [Batch(images[rows], Labels(labels[rows], torch.arange(4)[rows])) for rows in (slice(2), slice(2, 4))]
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    [numbers] = trainer.validate(VisionModule(model), DataLoader(batches, batch_size=None), verbose=False)
    assert numbers["val/loss"] == pytest.approx(known, rel=1e-5)


# optimiser


def names_of(module: VisionModule) -> list[set[str]]:
    name_of = {id(parameter): name for name, parameter in module.model.named_parameters()}
    return [{name_of[id(parameter)] for parameter in group["params"]} for group in module.parameter_groups()]


@pytest.mark.parametrize("form", ["paper", "lite"])
def test_what_weight_decay_leaves_out(form):
    module = VisionModule(detector(task_options={"form": form}))
    decayed, kept = names_of(module)
    groups = module.parameter_groups()
    assert "weight_decay" not in groups[0]
    assert groups[1]["weight_decay"] == 0.0
    assert decayed.isdisjoint(kept)
    assert decayed | kept == {name for name, _ in module.model.named_parameters()}
    assert all(name.endswith(("conv.weight", "pointwise.weight")) for name in decayed)
    assert not any(name.endswith("depthwise.conv.weight") for name in decayed)
    assert {name for name in kept if name.endswith("conv.weight")} == {
        name for name, _ in module.model.named_parameters() if name.endswith("depthwise.conv.weight")
    }
    assert {"backbone.stem.norm.weight", "backbone.stem.norm.bias", "heads.0.classes.pointwise.bias"} <= kept
    assert {"backbone.stem.conv.weight", "heads.0.classes.pointwise.weight", "extras.0.reduce.conv.weight"} <= decayed
    assert len(decayed) == (1 + 13 + 8 + 12)  # stem, pointwise layers, extras, predictors


def test_weight_decay_for_all():
    module = VisionModule(detector(), selective_weight_decay=False)
    [group] = names_of(module)
    assert group == {name for name, _ in module.model.named_parameters()}
    assert "weight_decay" not in module.parameter_groups()[0]


def test_frozen_parameters_are_in_no_group():
    model = detector(backbone_options={"freeze": 2, "norm": "freeze"})
    names = set().union(*names_of(VisionModule(model)))
    assert names == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "backbone.stem.conv.weight" not in names
    assert not any(".norm." in name for name in names if name.startswith("backbone."))


def test_every_step_has_its_rate():
    calls = []

    def schedule(step, steps, per_epoch):
        calls.append((step, steps, per_epoch))
        return 1.0 / (step + 1)

    module = VisionModule(detector(), make_optimizer=sgd(0.8), schedule=schedule)
    recorder = fit(module, [batch(seed=1), batch(seed=2)], epochs=2)
    assert recorder.rates == [[pytest.approx(0.8 / (step + 1))] * 2 for step in range(4)]
    assert {call[1:] for call in calls} == {(4, 2.0)}


def test_part_of_an_epoch_makes_fewer_steps():
    calls = set()
    module = VisionModule(
        detector(), make_optimizer=sgd(), schedule=lambda step, steps, per_epoch: calls.add((steps, per_epoch)) or 1.0
    )
    fit(module, [batch(seed=seed) for seed in range(4)], epochs=2, limit_train_batches=3)
    assert calls == {(6, 3.0)}


def test_without_a_schedule_the_rate_stays():
    recorder = fit(VisionModule(detector(), make_optimizer=sgd(0.3)), [batch(), batch()])
    assert recorder.rates == [[0.3, 0.3]] * 2


def test_without_an_optimiser_it_only_evaluates():
    with pytest.raises(RuntimeError, match="it can evaluate, not train"):
        fit(VisionModule(detector()), [batch()])
