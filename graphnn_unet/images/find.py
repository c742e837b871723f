"""The image files of a folder: the one place that says what is taken and what is left out.

Links are followed, endings count in any case of letters, hidden files are skipped. What is left out
is returned by name with the reason. What a name means (a case, a channel of a case) is asked of
``split_ending`` and ``split_channel``; names are compared in composed Unicode (NFC), because macOS
and some archives store ``ü`` as two characters.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphnn_unet.errors import Fault, FaultsError, MissingFileError
from graphnn_unet.progress import say

RAW_VOLUMES = (".nii.gz", ".nii", ".mha", ".nrrd")
"""Endings that a raw folder may have, because nnU-Net's readers know them; longest first."""

VOLUMES = (*RAW_VOLUMES, ".mhd", ".mgz", ".mgh", ".img")
"""Endings of all volumes that are read. Voxels of ``.mhd`` lie in a file beside it, the header of
``.img`` in ``.hdr``."""

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Endings of pictures that are read."""

IMAGES = VOLUMES + PICTURES

HIDDEN, NO_IMAGE, MISSING = "hidden or macOS side file", "no image file", "missing"
"""Reasons for files that nobody expects to be taken, and for one that is not there."""

SUBFOLDER = "a subfolder"
"""Reason for what lies below a folder whose own files are taken."""

_OTHER_IMAGES = {
    **dict.fromkeys((".dcm", ".ima", ".dicom"), "DICOM, which gnnunet_convert dicom reads"),
    **dict.fromkeys((".hdr", ".raw", ".zraw", ".nhdr"), "one half of an image in two files"),
    **dict.fromkeys(
        (".gipl", ".vtk", ".vti", ".mnc", ".npy", ".npz", ".h5", ".hdf5", ".img.gz", ".hdr.gz",
         ".nii.bz2", ".nii.zip", ".nii.xz", ".par", ".rec", ".lsm", ".czi", ".svs", ".gif", ".webp",
         ".jp2"),
        "of a kind that is not read",
    ),
}  # fmt: skip
"""Reasons for images that are not taken, by ending."""

_WRITTEN_HERE = re.compile(
    r"(dataset|plans|prediction|as_predicted|summary|clustering|gnnunet|dataset_report)\.json"
    r"|(metrics|names|clusters|(failures|volumes)(_part\d+)?)\.csv"
    r"|prediction_part\d+\.json|labels\.ctbl|labels_itksnap\.txt"
)
"""Files that this program and nnU-Net write beside label maps; nobody takes them for images."""

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_RAW_FILE = re.compile(rb"^\s*ElementDataFile\s*=\s*(.+?)\s*$", re.MULTILINE)
_SHOWN = 5

_LETTERS = str.maketrans(
    {
        "ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss", "ẞ": "SS",
        "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "oe", "Ø": "Oe", "ł": "l", "Ł": "L",
        "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i",
    }
)  # fmt: skip
"""Letters that Unicode does not take apart into a plain one and a mark, or German writes so."""


@dataclass(frozen=True)
class ImageFiles:
    """What a folder holds.

    Attributes:
        folder: The folder.
        paths: Image files, sorted by name.
        skipped: Name of everything else, with the reason why it is left out.
        endings: Those that were looked for.
    """

    folder: Path
    paths: tuple[Path, ...]
    skipped: dict[str, str]
    endings: tuple[str, ...] = IMAGES

    def by_case(self, stage: str = "find") -> tuple[dict[str, Path], list[Fault]]:
        """One file a case, and a fault for each case that has several (``a.nii``, ``a.nii.gz``).

        Args:
            stage: Of the faults.
        """
        files: dict[str, list[Path]] = {}
        for path in self.paths:
            files.setdefault(split_ending(path)[0], []).append(path)
        faults = [
            Fault(
                stem,
                stage,
                f"{self.folder} holds it twice, as {' and '.join(path.name for path in paths)}",
                "Keep one of them, or rename",
            )
            for stem, paths in files.items()
            if len(paths) > 1
        ]
        return {stem: paths[0] for stem, paths in files.items() if len(paths) == 1}, faults

    def one_per_case(self, stage: str = "find") -> dict[str, Path]:
        """One file a case.

        Raises:
            FaultsError: A case has several.
        """
        files, faults = self.by_case(stage)
        if faults:
            raise FaultsError(faults, f"{self.folder} has cases twice")
        return files

    def unusable(self) -> dict[str, str]:
        """What is left out although its name is that of an image, with the reason."""
        return {
            name: reason
            for name, reason in self.skipped.items()
            if reason != HIDDEN and split_ending(name, self.endings)[1]
        }

    def left_out(self) -> dict[str, str]:
        """What a user should know of: all that is skipped, without what nobody takes for a case."""
        return {
            name: reason
            for name, reason in self.skipped.items()
            if not _WRITTEN_HERE.fullmatch(name)
            and (reason != HIDDEN or split_ending(name, self.endings)[1])
        }

    def say_left_out(self) -> None:
        """Tell the user what of ``left_out`` there is, in one line."""
        say_left_out(self.folder, self.left_out().items())


def left_out_line(where: Path | str, names: Iterable[tuple[str, str]]) -> str:
    """``left out of WHERE: a, b (reason); c (reason)``; empty where there is nothing.

    Five names a reason: paths are long, and ``gnnunet.json`` lists all files of a data set.
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in names:
        by_reason.setdefault(reason, []).append(name)
    parts = (f"{some(listed)} ({why})" for why, listed in by_reason.items())
    return f"left out of {where}: {'; '.join(parts)}" if by_reason else ""


