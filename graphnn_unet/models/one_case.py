"""One case through the network, between the commands that prepare and export it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from graphnn_unet.device import resolve_device
from graphnn_unet.errors import Fault, InputError
from graphnn_unet.models.cases import Prepared, PrepareJob, prepare_case
from graphnn_unet.models.ensemble import MergeJob
from graphnn_unet.models.load import load_predictor, name_of_file
from graphnn_unet.models.prediction_record import (
    Entry,
    Volumes,
    note_case,
    note_replacement,
)
from graphnn_unet.prediction.export_logits import Labeled, export_gb
from graphnn_unet.prediction.predictor import Predictor
from graphnn_unet.prediction.write_case import ExportJob, Outputs, export_case
from graphnn_unet.scan_graph.blend import blended_logits
from graphnn_unet.storage.atomic import Fingerprint

FREE_MEMORY_SHARE = 0.8
"""So much of what is free may one export take where the user says nothing."""


@dataclass(frozen=True)
class ModelOnDisk:
    """What ``load_predictor`` needs, for this process or another.

    Attributes:
        folder: Model folder.
        folds: Folds to average; ``None`` for all there are.
        checkpoint: File name of the checkpoint in each fold.
        step_size: Step of the sliding window as a share of the patch.
        mirroring: Average over mirrored copies.
        trainer_file: ``path/to/file.py:ClassName`` of a user's trainer.
    """

    folder: Path
    folds: Sequence[int | str] | None
    checkpoint: str
    step_size: float
    mirroring: bool
    trainer_file: str | None = None

    def load(self, device: torch.device) -> Predictor:
        """Read the weights. Raises what :func:`load_predictor` raises."""
        if self.trainer_file is not None:
            name_of_file(self.trainer_file)
        return load_predictor(
            self.folder, folds=self.folds, checkpoint=self.checkpoint, device=device,
            step_size=self.step_size, mirroring=self.mirroring,
        )  # fmt: skip


@dataclass(frozen=True)
class NetworkStage:
    """A loaded model and what becomes of its logits.

    Attributes:
        predictor: The model.
        outputs: What to write.
        memory_budget_gb: Memory one export may take.
        blend: Share of the labeled scans' vote, where they vote.
    """

    predictor: Predictor
    outputs: Outputs
    memory_budget_gb: float
    blend: float | None = None

    def export_job(self, case: PrepareJob, stem: str, prepared: Prepared) -> ExportJob | Fault:
        """The case behind the network, or why it is not.

        Args:
            case: The case as it was given.
            stem: Of its files in the output folder.
            prepared: The case in front of the network; its ``data`` is there.
        """
        if fault := self._memory_fault(case.case, prepared):
            return fault
        try:
            answer = self._answer(prepared)
        except (RuntimeError, InputError, MemoryError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return case_fault(case.case, "predict", lines[0])
        return ExportJob(
            stem, answer, prepared.properties, case.target, case.plans,
            case.configuration, case.dataset_json, self.outputs,
            case.files if self.outputs.dicom_kinds else (),
        )  # fmt: skip

    @property
    def _by_rows(self) -> bool:
        """Whether the label map alone is wanted, which needs no array of all logits."""
        wants_all = self.outputs.probabilities or self.outputs.uncertainty
        return self.predictor.labels_by_rows and not wants_all

    def _answer(self, prepared: Prepared) -> Labeled | np.ndarray:
        data = torch.from_numpy(prepared.data)
        share, amount = prepared.share, self.blend

        def blended(first: int, logits: Tensor) -> Tensor:
            if share is None or amount is None:
                return logits
            return blended_logits(logits, share[:, first : first + logits.shape[1]], amount)

        if self._by_rows:
            return self.predictor.labels(data, prepared.properties, blended)
        return blended(0, self.predictor.logits(data)).numpy()

    def _memory_fault(self, case: str, prepared: Prepared) -> Fault | None:
        model = self.predictor
        needed = export_gb(
            prepared.properties,
            prepared.data.shape[1:],  # pyright: ignore[reportOptionalMemberAccess]  # caller has looked
            model.plans,
            model.configuration,
            model.label_manager.num_segmentation_heads,
            with_probabilities=self.outputs.probabilities,
            with_entropy=self.outputs.uncertainty,
            n_rows=model.window.depth + 1 if self._by_rows else None,
        )
        if prepared.share is not None:
            needed += prepared.share.nbytes / 2**30
        if needed <= self.memory_budget_gb:
            return None
        return case_fault(
            case, "predict",
            f"its prediction needs {needed:.2g} GB of memory, the budget is "
            f"{self.memory_budget_gb:.2g} GB",
            "Give more with --memory-budget"
            + (", or leave --save_probabilities out" if self.outputs.probabilities else ""),
        )  # fmt: skip


def case_fault(case: str, stage: str, cause: str, remedy: str = "") -> Fault:
    """A case that could not be predicted; by default its image is to blame."""
    remedy = remedy or "Fix or remove the image, then run again with --continue_prediction"
    return Fault(case, stage, cause.rstrip("."), remedy)


def free_memory_gb() -> float:
    """Memory that one export may take on this machine now."""
    return FREE_MEMORY_SHARE * psutil.virtual_memory().available / 2**30


@dataclass(frozen=True)
class NotedJob:
    """A case behind the network, and of which image it is."""

    export: ExportJob | MergeJob
    image: Fingerprint

    @property
    def case(self) -> str:
        """Stem of the label map."""
        return self.export.case


@dataclass(frozen=True)
class NotedExport:
    """Writes the files of a case and, right behind the label map, the note for the record.

    The record itself is written where the outcome arrives, and the network is at work there for
    the time of a case. From before a label map is written until after, nothing is known of it.

    Attributes:
        export: As ``export_case`` or ``merge_case``.
        folder: Output folder.
        made_by: As the record of this call says it.
    """

    export: Callable[[Any], Volumes]
    folder: Path
    made_by: str

    def __call__(self, job: NotedJob) -> Entry:
        """Write one case; returns what the record shall say of it."""
        outputs = job.export.outputs
        endings = outputs.endings[: len(outputs.kinds)]
        note_replacement(self.folder, job.case, job.image, endings)
        volumes = self.export(job.export)
        return note_case(self.folder, job.case, self.made_by, job.image, volumes, endings)


@dataclass(frozen=True)
class WholeCase:
    """A case for a worker that predicts it from its files to its label map.

    Attributes:
        case: What is prepared.
        stem: Of its files in the output folder.
    """

    prepare: PrepareJob
    stem: str

    @property
    def case(self) -> str:
        """Case id."""
        return self.prepare.case


@dataclass(frozen=True)
class PredictedCase:
    """What a worker sends back.

    Attributes:
        prepared: Faults, turn and fingerprint of the image; its arrays stay on the worker.
        entry: What the record shall say; ``None`` where it failed.
        fault: Why it failed behind the preparation.
    """

    prepared: Prepared
    entry: Entry | None = None
    fault: Fault | None = None


@dataclass(frozen=True)
class PredictWholeCase:
    """Predicts cases on a worker, which reads the model once.

    Attributes:
        model: The model, which the worker reads from its folder.
        outputs: What to write.
        device: As ``-device``, of the worker.
        made_by: As the record of this call says it.
        memory_budget_gb: Memory one export may take; ``None`` for what is free there.
        blend: Share of the labeled scans' vote, where they vote.
    """

    model: ModelOnDisk
    outputs: Outputs
    device: str
    made_by: str
    memory_budget_gb: float | None = None
    blend: float | None = None

    @cached_property
    def _predictor(self) -> Predictor:
        return self.model.load(resolve_device(self.device))

    def __getstate__(self) -> dict[str, Any]:
        """Workers read the weights themselves."""
        return {key: value for key, value in self.__dict__.items() if key != "_predictor"}

    def __call__(self, job: WholeCase) -> PredictedCase:
        """Prepare, predict and export one case."""
        prepared = prepare_case(job.prepare)
        facts = replace(prepared, data=None, share=None)
        if prepared.data is None:
            return PredictedCase(facts)
        budget = free_memory_gb() if self.memory_budget_gb is None else self.memory_budget_gb
        stage = NetworkStage(self._predictor, self.outputs, budget, self.blend)
        export = stage.export_job(job.prepare, job.stem, prepared)
        if isinstance(export, Fault):
            return PredictedCase(facts, fault=export)
        write = NotedExport(export_case, Path(job.prepare.target), self.made_by)
        return PredictedCase(facts, write(NotedJob(export, prepared.image)))
