"""What a raw folder says about itself: ``dataset.json``, file names and who belongs together."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from graphnn_unet.data.check_files import fault
from graphnn_unet.errors import Fault, InputError, MissingFileError, SeveralFaultsError
from graphnn_unet.images.find import (
    HIDDEN,
    NO_IMAGE,
    RAW_VOLUMES,
    file_ending,
    image_files,
    split_channel,
    split_ending,
)
from graphnn_unet.images.flat_picture import RAW_ENDING
from graphnn_unet.storage.safe_load import CASE_ID, read_json
from graphnn_unet.storage.schemas import description_faults, listed, read_metadata

_REQUIRED = ("channel_names", "labels", "numTraining", "file_ending")
_DATASET_JSON = "dataset.json"
_json_fault = partial(fault, _DATASET_JSON)


@dataclass
class Listing:
    """The image files of one folder by case, as far as their names tell.

    Attributes:
        cases: Case id to channel number to file.
        faults: Names that cannot be used.
        notes: Files that were passed over.
    """

    cases: dict[str, dict[int, Path]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Description:
    """The part of ``dataset.json`` that the check needs.

    Attributes:
        n_channels: Channels of each case.
        label_values: All values a label map may hold, sorted.
        file_ending: Ending of all image and label files.
        n_training: What ``numTraining`` says, or ``None`` where it is no number.
        files: The optional section ``dataset``: case id to ``images`` and ``label``.
        ignore: The value of voxels without a label, the highest one.
    """

    n_channels: int
    label_values: tuple[int, ...]
    file_ending: str
    n_training: int | None
    files: Mapping[str, Any] | None = None
    ignore: int | None = None


def read_description(folder: Path) -> tuple[Description | None, list[Fault]]:
    """Read and check ``dataset.json``; ``None`` when nothing can be checked without it."""
    path = folder / _DATASET_JSON
    try:
        content = read_json(path)
    except MissingFileError as error:
        return None, [_json_fault("I37", error.what, "Make the data set with gnnunet_convert")]
    except InputError as error:
        cause = f"{error.what}: {error.why}"
        return None, [_json_fault("I38", cause, "Fix it there or write it again as UTF-8 text")]
    except OSError as error:
        return None, [_json_fault("I38", f"{path} cannot be read ({error})", "Write it again")]
    if not isinstance(content, dict):
        cause = f"{path} holds no table"
        return None, [_json_fault("I39", cause, "Write it again with gnnunet_convert")]
    if "channel_names" not in content and "modality" in content:
        content["channel_names"] = content["modality"]
    if "training" in content and "file_ending" not in content:
        cause = f"{path} is in the form of nnU-Net v1 and the Decathlon"
        remedy = f"Type gnnunet_convert MSD {shlex.quote(str(folder))} -d NAME"
        return None, [_json_fault("I39", cause, remedy)]
    if missing := [key for key in _REQUIRED if key not in content]:
        cause = f"{path} lacks {', '.join(missing)}"
        return None, [_json_fault("I39", cause, f"It needs {', '.join(_REQUIRED)}")]
    return _describe(content, path)


def _describe(content: dict[str, Any], path: Path) -> tuple[Description | None, list[Fault]]:
    faults: list[Fault] = []
    channels = content["channel_names"]
    if not isinstance(channels, dict) or {str(key) for key in channels} != {
        str(i) for i in range(len(channels))
    }:
        cause = f"channel_names in {path} is {channels!r}"
        faults.append(_json_fault("I39", cause, 'Number the channels: {"0": "T1", ...}'))
    ending = content["file_ending"]
    if ending not in (*RAW_VOLUMES, RAW_ENDING):
        cause = f"file_ending {ending!r} in {path} is not supported"
        remedy = (
            f"Use one of {', '.join((*RAW_VOLUMES, RAW_ENDING))} (gnnunet_convert nifti writes "
            ".nii.gz, gnnunet_convert pictures .png)"
        )
        faults.append(_json_fault("I40", cause, remedy))
    values, label_faults = _label_values(content, path)
    faults += label_faults
    n_training = content["numTraining"]
    files = content.get("dataset")
    if files is not None and not isinstance(files, dict):
        cause = f"the section 'dataset' of {path} is no table"
        faults.append(_json_fault("I39", cause, "Give images and label for each case"))
    faults += _faults_of_form(content, path, faults)
    if any(f.code in ("I39", "I40") for f in faults):
        return None, faults
    return Description(
        len(channels),
        values,
        ending,
        n_training if isinstance(n_training, int) else None,
        files,
        max(values) if "ignore" in content["labels"] else None,
    ), faults


def _faults_of_form(content: dict[str, Any], path: Path, told: Iterable[Fault]) -> list[Fault]:
    """What is wrong with the form of entries not told of yet, and of ``gnnunet.json``."""
    causes = " ".join(fault.cause for fault in told)
    if any(fault.code in ("I41", "I42", "I45") for fault in told):
        causes += " labels"
    faults = [
        _json_fault("I39", f"{text} in {path}", "Correct it there")
        for text, _ in description_faults(content)
        if text.split(".")[0].split()[0] not in causes
    ]
    try:
        read_metadata(path.parent)
    except InputError as error:
        remedy = "Correct it, or convert the data set again"
        errors = error.errors if isinstance(error, SeveralFaultsError) else [error]
        faults += [fault("gnnunet.json", "I39", f"{e.what}: {e.why}", remedy) for e in errors]
    return faults


def _label_values(content: dict[str, Any], path: Path) -> tuple[tuple[int, ...], list[Fault]]:
    """All values of ``labels`` and what is wrong with them, as nnU-Net would find out later."""
    labels = content["labels"]
    try:
        ids = {str(name): [_as_id(v) for v in listed(value)] for name, value in labels.items()}
    except (AttributeError, TypeError, ValueError):
        cause = f"labels in {path} is {labels!r}"
        remedy = 'Give names with numbers: {"background": 0, "atrium": 1}'
        return (0,), [_json_fault("I39", cause, remedy)]
    faults = _repeated_values(ids, path)
    if ids.get("background") != [0]:
        cause = f"labels in {path} has no 'background' with the value 0"
        faults.insert(0, _json_fault("I42", cause, 'Add "background": 0'))
    ignore = ids.pop("ignore", [])
    values = sorted({v for value in ids.values() for v in value} | {0})
    faults += _value_faults(values, ignore, path)
    if any(len(v) > 1 for v in ids.values()) and not content.get("regions_class_order"):
        cause = f"{path} has regions but no regions_class_order"
        faults.append(_json_fault("I39", cause, "Add regions_class_order"))
    return tuple(sorted({*values, *ignore})), faults


def _as_id(value: object) -> int:
    """A whole number, which may be written as text, as nnU-Net takes it."""
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return int(value)
    raise ValueError(value)


def _repeated_values(ids: Mapping[str, list[int]], path: Path) -> list[Fault]:
    """Labels that have the value, or the values of a region, of an earlier one."""
    faults = []
    first_with: dict[tuple[int, ...], str] = {}
    for name, value in ids.items():
        first = first_with.setdefault(tuple(sorted(value)), name)
        if first != name:
            cause = f"labels in {path} gives {name!r} and {first!r} the same value {value}"
            faults.append(_json_fault("I41", cause, "Give each label its own value"))
    return faults


def _value_faults(values: list[int], ignore: list[int], path: Path) -> list[Fault]:
    """Values must be 0, 1, 2 ... and the 'ignore' label the highest one."""
    if values != list(range(len(values))):
        cause = f"label values in {path} are not consecutive: {values}"
        remedy = "Number them 0, 1, 2, ... (gnnunet_convert does so and writes the mapping)"
        return [_json_fault("I45", cause, remedy)]
    if ignore and ignore != [len(values)]:
        cause = f"the 'ignore' label in {path} is {ignore[0]}"
        remedy = f"It must be the highest value, here {len(values)}"
        return [_json_fault("I45", cause, remedy)]
    return []


def case_id_fault(case: str, where: str) -> Fault | None:
    """Case ids become file names; anything that could lead elsewhere is refused."""
    if ".." in case:
        return fault(case, "S12", f"the case id in {where} contains '..'", "Rename the case")
    if not CASE_ID.fullmatch(case):
        cause = f"the case id {case!r} in {where} cannot be a file name everywhere"
        return fault(case, "S13", cause, "Use up to 128 letters, digits, '_', '-' and '.'")
    return None


def list_images(folder: Path, ending: str) -> Listing:
    """Sort the files of an image folder by case and channel.

    Args:
        folder: ``imagesTr`` or the like; a missing one is empty.
        ending: Ending of the image files.
    """
    listing = Listing()
    entries = _entries(folder, ending, listing, lambda stem: split_channel(stem)[0])
    for path, name in entries:
        stem, _ = split_ending(path, (ending,))
        case, channel = split_channel(stem)
        if channel is None:
            cause = f"{name} has no channel number"
            remedy = f"Its name must end in _0000{ending}; rename or remove it"
            listing.faults.append(fault(stem, "I33", cause, remedy))
        elif bad := case_id_fault(case, name):
            listing.faults.append(bad)
        elif twin := listing.cases.setdefault(case, {}).get(channel):
            cause = f"{name} and {twin.name} are one channel"
            listing.faults.append(fault(case, "I31", cause, "Remove one of them"))
        else:
            listing.cases[case][channel] = path
    if not listing.cases:  # all are named as the Decathlon does
        images = shlex.quote(str(folder))
        remedy = f"Type gnnunet_convert nifti --images {images} -d NAME (and --labels DIR)"
        listing.faults = [
            replace(bad, remedy=remedy) if bad.code == "I33" else bad for bad in listing.faults
        ]
    return listing


def list_labels(folder: Path, ending: str) -> tuple[dict[str, Path], Listing]:
    """Label files of a folder by case id; the listing holds faults and notes."""
    listing = Listing()
    labels = {}
    for path, name in _entries(folder, ending, listing, str):
        case, _ = split_ending(path, (ending,))
        if bad := case_id_fault(case, name):
            listing.faults.append(bad)
        else:
            labels[case] = path
    return labels, listing


def _entries(
    folder: Path,
    ending: str,
    listing: Listing,
    case_of: Callable[[str], str],
) -> Iterator[tuple[Path, str]]:
    """Regular files with the ending, sorted; all else becomes a note or a fault."""
    if not folder.is_dir():
        return
    files = image_files(folder, (ending,))
    for name, reason in files.skipped.items():
        where = f"{folder.name}/{name}"
        if reason in (HIDDEN, NO_IMAGE):
            why = reason if reason == HIDDEN else f"does not end in {ending}"
            listing.notes.append(f"{where} was passed over ({why})")
        else:
            case, cause = case_of(split_ending(name, (ending,))[0]), f"{where} is {reason}"
            listing.faults.append(fault(case, "I36", cause, "Remove or replace it"))
    for path in files.paths:
        where = f"{folder.name}/{path.name}"
        if path.name.endswith(ending):
            yield path, where
        else:
            why = f"nnU-Net takes {ending} in small letters"
            listing.notes.append(f"{where} was passed over ({why})")


def channel_faults(
    folder: str, cases: Mapping[str, Mapping[int, Path]], n_channels: int
) -> list[Fault]:
    """Missing and surplus channels, one line a case, or one for all where all are alike."""
    wanted = set(range(n_channels))
    present = [frozenset(channels) for channels in cases.values()]
    if len(present) > 1 and len(set(present)) == 1 and present[0] != wanted:
        cause = (
            f"dataset.json lists {n_channels} channels, "
            f"the files of all {len(present)} cases in {folder} have {_numbered(present[0])}"
        )
        return [fault(folder, "I20", cause, "Correct channel_names or add the files")]
    faults = []
    for case, channels in cases.items():
        if missing := wanted - set(channels):
            cause = f"channel {_numbered(missing)} is missing in {folder}"
            remedy = "Add the file or remove the case (all channels, always in the same order)"
            faults.append(fault(case, "I21", cause, remedy))
        if surplus := set(channels) - wanted:
            cause = f"{folder} has channel {_numbered(surplus)}, dataset.json lists {n_channels}"
            faults.append(fault(case, "I22", cause, "Remove the file or name the channel there"))
    return faults


def _numbered(channels: Iterable[int]) -> str:
    return ", ".join(f"{channel:04d}" for channel in sorted(channels))


def no_images_fault(folder: Path, ending: str) -> Fault:
    """Nothing with the wanted ending: say what there is instead."""
    if not folder.is_dir():
        cause, remedy = f"{folder} does not exist", "Give an existing folder"
    else:
        kinds = {file_ending(p) or p.suffix for p in folder.iterdir() if p.is_file()} - {""}
        unlabeled = folder.parent / "imagesUn"
        if not kinds and unlabeled.is_dir() and any(unlabeled.glob(f"*{ending}")):
            cause = f"no case is labeled: {folder} is empty, {unlabeled.name} is not"
            remedy = "Give label maps with gnnunet_convert --add-corrected DIR, or with --labels"
            return fault(folder.name, "I40", cause, remedy)
        endings = f"found: {', '.join(sorted(kinds))}" if kinds else "the folder is empty"
        cause = f"no *_0000{ending} in {folder} ({endings})"
        remedy = "Correct file_ending in dataset.json or convert the images"
    return fault(folder.name, "I40", cause, remedy)
