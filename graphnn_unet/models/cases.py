"""The images to predict: found, checked, normalized and resampled case by case."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from graphnn_unet.data.check import check_case_images, group_case_files
from graphnn_unet.data.check_layout import case_id_fault
from graphnn_unet.errors import BadFileError, Fault, InputError
from graphnn_unet.images.find import (
    RAW_VOLUMES,
    ImageFiles,
    image_files,
    split_channel,
    split_ending,
)
from graphnn_unet.images.grid import grid_mismatch
from graphnn_unet.images.header import read_grid
from graphnn_unet.prediction.write_case import Outputs
from graphnn_unet.progress import say

_NO_CHANNEL_NUMBER = "I33"
CHECK_STAGE = "check"


def find_cases(
    folder: Path, ending: str, n_channels: int
) -> tuple[dict[str, list[Path]], list[Fault], list[str]]:
    """Images of a folder by case.

    Files are named ``CASE_0000.nii.gz``, one a channel; where no file is and the model has one
    channel, plain names are cases.

    Returns:
        Cases, faults of cases that cannot be predicted (a channel too few or too many, a name that
        cannot be used), and names of files that are no cases.

    Raises:
        InputError: No images, or the model reads a kind of file that is not supported.
    """
    if ending not in RAW_VOLUMES:
        raise InputError(
            f"the model reads *{ending} files", f"only {', '.join(RAW_VOLUMES)} can be checked",
            "Predict with nnUNetv2_predict_from_modelfolder",
        )  # fmt: skip
    files = image_files(folder, (ending,))
    names = [path.name for path in files.paths]
    plain = [n for n in names if split_channel(split_ending(n, (ending,))[0])[1] is None]
    if names and len(plain) == len(names) and n_channels == 1:
        return _plainly_named(files)
    if len(plain) == len(names):
        others = sorted({"".join(p.suffixes[-2:]) for p in folder.iterdir() if p.is_file()})
        raise InputError(
            f"no input images in {folder}",
            f"the model reads files named CASE_0000{ending}; found: "
            f"{', '.join(names[:3] or filter(None, others)) or 'nothing'}",
            "Give the folder with -i, or rename the files",
        )
    cases, faults = group_case_files(folder, ending, n_channels)
    failures = [f for f in faults if f.severity == "error" and f.code != _NO_CHANNEL_NUMBER]
    return cases, failures, plain


def _plainly_named(files: ImageFiles) -> tuple[dict[str, list[Path]], list[Fault], list[str]]:
    by_case, faults = files.by_case(CHECK_STAGE)
    cases = {}
    for case, path in by_case.items():
        if bad := case_id_fault(case, path.name):
            faults.append(bad)
        else:
            cases[case] = [path]
    return cases, faults, list(files.unusable())


@dataclass(frozen=True)
class PrepareJob:
    """One case on its way to the network; goes to a worker process.

    Attributes:
        case: Case id.
        files: One file a channel, in channel order.
        plans, configuration, dataset_json: As in nnU-Net.
    """

    case: str
    files: tuple[str, ...]
    plans: dict
    configuration: str
    dataset_json: dict


@dataclass(frozen=True)
class Prepared:
    """A case that the network can take.

    Attributes:
        data: ``(c, z, y, x)`` float32 on the network's grid; ``None`` where a fault is an error.
        properties: What nnU-Net's preprocessor noted.
        faults: What the check of the files found, warnings included.
    """

    data: np.ndarray | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


def prepare_case(job: PrepareJob) -> Prepared:
    """Check, read, normalize and resample one case."""
    faults = tuple(check_case_images([Path(p) for p in job.files], case=job.case))
    if any(fault.severity == "error" for fault in faults):
        return Prepared(faults=faults)
    plans = PlansManager(job.plans)
    configuration = plans.get_configuration(job.configuration)
    data, _, properties = configuration.preprocessor_class(verbose=False).run_case(
        list(job.files), None, plans, configuration, dict(job.dataset_json)
    )
    return Prepared(np.ascontiguousarray(data, dtype=np.float32), properties, faults)


def is_whole(target: Path, case: str, image: Path, outputs: Outputs) -> bool:
    """Whether all files of a case are there, readable to their end and on the image's grid."""
    maps = [target / f"{case}{outputs.ending}"]
    if outputs.uncertainty:
        maps.append(target / f"{case}_uncertainty{outputs.ending}")
    if not all(path.is_file() for path in maps):
        return False
    if any(fault.severity == "error" for path in maps for fault in check_case_images([path])):
        return False
    archive = target / f"{case}.npz"
    if outputs.probabilities and not (
        zipfile.is_zipfile(archive) and archive.with_suffix(".pkl").is_file()
    ):
        return False
    try:
        grid = read_grid(image)
    except BadFileError:
        return False  # the check of the image says more
    for path in maps:
        if why := grid_mismatch(path.name, read_grid(path), image.name, grid):
            say(f"{case} is predicted again: {why}")
            return False
    return True
