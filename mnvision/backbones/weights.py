"""Pretrained weights: known names, files of several kinds, loading into a network with a report.

>>> resolve_weights("keras_mobilenet_v1_0.7_224")
Traceback (most recent call last):
    ...
mnvision.errors.UserError: no weights 'keras_mobilenet_v1_0.7_224': no such file, and no known name; did you mean ...
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnvision.backbones.architecture import architecture_of as architecture_of
from mnvision.backbones.layouts import Weights as Weights
from mnvision.backbones.layouts import from_keras, from_ours, from_tensorflow_ssd
from mnvision.backbones.layouts import to_keras_arrays as to_keras_arrays
from mnvision.backbones.layouts_timm import from_timm, is_timm
from mnvision.backbones.layouts_torchvision import from_torchvision, is_torchvision
from mnvision.backbones.loading import LoadReport as LoadReport
from mnvision.backbones.loading import load_weights as load_weights
from mnvision.backbones.sources import SOURCES, WeightSource
from mnvision.backbones.timm_adapter import timm_weights
from mnvision.cache import cache_dir
from mnvision.download import fetch
from mnvision.errors import UserError, did_you_mean
from mnvision.files import WEIGHT_SUFFIXES

SPEC = "mnvision/spec"  # among the arrays read: what a checkpoint of ours says of its model


@dataclass(frozen=True)
class WeightFile:
    """A weight file on this machine, and the published weights that it is, if it was asked for by name."""

    path: Path
    source: WeightSource | None = None


def resolve_weights(text: str | Path) -> WeightFile:
    """Find the file that a user means: a path, a URL, or a known name; the last two are downloaded once.

    Args:
        text: ``weights/mine.npz``, ``https://.../x.h5`` or a key of ``SOURCES``.

    Raises:
        UserError: If there is no such file or name (with the nearest names), or the download fails.
    """
    path = Path(os.path.expanduser(text))
    name = str(text)
    source = SOURCES.get(name)
    url = source.url if source else name
    if url.startswith(("http://", "https://")) and url.endswith((".h5", ".hdf5")) and not path.is_file():
        _package("h5py", extra="h5py", kind="Keras .h5")  # before the download rather than after it
    if name.startswith(("http://", "https://")):
        # Different places use the same file names: one folder for each URL.
        folder = cache_dir() / "weights" / hashlib.sha256(name.encode()).hexdigest()[:12]
        return WeightFile(fetch(name, sha256=None, folder=folder))
    if path.is_file():
        return WeightFile(path)
    if source:
        folder = cache_dir() / "weights" / source.folder
        return WeightFile(fetch(source.url, sha256=source.sha256, folder=folder), source)
    if path.is_dir():
        raise UserError(f"no weights {name!r}: it is a folder, expected a file")
    if path.suffix.lower() in WEIGHT_SUFFIXES or "/" in name or "\\" in name:
        raise UserError(f"no weights {name!r}: there is no file {path.absolute()}")
    hint = did_you_mean(name, SOURCES, most=3, known=True)
    raise UserError(f"no weights {name!r}: no such file, and no known name{hint}")


def read_weights(file: WeightFile | Path | str, *, timm_model: str | None = None) -> Weights:
    """Read a weight file of any kind into our names and axes.

    Kinds, told by their first bytes: ``.npz``, Keras' ``.h5``, what ``torch.save`` and Lightning write, and
    ``.safetensors``. Nothing in a file is ever executed.

    Args:
        file: What ``resolve_weights`` gave, or what it takes.
        timm_model: The timm model that the weights are for, if it is used as a backbone: then its own state dict is a
            layout as well.

    Raises:
        UserError: If the file is missing, unreadable, or of no known layout, or if it needs a package that is not
            installed.
    """
    if not isinstance(file, WeightFile):
        file = resolve_weights(file)
    path, source = file.path, file.source
    try:
        weights = _recognise(_read_arrays(path), timm_model=timm_model)
    except UserError as error:
        raise UserError(f"cannot read weights from {path}: {error}") from error
    except Exception as error:  # damage shows in as many ways as there are decoders
        raise UserError(
            f"cannot read weights from {path}: the file is damaged ({type(error).__name__}: {error})"
        ) from error
    if source is not None:
        if any(
            weights.settings.get(key) != getattr(source, at) for key, at in (("name", "backbone"), ("alpha", "alpha"))
        ):
            raise UserError(f"{path} is not {source.name}: it is of {weights.description}; remove it")
        weights.settings["image_size"] = source.image_size
        if source.normalisation is not None:
            mean, std = source.normalisation
            weights.settings.update(mean=(mean,) * 3, std=(std,) * 3)
        origin = f"{weights.description}; {source.source}; licence {source.licence}"
        weights = dataclasses.replace(weights, description=origin)
    return dataclasses.replace(weights, file=str(path))


def read_tensors(file: str) -> dict[str, Tensor]:
    """The arrays of a weight file of any kind under its own names.

    Raises:
        UserError: As ``read_weights``.
    """
    path = resolve_weights(file).path
    try:
        arrays = _read_arrays(path)
    except UserError as error:
        raise UserError(f"cannot read weights from {path}: {error}") from error
    return {name: torch.as_tensor(array) for name, array in arrays.items() if name != SPEC and _is_number(array)}


def _recognise(arrays: Mapping[str, Any], *, timm_model: str | None = None) -> Weights:
    if "conv1/kernel" in arrays:
        return from_keras(arrays)
    if "conv0/weight" in arrays:
        return from_tensorflow_ssd(arrays)
    spec = arrays.get(SPEC)
    tensors = {name: torch.as_tensor(array) for name, array in arrays.items() if name != SPEC and _is_number(array)}
    for prefix in ("model.", "_orig_mod.", "module."):  # a training module, torch.compile, data parallel
        inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        tensors = inside or tensors
    ours = any(name.startswith("backbone.") for name in tensors)
    if timm_model is not None and not ours:
        return timm_weights(tensors, name=timm_model)
    if ours or "stem.conv.weight" in tensors:
        return from_ours(tensors, spec=spec)
    if is_timm(tensors):
        return from_timm(tensors)
    if is_torchvision(tensors):
        return from_torchvision(tensors)
    raise UserError(
        f"unknown layout: its {len(arrays)} arrays begin with {', '.join(list(arrays)[:3]) or 'none'}; known are "
        "Keras' MobileNet V1, TensorFlow's SSD MobileNet V1 as .npz, torchvision's MobileNet V2 and V3 and SqueezeNet, "
        "timm's V1 and V4, and checkpoints of mnvision"
    )


def _is_number(array: Any) -> bool:
    return isinstance(array, Tensor) or array.dtype.kind in "fiu"


def _read_arrays(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(error.strerror or str(error)) from error
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_h5(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            numpy = any(name.endswith(".npy") for name in archive.namelist())
        return _read_npz(path) if numpy else _read_torch(path)
    if head.startswith(b"\x80"):
        return _read_torch(path)
    if head[8:9] == b"{":
        return _read_safetensors(path)
    raise UserError(f"it is no .npz, .h5, .pt, .ckpt or .safetensors file: it begins with {head!r}")


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"damaged .npz file ({error})") from error


def _read_h5(path: Path) -> dict[str, Any]:
    h5py = _package("h5py", extra="h5py", kind="Keras .h5")
    arrays: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind == "f" and "optimizer_weights" not in name:
            # Layer and weight are the last two parts; Keras nests them in the layer's group once more, or in
            # model_weights/, or in the group of a model used as a layer.
            parts = name.removesuffix(":0").split("/")
            arrays["/".join(parts[-2:])] = node[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except OSError as error:
        raise UserError(f"damaged .h5 file ({error})") from error
    return arrays


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"it is damaged, or holds more than arrays and plain values ({reason})") from error
    if not isinstance(content, Mapping):
        raise UserError(f"it holds a {type(content).__name__}, expected a state dict")
    state = content.get("state_dict", content)
    arrays = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    described = content.get("mnvision")  # a checkpoint of ours says what it is
    return arrays | ({SPEC: described["model"]} if isinstance(described, Mapping) else {})


def _read_safetensors(path: Path) -> dict[str, Any]:
    safetensors = _package("safetensors.torch", extra="safetensors", kind=".safetensors")
    try:
        return safetensors.load_file(path)
    except Exception as error:  # the package has its own error types
        raise UserError(f"damaged .safetensors file ({error})") from error


def _package(name: str, *, extra: str, kind: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"a {kind} file needs {name.split('.')[0]}: pip install {extra}") from error
