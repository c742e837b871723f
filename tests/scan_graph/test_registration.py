"""Registrations of scans whose displacement is known."""

import numpy as np
import pytest
from scans import SHAPE, bent, body

from graphnn_unet.errors import InputError
from graphnn_unet.scan_graph.registration import Displacement, RegistrationSettings, register
from graphnn_unet.scan_graph.scan import intensities
from graphnn_unet.scan_graph.vote import warp

SPACING = (1.0, 1.0, 1.0)


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_a_scan_registered_to_itself_stays_where_it_is():
    volume = intensities(body())
    point = register(volume, volume, SPACING).places()
    assert np.abs(point - np.indices(SHAPE)).max() < 0.1


@pytest.mark.parametrize("spacing", [SPACING, (3.0, 1.0, 1.5)])
def test_a_known_bend_is_found(spacing):
    fixed, moving = body(1, place=bent()), body(2)
    point = register(intensities(fixed), intensities(moving), spacing).places()
    inside = np.asarray(fixed.label()[0]) > 0
    error = np.sqrt(((point - bent()) ** 2).sum(0))[inside]
    before = np.sqrt(((np.indices(SHAPE) - bent()) ** 2).sum(0))[inside]
    assert np.median(error) < 0.5 * np.median(before)
    carried = warp((moving.label()[0] == 2).astype(np.float32), point) > 0.5
    assert dice(carried, fixed.label()[0] == 2) > 0.9


def test_scans_of_different_size_and_place_are_registered():
    moving = body(2)
    smaller = np.pad(intensities(moving), ((2, 1), (0, 3), (4, 0)), mode="edge")
    point = register(intensities(body(1)), smaller, SPACING).places()
    center = tuple(n // 2 for n in SHAPE)
    shift = point[(slice(None), *center)] - center
    np.testing.assert_allclose(shift, (2, 0, 4), atol=0.4)


def test_registration_is_the_same_every_time():
    fixed, moving = intensities(body(1, place=bent())), intensities(body(2))
    np.testing.assert_array_equal(*(register(fixed, moving, SPACING).shift for _ in range(2)))


def test_what_cannot_be_registered_is_told():
    volume = intensities(body())
    with pytest.raises(InputError, match="too small"):
        register(volume[:5], volume, SPACING)
    with pytest.raises(InputError, match="all its voxels are equal"):
        register(volume, np.zeros(SHAPE, np.float32), SPACING)


def test_large_scans_are_registered_on_a_coarser_grid():
    fixed, moving = body(1, place=bent()), body(2)
    settings = RegistrationSettings(max_voxels=4096)
    coarse = register(intensities(fixed), intensities(moving), SPACING, settings)
    assert coarse.stride == (1, 2, 2)
    assert coarse.shift.shape == (3, 20, 12, 11)
    inside = np.asarray(fixed.label()[0]) > 0
    error = np.sqrt(((coarse.places() - bent()) ** 2).sum(0))[inside]
    before = np.sqrt(((np.indices(SHAPE) - bent()) ** 2).sum(0))[inside]
    assert np.median(error) < 0.6 * np.median(before)


def test_places_of_a_coarse_grid_are_linear_in_between():
    """A shift that grows linearly is met exactly, except beyond the outermost grid points."""
    shape, stride = (8, 12, 8), (1, 2, 4)
    points = [(np.arange(n // s) * s + (s - 1) / 2) for n, s in zip(shape, stride, strict=True)]
    shift = np.stack(np.meshgrid(*points, indexing="ij")).astype(np.float32) * 0.25
    field = Displacement(shift, stride, shape)
    inner = [slice(0, 8), slice(1, 11), slice(2, 6)]
    expected = np.indices(shape, dtype=np.float32)[(slice(None), *inner)]
    np.testing.assert_allclose(field.places(inner), 1.25 * expected, atol=1e-5)
    np.testing.assert_allclose(field.places(inner, 0.5), 1.125 * expected, atol=1e-5)
    whole = field.places()[(slice(None), *inner)]
    np.testing.assert_array_equal(field.places(inner), whole)
    beyond = field.places([slice(-2, 0), slice(0, 2), slice(0, 2)])
    np.testing.assert_allclose(beyond[0], [[[-2, -2], [-2, -2]], [[-1, -1], [-1, -1]]])
