"""One case made ready: what is written, what is noted, which fault it has."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from volume_makers import image_array, label_array, read, save

from graphnn_unet.dataset_conversion.prepare import CaseJob, prepare_case
from graphnn_unet.dataset_conversion.records import Case
from graphnn_unet.images.volume import Volume


def job(folder: Path, target: Path | None = None, label=None, **changes) -> CaseJob:
    """A labeled case ``a`` of one channel."""
    image = save(image_array(1), folder / "a.nii.gz")
    if isinstance(label, np.ndarray):
        label = save(label, folder / "a_label.nii.gz")
    inputs = (image, *([label] if isinstance(label, Path) else []))
    case = Case("a", (image,), label, "labeled" if label else "unlabeled", "p", inputs)
    settings = {
        "n_channels": 1, "label_values": (0, 1, 2), "label_mapping": {}, "fix_geometry": None,
    }  # fmt: skip
    return CaseJob(case, folder, target, **(settings | changes))


def test_a_look_finds_what_writing_finds_and_writes_nothing(tmp_path: Path):
    looked, faults = prepare_case(job(tmp_path / "in", label=label_array(2)))
    assert faults == []
    assert looked is not None
    assert (looked.shape, looked.spacing) == ((6, 8, 10), (2.0, 1.5, 1.0))
    assert looked.label_values == (0, 2)
    assert looked.minimum == pytest.approx(float(image_array(1).min()))
    assert looked.sha256 == {}
    written, _ = prepare_case(job(tmp_path / "in", tmp_path / "out", label=label_array(2)))
    assert written is not None
    assert sorted(written.sha256) == ["a.nii.gz", "a_label.nii.gz"]
    names = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("out/*/*")}
    assert names == {"imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"}


def test_files_that_need_no_change_are_copied(tmp_path: Path):
    prepare_case(job(tmp_path / "in", tmp_path / "out", label=label_array()))
    for source, copy in (("a", "imagesTr/a_0000"), ("a_label", "labelsTr/a")):
        written = (tmp_path / "out" / f"{copy}.nii.gz").read_bytes()
        assert written == (tmp_path / "in" / f"{source}.nii.gz").read_bytes()


def test_values_are_mapped_and_listed_as_they_are_written(tmp_path: Path):
    mapped = job(tmp_path / "in", tmp_path / "out", label_array(7), label_mapping={0: 0, 7: 2})
    row, _ = prepare_case(mapped)
    assert row is not None
    assert row.label_values == (0, 2)
    np.testing.assert_array_equal(read(tmp_path / "out/labelsTr/a.nii.gz"), label_array(2))


@pytest.mark.parametrize(
    ("label", "code", "words"),
    [
        (label_array(9), "I23", "9 (31 voxels)"),
        (label_array().astype(np.int16) * -1, "I26", "-1 (31 voxels)"),
        (label_array().astype(np.float32) * 0.4, "I24", "such as 0.4"),
        (label_array()[:5], "I15", "(5, 8, 10) against (6, 8, 10) voxels"),
    ],
)
def test_a_label_map_that_cannot_train_is_a_fault(tmp_path: Path, label, code: str, words: str):
    _, (fault,) = prepare_case(job(tmp_path / "in", tmp_path / "out", label=label))
    assert (fault.case, fault.code) == ("a", code)
    assert words in fault.cause
    assert not list(tmp_path.rglob("labelsTr"))


def test_a_case_without_all_channels_or_with_only_zeros_is_a_fault(tmp_path: Path):
    row, (fault,) = prepare_case(job(tmp_path / "in", n_channels=2))
    assert (row, fault.code) == (None, "I21")
    zeros = partial(Volume, np.zeros((3, 4, 5), np.float32), (1.0, 1.0, 1.0))
    case = Case("z", (zeros,), None, "unlabeled", "z")
    _, (fault,) = prepare_case(CaseJob(case, tmp_path, None, 1, (0,), {}, None))
    assert fault.code == "I48"


def test_images_in_double_precision_are_written_in_single(tmp_path: Path):
    array = image_array(3).astype(np.float64)
    image = partial(Volume, array, (1.0, 1.0, 1.0))
    case = Case("d", (image,), None, "test", "d")
    prepare_case(CaseJob(case, tmp_path, tmp_path / "out", 1, (0,), {}, None))
    written = read(tmp_path / "out/imagesTs/d_0000.nii.gz")
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, array.astype(np.float32))
