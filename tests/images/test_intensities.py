"""Intensities of any unit: the factor is exact, and usual images are left alone."""

import numpy as np
import pytest

from graphnn_unet.images.intensities import (
    in_usual_unit,
    in_usual_units,
    small_unit_note,
    unit_factor,
)

USUAL = np.random.default_rng(0).normal(100, 10, (4, 5, 6)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-11, 2.0**-40, 1e-20, 1e-30, 1e20, 1e30])
def test_deviation_comes_near_one_and_no_digit_changes(scale: float):
    stored = USUAL * np.float32(scale)
    scaled = in_usual_unit(stored)
    assert scaled.dtype == np.float32
    assert 1e-3 < scaled.std() < 1e3
    factor = unit_factor(stored)
    assert np.log2(factor) == int(np.log2(factor))
    assert np.array_equal(scaled.astype(np.float64), stored.astype(np.float64) * factor)


def test_small_deviations_far_from_zero_count_as_far_as_they_are_digits():
    stored = np.float32(1e-4) + USUAL * np.float32(1e-10)
    assert 0.5 < in_usual_unit(stored).std() < 4
    rounding = np.where(
        USUAL > 100, np.float32(1e-3), np.nextafter(np.float32(1e-3), np.float32(1))
    )
    assert unit_factor(rounding) == 1.0


@pytest.mark.parametrize(
    "values", [USUAL, USUAL / 1000, USUAL * 0, USUAL * 0 + 1e-9, USUAL * 1e9, USUAL[:0]]
)
def test_usual_and_constant_images_are_left_alone(values):
    assert unit_factor(values) == 1.0
    assert in_usual_unit(values) is values


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_not_hidden(bad: float):
    values = USUAL * np.float32(1e-11)
    values[0, 0, 0] = bad
    assert unit_factor(values) == 1.0


def test_only_channels_whose_unit_does_not_count_are_scaled():
    channels = np.stack([USUAL * np.float32(1e-11)] * 3 + [USUAL])
    schemes = ["ZScoreNormalization", "CTNormalization", "NoNormalization", "ZScoreNormalization"]
    scaled = in_usual_units(channels, schemes)
    assert scaled[0].std() > 0.5
    for number in (1, 2, 3):
        assert np.array_equal(scaled[number], channels[number])
    usual = channels[3:]
    assert in_usual_units(usual, schemes[3:]) is usual


def test_an_export_says_by_what_to_multiply():
    plans = {"foreground_intensity_properties_per_channel": {"0": {"std": 50.0}}}
    assert small_unit_note(plans) == ""
    plans["foreground_intensity_properties_per_channel"]["1"] = {"std": 1e-10}
    assert "channel 1 by 1.72e+10" in small_unit_note(plans)
