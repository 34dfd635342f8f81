"""Fixtures: the real data and weights, where the machine has them."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import pytest
import torch

from mnvision import cli

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


@pytest.fixture
def logging_as_before():
    """Undo what the command line sets up."""
    root = logging.getLogger()
    handlers, level, show = list(root.handlers), root.level, warnings.showwarning
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    warnings.showwarning = show


@pytest.fixture
def start(logging_as_before, monkeypatch, capsys, tmp_path):
    """Run the program in an empty folder: ``start(*arguments)`` gives (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for variable in ("HYDRA_FULL_ERROR", "MNVISION_TRACEBACK", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)

    def start(*arguments, program=cli.main):
        monkeypatch.setattr(sys, "argv", ["prog", *arguments])
        status = 0
        try:
            program()
        except SystemExit as error:
            status = error.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return start
