"""A server on this machine for the tests of downloads: it behaves as well or as badly as it is told to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple


class Asked(NamedTuple):
    """One request: the name of the file, and which part of it is wanted under which condition."""

    name: str
    range: str | None = None
    if_range: str | None = None


class Server(ThreadingHTTPServer):
    """Serves the files of a folder at its own address and keeps a record of what was asked for."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.etag: str | None = '"v1"'
        self.ranges = True  # answers with the part that is wanted
        self.length = True  # says how long an answer is
        self.cut: list[int] = []  # bytes of a file to send before closing, one per answer, then whole; JSON is spared
        self.statuses: list[int] = []  # errors to answer with, one per request, then 200
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def ranges_of(self, name: str) -> list[str | None]:
        """The parts of a file that were asked for, in order."""
        return [asked.range for asked in self.asked if asked.name == name]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802
        server, name, wanted = self.server, self.path.rpartition("/")[2], self.headers.get("Range")
        server.asked.append(Asked(name, wanted, self.headers.get("If-Range")))
        path = server.folder / name
        if server.statuses or not path.is_file():
            self.send_error(server.statuses.pop(0) if server.statuses else 404)
            return
        body, start = path.read_bytes(), 0
        if wanted and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.length:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = server.cut.pop(0) if server.cut and not name.endswith(".json") else None
        self.wfile.write(body[start:][:cut])


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server of a folder, for as long as the block lasts."""
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
