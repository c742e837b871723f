"""Folders of DICOM series, one case a series, slices sorted by their position in space.

What lies in a folder is read from the headers (pydicom): which images are one series, which are
scans at all, where each slice or frame lies. Voxels are read by SimpleITK, file by file, because
each slice has its own scale. Patient names are not taken over; the patient id is only kept as a
hash, so that scans of one patient stay together.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from graphnn_unet.dataset_conversion.forms import SEVERAL_PATIENTS, Form, Request
from graphnn_unet.dataset_conversion.nifti_folder import match_labels
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset
from graphnn_unet.errors import BadFileError, Fault, MissingFileError
from graphnn_unet.images.find import safe_id, some, walk
from graphnn_unet.images.header import last_line, quiet_itk
from graphnn_unet.images.volume import Volume

MIN_SLICES = 3
"""Series with fewer slices are localizers or screenshots."""

STEP_TOLERANCE = 0.02
"""Slice distances may differ by this share: positions are written with few digits."""

_BESIDE_TOLERANCE = 0.5
"""Pixels by which a slice may lie beside the first: positions and axes are written rounded."""

_SPACING_TOLERANCE = 1e-3
_COSINE_TOLERANCE = 1e-4
_HEADER = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "ImageType",
    "PatientID", "StudyInstanceUID", "StudyDate", "Rows", "NumberOfFrames",
)  # fmt: skip
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NO_SCAN = {
    "1": "radiograph", "7": "secondary capture", "66": "segmentation or registration",
    "481.": "radiotherapy object", "88.": "report", "11.": "presentation state", "104.": "document",
    "9.": "waveform", "3.1": "ultrasound", "6.1": "ultrasound", "12.": "cine of projections",
    "77.": "photograph or video", "30": "parametric map", "67": "real world values",
}  # fmt: skip
"""Storage classes, after ``_STORAGE``, that hold no scan; a closing dot stands for all below."""
_SCALE = ("RescaleSlope", "RescaleIntercept")
_NO_SCAN_MODALITIES = {
    "SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "RTRECORD", "RTIMAGE", "SR", "PR", "KO", "REG", "FID",
    "DOC", "ECG", "AU", "PLAN", "RWV", "SC",
}  # fmt: skip
_TOLD_APART_BY = (
    "EchoTime", "EffectiveEchoTime", "EchoNumbers", "TemporalPositionIdentifier",
    "TemporalPositionIndex", "TemporalPositionTimeOffset", "TriggerTime",
    "NominalCardiacTriggerDelayTime", "DiffusionBValue", "FlipAngle", "InversionTime", "StackID",
    "ImageType", "FrameType", "ComplexImageComponent", "ConvolutionKernel", "SliceThickness",
    "AcquisitionNumber", "ContrastBolusAgent", "AcquisitionTime", "FrameAcquisitionDateTime",
    "ContentTime",
)  # fmt: skip
"""What may differ between images at one place, most telling first."""
_GEOMETRY = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
_SHOWN_AS = ("PhotometricInterpretation", "PixelRepresentation", "BitsStored")
_OF_A_FRAME = (*_GEOMETRY, *_SCALE, *_SHOWN_AS, *_TOLD_APART_BY)


@dataclass(frozen=True)
class Series:
    """One image series.

    Attributes:
        folder: The folder of its files, or the one above where they lie in several.
        files: Sorted by name.
        n_in_folder: Scans in that folder.
        tags: Of its first file.
        n_slices: Files, or frames of one.
    """

    folder: Path
    files: tuple[Path, ...]
    n_in_folder: int
    tags: Mapping[str, str]
    n_slices: int


@dataclass(frozen=True)
class _Frame:
    """One slice: where it is stored and where it lies.

    ``told`` holds what its header says beside that, by keyword.
    """

    file: Path
    index: int
    shape: tuple[int, int]
    orientation: tuple[float, ...]
    position: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    told: Mapping[str, str] = field(default_factory=dict)


def read(request: Request) -> ConvertedDataset:
    """Find all image series below a folder; label maps (NIfTI ...) are named like the cases.

    Raises:
        MissingFileError: There is no series.
    """
    source = request.source_folder
    skipped: list[tuple[str, str]] = []
    scans = _scans(source, skipped)
    cases = {case_id: _case(case_id, series) for case_id, series in scans.items()}
    modalities = {series.tags["Modality"] for series in scans.values()}
    places = {case_id: series.folder.relative_to(source) for case_id, series in scans.items()}
    if not cases:
        raise MissingFileError(
            f"no DICOM series in {source}",
            f"left out: {some(f'{where} ({reason})' for where, reason in skipped)}"
            if skipped
            else "no file could be read",
            "Give the folder that holds the series",
        )
    notes = ["patient ids are kept as hashes, names and dates are not taken over"]
    faults: list[Fault] = []
    labels = match_labels(cases, request.label_folder, faults, notes, skipped, places=places)
    for case_id, label in labels.items():
        inputs = (*cases[case_id].inputs, label)
        cases[case_id] = replace(cases[case_id], label=label, role="labeled", inputs=inputs)
    notes += [] if request.patient_regex else _patient_notes(scans)
    if len(modalities) > 1:
        notes.append(f"the series have several modalities: {', '.join(sorted(modalities))}")
    channel = {"MR": "MRI"}.get(min(modalities), min(modalities)) or "image"
    return ConvertedDataset(
        name=safe_id(source.name),
        default_id=None,
        form="dicom",
        source=source,
        channel_names={0: channel},
        labels={},
        cases=[cases[case_id] for case_id in sorted(cases)],
        notes=notes,
        skipped=skipped,
        faults=faults,
    )


FORM = Form(
    name="dicom",
    help="a folder of DICOM series, --labels DIR optional",
    read=read,
    takes=("labels",),
)


def _scans(source: Path, skipped: list[tuple[str, str]]) -> dict[str, Series]:
    """Series that are volumes, by case id."""
    scans: dict[str, Series] = {}
    for series in find_series(source, skipped):
        if series.n_slices < MIN_SLICES:
            reason = f"series of {series.n_slices} images, no volume"
            skipped.append((_relative(series.folder, source), reason))
        else:
            scans[_case_id(source, series, set(scans))] = series
    return scans


def _case(case_id: str, series: Series) -> Case:
    """An unlabeled case of a series."""
    patient = case_id
    if patient_id := series.tags["PatientID"]:
        patient = f"patient-{hashlib.sha256(patient_id.encode()).hexdigest()[:12]}"
    read = partial(read_series, series.files)
    return Case(case_id, (read,), None, "unlabeled", patient, series.files)


def _patient_notes(scans: Mapping[str, Series]) -> list[str]:
    """A note where one patient id has several studies: who makes data anonymous may give one."""
    by_patient: dict[str, list[tuple[str, str]]] = {}
    for series in scans.values():
        if patient_id := series.tags["PatientID"]:
            study = series.tags["StudyInstanceUID"], series.tags["StudyDate"]
            by_patient.setdefault(patient_id, []).append(study)
    studies = max(by_patient.values(), key=lambda each: len(set(each)), default=[])
    if len(set(studies)) < 2:
        return []
    return [
        f"{len(studies)} series of {len(set(studies))} studies have one patient id and count as "
        f"one patient; if they are several patients, give {SEVERAL_PATIENTS}"
    ]


def find_series(folder: Path, skipped: list[tuple[str, str]] | None = None) -> Iterator[Series]:
    """All series of scans below a folder, in the order of their first files.

    Files with one series number are one series, in whatever folders they lie; copies count once.

    Args:
        folder: Where to look; links to folders are followed.
        skipped: What is no scan is appended, with the reason.
    """
    skipped = [] if skipped is None else skipped
    groups: dict[str, list[tuple[Path, dict[str, str]]]] = {}
    no_scans: dict[tuple[str, str], int] = {}
    paths = (path for _, files in walk(folder) for path in files if path.name[0] != ".")
    for path in paths:
        tags = _tags(path)
        if tags is None:
            if path.suffix.lower() == ".dcm":
                skipped.append((_relative(path, folder), "no DICOM file that can be read"))
        elif reason := _no_scan(path, tags):
            key = (_relative(path.parent, folder), reason)
            no_scans[key] = no_scans.get(key, 0) + 1
        else:
            series_id = tags["SeriesInstanceUID"] or f"in {path.parent}"
            groups.setdefault(series_id, []).append((path, tags))
    skipped += [
        (where, f"{n_files} files: {reason}" if n_files > 1 else reason)
        for (where, reason), n_files in no_scans.items()
    ]
    places = {key: _common_folder(members) for key, members in groups.items()}
    for series_id, members in groups.items():
        files = _without_copies(members, folder, skipped)
        tags = members[0][1]
        n_frames = sum(max(1, _integer(t["NumberOfFrames"])) for p, t in members if p in files)
        n_in_folder = list(places.values()).count(places[series_id])
        yield Series(places[series_id], tuple(files), n_in_folder, tags, n_frames)


def _tags(path: Path) -> dict[str, str] | None:
    """What groups and sorts out files; ``None`` of a file that is no DICOM image or object."""
    if not path.is_file():
        return None
    header = _read_header(path, _HEADER)
    if header is None or "SOPClassUID" not in header:
        return None
    # DICOM pads texts to an even length with a space or a zero byte
    return {key: _text(header.get(key)).strip(" \0") for key in _HEADER}


def _read_header(path: Path, tags: Sequence[str] | None = None) -> pydicom.Dataset | None:
    """A header without its pixels; some writers leave out the preamble that marks DICOM."""
    ending = path.suffix.lower()  # files that are named by their UID end in one of its numbers
    may_lack_preamble = ending in ("", ".dcm", ".ima") or ending[1:].isdigit()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(
                path,
                stop_before_pixels=True,
                force=may_lack_preamble,
                specific_tags=None if tags is None else list(tags),
            )
    except (InvalidDicomError, OSError, ValueError, EOFError, AttributeError, KeyError, TypeError):
        return None


def _no_scan(path: Path, tags: Mapping[str, str]) -> str:
    """Why a DICOM object is no scan; empty for one."""
    kind = tags["SOPClassUID"].removeprefix(_STORAGE)
    for ending, words in _NO_SCAN.items():
        is_below = kind.startswith(ending if ending.endswith(".") else f"{ending}.")
        if kind != tags["SOPClassUID"] and (kind == ending or is_below):
            return f"{tags['Modality'] or 'DICOM'} object, {words}, no scan"
    if tags["Modality"] in _NO_SCAN_MODALITIES:
        return f"{tags['Modality']} object, no scan"
    if not tags["Rows"]:
        return f"{tags['Modality'] or 'DICOM'} object without an image"
    if "LOCALIZER" in tags["ImageType"].upper():
        return "localizer"
    if _integer(tags["NumberOfFrames"]) > 1:
        header = _read_header(path)
        if header is None or "PerFrameFunctionalGroupsSequence" not in header:
            return "frames that do not say where they lie (a cine?), no volume"
    return ""


def _without_copies(
    members: Sequence[tuple[Path, dict[str, str]]], folder: Path, skipped: list[tuple[str, str]]
) -> list[Path]:
    """The files of a series, of equal ones the first."""
    first: dict[str, list[Path]] = {}
    copies: dict[tuple[Path, Path], list[Path]] = {}
    kept = []
    for path, tags in members:
        same_id = first.setdefault(tags["SOPInstanceUID"], [])
        original = next((other for other in same_id if _are_equal(path, other)), None)
        if original is None:
            same_id.append(path)
            kept.append(path)
        else:
            copies.setdefault((path.parent, original.parent), []).append(path)
    for (where, source), paths in copies.items():
        name = _relative(where if len(paths) > 1 else paths[0], folder)
        reason = f"the same as in {_relative(source, folder)}"
        skipped.append((name, f"{len(paths)} files: {reason}" if len(paths) > 1 else reason))
    return kept


def _are_equal(path: Path, other: Path) -> bool:
    return path.stat().st_size == other.stat().st_size and path.read_bytes() == other.read_bytes()


def _common_folder(members: Sequence[tuple[Path, Any]]) -> Path:
    return Path(os.path.commonpath({str(path.parent) for path, _ in members}))


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _text(value: Any) -> str:
    if value is None:
        return ""
    many = isinstance(value, (list, tuple, MultiValue))
    return "\\".join(map(str, value)) if many else str(value)


def _integer(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _case_id(source: Path, series: Series, taken: set[str]) -> str:
    """From the folders' names; never from what the file says about the patient."""
    parts = series.folder.relative_to(source).parts or (source.name,)
    case_id = safe_id("_".join(parts))
    if series.n_in_folder > 1:
        case_id = safe_id(f"{case_id}_series{series.tags['SeriesNumber'] or 0}")
    plain, count = case_id, 2
    while case_id in taken:
        case_id, count = f"{plain}_{count}", count + 1
    return case_id


