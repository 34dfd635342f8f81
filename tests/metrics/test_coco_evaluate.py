"""The twelve numbers against plain pycocotools, to the last digits."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from mnvision.metrics import average_precision
from mnvision.metrics.coco import COCO_NUMBERS, class_table, coco_evaluate, coco_table
from mnvision.metrics.detections import DetectionArrays
from mnvision.types import UserError
from tests.metrics.coco_problems import make_annotations, make_arrays, make_dataset, pycocotools_numbers, random_problem

BACKENDS = ("numpy", "faster_coco_eval", "pycocotools")
# data/README.md: what pycocotools gives for the COCO API's own example.
GOLDEN = (
    (0.504581, 0.696973, 0.572982, 0.585626, 0.519400, 0.501398)
    + (0.386813, 0.593680, 0.595353, 0.639811, 0.566421, 0.564291)
)  # fmt: skip
ONE = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40]}


def ours(dataset, results, **options):
    return coco_evaluate(make_annotations(dataset), make_arrays(results, dataset), **options)


def assert_same(dataset, results, *, backend="numpy"):
    expected = pycocotools_numbers(dataset, results)
    assert ours(dataset, results, backend=backend) == pytest.approx(expected, abs=1e-12)


@pytest.fixture(scope="module")
def cocoapi(shared_data):
    folder = shared_data / "cocoapi100"
    dataset = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    shown = {image["id"] for image in dataset["images"]}
    return dataset, [row for row in results if row["image_id"] in shown]


@pytest.mark.parametrize("backend", BACKENDS)
def test_golden_numbers_of_the_coco_api(cocoapi, backend):
    numbers = ours(*cocoapi, backend=backend)
    assert [numbers[name] for name in COCO_NUMBERS] == pytest.approx(GOLDEN, abs=1e-6)
    assert numbers == pytest.approx(pycocotools_numbers(*cocoapi), abs=1e-12)


def test_names_are_fixed(cocoapi):
    numbers = ours(*cocoapi)
    assert tuple(numbers)[:12] == COCO_NUMBERS
    assert (
        *("map", "map_50", "map_75", "map_small", "map_medium", "map_large"),
        *("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"),
    ) == COCO_NUMBERS
    assert {"map/person", "map_50/person"} <= set(numbers)


@pytest.mark.parametrize("seed", range(60))
def test_random_problems(seed):
    assert_same(*random_problem(seed))


@pytest.mark.parametrize("seed", range(0, 12))
def test_the_libraries_give_the_same(seed):
    dataset, results = random_problem(seed)
    expected = ours(dataset, results)
    for backend in ("faster_coco_eval", "pycocotools"):
        assert ours(dataset, results, backend=backend) == pytest.approx(expected, abs=1e-12)


def test_random_problems_are_nasty():
    """The loop above is only worth something if its problems hold what can go wrong."""
    problems = [random_problem(seed) for seed in range(60)]
    rows = [row for dataset, _ in problems for row in dataset["annotations"]]
    numbers = [ours(*problem) for problem in problems]
    assert sum(row["iscrowd"] for row in rows) > 20
    assert sum(row["area"] != row["bbox"][2] * row["bbox"][3] for row in rows) > 100
    assert any(len({row["score"] for row in results}) < len(results) / 2 for _, results in problems)
    assert any(
        len(results) > 100 * len(dataset["images"]) * len(dataset["categories"]) for dataset, results in problems
    )
    assert sum(0.01 < number["map"] < 0.99 for number in numbers) > 30
    assert {name for number in numbers for name in COCO_NUMBERS if number[name] > 0} == set(COCO_NUMBERS)


def test_a_block_boundary_changes_nothing(monkeypatch):
    problems = [random_problem(seed) for seed in range(1, 20)]
    expected = [ours(*problem) for problem in problems]
    monkeypatch.setattr(average_precision, "_PAIRS_AT_ONCE", 7)
    assert [ours(*problem) for problem in problems] == expected


CORNERS = {
    "nothing at all": ([], []),
    "no ground truth": ([], [{**ONE, "score": 0.5}]),
    "no detections": ([ONE], []),
    "no class in common": ([ONE], [{**ONE, "category_id": 7, "score": 0.5}]),
    "no picture in common": ([ONE], [{**ONE, "image_id": 2, "score": 0.5}]),
    "crowd alone": ([{**ONE, "iscrowd": 1}], [{**ONE, "score": 0.5}] * 3),
    "a box and a crowd over it": ([ONE, {**ONE, "iscrowd": 1}], [{**ONE, "score": 0.5}] * 3),
    "duplicate boxes": ([ONE, ONE, ONE], [{**ONE, "score": 0.5}] * 2),
    "tied scores, wrong one first": ([ONE], [{**ONE, "bbox": [60, 60, 9, 9], "score": 0.5}, {**ONE, "score": 0.5}]),
    "ties over pictures": (
        [ONE, {**ONE, "image_id": 2}],
        [{**ONE, "image_id": 2, "score": 0.5}, {**ONE, "bbox": [60, 60, 9, 9], "score": 0.5}],
    ),
    "an IoU of exactly one half": ([{**ONE, "bbox": [0, 0, 10, 10]}], [{**ONE, "bbox": [0, 0, 10, 5], "score": 1}]),
    "an area on the bound of two ranges": (
        [{**ONE, "bbox": [0, 0, 32, 32]}],
        [{**ONE, "bbox": [0, 0, 32, 32], "score": 1}],
    ),
    "a false detection with an area on the bound": (
        [{**ONE, "bbox": [0, 0, 10, 10]}, {**ONE, "bbox": [0, 60, 50, 50]}],
        [
            {**ONE, "bbox": [60, 0, 32, 32], "score": 0.9},
            {**ONE, "bbox": [0, 0, 10, 10], "score": 0.5},
            {**ONE, "bbox": [0, 60, 50, 50], "score": 0.5},
        ],
    ),
    "two boxes equally near, a later detection wants one": (
        [{**ONE, "bbox": [0, 0, 10, 10]}, {**ONE, "bbox": [2, 0, 10, 10]}],
        [{**ONE, "bbox": [1, 0, 10, 10], "score": 0.9}, {**ONE, "bbox": [2, 0, 10, 10], "score": 0.5}],
    ),
    "more than 100, the right one last": (
        [ONE],
        [{**ONE, "bbox": [60, 60, 9, 9], "score": 0.9}] * 100 + [{**ONE, "score": 0.1}],
    ),
    "more than 100, the right one within": (
        [ONE],
        [{**ONE, "bbox": [60, 60, 9, 9], "score": 0.9}] * 99 + [{**ONE, "score": 0.1}] * 5,
    ),
    "degenerate boxes": (
        [{**ONE, "bbox": [5, 5, 0, 10]}, {**ONE, "bbox": [5, 5, -3, 10], "area": 30.0}, ONE],
        [{**ONE, "score": 0.5}, {**ONE, "bbox": [5, 5, 0, 10], "score": 0.4}],
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("annotations", "results"),
    CORNERS.values(),
    ids=CORNERS.keys(),
)
def test_corner_cases(annotations, results, backend):
    assert_same(make_dataset(annotations), results, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("first_id", [0, 1])
def test_one_box_found_is_perfect_whatever_its_id(backend, first_id):
    """To pycocotools a match with annotation id 0 is no match; ours are renumbered."""
    dataset = make_dataset([{**ONE, "id": first_id}])
    numbers = ours(dataset, [{**ONE, "score": 0.5}], backend=backend)
    assert numbers["map"] == pytest.approx(1.0, abs=1e-9)
    assert numbers["mar_1"] == numbers["mar_medium"] == 1.0
    assert numbers["map_small"] == numbers["mar_large"] == numbers["map/class 7"] == -1.0


def test_mutations_of_the_coco_api_example(cocoapi):
    dataset, results = cocoapi
    rng = np.random.default_rng(0)
    shuffled = [results[i] for i in rng.permutation(len(results))]
    assert_same(dataset, [{**row, "score": round(row["score"], 1)} for row in shuffled])
    assert_same(dataset, results * 2)
    assert_same({**dataset, "images": dataset["images"][::-1]}, results)
    assert_same({**dataset, "annotations": dataset["annotations"][::3]}, results)


def test_widths_come_back_as_the_file_states_them():
    """0.1 + 0.2 - 0.1 is not 0.2: an IoU on the threshold must not fall off it."""
    rng = np.random.default_rng(3)
    annotations, results = [], []
    for image_id in range(1, 41):
        left, top, width, height = (round(value, 2) for value in rng.uniform(1, 50, 4).tolist())
        row = {"image_id": image_id, "category_id": 1, "bbox": [left, top, width, height]}
        annotations.append(row)
        results.append({**row, "bbox": [left, top, width, height / 2], "score": round(rng.random(), 2)})
    assert_same(make_dataset(annotations, images=40), results)


def test_only_the_given_pictures_count():
    dataset, results = random_problem(5)
    chosen = [image["id"] for image in dataset["images"]][::2]
    part = {
        **dataset,
        "images": [image for image in dataset["images"] if image["id"] in chosen],
        "annotations": [row for row in dataset["annotations"] if row["image_id"] in chosen],
    }
    expected = pycocotools_numbers(part, [row for row in results if row["image_id"] in chosen])
    for backend in BACKENDS:
        assert ours(dataset, results, backend=backend, image_ids=np.array(chosen)) == pytest.approx(expected, abs=1e-12)
    assert expected != pytest.approx(pycocotools_numbers(dataset, results))


def test_float32_arrays_and_small_labels_are_taken():
    dataset, results = random_problem(9)
    arrays = make_arrays(results, dataset)
    single = DetectionArrays(
        arrays.image_ids.astype(np.int32),
        arrays.labels.astype(np.uint8),
        arrays.boxes.astype(np.float32),
        arrays.scores.astype(np.float32),
    )
    annotations = make_annotations(dataset)
    assert coco_evaluate(annotations, single) == pytest.approx(
        coco_evaluate(annotations, single, backend="pycocotools"), abs=1e-12
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_printed(backend, capfd):
    ours(*random_problem(2), backend=backend)
    assert capfd.readouterr() == ("", "")


GOOD = {
    "image_ids": np.array([1, 2]),
    "labels": np.array([1, 2]),
    "boxes": np.array([[0.0, 0, 5, 5], [1, 1, 2, 2]]),
    "scores": np.array([0.5, 0.25]),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": np.array([1, 3])},
            r"label outside 1\.\.2, in 1 of 2 rows; the first is row 1 \(image id 2, label 3",
        ),
        ({"labels": np.array([0, 2])}, r"label outside 1\.\.2.*row 0"),
        ({"image_ids": np.array([1, 99])}, "image id that the annotations do not have.*image id 99"),
        ({"scores": np.array([np.nan, 0.5])}, "not finite: the model has probably diverged.*row 0"),
        ({"boxes": np.array([[0.0, 0, 5, 5], [1, 1, np.inf, 2]])}, "not finite.*row 1"),
        ({"boxes": np.zeros((2, 5))}, r"shapes .*'boxes': \(2, 5\).*expected .*'boxes': \(2, 4\)"),
        ({"scores": np.zeros(3)}, r"'scores': \(3,\)"),
    ],
)
def test_bad_detections_are_refused(change, message):
    annotations = make_annotations(make_dataset([ONE]))
    coco_evaluate(annotations, DetectionArrays(**GOOD))
    with pytest.raises(UserError, match=message):
        coco_evaluate(annotations, DetectionArrays(**(GOOD | change)))


def test_unknown_pictures_and_backends_are_refused():
    annotations = make_annotations(make_dataset([ONE]))
    with pytest.raises(UserError, match="1 of the image ids to evaluate .* the first is 44"):
        coco_evaluate(annotations, DetectionArrays(**GOOD), image_ids=np.array([1, 44]))
    with pytest.raises(UserError, match="unknown backend 'fast', expected one of auto, numpy"):
        coco_evaluate(annotations, DetectionArrays(**GOOD), backend="fast")


@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
def test_a_missing_library_is_named(backend, monkeypatch):
    for module in (backend, f"{backend}.coco", f"{backend}.cocoeval"):
        monkeypatch.setitem(sys.modules, module, None)
    annotations = make_annotations(make_dataset([ONE]))
    with pytest.raises(UserError, match=rf"{backend} cannot be imported .*pip install {backend.replace('_', '-')}"):
        coco_evaluate(annotations, DetectionArrays(**GOOD), backend=backend)
    assert coco_evaluate(annotations, DetectionArrays(**GOOD))["map"] == 0.0


def test_the_table_of_the_twelve(cocoapi):
    lines = coco_table(ours(*cocoapi)).splitlines()
    assert len(lines) == 13
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["map", "0.50:0.95", "all", "100", "0.5046"]
    assert lines[3].split() == ["map_75", "0.75", "all", "100", "0.5730"]
    assert lines[7].split() == ["mar_1", "0.50:0.95", "all", "1", "0.3868"]
    assert lines[12].split() == ["mar_large", "0.50:0.95", "large", "100", "0.5643"]
    assert coco_table(dict.fromkeys(COCO_NUMBERS, -1.0)).splitlines()[5].split()[-1] == "-"


def test_the_table_of_classes():
    ap = {"a": 0.5, "a longer name": 0.75, "absent": -1.0, "d": 0.25, "e": 0.0}
    table = class_table(ap, ap_50={name: min(1, 2 * value) for name, value in ap.items()})
    assert table.splitlines() == [
        "                   map   map_50",
        "a longer name   0.7500   1.0000",
        "a               0.5000   1.0000",
        "d               0.2500   0.5000",
        "e               0.0000   0.0000",
        "absent               -        -",
    ]
    short = class_table(ap, ap_50=ap, ends=1).splitlines()
    assert [line.split()[0] for line in short[1:]] == ["a", "...", "e"]
    assert short[2] == "... 2 more"
    assert len(class_table(ap, ap_50=ap, ends=2).splitlines()) == 5
    assert class_table({}, ap_50={}).split() == ["map", "map_50"]
    assert class_table(ap).splitlines()[2].split() == ["a", "0.5000"]


def test_the_benchmark_compares_like_with_like():
    path = Path(__file__).parents[2] / "benchmarks" / "coco_eval.py"
    benchmark = runpy.run_path(str(path))
    annotations, detections = benchmark["make_problem"](40, seed=0)
    assert len(detections) == 4000
    numbers = coco_evaluate(annotations, detections)
    expected = benchmark["pycocotools_numbers"](annotations, detections)
    assert {name: numbers[name] for name in COCO_NUMBERS} == pytest.approx(expected, abs=1e-12)
    assert 0.1 < numbers["map"] < 0.9
