"""Masks that people have edited: which case each belongs to, and what its values mean.

Files are named as the user names the cases, or as ``gnnunet_predict`` has named them. Values are
the user's ids; a ``.seg.nrrd`` of 3D Slicer is read by the names of its segments, whose values
change with the order in which they were drawn.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from graphnn_unet.dataset_conversion.records import Source
from graphnn_unet.dataset_conversion.segments import require_one_layer
from graphnn_unet.errors import BadFileError, Fault, InputError, MissingFileError
from graphnn_unet.images.as_predicted import checksums_as_predicted
from graphnn_unet.images.cases import case_of, stem_of
from graphnn_unet.images.find import VOLUMES, image_files, safe_id, some
from graphnn_unet.images.nifti_forms import NiftiForm
from graphnn_unet.images.read import nearest_integers, read_volume
from graphnn_unet.images.segments import Segment, segments_of
from graphnn_unet.images.volume import Volume
from graphnn_unet.storage.atomic import checksum

_UNCERTAINTY = "_uncertainty"
_NUMBERED = re.compile(r"(?:segment|label) ?(\d+)")


@dataclass
class MaskFiles:
    """The masks of a folder by case.

    Attributes:
        of_case: Case id to file, of cases of the data set.
        others: Stem to file, of names that fit no case of the data set.
        as_predicted: Masks that are still what ``gnnunet_predict`` wrote.
        left_out: Files that are no masks, with the reason.
        faults: Masks that cannot be told apart.
    """

    of_case: dict[str, Path] = field(default_factory=dict)
    others: dict[str, Path] = field(default_factory=dict)
    as_predicted: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def find_masks(folder: Path, case_of_name: Mapping[str, str]) -> MaskFiles:
    """Sort the masks of a folder by case.

    Args:
        folder: The masks; of one that ``gnnunet_predict`` wrote, those that were edited.
        case_of_name: Case id, and the user's own name of a case, to case id.

    Raises:
        MissingFileError: There is no mask.
        InputError: The record of the predictions is damaged.
    """
    listing = image_files(folder, VOLUMES, what="the folder of masks")
    stems = {stem_of(path) for path in listing.paths}
    masks = MaskFiles(left_out=list(listing.left_out().items()))
    known = checksums_as_predicted(folder)
    for path in listing.paths:
        stem = stem_of(path)
        if stem.removesuffix(_UNCERTAINTY) != stem and stem.removesuffix(_UNCERTAINTY) in stems:
            masks.left_out.append((path.name, "a map of uncertainty"))
        elif checksum(path) in known.get(path.name, ()):
            masks.as_predicted.append(path.name)
        else:
            _sort_in(masks, path, case_of_name)
    if not listing.paths:
        looked_for = f"looked for {', '.join(VOLUMES)}"
        raise MissingFileError(f"no mask in {folder}", looked_for, "Give another folder")
    return masks


def _sort_in(masks: MaskFiles, path: Path, case_of_name: Mapping[str, str]) -> None:
    stem = stem_of(path)
    name = case_of(stem, case_of_name)
    table, key = (masks.others, stem) if name is None else (masks.of_case, case_of_name[name])
    if (first := table.setdefault(key, path)) is not path:
        cause = f"{first.name} and {path.name} both fit it"
        fault = Fault(safe_id(key), "convert", cause, "Remove or move one of them", code="I28")
        masks.faults.append(fault)


def mask_source(path: Path, ids: Mapping[str, int], form: NiftiForm | None) -> Source:
    """What reads a mask with the user's ids.

    Args:
        path: The file.
        ids: Name of each class to the user's id.
        form: As of ``read_volume``.

    Raises:
        InputError: It is a file of Slicer whose segments overlap or cannot be told apart.
    """
    segments = segments_of(path)
    if not segments:
        return path
    require_one_layer(segments, path.name)
    by_name = {_plain(name): value for name, value in ids.items()}
    if not any(_plain(segment.name) in by_name for segment in segments) and all(
        map(_is_numbered, segments)
    ):
        return path  # names that Slicer gave: the values are the user's ids
    return partial(_read_segments, path, segments, by_name, form)


def _is_numbered(segment: Segment) -> bool:
    """Whether its name says its value and nothing else, as Slicer names what nobody has named."""
    number = _NUMBERED.fullmatch(_plain(segment.name))
    return number is not None and int(number[1]) == segment.value


def _plain(name: str) -> str:
    """A name as Slicer shows it, whose color tables end names at a space."""
    return " ".join(name.replace("_", " ").split()).casefold()


def _read_segments(
    path: Path, segments: Collection[Segment], ids: Mapping[str, int], form: NiftiForm | None
) -> Volume:
    """A file of Slicer with the ids that its segments have by their names.

    Raises:
        BadFileError: It is damaged, or has voxels of a segment that is no class.
    """
    volume = read_volume(path, path.name, form=form)
    integers = nearest_integers(volume.array)
    present = set(np.unique(integers.values).tolist()) - {0}
    named = {segment.value: segment.name for segment in segments}
    array = np.zeros(integers.values.shape, np.min_scalar_type(max(ids.values())))
    for value in sorted(present):
        name = named.get(value)
        if integers.n_wrong or name is None or _plain(name) not in ids:
            what = f"the segment {name!r}" if name else f"the value {value}, which is no segment"
            cause = f"{path.name} has {what}; the data set has {some(sorted(ids))}"
            remedy = "Rename or remove the segment in 3D Slicer and save again"
            raise BadFileError("I23", cause, remedy)
        array[integers.values == value] = ids[_plain(name)]
    return replace(volume, array=array)


def require_folder(path: Path | str) -> Path:
    """The folder of masks.

    Raises:
        InputError: It is a file.
        MissingFileError: It is not there.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        raise InputError(f"{folder} is a file", "", "Give the folder of the masks")
    if not folder.is_dir():
        raise MissingFileError(f"{folder} does not exist", "", "Give the folder of the masks")
    return folder.absolute()
