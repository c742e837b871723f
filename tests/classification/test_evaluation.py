import pytest
import torch
from decided import KIND, SIZE, predictions

from graphnn_unet.classification.evaluation import (
    GroundTruth,
    check_truth,
    evaluate_predictions,
    of_new_images,
)
from graphnn_unet.classification.images import ImageSet
from graphnn_unet.errors import Fault, FaultsError, InputError, MissingFileError

IMAGES = ImageSet(("p", "q", "r"), torch.zeros(3, 1, 4, 4), (Fault("bad", "read", "", ""),))
GIVEN = torch.tensor([[-1], [-1], [1]])


def test_images_with_a_given_label_are_not_evaluated(tmp_path):
    truth = tmp_path / "truth.csv"
    truth.write_text("case,kind\np,b\nq,b\nr,a\n")
    (score,) = evaluate_predictions(predictions(), truth).values()
    assert (score.n, score.accuracy) == (2, 0.5)
    assert evaluate_predictions(predictions(), None) == {}
    truth.write_text("case,kind\nr,a\n")
    with pytest.raises(InputError, match="has no case to evaluate"):
        evaluate_predictions(predictions(), truth)


def test_patients_of_both_tables_widen_the_interval(tmp_path):
    truth = tmp_path / "truth.csv"
    truth.write_text("case,kind\np,b\nq,a\n")
    alone, together = (
        evaluate_predictions(predictions(), truth, patients)["kind"]
        for patients in (None, {"p": "P1", "q": "P1"})
    )
    assert (alone.accuracy, together.accuracy) == (1, 1)
    assert together.n_patients == 1
    assert together.accuracy_interval[0] < alone.accuracy_interval[0]
    truth.write_text("case,patient,kind\np,P1,b\nq,P1,a\n")
    said = evaluate_predictions(predictions(), truth)["kind"]
    assert said.as_dict() == together.as_dict()


def test_truth_is_judged_before_the_training(tmp_path):
    truth = tmp_path / "truth.csv"
    assert check_truth(None, (KIND,), IMAGES, GIVEN) is None
    with pytest.raises(MissingFileError, match="is missing"):
        check_truth(truth, (KIND,), IMAGES, GIVEN)
    for text, kind, message in (
        ("case,class\np,b\n", InputError, "lacks the column kind"),
        ("case,kind\np,b\np,a\n", FaultsError, "twice"),
        ("case,kind\nr,a\nP,b\nq,\n", InputError, "has no case to evaluate"),
    ):
        truth.write_text(text)
        with pytest.raises(kind, match=message):
            check_truth(truth, (KIND,), IMAGES, GIVEN)
    truth.write_text("case,kind,size\np,,big\n")  # one finding of one image is enough
    assert check_truth(truth, (KIND, SIZE), IMAGES, GIVEN.expand(3, 2)).without_image == ()


def test_rows_of_the_truth_without_an_image_are_told(tmp_path, caplog):
    truth = tmp_path / "truth.csv"
    truth.write_text("case,kind\np,b\nbad,a\nghost,a\nempty,\n")
    checked = check_truth(truth, (KIND,), IMAGES, GIVEN)
    assert (checked.without_image, checked.not_read) == (("ghost",), ("bad",))
    assert checked.facts() == {
        "evaluated_on": "images whose class was not given",
        "truth_without_image": ["ghost"],
        "truth_not_read": ["bad"],
    }
    assert "1 case of the truth has no image and does not count: ghost" in caplog.text
    assert "1 case of the truth has no readable image and does not count: bad" in caplog.text


def test_images_of_the_graph_do_not_count(tmp_path, caplog, capsys):
    path = tmp_path / "truth.csv"
    path.write_text("case,kind\np,b\nq,b\nr,a\n")
    by_id, by_feature = torch.tensor([True, False, True]), torch.tensor([True, False, False])
    truth = of_new_images(GroundTruth(path), by_id, by_feature)
    assert truth.counted == "images that are not in the graph of the model"
    assert "1 of 3 images are in the graph of the model and do not count" in caplog.text
    assert "1 image has the name of images of the training, but other features" in caplog.text
    scores = evaluate_predictions(predictions(), path, left_out=truth.left_out)
    assert (scores["kind"].n, scores["kind"].accuracy) == (1, 0)
    everything = torch.ones(3, dtype=torch.bool)
    assert evaluate_predictions(predictions(), path, left_out=everything) == {}
    assert "has learned from all images that it names" in capsys.readouterr().err


def test_no_class_of_the_truth_is_read_before_the_end(tmp_path):
    truth = tmp_path / "truth.csv"
    told = []
    for classes in ("ba", "ab", "zz"):
        truth.write_text(f"case,kind\np,{classes[0]}\nq,{classes[1]}\n")
        told.append(check_truth(truth, (KIND,), IMAGES, GIVEN))
    assert told[0] == told[1] == told[2]
