"""Cases on their way through a model: prepared, predicted, written, recorded."""

from __future__ import annotations

import glob
import logging
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

from graphnn_unet.data.preprocess import settings_hash
from graphnn_unet.errors import Fault
from graphnn_unet.images.find import RAW_VOLUMES, some
from graphnn_unet.images.label_ids import as_user_has_them
from graphnn_unet.images.nifti_forms import NiftiForm
from graphnn_unet.images.orientation import TURNED
from graphnn_unet.models.cases import (
    CHECK_STAGE,
    Prepared,
    PrepareJob,
    VotingJob,
    is_whole,
    prepare_case,
)
from graphnn_unet.models.ensemble import MEMBERS, MergeJob, merge_case
from graphnn_unet.models.inputs import InputCase
from graphnn_unet.models.one_case import (
    ModelOnDisk,
    NetworkStage,
    NotedExport,
    NotedJob,
    PredictWholeCase,
    WholeCase,
    case_fault,
    free_memory_gb,
)
from graphnn_unet.models.prediction_record import (
    Entry,
    PredictionRecord,
)
from graphnn_unet.prediction.label_tables import VOLUMES_CSV
from graphnn_unet.prediction.predictor import Predictor
from graphnn_unet.prediction.write_case import NIFTI, ExportJob, Outputs, export_case
from graphnn_unet.progress import Progress, counted, needs_text, say
from graphnn_unet.scan_graph.panel import Panel
from graphnn_unet.storage.atomic import TEMPORARY_FOLDER
from graphnn_unet.storage.processes import Outcome, default_workers, run_elsewhere, run_jobs

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How a call works, whatever its models."""

    nifti_form: NiftiForm | None
    device: str
    memory_budget_gb: float | None
    n_workers: int


@dataclass(frozen=True)
class Member:
    """A model that predicts, alone or as one of several."""

    on_disk: ModelOnDisk
    predictor: Predictor
    panel: Panel | None

    def network(
        self, outputs: Outputs, options: Options, made_by: str
    ) -> NetworkStage | PredictWholeCase:
        """The stage behind the preparation: here, or on workers of a cluster."""
        blend = self.panel.settings.blend if self.panel else None
        budget = options.memory_budget_gb
        if run_elsewhere():
            return PredictWholeCase(self.on_disk, outputs, options.device, made_by, budget, blend)
        budget = free_memory_gb() if budget is None else budget
        return NetworkStage(self.predictor, outputs, budget, blend)


def _interrupted(target: Path) -> KeyboardInterrupt:
    return KeyboardInterrupt(
        f"the label maps in {target} are whole. Go on with the same command and "
        "--continue_prediction"
    )


class CaseByCase:
    """Preprocess, predict and export, each one case ahead of the next stage.

    The network runs in this thread, so that an interrupt reaches it at once.
    """

    def __init__(
        self, member: Member, outputs: Outputs, record: PredictionRecord, options: Options
    ):
        self.nifti_form: NiftiForm | None = options.nifti_form
        self.n_workers = options.n_workers
        self.panel, self.predictor, self.outputs = member.panel, member.predictor, outputs
        self.record, self.target = record, record.folder
        self.volumes_csv = record.folder / VOLUMES_CSV
        self.network = member.network(outputs, options, record.made_by)
        self.output_of: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.turned: dict[tuple[str, str], int] = {}
        self.n_through = 0
        """Cases that the network has answered, or that failed before."""

    def run(self, cases: dict[str, InputCase]) -> tuple[list[str], list[Fault]]:
        """Predict ``cases``; return those done and the faults of the others.

        Raises:
            KeyboardInterrupt: Interrupted; the message says how to go on.
        """
        try:
            return self._run(cases), self.faults
        except KeyboardInterrupt as interrupt:
            raise _interrupted(self.target) from interrupt
        finally:
            self.record.take_up_notes(self.output_of.values())
            failed = [self.output_of[fault.case] for fault in self.faults]
            set_aside(self.record, failed, self.outputs)
            self.volumes_csv = self.record.write_volumes(self.outputs.endings)

    def _run(self, cases: dict[str, InputCase]) -> list[str]:
        done: list[str] = []
        self.output_of = {case: wanted.output for case, wanted in cases.items()}
        with Progress(len(cases), "predict", needs=lambda: self._needs(done, cases)) as progress:
            for case, entry in self._predicted(cases, progress):
                if entry is not None:
                    done.append(case)
                    self.record.add(self.output_of[case], entry)
                self._count(progress, case)
        for (stored, wanted), n_cases in self.turned.items():
            say(
                f"{n_cases} images stored as {stored} were turned to {wanted}, as the training "
                f"scans are stored, and their label maps back"
            )
        return sorted(done)

    def _count(self, progress: Progress, case: str) -> None:
        """Count a case; the network is ahead of those that are counted."""
        progress.update(case, ahead=max(0, self.n_through - progress.done - 1))

    def _needs(self, done: Sequence[str], cases: Mapping[str, InputCase]) -> str:
        """Memory until now, and room for all label maps as far as those that are there tell."""
        stems = [self.output_of[case] for case in done]
        sizes = [
            p.stat().st_size for s in stems for p in self.target.glob(f"{glob.escape(s)}[._]*")
        ]
        text = needs_text(sum(sizes) / len(done) * len(cases) if done else None)
        copies = 2 ** len(self.predictor.mirroring_axes)
        if self.predictor.device.type == "cpu" and copies > 1:
            text += f"; gnnunet_predict --fast leaves {copies - 1} of {copies} mirrored copies out"
        return text

    def _predicted(
        self, cases: dict[str, InputCase], progress: Progress
    ) -> Iterator[tuple[str, Entry | None]]:
        """Cases as they are done, for the record; ``None`` after noting why one failed."""
        # what registers asks now and then whether this folder is there
        at_work = (
            TemporaryDirectory(prefix=TEMPORARY_FOLDER, dir=self.target) if self.panel else None
        )
        model, voting = self.predictor, self._voting(at_work.name) if at_work else None
        jobs = (
            PrepareJob(
                case, wanted.sources, str(self.target), model.plans.plans,
                model.configuration_name, model.dataset_json, self.nifti_form, wanted.files, voting,
            )
            for case, wanted in cases.items()
        )  # fmt: skip
        if isinstance(self.network, PredictWholeCase):
            with at_work or nullcontext():
                yield from self._on_workers(self.network, jobs)
            return
        export = NotedExport(export_case, self.target, self.record.made_by)
        behind_network = self._behind_network(self.network, jobs, at_work, progress)
        exports = (
            run_jobs(export, behind_network, n_workers=self.n_workers)
            if self.n_workers
            else overlap(export, behind_network)
        )
        case_of = {stem: case for case, stem in self.output_of.items()}
        for outcome in exports:
            case = case_of[outcome.job.case]
            if not outcome.ok:
                self._fail(case, "export", outcome)
            yield case, outcome.value

    def _on_workers(
        self, network: PredictWholeCase, jobs: Iterator[PrepareJob]
    ) -> Iterator[tuple[str, Entry | None]]:
        whole = (WholeCase(job, self.output_of[job.case]) for job in jobs)
        for outcome in run_jobs(network, whole, n_workers=0):
            case = outcome.job.case
            if not outcome.ok:
                self._fail(case, "predict", outcome)
                yield case, None
                continue
            result = outcome.value
            self._note(case, result.prepared)
            self.faults += [result.fault] if result.fault else []
            yield case, result.entry

    def _behind_network(
        self,
        network: NetworkStage,
        jobs: Iterator[PrepareJob],
        at_work: TemporaryDirectory[str] | None,
        progress: Progress,
    ) -> Iterator[NotedJob]:
        prepared = run_jobs(prepare_case, jobs, n_workers=self.n_workers)
        for outcome in prefetch(prepared, at_work):
            case = outcome.job.case
            export = None
            if not outcome.ok:
                self._fail(case, "preprocess", outcome)
            elif self._note(case, outcome.value):
                export = network.export_job(outcome.job, self.output_of[case], outcome.value)
            self.n_through += 1
            if isinstance(export, ExportJob):
                # people edit while a long prediction runs
                set_edited_aside(self.record, [self.output_of[case]], self.outputs)
                yield NotedJob(export, outcome.value.image)
                continue
            self.faults += [export] if export else []
            self._count(progress, case)

    def _voting(self, while_there: str) -> VotingJob | None:
        if self.panel is None:
            return None
        n_threads = default_workers(self.panel.settings.neighbors) // max(1, self.n_workers)
        return VotingJob(self.panel, max(1, n_threads), Path(while_there))

    def _note(self, case: str, prepared: Prepared) -> bool:
        """Tell what the preparation noted; whether the network can take the case."""
        is_usable = True
        for fault in prepared.faults:
            if fault.severity == "error":
                is_usable = False
                self.faults.append(case_fault(case, CHECK_STAGE, fault.cause, fault.remedy))
            else:
                say(f"warning: {fault.line}")
        if is_usable and (turn := prepared.properties.get(TURNED)):
            self.turned[turn] = self.turned.get(turn, 0) + 1
        return is_usable

    def _fail(self, case: str, stage: str, outcome: Outcome) -> None:
        self.faults.append(case_fault(case, stage, outcome.error))
        if outcome.details:
            _log.debug("%s: %s", case, outcome.details)


class Averaged:
    """Several models one after the other; then their probabilities are averaged case by case."""

    def __init__(
        self,
        members: Sequence[Member],
        outputs: Outputs,
        record: PredictionRecord,
        options: Options,
    ):
        self.members, self.outputs, self.record = members, outputs, record
        self.options, self.folder = options, record.folder / f"{MEMBERS}{record.part or 0}"
        self.volumes_csv = record.folder / VOLUMES_CSV

    def run(self, cases: dict[str, InputCase]) -> tuple[list[str], list[Fault]]:
        """Predict ``cases``; return those done and the faults of the others.

        Raises:
            KeyboardInterrupt: Interrupted; the message says how to go on.
        """
        faults: list[Fault] = []
        try:
            return self._run(cases, faults), faults
        except KeyboardInterrupt as interrupt:
            raise _interrupted(self.record.folder) from interrupt
        finally:
            self.record.take_up_notes([wanted.output for wanted in cases.values()])
            failed = [cases[fault.case].output for fault in faults]
            set_aside(self.record, failed, self.outputs)
            self.volumes_csv = self.record.write_volumes(self.outputs.endings)

    def _run(self, cases: dict[str, InputCase], faults: list[Fault]) -> list[str]:
        if not cases:
            return []
        form, known = self.options.nifti_form, {}
        alone = replace(self.outputs, probabilities=True, uncertainty=False, largest_component=())
        folders = tuple(self.folder / str(number) for number in range(len(self.members)))
        for folder, member in zip(folders, self.members, strict=True):
            record = record_of(folder, [member], form, None, alone)
            record.begin()
            kept = whole_cases(cases, record, alone, form)  # of a call that was stopped
            say(f"averaged over {len(self.members)} models: {member.predictor.folder}")
            work = CaseByCase(member, alone, record, self.options)
            _, failed = work.run({case: w for case, w in cases.items() if case not in kept})
            faults += failed
            # what one model cannot predict is not averaged
            cases = {case: w for case, w in cases.items() if case not in {f.case for f in failed}}
            known = record.cases
        done = self._merged(cases, folders, known, faults)
        shutil.rmtree(self.folder)
        return done

    def _merged(
        self,
        cases: Mapping[str, InputCase],
        folders: tuple[Path, ...],
        known: Mapping[str, Any],
        faults: list[Fault],
    ) -> list[str]:
        """Cases whose files are written; faults of the others are added to ``faults``."""
        model = self.members[0].predictor
        case_of = {wanted.output: case for case, wanted in cases.items()}
        set_edited_aside(self.record, list(case_of), self.outputs)
        jobs = (
            NotedJob(
                MergeJob(stem, folders, self.record.folder, model.plans.plans, model.dataset_json,
                         self.outputs),
                known[stem]["input"],
            )
            for stem in case_of
        )  # fmt: skip
        done: list[str] = []
        export = NotedExport(merge_case, self.record.folder, self.record.made_by)
        for outcome in run_jobs(export, jobs, n_workers=self.options.n_workers):
            stem = outcome.job.case
            if outcome.ok:
                self.record.add(stem, outcome.value)
                done.append(case_of[stem])
            else:
                faults.append(case_fault(case_of[stem], "export", outcome.error))
        return sorted(done)


def prefetch(
    items: Iterable[T], at_work: AbstractContextManager[object] | None = None
) -> Iterator[T]:
    """Draw from ``items`` in a thread, one ahead of the consumer.

    Args:
        items: What is drawn from.
        at_work: Ends before the thread is waited for, so that its end may stop what is drawn.
    """
    iterator, end = iter(items), cast(T, object())
    with ThreadPoolExecutor(1) as thread, at_work or nullcontext():
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


def record_of(
    target: Path,
    members: Sequence[Member],
    nifti_form: NiftiForm | None,
    part: int | None,
    outputs: Outputs,
) -> PredictionRecord:
    """The record of the output folder, with what decides about the voxels of this call."""
    each = [_facts(member, nifti_form) for member in members]
    facts, decides = each[0]
    if len(each) > 1:
        names = [told["model"] for told, _ in each]
        facts = {"dataset": facts["dataset"], "model": ", ".join(names)}
        decides = {"members": [of_member for _, of_member in each]}
    return PredictionRecord(
        target, {**facts, **_cleaned(outputs)}, {**decides, **_cleaned(outputs)}, part
    )


def _facts(member: Member, nifti_form: NiftiForm | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is told of a model and its options, and what of them decides about voxels."""
    predictor, panel = member.predictor, member.panel
    facts = {
        "dataset": predictor.plans.dataset_name,
        "model": predictor.folder.resolve().name,  # pyright: ignore[reportOptionalMemberAccess]  # of a folder
        "trainer": predictor.trainer_name,
        "configuration": predictor.configuration_name,
        **predictor.settings,
        **({"nifti_form": nifti_form} if nifti_form else {}),
        **({"scan_graph": _facts_of(panel)} if panel else {}),
    }
    decides = {
        "weights": predictor.settings["weights"],
        "mirroring": predictor.settings["mirroring"],
        "step_size": predictor.settings["step_size"],
        "nifti_form": nifti_form,
        "labels": as_user_has_them(predictor.dataset_json)["labels"],
        "plan": settings_hash(
            predictor.plans.plans, predictor.configuration_name, predictor.dataset_json
        ),
        **({"scan_graph": panel.digest()} if panel else {}),
    }
    return facts, decides


