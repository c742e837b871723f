"""What each kind of report says, and that no name in it is more than a name."""

import json
import os
import re
import shutil
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from report.small_folders import (
    DATASET,
    EVIL,
    EVIL_CLASS,
    description,
    model_folder,
    predictions_folder,
    raw_folder,
    scan,
    score_rows,
    write_rows,
)
from tiny_study import use_home, write_image

from graphnn_unet.errors import InputError, MissingFileError, RefusedError
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.report.make import make_report
from graphnn_unet.report.shown_cases import files_by_case
from graphnn_unet.storage.checkpoints import save_checkpoint
from graphnn_unet.trainers.confidence_table import Confidence, write_confidences

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
        "In 2 steps the loss or its gradients were not finite",
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


def test_scans_that_a_network_does_not_believe_in_are_named(home, tmp_path):
    fold = model_folder(home / "results", DICE) / "fold_0"
    for phase, used in (("round_2", True), ("round_10", False)):  # the last one counts
        known = {"sure": Confidence(0.9, True), "=odd": Confidence(0.31, used),
                 "less": Confidence(0.7, True), "bad": Confidence(0.2, used)}  # fmt: skip
        (fold / "scan_labels" / phase).mkdir(parents=True)
        write_confidences(fold / "scan_labels" / phase, known)
    text = plain_text(page(fold, tmp_path, cases=0))
    assert ("2 of 4 unlabeled cases were left out of the last round: the network expects a Dice of "
            "0.20 to 0.31 of its label maps, 0.51 being the median.") in text  # fmt: skip
    assert "unlike the labeled ones: bad, =odd." in text


def test_a_finished_fold_is_not_called_unfinished(home, tmp_path):
    fold = model_folder(home / "results", DICE) / "fold_0"
    (fold / "checkpoint_final.pth").touch()
    text = plain_text(page(fold, tmp_path, cases=0))
    assert "not finished" not in text
    assert "No pictures" not in text, "none were asked for"


def stopped(home, *, fold="all", trainer="SupervisedTrainer", step=9):
    """A training of which nothing but a checkpoint and a log are there."""
    folder = model_folder(home / "results", DICE) / "fold_0"
    model = folder.parent.rename(folder.parent.with_name(f"{trainer}__gnnunetPlans__2d"))
    folder = (model / "fold_0").rename(model / f"fold_{fold}")
    shutil.rmtree(folder / "validation")
    (folder / "metrics.csv").unlink()
    facts = json.loads((folder / "environment.json").read_text())
    facts |= {"held_out": [], "command": [*facts["command"][:3], trainer, fold, "--restart"],
              "uses_unlabeled": trainer != "SupervisedTrainer"}  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(facts))
    (folder / "training_log_2026_01_01_10_00_00.txt").write_text(
        f"2026-01-01 10:00:00: {trainer}  Dataset805_Small  2d  fold {fold}: 2 labeled, "
        "none held out: no estimate of quality\n"
    )
    content = {"network_weights": {}, "gnnunet": {"step": step}}
    save_checkpoint(folder / "checkpoint_latest.pth", content)
    return folder


def test_a_training_that_was_stopped_early(home, tmp_path):
    folder = stopped(home)
    text = plain_text(page(folder, tmp_path))
    for words in (
        "SupervisedTrainer (2d) was trained on 2 labeled cases of",
        "No case was scored: the training is not finished.",
        "The training is not finished, it is at step 9: gnnunet_train ... --c goes on.",
        "gnnunet_train Dataset805_Small 3d_fullres SupervisedTrainer all --c",
    ):
        assert words in text, words
    assert "gnnunet_predict" not in text, "it refuses a model that is not finished"
    assert "--restart" not in text
    (folder / "checkpoint_latest.pth").write_bytes(b"cut off")
    assert "it is at step 0:" in plain_text(page(folder, tmp_path))


