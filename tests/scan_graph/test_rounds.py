"""The teacher's answers in the whole graph."""

import dataclasses

import blosc2
import numpy as np
import pytest
from scans import SHAPE, bent, body

from graphnn_unet.scan_graph.fields import Fields
from graphnn_unet.scan_graph.rounds import solve_round
from graphnn_unet.scan_graph.solve import SolveSettings
from graphnn_unet.scan_graph.votes import ScanGraphSettings, Voters

SPACING = (1.0, 1.0, 1.0)
NO_EDGES_INSIDE = SolveSettings(inside=0.0)


def unsure(_scan) -> np.ndarray:
    return np.full((3, *SHAPE), 1 / 3, np.float32)


def sure_of(label) -> np.ndarray:
    return (label == np.arange(3).reshape(-1, 1, 1, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Two labeled scans and two unlabeled ones, with the truth of the latter."""
    labeled = [body(n, place=bent(amount=0.8, phase=n)) for n in range(2)]
    truth = [body(n, place=bent(amount=0.8, phase=n)) for n in (2, 3)]
    hidden = [dataclasses.replace(scan, labels=None) for scan in truth]
    fields = Fields(tmp_path_factory.mktemp("links"), SPACING)
    voters = Voters(fields, labeled, 3, ScanGraphSettings(neighbors=2))
    return voters, hidden, truth


def shares(folder, scan) -> np.ndarray:
    return blosc2.open(str(folder / f"{scan.case_id}.b2nd"))[:].astype(np.float32)


def test_without_answers_and_inner_edges_it_is_the_vote(scene, tmp_path):
    voters, hidden, _ = scene
    ends = ScanGraphSettings(neighbors=2, search=0)  # links are edges between two voxels
    voters = dataclasses.replace(voters, settings=ends)
    solve_round(voters, hidden, unsure, NO_EDGES_INSIDE, tmp_path)
    for scan in hidden:
        vote = voters.vote_on(scan)
        np.testing.assert_allclose(shares(tmp_path, scan), vote.share, atol=2e-3)


def test_a_sure_teacher_decides_and_an_unsure_one_is_overruled(scene, tmp_path):
    voters, hidden, truth = scene
    labels = {scan.case_id: np.roll(scan.label()[0], 3, 2) for scan in truth}  # wrong answers
    heavy = dataclasses.replace(voters, settings=ScanGraphSettings(neighbors=2, certainty=1e4))
    solve_round(
        heavy, hidden, lambda s: sure_of(labels[s.case_id]), NO_EDGES_INSIDE, tmp_path / "a"
    )
    weightless = dataclasses.replace(voters, settings=ScanGraphSettings(neighbors=2, certainty=0))
    solve_round(
        weightless, hidden, lambda s: sure_of(labels[s.case_id]), NO_EDGES_INSIDE, tmp_path / "b"
    )
    for scan, true in zip(hidden, truth, strict=True):
        decided = shares(tmp_path / "a", scan).argmax(0)
        assert np.mean(decided == labels[scan.case_id]) > 0.999
        assert np.mean(shares(tmp_path / "b", scan).argmax(0) == true.label()[0]) > 0.96


def test_a_label_travels_through_an_unlabeled_scan(scene, tmp_path):
    """The second scan is linked to the first alone, which is linked to a labeled one."""
    voters, hidden, truth = scene
    one = dataclasses.replace(
        voters, labeled=voters.labeled[:1], settings=ScanGraphSettings(neighbors=3)
    )
    far = dataclasses.replace(hidden[1], case_id="far")

    def links_of_far_fail(link):
        is_cut = link.fixed.case_id == "far" and link.moving is voters.labeled[0]
        return not is_cut and type(one.fields).has(one.fields, link)

    one.fields.ensure([])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.fields, "has", links_of_far_fail)
        patch.setattr(one.fields, "ensure", lambda links, **_: _made(one.fields, links))
        solve_round(one, [hidden[0], far], unsure, NO_EDGES_INSIDE, tmp_path)
    assert np.mean(shares(tmp_path, far).argmax(0) == truth[1].label()[0]) > 0.95


def _made(fields, links):
    return type(fields).ensure(fields, [link for link in links if link.fixed.case_id != "far"
                                        or link.moving.case_id == "scan_2"])  # fmt: skip


def test_hidden_labels_stay_closed_and_outside_voxels_say_nothing(scene, tmp_path):
    voters, hidden, truth = scene
    label = voters.labeled[0].labels.copy()
    label[:, :, :6] = -1
    part = dataclasses.replace(voters.labeled[0], labels=label)
    half = dataclasses.replace(voters, labeled=[part, voters.labeled[1]])
    solve_round(half, hidden, unsure, NO_EDGES_INSIDE, tmp_path)
    for scan, true in zip(hidden, truth, strict=True):
        share = shares(tmp_path, scan)
        np.testing.assert_allclose(share.sum(0)[share.sum(0) > 0.01], 1, atol=5e-3)
        assert np.mean(share.argmax(0) == true.label()[0]) > 0.96
