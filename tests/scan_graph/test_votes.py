"""Links on disk and the votes of a run."""

import dataclasses

import numpy as np
import pytest
from scans import SHAPE, bent, body

from graphnn_unet.errors import InputError
from graphnn_unet.scan_graph import fields as fields_module
from graphnn_unet.scan_graph import votes as votes_module
from graphnn_unet.scan_graph.fields import Fields, Link
from graphnn_unet.scan_graph.registration import RegistrationSettings
from graphnn_unet.scan_graph.votes import ScanGraphSettings, StoredVotes, Voters

SPACING = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def scans():
    return [body(n, place=bent(amount=0.8, phase=n)) for n in range(3)]


@pytest.fixture(scope="module")
def voters(scans, tmp_path_factory):
    fields = Fields(tmp_path_factory.mktemp("links"), SPACING)
    made = Voters(fields, scans, 3, ScanGraphSettings())
    target = body(9, place=bent(amount=0.8, phase=9), with_label=False)
    assert fields.ensure(made.links([*scans, target])) == []
    return made


def test_an_unlabeled_scan_gets_the_labels_of_the_others(voters):
    place = bent(amount=0.8, phase=9)
    truth = body(9, place=place).label()[0]
    vote = voters.vote_on(body(9, place=place, with_label=False))
    assert np.mean(vote.share.argmax(0) == truth) > 0.97
    np.testing.assert_allclose(vote.share.sum(0)[vote.trust > 0], 1, atol=1e-4)


def test_votes_are_kept_and_made_anew_when_labels_or_settings_change(voters, monkeypatch):
    target = body(9, place=bent(amount=0.8, phase=9), with_label=False)
    stored = StoredVotes(voters)
    stored.ensure([target])
    box = (slice(2, 9), slice(0, 5), slice(3, 20))
    expected = voters.vote_on(target).share[(slice(None), *box)]
    np.testing.assert_allclose(stored.read(target, box), expected, atol=5e-4)
    monkeypatch.setattr(votes_module, "weighted_vote", lambda *_: pytest.fail("made again"))
    StoredVotes(voters).ensure([target])
    blend = dataclasses.replace(voters, settings=ScanGraphSettings(blend=0.1))
    assert StoredVotes(blend).path(target) == stored.path(target)
    power = dataclasses.replace(voters, settings=ScanGraphSettings(power=1.0))
    assert not StoredVotes(power).path(target).exists()
    labels = np.zeros_like(voters.labeled[0].labels)
    other = [dataclasses.replace(voters.labeled[0], labels=labels), *voters.labeled[1:]]
    changed = StoredVotes(dataclasses.replace(voters, labeled=other))
    assert not changed.path(target).exists()
    assert changed.read(target, box) is None
    path = stored.path(target)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"cannot be read.*Remove"):
        stored.read(target, box)
    path.unlink()


def test_links_are_made_once_and_anew_when_a_scan_or_a_setting_changes(
    scans, tmp_path, monkeypatch
):
    fields = Fields(tmp_path, SPACING)
    link = Link(scans[0], scans[1])
    fields.ensure([link])
    before = fields.path(link).stat().st_mtime_ns
    monkeypatch.setattr(fields_module, "register", lambda *_: pytest.fail("made again"))
    Fields(tmp_path, SPACING).ensure([link])
    assert fields.path(link).stat().st_mtime_ns == before
    changed = dataclasses.replace(scans[1], voxels=scans[1].voxels + 1)
    assert not Fields(tmp_path, SPACING).has(Link(scans[0], changed))
    assert not Fields(tmp_path, (1.0, 1.0, 2.0)).has(link)
    assert not Fields(tmp_path, SPACING, RegistrationSettings(field_sigma=2.0)).has(link)


def test_stored_links_are_near_what_was_found(scans, tmp_path):
    fields = Fields(tmp_path, SPACING)
    link = Link(scans[0], scans[1])
    fields.ensure([link])
    from graphnn_unet.scan_graph.registration import register
    from graphnn_unet.scan_graph.scan import intensities

    exact = register(intensities(scans[0]), intensities(scans[1]), SPACING).places()
    assert np.abs(fields.load(link).places() - exact).max() < 0.01


def test_a_scan_that_cannot_be_linked_is_named_and_the_others_go_on(scans, tmp_path, capsys):
    flat = dataclasses.replace(scans[2], voxels=np.zeros((1, *SHAPE), np.float32))
    fields = Fields(tmp_path, SPACING)
    voters = Voters(fields, [scans[0], flat], 3, ScanGraphSettings())
    (line,) = fields.ensure(voters.links([scans[1]]))
    assert line.startswith("scan_1 and scan_2: ")
    assert "warning: no link between scan_1 and scan_2" in capsys.readouterr().err
    assert voters.vote_on(scans[1]) is not None
    alone = dataclasses.replace(voters, labeled=[flat])
    assert alone.vote_on(scans[1]) is None


def test_a_damaged_link_is_named(scans, tmp_path):
    fields = Fields(tmp_path, SPACING)
    link = Link(scans[0], scans[1])
    fields.ensure([link])
    path = fields.path(link)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"cannot be read.*Remove"):
        fields.load(link)


def test_the_way_back_needs_twice_the_links_and_lowers_trust(voters, scans):
    both = dataclasses.replace(voters, settings=ScanGraphSettings(return_tolerance=1.0))
    links = both.links(scans)
    assert len(links) == len(voters.links(scans)) == 6  # among labeled scans both ways are there
    assert len(both.links([body(9, with_label=False)])) == 6
    less = both.vote_on(scans[0]).trust
    more = voters.vote_on(scans[0]).trust
    assert (less <= more + 1e-6).all()
    assert less.sum() < more.sum()


def test_nobody_opens_a_label_map_of_an_unlabeled_scan(scans, tmp_path):
    hidden = dataclasses.replace(scans[0], labels=None)
    fields = Fields(tmp_path, SPACING)
    voters = Voters(fields, scans[1:], 3, ScanGraphSettings())
    fields.ensure(voters.links([hidden]))
    assert voters.vote_on(hidden) is not None


def test_workers_make_the_same_links(scans, tmp_path):
    links = [Link(scans[0], scans[1]), Link(scans[1], scans[0])]
    alone, many = Fields(tmp_path / "a", SPACING), Fields(tmp_path / "b", SPACING)
    alone.ensure(links)
    many.ensure(links, n_workers=2)
    for link in links:
        np.testing.assert_array_equal(alone.load(link).shift, many.load(link).shift)
    assert not [path for path in (tmp_path / "b").iterdir() if "partial" in path.name]


def test_the_most_alike_labeled_scans_vote_where_there_are_too_many(tmp_path):
    """Two bent one way, three another way: each is asked those of its own kind."""
    scans = [body(n, place=bent(amount=2.0, phase=0 if n < 2 else np.pi)) for n in range(5)]
    target = dataclasses.replace(scans[4], labels=None)
    fields = Fields(tmp_path, SPACING)
    all_vote = Voters(fields, scans[:4], 3, ScanGraphSettings())
    assert all_vote.chosen_for([target]) is all_vote
    two = dataclasses.replace(all_vote, settings=ScanGraphSettings(neighbors=2))
    voters = two.chosen_for([target])
    assert [scan.case_id for scan in voters.voters_of(target)] == ["scan_2", "scan_3"]
    assert len(voters.links([target])) == 2
    assert next(scan.case_id for scan in voters.voters_of(scans[1])) == "scan_0"
    exactly = dataclasses.replace(two, settings=ScanGraphSettings(neighbors=4))
    assert exactly.chosen_for([target]) is exactly
