"""Label maps as DICOM objects that belong to the series they were made of.

A segmentation (SEG) has the voxels as they are; a structure set (RTSTRUCT) has their outlines. Both
keep patient, study and frame of reference of the series, and name the slice that each part lies on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, SegmentationStorage

from graphnn_unet._version import __version__
from graphnn_unet.errors import BadFileError, require_installed
from graphnn_unet.prediction.dicom_codes import PRIVATE_SCHEME, ClassCode, class_code

if TYPE_CHECKING:
    from highdicom import SOPClass

SEG, RTSTRUCT = "dicom_seg", "dicom_rtstruct"
ENDINGS = {SEG: "_seg.dcm", RTSTRUCT: "_rtstruct.dcm"}
"""What follows the name of a case, by kind."""

PRODUCT = "GraphNN-UNet"
_REMEDY = "Export the series again, or leave {} out of --output-type"
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
_SERIES_NUMBER = 9000
"""Added to that of the images, so that the new series of a study sort behind all of them."""
_MAX_LABEL, _MAX_SHORT = 64, 16
_STRAIGHT_PX = 1e-3
"""A point of an outline is left out where the line without it is nearer than this, in pixels."""
_DECIMALS = 4
"""Of the positions of an outline in mm."""


@dataclass(frozen=True)
class LabeledClass:
    """One class of a label map.

    Attributes:
        number: Its id in the label map.
        name: Its name.
        color: Red, green and blue.
    """

    number: int
    name: str
    color: tuple[int, int, int]


def require_writers() -> None:
    """Raise unless the libraries are there that write DICOM.

    Raises:
        InputError: They are not installed.
    """
    require_installed(["highdicom"], "dicom", "DICOM objects cannot be written")


def require_references(files: Sequence[Path], kinds: Sequence[str]) -> None:
    """Look whether objects can refer to a series, by the header of its first file.

    Raises:
        BadFileError: It lacks what ties objects to it, or is stored in a way they cannot refer to.
    """
    header = pydicom.dcmread(files[0], stop_before_pixels=True, force=True)
    remedy = _REMEDY.format(" and ".join(kinds))
    if missing := [key for key in (*_NEEDED, "SOPClassUID") if not header.get(key)]:
        cause = f"its headers lack {', '.join(missing)}, by which {kinds[0]} refers to the images"
        raise BadFileError("I51", cause, remedy)
    if "PerFrameFunctionalGroupsSequence" not in header:
        return
    if RTSTRUCT in kinds:
        cause = "its slices are frames of one file, a structure set refers to one file a slice"
        raise BadFileError("I51", cause, _REMEDY.format(RTSTRUCT))
    if len(files) > 1:
        cause = f"its frames lie in {len(files)} files, a segmentation refers to one such file"
        raise BadFileError("I51", cause, _REMEDY.format(SEG))


def build_objects(
    labels: NDArray[Any],
    files: Sequence[Path],
    kinds: Sequence[str],
    classes: Sequence[LabeledClass],
    model: str,
) -> dict[str, Dataset]:
    """The objects of a label map, in memory.

    Args:
        labels: ``(z, y, x)`` ids on the grid of the series; ``z`` counts along the cross product of
            the directions of rows and columns.
        files: All files of the series.
        kinds: Of ``ENDINGS``.
        classes: All classes, those without voxels too.
        model: What tells the model from others.

    Returns:
        Kind to object.

    Raises:
        BadFileError: The label map does not lie on the slices, or they lack what is needed.
    """
    require_references(files, kinds)
    headers = [_header(path) for path in files]
    try:
        if "PerFrameFunctionalGroupsSequence" in headers[0]:
            planes = _planes_of_frames(headers[0])
        else:
            headers = _sorted_along_normal(headers)
            planes = np.arange(len(headers))
        shape = (len(planes), int(headers[0].Rows), int(headers[0].Columns))
        if labels.shape != shape:
            cause = f"its slices have {shape} voxels, the label map {labels.shape}"
            raise BadFileError("I15", cause, "Separate the series")
        build = {
            SEG: lambda: _segmentation(labels[planes], headers, classes, model),
            RTSTRUCT: lambda: _structure_set(labels, headers, classes, model),
        }
        return {kind: build[kind]() for kind in kinds}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, BadFileError):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        cause = f"{' and '.join(kinds)} cannot refer to its headers ({lines[0].rstrip('.')})"
        raise BadFileError("I51", cause, _REMEDY.format(" and ".join(kinds))) from error


def is_whole_object(path: Path, kind: str) -> bool:
    """Whether an object that was written earlier is there to its end."""
    try:
        header = pydicom.dcmread(path)
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError):
        return False
    if kind == RTSTRUCT:  # the last element that is written
        return header.get("SOPClassUID") == RTStructureSetStorage and "ApprovalStatus" in header
    if header.get("SOPClassUID") != SegmentationStorage or "PixelData" not in header:
        return False
    n_voxels = int(header.NumberOfFrames) * int(header.Rows) * int(header.Columns)
    return len(header.PixelData) >= math.ceil(n_voxels / 8)


def _header(path: Path) -> Dataset:
    """A header of the series with empty elements where others expect some."""
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    for key in _MAY_BE_EMPTY:
        if key not in header:
            setattr(header, key, "")
    return header


def _normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    cosines = np.asarray([float(v) for v in orientation])
    return np.cross(cosines[:3], cosines[3:])


def _position(plane: Dataset) -> NDArray[np.float64]:
    return np.asarray([float(v) for v in plane.ImagePositionPatient])


def _sorted_along_normal(headers: Sequence[Dataset]) -> list[Dataset]:
    normal = _normal(headers[0].ImageOrientationPatient)
    return sorted(headers, key=lambda header: float(_position(header) @ normal))


def _planes_of_frames(header: Dataset) -> NDArray[np.intp]:
    """For each frame in stored order, the plane of the label map that lies on it."""
    groups = header.PerFrameFunctionalGroupsSequence
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    holder = shared[0] if "PlaneOrientationSequence" in shared[0] else groups[0]
    normal = _normal(holder.PlaneOrientationSequence[0].ImageOrientationPatient)
    heights = [_position(group.PlanePositionSequence[0]) @ normal for group in groups]
    return np.argsort(np.argsort(heights, kind="stable"))


# ---------------------------------------------------------------- segmentation


def _segmentation(
    labels: NDArray[Any], headers: Sequence[Dataset], classes: Sequence[LabeledClass], model: str
) -> Dataset:
    """A SEG of bits; ``labels`` has the order of the stored images."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        PRODUCT, hd.sr.CodedConcept.from_code(codes.DCM.ArtificialIntelligence),
        __version__,
    )  # fmt: skip
    segments = [
        _segment(number, wanted, algorithm) for number, wanted in enumerate(classes, start=1)
    ]
    # segments count from 1 without a gap, whatever the ids of the label map
    table = np.zeros(int(labels.max(initial=0)) + 1, np.uint16)
    for number, wanted in enumerate(classes, start=1):
        if wanted.number < len(table):
            table[wanted.number] = number
    return hd.seg.Segmentation(
        source_images=headers,
        pixel_array=table[labels],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        omit_empty_frames=bool(table[labels].any()),
        content_label="SEGMENTATION",
        content_description=f"Label map by {PRODUCT}",
        **_made_by(headers[0], model, classes),
    )


