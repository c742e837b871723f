"""The files a classification leaves to be used again: the model, and the state of a training.

Both hold tensors and plain values and are loaded as such.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphnn_unet.classification.descriptors import DescriptorExtractor
from graphnn_unet.classification.encoders import (
    BACKBONES,
    EmbeddingNetwork,
    EncoderChoice,
    EncoderPlan,
    build,
    make_encoder,
    timm_tensors,
)
from graphnn_unet.classification.images import ImageSet, Normalization
from graphnn_unet.classification.learner import Learner
from graphnn_unet.classification.settings import ClassifySettings
from graphnn_unet.classification.table import Finding
from graphnn_unet.errors import GraphnnError, InputError, MissingFileError, RefusedError
from graphnn_unet.settings import make_section
from graphnn_unet.storage.atomic import atomic_path
from graphnn_unet.storage.checkpoints import plain
from graphnn_unet.storage.safe_load import load_checkpoint

MODEL, CHECKPOINT = "model.pth", "checkpoint_latest.pth"
_KEY, _VERSION, _STATE_VERSION = "gnnunet_classify", 2, 3
_REMOVED = ("trust", "reconstruction_epochs")
"""Settings of training that models of older versions hold; to place images they mean nothing."""


@dataclass(frozen=True)
class StoredModel:
    """A trained network with the graph it was used on.

    Attributes:
        feature: ``(n, q)`` float32 unit rows.
        score: ``(n, k)`` float64 diffused labels.
        targets: ``(n, f)`` given labels.
        extractor: Where descriptors take part in ``feature``.
    """

    network: EmbeddingNetwork
    plan: EncoderPlan
    settings: ClassifySettings
    findings: tuple[Finding, ...]
    normalization: Normalization
    image_size: int
    cases: tuple[str, ...]
    feature: Tensor
    score: Tensor
    targets: Tensor
    extractor: DescriptorExtractor | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Classes a finding."""
        return tuple(len(finding.classes) for finding in self.findings)


def save_model(model: StoredModel, folder: Path) -> Path:
    """Write ``model.pth``."""
    content = {
        "network_weights": plain(model.network.state_dict()),
        _KEY: {
            "version": _VERSION,
            "encoder": asdict(model.plan),
            "settings": model.settings.model_dump(),
            "findings": [[finding.name, list(finding.classes)] for finding in model.findings],
            "mean": list(model.normalization.mean),
            "deviation": list(model.normalization.deviation),
            "image_size": model.image_size,
            "cases": list(model.cases),
            "feature": model.feature,
            "score": model.score,
            "code": model.targets,
            "describer": vars(model.extractor) if model.extractor else None,
        },
    }
    with atomic_path(folder / MODEL) as temporary:
        torch.save(content, temporary)
    return folder / MODEL


def load_model(folder: Path, encoder: EncoderChoice | None = None) -> StoredModel:
    """Read ``model.pth`` of a finished classification; ``encoder`` is the user's own, if any.

    Raises:
        MissingFileError: There is none.
        InputError: The file is damaged, of another version, or needs the user's encoder.
        UnsafeFileError: It holds something else than tensors and plain values.
    """
    path = folder / MODEL
    state = load_checkpoint(path)
    content = state.get(_KEY)
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise InputError(
            f"{path} is not a model of gnnunet_classify of this version",
            "",
            "Give the output folder of gnnunet_classify",
        )
    try:
        plan = EncoderPlan(**content["encoder"])
        stored = {key: v for key, v in content["settings"].items() if key not in _REMOVED}
        settings = make_section(ClassifySettings, stored, str(path))
        findings = tuple(Finding(name, tuple(classes)) for name, classes in content["findings"])
        sizes = [len(finding.classes) for finding in findings]
        if plan.kind == "own" and encoder is not None:
            body, _ = make_encoder(encoder, plan.n_channels, plan.n_dims)
        else:
            body = build(plan)
        weights = state["network_weights"]
        n_features = weights["classifier.weight"].shape[1]
        network = EmbeddingNetwork(body, n_features, sum(sizes), settings.dropout)
        if plan.kind in BACKBONES:  # a model of the time when they were torchvision's
            weights = {key.replace("encoder.network.", "encoder."): v for key, v in weights.items()}
            weights = timm_tensors(plan.kind, weights, network.state_dict())
        network.load_state_dict(weights)
        scale = Normalization(tuple(content["mean"]), tuple(content["deviation"]))
        describer = content["describer"]
        return StoredModel(
            network, plan, settings, findings, scale, content["image_size"],
            tuple(content["cases"]), content["feature"], content["score"], content["code"],
            DescriptorExtractor(**describer) if describer else None,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, GraphnnError):  # says what is wrong already
            raise
        raise InputError(
            f"{path} is damaged",
            f"{type(error).__name__}: {str(error).splitlines()[0][:120]}",
            "Classify again, or copy the file again",
        ) from error


def fingerprint(images: ImageSet, targets: Tensor, settings: ClassifySettings, encoder: str) -> str:
    """What a training depends on, as a hash: to go on with other images would mix results."""
    inputs = json.dumps([list(images.cases), settings.model_dump(), encoder], sort_keys=True)
    digest = hashlib.sha256(inputs.encode())
    digest.update(targets.numpy().tobytes())
    for image in images.pixels:
        digest.update(image.numpy().tobytes())
    return digest.hexdigest()


def save_state(learner: Learner, folder: Path, mark: str) -> None:
    """Write ``checkpoint_latest.pth``."""
    state = plain(learner.state_dict())
    network = state.pop("network_weights")
    content = {"version": _STATE_VERSION, "mark": mark, **state}
    with atomic_path(folder / CHECKPOINT) as temporary:
        torch.save({"network_weights": network, _KEY: content}, temporary)


def load_state(folder: Path, mark: str) -> dict[str, Any]:
    """What ``learner.state_dict()`` gave, from ``checkpoint_latest.pth`` of the same training.

    Raises:
        MissingFileError: There is none.
        RefusedError: It is of other images, labels or settings, or of another version.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise MissingFileError(
            f"nothing to continue in {folder}", f"it has no {CHECKPOINT}", "Leave out --c to start"
        )
    state = load_checkpoint(path)
    content = state.get(_KEY)
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a checkpoint of gnnunet_classify")
    if content.get("version") != _STATE_VERSION:
        raise RefusedError(
            f"the training in {folder} cannot go on",
            "another version of the program began it, with other random numbers",
            "Start anew with --overwrite",
        )
    if content.get("mark") != mark:
        raise RefusedError(
            f"the training in {folder} cannot go on",
            "images, labels, settings or encoder are not those it began with",
            "Give the same ones, or start anew with --overwrite",
        )
    return {"network_weights": state["network_weights"], **content}
