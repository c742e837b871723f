"""Series as a scanner sends them, with all that DICOM objects refer to."""

from pathlib import Path

import numpy as np
import pydicom
from dicom_makers import dicom_object, write
from pydicom.uid import CTImageStorage, generate_uid

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
_TURN = np.linalg.qr(np.array([[0.9, 0.3, -0.1], [-0.2, 0.8, 0.4], [0.3, -0.3, 0.9]]))[0]
OBLIQUE = (tuple(_TURN[:, 0]), tuple(_TURN[:, 1]))


def clinical_series(
    folder: Path,
    array: np.ndarray,
    axes=AXIAL,
    *,
    spacing=(2.5, 1.5, 0.8),
    origin=(-80.25, 12.5, 331.0),
    backwards: bool = False,
    **tags,
) -> list[Path]:
    """A CT series of ``(z, y, x)`` int16; files are named in an order that means nothing."""
    row, column = (np.asarray(part) for part in axes)
    normal = np.cross(row, column)
    uids = {
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
    }
    paths = []
    for k, plane in enumerate(array):
        header = dicom_object(plane, kind=CTImageStorage)
        position = np.asarray(origin) + k * spacing[0] * normal
        values = {
            **uids, "InstanceNumber": len(array) - k if backwards else k + 1,
            "PatientName": "Müller^Eva", "PatientID": "4711", "PatientBirthDate": "19700101",
            "PatientSex": "F", "StudyDate": "20260102", "StudyTime": "101112", "StudyID": "7",
            "AccessionNumber": "A1", "ReferringPhysicianName": "", "SeriesNumber": 3,
            "SeriesDescription": "Thorax 1.5", "PositionReferenceIndicator": "",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SpecificCharacterSet": "ISO_IR 100",
            "ImagePositionPatient": [f"{v:.6f}" for v in position],
            "ImageOrientationPatient": [f"{v:.9f}" for v in (*row, *column)],
            "PixelSpacing": list(spacing[1:]), "SliceThickness": spacing[0],
            "RescaleSlope": 1, "RescaleIntercept": 0, **tags,
        }  # fmt: skip
        for key, value in values.items():
            if value is None:
                header.pop(key, None)
            else:
                setattr(header, key, value)
        paths.append(write(header, folder / f"{(7 * k) % 101:03d}.dcm"))
    return paths


def in_segments(path: Path, files: list[Path]) -> dict[str, np.ndarray]:
    """Segment label to ``(z, y, x)`` mask in the order of ``files``, by pydicom alone."""
    header = pydicom.dcmread(path)
    frames = header.pixel_array.reshape(-1, header.Rows, header.Columns)
    place = {str(pydicom.dcmread(file).SOPInstanceUID): k for k, file in enumerate(files)}
    names = {s.SegmentNumber: s.SegmentLabel for s in header.SegmentSequence}
    masks = {
        name: np.zeros((len(files), header.Rows, header.Columns), bool) for name in names.values()
    }
    for frame, group in zip(frames, header.PerFrameFunctionalGroupsSequence, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        masks[names[number]][place[str(source.ReferencedSOPInstanceUID)]] |= frame.astype(bool)
    return masks


def in_structures(path: Path, files: list[Path]) -> dict[str, np.ndarray]:
    """ROI name to ``(z, y, x)`` mask: voxels whose center lies inside an odd number of outlines."""
    from matplotlib.path import Path as Polygon

    result = pydicom.dcmread(path)
    headers = [pydicom.dcmread(file) for file in files]
    place = {str(header.SOPInstanceUID): k for k, header in enumerate(headers)}
    names = {roi.ROINumber: roi.ROIName for roi in result.StructureSetROISequence}
    shape = (len(files), headers[0].Rows, headers[0].Columns)
    centers = np.stack(np.meshgrid(range(shape[1]), range(shape[2]), indexing="ij"), -1)
    masks = {name: np.zeros(shape, bool) for name in names.values()}
    for roi in result.ROIContourSequence:
        for contour in roi.get("ContourSequence", []):
            k = place[str(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)]
            points = np.reshape([float(v) for v in contour.ContourData], (-1, 3))
            assert len(points) == contour.NumberOfContourPoints >= 3
            row, column = np.reshape([float(v) for v in headers[k].ImageOrientationPatient], (2, 3))
            offset = points - [float(v) for v in headers[k].ImagePositionPatient]
            np.testing.assert_allclose(offset @ np.cross(row, column), 0, atol=1e-3)  # on its slice
            step_y, step_x = (float(v) for v in headers[k].PixelSpacing)
            polygon = np.stack([offset @ column / step_y, offset @ row / step_x], -1)
            inside = Polygon(polygon, closed=False).contains_points(centers.reshape(-1, 2))
            masks[names[roi.ReferencedROINumber]][k] ^= inside.reshape(shape[1:])
    return masks
