"""The reader of tars against tarfile, on files that tarfile and (where there is one) the system's tar write."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile

import pytest

from mnvision.data.shard_files import Shard, open_shard
from mnvision.data.tar import ShardError, _number, read_samples

USTAR = tarfile.USTAR_FORMAT
LONG = "folder/" + "x" * 90 + "/" + "y" * 120 + "é"
FILES = {"a.cls": b"1", "a.jpg": b"j" * 700, f"{LONG}.cls": b"2", f"{LONG}.jpg": b"", "b/c.d/e.left.png": b"p" * 512}


def write(path, files=FILES, *, style=tarfile.PAX_FORMAT, extra=None):
    comment = {"comment": "a global header"} if style == tarfile.PAX_FORMAT else None
    with tarfile.open(path, "w", format=style, pax_headers=comment) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra or ():
            tar.addfile(info)
    return path


def read(path, **choice):
    file = open_shard(Shard(str(path)))
    try:
        return list(read_samples(file, **choice))
    finally:
        file.close()


def by_tarfile(path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}


def names(samples) -> dict[str, bytes]:
    return {f"{s.key}.{suffix}": data for s in samples for suffix, data in s.members.items()}


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_reads_what_tarfile_reads(tmp_path, style):
    path = write(tmp_path / "x.tar", style=style)
    samples = read(path)
    assert names(samples) == by_tarfile(path) == FILES
    assert [s.key for s in samples] == ["a", LONG, "b/c.d/e"]
    assert [s.place for s in samples] == [0, 1, 2]
    assert list(samples[2].members) == ["left.png"]


def test_members_that_are_not_wanted_are_there_without_their_bytes(tmp_path):
    samples = read(write(tmp_path / "x.tar"), only={"left.png"})
    assert [s.members.keys() for s in samples] == [s.members.keys() for s in read(tmp_path / "x.tar")]
    assert {name: data for name, data in names(samples).items() if data} == {
        name: data for name, data in FILES.items() if name.endswith("left.png")
    }


def test_reads_the_prefix_of_ustar(tmp_path):
    files = {"d" * 100 + "/" + "n" * 80 + ".jpg": b"1"}  # too long for the name field alone
    path = write(tmp_path / "x.tar", files, style=USTAR)
    assert names(read(path)) == files


@pytest.mark.parametrize("style", ["gnu", "pax", "ustar", "v7"])
def test_reads_what_the_systems_tar_writes(tmp_path, style):
    program = shutil.which("tar")
    if program is None:
        pytest.skip("there is no tar program")
    files = {"s/a.cls": b"1", "s/a.jpg": b"j" * 700}
    if style in ("gnu", "pax"):
        files["s/" + "y" * 150 + ".jpg"] = b"long"
    (tmp_path / "s").mkdir()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "s/z.jpg").symlink_to("a.jpg")
    done = subprocess.run([program, f"--format={style}", "--sort=name", "-cf", "x.tar", "s"], cwd=tmp_path)
    if done.returncode:
        pytest.skip("this is not GNU's tar")
    assert names(read(tmp_path / "x.tar")) == by_tarfile(tmp_path / "x.tar") == files


def test_large_numbers_of_gnu_tars():
    info = tarfile.TarInfo("x")
    info.size = 9 << 33  # more than eleven octal digits hold
    assert _number(info.tobuf(tarfile.GNU_FORMAT)[124:136]) == 9 << 33


def test_what_is_no_sample_is_passed_over(tmp_path):
    folder, link = tarfile.TarInfo("f.jpg"), tarfile.TarInfo("l.jpg")
    folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "a.jpg"
    files = {"._a.jpg": b"of another system", "README": b"no dot", "a.jpg": b"1"}
    assert names(read(write(tmp_path / "x.tar", files, extra=[folder, link]))) == {"a.jpg": b"1"}


def test_takes_only_what_is_asked_for(tmp_path):
    files = {f"{i}.{suffix}": bytes([i]) for i in range(10) for suffix in ("cls", "jpg")}
    path = write(tmp_path / "x.tar", files, style=USTAR)
    assert [s.key for s in read(path, start=1, stop=8, step=3)] == ["1", "4", "7"]
    assert names(read(path, start=9)) == {"9.cls": bytes([9]), "9.jpg": bytes([9])}
    path.write_bytes(path.read_bytes()[: 4 * 1024 + 600])  # what comes after the end that was asked for does not matter
    assert [s.key for s in read(path, stop=2)] == ["0", "1"]


def test_the_same_name_twice_is_two_samples(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for data in (b"1", b"2"):
            info = tarfile.TarInfo("a.jpg")
            info.size = 1
            tar.addfile(info, io.BytesIO(data))
    assert [s.members for s in read(path)] == [{"jpg": b"1"}, {"jpg": b"2"}]


def drain(file, found: list[str]) -> None:
    for sample in read_samples(file):
        found.append(sample.key + "?" * (not sample.whole))


@pytest.mark.parametrize(
    ("size", "kind", "keys"),
    [
        (0, "truncated", []),
        (2 * 1024 + 512, "truncated", ["0"]),  # nothing of sample 1 but a header
        (2 * 1024 + 100, "truncated", ["0?"]),  # in the header of 1.cls: 0 may have had more members
        (2 * 1024, "truncated", ["0?"]),
        (512 + 1, "truncated", ["0?"]),
    ],
)
def test_tells_where_a_tar_is_cut(tmp_path, size, kind, keys):
    path = write(tmp_path / "x.tar", {f"{i}.{s}": b"x" for i in range(2) for s in ("cls", "jpg")}, style=USTAR)
    path.write_bytes(path.read_bytes()[:size])
    file, found = open_shard(Shard(str(path))), []
    with pytest.raises(ShardError) as caught:
        drain(file, found)
    file.close()
    assert caught.value.kind == kind
    assert found == keys


@pytest.mark.parametrize("damage", [0, 130, 150])
def test_damage_in_a_header_is_found(tmp_path, damage):
    path = write(tmp_path / "x.tar", {"0.jpg": b"x", "1.jpg": b"x"}, style=USTAR)
    data = bytearray(path.read_bytes())
    data[1024 + damage] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError) as caught:
        read(path)
    assert caught.value.kind == "damaged"


def test_what_is_no_tar_is_damaged(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ShardError, match="not a tar") as caught:
        read(tmp_path / "x.tar")
    assert caught.value.kind == "damaged"
