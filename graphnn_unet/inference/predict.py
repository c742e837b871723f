"""Predict a folder of images, case by case: one bad image costs no other."""

from __future__ import annotations

import queue
import re
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil

from graphnn_unet.data.check import check_case_images, group_case_files
from graphnn_unet.data.plan_and_preprocess import FAILURE_COLUMNS
from graphnn_unet.device import resolve_device
from graphnn_unet.errors import (
    CasesFailedError,
    Fault,
    FaultsError,
    InputError,
    MissingFileError,
    RefusedError,
)
from graphnn_unet.inference.export_logits import BYTES_PER_VOXEL, logits_to_labels
from graphnn_unet.inference.model import FINAL_CHECKPOINT, Predictor, find_model
from graphnn_unet.progress import Progress, say
from graphnn_unet.storage.atomic import atomic_path, remove_leftovers, write_csv, write_json
from graphnn_unet.storage.locks import folder_lock
from graphnn_unet.storage.processes import run_jobs
from graphnn_unet.storage.safe_load import check_case_id

T = TypeVar("T")
_CHANNEL = re.compile(r"_\d{4}$")


@dataclass(frozen=True)
class PredictionResult:
    """What ``predict`` did.

    Attributes:
        model: Folder of the model that was used.
        predicted: Case ids predicted in this call.
        kept: Case ids whose label maps were there already.
        skipped: Files of the input folder that are no cases.
    """

    model: Path
    predicted: list[str]
    kept: list[str]
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Options:
    ending: str
    save_probabilities: bool
    save_uncertainty: bool
    memory_budget_gb: float


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
    checkpoint: str = FINAL_CHECKPOINT,
    save_probabilities: bool = False,
    uncertainty: bool = False,
    continue_prediction: bool = False,
    mirroring: bool = True,
    step_size: float = 0.5,
    memory_budget_gb: float | None = None,
    num_parts: int = 1,
    part_id: int = 0,
    device: str = "auto",
    n_workers: int | None = None,
) -> PredictionResult:
    """Predict all cases of a folder.

    Args:
        input: Folder of images named ``CASE_0000.nii.gz`` (one file a channel) or, for models with
            one channel, ``CASE.nii.gz``.
        output: Folder for label maps; made where it is missing, not the input folder.
        model: Model folder; or give ``dataset`` and, where several fit, ``trainer``,
            ``configuration`` and ``plans``; by default the training that finished last.
        folds: Folds to average; default all there are.
        checkpoint: File name of the checkpoint in each fold.
        save_probabilities: Also ``CASE.npz`` with ``probabilities`` (k, z, y, x).
        uncertainty: Also ``CASE_uncertainty.nii.gz``, the normalised entropy.
        continue_prediction: Keep whole label maps that are there; redo the rest.
        mirroring: Average over mirrored copies.
        step_size: Step of the sliding window as a share of the patch.
        memory_budget_gb: Memory one export may take; default 80 % of what is free.
        num_parts: Share the cases among this many calls ...
        part_id: ... of which this is one, from 0.
        device: As ``-device``.
        n_workers: Processes for preprocessing and for export; default 0 (threads) on a CPU, which
            the network keeps busy itself, and 2 beside a GPU.

    Raises:
        CasesFailedError: Some cases failed; the others are written, ``failures.csv`` says why.
        RefusedError: The output folder is the input folder.
        MissingFileError, InputError: No model, no images.
    """
    source, target = Path(input), Path(output)
    _refuse_bad_folders(source, target, num_parts, part_id)
    found = Path(model) if model is not None else find_model(dataset, trainer, configuration, plans)
    if not found.is_dir():
        raise MissingFileError(f"model folder {found} is missing")
    chosen = resolve_device(device)
    say(f"model: {found}  device: {chosen}")
    predictor = Predictor.from_folder(
        found, folds=folds, checkpoint=checkpoint, device=chosen, step_size=step_size,
        mirroring=mirroring,
    )  # fmt: skip
    if predictor.configuration.previous_stage_name is not None:
        raise InputError(
            f"{found.name} is the second stage of a cascade",
            "it needs the first stage's predictions",
            "Use nnUNetv2_predict with -prev_stage_predictions",
        )
    ending = predictor.dataset_json["file_ending"]
    cases, failures, skipped = find_cases(source, ending, predictor.n_channels)
    for name in skipped:
        say(f"skipped: {name} (not named CASE_0000{ending})")
    mine = dict(sorted(cases.items())[part_id::num_parts])
    budget = memory_budget_gb or 0.8 * psutil.virtual_memory().available / 2**30
    options = _Options(ending, save_probabilities, uncertainty, budget)
    if n_workers is None:
        n_workers = 2 if chosen.type == "cuda" else 0
    with folder_lock(target / f".part{part_id}" if num_parts > 1 else target, "gnnunet_predict"):
        if num_parts == 1:
            remove_leftovers(target)
        kept = [
            case
            for case, files in mine.items()
            if continue_prediction and _is_whole(target, case, files[0], options)
        ]
        work = _Work(predictor, options, target, n_workers)
        done, failed = work.run({case: f for case, f in mine.items() if case not in kept})
        _write_facts(target, predictor, found)
    failures += failed
    _write_failures(target, failures, part_id if num_parts > 1 else None)
    if failures:
        raise (CasesFailedError if done or kept else FaultsError)(failures)
    return PredictionResult(found, done, kept, skipped)


