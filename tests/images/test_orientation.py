"""How axes are stored, and arrays turned from one order to another."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet.images.orientation import (
    TURNED,
    evenly_drawn_axis,
    most_common,
    orientation_of,
    stored_otherwise,
    turned,
    turned_axes,
    turned_back,
)

ALL_48 = [
    "".join(letters)
    for order in itertools.permutations(("LR", "AP", "SI"))
    for letters in itertools.product(*order)
]


def volume(shape=(3, 4, 5)) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


@pytest.mark.parametrize("codes", ALL_48)
def test_every_orientation_is_turned_as_itk_does(codes):
    image = sitk.GetImageFromArray(volume())
    image.SetSpacing((0.5, 1.0, 3.0))
    reference = sitk.DICOMOrient(image, codes)
    assert orientation_of(image.GetDirection()) == "LPS"
    assert orientation_of(reference.GetDirection()) == codes
    result = turned(volume(), "LPS", codes)
    np.testing.assert_array_equal(result, sitk.GetArrayFromImage(reference))
    assert turned_axes((3.0, 1.0, 0.5), "LPS", codes) == reference.GetSpacing()[::-1]
    assert turned_axes((3, 4, 5), "LPS", codes) == result.shape
    assert result.flags.c_contiguous


@pytest.mark.parametrize("stored", ["LPS", "PIR", "SAL", "IRP"])
def test_turning_back_undoes_it_with_leading_axes(stored):
    channels = np.stack([volume(), -volume()])
    there = turned(channels, stored, "RAS")
    np.testing.assert_array_equal(turned_back(there, {TURNED: (stored, "RAS")}), channels)
    np.testing.assert_array_equal(turned_back(channels, {}), channels)


def test_oblique_axes_have_the_closest_orientation():
    angle = np.deg2rad(30)
    oblique = (np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, -1)
    assert orientation_of(oblique) == "LPI"


def test_the_most_common_orientation_is_taken_and_ties_do_not_depend_on_the_order():
    assert most_common(["PIR", "LPS", "LPS"]) == "LPS"
    assert most_common(["RAS", "LPS"]) == most_common(["LPS", "RAS"]) == "LPS"


def test_without_a_usual_orientation_no_scan_is_stored_otherwise():
    """Only test scans have one: there is nothing to turn them to."""
    assert stored_otherwise({"a": "", "b": "LPS"}, "") == {}
    assert stored_otherwise({"a": "", "b": "LPS", "c": "PIR"}, "LPS") == {"PIR": ["c"]}


@pytest.mark.parametrize(
    ("slices", "is_even"),
    [
        ((3, 6, 10, 13), True),
        ((3, 8, 13), True),
        ((3, 8), False),  # too few to tell
        ((3, 5, 7, 9), False),  # every second one: thin structures do that
        ((3, 4, 5, 6), False),
        ((3, 6, 11, 20), False),  # lesions
        ((), False),
    ],
)
@pytest.mark.parametrize("axis", range(3))
def test_slices_drawn_at_equal_distances_show_their_axis(slices, is_even, axis):
    array = np.zeros((24, 9, 9), np.uint8)
    array[list(slices), 2:7, 1:8] = 1
    assert evenly_drawn_axis(np.moveaxis(array, 0, axis)) == (axis if is_even else None)
