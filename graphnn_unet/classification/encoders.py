"""Networks that turn an image into a row of features, and the classifier on top."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphnn_unet.errors import InputError, MissingFileError, UnsafeFileError
from graphnn_unet.progress import say

TORCHVISION = ("resnet18", "resnet50", "vgg16")
BUILT_IN = ("small", "autoencoder", *TORCHVISION)
_CHOICES = f"{', '.join(BUILT_IN)}, one of these with :WEIGHTS, unet:MODEL, or FILE.py:Class"


@dataclass(frozen=True)
class EncoderPlan:
    """What is needed to build the same encoder again.

    Attributes:
        kind: One of ``BUILT_IN``, ``unet``, or ``own`` for a user's module.
        n_channels: Channels of the images.
        n_dims: 2 or 3.
        details: For ``unet``: plans, description, trainer and configuration of the model.
    """

    kind: str
    n_channels: int
    n_dims: int
    details: dict[str, Any] = field(default_factory=dict)


class SmallEncoder(nn.Module):
    """Five convolutions that train on a CPU in minutes.

    Args:
        n_channels: Channels of the images.
        n_dims: 2 or 3.
        width: Channels of the first convolution; the last has eight times as many.
    """

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


class Decoder(nn.Module):
    """The way back from the maps of a :class:`SmallEncoder` to the image."""

    def __init__(self, encoder: SmallEncoder, n_channels: int, n_dims: int):
        super().__init__()
        convolution = nn.Conv2d if n_dims == 2 else nn.Conv3d
        mode = "bilinear" if n_dims == 2 else "trilinear"
        widths = [encoder.n_features // share for share in (1, 2, 4, 8)]
        layers: list[nn.Module] = []
        for before, after in zip(widths, [*widths[1:], widths[-1]], strict=True):
            layers += [
                nn.Upsample(scale_factor=2, mode=mode, align_corners=False),
                convolution(before, after, 3, 1, 1),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, convolution(widths[-1], n_channels, 3, 1, 1))
        self._mode = mode

    def forward(self, maps: Tensor, size: tuple[int, ...]) -> Tensor:
        """The image of spatial ``size``."""
        made = self.layers(maps)
        return nn.functional.interpolate(made, size=size, mode=self._mode, align_corners=False)


class EmbeddingNetwork(nn.Module):
    """An encoder, dropout and one linear layer a finding, side by side.

    Args:
        encoder: Images ``(n, c, ...)`` to features ``(n, q)``, or to maps, which are averaged.
        n_features: ``q``.
        n_outputs: Classes of all findings together.
        dropout: Share of features left out in training.
    """

    def __init__(self, encoder: nn.Module, n_features: int, n_outputs: int, dropout: float):
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(n_features, n_outputs)

    def features(self, image: Tensor) -> Tensor:
        """``(n, q)``, what the last linear layer sees, without dropout."""
        made = self.encoder(image)
        return made if made.dim() == 2 else made.flatten(2).mean(dim=2)

    def forward(self, image: Tensor) -> Tensor:
        """``(n, k)`` logits."""
        return self.classifier(self.dropout(self.features(image)))


class _RepeatChannel(nn.Module):
    """Grey pictures for a network that wants three channels."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image.expand(-1, 3, -1, -1))


