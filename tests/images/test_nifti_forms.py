"""Where a NIfTI file lies when qform and sform disagree, or say nothing."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet.clustering import images as clustering
from graphnn_unet.dataset_conversion.prepare import CaseJob, prepare_case
from graphnn_unet.dataset_conversion.records import Case
from graphnn_unet.errors import BadFileError, FaultsError
from graphnn_unet.images.grid import compare_grids
from graphnn_unet.images.header import read_grid
from graphnn_unet.images.nifti_forms import copy_nifti_forms, is_plain, place_note, plain_files
from graphnn_unet.images.read import read_label_map, read_volume
from graphnn_unet.metrics.evaluate import evaluate
from graphnn_unet.models.cases import is_whole
from graphnn_unet.prediction.write_case import Outputs

SHAPE = (7, 6, 5)  # x y z
HERE = np.diag([-1.0, -1.5, 2.0, 1.0])
THERE = HERE.copy()
THERE[:3, 3] = [20, -10, 5]
TURN = np.array([[0.98, -0.199, 0, 5], [0.199, 0.98, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])
TURNED = TURN @ HERE
LARGER = HERE @ np.diag([2.0, 2.0, 2.0, 1.0])


def save(path: Path, qform=(HERE, 1), sform=(HERE, 1), kind=np.int16, unit: int = 2) -> Path:
    """A file with exactly these matrices and codes; nibabel's own writer would correct some."""
    array = np.arange(np.prod(SHAPE), dtype=kind).reshape(SHAPE) % 3
    header = nib.Nifti1Header()
    header.set_data_dtype(kind)
    header.set_data_shape(SHAPE)
    header.set_qform(*qform)
    header["srow_x"], header["srow_y"], header["srow_z"] = sform[0][:3]
    header["sform_code"] = sform[1]
    header["xyzt_units"] = unit
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".img":
        header["magic"], header["vox_offset"] = b"ni1", 0
        path.with_suffix(".hdr").write_bytes(header.binaryblock)
        path.write_bytes(array.astype(kind).tobytes("F"))
        return path
    content = header.binaryblock + b"\0" * 4 + array.astype(kind).tobytes("F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


DISAGREEING = {
    "origin": {"sform": (THERE, 2)},
    "scanner": {"sform": (THERE, 1)},
    "turned": {"sform": (TURNED, 4)},
    "size": {"sform": (LARGER, 1)},
    "size without qform": {"qform": (HERE, 0), "sform": (LARGER, 2)},
    "empty sform": {"sform": (np.zeros((4, 4)), 1)},
}


@pytest.mark.parametrize("name", ["a.nii", "a.img"])
@pytest.mark.parametrize("forms", DISAGREEING.values(), ids=DISAGREEING)
def test_a_header_with_two_places_is_refused(tmp_path: Path, forms, name: str):
    path = save(tmp_path / name, **forms)
    for read in (read_grid, read_volume):
        with pytest.raises(BadFileError, match=rf"{name} says twice where it lies") as error:
            read(path)
        assert error.value.code == "I53"
        assert "--nifti-form sform or qform" in error.value.remedy
        assert "\n" not in error.value.line


@pytest.mark.parametrize(
    "forms",
    [
        {},
        {"qform": (HERE, 0)},
        {"sform": (THERE, 0)},
        {"sform": (HERE + 1e-4 * np.eye(4), 2)},
        {"qform": (THERE, 0), "sform": (HERE, 1)},
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.img"])
def test_one_place_or_a_rounded_second_is_read(tmp_path: Path, forms, name: str):
    path = save(tmp_path / name, **forms)
    assert read_grid(path).other_form is None
    assert read_volume(path).grid == read_grid(path)


@pytest.mark.parametrize("name", ["a.nii", "a.img"])
@pytest.mark.parametrize(("form", "affine"), [("sform", TURNED), ("qform", HERE)])
def test_the_chosen_form_is_the_place_that_itk_reads_from_a_file_with_it_alone(
    tmp_path: Path, form, affine, name: str
):
    path = save(tmp_path / name, sform=(TURNED, 1))
    alone = save(tmp_path / "alone.nii", qform=(affine, 1), sform=(affine, 1))
    assert not compare_grids(read_grid(path, form=form), read_grid(alone)).voxels > 1e-4
    with plain_files([path, alone], form) as (placed, same):
        assert same == alone
        image, expected = sitk.ReadImage(str(placed)), sitk.ReadImage(str(alone))
        np.testing.assert_allclose(image.GetOrigin(), expected.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(image.GetDirection(), expected.GetDirection(), atol=1e-5)
        np.testing.assert_allclose(nib.load(placed).affine, affine, atol=1e-4)
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(expected))
    assert not placed.exists()


def test_size_of_the_chosen_form_counts_in_millimeters(tmp_path: Path):
    path = save(tmp_path / "a.nii", qform=(HERE, 0), sform=(LARGER, 1), unit=3)
    assert read_grid(path, form="sform").spacing == pytest.approx((0.004, 0.003, 0.002))
    with pytest.raises(BadFileError, match="has no qform"):
        read_grid(path, form="qform")


def test_a_sheared_form_cannot_be_chosen(tmp_path: Path):
    sheared = HERE.copy()
    sheared[0, 1] = 0.4
    path = save(tmp_path / "a.nii", sform=(sheared, 1))
    assert read_grid(path, form="qform").spacing == pytest.approx((2.0, 1.5, 1.0))
    with pytest.raises(BadFileError, match="axes of its sform are not perpendicular"):
        read_grid(path, form="sform")


@pytest.mark.parametrize(
    "forms",
    [
        *DISAGREEING.values(),
        {"qform": (HERE, 0), "sform": (HERE, 0)},
        {"qform": (HERE, 0), "sform": (THERE, 2)},
        {"unit": 3},
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_what_is_written_lies_on_the_image_for_every_reader(tmp_path: Path, forms, ending: str):
    image = save(tmp_path / "a.nii", **forms)
    labels = sitk.GetImageFromArray(np.ones(SHAPE[::-1], np.uint8))
    written = tmp_path / f"b{ending}"
    sitk.WriteImage(labels, str(written))
    copy_nifti_forms(image, written)
    wanted, header = nib.load(image).header, nib.load(written).header
    for code in ("qform_code", "sform_code"):
        assert header[code] == wanted[code]
    np.testing.assert_allclose(header.get_best_affine(), wanted.get_best_affine(), atol=1e-5)
    np.testing.assert_allclose(header.get_qform(), wanted.get_qform(), atol=1e-5)
    itk_image, itk_written = sitk.ReadImage(str(image)), sitk.ReadImage(str(written))
    assert itk_written.GetOrigin() == pytest.approx(itk_image.GetOrigin(), abs=1e-5)
    assert itk_written.GetSpacing() == pytest.approx(itk_image.GetSpacing(), abs=1e-6)
    assert itk_written.GetDirection() == pytest.approx(itk_image.GetDirection(), abs=1e-6)
    assert (sitk.GetArrayFromImage(itk_written) == 1).all()


def test_a_file_that_lies_right_is_not_written_again(tmp_path: Path):
    image = save(tmp_path / "a.nii")
    written = tmp_path / "b.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(image)), str(written))
    before = written.read_bytes()
    copy_nifti_forms(image, written)
    assert written.read_bytes() == before


def test_files_of_other_kinds_and_sizes_keep_their_header(tmp_path: Path):
    image = save(tmp_path / "a.nii", sform=(THERE, 2))
    for name, shape in (("b.mha", SHAPE[::-1]), ("b.nii.gz", (3, 3, 3))):
        sitk.WriteImage(sitk.GetImageFromArray(np.ones(shape, np.uint8)), str(tmp_path / name))
        before = (tmp_path / name).read_bytes()
        copy_nifti_forms(image, tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    copy_nifti_forms(tmp_path / "b.mha", image)
    assert read_grid(image, form="sform").origin == pytest.approx((-20, 10, 5))


def converted(path: Path, target: Path, form=None):
    job = CaseJob(
        Case("a", (path,), path, "labeled", "a"), path.parent, target, 1, (0, 1, 2), {}, None, form
    )
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True)
    return prepare_case(job)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.img"])
def test_convert_refuses_two_places_and_writes_the_chosen_one_twice(tmp_path: Path, name: str):
    path = save(tmp_path / name, sform=(TURNED, 2), kind=np.uint8)
    _, faults = converted(path, tmp_path / "refused")
    assert {fault.code for fault in faults} == {"I53"}
    row, faults = converted(path, tmp_path / "raw", "sform")
    assert not faults
    assert any("the sform was taken" in note for note in row.notes)
    for written in (tmp_path / "raw").rglob("*.nii.gz"):
        header = nib.load(written).header
        np.testing.assert_allclose(header.get_sform(), TURNED, atol=1e-4)
        np.testing.assert_allclose(header.get_qform(), TURNED, atol=1e-4)


def test_a_header_that_says_nothing_is_told_and_written_with_a_place(tmp_path: Path):
    path = save(tmp_path / "a.nii.gz", qform=(HERE, 0), sform=(HERE, 0), kind=np.uint8)
    assert "says nothing about position" in place_note(path, None)
    assert not is_plain(path)
    row, _ = converted(path, tmp_path / "raw")
    assert any("says nothing about position" in note for note in row.notes)
    image = tmp_path / "raw" / "imagesTr" / "a_0000.nii.gz"
    assert nib.load(image).header["sform_code"] > 0
    assert compare_grids(read_grid(image), read_grid(path)).voxels < 1e-4


def test_evaluation_compares_both_places(tmp_path: Path):
    for folder in ("same", "truth"):
        save(tmp_path / folder / "a.nii.gz", sform=(THERE, 2), kind=np.uint8)
    save(tmp_path / "sform" / "a.nii.gz", qform=(THERE, 1), sform=(THERE, 2), kind=np.uint8)
    save(tmp_path / "qform" / "a.nii.gz", kind=np.uint8)
    scores = evaluate(tmp_path / "same", tmp_path / "truth", tmp_path / "o_same")
    assert scores.mean["dice"].value == 1.0
    assert read_label_map(tmp_path / "same" / "a.nii.gz").grid.other_form is not None
    for folder in ("sform", "qform"):
        with pytest.raises(FaultsError, match="not on the grid"):
            evaluate(tmp_path / folder, tmp_path / "truth", tmp_path / f"o_{folder}")


def test_a_prediction_with_both_places_is_continued(tmp_path: Path):
    image = save(tmp_path / "images" / "a_0000.nii.gz", sform=(THERE, 2))
    (tmp_path / "out").mkdir()
    save(tmp_path / "out" / "a.nii.gz", sform=(THERE, 2), kind=np.uint8)
    assert is_whole(tmp_path / "out", "a", image, Outputs(".nii.gz"), "sform")
    save(tmp_path / "out" / "a.nii.gz", kind=np.uint8)
    assert not is_whole(tmp_path / "out", "a", image, Outputs(".nii.gz"), "sform")


def test_cluster_maps_lie_on_an_image_without_a_place(tmp_path: Path):
    image = save(tmp_path / "a.nii.gz", qform=(HERE, 0), sform=(HERE, 0))
    source = clustering.Source("a", (image,), ".nii.gz")
    target = tmp_path / "out.nii.gz"
    labels = np.ones(SHAPE[::-1], np.uint8)
    clustering.write_label_map(labels, clustering.read_image(source), target)
    np.testing.assert_allclose(nib.load(target).affine, nib.load(image).affine, atol=1e-5)
    assert clustering.is_whole(target, source)
    save(image, sform=(THERE, 2))
    with pytest.raises(BadFileError, match="says twice where it lies"):
        clustering.read_image(source)
