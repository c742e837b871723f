"""Which image files belong together as a case, and what of a case each of them is.

Known arrangements: one file a case; ``CASE_0000``, ``CASE_0001`` ... (a number a channel);
``CASE_t1``, ``CASE_flair`` (a name a channel); one subfolder a channel with equal names inside; one
folder a patient with equal names inside. Label maps may lie beside the images where their names
tell them apart. What the names leave open is not guessed: the error says what to type.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.images.find import (
    SUBFOLDER,
    VOLUMES,
    image_files,
    some,
    split_channel,
    split_ending,
    walk,
)

_LABEL = r"(?:seg(?:mentation)?s?|labels?|lbl|masks?|gt|ground[_-]?truth|manual|annotations?)"
_LABEL_END = re.compile(rf"[_. -]{_LABEL}$", re.I)
_LABEL_START = re.compile(rf"^{_LABEL}(?:[_. -]+|(?=\d))", re.I)
_LABEL_ALONE = re.compile(_LABEL, re.I)
_IMAGE_END = re.compile(r"[_. -](?:im|img|image|imaging|vol|volume|scan)$", re.I)
_IMAGE_START = re.compile(r"^(?:im|img|image|imaging|vol|volume|scan)(?:[_. -]+|(?=\d))", re.I)
_LABEL_FOLDER = re.compile(rf"{_LABEL}(?:_?(?:tr|ts))?", re.I)
_IMAGE_FOLDER = re.compile(r"(?:im|imgs?|images?|scans?|volumes?|data)(?:_?(?:tr|ts|un))?", re.I)
_MODALITY = re.compile(
    r"(?:t1|t2|t1n|t1c|t1ce|t1gd|t1w|t1post|t2w|t2f|t2flair|flair|pd|pdw|adc|dwi|dti|swi|bold|asl"
    r"|cbf|cbv|ct|cta|cect|pet|spect|suv|mr|mri|mra|lge|cine|bssfp|dce|hbv|us|xa)",
    re.I,
)
_IMAGE_ALONE = re.compile(r"im|img|image|imaging|vol|volume|scan|brain|anat", re.I)
_Channel = TypeVar("_Channel", int, str)
_MANY_NUMBERS = 4
"""One name with more numbers than this is a series of scans; with fewer it may be one scan."""


@dataclass
class CaseFiles:
    """Image files sorted by case and channel.

    Attributes:
        channels: Names of the channels, in order.
        cases: Name of a case (not yet a safe id) to channel to file.
        places: Name of a case to its folder below the one that was searched, where each case has
            one of its own.
        labels: Name of a case to the label map that lies beside its image, where asked for.
        left_out: Files that are not taken, with the reason.
        notes: What was assumed.
    """

    channels: list[str]
    cases: dict[str, dict[str, Path]] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    labels: dict[str, list[Path]] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, case: str, channel: str, path: Path) -> None:
        """Note one file.

        Raises:
            InputError: Another file is this channel of this case.
        """
        _add_once(self.cases.setdefault(case, {}), channel, path)


def _add_once(files: dict[str, Path], key: str, path: Path) -> None:
    first = files.setdefault(key, path)
    if first != path:
        raise InputError(
            f"{first} and {path} would be the same case",
            "file names without folder and ending must be unique",
            "Remove or rename one of them",
        )


@dataclass(frozen=True)
class Wanted:
    """What the caller knows of the cases.

    Attributes:
        channels: Names of the channels in order, where they are known; else as many as there are.
        labels_inside: Label maps lie in the same folder and are wanted.
        label_names: Names of label maps elsewhere; they tell a case from a channel of one.
        type_channels: What a user types after ``--channels``; empty where the model says them.
        type_labels: What a user types to take the label maps beside the images, whose folder is
            ``{}``; empty where none are taken.
        exclude: A folder that holds no images (that of the label maps).
    """

    channels: tuple[str, ...] = ()
    labels_inside: bool = False
    label_names: frozenset[str] = frozenset()
    type_channels: Literal["names", "number", ""] = "names"
    type_labels: str = "Add --labels {}"
    exclude: Path | None = None


def find_cases(folders: Sequence[Path], wanted: Wanted = Wanted()) -> CaseFiles:
    """Sort the volumes of folders by case and channel; see the head of the module.

    Args:
        folders: One folder, or one a channel.
        wanted: What is known of the cases.

    Raises:
        MissingFileError: There is no image.
        InputError: The names leave open what belongs together.
    """
    wanted = replace(wanted, channels=told_apart(wanted.channels))
    if len(folders) > 1:
        return _by_folder(folders, wanted)
    listing = image_files(folders[0], VOLUMES)
    if not listing.paths:
        return _in_subfolders(folders[0], wanted)
    images = _by_name(folders[0], list(listing.paths), wanted)
    others = listing.left_out()
    if wanted.exclude is not None:
        others.pop(wanted.exclude.name, None)
    images.left_out[:0] = [(f"{folders[0].name}/{name}", why) for name, why in others.items()]
    return images


# ---------------------------------------------------------------- one folder of files


def told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names of channels, with a number behind each that comes again.

    Two channels of a data set may have one name, which says how they are normalized.

    Example:
        >>> told_apart(["MRI", "CT", "mri"])
        ('MRI', 'CT', 'mri (2)')
    """
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name.lower()] += 1
        times = seen[name.lower()]
        unique.append(name if times == 1 else f"{name} ({times})")
    return tuple(unique)


