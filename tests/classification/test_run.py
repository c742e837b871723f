import csv
import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from small_pictures import write_pictures, write_table

from graphnn_unet import classify
from graphnn_unet.classification import learner as learning
from graphnn_unet.classification.run import PartlyClassifiedError
from graphnn_unet.errors import (
    FaultsError,
    GraphnnError,
    InputError,
    MissingFileError,
    RefusedError,
)


def rows_of(folder) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_follow_the_contract(finished):
    study, result = finished
    rows = rows_of(result.output)
    assert [row["case"] for row in rows] == sorted(study.classes)
    assert list(rows[0]) == [
        "case", "predicted", "probability", "certainty", "neighbours", "bar", "disk", "ring",
    ]  # fmt: skip
    for row in rows:
        shares = [float(row[name]) for name in ("bar", "disk", "ring")]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert 0 <= float(row["certainty"]) <= 1
        near = [neighbor.rsplit(":", 1) for neighbor in row["neighbours"].split(";")]
        assert len(near) == 5
        assert {name for name, _ in near} <= set(study.given) - {row["case"]}
        cosines = [float(value) for _, value in near]
        assert cosines == sorted(cosines, reverse=True)
        if row["case"] in study.given:
            assert row["predicted"] == study.given[row["case"]]
            assert float(row["certainty"]) == 1


def test_summary_scores_only_images_without_a_given_label(finished):
    study, result = finished
    summary = json.loads((result.output / "summary.json").read_text(encoding="utf-8"))
    score = summary["scores"]["class"]
    assert summary["n_images"] == 36
    assert summary["n_labeled"] == 12
    assert summary["kind"] == "transductive"
    assert score["n"] == 24
    predicted = {row["case"]: row["predicted"] for row in rows_of(result.output)}
    others = [case for case in study.classes if case not in study.given]
    right = sum(predicted[case] == study.classes[case] for case in others)
    assert score["accuracy"] == pytest.approx(right / 24)
    assert np.sum(score["confusion"]) == 24
    assert score["accuracy"] > 0.5  # a third by chance


