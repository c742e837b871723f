"""Which scans to label next, from the raw folder or from a model's predictions."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_study import DATASET, use_home, write_image, write_raw_dataset

from graphnn_unet.commands.suggest import main
from graphnn_unet.dataset_conversion.raw_set import RawSet
from graphnn_unet.errors import FaultsError, InputError
from graphnn_unet.images.as_predicted import EDITING
from graphnn_unet.models import suggest as module
from graphnn_unet.models.suggest import suggest

N_UNLABELED = 6


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    home = use_home(tmp_path / "home", monkeypatch)
    return write_raw_dataset(home / "raw", n_unlabeled=N_UNLABELED)


def striped(raw: Path, case: str, axis: int) -> None:
    """An image like no other."""
    array = np.zeros((18, 20, 22), np.float32)
    np.moveaxis(array, axis, 0)[::4] = 100
    array += np.random.default_rng(0).normal(0, 1, array.shape).astype(np.float32)
    write_image(raw / "imagesUn" / f"{case}_0000.nii.gz", array)


def test_before_a_model_scans_unlike_the_labeled_ones_come_first(raw, tmp_path):
    striped(raw, "case_06", 0)
    striped(raw, "case_08", 2)
    result = suggest(DATASET, count=2, output=tmp_path / "out", n_workers=0)
    assert sorted(result.cases()) == ["case_06", "case_08"]
    rows = list(csv.DictReader(result.table.open()))
    assert [row["list"] for row in rows] == ["suggested"] * 2 + ["random"] * 2
    assert len(set(result.cases("random"))) == 2
    assert rows[0]["why"] == "nearest to 1 of 10 scans"


def test_the_random_list_depends_on_the_seed_alone(raw, tmp_path):
    lists = [
        suggest(DATASET, count=3, output=tmp_path, seed=seed, n_workers=0).cases("random")
        for seed in (0, 0, 1, 2)
    ]
    assert lists[0] == lists[1]
    assert len({tuple(cases) for cases in lists}) > 1


def test_scans_of_test_patients_are_not_suggested(raw, tmp_path):
    record = json.loads((raw / "gnnunet.json").read_text(encoding="utf-8"))
    for case in ("case_04", "case_05"):
        record["patients"][case] = record["patients"]["case_10"]
    (raw / "gnnunet.json").write_text(json.dumps(record))
    result = suggest(DATASET, count=4, output=tmp_path, n_workers=0)
    everyone = {*result.cases(), *result.cases("random")}
    assert everyone == {f"case_{i:02d}" for i in range(6, 10)}
    with pytest.raises(InputError, match="has 4 unlabeled scans"):
        suggest(DATASET, count=5, output=tmp_path, n_workers=0)


def test_slices_lie_at_equal_distances_across_the_coarsest_axis(raw, tmp_path):
    for i in range(4, 10):
        array = np.random.default_rng(i).normal(size=(18, 20, 22)).astype(np.float32)
        write_image(raw / "imagesUn" / f"case_{i:02d}_0000.nii.gz", array, (1.0, 4.0, 1.0))
    result = suggest(DATASET, count=1, slices=4, output=tmp_path, n_workers=0)
    assert {(row.axis, row.slices) for row in result.suggestions} == {("y", (2, 7, 12, 17))}
    assert "2 7 12 17" in result.table.read_text(encoding="utf-8")


def predicted(entropies: dict[str, float]):
    """A stand-in for ``predict`` that writes label maps and uncertainties."""

    def predict(images: Path, target: Path, **options) -> None:
        assert options["uncertainty"]
        assert images.name == "imagesUn"
        for case, entropy in entropies.items():
            label = np.zeros((4, 5, 6), np.uint8)
            label[1:3] = 1
            write_image(target / f"{case}.nii.gz", label)
            map_ = np.where(label == 1, entropy, 0.0).astype(np.float32)
            write_image(target / f"{case}_uncertainty.nii.gz", map_)
        text = (images.parent / "dataset.json").read_text(encoding="utf-8")
        (target / "dataset.json").write_text(text)

    return predict


def test_after_a_model_uncertain_scans_come_first_and_can_be_edited(raw, tmp_path, monkeypatch):
    entropies = {f"case_{i:02d}": 0.02 * i for i in range(4, 10)}
    monkeypatch.setattr(module, "predict", predicted(entropies))
    result = suggest(DATASET, count=3, model="m", output=tmp_path / "o", round_number=3)
    assert result.cases() == ["case_09", "case_08", "case_07"]
    assert result.suggestions[0].why == "entropy of voxels predicted as shell"
    assert result.suggestions[0].score == pytest.approx(0.18)
    edited = sorted(path.name for path in (result.predictions / EDITING).glob("*.seg.nrrd"))
    assert edited == [f"case_{i:02d}.seg.nrrd" for i in (7, 8, 9)]


def test_each_round_has_a_folder_of_its_own(raw, tmp_path, monkeypatch):
    """Label maps of an earlier round are those of another model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "predict", predicted({f"case_{i:02d}": 0.1 for i in range(4, 10)}))
    first = suggest(DATASET, count=2, model="m").table.parent
    monkeypatch.setattr(RawSet, "round", 2)
    second = suggest(DATASET, count=2, model="m").table.parent
    assert (str(first), str(second)) == ("Tiny_suggestions", "Tiny_suggestions_round_2")


