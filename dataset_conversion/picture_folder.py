"""A user's own folders of pictures and masks: skin, polyps, cells, radiographs.

A mask belongs to the picture with the same name, or the same up to a word such as ``_mask`` or
``_segmentation``. A picture without mask is unlabeled. Colored pictures have three channels, which
nnU-Net's reader of natural images takes from one file; a folder of gray ones has one.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from graphnn_unet.dataset_conversion.forms import Form, Request, existing_folders
from graphnn_unet.dataset_conversion.masks import (
    Mask,
    MaskMeaning,
    masks_meaning,
    workers_for_files,
)
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset
from graphnn_unet.errors import Fault, FaultsError, GraphnnError, InputError, MissingFileError
from graphnn_unet.images.find import PICTURES, SUBFOLDER, image_files, safe_id, split_ending
from graphnn_unet.images.flat_picture import MAX_BITS, RAW_ENDING, is_gray, used_bits
from graphnn_unet.images.pictures import read_picture, stored_bits
from graphnn_unet.storage.processes import run_jobs

COLOR_CHANNELS = ("red", "green", "blue")

_MASK_WORDS = (
    r"masks?|seg|segmented|segmentations?|lesion|labels?|labelids|lbl|gt|ground_?truth|"
    r"manual\d?|annotations?|anno|target|l"
)
_MASK = re.compile(rf"[ _.-]({_MASK_WORDS})$|^(?:{_MASK_WORDS})[ _.-]", re.I)
_IMAGE = re.compile(
    r"[ _.-](images?|img|original|orig|photo|0000)$|^(?:images?|img|original|orig|photo)[ _.-]",
    re.I,
)
_SHOWN = 3


def read(request: Request) -> ConvertedDataset:
    """Find pictures and masks, and find out what the masks mean.

    Raises:
        MissingFileError: A folder is missing or holds no picture.
        InputError: The masks cannot be understood, or lie among the pictures.
    """
    folder = _single_folder(
        existing_folders(request.images) or existing_folders(request.source), "--images"
    )
    if folder is None:
        raise InputError("no folder of pictures was given", "", "Add --images DIR")
    test_folder = _single_folder(existing_folders(request.test_images), "--test-images")
    test_masks = _single_folder(existing_folders(request.test_labels), "--test-labels")
    if test_masks and not test_folder:
        raise InputError("there are test masks without test pictures", "", "Add --test-images")
    faults: list[Fault] = []
    skipped: list[tuple[str, str]] = []
    notes: list[str] = []
    given = [f for f in (folder, request.label_folder, test_folder, test_masks) if f is not None]
    apart = frozenset(path.resolve() for path in given)
    pairs = _pairs(folder, request.label_folder, apart, faults, skipped, notes)
    tests = _pairs(test_folder, test_masks, apart, faults, skipped, notes) if test_folder else {}
    faults += _collisions([*pairs, *tests])
    masks = [mask for _, mask in (*pairs.values(), *tests.values()) if mask is not None]
    try:
        meaning = masks_meaning(masks, request.label_names or {}) if masks else MaskMeaning()
    except InputError as error:
        if not faults:
            raise
        cause = f"{error.what}: {error.why}" if error.why else error.what
        raise FaultsError([*faults, Fault("masks", "convert", cause, error.remedy)]) from error
    cases = [_case(name, *pair, meaning) for name, pair in pairs.items()]
    cases += [replace(_case(n, *pair, meaning), role="test") for n, pair in tests.items()]
    pictures = [case.inputs[0] for case in cases]
    colored = _first_colored(pictures)
    color_bits = _color_bits(pictures) if colored else None
    notes.append(
        f"{colored.name} is colored: red, green and blue are three channels"
        if colored
        else "no picture shows any color: one channel"
    )
    if color_bits is not None:
        notes.append(
            f"the brightest of the deep colors has {color_bits} bits: all are divided by "
            f"{2 ** (color_bits - 8)} to have 8, in predictions too"
        )
    source = folder if len(given) == 1 else Path(os.path.commonpath(given))
    return ConvertedDataset(
        name=safe_id(source.name),
        default_id=None,
        form="pictures",
        source=source,
        channel_names=dict(enumerate(COLOR_CHANNELS if colored else ("gray",))),
        labels=color_labels(meaning),
        cases=cases,
        notes=[*notes, *meaning.notes],
        skipped=skipped,
        file_ending=RAW_ENDING,
        label_colors=dict(meaning.colors or {}),
        color_bits=color_bits or MAX_BITS,
        faults=faults,
    )


FORM = Form(
    name="pictures",
    help="your own .png, .jpg, .tif or .bmp: --images DIR --masks DIR -d NAME",
    read=read,
    takes=("images", "labels", "test_images", "test_labels"),
)


def color_labels(meaning: MaskMeaning) -> dict[str, int | list[int]]:
    """The label table of colored masks; empty for others, whose values are read later."""
    if meaning.names is None:
        return {}
    return {"background": 0, **{name: number for number, name in meaning.names.items()}}


_Pairs = dict[str, tuple[Path, Path | None]]


def _single_folder(folders: Sequence[Path], flag: str) -> Path | None:
    if len(folders) > 1:
        raise InputError(
            f"{flag} has {len(folders)} folders", "a picture holds all of its channels",
            "Give one folder",
        )  # fmt: skip
    return folders[0] if folders else None


def _pairs(
    folder: Path,
    masks: Path | None,
    apart: Collection[Path],
    faults: list[Fault],
    skipped: list[tuple[str, str]],
    notes: list[str],
) -> _Pairs:
    """Case id to picture and mask; ``apart`` are the folders that the user gave."""
    pictures = _by_stem(_pictures(folder, apart, skipped), faults)
    if masks is None or masks.samefile(folder):
        pictures, mask_files = _apart(pictures)
        if masks is None and mask_files:
            stem = next(iter(mask_files))
            raise InputError(
                f"{mask_files[stem].name} in {folder} looks like the mask of another picture there",
                f"{len(mask_files)} files do",
                f"Add --masks {folder}, or move them away",
            )
    else:
        mask_files = _by_stem(_pictures(masks, apart, skipped), faults)
    mask_of = match_masks(pictures, mask_files, faults, notes)
    pairs: _Pairs = {}
    renamed = []
    for stem, path in pictures.items():
        case = safe_id(stem.removesuffix("_0000"))
        if case != stem:
            renamed.append(f"{stem!r} is {case}")
        if case in pairs:
            faults += _collisions([case, case])
        pairs[case] = (path, mask_of.get(stem))
    if renamed:
        notes.append(
            f"{len(renamed)} names were changed to case ids of letters, digits, '_', '-' and '.': "
            + ", ".join(renamed[:_SHOWN])
        )
    return dict(sorted(pairs.items()))


def _pictures(folder: Path, apart: Collection[Path], skipped: list[tuple[str, str]]) -> list[Path]:
    """Pictures of a folder, or where it has none those of the folders in it.

    Args:
        folder: Where to look.
        apart: Folders that hold something else, and are neither taken nor told (resolved).
        skipped: What is left out is appended, with the reason.
    """
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
    inside = [path for path in inside if path.resolve() not in apart]
    listings = {folder: image_files(folder, PICTURES)}
    pictures = list(listings[folder].paths)
    if not pictures:
        below = {place: image_files(place, PICTURES) for place in inside}
        listings |= below
        pictures = [path for listing in below.values() for path in listing.paths]
    for place, listing in listings.items():
        skipped += [
            (f"{place.name}/{name}", reason)
            for name, reason in listing.left_out().items()
            if not (
                reason == SUBFOLDER
                and (place / name in listings or (place / name).resolve() in apart)
            )
        ]
    if not pictures:
        raise MissingFileError(
            f"no picture in {folder}",
            f"looked for {', '.join(PICTURES)}",
            "Give the folder that holds the files",
        )
    return pictures


def _by_stem(paths: Iterable[Path], faults: list[Fault]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in paths:
        stem = unicodedata.normalize("NFC", split_ending(path, PICTURES)[0])
        if stem in files:
            cause = f"{files[stem]} and {path} have one name"
            remedy = "Keep one of them, or rename"
            faults.append(Fault(safe_id(stem), "convert", cause, remedy, code="I31"))
        files.setdefault(stem, path)
    return files


def _apart(files: Mapping[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Pictures and masks of one folder: a mask is named like a picture with one more word."""
    bare = {_IMAGE.sub("", stem) for stem in files if not _MASK.search(stem)}
    masks = {s: p for s, p in files.items() if _MASK.search(s) and _MASK.sub("", s) in bare}
    return {stem: path for stem, path in files.items() if stem not in masks}, masks


