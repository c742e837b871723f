import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from medpy.metric import binary
from scipy import ndimage

from graphnn_unet.errors import InputError, ShapeError
from graphnn_unet.metrics import asd, dice, hd95, image_diagonal_mm, nsd, surface_distances
from graphnn_unet.metrics.distance import bounding_box, surface

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.9), (0.3, 2.0, 1.1)]


def blob(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    smooth = ndimage.gaussian_filter(generator.normal(size=shape), 1.5)
    return smooth > np.quantile(smooth, generator.uniform(0.6, 0.95))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(6))
def test_distances_are_those_of_medpy(seed: int, spacing: tuple[float, ...]):
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(8, 16, size=3))
    prediction, reference = blob(generator, shape), blob(generator, shape)
    for ours, theirs in ((hd95, binary.hd95), (asd, binary.asd)):
        expected = theirs(prediction, reference, voxelspacing=spacing)
        assert ours(prediction, reference, spacing) == pytest.approx(expected, abs=1e-9)
        expected = theirs(prediction, reference)
        assert ours(prediction, reference) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_distances_in_a_slice_are_those_of_medpy(seed: int):
    generator = np.random.default_rng(seed)
    prediction, reference = blob(generator, (20, 24)), blob(generator, (20, 24))
    expected = binary.hd95(prediction, reference, voxelspacing=(0.5, 2.0))
    assert hd95(prediction, reference, (0.5, 2.0)) == pytest.approx(expected, abs=1e-9)


def test_worked_example_of_a_row():
    """prediction {1, 7}, reference {1} in a row of eight voxels, counted by hand."""
    prediction, reference = np.zeros((2, 1, 8), dtype=bool)
    prediction[0, [1, 7]] = reference[0, 1] = True
    assert dice(prediction, reference) == pytest.approx(2 / 3)
    assert asd(prediction, reference) == 3.0
    assert asd(reference, prediction) == 0.0
    assert hd95(prediction, reference) == pytest.approx(5.4)


def test_surface_is_what_an_erosion_by_faces_takes_away():
    generator = np.random.default_rng(0)
    for shape in ((9,), (7, 8), (6, 7, 8)):
        volume = generator.random(shape) < 0.8
        inner = ndimage.binary_erosion(volume, ndimage.generate_binary_structure(len(shape), 1))
        np.testing.assert_array_equal(surface(volume), volume & ~inner)


def test_bounding_box_holds_all_and_nothing_more():
    volume = np.zeros((5, 6, 7), dtype=bool)
    volume[1, 2, 3] = volume[3, 2, 6] = True
    assert bounding_box(volume) == (slice(1, 4), slice(2, 3), slice(3, 7))
    assert volume[bounding_box(np.zeros_like(volume))].size == 0


def nsd_by_hand(prediction, reference, spacing, tolerance: float) -> float:
    """From all pairs of voxels with a missing face neighbor, one by one."""
    points = []
    for volume in (prediction, reference):
        inside = {tuple(voxel) for voxel in np.argwhere(volume)}
        border = [
            voxel
            for voxel in inside
            if any(
                (*voxel[:axis], voxel[axis] + step, *voxel[axis + 1 :]) not in inside
                for axis in range(volume.ndim)
                for step in (-1, 1)
            )
        ]
        points.append(np.array(border) * spacing)
    near = 0
    for these, others in (points, points[::-1]):
        near += sum(
            min(math.dist(point, other) for other in others) <= tolerance for point in these
        )
    return near / sum(map(len, points))


@settings(max_examples=40, deadline=None)
@given(
    pair=arrays(bool, (2, 3, 4, 4)).filter(lambda pair: pair[0].any() and pair[1].any()),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (3.0, 0.7, 0.9), (0.25, 2.0, 1.0)]),
    tolerance=st.sampled_from([0.0, 0.8, 1.05, 2.0, 3.15]),
)
def test_surface_dice_is_what_counting_all_pairs_gives(pair, spacing, tolerance: float):
    expected = nsd_by_hand(*pair, spacing, tolerance + 1e-9)
    assert nsd(*pair, spacing, tolerance) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), tolerance=st.floats(0.0, 5.0))
