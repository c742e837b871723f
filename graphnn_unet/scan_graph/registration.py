"""Where each voxel of one scan lies in another: affine, then deformable registration.

Papers:
    Mattes mutual information: https://doi.org/10.1109/TMI.2003.809072
    Symmetric forces demons: https://doi.org/10.1016/j.neuroimage.2008.10.040
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from pydantic import Field

from graphnn_unet.errors import InputError
from graphnn_unet.settings import Section

MIN_LENGTH = 8
"""Voxels an axis needs: below, pyramids and local sums have nothing to compare."""

_BINS = 32
_SEED = 1


class RegistrationSettings(Section):
    """How two scans are registered."""

    affine_iterations: int = Field(
        60, ge=1, le=1000, description="steps a level of the affine part"
    )
    smooth_iterations: int = Field(
        40, ge=0, le=1000, description="demons steps on images smoothed by one voxel"
    )
    fine_iterations: int = Field(30, ge=0, le=1000, description="demons steps on the images")
    field_sigma: float = Field(
        1.0, gt=0, le=10, description="smoothing of the displacements after each step, in voxels"
    )


def register(
    fixed: np.ndarray,
    moving: np.ndarray,
    spacing_mm: Sequence[float],
    settings: RegistrationSettings | None = None,
) -> np.ndarray:
    """Register two volumes; nothing but their intensities is seen.

    Args:
        fixed: ``(z, y, x)`` float32; every voxel of it gets a point.
        moving: ``(z', y', x')`` float32, another size is fine.
        spacing_mm: Voxel size of both, z, y, x.
        settings: How; default :class:`RegistrationSettings`.

    Returns:
        ``(3, z, y, x)`` float32: for each voxel of ``fixed`` its place in ``moving``, in voxels of
        ``moving``, order z, y, x. Places may lie outside.

    Raises:
        InputError: A volume is too small or constant, or the two do not overlap.

    Source: affine by Mattes mutual information (32 bins, two levels), histogram matching, fast
        symmetric forces demons on smoothed and on plain images. One thread: the same everywhere.
    """
    settings = settings or RegistrationSettings.model_validate({})
    target, source = _images(fixed, moving, spacing_mm)
    affine = _affine(target, source, settings)
    moved = sitk.Resample(source, target, affine, sitk.sitkLinear, 0.0)
    moved = sitk.HistogramMatching(moved, target, 128, 10, True)
    transform = sitk.CompositeTransform([affine, _demons(target, moved, settings)])
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, target.GetSize(), target.GetOrigin(),
        target.GetSpacing(), target.GetDirection(),
    )  # fmt: skip
    shift = np.moveaxis(sitk.GetArrayFromImage(field)[..., ::-1], -1, 0)
    steps = np.asarray(spacing_mm, dtype=np.float64).reshape(3, 1, 1, 1)
    return (np.indices(fixed.shape) + shift / steps).astype(np.float32)


def align(
    fixed: np.ndarray,
    moving: np.ndarray,
    spacing_mm: Sequence[float],
    settings: RegistrationSettings | None = None,
) -> np.ndarray:
    """``moving`` on the grid of ``fixed`` after the affine part of :func:`register` alone.

    Returns:
        ``(z, y, x)`` float32, 0 outside.

    Raises:
        InputError: As :func:`register`.
    """
    settings = settings or RegistrationSettings.model_validate({})
    target, source = _images(fixed, moving, spacing_mm)
    affine = _affine(target, source, settings)
    return sitk.GetArrayFromImage(sitk.Resample(source, target, affine, sitk.sitkLinear, 0.0))


def _images(
    fixed: np.ndarray, moving: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[sitk.Image, sitk.Image]:
    """Both volumes for SimpleITK, if they can be registered at all."""
    for name, volume in (("the first", fixed), ("the second", moving)):
        if min(volume.shape) < MIN_LENGTH:
            raise InputError(
                f"{name} scan is too small to be registered: {volume.shape} voxels",
                f"every axis needs {MIN_LENGTH}",
            )
        if float(volume.max()) <= float(volume.min()):
            raise InputError(f"{name} scan cannot be registered", "all its voxels are equal")
    return _as_image(fixed, spacing_mm), _as_image(moving, spacing_mm)


def _as_image(volume: np.ndarray, spacing_mm: Sequence[float]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume, dtype=np.float32))
    image.SetSpacing([float(step) for step in spacing_mm][::-1])
    return image


def _affine(
    fixed: sitk.Image, moving: sitk.Image, settings: RegistrationSettings
) -> sitk.Transform:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, settings.affine_iterations)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1.0, 0.0])
    method.SetNumberOfThreads(1)
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(start, inPlace=False)
    try:
        return method.Execute(fixed, moving)
    except RuntimeError as error:
        raise InputError("two scans cannot be registered", "they do not overlap") from error


def _demons(
    fixed: sitk.Image, moving: sitk.Image, settings: RegistrationSettings
) -> sitk.Transform:
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfThreads(1)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(settings.field_sigma)
    one_voxel = fixed.GetSpacing()
    blurred = [sitk.SmoothingRecursiveGaussian(image, one_voxel) for image in (fixed, moving)]
    demons.SetNumberOfIterations(settings.smooth_iterations)
    field = demons.Execute(*blurred)
    demons.SetNumberOfIterations(settings.fine_iterations)
    field = demons.Execute(fixed, moving, field)
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
