"""Streams of shards, with the data loader's own processes; ranks are told apart by their arguments."""

from __future__ import annotations

import io
import logging
import tarfile
from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader

from mnvision.data.shard_files import INDEX, expand_shards
from mnvision.data.shard_labels import KINDS
from mnvision.data.shard_writer import ShardItem, write_shards
from mnvision.data.shards import ShardStream
from mnvision.errors import UserError
from mnvision.ops.image import decode_image

CLASSES = ("a", "b", "c")
JPEG = b"\xff\xd8\xff"  # what a file begins with is all that a writer looks at


def plain(data, rng):
    if data.endswith(b"unreadable"):
        raise UserError("no picture")
    return data


def noise(data, rng):
    return int(rng.integers(1 << 30))


def write(folder, count, *, per_shard=10):
    items = [ShardItem(f"{i:04d}", JPEG + b"%d" % i, i % 3) for i in range(count)]
    write_shards(items, folder, classes=CLASSES, pictures_per_shard=per_shard)
    return folder


def tar(path, files):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def keys(stream, *, workers=0, batch_size=4):
    loader = DataLoader(stream, batch_size=batch_size, num_workers=workers, collate_fn=list)
    return [key for batch in loader for _, _, key in batch]


def no_losses(**found):
    return dict.fromkeys(KINDS, 0) | found


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("per_shard", [5, 10, 40])  # 16, 8 and 2 shards for 4 consumers
def test_each_sample_once_an_epoch(tmp_path, index, per_shard):
    folder = write(tmp_path, 80, per_shard=per_shard)
    if not index:
        (folder / INDEX).unlink()
    found, parts = [], []
    for rank in range(2):
        stream = ShardStream(
            folder, decode=plain, shuffle=7, rank=rank, world_size=2, batch_size=4, even=index, num_classes=3
        )
        parts.append(keys(stream, workers=2))
        found += parts[-1]
        assert stream.report() == no_losses()
    assert sorted(found) == [f"{i:04d}" for i in range(80)]
    if index:
        assert [len(part) for part in parts] == [40, 40]


