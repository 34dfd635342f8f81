"""What this machine does fast, and settings that make it so."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import sys
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

# glibc's mallopt() parameters, from <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


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
