"""Writing pictures with a class or a place as tar shards in WebDataset's layout."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mnvision.data.shard_files import INDEX, parse_index
from mnvision.download import file_sha256
from mnvision.errors import UserError
from mnvision.files import write_text

log = logging.getLogger(__name__)

_BLOCK, _END = 512, 10_240  # bytes: members begin on blocks; a tar ends on a multiple of twenty
_MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp", b"BM": "bmp", b"II*\0": "tif", b"MM\0*": "tif"}
_MAGIC |= {b"P5": "pgm", b"P6": "ppm"}


class ShardItem(NamedTuple):
    """One sample to write.

    Attributes:
        key: Its name, unlike all others; may hold folders (``/``) and no dot.
        picture: The bytes of a picture file, which are kept as they are; or uint8 [H, W, 3] RGB, written as PNG.
        label: 0..K-1; None writes no ``KEY.cls``.
        extra: What else is known of it, as JSON; None writes no ``KEY.json``.
    """

    key: str
    picture: bytes | np.ndarray
    label: int | None
    extra: Mapping[str, Any] | None = None


def write_shards(
    items: Iterable[ShardItem],
    folder: str | Path,
    *,
    classes: Sequence[str] | None,
    name: str = "train",
    pictures_per_shard: int = 10_000,
    max_bytes: int | None = None,
) -> Path:
    """Write samples, in the order given, as ``NAME-000000.tar`` ... and an ``index.json``.

    The same samples give the same bytes. A shard appears whole or not at all, the index after all of them; what an
    interrupted run has written is found to be right and kept. Shards of another name in the folder, such as those of
    another split, keep their places in the index.

    Args:
        items: The samples. Readers shuffle shards and a buffer of samples: give them in a shuffled order.
        folder: Where to; it is made if need be.
        classes: The K class names; None where samples have no label.
        name: What the shards' names begin with.
        pictures_per_shard: The most samples in a shard.
        max_bytes: The largest shard, unless it is a single sample; None for no limit.

    Returns:
        The path of the index.

    Raises:
        UserError: There are other shards of that name already, a sample is wrong, there are none, or the disk is full.
    """
    if pictures_per_shard < 1 or (max_bytes is not None and max_bytes < 1):
        raise UserError(f"pictures_per_shard={pictures_per_shard}, max_bytes={max_bytes}: expected at least 1")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"shards cannot be called {name!r}. Expected letters, digits, - and _")
    folder = Path(folder).expanduser()
    others = _other_entries(folder, name=name, classes=classes)
    entries: list[dict[str, Any]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for members in _grouped(items, classes=classes, most=pictures_per_shard, max_bytes=max_bytes):
            entries.append(_write_shard(folder / f"{name}-{len(entries):06d}.tar", members))
    except OSError as error:
        raise UserError(f"Cannot write shards to {folder}: {error.strerror or error}.") from error
    if not entries:
        raise UserError(f"there is no sample to write to {folder}. Expected at least one")
    _refuse(folder, [path for path in _shards_of(folder, name) if path.name not in {e["name"] for e in entries}])
    names = None if classes is None else list(classes)
    index = {"classes": names, "shards": sorted(others + entries, key=lambda entry: entry["name"])}
    write_text(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n", what="the index")
    samples = sum(entry["samples"] for entry in entries)
    log.info("%s: %d samples in %d shards", folder / INDEX, samples, len(entries))
    return folder / INDEX


def suffix_of(data: bytes) -> str | None:
    """What the name of a picture file with these bytes ends in; None where they are no picture."""
    return next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), None)


def _members(item: ShardItem, *, classes: Sequence[str] | None) -> list[tuple[str, bytes]]:
    """The files of a sample, sorted by name."""
    key, picture, label, extra = item
    if not re.fullmatch(r"(?:[^./\0][^.\0]*/)*[^./\0]+", key) or "//" in key:
        raise UserError(f"a sample cannot be called {key!r}. Expected a relative path without dots")
    if classes is None and label is not None:
        raise UserError(f"sample {key} has the label {label}. Expected none, as there are no classes")
    if classes is not None and (label is None or not 0 <= label < len(classes)):
        raise UserError(f"sample {key} has the label {label}. Expected 0 to {len(classes) - 1}, one of the classes")
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise UserError(f"sample {key} is {picture.dtype} {list(picture.shape)}. Expected uint8 [H, W, 3]")
        data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    else:
        data = bytes(picture)
    suffix = suffix_of(data)
    if suffix is None:
        raise UserError(
            f"sample {key} is no picture ({len(data):,} bytes). Expected JPEG, PNG, WebP, BMP, TIFF, PGM or PPM"
        )
    members = [(f"{key}.{suffix}", data)]
    if label is not None:
        members.append((f"{key}.cls", str(label).encode()))
    if extra is not None:
        members.append((f"{key}.json", json.dumps(extra, sort_keys=True, allow_nan=False).encode()))
    return sorted(members)


def _grouped(
    items: Iterable[ShardItem], *, classes: Sequence[str] | None, most: int, max_bytes: int | None
) -> Iterator[Iterator[list[tuple[str, bytes]]]]:
    """The samples of each shard, as an iterator that has to be used up before the next."""
    used: set[str] = set()

    def checked() -> Iterator[list[tuple[str, bytes]]]:
        for item in items:
            if item.key in used:
                raise UserError(f"two samples are called {item.key!r}. Expected another name for each")
            used.add(item.key)
            yield _members(item, classes=classes)

    samples = checked()
    waiting = next(samples, None)

    def one_shard() -> Iterator[list[tuple[str, bytes]]]:
        nonlocal waiting
        count, size = 0, _BLOCK * 2
        while waiting is not None:
            size += sum(_size(*member) for member in waiting)
            if count == most or (count and max_bytes is not None and -(-size // _END) * _END > max_bytes):
                return
            count += 1
            yield waiting
            waiting = next(samples, None)

    while waiting is not None:
        yield one_shard()


def _info(name: str, data: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)  # no time, nobody's
    info.size, info.mode = len(data), 0o644
    return info


def _size(name: str, data: bytes) -> int:
    """Bytes of a member in a tar, its headers included."""
    return len(_info(name, data).tobuf(tarfile.PAX_FORMAT)) + -(-len(data) // _BLOCK) * _BLOCK


def _write_shard(path: Path, samples: Iterator[list[tuple[str, bytes]]]) -> dict[str, Any]:
    """Write a shard, or find that it is there already; its entry in the index."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for members in samples:
                count += 1
                for name, data in members:
                    tar.addfile(_info(name, data), io.BytesIO(data))
        digest, size = file_sha256(temporary), temporary.stat().st_size
        if not path.exists():
            os.replace(temporary, path)
        elif file_sha256(path) != digest:
            _refuse(path.parent, [path])
    finally:
        temporary.unlink(missing_ok=True)
    return {"name": path.name, "samples": count, "bytes": size, "sha256": digest}


def _shards_of(folder: Path, name: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{name}-*.tar") if re.fullmatch(r"\d{6,}", path.stem[len(name) + 1 :]))


def _refuse(folder: Path, others: list[Path]) -> None:
    if others:
        raise UserError(
            f"{others[0]} is there already and holds something else. Shards are not written over: choose an empty"
            f" folder, or remove the old shards and {INDEX} from {folder}"
        )


def _other_entries(folder: Path, *, name: str, classes: Sequence[str] | None) -> list[dict[str, Any]]:
    """The entries of other splits in an index that is there already."""
    try:
        text = (folder / INDEX).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return []
    known, entries = parse_index(text, where=str(folder / INDEX))
    if known != (None if classes is None else tuple(classes)):
        counts = [0 if names is None else len(names) for names in (known, classes)]
        raise UserError(f"{folder / INDEX} has {counts[0]} other classes than these {counts[1]}. Choose another folder")
    ours = {path.name for path in _shards_of(folder, name)}
    return [entry for entry in entries.values() if entry["name"] not in ours]
