"""A raw data set as it stands: which cases it has, and what the user calls them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphnn_unet.dataset_conversion.write_raw import NAMES
from graphnn_unet.errors import MissingFileError
from graphnn_unet.images.find import image_files, split_channel, split_ending
from graphnn_unet.storage.csv_cells import read_csv
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.storage.schemas import check_description, read_metadata

IMAGE_FOLDERS = {"labeled": "imagesTr", "unlabeled": "imagesUn", "test": "imagesTs"}
"""Role of a case to the folder of its images."""


@dataclass(frozen=True)
class RawSet:
    """A raw data set.

    Attributes:
        folder: The raw folder.
        description: ``dataset.json``.
        metadata: ``gnnunet.json``; empty without one.
        roles: Case to ``labeled``, ``unlabeled`` or ``test``.
        case_of_name: Case id, and the user's name of a case, to case id.
    """

    folder: Path
    description: dict[str, Any]
    metadata: dict[str, Any]
    roles: dict[str, str]
    case_of_name: dict[str, str]

    @property
    def ending(self) -> str:
        """Of all image files."""
        return self.description["file_ending"]

    @property
    def round(self) -> int:
        """How often corrected masks were added, and one more: that of the next ones."""
        corrected = self.metadata.get("corrected", {})
        return 1 + max((int(entry.get("round", 1)) for entry in corrected.values()), default=0)

    def with_role(self, role: str) -> list[str]:
        """Cases of a role, sorted."""
        return sorted(case for case, of_case in self.roles.items() if of_case == role)

    def patient(self, case: str) -> str:
        """Patient of a case."""
        return self.metadata.get("patients", {}).get(case, case)

    def patients(self, role: str) -> set[str]:
        """Patients with a case of a role."""
        return {self.patient(case) for case in self.with_role(role)}

    def images(self, case: str) -> tuple[Path, ...]:
        """Files of a case, one a channel."""
        n_channels = len(self.description["channel_names"])
        folder = self.folder / IMAGE_FOLDERS[self.roles[case]]
        return tuple(folder / f"{case}_{i:04d}{self.ending}" for i in range(n_channels))


def read_raw_set(folder: Path) -> RawSet:
    """The cases of a raw folder by the names of their files; no image is opened.

    Raises:
        MissingFileError: There is no such data set.
        InputError: ``dataset.json`` or ``gnnunet.json`` is damaged.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder} is missing", "", "Make it with gnnunet_convert")
    path = folder / "dataset.json"
    description = check_description(read_json(path), path)
    endings = (description["file_ending"],)
    roles = {}
    for role, name in IMAGE_FOLDERS.items():
        if (folder / name).is_dir():
            for file in image_files(folder / name, endings).paths:
                roles[split_channel(split_ending(file, endings)[0])[0]] = role
    case_of_name = {case: case for case in roles}
    if (folder / NAMES).is_file():
        table = {row["name"]: row["case"] for row in read_csv(folder / NAMES)}
        case_of_name |= {name: case for name, case in table.items() if case in roles}
    return RawSet(folder, description, read_metadata(folder), roles, case_of_name)
