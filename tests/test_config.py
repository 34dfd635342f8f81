from __future__ import annotations

import functools
import re
import typing
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from mnvision import schema, schema_commands, value_types
from mnvision.config import (
    OPTIMIZERS,
    known_keys,
    nearest_keys,
    resolve_target,
    to_plain,
    to_yaml,
    validate,
)
from mnvision.errors import ConfigError, UserError, did_you_mean
from mnvision.schema_data import DATA_OF_TASK

TASK_NAMES = "ssd, faster_rcnn, classify, distill, embed, attributes or geolocate"
CONF = Path(__file__).parents[1] / "conf"
NEEDED = {"train": [], "eval": ["ckpt=best.ckpt"], "predict": ["ckpt=best.ckpt", "source=photos"]}
OPTIONS = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.glob("*/*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    with initialize_config_module("mnvision.conf", version_base="1.3"):
        yield


def composed(*overrides, command="train"):
    return compose(command, overrides=[*NEEDED[command], *overrides])


def problems(cfg, *, command="train"):
    with pytest.raises(ConfigError) as error:
        validate(cfg, command=command)
    return str(error.value)


# conf/


@pytest.mark.parametrize("command", NEEDED)
def test_every_command_composes_to_a_valid_configuration(command):
    validate(composed(command=command), command=command)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_is_valid(option):
    group, _, name = option.partition("/")
    fitting = [task for task, names in DATA_OF_TASK.items() if name in names]
    task = (f"task={fitting[0]}",) if fitting else ()
    teacher = ("task.teacher=a.ckpt",) if name == "distill" else ()
    validate(composed(f"{group}={name}", *task, *teacher, "++data.root=/data"))


@pytest.mark.parametrize("command", ["eval", "predict"])
@pytest.mark.parametrize("name", [option.split("/")[1] for option in OPTIONS if option.startswith("experiment/")])
def test_every_experiment_fits_every_command(name, command):
    validate(composed(f"experiment={name}", "data.root=/data", command=command), command=command)


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_key_has_a_comment(path):
    body = re.sub(r"(?ms)^hydra:\n  help:.*\Z", "", path.read_text())  # text for the terminal, not settings
    body = re.sub(r"(?ms)^  help:.*\Z", "", body)
    assert body.startswith("#")
    uncommented = [
        line for line in body.splitlines() if re.match(r"^\s*(- )?\w[\w ./]*: \S", line) and " # " not in line
    ]
    assert [line for line in uncommented if "override " not in line] == []
    assert all(len(line) <= 120 for line in path.read_text().splitlines())


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.split("/")[0] in schema.SECTIONS])
def test_every_choice_is_named_in_the_comment(option):
    """Where the schema lists words, the comment beside the key lists the same ones."""
    text = (CONF / f"{option}.yaml").read_text()
    values = OmegaConf.create(text)
    section = option.split("/")[0]
    for parent in values.get("defaults", []):  # a file that goes on where another one of its group ends
        if isinstance(parent, str) and parent != "_self_":
            text += (CONF / section / f"{parent}.yaml").read_text()
    values = values.get(section, values)
    members = schema.SECTIONS[section]
    for key, kind in schema.fields(members["" if "" in members else values.get("library", values.name)]).items():
        words = value_types.choices(kind)
        comment = re.search(rf"(?m)^ *{key}: .*?# (.*)$", text)[1]
        if key != "name" or section == "scheduler":
            assert [word for word in words if word not in comment] == [], key


def test_generated_data_set_brings_its_own_number_of_epochs():
    assert composed().trainer.max_epochs == 10
    assert composed("data=coco").trainer.max_epochs == 30
    assert composed("trainer.max_epochs=3").trainer.max_epochs == 3


def test_experiment_wins_over_groups_and_command_line_over_both():
    cfg = composed("experiment=paper_ssd300")
    assert (cfg.trainer.max_epochs, cfg.data.name, cfg.optimizer._target_) == (41, "coco", "torch.optim.RMSprop")
    cfg = composed("experiment=paper_ssd300", "data=shapes", "optimizer.lr=1", "trainer.max_epochs=2")
    assert (cfg.trainer.max_epochs, cfg.data.name, cfg.optimizer.lr) == (2, "shapes", 1)


