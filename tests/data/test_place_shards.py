"""Shards of pictures with places: written from a list, divided into the same cells, streamed and measured alike."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mnvision import download
from mnvision.data import shard_datamodule, shard_places
from mnvision.data.place_datamodule import PlaceDataModule
from mnvision.data.place_shard_datamodule import PlaceShardDataModule
from mnvision.data.shard_files import INDEX, Shard
from mnvision.data.shard_items import shards_from
from mnvision.data.shard_labels import BadSampleError
from mnvision.data.shard_places import PlaceReader, places_of_shards
from mnvision.data.shard_writer import ShardItem, write_shards
from mnvision.data.tar import Sample
from mnvision.errors import UserError
from mnvision.metrics.geolocation import GeolocationMetric
from mnvision.models.create import create_model
from mnvision.ops.s2 import find_cells, leaf_cells
from mnvision.types import Preprocessing
from tests.servers import Server, serving

PARTITION = {"max_photos": 6, "min_photos": 1, "min_level": 4, "max_level": 13, "answer": "mean"}
LISTS = {"images": ".", "train": "train.csv", "val": "val.csv", "test": None, "split_column": None}
LISTS |= {"file_column": "file", "latitude_column": "lat", "longitude_column": "lon"}
STREAMS: dict[str, Any] = {"train": "train-*.tar", "val": "val-*.tar", "test": None, "shuffle": 5, "resample": False}
STREAMS |= {"epoch_length": None, "keep_shards": False, "latitude_key": "lat", "longitude_key": "lon"}
TOWNS = ((48.85, 2.35), (-33.86, 151.21), (64.1, -21.9))
TRAIN, VAL = 46, 13


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of three towns and two at sea whose brightness tells their number."""
    rng, rows = np.random.default_rng(0), []
    for number in range(TRAIN + VAL):
        place = np.array(TOWNS[number % 3]) + rng.normal(scale=0.03, size=2) if number % 20 else (number, -30.0)
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((10, 12, 3), 4 * number, np.uint8))
        rows.append(f"{number}.png,{place[0]!r},{place[1]!r}".replace("np.float64(", "").replace(")", ""))
    for split, some in (("train", rows[:TRAIN]), ("val", rows[TRAIN:])):
        (tmp_path / f"{split}.csv").write_text("\n".join(["file,lat,lon", *some]) + "\n")
    return tmp_path


def module(kind: type[PlaceDataModule], root: Path, **given: Any) -> Any:
    known = (STREAMS if kind is PlaceShardDataModule else LISTS) | PARTITION
    own = known | {key: given.pop(key) for key in list(given) if key in known}
    settings = {"preprocessing": Preprocessing(8, fit="crop"), "batch_size": 4, "num_workers": 0, "augment": "none"}
    return kind(name="places", root=root, options=own, **{**settings, **given})


def listed(root: Path, **given: Any) -> PlaceDataModule:
    return module(PlaceDataModule, root, **given)


def streamed(root: Path, **given: Any) -> PlaceShardDataModule:
    return module(PlaceShardDataModule, root / "shards", **given)


@pytest.fixture
def shards(photos: Path) -> Path:
    data = listed(photos)
    for split in ("train", "val"):
        shards_from(data.listed(split), photos, photos / "shards", name=split, pictures_per_shard=6)
    return photos


def rewrite(path: Path, change: dict[str, bytes | None]) -> None:
    """Write a shard anew with other bytes of some members; None leaves a member out."""
    with tarfile.open(path) as tar:
        members = {one.name: tar.extractfile(one).read() for one in tar}
    assert change.keys() <= members.keys()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        for name, data in (members | change).items():
            if data is not None:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))


