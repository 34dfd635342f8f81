"""Archives of data sets: unpacked safely, and once."""

from __future__ import annotations

import gzip
import logging
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

from mnvision.cache import cache_dir
from mnvision.errors import UserError, file_error

log = logging.getLogger(__name__)

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".txz", ".zip")
_BROKEN = "cannot be unpacked. Expected a tar or zip file, without a password; was it copied in full?"


def is_archive(path: Path) -> bool:
    """Whether a file is called like an archive that can be unpacked."""
    return path.name.lower().endswith(SUFFIXES)


def extract_once(archive: str | Path, *, cache: Path | None = None) -> Path:
    """The folder with what an archive holds; it is unpacked when first asked for.

    The folder's name tells the archive by its name, size and time of change: a changed archive is unpacked anew. It
    appears whole or not at all; of several processes that come at once the first to finish leaves its own.

    Args:
        archive: A tar archive (plain, or packed by gzip, bzip2 or xz) or a zip file.
        cache: Where such folders are kept; ``archives`` in the cache folder where None.

    Returns:
        The folder, or the only one in it where there is nothing else beside that one.

    Raises:
        UserError: The archive is missing, broken or unsafe, or there is no room or no right to write.
    """
    archive = Path(archive)
    try:
        about = archive.stat()
    except FileNotFoundError:
        raise UserError(f"archive not found: {archive}. Expected a tar or zip file; check data.root") from None
    place = cache_dir() / "archives" if cache is None else cache
    folder = place / f"{archive.name}-{about.st_size}-{about.st_mtime_ns}"
    if not folder.is_dir():
        unpacked = unpack(archive, beside=folder)
        try:
            os.rename(unpacked, folder)
        except OSError:
            shutil.rmtree(unpacked, ignore_errors=True)
            if not folder.is_dir():  # another process was not faster either
                raise
    # Systems leave hidden files and a folder of their own beside what was packed.
    inside = [path for path in folder.iterdir() if path.name != "__MACOSX" and not path.name.startswith(".")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def unpack(archive: Path, *, beside: Path) -> Path:
    """Unpack an archive into a new folder, on the disk of the path where it is to go.

    Nothing in it can reach outside that folder, belong to another user, or be a device: Python's filter for data.

    Args:
        archive: A tar or zip file.
        beside: The path that the folder, or what it holds, will be moved to.

    Returns:
        The new folder, for the caller to move or remove.

    Raises:
        UserError: As `extract_once`.
    """
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{beside.name}.", dir=beside.parent))
    except OSError as error:
        raise UserError(
            f"cannot unpack {archive} into {beside.parent} ({error.strerror}): set MNVISION_CACHE to a folder that can"
            " be written"
        ) from error
    log.info("unpacking %s (%.1f MB) to %s", archive, archive.stat().st_size / 1e6, beside.parent)
    try:
        _extract(archive, folder)
        folder.chmod(0o755)  # mkdtemp makes it private
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _extract(archive: Path, folder: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:  # leaves out .. and roots by itself
                packed.extractall(folder)
        else:
            with tarfile.open(archive) as packed_tar:
                packed_tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise file_error(
            archive, f"is not safe to unpack ({error}). Expected plain files and folders inside its own folder"
        ) from error
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise file_error(archive, f"{_BROKEN} ({error})") from error
    except (EOFError, RuntimeError) as error:  # cut short; a zip file with a password or a method that Python lacks
        raise file_error(archive, f"{_BROKEN} ({error})") from error
    except OSError as error:
        raise file_error(
            archive, f"cannot be unpacked to {folder.parent} ({error}). Is there room on the disk?"
        ) from error
