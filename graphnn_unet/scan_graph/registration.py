"""Where each voxel of one scan lies in another: affine, then deformable registration.

Papers:
    Mattes mutual information: https://doi.org/10.1109/TMI.2003.809072
    Symmetric forces demons: https://doi.org/10.1016/j.neuroimage.2008.10.040
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from pydantic import Field

from graphnn_unet.errors import InputError
from graphnn_unet.settings import Section

MIN_LENGTH = 8
"""Voxels an axis needs: below, pyramids and local sums have nothing to compare."""

_BINS = 32
_FINE_AFFINE_ITERATIONS = 10


class RegistrationSettings(Section):
    """How two scans are registered."""

    affine_iterations: int = Field(
        60, ge=1, le=1000, description="steps of the affine part at half resolution"
    )
    smooth_iterations: int = Field(
        40, ge=0, le=1000, description="demons steps on images smoothed by one voxel"
    )
    fine_iterations: int = Field(30, ge=0, le=1000, description="demons steps on the images")
    field_sigma: float = Field(
        1.0, gt=0, le=10, description="smoothing of the displacements after each step, in voxels"
    )
    max_voxels: int = Field(
        100_000, ge=4096, description="larger scans are registered on a coarser grid: time and "
        "disk of a link are bounded"
    )  # fmt: skip


@dataclass(frozen=True)
class Displacement:
    """How far each voxel of one scan lies from its place in another.

    Attributes:
        shift: ``(3, z', y', x')`` in voxels, on a grid of every ``stride``-th voxel; float32, or
            float16 from the disk.
        stride: Voxels between grid points, z, y, x.
        shape: Size of the scan, z, y, x.
    """

    shift: np.ndarray
    stride: tuple[int, ...]
    shape: tuple[int, ...]

    def places(self, box: Sequence[slice] | None = None, part: float = 1.0) -> np.ndarray:
        """Places ``(3, z, y, x)`` float32 in the other scan, in voxels; they may lie outside.

        Args:
            box: Voxels of the scan, which may reach over its border; default all.
            part: Share of the way: 0 stays, 1 arrives.
        """
        box = box or [slice(0, length) for length in self.shape]
        voxels = [np.arange(axis.start, axis.stop, dtype=np.float32) for axis in box]
        shift = self.shift
        for axis, (positions, step) in enumerate(zip(voxels, self.stride, strict=True), start=1):
            length = shift.shape[axis]
            at = np.clip((positions - (step - 1) / 2) / step, 0, length - 1)
            low = np.floor(at).astype(np.intp)
            high = np.minimum(low + 1, length - 1)
            share = (at - low).astype(np.float32).reshape(-1, *[1] * (3 - axis))
            lower = shift.take(low, axis)
            shift = lower + share * (shift.take(high, axis) - lower) if step > 1 else lower
        return np.stack(np.meshgrid(*voxels, indexing="ij")) + np.float32(part) * shift


def register(
    fixed: np.ndarray,
    moving: np.ndarray,
    spacing_mm: Sequence[float],
    settings: RegistrationSettings | None = None,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Displacement:
    """Register two volumes; nothing but their intensities is seen.

    Args:
        fixed: ``(z, y, x)`` float32; every voxel of it gets a place.
        moving: ``(z', y', x')`` float32, another size is fine.
        spacing_mm: Voxel size of both, z, y, x.
        settings: How; default :class:`RegistrationSettings`.
        is_stopped: Asked now and then whether the result is still wanted.

    Returns:
        Where the voxels of ``fixed`` lie in ``moving``.

    Raises:
        InputError: A volume is too small or constant, the two do not overlap, or the result is no
            longer wanted.

    Source: affine by Mattes mutual information (32 bins, two levels), histogram matching, fast
        symmetric forces demons on smoothed and on plain images. One thread: the same everywhere.
    """
    settings = settings or RegistrationSettings.model_validate({})
    stride = coarse_stride(fixed.shape, spacing_mm, settings.max_voxels)
    target, source = (_shrink(image, stride) for image in _images(fixed, moving, spacing_mm))
    with _one_thread:
        _go_on(is_stopped)
        affine = _affine(target, source, settings)
        moved = sitk.Resample(source, target, affine, sitk.sitkLinear, 0.0)
        moved = sitk.HistogramMatching(moved, target, 128, 10, True)
        transform = sitk.CompositeTransform([affine, _demons(target, moved, settings, is_stopped)])
        field = sitk.TransformToDisplacementField(
            transform, sitk.sitkVectorFloat64, target.GetSize(), target.GetOrigin(),
            target.GetSpacing(), target.GetDirection(),
        )  # fmt: skip
    shift = np.moveaxis(sitk.GetArrayFromImage(field)[..., ::-1], -1, 0)
    steps = np.asarray(spacing_mm, dtype=np.float64).reshape(3, 1, 1, 1)
    return Displacement((shift / steps).astype(np.float32), stride, fixed.shape)


def coarse_stride(
    shape: Sequence[int], spacing_mm: Sequence[float], max_voxels: int
) -> tuple[int, ...]:
    """Voxels that are averaged on each axis so that at most ``max_voxels`` are left.

    The axis of the finest remaining spacing is halved first; none falls below ``MIN_LENGTH``.

    Example:
        >>> coarse_stride((40, 200, 200), (3.0, 1.0, 1.0), 400_000)
        (1, 2, 2)
    """
    stride = [1, 1, 1]

    def length(axis: int) -> int:
        return shape[axis] // stride[axis]

    while math.prod(map(length, range(3))) > max_voxels:
        axes = [axis for axis in range(3) if length(axis) >= 2 * MIN_LENGTH]
        if not axes:
            break
        finest = min(axes, key=lambda axis: (spacing_mm[axis] * stride[axis], -length(axis)))
        stride[finest] *= 2
    return tuple(stride)


def align(
    fixed: np.ndarray,
    moving: np.ndarray,
    spacing_mm: Sequence[float],
    settings: RegistrationSettings | None = None,
) -> np.ndarray:
    """``moving`` on the grid of ``fixed`` after the affine part of :func:`register` alone.

    Returns:
        ``(z, y, x)`` float32, 0 outside; of a large scan the coarser grid that is registered.

    Raises:
        InputError: As :func:`register`.
    """
    settings = settings or RegistrationSettings.model_validate({})
    stride = coarse_stride(fixed.shape, spacing_mm, settings.max_voxels)
    target, source = (_shrink(image, stride) for image in _images(fixed, moving, spacing_mm))
    with _one_thread:
        affine = _affine(target, source, settings)
        return sitk.GetArrayFromImage(sitk.Resample(source, target, affine, sitk.sitkLinear, 0.0))


class _OneThread:
    """SimpleITK with one thread: sums over threads come in another order each time.

    The metric has no setting of its own, and registrations may run side by side: the last one that
    ends puts the setting back.
    """

    def __init__(self) -> None:
        self._lock, self._n_inside, self._before = threading.Lock(), 0, 1

    def __enter__(self) -> None:
        with self._lock:
            if self._n_inside == 0:
                self._before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
                sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(self._before)


_one_thread = _OneThread()


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


def _shrink(image: sitk.Image, stride: Sequence[int]) -> sitk.Image:
    """Means of blocks of voxels; an axis that is too short for it stays as it is."""
    sizes = zip(image.GetSize(), stride[::-1], strict=True)
    return sitk.BinShrink(image, [step if size >= step else 1 for size, step in sizes])


def _affine(
    fixed: sitk.Image, moving: sitk.Image, settings: RegistrationSettings
) -> sitk.Transform:
    transform: sitk.Transform = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    # as many steps at full resolution take a third longer and change no Dice
    levels = ((2, 1.0, 1.0, settings.affine_iterations), (1, 0.0, 0.2, _FINE_AFFINE_ITERATIONS))
    try:
        for shrink, sigma, step, n_iterations in levels:
            method = sitk.ImageRegistrationMethod()
            method.SetMetricAsMattesMutualInformation(_BINS)
            method.SetInterpolator(sitk.sitkLinear)
            method.SetOptimizerAsRegularStepGradientDescent(step, 1e-3, n_iterations)
            method.SetOptimizerScalesFromPhysicalShift()
            method.SetShrinkFactorsPerLevel([shrink])
            method.SetSmoothingSigmasPerLevel([sigma])
            method.SetInitialTransform(transform, inPlace=False)
            transform = method.Execute(fixed, moving)
    except RuntimeError as error:
        raise InputError("two scans cannot be registered", "they do not overlap") from error
    return transform


def _go_on(is_stopped: Callable[[], bool]) -> None:
    if is_stopped():
        raise InputError("the registration was stopped")


def _demons(
    fixed: sitk.Image,
    moving: sitk.Image,
    settings: RegistrationSettings,
    is_stopped: Callable[[], bool],
) -> sitk.Transform:
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(settings.field_sigma)
    one_voxel = fixed.GetSpacing()
    blurred = [sitk.SmoothingRecursiveGaussian(image, one_voxel) for image in (fixed, moving)]
    demons.AddCommand(sitk.sitkIterationEvent, lambda: demons.Abort() if is_stopped() else None)
    try:
        demons.SetNumberOfIterations(settings.smooth_iterations)
        field = demons.Execute(*blurred)
        demons.SetNumberOfIterations(settings.fine_iterations)
        field = demons.Execute(fixed, moving, field)
    except RuntimeError:
        _go_on(is_stopped)
        raise
    finally:
        demons.RemoveAllCommands()  # the command holds the filter, and the filter the command
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
