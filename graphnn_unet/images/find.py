"""The image files of a folder: the one place that says what is taken and what is left out.

Links are followed, endings count in any case of letters, hidden files are skipped. What is left out
is returned by name with the reason. What a name means (a case, a channel of a case) is asked of
``split_ending`` and ``split_channel``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphnn_unet.errors import Fault, FaultsError, MissingFileError
from graphnn_unet.progress import say

VOLUMES = (".nii.gz", ".nii", ".mha", ".nrrd")
"""Endings of volumes that are read, longest first."""

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Endings of pictures that are read."""

IMAGES = VOLUMES + PICTURES

HIDDEN, NO_IMAGE, MISSING = "hidden or macOS side file", "no image file", "missing"
"""Reasons for files that nobody expects to be taken, and for one that is not there."""

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_SHOWN = 5


@dataclass(frozen=True)
class ImageFiles:
    """What a folder holds.

    Attributes:
        folder: The folder.
        paths: Image files, sorted by name.
        skipped: Name of everything else, with the reason why it is left out.
    """

    folder: Path
    paths: tuple[Path, ...]
    skipped: dict[str, str]

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
        return {n: reason for n, reason in self.skipped.items() if reason not in (HIDDEN, NO_IMAGE)}

    def say_unusable(self) -> None:
        """Tell the user what of ``unusable`` there is, in one line."""
        if names := [f"{name} is {reason}" for name, reason in self.unusable().items()]:
            say(f"left out of {self.folder}: {some(names)}")


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
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            skipped[path.name] = HIDDEN
        elif not split_ending(path, endings)[1]:
            skipped[path.name] = NO_IMAGE
        elif reason := not_a_file(path):
            skipped[path.name] = reason
        else:
            paths.append(path)
    return ImageFiles(folder, tuple(paths), skipped)


def split_ending(path: Path | str, endings: Sequence[str] = IMAGES) -> tuple[str, str]:
    """A file's name without its ending, and the ending in small letters; empty where it has none.

    Example:
        >>> split_ending("a.b.NII.GZ"), split_ending("a.txt")
        (('a.b', '.nii.gz'), ('a.txt', ''))
    """
    name = Path(path).name
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


def some(names: Iterable[str]) -> str:
    """``a, b, c and 4 more`` of any names."""
    listed = list(names)
    rest = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + rest