def _by_folder(folders: Sequence[Path], wanted: Wanted) -> CaseFiles:
    """Cases of one folder a channel: the same name in each."""
    names = list(wanted.channels) or [folder.name for folder in folders]
    if len(names) != len(folders):
        raise InputError(f"{len(folders)} image folders but {len(names)} channel names")
    if len(set(names)) < len(names):
        raise InputError(
            f"two image folders are both called {max(names, key=names.count)}",
            remedy="Name the channels with --channels",
        )
    images = CaseFiles(names)
    for channel, folder in zip(names, folders, strict=True):
        listing = image_files(folder, VOLUMES)
        images.left_out += [(f"{folder.name}/{n}", why) for n, why in listing.left_out().items()]
        for path in listing.paths:
            images.add(re.sub(r"_0000$", "", stem_of(path)), channel, path)
    if not images.cases:
        raise MissingFileError(f"no image in {', '.join(map(str, folders))}")
    return images


def _by_name(where: Path, files: Sequence[Path], wanted: Wanted) -> CaseFiles:
    """Cases of one list of files: by channel number, by channel name, or one file a case."""
    labels = labels_among([stem_of(path) for path in files], wanted.channels)
    label_files = [path for path in files if stem_of(path) in labels]
    if labels:
        wanted = replace(wanted, label_names=frozenset(labels.values()))
    images = _by_channel(where, [path for path in files if stem_of(path) not in labels], wanted)
    if not wanted.labels_inside:
        _leave_labels_out(where, label_files, images, wanted)
        return images
    if not label_files:
        raise InputError(
            f"the names of the files in {where} do not tell label maps from images",
            f"they are named like {files[0].name}",
            "Give the label maps names such as CASE_seg.nii.gz, or a folder of their own",
        )
    for path in label_files:
        images.labels.setdefault(labels[stem_of(path)], []).append(path)
    return images


def _leave_labels_out(
    where: Path, label_files: Sequence[Path], images: CaseFiles, wanted: Wanted
) -> None:
    """Label maps beside the images that nobody asked for: refused, or left out by name.

    Raises:
        InputError: No label maps are given elsewhere, so these may be meant.
    """
    names = [path.relative_to(where).as_posix() for path in label_files]
    if names and wanted.exclude is None:
        raise InputError(
            f"{where} holds label maps beside the images",
            f"by their names {some(names)} are label maps",
            wanted.type_labels.format(where),
        )
    images.labels = {}
    images.left_out += [(name, "a label map by its name") for name in names]


def labels_among(stems: Collection[str], channels: Sequence[str] = ()) -> dict[str, str]:
    """Names of label maps among the names of images and label maps, with what is left of each.

    ``CASE_seg`` beside ``CASE`` (or ``CASE_0000``, or ``CASE_t1`` for a channel ``t1``),
    ``label-7`` beside ``volume-7``, ``CASE`` beside ``CASE_0000``. Where one pair shows what a
    word means, all names with this word are label maps, whether or not their image is there.

    Example:
        >>> labels_among(["a", "a_seg", "b_seg", "mask_study"])
        {'a_seg': 'a', 'b_seg': 'b'}
    """
    known = set(stems)
    unlabeled = [s for s in stems if not (_is_label_key(s) or _LABEL_START.search(s))]
    images = {plain(_split_channel_name(stem, channels)[0]) for stem in unlabeled}
    images |= {match[1] for stem in unlabeled if (match := _with_modality(stem))}
    words: set[str] = set()
    stripped: dict[str, tuple[str, str]] = {}
    for stem in stems:
        for pattern in (_LABEL_END, _LABEL_START):
            rest = pattern.sub("", stem)
            if rest not in ("", stem):
                word = stem.replace(rest, "\0", 1).lower()
                stripped.setdefault(stem, (rest, word))
                if known & {rest, f"{rest}_0000"} or plain(rest) in images:
                    stripped[stem] = (rest, word)
                    words.add(word)
                    break
    labels = {stem: rest for stem, (rest, word) in stripped.items() if word in words}
    return labels or {stem: stem for stem in stems if f"{stem}_0000" in known}


