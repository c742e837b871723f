"""Every number of a command line has its range; what is outside ends with 2 and names it."""

import importlib

import pytest

TRAIN = ("train", "X", "2d", "T")
PREDICT = ("predict", "-i", "x", "-o", "y")


@pytest.mark.parametrize("value", ["-1", "nan", "x", "1" + "0" * 30, "9" * 5000])
@pytest.mark.parametrize(
    "words",
    [
        (*TRAIN, "--seed"), (*TRAIN, "--draw"), (*TRAIN, "--labeled"), (*TRAIN, "--workers"),
        (*TRAIN, "-num_gpus"), (*PREDICT, "-np"), (*PREDICT, "-num_parts"),
        (*PREDICT, "-part_id"), (*PREDICT, "-step_size"), (*PREDICT, "--memory-budget"),
        ("plan_and_preprocess", "-d", "1", "-np"), ("convert", "LA", "x", "-np"),
        ("convert", "LA", "x", "--labeled"), ("convert", "LA", "x", "--unlabeled"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_number_out_of_range_is_named(words, value, capsys):
    name, *rest = words
    main = importlib.import_module(f"graphnn_unet.commands.{name}").main
    with pytest.raises(SystemExit) as stopped:
        main([*rest, value])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"error: argument {rest[-1]}" in last
    assert "out of range" in last or "is not a" in last
    assert len(last) < 200


def test_a_fold_that_is_no_number_is_looked_for_by_its_name():
    from graphnn_unet.commands import _command

    assert _command.folds_of(["0", "all", "\u00b2"]) == [0, "all", "\u00b2"]
    assert _command.folds_of(None) is None
