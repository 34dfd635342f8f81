"""``mnvision profile`` from the command line to what it prints and writes, in this process."""

from __future__ import annotations

import csv
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mnvision.checkpoint import save_model
from mnvision.models.create import create_model

HEADER = ["layer", "type", "output", "mult_adds", "parameters"]


@pytest.fixture
def start(start):
    """Run ``mnvision profile`` in an empty folder: (exit status, stdout, stderr)."""
    return functools.partial(start, "profile")


def totals(out: str) -> list[tuple[int, int]]:
    """Mult-adds and parameters of every row of totals."""
    rows = [line.split() for line in out.splitlines() if line.startswith("all ")]
    return [(int(row[1].replace(",", "")), int(row[4].replace(",", ""))) for row in rows]


@pytest.fixture
def checkpoint(tmp_path):
    model = create_model("ssd", alpha=0.25, image_size=96, classes=["cat", "dog"], task_options={"form": "lite"})
    save_model(model, tmp_path / "best.ckpt")
    return model


# from the configuration


@pytest.mark.parametrize(
    ("arguments", "title", "expected"),
    [
        (["task=ssd"], "alpha 1, input 300x300, 90 classes", (1_237_129_408, 6_791_360)),
        (["backbone.alpha=0.75"], "alpha 0.75, input 300x300, 90 classes", (728_036_496, 4_088_592)),
        (["task.form=lite"], "alpha 1, input 300x300, 90 classes", (1_212_977_536, 5_206_528)),
        (["num_classes=20"], "alpha 1, input 300x300, 20 classes", (1_148_479_168, 5_769_920)),
        (["task.image_size=320"], "alpha 1, input 320x320, 90 classes", (1_346_218_752, 6_791_360)),
        (["data=shapes"], "alpha 1, input 300x300, 90 classes", (1_237_129_408, 6_791_360)),
        (["data=coco"], "alpha 1, input 300x300, 90 classes", (1_237_129_408, 6_791_360)),
        (["experiment=paper_ssd300"], "alpha 1, input 300x300, 90 classes", (1_237_129_408, 6_791_360)),
        (["task=distill", "num_classes=1000"], "alpha 1, input 224x224, 1,000 classes", (568_740_352, 4_209_088)),
        (["data.image_size=320"], "alpha 1, input 320x320, 90 classes", (1_346_218_752, 6_791_360)),
        (["task.image_size=320", "data.image_size=64"], "input 320x320, 90 classes", (1_346_218_752, 6_791_360)),
    ],
)
def test_exact_costs_of_a_configuration(start, tmp_path, arguments, title, expected):
    status, out, err = start(*arguments)
    assert (status, err) == (0, "")
    assert out.splitlines()[0].endswith(title)
    assert totals(out) == [expected]
    assert list(tmp_path.iterdir()) == []  # no folder of a run


def test_layers_then_layer_types_then_what_is_left_out(start):
    status, out, _ = start("backbone.alpha=0.5", "backbone.variant=shallow", "num_classes=1")
    assert status == 0
    title, layers, kinds, note = out.strip().split("\n\n")
    assert title == "ssd (paper) on mobilenet_v1, shallow, alpha 0.5, input 300x300, 1 class"
    rows = [line.split() for line in layers.splitlines()]
    assert rows[1] == ["backbone.stem.conv", "conv", "3x3", "16x150x150", "9,720,000", "432"]
    assert sum(int(row[-2].replace(",", "")) for row in rows[1:]) == totals(out)[0][0]
    assert [line.split("  ")[0] for line in kinds.splitlines()[1:]] == ["conv 3x3", "conv dw 3x3", "conv 1x1", "all"]
    for words in ("300x300", "Left out: biases, BatchNorm, activations, pooling", "All parameters"):
        assert words in note


def test_weights_and_data_are_not_read(start, tmp_path):
    """None of these is there: reading one would be an error."""
    status, out, err = start(
        "task.weights=detector.npz", "backbone.weights=./backbone.h5", "data=coco", "data.root=nowhere"
    )
    assert status == 0
    assert totals(out) == [(1_237_129_408, 6_791_360)]
    first, second = err.splitlines()
    assert "warning: task.weights=detector.npz is not read" in first
    assert "warning: backbone.weights=./backbone.h5 is not read" in second
    assert list(tmp_path.iterdir()) == []


def test_a_model_larger_than_the_memory_has_its_costs_too(start):
    status, out, _ = start("backbone.alpha=1000")
    assert status == 0
    assert totals(out)[0][1] > 1e12


def test_a_sweep_prints_every_model_and_leaves_nothing(start, tmp_path):
    status, out, err = start("--multirun", "backbone.alpha=0.75,1.0")
    assert status == 0
    assert totals(out) == [(728_036_496, 4_088_592), (1_237_129_408, 6_791_360)]
    assert [line[9:] for line in err.splitlines()] == [
        "run 0 of the sweep: backbone.alpha=0.75",
        "run 1 of the sweep: backbone.alpha=1.0",
    ]
    assert list(tmp_path.iterdir()) == []


