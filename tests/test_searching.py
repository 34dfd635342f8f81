"""An index of pictures, the search in it, and the verdict on two pictures, with a tiny embedder of known answers."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mnvision import faiss_search, index, searching
from mnvision.checkpoint import save_model
from mnvision.embedding_figures import distance_picture, roc_picture
from mnvision.errors import UserError
from mnvision.metrics.verification import JudgedPairs, area_under_curve, roc_curve
from mnvision.models import create
from mnvision.models.base import ModelSpec, TaskModel
from mnvision.overrides import name_pictures
from mnvision.pair_pictures import pair_captions, pairs_sheet, side_by_side
from mnvision.types import Preprocessing

COLORS = {"red": (250, 10, 60), "orange": (250, 120, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


class MeanColor(TaskModel):
    """Its embedding is the direction of a picture's mean colour, times a matrix: distances are known by hand."""

    def __init__(self, backbone, *, num_classes, preprocessing):
        super().__init__(backbone, preprocessing=preprocessing)
        self.mix = nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.mix.weight)

    def forward(self, images):
        unused = 0 * self.backbone(self.normalise(images))[-1].mean()
        return F.normalize(self.mix(images.float().mean(dim=(2, 3))), dim=1) + unused

    @torch.no_grad()
    def predict(self, images, *, original_sizes=None, output=None):
        return self(self.stack(images)) if output is None else output


@pytest.fixture
def embedder(monkeypatch):
    monkeypatch.setitem(create.TASKS, "embed", MeanColor)
    torch.manual_seed(0)
    options = {"name": "mobilenet_v1", "alpha": 0.25}
    return create.build_model(ModelSpec("embed", {}, options, Preprocessing(32), ("a", "b"), (1, 2))).eval()


@pytest.fixture
def ckpt(embedder, tmp_path):
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    save_model(embedder, path)
    return path


