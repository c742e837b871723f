"""``gnnunet_export`` as it is called."""

import re

import pytest
from tiny_study import model_of, use_home

from graphnn_unet.commands.export import main


@pytest.fixture
def model(trained_home, monkeypatch):
    """A trained model. Read only."""
    use_home(trained_home, monkeypatch)
    return model_of(trained_home, "GraphCLTrainer")


def errors(capsys) -> list[str]:
    return [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]


def test_says_what_was_written_and_how_exact_it_is(model, tmp_path, capsys):
    for target in (tmp_path / "plain", tmp_path / "plain.zip"):
        assert main([str(model), "-o", str(target), "-f", "all"]) == 0
        assert target.exists()
        out = capsys.readouterr()
        assert re.fullmatch(
            rf"{re.escape(str(target))}: folds all; logits differ by at most \d\.\de[-+]\d\d from "
            r"the trained network\nnote: stock nnU-Net expects scans stored as LPS, .*\n",
            out.out,
        )
        assert out.err.startswith("folders: ")
    install = f"next, on another machine: gnnunet_install_model {target}"
    assert out.err.splitlines()[-1] == install
    assert main([str(model), "-o", str(target)]) == 2
    assert "Use --overwrite" in errors(capsys)[0]
    assert main([str(model), "-o", str(target), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-f", "0"], "fold 0 of"),
        (["-chk", "checkpoint_best.pth"], "has no checkpoint_best.pth"),
        (["-tr", "none.py:Mine"], "is missing"),
    ],
)
def test_what_is_not_there_ends_with_2(model, tmp_path, capsys, more, words):
    assert main([str(model), "-o", str(tmp_path / "plain"), *more]) == 2
    (line,) = errors(capsys)
    assert words in line
    assert not list(tmp_path.glob("*plain*"))


def test_folder_that_is_no_model_ends_with_2(model, tmp_path, capsys):
    assert main([str(tmp_path / "none"), "-o", str(tmp_path / "plain")]) == 2
    assert "is no model folder" in errors(capsys)[0]
