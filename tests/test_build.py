from __future__ import annotations

import csv
import math

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from mnvision import build, hardware, steering
from mnvision.checkpoint import save_model
from mnvision.data.loaders import EpochSampler
from mnvision.errors import UserError
from mnvision.models.create import create_model
from mnvision.steering import BestCheckpoint, LastCheckpoint
from mnvision.types import Preprocessing
from tests.runs import TINY, configure

# schedules


def factors(name: str, *steps: int, total: int = 100, per_epoch: float = 10.0, **options) -> list[float]:
    """The factors at some steps of a training of ``total`` steps."""
    defaults = {"warmup_epochs": 0.0, "gamma": 0.5, "every_epochs": 2.5, "milestones": [3, 6], "final_factor": 0.1}
    schedule = build.build_schedule({"scheduler": {"name": name, **defaults, **options}})
    return [schedule(step, total, per_epoch) for step in steps]


def test_constant():
    assert factors("constant", 0, 1, 50, 99, 100) == [1.0] * 5


def test_cosine():
    # 0.1 + 0.9 (1 + cos(pi t)) / 2 at t = 0, 1/4, 1/2, 3/4, 1
    half = math.sqrt(0.5)
    expected = [1.0, 0.55 + 0.45 * half, 0.55, 0.55 - 0.45 * half, 0.1]
    assert factors("cosine", 0, 25, 50, 75, 100) == pytest.approx(expected)
    assert factors("cosine", 150) == pytest.approx([0.1])  # it stays there
    assert factors("cosine", 100, final_factor=0.0) == pytest.approx([0.0])


def test_exponential():
    # falls after 25, 50 and 75 steps
    assert factors("exponential", 0, 24, 25, 49, 50, 99) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.125]
    assert factors("exponential", 9, 10, 20, every_epochs=1) == [1.0, 0.5, 0.25]


def test_exponential_falls_on_time_whatever_the_rounding():
    assert 0.3 // 0.1 == 2
    assert factors("exponential", *range(10), every_epochs=0.1) == pytest.approx([0.5**step for step in range(10)])


def test_multistep():
    assert factors("multistep", 0, 29, 30, 59, 60, 99) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert factors("multistep", 20, 21, total=63, per_epoch=7.0) == [1.0, 0.5]


@pytest.mark.parametrize("name", ["constant", "cosine", "exponential", "multistep"])
def test_warm_up(name):
    # two epochs of two steps: a fifth, two fifths ...
    values = factors(name, 0, 1, 2, 3, total=40, per_epoch=2.0, warmup_epochs=2.0)
    assert values == pytest.approx([0.2, 0.4, 0.6, 0.8])
    after = factors(name, 4, total=40, per_epoch=2.0, warmup_epochs=2.0)
    assert after == [1.0]
    # never longer than half of the training
    assert factors(name, 0, 1, total=2, per_epoch=1.0, warmup_epochs=5.0)[0] == 0.5


def test_the_cosine_begins_after_the_warm_up():
    assert factors("cosine", 20, 60, 100, warmup_epochs=2.0) == pytest.approx([1.0, 0.55, 0.1])


# optimisers


def optimizer_of(*words: str) -> torch.optim.Optimizer:
    make = build.build_optimizer(configure("train", "optimizer=sgd", *words))
    weights = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    return make([{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 0.0}])


def test_options_reach_the_optimizer():
    optimizer = optimizer_of("optimizer.lr=0.5", "optimizer.momentum=0.7", "optimizer.weight_decay=0.25")
    assert type(optimizer) is torch.optim.SGD
    first, second = optimizer.param_groups
    assert (first["lr"], first["momentum"], first["weight_decay"]) == (0.5, 0.7, 0.25)
    assert (second["lr"], second["momentum"], second["weight_decay"]) == (0.5, 0.7, 0.0)


