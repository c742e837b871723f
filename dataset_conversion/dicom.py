"""Folders of DICOM series, one case a series, slices sorted by their position in space.

Patient names are not taken over; the patient id is only kept as a hash, so that scans of one
patient stay together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from graphnn_unet.dataset_conversion.forms import Form, Request
from graphnn_unet.dataset_conversion.nifti_folder import match_labels
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset
from graphnn_unet.errors import BadFileError, Fault, FaultsError, MissingFileError
from graphnn_unet.images.find import safe_id, walk
from graphnn_unet.images.header import last_line, quiet_itk
from graphnn_unet.images.volume import Volume, from_itk

MIN_SLICES = 3
"""Series with fewer slices are localizers or screenshots."""

STEP_TOLERANCE = 0.02
"""Slice distances may differ by this share: positions are written with few digits."""

_TAGS = {
    "position": "0020|0032",
    "orientation": "0020|0037",
    "patient": "0010|0020",
    "modality": "0008|0060",
    "number": "0020|0011",
}


@dataclass(frozen=True)
class Series:
    """One image series: its files as GDCM lists them, and how many series their folder has."""

    folder: Path
    files: tuple[Path, ...]
    n_in_folder: int


def read(request: Request) -> ConvertedDataset:
    """Find all image series below a folder; label maps (NIfTI ...) are named like the cases.

    Raises:
        MissingFileError: There is no series.
        FaultsError: Label maps without a case.
    """
    source = request.source_folder
    skipped: list[tuple[str, str]] = []
    cases, modalities = _cases(source, skipped)
    if not cases:
        raise MissingFileError(
            f"no DICOM series in {source}",
            f"{len(skipped)} series had too few images" if skipped else "no file could be read",
            "Give the folder that holds the series",
        )
    notes = ["patient ids are kept as hashes, names and dates are not taken over"]
    faults: list[Fault] = []
    for case_id, label in match_labels(cases, request.label_folder, faults, notes).items():
        inputs = (*cases[case_id].inputs, label)
        cases[case_id] = replace(cases[case_id], label=label, role="labeled", inputs=inputs)
    if faults:
        raise FaultsError(faults)
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
    )


FORM = Form(
    name="dicom",
    help="a folder of DICOM series, --labels DIR optional",
    read=read,
    takes=("labels",),
)


def _cases(source: Path, skipped: list[tuple[str, str]]) -> tuple[dict[str, Case], set[str]]:
    """Unlabeled cases by id, one a series, and their modalities."""
    cases: dict[str, Case] = {}
    modalities = set()
    for series in find_series(source):
        tags, n_frames = _tags(series.files[0])
        where = series.folder.relative_to(source).as_posix()
        if max(len(series.files), n_frames) < MIN_SLICES:
            skipped.append((where, f"series of {len(series.files)} images, no volume"))
            continue
        case_id = _case_id(source, series, tags.get("number", ""), set(cases))
        patient = case_id
        if patient_id := tags.get("patient"):
            patient = f"patient-{hashlib.sha256(patient_id.encode()).hexdigest()[:12]}"
        modalities.add(tags.get("modality", ""))
        cases[case_id] = Case(
            case_id,
            (partial(read_series, series.files),),
            None,
            "unlabeled",
            patient,
            series.files,
        )
    return cases, modalities


def find_series(folder: Path) -> Iterator[Series]:
    """All series of images below a folder, folder by folder."""
    for root, files in walk(folder):
        if not files:
            continue
        with quiet_itk():
            ids = sorted(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(root)))
        for series_id in ids:
            names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(root), series_id)
            yield Series(root, tuple(Path(name) for name in names), len(ids))


def _case_id(source: Path, series: Series, number: str, taken: set[str]) -> str:
    """From the folders' names; never from what the file says about the patient."""
    parts = series.folder.relative_to(source).parts or (source.name,)
    case_id = safe_id("_".join(parts))
    if series.n_in_folder > 1:
        case_id = safe_id(f"{case_id}_series{number or 0}")
    plain, count = case_id, 2
    while case_id in taken:
        case_id, count = f"{plain}_{count}", count + 1
    return case_id


