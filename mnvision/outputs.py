"""What a run leaves behind: its folder, and the pictures, tables and pages in it."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mnvision import __version__
from mnvision.config import to_yaml
from mnvision.errors import UserError
from mnvision.files import write_text
from mnvision.hardware import choose_precision, describe_machine
from mnvision.models.base import TaskModel
from mnvision.profiler import profile
from mnvision.report import write_report
from mnvision.report_parts import ReportPlan

logger = logging.getLogger(__name__)

# Tells the processes that a distributed run starts which folder to write.
FOLDER_VARIABLE = "MNVISION_RUN_FOLDER"


def check_run_folder(cfg: Mapping[str, Any], *, overwrite: str | None = None, sources: Collection[Path] = ()) -> None:
    """Refuse an ``output_dir`` in which the run would overwrite what the user has: a training, or the run's own input.

    Args:
        cfg: The configuration of the run.
        overwrite: A checkpoint: the training in whose folder it lies may be gone on with.
        sources: The folders of the pictures that the run reads; their annotated copies bear their names.

    Raises:
        UserError: If there are checkpoints in the folder, or the copies would go where the pictures are.
    """
    if cfg["output_dir"] is None or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    copies = (Path(cfg["output_dir"]) / "pictures").resolve()
    if any(copies in (source.resolve(), *source.resolve().parents) for source in sources):
        raise UserError(
            f"output_dir: annotated copies would be written over the pictures in {copies}; give another one"
        )
    checkpoints = Path(cfg["output_dir"]).absolute() / "checkpoints"
    if not any(checkpoints.glob("*.ckpt")) or (overwrite and Path(overwrite).absolute().parent == checkpoints):
        return
    last = checkpoints / "last.ckpt"
    raise UserError(
        f"output_dir: {checkpoints.parent} holds a training already; give another folder"
        + (f", or resume={last} to go on with it" if last.is_file() and "resume" in cfg else "")
    )


def run_folder(cfg: Mapping[str, Any]) -> Path:
    """Make the folder of a run: ``output_dir``, or a new one under ``runs/`` named after the task and the time.

    Of a distributed run, the processes that Lightning starts join the folder of the one that started them.

    Raises:
        UserError: Another program started the processes, and no ``output_dir`` says where they meet.
    """
    rank, joined = os.environ.get("LOCAL_RANK"), os.environ.get(FOLDER_VARIABLE)
    started_elsewhere = rank is not None and joined is None
    given = joined if joined is not None and rank not in (None, "0") else cfg["output_dir"]
    if started_elsewhere and not given:
        raise UserError(
            "output_dir is not set, and this run was started with several processes (LOCAL_RANK is set, as torchrun "
            "and cluster managers do): give output_dir=FOLDER, so that all of them write one folder"
        )
    try:
        folder = Path(given) if given else _new_folder(Path("runs") / cfg["task"]["name"])
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir: cannot make the folder of the run ({error}); give another one") from error
    if not started_elsewhere:
        os.environ[FOLDER_VARIABLE] = str(folder.resolve())
    return folder.resolve()


def _new_folder(parent: Path) -> Path:
    """Make a folder named after the time; a number tells apart runs that begin in the same second."""
    stem = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = parent / stem, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = parent / f"{stem}-{number}"


def write_origin(folder: Path, *, command: str, words: Sequence[str]) -> None:
    """Write ``origin.json``: what was typed, when, on which commit and machine, so that numbers can be cited.

    Args:
        folder: Of the run.
        command: ``train``, ``eval`` or ``predict``.
        words: What followed it.
    """
    origin = {
        "command": shlex.join(["mnvision", command, *words]),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": describe_machine(),
    }
    write_text(folder / "origin.json", json.dumps(origin, indent=1))


def _commit() -> str:
    """The commit of the checkout that runs, with ``+`` where files differ from it; a release where there is none."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # else the repository around it is another one
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return f"mnvision {__version__}"


