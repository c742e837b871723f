"""The base of the methods: what a subclass may override, and what it must not override in vain."""

import ast
import inspect

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tiny_study import REPOSITORY
from torch import nn
from trainers.small_trainers import make_trainer

from graphnn_unet.errors import InputError
from graphnn_unet.plans.recipe import known_sections
from graphnn_unet.settings import Section
from graphnn_unet.trainers import (
    BCPTrainer,
    MeanTeacherTrainer,
    PseudoLabelTrainer,
    SupervisedTrainer,
)
from graphnn_unet.trainers.batch import Phase
from graphnn_unet.trainers.nnunet_hooks import CALLED_HOOKS

HOOKS = [
    name for name, value in vars(nnUNetTrainer).items()
    if (inspect.isfunction(value) or isinstance(value, staticmethod)) and name[:2] != "__"
]  # fmt: skip


def called_names() -> set[str]:
    """Methods that the product calls on a trainer, or nnU-Net does where it runs our trainers."""
    names = {"run_training", "perform_actual_validation", "load_checkpoint", "save_checkpoint",
             "print_to_log_file"}  # fmt: skip  # by nnunetv2.run.run_training and nnU-Net's methods
    for path in (REPOSITORY / "graphnn_unet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                names.add(node.func.attr)
            if isinstance(node, ast.Attribute) and node.attr == "build_network_architecture":
                names.add(node.attr)
    return names


def test_hooks_that_are_said_to_be_called_are_called():
    assert CALLED_HOOKS - {"__init__"} <= called_names()
    assert CALLED_HOOKS - {"__init__"} <= set(HOOKS)
    assert len(set(HOOKS) - CALLED_HOOKS) >= 15


@pytest.mark.parametrize("name", sorted(set(HOOKS) - CALLED_HOOKS))
def test_overriding_a_hook_that_is_never_called_is_refused(name):
    with pytest.raises(InputError, match=f"Mine.{name} would never be called: .*(Use|Take)"):
        type("Mine", (SupervisedTrainer,), {name: lambda self: None})


@pytest.mark.parametrize("name", sorted(CALLED_HOOKS - {"__init__", "build_network_architecture"}))
def test_overriding_a_hook_that_is_called_is_allowed(name):
    mine = type("Mine", (SupervisedTrainer,), {name: lambda self, *a, **k: "mine"})
    assert getattr(mine, name)(None) == "mine"


def test_message_names_what_to_override_instead():
    with pytest.raises(InputError, match="Use end_epoch instead"):
        type("Mine", (BCPTrainer,), {"on_epoch_end": lambda self: None})


@pytest.mark.parametrize("name", ["on_epoch_start", "on_train_epoch_start"])
def test_nothing_stands_for_the_start_of_an_epoch(name):
    with pytest.raises(InputError, match="Take it out"):
        type("Mine", (BCPTrainer,), {name: lambda self: None})


def test_sections_of_two_methods_do_not_share_a_name():
    class Mine(Section):
        value: int = 1

    with pytest.raises(InputError, match=r"'graph' of Mine has the name of another one"):
        type("MineTrainer", (BCPTrainer,), {"sections": {"graph": Mine}})
    with pytest.raises(InputError, match=r"'batch' of Mine"):
        type("MineTrainer", (BCPTrainer,), {"sections": {"batch": Mine}})
    assert known_sections()["graph"] is not Mine


def test_heads_change_no_weight_of_the_network(tiny_home, monkeypatch):
    class WithHead(BCPTrainer):
        averaged_heads = ("extra",)

        def heads(self, network):
            return {"extra": nn.Linear(3, 3)}

    plain = make_trainer(BCPTrainer, tiny_home, monkeypatch)
    more = make_trainer(WithHead, tiny_home, monkeypatch)
    ours, theirs = more.network.state_dict(), plain.network.state_dict()
    assert all((ours[key] == theirs[key]).all() for key in theirs)
    averaged, head = more.teacher.heads["extra"], more.student.heads["extra"]
    assert (averaged.weight == head.weight).all()
    assert averaged.weight is not head.weight


def test_head_that_is_averaged_follows_and_is_in_the_checkpoint(tiny_home, monkeypatch):
    class WithHead(BCPTrainer):
        averaged_heads = ("extra",)

        def heads(self, network):
            return {"extra": nn.Linear(3, 1)}

        def batch_loss(self, batch, phase):
            loss = super().batch_loss(batch, phase)
            loss.total = loss.total + self.student.heads["extra"].weight.square().sum()
            return loss

    trainer = make_trainer(WithHead, tiny_home, monkeypatch, "teacher.ema=0.5")
    trainer.step = trainer.phases()[1].start
    before = trainer.teacher.heads["extra"].weight.clone()
    trainer.train_step(next(iter(trainer.loader(trainer.phase))))
    after = trainer.student.heads["extra"].weight.detach()
    assert not (after == before).all()
    expected = (before + after) / 2
    assert (trainer.teacher.heads["extra"].weight - expected).abs().max() < 1e-6
    state = trainer.state()["gnnunet"]
    assert set(state["teacher"]["heads"]) == set(state["heads"]) == {"extra"}


UNEQUAL = ["batch.labeled=4", "batch.unlabeled=6"]


@pytest.mark.parametrize("cls", [BCPTrainer, PseudoLabelTrainer])
def test_kinds_of_image_that_are_mixed_must_be_as_many(tiny_home, monkeypatch, cls):
    words = r"batch\.labeled = 4 and batch\.unlabeled = 6 cannot be mixed: .*unlabeled=4"
    with pytest.raises(InputError, match=words):
        make_trainer(cls, tiny_home, monkeypatch, *UNEQUAL)


@pytest.mark.parametrize(
    ("cls", "overrides"),
    [
        (MeanTeacherTrainer, []),  # mixes none
        (SupervisedTrainer, []),
        (BCPTrainer, ["scan_labels.rounds=1"]),  # unlabeled scans are among the labeled images
        (BCPTrainer, ["schedule.selftrain_steps=0"]),
    ],
)
def test_others_may_differ(tiny_home, monkeypatch, cls, overrides):
    trainer = make_trainer(cls, tiny_home, monkeypatch, *UNEQUAL, *overrides)
    trainer.step = trainer.phases()[-1].start
    trainer.patches_of = lambda phase: trainer.dataset  # no scan has been labeled
    terms = trainer.train_step(next(iter(trainer.loader(trainer.phase))))
    assert torch.isfinite(terms["loss"])


def test_unlabeled_images_are_shared_where_a_phase_loads_them(tiny_home, monkeypatch):
    """Whatever the method says about itself."""

    class Own(SupervisedTrainer):
        def phases(self):
            return [Phase("own", 0, 3, True)]

    with pytest.raises(InputError, match=r"batch\.unlabeled = 6 cannot be shared by 2 processes"):
        make_trainer(Own, tiny_home, monkeypatch, *UNEQUAL, n_processes=2)
    make_trainer(
        BCPTrainer, tiny_home, monkeypatch, *UNEQUAL, "scan_labels.rounds=1", n_processes=2
    )
