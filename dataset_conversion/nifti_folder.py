"""A user's own folders of images and label maps.

How files become cases and channels says ``graphnn_unet.images.cases``. A label map belongs to the
image with the same name; a case without one is unlabeled.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from graphnn_unet.dataset_conversion.forms import Form, Request, existing_folders
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset, Role, file_case
from graphnn_unet.errors import Fault, InputError, MissingFileError
from graphnn_unet.images.cases import (
    CaseFiles,
    Wanted,
    case_of,
    find_cases,
    label_maps_of_patients,
    stem_of,
)
from graphnn_unet.images.find import RAW_VOLUMES, VOLUMES, file_ending, image_files, safe_id, some

_COPIED = RAW_VOLUMES[0]


def read(request: Request) -> ConvertedDataset:
    """Find the cases of a folder of images (or one a channel) and one of label maps.

    Returns:
        The data set with an empty label table: values are read from the label maps later.

    Raises:
        MissingFileError: A folder is missing or holds no image.
        InputError: The channels cannot be told apart.
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
    images = find_images(folders, labels, tuple(request.channels), "--images DIR --labels")
    cases = _cases(images, labels, "labeled", faults, notes)
    skipped += images.left_out
    if test_folders:
        test_label_folder = next(iter(test_labels), None)
        channels = request.channels or images.channels
        test = find_images(test_folders, test_label_folder, tuple(channels), "--test-labels")
        if len(test.channels) != len(images.channels):
            raise InputError(
                f"test images have {len(test.channels)} channels, the others {len(images.channels)}"
            )
        cases += _cases(test, test_label_folder, "test", faults, notes)
        skipped += test.left_out
    faults += _collisions(cases)
    given = [*folders, *test_folders, *([labels] if labels else []), *test_labels]
    source = folders[0] if len(given) == 1 else Path(os.path.commonpath(given))
    return ConvertedDataset(
        name=safe_id(source.name),
        default_id=None,
        form="nifti",
        source=source,
        # as they were given: two channels may have one name, which says how they are normalized
        channel_names=dict(enumerate(request.channels or images.channels)),
        labels={},
        cases=cases,
        notes=[*notes, *_rewritten(cases)],
        skipped=list(dict.fromkeys(skipped)),
        faults=faults,
    )


FORM = Form(
    name="nifti",
    help="your own .nii.gz, .nii, .mha, .mhd, .nrrd, .mgz, .img: --images DIR --labels DIR -d NAME",
    read=read,
    takes=("images", "labels", "test_images", "test_labels"),
)


def find_images(
    folders: Sequence[Path], labels: Path | None, channels: tuple[str, ...], flag: str
) -> CaseFiles:
    """The images, and where the label maps lie among them, these too.

    Args:
        folders: One folder, or one a channel.
        labels: Folder of label maps, or ``None``.
        channels: Names of the channels, in order; empty where they are not known.
        flag: What a user types before the folder of label maps.
    """
    inside = labels is not None and any(labels.resolve() == f.resolve() for f in folders)
    wanted = Wanted(
        channels=channels,
        labels_inside=inside,
        label_names=frozenset() if inside or labels is None else _names(labels),
        type_labels=f"Add {flag.split()[-1]} {{}}",
        exclude=labels.resolve() if labels is not None and not inside else None,
    )
    return find_cases(folders, wanted)


def _names(labels: Path) -> frozenset[str]:
    return frozenset(stem_of(path) for path in image_files(labels, VOLUMES).paths)


def _cases(
    images: CaseFiles, labels: Path | None, role: Role, faults: list[Fault], notes: list[str]
) -> list[Case]:
    notes += images.notes
    files = [path for channels in images.cases.values() for path in channels.values()]
    if images.labels:
        label_of = _pair(images.cases, images.labels.items(), None, faults, notes)
    else:
        label_of = match_labels(
            images.cases, labels, faults, notes, images.left_out,
            images=files, places=images.places,
        )  # fmt: skip
    cases = []
    for stem, by_channel in sorted(images.cases.items()):
        if (fault := _channel_fault(stem, images)) is not None:
            faults.append(fault)
            continue
        channels = [by_channel[name] for name in images.channels]
        case = replace(file_case(safe_id(stem), channels, label_of.get(stem)), name=stem)
        cases.append(replace(case, role="test") if role == "test" else case)
    return cases


def _channel_fault(stem: str, images: CaseFiles) -> Fault | None:
    """A channel that the case lacks, or has and most others have not."""
    files = images.cases[stem]
    missing = ", ".join(name for name in images.channels if name not in files)
    if surplus := sorted(set(files) - set(images.channels)):
        cause = f"it has channel {', '.join(surplus)}, {_who_has(surplus, images)}"
        remedy = "Remove or rename the file"
        if missing:
            cause += f", and channel {missing} is missing"
            names = some(files[name].name for name in surplus)
            remedy = f"Rename {names} if that is channel {missing}, or --exclude the case"
        return Fault(safe_id(stem), "convert", cause, remedy, code="I22")
    if missing:
        remedy = "Add the file or leave the case out (--exclude)"
        return Fault(safe_id(stem), "convert", f"channel {missing} is missing", remedy, code="I21")
    return None