def _refuse_bad_folders(source: Path, target: Path, num_parts: int, part_id: int) -> None:
    if not source.is_dir():
        raise MissingFileError(f"input folder {source} is missing", "", "Give a folder with -i")
    if target.exists() and source.resolve() == target.resolve():
        raise RefusedError(
            f"input and output are both {source}",
            "label maps would be taken for images the next time",
            "Give another folder with -o",
        )
    if not 0 <= part_id < num_parts:
        raise InputError(
            f"-part_id {part_id} does not fit -num_parts {num_parts}", "parts count from 0"
        )


def find_cases(
    folder: Path, ending: str, n_channels: int
) -> tuple[dict[str, list[Path]], list[Fault], list[str]]:
    """Images of a folder by case.

    Files are named ``CASE_0000.nii.gz``, one a channel; where no file is and the model has one
    channel, plain names are cases.

    Returns:
        Cases, faults of cases that lack a channel, and names of files that are no cases.

    Raises:
        InputError: No images.
    """
    names = [p.name for p in folder.iterdir() if p.name.endswith(ending) and p.is_file()]
    names = [name for name in names if not name.startswith(".")]
    numbered = [n for n in names if _CHANNEL.search(n.removesuffix(ending))]
    if not names:
        others = sorted({"".join(p.suffixes[-2:]) for p in folder.iterdir() if p.is_file()})
        raise InputError(
            f"no input images in {folder}",
            f"the model reads *{ending}; found: {', '.join(filter(None, others)) or 'nothing'}",
            "Give the folder with -i",
        )
    if not numbered and n_channels == 1:
        stems = {check_case_id(n.removesuffix(ending), str(folder)): n for n in sorted(names)}
        return {case: [folder / name] for case, name in stems.items()}, [], []
    cases, faults = group_case_files(folder, ending, n_channels)
    failures = [f for f in faults if f.severity == "error" and f.code != "I33"]
    return cases, failures, sorted(set(names) - set(numbered))


@dataclass(frozen=True)
class _Preprocess:
    case: str
    files: tuple[str, ...]
    plans: dict
    configuration: str
    dataset_json: dict


@dataclass(frozen=True)
class _Export:
    case: str
    logits: np.ndarray
    properties: dict
    target: str
    plans: dict
    configuration: str
    dataset_json: dict
    options: _Options


