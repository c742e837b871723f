"""``classify``: a folder of images and a table with a few labels in, predictions for all out."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphnn_unet.classification.descriptors import DescriptorExtractor, joined
from graphnn_unet.classification.encoders import (
    EmbeddingNetwork,
    EncoderChoice,
    EncoderPlan,
    feature_count,
    make_encoder,
)
from graphnn_unet.classification.evaluation import (
    GroundTruth,
    check_truth,
    evaluate_predictions,
    of_new_images,
)
from graphnn_unet.classification.fitting import Dataset, embed, torch_generator
from graphnn_unet.classification.images import ImageSet, Normalization, find_images, load_images
from graphnn_unet.classification.label_propagation import (
    extend,
    nearest_labeled,
    nodes_among,
    to_predictions,
)
from graphnn_unet.classification.learner import Learner, hold_out
from graphnn_unet.classification.outputs import (
    Predictions,
    clear_results,
    predictions_of,
    refuse_results,
    write_results,
    write_summary,
)
from graphnn_unet.classification.settings import ClassifySettings
from graphnn_unet.classification.stored import (
    CHECKPOINT,
    StoredModel,
    fingerprint,
    load_model,
    load_state,
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
from graphnn_unet.errors import CasesFailedError, Fault, FaultsError, InputError, RefusedError
from graphnn_unet.metrics.classification import ClassificationScore
from graphnn_unet.progress import counted, say
from graphnn_unet.seeds import Stream, torch_seed
from graphnn_unet.settings import make_section
from graphnn_unet.storage.atomic import remove_leftovers
from graphnn_unet.storage.locks import folder_lock


@dataclass(frozen=True)
class ClassificationResult:
    """What a classification found.

    Attributes:
        predictions: Decisions, probabilities, certainties and neighbors of all images.
        scores: Figures of each finding, where the ground truth was given.
        feature: ``(n, q)`` unit rows of the images, whose cosines are the graph's.
        evaluated_on: Which images the scores are of, in words.
    """

    output: Path
    predictions: Predictions
    scores: Mapping[str, ClassificationScore]
    feature: Tensor
    faults: tuple[Fault, ...]
    evaluated_on: str = ""


class PartlyClassifiedError(CasesFailedError):
    """Some images could not be read; the others are classified."""

    def __init__(self, result: ClassificationResult):
        self.result = result
        super().__init__(result.faults, f"{counted(len(result.faults), 'image')} could not be read")


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
        truth: Table of the same columns for the evaluation. Before the training only its columns
            and case ids are checked, classes are never read before all is decided. Only cases whose
            label was not given count, and with a model only those that are no nodes of its graph.
        model: Output folder of an earlier call; the images are then placed beside its graph and
            nothing is trained.
        encoder: ``small`` (default), ``resnet18``, ``resnet50``, ``vgg16``, one of them with
            ``:WEIGHTS``, ``unet:MODEL``, ``FILE.py:Class``, ``package.module:Class``,
            a module, or a function ``(n_channels, n_dims) -> module``.
        device: ``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``.
        resume: Go on with an interrupted call of the same images, labels and settings.
        overwrite: Replace older results; they are deleted when all inputs have been checked.
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
    request = _Request(
        Path(images), Path(output), truth, encoder, resolve_device(device), resume, overwrite
    )
    if model is not None:
        _require_as_trained(request, Path(model), list(settings))
    section = make_section(ClassifySettings, settings)
    with folder_lock(request.output, "gnnunet_classify"):
        remove_leftovers(request.output)
        if not (resume or overwrite):
            refuse_results(request.output)
        if labels is not None:
            return _train(request, Path(labels), section)
        return _place_images(request, Path(str(model)))


@dataclass(frozen=True)
class _Request:
    """What both ways of classifying are asked for."""

    images: Path
    output: Path
    truth: Path | str | None
    encoder: EncoderChoice | None
    device: torch.device
    resume: bool
    overwrite: bool


def _require_as_trained(request: _Request, model: Path, settings: Sequence[str]) -> None:
    """Refuse what does not go with a finished model."""
    if settings or request.resume:
        raise InputError(
            "a model is used as it was trained",
            f"{', '.join(settings) or 'resume'} cannot be chosen with --model",
            "Leave it out",
        )
    if request.output.resolve() == model.resolve():
        raise RefusedError(f"{request.output} is the folder of the model", "", "Choose another -o")


@contextmanager
def _hint_to_go_on(folder: Path) -> Generator[None]:
    """In the block an interruption says how to go on, where a checkpoint was written."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not (folder / CHECKPOINT).is_file():
            raise
        hint = "the same command with --c (instead of --overwrite) goes on"
        raise KeyboardInterrupt(hint) from interrupt


def _train(request: _Request, labels: Path, settings: ClassifySettings) -> ClassificationResult:
    table = read_table(labels)
    files = find_images(request.images)
    _require_images(table, files, request.images)
    findings = findings_of(table)
    images = load_images(files, settings.image_size)
    targets = encode(table, findings, images.cases)
    _require_labels_left(table, findings, images)
    truth = check_truth(request.truth, findings, images, targets, table.patients)
    extractor, description = None, None
    if settings.descriptor_share > 0:
        extractor, description = DescriptorExtractor.learn(images, settings.augmentation)
    sizes = tuple(len(finding.classes) for finding in findings)
    scale = Normalization.of(images)
    dataset = Dataset(images, scale, sizes, request.device, description)
    generator = torch_generator(settings.seed, Stream.CLASSIFIER_SPLIT)
    groups = groups_of(table, images.cases)
    split = hold_out(targets, settings.validation_share, generator, groups)
    _tell(images, findings, targets, split.n_held_out)
    network, plan = _new_network(request, dataset, settings)
    encoder = request.encoder or "small"
    shown = encoder if isinstance(encoder, str) else type(encoder).__name__
    mark = fingerprint(images, targets, settings, shown)
    save = partial(save_state, folder=request.output, mark=mark)
    learner = Learner(network, dataset, split, settings, save)
    if request.resume:
        learner.load_state_dict(load_state(request.output, mark))
    elif request.overwrite:
        clear_results(request.output)
    with _hint_to_go_on(request.output):
        learner.fit()
        return _write_trained(request, learner, plan, findings, extractor, truth)


