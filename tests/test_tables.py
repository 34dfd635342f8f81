"""``mnvision tables``: the paper's figures beside counts that a reader can recompute by hand."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path

import pytest
import yaml

from mnvision import results, tables
from mnvision.counts import count, rounds_to
from mnvision.errors import UserError
from mnvision.figures import Plot, Point, draw, save
from mnvision.models.create import create_model
from mnvision.outputs import write_origin
from mnvision.paper_tasks import SIXTEEN, TABLES
from mnvision.profiler import profile, read_costs
from mnvision.side_by_side import compare, note_text, table_markdown

ROOT = Path(__file__).parents[1]


def configuration(**values):
    keys = ("output", "runs", "results", "record", "row")
    return {"format": "markdown", **dict.fromkeys(keys), **values}


def cells(key):
    """Printed figure, ours and verdict of a row, by the quantity's key."""
    table = next(table for table in TABLES if table.key == key.split("/")[0])
    row = next(row for row in table.rows if table.row_key(row) == key)
    return {cell.quantity.key: cell[1:] for cell in compare(table, row)}


# ours, counted


@pytest.mark.parametrize(
    ("row", "mult_adds", "parameters"),
    [
        ("table1/conv", 10_838_016, 864),
        ("table1/1-pw", 25_690_112, 2_048),
        ("table1/6-dw", 451_584, 2_304),
        ("table1/11-pw", 51_380_224, 262_144),
        ("table1/13-dw", 451_584, 9_216),
        ("table1/fc", 1_024_000, 1_024_000),
        ("table2/conv-1x1", 539_492_352, 3_139_584),
        ("table2/conv-dw-3x3", 17_385_984, 44_640),
        ("table3/conv", 462_422_016, 2_359_296),
        ("table3/separable", 52_283_392, 266_752),
        ("table3/alpha-0.75", 29_578_752, 150_912),
        ("table3/rho-0.714", 15_091_200, 150_912),
        ("table4/conv", 4_867_293_184, 29_281_120),
        ("table4/1.0-224", 568_740_352, 4_209_088),
        ("table5/shallow", 307_323_392, 2_875_328),
        ("table6/0.75-224", 325_400_448, 2_568_144),
        ("table6/0.5-224", 149_497_088, 1_319_648),
        ("table6/0.25-224", 41_030_272, 463_600),
        ("table7/1.0-192", 418_121_728, 4_209_088),
        ("table7/1.0-160", 290_675_200, 4_209_088),
        ("table7/1.0-128", 186_400_768, 4_209_088),
        ("table8/vgg16", 15_470_264_320, 138_344_128),
        ("table9/0.5-160", 76_524_800, 1_319_648),
        ("table10/1.0-224", 567_839_232, 3_307_968),
        ("table10/0.75-192", 239_273_472 - 880 * 768, 1_892_304),
        ("table11/planet-mobilenet", 594_609_664, 30_078_400),
        ("table12/1.0-224", 567_716_352, 3_185_088),
        ("table12/0.25-128", 13_570_048 - 256_000, 207_600),
        ("table13/ssd300-mobilenet", 1_237_129_408, 6_791_360),
        ("table13/frcnn300-mobilenet", 25_224_412_096, 6_043_072),
        ("table13/frcnn600-mobilenet", 30_493_700_224, 6_043_072),
        ("table14/0.75-160", 166_396_800 - 768_000, 1_800_144),
        ("table14/0.75-128", 106_002_432, 1_800_144),
        ("figure4/0.25-192", 30_212_608, 463_600),
        # No depthwise filters (44,640 weights, 17,385,984 mult-adds); six weights a channel out instead. At stride 2,
        # in four blocks, the line across the channels works on four times the cells, and that down the rows on twice.
        (
            "baselines/flattened-1.0-224",
            568_740_352 - 17_385_984 + 3 * 4 * 25_690_112 + 18_514_944,
            4_209_088 - 44_640 + 6 * 5_952,
        ),
        ("baselines/conv-1.0-224", 4_867_293_184, 29_281_120),
        ("baselines/separable-0.5-160", 76_524_800, 1_319_648),
        ("baselines/flattened-0.5-160", 116_134_400, 1_319_648 - 22_320 + 6 * 2_976),
        ("baselines/conv-0.2-160", 99_934_800, 1_325_103),
        ("baselines/squeezenet-1.1-224", 349_151_936, 1_235_496 - 3_944),
        ("baselines/squeezenet-1.0-224", 818_924_576, 1_248_424 - 3_976),
        ("table9/squeezenet", 818_924_576, 1_248_424 - 3_976),
    ],
)
def test_exact_counts(row, mult_adds, parameters):
    found = cells(row)
    assert (found["mult_adds"][1], found["parameters"][1]) == (mult_adds, parameters)


