"""The cases to predict: checked, normalized and resampled one by one.

Which files or DICOM series are a case says ``graphnn_unet.models.inputs``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from graphnn_unet.data.check import check_case_images
from graphnn_unet.data.preprocess import normalized
from graphnn_unet.data.read_case import read_case
from graphnn_unet.dataset_conversion.records import Source
from graphnn_unet.dataset_conversion.volumes import load
from graphnn_unet.errors import BadFileError, Fault, MissingFileError
from graphnn_unet.images.find import split_ending
from graphnn_unet.images.flat_picture import MAX_BITS, flat_grid, is_picture
from graphnn_unet.images.grid import Grid, grid_mismatch
from graphnn_unet.images.header import read_grid
from graphnn_unet.images.nifti_forms import NiftiForm, nifti_forms, plain_files
from graphnn_unet.images.volume import to_itk
from graphnn_unet.models.picture_cases import picture_data
from graphnn_unet.models.unlike_training import unlike_training
from graphnn_unet.prediction.dicom_objects import ENDINGS, is_whole_object
from graphnn_unet.prediction.write_case import NIFTI, Outputs
from graphnn_unet.progress import say
from graphnn_unet.scan_graph.panel import Panel
from graphnn_unet.storage.atomic import (
    TEMPORARY_FOLDER,
    Fingerprint,
    fingerprint,
    naming_a_full_disk,
)

CHECK_STAGE = "check"

_WRITTEN_AS = {np.dtype(np.float16): np.float32, np.dtype(np.bool_): np.uint8}
"""Types of voxels that NIfTI does not have."""


@dataclass(frozen=True)
class PrepareJob:
    """One case on its way to the network; goes to a worker process.

    Attributes:
        case: Case id.
        sources: A file or a function that reads, one a channel, in channel order.
        target: Output folder; copies that the model's reader needs lie in it for a while.
        plans, configuration, dataset_json: As in nnU-Net.
        nifti_form: What is taken where qform and sform of an image disagree.
        files: All files that hold its voxels.
        voting: Labeled scans that vote on it.
    """

    case: str
    sources: tuple[Source, ...]
    target: str
    plans: dict
    configuration: str
    dataset_json: dict
    nifti_form: NiftiForm | None = None
    files: tuple[Path, ...] = ()
    voting: VotingJob | None = None


@dataclass(frozen=True)
class VotingJob:
    """The part of a job that lets labeled scans vote.

    Attributes:
        panel: The scans.
        n_threads: Registrations at the same time.
        while_there: Folder that is removed when votes are no longer wanted.
    """

    panel: Panel
    n_threads: int
    while_there: Path


@dataclass(frozen=True)
class Prepared:
    """A case that the network can take.

    Attributes:
        data: ``(c, z, y, x)`` float32 on the network's grid; ``None`` where a fault is an error.
        properties: What nnU-Net's preprocessor noted.
        faults: What the check of the files found, warnings included.
        image: Fingerprint of the files as they were read.
        share: ``(k, z, y, x)`` float32 shares of the votes of labeled scans, if they were cast.
    """

    data: np.ndarray | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    image: Fingerprint = field(default_factory=dict)
    share: np.ndarray | None = None


def prepare_case(job: PrepareJob) -> Prepared:
    """Check, read, normalize and resample one case; let labeled scans vote on it."""
    try:
        # before they are read: what changes meanwhile is then told apart the next time
        image = fingerprint(job.files)
    except OSError:
        image = {}  # the check says more
    prepared = replace(_checked_and_prepared(job), image=image)
    if job.voting is None or prepared.data is None:
        return prepared
    return _voted(job.case, prepared, job.voting)


def _voted(case: str, prepared: Prepared, job: VotingJob) -> Prepared:
    vote = job.panel.vote_on(
        prepared.data,  # pyright: ignore[reportArgumentType]  # caller has looked
        n_threads=job.n_threads,
        is_stopped=lambda: not job.while_there.is_dir(),
    )
    if not vote.failures and vote.share is not None:
        return replace(prepared, share=vote.share)
    why = vote.failures[0] if vote.failures else "they do not overlap"
    cause = f"{len(vote.failures)} of {vote.n_voters} labeled scans cannot vote on it ({why})"
    if vote.share is None:
        cause = f"no labeled scan can be registered to it, the network decides alone ({why})"
    fault = Fault(case, "scan graph", cause, "Look whether it shows the same anatomy", "warning")
    return replace(prepared, share=vote.share, faults=(*prepared.faults, fault))


def _checked_and_prepared(job: PrepareJob) -> Prepared:
    plans = PlansManager(job.plans)
    # set by every reader of nnU-Net, not declared by their base
    endings: Sequence[str] = getattr(plans.image_reader_writer_class, "supported_file_endings")  # noqa: B009
    try:
        if is_picture(str(job.sources[0])):
            return _prepare_picture(job)
        with readable(job.sources, endings, Path(job.target), job.nifti_form) as files:
            return _prepare(job, files)
    except BadFileError as error:
        return Prepared(faults=(error.as_fault(job.case, CHECK_STAGE),))
    except MissingFileError as error:
        return Prepared(faults=(Fault(job.case, CHECK_STAGE, error.what, error.remedy),))


def _prepare(job: PrepareJob, files: Sequence[Path]) -> Prepared:
    faults = tuple(check_case_images(files, case=job.case, nifti_form=job.nifti_form))
    if any(fault.severity == "error" for fault in faults):
        return Prepared(faults=faults)
    reader = PlansManager(job.plans).image_reader_writer_class()
    with plain_files(files, job.nifti_form) as placed:
        data, _, properties = read_case(
            reader, list(map(str, placed)), None, job.plans.get("orientation", "")
        )
    faults += tuple(unlike_training(job.case, data, properties["spacing"], job.plans))
    if any(fault.severity == "error" for fault in faults):
        return Prepared(faults=faults)
    data, _, properties = normalized(
        data, None, properties, job.plans, job.configuration, job.dataset_json
    )
    properties["nifti_forms"] = nifti_forms(files[0])
    return Prepared(data, properties, faults)


def _prepare_picture(job: PrepareJob) -> Prepared:
    paths = [path for path in job.sources if isinstance(path, Path)]
    faults = tuple(check_case_images(paths, case=job.case))
    if any(fault.severity == "error" for fault in faults):
        return Prepared(faults=faults)
    image, properties, warnings = picture_data(
        job.case,
        paths,
        len(job.dataset_json["channel_names"]),
        job.dataset_json.get("color_bits", MAX_BITS),
    )
    data, _, properties = normalized(
        image, None, properties, job.plans, job.configuration, job.dataset_json
    )
    return Prepared(data, properties, (*faults, *warnings))


@contextmanager
def readable(
    sources: Sequence[Source], endings: Sequence[str], target: Path, form: NiftiForm | None = None
) -> Iterator[list[Path]]:
    """Files that a reader of these endings can read: the given ones, or a copy of each as NIfTI.

    The copies lie in a hidden folder of ``target``, which is removed when the block ends.

    Raises:
        BadFileError: A source that has to be copied cannot be used.
        NoSpaceError: There is no room for the copies.
    """
    if all(isinstance(s, Path) and s.name.endswith(tuple(endings)) for s in sources):
        yield [Path(str(source)) for source in sources]
        return
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=TEMPORARY_FOLDER, dir=target) as folder:
        files = []
        for number, source in enumerate(sources):
            stem = split_ending(source)[0] if isinstance(source, Path) else "scan"
            temporary = Path(folder) / str(number) / f"{stem}.nii"
            temporary.parent.mkdir()
            name = source.name if isinstance(source, Path) else "its series"
            volume = load(source, name, form)
            kind = _WRITTEN_AS.get(volume.array.dtype, volume.array.dtype)
            with naming_a_full_disk(temporary, volume.array.nbytes):
                image = to_itk(replace(volume, array=volume.array.astype(kind, copy=False)))
                sitk.WriteImage(image, str(temporary))
            files.append(temporary)
        yield files


def is_whole(
    target: Path, case: str, image: Source, outputs: Outputs, nifti_form: NiftiForm | None = None
) -> bool:
    """Whether all files of a case are there, readable to their end and on the image's grid.

    Args:
        target: Output folder.
        case: The stem of their names.
        image: The first channel.
        outputs: What a case has.
        nifti_form: What is taken where qform and sform of the image disagree.
    """
    for kind in outputs.dicom_kinds:
        if not is_whole_object(target / f"{case}{ENDINGS[kind]}", kind):
            return False
    maps = [target / f"{case}{outputs.ending}"] if NIFTI in outputs.kinds else []
    if outputs.uncertainty:
        maps.append(target / f"{case}_uncertainty{outputs.ending}")
    if not all(path.is_file() for path in maps):
        return False
    faults = [f for path in maps for f in check_case_images([path], nifti_form=nifti_form)]
    if any(fault.severity == "error" for fault in faults):
        return False
    archive = target / f"{case}.npz"
    if outputs.probabilities and not (
        zipfile.is_zipfile(archive) and archive.with_suffix(".pkl").is_file()
    ):
        return False
    try:
        grid = _grid_of(image, nifti_form)
    except (BadFileError, MissingFileError):
        return False  # the check of the image says more
    for path in maps:
        if why := grid_mismatch(path.name, _grid_of(path, nifti_form), "its image", grid):
            say(f"{case} is predicted again: {why}")
            return False
    return True


def _grid_of(image: Source, form: NiftiForm | None) -> Grid:
    if not isinstance(image, Path):
        return image().grid
    return flat_grid(image) if is_picture(image) else read_grid(image, form=form)
