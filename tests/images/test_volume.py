import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet.images.grid import compare_grids
from graphnn_unet.images.read import read_volume
from graphnn_unet.images.volume import UPRIGHT, Volume, from_itk, resampled, to_itk, with_axes_of

ARRAY = np.random.default_rng(0).normal(100, 20, (6, 8, 10)).astype(np.float32)
ORIENTATIONS = [
    "".join(letters[axis] for letters, axis in zip(signs, order, strict=True))
    for order in itertools.permutations(range(3))
    for signs in itertools.product(("RAS", "LPI"), repeat=3)
]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_reordering_axes_is_what_itk_does_for_all_48_orientations(orientation: str):
    image = to_itk(Volume(ARRAY, (2.0, 1.5, 1.0), (3.0, -4.0, 5.0)))
    turned = sitk.DICOMOrient(image, orientation)
    back = with_axes_of(from_itk(turned), image.GetDirection())
    assert back is not None
    np.testing.assert_array_equal(back.array, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(back.spacing, image.GetSpacing()[::-1])
    np.testing.assert_allclose(back.origin, image.GetOrigin(), atol=1e-9)
    away = with_axes_of(from_itk(image), turned.GetDirection())
    assert away is not None
    np.testing.assert_array_equal(away.array, sitk.GetArrayFromImage(turned))
    np.testing.assert_allclose(away.origin, turned.GetOrigin(), atol=1e-9)


def test_oblique_axes_cannot_be_reordered():
    cosine, sine = np.cos(0.3), np.sin(0.3)
    direction = (cosine, -sine, 0.0, sine, cosine, 0.0, 0.0, 0.0, 1.0)
    volume = Volume(ARRAY, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), direction)
    assert with_axes_of(volume, (1, 0, 0, 0, 1, 0, 0, 0, 1)) is None


def test_resampling_to_another_grid_keeps_the_place_of_a_structure():
    label = np.zeros((10, 10, 10), np.uint8)
    label[4:8, 4:8, 4:8] = 3
    volume = Volume(label, (1.0, 1.0, 1.0))
    grid = Volume(np.zeros((5, 5, 5)), (2.0, 2.0, 2.0), (0.5, 0.5, 0.5)).grid
    new = resampled(volume, grid, nearest=True)
    assert new.array.shape == (5, 5, 5)
    assert set(np.unique(new.array)) == {0, 3}
    np.testing.assert_array_equal(np.argwhere(new.array).min(0), (2, 2, 2))
    np.testing.assert_array_equal(np.argwhere(new.array).max(0), (3, 3, 3))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_reading_and_writing_keep_voxels_and_geometry(tmp_path: Path, write_map, ending: str):
    direction = (0, 1, 0, 1, 0, 0, 0, 0, 1)
    path = write_map(tmp_path / f"a{ending}", ARRAY, direction=direction)
    volume = read_volume(path)
    again = from_itk(to_itk(volume))
    np.testing.assert_array_equal(again.array, ARRAY)
    np.testing.assert_allclose(again.spacing, volume.spacing)
    np.testing.assert_allclose(again.direction, volume.direction)


def test_reordering_keeps_a_small_tilt():
    """Axes that are parallel to 1/1000 are reordered, and the corners stay where they are."""
    tilt = 5e-4
    cosine, sine = np.cos(tilt), np.sin(tilt)
    direction = (sine, -cosine, 0.0, cosine, sine, 0.0, 0.0, 0.0, 1.0)
    volume = Volume(np.zeros((4, 300, 500), np.uint8), (3.0, 1.0, 1.0), direction=direction)
    turned = with_axes_of(volume, UPRIGHT)
    assert turned is not None
    np.testing.assert_allclose(turned.direction[:2], (cosine, sine), atol=1e-12)
    back = with_axes_of(turned, direction)
    assert back is not None
    assert compare_grids(back.grid, volume.grid).voxels < 1e-6
