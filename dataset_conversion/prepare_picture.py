"""One picture made ready for the raw folder: read, checked beside its mask, written as PNG."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graphnn_unet.data.check_labels import count_values, voxels_of
from graphnn_unet.dataset_conversion.prepare import FOLDERS, CaseJob, CaseRow
from graphnn_unet.dataset_conversion.volumes import beyond_the_limit, hash_inputs, whole_labels
from graphnn_unet.errors import BadFileError, Fault
from graphnn_unet.images.flat_picture import (
    FLAT_SPACING,
    RAW_ENDING,
    NetworkPicture,
    network_picture,
)
from graphnn_unet.images.volume import Volume
from graphnn_unet.storage.atomic import atomic_path

_LEAVE_OUT = "--exclude leaves it out"
_COMPRESSION = 4
"""Of PNG, 1 to 9: half the time of the usual 6 for some per cent more bytes."""


def prepare_picture_case(job: CaseJob) -> tuple[CaseRow | None, list[Fault]]:
    """Read, check and, where ``job.target`` is given, write one picture and its mask.

    Args:
        job: Its case has one file that holds all channels.

    Returns:
        The row of the case (``None`` where its picture cannot be read) and the faults found.
    """
    case = job.case
    path = case.images[0]
    assert isinstance(path, Path)  # noqa: S101  # the forms of pictures give files
    faults: list[Fault] = []
    notes: list[str] = []
    picture: NetworkPicture | None = None
    labels: NDArray[np.unsignedinteger] | None = None
    with _told_in(faults, case.case_id):
        picture = network_picture(path, job.n_channels, job.color_bits)
    size = None if picture is None else picture.array.shape[1:]
    with _told_in(faults, case.case_id):
        labels = None if case.label is None else _labels(job, size, notes)
    if picture is None:
        return None, faults
    if not picture.array.any():
        cause, remedy = "all pixels of its picture are 0", f"Fix the file ({_LEAVE_OUT})"
        faults.append(Fault(case.case_id, "convert", cause, remedy, code="I48"))
    if job.target is not None and not faults:
        images, masks = FOLDERS[case.role]
        write_picture(job.target / str(images) / f"{case.case_id}_0000{RAW_ENDING}", picture.array)
        if labels is not None:
            write_picture(job.target / str(masks) / f"{case.case_id}{RAW_ENDING}", labels)
    row = CaseRow(
        case.case_id,
        case.role,
        case.patient,
        len(picture.array),
        (1, *picture.array.shape[1:]),
        FLAT_SPACING,
        "",  # a picture has no place in a body
        () if labels is None else tuple(count_values(labels)),
        float(picture.array[0].min()),
        {} if faults or job.target is None else hash_inputs(case.inputs, job.source),
        (*picture.notes, *notes),
    )
    if picture.array.min() != picture.array.max():
        array = picture.array
        content = tuple(Volume(channel, FLAT_SPACING).content_hash() for channel in array)
        row = replace(row, content=content, files=(picture.sha256,))
    return row, faults


@contextmanager
def _told_in(faults: list[Fault], case: str) -> Iterator[None]:
    """Turn a bad file in the block into a fault of the case."""
    try:
        yield
    except BadFileError as error:
        remedy = f"{error.remedy} ({_LEAVE_OUT})"
        faults.append(Fault(case, "convert", error.what, remedy, code=error.code))


def _labels(
    job: CaseJob, size: tuple[int, ...] | None, notes: list[str]
) -> NDArray[np.unsignedinteger]:
    """Label ids ``(1, y, x)`` of the mask.

    Raises:
        BadFileError: It cannot be read, has another size than the picture (where that is known),
            or holds other values.
    """
    label = job.case.label
    assert label is not None and not isinstance(label, Path)  # noqa: S101, PT018  # see above
    values, note = whole_labels(label().array, "its mask", "pixels")
    if size is not None and values.shape[1:] != size:
        mask, picture = ("x".join(map(str, shape[::-1])) for shape in (values.shape[1:], size))
        what = f"its mask has {mask} pixels, the picture {picture}"
        raise BadFileError("I15", what, "Give the mask of this picture, in its size")
    table = dict(job.label_mapping) or {value: value for value in job.label_values}
    counts = count_values(values)
    if strange := {value: n for value, n in counts.items() if value not in table}:
        code = "I26" if min(strange) < 0 else "I23"
        listed = voxels_of(strange, "pixels") + beyond_the_limit(len(counts))
        cause = f"its mask has values that are not expected: {listed}"
        raise BadFileError(code, cause, "Check that it is a mask, and save it again")
    if note:
        notes.append(note)
    if set(counts) == {0}:
        notes.append("its mask is all background")
    kind = np.uint8 if max(job.label_values) < 2**8 else np.uint16
    labels = np.zeros(values.shape, kind)
    for old in counts:
        labels[values == old] = table[old]
    return labels


def write_picture(target: Path, array: NDArray[np.unsignedinteger]) -> None:
    """Write ``(channel, y, x)`` as PNG, gray or colored, as stock nnU-Net reads it."""
    pixels = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)
    with atomic_path(target) as temporary:
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        picture.save(temporary, format="PNG", compress_level=_COMPRESSION)
