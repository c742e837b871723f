"""From a raw folder to plans and preprocessed cases: check, fingerprint, plan, splits, voxels."""

from __future__ import annotations

import filecmp
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from graphnn_unet.data.check import CaseMetadata, CheckReport, check_dataset
from graphnn_unet.data.check_whole import same_scans
from graphnn_unet.data.fingerprint import extract_fingerprint, one_component_classes
from graphnn_unet.data.paths import REPORT, resolve_dataset, use_folders
from graphnn_unet.data.plan_files import planning_options
from graphnn_unet.data.preprocess import (
    drop_stale,
    manifest_path,
    preprocess_configuration,
    resampled_shape,
)
from graphnn_unet.data.scan_graph import judge_scan_graph, require_volumes
from graphnn_unet.data.splits import describe_splits, make_splits
from graphnn_unet.errors import (
    CasesFailedError,
    Fault,
    FaultsError,
    GraphnnError,
    InputError,
    MissingFileError,
)
from graphnn_unet.images.find import some
from graphnn_unet.plans.recipe import (
    Layer,
    load_recipe,
    parse_overrides,
    resolve_for_planning,
    resolved_configuration,
)
from graphnn_unet.progress import counted, say
from graphnn_unet.ranges import MAX_WORKERS, require_count
from graphnn_unet.storage.atomic import (
    atomic_path,
    remove_leftovers,
    write_json,
    write_text,
)
from graphnn_unet.storage.failures import FAILURES, write_failures
from graphnn_unet.storage.locks import folder_lock, require_unread
from graphnn_unet.storage.plan_schema import check_plans
from graphnn_unet.storage.processes import default_workers, shared_workers
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.storage.schemas import read_metadata
from graphnn_unet.storage.unpacked import folder_for_copies

CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
SPLITS = "splits_final.json"
_KEPT = "the data set has corrected cases: its plan was kept, not made anew (--replan makes one)"


@dataclass(frozen=True)
class ConfigurationSummary:
    """One planned configuration, for tables.

    Attributes:
        name: ``3d_fullres`` ...
        spacing: mm, in the plan's axis order.
        patch_size: Voxels.
        batch: Labeled plus unlabeled images a step.
        n_stages: Resolution stages of the network.
        memory_gb: Estimated GPU memory of a training step.
        preprocessed: Whether its cases were preprocessed in this call.
    """

    name: str
    spacing: list[float]
    patch_size: list[int]
    batch: tuple[int, int]
    n_stages: int
    memory_gb: float
    preprocessed: bool


@dataclass(frozen=True)
class PlanningResult:
    """What ``plan_and_preprocess`` made of one data set."""

    dataset: str
    plans_file: Path
    n_labeled: int
    n_unlabeled: int
    configurations: list[ConfigurationSummary]
    notes: list[str] = field(default_factory=list)


@shared_workers()
def plan_and_preprocess(
    dataset: str | int,
    *,
    configurations: Sequence[str] | None = None,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    planner: str = "default",
    n_workers: int | None = None,
    skip_faulty: bool = False,
    allow_origin_mismatch: bool = False,
    scan_graph: bool = False,
    replan: bool = False,
) -> PlanningResult:
    """Check, plan and preprocess one data set.

    A data set with corrected cases (``add_corrected``) keeps the plan that it has, unless another
    recipe or ``replan`` asks for a new one: only the cases that are new are preprocessed then.

    Args:
        dataset: Name, id or both.
        configurations: Those to preprocess; default all planned ones, or the recipe's own.
        recipe: Name or TOML file.
        overrides: ``section.key=value`` texts.
        planner: ``default``, ``resenc_m``, ``resenc_l`` or ``resenc_xl``.
        n_workers: Worker processes; default by cores and memory.
        skip_faulty: Leave cases with faults out instead of stopping.
        allow_origin_mismatch: Accept label maps whose origin differs from the image's.
        scan_graph: Also register the scans with each other and let the labeled ones vote on each
            other, one left out at a time. Where the vote is good enough the plan turns the graph
            of scans on for all trainings.
        replan: Plan anew although the data set has corrected cases.

    Raises:
        FaultsError: The check found faults; only ``dataset_report.json`` was written.
        CasesFailedError: Some cases could not be preprocessed. The others are done and wait for the
            next call; until then the former sets stay as they are. Where the plan is another one
            now, they do not train with it, and the call has to end well first.
        LockedError: Another process works on the data set, or a training reads its cases.
    """
    require_count("n_workers", n_workers, 0, MAX_WORKERS)
    layers: dict[str, Layer] = {}
    if recipe is not None:
        layers[f"recipe {recipe}"] = load_recipe(recipe)
    if overrides:
        layers["--set"] = parse_overrides(overrides)
    resolve_for_planning(*layers.values())
    name = resolve_dataset(dataset)
    in_use = use_folders()
    raw = in_use.raw / name
    if not raw.is_dir():
        raise MissingFileError(f"{raw} is missing", "", "Make it with gnnunet_convert")
    target = in_use.preprocessed / name
    with folder_for_copies(target) as unpacked:
        report = check_dataset(
            raw, n_workers=n_workers, allow_origin_mismatch=allow_origin_mismatch,
            unpacked=unpacked,
        )  # fmt: skip
        if report.notes:
            say(f"left out of {raw}: {some(report.notes, 20)}")
        report_file = target / REPORT
        if report.errors:
            write_json(report_file, report.as_json())
        cases, left_out = _usable_cases(report, skip_faulty, report_file)
        with folder_lock(target, "gnnunet_plan_and_preprocess"):
            require_unread(target)
            remove_leftovers(target)
            write_json(report_file, report.as_json())
            result, faults = _prepare(
                raw, target, cases, report.orientation, layers, configurations, planner,
                n_workers, scan_graph=scan_graph, replan=replan, unpacked=unpacked,
            )  # fmt: skip
    failures = target / FAILURES
    write_failures(failures, [*left_out, *faults])
    if faults:
        raise CasesFailedError(faults, report=failures)
    if left_out:
        result.notes.append(f"{len(left_out)} faults left cases out: {failures}")
    return result