def _with_modality(stem: str) -> re.Match[str] | None:
    """Case and modality of ``CASE_t1``."""
    match = re.fullmatch(r"(.+)[_. -]([A-Za-z0-9]+)", stem)
    return match if match and _MODALITY.fullmatch(match[2]) else None


def plain(stem: str) -> str:
    """A name without a word that says that it is an image or a label map: what both share.

    Example:
        >>> plain("volume-12"), plain("segmentation-12"), plain("case_image")
        ('12', '12', 'case')
    """
    for pattern in (_LABEL_END, _LABEL_START, _IMAGE_END, _IMAGE_START):
        stem = pattern.sub("", stem) or stem
    return stem


def _split_channel_name(stem: str, channels: Sequence[str]) -> tuple[str, str | None]:
    """A name without the channel's name or number at its end, and the name that it had."""
    for channel in sorted(channels, key=len, reverse=True):
        if ending := re.search(rf"[_. -]{re.escape(channel)}$", stem, re.IGNORECASE):
            return stem[: ending.start()], channel
    return split_channel(stem)[0], None


def _by_channel(where: Path, files: Sequence[Path], wanted: Wanted) -> CaseFiles:
    numbers = channel_numbers(where, [stem_of(path) for path in files], wanted)
    if numbers is not None:
        return _by_number(files, numbers, wanted)
    if len(wanted.channels) > 1:
        return _by_channel_name(files, wanted)
    stems = [stem_of(path) for path in files]
    names = [] if wanted.channels else _modalities(stems, wanted.label_names)
    if names:
        raise InputError(
            f"the names of the files in {where} end in {', '.join(names)}",
            "that may be channels of one case, or cases of their own",
            f"Type {_typed(wanted, names)} for channels, or one name (--channels NAME) for cases",
        )
    images = CaseFiles([next(iter(wanted.channels), "image")])
    for path in files:
        images.add(stem_of(path), images.channels[0], path)
    if numbered := [stem_of(p) for p in files if split_channel(stem_of(p))[1] is not None]:
        images.notes.append(
            f"the four digits at the end of {some(numbered)} count cases, not channels"
        )
    return images


def _modalities(stems: Sequence[str], label_names: Collection[str]) -> list[str]:
    """Words such as ``t1`` and ``flair`` that all names end in, where each case has them all.

    Where label maps have the names of cases, most cases are enough; capitals do not count.
    """
    by_case: dict[str, dict[str, str]] = {}
    matches = [_with_modality(stem) for stem in stems]
    for match in filter(None, matches):
        by_case.setdefault(match[1], {})[match[2].lower()] = match[2]
    counts = Counter(frozenset(words) for words in by_case.values())
    words, n_cases = next(iter(counts.most_common(1)), (frozenset(), 0))
    alike = all(matches) and n_cases == len(by_case)
    most = bool(by_case.keys() & {*label_names}) and 2 * n_cases > len(by_case)
    if len(words) < 2 or not (alike or most):
        return []
    return sorted(next(spelled for spelled in by_case.values() if words == spelled.keys()).values())


