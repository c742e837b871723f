"""The student: who is decayed, what is stored, what is deployed, and what it costs to use it."""

import pytest
import torch
from networks.small_networks import images, planned_network
from torch import nn

from graphnn_unet.errors import InputError
from graphnn_unet.networks.features import Tap
from graphnn_unet.networks.hook import AlignedUNet
from graphnn_unet.trainers.student import Student


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.weight = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(2))

    def no_weight_decay(self):
        return {"gate"}


def test_modules_name_the_parameters_that_are_not_decayed():
    head = nn.Sequential(Gated(), nn.Linear(2, 2))
    student = Student(AlignedUNet(planned_network("plain", 2)), {"head": head})
    decayed, free = student.parameter_groups(0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in free["params"]} == {id(student.network.align.gate), id(head[0].gate)}
    n_parameters = len(list(student.parameters()))
    assert len(decayed["params"]) == n_parameters - 2
    assert len(Student(nn.Linear(1, 1), {}).parameter_groups(0.1)) == 1


def test_network_comes_first_so_that_states_of_optimizers_stay_readable():
    student = Student(nn.Linear(1, 1), {"a": nn.Linear(2, 2), "b": nn.Linear(3, 3)})
    (group,) = student.parameter_groups(0.0)
    assert [tuple(p.shape) for p in group["params"]] == [(1, 1), (1,), (2, 2), (2,), (3, 3), (3,)]


def test_state_holds_network_and_heads_apart_and_restores_both():
    student = Student(nn.Linear(1, 1), {"head": nn.Linear(2, 2)})
    state = student.state()
    assert set(state["network"]) == {"weight", "bias"}
    other = Student(nn.Linear(1, 1), {"head": nn.Linear(2, 2)})
    other.load(state)
    assert torch.equal(other.network.weight, student.network.weight)
    assert torch.equal(other.heads["head"].weight, student.heads["head"].weight)


def test_a_head_that_the_state_lacks_is_named():
    state = Student(nn.Linear(1, 1), {}).state()
    with pytest.raises(InputError, match="no head 'projector'"):
        Student(nn.Linear(1, 1), {"projector": nn.Linear(1, 1)}).load(state)


def test_prediction_with_and_without_features_is_the_same():
    student = Student(planned_network("plain", 2), {}).eval()
    image = images(2, 2)
    plain, none = student.predict(image)
    output, features = student.predict(image, [Tap("decoder", 0)])
    assert not none
    assert torch.equal(plain, output)
    assert features[Tap("decoder", 0)].shape[2:] == image.shape[2:]


def test_compiled_network_keeps_the_names_of_its_weights(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda m: lambda x: (calls.append(1), m(x))[1])
    student = Student(nn.Linear(1, 1), {})
    student.compile_network()
    student.predict(torch.zeros(1, 1))
    assert calls == [1]
    assert set(student.state()["network"]) == {"weight", "bias"}
