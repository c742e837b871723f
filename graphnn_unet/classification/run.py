"""``classify``: a folder of images and a table with a few labels in, predictions for all out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphnn_unet.classification.descriptors import Describer, joined
from graphnn_unet.classification.encoders import make_encoder
from graphnn_unet.classification.fitting import Material, embed, torch_generator
from graphnn_unet.classification.images import (
    ImageSet,
    Normalization,
    find_images,
    load_images,
)
from graphnn_unet.classification.learner import Learner, hold_out
from graphnn_unet.classification.outputs import (
    NEIGHBORS_SHOWN,
    Answers,
    evaluate_answers,
    refuse_results,
    write_results,
)
from graphnn_unet.classification.settings import ClassifySettings
from graphnn_unet.classification.spreading import (
    extend,
    labeled_neighbors,
    normalized,
    with_decisions,
)
from graphnn_unet.classification.stored import (
    CHECKPOINT,
    StoredModel,
    fingerprint,
    load_model,
    load_state,
    new_network,
    save_model,
    save_state,
)
from graphnn_unet.classification.table import (
    UNLABELED,
    Finding,
    LabelTable,
    encode,
    findings_of,
    groups_of,
    read_table,
)
from graphnn_unet.device import resolve_device
from graphnn_unet.errors import (
    CasesFailedError,
    Fault,
    FaultsError,
    InputError,
    MissingFileError,
    RefusedError,
)
from graphnn_unet.metrics.classification import ClassificationScore
from graphnn_unet.progress import say
from graphnn_unet.seeds import Stream, torch_seed
from graphnn_unet.settings import make_section
from graphnn_unet.storage.atomic import remove_leftovers
from graphnn_unet.storage.locks import folder_lock

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassificationResult:
    """What a classification found.

    Attributes:
        output: Folder of the results.
        answers: Decisions, probabilities, certainties and neighbors of all images.
        scores: Figures of each finding, where the truth was given.
        feature: ``(n, q)`` unit rows of the images, whose cosines are the graph's.
        faults: Images that could not be read.
    """

    output: Path
    answers: Answers
    scores: Mapping[str, ClassificationScore]
    feature: Tensor
    faults: tuple[Fault, ...]


class PartlyClassifiedError(CasesFailedError):
    """Some images could not be read; the others are classified."""

    def __init__(self, result: ClassificationResult):
        self.result = result
        super().__init__(result.faults, f"{len(result.faults)} images could not be read")


def classify(
    images: Path | str,
    labels: Path | str | None = None,
    output: Path | str = "classified",
    *,
    truth: Path | str | None = None,
    model: Path | str | None = None,
    encoder: str | nn.Module | Callable[..., nn.Module] | None = None,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> ClassificationResult:
    """Classify all images of a folder from a few labels, or with a model that was made so.

    Args:
        images: Folder of pictures or volumes of any size; the file name is the case id.
        labels: Table ``case,class``, or a column a finding; an empty cell is no label.
        output: Folder for the results.
        truth: Table of the same columns for the evaluation; never read before all is decided.
            Only cases whose label was not given count.
        model: Output folder of an earlier call; the images are then placed beside its graph and
            nothing is trained.
        encoder: ``small`` (default), ``resnet18``, ``resnet50``, ``vgg16``, one of them with
            ``:WEIGHTS``, ``unet:MODEL``, ``FILE.py:Class``, ``package.module:Class``,
            a module, or a function ``(n_channels, n_dims) -> module``.
        device: ``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``.
        resume: Go on with an interrupted call of the same images, labels and settings.
        overwrite: Replace older results.
        **settings: Fields of :class:`~graphnn_unet.classification.settings.ClassifySettings`.

    Returns:
        The result; its files are ``predictions.csv``, ``summary.json``, ``rounds.csv`` and
        ``model.pth``.

    Raises:
        InputError: A file, a word or a number cannot be used.
        FaultsError: Labels are wrong or too few; lists everything that is.
        RefusedError: The folder has results already.
        PartlyClassifiedError: Some images could not be read; the others are done.
    """
    output = Path(output)
    if (labels is None) == (model is None):
        raise InputError(
            "nothing says what to classify" if labels is None else "labels and a model are given",
            "", "Give either --labels or --model",
        )  # fmt: skip
    computing = resolve_device(device)
    with folder_lock(output, "gnnunet_classify"):
        remove_leftovers(output)
        if not resume:
            refuse_results(output, overwrite)
        if model is not None:
            return _extended(
                Path(images), Path(model), output, truth, encoder, computing, settings, resume
            )
        chosen = make_section(ClassifySettings, settings)
        job = _Job(Path(images), Path(str(labels)), output, encoder or "small", chosen, computing)
        return job.run(truth, resume)


class _Job:
    """One training with its results."""

    def __init__(
        self, images: Path, labels: Path, output: Path,
        encoder: str | nn.Module | Callable[..., nn.Module], settings: ClassifySettings,
        device: torch.device,
    ):  # fmt: skip
        table = read_table(labels)
        files = find_images(images)
        _require_images(table, files, images)
        self.findings = findings_of(table)
        self.images = load_images(files, settings.image_size)
        self.output, self.settings = output, settings
        self.sizes = tuple(len(one.classes) for one in self.findings)
        self.code = encode(table, self.findings, self.images.cases)
        self.groups = groups_of(table, self.images.cases)
        _require_labels_left(table, self.findings, self.images)
        self.describer, description = None, None
        if settings.descriptor_share > 0:
            self.describer, description = Describer.learn(self.images, settings.augmentation)
        self.material = Material(
            self.images, Normalization.of(self.images), self.sizes, device, description
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(settings.seed, Stream.CLASSIFIER_WEIGHTS))
            body, self.plan = make_encoder(encoder, self.images.pixels.shape[1], self.images.n_dims)
            example = self.material.normalization(self.images.pixels[:2])
            self.network = new_network(body, example, sum(self.sizes), settings).to(device)
        self.mark = fingerprint(
            self.images.cases, self.images.pixels, self.code, settings,
            encoder if isinstance(encoder, str) else type(encoder).__name__,
        )  # fmt: skip

    def run(self, truth: Path | str | None, resume: bool) -> ClassificationResult:
        settings, cases = self.settings, self.images.cases
        split = hold_out(
            self.code,
            self.sizes,
            settings.validation_share,
            torch_generator(settings.seed, Stream.CLASSIFIER_SPLIT),
            self.groups,
        )
        self._tell(split.validation)
        learner = Learner(self.network, self.material, split, settings, self._save)
        if resume:
            self._go_on(learner)
        try:
            learner.fit()
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt("the same command with --c goes on") from interrupt
        feature, logits, found = learner.diffused(use_validation=settings.final_uses_validation)
        given = split.everything
        found = with_decisions(found.score, given, self.sizes, found.figures)
        answers = self._answers(feature, found.score, logits, given)
        stored = StoredModel(
            learner.mean, self.plan, settings, self.findings, self.material.normalization,
            self.images.pixels.shape[-1], cases, feature, found.score, given, self.describer,
        )  # fmt: skip
        save_model(stored, self.output)
        scores = evaluate_answers(answers, truth)
        write_results(
            self.output, answers, scores, self.images.faults,
            settings=settings, encoder=self.plan.kind, figures=found.figures,
            log=learner.progression.log, kind="transductive",
            n_validation=int((split.validation >= 0).any(dim=1).sum()),
        )  # fmt: skip
        return _finished(self.output, answers, scores, feature, self.images.faults)

    def _answers(self, feature: Tensor, score: Tensor, logits: Tensor, given: Tensor) -> Answers:
        own = torch.arange(len(feature))
        labeled = (given >= 0).any(dim=1).nonzero().flatten()
        rows, cosine = labeled_neighbors(feature, feature, labeled, NEIGHBORS_SHOWN, own)
        return _answers(
            self.images.cases, self.findings, score, logits, given, rows, cosine, self.images.cases
        )

    def _tell(self, validation: Tensor) -> None:
        n_labeled = int((self.code >= 0).any(dim=1).sum())
        n_validation = int((validation >= 0).any(dim=1).sum())
        classes = "; ".join(f"{one.name}: {', '.join(one.classes)}" for one in self.findings)
        say(f"{len(self.images.cases)} images, {n_labeled} labeled ({classes})")
        if n_validation:
            say(f"{n_validation} labeled images are held out to stop the training")
        else:
            say("too few labels to hold some out: training runs its full length")

    def _save(self, learner: Learner) -> None:
        save_state(learner, self.output, self.mark)

    def _go_on(self, learner: Learner) -> None:
        if not (self.output / CHECKPOINT).is_file():
            raise MissingFileError(
                f"nothing to continue in {self.output}", f"it has no {CHECKPOINT}",
                "Leave out --c to start",
            )  # fmt: skip
        state = load_state(self.output, self.mark)
        learner.network.load_state_dict(state["network_weights"])
        learner.mean.load_state_dict(state["mean_weights"])
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.progression = state["progression"]


def _require_images(table: LabelTable, files: Mapping[str, Path], folder: Path) -> None:
    missing = [case for case, cells in table.rows.items() if any(cells) and case not in files]
    if missing:
        raise FaultsError(
            [
                Fault(case, "check", f"it is labeled, but has no image in {folder}",
                      f"Correct the case id in {table.source}, or add the image")
                for case in missing
            ],
            "labels without images",
        )  # fmt: skip


def _require_labels_left(table: LabelTable, findings: Sequence[Finding], images: ImageSet) -> None:
    """Refuse classes whose labeled images could not be read."""
    if images.faults:
        unread = {fault.case for fault in images.faults}
        rows = {case: cells for case, cells in table.rows.items() if case not in unread}
        left = findings_of(replace(table, rows=rows))
        if left != tuple(findings):
            raise FaultsError(list(images.faults), "labeled images cannot be read")


def _extended(
    images: Path, folder: Path, output: Path, truth: Path | str | None,
    encoder: str | nn.Module | Callable[..., nn.Module] | None, device: torch.device,
    settings: Mapping[str, Any], resume: bool,
) -> ClassificationResult:  # fmt: skip
    """New images beside the graph of a finished model."""
    if settings or resume:
        raise InputError(
            "a model is used as it was trained",
            f"{', '.join(settings) or 'resume'} cannot be chosen with --model", "Leave it out",
        )  # fmt: skip
    if output.resolve() == folder.resolve():
        raise RefusedError(f"{output} is the folder of the model", "", "Choose another -o")
    model = load_model(folder, encoder)
    found = load_images(find_images(images), model.image_size, n_channels=model.plan.n_channels)
    if found.n_dims != model.plan.n_dims:
        raise InputError(
            f"{images} holds {found.n_dims}D images", f"the model takes {model.plan.n_dims}D ones"
        )
    material = Material(found, model.normalization, model.sizes, device)
    feature, logits = embed(model.network.to(device), material, model.settings)
    description = model.describer(found) if model.describer else None
    feature = joined(feature, description, model.settings.descriptor_share)
    score, near = extend(feature, model.feature, model.score, model.sizes, model.settings)
    labeled = (model.code >= 0).any(dim=1).nonzero().flatten()
    rows, cosine = labeled_neighbors(feature, model.feature, labeled, NEIGHBORS_SHOWN)
    nothing = torch.full((len(found.cases), len(model.sizes)), UNLABELED)
    answers = _answers(
        found.cases, model.findings, score, logits, nothing, rows, cosine, model.cases
    )
    scores = evaluate_answers(answers, truth)
    write_results(
        output, answers, scores, found.faults, settings=model.settings, encoder=model.plan.kind,
        figures={"far_from_graph": int((~near).sum())}, log=[], kind="inductive", n_validation=0,
    )  # fmt: skip
    return _finished(output, answers, scores, feature, found.faults)


def _answers(
    cases: Sequence[str], findings: Sequence[Finding], score: Tensor, logits: Tensor,
    given: Tensor, rows: Tensor, cosine: Tensor, names: Sequence[str],
) -> Answers:  # fmt: skip
    """Decisions; where no label reaches an image, those of the network, with certainty 0."""
    sizes = [len(one.classes) for one in findings]
    own = torch.cat([part.softmax(dim=1) for part in logits.double().split(sizes, dim=1)], dim=1)
    parts, by_network = [], []
    for part, network in zip(score.split(sizes, dim=1), own.split(sizes, dim=1), strict=True):
        reached = part.sum(dim=1) > 0
        parts.append(torch.where(reached.unsqueeze(1), part, network))
        by_network.append(~reached)
    decided = with_decisions(normalized(torch.cat(parts, dim=1), sizes), given, sizes, {})
    off_graph = torch.stack(by_network, dim=1) & (given < 0)
    neighbors = [
        [(names[row], value) for row, value in zip(*pair, strict=True) if value > -1.5]
        for pair in zip(rows.tolist(), cosine.tolist(), strict=True)
    ]
    return Answers(
        cases=tuple(cases),
        findings=tuple(findings),
        predicted=decided.predicted,
        probability=decided.score,
        certainty=torch.where(off_graph, 0.0, decided.certainty),
        given=given,
        by_network=off_graph,
        neighbors=neighbors,
    )


def _finished(
    output: Path, answers: Answers, scores: Mapping[str, ClassificationScore], feature: Tensor,
    faults: tuple[Fault, ...],
) -> ClassificationResult:  # fmt: skip
    result = ClassificationResult(output, answers, scores, feature, faults)
    if faults:
        raise PartlyClassifiedError(result)
    return result