def say_left_out(where: Path | str, names: Iterable[tuple[str, str]]) -> None:
    """Tell the user what was left out, where there is anything."""
    if line := left_out_line(where, names):
        say(line)


def image_files(
    folder: Path, endings: Sequence[str] = IMAGES, *, what: str = "the folder"
) -> ImageFiles:
    """Image files of a folder, not of those below it.

    Args:
        folder: A folder, or a link to one.
        endings: Which files are taken, in any case of letters.
        what: How messages call the folder.

    Raises:
        MissingFileError: There is no such folder.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{what} {folder} is missing", "", "Give an existing folder")
    paths: list[Path] = []
    skipped: dict[str, str] = {}
    entries = sorted(folder.iterdir())
    for path in entries:
        ending = split_ending(path, endings)[1]
        if path.name.startswith("."):
            skipped[path.name] = HIDDEN
        elif not ending:
            skipped[path.name] = _why_no_image(path)
        elif reason := not_a_file(path):
            skipped[path.name] = reason
        elif ending == ".img" and partner(path) is None:
            skipped[path.name] = "an image without its header (.hdr)"
        else:
            paths.append(path)
    parts = {part.name for path in paths for part in other_parts(path)}
    skipped = {name: reason for name, reason in skipped.items() if name not in parts}
    return ImageFiles(folder, tuple(paths), skipped, tuple(endings))


def _why_no_image(path: Path) -> str:
    if path.is_dir():
        return SUBFOLDER
    if reason := _OTHER_IMAGES.get(split_ending(path, tuple(_OTHER_IMAGES))[1]):
        return reason
    return _OTHER_IMAGES[".dcm"] if is_dicom(path) else NO_IMAGE


def is_dicom(path: Path) -> bool:
    """Whether a file says in its preamble that it is DICOM."""
    if not_a_file(path):  # opening a pipe would wait for its writer
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def walk(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder from ``folder`` down with its files, sorted; links are followed.

    A link to a folder that it lies in itself is not entered again. Hidden folders are skipped.
    """
    yield from _walk(folder, (folder.resolve(),))


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, list[Path]]]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # a folder that may not be read
        return
    yield folder, [path for path in entries if not path.is_dir()]
    for path in entries:
        if path.is_dir() and not path.name.startswith(".") and path.resolve() not in above:
            yield from _walk(path, (*above, path.resolve()))


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder and those below it whose name matches a pattern (``patient*.h5``)."""
    return sorted(path for _, files in walk(folder) for path in files if path.match(pattern))


def other_parts(path: Path) -> list[Path]:
    """Files that belong to a volume beside ``path`` itself: voxels of ``.mhd``, header of ``.img``.

    Only what the folder of the file itself holds or has below it counts; a path that leads
    elsewhere is refused when the volume is read.
    """
    ending = split_ending(path, VOLUMES)[1]
    if ending == ".img":
        header = partner(path)
        return [header] if header else []
    if ending != ".mhd":
        return []
    name = raw_file_name(path.read_bytes()[: 2**16])
    target = Path(name)
    if target.is_absolute() or ".." in target.parts or not (path.parent / target).is_file():
        return []
    return [path.parent / target]


def all_parts(paths: Iterable[Path]) -> list[Path]:
    """Files of volumes, each with those that belong to it; see :func:`other_parts`."""
    return [part for path in paths for part in (path, *other_parts(path))]


def raw_file_name(header: bytes) -> str:
    """The name of the voxels' file that a MetaImage header gives, or an empty string."""
    match = _RAW_FILE.search(header)
    return match[1].decode("utf-8", "replace") if match else ""


