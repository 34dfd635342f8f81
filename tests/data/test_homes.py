"""Archives and public data sets, from a server on this machine."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnvision import download
from mnvision.data import homes
from mnvision.data.archives import extract_once
from mnvision.data.folders import read_folders
from mnvision.data.homes import HOMES, Archive, obtain
from mnvision.errors import UserError
from tests.servers import Server, serving

FILES = {"train/cat/a.jpg": b"1", "train/dog/b.jpg": b"22", "val/cat/c.jpg": b"333"}


def tar(path: Path, files: dict[str, bytes], *, mode: str = "w:xz", extra: tarfile.TarInfo | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
        if extra is not None:
            packed.addfile(extra)
    return path


def test_an_archive_is_unpacked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path / "cache"))
    archive = tar(tmp_path / "set.tar.xz", FILES)
    folder = extract_once(archive)
    assert folder.parent == tmp_path / "cache/archives"
    assert (folder / "train/dog/b.jpg").read_bytes() == b"22"
    assert read_folders(folder, "train").labels.tolist() == [0, 1]
    (folder / "train/dog/b.jpg").write_bytes(b"mine")
    assert extract_once(archive) == folder
    assert (folder / "train/dog/b.jpg").read_bytes() == b"mine"
    tar(archive, {**FILES, "train/dog/d.jpg": b"4" * 999})
    assert extract_once(archive) != folder
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_a_single_folder_in_an_archive_is_entered(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("top/cat/a.jpg", b"1")
        packed.writestr("top/dog/a.jpg", b"1")
    assert sorted(path.name for path in extract_once(tmp_path / "a.zip", cache=tmp_path / "c").iterdir()) == [
        "cat",
        "dog",
    ]


def test_what_a_system_leaves_in_an_archive_is_no_data(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name in ("photos/cat/a.jpg", "photos/dog/a.jpg", "__MACOSX/photos/cat/._a.jpg", ".DS_Store"):
            packed.writestr(name, b"1")
    assert extract_once(tmp_path / "a.zip", cache=tmp_path / "c").name == "photos"


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


@pytest.mark.parametrize("extra", [tarfile.TarInfo("../evil.jpg"), link("x", "/etc"), link("x", "../../..")])
def test_an_archive_cannot_reach_outside(tmp_path, extra):
    archive = tar(tmp_path / "in/set.tar", FILES, mode="w", extra=extra)
    with pytest.raises(UserError, match="is not safe to unpack"):
        extract_once(archive, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(("mode", "keep"), [("w:xz", 0), ("w:xz", 100), ("w:gz", 150), ("w", 5000)])
def test_a_broken_archive_leaves_nothing(tmp_path, mode, keep):
    archive = tar(tmp_path / "set.tar", {"a.jpg": bytes(range(256)) * 50}, mode=mode)
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(UserError, match="cannot be unpacked. Expected a tar or zip file"):
        extract_once(archive, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(UserError, match="archive not found"):
        extract_once(tmp_path / "no.tar")


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as server:
        yield server


def test_a_data_set_is_obtained_once(server, tmp_path, monkeypatch):
    folder, url = server.folder, server.url
    pictures = tar(folder / "images.tar.gz", {"images/a.jpg": b"1"}, mode="w:gz")
    tar(folder / "lists.tar", {"./train.mat": b"2", "./test.mat": b"3"}, mode="w")
    sha256 = hashlib.sha256(pictures.read_bytes()).hexdigest()
    archives = (
        Archive(f"{url}/images.tar.gz", sha256, ("images",)),
        Archive(f"{url}/lists.tar", None, ("train.mat", "test.mat")),
    )
    monkeypatch.setitem(homes.HOMES, "pets", archives)
    root = obtain("pets", tmp_path / "root")
    assert {path.name for path in root.iterdir() if not path.name.startswith(".")} == {
        "images", "images.tar.gz", "lists.tar", "lists.tar.sha256", "train.mat", "test.mat",
    }  # fmt: skip
    assert (root / "images/a.jpg").read_bytes() == b"1"
    assert len(server.asked) == 2
    (root / "images.tar.gz").unlink()
    obtain("pets", root)
    assert len(server.asked) == 2
    (root / "test.mat").unlink()
    obtain("pets", root)  # from the archive that is still there
    assert (root / "test.mat").read_bytes() == b"3"
    assert len(server.asked) == 2


def test_of_two_that_unpack_at_once_both_succeed(tmp_path, monkeypatch):
    """The other's folder appears after this one has looked and before it moves its own."""
    (tmp_path / "mine" / "Images").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    replace = os.replace

    def beaten(source, target):
        Path(target).mkdir()
        (Path(target) / "theirs").write_text("x")
        replace(source, target)

    monkeypatch.setattr(homes.os, "replace", beaten)
    homes._move_in(tmp_path / "mine", root=tmp_path / "root")
    assert [path.name for path in (tmp_path / "root" / "Images").iterdir()] == ["theirs"]

    def refused(source, target):
        raise OSError("no space")

    (tmp_path / "mine" / "Annotation").mkdir()
    monkeypatch.setattr(homes.os, "replace", refused)
    with pytest.raises(OSError, match="no space"):
        homes._move_in(tmp_path / "mine", root=tmp_path / "root")


def test_an_archive_of_something_else(server, tmp_path, monkeypatch):
    folder, url = server.folder, server.url
    tar(folder / "images.tar", {"photos/a.jpg": b"1"}, mode="w")
    monkeypatch.setitem(homes.HOMES, "pets", (Archive(f"{url}/images.tar", None, ("images",)),))
    with pytest.raises(UserError, match="images.tar: holds no images"):
        obtain("pets", tmp_path / "root")
    monkeypatch.setitem(homes.HOMES, "pets", (Archive(f"{url}/images.tar", "0" * 64, ("images",)),))
    with pytest.raises(UserError, match="SHA-256"):
        obtain("pets", tmp_path / "other")


def test_without_a_line_it_says_what_to_put_where(server, tmp_path, monkeypatch):
    url = server.url
    monkeypatch.setitem(homes.HOMES, "pets", (Archive(f"{url}/none.tar", None, ("images",)),))
    with pytest.raises(UserError, match=f"get that file by other means and put it at {tmp_path / 'root/none.tar'}"):
        obtain("pets", tmp_path / "root")
    with pytest.raises(UserError, match="'pet'.*did you mean pets"):
        obtain("pet", tmp_path)


def test_the_table_of_homes():
    assert set(HOMES) == {"stanford_dogs", "cifar10", "cifar100", "pets"}
    for archive in (archive for archives in HOMES.values() for archive in archives):
        assert archive.url.startswith(("http://vision.stanford.edu/", "https://"))
        assert archive.sha256 is None or len(bytes.fromhex(archive.sha256)) == 32
