"""Learning rates against torch's own schedulers, clipping, and the watch for divergence."""

import pytest
import torch
from torch import nn

from graphnn_unet.errors import DivergedError
from graphnn_unet.plans.recipe import Optimizer, load_recipe, resolve
from graphnn_unet.trainers.optimization import (
    LossWatch,
    learning_rate,
    make_optimizer,
    update_weights,
)


def rates_of(scheduler: torch.optim.lr_scheduler.LRScheduler, n_steps: int) -> list[float]:
    rates = []
    for _ in range(n_steps):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def sgd(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], rate)


def test_step_schedule_is_torchs_step_lr():
    settings = Optimizer(lr=0.01, schedule="step", step_size=5, gamma=0.1)
    expected = rates_of(torch.optim.lr_scheduler.StepLR(sgd(0.01), 5, 0.1), 17)
    assert [learning_rate(settings, step, 17) for step in range(17)] == pytest.approx(expected)


def test_poly_schedule_is_torchs_polynomial_lr():
    settings = Optimizer(lr=0.02, schedule="poly")
    expected = rates_of(torch.optim.lr_scheduler.PolynomialLR(sgd(0.02), 20, 0.9), 20)
    assert [learning_rate(settings, step, 20) for step in range(20)] == pytest.approx(expected)


def test_constant_schedule_stays():
    settings = Optimizer(lr=0.02, schedule="constant")
    assert {learning_rate(settings, step, 20) for step in range(20)} == {0.02}


def test_the_learning_rate_of_the_left_atrium_falls_by_ten_every_2500_steps():
    """1e-2, 1e-3 from 2 500 on ... 1e-7 from 12 500 on."""
    settings = resolve(load_recipe("la_paper")).optimizer
    rates = [learning_rate(settings, step, 15_000) for step in (0, 2499, 2500, 5000, 12500)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4, 1e-7])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_groups_keep_their_own_weight_decay(name):
    groups = [
        {"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.3},
        {"params": [nn.Parameter(torch.ones(1))], "weight_decay": 0.0},
    ]
    optimizer = make_optimizer(groups, Optimizer(name=name, lr=0.1))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]


def test_gradients_are_clipped_together_and_a_step_that_is_not_finite_is_left_out():
    parameters = [nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))]
    optimizer = torch.optim.SGD(parameters, 1.0)
    assert update_weights(3 * parameters[0] + 4 * parameters[1], optimizer, 1.0, None)
    assert [float(p) for p in parameters] == pytest.approx([-0.6, -0.8], rel=1e-4)
    before = [float(p) for p in parameters]
    optimizer.zero_grad()
    assert not update_weights(float("nan") * parameters[0] + parameters[1], optimizer, 1.0, None)
    assert [float(p) for p in parameters] == before


def test_only_losses_in_a_row_that_are_not_finite_stop_a_training():
    watch, taken = LossWatch(), torch.tensor(True)
    values = [1.0, float("nan"), float("inf"), 2.0, float("nan"), float("nan"), 1.0, 1.0]
    for step, value in enumerate(values):
        watch.add(step, torch.tensor(value), taken, ["a"])
    for step in range(8, 12):
        watch.add(step, torch.tensor(float("nan")), taken, ["b"])
    with pytest.raises(DivergedError, match=r"3 steps in a row \(step 10, cases b\)"):
        watch.add(12, torch.tensor(1.0), taken, ["c"])


def test_steps_that_are_left_out_for_long_stop_a_training():
    """Some in a row are how a scaler of half precision finds its factor."""
    watch, loss = LossWatch(), torch.tensor(1.0)
    for step in range(60):
        watch.add(step, loss, torch.tensor(step % 18 == 17), ["a"])  # 53 was taken, 54 to 59 not
    for step in range(60, 75):
        watch.add(step, loss, torch.tensor(False), ["b"])
    with pytest.raises(DivergedError, match=r"gradients were not finite in 20 steps.*cases b"):
        watch.add(75, loss, torch.tensor(False), ["b"])


def test_sgd_without_momentum_does_not_look_ahead():
    groups = [{"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.0}]
    plain, usual = (
        make_optimizer(groups, Optimizer(lr=0.1, momentum=momentum)) for momentum in (0, 0.9)
    )
    assert (plain.defaults["nesterov"], usual.defaults["nesterov"]) == (False, True)
