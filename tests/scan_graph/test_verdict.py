"""What labeled scans say about each other."""

import dataclasses

import numpy as np
import pytest
from scans import SHAPE, bent, body

from graphnn_unet.scan_graph.fields import Fields
from graphnn_unet.scan_graph.verdict import judge, leave_one_out
from graphnn_unet.scan_graph.votes import ScanGraphSettings, Voters

SPACING = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def voters(tmp_path_factory):
    scans = [body(n, place=bent(amount=0.8, phase=n)) for n in range(3)]
    voters = Voters(
        Fields(tmp_path_factory.mktemp("links"), SPACING), scans, 3, ScanGraphSettings()
    )
    voters.fields.ensure(voters.links(scans))
    return voters


def test_leave_one_out_asks_the_others(voters):
    dice = leave_one_out(voters)
    assert list(dice) == ["scan_0", "scan_1", "scan_2"]
    assert min(min(values) for values in dice.values()) > 0.85
    shuffled = dataclasses.replace(
        voters.labeled[1], labels=np.zeros_like(voters.labeled[1].labels)
    )
    others = dataclasses.replace(voters, labeled=[voters.labeled[0], shuffled])
    assert leave_one_out(others)["scan_0"] == [0, 0]  # only the empty map of scan_1 votes


def test_an_organ_at_its_place_is_worth_it(voters):
    verdict = judge(voters, network_dice=0.9)
    assert verdict.is_worth
    assert verdict.n_scans == 3
    expected = np.mean(list(leave_one_out(voters).values()), axis=0)
    np.testing.assert_allclose(list(verdict.dice.values()), expected)
    assert verdict.as_dict()["dice"].keys() == {"1", "2"}
    assert "is within 0.02 of the network's 0.900" in verdict.reason


def test_a_lesion_anywhere_is_not(voters):
    """Spots at places that say nothing about each other."""
    spots = []
    for n, scan in enumerate(voters.labeled):
        label = np.zeros((1, *SHAPE), np.int16)
        label[0, 2 + 5 * n : 6 + 5 * n, 3 + 6 * n : 7 + 6 * n, 4:8] = 1
        spots.append(dataclasses.replace(scan, labels=label))
    verdict = judge(dataclasses.replace(voters, labeled=spots))
    assert not verdict.is_worth
    assert "is below 0.7" in verdict.reason
    assert np.isnan(verdict.dice[2])  # nobody has it
    assert verdict.dice[1] < 0.3


def test_one_scan_tells_nothing(voters, tmp_path):
    alone = dataclasses.replace(voters, labeled=voters.labeled[:1])
    assert judge(alone).reason == "one labeled scan tells nothing"
    flat = [
        dataclasses.replace(scan, voxels=np.zeros((1, *SHAPE), np.float32))
        for scan in voters.labeled
    ]
    unlinked = dataclasses.replace(voters, labeled=flat, fields=Fields(tmp_path, SPACING))
    verdict = judge(unlinked)
    assert (verdict.is_worth, verdict.reason) == (False, "no two labeled scans are linked")


def test_scans_of_one_patient_do_not_vote_on_each_other(voters, tmp_path):
    """A lesion at a place of its own in each patient, the same in both scans of one."""
    scans, patient_of = [], {}
    for n in range(6):
        label = np.zeros((1, *SHAPE), np.int16)
        label[0, 2 + 5 * (n % 3) : 6 + 5 * (n % 3), 3 + 6 * (n % 3) : 7 + 6 * (n % 3), 4:8] = 1
        scan = dataclasses.replace(body(n % 3, place=bent(amount=0.8, phase=n % 3)), labels=label)
        scans.append(dataclasses.replace(scan, case_id=f"scan_{n}"))
        patient_of[f"scan_{n}"] = f"patient_{n % 3}"
    of_pairs = Voters(Fields(tmp_path, SPACING), scans, 2, ScanGraphSettings(neighbors=2))
    assert judge(of_pairs, network_dice=0.7).is_worth
    verdict = judge(of_pairs, network_dice=0.7, patient_of=patient_of)
    assert not verdict.is_worth
    assert verdict.dice[1] < 0.3
    apart = dataclasses.replace(of_pairs, patient_of=patient_of)
    chosen = apart.chosen_for(scans)
    for scan in scans:
        others = {patient_of[voter.case_id] for voter in chosen.voters_of(scan)}
        assert patient_of[scan.case_id] not in others
        assert len(chosen.voters_of(scan)) == 2
    single = dataclasses.replace(of_pairs, labeled=[scans[0], scans[3]])
    assert judge(single, patient_of=patient_of).reason == "one labeled patient tells nothing"


def test_voxels_that_nobody_drew_are_not_counted(voters):
    whole = leave_one_out(voters)
    sparse = []
    for scan in voters.labeled:
        label = np.array(scan.labels)
        label[:, 1::4] = 3  # ignored
        label[:, 2::4] = -1  # outside
        sparse.append(dataclasses.replace(scan, labels=label))
    of_drawn = leave_one_out(dataclasses.replace(voters, labeled=sparse))
    for case, dice in whole.items():
        np.testing.assert_allclose(of_drawn[case], dice, atol=0.1)
