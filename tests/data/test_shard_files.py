"""Writing shards, and reading them from a server that behaves as well or as badly as it is told to."""

from __future__ import annotations

import hashlib
import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from mnvision import download
from mnvision.annotations import LabelledPictures
from mnvision.data.shard_files import INDEX, refuse_cut, with_index
from mnvision.data.shard_items import shards_from
from mnvision.data.shard_writer import ShardItem, write_shards
from mnvision.data.shards import ShardStream
from mnvision.errors import UserError
from mnvision.ops.image import decode_image
from tests.servers import Asked, Server, serving

JPEG = b"\xff\xd8\xff"
CLASSES = ("a", "b", "c")


def items(count, size=0):
    return [ShardItem(f"{i:04d}", JPEG + b"%d" % i + bytes(size), i % 3) for i in range(count)]


def write(folder, count=7, **choice):
    return write_shards(items(count), folder, classes=CLASSES, **({"pictures_per_shard": 3} | choice))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_layout_and_index(tmp_path):
    path = write(tmp_path)
    index = json.loads(path.read_text())
    assert index["classes"] == list(CLASSES)
    assert [(s["name"], s["samples"]) for s in index["shards"]] == [
        ("train-000000.tar", 3),
        ("train-000001.tar", 3),
        ("train-000002.tar", 1),
    ]
    for entry in index["shards"]:
        data = (tmp_path / entry["name"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    with tarfile.open(tmp_path / "train-000001.tar") as tar:
        assert tar.getnames() == ["0003.cls", "0003.jpg", "0004.cls", "0004.jpg", "0005.cls", "0005.jpg"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}
        assert tar.extractfile("0004.cls").read() == b"1"
        assert tar.extractfile("0004.jpg").read() == JPEG + b"4"
    assert set(content(tmp_path)) == {INDEX, *(s["name"] for s in index["shards"])}


def test_the_same_samples_give_the_same_bytes(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    (tmp_path / "b" / INDEX).unlink()  # an interrupted run
    (tmp_path / "b" / "train-000002.tar").unlink()
    write(tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_does_not_write_over_others(tmp_path):
    write(tmp_path)
    before = content(tmp_path)
    for change in ({"pictures_per_shard": 2}, {"count": 8}, {"count": 6}):
        with pytest.raises(UserError, match="is there already and holds something else"):
            write(tmp_path, **change)
        assert content(tmp_path) == before
    with pytest.raises(UserError, match="3 other classes than these 2"):
        write_shards(items(2), tmp_path, classes=("a", "z"), name="val")


def test_splits_share_an_index(tmp_path):
    write(tmp_path)
    write(tmp_path, 2, name="val")
    assert [s["name"][:5] for s in json.loads((tmp_path / INDEX).read_text())["shards"]] == ["train"] * 3 + ["val-0"]
    assert len(ShardStream(f"{tmp_path}/val-*.tar", decode=lambda data, rng: data)) == 2


def test_shards_of_at_most_so_many_bytes(tmp_path):
    samples = items(20, size=3000)  # 512 + 512 and 512 + 3072 bytes: with the end mark two make 10,240
    write_shards(samples, tmp_path, classes=CLASSES, max_bytes=10_240)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.tar")]
    assert sizes == [10_240] * 10
    write_shards(samples, tmp_path / "tiny", classes=CLASSES, max_bytes=1)
    assert len(list((tmp_path / "tiny").glob("*.tar"))) == 20


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (ShardItem("a.b", JPEG, 0), "without dots"),
        (ShardItem("../a", JPEG, 0), "without dots"),
        (ShardItem("a", JPEG, 3), "Expected 0 to 2"),
        (ShardItem("a", JPEG, -1), "Expected 0 to 2"),
        (ShardItem("a", b"text", 0), "no picture"),
        (ShardItem("a", np.zeros((2, 2), np.uint8), 0), r"uint8 \[H, W, 3\]"),
        (ShardItem("0001", JPEG, 0), "two samples"),
    ],
)
def test_wrong_samples(tmp_path, item, message):
    with pytest.raises(UserError, match=message):
        write_shards([*items(2), item], tmp_path, classes=CLASSES)
    assert content(tmp_path) == {}
    with pytest.raises(UserError, match="no sample"):
        write_shards([], tmp_path, classes=CLASSES)


def test_files_of_a_split_keep_their_bytes(tmp_path, caplog):
    names = ["x/a.jpg", "x/a.png", "y/b.c.JPG", "z.png"]
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / name), image)
    boxes = np.array([[0, 1, 2, 3.5]] * 4)
    split = LabelledPictures(np.array(names, dtype=bytes), np.array([0, 1, 2, -1]), CLASSES, boxes)
    shards_from(split, tmp_path / "in", tmp_path / "out", seed=None)
    with tarfile.open(tmp_path / "out/train-000000.tar") as tar:
        found = {m.name: tar.extractfile(m).read() for m in tar}
    assert [n for n in found if n[-3:] in ("jpg", "png")] == ["x/a.jpg", "x/a-1.png", "y/b_c.jpg"]
    assert found["x/a-1.png"] == (tmp_path / "in/x/a.png").read_bytes()
    assert found["y/b_c.jpg"] == (tmp_path / "in/y/b.c.JPG").read_bytes()
    assert (found["y/b_c.cls"], found["y/b_c.json"]) == (b"2", b'{"box": [0.0, 1.0, 2.0, 3.5]}')
    assert "1 of 4 pictures left out: their class is not known" in caplog.text
    (tmp_path / "in/x/a.jpg").write_text("not a picture")
    with pytest.raises(UserError, match="is no picture"):
        shards_from(split, tmp_path / "in", tmp_path / "error")
    shards_from(split, tmp_path / "in", tmp_path / "skip", bad_images="skip")
    assert json.loads((tmp_path / "skip" / INDEX).read_text())["shards"][0]["samples"] == 2