def test_paper_experiment_has_the_published_values():
    """samples/configs/ssd_mobilenet_v1_coco.config of TensorFlow's object detection API."""
    cfg = to_plain(composed("experiment=paper_ssd300"))
    assert cfg["data"]["batch_size"] == 24
    assert {key: cfg["optimizer"][key] for key in ("lr", "alpha", "momentum", "eps", "weight_decay")} == {
        "lr": 0.004,
        "alpha": 0.9,
        "momentum": 0.9,
        "eps": 1.0,
        "weight_decay": 4e-5,
    }
    assert (cfg["scheduler"]["name"], cfg["scheduler"]["gamma"]) == ("exponential", 0.95)
    # 800720 steps of 24 pictures over the 117266 training pictures that have boxes; training ends long before
    assert cfg["scheduler"]["every_epochs"] == round(800720 * 24 / 117266)
    assert cfg["trainer"]["max_epochs"] == round(200000 * 24 / 117266)
    backbone = cfg["backbone"]
    assert (backbone["padding"], backbone["activation"], backbone["norm_eps"]) == ("same", "relu6", 1e-3)
    assert backbone["norm_momentum"] == pytest.approx(1 - 0.9997)
    assert (cfg["task"]["loss"], cfg["task"]["image_size"], cfg["task"]["nms_iou"]) == ("sigmoid", 300, 0.6)


# validate()


def test_a_new_backbone_needs_a_line_in_the_schema_alone(monkeypatch):
    """The recipe in CONTRIBUTING.md."""
    new = {"backbone.name": "mobilenet_v1_tiny"}
    found = problems(with_values(new))
    assert "backbone.name: expected mobilenet_v1, mobilenet_v2, " in found
    assert "got 'mobilenet_v1_tiny'; did you mean mobilenet_v1?" in found
    monkeypatch.setitem(schema.SECTIONS["backbone"], "mobilenet_v1_tiny", schema.MobileNetV1)
    validate(with_values(new), command="train")


