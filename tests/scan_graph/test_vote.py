"""Warps, trust and votes against loops, closed forms and known displacements."""

import numpy as np
import pytest
from scans import SHAPE, bent, body

from graphnn_unet.scan_graph.scan import intensities, one_hot
from graphnn_unet.scan_graph.vote import (
    link_weight,
    local_correlation,
    return_error,
    warp,
    weighted_vote,
)

IDENTITY = np.indices(SHAPE).astype(np.float32)


def test_warp_moves_by_whole_voxels_and_knows_the_outside():
    volume = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    shifted = warp(volume, IDENTITY + np.array([1, 0, 2]).reshape(3, 1, 1, 1), outside=-7)
    np.testing.assert_allclose(shifted[:-1, :, :-2], volume[1:, :, 2:], atol=1e-6)
    assert (shifted[-1] == -7).all()


def test_local_correlation_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    a, b = rng.normal(1000, 1, (7, 8, 9)), rng.normal(-3, 2, (7, 8, 9))
    correlation = local_correlation(a, b, radius=1)
    for z, y, x in [(1, 1, 1), (3, 4, 5), (5, 6, 7)]:
        cube = (slice(z - 1, z + 2), slice(y - 1, y + 2), slice(x - 1, x + 2))
        expected = np.corrcoef(a[cube].ravel(), b[cube].ravel())[0, 1]
        assert correlation[z, y, x] == pytest.approx(expected, abs=1e-4)


def test_correlation_does_not_care_for_scale_and_is_zero_where_nothing_is_to_see():
    volume = intensities(body())
    np.testing.assert_allclose(local_correlation(volume, 3 * volume - 5), 1, atol=1e-3)
    np.testing.assert_allclose(local_correlation(volume, -volume), -1, atol=1e-3)
    assert (local_correlation(volume, np.ones(SHAPE)) == 0).all()


def test_return_error_of_inverse_links_is_small_and_of_shifted_ones_their_shift():
    forth = IDENTITY + np.array([1.5, 0, -1]).reshape(3, 1, 1, 1)
    back = IDENTITY - np.array([1.5, 0, -1]).reshape(3, 1, 1, 1)
    inner = (slice(2, -3), slice(2, -2), slice(2, -2))
    assert return_error(forth, back)[inner].max() < 1e-4
    np.testing.assert_allclose(return_error(forth, IDENTITY)[inner], np.hypot(1.5, 1), atol=1e-4)
    assert np.isinf(return_error(forth, back)[-1]).all()


def test_trust_falls_with_correlation_and_return_error():
    volume = intensities(body())
    noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    same = link_weight(volume, volume, IDENTITY)
    np.testing.assert_allclose(same, 1, atol=5e-3)
    assert np.median(link_weight(volume, noise, IDENTITY)) < 0.05
    shifted = IDENTITY + 2 * np.eye(3)[0].reshape(3, 1, 1, 1)
    trusted = link_weight(volume, volume, IDENTITY, shifted.astype(np.float32), tolerance=2.0)
    np.testing.assert_allclose(trusted[:-2], same[:-2] * np.exp(-1), rtol=1e-3)
    assert (link_weight(volume, volume, shifted)[-2:] == 0).all()  # outside


def test_vote_is_the_weighted_mean_and_says_where_nobody_votes():
    first, second = one_hot(body(0), 3), one_hot(body(1, place=bent()), 3)
    weights = [np.full(SHAPE, 0.75, np.float32), np.full(SHAPE, 0.25, np.float32)]
    weights[0][0] = weights[1][0] = 0
    vote = weighted_vote([first, second], [IDENTITY, IDENTITY], weights)
    np.testing.assert_allclose(vote.share[:, 1:], (0.75 * first + 0.25 * second)[:, 1:], atol=1e-6)
    assert (vote.share[:, 0] == 0).all()
    assert (vote.trust[0] == 0).all()
    assert (vote.trust[1:] == 0.75).all()


def test_ignored_voxels_cast_no_vote():
    scan = body(0)
    scan.labels[0, 5] = -1
    label = one_hot(scan, 3)
    assert (label[:, 5] == 0).all()
    vote = weighted_vote([label], [IDENTITY], [np.ones(SHAPE, np.float32)])
    assert (vote.trust[5] == 0).all()
    assert (vote.trust[6] == 1).all()
