"""A file behind a URL as a stream that survives a broken line."""

from __future__ import annotations

import http.client
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from mnvision import download
from mnvision.data.tar import ShardError
from mnvision.download import CHUNK, BrokenLineError, content_range, open_url, read_chunk

log = logging.getLogger(__name__)

T = TypeVar("T")


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
        except BrokenLineError as error:
            raise ShardError("missing", str(error)) from None

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, or all that are left."""
        pieces, have = [self._left], len(self._left)
        while have < size:
            try:
                piece = self._insist(self._receive)
            except BrokenLineError as error:
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
        while size > 0 and (data := self.read(min(size, CHUNK))):
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
            except BrokenLineError as error:
                self.close()
                if attempt == download.ATTEMPTS or not error.passing:
                    raise
                log.debug("%s: %s; attempt %d", self._url, error, attempt + 1)
                time.sleep(download.BACKOFF_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _receive(self) -> bytes:
        assert self._answer is not None
        data = read_chunk(self._answer)
        self._at += len(data)
        if not data and self._total is not None and self._at < self._total:
            raise BrokenLineError(f"received {self._at:,} of {self._total:,} bytes")
        return data

    def _connect(self) -> None:
        """Open the line at the place that was reached."""
        headers = {}
        if self._at:
            headers["Range"] = f"bytes={self._at}-"
            if self._tag:
                headers["If-Range"] = self._tag
        answer = open_url(self._url, headers=headers)
        self._answer = answer
        tag, length = answer.headers.get("ETag") or "", answer.headers.get("Content-Length", "")
        start, total = 0, int(length) if length.isdigit() else None
        if answer.status == 206:
            start, total = content_range(answer.headers.get("Content-Range", ""))
        if start not in (0, self._at):
            raise BrokenLineError(f"the server sent bytes from {start:,}, asked from {self._at:,}", passing=False)
        strong = "" if tag.startswith("W/") else tag
        if self._at and (total not in (None, self._total or total) or strong != self._tag):
            raise BrokenLineError("the file changed at its source while it was read", passing=False)
        self._total, self._tag = total or self._total, strong
        missing = self._at - start  # a server without ranges begins anew
        while missing > 0 and (data := read_chunk(answer, min(missing, CHUNK))):
            missing -= len(data)
        if missing:
            raise BrokenLineError("the line broke before the place that was reached")