def _usable_cases(
    report: CheckReport, skip_faulty: bool, report_file: Path
) -> tuple[dict[str, CaseMetadata], list[Fault]]:
    """Training cases, and the faults for which cases were left out."""
    for warning in report.warnings:
        say(f"warning: {warning.line}")
    faulty = {fault.case for fault in report.errors}
    if report.errors and not (skip_faulty and faulty <= report.cases.keys()):
        raise FaultsError(report.errors, report=report_file)
    cases = {
        case: metadata
        for case, metadata in report.cases.items()
        if metadata.role in ("labeled", "unlabeled") and case not in faulty
    }
    if not any(metadata.role == "labeled" for metadata in cases.values()):
        raise InputError(
            "no labeled case is left", "planning needs at least one label map",
            "Add label maps to labelsTr",
        )  # fmt: skip
    return cases, report.errors


def _prepare(
    raw: Path,
    target: Path,
    cases: dict[str, CaseMetadata],
    orientation: str,
    layers: dict[str, Layer],
    configurations: Sequence[str] | None,
    planner: str,
    n_workers: int | None,
    *,
    scan_graph: bool,
    replan: bool,
    unpacked: Path,
) -> tuple[PlanningResult, list[Fault]]:
    dataset_json = read_json(raw / "dataset.json")
    if n_workers is None:
        n_workers = default_workers(len(cases))
    labeled = {case: metadata for case, metadata in cases.items() if metadata.role == "labeled"}
    if (raw / SPLITS).is_file():
        # nnU-Net's planner compares both; ours is made of patients, each time
        (target / SPLITS).unlink(missing_ok=True)
    kept = None if replan else _kept_plan(raw, target, planner, layers)
    former = _former_options(target, planner)
    plans = kept or _planned(
        raw, target, cases, dataset_json, orientation, layers, planner, n_workers, unpacked
    )
    if kept:
        layers = kept["gnnunet"]["layers"]
        configurations = configurations or _preprocessed(target, kept)
    recipe, _ = resolve_for_planning(*layers.values())
    to_preprocess = _choose_configurations(plans, configurations, recipe.plan)
    if scan_graph:
        require_volumes(plans, to_preprocess, dataset_json)
    faults = [f for name in to_preprocess for f in _oversized(plans, name, cases)]
    if faults:
        raise FaultsError(faults)
    planned = plans["gnnunet"]["recipes"]
    notes = [_KEPT] if kept else []
    if former not in (None, planning_options(plans)):
        notes.append(
            f"the former plan, made with {former}, was replaced; trainings that were begun with it "
            "do not go on"
        )
    notes += [
        f"{name} was preprocessed for another plan: preprocess it again (-c {name}) before training"
        for name in planned
        if name not in to_preprocess and drop_stale(target, plans, name, dataset_json)
    ]
    exchanges = []
    for name in to_preprocess:
        failed, put_in_place = preprocess_configuration(
            target, cases, plans, name, dataset_json, n_workers=n_workers, unpacked=unpacked
        )
        faults += failed
        exchanges.append(put_in_place)
    plans_file = target / f"{plans['plans_name']}.json"
    if not faults:  # cases and what describes them change together
        notes.append(_write_descriptions(raw, target, dataset_json, cases))
        for put_in_place in exchanges:
            put_in_place()
    if scan_graph and not faults:
        roles = {case: metadata.role for case, metadata in cases.items()}
        n_classes = len(class_table(dataset_json)) + 1
        notes += judge_scan_graph(
            target, plans_file, plans, to_preprocess, roles, n_classes, n_workers
        )
    result = PlanningResult(
        raw.name,
        plans_file,
        len(labeled),
        len(cases) - len(labeled),
        [_summary(plans, name, name in to_preprocess) for name in planned],
        [*notes, *_class_notes(plans, to_preprocess, dataset_json, labeled)],
    )
    return result, faults


