"""Images at another size are nnU-Net's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

from graphnn_unet.data import resample as module
from graphnn_unet.data.resample import FastResampling, linear_labels, resample

lengths = st.integers(1, 24)
steps = st.sampled_from([0.5, 0.8, 1.0, 1.3, 2.5, 5.0, 7.0])

GRIDS = {
    "shape": st.tuples(lengths, lengths, lengths),
    "new_shape": st.tuples(lengths, lengths, lengths),
    "spacing": st.tuples(steps, steps, steps),
    "new_spacing": st.tuples(steps, steps, steps),
    "force": st.sampled_from([None, False, True]),
}


@given(
    **GRIDS,
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None)
def test_every_shape_and_spacing_gives_what_nnunet_gives(
    shape, new_shape, spacing, new_spacing, force, seed
):
    image = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    expected = resample_data_or_seg_to_shape(
        image, new_shape, spacing, new_spacing, order=3, order_z=0, force_separate_z=force
    )
    ours = resample(
        image, new_shape, spacing, new_spacing, order=3, order_z=0, force_separate_z=force
    )
    assert ours.dtype == image.dtype
    # the mean of two values may lie between two numbers of 32 bits, and round to either
    np.testing.assert_allclose(ours, expected, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("force", [False, None])
def test_a_usual_volume_is_the_same_bit_by_bit(force):
    image = np.random.default_rng(0).normal(size=(1, 15, 52, 47)).astype(np.float32)
    words = ((31, 61, 40), (4, 1, 1), (2, 0.85, 1.17))
    expected = resample_data_or_seg_to_shape(image, *words, order=3, force_separate_z=force)
    ours = resample(image, *words, order=3, force_separate_z=force)
    assert (ours != expected).sum() <= 1


@given(
    **GRIDS,
    kind=st.sampled_from([np.int8, np.int16, np.uint8, np.float32]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_label_maps_are_nnunets_with_all_ties(
    shape, new_shape, spacing, new_spacing, force, kind, seed
):
    labels = np.random.default_rng(seed).integers(0, 5, (1, *shape))
    labels = (labels if kind is np.uint8 else labels - 1).astype(kind)
    words = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": force}
    expected = resample_data_or_seg_to_shape(labels, new_shape, spacing, new_spacing, **words)
    ours = resample(labels, new_shape, spacing, new_spacing, **words)
    assert ours.dtype == expected.dtype
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_label_maps_enlarged_evenly_are_nnunets(factor):
    blocks = np.random.default_rng(1).integers(0, 4, (1, 3, 4, 5)).repeat(3, 2).repeat(2, 3)
    labels = blocks.astype(np.int16)
    new_shape = [length * factor for length in labels.shape[1:]]
    words = (new_shape, (factor, factor, factor), (1, 1, 1))
    keys = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}
    expected = resample_data_or_seg_to_shape(labels, *words, **keys)
    np.testing.assert_array_equal(resample(labels, *words, **keys), expected)


def test_many_border_voxels_are_weighed_in_parts(monkeypatch):
    labels = np.random.default_rng(1).integers(0, 4, (9, 8, 7))
    whole = linear_labels(labels.copy(), (11, 12, 13))
    monkeypatch.setattr(module, "_AT_ONCE", 100)
    np.testing.assert_array_equal(linear_labels(labels, (11, 12, 13)), whole)


@pytest.mark.parametrize("odd", [0.5, 40_000.0, np.nan])
def test_label_maps_that_16_bits_do_not_hold_are_left_to_nnunet(odd):
    labels = np.zeros((1, 4, 4, 4), np.float32)
    labels[0, 1, 2, 2:] = odd
    words = ((6, 7, 8), (2, 1, 1), (1, 1, 1))
    keys = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": False}
    expected = resample_data_or_seg_to_shape(labels, *words, **keys)
    np.testing.assert_array_equal(resample(labels, *words, **keys), expected)


def test_values_stay_between_those_of_each_plane():
    image = np.zeros((1, 3, 6, 6), np.float32)
    image[0, 0, 2:4, 2:4], image[0, 1] = 1, 9
    ours = resample(image, (3, 11, 11), (5, 1, 1), (5, 0.5, 0.5), force_separate_z=None)
    assert ours[0, 0].min() == 0
    assert ours[0, 0].max() <= 1
    assert (ours[0, 1] == 9).all()


@pytest.mark.parametrize("other", [{"order": 1}, {"is_seg": True, "order": 1}, {"order_z": 1}])
def test_other_settings_are_left_to_nnunet(other):
    image = np.random.default_rng(0).integers(0, 3, (1, 5, 7, 6)).astype(np.float32)
    words = {"force_separate_z": True, **other}
    expected = resample_data_or_seg_to_shape(image, (9, 9, 9), (5, 1, 1), (2, 1, 1), **words)
    ours = resample(image, (9, 9, 9), (5, 1, 1), (2, 1, 1), **words)
    np.testing.assert_array_equal(ours, expected)


def test_the_resampling_that_a_plan_names_is_used():
    configuration = {
        "architecture": {},
        "resampling_fn_data": "resample_torch_fornnunet",
        "resampling_fn_data_kwargs": {"is_seg": False, "force_separate_z": False},
    }
    assert FastResampling(configuration).resampling_fn_data.func is not resample
    configuration["resampling_fn_data"] = "resample_data_or_seg_to_shape"
    chosen = FastResampling(configuration).resampling_fn_data
    assert chosen.func is resample
    assert chosen.keywords == {"is_seg": False, "force_separate_z": False}
    configuration["resampling_fn_seg"] = "resample_data_or_seg_to_shape"
    configuration["resampling_fn_seg_kwargs"] = {"is_seg": True, "order": 1}
    assert FastResampling(configuration).resampling_fn_seg.func is resample
