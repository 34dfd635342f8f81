"""What is kept of a teacher."""

from __future__ import annotations

import copy

import numpy as np
import torch

from mnvision.teacher_cache import TeacherCache


def test_kept_outputs_are_not_copied_with_a_model(tmp_path):
    """A running mean of the weights copies the whole training module."""
    np.save(tmp_path / "kept.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    cache = TeacherCache(tmp_path / "kept.npy", classes=3)
    assert copy.deepcopy({"outputs": cache})["outputs"] is cache
    logits, embeddings = cache(torch.tensor([2, 0]))
    assert logits.tolist() == [[8, 9, 10], [0, 1, 2]]
    assert embeddings.tolist() == [[11], [3]]
