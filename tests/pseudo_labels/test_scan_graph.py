"""The vote of labeled scans, cut and mirrored with the patch, blended with the teacher."""

import numpy as np
import pytest
import torch
from scans import SHAPE, bent, body
from tiny_study import train_in

from graphnn_unet.errors import RecipeError
from graphnn_unet.plans.recipe import load_recipe, parse_overrides, resolve
from graphnn_unet.pseudo_labels.corrector import Place, Surroundings, Teaching
from graphnn_unet.pseudo_labels.scan_graph import ScanGraph, cut
from graphnn_unet.trainers.bcp import BCPTrainer

PATCH = (12, 16, 10)


def surroundings(folder, *overrides, **changes):
    recipe = resolve(load_recipe("quick"), parse_overrides(list(overrides)))
    facts = {"spacing_mm": (1.0, 1.0, 1.0), "dataset_folder": folder, "identifier": "x",
             "n_classes": 3}  # fmt: skip
    return Surroundings(recipe, **{**facts, **changes})


@pytest.fixture(scope="module")
def corrector(tmp_path_factory):
    made = ScanGraph(surroundings(tmp_path_factory.mktemp("data")))
    labeled = [body(n, place=bent(amount=0.8, phase=n)) for n in range(2)]
    made.prepare(labeled, [body(9, place=bent(amount=0.8, phase=9), with_label=False)])
    return made


def teaching(places, logits=None):
    if logits is None:
        logits = torch.randn((len(places), 3, *PATCH), generator=torch.Generator().manual_seed(0))
    return Teaching(logits, cases=["scan_9"] * len(places), places=places)


def test_a_patch_inside_is_the_mean_of_teacher_and_vote(corrector):
    start = (4, 3, 6)
    given = teaching([Place(start)])
    probability = corrector(given).softmax(1)[0]
    vote = corrector.voters.vote_on(corrector._scans["scan_9"])
    box = tuple(slice(s, s + n) for s, n in zip(start, PATCH, strict=True))
    share = torch.from_numpy(vote.share[(slice(None), *box)])
    expected = 0.5 * given.logits.softmax(1)[0] + 0.5 * share
    # votes are stored in half precision
    torch.testing.assert_close(probability, expected, atol=3e-4, rtol=0)


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_the_vote_is_mirrored_with_the_patch(corrector, axes):
    flat = torch.zeros(1, 3, *PATCH)
    plain = corrector(teaching([Place((4, 3, 6))], flat))
    mirrored = corrector(teaching([Place((4, 3, 6), axes)], flat))
    torch.testing.assert_close(mirrored, plain.flip([axis + 2 for axis in axes]))
    assert not torch.allclose(mirrored, plain, atol=1e-2)


def test_moved_patches_and_voxels_outside_keep_the_teacher(corrector):
    places = [Place((4, 3, 6), is_moved=True), Place((-100, 0, 0)), Place((-4, 0, 0))]
    given = teaching(places)
    corrected, teacher = corrector(given).softmax(1), given.logits.softmax(1)
    torch.testing.assert_close(corrected[:2], teacher[:2])
    torch.testing.assert_close(corrected[2, :, :4], teacher[2, :, :4])
    assert not torch.allclose(corrected[2, :, 4:], teacher[2, :, 4:], atol=1e-2)


def test_cut_is_that_of_padding_first():
    volume = np.random.default_rng(0).random((2, *SHAPE))
    for start in [(0, 0, 0), (-3, 5, 20), (15, -8, -1), (30, 0, 0)]:
        padded = np.pad(volume, [(0, 0)] + [(40, 40)] * 3)
        box = tuple(slice(s + 40, s + 40 + n) for s, n in zip(start, PATCH, strict=True))
        part = cut(lambda box: volume[(slice(None), *box)], SHAPE, Place(start), (2, *PATCH))
        np.testing.assert_allclose(part, padded[(slice(None), *box)], atol=1e-7)
    assert cut(lambda _: None, SHAPE, Place((0, 0, 0)), (2, *PATCH)) is None


def test_where_votes_cannot_be_made_it_is_said(tmp_path):
    with pytest.raises(RecipeError, match="'scan_graph' cannot correct overlapping regions"):
        ScanGraph(surroundings(tmp_path, overlapping=True))
    with pytest.raises(RecipeError, match="2d"):
        ScanGraph(surroundings(tmp_path, spacing_mm=(1.0, 1.0)))


def test_a_blend_of_zero_is_the_teacher(tmp_path, corrector):
    off = ScanGraph(surroundings(tmp_path, "scan_graph.blend=0"))
    off.votes, off._scans = corrector.votes, corrector._scans
    given = teaching([Place((4, 3, 6))])
    torch.testing.assert_close(off(given).softmax(1), given.logits.softmax(1))