def channel_numbers(where: Path, stems: Sequence[str], wanted: Wanted) -> set[int] | None:
    """The numbers of the channels; ``None`` where four digits at the end belong to the name.

    Args:
        where: The folder, for messages.
        stems: Names of all images in it.
        wanted: What is known of the cases.

    They are channels when every case has 0000 to C-1 for the C channels that are expected, or for
    one C where none is known; where label maps have the names of cases, when most of them have. A
    case that lacks one, or has one more, is a fault of that case.

    Raises:
        InputError: The names can be read in both ways.
    """
    n_wanted = len(wanted.channels)
    by_case = _numbers_by_case(stems)
    if not by_case:
        return None
    has_plain = any(split_channel(stem)[1] is None for stem in stems)
    union = set.union(*by_case.values())
    counted = _is_counted(union)
    of_most = counted or _is_counted(_of_most(by_case))
    if n_wanted > 1 or (of_most and wanted.label_names & set(by_case)):
        return union
    if wanted.label_names & set(stems):
        return None
    if {0} in by_case.values() and (n_wanted or counted):
        return union
    if not counted or len(union) == 1:
        return None
    if len(by_case) == 1 and (n_wanted or len(union) > _MANY_NUMBERS or has_plain):
        return None
    if len(by_case) > 1 and not n_wanted and union in by_case.values() and not has_plain:
        return union
    raise _both_ways(where, next(iter(by_case)), len(union), wanted)


def _numbers_by_case(stems: Iterable[str]) -> dict[str, set[int]]:
    by_case: dict[str, set[int]] = {}
    for case, number in map(split_channel, stems):
        if number is not None:
            by_case.setdefault(case, set()).add(number)
    return by_case


def _is_counted(numbers: set[int]) -> bool:
    return numbers == set(range(len(numbers)))


def _of_most(by_case: Mapping[Any, Iterable[_Channel]]) -> set[_Channel]:
    """Channels that half of the cases have, or more: a file with a wrong name adds none."""
    counts = Counter(channel for channels in by_case.values() for channel in channels)
    return {channel for channel, n_cases in counts.items() if 2 * n_cases >= len(by_case)}


def _both_ways(where: Path, case: str, n_channels: int, wanted: Wanted) -> InputError:
    names = ", ".join(f"{case}_{number:04d}" for number in range(min(n_channels, 3)))
    return InputError(
        f"{names} in {where} can be cases, or channels of one case",
        f"one channel is expected, {n_channels} numbers are there"
        if wanted.channels
        else "four digits that count from 0000 are used for both",
        f"Type {_typed(wanted, ['NAME'] * n_channels)} for channels of one case, "
        f"{_typed(wanted, ['NAME'])} for cases"
        if wanted.type_channels
        else f"Give the files of one channel alone, or write three digits for cases ({case}_001)",
    )


def _typed(wanted: Wanted, names: Sequence[str]) -> str:
    """The option that says how many channels there are."""
    return f"--channels {' '.join(names) if wanted.type_channels == 'names' else len(names)}"


def _by_number(files: Sequence[Path], numbers: set[int], wanted: Wanted) -> CaseFiles:
    """Cases of files named ``CASE_0000``, ``CASE_0001`` ..."""
    names = list(wanted.channels)
    usual = _of_most(_numbers_by_case(stem_of(path) for path in files))
    if not _is_counted(usual):
        usual = numbers
    if not names:
        names = [f"{n:04d}" for n in sorted(usual)] if len(usual) > 1 else ["image"]
    elif len(names) > 1 and len(names) not in (len(numbers), len(usual)):
        listed = ", ".join(f"{number:04d}" for number in sorted(numbers))
        raise InputError(f"{len(names)} channel names but the files have channels {listed}")
    images = CaseFiles(names)
    without_number: list[str] = []
    for path in files:
        case, number = split_channel(stem_of(path))
        if number is None and len(names) == 1:
            images.add(case, names[0], path)
            without_number.append(path.name)
        elif number is None:
            images.left_out.append((path.name, "its name has no channel number"))
        else:
            images.add(case, names[number] if number < len(names) else f"{number:04d}", path)
    if without_number:
        images.notes.append(
            f"{some(without_number)}: no channel number as other files have; taken as a case"
        )
    return images


def _by_channel_name(files: Sequence[Path], wanted: Wanted) -> CaseFiles:
    images = CaseFiles(list(wanted.channels))
    for path in files:
        case, channel = _split_channel_name(stem_of(path), wanted.channels)
        if channel is None:
            images.left_out.append((path.name, "its name ends in none of the channels"))
        else:
            images.add(case, channel, path)
    if not images.cases:
        raise InputError(
            f"no file name ends in one of the channel names {', '.join(wanted.channels)}",
            f"the files are named like {files[0].name}",
            "Name them CASE_0000, CASE_0001 ..., or give one folder a channel",
        )
    return images


# ---------------------------------------------------------------- folders of files


