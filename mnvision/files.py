"""Files: writing one so that nobody finds half of it, and how those of weights are named."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

from mnvision.errors import UserError

# Text that ends like this means a file of weights, and no known name.
WEIGHT_SUFFIXES = (".npz", ".h5", ".hdf5", ".pt", ".pth", ".ckpt", ".safetensors")


def write_text(path: Path, text: str, *, what: str = "the file", errors: str = "strict") -> None:
    """Write a file as UTF-8; it appears whole or not at all, and its folder is made if need be.

    Args:
        path: The file. An older one is replaced in one step: readers see the old text or the new one.
        text: What it is to hold.
        what: What the file is, for the error.
        errors: As of :meth:`str.encode`; ``replace`` where the text may hold names of files, which can be any bytes.

    Raises:
        UserError: If the file cannot be written; names the path and the reason.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8", errors=errors)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write {what} to {path}: {error.strerror or error}.") from error


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows of cells as CSV, a line each."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
