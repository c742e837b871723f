"""Registrations of scans whose displacement is known."""

import numpy as np
import pytest
from scans import SHAPE, bent, body

from graphnn_unet.errors import InputError
from graphnn_unet.scan_graph.registration import register
from graphnn_unet.scan_graph.scan import intensities
from graphnn_unet.scan_graph.vote import warp

SPACING = (1.0, 1.0, 1.0)


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_a_scan_registered_to_itself_stays_where_it_is():
    volume = intensities(body())
    point = register(volume, volume, SPACING)
    assert np.abs(point - np.indices(SHAPE)).max() < 0.1


@pytest.mark.parametrize("spacing", [SPACING, (3.0, 1.0, 1.5)])
def test_a_known_bend_is_found(spacing):
    fixed, moving = body(1, place=bent()), body(2)
    point = register(intensities(fixed), intensities(moving), spacing)
    inside = np.asarray(fixed.label()[0]) > 0
    error = np.sqrt(((point - bent()) ** 2).sum(0))[inside]
    before = np.sqrt(((np.indices(SHAPE) - bent()) ** 2).sum(0))[inside]
    assert np.median(error) < 0.5 * np.median(before)
    carried = warp((moving.label()[0] == 2).astype(np.float32), point) > 0.5
    assert dice(carried, fixed.label()[0] == 2) > 0.9


def test_scans_of_different_size_and_place_are_registered():
    moving = body(2)
    smaller = np.pad(intensities(moving), ((2, 1), (0, 3), (4, 0)), mode="edge")
    point = register(intensities(body(1)), smaller, SPACING)
    center = tuple(n // 2 for n in SHAPE)
    shift = point[(slice(None), *center)] - center
    np.testing.assert_allclose(shift, (2, 0, 4), atol=0.4)


def test_registration_is_the_same_every_time():
    fixed, moving = intensities(body(1, place=bent())), intensities(body(2))
    np.testing.assert_array_equal(*(register(fixed, moving, SPACING) for _ in range(2)))


def test_what_cannot_be_registered_is_told():
    volume = intensities(body())
    with pytest.raises(InputError, match="too small"):
        register(volume[:5], volume, SPACING)
    with pytest.raises(InputError, match="all its voxels are equal"):
        register(volume, np.zeros(SHAPE, np.float32), SPACING)
