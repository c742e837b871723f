import pytest
import torch
from torch import nn

from graphnn_unet.trainers.teacher import Teacher


def _net(value):
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, value)
    return net


@pytest.mark.parametrize(
    ("warmup", "expected"), [(False, [1.01, 1.0299, 1.059601]), (True, [2.0, 2.5, 3.0])]
)
def test_average_equals_the_hand_worked_values(warmup, expected):
    teacher = Teacher(_net(1.0), 0.99, warmup)
    for student, value in zip((2.0, 3.0, 4.0), expected, strict=True):
        teacher.update(_net(student))
        assert float(teacher.network.weight.detach()) == pytest.approx(value, rel=1e-6)


def test_buffers_follow_and_integers_are_copied():
    teacher = Teacher(nn.BatchNorm1d(2), 0.9, False)
    student = nn.BatchNorm1d(2)
    student.running_mean += 1
    student.num_batches_tracked += 5
    teacher.update(student)
    assert teacher.network.running_mean.tolist() == pytest.approx([0.1, 0.1])
    assert int(teacher.network.num_batches_tracked) == 5


def test_teacher_is_in_evaluation_and_takes_no_gradient():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
    teacher = Teacher(network, 0.99, False)
    images = torch.randn(4, 1, 3, 3)
    together = teacher.predict(images)[0]
    alone = teacher.predict(images[:1])[0]
    assert torch.equal(together[:1], alone)
    assert not any(p.requires_grad for p in teacher.network.parameters())


def test_reset_takes_the_students_weights():
    teacher = Teacher(_net(1.0), 0.99, True)
    teacher.update(_net(5.0))
    teacher.reset(_net(7.0))
    assert float(teacher.network.weight.detach()) == 7.0
    assert teacher.updates == 0


def test_heads_are_averaged_like_the_network_and_restored():
    teacher = Teacher(_net(1.0), 0.5, False, {"head": _net(1.0)})
    teacher.update(_net(3.0), {"head": _net(5.0), "other": _net(9.0)})
    assert float(teacher.heads["head"].weight) == 3.0
    other = Teacher(_net(0.0), 0.5, False, {"head": _net(0.0)})
    other.load_state_dict(teacher.state_dict())
    assert float(other.heads["head"].weight) == 3.0
    assert other.updates == 1


def test_states_from_before_heads_were_averaged_are_read():
    teacher = Teacher(_net(1.0), 0.5, False)
    teacher.load_state_dict({"weights": _net(4.0).state_dict(), "updates": 7})
    assert float(teacher.network.weight) == 4.0