@pytest.mark.parametrize(
    ("words", "fused"),
    [
        ((), True),
        (("trainer.fused=false",), None),
        (("trainer.precision=16",), None),  # loss scaling and gradient clipping exclude it
        (("trainer.precision=bf16",), True),
        (("optimizer.foreach=true",), None),  # not together: torch refuses, and the step is not fused
        (("optimizer._target_=torch.optim.NAdam", "~optimizer.nesterov", "~optimizer.momentum"), None),  # cannot
    ],
)
def test_a_fused_step_where_it_can_be(words, fused):
    optimizer = optimizer_of(*words)
    assert optimizer.param_groups[0].get("fused") == fused
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert all((weight < 1).all() for group in optimizer.param_groups for weight in group["params"])


def test_trained_weights_lower_a_rate_that_the_user_did_not_give():
    cfg = configure("train", "optimizer=sgd", "task.weights=w.npz", "trainer.pretrained_lr_factor=0.5")
    rate = cfg["optimizer"]["lr"]
    settled = build.settle_learning_rate(cfg)
    assert settled["optimizer"]["lr"] == rate / 2
    assert cfg["optimizer"]["lr"] == rate
    assert build.settle_learning_rate(settled) == settled  # a resumed run keeps it
    [group] = build.build_optimizer(settled)([{"params": [torch.zeros(1, 1, requires_grad=True)]}]).param_groups
    assert group["lr"] == rate / 2
    given = configure("train", "optimizer.lr=0.3", "task.weights=w.npz", "trainer.pretrained_lr_factor=0.5")
    assert build.settle_learning_rate(given)["optimizer"]["lr"] == 0.3
    fresh = configure("train", "trainer.pretrained_lr_factor=0.5")
    assert build.settle_learning_rate(fresh) == fresh


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer.momentun=0.5", "optimizer.momentun: SGD has no such option; did you mean momentum?"),
        ("optimizer.params=[]", "optimizer.params: SGD has no such option"),
        ("optimizer.qqq=1", "optimizer.qqq: SGD has no such option"),
        ("optimizer._target_=torch.optim.SDG", "is no class: expected a class under torch.optim.; did you mean SGD?"),
        ("optimizer.momentum=text", "optimizer: SGD does not take these options: '<' not supported"),
        ("optimizer._target_=torch.optim.LBFGS", "optimizer.momentum: LBFGS has no such option"),
    ],
)
def test_wrong_options_of_the_optimizer(word, message):
    cfg = configure("train", "optimizer=sgd")
    key, _, value = word.partition("=")
    cfg["optimizer"][key.removeprefix("optimizer.")] = value
    with pytest.raises(UserError) as raised:
        build.build_optimizer(cfg)
    assert message in str(raised.value)


# precision and limits


def test_a_cpu_without_bfloat16_trains_in_float32(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "fast_bfloat16", lambda device: False)
    trainer = build.build_trainer(configure("train", "trainer.accelerator=cpu"), folder=tmp_path)
    assert trainer.precision == "32-true"
    monkeypatch.setattr(hardware, "fast_bfloat16", lambda device: True)
    trainer = build.build_trainer(configure("train", "trainer.accelerator=cpu"), folder=tmp_path)
    assert trainer.precision == "bf16-mixed"


def test_limits_are_at_least_one_batch():
    cfg = configure("train", "data.batch_size=4", "trainer.limit_train_batches=0.03", "trainer.limit_val_batches=0.5")
    trainer = build.whole_batches(cfg, train=100, val=100)["trainer"]
    assert (trainer["limit_train_batches"], trainer["limit_val_batches"]) == (1, 0.5)


@pytest.mark.parametrize("devices", [1, 2, [0, 1, 3]])
def test_limits_count_the_batches_of_each_process(devices):
    cfg = configure("train", "data.batch_size=4", "trainer.limit_train_batches=0.3", "trainer.limit_val_batches=0.3")
    cfg["trainer"]["devices"] = devices
    ranks = len(devices) if isinstance(devices, list) else devices
    for count in range(1, 70):
        trainer = build.whole_batches(cfg, train=count, val=count)["trainer"]
        for name, training in (("train", True), ("val", False)):
            sampler = EpochSampler(count, shuffle=training, ranks=ranks)
            drop = training and len(sampler) > 4
            batches = len(DataLoader(range(count), batch_size=4, sampler=sampler, drop_last=drop))
            assert trainer[f"limit_{name}_batches"] == (1 if 0.3 * batches < 1 else 0.3), (count, name)