def test_rounds_are_logged(finished):
    _, result = finished
    with (result.output / "rounds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["supervised"] * 6 + ["dynamic"] * 3
    assert 0 < float(rows[-1]["mean_certainty"]) <= 1
    assert int(rows[-1]["iterations"]) > 0


def test_truth_changes_no_prediction(study, quick):
    """Another truth, or none, gives the same bytes: it is read after everything is decided."""
    wrong = dict(zip(study.classes, reversed(study.classes.values()), strict=True))
    other = study.table("wrong.csv", wrong)
    written = []
    for name, truth in (("a", study.truth), ("b", other), ("c", None)):
        classify(study.images, study.labels, study.root / name, truth=truth, device="cpu", **quick)
        written.append((study.root / name / "predictions.csv").read_bytes())
    assert written[0] == written[1] == written[2]


def test_later_images_are_placed_beside_the_graph(finished, tmp_path):
    study, result = finished
    folder = study.more(9)
    truth = study.table("later.csv", study.later)
    placed = classify(
        folder, None, tmp_path / "new", model=result.output, truth=truth, device="cpu"
    )
    rows = rows_of(tmp_path / "new")
    assert len(rows) == 9
    summary = json.loads((tmp_path / "new" / "summary.json").read_text(encoding="utf-8"))
    assert summary["kind"] == "inductive"
    assert summary["diffusion"] == {"far_from_graph": 0}
    assert placed.scores["class"].n == 9
    near = {neighbor.rsplit(":", 1)[0] for row in rows for neighbor in row["neighbours"].split(";")}
    assert near <= set(study.given)
    assert not (tmp_path / "new" / "model.pth").exists()


def test_model_gives_stored_images_their_neighborhood(finished, tmp_path):
    study, result = finished
    again = classify(study.images, None, tmp_path / "again", model=result.output, device="cpu")
    torch.testing.assert_close(again.feature, result.feature, atol=1e-5, rtol=1e-4)


def test_images_that_the_model_was_trained_on_are_no_test_of_it(finished, tmp_path, caplog):
    """They count neither under their own names nor under others."""
    study, result = finished
    folder = tmp_path / "images"
    later = write_pictures(folder, 9, first=100)
    classes = {**later}
    for case in ("case_000", "case_020"):  # a label was given for the first of them
        for name in (case, f"copy_of_{case}"):
            shutil.copy(study.images / f"{case}.png", folder / f"{name}.png")
            classes[name] = study.classes[case]
    truth = write_table(tmp_path / "truth.csv", classes)
    out = tmp_path / "out"
    placed = classify(folder, None, out, model=result.output, truth=truth, device="cpu")
    assert placed.scores["class"].n == 9
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["in_graph"] == [
        "case_000", "case_020", "copy_of_case_000", "copy_of_case_020",
    ]  # fmt: skip
    assert summary["evaluated_on"] == "images that are not in the graph of the model"
    assert "4 of 13 images are in the graph of the model and do not count\n" in caplog.text
    assert len(rows_of(out)) == 13


def test_model_takes_no_settings_and_not_its_own_folder(finished, tmp_path):
    study, result = finished
    with pytest.raises(InputError, match="used as it was trained"):
        classify(study.images, None, tmp_path / "x", model=result.output, device="cpu", alpha=0.5)
    with pytest.raises(RefusedError):
        classify(study.images, None, result.output, model=result.output, device="cpu")
    with pytest.raises(InputError, match="labels and a model"):
        classify(study.images, study.labels, tmp_path / "y", model=result.output)


def test_interrupted_run_goes_on_to_the_same_bytes(study, quick, monkeypatch):
    classify(study.images, study.labels, study.root / "whole", device="cpu", **quick)
    judge, seen = learning.Learner._judge, []

    def stop(self, record):
        judge(self, record)
        seen.append(record)
        if len(seen) == 8:  # in the second round
            raise KeyboardInterrupt

    monkeypatch.setattr(learning.Learner, "_judge", stop)
    with pytest.raises(KeyboardInterrupt, match="--c"):
        classify(study.images, study.labels, study.root / "cut", device="cpu", **quick)
    monkeypatch.undo()
    classify(study.images, study.labels, study.root / "cut", device="cpu", resume=True, **quick)
    for name in ("predictions.csv", "rounds.csv", "summary.json"):
        whole, cut = (study.root / folder / name for folder in ("whole", "cut"))
        assert whole.read_bytes() == cut.read_bytes(), name


def test_going_on_with_other_settings_is_refused(study, quick):
    out = study.root / "out"
    classify(study.images, study.labels, out, device="cpu", **quick)
    with pytest.raises(RefusedError, match="not those it began with"):
        classify(study.images, study.labels, out, device="cpu", resume=True, **{**quick, "seed": 1})
    with pytest.raises(MissingFileError, match="nothing to continue"):
        classify(study.images, study.labels, study.root / "new", resume=True, **quick)


def test_results_are_replaced_only_on_demand(study, quick):
    out = study.root / "out"
    quick |= {"mode": "one-pass", "max_epochs": 1}
    classify(study.images, study.labels, out, device="cpu", **quick)
    with pytest.raises(RefusedError, match="has results already"):
        classify(study.images, study.labels, out, device="cpu", **quick)
    classify(study.images, study.labels, out, device="cpu", overwrite=True, **quick)


def test_a_refused_call_deletes_nothing(study, quick):
    """``--overwrite`` with a wrong input leaves the trained model where it is."""
    out = study.root / "out"
    quick |= {"mode": "one-pass", "max_epochs": 1}
    classify(study.images, study.labels, out, device="cpu", **quick)
    before = {path.name: path.read_bytes() for path in out.glob("[a-z]*")}
    broken = study.root / "broken.py"
    broken.write_text("class Other: pass")
    typo, ghost = study.root / "typo.csv", study.table("ghost.csv", {"ghost": "bar"})
    for kind, arguments, options in (
        (RefusedError, (study.images, None, out), {"model": out}),
        (InputError, (study.images, None, out), {"model": study.root / "none", "alpha": 0.5}),
        (MissingFileError, (study.images, None, out), {"model": study.root / "none"}),
        (MissingFileError, (study.images, typo, out), quick),
        (FaultsError, (study.images, ghost, out), quick),
        (MissingFileError, (study.root / "none", study.labels, out), quick),
        (InputError, (study.images, study.labels, out), {**quick, "alpha": 1.5}),
        (InputError, (study.images, study.labels, out), {**quick, "encoder": f"{broken}:Mine"}),
    ):
        with pytest.raises(kind):
            classify(*arguments, device="cpu", overwrite=True, **options)
        assert {path.name: path.read_bytes() for path in out.glob("[a-z]*")} == before


def test_an_interruption_before_anything_is_deleted_promises_no_checkpoint(
    study, quick, monkeypatch
):
    out = study.root / "out"
    quick |= {"mode": "one-pass", "max_epochs": 1}
    classify(study.images, study.labels, out, device="cpu", **quick)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(learning.Learner, "__init__", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        classify(study.images, study.labels, out, device="cpu", overwrite=True, **quick)
    assert "--c" not in str(caught.value)
    assert (out / "model.pth").is_file()


def test_damaged_image_is_reported_and_the_others_are_done(study, quick):
    (study.images / "case_030.png").write_bytes(b"\x89PNG nonsense")
    cut = study.images / "case_031.png"
    cut.write_bytes(cut.read_bytes()[:120])
    quick |= {"mode": "one-pass", "max_epochs": 1}
    with pytest.raises(PartlyClassifiedError) as caught:
        classify(study.images, study.labels, study.root / "out", device="cpu", **quick)
    assert caught.value.exit_status == 3
    assert [line.split(":")[0] for line in caught.value.lines] == ["case_030", "case_031"]
    assert len(rows_of(study.root / "out")) == 34
    failures = (study.root / "out" / "failures.csv").read_text(encoding="utf-8")
    assert failures.startswith("case,stage,cause,remedy\ncase_030,read,")


def test_classes_with_too_few_labels_are_refused_with_the_list(study):
    few = {**study.given, "case_002": "cross", "case_005": "star"}
    with pytest.raises(FaultsError) as caught:
        classify(study.images, study.table("few.csv", few), study.root / "out", device="cpu")
    assert len(caught.value.lines) == 2
    assert "class cross has 1 labeled case" in caught.value.lines[0]
    assert "class star has 1 labeled case" in caught.value.lines[1]
    assert not (study.root / "out" / "predictions.csv").exists()


def test_labels_without_images_are_listed_together(study):
    extra = study.table("extra.csv", {**study.given, "ghost": "bar", "phantom": "disk"})
    with pytest.raises(FaultsError) as caught:
        classify(study.images, extra, study.root / "out", device="cpu")
    assert [line.split(":")[0] for line in caught.value.lines] == ["ghost", "phantom"]


def test_class_of_the_truth_without_labels_is_wrong_and_skipped(study, quick, caplog):
    quick |= {"mode": "one-pass", "max_epochs": 1}
    truth = study.table("strange.csv", {**study.classes, "case_020": "cross", "case_021": "cross"})
    result = classify(
        study.images, study.labels, study.root / "out", truth=truth, device="cpu", **quick
    )
    assert result.scores["class"].n_unknown == 2
    assert "cross has no labeled image" in caplog.text


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        (None, "", "is missing"),
        ({"case_020": "bar"}, "case,label", "lacks the column class"),
        ({"Case_020": "bar", "case_000": "bar"}, "case,class", "has no case to evaluate"),
    ],
)
def test_a_wrong_truth_is_told_before_the_training(study, quick, monkeypatch, rows, head, message):
    truth = study.root / "wrong.csv" if rows is None else study.table("wrong.csv", rows, head)
    monkeypatch.setattr(learning.Learner, "fit", lambda _: pytest.fail("it trained"))
    with pytest.raises(GraphnnError, match=message):
        classify(study.images, study.labels, study.root / "out", truth=truth, **quick)


