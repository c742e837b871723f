"""What a bundle of MONAI says beside its network, so that MONAI's runner predicts with it alone.

The network holds the mean of all folds and mirrored copies; what comes before and behind it is said
with MONAI's own transforms. Axes are x, y, z, as MONAI reads them. Three things differ from this
program: the spacing is exact where nnU-Net rounds the size of an image and stretches it, the cubic
spline runs along all axes also where voxels are far longer along one, and the windows lie at fixed
steps instead of equal ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from graphnn_unet._version import __version__
from graphnn_unet.errors import InputError
from graphnn_unet.images.find import RAW_VOLUMES
from graphnn_unet.images.label_ids import ids_of_user
from graphnn_unet.prediction.predictor import Predictor

MONAI = "1.4"
"""Oldest version of MONAI whose transforms take these arguments."""

NETWORK = "models/model.ts"
_KEY = "image"
_Z_SCORE = "ZScoreNormalization"
_INSIDE = (
    "$lambda x: (lambda inside: __import__('torch').stack(["
    "(c - c[inside].mean()) / c[inside].std(correction=0).clamp(min=1e-8) * inside "
    "if i in {channels} else c for i, c in enumerate(x)]))(__import__('torch').as_tensor("
    "__import__('scipy.ndimage').ndimage.binary_fill_holes((x != 0).any(0).cpu().numpy())))"
)
"""nnU-Net's mask is what is not 0 in any channel, holes filled; MONAI has one for each channel."""


def order_from_xyz(predictor: Predictor) -> list[int]:
    """For each axis of the network, the one of x, y, z that it is.

    Example of a plan that keeps z, y, x: ``[2, 1, 0]``.
    """
    return [2 - int(axis) for axis in predictor.plans.transpose_forward]


def require_bundled(predictor: Predictor) -> None:
    """Refuse models whose steps the bundle cannot say.

    Raises:
        InputError: Slices, pictures or overlapping regions.
    """
    why = ""
    if len(predictor.configuration.patch_size) != 3:
        why = "its network takes slices"
    elif predictor.label_manager.has_regions:
        why = "its classes are regions that overlap"
    elif predictor.dataset_json["file_ending"] not in RAW_VOLUMES:
        why = f"it reads *{predictor.dataset_json['file_ending']} files"
    elif predictor.configuration.previous_stage_name is not None:
        why = "it is the second stage of a cascade"
    if why:
        raise InputError(
            f"{predictor.folder} cannot become a MONAI bundle", why, "Take --format onnx"
        )


