import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

COMMAND = "import sys; from graphnn_unet.commands.evaluate import main; sys.exit(main())"


def gnnunet_evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as its console script does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def write(path: Path, shift: int, ids: int = 1) -> None:
    array = np.zeros((4, 9, 8), dtype=np.uint8)
    array[1:3, 1 + shift : 6 + shift, 2:6] = ids
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 1.0, 3.0))
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    predictions, labels = tmp_path / "predictions", tmp_path / "labels"
    for case, shift in (("a", 0), ("b", 1), ("c", 2)):
        write(predictions / f"{case}.nii.gz", shift)
        write(labels / f"{case}.nii.gz", 0)
    (labels / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "atrium": 1}}))
    return predictions, labels


def test_prints_an_aligned_table_and_writes_beside_the_predictions(folders):
    predictions, labels = folders
    done = gnnunet_evaluate("-p", predictions, "-g", labels)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "protocol honest, 3 cases, distances in mm"
    assert lines[1].split() == [
        "class", "n", "Dice", "Jaccard", "95HD", "mm", "ASD", "mm", "missed", "invented", "absent",
    ]  # fmt: skip
    atrium, mean = lines[3].split(), lines[5].split()
    assert atrium[:3] == ["atrium", "3", "0.8000"]  # (1 + 4/5 + 3/5) / 3
    assert atrium[1:] == mean[1:]
    assert lines[6].startswith("95 % interval from")
    assert float(lines[6].split()[4]) < 0.8 < float(lines[7].split()[4])
    assert len({line.index(part) + len(part) for line, part in (
        (lines[1], "Dice"), (lines[3], "0.8000"), (lines[5], "0.8000"), (lines[6], "0.6000"),
    )}) == 1  # fmt: skip
    assert (predictions / "metrics.csv").is_file()
    assert (predictions / "summary.json").is_file()


def test_measures_of_the_table_can_be_chosen_and_all_are_in_the_files(folders):
    predictions, labels = folders
    flags = ("--measures", "nsd", "volume_error", "--nsd-tolerance", "0.5")
    done = gnnunet_evaluate("-p", predictions, "-g", labels, *flags)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "protocol honest, 3 cases, distances in mm, nsd at 0.5 mm"
    assert lines[1].split() == [
        "class", "n", "NSD", "Vol.", "error", "missed", "invented", "absent",
    ]  # fmt: skip
    columns = (predictions / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert columns[2:10] == [
        "dice", "jaccard", "nsd", "hd95", "asd", "volume_error", "precision", "recall",
    ]  # fmt: skip
    summary = json.loads((predictions / "summary.json").read_text(encoding="utf-8"))
    assert summary["nsd_tolerance_mm"] == 0.5
    assert {"Dice", "NSD", "VolumeError", "Precision", "Recall"} <= set(summary["foreground_mean"])


def test_all_lines_fit_a_terminal(folders):
    for flags in ((), ("--measures", "dice", "nsd", "hd95", "asd", "volume_error")):
        done = gnnunet_evaluate("-p", folders[0], "-g", folders[1], *flags)
        assert max(map(len, done.stdout.splitlines())) <= 100


def test_first_line_names_the_folders_unless_quiet(folders, tmp_path: Path):
    arguments = ("-p", folders[0], "-g", folders[1], "-o", tmp_path / "out")
    loud, quiet = gnnunet_evaluate(*arguments), gnnunet_evaluate(*arguments, "--quiet")
    assert loud.stderr.startswith(f"folders: predictions={folders[0]} labels={folders[1]}")
    assert quiet.stderr == ""
    assert quiet.stdout == loud.stdout
    assert (tmp_path / "out" / "metrics.csv").is_file()


def test_published_protocol_says_voxel(folders):
    done = gnnunet_evaluate("-p", folders[0], "-g", folders[1], "--protocol", "published")
    assert done.stdout.startswith("protocol published, 3 cases, distances in voxel\n")
    assert "95HD voxel" in done.stdout


def test_missing_prediction_ends_with_three_and_still_shows_the_others(folders):
    predictions, labels = folders
    (predictions / "b.nii.gz").unlink()
    done = gnnunet_evaluate("-p", predictions, "-g", labels)
    assert done.returncode == 3
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert error.startswith(f"error: b: there is no prediction in {predictions}. ")
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("protocol honest, 2 cases")
    assert "1 case could not be scored and is in none of these figures" in done.stdout
    assert (
        (predictions / "failures.csv")
        .read_text(encoding="utf-8")
        .startswith("case,stage,cause,remedy\nb,eval")
    )


def test_nothing_to_score_ends_with_two_and_one_line_a_fault(folders):
    predictions, labels = folders
    for case in "abc":
        write(predictions / f"{case}.nii.gz", 0, ids=7)
    done = gnnunet_evaluate("-p", predictions, "-g", labels)
    assert done.returncode == 2
    assert done.stdout == ""
    errors = done.stderr.splitlines()[1:]
    assert [line[:9] for line in errors] == ["error: a:", "error: b:", "error: c:"]
    assert all("value 7 (40 voxels)" in line and "dataset.json" in line for line in errors)
    assert not (predictions / "metrics.csv").exists()


def test_other_names_for_the_classes_can_be_given(folders, tmp_path: Path):
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"labels": {"background": 0, "heart": 1}}))
    done = gnnunet_evaluate("-p", folders[0], "-g", folders[1], "-djfile", names, "-np", 1)
    assert done.returncode == 0, done.stderr
    assert "\nheart " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-np", "0"), "error: argument -np: 0 is out of range: use a number from 1 to 1024"),
        (("-djfile", "nowhere.json"), "error: nowhere.json is missing"),
        (("--protocol", "fair"), "invalid choice: 'fair'"),
        (("--measures", "iou"), "error: there is no measure 'iou'. Use dice, jaccard, nsd"),
        (("--nsd-tolerance", "-1"), "argument --nsd-tolerance: -1 is out of range"),
        (("--unsupervised", "--measures", "dice"), "error: --measures does not go with --unsup"),
    ],
)
def test_wrong_flags_end_with_two(folders, arguments, message: str):
    done = gnnunet_evaluate("-p", folders[0], "-g", folders[1], *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_training_cases_are_called_no_estimate(folders, tmp_path: Path):
    place = tmp_path / "fold_all" / "validation"
    place.parent.mkdir()
    folders[0].rename(place)
    done = gnnunet_evaluate("-p", place, "-g", folders[1])
    assert "These cases trained the model" in done.stdout


def test_help_is_light_and_names_the_protocols():
    code = COMMAND.replace("sys.exit(main())", "") + (
        "\ntry: main(['--help'])\nexcept SystemExit: pass"
        "\nheavy = {'numpy', 'scipy', 'torch', 'SimpleITK', 'nibabel'} & set(sys.modules)"
        "\nsys.exit(f'imported {heavy}' if heavy else 0)"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 2  # the limit is 0.5 s on an idle machine
    assert "honest" in done.stdout
    assert "published" in done.stdout
