"""``classify``: a folder of images and a table with a few labels in, predictions for all out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphnn_unet.classification.descriptors import DescriptorExtractor, joined
from graphnn_unet.classification.encoders import EncoderChoice, make_encoder
from graphnn_unet.classification.fitting import Dataset, embed, torch_generator
from graphnn_unet.classification.images import (
    ImageSet,
    Normalization,
    find_images,
    load_images,
)
from graphnn_unet.classification.label_propagation import extend, nearest_labeled, to_predictions
from graphnn_unet.classification.learner import Learner, hold_out
from graphnn_unet.classification.outputs import (
    Predictions,
    RunFacts,
    evaluate_predictions,
    predictions_of,
    refuse_results,
    write_results,
)
from graphnn_unet.classification.settings import ClassifySettings
from graphnn_unet.classification.stored import (
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
    RefusedError,
)
from graphnn_unet.metrics.classification import ClassificationScore
from graphnn_unet.progress import say
from graphnn_unet.seeds import Stream, torch_seed
from graphnn_unet.settings import make_section
from graphnn_unet.storage.atomic import remove_leftovers
from graphnn_unet.storage.locks import folder_lock


@dataclass(frozen=True)
class ClassificationResult:
    """What a classification found.

    Attributes:
        output: Folder of the results.
        predictions: Decisions, probabilities, certainties and neighbors of all images.
        scores: Figures of each finding, where the ground truth was given.
        feature: ``(n, q)`` unit rows of the images, whose cosines are the graph's.
        faults: Images that could not be read.
    """

    output: Path
    predictions: Predictions
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
    encoder: EncoderChoice | None = None,
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
    if (labels is None) == (model is None):
        raise InputError(
            "nothing says what to classify" if labels is None else "labels and a model are given",
            "",
            "Give either --labels or --model",
        )
    request = _Request(Path(images), Path(output), truth, encoder, resolve_device(device))
    with folder_lock(request.output, "gnnunet_classify"):
        remove_leftovers(request.output)
        if not resume:
            refuse_results(request.output, overwrite)
        if labels is not None:
            section = make_section(ClassifySettings, settings)
            return _Training(request, Path(labels), section).run(resume)
        if settings or resume:
            raise InputError(
                "a model is used as it was trained",
                f"{', '.join(settings) or 'resume'} cannot be chosen with --model",
                "Leave it out",
            )
        return _place_images(request, Path(str(model)))


@dataclass(frozen=True)
class _Request:
    """What both ways of classifying are asked for."""

    images: Path
    output: Path
    truth: Path | str | None
    encoder: EncoderChoice | None
    device: torch.device


class _Training:
    """One training with its results."""

    def __init__(self, request: _Request, labels: Path, settings: ClassifySettings):
        self.request, self.settings = request, settings
        table = read_table(labels)
        files = find_images(request.images)
        _require_images(table, files, request.images)
        self.findings = findings_of(table)
        self.images = load_images(files, settings.image_size)
        self.sizes = tuple(len(finding.classes) for finding in self.findings)
        self.targets = encode(table, self.findings, self.images.cases)
        self.groups = groups_of(table, self.images.cases)
        _require_labels_left(table, self.findings, self.images)
        self.extractor, description = None, None
        if settings.descriptor_share > 0:
            self.extractor, description = DescriptorExtractor.learn(
                self.images, settings.augmentation
            )
        scale = Normalization.of(self.images)
        self.dataset = Dataset(self.images, scale, self.sizes, request.device, description)
        encoder = request.encoder or "small"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(settings.seed, Stream.CLASSIFIER_WEIGHTS))
            body, self.plan = make_encoder(encoder, self.images.pixels.shape[1], self.images.n_dims)
            network = new_network(body, scale(self.images.pixels[:2]), sum(self.sizes), settings)
        self.network = network.to(request.device)
        shown = encoder if isinstance(encoder, str) else type(encoder).__name__
        self.mark = fingerprint(self.images, self.targets, settings, shown)

    def run(self, resume: bool) -> ClassificationResult:
        settings, output = self.settings, self.request.output
        generator = torch_generator(settings.seed, Stream.CLASSIFIER_SPLIT)
        split = hold_out(
            self.targets, self.sizes, settings.validation_share, generator, self.groups
        )
        self._tell(split.validation)
        learner = Learner(self.network, self.dataset, split, settings, self._save)
        if resume:
            learner.load_state_dict(load_state(output, self.mark))
        try:
            learner.fit()
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt("the same command with --c goes on") from interrupt
        feature, logits, diffused = learner.diffused(use_validation=settings.final_uses_validation)
        given = split.everything
        stored = StoredModel(
            network=learner.mean,
            plan=self.plan,
            settings=settings,
            findings=self.findings,
            normalization=self.dataset.normalization,
            image_size=self.images.pixels.shape[-1],
            cases=self.images.cases,
            feature=feature,
            score=diffused.score,
            targets=given,
            extractor=self.extractor,
        )
        save_model(stored, output)
        own_row = torch.arange(len(feature))
        near = nearest_labeled(feature, feature, given, self.images.cases, own_row)
        decided = to_predictions(diffused.score, given, self.sizes, diffused.figures)
        predictions = predictions_of(
            self.images.cases, self.findings, diffused.score, logits, given, near
        )
        facts = RunFacts(
            "transductive",
            self.plan.kind,
            settings,
            decided.figures,
            learner.training_state.log,
            int((split.validation >= 0).any(dim=1).sum()),
        )
        return _finish(self.request, predictions, feature, self.images.faults, facts)

    def _tell(self, validation: Tensor) -> None:
        n_labeled = int((self.targets >= 0).any(dim=1).sum())
        n_validation = int((validation >= 0).any(dim=1).sum())
        classes = "; ".join(f"{f.name}: {', '.join(f.classes)}" for f in self.findings)
        say(f"{len(self.images.cases)} images, {n_labeled} labeled ({classes})")
        if n_validation:
            say(f"{n_validation} labeled images are held out to stop the training")
        else:
            say("too few labels to hold some out: training runs its full length")

    def _save(self, learner: Learner) -> None:
        save_state(learner, self.request.output, self.mark)


def _place_images(request: _Request, folder: Path) -> ClassificationResult:
    """New images beside the graph of a finished model."""
    if request.output.resolve() == folder.resolve():
        raise RefusedError(f"{request.output} is the folder of the model", "", "Choose another -o")
    model = load_model(folder, request.encoder)
    files = find_images(request.images)
    images = load_images(files, model.image_size, n_channels=model.plan.n_channels)
    if images.n_dims != model.plan.n_dims:
        raise InputError(
            f"{request.images} holds {images.n_dims}D images",
            f"the model takes {model.plan.n_dims}D ones",
        )
    dataset = Dataset(images, model.normalization, model.sizes, request.device)
    feature, logits = embed(model.network.to(request.device), dataset, model.settings)
    description = model.extractor(images) if model.extractor else None
    feature = joined(feature, description, model.settings.descriptor_share)
    score, is_near = extend(feature, model.feature, model.score, model.sizes, model.settings)
    nothing = torch.full((len(images.cases), len(model.sizes)), UNLABELED)
    near = nearest_labeled(feature, model.feature, model.targets, model.cases)
    predictions = predictions_of(images.cases, model.findings, score, logits, nothing, near)
    figures = {"far_from_graph": int((~is_near).sum())}
    facts = RunFacts("inductive", model.plan.kind, model.settings, figures)
    return _finish(request, predictions, feature, images.faults, facts)


def _finish(
    request: _Request,
    predictions: Predictions,
    feature: Tensor,
    faults: tuple[Fault, ...],
    facts: RunFacts,
) -> ClassificationResult:
    scores = evaluate_predictions(predictions, request.truth)
    write_results(request.output, predictions, scores, faults, facts)
    result = ClassificationResult(request.output, predictions, scores, feature, faults)
    if faults:
        raise PartlyClassifiedError(result)
    return result


def _require_images(table: LabelTable, files: Mapping[str, Path], folder: Path) -> None:
    cause = f"it is labeled, but has no image in {folder}"
    remedy = f"Correct the case id in {table.source}, or add the image"
    missing = [case for case, cells in table.rows.items() if any(cells) and case not in files]
    if missing:
        faults = [Fault(case, "check", cause, remedy, code="T06") for case in missing]
        raise FaultsError(faults, "labels without images")


def _require_labels_left(table: LabelTable, findings: Sequence[Finding], images: ImageSet) -> None:
    """Refuse classes whose labeled images could not be read."""
    if images.faults:
        unread = {fault.case for fault in images.faults}
        rows = {case: cells for case, cells in table.rows.items() if case not in unread}
        if findings_of(replace(table, rows=rows)) != tuple(findings):
            raise FaultsError(list(images.faults), "labeled images cannot be read")