def match_masks(
    pictures: Mapping[str, Path],
    masks: Mapping[str, Path],
    faults: list[Fault],
    notes: list[str],
) -> dict[str, Path]:
    """Mask of each picture by its stem: the same name, or the same up to a usual word.

    Args:
        pictures: Stem to picture.
        masks: Stem to mask.
        faults: Masks without picture, and two for one, are appended.
        notes: What was matched less than literally is appended.
    """
    bare = {_IMAGE.sub("", stem).lower(): stem for stem in pictures}
    mask_of: dict[str, Path] = {}
    worded = []
    for stem, path in masks.items():
        without = _MASK.sub("", stem)
        candidates = (stem, without, bare.get(without.lower()), bare.get(stem.lower()))
        picture = next((name for name in candidates if name in pictures), None)
        if picture is None:
            example = min(pictures, default="(none)")
            cause = f"mask {path.name} has no picture (pictures are named like {example})"
            remedy = "Give both the same name or remove the mask"
            faults.append(Fault(safe_id(stem), "convert", cause, remedy, code="I28"))
        elif picture in mask_of:
            cause = f"{mask_of[picture].name} and {path.name} both fit it"
            remedy = "Keep one, or draw both into one mask with a value each"
            faults.append(Fault(safe_id(picture), "convert", cause, remedy, code="I28"))
        else:
            mask_of[picture] = path
            if picture != stem:
                worded.append(path.name)
    if worded:
        notes.append(
            f"{len(worded)} masks were matched without their extra word, such as {worded[0]}"
        )
    return mask_of