def _in_subfolders(folder: Path, wanted: Wanted) -> CaseFiles:
    """Cases of a folder whose images lie in subfolders: one a channel, one a patient, or any."""
    left_out: list[tuple[str, str]] = []
    inside: dict[Path, list[Path]] = {}
    for place, _ in walk(folder):
        if wanted.exclude is not None and place.resolve().is_relative_to(wanted.exclude):
            continue
        listing = image_files(place, VOLUMES)
        relative = place.relative_to(folder)
        left_out += [
            ((relative / name).as_posix(), why)
            for name, why in listing.left_out().items()
            if not (place / name).is_dir()
        ]
        if listing.paths:
            inside[relative] = list(listing.paths)
    label_folders = {
        place: files for place, files in inside.items() if _LABEL_FOLDER.fullmatch(place.name)
    }
    rest = {place: files for place, files in inside.items() if place not in label_folders}
    if not rest:
        has_series = any("DICOM" in why for _, why in left_out)
        remedy = "Give the folder that holds the image files"
        raise MissingFileError(
            f"no image in {folder}",
            f"{some(map(str, inside))} is called a folder of label maps"
            if inside
            else f"looked for {', '.join(VOLUMES)}",
            f"Type gnnunet_convert dicom {folder} -d NAME" if has_series else remedy,
        )
    _require_one_kind(folder, inside, wanted)
    label_files = [path for files in label_folders.values() for path in files]
    if names := _channel_folders(rest, wanted.channels):
        images = CaseFiles(list(names.values()))
        for place, channel in names.items():
            for path in rest[place]:
                images.add(re.sub(r"_0000$", "", stem_of(path)), channel, path)
    elif (patients := _patients(folder, rest, wanted)) is not None:
        images = patients
        if wanted.labels_inside:
            _add_label_folders(folder, images, rest, label_folders)
        else:
            beside = [path for paths in images.labels.values() for path in paths]
            _leave_labels_out(folder, [*beside, *label_files], images, wanted)
    else:
        images = _by_name(folder, [path for files in rest.values() for path in files], wanted)
        left_out += [
            (path.relative_to(folder).as_posix(), "in a folder of label maps")
            for path in label_files
        ]
    images.left_out = [*left_out, *images.left_out]
    return images


def _require_one_kind(folder: Path, inside: Mapping[Path, Sequence[Path]], wanted: Wanted) -> None:
    """Refuse the folder above ``images`` and ``labels``: what to type is known."""
    tops = {place.parts[0] for place in inside}
    images = sorted(name for name in tops if _IMAGE_FOLDER.fullmatch(name))
    labels = sorted(name for name in tops if _LABEL_FOLDER.fullmatch(name))
    if not (images and labels) or {*images, *labels} != tops:
        return
    remedy = f"Give {folder / images[0]} as the folder of images"
    if wanted.type_labels and (folder / "dataset.json").is_file():
        remedy = f"Type gnnunet_convert MSD {folder}"
    elif wanted.type_labels:
        remedy = f"{remedy}. {wanted.type_labels.format(folder / labels[0])}"
    raise InputError(
        f"{folder} holds folders of images and of label maps",
        f"{', '.join(images)} beside {', '.join(labels)}",
        remedy,
    )


def _channel_folders(
    inside: Mapping[Path, Sequence[Path]], channels: Sequence[str]
) -> dict[Path, str]:
    """Subfolders that are channels with the channel's name, in order; else nothing."""
    if any(len(place.parts) != 1 for place in inside) or len(inside) < 2:
        return {}
    named = {place.name.lower(): place for place in inside}
    if channels and {name.lower() for name in channels} == set(named):
        return {named[name.lower()]: name for name in channels}
    words = all(_MODALITY.fullmatch(place.name) for place in inside)
    if words and set.intersection(*({stem_of(p) for p in files} for files in inside.values())):
        return {place: place.name for place in inside}
    return {}


