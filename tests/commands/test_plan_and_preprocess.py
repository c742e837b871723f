"""The command: exit status, messages and table."""

import json
import subprocess
import sys
import time

import pytest
from tiny_study import DATASET, TINY, use_home, write_raw_dataset

from graphnn_unet.commands.plan_and_preprocess import main


@pytest.fixture
def raw(tmp_path, monkeypatch):
    return write_raw_dataset(use_home(tmp_path / "home", monkeypatch) / "raw")


def run(*arguments: str) -> int:
    return main(["-d", DATASET, "-np", "1", *arguments])


def test_a_table_tells_what_was_planned(raw, capsys):
    assert run("-c", "3d_fullres", "--set", *TINY) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith(f"{DATASET}: 4 labeled and 3 unlabeled cases, plan ")
    assert lines[0].endswith("gnnunetPlans.json")
    assert lines[1].split() == [
        "configuration", "spacing", "(mm)", "patch", "batch", "stages", "GPU", "memory", "ready",
    ]  # fmt: skip
    rows = {line.split()[0]: line for line in lines[2:4]}
    assert "16x16x16" in rows["3d_fullres"]
    assert rows["3d_fullres"].endswith("yes")
    assert rows["2d"].endswith("no")
    assert any("4-fold leave-one-out" in line for line in lines)
    home = raw.parent.parent
    first = f"folders: raw={home / 'raw'} preprocessed={home / 'preprocessed'} results="
    assert err.startswith(first)


def test_names_ids_and_several_data_sets_are_taken(raw, capsys):
    write_raw_dataset(raw.parent, "Dataset802_Other")
    assert (
        main(
            [
                "-d",
                "Tiny",
                "802",
                "-np",
                "1",
                "-c",
                "2d",
                "--quiet",
                "--set",
                "network.base_features=4",
            ]
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert f"{DATASET}: 4 labeled" in out
    assert "Dataset802_Other: 4 labeled" in out
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "atrium"], "error: recipe 'atrium' was not found"),
        (["--set", "batch.labelled=4"], "nearest known key is batch.labeled"),
        (["-c", "3d"], "error: configuration 3d was not planned"),
        (["--set", "plan.patch_size=[17,17,17]"], "The nearest size is [16, 16, 16]."),
    ],
)
def test_what_the_user_can_mend_ends_with_2_and_one_line(raw, capsys, arguments, message):
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1


def test_all_faults_of_the_data_come_in_one_pass_one_line_each(raw, capsys):
    (raw / "imagesUn" / "case_04_0000.nii.gz").write_bytes(b"")
    (raw / "labelsTr" / "case_01.nii.gz").unlink()
    assert run() == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert any("case_04" in line for line in errors)
    assert any("case_01" in line for line in errors)


def test_all_faults_of_a_recipe_come_in_one_pass(raw, capsys):
    assert run("--set", "optimizer.lr=fast", "batch.labeled=3", "loss.alpha=1") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3


def test_cases_that_fail_end_with_3(raw, capsys, monkeypatch):
    from graphnn_unet.data import preprocess

    def fail(job):
        raise ValueError(f"cannot work on {job.case}")

    monkeypatch.setattr(preprocess, "_preprocess_case", fail)
    assert run("-c", "3d_fullres", "--set", *TINY) == 3
    err = capsys.readouterr().err
    assert "error: case_00: ValueError: cannot work on case_00. Fix or remove the case" in err
    folder = raw.parent.parent / "preprocessed" / DATASET
    rows = (folder / "failures.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 8


def test_an_interrupt_ends_with_130_and_a_way_on(raw, capsys, monkeypatch):
    from graphnn_unet.data import preprocess

    def interrupt(_job):
        raise KeyboardInterrupt

    monkeypatch.setattr(preprocess, "_preprocess_case", interrupt)
    assert run("-c", "3d_fullres", "--set", *TINY) == 130
    assert "Run the same command again to go on" in capsys.readouterr().err


def test_faulty_cases_can_be_left_out(raw, capsys):
    (raw / "imagesUn" / "case_04_0000.nii.gz").write_bytes(b"")
    assert run("-c", "3d_fullres", "--skip-faulty", "--set", *TINY) == 0
    out = capsys.readouterr().out
    assert "4 labeled and 2 unlabeled cases" in out
    assert "failures.csv" in out


@pytest.mark.parametrize("recipe", ["quick", "hippocampus"])
def test_named_recipes_work_on_other_data(raw, capsys, recipe):
    assert run("--recipe", recipe, "-c", "3d_fullres", "--set", "network.base_features=4") == 0
    plans = json.loads(
        (raw.parent.parent / "preprocessed" / DATASET / "gnnunetPlans.json").read_text(
            encoding="utf-8"
        )
    )
    assert f"recipe {recipe}" in plans["gnnunet"]["layers"]


def test_help_is_quick_and_needs_no_torch():
    code = (
        "import sys; from graphnn_unet.commands.plan_and_preprocess import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: print('torch' in sys.modules, end.code)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=30
    )
    assert done.stdout.splitlines()[-1] == "False 0", done.stderr
    assert "--skip-faulty" in done.stdout
    assert time.monotonic() - began < 3  # half a second on a machine at rest
