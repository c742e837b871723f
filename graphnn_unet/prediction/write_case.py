"""The files of one predicted case: label map, and on request probabilities and entropy."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from graphnn_unet.images.components import keep_largest_components
from graphnn_unet.images.flat_picture import is_picture
from graphnn_unet.images.label_ids import ids_of_user, with_ids
from graphnn_unet.images.nifti_forms import write_nifti_forms
from graphnn_unet.images.orientation import turned_back
from graphnn_unet.images.pictures import label_picture
from graphnn_unet.prediction.dicom_objects import ENDINGS, LabeledClass, build_objects
from graphnn_unet.prediction.export_logits import Labeled, logits_to_labels
from graphnn_unet.prediction.label_tables import color_table, count_classes
from graphnn_unet.storage.atomic import atomic_path, write_bytes

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

NIFTI = "nifti"
"""The kind of output that is a label map in the model's own kind of file."""
KINDS = (NIFTI, *ENDINGS)
"""All kinds of output; the first one that is asked for is written last."""
_PROBABILITIES = (".npz", ".pkl")


@dataclass(frozen=True)
class Outputs:
    """What is written for each case.

    Attributes:
        ending: Ending of image files.
        probabilities: Also ``CASE.npz`` and ``CASE.pkl``, as ``nnUNetv2_ensemble`` reads them.
        uncertainty: Also ``CASE_uncertainty`` with the normalized entropy.
        colors: Red, green and blue of label ids in the palette of pictures.
        largest_component: Label ids of which only the largest connected component is kept.
        kinds: Of ``KINDS``.
        model: What tells the model from others, for DICOM objects.
    """

    ending: str
    probabilities: bool = False
    uncertainty: bool = False
    colors: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    largest_component: tuple[int, ...] = ()
    kinds: tuple[str, ...] = (NIFTI,)
    model: str = ""

    @property
    def dicom_kinds(self) -> tuple[str, ...]:
        """Kinds of DICOM objects that are written."""
        return tuple(kind for kind in self.kinds if kind in ENDINGS)

    @property
    def endings(self) -> tuple[str, ...]:
        """What may follow the name of a case, by kind; the one that is written last first."""
        ordered = sorted(KINDS, key=lambda kind: kind not in self.kinds)
        return tuple(ENDINGS.get(kind, self.ending) for kind in ordered)

    @property
    def beside(self) -> tuple[str, ...]:
        """What may follow the name of a case beside label maps, written or not."""
        return f"_uncertainty{self.ending}", *_PROBABILITIES

    @property
    def endings_left_out(self) -> tuple[str, ...]:
        """Those of :attr:`beside` that are not written."""
        uncertainty, *probabilities = self.beside
        left_out = () if self.uncertainty else (uncertainty,)
        return left_out if self.probabilities else (*left_out, *probabilities)


def label_colors(dataset_json: Mapping[str, Any]) -> dict[int, tuple[int, int, int]]:
    """Id to red, green and blue, of a data set whose masks were colored.

    Example:
        >>> label_colors({"label_colors": {"#000000": 0, "#ff8000": 1}})
        {1: (255, 128, 0), 0: (0, 0, 0)}
    """
    table = dataset_json.get("label_colors", {})
    return {
        int(number): (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16))
        for color, number in reversed(table.items())  # the first of several colors of a label
    }


@dataclass(frozen=True)
class ExportJob:
    """One case behind the network; goes to a worker process.

    Attributes:
        case: Case id.
        answer: The label map on the image's grid, or logits ``(k, z, y, x)`` on the network's.
        properties: What preprocessing noted.
        target: Folder to write to.
        plans, configuration, dataset_json: As in nnU-Net.
        outputs: What to write.
        series: Files of the DICOM series, where DICOM objects are written.
    """

    case: str
    answer: Labeled | np.ndarray
    properties: dict
    target: str
    plans: dict
    configuration: str
    dataset_json: dict
    outputs: Outputs
    series: tuple[Path, ...] = ()


