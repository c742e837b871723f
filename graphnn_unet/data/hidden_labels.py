"""Label maps that a training may not see, on the grid of its preprocessed cases: for scores alone.

Cropped and resampled as nnU-Net's preprocessor does it with the label maps of labeled cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphnn_unet.data.patch_dataset import StoredCase
from graphnn_unet.errors import InputError, MissingFileError, ShapeError
from graphnn_unet.images.find import existing, some
from graphnn_unet.images.grid import Grid, grid_mismatch
from graphnn_unet.images.label_ids import described_ids, ids_of_user, label_values, with_ids
from graphnn_unet.images.orientation import TURNED, turned, turned_axes
from graphnn_unet.images.read import read_label_map
from graphnn_unet.images.volume import Volume, with_axes_of
from graphnn_unet.storage.safe_load import load_properties


def hidden_files(
    folder: Path, cases: Sequence[StoredCase], dataset_json: Mapping[str, Any]
) -> dict[str, Path]:
    """Label maps of unlabeled cases in a folder, by case id; cases without one are left out.

    Args:
        folder: Holds ``CASE`` with the ending of the data set.
        cases: Unlabeled cases of a run.
        dataset_json: nnU-Net's description of the data set.

    Raises:
        MissingFileError: There is no such folder.
        InputError: It has no label map of any of the cases.
    """
    if not folder.is_dir():
        raise MissingFileError(f"the folder of hidden labels {folder} is missing", "")
    ending = dataset_json["file_ending"]
    names = [case.case_id for case in cases]
    paths = {name: existing(folder / f"{name}{ending}") for name in names}
    files = {name: path for name, path in paths.items() if path.is_file()}
    if not files:
        raise InputError(
            f"{folder} has no label map of an unlabeled case",
            f"names would be {some(f'{name}{ending}' for name in names)}" if names else "",
            "Give the folder of their label maps, or leave --hidden-labels out",
        )
    return files


def ids_in(folder: Path, dataset_json: Mapping[str, Any]) -> dict[int, int]:
    """Id inside to the one in the label maps of a folder: the user's, but in folders made here.

    Args:
        folder: Holds label maps.
        dataset_json: nnU-Net's description of the data set.
    """
    of_user = {number: number for number in label_values(dataset_json["labels"])}
    of_user |= ids_of_user(dataset_json)
    here = {theirs: ours for ours, theirs in described_ids(folder).items()}
    return {number: here.get(theirs, theirs) for number, theirs in of_user.items()}


@dataclass(frozen=True)
class HiddenLabels:
    """Reads label maps of unlabeled cases.

    Attributes:
        plans: nnU-Net's ``PlansManager``.
        configuration: Its configuration.
        dataset_json: nnU-Net's description of the data set.
    """

    plans: Any
    configuration: Any
    dataset_json: Mapping[str, Any]

    def on_grid(self, path: Path, case: StoredCase) -> np.ndarray:
        """Class ids ``(z, y, x)`` on the grid of a preprocessed case.

        Args:
            path: The label map, on the grid of the image file.
            case: The case; what preprocessing noted about it is read too.

        Raises:
            InputError: The file is no label map or has ids that no class has.
            ShapeError: It is not on the grid of the image.
        """
        properties = load_properties(case.folder / f"{case.case_id}.pkl")
        array = _on_image_grid(path, properties, self.plans.transpose_backward)
        array = self._ids_inside(array, path)
        stored, wanted = properties.get(TURNED, ("", ""))
        forward = self.plans.transpose_forward
        array = turned(array, stored, wanted).transpose(forward)
        box = tuple(slice(low, high) for low, high in properties["bbox_used_for_cropping"])
        spacing = [float(properties["spacing"][axis]) for axis in forward]
        target = [float(step) for step in self.configuration.spacing]
        target = [*spacing[: 3 - len(target)], *target]  # 2d: slices keep their distance
        shape = tuple(case.image().shape[1:])
        label = self.configuration.resampling_fn_seg(array[box][None], shape, spacing, target)
        return np.ascontiguousarray(label[0], dtype=np.int16)

    def _ids_inside(self, array: np.ndarray, path: Path) -> np.ndarray:
        ids = {theirs: ours for ours, theirs in ids_in(path.parent, self.dataset_json).items()}
        if unknown := sorted(set(np.unique(array).tolist()) - set(ids)):
            raise InputError(
                f"{path} holds {some(map(str, unknown))}",
                f"the data set has {some(map(str, sorted(ids)))}",
                "Give label maps with the ids of the training's",
            )
        return with_ids(array, ids)


def _on_image_grid(
    path: Path, properties: Mapping[str, Any], transpose_backward: Sequence[int]
) -> np.ndarray:
    """Ids ``(z, y, x)`` as the image file stores its axes."""
    label = read_label_map(path)
    cropped_from = properties["shape_before_cropping"]
    shape: Sequence[int] = [int(cropped_from[axis]) for axis in transpose_backward]
    if TURNED in properties:
        stored, wanted = properties[TURNED]
        shape = turned_axes(shape, wanted, stored)
    if label.array.ndim == 2:  # a slice or a picture
        label = Volume(label.array[np.newaxis], (1.0, *label.spacing))
    geometry = properties.get("sitk_stuff", {})
    image = Grid(tuple(shape), label.spacing, label.origin, label.direction)
    if len(geometry.get("direction", ())) == 9:
        image = Grid(
            tuple(shape),
            tuple(float(step) for step in geometry["spacing"][::-1]),
            tuple(map(float, geometry["origin"])),
            tuple(map(float, geometry["direction"])),
        )
        other = with_axes_of(label, image.direction)
        if other is not None and not grid_mismatch("", other.grid, "", image):
            label = other
    if why := grid_mismatch(str(path), label.grid, "its image", image):
        raise ShapeError(why, "", "Give the label map that belongs to this image")
    return label.array
