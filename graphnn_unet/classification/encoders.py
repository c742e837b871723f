"""Networks that turn an image into a row of features, and the classifier on top."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.networks.vision import import_timm
from graphnn_unet.progress import say
from graphnn_unet.storage.weights import read_weights
from graphnn_unet.user_code import load_class

BACKBONES = ("resnet18", "resnet50", "vgg16")
BUILT_IN = ("small", *BACKBONES)
_CHOICES = f"{', '.join(BUILT_IN)}, one of these with :WEIGHTS, unet:MODEL, or FILE.py:Class"
_VGG_LAYERS = {"classifier.0.": "pre_logits.fc1.", "classifier.3.": "pre_logits.fc2."}


EncoderChoice = str | nn.Module | Callable[..., nn.Module]
"""How a user names an encoder: a word, a module, or a function that makes one."""


@dataclass(frozen=True)
class EncoderPlan:
    """What is needed to build the same encoder again.

    Attributes:
        kind: One of ``BUILT_IN``, ``unet``, or ``own`` for a user's module.
        details: For ``unet``: plans, description, trainer and configuration of the model.
    """

    kind: str
    n_channels: int
    n_dims: int
    details: dict[str, Any] = field(default_factory=dict)


class SmallEncoder(nn.Module):
    """Five convolutions that train on a CPU in minutes; the last has 8 ``width`` channels."""

    def __init__(self, n_channels: int, n_dims: int, width: int = 16):
        super().__init__()
        convolution = nn.Conv2d if n_dims == 2 else nn.Conv3d
        normalization = nn.BatchNorm2d if n_dims == 2 else nn.BatchNorm3d
        widths = (n_channels, width, 2 * width, 4 * width, 8 * width, 8 * width)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths)):
            stride = 1 if number == 4 else 2
            layers += [
                convolution(before, after, 3, stride, 1, bias=False),
                normalization(after),
                nn.ReLU(inplace=True),
            ]
        self.maps = nn.Sequential(*layers)
        self.n_features = widths[-1]

    def forward(self, image: Tensor) -> Tensor:
        """``(n, q)`` features: the mean of the last maps."""
        return self.maps(image).flatten(2).mean(dim=2)


class EmbeddingNetwork(nn.Module):
    """An encoder, dropout and one linear layer a finding, side by side.

    The encoder turns images ``(n, c, ...)`` into features ``(n, q)``, or into maps, which are
    averaged.
    """

    def __init__(self, encoder: nn.Module, n_features: int, n_outputs: int, dropout: float):
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(n_features, n_outputs)

    def features(self, image: Tensor) -> Tensor:
        """``(n, q)``, what the last linear layer sees, without dropout."""
        feature = self.encoder(image)
        return feature if feature.dim() == 2 else feature.flatten(2).mean(dim=2)

    def forward(self, image: Tensor) -> Tensor:
        """``(n, k)`` logits."""
        return self.classifier(self.dropout(self.features(image)))


class _BottleneckOfUNet(nn.Module):
    """The last maps of a segmentation network's encoder."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        stages = self.network(image)
        return stages[-1] if isinstance(stages, (list, tuple)) else stages


def make_encoder(
    wanted: EncoderChoice, n_channels: int, n_dims: int
) -> tuple[nn.Module, EncoderPlan]:
    """The encoder that a user asks for, with weights where the word names some.

    ``wanted`` is what :func:`graphnn_unet.classify` takes; images have 2 or 3 spatial axes.

    Raises:
        InputError: The word is unknown, or the encoder does not fit the images.
        MissingFileError: A file is not there.
        UnsafeFileError: The weights are something else than tensors.
    """
    if not isinstance(wanted, str):
        encoder = wanted if isinstance(wanted, nn.Module) else _built(wanted, n_channels, n_dims)
        return encoder, EncoderPlan("own", n_channels, n_dims)
    word, _, source = wanted.partition(":")
    if word == "unet" and source:
        return _from_segmentation(Path(source).expanduser(), n_channels, n_dims)
    if word in BUILT_IN:
        plan = EncoderPlan(word, n_channels, n_dims)
        encoder = build(plan)
        if source:
            _load_weights(encoder, Path(source).expanduser(), word)
        return encoder, plan
    path, _, name = wanted.rpartition(":")
    if path and name.isidentifier():
        encoder_class = load_class(path, name, "encoder")
        return _built(encoder_class, n_channels, n_dims), EncoderPlan("own", n_channels, n_dims)
    raise InputError(f"encoder {wanted!r} is unknown", f"there are {_CHOICES}")


def build(plan: EncoderPlan) -> nn.Module:
    """An encoder without trained weights.

    Raises:
        InputError: It does not fit the images, or only the user can make it.
    """
    if plan.kind in ("small", "autoencoder"):  # up to version 0.0 it had a decoder in training
        return SmallEncoder(plan.n_channels, plan.n_dims)
    if plan.kind == "unet":
        return _unet_encoder(plan.details)[0]
    if plan.kind not in BACKBONES:
        raise InputError(
            "the model has an encoder of its own",
            "its class is not in the file",
            "Give it again with --encoder FILE.py:Class",
        )
    if plan.n_dims != 2:
        raise InputError(
            f"{plan.kind} takes pictures, these are volumes",
            "",
            "Use --encoder small or unet:MODEL",
        )
    timm = import_timm(f"--encoder {plan.kind}")
    return timm.create_model(plan.kind, in_chans=plan.n_channels, num_classes=0)