def test_fold_all_holds_nothing_out(home, tmp_path):
    folder = stopped(home, trainer="BCPTrainer")
    (folder / "checkpoint_latest.pth").rename(folder / "checkpoint_final.pth")
    text = plain_text(page(folder, tmp_path))
    assert "was trained on 2 labeled and 1 unlabeled cases of" in text
    assert "No case was scored, and fold all holds none out: train fold 0 to 4 or cv" in text
    assert "--val" not in text
    assert f"gnnunet_predict -i IMAGES -o PREDICTIONS -m {folder.parent}" in text
    (folder.rename(folder.with_name("fold_1")))
    assert "--val scores those that it held out" in plain_text(page(folder.parent, tmp_path))


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
    write_image(predictions / "good.nii.gz", np.zeros_like(scan(0)[1]), (2.0, 1.0, 1.0))
    text = plain_text(page(predictions, tmp_path))
    assert "They are not scored" in text
    assert "Nothing at all was found in 1 case: good." in text
    assert "organ ml" in text
    assert raw.is_dir()


def unscored(folder, *dropped):
    predictions = predictions_folder(folder, DICE)
    for name in ("metrics.csv", *dropped):
        (predictions / name).unlink()
    return predictions


def write_volumes(folder, volumes, age_s=0):
    rows = [{"case": case, "class": "organ", "voxels": 1, "ml": ml} for case, ml in volumes.items()]
    write_rows(folder / "volumes.csv", rows)
    moment = (folder / "volumes.csv").stat().st_mtime - age_s
    os.utime(folder / "volumes.csv", (moment, moment))


def test_volumes_that_are_written_are_not_measured_again(home, tmp_path, monkeypatch):
    predictions = unscored(tmp_path / "p")
    write_volumes(predictions, dict.fromkeys(DICE, 7.25) | {"bad": 0})
    monkeypatch.setattr("graphnn_unet.report.predictions_page.user_labels", None)
    text = plain_text(page(predictions, tmp_path, cases=0))
    assert text.count("7.25") == 4
    assert "Nothing at all was found in 1 case: bad." in text


