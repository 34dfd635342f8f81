"""The command line, ``mnvision COMMAND``, and the scripts of ``tools/``.

Hydra composes the configuration and this file checks it, so that every wrong key is answered with the nearest right
one; only then is the rest of the program loaded, and torch with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

import mnvision
from mnvision import config, paths
from mnvision.console import configure_logging, print_error, print_interrupted, print_text
from mnvision.errors import UserError, did_you_mean
from mnvision.overrides import (
    SWEEP_FLAGS,
    check_hydra_keys,
    config_groups,
    explain,
    is_override,
    is_sweep,
    name_pictures,
    names_one_folder,
    override_keys,
    quote,
    recalled_groups,
    rewrite,
)
from mnvision.schema_tasks import MONITOR

COMMANDS = {
    "train": "train a model, evaluate it every epoch, keep the best checkpoint",
    "eval": "measure a checkpoint, or a model with pretrained weights, on a data set",
    "predict": "annotated pictures and a JSON file of what a model finds",
    "profile": "exact mult-adds and parameters of a model, layer by layer; reads no data and no weights",
    "tables": "the tables of the MobileNet paper beside ours; or the runs of a sweep, side by side",
    "shards": "a data set's pictures in tar files that training can stream",
    "search": "the pictures of an index that are nearest to yours, by an embedder",
    "verify": "whether two pictures show the same, by an embedder",
}
HELP = """\
mnvision {version}: MobileNet for every vision task of its paper

  mnvision COMMAND [GROUP=OPTION ...] [KEY=VALUE ...]

Commands:
{commands}

Examples:
  mnvision train                                    the bundled generated data: works anywhere, offline
  mnvision train backbone.alpha=0.75 task.image_size=224
  mnvision train data=coco data.root=/data/coco
  mnvision eval ckpt=runs/ssd/.../checkpoints/best.ckpt
  mnvision predict ckpt=best.ckpt source=photos/
  mnvision profile backbone.alpha=0.75
  mnvision tables                                   the tables of the paper beside ours
  mnvision verify a.jpg b.jpg ckpt=best.ckpt

