"""Downloads, against a server on this machine that behaves as well or as badly as it is told to."""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnvision import download
from mnvision.download import fetch, file_sha256
from mnvision.errors import UserError
from tests.servers import Server, serving

PAYLOAD = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()


@pytest.fixture
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "weights.bin").write_bytes(PAYLOAD)
    with serving(folder) as server:
        yield server


def url_of(server: Server) -> str:
    return f"{server.url}/some/weights.bin"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"weights.bin", ".weights.bin.lock"}


def test_downloads_once_into_the_cache(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path))
    with caplog.at_level(logging.INFO, logger="mnvision.download"):
        path = fetch(url_of(server), sha256=SHA256.upper())
    assert path == tmp_path / "weights" / "weights.bin"
    assert path.read_bytes() == PAYLOAD
    assert fetch(url_of(server), sha256=SHA256) == path
    assert len(server.asked) == 1
    assert leftovers(path.parent) == set()
    assert url_of(server) in caplog.text
    assert "1.0 MB" in caplog.text


def test_resumes_where_the_line_broke(server, tmp_path):
    server.cut = [300_000, 200_000]
    assert fetch(url_of(server), sha256=SHA256, folder=tmp_path).read_bytes() == PAYLOAD
    assert server.ranges_of("weights.bin") == [None, "bytes=300000-", "bytes=500000-"]
    assert server.asked[1].if_range == '"v1"'
    assert leftovers(tmp_path) == set()


