"""``gnnunet_predict`` as it is called: exit status, first lines, options."""

import csv

import numpy as np
import pytest
from models.small_models import GOOD, label_maps, same_maps, write_good_images
from tiny_study import model_of, use_home

from graphnn_unet.commands.predict import main
from graphnn_unet.models.predict import PredictionResult
from graphnn_unet.storage.safe_load import read_json


@pytest.fixture
def home(trained_home, monkeypatch):
    """The trained home, which holds no two models of one trainer. Read only."""
    return use_home(trained_home, monkeypatch)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three good images. Read only."""
    return write_good_images(tmp_path_factory.mktemp("images"))


def call(*arguments: object) -> int:
    return main([*map(str, arguments), "-device", "cpu", "--disable_tta"])


def test_names_folders_and_model_first_and_counts_last(home, images, tmp_path, capsys):
    assert call("-i", images, "-o", tmp_path / "out", "-d", "801", "-tr", "BCPTrainer") == 0
    out = capsys.readouterr()
    first, second = out.err.splitlines()[:2]
    assert first.startswith(f"folders: raw={home / 'raw'}")
    assert second == f"model: {model_of(home, 'BCPTrainer')}  device: cpu"
    assert out.out == f"3 cases predicted: {tmp_path / 'out'}\n"
    assert list(label_maps(tmp_path / "out")) == list(GOOD)
    arguments = ("-i", images, "-o", tmp_path / "out", "-m", model_of(home, "BCPTrainer"))
    assert call(*arguments, "--continue_prediction", "--quiet") == 0
    out = capsys.readouterr()
    assert out.err == ""
    assert out.out == f"0 cases predicted, 3 were there already: {tmp_path / 'out'}\n"


def test_failing_case_ends_with_3_and_one_line(home, images, tmp_path, capsys):
    folder = write_good_images(tmp_path / "in")
    whole = (folder / "b_0000.nii.gz").read_bytes()
    (folder / "b_0000.nii.gz").write_bytes(whole[:-100])
    assert call("-i", folder, "-o", tmp_path / "out", "-m", model_of(home, "BCPTrainer")) == 3
    printed = capsys.readouterr()
    assert printed.out == f"2 of 3 cases predicted: {tmp_path / 'out'}\n"
    volumes, line = printed.err.splitlines()[-2:]
    assert volumes.startswith(f"volumes of each class in ml: {tmp_path / 'out' / 'volumes.csv'}; ")
    assert line.startswith("error: b: b_0000.nii.gz is truncated")
    with (tmp_path / "out" / "failures.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["case"], row["stage"]) == ("b", "check")
    assert row["cause"] in line
    assert row["remedy"] in line
    call("-i", images, "-o", tmp_path / "clean", "-m", model_of(home, "BCPTrainer"))
    expected = label_maps(tmp_path / "clean")
    del expected["b"]
    assert same_maps(label_maps(tmp_path / "out"), expected)
    again = ("-i", folder, "-o", tmp_path / "out", "--continue_prediction", "-d", "Tiny")
    capsys.readouterr()
    assert call(*again, "-tr", "BCPTrainer") == 3
    told = f"0 of 3 cases predicted, 2 were there already: {tmp_path / 'out'}\n"
    assert capsys.readouterr().out == told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-i", "missing"], "input missing is missing"),
        (["-m", "missing"], "model folder missing is missing"),
        (["-d", "Tny"], "near names: Tiny"),
        (["-f", "3"], "folds that have it: all"),
        (["-chk", "best.pth"], "has no best.pth"),
        (["-device", "cuda:99"], "device 'cuda:99' is not available"),
        (["-num_parts", "2", "-part_id", "2"], "parts count from 0"),
        (["-tr", "missing.py:Mine"], "trainer file"),
    ],
)
def test_what_the_user_can_mend_ends_with_2_and_one_line(
    home, images, tmp_path, capsys, arguments, words
):
    given = {"-i": images, "-o": tmp_path / "out", "-m": model_of(home, "BCPTrainer"),
             "-device": "cpu"}  # fmt: skip
    if "-d" in arguments:
        del given["-m"]
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert main([str(x) for pair in given.items() for x in pair]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert words in line
    assert not (tmp_path / "out").exists()


def test_options_reach_the_prediction(home, images, tmp_path):
    target = tmp_path / "out"
    assert call(
        "-i", images, "-o", target, "-m", model_of(home, "GraphCLTrainer"), "-f", "all",
        "--save_probabilities", "--uncertainty", "-step_size", "0.9", "-num_parts", 3,
        "-part_id", 1, "--memory-budget", 4,
    ) == 0  # fmt: skip
    assert sorted(p.name for p in target.glob("b*")) == [
        "b.nii.gz", "b.npz", "b.pkl", "b_uncertainty.nii.gz",
    ]  # fmt: skip
    assert list(label_maps(target)) == ["b"]
    assert np.load(target / "b.npz")["probabilities"].shape[0] == 3
    facts = read_json(target / "prediction.json")
    assert facts["step_size"] == 0.9
    assert facts["mirroring"] is False
    assert facts["folds"] == ["all"]


@pytest.mark.parametrize(
    ("flags", "mirroring", "step_size"),
    [
        ([], True, 0.5),
        (["--fast"], False, 0.75),
        (["--fast", "-step_size", "0.9"], False, 0.9),
        (["--disable_tta"], False, 0.5),
    ],
)
def test_fast_leaves_mirrored_copies_and_some_tiles_out(
    monkeypatch, tmp_path, flags, mirroring, step_size
):
    given = {}

    def predict(*paths, **options):
        given.update(options)
        return PredictionResult(tmp_path, ["a"], [])

    monkeypatch.setattr("graphnn_unet.models.predict.predict", predict)
    assert main(["-i", str(tmp_path), "-o", str(tmp_path / "out"), *flags]) == 0
    assert (given["mirroring"], given["step_size"]) == (mirroring, step_size)


def test_memory_budget_that_is_too_small_ends_with_2_as_nothing_is_done(
    home, images, tmp_path, capsys
):
    model = model_of(home, "GraphCLTrainer")
    assert call("-i", images, "-o", tmp_path, "-m", model, "--memory-budget", 0.000001) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert len(lines) == 3
    assert "GB of memory, the budget is 1e-06 GB" in lines[0]