def test_surface_dice_has_no_direction_and_grows_with_the_tolerance(seed: int, tolerance: float):
    generator = np.random.default_rng(seed)
    prediction, reference = blob(generator, (6, 8, 8)), blob(generator, (6, 8, 8))
    value = nsd(prediction, reference, SPACINGS[1], tolerance)
    assert value == nsd(reference, prediction, SPACINGS[1], tolerance)
    assert value <= nsd(prediction, reference, SPACINGS[1], tolerance + 0.5)
    assert nsd(prediction, reference, SPACINGS[1], 200.0) == 1.0
    assert nsd(reference, reference, SPACINGS[1], 0.0) == 1.0


def test_surface_dice_at_a_distance_of_just_the_tolerance_counts():
    """1.1 mm of a NIfTI header are 1.10000002 mm."""
    prediction, reference = np.zeros((2, 1, 8), dtype=bool)
    prediction[0, 1] = reference[0, 4] = True
    header = (1.0, float(np.float32(1.1)))
    assert header[1] * 3 > 3.3
    assert nsd(prediction, reference, header, 3.3) == 1.0
    assert nsd(prediction, reference, header, 3.2) == 0.0


positive = st.floats(0.1, 10.0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), spacing=st.tuples(positive, positive, positive), scale=positive)
def test_mm_follow_the_spacing(seed: int, spacing: tuple[float, float, float], scale: float):
    generator = np.random.default_rng(seed)
    prediction, reference = generator.random((2, 5, 6, 4)) < 0.3
    prediction[0, 0, 0] = reference[4, 5, 3] = True
    scaled = tuple(scale * step for step in spacing)
    for distance in (hd95, asd):
        once = distance(prediction, reference, spacing)
        assert distance(prediction, reference, scaled) == pytest.approx(scale * once, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    spacing=st.tuples(positive, positive, positive),
    order=st.permutations(range(3)),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_axes_may_be_swapped_and_flipped_with_their_spacing(
    seed: int, spacing: tuple[float, ...], order: list[int], flips: tuple[bool, ...]
):
    generator = np.random.default_rng(seed)
    volumes = list(generator.random((2, 5, 6, 4)) < 0.3)
    volumes[0][0, 0, 0] = volumes[1][4, 5, 3] = True
    turned = [np.flip(v.transpose(order), np.flatnonzero(flips)) for v in volumes]
    for distance in (hd95, asd):
        expected = distance(volumes[0], volumes[1], spacing)
        value = distance(turned[0], turned[1], [spacing[axis] for axis in order])
        assert value == pytest.approx(expected, rel=1e-9)


def test_a_shift_along_an_axis_costs_that_axis_spacing():
    for axis, step in enumerate((5.0, 0.7, 0.9)):
        prediction, reference = np.zeros((2, 8, 8, 8), dtype=bool)
        prediction[3, 3, 3] = True
        reference[tuple(3 + 4 * (axis == other) for other in range(3))] = True
        assert hd95(prediction, reference, (5.0, 0.7, 0.9)) == pytest.approx(4 * step)


def test_no_distance_is_longer_than_the_diagonal():
    shape, spacing = (4, 5, 6), (3.0, 1.0, 0.5)
    prediction, reference = np.zeros((2, *shape), dtype=bool)
    prediction[0, 0, 0] = reference[-1, -1, -1] = True
    diagonal = image_diagonal_mm(shape, spacing)
    assert diagonal == pytest.approx(math.sqrt(12**2 + 5**2 + 3**2))
    assert hd95(prediction, reference, spacing) < diagonal


def test_an_empty_volume_has_no_distance():
    full, empty = np.ones((3, 3), dtype=bool), np.zeros((3, 3), dtype=bool)
    with pytest.raises(InputError, match="the prediction is empty"):
        hd95(empty, full)
    with pytest.raises(InputError, match="the reference is empty"):
        asd(full, empty)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, float("nan"))])
def test_spacing_that_does_not_fit_is_refused(spacing: tuple[float, ...]):
    full = np.ones((3, 3, 3), dtype=bool)
    with pytest.raises(ShapeError, match="3 axes"):
        surface_distances(full, full, spacing)