def _segment(number: int, wanted: LabeledClass, algorithm: Any) -> Any:
    import highdicom as hd

    code = class_code(wanted.name)
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=wanted.name[:_MAX_LABEL],
        segmented_property_category=code.category,
        segmented_property_type=code.kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=hd.color.CIELabColor.from_rgb(*wanted.color),
    )
    segment.SegmentDescription = f"label id {wanted.number}"
    if code.side is not None:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_coded(code.side)]
    return segment


def _made_by(header: Dataset, model: str, classes: Sequence[LabeledClass]) -> dict[str, Any]:
    """What both kinds say about who made them, in highdicom's words."""
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    made_by: dict[str, Any] = {
        "series_number": int(header.get("SeriesNumber") or 0) + _SERIES_NUMBER,
        "manufacturer": PRODUCT,
        "manufacturer_model_name": PRODUCT,
        "software_versions": __version__,
        "device_serial_number": model,
        "series_description": f"{PRODUCT} {header.get('SeriesDescription', '')}".strip()[:64],
        "specific_character_set": "ISO_IR 192",
    }
    if any(class_code(wanted.name).kind.scheme_designator == PRIVATE_SCHEME for wanted in classes):
        scheme = CodingSchemeIdentificationItem(
            PRIVATE_SCHEME, name="Classes of segmentation models", responsible_organization=PRODUCT
        )
        made_by["coding_schemes"] = [scheme]
    return made_by


# ---------------------------------------------------------------- structure set