def _header(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        cause = f"{path.name} cannot be read as DICOM"
        raise BadFileError("I05", cause, "Copy the series again") from error
    return reader


def _tags(path: Path) -> tuple[dict[str, str], int]:
    """Tags of one file and the number of its slices; none where it cannot be read."""
    try:
        reader = _header(path)
    except BadFileError:
        return {}, 0
    there = set(reader.GetMetaDataKeys())
    # DICOM pads texts to an even length with a space or a zero byte
    tags = {n: reader.GetMetaData(tag).strip(" \0") for n, tag in _TAGS.items() if tag in there}
    return tags, reader.GetSize()[2] if reader.GetDimension() == 3 else 1


def read_series(files: tuple[Path, ...]) -> Volume:
    """Read one series as a volume.

    Raises:
        BadFileError: Slices are missing, lie twice at one place, have several sizes or are tilted.
    """
    if len(files) == 1:
        return _itk_volume(lambda: sitk.ReadImage(str(files[0])), files)
    places = [_place(path) for path in files]
    sizes = {size for size, _, _ in places}
    if len(sizes) > 1:
        cause = f"its slices have several sizes: {sorted(sizes)}"
        raise BadFileError("I15", cause, "Separate the series")
    rows = np.array([orientation for _, orientation, _ in places])
    if np.abs(rows - rows[0]).max() > 1e-4:
        raise BadFileError("I18", "its slices have several orientations", "Separate the series")
    normal = np.cross(rows[0][:3], rows[0][3:])
    positions = np.array([position for _, _, position in places])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    step = _step(heights[order])
    _require_straight(positions[order], normal, step)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(files[i]) for i in order])
    volume = _itk_volume(reader.Execute, files)
    return replace(volume, spacing=(step, *volume.spacing[1:]))


def _itk_volume(read_image, files: tuple[Path, ...]) -> Volume:
    try:
        with quiet_itk():
            image = read_image()
    except RuntimeError as error:
        cause = f"the series of {files[0].name} cannot be read ({last_line(error)})"
        raise BadFileError("I05", cause, "Copy the series again") from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise BadFileError("I14", "its slices are in color", "Give the original images")
    return from_itk(image)


def _place(path: Path) -> tuple[tuple[int, ...], list[float], list[float]]:
    """Size, row and column direction, position of one slice."""
    reader = _header(path)
    try:
        orientation = [float(v) for v in reader.GetMetaData(_TAGS["orientation"]).split("\\")]
        position = [float(v) for v in reader.GetMetaData(_TAGS["position"]).split("\\")]
    except (RuntimeError, ValueError) as error:
        cause = f"{path.name} does not say where its slice lies"
        raise BadFileError("I51", cause, "Export the series with positions") from error
    return reader.GetSize()[:2], orientation, position


def _step(heights: np.ndarray) -> float:
    """Distance of the slices in mm; they must be equally spaced."""
    steps = np.diff(heights)
    step = float(np.median(steps))
    if step < 1e-4 or steps.min() < 1e-4:
        at = float(heights[int(steps.argmin())])
        cause = f"two slices lie at one place ({at:.2f} mm along the normal)"
        remedy = "Separate the series (several time points or echoes?)"
        raise BadFileError("I31", cause, remedy)
    gaps = np.flatnonzero(np.abs(steps - step) > STEP_TOLERANCE * step + 1e-3)
    if len(gaps):
        first = int(gaps[0])
        cause = (
            f"its slices are {step:.3f} mm apart, but {steps[first]:.3f} mm after slice "
            f"{first + 1} ({len(gaps)} such places)"
        )
        raise BadFileError("I49", cause, "Find the missing slices or resample the series")
    return step


def _require_straight(positions: np.ndarray, normal: np.ndarray, step: float) -> None:
    """The slices must be stacked along their normal: a tilted gantry shears the volume."""
    along = (positions[-1] - positions[0]) / np.linalg.norm(positions[-1] - positions[0])
    sine = float(np.linalg.norm(np.cross(along, normal)))
    if sine * step > 1e-2 * step:
        angle = np.degrees(np.arcsin(min(sine, 1.0)))
        cause = f"its slices are not stacked along their normal (tilted by {angle:.1f} degrees)"
        raise BadFileError("I18", cause, "Resample it to an upright grid first")