@pytest.mark.parametrize("change", ["other cases", "fewer cases", "older", "no numbers"])
def test_volumes_of_other_maps_are_measured(home, tmp_path, change):
    predictions = unscored(tmp_path / "p")
    volumes = dict.fromkeys(DICE, 7.25)
    if change == "other cases":
        volumes["another"] = 7.25
    elif change == "fewer cases":
        del volumes["bad"]
    elif change == "no numbers":
        volumes["bad"] = "many"
    write_volumes(predictions, volumes, age_s=60 * (change == "older"))
    text = plain_text(page(predictions, tmp_path, cases=0))
    assert "7.25" not in text
    assert "organ ml" in text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda image: image, "voxels are no integers, the first is"),
        (lambda image: np.rint(image) - 200, "a_0000.nii.gz holds -"),
        (lambda image: np.rint(image), "a_0000.nii.gz has [0-9]+ different values"),
    ],
)
def test_images_are_not_taken_for_label_maps(home, tmp_path, change, why):
    for number, case in enumerate("abc"):
        image = change(scan(number)[0])
        write_image(tmp_path / "scans" / f"{case}_0000.nii.gz", image, (2.0, 1.0, 1.0))
    with pytest.raises(InputError, match=f"scans holds images, not label maps: .*{why}"):
        make_report(tmp_path / "scans", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_an_atlas_of_many_areas_is_no_image(home, tmp_path):
    blocks = np.arange(5 * 5 * 5, dtype=np.uint8).reshape(5, 5, 5)
    atlas = blocks.repeat(3, 0).repeat(3, 1).repeat(3, 2)
    write_image(tmp_path / "p" / "a.nii.gz", atlas, (1.0, 1.0, 1.0))
    assert "label 124 ml" in page(tmp_path / "p", tmp_path, cases=0)


def test_the_commands_make_the_same_page(home, tmp_path):
    raw = raw_folder(tmp_path / "else where", PLAIN)
    predictions = unscored(tmp_path / "p")
    folders = {"images": raw / "imagesTr", "labels": raw / "labelsTr"}
    html = unescape(page(predictions, tmp_path, cases=1, **folders))
    images, labels = (f"'{folder}'" for folder in folders.values())
    assert (
        f"gnnunet_report {predictions} --images {images} --labels {labels} --cases 1 -o report.html"
    ) in html
    html = page(predictions, tmp_path, megabytes=5.5)
    assert f"gnnunet_report {predictions} --megabytes 5.5 -o report.html" in html
    assert html.count("<h2>Cases</h2>") == 1
    assert "<h2>Pictures</h2>" in html


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


def test_a_class_that_one_of_five_cases_lacks_is_told(home, tmp_path):
    ball = scan(0)[1].astype(np.uint8)
    both = np.concatenate([ball[:6], 2 * ball[6:]])
    folder = raw_folder(
        home / "raw", {f"c{n}": {"label": ball if n == 3 else both} for n in range(5)}
    )
    names = {"organ": 1, "tumor": 2}
    (folder / "dataset.json").write_text(json.dumps(description(names, 5)))
    text = plain_text(page(folder, tmp_path))
    assert "A class that nearly all cases have is missing in 1 case: c3." in text
    assert "tumor is missing, nearly all others have it" in text


@pytest.mark.parametrize(("names", "is_told"), [(("label_1", "label_255"), True), ("ab", False)])
def test_a_class_without_a_name_in_one_case_is_asked_about(home, tmp_path, names, is_told):
    ball = scan(0)[1].astype(np.uint8)
    cases = {f"c{n}": {"label": 2 * ball if n == 3 else ball} for n in range(5)}
    folder = raw_folder(home / "raw", cases)
    content = description(dict(zip(names, (1, 2), strict=True)), 5)
    content["original_labels"] = {"background": 0, **dict(zip(names, (1, 255), strict=True))}
    (folder / "dataset.json").write_text(json.dumps(content))
    text = plain_text(page(folder, tmp_path))
    assert ("label 255 occurs in 1 of 5 label maps only (c3)" in text) == is_told


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


def test_scores_of_other_label_maps_are_not_shown(home, tmp_path):
    raw = raw_folder(home / "raw", PLAIN)
    out = predictions_folder(tmp_path / "out", DICE)
    evaluate(out, raw / "labelsTr", n_workers=0, overwrite=True)
    assert "Mean Dice" in plain_text(page(out, tmp_path))
    write_image(out / "poor.nii.gz", scan(9)[1], (2.0, 1.0, 1.0))
    text = plain_text(page(out, tmp_path))
    assert "of other label maps than those of 1 case that are there now (poor.nii.gz)" in text
    assert "Mean Dice" not in text
    evaluate(out, raw / "labelsTr", n_workers=0, overwrite=True)
    assert "of other label maps" not in plain_text(page(out, tmp_path))


def test_averaged_models_are_named(home, tmp_path):
    out = predictions_folder(tmp_path / "out", DICE)
    facts = {"schema_version": 1, "dataset": DATASET, "model": "A__p__c, B__p__c", "cases": {}}
    (out / "prediction.json").write_text(json.dumps(facts), encoding="utf-8")
    text = plain_text(page(out, tmp_path))
    assert "5 cases were predicted by the average of A__p__c, B__p__c." in text


def test_cases_are_found_under_the_names_that_users_gave(home, tmp_path):
    raw = raw_folder(home / "raw", {"case_07": {}, "scan_0002": {}})
    out = tmp_path / "out"
    dice = {"case 07": 0.5, "scan_0002": 0.9}
    predictions_folder(out, dice)
    write_rows(out / "metrics.csv", score_rows({"case_07": 0.5, "scan_0002": 0.9}))
    html = page(out, tmp_path)
    shown = json.loads(re.search(r"id='viewer-data'>(.*?)</script>", html)[1])["cases"]
    assert {case["name"] for case in shown} == {"worst: case 07", "best: scan_0002"}
    assert all({"label", "prediction"} <= case["items"].keys() for case in shown)
    named = tmp_path / "named"  # files of one channel may have names that end in four digits
    named.mkdir()
    for case, stem in (("case_07", "case_07_0001"), ("scan_0002", "scan_0002")):
        shutil.copy(raw / "imagesTr" / f"{case}_0000.nii.gz", named / f"{stem}.nii.gz")
    assert set(files_by_case(named, channels=True)) >= {"case_07_0001", "scan_0002"}


def test_names_are_no_formulas(home, tmp_path):
    case = "a$x_{$"
    raw_folder(home / "raw", {case: {}}, class_name="or$gan_{$")
    out = predictions_folder(tmp_path / "out", {case: 0.5}, class_name="or$gan_{$")
    assert "<img" in page(out, tmp_path)