def _planned(
    raw: Path,
    target: Path,
    cases: dict[str, CaseMetadata],
    dataset_json: dict[str, Any],
    orientation: str,
    layers: dict[str, Layer],
    planner: str,
    n_workers: int,
    unpacked: Path,
) -> dict[str, Any]:
    """A new plan, from a new fingerprint."""
    from graphnn_unet.plans.planner import make_plans

    fingerprint = extract_fingerprint(
        target / "dataset_fingerprint.json",
        cases,
        dataset_json,
        class_table(dataset_json),
        orientation=orientation,
        unpacked=unpacked,
        n_workers=n_workers,
    )
    plans, account = make_plans(
        raw.name,
        planner=planner,
        layers=layers,
        derive=partial(_derive, fingerprint),
        orientation=orientation,
        n_unlabeled=sum(metadata.role == "unlabeled" for metadata in cases.values()),
    )
    write_text(target / "planning_log.txt", account)
    return plans


def _former_options(target: Path, planner: str) -> str | None:
    """What the plan that is there was made with."""
    from graphnn_unet.plans.planner import plans_name

    path = target / f"{plans_name(planner)}.json"
    try:
        return planning_options(check_plans(read_json(path), path)) if path.is_file() else None
    except GraphnnError:  # a damaged plan is replaced
        return None


def _kept_plan(
    raw: Path, target: Path, planner: str, layers: Mapping[str, Layer]
) -> dict[str, Any] | None:
    """The plan of a data set that has got corrected cases since; ``None`` to plan anew.

    Another plan would change the network, and runs before and after could not be compared. A
    recipe that is not the plan's asks for another one.
    """
    from graphnn_unet.plans.planner import plans_name

    path = target / f"{plans_name(planner)}.json"
    if not read_metadata(raw).get("corrected") or not path.is_file():
        return None
    plans = check_plans(read_json(path), path)
    ours = plans.get("gnnunet", {})
    if "recipes" not in ours or (layers and layers != ours.get("layers")):
        return None
    return plans


def _preprocessed(target: Path, plans: Mapping[str, Any]) -> list[str] | None:
    """Configurations that were preprocessed before; ``None`` where none was."""
    identifiers = {
        name: resolved_configuration(plans, name)["data_identifier"]
        for name in plans["gnnunet"]["recipes"]
    }
    return [
        name for name, data in identifiers.items() if manifest_path(target, data).is_file()
    ] or None


def _write_descriptions(
    raw: Path, target: Path, dataset_json: Mapping[str, Any], cases: Mapping[str, CaseMetadata]
) -> str:
    """Description, patients, references and splits for training; a sentence on the splits."""
    write_json(target / "dataset.json", dataset_json)
    metadata = read_metadata(raw)  # order of labels and patients, for training elsewhere
    patient_of = patient_table(raw, cases)
    copies = same_scans({case: entry.scan for case, entry in cases.items()})
    if copies:  # no fold may train on a scan that it holds out
        patient_of |= {case: patient_of[first] for case, first in copies.items()}
        metadata = {**metadata, "patients": {**metadata.get("patients", {}), **patient_of}}
    if metadata:
        write_json(target / "gnnunet.json", metadata)
    labeled = {case: entry for case, entry in cases.items() if entry.role == "labeled"}
    _copy_references(target / "gt_segmentations", labeled)
    corrected = [case for case in metadata.get("corrected", {}) if case in labeled]
    patients = {case: patient_of[case] for case in labeled}
    splits = make_splits(patients, corrected=corrected)
    if splits:
        write_json(target / SPLITS, splits)
    else:
        (target / SPLITS).unlink(missing_ok=True)
    drawn = {case: patient for case, patient in patients.items() if case not in corrected}
    note = describe_splits(drawn, splits)
    more = f"; {counted(len(corrected), 'corrected case')} never held out" if corrected else ""
    return note + more