def keys_of(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return [name.removesuffix(".json") for name in tar.getnames() if name.endswith("json")]


def numbers(batches: Any) -> list[int]:
    """The pictures of batches, as their brightness tells them."""
    return [round(value / 4) for batch in batches for value in batch.images[:, 0, 0, 0].tolist()]


# Writing


def test_what_is_written(shards):
    with tarfile.open(shards / "shards/train-000000.tar") as tar:
        files = {one.name: tar.extractfile(one).read() for one in tar}
    assert len(files) == 12
    truth = listed(shards).listed("train")
    names = [truth.file_name(row) for row in range(len(truth))]
    for key in keys_of(shards / "shards/train-000000.tar"):
        assert files[f"{key}.png"] == (shards / f"{key}.png").read_bytes()
        known = json.loads(files[f"{key}.json"])
        assert [known["lat"], known["lon"]] == truth.coordinates[names.index(f"{key}.png")].tolist()  # to the last bit
        assert known.keys() == {"lat", "lon"}
    index = json.loads((shards / "shards" / INDEX).read_text())
    assert index["classes"] is None
    assert [(one["name"], one["samples"]) for one in index["shards"]][7:9] == [
        ("train-000007.tar", 4),
        ("val-000000.tar", 6),
    ]


def test_shards_with_and_without_classes_do_not_share_a_folder(shards):
    with pytest.raises(UserError, match="0 other classes than these 2"):
        write_shards([ShardItem("a", b"BM", 0)], shards / "shards", classes=("a", "b"), name="more")
    with pytest.raises(UserError, match="the label 3. Expected none, as there are no classes"):
        write_shards([ShardItem("a", b"BM", 3)], shards / "other", classes=None)
    with pytest.raises(UserError, match="the label None. Expected 0 to 1"):
        write_shards([ShardItem("a", b"BM", None)], shards / "other", classes=("a", "b"))


# The same numbers as from the list


def test_cells_and_answers_are_those_of_the_list(shards):
    one, other = listed(shards), streamed(shards)
    one.setup()
    other.setup()
    assert one.classes == other.classes
    assert len(one.classes) > 6
    assert one.counts.tolist() == other.counts.tolist()
    np.testing.assert_allclose(one.task_options["places"], other.task_options["places"], atol=1e-9)
    assert one.load_split("val").constants.tolist() == other.load_split("val").constants.tolist()
    assert (other.train_size, len(other.load_split("val"))) == (TRAIN, VAL)
    train = other.load_split("train")  # listed where an evaluation asks for it
    assert np.bincount(train.labels[train.labels >= 0]).tolist() == one.counts.tolist()


def test_a_model_measures_the_same_on_both(shards):
    found = []
    for data in (listed(shards), streamed(shards)):
        data.setup()
        torch.manual_seed(0)
        model = create_model(
            "geolocate", alpha=0.25, image_size=32, classes=data.classes, task_options=data.task_options
        ).eval()
        metric = GeolocationMetric(data.load_split("val"))
        loss = 0.0
        for batch in data.val_dataloader():
            metric.update(model.predict(batch.images), batch.targets)
            known = int((batch.targets.labels >= 0).sum())
            loss += model.losses(batch.images, batch.targets)["class_loss"].item() * known
        found.append(metric.compute() | {"loss": loss})
        assert metric.compute()["within_2500km"] > 0
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, abs=1e-6), name


