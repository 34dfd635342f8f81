"""A file behind a URL as a stream that survives a broken line."""

from __future__ import annotations

import http.client
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TypeVar

from mnvision import download
from mnvision.data.tar import ShardError

log = logging.getLogger(__name__)

T = TypeVar("T")
_BUFFER = 1 << 18
_BAD_LINE = (OSError, http.client.HTTPException)


class RemoteFile:
    """What a URL gives, read on from where it was when the line breaks.

    Args:
        url: An http or https URL.

    Raises:
        ShardError: It cannot be opened.
    """

    def __init__(self, url: str):
        self._url, self._at = url, 0
        self._total: int | None = None
        self._tag = ""
        self._answer: http.client.HTTPResponse | None = None
        self._left = b""
        try:
            self._insist(self._connect)
        except _LineError as error:
            raise ShardError("missing", str(error)) from None

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, or all that are left."""
        pieces, have = [self._left], len(self._left)
        while have < size:
            try:
                piece = self._insist(self._receive)
            except _LineError as error:
                raise ShardError("truncated", f"the line broke at byte {self._at:,} for good ({error})") from None
            if not piece:
                break
            pieces.append(piece)
            have += len(piece)
        data = b"".join(pieces) if len(pieces) > 1 else pieces[0]
        self._left = data[size:]
        return data[:size]

    def skip(self, size: int) -> None:
        """Go ahead; the bytes are received all the same."""
        while size > 0 and (data := self.read(min(size, _BUFFER))):
            size -= len(data)

    def close(self) -> None:
        """Close the line."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _insist(self, action: Callable[[], T]) -> T:
        """Do something with the line, and again where that may help."""
        for attempt in range(1, download.ATTEMPTS + 1):
            try:
                if self._answer is None and action != self._connect:
                    self._connect()
                return action()
            except _LineError as error:
                self.close()
                if attempt == download.ATTEMPTS or not error.passing:
                    raise
                log.debug("%s: %s; attempt %d", self._url, error, attempt + 1)
                time.sleep(download.BACKOFF_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _receive(self) -> bytes:
        assert self._answer is not None
        try:
            data = self._answer.read(_BUFFER)
        except _BAD_LINE as error:
            raise _LineError(str(error) or type(error).__name__) from None
        self._at += len(data)
        if not data and self._total is not None and self._at < self._total:
            raise _LineError(f"received {self._at:,} of {self._total:,} bytes")
        return data

    def _connect(self) -> None:
        """Open the line at the place that was reached."""
        headers = {"User-Agent": "mnvision", "Accept-Encoding": "identity"}
        if self._at:
            headers["Range"] = f"bytes={self._at}-"
            if self._tag:
                headers["If-Range"] = self._tag
        answer = _ask(urllib.request.Request(self._url, headers=headers))
        self._answer = answer
        tag, length = answer.headers.get("ETag") or "", answer.headers.get("Content-Length", "")
        whole = answer.status != 206
        start, total = (0, int(length) if length.isdigit() else None) if whole else _range_of(answer)
        if start not in (0, self._at):
            raise _LineError(f"the server sent bytes from {start:,}, asked from {self._at:,}", passing=False)
        strong = "" if tag.startswith("W/") else tag
        if self._at and (total not in (None, self._total or total) or strong != self._tag):
            raise _LineError("the file changed at its source while it was read", passing=False)
        self._total, self._tag = total or self._total, strong
        missing = self._at - start  # a server without ranges begins anew
        try:
            while missing > 0 and (data := answer.read(min(missing, _BUFFER))):
                missing -= len(data)
        except _BAD_LINE as error:
            raise _LineError(str(error) or type(error).__name__) from None
        if missing:
            raise _LineError("the line broke before the place that was reached")


class _LineError(Exception):
    """A line broke or was never there; ``passing`` where another attempt may help."""

    def __init__(self, reason: str, *, passing: bool = True):
        super().__init__(reason)
        self.passing = passing


def _ask(request: urllib.request.Request) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(request, timeout=download.TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        passing = error.code >= 500 or error.code in download.PASSING_STATUSES
        raise _LineError(f"HTTP {error.code} {error.reason}", passing=passing) from None
    except _BAD_LINE as error:
        reason = getattr(error, "reason", None) or error
        raise _LineError(str(reason) or type(reason).__name__) from None


def _range_of(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Start and total of ``Content-Range: bytes 5-9/10``."""
    match = re.fullmatch(r"bytes (\d+)-\d*/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if match is None:
        raise _LineError("the server sent a part without saying which", passing=False)
    return int(match[1]), int(match[2]) if match[2] != "*" else None
