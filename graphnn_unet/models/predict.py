"""Predict a folder of images, case by case: one bad image costs no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from graphnn_unet.data.paths import resolve_dataset, use_folders
from graphnn_unet.device import resolve_device
from graphnn_unet.errors import (
    CasesFailedError,
    Fault,
    FaultsError,
    InputError,
    MissingFileError,
)
from graphnn_unet.images.find import RAW_VOLUMES, safe_id, say_left_out
from graphnn_unet.images.flat_picture import RAW_ENDING, is_picture
from graphnn_unet.images.label_ids import as_user_has_them
from graphnn_unet.images.nifti_forms import NiftiForm, require_form
from graphnn_unet.models.choice import read_choice
from graphnn_unet.models.ensemble import require_alike
from graphnn_unet.models.find import find_model, model_of_record, require_model_folder
from graphnn_unet.models.inputs import InputCase, find_inputs
from graphnn_unet.models.load import name_of_file
from graphnn_unet.models.one_case import ModelOnDisk
from graphnn_unet.models.predict_cases import (
    Averaged,
    CaseByCase,
    Member,
    Options,
    record_of,
    set_aside,
    set_edited_aside,
    whole_cases,
)
from graphnn_unet.models.prediction_record import PredictionRecord
from graphnn_unet.models.voting_scans import find_voting_scans
from graphnn_unet.prediction.dicom_objects import require_writers
from graphnn_unet.prediction.label_tables import (
    ITKSNAP_TABLE,
    SLICER_TABLE,
    write_color_tables,
)
from graphnn_unet.prediction.predictor import Predictor
from graphnn_unet.prediction.segmentation_files import require_editable, write_for_editing
from graphnn_unet.prediction.write_case import KINDS, NIFTI, Outputs, label_colors
from graphnn_unet.progress import counted, say
from graphnn_unet.ranges import MAX_COUNT, MAX_WORKERS, require_count, require_number
from graphnn_unet.scan_graph.panel import Panel
from graphnn_unet.storage.atomic import (
    remove_leftovers,
    require_free_space,
    require_output_folder,
    write_json,
)
from graphnn_unet.storage.checkpoints import FINAL
from graphnn_unet.storage.failures import FAILURES, write_failures
from graphnn_unet.storage.locks import part_lock
from graphnn_unet.storage.processes import default_workers, run_elsewhere

_LEAST_ROOM = 2**20
"""With less, not even what is written beside the label maps fits: nothing is begun then."""


@dataclass(frozen=True)
class PredictionResult:
    """What ``predict`` did.

    Attributes:
        model: Folder of the model that was used, the first of several.
        predicted: Case ids predicted in this call.
        kept: Case ids whose label maps were there already.
        skipped: What of the input is no case.
        volumes_csv: Table of the classes' volumes.
        color_tables: Names and colors of the ids, for viewers; none of pictures.
    """

    model: Path
    predicted: list[str]
    kept: list[str]
    skipped: list[str] = field(default_factory=list)
    volumes_csv: Path | None = None
    color_tables: list[Path] = field(default_factory=list)


class CasesNotPredictedError(CasesFailedError):
    """Some cases failed; ``result`` tells of the others, ``n_cases`` how many there were."""

    def __init__(self, faults: Sequence[Fault], result: PredictionResult, n_cases: int):
        self.result, self.n_cases = result, n_cases
        super().__init__(faults)


def predict(
    input: Path | str,  # the command's own words
    output: Path | str,
    *,
    model: Path | str | Sequence[Path | str] | None = None,
    dataset: str | None = None,
    trainer: str | None = None,
    configuration: str | None = None,
    plans: str | None = None,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = FINAL,
    save_probabilities: bool = False,
    uncertainty: bool = False,
    continue_prediction: bool = False,
    mirroring: bool = True,
    step_size: float = 0.5,
    nifti_form: NiftiForm | None = None,
    memory_budget_gb: float | None = None,
    num_parts: int = 1,
    part_id: int = 0,
    device: str = "auto",
    n_workers: int | None = None,
    scan_graph: bool = False,
    scan_graph_blend: float | None = None,
    scan_graph_cache: Path | str | None = None,
    for_editing: bool = False,
    output_types: Sequence[str] = (NIFTI,),
) -> PredictionResult:
    """Predict all cases of a file or folder; label maps carry the names of the input.

    ``prediction.json`` says of which image and which model each label map of the folder is. Label
    maps that were edited since they were written, and older ones of cases that fail, are moved to
    ``set_aside`` before new ones are written. ``volumes.csv`` has voxels and
    ml of each class; ``labels.ctbl`` and ``labels_itksnap.txt`` show 3D Slicer and ITK-SNAP its
    name and color.

    Args:
        input: What ``gnnunet_convert`` takes: a volume, a folder of them (one file a case, or
            ``CASE_0000.nii.gz`` and so on, one a channel), one folder a patient, or a file or
            folder of DICOM series; for models of pictures, PNG, JPEG, TIFF or BMP of any name.
        output: Folder for label maps; made where it is missing, not the input folder.
        model: Model folder, or several, whose probabilities are averaged; or give ``dataset``
            and, where several fit, ``trainer``, ``configuration`` and ``plans``. Without both, the
            training that finished last where all are of one data set; to continue, the model of
            the label maps that are there.
        dataset: Name or id of the data set whose model is used.
        trainer: Trainer of the model; ``path/to/file.py:ClassName`` for a trainer of one's own.
        configuration: Configuration of the model.
        plans: Plans of the model.
        folds: Folds to average; default all there are.
        checkpoint: File name of the checkpoint in each fold.
        save_probabilities: Also ``CASE.npz`` with ``probabilities`` (k, z, y, x) and ``CASE.pkl``,
            as ``nnUNetv2_ensemble`` reads them.
        uncertainty: Also ``CASE_uncertainty.nii.gz``, the normalized entropy.
        continue_prediction: Keep label maps that are whole, of the same image (by size and CRC-32),
            and of the same weights, plan and options; redo the rest.
        mirroring: Average over mirrored copies.
        step_size: Step of the sliding window as a share of the patch.
        nifti_form: ``sform`` or ``qform``: what is taken where the two disagree in an image's
            header; without it such images are refused. Label maps get both as the image has them.
        memory_budget_gb: Memory one export may take; default 80 % of what is free.
        num_parts: Share the cases among this many calls ...
        part_id: ... of which this is one, from 0.
        device: As ``-device``.
        n_workers: Processes for preprocessing and for export; default 0 (a thread each) on a CPU,
            which the network keeps busy itself, and 2 beside a GPU.
        scan_graph: Register the labeled scans of the training to each image, let them vote on its
            labels, and blend the votes with the network's probabilities. The scans are read where
            they were preprocessed, or in a model that ``export`` wrote with ``scan_graph``.
        scan_graph_blend: Share of the vote, 0 to 1; default ``scan_graph.blend`` of the model's
            recipe.
        scan_graph_cache: Folder of votes by content: models that have the same labeled scans take
            them from there. Default keeps none.
        for_editing: Also ``for_editing/CASE.seg.nrrd``, which 3D Slicer opens with names and colors
            of the segments; ``add_corrected`` takes what was edited.
        output_types: Of ``nifti`` (a label map in the model's kind of file), ``dicom_seg`` and
            ``dicom_rtstruct`` (``CASE_seg.dcm``, ``CASE_rtstruct.dcm``; of DICOM series alone, to
            whose images they refer; needs the extra ``dicom``).

    Raises:
        CasesNotPredictedError: Some failed; the others are written, ``failures.csv`` says why.
        FaultsError: All cases failed.
        NoSpaceError: The disk of the output folder is full.
        RefusedError: The output folder is the input folder, or holds label maps of another model
            or other options that would stay, as their cases are not among the inputs.
        MissingFileError, InputError: No model, no images.
    """
    require_count("num_parts", num_parts, 1)
    require_count("part_id", part_id)
    require_count("n_workers", n_workers, 0, MAX_WORKERS)
    require_number("step_size", step_size, 0, 1, above=True)
    require_number("memory_budget_gb", memory_budget_gb, 0, MAX_COUNT, above=True)
    require_number("scan_graph_blend", scan_graph_blend, 0, 1)
    for name, value in (("blend", scan_graph_blend), ("cache", scan_graph_cache)):
        if value is not None and not scan_graph:
            what = f"scan_graph_{name} acts with scan_graph alone"
            raise InputError(what, "", "Give both or neither")
    source, target = Path(input), Path(output)
    _refuse_bad_arguments(source, target, num_parts, part_id)
    require_form(nifti_form)
    kinds = _kinds(output_types)
    trainer_file = trainer if trainer is not None and ".py:" in trainer else None
    if trainer_file is not None:
        trainer = name_of_file(trainer_file)
    choice, told = None, ""
    if dataset is not None and not (model or trainer or configuration or plans):
        choice = read_choice(use_folders().results / resolve_dataset(dataset))
    if choice is not None:
        model_folders, told = list(choice.models), "  (chosen by gnnunet_choose)"
    elif model:
        model_folders = [Path(m) for m in ([model] if isinstance(model, (str, Path)) else model)]
    elif (
        continue_prediction
        and dataset is None
        and (before := model_of_record(target, trainer, configuration, plans))
    ):
        model_folders, told = before, f"  (that of the label maps in {target})"
    else:
        model_folders = [find_model(dataset, trainer, configuration, plans)]
    for folder in model_folders:
        require_model_folder(folder)
    # the network then runs on workers, and this machine may lack their device
    torch_device = resolve_device("cpu" if run_elsewhere() else device)
    where = "of the workers" if run_elsewhere() else torch_device
    say(f"model: {', '.join(map(str, model_folders))}{told}  device: {where}")
    on_disk = [
        ModelOnDisk(folder, folds, checkpoint, step_size, mirroring, trainer_file)
        for folder in model_folders
    ]
    predictors = [model_on_disk.load(torch_device) for model_on_disk in on_disk]
    require_alike(predictors)
    predictor = predictors[0]
    outputs = Outputs(
        predictor.dataset_json["file_ending"],
        save_probabilities,
        uncertainty,
        label_colors(predictor.dataset_json),
        choice.ids(predictor.dataset_json["labels"]) if choice else (),
        kinds,
        predictor.settings["weights"],
    )
    if for_editing:
        require_editable(outputs, num_parts)
    members: list[Member] = []
    for model_on_disk, loaded in zip(on_disk, predictors, strict=True):
        _refuse_unsupported(loaded, outputs)
        panel = _panel(loaded, scan_graph_blend, scan_graph_cache) if scan_graph else None
        members.append(Member(model_on_disk, loaded, panel))
    ending = outputs.ending
    inputs = find_inputs(source, predictor.channel_names, target, ending)
    if outputs.dicom_kinds:
        inputs.require_series(source, outputs.dicom_kinds)
        if len(members) > 1:
            raise InputError(
                f"{', '.join(outputs.dicom_kinds)} of averaged models cannot be written",
                "", "Predict with one model, or take --output-type nifti",
            )  # fmt: skip
    say_left_out(source, inputs.left_out)
    for note in inputs.notes:
        say(f"note: {note}")
    mine = dict(sorted(inputs.cases.items())[part_id::num_parts])
    if n_workers is None:
        n_workers = 2 if torch_device.type == "cuda" else 0
    options = Options(nifti_form, device, memory_budget_gb, n_workers)
    part = part_id if num_parts > 1 else None
    with part_lock(target, part, "gnnunet_predict"):
        if part is None:
            remove_leftovers(target)
        record = record_of(target, members, nifti_form, part, outputs)
        faulty = {fault.case for fault in inputs.faults}
        stems = {case.output for case in inputs.cases.values()}
        record.require_no_strangers(outputs.endings, stems, faulty)
        _write_description(target, predictor, outputs)
        record.begin()
        if part_id == 0:
            inputs.write_names(target, outputs.endings[0])
            stems = [
                path.name.removesuffix(kind)
                for kind in outputs.endings
                for path in sorted(target.glob(f"*{kind}"))
            ]
            names = [name for name in dict.fromkeys(stems) if safe_id(name) in faulty]
            set_aside(record, names, outputs)
        kept = whole_cases(mine, record, outputs, nifti_form) if continue_prediction else []
        todo = {case: wanted for case, wanted in mine.items() if case not in kept}
        set_edited_aside(record, [case.output for case in todo.values()], outputs)
        _set_other_kinds_aside(todo, record, outputs)
        work = (
            CaseByCase(members[0], outputs, record, options)
            if len(members) == 1
            else Averaged(members, outputs, record, options)
        )
        done, failed = work.run(todo)
        if for_editing:
            stems = [mine[case].output for case in (*done, *kept)]
            write_for_editing(target, stems, ending, predictor.dataset_json, outputs.colors)
    if part_id == 0:  # what no part can predict is told once
        failed = inputs.faults + failed
    table = FAILURES if num_parts == 1 else f"failures_part{part_id}.csv"
    write_failures(target / table, failed)
    if failed and not (done or kept):
        raise FaultsError(failed)
    tables = [target / name for name in (SLICER_TABLE, ITKSNAP_TABLE)]
    result = PredictionResult(
        model_folders[0], done, kept, [name for name, _ in inputs.left_out], work.volumes_csv,
        [] if is_picture(ending) else tables,
    )  # fmt: skip
    if failed:
        n_failed = len({fault.case for fault in failed})
        raise CasesNotPredictedError(failed, result, len(done) + len(kept) + n_failed)
    return result


def _kinds(output_types: Sequence[str]) -> tuple[str, ...]:
    """Kinds of output in the order of ``KINDS``."""
    given = [output_types] if isinstance(output_types, str) else list(output_types)
    if strange := [str(kind) for kind in given if kind not in KINDS]:
        raise InputError(f"there is no output type {strange[0]!r}", f"they are {', '.join(KINDS)}")
    if not given:
        raise InputError("no output type is given", f"they are {', '.join(KINDS)}")
    if set(given) != {NIFTI}:
        require_writers()
    return tuple(kind for kind in KINDS if kind in given)


def _refuse_bad_arguments(source: Path, target: Path, num_parts: int, part_id: int) -> None:
    if not source.exists():
        raise MissingFileError(f"input {source} is missing", "", "Give a file or folder with -i")
    require_output_folder(source if source.is_dir() else source.parent, target)
    require_free_space(target, _LEAST_ROOM, "label maps")
    if not 0 <= part_id < num_parts:
        raise InputError(
            f"-part_id {part_id} does not fit -num_parts {num_parts}", "parts count from 0"
        )


def _refuse_unsupported(predictor: Predictor, outputs: Outputs) -> None:
    """Models that this program cannot serve, before any work."""
    if predictor.configuration.previous_stage_name is not None:
        raise InputError(
            f"{predictor.folder} is the second stage of a cascade",
            "it needs the first stage's predictions",
            "Use nnUNetv2_predict with -prev_stage_predictions",
        )
    if outputs.ending not in (*RAW_VOLUMES, RAW_ENDING):
        raise InputError(
            f"the model reads *{outputs.ending} files",
            f"only {', '.join(RAW_VOLUMES)} can be checked",
            "Predict with nnUNetv2_predict_from_modelfolder",
        )
    reader = predictor.plans.plans["image_reader_writer"]
    if outputs.uncertainty and reader != "SimpleITKIO" and not is_picture(outputs.ending):
        raise InputError(
            f"--uncertainty is not possible with {predictor.folder}",
            f"its images are read with {reader}, whose geometry would be lost",
            "Use --save_probabilities",
        )


def _panel(predictor: Predictor, blend: float | None, cache: Path | str | None) -> Panel:
    """The labeled scans of the model that vote, and how."""
    voting = find_voting_scans(
        cast(Path, predictor.folder), predictor.settings["folds"], predictor.settings["checkpoint"]
    )
    panel = voting.panel.blending(blend).keeping(None if cache is None else Path(cache).absolute())
    count = len(panel.labeled)
    limit = panel.settings.neighbors
    most = f", the {limit} most alike ones on each image" if count > limit else ""
    say(
        f"graph of scans: {count} labeled scans vote{most}, blend {panel.settings.blend:g} "
        f"({voting.source})"
    )
    return panel.ready(max(1, default_workers(count)))


def _write_description(target: Path, predictor: Predictor, outputs: Outputs) -> None:
    """What nnU-Net's tools, the evaluation and viewers want to know about the label maps."""
    write_json(target / "dataset.json", as_user_has_them(predictor.dataset_json))
    write_json(target / "plans.json", predictor.plans.plans)
    if not is_picture(outputs.ending):  # pictures carry their palette
        write_color_tables(target, predictor.dataset_json, outputs.colors)


def _set_other_kinds_aside(
    cases: Mapping[str, InputCase], record: PredictionRecord, outputs: Outputs
) -> None:
    """What this call does not write must not stay beside it where it shows another prediction."""
    endings = (*outputs.endings[len(outputs.kinds) :], *outputs.endings_left_out)
    there = [
        case
        for case in cases.values()
        if any((record.folder / f"{case.output}{ending}").is_file() for ending in endings)
    ]
    names = [case.output for case in there if record.why_again(case.output, case.files)]
    count, place = record.set_aside(names, endings)
    if count:
        say(
            f"files of {counted(count, 'case')} of another model, image or other options, of "
            f"types that are not written now, were moved to {place}"
        )
