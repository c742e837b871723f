"""Labeled scans that are carried to the shape of unlabeled ones."""

import dataclasses

import numpy as np
import pytest
from scans import SHAPE, bent, body, displacement

from graphnn_unet.errors import InputError
from graphnn_unet.scan_graph.fields import Fields
from graphnn_unet.scan_graph.pairs import WarpedScan, make_pairs, matched

SPACING = (1.0, 1.0, 1.0)
WHOLE = [slice(0, n) for n in SHAPE]


def warped(scan, field, part, before=None, after=None) -> WarpedScan:
    same = np.linspace(-10, 10, 5)[None]
    return WarpedScan(
        scan, field, part, same if before is None else before, same if after is None else after
    )


def test_a_scan_is_carried_all_the_way_or_stays():
    place, scan = bent(), body(2)
    target = body(2, place=place)
    field = displacement(place)
    image, label = warped(scan, field, 1.0).cut(WHOLE)
    seen = label[0] >= 0
    assert np.mean(label[0][seen] == target.label()[0][seen]) == 1
    assert np.abs(image[0] - target.image()[0])[seen].max() < 0.3  # the noise was carried as well
    stays, labels = warped(scan, field, 0.0).cut(WHOLE)
    np.testing.assert_allclose(stays, scan.image(), atol=1e-5)
    np.testing.assert_array_equal(labels, scan.label())


def test_a_part_is_the_part_of_the_whole():
    scan = warped(body(2), displacement(bent()), 0.6)
    box = [slice(3, 9), slice(-2, 20), slice(10, 25)]
    padded = [np.pad(a, ((0, 0), (0, 0), (2, 0), (0, 3))) for a in scan.cut(WHOLE)]
    image, label = scan.cut(box)
    assert image.shape == label.shape == (1, 6, 22, 15)
    assert label.dtype == np.int16
    expected = [a[:, 3:9, 0:22, 10:25] for a in padded]
    inner = (slice(None), slice(None), slice(4, 22), slice(0, 12))
    np.testing.assert_allclose(image[inner], expected[0][inner], atol=1e-5)
    np.testing.assert_array_equal(label[inner], expected[1][inner])


def test_what_the_labeled_scan_does_not_show_has_no_label():
    far = displacement(np.indices(SHAPE) + 5.0)
    image, label = warped(body(2), far, 1.0).cut(WHOLE)
    assert (label[0, -5:] == -1).all()
    assert (image[0, -5:] == 0).all()
    assert (label[0, :15, :19, :17] >= 0).all()


def test_intensities_are_those_of_the_other_scan(tmp_path):
    labeled = body(1)
    bright = dataclasses.replace(body(2, with_label=False), voxels=3 * body(2).voxels + 100)
    pairs = make_pairs(Fields(tmp_path, SPACING), 1.0, [labeled], [bright], n_workers=0)
    drawn = pairs.draw(labeled, np.random.default_rng(0))
    image, label = drawn.cut(WHOLE)
    shown = image[label >= 0]
    np.testing.assert_allclose(
        np.quantile(shown, [0.1, 0.5, 0.9]), np.quantile(bright.image(), [0.1, 0.5, 0.9]), rtol=0.01
    )


def test_a_voxel_of_a_class_is_met_again():
    scan = body(2)
    drawn = warped(scan, displacement(bent(amount=2.0)), 0.7)
    _, label = drawn.cut(WHOLE)
    voxels = np.argwhere(scan.label()[0] == 2)
    hits = [label[(0, *drawn.voxel_of(voxel))] == 2 for voxel in voxels[::7]]
    assert np.mean(hits) > 0.9
    assert (drawn.voxel_of((-50, 0, 0)) >= 0).all()


def test_the_share_is_kept_and_partners_take_turns(tmp_path):
    labeled, others = body(0), [body(n, place=bent(phase=n)) for n in (1, 2)]
    hidden = [dataclasses.replace(scan, labels=None) for scan in others]
    pairs = make_pairs(Fields(tmp_path, SPACING), 0.25, [labeled], hidden, n_workers=0)
    rng = np.random.default_rng(0)
    drawn = [pairs.draw(labeled, rng) for _ in range(400)]
    carried = [scan for scan in drawn if scan is not None]
    assert 70 < len(carried) < 130
    parts = [scan.part for scan in carried]
    assert 0.4 < np.mean(parts) < 0.6
    first = np.mean([np.array_equal(scan.field.shift, carried[0].field.shift) for scan in carried])
    assert 0.3 < first < 0.7
    assert pairs.draw(body(7), rng) is None  # no link leads to it


def test_without_links_there_are_no_pairs(tmp_path):
    with pytest.raises(InputError, match=r"scan_graph\.pairs.*there are none"):
        make_pairs(Fields(tmp_path, SPACING), 0.5, [body(0)], [], n_workers=0)
    flat = dataclasses.replace(body(1), voxels=np.zeros((1, *SHAPE), np.float32))
    with pytest.raises(InputError, match="no scan could be registered"):
        make_pairs(Fields(tmp_path, SPACING), 0.5, [body(0)], [flat], n_workers=0)


def test_air_stays_air_where_the_scans_have_different_shares_of_it():
    """Both have air at one number: 65 % of one scan, 45 % of the other."""
    rng = np.random.default_rng(0)
    quantiles = np.linspace(0, 1, 101)
    scans = []
    for share in (0.65, 0.45):
        values = rng.normal(0.5, 0.2, 10_000)
        values[: int(share * len(values))] = -1.5
        scans.append(values)
    before, after = (np.quantile(values, quantiles) for values in scans)
    air, low, tissue, top = matched(np.array([-1.5, 0.2, 0.5, before[-1]]), before, after)
    assert air == -1.5
    assert -1.5 < low < tissue < top == after[-1]
    constant = np.zeros(101)
    assert matched(np.zeros(3), constant, after).tolist() == [pytest.approx(after.mean())] * 3