STAIRS = {"name": "multistep", "warmup_epochs": 0, "gamma": 0.1, "milestones": []}
BAD = [
    ({"backbone.alfa": 1}, ["backbone.alfa: unknown key; did you mean backbone.alpha?"]),
    ({"alpha": 0.5}, ["alpha: unknown key; did you mean backbone.alpha?"]),
    ({"model.alpha": 0.5}, ["model.alpha: unknown key; did you mean backbone.alpha?"]),
    ({"bakcbone.rho": 0.5}, ["bakcbone.rho: unknown key; did you mean backbone.rho?"]),
    ({"task.ssd.image_size": 224}, ["task.ssd.image_size: unknown key; did you mean task.image_size?"]),
    ({"tsk": "ssd"}, ["tsk: unknown key; did you mean task?"]),
    ({"epochs": 3}, ["epochs: unknown key; did you mean trainer.max_epochs?"]),
    ({"weights": "x"}, ["weights: unknown key; did you mean task.weights or backbone.weights?"]),
    ({"typo": 1}, ["typo: unknown key"]),
    ({"data._target_": "os.system"}, ["data._target_: unknown key; did you mean optimizer._target_?"]),
    (
        {"task.name": "sdd"},
        [f"task.name: expected {TASK_NAMES}, got 'sdd'; did you mean ssd?"],
    ),
    (
        {"task.name": ["ssd"]},
        [f"task.name: expected {TASK_NAMES}, got ['ssd']"],
    ),
    ({"scheduler.name": "poly"}, ["scheduler.name: expected cosine, exponential, multistep or constant, got 'poly'"]),
    ({"trainer.name": "x"}, ["trainer.name: unknown key"]),
    ({"task": 3}, ["task: expected a section of keys, got 3"]),
    ({"trainer.max_epochs": "ten"}, ["trainer.max_epochs: expected an integer >= 1, got 'ten'"]),
    ({"trainer.max_epochs": 0}, ["trainer.max_epochs: expected an integer >= 1, got 0"]),
    ({"trainer.max_epochs": 1.5}, ["trainer.max_epochs: expected an integer >= 1, got 1.5"]),
    ({"trainer.max_epochs": True}, ["trainer.max_epochs: expected an integer >= 1, got true"]),
    ({"trainer.max_epochs": None}, ["trainer.max_epochs: expected an integer >= 1, got null"]),
    ({"trainer.fused": 1}, ["trainer.fused: expected true or false, got 1"]),
    ({"trainer.precision": "half"}, ["trainer.precision: expected auto, 32, bf16 or 16, got 'half'"]),
    ({"trainer.precision": "bf1"}, ["trainer.precision: expected auto, 32, bf16 or 16, got 'bf1'; did you mean bf16?"]),
    ({"trainer.devices": 0}, ["trainer.devices: expected auto, an integer >= 1 or a list of integers >= 0, got 0"]),
    ({"trainer.gradient_clip": 0}, ["trainer.gradient_clip: expected a number > 0 or null, got 0"]),
    (
        {"trainer.limit_train_batches": -0.5},
        ["trainer.limit_train_batches: expected an integer >= 1, a number > 0 and <= 1 or null, got -0.5"],
    ),
    ({"backbone.alpha": 0}, ["backbone.alpha: expected a number > 0, got 0"]),
    ({"backbone.alpha": float("inf")}, ["backbone.alpha: expected a number > 0, got inf"]),
    ({"backbone.alpha": float("nan")}, ["backbone.alpha: expected a number > 0, got nan"]),
    ({"backbone.alpha": {"a": 1}}, ["backbone.alpha: expected a number > 0, got {'a': 1}"]),
    ({"backbone.freeze": 6}, ["backbone.freeze: expected an integer >= 0 and <= 5, got 6"]),
    (
        {"backbone.padding": "sme"},
        ["backbone.padding: expected symmetric, same or null, got 'sme'; did you mean same?"],
    ),
    ({"task.image_size": 31}, ["task.image_size: expected an integer >= 32 or null, got 31"]),
    ({"task.score_threshold": 1.1}, ["task.score_threshold: expected a number >= 0 and <= 1, got 1.1"]),
    ({"task.matching_iou": 0}, ["task.matching_iou: expected a number > 0 and <= 1, got 0"]),
    ({"task.weights": ""}, ["task.weights: expected a name or a path of weights or null, got ''"]),
    ({"data.classes": "cat"}, ["data.classes: expected a list of texts or null, got 'cat'"]),
    ({"data.classes": [1]}, ["data.classes: expected a list of texts or null, got [1]"]),
    ({"data.augment": "fip"}, ["data.augment: expected none, flip, light or ssd, got 'fip'; did you mean flip?"]),
    ({"optimizer.lr": 0}, ["optimizer.lr: expected a number > 0, got 0"]),
    ({"optimizer.momentum": "x"}, ["optimizer.momentum: expected a number >= 0 and <= 1, got 'x'"]),
    ({"optimizer._target_": "os.system"}, ["optimizer._target_: expected a class of torch.optim, got 'os.system'"]),
    (
        {"optimizer._target_": "torch.optim.SGD; x"},
        ["optimizer._target_: expected a class of torch.optim, got 'torch.optim.SGD; x'"],
    ),
    ({"optimizer._target_": 3}, ["optimizer._target_: expected a class of torch.optim, got 3"]),
    ({"seed": -1}, ["seed: expected an integer >= 0, got -1"]),
    ({"seed": "???"}, ["seed: missing, expected an integer >= 0; give seed=..."]),
    (
        {"task.min_scale": 0.95, "task.max_scale": 0.95},
        ["task.min_scale: expected less than task.max_scale 0.95, got 0.95"],
    ),
    (
        {"backbone.rho": 0.01},
        [
            "backbone.rho: rho 0.01 of 224 pixels is 2.24 pixels, less than the stride of 32: use a larger rho or "
            "image_size"
        ],
    ),
    ({"scheduler": STAIRS | {"milestones": [22, 16]}}, ["scheduler.milestones: expected rising epochs, got [22, 16]"]),
    (
        {"trainer.max_epochs": "ten", "backbone.alfa": 1},
        ["backbone.alfa: unknown key; did you mean backbone.alpha?"]
        + ["trainer.max_epochs: expected an integer >= 1, got 'ten'"],
    ),
    # a value that is wrong alone is not also reported together with others
    ({"task.min_scale": 2}, ["task.min_scale: expected a number > 0 and <= 1 or null, got 2"]),
]


@functools.cache
def plain_train():
    return to_plain(composed())


