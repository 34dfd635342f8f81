"""What the user sees on the terminal: log lines, the message of an error, the end after Ctrl-C."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
import warnings
from typing import TextIO

from mnvision.errors import UserError

# Lightning says these to everybody; none of them is news to this program.
NOISE = (
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*exists and is not empty.*",
    ".*LeafSpec.*is deprecated.*",
    ".*in eval mode at the start of training.*",  # frozen norms are meant to be
)
TERMINATED = 143  # what a shell reports for a program that was told to end, by a cluster for example
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


class _ConsoleHandler(logging.Handler):
    """Writes to the sys.stderr of the moment: a progress bar puts its own in place while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
            print_text(f"{time.strftime('%H:%M:%S')} {level}{self.format(record)}", stream=sys.stderr)
        except Exception:  # a broken log line must not end a training
            self.handleError(record)


def configure_logging() -> None:
    """Let log records and warnings out, each as one line."""
    root = logging.getLogger()
    if not any(isinstance(handler, _ConsoleHandler) for handler in root.handlers):
        root.addHandler(_ConsoleHandler())
    root.setLevel(logging.INFO if os.environ.get("LOCAL_RANK", "0") == "0" else logging.ERROR)
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.distributed", "fabric.utilities.seed"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)  # devices, tips, processes, seeds
    logging.getLogger("hydra").setLevel(logging.WARNING)
    warnings.showwarning = _log_warning
    for pattern in NOISE:
        warnings.filterwarnings("ignore", message=pattern)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    logging.getLogger("py.warnings").warning("%s", str(message).strip())


def print_error(error: UserError, *, status: int = 1) -> int:
    """Print the message of an error and return the exit status."""
    if "1" in (os.environ.get("MNVISION_TRACEBACK"), os.environ.get("HYDRA_FULL_ERROR")):
        traceback.print_exception(error)
    # A data worker's error arrives with its traceback as the message: what the user needs is the end of it.
    worker = re.fullmatch(r"Caught \w+ in .*?\nmnvision\.errors\.\w+: (.*)", str(error), flags=re.DOTALL)
    sys.stdout.flush()
    print_text(f"error: {worker[1].strip() if worker else error}", stream=sys.stderr)
    return status


def print_interrupted() -> int:
    """Say that the user ended the program, and return the exit status."""
    sys.stdout.flush()
    print_text("interrupted", stream=sys.stderr)
    return INTERRUPTED


def print_text(text: str, *, stream: TextIO | None = None) -> None:
    """Print at once: to stdout, or to the stream of the moment that is given."""
    print(text, file=stream or sys.stdout, flush=True)


def print_result(text: str) -> None:
    """Print what a command is about; the reader of a pipe, such as ``head``, may have seen enough before its end."""
    try:
        print(text, end="" if text.endswith("\n") else "\n", flush=True)
    except BrokenPipeError:  # what Python flushes at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
