"""What a teacher said is kept by picture and view."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from mnvision.models.teacher_memory import TeacherMemory


def test_each_view_of_each_picture_is_asked_for_once():
    asked: list[list[float]] = []

    def ask(images: Tensor) -> Tensor:
        asked.append(images[:, 0, 0, 0].tolist())
        return images[:, 0, 0, :2] * 10

    def pictures(*values: float) -> Tensor:
        return torch.tensor(values)[:, None, None, None].expand(-1, 3, 2, 2)

    memory = TeacherMemory(pictures=4, views=2)
    first = memory(pictures(0, 1), torch.tensor([0, 1]), ask=ask)
    assert first.tolist() == [[0, 0], [10, 10]]
    # One that is known among two that are not, and the pixels of the known one do not matter.
    assert memory(pictures(3, 99, 2), torch.tensor([3, 1, 2]), ask=ask).tolist() == [[30, 30], [10, 10], [20, 20]]
    memory.begin_epoch(1)
    assert memory(pictures(0.5, 1.5), torch.tensor([0, 1]), ask=ask).tolist() == [[5, 5], [15, 15]]
    memory.begin_epoch(2)  # the first view again
    assert memory(pictures(7, 7), torch.tensor([2, 0]), ask=ask).tolist() == [[20, 20], [0, 0]]
    memory.begin_epoch(3)
    assert memory(pictures(7, 2.5), torch.tensor([1, 2]), ask=ask).tolist() == [[15, 15], [25, 25]]
    assert asked == [[0, 1], [3, 2], [0.5, 1.5], [2.5]]
    assert copy.deepcopy(memory) is memory