@pytest.fixture
def album(tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    for name, color in COLORS.items():
        cv2.imwrite(str(folder / f"{name}.png"), np.full((40, 60, 3), color[::-1], np.uint8))
    return folder


def unit(color):
    vector = np.array(color, float)
    return vector / np.linalg.norm(vector)


def distance(one, other):
    return float(((unit(COLORS[one]) - unit(COLORS[other])) ** 2).sum())


@pytest.fixture
def album_index(embedder, album, tmp_path):
    paths = sorted(album.iterdir())
    vectors = embedder.predict([cv2.imread(str(path))[:, :, ::-1] for path in paths]).numpy()
    return index.write_index(tmp_path / "index", vectors, paths, model=embedder)


# the index


def test_an_index_comes_back(album_index, embedder, album):
    read = index.read_index(album_index)
    index.check_model(read, embedder)
    assert read.paths == [str(album / f"{name}.png") for name in sorted(COLORS)]
    assert read.embeddings.dtype == np.float32
    np.testing.assert_allclose(read.embeddings[0], unit(COLORS["blue"]), atol=1e-6)
    about = json.loads((album_index / "index.json").read_text())
    assert (about["width"], about["pictures"], about["model"]) == (3, 4, index.model_digest(embedder))
    assert (about["preprocessing"]["size"], about["flip"]) == (32, False)


def test_the_digest_tells_models_apart_and_copies_not(embedder, ckpt):
    same = searching.load_model(ckpt, task="embed")
    assert index.model_digest(same) == index.model_digest(embedder)
    with torch.no_grad():
        same.mix.weight[0, 0] += 1e-3
    assert index.model_digest(same) != index.model_digest(embedder)
    other = searching.load_model(ckpt)
    other.preprocessing = replace(other.preprocessing, crop_share=0.9)
    assert index.model_digest(other) != index.model_digest(embedder)


@pytest.mark.parametrize("options", [{"padding": "same"}, {"activation": "hardswish"}])
def test_the_digest_tells_networks_of_equal_weights_apart(options):
    one = create.create_model("embed", alpha=0.25, image_size=32, num_classes=2).eval()
    other = create.create_model("embed", alpha=0.25, image_size=32, num_classes=2, backbone_options=options).eval()
    other.load_state_dict(one.state_dict())
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert (one.predict(images) - other.predict(images)).abs().max() > 0.01
    assert index.model_digest(other) != index.model_digest(one)


def test_the_digest_leaves_out_what_only_a_training_uses():
    options = ({"dropout": 0.0, "embedding_size": 8}, {"dropout": 0.5, "embedding_size": 8})
    one, other = (create.create_model("embed", alpha=0.25, num_classes=2, task_options=each) for each in options)
    other.load_state_dict(one.state_dict())
    assert index.model_digest(other) == index.model_digest(one)
    other.flip = True
    assert index.model_digest(other) != index.model_digest(one)


def test_vectors_are_brought_to_unit_length(tmp_path, embedder):
    index.write_index(tmp_path, np.array([[3.0, 4.0], [0, 2]]), ["a", "b"], model=embedder)
    np.testing.assert_allclose(index.read_index(tmp_path).embeddings, [[0.6, 0.8], [0, 1]], atol=1e-7)


@pytest.mark.parametrize(
    ("vectors", "paths", "message"),
    [
        (np.ones((2, 3)), ["a"], r"shape \[2, 3\] and 1 paths"),
        (np.ones((0, 3)), [], "one at least"),
        (
            np.array([[1, 0], [np.nan, 1], [0, 0]]),
            ["a", "b", "c"],
            "2 embeddings are not finite, or zero, the first .* b",
        ),
    ],
)
def test_what_is_no_index_is_not_written(tmp_path, embedder, vectors, paths, message):
    with pytest.raises(UserError, match=message):
        index.write_index(tmp_path / "new", vectors, paths, model=embedder)
    assert not (tmp_path / "new").exists()


def test_what_is_wrong_with_an_index(album_index, embedder, tmp_path):
    with pytest.raises(UserError, match=r"is no index: there is no index\.json"):
        index.read_index(tmp_path / "run")
    with pytest.raises(UserError, match=rf"; did you mean {album_index}\?"):
        index.read_index(tmp_path)
    with torch.no_grad():
        embedder.mix.weight[0, 1] = 0.5
    with pytest.raises(UserError, match="was made by another model"):
        index.check_model(index.read_index(album_index), embedder)
    (album_index / "paths.json").write_text('["a"]')
    with pytest.raises(UserError, match=r"do not belong together: embeddings of shape \[4, 3\], 1 paths"):
        index.read_index(album_index)
    for text in ("[", '{"a": 0, "b": 1, "c": 2, "d": 3}', "[1, 2, 3, 4]", "4", "[null, null, null, null]"):
        (album_index / "paths.json").write_text(text)
        with pytest.raises(UserError, match="cannot be read"):
            index.read_index(album_index)


@pytest.mark.parametrize(("row", "value", "kind"), [(3, np.nan, "float32"), (0, np.inf, "float32"), (0, 1, "float64")])
def test_an_index_of_what_are_no_embeddings(album_index, monkeypatch, row, value, kind):
    monkeypatch.setattr(index, "_ROWS", 2)
    vectors = np.load(album_index / "embeddings.npy").astype(kind)
    vectors[row, 1] = value
    np.save(album_index / "embeddings.npy", vectors)
    with pytest.raises(UserError, match=rf"embeddings\.npy holds {kind} that are not all finite; expected float32"):
        index.read_index(album_index)


def test_an_index_of_an_older_format(album_index):
    about = json.loads((album_index / "index.json").read_text())
    (album_index / "index.json").write_text(json.dumps({**about, "format": 1}))
    with pytest.raises(UserError, match=r"is of format 1, expected 2\); make it again"):
        index.read_index(album_index)


def slow_nearest(vectors, queries, count):
    found = [sorted((-float(q @ v), i) for i, v in enumerate(vectors))[:count] for q in queries]
    return [[i for _, i in row] for row in found], [[-s for s, _ in row] for row in found]


@pytest.mark.parametrize("backend", searching.BACKENDS)
@pytest.mark.parametrize("count", [1, 5, 100])
def test_the_nearest_are_those_of_a_full_sort(backend, count, monkeypatch):
    if backend == "faiss":
        pytest.importorskip("faiss")
    monkeypatch.setattr(index, "_ROWS", 16)
    monkeypatch.setattr(index, "_QUERIES", 3)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(70, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:7] + 0.1 * rng.normal(size=(7, 8)).astype(np.float32)
    module = searching.BACKENDS[backend]
    prepared = module.prepare(vectors)
    similar, places = module.nearest(prepared, queries, count=count)
    expected, similarities = slow_nearest(vectors, queries, count)
    assert places.tolist() == expected
    assert (similar.dtype, places.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(similar, similarities, atol=1e-5)
    assert module.nearest(prepared, queries[:0], count=count)[1].shape == (0, min(count, 70))


def test_of_equal_vectors_the_first_comes_first(monkeypatch):
    monkeypatch.setattr(index, "_ROWS", 2)
    vectors = np.float32([[0, 1], [1, 0], [1, 0], [1, 0]])
    assert index.nearest(vectors, np.float32([[1, 0]]), count=3)[1].tolist() == [[1, 2, 3]]


def test_without_faiss_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install mnvision\[search\]"):
        faiss_search.prepare(np.ones((1, 2)))


# the commands


def test_search_finds_what_is_near(album_index, album, ckpt, start, tmp_path, caplog):
    words = (f"ckpt={ckpt}", f"index={album_index}", f"source={album}", "output_dir=out", "top_k=2")
    with caplog.at_level(logging.INFO):
        status, out, err = start("search", *words)
    assert status == 0, err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [entry["file"] for entry in results] == [str(album / f"{name}.png") for name in sorted(COLORS)]
    red = results[3]
    # of the others: the picture itself is not found
    assert [one["file"] for one in red["nearest"]] == [str(album / "orange.png"), str(album / "blue.png")]
    assert red["nearest"][0]["distance"] == pytest.approx(distance("red", "orange"), abs=1e-5)
    sheet = cv2.imread(str(tmp_path / "out" / "pictures" / red["sheet"]))[:, :, ::-1]
    for name in ("red", "orange", "blue"):
        assert (np.abs(sheet.astype(int) - COLORS[name]).max(axis=2) < 30).mean() > 0.05
    assert (np.abs(sheet.astype(int) - COLORS["green"]).max(axis=2) < 30).mean() < 0.001
    assert "mnvision search" in (tmp_path / "out" / "origin.json").read_text()
    assert "top_k: 2" in (tmp_path / "out" / "config.yaml").read_text()
    # of the four pictures what is in the file, as their order is
    near = [f"  {one['distance']:.4f}  {one['file']}" for entry in results for one in entry["nearest"]]
    assert [line for line in out.splitlines() if line.startswith("  ")] == near
    assert "4 pictures looked for among 4" in caplog.text


def test_search_tells_the_nearest_three_of_the_first_five(album_index, album, ckpt, start, caplog):
    with caplog.at_level(logging.INFO):
        status, out, _ = start("search", f"ckpt={ckpt}", f"index={album_index}", f"source={album}/red.png")
    assert (status, len(out.splitlines())) == (0, 4)
    assert "1 picture looked for among 4" in caplog.text
    for n in range(6):
        cv2.imwrite(str(album / f"more{n}.png"), np.full((40, 60, 3), 40 * n + 20, np.uint8))
    out = start("search", f"ckpt={ckpt}", f"index={album_index}", f"source={album}/more*.png")[1].splitlines()
    assert (len(out), out[0], out[-1]) == (5 * 4 + 1, f"{album}/more0.png", "1 more picture in results.json")


def test_search_goes_on_without_what_cannot_be_read(album_index, album, ckpt, start, tmp_path, caplog):
    (album / "broken.jpg").write_bytes(b"no picture")
    (album / "green.png").rename(tmp_path / "moved.png")
    with caplog.at_level(logging.WARNING):
        status, _, err = start("search", f"ckpt={ckpt}", f"index={album_index}", f"source={album}", "output_dir=out")
    assert status == 1
    assert "1 of 4 pictures left out" in err
    assert "broken.jpg" in err
    assert "not drawn" in err
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) == 3


def test_search_refuses_what_does_not_fit(album_index, album, ckpt, embedder, start, tmp_path, monkeypatch):
    words = (f"index={album_index}", f"source={album}", "output_dir=out")
    status, _, err = start("search", *words)
    assert (status, "ckpt: missing, expected a path; give ckpt=..." in err) == (1, True)
    status, _, err = start("search", f"ckpt={ckpt}", *words, "topk=3")
    assert "topk: unknown key; did you mean top_k?" in err
    status, _, err = start("search", f"ckpt={ckpt}", *words, "index=nowhere")
    assert "index: no such file or folder" in err
    with torch.no_grad():
        embedder.mix.weight[1, 1] = 2
    save_model(embedder, ckpt)
    status, _, err = start("search", f"ckpt={ckpt}", *words)
    assert (status, "was made by another model" in err, "Traceback" in err) == (1, True, False)
    assert not (tmp_path / "out").exists()
    classifier = create.create_model("classify", alpha=0.25, image_size=32, num_classes=2)
    save_model(classifier, ckpt)
    assert "a model of task classify, expected one of task embed" in start("search", f"ckpt={ckpt}", *words)[2]


@pytest.mark.parametrize("bare", [True, False])
def test_verify_says_what_is_known(album, ckpt, start, bare):
    pictures = [str(album / "red.png"), str(album / "orange.png")]
    words = pictures if bare else [f"first={pictures[0]}", f"second={pictures[1]}"]
    status, out, err = start("verify", *words, f"ckpt={ckpt}")
    assert (status, err) == (0, "")
    assert f"squared distance {distance('red', 'orange'):.4f}" in out
    assert "no threshold is known" in out
    run = ckpt.parent.parent
    (run / "metrics.json").write_text(json.dumps({"val/threshold": 0.3}))
    assert start("verify", *words, f"ckpt={ckpt}")[1].endswith(
        "threshold 0.3000, of the validation of the run's best.ckpt\nsame\n"
    )
    out = start("verify", *words, f"ckpt={ckpt}", "threshold=0.1")[1]
    assert out.endswith("threshold 0.1000, as given\ndifferent\n")
    (run / "metrics.json").write_text(json.dumps({"val/threshold": -1.0}))
    assert "no threshold" in start("verify", *words, f"ckpt={ckpt}")[1]


def test_what_verify_does_not_take(album, ckpt, start, tmp_path):
    red = str(album / "red.png")
    status, _, err = start("verify", red, f"ckpt={ckpt}")
    assert (status, "verify compares two pictures, got 1" in err) == (1, True)
    assert "verify compares two pictures, got 3" in start("verify", red, red, red, f"ckpt={ckpt}")[2]
    assert "second: missing, expected a path" in start("verify", f"first={red}", f"ckpt={ckpt}")[2]
    assert "second: no such file or folder" in start("verify", red, "none.png", f"ckpt={ckpt}")[2]
    assert "threshold: expected a number >= 0 and <= 4" in start("verify", red, red, f"ckpt={ckpt}", "threshold=5")[2]
    (tmp_path / "text.jpg").write_text("no picture")
    status, _, err = start("verify", red, str(tmp_path / "text.jpg"), f"ckpt={ckpt}")
    assert (status, "text.jpg" in err, "Traceback" in err) == (1, True, False)
    assert "verify" in start("--help")[1]
    assert "mnvision verify a.jpg b.jpg" in start("verify", "--help")[1]


def test_bare_paths_beside_flags():
    words = ["--config-dir", "mine", "my a.jpg", "-m", "b.jpg", "threshold=1"]
    assert name_pictures(words) == ["--config-dir", "mine", "first=my a.jpg", "-m", "second=b.jpg", "threshold=1"]
    assert name_pictures(["first=a", "second=b"]) == ["first=a", "second=b"]


# diagrams and sheets


def text_of(figure):
    [axes] = figure.axes
    return [text.get_text() for text in axes.get_legend().get_texts()] + [axes.get_title()]


def test_the_curve_shows_what_it_is_given():
    same = np.tile([True, False], 50)
    pairs = JudgedPairs(np.where(same, 0.5, np.linspace(0.3, 2, 100)), same, np.zeros(100, np.int64))
    curve = roc_curve(pairs)
    figure = roc_picture(curve.far, curve.val, auc=area_under_curve(curve), different=50, marks={1e-3: 0.25, 1e-4: -1})
    texts = text_of(figure)
    assert "less than one of 50 different pairs" in texts
    assert "VAL 25.0% at FAR 0.001, mean over the folds" in texts
    assert not any("0.0001" in text for text in texts)  # not known
    assert f"{area_under_curve(curve):.4f}" in texts[-1]
    drawn = figure.axes[0].lines[0]
    np.testing.assert_allclose(drawn.get_ydata(), curve.val)
    assert figure.axes[0].get_xscale() == "log"
    assert figure.axes[0].get_xlim()[0] <= 1e-3 / 1.5
    assert drawn.get_xdata().min() > 0


def test_the_histogram_counts_both_kinds():
    distances = np.array([0.1, 0.2, 3.0, np.inf, -1.0])
    same = np.array([True, True, False, True, False])
    assert text_of(distance_picture(distances, same, threshold=0.5))[:3] == [
        "3 same pairs",
        "2 different pairs",
        "threshold 0.500",
    ]
    assert len(text_of(distance_picture(distances[3:], same[3:]))) == 3  # nothing to show, and no failure


def test_a_pair_stands_side_by_side():
    red, blue = (
        np.full((size, 50, 3), color, np.uint8) for size, color in ((50, COLORS["red"]), (100, COLORS["blue"]))
    )
    joined = side_by_side(red, blue)
    half = joined.shape[1] // 2
    assert (joined[128, 20] == COLORS["red"]).all()
    assert (joined[128, half + 131] == COLORS["blue"]).all()
    assert (joined[128, half + 20] == 24).all()  # the frame of a tall picture
    lines = [pair_captions(("a", "b"), 0.7, 1.0, same=same) for same in (True, False)]
    assert [line[0].text for line in lines] == ["told same", "told same"]
    assert lines[0][0].color != lines[1][0].color
    assert pair_captions(("a", "a"), float("nan"), 1.0, same=False)[0].text == "no answer"
    sheet = pairs_sheet([(red, blue)] * 4, [*lines, *lines], columns=3)
    one = pairs_sheet([(red, blue)], lines[:1])
    assert sheet.shape[:2] == (2 * one.shape[0], 3 * one.shape[1])
    with pytest.raises(UserError, match="got 0 pairs"):
        pairs_sheet([], [])