def test_every_table_is_there():
    numbered = [f"table{number}" for number in range(1, 15)]
    assert [table.key for table in TABLES] == [*numbered, "figure4", "baselines"]
    keys = [table.row_key(row) for table in TABLES for row in table.rows]
    assert len(keys) == len(set(keys))
    assert {row.model for row in SIXTEEN.rows} == {
        row.model._replace(alpha=alpha, size=size)
        for row in SIXTEEN.rows
        for alpha in (1, 0.75, 0.5, 0.25)
        for size in (224, 192, 160, 128)
    }


def test_table_1_in_words():
    found = cells("table1/12-dw")
    assert [found[key][1] for key in ("type", "filter", "input")] == ["Conv dw / s2", "3x3x512 dw", "14x14x512"]
    assert cells("table1/pool")["input"] == ("7x7x1024", "7x7x1024", True)
    assert cells("table1/softmax")["input"] == ("1x1x1000", "1x1x1000", True)
    rows = next(table for table in TABLES if table.key == "table1").rows
    assert sum(count(row.model).get("mult_adds", 0) for row in rows) == 568_740_352
    assert sum(count(row.model).get("parameters", 0) for row in rows) == 4_209_088


# matches, and the notes where there is none


@pytest.mark.parametrize(
    ("value", "printed", "unit", "expected"),
    [
        (325_400_448, "325", 10**6, True),
        (325_500_000, "325", 10**6, False),
        (325_500_000, "326", 10**6, True),
        (4_209_088, "4.2", 10**6, True),
        (4_250_000, "4.2", 10**6, False),
        (15_346_630_656, "15300", 10**6, True),
        (15_470_264_320, "15300", 10**6, False),
        (61_090_496, "60", 10**6, False),
        (0.018_55, "1.86", 0.01, True),
        ("Conv / s1", "Conv / s2", None, False),
    ],
)
def test_rounding_to_the_printed_digits(value, printed, unit, expected):
    assert rounds_to(value, printed, unit=unit) is expected


def test_what_does_not_match_has_a_note():
    """All rows, so that a new table cannot disagree in silence."""
    found = set()
    for table in TABLES:
        noted = {key for note in table.notes for key in note.rows}
        assert noted <= {row.key for row in table.rows}
        for row in table.rows:
            if any(cell.matches is False for cell in compare(table, row)):
                assert row.key in noted, f"{table.key}/{row.key} does not match and has no note"
                found.add(table.row_key(row))
    assert found == {
        *("table1/13-dw", "table2/conv-3x3", "table4/conv", "table7/1.0-160", "table8/googlenet", "table8/vgg16"),
        *("table9/0.5-160", "table9/squeezenet", "table9/alexnet", "table10/1.0-224", "table10/1.0-192"),
        *("table11/planet-mobilenet", "table12/0.25-224", "table12/0.5-128", "table12/0.25-128"),
        *("table13/frcnn300-mobilenet", "table13/frcnn600-mobilenet"),
        *("table14/1.0-160", "table14/1.0-128", "table14/0.75-160", "table14/0.75-128"),
    }


