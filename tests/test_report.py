"""The page of a run: complete, safe against what names contain, and whole without any other file."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from mnvision.errors import UserError
from mnvision.page import STYLE
from mnvision.report import read_history, write_report
from mnvision.report_plans import ATTRIBUTES, EMBEDDING, GEOLOCATION

NASTY = """<script>alert('1')</script> & "two" {three} \u00e9\u4e2d"""
VOID = {"meta", "img", "br", "link", "hr", "input"}
COLUMNS = "epoch,step,train/loss,train/loss_step,train/images_per_second,train/peak_memory_mb"
COLUMNS += ",val/loss,val/map,val/map_50"


class Page(HTMLParser):
    """Checks that tags are balanced, and collects tags, attributes and texts."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts, self.html = [], [], [], html
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def find(self, tag, **attributes):
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]

    def texts_in(self, tag):
        return [text for parent, text in self.texts if parent == tag]

    @property
    def text(self):
        return " ".join(text for parent, text in self.texts if parent not in ("style", "title"))


def report(folder, **given):
    values = {"title": "A run", "facts": {}, "numbers": {}, "bars": {}} | given
    path = write_report(folder, **values)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    for _, attributes in page.tags:  # nothing is loaded and nothing runs
        assert not {name for name in attributes if name.startswith("on") or name in ("href", "srcset", "data")}
        assert attributes.get("src", "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    assert not page.find("script")
    assert not re.search(r"url\(|@import|https?://", "".join(page.texts_in("style")))
    assert "default-src 'none'" in page.find("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    return page


def write_csv(folder, *rows):
    (folder / "metrics.csv").write_text("\n".join([COLUMNS, *rows]) + "\n", encoding="utf-8")


def epochs_csv(folder, count):
    rows = []
    for epoch in range(count):
        rows.append(f"{epoch},{epoch},,{90 - epoch / 10},,,,,")
        rows.append(f"{epoch},{epoch},,,,,{50 - epoch / 10},{epoch / 100 + 0.01},{epoch / 50 + 0.02}")
        rows.append(f"{epoch},{epoch},{40 - epoch / 10},,{100 + epoch},1500,,,")
    write_csv(folder, *rows, f"{count},{count},,,,,1.0,0.9,0.9")  # the best checkpoint, measured at the end


def picture(path, *, height=30, width=40):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(".jpg", np.full((height, width, 3), 128, np.uint8))[1].tobytes())


def test_sparse_rows_become_values_by_epoch(tmp_path):
    write_csv(
        tmp_path,
        "0,9,,7.5,,,,,",
        "0,19,,,,,5.0,0.1,0.2",
        "0,19,6.0,,80,900,,,",
        "1,39,5.0,,90,950,,,",  # an epoch without validation
        "2,59,4.0,,nan,,inf,,x",
        "2,60,,,,,3.0,0.3,0.4",
        "2,60,,,,,9.0,0.9,0.9",  # the first value of an epoch counts
        "3,60,,,,,1.0,0.8,0.8",  # not trained: the best checkpoint
        "4,6",
    )
    history = read_history(tmp_path / "metrics.csv")
    assert history["train/loss"] == {1: 6.0, 2: 5.0, 3: 4.0}
    assert history["val/loss"] == {1: 5.0, 3: 3.0}
    assert history["val/map"] == {1: 0.1, 3: 0.3}
    assert history["train/images_per_second"] == {1: 80.0, 2: 90.0}
    assert {"epoch", "step"}.isdisjoint(history)


def test_an_evaluation_alone_has_no_curves_and_no_empty_sections(tmp_path):
    assert read_history(tmp_path / "metrics.csv") == {}
    page = report(tmp_path, numbers={"val/map": 0.25, "val/map_50": 0.5}, bars={"cat": 0.25})
    assert not page.find("svg")
    assert page.texts_in("h2") == ["Numbers", "Average precision by class"]
    assert page.texts_in("h1") == ["A run"]
    assert "0.250" in page.texts_in("b")
    assert "0.2500" in page.texts_in("td")
    assert "images/s" not in page.text
    assert report(tmp_path).texts_in("h2") == []


@pytest.mark.parametrize("split", ["val", "train"])
def test_numbers_of_either_split_fill_the_page(tmp_path, split):
    numbers = {"loss": 3.0, "map": 0.25, "map_50": 0.5, "mar_1": 0.125}
    page = report(tmp_path, numbers={f"{split}/{name}": value for name, value in numbers.items()})
    assert page.texts_in("b") == ["0.250", "0.500"]
    assert {"0.2500", "0.5000", "0.1250"} <= set(page.texts_in("td"))
    assert "loss 3.0000" in page.texts_in("p")
    assert f"{split}/" not in page.text


def test_what_a_number_is_may_wrap_beside_it():
    """Two tables side by side are narrower than their longest explanation, which hid the value behind a scroll bar."""
    assert re.search(r"^th, td {[^}]*white-space: nowrap", STYLE, flags=re.MULTILINE)
    assert ".tables td:not(:first-child, :last-child) { white-space: normal;" in STYLE


@pytest.mark.parametrize("count", [1, 2, 12, 300])
def test_curves_end_at_their_last_epoch(tmp_path, count):
    epochs_csv(tmp_path, count)
    page = report(tmp_path)
    assert len(page.find("svg")) == 2
    lines = [found["d"] for found in page.find("path") if found.get("class", "").startswith("line")]
    assert [len(line.split("L")) for line in lines] == [count] * 4
    numbers = [float(number) for line in lines for number in re.findall(r"[-.\d]+", line)]
    assert np.isfinite(numbers).all()
    assert min(numbers) >= 0
    assert max(numbers) <= 480
    assert f"best AP {count / 100:.4f} in epoch {count}" in page.text
    assert f"epoch {count}\ntrain {40 - (count - 1) / 10:.4g}\nval {50 - (count - 1) / 10:.4g}" in page.texts_in(
        "title"
    )
    ticks = [float(text) for text in page.texts_in("text") if re.fullmatch(r"[\d.]+", text)]
    assert count == 300 or float(count) in ticks
    assert f"{100 + (count - 1) / 2:{'.0f' if count > 2 else ',.0f'}}" in page.texts_in("b")  # the median of images/s
    assert "1.50" in page.texts_in("b")


def test_a_higher_value_is_drawn_higher(tmp_path):
    write_csv(tmp_path, "0,0,4.0,,,,,0.1,", "1,1,2.0,,,,,0.4,", "2,2,3.0,,,,,0.3,")
    page = report(tmp_path)
    loss, ap = (found["d"] for found in page.find("path") if found.get("class", "").startswith("line"))
    points = np.array([float(number) for number in re.findall(r"[-.\d]+", loss)]).reshape(3, 2)
    assert (np.diff(points[:, 0]) > 0).all()
    assert points[1, 1] > points[2, 1] > points[0, 1]  # y grows downwards
    (ring,) = page.find("circle", **{"class": "ring c1"})
    assert f"{ring['cx']} {ring['cy']}" == ap.removeprefix("M").split("L")[1]


def test_undefined_numbers_show_as_a_dash_and_leave_the_curves(tmp_path):
    write_csv(tmp_path, "0,0,4.0,,,,5.0,-1.0,-1.0")
    numbers = {"val/map": -1.0, "val/map_50": 0.5, "val/mar_small": -1, "val/map_large": float("nan")}
    page = report(tmp_path, numbers=numbers, bars={"cat": -1.0, "dog": 0.5}, ticks={"cat": -1.0, "dog": 1})
    assert "-1" not in page.text
    assert "nan" not in page.text
    assert page.texts_in("b").count("\u2013") == 2  # AP and the class
    assert page.texts_in("td").count("\u2013") == 3 + 2  # in the tables of numbers and of epochs
    assert len(page.find("svg")) == 1
    assert "2 classes, 1 absent" in page.text


def test_names_are_text_and_nothing_else(tmp_path):
    epochs_csv(tmp_path, 2)
    (tmp_path / "config.yaml").write_text(f"data: {NASTY}\nurl: https://example.org/x\n", encoding="utf-8")
    file_name = "a<b> & 'c'"
    picture(tmp_path / "pictures" / f"{file_name}.jpg")
    page = report(
        tmp_path,
        title=NASTY,
        facts={NASTY: NASTY},
        numbers={f"val/{NASTY}": 0.5},
        bars={NASTY: 0.5},
        commands=[["mnvision", "eval", f"ckpt={NASTY}"]],
    )
    assert page.texts_in("h1") == [NASTY]
    assert page.texts_in("dt") == page.texts_in("dd") == [NASTY]
    assert NASTY in page.texts_in("td")
    assert NASTY in page.texts_in("span")
    assert page.find("li", title=f"{NASTY}: AP 0.5000")
    assert page.find("img", alt=file_name)
    assert f"data: {NASTY}\nurl: https://example.org/x\n" in page.texts_in("pre")
    assert page.texts_in("title")[0] == NASTY


def test_file_names_of_any_bytes_are_written(tmp_path):
    page = report(tmp_path, title="broken \udce9 name")
    assert page.texts_in("h1") == ["broken ? name"]


def test_commands_can_be_pasted_into_a_shell(tmp_path):
    commands = [["mnvision", "eval", "ckpt=/my runs/best.ckpt"], ["mnvision", "predict", "source=photos/"]]
    assert report(tmp_path, commands=commands).texts_in("pre") == [
        "mnvision eval 'ckpt=/my runs/best.ckpt'\nmnvision predict source=photos/"
    ]


def test_many_classes_are_sorted_and_stay_small(tmp_path):
    values = np.random.default_rng(0).permutation(80) / 100
    per_class = {f"class {index}": float(value) for index, value in enumerate(values)} | {"absent": -1.0}
    page = report(tmp_path, bars=per_class, ticks={name: value / 2 for name, value in per_class.items()})
    assert len(page.html) < 40_000
    shown = page.texts_in("b")
    assert shown == [f"{value / 100:.3f}" for value in range(79, -1, -1)] + ["\u2013"]
    names = [found["title"].split(":")[0] for found in page.find("li")]
    assert names[0] == f"class {int(np.argmax(values))}"
    assert names[-1] == "absent"
    widths = [float(found["style"].removeprefix("width:").removesuffix("%")) for found in page.find("s") if found]
    assert widths[0] == pytest.approx(100 * 0.79 / 0.8, abs=0.05)
    assert widths == sorted(widths, reverse=True)
    assert "a full bar is 0.8" in page.text


def test_a_remark_stands_beside_its_number(tmp_path):
    numbers = {"val/val_at_far_1e-3": 0.25, "val/val_at_far_1e-4": 0.125, "val/auc": 0.75}
    page = report(tmp_path, numbers=numbers, plan=EMBEDDING, remarks={"val_at_far_1e-3": "few <pairs>"})
    assert "at FAR 1e-3; few <pairs>" in page.texts_in("i")
    cells = page.texts_in("td")
    assert cells[cells.index("same pairs accepted at a false accept rate of 1e-3; few <pairs>") + 1] == "0.2500"
    assert cells[cells.index("likewise, at 1e-4") + 1] == "0.1250"


def test_bars_are_called_what_they_are(tmp_path):
    for plan, bars, words in (
        (EMBEDDING, {"fold 1": 0.5, "fold 2": 0.75}, "2 folds; a full bar is"),
        (ATTRIBUTES, {"hat": 0.5}, "1 attribute; a full bar is"),
        (GEOLOCATION, {"1 km": 0.5, "25 km": 0.5}, "2 distances; a full bar is"),
    ):
        assert words in report(tmp_path, bars=bars, plan=plan).text


def test_bars_stay_inside_where_nothing_was_found(tmp_path):
    page = report(tmp_path, bars={"cat": 0.0, "dog": 0.0})
    assert [found["style"] for found in page.find("s") if found] == ["width:0.0%"] * 2


def test_pictures_are_embedded_small(tmp_path):
    picture(tmp_path / "pictures" / "wide.jpg", height=300, width=1200)
    picture(tmp_path / "pictures" / "tiny.jpg", height=30, width=20)
    page = report(tmp_path)
    assert [found["alt"] for found in page.find("img")] == ["tiny", "wide"]
    sizes = []
    for found in page.find("img"):
        data = base64.b64decode(found["src"].removeprefix("data:image/jpeg;base64,"))
        sizes.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape)
        assert sizes[-1][:2] == (int(found["height"]), int(found["width"]))
    assert sizes == [(30, 20, 3), (120, 480, 3)]


