"""Where mnvision keeps what it makes or downloads once."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder: the environment variable ``MNVISION_CACHE``, else ``~/.cache/mnvision``; it may not exist."""
    chosen = os.environ.get("MNVISION_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "mnvision"