def test_a_training_makes_links_and_votes_once_and_opens_no_hidden_label(tiny_copy, capsys):
    overrides = ["pseudo_label.correct=['scan_graph']", "schedule.pretrain_steps=1",
                 "schedule.selftrain_steps=1"]  # fmt: skip
    folder = next((tiny_copy / "preprocessed").glob("*/gnnunetPlans_3d_fullres"))
    for case in ("case_02", "case_03"):  # a reader would fail, and so would a changed size
        for name in (f"{case}_seg.b2nd", f"{case}.pkl"):
            (folder / name).write_bytes(b"x" * (folder / name).stat().st_size)
    train_in(tiny_copy, "BCPTrainer", overrides=overrides, n_labeled=2)
    assert "no link" not in capsys.readouterr().err
    made = folder.parent / "scan_graph" / folder.name
    links = {path: path.stat().st_mtime_ns for path in made.glob("*.b2nd")}
    votes = {path: path.stat().st_mtime_ns for path in (made / "votes").iterdir()}
    n_unlabeled = 3 + 2  # scans without label, and those whose label the draw leaves out
    assert (len(links), len(votes)) == (2 * n_unlabeled, n_unlabeled)
    train_in(tiny_copy, "BCPTrainer", overrides=overrides, n_labeled=2, mode="restart")
    assert {path: path.stat().st_mtime_ns for path in (*links, *votes)} == links | votes


def test_a_training_carries_labeled_scans_to_the_shape_of_unlabeled_ones(tiny_copy):
    folder = next((tiny_copy / "preprocessed").glob("*/gnnunetPlans_3d_fullres"))
    for case in ("case_02", "case_03"):
        for name in (f"{case}_seg.b2nd", f"{case}.pkl"):
            (folder / name).write_bytes(b"x" * (folder / name).stat().st_size)
    overrides = ["schedule.pretrain_steps=2", "schedule.selftrain_steps=0"]
    plain = train_in(tiny_copy, "SupervisedTrainer", overrides=overrides, n_labeled=2)
    paired = train_in(
        tiny_copy, "SupervisedTrainer", overrides=[*overrides, "scan_graph.pairs=0.7"], n_labeled=2
    )
    first, second = (
        torch.load(next(path.rglob("checkpoint_final.pth")), weights_only=False)["network_weights"]
        for path in (plain.model, paired.model)
    )
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_rounds_solve_the_graph_with_the_teacher_and_survive_a_stop(tiny_copy, monkeypatch):
    from graphnn_unet.pseudo_labels import scan_graph as module

    calls, n_files = [], []
    solve = module.solve_round

    def counted(*arguments, **keywords):
        solve(*arguments, **keywords)
        calls.append(arguments[4].name)
        n_files.append(len(list(arguments[4].glob("*.b2nd"))))

    monkeypatch.setattr(module, "solve_round", counted)
    overrides = [
        "pseudo_label.correct=['scan_graph']", "scan_graph.rounds=2", "scan_graph.neighbors=2",
        "schedule.pretrain_steps=1", "schedule.selftrain_steps=4", "schedule.steps_per_epoch=1",
    ]  # fmt: skip
    stale = tiny_copy / "whole" / "fold_all" / "scan_graph" / "round_0" / module.ROUND_DONE
    stale.parent.mkdir(parents=True)
    stale.touch()  # of a run that was killed before its first checkpoint
    whole = train_in(
        tiny_copy, "BCPTrainer", overrides=overrides, n_labeled=2, output=tiny_copy / "whole"
    )
    assert calls == ["round_0", "round_1"]
    assert n_files == [5, 5]
    assert not list(whole.model.rglob("scan_graph"))  # nothing reads them any more

    train_step = BCPTrainer.train_step

    def stopped(self, batch):
        if self.step == 2:
            raise KeyboardInterrupt
        return train_step(self, batch)

    calls.clear()
    monkeypatch.setattr(BCPTrainer, "train_step", stopped)
    other = {"overrides": overrides, "n_labeled": 2, "output": tiny_copy / "other"}
    with pytest.raises(KeyboardInterrupt):
        train_in(tiny_copy, "BCPTrainer", **other)
    monkeypatch.setattr(BCPTrainer, "train_step", train_step)
    train_in(tiny_copy, "BCPTrainer", mode="continue", **other)
    assert calls.count("round_0") == 1
    first, second = (
        torch.load(next(path.rglob("checkpoint_final.pth")), weights_only=False)["network_weights"]
        for path in (whole.model, tiny_copy / "other")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
