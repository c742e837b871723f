"""Preprocessing of one configuration through nnU-Net's own preprocessor.

Labeled cases land in ``<plans>_<configuration>`` as nnU-Net writes them, unlabeled ones in
``<plans>_<configuration>__unlabeled`` without a label map. A set is built in a hidden folder
beside it and takes its place when it is whole; a manifest names every case, its files and a hash
of what they were made from. Stopped and started again, only what is missing is done; cases whose
files and settings did not change are taken over. A stop in the middle of the exchange is made good
by the next run: the new manifest lies ready before the first folder moves.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from graphnn_unet.data.check import CaseMetadata
from graphnn_unet.data.read_case import read_case
from graphnn_unet.errors import Fault, InputError, MissingFileError
from graphnn_unet.images.find import some
from graphnn_unet.images.intensities import in_usual_units
from graphnn_unet.plans.recipe import resolved_configuration
from graphnn_unet.progress import Progress, needs_text, say
from graphnn_unet.storage.arrays import compress
from graphnn_unet.storage.atomic import (
    checksum,
    link_or_copy,
    naming_a_full_disk,
    rename,
    replace_folder,
    require_free_space,
    write_json,
)
from graphnn_unet.storage.processes import run_jobs
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.storage.schemas import DoneCase, Manifest, faults_of, read_valid

MANIFEST_SCHEMA_VERSION = 1
UNLABELED = "__unlabeled"
NORMALIZED_ALONE = {
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
}
"""Normalizations that look at one scan only; CT's uses intensities of all labeled scans, so that
one changed scan changes the voxels of all."""


@dataclass(frozen=True)
class _Job:
    case: str
    images: tuple[str, ...]
    label: str | None
    target: str
    key: str
    plans: dict
    configuration: str
    dataset_json: dict
    unpacked: Path | None


@dataclass(frozen=True)
class _Set:
    """The cases of one configuration while they are preprocessed.

    ``identifier`` names the folder of the labeled cases, ``settings`` is the hash of what all
    cases depend on.
    """

    dataset_folder: Path
    identifier: str
    settings: str
    cases: Mapping[str, CaseMetadata]

    @cached_property
    def keys(self) -> dict[str, str]:
        """Hash of everything that the files of a case depend on."""
        return {
            case: _sha256([metadata.sha256, metadata.role, self.settings])
            for case, metadata in self.cases.items()
        }

    def stem(self, case: str) -> Path:
        """Path of a case that is being built, without the endings of its files."""
        name = folder_name(self.identifier, self.cases[case].role)
        return _work_folder(self.dataset_folder, name) / case

    def is_done(self, manifest: Mapping[str, Any]) -> bool:
        """Whether a finished set holds exactly these cases, whole and up to date."""
        keys = {case: entry["key"] for case, entry in manifest["cases"].items()}
        return keys == self.keys and not missing_files(
            self.dataset_folder, self.identifier, manifest
        )


def manifest_path(dataset_folder: Path, data_identifier: str) -> Path:
    """The manifest lies beside the folder: stock nnU-Net allows no other file type inside."""
    return dataset_folder / f"{data_identifier}.manifest.json"


def preprocess_configuration(
    dataset_folder: Path,
    cases: Mapping[str, CaseMetadata],
    plans: dict[str, Any],
    configuration: str,
    dataset_json: dict[str, Any],
    *,
    n_workers: int,
    unpacked: Path | None = None,
) -> tuple[list[Fault], Callable[[], None]]:
    """Preprocess all training cases of one configuration, beside the set that is there.

    Args:
        dataset_folder: ``$nnUNet_preprocessed/DatasetNNN_Name``; its lock is held by the caller.
        cases: Training cases by id (roles ``labeled`` and ``unlabeled``).
        plans: The plan.
        configuration: Name of the configuration.
        dataset_json: nnU-Net's description of the data set.
        n_workers: Worker processes, 0 for none.
        unpacked: Folder with unpacked copies of some of the files.

    Returns:
        Faults of cases that failed, whose others are kept for the next run; and what puts the set
        in the place of the former one, to be called where there are none.

    Raises:
        InputError: Two case ids would share a file name.
        NoSpaceError: The cases would not fit on the disk.
    """
    _require_distinct_files(cases)
    identifier = resolved_configuration(plans, configuration)["data_identifier"]
    building = _Set(
        dataset_folder, identifier, settings_hash(plans, configuration, dataset_json), cases
    )
    if _pending(dataset_folder, identifier).is_file():
        _put_in_place(dataset_folder, identifier)
    old = read_manifest(dataset_folder, identifier)
    if old is not None and building.is_done(old):
        say(f"{configuration}: {len(cases)} cases are preprocessed and up to date")
        return [], lambda: None
    for name in _names(identifier):
        _work_folder(dataset_folder, name).mkdir(parents=True, exist_ok=True)
    _take_over(building, old)
    waiting = [case for case in cases if not _done_files(building.stem(case), building.keys[case])]
    n_bytes = sum(  # at most: float32, uncompressed
        math.prod(resampled_shape(plans, configuration, cases[case]))
        * (4 * cases[case].n_channels + 2)
        for case in waiting
    )
    require_free_space(dataset_folder, n_bytes, "preprocessing")
    jobs = (
        _Job(
            case,
            tuple(map(str, cases[case].images)),
            str(cases[case].label) if cases[case].role == "labeled" else None,
            str(building.stem(case)),
            building.keys[case],
            plans,
            configuration,
            dataset_json,
            unpacked,
        )
        for case in waiting
    )
    faults = []
    n_kept = len(cases) - len(waiting)
    title, needs = f"preprocess {configuration}", partial(needs_text, n_bytes)
    with Progress(len(cases), title, initial=n_kept, needs=needs) as progress:
        for outcome in run_jobs(_preprocess_case, jobs, n_workers=min(n_workers, len(waiting))):
            if not outcome.ok:
                remedy = "Fix or remove the case, then run the command again"
                faults.append(Fault(outcome.job.case, "preprocess", outcome.error, remedy))
            progress.update(outcome.job.case)
    return faults, partial(_finish, building)


def _require_distinct_files(cases: Iterable[str]) -> None:
    ids = set(cases)
    for case in ids:
        if case.endswith("_seg") and case[: -len("_seg")] in ids:
            raise InputError(
                f"case id {case!r} cannot be used beside {case[: -len('_seg')]!r}",
                "nnU-Net stores the label map of the one under the name of the other",
                "Rename the case",
            )


def settings_hash(
    plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> str:
    """Hash of everything in plan and description that preprocessed files depend on."""
    relevant_configuration = resolved_configuration(plans, configuration)
    for key in ("architecture", "batch_size", "batch_dice", "median_image_size_in_voxels"):
        relevant_configuration.pop(key, None)
    relevant = {
        "configuration": relevant_configuration,
        "transpose": plans["transpose_forward"],
        "intensities": None
        if set(relevant_configuration["normalization_schemes"]) <= NORMALIZED_ALONE
        else plans["foreground_intensity_properties_per_channel"],
        "reader": plans["image_reader_writer"],
        # a plan of an earlier version has none, and its voxels are still those of the plan
        **({"orientation": plans["orientation"]} if plans.get("orientation") else {}),
        # positions of foreground are stored for each class or region
        "labels": [[name == "ignore", value] for name, value in dataset_json["labels"].items()],
        "regions": dataset_json.get("regions_class_order"),
    }
    return _sha256(relevant)


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _preprocess_case(job: _Job) -> None:
    """Preprocess one case into ``job.target``; the file ``.done`` is written last."""
    data, seg, properties = normalized_case(
        job.images, job.label, job.plans, job.configuration, job.dataset_json, job.unpacked
    )
    if not np.isfinite(data).all():
        raise InputError("the normalized image has values that are not finite")
    stem = Path(job.target)
    for path in _files(stem):
        path.unlink(missing_ok=True)  # fragments of an interrupted run; blosc2 will not overwrite
    patch = tuple(resolved_configuration(job.plans, job.configuration)["patch_size"])
    with naming_a_full_disk(stem, data.nbytes):
        _save(data, seg if job.label is not None else None, properties, stem, patch)
        metadata = {
            "key": job.key,
            "shape": list(data.shape),
            "files": {path.name: _flush(path) for path in _files(stem) if path.exists()},
            "checksums": {path.name: checksum(path) for path in _files(stem) if path.exists()},
        }
    write_json(_done(stem), metadata)


def normalized_case(
    images: Sequence[str],
    label: str | None,
    plans: dict[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    unpacked: Path | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """One case as the network sees it: turned, cropped, normalized and resampled by the plan.

    Args:
        images: One file a channel, in channel order.
        label: Label map, or ``None``.
        plans: The plan; its ``orientation`` is that of the result.
        configuration: Name of the configuration.
        dataset_json: nnU-Net's description of the data set.
        unpacked: Folder with unpacked copies of some of the files.

    Returns:
        ``(c, z, y, x)`` float32, ``(1, z, y, x)`` labels (-1 where the image is empty), and what
        has to be known to bring a prediction back to the file's grid.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    reader = PlansManager(plans).image_reader_writer_class()
    data, seg, properties = read_case(reader, images, label, plans.get("orientation", ""), unpacked)
    return normalized(data, seg, properties, plans, configuration, dataset_json)


