"""Task folders of the Medical Segmentation Decathlon and of nnU-Net v1, described alike.

The Decathlon keeps the channels of a case in one 4D file; nnU-Net v1 lists the same names and keeps
``CASE_0000``, ``CASE_0001`` ... Both are read.
"""

from __future__ import annotations

import os
import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

from graphnn_unet.dataset_conversion.forms import Form, Request
from graphnn_unet.dataset_conversion.label_table import require_distinct_names
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset, Role, Source
from graphnn_unet.dataset_conversion.volumes import by_id, read_channel, stem_of
from graphnn_unet.errors import Fault, InputError, MissingFileError
from graphnn_unet.images.find import existing, file_ending, safe_id
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.storage.schemas import TaskFolder, faults_of, raise_faults

_TASKS = {
    "braintumour": 1, "heart": 2, "liver": 3, "hippocampus": 4, "prostate": 5,
    "lung": 6, "pancreas": 7, "hepaticvessel": 8, "spleen": 9, "colon": 10,
}  # fmt: skip
"""Numbers of the ten tasks (Simpson et al., arXiv:1902.09063); they serve as data set ids."""

_REFERENCE = (
    "A. L. Simpson et al., arXiv:1902.09063, 2019; M. Antonelli et al., The Medical Segmentation "
    "Decathlon, Nature Communications, 2022"
)


def read(request: Request) -> ConvertedDataset:
    """Find the cases that ``dataset.json`` of a task folder lists.

    Channels of 4D files become one image each; test images come without label maps.

    Raises:
        MissingFileError: There is no ``dataset.json``.
        InputError: It is not in the Decathlon's form.
    """
    source = request.source_folder
    table = _table(source)
    channels, labels = table.modality, table.labels
    faults: list[Fault] = []
    entries = [
        *((entry, "labeled") for entry in table.training),
        *(({"image": entry}, "test") for entry in table.test),
    ]
    once = list({repr(entry): entry for entry in entries}.values())
    read_cases = (_case(request, entry, len(channels), role, faults) for entry, role in once)
    cases = [case for case in read_cases if case is not None]
    by_id(cases, faults)
    notes = [f"dataset.json lists {len(entries) - len(once)} cases twice"] * (once != entries)
    ids, mapping = _label_table(labels)
    name, number = _name(source, table)
    return ConvertedDataset(
        name=name,
        default_id=number,
        form="MSD",
        source=source,
        channel_names=channels,
        labels=ids,
        cases=cases,
        label_mapping=mapping,
        notes=notes + ([f"label values are consecutive inside: {mapping}"] if mapping else []),
        skipped=_not_listed(source, cases),
        reference=table.reference or _REFERENCE,
        license=table.license or "CC-BY-SA 4.0",
        faults=faults,
    )


FORM = Form(name="MSD", help="a task folder of the Decathlon or of nnU-Net v1", read=read)


def _table(source: Path) -> TaskFolder:
    path = source / "dataset.json"
    images, labels = (shlex.quote(str(source / name)) for name in ("imagesTr", "labelsTr"))
    as_nifti = f"gnnunet_convert nifti --images {images} --labels {labels} -d NAME"
    if not path.is_file():
        raise MissingFileError(
            f"{path} is missing",
            "a Decathlon task folder is described by it",
            f"Give the folder of one task, or type {as_nifti}",
        )
    table = read_json(path)
    if isinstance(table, dict) and "channel_names" in table and "training" not in table:
        raise InputError(
            f"{source} is a raw folder of nnU-Net v2",
            "it needs no conversion where its files are named CASE_0000",
            "Put it into $nnUNet_raw as Dataset101_NAME and type "
            f"gnnunet_plan_and_preprocess -d 101, or type {as_nifti}",
        )
    raise_faults(
        faults_of(TaskFolder, table), path, "is not in the Decathlon's form",
        f"Correct it, or type {as_nifti}",
    )  # fmt: skip
    return TaskFolder.model_validate(table)


