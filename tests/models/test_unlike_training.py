"""Scans in another unit than those of the training, and label maps given as scans, are told."""

import numpy as np
import pytest

from graphnn_unet.models.unlike_training import unlike_training

PLANS = {
    "original_median_spacing_after_transp": [0.8, 0.7, 3.0],  # y, x, z
    "transpose_backward": [2, 0, 1],
}


def scan(shape=(9, 30, 31)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 500, (1, *shape)).astype(np.float32)


def codes(data, spacing, plans=PLANS) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in unlike_training("a", data, spacing, plans)]


@pytest.mark.parametrize(
    ("spacing", "code"),
    [((0.3, 0.08, 0.07), "I50"), ((0.003, 0.0008, 0.0007), "I50"), ((30, 8, 7), "I49")],
)
def test_spacing_in_another_unit_is_told(spacing, code):
    assert codes(scan(), spacing) == [(code, "warning")]
    (fault,) = unlike_training("a", scan(), spacing, PLANS)
    assert "mm (z, y, x), the median of the model's training (3, 0.8, 0.7)" in fault.line


@pytest.mark.parametrize(
    "spacing",
    [(3, 0.8, 0.7), (0.5, 0.5, 0.5), (10, 1.5, 1.5), (0.7, 3, 0.8), (0.3, 0.2, 0.2), (5, 5, 5)],
)
def test_ordinary_spacings_are_not_told(spacing):
    assert codes(scan(), spacing) == []


def test_spacing_that_makes_a_scan_too_large_is_an_error():
    huge = np.broadcast_to(scan((9, 300, 310)), (1, 9, 300, 310))
    assert codes(huge, (300, 8, 70)) == [("I49", "error")]
    (fault,) = unlike_training("a", huge, (300, 8, 70), PLANS)
    assert "voxels after resampling" in fault.cause


def test_axis_of_one_slice_has_no_spacing():
    assert codes(scan((1, 30, 31)), (3000, 0.8, 0.7)) == []
    assert codes(scan((1, 30, 31)), (3, 0.08, 0.07)) == [("I50", "warning")]


def test_plan_without_spacings_tells_nothing():
    assert codes(scan(), (3000, 800, 700), {}) == []


def test_label_map_is_told_with_its_values():
    labels = (scan() > 250).astype(np.float32) * 4
    (fault,) = unlike_training("a", labels, (3, 0.8, 0.7), PLANS)
    assert (fault.code, fault.severity) == ("I55", "warning")
    assert "the values 0, 4 alone" in fault.cause


@pytest.mark.parametrize(
    "data",
    [
        scan(),
        np.concatenate([scan(), scan() > 250]).astype(np.float32),  # a mask as one channel
        np.zeros((1, 4, 5, 6), np.float32),  # told elsewhere
        (scan() > 250).astype(np.float32) * 0.5,
        scan() % 9,  # nine values
    ],
)
def test_scans_are_not_taken_for_label_maps(data):
    assert codes(data, (3, 0.8, 0.7)) == []


def test_rare_values_are_found():
    labels = np.zeros((1, 60, 60, 60), np.float32)
    labels[0, 30, 30, :20] = 1.5
    assert codes(labels, (3, 0.8, 0.7)) == []
    labels[0, 30, 30, :20] = 1
    assert codes(labels, (3, 0.8, 0.7)) == [("I55", "warning")]
