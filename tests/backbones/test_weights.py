"""Weight files: finding them, and reading every kind."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mnvision.backbones import create_backbone, weights
from mnvision.backbones.sources import SOURCES
from mnvision.backbones.weights import (
    WeightFile,
    load_weights,
    read_weights,
    resolve_weights,
    to_keras_arrays,
)
from mnvision.checkpoint import save_model
from mnvision.errors import UserError
from mnvision.models.create import ModelSpec, build_model
from mnvision.models.ssd import SSD
from mnvision.types import Preprocessing
from tests.backbones.networks import classifier, same

ANIMALS = ("cat", "dog", "zebra")


def test_the_sixteen_names_of_keras():
    assert len([name for name in SOURCES if name.startswith("keras_")]) == 16
    source = SOURCES["keras_mobilenet_v1_0.75_192"]
    assert source.url == (
        "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet/mobilenet_7_5_192_tf.h5"
    )
    assert (source.alpha, source.image_size, source.licence) == (0.75, 192, "Apache-2.0")
    assert SOURCES["keras_mobilenet_v1_1.0_224"].url.endswith("/mobilenet_1_0_224_tf.h5")
    assert SOURCES["keras_mobilenet_v1_0.5_160"].url.endswith("/mobilenet_5_0_160_tf.h5")
    assert SOURCES["keras_mobilenet_v1_0.25_128"].url.endswith("/mobilenet_2_5_128_tf.h5")


def test_a_path_a_name_and_a_url_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path))
    asked = []

    def fetch(url: str, *, sha256: str | None, folder: Path | None = None) -> Path:
        asked.append((url, folder))
        return tmp_path / "fetched"

    monkeypatch.setattr(weights, "fetch", fetch)
    (tmp_path / "mine.npz").touch()
    assert resolve_weights(str(tmp_path / "mine.npz")) == WeightFile(tmp_path / "mine.npz")
    name = "keras_mobilenet_v1_0.25_128"
    assert resolve_weights(name) == WeightFile(tmp_path / "fetched", SOURCES[name])
    resolve_weights("https://a.example/weights.npz")
    resolve_weights("https://b.example/weights.npz")
    assert [url for url, _ in asked[1:]] == ["https://a.example/weights.npz", "https://b.example/weights.npz"]
    assert asked[1][1] != asked[2][1]  # the same file name from two places is two files


def test_a_file_brought_by_hand_stands_for_its_name(tmp_path, monkeypatch, keras_file):
    """Offline, the file in the cache is read, checked against the name's width, and not downloaded."""
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mobilenet_2_5_160_tf.h5").write_bytes(keras_file.read_bytes())
    got = read_weights("keras_mobilenet_v1_0.25_160")
    assert got.settings["image_size"] == 160
    report = str(load_weights(classifier().backbone, got))
    assert "licence Apache-2.0" in report
    assert "keras.applications.MobileNet" in report
    (tmp_path / "weights" / "mobilenet_5_0_160_tf.h5").write_bytes(keras_file.read_bytes())
    with pytest.raises(UserError, match=r"is not keras_mobilenet_v1_0\.5_160: it is of .*alpha 0\.25"):
        read_weights("keras_mobilenet_v1_0.5_160")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keras_mobilenet_v1_0.75_225", r"did you mean keras_mobilenet_v1_0\.75_224"),
        ("zzz", r"known: keras_mobilenet_v1_0\.25_128"),
        (".", "it is a folder"),
        ("runs/last", r"there is no file /.*/runs/last$"),
        ("missing.npz", r"there is no file /.*/missing\.npz$"),
    ],
)
def test_what_is_not_there_gets_suggestions(text, message):
    with pytest.raises(UserError, match=message):
        resolve_weights(text)


def test_keras_layout_round_trip(keras_file):
    got = read_weights(keras_file)
    assert len(got.tensors) == 137
    assert got.settings == {
        "name": "mobilenet_v1",
        "alpha": 0.25,
        "variant": "standard",
        "padding": "same",
        "norm_eps": 1e-3,
        "activation": "relu6",
        "mean": (127.5,) * 3,
        "std": (127.5,) * 3,
    }
    assert not got.folded
    back = to_keras_arrays(got.tensors)
    with np.load(keras_file) as archive:
        assert set(back) == set(archive.files)
        assert all(np.array_equal(back[name], archive[name]) for name in back)
    assert back["conv1/kernel"].shape == (3, 3, 3, 8)
    assert back["conv_dw_2/depthwise_kernel"].shape == (3, 3, 16, 1)
    assert back["conv_preds/kernel"].shape == (1, 1, 256, 10)


