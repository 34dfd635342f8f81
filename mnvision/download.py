"""Downloads that survive a broken line, and files that a user brings by hand where there is no line at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from mnvision.cache import cache_dir
from mnvision.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

ATTEMPTS = 4
BACKOFF_SECONDS = 1.0
TIMEOUT_SECONDS = 30.0
CHUNK = 1 << 18
PROGRESS_SECONDS = 5.0
# What a server may answer today and not tomorrow; any other 4xx is an answer for good.
PASSING_STATUSES = (408, 416, 425, 429)


class BrokenLineError(Exception):
    """The line broke or was never there; what has come so far is kept.

    Args:
        reason: What happened, for people.
        passing: Whether another attempt may go on from there.
        status: What the server answered, where it answered with an error.
    """

    def __init__(self, reason: str, *, passing: bool = True, status: int | None = None) -> None:
        super().__init__(reason)
        self.passing, self.status = passing, status


def fetch(url: str, *, sha256: str | None, folder: Path | None = None, filename: str | None = None) -> Path:
    """Return the local file of a URL, downloading it at most once.

    A file that is there already, downloaded before or brought by hand, is checked and used without the network. An
    interrupted download goes on where it stopped, also in a later process, as long as the server still has the same
    file. Processes and threads that want the same file wait for the one that is downloading it.

    Without a known checksum the first one seen is written beside the file, as ``NAME.sha256``, and later calls are
    checked against it: a file that changes or rots afterwards is noticed, a bad first download is not.

    Args:
        url: An http or https URL.
        sha256: The expected SHA-256 in hexadecimal, or its first digits where its publisher gives no more; None if it
            is not known.
        folder: Where to keep the file; ``weights`` in the cache folder where None.
        filename: Its name there; the last part of the URL's path where None.

    Returns:
        The path of the complete, checked file.

    Raises:
        UserError: If the file cannot be had or its checksum is wrong. A downloaded file with a wrong checksum is
            removed; one that was there already is left to the user.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(f"cannot download {url!r}: expected a URL that begins with http:// or https://")
    name = filename or Path(urllib.parse.unquote(parts.path)).name
    if not name:
        raise UserError(f"cannot download {url!r}: the URL does not end in a file name")
    path = (folder or cache_dir() / "weights").absolute() / name
    try:
        with contextlib.suppress(FileNotFoundError):
            return _checked(path, sha256=sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                return _checked(path, sha256=sha256)
            _download(url, path=path, sha256=sha256)
            return _checked(path, sha256=sha256)
    except OSError as error:
        raise UserError(f"cannot keep {path} ({error}): set MNVISION_CACHE to a folder that can be written") from error


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(path: Path, *, sha256: str | None) -> Path:
    """Check a file that is there; raises FileNotFoundError where it is not."""
    got = file_sha256(path)
    record = path.with_name(path.name + ".sha256")
    if sha256 is not None:
        expected, origin = sha256.lower(), "its source"
    elif record.is_file():
        expected, origin = (record.read_text().split() or [""])[0].lower(), f"{record.name}, written when it was new"
    else:
        _replace_text(record, f"{got}  {path.name}\n")
        return path
    if not expected or not got.startswith(expected):
        raise UserError(
            f"{path} has SHA-256 {got}, expected {expected} (from {origin}): remove the file to download it again"
            + (f", or remove {record.name} if you changed it yourself" if sha256 is None else "")
        )
    return path


def _replace_text(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError as error:  # a read-only cache is good enough to read from
        log.debug("cannot record the checksum in %s: %s", path, error)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a file's download lock; the system frees it if the process dies, so it cannot go stale."""
    if fcntl is None:
        yield
        return
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(url: str, *, path: Path, sha256: str | None) -> None:
    # Without a lock two processes must not share one partial file.
    suffix = ".part" if fcntl is not None else f".{os.getpid()}.{threading.get_ident()}.part"
    part = path.with_name(path.name + suffix)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _receive(url, part=part, sha256=sha256)
            part.replace(path)
            _discard(part)
            return
        except BrokenLineError as error:
            if attempt == ATTEMPTS or not error.passing:
                checksum = f" (SHA-256 {sha256})" if sha256 else ""
                raise UserError(
                    f"cannot download {url} ({error}): get that file by other means and put it at {path}{checksum}"
                ) from error
            log.warning("download of %s stopped (%s): attempt %d of %d", url, error, attempt + 1, ATTEMPTS)
            time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _receive(url: str, *, part: Path, sha256: str | None) -> None:
    """Receive a whole file into ``part``, or the rest of it, and check it.

    A rest is asked for only on condition that the file is still the one that was begun (``If-Range``), or where a
    known checksum will tell.
    """
    tag = _tag(part).read_text() if _tag(part).is_file() else ""
    have = part.stat().st_size if part.is_file() and (tag or sha256) else 0
    headers = {}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag:
            headers["If-Range"] = tag
    try:
        answer = open_url(url, headers=headers)
    except BrokenLineError as error:
        if error.status == 416:  # what we have is not the beginning of what the server has
            _discard(part)
        raise
    with answer:
        resumed = answer.status == 206
        if resumed:
            start, total = content_range(answer.headers.get("Content-Range", ""))
            if start != have:
                _discard(part)
                raise BrokenLineError(f"the server sent bytes from {start}, asked from {have}")
        else:  # the whole file: nothing was asked for, the server knows no ranges, or the file has changed
            have, length = 0, answer.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            etag = answer.headers.get("ETag") or ""
            _tag(part).write_text("" if etag.startswith("W/") else etag)  # a weak tag does not promise the same bytes
        size = f" ({total / 1e6:.1f} MB)" if total is not None else ""
        log.info("downloading %s%s to %s%s", url, size, part.parent, f", from byte {have}" if have else "")
        shown = time.monotonic()
        with part.open("ab" if have else "wb") as file:
            while chunk := read_chunk(answer):
                file.write(chunk)
                have += len(chunk)
                if total and time.monotonic() - shown > PROGRESS_SECONDS:
                    shown = time.monotonic()
                    log.info("%s: %d%% of %.1f MB", url, 100 * have // total, total / 1e6)
    if total is not None and have != total:
        if have > total:
            _discard(part)
        raise BrokenLineError(f"received {have} of {total} bytes")
    if sha256 is not None and not (got := file_sha256(part)).startswith(sha256.lower()):
        _discard(part)
        if resumed:  # the beginning may be of an older file: once more from the start
            raise BrokenLineError("the rest did not fit the beginning")
        raise UserError(
            f"{url} has SHA-256 {got}, expected {sha256.lower()}: the download was removed; the file has changed at "
            "its source or was damaged on the way, so try again or bring the right file by hand"
        )


def open_url(url: str, *, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    """Ask for a URL, or with ``Range`` among the headers for a part of it.

    Raises:
        BrokenLineError: It cannot be had; whether asking again may help, it says.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "mnvision", "Accept-Encoding": "identity", **headers})
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        passing = error.code >= 500 or error.code in PASSING_STATUSES
        raise BrokenLineError(f"HTTP {error.code} {error.reason}", passing=passing, status=error.code) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        # A name that cannot be looked up means no network, most of the time: waiting does not help.
        offline = isinstance(reason, socket.gaierror)
        raise BrokenLineError(str(reason) or type(reason).__name__, passing=not offline) from error


def read_chunk(answer: http.client.HTTPResponse, size: int = CHUNK) -> bytes:
    """The next bytes of an answer, at most ``size``; none at its end.

    Raises:
        BrokenLineError: The line broke.
    """
    try:
        return answer.read(size)
    except (OSError, http.client.HTTPException) as error:
        raise BrokenLineError(str(error) or type(error).__name__) from error


def content_range(text: str) -> tuple[int, int | None]:
    """Start and total of a ``Content-Range: bytes 5-9/10``; a total of ``*`` is not known."""
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdigit():
        raise BrokenLineError(f"the server sent Content-Range {text!r}")
    return int(start), int(total) if total.isdigit() else None
