"""Pancreas-CT of the National Institutes of Health.

Two forms are known. The publisher's: a DICOM series in ``PANCREAS_0001/`` ... and the label maps
``label0001.nii.gz`` ...; and h5 files with ``image`` and ``label`` as the semi-supervised
literature uses them, cropped, resampled and normalized. The publisher's label maps are stored along
other axes than the series; both are brought to the same axes by their headers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from graphnn_unet.dataset_conversion.dicom import find_series, read_series
from graphnn_unet.dataset_conversion.forms import Form, Request
from graphnn_unet.dataset_conversion.published import split_for
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset
from graphnn_unet.dataset_conversion.volumes import by_id, h5_case, load, not_taken
from graphnn_unet.errors import BadFileError, Fault, MissingFileError
from graphnn_unet.images.find import files_below, walk
from graphnn_unet.images.volume import UPRIGHT, Volume, with_axes_of

H5_SPACING_MM = (1.0, 1.0, 1.0)
"""The literature's h5 files are meant to be 1 mm isotropic; they store no spacing."""

_REFERENCE = (
    "H. R. Roth et al., Data From Pancreas-CT, The Cancer Imaging Archive, 2016, "
    "doi:10.7937/K9/TCIA.2016.tNB1kqBU"
)
_LICENSE = "CC BY 3.0 (The Cancer Imaging Archive)"


def read(request: Request) -> ConvertedDataset:
    """Find the cases of either form.

    The source holds ``PANCREAS_NNNN`` folders (and the label maps below it, unless a folder of
    ``labelNNNN.nii.gz`` is given), or h5 files.

    Raises:
        MissingFileError: Neither form is there.
    """
    source = request.source_folder
    faults: list[Fault] = []
    h5_cases = _h5_cases(source, faults)
    cases = h5_cases or _publisher_cases(source, request.label_folder, faults)
    if not (cases or faults):
        raise MissingFileError(
            f"no Pancreas-CT scans in {source}",
            "looked for PANCREAS_0001/ with DICOM files and for 0001.h5 or image0001_norm.h5",
            "Give the folder that holds them",
        )
    split = split_for("pancreas", source, cases)
    notes = [
        "the h5 files store no geometry: 1 mm isotropic is assumed, as in the literature; "
        "intensities are normalized, not Hounsfield units"
        if h5_cases
        else "label maps were brought to the axes of the series by their headers"
    ]
    return ConvertedDataset(
        name="Pancreas",
        default_id=103,
        form="Pancreas",
        source=source,
        channel_names={0: "normalised CT" if h5_cases else "CT"},
        labels={"background": 0, "pancreas": 1},
        cases=split.applied(cases),
        published_splits=split.tables,
        notes=notes + split.notes,
        skipped=not_taken(source, cases.values()),
        reference=_REFERENCE,
        license=_LICENSE,
        faults=faults,
    )


FORM = Form(
    name="Pancreas",
    help="NIH Pancreas-CT: PANCREAS_NNNN/ DICOM folders with labelNNNN.nii.gz, or NNNN.h5",
    read=read,
    takes=("labels",),
)


def _h5_cases(source: Path, faults: list[Fault]) -> dict[str, Case]:
    cases = (
        h5_case(match[1], path, H5_SPACING_MM, "xyz")
        for path in files_below(source, "*.h5")
        if (match := re.fullmatch(r"(?:image)?(\d{4})(?:_norm)?", path.stem))
    )
    return by_id(cases, faults)


def _publisher_cases(source: Path, labels: Path | None, faults: list[Fault]) -> dict[str, Case]:
    label_of = {
        match[1]: path
        for path in files_below(labels or source, "label*.nii*")
        if (match := re.fullmatch(r"label(\d{4})\.nii(\.gz)?", path.name))
    }
    cases = {}
    for folder, _ in walk(source):
        match = re.fullmatch(r"PANCREAS_(\d{4})", folder.name)
        if match is None:
            continue
        name = match[1]
        volumes = [series.files for series in find_series(folder) if len(series.files) > 1]
        if len(volumes) == 1:
            cases[name] = _publisher_case(name, volumes[0], label_of.get(name))
        else:
            cause = f"{folder} has {len(volumes)} series of slices, one is expected"
            remedy = "Keep the CT series only, or copy the folder again"
            faults.append(Fault(name, "convert", cause, remedy, code="I05"))
    return cases


def _publisher_case(name: str, files: tuple[Path, ...], label: Path | None) -> Case:
    image = partial(_upright, partial(read_series, files), "the series")
    if label is None:
        return Case(name, (image,), None, "unlabeled", name, files)
    label_map = partial(_upright, partial(load, label, label.name), label.name)
    return Case(name, (image,), label_map, "labeled", name, (*files, label))


def _upright(read_stored: Callable[[], Volume], name: str) -> Volume:
    """The volume along the patient's axes: x to the left, y to the back, z to the head."""
    turned = with_axes_of(read_stored(), UPRIGHT)
    if turned is None:
        raise BadFileError("I18", f"{name} is stored obliquely", "Resample it to an upright grid")
    return turned
