"""Segments of 3D Slicer are matched by their names, in whatever order a file numbers them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from volume_makers import SHAPE, image_array, read, save

from graphnn_unet.dataset_conversion.convert import convert
from graphnn_unet.errors import BadFileError, FaultsError, InputError
from graphnn_unet.images.segments import Segment, segments_of

FIRST = [("tumor", 1, 0), ("liver", 2, 0)]
TURNED = [("liver", 1, 0), ("tumor", 2, 0)]


def seg_nrrd(path: Path, array: np.ndarray, segments: list[tuple[str, int, int]]) -> Path:
    n_axes = array.ndim
    lines = [
        "NRRD0004", "type: unsigned char", f"dimension: {n_axes}",
        f"sizes: {' '.join(map(str, array.shape[::-1]))}", "space: left-posterior-superior",
        f"space directions: {'none ' * (n_axes - 3)}(1,0,0) (0,1.5,0) (0,0,2)",
        "space origin: (3,-4,5)", "encoding: raw",
    ]  # fmt: skip
    for i, (name, value, layer) in enumerate(segments):
        lines += [f"Segment{i}_Name:={name}", f"Segment{i}_LabelValue:={value}"]
        lines += [f"Segment{i}_Layer:={layer}", f"Segment{i}_Color:=1 0 0"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n\n").encode() + array.astype(np.uint8).tobytes())
    return path


def truth() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:3, 1:4, 2:7], array[4, 5:7, 1:3] = 1, 2
    return array


def swapped(array: np.ndarray) -> np.ndarray:
    return np.array([0, 2, 1], np.uint8)[array]


@pytest.fixture
def study(tmp_path: Path, raw: Path) -> Path:
    for i, name in enumerate(("p1", "p2")):
        save(image_array(i), tmp_path / "im" / f"{name}.nii.gz")
    seg_nrrd(tmp_path / "la" / "p1.seg.nrrd", truth(), FIRST)
    seg_nrrd(tmp_path / "la" / "p2.seg.nrrd", swapped(truth()), TURNED)
    return tmp_path


def run(study: Path, **options):
    return convert("nifti", images=study / "im", labels=study / "la", dataset="My", **options)


def test_segments_are_matched_by_name(study: Path):
    result = run(study)
    assert result.labels == {"background": 0, "tumor": 1, "liver": 2}
    for name in ("p1", "p2"):
        np.testing.assert_array_equal(read(result.folder / f"labelsTr/{name}.nii.gz"), truth())
    assert any("matched by name: tumor=1, liver=2" in note for note in result.notes)


def test_files_that_agree_give_their_names_alone(study: Path):
    seg_nrrd(study / "la" / "p2.seg.nrrd", truth(), FIRST)
    assert run(study).labels == {"background": 0, "tumor": 1, "liver": 2}
    renamed = run(study, label_names={2: "spleen"}, overwrite=True)
    assert renamed.labels == {"background": 0, "tumor": 1, "spleen": 2}


def test_another_spelling_in_another_file_is_the_same_segment(study: Path):
    seg_nrrd(study / "la" / "p2.seg.nrrd", swapped(truth()), [("Liver", 1, 0), ("TUMOR", 2, 0)])
    result = run(study)
    assert result.labels == {"background": 0, "tumor": 1, "liver": 2}
    np.testing.assert_array_equal(read(result.folder / "labelsTr/p2.nii.gz"), truth())


def test_a_segment_called_ignore_is_the_highest(study: Path):
    seg_nrrd(study / "la" / "p1.seg.nrrd", truth(), [("Ignore", 1, 0), ("liver", 2, 0)])
    seg_nrrd(study / "la" / "p2.seg.nrrd", swapped(truth()), [("liver", 1, 0), ("Ignore", 2, 0)])
    result = run(study)
    assert result.labels == {"background": 0, "liver": 1, "ignore": 2}
    for name in ("p1", "p2"):
        written = read(result.folder / f"labelsTr/{name}.nii.gz")
        np.testing.assert_array_equal(written, swapped(truth()))


def test_values_without_a_name_are_refused(study: Path):
    array = swapped(truth())
    array[0, 0, 0] = 3
    seg_nrrd(study / "la" / "p2.seg.nrrd", array, TURNED)
    with pytest.raises(FaultsError, match="the value 3, which none of its segments is"):
        run(study)


def test_orders_that_differ_leave_no_room_for_numbers(study: Path):
    with pytest.raises(InputError, match="mean different segments"):
        run(study, label_names={1: "tumor"})
    save(image_array(3), study / "im" / "p3.nii.gz")
    save(truth(), study / "la" / "p3.nii.gz")
    with pytest.raises(InputError, match="p3 does not name its segments"):
        run(study)


def test_overlapping_segments_are_refused_with_what_to_do(study: Path):
    layers = np.stack([truth(), np.roll(truth(), 1, 0)], axis=-1)
    path = study / "la" / "p2.seg.nrrd"
    seg_nrrd(path, layers, [("liver", 1, 0), ("tumor", 1, 1)])
    assert segments_of(path) == (Segment("liver", 1, 0), Segment("tumor", 1, 1))
    with pytest.raises(InputError, match="overlapping segments in 2 layers") as error:
        run(study)
    assert "as a label map" in error.value.line


@pytest.mark.parametrize(
    "segments", [[("Liver", 1, 0), ("liver", 2, 0)], [("liver", 1, 0), ("tumor", 1, 0)]]
)
def test_segments_that_cannot_be_told_apart_are_refused(tmp_path: Path, segments):
    with pytest.raises(BadFileError, match=r"told apart by name|two segments of one value"):
        segments_of(seg_nrrd(tmp_path / "a.seg.nrrd", truth(), segments))


def test_other_files_have_no_segments(tmp_path: Path):
    assert segments_of(seg_nrrd(tmp_path / "a.nrrd", truth(), [])) == ()
    assert segments_of(save(truth(), tmp_path / "a.nii.gz")) == ()