def class_table(dataset_json: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Class key to label ids, in the order of the network's foreground outputs.

    The key is the label id as text, or the region's name where the data set has regions.
    """
    labels = dataset_json["labels"]
    foreground = {name: labels[name] for name in labels if name not in ("background", "ignore")}
    if any(isinstance(value, (list, tuple)) for value in foreground.values()):
        return {
            name: tuple(int(v) for v in (value if isinstance(value, (list, tuple)) else [value]))
            for name, value in foreground.items()
        }
    return {str(i): (i,) for i in sorted(int(value) for value in foreground.values())}


def patient_table(raw: Path, cases: Mapping[str, Any] | Sequence[str]) -> dict[str, str]:
    """Patient of each case, from ``gnnunet.json``; a case without entry is its own patient."""
    known = read_metadata(raw).get("patients", {})
    return {case: known.get(case, case) for case in cases}


def _derive(fingerprint: Mapping[str, Any], slice_axis: int) -> dict[str, dict[str, Any]]:
    """Values of the recipe that are measured on the labeled cases, per configuration."""
    in_volume = one_component_classes(fingerprint, None)
    in_slices = one_component_classes(fingerprint, slice_axis)
    return {
        "2d": {"pseudo_label": {"largest_component": in_slices}},
        "3d_fullres": {"pseudo_label": {"largest_component": in_volume}},
        "3d_lowres": {"pseudo_label": {"largest_component": in_volume}},
    }


def _class_notes(
    plans: Mapping[str, Any],
    to_preprocess: Sequence[str],
    dataset_json: Mapping[str, Any],
    labeled: Mapping[str, CaseMetadata],
) -> list[str]:
    """Which classes no labeled case has, and which often have several components."""
    names = {str(value): name for name, value in dataset_json["labels"].items()}
    seen = {value for metadata in labeled.values() for value in metadata.classes}
    unseen = {key for key, ids in class_table(dataset_json).items() if seen.isdisjoint(ids)}
    listed = some(names.get(key, key) for key in sorted(unseen))
    notes = [f"no labeled case has {listed}: nothing trains it"] if unseen else []
    for configuration in to_preprocess:
        derived = plans["gnnunet"]["derived"][configuration]
        table = derived["pseudo_label"]["largest_component"]
        several = [
            names.get(key, key) for key, single in table.items() if not single and key not in unseen
        ]
        if several:
            notes.append(
                f"{configuration}: {', '.join(several)} often has several components; "
                "its pseudo-labels keep all of them"
            )
    return notes


def _copy_references(folder: Path, labeled: Mapping[str, CaseMetadata]) -> None:
    """Label maps for validation, where nnU-Net looks for them."""
    folder.mkdir(exist_ok=True)
    labels = [metadata.label for metadata in labeled.values() if metadata.label is not None]
    wanted = {label.name for label in labels}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    for label in labels:
        copy = folder / label.name
        if copy.is_file() and filecmp.cmp(label, copy, shallow=False):
            continue
        with atomic_path(copy) as temporary:
            shutil.copyfile(label, temporary)


def _choose_configurations(
    plans: Mapping[str, Any], wanted: Sequence[str] | None, planned: Any
) -> list[str]:
    available = list(plans["gnnunet"]["recipes"])
    if wanted is None:
        standard = [name for name in CONFIGURATIONS if name in available]
        wanted = [planned.configuration] if planned.configuration else standard
    unknown = [name for name in wanted if name not in available]
    if unknown:
        raise InputError(
            f"configuration {unknown[0]} was not planned",
            f"the plan has {', '.join(available)}",
            "Choose among them with -c",
        )
    return list(dict.fromkeys(wanted))


def _oversized(
    plans: Mapping[str, Any], configuration: str, cases: Mapping[str, CaseMetadata]
) -> list[Fault]:
    """Cases whose resampled size cannot be held in memory, mostly because of a wrong spacing."""
    limit = psutil.virtual_memory().total / 3  # float64 resampling works on one copy a channel
    faults = []
    for case, metadata in cases.items():
        shape = resampled_shape(plans, configuration, metadata)
        size = 8.0 * metadata.n_channels * math.prod(shape)
        if size > limit:
            spacing = "x".join(f"{s:g}" for s in metadata.spacing)
            edges = f"{'x'.join(map(str, shape))} voxels ({size / 2**30:.0f} GB)"
            cause = f"spacing {spacing} mm would make it {edges} in {configuration}"
            remedy = "Correct the spacing in the file's header, or give plan.spacing in a recipe"
            faults.append(Fault(case, "plan", cause, remedy, code="I49"))
    return faults


def _summary(plans: Mapping[str, Any], name: str, preprocessed: bool) -> ConfigurationSummary:
    configuration = resolved_configuration(plans, name)
    extension = plans["gnnunet"]
    batch = extension["recipes"][name]["batch"]
    return ConfigurationSummary(
        name,
        [float(s) for s in configuration["spacing"]],
        [int(i) for i in configuration["patch_size"]],
        (batch["labeled"], batch["unlabeled"]),
        int(configuration["architecture"]["arch_kwargs"]["n_stages"]),
        extension["memory_gb"].get(name, float("nan")),
        preprocessed,
    )
