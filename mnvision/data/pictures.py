"""Loose picture files: what `predict` is pointed at."""

from __future__ import annotations

import glob
from pathlib import Path

from mnvision.errors import UserError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))


def find_pictures(source: str | Path) -> list[Path]:
    """The pictures that a file, a folder (with all below it) or a glob pattern stands for, sorted.

    Of a folder, the annotated copies that earlier runs left somewhere below it are not taken.

    Raises:
        UserError: If there is nothing of that name, or no picture among it.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
        found = [file for file in found if file.parent == path or not _is_annotated_copy(file)]
        what = f"the folder {path} holds no picture ({', '.join(sorted(SUFFIXES))})"
    else:
        # A pattern chooses by itself: whatever matches is tried, whatever its suffix.
        found = [Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file()]
        what = f"there is no file, folder or match of the pattern {str(source)!r}"
    if not found:
        raise UserError(f"source: {what}; give a picture, a folder of pictures, or a quoted pattern such as 'a/*.jpg'")
    return sorted(found)


def _is_annotated_copy(file: Path) -> bool:
    return file.parent.name == "pictures" and (file.parent.parent / "predictions.json").is_file()