def _structure_set(
    labels: NDArray[Any], headers: Sequence[Dataset], classes: Sequence[LabeledClass], model: str
) -> Dataset:
    """An RTSTRUCT; ``headers`` are those of the planes of ``labels`` in their order."""
    import highdicom as hd

    first, now = headers[0], datetime.now()
    result: SOPClass = hd.SOPClass(
        study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=hd.UID(),
        sop_instance_uid=hd.UID(),
        sop_class_uid=RTStructureSetStorage,
        instance_number=1,
        modality="RTSTRUCT",
        # an outline may be longer than an element with an explicit type can be
        transfer_syntax_uid=ImplicitVRLittleEndian,
        **_made_by(first, model, classes),
    )
    result.copy_patient_and_study_information(first)
    result.OperatorsName = ""
    result.FrameOfReferenceUID = first.FrameOfReferenceUID
    result.PositionReferenceIndicator = first.get("PositionReferenceIndicator", "")
    result.StructureSetLabel = "SEGMENTATION"
    result.StructureSetDate = now.strftime("%Y%m%d")
    result.StructureSetTime = now.strftime("%H%M%S")
    result.ReferencedFrameOfReferenceSequence = [_referenced_frame(headers)]
    result.StructureSetROISequence = [_roi(first, n, c) for n, c in enumerate(classes, start=1)]
    result.ROIContourSequence = [
        _item(
            ROIDisplayColor=list(wanted.color),
            ContourSequence=_contours(labels == wanted.number, headers),
            ReferencedROINumber=number,
        )
        for number, wanted in enumerate(classes, start=1)
    ]
    result.RTROIObservationsSequence = [
        _item(
            ObservationNumber=number,
            ReferencedROINumber=number,
            RTROIIdentificationCodeSequence=[_identified(class_code(wanted.name))],
            RTROIInterpretedType="",
            ROIInterpreter="",
        )
        for number, wanted in enumerate(classes, start=1)
    ]
    for contours in result.ROIContourSequence:
        if not contours.ContourSequence:
            del contours.ContourSequence
    result.ApprovalStatus = "UNAPPROVED"
    return result


def _referenced_frame(headers: Sequence[Dataset]) -> Dataset:
    first = headers[0]
    series = _item(
        SeriesInstanceUID=first.SeriesInstanceUID,
        ContourImageSequence=[_referenced(header) for header in headers],
    )
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # detached study management, as is usual
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _roi(first: Dataset, number: int, wanted: LabeledClass) -> Dataset:
    return _item(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID,
        ROIName=wanted.name[:_MAX_LABEL],
        ROIDescription=f"label id {wanted.number}",
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=f"{PRODUCT} {__version__}"[:_MAX_LABEL],
    )


def _contours(mask: NDArray[np.bool_], headers: Sequence[Dataset]) -> list[Dataset]:
    """Outlines of a mask ``(z, y, x)`` on its slices, in mm; that of a hole lies inside another."""
    return [
        _item(
            ContourImageSequence=[_referenced(header)],
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=len(points),
            ContourData=[f"{value:.{_DECIMALS}f}" for value in points.ravel()],
        )
        for plane, header in zip(mask, headers, strict=True)
        if plane.any()
        for points in _outlines(plane, header)
    ]


def _outlines(plane: NDArray[np.bool_], header: Dataset) -> list[NDArray[np.float64]]:
    """``(point, 3)`` positions in mm of each outline of a mask ``(y, x)``, the first point once.

    An outline runs half-way between the centers of a voxel inside and one outside, so whoever asks
    which centers lie inside gets the mask back.
    """
    from skimage.measure import approximate_polygon, find_contours

    row, column = (
        np.asarray([float(v) for v in part])
        for part in (header.ImageOrientationPatient[:3], header.ImageOrientationPatient[3:])
    )
    step_y, step_x = (float(v) for v in header.PixelSpacing)
    outlines = []
    for ring in find_contours(np.pad(plane, 1).astype(np.float32), 0.5):
        y, x = (approximate_polygon(ring, _STRAIGHT_PX)[:-1] - 1).T
        outlines.append(
            _position(header) + np.outer(x * step_x, row) + np.outer(y * step_y, column)
        )
    return outlines


# ---------------------------------------------------------------- items


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for key, value in elements.items():
        is_items = isinstance(value, list) and all(isinstance(part, Dataset) for part in value)
        setattr(item, key, DicomSequence(value) if is_items else value)
    return item


def _referenced(header: Dataset) -> Dataset:
    return _item(
        ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID
    )


def _coded(code: Any) -> Dataset:
    return _item(
        CodeValue=code.value,
        CodingSchemeDesignator=code.scheme_designator,
        CodeMeaning=code.meaning,
    )


def _identified(code: ClassCode) -> Dataset:
    return _coded(code.kind)
