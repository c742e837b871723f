"""DICOM objects as scanners and workstations write them, tag by tag."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

STEP, PIXEL = 2.0, (1.5, 1.0)


def dicom_object(
    array: np.ndarray | None = None, *, kind: str = CTImageStorage, modality: str = "CT", **tags
) -> Dataset:
    """An object of a storage class, with one frame or several."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = kind
    header.SOPInstanceUID = generate_uid()
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.Modality, header.PatientID, header.StudyInstanceUID = modality, "P1", "1.2.3"
    header.SeriesInstanceUID, header.SeriesNumber, header.InstanceNumber = "1.2.3.4", 1, 1
    if array is not None:
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.Rows, header.Columns = array.shape[-2:]
        header.BitsAllocated = header.BitsStored = 8 * array.dtype.itemsize
        header.HighBit = header.BitsStored - 1
        header.PixelRepresentation = int(array.dtype.kind == "i")
        header.PixelData = array.tobytes()
        if array.ndim == 3:
            header.NumberOfFrames = len(array)
    for key, value in tags.items():
        setattr(header, key, value)
    return header


def write(header: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)
    return path


def write_slices(
    folder: Path, array: np.ndarray, edit: Callable[[int, Dataset], None] | None = None, **tags
) -> list[Path]:
    """A series of one file a slice; ``edit(k, header)`` changes the slice at height 2 k mm."""
    paths = []
    for k, plane in enumerate(array):
        header = dicom_object(plane, kind=MRImageStorage, InstanceNumber=k + 1)
        header.ImagePositionPatient = [0, 0, STEP * k]
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.PixelSpacing = list(PIXEL)
        header.RescaleSlope, header.RescaleIntercept = "1", "0"
        for key, value in tags.items():
            setattr(header, key, value)
        if edit:
            edit(k, header)
        paths.append(write(header, folder / f"{k:03d}.dcm"))
    return paths


def item(**tags) -> Dataset:
    result = Dataset()
    for key, value in tags.items():
        setattr(result, key, value)
    return result


def write_enhanced(
    path: Path, array: np.ndarray, heights: list[float], scales=None, echoes=None
) -> Path:
    """One file of frames at some heights in mm."""
    header = dicom_object(array, kind=EnhancedCTImageStorage)
    header.SharedFunctionalGroupsSequence = Sequence(
        [
            item(
                PixelMeasuresSequence=Sequence([item(PixelSpacing=list(PIXEL))]),
                PlaneOrientationSequence=Sequence(
                    [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
                ),
            )
        ]
    )
    groups = []
    for k, height in enumerate(heights):
        slope, intercept = scales[k] if scales else (1, 0)
        group = item(
            PlanePositionSequence=Sequence([item(ImagePositionPatient=[0, 0, float(height)])]),
            PixelValueTransformationSequence=Sequence(
                [item(RescaleSlope=str(slope), RescaleIntercept=str(intercept))]
            ),
        )
        if echoes:
            group.MREchoSequence = Sequence([item(EffectiveEchoTime=float(echoes[k]))])
        groups.append(group)
    header.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return write(header, path)