@pytest.mark.parametrize(
    ("key", "number", "words"),
    [
        ("table1", 1, "533,833,216 mult-adds and not 568,740,352"),
        ("table2", 1, "10,838,016 of 568,740,352 mult-adds are 1.906%"),
        ("table4", 1, "4,866,269,184 without it"),
        ("table7", 1, "290,675,200"),
        ("table8", 2, "15,346,630,656"),
        ("table11", 1, "567,716,352"),
        ("table12", 1, "40,774,272"),
        ("table12", 4, "75 million parameters, the table 7.5"),
        ("table14", 3, "an input of 160: 165,628,800"),
    ],
)
def test_notes_have_the_exact_counts(key, number, words):
    table = next(table for table in TABLES if table.key == key)
    assert words in note_text(table, table.notes[number - 1])
    assert f"\n{number}. " in table_markdown(table)


def test_the_network_with_the_stride_that_table_1_prints():
    """The last block on a map of 4x4 in place of 7x7."""
    last = count(TABLES[0].rows[25].model)["mult_adds"] + count(TABLES[0].rows[26].model)["mult_adds"]
    assert 568_740_352 - last + last * 16 // 49 == 533_833_216


# what is printed and written


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What ``mnvision tables output=...`` writes where nothing was recorded, or what docs/ has."""
    folder = tmp_path_factory.mktemp("tables")
    known = ROOT / tables.RESULTS
    tables.tables(configuration(output=str(folder), results=str(known) if known.exists() else None))
    return folder


@pytest.mark.parametrize("name", ["tables.md", "tables.csv"])
def test_the_page_in_docs_is_what_the_command_makes(written, name):
    """If this fails: run ``mnvision tables output=docs`` and commit what changed."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == (written / name).read_text(encoding="utf-8")