@pytest.mark.parametrize(("count", "batch_size"), [(80, 1), (75, 10), (83, 16)])
def test_ranks_have_equally_many_batches(tmp_path, count, batch_size):
    folder = write(tmp_path, count, per_shard=9)
    lengths, found = [], Counter()
    for rank in range(3):
        stream = ShardStream(folder, decode=plain, rank=rank, world_size=3, batch_size=batch_size)
        loader = DataLoader(stream, batch_size=batch_size, num_workers=2, collate_fn=list)
        batches = list(loader)
        lengths.append((len(loader), len(batches), sum(map(len, batches)), len(stream)))
        found.update(key for batch in batches for _, _, key in batch)
    assert lengths == [(-(-(count // 3) // batch_size), -(-(count // 3) // batch_size), count // 3, count // 3)] * 3
    assert max(found.values()) == 1
    assert len(found) == count // 3 * 3


def test_the_samples_left_out_are_others_each_epoch(tmp_path):
    write(tmp_path, 11, per_shard=4)
    left_out = set()
    for epoch in range(40):
        found = set()
        for rank in range(2):
            stream = ShardStream(tmp_path, decode=plain, rank=rank, world_size=2)
            stream.set_epoch(epoch)
            found |= set(keys(stream))
        left_out |= {f"{i:04d}" for i in range(11)} - found
    assert len(left_out) >= 9  # of 11; 40 draws leave 10.7 on average


def test_evaluation_keeps_the_order_and_drops_nothing(tmp_path):
    write(tmp_path, 23, per_shard=4)
    streams = [ShardStream(tmp_path, decode=plain, shuffle=0, even=False, rank=r, world_size=3) for r in range(3)]
    assert [key for stream in streams for key in keys(stream)] == [f"{i:04d}" for i in range(23)]
    assert [len(stream) for stream in streams] == [7, 8, 8]
    assert list(streams[0])[1] == (JPEG + b"1", 1, "0001")


def test_the_order_depends_on_seed_and_epoch_alone(tmp_path):
    write(tmp_path, 60)

    def order(epoch, seed=0, decode=plain):
        stream = ShardStream(tmp_path, decode=decode, shuffle=10, seed=seed)
        stream.set_epoch(epoch)
        return keys(stream) if decode is plain else [item[0] for item in stream]

    assert order(3) == order(3)
    assert order(3) != order(4)
    assert order(3) != order(3, seed=1)
    assert sorted(order(3)) == sorted(order(4))
    assert order(3) != sorted(order(3))
    assert order(3, decode=noise) == order(3, decode=noise)
    assert set(order(3, decode=noise)).isdisjoint(order(4, decode=noise))
    assert len(set(order(3, decode=noise))) == 60


def test_the_pixels_do_not_depend_on_the_workers(tmp_path):
    write(tmp_path, 30)
    stream = ShardStream(tmp_path, decode=noise)
    alone = {key: item for item, _, key in stream}
    loader = DataLoader(stream, batch_size=1, num_workers=2, collate_fn=list)
    assert {key: item for batch in loader for item, _, key in batch} == alone


def test_the_epoch_reaches_workers_that_stay(tmp_path):
    write(tmp_path, 40)
    stream = ShardStream(tmp_path, decode=plain, batch_size=4)
    loader = DataLoader(stream, batch_size=4, num_workers=2, collate_fn=list, persistent_workers=True)
    seen = []
    for epoch in (0, 1, 0, 5):
        stream.set_epoch(epoch)
        seen.append([key for batch in loader for _, _, key in batch])
    assert seen[0] == seen[2]
    assert seen[0] != seen[1]
    resumed = ShardStream(tmp_path, decode=plain, batch_size=4)
    resumed.set_epoch(5)
    assert keys(resumed, workers=2) == seen[3]


def test_mixes_samples_across_the_buffer(tmp_path):
    write(tmp_path, 200, per_shard=200)
    found = [int(key) for key in keys(ShardStream(tmp_path, decode=plain, shuffle=50))]
    steps = np.abs(np.diff(found))
    assert np.median(steps) > 10  # neighbours in the shard are a step of 1


@pytest.mark.parametrize("index", [True, False])
def test_resampling(tmp_path, index):
    write(tmp_path, 40, per_shard=10)
    if not index:
        (tmp_path / INDEX).unlink()
    found = Counter()
    for rank in range(2):
        stream = ShardStream(
            tmp_path, decode=plain, resample=True, epoch_length=1001, rank=rank, world_size=2, batch_size=10, shuffle=5
        )
        assert len(stream) == 500
        got = keys(stream, workers=2, batch_size=10)
        assert len(got) == 500
        found.update(got)
    assert len(found) == 40
    assert max(found.values()) > min(found.values())


def test_a_longer_epoch_goes_round_again(tmp_path):
    write(tmp_path, 20, per_shard=6)
    for folder_has_index in (True, False):
        found = Counter(keys(ShardStream(tmp_path, decode=plain, epoch_length=50, shuffle=3)))
        assert sum(found.values()) == 50
        assert set(found.values()) <= ({2, 3} if folder_has_index else {1, 2, 3, 4})
        assert len(found) == 20
        (tmp_path / INDEX).unlink(missing_ok=True)


def damaged(folder):
    """Four shards of ten samples: one is missing, one ends in its seventh sample, one has three bad samples."""
    write(folder, 40)
    (folder / "train-000001.tar").unlink()
    path = folder / "train-000002.tar"
    path.write_bytes(path.read_bytes()[: 6 * 2048 + 700])
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_losses_are_counted_exactly_and_the_run_goes_on(tmp_path, caplog, workers):
    folder = damaged(tmp_path)
    shards = [folder / f"train-{i:06d}.tar" for i in range(4)]
    stream = ShardStream(shards, decode=plain, even=False, shuffle=4, batch_size=4)
    with caplog.at_level(logging.WARNING):
        assert sorted(keys(stream, workers=workers)) == [
            f"{i:04d}" for i in [*range(10), *range(20, 26), *range(30, 40)]
        ]
        assert stream.report() == no_losses(missing=10, truncated=4)
    assert "14 samples of shards skipped: 10 in shards that cannot be had, 4 in shards that end" in caplog.text
    if not workers:  # those of other processes do not come here
        assert sum("what cannot be used of this shard" in message for message in caplog.messages) == 2
    assert stream.report() == no_losses()  # since the last report
    keys(stream, workers=workers)
    assert stream.report() == no_losses(missing=10, truncated=4)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_shows_others_in_place_of_the_lost(tmp_path, workers):
    damaged(tmp_path)
    found, lost = Counter(), Counter()
    for rank in range(2):
        stream = ShardStream(
            f"{tmp_path}/train-{{000000..000003}}.tar", decode=plain, rank=rank, world_size=2, batch_size=4, shuffle=4
        )
        got = keys(stream, workers=workers)
        assert len(got) == 20  # whatever was lost: the other rank waits for this one
        found.update(got)
        lost.update(stream.report())
    assert len(found) == 26
    assert lost["missing"] == 10
    assert lost["truncated"] == 4


def test_without_an_index_a_lost_shard_counts_as_one(tmp_path):
    (damaged(tmp_path) / INDEX).unlink()
    pattern = f"{tmp_path}/train-{{000000..000003}}.tar"
    lost = Counter()
    for rank in range(8):  # more than shards: they share them
        stream = ShardStream(pattern, decode=plain, even=False, rank=rank, world_size=8)
        keys(stream)
        lost.update(stream.report())
    assert {kind: n for kind, n in lost.items() if n} == {"missing": 1, "truncated": 1}


def test_bad_samples_by_kind(tmp_path, caplog):
    files = {"0.jpg": JPEG, "0.cls": b"1\n", "1.jpg": JPEG, "2.cls": b"0", "3.jpg": JPEG, "3.cls": b"3"}
    files |= {"4.jpg": JPEG, "4.cls": b"-1", "5.jpg": JPEG + b"unreadable", "5.cls": b"0", "6.png": JPEG, "6.cls": b"2"}
    tar(tmp_path / "x.tar", files)
    stream = ShardStream(tmp_path, decode=plain, classes=CLASSES)
    assert sorted((label, key) for _, label, key in stream) == [(1, "0"), (2, "6")]
    assert stream.report() == no_losses(no_label=1, no_picture=1, bad_label=2, unreadable=1)
    assert sum("what cannot be used" in message for message in caplog.messages) == 1
    with pytest.raises(UserError, match=r"x\.tar: sample 1: it has no member cls\. Repair it"):
        list(ShardStream(tmp_path, decode=plain, classes=CLASSES, bad_samples="error"))
    with pytest.raises(TypeError):
        len(stream)


@pytest.mark.parametrize(
    "choice",
    [{}, {"even": False}, {"epoch_length": 30}, {"resample": True, "epoch_length": 30}, {"shuffle": 0}],
    ids=str,
)
@pytest.mark.parametrize("bad", ["missing", "empty", "no_label", "unreadable"])
def test_when_nothing_is_good_it_is_an_error(tmp_path, choice, bad):
    files = {f"{i}.jpg": JPEG + b"unreadable" for i in range(5)}
    files |= {} if bad == "no_label" else {f"{i}.cls": b"0" for i in range(5)}
    for name in ("x", "y"):
        tar(tmp_path / f"{name}.tar", {} if bad == "empty" else dict(sorted(files.items())))
    pattern = f"{tmp_path}/{{x,y}}{'-not-there' if bad == 'missing' else ''}.tar"
    with pytest.raises(UserError, match="none of the 2 shards"):
        keys(ShardStream(pattern, decode=plain, **choice))


def test_labels_from_the_key(tmp_path):
    tar(tmp_path / "x.tar", {"dog/1.jpg": JPEG, "cat/1.jpg": JPEG, "1/2.jpg": JPEG, "cow/3.jpg": JPEG})
    stream = ShardStream(tmp_path, decode=plain, classes=("cat", "dog"), label_from="^([^/]+)/", shuffle=0)
    assert [(label, key) for _, label, key in stream] == [(1, "dog/1"), (0, "cat/1"), (1, "1/2")]
    assert stream.report() == no_losses(bad_label=1)


def test_real_pictures(shared_data):
    stream = ShardStream(
        shared_data / "imagenet_sample.tar",
        decode=lambda data, rng: decode_image(data).shape,
        num_classes=1000,
        label_from="^([0-9]{4})_",
        shuffle=100,
    )
    found = list(stream)
    assert sorted(label for _, label, _ in found) == list(range(1000))
    assert {shape for shape, _, _ in found} == {(256, 256, 3)}
    assert stream.report() == no_losses()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"rank": 2, "world_size": 2}, "rank=2 of world_size=2"),
        ({"resample": True, "even": False}, "for training"),
        ({"epoch_length": 1, "world_size": 2}, "1 samples for 2 ranks"),
        ({"classes": ("x", "y", "z")}, "expected the 3 classes x, y, z"),
        ({"label_from": "("}, "no regular expression"),
        ({"label_from": "a"}, "no group"),
        ({"bad_samples": "ignore"}, "skip or error"),
    ],
)
def test_what_a_user_can_get_wrong(tmp_path, choice, message):
    with pytest.raises(UserError, match=message):
        ShardStream(write(tmp_path, 4), decode=plain, **choice)