def _cleaned(outputs: Outputs) -> dict[str, list[int]]:
    cleaned = list(outputs.largest_component)
    return {"largest_component": cleaned} if cleaned else {}


def _facts_of(panel: Panel) -> dict[str, float]:
    return {"labeled_scans": len(panel.labeled), "blend": panel.settings.blend}


def whole_cases(
    cases: Mapping[str, InputCase],
    record: PredictionRecord,
    outputs: Outputs,
    nifti_form: NiftiForm | None,
) -> list[str]:
    """Cases whose label maps are whole, of their image and of this model; tells of the others."""
    kept: list[str] = []
    again: Counter[str] = Counter()
    for case, entry in cases.items():
        if not (record.folder / f"{entry.output}{outputs.endings[0]}").is_file():
            continue
        why = record.why_again(entry.output, entry.files)
        if not why and not is_whole(
            record.folder, entry.output, entry.sources[0], outputs, nifti_form
        ):
            why = "whose files are not whole"
        if why:
            again[why] += 1
        else:
            kept.append(case)
    if again:
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(again.items()))
        say(f"{again.total()} label maps are predicted again: {reasons}")
    return kept


def set_aside(record: PredictionRecord, names: Sequence[str], outputs: Outputs) -> None:
    """Move what an earlier run wrote of cases that failed in this one, and say so."""
    endings = (*outputs.endings, *outputs.beside)
    count, place = record.set_aside(names, endings)
    if count:
        say(
            f"{count} label maps of an earlier run, of cases that failed in this one, were moved "
            f"to {place}"
        )
    if names:
        record.keep()


def set_edited_aside(record: PredictionRecord, names: Sequence[str], outputs: Outputs) -> None:
    """Move label maps that were edited, and are about to be written anew, and say so."""
    endings = outputs.endings[: len(outputs.kinds)]
    edited = record.edited(names, endings)
    if not edited:
        return
    count, place = record.set_aside(edited, endings)
    folder = shlex.quote(str(place))
    way_back = f"; gnnunet_convert --add-corrected {folder} -d {record.facts['dataset']} takes them"
    say(
        f"{counted(count, 'label map')} edited since the last prediction ({some(edited)}), moved "
        f"to {place}" + way_back * (outputs.ending in RAW_VOLUMES and NIFTI in outputs.kinds)
    )
