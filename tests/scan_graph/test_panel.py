"""Labeled scans vote on a scan that belongs to no run."""

import dataclasses
import time

import numpy as np
import pytest
from scans import SHAPE, bent, body

from graphnn_unet.errors import InputError
from graphnn_unet.scan_graph import panel as panel_module
from graphnn_unet.scan_graph.fields import Fields
from graphnn_unet.scan_graph.panel import Panel
from graphnn_unet.scan_graph.registration import RegistrationSettings, register
from graphnn_unet.scan_graph.scan import intensities
from graphnn_unet.scan_graph.votes import ScanGraphSettings, Voters

SPACING = (1.0, 1.0, 1.0)
QUICK = RegistrationSettings(affine_iterations=20, smooth_iterations=15, fine_iterations=10)
NEW = body(9, place=bent(amount=0.8, phase=9), with_label=False)


def panel_of(scans, **settings) -> Panel:
    return Panel(scans, SPACING, 3, ScanGraphSettings(**settings), QUICK)


@pytest.fixture(scope="module")
def scans():
    return [body(n, place=bent(amount=0.8, phase=n)) for n in range(2)]


@pytest.mark.parametrize("search", [0, 1])
def test_a_vote_is_that_of_training_without_links_on_disk(scans, tmp_path, search):
    """Links on disk are in half precision; the way back counts in both."""
    fields = Fields(tmp_path, SPACING, QUICK)
    settings = {"return_tolerance": 0.3, "search": search}
    voters = Voters(fields, scans, 3, ScanGraphSettings(**settings))
    fields.ensure(voters.links([NEW]))
    vote = panel_of(scans, **settings).vote_on(NEW.image(), n_threads=2)
    assert (vote.n_voters, vote.failures) == (2, [])
    np.testing.assert_allclose(vote.share, voters.vote_on(NEW).share, atol=0.02)
    without = panel_of(scans, search=search).vote_on(NEW.image()).share
    assert np.abs(vote.share - without).max() > 0.05


def test_a_scan_of_the_same_name_votes(scans):
    """The user's file may be called as a scan of the training."""
    alone = [dataclasses.replace(scans[0], case_id="scan_9")]
    assert panel_of(alone).vote_on(NEW.image()).share is not None


def test_scans_that_cannot_vote_are_told_and_the_others_do(scans):
    flat = dataclasses.replace(scans[1], voxels=np.zeros((1, *SHAPE), np.float32))
    vote = panel_of([scans[0], flat]).vote_on(NEW.image())
    assert vote.failures == ["the second scan cannot be registered: all its voxels are equal"]
    np.testing.assert_array_equal(vote.share, panel_of(scans[:1]).vote_on(NEW.image()).share)
    small = panel_of(scans).vote_on(NEW.image()[:, :5])
    assert small.share is None
    assert len(small.failures) == 2
    assert "too small" in small.failures[0]


def test_the_most_alike_ones_vote_where_there_are_many():
    scans = [body(n, place=bent(amount=2.0, phase=np.pi * (n < 2))) for n in range(3)]
    flat = dataclasses.replace(scans[0], voxels=np.zeros((1, *SHAPE), np.float32))
    panel = panel_of([*scans, flat], neighbors=1).ready(n_threads=2)
    assert panel.profiles[3] is None
    for phase, number in ((0.0, 2), (np.pi, 0)):
        new = body(7, place=bent(amount=2.0, phase=phase), with_label=False)
        (chosen,) = panel._most_alike(panel_module.NewScan(new.image()))
        assert (chosen.case_id == "scan_2") == (number == 2)


def test_the_digest_changes_with_all_that_decides(scans):
    panel = panel_of(scans)
    label = scans[1].label().copy()
    label[0, 3, 4, 5] += 1
    others = [
        panel_of([scans[0], dataclasses.replace(scans[1], labels=label)]),
        panel_of([scans[0], dataclasses.replace(scans[1], voxels=scans[1].voxels + 1)]),
        panel_of(scans[:1]),
        panel.blending(0.3),
        panel_of(scans, power=2.0),
        dataclasses.replace(panel, registration=RegistrationSettings()),
    ]
    digests = [each.digest() for each in (panel, *others)]
    assert len(set(digests)) == len(digests)
    assert panel_of(scans).digest() == panel.blending(None).digest() == digests[0]


def test_registrations_stop_when_they_are_no_longer_wanted(scans):
    asked = []

    def is_stopped() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 3

    long = RegistrationSettings(affine_iterations=1, smooth_iterations=1000, fine_iterations=1000)
    first, second = (intensities(scan) for scan in scans)
    with pytest.raises(InputError, match="was stopped"):
        register(first, second, SPACING, long, is_stopped=is_stopped)
    assert len(asked) < 10
    vote = panel_of(scans).vote_on(NEW.image(), is_stopped=lambda: True)
    assert vote.share is None


def test_votes_are_kept_by_content(scans, tmp_path, monkeypatch):
    panel = panel_of(scans).keeping(tmp_path)
    vote = panel.vote_on(NEW.image())
    calls = []
    monkeypatch.setattr(
        panel_module, "register", lambda *a, **k: calls.append(1) or register(*a, **k)
    )
    again = panel_of(scans).blending(0.3).keeping(tmp_path).vote_on(NEW.image())
    assert not calls, "the blend acts on what was voted"
    np.testing.assert_array_equal(again.share, vote.share)
    assert (again.n_voters, again.failures) == (2, [])
    other = NEW.image().copy()
    other[0, 2, 2, 2] += 1
    panel.vote_on(other)
    assert len(calls) == 2, "another scan"
    panel_of(scans[:1]).keeping(tmp_path).vote_on(NEW.image())
    assert len(calls) == 3, "other voters"


def test_a_vote_with_failures_is_not_kept(scans, tmp_path):
    flat = dataclasses.replace(scans[1], voxels=np.zeros((1, *SHAPE), np.float32))
    panel_of([scans[0], flat]).keeping(tmp_path).vote_on(NEW.image())
    assert not list(tmp_path.rglob("*.npy"))