def test_a_bare_backbone_goes_to_keras_and_back(tmp_path):
    backbone = classifier().backbone
    np.savez(tmp_path / "body.npz", **to_keras_arrays(backbone.state_dict()))
    fresh = classifier(seed=1).backbone
    report = load_weights(fresh, read_weights(tmp_path / "body.npz"))
    assert same(backbone, fresh)
    assert str(report).startswith("loaded 135 of 135 arrays from")
    with pytest.raises(UserError, match="of a backbone, the model is a classifier: load them into its backbone alone"):
        load_weights(classifier(), read_weights(tmp_path / "body.npz"))


@pytest.mark.parametrize("top", ["", "model_weights/", "mobilenet_0.25_224/"])
@pytest.mark.parametrize("nested", [False, True])
def test_keras_h5(tmp_path, keras_file, top, nested):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file, np.load(keras_file) as archive:
        for name in archive.files:
            layer, weight = name.split("/")
            file[f"{top}{layer}/{layer}/{weight}:0" if nested else f"{top}{layer}/{weight}:0"] = archive[name]
        file["optimizer_weights/training/Adam/conv1/kernel/m:0"] = np.zeros(3, np.float32)
        file[f"{top}conv1"].attrs["weight_names"] = ["conv1/kernel:0"]
    got, expected = read_weights(path), read_weights(keras_file)
    assert got.settings == expected.settings
    assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in got.tensors.items())


def test_h5_without_h5py(tmp_path, monkeypatch):
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"weights\.h5: a Keras \.h5 file needs h5py: pip install h5py"):
        read_weights(tmp_path / "weights.h5")
    monkeypatch.setattr(weights, "fetch", lambda *_, **__: pytest.fail("downloaded what cannot be read"))
    for name in ("keras_mobilenet_v1_0.25_128", "https://a.example/weights.h5"):
        with pytest.raises(UserError, match="a Keras .h5 file needs h5py: pip install h5py"):
            resolve_weights(name)


def test_the_kind_of_file_is_told_by_its_content(tmp_path, keras_file):
    (tmp_path / "odd.h5").write_bytes(keras_file.read_bytes())
    assert read_weights(tmp_path / "odd.h5").settings["alpha"] == 0.25


@pytest.mark.parametrize("alpha", [1.0, 0.75, 0.5, 0.35, 0.25, 1.4])
@pytest.mark.parametrize("variant", ["standard", "shallow", "full_conv"])
def test_width_and_variant_are_read_off_the_shapes(alpha, variant):
    with torch.device("meta"):
        model = SSD(
            create_backbone("mobilenet_v1", alpha=alpha, variant=variant),
            num_classes=3,
            preprocessing=Preprocessing(300),
            form="lite",
        )
    got = weights.architecture_of(model.state_dict())
    assert got == {"name": "mobilenet_v1", "alpha": alpha, "variant": variant, "form": "lite"}