def _write_trained(
    request: _Request,
    learner: Learner,
    plan: EncoderPlan,
    findings: tuple[Finding, ...],
    extractor: DescriptorExtractor | None,
    truth: GroundTruth | None,
) -> ClassificationResult:
    """Model and predictions of a finished training."""
    settings, dataset, split = learner.settings, learner.dataset, learner.labels
    images = dataset.images
    feature, logits, diffused = learner.diffused(use_validation=settings.final_uses_validation)
    given = split.everything
    edge = images.pixels.shape[-1]
    model = StoredModel(
        learner.mean, plan, settings, findings, dataset.normalization, edge, images.cases,
        feature, diffused.score, given, extractor,
    )  # fmt: skip
    save_model(model, request.output)
    near = nearest_labeled(feature, feature, given, images.cases, torch.arange(len(feature)))
    predictions = predictions_of(images.cases, findings, diffused.score, logits, given, near)
    figures = to_predictions(diffused.score, given, dataset.sizes, diffused.figures).figures
    facts = {"kind": "transductive", "n_held_out": split.n_held_out, "diffusion": figures}
    log = learner.training_state.log
    return _finish(request, model, predictions, feature, images.faults, facts, truth, log)


def _new_network(
    request: _Request, dataset: Dataset, settings: ClassifySettings
) -> tuple[EmbeddingNetwork, EncoderPlan]:
    images = dataset.images
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(settings.seed, Stream.CLASSIFIER_WEIGHTS))
        body, plan = make_encoder(request.encoder or "small", images.pixels.shape[1], images.n_dims)
        n_features = feature_count(body, dataset.normalization(images.pixels[:2]))
        network = EmbeddingNetwork(body, n_features, sum(dataset.sizes), settings.dropout)
    return network.to(request.device), plan


def _tell(images: ImageSet, findings: Sequence[Finding], targets: Tensor, n_held_out: int) -> None:
    n_labeled = int((targets >= 0).any(dim=1).sum())
    classes = "; ".join(f"{f.name}: {', '.join(f.classes)}" for f in findings)
    say(f"{counted(len(images.cases), 'image')}, {n_labeled} labeled ({classes})")
    if n_held_out:
        say(f"{n_held_out} labeled images are held out to stop the training")
    else:
        say("too few labels to hold some out: training runs its full length")


def _place_images(request: _Request, folder: Path) -> ClassificationResult:
    """New images beside the graph of a finished model."""
    model = load_model(folder, request.encoder)
    files = find_images(request.images)
    images = load_images(files, model.image_size, n_channels=model.plan.n_channels)
    if images.n_dims != model.plan.n_dims:
        raise InputError(
            f"{request.images} holds {images.n_dims}D images",
            f"the model takes {model.plan.n_dims}D ones",
        )
    nothing = torch.full((len(images.cases), len(model.sizes)), UNLABELED)
    truth = check_truth(request.truth, model.findings, images, nothing)
    dataset = Dataset(images, model.normalization, model.sizes, request.device)
    feature, logits = embed(model.network.to(request.device), dataset, model.settings)
    description = model.extractor(images) if model.extractor else None
    feature = joined(feature, description, model.settings.descriptor_share)
    score, is_near = extend(feature, model.feature, model.score, model.sizes, model.settings)
    near = nearest_labeled(feature, model.feature, model.targets, model.cases)
    predictions = predictions_of(images.cases, model.findings, score, logits, nothing, near)
    figures = {"far_from_graph": int((~is_near).sum())}
    by_id, in_graph = nodes_among(feature, images.cases, model.feature, model.cases)
    truth = of_new_images(truth, by_id, in_graph) if truth else None
    facts = {
        "kind": "inductive",
        "n_held_out": 0,
        "diffusion": figures,
        "in_graph": [images.cases[row] for row in in_graph.nonzero().flatten().tolist()],
    }
    if request.overwrite:
        clear_results(request.output)
    return _finish(request, model, predictions, feature, images.faults, facts, truth)


def _finish(
    request: _Request,
    model: StoredModel,
    predictions: Predictions,
    feature: Tensor,
    faults: tuple[Fault, ...],
    facts: Mapping[str, Any],
    truth: GroundTruth | None,
    log: Sequence[Mapping[str, Any]] = (),
) -> ClassificationResult:
    """Write everything; predictions first, so that no truth can cost them."""
    facts = {**facts, "encoder": model.plan.kind, "settings": model.settings.model_dump()}
    write_results(request.output, predictions, {}, faults, facts, log)
    scores: dict[str, ClassificationScore] = {}
    if truth is not None:
        scores = evaluate_predictions(predictions, truth.path, truth.patients, truth.left_out)
        write_summary(request.output, predictions, scores, faults, {**facts, **truth.facts()})
    evaluated_on = truth.counted if truth else ""
    result = ClassificationResult(
        request.output, predictions, scores, feature, faults, evaluated_on
    )
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