def feature_count(encoder: nn.Module, example: Tensor) -> int:
    """Length of a row of features, by trying two images or more.

    Raises:
        InputError: The encoder fails on the images or returns something else than features.
    """
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            feature = encoder(example)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"the encoder does not take images of shape {tuple(example.shape[1:])}",
            (str(error).splitlines() or [type(error).__name__])[0][:160],
            "Choose another --encoder or --image-size",
        ) from error
    finally:
        encoder.train(was_training)
    if not isinstance(feature, Tensor) or feature.dim() < 2 or len(feature) != len(example):
        raise InputError("the encoder does not return one row of features an image")
    return feature.shape[1]


def _load_weights(encoder: nn.Module, path: Path, word: str) -> None:
    """Put a file of weights into an encoder; the classifier of the file is left out."""
    weights = read_weights(path, remedy="Give a file of torch.save(network.state_dict(), FILE)")
    expected = encoder.state_dict()
    given = timm_tensors(word, weights.tensors, expected)
    missing = [key for key in expected if key not in given]
    wrong = [key for key in expected if key in given and given[key].shape != expected[key].shape]
    if missing or wrong:
        raise InputError(
            f"the weights of {path} are not those of {word}",
            f"{len(missing)} of its {len(expected)} tensors are missing and {len(wrong)} have "
            f"another shape, the first is {(missing or wrong)[0]}",
            "Give the file of this architecture",
        )
    encoder.load_state_dict({key: given[key] for key in expected})
    say(f"weights: {path}, SHA-256 {weights.sha256}")


def timm_tensors(
    kind: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors of torchvision or timm under the names and in the shapes of timm's network.

    torchvision calls the two hidden layers of VGG differently and stores them as matrices; of a
    network for colored pictures a gray one takes the sum over the channels, which is what it
    computes when gray is given three times.
    """
    renamed = {}
    for key, value in tensors.items():
        for theirs, ours in _VGG_LAYERS.items() if kind.startswith("vgg") else ():
            key = key.replace(theirs, ours)
        target = expected.get(key)
        if target is not None and value.dim() == 2 and value.numel() == target.numel():
            value = value.reshape(target.shape)
        if target is not None and value.dim() == 4 and (value.shape[1], target.shape[1]) == (3, 1):
            value = value.sum(dim=1, keepdim=True)
        renamed[key] = value
    return renamed


def _from_segmentation(folder: Path, n_channels: int, n_dims: int) -> tuple[nn.Module, EncoderPlan]:
    """The encoder of a trained segmentation model, its first fold."""
    from graphnn_unet.models.find import available_folds
    from graphnn_unet.models.load import (
        load_model_state,
        load_weights,
        network_of,
        read_description,
    )
    from graphnn_unet.storage.checkpoints import FINAL
    from graphnn_unet.storage.plan_schema import check_plans
    from graphnn_unet.storage.safe_load import read_json

    if not folder.is_dir():
        raise MissingFileError(f"the model {folder} is missing", "", "Give the folder of a model")
    description = read_description(folder)
    plans = check_plans(read_json(folder / "plans.json"), folder / "plans.json")
    fold = available_folds(folder, FINAL, None)[0]
    state = load_model_state(folder / f"fold_{fold}" / FINAL)
    details = {
        "plans": plans,
        "description": description,
        "trainer": network_of(state, folder),  # or the name of a network that needs none
        "configuration": state["init_args"]["configuration"],
    }
    encoder, network, takes = _unet_encoder(details)
    if takes != (n_channels, n_dims):
        raise InputError(
            f"the model {folder} does not fit the images",
            f"it takes {takes[1]}D images with {takes[0]} channels, these are {n_dims}D with "
            f"{n_channels}",
            "Choose another model",
        )
    load_weights(network, state, str(folder))
    return encoder, EncoderPlan("unet", n_channels, n_dims, details)


def _unet_encoder(details: Mapping[str, Any]) -> tuple[nn.Module, nn.Module, tuple[int, int]]:
    """Encoder, whole network, and the channels and axes it takes."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from graphnn_unet.models.load import build_network
    from graphnn_unet.networks.hook import planned_unet
    from graphnn_unet.storage.plan_schema import check_plans
    from graphnn_unet.storage.safe_load import require_class_name

    manager = PlansManager(check_plans(details["plans"], "the stored plan"))
    configuration, description = details["configuration"], details["description"]
    trainer = require_class_name(details["trainer"], "the stored encoder")
    network = build_network(trainer, manager, configuration, description)
    if not hasattr(network, "encoder"):
        raise InputError("the segmentation model has no encoder that can be taken out")
    n_dims = len(manager.get_configuration(configuration).patch_size)
    n_channels = len(description.get("channel_names") or description["modality"])
    return _BottleneckOfUNet(planned_unet(network).encoder), network, (n_channels, n_dims)


def _built(encoder_class: Callable[..., Any], n_channels: int, n_dims: int) -> nn.Module:
    try:
        encoder = encoder_class(n_channels, n_dims)
    except TypeError as error:
        raise InputError(
            "the encoder cannot be made",
            str(error),
            "Let its constructor take (n_channels, n_dims)",
        ) from error
    if not isinstance(encoder, nn.Module):
        raise InputError(f"the encoder is a {type(encoder).__name__}, not a torch.nn.Module")
    return encoder
