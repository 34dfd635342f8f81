"""The base of what trainings minimise beyond a model's own losses."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from mnvision.models.base import TaskModel
from mnvision.models.teacher_memory import TeacherMemory
from mnvision.types import Labels

Model = TypeVar("Model", bound=TaskModel)
Teacher = TypeVar("Teacher", bound=nn.Module)


class TrainingObjective(nn.Module, Generic[Model, Teacher]):
    """Knows the model that is trained, and its teacher if it has one; neither is a part of this module.

    The model's parameters stay its own. The teacher is frozen, in evaluation mode, and out of the optimiser and of
    checkpoints; it goes along to another device. A copy of this module, as a running mean of the weights makes one,
    has the same teacher.

    Args:
        model: What is trained.
        teacher: A network that was trained before.
    """

    def __init__(self, model: Model, *, teacher: Teacher | None = None) -> None:
        super().__init__()
        # In a tuple and in an object of our own, so that they are not registered here.
        self._model = (model,)
        self._teacher = _Shared(None if teacher is None else teacher.eval().requires_grad_(False))
        self.memory: TeacherMemory | None = None  # of the teacher's answers; None asks at every step

    @property
    def model(self) -> Model:
        """What is trained."""
        return self._model[0]

    @property
    def teacher(self) -> Teacher | None:
        """What is learnt from."""
        return self._teacher.network

    def ask(self, images: Tensor) -> Any:
        """What the teacher says of pictures [B, 3, S, S]."""
        raise NotImplementedError

    def answers(self, images: Tensor, targets: Labels) -> Tensor:
        """What the teacher says of a batch [B, C], or said of it before."""
        if self.memory is None:
            return self.ask(images)
        return self.memory(images, targets.image_ids, ask=self.ask)

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for the pictures of an epoch, from 0 on."""
        if self.memory is not None:
            self.memory.begin_epoch(epoch)

    def _apply(self, change: Any, recurse: bool = True) -> TrainingObjective[Model, Teacher]:
        """Take the teacher along to another device."""
        if self.teacher is not None:
            self.teacher._apply(change)
        return super()._apply(change, recurse)


class _Shared(Generic[Teacher]):
    """A network that copies share."""

    def __init__(self, network: Teacher | None) -> None:
        self.network = network

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared[Teacher]:
        return self