def test_predictions_are_written_before_the_truth_is_read(study, quick, monkeypatch):
    """A truth that goes wrong while the network trains costs the figures alone."""
    fit, out = learning.Learner.fit, study.root / "out"
    quick |= {"mode": "one-pass", "max_epochs": 1}

    def spoil(self):
        fit(self)
        study.truth.write_text("case,class\ncase_000,bar\n")

    monkeypatch.setattr(learning.Learner, "fit", spoil)
    with pytest.raises(InputError, match="has no case to evaluate"):
        classify(study.images, study.labels, out, truth=study.truth, device="cpu", **quick)
    assert len(rows_of(out)) == 36
    assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["scores"] == {}


def test_summary_lists_the_cases_of_the_truth_that_do_not_count(study, quick):
    (study.images / "case_030.png").write_bytes(b"nothing")
    truth = study.table("more.csv", {**study.classes, "ghost": "bar"})
    quick |= {"mode": "one-pass", "max_epochs": 1}
    with pytest.raises(PartlyClassifiedError) as caught:
        classify(study.images, study.labels, study.root / "out", truth=truth, **quick)
    assert caught.value.result.scores["class"].n == 23
    summary = json.loads((study.root / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["truth_without_image"] == ["ghost"]
    assert summary["truth_not_read"] == ["case_030"]
    assert summary["evaluated_on"] == "images whose class was not given"


def test_several_findings_with_empty_cells(study, quick):
    few = {
        case: f"{'yes' if kind == 'ring' else 'no'},{'' if number % 4 == 3 else number % 2}"
        for number, (case, kind) in enumerate(study.given.items())
    }
    table = study.table("findings.csv", few, "case,round,odd")
    quick |= {"rounds": 1}
    result = classify(study.images, table, study.root / "out", device="cpu", **quick)
    rows = rows_of(study.root / "out")
    assert list(rows[0])[5:] == ["round=no", "round=yes", "odd=0", "odd=1"]
    assert rows[0]["predicted"].split(";")[0] in ("round=no", "round=yes")
    assert len(rows[0]["certainty"].split(";")) == 2
    assert result.predictions.given.shape == (36, 2)
    probability = result.predictions.probability
    torch.testing.assert_close(probability[:, :2].sum(1), torch.ones(36).double())
    torch.testing.assert_close(probability[:, 2:].sum(1), torch.ones(36).double())


def test_p_1_runs_both_passes(study, quick):
    quick |= {"p": 1, "rounds": 1}
    result = classify(
        study.images, study.labels, study.root / "out", truth=study.truth, device="cpu", **quick
    )
    summary = json.loads((study.root / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["diffusion"]["cuts"][0]["method"] in ("tv", "ratio")
    assert result.scores["class"].accuracy > 1 / 3


def test_volumes_of_any_size_and_spacing(tmp_path, quick):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = ["case,class"]
    for number in range(12):
        shape = rng.integers(10, 24, 3)
        array = rng.normal(0, 1, shape) + (number % 2) * 3 * (np.arange(shape[2]) > shape[2] / 2)
        image = sitk.GetImageFromArray(array.astype(np.float32))
        image.SetSpacing((1.0, 1.0, 3.0))
        sitk.WriteImage(image, str(tmp_path / "images" / f"v{number:02d}.nii.gz"))
        if number < 6:
            lines.append(f"v{number:02d},{'ab'[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    quick |= {"image_size": 16, "rounds": 1}
    result = classify(
        tmp_path / "images", tmp_path / "labels.csv", tmp_path / "out", device="cpu", **quick
    )
    assert len(result.predictions.cases) == 12
    later = classify(
        tmp_path / "images", None, tmp_path / "later", model=tmp_path / "out", device="cpu"
    )
    assert later.predictions.cases == result.predictions.cases


def test_colored_pictures_of_several_sizes_give_three_channels(study, quick):
    for number in range(5):
        path = study.images / f"case_{number:03d}.png"
        Image.open(path).convert("RGB").resize((40, 31)).save(path)
    quick |= {"mode": "one-pass", "max_epochs": 1}
    result = classify(study.images, study.labels, study.root / "out", device="cpu", **quick)
    weights = torch.load(study.root / "out" / "model.pth", weights_only=True)["network_weights"]
    assert weights["encoder.maps.0.weight"].shape[1] == 3
    assert len(result.predictions.cases) == 36
