"""A trained model for programs without nnU-Net: ONNX, PyTorch's export, or a bundle of MONAI.

Beside the networks lies what comes before and behind them, as JSON. Each network is run again from
its file and compared with the trained one before anything gets its final name.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from graphnn_unet.errors import GraphnnError, InputError, require_installed
from graphnn_unet.images.label_ids import as_user_has_them, ids_of_user
from graphnn_unet.models.monai_bundle import (
    NETWORK,
    inference_config,
    metadata,
    order_from_xyz,
    require_bundled,
)
from graphnn_unet.prediction.predictor import Predictor
from graphnn_unet.storage.atomic import atomic_path, write_json

NNUNET = "nnunet"
Format = Literal["nnunet", "onnx", "torch-export", "monai-bundle"]
FORMATS: tuple[Format, ...] = ("nnunet", "onnx", "torch-export", "monai-bundle")
DESCRIPTION = "inference.json"
LARGEST_DIFFERENCE = 1e-4
"""Largest difference of logits, relative to their spread, that the export's own check accepts."""

_INSIDE = "in any channel, holes filled"
_MOST_IN_A_BATCH = 64
_OPSET = 18


def require_format(kind: str) -> None:
    """Refuse an unknown format, or one whose libraries are missing.

    Raises:
        InputError: Says what to install.
    """
    if kind not in FORMATS:
        raise InputError(f"there is no format {kind!r}", f"they are {', '.join(FORMATS)}")
    if kind == "onnx":
        require_installed(("onnx", "onnxscript", "onnxruntime"), "onnx", "ONNX cannot be written")


def write_format(predictor: Predictor, work: Path, kind: Format, facts: dict[str, Any]) -> float:
    """Write the networks of a model and their description.

    Args:
        predictor: The model, on the CPU.
        work: Folder to write to.
        kind: Of the files; not ``nnunet``.
        facts: Trainer and folds, for people.

    Returns:
        Largest difference of logits between the written and the trained networks, on noise.

    Raises:
        InputError: The network cannot be written so.
        GraphnnError: What was written computes something else.
    """
    networks = predictor.networks()
    if kind == "monai-bundle":
        return _write_bundle(predictor, networks, work, facts)
    write = {"onnx": _write_onnx, "torch-export": _write_torch}[kind]
    ending = {"onnx": ".onnx", "torch-export": ".pt2"}[kind]
    patch = _noise(2, predictor.n_channels, *predictor.configuration.patch_size)
    difference, files = 0.0, []
    for fold, network in zip(facts["folds"], networks, strict=True):
        files.append(f"fold_{fold}{ending}")
        module = _Named(network).eval()
        with atomic_path(work / files[-1]) as temporary, _named_as(predictor, kind):
            run = write(module, patch, temporary)
            difference = max(difference, _difference(module, run, patch))
    write_json(work / DESCRIPTION, _description(predictor, files, facts))
    return difference


class _Named(nn.Module):
    """A network whose input is called ``image``, whatever its own code calls it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)


class WholeModel(nn.Module):
    """Mean logits of all folds and mirrored copies of a patch with axes x, y, z.

    Args:
        networks: A network a fold, with axes of their own.
        order: For each axis of theirs, the one of x, y, z that it is.
        mirroring: Axes of theirs along which copies are mirrored.
    """

    def __init__(
        self, networks: Sequence[nn.Module], order: Sequence[int], mirroring: Sequence[int]
    ):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.order = [0, 1, *(2 + axis for axis in order)]
        self.back = np.argsort(self.order).tolist()
        axes = [2 + axis for axis in mirroring]
        self.flips = [
            list(flip) for n in range(len(axes) + 1) for flip in itertools.combinations(axes, n)
        ]

    def forward(self, image: Tensor) -> Tensor:
        """``(n, c, x, y, z)`` to ``(n, k, x, y, z)``."""
        data = image.permute(self.order)
        copies = [
            torch.flip(network(torch.flip(data, flip)), flip)
            for network in self.networks
            for flip in self.flips
        ]
        return torch.stack(copies).mean(dim=0).permute(self.back)


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@contextmanager
def _named_as(predictor: Predictor, kind: str) -> Iterator[None]:
    """Tell the user of a network that PyTorch cannot trace; keep its exporters quiet."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except GraphnnError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise InputError(
            f"a network of {predictor.trainer_name} cannot be written as {kind}",
            (str(error).strip().splitlines() or [type(error).__name__])[0][:160],
            "Export it without --format, as a model of nnU-Net",
        ) from error
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