def test_resumes_in_a_later_process(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.cut = [300_000]
    with pytest.raises(UserError, match=r"received 300000 of 1048576 bytes"):
        fetch(url_of(server), sha256=None, folder=tmp_path)
    assert not (tmp_path / "weights.bin").exists()
    assert (tmp_path / "weights.bin.part").stat().st_size == 300_000
    assert fetch(url_of(server), sha256=None, folder=tmp_path).read_bytes() == PAYLOAD
    assert server.asked[-1].range == "bytes=300000-"


def test_starts_again_where_the_server_knows_no_ranges(server, tmp_path):
    server.ranges, server.cut = False, [300_000]
    assert fetch(url_of(server), sha256=SHA256, folder=tmp_path).read_bytes() == PAYLOAD
    assert len(server.asked) == 2


def test_starts_again_where_the_file_has_changed_in_between(server, tmp_path, monkeypatch):
    """Without a known checksum only the server's tag can tell."""
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.cut = [300_000]
    with pytest.raises(UserError):
        fetch(url_of(server), sha256=None, folder=tmp_path)
    (server.folder / "weights.bin").write_bytes(PAYLOAD[::-1])
    server.etag = '"v2"'
    assert fetch(url_of(server), sha256=None, folder=tmp_path).read_bytes() == PAYLOAD[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"v1"'])
def test_never_joins_halves_that_nothing_vouches_for(server, tmp_path, etag):
    server.etag, server.cut = etag, [300_000]
    assert fetch(url_of(server), sha256=None, folder=tmp_path).read_bytes() == PAYLOAD
    assert server.ranges_of("weights.bin") == [None, None]


def test_a_stale_beginning_is_dropped_once_the_checksum_tells(server, tmp_path):
    server.etag = None
    (tmp_path / "weights.bin.part").write_bytes(b"\0" * 300_000)
    assert fetch(url_of(server), sha256=SHA256, folder=tmp_path).read_bytes() == PAYLOAD
    assert server.ranges_of("weights.bin") == ["bytes=300000-", None]


def test_a_part_longer_than_the_file_is_dropped(server, tmp_path):
    (tmp_path / "weights.bin.part").write_bytes(b"\0" * (len(PAYLOAD) + 5))
    assert fetch(url_of(server), sha256=SHA256, folder=tmp_path).read_bytes() == PAYLOAD


def test_wrong_checksum_removes_the_download(server, tmp_path):
    with pytest.raises(UserError, match=rf"has SHA-256 {SHA256}, expected {'0' * 64}: the download was removed"):
        fetch(url_of(server), sha256="0" * 64, folder=tmp_path)
    assert leftovers(tmp_path) == set()
    assert not (tmp_path / "weights.bin").exists()
    assert len(server.asked) == 1  # the same file again would not help


def test_passing_errors_are_tried_again(server, tmp_path):
    server.statuses = [503, 429]
    assert fetch(url_of(server), sha256=SHA256, folder=tmp_path).read_bytes() == PAYLOAD
    assert len(server.asked) == 3


@pytest.mark.parametrize(("statuses", "requests"), [([404], 1), ([403], 1), ([500] * 9, download.ATTEMPTS)])
def test_an_error_tells_what_to_put_where(server, tmp_path, statuses, requests):
    server.statuses = list(statuses)
    with pytest.raises(UserError) as caught:
        fetch(url_of(server), sha256=SHA256, folder=tmp_path)
    message = str(caught.value)
    assert f"HTTP {statuses[0]}" in message
    assert url_of(server) in message
    assert f"put it at {tmp_path / 'weights.bin'}" in message
    assert SHA256 in message
    assert "\n" not in message
    assert len(server.asked) == requests


def test_refused_connection(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/weights.bin"
        with pytest.raises(UserError, match=rf"cannot download {url} \(.*refused.*put it at {tmp_path}"):
            fetch(url, sha256=None, folder=tmp_path)


def test_no_network_is_said_at_once(tmp_path, monkeypatch):
    calls = []

    def lookup(*args: object, **kwargs: object) -> None:
        calls.append(args)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(UserError, match=r"name resolution.*put it at"):
        fetch("https://example.invalid/a.h5", sha256=None, folder=tmp_path)
    assert len(calls) == 1


def test_a_server_that_falls_silent_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        with pytest.raises(UserError, match="timed out"):
            fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/a.bin", sha256=None, folder=tmp_path)


def test_a_file_brought_by_hand_needs_no_network(tmp_path):
    (tmp_path / "a.bin").write_bytes(PAYLOAD)
    assert fetch("https://example.invalid/a.bin", sha256=SHA256, folder=tmp_path) == tmp_path / "a.bin"


def test_the_first_digits_of_a_checksum_are_enough(server, tmp_path):
    assert fetch(url_of(server), sha256=SHA256[:8], folder=tmp_path).read_bytes() == PAYLOAD
    assert fetch(url_of(server), sha256=SHA256[:8], folder=tmp_path).read_bytes() == PAYLOAD
    with pytest.raises(UserError, match=f"has SHA-256 {SHA256}, expected 01234567"):
        fetch(url_of(server), sha256="01234567", folder=tmp_path / "other")


def test_a_wrong_file_brought_by_hand_is_named_and_left(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match=rf"{path} has SHA-256 {file_sha256(path)}, expected {SHA256}.*remove the file"):
        fetch("https://example.invalid/a.bin", sha256=SHA256, folder=tmp_path)
    assert path.exists()


def test_an_unknown_checksum_is_recorded_on_first_use(server, tmp_path):
    path = fetch(url_of(server), sha256=None, folder=tmp_path)
    record = tmp_path / "weights.bin.sha256"
    assert record.read_text() == f"{SHA256}  weights.bin\n"
    assert fetch(url_of(server), sha256=None, folder=tmp_path) == path
    path.write_bytes(PAYLOAD[:-1])
    with pytest.raises(UserError, match=r"expected .*weights\.bin\.sha256.*remove"):
        fetch(url_of(server), sha256=None, folder=tmp_path)
    record.unlink()
    assert fetch(url_of(server), sha256=None, folder=tmp_path) == path


def test_concurrent_downloads_do_not_clash(server, tmp_path):
    server.cut = [300_000]
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: fetch(url_of(server), sha256=SHA256, folder=tmp_path), range(8)))
    assert {path.read_bytes() == PAYLOAD for path in paths} == {True}
    assert len(server.asked) == 2  # one download, resumed once
    assert leftovers(tmp_path) == set()


def test_works_without_file_locks(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "fcntl", None)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(url_of(server), sha256=SHA256, folder=tmp_path), range(4)))
    assert {path.read_bytes() == PAYLOAD for path in paths} == {True}
    assert leftovers(tmp_path) == set()


@pytest.mark.parametrize(
    "url", ["ftp://example.org/a.h5", "file:///etc/passwd", "example.org/a.h5", "https://example.org/"]
)
def test_refuses_what_is_not_a_download(tmp_path, url):
    with pytest.raises(UserError, match="cannot download"):
        fetch(url, sha256=None, folder=tmp_path)


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot keep .*MNVISION_CACHE"):
        fetch(url_of(server), sha256=None, folder=tmp_path / "file" / "weights")