class _Work:
    """Preprocess, predict and export, overlapping where that helps."""

    def __init__(self, predictor: Predictor, options: _Options, target: Path, n_workers: int):
        self.predictor, self.options, self.target = predictor, options, target
        self.n_workers = n_workers
        self.faults: list[Fault] = []

    def run(self, cases: dict[str, list[Path]]) -> tuple[list[str], list[Fault]]:
        """Predict ``cases``; return those done and the faults of the others."""
        done: list[str] = []
        with Progress(len(cases), "predict") as progress:
            exports = run_jobs(_export, self._predicted(cases, progress), n_workers=self.n_workers)
            if self.n_workers == 0:
                exports = ahead(exports)
            for outcome in exports:
                case = outcome.job.case
                if outcome.ok:
                    done.append(case)
                else:
                    self._fail(case, "export", outcome.error)
                progress.update(case)
        return sorted(done), self.faults

    def _predicted(self, cases: dict[str, list[Path]], progress: Progress) -> Iterator[_Export]:
        jobs = [self._preprocess_job(case, files) for case, files in cases.items()]
        prepared = run_jobs(_preprocess, jobs, n_workers=self.n_workers)
        for outcome in ahead(prepared):
            case = outcome.job.case
            if not outcome.ok:
                self._fail(case, "preprocess", outcome.error)
                progress.update(case)
                continue
            export = self._predict_one(case, *outcome.value)
            if export is None:
                progress.update(case)
                continue
            yield export

    def _predict_one(self, case: str, data: np.ndarray, properties: dict) -> _Export | None:
        import torch

        needed = _export_gb(properties, self.predictor, self.options)
        if needed > self.options.memory_budget_gb:
            self._fail(
                case, "export",
                f"its label map needs {needed:.1f} GB of memory, the budget is "
                f"{self.options.memory_budget_gb:.1f} GB",
                "Give more with --memory-budget, or leave --save_probabilities out",
            )  # fmt: skip
            return None
        try:
            logits = self.predictor.logits(torch.from_numpy(data)).numpy()
        except (RuntimeError, InputError, MemoryError) as error:
            self._fail(case, "predict", str(error).splitlines()[0])
            return None
        model = self.predictor
        return _Export(
            case, logits, properties, str(self.target), model.plans.plans,
            model.configuration_name, model.dataset_json, self.options,
        )  # fmt: skip

    def _preprocess_job(self, case: str, files: list[Path]) -> _Preprocess:
        model = self.predictor
        return _Preprocess(
            case, tuple(map(str, files)), model.plans.plans, model.configuration_name,
            model.dataset_json,
        )  # fmt: skip

    def _fail(self, case: str, stage: str, cause: str, remedy: str = "") -> None:
        remedy = remedy or "Mend or remove the image, then run again with --continue_prediction"
        self.faults.append(Fault(case, stage, cause, remedy))


def ahead(items: Iterable[T], size: int = 1) -> Iterator[T]:
    """Draw from ``items`` in a thread, ``size`` ahead of the consumer."""
    buffer: queue.Queue[Any] = queue.Queue(maxsize=size)
    end, stopped = object(), threading.Event()
    failure: list[BaseException] = []

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                buffer.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def draw() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:  # noqa: BLE001  # raised again in the consumer's thread
            failure.append(error)
        finally:
            put(end)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        while (item := buffer.get()) is not end:
            yield item
    finally:
        stopped.set()
        thread.join(timeout=5)
    if failure:
        raise failure[0]


