"""The graph of scans, solved scan by scan, against the whole graph at once."""

import numpy as np
import pytest
import torch
from graph.oracles import joined
from scans import displacement

from graphnn_unet.graph.lattice import lattice_affinity, link_affinity
from graphnn_unet.graph.random_walker import random_walker
from graphnn_unet.scan_graph.solve import Data, SolveSettings, Tie, solve_scans

SHAPES = ((3, 4, 5), (4, 3, 4), (3, 3, 3))
SPACING = (2.0, 1.0, 1.0)
EXACT = SolveSettings(bandwidth=0.5, tolerance=1e-6, max_sweeps=500)


def scene(seed: int = 0):
    """Three scans in a chain of links: the first is labeled, the last has a weak teacher."""
    rng = np.random.default_rng(seed)
    images = [rng.random(shape).astype(np.float32) for shape in SHAPES]
    share = [rng.dirichlet((1, 1, 1), shape).transpose(3, 0, 1, 2) for shape in SHAPES]
    certainty = [np.full(SHAPES[0], np.inf), np.zeros(SHAPES[1]), 0.2 * rng.random(SHAPES[2])]
    data = [Data(*pair) for pair in zip(share, certainty, strict=True)]

    def tie(start: int, end: int) -> Tie:
        top = np.asarray(SHAPES[end]).reshape(3, 1, 1, 1) - 1
        point = rng.random((3, *SHAPES[start])) * top
        return Tie(end, displacement(point), rng.random(SHAPES[start]))

    ties = [[], [tie(1, 0), tie(1, 2)], [tie(2, 1)]]
    return images, data, ties


def at_once(images, data, ties, settings=EXACT):
    """The same system as one sparse matrix."""
    inside = [
        settings.inside
        * lattice_affinity(torch.from_numpy(image)[None], settings.bandwidth, SPACING)
        for image in images
    ]
    links = [
        (start, tie.scan, link_affinity(
            torch.from_numpy(tie.field.places().reshape(3, -1).T.copy()),
            torch.from_numpy(tie.weight.ravel().astype(np.float32)), SHAPES[tie.scan]))
        for start, leaving in enumerate(ties) for tie in leaving
    ]  # fmt: skip
    target = np.concatenate([d.share.reshape(3, -1).T for d in data])
    certainty = np.concatenate([d.certainty.ravel() for d in data])
    walk = random_walker(
        joined(inside, links).double(), torch.from_numpy(target),
        torch.from_numpy(certainty),
    )  # fmt: skip
    parts = walk.value.split([int(np.prod(shape)) for shape in SHAPES])
    return [p.T.reshape(3, *shape).numpy() for p, shape in zip(parts, SHAPES, strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_scan_by_scan_equals_the_whole_graph(seed):
    images, data, ties = scene(seed)
    solved = solve_scans(images, data, lambda number: ties[number], SPACING, EXACT)
    for number, expected in enumerate(at_once(images, data, ties)):
        np.testing.assert_allclose(solved.share[number], expected, atol=2e-4)


def test_order_of_scans_does_not_matter():
    images, data, ties = scene()
    order = [2, 0, 1]
    place = {old: new for new, old in enumerate(order)}
    moved = [[Tie(place[t.scan], t.field, t.weight) for t in ties[old]] for old in order]
    there = solve_scans([images[o] for o in order], [data[o] for o in order],
                        lambda number: moved[number], SPACING, EXACT)  # fmt: skip
    here = solve_scans(images, data, lambda number: ties[number], SPACING, EXACT)
    for new, old in enumerate(order):
        np.testing.assert_allclose(there.share[new], here.share[old], atol=2e-4)


def test_a_scan_without_neighbors_is_its_teacher_where_there_is_no_inside():
    images, data, _ = scene()
    settings = SolveSettings(inside=0)
    solved = solve_scans(images[2:], data[2:], lambda _: [], SPACING, settings)
    known = data[2].certainty > 0
    np.testing.assert_allclose(solved.share[0][:, known], data[2].share[:, known], atol=1e-6)


def test_without_data_and_links_nothing_is_known():
    images, data, _ = scene()
    solved = solve_scans(images[1:2], data[1:2], lambda _: [], SPACING)
    assert (solved.share[0] == 0).all()
    assert solved.n_sweeps == 1


def test_labels_reach_a_scan_through_a_go_between():
    """Scan 2 has no teacher and no link to the labeled scan: scan 1 passes the labels on."""
    images, data, ties = scene()
    data[2] = Data(data[2].share, np.zeros(SHAPES[2]))
    one_class = np.zeros((3, *SHAPES[0]))
    one_class[1] = 1
    data[0] = Data(one_class, data[0].certainty)
    ties[1] = ties[1][:1]  # links lead from 2 to 1 and from 1 to 0 alone
    solved = solve_scans(images, data, lambda number: ties[number], SPACING, EXACT)
    np.testing.assert_allclose(solved.share[2][1], 1, atol=1e-4)


def test_maximum_principle():
    images, data, ties = scene(3)
    solved = solve_scans(images, data, lambda number: ties[number], SPACING, EXACT)
    for number in (1, 2):
        share = solved.share[number]
        assert share.min() > -1e-5
        np.testing.assert_allclose(share.sum(0), 1, atol=1e-4)