def export_case(job: ExportJob) -> dict[str, tuple[int, float | None]]:
    """Write the files of one case; return voxels and ml of each class."""
    plans, result = PlansManager(job.plans), job.answer
    if not isinstance(result, Labeled):
        result = logits_to_labels(
            result,
            job.properties,
            plans,
            plans.get_configuration(job.configuration),
            plans.get_label_manager(job.dataset_json),
            with_probabilities=job.outputs.probabilities,
            with_entropy=job.outputs.uncertainty,
        )
    cleaned = keep_largest_components(result.labels, job.outputs.largest_component)
    result = replace(result, labels=cleaned)
    counts = count_classes(result.labels, job.dataset_json["labels"])
    # what leaves the program has the ids of the user's own label maps
    result = replace(result, labels=with_ids(result.labels, ids_of_user(job.dataset_json)))
    objects: dict[str, Dataset] = {}
    if kinds := job.outputs.dicom_kinds:  # all are built before one is written
        classes = [LabeledClass(*row) for row in color_table(job.dataset_json, job.outputs.colors)]
        labels = turned_back(result.labels, job.properties)
        objects = build_objects(labels, job.series, kinds, classes, job.outputs.model)
    write_case(result, Path(job.target), job.case, job.properties, plans, job.outputs, objects)
    if is_picture(job.outputs.ending):
        return {name: (n_voxels, None) for name, n_voxels in counts.items()}
    voxel_ml = math.prod(float(step) for step in job.properties["spacing"]) / 1000
    return {name: (n_voxels, n_voxels * voxel_ml) for name, n_voxels in counts.items()}


def write_case(
    result: Labeled,
    target: Path,
    case: str,
    properties: dict[str, Any],
    plans: Any,
    outputs: Outputs,
    objects: Mapping[str, Dataset] | None = None,
) -> None:
    """Write what was made of a case.

    Args:
        result: Label map and what else there is.
        target: Folder.
        case: Case id, the stem of all names.
        properties: What preprocessing noted; holds the geometry of the image file, to whose
            orientation everything is turned back.
        plans: nnU-Net's ``PlansManager``, for the writer of images.
        outputs: What to write.
        objects: DICOM objects by kind.
    """
    if outputs.probabilities:
        assert result.probabilities is not None  # noqa: S101  # they were asked for
        probabilities = turned_back(result.probabilities, properties)
        with atomic_path(target / f"{case}.npz") as temporary:
            np.savez_compressed(temporary, probabilities=probabilities)
        write_bytes(target / f"{case}.pkl", pickle.dumps(properties))
    if outputs.uncertainty:
        assert result.entropy is not None  # noqa: S101  # it was asked for
        entropy = turned_back(result.entropy, properties).astype(np.float32, copy=False)
        write_image(target / f"{case}_uncertainty{outputs.ending}", entropy, properties)
    # the label map comes last: where it is, the case is done; without one, the object listed first
    for kind in reversed(list(objects or {})):
        with atomic_path(target / f"{case}{ENDINGS[kind]}") as temporary:
            (objects or {})[kind].save_as(temporary, enforce_file_format=True)
    if NIFTI not in outputs.kinds:
        return
    labels, path = turned_back(result.labels, properties), target / f"{case}{outputs.ending}"
    if is_picture(path):
        with atomic_path(path) as temporary:
            label_picture(labels[0], outputs.colors).save(temporary, format="PNG")
    elif labels.dtype.itemsize > 2:  # nnU-Net's writers would cut the ids to 16 bits
        write_image(path, labels, properties)
    else:
        with atomic_path(path) as temporary:
            plans.image_reader_writer_class().write_seg(labels, str(temporary), properties)
            write_nifti_forms(temporary, properties.get("nifti_forms"))


def write_image(target: Path, array: np.ndarray, properties: dict[str, Any]) -> None:
    """Write ``(z, y, x)`` in the geometry that nnU-Net's SimpleITK reader noted.

    Of a picture, values from 0 to 1 become gray from 0 to 255.
    """
    if is_picture(target):
        from PIL import Image

        with atomic_path(target) as temporary:
            gray = np.rint(255 * array[0]).astype(np.uint8)
            Image.fromarray(gray).save(temporary, format="PNG")
        return
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    geometry = properties["sitk_stuff"]
    image.SetSpacing(geometry["spacing"])
    image.SetOrigin(geometry["origin"])
    image.SetDirection(geometry["direction"])
    with atomic_path(target) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
        write_nifti_forms(temporary, properties.get("nifti_forms"))