def _label_table(labels: dict[int, str]) -> tuple[dict[str, int | list[int]], dict[int, int]]:
    """Label names with consecutive ids, and the mapping where the ids were not."""
    require_distinct_names([*(name for value, name in labels.items() if value), "background"])
    values = sorted({0, *labels})
    mapping = {old: new for new, old in enumerate(values)}
    ids: dict[str, int | list[int]] = {"background": 0}
    ids |= {labels[value]: mapping[value] for value in values[1:]}
    return ids, mapping if values != list(range(len(values))) else {}


def _name(source: Path, table: TaskFolder) -> tuple[str, int | None]:
    match = re.fullmatch(r"Task(\d{2,3})_(.+)", source.resolve().name)
    if match:
        return safe_id(match[2]), int(match[1])
    name = safe_id(table.name or source.resolve().name)
    return name, _TASKS.get(name.lower())


def _case(
    request: Request, entry: Any, n_channels: int, role: Role, faults: list[Fault]
) -> Case | None:
    """The case of one entry of ``dataset.json``; ``None`` and a fault where it has none."""
    files = entry if isinstance(entry, dict) else {}
    image, label = files.get("image"), files.get("label")
    if isinstance(image, dict):  # some test lists repeat the form of the training list
        image = image.get("image")
    if not isinstance(image, str) or (role == "labeled" and not isinstance(label, str)):
        cause = f"dataset.json lists it as {entry!r}"
        faults.append(Fault(str(image), "convert", cause, "Give image and label", code="I39"))
        return None
    source, form = request.source_folder, request.nifti_form
    name = _case_name(image)
    case_id = safe_id(name)
    files = _channel_files(source / image, name, n_channels)
    label_file = existing(source / label) if isinstance(label, str) else None
    paths = (*files, label_file) if label_file else files
    if path_faults := [fault for path in paths if (fault := _path_fault(case_id, path, source))]:
        faults.append(path_faults[0])
        return None
    images: tuple[Source, ...] = files
    if len(files) < n_channels:
        images = tuple(
            partial(read_channel, files[0], i, n_channels, form) for i in range(n_channels)
        )
    return Case(case_id, images, label_file, role, case_id, paths, name)


def _case_name(image: str) -> str:
    """The name of a case, without the number of its first channel."""
    return stem_of(image).removesuffix("_0000")


def _channel_files(listed: Path, name: str, n_channels: int) -> tuple[Path, ...]:
    """The file that is listed, or one a channel where they are named as nnU-Net does."""
    ending = file_ending(listed)
    numbered = [
        existing(listed.with_name(f"{name}_{number:04d}{ending}")) for number in range(n_channels)
    ]
    path, plain = existing(listed), existing(listed.with_name(f"{name}{ending}"))
    if all(file.is_file() for file in numbered) and (n_channels > 1 or not path.is_file()):
        return tuple(numbered)
    return (plain,) if plain.is_file() and not path.is_file() else (path,)


def _path_fault(case_id: str, path: Path, source: Path) -> Fault | None:
    """What is wrong with a file that ``dataset.json`` lists.

    Links inside the folder are its owner's; a name in ``dataset.json`` must not lead out of it.
    """
    if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(source)):
        cause = f"dataset.json points outside its folder ({path})"
        return Fault(case_id, "convert", cause, "Move the file inside", code="S14")
    if not path.is_file():
        cause = f"{path} is listed in dataset.json but missing"
        return Fault(case_id, "convert", cause, "Add the file or remove the entry", code="I27")
    return None


def _not_listed(source: Path, cases: list[Case]) -> list[tuple[str, str]]:
    """Image files in the usual folders that ``dataset.json`` does not name."""
    listed = {path.resolve() for case in cases for path in case.inputs}
    return [
        (f"{folder}/{path.name}", "not listed in dataset.json")
        for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
        for path in sorted((source / folder).glob("*"))
        if file_ending(path) and not path.name.startswith(".") and path.resolve() not in listed
    ]
