"""A user's own folders of images and label maps.

One channel: one file a case, any name. Several channels: ``CASE_0000``, ``CASE_0001`` ...; or
``CASE_T1``, ``CASE_FLAIR`` with the names given; or one subfolder (or one ``--images`` folder) a
channel with the same file names in each. A label map belongs to the image with the same name; a
case without one is unlabeled.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from graphnn_unet.dataset_conversion.forms import Form, Request, existing_folders
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset, Role, file_case
from graphnn_unet.dataset_conversion.volumes import safe_id, stem_of
from graphnn_unet.errors import Fault, FaultsError, InputError, MissingFileError
from graphnn_unet.images import find

_LABEL_WORDS = re.compile(r"[_.-](seg|segmentation|label|labels|lbl|mask|gt|manual)$", re.I)
_LABEL_PREFIX = re.compile(r"^(seg|segmentation|label|labels|mask|gt)[_.-]", re.I)
_SHOWN = 3


@dataclass
class ChannelFiles:
    """Image files sorted by case and channel.

    Attributes:
        channels: Names of the channels, in order.
        cases: Name of a case (not yet a safe id) to channel to file.
    """

    channels: list[str]
    cases: dict[str, dict[str, Path]] = field(default_factory=dict)

    def add(self, case: str, channel: str, path: Path) -> None:
        """Note one file."""
        self.cases.setdefault(case, {})[channel] = path


def read(request: Request) -> ConvertedDataset:
    """Find the cases of a folder of images (or one a channel) and one of label maps.

    Returns:
        The data set with an empty label table: values are read from the label maps later.

    Raises:
        MissingFileError: A folder is missing or holds no image.
        InputError: The channels cannot be told apart.
        FaultsError: Label maps without image, names that collide.
    """
    folders = existing_folders(request.images) or existing_folders(request.source)
    if not folders:
        raise InputError("no image folder was given", "", "Add --images DIR")
    labels = request.label_folder
    test_folders = existing_folders(request.test_images)
    test_labels = existing_folders(request.test_labels)
    if test_labels and not test_folders:
        raise InputError("there are test label maps without test images", "", "Add --test-images")
    faults: list[Fault] = []
    skipped: list[tuple[str, str]] = []
    notes: list[str] = []
    images = find_images(folders, request.channels, skipped)
    cases = _cases(images, labels, "labeled", faults, notes)
    if test_folders:
        test = find_images(test_folders, request.channels or images.channels, skipped)
        if len(test.channels) != len(images.channels):
            raise InputError(
                f"test images have {len(test.channels)} channels, the others {len(images.channels)}"
            )
        cases += _cases(test, next(iter(test_labels), None), "test", faults, notes)
    faults += _collisions(cases)
    if faults:
        raise FaultsError(faults)
    given = [*folders, *test_folders, *([labels] if labels else []), *test_labels]
    source = folders[0] if len(given) == 1 else Path(os.path.commonpath(given))
    return ConvertedDataset(
        name=safe_id(source.name),
        default_id=None,
        form="nifti",
        source=source,
        channel_names=dict(enumerate(images.channels)),
        labels={},
        cases=cases,
        notes=notes,
        skipped=skipped,
    )


FORM = Form(
    name="nifti",
    help="your own .nii.gz, .nii, .mha or .nrrd: --images DIR --labels DIR -d NAME",
    read=read,
    takes=("images", "labels", "test_images", "test_labels"),
)


def find_images(
    folders: Sequence[Path], channels: Sequence[str], skipped: list[tuple[str, str]]
) -> ChannelFiles:
    """Sort image files by case and channel; see the head of the module for the arrangements.

    Args:
        folders: One folder, or one a channel.
        channels: Names of the channels, in order; empty where the user gave none.
        skipped: Files that are not taken are appended, with the reason.
    """
    if len(folders) > 1:
        names = list(channels) or [folder.name for folder in folders]
        if len(names) != len(folders):
            raise InputError(f"{len(folders)} image folders but {len(names)} channel names")
        files = [image_files(folder, skipped) for folder in folders]
        return _by_folder(dict(zip(names, files, strict=True)), folders)
    if images := image_files(folders[0], skipped):
        return _by_name(images, channels)
    inside = _images_below(folders[0], skipped)
    if names := _channel_folders(inside, channels):
        return _by_folder({name: inside[name] for name in names}, folders)
    return _by_name([path for paths in inside.values() for path in paths], channels)


def image_files(folder: Path, skipped: list[tuple[str, str]]) -> list[Path]:
    """Image files of a folder, sorted; other files are listed in ``skipped``."""
    files = find.image_files(folder, find.VOLUMES)
    skipped += [
        (f"{folder.name}/{name}", reason)
        for name, reason in files.skipped.items()
        if not (folder / name).is_dir()
    ]
    return list(files.paths)


def _images_below(folder: Path, skipped: list[tuple[str, str]]) -> dict[str, list[Path]]:
    """Subfolder to its image files, of those that hold any."""
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
    files = {path.name: image_files(path, skipped) for path in below}
    files = {name: paths for name, paths in files.items() if paths}
    if not files:
        raise MissingFileError(
            f"no image in {folder}",
            f"looked for {', '.join(find.VOLUMES)}",
            "Give the folder that holds the image files",
        )
    return files


def _channel_folders(inside: Mapping[str, Sequence[Path]], channels: Sequence[str]) -> list[str]:
    """Subfolders that are channels, in order; empty where each is a case."""
    if set(channels) == set(inside):
        return list(channels)
    stems = [{stem_of(path) for path in files} for files in inside.values()]
    return list(inside) if len(inside) > 1 and set.intersection(*stems) else []


def _by_folder(files: Mapping[str, Sequence[Path]], folders: Sequence[Path]) -> ChannelFiles:
    """Cases of one list of files a channel: the same name in each."""
    images = ChannelFiles(list(files))
    for channel, paths in files.items():
        for path in paths:
            images.add(re.sub(r"_0000$", "", stem_of(path)), channel, path)
    if not images.cases:
        raise MissingFileError(f"no image in {', '.join(map(str, folders))}")
    return images


def _by_name(files: Sequence[Path], channels: Sequence[str]) -> ChannelFiles:
    """Cases of one list of files: by channel number, by channel name, or one file a case."""
    if _numbers_are_channels([find.split_channel(stem_of(path))[1] for path in files]):
        return _by_number(files, channels)
    if len(channels) > 1:
        return _by_channel_name(files, channels)
    channel = next(iter(channels), "image")
    images = ChannelFiles([channel])
    for path in files:
        case = stem_of(path)
        if case in images.cases:
            raise InputError(
                f"{path.name} and {images.cases[case][channel].name} would be the same case",
                "file names without folder and ending must be unique",
                "Rename one of them",
            )
        images.add(case, channel, path)
    return images


def _by_number(files: Sequence[Path], channels: Sequence[str]) -> ChannelFiles:
    """Cases of files named ``CASE_0000``, ``CASE_0001`` ..."""
    numbers = sorted({stem_of(path)[-4:] for path in files})
    names = list(channels) or (numbers if len(numbers) > 1 else ["image"])
    if len(names) != len(numbers):
        raise InputError(
            f"{len(names)} channel names but the files have channels {', '.join(numbers)}"
        )
    images = ChannelFiles(names)
    for path in files:
        case, number = find.split_channel(stem_of(path))
        images.add(case, names[number or 0], path)
    return images


def _numbers_are_channels(numbers: Sequence[int | None]) -> bool:
    """Four digits at the end are channels when they count from 0000; else part of the name."""
    n_distinct = len(set(numbers))
    return set(numbers) == set(range(n_distinct)) and (
        n_distinct == 1 or len(numbers) > n_distinct or n_distinct <= _SHOWN
    )


def _by_channel_name(files: Sequence[Path], channels: Sequence[str]) -> ChannelFiles:
    images = ChannelFiles(list(channels))
    for path in files:
        stem = stem_of(path)
        for channel in sorted(channels, key=len, reverse=True):
            ending = re.search(rf"[_.-]{re.escape(channel)}$", stem, re.IGNORECASE)
            if ending:
                images.add(stem[: ending.start()], channel, path)
                break
    if not images.cases:
        raise InputError(
            f"no file name ends in one of the channel names {', '.join(channels)}",
            f"the files are named like {files[0].name}",
            "Name them CASE_0000, CASE_0001 ..., or give one --images folder a channel",
        )
    return images


def _cases(
    images: ChannelFiles, labels: Path | None, role: Role, faults: list[Fault], notes: list[str]
) -> list[Case]:
    label_of = match_labels(images.cases, labels, faults, notes)
    cases = []
    for stem, files in sorted(images.cases.items()):
        missing = [name for name in images.channels if name not in files]
        if missing:
            cause = f"channel {', '.join(missing)} is missing"
            remedy = "Add the file or leave the case out (--exclude)"
            faults.append(Fault(safe_id(stem), "convert", cause, remedy, code="I21"))
            continue
        case = file_case(
            safe_id(stem), [files[name] for name in images.channels], label_of.get(stem)
        )
        cases.append(replace(case, role="test") if role == "test" else case)
    renamed = sorted(stem for stem in images.cases if safe_id(stem) != stem)
    if renamed:
        notes.append(
            f"{len(renamed)} names were changed to case ids of letters, digits, '_', '-' and '.': "
            + ", ".join(f"{stem!r} is {safe_id(stem)}" for stem in renamed[:_SHOWN])
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
    files = image_files(labels, [])
    if not files:
        raise MissingFileError(f"no label map in {labels}", f"looked for {', '.join(find.VOLUMES)}")
    label_of: dict[str, Path] = {}
    worded = []
    for path in files:
        stem = stem_of(path)
        candidates = (stem, _LABEL_WORDS.sub("", stem), _LABEL_PREFIX.sub("", stem))
        case = next((name for name in candidates if name in cases), None)
        if case is None:
            cause = f"label map {path.name} has no image (images are named like {min(cases)})"
            remedy = "Give both the same name or remove the label map"
            faults.append(Fault(safe_id(stem), "convert", cause, remedy, code="I28"))
        elif case in label_of:
            cause = f"{label_of[case].name} and {path.name} both fit it"
            faults.append(Fault(safe_id(case), "convert", cause, "Remove one", code="I28"))
        else:
            label_of[case] = path
            if case != stem:
                worded.append(path.name)
    if worded:
        notes.append(
            f"{len(worded)} label maps were matched without their extra word, such as {worded[0]}"
        )
    return label_of


def _collisions(cases: Sequence[Case]) -> list[Fault]:
    """Two cases of one id: equal names in training and test, or names that became equal."""
    cause = "two cases have this id"
    remedy = "Rename one; ids keep letters, digits, '_', '-' and '.' only"
    counts = Counter(case.case_id for case in cases)
    repeated = [case_id for case_id, n_cases in counts.items() if n_cases > 1]
    return [Fault(case_id, "convert", cause, remedy, code="I31") for case_id in repeated]
