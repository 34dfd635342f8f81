"""Reading a tar from a stream, member after member, and the samples that its members form.

Python's own `tarfile` builds an object of twenty fields a member, which takes longer than reading a small picture; the
three header formats in use (ustar, GNU, pax) need a page of code.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Container, Iterator
from typing import Literal, NamedTuple, Protocol

Failure = Literal["missing", "truncated", "damaged"]

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_CHUNK = 1 << 20
_FILES = b"0\x007"  # regular; regular as of old; contiguous, which everybody treats as regular
_WITHOUT_DATA = b"123456"  # links, devices, folders and pipes: whatever their size field says
_MAX_PAX = 1 << 20  # bytes of extended header; more is damage, and would be read into memory
# Up to the first dot of the last part of the path, as WebDataset splits it.
_NAME = re.compile(r"((?:.*/)?[^./][^/.]*)\.([^/]+)", re.DOTALL)


class ShardError(Exception):
    """A shard cannot be read, or not to its end.

    Args:
        kind: ``missing``: nothing of it can be had; ``truncated``: it ends too early; ``damaged``: it is no tar, or
            from some place on it is none.
        message: What happened, for people.
    """

    def __init__(self, kind: Failure, message: str):
        super().__init__(message)
        self.kind = kind


class Readable(Protocol):
    """What a tar is read from; an end of file is fewer bytes than asked for."""

    def read(self, size: int, /) -> bytes:
        """The next ``size`` bytes, or all that are left."""
        ...

    def skip(self, size: int, /) -> None:
        """Go ahead by ``size`` bytes; may go beyond the end."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class Sample(NamedTuple):
    """The members of a tar that share a key and stand next to each other.

    Attributes:
        place: Where it stands in the tar, from 0.
        key: The path up to the first dot of its last part.
        members: What comes after that dot -> the member's bytes.
        whole: False for the last one of a tar that ends too early: it may have had more members.
    """

    place: int
    key: str
    members: dict[str, bytes]
    whole: bool = True


def read_samples(
    file: Readable, *, start: int = 0, stop: int | None = None, step: int = 1, only: Container[str] | None = None
) -> Iterator[Sample]:
    """The samples ``start:stop:step`` of a tar; the bytes of others are passed over.

    Members that are no regular file, hidden ones and those without a dot belong to no sample. With ``only``, members
    that end in anything else are passed over, too: they are there, without their bytes.

    Raises:
        ShardError: The tar ends before ``stop`` without its end mark, or is damaged. What could be read was yielded.
    """
    index, wanted = -1, False
    key: str | None = None
    members: dict[str, bytes] = {}
    try:
        while (header := _next_file(file)) is not None:
            name, size = header
            match = _NAME.fullmatch(name)
            if match is None:
                file.skip(_padded(size))
                continue
            found, suffix = match.groups()
            if found != key or suffix in members:
                if wanted:
                    yield Sample(index, key or "", members)
                index, key, members = index + 1, found, {}
                if stop is not None and index >= stop:
                    return
                wanted = index >= start and (index - start) % step == 0
            if wanted and (only is None or suffix in only):
                data = file.read(size)
                if len(data) < size:
                    raise ShardError("truncated", f"it ends {size - len(data):,} bytes before {name} is complete")
                members[suffix] = data
                if size % _BLOCK:
                    file.read(-size % _BLOCK)
            else:
                members[suffix] = b""
                file.skip(_padded(size))
    except ShardError:
        if wanted and members:
            yield Sample(index, key or "", members, whole=False)
        raise
    if wanted:
        yield Sample(index, key or "", members)


def _next_file(file: Readable) -> tuple[str, int] | None:
    """Name and size of the next regular file, whose bytes come next; None at the end mark."""
    own: dict[str, str] = {}  # what extended headers say of the next member
    while True:
        block = file.read(_BLOCK)
        if block == _ZEROS:
            return None
        if len(block) < _BLOCK:
            raise ShardError("truncated", "it ends without the end mark of a tar")
        kind, size = block[156:157], _number(block[124:136])
        if not _checksum_is_right(block, _number(block[148:156])):
            raise ShardError("damaged", "a header's checksum is wrong: damaged there, compressed, or not a tar")
        if kind in (b"x", b"L"):
            data = _read_extension(file, size)
            own.update(_pax(data) if kind == b"x" else {"path": _text(data)})
            continue
        if kind == b"S" or own and any(word.startswith("GNU.sparse") for word in own):
            raise ShardError("damaged", "it holds a sparse file, which cannot be read here")
        name = own.get("path") or _name(block)
        if "size" in own:
            size = _decimal(own["size"])
        own = {}
        if kind in _FILES and not name.endswith("/"):
            return name, size
        if kind not in _WITHOUT_DATA:
            file.skip(_padded(size))


def _name(block: bytes) -> str:
    name = _text(block[:100])
    # Only POSIX's header has a prefix there; GNU's ("ustar  ") has times.
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", errors="surrogateescape")


def _number(field: bytes) -> int:
    """A number of a header: octal text, or GNU's big-endian bytes where it would not fit."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        value = int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        value = -1
    if value < 0:
        raise ShardError("damaged", "a header holds no number where one belongs: damaged there, or not a tar")
    return value


def _decimal(text: str) -> int:
    if not text.isdecimal():
        raise ShardError("damaged", f"an extended header gives the size {text!r}")
    return int(text)


def _checksum_is_right(block: bytes, stored: int) -> bool:
    """Whether a header's bytes, its own field taken as spaces, add up to what that field says.

    The lower half of an Adler checksum is 1 and the sum of the bytes, modulo 65,521, twenty times as fast as `sum`.
    """
    field = sum(block[148:156]) - 8 * 32
    if ((zlib.adler32(block) & 0xFFFF) - 1 - field - stored) % 65_521 == 0:
        return True
    # Some old programs added up signed bytes.
    return stored == sum(block) - field - 256 * sum(byte > 127 for byte in block)


def _read_extension(file: Readable, size: int) -> bytes:
    if size > _MAX_PAX:
        raise ShardError("damaged", f"it has an extended header of {size:,} bytes")
    data = file.read(_padded(size))
    if len(data) < size:
        raise ShardError("truncated", "it ends within an extended header")
    return data[:size]


def _pax(data: bytes) -> dict[str, str]:
    """The records ``LENGTH KEY=VALUE`` of an extended header, a line each; the length counts the record whole."""
    found = {}
    while data.strip(b"\0"):
        digits, space, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
        record = data[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if not (space and equals and record.endswith(b"\n")):
            raise ShardError("damaged", "an extended header cannot be read")
        found[key.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
        data = data[length:]
    return found


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
