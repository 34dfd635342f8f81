"""What a training minimises beyond the model's own losses: doubted or weighted labels, and teachers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnvision.backbones.architecture import task_of
from mnvision.backbones.folding import fold_batchnorm
from mnvision.backbones.loading import unmatched_classes
from mnvision.backbones.timm_adapter import TimmClassifier
from mnvision.backbones.weights import read_tensors, read_weights
from mnvision.checkpoint import model_from_checkpoint, read_checkpoint
from mnvision.data.class_datamodule import ClassDataModule
from mnvision.errors import UserError
from mnvision.hardware import choose_device
from mnvision.models.attribute_objective import AttributeObjective, positive_weights
from mnvision.models.attributes import AttributeNetwork
from mnvision.models.base import ModelSpec, TaskModel
from mnvision.models.class_objective import ClassObjective, balanced_weights
from mnvision.models.classifier import Classifier
from mnvision.models.create import create_model
from mnvision.models.distillation import Distillation, Teacher
from mnvision.models.embedder import Embedder
from mnvision.models.embedding_objective import WITHIN_BATCH, EmbeddingObjective
from mnvision.models.geolocator import Geolocator
from mnvision.models.place_objective import PlaceObjective
from mnvision.models.teacher_memory import TeacherMemory
from mnvision.module import Objective
from mnvision.teacher_cache import TeacherCache, keep_outputs, outputs_file
from mnvision.types import Preprocessing

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]
_CLASSIFY = ("label_smoothing", "class_weights", "noise", "trust")
_TEACHER = (
    *("teacher", "teacher_backbone", "teacher_alpha", "teacher_image_size"),
    *("teacher_library", "teacher_classes"),
)
_DISTILL = (
    *_TEACHER,
    "temperature",
    "weight",
    "feature_weight",
    "embedding_weight",
    "use_labels",
    "cache_teacher",
    "teacher_views",
)
# What a geolocator's cells are made from: keys that its data take.
PARTITION = ("max_photos", "min_photos", "min_level", "max_level", "answer")
# Keys of a task that its training asks for and its network does not know.
OBJECTIVE_KEYS = {
    "classify": _CLASSIFY,
    "distill": (*_CLASSIFY, *_DISTILL),
    "embed": ("loss", "scale", "margin", "teacher", "teacher_weight", "relation_weight", "teacher_views"),
    "attributes": ("positive_weights", "teacher", "weight", "use_labels", "teacher_views"),
    "geolocate": (*PARTITION, "soft_labels_km"),
}
# The task of the network that a task trains, where it has another name.
NETWORKS = {"distill": "classify"}


def build_teacher(cfg: Config) -> Teacher | Embedder | None:
    """The teacher of ``task=distill``, or of another task that is given one; else None.

    Raises:
        UserError: If there is none, it is no such network, or its outputs cannot be kept as the user asks for.
    """
    task = cfg["task"]
    if task.get("cache_teacher") or task.get("teacher_views"):
        _check_kept(cfg)
    if task["name"] in ("embed", "attributes") and task["teacher"]:
        return _saved_teacher(task["teacher"], task=task["name"])
    if task["name"] != "distill":
        return None
    given, backbone = task["teacher"], task["teacher_backbone"]
    if backbone is None:
        return _saved_teacher(given, task="classify")
    if task["teacher_library"] == "timm":
        return _timm_teacher(backbone, given, classes=task["teacher_classes"])
    return _announced(_own_teacher(task))


def known_identities(cfg: Config, teacher: TaskModel | Any) -> list[str]:
    """Names of the identities that an embedder knows before its training: its teacher's, and those of its weights."""
    if cfg["task"]["name"] != "embed":
        return []
    names = [] if teacher is None else list(teacher.spec.classes)
    timm_model = cfg["backbone"]["name"] if cfg["backbone"].get("library") == "timm" else None
    for file, model in ((cfg["task"]["weights"], None), (cfg["backbone"]["weights"], timm_model)):
        weights = read_weights(file, timm_model=model) if file else None
        # Class names without a class head are those of an embedder.
        if weights is not None and weights.classes and task_of(weights.tensors) == "backbone":
            names += [name for name in weights.classes if name is not None]
    return names


