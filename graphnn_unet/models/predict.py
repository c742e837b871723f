"""Predict a folder of images, case by case: one bad image costs no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil
import torch

from graphnn_unet.device import resolve_device
from graphnn_unet.errors import (
    CasesFailedError,
    Fault,
    FaultsError,
    InputError,
    MissingFileError,
    RefusedError,
)
from graphnn_unet.images.find import RAW_VOLUMES, say_left_out
from graphnn_unet.images.flat_picture import RAW_ENDING, is_picture
from graphnn_unet.images.label_ids import as_user_has_them
from graphnn_unet.images.nifti_forms import NiftiForm, require_form
from graphnn_unet.images.orientation import TURNED
from graphnn_unet.models.cases import (
    CHECK_STAGE,
    Prepared,
    PrepareJob,
    is_whole,
    prepare_case,
)
from graphnn_unet.models.find import find_model
from graphnn_unet.models.inputs import InputCase, find_inputs
from graphnn_unet.models.load import load_predictor
from graphnn_unet.prediction.export_logits import export_gb
from graphnn_unet.prediction.predictor import Predictor
from graphnn_unet.prediction.write_case import ExportJob, Outputs, export_case, label_colors
from graphnn_unet.progress import Progress, say
from graphnn_unet.ranges import MAX_COUNT, MAX_WORKERS, require_count, require_number
from graphnn_unet.storage.atomic import (
    remove_leftovers,
    require_output_folder,
    write_json,
)
from graphnn_unet.storage.checkpoints import FINAL
from graphnn_unet.storage.failures import FAILURES, write_failures
from graphnn_unet.storage.locks import folder_lock
from graphnn_unet.storage.processes import Outcome, run_jobs
from graphnn_unet.storage.safe_load import read_table
from graphnn_unet.trainers.registry import trainer_class

_log = logging.getLogger(__name__)
T = TypeVar("T")
_FACTS = "prediction.json"


@dataclass(frozen=True)
class PredictionResult:
    """What ``predict`` did.

    Attributes:
        model: Folder of the model that was used.
        predicted: Case ids predicted in this call.
        kept: Case ids whose label maps were there already.
        skipped: What of the input is no case.
    """

    model: Path
    predicted: list[str]
    kept: list[str]
    skipped: list[str] = field(default_factory=list)


def predict(
    input: Path | str,  # the command's own words
    output: Path | str,
    *,
    model: Path | str | None = None,
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
) -> PredictionResult:
    """Predict all cases of a file or folder; label maps carry the names of the input.

    Args:
        input: What ``gnnunet_convert`` takes: a volume, a folder of them (one file a case, or
            ``CASE_0000.nii.gz`` and so on, one a channel), one folder a patient, or a file or
            folder of DICOM series; for models of pictures, PNG, JPEG, TIFF or BMP of any name.
        output: Folder for label maps; made where it is missing, not the input folder.
        model: Model folder; or give ``dataset`` and, where several fit, ``trainer``,
            ``configuration`` and ``plans``; by default the training that finished last.
        dataset: Name or id of the data set whose model is used.
        trainer: Trainer of the model; ``path/to/file.py:ClassName`` for a trainer of one's own.
        configuration: Configuration of the model.
        plans: Plans of the model.
        folds: Folds to average; default all there are.
        checkpoint: File name of the checkpoint in each fold.
        save_probabilities: Also ``CASE.npz`` with ``probabilities`` (k, z, y, x) and ``CASE.pkl``,
            as ``nnUNetv2_ensemble`` reads them.
        uncertainty: Also ``CASE_uncertainty.nii.gz``, the normalized entropy.
        continue_prediction: Keep whole label maps that are there; redo the rest.
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

    Raises:
        CasesFailedError: Some cases failed; the others are written, ``failures.csv`` says why.
        FaultsError: All cases failed.
        RefusedError: The output folder is the input folder, or holds label maps of another model.
        MissingFileError, InputError: No model, no images.
    """
    require_count("num_parts", num_parts, 1)
    require_count("part_id", part_id)
    require_count("n_workers", n_workers, 0, MAX_WORKERS)
    require_number("step_size", step_size, 0, 1, above=True)
    require_number("memory_budget_gb", memory_budget_gb, 0, MAX_COUNT, above=True)
    source, target = Path(input), Path(output)
    _refuse_bad_arguments(source, target, num_parts, part_id)
    require_form(nifti_form)
    if trainer is not None and ".py:" in trainer:
        trainer = trainer_class(trainer).__name__
    model_folder = (
        Path(model) if model is not None else find_model(dataset, trainer, configuration, plans)
    )
    if not model_folder.is_dir():
        raise MissingFileError(f"model folder {model_folder} is missing")
    torch_device = resolve_device(device)
    say(f"model: {model_folder}  device: {torch_device}")
    predictor = load_predictor(
        model_folder, folds=folds, checkpoint=checkpoint, device=torch_device, step_size=step_size,
        mirroring=mirroring,
    )  # fmt: skip
    outputs = Outputs(
        predictor.dataset_json["file_ending"],
        save_probabilities,
        uncertainty,
        label_colors(predictor.dataset_json),
    )
    _refuse_unsupported(predictor, outputs)
    inputs = find_inputs(source, predictor.channel_names, target, outputs.ending)
    say_left_out(source, inputs.left_out)
    for note in inputs.notes:
        say(f"note: {note}")
    mine = dict(sorted(inputs.cases.items())[part_id::num_parts])
    if memory_budget_gb is None:
        memory_budget_gb = 0.8 * psutil.virtual_memory().available / 2**30
    if n_workers is None:
        n_workers = 2 if torch_device.type == "cuda" else 0
    with folder_lock(target / f".part{part_id}" if num_parts > 1 else target, "gnnunet_predict"):
        if num_parts == 1:
            remove_leftovers(target)
        _write_facts(target, predictor, continue_prediction, nifti_form)
        if part_id == 0:
            inputs.write_names(target, outputs.ending)
        kept = [
            case
            for case, entry in mine.items()
            if continue_prediction
            and is_whole(target, entry.output, entry.sources[0], outputs, nifti_form)
        ]
        work = _Work(predictor, outputs, target, n_workers, memory_budget_gb, nifti_form)
        done, failed = work.run({case: i for case, i in mine.items() if case not in kept})
    if part_id == 0:  # what no part can predict is told once
        failed = inputs.faults + failed
    table = FAILURES if num_parts == 1 else f"failures_part{part_id}.csv"
    write_failures(target / table, failed)
    if failed:
        raise (CasesFailedError if done or kept else FaultsError)(failed)
    return PredictionResult(model_folder, done, kept, [name for name, _ in inputs.left_out])


def _refuse_bad_arguments(source: Path, target: Path, num_parts: int, part_id: int) -> None:
    if not source.exists():
        raise MissingFileError(f"input {source} is missing", "", "Give a file or folder with -i")
    require_output_folder(source if source.is_dir() else source.parent, target)
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


class _Work:
    """Preprocess, predict and export, each one case ahead of the next stage.

    The network runs in this thread, so that an interrupt reaches it at once.
    """

    def __init__(
        self,
        predictor: Predictor,
        outputs: Outputs,
        target: Path,
        n_workers: int,
        memory_budget_gb: float,
        nifti_form: NiftiForm | None = None,
    ):
        self.nifti_form: NiftiForm | None = nifti_form
        self.predictor, self.outputs, self.target = predictor, outputs, target
        self.n_workers, self.memory_budget_gb = n_workers, memory_budget_gb
        self.output_of: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.turned: dict[tuple[str, str], int] = {}

    def run(self, cases: dict[str, InputCase]) -> tuple[list[str], list[Fault]]:
        """Predict ``cases``; return those done and the faults of the others.

        Raises:
            KeyboardInterrupt: Interrupted; the message says how to go on.
        """
        try:
            return self._run(cases), self.faults
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(
                f"the label maps in {self.target} are whole. Go on with the same command and "
                "--continue_prediction"
            ) from interrupt

    def _run(self, cases: dict[str, InputCase]) -> list[str]:
        done: list[str] = []
        case_of = {wanted.output: case for case, wanted in cases.items()}
        self.output_of = {case: wanted.output for case, wanted in cases.items()}
        with Progress(len(cases), "predict") as progress:
            jobs = self._predicted(cases, progress)
            exports = (
                run_jobs(export_case, jobs, n_workers=self.n_workers)
                if self.n_workers
                else overlap(export_case, jobs)
            )
            for outcome in exports:
                case = case_of[outcome.job.case]
                if outcome.ok:
                    done.append(case)
                else:
                    self._fail(case, "export", outcome.error, details=outcome.details)
                progress.update(case)
        for (stored, wanted), n_cases in self.turned.items():
            say(
                f"{n_cases} images stored as {stored} were turned to {wanted}, as the training "
                f"scans are stored, and their label maps back"
            )
        return sorted(done)

    def _predicted(self, cases: dict[str, InputCase], progress: Progress) -> Iterator[ExportJob]:
        model = self.predictor
        jobs = (
            PrepareJob(
                case, wanted.sources, str(self.target), model.plans.plans,
                model.configuration_name, model.dataset_json, self.nifti_form,
            )
            for case, wanted in cases.items()
        )  # fmt: skip
        for outcome in prefetch(run_jobs(prepare_case, jobs, n_workers=self.n_workers)):
            export = self._predict_one(outcome)
            if export is None:
                progress.update(outcome.job.case)
            else:
                yield export

    def _predict_one(self, outcome: Outcome) -> ExportJob | None:
        """The case behind the network; ``None`` after noting why it failed."""
        case = outcome.job.case
        if not outcome.ok:
            self._fail(case, "preprocess", outcome.error, details=outcome.details)
            return None
        prepared: Prepared = outcome.value
        for fault in prepared.faults:
            if fault.severity == "error":
                self._fail(case, CHECK_STAGE, fault.cause, fault.remedy)
            else:
                say(f"warning: {fault.line}")
        if prepared.data is None or not self._fits_memory(case, prepared):
            return None
        if turn := prepared.properties.get(TURNED):
            self.turned[turn] = self.turned.get(turn, 0) + 1
        try:
            logits = self.predictor.logits(torch.from_numpy(prepared.data)).numpy()
        except (RuntimeError, InputError, MemoryError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._fail(case, "predict", lines[0])
            return None
        model = self.predictor
        return ExportJob(
            self.output_of[case], logits, prepared.properties, str(self.target), model.plans.plans,
            model.configuration_name, model.dataset_json, self.outputs,
        )  # fmt: skip

    def _fits_memory(self, case: str, prepared: Prepared) -> bool:
        model = self.predictor
        needed = export_gb(
            prepared.properties,
            prepared.data.shape[1:],  # pyright: ignore[reportOptionalMemberAccess]  # caller has looked
            model.plans,
            model.configuration,
            model.label_manager.num_segmentation_heads,
            with_probabilities=self.outputs.probabilities,
            with_entropy=self.outputs.uncertainty,
        )
        if needed <= self.memory_budget_gb:
            return True
        self._fail(
            case, "predict",
            f"its prediction needs {needed:.2g} GB of memory, the budget is "
            f"{self.memory_budget_gb:.2g} GB",
            "Give more with --memory-budget"
            + (", or leave --save_probabilities out" if self.outputs.probabilities else ""),
        )  # fmt: skip
        return False

    def _fail(self, case: str, stage: str, cause: str, remedy: str = "", details: str = "") -> None:
        remedy = remedy or "Fix or remove the image, then run again with --continue_prediction"
        self.faults.append(Fault(case, stage, cause.rstrip("."), remedy))
        if details:
            _log.debug("%s: %s", case, details)


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Draw from ``items`` in a thread, one ahead of the consumer."""
    iterator, end = iter(items), cast(T, object())
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, iterator, end)
        while (item := upcoming.result()) is not end:
            upcoming = thread.submit(next, iterator, end)
            yield item


