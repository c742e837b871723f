import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphnn_unet.images.grid import TOLERANCE_VOXELS, Grid, compare_grids, grid_mismatch

UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
TURNED = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
GRID = Grid((20, 100, 80), (3.0, 1.0, 0.5), (-40.0, 25.5, 300.0), UPRIGHT)


def tilted(angle: float) -> tuple[float, ...]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return (cosine, -sine, 0.0, sine, cosine, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("change", "voxels"),
    [
        ({"origin": (-40.0, 25.5, 300.3)}, 0.1),
        ({"origin": (-39.95, 25.5, 300.0)}, 0.1),
        ({"spacing": (3.0, 1.0, 0.5005)}, 79.5 / 1000),
        ({"spacing": (3.0, 1.002, 0.5)}, 99.5 * 0.002),
        ({"direction": tilted(1e-3)}, 99.5 * 1e-3 / 0.5),
    ],
)
def test_the_corner_that_moves_most_counts_in_voxels_of_its_axis(change, voxels: float):
    assert compare_grids(replace(GRID, **change), GRID).voxels == pytest.approx(voxels, rel=0.02)


@pytest.mark.parametrize(
    ("change", "part", "words"),
    [
        (
            {"shape": (20, 99, 80)},
            "size",
            "size (20, 99, 80) against (20, 100, 80) voxels (z, y, x)",
        ),
        (
            {"spacing": (3.0, 1.0, 0.6)},
            "spacing",
            "spacing (3, 1, 0.6) against (3, 1, 0.5) mm (z, y, x), 16 voxels apart",
        ),
        (
            {"origin": (-40.0, 25.5, 303.0)},
            "origin",
            "origin (-40, 25.5, 303) against (-40, 25.5, 300) mm (x, y, z), 1 voxels apart",
        ),
        (
            {"direction": TURNED},
            "direction",
            "direction (0, -1, 0, 1, 0, 0, 0, 0, 1) against (1, 0",
        ),
    ],
)
def test_a_mismatch_is_named(change, part: str, words: str):
    difference = compare_grids(replace(GRID, **change), GRID)
    assert difference.is_mismatch
    assert not difference.is_rounding
    assert difference.part == part
    assert difference.words.startswith(words)
    sentence = grid_mismatch("a.nii", replace(GRID, **change), "b.nii", GRID)
    assert sentence == f"a.nii is not on the grid of b.nii: {difference.words}"


def test_an_origin_that_follows_from_a_flip_is_not_named_and_another_spacing_is_to_blame_first():
    flipped = replace(
        GRID, direction=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), origin=(900.0, 25.5, 300.0)
    )
    difference = compare_grids(flipped, GRID)
    assert difference.part == "direction"
    assert "origin" not in difference.words
    moved = replace(GRID, spacing=(3.0, 1.0, 0.6), origin=(900.0, 25.5, 300.0))
    difference = compare_grids(moved, GRID)
    assert difference.part == "spacing"
    assert "origin" in difference.words


def test_float32_headers_are_the_same_and_decimals_are_rounding():
    scan = Grid((300, 512, 512), (0.8, 0.703125, 0.703125), (-180.3, -357.1, 1203.7), tilted(0.3))
    stored = Grid(
        scan.shape,
        *(
            tuple(float(np.float32(v)) for v in values)
            for values in (scan.spacing, scan.origin, scan.direction)
        ),
    )
    difference = compare_grids(stored, scan)
    assert not difference.is_mismatch
    assert not difference.is_rounding
    rounded = replace(scan, spacing=(0.8, 0.7031, 0.7031), origin=(-180.3, -357.11, 1203.7))
    difference = compare_grids(rounded, scan)
    assert difference.is_rounding
    assert grid_mismatch("a", rounded, "b", scan) == ""


def test_thickness_counts_where_there_is_one_slice():
    slab = replace(GRID, shape=(1, 100, 80))
    assert compare_grids(replace(slab, spacing=(6.0, 1.0, 0.5)), slab).is_mismatch


def test_slices_and_numbers_that_are_none():
    flat = Grid((10, 20), (2.0, 0.5), (1.0, 2.0), (1.0, 0.0, 0.0, 1.0))
    assert compare_grids(flat, flat).voxels == 0
    assert compare_grids(replace(flat, origin=(1.0, 2.3)), flat).part == "origin"
    assert compare_grids(flat, GRID).part == "size"
    assert compare_grids(replace(GRID, origin=(math.nan, 0.0, 0.0)), GRID).is_mismatch


@given(st.floats(0, 2 * math.pi), st.tuples(*[st.floats(-0.2, 0.2)] * 3))
def test_a_shift_counts_along_the_axes_of_the_volume_whatever_its_direction(angle, shift):
    grid = replace(GRID, direction=tilted(angle))
    moved = np.asarray(grid.origin) + grid.axes @ (np.array(shift) * GRID.spacing[::-1])
    difference = compare_grids(replace(grid, origin=tuple(moved.tolist())), grid)
    largest = max(map(abs, shift))
    assert difference.voxels == pytest.approx(largest, abs=1e-9)
    if abs(largest - TOLERANCE_VOXELS) > 1e-6:
        assert difference.is_mismatch == (largest > TOLERANCE_VOXELS)