def test_limits_on_all_gpus(monkeypatch):
    cfg = configure("train", "data.batch_size=4", "trainer.limit_train_batches=0.3", "trainer.accelerator=gpu")
    assert cfg["trainer"]["devices"] == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for gpus, expected in ((1, 0.3), (2, 1)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert build.whole_batches(cfg, train=16)["trainer"]["limit_train_batches"] == expected


def test_an_optimizer_that_networks_cannot_use():
    with pytest.raises(UserError, match=r"optimizer: Muon does not take these options: .*2D"):
        build.build_optimizer(
            configure("train", "optimizer._target_=torch.optim.Muon", "~optimizer.betas", "~optimizer.eps")
        )


@pytest.mark.parametrize("fused", [True, False])
def test_fused_as_the_user_says(fused):
    make = build.build_optimizer(configure("train", f"optimizer.fused={fused}".lower()))
    assert make([{"params": [torch.zeros(1, requires_grad=True)]}]).defaults["fused"] is fused


# data and model


def test_data_takes_its_section():
    words = ("data.seed=3", "seed=4", "data.train_count=5", "data.val_count=2", "data.canvas=64", "data.batch_size=7")
    data = build.build_data(configure("train", *words), preprocessing=Preprocessing(96))
    assert (data.batch_size, data.seed, data.preprocessing) == (7, 4, Preprocessing(96))
    assert data._shapes == {"seed": 3, "train_images": 5, "val_images": 2, "image_size": 64}


@pytest.mark.parametrize(("size", "rho", "expected"), [(300, 1.0, 300), (224, 0.857, 192), (224, 0.571, 128)])
def test_data_and_model_agree_on_the_input_size(size, rho, expected):
    cfg = configure("train", f"task.image_size={size}", f"backbone.rho={rho}", "backbone.alpha=0.25")
    assert build.build_preprocessing(cfg).size == expected
    assert build.build_model(cfg, classes=["a"], category_ids=[1]).preprocessing.size == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "backbone.alpha=0.75"], 224),
        (["train", "data=coco", "data.root=x"], 300),
        (["train", "data=coco", "data.root=x", "data.image_size=160"], 160),
        (["train", "backbone.rho=0.571"], 128),
        (["train", "task.image_size=64"], 64),
        (["train", "experiment=paper_ssd300", "data=shapes"], 300),
        (["train", "task.form=fpn", "backbone.alpha=0.25"], 224),
        (["train", "task.form=fpn", "backbone.alpha=0.25", "data=coco", "data.root=x"], 640),
        (["train", "task.form=fpn", "backbone.alpha=0.25", "backbone.rho=0.5", "data=coco", "data.root=x"], 320),
        (["train", "experiment=ssd_fpn640", "data.root=x"], 640),
        (["train", "task.weights=own"], 96),
        (["predict", "task.weights=own", "source=x"], 96),
        (["eval", "task.weights=own", "task.image_size=128"], 128),
        (["predict", "task.weights=published", "source=x", "backbone.alpha=0.75"], 300),
    ],
)
def test_input_size_of_commands(words, expected, tmp_path, request):
    """Explicit, else as the weights were trained, else what the data prefers, else the task's own."""
    if "task.weights=own" in words:
        save_model(create_model("ssd", alpha=0.25, image_size=96, num_classes=1), tmp_path / "own.ckpt")
        words = [*words, f"task.weights={tmp_path}/own.ckpt", "backbone.alpha=0.25"]
    if "task.weights=published" in words:
        folder = request.getfixturevalue("shared_weights")
        words = [*words, f"task.weights={folder}/ssd_mobilenet_v1_0.75_300_coco.npz"]
    cfg = configure(*words)
    assert build.build_preprocessing(cfg).size == expected
    assert build.build_model(cfg, classes=["a"], category_ids=[1]).preprocessing.size == expected
    if cfg["data"]["name"] == "shapes":
        assert build.build_data(cfg, preprocessing=Preprocessing(expected)).preprocessing.size == expected


