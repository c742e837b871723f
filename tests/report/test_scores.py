import math

from report.small_folders import score_rows, write_rows

from graphnn_unet.report.scores import Scores

DICE = {"a": 0.9, "b": 0.88, "c": 0.91, "d": 0.3, "e": 0.89, "f": 0.9}


def scores(tmp_path, dice=DICE, failures=(), **more) -> Scores:
    write_rows(tmp_path / "metrics.csv", score_rows(dice, **more))
    if failures:
        write_rows(tmp_path / "failures.csv", list(failures))
    return Scores.read([tmp_path, tmp_path / "not there"])


def test_a_case_far_below_the_others_is_told(tmp_path):
    result = scores(tmp_path)
    assert result.low_cases == ["d"]
    assert any("far below" in text and text.endswith("1 case: d.") for text in result.findings())
    assert "low Dice" in result.remarks("d")
    assert math.isclose(result.mean_dice, sum(DICE.values()) / 6)


def test_scores_that_agree_have_no_outlier(tmp_path):
    assert not scores(tmp_path, {**DICE, "d": 0.87}).findings()


def test_missed_and_invented_structures_are_told(tmp_path):
    rows = {"a": {"missed": 1, "dice": 0}, "b": {"invented": 1, "dice": 0}}
    result = scores(tmp_path, **rows)
    text = " ".join(result.findings())
    assert "“organ” is missed (nothing of it was found) in 1 case: a." in text
    assert "“organ” was found where the label has none of it, in 1 case: b." in text
    html = "".join(result.html())
    assert "missed organ" in html
    assert html.count("class='marked'") == 2


def test_cases_without_scores_are_in_the_table(tmp_path):
    failures = [{"case": "z", "stage": "evaluate", "cause": "damaged", "remedy": ""}]
    result = scores(tmp_path, failures=failures)
    assert result.findings()[0].startswith("1 case could not be scored and is in no figure: z")
    assert "not scored: damaged" in "".join(result.html())


def test_a_class_that_is_hardly_found_is_told(tmp_path):
    low = dict.fromkeys(DICE, 0.1)
    assert scores(tmp_path, low).findings() == ["“organ” is hardly found: its mean Dice is 0.10."]


def test_rows_of_a_training_are_no_scores(tmp_path):
    write_rows(tmp_path / "metrics.csv", [{"epoch": 0, "loss": 1}])
    assert not Scores.read([tmp_path]).rows


def test_many_classes_share_a_column(tmp_path):
    rows = [row for n in range(8) for row in score_rows({"a": 0.9 - n / 10}, f"class {n}")]
    write_rows(tmp_path / "metrics.csv", rows)
    html = "".join(Scores.read([tmp_path]).html())
    assert "Dice class 3" not in html
    assert "<td class='text'>class 7</td><td>0.200</td>" in html


def test_remarks_of_others_stand_beside_scores(tmp_path):
    html = "".join(scores(tmp_path).html({"a": ["is large"]}))
    assert "is large" in html


def test_a_case_that_is_scored_now_has_not_failed(tmp_path):
    write_rows(tmp_path / "metrics.csv", score_rows({"a": 0.5}))
    causes = [("a", "predict", "cut off"), ("b", "predict", "no room"),
              ("b", "evaluate", "there is no prediction")]  # fmt: skip
    write_rows(
        tmp_path / "failures.csv",
        [{"case": c, "stage": s, "cause": why, "remedy": ""} for c, s, why in causes],
    )
    assert Scores.read([tmp_path]).failures == {"b": "no room"}