def test_predictions_have_the_ending_of_the_model(raw, tmp_path, monkeypatch):
    entropies = {f"case_{i:02d}": 0.02 * i for i in range(4, 10)}
    write = predicted(entropies)

    def predict(images, target, **options):
        write(images, target, **options)
        for path in target.glob("*.nii.gz"):
            sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", ".mha"))
            path.unlink()
        description = json.loads((target / "dataset.json").read_text(encoding="utf-8"))
        text = json.dumps({**description, "file_ending": ".mha"})
        (target / "dataset.json").write_text(text, encoding="utf-8")

    monkeypatch.setattr(module, "predict", predict)
    result = suggest(DATASET, count=3, model="m", output=tmp_path / "o", round_number=3)
    assert result.cases() == ["case_09", "case_08", "case_07"]
    assert len(list((result.predictions / EDITING).glob("*.seg.nrrd"))) == 3


def test_scans_that_cannot_be_read_are_told(raw, tmp_path):
    path = raw / "imagesUn" / "case_05_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FaultsError, match="case_05"):
        suggest(DATASET, count=1, output=tmp_path, n_workers=0)


def test_the_command_prints_both_lists_and_promises_nothing(raw, tmp_path, capsys):
    words = ["-d", "Tiny", "--count", "2", "--slices", "3", "-o", str(tmp_path / "o"), "-np", "0"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert shown.out.count("random draw") == 2
    assert shown.out.count("3 9 15") == 4
    assert "neither list is promised to be the better one" in shown.err
    assert main(["-d", "Tiny", "--count", "20", "-o", str(tmp_path / "o")]) == 2


@pytest.mark.parametrize("count", [1, 5, 6])
def test_the_command_says_which_scans_are_in_both_lists(raw, tmp_path, capsys, count):
    striped(raw, "case_06", 0)
    words = ["-d", "Tiny", "--count", str(count), "-o", str(tmp_path), "-np", "1", "--seed", "1"]
    assert main(words) == 0
    rows = list(csv.DictReader((tmp_path / "suggestions.csv").open()))
    lists = {
        name: [r["case"] for r in rows if r["list"] == name] for name in ("suggested", "random")
    }
    both = [case for case in lists["suggested"] if case in lists["random"]]
    told = [x for x in capsys.readouterr().out.splitlines() if "in both lists" in x]
    noun = "scan" if len(both) == 1 else "scans"
    assert told == ([f"{len(both)} {noun} in both lists: {', '.join(both)}"] if both else [])
    assert len(both) >= 2 * count - N_UNLABELED