def _patients(
    folder: Path, inside: Mapping[Path, Sequence[Path]], wanted: Wanted
) -> CaseFiles | None:
    """Cases of one folder a patient, the files in it channels; ``None`` where it is none such."""
    table = {place: _parts_of_patient(place, files) for place, files in inside.items()}
    keys = {
        place: {key.lower(): key for key in parts if not _is_label_key(key)}
        for place, parts in table.items()
    }
    if not keys or not all(keys.values()):
        return None
    shared = set.intersection(*(set(names) for names in keys.values()))
    by_lower = {lower: key for names in keys.values() for lower, key in names.items()}
    by_lower = dict(sorted(by_lower.items()))
    chosen = [name.lower() for name in wanted.channels]
    rare: dict[str, str] = {}
    is_patient = _is_patient(table, shared)
    has_labels = any(_is_label_key(key) for parts in table.values() for key in parts)
    are_labeled = any(_n_labeled(parts) > 1 for parts in table.values())
    if chosen and set(chosen) <= set(by_lower) and (len(chosen) > 1 or shared):
        channels = dict(zip(chosen, wanted.channels, strict=True))
    elif not shared or are_labeled or (len(table) == 1 and not is_patient):
        return None  # the files are cases of their own
    elif not (is_patient or has_labels or len(shared) == 1):
        raise InputError(
            f"the subfolders of {folder} can be patients or channels",
            f"{some(sorted(place.as_posix() for place in inside))} all hold {some(sorted(shared))}",
            "Type --channels with the names of the files where a folder is a patient, or with "
            "those of the folders where a folder is a channel"
            if wanted.type_channels
            else "Name the files after the model's channels",
        )
    elif wanted.channels and len(wanted.channels) != len(by_lower):
        raise InputError(
            f"{len(wanted.channels)} channel names for {len(by_lower)} channels",
            f"the patients' folders in {folder} hold {', '.join(by_lower.values())}",
            "Name all of them, or choose some of these names",
        )
    elif len(wanted.channels) > 1:
        raise InputError(
            f"the channels {', '.join(wanted.channels)} are not in {folder}",
            f"the patients' folders hold {', '.join(by_lower.values())}",
            "Use these names, or rename the files",
        )
    else:
        of_most = _of_most(keys)
        names = list(wanted.channels) or [by_lower[key] for key in by_lower if key in of_most]
        names = ["image"] if names == ["0000"] else names
        channels = dict(zip((key for key in by_lower if key in of_most), names, strict=True))
        rare = {key: name for key, name in by_lower.items() if key not in of_most}
    return _patient_cases(folder, table, channels, rare)


def _n_labeled(parts: Collection[str]) -> int:
    """Files of a patient that have a label map of their own, and so are cases of their own."""
    known = {key.lower() for key in parts}
    rests = {_LABEL_END.sub("", key).lower() for key in parts if _LABEL_END.search(key)}
    return len(rests & known)


def _is_patient(table: Mapping[Path, Mapping[str, Path]], shared: Collection[str]) -> bool:
    """Whether the files of subfolders are named for what they show, not for whom."""
    named = [(key, path) for parts in table.values() for key, path in parts.items()]
    has_prefix = any(key != stem_of(path) for key, path in named)
    are_words = all(_MODALITY.fullmatch(key) or _IMAGE_ALONE.fullmatch(key) for key in shared)
    return has_prefix or are_words


def _patient_cases(
    folder: Path,
    table: Mapping[Path, Mapping[str, Path]],
    channels: Mapping[str, str],
    rare: Mapping[str, str],
) -> CaseFiles:
    """Cases with their channels, and with files under names that few patients have."""
    images = CaseFiles(list(channels.values()))
    named = {**rare, **channels}
    names = _patient_names(list(table))
    for place, parts in table.items():
        images.places[names[place]] = place
        for key, path in parts.items():
            if key.lower() in named:
                images.add(names[place], named[key.lower()], path)
            elif _is_label_key(key):
                images.labels.setdefault(names[place], []).append(path)
            else:
                relative = path.relative_to(folder).as_posix()
                images.left_out.append((relative, "none of the channels"))
    return images


def _parts_of_patient(place: Path, files: Iterable[Path]) -> dict[str, Path]:
    """What each file of a patient's folder is called beside the patient's own name.

    ``BraTS-7/BraTS-7-t1n`` is ``t1n``; ``Patient_1/Patient_1`` is ``image``.
    """
    parts: dict[str, Path] = {}
    for path in files:
        key = stem_of(path)
        for name in place.parts:
            is_channel = _MODALITY.fullmatch(name)  # ``dwi/sub-1_dwi``
            rest = key[len(name) :]
            if not is_channel and key.lower().startswith(name.lower()) and not rest[:1].isalnum():
                key = rest.lstrip("_. -")
        _add_once(parts, key or "image", path)
    return parts