def test_rho_beside_the_input_size_of_the_weights(tmp_path):
    save_model(create_model("ssd", alpha=0.25, image_size=96, num_classes=1), tmp_path / "own.ckpt")
    words = ("backbone.alpha=0.25", f"task.weights={tmp_path}/own.ckpt", "backbone.rho=0.857")
    with pytest.raises(UserError, match="backbone.rho=0.857 would change nothing: the input of 96 pixels"):
        build.build_preprocessing(configure("train", *words))
    assert build.build_preprocessing(configure("train", *words, "task.image_size=224")).size == 192


def test_the_model_takes_its_sections():
    words = ("task.nms_iou=0.45", "task.form=lite", "backbone.padding=same", "backbone.freeze=1", *TINY)
    model = build.build_model(configure("train", *words), classes=["a", "b"], category_ids=[5, 9])
    assert (model.nms_iou, model.form, model.preprocessing.size) == (0.45, "lite", 64)
    assert (model.spec.classes, model.spec.category_ids) == (("a", "b"), (5, 9))
    assert model.backbone.options.padding == "same"
    assert not model.backbone.stem.conv.weight.requires_grad


# trainer


def test_a_training_keeps_checkpoints_and_logs(tmp_path):
    cfg = configure("train", "trainer.accelerator=cpu", "trainer.check_every_epochs=3", "trainer.max_epochs=7")
    trainer = build.build_trainer(cfg, folder=tmp_path, record=True)
    kept = [callback for callback in trainer.callbacks if isinstance(callback, BestCheckpoint | LastCheckpoint)]
    assert [type(callback) for callback in kept] == [BestCheckpoint, LastCheckpoint]  # in the order they are called
    assert kept[0].monitor == "val/map"
    assert kept[0]._every_n_epochs == trainer.check_val_every_n_epoch == 3
    assert len(trainer.loggers) == 2
    assert (trainer.max_epochs, trainer.gradient_clip_val) == (7, 10.0)
    cfg["trainer"]["max_epochs"] = 2  # fewer than check_every_epochs: measured once, at the end
    assert build.build_trainer(cfg, folder=tmp_path, record=True).check_val_every_n_epoch == 2


def test_an_evaluation_keeps_nothing(tmp_path):
    trainer = build.build_trainer(configure("eval", "ckpt=x", "trainer.accelerator=cpu"), folder=tmp_path)
    assert trainer.loggers == []
    assert not any(isinstance(callback, ModelCheckpoint | LastCheckpoint) for callback in trainer.callbacks)
    assert list(tmp_path.iterdir()) == []


def test_the_best_so_far_is_remembered_where_its_file_is(tmp_path):
    earlier = BestCheckpoint(tmp_path / "old", monitor="val/map", every=1)
    state = {**earlier.state_dict(), "best_model_score": torch.tensor(0.5), "best_model_path": "/old/best.ckpt"}
    later = BestCheckpoint(tmp_path, monitor="val/map", every=1)
    later.load_state_dict(state)
    assert later.best_model_score is None
    (tmp_path / "best.ckpt").write_bytes(b"")
    later.load_state_dict(earlier.state_dict())  # of a run that has not been measured yet
    assert later.best_model_score is None
    later.load_state_dict(state)
    best = str((tmp_path / "best.ckpt").resolve())
    assert later.best_model_path == best
    assert later.best_model_score == 0.5
    assert later.best_k_models == {best: 0.5}


def test_a_log_goes_on_where_the_checkpoint_was(tmp_path):
    file = tmp_path / "metrics.csv"
    lines = "a,epoch,step\n1.0,0,0\n2.0,0,1\n3.0,1,2\n"
    file.write_text(lines)
    logger = steering.csv_logger(tmp_path, start=2)
    logger.log_metrics({"a": 4.0, "b": 5.0, "epoch": 1}, step=2)
    logger.save()
    with file.open(newline="") as content:
        rows = list(csv.DictReader(content))
    assert [(row["a"], row["b"], row["step"]) for row in rows] == [
        ("1.0", "", "0"),
        ("2.0", "", "1"),
        ("4.0", "5.0", "2"),
    ]
    logger = steering.csv_logger(tmp_path, start=0)  # a new run
    logger.log_metrics({"a": 6.0}, step=0)
    logger.save()
    assert file.read_text().split() == ["a,step", "6.0,0"]
