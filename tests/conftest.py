"""Fixtures: the real data and weights, where the machine has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tests run in parallel processes: one thread each."""
    torch.set_num_threads(1)


def _folder(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"the real {name} are not on this machine ({path.name}/ beside the repository)")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures and annotations; skips where it is absent."""
    return _folder("data")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """The folder of real pretrained weights; skips where it is absent."""
    return _folder("weights")