def _saved_teacher(path: str, *, task: str) -> Any:
    """The network of a checkpoint, which has to be of a task."""
    saved = read_checkpoint(path, key="task.teacher")
    return _announced(model_from_checkpoint(saved, path=path, key="task.teacher", task=task))


def _announced(teacher: TaskModel) -> Any:
    name = teacher.spec.backbone_options["name"]
    logger.info("teacher: %s at %d pixels, %s", name, teacher.preprocessing.size, teacher.spec.counted)
    return fold_batchnorm(teacher).eval()  # it is asked at every step and never trained: half as much faster


def _check_kept(cfg: Config) -> None:
    """Refuse to keep what a teacher says of pictures that are never the same twice."""
    data, task = cfg["data"], cfg["task"]
    key, off, kept = "task.teacher_views", "null", "each view of a picture by itself"
    if task.get("cache_teacher"):
        key, off, kept = "task.cache_teacher", "false", "each picture as it is, not of changed ones"
    if not task["teacher"]:
        raise UserError(f"{key} is of a teacher, and there is none: give task.teacher=CKPT, or {key}={off}")
    if data["name"] == "shards":
        raise UserError(f"{key}: pictures of a stream have no place in it; give {key}={off}")
    if task.get("teacher_views") and (data.get("per_identity") or task.get("loss") in WITHIN_BATCH):
        raise UserError(
            f"{key}: a batch of identities repeats pictures, which had to be copies of one view; give "
            "task.teacher_views=null, or task.loss=none (or arcface, cosface) with data.per_identity=null"
        )
    changes = {
        "data.augment=none": task.get("cache_teacher") and data["augment"] != "none",
        "data.mixup=0": data.get("mixup"),
        "data.cutmix=0": data.get("cutmix"),
        "task.feature_weight=0": task.get("feature_weight"),
        "task.teacher_views=null": task.get("cache_teacher") and task["teacher_views"],
        "trainer.progressive_rho=null": cfg["trainer"]["progressive_rho"],
    }
    if any(changes.values()):
        raise UserError(
            f"{key} keeps what the teacher says of {kept}, and no maps: give "
            f"{' '.join(change for change, wrong in changes.items() if wrong)}, or {key}={off}"
        )


def _own_teacher(task: Mapping[str, Any]) -> TaskModel:
    """One of our networks with weights whose class head is used as it is.

    Raises:
        UserError: If the head has other classes than ``teacher_classes``, or none are named.
    """
    given, names = task["teacher"], task["teacher_classes"]
    weights = read_weights(given)
    if names is None and weights.classes is None:
        raise UserError(f"task.teacher: {given} does not name its classes; give task.teacher_classes=[...]")
    classes = names or [name for name in weights.classes or () if name is not None]
    if strange := unmatched_classes(weights, classes):
        raise UserError(
            f"task.teacher_classes: the class head of {given} has no column for {len(strange)} of these "
            f"{len(classes)} names, such as {strange[0]!r}; give the names of its classes in their order"
        )
    return create_model(
        "classify",
        backbone=task["teacher_backbone"],
        alpha=task["teacher_alpha"],
        image_size=task["teacher_image_size"],
        weights=given,
        classes=classes,
    )


def _timm_teacher(name: str, weights: str, *, classes: Sequence[str] | None) -> TimmClassifier:
    teacher = TimmClassifier(name, read_tensors(weights))
    if classes is not None and len(classes) != teacher.num_classes:
        raise UserError(
            f"task.teacher_classes: got {len(classes)} names, and {weights} has {teacher.num_classes} classes"
        )
    names = tuple(classes or (f"class {label}" for label in range(1, teacher.num_classes + 1)))
    options, ids = {"name": name, "library": "timm"}, tuple(range(1, len(names) + 1))
    teacher.spec = ModelSpec("classify", {}, options, teacher.preprocessing, names, ids)
    logger.info("teacher: timm's %s at %d pixels, %d classes", name, teacher.preprocessing.size, len(names))
    return teacher.eval()