def _who_has(surplus: Collection[str], images: CaseFiles) -> str:
    n_cases = sum(not files.keys().isdisjoint(surplus) for files in images.cases.values())
    having = "no other case has" if n_cases == 1 else f"{n_cases} of {len(images.cases)} cases have"
    return f"which {having}; the data set has {len(images.channels)} ({', '.join(images.channels)})"


def _rewritten(cases: Sequence[Case]) -> list[str]:
    """A note on files whose kind is not that of a raw folder."""
    names = [p.name for case in cases for p in case.images if isinstance(p, Path)]
    names = [name for name in names if file_ending(name) not in RAW_VOLUMES]
    return [f"written as {_COPIED}: {some(names, 20)}"] if names else []


def match_labels(
    cases: Collection[str],
    labels: Path | None,
    faults: list[Fault],
    notes: list[str],
    left_out: list[tuple[str, str]],
    *,
    images: Collection[Path] = (),
    places: Mapping[str, Path] | None = None,
) -> dict[str, Path]:
    """Label file of each case: the same name, or the same up to a word such as ``_seg``.

    Label maps in folders of folders belong to the case whose images lie at the same place, before
    names count.

    Args:
        cases: Names of the images.
        labels: Folder of label maps, or of one folder a patient with label maps, or ``None``.
        faults: Label maps without image are appended.
        notes: What was matched less than literally is appended.
        left_out: Files of the folder that are no label maps are appended.
        images: Files that are images: none of them becomes a label map.
        places: Name of a case to the folder of its images, below the one that was searched.
    """
    if labels is None:
        return {}
    listing = image_files(labels, VOLUMES)
    taken = {path.resolve() for path in images}
    files = [(stem_of(path), [path]) for path in listing.paths if path.resolve() not in taken]
    if listing.paths:
        left_out += [(f"{labels.name}/{name}", why) for name, why in listing.left_out().items()]
    else:
        by_patient, others = label_maps_of_patients(labels, taken, places or {})
        left_out += others
        files = [
            entry
            for name, paths in by_patient
            for entry in ([(name, paths)] if name in cases else [(stem_of(p), [p]) for p in paths])
        ]
    if not files:
        looked_for = f"looked for {', '.join(VOLUMES)}"
        cause = "all files in it are images" if listing.paths else looked_for
        raise MissingFileError(f"no label map in {labels}", cause, "Give another folder")
    return _pair(cases, files, labels, faults, notes)


def _pair(
    cases: Collection[str],
    files: Iterable[tuple[str, Sequence[Path]]],
    labels: Path | None,
    faults: list[Fault],
    notes: list[str],
) -> dict[str, Path]:
    """Label file of each case, from the names that may be a case's and their files.

    Faults call a file by its place below ``labels``.
    """
    label_of: dict[str, Path] = {}
    worded, by_folder = [], []

    def shown(path: Path) -> str:
        return path.name if labels is None else path.relative_to(labels).as_posix()

    for name, paths in files:
        if len(paths) > 1:
            cause = f"its label map is in {len(paths)} files ({some(p.name for p in paths)})"
            remedy = "Write them as one label map with a number a structure, or remove the others"
            faults.append(Fault(safe_id(name), "convert", cause, remedy, code="I28"))
            continue
        for path in paths:
            case = case_of(name, cases) or case_of(stem_of(path), cases)
            if case is None:
                cause = f"label map {shown(path)} has no image (images are named like {min(cases)})"
                remedy = "Give both the same name or remove the label map"
                faults.append(Fault(safe_id(name), "convert", cause, remedy, code="I28"))
            elif case in label_of:
                cause = f"{shown(label_of[case])} and {shown(path)} both fit it"
                faults.append(Fault(safe_id(case), "convert", cause, "Remove one", code="I28"))
            else:
                label_of[case] = path
                if case == name != stem_of(path) and shown(path) != path.name:
                    by_folder.append(shown(path))
                elif case != stem_of(path):
                    worded.append(path.name)
    for matched, how in ((worded, "without their extra word"), (by_folder, "by their folders")):
        if matched:
            notes.append(f"{len(matched)} label maps were matched {how}, such as {matched[0]}")
    return label_of


def _collisions(cases: Sequence[Case]) -> list[Fault]:
    """Two cases of one id: equal names in training and test, or names that became equal."""
    cause = "two cases have this id"
    remedy = "Rename one; ids keep letters, digits, '_', '-' and '.' only"
    counts = Counter(case.case_id for case in cases)
    repeated = [case_id for case_id, n_cases in counts.items() if n_cases > 1]
    return [Fault(case_id, "convert", cause, remedy, code="I31") for case_id in repeated]
