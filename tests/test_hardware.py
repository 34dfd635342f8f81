"""Devices and precision."""

from __future__ import annotations

import pytest
import torch

from mnvision import hardware
from mnvision.errors import UserError


@pytest.mark.parametrize(("fast", "expected"), [(False, "32"), (True, "bf16")])
def test_automatic_precision(monkeypatch, fast, expected):
    asked = []
    monkeypatch.setattr(hardware, "fast_bfloat16", lambda device: asked.append(device) or fast)
    assert hardware.choose_precision("auto", "cpu") == expected
    assert asked == [torch.device("cpu")]
    for given in ("32", 32, "bf16", "16", 16):
        assert hardware.choose_precision(given, "cpu") == str(given)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert [hardware.choose_device(name).type for name in ("auto", "gpu", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [hardware.choose_device(name).type for name in ("auto", "cpu")] == ["cpu", "cpu"]
    for name in ("gpu", "mps"):
        with pytest.raises(UserError, match=f"trainer.accelerator={name}: .* no such device"):
            hardware.choose_device(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [hardware.choose_device(name).type for name in ("auto", "gpu", "mps", "cpu")] == ["mps"] * 3 + ["cpu"]


def test_devices_that_are_not_there(monkeypatch):
    def check(devices, precision="auto"):
        hardware.check_devices({"trainer": {"accelerator": "auto", "devices": devices, "precision": precision}})

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    check(3)
    with pytest.raises(UserError, match="is on the CPU; give a count"):
        check([0, 1])
    with pytest.raises(UserError, match="trainer.precision=16 needs a GPU"):
        check("auto", precision=16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check("auto", precision=16)
    for devices in ("auto", 2, [1]):
        check(devices)
    for devices in (3, [0, 2], [0, 0], []):
        with pytest.raises(UserError, match="there are 2 here"):
            check(devices)