def build_objective(
    cfg: Config, model: TaskModel, *, data: ClassDataModule | Any, teacher: Teacher | Embedder | None
) -> Objective | None:
    """What training minimises; None where it is the model's own losses.

    Args:
        cfg: A valid configuration.
        model: What is trained.
        data: What it is trained on.
        teacher: What ``build_teacher`` gave.

    Raises:
        UserError: If the teacher does not suit.
    """
    if cfg["task"]["name"] not in OBJECTIVE_KEYS:
        return None
    objective = _objective(cfg, model, data=data, teacher=teacher)
    if teacher is not None:
        _warn_of_views(teacher.preprocessing, model.preprocessing)
    if teacher is not None and (views := cfg["task"]["teacher_views"]):
        objective.memory = TeacherMemory(pictures=len(data.load_split("train")), views=views)
    return objective


def _objective(cfg: Config, model: TaskModel, *, data: Any, teacher: Teacher | Embedder | None) -> Any:
    task = cfg["task"]
    if isinstance(model, Embedder):
        return EmbeddingObjective(
            model,
            loss=task["loss"],
            identities=int(data.load_split("train").labels.max()) + 1,
            scale=task["scale"],
            margin=task["margin"],
            teacher=teacher if isinstance(teacher, Embedder) else None,
            teacher_weight=task["teacher_weight"],
            relation_weight=task["relation_weight"],
        )
    if isinstance(model, AttributeNetwork):
        return AttributeObjective(
            model,
            positive_weights=positive_weights(data.counts) if task["positive_weights"] == "balanced" else None,
            teacher=teacher if isinstance(teacher, AttributeNetwork) else None,
            weight=task["weight"],
            use_labels=task["use_labels"],
        )
    if isinstance(model, Geolocator):
        scale = task["soft_labels_km"]
        return None if scale is None else PlaceObjective(model, scale=scale)
    hard = ClassObjective(
        model,
        smoothing=task["label_smoothing"],
        class_weights=balanced_weights(data.counts) if task["class_weights"] == "balanced" else None,
        noise=task["noise"],
        trust=task["trust"],
    )
    if teacher is None or isinstance(teacher, Embedder) or not isinstance(model, Classifier):
        return hard
    objective = Distillation(
        model,
        teacher,
        hard=hard if task["use_labels"] else None,
        temperature=task["temperature"],
        weight=task["weight"],
        feature_weight=task["feature_weight"],
        embedding_weight=task["embedding_weight"],
    )
    if task["cache_teacher"]:
        objective.outputs = _kept_outputs(cfg, objective, teacher, data)
    return objective


def _warn_of_views(teacher: Preprocessing, student: Preprocessing) -> None:
    """Say where a teacher is used to other views of the pictures than the student's, which it is shown."""
    for name, key in {"fit": "task.fit", "crop_share": "task.crop_share", "aligned": "data.landmarks"}.items():
        used_to, shown = getattr(teacher, name), getattr(student, name)
        if used_to != shown:
            logger.warning(
                "teacher: it was trained with %s=%s and is shown the student's pictures, with %s=%s; its answers are "
                "worse for it. See %s",
                *(name, used_to, name, shown, key),
            )


def _kept_outputs(cfg: Config, objective: Distillation, teacher: Teacher, data: ClassDataModule) -> TeacherCache:
    """The teacher's outputs for the training pictures, asked for now unless they are on disk."""
    pictures, folder = data.load_split("train"), data.image_folder("train")
    file = outputs_file(teacher, pictures, folder=Path(folder), seen=data.preprocessing, margin=data.margin)
    keep_outputs(
        objective,
        data.evaluation_dataloader("train"),
        count=len(pictures),
        file=file,
        device=choose_device(cfg["trainer"]["accelerator"]),
    )
    return TeacherCache(file, classes=len(teacher.spec.classes))
