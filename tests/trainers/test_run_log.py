"""The picture of a training can be read."""

import csv

import pytest
from tiny_study import model_of

from graphnn_unet.trainers.run_log import progress_figure

LONG = "GraphCLTrainer  Dataset501_ALongNameOfADataSetThatUsersLike  3d_fullres  fold all: "
COUNTS = "53 labeled, 3000 unlabeled, none held out: no estimate of quality"


@pytest.mark.parametrize("with_dice", [False, True])
def test_title_and_legend_do_not_touch_anything(with_dice):
    rows = [
        {"step": 40 * i, "loss": 1 / i, "lr": 0.01, "phase": "selftrain" if i > 3 else "pretrain"}
        | ({"val_dice": 0.1 * i} if with_dice else {})
        for i in range(1, 9)
    ]
    figure = progress_figure(rows, LONG + COUNTS)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes += [legend.get_window_extent(), figure._suptitle.get_window_extent()]
    title = boxes[-1]
    assert title.x1 <= figure.bbox.x1
    for box in boxes[:-1]:
        assert not title.overlaps(box)
    assert not any(legend.get_window_extent().overlaps(box) for box in boxes[:-2])
    assert [text.get_text() for text in legend.get_texts()] == [
        "loss", "Dice of held-out patches",
    ][: 1 + with_dice]  # fmt: skip


@pytest.mark.parametrize("trainer", ["SupervisedTrainer", "GraphCLTrainer"])
def test_only_methods_that_use_unlabeled_cases_count_them(trained_home, trainer):
    folder = model_of(trained_home, trainer) / "fold_all"
    (log,) = folder.glob("training_log_*.txt")
    (title,) = [
        line for line in log.read_text(encoding="utf-8").splitlines() if f": {trainer}  " in line
    ]
    assert "4 labeled, " in title
    assert ("3 unlabeled" in title) == (trainer == "GraphCLTrainer")


def test_a_few_training_cases_are_predicted_for_a_look(tiny_copy, monkeypatch, capsys):
    from tiny_study import train_in

    from graphnn_unet.trainers import semi

    monkeypatch.setattr(semi, "N_LOOKED_AT", 3)
    mirrored = []
    original = semi.Predictor

    def recorded(*arguments, **options):
        mirrored.append(options["mirroring"])
        return original(*arguments, **options)

    monkeypatch.setattr(semi, "Predictor", recorded)
    (summary,) = train_in(tiny_copy, "SupervisedTrainer").summaries
    told = "3 of 4 training cases are predicted for a look; all of them with --val"
    assert told in capsys.readouterr().err.splitlines()
    assert cases_in(summary.with_name("metrics.csv")) == 3
    train_in(tiny_copy, "SupervisedTrainer", mode="validate")
    assert cases_in(summary.with_name("metrics.csv")) == 4
    (held_out,) = train_in(tiny_copy, "SupervisedTrainer", 0).summaries
    assert cases_in(held_out.with_name("metrics.csv")) == 1
    assert mirrored == [False, True, True]


def cases_in(table):
    with table.open(newline="") as file:
        return len({row["case"] for row in csv.DictReader(file)})


def test_steps_with_unlabeled_images_count_as_more_work(tiny_copy, monkeypatch):
    from tiny_study import train_in

    from graphnn_unet.trainers import semi

    work = []
    original = semi.Progress

    def recorded(*arguments, **options):
        work.append(options["work"])
        return original(*arguments, **options)

    monkeypatch.setattr(semi, "Progress", recorded)
    train_in(tiny_copy, "BCPTrainer")
    train_in(tiny_copy, "SupervisedTrainer")
    bcp, supervised = ([function(step) for step in range(7)] for function in work)
    assert supervised == [0, 1, 2, 3, 4, 5, 6]
    assert bcp == pytest.approx([0, 1, 2, 3, *(3 + i * semi.UNLABELED_COST for i in (1, 2, 3))])


def test_pseudo_labels_have_panels_of_their_own_where_they_were_logged():
    rows = [{"step": i, "loss": 1 / i, "lr": 0.01, "phase": "pretrain"} for i in (1, 2)]
    taught = {
        "pseudo_dice_teacher": 0.8, "pseudo_dice_blur": 0.82, "pseudo_dice_scan_graph": 0.84,
        "pseudo_dice_taught": 0.85, "pseudo_class_taught_1": 0.1, "pseudo_confident": 0.9,
        "threshold_0": 0.95, "threshold_1": 0.4,
    }  # fmt: skip
    rows += [{**rows[0], **taught, "step": i, "phase": "selftrain"} for i in (3, 4)]
    figure = progress_figure(rows, LONG + COUNTS)
    figure.draw_without_rendering()
    _, dice, confidence, _ = figure.axes
    names = [[t.get_text() for t in axes.get_legend().get_texts()] for axes in (dice, confidence)]
    assert names == [
        ["teacher", "blur", "scan_graph", "taught"],
        ["confident voxels", "threshold of class 0", "threshold of class 1"],
    ]
    assert [line.get_xdata().tolist() for line in dice.get_lines()] == [[3, 4]] * 4
    looks = {(line.get_color(), line.get_linestyle()) for line in dice.get_lines()}
    assert len(looks) == 4
    for axes in (dice, confidence):
        assert axes.get_legend().get_window_extent().x1 <= figure.bbox.x1
        assert axes.get_legend().get_window_extent().x0 >= axes.bbox.x1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["loss"]
