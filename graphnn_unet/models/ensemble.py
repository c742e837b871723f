"""One label map of the averaged probabilities of several models.

Models may differ in trainer, configuration and plan, so they are averaged on the image's grid, as
nnU-Net does it. Each model predicts a case by itself first; this file makes one case of them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from scipy.special import entr

from graphnn_unet.errors import InputError
from graphnn_unet.images.components import keep_largest_components
from graphnn_unet.images.flat_picture import is_picture
from graphnn_unet.images.label_ids import ids_of_user, label_values, with_ids
from graphnn_unet.images.nifti_forms import nifti_forms
from graphnn_unet.images.pictures import label_picture
from graphnn_unet.prediction.label_tables import count_classes
from graphnn_unet.prediction.predictor import Predictor
from graphnn_unet.prediction.write_case import Outputs, write_image
from graphnn_unet.storage.atomic import atomic_path

MEMBERS = ".members"
"""Folder of what the models say one by one; gone when all cases are done."""


@dataclass(frozen=True)
class MergeJob:
    """A case that every model has predicted.

    Attributes:
        case: Stem of its files, the same in all folders.
        members: Folders with ``CASE.npz`` and the label map of each model.
        target: Folder to write to.
        plans: Of the first model.
        dataset_json: The same of all models.
        outputs: What to write.
    """

    case: str
    members: tuple[Path, ...]
    target: Path
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    outputs: Outputs


def merge_case(job: MergeJob) -> dict[str, tuple[int, float | None]]:
    """Write the files of one case; return voxels and ml of each class.

    Raises:
        InputError: The models' probabilities do not have one shape.
    """
    archives = [member / f"{job.case}.npz" for member in job.members]
    mean = _mean([_probabilities(path) for path in archives], job.case)
    manager = PlansManager(job.plans).get_label_manager(job.dataset_json)
    labels = np.asarray(manager.convert_probabilities_to_segmentation(mean))
    largest = max(label_values(job.dataset_json["labels"]))
    labels = labels.astype(np.uint8 if largest < 256 else np.uint16)
    labels = keep_largest_components(labels, job.outputs.largest_component)
    counts = count_classes(labels, job.dataset_json["labels"])
    labels = with_ids(labels, ids_of_user(job.dataset_json))
    template = job.members[0] / f"{job.case}{job.outputs.ending}"
    if job.outputs.probabilities:
        with atomic_path(job.target / f"{job.case}.npz") as temporary:
            np.savez_compressed(temporary, probabilities=mean)
        with atomic_path(job.target / f"{job.case}.pkl") as temporary:
            shutil.copyfile(archives[0].with_suffix(".pkl"), temporary)
    geometry = _geometry(template)
    if job.outputs.uncertainty:
        entropy = _entropy(mean, overlapping=manager.has_regions)
        write_image(job.target / f"{job.case}_uncertainty{job.outputs.ending}", entropy, geometry)
    # the label map comes last: where it is, the case is done
    path = job.target / template.name
    if is_picture(path):
        with atomic_path(path) as temporary:
            label_picture(labels[0], job.outputs.colors).save(temporary, format="PNG")
        return {name: (n_voxels, None) for name, n_voxels in counts.items()}
    write_image(path, labels, geometry)
    voxel_ml = math.prod(geometry["sitk_stuff"]["spacing"]) / 1000
    return {name: (n_voxels, n_voxels * voxel_ml) for name, n_voxels in counts.items()}


def require_alike(predictors: Sequence[Predictor]) -> None:
    """Refuse models that do not predict the same classes of the same images.

    Raises:
        InputError: They differ; says in what.
    """
    first = predictors[0]
    for other in predictors[1:]:
        for key in ("labels", "channel_names", "file_ending", "regions_class_order"):
            here, there = first.dataset_json.get(key), other.dataset_json.get(key)
            if here != there:
                raise InputError(
                    f"{other.folder} cannot be averaged with {first.folder}",
                    f"{key} is {there} there, {here} here",
                    "Give models of one data set with -m",
                )


def _probabilities(path: Path) -> NDArray[np.float32]:
    with np.load(path, allow_pickle=False) as archive:
        return archive["probabilities"].astype(np.float32, copy=False)


def _mean(all_of_them: Sequence[NDArray[np.float32]], case: str) -> NDArray[np.float32]:
    shapes = {array.shape for array in all_of_them}
    if len(shapes) > 1:
        raise InputError(f"the models' probabilities of {case} do not fit", f"shapes {shapes}")
    total = all_of_them[0]
    for array in all_of_them[1:]:
        total += array
    total /= len(all_of_them)
    return total


def _entropy(probability: NDArray[np.float32], *, overlapping: bool) -> NDArray[np.float32]:
    """Normalized, ``(z, y, x)``; the mean over outputs that overlap."""
    if overlapping:
        return ((entr(probability) + entr(1 - probability)).mean(0) / math.log(2)).clip(0, 1)
    return (entr(probability).sum(0) / math.log(max(2, len(probability)))).clip(0, 1)


def _geometry(template: Path) -> dict[str, Any]:
    """Properties of a label map that is there, as ``write_image`` wants them."""
    if is_picture(template):
        return {}
    image = sitk.ReadImage(str(template))
    place = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(),
             "direction": image.GetDirection()}  # fmt: skip
    return {"sitk_stuff": place, "nifti_forms": nifti_forms(template)}