def normalized(
    data: np.ndarray,
    seg: np.ndarray | None,
    properties: dict[str, Any],
    plans: dict[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Arrays as nnU-Net's readers give them as the network sees them; see ``normalized_case``."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from graphnn_unet.data.resample import FastResampling

    manager = PlansManager(plans)
    chosen = FastResampling(manager.get_configuration(configuration).configuration)
    data = in_usual_units(data, chosen.normalization_schemes)
    data, seg, properties = chosen.preprocessor_class(verbose=False).run_case_npy(
        data, seg, properties, manager, chosen, dict(dataset_json)
    )
    return np.ascontiguousarray(data, dtype=np.float32), seg, properties


def _save(
    data: np.ndarray,
    seg: np.ndarray | None,
    properties: dict[str, Any],
    stem: Path,
    patch: tuple[int, ...],
) -> None:
    """Write a case in nnU-Net's form; one without label map has no file of it.

    nnU-Net tries two filters with LZ4HC; LZ4 writes as small a file in a twentieth of the time, and
    whether an image was resampled tells the filter.
    """
    import blosc2
    from batchgenerators.utilities.file_and_folder_operations import write_pickle
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

    was_resampled = (
        tuple(properties["shape_after_cropping_and_before_resampling"]) != data.shape[1:]
    )
    # bytes of equal weight beside each other pack continuous values, not those of few levels
    smooth, plain = [blosc2.Filter.SHUFFLE], [blosc2.Filter.NOFILTER]
    arrays = [("", data, smooth if was_resampled else plain)]
    if seg is not None:
        arrays.append(("_seg", seg.astype(np.int16, copy=False), plain))
    for ending, array, filters in arrays:
        blocks, chunks = comp_blosc2_params(array.shape, patch, array.itemsize)
        compress(
            Path(f"{stem}{ending}.b2nd"), array, chunks=chunks, blocks=blocks,
            codec=blosc2.Codec.LZ4, clevel=5, filters=filters,
        )  # fmt: skip
    write_pickle(properties, f"{stem}.pkl")


def _files(stem: Path) -> list[Path]:
    return [stem.with_name(stem.name + ending) for ending in (".b2nd", "_seg.b2nd", ".pkl")]


def _done(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.done")


def _done_files(stem: Path, key: str) -> dict[str, int]:
    """Files of a finished case with their sizes; empty unless all are there and of this key."""
    if not _done(stem).is_file():
        return {}
    done = read_json(_done(stem))
    if faults_of(DoneCase, done):
        return {}
    whole = done["key"] == key and _are_whole(stem.parent, done.get("files", {}))
    return done["files"] if whole else {}


def _are_whole(folder: Path, sizes: Mapping[str, int]) -> bool:
    paths = {folder / name: size for name, size in sizes.items()}
    return bool(paths) and all(p.is_file() and p.stat().st_size == n for p, n in paths.items())


def _flush(path: Path) -> int:
    """Bring a file to the disk; return its size."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return path.stat().st_size


def _take_over(building: _Set, old: dict[str, Any] | None) -> None:
    """Link cases of the finished set whose inputs and settings are the same."""
    for case, entry in (old or {"cases": {}})["cases"].items():
        if building.keys.get(case) != entry["key"]:
            continue
        stem = building.stem(case)
        source = building.dataset_folder / folder_name(building.identifier, entry["role"])
        if _done_files(stem, entry["key"]) or not _are_whole(source, entry["files"]):
            continue
        for name in entry["files"]:
            target = stem.with_name(name)
            target.unlink(missing_ok=True)
            link_or_copy(source / name, target)
        kept = ("key", "shape", "files", "checksums")
        write_json(_done(stem), {name: entry[name] for name in kept if name in entry})


def _finish(building: _Set) -> None:
    """The new set is whole: note that, then put it in the place of the old one."""
    old = read_manifest(building.dataset_folder, building.identifier)
    if old is not None and building.is_done(old):
        return  # by another configuration of the same cases
    manifest = {
        "schema_version": MANIFEST_SCHEMA_VERSION,
        "settings": building.settings,
        "cases": {
            case: {
                "role": metadata.role,
                "sources": metadata.sha256,
                "stamps": metadata.stamps,
                **read_json(_done(building.stem(case))),
            }
            for case, metadata in building.cases.items()
        },
    }
    write_json(_pending(building.dataset_folder, building.identifier), manifest)
    _put_in_place(building.dataset_folder, building.identifier)


def _names(identifier: str) -> tuple[str, str]:
    """Folder names of the labeled and the unlabeled cases."""
    return identifier, f"{identifier}{UNLABELED}"


def _work_folder(dataset_folder: Path, name: str) -> Path:
    """Where the folder of this name is built."""
    return dataset_folder / f".{name}.partial"


def _pending(dataset_folder: Path, identifier: str) -> Path:
    """Manifest of a whole set whose folders are being exchanged."""
    return dataset_folder / f".{identifier}.manifest.pending.json"


def _put_in_place(dataset_folder: Path, identifier: str) -> None:
    """Exchange the folders; started again after a stop at any point, it does what is left."""
    pending = _pending(dataset_folder, identifier)
    remedy = "Remove it and preprocess again"
    cases = read_valid(pending, Manifest, remedy)["cases"]
    wanted = {name for entry in cases.values() for name in entry["files"]}
    # without a manifest training refuses the set, so that it never sees half of an exchange
    manifest_path(dataset_folder, identifier).unlink(missing_ok=True)
    for name in _names(identifier):
        folder = _work_folder(dataset_folder, name)
        if not folder.exists():
            continue  # it moved before the stop
        for path in folder.iterdir():
            if path.name not in wanted:  # markers, and cases that are no longer in the set
                path.unlink()
        replace_folder(folder, dataset_folder / name)
    rename(pending, manifest_path(dataset_folder, identifier))


def resampled_shape(
    plans: Mapping[str, Any], configuration: str, metadata: CaseMetadata
) -> tuple[int, int, int]:
    """Voxels (z, y, x of the plan's axis order) of a case after resampling, before cropping."""
    forward = plans["transpose_forward"]
    spacing = [metadata.spacing[i] for i in forward]
    shape = [metadata.shape[i] for i in forward]
    target = list(resolved_configuration(plans, configuration)["spacing"])
    if len(target) == 2:
        target = [spacing[0], *target]
    return tuple(  # pyright: ignore[reportReturnType]  # three axes
        max(1, round(n * old / new)) for n, old, new in zip(shape, spacing, target, strict=True)
    )


def read_manifest(dataset_folder: Path, identifier: str) -> dict[str, Any] | None:
    """The manifest of a preprocessed set; ``None`` without one or from another version."""
    path = manifest_path(dataset_folder, identifier)
    if not path.is_file():
        return None
    try:
        manifest = read_valid(path, Manifest, "Preprocess again")
    except InputError as error:  # it can be made again
        say(f"warning: {error.lines[0]}")
        return None
    return manifest if manifest.get("schema_version") == MANIFEST_SCHEMA_VERSION else None


def drop_stale(
    dataset_folder: Path, plans: Mapping[str, Any], configuration: str, dataset_json: dict[str, Any]
) -> bool:
    """Give up a preprocessed set that was made for another plan; return whether there was one.

    Training would read voxels of one spacing with a plan for another. The files stay until the set
    is preprocessed again.
    """
    identifier = resolved_configuration(plans, configuration)["data_identifier"]
    manifest = read_manifest(dataset_folder, identifier)
    settings = settings_hash(plans, configuration, dataset_json)
    if manifest is None or manifest["settings"] == settings:
        return False
    manifest_path(dataset_folder, identifier).unlink()
    return True


def missing_files(dataset_folder: Path, identifier: str, manifest: Mapping[str, Any]) -> list[str]:
    """Cases of a manifest whose files are missing or have another size."""
    return [
        case
        for case, entry in manifest["cases"].items()
        if not _are_whole(dataset_folder / folder_name(identifier, entry["role"]), entry["files"])
    ]


def require_whole(
    dataset_folder: Path,
    plans: Mapping[str, Any],
    configuration: str,
    dataset_json: dict[str, Any],
    with_label: Collection[str],
    *,
    others: bool = True,
) -> None:
    """Refuse preprocessed cases of another plan, and files whose bytes have changed.

    Every file is read once, which also brings it to the memory that training reads from. Sets of
    earlier versions have no checksums; of them the sizes are compared.

    Args:
        dataset_folder: ``$nnUNet_preprocessed/DatasetNNN_Name``.
        plans: The plan.
        configuration: Name of the configuration.
        dataset_json: nnU-Net's description of the data set.
        with_label: Cases whose label maps the run may see; those of others are not opened.
        others: Whether the images of other cases are looked at.

    Raises:
        MissingFileError: The set was never finished.
        InputError: It does not belong to the plan; or files are damaged, then it names the cases.
    """
    identifier = resolved_configuration(plans, configuration)["data_identifier"]
    manifest = require_preprocessed(dataset_folder, identifier)
    remedy = f"Run gnnunet_plan_and_preprocess -d {dataset_folder.name} -c {configuration}"
    if manifest["settings"] != settings_hash(plans, configuration, dataset_json):
        raise InputError(
            f"the preprocessed cases of {identifier} were not made for this plan",
            "planning was stopped before its cases were done, or plan or dataset.json changed",
            remedy,
        )
    sums = {
        (case, dataset_folder / folder_name(identifier, entry["role"]) / name): value
        for case, entry in manifest["cases"].items()
        for name, value in entry.get("checksums", {}).items()
        # the other files of a case tell of its label map
        if case in with_label or (others and name == f"{case}.b2nd")
    }
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        actual = threads.map(checksum, (path for _, path in sums))
        pairs = zip(sums.items(), actual, strict=True)
        damaged = {case for ((case, _), wanted), value in pairs if value != wanted}
    if damaged:
        raise InputError(
            f"preprocessed files of {some(sorted(damaged))} are damaged ({identifier})",
            "their bytes are not those that were written",
            f"Remove {manifest_path(dataset_folder, identifier)} and run "
            f"gnnunet_plan_and_preprocess -d {dataset_folder.name} again",
        )


def folder_name(identifier: str, role: str) -> str:
    """Folder of the preprocessed cases of one role."""
    return _names(identifier)[role != "labeled"]


def require_preprocessed(dataset_folder: Path, identifier: str) -> dict[str, Any]:
    """The manifest of a whole preprocessed set.

    Raises:
        MissingFileError: The set was never finished.
        InputError: Files are missing or cut off; names the cases.
    """
    remedy = f"Run gnnunet_plan_and_preprocess -d {dataset_folder.name}"
    manifest = read_manifest(dataset_folder, identifier)
    if manifest is None:
        raise MissingFileError(
            f"{dataset_folder.name} is not preprocessed for {identifier}",
            f"there is no complete set in {dataset_folder}",
            remedy,
        )
    missing = missing_files(dataset_folder, identifier, manifest)
    if missing:
        names = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise InputError(
            f"{len(missing)} of {len(manifest['cases'])} preprocessed cases of {identifier} are "
            f"damaged or missing: {names}",
            "",
            remedy,
        )
    return manifest