def test_a_broken_picture_is_left_out_and_many_are_cut(tmp_path, caplog):
    for name in range(65):
        picture(tmp_path / "pictures" / f"{name:03}.jpg")
    (tmp_path / "pictures" / "001.jpg").write_bytes(b"no picture")
    (tmp_path / "pictures" / "002.jpg").write_bytes(b"")
    page = report(tmp_path)
    assert len(page.find("img")) == 58
    assert "first 60 pictures of 65" in page.text
    assert "001.jpg" in caplog.text
    assert "002.jpg" in caplog.text


def test_given_speed_and_memory_replace_those_of_the_training(tmp_path):
    epochs_csv(tmp_path, 3)
    page = report(tmp_path, numbers={"images_per_second": 12.34, "peak_memory_mb": 512.0, "val/loss": 3.0})
    assert page.texts_in("b") == ["12.3", "512"]
    assert "in training" not in page.text
    assert [text for text in page.texts_in("td") if "_" in text] == []  # shown once, not among the other numbers


def test_the_page_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    report(tmp_path, title="first")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mnvision.files.os.replace", fail)
    with pytest.raises(UserError, match=r"report\.html: No space left"):
        write_report(tmp_path, title="second", facts={}, numbers={}, bars={})
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "first" in (tmp_path / "report.html").read_text(encoding="utf-8")