def inference_config(predictor: Predictor) -> dict[str, Any]:
    """``configs/inference.json``: from files to label maps."""
    ending = predictor.dataset_json["file_ending"]
    n_channels = predictor.n_channels
    others = [f"p.replace('_0000{ending}', '_{c:04d}{ending}')" for c in range(1, n_channels)]
    files = f"[{', '.join(['p', *others])}]" if others else "p"
    # MONAI cuts the ending off, and would cut a name at its last dot
    name = f"os.path.basename(str(meta['filename_or_obj'])).replace('_0000{ending}', '{ending}')"
    return {
        "imports": ["$import glob", "$import os", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "images",
        "output_dir": "predictions",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": f"$[{{'{_KEY}': {files}}} for p in sorted(glob.glob("
        f"os.path.join(@dataset_dir, '*_0000{ending}')))]",
        "network_def": f"$torch.jit.load(os.path.join(@bundle_root, '{NETWORK}')).to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _before(predictor)},
        "dataset": {
            "_target_": "Dataset", "data": "$@datalist", "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {
            "_target_": "SlidingWindowInferer", "roi_size": _in_xyz(
                predictor, predictor.configuration.patch_size
            ),
            "sw_batch_size": 1, "overlap": 1 - float(predictor.settings["step_size"]),
            "mode": "gaussian", "sigma_scale": 0.125, "padding_mode": "constant",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": _behind(
                predictor, f"$lambda meta, saver: {{'subject': {name}}}", ending
            ),
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader":
            "@dataloader", "network": "@network_def", "inferer": "@inferer", "postprocessing":
            "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }  # fmt: skip


def _in_xyz(predictor: Predictor, values: Sequence[float]) -> list[Any]:
    """Numbers of the network's axes in the order x, y, z."""
    placed: list[Any] = [0, 0, 0]
    for axis, value in zip(order_from_xyz(predictor), values, strict=True):
        placed[axis] = np.asarray(value).item()
    return placed


def _before(predictor: Predictor) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": _KEY, "dtype": "$torch.float32"},
        {"_target_": "EnsureChannelFirstd", "keys": _KEY},
    ]
    if orientation := predictor.plans.plans.get("orientation"):
        steps.append({"_target_": "Orientationd", "keys": _KEY, "axcodes": orientation})
    # as nnU-Net: the box of what is not 0
    steps.append(
        {
            "_target_": "CropForegroundd", "keys": _KEY, "source_key": _KEY,
            "select_fn": "$lambda x: x != 0", "allow_smaller": False,
        }
    )  # fmt: skip
    steps += _normalized(predictor)
    steps.append(
        {
            "_target_": "Spacingd", "keys": _KEY,
            "pixdim": _in_xyz(predictor, predictor.configuration.spacing),
            "mode": 3, "padding_mode": "nearest", "scale_extent": True,
        }
    )  # fmt: skip
    return [*steps, {"_target_": "EnsureTyped", "keys": _KEY, "dtype": "$torch.float32"}]


def _normalized(predictor: Predictor) -> list[dict[str, Any]]:
    """Each channel by its scheme; the channels are taken apart where there are several."""
    configuration = predictor.configuration
    schemes = list(configuration.normalization_schemes)
    masked = [channel for channel, scheme in enumerate(schemes)
              if scheme == _Z_SCORE and configuration.use_mask_for_norm[channel]]  # fmt: skip
    if masked:
        inside = {"_target_": "Lambdad", "keys": _KEY, "func": _INSIDE.format(channels=masked)}
        return [inside, *_apart(predictor)]
    return _apart(predictor)


def _apart(predictor: Predictor) -> list[dict[str, Any]]:
    """The channels that are not normalized inside a mask, one by one."""
    schemes = list(predictor.configuration.normalization_schemes)
    if len(schemes) == 1:
        return _by_scheme(predictor, 0, _KEY)
    keys = [f"{_KEY}_{channel}" for channel in range(len(schemes))]
    apart: dict[str, Any] = {
        "_target_": "SplitDimd", "keys": _KEY, "dim": 0,
        "output_postfixes": [str(channel) for channel in range(len(schemes))],
    }  # fmt: skip
    by_channel = [
        step for channel, key in enumerate(keys) for step in _by_scheme(predictor, channel, key)
    ]
    together = {"_target_": "ConcatItemsd", "keys": keys, "name": _KEY}
    return [apart, *by_channel, together, {"_target_": "DeleteItemsd", "keys": keys}]


def _by_scheme(predictor: Predictor, channel: int, key: str) -> list[dict[str, Any]]:
    scheme = predictor.configuration.normalization_schemes[channel]
    if scheme == _Z_SCORE:
        if predictor.configuration.use_mask_for_norm[channel]:
            return []  # done, with all channels at hand
        return [{"_target_": "NormalizeIntensityd", "keys": key, "nonzero": False}]
    if scheme == "CTNormalization":
        known = predictor.plans.foreground_intensity_properties_per_channel[str(channel)]
        low, high = float(known["percentile_00_5"]), float(known["percentile_99_5"])
        mean, std = float(known["mean"]), max(float(known["std"]), 1e-8)
        return [_scaled(key, low, high, (low - mean) / std, (high - mean) / std)]
    if scheme == "RescaleTo01Normalization":
        return [{"_target_": "ScaleIntensityd", "keys": key, "minv": 0.0, "maxv": 1.0}]
    if scheme == "NoNormalization":
        return []
    raise InputError(
        f"{predictor.folder} cannot become a MONAI bundle",
        f"its intensities are normalized by {scheme}",
        "Take --format onnx",
    )


def _scaled(key: str, low: float, high: float, to_low: float, to_high: float) -> dict[str, Any]:
    return {
        "_target_": "ScaleIntensityRanged", "keys": key, "a_min": low, "a_max": high,
        "b_min": to_low, "b_max": to_high, "clip": True,
    }  # fmt: skip


def _behind(predictor: Predictor, name: str, ending: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {
            "_target_": "Invertd", "keys": "pred", "transform": "@preprocessing",
            "orig_keys": _KEY, "nearest_interp": False, "to_tensor": True,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    ]  # fmt: skip
    if changed := ids_of_user(predictor.dataset_json):
        inside, outside = zip(*sorted(changed.items()), strict=True)
        steps.append(
            {
                "_target_": "MapLabelValued", "keys": "pred", "orig_labels": list(inside),
                "target_labels": list(outside), "dtype": "$torch.int32",
            }
        )  # fmt: skip
    save = {
        "_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir",
        "output_ext": ending, "output_postfix": "", "separate_folder": False, "resample": False,
        "output_dtype": "$torch.int32", "output_name_formatter": name,
    }  # fmt: skip
    return [*steps, save]


def metadata(predictor: Predictor, facts: Mapping[str, Any]) -> dict[str, Any]:
    """``configs/metadata.json``: versions, and what goes into the network and comes out."""
    labels: Mapping[str, Any] = predictor.dataset_json["labels"]
    n_outputs = predictor.label_manager.num_segmentation_heads
    shape = _in_xyz(predictor, predictor.configuration.patch_size)
    form = {"type": "image", "dtype": "float32", "spatial_shape": shape, "is_patch_data": True}
    return {
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by graphnn-unet {__version__}"},
        "monai_version": MONAI,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {
            "nibabel": "5.2",
            "pytorch-ignite": "0.4.11",
            "scipy": "1.11",
        },
        "name": str(predictor.plans.dataset_name),
        "task": "Segmentation of volumes",
        "description": f"{facts['trainer']}, folds {', '.join(map(str, facts['folds']))}",
        "authors": "see the data set",
        "copyright": "see the data set",
        "network_data_format": {
            "inputs": {
                _KEY: {
                    **form,
                    "format": "magnitude",
                    "num_channels": predictor.n_channels,
                    "channel_def": dict(enumerate(predictor.channel_names)),
                }
            },
            "outputs": {
                "pred": {
                    **form,
                    "format": "logits",
                    "num_channels": n_outputs,
                    "channel_def": {
                        int(number): name for name, number in labels.items() if name != "ignore"
                    },
                }
            },
        },
    }  # fmt: skip