def test_the_page_shows_its_pictures(written):
    page = (written / "tables.md").read_text(encoding="utf-8")
    for name in ("figure4", "figure5"):
        assert f"(images/{name}.svg)" in page
        for folder in (written, ROOT / "docs"):
            assert (folder / "images" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
            assert "<svg" in (folder / "images" / f"{name}.svg").read_text(encoding="utf-8")


def test_csv_has_a_line_for_every_figure(written):
    with (written / "tables.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(table.rows) * len(table.quantities) for table in TABLES)
    by_key = {(row["row"], row["quantity"]): row for row in rows}
    ssd = by_key["table13/ssd300-mobilenet", "mult-adds, B"]
    assert (ssd["printed"], ssd["ours"], ssd["matches"]) == ("1.2", "1237129408", "yes")
    conv = by_key["table4/conv", "mult-adds, M"]
    assert (conv["matches"], "4,866,269,184" in conv["notes"]) == ("no", True)
    path = ROOT / tables.RESULTS
    measured = {one.row for one in results.read_results(path)} if path.exists() else set()
    shown = {row["row"] for row in rows if row["quantity"] == "mAP, %" and row["ours"]}
    assert shown <= measured  # nothing is made up


def test_figures_hold_every_known_accuracy():
    known = [results.Result("figure4/0.5-192", "top1", 0.6, "c", "d", "t", "k", "m")]
    figure4, figure5 = tables.paper_plots(known).values()
    assert [point.source for point in figure4.points] == ["TF-slim, 2018"] * 16 + ["the paper"] * 8 + ["ours"]
    assert figure4.points[-1] == (109_970_432, 60.0, "0.5", "192", "ours")
    assert figure5.points[0] == (4_209_088, 70.9, "1", "224", "TF-slim, 2018")
    paper = {(point.colour, point.marker): point.y for point in figure4.points if point.source == "the paper"}
    assert (paper["0.5", "160"], paper["1", "128"], paper["0.25", "224"]) == (60.2, 64.4, 50.6)


def test_the_same_points_give_the_same_files(tmp_path):
    plot = Plot("title", "x", "y", [Point(1e6, 1, "0.5", "96"), Point(3e8, 2, "1", "96")])
    first, second = (save(draw(plot), tmp_path / name / "plot") for name in ("a", "b"))
    assert [path.name for path in first] == ["plot.svg", "plot.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


# runs: recorded, and side by side


def make_run(folder, *, alpha=0.25, size=64, metrics=None, task="ssd", classes=3):
    """A run folder as ``mnvision train`` leaves it, with the numbers of nothing."""
    model = create_model(task, alpha=alpha, image_size=size, num_classes=classes)
    config = {
        "task": {"name": task, "image_size": size, "weights": None},
        "backbone": {"name": "mobilenet_v1", "alpha": alpha, "rho": 1.0},
        "data": {"name": "coco", "root": "/data/coco2017", "val_annotations": "a/instances_val2017.json"},
        "output_dir": str(folder),
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "profile.csv").write_text(profile(model).csv())
    write_origin(folder, command="eval", words=["ckpt=best.ckpt", "data.root=/a b"])
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return model


@pytest.fixture
def ssd300(tmp_path):
    """A finished run of the paper's SSD, with other classes."""
    make_run(tmp_path / "run", alpha=1.0, size=300, metrics={"val/loss": 1.5, "val/map": 0.193, "val/map_small": -1.0})
    return tmp_path / "run"


def test_a_run_is_recorded_and_shown(tmp_path, ssd300, capsys):
    path = tmp_path / "new" / "results.json"
    cfg = configuration(record=str(ssd300), row="table13/ssd300-mobilenet", results=str(path))
    assert tables.tables(cfg).startswith("table13/ssd300-mobilenet map = 0.193, coco coco2017 instances_val2017.json")
    [entry] = json.loads(path.read_text())
    assert (entry["value"], entry["command"]) == (0.193, "mnvision eval ckpt=best.ckpt 'data.root=/a b'")
    assert entry["date"][:2] == "20"
    assert len(entry["commit"]) >= 7
    assert "cores" in entry["machine"]
    page = tables.paper_markdown(results.read_results(path))
    line = next(line for line in page.splitlines() if line.startswith("| `table13/ssd300-mobilenet`"))
    assert [cell.strip() for cell in line.split("|")[3:5]] == ["19.3", "19.30"]
    # a later number gives way to no other row's, and replaces its own
    (ssd300 / "metrics.json").write_text('{"val/map": 0.2}')
    tables.tables(cfg)
    assert [one.value for one in results.read_results(path)] == [0.2]


def test_a_model_of_several_tables_was_measured_for_all_of_them():
    known = [results.Result("table6/1.0-224", "top1", 0.7054, "c", "d", "t", "k", "m")]
    shown = {
        table.row_key(row): cell.ours
        for table in TABLES
        for row in table.rows
        for cell in compare(table, row, results=known)
        if cell.quantity.measured and cell.ours is not None
    }
    assert shown == dict.fromkeys(
        (*(f"table{number}/1.0-224" for number in (4, 6, 7, 8)), "figure4/1.0-224"), 0.7054
    )  # not Stanford Dogs: 120 classes are another model


@pytest.mark.parametrize(
    ("row", "change", "expected"),
    [
        (
            "table13/ssd300-mobilnet",
            None,
            "row: the tables have no row 'table13/ssd300-mobilnet'; did you mean table13",
        ),
        ("table13/frcnn300-vgg", None, "row: table13/frcnn300-vgg holds nothing that a run of mnvision could measure"),
        ("table13/frcnn300-mobilenet", None, "is of task faster_rcnn, and .* of task ssd"),
        ("table13/ssd300-mobilenet", "metrics.json", "there is no .*metrics.json; a finished run has one"),
        ("table13/ssd300-mobilenet", "origin.json", "origin.json; .* measure the model again with mnvision eval"),
        ("table6/1.0-224", None, "another model than table6/1.0-224: its body has 1,055,206,336 mult-adds"),
    ],
)
def test_what_cannot_be_recorded(tmp_path, ssd300, row, change, expected):
    if change:
        (ssd300 / change).unlink()
    with pytest.raises(UserError, match=expected):
        tables.tables(configuration(record=str(ssd300), row=row, results=str(tmp_path / "results.json")))
    assert not (tmp_path / "results.json").exists()


def test_a_run_that_did_not_measure_the_row(tmp_path, ssd300):
    (ssd300 / "metrics.json").write_text('{"train/map": 0.9, "val/loss": 1}')
    with pytest.raises(UserError, match="has no val/map, .* it has train/map, val/loss"):
        results.record(ssd300, row="table13/ssd300-mobilenet", path=tmp_path / "results.json")


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("data", {"name": "shapes"}, "is about data=coco, and .* measured on data=shapes"),
        ("trainer", {"limit_val_batches": 0.1}, "a part of its pictures, trainer.limit_val_batches=0.1"),
    ],
)
def test_a_run_on_other_pictures_is_not_recorded(tmp_path, ssd300, key, values, expected):
    config = yaml.safe_load((ssd300 / "config.yaml").read_text())
    (ssd300 / "config.yaml").write_text(yaml.safe_dump({**config, key: {**config.get(key, {}), **values}}))
    with pytest.raises(UserError, match=expected):
        results.record(ssd300, row="table13/ssd300-mobilenet", path=tmp_path / "results.json")


def test_a_run_with_another_head_is_not_recorded(tmp_path, ssd300):
    lite = create_model("ssd", image_size=300, num_classes=3, task_options={"form": "lite"})
    (ssd300 / "profile.csv").write_text(profile(lite).csv())
    with pytest.raises(UserError, match=r"head of .* is of another form than that of table13/ssd300-mobilenet"):
        results.record(ssd300, row="table13/ssd300-mobilenet", path=tmp_path / "results.json")


def test_weights_that_levels_share_count_once(tmp_path):
    costs = profile(create_model("ssd", alpha=0.25, image_size=64, num_classes=3, task_options={"form": "fpn"}))
    (tmp_path / "profile.csv").write_text(costs.csv())
    assert read_costs(tmp_path / "profile.csv") == (costs.mult_adds, costs.parameters)


ENTRY = {"row": "table6/1.0-224", "metric": "top1", "value": 0.7}
ENTRY |= dict.fromkeys(("command", "data", "date", "commit", "machine"), "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is no JSON"),
        ("{}", "holds no list of results"),
        (json.dumps([ENTRY, {"row": "x"}]), "entry 2: expected the keys row, metric, value, .*, got row"),
        (json.dumps([ENTRY | {"value": "0.7"}]), "entry 1: value must be a number, got '0.7'"),
        (json.dumps([ENTRY | {"row": "table6/1"}]), "entry 1: the tables have no row 'table6/1'"),
        (json.dumps([ENTRY | {"metric": "map"}]), "has no metric 'map'; it has top1"),
    ],
)
def test_a_results_file_that_is_wrong(tmp_path, text, expected):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UserError, match=expected):
        results.read_results(path)


