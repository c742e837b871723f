"""A user's own folders of images and label maps.

One channel: one file a case, any name. Several channels: ``CASE_0000``, ``CASE_0001`` ...; or
``CASE_T1``, ``CASE_FLAIR`` with the names given; or one subfolder (or one ``--images`` folder) a
channel with the same file names in each. A label map belongs to the image with the same name; a
case without one is unlabelled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset, Role
from graphnn_unet.dataset_conversion.volumes import safe_id, stem_of
from graphnn_unet.errors import Fault, FaultsError, InputError, MissingFileError
from graphnn_unet.images import find

_LABEL_WORDS = re.compile(r"[_.-](seg|segmentation|label|labels|lbl|mask|gt|manual)$", re.I)
_LABEL_PREFIX = re.compile(r"^(seg|segmentation|label|labels|mask|gt)[_.-]", re.I)
_SHOWN = 3


@dataclass
class _Images:
    """Images by case: channel name or number to file."""

    channels: list[str]
    cases: dict[str, dict[str, Path]] = field(default_factory=dict)


def read(
    images: Sequence[Path],
    labels: Path | None,
    *,
    test_images: Sequence[Path] = (),
    test_labels: Path | None = None,
    channels: Sequence[str] = (),
) -> ConvertedDataset:
    """Find the cases of a folder of images and one of label maps.

    Args:
        images: One folder, or one a channel.
        labels: Folder of label maps; without it all cases are unlabelled.
        test_images: Folders of test images, arranged as ``images``.
        test_labels: Folder of their label maps, if there are any.
        channels: Names of the channels.

    Returns:
        The data set with an empty label table: values are read from the label maps later.

    Raises:
        MissingFileError: A folder is missing or holds no image.
        InputError: The channels cannot be told apart.
        FaultsError: Label maps without image, names that collide.
    """
    faults: list[Fault] = []
    skipped: list[tuple[str, str]] = []
    notes: list[str] = []
    found = find_images(images, channels, skipped)
    cases = _cases(found, labels, "labeled", faults, notes)
    if test_images:
        test = find_images(test_images, channels or found.channels, skipped)
        if len(test.channels) != len(found.channels):
            raise InputError(
                f"test images have {len(test.channels)} channels, the others {len(found.channels)}"
            )
        cases += _cases(test, test_labels, "test", faults, notes)
    elif test_labels is not None:
        raise InputError("there are test label maps without test images", "", "Add --test-images")
    faults += _collisions(cases)
    if faults:
        raise FaultsError(faults)
    given = [*images, *test_images, *(p for p in (labels, test_labels) if p is not None)]
    source = images[0] if len(given) == 1 else Path(os.path.commonpath(given))
    return ConvertedDataset(
        name=safe_id(source.name),
        default_id=None,
        form="nifti",
        source=source,
        channel_names=dict(enumerate(found.channels)),
        labels={},
        cases=cases,
        notes=notes,
        skipped=skipped,
    )


def find_images(
    folders: Sequence[Path], channels: Sequence[str], skipped: list[tuple[str, str]]
) -> _Images:
    """Sort image files by case and channel; see the head of the module for the arrangements."""
    if len(folders) > 1:
        names = list(channels) or [folder.name for folder in folders]
        if len(names) != len(folders):
            raise InputError(f"{len(folders)} image folders but {len(names)} channel names")
        return _by_folder(dict(zip(names, folders, strict=True)), skipped)
    folder = folders[0]
    files = image_files(folder, skipped)
    if files:
        return _by_name(files, channels)
    below = {p.name: p for p in sorted(folder.iterdir()) if p.is_dir() and p.name[0] != "."}
    inside = {name: image_files(path, skipped) for name, path in below.items()}
    inside = {name: found for name, found in inside.items() if found}
    if not inside:
        raise MissingFileError(
            f"no image in {folder}",
            f"looked for {', '.join(find.VOLUMES)}",
            "Give the folder that holds the image files",
        )
    stems = [{stem_of(p) for p in found} for found in inside.values()]
    if set(channels) == set(inside) or (len(inside) > 1 and set.intersection(*stems)):
        names = list(channels) if set(channels) == set(inside) else list(inside)
        return _by_folder({name: below[name] for name in names}, skipped)
    return _by_name([path for found in inside.values() for path in found], channels)


def image_files(folder: Path, skipped: list[tuple[str, str]]) -> list[Path]:
    """Image files of a folder, sorted; other files are listed in ``skipped``."""
    files = find.image_files(folder, find.VOLUMES)
    skipped += [
        (f"{folder.name}/{name}", reason)
        for name, reason in files.skipped.items()
        if not (folder / name).is_dir()
    ]
    return list(files.paths)


def _by_folder(folders: Mapping[str, Path], skipped: list[tuple[str, str]]) -> _Images:
    found = _Images(list(folders))
    for channel, folder in folders.items():
        for path in image_files(folder, skipped):
            stem = re.sub(r"_0000$", "", stem_of(path))
            found.cases.setdefault(stem, {})[channel] = path
    if not found.cases:
        raise MissingFileError(f"no image in {', '.join(str(f) for f in folders.values())}")
    return found


def _by_name(files: Sequence[Path], channels: Sequence[str]) -> _Images:
    """Cases of one list of files: by channel number, by channel name, or one file a case."""
    numbered = {path: re.fullmatch(r"(.+)_(\d{4})", stem_of(path)) for path in files}
    if all(numbered.values()) and _numbers_are_channels([m[2] for m in numbered.values() if m]):
        numbers = sorted({match[2] for match in numbered.values() if match})
        names = list(channels) or (numbers if len(numbers) > 1 else ["image"])
        if len(names) != len(numbers):
            raise InputError(
                f"{len(names)} channel names but the files have channels {', '.join(numbers)}"
            )
        name_of = dict(zip(numbers, names, strict=True))
        found = _Images(names)
        for path, match in numbered.items():
            if match:
                found.cases.setdefault(match[1], {})[name_of[match[2]]] = path
        return found
    if len(channels) > 1:
        return _by_channel_name(files, channels)
    found = _Images(list(channels) or ["image"])
    for path in files:
        if stem_of(path) in found.cases:
            raise InputError(
                f"{path.name} and {found.cases[stem_of(path)][found.channels[0]].name} would be "
                "the same case",
                "file names without folder and ending must be unique",
                "Rename one of them",
            )
        found.cases[stem_of(path)] = {found.channels[0]: path}
    return found


def _numbers_are_channels(numbers: Sequence[str]) -> bool:
    """Four digits at the end are channels when they count from 0000; else part of the name."""
    distinct = sorted(set(numbers))
    return distinct == [f"{i:04d}" for i in range(len(distinct))] and (
        len(distinct) == 1 or len(numbers) > len(distinct) or len(distinct) <= _SHOWN
    )


def _by_channel_name(files: Sequence[Path], channels: Sequence[str]) -> _Images:
    found = _Images(list(channels))
    for path in files:
        stem = stem_of(path)
        for channel in sorted(channels, key=len, reverse=True):
            ending = re.search(rf"[_.-]{re.escape(channel)}$", stem, re.IGNORECASE)
            if ending:
                found.cases.setdefault(stem[: ending.start()], {})[channel] = path
                break
    if not found.cases:
        raise InputError(
            f"no file name ends in one of the channel names {', '.join(channels)}",
            f"the files are named like {files[0].name}",
            "Name them CASE_0000, CASE_0001 ..., or give one --images folder a channel",
        )
    return found


def _cases(
    found: _Images, labels: Path | None, role: Role, faults: list[Fault], notes: list[str]
) -> list[Case]:
    label_of = match_labels(found.cases, labels, faults, notes)
    cases = []
    for stem, files in sorted(found.cases.items()):
        missing = [name for name in found.channels if name not in files]
        case_id = safe_id(stem)
        if missing:
            cause = f"channel {', '.join(missing)} is missing"
            remedy = "Add the file or leave the case out (--exclude)"
            faults.append(Fault(case_id, "convert", cause, remedy, code="I21"))
            continue
        label = label_of.get(stem)
        images = tuple(files[name] for name in found.channels)
        inputs = images if label is None else (*images, label)
        own: Role = "unlabeled" if role == "labeled" and label is None else role
        cases.append(Case(case_id, images, label, own, case_id, inputs))
    renamed = [stem for stem in found.cases if safe_id(stem) != stem]
    if renamed:
        notes.append(
            f"{len(renamed)} names were changed to case ids of letters, digits, '_', '-' and '.': "
            + ", ".join(f"{stem!r} is {safe_id(stem)}" for stem in sorted(renamed)[:_SHOWN])
        )
    return cases


def match_labels(
    cases: Collection[str], labels: Path | None, faults: list[Fault], notes: list[str]
) -> dict[str, Path]:
    """Label file of each case: the same name, or the same up to a word such as ``_seg``.

    Args:
        cases: Names of the images.
        labels: Folder of label maps, or ``None``.
        faults: Label maps without image are appended.
        notes: What was matched less than literally is appended.
    """
    if labels is None:
        return {}
    skipped: list[tuple[str, str]] = []
    files = image_files(labels, skipped)
    if not files:
        raise MissingFileError(f"no label map in {labels}", f"looked for {', '.join(find.VOLUMES)}")
    matched: dict[str, Path] = {}
    worded = []
    for path in files:
        stem = stem_of(path)
        candidates = [stem, _LABEL_WORDS.sub("", stem), _LABEL_PREFIX.sub("", stem)]
        case = next((name for name in candidates if name in cases), None)
        if case is None:
            near = min(cases)
            cause = f"label map {path.name} has no image (images are named like {near})"
            remedy = "Give both the same name or remove the label map"
            faults.append(Fault(safe_id(stem), "convert", cause, remedy, code="I28"))
        elif case in matched:
            cause = f"{matched[case].name} and {path.name} both fit it"
            faults.append(Fault(safe_id(case), "convert", cause, "Remove one", code="I28"))
        else:
            matched[case] = path
            if case != stem:
                worded.append(path.name)
    if worded:
        notes.append(
            f"{len(worded)} label maps were matched without their extra word, such as {worded[0]}"
        )
    return matched


def _collisions(cases: Sequence[Case]) -> list[Fault]:
    """Two cases of one id: equal names in training and test, or names that became equal."""
    seen: set[str] = set()
    faults = []
    for case in cases:
        if case.case_id in seen:
            cause = "two cases have this id"
            remedy = "Rename one; ids keep letters, digits, '_', '-' and '.' only"
            faults.append(Fault(case.case_id, "convert", cause, remedy, code="I31"))
        seen.add(case.case_id)
    return faults