def test_portable_pictures_keep_their_bytes(tmp_path):
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    for name, pixels in {"a.ppm": image, "b.pgm": image[..., 0]}.items():
        cv2.imwrite(str(tmp_path / name), pixels)
    split = LabelledPictures(np.array([b"a.ppm", b"b.pgm"]), np.array([0, 1]), CLASSES)
    shards_from(split, tmp_path, tmp_path / "out", seed=None)
    with tarfile.open(tmp_path / "out/train-000000.tar") as tar:
        assert tar.getnames() == ["a.cls", "a.ppm", "b.cls", "b.pgm"]
        assert tar.extractfile("a.ppm").read() == (tmp_path / "a.ppm").read_bytes()


def test_a_shard_that_is_cut_short_shows_before_it_is_read(tmp_path):
    write(tmp_path)
    shards, _ = with_index(sorted(map(str, tmp_path.glob("*.tar"))))
    for shard in shards:
        refuse_cut(shard)
    path = Path(shards[1].location)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-512])
    refuse_cut(shards[0])
    with pytest.raises(UserError, match=f"{path.name} has {size - 512:,} of the {size:,} bytes.*data.bad_images=skip"):
        refuse_cut(shards[1])


def test_a_picture_without_a_box_has_none(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(JPEG)
    boxes = np.array([[1, 2, 3, 4], [np.nan] * 4])
    pictures = LabelledPictures(np.array(["0.jpg", "1.jpg"], dtype=bytes), np.array([0, 1]), CLASSES, boxes)
    shards_from(pictures, tmp_path, tmp_path / "out", name="train")
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        kept = {name: json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith("json")}
    assert kept == {"0.json": {"box": [1, 2, 3, 4]}}


def test_pixels_of_a_split_come_back(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(10, 8, 9, 3), dtype=np.uint8)
    names = np.array([f"{i}" for i in range(10)], dtype=bytes)
    shards_from(LabelledPictures(names, np.arange(10) % 3, CLASSES, pixels=pixels), None, tmp_path)
    stream = ShardStream(tmp_path, decode=lambda data, rng: decode_image(data), shuffle=0)
    found = {key: (item, label) for item, label, key in stream}
    assert list(found) != sorted(found)  # written in a shuffled order
    for i in range(10):
        assert np.array_equal(found[str(i)][0], pixels[i])
        assert found[str(i)][1] == i % 3


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)
    write_shards(items(20, size=100_000), tmp_path, classes=CLASSES, pictures_per_shard=10)
    with serving(tmp_path) as server:
        yield server


def stream_of(server, **choice):
    pattern = f"{server.url}/set/train-{{000000..000001}}.tar"
    return ShardStream(pattern, decode=lambda data, rng: data, shuffle=0, **choice)


EXPECTED = [(item.picture, item.label, item.key) for item in items(20, size=100_000)]


def test_streams_from_urls(server):
    stream = stream_of(server)
    assert len(stream) == 20
    assert stream.classes == CLASSES
    assert list(stream) == EXPECTED
    assert server.asked == [Asked(INDEX), Asked("train-000000.tar"), Asked("train-000001.tar")]


@pytest.mark.parametrize("ranges", [True, False])
def test_reads_on_where_the_line_broke(server, ranges):
    server.ranges = ranges
    server.cut = [300_000, 400_000 if not ranges else 100_000]
    stream = stream_of(server)
    assert list(stream) == EXPECTED
    assert not any(stream.report().values())
    assert server.ranges_of("train-000000.tar") == [None, "bytes=300000-", "bytes=400000-"]


def test_a_line_that_stays_broken_loses_the_rest_of_the_shard(server):
    server.cut = [300_000] + [0] * (download.ATTEMPTS - 1)
    stream = stream_of(server, even=False)
    # Two whole samples take 2 * (1,024 + 512 + 100,352) bytes; the third one is cut.
    assert list(stream) == EXPECTED[:2] + EXPECTED[10:]
    assert stream.report()["truncated"] == 8


def test_a_file_that_changes_meanwhile_is_not_mixed(server):
    server.cut = [300_000]
    stream = stream_of(server, even=False)
    reading = iter(stream)
    found = [next(reading)]
    server.etag = '"v2"'
    found += list(reading)
    assert found == EXPECTED[:2] + EXPECTED[10:]
    assert stream.report()["truncated"] == 8


def test_a_shard_that_the_server_has_not(server, caplog):
    (server.folder / "train-000001.tar").unlink()
    stream = stream_of(server)
    found = list(stream)
    assert found[:10] == EXPECTED[:10]
    assert sorted(found[10:]) == EXPECTED[:10]  # in place of the lost
    with caplog.at_level(logging.WARNING):
        assert stream.report()["missing"] == 10
    assert "10 others were shown again" in caplog.text
    assert "HTTP 404" in caplog.text


def test_without_an_index_behind_a_url(server):
    (server.folder / INDEX).unlink()
    server.length = False
    assert list(stream_of(server)) == EXPECTED


def test_keeps_shards_in_a_cache(server, tmp_path_factory, monkeypatch):
    hashed, original = [], download.file_sha256
    monkeypatch.setattr(download, "file_sha256", lambda path: hashed.append(path) or original(path))
    cache = tmp_path_factory.mktemp("cache")
    assert list(stream_of(server, cache=cache)) == EXPECTED
    first = len(hashed)
    assert list(stream_of(server, cache=cache)) == EXPECTED
    assert len(hashed) == first > 0  # not at each opening
    assert server.ranges_of("train-000000.tar") == [None]
    assert len(list(cache.rglob("*.tar"))) == 2
