"""Figures of one evaluation are not replaced by those of another."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from graphnn_unet.clustering.run import FACTS
from graphnn_unet.commands.evaluate import main
from graphnn_unet.errors import RefusedError
from graphnn_unet.images.as_predicted import RECORD
from graphnn_unet.metrics.evaluate import CLUSTERED, evaluate
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


@pytest.mark.parametrize("more", [[], ["--unsupervised"], ["-o", "scores"], ["--overwrite"]])
def test_folders_given_the_wrong_way_round_are_refused(folders, capsys, more, monkeypatch):
    predictions, labels = folders
    monkeypatch.chdir(predictions.parent)
    assert RECORD == "prediction.json"
    (predictions / RECORD).write_text("{}")
    assert main(["-p", str(labels), "-g", str(predictions), *more]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: -p and -g are swapped: {predictions}, given as labels, holds predictions "
        f"(prediction.json), and {labels} none. Give -p {predictions} -g {labels}."
    )
    assert sorted(path.name for path in labels.iterdir()) == ["a.png", "b.png"]
    assert not Path("scores").exists()
    assert main(["-p", str(predictions), "-g", str(labels), *more]) == 0


def test_one_model_is_compared_with_another(folders):
    for folder in folders:
        (folder / "prediction.json").write_text("{}")
    assert evaluate(*folders).n_cases == 2


def test_clusters_are_not_scored_by_the_names_of_classes(folders, capsys):
    call = ["-p", str(folders[0]), "-g", str(folders[1])]
    (folders[0] / "clustering.json").write_text("{}")
    assert FACTS == CLUSTERED == "clustering.json"
    assert main(call) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert line == (
        f"error: {folders[0]} holds clusters of gnnunet_cluster: they have no names, and their ids "
        "are not those of the classes. Score them with --unsupervised."
    )
    assert not (folders[0] / "metrics.csv").exists()
    assert main([*call, "--unsupervised"]) == 0
    assert main(["-p", str(folders[1]), "-g", str(folders[0]), "--unsupervised"]) == 2


@pytest.mark.parametrize("way", [[], ["--unsupervised"]])
@pytest.mark.parametrize(("n", "is_few"), [(1, False), (2, True), (5, True), (6, False)])
def test_few_cases_are_said_to_tell_nothing(folders, tmp_path, capsys, way, n, is_few):
    for folder in folders:
        for number in range(2, n):
            shutil.copy(folder / "a.png", folder / f"c{number}.png")
        if n == 1:
            (folder / "b.png").unlink()
    assert main(["-p", str(folders[0]), "-g", str(folders[1]), *way]) == 0
    noun = "images" if way else "cases"
    note = f"The 95 % interval decides nothing: {n} {noun} are too few to tell, 6 are needed."
    told = capsys.readouterr().out.splitlines()
    assert told.count(note) == is_few
    assert any("too few" in line for line in told) == is_few


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
