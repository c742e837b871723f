"""The files of one predicted case: label map, and on request probabilities and entropy."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from graphnn_unet.images.nifti_forms import write_nifti_forms
from graphnn_unet.prediction.export_logits import Labeled, logits_to_labels
from graphnn_unet.storage.atomic import atomic_path, write_bytes


@dataclass(frozen=True)
class Outputs:
    """What is written for each case.

    Attributes:
        ending: Ending of image files.
        probabilities: Also ``CASE.npz`` and ``CASE.pkl``, as ``nnUNetv2_ensemble`` reads them.
        uncertainty: Also ``CASE_uncertainty`` with the normalized entropy.
    """

    ending: str
    probabilities: bool = False
    uncertainty: bool = False


@dataclass(frozen=True)
class ExportJob:
    """One case behind the network; goes to a worker process.

    Attributes:
        case: Case id.
        logits: ``(k, z, y, x)`` on the network's grid.
        properties: What preprocessing noted.
        target: Folder to write to.
        plans, configuration, dataset_json: As in nnU-Net.
        outputs: What to write.
    """

    case: str
    logits: np.ndarray
    properties: dict
    target: str
    plans: dict
    configuration: str
    dataset_json: dict
    outputs: Outputs


def export_case(job: ExportJob) -> None:
    """Write the files of one case."""
    plans = PlansManager(job.plans)
    result = logits_to_labels(
        job.logits,
        job.properties,
        plans,
        plans.get_configuration(job.configuration),
        plans.get_label_manager(job.dataset_json),
        with_probabilities=job.outputs.probabilities,
        with_entropy=job.outputs.uncertainty,
    )
    write_case(result, Path(job.target), job.case, job.properties, plans, job.outputs)


def write_case(
    result: Labeled,
    target: Path,
    case: str,
    properties: dict[str, Any],
    plans: Any,
    outputs: Outputs,
) -> None:
    """Write what was made of a case.

    Args:
        result: Label map and what else there is.
        target: Folder.
        case: Case id, the stem of all names.
        properties: What preprocessing noted; holds the geometry.
        plans: nnU-Net's ``PlansManager``, for the writer of images.
        outputs: What to write.
    """
    if outputs.probabilities:
        with atomic_path(target / f"{case}.npz") as temporary:
            np.savez_compressed(temporary, probabilities=result.probabilities)  # pyright: ignore[reportArgumentType]
        write_bytes(target / f"{case}.pkl", pickle.dumps(properties))
    if outputs.uncertainty:
        path = target / f"{case}_uncertainty{outputs.ending}"
        write_float_image(path, result.entropy, properties)  # pyright: ignore[reportArgumentType]
    # the label map comes last: where it is, the case is done
    with atomic_path(target / f"{case}{outputs.ending}") as temporary:
        plans.image_reader_writer_class().write_seg(result.labels, str(temporary), properties)
        write_nifti_forms(temporary, properties.get("nifti_forms"))


def write_float_image(target: Path, values: np.ndarray, properties: dict[str, Any]) -> None:
    """Write ``(z, y, x)`` float32 in the geometry that nnU-Net's SimpleITK reader noted."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(values.astype(np.float32, copy=False))
    geometry = properties["sitk_stuff"]
    image.SetSpacing(geometry["spacing"])
    image.SetOrigin(geometry["origin"])
    image.SetDirection(geometry["direction"])
    with atomic_path(target) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
        write_nifti_forms(temporary, properties.get("nifti_forms"))