def annotated_names(pictures: Sequence[Path]) -> list[str]:
    """File names for the annotated copies, no two the same: with folders, suffix and number where need be.

    >>> annotated_names([Path("in/cat.jpg"), Path("in/dog.jpg"), Path("in/dog.png"), Path("in/a/dog.jpg")])
    ['cat.jpg', 'dog_jpg.jpg', 'dog_png.jpg', 'a__dog.jpg']
    """
    if not pictures:
        return []
    paths = [Path(os.path.abspath(picture)) for picture in pictures]
    base = os.path.commonpath([path.parent for path in paths])
    twins = Counter(path.with_suffix("") for path in paths)
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        stem = "__".join(path.relative_to(base).with_suffix("").parts)
        if twins[path.with_suffix("")] > 1:
            stem += path.suffix.replace(".", "_")
        name, number = f"{stem}.jpg", 1
        while name.lower() in taken:  # on some systems capitals make no other file
            number += 1
            name = f"{stem}-{number}.jpg"
        taken.add(name.lower())
        names.append(name)
    return names


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write a picture uint8 [H, W, 3] RGB; the suffix of the path says how."""
    encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())  # imwrite() fails without an error, and on some systems on such names
    except OSError as error:
        raise UserError(f"cannot write the picture {path}: {error.strerror}") from error


def pixels_of(dataset: Any, index: int) -> np.ndarray | None:
    """A picture of a split as it is; None, with a warning, where it cannot be read: the numbers are there already."""
    try:
        return dataset.picture(index).pixels()
    except UserError as error:
        logger.warning("not drawn: %s", error)
        return None


def model_line(model: TaskModel, *, precision: str) -> str:
    """One line on what a model is and costs, and in which precision it runs."""
    spec, cost = model.spec, profile(model)
    known = " known" if spec.task == "embed" else ""  # its teacher's and its weights' are among them
    return (
        f"{spec.task} on {spec.backbone_options['name']} alpha {spec.backbone_options['alpha']:g} at "
        f"{cost.image_size}x{cost.image_size}, {spec.counted}{known}: {cost.mult_adds / 1e6:,.0f} M mult-adds, "
        f"{cost.trainable / 1e6:.2f} M parameters; precision {precision}"
    )


def teacher_line(task: Mapping[str, Any]) -> str:
    """One line on what a student learns from; empty where there is no teacher."""
    if not task.get("teacher"):
        return ""
    if task["name"] == "embed":
        embedding = [
            f"embeddings, weight {task['teacher_weight']:g}" if task["teacher_weight"] else "",
            f"their relations, weight {task['relation_weight']:g}" if task["relation_weight"] else "",
            "no identities" if task["loss"] == "none" else f"beside {task['loss']} of the identities",
        ]
        return f"{task['teacher']}: {', '.join(filter(None, embedding))}"
    said = f"classes at temperature {task['temperature']:g}" if "temperature" in task else task["name"]
    parts = [
        f"{said}, weight {task['weight']:g}" if task["weight"] else "",
        f"maps, weight {task['feature_weight']:g}" if task.get("feature_weight") else "",
        f"embeddings, weight {task['embedding_weight']:g}" if task.get("embedding_weight") else "",
        f"beside the labels, weight {1 - task['weight']:g}" if task["use_labels"] else "no labels",
    ]
    return f"{task['teacher']}: {', '.join(filter(None, parts))}"


def describe_run(model: TaskModel, *, cfg: Mapping[str, Any], folder: Path, command: str) -> None:
    """Write what the run is: its configuration, its origin, and the costs of every layer of its model."""
    write_text(folder / "config.yaml", to_yaml(cfg))
    write_text(folder / "profile.csv", profile(model).csv())
    write_origin(folder, command=command, words=cfg.get("override_words", []))


def report_run(
    model: TaskModel,
    *,
    bars: Mapping[str, float],
    ticks: Mapping[str, float],
    plan: ReportPlan,
    split: str,
    count: int,
    cfg: Mapping[str, Any],
    folder: Path,
    numbers: Mapping[str, float],
    remarks: Mapping[str, str],
    commands: Sequence[Sequence[str]],
) -> None:
    """Write ``report.html``, and say where it is; see ``write_report``.

    Args:
        model: What was measured.
        bars: By class name.
        ticks: By class name.
        plan: What is shown of this kind of task.
        split: What it was measured on.
        count: Pictures in it.
        cfg: The configuration.
        folder: Of the run.
        numbers: As in ``metrics.json``.
        remarks: What to say beside a number, by its name without the split.
        commands: That repeat the run.
    """
    spec = model.spec
    place = f" in {root}" if (root := cfg["data"].get("root")) else ""
    taught = teacher_line(cfg["task"])
    precision = choose_precision(cfg["trainer"]["precision"], cfg["trainer"]["accelerator"])
    page = write_report(
        folder,
        title=f"{spec.task} on {spec.backbone_options['name']}, alpha {spec.backbone_options['alpha']:g}",
        facts={
            "model": model_line(model, precision=precision),
            "data": f"{cfg['data']['name']}{place}, {split}: {count:,} pictures",
            **({"teacher": taught} if taught else {}),
            **({"intended use": plan.intended_use} if plan.intended_use else {}),
            "date": datetime.now().strftime("%Y-%m-%d %H:%M"),
        },
        numbers=numbers,
        remarks=remarks,
        bars=bars,
        ticks=ticks,
        plan=plan,
        commands=commands,
    )
    logger.info("report: %s", page)