# csv


def test_csv_has_a_line_for_every_layer(start, tmp_path):
    status, out, err = start(
        "task=ssd", "task.form=lite", "backbone.alpha=0.5", "task.image_size=320", "num_classes=20", "csv=new/costs.csv"
    )
    assert status == 0
    assert err[9:] == f"written: {tmp_path}/new/costs.csv\n"
    with (tmp_path / "new" / "costs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == HEADER
    assert [(sum(int(row["mult_adds"]) for row in rows), sum(int(row["parameters"]) for row in rows))] == totals(out)
    assert rows[0] == dict(
        zip(HEADER, ["backbone.stem.conv", "conv 3x3", "16x160x160", "11059200", "432"], strict=True)
    )


def test_an_existing_csv_is_replaced(start, tmp_path):
    (tmp_path / "costs.csv").write_text("old\n" * 10_000)
    assert start("csv=costs.csv")[0] == 0
    text = (tmp_path / "costs.csv").read_text()
    assert text.startswith("layer,")
    assert "old" not in text


def test_every_model_of_a_sweep_can_have_a_csv(start, tmp_path):
    assert start("-m", "backbone.alpha=0.25,0.5", "csv=alpha_${backbone.alpha}.csv")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alpha_0.25.csv", "alpha_0.5.csv"]


@pytest.mark.parametrize("place", [".", "file/costs.csv"])
def test_a_csv_that_cannot_be_written(start, tmp_path, place):
    (tmp_path / "file").touch()
    status, out, err = start(f"csv={place}")
    assert (status, out) == (1, "")
    assert err.startswith("error: csv: ")
    assert err.endswith("give the path of a file\n")


# checkpoints


def test_costs_of_a_checkpoint(start, tmp_path, checkpoint):
    status, out, err = start("ckpt=best.ckpt", "csv=costs.csv")
    assert status == 0
    assert err[9:] == f"written: {tmp_path}/costs.csv\n"
    assert out.splitlines()[0] == "ssd (lite) on mobilenet_v1, alpha 0.25, input 96x96, 2 classes"
    weights = [m.weight.numel() for m in checkpoint.modules() if isinstance(m, torch.nn.Conv2d)]
    assert totals(out)[0][1] == sum(weights)
    assert f"gamma and beta: {sum(p.numel() for p in checkpoint.parameters()):,};" in out


@pytest.mark.usefixtures("checkpoint")
def test_what_a_checkpoint_overrules_is_said(start):
    plain = start("ckpt=best.ckpt")[1]
    status, out, err = start("ckpt=best.ckpt", "backbone.alpha=0.5", "num_classes=7", "seed=3")
    assert (status, out) == (0, plain)
    assert err[9:] == (
        "warning: the model is the checkpoint's own: backbone.alpha, num_classes has no effect beside ckpt\n"
    )


def test_a_checkpoint_that_is_not_there(start, tmp_path):
    assert start("ckpt=best.ckpt") == (
        1,
        "",
        f"error: 1 problem in the configuration:\n  ckpt: no such file or folder: {tmp_path}/best.ckpt\n",
    )


# wrong input, and as a program of its own


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("backbone.alfa=1", "backbone.alfa: unknown key; did you mean backbone.alpha?"),
        ("num_clases=1", "num_clases: unknown key; did you mean num_classes?"),
        ("output_dir=x", "output_dir: unknown key"),
        ("num_classes=0", "num_classes: expected an integer >= 1, got 0"),
        ("csv=''", "csv: expected a path or null, got ''"),
    ],
)
def test_problems_of_the_configuration(start, argument, expected):
    assert start(argument) == (1, "", f"error: 1 problem in the configuration:\n  {expected}\n")


def test_help(start):
    status, out, _ = start("--help")
    assert status == 0
    assert out.startswith("mnvision profile: ")
    assert "\nnum_classes: 90\n" in out


def program(code: str, *, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_an_unknown_key_is_answered_without_torch(tmp_path):
    code = (
        "import sys; from mnvision import cli; sys.argv[1:] = ['profile', 'backbone.alfa=1']\n"
        "try: cli.main()\n"
        "finally: print('torch' in sys.modules, 'lightning' in sys.modules)"
    )
    done = program(code, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "False False\n")
    assert "did you mean backbone.alpha?" in done.stderr


PROGRAM = [sys.executable, "-c", "from mnvision import cli; cli.main()", "profile"]


def test_a_program_of_its_own_does_the_same(start, tmp_path):
    expected = start("backbone.alpha=0.25")
    done = subprocess.run([*PROGRAM, "backbone.alpha=0.25"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == expected


def test_the_program_ends_quietly_when_its_reader_does(tmp_path):
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*PROGRAM, "backbone.alpha=0.25"],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()  # as `head` does, long before the first line
    error = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=120), error) == (0, "")