@pytest.fixture
def sweep(tmp_path):
    """Two finished runs, one that was interrupted, one that broke."""
    folder = tmp_path / "sweep"
    for number, (alpha, size, ap) in {"0": (0.5, 96, 0.25), "10": (0.25, 64, 0.125)}.items():
        metrics = {"val/loss": 2.0, "val/map": ap, "val/map_50": 0.5, "val/map_small": -1.0}
        make_run(folder / number, alpha=alpha, size=size, metrics=metrics)
    make_run(folder / "2", alpha=0.25, size=96)
    (folder / "3").mkdir()
    (folder / "3" / "notes.txt").write_text("killed")
    return folder


def test_the_runs_of_a_sweep_side_by_side(tmp_path, sweep):
    text = tables.tables(configuration(runs=str(sweep), output=str(tmp_path / "out")))
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    metrics = ["val/map", "val/map_50"]
    names = ["run", "task.image_size", "backbone.alpha", "input", "mult-adds", "parameters", *metrics, "status"]
    assert header == names
    assert [row[0] for row in rows] == ["0", "2", "3", "10"]
    first = profile(create_model("ssd", alpha=0.5, image_size=96, num_classes=3))
    costs = [f"{first.mult_adds:,}", f"{first.parameters:,}"]
    assert rows[0] == ["0", "96", "0.5", "96", *costs, "0.2500", "0.5000", "finished"]
    assert rows[1][1:4] == ["96", "0.25", "96"]
    assert rows[1][-3:] == ["", "", "unfinished: no metrics.json"]
    assert rows[2][1:] == [""] * 7 + ["failed: no config.yaml"]
    out = tmp_path / "out"
    with (out / "runs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["val/loss"] for line in lines] == ["2.0", "", "", "2.0"]
    assert int(lines[0]["mult_adds"]) == first.mult_adds
    assert sorted(path.name for path in (out / "images").iterdir()) == [
        f"runs_{name}.{suffix}" for name in ("mult_adds", "parameters") for suffix in ("png", "svg")
    ]
    assert "(images/runs_parameters.svg)" in (out / "runs.md").read_text()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("metrics.json", "{", "failed: metrics.json cannot be read"),
        ("metrics.json", '{"val/map": "high"}', "failed: metrics.json holds no numbers"),
        ("config.yaml", "- 1", "failed: config.yaml cannot be read"),
        ("profile.csv", "layer\n1\n", "failed: profile.csv cannot be read"),
    ],
)
def test_a_run_that_broke_is_listed(sweep, name, text, expected):
    (sweep / "0" / name).write_text(text)
    printed = tables.tables(configuration(runs=str(sweep)))
    assert f"| {expected}" in next(line for line in printed.splitlines() if line.startswith("| 0 "))