def test_unknown_numbers_cannot_be_shared_evenly(tmp_path):
    (write(tmp_path, 4) / INDEX).unlink()
    with pytest.raises(UserError, match="Give epoch_length"):
        ShardStream(tmp_path, decode=plain, world_size=2)


def test_an_index_older_than_its_shard_is_noticed(tmp_path):
    write(tmp_path, 4)
    with (tmp_path / "train-000000.tar").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="written after the index"):
        ShardStream(tmp_path, decode=plain)


def test_patterns(tmp_path):
    for name in ("b-0.tar", "a-1.tar", "a-0.tar", "c.txt"):
        (tmp_path / name).touch()
    assert expand_shards(f"{tmp_path}/a-*.tar") == (f"{tmp_path}/a-0.tar", f"{tmp_path}/a-1.tar")
    assert [p[-7:] for p in expand_shards(tmp_path)] == ["a-0.tar", "a-1.tar", "b-0.tar"]
    assert expand_shards(["x-{8..11}.tar", "y"]) == ("x-8.tar", "x-9.tar", "x-10.tar", "x-11.tar", "y")
    assert expand_shards("{a,b}{0..1}") == ("a0", "a1", "b0", "b1")
    for wrong in ([], f"{tmp_path}/z*.tar", "x-{3..1}.tar"):
        with pytest.raises(UserError):
            expand_shards(wrong)
