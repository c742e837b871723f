"""Volumes slice by slice."""

import numpy as np
import pytest
import SimpleITK as sitk
from pictures import QUICK, iou
from tiny_study import write_image

import graphnn_unet
from graphnn_unet.clustering.slices import carried_on


def ball(shape=(12, 40, 44)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = sum(axis**2 for axis in grid) < 0.3
    return (100 + 60 * mask + rng.normal(0, 4, shape)).astype(np.float32), mask


@pytest.mark.parametrize("by_slice", [False, True])
def test_volumes_as_a_whole_and_slice_by_slice(tmp_path, by_slice):
    image, mask = ball()
    write_image(tmp_path / "in" / "v.nii.gz", image, (3.0, 1.0, 1.0))
    graphnn_unet.cluster(tmp_path / "in", tmp_path / "out", by_slice=by_slice, cell=2, **QUICK)
    label_map = sitk.ReadImage(str(tmp_path / "out" / "v.nii.gz"))
    assert label_map.GetSpacing() == pytest.approx((1, 1, 3))
    labels = sitk.GetArrayFromImage(label_map) > 0
    assert iou(labels, mask) > (0.5 if by_slice else 0.65)
    if by_slice:  # where there is an object, its edge is that of the picture
        shown = mask.any(axis=(1, 2))
        assert iou(labels[shown], mask[shown]) > 0.95


def test_ids_are_carried_from_slice_to_slice():
    before = np.array([[1, 1, 0, 2, 2, 2]])
    labels = np.array([[2, 2, 0, 1, 1, 3]])
    assert carried_on(before, labels).tolist() == [[1, 1, 0, 2, 2, 3]]
    assert carried_on(before, np.zeros((1, 6), int)).tolist() == [[0] * 6]