def read_series(files: tuple[Path, ...]) -> Volume:
    """Read one series as a volume.

    Raises:
        BadFileError: Slices are missing, lie twice at one place, have several sizes or are tilted.
    """
    frames = [frame for path in files for frame in _frames(path)]
    row, column, normal = _axes(frames)
    heights = np.array([frame.position for frame in frames]) @ normal
    order = np.argsort(heights, kind="stable")
    frames = [frames[i] for i in order]
    step = _step(heights[order], frames)
    _require_straight(frames, np.stack([row, column, normal]))
    array = _voxels(frames)
    first = frames[0]
    spacing = (step, *map(float, first.pixel_spacing))
    direction = np.stack([row, column, normal], axis=1)
    origin = tuple(map(float, first.position))
    return Volume(array, spacing, origin, tuple(direction.ravel().tolist()))


def _frames(path: Path) -> Iterator[_Frame]:
    """All slices of one file."""
    header = _read_header(path)
    if header is None:
        raise BadFileError("I05", f"{path.name} cannot be read as DICOM", "Copy the series again")
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for index, groups in enumerate(per_frame or [None]):
        values = {key: header[key].value for key in _OF_A_FRAME if key in header}
        for item in [*shared, *([] if groups is None else [groups])]:
            for element in item:
                if element.VR == "SQ" and element.value:
                    values |= dict(_plain_values(element.value[0]))
        try:
            orientation, position, pixel_spacing = _geometry(values)
            shape = (int(header.Rows), int(header.Columns))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            what = "frames lie" if per_frame else "slice lies"
            cause = f"{path.name} does not say where its {what}, or how large its pixels are"
            raise BadFileError("I51", cause, "Export the series with positions") from error
        told = {key: _text(values[key]) for key in _TOLD_APART_BY if key in values}
        told |= {key: _text(values.get(key)) for key in (*_SCALE, *_SHOWN_AS)}
        yield _Frame(path, index, shape, orientation, position, pixel_spacing, told)


