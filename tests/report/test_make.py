"""What each kind of report says, and that no name in it is more than a name."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from report.small_folders import (
    EVIL,
    EVIL_CLASS,
    description,
    model_folder,
    predictions_folder,
    raw_folder,
    scan,
)
from tiny_study import use_home

from graphnn_unet.errors import InputError, MissingFileError, RefusedError
from graphnn_unet.report.make import make_report

DICE = {"good": 0.95, "middle": 0.8, "poor": 0.3, "fair": 0.7, "bad": 0.5}
PLAIN = {case: {} for case in DICE}


@pytest.fixture
def home(tmp_path, monkeypatch):
    return use_home(tmp_path / "home", monkeypatch)


class Tags(HTMLParser):
    """Tags and handlers of a page as a browser sees them."""

    def __init__(self, text: str):
        super().__init__()
        self.names: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def page(source, target, **options) -> str:
    return make_report(source, target / "report.html", **options).read_text(encoding="utf-8")


def plain_text(html: str) -> str:
    visible = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", visible))


def test_a_training_says_what_learned_from_what(home, tmp_path):
    raw_folder(home / "raw", PLAIN)
    model = model_folder(home / "results", DICE)
    html = page(model, tmp_path)
    text = plain_text(html)
    for words in (
        "was trained on 7 labeled and 1 unlabeled cases of Dataset805_Small, fold 0",
        "draw 1 of the labeled cases, seed 3, on cpu, and took 30 min",
        "Mean Dice 0.650 over 5 cases that were held out: an estimate",
        "The training is not finished, it is at step 90",
        "In 2 steps the loss was not finite",
        "Pseudo-labels are almost empty at the end (0.01 % foreground)",
        "The log says: warning: &lt;b&gt;one image&lt;/b&gt; is strange",
        "Worst, median and best case",
        "gnnunet_train Dataset805_Small 3d_fullres BCPTrainer 0",
        "labeled = 2 # &lt;images&gt;",
    ):
        assert words in text, words
    assert html.count("<img") == 2, "cases and curves"
    shown = json.loads(re.search(r"id='viewer-data'>(.*?)</script>", html)[1])["cases"]
    assert [case["name"] for case in shown] == ["worst: poor", "median: fair", "best: good"]


def test_a_finished_fold_is_not_called_unfinished(home, tmp_path):
    fold = model_folder(home / "results", DICE) / "fold_0"
    (fold / "checkpoint_final.pth").touch()
    text = plain_text(page(fold, tmp_path, cases=0))
    assert "not finished" not in text
    assert "No pictures" not in text, "none were asked for"


def test_missing_scans_are_told_and_scores_stay(home, tmp_path):
    model = model_folder(home / "results", DICE)
    text = plain_text(page(model, tmp_path))
    assert "No pictures: the images of these cases are not in" in text
    assert "0.650" in text


def test_predictions_with_scores_from_given_folders(home, tmp_path):
    raw = raw_folder(tmp_path / "elsewhere", PLAIN)
    predictions = predictions_folder(tmp_path / "p", DICE)
    html = page(predictions, tmp_path, images=raw / "imagesTr", labels=raw / "labelsTr", cases=5)
    text = plain_text(html)
    assert "5 cases were predicted by BCPTrainer (3d_fullres). Fold all, without mirrored" in text
    assert "No uncertainty was saved" in text
    assert html.count("-difference'>") == 5


def test_predictions_without_scores_tell_volumes(home, tmp_path):
    raw = raw_folder(home / "raw", PLAIN)
    predictions = predictions_folder(tmp_path / "p", DICE)
    (predictions / "metrics.csv").unlink()
    from tiny_study import write_image

    write_image(predictions / "good.nii.gz", np.zeros_like(scan(0)[1]), (2.0, 1.0, 1.0))
    text = plain_text(page(predictions, tmp_path))
    assert "They are not scored" in text
    assert "Nothing at all was found in 1 case: good." in text
    assert "organ ml" in text
    assert raw.is_dir()


def test_a_data_set_tells_what_stands_out(home, tmp_path):
    ball = scan(0)[1]
    cases = {f"c{n}": {} for n in range(7)} | {
        "huge": {"label": np.ones_like(ball)},
        "empty": {"label": np.zeros_like(ball)},
        "flipped": {"flip": (2,)},
    }
    raw_folder(home / "raw", cases)
    html = page("Small", tmp_path)
    text = plain_text(html)
    for words in (
        "Dataset805_Small has 10 cases: 10 labeled.",
        "A label is 10 or more times the median of its class in 1 case: huge.",
        "The label map is empty in 1 case: empty.",
        "looks mirrored in 1 case: flipped.",
        f"organ is {ball.size / ball.sum():.3g} times its median size",
        "the image looks mirrored left to right",
        "12 × 14 × 16",
        "2 × 1 × 1",
    ):
        assert words in text, words
    assert html.count("class='marked'") == 3
    shown = json.loads(re.search(r"id='viewer-data'>(.*?)</script>", html)[1])["cases"]
    assert [case["name"][:3] for case in shown] == ["odd", "odd", "usu"]


def test_copies_and_faults_of_the_check_are_told(home, tmp_path):
    folder = raw_folder(home / "raw", {"a": {"seed": 1}, "b": {"seed": 1}, "c": {}})
    text = plain_text(page(folder, tmp_path))
    assert "b: its images equal those of a (imagesTr)" in text
    (folder / "labelsTr" / "c.nii.gz").write_bytes(b"")
    text = plain_text(page(folder, tmp_path))
    assert "c: " in text.split("Cases")[0]
    assert "is empty (0 bytes)" in text


@pytest.mark.parametrize("kind", ["data", "run", "predictions"])
def test_names_are_no_markup(home, tmp_path, kind):
    dice = dict(zip(EVIL, (0.2, 0.5, 0.9), strict=True))
    raw = raw_folder(home / "raw", {case: {} for case in EVIL}, EVIL_CLASS)
    source = raw
    if kind == "run":
        source = model_folder(home / "results", dice, EVIL_CLASS)
    if kind == "predictions":
        source = predictions_folder(tmp_path / "p", dice, EVIL_CLASS)
    html = page(source, tmp_path)
    tags = Tags(html)
    scripts = re.findall(r"<script[^>]*>", html)
    assert [tag for tag in scripts if "type='application/" not in tag] == ["<script>"]
    assert tags.handlers == []
    assert not {"iframe", "object", "embed", "base", "form"} & set(tags.names)
    for number in "123":
        assert f"alert({number})" in html, "the names are there"
        assert f"<script>alert({number})" not in html
    assert "<img src=x" not in html


def test_the_page_keeps_its_limit(home, tmp_path):
    raw_folder(home / "raw", PLAIN)
    model = model_folder(home / "results", DICE)
    whole = len(page(model, tmp_path, cases=1).encode())
    assert whole < 2e6
    sizes = []
    for n_bytes in (100_000, whole - 10_000):
        html = page(model, tmp_path, megabytes=n_bytes / 1e6, cases=1)
        sizes.append(len(html.encode()))
        assert sizes[-1] <= n_bytes
        assert "thinned" in html or "give more --megabytes" in html
    assert sizes[0] < sizes[1] < whole


def test_what_is_no_source_is_refused(home, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="nothing that a report can be about"):
        make_report(empty, tmp_path / "r.html")
    with pytest.raises(MissingFileError, match="not found"):
        make_report("Nothing", tmp_path / "r.html")
    with pytest.raises(MissingFileError, match="is missing"):
        make_report(tmp_path / "a" / "b", tmp_path / "r.html")
    with pytest.raises(MissingFileError, match="is missing"):
        make_report(empty, tmp_path / "r.html", images=tmp_path / "no")
    raw = raw_folder(home / "raw", PLAIN)
    with pytest.raises(InputError, match="is no comparison"):
        make_report(raw, tmp_path / "r.html", against="x")
    assert not (tmp_path / "r.html").exists()


def test_only_a_report_is_replaced(home, tmp_path):
    raw = raw_folder(home / "raw", {"a": {}})
    target = tmp_path / "notes.html"
    target.write_text("my notes")
    with pytest.raises(RefusedError, match="is no report"):
        make_report(raw, target, cases=0)
    assert target.read_text(encoding="utf-8") == "my notes"
    with pytest.raises(InputError, match="is a folder"):
        make_report(raw, tmp_path, cases=0)
    make_report(raw, tmp_path / "r.html", cases=0)
    make_report(raw, tmp_path / "r.html", cases=0)


def test_a_folder_without_a_description_of_classes(home, tmp_path):
    raw = raw_folder(tmp_path / "elsewhere", PLAIN)
    predictions = predictions_folder(tmp_path / "p", DICE)
    for name in ("dataset.json", "metrics.csv", "prediction.json"):
        (predictions / name).unlink()
    html = page(predictions, tmp_path, images=raw / "imagesTr")
    assert "label 1 ml" in html
    assert description({}, 1)["labels"] == {"background": 0}
