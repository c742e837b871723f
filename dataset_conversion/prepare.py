"""One case made ready for the raw folder: read, checked, brought to one grid, written.

Runs in a worker and knows one case at a time. Nothing is guessed: a label map that does not lie on
its image's grid is a fault unless its header says how to reorder it without interpolation, or the
user has chosen how to fix it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from graphnn_unet.data.check_files import GRID_CODES
from graphnn_unet.data.check_labels import count_values, voxels_of
from graphnn_unet.dataset_conversion.records import Case, Source
from graphnn_unet.dataset_conversion.volumes import (
    beyond_the_limit,
    hash_inputs,
    load,
    whole_labels,
)
from graphnn_unet.errors import BadFileError, Fault, MissingFileError
from graphnn_unet.images.flat_picture import MAX_BITS
from graphnn_unet.images.gray_values import are_gray_values
from graphnn_unet.images.grid import Grid, GridDifference, compare_grids
from graphnn_unet.images.nifti_forms import NiftiForm, is_plain, place_note
from graphnn_unet.images.orientation import orientation_of
from graphnn_unet.images.volume import Volume, resampled, to_itk, widened, with_axes_of
from graphnn_unet.storage.atomic import atomic_path

FILE_ENDING = ".nii.gz"
FOLDERS = {"labeled": ("imagesTr", "labelsTr"), "unlabeled": ("imagesUn", None)}
FOLDERS["test"] = ("imagesTs", "labelsTs")

_WRITTEN_AS = {
    np.dtype(np.float64): np.float32,
    np.dtype(np.float16): np.float32,
    np.dtype(np.bool_): np.uint8,
}
"""Types of voxels that are not written as they are."""

_LEAVE_OUT = "Fix the file or leave the case out (--exclude)"


@dataclass(frozen=True)
class CaseJob:
    """One case and what is to be done with it.

    Attributes:
        case: The case.
        source: Where the data set was read from; names of inputs are relative to it.
        target: The new raw folder; ``None`` looks without writing.
        n_channels: Channels each case must have.
        label_values: Values a label map may have after ``label_mapping``.
        label_mapping: Stored value to written value; empty keeps all.
        fix_geometry: ``None``, ``header`` (voxels are paired by index) or ``resample``.
        nifti_form: What is taken where qform and sform of a NIfTI header disagree.
        widen_labels: A label map may be cropped to what is drawn, as 3D Slicer saves it.
        color_bits: Of colored pictures, as ``ConvertedDataset``.
    """

    case: Case
    source: Path
    target: Path | None
    n_channels: int
    label_values: tuple[int, ...]
    label_mapping: Mapping[int, int]
    fix_geometry: str | None
    nifti_form: NiftiForm | None = None
    widen_labels: bool = False
    color_bits: int = MAX_BITS


@dataclass(frozen=True)
class CaseRow:
    """What was found out about one case, for tables and ``gnnunet.json``.

    Attributes:
        case: Case id.
        role: ``labeled``, ``unlabeled`` or ``test``.
        patient: Patient id.
        n_channels: Channels.
        shape: Voxels, z y x.
        spacing: Voxel size in mm, z y x.
        orientation: How its axes are stored, such as ``LPS``.
        label_values: Values of the label map as it is written; empty without one.
        minimum: Smallest intensity of the first channel.
        sha256: Input file to hash.
        notes: What was changed or assumed.
        content: Hash of the voxels of each channel, the same for copies; empty where not all could
            be read, or where they show nothing.
        files: Hash of the bytes of each channel's file, or its voxels where it comes from several.
    """

    case: str
    role: str
    patient: str
    n_channels: int
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    label_values: tuple[int, ...]
    minimum: float
    sha256: dict[str, str]
    notes: tuple[str, ...]
    content: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass
class _Work:
    """State of one case while it is prepared."""

    job: CaseJob
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def fault(self, code: str, cause: str, remedy: str = _LEAVE_OUT) -> None:
        self.faults.append(Fault(self.job.case.case_id, "convert", cause, remedy, code=code))

    def read(self, source: Source, what: str) -> Volume | None:
        name = source.name if isinstance(source, Path) else what
        form = self.job.nifti_form
        try:
            volume = load(source, name, form)
            if isinstance(source, Path) and (note := place_note(source, form)):
                self.notes.append(f"{what}: {note}")
        except BadFileError as error:
            self.fault(error.code, error.what, f"{error.remedy} (--exclude leaves it out)")
        except MissingFileError as error:
            self.fault("I27", error.what)
        else:
            return volume
        return None


def prepare_case(job: CaseJob) -> tuple[CaseRow | None, list[Fault]]:
    """Read, check and, where ``job.target`` is given, write one case.

    Returns:
        The row of the case (``None`` where its first image cannot be read) and the faults found.
    """
    work = _Work(job)
    case = job.case
    if len(case.images) != job.n_channels:
        cause = f"it has {len(case.images)} channels, the data set has {job.n_channels}"
        work.fault("I21", cause, "Add the missing channel or leave the case out (--exclude)")
        return None, work.faults
    first, minimum = _images(work)
    label_values: tuple[int, ...] = ()
    if case.label is not None:
        label_values = _label(work, case.label, first and first.grid)
    if first is None:
        return None, work.faults
    hashes = {} if work.faults or job.target is None else hash_inputs(case.inputs, job.source)
    row = CaseRow(
        case.case_id,
        case.role,
        case.patient,
        len(case.images),
        first.array.shape,
        first.spacing,
        orientation_of(first.direction),
        label_values,
        minimum,
        hashes,
        tuple(work.notes),
        tuple(work.content) if len(work.content) == job.n_channels else (),
        tuple(work.files),
    )
    return row, work.faults


def _images(work: _Work) -> tuple[Volume | None, float]:
    """Check and write all channels; the first one without its voxels, and its minimum."""
    job = work.job
    first: Volume | None = None
    minimum = 0.0
    for channel, source in enumerate(job.case.images):
        stored = work.read(source, f"image {channel}")
        what = f"channel {channel:04d}"
        if stored is None or not _numbers_only(work, stored, what):
            continue
        image: Volume | None = stored
        if first is not None:
            image = _on_grid(work, stored, first.grid, what, nearest=False, code="I19")
        if image is None:
            continue
        if first is None:
            first = replace(image, array=np.broadcast_to(np.uint8(0), image.array.shape))
            minimum = float(image.array.min())
        if not _is_constant(image):
            work.content.append(image.content_hash())
            work.files.append(stored.sha256 or work.content[-1])
        if not image.array.any() and len(job.case.images) == 1:
            work.fault("I48", "all voxels of its image are 0")
        if job.target is not None and not work.faults:
            _save(job, 0, f"_{channel:04d}", image, _original(source, stored, image))
    return first, minimum


def _is_constant(volume: Volume) -> bool:
    """Whether all voxels have one value, so that another image with it need not be a copy."""
    return bool(volume.array.min() == volume.array.max())


def _numbers_only(work: _Work, volume: Volume, what: str) -> bool:
    if volume.array.ndim != 3 or 0 in volume.array.shape:
        work.fault("I13", f"{what} has {volume.array.shape} voxels, a volume has three axes")
        return False
    if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
        n_bad = int((~np.isfinite(volume.array)).sum())
        work.fault("I08", f"{what} has {n_bad} NaN or infinite voxels")
        return False
    return True


def _on_grid(
    work: _Work, volume: Volume, grid: Grid, what: str, *, nearest: bool, code: str
) -> Volume | None:
    """The volume with exactly ``grid``: as it is, reordered, fixed as chosen, or a fault."""
    mode = work.job.fix_geometry
    difference = compare_grids(volume.grid, grid)
    if difference.is_mismatch:
        turned = with_axes_of(volume, grid.direction)
        if turned is not None and not compare_grids(turned.grid, grid).is_mismatch:
            work.notes.append(f"{what} was stored along other axes; reordered by its header")
            volume, difference = turned, compare_grids(turned.grid, grid)
    if difference.part == "size" and nearest and work.job.widen_labels:
        whole = widened(volume, grid)
        if whole is not None:
            work.notes.append(f"{what} was saved cropped; the rest of the image is background")
            volume, difference = whole, compare_grids(whole.grid, grid)
    if difference.is_mismatch and mode == "resample":
        work.notes.append(f"{what} was resampled to the image's grid")
        return resampled(volume, grid, nearest=nearest)
    if difference.is_mismatch and not (mode == "header" and difference.part != "size"):
        _grid_fault(work, difference, what, code)
        return None
    if difference.is_mismatch:
        work.notes.append(f"{what} got the image's header; voxels are paired by index")
    elif difference.is_rounding:
        apart = f"{difference.voxels:.2g} voxels apart"
        work.notes.append(f"{what} got the image's header (rounding, {apart})")
    return volume.on(grid)


def _grid_fault(work: _Work, difference: GridDifference, what: str, code: str) -> None:
    cause = f"{what} is not on the grid of the image: {difference.words}"
    if difference.part == "size":
        remedy = "Use --fix-geometry resample if both headers are right, or --exclude the case"
        work.fault(code, cause, remedy)
        return
    remedy = (
        "Look at an overlay, then use --fix-geometry header (voxels belong together by index) or "
        "resample (both headers are right)"
    )
    work.fault(GRID_CODES[difference.part] if code == "I15" else code, cause, remedy)


def _original(source: Source, stored: Volume, volume: Volume) -> Path | None:
    """The file that was read, where it can stand in the raw folder as it is."""
    unchanged = stored.array is volume.array and stored.grid == volume.grid
    if unchanged and isinstance(source, Path) and source.name.endswith(FILE_ENDING):
        return source if is_plain(source) else None
    return None


def _save(job: CaseJob, part: int, ending: str, volume: Volume, original: Path | None) -> None:
    """Write to the folder of images (part 0) or of label maps (1), or copy the original there."""
    folder = FOLDERS[job.case.role][part]
    assert job.target is not None and folder is not None  # noqa: S101, PT018  # callers have looked
    with atomic_path(job.target / folder / f"{job.case.case_id}{ending}{FILE_ENDING}") as temporary:
        if original is not None:
            shutil.copyfile(original, temporary)
            return
        array = volume.array
        array = array.astype(_WRITTEN_AS.get(array.dtype, array.dtype), copy=False)
        sitk.WriteImage(to_itk(replace(volume, array=array)), str(temporary), True)


def _label(work: _Work, source: Source, grid: Grid | None) -> tuple[int, ...]:
    """Check a label map, write it, return the values it has in the raw folder."""
    job = work.job
    stored = work.read(source, "label map")
    integers = None if stored is None else _as_integers(work, stored.array)
    if stored is None:
        return ()
    label = stored if integers is None else replace(stored, array=integers)
    if grid is not None:
        label = _on_grid(work, label, grid, "its label map", nearest=True, code="I15")
    if integers is None:
        return ()
    if label is not None:
        integers = label.array
    table = dict(job.label_mapping) or {value: value for value in job.label_values}
    mapping = {value: table[value] for value in _expected_values(work, integers, table)}
    if job.target is not None and label is not None and not work.faults:
        unchanged = all(old == new for old, new in mapping.items())
        original = _original(source, stored, label) if unchanged else None
        if original is None:
            array = _mapped(integers, mapping, max(job.label_values))
            label = replace(label, array=array)
        _save(job, 1, "", label, original)
    return tuple(sorted(set(mapping.values())))


def _expected_values(work: _Work, integers: np.ndarray, mapping: Mapping[int, int]) -> list[int]:
    """Stored values of a label map; none and a fault where some are not in the table."""
    counts = count_values(integers)
    strange = {value: n for value, n in counts.items() if value not in mapping}
    if strange:
        listed = voxels_of(strange)
        code = "I26" if min(strange) < 0 else "I23"
        remedy = _LEAVE_OUT
        if are_gray_values(integers, len(counts)):
            remedy = f"They look like those of an image: give its label map. {remedy}"
        listed += beyond_the_limit(len(counts))
        work.fault(code, f"its label map has values that are not expected: {listed}", remedy)
        return []
    if set(counts) == {0}:
        work.notes.append("its label map is all background")
    return list(counts)


def _as_integers(work: _Work, array: np.ndarray) -> np.ndarray | None:
    """A label map's integers; values within 1/1000 of one are rounded, and that is noted."""
    try:
        integers, note = whole_labels(array, "its label map")
    except BadFileError as error:
        work.fault(error.code, error.what)
        return None
    if note:
        work.notes.append(note)
    return integers


def _mapped(integers: np.ndarray, mapping: Mapping[int, int], largest: int) -> np.ndarray:
    kind = np.uint8 if largest < 2**8 else np.uint16
    new = np.zeros(integers.shape, kind)
    for old, value in mapping.items():
        if value:
            new[integers == old] = value
    return new
