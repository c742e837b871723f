"""Figures of one evaluation are not replaced by those of another."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from graphnn_unet.commands.evaluate import main
from graphnn_unet.errors import RefusedError
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.metrics.unsupervised import evaluate_unsupervised


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and label maps of two pictures."""
    for folder, shift in (("predictions", 1), ("labels", 0)):
        (tmp_path / folder).mkdir()
        for name in "ab":
            array = np.zeros((9, 8), np.uint8)
            array[1 + shift : 5 + shift, 2:6] = 1
            Pillow.fromarray(array).save(tmp_path / folder / f"{name}.png")
    return tmp_path / "predictions", tmp_path / "labels"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("metrics.csv", "summary.json")}


def test_the_same_evaluation_is_done_again(folders, tmp_path):
    first = evaluate(*folders)
    before = contents(folders[0])
    for name in "ab":  # better predictions
        shutil.copy(folders[1] / f"{name}.png", folders[0])
    assert evaluate(*folders).mean["dice"].value == 1.0 > first.mean["dice"].value
    assert contents(folders[0]) != before
    moved = folders[0].rename(tmp_path / "moved")
    evaluate(moved, folders[1])  # the figures that moved with their label maps


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (["--protocol", "published"], "protocol honest there, published here"),
        (["--nsd-tolerance", "3"], "nsd tolerance mm 2.0 there, 3.0 here"),
        (["--unsupervised"], "kind supervised there, unsupervised here"),
    ],
)
def test_another_kind_is_refused_in_one_line_and_changes_nothing(folders, capsys, second, words):
    call = ["-p", str(folders[0]), "-g", str(folders[1])]
    assert main(call) == 0
    before = contents(folders[0])
    capsys.readouterr()
    assert main([*call, *second]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert words in line
    assert "Give another folder with -o, or --overwrite" in line
    assert contents(folders[0]) == before
    assert main([*call, *second, "-o", str(folders[0].parent / "other")]) == 0
    assert contents(folders[0]) == before
    assert main([*call, *second, "--overwrite"]) == 0
    assert contents(folders[0]) != before
    assert main(call) == 2  # the other way round too


def test_matchings_of_clusters_are_kinds_of_their_own(folders):
    evaluate_unsupervised(*folders)
    evaluate_unsupervised(*folders)
    with pytest.raises(RefusedError, match="matching foreground there, hungarian here"):
        evaluate_unsupervised(*folders, matching="hungarian")


@pytest.mark.parametrize("which", [0, 1])
def test_other_folders_are_refused(folders, tmp_path, which):
    target = tmp_path / "results"
    evaluate(*folders, target)
    other = list(folders)
    other[which] = Path(shutil.copytree(folders[which], tmp_path / "copy"))
    with pytest.raises(RefusedError, match=r"(predictions|labels) .* there, .*copy here"):
        evaluate(*other, target)
    evaluate(*other, target, overwrite=True)


@pytest.mark.parametrize("files", [{"metrics.csv": "step,loss\n"}, {"summary.json": "{}"},
                                   {"summary.json": "["}])  # fmt: skip
def test_figures_of_another_program_are_not_replaced(folders, tmp_path, files):
    target = tmp_path / "fold_all"
    target.mkdir()
    for name, text in files.items():
        (target / name).write_text(text)
    with pytest.raises(RefusedError, match="not written by this program's evaluation"):
        evaluate(*folders, target)
    assert {path.name: path.read_text(encoding="utf-8") for path in target.iterdir()} == files


def test_summary_of_nnunet_beside_predictions_stays(folders):
    summary = {"foreground_mean": {"Dice": 0.5}, "metric_per_case": []}
    (folders[0] / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RefusedError):
        evaluate(*folders)
