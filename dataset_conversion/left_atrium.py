"""Left atrium in late gadolinium enhancement MRI: the 2018 Atrial Segmentation Challenge.

Three forms are known: ``<ID>/mri_norm2.h5``, which the semi-supervised literature uses; the
challenge's own ``<ID>/lgemri.nrrd`` with ``laendo.nrrd``; and NIfTI in ``images/`` and ``labels/``.
"""

from __future__ import annotations

from pathlib import Path

from graphnn_unet.dataset_conversion.forms import Form, Request
from graphnn_unet.dataset_conversion.published import split_for
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset, file_case
from graphnn_unet.dataset_conversion.volumes import by_id, h5_case, not_taken
from graphnn_unet.errors import Fault, MissingFileError
from graphnn_unet.images.find import VOLUMES, files_below, image_files

SPACING_MM = (0.625, 0.625, 0.625)
"""Resolution of the challenge's scans (Xiong et al. 2020); the h5 files store none."""

_CHALLENGE_LABELS = {0: 0, 255: 1}
"""The challenge's label maps hold 0 and 255."""

_REFERENCE = (
    "Z. Xiong et al., A Global Benchmark of Algorithms for Segmenting Late Gadolinium-Enhanced "
    "Cardiac Magnetic Resonance Imaging, Medical Image Analysis, 2020; h5 form: L. Yu et al., "
    "Uncertainty-aware Self-ensembling Model for Semi-supervised 3D Left Atrium Segmentation, "
    "MICCAI 2019"
)
_LICENSE = "no license named by the challenge; ask its organizers before passing the data on"


def read(request: Request) -> ConvertedDataset:
    """Find the cases of a left atrium folder in any of the three forms.

    Raises:
        MissingFileError: None of the forms is there.
    """
    source = request.source_folder
    notes: list[str] = []
    faults: list[Fault] = []
    cases = _h5_cases(source, faults) or _challenge_cases(source, faults) or _nifti_cases(source)
    if not cases:
        raise MissingFileError(
            f"no left atrium scans in {source}",
            "looked for ID/mri_norm2.h5, ID/lgemri.nrrd and images/ID.nii.gz",
            "Give the folder that holds the case folders",
        )
    inputs = [path.name for case in cases.values() for path in case.inputs]
    if "mri_norm2.h5" in inputs:
        notes.append(
            "the h5 files store no geometry: spacing 0.625 mm isotropic, origin and direction "
            "have no anatomical meaning"
        )
    split = split_for("left_atrium", source, cases)
    return ConvertedDataset(
        name="LA",
        default_id=101,
        form="LA",
        source=source,
        channel_names={0: "LGE-MRI"},
        labels={"background": 0, "left_atrium": 1},
        cases=split.applied(cases),
        label_mapping=_CHALLENGE_LABELS if "laendo.nrrd" in inputs else {},
        published_splits=split.tables,
        notes=notes + split.notes,
        skipped=not_taken(source, cases.values()),
        reference=_REFERENCE,
        license=_LICENSE,
        faults=faults,
    )


FORM = Form(
    name="LA",
    help="left atrium: ID/mri_norm2.h5, ID/lgemri.nrrd + laendo.nrrd, or images/ and labels/",
    read=read,
)


def _h5_cases(source: Path, faults: list[Fault]) -> dict[str, Case]:
    paths = files_below(source, "mri_norm2.h5")
    return by_id((h5_case(p.parent.name, p, SPACING_MM, "xyz") for p in paths), faults)


def _challenge_cases(source: Path, faults: list[Fault]) -> dict[str, Case]:
    cases = (
        file_case(path.parent.name, [path], label if label.is_file() else None)
        for path in files_below(source, "lgemri.nrrd")
        if (label := path.with_name("laendo.nrrd"))
    )
    return by_id(cases, faults)


def _nifti_cases(source: Path) -> dict[str, Case]:
    images, labels = (
        image_files(source / name, VOLUMES).one_per_case() if (source / name).is_dir() else {}
        for name in ("images", "labels")
    )
    return {name: file_case(name, [path], labels.get(name)) for name, path in images.items()}
