from __future__ import annotations

import os
import pickle
from collections import OrderedDict

import pytest
import torch

from mnvision.checkpoint import SECTION, describe_model, load_model, read_checkpoint, save_model
from mnvision.errors import UserError
from mnvision.models.create import create_model
from mnvision.types import Preprocessing
from tests.runs import batch, detector

PLAIN = (str, int, float, bool, type(None))


def is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return type(value) in PLAIN


def tampered(path, **changes) -> None:
    """Write a checkpoint whose description of the model differs from the truth."""
    save_model(detector(), path)
    content = torch.load(path, weights_only=True)
    content[SECTION]["model"].update(changes)
    torch.save(content, path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"task_options": {"form": "lite", "loss": "focal", "nms_iou": 0.4}},
        {"backbone_options": {"padding": "same", "activation": "relu6", "norm_eps": 1e-5, "freeze": 2}},
        {"rho": 0.571},
        {"category_ids": (2, 3, 90)},
    ],
)
def test_a_model_comes_back_as_it_was(tmp_path, options):
    model = detector(**options)
    with torch.no_grad():  # statistics of its own, too
        model(batch().images)
    model.eval()
    save_model(model, tmp_path / "model.ckpt", config={"seed": 1})
    loaded = load_model(tmp_path / "model.ckpt")
    assert loaded.spec == model.spec
    assert loaded.preprocessing == model.preprocessing
    assert not loaded.training
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    images = batch(size=model.preprocessing.size).images
    for mine, theirs in zip(model.predict(images), loaded.predict(images), strict=True):
        assert torch.equal(mine.boxes, theirs.boxes)
        assert torch.equal(mine.scores, theirs.scores)


def test_the_resolution_multiplier_is_kept_as_the_input_size(tmp_path):
    save_model(detector(size=128, rho=0.75), tmp_path / "model.ckpt")
    model = load_model(tmp_path / "model.ckpt")
    assert model.preprocessing.size == 96
    assert model.spec.preprocessing == Preprocessing(96)
    assert model(torch.zeros(1, 3, 96, 96, dtype=torch.uint8)).logits.shape[1] == len(model.anchors)


def test_a_checkpoint_holds_plain_values_and_tensors(tmp_path):
    import numpy as np

    model = create_model(
        "ssd", alpha=0.25, image_size=64, classes=np.array(["cat", "dog"]), category_ids=np.array([17, 18])
    )
    save_model(model, tmp_path / "model.ckpt", config={"a": [1, {"b": None}]})
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert set(content) == {SECTION, "state_dict"}
    assert is_plain(content[SECTION])
    assert content[SECTION]["model"]["classes"] == ("cat", "dog")
    assert content[SECTION]["model"]["category_ids"] == (17, 18)
    assert content[SECTION]["config"] == {"a": [1, {"b": None}]}
    assert all(type(tensor) is torch.Tensor for tensor in content["state_dict"].values())
    assert describe_model(model)["config"] == {}


def test_a_class_table_with_gaps_is_kept(tmp_path):
    names = [f"thing {number}" for number in range(80)]
    ids = [number + number // 10 + 1 for number in range(80)]
    save_model(create_model("ssd", alpha=0.25, image_size=64, classes=names, category_ids=ids), tmp_path / "model.ckpt")
    spec = load_model(tmp_path / "model.ckpt").spec
    assert (list(spec.classes), list(spec.category_ids)) == (names, ids)


def test_the_task_may_be_asked_for(tmp_path):
    path = tmp_path / "model.ckpt"
    save_model(create_model("classify", alpha=0.25, classes=["cat", "dog"]), path)
    assert load_model(path, task="classify").spec.task == "classify"
    with pytest.raises(UserError, match=r"model\.ckpt holds a model of task classify, expected one of task ssd"):
        load_model(path, task="ssd")


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        load_model(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match=r"is a folder; .* \(there is no best\.ckpt in it\)"):
        load_model(tmp_path)
    for run, age in (("old", 2000), ("new", 1000)):
        file = tmp_path / "ssd" / run / "checkpoints" / "best.ckpt"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1e9 - age, 1e9 - age))
    with pytest.raises(UserError, match=r"the newest best\.ckpt in it is .*/ssd/new/checkpoints/best\.ckpt"):
        load_model(tmp_path)


class Evil:
    """Runs code when it is unpickled without care."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a checkpoint ran')",))


def truncated(path) -> None:
    save_model(detector(), path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("a text"),
        lambda path: path.write_text(". another text"),
        lambda path: path.write_text("}"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
        lambda path: path.write_bytes(bytes(1000)),
        lambda path: path.write_bytes(pickle.dumps({SECTION: Evil()})),
        lambda path: torch.save({SECTION: Evil()}, path),
        truncated,
    ],
    ids=["text", "stop", "setitems", "empty", "png", "zeros", "pickle", "code", "truncated"],
)
def test_what_cannot_be_read(tmp_path, write):
    path = tmp_path / "some.ckpt"
    write(path)
    with pytest.raises(UserError, match=r"some\.ckpt is not a checkpoint that can be read") as raised:
        read_checkpoint(path)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("content", [{"state_dict": {}}, OrderedDict(weight=torch.zeros(3)), torch.zeros(3), [1], 5])
def test_torch_files_of_other_programs(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"was not written by mnvision.*task\.weights"):
        load_model(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "segment"}, "task segment, which this version does not know"),
        ({"future": 1}, "may be of a newer version"),
        ({"preprocessing": {"size": 64, "crop": 0.9}}, "may be of a newer version"),
        ({"preprocessing": None}, "may be of a newer version"),
        ({"task_options": {"forn": "lite"}}, "no option 'forn'; did you mean form"),
        (
            {"backbone_options": {"name": "mobilenet_v11"}},
            "unknown backbone 'mobilenet_v11'; did you mean mobilenet_v1",
        ),
        ({"backbone_options": {"name": "mobilenet_v1", "alpha": 0.5}}, "does not fit the model it describes"),
        ({"classes": ("one",)}, "does not fit the model it describes"),
    ],
)
def test_descriptions_that_do_not_fit(tmp_path, changes, message):
    tampered(tmp_path / "odd.ckpt", **changes)
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "odd.ckpt")


@pytest.mark.parametrize("description", [{}, 3, {"model": None}, {"model": {"task": "ssd"}}])
def test_broken_descriptions(tmp_path, description):
    torch.save({SECTION: description, "state_dict": {}}, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match="may be of a newer version"):
        load_model(tmp_path / "odd.ckpt")


def test_missing_weights_are_an_error(tmp_path):
    path = tmp_path / "part.ckpt"
    save_model(detector(), path)
    content = torch.load(path, weights_only=True)
    del content["state_dict"]["model.backbone.stem.conv.weight"]
    torch.save(content, path)
    with pytest.raises(UserError, match="does not fit the model it describes"):
        load_model(path)
