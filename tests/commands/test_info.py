"""``gnnunet_info``: folders without torch, and what stock nnU-Net needs to know."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_study import DATASET, use_home

from graphnn_unet.commands.info import main
from graphnn_unet.storage.checkpoints import FINAL, LATEST


def test_paths_are_shown_with_what_set_them_and_without_torch(tmp_path):
    code = (
        "import sys; from graphnn_unet.commands.info import main; status = main(['--paths']); "
        "assert not {'torch', 'numpy', 'nnunetv2'} & set(sys.modules); sys.exit(status)"
    )
    environment = {
        "PATH": "/usr/bin", "GNNUNET_HOME": str(tmp_path), "nnUNet_raw": str(tmp_path / "own"),
        "PYTHONPATH": ":".join(sys.path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    rows = [re.split(r"\s{2,}", line) for line in done.stdout.splitlines()]
    assert rows == [
        ["folder", "path", "set by"],
        ["raw", str(tmp_path / "own"), "from nnUNet_raw"],
        ["preprocessed", str(tmp_path / "preprocessed"), "from GNNUNET_HOME"],
        ["results", str(tmp_path / "results"), "from GNNUNET_HOME"],
    ]


def test_everything_a_bug_report_needs_is_shown(tiny_home, monkeypatch, capsys):
    use_home(tiny_home, monkeypatch)
    assert main([]) == 0
    out = capsys.readouterr().out
    assert f"data sets: {DATASET}" in out
    trainers = re.search(r"^trainers: (.+)$", out, re.MULTILINE)[1].split(", ")
    assert trainers == [
        "BCPTrainer", "FilterMatchTrainer", "GraphCLTrainer", "MeanTeacherTrainer",
        "UncertaintyMeanTeacherTrainer", "MLLCTrainer", "PseudoLabelTrainer", "SupervisedTrainer",
    ]  # fmt: skip
    assert re.search(r"recipes: .*la", out)
    for name in ("python", "torch", "nnunetv2", "numpy"):
        assert re.search(rf"^{name} \d", out, re.MULTILINE)
    assert re.search(r"^devices: .*cpu$", out, re.MULTILINE)


def test_models_are_listed_with_their_folds(tmp_path, monkeypatch, capsys):
    home = use_home(tmp_path, monkeypatch)
    for fold, name in (("fold_0", FINAL), ("fold_0", LATEST), ("fold_3", LATEST), ("fold_1", FINAL),
                       ("fold_1.old1", FINAL)):  # fmt: skip
        folder = home / "results" / DATASET / "BCPTrainer__gnnunetPlans__2d" / fold
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert main([]) == 0
    lines = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert [DATASET, "BCPTrainer__gnnunetPlans__2d", "0 1, unfinished: 3"] in lines


def test_folder_for_stock_nnunet_holds_our_trainers(tiny_home, monkeypatch, capsys):
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    from graphnn_unet.trainers import GraphCLTrainer

    use_home(tiny_home, monkeypatch)
    main([])
    folder = re.search(r"export nnUNet_extTrainer=(.+)", capsys.readouterr().out)[1]
    assert Path(folder).is_dir()
    trainer_class = recursive_find_python_class(folder, "GraphCLTrainer", None, base_folder=folder)
    assert trainer_class.__name__ == GraphCLTrainer.__name__


@pytest.mark.parametrize("arguments", [["--paths"], []])
def test_nothing_is_made_by_looking(tmp_path, monkeypatch, arguments):
    monkeypatch.setenv("GNNUNET_HOME", str(tmp_path / "new"))
    assert main(arguments) == 0
    assert not (tmp_path / "new").exists()