def spec(*, classes: tuple[str, ...] = ANIMALS, **task_options) -> ModelSpec:
    return ModelSpec(
        task="ssd",
        task_options={"form": "lite", "loss": "focal"} | task_options,
        backbone_options={"name": "mobilenet_v1", "alpha": 0.25, "activation": "relu6", "freeze": 1},
        preprocessing=Preprocessing(320, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
        classes=classes,
        category_ids=(17, 18, 24),
    )


def test_our_own_checkpoint_tells_everything(tmp_path):
    model = build_model(spec())
    save_model(model, tmp_path / "best.ckpt")
    got = read_weights(tmp_path / "best.ckpt")
    assert got.classes == ANIMALS
    assert got.category_ids == (17, 18, 24)
    assert got.settings["loss"] == "focal"
    assert got.settings["form"] == "lite"
    assert got.settings["activation"] == "relu6"
    assert got.settings["image_size"] == 320
    assert got.settings["std"] == (4.0, 5.0, 6.0)
    assert "padding" not in got.settings  # the checkpoint does not say

    torch.manual_seed(1)
    fresh = build_model(spec())
    report = load_weights(fresh, got, classes=[name.upper() for name in ANIMALS])
    assert same(model, fresh)
    assert report.used == report.total == len(got.tensors)

    backbone = create_backbone("mobilenet_v1", alpha=0.25)
    report = load_weights(backbone, got)
    assert same(backbone, model.backbone)
    assert "into the backbone alone" in str(report)
    assert "trained with activation relu6, the model has relu" in str(report)


def test_plain_state_dicts(tmp_path):
    model = classifier()
    for number, state in enumerate(
        (
            model.state_dict(),
            {
                "state_dict": {f"model.{name}": t for name, t in model.state_dict().items()}
                | {"metric.sum": torch.ones(1)}
            },
            {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()},
        )
    ):
        torch.save(state, tmp_path / f"{number}.pt")
        fresh = classifier(seed=1)
        load_weights(fresh, read_weights(tmp_path / f"{number}.pt"))
        assert same(model, fresh)


def test_safetensors(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match=r"needs safetensors: pip install safetensors"):
        read_weights(tmp_path / "a.safetensors")
    monkeypatch.undo()
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(dict(classifier().state_dict()), tmp_path / "b.safetensors")
    assert read_weights(tmp_path / "b.safetensors").settings["alpha"] == 0.25


class Exploding:
    """What a hostile pickle would hold."""

    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_a_file_never_runs_code(tmp_path, capsys):
    torch.save({"state_dict": Exploding()}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="more than arrays and plain values"):
        read_weights(tmp_path / "bad.pt")
    np.savez(tmp_path / "bad.npz", a=np.array([Exploding()], dtype=object))
    with pytest.raises(UserError, match=r"bad\.npz: damaged"):
        read_weights(tmp_path / "bad.npz")
    assert "ran" not in capsys.readouterr().out


def test_damaged_and_strange_files(tmp_path, keras_file):
    (tmp_path / "page.h5").write_bytes(b"<!DOCTYPE html><html>")
    with pytest.raises(UserError, match=r"page\.h5: it is no \.npz.*it begins with b'<!DOCTYPE html>"):
        read_weights(tmp_path / "page.h5")
    (tmp_path / "half.npz").write_bytes(keras_file.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"half\.npz: it is no \.npz"):
        read_weights(tmp_path / "half.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="unknown layout: its 1 arrays begin with a;"):
        read_weights(tmp_path / "other.npz")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(UserError, match="it holds a list, expected a state dict"):
        read_weights(tmp_path / "list.pt")
    pytest.importorskip("h5py")
    (tmp_path / "half.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(UserError, match=r"half\.h5: damaged \.h5"):
        read_weights(tmp_path / "half.h5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("conv_pw_7/kernel"), "missing conv_pw_7/kernel"),
        (lambda a: a.pop("conv_preds/bias"), "missing conv_preds/bias"),
        (lambda a: a.update({"conv_dw_14/depthwise_kernel": np.zeros(1)}), "unexpected conv_dw_14/depthwise_kernel"),
        (lambda a: a.update({"conv1/kernel": np.zeros((3, 3, 9))}), r"conv1/kernel has shape \[3, 3, 9\], expected 4"),
        (lambda a: a.update({"conv1/kernel": np.zeros((3, 3, 3, 9))}), "for no width multiplier"),
        (lambda a: a["conv1_bn/beta"].fill(np.nan), "conv1_bn/beta holds values that are not finite"),
    ],
)
def test_an_incomplete_layout_is_refused(tmp_path, keras_file, change, message):
    with np.load(keras_file) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(UserError, match=rf"changed\.npz: .*{message}"):
        read_weights(tmp_path / "changed.npz")


@pytest.mark.parametrize("suffix", ["npz", "pt", "old.pt"])
def test_damage_is_one_message_wherever_it_is(tmp_path, suffix):
    state = {"stem.conv.weight": torch.randn(8, 3, 3, 3), "stem.norm.bias": torch.randn(8)}
    path = tmp_path / f"x.{suffix}"
    if suffix == "npz":
        np.savez_compressed(path, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == "pt")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    messages = []
    for _ in range(40):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(len(whole), size=8)] ^= rng.integers(1, 256, size=8, dtype=np.uint8)
        path.write_bytes(damaged.tobytes())
        try:
            read_weights(path)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all("cannot read weights from" in message for message in messages)
