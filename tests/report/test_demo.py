from pathlib import Path

import pytest

from graphnn_unet import demo
from graphnn_unet.commands import demo as command
from graphnn_unet.errors import RefusedError
from graphnn_unet.metrics.aggregate import Estimate
from graphnn_unet.report import demo as module
from graphnn_unet.report.demo import N_TEST, TRAINERS, DemoResult, TrainerResult


def test_demo_refuses_a_folder_that_holds_something(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(RefusedError, match="not empty"):
        demo(tmp_path)


def results(folder: Path) -> list[TrainerResult]:
    """Two trainers on five scans; case e is best for the one, a for the other."""
    dice = {"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.45, "e": 0.95}
    return [
        TrainerResult(
            trainer,
            Estimate(0.5 + number / 10, 0.4, 0.62),
            Estimate(3.0, 2.0, 4.5),
            {case: value if number < 1 else 1.0 - value / 9 for case, value in dice.items()},
            12.3,
            folder / "predictions" / str(number),
            folder / "predictions" / str(number) / "metrics.csv",
        )
        for number, trainer in enumerate(TRAINERS)
    ]


def test_worst_median_and_best_scan_are_drawn_for_both_trainers(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "save_contact_sheet", lambda rows, *_: drawn.extend(rows))
    module._draw(tmp_path, results(tmp_path))
    assert [row.title for row in drawn] == [
        f"{word}: {case}, {trainer}"
        for word, case in (("worst", "b"), ("median", "c"), ("best", "e"))
        for trainer in TRAINERS
    ]
    assert [row.prediction.parent.name for row in drawn] == ["0", "1"] * 3


def test_command_prints_both_trainers_with_intervals(tmp_path, monkeypatch, capsys):
    result = DemoResult(tmp_path, results(tmp_path), tmp_path / "comparison.png", 300.0)
    monkeypatch.setattr(module, "demo", lambda *_, **__: result)
    assert command.main(["-o", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    for trainer in TRAINERS:
        (line,) = [line for line in out.splitlines() if line.startswith(f"{trainer} ")]
        assert "0.400 to 0.620" in line
        assert "2.0 to 4.5" in line
    assert str(tmp_path / "comparison.png") in out
    assert err.splitlines()[-1].startswith("next: gnnunet_convert nifti ")


@pytest.mark.slow
def test_demo_runs_the_whole_flow(tmp_path):
    result = demo(tmp_path / "demo", device="cpu")
    assert [one.trainer for one in result.results] == list(TRAINERS)
    for trainer_result in result.results:
        assert trainer_result.dice.value > 0.6
        assert trainer_result.dice.low < trainer_result.dice.value < trainer_result.dice.high
        assert trainer_result.metrics.is_file()
        assert len(list(trainer_result.predictions.glob("case_*.nii.gz"))) == N_TEST
    alone, with_unlabeled = result.results
    assert with_unlabeled.dice.value > alone.dice.value
    assert result.overlay.read_bytes().startswith(b"\x89PNG")