`mnvision COMMAND --help` lists its groups and every key with its value.
Set MNVISION_TRACEBACK=1 for the traceback of an error."""

WRONG_USAGE = 2

logger = logging.getLogger(__name__)


def main() -> None:
    """The ``mnvision`` program.

    Raises:
        SystemExit: With status 0, 1 after an error, 2 for wrong usage, 130 when interrupted.
    """
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else "--help"
    if command in COMMANDS:
        _launch(command, arguments[1:], program=[sys.argv[0], command])
    elif command in ("--help", "-h", "help"):
        lines = [f"  {name:9}{what}" for name, what in COMMANDS.items()]
        print_text(HELP.format(version=mnvision.__version__, commands="\n".join(lines)))
    elif command in ("--version", "-V"):
        print_text(f"mnvision {mnvision.__version__}")
    else:
        message = f"unknown command {command!r}, expected one of {', '.join(COMMANDS)}"
        raise SystemExit(print_error(UserError(message + did_you_mean(command, COMMANDS)), status=WRONG_USAGE))


def main_train() -> None:
    """What ``tools/train.py`` does; the same as ``mnvision train``."""
    _launch("train", sys.argv[1:], program=sys.argv[:1])


def main_eval() -> None:
    """What ``tools/eval.py`` does; the same as ``mnvision eval``."""
    _launch("eval", sys.argv[1:], program=sys.argv[:1])


def main_predict() -> None:
    """What ``tools/predict.py`` does; the same as ``mnvision predict``."""
    _launch("predict", sys.argv[1:], program=sys.argv[:1])


def main_tables() -> None:
    """What ``tools/tables.py`` does; the same as ``mnvision tables``."""
    _launch("tables", sys.argv[1:], program=sys.argv[:1])


def _launch(command: str, arguments: Sequence[str], *, program: Sequence[str]) -> None:
    """Compose, check and run; every way out but success is a SystemExit."""
    configure_logging()
    # Before torch loads OpenMP: threads that wait by spinning take the cores from the processes that load the pictures.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        arguments = name_pictures(arguments) if command == "verify" else arguments
        check_hydra_keys(arguments)
        overrides = rewrite(arguments, groups=config_groups())
        recalled = recalled_groups(overrides, command=command)
        overrides = [*recalled, *overrides]
        if is_sweep(arguments):
            overrides += [f"hydra.sweep.dir={word.split('=', 1)[1]}" for word in overrides if names_one_folder(word)]
            _check_sweep(overrides, command=command)
        with contextlib.ExitStack() as stack:
            if command in ("profile", "tables", "verify") and is_sweep(arguments):
                overrides.append(stack.enter_context(_passing_sweep_folder()))
            _compose(
                overrides,
                command=command,
                job=lambda cfg: _run(cfg, command=command, arguments=arguments, program=program, recalled=recalled),
            )
    except KeyboardInterrupt:
        raise SystemExit(print_interrupted()) from None
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning ends with status 1 after Ctrl-C
            raise SystemExit(print_interrupted()) from None
        raise
    except UserError as error:
        raise SystemExit(print_error(error)) from None


def _compose(overrides: Sequence[str], *, command: str, job: Callable[[DictConfig], float | None]) -> None:
    """Let Hydra compose the configuration and call ``job`` with it: once, or for every job of a sweep.

    Raises:
        UserError: Hydra cannot compose the configuration.
        SystemExit: A job raised a UserError; its message is printed.
    """
    started = False
    full_error = "HYDRA_FULL_ERROR"  # makes Hydra raise its errors, where it would print them and leave
    user_choice = os.environ.get(full_error, "0")

    def task(cfg: DictConfig) -> float | None:
        nonlocal started
        started = True
        with _process(sys.argv, {**os.environ, full_error: user_choice}):
            try:
                return job(cfg)
            except UserError as error:
                raise SystemExit(print_error(error)) from None

    start = hydra.main(config_path="pkg://mnvision.conf", config_name=command, version_base="1.3")(task)
    with _process([sys.argv[0], *overrides], {**os.environ, full_error: "1"}):
        try:
            start()
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
            if started:
                raise
            raise UserError(explain(error)) from error


def _run(
    cfg: DictConfig, *, command: str, arguments: Sequence[str], program: Sequence[str], recalled: Sequence[str] = ()
) -> float | None:
    """Check the composed configuration; then load the program and run the command.

    Returns:
        What a sweeper that searches may improve: the number that chooses the best checkpoint, where there is one.
    """
    hydra_cfg = HydraConfig.get()
    plain = _prepare(cfg, command=command)
    # What was recalled is nobody's wish: what a checkpoint holds beside it is to be recalled, too.
    typed = [word for word in hydra_cfg.overrides.task if word not in recalled]
    job_arguments = list(arguments)
    sweep = hydra_cfg.mode == RunMode.MULTIRUN
    words = [word.lstrip("+") for word in typed]
    if sweep:
        logger.info("run %s of the sweep: %s", hydra_cfg.job.num, " ".join(words))
    if sweep and "output_dir" in plain:  # else the command writes no folder
        parent = plain["output_dir"] or os.path.abspath(hydra_cfg.sweep.dir)
        plain["output_dir"] = os.path.join(parent, str(hydra_cfg.job.num))
        flags = [word for word in arguments if not is_override(word) and word not in SWEEP_FLAGS]
        searchpath = [word for word in hydra_cfg.overrides.hydra if word.startswith("hydra.searchpath=")]
        output_dir = "++output_dir=" + quote(plain["output_dir"])
        job_arguments = [*flags, *searchpath, *typed, output_dir]
    plain["overrides"], plain["override_words"] = override_keys(typed), words

    function = _load(command)
    # Lightning starts the processes of further GPUs with sys.argv: each must run this one job and no other.
    with _process([*program, *job_arguments], os.environ):
        result = function(plain)
    _leave_process_group()
    return result.get(MONITOR.get(plain["task"]["name"], "")) if isinstance(result, dict) else None


def _load(command: str) -> Callable[[dict[str, Any]], object]:
    """The function of a command, and with it torch and lightning: seconds that a typo does not wait for."""
    if command == "profile":
        from mnvision import costs

        return costs.print_costs
    if command == "tables":
        from mnvision import tables

        return tables.tables
    if command == "shards":
        from mnvision import sharding

        return sharding.write_shards
    if command in ("search", "verify"):
        from mnvision import searching

        return {"search": searching.search, "verify": searching.verify}[command]
    if command == "predict":
        from mnvision import predicting

        return predicting.predict
    from mnvision import run

    return {"train": run.train, "eval": run.evaluate}[command]


def _prepare(cfg: DictConfig, *, command: str) -> dict[str, Any]:
    config.validate(cfg, command=command)
    plain = paths.absolute_paths(config.to_plain(cfg), start=Path.cwd())
    paths.check_files(plain, command=command)
    return plain


def _leave_process_group() -> None:
    """Part from the processes of a distributed run, so that the next job of a sweep can start its own."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _check_sweep(overrides: Sequence[str], *, command: str) -> None:
    """Check all jobs of a sweep before the first one starts: the typo in the last may be hours away."""
    if any(word.startswith(("hydra/sweeper=", "hydra/launcher=")) for word in overrides):
        return  # another sweeper makes up its jobs as it goes, another launcher may run them elsewhere
    with _passing_sweep_folder() as sweep_dir:
        _compose([*overrides, sweep_dir], command=command, job=lambda cfg: _check_job(cfg, command=command))


@contextlib.contextmanager
def _passing_sweep_folder() -> Iterator[str]:
    """The override that has Hydra write its record of a sweep into a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield "hydra.sweep.dir=" + quote(folder)


def _check_job(cfg: DictConfig, *, command: str) -> float | None:
    try:
        _prepare(cfg, command=command)
    except UserError as error:
        raise UserError(f"job {HydraConfig.get().job.override_dirname.replace('++', '')}: {error}") from error
    return None


@contextlib.contextmanager
def _process(argv: Sequence[str], environ: Mapping[str, str]) -> Iterator[None]:
    """Run a block with these arguments and this environment; both are as before afterwards."""
    before = sys.argv, dict(os.environ)
    sys.argv = list(argv)
    _set_environ(environ)
    try:
        yield
    finally:
        sys.argv = before[0]
        _set_environ(before[1])


def _set_environ(environ: Mapping[str, str]) -> None:
    wanted = dict(environ)
    for key in set(os.environ) - set(wanted):
        del os.environ[key]
    os.environ.update(wanted)