def test_batches_bring_cells_and_places(shards):
    data, truth = streamed(shards), {}
    for split in ("train", "val"):
        part = listed(shards).listed(split)
        truth |= {int(part.file_name(row)[:-4]): part.coordinates[row] for row in range(len(part))}
    data.setup()
    for loader, count in ((data.train_dataloader(), 44), (data.val_dataloader(), VAL)):  # 44: whole batches of 4
        seen = []
        for batch in loader:
            some = numbers([batch])
            places = np.array([truth[number] for number in some])
            np.testing.assert_allclose(batch.targets.places, places, rtol=1e-6)
            assert batch.targets.to("cpu").rows(slice(1)).places.tolist() == batch.targets.places[:1].tolist()
            assert batch.targets.labels.tolist() == find_cells(leaf_cells(places), data.cells).tolist()
            seen += some
        assert len(set(seen)) == len(seen) == count
    assert (data.load_split("val").labels == -1).any()  # one at sea
    rows = data.load_split("val")
    assert seen == [int(rows.file_name(row).split("/")[1]) for row in range(VAL)]


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_the_pictures(shards, monkeypatch, workers):
    for epoch in range(2):
        found, lengths = [], []
        for rank in range(2):
            monkeypatch.setattr(shard_datamodule, "rank_and_size", lambda rank=rank: (rank, 2))
            data = streamed(shards, num_workers=workers, batch_size=1)
            data.setup()
            loader = data.train_dataloader()
            loader.dataset.set_epoch(epoch)
            batches = list(loader)
            lengths.append(len(batches))
            found += numbers(batches)
        assert lengths == [TRAIN // 2] * 2
        assert sorted(found) == list(range(TRAIN))


# Bad samples


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (None, "no_label", "it has no member json"),
        ("{", "bad_label", "its json cannot be read"),
        ("", "bad_label", "its json cannot be read"),
        ("[" * 100_000, "bad_label", "its json cannot be read"),
        (b"\xff\xfe\xff", "bad_label", "its json cannot be read"),
        ("[1, 2]", "bad_label", "its json is no object but '[1, 2]'"),
        ('{"lat": 1, "long": 2}', "no_label", "no 'lon', but lat, long; data.latitude_key and data.longitude_key name"),
        ('{"lat": null, "lon": 2}', "no_label", "no 'lat'"),
        ('{"lat": 91, "lon": 2}', "bad_label", "its lat is '91', expected -90 to 90 degrees"),
        ('{"lat": 9, "lon": -180.5}', "bad_label", "its lon is '-180.5', expected -180 to 180 degrees"),
        ('{"lat": NaN, "lon": 2}', "bad_label", "its lat is 'nan'"),
        ('{"lat": "Paris", "lon": 2}', "bad_label", "its lat is 'Paris'"),
        ('{"lat": true, "lon": 2}', "bad_label", "its lat is 'True'"),
        ('{"lat": [1], "lon": 2}', "bad_label", r"its lat is '\[1\]'"),
        ('{"lat": 1' + 400 * "0" + ', "lon": 2}', "bad_label", "its lat is '1000"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_sample(text, kind, message):
    members = {"jpg": b""}
    if text is not None:
        members["json"] = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(BadSampleError, match=message.replace("[1, 2]", r"\[1, 2\]")) as caught:
        PlaceReader()(Sample(0, "a", members))
    assert caught.value.kind == kind


def test_places_may_be_text_and_have_other_names():
    place_of = PlaceReader(latitude="LAT", longitude="x y")
    known = {"lat": 1, "LAT": "-90", "x y": " 180.0 "}
    assert place_of(Sample(0, "a", {"json": json.dumps(known).encode()})) == (-90.0, 180.0)


def test_fields_are_chosen(shards):
    for path in (shards / "shards").glob("*.tar"):
        change = {}
        for key in keys_of(path):
            with tarfile.open(path) as tar:
                known = json.load(tar.extractfile(f"{key}.json"))
            change[f"{key}.json"] = json.dumps({"y": known["lat"], "x": known["lon"]}).encode()
        rewrite(path, change)
    (shards / "shards" / INDEX).unlink()
    with pytest.raises(UserError, match="no 'lat', but y, x; data.latitude_key and data.longitude_key name"):
        streamed(shards).setup()
    with pytest.raises(
        UserError, match="none of the 8 shards.*holds a picture with a place. Expected KEY.json with lat"
    ):
        streamed(shards, bad_images="skip").setup()
    data = streamed(shards, latitude_key="y", longitude_key="x", epoch_length=TRAIN)
    data.setup()
    assert data.classes == listed(shards).classes


def spoil(shards: Path) -> list[str]:
    """Three bad samples in a training shard and one in a validation shard; gives their keys."""
    train, val = shards / "shards/train-000002.tar", shards / "shards/val-000001.tar"
    keys = [*keys_of(train)[:3], keys_of(val)[2]]
    changes = (None, b'{"lat": 91, "lon": 2}', b"{", b'{"lat": "north"}')
    sizes = [path.stat().st_size for path in (train, val)]
    rewrite(train, {f"{key}.json": text for key, text in zip(keys[:3], changes[:3], strict=True)})
    rewrite(val, {f"{keys[3]}.json": changes[3]})
    assert [path.stat().st_size for path in (train, val)] == sizes  # so the index fits
    return keys


def test_bad_samples_are_counted_and_left_out(shards, caplog):
    keys = spoil(shards)
    data = streamed(shards, bad_images="skip", batch_size=1)
    with caplog.at_level(logging.INFO):
        data.setup()
    assert "places of 43 pictures in 8 shards, 8 of which were read now" in caplog.text
    assert "3 samples of shards skipped: 1 without a label, 2 with a label that cannot be used" in caplog.text
    assert f"val: 1 of 13 pictures left out: they have no place (sample {keys[3]}: its lat is 'north'" in caplog.text
    assert len(data.load_split("val")) == VAL - 1
    assert int(keys[3]) not in numbers(data.val_dataloader())
    stream = data.train_dataloader().dataset
    found = [int(key) for _, _, key in stream]
    assert len(found) == TRAIN  # others are shown again
    assert set(found) == set(range(TRAIN)) - {int(key) for key in keys[:3]}
    lost = stream.report()
    assert {kind: count for kind, count in lost.items() if count} == {"no_label": 1, "bad_label": 2}


def test_a_bad_sample_is_named(shards):
    keys = spoil(shards)
    message = rf"train-000002\.tar: sample {keys[0]}: it has no member json\. Repair it, or data\.bad_images=skip"
    with pytest.raises(UserError, match=message):
        streamed(shards).setup()
    streamed(shards, bad_images="skip").setup()  # which remembers
    with pytest.raises(UserError, match=message):
        streamed(shards).setup()
    with pytest.raises(UserError, match=rf"val-000001\.tar: sample {keys[3]}: its lat is 'north'"):
        streamed(shards).load_split("val")


def test_a_sample_without_a_picture_makes_no_cell(shards):
    path = shards / "shards/train-000001.tar"
    key = keys_of(path)[0]
    rewrite(path, {f"{key}.png": None})
    data = streamed(shards, bad_images="skip")
    assert len(data._learnt[0]) == TRAIN - 1
    with pytest.raises(UserError, match=rf"sample {key}: it holds json and no picture"):
        _ = streamed(shards)._learnt


def test_a_shard_that_ends_too_early(shards, caplog):
    path = shards / "shards/train-000001.tar"
    whole = path.read_bytes()
    cut = 4 * 2048 + 1024 + 600  # four samples of 512 + 512 and 512 + 512 bytes, a json, and a piece of its picture
    path.write_bytes(whole[:cut])
    with pytest.raises(UserError, match=r"train-000001\.tar has .* bytes that index\.json beside it says"):
        streamed(shards).setup()
    data = streamed(shards, bad_images="skip", batch_size=1)
    data.setup()
    assert len(data._learnt[0]) == TRAIN - 2
    assert "2 samples of shards skipped: 2 in shards that end too early" in caplog.text
    stream = data.train_dataloader().dataset
    assert len({key for _, _, key in stream}) == TRAIN - 2
    assert stream.report()["truncated"] == 2
    path.write_bytes(whole)
    assert len(streamed(shards)._learnt[0]) == TRAIN
    val = shards / "shards/val-000000.tar"
    val.write_bytes(val.read_bytes()[:2048])
    with pytest.raises(UserError, match=r"val-000000\.tar: .*measuring needs whole shards"):
        streamed(shards, bad_images="skip").load_split("val")


def test_a_stream_is_not_balanced(shards):
    with pytest.raises(UserError, match="a stream shows what it holds; give data.balanced=false"):
        streamed(shards, balanced=True).setup()


def test_cells_may_be_given(shards):
    data = streamed(shards, classes=("47e4", "6b14"))
    data.setup()
    assert data.classes == ("47e4", "6b14")
    labels = torch.cat([batch.targets.labels for batch in data.train_dataloader()])
    assert set(labels.tolist()) == {-1, 0, 1}
    with pytest.raises(
        UserError, match="no picture lies in one of the 1 cells.*check data.classes and data.latitude_key"
    ):
        streamed(shards, classes=("89c25",)).setup()


# The places are read once


def reads(monkeypatch) -> list[str]:
    """The names of the shards that are read for places from now on."""
    found, original = [], shard_places.read_labels
    monkeypatch.setattr(
        shard_places, "read_labels", lambda shard, **given: found.append(shard.name) or original(shard, **given)
    )
    return found


def test_places_are_remembered_shard_by_shard(shards, monkeypatch, caplog):
    found = reads(monkeypatch)
    first = streamed(shards)._learnt
    assert found == [f"train-{number:06d}.tar" for number in range(8)]
    again = streamed(shards)._learnt
    assert len(found) == 8
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    path = shards / "shards/train-000004.tar"
    key = keys_of(path)[0]
    rewrite(path, {f"{key}.json": b'{"lat": 0, "lon": 0}'})
    os.utime(path, ns=(1, 1))
    assert [0.0, 0.0] in streamed(shards)._learnt[0].tolist()
    assert found[8:] == ["train-000004.tar"]
    del found[:]
    with pytest.raises(UserError, match="none of the 8 shards"):
        _ = streamed(shards, latitude_key="y", bad_images="skip")._learnt
    assert len(found) == 8  # other fields
    for file in Path(os.environ["MNVISION_CACHE"]).rglob("*.npy"):
        file.write_bytes(b"half a file")
    del found[:]
    assert len(streamed(shards)._learnt[0]) == TRAIN
    assert len(found) == 8


def test_a_cache_that_cannot_be_written_costs_time_alone(shards, monkeypatch, caplog, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MNVISION_CACHE", str(tmp_path / "file"))
    assert len(streamed(shards)._learnt[0]) == TRAIN
    assert "cannot remember places in" in caplog.text


def test_pictures_are_passed_over(shards, monkeypatch):
    """What of a shard is read for its places: headers and json, not the bytes of pictures."""
    sizes = []

    class File:
        def __init__(self, path):
            self.file = open(path, "rb")  # noqa: SIM115
            self.close = self.file.close

        def read(self, size):
            sizes.append(size)
            return self.file.read(size)

        def skip(self, size):
            self.file.seek(size, 1)

    monkeypatch.setattr("mnvision.data.shard_dataset.open_shard", lambda shard, cache: File(shard.location))
    path = shards / "shards/train-000000.tar"
    key = keys_of(path)[3]
    rewrite(path, {f"{key}.png": b"\x89PNG" + bytes(1_000_000)})
    assert len(places_of_shards([Shard(str(path))], place_of=PlaceReader(), bad_samples="error")) == 6
    assert sum(sizes) == (6 * 3 + 1) * 512  # of each two headers and a block of json; and the end mark


@pytest.fixture
def server(shards, monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)
    with serving(shards / "shards") as server:
        yield server


def behind(server: Server, shards: Path, **given: Any) -> PlaceShardDataModule:
    return streamed(shards, train=f"{server.url}/x/train-{{000000..000007}}.tar", batch_size=1, **given)


def test_shards_behind_urls(server, shards):
    train = [f"train-{number:06d}.tar" for number in range(8)]
    data = behind(server, shards)
    data.setup()
    assert data.classes == listed(shards).classes
    assert [one.name for one in server.asked if one.name != INDEX] == train
    assert sorted(numbers(data.train_dataloader())) == list(range(TRAIN))
    server.asked.clear()
    behind(server, shards).setup()
    assert {one.name for one in server.asked} == {INDEX}  # the places are remembered


def test_what_could_not_be_had_is_not_remembered(server, shards, caplog):
    path = shards / "shards/train-000003.tar"
    path.rename(shards / "away.tar")
    assert len(behind(server, shards, bad_images="skip")._learnt[0]) == TRAIN - 6
    assert "6 samples of shards skipped: 6 in shards that cannot be had" in caplog.text
    with pytest.raises(UserError, match=r"train-000003\.tar: .*HTTP 404.*Repair it, or data\.bad_images=skip"):
        _ = behind(server, shards)._learnt
    (shards / "away.tar").rename(path)
    assert len(behind(server, shards)._learnt[0]) == TRAIN


def test_an_evaluation_does_not_fetch_shards_for_the_constant_answers(server, shards, caplog):
    table = (listed(shards).classes, range(1, 99))
    with caplog.at_level(logging.INFO):
        assert behind(server, shards, class_table=table).load_split("val").constants is None
    assert "no constant answers to compare with: the 8 training shards were not read on this machine" in caplog.text
    assert {one.name for one in server.asked} == {INDEX}
    behind(server, shards).setup()  # a training remembers them
    known = behind(server, shards, class_table=table).load_split("val").constants
    assert known.tolist() == listed(shards).load_split("val").constants.tolist()
    local = streamed(shards, class_table=table).load_split("val").constants  # what is local can be read
    assert local.tolist() == known.tolist()
    assert streamed(shards, class_table=table, train="none-*.tar").load_split("val").constants is None