def test_a_sweep_without_profiles_is_counted_from_its_checkpoints(sweep):
    from mnvision.checkpoint import save_model

    (sweep / "10" / "profile.csv").unlink()
    (sweep / "10" / "checkpoints").mkdir()
    model = create_model("ssd", alpha=1.0, image_size=128, num_classes=3)
    save_model(model, sweep / "10" / "checkpoints" / "best.ckpt")
    printed = tables.tables(configuration(runs=str(sweep), format="csv"))
    run = list(csv.DictReader(printed.splitlines()))[-1]
    assert (run["input"], int(run["mult_adds"])) == ("128", profile(model).mult_adds)


# from the command line


@pytest.fixture
def start(start):
    """Run ``mnvision tables`` in an empty folder: (exit status, stdout, stderr)."""
    return functools.partial(start, "tables")


def test_the_command_prints_and_leaves_nothing(start, tmp_path):
    status, out, err = start("format=csv")
    assert (status, err) == (0, "")
    assert out.startswith("row,model,quantity,printed,source,ours,matches,notes\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["runs=nowhere"],
            "runs: there is no folder {here}/nowhere; give the folder of a sweep, which holds 0, 1, 2 ...",
        ),
        (["runs=."], "runs: no folder in {here} holds a config.yaml; give the folder of a sweep"),
        (
            ["results=no.json"],
            "results: cannot read {here}/no.json (No such file or directory); give the path of a results",
        ),
        (["record=."], "record and row go together: record=RUN_FOLDER row=ROW"),
        (["record=.", "row=x", "runs=."], "record and runs are two things: give one of them"),
        (["record=.", "row=table6/0.5-224"], "record: there is no {here}/metrics.json; a finished run has one"),
        (["format=html"], "1 problem in the configuration:\n  format: expected markdown or csv, got 'html'"),
        (["backbone.alpha=0.5"], "1 problem in the configuration:\n  backbone.alpha: unknown key"),
        (["outptu=x"], "1 problem in the configuration:\n  outptu: unknown key; did you mean output?"),
    ],
)
def test_wrong_input_has_one_clear_message(start, tmp_path, arguments, expected):
    status, out, err = start(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith("error: " + expected.format(here=tmp_path))
    assert "Traceback" not in err


def test_a_run_is_no_sweep(start, tmp_path, sweep):
    status, _, err = start(f"runs={sweep}/0")
    assert status == 1
    assert err.startswith(f"error: runs: {sweep}/0 is a run itself; give the folder around it")