def _preprocess(job: _Preprocess) -> tuple[np.ndarray, dict]:
    """Check, read, normalise and resample one case."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    faults = [f for f in check_case_images([Path(p) for p in job.files]) if f.severity == "error"]
    if faults:
        raise InputError("; ".join(fault.cause for fault in faults))
    plans = PlansManager(job.plans)
    configuration = plans.get_configuration(job.configuration)
    data, _, properties = configuration.preprocessor_class(verbose=False).run_case(
        list(job.files), None, plans, configuration, dict(job.dataset_json)
    )
    return np.ascontiguousarray(data, dtype=np.float32), properties


def _export(job: _Export) -> None:
    """Write the label map of one case, and what else was asked for."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(job.plans)
    made = logits_to_labels(
        job.logits,
        job.properties,
        plans,
        plans.get_configuration(job.configuration),
        plans.get_label_manager(job.dataset_json),
        with_probabilities=job.options.save_probabilities,
        with_entropy=job.options.save_uncertainty,
    )
    target, writer = Path(job.target), plans.image_reader_writer_class()
    if made.probabilities is not None:
        with atomic_path(target / f"{job.case}.npz") as temporary:
            np.savez_compressed(temporary, probabilities=made.probabilities.astype(np.float16))
    if made.entropy is not None:
        write_float_image(
            target / f"{job.case}_uncertainty{job.options.ending}", made.entropy, job.properties
        )
    # the label map comes last: where it is, the case is done
    with atomic_path(target / f"{job.case}{job.options.ending}") as temporary:
        writer.write_seg(made.labels, str(temporary), job.properties)


def write_float_image(target: Path, values: np.ndarray, properties: dict[str, Any]) -> None:
    """Write ``(z, y, x)`` float32 in the geometry of the case."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(values.astype(np.float32))
    stuff = properties.get("sitk_stuff")
    if stuff is not None:
        image.SetSpacing(stuff["spacing"])
        image.SetOrigin(stuff["origin"])
        image.SetDirection(stuff["direction"])
    else:
        image.SetSpacing([float(s) for s in properties["spacing"]][::-1])
    with atomic_path(target) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


def _export_gb(properties: dict, predictor: Predictor, options: _Options) -> float:
    voxels = float(np.prod(properties["shape_before_cropping"]))
    per_voxel = BYTES_PER_VOXEL + 8 * options.save_uncertainty
    if options.save_probabilities:
        per_voxel += 3 * 4 * predictor.label_manager.num_segmentation_heads
    return voxels * per_voxel / 2**30


def _is_whole(target: Path, case: str, image: Path, options: _Options) -> bool:
    """Whether a label map is there, readable to its end and on the image's grid."""
    import SimpleITK as sitk

    path = target / f"{case}{options.ending}"
    if options.save_probabilities and not (target / f"{case}.npz").is_file():
        return False
    if options.save_uncertainty and not (target / f"{case}_uncertainty{options.ending}").is_file():
        return False
    if not path.is_file():
        return False
    if any(fault.severity == "error" for fault in check_case_images([path])):
        return False
    try:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        here = reader.GetSize(), reader.GetSpacing()
        reader.SetFileName(str(image))
        reader.ReadImageInformation()
        there = reader.GetSize(), reader.GetSpacing()
    except (RuntimeError, zlib.error):
        return False
    return here[0] == there[0] and bool(np.allclose(here[1], there[1], rtol=1e-3))


def _write_facts(target: Path, predictor: Predictor, model: Path) -> None:
    """What nnU-Net's tools and the evaluation want to know about the label maps."""
    write_json(target / "dataset.json", predictor.dataset_json)
    write_json(target / "plans.json", predictor.plans.plans)
    write_json(
        target / "prediction.json",
        {
            "schema_version": 1,
            "model": model.name,
            "trainer": predictor.trainer_name,
            "configuration": predictor.configuration_name,
        },
    )


def _write_failures(target: Path, failures: list[Fault], part: int | None) -> None:
    path = target / ("failures.csv" if part is None else f"failures_part{part}.csv")
    path.unlink(missing_ok=True)
    if failures:
        rows = [{key: f.as_dict()[key] for key in FAILURE_COLUMNS} for f in failures]
        write_csv(path, rows, FAILURE_COLUMNS)