def partner(path: Path) -> Path | None:
    """The header of an ``.img``: ``.hdr`` of the same name, in any case of letters."""
    stem = split_ending(path, (".img",))[0]
    for candidate in path.parent.glob("*.[hH][dD][rR]"):
        if split_ending(candidate, (".hdr",))[0] == stem and not not_a_file(candidate):
            return candidate
    return None


def existing(path: Path) -> Path:
    """The path, or where it is not there the file of the same name in other Unicode characters."""
    if path.exists() or not path.parent.is_dir():
        return path
    wanted = unicodedata.normalize("NFC", path.name)
    names = (p for p in path.parent.iterdir() if unicodedata.normalize("NFC", p.name) == wanted)
    return next(names, path)


def split_ending(path: Path | str, endings: Sequence[str] = IMAGES) -> tuple[str, str]:
    """A file's name without its ending, and the ending in small letters; empty where it has none.

    The name comes in composed Unicode (NFC): two names that look alike are alike.

    Example:
        >>> split_ending("a.b.NII.GZ"), split_ending("a.txt")
        (('a.b', '.nii.gz'), ('a.txt', ''))
    """
    name = unicodedata.normalize("NFC", Path(path).name)
    ending = next((ending for ending in endings if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)], ending


def file_ending(path: Path | str) -> str:
    """The ending of a volume's name (``.nii.gz`` ...), or an empty string."""
    return split_ending(path, VOLUMES)[1]


def split_channel(stem: str) -> tuple[str, int | None]:
    """Case and channel of a name that ends in four digits; ``None`` where it does not.

    Example:
        >>> split_channel("LA_017_0001"), split_channel("LA_017")
        (('LA_017', 1), ('LA_017', None))
    """
    match = _CHANNEL.fullmatch(stem)
    return (match["case"], int(match["channel"])) if match else (stem, None)


def safe_id(name: str) -> str:
    """A case id made from any name: letters, digits, ``_``, ``-``, ``.``.

    Umlauts and ligatures are written out, accents dropped; a letter of another script becomes its
    number in Unicode, so that names that differ keep differing.

    Example:
        >>> safe_id("Müller (2)"), safe_id("Žižka"), safe_id("李")
        ('Mueller_2', 'Zizka', 'u674e')
    """
    name = unicodedata.normalize("NFC", name).translate(_LETTERS)
    letters = (c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    text = "".join(c if c.isascii() or not c.isalnum() else f"u{ord(c):04x}" for c in letters)
    text = re.sub(r"[^A-Za-z0-9._-]+", "_", text)
    return re.sub(r"\.{2,}", ".", text).strip("._-")[:128] or "case"


def not_a_file(path: Path) -> str:
    """What a path is when it is no regular file and no link to one, else an empty string."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if os.path.islink(path):  # noqa: PTH114  # that of a Path raises where it may not look
            return "a link that leads nowhere"
        return MISSING if isinstance(error, FileNotFoundError) else f"unreadable ({error.strerror})"
    if stat.S_ISREG(mode):
        return ""
    return "a folder" if stat.S_ISDIR(mode) else "a pipe or device, not a file"


def some(names: Iterable[str], n_shown: int = _SHOWN) -> str:
    """``a, b, c and 4 more`` of any names."""
    listed = list(names)
    rest = f" and {len(listed) - n_shown} more" if len(listed) > n_shown else ""
    return ", ".join(listed[:n_shown]) + rest