def _geometry(values: Mapping[str, Any]) -> list[tuple[float, ...]]:
    """Orientation, position and pixel spacing of a frame; another error where one is unusable."""
    numbers = [tuple(float(v) for v in values[key]) for key in _GEOMETRY]
    is_whole = [len(part) for part in numbers] == [6, 3, 2]
    if not (is_whole and np.isfinite(np.concatenate(numbers)).all() and min(numbers[2]) > 0):
        raise ValueError(numbers)
    return numbers


def _plain_values(item: pydicom.Dataset) -> Iterator[tuple[str, Any]]:
    return ((element.keyword, element.value) for element in item if element.VR != "SQ")


def _axes(frames: Sequence[_Frame]) -> tuple[NDArray, NDArray, NDArray]:
    """Unit vectors along columns, rows and slices, which all slices must share; sizes too."""
    sizes = sorted({frame.shape for frame in frames})
    if len(sizes) > 1:
        cause = f"its slices have several sizes: {sizes}"
        raise BadFileError("I15", cause, "Separate the series")
    spacings = np.array([frame.pixel_spacing for frame in frames])
    if (np.abs(spacings - spacings[0]) > _SPACING_TOLERANCE * spacings[0]).any():
        listed = sorted({frame.pixel_spacing for frame in frames})
        cause = f"its slices have several pixel spacings: {some(map(str, listed))} mm"
        raise BadFileError("I16", cause, "Separate the series, or resample it to one spacing")
    orientations = np.array([frame.orientation for frame in frames])
    if np.abs(orientations - orientations[0]).max() > _COSINE_TOLERANCE:
        raise BadFileError("I18", "its slices have several orientations", "Separate the series")
    row, column = orientations[0][:3], orientations[0][3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.5 or abs(row @ column) > 1e-3:
        cause = f"its rows and columns are not perpendicular ({orientations[0].tolist()})"
        raise BadFileError("I18", cause, "Export the series again")
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return row, column, np.cross(row, column)


def _voxels(frames: Sequence[_Frame]) -> NDArray:
    """``(z, y, x)`` with each slice's own scale; float32 where one has fractions."""
    by_file: dict[Path, list[int]] = {}
    for number, frame in enumerate(frames):
        by_file.setdefault(frame.file, []).append(number)
    planes: list[NDArray] = [np.empty(0)] * len(frames)
    for path, numbers in by_file.items():
        scales = {tuple(frames[number].told[key] for key in _SCALE) for number in numbers}
        read = _scaled_by_frame if len(scales) > 1 else _pixels
        pixels = read(path, [frames[number] for number in numbers])
        for number in numbers:
            planes[number] = pixels[frames[number].index]
    kind = np.result_type(*{plane.dtype for plane in planes})
    if kind.kind == "f":
        kind = np.dtype(np.float32)
    return np.stack([plane.astype(kind, copy=False) for plane in planes])


def _pixels(path: Path, frames: Sequence[_Frame]) -> NDArray:
    """``(frame, y, x)`` of one file, scaled, as its header says: nothing is inverted."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            image = reader.Execute()
    except RuntimeError as error:
        cause = f"{path.name} cannot be read ({last_line(error)})"
        raise BadFileError("I05", cause, "Copy the series again") from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise BadFileError("I14", "its slices are in color", "Give the original images")
    array = sitk.GetArrayFromImage(image)
    array = array.reshape(-1, *array.shape[-2:])
    if len(array) <= max(frame.index for frame in frames):
        cause = f"{path.name} has fewer frames than its header says"
        raise BadFileError("I05", cause, "Copy the series again")
    told = frames[0].told
    if told["PhotometricInterpretation"] != "MONOCHROME1":
        return array
    # GDCM inverts what is meant to be shown with low values bright: the numbers count, not the look
    slope, intercept = _scale(frames[0])
    is_signed = told["PixelRepresentation"] == "1"
    highest = -1 if is_signed else 2 ** int(told["BitsStored"]) - 1
    return (slope * highest + 2 * intercept - array).astype(array.dtype)


def _scale(frame: _Frame) -> tuple[float, float]:
    slope, intercept = (frame.told[key] for key in _SCALE)
    return float(slope or 1), float(intercept or 0)


def _scaled_by_frame(path: Path, frames: Sequence[_Frame]) -> NDArray:
    """``(frame, y, x)`` of a file whose frames have scales of their own; GDCM knows one."""
    try:
        stored = pydicom.dcmread(path, force=True).pixel_array.astype(np.float64)
    except Exception as error:  # decoders raise what they like
        cause = (
            f"{path.name} has a scale for each frame and cannot be unpacked ({last_line(error)})"
        )
        raise BadFileError("I05", cause, "Export the series uncompressed") from error
    scaled = np.zeros_like(stored)
    for frame in frames:
        slope, intercept = _scale(frame)
        scaled[frame.index] = stored[frame.index] * slope + intercept
    return scaled


def _step(heights: NDArray, frames: Sequence[_Frame]) -> float:
    """Mean distance of the slices in mm; they must be equally spaced."""
    steps = np.diff(heights)
    step = float(np.median(steps)) if len(steps) else 0.0
    if not len(steps) or step < 1e-4 or steps.min() < 1e-4:
        at = int(steps.argmin()) if len(steps) else 0
        cause = f"two slices lie at one place ({heights[at]:.2f} mm along the normal)"
        told = [frame.told for frame in frames[at : at + 2]]
        differing = [k for k in _TOLD_APART_BY if len({t.get(k, "") for t in told}) > 1]
        if differing:
            cause += f"; they differ in {', '.join(differing[:3])}"
        remedy = "Separate the series (several time points or echoes?), a folder each"
        raise BadFileError("I31", cause, remedy)
    gaps = np.flatnonzero(np.abs(steps - step) > STEP_TOLERANCE * step + 1e-3)
    if len(gaps):
        first = int(gaps[0])
        cause = (
            f"its slices are {step:.3f} mm apart, but {steps[first]:.3f} mm after slice "
            f"{first + 1} ({len(gaps)} such places)"
        )
        raise BadFileError("I49", cause, "Find the missing slices or resample the series")
    # not the median: positions with two digits say 0.63 or 0.62 where the slices are 0.625 mm apart
    return float(heights[-1] - heights[0]) / len(steps)


def _require_straight(frames: Sequence[_Frame], axes: NDArray) -> None:
    """The slices must be stacked along their normal, each upon the first.

    Args:
        frames: In order.
        axes: Unit vectors along rows, columns and the normal, one a line.
    """
    positions = np.array([frame.position for frame in frames])
    right, down, heights = axes @ (positions - positions[0]).T
    offsets = np.stack([right, down], axis=1)  # mm, where the slices of a volume have none
    pixel = np.array(frames[0].pixel_spacing)[::-1]
    if _length(offsets / pixel).max() <= _BESIDE_TOLERANCE:
        return
    slope = offsets[-1] / heights[-1]
    if _length((offsets - np.outer(heights, slope)) / pixel).max() <= _BESIDE_TOLERANCE:
        angle = np.degrees(np.arctan(np.linalg.norm(slope)))
        cause = f"its slices are not stacked along their normal (tilted by {angle:.1f} degrees)"
        raise BadFileError("I18", cause, "Resample it to an upright grid first")
    beside = _length(offsets - np.median(offsets, axis=0))
    at = int(beside.argmax())
    where = f"slice {at + 1} is {beside[at]:.2f} mm beside others"
    cause = f"its slices do not lie upon each other: {where}"
    raise BadFileError("I18", cause, "Separate the parts, or resample them to one upright grid")


def _length(vectors: NDArray) -> NDArray:
    return np.linalg.norm(vectors, axis=1)