def with_values(values):
    cfg = OmegaConf.create(plain_train())
    for key, value in values.items():
        OmegaConf.update(cfg, key, value, force_add=True, merge=False)
    return cfg


@pytest.mark.parametrize(("values", "expected"), BAD, ids=[",".join(map(str, values.items())) for values, _ in BAD])
def test_bad_values(values, expected):
    count = f"{len(expected)} problem{'s' if len(expected) > 1 else ''} in the configuration:"
    assert problems(with_values(values)) == "\n".join([count, *(f"  {line}" for line in expected)])


GOOD = [
    {"backbone.alpha": 1, "optimizer.lr": 1, "trainer.gradient_clip": None},
    {"trainer.devices": 2, "trainer.limit_train_batches": 2, "trainer.limit_val_batches": 0.25},
    {"trainer.devices": [0, 2], "trainer.precision": 16, "data.num_workers": 0},
    {"trainer.precision": "bf16", "task.loss": None, "data.classes": ["cat", "dog"], "task.score_threshold": 0},
    {"optimizer.maximize": True, "optimizer.eps": [None, 1e-3], "scheduler": STAIRS},
]


@pytest.mark.parametrize("values", GOOD, ids=str)
def test_good_values(values):
    validate(with_values(values))


def test_missing_keys_and_sections_are_reported():
    cfg = to_plain(composed())
    del cfg["backbone"]["alpha"], cfg["scheduler"], cfg["optimizer"]["lr"], cfg["seed"]
    assert problems(cfg).splitlines() == [
        "4 problems in the configuration:",
        "  scheduler: missing, expected a section of keys; choose one with scheduler=...",
        "  seed: missing, expected an integer >= 0",
        "  backbone.alpha: missing, expected a number > 0",
        "  optimizer.lr: missing, expected a number > 0",
    ]


def test_required_value_of_a_data_set():
    assert problems(composed("data=coco")).endswith("\n  data.root: missing, expected a path; give data.root=...")
    validate(composed("data=coco", "data.root=/data"))


def test_keys_at_the_top_depend_on_the_command():
    cfg = composed("++resume=x", command="eval")
    assert "resume: unknown key" in problems(cfg, command="eval")
    cfg = composed("++split=tset", command="eval")
    assert problems(cfg, command="eval").endswith("split: expected val, test or train, got 'tset'; did you mean test?")
    cfg = composed("source=???", command="predict")
    assert "source: missing, expected a path; give source=..." in problems(cfg, command="predict")


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_a_model_is_needed_to_evaluate_and_predict(command):
    assert "ckpt: missing, expected a checkpoint; or task.weights=" in problems(
        composed("ckpt=null", command=command), command=command
    )
    validate(composed("ckpt=null", "task.weights=x.pth", command=command), command=command)


def test_broken_interpolation_is_reported():
    cfg = composed("data.root=${nothing}")
    assert problems(cfg) == "1 problem in the configuration:\n  data.root: Interpolation key 'nothing' not found"


def test_interpolations_are_checked_as_values():
    cfg = composed("backbone.alpha=${task.name}")
    assert problems(cfg).endswith("backbone.alpha: expected a number > 0, got 'ssd'")


def test_validate_leaves_the_configuration_alone():
    cfg = composed()
    before = OmegaConf.to_yaml(cfg)
    validate(cfg)
    assert OmegaConf.to_yaml(cfg) == before


# words


def test_nearest_key_prefers_the_same_section():
    known = known_keys(to_plain(composed()), command="train")
    assert nearest_keys("sed", known) == ["seed"]
    assert nearest_keys("task.sed", known) == ["seed", "data.seed"]
    assert nearest_keys("data.sed", known) == ["data.seed"]
    assert nearest_keys("task.weight", known) == ["task.weights"]
    assert nearest_keys("completely_else", known) == []


def test_nearest_keys_are_those_of_the_chosen_sections():
    cfg = to_plain(composed("data=coco"))
    assert "data.canvas" not in known_keys(cfg, command="train")
    cfg["data"]["name"] = "else"
    assert "data.canvas" in known_keys(cfg, command="train")