@torch.no_grad()
def _difference(trained: nn.Module, run: Callable[[Tensor], Tensor], patch: Tensor) -> float:
    """Largest difference of logits.

    Raises:
        GraphnnError: It is larger than rounding explains.
    """
    expected, written = trained(patch), run(patch)
    difference = float((expected - written).abs().max())
    if not difference <= LARGEST_DIFFERENCE * max(1.0, float(expected.std())):
        raise GraphnnError(
            "the exported network differs from the trained one",
            f"by up to {difference:.2g} in the logits of a test patch; nothing was written",
        )
    return difference


def _exported(module: nn.Module, patch: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=_MOST_IN_A_BATCH)
    return torch.export.export(module, (patch,), dynamic_shapes={"image": {0: batch}})


@torch.no_grad()
def _write_torch(module: nn.Module, patch: Tensor, temporary: Path) -> Callable[[Tensor], Tensor]:
    torch.export.save(_exported(module, patch), temporary)
    return torch.export.load(temporary).module()


@torch.no_grad()
def _write_onnx(module: nn.Module, patch: Tensor, temporary: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    torch.onnx.export(
        _exported(module, patch), (patch,), temporary, dynamo=True, verbose=False,
        external_data=False, opset_version=_OPSET, input_names=["image"],
        output_names=["logits"],
    )  # fmt: skip
    written = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(written.run(None, {"image": image.numpy()})[0])


def _write_bundle(
    predictor: Predictor, networks: Sequence[nn.Module], work: Path, facts: dict[str, Any]
) -> float:
    require_bundled(predictor)
    order = order_from_xyz(predictor)
    whole = WholeModel(networks, order, predictor.mirroring_axes).eval()
    shape = [0, 0, 0]
    for axis, size in zip(order, predictor.configuration.patch_size, strict=True):
        shape[axis] = int(size)
    patch = _noise(1, predictor.n_channels, *shape)
    with atomic_path(work / NETWORK) as temporary, _named_as(predictor, "monai-bundle"):
        with torch.no_grad():
            traced = torch.jit.trace(whole, patch, check_trace=False)
            cast(torch.jit.ScriptModule, traced).save(str(temporary))
        difference = _difference(whole, torch.jit.load(str(temporary)), patch)
    write_json(work / "configs" / "inference.json", inference_config(predictor))
    write_json(work / "configs" / "metadata.json", metadata(predictor, facts))
    write_json(work / "docs" / DESCRIPTION, _description(predictor, [NETWORK], facts))
    return difference


def _description(
    predictor: Predictor, files: Sequence[str], facts: dict[str, Any]
) -> dict[str, Any]:
    """What this program does before and behind the networks, in order."""
    configuration, plans = predictor.configuration, predictor.plans
    known = plans.foreground_intensity_properties_per_channel
    schemes = zip(configuration.normalization_schemes, configuration.use_mask_for_norm, strict=True)
    data, back = (
        configuration.configuration[f"resampling_fn_{what}_kwargs"]
        for what in ("data", "probabilities")
    )
    return {
        "schema_version": 1,
        **facts,
        "networks": list(files),
        "input": {
            "name": "image", "axes": "batch, channel, then the network's axes", "dtype": "float32",
            "channels": predictor.channel_names, "patch_size": list(configuration.patch_size),
        },
        "output": {
            "name": "logits", "classes": predictor.label_manager.num_segmentation_heads,
            "labels": as_user_has_them(predictor.dataset_json)["labels"],
        },
        "before": [
            {"step": "turn", "to": plans.plans.get("orientation"), "axes": "x, y, z of the file"},
            {"step": "transpose", "z, y, x of the file to": list(plans.transpose_forward)},
            {"step": "crop", "to": "the box of voxels that are not 0 in any channel"},
            {
                "step": "normalize", "where_not_0": _INSIDE,
                "channels": [
                    {"scheme": scheme, "where_not_0_alone": bool(mask), **known.get(str(c), {})}
                    for c, (scheme, mask) in enumerate(schemes)
                ],
            },
            {"step": "resample", "to_mm": list(configuration.spacing), **data},
        ],
        "windows": {
            "step_size": predictor.settings["step_size"],
            "weights": "Gaussian, sigma 1/8 of the patch", "padding": "0, on both sides",
            "mirrored_along": list(predictor.mirroring_axes), "copies and networks": "mean logits",
        },
        "behind": [
            {"step": "resample logits", **back},
            _decision(predictor),
            {"step": "undo", "what": "crop (with background), transpose, turn"},
            {"step": "ids", "of the label maps": ids_of_user(predictor.dataset_json)},
        ],
    }  # fmt: skip


def _decision(predictor: Predictor) -> dict[str, Any]:
    if predictor.label_manager.has_regions:
        order = list(predictor.label_manager.regions_class_order or ())
        return {"step": "sigmoid > 0.5", "later ones overwrite earlier ones": order}
    return {"step": "arg max"}