def _is_label_key(key: str) -> bool:
    return bool(_LABEL_ALONE.fullmatch(key) or _LABEL_END.search(key))


def _patient_names(places: Sequence[Path]) -> dict[Path, str]:
    """A case's name from its folders, without those that are called alike for all patients."""
    alike = _alike_levels(places)
    return {
        place: "_".join(part for i, part in enumerate(place.parts) if i not in alike) or place.name
        for place in places
    }


def _alike_levels(places: Sequence[Path]) -> set[int]:
    """Levels of folders that have one name for all of several places."""
    depth = min(len(place.parts) for place in places)
    return {i for i in range(depth) if len(places) > 1 and len({p.parts[i] for p in places}) == 1}


def case_at(place: Path, places: Mapping[str, Path]) -> str | None:
    """The case whose images lie at the same relative place, where one alone does.

    Folders that are called alike for all cases, or like folders of label maps, do not count.

    Args:
        place: Folder of label maps, below the folder that all of them lie in.
        places: Name of a case to the folder of its images.

    Example:
        >>> images = {"s1": Path("s1/anat"), "s2": Path("s2/anat")}
        >>> case_at(Path("s1/anat"), images), case_at(Path("s2/masks"), images)
        ('s1', 's2')
    """
    exact = [case for case, other in places.items() if other == place]
    if len(exact) == 1 or not places:
        return next(iter(exact), None)
    of_images = list(places.values())
    alike = {of_images[0].parts[level] for level in _alike_levels(of_images)}

    def telling(folder: Path) -> list[str]:
        return [p for p in folder.parts if p not in alike and not _LABEL_FOLDER.fullmatch(p)]

    wanted = telling(place)
    fitting = [case for case, other in places.items() if wanted and telling(other) == wanted]
    return fitting[0] if len(fitting) == 1 else None


def _add_label_folders(
    folder: Path,
    images: CaseFiles,
    rest: Mapping[Path, Sequence[Path]],
    label_folders: Mapping[Path, Sequence[Path]],
) -> None:
    """Label maps in a subfolder of each patient (``s0001/segmentations/liver.nii.gz``)."""
    names = _patient_names(list(rest))
    for place, files in label_folders.items():
        patient = next((names[p] for p in (place.parent, place) if p in names), None)
        for path in files:
            if patient is None:
                relative = path.relative_to(folder).as_posix()
                images.left_out.append((relative, "its patient has no image"))
            else:
                images.labels.setdefault(patient, []).append(path)


def label_maps_of_patients(
    folder: Path, images: Collection[Path], places: Mapping[str, Path]
) -> tuple[list[tuple[str, list[Path]]], list[tuple[str, str]]]:
    """Label maps in a folder of folders, by the case or the name that may be their case's.

    Args:
        folder: Folder of label maps.
        images: Files that are images and so no label maps (resolved).
        places: As ``CaseFiles.places``.

    Returns:
        Names with files, and files that are no label maps, with the reason.
    """
    files: dict[Path, list[Path]] = {}
    left_out: list[tuple[str, str]] = []
    for place, _ in walk(folder):
        listing = image_files(place, VOLUMES)
        relative = place.relative_to(folder)
        left_out += [
            ((Path(folder.name) / relative / name).as_posix(), why)
            for name, why in listing.left_out().items()
            if why != SUBFOLDER
        ]
        if paths := [path for path in listing.paths if path.resolve() not in images]:
            files[relative] = paths
    names = _patient_names(list(files) or [Path()])
    return [
        (case_at(place, places) or names[place], paths) for place, paths in files.items()
    ], left_out


def case_of(label: str, cases: Collection[str]) -> str | None:
    """The case that a label map of this name belongs to, where its name tells.

    The same name; else the same without a word such as ``_seg``; else the same without the words
    that say what each is (``label0001`` and ``img0001``), where one case alone fits.

    Example:
        >>> case_of("a_seg", ["a", "b"]), case_of("label0001", ["img0001", "img0002"])
        ('a', 'img0001')
    """
    for name in (label, _LABEL_END.sub("", label), _LABEL_START.sub("", label)):
        if name in cases:
            return name
    fitting = [case for case in cases if plain(case) == plain(label)]
    return fitting[0] if len(fitting) == 1 else None


def stem_of(path: Path) -> str:
    """Name of a volume without folder and ending."""
    return split_ending(path, VOLUMES)[0]