def overlap(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Outcome]:
    """Apply ``function`` to each job in a thread while the next job is drawn in this one."""
    with ThreadPoolExecutor(1) as thread:
        pending = None
        for job in jobs:
            if pending is not None:
                yield pending.result()
            pending = thread.submit(lambda job: next(run_jobs(function, [job], n_workers=0)), job)
        if pending is not None:
            yield pending.result()


def _write_facts(
    target: Path, predictor: Predictor, continue_prediction: bool, nifti_form: NiftiForm | None
) -> None:
    """What nnU-Net's tools and the evaluation want to know about the label maps.

    Raises:
        RefusedError: To be continued, but the label maps there are of another model.
    """
    facts = {
        "schema_version": 1,
        "dataset": predictor.plans.dataset_name,
        "model": predictor.folder.resolve().name,  # pyright: ignore[reportOptionalMemberAccess]  # of a folder
        "trainer": predictor.trainer_name,
        "configuration": predictor.configuration_name,
        **predictor.settings,
        **({"nifti_form": nifti_form} if nifti_form else {}),
    }
    path = target / _FACTS
    if continue_prediction and path.is_file():
        before = read_table(path)
        changed = [key for key, value in facts.items() if before.get(key) != value]
        if changed:
            difference = ", ".join(
                f"{key} {before.get(key)} there, {facts[key]} here" for key in changed
            )
            raise RefusedError(
                f"{target} holds label maps that were predicted in another way", difference,
                "Give another folder with -o, or leave --continue_prediction out",
            )  # fmt: skip
    write_json(target / "dataset.json", as_user_has_them(predictor.dataset_json))
    write_json(target / "plans.json", predictor.plans.plans)
    write_json(path, facts)