class _BottleneckOfUNet(nn.Module):
    """The last maps of a segmentation network's encoder."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        found = self.network(image)
        return found[-1] if isinstance(found, (list, tuple)) else found


def make_encoder(
    wanted: str | nn.Module | Callable[..., nn.Module], n_channels: int, n_dims: int
) -> tuple[nn.Module, EncoderPlan]:
    """The encoder that a user asks for, with weights where the word names some.

    Args:
        wanted: A word of ``BUILT_IN``, ``WORD:WEIGHTS`` with a file of weights,
            ``unet:MODEL`` with the folder of a trained segmentation model, ``FILE.py:Class`` or
            ``package.module:Class``, or in Python a module or a function
            ``(n_channels, n_dims) -> module``.
        n_channels: Channels of the images.
        n_dims: 2 or 3.

    Raises:
        InputError: The word is unknown, or the encoder does not fit the images.
        MissingFileError: A file is not there.
        UnsafeFileError: The weights are something else than tensors.
    """
    if not isinstance(wanted, str):
        made = wanted if isinstance(wanted, nn.Module) else _built(wanted, n_channels, n_dims)
        return made, EncoderPlan("own", n_channels, n_dims)
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
        own = _own_class(path, name)
        return _built(own, n_channels, n_dims), EncoderPlan("own", n_channels, n_dims)
    raise InputError(f"encoder {wanted!r} is unknown", f"there are {_CHOICES}")


def build(plan: EncoderPlan) -> nn.Module:
    """An encoder without trained weights.

    Raises:
        InputError: It does not fit the images, or only the user can make it.
    """
    if plan.kind in ("small", "autoencoder"):
        return SmallEncoder(plan.n_channels, plan.n_dims)
    if plan.kind == "unet":
        return _unet_encoder(plan.details)[0]
    if plan.kind not in TORCHVISION:
        raise InputError(
            "the model has an encoder of its own", "its class is not in the file",
            "Give it again with --encoder FILE.py:Class",
        )  # fmt: skip
    if plan.n_dims != 2:
        raise InputError(
            f"{plan.kind} takes pictures, these are volumes", "",
            "Use --encoder small, autoencoder or unet:MODEL",
        )  # fmt: skip
    from graphnn_unet.networks.vision import import_torchvision

    network = getattr(import_torchvision().models, plan.kind)(weights=None)
    if plan.kind == "vgg16":
        network.classifier = network.classifier[:-1]  # 4096 features
    else:
        network.fc = nn.Identity()
    return _RepeatChannel(network)


def feature_count(encoder: nn.Module, example: Tensor) -> int:
    """Length of a row of features, by trying.

    Args:
        encoder: Any module.
        example: ``(n, c, ...)`` images, two at least.

    Raises:
        InputError: The encoder fails on the images or returns something else than features.
    """
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            made = encoder(example)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"the encoder does not take images of shape {tuple(example.shape[1:])}",
            (str(error).splitlines() or [type(error).__name__])[0][:160],
            "Choose another --encoder or --image-size",
        ) from error
    finally:
        encoder.train(was_training)
    if not isinstance(made, Tensor) or made.dim() < 2 or len(made) != len(example):
        raise InputError("the encoder does not return one row of features an image")
    return made.shape[1]


def _load_weights(encoder: nn.Module, path: Path, word: str) -> None:
    """Put a file of weights into an encoder; the classifier of the file is left out."""
    state = read_weights(path)
    target = encoder.network if isinstance(encoder, _RepeatChannel) else encoder
    own = target.state_dict()
    fitting = {key: value for key, value in state.items() if key in own}
    missing = sorted(set(own) - set(fitting))
    wrong = [key for key, value in fitting.items() if value.shape != own[key].shape]
    if missing or wrong:
        first = (missing or wrong)[0]
        raise InputError(
            f"the weights of {path} are not those of {word}",
            f"{len(missing)} of its {len(own)} tensors are missing and {len(wrong)} have another "
            f"shape, the first is {first}",
            "Give the file of this architecture",
        )
    target.load_state_dict(fitting)


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name of a file that ``torch.save`` wrote; its SHA-256 is said.

    Raises:
        MissingFileError: There is no such file.
        UnsafeFileError: It holds something else than tensors and plain values.
        InputError: It is damaged or no table of tensors.
    """
    if not path.is_file():
        raise MissingFileError(f"the weights {path} are missing")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(
            f"the weights {path} are refused",
            "they hold something else than tensors, or the file is damaged",
            "Save them with torch.save(network.state_dict(), FILE)",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"the weights {path} cannot be read", "the file is damaged") from error
    for key in ("network_weights", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path} is no table of weights")
    if any(not bool(torch.isfinite(v).all()) for v in content.values() if v.is_floating_point()):
        raise InputError(f"the weights {path} are not finite")
    say(f"weights: {path}, SHA-256 {digest}")
    return content


def _from_segmentation(folder: Path, n_channels: int, n_dims: int) -> tuple[nn.Module, EncoderPlan]:
    """The encoder of a trained segmentation model, its first fold."""
    from graphnn_unet.models.find import available_folds
    from graphnn_unet.models.load import load_model_state, read_description
    from graphnn_unet.storage.checkpoints import FINAL
    from graphnn_unet.storage.safe_load import check_plans, read_json

    if not folder.is_dir():
        raise MissingFileError(f"the model {folder} is missing", "", "Give the folder of a model")
    description = read_description(folder)
    plans = check_plans(read_json(folder / "plans.json"), folder / "plans.json")
    fold = available_folds(folder, FINAL, None)[0]
    state = load_model_state(folder / f"fold_{fold}" / FINAL)
    details = {
        "plans": plans,
        "description": description,
        "trainer": state["trainer_name"],
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
    from graphnn_unet.models.load import load_weights

    load_weights(network, state, str(folder))
    return encoder, EncoderPlan("unet", n_channels, n_dims, details)


def _unet_encoder(details: Mapping[str, Any]) -> tuple[nn.Module, nn.Module, tuple[int, int]]:
    """Encoder, whole network, and the channels and axes it takes."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from graphnn_unet.models.load import build_network
    from graphnn_unet.storage.safe_load import check_plans

    manager = PlansManager(check_plans(details["plans"], "the stored plan"))
    configuration, description = details["configuration"], details["description"]
    network = build_network(details["trainer"], manager, configuration, description)
    if not hasattr(network, "encoder"):
        raise InputError("the segmentation model has no encoder that can be taken out")
    n_dims = len(manager.get_configuration(configuration).patch_size)
    n_channels = len(description.get("channel_names") or description["modality"])
    return _BottleneckOfUNet(network.encoder), network, (n_channels, n_dims)


def _own_class(path: str, name: str) -> Callable[..., nn.Module]:
    try:
        if path.endswith(".py"):
            file = Path(path).expanduser().resolve()
            if not file.is_file():
                raise MissingFileError(f"the file of the encoder {file} is missing")
            spec = importlib.util.spec_from_file_location(f"graphnn_unet_user_{file.stem}", file)
            module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
            sys.modules[module.__name__] = module
            spec.loader.exec_module(module)  # type: ignore[union-attr]
        else:
            module = importlib.import_module(path)
    except MissingFileError:
        raise
    except Exception as error:  # whatever a user's file may raise
        raise InputError(
            f"encoder {path}:{name} cannot be imported",
            f"{type(error).__name__}: {error}",
            f"There are {_CHOICES}",
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise InputError(f"{path} has no class {name}")
    return found


def _built(own: Callable[..., Any], n_channels: int, n_dims: int) -> nn.Module:
    try:
        made = own(n_channels, n_dims)
    except TypeError as error:
        raise InputError(
            "the encoder cannot be made", str(error),
            "Let its constructor take (n_channels, n_dims)",
        ) from error  # fmt: skip
    if not isinstance(made, nn.Module):
        raise InputError(f"the encoder is a {type(made).__name__}, not a torch.nn.Module")
    return made