def test_did_you_mean():
    assert did_you_mean("adam", ["sgd", "adamw"]) == "; did you mean adamw?"
    assert did_you_mean(3, ["sgd", "adamw"]) == ""
    assert did_you_mean("adam", ["sgd", "adamw", "adamax"], most=3) == "; did you mean adamw or adamax?"
    assert did_you_mean("x", ["sgd", "adamw"], known=True) == "; known: adamw, sgd"


@pytest.mark.parametrize("value", [0, 1, 0.5, True, None, "x", [], {}])
def test_every_type_of_the_schema_can_be_described_and_asked(value):
    schemas = [member for members in schema.SECTIONS.values() for member in members.values()]
    kinds = [
        kind for member in [*schemas, *schema_commands.COMMANDS.values()] for kind in schema.fields(member).values()
    ]
    for kind in [*kinds, *schema.OPTIMIZER.values()]:
        assert value_types.accepts(kind, value) in (True, False)
        assert "typing" not in value_types.describe(kind)
        assert value_types.accepts(kind, None) == (type(None) in typing.get_args(kind))


# _target_


PACKAGES = ("torch.", "mnvision.")


def test_resolve_target():
    import torch

    assert resolve_target("torch.optim.SGD", allowed=PACKAGES) is torch.optim.SGD
    assert resolve_target("torch.nn.Linear", allowed=PACKAGES) is torch.nn.Linear


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("os.system", "is not allowed"),
        ("subprocess.Popen", "is not allowed"),
        ("torchevil.Thing", "is not allowed"),
        ("torch", "is not allowed"),
        ("torch.optim.SGD()", "is not allowed"),
        ("torch..optim", "is not allowed"),
        ("torch.hub.load", "is no class"),  # a function
        ("torch.optim.SDG", "did you mean SGD?"),
        ("torch.optim.nothing.SGD", "cannot be imported"),
        ("mnvision.paths.Path", "belongs to pathlib"),  # a class that an allowed module happens to import
    ],
)
def test_resolve_target_refuses(path, words):
    with pytest.raises(UserError, match=re.escape(words)) as error:
        resolve_target(path, allowed=PACKAGES)
    assert repr(path) in str(error.value)


def test_an_optimizer_is_of_torch_optim():
    assert resolve_target("torch.optim.AdamW", allowed=OPTIMIZERS).__name__ == "AdamW"
    with pytest.raises(UserError, match="expected a class under torch.optim"):
        resolve_target("torch.nn.Linear", allowed=OPTIMIZERS)


# paths


def test_yaml_of_a_run_can_be_read_back():
    cfg = to_plain(composed("experiment=paper_ssd300", "data.root=/data"))
    text = to_yaml({**cfg, "overrides": ["experiment"]})
    assert to_plain(OmegaConf.create(text)) == cfg


def test_the_keys_of_a_partition_go_together():
    base = to_plain(composed("task=geolocate"))
    for section, changes, expected in (
        ("task", {"min_photos": 60}, "task.min_photos: expected less than task.max_photos 30, got 60"),
        ("task", {"min_level": 14}, "task.min_level: expected at most task.max_level 13, got 14"),
        ("task", {"max_level": 31}, "task.max_level: expected an integer >= 0 and <= 30, got 31"),
        ("task", {"answer": "centre"}, "task.answer: expected mean or center, got 'centre'; did you mean center?"),
    ):
        found = problems({**base, section: {**base[section], **changes}})
        assert found == f"1 problem in the configuration:\n  {expected}"
    soft = {"task": {**base["task"], "soft_labels_km": 75}}
    validate({**base, **soft})
    mixed = problems({**base, **soft, "data": {**base["data"], "mixup": 0.2}})
    assert "task.soft_labels_km: mixed pictures have no place; give data.mixup=0" in mixed


def test_geolocation_needs_places():
    with pytest.raises(
        ConfigError, match="task=geolocate cannot learn from data=shape_crops; choose one of drawn_places, p"
    ):
        validate(composed("task=geolocate", "data=shape_crops"))


def test_weights_to_narrow_have_to_be_there():
    expected = "backbone.narrow_weights: there are no weights to narrow; give backbone.weights as well"
    assert expected in problems(composed("backbone.narrow_weights=true"))
    assert expected in problems(composed("backbone.narrow_weights=true", "task.weights=w.ckpt"))
    validate(composed("backbone.narrow_weights=true", "backbone.weights=w.ckpt"))
