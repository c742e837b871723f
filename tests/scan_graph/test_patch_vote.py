"""Votes of the places around a link's end, against a loop and a link that is off."""

import numpy as np
import pytest
from scans import SHAPE, bent, body

from graphnn_unet.scan_graph import patch_vote as module
from graphnn_unet.scan_graph.patch_vote import patch_vote
from graphnn_unet.scan_graph.scan import intensities
from graphnn_unet.scan_graph.vote import weighted_vote

N_CLASSES = 3
IDENTITY = np.indices(SHAPE).astype(np.float32)
EVERYWHERE = np.ones(SHAPE, np.float32)


@pytest.fixture(scope="module")
def two():
    """A scan to vote on, its label, and two that vote through links that are a voxel off."""
    scan = body(0)
    voters = [body(1, place=bent(amount=0.5, phase=1)), body(2, place=bent(amount=0.5, phase=4))]
    return (
        intensities(scan),
        np.asarray(scan.label()[0]),
        (
            [np.asarray(voter.label()[0]) for voter in voters],
            [IDENTITY + np.array([0, 1, -1]).reshape(3, 1, 1, 1), IDENTITY],
            [intensities(voter) for voter in voters],
        ),
    )


def one_hot(label):
    return (label == np.arange(N_CLASSES).reshape(-1, 1, 1, 1)).astype(np.float32)


def voted(labels, points, fixed, moving, trusts, **options):
    """``patch_vote`` with places that are there."""
    places = [lambda box, point=point: point[(slice(None), *box)] for point in points]
    return patch_vote(labels, places, fixed, moving, trusts, N_CLASSES, **options)


def in_a_loop(fixed, labels, points, moving, trusts, place, search, radius, bandwidth):
    """The same at one voxel of whole links, far from all borders."""
    reach = range(-radius, radius + 1)
    terms = []
    for label, point, image, trust in zip(labels, points, moving, trusts, strict=True):
        for shift in np.ndindex((2 * search + 1,) * 3):
            ends = np.asarray(place) + np.asarray(shift) - search
            end = point[(slice(None), *ends)].astype(int)
            difference = np.mean([
                (fixed[tuple(np.add(place, step))] - image[tuple(end + np.asarray(step))]) ** 2
                for step in ((z, y, x) for z in reach for y in reach for x in reach)
            ])  # fmt: skip
            terms.append(
                (difference, trust[tuple(place)], label[tuple(end)] == np.arange(N_CLASSES))
            )
    scale = bandwidth * max(min(term[0] for term in terms), 1e-4)
    total = sum(np.exp(-d / scale) * trust * label for d, trust, label in terms)
    return total / total.sum()


@pytest.mark.parametrize(("search", "radius"), [(1, 1), (1, 0), (2, 1)])
def test_it_is_the_weighted_mean_of_a_loop(two, search, radius):
    fixed, _, (labels, points, moving) = two
    trusts = [EVERYWHERE, 0.3 * EVERYWHERE]
    vote = voted(labels, points, fixed, moving, trusts, search=search, radius=radius)
    rng = np.random.default_rng(0)
    for _ in range(12):
        place = tuple(int(rng.integers(5, length - 5)) for length in SHAPE)
        expected = in_a_loop(fixed, labels, points, moving, trusts, place, search, radius, 2.0)
        np.testing.assert_allclose(vote.share[(slice(None), *place)], expected, atol=1e-4)


def test_slabs_change_nothing(two, monkeypatch):
    fixed, _, (labels, points, moving) = two
    trusts = [EVERYWHERE, EVERYWHERE]
    whole = voted(labels, points, fixed, moving, trusts)
    monkeypatch.setattr(module, "MEMORY_BYTES", 1)
    vote = voted(labels, points, fixed, moving, trusts)
    np.testing.assert_allclose(vote.share, whole.share, atol=1e-5)


def test_a_link_that_is_a_voxel_off_costs_little(two):
    fixed, label, (labels, points, moving) = two
    wrong = {
        name: (vote.share.argmax(0) != label).mean()
        for name, vote in {
            "end": weighted_vote([one_hot(labels[0])], [points[0]], [EVERYWHERE]),
            "around": voted([labels[0]], [points[0]], fixed, moving[:1], [EVERYWHERE]),
        }.items()
    }
    assert wrong["around"] < 0.6 * wrong["end"]


def test_no_trust_is_no_vote(two):
    fixed, _, (labels, points, moving) = two
    trusts = [EVERYWHERE.copy(), EVERYWHERE.copy()]
    for trust in trusts:
        trust[3] = 0
    vote = voted(labels, points, fixed, moving, trusts)
    assert (vote.share[:, 3] == 0).all()
    assert (vote.trust[3] == 0).all()
    np.testing.assert_allclose(vote.share[:, 4:].sum(0), 1, atol=1e-5)
