"""An index of pictures: a folder with their embeddings, their paths, and what made them; and the search in it.

``embeddings.npy`` holds float32 [I, D], ``paths.json`` a list of I paths, ``index.json`` the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnvision.errors import UserError
from mnvision.files import write_text
from mnvision.models.base import TaskModel

_FORMAT = 2  # raise it when a model gets another digest
_NO_PART = ("dropout", "flip")  # of a digest: options of the training alone, and what the model itself says
_ROWS, _QUERIES = 65_536, 256  # of similarities in memory at a time: 64 MB


class Index(NamedTuple):
    """What was read from the folder of an index.

    Attributes:
        embeddings: float32 [I, D] of unit length, left on the disk until they are needed.
        paths: Of the I pictures, as they were given.
        model: The digest of the model that made them.
        flip: Whether the mirror images had a part in them, see ``Embedder``. This and the next are what a user may set
            of a trained model, and a query has to be embedded likewise.
        crop_share: How much of each picture was seen, see ``Preprocessing``.
    """

    embeddings: np.ndarray
    paths: list[str]
    model: str
    flip: bool
    crop_share: float


def model_digest(model: TaskModel) -> str:
    """SHA-256 of what decides a model's embeddings: weights, network, and how it fits a picture to its input.

    Equal weights are not enough: padding, activation and BatchNorm's epsilon are options, and have none.

    Args:
        model: As it was loaded, on any device; not the copy that ``for_inference`` makes, whose weights are others.
    """
    decisive = {
        "preprocessing": asdict(model.preprocessing),
        "backbone": model.spec.backbone_options,
        "task": {name: value for name, value in model.spec.task_options.items() if name not in _NO_PART},
        "flip": _flips(model),
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_index(folder: Path, embeddings: np.ndarray, paths: Sequence[str | Path], *, model: TaskModel) -> Path:
    """Write an index; an older one in the folder is replaced.

    Args:
        folder: Made if need be.
        embeddings: float [I, D]; brought to unit length.
        paths: Of the I pictures; absolute ones are found from everywhere.
        model: What made the embeddings, see ``model_digest``.

    Returns:
        The folder.

    Raises:
        UserError: The numbers of embeddings and paths differ, there is none, one is not finite or zero, or the files
            cannot be written.
    """
    if embeddings.ndim != 2 or not len(embeddings) or len(embeddings) != len(paths):
        raise UserError(
            f"index: got embeddings of shape {list(embeddings.shape)} and {len(paths)} paths; expected a row for each"
            " picture, and one at least"
        )
    vectors = np.asarray(embeddings, dtype=np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    broken = ~(np.isfinite(length[:, 0]) & (length[:, 0] > 0))
    if broken.any():
        raise UserError(
            f"index: {int(broken.sum())} embeddings are not finite, or zero, the first is that of"
            f" {paths[int(broken.argmax())]}; the model has probably diverged, take another checkpoint"
        )
    about = {
        "format": _FORMAT,
        "pictures": len(vectors),
        "width": vectors.shape[1],
        "model": model_digest(model),
        "flip": _flips(model),
        "task": model.spec.task,
        "preprocessing": asdict(model.preprocessing),
    }
    (folder / "index.json").unlink(missing_ok=True)  # it comes last: a folder without it is no index
    _write_array(folder / "embeddings.npy", vectors / length)
    write_text(folder / "paths.json", json.dumps([str(path) for path in paths], indent=0), errors="surrogateescape")
    write_text(folder / "index.json", json.dumps(about, indent=1))
    return folder


def read_index(folder: str | Path) -> Index:
    """Read an index.

    Args:
        folder: As ``write_index`` left it.

    Raises:
        UserError: The folder is no index, or its files are broken or do not belong together.
    """
    folder = Path(folder)
    try:
        about: dict[str, Any] = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        paths = json.loads((folder / "paths.json").read_text(encoding="utf-8", errors="surrogateescape"))
        embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
        if about["format"] != _FORMAT:
            raise ValueError(f"it is of format {about['format']}, expected {_FORMAT}")
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise TypeError("paths.json is no list of paths")
        whole = embeddings.shape == (len(paths), about["width"])
        share = float(about["preprocessing"]["crop_share"])
        known = Index(embeddings, paths, str(about["model"]), bool(about["flip"]), share)
    except FileNotFoundError as error:
        below = folder / "index"  # of a folder that mnvision predict wrote
        meant = f"; did you mean {below}?" if (below / "index.json").is_file() else ""
        raise UserError(
            f"index: {folder} is no index: there is no {Path(error.filename).name}. Expected index.json, paths.json and"
            f" embeddings.npy; mnvision predict with an embedder writes them{meant}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UserError(f"index: {folder} cannot be read ({error}); make it again with mnvision predict") from error
    if not whole:
        raise UserError(
            f"index: the files in {folder} do not belong together: embeddings of shape {list(embeddings.shape)},"
            f" {len(paths)} paths, and a width of {about['width']}; make it again"
        )
    if not _finite(embeddings):
        raise UserError(
            f"index: {folder}/embeddings.npy holds {embeddings.dtype} that are not all finite; expected float32 of unit"
            " length; make it again with mnvision predict"
        )
    return known


def check_model(known: Index, model: TaskModel) -> None:
    """Refuse a model that did not make the index: its embeddings can be compared with its own alone.

    Args:
        known: The index.
        model: What the queries are embedded with; what a user may set of it has to be that of the index.

    Raises:
        UserError: Another model made it.
    """
    own = model_digest(model)
    if known.model != own:
        raise UserError(
            f"index: it was made by another model ({known.model[:12]}) than ckpt is ({own[:12]}), and embeddings of two"
            " models cannot be compared. Give the checkpoint that made it, or make it again with mnvision predict"
        )


def prepare(vectors: np.ndarray) -> np.ndarray:
    """Vectors float32 [I, D] as ``nearest`` takes them: as they are. Another way to search may have to copy them."""
    return vectors


def nearest(vectors: np.ndarray, queries: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest vectors by cosine, exactly; parts of the index at a time, so that it need not fit into memory.

    Args:
        vectors: float32 [I, D] of unit length.
        queries: float32 [Q, D] of unit length.
        count: How many to find; no more than there are.

    Returns:
        Similarities float32 [Q, count], best first, and the places int64 [Q, count] of the vectors.
    """
    count = min(count, len(vectors))
    found = [_nearest(vectors, queries[i : i + _QUERIES], count=count) for i in range(0, len(queries), _QUERIES)]
    if not found:
        return np.zeros((0, count), np.float32), np.zeros((0, count), np.int64)
    return np.concatenate([one for one, _ in found]), np.concatenate([places for _, places in found])


def _nearest(vectors: np.ndarray, queries: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    best = np.zeros((len(queries), 0), np.float32)
    places = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(vectors), _ROWS):
        part = np.asarray(vectors[start : start + _ROWS])
        similar = np.hstack([best, queries @ part.T])  # what was best so far competes with the next part
        where = np.hstack([places, np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))])
        if similar.shape[1] > count:
            kept = np.argpartition(-similar, count - 1, axis=1)[:, :count]
            similar, where = np.take_along_axis(similar, kept, 1), np.take_along_axis(where, kept, 1)
        best, places = similar, where
    order = np.lexsort((places, -best), axis=1)  # of equals the first one
    return np.take_along_axis(best, order, 1), np.take_along_axis(places, order, 1)


def _flips(model: TaskModel) -> bool:
    return bool(getattr(model, "flip", False))


def _finite(vectors: np.ndarray) -> bool:
    """Whether all are finite floats; parts of the index at a time."""
    parts = range(0, len(vectors), _ROWS)
    return vectors.dtype == np.float32 and all(np.isfinite(vectors[i : i + _ROWS]).all() for i in parts)


def _write_array(path: Path, array: np.ndarray) -> None:
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            np.save(temporary, array)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write the index to {path}: {error.strerror or error}.") from error
