"""The devices of this machine, what they do fast, and settings that make it so."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mnvision.errors import UserError

logger = logging.getLogger(__name__)

# glibc's mallopt() parameters, from <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def choose_device(accelerator: str) -> torch.device:
    """The device that an accelerator's name (``auto cpu gpu mps``) stands for on this machine.

    Raises:
        UserError: If there is none of the kind.
    """
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator != "cpu" and torch.backends.mps.is_available():
        return torch.device("mps")
    if accelerator in ("auto", "cpu"):
        return torch.device("cpu")
    raise UserError(
        f"trainer.accelerator={accelerator}: PyTorch {torch.__version__} finds no such device here; "
        "trainer.accelerator=auto takes the best one there is"
    )


def check_devices(cfg: Mapping[str, Any]) -> None:
    """Check that the accelerator and the devices of the trainer section are there, before anything is written.

    Raises:
        UserError: If they are not.
    """
    kind, devices = choose_device(cfg["trainer"]["accelerator"]).type, cfg["trainer"]["devices"]
    if kind == "cpu" and str(cfg["trainer"]["precision"]) == "16":
        raise UserError("trainer.precision=16 needs a GPU, and this run is on the CPU: give 32, bf16 or auto")
    if devices == "auto":
        return
    if kind == "cpu" and isinstance(devices, list):
        raise UserError(
            f"trainer.devices={devices}: a list is of GPU numbers, and this run is on the CPU; give a count"
        )
    if kind == "cpu":
        return  # so many processes
    count = torch.cuda.device_count() if kind == "cuda" else 1
    wanted = devices if isinstance(devices, list) else range(devices)
    if not wanted or len(set(wanted)) < len(wanted) or not all(number < count for number in wanted):
        raise UserError(
            f"trainer.devices={devices}: there are {count} here, numbered from 0, each to be named once; "
            "trainer.devices=auto takes all"
        )


def count_processes(accelerator: str, devices: Any) -> int:
    """How many processes a run has: one a device."""
    if isinstance(devices, list):
        return len(devices)
    if devices != "auto":
        return int(devices)
    return torch.cuda.device_count() if choose_device(accelerator).type == "cuda" else 1


def choose_precision(precision: str | int, accelerator: str) -> str:
    """Turn ``auto`` into ``bf16`` where the device is fast at it, else ``32``."""
    if precision != "auto":
        return str(precision)
    return "bf16" if fast_bfloat16(choose_device(accelerator)) else "32"


def describe_machine() -> str:
    """The processor, its cores and the GPUs of this machine in a line, without its name."""
    words = [f"{_processor()}, {os.cpu_count()} cores"]
    if torch.cuda.is_available():
        words += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return "; ".join(words)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def fast_bfloat16(device: torch.device | str) -> bool:
    """Whether bfloat16 arithmetic is faster than float32 here.

    A CPU needs instructions for it (AVX512-BF16 or AMX): without them PyTorch emulates it, several times slower than
    float32.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Private names: where a release lacks them, float32 is the safe answer.
        checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(check() for check in checks if check is not None)
    return False


def keep_freed_memory() -> bool:
    """Let the C library keep memory that is freed, for the tensors of the next step; True if it took effect.

    By default glibc hands every large block back to the system, and each training step then faults the same pages in
    again: on a CPU that can take a third of the time of a small network. Linux with glibc only; elsewhere nothing
    happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
    except (OSError, AttributeError):
        return False
