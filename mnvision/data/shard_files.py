"""Shards: what a pattern stands for, the index beside them, and opening one, here or behind a URL."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnvision import download
from mnvision.data.remote_file import RemoteFile
from mnvision.data.tar import Readable, ShardError
from mnvision.errors import UserError

log = logging.getLogger(__name__)

INDEX = "index.json"
_BUFFER = 1 << 16  # larger ones copy pictures twice
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_MAX_SHARDS = 1_000_000


@dataclass(frozen=True)
class Shard:
    """One tar of samples.

    Attributes:
        location: A local path, or an http or https URL.
        samples: How many it holds, as the index says; None where there is none.
        bytes: Its size, as the index says.
        sha256: Its checksum in hexadecimal, as the index says.
    """

    location: str
    samples: int | None = None
    bytes: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.location.rpartition("/")[2]


def is_url(location: str) -> bool:
    """Whether a location is an http or https URL."""
    return location.startswith(("http://", "https://"))


def expand_shards(shards: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """The shards that a pattern stands for, or several ones after each other.

    >>> expand_shards("http://host/{train,val}-{08..10}.tar")[1:4]
    ('http://host/train-09.tar', 'http://host/train-10.tar', 'http://host/val-08.tar')

    Args:
        shards: Paths or URLs; ``{000000..000146}`` and ``{a,b}`` stand for several, and ``*``, ``?``, ``[`` in a local
            path for the files that there are. A folder stands for all of its ``.tar`` files.

    Raises:
        UserError: Nothing is named, or a ``*`` or folder finds nothing.
    """
    given = [shards] if isinstance(shards, str | Path) else list(shards)
    found = [location for one in given for text in _without_braces(str(one)) for location in _match(text)]
    if not found:
        raise UserError(
            "no shards are given. Expected paths or URLs of tar files, such as 'train-{000000..000146}.tar'"
        )
    return tuple(found)


def with_index(locations: Sequence[str]) -> tuple[list[Shard], tuple[str, ...] | None]:
    """The shards with what the ``index.json`` beside them says, and its classes, if it has any.

    Returns:
        The shards, without numbers where there is no index or it does not list them; and the class names, or None.

    Raises:
        UserError: An index cannot be read, two disagree about the classes, or a shard has grown since it was listed.
    """
    listed: dict[str, dict[str, dict[str, Any]]] = {}
    classes: tuple[str, ...] | None = None
    for folder in dict.fromkeys(location.rpartition("/")[0] for location in locations):
        text = _read_index(folder)
        if text is None:
            listed[folder] = {}
            continue
        names, listed[folder] = parse_index(text, where=f"{folder}/{INDEX}")
        if classes is not None and names != classes:
            raise UserError(f"{folder}/{INDEX} has other classes than the other shards. Expected the same everywhere")
        classes = names
    shards = []
    for location in locations:
        folder, _, name = location.rpartition("/")
        entry = listed[folder].get(name, {})
        shard = Shard(location, entry.get("samples"), entry.get("bytes"), entry.get("sha256"))
        path = Path(location)
        if shard.bytes is not None and not is_url(location) and path.is_file() and path.stat().st_size > shard.bytes:
            raise UserError(
                f"{location} has {path.stat().st_size:,} bytes, but {INDEX} beside it says {shard.bytes:,}: it was"
                f" written after the index. Write both again, or remove {INDEX} (the number of samples is then unknown)"
            )
        shards.append(shard)
    return shards, classes


def refuse_cut(shard: Shard) -> None:
    """Refuse a local shard that is smaller than its index says.

    Raises:
        UserError: It is cut short; reading it would tell, perhaps hours later.
    """
    path = Path(shard.location)
    if shard.bytes is None or is_url(shard.location) or not path.is_file() or path.stat().st_size >= shard.bytes:
        return
    raise UserError(
        f"{shard.location} has {path.stat().st_size:,} of the {shard.bytes:,} bytes that {INDEX} beside it says: copy"
        " it again, or write it again with `mnvision shards`; data.bad_images=skip uses what can be read of it"
    )


def parse_index(text: str, *, where: str) -> tuple[tuple[str, ...] | None, dict[str, dict[str, Any]]]:
    """The classes, if it has any, and, by the shards' names, the entries of an ``index.json``.

    Raises:
        UserError: It is not what `write_shards` writes.
    """
    try:
        index = json.loads(text)
        names = index["classes"]  # null where the pictures have places
        classes = None if names is None else tuple(str(name) for name in names)
        entries = {
            str(entry["name"]): {
                "name": str(entry["name"]),
                "samples": int(entry["samples"]),
                "bytes": int(entry["bytes"]),
                "sha256": str(entry["sha256"]),
            }
            for entry in index["shards"]
        }
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{where} is no index of shards ({type(error).__name__}: {error}). Expected an object with 'classes' and"
            " 'shards' (name, samples, bytes, sha256). Write the shards again, or remove the file"
        ) from None
    return classes, entries


@functools.cache
def _kept(url: str, sha256: str | None, folder: Path) -> Path:
    """The file of a shard behind a URL: its checksum is looked at once in a process, not whenever it is opened."""
    return download.fetch(url, sha256=sha256, folder=folder)


def open_shard(shard: Shard, *, cache: Path | None = None) -> Readable:
    """Open a shard to read it from its beginning.

    Args:
        shard: Which.
        cache: Folder in which to keep the shards of URLs; None streams them anew every time.

    Raises:
        ShardError: It cannot be had. Reading raises it too, where a line breaks for good.
    """
    location = shard.location
    if is_url(location) and cache is None:
        return RemoteFile(location)
    try:
        if is_url(location):
            assert cache is not None
            # Shards of several sets may have the same names.
            folder = cache / hashlib.sha256(location.rpartition("/")[0].encode()).hexdigest()[:12]
            location = str(_kept(location, shard.sha256, folder))
        return _LocalFile(location)
    except UserError as error:
        raise ShardError("missing", str(error)) from None
    except OSError as error:
        raise ShardError("missing", error.strerror or str(error)) from None


class _LocalFile:
    """A file of this machine."""

    def __init__(self, path: str):
        self._file = open(path, "rb", buffering=_BUFFER)  # noqa: SIM115
        self.read, self.close = self._file.read, self._file.close

    def skip(self, size: int) -> None:
        self._file.seek(size, 1)


def _read_index(folder: str) -> str | None:
    """The text of the index in a folder or below a URL; None where there is none."""
    if is_url(folder):
        try:
            file = RemoteFile(f"{folder}/{INDEX}")
        except ShardError as error:
            log.info("no %s beside the shards of %s (%s): the number of samples is unknown", INDEX, folder, error)
            return None
        try:
            return file.read(1 << 30).decode("utf-8", "replace")
        except ShardError as error:
            raise UserError(f"{folder}/{INDEX} cannot be read: {error}. Try again") from None
        finally:
            file.close()
    try:
        return (Path(folder or ".") / INDEX).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder}/{INDEX} cannot be read: {error}") from None


def _without_braces(text: str) -> list[str]:
    match = _BRACES.search(text)
    if match is None:
        return [text]
    first, last, words = match.groups()
    if words is None:
        low, high = int(first), int(last)
        if low > high or high - low >= _MAX_SHARDS:
            raise UserError(f"{text}: {match[0]} counts from {low} to {high}. Expected the smaller number first")
        words = ",".join(f"{number:0{len(first)}d}" for number in range(low, high + 1))
    rest = _without_braces(text[match.end() :])
    return [text[: match.start()] + word + end for word in words.split(",") for end in rest]


def _match(location: str) -> list[str]:
    """The files of one location without braces."""
    if is_url(location):
        return [location]
    path = Path(location).expanduser()
    if path.is_dir():
        found = sorted(str(file) for file in path.glob("*.tar"))
    elif not path.exists() and glob.has_magic(location):
        found = sorted(glob.glob(str(path)))
    else:  # whether it is there shows when it is read: a missing shard does not end a run
        return [str(path)]
    if not found:
        raise UserError(
            f"{location}: no shards found. Expected tar files, such as train-000000.tar, as `mnvision shards` writes"
            " them; check data.root, data.train, data.val and data.test, or give data=image_folder for single pictures"
        )
    return found
