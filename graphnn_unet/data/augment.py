"""nnU-Net's own augmentation, made to depend on the seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import (
    Convert2DTo3DTransform,
    Convert3DTo2DTransform,
)
from torch.nn import functional

if TYPE_CHECKING:  # seconds to import, and planning needs none of it
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

_MOVING = (SpatialTransform, Convert3DTo2DTransform, Convert2DTo3DTransform)
"""Rotation and scaling, and the conversions around them where slices are rotated one by one."""


MIRRORED_AXES = "mirrored_axes"
"""Key under which a sample says which of its spatial axes were mirrored."""


_BLUR_MARGIN = 8
"""Voxels, more than half the kernel of nnU-Net's widest blur (sigma 1)."""


class RecordedMirror(MirrorTransform):
    """nnU-Net's mirroring, which also says what it did: its draws and results are the same."""

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Mirror, and note the axes."""
        mirrored = super().apply(data_dict, **params)
        return {**mirrored, MIRRORED_AXES: tuple(int(axis) for axis in params["axes"])}


class ThinBlur(GaussianBlurTransform):
    """nnU-Net's blur for patches of any size: it mirrors at borders, which thin ones cannot.

    Draws are the same, and results where each axis is longer than the kernel's margin.
    """

    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        if min(img.shape[1:]) > _BLUR_MARGIN:
            return super()._apply_to_image(img, **params)
        n_axes = img.ndim - 1
        padded = functional.pad(img[None], [_BLUR_MARGIN] * (2 * n_axes), mode="replicate")[0]
        inner = (slice(None), *[slice(_BLUR_MARGIN, -_BLUR_MARGIN)] * n_axes)
        return super()._apply_to_image(padded, **params)[inner]


@dataclass(frozen=True)
class Augmentation:
    """A composed transform and the crop it wants to start from.

    Attributes:
        transform: Called with ``image=(c, *s)`` and ``segmentation=(1, *s)``.
        in_place: The same without rotation and scaling: every voxel keeps its place (but for
            mirroring), so it starts from a crop of the final size.
        initial_patch_size: Size of the crop, large enough to be rotated and scaled.
        mirror_axes: Spatial axes that are mirrored in training, and so may be in prediction.
    """

    transform: Any
    in_place: Any
    initial_patch_size: tuple[int, ...]
    mirror_axes: tuple[int, ...]


def training_augmentation(trainer: nnUNetTrainer) -> Augmentation:
    """The training transforms of ``trainer``, without downsampling for deep supervision.

    Targets are downsampled on the device after mixing, which sends one map instead of several
    and gives the same values (nearest-exact picks one source voxel for image, label and mask).

    Args:
        trainer: Supplies patch size, rotation range, mirror axes and label handling.
    """
    configuration, labels = trainer.configuration_manager, trainer.label_manager
    rotation, dummy_2d, initial, mirror = (
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    )
    transform = trainer.get_training_transforms(
        configuration.patch_size,  # pyright: ignore[reportArgumentType]  # a list in nnU-Net
        rotation,
        None,
        mirror,
        dummy_2d,
        use_mask_for_norm=configuration.use_mask_for_norm,
        is_cascaded=False,
        foreground_labels=labels.foreground_labels,  # pyright: ignore[reportArgumentType]  # nnU-Net's own
        regions=labels.foreground_regions if labels.has_regions else None,  # pyright: ignore[reportArgumentType]  # nnU-Net's own
        ignore_label=labels.ignore_label,  # pyright: ignore[reportArgumentType]  # nnU-Net's own
    )
    for part in _all_transforms(transform):
        if isinstance(part, GaussianBlurTransform):
            # its benchmark picks one of two algorithms by their speed, whose results differ in the
            # last bits: the same seed would give other weights on a busy machine
            part.benchmark = False
            part.__class__ = ThinBlur
        if type(part) is MirrorTransform:
            part.__class__ = RecordedMirror
    kept = [
        part
        for part in cast(ComposeTransforms, transform).transforms
        if not isinstance(part, _MOVING)
    ]
    return Augmentation(
        transform, ComposeTransforms(kept), tuple(int(i) for i in initial), tuple(mirror or ())
    )


def validation_transform(trainer: nnUNetTrainer) -> Any:
    """Label handling without augmentation."""
    labels = trainer.label_manager
    return trainer.get_validation_transforms(
        None,
        is_cascaded=False,
        foreground_labels=labels.foreground_labels,  # pyright: ignore[reportArgumentType]  # nnU-Net's own
        regions=labels.foreground_regions if labels.has_regions else None,  # pyright: ignore[reportArgumentType]  # nnU-Net's own
        ignore_label=labels.ignore_label,  # pyright: ignore[reportArgumentType]  # nnU-Net's own
    )


def _all_transforms(transform: Any) -> Iterator[Any]:
    yield transform
    for child in getattr(transform, "transforms", None) or []:
        yield from _all_transforms(child)
    if hasattr(transform, "transform"):
        yield from _all_transforms(transform.transform)


def outside_mask(image: np.ndarray) -> np.ndarray:
    """``(1, *s)`` int16: -1 where all channels are exactly 0, as outside nnU-Net's nonzero mask.

    Unlabeled cases are stored without a label map, in which nnU-Net keeps that mask; after masked
    normalization outside voxels are exactly 0 and inside ones practically never.
    """
    return np.where((image == 0).all(axis=0, keepdims=True), -1, 0).astype(np.int16)
