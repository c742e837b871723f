"""Every number of a command line has its range; what is outside ends with 2 and names it."""

import importlib
import math

import pytest

import graphnn_unet
from graphnn_unet.commands import _command
from graphnn_unet.errors import InputError

TRAIN = ("train", "X", "2d", "T")
PREDICT = ("predict", "-i", "x", "-o", "y")
EVALUATE = ("evaluate", "-p", "x", "-g", "y")


@pytest.mark.parametrize("value", ["-1", "nan", "x", "1" + "0" * 30, "9" * 5000])
@pytest.mark.parametrize(
    "words",
    [
        (*TRAIN, "--seed"), (*TRAIN, "--draw"), (*TRAIN, "--labeled"), (*TRAIN, "--workers"),
        (*TRAIN, "-num_gpus"), (*PREDICT, "-np"), (*PREDICT, "-num_parts"),
        (*PREDICT, "-part_id"), (*PREDICT, "-step_size"), (*PREDICT, "--memory-budget"),
        ("plan_and_preprocess", "-d", "1", "-np"), ("convert", "LA", "x", "-np"),
        ("convert", "LA", "x", "--labeled"), ("convert", "LA", "x", "--unlabeled"),
        (*EVALUATE, "-np"), (*EVALUATE, "--nsd-tolerance"),
        ("cluster", "-i", "x", "-o", "y", "-np"),
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


@pytest.mark.parametrize("value", [-1, 10**30, math.nan, math.inf, "x", True])
@pytest.mark.parametrize(
    ("call", "arguments", "name"),
    [
        *(("train", ("X", "2d", "SupervisedTrainer"), name) for name in
          ("seed", "draw", "n_labeled", "num_gpus", "n_loader_workers")),
        *(("predict", ("x", "y"), name) for name in
          ("num_parts", "part_id", "n_workers", "step_size", "memory_budget_gb")),
        *(("evaluate", ("x", "y"), name) for name in ("n_workers", "nsd_tolerance_mm")),
        *(("convert", ("LA", "x"), name) for name in ("labeled", "unlabeled", "n_workers")),
        ("plan_and_preprocess", ("X",), "n_workers"),
    ],
)  # fmt: skip
def test_a_python_call_names_it_in_the_same_words(call, arguments, name, value):
    if name == "nsd_tolerance_mm" and value == 10**30:
        pytest.skip("a distance has no largest value")
    with pytest.raises(InputError, match=rf"^{name} .*(is out of range: use a|is not a)"):
        getattr(graphnn_unet, call)(*arguments, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("nnUNet_def_n_proc", "x"), ("nnUNet_def_n_proc", "-1"), ("nnUNet_def_n_proc", "0"),
     ("nnUNet_n_proc_DA", "x"), ("nnUNet_n_proc_DA", "-1"), ("nnUNet_n_proc_DA", "9" * 5000)],
)  # fmt: skip
@pytest.mark.parametrize("command", ["info", "plan_and_preprocess", "train", "predict"])
def test_variables_of_nnunet_are_judged_before_it_fails_on_them(
    command, name, value, monkeypatch, capsys
):
    monkeypatch.setenv(name, value)
    main = importlib.import_module(f"graphnn_unet.commands.{command}").main
    words = {"plan_and_preprocess": ["-d", "1"], "train": [*TRAIN[1:]], "predict": [*PREDICT[1:]]}
    assert main(words.get(command, [])) == 2
    (line,) = (li for li in capsys.readouterr().err.splitlines() if li.startswith("error: "))
    assert line.startswith(f"error: {name} = ")
    assert "or unset it" in line
    assert len(line) < 200
    monkeypatch.delitem(vars(graphnn_unet), "plan_and_preprocess", raising=False)
    with pytest.raises(InputError, match=name):  # when it is first used
        graphnn_unet.plan_and_preprocess  # noqa: B018


def test_a_fold_that_is_no_number_is_looked_for_by_its_name():
    assert _command.folds_of(["0", "all", "\u00b2"]) == [0, "all", "\u00b2"]
    assert _command.folds_of(None) is None
