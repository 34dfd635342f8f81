"""The page of a classifier's run: its own numbers, curves, bars and sheets, and nothing of a detector's."""

from __future__ import annotations

import base64
import re

import cv2
import numpy as np

from mnvision.report import write_report
from mnvision.report_plans import CLASSIFICATION
from tests.test_report import Page, picture

NUMBERS = {"top1": 0.75, "top5": 0.9375, "top1_per_class": 0.5, "ece": 0.0625, "nll": 1.25, "loss": 1.5}


def report(folder, **given):
    values = {"title": "A run", "facts": {}, "numbers": {}, "bars": {}} | given
    return Page(write_report(folder, **values, plan=CLASSIFICATION).read_text(encoding="utf-8"))


def test_the_numbers_of_a_classifier_fill_the_page(tmp_path):
    numbers = {f"val/{name}": value for name, value in NUMBERS.items()} | {"val/top1/cat": 1.0, "val/top1/dog": 0.5}
    page = report(tmp_path, numbers=numbers, bars={"cat": 1.0, "dog": 0.5}, ticks={"cat": 0.25, "dog": 1.0})
    assert page.texts_in("b")[:3] == ["0.750", "0.938", "0.062"]
    assert page.texts_in("h2") == ["Numbers", "Accuracy by class"]
    assert {"0.7500", "0.9375", "0.5000", "0.0625", "1.2500"} <= set(page.texts_in("td"))
    assert page.texts_in("p")[0] == "loss 1.5000"  # what has bars is not told again
    assert page.find("li", title="cat: top-1 1.0000, precision 0.2500")
    assert not re.search(r"\bAP|IoU|Average|boxes", page.text)


def test_its_curves(tmp_path):
    rows = [f"{epoch},{epoch},{4 - epoch},{3 - epoch},{epoch / 4},{epoch / 2}" for epoch in range(3)]
    (tmp_path / "metrics.csv").write_text("\n".join(["epoch,step,train/loss,val/loss,val/top1,val/top5", *rows]) + "\n")
    page = report(tmp_path)
    assert len(page.find("svg")) == 2
    assert "best top-1 0.5000 in epoch 3" in page.text
    assert page.texts_in("th") == ["epoch", "train loss", "val loss", "top-1", "top-5"]
    assert "1.0000" in page.texts_in("td")


def test_sheets_are_shown_where_there_are_any(tmp_path, caplog):
    picture(tmp_path / "pictures" / "a.jpg")
    picture(tmp_path / "mistakes.jpg", height=600, width=3000)
    (tmp_path / "confusion.png").write_bytes(cv2.imencode(".png", np.zeros((900, 1400, 3), np.uint8))[1].tobytes())
    (tmp_path / "calibration.png").write_bytes(b"broken")
    page = report(tmp_path)
    assert page.texts_in("h2") == ["Pictures", "Worst mistakes", "Confusions"]
    assert "green is right" in page.text
    assert "Rows are the true classes" in page.text
    assert "calibration.png" in caplog.text
    _, mistakes, confusion = page.find("img")
    assert confusion["src"].startswith("data:image/png;base64,")
    sizes = [
        cv2.imdecode(np.frombuffer(base64.b64decode(found["src"].split(",")[1]), np.uint8), 1).shape[:2]
        for found in (mistakes, confusion)
    ]
    assert sizes == [(400, 2000), (900, 1400)]