def _case(case_id: str, picture: Path, mask: Path | None, meaning: MaskMeaning) -> Case:
    role = "unlabeled" if mask is None else "labeled"
    label = None if mask is None else Mask(mask, meaning)
    inputs = (picture,) if mask is None else (picture, mask)
    return Case(case_id, (picture,), label, role, case_id, inputs)


def _first_colored(paths: Sequence[Path]) -> Path | None:
    """The first picture that shows color; damaged ones are reported later, with the others."""
    for path in paths:
        try:
            if not is_gray(read_picture(path)):
                return path
        except GraphnnError:
            continue
    return None


def _color_bits(paths: Sequence[Path]) -> int | None:
    """Bits of the brightest value of all pictures stored with more than 8; ``None`` without any.

    Damaged pictures are reported later.
    """
    deep = []
    for path in paths:
        with suppress(GraphnnError, OSError):
            if stored_bits(path) > 8:
                deep.append(path)
    outcomes = run_jobs(used_bits, deep, n_workers=workers_for_files(deep))
    return max((outcome.value for outcome in outcomes if outcome.ok), default=None)


def _collisions(case_ids: Sequence[str]) -> list[Fault]:
    cause, remedy = "two pictures have this id", "Rename one of them"
    repeated = sorted({case for case in case_ids if case_ids.count(case) > 1})
    return [Fault(case, "convert", cause, remedy, code="I31") for case in repeated]
