"""Predictions of DICOM series as DICOM objects: written, kept, redone and refused."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from models.small_models import read
from prediction.dicom_series import OBLIQUE, clinical_series, in_segments, in_structures

from graphnn_unet import predict
from graphnn_unet.errors import CasesFailedError, InputError, RefusedError
from graphnn_unet.prediction.dicom_objects import RTSTRUCT, SEG

BOTH = ("nifti", SEG, RTSTRUCT)


@pytest.fixture(scope="module")
def study(images, tmp_path_factory) -> Path:
    """Three series in a tree, the third without what objects refer to. Read only."""
    folder = tmp_path_factory.mktemp("study")
    array = read(images / "b_0000.nii.gz").round().astype(np.int16)
    clinical_series(folder / "Müller" / "CT", array, spacing=(1.5, 1.0, 1.2))
    clinical_series(folder / "oblique", array[:, :, :-3], OBLIQUE, spacing=(1.5, 1.0, 1.2))
    clinical_series(folder / "bare", array, FrameOfReferenceUID=None)
    return folder


@pytest.fixture(scope="module")
def predicted(model, study, tmp_path_factory) -> Path:
    """All types of output. Read only."""
    target = tmp_path_factory.mktemp("predicted")
    with pytest.raises(CasesFailedError, match="bare: its headers lack FrameOfReferenceUID"):
        run(study, target, model, output_types=BOTH)
    return target


def run(study: Path, target: Path, model: Path, **options):
    return predict(study, target, model=model, device="cpu", mirroring=False, **options)


def in_order(folder: Path) -> list[Path]:
    """Files of a series along the normal of its slices."""
    headers = {path: pydicom.dcmread(path) for path in folder.glob("*.dcm")}

    def height(path: Path) -> float:
        cosines = np.reshape([float(v) for v in headers[path].ImageOrientationPatient], (2, 3))
        return float(np.cross(*cosines) @ [float(v) for v in headers[path].ImagePositionPatient])

    return sorted(headers, key=height)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".dcm", ".gz"))


def test_objects_have_the_voxels_of_the_label_map(study, predicted):
    assert names(predicted) == sorted(
        f"{case}{ending}"
        for case in ("Müller_CT", "oblique")
        for ending in (".nii.gz", "_seg.dcm", "_rtstruct.dcm")
    )
    for case, folder in (("Müller_CT", study / "Müller" / "CT"), ("oblique", study / "oblique")):
        labels, files = read(predicted / f"{case}.nii.gz"), in_order(folder)
        assert {0, 1, 2} >= set(np.unique(labels)) > {0}
        for masks in (
            in_segments(predicted / f"{case}_seg.dcm", files),
            in_structures(predicted / f"{case}_rtstruct.dcm", files),
        ):
            for number, name in enumerate(("shell", "core"), start=1):
                np.testing.assert_array_equal(masks[name], labels == number)
    model_id = json.loads((predicted / "prediction.json").read_text(encoding="utf-8"))["weights"]
    assert pydicom.dcmread(predicted / "oblique_seg.dcm").DeviceSerialNumber == model_id


def test_what_is_whole_is_kept_and_what_is_not_is_redone(study, predicted, model, tmp_path):
    target = shutil.copytree(predicted, tmp_path / "out")
    (target / "oblique_rtstruct.dcm").write_bytes(b"cut")
    before = (target / "Müller_CT_seg.dcm").read_bytes()
    with pytest.raises(CasesFailedError):
        run(study, target, model, output_types=BOTH, continue_prediction=True)
    assert (target / "Müller_CT_seg.dcm").read_bytes() == before
    assert names(target) == names(predicted)
    pydicom.dcmread(target / "oblique_rtstruct.dcm")


def test_a_segmentation_alone_is_a_case_that_is_done(study, model, predicted, tmp_path):
    """Its volumes are told, it is kept, and other models are told apart, as with label maps."""
    target, series = tmp_path / "out", study / "oblique"
    assert run(series, target, model, output_types=[SEG]).predicted == ["oblique"]
    assert names(target) == ["oblique_seg.dcm"]
    with (target / "names.csv").open(newline="") as file:
        assert [row["output"] for row in csv.DictReader(file)] == ["oblique_seg.dcm"]
    volumes = (target / "volumes.csv").read_text(encoding="utf-8").splitlines()
    told = (predicted / "volumes.csv").read_text(encoding="utf-8").splitlines()
    assert volumes[1:] == [line for line in told if line.startswith("oblique")]
    again = run(series, target, model, output_types=[SEG], continue_prediction=True)
    assert (again.predicted, again.kept) == ([], ["oblique"])
    with pytest.raises(RefusedError, match="label maps of another model or other options"):
        run(study / "Müller", target, model, output_types=[SEG], step_size=0.4)
    # the old object would lie beside the label map of other options
    run(series, target, model, step_size=0.4)
    assert names(target) == ["oblique.nii.gz"]
    assert names(target / "set_aside") == ["oblique_seg.dcm"]


def test_volumes_and_unknown_types_are_refused_before_any_work(images, model, tmp_path):
    target = tmp_path / "out"
    with pytest.raises(InputError, match="these are no DICOM series"):
        run(images, target, model, output_types=[SEG])
    with pytest.raises(InputError, match="no output type 'dicom'"):
        run(images, target, model, output_types=["dicom"])
    assert not target.exists()
